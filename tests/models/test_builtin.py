"""The built-in models are complete, have metadata, and draw galaxies."""

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.models.bundle import BUILTIN_DIRECTORY, Model, list_builtin
from deepfits.models.card import describe
from deepfits.observation import Sight
from deepfits.survey.store import StoreInfo


def test_a_model_is_built_in():
    assert "clauds-hsc" in list_builtin()


@pytest.mark.parametrize("name", list_builtin())
def test_builtin_models_are_small_and_described(name):
    model = Model.load(f"builtin:{name}")
    assert sum(p.stat().st_size for p in (BUILTIN_DIRECTORY / name).iterdir() if p.is_file()) < 5e6
    text = describe(model, name)
    assert "On held-out objects" in text
    assert model.card["metrics"]["chi2_both"] < 1.2
    assert not model.card["metrics"]["collapsed"]
    assert model.card["data"]["num_used"] > 5_000
    with pytest.raises(InputError, match="do not fit the model"):
        model.check(StoreInfo(bands=("J", "H"), size=32, pixel_scale_arcsec=0.4))


@pytest.mark.parametrize("name", list_builtin())
def test_drawings_are_centrally_bright_and_varied(name):
    model = Model.load(f"builtin:{name}")
    latent = torch.randn(300, model.config.latent_size, generator=torch.Generator().manual_seed(0))
    image = model.render(latent).numpy()
    middle = image[:, :, 13:19, 13:19].mean(axis=(2, 3))
    border = np.median(np.concatenate([image[:, :, :2], image[:, :, -2:]], axis=2), axis=(2, 3))
    assert (middle > border).mean() > 0.9
    magnitude = 31.4 - 2.5 * np.log10(np.clip(36 * middle[:, 3], 1, None))
    assert magnitude.std() > 0.5
    colour = np.log(np.clip(middle[:, 1], 0.1, None) / np.clip(middle[:, 3], 0.1, None))
    assert colour.std() > 0.2


@pytest.mark.parametrize("name", list_builtin())
def test_the_embedder_inverts_the_generator(name):
    model = Model.load(f"builtin:{name}")
    latent = torch.randn(300, model.config.latent_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sight = None
        if model.grid is not None:  # as observed by a deep survey
            info = model.info
            nominal = Sight.nominal(model.grid, len(info.bands), info.size, info.pixel_scale_arcsec)
            sight = nominal.take([0] * 300)
        image = model.render(latent, sight)
        guess = model.embed(image, torch.ones_like(image), sight)
        again = model.render(guess, sight)
    # 1 means no information; with neighbours masked, most latents of a single galaxy are unconstrained
    assert ((guess - latent) ** 2).mean() < (0.9 if sight is None else 0.98)
    middle = (slice(None), slice(None), slice(12, 20), slice(12, 20))
    correlation = np.corrcoef(*(x[middle].sum((2, 3)).clamp(min=1).log().flatten() for x in (image, again)))[
        0, 1
    ]
    assert correlation > 0.9


def test_the_clauds_hsc_model_has_a_model_error():
    from deepfits.fitting.model_error import ModelError
    from deepfits.fitting.own_light import OwnFluxes

    model = Model.load("builtin:clauds-hsc")
    assert model.model_error is not None
    known = ModelError.from_json(model.model_error, 5, "clauds-hsc")
    flux, noise = (np.tile(values, (2, 5, 1)).T for values in ([100.0, 1e5], [3.0, 20.0]))
    area = np.array([[3.0, 4.0], [3.0, 30.0]])
    own = OwnFluxes(flux=flux, noise=noise, area=area, unsure=0 * flux, beyond=np.zeros(2))
    error = known.flux_error("flux_model", own)[:, 3]
    assert 5 < error[0] < 20  # faint: neighbours dominate over noise
    assert 0.01 < error[1] / 1e5 < 0.12  # bright: the error of the drawing dominates over noise
    assert np.shape(known.latent_nuisance) == (64, 64)
    assert (np.linalg.eigvalsh(known.latent_nuisance) > 0).all()
