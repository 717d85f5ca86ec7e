"""Atomic output files, safe reading of small files, and fingerprints of contents.

Every output of the package is written under a temporary name next to its destination, flushed to disk and
renamed: a killed process or a full disk leaves the earlier file, or none, but never a partial one.

The inputs of a result are recorded as fingerprints of their contents (`contents`); see `deepfits.results`.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import inspect
import io
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from deepfits.errors import InputError, listed, naming, no_space

if TYPE_CHECKING:
    import h5py
    import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
TEMPORARY_PREFIX = ".writing-"
MANIFEST = "_manifest.jsonl"  # readers of Parquet directories skip names with a leading underscore
WHOLE_BYTES = 2 << 30  # inputs up to this total size are hashed completely
SAMPLES, SAMPLE_BYTES = 32, 1 << 16  # number and size of the blocks hashed of each file of larger inputs
HASHED = ("head.json", "predictor.json", "classifier.json")  # descriptions of redshift models
CONTENTS = "contents"  # key of a single file, whose name does not matter
MOST_DIGITS = 20  # of a 64-bit integer
LONGEST_LINE = 1 << 20  # of a JSON Lines file
MOST_OPEN_FILES = 10_000  # macOS permits 10,240
NAMED_FILES = 1000  # a record of more files holds a single digest of them all


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    It has the same directory, created if necessary, and the same suffixes, for libraries that choose a format
    by extension; it is absolute, for those that take ``a:b/c`` for an address. On an error it is removed and
    `path` is left unchanged. Raise `OSError` if no space is left, whichever library noticed it (it names
    `path`), or the directory is not writable (it names the directory).
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(final.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(final.parent))
    temporary = final.absolute().with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{final.name}")
    try:
        with naming_full_disk(final):
            yield temporary
            _flush(temporary)
            if temporary.is_dir() and final.is_dir():
                shutil.rmtree(final)
            os.replace(temporary, final)
    except InputError as error:  # the writer knows only the temporary name
        message = str(error).replace(f"{temporary}", f"{final}").replace(temporary.name, final.name)
        raise InputError(message) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(final: Path) -> Iterator[None]:
    """Make a full disk, which libraries report in different ways, an `OSError` that names `final`."""
    try:
        yield
    except Exception as error:
        if (number := no_space(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(final)) from error


@contextmanager
def writing_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, and write it to `path` if the block succeeds.

    In memory, because the HDF5 library crashes when it cannot close a file on a full disk.
    """
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _flush(path: Path) -> None:
    for name in path.rglob("*") if path.is_dir() else [path]:
        if name.is_file():
            with name.open("rb") as handle:
                os.fsync(handle.fileno())


def remove_leftovers(directory: str | Path, *, of: str = "") -> int:
    """Remove temporary files that killed processes left in `directory` or below; return their number.

    With `of`, remove only those of the file of that name, in `directory` itself. Call this only if no other
    process is writing there.
    """
    here, pattern = Path(directory), f"{TEMPORARY_PREFIX}*"
    leftovers = list(here.glob(f"{pattern}-{glob.escape(of)}") if of else here.rglob(pattern))
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON, atomically. NaN and infinity, which JSON lacks, are errors."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, *, what: str = "file") -> dict[str, Any]:
    """Read a JSON object; errors name the file.

    Raise `InputError` if the file is absent, larger than 64 MiB, not JSON, or not an object.
    """
    content = parse_json(read_text(path, what=what), where=path, what=what)
    if not isinstance(content, dict):
        raise InputError(f"{path}: this {what} is not a JSON object; write it again")
    return content


