"""The galaxy's own flux in noise-free drawings."""

from types import SimpleNamespace

import numpy as np
import pytest

from deepfits.fitting.own_light import (
    flux_beyond,
    joined_with_data,
    of_point_source,
    own_light,
    soft_circles,
    total_radius,
    wings,
)
from deepfits.gaussian_psf import moffat_psf, moffat_radius


def galaxy(x: float, y: float, flux: float, size: int = 32, sigma: float = 2.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return flux * profile / profile.sum()


def test_an_image_without_light_has_a_radius():
    """Such as those of a model after a few steps of training; warnings are errors here."""
    flat = np.stack([np.zeros((2, 32, 32)), np.full((2, 32, 32), -1.0)])
    assert (total_radius(flat, np.ones_like(flat), 0.2, 16) > 0).all()


def test_total_flux_excludes_a_neighbour():
    """Within 2% in two bands, with a neighbour of another colour that is brighter than the galaxy."""
    fluxes, scale = np.array([100.0, 300.0]), 0.2
    alone = np.stack([galaxy(15.5, 15.5, flux) for flux in fluxes])
    both = alone + np.stack([galaxy(25, 10, 4 * flux) for flux in fluxes[::-1]])
    is_neighbour = np.stack([np.zeros((32, 32), bool), galaxy(25, 10, 1.0) > 1e-4])
    model = np.stack([alone, both])
    weight = np.ones_like(model)
    radius = total_radius(model, weight, scale, 16)
    assert ((radius > 2.0 * 1.1774 * 2.0 * scale) & (radius < 3.6 * 1.1774 * 2.0 * scale)).all()
    assert (total_radius(model, 1e4 * weight, scale, 16) > 1.3 * radius).all()  # well-measured wings
    used = own_light(model, is_neighbour) * soft_circles(32, radius / scale)[:, None]
    inside = -np.expm1(-((radius / (2.0 * scale)) ** 2) / 2)  # for a Gaussian galaxy
    np.testing.assert_allclose(
        (used * model).sum((2, 3)) / inside[:, None], np.tile(fluxes, (2, 1)), rtol=0.02
    )
    assert both.sum() > 3 * fluxes.sum()


def disc(scale: float, size: int = 33) -> np.ndarray:
    away = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    return np.exp(-away / scale) / (2 * np.pi * scale**2)


def psf_of(beta: float) -> np.ndarray:
    """Return a PSF of 1.4″ (FWHM) with this index of a Moffat profile; an unknown one if it is NaN."""
    return moffat_psf(1.4 if beta > 1 else np.nan, beta)


def found(light: np.ndarray, radius: float, *, weight: float = 1.0, beta: float = np.nan) -> SimpleNamespace:
    """Return the wings of drawings of 33 pixels, by default much brighter than noise and unseen galaxies."""
    number, bands, *_ = light.shape
    parts = wings(
        light,
        np.full(light.shape, weight),
        np.full(number, radius),
        16.5,
        psf=np.tile(psf_of(beta), (number, bands, 1, 1)),
        noise=np.ones(bands),
        pixel_scale_arcsec=0.2,
    )
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("index", [1.0, 1.5, 2.0])
def test_flux_beyond_a_radius_is_that_of_a_sersic_profile(index):
    """Compare with an integral over the profile, of which three brightnesses are known."""
    at, out = np.array([[2.0], [3.1], [4.4]]), np.linspace(5, 400, 400_000)

    def profile(radius):
        return 7 * np.exp(-3 * (radius ** (1 / index) - 1))

    expected = np.trapezoid(2 * np.pi * out * profile(out), out)
    assert flux_beyond(profile(at), at, 5.0)[0] == pytest.approx(expected, rel=0.05)


def test_bulges_have_more_flux_beyond_their_circle_than_discs():
    """A de Vaucouleurs bulge with half of the flux; as an exponential it lacks 8% of the total."""
    galsim = pytest.importorskip("galsim")
    galaxy = 0.5 * (galsim.DeVaucouleurs(half_light_radius=1.1) + galsim.Exponential(half_light_radius=1.5))
    seen = galsim.Convolve(galaxy, galsim.Moffat(3, fwhm=0.8))
    light = 1e6 * seen.drawImage(nx=33, ny=33, scale=0.2).array.astype(float)[None, None]
    assert total(light, 16.5)[0, 0] == pytest.approx(1e6, rel=0.04)


def total(light: np.ndarray, radius: float, **options: float) -> np.ndarray:
    wing = found(light, radius, **options)
    radius = min(radius, 16.5)
    inside = (light * soft_circles(33, np.array([radius]))).sum((2, 3))
    psf = psf_of(options.get("beta", np.nan))[None, None]
    star_fraction = of_point_source(psf, np.array([0.2 * radius]))
    return (inside - wing.background) * (1 / star_fraction + wing.beyond[:, None])


@pytest.mark.parametrize("scale", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("radius", [14.9, 16.5, 40.0])
def test_total_flux_of_a_disc_is_complete(scale, radius):
    light = 1e6 * disc(scale)[None, None]
    assert total(light, radius)[0, 0] == pytest.approx(1e6, rel=0.03)
    outside = found(light, radius).outside[0] * light.sum()
    assert outside == pytest.approx(1e6 * np.exp(-16.5 / scale) * (1 + 16.5 / scale), rel=0.3, abs=3e3)


@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_constant_background_is_not_part_of_the_galaxy(radius):
    """The total of a small disc is right within 5% on a constant that adds 20 to 100% inside the circle."""
    light, sky = 1e6 * disc(1.8)[None, None], 4e3
    with_sky = light + sky
    assert total(with_sky, radius)[0, 0] == pytest.approx(1e6, rel=0.05)
    assert found(with_sky, radius).background[0, 0] == pytest.approx(sky * np.pi * radius**2, rel=0.05)
    np.testing.assert_array_equal(found(with_sky, 15.0).background, 0)  # no background for large galaxies


@pytest.mark.parametrize("beta", [2.2, 3.0, 4.8])
@pytest.mark.parametrize("radius", [9.0, 11.0, 14.0])
def test_total_flux_of_a_star_follows_the_psf(radius, beta):
    """Wings of the PSF at the edge are not mistaken for background, and nothing is added to them."""
    share, sigma = np.moveaxis(psf_of(beta), -1, 0)  # arcsec
    away = 0.2 * np.hypot(*(np.mgrid[:33, :33] - 16))
    profile = (a * np.exp(-(away**2) / (2 * s**2)) / s**2 for a, s in zip(share, sigma, strict=True))
    star = 1e6 * 0.04 / (2 * np.pi) * sum(profile)[None, None]
    assert total(star, radius, beta=beta)[0, 0] == pytest.approx(1e6, rel=0.01)


def test_flux_beyond_the_circle_is_added_only_where_significant():
    """A quarter of the flux lies beyond the circle; it is not added if noise or unseen galaxies dominate."""
    radius, light = 5.0, disc(2.0)[None, None]
    bright = found(1e6 * light, radius).beyond[0]
    assert bright > 0.2
    noisy = [found(1e6 * light, radius, weight=weight).beyond[0] for weight in (1e-2, 1e-6, 1e-9, 1e-12)]
    assert (np.diff([bright, *noisy]) < 0).all()
    assert noisy[-1] < 1e-3 * bright
    assert found(10 * light, radius, weight=1e12).beyond[0] < 0.05 * bright


def test_flux_beyond_the_circle_does_not_change_colours():
    """The flux beyond the circle is determined by bands with signal; one without data has no influence."""
    light = np.stack([1e6 * disc(2.0), 1e2 * disc(4.0), 1e6 * disc(8.0)])[None]
    weight = np.ones_like(light)
    weight[:, 2] = 0
    options = {"psf": np.full((1, 3, 8, 2), np.nan), "noise": np.ones(3), "pixel_scale_arcsec": 0.2}
    beyond = wings(light, weight, np.array([6.0]), 16.5, **options)["beyond"]
    one = found(light[:, :1], 6.0)
    assert beyond.shape == (1,)
    assert beyond[0] == pytest.approx(one.beyond[0], rel=0.01)


def test_profiles_that_do_not_fall_off_add_nothing():
    light = 1e4 * np.stack([disc(5.0), 0 * disc(5.0), 1 / disc(5.0), -disc(5.0)])[:, None]
    wing = found(light, 10.0)
    assert wing.beyond[0] > 0
    for values in (wing.beyond, wing.outside):
        np.testing.assert_array_equal(values[1:], 0)
    assert np.isfinite(wing.background).all()


def test_totals_vary_smoothly_with_radius():
    """Totals change by at most 2% between successive radii, even beyond the edge of the drawing."""
    light, radii = 1e6 * disc(3.0)[None, None] + 20, np.arange(5.0, 25.0, 0.25)
    totals = np.array([total(light, radius)[0, 0] for radius in radii])
    assert np.abs(np.diff(totals) / totals[1:]).max() < 0.02


def test_wings_of_a_neighbour_outside_its_pixels_are_removed():
    """Most of a neighbour's flux outside its pixels (which end at 15% of the peak) is removed."""
    alone, beside = galaxy(15.5, 15.5, 100.0), galaxy(23.5, 15.5, 300.0)
    model = (alone + beside)[None, None]
    is_neighbour = (beside > 0.15 * beside.max())[None]
    left = ((own_light(model, is_neighbour) * model).sum() - 100) / 300
    assert 0 < left < 0.05 < beside[~is_neighbour[0]].sum() / 300


@pytest.mark.parametrize("beta", [2.2, 3.0, 4.8])
def test_enclosed_flux_of_the_psf(beta):
    """Compare with the integral of the profile; an unknown PSF loses nothing."""
    radius, psf = np.array([1.0, 1.6, 2.8]), np.stack([psf_of(beta), psf_of(np.nan)])
    inside = 1 - (1 + (radius / moffat_radius(1.4, beta)) ** 2) ** (1 - beta)
    found = of_point_source(np.tile(psf, (3, 1, 1, 1)), radius)
    np.testing.assert_allclose(found, np.stack([inside, np.ones(3)], axis=1), atol=0.005)


def test_soft_circles_have_the_area_of_circles():
    area = soft_circles(32, np.array([4.0, 9.3])).sum((1, 2))
    np.testing.assert_allclose(area, np.pi * np.array([4.0, 9.3]) ** 2, rtol=0.01)


def _joined(image, weight, model, own=None, fraction=0.05, model_noise=0.0):
    aperture = np.ones(model.shape[1:])
    return joined_with_data(
        image,
        weight,
        model,
        np.ones_like(model) if own is None else own,
        aperture,
        noise=np.ones(model.shape[1]),
        model_noise=np.full(model.shape[:2], model_noise),
        fraction=np.full(model.shape[1], fraction),
    )


def test_joined_flux_follows_data_for_bright_and_drawing_for_faint_galaxies():
    model = np.full((2, 1, 4, 4), 1.0)
    model[0] *= 1e5
    image = 1.02 * model
    flux, error = _joined(image, np.full(model.shape, 1e-2), model)
    assert flux[0, 0] == pytest.approx(16e5 * 1.02, rel=1e-4)
    assert error[0, 0] == pytest.approx(40, rel=1e-3)  # 10 per pixel
    assert flux[1, 0] == pytest.approx(16, rel=1e-3)
    assert error[1, 0] == pytest.approx(0.05 * 16, rel=1e-3)


def test_joined_flux_is_that_of_the_drawing_without_data():
    model = np.full((2, 1, 4, 4), 1e5)
    weight = np.ones_like(model)
    weight[0], weight[1, :, :2] = 0, 0
    image = np.where(weight > 0, 1.02 * model, np.nan)
    flux, error = _joined(image, weight, model)
    np.testing.assert_allclose(flux[:, 0], [16e5, 16e5 + 8e5 * 0.02], rtol=1e-6)
    np.testing.assert_allclose(error[:, 0], [0.05 * 16e5, 0.05 * 8e5], rtol=1e-3)
    none, unknown = _joined(image, weight, np.full_like(model, np.nan))
    assert np.isnan(none).all()
    assert np.isnan(unknown).all()


def test_errors_of_joined_fluxes_match_their_scatter():
    rng = np.random.default_rng(3)
    number, truth, sigma, fraction = 4000, 40.0, 3.0, 0.15
    noise = rng.normal(scale=sigma, size=(number, 1, 4, 4))
    image = truth + noise
    # A drawing that follows a quarter of the noise, and has an error proportional to the flux.
    followed = noise[:, :, :1].sum((2, 3), keepdims=True) / 16
    model = (truth + followed) * np.ones((4, 4)) + fraction * truth * rng.normal(size=(number, 1, 1, 1))
    flux, error = _joined(
        image, np.full(image.shape, sigma**-2), model, fraction=fraction, model_noise=2 * sigma
    )
    pulls = (flux - 16 * truth) / error
    assert np.abs(pulls.mean()) < 0.1
    assert 0.85 < pulls.std() < 1.15
