"""Which rows of two tables are of the same object: by identity, or by position.

Shapes: N rows here, M rows there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepfits.tables.table import whole_with_gaps


def match_identities(wanted: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Return the row of each of `wanted` ``(N,)`` in `identity` ``(M,)``, −1 where there is none.

    Whole numbers and text of them are the same identity; of several equal ones the first counts.

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
    """Return the row of the nearest other position within a radius, −1 without one, and how far it is.

    Positions are in degrees, ``(N,)``, NaN where there is no place, and ``(M,)``. Rows and separations are
    ``(N,)``; the latter are NaN without a match.
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
        is_near = apart.arcsec <= radius_arcsec
        index[good[is_near]] = other[nearest[is_near]]
        separation[good[is_near]] = apart.arcsec[is_near]
    return index, separation


def take_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take `values` ``(M, ...)`` at `rows` ``(N,)``; NaN, or ``""``, where a row is −1.

    Whole numbers become floats where a row lacks, or text where floats would change them.

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
