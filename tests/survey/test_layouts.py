"""Layouts: which file is which band of which field, zero points, masks and weights of each survey."""

from __future__ import annotations

import bz2
import os
import re

import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.errors import InputError
from deepfits.photometry import njy_per_count
from deepfits.stages.parameters import images_at
from deepfits.survey.bands import band_of_name, sort_bands
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.find import find_exposures, find_fields
from deepfits.survey.store import CutoutStore
from deepfits.survey.zeropoint import parse_per_band, zero_point_of_header
from tests.helpers.gaussian_sky import draw, make_truth, make_wcs, write_plain

SHAPE = (96, 100)
MASK = {"MP_BAD": 0, "MP_SAT": 1, "MP_INTRP": 2, "MP_CR": 3, "MP_EDGE": 4, "MP_DETECTED": 5, "MP_NO_DATA": 8}


def zero_point_of(header):
    """From PHOTFLAM and PHOTPLAM, as HST's handbooks have it."""
    return -2.5 * np.log10(header["PHOTFLAM"]) - 5 * np.log10(header["PHOTPLAM"]) - 2.408


def read_all(path, **options):
    images = image_set(path, **options)
    with open_field(images.fields[0], images) as field:
        return {b: p.read() for b, p in field.planes.items()}, field.remarks(), images.fields[0].name


def write_calexp(path, band, *, mask_cards=MASK, mask=None, fluxmag0=None, rng=None):
    rng = rng or np.random.default_rng(0)
    header = make_wcs(SHAPE).to_header()
    image = rng.normal(0, 0.1, SHAPE).astype(np.float32)
    primary = fits.PrimaryHDU()
    primary.header["FILTER"] = band
    if fluxmag0 is not None:
        primary.header["FLUXMAG0"] = fluxmag0
    planes = fits.ImageHDU(np.zeros(SHAPE, np.int32) if mask is None else mask, name="MASK")
    for name, bit in mask_cards.items():
        planes.header[name if len(name) <= 8 else f"HIERARCH {name}"] = bit
    variance = fits.ImageHDU(np.full(SHAPE, 0.01, np.float32), name="VARIANCE")
    fits.HDUList([primary, fits.ImageHDU(image, header, name="IMAGE"), planes, variance]).writeto(path)
    return image


def test_hsc_patches_with_masks_read_from_their_own_cards(tmp_path):
    mask = np.zeros(SHAPE, np.int32)
    mask[10, 10], mask[20, 20], mask[30, 30], mask[40, 40] = 1 << 5, 1 << 8, 1 << 13, 1 << 0
    images = {}
    for band in "GRI":
        cards = MASK | {"MP_CLIPPED": 13 if band == "G" else 14}
        path = tmp_path / f"calexp-HSC-{band}-9813-3%2C4.fits"
        images[band.lower()] = write_calexp(path, f"HSC-{band}", mask_cards=cards, mask=mask)
    planes, remarks, name = read_all(tmp_path, bad_planes=["BAD", "NO_DATA", "CLIPPED"])
    assert name == "9813-3,4"
    assert list(planes) == ["g", "r", "i"]
    image, weight = planes["g"]
    np.testing.assert_allclose(image[50:], images["g"][50:] * 57.5440, rtol=1e-5)
    np.testing.assert_allclose(weight[50:], 1 / (0.01 * 57.5440**2), rtol=1e-5)
    # DETECTED is not a defect; NO_DATA and BAD are; bit 13 is CLIPPED in g, and nothing in r.
    assert [weight[i, i] > 0 for i in (10, 20, 30, 40)] == [True, False, False, False]
    assert [planes["r"][1][i, i] > 0 for i in (10, 20, 30, 40)] == [True, False, True, False]
    assert any("BAD, NO_DATA, CLIPPED" in line for line in remarks["g"])
    with pytest.raises(InputError, match="no mask plane 'CLIPPD'; did you mean 'CLIPPED'"):
        read_all(tmp_path, bad_planes=["CLIPPD"])


