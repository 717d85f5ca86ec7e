"""Positions and identities of objects, whatever the names and units of their columns.

Positions are returned in degrees, ICRS; identities as int64 or text, exactly as stored.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.errors import InputError
from deepfits.tables.table import B1950, EXACT, Table
from deepfits.tables.text import FIELDS, GAPS, IDENTITIES, SIGNS, WITH_EXPONENT

POSITIONS = (
    ("ra", "dec"), ("alpha_j2000", "delta_j2000"), ("raj2000", "dej2000"), ("raj2000", "decj2000"),
    ("ra_j2000", "dec_j2000"), ("_raj2000", "_dej2000"), ("ra_deg", "dec_deg"), ("radeg", "dedeg"),
    ("radeg", "decdeg"), ("ra_icrs", "de_icrs"), ("ra_icrs", "dec_icrs"), ("target_ra", "target_dec"),
    ("coord_ra", "coord_dec"), ("alphawin_j2000", "deltawin_j2000"), ("alphapsf_j2000", "deltapsf_j2000"),
    ("right_ascension", "declination"), ("rightascension", "declination"), ("ramean", "decmean"),
    ("rastack", "decstack"),
    ("ra_hours", "dec_deg"), ("ra_hours", "dec"), ("ra_hour", "dec"), ("ra_rad", "dec_rad"),
    ("plug_ra", "plug_dec"), ("plugra", "plugdec"), ("alpha", "delta"), ("alpha_sky", "delta_sky"),
    ("ra_deg_j2000", "dec_deg_j2000"),
    ("raj2000_deg", "dej2000_deg"), ("ra_1", "dec_1"), ("i_ra", "i_dec"), ("_ra", "_de"),
    ("ra2000", "dec2000"), ("al2000", "de2000"), ("ra_hms", "dec_dms"), ("_ra_icrs", "_de_icrs"),
    ("ra", "decl"), ("ra", "declination"), ("r.a.", "dec."), ("r.a.", "decl."), ("meanra", "meandec"),
    ("x_world", "y_world"), ("xwin_world", "ywin_world"),
    ("_ra.icrs", "_de.icrs"), ("matchra", "matchdec"), ("sup_ra", "sup_dec"), ("s_ra", "s_dec"),
    ("ra_d", "dec_d"),
)  # fmt: skip
OLD_POSITIONS = (
    ("alpha_b1950", "delta_b1950"), ("rab1950", "deb1950"), ("_rab1950", "_deb1950"),
    ("ra_b1950", "dec_b1950"), ("al1950", "de1950"), ("ra1950", "dec1950"), ("ra_1950", "dec_1950"),
    ("alpha_1950", "delta_1950"), ("alpha1950", "delta1950"), ("ra50", "dec50"),
)  # fmt: skip
GALACTIC = (("glon", "glat"), ("_glon", "_glat"), ("gal_lon", "gal_lat"), ("l", "b"))
PIXELS = (("x", "y"), ("x_pixel", "y_pixel"), ("xcentroid", "ycentroid"), ("x_centroid", "y_centroid"))
FITS_PIXELS = (("x_image", "y_image"), ("xwin_image", "ywin_image"), ("xpsf_image", "ypsf_image"))

SAME_OBJECT_ARCSEC = 1.0
"""Two pairs of columns agree if the median separation of their positions is smaller."""

log = logging.getLogger(__name__)

_HOURS = re.compile(r"^([+-]?\d+)\s*[h:\s]\s*\d+", re.IGNORECASE)
_THREE_PARTS = (
    r"^(?P<sign>[+-]?)(?P<first>\d+)(?:[:\s]|LETTER\s*)(?P<minutes>\d+)(?:[:\s]|m\s*)"
    r"(?P<seconds>\d+(?:\.\d*)?)s?$"
)
_DECIMAL = re.compile(r"^\+?(\d+\.?\d*|\.\d+)$")
_UNIT_IN_NAME = re.compile(r"\s*[\[(]([^\])]*)[\])]$")  # RA (deg), DEC[deg]
# One of the six sexagesimal columns of a position: RAh, ra_min, DEd, decs.
_PART = re.compile(r"(ra|dec?)_?(h|d|m|s)(?:(?<=h)(?:r|ours?)|(?<=m)in|(?<=s)ec)?")
_B1950_NAME = re.compile(r"(?<!\d)(?:1950(?:\.0)?|fk4)(?![\d.])", re.IGNORECASE)
_EQUINOX = re.compile(r"(?:(?:ra|pos|coord)_?)?equinox|epoch_of_equinox|equinox_epoch")
_MINUS = ("-", "−", "–", "-1", "-1.0")
# Parts of names that tell other columns with "ra" in their name from positions.
_NOT_A_POSITION = re.compile(
    r"(?<![a-z])(?:pm|e|err|errors?|sigma|sig|std|stddev|ivar|var|variance|unc|mu|off|offset|delta|diff|cov|corr|"
    r"deg|hms|dms|[hdms]|min|sec|sys|scatter|epoch|fwhm|size|shift|corner|cen|cent(?:er|re)|tile|field|tel|"
    r"pointing|boresight|fiber|fibre|star|nearest|plate)(?![a-z])|1950|err$|^[hdms]$"
)
_HOUR_UNITS = ("h", "hr", "hrs", "hour", "hours", "hourangle", "hms", "h:m:s", '"h:m:s"', "hh:mm:ss")
_RADIAN_UNITS = ("rad", "radian", "radians")
_DEGREE_UNITS = (
    "", "deg", "degree", "degrees", "dms", "d:m:s", '"d:m:s"', "angle[deg]", "dd:mm:ss", "°", "degr",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Positions of objects.

    Attributes
    ----------
    ra, dec
        ``(N,)`` degrees, ICRS, `ra` from 0 to 360; NaN where the position is unknown.
    names
        Columns from which they were read.
    lost
        How many objects have no position, and why; empty if all have one.
    """

    ra: np.ndarray
    dec: np.ndarray
    names: tuple[str, ...]
    lost: str = ""

    @property
    def is_known(self) -> np.ndarray:
        """Mask ``(N,)`` of the objects that have a position."""
        return np.asarray(np.isfinite(self.ra))


