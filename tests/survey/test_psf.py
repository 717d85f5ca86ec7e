"""The PSF of an image, and of every object in a store."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import deepfits
from deepfits.errors import InputError
from deepfits.gaussian_psf import (
    NUM_GAUSSIANS,
    enclosed,
    expand_image,
    fwhm_of,
    moffat_psf,
    moffat_radius,
    psf_or_moffat,
)
from deepfits.photometry import apertures
from deepfits.survey.describing import settled_psf, warn_of_doubtful_psfs
from deepfits.survey.psf import find_psf, gaussians_of, parse_psf_option, psf_of_objects, read_psf_option
from deepfits.survey.seeing import star_image
from deepfits.survey.stars import stellar_peak, stellar_radius
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, write_shard
from tests.helpers.gaussian_sky import draw, make_wcs
from tests.helpers.psfex import write_psfex


def star(fwhm: float, pixel: float, side: int = 25) -> np.ndarray:
    galsim = pytest.importorskip("galsim")
    moffat = galsim.Moffat(beta=3, fwhm=fwhm)
    return moffat.drawImage(nx=side, ny=side, scale=pixel).array.astype(float)


def test_stars_are_believed_before_the_header() -> None:
    found = find_psf(star(0.8, 0.168), {"FWHM": 1.5}, 0.168)
    assert abs(found["fwhm_arcsec"] / 0.8 - 1) < 0.03  # the pixel is taken out
    assert "stars" in found["source"]


@pytest.mark.parametrize(("beta", "fwhm"), [(2.5, 0.8), (2.8, 1.35), (3.5, 1.35)])
def test_the_psf_of_stars_has_the_wings_beyond_their_stamps(beta: float, fwhm: float) -> None:
    """So that matched weights return the total flux of a star; 2 to 5% of it was lost, by band."""
    galsim = pytest.importorskip("galsim")
    image, scale = galsim.ImageD(400, 400, scale=0.26), 0.26
    x, y = (place.ravel() for place in np.meshgrid(*2 * [np.arange(80, 321, 80)]))
    psf = galsim.Moffat(beta=beta, fwhm=fwhm)
    for cx, cy in zip(x, y, strict=True):
        stamp = psf.drawImage(nx=61, ny=61, scale=scale)
        stamp.setCenter(int(cx) + 1, int(cy) + 1)
        image[stamp.bounds] += stamp
    level = 0.003  # of a background that remains in the image
    stars = star_image(image.array + level, np.ones((400, 400)), x, y)
    found = gaussians_of(find_psf(stars, {}, scale), NUM_GAUSSIANS)
    alone = psf.drawImage(nx=61, ny=61, scale=scale).array
    assert (alone * apertures(61, scale, found[None])[-1][0]).sum() == pytest.approx(1, abs=0.007)


@pytest.mark.parametrize("noise", [1e-5, 5e-5])
def test_the_psf_of_stars_has_the_wings_of_a_turbulent_atmosphere(noise: float) -> None:
    """Kolmogorov's, of which 5% lie beyond 1.8 FWHM; Moffat's profile lacks 2% of the flux there."""
    galsim = pytest.importorskip("galsim")
    psf = galsim.Kolmogorov(fwhm=0.9)
    stamp = psf.drawImage(nx=25, ny=25, scale=0.26).array + np.random.default_rng(0).normal(
        0, noise, (25, 25)
    )
    edge = np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]])
    found = gaussians_of(find_psf(stamp - np.median(edge), {}, 0.26), NUM_GAUSSIANS)
    radii = np.array([1.35, 1.8, 2.7])
    fine = psf.drawImage(nx=1201, ny=1201, scale=0.05, method="no_pixel").array
    away = 0.05 * np.hypot(*(np.mgrid[:1201, :1201] - 600))
    true = [fine[away < radius].sum() for radius in radii]
    np.testing.assert_allclose(enclosed(found, radii), true, atol=0.009)


def test_faint_stars_add_no_noise_to_the_psf_of_bright_ones() -> None:
    """The plain median of these has 1.8 times the noise."""
    rng = np.random.default_rng(0)
    image, places = np.zeros((400, 400)), np.arange(30, 371, 68)
    x, y = (place.ravel() for place in np.meshgrid(places, places))
    flux = np.geomspace(5e4, 5e2, len(x))
    for cx, cy, light in zip(x, y, flux, strict=True):
        image[cy - 12 : cy + 13, cx - 12 : cx + 13] += light * star(0.8, 0.2)
    noise, weight = rng.normal(0, 1, image.shape), np.ones_like(image)
    exact, noisy = (star_image(pixels, weight, x, y) for pixels in (image, image + noise))
    assert exact is not None
    assert noisy is not None
    assert np.std(noisy - exact) < 1.8e-5


def test_stars_beside_bad_pixels_count_for_the_psf() -> None:
    """Where 1% of the pixels are bad hardly a stamp is complete: the PSF was unknown."""
    rng, y, x = np.random.default_rng(5), *np.mgrid[:400, :400]
    places = np.stack(np.meshgrid(np.arange(30, 380, 50), np.arange(30, 380, 50)), -1).reshape(-1, 2)
    places = places + rng.uniform(-0.5, 0.5, places.shape)
    sky = sum(1000 * (1 + ((x - cx) ** 2 + (y - cy) ** 2) / 16) ** -2.5 for cx, cy in places)
    sky += rng.normal(0, 1, sky.shape)
    expected = star_image(sky, np.ones_like(sky), *places.T)
    weight = (rng.random(sky.shape) > 0.01).astype(float)
    found = star_image(np.where(weight > 0, sky, 0), weight, *places.T)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # of 0.09 at the peak, noise of 3e-5
    assert star_image(sky, (rng.random(sky.shape) > 0.2).astype(float), *places.T) is None


@pytest.mark.parametrize("beta", [3.2, 4.7])
def test_noise_adds_no_wings_to_the_psf(beta: float) -> None:
    """Positive Gaussians fitted to the noise of faint stars gave errors of 12 and 11%."""
    rng, inside = np.random.default_rng(0), []
    y, x = np.mgrid[-12:13, -12:13]
    alone = (1 + (x**2 + y**2) / moffat_radius(4.0, beta) ** 2) ** -beta
    for _ in range(16):
        stars = alone / alone.sum() + rng.normal(0, 0.002, alone.shape)
        found = find_psf(stars - np.median(stars[[0, -1]]), {}, 0.25)["gaussians"]
        inside.append(enclosed(np.array(found), np.array([1.5]))[0])
    true = 1 - (1 + (1.5 / moffat_radius(1.0, beta)) ** 2) ** (1 - beta)
    assert np.sqrt(np.mean((np.array(inside) / true - 1) ** 2)) < 0.1


def test_the_header_is_read_where_there_are_no_stars() -> None:
    in_pixels = fits.Header([("FWHM", 5.5, "Median FWHM in pixels")])
    assert find_psf(None, in_pixels, 0.2)["fwhm_arcsec"] == pytest.approx(1.1, rel=0.01)
    of_eso = fits.Header([("PSF_FWHM", 1.1, "Spatial resolution (arcsec)")])
    of_casu = fits.Header([("SEEING", 5.5, "[pixels] Average FWHM")])
    for header in (of_eso, of_casu, {"PSF_FWHM": 1.1}):
        assert find_psf(None, header, 0.2)["fwhm_arcsec"] == pytest.approx(1.1, rel=0.01)
    for header in ({"SEEING": 1.1}, fits.Header([("SEEING", 1.1, "DIMM seeing")]), {"PSF_FWHM": "unknown"}):
        assert find_psf(None, header, 0.2)["fwhm_arcsec"] is None
    found = find_psf(None, {"FWHM": 1.1, "PSFBETA": 2.5}, 0.2)
    assert np.allclose(gaussians_of(found, NUM_GAUSSIANS), moffat_psf(1.1, 2.5))


def radii(num_stars: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Half-light radii and signal-to-noise of stars of radius 2 and of 600 galaxies behind the same PSF."""
    rng = np.random.default_rng(seed)
    snr = 30 * (1 - rng.random(num_stars + 600)) ** -1.2
    size = np.exp(rng.normal(np.log(2.2), 0.4, num_stars + 600))
    size[:num_stars] = 0
    noise = np.hypot(0.01, 1 / snr) * rng.normal(size=len(snr))
    return np.hypot(2, size) * np.exp(noise), snr


