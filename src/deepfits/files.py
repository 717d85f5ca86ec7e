"""Files that are whole or absent.

Every output of the package is written under a temporary name beside its final place, flushed to disk and
renamed: a killed process or a full disk leaves the earlier file, or none, but never half of one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepfits.errors import InputError, no_space

TEMPORARY_PREFIX = ".writing-"


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
        There is no space, whichever library found out; it names `path`.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{final.name}")
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and final.is_dir():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except Exception as error:  # each library has its own words for a full disk
        if (number := no_space(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(final)) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    for name in path.rglob("*") if path.is_dir() else [path]:
        if name.is_file():
            with name.open("rb") as handle:
                os.fsync(handle.fileno())


def remove_leftovers(directory: str | Path) -> int:
    """Remove the temporary files that a killed process left in `directory`; say how many there were.

    Call it only where no other process writes.
    """
    leftovers = list(Path(directory).glob(f"{TEMPORARY_PREFIX}*"))
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all. NaN and infinity are errors: JSON has neither."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


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
            raise InputError(f"{path}: this {what} is no regular file; check the path")
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
        content = json.loads(text, parse_float=_finite, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():  # half a surrogate pair is no text, and fails where it is printed
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(
            f"{where}: cannot read this {what}: it is nested too deeply; write it again"
        ) from None
    except ValueError as error:  # JSONDecodeError, UnicodeEncodeError, numbers of thousands of digits
        raise InputError(f"{where}: cannot read this {what} ({error}); write it again") from error
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is larger than any number")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def fingerprint(*paths: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the files' contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
