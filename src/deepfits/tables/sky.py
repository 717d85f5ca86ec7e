"""Positions of objects, in degrees and ICRS, whatever the names, units and equinoxes of their columns."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.angles import degrees
from deepfits.tables.entries import GAPS
from deepfits.tables.identities import identity_name, with_legacy_identity
from deepfits.tables.names import (
    FIELDS,
    POSITIONS,
    SIGNS,
    bare_name,
    first_name,
    first_pair,
    position_names,
    sexagesimal_parts,
    unit_in_name,
)
from deepfits.tables.table import B1950, Table

OLD_POSITIONS = (
    ("alpha_b1950", "delta_b1950"), ("rab1950", "deb1950"), ("_rab1950", "_deb1950"),
    ("ra_b1950", "dec_b1950"), ("al1950", "de1950"), ("ra1950", "dec1950"), ("ra_1950", "dec_1950"),
    ("alpha_1950", "delta_1950"), ("alpha1950", "delta1950"), ("ra50", "dec50"), ("ra1950", "de1950"),
)  # fmt: skip
GALACTIC = (("glon", "glat"), ("_glon", "_glat"), ("gal_lon", "gal_lat"), ("l", "b"))
PIXELS = (("x", "y"), ("x_pixel", "y_pixel"), ("xcentroid", "ycentroid"), ("x_centroid", "y_centroid"))
FITS_PIXELS = (("x_image", "y_image"), ("xwin_image", "ywin_image"), ("xpsf_image", "ypsf_image"))

SAME_OBJECT_ARCSEC = 1.0  # two pairs of columns agree if the median separation of their positions is smaller
ELSEWHERE_ARCSEC = 60.0
"""Two pairs of columns with a larger median separation are not both the positions of the objects."""
COARSE_RA = (1e-1, 1e-2, 1e-3, 15e-2, 15e-3, 15e-4, 15 / 60, 15 / 3600, 1.5 / 3600)
COARSE_DEC = (1e-1, 1e-2, 1e-3, 1 / 60)
"""Steps, in degrees, of decimal degrees and hours and of sexagesimal angles with too few digits."""
ROUNDED_ARCSEC, LEAST_POSITIONS = 0.5, 20
"""There is a warning if rounding displaces positions by more, in a table of at least as many."""

log = logging.getLogger(__name__)

_B1950_NAME = re.compile(r"(?<!\d)(?:1950(?:\.0)?|fk4)(?![\d.])", re.IGNORECASE)
_NO_UNIT = re.compile(r"(?<![a-z\d.])(?:icrs|fk[45]|[bj]?(?:1950|2000)(?:\.0)?|decimal)(?![a-z\d])")
"""Words beside a unit: deg (J2000), decimal hours."""
_EQUINOX = re.compile(r"(?:(?:ra|pos|coord)_?)?equinox|epoch_of_equinox|equinox_epoch")
# Positions written in one column: two angles of three parts each, or decimal degrees.
_FIRST = r"\d{1,3}[\s:h]\s*\d\d?[\s:m]\s*\d\d?(?:\.\d*)?s?"
_SECOND = r"[+\-−]?\d\d?[\s:d]\s*\d\d?[\s:m]\s*\d\d?(?:\.\d*)?s?"
_GAP = r"(?:\s*,\s*|\s+|(?=[+\-−]))"
_SEXAGESIMAL = re.compile(rf"(?P<ra>{_FIRST}){_GAP}(?P<dec>{_SECOND})")
_EITHER = re.compile(rf"\(?(?P<ra>{_FIRST}|\d+\.\d+)°?{_GAP}(?P<dec>{_SECOND}|[+\-−]?\d+\.\d+)°?\)?")
_SAYS_BOTH = re.compile(r"(?i)coo|pos|ra\W*(?:and\W*)?dec|sky|j2000|icrs")
_SUPERSEDED = re.compile(r"(?i)(?<![a-z])(?:old|orig|uncorr)")
_MINUS = ("-", "−", "–", "-1", "-1.0")
# Parts of names that tell other columns with "ra" in their name from positions.
_NOT_A_POSITION = re.compile(
    r"(?<![a-z])(?:pm|e|err|errors?|sigma|sig|std|stddev|ivar|var|variance|unc|mu|off|offset|delta|diff|cov|corr|"
    r"deg|hms|dms|[hdms]|min(?:utes?)?|sec(?:onds?)?|sys|scatter|epoch|fwhm|size|shift|corner|cen|cent(?:er|re)|tile|field|tel|"
    r"pointing|boresight|fiber|fibre|star|nearest|plate|bbox)(?![a-z])|1950|err$|^[hdms]$"
)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Positions of objects."""

    ra: np.ndarray  # (N,) degrees, ICRS, from 0 to 360; NaN where the position is unknown
    dec: np.ndarray
    names: tuple[str, ...]  # columns from which they were read
    lost: str = ""  # how many objects have no position, and why; empty if all have one

    @property
    def is_known(self) -> np.ndarray:
        """Mask ``(N,)`` of the objects that have a position."""
        return np.asarray(np.isfinite(self.ra))


