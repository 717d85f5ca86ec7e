"""Redshifts from images: augmentation, training, early stopping, table rows and label curves."""

import json

import numpy as np
import pytest
import torch

import deepfits
from deepfits.errors import InputError, NonFiniteLossError
from deepfits.redshifts import storage
from deepfits.redshifts.networks import (
    NUM_OUTPUTS,
    Architecture,
    NetworkConfig,
    augment,
    network_loss,
    train_network,
)
from deepfits.redshifts.predictor import Predictor
from deepfits.reporting.redshift_figures import all_figures, label_curves
from deepfits.stages.redshifts.curves import redshift_curves
from deepfits.tables import read_table
from tests.helpers.redshift_inputs import metrics_of


def make_images(number, seed=0):
    """Make blobs whose flux ratio in two bands is the target; position and total flux are uninformative."""
    generator = np.random.default_rng(seed)
    value = generator.uniform(0, 2, number)
    offset = np.arange(8) - 3.5
    profile = np.exp(-(offset[:, None] ** 2 + offset**2) / 6)
    total = generator.uniform(1, 3, number)
    fluxes = np.stack([total * np.exp(-value), total], axis=1)
    images = fluxes[:, :, None, None] * profile + 0.02 * generator.normal(size=(number, 2, 8, 8))
    return images.astype(np.float32), value


class Small(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(2, 8, 3),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Linear(288, NUM_OUTPUTS),
            )

    def forward(self, x):
        return self.layers(x)


class SmallArchitecture(Architecture):
    def build(self):
        return Small()


SMALL = SmallArchitecture(kind="small", settings={})


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_training_learns(loss):
    model = train_network(
        SMALL, make_images(400), make_images(100, 1), NetworkConfig(loss=loss, epochs=25, batch=32)
    )
    images, value = make_images(200, 2)
    assert np.std(model.predict(images)[0] - value) < 0.35 * value.std()


def test_training_is_repeatable():
    config = NetworkConfig(epochs=2, batch=32)
    first, second = (train_network(SMALL, make_images(100), make_images(50, 1), config) for _ in range(2))
    assert first.history == second.history


def test_best_weights_are_kept():
    """With random labels, longer training makes the validation loss worse; the best epoch is returned."""
    images, value = make_images(100)
    noise = np.random.default_rng(5).permutation(value)
    validation = make_images(80, 1)
    model = train_network(SMALL, (images, noise), validation, NetworkConfig(epochs=30, patience=6, batch=16))
    losses = [epoch["validation"] for epoch in model.history]
    with torch.no_grad():  # as in validation, without averaging over orientations
        outputs = model.network.eval()(torch.as_tensor(validation[0]))
    known = torch.as_tensor(model.scale.forward(validation[1]), dtype=torch.float32)
    assert network_loss(outputs, known, "squared").item() == pytest.approx(min(losses), rel=1e-5)
    assert len(losses) < 30


def test_estimates_do_not_depend_on_orientation_or_batch():
    model = train_network(SMALL, make_images(100), make_images(50, 1), NetworkConfig(epochs=1, batch=32))
    images, _ = make_images(20, 2)
    estimate = model.predict(images)[0]
    turned = np.ascontiguousarray(np.rot90(images, axes=(2, 3))[..., ::-1])
    np.testing.assert_allclose(model.predict(turned)[0], estimate, atol=1e-5)
    np.testing.assert_allclose(model.predict(images, batch=3)[0], estimate, atol=1e-5)