def position_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the two columns whose names are those of right ascension and declination, or None."""
    return _first_pair(names, POSITIONS)


def identity_name(names: Iterable[str]) -> str | None:
    """Return the column that identifies the objects, or None."""
    return _first(names, IDENTITIES)


def _bare(name: str) -> str:
    """Normalise a name as in the lists above: ``Right Ascension (J2000)`` becomes ``right_ascension``."""
    return _UNIT_IN_NAME.sub("", name.lower()).replace(" ", "_")


def _first(names: Iterable[str], aliases: Iterable[str]) -> str | None:
    by_lower = {_bare(name): name for name in reversed(list(names))}
    by_lower |= {name.lower(): name for name in reversed(list(names))}
    return next((by_lower[alias] for alias in aliases if alias in by_lower), None)


def _first_pair(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    names = list(names)
    by_lower = {_bare(name): name for name in reversed(names)}
    for longitude, latitude in pairs:
        if longitude in names and latitude in names:
            return longitude, latitude
        if longitude in by_lower and latitude in by_lower:
            return by_lower[longitude], by_lower[latitude]
    return None


def positions(
    columns: Mapping[str, np.ndarray], units: Mapping[str, str], where: str | Path
) -> Positions | None:
    """Find the sky positions of the objects; None if no columns contain them.

    Sexagesimal right ascensions (with colons, blanks or h) are in hours unless their first numbers exceed 24;
    numbers are in degrees unless the unit or the name says hours or radians.

    Raises
    ------
    InputError
        An entry that is not an angle, an unsuitable unit, or values that may be degrees or radians.
    """
    pair, frame = _first_pair(columns, POSITIONS), "icrs"
    if pair is None:
        if (found := _components(columns, where)) is not None:
            return found
        pair = _similar_pair(columns, units, where)
    if pair is None:
        pair, frame = _first_pair(columns, OLD_POSITIONS), B1950
    if pair is None:
        pair, frame = _first_pair(columns, GALACTIC), "galactic"
        if pair is not None and len(pair[0]) == 1 and pair != ("l", "b"):
            return None  # L and B may equally be magnitudes
    if pair is None:
        return None
    if any(columns[name].dtype in (np.float16, np.float32) for name in pair):
        log.warning(
            "WARNING: %s: %s and %s are stored in single precision, accurate to about 0.03″", where, *pair
        )
    found = _from_pair(columns, units, where, pair, frame)
    if frame == "icrs" and not found.is_known.all():
        return _with_other_pair(found, columns, units, where)
    return found


def _from_pair(
    columns: Mapping[str, np.ndarray],
    units: Mapping[str, str],
    where: str | Path,
    pair: tuple[str, str],
    frame: str,
) -> Positions:
    """Return the positions in two columns; ``RA (1950)`` and ``ra_fk4`` are taken as B1950."""
    if frame == "icrs" and all(_B1950_NAME.search(f"{name} {units.get(name, '')}") for name in pair):
        frame = B1950
    longitude, latitude = (
        _degrees(columns[name], _unit(name, units), name, where, is_longitude=number == 0, frame=frame)
        for number, name in enumerate(pair)
    )
    if pair[0].lower() == "coord_ra" and not _unit(pair[0], units) and _may_be_radians(longitude, latitude):
        raise InputError(
            f"{where}: {pair[0]} and {pair[1]} may be degrees or radians, since none exceeds 2π and π/2; "
            "specify by a unit (FITS, ECSV), or by the names ra_deg, dec_deg or ra_rad, dec_rad"
        )
    return _validated(longitude, latitude, pair, frame)


def frame_of(system: Any, equinox: Any) -> str:
    """Return the stated frame in the notation of `Table.frames`; '' for ICRS and J2000, or if none is stated.

    Examples
    --------
    >>> frame_of("FK4", None), frame_of("", 1975.0), frame_of("eq_FK5", "J2015.5"), frame_of("ICRS", 2016.0)
    ('fk4 B1950', 'fk4 B1975', 'fk5 J2015.5', '')
    """
    number = re.search(r"(?:1[89]|20)\d\d(?:\.\d*)?", str(equinox))
    year = float(number[0]) if number else None
    kind = re.sub("^(?:EQ_)?(FK[45]).*", r"\1", str(system).strip().upper())
    if kind == "FK4" or (kind == "" and year is not None and year < 1984):  # the default of the FITS standard
        return f"fk4 B{year or 1950:g}"
    return f"fk5 J{year:g}" if kind in ("FK5", "") and year not in (None, 2000) else ""


def with_file_conventions(table: Table) -> Table:
    """Add the columns that the file itself marks as the main ones (UCDs), and convert positions to ICRS."""
    return _in_icrs(_with_stated_equinox(_with_main_columns(table)))


def _with_stated_equinox(table: Table) -> Table:
    """Add the frame that a column such as EQUINOX states, unless the file has stated one."""
    names = [name for name in table.columns if _EQUINOX.fullmatch(_bare(name))]
    if table.frames or not names:
        return table
    stated = {frame_of("", entry) for name in names for entry in np.unique(table.columns[name]).tolist()}
    if len(stated) > 1:
        log.warning(
            "WARNING: %s: the rows have different equinoxes (%s), and all are taken as J2000; give positions "
            "of one equinox",
            *(table.where, names[0]),
        )
        return table
    return replace(table, frames=dict.fromkeys(table.columns, frame)) if (frame := "".join(stated)) else table


def _with_equinox_2000(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write 2000 into columns such as EQUINOX, for positions that are ICRS by now."""
    equinox = {
        name: np.full(len(values), "J2000") if values.dtype.kind == "U" else np.full_like(values, 2000)
        for name, values in columns.items()
        if _EQUINOX.fullmatch(_bare(name))
        and all(frame_of("", entry) for entry in np.unique(values).tolist())
    }
    return {**columns, **equinox}


