"""Objects that were detected in more than one field, where fields overlap: one detection of each is primary.

Shapes: N detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from deepfits.survey.photometry import FLAGS_LACKING

# Two detections are one object when they lie within so many pixels, or so many arcseconds if that is more.
MATCH_PIXELS, MATCH_ARCSEC = 2.0, 0.3


def primary_detections(
    columns: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]]
) -> np.ndarray:
    """Return which detections are primary, ``(N,)`` bool: all but those that another field shows better.

    Detections of two fields are one object when each is the other's nearest, within two pixels. Of these the
    one is primary whose apertures have all their pixels, by its flags; where that is true of both, or of
    none, the one that lies farther from the edges of its field; the field first by name, where both lie
    equally far. What one field alone detected is primary wherever it lies. Columns are ``field``, ``ra``,
    ``dec`` (degrees), ``x``, ``y`` and ``flags``; infos, by field, hold ``shape`` ``(H, W)`` and
    ``pixel_scale_arcsec``.
    """
    is_primary = np.ones(len(columns["field"]), bool)
    vectors = _unit_vectors(columns["ra"], columns["dec"])
    parts = {}
    for name in sorted(infos):
        rows = np.flatnonzero((columns["field"] == name) & np.isfinite(vectors).all(axis=1))
        if len(rows):
            height, width = infos[name]["shape"]
            x, y = columns["x"][rows], columns["y"][rows]
            margin = np.minimum.reduce([x, y, width - 1 - x, height - 1 - y])
            margin = margin + np.where(columns["flags"][rows] & FLAGS_LACKING, 0.0, height + width)
            parts[name] = rows, cKDTree(vectors[rows]), margin
    names = list(parts)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            scale = max(infos[n]["pixel_scale_arcsec"] for n in (one, other))
            radius = np.deg2rad(max(MATCH_PIXELS * scale, MATCH_ARCSEC) / 3600)
            (rows, tree, margin), (its_rows, its_tree, its_margin) = parts[one], parts[other]
            if (tree.mins - its_tree.maxes > radius).any() or (its_tree.mins - tree.maxes > radius).any():
                continue  # fields far from each other
            first, second = _mutual_nearest(tree, its_tree, radius)
            loses = margin[first] < its_margin[second]
            is_primary[rows[first[loses]]] = False
            is_primary[its_rows[second[~loses]]] = False
    return is_primary


def _unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    right, up = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(up) * np.cos(right), np.cos(up) * np.sin(right), np.sin(up)], axis=1)


def _mutual_nearest(one: cKDTree, other: cKDTree, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of which each is the other's nearest, closer than `radius`."""
    distance, nearest = other.query(one.data, distance_upper_bound=radius)
    _, back = one.query(other.data, distance_upper_bound=radius)
    first = np.flatnonzero(np.isfinite(distance))
    first = first[back[nearest[first]] == first]
    return first, nearest[first]
