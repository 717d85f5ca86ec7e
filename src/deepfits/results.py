"""Records of results: what they were made from, and whether they are complete.

`results` refuses an output that was made from other inputs, with other settings or in another version of the
format, or that contains anything else. Stages that read a result check that it is complete
(`require_finished`).
"""

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from deepfits.errors import InputError
from deepfits.files import (
    CONTENTS,
    MANIFEST,
    contents,
    json_lines,
    read_json,
    refuse_broken_link,
    remove_leftovers,
    write_json,
)
from deepfits.provenance import code

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECORD = "_made_from.json"  # in an output directory
SUFFIX = ".made_from.json"  # of the record of an output file, next to it
LOCK = ".lock-"  # and the name of an output file: a hidden file that exists while the file is being made
UNREADABLE = "unreadable"  # replaces the fingerprint of an input that could not be read and may be repaired

log = logging.getLogger(__name__)
_HELD: dict[str, int] = {}  # what this process has locked, and the thread that holds each


class Results:
    """An output, the directory or file `path`, that this run has claimed.

    It `is_finished` if an earlier run with the same inputs and settings completed.
    """

    def __init__(self, path: Path, record: Path, content: dict[str, Any]) -> None:
        self.path, self._record, self.content = path, record, content
        self._is_file = record.parent != path
        self.is_finished = bool(content["finished"])

    def save(self, *, finished: bool) -> None:
        """Write the record."""
        if finished and self._is_file:
            self.content["written"] = contents(self.path)
        self.content["finished"] = finished
        write_json(self._record, self.content)


@contextmanager
def results(
    out: str | Path,
    stage: str,
    *,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    version: int = 1,
    is_file: bool = False,
    renew: bool = False,
    by_part: Collection[str] = (),
    is_partial: bool = False,
) -> Iterator[Results]:
    """Claim the output of a stage; all stages decide here what may be written and what is kept.

    The output is a directory, which contains its record; or, with `is_file`, one that is written as a unit (a
    file, or a whole directory), with its record next to it. `inputs` are fingerprints by name, from
    `deepfits.files.contents`, and `settings` everything else that affects the result, which is partial if the
    inputs are. It is recorded as finished at the end of the block; after an error it is left unfinished, and
    empty directories are removed.

    Raise `InputError` if the output contains foreign files, another stage's results, or results made from
    other inputs, with other settings or in another version (the first difference is named), or if another
    process is using the directory, or writing the file. With `renew`, for results that take seconds, earlier
    ones of this stage are replaced, and this is logged.

    `by_part` names inputs on whose files only parts of the result depend, which the stage tells apart: if the
    contents of such files differ, but not their names, the result is unfinished, not another one.
    """
    out = Path(out)
    refuse_broken_link(out)
    record = _record_of(out, is_file=is_file)
    made_from = {"stage": stage, "version": version, "inputs": inputs, "settings": settings}
    wanted = json.loads(json.dumps(made_from))
    earlier = _read_record(record)
    if is_file and not out.exists():
        earlier = None  # removed, to start over
    elif not (is_file or (earlier or {}).get("finished")) and _holds_nothing_of_its_own(out):
        earlier = None  # ended before anything was written
    if earlier is not None:
        earlier = _with_changed_parts(out, earlier, wanted, by_part)
    if earlier is None:
        _refuse_foreign(out, is_file=is_file)
    elif not _is_the_same(out, earlier, wanted, is_file=is_file, renew=renew):
        earlier = None
    elif renew and earlier.get("finished") and earlier.get("code") != code():
        log.info("%s: made by another version of deepfits; making it again", out)
        earlier = None
    new_parents = [directory for directory in (out, *out.parents) if not directory.exists()]
    is_kept = earlier is not None and bool(earlier.get("finished")) and out.exists()
    made_by = {"code": code()} if renew else {}
    claimed = Results(out, record, {**wanted, **made_by, "finished": is_kept})
    try:
        with _locked(out, is_file=is_file):
            if is_kept:
                assert earlier is not None
                claimed.content |= {"written": earlier["written"]} if "written" in earlier else {}
            else:
                claimed.save(finished=False)
            if is_file:
                for name in (out.name, record.name):
                    remove_leftovers(out.parent, of=name)
            else:
                remove_leftovers(out)
            try:
                yield claimed
                if is_partial or not is_kept:
                    claimed.save(finished=not is_partial)
            except BaseException:
                _remove_empty(out, record, is_file=is_file)
                raise
    except BaseException:
        for directory in new_parents:
            with suppress(OSError):  # not empty
                directory.rmdir()
        raise


