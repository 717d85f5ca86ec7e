"""PSFs whose width changes over a field."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import deepfits
from deepfits.gaussian_psf import fwhm_of
from deepfits.survey.psf_variation import NUM_NODES, relative_widths, width_at, width_over_field
from deepfits.survey.store import CutoutStore

SIDE, SCALE, NOISE = 900, 0.2, 1.0


def width(x, y, slope, curvature):
    """Return the FWHM in arcsec at a place: wider to the right, and at the top and bottom."""
    u, v = 2 * x / SIDE - 1, 2 * y / SIDE - 1
    return 0.8 * np.exp(slope * u + curvature * v * v)


def write_field(directory, *variation, is_deep=False):
    """Write coadds in g and r with stars and galaxies; in a deep field most are galaxies, many compact."""
    galsim = pytest.importorskip("galsim")
    rng = np.random.default_rng(3)
    directory.mkdir()
    wcs = WCS(naxis=2)
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.ctype = [150, 2], [SIDE / 2] * 2, ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    place = rng.uniform(20, SIDE - 20, (420, 2))
    is_star, flux = np.arange(420) < 180, rng.uniform(300, 4000, 420)
    size = 0.25 + rng.lognormal(-1.0, 0.3, 420)
    if is_deep:
        is_star = np.arange(420) < 90
        flux = np.where(is_star, 5 * flux, 0.6 * flux)
        size = rng.uniform(0.08, 0.35, 420)
    for band in ("g", "r"):
        image = galsim.ImageF(SIDE, SIDE, xmin=0, ymin=0, scale=SCALE)
        for (x, y), star, brightness, radius in zip(place, is_star, flux, size, strict=True):
            light = galsim.Moffat(beta=3, fwhm=width(x, y, *variation))
            if not star:
                light = galsim.Convolve(light, galsim.Exponential(half_light_radius=radius))
            stamp = (light * brightness).drawImage(nx=41, ny=41, scale=SCALE, center=galsim.PositionD(x, y))
            both = stamp.bounds & image.bounds
            image[both] += stamp[both]
        plane = image.array + NOISE * rng.normal(size=(SIDE, SIDE)).astype("f4")
        header = wcs.to_header()
        header["MAGZERO"], header["FILTER"] = 31.4, band
        fits.PrimaryHDU(plane.astype("f4"), header).writeto(directory / f"field-{band}.fits")


def check_widths(store, variation, *, scatter, offset=0.02):
    """Compare the FWHM of each object and band with the truth; scatter is relative to that of a constant."""
    store = CutoutStore(store)
    psf = np.concatenate([store.read_shard(number).psf for number in range(len(store.shards))])
    where = store.catalogue(["x", "y"])
    truth = width(where["x"], where["y"], *variation)
    found = fwhm_of(psf)
    for band in range(2):
        off = np.log(found[:, band] / truth)
        assert abs(np.median(off)) < offset
        if any(variation):
            assert np.std(off) < scatter * np.std(np.log(truth))
        else:
            assert len(np.unique(found[:, band])) == 1


@pytest.mark.parametrize("variation", [(0.1, 0.05), (0.0, 0.0), (0.0, 0.2)])
def test_the_width_at_each_object(variation, tmp_path):
    write_field(tmp_path / "sky", *variation)
    check_widths(deepfits.cutouts(tmp_path / "sky", tmp_path / "store", size=27), variation, scatter=0.35)


@pytest.mark.slow
def test_objects_of_a_catalogue_get_it_too(tmp_path, monkeypatch):
    """From the whole field, or strips of a large one."""
    variation = (0.1, 0.05)
    write_field(tmp_path / "sky", *variation)
    x, y = np.random.default_rng(2).uniform(30, SIDE - 30, (2, 50))
    np.savetxt(tmp_path / "mine.csv", np.stack([x, y], 1), delimiter=",", header="x,y", comments="")
    for name, rows in (("whole", SIDE), ("strips", 5 * SIDE // 6)):
        monkeypatch.setattr("deepfits.survey.fields.SAMPLE_ROWS", rows)
        monkeypatch.setattr("deepfits.survey.fields.NUM_STRIPS", 3)
        out = deepfits.cutouts(
            tmp_path / "sky", tmp_path / name, catalogue=tmp_path / "mine.csv", size=27, workers=1
        )
        check_widths(out, variation, scatter=0.5, offset=0.04)


def test_beyond_the_field_the_width_is_that_at_its_edge():
    log_width = np.tile(np.linspace(-0.1, 0.1, NUM_NODES), (NUM_NODES, 1))
    x = np.array([-50.0, 0.0, 49.5, 99.0, 500.0])
    found = width_at(log_width.tolist(), x, np.full(5, 50.0), (100, 100))
    np.testing.assert_allclose(np.log(found), [-0.1, -0.1, 0.0, 0.1, 0.1], atol=1e-5)


def stars(log_width, flux, rng, side=25):
    """Return the stamps of stars with widths relative to that of a star of 3.2 pixels, in noise of 1."""
    y, x = np.mgrid[:side, :side] - side // 2
    radius = 1.6 / np.sqrt(2 ** (1 / 3) - 1) * np.exp(log_width)[:, None, None]
    shape = (1 + (x**2 + y**2) / radius**2) ** -3.0
    noise = rng.normal(size=(len(log_width), side, side)) / flux[:, None, None]
    return shape / shape.sum((1, 2), keepdims=True) + noise


def test_widths_of_stars_and_their_errors():
    rng = np.random.default_rng(5)
    truth, flux = rng.uniform(-0.3, 0.3, 500), 10 ** rng.uniform(2.0, 4.0, 500)
    found, error = relative_widths(stars(truth, flux, rng), stars(np.zeros(1), np.full(1, 1e9), rng)[0])
    known = np.isfinite(error)
    assert known[flux > 300].all()
    pull = ((found - truth) / error)[known]
    assert abs(np.median(pull)) < 0.2
    assert 0.8 < np.std(np.clip(pull, -5, 5)) < 1.3
    assert np.std((found - truth)[flux > 3000]) < 0.01


@pytest.mark.parametrize("fraction", [0.2, 0.6])
def test_widths_with_outliers_that_do_not_vary_are_found_constant(fraction):
    """As of faint stars and galaxies in frames of SDSS."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(30):
        x, y = rng.uniform(0, SIDE, (2, 76))
        is_odd = rng.uniform(size=76) < fraction
        log_width = rng.normal(0, 0.02, 76) + is_odd * rng.exponential(0.2, 76)
        stamps = stars(log_width, 10 ** rng.uniform(2.5, 4.0, 76), rng)
        star = np.median(stamps, axis=0)
        found += width_over_field(stamps, star, x, y, among=(x, y), shape=(SIDE, SIDE)) is not None
    assert found == 0


