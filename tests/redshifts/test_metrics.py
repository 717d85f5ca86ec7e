"""Metrics: explicit values, other implementations, and errors compared with theory."""

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.redshifts.metrics import (
    DEFINITIONS,
    binned,
    measured,
    point_metrics,
)


def test_metrics_of_five_objects():
    # Δz: 0, 0, 0, 0.1, -0.5 -> median 0, |Δz| median 0, mean -0.08
    z_spec = np.array([1.0, 1.0, 1.0, 1.0, 3.0])
    z_phot = np.array([1.0, 1.0, 1.0, 1.2, 1.0])
    found = point_metrics(z_phot, z_spec)
    assert found["bias"] == pytest.approx(-0.08)
    assert found["bias_median"] == 0
    assert found["sigma_mad"] == 0
    assert found["eta"] == pytest.approx(0.4)
    assert found["eta_15"] == pytest.approx(0.2)
    assert found["eta_05"] == pytest.approx(0.4)
    assert found["r2"] == pytest.approx(1 - (0.04 + 4.0) / 3.2)


def test_metrics_agree_with_other_implementations(redshifts):
    from scipy.stats import iqr, median_abs_deviation
    from sklearn.metrics import mean_squared_error, r2_score

    z_phot, z_spec = redshifts
    found = point_metrics(z_phot, z_spec)
    dz = (z_phot - z_spec) / (1 + z_spec)
    assert found["r2"] == pytest.approx(r2_score(z_spec, z_phot), rel=1e-12)
    assert found["rmse"] == pytest.approx(mean_squared_error(z_spec, z_phot) ** 0.5, rel=1e-12)
    assert found["bias"] == pytest.approx(np.average(dz), rel=1e-12)
    assert found["bias_median"] == pytest.approx(np.percentile(dz, 50), rel=1e-12)
    assert found["sigma_mad"] == pytest.approx(1.4826 * median_abs_deviation(dz), rel=1e-12)
    assert found["sigma_iqr"] == pytest.approx(iqr(dz) / 1.349, rel=1e-12)
    assert found["eta"] == np.count_nonzero(np.abs(dz) > 5 * found["sigma_mad"]) / len(dz)
    assert found["eta_rail"] == np.count_nonzero(np.abs(dz) > max(0.06, 3 * found["sigma_iqr"])) / len(dz)


def test_sigma_mad_of_gaussian_errors_is_their_width():
    generator = np.random.default_rng(0)
    z_spec = generator.uniform(0, 2, size=40000)
    z_phot = z_spec + 0.03 * (1 + z_spec) * generator.normal(size=40000)
    found = point_metrics(z_phot, z_spec)
    # the standard error of σ_MAD of n Gaussian draws is 1.17 σ/√n: 0.6% here
    assert found["sigma_mad"] == pytest.approx(0.03, rel=0.03)
    assert found["sigma_iqr"] == pytest.approx(0.03, rel=0.03)
    assert found["eta"] < 0.001


def test_bootstrap_errors_agree_with_theory(redshifts):
    z_phot, z_spec = redshifts
    found = measured(z_phot, z_spec, num_resamples=600)
    outliers = point_metrics(z_phot, z_spec)["eta_15"]
    # the standard deviation of 600 resamples has an error of 1/√1200 = 3%
    assert found["eta_15"]["error"] == pytest.approx((outliers * (1 - outliers) / 2000) ** 0.5, rel=0.12)
    dz = (z_phot - z_spec) / (1 + z_spec)
    assert found["bias"]["error"] == pytest.approx(dz.std() / 2000**0.5, rel=0.12)


def test_bootstrap_is_repeatable(redshifts):
    assert measured(*redshifts) == measured(*redshifts)


def test_every_metric_has_a_definition(redshifts):
    assert set(point_metrics(*redshifts)) == set(DEFINITIONS)
    assert set(measured(*redshifts)) == set(DEFINITIONS)


def test_constant_redshifts_have_no_r2():
    found = measured(np.array([0.4, 0.6, 0.5]), np.array([0.5, 0.5, 0.5]))
    assert found["r2"]["value"] is None
    assert found["bias"]["value"] == pytest.approx(0)


def test_every_object_is_in_one_bin(redshifts):
    z_phot, z_spec = redshifts
    entries = binned(z_phot, z_spec, z_spec, np.array([0.0, 0.5, 1.0, 100.0]))
    assert sum(entry["num"] for entry in entries) == 2000
    inside = (z_spec >= 0.5) & (z_spec < 1)
    assert entries[1]["metrics"] == measured(z_phot[inside], z_spec[inside])


def test_sparse_bins_have_only_a_count():
    z = np.array([0.1, 0.2, 1.1])
    entries = binned(z, z, z, np.array([0.0, 1.0, 2.0]))
    assert [entry["num"] for entry in entries] == [2, 1]
    assert all("metrics" not in entry for entry in entries)


@pytest.mark.parametrize(
    ("z_phot", "z_spec", "word"),
    [
        ([1.0, np.nan], [1.0, 1.0], "not finite"),
        ([1.0], [1.0], "at least 2"),
        ([1.0, 1.0], [1.0, 1.0, 1.0], "estimates for"),
    ],
)
def test_invalid_redshifts_are_refused(z_phot, z_spec, word):
    with pytest.raises(InputError, match=word):
        point_metrics(np.array(z_phot), np.array(z_spec))
