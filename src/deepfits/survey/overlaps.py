"""Choosing the primary detection of objects detected in several overlapping fields.

Shapes: N detections.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from deepfits.photometry import FLAGS_LACKING
from deepfits.tables import unit_vectors

# Maximum separation of two detections of the same object: the larger of these, in pixels and arcseconds.
MATCH_PIXELS, MATCH_ARCSEC = 2.0, 0.3
# Minimum number and signal-to-noise of objects whose fluxes in two fields are compared, and the difference,
# in log flux, that is too large: that of the seeing changes it by a few hundredths.
FEWEST, CLEAR_SNR, UNLIKE = 8, 20.0, 0.1


def primary_detections(
    columns: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]]
) -> np.ndarray:
    """Return which detections are primary, ``(N,)`` bool.

    Detections in two fields are the same object if they are mutual nearest neighbours within the larger of
    `MATCH_PIXELS` and `MATCH_ARCSEC`. The primary one is the one whose apertures are complete according to
    its flags; if both or neither are, the one farther from the edges of its field; if equal, the one in the
    first field by name. Other detections are primary, unless their apertures are incomplete and they lie
    within the Kron ellipse's major axis of a complete detection in another field: they are what the edge of
    their field left of it. `infos` describe the fields by name.
    """
    is_primary = np.ones(len(columns["field"]), bool)
    vectors = unit_vectors(columns["ra"], columns["dec"])
    is_lacking = (columns["flags"] & FLAGS_LACKING) > 0
    margin = np.where(is_lacking, 0.0, np.inf)
    for name, rows in _rows_by_field(columns["field"]).items():
        height, width = infos[name]["shape"]
        x, y = columns["x"][rows], columns["y"][rows]
        inside = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y])
        margin[rows] = inside + np.where(is_lacking[rows], 0.0, height + width)
    reach = np.deg2rad(columns["kron_radius"] / 3600)  # for pixels of an arcsecond
    for two in overlapping_fields(columns, infos):
        loses = margin[two.first] < margin[two.second]
        is_primary[two.first[loses]] = False
        is_primary[two.second[~loses]] = False
        for cut, whole in (
            (np.setdiff1d(two.rows, two.first), two.other_rows),
            (np.setdiff1d(two.other_rows, two.second), two.rows),
        ):
            cut, whole = cut[is_lacking[cut]], whole[~is_lacking[whole]]
            is_primary[cut[_lie_within(vectors[cut], vectors[whole], two.scale * reach[whole])]] = False
    return is_primary


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Two fields that overlap, and the rows of their detections."""

    field: str
    other: str
    rows: np.ndarray  # all detections
    other_rows: np.ndarray
    first: np.ndarray  # those of the same objects
    second: np.ndarray
    scale: float  # the larger of the pixel scales, arcseconds


def overlapping_fields(
    columns: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]]
) -> Iterator[Overlap]:
    """Yield each two fields that overlap, by name; see `primary_detections`."""
    vectors = unit_vectors(columns["ra"], columns["dec"])
    is_known = np.isfinite(vectors).all(axis=1)
    every = {name: rows[is_known[rows]] for name, rows in _rows_by_field(columns["field"]).items()}
    every = {name: rows for name, rows in every.items() if len(rows)}
    if not every:
        return
    names, scales = list(every), [infos[name]["pixel_scale_arcsec"] for name in every]
    trees = [cKDTree(vectors[rows]) for rows in every.values()]
    reach = [float(np.nanmax(columns["kron_radius"][rows], initial=0)) for rows in every.values()]
    far = np.deg2rad(max(MATCH_PIXELS, *reach) * max(scales) / 3600 + MATCH_ARCSEC / 3600)
    sides = np.array([tree.maxes - tree.mins for tree in trees])
    centres = np.array([tree.mins for tree in trees]) + sides / 2
    near = cKDTree(centres).query_pairs(float(np.linalg.norm(sides, axis=1).max()) + far)
    for left, right in sorted(near):
        scale = max(scales[left], scales[right])
        radius = np.deg2rad(max(MATCH_PIXELS * scale, MATCH_ARCSEC) / 3600)
        limit = max(radius, np.deg2rad(max(reach[left], reach[right]) * scale / 3600))
        if (np.abs(centres[left] - centres[right]) - (sides[left] + sides[right]) / 2 > limit).any():
            continue
        rows, other_rows = every[names[left]], every[names[right]]
        first, second = _mutual_nearest(trees[left], trees[right], radius)
        yield Overlap(
            field=names[left],
            other=names[right],
            rows=rows,
            other_rows=other_rows,
            first=rows[first],
            second=other_rows[second],
            scale=scale,
        )


def flux_warnings(
    columns: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]], bands: Iterable[str]
) -> list[str]:
    """Return a warning for each band in which overlapping fields show the same objects in other fluxes.

    As by a zero point of another exposure time, or of Vega magnitudes, in some of them.
    """
    unlike: dict[str, list[tuple[float, str]]] = {band: [] for band in bands}
    is_whole = (columns["flags"] & FLAGS_LACKING) == 0
    for two in overlapping_fields(columns, infos):
        both = is_whole[two.first] & is_whole[two.second]
        first, second = two.first[both], two.second[both]
        for band, found in unlike.items():
            flux, least = columns[f"flux_{band}"], CLEAR_SNR * columns[f"flux_err_{band}"]
            is_clear = (flux[first] > least[first]) & (flux[second] > least[second])
            if is_clear.sum() < FEWEST:
                continue
            ratio = float(np.median(flux[second[is_clear]] / flux[first[is_clear]]))
            if abs(math.log(ratio)) > UNLIKE:
                text = (
                    f"{two.other}, {is_clear.sum()} objects are {ratio:.2f} times as bright as in {two.field}"
                )
                found.append((abs(math.log(ratio)), text))
    return [
        f"in {band} of field {max(found)[1]}"
        + f" ({len(found) - 1} more pairs of fields differ)" * (len(found) > 1)
        + "; are the zero points of both right?"
        for band, found in unlike.items()
        if found
    ]


def _rows_by_field(field: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each field, by its name, sorted."""
    names, numbers = np.unique(field, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(names) + 1))
    return {str(name): order[first:last] for name, (first, last) in zip(names, pairwise(ends), strict=True)}


def _lie_within(places: np.ndarray, centres: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return which of some places, unit vectors, lie within reach of one of the centres, ``(N,)`` bool."""
    out, known = np.zeros(len(places), bool), np.isfinite(reach)
    if len(places) and known.any():
        for found in cKDTree(places).query_ball_point(centres[known], reach[known]):
            out[found] = True
    return out


def _mutual_nearest(tree: cKDTree, other: cKDTree, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of mutual nearest neighbours closer than `radius`."""
    distance, nearest = other.query(tree.data, distance_upper_bound=radius)
    _, back = tree.query(other.data, distance_upper_bound=radius)
    first = np.flatnonzero(np.isfinite(distance))
    first = first[back[nearest[first]] == first]
    return first, nearest[first]
