"""Files after the conventions of surveys that are not at hand: the same sky comes out of each, in nJy."""

from __future__ import annotations

import gzip
import lzma
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, VarianceUncertainty
from astropy.table import Table
from scipy import ndimage

import deepfits
from deepfits.errors import InputError
from deepfits.survey.astrometry import celestial_wcs
from deepfits.survey.bands import band_name, band_of_header, band_of_name, sort_bands
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.file_names import split_name
from deepfits.survey.find import find_exposures, find_fields
from deepfits.survey.hdu_roles import role_of
from deepfits.survey.store import CutoutStore
from deepfits.survey.zeropoint import given_doubts, zero_point_doubts, zero_point_of_header
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
        for end in ("", "_nobkg"):
            write(where / f"DES0001-0041_r4907p01_{band}{end}.fits.fz", *parts)
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
        for kind in ("n_image", "background"):
            name = f"deep_coadd_{kind}_5063_14_{band}_lsst_cells_v1_LSSTComCam_runs_DRP_DP1_v29.fits"
            write(where / name, fits.ImageHDU(full(3.0), header(0.2)))
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


def hsc_cutout(where, sky):
    """HDUs without names: the pipeline writes what they are into EXTTYPE."""
    image, variance = counts(sky, 27.0)
    for band in "GR":
        first = fits.PrimaryHDU()
        first.header["FLUXMAG0"], first.header["FILTER"] = 10 ** (27 / 2.5), f"HSC-{band}"
        parts = [fits.ImageHDU(v, header()) for v in (image, np.zeros(SHAPE, np.int32), full(variance))]
        for hdu, kind in zip(parts, ("IMAGE", "MASK", "VARIANCE"), strict=True):
            hdu.header["EXTTYPE"] = kind
        parts[1].header["MP_BAD"] = 0
        fits.HDUList([first, *parts]).writeto(where / f"2-cutout-HSC-{band}-9813-pdr3_dud.fits")
    return {}


def rubin_archive(where, sky):
    """Calibrations in tables of objects, among them those of the exposures in a coadd."""
    image, variance = counts(sky, 27.0)
    for band in "gr":
        planes = {"IMAGE": image, "MASK": np.zeros(SHAPE, np.int32), "VARIANCE": full(variance)}
        hdus = [fits.ImageHDU(values, header(), name=name) for name, values in planes.items()]
        hdus[1].header["MP_BAD"] = 0
        names = ["Psf", "PhotoCalib", "PhotoCalib"]
        index = {
            "id": [7, 8, 9],
            "cat.archive": [1, 2, 2],
            "row0": [0, 0, 2],
            "nrows": [3, 2, 1],
            "name": names,
        }
        means = {"calibrationMean": [1.0, 2.0, 10**1.76], "isConstant": [True] * 3}
        tables = [fits.BinTableHDU(Table(columns)) for columns in (index, {"sigma": [1.0] * 3}, means)]
        first = fits.PrimaryHDU(header=fits.Header({"AR_HDU": 5, "HIERARCH PHOTOCALIB_ID": 9}))
        fits.HDUList([first, *hdus, *tables]).writeto(where / f"deepCoadd_calexp_4431_17_{band}_DC2.fits")
    return {}


def decam_stack(where, sky):
    image, variance = counts(sky, 25.0)
    for band in "gr":
        head = header(0.263, FILTER=f"{band} DECam SDSS c0001 4720.0 1520.0", MAGZERO=25.0)
        mask = np.zeros(SHAPE, np.int16)
        mask[:9] = 2
        parts = {"osi": np.where(mask, 1e3, image), "osw": full(1 / variance), "osd": mask}
        for kind, values in parts.items():
            write(where / f"c4d_180404_045543_{kind}_{band}_v1.fits.fz", packed(values, head))
    return {}


def euclid_models(where, sky):
    """Backgrounds and PSFs beside the mosaics."""
    image, variance = counts(sky, 23.9)
    for band in ("VIS", "NIR-Y"):
        for kind, values in (
            (f"BGSUB-MOSAIC-{band}", image),
            (f"MOSAIC-{band}-RMS", full(variance**0.5)),
            (f"BGMOD-{band}", full(1.0)),
            (f"GRID-PSF-{band}", image),
        ):
            head = header(0.1, FILTER=band.replace("NIR-", "NIR_"), MAGZERO=23.9)
            fits.writeto(where / f"EUC_MER_{kind}_TILE101158889-ABC_20241018T21.fits.gz", values, head)
    return {}


def webb_mosaic(where, sky):
    """Errors and relative weights beside the image, both in files of their own."""
    image, variance = counts(sky, 28.9)
    for band in ("f200w", "f444w"):
        stem = f"primer_cosmos-east_nircam_v1.0_{band}_30mas"
        head = header(0.03, BUNIT="10.0*nanoJansky", FILTER=band.upper(), PUPIL="CLEAR", TELESCOP="JWST")
        fits.writeto(where / f"{stem}_sci.fits.gz", image, head)
        fits.writeto(where / f"{stem}_err.fits.gz", full(variance**0.5), header(0.03))
        fits.writeto(where / f"{stem}_wht.fits.gz", full(7.0), header(0.03))
    return {}


def ceers(where, sky):
    """Background and source mask beside the image in its file, and the pipeline's map of segments."""
    image, variance = counts(sky, 28.9)
    for band in ("F200W", "F444W"):
        planes = {"SCI": image, "ERR": full(variance**0.5), "BKGD": full(0.1), "BKGMASK": full(1.0)}
        head = header(0.03, BUNIT="10.0*nanoJansky", FILTER=band)
        hdus = [fits.ImageHDU(values, head, name=name) for name, values in planes.items()]
        stem = where / f"hlsp_ceers_jwst_nircam_nircam1_{band.lower()}_v0.5"
        write(f"{stem}_i2d.fits", *hdus)
        write(f"{stem}_segm.fits", fits.ImageHDU(np.ones(SHAPE, np.int32), head, name="SCI"))
    return {}


def ztf(where, sky):
    image, _ = counts(sky, 26.0)
    for band in "gr":
        head = header(1.0, FILTER=f"ZTF_{band}", MAGZP=26.0)
        stem = where / f"ztf_20180412467847_000535_z{band}_c10_o_q2"
        fits.writeto(f"{stem}_sciimg.fits", image, head)
        fits.writeto(f"{stem}_mskimg.fits", np.zeros(SHAPE, np.int16), header(1.0))
    return {"mask_polarity": "bad"}


def bands_in_folders(where, sky):
    """Bands whose folders alone say which they are."""
    image, variance = counts(sky, 30.0)
    for band in "gr":
        (where / band).mkdir()
        fits.writeto(where / band / "coadd.fits", image, header(MAGZERO=30.0))
        fits.writeto(where / band / "coadd.weight.fits", full(1 / variance), header())
    return {}


def one_word_names(where, sky):
    """Write image.fits, weight.fits and psf.fits into a directory for each band."""
    image, variance = counts(sky, 30.0)
    for band in "gr":
        (where / band).mkdir()
        for name, values in {"image": image, "weight": full(1 / variance), "psf": image[:31, :31]}.items():
            fits.writeto(where / band / f"{name}.fits", values, header(MAGZERO=30.0))
    return {}


def roman(where, sky):
    """Write a word such as "model" into all names."""
    image, variance = counts(sky, 26.0)
    for band in ("F158", "F184"):
        head = header(0.11, FILTER=band, MAGZERO=26.0)
        parts = fits.ImageHDU(image, head, name="SCI"), fits.ImageHDU(full(variance**0.5), head, name="ERR")
        write(where / f"Roman_TDS_simple_model_{band}_1234_1.fits.gz", *parts)
    return {}


def kinds_first(where, sky):
    """Write what files hold before the band, and bands in capitals."""
    image, variance = counts(sky, 27.0)
    for band in "GR":
        fits.writeto(where / f"sci_{band}.fits", image, header(MAGZERO=27.0, FILTER=band.lower()))
        fits.writeto(where / f"rms_{band}.fits", full(variance**0.5), header(MAGZERO=27.0))
        fits.writeto(where / f"seg_{band}.fits", np.ones(SHAPE, np.int16), header(MAGZERO=27.0))
    return {}


def ccddata(where, sky):
    """Uncertainties of any kind in an HDU UNCERT, and masks of bad pixels."""
    kinds = {"g": VarianceUncertainty(full(SIGMA**2)), "r": InverseVariance(full(SIGMA**-2))}
    is_bad = np.zeros(SHAPE, dtype=bool)
    is_bad[:8] = True
    for band, uncertainty in kinds.items():
        image = np.where(is_bad, 1e4, sky).astype(np.float32)
        data = CCDData(image, unit="nJy", uncertainty=uncertainty, mask=is_bad)
        data.header.update(header(FILTER=band))
        data.write(where / f"coadd-{band}.fits")
    return {}


def unwise(where, sky):
    image, variance = counts(sky, 22.5)
    for number in (1, 2):
        head = header(2.75, MAGZP=22.5, BAND=number, TELESCOP="WISE", PHOTSYS="AB")
        for kind, values in (
            ("img", image),
            ("invvar", full(1 / variance)),
            ("std", image),
            ("n", full(9.0)),
        ):
            for end in "mu":
                fits.writeto(where / f"unwise-1497p015-w{number}-{kind}-{end}.fits.gz", values, head)
    return {}


def spitzer(where, sky):
    image, variance = counts(sky, 23.9)
    for number in (1, 2):
        stem = where / f"90001234.90001234-3.IRAC.{number}"
        head = header(0.6, BUNIT="uJy", CHNLNUM=number)
        fits.writeto(f"{stem}.mosaic.fits", image, head)
        fits.writeto(f"{stem}.unc.fits", full(variance**0.5), head)
        fits.writeto(f"{stem}.cov.fits", full(5.0), head)
    return {}


def surface_brightness(where, sky):
    image, variance = counts(sky, 22.5)
    area = 0.262**2
    for band in "gr":
        head = header(0.262, BUNIT="nanomaggies/arcsec^2", FILTER=band)
        fits.writeto(where / f"coadd-{band}.fits", (image / area).astype(np.float32), head)
        fits.writeto(where / f"coadd-{band}.ivar.fits", full(area**2 / variance), header(0.262))
    return {}


def sisters(where, sky):
    """Write weights and masks into directories of their own, beside that of the images."""
    image, variance = counts(sky, 30.0)
    planes = {"images": image, "invvar": full(1 / variance), "masks": np.zeros(SHAPE, np.int16)}
    planes["backgrounds"] = full(10.0) + image
    for name, values in planes.items():
        (where / name).mkdir()
        for band in "gr":
            end = "_mask" if name == "masks" else ""
            fits.writeto(where / name / f"tile-{band}{end}.fits", values, header(MAGZERO=30.0, FILTER=band))
    return {"mask_polarity": "bad"}


def weights_below(where, sky):
    """Write weights into a directory in that of the images, under the same names."""
    image, variance = counts(sky, 30.0)
    (where / "weights").mkdir()
    for band in "GR":
        name = f"MegaPipe.187.321.{band}.MP9401.fits"
        fits.writeto(where / name, image, header(0.186, PHOTZP=30.0, FILTER=f"{band.lower()}.MP9401"))
        fits.writeto(where / "weights" / name, full(1 / variance), header(0.186))
    return {}


def eso(where, sky):
    """Write products of ESO's archive, of names that say nothing, one named by ORIGFILE, one by ASSON."""
    image, variance = counts(sky, 0.0)
    for number, band in enumerate("gr"):
        mine = {"PRODCATG": "SCIENCE.IMAGE", "ORIGFILE": f"KiDS_DR4.0_13.5_-28.2_{band}_sci.fits"}
        if band == "r":
            mine |= {"ASSON1": "ADP.2019-02-11T13:02:24.901.fits", "ASSOC1": "ANCILLARY.WEIGHTMAP"}
        head = header(0.2, FILTER=f"{band}_SDSS", PHOTZP=0.0, **mine)
        fits.writeto(where / f"ADP.2019-02-11T13:02:24.80{number}.fits", image, head)
        orig = f"KiDS_DR4.0_13.5_-28.2_{band}_wei.fits" if band == "g" else "seven.fits"
        head = header(0.2, FILTER=f"{band}_SDSS", PRODCATG="ANCILLARY.WEIGHTMAP", ORIGFILE=orig)
        fits.writeto(where / f"ADP.2019-02-11T13:02:24.90{number}.fits", full(1 / variance), head)
    return {}


def of_two_telescopes(where, sky):
    """Name the survey beside the band."""
    image, variance = counts(sky, 27.0)
    for name in ("hsc_y", "uvista_Y"):
        fits.writeto(where / f"cosmos_{name}.fits", image, header(MAGZERO=27.0))
        fits.writeto(where / f"cosmos_{name}.weight.fits", full(1 / variance), header())
    return {}


def subaru(where, sky):
    """Images brought to one PSF, and say so in their names; bands as COSMOS calls them."""
    image, variance = counts(sky, 31.4)
    for band in ("ip", "zp"):
        fits.writeto(where / f"cosmos_subaru_{band}_psf_v2.fits", image, header(MAGZERO=31.4))
        fits.writeto(where / f"cosmos_subaru_{band}_psf_v2_rms.fits", full(variance**0.5), header())
    fits.writeto(where / "subaru_ip_psf.fits", draw((41, 41), [20], [20], [1], 3.0), header())
    return {}


def swire(where, sky):
    image, variance = counts(sky, 8.9 - 2.5 * np.log10(1e6 * (0.6 / 206264.806) ** 2))
    for channel in (1, 2):
        head = header(0.6, BUNIT="MJy/sr", CHNLNUM=channel, EXPTIME=100.0)
        stem = f"swire_CDFS_I{channel}_tile_1_2_v4"
        errors = {"unc": full(variance**0.5), "std": full(3 * variance**0.5)}  # of the mean, and scatter
        for kind, values in {"mosaic": image, "cov": full(4), **errors}.items():
            fits.writeto(where / f"{stem}_{kind}.fits", values, head)
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


def bands_in_one_file(where, sky):
    image, variance = counts(sky, 27.0)
    planes = [
        fits.ImageHDU(values, header(MAGZERO=27.0), name=f"{kind}_{band}")
        for band in "GR"
        for kind, values in (("SCI", image), ("IVAR", full(1 / variance)))
    ]
    write(where / "tile1.fits", *planes)
    return {}


def bands_in_one_file_by_filter(where, sky):
    image, _ = counts(sky, 27.0)
    write(where / "tile_r2.fits", *(fits.ImageHDU(image, header(MAGZERO=27.0, FILTER=f)) for f in "gr"))
    return {}


OTHER_BANDS = {
    **dict.fromkeys((webb_mosaic, ceers), ("F200W", "F444W")),
    **{euclid_models: ("Y", "VIS"), roman: ("F158", "F184")},
    **{of_two_telescopes: ("y", "Y"), unwise: ("W1", "W2"), spitzer: ("ch1", "ch2")},
    **{subaru: ("i", "z"), swire: ("ch1", "ch2")},
}


@pytest.mark.parametrize(
    "survey",
    [
        *(des, legacy, panstarrs, cfht, rubin, euclid, odd_numbers, hsc_cutout, rubin_archive, decam_stack),
        euclid_models,
        *(webb_mosaic, ceers, ztf, surface_brightness, bands_in_folders, roman, ccddata, unwise),
        *(spitzer, kinds_first, one_word_names, sisters, weights_below, eso, of_two_telescopes),
        *(subaru, swire, bands_in_one_file, bands_in_one_file_by_filter),
    ],
)
def test_images_weights_and_bands_are_read_as_the_survey_means_them(tmp_path, sky, survey):
    where = tmp_path / "tile"
    where.mkdir()
    options = survey(where, sky)
    images = image_set(where, **options)
    assert images.bands == OTHER_BANDS.get(survey, ("g", "r"))
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


@pytest.mark.parametrize("kind", ["rms", "ivar", "mask"])
def test_planes_that_a_user_has_made_with_the_header_of_panstarrs_are_not_scaled(tmp_path, sky, kind):
    """The cards of the asinh scaling are those of the image."""
    panstarrs(tmp_path, sky)
    variance = counts(sky, 25 + 2.5 * np.log10(900.0))[1]
    values = {"rms": full(variance**0.5), "ivar": full(1 / variance), "mask": np.zeros(SHAPE, np.int16)}[kind]
    values[:16] = 1 if kind == "mask" else values[:16] * 2 if kind == "rms" else values[:16] / 4
    for path in tmp_path.glob("*.unconv.fits"):
        stem = str(path).removesuffix(".fits")
        fits.writeto(f"{stem}.{kind}.fits", values, fits.getheader(path, 1))
        if kind != "mask":
            (tmp_path / f"{stem}.wt.fits").unlink()
    images = image_set(tmp_path, **({"mask_polarity": "bad"} if kind == "mask" else {}))
    with open_field(images.fields[0], images) as field:
        _, weight = field.planes["g"].read()
    np.testing.assert_allclose(weight[16:], SIGMA**-2, rtol=1e-3)
    np.testing.assert_allclose(weight[:16], 0 if kind == "mask" else SIGMA**-2 / 4, rtol=1e-3)


