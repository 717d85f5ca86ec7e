"""The noise of SDSS frames, from what the files hold."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from deepfits.survey.fields import image_set, open_field
from deepfits.survey.sdss import dark_variance_of, gain_of
from tests.helpers.gaussian_sky import make_wcs

SHAPE = (96, 120)
NJY = 3630.780547701


def write_frame(directory, *, sky=200.0, flux=0.0, seed=0, band="r", with_noise=True):
    """Write a frame with a square of `flux` nanomaggies a pixel; return the image."""
    rng = np.random.default_rng(seed)
    calibration = np.linspace(0.004, 0.006, SHAPE[1]).astype(np.float32)
    counts = np.zeros(SHAPE)
    counts[40:60, 40:60] = flux / 0.005
    gain, dark = gain_of(band, 3, 3918), dark_variance_of(band, 3, 3918)
    electrons = rng.poisson((counts + sky) * gain)
    noisy = electrons / gain - sky + rng.normal(0, np.sqrt(dark), SHAPE)
    header = make_wcs(SHAPE, scale=0.396).to_header()
    header["BUNIT"], header["FILTER"], header["CAMCOL"], header["RUN"] = "nanomaggy", band, 3, 3918
    hdus = [fits.PrimaryHDU((noisy * calibration).astype(np.float32), header)]
    if with_noise:
        table = np.zeros(
            1, [("ALLSKY", "f4", (6, 8)), ("XINTERP", "f4", SHAPE[1]), ("YINTERP", "f4", SHAPE[0])]
        )
        table["ALLSKY"], table["XINTERP"] = sky, np.linspace(0, 7, SHAPE[1])
        table["YINTERP"] = np.linspace(0, 5, SHAPE[0])
        hdus += [fits.ImageHDU(calibration), fits.BinTableHDU(table)]
    fits.HDUList(hdus).writeto(directory / f"frame-{band}-003918-3-0213.fits")
    return calibration


def read(directory):
    images = image_set(directory)
    with open_field(images.fields[0], images) as field:
        return *field.planes["r"].read(), field.aligned["r"].plane


def test_weights_hold_sky_photons_and_read_out(tmp_path):
    calibration = write_frame(tmp_path, flux=20.0)
    image, weight, plane = read(tmp_path)
    assert plane.weight_kind == "photon noise"
    gain, dark = gain_of("r", 3, 3918), dark_variance_of("r", 3, 3918)
    sky = (200.0 / gain + dark) * (calibration * NJY) ** 2
    np.testing.assert_allclose(1 / weight[80], sky, rtol=1e-4)
    counts = image[50, 50] / NJY / calibration[50]
    expected = ((counts + 200.0) / gain + dark) * (calibration[50] * NJY) ** 2
    assert 1 / weight[50, 50] == pytest.approx(expected, rel=1e-4)
    # The noise really is what the weights say: 400 pixels know a width to 3.5%.
    bright = np.s_[41:59, 41:59]
    truth = (20.0 / 0.005 * calibration * NJY)[None, 41:59]
    assert np.std((image[bright] - truth) * np.sqrt(weight[bright])) == pytest.approx(1, abs=0.15)
    assert np.std(image[70:] * np.sqrt(weight[70:])) == pytest.approx(1, abs=0.05)


def test_the_sky_weights_do_not_follow_the_noise(tmp_path):
    write_frame(tmp_path, sky=20.0)
    image, weight, _ = read(tmp_path)
    # Weights that followed each pixel's own noise would pull this down by 9 of its standard deviations.
    mean = (image * weight).sum() / weight.sum()
    assert abs(mean) < 4 * weight.sum() ** -0.5


def test_a_frame_without_sky_gets_a_constant_weight(tmp_path):
    write_frame(tmp_path, with_noise=False)
    _, weight, plane = read(tmp_path)
    assert plane.weight_kind == "measured"
    assert np.ptp(weight) == 0


def test_gains_follow_camera_column_and_run():
    assert (gain_of("u", 2, 1099), gain_of("u", 2, 1100)) == (1.595, 1.825)
    assert (dark_variance_of("z", 4, 1499), dark_variance_of("z", 4, 1500)) == (9.61, 12.6025)
    assert gain_of("i", 6, 8162) == 4.76
