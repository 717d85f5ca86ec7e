"""Identities of objects: int64 or text, exactly as stored."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.entries import WITH_EXPONENT
from deepfits.tables.names import IDENTITIES, first_name
from deepfits.tables.table import EXACT

_LIKE_AN_IDENTITY = re.compile(r"(?i)(?<![a-z])(obj(ect)?|(iau_?)?name|id|num(ber)?|no)(?![a-z])|id$")
AMBIGUOUS = ("label", "num")
MOST_DIGITS = 15  # number of digits that spreadsheets keep; they replace further ones by 0
LEAST_ZEROS = 6
"""Together, further digits of all identities are this many zeros by chance once in a million tables."""


def identity_name(names: Iterable[str] | Mapping[str, np.ndarray]) -> str | None:
    """Return the column that identifies the objects, or None; of a table's columns, none of lists.

    Of two tables that TOPCAT or pandas has matched, it is that of the first (``id_1``, ``id_x``). A `label`
    may be a class, and `num` count exposures, if values occur twice.
    """
    if isinstance(names, Mapping):  # OBJID of BOSS is the list run, rerun, camcol, field and id
        flat = {name: values for name, values in names.items() if values.ndim == 1}
        names = [n for n, v in flat.items() if n.lower() not in AMBIGUOUS or len(np.unique(v)) == len(v)]
    matched = [f"{name}{end}" for name in IDENTITIES if "id" in name for end in ("_1", "_x")]
    return first_name(names, (*IDENTITIES, *matched))


def likely_identity(columns: Mapping[str, np.ndarray]) -> str | None:
    """Return the first column that may identify the objects by its name and has no value twice, or None.

    Examples
    --------
    >>> likely_identity({"mask_id": np.array([1, 1]), "phot_id": np.array([5, 6]), "z": np.ones(2)})
    'phot_id'
    """
    for name, values in columns.items():
        is_suitable = values.ndim == 1 and values.dtype.kind in "iuU" and _LIKE_AN_IDENTITY.search(name)
        if is_suitable and len(np.unique(values)) == len(values) > 1:
            return name
    return None


def identities(values: np.ndarray, where: str | Path, name: str = "object_id") -> np.ndarray:
    """Return identities exactly, as int64 or text; ``""`` (in text) for missing ones.

    Raise `InputError` for floats that are not exact integers, numbers rounded by a spreadsheet, lists, or any
    other type.

    Examples
    --------
    >>> identities(np.array([3.0, 7.0]), "labels.fits").tolist()
    [3, 7]
    """
    kind = values.dtype.kind
    if values.ndim != 1 or kind not in "iufU":
        raise InputError(f"{where}: {name} must be integers or text, not {values.dtype}")
    if kind == "U":
        numbers = values[values != ""]
        if len(numbers) and all(re.match(WITH_EXPONENT, text.strip()) for text in numbers):
            raise InputError(
                f"{where}: {name} {str(numbers[0])!r} was rounded by a spreadsheet; export it again as "
                "integers or text"
            )
        return np.char.strip(values) if len(values) else values
    if kind == "f":
        is_there = np.isfinite(values)
        numbers = values[is_there].astype(np.float64)
        exact = 2**24 if values.dtype.itemsize == 4 else EXACT
        if (np.abs(numbers) >= exact).any():
            raise InputError(
                f"{where}: {name} was written as floating point, in which numbers like "
                f"{numbers[np.abs(numbers).argmax()]:.0f} are no longer exact; write it again as integers "
                "(int64) or text"
            )
        if len(fractional := numbers[numbers != np.round(numbers)]):
            raise InputError(
                f"{where}: {name} {fractional[0]:g} is not a whole number; identities must be integers "
                "or text"
            )
        whole = np.zeros(len(values), np.int64)
        whole[is_there] = numbers.astype(np.int64)
        return whole if is_there.all() else np.where(is_there, whole.astype(str), "")
    if _is_rounded(values):
        raise InputError(
            f"{where}: {name} was rounded to {MOST_DIGITS} digits, as by a spreadsheet ({values[0]}); export "
            "it again as integers or text"
        )
    if kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        return values.astype(str)
    return values.astype(np.int64)


def _is_rounded(values: np.ndarray) -> bool:
    """Return whether integers, ``(N,)``, have only zeros beyond the digits that spreadsheets keep."""
    powers = np.array([10**number for number in range(MOST_DIGITS, 20)], np.uint64)
    size = np.abs(values).astype(np.uint64)
    excess = np.searchsorted(powers, size, side="right")
    return bool(excess.sum() >= LEAST_ZEROS) and not (size % np.uint64(10) ** excess.astype(np.uint64)).any()


def require_unique(identity: np.ndarray, where: str | Path, name: str = "object_id") -> None:
    """Raise an `InputError` if identities are missing or not unique."""
    if identity.dtype.kind == "U" and len(lacking := np.flatnonzero(identity == "")):
        raise InputError(
            f"{where}: {len(lacking)} of {len(identity)} rows have no {name} (row {lacking[0] + 1} is the "
            "first); add them, or remove or rename the column so that rows are numbered instead"
        )
    values, counts = np.unique(identity, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{where}: {name} {values[counts > 1][0]} occurs {counts.max()} times; make it unique, or, if it "
            "restarts in each tile, rename the column so that rows are numbered instead"
        )


def with_legacy_identity(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add identities to tables of the Legacy Surveys that have none better than OBJID.

    OBJID restarts in each brick; RELEASE, BRICKID and OBJID together give DESI's TARGETID.
    """
    parts = [first_name(columns, [part]) for part in ("release", "brickid", "objid")]
    if identity_name(columns) != parts[2] or not all(p and columns[p].dtype.kind in "iu" for p in parts):
        return columns
    release, brick, number = (columns[str(part)].astype(np.int64) for part in parts)
    return columns | {"object_id": (release << 42) | (brick << 22) | number}
