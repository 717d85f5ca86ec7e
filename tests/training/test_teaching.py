"""The fitting aids: trained after the model, saved with it, and used by fits."""

import json

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.features import read_features
from deepfits.fitting.fitter import FitSettings, Fitter
from deepfits.fitting.metric import TrainedMetric, logarithms_at
from deepfits.models.bundle import Model
from deepfits.splits import is_held_out
from deepfits.stages.fit import fit
from deepfits.stages.teach import teach
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from tests.helpers.small_model import BANDS, make_model

L, NUM = 6, 96


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Write noisy cutouts drawn by an untrained generator that depends strongly on its latent."""
    directory = tmp_path_factory.mktemp("sky")
    info = StoreInfo(bands=BANDS, size=16, pixel_scale_arcsec=0.3)
    model = make_model(directory / "model", info, latent_size=L, gain=2.2)
    latent = torch.randn(NUM, L)
    rng = np.random.default_rng(4)
    clean = model.render(latent).numpy()
    image = (clean + rng.normal(size=clean.shape)).astype(np.float32)
    weight = np.ones_like(image)
    weight[3, 0], weight[4, :, :5] = 0, 0
    image[3, 0] = np.nan
    create_store(directory / "store", info)
    ids = np.arange(NUM) + 100
    others = np.zeros((NUM, 16, 16), dtype=bool)
    others[::2, 12:, 12:] = True
    write_shard(
        directory / "store" / shard_name(0),
        Cutouts(object_id=ids, image=image, weight=weight, is_neighbour=others), info,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def taught(sky):
    return teach(
        sky / "model", sky / "store", sky / "taught", steps=80, num_reference=160, batch_size=12,
        learning_rate=5e-3, threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(taught):
    return Model.load(taught)


def held_out(sky):
    cutouts = CutoutStore(sky / "store").take(np.flatnonzero(is_held_out(np.arange(NUM) + 100)))
    return cutouts.object_id, torch.tensor(cutouts.image), torch.tensor(cutouts.weight)


def losses(fitter, latent, image, weight):
    image = torch.where(weight > 0, image, 0)
    data, used, _ = fitter.in_units_of_fit(image, weight)
    objective = fitter.objective if fitter.refinement is None else fitter.refinement.objective
    return objective.value(latent, data, used)[0]


@pytest.mark.parametrize("objective", ["flux", "paper"])
def test_passes_improve_the_starts_of_held_out_objects(sky, model, objective):
    ids, image, weight = held_out(sky)
    info = CutoutStore(sky / "store").info
    means = []
    for passes in (0, 1, 2):
        fitter = Fitter(model, FitSettings(objective=objective, passes=passes), info)
        start = fitter.starts(ids, torch.where(weight > 0, image, 0), weight)[0]
        means.append(float(losses(fitter, start, image, weight).log().mean()))
    assert means[0] - 0.5 > means[1] > means[2]  # the embedder is untrained, unlike the refiner
    assert model.card["aids"]["log_loss_refined"] < model.card["aids"]["log_loss_start"] - 0.3


@pytest.mark.parametrize("in_flux", [True, False])
def test_the_metric_network_is_better_than_an_affine_metric(model, in_flux):
    metrics = model.card["aids"]
    name = "flux" if in_flux else "units"
    affine, both = metrics[f"metric_explained_{name}_affine"], metrics[f"metric_explained_{name}"]
    assert both > affine + 0.02
    fitter = Fitter(model, FitSettings(objective="flux" if in_flux else "paper"), model.info)
    assert isinstance(fitter.metric, TrainedMetric)
    renderer = fitter.in_flux if in_flux else fitter.inner
    weight = torch.tensor(model.normalisation.softening)[:, None, None] ** -2 if in_flux else torch.ones(())
    latent = torch.randn(40, L, generator=torch.Generator().manual_seed(9))
    true, _ = logarithms_at(latent, renderer, weight)
    away = (model.aids.metric(latent, in_flux=in_flux) - true).square().sum()
    assert 1 - away / (true - true.mean(0)).square().sum() == pytest.approx(both, abs=0.25)


def test_masked_pixels_have_no_influence_on_starts(sky, model):
    ids, image, weight = held_out(sky)
    fitter = Fitter(model, FitSettings(), model.info)
    weight[:, 1, 3:9] = 0
    image = torch.where(weight > 0, image, 0)
    other = torch.where(weight > 0, image, 1e4)
    starts = [fitter.starts(ids, pixels, weight) for pixels in (image, other)]
    assert torch.equal(*starts)
    assert torch.isfinite(starts[0]).all()


def test_a_start_depends_only_on_its_object(sky, model):
    ids, image, weight = held_out(sky)
    image = torch.where(weight > 0, image, 0)
    fitter = Fitter(model, FitSettings(batch_size=8), model.info)
    whole = fitter.starts(ids, image, weight)[0]
    some = torch.tensor([5, 2, 9])
    assert torch.equal(fitter.starts(ids[some.numpy()], image[some], weight[some])[0], whole[some])
    assert whole.std(0).min() > 0.01


def test_fits_with_passes_start_lower_and_record_the_passes(sky, taught):
    settings = {"neighbours": "keep", "uncertainty": False, "threads": 1, "num_steps": 15}
    ours, plain = sky / "fit" / "passes", sky / "fit" / "none"
    fit(sky / "store", taught, ours, object_ids=range(100, 132), **settings)
    fit(sky / "store", taught, plain, object_ids=range(100, 132), passes=0, **settings)
    recorded = json.loads((ours / "_features.json").read_text())["settings"]
    assert recorded["passes"] == 2
    ours, plain = read_features(ours), read_features(plain)
    assert np.nanmedian(ours["loss_start"] / plain["loss_start"]) < 0.8
    assert np.nanmedian(ours["loss"] / plain["loss"]) < 1.02


def test_models_with_aids_round_trip_and_damage_is_reported(sky, model, tmp_path):
    assert model.fingerprint != Model.load(sky / "model").fingerprint
    again = Model.load(model.save(tmp_path / "again"))
    assert again.fingerprint == model.fingerprint
    assert not any(p.requires_grad for p in again.aids.parameters())
    half = Model.load(model.save(tmp_path / "half", dtype="float16"))
    latent = torch.randn(3, L)
    matrix = model.aids.metric(latent, in_flux=True)
    torch.testing.assert_close(half.aids.metric(latent, in_flux=True), matrix, rtol=1e-2, atol=1e-2)
    assert torch.equal(matrix, matrix.mT)
    assert matrix.std() > 0.1
    path = tmp_path / "again" / "aids.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"aids\.safetensors"):
        Model.load(tmp_path / "again")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        Model.load(tmp_path / "again")


def test_passes_without_a_refiner_are_refused(sky):
    assert Model.load(sky / "model").aids is None
    assert FitSettings().resolved(False).passes == 0
    with pytest.raises(InputError, match="deepfits teach"):
        FitSettings(passes=1).resolved(False)
    with pytest.raises(InputError, match="passes"):
        FitSettings(passes=-1)


def test_default_number_of_passes():
    assert FitSettings().resolved(True).passes == 2
    for settings in (FitSettings(solver="adam"), FitSettings(mode="optimise"), FitSettings(mode="embedder")):
        assert settings.resolved(True).passes == 0
    assert FitSettings(passes=3, mode="embedder").resolved(True).passes == 3


def test_the_inverse_metric_does_not_depend_on_the_batch(model):
    fitter = Fitter(model, FitSettings(), model.info)
    latent = torch.randn(21, L, generator=torch.Generator().manual_seed(2))
    whole = fitter.metric.inverse(latent)
    assert torch.equal(fitter.metric.inverse(latent[13:15]), whole[13:15])
    assert (torch.linalg.eigvalsh(whole) > 0).all()
