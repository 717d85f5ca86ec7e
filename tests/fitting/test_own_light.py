"""The galaxy's own light in drawings without noise."""

import numpy as np

from deepfits.fitting.own_light import enclosed, own_light, soft_circles, total_radius
from deepfits.observation import moffat_psf


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
    radius = total_radius(model, weight, 32, scale)
    assert ((radius > 2.0 * 1.1774 * 2.0 * scale) & (radius < 3.6 * 1.1774 * 2.0 * scale)).all()
    assert (total_radius(model, 1e4 * weight, 32, scale) > 1.3 * radius).all()  # wings that are known
    used = own_light(model, is_neighbour) * soft_circles(32, radius / scale)[:, None]
    inside = -np.expm1(-((radius / (2.0 * scale)) ** 2) / 2)  # of a Gaussian galaxy
    np.testing.assert_allclose(
        (used * model).sum((2, 3)) / inside[:, None], np.tile(fluxes, (2, 1)), rtol=0.02
    )
    assert both.sum() > 3 * fluxes.sum()


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
