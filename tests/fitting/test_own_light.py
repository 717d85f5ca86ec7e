"""The galaxy's own light in drawings without noise."""

import numpy as np
import pytest

from deepfits.fitting.own_light import (
    REACH,
    beyond_cutout,
    enclosed,
    joined_with_data,
    own_light,
    soft_circles,
    total_radius,
)
from deepfits.gaussian_psf import moffat_psf


def galaxy(x: float, y: float, flux: float, size: int = 32, sigma: float = 2.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return flux * profile / profile.sum()


def test_total_of_the_galaxy_is_its_own_beside_a_neighbour():
    """Two bands, the neighbour of another colour and brighter than the galaxy: within 2%."""
    fluxes, scale = np.array([100.0, 300.0]), 0.2
    alone = np.stack([galaxy(15.5, 15.5, flux) for flux in fluxes])
    both = alone + np.stack([galaxy(25, 10, 4 * flux) for flux in fluxes[::-1]])
    is_neighbour = np.stack([np.zeros((32, 32), bool), galaxy(25, 10, 1.0) > 1e-4])
    model = np.stack([alone, both])
    weight = np.ones_like(model)
    radius = total_radius(model, weight, scale, 16)
    assert ((radius > 2.0 * 1.1774 * 2.0 * scale) & (radius < 3.6 * 1.1774 * 2.0 * scale)).all()
    assert (total_radius(model, 1e4 * weight, scale, 16) > 1.3 * radius).all()  # wings that are known
    used = own_light(model, is_neighbour) * soft_circles(32, radius / scale)[:, None]
    inside = -np.expm1(-((radius / (2.0 * scale)) ** 2) / 2)  # of a Gaussian galaxy
    np.testing.assert_allclose(
        (used * model).sum((2, 3)) / inside[:, None], np.tile(fluxes, (2, 1)), rtol=0.02
    )
    assert both.sum() > 3 * fluxes.sum()


def disc(scale: float, size: int = 33) -> np.ndarray:
    away = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    return np.exp(-away / scale) / (2 * np.pi * scale**2)


@pytest.mark.parametrize("scale", [3.0, 5.0, 8.0])
def test_light_of_a_disc_beyond_its_cutout_is_known(scale):
    edge, reach = 33 / 2, 33 / 2 + 4 * scale

    def outside(radius: float) -> float:
        return np.exp(-radius / scale) * (1 + radius / scale)

    radius = edge + (reach - edge) / REACH
    found = beyond_cutout(disc(scale)[None, None], np.array([radius]), edge)[0, 0]
    assert found == pytest.approx(outside(edge) - outside(reach), rel=0.08)


def test_nothing_is_added_where_the_circle_is_inside_or_light_does_not_fall_off():
    light = np.stack([disc(5.0), disc(5.0), 0 * disc(5.0), 1 / disc(5.0), -disc(5.0)])[:, None]
    added = beyond_cutout(light, np.array([20.0, 16.5, 20.0, 20.0, 20.0]), 16.5)[:, 0]
    assert added[0] > 0
    np.testing.assert_array_equal(added[1:], 0)


def test_a_total_reaches_out_of_the_cutout_step_by_step():
    """Nothing jumps where the circle begins to be larger than the cutout."""
    light = np.tile(disc(5.0), (3, 1, 1, 1))
    added = beyond_cutout(light, np.array([16.5, 16.51, 16.6]), 16.5)[:, 0]
    assert (np.diff(added) > 0).all()
    assert added[2] < 0.01


def test_the_wings_of_a_neighbour_beyond_its_pixels_are_not_the_galaxys():
    """Pixels of a neighbour that end at 15% of its peak leave much of its light: most of it is taken away."""
    alone, beside = galaxy(15.5, 15.5, 100.0), galaxy(23.5, 15.5, 300.0)
    model = (alone + beside)[None, None]
    is_neighbour = (beside > 0.15 * beside.max())[None]
    left = ((own_light(model, is_neighbour) * model).sum() - 100) / 300
    assert 0 < left < 0.05 < beside[~is_neighbour[0]].sum() / 300


def test_what_the_psf_puts_beyond_a_circle_is_known():
    """Against the multi-Gaussian expansion of the same profile."""
    share, sigma = np.moveaxis(np.stack([moffat_psf(0.7), moffat_psf(1.1)]), -1, 0)
    inside = (share * -np.expm1(-(1.6**2) / (2 * sigma**2))).sum(1)
    np.testing.assert_allclose(
        enclosed(np.array([[0.7, 1.1, np.nan]]), np.array([1.6])), [[*inside, 1]], atol=0.001
    )


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


def test_bright_galaxies_have_the_data_s_flux_and_faint_ones_the_drawing_s():
    model = np.full((2, 1, 4, 4), 1.0)
    model[0] *= 1e5
    image = 1.02 * model
    flux, error = _joined(image, np.full(model.shape, 1e-2), model)
    assert flux[0, 0] == pytest.approx(16e5 * 1.02, rel=1e-4)
    assert error[0, 0] == pytest.approx(40, rel=1e-3)  # ten a pixel
    assert flux[1, 0] == pytest.approx(16, rel=1e-3)
    assert error[1, 0] == pytest.approx(0.05 * 16, rel=1e-3)


def test_where_there_are_no_data_the_drawing_stands():
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


def test_errors_of_drawing_and_data_together_are_as_wide_as_they_scatter():
    rng = np.random.default_rng(3)
    number, truth, sigma, fraction = 4000, 40.0, 3.0, 0.15
    noise = rng.normal(scale=sigma, size=(number, 1, 4, 4))
    image = truth + noise
    # A drawing that follows a quarter of the noise, and is wrong by a share of the light.
    of_noise = noise[:, :, :1].sum((2, 3), keepdims=True) / 16
    model = (truth + of_noise) * np.ones((4, 4)) + fraction * truth * rng.normal(size=(number, 1, 1, 1))
    flux, error = _joined(
        image, np.full(image.shape, sigma**-2), model, fraction=fraction, model_noise=2 * sigma
    )
    pulls = (flux - 16 * truth) / error
    assert np.abs(pulls.mean()) < 0.1
    assert 0.85 < pulls.std() < 1.15