def test_hsc_zero_point_from_fluxmag0(tmp_path):
    counts = write_calexp(tmp_path / "calexp-HSC-Z-1-2,3.fits", "HSC-Z", fluxmag0=10 ** (0.4 * 26.0))
    planes, _, _ = read_all(tmp_path)
    np.testing.assert_allclose(planes["z"][0], counts * njy_per_count(26.0), rtol=1e-5)


def test_u_from_cfht_joins_the_patch_of_hsc(tmp_path):
    for band in "GR":
        write_calexp(tmp_path / f"calexp-HSC-{band}-9813-3,4.fits", f"HSC-{band}")
    rng = np.random.default_rng(3)
    header = make_wcs(SHAPE).to_header()
    header["FILTER"], header["MAGZERO"] = "u.MP9301", 30.0
    noise = np.where(np.arange(SHAPE[1]) < 50, 4.0, 2.0)
    fits.writeto(tmp_path / "Mega-u_9813_3c4.fits", rng.normal(0, noise, SHAPE).astype(np.float32), header)
    # A swarped weight map: right up to a factor, 0 where there is nothing.
    weight = np.full(SHAPE, 123.0, np.float32)
    weight[:, 50:] *= 4
    weight[:8] = 0
    fits.writeto(tmp_path / "Mega-u_9813_3c4.weight.fits", weight, header)
    planes, remarks, _ = read_all(tmp_path)
    assert list(planes) == ["u", "g", "r"]
    assert any("relative weights" in line for line in remarks["u"])
    its = planes["u"][1]
    assert not its[:8].any()
    assert its[20, 80] / its[20, 20] == pytest.approx(4)
    assert its[20, 20] ** -0.5 == pytest.approx(4.0 * njy_per_count(30.0), rel=0.05)
    _, remarks, _ = read_all(tmp_path, weight_scale="absolute")
    assert any(line.startswith("WARNING: measured noise") for line in remarks["u"])


def test_relative_weights_far_from_inverse_variances(tmp_path):
    """As numbers of exposures beside images in Jy: rescaled, they seemed to mark pixels without data."""
    header = make_wcs(SHAPE).to_header()
    header["FILTER"], header["BUNIT"] = "r", "Jy"
    noise = np.random.default_rng(3).normal(0, 2e-9, SHAPE)
    fits.writeto(tmp_path / "a-r.fits", noise.astype(np.float32), header)
    weight = np.full(SHAPE, 100, np.float32)
    weight[:8] = 0
    fits.writeto(tmp_path / "a-r.weight.fits", weight, header)
    planes, _, _ = read_all(tmp_path)
    assert not planes["r"][1][:8].any()
    np.testing.assert_allclose(planes["r"][1][8:] ** -0.5, 2.0, rtol=0.05)


@pytest.mark.parametrize("seconds", [2028.0, 800.0])
def test_weights_that_are_exposure_times_are_up_to_a_factor(tmp_path, seconds):
    """As in drizzled images of HST, also where a second is by chance nearly the inverse variance."""
    header = make_wcs(SHAPE).to_header()
    header.update(FILTER="F814W", BUNIT="ELECTRONS/S", PHOTFLAM=7.0e-20, PHOTPLAM=8045.0, EXPTIME=2028.0)
    depth = np.full(SHAPE, seconds)
    depth[:, :50] /= 2
    inverse_variance = 2.9 * depth  # noise off by a factor of 1.7
    noise = np.random.default_rng(5).normal(0, inverse_variance**-0.5)
    fits.writeto(tmp_path / "a_drz_sci.fits", noise.astype(np.float32), header)
    fits.writeto(tmp_path / "a_drz_wht.fits", depth.astype(np.float32), header)
    planes, remarks, _ = read_all(tmp_path)
    ((name, (_, weight)),) = planes.items()
    assert any("relative weights" in line for line in remarks[name])
    scale = njy_per_count(zero_point_of(header)) ** 2
    ratio = weight[20, 80] * scale / inverse_variance[20, 80]
    assert ratio == pytest.approx(1.0, rel=0.05)