def _with_main_columns(table: Table) -> Table:
    """Add `ra`, `dec` and `object_id` by UCD if no column is named like a position or an identity."""
    said: dict[str, str | None] = {}
    if position_names(table.columns) is None and not _named_components(table.columns):
        said |= {name: main_column(table.ucds, f"pos.eq.{name}") for name in ("ra", "dec")}
    if identity_name(table.columns) is None:
        said["object_id"] = main_column(table.ucds, "meta.id")
    main = {ours: theirs for ours, theirs in said.items() if theirs in table.columns}
    identity = table.columns.get(main.get("object_id") or "")
    if identity is not None and len(np.unique(identity)) < len(identity):  # rows will be numbered instead
        del main["object_id"]
    if len({"ra", "dec"} & main.keys()) == 1:
        return table

    def with_copies(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{ours: values[str(theirs)] for ours, theirs in main.items() if theirs in values}}

    return replace(
        table,
        columns=with_copies(table.columns),
        units=with_copies(table.units),
        frames=with_copies(table.frames),
    )


def _in_icrs(table: Table) -> Table:
    """Convert positions to ICRS if the file states another frame, unless their names state the frame."""
    columns, units, where = table.columns, table.units, table.where
    pair, parts = position_names(columns), tuple(_named_components(columns).values())
    if table.frames and pair is None and not parts:
        pair = _similar_pair(columns, units, where)
    names = pair or parts
    frame = next((table.frames[name] for name in names if name in table.frames), None)
    if (
        frame is None
        or re.search("2000|icrs", " ".join(names).lower())
        or all(map(_B1950_NAME.search, names))
    ):
        return table
    found = _from_pair(columns, units, where, pair, frame) if pair else _components(columns, where, frame)
    if found is None:
        return table
    advice = "" if frame == B1950 else "; if this is the epoch of observation, write 2000 or ICRS there"
    log.warning(
        "WARNING: %s: %s and %s are converted from %s, as stated by the file, to ICRS%s",
        *(where, names[0], names[-1], frame.upper(), advice),
    )
    pair = pair or ("ra", "dec")
    return replace(
        table,
        columns=_with_equinox_2000(columns) | dict(zip(pair, (found.ra, found.dec), strict=True)),
        units=units | dict.fromkeys(pair, "deg"),
    )


