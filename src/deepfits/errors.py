"""Errors that users can act on.

Anything a user can get wrong (a file, a column, a key, two artefacts that do not match) raises `InputError`
with a one-line message that names the file, the object and the remedy. The command line prints that line and
exits with status 2, as it does when disk space, memory or permissions are lacking (`explain`). Any other
exception is a bug in deepfits and keeps its traceback.
"""

import difflib
import errno
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_NAMES = 40  # maximum number of valid names listed in an error


class InputError(ValueError):
    """Invalid input that the user can fix; the message says how."""


class ShardsFailedError(InputError):
    """Some shards failed, all others are done; the message names them and says how to proceed."""


class DamagedFileError(InputError):
    """A file that cannot be read; the others of a survey may be intact."""


class NoDataError(InputError):
    """An image without a single pixel of data."""


class TooFewGalaxiesError(InputError):
    """There are too few galaxies to measure the errors of a model on."""


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; raised before the optimiser step."""


def nearest(key: str, valid: Iterable[str]) -> str:
    """Return ``"did you mean 'seed'?"`` for a misspelt name, or the list of valid names when none is close.

    Examples
    --------
    >>> nearest("sead", ["seed", "steps"])
    "did you mean 'seed'?"
    """
    names = sorted(valid)
    key = str(key)  # whatever a request from outside has
    close = [name for name in names if name.lower() == key.lower()]
    close += difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid names are: {listed(names, MOST_NAMES)}"


def require_known(what: str, name: str, valid: Iterable[str]) -> None:
    """Raise `InputError` unless `name` is valid; the message suggests the nearest valid name."""
    if name not in valid:
        raise InputError(f"{what} {name!r} is unknown; {nearest(name, valid)}")


def one_line(error: object) -> str:
    """Return the message of an error on one line of at most 160 characters."""
    text = repr(error) if isinstance(error, KeyError) else str(error)  # its str() is the bare key
    return " ".join(text.split())[:160] or type(error).__name__


def listed(entries: Sequence[object], most: int = 5, joint: str = ", ") -> str:
    """List entries, at most a few of them.

    Examples
    --------
    >>> listed([3, 5]), listed(range(9))
    ('3, 5', '0, 1, 2, 3, 4 and 4 more')
    """
    rest = len(entries) - most
    return joint.join(map(str, entries[:most])) + (f" and {rest} more" if rest > 0 else "")


def joined_error(errors: Sequence[InputError], total: int, parts: str, remedy: str) -> InputError:
    """Return one error for several of `total` parts (fields, files); the first if all failed, as if alike.

    Examples
    --------
    >>> str(joined_error([InputError("a: empty"), InputError("b: empty")], 9, "fields", "Repair them"))
    '2 of 9 fields cannot be used: a: empty; b: empty. Repair them'
    """
    if len(errors) == total:
        return errors[0]
    quoted = listed(errors, joint="; ")
    return InputError(f"{len(errors)} of {total} {parts} cannot be used: {quoted}. {remedy}")


def for_each(items: Sequence[Item], work: Callable[[Item], Result], parts: str) -> list[Result]:
    """Return the results of `work` for each item, or raise one `joined_error` for all that fail."""
    done: list[Result] = []
    failed: list[InputError] = []
    for item in items:
        try:
            done.append(work(item))
        except InputError as error:
            failed.append(error)
    if failed:
        raise joined_error(failed, len(items), parts, "Leave out what cannot be repaired")
    return done


@contextmanager
def naming(path: str | os.PathLike[str], problem: str, remedy: str = "fetch it again") -> Iterator[None]:
    """Turn exceptions of libraries on a damaged file into an `InputError` with the file and a remedy.

    A file that the operating system has refused to read need not be damaged: the remedy is another.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # astropy, HDF5, zipfile and NumPy raise many types
        for number in filter(_OF_SYSTEM.get, map(_errno, _causes(error))):
            raise InputError(f"{path}: {os.strerror(number)}; {_OF_SYSTEM[number]}") from error
        raise InputError(f"{path}: {problem} ({one_line(error)}); {remedy}") from error


