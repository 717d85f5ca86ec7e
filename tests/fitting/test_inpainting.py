"""Comparisons that evaluate predicted bands."""

import numpy as np
import pytest

from deepfits.fitting import inpainting


def test_interpolation_is_exact_on_power_laws_and_extrapolates_at_the_ends():
    bands = ["u", "g", "r", "i", "z"]
    place = np.log([inpainting.WAVELENGTH_NM[b] for b in bands])
    magnitudes = 22 + np.array([[1.5], [-0.3]]) * place
    for index, band in enumerate(bands):
        hidden = magnitudes.copy()
        hidden[:, index] = np.nan
        np.testing.assert_allclose(inpainting.interpolate(hidden, bands, band), magnitudes[:, index])


def test_regression_learns_from_training_rows_only():
    rng = np.random.default_rng(1)
    magnitudes = rng.normal(size=(200, 3))
    magnitudes[:, 1] = 0.3 * magnitudes[:, 0] + 0.7 * magnitudes[:, 2] + 1
    is_training = np.arange(200) < 100
    expected = magnitudes[~is_training, 1].copy()
    magnitudes[~is_training, 1] = 99.0
    found = inpainting.regress(magnitudes, 1, is_training)
    np.testing.assert_allclose(found[~is_training], expected, atol=1e-8)
    assert np.isnan(inpainting.regress(magnitudes[:4], 1, is_training[:4])).all()


def test_comparisons_are_robust_and_none_without_objects():
    rng = np.random.default_rng(2)
    measured = rng.uniform(20, 25, 5000)
    predicted = measured + 0.1 + 0.2 * rng.normal(size=5000)
    predicted[:100] += 50
    predicted[100] = np.nan
    found = inpainting.compare_magnitudes(predicted, measured)
    assert found["num_objects"] == 4999
    # The median of 5000 draws of width 0.2 scatters by 0.0035, and 2% outliers shift it by 0.005.
    assert found["bias_mag"] == pytest.approx(0.1, abs=0.02)
    assert found["scatter_mag"] == pytest.approx(0.2, abs=0.02)
    # The median of normal draws scatters by 1.25 σ / √N, and 1.48 × the MAD by 1.17 σ / √N.
    assert found["bias_mag_error"] == pytest.approx(1.25 * 0.2 / np.sqrt(4999), rel=0.3)
    assert found["scatter_mag_error"] == pytest.approx(1.17 * 0.2 / np.sqrt(4999), rel=0.3)
    assert inpainting.compare_magnitudes(predicted[:0], measured[:0])["bias_mag"] is None
    pulls = inpainting.compare_pulls(
        measured + 0.5 * rng.normal(size=5000), np.full(5000, 0.3), measured, np.full(5000, 0.4)
    )
    assert pulls["pull_width"] == pytest.approx(1, abs=0.06)
    assert abs(pulls["pull_median"]) < 0.1


def test_the_brightest_within_the_radius_is_matched_across_ra_zero():
    true_ra, true_dec = np.array([0.0, 359.99999, 0.0, 10.0]), np.array([5.0, 5.0, 5.001, 5.0])
    magnitude = np.array([25.0, 22.0, 18.0, 20.0])
    found = inpainting.match_brightest(
        np.array([0.00001, 10.0, 50.0]), np.array([5.0, 5.0, 5.0]), true_ra, true_dec, magnitude
    )
    assert found.tolist() == [1, 3, -1]


def test_the_model_error_gives_pulls_the_median_of_a_normal_distribution():
    draw = np.random.default_rng(3)
    true = draw.uniform(50, 500, 4000)
    error = np.full(4000, 2.0)
    measured = true + 2 * draw.normal(size=4000)
    predicted = true * (1 + 0.2 * draw.normal(size=4000))
    fraction = inpainting.model_error(predicted, np.zeros(4000), measured, error)
    assert fraction == pytest.approx(0.2, rel=0.06)
    pulls = np.abs(predicted - measured) / np.hypot(fraction * predicted, error)
    assert np.median(pulls) == pytest.approx(0.6745, rel=0.01)


def test_model_error_is_zero_for_pure_noise_and_none_for_few_objects():
    draw = np.random.default_rng(4)
    measured = 100 + draw.normal(size=2000)
    values = np.full(2000, 100.0), np.full(2000, 0.5), measured, np.ones(2000)
    assert inpainting.model_error(*values) == 0
    few = [v[: inpainting.MIN_CALIBRATION - 1] for v in values]
    assert inpainting.model_error(*few) is None