@pytest.mark.parametrize("seed", range(5))
def test_stars_stand_out_and_compact_galaxies_do_not(seed: int) -> None:
    for num_stars, wanted in ((60, True), (0, False)):
        radius, snr = radii(num_stars, seed)
        found = stellar_peak(radius, snr, stellar_radius(radius, snr))
        assert (found is not None) == wanted
        if found is not None:
            assert abs(found.radius / 2 - 1) < 0.03
    assert stellar_peak(radius, snr, np.nan) is None


def test_compact_galaxies_are_not_believed_before_a_narrower_header() -> None:
    image = star(0.9, 0.168)
    found = find_psf(image, {"FWHM": 0.7}, 0.168, stars_stand_out=False)
    assert found == find_psf(None, {"FWHM": 0.7}, 0.168)
    for header in ({"FWHM": 1.1}, {}):  # nothing is narrower than the PSF
        assert abs(find_psf(image, header, 0.168, stars_stand_out=False)["fwhm_arcsec"] / 0.9 - 1) < 0.03
    assert abs(find_psf(image, {"FWHM": 0.7}, 0.168)["fwhm_arcsec"] / 0.9 - 1) < 0.03


def test_that_the_psf_may_be_that_of_galaxies_is_said_unless_somebody_gives_it(caplog) -> None:
    doubtful = find_psf(star(0.9, 0.2), {}, 0.2, stars_stand_out=False)
    known = {"psf": dict.fromkeys("gr", doubtful), "pixel_scale_arcsec": 0.2}
    plan = SimpleNamespace(images=SimpleNamespace(bands=("g", "r")), psf={})
    columns = {"psfsize_r": np.array([0.7, 0.8, 0.9])}
    psf = settled_psf(known, plan, columns)  # type: ignore[arg-type]
    assert psf["g"] == doubtful
    assert psf["r"]["fwhm_arcsec"] == pytest.approx(0.8, rel=0.01)
    info = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.2, extra={"psf": {"x": psf}})
    warn_of_doubtful_psfs(replace(info, fwhm_arcsec=(0.9, 0.8)), {"x": known})
    assert "field x, band g: the PSF is that of the most compact objects" in caplog.text
    assert "band r" not in caplog.text


