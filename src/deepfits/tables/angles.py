"""Angles as tables write them, in degrees: units, sexagesimal notation, hours."""

import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.errors import InputError
from deepfits.tables.entries import GAPS

_HOURS = re.compile(r"^([+-]?\d+)\s*[h:\s]\s*\d+", re.IGNORECASE)
_THREE_PARTS = (
    r"^(?P<sign>[+-]?)(?P<first>\d+)(?:[:\s]|LETTER\s*)(?P<minutes>\d+)(?:[:\s]|m\s*)"
    r"(?P<seconds>\d+(?:\.\d*)?)s?$"
)
_DECIMAL = re.compile(r"^\+?(\d+\.?\d*|\.\d+)$")
_HOUR_UNITS = ("h", "hr", "hrs", "hour", "hours", "hourangle", "hms", "h:m:s", '"h:m:s"', "hh:mm:ss")
_DEGREE_UNITS = (
    "", "deg", "degree", "degrees", "dms", "d:m:s", '"d:m:s"', "dd:mm:ss", "°", "degr",
)  # fmt: skip

_SAYS_DEGREES = re.compile(r'"?d[dm:]')
"""Beginning of units of sexagesimal degrees; plain degrees are stated even where the text is in hours."""

log = logging.getLogger(__name__)


def degrees(
    values: np.ndarray, unit: str, name: str, where: str | Path, *, is_longitude: bool, frame: str
) -> np.ndarray:
    """Return the angles of a column in degrees, ``(N,)`` float64, from numbers or text."""
    if values.ndim != 1:
        raise InputError(f"{where}: column {name!r} contains lists, not angles")
    if values.dtype.kind == "U":
        return _angles(values, unit, name, where, is_hours=is_longitude and frame != "galactic")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{where}: column {name!r} contains no angles")
    return values.astype(np.float64) * _degrees_per(unit, name, where, is_hours=is_longitude)


def _degrees_per(unit: str, name: str, where: str | Path, *, is_hours: bool) -> float:
    """Return the size of a unit in degrees; hours are those of right ascensions."""
    from astropy import units

    if unit in _HOUR_UNITS:
        return 15.0 if is_hours else 1.0
    if unit in _DEGREE_UNITS or (re.search("(?<![a-z])deg", unit) and not re.search(r"[\d/*]", unit)):
        return 1.0
    try:  # astropy's own 15deg among them
        return float(units.Unit(re.sub("radians$", "rad", unit)).to(units.deg))
    except (ValueError, TypeError):
        raise InputError(
            f"{where}: column {name!r} has the unit {unit!r}, which is not an angular unit; use degrees"
        ) from None


def _angles(text: np.ndarray, unit: str, name: str, where: str | Path, *, is_hours: bool) -> np.ndarray:
    """Parse angles: 10:00:28.6, 10h00m28.6s, 10 00 28.6, or 150.119; the result is in degrees."""
    from astropy.coordinates import Angle

    out = np.full(len(text), np.nan)
    is_there = ~np.isin(np.char.lower(text), GAPS)
    if not is_there.any():
        return out
    entries = np.char.replace(text[is_there], "−", "-")
    try:  # numbers, with or without a sign for degrees
        number = np.char.rstrip(entries, "dD° ").astype(np.float64)
    except ValueError:
        first = [abs(int(match[1])) for match in map(_HOURS.match, entries.tolist()) if match is not None]
        largest = max(first, default=0)
        kind = "hourangle" if is_hours and largest <= 24 and not _SAYS_DEGREES.match(unit) else "deg"
        if kind == "hourangle" and unit and unit in _DEGREE_UNITS and not re.search("[dh]", entries[0]):
            log.warning(
                "WARNING: %s: %s is taken as hours, minutes and seconds, although its unit is %s; if it is "
                "degrees, minutes and seconds, give the unit d:m:s",
                *(where, name, unit),
            )
        letter, factor = ("h", 15) if kind == "hourangle" else ("d", 1)
        if (angle := _in_three_parts(entries, letter)) is not None:
            out[is_there] = angle * factor
            return out
        if kind == "hourangle":
            _require_one_notation(text, unit, name, where)
        for row, entry in zip(np.flatnonzero(is_there), entries.tolist(), strict=True):
            try:
                out[row] = Angle(entry, unit=kind).degree
            except Exception as error:  # astropy raises many kinds
                raise InputError(
                    f"{where}: column {name!r} contains {entry!r}, which is not an angle; use degrees or "
                    "10:00:28.6"
                ) from error
    else:
        out[is_there] = number * _degrees_per(unit, name, where, is_hours=is_hours)
    return out


def _require_one_notation(text: np.ndarray, unit: str, name: str, where: str | Path) -> None:
    """Reject right ascensions in degrees among others in hours; 0 and −99 mean the same in both."""
    entries = text.tolist()
    sexagesimal = next((row for row, entry in enumerate(entries) if _HOURS.match(entry)), None)
    for row, entry in enumerate(entries):
        number = float(entry) if _DECIMAL.match(entry) else 0.0
        if sexagesimal is not None and (24 if unit in _HOUR_UNITS else 0) < number <= 360:
            raise InputError(
                f"{where}: column {name!r} has decimal and sexagesimal right ascensions, such as {entry!r} "
                f"in row {row + 1} and {entries[sexagesimal]!r} in row {sexagesimal + 1}; use degrees"
            )


def _in_three_parts(text: np.ndarray, letter: str) -> np.ndarray | None:
    """Parse angles that are all written as 10:00:28.6, 10 00 28.6 or, with `letter` h, 10h00m28.6s.

    The result is in the unit of the first part, or None if any angle has another form. astropy, which parses
    them one by one, takes a hundred times longer.
    """
    parts = pc.extract_regex(pa.array(text.tolist(), pa.string()), _THREE_PARTS.replace("LETTER", letter))
    if parts.null_count:
        return None
    first, minutes, seconds = (
        pc.cast(parts.field(number), pa.float64()).to_numpy(zero_copy_only=False) for number in (1, 2, 3)
    )
    if (minutes >= 60).any() or (seconds >= 60).any():
        return None
    is_minus = pc.equal(parts.field(0), "-").to_numpy(zero_copy_only=False)
    return np.asarray(np.where(is_minus, -1, 1) * (first + minutes / 60 + seconds / 3600))
