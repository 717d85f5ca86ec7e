"""Files that are whole or absent.

Every output of the package is written under a temporary name beside its final place, flushed to disk and
renamed: a killed process or a full disk leaves the earlier file, or none, but never half of one.

Every result says what it was made from (`results`): a second run with other inputs, other settings or another
version of the format is refused, and so is a place that holds anything else. What reads a result asks whether
it is whole (`require_finished`).
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import logging
import math
import os
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfits.errors import InputError, naming, no_space, one_line

if TYPE_CHECKING:
    import h5py
    import numpy as np

TEMPORARY_PREFIX = ".writing-"
RECORD = "_made_from.json"  # in a directory of results; beside a file, NAME.made_from.json
MANIFEST = "_manifest.jsonl"  # begins with _, so that readers of Parquet directories pass over it
FORMER_MANIFEST = "manifest.jsonl"
WHOLE_BYTES = 2 << 30  # inputs up to this size together are read whole for their fingerprint
SAMPLES, SAMPLE_BYTES = 32, 1 << 16  # of each file of larger ones
CONTENTS = "contents"  # the name of the fingerprint of a single file, since its name does not count
UNREADABLE = "unreadable"  # in place of a fingerprint: this part could not be used, and may be mended
MOST_DIGITS = 20  # of a whole number of 64 bits
LONGEST_LINE = 1 << 20  # of a file of JSON lines
NAMED_FILES = 1000  # a record that would name more files holds one digest of them all

log = logging.getLogger(__name__)


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when the block ends without an error.

    Parameters
    ----------
    path
        The final name. Its directory is made when it does not exist.

    Yields
    ------
    Path
        Where to write: the same directory and the same suffixes, so that libraries which choose a format by
        the name's ending do so. On an error it is removed and `path` stays as it was.

    Raises
    ------
    OSError
        There is no space, whichever library found out: it names `path`; or nothing may be written there: it
        names the directory.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(final.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(final.parent))
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{final.name}")
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and final.is_dir():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except InputError as error:  # whoever writes knows the temporary name alone
        raise InputError(str(error).replace(temporary.name, final.name)) from error
    except Exception as error:  # each library has its own words for a full disk
        if (number := no_space(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(final)) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Give an HDF5 file to fill, and write it to `path` in one go when the block ends without an error.

    It is made in memory: the HDF5 library crashes when it cannot close a file for want of space.
    """
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        yield file
    with writing(path) as temporary:
        temporary.write_bytes(made.getbuffer())


def _flush(path: Path) -> None:
    for name in path.rglob("*") if path.is_dir() else [path]:
        if name.is_file():
            with name.open("rb") as handle:
                os.fsync(handle.fileno())


def remove_leftovers(directory: str | Path, *, of: str = "") -> int:
    """Remove the temporary files that a killed process left in `directory` or below; say how many.

    With `of`, those beside the file of that name alone. Call it only where no other process writes.
    """
    here, pattern = Path(directory), f"{TEMPORARY_PREFIX}*"
    leftovers = list(here.glob(f"{pattern}-{glob.escape(of)}") if of else here.rglob(pattern))
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8), whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all. NaN and infinity are errors: JSON has neither."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, *, what: str = "file", max_bytes: int = 1 << 26) -> dict[str, Any]:
    """Read a JSON object, with errors that name the file.

    Raises
    ------
    InputError
        The file is absent, larger than `max_bytes`, not JSON, or not an object.
    """
    content = parse_json(read_text(path, what=what, max_bytes=max_bytes), where=path, what=what)
    if not isinstance(content, dict):
        raise InputError(f"{path}: this {what} holds no JSON object; write it again")
    return content