def main_column(ucds: Mapping[str, str], ucd: str) -> str | None:
    """Return the main column of a kind by its UCD (UCD1+, or UCD1 of before 2005); None if ambiguous.

    Examples
    --------
    >>> main_column({"a": "pos.eq.ra;meta.main", "b": "pos.eq.ra", "c": "stat.error;pos.eq.ra"}, "pos.eq.ra")
    'a'
    """
    words = {name: said.lower().split(";") for name, said in ucds.items()}
    old = f"{ucd.removeprefix('meta.').replace('.', '_')}_main"
    mains = [name for name, said in words.items() if said[:2] == [ucd, "meta.main"] or said == [old]]
    mains = mains or [name for name, said in words.items() if said == [ucd] and ucd != "meta.id"]
    return mains[0] if len(mains) == 1 else None


def _with_other_pair(
    found: Positions, columns: Mapping[str, np.ndarray], units: Mapping[str, str], where: str | Path
) -> Positions:
    """Fill missing positions from other columns of the same objects, such as raStack beside raMean."""
    used = {name.lower() for name in found.names}
    for names in POSITIONS:
        pair = _first_pair(columns, [names])
        if pair is None or used & {name.lower() for name in pair}:
            continue
        try:
            other = _from_pair(columns, units, where, pair, "icrs")
        except InputError:  # no angles
            continue
        more = ~found.is_known & other.is_known
        if not more.any() or not positions_agree(found, other):
            continue
        log.warning(
            "WARNING: %s: %d of %d objects without %s and %s take their positions from %s and %s",
            *(where, int(more.sum()), len(more), *found.names, *pair),
        )
        ra, dec = np.where(more, other.ra, found.ra), np.where(more, other.dec, found.dec)
        left = int(np.isnan(ra).sum())
        lost = f"{left} objects without {found.names[0]} or {pair[0]}" if left else ""
        found = Positions(ra=ra, dec=dec, names=found.names, lost=lost)
    return found


def positions_agree(one: Positions, other: Positions) -> bool:
    """Return whether two sets of positions agree where both are known (see `SAME_OBJECT_ARCSEC`)."""
    both = one.is_known & other.is_known
    if not both.any():
        return False
    east = ((one.ra - other.ra + 180) % 360 - 180)[both] * np.cos(np.radians(one.dec[both]))
    return float(np.median(np.hypot(east, (one.dec - other.dec)[both]))) * 3600 < SAME_OBJECT_ARCSEC


