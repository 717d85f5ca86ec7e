"""Corrections of systematic errors in a predicted band are found, bounded, and independent of that band."""

import json

import numpy as np
import pytest

from deepfits.fitting.correction import LIMIT_MAG, Correction, cross_corrected, learn_correction
from deepfits.stages.inpaint_work import Calibration, _calibrate

BAND = 1


def make_fluxes(number, seed=0, noise=0.02):
    """Give the second of four bands an error from a squared colour and the residual of the third band."""
    generator = np.random.default_rng(seed)
    colour = generator.normal(0.0, 0.4, size=(number, 3))
    magnitude = generator.uniform(22, 24, number)[:, None] + np.cumsum(
        np.column_stack([np.zeros(number), colour]), axis=1
    )
    drawn = 10 ** (0.4 * (31.4 - magnitude))
    left = generator.normal(0, 0.1, number)
    wrong = 0.3 + 0.2 * colour[:, 2] ** 2 + 0.5 * left  # magnitudes by which the truth is fainter
    true = drawn.copy()
    true[:, 2] *= 10 ** (-0.4 * left)
    true[:, BAND] *= 10 ** (-0.4 * wrong)
    error = noise * true
    return drawn, true + error * generator.normal(size=true.shape), error, true


def scatter(flux, true):
    return np.std(2.5 * np.log10(flux / true))


def test_systematic_errors_are_removed():
    drawn, measured, error, _ = make_fluxes(2000)
    found = learn_correction(drawn, measured, error, (BAND,), BAND)
    drawn, measured, _, true = make_fluxes(1000, seed=1)
    before = scatter(drawn[:, BAND], true[:, BAND])
    mended = drawn[:, BAND] * found.factor(drawn, measured)
    # remaining: noise of the third band (0.5 mag per mag), and magnitudes clipped at the ends
    assert scatter(mended, true[:, BAND]) < 0.25 * before
    assert abs(np.median(2.5 * np.log10(mended / true[:, BAND]))) < 0.01


def test_offsets_of_magnitudes_are_corrected():
    drawn, measured, error, _ = make_fluxes(1000)
    drawn[:, BAND] *= 10 ** (-0.4 * 3)
    found = learn_correction(drawn, measured, error, (BAND,), BAND)
    drawn, measured, _, true = make_fluxes(500, seed=1)
    drawn[:, BAND] *= 10 ** (-0.4 * 3)
    mended = drawn[:, BAND] * found.factor(drawn, measured)
    # of 3.3 mag, a few per cent remain because of the ridge and the softening of faint magnitudes
    assert abs(np.median(2.5 * np.log10(mended / true[:, BAND]))) < 0.15


def test_the_hidden_band_has_no_influence():
    drawn, measured, error, _ = make_fluxes(500)
    found = learn_correction(drawn, measured, error, (BAND, 3), BAND)
    expected = found.factor(drawn, measured)
    measured[:, [BAND, 3]] = 1e9
    np.testing.assert_array_equal(found.factor(drawn, measured), expected)
    measured[:, [BAND, 3]] = np.nan
    np.testing.assert_array_equal(found.factor(drawn, measured), expected)


def test_outliers_have_little_influence():
    drawn, measured, error, _ = make_fluxes(1000)
    plain = learn_correction(drawn, measured, error, (BAND,), BAND)
    measured[::50, BAND] *= 30  # stars, cosmic rays
    wild = learn_correction(drawn, measured, error, (BAND,), BAND)
    test, seen, _, _ = make_fluxes(300, seed=2)
    # a fiftieth of the objects, clipped at 1.5 standard deviations of 0.1 mag, shift the others by 0.01 mag
    assert np.median(np.abs(wild.magnitude(test, seen) - plain.magnitude(test, seen))) < 0.01


def test_extrapolation_is_bounded():
    drawn, measured, error, _ = make_fluxes(1000)
    found = learn_correction(drawn, measured, error, (BAND,), BAND)
    far = drawn[:20] * np.array([1.0, 1e4, 1e-4, 1.0])
    added = found.magnitude(far, measured[:20])
    assert (np.abs(added) <= LIMIT_MAG).all()
    learnt = found.magnitude(drawn, measured)
    assert added.max() < learnt.max() + 0.5
    assert (found.magnitude(np.full((3, 4), np.nan), measured[:3]) == 0).all()


def test_missing_bands_have_no_influence():
    drawn, measured, error, true = make_fluxes(1000)
    measured[:300, 2] = np.nan
    found = learn_correction(drawn, measured, error, (BAND,), BAND)
    mended = drawn[:, BAND] * found.factor(drawn, measured)
    before = scatter(drawn[:, BAND], true[:, BAND])
    assert scatter(mended[300:], true[300:, BAND]) < 0.35 * before
    # the colour term is still corrected; half of the 0.1 mag residual of the third band remains
    assert scatter(mended[:300], true[:300, BAND]) == pytest.approx(0.05, abs=0.008)
    measured[:, 0], error[:, 0] = np.nan, np.nan  # a band missing for all objects
    assert np.isfinite(learn_correction(drawn, measured, error, (BAND,), BAND).coefficients).all()


def test_small_samples_give_a_simpler_correction_or_none():
    drawn, measured, error, _ = make_fluxes(130)
    quadratic, linear = (
        learn_correction(drawn[:n], measured[:n], error[:n], (BAND,), BAND) for n in (130, 100)
    )
    assert len(linear.coefficients) == 8
    assert len(quadratic.coefficients) == 8
    drawn, measured, error, _ = make_fluxes(150)
    assert len(learn_correction(drawn, measured, error, (BAND,), BAND).coefficients) == 18
    assert learn_correction(drawn[:50], measured[:50], error[:50], (BAND,), BAND) is None
    np.testing.assert_array_equal(cross_corrected(drawn[:50], measured[:50], error[:50], (BAND,), BAND), 1.0)


@pytest.mark.parametrize("number", [100, 600])
def test_round_trip(number):
    drawn, measured, error, _ = make_fluxes(number)
    found = learn_correction(drawn, measured, error, (BAND,), BAND)
    known = Calibration(error=0.1, correction=found)
    back = Calibration.from_json(json.loads(json.dumps(known.to_json())))
    assert back == known
    assert isinstance(back.correction, Correction)


def test_calibration_measures_the_remaining_error():
    drawn, measured, error, _ = make_fluxes(1000)
    columns = {
        "flux_aper_g": drawn[:, BAND],
        "flux_aper_err_g": np.zeros(1000),
        "flux_aper_measured_g": measured[:, BAND],
        "flux_aper_measured_err_g": error[:, BAND],
    }
    fluxes = {"drawn": drawn, "measured": measured, "measured_err": error}
    found = _calibrate(columns, fluxes, "g", (BAND,), BAND)
    assert found["error_alone"] > 0.2  # 0.3 mag and more
    assert found["error"] < 0.05
    # little or no correction if there is no systematic error
    drawn[:, BAND] = measured[:, BAND] - error[:, BAND] * np.random.default_rng(5).normal(size=1000)
    columns["flux_aper_g"] = drawn[:, BAND]
    found = _calibrate(columns, fluxes, "g", (BAND,), BAND)
    assert found["error"] <= found["error_alone"] < 0.05
