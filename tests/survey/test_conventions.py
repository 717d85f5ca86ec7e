"""Files after the conventions of surveys that are not at hand: the same sky comes out of each, in nJy."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.errors import InputError
from deepfits.survey.bands import band_name, band_of_header, sort_bands
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.find import find_exposures, split_name
from deepfits.survey.store import CutoutStore
from deepfits.survey.zeropoint import zero_point_of_header
from tests.helpers.gaussian_sky import draw, make_truth, make_wcs

SHAPE, SIGMA = (160, 180), 2.0


@pytest.fixture(scope="module")
def sky():
    """Return one band of a sky in nJy, and its noise."""
    rng = np.random.default_rng(0)
    truth = make_truth(rng, 22, SHAPE)
    clean = draw(SHAPE, truth["x"], truth["y"], truth["flux_r"], truth["fwhm"])
    return clean + rng.normal(0, SIGMA, SHAPE)


def counts(sky, zero_point):
    """Return the sky in counts of a zero point, and the variance of a pixel."""
    factor = 10 ** ((31.4 - zero_point) / 2.5)
    return (sky / factor).astype(np.float32), (SIGMA / factor) ** 2


def header(scale=0.25, **cards):
    out = make_wcs(SHAPE, scale=scale).to_header()
    for key, value in cards.items():
        out[key.replace("__", " ")] = value
    return out


def full(value):
    return np.full(SHAPE, value, np.float32)


def packed(values, head=None, name=None):
    return fits.CompImageHDU(values, head, name=name, quantize_level=64)


def write(path, *hdus, gap=True):
    fits.HDUList([fits.PrimaryHDU(), *hdus] if gap else list(hdus)).writeto(path)


def des(where, sky):
    image, variance = counts(sky, 30.0)
    for band in "gr":
        head = header(0.263, FILTER=f"{band} DECam SDSS c0001 4720.0 1520.0", MAGZERO=30.0)
        mask = np.zeros(SHAPE, np.int32)
        mask[3, 3] = 4
        parts = packed(image, head, "SCI"), packed(mask, head, "MSK"), packed(full(1 / variance), head, "WGT")
        write(where / f"DES0001-0041_r4907p01_{band}.fits.fz", *parts)
    return {"mask_polarity": "bad"}


def legacy(where, sky):
    image, variance = counts(sky, 22.5)
    for band in "gr":
        stem = str(where / "legacysurvey-1501p020")
        write(f"{stem}-image-{band}.fits.fz", packed(image, header(0.262, BUNIT="nanomaggy", FILTER=band)))
        write(f"{stem}-invvar-{band}.fits.fz", packed(full(1 / variance), header(BUNIT="1/nanomaggy^2")))
        write(f"{stem}-depth-{band}.fits.fz", packed(full(3.0), header(FILTER=band)))
    fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=[1.0])]).writeto(f"{stem}-ccds.fits")
    write(f"{stem}-maskbits.fits.fz", packed(np.zeros(SHAPE, np.int16), header()))
    return {}


def panstarrs(where, sky):
    image, variance = counts(sky, 25 + 2.5 * np.log10(900.0))
    softening, offset = 2 * variance**0.5, 0.1 * variance**0.5
    scaled = (2.5 / np.log(10) * np.arcsinh((image - offset) / (2 * softening))).astype(np.float32)
    for band in "gr":
        cards = {"FPA.FILTER": f"{band}.00000", "FPA.ZP": 25.0, "EXPTIME": 900.0}
        head = header(BSOFTEN=softening, BOFFSET=offset)
        for key, value in cards.items():
            head[f"HIERARCH {key}" if "." in key else key] = value
        stem = str(where / f"rings.v3.skycell.1725.051.stk.{band}.unconv")
        write(f"{stem}.fits", fits.ImageHDU(scaled, head))
        write(f"{stem}.wt.fits", packed(full(variance), header()))
    return {}


def cfht(where, sky):
    image, variance = counts(sky, 30.0)
    image[:16] = 0
    weight = full(0.14 / variance)  # right up to a factor
    weight[:16] = 0
    for band, name in (("g", "g.MP9401"), ("r", "CFHT MegaCam r.MP9602")):
        stem = f"CFHTLS_D-25_{band}_100028+021230_T0007_MEDIAN"
        fits.writeto(where / f"{stem}.fits", image, header(0.186, FILTER=name, PHOTZP=30.0, BUNIT="adu"))
        write(where / f"{stem}.weight.fits.fz", packed(weight, header(0.186)))
    return {}


def rubin(where, sky):
    image, variance = counts(sky, 31.4)
    for band in "gr":
        mask = fits.ImageHDU(np.zeros(SHAPE, np.int32), name="MASK")
        for bit, plane in enumerate(("BAD", "SAT", "DETECTED", "NO_DATA")):
            mask.header[f"HIERARCH MP_{plane}"] = bit
        mask.data[40] |= 4
        parts = (
            packed(image, header(0.2, BUNIT="nJy"), "IMAGE"),
            mask,
            packed(full(variance), None, "VARIANCE"),
        )
        write(where / f"deep_coadd_5063_14_{band}_lsst_cells_v1_LSSTComCam_runs_DRP_DP1_v29.fits", *parts)
    return {}


def euclid(where, sky):
    image, variance = counts(sky, 23.9)
    for band, name in (("DECAM-g", "DECAM_g"), ("DECAM-r", "DECAM_r")):
        ends = "TILE102018211-ACBD03_20241018T142710.276838Z_00.00.fits", "TILE102018211-2C0E9F_2024Z.fits"
        fits.writeto(
            where / f"EUC_MER_BGSUB-MOSAIC-{band}_{ends[0]}", image, header(FILTER=name, MAGZERO=23.9)
        )
        fits.writeto(where / f"EUC_MER_MOSAIC-{band}-RMS_{ends[1]}", full(variance**0.5), header())
    return {}


def odd_numbers(where, sky):
    """Whole numbers with BSCALE and BZERO, and big-endian doubles with a border of NaN; TPV; CDELT and PC."""
    image, _ = counts(sky, 25.0)
    one = fits.PrimaryHDU(image.copy(), header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", FILTER="g'", ZP=25.0))
    for axis in (1, 2):
        one.header[f"PV{axis}_0"], one.header[f"PV{axis}_1"] = 0.0, 1.0
    one.scale("int32", bscale=1e-5, bzero=3.0)
    one.writeto(where / "field-g.fits")
    image = image.astype(">f8")
    image[:10] = np.nan
    head = header(FILTER="r_SDSS", FLUXMAG0=10**10.0)
    fits.writeto(where / "field-r.fits", image, head)
    return {}


@pytest.mark.parametrize("survey", [des, legacy, panstarrs, cfht, rubin, euclid, odd_numbers])
def test_images_weights_and_bands_are_read_as_the_survey_means_them(tmp_path, sky, survey):
    where = tmp_path / "tile"
    where.mkdir()
    options = survey(where, sky)
    images = image_set(where, **options)
    assert images.bands == ("g", "r")
    assert len(images.fields) == 1
    with open_field(images.fields[0], images) as field:
        for plane in field.planes.values():
            image, weight = plane.read()
            good = weight > 0
            assert good.mean() > 0.85
            # Compression with quantize_level 64 adds noise of σ/64/√12; asinh and float32 far less.
            assert np.abs(image[good] - sky[good]).max() < 0.05 * SIGMA
            np.testing.assert_allclose(np.median(weight[good]), SIGMA**-2, rtol=0.1)
    store = CutoutStore(deepfits.cutouts(where, tmp_path / "store", **options))
    assert len(store) >= 18


def test_hubble_and_webb(tmp_path, sky):
    for name, flam, pivot in (("f814w", 7.07e-20, 8057.0), ("f160w", 1.94e-20, 15369.0)):
        point = -2.5 * np.log10(flam) - 5 * np.log10(pivot) - 2.408
        image, variance = counts(sky, point)
        head = header(0.06, PHOTFLAM=flam, PHOTPLAM=pivot, BUNIT="ELECTRONS/S", FILTER1="CLEAR1L")
        head["FILTER2" if name == "f814w" else "FILTER"] = name.upper()
        fits.writeto(tmp_path / f"hlsp_cosmos_{name}_v1.0_drz.fits", image, head)
        fits.writeto(tmp_path / f"hlsp_cosmos_{name}_v1.0_wht.fits", full(1 / variance), head)
    images = image_set(tmp_path)
    assert images.bands == ("F814W", "F160W")
    with open_field(images.fields[0], images) as field:
        for plane in field.planes.values():
            np.testing.assert_allclose(plane.read()[0], sky, rtol=1e-4, atol=1e-3)
    total = {"PHOTFLAM": 7.07e-20, "PHOTPLAM": 8057.0, "EXPTIME": 1000.0}
    rate, of_total = (zero_point_of_header(total | {"BUNIT": u})[0] for u in ("ELECTRONS/S", "ELECTRONS"))
    assert of_total - rate == pytest.approx(7.5)

    webb = tmp_path / "webb"
    webb.mkdir()
    steradians = (0.03 / 206264.806) ** 2
    image, variance = counts(sky, 8.9 - 2.5 * np.log10(1e6 * steradians))
    head = header(0.03, BUNIT="MJy/sr", PIXAR_SR=steradians)
    primary = fits.PrimaryHDU()
    primary.header["FILTER"] = "F115W"
    extras = [fits.ImageHDU(full(variance**0.5), head, name="ERR"), fits.ImageHDU(full(7.0), name="WHT")]
    extras.append(fits.ImageHDU(full(variance / 9), head, name="VAR_POISSON"))
    fits.HDUList([primary, fits.ImageHDU(image, head, name="SCI"), *extras]).writeto(webb / "j_i2d.fits")
    images = image_set(webb)
    with open_field(images.fields[0], images) as field:
        image, weight = field.planes["F115W"].read()
        np.testing.assert_allclose(image, sky, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(weight, SIGMA**-2, rtol=1e-4)


def test_the_ccds_of_a_camera_are_exposures_and_no_coadd(tmp_path, sky):
    image, variance = counts(sky, 30.0)
    for kind, values in (("ooi", image), ("oow", full(1 / variance))):
        chips = [
            packed(values, make_wcs(SHAPE, shift=(-190.0 * i, 0)).to_header(), f"N{i}") for i in range(3)
        ]
        path = tmp_path / f"c4d_140101_010101_{kind}_r_v1.fits.fz"
        write(path, *chips)
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["FILTER"], hdus[0].header["MAGZERO"] = "r DECam SDSS c0002 6415.0 1480.0", 30.0
    found = find_exposures(tmp_path)
    assert [(s.hdu, s.path.name[18:21]) for s in found["r"]] == [(1, "ooi"), (2, "ooi"), (3, "ooi")]
    with pytest.raises(InputError, match=r"holds 3 images of the sky, in HDUs 1, 2, 3; name the one"):
        deepfits.detect(tmp_path, tmp_path / "c.parquet")
    coadds = deepfits.stack(tmp_path, tmp_path / "coadds")
    stacked = fits.getdata(coadds / "coadd-r.fits")
    assert stacked.shape[1] > 3 * SHAPE[1]
    weight = fits.getdata(coadds / "coadd-r.weight.fits")
    assert (weight > 0).mean() > 0.9 * 3 * SHAPE[1] / stacked.shape[1]


def test_zeros_among_whole_numbers_are_values_unless_they_fill_blocks(tmp_path):
    rng = np.random.default_rng(1)
    steps = np.rint(rng.normal(0, 2, SHAPE)).astype(np.int16)
    head = header(FILTER="r", MAGZERO=27.0)
    fits.writeto(tmp_path / "a.fits", steps, head)
    with open_field(image_set(tmp_path / "a.fits").fields[0], image_set(tmp_path / "a.fits")) as field:
        assert (field.planes["r"].read()[1] > 0).all()
    steps[:40] = 0
    fits.writeto(tmp_path / "b.fits", steps, head)
    with open_field(image_set(tmp_path / "b.fits").fields[0], image_set(tmp_path / "b.fits")) as field:
        weight = field.planes["r"].read()[1]
    assert (weight[:39] == 0).all()
    assert (weight[45:] > 0).all()
    assert any("exactly 0, in blocks" in r for r in deepfits.check(tmp_path / "b.fits").remarks)
    scattered = np.where(rng.uniform(size=SHAPE) < 0.3, 0, np.rint(rng.normal(0, 2, SHAPE))).astype(np.int16)
    fits.writeto(tmp_path / "c.fits", scattered, head)
    assert any("exactly 0" in w for w in deepfits.check(tmp_path / "c.fits").warnings)


@pytest.mark.parametrize("method", [-1, 1, 2])
def test_zeros_of_quantised_floats_are_values_unless_they_fill_blocks(tmp_path, method):
    data = np.random.default_rng(1).normal(0, 3, SHAPE).astype(np.float32)
    data[:, :30] = 0
    hdu = fits.CompImageHDU(data, header(FILTER="r", MAGZERO=27.0), quantize_level=4, quantize_method=method)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.fits")
    with open_field(image_set(tmp_path / "a.fits").fields[0], image_set(tmp_path / "a.fits")) as field:
        weight = field.planes["r"].read()[1]
    assert (weight[:, :29] == 0).all()
    assert (weight[:, 35:] > 0).all()


def test_zero_points_of_surveys_in_vega_are_called_out(tmp_path, sky):
    head = header(0.34, TELESCOP="ESO-VISTA", MAGZPT=23.0)
    head["HIERARCH ESO INS FILT1 NAME"] = "Ks"
    fits.writeto(tmp_path / "tile.fits", counts(sky, 23.0)[0], head)
    found = deepfits.check(tmp_path / "tile.fits")
    assert found.rows[0].band == "Ks"
    assert any("Vega" in w and "zero_point" in w for w in found.warnings)
    assert not any("Vega" in w for w in deepfits.check(tmp_path / "tile.fits", zero_point=25.0).warnings)


@pytest.mark.parametrize(
    ("unit", "point"),
    [("nJy", 31.4), ("MJy", -6.1), ("mJy", 16.4), ("10.0*nJy", 28.9), ("uJy", 23.9), ("nanomaggy", 22.5)],
)
def test_units(unit, point):
    if point < -2.5:
        with pytest.raises(InputError, match="no plausible"):
            zero_point_of_header({"BUNIT": unit})
    else:
        assert zero_point_of_header({"BUNIT": unit})[0] == pytest.approx(point, abs=0.01)


def test_names_of_filters():
    names = {
        "g DECam SDSS c0001 4720.0 1520.0": "g", "CFHT MegaCam r.MP9602": "r", "u*": "ustar", "z.00000": "z",
        "OCAM_i_SDSS": "i", "NIR_Y": "Y", "NIR_H": "H", "VISTA Ks": "Ks", "Ks.WC8302": "Ks", "VIS": "VIS",
        "HSC-I2": "i", "f814w": "F814W", "W-C-RC": "R", "W-S-Z+": "z", "PANSTARRS_y": "y", "J": "J",
    }  # fmt: skip
    assert {name: band_name(name) for name in names} == names
    assert band_of_header({"TELESCOP": "WISE", "BAND": 2}) == "W2"
    assert band_of_header({"ESO INS FILT1 NAME": "J"}) == "J"
    assert sort_bands(["F444W", "F115W", "F200W"]) == ("F115W", "F200W", "F444W")


def test_what_belongs_together_by_name():
    assert split_name("a_drz")[0] == split_name("a_wht")[0]
    assert split_name("t-image-g")[0] != split_name("t-image-Z")[0]
    assert split_name("x_z.weight") == (("x", "z"), "weight")
    assert split_name("weight") == (("weight",), None)
