"""Running a stage over all shards: skip finished ones, do the rest here or on workers, report failures."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deepfits.errors import InputError, ShardsFailedError, listed, no_space
from deepfits.files import MANIFEST, remove_leftovers
from deepfits.progress import Progress, Task
from deepfits.provenance import code
from deepfits.scale.cluster import CANCELLED, Workers, connect, lost_scheduler
from deepfits.scale.manifest import Entry, Manifest
from deepfits.scale.work import (
    OtherCodeError,
    Outcome,
    Parts,
    Shard,
    Work,
    attempt,
    attempt_in_worker,
    describe,
    overlapped,
    thread_safe,
)

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
HERE = Workers()
AHEAD = 2  # tasks submitted per worker, including the one in progress

IsDone = Callable[[Path, str], bool]
Execute = Callable[[list[Shard], Task], Iterator[tuple[Shard, Outcome]]]
REMEDY = "Repair or remove these shards and run the same command again; it skips finished shards"


def run_shards(
    work: Work | Execute,
    shards: Sequence[Shard],
    directory: Path,
    *,
    title: str,
    is_done: IsDone,
    progress: Progress,
    workers: Workers = HERE,
    unreadable: Mapping[str, str] | None = None,
    suffix: str = ".parquet",
    remedy: str = REMEDY,
) -> bool:
    """Process all shards that are not done; return whether there were any.

    `work` writes ``directory/NAME.parquet`` atomically, or is a function that processes the shards in its own
    way (for instance all shards of a field together). `is_done` tells whether a file is a complete result
    with the given digest, where the manifest does not know. `unreadable` are the shards that cannot be
    opened, with the reasons, and `remedy` is the advice to the user if shards fail.

    Raises
    ------
    ShardsFailedError
        Some shards failed; all others are done. The manifest contains the reasons.
    InputError
        The disk is full or the scheduler was lost (completed shards are kept), or there is a result of a
        shard that does not exist.
    """
    unreadable = dict(unreadable or {})
    manifest, names = Manifest(directory), {*unreadable, *(shard.name for shard in shards)}
    for path in sorted(directory.glob(f"shard-*{suffix}")):
        if path.name.removesuffix(suffix) not in names:
            raise InputError(
                f"{path}: result of a shard that no longer exists; remove it, or choose another directory"
            )
    manifest.keep_only(names)
    paths = {shard.name: directory / f"{shard.name}{suffix}" for shard in shards}
    todo = [shard for shard in shards if not _is_done_already(manifest, shard, paths[shard.name], is_done)]
    for name, reason in unreadable.items():
        manifest.put(Entry(shard=name, state="failed", reason=reason))
    outcomes = partial(_outcomes, work, workers) if isinstance(work, Work) else work
    total, left = (sum(shard.objects for shard in part) for part in (shards, todo))
    try:
        manifest.save()
        with progress(title, total=total, unit="objects", done=total - left) as task:
            for shard, outcome in outcomes(todo, task):
                _record(manifest, shard, outcome, paths[shard.name])
                if outcome.stops:
                    raise _no_space(directory, outcome.reason, manifest)
    except OSError as error:
        if no_space(error) is None:
            raise
        raise _no_space(directory, describe(error), manifest) from error
    finally:
        try:
            manifest.save()
        except OSError as error:  # a full disk must not hide the original error
            log.warning(
                "%s: not written (%s); results missing from it are still recognised", manifest.path, error
            )
    if failed := manifest.failed():
        reasons = listed([f"{entry.shard}: {entry.reason}" for entry in failed], joint="; ")
        raise ShardsFailedError(
            f"{directory}: {len(failed)} of {len(names)} shards failed, the others are done: {reasons}. All "
            f"reasons are listed in {MANIFEST}. {remedy}"
        )
    if todo:
        remove_leftovers(directory)
    return bool(todo)


def _is_done_already(manifest: Manifest, shard: Shard, path: Path, is_done: IsDone) -> bool:
    """Return whether the result exists, and update the manifest."""
    known = manifest.entries.get(shard.name)
    num_bytes = path.stat().st_size if path.exists() else None
    wanted = ("done", shard.made_from, num_bytes)
    if num_bytes is not None and known and (known.state, known.made_from, known.num_bytes) == wanted:
        return True
    entry = Entry(shard=shard.name, state="missing", objects=shard.objects, made_from=shard.made_from)
    if is_whole := is_done(path, shard.made_from):
        entry = replace(entry, state="done", num_bytes=num_bytes)
    elif path.exists():
        log.info("%s: its input has changed or it is damaged; making it again", path)
    manifest.put(entry)
    return is_whole


def _record(manifest: Manifest, shard: Shard, outcome: Outcome, path: Path) -> None:
    entry = Entry(
        shard=shard.name,
        state="missing" if outcome.stops else "failed" if outcome.reason else "done",
        objects=shard.objects,
        seconds=round(outcome.seconds, 3),
        reason=outcome.reason,
        made_from=shard.made_from,
        num_bytes=None if outcome.reason else path.stat().st_size,
    )
    if outcome.reason:
        log.warning("%s: %s", shard.name, outcome.reason)
    manifest.put(entry)
    if not outcome.stops:
        manifest.save_when_due()


def _no_space(directory: Path, reason: str, manifest: Manifest) -> InputError:
    states = [entry.state for entry in manifest.entries.values()]
    return InputError(f"{directory}: {states.count('done')} of {len(states)} shards are done: {reason}")


def _outcomes(work: Work, workers: Workers, todo: list[Shard], task: Task) -> Iterator[tuple[Shard, Outcome]]:
    """Process the shards, and yield each with its outcome once it is known."""
    if not todo:
        return
    if workers.is_here:
        process, advance = work.open(), thread_safe(task.advance)
        if isinstance(process, Parts):
            yield from overlapped(process, todo, advance)
        else:
            yield from ((shard, attempt(process, shard, advance)) for shard in todo)
        return
    with connect(workers) as client:
        for shard, outcome in _on_workers(client, work, todo):
            task.advance(shard.objects)
            yield shard, outcome


def _on_workers(client: Client, work: Work, todo: list[Shard]) -> Iterator[tuple[Shard, Outcome]]:
    """Process shards on the workers; each whose worker died repeatedly is tried once more, alone.

    Dask counts the death of a worker for all shards that wait there. If as many in a row as can wait together
    die alone too, the workers are too small, and no more are tried again.
    """
    run, killed = uuid.uuid4().hex, list[tuple[Shard, Outcome]]()
    most, deaths = AHEAD * max(1, len(client.nthreads())), 0
    for shard, outcome in _tried(client, work, todo, run):
        if outcome.is_killed:
            killed.append((shard, outcome))
        else:
            yield shard, outcome
    for lost in killed:
        for shard, outcome in _tried(client, work, [lost[0]], run) if deaths < most else [lost]:
            deaths = deaths + 1 if outcome.is_killed else 0
            yield shard, outcome


def _tried(client: Client, work: Work, todo: list[Shard], run: str) -> Iterator[tuple[Shard, Outcome]]:
    """Submit shards to the workers, `AHEAD` per worker at a time, and yield each with its outcome.

    This limits the load on the scheduler for any number of shards. Shards are started in order, so that
    consecutive shards of one field are processed while its files are open.
    """
    from distributed import wait

    left, wanted = iter(todo), code()
    pending: dict[Future, Shard] = {}
    has_workers = True
    while True:
        try:
            with client.as_current():
                number = len(client.nthreads())
                if has_workers and not number:
                    log.warning("the Dask scheduler has no workers; waiting for them")
                has_workers = number > 0
                for shard in islice(left, max(0, AHEAD * max(1, number) - len(pending))):
                    pending[client.submit(attempt_in_worker, work, shard, wanted, run, pure=False)] = shard
                if not pending:
                    return
                done = wait(list(pending), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        except (*CANCELLED, OSError) as error:  # Dask's CommClosedError is an OSError
            raise lost_scheduler() from error
        while done:
            future = done.pop()
            shard = pending.pop(future)
            outcome = _result(client, future, shard)
            del future  # else Dask would repeat it when its worker dies
            yield shard, outcome


def _result(client: Client, future: Future, shard: Shard) -> Outcome:
    """Return a shard's outcome; the death of its worker counts as a failure of the shard."""
    from distributed import KilledWorker

    try:
        outcome: Outcome = future.result()
        return outcome
    except OtherCodeError:  # every shard would fail in the same way
        raise
    except KilledWorker as error:
        reason = (
            f"its worker died {error.allowed_failures + 1} times (out of memory?); try fewer workers, or "
            "smaller shards"
        )
        return Outcome(shard=shard.name, seconds=0.0, reason=reason, is_killed=True)
    except (Exception, *CANCELLED) as error:  # for instance, the worker could not load the task
        is_lost = client.status != "running" or future.status in ("cancelled", "lost")
        if is_lost and isinstance(error, (*CANCELLED, OSError)):
            raise lost_scheduler() from error
        reason = describe(error)
    return Outcome(shard=shard.name, seconds=0.0, reason=reason)