@pytest.mark.parametrize("end", [".wt", ".weight"])
def test_variances_of_panstarrs_are_recognised_in_renamed_files(tmp_path, sky, end):
    """Its ``wt`` files hold variances, unlike weights that a user has made for its images."""
    panstarrs(tmp_path, sky)
    for path in sorted(tmp_path.iterdir()):
        band = path.name.split(".stk.")[1][0]
        path.rename(tmp_path / f"abell1_{band}{end * path.name.endswith('wt.fits')}.fits")
    kinds = {row.weights for row in deepfits.check(tmp_path).rows}
    assert kinds == {"variance" if end == ".wt" else "weight"}


def test_a_directory_of_images_with_their_weights_is_one_whatever_it_is_called(tmp_path, sky):
    """``sky`` beside ``raw`` and ``field``, with files of the same names, is no directory of sky planes."""
    image, variance = counts(sky, 30.0)
    for name in ("sky", "raw", "field"):
        (tmp_path / name).mkdir()
        for band in "gr":
            path = tmp_path / name / f"coadd-{band}.fits"
            fits.writeto(path, image, header(MAGZERO=30.0, FILTER=band))
            fits.writeto(path.with_suffix(".weight.fits"), full(1 / variance), header())
    for name in ("sky", "raw", "field"):
        (field,) = find_fields(tmp_path / name)
        assert set(field.bands) == {"g", "r"}
        weights = [path for image in field.images.values() for path, _ in image.companions]
        assert sorted(path.relative_to(tmp_path).as_posix() for path in weights) == [
            f"{name}/coadd-{band}.weight.fits" for band in "gr"
        ]
    for path in (tmp_path / "sky").glob("*.weight.fits"):
        path.unlink()
    with pytest.raises(InputError, match="if they are images themselves, rename the directory"):
        find_fields(tmp_path / "sky")


def test_fluxes_with_the_cards_of_asinh_magnitudes_are_refused(tmp_path, sky):
    """Pan-STARRS's, when somebody has undone the scaling and kept the header."""
    panstarrs(tmp_path, sky)
    for path in tmp_path.glob("*.unconv.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus[1].data[:] = counts(sky, 25 + 2.5 * np.log10(900.0))[0]
    images = image_set(tmp_path)
    with (
        pytest.raises(InputError, match=r"fluxes, not asinh magnitudes as BSOFTEN .* remove these"),
        open_field(images.fields[0], images) as field,
    ):
        field.planes["g"].read()


@pytest.mark.parametrize(
    "unit",
    [
        *("electrons per second", "DN/s/pix", "counts s^-1 pix^-1", "ELECTRONS/S/PIXEL", "electrons s^{-1}"),
        *("COUNTS_PER_SEC", "ADUs/s", "cnts/s"),
    ],
)
def test_counts_a_second_however_they_are_written(unit):
    cards = {"PHOTFLAM": 7.07e-20, "PHOTPLAM": 8057.0, "EXPTIME": 500.0}
    rate, _ = zero_point_of_header(cards | {"BUNIT": "ELECTRONS/S"})
    assert zero_point_of_header(cards | {"BUNIT": unit})[0] == rate
    assert zero_point_of_header(cards | {"BUNIT": "counts/pixel"})[0] == pytest.approx(rate + 6.747, abs=1e-3)


@pytest.mark.parametrize(
    "unit", ["ADUs", "DNs", "cnts", "elec", "el", "photo-electrons", "Data Numbers", "raw counts"]
)
def test_counts_however_they_are_written(unit):
    """As counts a second they would be 6.7 mag too bright."""
    cards = {"PHOTFLAM": 7.07e-20, "PHOTPLAM": 8057.0, "EXPTIME": 500.0, "BUNIT": unit}
    assert zero_point_of_header(cards)[0] == zero_point_of_header(cards | {"BUNIT": "ELECTRONS"})[0]


@pytest.mark.parametrize(
    ("unit", "zero_point"),
    [("muJy", 23.9), ("10^{-8} Jy", 28.9), ("Flux density (uJy)", 23.9), ("AB nanomaggies", 22.5)],
)
def test_units_as_in_latex(unit, zero_point):
    assert zero_point_of_header({"BUNIT": unit})[0] == pytest.approx(zero_point)


@pytest.mark.parametrize("unit", ["luptitude", "Luptitudes"])
def test_luptitudes_are_not_fluxes(unit):
    with pytest.raises(InputError, match="logarithms or the like, not fluxes"):
        zero_point_of_header({"BUNIT": unit, "MAGZERO": 22.5})


@pytest.mark.parametrize(
    ("cards", "band"),
    [
        ({"TELESCOP": "Spitzer", "INSTRUME": "IRAC", "CHNLNUM": 1}, "ch1"),
        ({"TELESCOP": "Spitzer", "INSTRUME": "MIPS", "CHNLNUM": 1}, "MIPS24"),
        ({"TELESCOP": "JCMT", "BAND": 1}, None),
        ({"INSTRUME": "FORS2", "ESO INS FILT1 NAME": "v_HIGH"}, "V"),
        ({"INSTRUME": "FORS2", "ESO INS FILT1 NAME": "b_HIGH"}, "B"),
        ({"INSTRUME": "FORS2", "ESO INS FILT1 NAME": "u_HIGH"}, "u"),
        ({"TELESCOP": "T80", "INSTRUME": "T80Cam", "FILTER": "R"}, "r"),
        ({"TELESCOP": "T80", "INSTRUME": "T80Cam", "FILTER": "F660"}, "F660"),
        ({"TELESCOP": "MPI-2.2", "FILTER": "R"}, "R"),
        ({"FILTER1": "OG515_G0306", "FILTER2": "i_G0302"}, "i"),
        ({"FILTER": "I Nearly-Mould k1005"}, "I"),
        ({"FILTER": "zd DESI k1034"}, "z"),
        ({"FILTER": "s0012 r SDSS"}, "r"),
        ({"FILTER": "U-SPEC"}, "U"),
        ({"FILTER": "Y-FAN"}, "Y"),
        ({"WFFBAND": "RGO U"}, "U"),
        ({"ALFLTNM": "Open", "FAFLTNM": "Open", "FBFLTNM": "g'_SDSS 480_145"}, "g"),
        ({"DWFILNAM": "R"}, "R"),
    ],
)
def test_filters_of_more_cameras(cards, band):
    assert band_of_header(cards) == band


def test_zero_points_of_a_second_whose_counts_are_of_unknown_length():
    cards = {"PHOTFLAM": 7.07e-20, "PHOTPLAM": 8057.0}
    with pytest.raises(InputError, match="PHOTPLAM are for counts per second, but the header has no EXPTIME"):
        zero_point_of_header(cards | {"BUNIT": "counts"})
    assert zero_point_of_header(cards | {"BUNIT": "counts", "MAGZERO": 27.0}) == (27.0, "MAGZERO")
    point, words = zero_point_of_header(cards | {"EXPTIME": 500.0})
    (doubt,) = zero_point_doubts(cards | {"EXPTIME": 500.0}, point, words)
    assert f"if the image holds counts in 500 s, give zero_point {point + 2.5 * np.log10(500):.2f}" in doubt
    assert not zero_point_doubts(cards | {"BUNIT": "ELECTRONS/S", "EXPTIME": 500.0}, point, words)


def test_hubble_and_webb(tmp_path, sky):
    for name, flam, pivot in (("f814w", 7.07e-20, 8057.0), ("f160w", 1.94e-20, 15369.0)):
        point = -2.5 * np.log10(flam) - 5 * np.log10(pivot) - 2.408
        camera = "acs" if name == "f814w" else "wfc3"
        image, variance = counts(sky, point)
        head = header(0.06, PHOTFLAM=flam, PHOTPLAM=pivot, BUNIT="ELECTRONS/S", FILTER1="CLEAR1L")
        head["FILTER2" if name == "f814w" else "FILTER"] = name.upper()
        fits.writeto(tmp_path / f"hlsp_cosmos_hst_{camera}_gs-tot_{name}_v1.0_drz.fits", image, head)
        fits.writeto(
            tmp_path / f"hlsp_cosmos_hst_{camera}_gs-tot_{name}_v1.0_wht.fits", full(1 / variance), head
        )
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
    with pytest.raises(InputError, match=r"holds 3 images of the sky, in HDUs 1, 2, 3; give the one"):
        deepfits.detect(tmp_path, tmp_path / "c.parquet")
    coadds = deepfits.stack(tmp_path, tmp_path.with_name(f"{tmp_path.name}-coadds"))
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


@pytest.mark.parametrize("level", [4, 16])
@pytest.mark.parametrize("role", ["ivar", "rms", "variance", None])
def test_zeros_that_compression_moved_are_no_data_beside_weights_and_in_them(tmp_path, sky, role, level):
    """As fpack compresses: subtractive dithering, by which 0 of an error map is any small number."""
    options = {"quantize_level": level, "quantize_method": 1, "dither_seed": 3}
    image, power = sky.astype(np.float32), {"ivar": -2, "rms": 1, "variance": 2}.get(role, -2)
    weights = (SIGMA * np.random.default_rng(0).uniform(0.9, 1.1, SHAPE)) ** power
    image[:, :30] = 0
    weights[:, :30] *= role is None  # flat weights, of pixels without data too
    for name, values in (("coadd-r", image), (f"coadd-r.{role or 'ivar'}", weights.astype(np.float32))):
        hdu = fits.CompImageHDU(values, header(FILTER="r", BUNIT="nJy"), **options)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / f"{name}.fits.fz")
    _, weight, remarks = read(tmp_path)
    assert (weight[:, :30] == 0).all()
    np.testing.assert_allclose(weight[:, 31:] ** (power / -2), weights[:, 31:], rtol=0.05)  # half a step
    assert not [text for text in remarks if "WARNING" in text or "relative" in text]


@pytest.mark.parametrize("level", [2, 16])
def test_blocks_of_zeros_that_compression_moved_are_no_data_however_few(tmp_path, sky, level):
    image = sky.astype(np.float32)
    image[50:56, 60:66] = 0  # 0.1% of the pixels
    options = {"quantize_level": level, "quantize_method": 1, "dither_seed": 3}
    hdu = fits.CompImageHDU(image, header(FILTER="r", BUNIT="nJy"), **options)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "coadd-r.fits.fz")
    _, weight, _ = read(tmp_path)
    assert (weight[51:55, 61:65] == 0).all()
    assert (weight == 0).sum() < 60


def test_zeros_of_a_mask_that_compression_moved_are_good(tmp_path, sky):
    """A mask that was resampled, so that it is no whole numbers; good pixels beside bad ones were bad."""
    share = np.zeros(SHAPE, np.float32)
    share[30:40, ::7] = np.random.default_rng(0).uniform(0.9, 1, share[30:40, ::7].shape)
    mask = fits.CompImageHDU(share, quantize_level=4, quantize_method=1)
    fits.HDUList([fits.PrimaryHDU(), mask]).writeto(tmp_path / "a.badmask.fits.fz")
    fits.writeto(tmp_path / "a.fits", sky.astype(np.float32), header(FILTER="r", BUNIT="nJy"))
    np.testing.assert_array_equal(read(tmp_path)[1] == 0, share > 0)


@pytest.mark.parametrize("stored", ["int16", "int32", "packed", "dithered"])
@pytest.mark.parametrize("role", [None, "ivar"])
def test_values_that_stand_for_no_data_among_values_that_come_in_steps(tmp_path, sky, stored, role):
    value = {"int16": -9999, "int32": -(2**31)}.get(stored, -999)  # beside which zeros are values
    values = np.rint(10 * sky) if stored.startswith("int") else sky.copy()
    values[:, :8] = values[:20] = value
    head = header(FILTER="r", BUNIT="0.1 nJy" if stored.startswith("int") else "nJy")
    method = 1 if stored == "dithered" else -1
    if stored.startswith("int"):
        hdu = fits.ImageHDU(values.astype(stored), head)
    else:
        hdu = fits.CompImageHDU(values.astype(np.float32), head, quantize_level=4, quantize_method=method)
    write(tmp_path / "coadd-r.fits", hdu)
    if role is not None:
        fits.writeto(tmp_path / f"coadd-r.{role}.fits", full(SIGMA**-2), header(BUNIT="nJy-2"))
    image, weight, remarks = read(tmp_path)
    assert (weight[:, :8] == 0).all()
    assert (weight[:20] == 0).all()
    np.testing.assert_allclose(weight[20:, 8:], SIGMA**-2, rtol=0.2)
    np.testing.assert_allclose(image[20:, 8:], sky[20:, 8:], atol=0.5 * SIGMA)
    assert any(f"exactly {value:g}: treated as no data" in text for text in remarks)


def coadd(where, image, *, role=None, values=None, **cards):
    """Write a coadd in nJy, with a plane of weights beside it."""
    fits.writeto(where / "coadd-r.fits", image, header(FILTER="r", **({"BUNIT": "nJy"} | cards)))
    if role is not None:
        fits.writeto(where / f"coadd-r.{role}.fits", values, header())


def read(where, **options):
    """Return image, weight and remarks of the only band there."""
    images = image_set(where, **options)
    with open_field(images.fields[0], images) as field:
        (plane,) = field.aligned.values()
        return *plane.read(), plane.plane.remarks


@pytest.mark.parametrize("value", [-99.0, -9999.0, 1e30, 0.0])
@pytest.mark.parametrize("role", ["rms", "weight"])
def test_values_that_stand_for_no_data_count_whatever_the_weights_say(tmp_path, sky, value, role):
    image = sky.astype(np.float32)
    image[:20] = value
    coadd(tmp_path, image, role=role, values=full(SIGMA if role == "rms" else SIGMA**-2))
    _, weight, remarks = read(tmp_path)
    assert (weight[:19] == 0).all()
    np.testing.assert_allclose(weight[21:], SIGMA**-2, rtol=0.01)
    assert any("exactly" in text and "treated as no data" in text for text in remarks)


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("values", [(0.0, -99.0), (-99.0, 1e30), (0.0, -9999.0, 1e30)])
def test_several_values_may_stand_for_no_data_in_one_image(tmp_path, sky, values, has_weights):
    """0 beyond the edge and -99 in bad pixels; of the latter, columns of single pixels count too."""
    image, expected = sky.astype(np.float32), np.ones(SHAPE, bool)
    for row, value in enumerate(values):
        image[20 * row : 20 * row + 20, :60] = value
        expected[20 * row : 20 * row + 20, :60] = False
    image[90:, 100] = image[90:, 120] = values[-1]
    image[80:90, 130:140] = 0  # rare
    expected[90:, [100, 120]] = expected[80:90, 130:140] = False
    if has_weights:
        coadd(tmp_path, image, role="rms", values=full(SIGMA))
    else:
        coadd(tmp_path, image)
    _, weight, remarks = read(tmp_path)
    np.testing.assert_array_equal(weight > 0, expected)
    assert any(f"{values[-1]:g}" in text and "treated as no data" in text for text in remarks)


@pytest.mark.parametrize("role", [None, "rms"])
@pytest.mark.parametrize(("value", "level"), [(-9999.0, 0.0), (-99.0, 0.0), (0.0, 500.0)])
@pytest.mark.parametrize("stored", ["f4", "i4"])
def test_a_few_pixels_far_below_the_sky_that_share_a_value_are_no_data(
    tmp_path, sky, value, level, role, stored
):
    """Dead pixels, 0 below a sky that was not subtracted; fluxes of objects beside them were arbitrary."""
    is_dead = np.random.default_rng(0).random(SHAPE) < 0.002
    values = np.where(is_dead, value, sky + level)
    coadd(
        tmp_path,
        (values if stored == "f4" else np.rint(values)).astype(stored),
        role=role,
        values=full(SIGMA),
    )
    _, weight, remarks = read(tmp_path)
    np.testing.assert_array_equal(weight == 0, is_dead)
    assert any(f"0.2% of the pixels are exactly {value:g}" in text for text in remarks)


