"""One small sky, written in many ways, is one sky: fluxes to 0.5%, places to 0.05 pixel, weights to 1%.

Drawn by hypothesis: types of data, scaling, compression, order of HDUs, WCS, frames, units, weights, names of
files. The default run is the same each time; the slow one draws many more, at random.
"""

from __future__ import annotations

import gzip
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import fit_wcs_from_points
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfits.survey.cutting import cut
from deepfits.survey.fields import image_set, open_field
from tests.helpers.gaussian_sky import draw, make_wcs

SHAPE, SCALE, SIGMA = (96, 110), 0.2, 3.0
PLACES = np.array([[25.3, 30.6], [70.8, 28.1], [84.2, 71.4], [30.5, 66.9]])
FLUX = np.array([40_000.0, 25_000.0, 60_000.0, 15_000.0])
SIDE = 21
STERADIAN = np.radians(SCALE / 3600) ** 2
# Unit, nJy per count, cards.
UNITS = {
    "nJy": (1.0, {"BUNIT": "nJy"}),
    "uJy/pixel": (1e3, {"BUNIT": "uJy/pixel"}),
    "Jy": (1e9, {"BUNIT": "Jy"}),
    "MJy/sr": (1e15 * STERADIAN, {"BUNIT": "MJy/sr"}),
    "MJy/sr, area": (1e15 * STERADIAN, {"BUNIT": "MJy/sr", "PIXAR_SR": STERADIAN}),
    "nanomaggy": (10**3.56, {"BUNIT": "nanomaggy"}),
    "maggies": (10**12.56, {"BUNIT": "maggies"}),
    "cgs": (1e32, {"BUNIT": "erg/s/cm2/Hz"}),
    "MAGZERO": (10 ** ((31.4 - 27) / 2.5), {"MAGZERO": 27.0, "BUNIT": "adu"}),
    "text": (10 ** ((31.4 - 27) / 2.5), {"MAGZPT": "27.0", "MAGZERO": -99.0}),
    "FLUXMAG0": (10 ** ((31.4 - 27) / 2.5), {"FLUXMAG0": 10 ** (27 / 2.5)}),
    "rate": (10 ** ((31.4 - 25) / 2.5), {"BUNIT": "adu/s", "MAGZPT": 25.0, "EXPTIME": 100.0}),
}
WORDS = {"ivar": "ivar", "variance": "var", "rms": "rms", "weight": "weight"}


@cache
def sky() -> tuple[np.ndarray, np.ndarray]:
    """Return image and inverse variance: noisier to the right, a hole without data."""
    rng = np.random.default_rng(5)
    sigma = np.where(np.arange(SHAPE[1])[None, :] < 60, SIGMA, 1.5 * SIGMA) * np.ones(SHAPE)
    image = draw(SHAPE, PLACES[:, 0], PLACES[:, 1], FLUX, np.full(4, 4.0)) + rng.normal(0, sigma)
    weight = sigma**-2
    weight[:, :8] = 0
    return image, weight


