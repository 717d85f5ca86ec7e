from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import deepfits
from deepfits.sky.exposures import make_exposure
from deepfits.sky.scene import draw_model, draw_objects, make_scene
from deepfits.sky.surveys import find_survey
from deepfits.survey.find import find_fields

SURVEY = find_survey("clauds-hsc")
SIZE = 320
NUMBER = 3


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    out = tmp_path_factory.mktemp("exposures")
    return deepfits.simulate(out, size=SIZE, seed=4, exposures=NUMBER)


def test_exposures_stand_beside_the_coadds(sky):
    assert (sky / "coadd-u.fits").exists()
    for band in "ugriz":
        names = sorted(path.name for path in (sky / "exposures" / band).iterdir())
        expected = [
            f"exposure-patch-00-{band}-{n:02d}{k}.fits" for n in range(NUMBER) for k in ("", ".weight")
        ]
        assert names == sorted(expected)


def test_each_exposure_has_its_own_place_seeing_and_zero_point(sky):
    headers = [fits.getheader(sky / f"exposures/i/exposure-patch-00-i-{n:02d}.fits") for n in range(NUMBER)]
    for key in ("MAGZERO", "FWHM", "CRVAL1", "PC1_1"):
        assert len({round(header[key], 8) for header in headers}) == NUMBER, key


def test_bright_objects_stand_where_the_coordinates_say(sky):
    truth = pq.read_table(sky / "truth.parquet").to_pandas()
    bright = truth[(truth.mag_i < 23) & (truth.mag_i > 18.5)]
    found = 0
    for number in range(NUMBER):
        path = sky / f"exposures/i/exposure-patch-00-i-{number:02d}.fits"
        image, header = fits.getdata(path), fits.getheader(path)
        x, y = WCS(header).all_world2pix(bright.ra, bright.dec, 0)
        noise = 1.4826 * np.median(np.abs(image - np.median(image)))
        for one, two in zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True):
            if 2 < one < SIZE - 3 and 2 < two < SIZE - 3:
                weight = fits.getdata(path.with_suffix(".weight.fits"))
                if weight[two, one] > 0:
                    assert image[two - 2 : two + 3, one - 2 : one + 3].mean() > 3 * noise
                    found += 1
    assert found > 8


def test_an_exposure_is_the_patch_seen_by_another_camera():
    table = draw_objects(SURVEY, SIZE, 4, 0)
    patch = make_scene(SURVEY, SIZE, 4, 0, table, defects=False)
    exposure = make_exposure(patch, table, 3, 1, NUMBER)
    seeing = replace(exposure.conditions, fwhm_arcsec=(patch.conditions.fwhm_arcsec[3],))
    exposure = replace(exposure, conditions=seeing)
    reproject = pytest.importorskip("reproject")
    theirs = draw_model(exposure, (0, SIZE))[0]
    ours = draw_model(patch, (0, SIZE))[3]
    turned, footprint = reproject.reproject_interp(
        (theirs, exposure.wcs), patch.wcs, shape_out=ours.shape, order="bicubic"
    )
    inside = (footprint > 0) & np.isfinite(turned)
    inside[:30] = inside[-30:] = False
    inside[:, :30] = inside[:, -30:] = False
    assert inside.sum() > 30_000
    # Same seeing: the same light in each pixel, but for the interpolation, worst on the sharpest peaks.
    assert np.abs(turned - ours)[inside].max() < 0.03 * ours[inside].max()
    assert np.corrcoef(turned[inside], ours[inside])[0, 1] > 0.9995


def test_depth_adds_up_to_that_of_the_coadd():
    table = draw_objects(SURVEY, 128, 4, 0)
    patch = make_scene(SURVEY, 128, 4, 0, table)
    sigma = [make_exposure(patch, table, 2, n, 9).conditions.sigma[0] for n in range(9)]
    total = 1 / np.sqrt((1 / np.square(sigma)).sum())
    # The coadd's pixels are correlated: smaller noise in each, the same in the aperture.
    factor = make_exposure(patch, table, 2, 0, 1).conditions.sigma[0]
    assert total == pytest.approx(factor, rel=1e-6)
    assert total / patch.conditions.sigma[2] == pytest.approx(SURVEY.noise_correlation, rel=0.03)


def test_exposures_are_no_fields_beside_their_coadds(sky):
    assert [field.name for field in find_fields(sky)] == ["coadd"]
    assert len(find_fields(sky / "exposures")) == NUMBER


def test_stacked_exposures_are_the_coadd(sky, tmp_path):
    pytest.importorskip("reproject")
    reference = sky / "coadd-i.fits"
    deepfits.stack(sky / "exposures", tmp_path, bands=["i"], grid=reference)
    stacked, weight = (fits.getdata(tmp_path / f"coadd-i{k}.fits") for k in ("", ".weight"))
    with fits.open(reference) as hdus:
        ours = hdus[0].data * 10 ** (0.4 * (31.4 - hdus[0].header["MAGZERO"]))
    is_good = (weight > 0) & (fits.getdata(sky / "coadd-i.weight.fits") > 0)
    noise = 1.4826 * np.median(np.abs(ours[is_good]))
    is_bright = is_good & (ours > 20 * noise)
    assert is_bright.sum() > 300
    # The seeing of the exposures scatters by 12%: peaks are lower or higher, light on average the same.
    assert np.median(stacked[is_bright] / ours[is_bright]) == pytest.approx(1.0, abs=0.12)
    assert np.corrcoef(stacked[is_bright], ours[is_bright])[0, 1] > 0.97
    is_empty = is_good & (np.abs(ours) < noise)
    # Cosmic rays of 20 σ and more are gone: what is left is noise.
    assert stacked[is_empty].max() < 12 * noise