@pytest.mark.slow
def test_a_sky_without_stars_has_the_psf_of_its_header(tmp_path) -> None:
    rng = np.random.default_rng(3)
    number = 400
    catalogue = {"mag_g": rng.uniform(20, 22.5, number), "z_spec": rng.uniform(0.1, 1, number)}
    colours = {"u": 1.0, "r": -0.5, "i": -0.8, "z": -1.0}
    catalogue |= {f"mag_{band}": catalogue["mag_g"] + colour for band, colour in colours.items()}
    Table(catalogue).write(tmp_path / "galaxies.fits")
    sky = deepfits.simulate(tmp_path / "sky", catalogue=tmp_path / "galaxies.fits", size=1026, seed=5)
    store = CutoutStore(deepfits.cutouts(sky, tmp_path / "store", size=24))
    psf = next(iter(store.info.extra["psf"].values()))
    header = fits.getheader(next(sky.rglob("coadd-i.fits")))
    assert psf["i"]["source"] == "FWHM, header"
    assert psf["i"]["fwhm_arcsec"] == pytest.approx(header["FWHM"], rel=0.01)


def test_what_is_unknown_is_said_where_nobody_gives_it(caplog) -> None:
    unknown = find_psf(None, {}, 0.2)
    assert np.isnan(gaussians_of(unknown, NUM_GAUSSIANS)).all()
    known = {"psf": {"g": unknown, "r": unknown}, "pixel_scale_arcsec": 0.2}
    plan = SimpleNamespace(images=SimpleNamespace(bands=("g", "r")), psf={"r": "0.8"})
    psf = settled_psf(known, plan, {})  # type: ignore[arg-type]
    assert psf["r"]["fwhm_arcsec"] == pytest.approx(0.8, rel=0.01)
    info = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.2, extra={"psf": {"x": psf}})
    warn_of_doubtful_psfs(replace(info, fwhm_arcsec=(np.nan, 0.8)), {"x": known})
    assert "field x, band g: the PSF is unknown" in caplog.text
    assert "cannot use this band until it is given, in arcsec, as psf=g=0.8" in caplog.text
    assert "band r" not in caplog.text
    warn_of_doubtful_psfs(replace(info, fwhm_arcsec=(0.9, 0.8)), {"x": known})
    assert "that of the other fields, 0.90 arcsec, is used" in caplog.text
    caplog.clear()
    many = replace(info, fwhm_arcsec=(np.nan, 0.8), extra={"psf": dict.fromkeys("xyz", psf)})
    warn_of_doubtful_psfs(many, dict.fromkeys("xyz", known))
    (said,) = caplog.messages
    assert "field x (and 2 more), band g: the PSF is unknown" in said