def _similar_pair(
    columns: Mapping[str, np.ndarray], units: Mapping[str, str], where: str | Path
) -> tuple[str, str] | None:
    """Return columns whose names differ only in ra and dec, such as ``ra_corrected`` and ``dec_corrected``.

    Raises
    ------
    InputError
        Several such pairs that disagree.
    """
    by_lower = {_bare(name): name for name in reversed(list(columns))}
    pairs: dict[tuple[str, str], Positions] = {}
    for lower, name in reversed(by_lower.items()):
        for match in re.finditer(r"(?<![a-z0-9])(?:ra|alpha)", lower):
            ends = ("dec", "de") if match[0] == "ra" else ("delta",)
            rest = lower[: match.start()], lower[match.end() :]
            other = next((by_lower[n] for end in ends if (n := end.join(rest)) in by_lower), None)
            if other is None or _NOT_A_POSITION.search(" ".join(rest)):
                continue
            try:
                place = _from_pair(columns, units, where, (name, other), "icrs")
            except InputError:  # no angles
                continue
            if place.is_known.any():
                pairs[name, other] = place
    if not pairs:
        return None
    first, *others = pairs
    for pair in others:
        if not positions_agree(pairs[first], pairs[pair]):
            raise InputError(
                f"{where}: {' and '.join(first)} disagree with {' and '.join(pair)}; rename those "
                "that are meant to ra and dec"
            )
    log.warning("WARNING: %s: %s and %s are taken as the positions of the objects", where, *first)
    return first


