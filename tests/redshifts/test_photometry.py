"""Aperture photometry of cutouts: exact fluxes, colours with different seeing, missing pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.fitting.similarity import Similarity
from deepfits.gaussian_psf import moffat_psf
from deepfits.photometry import RADII_ARCSEC, aperture_names, asinh_magnitude, matched_gaussians
from deepfits.redshifts.features import (
    BLOCKS,
    MODEL_FLUXES,
    FeatureRecipe,
    Source,
    magnitude_features,
    model_features,
    size_features,
)
from deepfits.redshifts.methods.neighbours import train_neighbours
from deepfits.redshifts.photometry import (
    COMMON_FWHM_ARCSEC,
    aperture_photometry,
    matched_photometry,
)

SIZE = 32
PSF = moffat_psf(0.8)[None]


def gaussian(sigma, flux=1.0, size=SIZE):
    offset = np.arange(size) - (size - 1) / 2
    image = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    return flux * image / (2 * np.pi * sigma**2)


def test_pixels_without_data_have_no_influence():
    image = np.tile(gaussian(3.0, 100.0), (2, 1, 1, 1))
    weight = np.ones_like(image)
    weight[:, :, 10:12, 14:18] = 0
    spoiled = np.where(weight > 0, image, 1e30)
    for one, other in zip(
        aperture_photometry(image, weight, PSF, pixel_scale_arcsec=0.17),
        aperture_photometry(spoiled, weight, PSF, pixel_scale_arcsec=0.17),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()


def test_flux_errors_agree_with_the_noise():
    generator = np.random.default_rng(1)
    image = generator.normal(scale=2.0, size=(4000, 1, SIZE, SIZE))
    flux, flux_err = aperture_photometry(image, np.full_like(image, 0.25), PSF, pixel_scale_arcsec=0.17)
    # the standard deviation of 4000 draws has an error of 1.1%
    np.testing.assert_allclose((flux / flux_err).std(axis=0), 1.0, atol=0.05)


def test_matched_gaussians_give_colours_independent_of_seeing():
    sigma_psf, sigma_galaxy, ratio = np.array([2.6, 1.8]), 2.0, 0.4
    image = np.stack(
        [
            gaussian(np.hypot(sigma, sigma_galaxy), flux)
            for sigma, flux in zip(sigma_psf, (1000 * ratio, 1000), strict=True)
        ]
    )[None]
    psf = np.stack([np.ones(2), np.sqrt(sigma_psf**2 - 1 / 12)], axis=1)[:, None]  # without the pixel
    flux, _ = aperture_photometry(
        image, np.ones_like(image), psf, pixel_scale_arcsec=1.0, radii_arcsec=(4.0,)
    )
    circular, matched = flux[0, :, 0] / flux[0, :, 1]
    # exact except for flux outside the 32 pixels
    assert matched == pytest.approx(ratio, rel=1e-3)
    assert abs(circular / ratio - 1) > 0.05


def test_matched_gaussians_give_the_flux_of_point_sources():
    image = gaussian(2.2, 300.0)[None, None]
    psf = np.array([[[1.0, 0.2 * math.sqrt(2.2**2 - 1 / 12)]]])
    flux, _ = aperture_photometry(image, np.ones_like(image), psf, pixel_scale_arcsec=0.2)
    assert flux[0, -1, 0] == pytest.approx(300.0, rel=1e-3)


@pytest.mark.parametrize("half_light", [0.0, 0.2, 0.5, 1.0])
def test_matched_gaussians_correct_for_the_wings_of_each_psf(half_light):
    import galsim

    scale, seeing = 0.2, [[(1.1, 2.5), (0.7, 4.5)], [(0.8, 3.0), (1.0, 3.5)]]
    galaxy = galsim.Exponential(half_light_radius=half_light) if half_light else galsim.DeltaFunction()
    image = np.stack(
        [
            [
                galsim.Convolve(galaxy, galsim.Moffat(beta, fwhm=fwhm))
                .drawImage(nx=SIZE, ny=SIZE, scale=scale)
                .array
                for fwhm, beta in bands
            ]
            for bands in seeing
        ]
    )
    psf = np.array([[moffat_psf(*band) for band in bands] for bands in seeing])
    flux, _ = aperture_photometry(image, np.ones_like(image), psf, pixel_scale_arcsec=scale)
    # if only the widths of the PSFs were used, fluxes of the first would be wrong by 13 to 23%
    np.testing.assert_allclose(flux[:, -1, 0] / flux[:, -1, 1], 1, atol=0.004)
    if not half_light:
        np.testing.assert_allclose(flux[:, -1], 1, atol=0.004)


def test_an_unknown_psf_is_replaced_by_the_widest_known_one():
    known = np.array([moffat_psf(0.7), moffat_psf(1.1), moffat_psf(1.1)])
    unknown = np.array([moffat_psf(0.7), moffat_psf(1.1), moffat_psf(np.nan)])
    for found, expected in zip(matched_gaussians(unknown, 0.2), matched_gaussians(known, 0.2), strict=True):
        np.testing.assert_array_equal(found, expected)
    nothing = np.full_like(known, np.nan)
    assert np.isfinite(matched_gaussians(nothing, 0.2)).all()


def test_feature_names_match_columns():
    generator = np.random.default_rng(2)
    flux = generator.uniform(10, 100, size=(5, 3, 4))
    bands, apertures = list("ugri"), aperture_names()
    features = magnitude_features(flux, np.ones((3, 4)), bands, apertures)
    values, names = features.values, features.names
    assert values.shape == (5, len(names))
    assert len(set(names)) == len(names)
    column = dict(zip(names, values.T, strict=True))
    np.testing.assert_allclose(
        column["colour_gauss_g_r"], column["mag_gauss_g"] - column["mag_gauss_r"], atol=1e-5
    )
    np.testing.assert_allclose(
        column["growth_aper2p5_u"], column["mag_aper2p5_u"] - column["mag_aper1p5_u"], atol=1e-5
    )
    np.testing.assert_allclose(column["mag_gauss_r"], asinh_magnitude(flux[:, 2, 2], 1.0), rtol=1e-6)


def make_columns(number=40, with_errors=True):
    generator = np.random.default_rng(0)
    columns = {"object_id": np.arange(number), "latent": generator.normal(size=(number, 3)).astype("f4")}
    for band in "gr":
        columns[f"flux_model_{band}"] = 100 * generator.uniform(0.5, 2, number)
        for name in aperture_names():
            columns[f"flux_{name}_{band}"] = 80 * generator.uniform(0.5, 2, number)
            if with_errors:
                columns[f"flux_{name}_err_{band}"] = np.full(number, 3.0)
    return columns


def source_of(columns):
    return Source(columns=columns, bands=("g", "r"), has_spread="spread" in columns)


def test_model_features_are_magnitudes_of_joined_fluxes():
    source = source_of(make_columns())
    softening = BLOCKS["model"].softening(source)
    np.testing.assert_array_equal(softening, np.full((3, 2), 3.0))
    matrix = model_features(source, softening)
    column = dict(zip(matrix.names, matrix.values.T, strict=True))
    gauss = asinh_magnitude(source.columns["flux_gauss_g"], 3.0)
    np.testing.assert_allclose(column["mag_fit_gauss_g"], gauss, rtol=1e-6)
    assert "mag_model_g" not in column


@pytest.mark.parametrize("gone", ["flux_gauss_g", "flux_gauss_", "flux_"])
def test_features_without_joined_fluxes_are_refused(gone):
    recipe = FeatureRecipe.learn("model", source_of(make_columns()))
    columns = {name: values for name, values in make_columns().items() if not name.startswith(gone)}
    assert "latents" in source_of(columns).available()
    with pytest.raises(InputError, match=r"flux_gauss_<band>.*fit again"):
        recipe.make(source_of(columns))


def test_model_features_do_not_depend_on_other_objects():
    columns = make_columns(with_errors=False)
    softening = BLOCKS["model"].softening(source_of(columns))
    matrix = model_features(source_of(columns), softening)
    some = model_features(source_of({name: values[3:7] for name, values in columns.items()}), softening)
    np.testing.assert_array_equal(some.values, matrix.values[3:7])


def test_size_features_are_log_radii_and_concentrations():
    columns = {
        "half_light_arcsec_g": np.array([0.5, np.nan, 1.0]),
        "half_light_arcsec_r": np.array([0.5, 0.0, np.e]),
        "concentration_g": np.array([2.5, np.nan, 3.0]),
        "concentration_r": np.array([2.6, np.inf, 3.1]),
    }
    found = size_features(columns, ("g", "r"))
    assert found.names == ("log_half_light_g", "log_half_light_r", "concentration_g", "concentration_r")
    np.testing.assert_allclose(found.values[2], [0.0, 1.0, 3.0, 3.1], rtol=1e-6)
    assert np.isnan(found.values[1]).all()
    with pytest.raises(InputError, match=r"no radii .* in \['i'\]; fit again"):
        size_features(columns, ("g", "i"))


def test_every_model_feature_occurs_once():
    columns = {}
    for band in "gr":
        for name in ("flux_model", *MODEL_FLUXES.values(), "half_light_arcsec", "concentration"):
            columns[f"{name}_{band}"] = np.array([1.0, 2.0, 3.0])
    columns |= {"spread": np.array([0.0, 0.02, np.nan]), "spread_err": np.array([0.001, 0.01, np.nan])}
    made = model_features(source_of(columns), BLOCKS["model"].softening(source_of(columns)))
    names = made.names
    np.testing.assert_allclose(made.values[:, names.index("spread")], [0, np.arcsinh(2), np.nan], rtol=1e-6)
    assert made.values[1, names.index("spread_sigma")] == pytest.approx(np.arcsinh(2), rel=0.02)
    assert len(set(names)) == len(names)
    assert {"log_half_light_g", "concentration_r", "mag_fit_gauss_g"} <= set(names)
    columns |= {name: np.arange(3.0)[:, None] for name in ("latent", "object_id")}
    recipe = FeatureRecipe.learn("model", source_of(columns))
    whole, alone = (
        recipe.make(source_of({name: values[rows] for name, values in columns.items()}))
        for rows in (slice(None), [2])
    )
    assert alone.names == whole.names, "an object without a spread has other features alone"
    np.testing.assert_array_equal(alone.values, whole.values[[2]])
    without = source_of({name: values for name, values in columns.items() if name != "spread"})
    with pytest.raises(InputError, match="no column 'spread', which the model was trained on"):
        recipe.make(without)


def observe_gaussian(sigma_galaxy, psf, size, pixel):
    """Return a Gaussian galaxy of 1000 nJy convolved with a multi-Gaussian PSF and the pixels: ``(H, W)``."""
    edges = (np.arange(size + 1) - size / 2) * pixel
    image = np.zeros((size, size))
    for weight, sigma in np.asarray(psf, dtype=float):
        steps = np.diff(
            [0.5 * math.erf(edge / math.hypot(sigma, sigma_galaxy) / math.sqrt(2)) for edge in edges]
        )
        image += 1000 * weight * np.outer(steps, steps)
    return image


@pytest.mark.parametrize(("size", "pixel", "fwhm", "beta"), [(32, 0.17, 0.7, 3.0), (14, 0.396, 1.4, 4.5)])
@pytest.mark.parametrize("sigma_galaxy", [0.01, 0.5])
def test_fluxes_at_the_common_psf_agree_with_an_image_with_this_psf(size, pixel, fwhm, beta, sigma_galaxy):
    psf = moffat_psf(fwhm, beta)
    image = observe_gaussian(sigma_galaxy, psf, size, pixel)[None, None]
    flux, _ = matched_photometry(image, np.ones_like(image), psf[None, None], pixel_scale_arcsec=pixel)
    squared = (COMMON_FWHM_ARCSEC / 2.3548) ** 2 + sigma_galaxy**2
    expected = [1000 * (1 - math.exp(-(radius**2) / 2 / squared)) for radius in RADII_ARCSEC]
    np.testing.assert_allclose(flux[0, :, 0], expected, rtol=0.015)  # cutouts end at 2.7 arcsec


def test_errors_at_the_common_psf_and_nan_for_a_wider_psf():
    image = np.random.default_rng(2).normal(scale=2.0, size=(1500, 2, 20, 20))
    psf = np.stack([moffat_psf(0.9), moffat_psf(1.9)])
    psf = np.broadcast_to(psf, (1500, *psf.shape))
    flux, error = matched_photometry(image, np.full_like(image, 0.25), psf, pixel_scale_arcsec=0.26)
    np.testing.assert_allclose((flux / error).std(axis=0)[:, 0], 1.0, atol=0.08)  # standard error 1.8%
    assert np.isnan(flux[:, :, 1]).all()


def mixed_latents(number=400, length=12):
    """Return latents of which one direction is informative, the value, and the similarity matrix."""
    generator = np.random.default_rng(5)
    turn = np.linalg.qr(generator.normal(size=(length, length)))[0]
    noise = np.concatenate([[0.05], np.full(length - 1, 1.0)])
    value = generator.normal(size=number)
    latent = noise * generator.normal(size=(number, length))
    latent[:, 0] += value
    nuisance = (turn * noise**2) @ turn.T
    return (latent @ turn.T).astype("f4"), value, Similarity.of(nuisance).matrix


def test_latents_are_scaled_by_the_similarity_matrix():
    latent, value, matrix = mixed_latents()
    columns = {**make_columns(400), "latent": latent, "latent_std": np.full_like(latent, 0.5)}
    known = replace(source_of(columns), similarity=matrix)
    recipe = FeatureRecipe.learn("extended", known)
    made = recipe.make(source_of(columns))  # for objects without a similarity matrix
    np.testing.assert_allclose(made.values[:, :12], latent @ matrix, rtol=1e-5)
    errors = np.tile(0.5 * np.sqrt((matrix**2).sum(axis=0)), (400, 1))
    np.testing.assert_allclose(made.errors[:, :12], errors, rtol=1e-5)
    assert made.is_latent.tolist() == [True] * 12 + [False] * (len(made.names) - 12)
    assert FeatureRecipe.learn("model", known).similarity is None
    np.testing.assert_array_equal(FeatureRecipe.learn("oriented", known).make(known).values, latent)
    errors = {}
    for name, source in (("plain", source_of(columns)), ("in units", known)):
        matrix_of = FeatureRecipe.learn("latents", source).make(source)
        train, test = np.arange(200), np.arange(200, 400)
        neighbours = train_neighbours(
            *(matrix_of.values[train], value[train], matrix_of.values[train], value[train]),
            together=matrix_of.is_latent,
        )
        errors[name] = np.std(neighbours.point(matrix_of.values[test]) - value[test])
    # in the plain distance, eleven directions of noise dominate over the informative one
    assert errors["in units"] < 0.3 < 0.5 < errors["plain"]
