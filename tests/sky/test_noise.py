import numpy as np
import pytest
from scipy.signal import convolve2d

from deepfits.photometry import circular_aperture
from deepfits.sky.noise import aperture_factor, kernel_weight, pixel_sigma, unit_noise


@pytest.mark.parametrize("factor", [1.0, 1.2, 1.5])
def test_noise_is_one_in_pixels_and_the_factor_in_apertures(factor):
    radius = 4.0
    weight = kernel_weight(factor, radius)
    noise = unit_noise((1, 2), (0, 1400), 1400, weight).astype(float)
    # 2 million pixels, of which correlated ones count less: five standard deviations are below 0.5%.
    assert noise.std() == pytest.approx(1.0, rel=0.005)
    assert abs(noise.mean()) < 0.005
    inside = circular_aperture(11, radius, subpixels=5)
    assert inside.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (11, 11))[::11, ::11]
    sums = (windows * inside).sum(axis=(2, 3)).ravel()
    # Second way: the sum over the circle is a sum of white noise, weighted by circle * kernel.
    line = np.array([weight, 1, weight]) / np.sqrt(1 + 2 * weight**2)
    expected = np.linalg.norm(convolve2d(inside, np.outer(line, line))) / np.sqrt(inside.sum())
    # 15,876 apertures: 0.56% each way; four of these.
    assert sums.std() / np.sqrt(inside.sum()) == pytest.approx(expected, rel=0.0225)
    assert expected == pytest.approx(aperture_factor(weight, radius), rel=1e-9)
    if factor > 1:
        assert expected == pytest.approx(factor, rel=1e-9)


def test_kernel_weight_is_the_inverse_of_the_factor():
    for factor in (1.05, 1.2, 1.8):
        assert aperture_factor(kernel_weight(factor, 6.0), 6.0) == pytest.approx(factor, rel=1e-8)


def test_noise_does_not_depend_on_the_part_asked_for():
    whole = unit_noise((3, 4), (0, 300), 70, 0.2)
    for first, last in ((0, 1), (63, 65), (100, 250), (299, 300)):
        np.testing.assert_array_equal(unit_noise((3, 4), (first, last), 70, 0.2), whole[first:last])
    assert (unit_noise((3, 5), (0, 300), 70, 0.2) != whole).mean() > 0.99


def test_pixel_sigma_gives_the_figures_for_clauds_and_hsc():
    depths = (27.1, 27.5, 27.1, 26.8, 26.3)
    found = [pixel_sigma(depth, 1 / 0.168, 1.0) for depth in depths]
    np.testing.assert_allclose(found, [0.995, 0.688, 0.995, 1.31, 2.08], rtol=5e-3)


def test_too_much_correlation_is_an_error():
    with pytest.raises(ValueError, match=r"9\.0"):
        kernel_weight(9.0, 4.0)
