"""Matching of the rows of two tables, by identity or by position.

Shapes: N rows of the first table, M rows of the second, K pairs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.sky import other_places
from deepfits.tables.table import whole_with_gaps

log = logging.getLogger(__name__)

MAX_RUNNING_NUMBER = 100_000_000
"""Integers up to this may be running numbers, which mean nothing outside their catalogue."""
SAME_PLACE_ARCSEC = 0.1  # rows closer than this are the same object, whatever their identities
OFFSET_ARCSEC = 5.0  # largest offset between two catalogues that is looked for
WIDTH_ARCSEC = 0.4  # positions of the same objects scatter by less than this around the offset
MORE = 1.25  # other positions of a catalogue are named if this times as many objects match them


def warn_of_running_numbers(where: str | Path, name: str, *identities: np.ndarray) -> None:
    """Warn of a match by `name` alone if all identities, ``(N,)`` each, may be running numbers."""
    if all(
        ids.dtype.kind in "iu" and len(ids) and 0 <= ids.max() <= MAX_RUNNING_NUMBER for ids in identities
    ):
        log.warning(
            "WARNING: %s: matched by %s alone, since positions are not known in both: correct only if these "
            "are the numbers of the catalogue that the cutouts were made from; else add ra and dec",
            *(where, name),
        )


def match_identities(wanted: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Return the row in `identity` ``(M,)`` of each entry of `wanted` ``(N,)``, −1 if it is absent.

    Integers match their decimal text; of several equal identities the first is used.

    Examples
    --------
    >>> match_identities(np.array([7, 3, 5]), np.array(["3", "7"])).tolist()
    [1, 0, -1]
    """
    wanted, identity = np.asarray(wanted), np.asarray(identity)
    if not len(identity) or not len(wanted):
        return np.full(len(wanted), -1)
    if (wanted.dtype.kind in "iu") != (identity.dtype.kind in "iu"):
        wanted, identity = wanted.astype(str), identity.astype(str)
    order = np.argsort(identity, kind="stable")
    place = np.minimum(np.searchsorted(identity, wanted, sorter=order), len(order) - 1)
    row = order[place]
    return np.where(identity[row] == wanted, row, -1)


def likely_match(columns: Mapping[str, np.ndarray], identity: np.ndarray) -> str:
    """Return a hint at a column, ``(M,)``, most of whose values are among the identities ``(N,)``, or ''.

    Examples
    --------
    >>> likely_match({"z": np.array([0.5]), "sex_id": np.array([7])}, np.array([3, 7]))
    "; column 'sex_id' would match: rename it object_id"
    """
    object_ids = identity.astype(str)
    for name, values in columns.items():
        is_candidate = values.ndim == 1 and values.dtype.kind in "iuU"
        if is_candidate and 2 * np.isin(values.astype(str), object_ids).sum() > len(values):
            return f"; column {name!r} would match: rename it object_id"
    return ""


