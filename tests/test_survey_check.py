"""`check`: a table for good images, a warning with a remedy for each kind of bad ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits

import deepfits
from survey_sky import SCALE, make_truth, write_plain

SHAPE = (300, 320)


@pytest.fixture(scope="module")
def truth():
    return make_truth(np.random.default_rng(30), 55, SHAPE)


@pytest.fixture
def sky(tmp_path, truth):
    return write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(31), bands="gri")


def change(path, function):
    with fits.open(path, mode="update") as hdus:
        function(hdus[0])


def test_good_images_give_a_table_and_no_warning(sky):
    found = deepfits.check(sky)
    assert found.warnings == []
    assert [row.band for row in found.rows] == ["g", "r", "i"]
    for row in found.rows:
        assert row.zero_point == 27.0
        assert row.noise_njy == pytest.approx(2.0, rel=0.03)
        assert row.fwhm_arcsec == pytest.approx(3.5 * SCALE, rel=0.05)
        pixels = np.pi / SCALE**2
        assert row.depth == pytest.approx(31.4 - 2.5 * np.log10(5 * 2.0 * np.sqrt(pixels)), abs=0.1)
        assert row.fraction_empty == 0
    text = str(found)
    assert "depth 5σ 2″" in text
    assert "nothing suspicious" in text
    assert len(text.splitlines()) == 5


def test_a_wrong_unit_shows_in_depth_or_colour(sky):
    found = deepfits.check(sky, zero_point=["r=22.0"])
    # The median of the colours drawn is within a tenth of 0.
    assert any(re.search(r"median colour g − r is \+(4\.9|5\.[01])", w) for w in found.warnings)
    assert any(re.search(r"median colour r − i is -(4\.9|5\.[01])", w) for w in found.warnings)
    found = deepfits.check(sky, zero_point=5.0)
    [said] = [w for w in found.warnings if "none that images have" in w]
    assert "g r i: a depth of" in said


def test_a_band_beside_its_wcs(sky):
    def lie(hdu):
        hdu.header["CRPIX1"] += 2.6

    change(sky / "coadd-g.fits", lie)
    found = deepfits.check(sky)
    assert any("g lies (-2.6, +0.0) pixels off r" in w or "g lies (-2.6, -0.0)" in w for w in found.warnings)


def test_weights_that_are_variances(sky):
    rng = np.random.default_rng(1)
    sigma = np.where(np.arange(320) < 160, 2.0, 5.0) * np.ones(SHAPE)

    def noisier(hdu):
        hdu.data = (hdu.data + rng.normal(size=SHAPE) * np.sqrt(sigma**2 - 4.0 + 1e-9) / 57.544).astype(
            np.float32
        )

    for band in "gri":
        change(sky / f"coadd-{band}.fits", noisier)
        power = 2 if band == "g" else -2
        fits.writeto(sky / f"coadd-{band}.weight.fits", (sigma / 57.544) ** power, overwrite=True)
    found = deepfits.check(sky)
    assert [w for w in found.warnings if "are they variances" in w] == [
        "coadd g: the noise is largest where the weights are: are they variances? name the file .var.fits"
    ]


def test_a_sky_that_was_not_subtracted(sky):
    def brighten(hdu):
        hdu.data = hdu.data + np.float32(0.3)

    change(sky / "coadd-i.fits", brighten)
    assert any("coadd i: the sky lies at 8" in w for w in deepfits.check(sky).warnings)


def test_a_swapped_mask(sky):
    change(sky / "coadd-r.weight.fits", lambda hdu: hdu.data.__imul__(np.arange(320) % 8 == 0))
    assert any("coadd r: 88% of the pixels have no data" in w for w in deepfits.check(sky).warnings)


def test_one_unusable_band_does_not_hide_the_others(sky):
    (sky / "coadd-g.fits").write_bytes((sky / "coadd-g.fits").read_bytes()[:20000])
    found = deepfits.check(sky)
    assert [row.band for row in found.rows] == ["r", "i"]
    assert any("coadd-g.fits: truncated" in w for w in found.warnings)


def test_wrong_noise_is_a_warning(sky):
    def scale(hdu):
        hdu.data = hdu.data * np.float32(100.0)

    change(sky / "coadd-r.weight.fits", scale)
    found = deepfits.check(sky, weight_scale="absolute")
    assert any("measured noise is 10" in w for w in found.warnings)
