"""Radii of noise-free images: against formulas."""

import numpy as np
import pytest

from deepfits.fitting.photometry import circles, radii_of

SCALE = 0.2


@pytest.mark.parametrize("fwhm_arcsec", [0.5, 0.8, 1.2])
def test_radii_of_a_gaussian(fwhm_arcsec):
    """Of a Gaussian, 1 − exp(−r²/2σ²) of the light lies within r."""
    offset = (np.arange(32) - 15.5) * SCALE
    sigma = fwhm_arcsec / 2.3548
    image = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    apertures, radius = circles(32, SCALE)
    found = radii_of(np.einsum("hw,khw->k", image, apertures), radius)
    inside = 1 - np.exp(-(radius[-1] ** 2) / (2 * sigma**2))
    expected = sigma * np.sqrt(-2 * np.log(1 - inside * np.array([0.2, 0.5, 0.8])))
    # circles are 0.09 arcsec apart, pixels hold their mean
    np.testing.assert_allclose(found, expected, rtol=0.08)


def test_larger_objects_have_larger_radii_and_the_same_concentration():
    apertures, radius = circles(32, SCALE)
    offset = (np.arange(32) - 15.5) * SCALE
    square = offset[:, None] ** 2 + offset**2
    found = np.array([
        radii_of(np.einsum("hw,khw->k", np.exp(-square / (2 * s**2)), apertures), radius) for s in (0.3, 0.4)
    ])  # fmt: skip
    np.testing.assert_allclose(found[1] / found[0], 4 / 3, rtol=0.06)


def test_an_object_without_light_has_no_radius():
    _, radius = circles(32, SCALE)
    growth = np.stack([np.zeros(len(radius)), -radius, np.full(len(radius), np.nan)])
    assert np.isnan(radii_of(growth, radius)).all()


def test_circles_stay_inside_small_cutouts():
    apertures, radius = circles(8, 0.1)
    assert radius[-1] == pytest.approx(0.4)
    # pixels are divided into 100: the area of 0.5 square arcsec is good to a hundredth
    np.testing.assert_allclose(apertures.sum(axis=(1, 2)) * 0.1**2, np.pi * radius**2, atol=0.004)
