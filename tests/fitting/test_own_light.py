"""The galaxy's own light in drawings without noise."""

import numpy as np

from deepfits.fitting.own_light import own_light, soft_circles, total_radius


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
    assert ((radius > 2.4 * 1.1774 * 2.0 * scale) & (radius < 3.6 * 1.1774 * 2.0 * scale)).all()
    assert (total_radius(model, 1e4 * weight, 32, scale) > 1.3 * radius).all()  # wings that are known
    used = own_light(model, is_neighbour) * soft_circles(32, radius / scale)[:, None]
    np.testing.assert_allclose((used * model).sum((2, 3)), np.tile(fluxes, (2, 1)), rtol=0.02)
    assert both.sum() > 3 * fluxes.sum()


def test_soft_circles_have_the_area_of_circles():
    area = soft_circles(32, np.array([4.0, 9.3])).sum((1, 2))
    np.testing.assert_allclose(area, np.pi * np.array([4.0, 9.3]) ** 2, rtol=0.01)
