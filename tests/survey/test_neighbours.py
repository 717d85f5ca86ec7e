"""Which pixels of a cutout belong to other objects."""

from __future__ import annotations

import numpy as np
import pytest

from deepfits.survey.neighbours import find_neighbours, neighbours_of
from deepfits.survey.store import Cutouts, StoreInfo

SIZE = 32
Y, X = np.mgrid[:SIZE, :SIZE]


def blob(x, y, peak, sigma=1.8):
    return peak * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / (2 * sigma**2))


def scene(*blobs, seed=0):
    """Two bands with noise of 1: ``(1, 2, H, W)``."""
    noise = np.random.default_rng(seed).normal(size=(1, 2, SIZE, SIZE))
    image = (noise + sum(blob(*one) for one in blobs)).astype(np.float32)
    return image, np.ones_like(image)


def test_a_neighbour_is_found_with_its_wings_and_the_object_is_not():
    found = find_neighbours(*scene((15.5, 15.5, 20), (26, 7, 30)))[0]
    assert found[blob(26, 7, 30) > 2].all()
    assert not found[blob(15.5, 15.5, 20) > 2].any()
    assert found.mean() < 0.25


@pytest.mark.parametrize("peak", [8.0, 60.0])
def test_touching_segments_are_told_apart(peak):
    """8 pixels apart, whichever is the brighter."""
    found = find_neighbours(*scene((15.5, 15.5, 20), (23.5, 15.5, peak)))[0]
    assert found[15:17, 23:25].all()
    assert not found[14:18, 14:18].any()


def test_an_object_alone_keeps_all_pixels_at_an_edge_too():
    image, weight = scene((15.5, 15.5, 40))
    weight[:, :, :12] = 0
    assert not find_neighbours(image, weight).any()


def test_the_middle_stays_when_nothing_is_detected_there():
    found = find_neighbours(*scene((22.5, 15.5, 40)))[0]
    assert found[15:17, 22:24].all()
    assert not found[15:17, 15:17].any()


def test_what_lies_in_pixels_without_data_does_not_matter():
    image, weight = scene((15.5, 15.5, 20), (26, 7, 30))
    weight[:, :, :, :3] = 0
    first = find_neighbours(image, weight)
    image[:, :, :, :3] = np.nan
    np.testing.assert_array_equal(find_neighbours(image, weight), first)
    assert first.any()


def test_the_store_is_believed_where_it_says():
    image, weight = scene((15.5, 15.5, 20), (26, 7, 30))
    info = StoreInfo(bands=("g", "r"), size=SIZE, pixel_scale_arcsec=0.2)
    cutouts = Cutouts(object_id=np.arange(1), image=image, weight=weight)
    np.testing.assert_array_equal(neighbours_of(cutouts, info), find_neighbours(image, weight))
    said = np.zeros((1, SIZE, SIZE), dtype=bool)
    said[0, 3] = True
    cutouts = Cutouts(object_id=np.arange(1), image=image, weight=weight, is_neighbour=said)
    np.testing.assert_array_equal(neighbours_of(cutouts, info), said)