@pytest.mark.parametrize(
    ("given", "stars_stand_out", "is_said"),
    [
        ("3.2", True, True),
        ("0.85", True, False),
        ("0.4", True, True),
        ("1.6", False, True),
        ("0.5", False, False),
    ],
)
def test_a_given_psf_that_the_stars_contradict_is_said(given, stars_stand_out, is_said, caplog) -> None:
    """As of an oversampled image of a PSF without its scale, which was used without a word."""
    measured = find_psf(star(0.8, 0.2), {}, 0.2, stars_stand_out=stars_stand_out)
    known = {"psf": {"g": measured}, "pixel_scale_arcsec": 0.2}
    plan = SimpleNamespace(images=SimpleNamespace(bands=("g",)), psf={"g": given})
    psf = settled_psf(known, plan, {})  # type: ignore[arg-type]
    info = StoreInfo(bands=("g",), size=8, pixel_scale_arcsec=0.2, extra={"psf": {"x": psf, "y": psf}})
    warn_of_doubtful_psfs(replace(info, fwhm_arcsec=(float(given),)), {"x": known, "y": known})
    assert caplog.text.count("field x (and 1 more), band g") == is_said
    assert "field y" not in caplog.text
    said = f"has a FWHM of {float(given):.2f} arcsec, but the field's "
    assert (said in caplog.text and "one of 0.8" in caplog.text) == is_said


def test_given_psfs(tmp_path) -> None:
    assert abs(read_psf_option("0.8:2.5", 0.2)["fwhm_arcsec"] - 0.8) < 0.01
    fits.PrimaryHDU(star(0.9, 0.2, 41)).writeto(tmp_path / "psf-r.fits")
    assert abs(read_psf_option(str(tmp_path / "psf-r.fits"), 0.2)["fwhm_arcsec"] / 0.9 - 1) < 0.03
    for wrong in ("0.8x", "90", str(tmp_path)):
        with pytest.raises(InputError, match="psf"):
            read_psf_option(wrong, 0.2)
    assert parse_psf_option(["g=0.8", "r=psf.fits"]) == {"g": "0.8", "r": "psf.fits"}
    assert parse_psf_option(0.7) == {"": "0.7"}


def test_psfex_models(tmp_path) -> None:
    galsim = pytest.importorskip("galsim")
    # As PSFEx does it: the PSF with the detector's pixel, sampled at steps of half a pixel.
    seen = galsim.Convolve(galsim.Moffat(beta=3, fwhm=0.9), galsim.Pixel(0.2))
    plane = seen.drawImage(nx=45, ny=45, scale=0.1, method="no_pixel").array.astype("f4")
    planes = np.stack([plane, 0.01 * plane])[None]
    column = fits.Column("PSF_MASK", format="4050E", dim="(45,45,2)", array=planes)
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header["PSF_SAMP"] = 0.5
    table.writeto(tmp_path / "g.psf")
    assert abs(read_psf_option(str(tmp_path / "g.psf"), 0.2)["fwhm_arcsec"] / 0.9 - 1) < 0.03


@pytest.mark.parametrize("side", [31, 42])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.5), (3.3, 2.2)])
def test_psf_images_of_any_side_place_and_norm(side, shift) -> None:
    galsim = pytest.importorskip("galsim")
    moffat = galsim.Moffat(beta=3, fwhm=0.8, flux=37).shift(0.2 * shift[1], 0.2 * shift[0])
    image = moffat.drawImage(nx=side, ny=side, scale=0.2).array.astype(float)
    image[3, :4] = np.nan
    found = fwhm_of(expand_image(image, 0.2))
    assert abs(found / 0.8 - 1) < 0.01  # 2% where the peak's pixel is taken for the centre
    with pytest.raises(InputError, match="mostly finite and have a positive flux"):
        expand_image(np.where(np.indices(image.shape)[0] > 3, np.nan, image), 0.2)


@pytest.mark.parametrize("fwhm", [2.7, 3.7, 4.2, 5.6])
def test_a_gaussian_psf_keeps_its_width(fwhm) -> None:
    """As of coadds whose PSF was made Gaussian; with one set of widths it became up to 6% narrower."""
    y, x = np.mgrid[-20:21, -20:21]
    image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
    assert fwhm_of(expand_image(image, 1.0, pixel_side=0)) == pytest.approx(fwhm, rel=0.02)