def match_positions(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the separation, in arcsec, of the nearest other position within a radius.

    Positions are in degrees, ``(N,)`` and ``(M,)``, NaN where unknown. Rows and separations are ``(N,)``, −1
    and NaN without a match. Of several rows at exactly the same position the first is used.
    """
    from scipy.spatial import cKDTree

    index, separation = np.full(len(ra), -1), np.full(len(ra), np.nan, dtype=np.float32)
    reach = np.radians(radius_arcsec / 3600) + 1e-12
    here, there = unit_vectors(ra, dec), unit_vectors(other_ra, other_dec)
    good = np.flatnonzero(np.isfinite(here).all(axis=1))
    other = _in_box_of(here[good], there, reach)
    good = good[_in_box_of(there[other], here[good], reach)]
    if good.size:
        chord, nearest = cKDTree(there[other]).query(here[good], distance_upper_bound=reach)
        apart = np.degrees(2 * np.arcsin(np.minimum(chord, 2) / 2)) * 3600
        places = other_ra[other] + 1j * other_dec[other]  # complex numbers sort faster than two columns
        _, first, same = np.unique(places, return_index=True, return_inverse=True)
        is_near = apart <= radius_arcsec
        index[good[is_near]] = other[first[same[nearest[is_near]]]]
        separation[good[is_near]] = apart[is_near]
    return index, separation


def _in_box_of(others: np.ndarray, places: np.ndarray, margin: float) -> np.ndarray:
    """Return the rows of `places` in the box that `others` span: unit vectors, ``(N, 3)`` each.

    Most labels of a survey lie outside the images; to look for their neighbours would take minutes.
    """
    low, high = others.min(axis=0, initial=np.inf), others.max(axis=0, initial=-np.inf)
    return np.flatnonzero(((places >= low - margin) & (places <= high + margin)).all(axis=1))


def has_known_positions(columns: Mapping[str, np.ndarray]) -> bool:
    """Return whether any position is known: images without WCS give none, and columns may be empty."""
    return {"ra", "dec"} <= columns.keys() and bool(np.isfinite(columns["ra"]).any())


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the unit vectors of positions in degrees, ``(N, 3)``; NaN for those that are none."""
    right, up = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    up = np.where(np.abs(up) <= np.pi / 2, up, np.nan)  # declinations of -99 stand for unknown ones
    return np.stack([np.cos(up) * np.cos(right), np.cos(up) * np.sin(right), np.sin(up)], axis=1)


def match_one_to_one(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mutual nearest neighbours within a radius; positions as in `match_positions`.

    These are the row of the partner and the separation in arcsec, ``(N,)`` each, −1 and NaN without a
    partner; and the row of the first table nearest to each other position, ``(M,)``, mutual or not.
    """
    rows, separations = match_positions(ra, dec, other_ra, other_dec, radius_arcsec)
    nearest, _ = match_positions(other_ra, other_dec, ra, dec, radius_arcsec)
    is_pair = rows >= 0
    is_pair[is_pair] = nearest[rows[is_pair]] == np.flatnonzero(is_pair)
    return np.where(is_pair, rows, -1), np.where(is_pair, separations, np.nan), nearest


def require_aligned(
    where: str | Path,
    separations: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    columns: Mapping[str, np.ndarray],
    radius_arcsec: float,
) -> None:
    """Warn if half of the matched positions, ``(K,)`` `separations`, are far apart for the radius.

    `columns` are those of the second catalogue, in `where`, with ``ra`` and ``dec`` in degrees. There is a
    warning, too, if few objects match these, but more match other positions there, such as those of the
    optical counterparts in a catalogue of X-ray sources, or if as many match as would by chance. Raise
    `InputError` if the second catalogue is offset by more than the radius, so that matches are accidental.
    """
    other_ra, other_dec = columns["ra"], columns["dec"]
    is_far = len(separations) > 0 and np.median(separations) > radius_arcsec / 2
    if not is_far and 2 * len(separations) >= min(np.isfinite(ra).sum(), np.isfinite(other_ra).sum()):
        return
    offset = typical_offset(ra, dec, other_ra, other_dec)
    direction = (
        "" if offset is None else f"{offset[0]:+.2f}″ in right ascension and {offset[1]:+.2f}″ in declination"
    )
    for place in other_places(columns, where):
        number = int((match_one_to_one(ra, dec, place.ra, place.dec, radius_arcsec)[0] >= 0).sum())
        if number > MORE * len(separations):
            log.warning(
                "WARNING: %s: %d objects match the positions in %s and %s, but only %d those that are used; "
                "if the former are those of the objects, rename them to ra and dec",
                *(where, number, *place.names, len(separations)),
            )
            is_far = False
            break
    if offset is not None and np.hypot(*offset) > radius_arcsec:
        raise InputError(
            f"{where}: most positions are offset by {direction} from the objects, more than the radius of "
            f"{radius_arcsec}″, so that matches would be accidental: subtract the offset from them"
        )
    is_few = 0 < 2 * len(separations) < min(len(ra), len(other_ra))  # most of one are not matched by chance
    by_chance = _matched_by_chance(ra, dec, other_ra, other_dec, radius_arcsec) if is_few else 0.0
    if is_few and len(separations) <= by_chance + 3 * np.sqrt(by_chance):
        log.warning(
            "WARNING: %s: positions match as many objects (%d) as by chance (%.1f if they are shifted by "
            "some arcseconds): are these the same objects?",
            *(where, len(separations), by_chance),
        )
    elif is_far:
        log.warning(
            "WARNING: %s: half of the positions lie more than %.2f″ from their objects; %s",
            *(where, np.median(separations)),
            f"they are offset by {direction}"
            if direction
            else "is one astrometry off, or the radius too small?",
        )


def _matched_by_chance(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius_arcsec: float
) -> float:
    """Return the mean number of objects that match if one catalogue is shifted by some arcseconds."""
    shifts = np.array([-3.3, -2.1, 2.1, 3.3]) * max(radius_arcsec, OFFSET_ARCSEC) / 3600
    rows = [match_one_to_one(ra, dec, other_ra, other_dec + shift, radius_arcsec)[0] for shift in shifts]
    return float((np.array(rows) >= 0).sum(1).mean())


def typical_offset(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray
) -> tuple[float, float] | None:
    """Return by how much most positions of a second catalogue are offset from those of the first, arcsec.

    The offset, to the east and to the north, is that of the most pairs; None if it is not significant, or if
    at least a third as many pairs have none.
    """
    from astropy.coordinates import SkyCoord, search_around_sky
    from astropy.units import arcsec

    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    here, there = unit_vectors(ra[known], dec[known]), unit_vectors(other_ra, other_dec)
    others = _in_box_of(here, there, np.radians(OFFSET_ARCSEC / 3600))
    others = others[:: max(1, len(others) // 10_000)]
    if not len(others):
        return None
    objects = SkyCoord(ra[known], dec[known], unit="deg")
    near = SkyCoord(other_ra[others], other_dec[others], unit="deg")
    row, other, _, _ = search_around_sky(objects, near, OFFSET_ARCSEC * arcsec)
    if not len(row):
        return None
    apart = np.stack([part.arcsec for part in objects[row].spherical_offsets_to(near[other])])
    edges = np.arange(-OFFSET_ARCSEC, OFFSET_ARCSEC + WIDTH_ARCSEC, WIDTH_ARCSEC)
    counts = np.histogram2d(apart[0], apart[1], bins=[edges, edges])[0]
    peak = edges[list(np.unravel_index(counts.argmax(), counts.shape))] + WIDTH_ARCSEC / 2
    for _ in range(3):  # it may lie on the edge of a bin
        peak = np.median(apart[:, np.hypot(*(apart - peak[:, None])) < WIDTH_ARCSEC], axis=1)
    number, without = (
        int((np.hypot(*(apart - place[:, None])) < WIDTH_ARCSEC).sum()) for place in (peak, np.zeros(2))
    )
    by_chance = len(row) * (WIDTH_ARCSEC / OFFSET_ARCSEC) ** 2
    is_significant = number > max(10, 3 * without, by_chance + 6 * np.sqrt(by_chance))
    return (float(peak[0]), float(peak[1])) if is_significant else None


def apart_arcsec(
    columns: Mapping[str, np.ndarray],
    rows: np.ndarray,
    other_rows: np.ndarray,
    other: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the separations ``(K,)``, arcsec, of rows from rows of the same or another table.

    Both tables have ``ra`` and ``dec`` in degrees; separations from unknown positions are NaN.
    """
    other = columns if other is None else other
    here, there = (
        unit_vectors(table["ra"][index], table["dec"][index])
        for table, index in ((columns, rows), (other, other_rows))
    )
    half = np.minimum(np.linalg.norm(here - there, axis=1) / 2, 1)
    return np.asarray(np.degrees(2 * np.arcsin(half)) * 3600)


def take_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take `values` ``(M, ...)`` at `rows` ``(N,)``; NaN, or ``""`` in text, where the row is −1.

    If any row is −1, integers become floats, or text if floats would not be exact.

    Examples
    --------
    >>> take_rows(np.array([10, 20]), np.array([1, -1])).tolist()
    [20.0, nan]
    """
    is_absent = rows < 0
    if not is_absent.any():
        return values[rows]
    if values.dtype.kind in "iu" and values.ndim == 1 and len(values):
        return whole_with_gaps(values[np.maximum(rows, 0)], is_absent)
    if values.dtype.kind in "iub":
        values = values.astype(np.float64)
    fill: Any = np.nan if values.dtype.kind == "f" else ""
    if not len(values):
        return np.full((len(rows), *values.shape[1:]), fill)
    out = values[np.maximum(rows, 0)]
    out[is_absent] = fill
    return out
