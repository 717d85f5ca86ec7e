"""Small networks on features, stacking, and networks on images: training, storage and prediction."""

import json
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest
import torch

import deepfits
from deepfits.errors import InputError
from deepfits.redshifts import storage
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.learning import TargetScale
from deepfits.redshifts.method import OutOfFold
from deepfits.redshifts.methods.network import MLPConfig, MLPEnsemble, train_ensemble
from deepfits.redshifts.methods.stack import common, stacking_weights
from deepfits.redshifts.networks import (
    NUM_OUTPUTS,
    Architecture,
    NetworkConfig,
    network_loss,
    train_network,
)
from deepfits.redshifts.pdf import pdf_metrics
from deepfits.redshifts.predictor import Predictor
from deepfits.stages.redshifts.evaluate import redshift_evaluate
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.redshifts.train import redshift_train
from deepfits.tables import read_table
from tests.helpers.redshift_inputs import metrics_of

FAST = {"num_members": 2, "num_steps": 1200, "channels": 32}


def make_problem(number=400, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(number, 4)).astype(np.float32)
    value = np.exp(0.4 * features[:, 0] + 0.3 * np.sin(2 * features[:, 1]))
    return Matrix(values=features, names=tuple("abcd")), value + 0.05 * generator.normal(size=number)