def _may_be_radians(ra: np.ndarray, dec: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return not ((np.abs(ra) > 2 * np.pi) | (np.abs(dec) > np.pi / 2)).any()


def _validated(longitude: np.ndarray, latitude: np.ndarray, names: tuple[str, ...], frame: str) -> Positions:
    """Convert positions to ICRS, with NaN for impossible values and for placeholders such as (−1, −1)."""
    is_number = np.isfinite(longitude) & np.isfinite(latitude)
    with np.errstate(invalid="ignore"):
        is_place = is_number & (np.abs(latitude) <= 90) & (np.abs(longitude) <= 360)
        is_code = is_place & (longitude == latitude) & (longitude == np.round(longitude))
    if is_code.sum() > 1:  # 0 and 0, or -1 and -1
        is_place, is_number = is_place & ~is_code, is_number & ~is_code
    lost = (
        (~is_number, f"without {names[0]} or {names[-1]}"),
        (is_number & ~is_place, "with dec beyond ±90 or ra beyond 360 (are they degrees, and not swapped?)"),
    )
    reasons = ", ".join(f"{int(mask.sum())} objects {what}" for mask, what in lost if mask.any())
    longitude, latitude = np.where(is_place, longitude, np.nan), np.where(is_place, latitude, np.nan)
    if frame != "icrs" and is_place.any():
        from astropy.coordinates import FK4, FK5, Galactic, SkyCoord

        name, _, equinox = frame.partition(" ")
        system = Galactic() if name == "galactic" else {"fk4": FK4, "fk5": FK5}[name](equinox=equinox)
        sky = SkyCoord(longitude[is_place], latitude[is_place], unit="deg", frame=system).icrs
        longitude[is_place], latitude[is_place] = sky.ra.deg, sky.dec.deg
    with np.errstate(invalid="ignore"):
        return Positions(
            ra=np.where(longitude < 0, longitude + 360, longitude), dec=latitude, names=names, lost=reasons
        )


def _unit(name: str, units: Mapping[str, str]) -> str:
    in_name = _UNIT_IN_NAME.search(name)
    stated = (units.get(name, "") or (in_name[1] if in_name else "")).strip().lower()
    stated = re.sub(r"^(?:icrs|fk[45]|[bj]?(?:1950|2000)(?:\.0)?)$", "", stated)
    lower = name.lower()
    if stated:
        return stated
    if lower.endswith(("_hours", "_hour", "_hms")) or lower in ("al2000", "al1950"):  # HyperLEDA's
        return "h"
    return "rad" if lower.endswith(("_rad", "_radians")) else ""


def _degrees(
    values: np.ndarray, unit: str, name: str, where: str | Path, *, is_longitude: bool, frame: str
) -> np.ndarray:
    if values.ndim != 1:
        raise InputError(f"{where}: column {name!r} contains lists, not angles")
    if values.dtype.kind == "U":
        return _angles(values, unit, name, where, is_hours=is_longitude and frame != "galactic")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{where}: column {name!r} contains no angles")
    number = values.astype(np.float64)
    if unit in _HOUR_UNITS:
        return number * 15 if is_longitude else number
    if unit in _RADIAN_UNITS:
        return np.degrees(number)
    if unit in _DEGREE_UNITS:
        return number
    if (factor := _degrees_of(unit)) is not None:
        return number * factor
    if "deg" in unit and not re.match(r"\d", unit):
        return number
    raise InputError(
        f"{where}: column {name!r} has the unit {unit!r}, which is not an angular unit; use degrees"
    )


def _degrees_of(unit: str) -> float | None:
    """Return a unit in degrees, also astropy's ``15deg`` for hours; None if it is not an angular unit."""
    from astropy import units

    try:
        return float(units.Unit(unit).to(units.deg))
    except (ValueError, TypeError):  # not a unit, or not an angular one
        return None


def _angles(text: np.ndarray, unit: str, name: str, where: str | Path, *, is_hours: bool) -> np.ndarray:
    """Parse angles: 10:00:28.6, 10h00m28.6s, 10 00 28.6, or 150.119; the result is in degrees."""
    from astropy.coordinates import Angle

    out = np.full(len(text), np.nan)
    is_there = ~np.isin(np.char.lower(text), GAPS)
    there = np.char.replace(text[is_there], "−", "-")
    if not len(there):
        return out
    try:  # numbers, with or without a sign for degrees
        bare = np.char.rstrip(there, "dD° ")
        number = bare.astype(np.float64)
        factor = 15.0 if is_hours and unit in _HOUR_UNITS else 1.0
        out[is_there] = np.degrees(number) if unit in _RADIAN_UNITS else number * factor
    except ValueError:
        first = [abs(int(match[1])) for match in map(_HOURS.match, there.tolist()) if match is not None]
        largest = max(first, default=0)
        says_degrees = unit.startswith(("d", "°")) and unit != "" and "h" not in unit
        kind = "hourangle" if is_hours and largest <= 24 and not says_degrees else "deg"
        letter, factor = ("h", 15) if kind == "hourangle" else ("d", 1)
        if (angle := _in_three_parts(there, letter)) is not None:
            out[is_there] = angle * factor
            return out
        if kind == "hourangle":
            _require_one_notation(text, unit, name, where)
        try:
            out[is_there] = Angle(there, unit=kind).degree
        except Exception:  # astropy raises many kinds; find the entry
            for entry in there.tolist():
                try:
                    Angle(entry, unit=kind)
                except Exception as error:
                    raise InputError(
                        f"{where}: column {name!r} contains {entry!r}, which is not an angle; use degrees "
                        "or 10:00:28.6"
                    ) from error
            raise InputError(f"{where}: column {name!r} contains no angles") from None
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


def _named_components(names: Iterable[str]) -> dict[str, str]:
    """Return the six sexagesimal columns of positions, as in journal tables; empty unless all are present."""
    named = {match[1][:2] + match[2]: name for name in names if (match := _PART.fullmatch(name.lower()))}
    needed = ("rah", "ram", "ras", "ded", "dem", "des")
    return {part: named[part] for part in needed} if set(needed) <= named.keys() else {}


def _components(
    columns: Mapping[str, np.ndarray], where: str | Path, frame: str = "icrs"
) -> Positions | None:
    """Combine sexagesimal columns, six and possibly a seventh with the sign of the declination."""
    named = _named_components(columns)
    if not named:
        return None
    try:
        h, m, s, d, arcmin, arcsec = (columns[name].astype(np.float64) for name in named.values())
    except ValueError:
        raise InputError(f"{where}: the columns RAh to DEs contain text that is not a number") from None
    sign = np.ones(len(h))
    signs = next((name for name in columns if SIGNS.fullmatch(name)), None)
    if signs is not None:
        sign = np.where(np.isin(np.char.strip(columns[signs].astype(str)), _MINUS), -1.0, 1.0)
    elif columns[named["ded"]].dtype.kind in "iu" and (d < 0).any():
        is_lost = (d == 0) & (arcmin >= 0) & (arcsec >= 0)  # integers cannot be -0
        if is_lost.any():
            log.warning(
                "WARNING: %s: %d declinations are not used: %s is 0, without a sign, and negative in other "
                "rows; add a column DE- with their signs",
                *(where, int(is_lost.sum()), named["ded"]),
            )
        d = np.where(is_lost, np.nan, d)
    sign = np.where(np.signbit(d), -1.0, sign)
    ra, dec = 15 * (h + m / 60 + s / 3600), sign * (np.abs(d) + arcmin / 60 + arcsec / 3600)
    return _validated(ra, dec, tuple(named.values()), frame)


def pixel_positions(
    columns: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]] | None:
    """Find pixel positions, converted to a count from 0 (X_IMAGE counts from 1); None if there are none."""
    pair, origin = _first_pair(columns, PIXELS), 0.0
    if pair is None:
        pair, origin = _first_pair(columns, FITS_PIXELS), 1.0
    if pair is None or any(columns[name].dtype.kind not in "iuf" or columns[name].ndim != 1 for name in pair):
        return None
    x, y = (columns[name].astype(np.float64) - origin for name in pair)
    return x, y, pair