def test_mask_without_named_planes_is_asked_about(tmp_path):
    rng = np.random.default_rng(4)
    header = make_wcs(SHAPE).to_header()
    header["FILTER"], header["MAGZERO"] = "g", 27.0
    mask = np.zeros(SHAPE, np.uint8)
    mask[5, 5] = 1
    parts = [
        fits.PrimaryHDU(),
        fits.ImageHDU(rng.normal(size=SHAPE), header, name="SCI"),
        fits.ImageHDU(mask, name="MSK"),
        fits.ImageHDU(np.ones(SHAPE), name="WGT"),
    ]
    fits.HDUList(parts).writeto(tmp_path / "tile-g.fits")
    with pytest.raises(
        InputError, match=r"give the meaning of non-zero pixels: mask_polarity 'bad' or 'good'"
    ):
        read_all(tmp_path)
    bad = read_all(tmp_path, mask_polarity="bad")[0]["g"][1]
    good = read_all(tmp_path, mask_polarity="good")[0]["g"][1]
    assert (bad == 0).sum() == 1
    assert (good > 0).sum() == 1
    assert bad[5, 5] == 0 < good[5, 5]


def test_sdss_frames_are_grouped_by_field(tmp_path):
    rng = np.random.default_rng(5)
    for name in ("003918-3-0213", "001035-6-0017"):
        for band, dy in zip("ugriz", (4, 9, 0, 3, 8), strict=True):
            header = make_wcs(SHAPE, scale=0.396, shift=(0, dy)).to_header()
            header["BUNIT"] = "nanomaggy"
            hdu = fits.PrimaryHDU(rng.normal(0, 0.02, SHAPE).astype(np.float32), header)
            extra = fits.ImageHDU(np.ones(2048, np.float32))
            path = tmp_path / f"frame-{band}-{name}.fits"
            fits.HDUList([hdu, extra]).writeto(path)
            (tmp_path / f"{path.name}.bz2").write_bytes(bz2.compress(path.read_bytes()))
            path.unlink()
    fields = find_fields(tmp_path)
    assert [one.name for one in fields] == ["001035-6-0017", "003918-3-0213"]
    assert all(one.bands == tuple("ugriz") for one in fields)
    planes, remarks, _ = read_all(tmp_path)
    image, weight = planes["r"]
    assert 1.4826 * np.median(np.abs(image)) == pytest.approx(0.02 * 3631, rel=0.05)
    assert np.median(weight) ** -0.5 == pytest.approx(0.02 * 3631, rel=0.05)
    assert any("no weight plane" in line for line in remarks["r"])
    assert any("whole pixels" in line for line in remarks["z"])
    assert not planes["z"][1][-5:].any()  # these rows of the grid, that of i, lie above the z frame
    assert (planes["z"][1][:-5] > 0).all()


@pytest.mark.parametrize(("kind", "power"), [("ivar", -2), ("var", 2), ("rms", 1), ("weight", -2)])
def test_companions_of_every_kind_mean_the_same(tmp_path, kind, power):
    truth = make_truth(np.random.default_rng(0), 3, SHAPE)
    write_plain(tmp_path, truth, SHAPE, rng=np.random.default_rng(1), bands="g", sigma=3.0, weights=False)
    sigma = np.full(SHAPE, 3.0 / njy_per_count(27.0), np.float32)
    sigma[:, :20] *= 1.5
    fits.writeto(tmp_path / f"coadd-g.{kind}.fits", sigma**power)
    weight = read_all(tmp_path)[0]["g"][1]
    np.testing.assert_allclose(weight[:, 20:], 1 / 9, rtol=1e-5)
    np.testing.assert_allclose(weight[:, :20], 1 / 9 / 2.25, rtol=1e-5)


