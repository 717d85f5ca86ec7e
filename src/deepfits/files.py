"""Files that are whole or absent.

Every output of the package is written under a temporary name beside its final place, flushed to disk and
renamed: a killed process or a full disk leaves the earlier file, or none, but never half of one.

What a result was made from is told by fingerprints of contents (`contents`); see `deepfits.results`.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfits.errors import InputError, naming, no_space

if TYPE_CHECKING:
    import h5py
    import numpy as np

TEMPORARY_PREFIX = ".writing-"
MANIFEST = "_manifest.jsonl"  # begins with _, so that readers of Parquet directories pass over it
WHOLE_BYTES = 2 << 30  # inputs up to this size together are read whole for their fingerprint
SAMPLES, SAMPLE_BYTES = 32, 1 << 16  # of each file of larger ones
CONTENTS = "contents"  # the name of the fingerprint of a single file, since its name does not count
MOST_DIGITS = 20  # of a whole number of 64 bits
LONGEST_LINE = 1 << 20  # of a file of JSON lines
NAMED_FILES = 1000  # a record that would name more files holds one digest of them all


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when the block ends without an error.

    It has the same directory, made when it does not exist, and the same suffixes, so that libraries which
    choose a format by the name's ending do so. On an error it is removed and `path` stays as it was.

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


def read_json(path: str | Path, *, what: str = "file") -> dict[str, Any]:
    """Read a JSON object, with errors that name the file.

    Raises
    ------
    InputError
        The file is absent, larger than 64 MiB, not JSON, or not an object.
    """
    content = parse_json(read_text(path, what=what), where=path, what=what)
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
        content = json.loads(
            text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
        )
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


def reading_record(path: str | Path, *, what: str = "file") -> AbstractContextManager[None]:
    """Use what a file of ours holds, entry by entry; an entry that is absent or of another type names it.

    For records that are only shown. What decides about numbers is declared (`deepfits.config.from_mapping`).
    """
    return naming(path, f"not the {what} that deepfits writes", "make it again")


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


def _parse_int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{text[:40]} is larger than 64 bits hold")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is larger than any number")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def refuse_broken_link(path: Path) -> None:
    """Refuse a link to nothing."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {os.readlink(path)}, which does not exist; restore or remove it")


def require_regular(path: Path) -> None:
    """Refuse what is not a file: absent, a broken link, a directory, a FIFO or a device, or not to be read.

    Asked before a file is opened: a FIFO would wait forever, a device never ends.
    """
    refuse_broken_link(path)
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


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change with what is given: JSON-like values, or arrays."""
    hashed = hashlib.sha256()
    for part in parts:
        values = part.tolist() if hasattr(part, "tolist") else part
        hashed.update(json.dumps(values, sort_keys=True).encode())
    return hashed.hexdigest()[:16]


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
    states = states_of(files)
    if len(states) <= NAMED_FILES:
        return states
    return {f"all {len(states)} files": digest(states)}


def states_of(files: Mapping[str, Path], *, is_sample: bool = False) -> dict[str, str]:
    """Fingerprint each of some files; with `is_sample`, by 32 blocks of each, however small they all are."""
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; check the path")
    is_whole = not is_sample and sum(path.stat().st_size for path in files.values()) <= WHOLE_BYTES
    return {
        name: f"{path.stat().st_size} {fingerprint(path) if is_whole else _sample(path)}"
        for name, path in sorted(files.items())
    }


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
        if path.is_file() and not path.name.startswith((".", "_"))
    ]


def _sample(path: Path) -> str:
    status = path.stat()
    return _sampled(path, status.st_size, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=1 << 14)
def _sampled(path: Path, size: int, stamp: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for number in range(SAMPLES):
            handle.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(handle.read(SAMPLE_BYTES))
    return f"sample {digest.hexdigest()[:16]}"
