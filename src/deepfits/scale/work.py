"""Processing of single shards, in this process or in a worker.

`Work` is an object that can be sent to another process, where it is opened once. The result is a function
that turns a shard into files. An error in one shard is recorded as the reason in its line of the manifest;
errors that concern all shards (no space left) stop the run.
"""

import logging
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from deepfits.errors import InputError, explain, no_space
from deepfits.provenance import code

log = logging.getLogger(__name__)

Advance = Callable[[int], None]


def thread_safe(advance: Advance) -> Advance:
    """Return a version of `advance` that may be called from several threads."""
    lock = Lock()

    def locked(number: int) -> None:
        with lock:
            advance(number)

    return locked


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The input for one result."""

    name: str
    objects: int  # number of objects in the result
    made_from: str  # digest of the inputs
    # Further information for the work; small, because it is sent to the worker.
    content: Any = field(default=None, compare=False)


Process = Callable[[Shard, Advance], None]


@dataclass(frozen=True)
class Parts:
    """A process split into reading, computing and writing, so that these can overlap: see `overlapped`.

    `work` gets what `read` returns, and `write` atomically writes what `work` returns.
    """

    read: Callable[[Shard], Any]
    work: Callable[[Shard, Any, Advance], Any]
    write: Callable[[Shard, Any], None]

    def __call__(self, shard: Shard, advance: Advance) -> None:
        """Read, compute and write a shard without overlap."""
        self.write(shard, self.work(shard, self.read(shard), advance))


@runtime_checkable
class Work(Hashable, Protocol):
    """Work to be done on every shard: hashable, and small when pickled."""

    def open(self, threads: int | None = None) -> Process:
        """Load what all shards need, once per process, and return the function that processes a shard."""


@dataclass(frozen=True)
class Here:
    """Work for this process only, where what all shards need is loaded already."""

    make: Callable[[], Process]

    def open(self, threads: int | None = None) -> Process:
        """Return the function that processes a shard."""
        return self.make()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of one shard; `stops` if the other shards would fail in the same way.

    It `is_killed` if its worker died repeatedly, be it because of another shard there.
    """

    shard: str
    seconds: float
    reason: str = ""
    stops: bool = False
    is_killed: bool = False


def attempt(process: Process, shard: Shard, advance: Advance) -> Outcome:
    """Process one shard; an error becomes the outcome's reason."""
    return _outcome(shard, time.perf_counter(), lambda: process(shard, advance))


def _outcome(shard: Shard, begin: float, finish: Callable[[], object]) -> Outcome:
    """Call `finish`, the last step of a shard begun at `begin`, and return the outcome."""
    try:
        finish()
    except Exception as error:
        return _failure(shard, begin, error)
    return Outcome(shard=shard.name, seconds=time.perf_counter() - begin)


def _failure(shard: Shard, begin: float, error: Exception) -> Outcome:
    log.debug("%s failed", shard.name, exc_info=error)
    stops = no_space(error) is not None
    return Outcome(shard=shard.name, seconds=time.perf_counter() - begin, reason=describe(error), stops=stops)


def overlapped(parts: Parts, shards: Sequence[Shard], advance: Advance) -> Iterator[tuple[Shard, Outcome]]:
    """Process shards in order, while the next is being read and the previous one written.

    Outcomes are yielded in order, each after its result has been written. At most three shards are in memory.
    If the generator is closed or interrupted, it waits for the file that is being written and starts no
    other.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        upcoming: Future[Any] | None = reader.submit(parts.read, shards[0])
        writing: tuple[Shard, float, Callable[[], None]] | None = None
        for number, shard in enumerate(shards):
            begin, failure, result = time.perf_counter(), None, None
            assert upcoming is not None
            current, upcoming = upcoming, None
            wait([current])
            if number + 1 < len(shards):
                upcoming = reader.submit(parts.read, shards[number + 1])
            try:
                result = parts.work(shard, current.result(), advance)
            except Exception as error:
                failure = _failure(shard, begin, error)
            del current
            if writing is not None:
                yield writing[0], _outcome(*writing)
                writing = None
            if failure is not None:
                yield shard, failure
            else:
                writing = shard, begin, writer.submit(parts.write, shard, result).result
            result = None
        if writing is not None:
            yield writing[0], _outcome(*writing)


def describe(error: BaseException) -> str:
    """Describe an error in one line, with its place in the code if it is a bug in deepfits."""
    if (known := explain(error)) is not None:
        return " ".join(known.split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


_one_at_a_time = Lock()


@lru_cache(maxsize=1)
def _opened(work: Work, threads: int, run: str) -> Process:
    return work.open(threads)


def attempt_in_worker(work: Work, shard: Shard, wanted: str, run: str) -> Outcome:
    """Process one shard in a worker, which keeps the work open so that the model is loaded only once.

    It is opened anew for each `run`, the name of a call of `run_shards`, since workers may live on while the
    files at the paths of a work change.

    Only one shard at a time is processed in a worker, whatever its number of threads, because the fit itself
    uses them all. Raise `OtherCodeError` if this worker runs different code than `wanted`, the value of
    `deepfits.provenance.code` in the process that submitted the work.
    """
    from distributed import get_worker

    require_code(wanted)
    threads = get_worker().state.nthreads
    with _one_at_a_time:
        return attempt(lambda *given: _opened(work, threads, run)(*given), shard, lambda number: None)


class OtherCodeError(InputError):
    """A worker has a different version or source code of the package, so that its results could differ."""


def require_code(wanted: str) -> None:
    """Raise, in a worker, if the submitting process runs different code."""
    from distributed import get_worker

    if (here := code()) != wanted:
        raise OtherCodeError(
            f"the worker at {get_worker().address} runs deepfits {here}, but this command is deepfits "
            f"{wanted}: install the same version there and restart the worker"
        )