@pytest.mark.parametrize("off", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("kind", ["ivar", "weight"])
def test_weights_off_by_less_than_two_are_scaled_or_reported(tmp_path, kind, off):
    """Errors were silently wrong by up to a factor of two."""
    truth = make_truth(np.random.default_rng(0), 3, SHAPE)
    write_plain(tmp_path, truth, SHAPE, rng=np.random.default_rng(1), bands="g", sigma=3.0, weights=False)
    stated = np.full(SHAPE, off * 3.0 / njy_per_count(27.0), np.float32)
    fits.writeto(tmp_path / f"coadd-g.{kind}.fits", stated**-2)
    planes, remarks, _ = read_all(tmp_path)
    is_scaled = kind == "weight" and off != 1
    expected = 3.0 * (1 if is_scaled else off)
    np.testing.assert_allclose(planes["g"][1] ** -0.5, expected, rtol=0.05)
    assert any("measured noise is" in line for line in remarks["g"]) == (off != 1)


def test_tile_compressed_images_are_read_like_plain_ones(tmp_path):
    truth = make_truth(np.random.default_rng(0), 3, SHAPE)
    plain = write_plain(tmp_path / "plain", truth, SHAPE, rng=np.random.default_rng(1), bands="gr")
    (tmp_path / "packed").mkdir()
    for band in "gr":
        for end in ("", ".weight"):
            with fits.open(plain / f"coadd-{band}{end}.fits") as hdus:
                hdu = fits.CompImageHDU(
                    hdus[0].data, hdus[0].header, compression_type="GZIP_1", quantize_level=0
                )
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "packed" / f"coadd-{band}{end}.fits.fz")
    one, two = read_all(plain)[0], read_all(tmp_path / "packed")[0]
    for band in "gr":
        np.testing.assert_array_equal(one[band][0], two[band][0])
        np.testing.assert_array_equal(one[band][1], two[band][1])


def test_explicit_mapping_and_hdu(tmp_path):
    rng = np.random.default_rng(2)
    header = make_wcs(SHAPE).to_header()
    one, two = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    parts = [fits.PrimaryHDU(), fits.ImageHDU(one, header), fits.ImageHDU(two, header)]
    fits.HDUList(parts).writeto(tmp_path / "deep.fits")
    files = [f"g={tmp_path / 'deep.fits'}[1]", f"Ks={tmp_path / 'deep.fits'}[2]"]
    planes, _, _ = read_all(files, zero_point=["31.4", "Ks=23.9"])
    np.testing.assert_allclose(planes["g"][0], one, rtol=1e-6)
    np.testing.assert_allclose(planes["Ks"][0], two * 1000, rtol=1e-6)
    with pytest.raises(InputError, match=r"HDU 7 is not an image; images are in HDUs \[1, 2\]"):
        read_all([f"g={tmp_path / 'deep.fits'}[7]"], zero_point=27)


def test_hdus_may_be_given_by_name(tmp_path):
    rng = np.random.default_rng(2)
    header = make_wcs(SHAPE).to_header()
    one, two = rng.normal(size=(2, *SHAPE))
    parts = [fits.ImageHDU(data, header, name="SCI", ver=ver) for ver, data in ((1, one), (2, two))]
    path = tmp_path / "deep_g.fits"
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)
    for name, values in (("SCI", one), ("sci,2", two)):
        planes, _, _ = read_all([f"{path}[{name}]"], zero_point=31.4)
        np.testing.assert_allclose(planes["g"][0], values, rtol=1e-6)
    assert len(deepfits.check(f"{path}[SCI]", zero_point=31.4).rows) == 1
    with pytest.raises(InputError, match="no image in an HDU SCI,3"):
        deepfits.check(f"{path}[SCI,3]")
    with pytest.raises(
        InputError, match=r"no image in an HDU ERR; its images are in HDUs: 1 \(SCI\), 2 \(SCI\)"
    ):
        read_all([f"g={path}[ERR]"], zero_point=27)