def test_single_pixels_far_below_the_sky_and_saturated_ones_are_values(tmp_path, sky):
    values = sky.astype(np.float32)
    values[10, 5:100:10] = -100 - np.arange(10)
    values[20, 5:100:10] = 65_535
    coadd(tmp_path, values)
    assert (read(tmp_path)[1] > 0).all()


def test_blank_of_unsigned_integers_is_no_data(tmp_path, sky):
    stored = np.clip(20 * sky + 2000, 0, 65_000).astype(np.uint16)
    stored[:20] = 65_535
    hdu = fits.PrimaryHDU(stored, header(FILTER="r"))
    hdu.header["BLANK"] = 32_767
    hdu.writeto(tmp_path / "coadd-r.fits")
    image, weight, _ = read(tmp_path, zero_point=31.4 + 2.5 * np.log10(20))
    assert (weight[:20] == 0).all()
    assert (weight[20:] > 0).all()
    assert np.abs(image[20:] - 100 - sky[20:]).max() < 0.06


def test_an_image_with_further_axes_of_one_plane_is_an_image(tmp_path, sky):
    coadd(tmp_path, sky.astype(np.float32)[None, None])
    image, weight, _ = read(tmp_path)
    np.testing.assert_allclose(image, sky, rtol=1e-5)
    assert (weight > 0).all()


def test_bands_with_finer_pixels_keep_fluxes_and_noise(tmp_path):
    """Hubble beside the ground: the mean over a pixel, since one place in it would miss what lies between."""
    side, ratio = 100, 5
    x, y = np.array([30.2, 60.7, 75.4]), np.array([40.1, 25.6, 70.3])
    rng = np.random.default_rng(2)
    flux = np.full(3, 1e5)
    for band, scale, size, fwhm in (("i", 0.2, side, 4.0), ("F606W", 0.2 / ratio, ratio * side, 2.6)):
        there = [(v - (side - 1) / 2) * 0.2 / scale + (size - 1) / 2 for v in (x, y)]
        image = draw((size, size), *there, flux, np.full(3, fwhm)) + rng.normal(0, SIGMA, (size, size))
        head = make_wcs((size, size), scale=scale).to_header()
        head["FILTER"], head["BUNIT"] = band, "nJy"
        fits.writeto(tmp_path / f"coadd-{band}.fits", image.astype(np.float32), head)
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        image, weight = field.aligned["F606W"].read()
        sums = [
            image[round(b) - 7 : round(b) + 8, round(a) - 7 : round(a) + 8].sum()
            for a, b in zip(x, y, strict=True)
        ]
        np.testing.assert_allclose(sums, flux, rtol=0.01)
        empty = image[5:20, 5:95] * np.sqrt(weight[5:20, 5:95])
        # 1350 pixels: 2% of the width; and nearly independent.
        assert empty.std() == pytest.approx(1, abs=0.08)
        assert field.aligned["F606W"].noise_correlation == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match=r"zero_point=F605W: there is no band 'F605W'; did you mean 'F606W'"):
        image_set(tmp_path, zero_point={"F605W": 26.5})


@pytest.mark.parametrize(
    ("stated", "card", "expected"),
    [(None, {}, 1.77), (0.535, {}, 1.77), (1.0, {}, 1.0), (0.535, {"NOISCORR": 1.2}, 1.2)],
)
def test_the_correlation_of_resampled_noise_is_measured(tmp_path, stated, card, expected):
    """[0.15, 0.7, 0.15] along both axes: pixels keep 0.535 of the noise, sums of 10×10 0.949 (analytic)."""
    noise = np.random.default_rng(6).normal(0, SIGMA, (402, 402))
    noise = 0.15 * noise[:-2] + 0.7 * noise[1:-1] + 0.15 * noise[2:]
    noise = 0.15 * noise[:, :-2] + 0.7 * noise[:, 1:-1] + 0.15 * noise[:, 2:]
    depth = np.ones(noise.shape)
    if stated is not None:
        depth[:256] = 3  # the quiet blocks are then not those of the median weight
        fits.writeto(tmp_path / "a-i.ivar.fits", ((stated * SIGMA * depth) ** -2).astype(np.float32))
    head = header(0.2, BUNIT="nJy", FILTER="i", **card)
    fits.writeto(tmp_path / "a-i.fits", (noise * depth).astype(np.float32), head)
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        # Medians over some twenty blocks of 256 sums each: 1% of the noise.
        assert field.aligned["i"].noise_correlation == pytest.approx(expected, rel=0.04)


def test_planes_of_masks_are_those_that_the_mask_names(tmp_path, sky):
    mask = np.zeros(SHAPE, np.int16)
    mask[:20], mask[60:] = 2, 128
    cards = {
        "MSKNAM00": "DETECTOR",
        "MSKVAL00": 1,
        "MSKNAM01": "SAT",
        "MSKVAL01": 2,
        "MSKNAM02": "SUSPECT",
        "MSKVAL02": 128,
    }
    coadd(tmp_path, sky.astype(np.float32))
    fits.writeto(tmp_path / "coadd-r.mask.fits", mask, header(**cards))
    np.testing.assert_array_equal(read(tmp_path)[1] > 0, mask == 0)  # names that others use too
    _, weight, _ = read(tmp_path, bad_planes=["SAT"])
    np.testing.assert_array_equal(weight > 0, mask != 2)
    remarks = read(tmp_path, bad_planes=["DETECTOR", "SAT"])[2]
    assert any("DETECTOR in none of" in text for text in remarks)
    for absent in ("CR", "SATURATED"):
        with pytest.raises(InputError, match=f"no mask plane '{absent}'"):
            read(tmp_path, bad_planes=[absent])


@pytest.mark.parametrize(
    ("name", "of_image", "of_mask", "bad", "usable"),
    [
        ("coadd-r", {}, {"DES_EXT": "MASK"}, 1, 4),  # interpolated in all exposures; interpolated
        ("coadd-r", {"OBJECT": "KIDS_129.0_-0.5"}, {}, 64, 8),  # bad; the halo of a star
        ("KiDS_DR4.0_150.1_2.2_r_sci", {}, {}, 2, 16),
        ("EUC_MER_BGSUB-MOSAIC-NIR-H_TILE102018211-ACBD03", {}, {}, 1, 1 << 18),
        ("coadd-r", {"TELESCOP": "HST"}, {"EXTNAME": "DQ"}, 4096, 64),  # a cosmic ray; warm
        ("coadd-r", {"TELESCOP": "JWST"}, {}, 1, 4),
        (
            "coadd-r",
            {},
            {"MSKNAM00": "CONV.BAD", "MSKVAL00": 8192, "MSKNAM01": "CONV.POOR", "MSKVAL01": 16384},
            8192,
            16384,
        ),
        # Of Rubin's and HSC's coadds: saturated; a cosmic ray in one of the exposures.
        ("coadd-r", {}, {"MP_SAT": 1, "MP_CR": 3, "HIERARCH MP_SENSOR_EDGE": 15}, 2, 8),
        ("coadd-r", {}, {"MSKN0006": "NONFUNC", "MSKN0021": "SOURCE"}, 64, 1 << 21),
        (
            "coadd-r",
            {},
            {"BIT00": (0, "AIRCRAFT/SATELLITE TRACK"), "BIT01": (1, "OBJECT (detected by SExtractor)")},
            256,
            2,
        ),
    ],
)
def test_bad_planes_of_masks_that_a_known_pipeline_made(tmp_path, sky, name, of_image, of_mask, bad, usable):
    mask = np.zeros(SHAPE, np.int32)
    mask[:20], mask[60:] = bad, usable
    coadd(tmp_path, sky.astype(np.float32), **of_image)
    (tmp_path / "coadd-r.fits").rename(tmp_path / f"{name}.fits")
    beside = name.replace("_sci", "_msk").replace("BGSUB-", "").replace("_TILE", "-FLAG_TILE")
    path = tmp_path / f"{beside if beside != name else name + '.mask'}.fits"
    fits.writeto(path, mask, header(**of_mask))
    np.testing.assert_array_equal(read(tmp_path)[1] > 0, mask != bad)
    # What the user says of masks without named planes counts.
    is_named = len(of_mask) > 1
    np.testing.assert_array_equal(
        read(tmp_path, mask_polarity="bad")[1] > 0, mask != bad if is_named else mask == 0
    )


@pytest.mark.parametrize("names", [("SCI_BKSUB", "SCI"), ("SCI", "SCI-SKYSUB"), ("IMAGE", "IMAGE_BKG_SUB")])
def test_of_an_image_with_and_without_its_sky_the_latter_is_used(tmp_path, sky, names):
    """As in the mosaics of CEERS, one of whose planes of errors applies to both."""
    hdus = [fits.PrimaryHDU()]
    for name in names:
        values = (sky + 50 * (not name.endswith("SUB"))).astype(np.float32)
        hdus.append(fits.ImageHDU(values, header(FILTER="r", BUNIT="nJy"), name=name))
    hdus.append(fits.ImageHDU(full(SIGMA), header(), name="ERR"))
    hdus.append(fits.ImageHDU(full(50), header(), name="ZODI"))  # of SPHEREx
    fits.HDUList(hdus).writeto(tmp_path / "mosaic_i2d.fits")
    image, weight, _ = read(tmp_path)
    np.testing.assert_allclose(image, sky, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weight, SIGMA**-2)
    assert len(find_exposures(tmp_path)["r"]) == 1


def test_the_image_in_a_file_of_gnuastro_is_that_without_its_sky(tmp_path, sky):
    """The map of detections was taken for the image, and refused as a picture."""
    planes = {"INPUT-NO-SKY": sky, "DETECTIONS": sky > 5 * SIGMA, "SKY": full(3), "SKY_STD": full(SIGMA)}
    types = {name: np.uint8 if name == "DETECTIONS" else np.float32 for name in planes}
    head = header(BUNIT="nJy")
    hdus = [fits.ImageHDU(values.astype(types[name]), head, name=name) for name, values in planes.items()]
    write(tmp_path / "r_detected.fits", *hdus)
    image, weight, _ = read(tmp_path)
    np.testing.assert_allclose(image, sky, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weight, SIGMA**-2, rtol=1e-5)


def test_planes_of_the_legacy_surveys_are_those_that_the_mask_names(tmp_path, sky):
    mask = np.zeros(SHAPE, np.int32)
    mask[:20], mask[60:] = 2, 8
    coadd(tmp_path, sky.astype(np.float32))
    cards = header(MBIT_0="NPRIMARY", MBIT_1="BRIGHT", MBIT_2="SATUR_G", MBIT_3="SATUR_R")
    fits.writeto(tmp_path / "coadd-r.mask.fits", mask, cards)
    np.testing.assert_array_equal(read(tmp_path, bad_planes=["SATUR_R"])[1] > 0, mask != 8)
    with pytest.raises(InputError, match=r"planes are NPRIMARY, BRIGHT, SATUR_G, SATUR_R .*bad_planes"):
        read(tmp_path)


@pytest.mark.parametrize("first", [0, 1])  # Rubin has counted from both
def test_planes_in_cards_of_rubin_and_spherex(tmp_path, sky, first):
    cards = {"NO_DATA": 1, "INTERPOLATED": 2, "SATURATED": 4}
    mask = np.zeros(SHAPE, np.int32)
    mask[:20], mask[40:60], mask[80:90] = 1, 2, 4
    coadd(tmp_path, sky.astype(np.float32))
    head = header()
    for number, (name, value) in enumerate(cards.items(), first):
        head[f"MSKN{number:04d}"], head[f"MSKM{number:04d}"] = name, value
    fits.writeto(tmp_path / "coadd-r.mask.fits", mask, head)
    np.testing.assert_array_equal(read(tmp_path)[1] > 0, (mask != 1) & (mask != 4))
    np.testing.assert_array_equal(read(tmp_path, bad_planes=["INTERPOLATED"])[1] > 0, mask != 2)
    fits.writeto(
        tmp_path / "coadd-r.mask.fits",
        mask,
        header(MSKN0000="GHOST", MSKN0002="HOT"),
        overwrite=True,
    )
    with pytest.raises(InputError, match=r"planes are GHOST, HOT .*bad_planes"):
        read(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, bad_planes=["HOT"])[1] > 0, mask != 4)


def test_planes_of_a_second_mask_of_rubin_count(tmp_path, sky):
    first, second = np.zeros((2, *SHAPE), np.int32)
    first[:20], second[40:60], second[80:90] = 1, 1, 2
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(sky.astype(np.float32), header(BUNIT="nJy"), name="IMAGE")]
    for ver, (mask, names) in enumerate([(first, ["NO_DATA"]), (second, ["CROSSTALK", "STREAK"])], 1):
        hdu = fits.ImageHDU(mask, name="MASK", ver=ver)
        for number, name in enumerate(names):
            hdu.header[f"MSKN{number:04d}"], hdu.header[f"MSKM{number:04d}"] = name, 1 << number
        hdus.append(hdu)
    hdus.append(fits.ImageHDU(full(4.0), name="VARIANCE"))
    fits.HDUList(hdus).writeto(tmp_path / "coadd-r.fits")
    np.testing.assert_array_equal(read(tmp_path)[1] > 0, (first == 0) & (second != 1))
    np.testing.assert_array_equal(read(tmp_path, bad_planes=["STREAK"])[1] > 0, second != 2)
    both = read(tmp_path, bad_planes=["NO_DATA", "STREAK"])[1] > 0
    np.testing.assert_array_equal(both, (first == 0) & (second != 2))


@pytest.mark.parametrize(
    "names",
    [
        ("mosaic_ch1", "mosaic_ch1_unc", "mosaic_ch1_cov"),
        ("SPITZER_I1_40_E1_maic", "SPITZER_I1_40_E1_munc", "SPITZER_I1_40_E1_mcov"),
        ("1497p015_ac51-w1-int-3", "1497p015_ac51-w1-unc-3", "1497p015_ac51-w1-cov-3"),
        ("ztf_000650_zg_c01_q1_refimg", "ztf_000650_zg_c01_q1_refunc", "ztf_000650_zg_c01_q1_refcov"),
        ("m101_ch1", "m101_ch1_unc", "m101_ch1_area"),  # of Montage
        ("m101_ch1", "m101_ch1_unc", "m101_ch1_footprint"),  # of reproject
        ("m101_ch1", "m101_ch1_unc", "m101_ch1.sum"),  # of THELI
    ],
)
def test_maps_of_coverage_are_no_images(tmp_path, sky, names):
    coverage = np.random.default_rng(1).uniform(20, 40, SHAPE)
    for name, values in zip(names, (sky, full(SIGMA), coverage), strict=True):
        head = header(BUNIT="nJy", CHNLNUM=1)
        fits.writeto(tmp_path / f"{name}.fits", values.astype(np.float32), head)
    images = image_set(tmp_path)
    assert [len(one.images) for one in images.fields] == [1]
    image, weight, _ = read(tmp_path)
    np.testing.assert_allclose(image, sky, rtol=1e-5)
    np.testing.assert_allclose(weight, SIGMA**-2, rtol=1e-5)


def test_what_a_header_says_twice_or_beside_is_said(tmp_path, sky):
    head = header(MAGZERO=27.0, FLXSCALE=2.0)
    assert any("FLXSCALE" in text and "26.25" in text for text in zero_point_doubts(head, 27.0, "MAGZERO"))
    head.append(("MAGZERO", 30.0))
    with pytest.raises(InputError, match=r"27.00, but MAGZERO one of 30.00"):
        zero_point_of_header(head)
    assert zero_point_of_header({"BUNIT": "10^-9 maggies"})[0] == pytest.approx(22.5)
    coadd(tmp_path, sky.astype(np.float32), CTYPE1="RA---TNX", CTYPE2="DEC--TNX")
    with pytest.raises(InputError, match="TNX is an IRAF distortion"):
        read(tmp_path)


def test_zero_points_of_surveys_in_vega_are_called_out(tmp_path, sky):
    head = header(0.34, TELESCOP="ESO-VISTA", MAGZPT=23.0)
    head["HIERARCH ESO INS FILT1 NAME"] = "Ks"
    fits.writeto(tmp_path / "tile.fits", counts(sky, 23.0)[0], head)
    found = deepfits.check(tmp_path / "tile.fits")
    assert found.rows[0].band == "Ks"
    assert any("Vega" in w and "zero_point, here 24.83)" in w for w in found.warnings)
    assert not any("Vega" in w for w in deepfits.check(tmp_path / "tile.fits", zero_point=25.0).warnings)