def identities(values: np.ndarray, where: str | Path, name: str = "object_id") -> np.ndarray:
    """Return identities exactly, as int64 or text; ``""`` (in text) for missing ones.

    Raises
    ------
    InputError
        Floats that are not exact integers, text rounded by a spreadsheet, lists, or any other type.

    Examples
    --------
    >>> identities(np.array([3.0, 7.0]), "labels.fits").tolist()
    [3, 7]
    """
    kind = values.dtype.kind
    if values.ndim != 1 or kind not in "iufU":
        raise InputError(f"{where}: {name} must be integers or text, not {values.dtype}")
    if kind == "U":
        there = values[values != ""]
        if len(there) and all(re.match(WITH_EXPONENT, text.strip()) for text in there):
            raise InputError(
                f"{where}: {name} {str(there[0])!r} was rounded by a spreadsheet; export it again as "
                "integers or text"
            )
        return np.char.strip(values) if len(values) else values
    if kind == "f":
        is_there = np.isfinite(values)
        there = values[is_there].astype(np.float64)
        exact = 2**24 if values.dtype.itemsize == 4 else EXACT
        if (np.abs(there) >= exact).any():
            raise InputError(
                f"{where}: {name} was written as floating point, in which numbers like "
                f"{there[np.abs(there).argmax()]:.0f} are no longer exact; write it again as integers "
                "(int64) or text"
            )
        if len(fractional := there[there != np.round(there)]):
            raise InputError(
                f"{where}: {name} {fractional[0]:g} is not a whole number; identities must be integers "
                "or text"
            )
        whole = np.zeros(len(values), np.int64)
        whole[is_there] = there.astype(np.int64)
        return whole if is_there.all() else np.where(is_there, whole.astype(str), "")
    if kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        return values.astype(str)
    return values.astype(np.int64)


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


def place_hint(ra: np.ndarray, near: np.ndarray) -> str:
    """Return a hint if right ascensions far from `near` would match them as hours or radians."""
    ra, near = ra[np.isfinite(ra)], near[np.isfinite(near)]
    if not len(ra) or not len(near):
        return ""
    low, high = near.min(), near.max()
    for factor, unit, limit in ((15.0, "hours", 24.0), (float(np.degrees(1)), "radians", 2 * np.pi)):
        there = ra * factor
        inside = (there >= low - 0.5) & (there <= high + 0.5)
        if ra.max() <= limit and inside.mean() > 0.5:
            short = "ra_hours" if unit == "hours" else "ra_rad and dec_rad"
            return f"; the right ascensions look like {unit}: name the column {short}, or give its unit"
    return ""


def with_legacy_identity(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add identities to tables of the Legacy Surveys that have none better than OBJID.

    OBJID restarts in each brick; RELEASE, BRICKID and OBJID together give DESI's TARGETID.
    """
    parts = [_first(columns, [part]) for part in ("release", "brickid", "objid")]
    if identity_name(columns) != parts[2] or not all(p and columns[p].dtype.kind in "iu" for p in parts):
        return columns
    release, brick, number = (columns[str(part)].astype(np.int64) for part in parts)
    return columns | {"object_id": (release << 42) | (brick << 22) | number}


def with_standard_names(table: Any, sky: Positions | None) -> dict[str, np.ndarray]:
    """Return the columns of a table with identity, position and field renamed to our names.

    `sky` is the result of `positions` for this table.
    """
    columns = dict(table.columns)
    if sky is not None:
        for name in sky.names:
            columns.pop(name, None)
        columns = _with_equinox_2000(columns) | {"ra": sky.ra, "dec": sky.dec}
    pixels = pixel_positions(columns)
    if pixels is not None:
        x, y, names = pixels
        for name in names:
            columns.pop(name)
        columns |= {"x": x, "y": y}
    columns = with_legacy_identity(columns)
    for ours, theirs in (("object_id", identity_name(columns)), ("field", _first(columns, FIELDS))):
        if theirs is not None and ours not in columns:
            columns = {ours if name == theirs else name: values for name, values in columns.items()}
    return columns