def positions(
    columns: Mapping[str, np.ndarray], units: Mapping[str, str], where: str | Path
) -> Positions | None:
    """Find the sky positions of the objects; None if no columns contain them.

    Sexagesimal right ascensions (with colons, blanks or h) are in hours unless their first numbers exceed 24;
    numbers are in degrees unless the unit or the name says hours or radians. Raise `InputError` for an entry
    that is not an angle, an unsuitable unit, or values that may be degrees or radians.
    """
    table = Table(columns=dict(columns), units=dict(units), where=str(where))
    pair, frame = position_names(columns), "icrs"
    if pair is None:
        if (found := _components(table) or _in_one_column(table)) is not None:
            return found
        pair = _similar_pair(table)
    if pair is None:
        pair, frame = first_pair(columns, OLD_POSITIONS), B1950
    if pair is None:
        pair, frame = first_pair(columns, GALACTIC), "galactic"
        if pair is not None and len(pair[0]) == 1 and pair != ("l", "b"):
            return None  # L and B may equally be magnitudes
    if pair is None:
        return None
    if any(columns[name].dtype in (np.float16, np.float32) for name in pair):
        log.warning(
            "WARNING: %s: %s and %s are stored in single precision, accurate to about 0.03″", where, *pair
        )
    found = _from_pair(table, pair, frame)
    if frame == "icrs":
        found = _compared(found, table)
        _warn_of_rounding(found, where)
        if not found.is_known.all():
            return _with_other_pair(found, table)
    return found


def _from_pair(table: Table, pair: tuple[str, str], frame: str = "icrs") -> Positions:
    """Return the positions in two columns; ``RA (1950)`` and ``ra_fk4`` are taken as B1950."""
    columns, units, where = table.columns, table.units, table.where
    if frame == "icrs" and all(_B1950_NAME.search(f"{name} {units.get(name, '')}") for name in pair):
        frame = B1950
    longitude, latitude = (
        degrees(columns[name], _unit(name, units), name, where, is_longitude=number == 0, frame=frame)
        for number, name in enumerate(pair)
    )
    is_small = not ((np.abs(longitude) > 2 * np.pi) | (np.abs(latitude) > np.pi / 2)).any()
    if pair[0].lower() == "coord_ra" and not _unit(pair[0], units) and is_small:
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
    names = [name for name in table.columns if _EQUINOX.fullmatch(bare_name(name))]
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
        if _EQUINOX.fullmatch(bare_name(name))
        and all(frame_of("", entry) for entry in np.unique(values).tolist())
    }
    return {**columns, **equinox}