def test_networks_learn_and_their_distributions_are_calibrated(tmp_path):
    model, point, _ = train_ensemble(*make_problem(800), MLPConfig(**FAST))
    assert np.std(point - make_problem(800)[1]) < 0.5 * make_problem(800)[1].std()
    test, value = make_problem(500, 1)
    estimates = model.predict(None, test)
    assert np.std(estimates.point - value) < 0.5 * value.std()
    # the standard error of a fraction of 0.68 is 0.02 for 500 objects; 800 objects calibrate it
    assert pdf_metrics(estimates.quantiles, value)["coverage_68"]["value"] == pytest.approx(0.68, abs=0.08)
    storage.save(model, tmp_path)
    back = storage.load(MLPEnsemble, tmp_path).predict(None, test)
    np.testing.assert_array_equal(back.point, estimates.point)
    np.testing.assert_array_equal(back.quantiles, estimates.quantiles)
    spoiled = test.values.copy()
    spoiled[0] = np.nan
    spoiled[1] = 1e12
    assert np.isfinite(model.predict(None, replace(test, values=spoiled)).point).all()
    (tmp_path / "arrays.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"arrays\.safetensors: damaged"):
        storage.load(MLPEnsemble, tmp_path)


def test_out_of_fold_estimates_are_independent_of_the_object():
    """With random labels, estimates trained on their own object's label would correlate with it."""
    features, value = make_problem(300)
    noise = np.random.default_rng(5).permutation(value)
    _, point, _ = train_ensemble(features, noise, MLPConfig(**FAST))
    # the correlation of 300 independent pairs scatters by 0.06
    assert abs(np.corrcoef(point, noise)[0, 1]) < 0.2


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_target_scale_is_invertible(loss):
    value = np.random.default_rng(0).gamma(2, 0.4, 100)
    scale = TargetScale.learn(value, loss)
    assert scale.is_log == (loss == "absolute")
    np.testing.assert_allclose(scale.inverse(scale.forward(value)), value)
    assert not TargetScale.learn(value - 3, loss).is_log


def test_pinball_loss_is_minimal_at_the_quantiles():
    import torch

    from deepfits.redshifts.pdf import LEVELS

    value = torch.as_tensor(np.random.default_rng(0).normal(size=4000))
    right = torch.as_tensor(np.quantile(value.numpy(), LEVELS)).repeat(4000, 1)
    estimate = torch.zeros(4000, 1)

    def loss(quantiles):
        return network_loss(torch.cat([estimate, quantiles], dim=1), value, "absolute").item()

    assert right.shape[1] + 1 == NUM_OUTPUTS
    assert loss(right) < min(loss(right + 0.1), loss(right - 0.1), loss(1.2 * right))


def test_stacking_prefers_the_better_estimate_and_beats_both():
    generator = np.random.default_rng(0)
    value = generator.uniform(0.1, 2, 1000)
    points = np.stack([value + scale * generator.normal(size=1000) for scale in (0.1, 0.1, 1.0)])
    points = np.maximum(points, 0)
    weights = stacking_weights(points, value, "squared")
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < 0.05
    assert abs(weights[0] - weights[1]) < 0.15
    assert np.std(weights @ points - value) < 0.8 * min(np.std(one - value) for one in points)


def test_common_objects_are_in_the_same_order():
    one = OutOfFold(rows=np.array([5, 1, 3]), point=np.array([0.5, 0.1, 0.3]))
    two = OutOfFold(rows=np.array([3, 4, 5]), point=np.array([30.0, 40.0, 50.0]))
    first, second = common([one, two])
    assert first.rows.tolist() == second.rows.tolist() == [3, 5]
    assert first.point.tolist() == [0.3, 0.5]
    assert second.point.tolist() == [30.0, 50.0]


@dataclass(frozen=True, kw_only=True)
class FewSteps(MLPConfig):
    num_members: int = 2
    num_steps: int = 400
    channels: int = 32


@pytest.mark.slow
def test_a_stack_takes_its_members_from_the_table(inputs, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("deepfits.redshifts.methods.network.MLPConfig", FewSteps)
    (features, labels, store), model = inputs, embedder
    out = deepfits.redshift(
        features,
        labels,
        tmp_path / "out",
        store=store,
        model=model,
        methods=("network", "hybrid", "stack"),
        feature_sets=("magnitudes", "templates", "sizes", "all"),
        template_features=True,
        filters=("sdss2010-g", "sdss2010-r", "sdss2010-i"),
        losses=("absolute",),
        tuning_trials=1,
        network_epochs=4,
    )
    rows, _ = metrics_of(out)
    for name in ("templates", "deep"):
        row = rows[f"stack-{name}-absolute"]
        assert sum(row["weights"].values()) == pytest.approx(1)
        assert row["metrics"]["r2"]["value"] > 0.8
        assert row["pdf_metrics"]["coverage_95"]["value"] > 0.8
    assert "hybrid-templates" in rows["stack-deep-absolute"]["weights"]
    stack = out / "methods" / "stack-templates-absolute"
    found = read_table(redshift_predict(stack, features, tmp_path / "z.parquet", store=store))
    table = read_table(stack / "predictions.parquet")
    row_of = {object_id: row for row, object_id in enumerate(found["object_id"].tolist())}
    rows = [row_of[object_id] for object_id in table["object_id"].tolist()]
    np.testing.assert_allclose(found["z_phot"][rows], table["z_phot"], rtol=1e-5)


@pytest.mark.parametrize("method", ["wide_resnet", "semi_supervised", "scratch"])
def test_networks_on_images_are_trained_and_used_individually(inputs, embedder, tmp_path, method):
    (features, labels, store), model = inputs, embedder
    out = redshift_train(
        features,
        labels,
        tmp_path / "model",
        method=method,
        store=store,
        model=model,
        loss="absolute",
        wide_resnet_width=1,
        network_epochs=2,
    )
    assert storage.load(Predictor, out).method.name == method
    predictions = redshift_predict(out, features, tmp_path / "z.parquet", store=store)
    found = read_table(predictions)
    assert np.isfinite(found["z_phot"]).all()
    assert (np.diff(found["quantiles"], axis=1) > 0).all()
    again = read_table(redshift_predict(out, features, tmp_path / "again.parquet", store=store))
    np.testing.assert_array_equal(found["z_phot"], again["z_phot"])
    row = json.loads((redshift_evaluate(predictions, labels, tmp_path / "e") / "metrics.json").read_text())
    assert row["rows"][0]["pdf_metrics"]["crps"]["value"] > 0
    with pytest.raises(InputError, match="give the store"):
        redshift_predict(out, features, tmp_path / "none.parquet")


def test_the_clock_affects_networks_only_if_they_are_late(monkeypatch):
    features, value = make_problem(96)
    config = NetworkConfig(batch=32, epochs=4, max_minutes=1.0)
    architecture = Architecture(kind="mlp", settings={"channels": 8, "dropout": 0.0}, num_features=4)

    def weights(seconds_per_step):
        clock = count(0.0, seconds_per_step)
        monkeypatch.setattr("deepfits.redshifts.networks.time.monotonic", lambda: next(clock))
        torch.manual_seed(0)
        data = features.values, value
        return train_network(architecture, data, data, config, network=architecture.build()).weights

    quick, busy, late = (weights(seconds) for seconds in (0.001, 4.0, 6.0))  # 12 steps in 60 s
    assert all(np.array_equal(quick[name], busy[name]) for name in quick)
    assert any(not np.array_equal(quick[name], late[name]) for name in quick)


def test_missing_inputs_of_networks_on_images_are_refused(inputs, tmp_path):
    features, labels, store = inputs
    with pytest.raises(InputError, match="give `model`"):
        redshift_train(features, labels, tmp_path / "one", method="semi_supervised", store=store)
    with pytest.raises(InputError, match="give the store"):
        redshift_train(features, labels, tmp_path / "two", method="wide_resnet")
    with pytest.raises(InputError, match=r"stack .* is unknown"):
        redshift_train(
            features, labels, tmp_path / "three", method="stack", feature_set="extended", store=store
        )
