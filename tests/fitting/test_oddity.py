"""Oddities of galaxies, artefacts of images, and pixels without influence."""

import numpy as np
import pytest

from deepfits.fitting.oddity import residual_figures

BANDS = ("g", "r", "i")
SIZE, SIGMA, NOISE = 32, 2.0, 1.0


def source(x: float, y: float, flux: float, sigma: float = SIGMA) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return flux * profile / profile.sum()


@pytest.fixture
def scene():
    """Return drawing, image and weight of a galaxy that is drawn correctly except for 3% of its flux."""
    drawn = np.stack([source(15.5, 15.5, flux, 3.0) for flux in (3000.0, 5000.0, 6000.0)])[None]
    noise = np.random.default_rng(1).normal(0, NOISE, drawn.shape)
    wrong = 0.03 * np.stack([source(15.5, 15.5, flux, 4.0) for flux in (3000.0, 5000.0, 6000.0)])
    return drawn, 0.97 * drawn + wrong + noise, np.full(drawn.shape, NOISE**-2)


def figures(drawn, image, weight, pixel_scale_arcsec=0.2):
    return residual_figures(
        image,
        weight,
        drawn,
        radius_pixels=np.array([10.0]),
        fraction=np.full(3, 0.03),
        noise=np.ones(3),
        bands=BANDS,
        pixel_scale_arcsec=pixel_scale_arcsec,
    )


def test_typical_model_errors_are_not_odd(scene):
    found = figures(*scene)
    assert 0 < found["structure"][0] < 4
    assert 0 < found["colour"][0] < 5
    assert found["artefact"][0] == 0


def test_second_nucleus_is_a_structure_at_its_position(scene):
    drawn, image, weight = scene
    image += source(15.5, 21.5, 600.0)
    found = figures(drawn, image, weight)
    assert found["structure"][0] > 8
    assert found["artefact"][0] == 0
    words = found["structure_words"][0]
    assert words.startswith("structure in all bands, brighter than the model")
    # The flux of the galaxy hides the inner side of the nucleus.
    assert float(words.split("model ")[1].split(" arcsec")[0]) == pytest.approx(1.5, abs=0.3)
    words = figures(drawn, image, weight, 0.005)["structure_words"][0]
    assert float(words.split("model ")[1].split(" arcsec")[0]) == pytest.approx(1.5 / 40, rel=0.2)


def test_knot_of_another_colour_names_its_band(scene):
    drawn, image, weight = scene
    image[:, 0] += source(20.0, 15.5, 500.0)
    found = figures(drawn, image, weight)
    assert found["colour"][0] > 1.4 * found["structure"][0]
    assert found["colour_words"][0].startswith("another colour in g, brighter")
    assert found["artefact"][0] == 0


def test_a_part_of_another_colour_in_several_bands_lists_them(scene):
    drawn, image, weight = scene
    image += source(20.0, 15.5, 500.0)
    words = figures(drawn, image, weight)["colour_words"][0]
    assert words.startswith("another colour in g, r and i, brighter")


def test_features_sharper_than_the_psf_are_artefacts(scene):
    drawn, image, weight = scene
    ordinary = figures(*scene)
    image = image.copy()
    image[0, 2, 12, 12:15] += 60.0
    found = figures(drawn, image, weight)
    assert found["artefact"][0] > 10
    assert found["artefact_words"][0].startswith("artefact in i: sharper than the PSF")
    assert found["colour"][0] < ordinary["colour"][0] + 1


def test_wrong_psf_of_one_band_is_an_artefact(scene):
    drawn, image, weight = scene
    image = image.copy()
    image[:, 1] += 0.5 * (source(15.5, 15.5, 5000.0, 2.4) - source(15.5, 15.5, 5000.0, 3.0))
    found = figures(drawn, image, weight)
    assert found["artefact_words"][0].startswith("PSF of r")


def test_pixels_without_weight_or_outside_the_galaxy_have_no_influence(scene):
    drawn, image, weight = scene
    weight = weight.copy()
    weight[0, :, 8:14, 18:24] = 0
    before = figures(drawn, image, weight)
    image = image.copy()
    image[0, :, 8:14, 18:24] += 1000.0
    image[0, :, :3, :3] -= 500.0
    after = figures(drawn, image, weight)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    empty = figures(drawn, image, np.zeros_like(weight))
    assert empty["structure"][0] == empty["colour"][0] == 0
