"""Matching of the rows of two tables, by identity or by position.

Shapes: N rows of the first table, M rows of the second, K pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.tables.table import whole_with_gaps

log = logging.getLogger(__name__)

MAX_RUNNING_NUMBER = 100_000_000
"""Integers up to this may be running numbers, which mean nothing outside their catalogue."""
SAME_PLACE_ARCSEC = 0.1
"""Rows closer than this are the same object, whatever their identities."""


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


def match_positions(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the separation, in arcsec, of the nearest other position within a radius.

    Positions are in degrees, ``(N,)`` and ``(M,)``, NaN where unknown. Rows and separations are ``(N,)``, −1
    and NaN without a match. Of several rows at exactly the same position the first is used.
    """
    from astropy import units
    from astropy.coordinates import SkyCoord, match_coordinates_sky

    index = np.full(len(ra), -1)
    separation = np.full(len(ra), np.nan, dtype=np.float32)
    good = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    other = np.flatnonzero(np.isfinite(other_ra) & np.isfinite(other_dec) & (np.abs(other_dec) <= 90))
    if good.size and other.size:
        here = SkyCoord(ra[good] * units.deg, dec[good] * units.deg)
        there = SkyCoord(other_ra[other] * units.deg, other_dec[other] * units.deg)
        nearest, apart, _ = match_coordinates_sky(here, there)
        places = other_ra[other] + 1j * other_dec[other]  # complex numbers sort faster than two columns
        _, first, same = np.unique(places, return_index=True, return_inverse=True)
        nearest = first[same][nearest]
        is_near = apart.arcsec <= radius_arcsec
        index[good[is_near]] = other[nearest[is_near]]
        separation[good[is_near]] = apart.arcsec[is_near]
    return index, separation


def match_one_to_one(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mutual nearest neighbours within a radius; positions as in `match_positions`.

    Returns
    -------
    rows, separations
        ``(N,)`` row of the partner and separation in arcsec; −1 and NaN without a partner.
    nearest
        ``(M,)`` row of the first table nearest to each other position, mutual or not; −1 if there is none
        within the radius.
    """
    rows, separations = match_positions(ra, dec, other_ra, other_dec, radius_arcsec)
    nearest, _ = match_positions(other_ra, other_dec, ra, dec, radius_arcsec)
    is_pair = rows >= 0
    is_pair[is_pair] = nearest[rows[is_pair]] == np.flatnonzero(is_pair)
    return np.where(is_pair, rows, -1), np.where(is_pair, separations, np.nan), nearest


def apart_arcsec(
    columns: Mapping[str, np.ndarray],
    rows: np.ndarray,
    other_rows: np.ndarray,
    other: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the separations ``(K,)``, arcsec, of rows from rows of the same or another table.

    Both tables have ``ra`` and ``dec`` in degrees.
    """
    from astropy.coordinates import SkyCoord

    here, there = (
        SkyCoord(table["ra"][index], table["dec"][index], unit="deg")
        for table, index in ((columns, rows), (other or columns, other_rows))
    )
    return np.asarray(here.separation(there).arcsec)


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