def test_patterns_and_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image, head = np.random.default_rng(2).normal(size=SHAPE), make_wcs(SHAPE).to_header()
    for name in ("g", "r", "g.weight"):
        (tmp_path / "sky").mkdir(exist_ok=True)
        fits.writeto(tmp_path / "sky" / f"coadd-{name}.fits", np.abs(image) if "w" in name else image, head)
    for images in (f"{tmp_path}/s*/*.fits", "~/sky", "~/sky/coadd-?.fits", ["g=~/sky/coadd-g.fits"]):
        found = deepfits.check(images, zero_point=31.4)
        assert [row.band for row in found.rows] == (["g"] if isinstance(images, list) else ["g", "r"])
        assert found.rows[0].weights == "weight"
    with pytest.raises(InputError, match=r"nothing-\*.fits: no such file"):
        deepfits.check(f"{tmp_path}/nothing-*.fits")
    (tmp_path / "notes.txt").write_text("")
    for images in images_at(f"{tmp_path}/*/", os.path.realpath), images_at("*/", f"{tmp_path}/{{}}".format):
        assert [row.band for row in deepfits.check(images, zero_point=31.4).rows] == ["g", "r"]


def test_images_with_their_bands_may_be_one_text(tmp_path):
    """As in ``fit --from-coadds``, whose images are one word of the command line."""
    image, head = np.random.default_rng(2).normal(size=SHAPE), make_wcs(SHAPE).to_header()
    for name in ("4,5", "4,6"):
        fits.writeto(tmp_path / f"{name}.fits", image, head)
    text = f"g={tmp_path}/4,5.fits,r={tmp_path}/4,6.fits"
    assert [row.band for row in deepfits.check(text, zero_point=31.4).rows] == ["g", "r"]
    assert images_at("g=a,5.fits,r=b", "/{}".format) == ["g=/a,5.fits", "r=/b"]


def test_patterns_after_a_band_and_before_an_hdu(tmp_path):
    """A shell does not expand ``g=blue/*.fits``, nor ``*.fits[SCI]``."""
    rng = np.random.default_rng(2)
    for folder in ("blue", "red"):
        (tmp_path / folder).mkdir()
        for ra in (150, 151):
            head = make_wcs(SHAPE, ra=ra).to_header()
            planes = [fits.ImageHDU(rng.normal(size=SHAPE), head, name=name) for name in ("OLD", "SCI")]
            fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / folder / f"tile{ra}.fits")
    found = find_fields([f"g={tmp_path}/blue/*.fits[SCI]", f"r={tmp_path}/red/*.fits[2]"])
    assert [field.name for field in found] == ["tile150", "tile151"]
    assert [(s.path.parent.name, s.hdu) for s in found[1].images.values()] == [("blue", 2), ("red", 2)]
    with pytest.raises(InputError, match=r"/no-\*.fits: no such file"):
        find_fields(f"g={tmp_path}/no-*.fits")
    (tmp_path / "red" / "tile150.fits").rename(tmp_path / "other.fits")
    twice = [f"g={tmp_path}/blue/tile150.fits[2]"] * 2
    assert [field.bands for field in find_fields([*twice, f"r={tmp_path}/other.fits[2]"])] == [("g", "r")]


def test_two_filters_of_one_band_may_have_names_of_their_own(tmp_path):
    """KiDS has two images in i, miniJPAS two filters in u; the way out is in the message."""
    rng = np.random.default_rng(2)
    for name in ("KiDS_1_g", "KiDS_1_i1", "KiDS_1_i2"):
        head = make_wcs(SHAPE).to_header()
        head["FILTER"] = name.split("_")[2][0]
        fits.writeto(tmp_path / f"{name}_sci.fits", rng.normal(size=SHAPE).astype(np.float32), head)
    with pytest.raises(InputError, match="a second i image") as error:
        image_set(tmp_path)
    images = image_set([tmp_path, str(error.value).rsplit(": ", 1)[1]])
    assert (images.bands, len(images.fields)) == (("g", "i", "i_2"), 1)


