"""Spread: 0 within its errors for stars, positive for galaxies, independent of masked pixels."""

import numpy as np
import pytest

from deepfits.fitting.extent import _render, spread
from deepfits.gaussian_psf import moffat_psf

PIXEL, SIZE, BANDS = 0.168, 32, 2
NOISE = np.array([1.0, 2.0])


def drawn(number, wider_arcsec, flux, seed=0):
    """Draw point sources (or Gaussians) at random subpixel positions, with noise."""
    rng = np.random.default_rng(seed)
    psf = np.stack([moffat_psf(0.7), moffat_psf(0.9)])
    psf = np.broadcast_to(psf, (number, *psf.shape)).copy()
    place = rng.uniform(-0.5, 0.5, (number, 2))
    sigma = np.hypot(psf[..., 1], wider_arcsec) / PIXEL
    image = flux * _render(psf[..., 0], sigma, place, np.arange(SIZE) - (SIZE - 1) / 2)
    image += NOISE[:, None, None] * rng.normal(size=image.shape)
    weight = np.broadcast_to(NOISE[:, None, None] ** -2.0, image.shape).copy()
    return image.astype("f4"), weight, psf


@pytest.mark.parametrize("flux", [60.0, 300.0])
def test_stars_have_no_spread_within_their_errors(flux):
    value, error = spread(*drawn(400, 0.0, flux), PIXEL, np.ones(BANDS))
    pulls = value / error
    # for 400 stars, the standard error of the mean is 0.05 and of the width 0.035; positions are fitted too
    assert abs(pulls.mean()) < 0.25
    assert 0.85 < pulls.std() < 1.2
    assert (error > 0).all()


def test_galaxies_have_more_spread_and_errors_decrease_with_flux():
    star, error = spread(*drawn(200, 0.0, 300.0), PIXEL, np.ones(BANDS))
    galaxy, _ = spread(*drawn(200, 0.2, 300.0), PIXEL, np.ones(BANDS))
    larger, _ = spread(*drawn(200, 0.4, 300.0), PIXEL, np.ones(BANDS))
    assert np.median(star) + 3 * np.median(error) < np.median(galaxy) < np.median(larger)
    _, faint = spread(*drawn(200, 0.0, 150.0), PIXEL, np.ones(BANDS))
    assert np.median(faint) / np.median(error) == pytest.approx(2, rel=0.15)
    _, correlated = spread(*drawn(200, 0.0, 300.0), PIXEL, np.full(BANDS, 1.5))
    np.testing.assert_allclose(correlated, 1.5 * error, rtol=1e-5)


def test_masked_pixels_have_no_influence():
    image, weight, psf = drawn(5, 0.2, 100.0)
    image[:, 0] = 1e4
    weight[:, 0] = 0
    psf[0, 1] = np.nan  # the first object has no usable band left
    value, error = spread(image, weight, psf, PIXEL, np.ones(BANDS))
    alone, _ = spread(image[:, 1:], weight[:, 1:], psf[:, 1:], PIXEL, np.ones(1))
    np.testing.assert_allclose(value[1:], alone[1:], rtol=1e-5)
    assert np.isnan([value[0], error[0]]).all()
    assert (value[1:] > 0).all()
    assert spread(image[:0], weight[:0], psf[:0], PIXEL, np.ones(BANDS))[0].shape == (0,)