@pytest.mark.parametrize("beta", [1.8, 3.0, 20.0])
@pytest.mark.parametrize("pedestal", [0.0, 0.003, 0.03])
def test_a_psf_image_may_lie_on_a_pedestal(tmp_path, beta, pedestal) -> None:
    """Of 3% of the peak, it held half of the light, which widened nothing but the wings."""
    y, x = np.mgrid[-20:21, -20:21]
    image = (1 + (x**2 + y**2) / moffat_radius(4.0, beta) ** 2) ** -beta
    fits.writeto(tmp_path / "psf.fits", image + pedestal)
    found = np.array(read_psf_option(str(tmp_path / "psf.fits"), 0.2)["gaussians"])
    radius = np.array([1.0, 2.0, 3.0])
    light = [image[np.hypot(x, y) < 5 * r].sum() / image.sum() for r in radius]
    # Wings beyond the image, and the pixels at the circle's edge, add a few per cent.
    np.testing.assert_allclose(enclosed(found, radius), light, atol=0.05)
    image[np.hypot(x, y) > 18] = np.nan  # a round PSF: no pedestal is known
    fits.writeto(tmp_path / "round.fits", image)
    assert read_psf_option(str(tmp_path / "round.fits"), 0.2)["fwhm_arcsec"] == pytest.approx(0.8, rel=0.06)