@pytest.mark.parametrize("odd", ["t2_g.fits of r", "t2 without a band", "t2_g with two images", "t2_g_wht"])
def test_what_is_said_of_a_file_counts_beside_its_directory(tmp_path, odd):
    """The way out that a message names can be added to the same command, and the others stay as they are."""
    rng = np.random.default_rng(2)
    image, head = rng.normal(size=SHAPE).astype(np.float32), make_wcs(SHAPE, ra=151).to_header()
    for name, ra in (("t1_g", 150), ("t1_r", 150), ("t2_r", 151)):
        fits.writeto(tmp_path / f"{name}.fits", image, make_wcs(SHAPE, ra=ra).to_header())
    name = {"t2_g_wht": "t2_g_x_wht", "t2 without a band": "t2"}.get(odd, "t2_g")
    if odd.endswith("of r"):
        head["FILTER"] = "r"
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image + n, head) for n in range(1 + ("two" in odd)))]
    fits.HDUList(hdus).writeto(tmp_path / f"{name}.fits")

    def fields_of(paths):
        images = image_set(paths, zero_point=27, allow_missing=True)
        for field in images.fields:
            with open_field(field, images):
                pass
        return {field.name: {b: s.path.name for b, s in field.images.items()} for field in images.fields}

    with pytest.raises(InputError) as error:
        fields_of(tmp_path)
    remedy = re.findall(r"\b(\w+)=(\S+?)[;,]?(?= |$)", str(error.value))[-1]
    assert remedy[1].removesuffix("[1]") == str(tmp_path / f"{name}.fits")
    there = fields_of([tmp_path, f"g={remedy[1]}"])
    assert there["t1"] == {"g": "t1_g.fits", "r": "t1_r.fits"}
    assert there["t2"]["g"] == f"{name}.fits"
    assert "r" in there["t2"]


def test_weights_and_other_maps_in_a_list_of_files_are_no_images(tmp_path, caplog):
    """As with ``tiles/*.fits`` in a shell."""
    rng = np.random.default_rng(2)
    head = make_wcs(SHAPE).to_header()
    for name in ("t_g", "t_r", "t_g.weight", "t_r.weight", "t_g_bkg"):
        fits.writeto(tmp_path / f"{name}.fits", rng.uniform(1, 2, SHAPE).astype(np.float32), head)
    table = fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=[1.0])])
    table.writeto(tmp_path / "t_cat.fits")
    files = sorted(tmp_path.glob("*.fits"))
    (field,) = find_fields(files)
    assert {b: s.path.name for b, s in field.images.items()} == {"g": "t_g.fits", "r": "t_r.fits"}
    assert "t_cat.fits and 3 more files: weights, a mask, a table or another map" in caplog.text
    assert [s.path.name for s in find_exposures(files)["g"]] == ["t_g.fits"]
    weight = tmp_path / "t_g.weight.fits"
    with pytest.raises(InputError, match="not an image; give the image, or, if it is one, its band too"):
        find_fields(weight)
    assert find_fields([weight, f"g={weight}"])[0].images["g"].path == weight