@pytest.mark.parametrize(
    ("cards", "says"),
    [
        ({"PHOTSYS": "VEGA"}, "PHOTSYS = 'VEGA'"),  # ESO's standard, of any telescope
        ({"MAGSYS": "Vega"}, "MAGSYS = 'Vega'"),
        ({"PHOTZP": (25.0, "[mag] zero point (Vega)")}, "the comment of PHOTZP"),
        ({"PHOTZP": (25.0, "[mag] AB zero point, Vega minus 0.2")}, None),
        ({"PHOTSYS": "AB"}, None),
    ],
)
def test_zero_points_that_a_header_calls_vega_are_called_so(tmp_path, sky, cards, says):
    head = header(0.21, FILTER="r_SDSS", PHOTZP=25.0, TELESCOP="ESO-VLT-VST", PRODCATG="SCIENCE.IMAGE")
    head.update({"BUNIT": "ADU", "EXPTIME": 40.0, **cards})
    fits.writeto(tmp_path / "tile_r.fits", counts(sky, 25.0)[0], head)
    warned = deepfits.check(tmp_path / "tile_r.fits").warnings
    assert [f"in Vega magnitudes, by {says}; give" in text for text in warned] == [True] * bool(says)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("HISTORY", "Generated by CDS hips2fits service - See http://alasky.u-strasbg.fr/hips-image-ser"),
        ("COMMENT", "This file was produced by the SkyView survey analysis system"),
    ],
)
def test_images_that_a_service_has_resampled_are_warned_of(tmp_path, sky, key, text):
    head = header(0.2, FILTER="r")
    head[key] = text
    fits.writeto(tmp_path / "a.fits", counts(sky, 22.5)[0], head)
    warned = deepfits.check(tmp_path, zero_point=22.5).warnings
    assert any("preserves pixel values, not fluxes" in text for text in warned)
    fits.setval(tmp_path / "a.fits", "BUNIT", value="MJy/sr")
    assert not any("resampled" in text for text in deepfits.check(tmp_path).warnings)


@pytest.mark.parametrize("scale", [0.262, 0.4])
def test_images_that_the_viewer_of_the_legacy_surveys_has_resampled_are_warned_of(tmp_path, sky, scale):
    """As its FITS cutouts with pixscale=0.4: nanomaggies of a pixel of 0.262 arcsec, interpolated."""
    head = header(scale, SURVEY="LegacySurvey", VERSION="DR9", IMAGETYP="image", BANDS="r", BAND0="r")
    values = counts(sky, 22.5)[0] * (0.262 / scale) ** 2
    fits.writeto(tmp_path / "cutout_r.fits", values.astype(np.float32), head)
    images = image_set(tmp_path)  # no card gives the zero point, which is known
    with open_field(images.fields[0], images) as field:
        np.testing.assert_allclose(field.planes["r"].read()[0], sky, rtol=2e-3, atol=1e-2)
    assert not any("resampled" in text for text in deepfits.check(tmp_path).warnings)
    found = [text for text in deepfits.check(tmp_path, zero_point=22.5).warnings if "resampled" in text]
    assert bool(found) == (scale != 0.262)
    stated = float(re.search(r"zero_point ([\d.]+)", found[0])[1]) if found else 22.5
    for given in (stated, None):  # its headers have no unit
        images = image_set(tmp_path, zero_point=given)
        with open_field(images.fields[0], images) as field:
            np.testing.assert_allclose(field.planes["r"].read()[0], sky, rtol=2e-3, atol=1e-2)
        assert not any("resampled" in text for text in deepfits.check(tmp_path, zero_point=given).warnings)


@pytest.mark.parametrize(
    ("unit", "point"),
    [
        ("nJy", 31.4),
        ("MJy", -6.1),
        ("Mjy", -6.1),
        ("mJy", 16.4),
        ("10.0*nJy", 28.9),
        ("1e-6 MJy", 8.9),
        ("1e-6 MJY", None),
        ("uJy", 23.9),
        ("nanomaggy", 22.5),
    ],
)
def test_units(unit, point):
    if point is None:
        with pytest.raises(InputError, match="may be mJy or MJy"):
            zero_point_of_header({"BUNIT": unit})
    elif point < -2.5:
        with pytest.raises(InputError, match="plausible AB zero point"):
            zero_point_of_header({"BUNIT": unit})
    else:
        assert zero_point_of_header({"BUNIT": unit})[0] == pytest.approx(point, abs=0.01)


def test_weights_with_a_unit_of_inverse_variances_are_those(tmp_path, sky):
    """Not seconds, though as many as EXPTIME, and not up to a factor."""
    image, variance = counts(sky, 23.9)
    weight = full(0.25 / variance)  # noise twice as large as it is
    weight[:40] = 1 / variance
    for band, unit, factor in (("g", "1/uJy2", 1.0), ("r", "nJy^-2", 1e-6)):
        head = header(BUNIT="uJy", EXPTIME=float(weight.max()))
        parts = fits.ImageHDU(image, head, name="SCI"), fits.ImageHDU(weight * factor, name="WHT")
        parts[1].header["BUNIT"] = unit
        write(tmp_path / f"t_{band}.fits", *parts)
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        for plane in field.planes.values():
            np.testing.assert_allclose(plane.read()[1], weight * 1e-6, rtol=1e-5)


def test_planes_that_nothing_names_are_said(tmp_path, sky):
    image = fits.PrimaryHDU(sky.astype(np.float32), header(BUNIT="nJy", FILTER="r"))
    fits.HDUList([image, fits.ImageHDU(full(1.0))]).writeto(tmp_path / "coadd-r.fits")
    assert any("HDU 1 is not used: its name does not say what it holds" in text for text in read(tmp_path)[2])
    mask = fits.ImageHDU(np.zeros(SHAPE, np.int16))
    fits.HDUList(
        [image, fits.ImageHDU(full(SIGMA**2), name="VARMAP"), mask, fits.ImageHDU(full(1.0))]
    ).writeto(tmp_path / "coadd-r.fits", overwrite=True)
    _, weight, remarks = read(tmp_path)
    np.testing.assert_allclose(weight, SIGMA**-2)
    assert [text[:25] for text in remarks if "is not used" in text] == ["WARNING: HDU 2 is not use"]
    fits.writeto(tmp_path / "coadd-r.rms.fits", full(3.0), header())
    _, weight, remarks = read(tmp_path)
    np.testing.assert_allclose(weight, 1 / 9)
    assert "coadd-r.rms.fits is used instead of the variance in the image's file" in remarks


def test_weights_of_several_layers_are_said(tmp_path, sky):
    image = fits.PrimaryHDU(sky.astype(np.float32), header(BUNIT="nJy", FILTER="r"))
    layers = fits.ImageHDU(np.stack([full(1.0)] * 2), name="WHT")
    fits.HDUList([image, layers]).writeto(tmp_path / "coadd-r.fits")
    remarks = read(tmp_path)[2]
    assert any(
        "HDU 1 (WHT) is not used: it has 2 layers, and it is unknown which is the weight" in t
        for t in remarks
    )
    assert any("no weight plane" in text for text in remarks)


@pytest.mark.parametrize(
    "name", ["QUALITY", "FLAGMAP", "RMSMAP", "STDEV", "INVVARIANCE", "WTMAP", "CONFIDENCE", "BPMASK"]
)
def test_further_names_of_planes(name):
    assert role_of(name) in ("mask", "rms", "ivar", "weight")


def test_a_zero_point_that_the_unit_contradicts_is_said(tmp_path, sky):
    coadd(tmp_path, sky.astype(np.float32))
    assert any(
        "zero_point 27 is used as given, though BUNIT 'nJy' implies 31.40 per pixel" in text
        for text in read(tmp_path, zero_point=27.0)[2]
    )
    assert not any("zero_point" in text for text in read(tmp_path, zero_point=31.4)[2])


@pytest.mark.parametrize(
    ("cards", "given", "is_said"),
    [
        ({"MAGZERO": 30.0}, 27.0, True),
        ({"MAGZERO": 30.0}, 29.7, False),  # calibrated anew
        ({"MAGZERO": 30.0, "MAGSYS": "Vega"}, 28.5, False),  # in doubt anyway
        ({"MAGZERO": 25.0, "FLXSCALE": 0.1}, 27.5, False),
    ],
)
def test_a_zero_point_far_from_the_header_is_said(cards, given, is_said):
    said = given_doubts({"BUNIT": "adu", **cards}, given)
    assert (
        said
        == [f"zero_point {given:g} is used as given, though MAGZERO in the header implies 30.00"] * is_said
    )


def test_intensities_of_galex_have_the_zero_points_of_the_mission(tmp_path, sky):
    for band, number, point in (("nd", 1, 20.08), ("fd", 2, 18.82)):
        image, _ = counts(sky, point)
        head = header(1.5, TELESCOP="GALEX", BAND=number, EXPTIME=1500.0)
        fits.writeto(tmp_path / f"AIS_1-{band}-int.fits", image, head)
        fits.writeto(tmp_path / f"AIS_1-{band}-cnt.fits", full(3), head)
    images = image_set(tmp_path)
    assert images.bands == ("FUV", "NUV")
    with open_field(images.fields[0], images) as field:
        for plane in field.planes.values():
            np.testing.assert_allclose(plane.read()[0], sky, rtol=1e-4, atol=1e-3)
    assert zero_point_of_header(dict(head) | {"BUNIT": "adu"}) is None
    assert zero_point_of_header(dict(head) | {"MAGZERO": 20.0}) == (20.0, "MAGZERO")


def test_names_of_filters():
    assert band_of_name("ABELL370_G") == ("G", "ABELL370")
    assert sort_bands("RGU") == ("U", "G", "R")
    assert band_of_header({"FILTNAME": "v", "TELESCOP": "SkyMapper"}) == "v"
    names = {
        "g DECam SDSS c0001 4720.0 1520.0": "g", "CFHT MegaCam r.MP9602": "r", "u*": "ustar", "z.00000": "z",
        "OCAM_i_SDSS": "i", "NIR_Y": "Y", "NIR_H": "H", "VISTA Ks": "Ks", "Ks.WC8302": "Ks", "VIS": "VIS",
        "HSC-I2": "i", "f814w": "F814W", "W-C-RC": "R", "W-S-Z+": "z", "PANSTARRS_y": "y", "J": "J",
        "bokr": "r", "zd": "z", "H158": "H158", "Euclid_VIS": "VIS", "ls-r": "r",
        "2MASS/2MASS.H": "H", "SLOAN/SDSS.r": "r", "HST/ACS_WFC.F814W": "F814W", "Paranal/VISTA.Ks": "Ks",
        "Subaru/HSC.Y": "y", "Euclid/VIS.vis": "VIS", "JEDIS-G": "g", "JPCAM_g": "g", "r_G0303": "r",
        "z++": "z", "R_SPECIAL": "R", "nuv": "NUV", "F606W/CLEAR2L": "F606W",
        "VR DECam c0007 6300.0 2600.0": "VR", "i2.MP9703": "i", "Open + g": "g", "g DES": "g",
    }  # fmt: skip
    assert {name: band_name(name) for name in names} == names
    assert band_of_header({"TELESCOP": "WISE", "BAND": 2}) == "W2"
    assert band_of_header({"ESO INS FILT1 NAME": "J"}) == "J"
    assert [band_of_name(name)[0] for name in ("cosmos_ip", "tile_g_zp")] == ["i", "g"]
    assert sort_bands(["F444W", "F115W", "F200W"]) == ("F115W", "F200W", "F444W")


def test_what_belongs_together_by_name():
    assert split_name("a_drz")[0] == split_name("a_wht")[0]
    assert split_name("t-image-g")[0] != split_name("t-image-Z")[0]
    assert split_name("x_z.weight") == (("x", "z"), "weight")
    assert split_name("weight") == (("weight",), None)
    assert band_of_name("deepCoadd_calexp-9813-4,5-HSC-G") == ("g", "deepCoadd_calexp-9813-4,5")


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"CDELT1": -1.0}, "is rotated, mirrored or scaled"),
        ({"CDELT1": 2.0, "CDELT2": 2.0}, "is rotated, mirrored or scaled"),
        ({"PC1_1": 0.0, "PC1_2": 7e-5, "PC2_1": 7e-5, "PC2_2": 0.0}, "is rotated, mirrored"),
        ({"CRVAL2": -89.5}, "lies elsewhere on the sky"),
    ],
)
def test_weights_that_are_turned_by_their_wcs_are_warned_of(tmp_path, sky, cards, words):
    coadd(tmp_path, sky.astype(np.float32), role="ivar", values=full(SIGMA**-2))
    head = header()
    head.update(cards)
    fits.writeto(tmp_path / "coadd-r.ivar.fits", full(SIGMA**-2), head, overwrite=True)
    assert any(f"coadd-r.ivar.fits: by its WCS this ivar {words}" in text for text in read(tmp_path)[2])


def test_what_is_not_of_the_image_or_not_whole_is_warned_of(tmp_path, sky, caplog):
    coadd(tmp_path, sky.astype(np.float32), role="rms", values=full(SIGMA))
    assert not any("WARNING" in text for text in read(tmp_path)[2])
    assert not caplog.text
    fits.setval(tmp_path / "coadd-r.rms.fits", "CRPIX1", value=100.0)
    for name in ("coadd-g.fits.part", "coadd-i.asdf", "coadd-z.fits~"):
        (tmp_path / name).write_bytes(b"half of one")
    assert any(
        "coadd-r.rms.fits: by its WCS this rms lies 10 pixels off" in text for text in read(tmp_path)[2]
    )
    assert all(name in caplog.text for name in ("coadd-g.fits.part", "coadd-i.asdf", "coadd-z.fits~"))
    with pytest.raises(InputError, match="catalogue must be a path, not Table; write it into a file"):
        deepfits.cutouts(tmp_path, tmp_path / "store", catalogue=Table({"ra": [150.0], "dec": [2.0]}))


@pytest.mark.parametrize(
    "order", ["by name", "interleaved", "versions of their own", "weights first", "one after the other"]
)
def test_each_of_several_images_in_a_file_has_its_own_weights(tmp_path, sky, order):
    parts = {}
    for band, factor in (("G", 1.0), ("R", 2.0)):
        image = fits.ImageHDU((factor * sky).astype(np.float32), header(BUNIT="nJy"), name="SCI")
        noise = fits.ImageHDU(full((factor * SIGMA) ** 2), header(BUNIT="nJy2"), name="VAR")
        if order == "by name":
            image.name, noise.name = f"SCI_{band}", f"{band}_VAR"
        if order == "versions of their own":
            image.ver, noise.ver = 2 * len(parts) + 1, 2 * len(parts) + 2
        parts[band] = image, noise
    (one, its), (two, other) = parts.values()
    hdus = {
        "by name": [one, two, other, its],
        "interleaved": [one, its, two, other],
        "versions of their own": [one, its, two, other],
        "weights first": [its, one, other, two],
        "one after the other": [one, two, its, other],
    }[order]
    path = tmp_path / "a.fits"
    write(path, *hdus)
    numbers = {band: 1 + hdus.index(parts[band][0]) for band in parts}
    images = image_set([f"{band.lower()}={path}[{number}]" for band, number in numbers.items()])
    with open_field(images.fields[0], images) as field:
        for band, factor in (("g", 1.0), ("r", 2.0)):
            image, weight = field.planes[band].read()
            np.testing.assert_allclose(image, factor * sky, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(weight, (factor * SIGMA) ** -2, rtol=1e-4)
    write(tmp_path / "b.fits", one, two, its, other, fits.ImageHDU(full(1.0), name="VAR"))
    if order not in ("by name", "versions of their own"):
        with pytest.raises(InputError, match=r"b.fits: 2 images and 3 planes that may be the variance"):
            read(f"r={tmp_path}/b.fits[1]")


@pytest.mark.parametrize(
    ("name", "is_image"), [("IMAGE_BKG_SUB", True), ("PSF_MATCHED", True), ("SKY", False)]
)
def test_the_only_image_in_a_file_may_be_called_after_another_map(tmp_path, sky, name, is_image):
    """The error said that there was no image, beside its shape."""
    path = tmp_path / "coadd-r.fits"
    head = header(BUNIT="nJy", FILTER="r")
    write(path, fits.ImageHDU(sky.astype(np.float32), head, name=name), fits.ImageHDU(full(1.0), name="WHT"))
    if not is_image:
        with pytest.raises(InputError, match=rf"no image of the sky, .* \({name}, WHT\); .* r=\S+\[1\]"):
            read(tmp_path)
    np.testing.assert_allclose(read(tmp_path if is_image else f"r={path}[1]")[0], sky, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["BACKGROUND", "SKY", "MODEL", "EXPTIME", "SEGMAP", "SRCMASK", "1-1.E.RMS"])
def test_maps_beside_the_image_in_its_file_are_no_exposures(tmp_path, sky, name):
    image, extra = (
        fits.ImageHDU(sky.astype(np.float32), header(BUNIT="nJy", FILTER="r"), name="SCI"),
        full(100.0),
    )
    write(tmp_path / "coadd-r.fits", fits.ImageHDU(extra, header(BUNIT="nJy"), name=name), image)
    np.testing.assert_allclose(read(tmp_path)[0], sky, rtol=1e-4, atol=1e-3)
    assert [source.hdu for source in find_exposures(tmp_path)["r"]] == [None]


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (("hst_1_01_acs_wfc_f814w_drc", "hst_1_01_wfc3_ir_f160w_drz"), ("F814W", "F160W")),
        (("primer_acswfc_f606w_30mas_sci", "primer_nircam_f277w_30mas_sci"), ("F606W", "F277W")),
        (("r1_wfi_f106_coadd", "r1_wfi_f158_coadd"), ("F106", "F158")),
    ],
)
def test_bands_of_several_cameras_in_space_are_one_field(tmp_path, sky, names, bands):
    for name in names:
        fits.writeto(tmp_path / f"{name}.fits", sky.astype(np.float32), header(BUNIT="nJy"))
    assert image_set(tmp_path).bands == bands