def read_text(path: str | Path, *, what: str = "file", max_bytes: int = 1 << 26) -> str:
    """Read a UTF-8 text file; errors name it.

    Raise `InputError` if the file is absent, not regular (a pipe, a device, a directory), larger than
    `max_bytes`, or not UTF-8.
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
        return path.read_text(encoding="utf-8-sig")  # with the mark that Windows writes first
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read this {what} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot read this {what} ({error}); write it again") from error


def parse_json(text: str, *, where: str | Path, what: str = "file", allow_nan: bool = False) -> Any:
    """Parse untrusted JSON, with limits on the size of numbers and on nesting.

    NaN, which JSON does not have, but Python writes, is refused unless `allow_nan` is set. Raise `InputError`
    if it is not valid JSON of finite numbers and valid Unicode; the message names `where`.
    """
    try:
        content = json.loads(
            text,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=float if allow_nan else _refuse_constant,
        )
        if "\\ud" in text.lower():  # a lone surrogate is invalid and would fail when printed
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(
            f"{where}: cannot read this {what}: it is nested too deeply; write it again"
        ) from None
    except ValueError as error:  # JSONDecodeError, UnicodeEncodeError, numbers too large
        raise InputError(f"{where}: cannot read this {what} ({error}); write it again") from error
    return content


def json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield each line of a JSON Lines file with its parsed value, which is None if the line is damaged.

    An absent file counts as empty: a killed process may leave no file, or a partial line.
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
    """Turn errors on missing or mistyped entries of one of our own files into an error that names the file.

    For records that are only displayed; values that affect results are validated by
    `deepfits.config.from_mapping`.
    """
    return naming(path, f"not the {what} that deepfits writes", "make it again")


def read_arrays(
    path: str | Path, *, what: str = "file of arrays", remedy: str = "remove it", max_ratio: int = 1000
) -> dict[str, np.ndarray]:
    """Read a NumPy archive (``.npz``), by default one of ours, without unpickling.

    Raise `InputError` if the file is not regular, is damaged, or declares arrays more than `max_ratio` times
    its size, and more than 64 MiB.
    """
    import numpy as np

    require_regular(Path(path))
    with (
        naming(path, f"damaged {what}", remedy),
        Path(path).open("rb") as handle,
        np.load(handle, allow_pickle=False) as file,
    ):
        declared = sum(member.file_size for member in file.zip.infolist())
        if declared > max(max_ratio * Path(path).stat().st_size, 1 << 26):
            raise InputError(f"{path}: declares {declared} bytes, far more than the file has; {remedy}")
        return {name: file[name] for name in file.files}


def _parse_int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{text[:40]} does not fit in 64 bits")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a float")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not valid JSON")


def allow_many_open_files() -> None:
    """Let this process open as many files as the system permits; by default it may be 256 or 1024."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a lower limit of the kernel
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def refuse_broken_link(path: Path) -> None:
    """Raise `InputError` if `path` is a dangling symbolic link."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {os.readlink(path)}, which does not exist; restore or remove it")


def require_regular(path: Path) -> None:
    """Raise `InputError` unless `path` is a readable regular file.

    Check this before opening a file: reading a FIFO may block forever, and a device may never end.
    """
    refuse_broken_link(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; check the path")
    if path.is_dir():
        raise InputError(f"{path}: a directory, where a file is needed")
    if not path.is_file():
        raise InputError(f"{path}: a FIFO, socket or device, not a file; copy the data into a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable; change its permissions (chmod) or leave it out")


def give_inside(directory: Path, name: str, otherwise: str) -> str:
    """Return the remedy for a directory without the file `name`: those inside with one, else `otherwise`."""
    inside = [path.parent for path in sorted(directory.glob(f"*/{name}"))]
    return f"give {listed(inside, joint=' or ')}" if inside else otherwise


def fingerprint(*paths: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the files' contents, in the given order."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        require_regular(path)
        with path.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()[:16]


def digest(*parts: Any) -> str:
    """Return a hash, 16 hexadecimal digits, of JSON-like values or arrays."""
    hashed = hashlib.sha256()
    for part in parts:
        values = part.tolist() if hasattr(part, "tolist") else part
        hashed.update(json.dumps(values, sort_keys=True).encode())
    return hashed.hexdigest()[:16]


def split_table_path(path: Path) -> tuple[Path, str | None]:
    """Split ``zcat.fits[ZCATALOG]`` into file and table name; the name is None for a plain path."""
    base, bracket, rest = str(path).rpartition("[")
    is_named = bool(base) and bool(bracket) and rest.endswith("]") and not path.exists()
    return (Path(base), rest[:-1]) if is_named and Path(base).is_file() else (path, None)


def contents(*paths: str | Path) -> dict[str, str]:
    """Fingerprint the contents of files and directories, by name: ``{"shard-00000.h5": "84213760 1f0c..."}``.

    For a store, features or a model only the data files are included, without logs, reports or checkpoints;
    for a redshift model, its description, which holds the hashes of all parts; for any other directory, all
    files; for ``zcat.fits[A]`` the file, under the name of the table. Up to a total of 2 GiB all bytes are
    hashed; beyond that, 32 blocks spread over each file. Sizes are always included, modification times and
    locations are not: a copy is the same input. Raise `InputError` if a path does not exist.
    """
    files: dict[str, Path] = {}
    for number, given in enumerate(map(Path, paths)):
        path, table = split_table_path(given)
        if not path.exists():
            raise InputError(f"{path}: no such file or directory; check the path")
        if len(paths) == 1 and path.is_file():
            return contents_of({CONTENTS if table is None else f"table {table}": path})
        for name, file in _data_files(path) if path.is_dir() else [(given.name, path)]:
            files[name if name not in files else f"{number}/{name}"] = file
    return contents_of(files)


def named_contents(setting: Any) -> Any:
    """Return a setting in which each file that it names, ``"g=PSF.fits"``, is its name and fingerprint.

    The same file is the same setting wherever it lies; see `replace_files`.
    """
    return replace_files(setting, lambda path: f"{path.name} {contents(path)[CONTENTS]}")


def replace_files(setting: Any, replace: Callable[[Path], str], *, base: Path = Path()) -> Any:
    """Replace the existing files that a setting names, relative to `base`, at any depth.

    A file is named by a whole string, or by what follows its first ``=``.
    """
    if isinstance(setting, Mapping):
        return {key: replace_files(value, replace, base=base) for key, value in setting.items()}
    if isinstance(setting, list | tuple):
        return [replace_files(value, replace, base=base) for value in setting]
    for text in (setting, setting.partition("=")[2]) if isinstance(setting, str) else ():
        if text and os.path.isfile(base / text):
            return setting.removesuffix(text) + replace(base / text)
    return setting


def cached_by_files(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator like `lru_cache`, which notices that a file named by an argument has changed.

    Names are strings, or in tuples; processes may live on for days in notebooks and on workers.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @lru_cache(maxsize)
        def cached(stamps: Any, *args: Any) -> R:
            return function(*args)  # type: ignore[call-arg]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).args
            names = [name for value in given for name in (value if isinstance(value, tuple) else (value,))]
            return cached(tuple(_stamp(name) for name in names if isinstance(name, str)), *given)

        signature = inspect.signature(function)
        return call

    return decorate


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes with a file, or None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def contents_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Fingerprint files under the given names; see `contents`."""
    states = states_of(files)
    if len(states) <= NAMED_FILES:
        return states
    return {f"all {len(states)} files": digest(states)}