@pytest.mark.parametrize("where", ["", "HSC-{B}/9813/"])
def test_directories_of_tiles_with_files_of_the_same_names_are_fields(tmp_path, where):
    """As with ``tiles/*`` in a shell; the same pixels of the sky, however, are refused."""
    image = np.zeros(SHAPE, np.float32)
    for tile, ra in (("t1", 150), ("t2", 151), ("t3", 151)):
        for band in "gr":
            path = tmp_path / tile / where.format(B=band.upper()) / f"coadd_{band}_v1.fits"
            path.parent.mkdir(parents=True, exist_ok=True)
            fits.writeto(path, image, make_wcs(SHAPE, ra=ra).to_header())
    fields = find_fields([tmp_path / "t1", tmp_path / "t2"])
    assert [len(field.images) for field in fields] == [2, 2]
    for field, tile in zip(fields, ("t1", "t2"), strict=True):
        assert field.name.startswith(f"{tile}-")
        assert field.bands == ("g", "r")
        assert all(tile in source.path.parts for source in field.images.values())
    with pytest.raises(InputError, match=r"a second g image .* give only one of them"):
        find_fields([tmp_path / "t2", tmp_path / "t3"])


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        ("A383_{b}", ["A383"]),
        ("t1_{b} t2_{b}", ["t1", "t2"]),
        ("t1/filter_{b} t2/filter_{b}", ["t1", "t2"]),
        ("W-S-{B}+", ["coadd"]),  # Subaru's
    ],
)
@pytest.mark.parametrize("images", ["", "*", "*/*"])
def test_bands_that_only_names_of_directories_give(tmp_path, form, fields, images):
    """Whether their parent, they, or their files are given."""
    image = np.zeros(SHAPE, np.float32)
    for tile, name in enumerate(form.split()):
        for band in "gr":
            path = tmp_path / "sky" / name.format(b=band, B=band.upper())
            path.mkdir(parents=True)
            for end in ("", ".weight"):
                fits.writeto(path / f"coadd{end}.fits", image, make_wcs(SHAPE, ra=150 + tile).to_header())
    found = find_fields(f"{tmp_path}/sky/{images}")
    assert [(f.bands, [len(s.companions) for s in f.images.values()]) for f in found] == [
        (("g", "r"), [1, 1])
    ] * len(fields)
    if images == "" or len(fields) > 1:
        names = [field.name for field in found]
        assert (names if images == "" else [name[:2] for name in names]) == fields


def test_bands_in_names_of_directories_are_a_last_resort(tmp_path):
    """Here it says from which band the rest was made."""
    (tmp_path / "A383_r").mkdir()
    for band in "gri":
        name = tmp_path / "A383_r" / f"coadd_{band}.fits"
        fits.writeto(name, np.zeros(SHAPE, np.float32), make_wcs(SHAPE).to_header())
    assert [(f.name, f.bands) for f in find_fields(tmp_path)] == [("A383_r", ("g", "r", "i"))]


def test_files_given_for_their_bands_are_one_field_wherever_they_lie(tmp_path):
    """``check`` advises to give them so; each directory was taken for a field."""
    image = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    names = ("CFHT/x_u", "HSC/deep/y_g", "HSC/z")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        fits.writeto(tmp_path / f"{name}.fits", image, make_wcs(SHAPE).to_header())
    files = [f"{band}={tmp_path}/{name}.fits" for band, name in zip("ugr", names, strict=True)]
    found = find_fields(files)
    assert [(field.name, field.bands) for field in found] == [(tmp_path.name, ("u", "g", "r"))]
    for tile in "ab":
        (tmp_path / tile).mkdir()
        fits.writeto(tmp_path / tile / "g.fits", image, make_wcs(SHAPE).to_header())
    found = find_fields([f"{tmp_path}/{tile}/g.fits[0]" for tile in "ab"])
    assert [field.name for field in found] == ["a", "b"]
    write_calexp(tmp_path / "calexp-HSC-I-9813-3,4.fits", "HSC-I")
    found = find_fields([*files, f"i={tmp_path}/calexp-HSC-I-9813-3,4.fits"])
    assert [(field.name, field.bands) for field in found] == [("9813-3,4", ("u", "g", "r", "i"))]


def test_whole_way_from_calexps(tmp_path):
    truth = make_truth(np.random.default_rng(8), 12, SHAPE, bands="gri")
    for band in "gri":
        path = tmp_path / "hsc" / f"calexp-HSC-{band.upper()}-9813-3,4.fits"
        path.parent.mkdir(exist_ok=True)
        write_calexp(path, f"HSC-{band.upper()}", rng=np.random.default_rng(ord(band)))
        with fits.open(path, mode="update") as hdus:
            hdus["IMAGE"].data += draw(SHAPE, truth["x"], truth["y"], truth[f"flux_{band}"], 4.0) / 57.544
    store = CutoutStore(deepfits.cutouts(tmp_path / "hsc", tmp_path / "store", size=16))
    assert store.info.bands == ("g", "r", "i")
    assert 6 <= len(store) <= 12
    assert set(store.catalogue()["field"]) == {"9813-3,4"}