def test_names_of_splus_unions_rubin_and_mosaics_of_webb_beside_hubble(tmp_path, sky):
    def files(where, cards, names):
        (tmp_path / where).mkdir()
        for (band, name), more in zip(names.items(), cards, strict=True):
            image, variance = counts(sky, 25.0)
            head = header(FILTER=band, MAGZP=25.0)
            head.update(more)
            fits.writeto(tmp_path / where / f"{name[0]}.fits", image, head)
            if len(name) > 1:
                fits.writeto(tmp_path / where / f"{name[1]}.fits", full(1 / variance), head)
        images = image_set(tmp_path / where)
        assert len(images.fields) == 1
        with open_field(images.fields[0], images) as field:
            for plane in field.planes.values():
                image, weight = plane.read()
                np.testing.assert_allclose(image, sky, rtol=1e-4, atol=1e-3)
                np.testing.assert_allclose(np.median(weight), SIGMA**-2, rtol=0.15)
        return images.bands

    stem = "STRIPE82-0001"
    names = {b: (f"{stem}_{b}_swp", f"{stem}_{b}_swpweight") for b in ("F660", "R")}
    assert files("splus", [{}, {}], names) == ("R", "F660")
    names = {
        "u.MP9302": ("CFIS.198.270.u", "CFIS.198.270.u.weight"),
        "HSC-G": ("calexp-CFIS_198_270", "calexp-CFIS_198_270.weight"),
        "i.00000": ("PSS.DR4.198.270.i", "PSS.DR4.198.270.i.weight"),
        "HSC-Z": ("WISHES.198.270.z",),
    }
    assert files("unions", [{}] * 4, names) == ("u", "g", "i", "z")
    rubin = [{"HIERARCH LSST BUTLER DATAID BAND": b} for b in "ri"]
    names = {f"{b}_sim_1.4": (f"deepCoadd_calexp_4431_17_{b}_LSSTCam-imSim_u_run",) for b in "ri"}
    assert files("rubin", rubin, names) == ("r", "i")
    stems = {"F606W": "ceers-full-v7.2-f606w_drc", "F115W": "ceers-full-v7.2-f115w-clear_drc"}
    names = {band: (f"{stem}_sci", f"{stem}_wht") for band, stem in stems.items()}
    assert files("webb", [{}, {"PUPIL": "CLEAR"}], names) == ("F606W", "F115W")


def test_a_mask_of_all_bands_counts_where_the_user_says_what_it_means(tmp_path, sky):
    legacy(tmp_path, sky)
    mask = np.zeros(SHAPE, np.int16)
    mask[:20], mask[30:40] = 2, 1 << 10
    path = tmp_path / "legacysurvey-1501p020-maskbits.fits.fz"
    path.unlink()
    write(path, packed(mask, header()))

    def has_data(**options):
        images = image_set(tmp_path, **options)
        with open_field(images.fields[0], images) as field:
            return [plane.read()[1] > 0 for plane in field.planes.values()], images.settings()["files"]

    for options, is_good in (
        ({}, mask >= 0),
        ({"bad_planes": ["1"]}, mask != 2),
        ({"mask_polarity": "bad"}, mask == 0),
    ):
        found, used = has_data(**options)
        for its in found:
            np.testing.assert_array_equal(its, is_good)
        assert any("maskbits" in name for name in used) == bool(options)
    path.unlink()
    with pytest.raises(InputError, match=r"bad_planes is given, but no image of this field has a mask"):
        has_data(bad_planes=["1"])


@pytest.mark.parametrize("mean", [0.03, 0.3, 3.0, 30.0])
def test_zeros_of_photon_counts_are_values_beside_a_border_of_zeros(tmp_path, mean):
    """As in GALEX's intensities, counts by an exposure that varies; zeros were taken for missing data."""
    rng = np.random.default_rng(5)
    truth = make_truth(rng, 30, (320, 320), spacing=25)
    light = draw((320, 320), truth["x"], truth["y"], np.full(30, 50.0), 3.2) + mean
    y, x = np.mgrid[-160:160, -160:160]
    is_seen = np.hypot(x, y) < 150
    rate = np.where(is_seen, rng.poisson(light) / (100 + 0.05 * x), 0).astype(np.float32)
    fits.writeto(tmp_path / "AIS_1-nd-int.fits", rate, header(1.5, TELESCOP="GALEX", BAND=1))
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        _, weight = field.planes["NUV"].read()
        noise, said = field.aligned["NUV"].plane.noise.sigma, field.remarks()["NUV"]
    assert (weight[is_seen] > 0).mean() > 0.94  # empty blocks of the border reach over the rim
    assert not any("more than rounding" in text for text in said)
    assert any("photon counts, where a zero is a value" in text for text in said) == (mean < 30)
    assert (weight[~is_seen] > 0).mean() < 0.15  # blocks do not fit into the corners of a circle
    assert noise == pytest.approx(10 ** ((31.4 - 20.08) / 2.5) * mean**0.5 / 100, rel=0.15)


@pytest.mark.parametrize("value", [-1.0, -0.0123, 2.0])
@pytest.mark.parametrize("has_weights", [False, True])
def test_a_border_that_is_constant_near_the_sky_has_no_data(tmp_path, sky, value, has_weights):
    image = sky + np.random.default_rng(3).normal(0, 1, SHAPE)
    image[:, :40] = value
    fits.writeto(tmp_path / "a_r.fits", image.astype(np.float32), header(0.25, FILTER="r", BUNIT="nJy"))
    if has_weights:
        fits.writeto(tmp_path / "a_r.ivar.fits", full(1 / (np.var(image[:, 40:]))))
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        plane = field.reference
        _, weight = plane.read()
        assert (weight[:, :40] == 0).all()
        assert (weight[:, 40:] > 0).all()
        assert plane.noise.sigma > 0.8


def test_values_that_are_cut_off_at_a_limit_are_data(tmp_path):
    image = np.random.default_rng(3).normal(0, 1, (200, 200)).clip(-1.5, None)
    fits.writeto(tmp_path / "a_r.fits", image.astype(np.float32), header(0.25, FILTER="r", BUNIT="nJy"))
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        assert (field.reference.read()[1] > 0).all()


def test_a_preview_before_the_image_is_no_image(tmp_path, sky):
    head = header(0.25, FILTER="r", BUNIT="nJy")
    hdus = [fits.PrimaryHDU(sky[::4, ::4].astype(np.float32)), fits.ImageHDU(sky.astype(np.float32), head)]
    fits.HDUList(hdus).writeto(tmp_path / "a_r.fits")
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        assert field.reference.shape == SHAPE


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        *((unit, "magnitudes") for unit in ("mag(AB)", "ABmag", "mag")),
        *(
            (unit, "logarithms or the like")
            for unit in ("log10(nJy)", "log(counts)", "dex(Jy)", "asinh flux")
        ),
    ],
)
def test_magnitudes_and_logarithms_are_no_fluxes(unit, kind):
    with pytest.raises(InputError, match=f"{kind}, not fluxes"):
        zero_point_of_header({"BUNIT": unit, "MAGZERO": 27.0})
    assert kind in "".join(given_doubts({"BUNIT": unit}, 27.0))


@pytest.mark.parametrize("first", [None, "LINEAR", "RA---TAN"])
def test_a_wcs_of_the_sky_under_an_alternate_key_counts_where_the_first_is_none(tmp_path, sky, first):
    wcs = make_wcs(SHAPE, scale=0.25)
    head = wcs.to_header(key="C")
    if first is not None:
        other = make_wcs(SHAPE, scale=0.5).to_header()
        other["CTYPE1"], other["CTYPE2"] = first, first.replace("RA-", "DEC")
        head.update(other)
    head["FILTER"], head["BUNIT"] = "r", "nJy"
    fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), head)
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        assert field.pixel_scale == pytest.approx(0.5 if first == "RA---TAN" else 0.25)
        found = field.sky(np.array([3.0]), np.array([5.0]))
        said = [text for text in field.remarks()["r"] if "alternate WCS C" in text]
    assert len(said) == (first != "RA---TAN")
    if said:
        np.testing.assert_allclose(np.ravel(found), np.ravel(wcs.pixel_to_world_values(3, 5)), atol=1e-7)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"CUNIT1C": "degree", "CUNIT2C": "degree"}, ""),
        ({"CTYPE1C": "ra---tan", "CTYPE2C": "dec--tan"}, ""),
        ({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-2, "B_0_2": 1e-2}, "left over from before a resampling"),
        ({"CTYPE1C": "RA---TNX", "CTYPE2C": "DEC--TNX"}, "IRAF distortion"),
    ],
)
def test_an_alternate_wcs_is_corrected_or_refused_as_a_primary_one_is(sky, cards, words):
    wcs = make_wcs(SHAPE, scale=0.25)
    head = wcs.to_header(key="C")
    head.update({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"} | cards)
    hdu = fits.PrimaryHDU(sky.astype(np.float32), head)
    found, remarks = celestial_wcs(fits.HDUList([hdu]), hdu, hdu.header)
    assert words in " ".join(remarks)
    assert (found is None) == (words == "IRAF distortion")
    if found is not None:
        there = np.ravel(found.pixel_to_world_values(3, 5))
        np.testing.assert_allclose(there, np.ravel(wcs.pixel_to_world_values(3, 5)), atol=1e-7)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"CTYPE1": "ra---tan", "CTYPE2": "dec--tan"}, ""),
        ({"CTYPE1": "RA--TAN", "CTYPE2": "DEC---TAN"}, ""),
        ({"CUNIT1": "degrees", "CUNIT2": "DEGREE"}, ""),
        ({"EPOCH": 2015.3}, "EPOCH = 2015.3 is assumed to be the date of the observation"),
        ({"EQUINOX": 0.0}, ""),
        ({"EQUINOX": 2015.3, "RADESYS": "ICRS"}, ""),
        ({"EQUINOX": 2000.0, "EPOCH": 2015.3}, ""),
        ({"RADESYS": "ICRF"}, ""),
        ({"RADESYS": "FK5/J2000.0"}, ""),
        ({"RADECSYS": "FK5", "EQUINOX": 2000.0}, ""),  # was 0.02" off, part of a pixel from space
        ({"EQUINOX": 2000.0}, ""),
        ({"PV1_1": 0.0, "PV2_1": 0.0, "PV2_2": 0.0}, ""),
        ({"RADESYS": "Gaia DR3", "EQUINOX": 2016.0}, ""),
    ],
)
def test_cards_of_a_wcs_that_mean_the_same(tmp_path, sky, cards, words):
    plain = header(0.25, FILTER="r", BUNIT="nJy")

    def places(head):
        fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), head, overwrite=True)
        images = image_set(tmp_path)
        with open_field(images.fields[0], images) as field:
            remarks = [text for text in field.remarks()["r"] if "WARNING" in text]
            return np.array(field.sky(np.array([0.0, 100.0]), np.array([0.0, 50.0]))), remarks

    expected, usual = places(plain)
    odd = plain.copy()
    for key in ("RADESYS", "EQUINOX"):
        odd.remove(key, ignore_missing=True)
    odd.update(cards)
    found, remarks = places(odd)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    said = [text for text in remarks if text not in usual]
    assert [words in text for text in said] == ([True] if words else [])


def test_a_wcs_that_cannot_be_mapped_is_named(tmp_path, sky):
    fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), header(0.25, FILTER="r", BUNIT="nJy"))
    cards = {f"PV{axis}_{term}": 1.0 for axis in (1, 2) for term in (1, 2)}  # both axes are the same sum
    head = header(0.25, FILTER="g", BUNIT="nJy", CTYPE1="RA---TPV", CTYPE2="DEC--TPV", **cards)
    fits.writeto(tmp_path / "coadd-g.fits", sky.astype(np.float32), head)
    images = image_set(tmp_path)
    with (
        pytest.raises(
            InputError, match=r"coadd-g\.fits: its WCS cannot be mapped onto that of coadd-r\.fits"
        ),
        open_field(images.fields[0], images),
    ):
        pass


def test_an_equinox_that_may_be_a_date_is_warned_of(tmp_path, sky):
    head = header(0.25, FILTER="r", BUNIT="nJy", EQUINOX=2015.3)
    head.remove("RADESYS", ignore_missing=True)
    fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), head)
    images = image_set(tmp_path)
    with open_field(images.fields[0], images) as field:
        assert any("precessed from EQUINOX = 2015.3" in text for text in field.remarks()["r"])


def test_cards_of_a_wcs_that_lack_or_are_no_numbers(tmp_path, sky):
    wcs = make_wcs(SHAPE, scale=0.25, rotation=20.0)
    plain = header(0.25, FILTER="r", BUNIT="nJy", CDELT1=-0.25 / 3600, CDELT2=0.25 / 3600)
    for key in ("PC1_1", "PC2_2"):
        del plain[key]
    for key in plain:
        plain.comments[key] = ""

    def places(head):
        fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), head, overwrite=True)
        images = image_set(tmp_path)
        with open_field(images.fields[0], images) as field:
            return np.array(field.sky(np.array([0.0, 100.0]), np.array([0.0, 50.0])))

    text = plain.copy()
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CDELT1"):
        text[key] = str(text[key])
    np.testing.assert_allclose(places(text), places(plain), atol=1e-9)
    for key, value, words in (
        ("CRVAL1", "10:00:00.0", "CRVAL1 = '10:00:00.0', where a number is needed"),
        ("CRVAL2", None, "no CRVAL2"),
        ("CRPIX1", None, "no CRPIX1"),
        ("CROTA1", 20.0, "CROTA1 = 20 without CROTA2"),
    ):
        wrong = plain.copy()
        if value is None:
            del wrong[key]
        else:
            wrong[key] = value
        with pytest.raises(InputError, match=words):
            places(wrong)
    twice = plain.copy()
    twice.append(("CRVAL2", plain["CRVAL2"]), end=True)
    np.testing.assert_allclose(places(twice), places(plain), atol=1e-9)
    twice.append(("CRVAL2", 2.5), end=True)
    with pytest.raises(InputError, match=f"CRVAL2 is both {plain['CRVAL2']} and 2.5"):
        places(twice)
    for key in ("LONPOLE", "LATPOLE", "EQUINOX", "EPOCH", "RADESYS", "CUNIT1"):
        for value in ("nan", "N/A", fits.card.Undefined()):
            nothing = plain.copy()
            nothing[key] = value
            np.testing.assert_allclose(places(nothing), places(plain), atol=1e-9)
    old = plain.copy()
    for i, j in ((1, 1), (1, 2), (2, 1), (2, 2)):
        old[f"PC00{i}00{j}"] = float(i == j)
        old[f"CD{i}_{j}"] = float(i == j) * old[f"CDELT{i}"]
    for key in ("CDELT1", "CDELT2"):
        del old[key]
    np.testing.assert_allclose(places(old), places(plain), atol=1e-9)
    for one, other in (("CD{0:03d}{1:03d}", "CD"), ("CD{0:02d}_{1:02d}", "CD"), ("PC{0:02d}_{1:02d}", "PC")):
        old, turn = plain.copy(), np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
        steps = np.array([plain["CDELT1"], plain["CDELT2"]]) if other == "CD" else np.ones(2)
        now = old.copy()
        for i, j in np.ndindex(2, 2):
            for head, name in ((old, one.format(i + 1, j + 1)), (now, f"{other}{i + 1}_{j + 1}")):
                head[name] = turn[i, j] * steps[i]
        for head in (old, now) if other == "CD" else ():
            del head["CDELT1"], head["CDELT2"]
        np.testing.assert_allclose(places(old), places(now), atol=1e-9)
    twice = plain.copy()
    for value in (1.0, 1.01):
        twice.append(("PV1_1", value), end=True)
    with pytest.raises(InputError, match=r"PV1_1 is both 1\.0 and 1\.01"):
        places(twice)
    turned = plain.copy()
    turned["CROTA2"] = -20.0
    np.testing.assert_allclose(places(turned), wcs.pixel_to_world_values([0, 100], [0, 50]), atol=1e-9)
    turned["PC1_1"] = 1.0
    with pytest.raises(InputError, match="PC matrix and CROTA2 = -20 contradict"):
        places(turned)
    for i in (1, 2):
        for j in (1, 2):
            turned[f"PC{i}_{j}"] = wcs.wcs.cd[i - 1, j - 1] / plain[f"CDELT{i}"]
    np.testing.assert_allclose(places(turned), wcs.pixel_to_world_values([0, 100], [0, 50]), atol=1e-9)
    updated = wcs.to_header()
    updated["FILTER"], updated["BUNIT"] = "r", "nJy"
    for i in (1, 2):  # before the update the image was not turned
        updated[f"CD{i}_{i}"] = plain[f"CDELT{i}"]
    assert updated["CDELT1"] == 1
    with pytest.raises(InputError, match="CD matrix and PC with CDELT contradict each other: remove"):
        places(updated)
    for i in (1, 2):
        for j in (1, 2):
            updated[f"PC{i}_{j}"] = float(i == j)
    np.testing.assert_allclose(places(updated), places(plain), atol=1e-9)
    oblong = plain.copy()
    oblong["CDELT2"] *= 1.3
    fits.writeto(tmp_path / "coadd-r.fits", sky.astype(np.float32), oblong, overwrite=True)
    assert any("0.25 by 0.325 arcsec" in text for text in deepfits.check(tmp_path).warnings)