def test_augmentation_only_permutes_pixels():
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6).repeat(20, 1, 1, 1)
    found = augment(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    for before, after in zip(images, found, strict=True):
        for band in range(3):
            assert set(after[band].unique().tolist()) <= set(before[band].unique().tolist())
    assert len({tuple(image.flatten().tolist()) for image in found[::2]}) > 10


def test_infinite_loss_stops_the_training():
    images, value = make_images(64)
    images[0] = np.inf
    with pytest.raises(NonFiniteLossError, match="epoch 1"):
        train_network(SMALL, (images, value), make_images(20, 1), NetworkConfig(epochs=1, batch=64))


def test_wide_resnet_row(inputs, tmp_path):
    features, labels, store = inputs
    keywords = {
        "store": store,
        "methods": ("wide_resnet",),
        "wide_resnet_width": 1,
        "network_epochs": 2,
        "max_labels": 64,
    }
    out = deepfits.redshift(features, labels, tmp_path / "out", **keywords)
    rows, _ = metrics_of(out)
    row = rows["wide_resnet-images-squared"]
    assert row["num_layers"] == 50
    assert row["epochs"] == 2
    directory = out / "methods" / row["key"]
    assert storage.load(Predictor, directory).method.normalisation["kind"] == "asinh"
    before = (directory / "arrays.safetensors").stat().st_mtime_ns
    deepfits.redshift(features, labels, out, **keywords)
    assert (directory / "arrays.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="give the store"):
        deepfits.redshift(features, labels, tmp_path / "other", methods=("wide_resnet",))


def test_semi_supervised_row_starts_from_the_embedder(inputs, tmp_path):
    """The embedder is trained further, the saved model does not change, and other cutouts are refused."""
    from deepfits.files import fingerprint
    from deepfits.models.bundle import Model
    from deepfits.models.layers import ModelConfig
    from deepfits.survey.normalise import Normalisation
    from deepfits.survey.store import CutoutStore, StoreInfo

    features, labels, store = inputs
    constants = {"mean": (0.1,) * 3, "std": (1.0,) * 3, "softening": (3.0,) * 3}
    config = ModelConfig(num_bands=3, size=16, latent_size=8, width=16, num_blocks=2, num_groups=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model.make(config, CutoutStore(store).info, Normalisation(kind="asinh", **constants))
    directory = model.save(tmp_path / "model")
    before = fingerprint(directory / "weights.safetensors")
    keywords = {"store": store, "methods": ("semi_supervised",), "network_epochs": 20}
    out = deepfits.redshift(features, labels, tmp_path / "out", model=directory, **keywords)
    row = metrics_of(out)[0]["semi_supervised-images-squared"]
    assert row["metrics"]["r2"]["value"] > 0.3
    assert row["model_hash"] == model.fingerprint
    assert fingerprint(directory / "weights.safetensors") == before
    with pytest.raises(InputError, match="give `model`"):
        deepfits.redshift(features, labels, tmp_path / "other", **keywords)
    info = StoreInfo(bands=("g", "r", "z"), size=16, pixel_scale_arcsec=0.2)
    wrong = Model.make(config, info, model.normalisation).save(tmp_path / "wrong")
    with pytest.raises(InputError, match="band"):
        deepfits.redshift(features, labels, tmp_path / "another", model=wrong, **keywords)


@pytest.mark.slow
def test_label_curves(inputs, tmp_path):
    features, labels, store = inputs
    out = redshift_curves(
        features,
        labels,
        tmp_path / "curves",
        numbers=(40, 120, 5000, 10000),
        draws=2,
        store=store,
        methods=("boosting", "neighbours"),
        feature_sets=("magnitudes",),
        tuning_trials=1,
    )
    content = json.loads((out / "curves.json").read_text())
    used = [curve["num_labels"] for curve in content["curves"]]
    assert used[:2] == [40, 120]
    # there are fewer than 5,000 labels: the last table uses all of them, and 10,000 is skipped
    assert len(used) == 3
    assert not (out / "labels-10000").exists()
    assert (out / "labels-00040-2").exists()
    assert not (out / "labels-05000-2").exists()  # the second draw would be the same
    assert [curve["rows"][1].get("num_draws") for curve in content["curves"]] == [2, 2, None]
    rmse = [curve["rows"][1]["metrics"]["rmse"]["value"] for curve in content["curves"]]
    assert rmse[0] > rmse[-1]
    assert f"| {used[-1]} labels |" in (out / "curves.md").read_text()
    assert len(label_curves(out).axes) == 4
    drawn = label_curves(out, ["neighbours"]).axes[0].get_legend_handles_labels()[1]
    assert len(drawn) == 1
    assert "neighbours" in drawn[0]
    figures = all_figures(out / "labels-05000")
    assert [name for name, _, _ in figures] == ["scatter", "errors", "pit"]
    metrics = json.loads((out / "labels-05000" / "metrics.json").read_text())
    for row in metrics["rows"]:
        for group in row["by_magnitude"] + row["by_redshift"]:
            group.pop("metrics", None)  # of fewer than 20 objects
    (out / "labels-05000" / "metrics.json").write_text(json.dumps(metrics))
    assert [name for name, _, _ in all_figures(out / "labels-05000")] == ["scatter", "pit"]
    table = (out / "labels-05000" / "table.tex").read_text()
    assert table.count(r"\\") == len(content["curves"][0]["rows"]) + 1
    pit = read_table(out / "labels-05000" / "methods" / "boosting-magnitudes-squared" / "predictions.parquet")
    assert ((pit["pit"] >= 0) & (pit["pit"] <= 1)).all()
    assert 0.3 < np.mean(pit["pit"]) < 0.7
    with pytest.raises(InputError, match="sets max_labels itself"):
        redshift_curves(features, labels, out, max_labels=3)