def wcs_cards(kind: str) -> fits.Header:
    """Return one WCS, written in one of many ways."""
    wcs = make_wcs(SHAPE, scale=SCALE, rotation=20.0)
    header = wcs.to_header()
    if kind in ("cd", "swapped", "sip", "tpv", "left over", "crota"):
        for i in (1, 2):
            for j in (1, 2):
                header.remove(f"PC{i}_{j}", ignore_missing=True)
                header[f"CD{i}_{j}"] = wcs.wcs.cd[i - 1, j - 1]
            header.remove(f"CDELT{i}", ignore_missing=True)
    if kind == "swapped":
        for key in ("CTYPE", "CRVAL"):
            header[f"{key}1"], header[f"{key}2"] = header[f"{key}2"], header[f"{key}1"]
        for j in (1, 2):
            header[f"CD1_{j}"], header[f"CD2_{j}"] = header[f"CD2_{j}"], header[f"CD1_{j}"]
        header.remove("LONPOLE", ignore_missing=True)
        header.remove("LATPOLE", ignore_missing=True)
    if kind == "crota":
        for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            del header[key]
        header["CDELT1"], header["CDELT2"], header["CROTA2"] = -SCALE / 3600, SCALE / 3600, -20.0
    if kind == "sip":
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
        header["A_ORDER"], header["B_ORDER"], header["A_2_0"], header["B_0_2"] = 2, 2, 0.0, 0.0
    if kind == "left over":
        header["A_ORDER"], header["B_ORDER"], header["A_2_0"], header["B_0_2"] = 2, 2, 3e-4, 3e-4
    if kind == "tpv":
        for i in (1, 2):
            header[f"PV{i}_0"], header[f"PV{i}_1"], header[f"PV{i}_2"] = 0.0, 1.0, 0.0
    if kind == "fk5":  # tied to a catalogue in the ICRS, as all such images are
        header["RADESYS"], header["EQUINOX"] = "FK5", 2000.0
    if kind in ("galactic", "fk4"):
        x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, 109, 6), np.linspace(0, 95, 6)))
        places = wcs.pixel_to_world(x, y).transform_to(kind)
        middle = wcs.pixel_to_world(54.5, 47.5).transform_to(kind)
        header = fit_wcs_from_points((x, y), SkyCoord(places), proj_point=SkyCoord(middle)).to_header()
        if kind != "galactic":
            header["RADESYS"], header["EQUINOX"] = kind.upper(), 1950.0
        else:
            header.remove("RADESYS", ignore_missing=True)
    return header


def stored(values: np.ndarray, kind: str, header: fits.Header, is_good: np.ndarray, make) -> fits.ImageHDU:
    """Return an HDU, made by `make`, of one of the types, which say in their own way what has no data."""
    if kind in ("f4", "f8"):
        return make(np.where(is_good, values, np.nan).astype(kind), header)
    low, step = float(values.min()), float(values.max() - values.min()) / 60_000
    raw = (np.rint((values - low) / step) - 32_000).astype(np.int32)
    raw[~is_good] = -(2**31)
    hdu = make(raw, header)
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = step, low + 32_000 * step, -(2**31)
    return hdu


def write(directory: Path, band: str, way: dict) -> None:
    """Write one band of the sky."""
    image, weight = sky()
    per_count, cards = UNITS[way["unit"]]
    header = wcs_cards(way["wcs"])
    header.update(cards)
    if way["name"] != "by name":
        header["FILTER"] = {"g": "HSC-G", "r": "r.MP9602"}[band]
    is_good = weight > 0
    is_packed = way["pack"] in ("RICE_1", "GZIP_2")
    is_primary = way["order"] == "primary" and not is_packed
    kind = way["type"].replace("i4", "f4") if is_packed else way["type"]
    science = stored(
        image / per_count, kind, header, is_good, fits.PrimaryHDU if is_primary else fits.ImageHDU
    )
    if is_packed:
        level = {"RICE_1": 16.0, "GZIP_2": 0.0}[way["pack"]]
        data = science.data.astype("f4")
        science = fits.CompImageHDU(
            data, science.header, compression_type=way["pack"], quantize_level=level, quantize_method=1
        )
    if not is_primary:
        science.name = "SCI"
    role = way["weight"]
    with np.errstate(divide="ignore"):
        values = {"ivar": weight, "weight": weight, "variance": 1 / weight, "rms": weight**-0.5}[role]
    power = {"ivar": 2, "weight": 2, "variance": -2, "rms": -1}[role]
    values = values * per_count**power
    values[~is_good] = {
        "zero": 0.0,
        "nan": np.nan,
        "negative": -1.0,
        "huge": 0.0 if power > 0 else 1e30 * values[is_good].min(),
    }[way["no data"]]
    noise = fits.ImageHDU(values.astype("f8" if way["unit"] == "cgs" else "f4"), wcs_cards("cd"))
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.ones(3))], name="HDRTAB")
    stem = {"plain": f"coadd-{band}", "by name": f"tile_3-{band}", "by header": f"tile_{band}_3"}[way["name"]]
    ending = ".fits.gz" if way["pack"] == "gz" else ".fits"
    hdus = [table, science] if way["order"] == "table first" else [science]
    if way["order"] == "weight first":
        noise.name = WORDS[role].upper()
        hdus = [noise, science]
    elif way["order"] == "weight last":
        noise.name = WORDS[role].upper()
        hdus = [science, noise, table]
    else:
        fits.HDUList([fits.PrimaryHDU(noise.data, noise.header)]).writeto(
            directory / f"{stem}.{WORDS[role]}.fits"
        )
    path = directory / f"{stem}.fits"
    first = [] if is_primary else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path)
    if ending == ".fits.gz":
        (directory / f"{stem}.fits.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()


ways = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["f4", "f8", "i4"]),
        "pack": st.sampled_from(["none", "none", "gz", "RICE_1", "GZIP_2"]),
        "order": st.sampled_from(["primary", "extension", "table first", "weight first", "weight last"]),
        "wcs": st.sampled_from(
            ["pc", "cd", "crota", "swapped", "sip", "left over", "tpv", "galactic", "fk5", "fk4"]
        ),
        "unit": st.sampled_from(sorted(UNITS)),
        "weight": st.sampled_from(sorted(WORDS)),
        "no data": st.sampled_from(["zero", "nan", "negative", "huge"]),
    }
)


