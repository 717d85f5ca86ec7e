"""Measuring the noise's autocovariance and drawing such noise."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from deepfits.training.noise import MAX_LAG, NoiseSource, measure_autocovariance, white_autocovariance

KERNEL = np.array([[0.2, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 0.2]])


def correlated_noise(rng, number, size):
    """Return noise 1.5 times as strong as weights of 1 imply, and its true autocovariance."""
    white = rng.normal(size=(number, 2, size, size))
    noise = 1.5 * convolve(white, KERNEL[None, None], mode="wrap") / np.sqrt((KERNEL**2).sum())
    truth = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            moved = np.zeros((7, 7))
            moved[2 + dy : 5 + dy, 2 + dx : 5 + dx] = KERNEL
            here = np.zeros((7, 7))
            here[2:5, 2:5] = KERNEL
            truth[MAX_LAG + dy, MAX_LAG + dx] = 1.5**2 * (here * moved).sum() / (KERNEL**2).sum()
    return noise, truth


def test_measured_autocovariance_agrees_with_the_truth():
    noise, truth = correlated_noise(np.random.default_rng(1), 300, 32)
    measured = measure_autocovariance(noise, np.ones_like(noise))
    # 300 × ~700 pixels, correlated over ~10, give an error of 0.7 % of the variance (2.25). Subtracting the
    # mean sky of each object, over as many pixels, changes it by another 2 %.
    np.testing.assert_allclose(measured[0], truth, atol=0.1)
    assert measured[1, MAX_LAG, MAX_LAG] == pytest.approx(2.25, abs=0.1)


def test_bright_objects_do_not_count_as_noise():
    rng = np.random.default_rng(2)
    noise, _ = correlated_noise(rng, 100, 32)
    y, x = np.mgrid[:32, :32]
    galaxy = 300 * np.exp(-np.hypot(y - 15.5, x - 15.5) / 2)
    neighbour = 200 * np.exp(-((y - 5) ** 2 + (x - 27) ** 2) / 8)
    clean = measure_autocovariance(noise, np.ones_like(noise))
    with_sources = measure_autocovariance(noise + galaxy + neighbour, np.ones_like(noise))
    np.testing.assert_allclose(with_sources, clean, atol=0.15)  # wings below the threshold remain


def test_weights_set_the_unit_and_mask_pixels():
    noise, _ = correlated_noise(np.random.default_rng(3), 50, 32)
    weight = np.full_like(noise, 4.0)
    weight[:, :, 3] = 0
    image = np.where(weight > 0, noise / 2, 1e6)
    expected = measure_autocovariance(noise, np.where(weight > 0, 1.0, 0.0))
    np.testing.assert_allclose(measure_autocovariance(image, weight), expected, rtol=1e-4, atol=1e-5)


def test_drawn_noise_has_the_given_autocovariance():
    _, truth = correlated_noise(np.random.default_rng(1), 1, 16)
    source = NoiseSource(np.stack([truth, truth / 4]), 32)
    draw = source.draw(400, torch.Generator().manual_seed(5)).numpy().astype(float)
    assert draw.shape == (400, 2, 32, 32)
    for dy, dx in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (0, 3)]:
        product = (draw[:, :, dy:, dx:] * draw[:, :, : 32 - dy, : 32 - dx]).mean(axis=(0, 2, 3))
        expected = truth[MAX_LAG + dy, MAX_LAG + dx]
        # 400 × 1024 pixels, of which about ten count as one, give 0.5 %; the tolerance is 5σ
        np.testing.assert_allclose(product, [expected, expected / 4], atol=0.025 * 2.25)
    cross = (draw[:, 0] * draw[:, 1]).mean()
    assert abs(cross) < 0.025


def test_white_noise_is_white_and_has_unit_strength():
    source = NoiseSource(white_autocovariance(3), 16)
    assert source.is_white
    draw = source.draw(200, torch.Generator().manual_seed(5))
    assert draw.std() == pytest.approx(1, abs=0.01)  # 150,000 draws: 0.002
    assert float((draw[..., 1:] * draw[..., :-1]).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("number", [1, 3, 64])
def test_draws_depend_only_on_the_generator(number):
    source = NoiseSource(np.stack([correlated_noise(np.random.default_rng(1), 1, 16)[1]]), 16)
    first, again, other = (source.draw(number, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.shape == (number, 1, 16, 16)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