@pytest.mark.parametrize("number", [0, 24])
def test_few_stars_show_no_variation(number):
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, SIDE, (2, number))
    stamps = stars(0.3 * (x / SIDE - 0.5), np.full(number, 1e4), rng)
    star = stars(np.zeros(1), np.full(1, 1e9), rng)[0]
    assert width_over_field(stamps, star, x, y, among=(x, y), shape=(SIDE, SIDE)) is None


def test_steps_between_detectors_are_followed_where_stars_are():
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, SIDE, (2, 150))
    truth = np.where(x < SIDE / 2, -0.08, 0.08)
    stamps = stars(truth, 10 ** rng.uniform(2.5, 4.0, 150), rng)
    found = width_over_field(stamps, np.median(stamps, axis=0), x, y, among=(x, y), shape=(SIDE, SIDE))
    off = np.log(width_at(found, x, y, (SIDE, SIDE))) - truth
    off = (off - np.median(off))[np.abs(x - SIDE / 2) > SIDE / 10]
    assert np.sqrt(np.mean(off**2)) < 0.035


def test_faint_stars_do_not_hide_a_variation_of_the_bright_ones():
    """A plane of 9.5% from edge to edge, which widths without errors showed in no field."""
    rng, found = np.random.default_rng(5), 0
    for _ in range(10):
        x, y = rng.uniform(0, SIDE, (2, 120))
        stamps = stars(0.095 * (x / SIDE - 0.5), np.repeat([2e4, 300.0], [30, 90]), rng)
        found += (
            width_over_field(
                stamps, stars(np.zeros(1), np.full(1, 1e9), rng)[0], x, y, among=(x, y), shape=(SIDE, SIDE)
            )
            is not None
        )
    assert found >= 9


def test_without_stars_that_stand_alone_the_width_is_constant():
    """As in crowded fields, and in parts of fields, where the variation is not measured."""
    star = stars(np.zeros(1), np.full(1, 1e9), np.random.default_rng(0))[0]
    for number in (0, 3):
        x = np.linspace(0, SIDE, number)
        stamps = np.repeat(star[None], number, axis=0)
        assert width_over_field(stamps, star, x, x, among=(x, x), shape=(SIDE, SIDE)) is None


def test_a_catalogue_of_others_is_cut_out_with_the_psf_of_the_fields_stars(tmp_path):
    write_field(tmp_path / "sky", 0.0, 0.0)
    wcs = WCS(fits.getheader(tmp_path / "sky" / "field-g.fits"))
    ra, dec = wcs.all_pix2world(*np.random.default_rng(3).uniform(20, SIDE - 20, (420, 2))[:20].T, 0)
    np.savetxt(tmp_path / "mine.csv", np.c_[ra, dec], "%.8f", ",", header="ra,dec", comments="")
    out = deepfits.cutouts(tmp_path / "sky", tmp_path / "store", catalogue=tmp_path / "mine.csv", size=27)
    found = fwhm_of(CutoutStore(out).read_shard(0).psf)
    np.testing.assert_allclose(found, 0.8, rtol=0.05)


def test_the_width_without_the_pixel_varies_more_than_that_of_stars():
    """By a fifth at a FWHM of two pixels, by which the variation was too small."""
    galsim = pytest.importorskip("galsim")
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, SIDE, (2, 60))
    truth = 0.15 * (2 * x / SIDE - 1)
    profiles = [galsim.Moffat(beta=3, fwhm=2 * np.exp(change)) for change in truth]
    stamps = np.stack([p.drawImage(nx=25, ny=25, scale=1).array for p in profiles]).astype(float)
    stamps += rng.normal(0, 1e-4, stamps.shape)
    found = width_over_field(stamps, np.median(stamps, axis=0), x, y, among=(x, y), shape=(SIDE, SIDE))
    slope = np.polyfit(truth, np.log(width_at(found, x, y, (SIDE, SIDE))), 1)[0]
    assert slope == pytest.approx(1, abs=0.05)
