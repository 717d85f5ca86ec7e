"""What a table is, once it is read: columns as ordinary arrays, gaps among them, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.files import parse_json

Columns = dict[str, np.ndarray]
EXACT = 2**53
"""Beyond this, float64 does not hold every whole number."""
INFO = "deepfits"
"""Key of what our own tables say of themselves, as JSON."""
LIKELY_REDSHIFTS = (
    "z_spec", "zspec", "z", "specz", "spec_z", "redshift", "z_best", "zbest", "z_specz", "zs", "z_true",
)  # fmt: skip
B1950 = "fk4 B1950"
_SAYS_B1950 = re.compile(
    r"(?:\bB|\(|equinox\W*B?|(?:ascension|declination|ra|dec)\W+)1950(?![\d.]*[1-9])", re.IGNORECASE
)
_SAYS_NEW = re.compile(r"2000|icrs", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a file holds.

    Attributes
    ----------
    columns
        ``(N,)`` numbers, truth values or text each, lists of one length ``(N, L)``. Gaps are NaN in floats
        and ``""`` in text; whole numbers with gaps are floats where those are exact, else text.
    units
        As the file says them.
    ucds
        What columns are in words of the Virtual Observatory, as far as the file says so.
    frames
        Of columns of places, where the file says another than ICRS or J2000: ``fk4 B1950``, ``fk5 J1975``.
    where
        The file, for messages.
    info
        What a table of ours says of itself.
    unused
        Columns that are neither, and what they are.
    """

    columns: Columns
    where: str
    units: dict[str, str] = field(default_factory=dict)
    ucds: dict[str, str] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


def from_astropy(table: Any, where: str) -> Table:
    """Take the columns of an astropy table: sky coordinates as degrees (ICRS), times as text or numbers."""
    columns: Columns = {}
    units: dict[str, str] = {}
    unused: dict[str, str] = {}
    ucds: dict[str, str] = {}
    frames: dict[str, str] = {}
    for number, name in enumerate(table.colnames, 1):
        column = table[name]
        ucds[name] = str((column.info.meta or {}).get("ucd") or table.meta.get(f"TUCD{number}", ""))
        if _SAYS_B1950.search(described := str(column.info.description)) and not _SAYS_NEW.search(described):
            frames[name] = B1950
        if type(column).__name__ == "SkyCoord":
            sky = column.icrs
            unused[name] = "sky coordinates"
            is_main = not {"ra", "dec"} & set(table.colnames) and "ra" not in columns
            ra, dec = ("ra", "dec") if is_main else (f"{name}_ra", f"{name}_dec")
            columns[ra], columns[dec] = np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)
            continue
        if type(column).__name__ == "Time":
            values: Any = np.ma.asarray(column.value)
        elif type(column).__name__.endswith(("Quantity", "Angle", "Longitude", "Latitude")):
            mask = getattr(column, "mask", False)
            values = np.ma.array(getattr(column, "unmasked", column).value, mask=mask)
        else:
            values = column
        unit = getattr(column, "unit", None)
        if unit is not None and str(unit):
            units[name] = str(unit)
        try:
            columns[name] = plain_array(values)
        except TypeError:
            unused[name] = type(column).__name__ if not hasattr(values, "dtype") else str(values.dtype)
    raw = table.meta.get(INFO, table.meta.get(INFO.upper(), "{}"))
    return Table(
        columns=columns,
        units=units,
        ucds={name: ucd for name, ucd in ucds.items() if ucd},
        frames=frames,
        where=where,
        info=as_info(raw),
        unused=unused,
    )


def plain_array(values: Any) -> np.ndarray:
    """Return a column as an ordinary array, with gaps as `Table` has them.

    Raises
    ------
    TypeError
        It holds neither numbers, nor truth values, nor text.
    """
    is_gap = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = np.asarray(np.ma.getdata(values))
    kind = array.dtype.kind
    if array.ndim > 1 and all(length == 1 for length in array.shape[1:]):  # lists of one value each
        return plain_array(values.reshape(len(array)))
    if array.ndim == 2 and kind in "SU":
        return np.stack([plain_array(row) for row in array])
    if array.ndim > 1 and kind in "iufb":
        array = array.astype(array.dtype.newbyteorder("="))
        return array if is_gap is None or not is_gap.any() else np.where(is_gap, np.nan, array.astype(float))
    if array.ndim != 1:
        raise TypeError
    if kind == "O":
        if not all(value is None or isinstance(value, (str, bytes)) for value in array):
            raise TypeError
        array = np.array(["" if value is None else decoded(value) for value in array], dtype=str)
    elif kind == "S":
        array = np.array([decoded(value) for value in array.tolist()], dtype=str)
    if array.dtype.kind == "U":
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


def decoded(value: str | bytes) -> str:
    """Return text, of bytes as UTF-8 or else Latin-1."""
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")


def as_info(raw: Any) -> dict[str, Any]:
    """Return what a table of ours says of itself; whatever else stands in that place is not for us."""
    try:
        content = parse_json(str(raw if isinstance(raw, str) else decoded(raw or b"{}")), where="a table")
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def whole_with_gaps(values: np.ndarray, is_gap: np.ndarray) -> np.ndarray:
    """Return whole numbers of which some lack: floats with NaN where exact, else text with ``""``."""
    if not is_gap.any():
        return values
    there = values[~is_gap]
    if not len(there) or (there.max() <= EXACT and there.min() >= -EXACT):
        return np.where(is_gap, np.nan, values.astype(np.float64))
    return np.where(is_gap, "", values.astype(str))


def truth_with_gaps(values: np.ndarray, is_gap: np.ndarray) -> np.ndarray:
    """Return truth values of which some lack as text, the others as they are."""
    values = values.astype(bool)
    return np.where(is_gap, "", np.where(values, "true", "false")) if is_gap.any() else values


def with_list(columns: Columns, name: str) -> Columns:
    """Return the columns with ``NAME_0``, ``NAME_1`` and so on, which CSV has of a list, as one of lists.

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


def require_distinct(names: Sequence[str], where: str | Path) -> None:
    """Refuse a table that has two columns of one name."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: two columns are named {twice!r}; rename one of them")


def require_column(columns: Mapping[str, np.ndarray], name: str, where: str | Path) -> np.ndarray:
    """Return a column, or say which one was most likely meant."""
    if name not in columns:
        if (missing := getattr(columns, "missing", None)) is not None:  # a joined table knows more
            raise InputError(missing(name))
        likely = [c for c in columns if c.lower() in LIKELY_REDSHIFTS] if name == "z_spec" else []
        hint = f"is it {likely[0]!r}? name it (label_column)" if likely else nearest(name, columns)
        raise InputError(f"{where}: no column {name!r}; {hint}")
    return columns[name]
