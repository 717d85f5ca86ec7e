"""The in-memory table: columns as ordinary arrays with marked missing values, and their metadata."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, listed, nearest
from deepfits.files import parse_json
from deepfits.tables.names import first_name
from deepfits.tables.values import is_photometric_name, is_redshift_name

Columns = dict[str, np.ndarray]
EXACT = 2**53  # largest integer up to which float64 represents every integer exactly
INFO = "deepfits"  # metadata key of the JSON description that our own tables contain
LIKELY_REDSHIFTS = (
    "z_spec", "zspec", "specz", "spec_z", "z_specz", "z", "redshift", "zs", "z_true", "z_best", "zbest",
)  # fmt: skip
"""Names of redshifts, the most reliable first; HELP's redshift, beside zspec, is photometric."""
MOST_LETTERS = 2**28
"""NumPy stores a column of text at the length of its longest entry, 4 bytes a letter: up to 1 GiB is read."""
B1950 = "fk4 B1950"
SKY = "sky coordinates"  # type of columns whose content is in others, right ascension and declination
log = logging.getLogger(__name__)

_MENTIONS_B1950 = re.compile(
    r"(?:\bB|\(|equinox\W*B?|(?:ascension|declination|ra|dec)\W+)1950(?![\d.]*[1-9])", re.IGNORECASE
)
_MENTIONS_J2000 = re.compile(r"2000|icrs", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Content of a table file.

    Columns are numbers, booleans or text, ``(N,)``, or lists of equal length, ``(N, L)``. Text ends at the
    first NUL. Missing values are NaN in floats and ``""`` in text; integers with missing values become floats
    if these are exact, else text. Units, UCDs (IVOA) and frames are those that the file states; the latter
    only of positions that are not ICRS or J2000: ``fk4 B1950``, ``fk5 J1975``.
    """

    where: str  # the file, for messages
    columns: Columns = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    ucds: dict[str, str] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)  # what one of our own tables contains (see `INFO`)
    unused: dict[str, str] = field(default_factory=dict)  # columns of unsupported types, with their types


def from_astropy(table: Any, where: str) -> Table:
    """Convert an astropy table: sky coordinates to degrees (ICRS), times to text or numbers."""
    out = Table(where=where, info=as_info(table.meta.get(INFO, table.meta.get(INFO.upper(), "{}"))))
    for number, name in enumerate(table.colnames, 1):
        column = table[name]
        if ucd := (column.info.meta or {}).get("ucd") or table.meta.get(f"TUCD{number}"):
            out.ucds[name] = str(ucd)
        if mentions_b1950(str(column.info.description)):
            out.frames[name] = B1950
        if type(column).__name__ == "SkyCoord":
            sky = column.icrs
            out.unused[name] = SKY
            is_main = not {"ra", "dec"} & set(table.colnames) and "ra" not in out.columns
            ra, dec = ("ra", "dec") if is_main else (f"{name}_ra", f"{name}_dec")
            out.columns.update({ra: plain_array(sky.ra.deg), dec: plain_array(sky.dec.deg)})
            continue
        kinds = ("Time", "Quantity", "Angle", "Longitude", "Latitude")
        values: Any = column.value if type(column).__name__.endswith(kinds) else column
        unit = getattr(column, "unit", None)
        if unit is not None and str(unit):
            out.units[name] = str(unit)
        try:
            out.columns[name] = plain_array(values)
        except TypeError as error:
            out.unused[name] = str(error) or str(getattr(values, "dtype", type(column).__name__))
    return out


def mentions_b1950(words: str) -> bool:
    """Return whether the description of a position says that it is of B1950."""
    return bool(_MENTIONS_B1950.search(words)) and not _MENTIONS_J2000.search(words)


def plain_array(values: Any) -> np.ndarray:
    """Return a column as an ordinary array, with missing values as in `Table`.

    Raise `TypeError` for neither numbers, nor booleans, nor text, or, with its length, for text that is too
    long.
    """
    if hasattr(values, "unmasked"):  # astropy's Masked
        values = np.ma.array(values.unmasked, mask=values.mask)
    is_gap = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = np.asarray(np.ma.getdata(values))
    kind = array.dtype.kind
    if array.ndim > 1 and all(length == 1 for length in array.shape[1:]):  # lists of length 1
        return plain_array(values.reshape(len(array)))
    if array.ndim == 2 and kind in "SU":
        return np.stack([plain_array(row) for row in array])
    if array.ndim > 1 and kind in "iufb":
        array = array.astype(array.dtype.newbyteorder("="))
        return array if is_gap is None or not is_gap.any() else np.where(is_gap, np.nan, array.astype(float))
    if array.ndim != 1:
        raise TypeError
    if kind == "O" and len(array) and all(isinstance(value, np.ndarray) for value in array):
        return plain_array(_stacked(array.tolist()))
    if kind == "O":
        is_gap = np.array([value is None for value in array], dtype=bool) | np.ma.getmaskarray(values)
        present = array[~is_gap].tolist()
        if present and all(isinstance(value, (int, float, np.generic)) for value in present):
            numbers = np.array(present)  # as databases give them
            if numbers.dtype.kind not in "iufb":
                raise TypeError
            filled = np.ma.masked_all(len(array), numbers.dtype)
            filled[~is_gap] = numbers
            return plain_array(filled)
        if not all(isinstance(value, (str, bytes)) for value in present):
            raise TypeError
        array = text_array(["" if value is None else decoded(value) for value in array])
    elif kind == "S":
        array = text_array([decoded(value) for value in array.tolist()])
    if array.dtype.kind == "U":
        _require_room(array.dtype.itemsize // 4, len(array))
        if "\0" in "".join(array.tolist()):
            array = np.array([text.partition("\0")[0] for text in array.tolist()], dtype=str)
        array = np.char.strip(array) if len(array) else array
        return array if is_gap is None else np.where(is_gap, "", array)
    if kind not in "iufb":
        raise TypeError
    array = array.astype(array.dtype.newbyteorder("="))
    if is_gap is None or not is_gap.any():
        return array
    if kind == "f":
        return np.where(is_gap, np.nan, array)
    return truth_with_gaps(array, is_gap) if kind == "b" else whole_with_gaps(array, is_gap)


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Convert a column of variable length whose entries are text, or lists of equal length if not empty.

    Raise `TypeError` if the lengths differ, or the lists do not contain numbers.
    """
    if all(part.dtype.kind in "US" for part in parts):
        return np.array(["".join(map(decoded, part.ravel().tolist())) for part in parts])
    lengths = {part.shape for part in parts if part.size}
    if len(lengths) != 1 or any(part.dtype.kind not in "iuf" for part in parts):
        raise TypeError
    missing: Any = np.ma.masked_all(lengths.pop(), max(part.dtype for part in parts))
    return np.ma.stack([part if part.size else missing for part in parts])


def text_array(entries: Sequence[str]) -> np.ndarray:
    """Return text as a NumPy array, ``(N,)``, unless its longest entry makes that too large."""
    _require_room(max(map(len, entries), default=0), len(entries))
    return np.array(entries, dtype=str) if entries else np.zeros(0, "U1")


def _require_room(longest: int, number: int) -> None:
    if longest * number > MOST_LETTERS:
        raise TypeError(f"text of up to {longest} letters")


def decoded(value: str | bytes) -> str:
    """Return text; bytes are decoded as UTF-8, or else as Latin-1."""
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")


def as_info(raw: Any) -> dict[str, Any]:
    """Parse the description of one of our own tables; empty for anything else stored in its place."""
    try:
        content = parse_json(str(raw if isinstance(raw, str) else decoded(raw or b"{}")), where="a table")
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def whole_with_gaps(values: np.ndarray, is_gap: np.ndarray) -> np.ndarray:
    """Mark missing integers: as NaN among floats if these are exact, else as ``""`` among text."""
    if not is_gap.any():
        return values
    present = values[~is_gap]
    if not len(present) or (present.max() <= EXACT and present.min() >= -EXACT):
        return np.where(is_gap, np.nan, values.astype(np.float64))
    return np.where(is_gap, "", values.astype(str))


def truth_with_gaps(values: np.ndarray, is_gap: np.ndarray) -> np.ndarray:
    """Mark missing booleans: as ``""`` among ``true`` and ``false``; unchanged if none is missing."""
    values = values.astype(bool)
    return np.where(is_gap, "", np.where(values, "true", "false")) if is_gap.any() else values


def with_list(columns: Columns, name: str) -> Columns:
    """Join columns ``NAME_0``, ``NAME_1`` and so on, as CSV stores a list, into one column of lists.

    Examples
    --------
    >>> columns = {"q_0": np.array([1.0, 2.0]), "q_1": np.array([3.0, 4.0])}
    >>> with_list(columns, "q")["q"].tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    parts: list[str] = []
    while (part := f"{name}_{len(parts)}") in columns and columns[part].dtype.kind in "fiu":
        parts.append(part)
    if name in columns or not parts:
        return columns
    left = {other: values for other, values in columns.items() if other not in parts}
    return left | {name: np.stack([columns[part] for part in parts], axis=1)}


def without_lists(
    columns: Mapping[str, np.ndarray], where: str | Path, unused: Mapping[str, str] | None = None
) -> Columns:
    """Return the columns of one value per row; the names of the others, and of `unused`, are logged."""
    lists = [f"{name} ({values.shape[1]} values)" for name, values in columns.items() if values.ndim > 1]
    others = [f"{name} ({kind})" for name, kind in (unused or {}).items() if kind != SKY]
    if others:
        log.warning(
            "WARNING: %s: columns whose type is not supported are left out: %s", where, listed(others, 8)
        )
    if lists:
        log.info(
            "%s: columns of several values per object are left out: %s; to use them, write each value as a "
            "column of its own",
            *(where, listed(lists, 8)),
        )
    return {name: values for name, values in columns.items() if values.ndim == 1}


def require_distinct(names: Sequence[str], where: str | Path) -> None:
    """Raise an `InputError` if two columns have the same name."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: two columns are named {twice!r}; rename one of them")


def require_column(columns: Mapping[str, np.ndarray], name: str, where: str | Path) -> np.ndarray:
    """Return a column; an `InputError` if there is none of this name names the one that was likely meant."""
    if name not in columns:
        if (missing := getattr(columns, "missing", None)) is not None:  # a joined table knows more
            raise InputError(missing(name))
        hint = nearest(name, columns)
        if name == "z_spec":
            others = (c for c in columns if is_redshift_name(c) and not is_photometric_name(c))
            likely = first_name(columns, LIKELY_REDSHIFTS) or next(others, None)
            hint = f"is it {likely!r}?" if likely else nearest("", columns)
            hint += "; name that of the redshifts (label_column)"
        raise InputError(f"{where}: no column {name!r}; {hint}")
    return columns[name]