def test_a_psf_image_may_have_pixels_of_its_own(tmp_path) -> None:
    fine = fits.PrimaryHDU(star(0.9, 0.05, 121))
    fine.header["PIXELSCL"] = 0.05
    fine.writeto(tmp_path / "a.fits")
    header = fine.header
    del header["PIXELSCL"]
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"})
    header.update({"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600})
    fine.writeto(tmp_path / "b.fits")
    for name, key, value in (("c.fits", "OVERSAMP", 4), ("d.fits", "PSF_SAMP", 0.25)):
        relative = fits.PrimaryHDU(star(0.9, 0.05, 121))
        relative.header[key] = value
        relative.writeto(tmp_path / name)
    cards = {
        "e.fits": ("GS_SCALE", 0.05),
        "f.fits": ("PIXSCALE", 0.05 / 3600),
        "g.fits": ("CDELT1", -0.05 / 3600),
        "i.fits": ("PIXSCALE", "0.05"),
        "k.fits": ("PIXSCALE", "0.05 arcsec / pixel"),
        "l.fits": ("PIXELSCL", "50 mas"),
        "j.fits": ("HIERARCH OVERSAMPLING", 4),
        "n.fits": ("HIERARCH OVERSAMPLE", 4),
        "o.fits": ("PIXELSCA", 0.05),
        "p.fits": ("CD1_1", -0.05 / 3600),
    }
    for name, (key, value) in cards.items():
        fits.writeto(tmp_path / name, star(0.9, 0.05, 121), fits.Header({key: value}))
    axis = fits.Header({"CDELT1": -0.05, "CUNIT1": "arcsec"})
    fits.writeto(tmp_path / "h.fits", star(0.9, 0.05, 121), axis)
    for name in ("a.fits", "b.fits", "c.fits", "d.fits", "h.fits", *cards):
        found = read_psf_option(str(tmp_path / name), 0.2)
        assert abs(found["fwhm_arcsec"] / 0.9 - 1) < 0.01
        assert "0.05 arcsec" in found["source"]
    fits.writeto(tmp_path / "m.fits", star(0.9, 0.05, 121), fits.Header({"PIXSCALE": "0.05 px"}))
    with pytest.raises(InputError, match=r"m.fits: PIXSCALE = '0.05 px' is no pixel scale; write a number"):
        read_psf_option(str(tmp_path / "m.fits"), 0.2)
    fits.writeto(tmp_path / "pixels.fits", star(0.9, 0.2, 41), fits.Header({"CDELT1": 1.0}))
    assert read_psf_option(str(tmp_path / "pixels.fits"), 0.2)["fwhm_arcsec"] == pytest.approx(0.9, rel=0.01)


def test_a_grid_of_psfs_is_no_psf_and_further_axes_of_one_plane_are_none(tmp_path) -> None:
    y, x = np.mgrid[-12:13, -12:13]
    one = np.exp(-(x**2 + y**2) / 8)
    fits.writeto(tmp_path / "one.fits", one[None])
    fits.writeto(tmp_path / "grid.fits", np.tile(one, (3, 3)))
    fwhm = read_psf_option(str(tmp_path / "one.fits"), 0.2)["fwhm_arcsec"]
    assert fwhm == pytest.approx(2 * 2.355 * 0.2, rel=0.05)  # 4% less: the pixel is taken out
    with pytest.raises(InputError, match="shows 9 peaks, a grid of PSFs"):
        read_psf_option(str(tmp_path / "grid.fits"), 0.2)


def test_the_psf_of_a_file_is_in_the_hdu_of_that_name(tmp_path) -> None:
    """Beside it are often its weights, or the image itself; the first image of the file was taken."""
    for number, other in enumerate((np.ones((41, 41)), star(2.5, 0.2))):
        path = tmp_path / f"{number}.fits"
        fits.HDUList(
            [fits.PrimaryHDU(), fits.ImageHDU(other, name="IMAGE"), fits.ImageHDU(star(0.9, 0.2), name="PSF")]
        ).writeto(path)
        assert read_psf_option(str(path), 0.2)["fwhm_arcsec"] == pytest.approx(0.9, rel=0.03)
    stpsf = {"OVERSAMP": 0.8, "DET_SAMP": 0.8, "OVERDIST": 0.9, "DET_DIST": 0.9}
    scales = {name: 0.05 if name.startswith("OVER") else 0.2 for name in stpsf}
    images = [star(fwhm, scales[name], 61) for name, fwhm in stpsf.items()]
    hdus = [fits.ImageHDU(image, name=name) for image, name in zip(images, stpsf, strict=True)]
    for hdu in hdus:
        hdu.header["PIXELSCL"] = scales[hdu.name]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "stpsf.fits")  # with the detector's effects
    found = read_psf_option(str(tmp_path / "stpsf.fits"), 0.2)
    assert found["fwhm_arcsec"] == pytest.approx(0.9, rel=0.03)
    assert "0.05 arcsec" in found["source"]


def test_psfs_of_several_bands_or_images_in_a_file(tmp_path) -> None:
    """As the viewer of the Legacy Surveys sends them; the first one stood for all."""
    hdus = [fits.PrimaryHDU(star(1.6, 0.2)), fits.ImageHDU(star(1.2, 0.2)), fits.ImageHDU(star(0.9, 0.2))]
    for hdu, band in zip(hdus, "grz", strict=True):
        hdu.header["BAND"] = band
    fits.HDUList(hdus).writeto(tmp_path / "psf.fits")
    for band, fwhm in (("g", 1.6), ("r", 1.2), ("z", 0.9)):
        found = read_psf_option(str(tmp_path / "psf.fits"), 0.2, band)
        assert found["fwhm_arcsec"] == pytest.approx(fwhm, rel=0.03)
    with pytest.raises(InputError, match="PSFs of g, r, z, none of i"):
        read_psf_option(str(tmp_path / "psf.fits"), 0.2, "i")
    for hdu, band in zip(hdus, "GRZ", strict=True):  # named, with one band's card, or without any
        hdu.name, hdu.header["BAND"] = f"PSF_{band}", "r"
    for end in ("copied", "named"):
        fits.HDUList(hdus).writeto(tmp_path / f"{end}.fits")
        found = read_psf_option(str(tmp_path / f"{end}.fits"), 0.2, "z")
        assert found["fwhm_arcsec"] == pytest.approx(0.9, rel=0.03)
        for hdu in hdus:
            hdu.header.remove("BAND", ignore_missing=True)
    write_psfex(tmp_path / "g.psf", star(0.9, 0.2)[None].astype("f4"), 0)
    with fits.open(tmp_path / "g.psf", mode="append") as models:
        models.append(models[1].copy())
    with pytest.raises(InputError, match="models of 2 images, of CCDs"):
        read_psf_option(str(tmp_path / "g.psf"), 0.2, "g")


def test_psfex_models_vary_over_the_field(tmp_path) -> None:
    galsim = pytest.importorskip("galsim")
    des = pytest.importorskip("galsim.des")

    def plane(fwhm):
        seen = galsim.Convolve(galsim.Moffat(beta=3, fwhm=fwhm), galsim.Pixel(0.2))
        return seen.drawImage(nx=45, ny=45, scale=0.1, method="no_pixel").array

    middle, wider = plane(0.9), plane(1.0)
    slope = wider - middle
    zero = np.zeros_like(middle)
    planes = np.stack([middle, slope, zero, -0.5 * slope, 0.2 * slope, zero])  # 1, x, x², y, xy, y²
    write_psfex(tmp_path / "g.psf", planes.astype("f4"), 2)
    x, y = np.array([999.0, 1899.0, 99.0, 999.0, 1899.0]), np.array([999.0, 999.0, 999.0, 2799.0, 2799.0])
    found = fwhm_of(psf_of_objects(str(tmp_path / "g.psf"), "g", {"x": x, "y": y}, 0.2))
    peer = des.DES_PSFEx(str(tmp_path / "g.psf"))
    for width, at in zip(found, np.stack([x, y], 1) + 1, strict=True):
        theirs = peer.getPSFArray(galsim.PositionD(*at)).astype(float)
        assert width == pytest.approx(float(fwhm_of(expand_image(theirs, 0.1, pixel_side=2))), rel=2e-3)
    assert found[1] > found[0] + 0.05 > found[2] + 0.1
    write_psfex(tmp_path / "odd.psf", planes.astype("f4"), 2, names=("X_IMAGE", "MAG_AUTO"))
    with pytest.raises(InputError, match="MAG_AUTO"):
        read_psf_option(str(tmp_path / "odd.psf"), 0.2)


def test_given_psfs_refer_to_the_pixels_of_their_own_band(tmp_path) -> None:
    """As of near-infrared images beside optical ones; the pixels of the common grid were taken."""
    pixel, place = {"g": 0.3, "i": 0.2}, np.array([[70.0, 60.0], [230.0, 190.0]])
    (tmp_path / "sky").mkdir()
    for band, side in (("g", 200), ("i", 300)):
        header = make_wcs((side, side), scale=pixel[band]).to_header()
        header["FILTER"], header["MAGZERO"] = band, 31.4
        values = np.random.default_rng(side).normal(0, 1, (side, side)).astype("f4")
        fits.writeto(tmp_path / f"sky/{band}.fits", values, header)
    Table({"x": place[:, 0], "y": place[:, 1]}).write(tmp_path / "c.csv")
    narrow, wide = star(0.9, 0.15, 41), star(1.3, 0.15, 41)
    zero, slope = np.zeros_like(narrow), 0.5 * (wide - narrow)
    write_psfex(
        tmp_path / "g.psf", np.stack([narrow + slope, slope, zero]).astype("f4"), 1, zero=100, scale=100
    )
    fits.writeto(tmp_path / "one.fits", star(0.9, 0.3))

    def widths(psf):
        given = {"g": str(tmp_path / psf)}
        out = deepfits.cutouts(
            tmp_path / "sky", tmp_path / f"{psf}-store", catalogue=tmp_path / "c.csv", size=16, psf=given
        )
        store = CutoutStore(out)
        return fwhm_of(store.take(np.arange(2)).psf[:, 0])

    assert widths("one.fits") == pytest.approx([0.9, 0.9], rel=0.03)
    own = {"x": (place[:, 0] + 0.5) / 1.5 - 0.5, "y": (place[:, 1] + 0.5) / 1.5 - 0.5}
    expected = fwhm_of(psf_of_objects(str(tmp_path / "g.psf"), "g", own, 0.3))
    assert expected[1] > expected[0] + 0.1
    assert widths("g.psf") == pytest.approx(expected, rel=1e-3)


def test_a_column_says_the_width_at_each_object() -> None:
    columns = {"psfsize_g": np.array([0.9, 0.0, 1.2, np.nan]), "mine": np.full(4, 0.7)}
    found = psf_of_objects(None, "g", columns, 0.2)
    assert np.allclose(fwhm_of(found)[[0, 2]], [0.9, 1.2], rtol=2e-3)
    assert np.isnan(found[[1, 3]]).all()
    assert np.allclose(found[0], moffat_psf(0.9), rtol=1e-4)
    assert np.allclose(fwhm_of(psf_of_objects("mine", "g", columns, 0.2)), 0.7, rtol=2e-3)
    assert psf_of_objects(None, "r", columns, 0.2) is None


def make_store(directory, psf):
    info = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.9, float("nan")))
    image = np.random.default_rng(1).normal(size=(3, 2, 8, 8)).astype("f4")
    ids = np.arange(3)
    create_store(directory, info)
    cutouts = Cutouts(object_id=ids, image=image, weight=np.ones_like(image), psf=psf)
    write_shard(directory / "shard-00000.h5", cutouts, info)
    return CutoutStore(directory)


