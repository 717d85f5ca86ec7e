"""Distributions of magnitude, colour, size and shape."""

import numpy as np
import pytest

from deepfits.training.shapes import compare_shapes, measure_shapes, two_sample_distance

pytest.importorskip("sep")
BANDS = ("g", "r", "i")


def galaxies(number, seed, width=2.0, axis_ratio=1.0, flux=3000.0):
    """Return elliptical Gaussians with noise of 1 nJy, each band twice as bright as the previous one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    profile = np.exp(-0.5 * ((x / width) ** 2 + (y / (width * axis_ratio)) ** 2))
    profile /= profile.sum()
    brightness = flux * 10 ** rng.normal(0, 0.2, (number, 1, 1, 1)) * np.array([1, 2, 4])[:, None, None]
    return brightness * profile + rng.normal(size=(number, 3, 32, 32)), brightness[:, :, 0, 0]


def measure(image):
    return measure_shapes(image, np.ones_like(image), BANDS, 0.2)


def test_measurements_of_a_gaussian():
    image, flux = galaxies(60, 0, width=2.0)
    found = measure(image)
    inside = 1 - np.exp(-0.5 * (6 / 2) ** 2)  # fraction of a Gaussian with σ = 2 pixels within 6 pixels
    expected = 31.4 - 2.5 * np.log10(flux[:, 0] * inside)
    np.testing.assert_allclose(found["mag_g"], expected, atol=0.05)  # noise of 11 nJy in 2000 to 5000
    np.testing.assert_allclose(found["colour_g_r"], 2.5 * np.log10(2), atol=0.05)
    half_light = 2.0 * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(np.median(found["radius_arcsec"]), half_light * 0.2, rtol=0.03)
    ratio = np.sqrt(np.log(1 - 0.8) / np.log(1 - 0.2))
    assert np.median(found["concentration"]) == pytest.approx(5 * np.log10(ratio), abs=0.1)
    assert np.median(found["ellipticity"]) < 0.03


def test_ellipticity_of_a_flattened_gaussian():
    found = measure(galaxies(30, 1, axis_ratio=0.5)[0])
    # Pixelation (widths 2.02 and 1.04) and the isophote make it rounder.
    assert np.median(found["ellipticity"]) == pytest.approx(0.45, abs=0.05)


def test_blank_sky_has_no_object():
    found = measure(np.random.default_rng(0).normal(size=(40, 3, 32, 32)))
    assert np.isnan(found["ellipticity"]).mean() > 0.6  # five pixels above 1.5σ occur by chance


def test_two_sample_distance_ignores_nan():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=80), rng.normal(0.4, 1.5, size=55)
    assert two_sample_distance(np.append(a, np.nan), b) == two_sample_distance(a, b)
    assert two_sample_distance(a, np.array([np.nan])) == 1


def test_distances_are_large_only_for_different_distributions():
    real = measure(galaxies(150, 0)[0])
    same = compare_shapes(real, measure(galaxies(150, 1)[0]))
    larger = compare_shapes(real, measure(galaxies(150, 2, width=2.6)[0]))
    limit = 1.95 * np.sqrt(2 / 150)  # exceeded once in a thousand
    assert max(value for name, value in same.items() if name.startswith("ks")) < limit
    assert larger["ks_radius_arcsec"] > 0.9
    assert larger["ks_colour_g_r"] < limit
    assert same["found_real"] == same["found_generated"] == 1
