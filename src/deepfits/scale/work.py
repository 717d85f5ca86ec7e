"""One shard at a time, whoever does it: in this process, or in a worker's.

A piece of work is an object that can be sent to another process and opened there once (`Work`). Opened, it
turns a shard into files. What goes wrong with one shard becomes the reason in its line of the manifest; what
concerns all of them (no space left) stops the run.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

from deepfits.errors import InputError, missing_extra, no_space
from deepfits.provenance import code

log = logging.getLogger(__name__)

Advance = Callable[[int], None]


def thread_safe(advance: Advance) -> Advance:
    """Let several threads report their progress."""
    lock = Lock()

    def locked(number: int) -> None:
        with lock:
            advance(number)

    return locked


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What goes in, for one result.

    The result will have so many objects; `made_from` is a digest of what it is made from. `content` is what
    the work needs to know beside: small, since it travels.
    """

    name: str
    objects: int
    made_from: str
    content: Any = field(default=None, compare=False)


Process = Callable[[Shard, Advance], None]


@dataclass(frozen=True)
class Parts:
    """A process in three parts, of which the first and the last wait for disks: see `run_shards`.

    The first returns what is worked on, the second what the third writes, whole or not at all.
    """

    read: Callable[[Shard], Any]
    work: Callable[[Shard, Any, Advance], Any]
    write: Callable[[Shard, Any], None]

    def __call__(self, shard: Shard, advance: Advance) -> None:
        """Do one after the other."""
        self.write(shard, self.work(shard, self.read(shard), advance))


class Work(Hashable, Protocol):
    """What is to be done with every shard. Hashable, and small when pickled."""

    def open(self, threads: int | None = None) -> Process:
        """Load what all shards need, once in a process, and return what does one of them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one shard went. `stops` says that the others would go the same way."""

    shard: str
    seconds: float
    reason: str = ""
    stops: bool = False


def attempt(process: Process, shard: Shard, advance: Advance) -> Outcome:
    """Do one shard; an error becomes the outcome's reason."""
    begin = time.perf_counter()
    try:
        process(shard, advance)
    except Exception as error:
        return failure(shard, error, time.perf_counter() - begin)
    return Outcome(shard=shard.name, seconds=time.perf_counter() - begin)


def failure(shard: Shard, error: Exception, seconds: float) -> Outcome:
    """Return the outcome of a shard that an error ended."""
    log.debug("%s failed", shard.name, exc_info=error)
    return Outcome(
        shard=shard.name, seconds=seconds, reason=describe(error), stops=no_space(error) is not None
    )


def overlapped(parts: Parts, shards: Sequence[Shard], advance: Advance) -> Iterator[tuple[Shard, Outcome]]:
    """Do shards one after the other, the next being read and the last being written meanwhile.

    Outcomes come in order, each when its result is written. Three shards are in memory at most. Whoever stops
    listening, or an interrupt, waits for the file that is being written and begins no other.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: Future[Any] | None = reader.submit(parts.read, shards[0])
        writing: tuple[Shard, float, Future[None]] | None = None
        for number, shard in enumerate(shards):
            begin, error, done = time.perf_counter(), None, None
            assert coming is not None
            read, coming = coming, None
            wait([read])
            if number + 1 < len(shards):
                coming = reader.submit(parts.read, shards[number + 1])
            try:
                done = parts.work(shard, read.result(), advance)
            except Exception as raised:
                error = raised
            del read
            if writing is not None:
                yield _written(*writing)
                writing = None
            if error is None:
                writing = shard, begin, writer.submit(parts.write, shard, done)
            else:
                yield shard, failure(shard, error, time.perf_counter() - begin)
            done = None
        if writing is not None:
            yield _written(*writing)


def _written(shard: Shard, begin: float, result: Future[None]) -> tuple[Shard, Outcome]:
    try:
        result.result()
    except Exception as error:
        return shard, failure(shard, error, time.perf_counter() - begin)
    return shard, Outcome(shard=shard.name, seconds=time.perf_counter() - begin)


def describe(error: BaseException) -> str:
    """Describe an error in one line; where it is not the user's, with the place in the code."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if (needed := missing_extra(error)) is not None:
        return needed
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


_one_at_a_time = Lock()


@lru_cache(maxsize=1)
def _opened(work: Work, threads: int) -> Process:
    return work.open(threads)


def attempt_in_worker(work: Work, shard: Shard, wanted: str) -> Outcome:
    """Do one shard in a worker, which keeps the last work open: the model is loaded once.

    Shards take turns in a process, however many threads the worker has: the fit uses them all itself.

    Raises
    ------
    OtherCodeError
        This worker runs other code than `wanted`, what `deepfits.provenance.code` says where the work comes
        from.
    """
    from distributed import get_worker

    require_code(wanted)
    threads = get_worker().state.nthreads
    with _one_at_a_time:
        return attempt(lambda *given: _opened(work, threads)(*given), shard, lambda number: None)


class OtherCodeError(InputError):
    """A worker has another version of the package, or other sources: its results would not be the same."""


def require_code(wanted: str) -> None:
    """Refuse to work, in a worker, for a process that runs other code than this one."""
    from distributed import get_worker

    if (here := code()) != wanted:
        raise OtherCodeError(
            f"the worker at {get_worker().address} runs deepfits {here}, but this command is deepfits "
            f"{wanted}: install the same version there and start the worker again"
        )


def call_in_worker(function: Callable[[Any], Any], job: Any, wanted: str) -> Any:
    """Call a function in a worker that runs the same code."""
    require_code(wanted)
    return function(job)
