"""Magnitudes, apertures and radii: against formulas, and against photutils."""

import numpy as np
import pytest

from deepfits.photometry import (
    ab_magnitude,
    aperture_flux,
    asinh_magnitude,
    circular_aperture,
    flux_of_magnitude,
    growth_circles,
    growth_radii,
    magnitude_error,
    njy_per_count,
    reference_band,
    robust_scatter,
)

SCALE = 0.2


@pytest.mark.parametrize("fwhm_arcsec", [0.5, 0.8, 1.2])
def test_radii_of_a_gaussian(fwhm_arcsec):
    """Of a Gaussian, 1 − exp(−r²/2σ²) of the light lies within r."""
    offset = (np.arange(32) - 15.5) * SCALE
    sigma = fwhm_arcsec / 2.3548
    image = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    apertures, radius = growth_circles(32, SCALE)
    found = growth_radii(np.einsum("hw,khw->k", image, apertures), radius)
    inside = 1 - np.exp(-(radius[-1] ** 2) / (2 * sigma**2))
    expected = sigma * np.sqrt(-2 * np.log(1 - inside * np.array([0.2, 0.5, 0.8])))
    # circles are 0.09 arcsec apart, pixels hold their mean
    np.testing.assert_allclose(found, expected, rtol=0.08)


def test_larger_objects_have_larger_radii_and_the_same_concentration():
    apertures, radius = growth_circles(32, SCALE)
    offset = (np.arange(32) - 15.5) * SCALE
    square = offset[:, None] ** 2 + offset**2
    images = np.exp(-square / (2 * np.array([0.3, 0.4])[:, None, None] ** 2))
    found = growth_radii(np.einsum("nhw,khw->nk", images, apertures), radius)
    np.testing.assert_allclose(found[1] / found[0], 4 / 3, rtol=0.06)


def test_an_object_without_light_has_no_radius():
    _, radius = growth_circles(32, SCALE)
    growth = np.stack([np.zeros(len(radius)), -radius, np.full(len(radius), np.nan)])
    assert np.isnan(growth_radii(growth, radius)).all()


def test_circles_stay_inside_small_cutouts():
    apertures, radius = growth_circles(8, 0.1)
    assert radius[-1] == pytest.approx(0.4)
    # pixels are divided into 100: the area of 0.5 square arcsec is good to a hundredth
    np.testing.assert_allclose(apertures.sum(axis=(1, 2)) * 0.1**2, np.pi * radius**2, atol=0.004)


def gaussian(sigma):
    offset = np.arange(32) - 15.5
    return np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


@pytest.mark.parametrize("radius", [2.0, 4.5, 7.44])
def test_aperture_has_the_area_of_its_circle(radius):
    # 10 × 10 points a pixel: the error of the area is far below one pixel of the rim
    assert circular_aperture(32, radius).sum() == pytest.approx(np.pi * radius**2, rel=0.01)


def test_aperture_agrees_with_sep():
    sep = pytest.importorskip("sep")
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 1, 32, 32)) + 500 * gaussian(3.0)
    flux, flux_err = aperture_flux(image, np.full_like(image, 4.0), circular_aperture(32, 6.0))
    centre = (32 - 1) / 2
    theirs, their_err, _ = sep.sum_circle(image[0, 0], [centre], [centre], 6.0, err=0.5, subpix=10)
    assert flux[0, 0] == pytest.approx(theirs[0], rel=1e-8)
    # sep counts a partly covered pixel's variance by its share, we by the share squared (a sum's variance)
    assert flux_err[0, 0] == pytest.approx(their_err[0], rel=0.05)


def test_aperture_without_data_gives_nan_and_not_zero():
    image = np.ones((1, 2, 32, 32))
    weight = np.ones_like(image)
    weight[:, 1] = 0
    flux, flux_err = aperture_flux(image, weight, circular_aperture(32, 5.0))
    assert np.isfinite(flux[0, 0])
    assert np.isfinite(flux_err[0, 0])
    assert np.isnan(flux[0, 1])
    assert np.isnan(flux_err[0, 1])


def test_asinh_magnitudes_become_ordinary_ones_when_bright():
    flux = np.array([1e4, 1e6])
    np.testing.assert_allclose(asinh_magnitude(flux, 5.0), 31.4 - 2.5 * np.log10(flux), atol=1e-6)
    assert np.isfinite(asinh_magnitude(np.array([-50.0, 0.0]), 5.0)).all()
    assert np.all(np.diff(asinh_magnitude(np.linspace(-20, 20, 50), 5.0)) < 0)