def test_the_store_keeps_every_objects_psf(tmp_path) -> None:
    psf = np.array([[moffat_psf(w), moffat_psf(np.nan)] for w in (0.7, 0.8, 0.9)])
    store = make_store(tmp_path, psf)
    assert np.array_equal(store.read_shard(0).psf, psf, equal_nan=True)
    assert np.allclose(fwhm_of(store.take(np.array([2, 0])).psf[:, 0]), [0.9, 0.7], atol=0.01)
    with pytest.raises(InputError, match="psf has shape"):
        make_store(tmp_path / "b", psf[:, :1])
    with pytest.raises(InputError, match="sum to 1"):
        make_store(tmp_path / "c", psf * 2)


def test_stores_without_psfs_stay_readable(tmp_path) -> None:
    store = make_store(tmp_path, None)
    cutouts = store.read_shard(0)
    assert cutouts.psf is None
    found = psf_or_moffat(cutouts.psf, store.info.fwhm_arcsec, len(cutouts))
    assert np.allclose(fwhm_of(found[:, 0]), 0.9, atol=0.01)
    assert np.isnan(found[:, 1]).all()


@pytest.mark.parametrize(("share", "widest", "bad"), [(0.05, 1.03, 0.0), (0.05, 1.03, 0.01), (0.0, 1.3, 0.0)])
def test_a_psf_that_nobody_gave_is_estimated_from_the_most_compact(share, widest, bad, tmp_path, caplog):
    """Exactly where stars are among the objects, else as an upper limit; and it is said.

    With 1% of bad pixels, three objects are complete.
    """
    galsim = pytest.importorskip("galsim")
    rng = np.random.default_rng(1)
    psf = galsim.Moffat(beta=3, fwhm=0.8)
    image = rng.normal(size=(400, 2, 24, 24)).astype("f4")
    for number, each in enumerate(image):
        is_star = number < share * len(image)
        light = galsim.Exponential(half_light_radius=0.08 + rng.lognormal(-1.2, 0.4)).shear(g1=0.2, g2=0.1)
        seen = (psf if is_star else galsim.Convolve(psf, light)).shift(*rng.uniform(-0.1, 0.1, 2))
        each[0] += (seen * rng.uniform(200, 2000)).drawImage(nx=24, ny=24, scale=0.2).array
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.update({"image": image, "ivar": (rng.random(image.shape) >= bad).astype("f4")})
    (tmp_path / "d.toml").write_text(
        'file = "c.h5"\nimage = "image"\nweight = "ivar"\nbands = ["g", "r"]\nzero_point = 31.4\n'
        "pixel_scale_arcsec = 0.2\n"
    )
    with caplog.at_level(logging.INFO, logger="deepfits"):
        store = CutoutStore(deepfits.cutouts(tmp_path / "d.toml", tmp_path / "store", size=24))
    assert 0.97 < store.info.fwhm_arcsec[0] / 0.8 < widest
    assert "the PSF of g is not given: estimated from the" in caplog.text
    assert np.isnan(store.info.fwhm_arcsec[1])  # nothing but noise
    assert "the PSF of band r is unknown" in caplog.text
    # what is given needs no estimate
    given = CutoutStore(
        deepfits.cutouts(tmp_path / "d.toml", tmp_path / "given", size=24, psf=["g=0.9", "r=0.7"])
    )
    np.testing.assert_allclose(given.info.fwhm_arcsec, (0.9, 0.7), rtol=2e-3)