def _with_main_columns(table: Table) -> Table:
    """Add `ra`, `dec` and `object_id` by UCD if no column is named like a position or an identity."""
    main_columns: dict[str, str | None] = {}
    if position_names(table.columns) is None and not sexagesimal_parts(table.columns):
        main_columns |= {name: main_column(table.ucds, f"pos.eq.{name}") for name in ("ra", "dec")}
    if identity_name(table.columns) is None:
        main_columns["object_id"] = main_column(table.ucds, "meta.id")
    main = {standard: column for standard, column in main_columns.items() if column in table.columns}
    identity = table.columns.get(main.get("object_id") or "")
    if identity is not None and len(np.unique(identity)) < len(identity):  # rows will be numbered instead
        del main["object_id"]
    if len({"ra", "dec"} & main.keys()) == 1:
        return table

    parts: dict[str, Any] = {part: dict(getattr(table, part)) for part in ("columns", "units", "frames")}
    for values in parts.values():
        values |= {standard: values[str(column)] for standard, column in main.items() if column in values}
    return replace(table, **parts)


def _in_icrs(table: Table) -> Table:
    """Convert positions to ICRS if the file states another frame, unless their names state the frame."""
    pair, parts = position_names(table.columns), tuple(sexagesimal_parts(table.columns).values())
    if table.frames and pair is None and not parts:
        pair = _similar_pair(table)
    names = pair or parts
    frame = next((table.frames[name] for name in names if name in table.frames), None)
    if (
        frame is None
        or re.search("2000|icrs", " ".join(names).lower())
        or all(map(_B1950_NAME.search, names))
    ):
        return table
    found = _from_pair(table, pair, frame) if pair else _components(table, frame)
    if found is None:
        return table
    advice = "" if frame == B1950 else "; if this is the epoch of observation, write 2000 or ICRS there"
    log.warning(
        "WARNING: %s: %s and %s are converted from %s, as stated by the file, to ICRS%s",
        *(table.where, names[0], names[-1], frame.upper(), advice),
    )
    pair = pair or ("ra", "dec")
    return replace(
        table,
        columns=_with_equinox_2000(table.columns) | dict(zip(pair, (found.ra, found.dec), strict=True)),
        units=table.units | dict.fromkeys(pair, "deg"),
    )


def main_column(ucds: Mapping[str, str], ucd: str) -> str | None:
    """Return the main column of a kind by its UCD (UCD1+, or UCD1 of before 2005); None if ambiguous.

    Examples
    --------
    >>> main_column({"a": "pos.eq.ra;meta.main", "b": "pos.eq.ra", "c": "stat.error;pos.eq.ra"}, "pos.eq.ra")
    'a'
    """
    words = {name: text.lower().split(";") for name, text in ucds.items()}
    old = f"{ucd.removeprefix('meta.').replace('.', '_')}_main"
    mains = [name for name, parts in words.items() if parts[:2] == [ucd, "meta.main"] or parts == [old]]
    mains = mains or [name for name, parts in words.items() if parts == [ucd] and ucd != "meta.id"]
    return mains[0] if len(mains) == 1 else None


def _with_other_pair(found: Positions, table: Table) -> Positions:
    """Fill missing positions from other columns of the same objects, such as raStack beside raMean."""
    for other in _named_pairs(table, but=found.names):
        more = ~found.is_known & other.is_known
        if not more.any() or (found.is_known.any() and not positions_agree(found, other)):
            continue
        log.warning(
            "WARNING: %s: %d of %d objects without %s and %s take their positions from %s and %s",
            *(table.where, int(more.sum()), len(more), *found.names, *other.names),
        )
        ra, dec = np.where(more, other.ra, found.ra), np.where(more, other.dec, found.dec)
        left = int(np.isnan(ra).sum())
        lost = f"{left} objects without {found.names[0]} or {other.names[0]}" if left else ""
        found = Positions(ra=ra, dec=dec, names=found.names, lost=lost)
    return found