@pytest.mark.parametrize("size", [31, 32])
@pytest.mark.parametrize("radius", [1.0, 3.0, 6.3])
def test_apertures_of_odd_and_even_sides_agree_with_photutils(size, radius):
    from photutils.aperture import CircularAperture, aperture_photometry

    rng = np.random.default_rng(size)
    image = rng.uniform(0, 10, size=(1, 1, size, size))
    weight = rng.uniform(0.5, 2, size=image.shape)
    flux, error = aperture_flux(image, weight, circular_aperture(size, radius))
    centre = (size - 1) / 2
    theirs = aperture_photometry(
        image[0, 0], CircularAperture((centre, centre), radius), method="subpixel", subpixels=10
    )
    assert flux[0, 0] == pytest.approx(float(theirs["aperture_sum"][0]), rel=1e-12)
    exact = aperture_photometry(image[0, 0], CircularAperture((centre, centre), radius))
    # 100 points a pixel: the rim of 2πr pixels is known to about a fiftieth of a pixel each
    assert flux[0, 0] == pytest.approx(float(exact["aperture_sum"][0]), rel=0.03)
    assert error[0, 0] == pytest.approx(
        np.sqrt((circular_aperture(size, radius) ** 2 / weight[0, 0]).sum()), rel=1e-12
    )


@pytest.mark.parametrize("size", [15, 16])
def test_a_centred_source_has_all_its_light_in_a_small_aperture(size):
    """Half a pixel off the middle, a circle of 1.5 pixels would lose a corner of the brightest pixels."""
    image = np.zeros((1, 1, size, size))
    middle = slice((size - 1) // 2, size // 2 + 1)
    image[..., middle, middle] = 1.0
    flux, _ = aperture_flux(image, np.ones_like(image), circular_aperture(size, 1.5))
    assert flux[0, 0] == pytest.approx(image.sum(), rel=1e-12)


def test_an_aperture_counts_what_is_missing_as_asked():
    image, weight = np.full((1, 1, 32, 32), 2.0), np.ones((1, 1, 32, 32))
    circle = circular_aperture(32, 5.0)
    whole, _ = aperture_flux(image, weight, circle)
    assert whole[0, 0] == pytest.approx(2 * circle.sum())
    weight[..., 15, 15] = 0
    image[..., 15, 15] = np.nan
    assert np.isnan(aperture_flux(image, weight, circle)[0]).all()
    assert aperture_flux(image, weight, circle, min_valid=0.5)[0][0, 0] == pytest.approx(whole[0, 0])
    weight[..., 15, 15], image[..., 15, 15] = 1, 2
    weight[..., 0, 0], image[..., 0, 0] = 0, np.nan  # outside
    assert aperture_flux(image, weight, circle)[0][0, 0] == whole[0, 0]


def test_magnitudes_and_fluxes_are_inverse_and_zero_points_are_those_of_the_units():
    flux = np.array([1e-3, 1.0, 1e6])
    np.testing.assert_allclose(flux_of_magnitude(ab_magnitude(flux)), flux, rtol=1e-12)
    # 3631 Jy is magnitude 0, µJy have 23.9, nanomaggies 22.5 (Fukugita et al. 1996)
    assert ab_magnitude(np.array(3631e9)) == pytest.approx(0, abs=1e-4)
    assert njy_per_count(23.9) == pytest.approx(1000)
    assert njy_per_count(22.5) == pytest.approx(3631, rel=1e-3)
    assert np.isnan(ab_magnitude(np.array([0.0, -1.0, np.nan]))).all()
    assert magnitude_error(np.array(100.0), np.array(1.0)) == pytest.approx(
        ab_magnitude(np.array(99.5)) - ab_magnitude(np.array(100.5)), rel=1e-4
    )


def test_robust_scatter_is_that_of_astropy_and_minds_no_outlier():
    from astropy.stats import mad_std

    values = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 501))
    values[:, :20] = 1e6
    np.testing.assert_allclose(robust_scatter(values), mad_std(values, axis=1), rtol=1e-4)
    np.testing.assert_array_equal(robust_scatter(values.T, axis=0), robust_scatter(values))


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ("ugriz", "i"),
        ("gr", "r"),
        (("u", "g", "z"), "z"),
        (("HSC-G", "HSC-I"), "HSC-I"),
        (("J", "H", "Ks"), "H"),
        (("NUV",), "NUV"),
    ],
)
def test_one_rule_chooses_the_reference_band(bands, expected):
    assert reference_band(bands) == expected
