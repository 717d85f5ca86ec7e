"""Names of columns, whatever their case and whatever unit is written beside them."""

import re
from collections.abc import Iterable

POSITIONS = (
    ("ra", "dec"), ("alpha_j2000", "delta_j2000"), ("raj2000", "dej2000"), ("raj2000", "decj2000"),
    ("ra_j2000", "dec_j2000"), ("_raj2000", "_dej2000"), ("ra_deg", "dec_deg"), ("radeg", "dedeg"),
    ("radeg", "decdeg"), ("ra_icrs", "de_icrs"), ("ra_icrs", "dec_icrs"), ("target_ra", "target_dec"),
    ("coord_ra", "coord_dec"), ("alphawin_j2000", "deltawin_j2000"), ("alphapsf_j2000", "deltapsf_j2000"),
    ("right_ascension", "declination"), ("rightascension", "declination"), ("ramean", "decmean"),
    ("rastack", "decstack"), ("targra", "targdec"), ("obsra", "obsdec"), ("sky_center.ra", "sky_center.dec"),
    ("ra_hours", "dec_deg"), ("ra_rad", "dec_rad"),
    ("plug_ra", "plug_dec"), ("plugra", "plugdec"), ("alpha", "delta"), ("alpha_sky", "delta_sky"),
    ("ra_deg_j2000", "dec_deg_j2000"),
    ("ra_1", "dec_1"), ("ra_2", "dec_2"), ("i_ra", "i_dec"), ("_ra", "_de"),
    ("ra2000", "dec2000"), ("al2000", "de2000"), ("ra_hms", "dec_dms"), ("rahms", "dedms"),
    ("rahms", "decdms"), ("_ra_icrs", "_de_icrs"),
    ("ra", "decl"), ("ra", "declination"), ("r.a.", "dec."), ("r.a.", "decl."), ("meanra", "meandec"),
    ("x_world", "y_world"), ("xwin_world", "ywin_world"),
    ("_ra.icrs", "_de.icrs"), ("matchra", "matchdec"), ("sup_ra", "sup_dec"), ("s_ra", "s_dec"),
    ("ra_d", "dec_d"), ("objra", "objdec"), ("racen", "deccen"),
    ("mean_fiber_ra", "mean_fiber_dec"), ("fiber_ra", "fiber_dec"),
    ("radeg", "dec"),
)  # fmt: skip
IDENTITIES = (
    "object_id", "objectid", "coadd_object_id", "coadd_objects_id", "targetid", "target_id", "ls_id", "id",
    "source_id", "sourceid", "number", "objid", "obj_id", "num", "label", "galaxy_id", "id_cosmos", "id_iau",
    "cosmos_id", "cataid", "objno", "specobjid", "ident", "uberid", "quick_object_id", "designation",
)  # fmt: skip
"""Names of identity columns, the most reliable first; compared without regard to case."""
FIELDS = ("field", "patch")  # names of columns with the field of an object; compared without regard to case
SIGNS = re.compile(r"dec?-|\+/-|(?:d(?:e(?:cl?)?)?_?)?si?gn(?:_?dec?)?", re.IGNORECASE)
"""Names of columns with the sign of the declination, in which - is not a missing value."""
_PART = re.compile(
    r"(ra|dec?)_?(h|d|m|s)(?:(?<=h)(?:rs?|ours?)|(?<=d)eg(?:rees?)?|(?<=m)in(?:utes?)?|(?<=s)ec(?:onds?)?)?"
)
"""One of the six sexagesimal columns of a position: RAh, ra_min, DEd, dec_degrees, decs."""
_UNIT = re.compile(
    r"\s*[\[(](?P<given>[^\])]*)[\])]$|_(?P<ending>deg(?:rees?)?|hours?|hrs?|rad(?:ians?)?)_?$"
)
"""Unit at the end of a name: RA (deg), DEC[deg], ra_j2000_deg, RA_hr."""


def position_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the two columns whose names are those of right ascension and declination, or None.

    Hours and degrees beside minutes and seconds (``ra_hours``, ``ra_min``, ...) are none, but parts of them.
    """
    names = list(names)
    parts = sexagesimal_parts(names).values()
    return first_pair([name for name in names if name not in parts], POSITIONS)


def sexagesimal_parts(names: Iterable[str]) -> dict[str, str]:
    """Return the six sexagesimal columns of positions, as in journal tables; empty unless all are present.

    Examples
    --------
    >>> list(sexagesimal_parts(["RAh", "RAm", "RAs", "DE-", "DEd", "DEm", "DEs"]).values())
    ['RAh', 'RAm', 'RAs', 'DEd', 'DEm', 'DEs']
    """
    named = {match[1][:2] + match[2]: name for name in names if (match := _PART.fullmatch(name.lower()))}
    needed = ("rah", "ram", "ras", "ded", "dem", "des")
    return {part: named[part] for part in needed} if set(needed) <= named.keys() else {}


def bare_name(name: str) -> str:
    """Normalise a name as in the lists above: ``Right Ascension (J2000)`` becomes ``right_ascension``."""
    return _UNIT.sub("", name.lower()).replace(" ", "_")


def unit_in_name(name: str) -> str:
    """Return the unit at the end of a name, in lower case, or ''.

    Examples
    --------
    >>> unit_in_name("RA (deg)"), unit_in_name("ra_j2000_hr"), unit_in_name("ra")
    ('deg', 'hr', '')
    """
    found = _UNIT.search(name.lower())
    return (found["given"] or found["ending"] or "") if found else ""


def first_name(names: Iterable[str], aliases: Iterable[str]) -> str | None:
    """Return the name that matches the first possible alias, or None."""
    by_lower = _by_lower(names)
    return next((by_lower[alias] for alias in aliases if alias in by_lower), None)


def _by_lower(names: Iterable[str]) -> dict[str, str]:
    """Return names by how they are written in the lists above; of several that are alike, the first."""
    names = list(names)[::-1]
    return {bare_name(name): name for name in names} | {name.lower(): name for name in names}


def first_pair(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the names that match the first pair of which both are there, or None."""
    names = list(names)
    by_lower = _by_lower(names)
    for longitude, latitude in pairs:
        if longitude in names and latitude in names:
            return longitude, latitude
        if longitude in by_lower and latitude in by_lower:
            return by_lower[longitude], by_lower[latitude]
    return None