_MORE_FILES = "permit more (`ulimit -n 10000`), or use fewer files at a time"
_TRY_AGAIN = "run the same command again once the file system works"
_OF_SYSTEM = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions (chmod), or read a copy"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _MORE_FILES),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), _TRY_AGAIN),
}
"""Remedies for errors of the operating system on files that need not be damaged."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
# Messages on failed writes from libraries that do not set errno: Rust (safetensors), Arrow and HDF5 print the
# number; NumPy, Astropy, XGBoost and PyTorch only report that fewer bytes were written.
_NUMBER = re.compile(r"(?:os error|errno)\s*=?\s*(\d+)", re.IGNORECASE)
_FEWER_BYTES = re.compile(
    r"\d+ requested and \d+ written|Not enough space on disk|FileStream\.Write incomplete|"
    r"inline_container.*(?:unexpected pos|failed writing)|iostream error",
    re.DOTALL,
)
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE
)


def no_space(error: BaseException | None) -> int | None:
    """Return the errno of an error that means that nothing more can be written, else None.

    Full disks, exhausted quotas, read-only file systems and file-size limits are recognised in the error and
    in its causes, whichever library raised it: Python, NumPy, HDF5, Arrow, safetensors, XGBoost, PyTorch,
    Astropy.

    Examples
    --------
    >>> no_space(RuntimeError("I/O error: No space left on device (os error 28)"))
    28
    """
    for cause in _causes(error):
        number = _errno(cause)
        if number == 0 and _FEWER_BYTES.search(str(cause)):
            number = errno.ENOSPC
        if number in _NO_SPACE:
            return number
    return None


def _errno(error: BaseException) -> int:
    """Return the errno of an error, also where a library only prints it; 0 if there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _NUMBER.search(str(error))
    return int(match[1]) if match else 0


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that CPU or GPU memory ran out."""
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError) and _NO_MEMORY.search(str(cause)) is not None)
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def explain(error: BaseException, elsewhere: str = "write elsewhere") -> str | None:
    """Return one line on an error and its remedy, or None if it is a bug in deepfits.

    `elsewhere` is the advice where nothing can be written.
    """
    if isinstance(error, InputError):
        return str(error)
    if (needed := missing_extra(error)) is not None:
        return needed
    if (number := no_space(error)) is not None:
        names = [e.filename for e in _causes(error) if isinstance(e, OSError) and _names_file(e)]
        place = f"{names[0]}: " if names else ""
        remedy = "" if number == errno.EROFS else "make space, or "
        return f"{place}{os.strerror(number)}; {remedy}{elsewhere}, and run the same command again"
    if is_out_of_memory(error):
        return f"out of memory ({one_line(error)}); use fewer workers, or smaller batches or shards"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object}: is not valid UTF-8, in which files must be named; rename it"
    if isinstance(error, OSError):
        if error.errno == errno.EMFILE:
            return f"too many open files; {_MORE_FILES}"
        if _names_file(error):
            where = f", or {elsewhere}" if _is_to_be_written(error.filename) else ""
            return f"{error.filename}: {error.strerror}; check the path and its permissions{where}"
        return f"cannot read or write: {one_line(error)}"
    return None


def _is_to_be_written(path: str) -> bool:
    """Return whether a refused path is a directory, or new in one that can be searched."""
    is_new = not os.path.exists(path) and os.access(os.path.dirname(path) or ".", os.X_OK)
    return is_new or os.path.isdir(path)


def _names_file(error: OSError) -> bool:
    return error.filename is not None and error.strerror is not None


_EXTRAS = {
    "sep": ("survey",), "reproject": ("survey",), "sklearn": ("survey", "redshift"),
    "galsim": ("sky",), "speclite": ("sky",), "lightning": ("training",), "tensorboard": ("training",),
    "xgboost": ("redshift",), "tpot": ("redshift",), "pandas": ("lsdb", "redshift"),
    "matplotlib": ("report",), "jinja2": ("report",), "PIL": ("explore", "report"),
    "starlette": ("explore",), "uvicorn": ("explore",), "pyvo": ("explore",),
    "dask": ("scale", "redshift"), "distributed": ("scale", "redshift"),
    "hats": ("lsdb",), "hats_import": ("lsdb",), "lsdb": ("lsdb",),
}  # fmt: skip
"""The package's extras that install each module, the most likely one first."""


def missing_extra(error: BaseException) -> str | None:
    """Return how to install a missing module, or None if no extra of the package provides it.

    Of several extras, the one named is that of the part of the package that needs the module.

    Examples
    --------
    >>> missing_extra(ModuleNotFoundError("No module named 'sep'", name="sep"))
    "this needs 'sep'; install it with `pip install 'deepfits[survey]'`"
    """
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if not (extras := _EXTRAS.get(name.split(".")[0], ())):
        return None
    names = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [name.split(".") for name in reversed(names) if name.startswith("deepfits.")]  # innermost first
    parts = [part for module in modules for part in module]
    extra = next((extra for part in parts for extra in extras if part.startswith(extra)), extras[0])
    return f"this needs {name!r}; install it with `pip install 'deepfits[{extra}]'`"