def _with_changed_parts(
    out: Path, earlier: dict[str, Any], wanted: Mapping[str, Any], by_part: Collection[str]
) -> dict[str, Any]:
    """Return an earlier record with the inputs `by_part` of now: unfinished, if they differ."""
    before, now = earlier.get("inputs", {}), wanted["inputs"]
    changed = {
        name: now[name]
        for name in by_part
        if isinstance(before.get(name), dict) and before[name] != now[name]
        if before[name].keys() == now[name].keys()
    }
    if not changed:
        return earlier
    later = {**earlier, "inputs": {**before, **changed}, "finished": False}
    if (difference := _difference(earlier, wanted)) and _difference(later, wanted) is None:
        log.info("%s: %s; making again what depends on it", out, difference)
    return later


def _is_the_same(
    out: Path, earlier: Mapping[str, Any], wanted: Mapping[str, Any], *, is_file: bool, renew: bool
) -> bool:
    """Return whether an earlier result matches; False if it may be remade; else raise an error."""
    if difference := _difference(earlier, wanted):
        is_ours = earlier.get("stage") == wanted["stage"] and (not is_file or _is_as_written(out, earlier))
        if not (renew and is_ours):
            raise InputError(f"{out}: {difference}; choose another output, or remove it to start over")
        log.info("%s: %s; making it again", out, difference)
        return False
    if is_file and not _is_as_written(out, earlier):
        raise InputError(
            f"{out}: this file is not the one that deepfits wrote there; choose another name, or remove it"
        )
    return True


@contextmanager
def _locked(out: Path, *, is_file: bool) -> Iterator[None]:
    """Lock an output against other processes and threads; without a lock if its file system has none.

    A directory is locked itself, which leaves no file behind; for a file, which is replaced as a whole, a
    hidden one beside it is, and removed at the end. Locks end with the process. Worker processes claim no
    outputs; a stage called by another one for the same output shares its lock.
    """
    (out.parent if is_file else out).mkdir(parents=True, exist_ok=True)
    name = os.path.realpath(out.with_name(f"{LOCK}{out.name}") if is_file else out)
    doing = "writing this file" if is_file else "using this directory"
    thread = threading.get_ident()
    holder = _HELD.get(name, thread)
    if holder != thread:
        raise InputError(f"{out}: another thread is {doing}; wait until it ends, or choose another")
    if fcntl is None or name in _HELD:
        yield
        return
    with ExitStack() as stack:
        try:
            _lock(name, stack, is_file=is_file)
        except BlockingIOError:
            raise InputError(
                f"{out}: another process is {doing}; wait until it ends, or choose another"
            ) from None
        except OSError:
            pass
        if is_file:
            stack.callback(Path(name).unlink, missing_ok=True)  # it may not have been made
        _HELD[name] = thread
        stack.callback(_HELD.pop, name, None)
        yield


def _lock(name: str, stack: ExitStack, *, is_file: bool) -> None:
    """Lock a directory, or a file that is made for this, until the stack ends."""
    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT if is_file else os.O_RDONLY, 0o666)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(name)):  # else removed since it was opened
                return


def read_record(out: str | Path) -> dict[str, Any]:
    """Return the record of a result (stage, inputs, settings); empty if there is none."""
    out = Path(out)
    return _read_record(_record_of(out, is_file=not out.is_dir())) or {}


def _record_of(out: Path, *, is_file: bool) -> Path:
    return out.with_name(f"{out.name}{SUFFIX}") if is_file else out / RECORD


def _read_record(record: Path) -> dict[str, Any] | None:
    if not record.exists():
        return None
    content = read_json(record, what="record of a result")
    if not all(isinstance(content.get(key, {}), dict) for key in ("inputs", "settings", "written")):
        raise InputError(f"{record}: not the record of a result; remove it together with the result")
    return content


def _refuse_foreign(out: Path, *, is_file: bool) -> None:
    if is_file:
        if out.exists():
            raise InputError(
                f"{out}: already exists and was not written by deepfits; choose another name, or remove it"
            )
        return
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory")
    others = sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) if out.is_dir() else []
    if others and not ((out / RECORD).exists() and _holds_nothing_of_its_own(out)):
        raise InputError(
            f"{out}: contains {others[0]}, but no record of how it was made ({RECORD}); "
            "choose an empty directory"
        )


def _is_as_written(out: Path, earlier: Mapping[str, Any]) -> bool:
    """Return whether a file is unchanged since it was recorded; True if it is absent or not recorded yet."""
    return not out.exists() or "written" not in earlier or contents(out) == earlier["written"]