@pytest.mark.parametrize("kind", ["wht", "rms"])
@pytest.mark.parametrize("stem", ["tile_{}", "{}"])
def test_weights_of_all_bands_are_those_of_bands_that_have_none(tmp_path, sky, kind, stem):
    """They are right up to a factor: each band has units and a depth of its own."""
    depth = np.where(np.arange(SHAPE[1]) < 90, 1.0, 3.0)
    image = sky * depth  # three times the noise on one side
    for band, zero_point in (("g", 30.0), ("r", 27.0)):
        head = header(FILTER=band, MAGZERO=zero_point)
        fits.writeto(tmp_path / f"{stem.format(band)}.fits", counts(image, zero_point)[0], head)
    values = 7 * (depth**-2 if kind == "wht" else depth) * np.ones(SHAPE)
    fits.writeto(tmp_path / f"{stem.format(kind)}.fits", values.astype(np.float32), header())
    images = image_set(tmp_path)
    assert [(len(one.images), images.bands) for one in images.fields] == [(2, ("g", "r"))]
    with open_field(images.fields[0], images) as field:
        for plane in field.aligned.values():
            weight = plane.read()[1]
            assert np.median(weight[:, :80]) == pytest.approx(SIGMA**-2, rel=0.2)
            assert np.median(weight[:, 100:]) == pytest.approx(SIGMA**-2 / 9, rel=0.2)
            assert any(
                text.startswith("WARNING") and "no band in its name" in text for text in plane.plane.remarks
            )
    own = fits.HDUList([fits.PrimaryHDU(full(SIGMA**-2), header())])
    own.writeto(tmp_path / f"{stem.format('g')}.weight.fits")
    fits.writeto(
        tmp_path / f"{stem.format(kind)}.fits", np.ones((9, 9), np.float32), header(), overwrite=True
    )
    images = image_set(tmp_path, zero_point=31.4)
    with open_field(images.fields[0], images) as field:
        g, r = (field.aligned[band].plane for band in "gr")
        assert (g.weight_kind, r.weight_kind) == ("weight", "measured")
        assert any("not used: its shape differs" in text for text in r.remarks)


def test_maps_in_healpix_are_called_so(tmp_path, caplog):
    hdu = fits.BinTableHDU(Table({"T": np.zeros(12)}), header=fits.Header({"PIXTYPE": "HEALPIX"}))
    write(tmp_path / "map_g.fits", hdu)
    with pytest.raises(InputError, match="no FITS image found"):
        find_fields(tmp_path)
    assert "map_g.fits: HEALPix maps cannot be read" in caplog.text


def test_maps_that_name_no_band_are_passed_over(tmp_path, sky, caplog):
    coadd(tmp_path, sky.astype(np.float32))
    names = ("coadd_det", "coadd_detection", "chi2-segmap_v2", "coadd_det_wht")
    for name in names:
        fits.writeto(tmp_path / f"{name}.fits", sky.astype(np.float32), header())
    fits.writeto(tmp_path / "coadd_total.fits", sky.astype(np.float32), header(FILTER="detection"))  # MAST's
    assert image_set(tmp_path).bands == ("r",)
    assert all(f"{name}.fits: a map of no single band; not used" in caplog.text for name in names[:3])
    assert "coadd_total.fits: an image for detection, of no single band; not used" in caplog.text
    fits.setval(tmp_path / "chi2-segmap_v2.fits", "FILTER", value="g")  # its header knows better
    assert image_set(tmp_path, allow_missing=True).bands == ("g", "r")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"g_1": 0, "r_2": 0.001, "i_3": 0.001}, ["gri"]),
        ({"g_1": 0, "r_2": 0, "g_3": 0.5, "r_4": 0.5}, ["gr", "gr"]),
        ({"g_1": 0, "r_2": 0.004}, ["g", "r"]),  # a third of the image away
        ({"g_1": 0, "r_2": 0, "r_3": 0}, ["g", "r", "r"]),  # which of them?
        ({"g_1": 0, "r_2-deep": 0}, ["gr"]),
        ({"g_1": 0, "r_2": 0, "g_1-deep": 0, "r_2-deep": 0}, ["gr", "gr"]),  # two releases
    ],
)
def test_runs_of_one_place_are_bands_of_one_field(tmp_path, sky, where, expected):
    """Names of stacks of VST ATLAS and UltraVISTA differ in numbers, those of HFF and UNCOVER in words."""
    values = sky.astype(np.float32)
    for name, east in where.items():
        head = make_wcs(SHAPE, scale=0.25, ra=150 + east).to_header()
        head["FILTER"] = name[0]
        write(tmp_path / f"o2014_{name}_st.fits.fz", packed(values, head))
    fields = find_fields(tmp_path)
    assert ["".join(field.bands) for field in fields] == expected
    assert all({source.field for source in field.images.values()} == {field.name} for field in fields)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("sig", "rms"),
        ("rms_map", "rms"),
        ("inv_var", "ivar"),
        ("inverse_variance", "ivar"),
        ("exptime", None),
    ],
)
def test_planes_beside_an_image_by_further_words(tmp_path, sky, word, kind):
    image, variance = counts(sky, 27.0)
    head = header(0.2, FILTER="g", MAGZERO=27.0)
    fits.writeto(tmp_path / "tile_g.fits", image, head)
    values = {"rms": variance**0.5, "ivar": 1 / variance, None: 900.0}[kind]
    fits.writeto(tmp_path / f"tile_g_{word}.fits", full(values), head)
    images = image_set(tmp_path)
    assert len(images.fields) == 1
    with open_field(images.fields[0], images) as field:
        plane = field.aligned["g"].plane
        assert plane.weight_kind == (kind or "measured")
        np.testing.assert_allclose(np.median(plane.read()[1]), SIGMA**-2, rtol=0.15)


@pytest.mark.parametrize(("east", "is_said"), [(0, True), (0.5, False)])
def test_an_image_of_the_name_band_and_place_of_another_is_warned_of(tmp_path, sky, caplog, east, is_said):
    for name, ra in (("tile_g", 150), ("tile_g_skysub", 150 + east)):
        head = make_wcs(SHAPE, scale=0.2, ra=ra).to_header()
        head["FILTER"] = "g"
        fits.writeto(tmp_path / f"{name}.fits", sky.astype(np.float32), head)
    assert len(find_fields(tmp_path)) == 2
    said = f"tile_g.fits and {tmp_path / 'tile_g_skysub.fits'} show the same piece of sky"
    assert (said in caplog.text) == is_said


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("HSC-{B}/9813/4,5/calexp-HSC-{B}-9813-4,5",), ["9813-4,5"]),
        (
            tuple(f"HSC-{{B}}/9813/4,5/{kind}-HSC-{{B}}-9813-4,5" for kind in ("bkgd", "calexp", "det_bkgd")),
            ["9813-4,5"],
        ),
        (("coadd/150/1501p020/ls-1501p020-image-{b}",), ["coadd-150-1501p020-ls-1501p020-image"]),
        (("n1/n2/n3/n4/n5/n6/n7/n8/n9/coadd-{b}",), ["n1-n2-n3-n4-n5-n6-n7-n8-n9"]),
        (("north/1/coadd-{b}", "north/2/coadd-{b}"), ["north-1", "north-2"]),
        (("{b}/t1/coadd", "{b}/t2/coadd"), ["t1", "t2"]),
        (("images/t1/a-{b}", "weights/t1/a-{b}"), ["images-t1-a"]),
        (("102018211/{C}/tile-{b}",), ["102018211-tile"]),
    ],
)
def test_trees_of_directories_as_archives_lay_them(tmp_path, sky, caplog, names, expected):
    for name in names:
        for band in "gr":
            camera = {"g": "VST", "r": "DECam"}[band]
            path = tmp_path / f"{name.format(b=band, B=band.upper(), C=camera)}.fits"
            path.parent.mkdir(parents=True, exist_ok=True)
            fits.writeto(path, sky.astype(np.float32), header(BUNIT="nJy"))
    fields = find_fields(tmp_path)
    assert [(field.name, field.bands) for field in fields] == [(name, ("g", "r")) for name in expected]
    assert ("weights: not used: by its name it holds weights" in caplog.text) == names[-1].startswith(
        "weights"
    )


@pytest.mark.parametrize("second", ["dr10", "dr10-elsewhere", "dr10-other-band", "sky"])
def test_two_releases_of_one_tile_side_by_side_are_warned_of(tmp_path, sky, caplog, second):
    """Their objects would be a mixture of both."""
    names = {"dr9": "tile-g", second: {"dr10-other-band": "tile-z", "sky": "tile-g_v2"}.get(second, "tile-g")}
    for release, name in names.items():
        where = tmp_path / ("dr9" if second == "sky" else release)
        where.mkdir(exist_ok=True)
        head = make_wcs(SHAPE, ra=151 if release == "dr10-elsewhere" else 150).to_header()
        fits.writeto(where / f"{name}.fits", sky.astype(np.float32), head)
    find_fields(tmp_path)
    assert caplog.text.count("give only one") == (second in ("dr10", "sky"))


def test_links_to_a_directory_count_it_once(tmp_path, sky, caplog):
    (tmp_path / "v2").mkdir()
    coadd(tmp_path / "v2", sky.astype(np.float32))
    (tmp_path / "v2" / "here").symlink_to(tmp_path / "v2")
    (tmp_path / "w-latest").symlink_to(tmp_path / "v2")
    assert [field.name for field in find_fields(tmp_path)] == ["v2"]
    assert "w-latest: a link to a directory that is read already; ignored" in caplog.text
    assert len(find_fields(tmp_path / "v2")) == 1


@pytest.mark.parametrize("name", ["a-r.fts.gz", "a-r.fit.xz", "a-r.ftz", "A-R.FIT.FZ"])
def test_endings_of_names_in_all_ways(tmp_path, sky, name):
    fits.writeto(tmp_path / "plain.fit", sky.astype(np.float32), header(FILTER="r", BUNIT="nJy"))
    pack = gzip.compress if name.endswith(("gz", "ftz")) else lzma.compress
    content = (tmp_path / "plain.fit").read_bytes()
    (tmp_path / "plain.fit").unlink()
    (tmp_path / name).write_bytes(content if name.endswith("FZ") else pack(content))
    np.testing.assert_allclose(read(tmp_path)[0], sky, rtol=1e-5)
    assert [field.name for field in find_fields(tmp_path)] == [name[0]]


def test_a_frame_of_sdss_dr7_is_refused_with_what_it_is(tmp_path, sky):
    path = tmp_path / "fpC-003918-r3-0213.fit"
    stored = np.rint(sky + 1150).astype(np.int16)
    fits.writeto(path, stored, header(0.396, FILTER="r", SOFTBIAS=1000, FLUX20=2000.0))
    with pytest.raises(
        InputError, match=r"SDSS DR7: use frame-\*\.fits of DR8.*SOFTBIAS.*zero_point, about 28\.25"
    ):
        read(tmp_path)


def test_a_weight_map_that_lacks_its_image_is_no_image(tmp_path, sky, caplog):
    sisters(tmp_path, sky)
    (tmp_path / "images/tile-r.fits").unlink()
    with pytest.raises(InputError, match=r"invvar/tile-r.fits: in a directory of weights, but no image"):
        image_set(tmp_path)
    other = tmp_path / "eso"
    other.mkdir()
    eso(other, sky)
    first, its = (other / f"ADP.2019-02-11T13:02:24.{number}.fits" for number in (800, 900))
    away = its.rename(tmp_path / "away.fits")
    fits.setval(first, "ASSOC1", value="ANCILLARY.WEIGHTMAP")
    fits.setval(first, "ASSON1", value="seven.fits")
    image_set(other)
    assert "its weight, ADP.2019-02-11T13:02:24.901.fits, belongs to another image; not used" in caplog.text
    away.rename(its)
    fits.setval(first, "ASSOC1", value="")
    (other / "ADP.2019-02-11T13:02:24.901.fits").unlink()
    image_set(other)
    assert "24.801.fits: its weight, ADP.2019-02-11T13:02:24.901.fits (ASSON), is missing" in caplog.text
    first.unlink()
    with pytest.raises(InputError, match=r"24.900.fits: holds weights by its name or header"):
        image_set(other)


@pytest.mark.parametrize(("power", "words"), [(1, "1/σ, and not 1/σ²"), (-1, "errors"), (-2, "variances")])
def test_weights_that_are_something_else_are_called_so_where_the_depth_varies(tmp_path, power, words):
    rng = np.random.default_rng(3)
    sigma = full(2.0)
    sigma[:, 90:] *= 2
    sigma[80:] *= 1.5
    coadd(tmp_path, rng.normal(0, sigma).astype(np.float32), role="weight", values=sigma**-power)
    assert any(words in text for text in deepfits.check(tmp_path).warnings)
    fits.writeto(tmp_path / "coadd-r.weight.fits", sigma**-2, header(), overwrite=True)
    assert not any("noise" in text or "σ" in text for text in deepfits.check(tmp_path).warnings)


def test_a_sky_and_a_noise_that_differ_over_an_image_are_said(tmp_path, sky):
    def said(values, weight=None):
        head = header(BUNIT="nJy")
        fits.writeto(tmp_path / "coadd-r.fits", values.astype(np.float32), head, overwrite=True)
        if weight is not None:
            values = weight.astype(np.float32)
            fits.writeto(tmp_path / "coadd-r.weight.fits", values, header(), overwrite=True)
        return [text for text in deepfits.check(tmp_path).warnings if "differs" in text]

    assert not said(sky)
    slope = np.linspace(-2 * SIGMA, 2 * SIGMA, SHAPE[0])[:, None]  # 0 in the median
    (text,) = said(sky + slope)
    assert re.search(r"coadd r: the sky differs by (1\.[5-9]|2\.[0-5]) σ of a pixel between parts", text)
    (text,) = said(sky + slope + 4 * SIGMA)
    assert re.search(r"the sky lies at (2\.[0-5]) σ of a pixel, and differs by (1\.[5-9]|2\.[0-5]) σ;", text)
    more = np.where(slope > 0, 2 * SIGMA, 0) * np.ones(SHAPE)  # √5 of the noise in one half
    uneven = sky + np.random.default_rng(3).normal(0, more)
    (text,) = said(uneven)
    assert re.search(r"coadd r: the noise differs by a factor 2\.[0-6] between parts", text)
    assert not said(uneven, 1 / (SIGMA**2 + more**2))
    (text,) = said(uneven, full(SIGMA**-2))
    assert "which the weights ignore" in text


