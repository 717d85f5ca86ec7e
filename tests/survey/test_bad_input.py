"""What users get wrong: one clear InputError with file and remedy, never a traceback of astropy's."""

from __future__ import annotations

import bz2
import gzip
import os
import time

import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.errors import InputError
from deepfits.survey.detection import DetectOptions
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.find import find_fields
from deepfits.survey.fitsfile import opened, peek_headers
from deepfits.survey.planes import ReadOptions, open_planes
from tests.helpers.gaussian_sky import make_truth, make_wcs, write_plain

SHAPE = (96, 100)


@pytest.fixture
def sky(tmp_path):
    rng = np.random.default_rng(0)
    return write_plain(tmp_path / "sky", make_truth(rng, 6, SHAPE), SHAPE, rng=rng, bands="gr")


def read_all(sky):
    images = image_set(sky)
    with open_field(images.fields[0], images) as field:
        return {band: plane.read() for band, plane in field.planes.items()}


def rewrite(path, *, data=None, header=None, drop=(), **cards):
    with fits.open(path) as hdus:
        data = hdus[0].data.copy() if data is None else data
        header = hdus[0].header.copy()
    for key in drop:
        header.remove(key, ignore_missing=True)
    for key in list(header):
        if key.startswith(("NAXIS", "BITPIX")):
            header.remove(key)
    header.update(cards)
    fits.writeto(path, data, header, overwrite=True)


def test_good_images_are_read(sky):
    planes = read_all(sky)
    assert set(planes) == {"g", "r"}
    assert all((weight > 0).all() for _, weight in planes.values())


def test_no_such_place(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or directory"):
        find_fields(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no FITS image found"):
        find_fields(tmp_path / "empty")


def test_missing_band_names_field_and_remedy(sky):
    with pytest.raises(
        InputError, match=r"no image in band u for field 'coadd' \(it has g, r\); add the file"
    ):
        image_set(sky, bands=["u", "g", "r"])


@pytest.mark.parametrize("keep", [10, 2000, 2880, 5760, 20000])
def test_truncated(sky, keep):
    path = sky / "coadd-g.fits"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"coadd-g\.fits: .*(truncated|not a FITS file|not a readable)"):
        read_all(sky)


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_last_record_need_not_be_filled_up(tmp_path, is_packed):
    """As some programs write files; a byte less is one of the data."""
    image = np.random.default_rng(0).normal(size=(97, 101)).astype(np.float32)
    header = make_wcs(image.shape).to_header()
    header["FILTER"], header["MAGZERO"] = "g", 27.0
    path = tmp_path / "coadd-g.fits"
    hdu = fits.CompImageHDU(image, header) if is_packed else fits.ImageHDU(image, header)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        end = hdus[1].fileinfo()["datLoc"] + hdus[1].size
    content = path.read_bytes()
    path.write_bytes(content[:end])
    assert end < len(content)
    assert (read_all(tmp_path)["g"][1] > 0).all()
    path.write_bytes(content[: end - 1])
    with pytest.raises(InputError, match="truncated"):
        read_all(tmp_path)


def test_truncated_weight(sky):
    path = sky / "coadd-g.weight.fits"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"coadd-g\.weight\.fits: truncated"):
        read_all(sky)


def test_not_fits_at_all(sky):
    for content in ("<html>404 not found</html>" * 400, "#ASDF 1.0.0"):
        (sky / "coadd-g.fits").write_text(content)
        with pytest.raises(InputError, match=r"coadd-g\.fits: not a FITS file \(images of other formats"):
            read_all(sky)


@pytest.mark.parametrize("packer", [gzip, bz2])
def test_truncated_archives(sky, packer):
    suffix = {gzip: ".gz", bz2: ".bz2"}[packer]
    whole = packer.compress((sky / "coadd-g.fits").read_bytes())
    (sky / "coadd-g.fits").unlink()
    packed = sky / f"coadd-g.fits{suffix}"
    packed.write_bytes(whole)
    assert set(read_all(sky)) == {"g", "r"}
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"coadd-g\.fits\.(gz|bz2): .*fetch it again"):
        read_all(sky)