def _difference(earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Describe the first difference in a few words; None if there is none."""
    if earlier.get("stage") != wanted["stage"]:
        return f"contains results of `deepfits {earlier.get('stage')}`"
    if earlier.get("version") != wanted["version"]:
        return (
            f"contains results of format {earlier.get('version')}, but this version writes "
            f"{wanted['version']}"
        )
    for name, old, new in _changes(earlier.get("inputs", {}), wanted["inputs"]):
        if old is None or new is None:
            return (
                f"made with{'out' if old is None else ''} {name!r}, now with{'out' if new is None else ''} it"
            )
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return f"its input {name!r} has changed"
        for file, before, now in _changes(old, new):
            if UNREADABLE in (before, now):
                continue
            how = "is new" if before is None else "is no longer among them" if now is None else "differs"
            return f"its input {name!r} has changed" + ("" if file == CONTENTS else f" ({file} {how})")
    for name, old, new in _changes(earlier.get("settings", {}), wanted["settings"]):
        if isinstance(old, dict) and isinstance(new, dict):
            inside = next(_changes(old, new), None)
            if inside is None:
                continue
            key, old, new = inside
            name = f"{name}.{key}"
        if old is None:
            return f"made without {name} = {_short(new)}"
        return f"made with {name} = {_short(old)}, now {'without it' if new is None else _short(new)}"
    return None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each entry that differs, and its values before and now, None if absent."""
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            yield name, before.get(name), now.get(name)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _remove_empty(out: Path, record: Path, *, is_file: bool) -> None:
    """Remove the record of a result that is still empty.

    It is kept beside a manifest, which has the reasons if all shards failed, and because workers of a
    scheduler may write a shard after the command has ended.
    """
    notes = [record] if is_file else _visible(out)
    is_empty = not out.exists() if is_file else all(map(_is_about_results, notes))
    if is_empty and not (out / MANIFEST).exists():
        for path in notes:
            path.unlink(missing_ok=True)


def _holds_nothing_of_its_own(out: Path) -> bool:
    """Return whether a directory holds nothing but files with their own records, such as a catalogue."""
    visible = _visible(out)
    recorded = {path.name.removesuffix(SUFFIX) for path in visible if path.name.endswith(SUFFIX)}
    return all(_is_about_results(p) or p.name.removesuffix(SUFFIX) in recorded for p in visible)


def _visible(directory: Path) -> list[Path]:
    paths = directory.iterdir() if directory.is_dir() else ()
    return [path for path in paths if not path.name.startswith(".")]


def _is_about_results(path: Path) -> bool:
    of = path.with_name(path.name.removesuffix(SUFFIX))
    return path.is_file() and (path.name.startswith("_") or (of != path and not of.exists()))


def require_finished(path: str | Path, *, partial: bool = False) -> bool:
    """Return whether the result of an earlier stage is complete; raise an error if not, unless `partial`.

    Results without a record (from other software, or written through the library) count as complete. The
    message says how much is done and how to finish it.
    """
    path = Path(path)
    content = read_record(path)
    states = Counter(_states(path)) if path.is_dir() else Counter[str]()
    if content.get("finished", True) and states.total() == states["done"]:
        return True
    if not partial:
        stage = content.get("stage", "STAGE")
        done = f" ({states['done']} of {states.total()} shards are done)" if states else ""
        raise InputError(
            f"{path}: is not finished{done}; run the same `deepfits {stage}` again to finish it, or use "
            "what is done (partial=True)"
        )
    log.warning("%s: is not finished; using what is done (partial)", path)
    return False


def warn_of_other_inputs(outputs: Iterable[Path], name: str, now: Iterable[Any]) -> None:
    """Warn of results of which the input of this name has changed: it is none of the fingerprints `now`.

    Results without a record of this input are not judged; `now` is only computed if any has one.
    """
    records = {path: read_record(path) for path in outputs}
    known = {path: record for path, record in records.items() if record.get("inputs", {}).get(name)}
    fingerprints = list(now) if known else []
    for path, record in known.items():
        made_from = record["inputs"][name]
        is_of_shard = CONTENTS in made_from  # a single file, not all of the features
        if made_from not in fingerprints and not is_of_shard:
            log.warning(
                "WARNING: %s: its input %r has changed since it was made; run the same `deepfits %s` again",
                *(path, name, record.get("stage")),
            )


def _states(directory: Path) -> Iterator[str]:
    """Yield the states of the shards in a directory's manifest, skipping damaged lines.

    A shard that is recorded as done but no longer exists is ``missing``.
    """
    stems = {path.name.partition(".")[0] for path in directory.iterdir()}
    for _, line in json_lines(directory / MANIFEST):
        if isinstance(line, dict) and isinstance(line.get("state"), str):
            is_gone = line["state"] == "done" and "shard" in line and line["shard"] not in stems
            yield "missing" if is_gone else line["state"]
