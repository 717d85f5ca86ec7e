import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import deepfits
from deepfits.sky.defects import IS_BAD, PLANES

SIZE = 300


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    out = tmp_path_factory.mktemp("layouts")
    for layout in ("plain", "hsc"):
        deepfits.simulate(out / layout, size=SIZE, seed=8, num_patches=2, layout=layout)
    return out


def test_the_hsc_layout_has_its_files_and_names(both):
    names = {path.name for path in (both / "hsc").iterdir()}
    for x in (0, 1):
        assert {f"calexp-HSC-{b}-9813-{x},0.fits" for b in "GRIZ"} <= names
        assert {f"Mega-u_9813_{x}c0.fits", f"Mega-u_9813_{x}c0.weight.fits"} <= names
    truth = pq.read_table(both / "hsc/truth.parquet").to_pandas()
    assert set(truth.patch) == {"9813-0,0", "9813-1,0"}


def test_a_calexp_has_image_mask_and_variance_with_named_planes(both):
    with fits.open(both / "hsc/calexp-HSC-I-9813-0,0.fits") as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
        assert hdus[0].header["FLUXMAG0"] == pytest.approx(10**10.8)
        mask = hdus["MASK"]
        assert mask.header["MP_SAT"] == PLANES["SAT"]
        assert mask.data.dtype.kind == "i"
        assert 0.02 < ((mask.data & (1 << mask.header["MP_DETECTED"])) != 0).mean() < 0.5
        assert WCS(hdus[1].header).has_celestial


def test_both_layouts_hold_the_same_sky(both):
    with fits.open(both / "hsc/calexp-HSC-I-9813-1,0.fits") as hdus:
        image, mask, variance = (hdus[n].data for n in (1, 2, 3))
        bad = (mask & IS_BAD) != 0
    plain = fits.getdata(both / "plain/patch-01/coadd-i.fits")
    weight = fits.getdata(both / "plain/patch-01/coadd-i.weight.fits")
    np.testing.assert_array_equal(weight == 0, bad)
    np.testing.assert_allclose(weight[~bad], 1 / variance[~bad], rtol=1e-5)
    np.testing.assert_array_equal(image[~bad], plain[~bad])


@pytest.mark.parametrize("layout", ["plain", "hsc"])
def test_the_survey_part_reads_what_we_write(both, layout):
    from deepfits.survey.find import find_fields

    fields = find_fields(both / layout)
    assert len(fields) == 2
    for field in fields:
        assert field.bands == tuple("ugriz")
    truth = pq.read_table(both / layout / "truth.parquet").to_pandas()
    assert {field.name for field in fields} == set(truth.patch)
