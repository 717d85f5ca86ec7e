"""Errors of PSF-matched fluxes, measured on stars."""

from __future__ import annotations

import numpy as np
import pytest

import deepfits
from deepfits.survey.catalogue import read_info
from deepfits.survey.psf_error import matched_flux_error
from deepfits.survey.store import CutoutStore
from tests.survey.test_varying_psf import SIDE, stars, write_field


def measured(log_width, flux, rng):
    """Return the error that is found where all stars are taken to have the same width."""
    number = len(log_width)
    x, y = rng.uniform(0, SIDE, (2, number))
    stamps = stars(log_width, np.full(number, flux), rng)
    return matched_flux_error(stamps, np.median(stamps, axis=0), x, y, None, (SIDE, SIDE))


@pytest.mark.parametrize("scatter", [0.0, 0.03])
@pytest.mark.parametrize("flux", [1e3, 1e5])
def test_stars_that_differ_from_the_psf_show_it_and_noise_does_not(scatter, flux):
    """A width of 3% more is 3 to 4% of a star's matched flux."""
    rng = np.random.default_rng(4)
    error = measured(rng.normal(0, scatter, 300), flux, rng)
    assert error == pytest.approx(1.1 * scatter, rel=0.25, abs=0.006)


@pytest.mark.parametrize(("number", "flux"), [(24, 1e5), (300, 50.0)])
def test_unknown_with_few_or_faint_stars(number, flux):
    assert measured(np.zeros(number), flux, np.random.default_rng(4)) is None


def test_it_follows_the_variation_that_is_known():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, SIDE, (2, 300))
    log_width = 0.2 * (x / SIDE - 0.5)
    stamps = stars(log_width, np.full(300, 1e5), rng)
    grid = np.tile(np.linspace(-0.1, 0.1, 17), (17, 1)).tolist()
    star = stars(np.zeros(1), np.full(1, 1e9), rng)[0]
    constant, varying = (matched_flux_error(stamps, star, x, y, w, (SIDE, SIDE)) for w in (None, grid))
    assert varying < 0.01
    assert constant > 0.05


def test_compact_galaxies_are_not_taken_for_stars(tmp_path):
    """In deep fields they outnumber stars of the same size; errors of 10% were measured."""
    write_field(tmp_path / "sky", 0.0, 0.0, is_deep=True)
    described = read_info(deepfits.detect(tmp_path / "sky", tmp_path / "c.parquet"))["fields"]["field"]
    for band in "gr":
        assert described["psf"][band]["flux_error"] < 0.02


@pytest.mark.slow
def test_every_object_has_that_of_its_field(tmp_path):
    write_field(tmp_path / "sky", 0.0, 0.0)
    store = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "store", size=27))
    for band in "gr":
        (error,) = np.unique(store.catalogue([f"psf_mismatch_{band}"])[f"psf_mismatch_{band}"])
        assert error < 0.02  # 60 stars, each with a noise of up to 3%
    given = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "given", size=27, psf=["g=0.8"]))
    columns = given.catalogue(["psf_mismatch_g", "psf_mismatch_r"])
    assert np.isnan(columns["psf_mismatch_g"]).all()
    assert np.isfinite(columns["psf_mismatch_r"]).all()
