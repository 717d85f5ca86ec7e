"""Differences between rows of a table, as printed by the benchmark of Table 1."""

import numpy as np
import pytest

from benchmarks.paired import measured_difference, paper_table
from deepfits.redshifts.metrics import measured


def test_difference_of_the_same_estimates_is_exactly_zero(redshifts):
    z_phot, z_spec = redshifts
    for entry in measured_difference(z_phot, z_phot, z_spec, num_resamples=50).values():
        assert entry == {"value": 0.0, "error": 0.0}


def test_paired_differences_have_smaller_errors_than_the_metrics(redshifts):
    """If the same objects are difficult for both estimates, the difference has less scatter than either."""
    z_phot, z_spec = redshifts
    generator = np.random.default_rng(9)
    better = z_spec + 0.9 * (z_phot - z_spec) + 0.001 * generator.normal(size=len(z_spec))
    found = measured_difference(better, z_phot, z_spec)
    alone, other = (measured(estimate, z_spec) for estimate in (better, z_phot))
    for name in ("sigma_mad", "rmse"):
        assert found[name]["value"] == pytest.approx(alone[name]["value"] - other[name]["value"])
        assert found[name]["value"] < 0
        assert 0 < found[name]["error"] < 0.5 * alone[name]["error"]


def test_error_of_a_difference_agrees_with_theory():
    """The mean Δz of two independent estimates of width σ differs by σ √(2/N)."""
    generator = np.random.default_rng(2)
    number, width = 400, 0.05
    z_spec = generator.uniform(0, 2, number)
    first, second = (z_spec + width * (1 + z_spec) * generator.normal(size=number) for _ in range(2))
    found = measured_difference(first, second, z_spec, num_resamples=1000)
    # the scatter of 1,000 resamples has an error of 2%, that of 400 objects 4%
    assert found["bias"]["error"] == pytest.approx(width * (2 / number) ** 0.5, rel=0.15)


def test_values_of_the_paper_are_quoted():
    text = paper_table()
    assert "| TPOT on fitted latents | 0.633 | -0.024 | 0.130 | 0.389 |" in text
    assert "other data" in text