def read_text(path: str | Path, *, what: str = "file", max_bytes: int = 1 << 26) -> str:
    """Read a text file (UTF-8), with errors that name it.

    Raises
    ------
    InputError
        The file is absent, no regular file (a pipe, a device, a directory), larger than `max_bytes`, or not
        text.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: this {what} is not a regular file; check the path")
        if status.st_size > max_bytes:
            raise InputError(
                f"{path}: this {what} has {status.st_size} bytes, more than the {max_bytes} allowed"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read this {what} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot read this {what} ({error}); write it again") from error


def parse_json(text: str, *, where: str | Path, what: str = "file") -> Any:
    """Read JSON that others may have written: bounded numbers, no NaN, no nesting without end.

    Raises
    ------
    InputError
        Anything but valid JSON of finite numbers and valid text; `where` is named.
    """
    try:
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():  # half a surrogate pair is no text, and fails where it is printed
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(
            f"{where}: cannot read this {what}: it is nested too deeply; write it again"
        ) from None
    except ValueError as error:  # JSONDecodeError, UnicodeEncodeError, numbers of thousands of digits
        raise InputError(f"{where}: cannot read this {what} ({error}); write it again") from error
    return content


def json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a file of JSON lines, each with what it holds (None where it is damaged).

    Absent is empty: a process that was killed may leave no such file, or half a line.
    """
    if not Path(path).exists():
        return
    require_regular(Path(path))
    with Path(path).open(encoding="utf-8", errors="replace") as handle:
        while line := handle.readline(LONGEST_LINE):
            try:
                yield line.rstrip("\n"), parse_json(line, where=path)
            except InputError:
                yield line.rstrip("\n"), None


@contextmanager
def content_of(path: str | Path, *, what: str = "file") -> Iterator[None]:
    """Use what a file of ours holds, entry by entry; an entry that is absent or of another type names it.

    For records that are only shown. What decides about numbers is declared (`deepfits.config.from_mapping`).
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        problem = f"{type(error).__name__}: {one_line(error, 120)}"
        raise InputError(f"{path}: not the {what} that deepfits writes ({problem}); make it again") from error


def read_arrays(path: str | Path, *, what: str = "file of arrays") -> dict[str, np.ndarray]:
    """Read a NumPy archive (``.npz``) of ours; nothing in it can run code.

    Raises
    ------
    InputError
        No regular file, damaged, or it would take far more memory than it has bytes.
    """
    import numpy as np

    require_regular(Path(path))
    with (
        naming(path, f"damaged {what}", "remove it"),
        Path(path).open("rb") as handle,
        np.load(handle, allow_pickle=False) as file,
    ):
        declared = sum(member.file_size for member in file.zip.infolist())
        if declared > max(1000 * Path(path).stat().st_size, 1 << 26):
            raise InputError(f"{path}: declares {declared} bytes, far more than the file has; remove it")
        return {name: file[name] for name in file.files}


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{text[:40]} is larger than 64 bits hold")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is larger than any number")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def require_regular(path: Path) -> None:
    """Refuse what is not a file: absent, a broken link, a directory, a FIFO or a device, or not to be read.

    Asked before a file is opened: a FIFO would wait forever, a device never ends.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {os.readlink(path)}, which does not exist; restore or remove it")
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; check the path")
    if path.is_dir():
        raise InputError(f"{path}: a directory, where a file is needed")
    if not path.is_file():
        raise InputError(f"{path}: a FIFO, socket or device, not a file; copy the data into a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read; change its permissions (chmod) or leave it out")