def states_of(files: Mapping[str, Path], *, is_sample: bool = False) -> dict[str, str]:
    """Fingerprint each file by name; with `is_sample`, always by 32 blocks, whatever the total size."""
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; check the path")
    is_whole = not is_sample and sum(path.stat().st_size for path in files.values()) <= WHOLE_BYTES
    return {
        name: f"{path.stat().st_size} {(_whole if is_whole else _sample)(str(path))}"
        for name, path in sorted(files.items())
    }


def _data_files(directory: Path) -> list[tuple[str, Path]]:
    for marker, patterns in (
        ("store.json", ("store.json", "shard-*.h5")),
        ("model.json", ("model.json", "*.safetensors")),
        ("shard-*.parquet", ("shard-*.parquet",)),
        *((name, (name,)) for name in HASHED),
    ):
        if next(directory.glob(marker), None) is not None:
            return [(path.name, path) for pattern in patterns for path in directory.glob(pattern)]
    return [
        (str(path.relative_to(directory)), path)
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith((".", "_"))
    ]


@cached_by_files(maxsize=1 << 14)
def _whole(path: str) -> str:
    return fingerprint(path)


@cached_by_files(maxsize=1 << 14)
def _sample(path: str) -> str:
    digest, size = hashlib.sha256(), os.path.getsize(path)
    with open(path, "rb") as handle:
        for number in range(SAMPLES):
            handle.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(handle.read(SAMPLE_BYTES))
    return f"sample {digest.hexdigest()[:16]}"
