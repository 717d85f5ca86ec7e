"""What a model gets wrong: learnt without truth, carried by the model, and applied to errors of fluxes."""

import dataclasses

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.fitting.model_error import FLUXES, ModelError, _blend, median_of


def test_the_light_of_neighbours_makes_pulls_one_wide():
    """Noise, 4% of the flux, and neighbours of g = 0.6: found within what 4,000 draws allow."""
    rng = np.random.default_rng(1)
    truth = np.exp(rng.uniform(4, 9, 4000))
    noise = 8 + 0.002 * truth
    spread = np.sqrt(noise**2 + 0.6**2 * noise * truth + (0.04 * truth) ** 2)
    flux = truth + spread * rng.normal(size=4000)
    assert _blend(flux, noise, truth, 0.04) == pytest.approx(0.6, rel=0.08)
    assert _blend(truth + noise * rng.normal(size=4000), noise, truth, 0.0) < 0.1
    assert _blend(flux[:10], noise[:10], truth[:10], 0.04) == 0  # too few


@pytest.fixture
def known():
    return ModelError(
        flux_fraction={kind: (0.03, 0.04) for kind in FLUXES},
        flux_blend={kind: (0.5, 1.0) for kind in FLUXES},
        light_fraction=(0.1, 0.2),
        usual={part: (1.0, 0.5) for part in ("structure", "extended", "colour", "latent")},
        latent_trend=(0.5, 0.1, 2.0, 8.0),
        latent_nuisance=((1.0, 0.2), (0.2, 2.0)),
    )


def test_errors_of_fluxes_have_both_terms(known):
    error = known.flux_error("flux_model", 0, np.array([0.0, 1000.0]), np.array([5.0, 20.0]))
    np.testing.assert_allclose(error, [5.0, np.sqrt(400 + 0.25 * 20_000 + 900)])
    unknown = ModelError.unknown(2).flux_error("flux_model", 0, np.array([1000.0]), np.array([20.0]))
    np.testing.assert_allclose(unknown, 20.0)


def test_latents_are_held_against_those_of_galaxies_as_bright(known):
    found = known.unusual_latent(np.array([1.0, 1.0, 2.0]), np.exp([3.0, 5.0, 20.0]))
    np.testing.assert_allclose(found, [0.2, 0.0, 0.7], atol=1e-6)  # held at the brightest that was learnt


def test_it_comes_back_from_json_and_what_is_wrong_is_named(known):
    assert ModelError.from_json(known.to_json(), 2, "model x") == known
    with pytest.raises(InputError, match=r"model x: model_error .*3 finite numbers"):
        ModelError.from_json(known.to_json(), 3, "model x")
    for broken in ({"usual": {}}, {"light_fraction": [1.0, float("nan")]}, {"latent_trend": None}):
        with pytest.raises(InputError, match="train again"):
            ModelError.from_json({**known.to_json(), **broken}, 2, "model x")


def test_median_over_surveys(known):
    three = [known, known, dataclasses.replace(known, light_fraction=(9.0, 9.0))]
    found = median_of(three)
    assert found.light_fraction == known.light_fraction
    assert found.usual == known.usual
    np.testing.assert_allclose(found.latent_nuisance, known.latent_nuisance)
