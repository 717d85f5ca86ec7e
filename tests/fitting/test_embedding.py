"""Embeddings: the embedder's output for the drawn image, independent of which latent draws it."""

import dataclasses

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.fitting.similarity import SHRINKAGE_STRENGTH, shrink_latents
from deepfits.models.bundle import Model
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.symmetries import NUM_SYMMETRIES, symmetry


@pytest.fixture(scope="module")
def model():
    return Model.load("builtin:clauds-hsc")


def test_embedding_is_the_mean_over_eight_orientations_of_the_drawing(model):
    fitter = Fitter(model, FitSettings(mode="embedder"), model.info, threads=1)
    latent = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    latent[3, 7] = torch.nan
    found = fitter.embedding(latent)
    with torch.no_grad():
        drawn = model.render(latent[:3])
        answers = [model.embed(symmetry(drawn, n), torch.ones_like(drawn)) for n in range(NUM_SYMMETRIES)]
    torch.testing.assert_close(found[:3], torch.stack(answers).mean(0), rtol=1e-3, atol=1e-4)
    assert found[3].isnan().all()
    assert found[4].isfinite().all()
    assert found[:3].std() > 0.1
    assert fitter.embedding(latent[:0]).shape == (0, 64)


@pytest.mark.slow
def test_embeddings_repeat_better_than_latents_over_starts(model):
    draw = torch.Generator().manual_seed(2)
    sigma = torch.tensor(model.normalisation.softening)[:, None, None] / 3
    with torch.no_grad():
        guess = 0.7 * torch.randn(24, 64, generator=draw)
        image = (model.render(guess) + sigma * torch.randn(24, 5, 32, 32, generator=draw)).numpy()
    weight = (sigma**-2).expand(24, 5, 32, 32).numpy()

    def fitted(mode):
        fitter = Fitter(model, FitSettings(mode=mode, uncertainty=False), model.info, threads=1)
        latent = fitter.fit(np.arange(24), image, weight).fit.latent
        return latent, fitter.embedding(latent)

    def repeat(first, second):
        same, different = (first - second).norm(dim=1), (first - second.roll(1, 0)).norm(dim=1)
        return float(same.median() / different.median())

    (latent, embedding), (latent_again, again) = fitted("both"), fitted("optimise")
    assert repeat(latent, latent_again) > 0.15
    assert repeat(embedding, again) < 0.6 * repeat(latent, latent_again)


def test_scene_embeddings_do_not_depend_on_the_pixel_scale():
    model = Model.load("builtin:ugriz")
    latent = torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    found = []
    for size, pixel in ((32, 0.168), (14, 0.396)):
        info = dataclasses.replace(model.info, size=size, pixel_scale_arcsec=pixel)
        found.append(Fitter(model, FitSettings(mode="embedder"), info, threads=1).embedding(latent))
    torch.testing.assert_close(*found)
    assert found[0].std() > 0.01


def test_redshift_features_use_the_embedding_and_require_it_later():
    rng = np.random.default_rng(4)
    latent, embedding = rng.normal(size=(2, 6, 3)).astype(np.float32)
    columns = {"object_id": np.arange(6), "latent": latent, "embedding": embedding}
    matrix = 2 * np.eye(3, dtype=np.float32)
    source = Source(columns=columns, bands=(), similarity=matrix)
    recipe = FeatureRecipe.learn("latents", source)
    made = recipe.make(source)
    np.testing.assert_array_equal(made.values, 2 * embedding)
    assert made.names[0] == "embedding_0"
    assert made.is_latent.all()
    np.testing.assert_array_equal(FeatureRecipe.learn("oriented", source).make(source).values, latent)
    before = Source(columns={k: v for k, v in columns.items() if k != "embedding"}, bands=())
    with pytest.raises(InputError, match="no column 'embedding', which the model was trained on: fit again"):
        recipe.make(before)
    np.testing.assert_array_equal(FeatureRecipe.learn("latents", before).make(before).values, latent)


def test_scene_embeddings_include_a_fraction_of_the_latent():
    """Directions to which the embedder is insensitive still distinguish galaxies."""
    model = Model.load("builtin:ugriz")
    fitter = Fitter(model, FitSettings(mode="embedder"), model.info, threads=1)
    latent = torch.randn(3, 64, generator=torch.Generator().manual_seed(4))
    sight = fitter.nominal_sight(3)
    with torch.no_grad():
        drawn = fitter.draw(latent, sight)
    weight = (torch.tensor(model.normalisation.softening)[:, None, None] / 3) ** -2
    answers = [
        fitter.embed(symmetry(drawn, n), weight.expand_as(drawn), sight) for n in range(NUM_SYMMETRIES)
    ]
    share = fitter.embedding(latent) - torch.stack(answers).mean(0)
    torch.testing.assert_close(share, 0.05 * latent, rtol=0.1, atol=0.01)


def test_compared_latents_are_those_of_a_narrower_prior():
    """Exact for drawings linear in the latent; NaN and fits without a prior do not change."""
    rng = np.random.default_rng(0)
    jacobian, data = rng.normal(size=(20, 3)), rng.normal(size=20)
    curvature, pull = jacobian.T @ jacobian, jacobian.T @ data
    covariance = np.linalg.inv(curvature + np.eye(3))
    wanted = np.linalg.solve(curvature + SHRINKAGE_STRENGTH * np.eye(3), pull)
    found = shrink_latents((covariance @ pull)[None], covariance[None], 1.0)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-12)
    latent, unknown = np.ones((2, 3)), np.full((2, 3, 3), np.nan)
    np.testing.assert_array_equal(shrink_latents(latent, unknown, 1.0), latent)
    np.testing.assert_array_equal(shrink_latents(latent, np.stack([covariance] * 2), 0.0), latent)
    assert np.isnan(shrink_latents(np.full((1, 3), np.nan), covariance[None], 1.0)).all()
