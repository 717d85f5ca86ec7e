"""Names of columns, whatever their case and whatever unit is written beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
    ("raj2000_deg", "dej2000_deg"), ("ra_1", "dec_1"), ("ra_2", "dec_2"), ("i_ra", "i_dec"), ("_ra", "_de"),
    ("ra2000", "dec2000"), ("al2000", "de2000"), ("ra_hms", "dec_dms"), ("_ra_icrs", "_de_icrs"),
    ("ra", "decl"), ("ra", "declination"), ("r.a.", "dec."), ("r.a.", "decl."), ("meanra", "meandec"),
    ("x_world", "y_world"), ("xwin_world", "ywin_world"),
    ("_ra.icrs", "_de.icrs"), ("matchra", "matchdec"), ("sup_ra", "sup_dec"), ("s_ra", "s_dec"),
    ("ra_d", "dec_d"), ("objra", "objdec"), ("racen", "deccen"),
    ("mean_fiber_ra", "mean_fiber_dec"), ("fiber_ra", "fiber_dec"),
    ("ra_deg", "dec"), ("radeg", "dec"),
)  # fmt: skip
IDENTITIES = (
    "object_id", "objectid", "coadd_object_id", "coadd_objects_id", "targetid", "target_id", "ls_id", "id",
    "source_id", "sourceid", "number", "objid", "obj_id", "num", "label", "galaxy_id", "id_cosmos", "id_iau",
    "cosmos_id", "cataid", "objno", "specobjid", "ident", "uberid", "quick_object_id", "designation",
)  # fmt: skip
"""Names of identity columns, the most reliable first; compared without regard to case."""
FIELDS = ("field", "patch")
"""Names of columns with the field of an object; compared without regard to case."""
SIGNS = re.compile(r"dec?-|\+/-|(?:d(?:e(?:cl?)?)?_?)?si?gn(?:_?dec?)?", re.IGNORECASE)
"""Names of columns with the sign of the declination, in which - is not a missing value."""
UNIT_IN_NAME = re.compile(r"\s*[\[(]([^\])]*)[\])]$")  # RA (deg), DEC[deg]


def position_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the two columns whose names are those of right ascension and declination, or None."""
    return first_pair(names, POSITIONS)


def bare_name(name: str) -> str:
    """Normalise a name as in the lists above: ``Right Ascension (J2000)`` becomes ``right_ascension``."""
    return UNIT_IN_NAME.sub("", name.lower()).replace(" ", "_")


def first_name(names: Iterable[str], aliases: Iterable[str]) -> str | None:
    """Return the name that matches the first possible alias, or None."""
    by_lower = {bare_name(name): name for name in reversed(list(names))}
    by_lower |= {name.lower(): name for name in reversed(list(names))}
    return next((by_lower[alias] for alias in aliases if alias in by_lower), None)


def first_pair(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the names that match the first pair of which both are there, or None."""
    names = list(names)
    by_lower = {bare_name(name): name for name in reversed(names)}
    for longitude, latitude in pairs:
        if longitude in names and latitude in names:
            return longitude, latitude
        if longitude in by_lower and latitude in by_lower:
            return by_lower[longitude], by_lower[latitude]
    return None