def test_all_unreadable_files_of_a_survey_are_named_together(sky):
    (sky / "coadd-g.fits").write_bytes(b"")
    (sky / "coadd-r.weight.fits").write_bytes(b"<html>no such file</html>" * 200)
    both = r"2 of \d+ files cannot .*coadd-g.fits: an empty file.*; .*coadd-r.weight.fits: not a FITS"
    with pytest.raises(InputError, match=both):
        find_fields(sky)


def test_all_nan_image(sky):
    rewrite(sky / "coadd-g.fits", data=np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError, match=r"coadd-g\.fits: no pixel with data"):
        read_all(sky)


def test_constant_image(sky):
    rewrite(sky / "coadd-g.fits", data=np.full(SHAPE, 3.0, np.float32))
    with pytest.raises(InputError, match=r"coadd-g\.fits: the pixels do not vary"):
        read_all(sky)


def test_nan_and_infinite_pixels_get_weight_zero(sky):
    with fits.open(sky / "coadd-g.fits") as hdus:
        data = hdus[0].data.copy()
    data[3, 4], data[5, 6], data[7, 8] = np.nan, np.inf, -np.inf
    rewrite(sky / "coadd-g.fits", data=data)
    image, weight = read_all(sky)["g"]
    assert np.isfinite(image).all()
    assert (weight == 0).sum() == 3
    assert weight[3, 4] == weight[5, 6] == weight[7, 8] == 0


def test_negative_and_nan_weights_are_zero(sky):
    with fits.open(sky / "coadd-g.weight.fits") as hdus:
        data = hdus[0].data.copy()
    data[3, 4], data[5, 6] = -1, np.nan
    rewrite(sky / "coadd-g.weight.fits", data=data)
    _, weight = read_all(sky)["g"]
    assert weight[3, 4] == weight[5, 6] == 0
    assert (weight == 0).sum() == 2


def test_weight_of_another_shape(sky):
    rewrite(sky / "coadd-g.weight.fits", data=np.ones((50, 100), np.float32))
    with pytest.raises(InputError, match=r"coadd-g\.weight\.fits: \(50, 100\) pixels, but the image"):
        read_all(sky)


def test_no_wcs(sky):
    for band in "gr":
        rewrite(sky / f"coadd-{band}.fits", drop=make_wcs(SHAPE).to_header())
    with pytest.raises(InputError, match=r"no WCS in the header; .*assume_aligned"):
        read_all(sky)
    images = image_set(sky, assume_aligned=True, pixel_scale=0.2)
    with open_field(images.fields[0], images) as field:
        assert field.pixel_scale == 0.2
        assert np.isnan(field.sky(np.array([3.0]), np.array([4.0]))[0]).all()


def test_no_wcs_and_other_shapes(sky):
    for band in "gr":
        (sky / f"coadd-{band}.weight.fits").unlink()
        rewrite(sky / f"coadd-{band}.fits", drop=make_wcs(SHAPE).to_header())
    rng = np.random.default_rng(1)
    rewrite(sky / "coadd-r.fits", data=rng.normal(size=(96, 90)).astype(np.float32))
    images = image_set(sky, assume_aligned=True, pixel_scale=0.2)
    with (
        pytest.raises(InputError, match="images without WCS must be aligned"),
        open_field(images.fields[0], images),
    ):
        pass


def test_no_zero_point(sky):
    rewrite(sky / "coadd-g.fits", drop=["MAGZERO"])
    with pytest.raises(InputError, match=r"coadd-g\.fits: no zero point in the header .*zero_point=g=27\.0"):
        read_all(sky)
    rewrite(sky / "coadd-g.fits", IMAGEZPT=(26.8, "Image magnitude zeropoint"))  # Palomar's
    with pytest.raises(InputError, match=r"may state one: IMAGEZPT = 26\.8 \(Image .*\); give"):
        read_all(sky)
    rewrite(sky / "coadd-g.fits", MAGZERO="unknown")
    with pytest.raises(
        InputError, match=r"coadd-g\.fits: MAGZERO = 'unknown' is not a plausible AB zero point"
    ):
        read_all(sky)


def test_bands_that_lie_apart_on_the_sky(sky):
    rewrite(sky / "coadd-g.fits", CRVAL1=190.0)
    with pytest.raises(InputError, match=r"coadd-g\.fits: does not overlap coadd-r\.fits"):
        read_all(sky)