def look(directory: Path) -> None:
    """Hold what is read of a directory to the truth."""
    images = image_set(directory)
    assert images.bands == ("g", "r")
    assert len(images.fields) == 1
    ra, dec = make_wcs(SHAPE, scale=SCALE, rotation=20.0).pixel_to_world_values(*PLACES.T)
    with open_field(images.fields[0], images) as field:
        x, y = field.pixels(ra, dec)
        assert np.hypot(x - PLACES[:, 0], y - PLACES[:, 1]).max() < 0.05
        for band in "gr":
            plane = field.aligned[band]
            flux, its = cut(plane, x, y, SIDE)
            assert (its[:, 5:-5, 5:-5] > 0).all()
            np.testing.assert_allclose(flux.sum((1, 2)), _sums(x, y), rtol=0.005)
            yy, xx = np.mgrid[:SIDE, :SIDE] - SIDE // 2
            light = np.clip(flux, 0, None) * (np.hypot(xx, yy) < 7)
            dx = (light * xx).sum((1, 2)) / light.sum((1, 2)) - (x - np.ceil(x - SIDE / 2) - SIDE // 2)
            dy = (light * yy).sum((1, 2)) / light.sum((1, 2)) - (y - np.ceil(y - SIDE / 2) - SIDE // 2)
            assert np.hypot(dx, dy).max() < 0.05
            image, weight = plane.read()
            np.testing.assert_array_equal(weight > 0, sky()[1] > 0)
            good = weight > 0
            assert abs(np.median(weight[good] / sky()[1][good]) - 1) < 0.01
            assert np.isfinite(image).all()


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    image = np.where(sky()[1] > 0, sky()[0], 0).astype(np.float32)
    corners = zip(*(np.ceil(v - SIDE / 2).astype(int) for v in (x, y)), strict=True)
    return np.array([image[low : low + SIDE, left : left + SIDE].sum() for left, low in corners])


names = st.sampled_from(["plain", "by name", "by header"])
anyhow = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=40, derandomize=True, **anyhow)
@given(first=ways, second=ways, name=names)
def test_one_sky_written_in_many_ways(first, second, name):
    holds(first, second, name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=1000, **anyhow)
@given(first=ways, second=ways, name=names)
def test_one_sky_written_in_very_many_ways(first, second, name):
    holds(first, second, name)


def holds(first, second, name):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for band, way in (("g", first), ("r", second)):
            write(Path(folder), band, way | {"name": name})
        look(Path(folder))


@pytest.mark.parametrize("wcs", ["pc", "cd", "crota", "swapped", "sip", "tpv", "galactic", "fk4"])
def test_the_ways_of_writing_a_wcs_are_right_themselves(wcs):
    """The test's own premise, by astropy alone."""
    sky_places = make_wcs(SHAPE, scale=SCALE, rotation=20.0).pixel_to_world(*PLACES.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = WCS(wcs_cards(wcs if wcs != "tpv" else "cd")).world_to_pixel(sky_places)
    assert np.hypot(x - PLACES[:, 0], y - PLACES[:, 1]).max() < 0.01
