"""Normalisation: there and back, the slope, and constants that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfits.errors import InputError
from deepfits.survey.normalise import Normalisation, is_complete, measure_normalisation

KINDS = ["standard", "asinh"]


def images(rng, number=200):
    image = np.stack([rng.normal(3, 2, (number, 8, 8)), rng.normal(0, 5, (number, 8, 8))], axis=1)
    return image.astype(np.float32), np.stack(
        [np.full((number, 8, 8), 0.25), np.full((number, 8, 8), 0.04)], axis=1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_images_get_mean_zero_and_width_one(kind):
    image, weight = images(np.random.default_rng(0))
    x = measure_normalisation(image, weight, kind).normalise(image)
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=1e-5)


def test_standard_is_the_papers():
    image, weight = images(np.random.default_rng(1))
    made = measure_normalisation(image, weight, "standard")
    np.testing.assert_allclose(made.mean, image.mean(axis=(0, 2, 3), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(made.std, image.std(axis=(0, 2, 3), dtype=float), rtol=1e-6)


def test_softening_is_three_sigma_of_the_pixels():
    image, weight = images(np.random.default_rng(1))
    assert measure_normalisation(image, weight).softening == pytest.approx((6.0, 15.0))


def test_pixels_without_data_have_no_say():
    image, weight = images(np.random.default_rng(2))
    spoilt, holes = image.copy(), weight.copy()
    spoilt[:, :, 2, 3], holes[:, :, 2, 3] = 1e9, 0
    kept = np.ones((8, 8), bool)
    kept[2, 3] = False
    for kind in KINDS:
        made = measure_normalisation(spoilt, holes, kind)
        apart = measure_normalisation(image[:, :, kept][..., None], weight[:, :, kept][..., None], kind)
        np.testing.assert_allclose(made.mean, apart.mean, rtol=1e-12)
        np.testing.assert_allclose(made.std, apart.std, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(
    flux=st.floats(-1e4, 1e6), softening=st.floats(0.1, 100), mean=st.floats(-3, 3), std=st.floats(0.1, 10)
)
def test_there_and_back_and_the_slope(kind, flux, softening, mean, std):
    made = Normalisation(kind=kind, mean=(mean,), std=(std,), softening=(softening,))
    value = np.full((1, 1, 1), flux)
    np.testing.assert_allclose(
        made.denormalise(made.normalise(value)), value, rtol=1e-9, atol=1e-9 * softening
    )
    step = 1e-4 * (abs(flux) + softening)
    numeric = (made.normalise(value + step) - made.normalise(value - step)) / (2 * step)
    np.testing.assert_allclose(made.slope(value), numeric, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_agree(kind):
    image, weight = images(np.random.default_rng(3), 5)
    made = measure_normalisation(image, weight, kind)
    for name in ("normalise", "slope"):
        there = getattr(made, name)(torch.from_numpy(image))
        assert there.dtype == torch.float32
        np.testing.assert_allclose(there.numpy(), getattr(made, name)(image), rtol=2e-6, atol=1e-6)
    x = made.normalise(image)
    np.testing.assert_allclose(made.denormalise(torch.from_numpy(x)).numpy(), image, rtol=1e-5, atol=1e-5)


def test_asinh_is_linear_near_zero_and_logarithmic_above():
    made = Normalisation(kind="asinh", mean=(0.0,), std=(1.0,), softening=(10.0,))
    flux = np.array([0.01, 1e6, 1e7]).reshape(3, 1, 1, 1)
    x = made.normalise(flux).ravel()
    assert x[0] == pytest.approx(0.001, rel=1e-6)
    assert x[2] - x[1] == pytest.approx(np.log(10), rel=1e-6)


def test_json_round_trip():
    made = Normalisation(kind="asinh", mean=(0.1, 2.0), std=(1.0, 3.0), softening=(4.0, 5.0))
    assert Normalisation.from_json(made.to_json()) == made
    with pytest.raises(InputError, match="must be given"):
        Normalisation.from_json({"kind": "asinh", "mean": [0.0]})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "log"},
        {"std": (0.0, 1.0)},
        {"mean": (float("nan"), 0.0)},
        {"softening": (1.0,)},
        {"softening": (-1.0, 1.0)},
    ],
)
def test_constants_that_cannot_be(change):
    good = {"kind": "asinh", "mean": (0.0, 0.0), "std": (1.0, 1.0), "softening": (1.0, 1.0)}
    with pytest.raises(InputError, match="normalisation"):
        Normalisation(**(good | change))


def test_measuring_needs_pixels_that_vary():
    image, weight = images(np.random.default_rng(4), 3)
    with pytest.raises(InputError, match="no valid pixel in band number 1"):
        measure_normalisation(image, weight * np.array([1.0, 0.0])[:, None, None])
    with pytest.raises(InputError, match="same value in every pixel"):
        measure_normalisation(image * 0, weight)
    with pytest.raises(InputError, match="choose one of"):
        measure_normalisation(image, weight, "log")


def test_complete_objects():
    image, weight = images(np.random.default_rng(5), 4)
    weight[1, 0, 3, 3] = 0
    image[2, 1, 0, 0] = np.nan
    assert is_complete(image, weight).tolist() == [True, False, False, True]