def fingerprint(*paths: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        require_regular(path)
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def split_table_path(path: Path) -> tuple[Path, str | None]:
    """Return file and table of ``zcat.fits[ZCATALOG]``, one of several tables; other paths as they are."""
    base, bracket, rest = str(path).rpartition("[")
    is_named = bool(base) and bool(bracket) and rest.endswith("]") and not path.exists()
    return (Path(base), rest[:-1]) if is_named and Path(base).is_file() else (path, None)


def contents(*paths: str | Path) -> dict[str, str]:
    """Fingerprint what is in files and directories, by name: ``{"shard-00000.h5": "84213760 1f0c..."}``.

    Of a store, features or a model the files count that hold them (not logs, reports and checkpoints beside
    them); of any other directory, all files; of ``zcat.fits[A]`` the file, under the name of the table. Up to
    2 GiB everything is read; of more, the size and 32 blocks spread over each file. Times and places do not
    count: a copy is the same input.

    Raises
    ------
    InputError
        A path that is not there.
    """
    files: dict[str, Path] = {}
    for given in map(Path, paths):
        path, table = split_table_path(given)
        if not path.exists():
            raise InputError(f"{path}: no such file or directory; check the path")
        if len(paths) == 1 and path.is_file():
            return contents_of({CONTENTS if table is None else f"table {table}": path})
        for name, file in _data_files(path) if path.is_dir() else [(given.name, path)]:
            files[name if name not in files else f"{given}" if file is path else f"{file}"] = file
    return contents_of(files)


def contents_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Fingerprint files under the names that are given; see `contents`."""
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; check the path")
    is_small = sum(path.stat().st_size for path in files.values()) <= WHOLE_BYTES
    states = {
        name: f"{path.stat().st_size} {fingerprint(path) if is_small else _sample(path)}"
        for name, path in sorted(files.items())
    }
    if len(states) <= NAMED_FILES:
        return states
    digest = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
    return {f"all {len(states)} files": digest}


def _data_files(directory: Path) -> list[tuple[str, Path]]:
    for sign, patterns in (
        ("store.json", ("store.json", "shard-*.h5")),
        ("model.json", ("model.json", "*.safetensors")),
        ("shard-*.parquet", ("shard-*.parquet",)),
    ):
        if next(directory.glob(sign), None) is not None:
            return [(path.name, path) for pattern in patterns for path in directory.glob(pattern)]
    return [
        (str(path.relative_to(directory)), path)
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith((".", "_")) and path.name != FORMER_MANIFEST
    ]


def _sample(path: Path) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as handle:
        for number in range(SAMPLES):
            handle.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(handle.read(SAMPLE_BYTES))
    return f"sample {digest.hexdigest()[:16]}"


class Results:
    """A result that this run has claimed.

    Attributes
    ----------
    path
        The directory, or the file.
    is_finished
        An earlier run with the same inputs and settings came to its end.
    is_partial
        Set it where the result is not whole, because its input was not.
    """

    def __init__(self, path: Path, record: Path, content: dict[str, Any], *, is_partial: bool) -> None:
        self.path, self._record, self.content = path, record, content
        self._is_file = record.parent != path
        self.is_finished = bool(content["finished"])
        self.is_partial = is_partial

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
    is_partial: bool = False,
) -> Iterator[Results]:
    """Claim the place of a result: the one way in which stages decide what may be written and what is kept.

    Parameters
    ----------
    out
        The directory, which keeps its record; or, with `is_file`, what is written as one (a file, or a whole
        directory): its record stands beside it.
    stage
        Who makes it.
    inputs
        What goes in, by name: fingerprints of contents, from `contents`.
    settings
        Everything else that changes a number.
    version
        Of the format of the result.
    renew
        Where an earlier result of this stage was made otherwise, say so and let it be made anew, in place of
        refusing. For results that take seconds.
    is_partial
        The inputs are not whole, so neither is the result.

    Yields
    ------
    Results
        Whole at the end of the block; an error leaves it unfinished, and no empty directory.

    Raises
    ------
    InputError
        Something else is there: foreign files, another stage's results, or results made from other inputs,
        with other settings or by another version. The first that differs is named.
    """
    out = Path(out)
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out}: a link to {os.readlink(out)}, which does not exist; restore or remove it")
    record = _record_of(out, is_file=is_file)
    wanted = json.loads(
        json.dumps({"stage": stage, "version": version, "inputs": inputs, "settings": settings})
    )
    there = _read_record(record)
    if there is None:
        _refuse_foreign(out, is_file=is_file)
    elif difference := _difference(there, wanted):
        is_ours = there.get("stage") == stage and (not is_file or _is_as_written(out, there))
        if not (renew and is_ours):
            raise InputError(f"{out}: {difference}; choose another place, or remove it to start anew")
        log.info("%s: %s: made anew", out, difference)
        there = None
    elif is_file and not _is_as_written(out, there):
        raise InputError(
            f"{out}: this file is not the one that deepfits wrote there; choose another name, or remove it"
        )
    new_parents = [directory for directory in (out, *out.parents) if not directory.exists()]
    is_kept = there is not None and bool(there.get("finished")) and out.exists()
    claimed = Results(out, record, {**wanted, "finished": is_kept}, is_partial=is_partial)
    if is_kept:
        assert there is not None
        claimed.content |= {"written": there["written"]} if "written" in there else {}
    else:
        claimed.save(finished=False)
    if is_file:
        for name in (out.name, record.name):
            remove_leftovers(out.parent, of=name)
    else:
        remove_leftovers(out)
    try:
        yield claimed
        if claimed.is_partial or not is_kept:
            claimed.save(finished=not claimed.is_partial)
    except BaseException:
        _remove_empty(out, record, new_parents, is_file=is_file)
        raise


def read_record(out: str | Path) -> dict[str, Any]:
    """Return what a result was made from and by which stage; empty where nothing says so."""
    out = Path(out)
    return _read_record(_record_of(out, is_file=not out.is_dir())) or {}


def _record_of(out: Path, *, is_file: bool) -> Path:
    return out.with_name(f"{out.name}.made_from.json") if is_file else out / RECORD


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
                f"{out}: is there already and deepfits did not write it; choose another name, or remove it"
            )
        return
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a directory")
    others = sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) if out.is_dir() else []
    if others:
        raise InputError(
            f"{out}: holds {others[0]}, and no record of how it was made ({RECORD}); name a directory of its "
            "own, or remove this one to start anew"
        )


def _is_as_written(out: Path, there: Mapping[str, Any]) -> bool:
    """Return whether a file is the one that was recorded (or was to be written when the run was killed)."""
    return not out.exists() or "written" not in there or contents(out) == there["written"]


def _difference(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Describe in a few words what differs first."""
    if there.get("stage") != wanted["stage"]:
        return f"results of `deepfits {there.get('stage')}` are there"
    if there.get("version") != wanted["version"]:
        return f"results of format {there.get('version')} are there, this version writes {wanted['version']}"
    for kind in ("inputs", "settings"):
        before, now = there.get(kind, {}), wanted[kind]
        for name in [*now, *(key for key in before if key not in now)]:
            old, new = before.get(name), now.get(name)
            if old == new:
                continue
            if kind == "settings":
                if isinstance(old, dict) and isinstance(new, dict):
                    key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
                    name, old, new = f"{name}.{key}", old.get(key), new.get(key)
                return f"made with {name} = {_short(old)}, now {_short(new)}"
            if isinstance(old, dict) and isinstance(new, dict):
                changed = next((key for key in [*new, *old] if _is_other(old.get(key), new.get(key))), None)
                if changed is None:
                    continue
                if changed == CONTENTS:
                    return f"made from another {name} (its contents have changed)"
                how = "changed" if changed in old and changed in new else "new" if changed in new else "gone"
                return f"made from another {name} ({changed} is {how})"
            return f"made from another {name}"
    return None


def _is_other(before: object, now: object) -> bool:
    return before != now and UNREADABLE not in (before, now)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _remove_empty(out: Path, record: Path, new_parents: Iterable[Path], *, is_file: bool) -> None:
    """Remove the record of a result of which nothing was made, and the directories made for it."""
    if is_file:
        if not out.exists():
            record.unlink(missing_ok=True)
    elif out.is_dir():
        ours = [path for path in out.iterdir() if not path.name.startswith(".")]  # what is hidden may not be
        if all(path.is_file() and path.name.startswith("_") for path in ours):
            for path in ours:
                path.unlink(missing_ok=True)
    for path in new_parents:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def require_finished(path: str | Path, *, partial: bool = False) -> bool:
    """Return whether a result of an earlier stage is whole; refuse one that is not, unless `partial`.

    Results without a record (made by others, or written through the library) count as whole.

    Raises
    ------
    InputError
        It is not whole; the message says how far it is and how to finish it.
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
            f"{path}: is not finished{done}; run the same `deepfits {stage}` again to its end, or take what "
            "there is (partial=True)"
        )
    log.warning("%s: is not finished; what there is, is taken (partial)", path)
    return False


def _states(directory: Path) -> Iterator[str]:
    """Yield the states of the shards in a directory's manifest; a line that is damaged says nothing.

    What is done but lies there no more is ``missing``.
    """
    name = MANIFEST if (directory / MANIFEST).exists() else FORMER_MANIFEST
    stems = {path.name.partition(".")[0] for path in directory.iterdir()}
    for _, line in json_lines(directory / name):
        if isinstance(line, dict) and isinstance(line.get("state"), str):
            is_gone = line["state"] == "done" and "shard" in line and line["shard"] not in stems
            yield "missing" if is_gone else line["state"]