@pytest.mark.parametrize("kind", ["galaxy", "cluster"])
def test_noise_that_is_due_to_sources_is_none_that_weights_ignore(tmp_path, kind):
    """It made part of the image noisier: photons of large galaxies, their cores, and stars that overlap."""
    rng, (y, x) = np.random.default_rng(3), np.mgrid[:260, :260] - 130
    light = 150 * np.exp(-np.hypot(x, y) / 30)
    if kind == "cluster":
        stars = rng.uniform(0, 1, (260, 260)) < 0.2 * np.exp(-np.hypot(x, y) / 40)
        light = ndimage.gaussian_filter(stars * rng.exponential(100, stars.shape), 1.5)
    image = light + rng.normal(0, np.sqrt(1 + light / 4))
    head = header(FILTER="r", BUNIT="nJy", CRPIX1=130.0, CRPIX2=130.0)
    fits.writeto(tmp_path / "coadd-r.fits", image.astype(np.float32), head)
    assert not [text for text in deepfits.check(tmp_path).warnings if "noise differs" in text]


@pytest.mark.parametrize("word", ["exp", "exptime", "nexp", "HDU"])
def test_maps_of_exposures_beside_images_without_weights_are_said(tmp_path, sky, word):
    image, exposures = fits.ImageHDU(sky.astype(np.float32), header(BUNIT="nJy"), name="SCI"), full(1600.0)
    its = fits.ImageHDU(exposures, name="EXP")
    write(tmp_path / "tile_r.fits", image, *([its] if word == "HDU" else []))
    name = "HDU 2 (EXP)" if word == "HDU" else f"tile_r_{word}.fits"
    if word != "HDU":
        fits.writeto(tmp_path / name, exposures, header())
    said = f"WARNING: {name} is not used, and there are no weights"
    assert any(text.startswith(said) and "tile_r.weight.fits" in text for text in read(tmp_path)[2])
    fits.writeto(tmp_path / "tile_r.weight.fits", exposures, header())
    assert not any("is not used" in text for text in read(tmp_path)[2])


def test_a_flag_map_that_is_called_a_weight_is_warned_of(tmp_path, sky):
    flags = full(0)
    flags[:20] = 1
    coadd(tmp_path, sky.astype(np.float32), role="weight", values=flags)
    assert any("leaves 12% of the non-zero pixels" in text for text in read(tmp_path)[2])


def test_nanomaggies_of_wise_are_of_vega(tmp_path, sky):
    fits.writeto(tmp_path / "a.fits", sky.astype(np.float32), header(FILTER="W1", BUNIT="nanomaggy"))
    assert any("usually in Vega magnitudes" in text for text in deepfits.check(tmp_path).warnings)


@pytest.mark.parametrize("place", ["beside", "in the file", "of all bands"])
@pytest.mark.parametrize(
    "word", ["badpixmask", "bad_pixel_mask", "goodmask", "starmask", "BrightStar-Mask", "bpm"]
)
def test_masks_whose_name_says_what_they_mean(tmp_path, sky, word, place):
    marked = np.zeros(SHAPE, np.int16)
    marked[:20] = 3
    is_good = word == "goodmask"
    values = marked == 0 if is_good else marked
    image = fits.ImageHDU(sky.astype(np.float32), header(FILTER="r", BUNIT="nJy"), name="SCI")
    mask = fits.ImageHDU(values.astype(np.int16), header(), name=word.upper())
    write(tmp_path / "tile_r.fits", image, *([mask] if place == "in the file" else []))
    if place != "in the file":
        mask.name = ""
        write(tmp_path / f"tile_{'r_' if place == 'beside' else ''}{word}.fits", mask)
    images = image_set(tmp_path)
    assert [field.bands for field in images.fields] == [("r",)]
    assert ((read(tmp_path)[1] > 0) == (marked == 0)).all()
    said = {"mask_polarity": "good" if not is_good else "bad"}  # who says it knows better
    assert ((read(tmp_path, **said)[1] > 0) == (marked > 0)).all()


@pytest.mark.parametrize("place", ["beside", "in the file"])
def test_all_masks_of_an_image_count_or_are_said(tmp_path, sky, place):
    image = fits.ImageHDU(sky.astype(np.float32), header(FILTER="r", BUNIT="nJy"), name="SCI")
    masks = []
    for number, name in enumerate(("MASK", "BPM", "STARMASK", "FLAGS")):
        values = np.zeros(SHAPE, np.int32)
        values[10 * number] = 1
        masks.append(fits.ImageHDU(values, header(), name=name))
    masks[0].header["MP_BAD"] = 0
    write(tmp_path / "tile_r.fits", image, *(masks if place == "in the file" else []))
    if place == "beside":
        write(tmp_path / "tile_r.mask.fits", *masks, fits.ImageHDU(values, name="EDGES"))
    _, weight, remarks = read(tmp_path)
    assert [(weight[10 * k] == 0).all() for k in range(4)] == [True, True, True, False]
    assert any("a further mask, FLAGS, is not used: its meaning is unknown" in text for text in remarks)
    assert any("only HDU 1 is used, not 5" in text for text in remarks) == (place == "beside")
    assert (read(tmp_path, mask_polarity="bad")[1][30] == 0).all()


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (("{b}i1230057",), ["JHK"]),  # 2MASS
        (("a{B}_asky_980403s0190256",), ["JHK"]),
        (("N1234{b}",), ["JHK"]),
        (("{b}at_1",), ["JHK"]),
        (("{b}at_1", "N1234{b}"), ["JHK", "JHK"]),  # two reductions of it
        (("{b}{b}x", "N1234{b}"), ["JHK", "H", "J", "K"]),  # one of which differs in more than the band
    ],
)
def test_bands_whose_letter_is_part_of_a_word_are_one_field_in_one_place(tmp_path, sky, names, fields):
    for name in names:
        for band in "jhk":
            path = tmp_path / f"{name.format(b=band, B=band.upper())}.fits"
            fits.writeto(path, sky.astype(np.float32), header(1.0, FILTER=band, MAGZP=20.9))
    assert sorted(["".join(field.bands) for field in find_fields(tmp_path)]) == sorted(fields)


@pytest.mark.parametrize("key", ["EXPTIME", "EXP_TIME", "EXPOSURE", "TEXPTIME"])
@pytest.mark.parametrize("card", ["CASUVERS", "MAGZRR"])
def test_zero_points_of_casu_are_of_one_second(key, card):
    """Headers of VISTA, WFCAM, VST ATLAS and the Isaac Newton Telescope have no BUNIT."""
    head = header(MAGZPT=22.0, **{key: 10.0, card: 0.02})
    assert zero_point_of_header(head) == (24.5, "MAGZPT and an exposure of 10 s")
    assert not zero_point_doubts(head, *zero_point_of_header(head))
    head["PHOTZP"] = 24.5  # ESO's, of one count
    assert zero_point_of_header(head)[0] == 24.5
    assert zero_point_of_header({**head, "BUNIT": "ADU/s", "PHOTZP": 22.0})[0] == 22.0
    del head[card], head["PHOTZP"]
    assert zero_point_of_header(head) == (22.0, "MAGZPT")


def test_zero_points_of_one_second_need_the_exposure_time():
    """Swift's maps state it as EXPOSURE; without one, the zero point was taken as that of a count."""
    head = header(BUNIT="count")
    head["MAGZERO"] = 18.0, "[mag] of one count/s"
    with pytest.raises(
        InputError, match="MAGZERO is for one count per second, but the header has no EXPTIME"
    ):
        zero_point_of_header(head)
    head["EXPOSURE"] = 1000.0
    assert zero_point_of_header(head)[0] == 25.5


@pytest.mark.parametrize(
    ("key", "comment", "unit", "expected"),
    [
        ("MAGZERO", "[mag] zero point for 1 ADU/s", "", "doubtful"),
        ("MAGZP", "[mag] zero point for 1 ADU/s", "", "doubtful"),
        ("MAGZERO", "Zero point of one second", "adu", 30.0),
        ("MAGZP", "[mag] 1 e-/s", "electron", 30.0),
        ("MAGZERO", "Zero point per second", "adu/s", 25.0),
        ("MAGZERO", "[mag] zero point of one count", "adu", 25.0),
        ("MAGZP", "[mag] zero point, 1 sigma 0.02", "", 25.0),
    ],
)
def test_zero_points_of_one_second_by_the_comment_of_their_card(key, comment, unit, expected):
    head = header(EXPTIME=100.0, BUNIT=unit)
    head[key] = 25.0, comment
    found = zero_point_of_header(head)
    doubts = zero_point_doubts(head, *found)
    assert [" 30.00" in text for text in doubts] == [True] * (expected == "doubtful")
    assert found[0] == (25.0 if expected == "doubtful" else expected)


@pytest.mark.parametrize(
    "per_second",
    ["electron / (pix s)", "ct / (pixel s)", "electron / (s pix)", "e-/s/px", "cts s-1 pixel-1"],
)
def test_counts_per_second_and_pixel_are_a_rate(per_second):
    """The first is how astropy writes electron / s / pix; it was taken for counts of the whole exposure."""
    head = header(PHOTFLAM=1e-19, PHOTPLAM=6000.0, EXPTIME=100.0, BUNIT=per_second)
    assert zero_point_of_header(head)[0] == pytest.approx(26.20, abs=0.005)
    head["BUNIT"] = "electron / pix"
    assert zero_point_of_header(head)[0] == pytest.approx(31.20, abs=0.005)


@pytest.mark.parametrize("depth", [17, 22])
def test_zero_points_that_make_an_image_shallow_may_be_of_one_second(tmp_path, sky, depth):
    image = counts(sky, 25.0)[0] * 10 ** ((26.8 - depth) / 2.5)  # the depth of the sky is 26.8
    fits.writeto(tmp_path / "a_g.fits", image, header(FILTER="g", MAGZP=25.0, EXPTIME=600.0))
    warned = deepfits.check(tmp_path).warnings
    assert any("one per second, give that for 600 s" in text for text in warned) == (depth == 17)


def test_counts_of_an_unknown_unit_beside_photflam_are_called_out():
    cards = {"PHOTFLAM": 7.0e-20, "PHOTPLAM": 8045.0, "EXPTIME": 100.0}
    head = header(BUNIT="RELATIVE", **cards)
    zero_point, words = zero_point_of_header(head)
    (text,) = zero_point_doubts(head, zero_point, words)
    assert text.startswith("BUNIT 'RELATIVE' is not a known unit: assumed to be counts per second")
    assert f"zero_point {zero_point + 5:.2f}" in text
    for known in ("ELECTRONS", "ELECTRONS/S"):
        head = header(BUNIT=known, **cards)
        assert not zero_point_doubts(head, *zero_point_of_header(head))


@pytest.mark.parametrize(
    ("cards", "area", "says"),
    [
        ({"MAGZERO": 30.0, "MAGZP": 29.96}, 1.0, "MAGZP one of 29.960"),
        ({"MAGZERO": 30.0, "MAGZP": 29.99}, 1.0, None),
        ({"BUNIT": "nanomaggy", "MAGZERO": 22.46}, 1.0, "MAGZERO one of 22.460"),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 1e-12}, 1.04e-12, "the area of a pixel by the WCS one of 23.857"),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 1e-12}, 1.005e-12, None),
        ({"BUNIT": "erg/s/cm2/A", "PHOTPLAM": 8045.0, "PIXAR_SR": 1e-12}, 1.04e-12, None),
    ],
)
def test_zero_points_that_differ_by_a_few_per_cent_are_called_out(cards, area, says):
    """Larger differences are refused; the first is used, and the flux may be off by as much."""
    head = header(**cards)
    doubts = zero_point_doubts(head, *zero_point_of_header(head, area), area)
    assert [says in text for text in doubts] == [True] * bool(says)


@pytest.mark.parametrize(
    ("cards", "kind"),
    [
        ({"EXTNAME": "STAT"}, "variance"),
        ({"HDUCLAS2": "ERROR", "HDUCLAS3": "MSE"}, "variance"),
        ({"EXTNAME": "ERR", "HDUCLAS2": "ERROR", "HDUCLAS3": "MSE"}, "variance"),
        ({"HDUCLAS2": "ERROR", "HDUCLAS3": "RMSE"}, "rms"),
        ({"HDUCLAS2": "ERROR"}, "rms"),
        ({"HDUCLAS2": "ERROR", "HDUCLAS3": "INVMSE"}, "ivar"),
    ],
)
def test_planes_as_pipelines_of_eso_call_them(tmp_path, sky, cards, kind):
    image, variance = counts(sky, 27.0)
    values = {"variance": variance, "rms": variance**0.5, "ivar": 1 / variance}[kind]
    head = header(FILTER="r", MAGZERO=27.0, HDUCLAS2="DATA")
    quality = np.zeros(SHAPE, np.int32)
    quality[5] = 1
    planes = [fits.ImageHDU(image, head, name="DATA"), fits.ImageHDU(full(values), header(**cards))]
    write(tmp_path / "a.fits", *planes, fits.ImageHDU(quality, header(HDUCLAS2="QUALITY")))
    _, weight, _ = read(tmp_path, mask_polarity="bad")
    assert (weight[5] == 0).all()
    np.testing.assert_allclose(np.median(weight), SIGMA**-2, rtol=1e-3)
    assert [source.hdu for source in find_exposures(tmp_path)["r"]] == [None]


@pytest.mark.parametrize("end", ["fits", "fits.fz", "fits.gz"])
@pytest.mark.parametrize("where", ["beside", "within"])
def test_cubes_whose_headers_name_the_bands_are_fields(tmp_path, sky, where, end):
    """As from the viewer of the Legacy Surveys, with a mask of all bands; FILTER may be that of one."""
    factors, bad = np.array([1.0, 2.0, -1.0])[:, None, None], np.zeros(SHAPE, np.int32)
    bad[5] = 2
    head = header(0.25, BANDS="grz", MAGZERO=31.4, FILTER="r", INSTRUME="DECam")
    planes = {"image": factors * sky, "invvar": (factors * SIGMA) ** -2.0 * np.ones(SHAPE), "maskbits": bad}
    make = packed if end.endswith("fz") else fits.ImageHDU
    hdus = {n: make(v.astype("i4" if v is bad else "f4"), head, name=n.upper()) for n, v in planes.items()}
    if where == "within":
        write(tmp_path / f"cutout_150.1_2.2.{end}", *hdus.values())
    for name, hdu in hdus.items() if where == "beside" else ():
        write(tmp_path / f"cutout_150.1_2.2{f'_{name}' * (name != 'image')}.{end}", hdu)
    images = image_set(tmp_path, mask_polarity="bad")
    assert [(field.name, field.bands) for field in images.fields] == [("cutout_150.1_2.2", ("g", "r", "z"))]
    with open_field(images.fields[0], images) as field:
        for (band, plane), factor in zip(field.planes.items(), factors.ravel(), strict=True):
            image, weight = plane.read()
            assert (weight[5] == 0).all()
            np.testing.assert_allclose(image[6:], factor * sky[6:], atol=0.05 * SIGMA * abs(factor))
            np.testing.assert_allclose(weight[6:], (factor * SIGMA) ** -2, rtol=1e-3)
            assert "FILTER" not in field.aligned[band].plane.header
    assert image_set(tmp_path, bands=["z"], mask_polarity="bad").bands == ("z",)


def test_a_layer_without_data_can_be_left_out(tmp_path, sky):
    """Where a survey lacks a band, its layer is 0."""
    head = header(0.25, BANDS="gri", MAGZERO=31.4)
    fits.writeto(tmp_path / "cutout.fits", np.array([sky, 0 * sky, sky], np.float32), head)
    found = deepfits.check(tmp_path)
    assert [row.band for row in found.rows] == ["g", "i"]
    assert any("leave this band, r, out (bands)" in text for text in found.warnings)
    store = CutoutStore(deepfits.cutouts(tmp_path, tmp_path / "store", bands=["g", "i"]))
    assert len(store) >= 18


def test_images_of_several_bands_in_a_file_are_no_ccds(tmp_path, sky):
    bands_in_one_file_by_filter(tmp_path, sky)
    found = find_exposures(tmp_path)
    assert {band: [s.hdu for s in its] for band, its in found.items()} == {"g": [1], "r": [2]}