@pytest.mark.parametrize(
    ("stem", "band", "rest"),
    [
        ("coadd-u", "u", "coadd"),
        ("u", "u", ""),
        ("Z", "Z", ""),
        ("field7_Ks", "Ks", "field7"),
        ("HSC-R2_tile", "r", "tile"),
        ("deep_g_sci", "g", "deep-sci"),
        ("KiDS_DR5.0_180.0_-0.5_i1_sci", "i", "KiDS_DR5.0_180.0-0.5-sci"),
        ("SPITZER_I1_40_E1", None, "SPITZER_I1_40_E1"),
        ("galaxy", None, "galaxy"),
        ("FDS11_gSDSS", "g", "FDS11"),  # the Fornax Deep Survey's, J-PLUS's
        ("NGC1234_SDSSg", "g", "NGC1234"),  # SkyView's
    ],
)
def test_band_from_a_name(stem, band, rest):
    found, left = band_of_name(stem)
    assert (found, left) == (band, rest)


def test_bands_by_wavelength():
    assert sort_bands(["z", "Ks", "g", "u", "odd"]) == ("u", "g", "z", "Ks", "odd")


@pytest.mark.parametrize(
    ("cards", "zero_point"),
    [
        ({"BUNIT": "nJy"}, 31.4),
        ({"BUNIT": "nanomaggy", "MAGZERO": 99.0}, 22.5),
        ({"BUNIT": "count", "MAGZERO": 27.0}, 27.0),
        ({"MAGZPT": 25}, 25.0),
        ({"FLUXMAG0": 63095734448.0194}, 27.0),
        ({"PHOTFLAM": 7.0331885e-20, "PHOTPLAM": 8045.53}, 25.946),  # ACS/WFC F814W, from its handbook
        ({"PHOTFNU": 1e-8, "BUNIT": "ELECTRONS/S", "EXPTIME": 100.0}, 28.9),
        ({"PHOTFNU": 1e-8, "BUNIT": "ELECTRONS", "EXPTIME": 100.0}, 33.9),
        ({"ZPAPPROX": 27.947, "EXPTIME": 100.0}, 27.947),  # SkyMapper
        # DECam's Community Pipeline: of a count, and of one per second.
        ({"MAGZERO": 31.227, "MAGZPT": 26.029, "EXPTIME": 120.0}, 31.227),
        ({"MAGZERO": 31.227, "MAGZPT": 26.029, "EXPTIME": 120.0, "BUNIT": "e/s"}, 26.029),
        ({}, None),
    ],
)
def test_zero_point_of_header(cards, zero_point):
    found = zero_point_of_header(cards)
    assert found is None if zero_point is None else found[0] == pytest.approx(zero_point, abs=2e-3)


def test_two_zero_points_of_a_count_contradict_each_other():
    cards = {"MAGZERO": 31.227, "ABZP": 26.029, "EXPTIME": 120.0}
    with pytest.raises(
        InputError, match=r"MAGZERO implies an AB zero point of 31\.23, but ABZP one of 26\.03"
    ):
        zero_point_of_header(cards)


def test_zero_points_per_band():
    assert parse_per_band(27, "zero_point") == {"": 27.0}
    assert parse_per_band({"u": 30.0}, "zero_point") == {"u": 30.0}
    assert parse_per_band(["u=30", "27"], "zero_point") == {"u": 30.0, "": 27.0}
    assert parse_per_band("u=30,g=27", "zero_point") == {"u": 30.0, "g": 27.0}
    assert parse_per_band(["25", "u=30,g=27"], "zero_point") == {"": 25.0, "u": 30.0, "g": 27.0}
    assert njy_per_count(27.0) == pytest.approx(57.544, abs=1e-3)