def test_the_psf_of_a_shallow_band_is_that_of_the_stars_seen_there(tmp_path) -> None:
    """Six of 100 stars are well seen in u: a PSF of the others had 17% of its flux within 0.6″, not 71%."""
    rng, directory = np.random.default_rng(2), tmp_path / "sky"
    directory.mkdir()
    shape, places = (560, 560), np.arange(30, 560, 56)
    x, y = (at.ravel() + rng.uniform(-0.5, 0.5, 100) for at in np.meshgrid(places, places))
    flux = {"i": np.geomspace(2e4, 1e3, 100), "u": np.geomspace(40, 2, 100)}
    flux["u"][:6] = 3000
    for band, values in flux.items():
        image = draw(shape, x, y, values, np.full(100, 4.5)) + rng.normal(0, 1, shape)
        header = make_wcs(shape, scale=0.2).to_header()
        header["MAGZERO"], header["FILTER"] = 31.4, band
        fits.writeto(directory / f"field-{band}.fits", image.astype("f4"), header)
    store = CutoutStore(deepfits.cutouts(directory, tmp_path / "store", size=27))
    psf = dict(zip(store.info.bands, store.read_shard(0).psf[0], strict=True))
    for band in "ui":
        inside = enclosed(psf[band], np.array([0.6, 1.0]))
        true = -np.expm1(-4 * np.log(2) * np.array([0.6, 1.0]) ** 2 / 0.9**2)
        np.testing.assert_allclose(inside, true, rtol=0.03)
