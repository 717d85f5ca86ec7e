"""Choosing the primary detection of objects detected in several overlapping fields.

Shapes: N detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from deepfits.survey.photometry import FLAGS_LACKING
from deepfits.tables import unit_vectors

# Maximum separation of two detections of the same object: the larger of these, in pixels and arcseconds.
MATCH_PIXELS, MATCH_ARCSEC = 2.0, 0.3


def primary_detections(
    columns: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]]
) -> np.ndarray:
    """Return which detections are primary, ``(N,)`` bool.

    Detections in two fields are the same object if they are mutual nearest neighbours within the larger of
    `MATCH_PIXELS` and `MATCH_ARCSEC`. The primary one is the one whose apertures are complete according to
    its flags; if both or neither are, the one farther from the edges of its field; if equal, the one in the
    first field by name. Other detections are primary, unless their apertures are incomplete and they lie
    within the Kron ellipse's major axis of a complete detection in another field: they are what the edge of
    their field left of it.

    Parameters
    ----------
    columns
        ``field``, ``ra``, ``dec`` (degrees), ``x``, ``y``, ``kron_radius`` (pixels) and ``flags``, ``(N,)``
        each.
    infos
        ``shape``, ``(H, W)``, and ``pixel_scale_arcsec`` of each field, by name.
    """
    is_primary = np.ones(len(columns["field"]), bool)
    vectors = unit_vectors(columns["ra"], columns["dec"])
    is_lacking = (columns["flags"] & FLAGS_LACKING) > 0
    parts = {}
    for name in sorted(infos):
        rows = np.flatnonzero((columns["field"] == name) & np.isfinite(vectors).all(axis=1))
        if len(rows):
            height, width = infos[name]["shape"]
            x, y = columns["x"][rows], columns["y"][rows]
            margin = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y])
            margin = margin + np.where(is_lacking[rows], 0.0, height + width)
            parts[name] = rows, cKDTree(vectors[rows]), margin
    names = list(parts)
    for index, field in enumerate(names):
        for other in names[index + 1 :]:
            scale = max(infos[n]["pixel_scale_arcsec"] for n in (field, other))
            radius = np.deg2rad(max(MATCH_PIXELS * scale, MATCH_ARCSEC) / 3600)
            (rows, tree, margin), (other_rows, other_tree, other_margin) = parts[field], parts[other]
            reach = np.deg2rad(columns["kron_radius"] * scale / 3600)
            far = max(radius, *(float(np.nanmax(reach[its], initial=0)) for its in (rows, other_rows)))
            if (tree.mins - other_tree.maxes > far).any() or (other_tree.mins - tree.maxes > far).any():
                continue  # fields far from each other
            first, second = _mutual_nearest(tree, other_tree, radius)
            loses = margin[first] < other_margin[second]
            is_primary[rows[first[loses]]] = False
            is_primary[other_rows[second[~loses]]] = False
            for cut, whole in (
                (np.delete(rows, first), other_rows),
                (np.delete(other_rows, second), rows),
            ):
                cut, whole = cut[is_lacking[cut]], whole[~is_lacking[whole]]
                is_primary[cut[_lie_within(vectors[cut], vectors[whole], reach[whole])]] = False
    return is_primary


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
