"""Distributions as quantiles: comparison with exact Gaussians, qp and SciPy; calibration statistics."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest, norm

from deepfits.redshifts.features import Source
from deepfits.redshifts.method import Estimates
from deepfits.redshifts.pdf import (
    LEVELS,
    MEDIAN,
    as_qp,
    cde_loss,
    crps,
    cumulative,
    distance_to_uniform,
    from_grid,
    mixture,
    pdf_metrics,
    pit,
    point_estimates,
    recalibrated,
    sorted_quantiles,
    values_at,
)
from deepfits.redshifts.predictor import Predictor

NUMBER = 1500


@pytest.fixture
def gaussians():
    generator = np.random.default_rng(0)
    centre, width = generator.uniform(0.3, 1.5, NUMBER), generator.uniform(0.02, 0.1, NUMBER)
    z_spec = centre + width * generator.normal(size=NUMBER)
    return centre, width, z_spec


def quantiles_of(centre, width):
    return centre[:, None] + width[:, None] * norm.ppf(LEVELS)


def test_cumulative_and_quantile_function_are_inverses(gaussians):
    quantiles = quantiles_of(*gaussians[:2])
    wanted = np.array([0.001, 0.01, 0.2, 0.5, 0.77, 0.99, 0.9995])
    found = cumulative(quantiles, values_at(quantiles, wanted))
    np.testing.assert_allclose(found, np.tile(wanted, (NUMBER, 1)), atol=1e-9)


def test_cumulative_increases_from_zero_to_one():
    quantiles = sorted_quantiles(np.random.default_rng(1).uniform(0, 2, (20, len(LEVELS))))
    found = cumulative(quantiles, np.linspace(-5, 8, 400))
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, -1], 1, atol=1e-6)


def test_metrics_of_gaussians_agree_with_exact_ones(gaussians):
    centre, width, z_spec = gaussians
    quantiles, pull = quantiles_of(centre, width), (z_spec - centre) / width
    grid = np.linspace(0, 2.5, 1201)
    exact_crps = width * (pull * (2 * norm.cdf(pull) - 1) + 2 * norm.pdf(pull) - np.pi**-0.5)
    # piecewise linear in fifteen parts instead of Gaussian: errors of a few percent of the width
    assert crps(quantiles, z_spec, grid).mean() == pytest.approx(exact_crps.mean(), rel=0.01)
    exact_cde = 1 / (2 * width * np.pi**0.5) - 2 * norm.pdf(pull) / width
    assert cde_loss(quantiles, z_spec, grid).mean() == pytest.approx(exact_cde.mean(), rel=0.02)
    np.testing.assert_allclose(pit(quantiles, z_spec), norm.cdf(pull), atol=0.02)


def test_pit_agrees_with_qp(gaussians):
    pytest.importorskip("qp")
    centre, width, z_spec = (column[:50] for column in gaussians)
    quantiles = quantiles_of(centre, width)
    ensemble = as_qp(quantiles)
    assert ensemble.npdf == 50
    np.testing.assert_allclose(ensemble.cdf(z_spec[:, None])[:, 0], pit(quantiles, z_spec), atol=0.01)


def test_distance_to_uniform_agrees_with_the_kolmogorov_smirnov_statistic():
    values = np.random.default_rng(2).beta(2, 1, size=300)
    assert distance_to_uniform(values) == pytest.approx(kstest(values, "uniform").statistic, abs=1e-12)


def test_calibrated_distributions_have_the_nominal_coverage(gaussians):
    centre, width, z_spec = gaussians
    found = pdf_metrics(quantiles_of(centre, width), z_spec)
    for name, share in (("coverage_68", 0.68), ("coverage_95", 0.95)):
        expected_error = (share * (1 - share) / NUMBER) ** 0.5
        assert found[name]["value"] == pytest.approx(share, abs=3.5 * expected_error)
        assert found[name]["error"] == pytest.approx(expected_error, rel=0.3)
    # distances above 1.63/√n have a probability of 1%
    assert found["pit_ks"]["value"] < 1.63 / NUMBER**0.5


def test_too_narrow_distributions_are_detected_and_recalibrated(gaussians):
    centre, width, z_spec = gaussians
    narrow = quantiles_of(centre + 0.02, 0.5 * width)
    half = NUMBER // 2
    before = pdf_metrics(narrow[half:], z_spec[half:])
    calibrated = recalibrated(narrow[half:], pit(narrow[:half], z_spec[:half]))
    after = pdf_metrics(calibrated, z_spec[half:])
    assert before["coverage_68"]["value"] < 0.5
    assert after["coverage_68"]["value"] == pytest.approx(0.68, abs=0.06)
    assert after["crps"]["value"] < before["crps"]["value"]
    assert after["cde_loss"]["value"] < before["cde_loss"]["value"]


def test_recalibration_keeps_calibrated_distributions(gaussians):
    quantiles = quantiles_of(*gaussians[:2])
    uniform = (np.arange(20000) + 0.5) / 20000
    np.testing.assert_allclose(recalibrated(quantiles, uniform), quantiles, atol=2e-4)


def test_point_estimates_of_a_skewed_distribution():
    # an exponential distribution of mean 1 starting at 0.2: median 0.2 + ln 2, mode 0.2
    quantiles = np.tile(0.2 - np.log(1 - LEVELS), (3, 1))
    found = point_estimates(quantiles)
    assert found["z_mean"] == pytest.approx(1.2, rel=0.03)
    assert found["z_median"] == pytest.approx(0.2 + np.log(2), rel=1e-6)
    assert (found["z_mode"] < found["z_median"]).all()
    assert (found["z_median"] < found["z_mean"]).all()
    np.testing.assert_allclose(found["z_err68_low"], 0.2 - np.log(0.84), rtol=1e-6)
    np.testing.assert_allclose(found["z_err95_high"], 0.2 - np.log(0.025), rtol=1e-6)


def test_quantiles_of_a_gridded_distribution():
    grid = np.linspace(-1, 3, 4001)
    centre, width = np.array([0.7, 1.2]), np.array([0.05, 0.3])
    probability = norm.pdf(grid, centre[:, None], width[:, None]) * np.array([[3.0], [0.1]])
    np.testing.assert_allclose(from_grid(probability, grid), quantiles_of(centre, width), atol=2e-4)


def test_mixture_of_equal_parts_is_unchanged():
    quantiles = quantiles_of(np.array([0.5, 1.0]), np.array([0.1, 0.02]))
    np.testing.assert_allclose(mixture(np.stack([quantiles] * 4)), quantiles, atol=1e-6)


def test_mixture_of_different_parts_is_wider():
    width = np.array([0.1])
    parts = np.stack([quantiles_of(np.array([centre]), width) for centre in (0.5, 1.0)])
    mixed = mixture(parts)[0]
    assert mixed[7] == pytest.approx(0.75, abs=0.05)
    assert mixed[-1] - mixed[0] > 1.8 * (parts[0, 0, -1] - parts[0, 0, 0])


def test_mixture_has_the_weighted_mean_of_the_cumulative_distributions():
    parts = np.stack([quantiles_of(np.array([0.5, 2.0]), np.array([width, 0.1])) for width in (0.03, 0.2)])
    parts[1] += 0.4
    weights = np.array([[0.7, 0.3], [1.0, 0.0]])
    mixed = mixture(parts, weights)
    expected = sum(weights[0, n] * cumulative(parts[n, :1], mixed[:1]) for n in range(2))
    np.testing.assert_allclose(expected[0], LEVELS, atol=1e-3)
    assert mixed[0, MEDIAN] < 0.55  # the mean of the medians is 0.62
    np.testing.assert_allclose(mixed[1], parts[0, 1], atol=1e-9)


def test_crossing_quantiles_are_sorted():
    crossed = np.tile(np.linspace(0, 1, len(LEVELS)), (2, 1))
    crossed[0, 3:5] = crossed[0, [4, 3]]
    crossed[1, 5:9] = 0.4
    found = sorted_quantiles(crossed)
    assert (np.diff(found, axis=1) >= 0.99e-4).all()
    np.testing.assert_allclose(found, np.sort(crossed, axis=1), atol=1e-3)


@pytest.mark.parametrize(("target", "lowest"), [("z_spec", 0.0), ("mag_absolute", -1.5)])
def test_redshift_distributions_end_at_zero(target, lowest):
    quantiles = sorted_quantiles(np.linspace(-1.5, 3.5, len(LEVELS))[None])
    estimates = Estimates(point=quantiles[:, MEDIAN], quantiles=quantiles)
    method = SimpleNamespace(predict=lambda source, features: estimates)
    found = Predictor(method=method, loss="absolute", target=target).predict(Source(columns={}, bands=()))
    assert found["quantiles"].min() == found["quantiles"][0, 0] == pytest.approx(lowest, abs=1e-6)
    low = max(lowest, quantiles[0, np.searchsorted(LEVELS, 0.16)])
    assert found["z_err68_low"] == pytest.approx(low, abs=0.01)
    assert found["z_median"] == quantiles[:, MEDIAN]