def test_several_images_of_several_bands_in_a_file_are_exposures_and_no_field(tmp_path, sky):
    """Each is of its own band: all were taken for images of the first one's."""
    heads = [header(FILTER=band, BUNIT="nJy") for band in "gr" for _ in range(2)]
    write(tmp_path / "a.fits", *(fits.ImageHDU(sky.astype(np.float32), head) for head in heads))
    found = find_exposures(tmp_path)
    assert {band: [s.hdu for s in its] for band, its in found.items()} == {"g": [1, 2], "r": [3, 4]}
    with pytest.raises(
        InputError, match=r"a\.fits: HDUs 1 and 2 both hold g; put each field into its own file"
    ):
        find_fields(tmp_path)


def test_names_of_hdus_count_where_all_images_have_the_filter_of_one(tmp_path, sky):
    """As where the header of one band was copied: the file was refused as several images of that band."""
    for role, values, power in (("SCI", sky, 1), ("WHT", np.full(SHAPE, SIGMA**-2), -2)):
        for n, band in enumerate("GRI", 1):
            pixels = (values * float(n) ** power).astype(np.float32)
            plane = fits.ImageHDU(pixels, header(FILTER="g", BUNIT="nJy"))
            plane.name = f"{role}_{band}"
            with fits.open(tmp_path / "a.fits", mode="append") as hdus:
                hdus.append(plane)
    [field] = find_fields(tmp_path)
    assert {band: source.hdu for band, source in field.images.items()} == {"g": 0, "r": 1, "i": 2}
    _, weight, _ = read(tmp_path, bands=["i"])
    np.testing.assert_allclose(np.median(weight), SIGMA**-2 / 9, rtol=1e-3)


@pytest.mark.parametrize("end", ["fits", "fits.gz", "fits.bz2"])
@pytest.mark.parametrize(
    ("cards", "bands"),
    [
        ({"FILTER1": "CLEAR1L", "FILTER2": "F606W"}, ("F606W", "F814W")),  # of ACS
        ({"FILTER1": "F606W"}, ("F606W", "F814W")),
        ({}, ("g", "i")),
    ],
)
def test_bands_in_one_file_of_which_only_some_have_a_card(tmp_path, sky, cards, bands, end):
    """FILTER1 was taken for the band of a cube's layer; of packed files only the first band was known."""
    planes = [
        fits.ImageHDU(sky.astype(np.float32), header(BUNIT="nJy", **own), name=f"SCI_{band}")
        for band, own in zip(bands, (cards, {}), strict=True)
    ]
    write(tmp_path / f"a.{end}", *planes)
    [field] = find_fields(tmp_path)
    assert [(band, source.hdu) for band, source in field.images.items()] == [(bands[0], 1), (bands[1], 2)]


def test_two_images_of_one_place_in_a_file_are_no_ccds(tmp_path, sky):
    head = header(FILTER="r", BUNIT="nJy")
    planes = [fits.ImageHDU(sky.astype(np.float32), head, name=name) for name in ("SCI", "SCATTER")]
    write(tmp_path / "a.fits", *planes)
    with pytest.raises(
        InputError, match=r"HDUs 1 \(SCI\) and 2 \(SCATTER\) show the same piece of sky.*r=.*\[1\]"
    ):
        find_exposures(tmp_path)
    assert len(find_exposures([f"r={tmp_path}/a.fits[1]"])["r"]) == 1


@pytest.mark.parametrize("value", [1e10, 1e-12, 1e30])
@pytest.mark.parametrize(("rows", "role"), [(20, "rms"), (120, "rms"), (120, "ivar"), (20, "weight")])
def test_values_for_no_data_beside_weights_that_are_the_same_everywhere(tmp_path, sky, value, rows, role):
    noise = full(SIGMA)
    noise[:rows] = value
    coadd(tmp_path, sky.astype(np.float32), role=role, values=noise if role == "rms" else noise**-2.0)
    weight = read(tmp_path)[1]
    assert (weight[:rows] == 0).all()
    np.testing.assert_allclose(weight[rows:], SIGMA**-2, rtol=0.1)


def test_empty_places_in_filter_wheels_are_no_band():
    assert band_of_header({"FILTER1": "free", "FILTER2": "R_BESS"}) == "R"


def test_weights_that_are_taken_for_fields_of_their_own_are_said(tmp_path, sky, caplog):
    for band in "gr":
        for kind in ("sci", "wht"):
            head = header(FILTER=band, BUNIT="nJy")
            fits.writeto(tmp_path / f"x_{band}{kind}.fits", sky.astype(np.float32), head)
    assert [field.bands for field in find_fields(tmp_path)] == [("g", "r"), ("g", "r")]
    said = f"x_rsci.fits and {tmp_path / 'x_rwht.fits'} show the same piece of sky in the same band"
    assert said in caplog.text


def test_weights_of_another_name_are_refused_with_how_to_call_them(tmp_path, sky):
    fits.writeto(tmp_path / "tile_g_coadd.fits", sky.astype(np.float32), header(BUNIT="nJy"))
    fits.writeto(tmp_path / "tile_g_weight.fits", full(SIGMA**-2), header())
    words = r"if it is tile_g_coadd\.fits, rename this file to (tile_g_coadd\.weight\.fits)"
    with pytest.raises(InputError, match=words):
        find_fields(tmp_path)
    (tmp_path / "tile_g_weight.fits").rename(tmp_path / "tile_g_coadd.weight.fits")
    np.testing.assert_allclose(np.median(read(tmp_path)[1]), SIGMA**-2)


@pytest.mark.parametrize("word", ["goodmask", "badmask"])
def test_pixels_of_a_mask_that_are_no_number_are_bad(tmp_path, sky, word):
    coadd(tmp_path, sky.astype(np.float32))
    values = full(float(word == "goodmask"))
    values[:20] = np.nan
    fits.writeto(tmp_path / f"coadd-r.{word}.fits", values, header())
    weight = read(tmp_path)[1]
    assert (weight[:20] == 0).all()
    assert (weight[20:] > 0).all()


def test_further_planes_of_one_kind_are_said(tmp_path, sky):
    image = fits.ImageHDU(sky.astype(np.float32), header(FILTER="r", BUNIT="nJy"), name="SCI")
    planes = [fits.ImageHDU(full(SIGMA * factor), name=name) for factor, name in ((1, "ERR"), (1.1, "NOISE"))]
    write(tmp_path / "a.fits", image, *planes)
    assert "WARNING: the rms plane is HDU 2 (ERR), not 3 (NOISE)" in read(tmp_path)[2]


def rewrite(path, **cards):
    """Write what follows the ``=`` of cards as it is given, by the standard or not."""
    content = path.read_bytes()
    for key, text in cards.items():
        start = content.index(f"{key:8s}=".encode())
        card = f"{key:8s}= {text}".ljust(80).encode("latin-1")
        assert len(card) == 80
        content = content[:start] + card + content[start + 80 :]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["plain", "packed"])
def test_cards_that_are_no_values_by_the_standard_cost_no_other_card(tmp_path, sky, how):
    values, _ = counts(sky, 27.0)
    head = header(FILTER="r", MAGZERO=27.0, SEEING=0.7, OBJECT="M 51", OBSERVER="who", SATURATE=1.0)
    path = tmp_path / "field-r.fits"

    def written(**cards):
        hdu = packed(values, head) if how == "packed" else fits.ImageHDU(values, head)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
        rewrite(path, **cards)
        return read(tmp_path)

    odd = {"SEEING": "nan / none", "SATURATE": "inf", "OBJECT": "'M 51", "OBSERVER": "'G\u00e9rard'"}
    image, _, _ = written(FILTER="r / no quotes", **odd)
    np.testing.assert_allclose(image[20:-20, 20:-20], sky[20:-20, 20:-20], atol=0.1)
    blank = {"OBSERVER": "'who\x00\x00'", "OBJECT": "'M\t51'", "SATURATE": "1.0 / tab\tand\nline"}
    image, _, remarks = written(FILTER="'r\t'", **blank)
    np.testing.assert_allclose(image[20:-20, 20:-20], sky[20:-20, 20:-20], atol=0.1)
    assert not [text for text in remarks if "WARNING" in text]
    with pytest.raises(InputError, match=r"field-r\.fits: MAGZERO = '27,0' is not a plausible"):
        written(MAGZERO="                27,0")
    with pytest.raises(InputError, match=r"field-r\.fits: the WCS .*CRVAL1 = .150,0., where a number"):
        written(CRVAL1="150,0")


def test_exponents_may_be_written_with_a_d(tmp_path, sky):
    """Of such a number wcslib reads what stands before the D: the image lay elsewhere on the sky."""
    path, cards = tmp_path / "a-r.fits", {"CRVAL1": 150.0, "CDELT1": -0.25 / 3600, "CDELT2": 0.25 / 3600}
    sip = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-5}
    head = header(FILTER="r", BUNIT="nJy", **sip, **cards)
    head["PC1_1"], head["PC2_2"] = 1.0, 1.0

    def places():
        images = image_set(tmp_path)
        with open_field(images.fields[0], images) as field:
            return np.array(field.sky(np.array([0.0, 100.0]), np.array([0.0, 50.0])))

    fits.writeto(path, sky.astype(np.float32), head)
    expected = places()
    rewrite(
        path,
        CRVAL1="1.5D+02 / of the middle",
        CDELT1=f"{-0.25 / 3600:.15e}".replace("e", "D"),
        A_2_0="3.0d-05",
    )
    np.testing.assert_allclose(places(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["none", "weight"])
def test_single_zeros_among_fine_values_have_no_data(tmp_path, sky, kind):
    """As in the cores of saturated stars; a zero does not arise by chance there."""
    image = sky.astype(np.float32)
    image[30, 40] = image[31, 40] = 0
    coadd(tmp_path, image, **({} if kind == "none" else {"role": kind, "values": full(SIGMA**-2)}))
    np.testing.assert_array_equal(read(tmp_path)[1] > 0, image != 0)


@pytest.mark.parametrize(("level", "is_used"), [(200.0, True), (60.0, False), (-1.0, False), ("1E5", False)])
def test_saturated_pixels_have_no_data(tmp_path, sky, level, is_used):
    """A level far below the brightest pixels is not that of this image."""
    image = sky.astype(np.float32).clip(max=200)
    assert 10 < (image == 200).sum() < 0.005 * image.size  # others are found without the card
    coadd(tmp_path, image, SATURATE=level)
    _, weight, remarks = read(tmp_path)
    np.testing.assert_array_equal(weight > 0, (image < 200) | (not is_used))
    assert any("are saturated (SATURATE = 200)" in text for text in remarks) == is_used


@pytest.mark.parametrize("kind", ["none", "rms"])
def test_what_lies_between_the_rows_that_are_looked_at_first_is_held_to_the_same(tmp_path, kind):
    """Of a high image some strips are measured; they may miss a hole of zeros, or of errors that are none."""
    shape = (3000, 60)
    values = np.random.default_rng(0).normal(0, SIGMA, shape).round(2).astype(np.float32)  # 0 by chance
    hole, other = np.s_[150:300, 20:40], np.s_[600:700, 20:40]
    values[hole] = 0
    head = make_wcs(shape).to_header()
    head["FILTER"], head["BUNIT"] = "r", "nJy"
    fits.writeto(tmp_path / "a-r.fits", values, head)
    if kind == "rms":
        errors = np.full(shape, SIGMA, np.float32)
        errors[other] = 1e-10
        fits.writeto(tmp_path / "a-r.rms.fits", errors, head)
    weight = read(tmp_path)[1]
    assert (weight[hole] == 0).all()
    assert (weight[other] == 0).all() == (kind == "rms")
    weight[hole] = weight[other] = SIGMA**-2
    np.testing.assert_allclose(weight, SIGMA**-2, rtol=0.02)


def test_pixels_are_as_large_as_they_are_on_the_sky(tmp_path, sky):
    """Far from where a plate carrée is true to scale, and where a unit makes pixels of nothing."""
    area = np.radians(0.25 / 3600) ** 2 * np.cos(np.radians(60))
    head = fits.Header(
        {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL1": 150.0, "CRVAL2": 0.0}
        | {"CRPIX1": 90.0, "CRPIX2": 80 - 60 * 3600 / 0.25, "CDELT1": -0.25 / 3600, "CDELT2": 0.25 / 3600}
        | {"BUNIT": "MJy/sr", "FILTER": "r"}
    )
    fits.writeto(tmp_path / "a.fits", (sky / (1e15 * area)).astype(np.float32), head)
    image, _, remarks = read(tmp_path)
    np.testing.assert_allclose(image, sky, rtol=1e-3, atol=1e-3)
    assert any("pixels are 0.125 by 0.25 arcsec" in text for text in remarks)
    fits.writeto(tmp_path / "a.fits", image, header(BUNIT="nJy", FILTER="r"), overwrite=True)
    for axis in (1, 2):
        fits.setval(tmp_path / "a.fits", f"CUNIT{axis}", value="arcsec")
    with pytest.raises(InputError, match=r"pixels of 6.94\de-05 arcsec"):
        read(tmp_path)


def test_areas_of_pixels_that_contradict_each_other_are_refused_with_both_zero_points(tmp_path, sky):
    point = 8.9 - 2.5 * np.log10(1e6 * np.radians(0.03 / 3600) ** 2)
    head = header(0.03, BUNIT="MJy/sr", PIXAR_SR=np.radians(0.06 / 3600) ** 2, FILTER="F444W")
    fits.writeto(tmp_path / "a.fits", counts(sky, point)[0], head)
    with pytest.raises(InputError, match=f"of {point - 1.505:.2f}; the WCS .* one of {point:.2f}"):
        read(tmp_path)
    image, _, _ = read(tmp_path, zero_point=round(point, 2))
    np.testing.assert_allclose(image, sky, rtol=0.01)


@pytest.mark.parametrize("kind", ["weight", "badmask"])
def test_weights_and_masks_in_another_order_than_their_images_are_those_of_one_name(tmp_path, sky, kind):
    cards = {"MAGZERO": 31.4, "FILTER": "r"}
    write(
        tmp_path / "c.fits",
        *(fits.ImageHDU(sky.astype("f4"), header(**cards), name=f"S{n}") for n in (1, 2, 3)),
    )
    planes = []
    for number in (3, 1, 2):
        values = full(SIGMA**-2 if kind == "weight" else 0)
        values[: 10 * number] = 0 if kind == "weight" else 1
        planes.append(fits.ImageHDU(values, name=f"S{number}"))
    write(tmp_path / f"c.{kind}.fits", *planes)
    for number in (1, 2, 3):
        weight = read(f"r={tmp_path}/c.fits[{number}]")[1]
        assert (weight > 0).all(1).argmax() == 10 * number
    write(tmp_path / "d.fits", *(fits.ImageHDU(sky.astype("f4"), header(**cards)) for _ in range(2)))
    write(tmp_path / f"d.{kind}.fits", *planes)
    with pytest.raises(
        InputError, match=r"3 planes for the 2 images of d.fits, .* give corresponding HDUs the same EXTNAME"
    ):
        read(f"r={tmp_path}/d.fits[1]")


@pytest.mark.parametrize(
    ("name", "cards", "is_used"),
    [("MASK", {"MP_BAD": 0, "MP_DETECTED": 1}, True), ("BPM", {}, True), ("DQ", {}, False)],
)
@pytest.mark.parametrize(
    ("end", "options"),
    [("mask", {"mask_polarity": "bad"}), ("mask", {"bad_planes": [0]}), ("starmask", {})],
)
def test_a_mask_in_the_file_of_an_image_is_used_with_one_beside_it(
    tmp_path, sky, name, cards, is_used, end, options
):
    """As for a coadd of Rubin or HSC and the user's own mask of bright stars; the file's was left out."""
    first, second = np.zeros((2, *SHAPE), np.int32)
    first[:16], second[-16:] = 1, 1
    own = fits.ImageHDU(first, name=name)
    for key, value in cards.items():
        own.header[f"HIERARCH {key}"] = value
    write(tmp_path / "tile_g.fits", fits.ImageHDU(sky, header(BUNIT="nJy"), name="IMAGE"), own)
    fits.writeto(tmp_path / f"tile_g.{end}.fits", second)
    images = image_set(tmp_path, **options)
    with open_field(images.fields[0], images) as field:
        _, weight = field.planes["g"].read()
        remarks = field.remarks()["g"]
    assert not weight[-16:].any()
    assert (weight[:16] > 0).all() != is_used
    assert any("a further mask, DQ, is not used" in text for text in remarks) != is_used
