"""Differences between rows of a table, as the benchmark of Table 1 prints them."""

import numpy as np
import pytest

from benchmarks.paired import measured_difference, paper_table
from deepfits.redshifts.metrics import measured


def test_difference_of_the_same_estimates_is_exactly_zero(redshifts):
    z_phot, z_spec = redshifts
    for entry in measured_difference(z_phot, z_phot, z_spec, num_resamples=50).values():
        assert entry == {"value": 0.0, "error": 0.0}


def test_paired_differences_are_surer_than_the_metrics_themselves(redshifts):
    """Two estimates that stumble over the same objects: the difference has less scatter than either."""
    z_phot, z_spec = redshifts
    generator = np.random.default_rng(9)
    better = z_spec + 0.9 * (z_phot - z_spec) + 0.001 * generator.normal(size=len(z_spec))
    found = measured_difference(better, z_phot, z_spec)
    alone, other = (measured(one, z_spec) for one in (better, z_phot))
    for name in ("sigma_mad", "rmse"):
        assert found[name]["value"] == pytest.approx(alone[name]["value"] - other[name]["value"])
        assert found[name]["value"] < 0
        assert 0 < found[name]["error"] < 0.5 * alone[name]["error"]


def test_error_of_a_difference_is_its_scatter_over_skies():
    """Of the mean Δz of independent estimates, whose difference is known: σ √(2/N) for width σ each."""
    generator = np.random.default_rng(2)
    number, width = 400, 0.05
    z_spec = generator.uniform(0, 2, number)
    one, two = (z_spec + width * (1 + z_spec) * generator.normal(size=number) for _ in range(2))
    found = measured_difference(one, two, z_spec, num_resamples=1000)
    # the spread of 1,000 resamples is known to 2%, that of 400 objects to 4%
    assert found["bias"]["error"] == pytest.approx(width * (2 / number) ** 0.5, rel=0.15)


def test_paper_is_quoted_as_printed():
    text = paper_table()
    assert "| TPOT on fitted latents | 0.633 | -0.024 | 0.130 | 0.389 |" in text
    assert "other data" in text