def _compared(found: Positions, table: Table) -> Positions:
    """Compare positions with those in other columns, which are used if they show that these are no degrees.

    Others that lie elsewhere cause a warning, unless most share one place, such as the centre of a field or
    (0, 0). Some rows are compared.
    """
    rows = np.flatnonzero(found.is_known)
    rows = rows[:: max(1, len(rows) // 1000)]
    ra, dec = found.ra[rows], found.dec[rows]
    some = replace(table, columns={name: values[rows] for name, values in table.columns.items()})
    for other in _named_pairs(some, but=found.names):
        apart = _separation(Positions(ra=ra, dec=dec, names=found.names), other)
        if not apart > ELSEWHERE_ARCSEC or len(np.unique(other.ra)) < len(rows) / 2:
            continue
        for unit, factors in (("hours", (15.0, 1.0)), ("radians", (np.degrees(1), np.degrees(1)))):
            scaled = Positions(ra=ra * factors[0], dec=dec * factors[1], names=found.names)
            if positions_agree(scaled, other):
                log.warning(
                    "WARNING: %s: positions are taken from %s and %s, by which %s is in %s",
                    *(table.where, *other.names, found.names[0], unit),
                )
                return _from_pair(table, (other.names[0], other.names[-1]))
        log.warning(
            "WARNING: %s: positions are taken from %s and %s; those in %s and %s are %.3g° away (median): if "
            "these are right, rename the former",
            *(table.where, *found.names, *other.names, apart / 3600),
        )
        break
    return found


def _warn_of_rounding(found: Positions, where: str | Path) -> None:
    """Warn of positions with too few digits, such as the six of awk and of C++: 150.123."""
    rows = np.flatnonzero(found.is_known)
    rows = rows[:: max(1, len(rows) // 10_000)]
    dec = found.dec[rows]
    parts = ((found.ra[rows], COARSE_RA), (dec, COARSE_DEC))
    for (angle, steps), name in zip(parts, (found.names[0], found.names[-1]), strict=True):
        if len(np.unique(angle)) < LEAST_POSITIONS:
            continue
        step = next((s for s in steps if (np.abs(angle / s - np.round(angle / s)) < 1e-5).all()), 0.0)
        off = step / 2 * 3600 * (1.0 if steps is COARSE_DEC else float(np.cos(np.radians(np.median(dec)))))
        if off > ROUNDED_ARCSEC:
            log.warning(
                "WARNING: %s: %s has too few digits: its values are rounded, so that positions are up to "
                "%.2g″ off; write all digits",
                *(where, name, off),
            )


def other_places(columns: Mapping[str, np.ndarray], where: str | Path) -> Iterator[Positions]:
    """Yield the positions in all columns that are named like right ascension and declination."""
    table = Table(columns=dict(columns), where=str(where))
    yield from _named_pairs(table)
    yield from _similar_pairs(table)


def _named_pairs(table: Table, but: Sequence[str] = ()) -> Iterator[Positions]:
    """Yield the positions in columns with names in `POSITIONS`, except in those named `but`."""
    done = [{name.lower() for name in but}]
    for names in POSITIONS:
        pair = first_pair(table.columns, [names])
        if pair is None or (key := {name.lower() for name in pair}) in done:
            continue
        done.append(key)
        with suppress(InputError):  # no angles
            yield _from_pair(table, pair)


def positions_agree(first: Positions, second: Positions) -> bool:
    """Return whether two sets of positions agree where both are known (see `SAME_OBJECT_ARCSEC`)."""
    return _separation(first, second) < SAME_OBJECT_ARCSEC


def _separation(first: Positions, second: Positions) -> float:
    """Return the median separation of two sets of positions in arcsec; NaN where none is known in both."""
    both = first.is_known & second.is_known
    if not both.any():
        return np.nan
    east = ((first.ra - second.ra + 180) % 360 - 180)[both] * np.cos(np.radians(first.dec[both]))
    return float(np.median(np.hypot(east, (first.dec - second.dec)[both]))) * 3600


def _similar_pair(table: Table) -> tuple[str, str] | None:
    """Return columns whose names differ only in ra and dec, such as ``ra_corrected`` and ``dec_corrected``.

    Raise `InputError` if several such pairs disagree.
    """
    if not (found := list(_similar_pairs(table))):
        return None
    first, *others = sorted(found, key=lambda place: bool(_SUPERSEDED.search(place.names[0])))
    for other in others:
        if not positions_agree(first, other):
            raise InputError(
                f"{table.where}: {' and '.join(first.names)} disagree with {' and '.join(other.names)}; "
                "rename those that are meant to ra and dec"
            )
    ra, dec = first.names
    log.warning("WARNING: %s: %s and %s are taken as the positions of the objects", table.where, ra, dec)
    return ra, dec


def _similar_pairs(table: Table) -> Iterator[Positions]:
    """Yield the positions in columns whose names differ only in ra and dec."""
    by_lower = {bare_name(name): name for name in reversed(list(table.columns))}
    for lower, name in reversed(by_lower.items()):
        for match in re.finditer(r"(?<![a-z0-9])(?:ra(deg(?=_))?|alpha)", lower):
            ends = (
                ("delta",) if match[0] == "alpha" else tuple(end + (match[1] or "") for end in ("dec", "de"))
            )
            rest = lower[: match.start()], lower[match.end() :]
            other = next((by_lower[n] for end in ends if (n := end.join(rest)) in by_lower), None)
            if other is None or _NOT_A_POSITION.search(" ".join(rest)):
                continue
            with suppress(InputError):  # no angles
                place = _from_pair(table, (name, other))
                if place.is_known.any():
                    yield place


def _validated(longitude: np.ndarray, latitude: np.ndarray, names: tuple[str, ...], frame: str) -> Positions:
    """Convert positions to ICRS, with NaN for impossible values and for placeholders such as (−1, −1)."""
    is_number = np.isfinite(longitude) & np.isfinite(latitude)
    is_place = is_number & (np.abs(latitude) <= 90) & (np.abs(longitude) <= 720)
    if is_place.any() and longitude[is_place].min() < 180:  # else 350 to 370, about the origin
        is_place &= np.abs(longitude) <= 360
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
    ra = np.where((longitude < 0) | (longitude > 360), longitude % 360, longitude)
    return Positions(ra=ra, dec=latitude, names=names, lost=reasons)


def _unit(name: str, units: Mapping[str, str]) -> str:
    stated = (units.get(name, "") or unit_in_name(name)).strip().lower()
    stated = " ".join(re.split(r"[\s()\[\],;]+", _NO_UNIT.sub(" ", stated))).strip()
    is_hours = name.lower().endswith("hms") or name.lower() in ("al2000", "al1950")  # HyperLEDA's
    return stated or ("h" if is_hours else "")


def _components(table: Table, frame: str = "icrs") -> Positions | None:
    """Combine sexagesimal columns, six and possibly a seventh with the sign of the declination."""
    columns, where = table.columns, table.where
    named = sexagesimal_parts(columns)
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


def _in_one_column(table: Table) -> Positions | None:
    """Split positions in one column: ``10 00 28.6 +02 12 21`` or, if its name says so, ``150.119, 2.206``."""
    frames = {name: _frame_in_name(name) for name in table.columns}
    for name in sorted(frames, key=lambda name: frames[name] != "icrs"):
        text, frame = table.columns[name], frames[name]
        if text.dtype.kind != "U" or text.ndim != 1 or not frame:
            continue
        pattern = _EITHER if _SAYS_BOTH.search(name) else _SEXAGESIMAL
        filled = np.flatnonzero(~np.isin(np.char.lower(text), GAPS))
        if not len(filled) or not pattern.fullmatch(text[filled[0]]):
            continue
        parts = [pattern.fullmatch(entry) for entry in text[filled].tolist()]
        if not all(parts):
            continue
        sky = np.full((2, len(text)), np.nan)
        for row, half in enumerate(("ra", "dec")):
            angles = np.array([part[half] for part in parts if part])
            sky[row, filled] = degrees(angles, "", name, table.where, is_longitude=half == "ra", frame=frame)
        log.warning("WARNING: %s: %s is taken as the positions of the objects", table.where, name)
        return _validated(sky[0], sky[1], (name,), frame)
    return None


def _frame_in_name(name: str) -> str:
    """Return the frame that the name of a column states: ICRS if none, '' for others than we know.

    Examples
    --------
    >>> _frame_in_name("coord1 (ICRS,J2000/2000)"), _frame_in_name("coord4 (Gal,J2000/2000)")
    ('icrs', 'galactic')
    """
    if _B1950_NAME.search(name):
        return B1950
    if (word := re.search(r"(?i)(?<![a-z])(?:(ecl|s(?:uper)?_?gal)|gal(?!ax))", name)) is None:
        return "icrs"
    return "" if word[1] else "galactic"


def pixel_positions(
    columns: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]] | None:
    """Find pixel positions, converted to a count from 0 (X_IMAGE counts from 1); None if there are none."""
    pair, origin = first_pair(columns, PIXELS), 0.0
    if pair is None:
        pair, origin = first_pair(columns, FITS_PIXELS), 1.0
    if pair is None or any(columns[name].dtype.kind not in "iuf" or columns[name].ndim != 1 for name in pair):
        return None
    if not {unit_in_name(name) for name in pair} <= {"", "pix", "pixel", "pixels", "px"}:  # x (arcsec), x_deg
        return None
    x, y = (columns[name].astype(np.float64) - origin for name in pair)
    return x, y, pair


def place_hint(ra: np.ndarray, dec: np.ndarray, near_ra: np.ndarray, near_dec: np.ndarray) -> str:
    """Return a hint if positions far from others would match them swapped, or as hours or radians."""
    is_known = np.isfinite(ra) & np.isfinite(dec)
    ra, dec = ra[is_known], dec[is_known]
    box = [angle[np.isfinite(angle)] for angle in (near_ra, near_dec)]
    if not len(ra) or not all(map(len, box)):
        return ""

    def are_inside(angle: np.ndarray, near: np.ndarray) -> np.ndarray:
        return np.asarray((angle >= near.min() - 0.5) & (angle <= near.max() + 0.5))

    if (are_inside(dec, box[0]) & are_inside(ra, box[1])).mean() > 0.5:
        return "; ra and dec look swapped"
    for factor, unit, limit in ((15.0, "hours", 24.0), (float(np.degrees(1)), "radians", 2 * np.pi)):
        if ra.max() <= limit and are_inside(ra * factor, box[0]).mean() > 0.5:
            short = "ra_hours" if unit == "hours" else "ra_rad and dec_rad"
            return f"; the right ascensions look like {unit}: name the column {short}, or give its unit"
    return ""


def with_degrees(columns: Mapping[str, np.ndarray], sky: Positions | None) -> dict[str, np.ndarray]:
    """Replace the columns from which `positions` has read `sky` by ``ra`` and ``dec`` in degrees (ICRS)."""
    if sky is None:
        return dict(columns)
    left = {name: values for name, values in columns.items() if name not in sky.names}
    return _with_equinox_2000(left) | {"ra": sky.ra, "dec": sky.dec}


def with_standard_names(table: Any, sky: Positions | None) -> dict[str, np.ndarray]:
    """Return the columns of a table with identity, position and field renamed to our names.

    `sky` is the result of `positions` for this table.
    """
    columns = with_degrees(table.columns, sky)
    if (pixels := pixel_positions(columns)) is not None:
        x, y, names = pixels
        columns = {name: columns[name] for name in columns if name not in names} | {"x": x, "y": y}
    columns = with_legacy_identity(columns)
    for standard, column in (("object_id", identity_name(columns)), ("field", first_name(columns, FIELDS))):
        if column is not None and standard not in columns:
            columns = {standard if name == column else name: values for name, values in columns.items()}
    return columns