def test_band_that_nothing_tells(tmp_path):
    rng = np.random.default_rng(1)
    header = make_wcs(SHAPE).to_header()
    fits.writeto(tmp_path / "picture.fits", rng.normal(size=SHAPE), header)
    with pytest.raises(InputError, match=r"picture\.fits: neither the header \(FILTER\) nor the name"):
        find_fields(tmp_path)
    assert find_fields([f"g={tmp_path / 'picture.fits'}"])[0].bands == ("g",)


def test_two_files_for_one_band(sky):
    (sky / "other-g.fits").write_bytes((sky / "coadd-g.fits").read_bytes())
    assert {one.name for one in find_fields(sky)} == {"coadd", "other"}
    with pytest.raises(InputError, match="a second g image of field"):
        find_fields([f"g={sky / 'coadd-g.fits'}", f"g={sky / 'other-g.fits'}"])


def test_table_in_place_of_an_image(sky):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.ones(50))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(sky / "coadd-g.fits", overwrite=True)
    with pytest.raises(InputError, match=r"coadd-g\.fits: no two-dimensional image"):
        open_only(sky, "g")


def open_only(sky, band):
    sources = find_fields([f"{band}={sky / f'coadd-{band}.fits'}"])[0]
    with open_planes(sources.images, ReadOptions()) as planes:
        return planes[band].read()


def test_header_that_declares_far_more_than_the_file_holds(tmp_path):
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                  -32",
        "NAXIS   =                    2",
    ]
    cards += ["NAXIS1  =               900000", "NAXIS2  =               900000", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880)
    path = tmp_path / "bomb-g.fits"
    path.write_bytes(header.encode() + bytes(5760))
    with (
        pytest.raises(InputError, match=r"bomb-g\.fits: truncated: HDU 0 declares 3240000000000 bytes"),
        opened(path),
    ):
        pass


def test_compressed_header_that_declares_far_more_than_the_file_holds(tmp_path):
    path = tmp_path / "bomb-g.fits"
    hdu = fits.CompImageHDU(np.zeros((100, 100), np.float32), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    raw = path.read_bytes()
    for key in (b"ZNAXIS1", b"ZNAXIS2"):
        at = raw.index(key)
        raw = raw[:at] + f"{key.decode():8}= {40000:>20}".encode() + raw[at + 30 :]
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"bomb-g\.fits: HDU 1 declares"), opened(path):
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"zero_point": "bright"}, "zero_point: 'bright' is not a number"),
        ({"mask_polarity": "white"}, "mask_polarity must be .*, not 'white'"),
        ({"weight_scale": "large"}, "weight_scale must be .*, not 'large'"),
        ({"reference_band": "J"}, "reference_band 'J' is not among the bands g, r"),
        ({"combine": "sum"}, "combine must be 'snr' or 'chi2', not 'sum'"),
        ({"threshold": -1.0}, "threshold must be a finite number above 0"),
    ],
)
def test_options_that_make_no_sense(sky, tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        deepfits.detect(sky, tmp_path / "c.parquet", **arguments)
    assert not (tmp_path / "c.parquet").exists()


def test_nothing_detected(sky, tmp_path):
    with pytest.raises(InputError, match="nothing detected; lower the threshold"):
        deepfits.detect(sky, tmp_path / "c.parquet", threshold=1e6)


def test_store_is_not_put_among_other_files(sky):
    with pytest.raises(InputError, match="choose an empty directory"):
        deepfits.cutouts(sky, sky)


def test_detection_options_are_checked():
    with pytest.raises(InputError, match="mesh must be a whole number from 8"):
        DetectOptions(mesh=0)


def test_a_header_that_was_written_anew_is_read_anew_whatever_its_time(tmp_path):
    path = tmp_path / "i.fits"
    fits.PrimaryHDU(np.ones((8, 8), "f4"), fits.Header({"FILTER": "i"})).writeto(path)
    assert peek_headers(path)[0]["FILTER"] == "i"
    before = path.stat()
    time.sleep(0.02)  # the clock of a file system has steps
    path.write_bytes(path.read_bytes().replace(b"'i       '", b"'r       '"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert peek_headers(path)[0]["FILTER"] == "r"
