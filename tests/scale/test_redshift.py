"""Redshifts of many shards: the same as of all at once, resumable, and failures named."""

import json

import numpy as np
import pytest

from deepfits.errors import InputError, ShardsFailedError
from deepfits.fitting.features import read_features, write_shard
from deepfits.redshifts.predict import predict_table
from deepfits.scale.manifest import read_manifest
from deepfits.stages.export import export
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.redshifts.train import redshift_train

NUM = 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Write features in shards (one empty, one of an object without a fit), and train on labels."""
    directory = tmp_path_factory.mktemp("redshift")
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(NUM, 4)).astype(np.float32)
    latent[-1] = np.nan
    columns = {"object_id": np.arange(NUM), "latent": latent, "model_hash": np.full(NUM, "abc")}
    for band in "gri":
        columns[f"flux_model_{band}"] = rng.uniform(1, 10, NUM).astype(np.float32)
    for number, (first, last) in enumerate([(0, 150), (150, 150), (150, NUM - 1), (NUM - 1, NUM)]):
        part = {name: values[first:last] for name, values in columns.items()}
        write_shard(directory / "features" / f"shard-{number:05d}.parquet", part, f"part {number}")
    redshift = 1 + 0.3 * latent[:, 0]
    lines = [f"{n},{z}" for n, z in enumerate(redshift) if np.isfinite(z)]
    (directory / "labels.csv").write_text("object_id,z_spec\n" + "\n".join(lines) + "\n")
    model = redshift_train(
        directory / "features", directory / "labels.csv", directory / "model", method="neighbours",
        feature_set="latents", tuning_trials=1,
    )  # fmt: skip
    return directory / "features", model


def test_shard_by_shard_is_all_at_once(trained, tmp_path):
    features, model = trained
    whole = read_features_of(redshift_predict(model, features, tmp_path / "z.parquet"))
    out = redshift_predict(model, features, tmp_path / "z")
    assert [p.name for p in sorted(out.glob("*.parquet"))] == [f"shard-{n:05d}.parquet" for n in (0, 2, 3)]
    found = read_features(out)
    assert set(found) == set(whole)
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not found["is_valid"][-1]
    assert np.isnan(found["z_phot"][-1])
    assert np.ptp(found["z_phot"][:-1]) > 0.5
    (out / "shard-00002.parquet").unlink()
    redshift_predict(model, features, out)
    np.testing.assert_array_equal(read_features(out)["z_phot"], whole["z_phot"])


def test_shards_of_other_filters_or_of_another_version_are_predicted_again(trained, tmp_path, monkeypatch):
    """The log said so, but they were kept."""
    features, model = trained
    calls = []

    def predicted(*given, **options):
        calls.append(options["filters"])
        return predict_table(*given, **options)

    monkeypatch.setattr("deepfits.stages.redshifts.predict.predict_table", predicted)
    filters = tuple(f"sdss2010-{band}" for band in "gri")
    for chosen in ((), (), filters):
        redshift_predict(model, features, tmp_path / "z", filters=chosen)
    assert calls == [()] * 3 + [filters] * 3
    for module in ("results", "stages.redshifts.predict"):
        monkeypatch.setattr(f"deepfits.{module}.code", lambda: "0.2.0")
    redshift_predict(model, features, tmp_path / "z", filters=filters)
    assert calls[6:] == [filters] * 3


def test_classes_of_an_object_without_a_fit_are_empty(trained, tmp_path):
    features, _ = trained
    lines = [
        f"{n},{'star' if z > 0 else 'galaxy'}" for n, z in enumerate(read_features(features)["latent"][:, 0])
    ]
    (tmp_path / "kinds.csv").write_text("object_id,kind\n" + "\n".join(lines) + "\n")
    model = redshift_train(
        features, tmp_path / "kinds.csv", tmp_path / "model", label_column="kind", feature_set="latents"
    )
    found = read_features(redshift_predict(model, features, tmp_path / "kinds"))
    assert set(found["class"][:-1]) == {"star", "galaxy"}
    assert found["class"][-1] == ""
    assert np.isnan(found["p_star"][-1])


def read_features_of(path):
    from deepfits.fitting.features import read_shard

    return read_shard(path)


def test_a_damaged_shard_stops_no_other(trained, tmp_path):
    features, model = trained
    damaged = tmp_path / "features"
    damaged.mkdir()
    for path in features.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "shard-00000.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ShardsFailedError, match=r"1 of 3 shards failed.*shard-00000"):
        redshift_predict(model, damaged, tmp_path / "z")
    assert [e.state for e in read_manifest(tmp_path / "z")] == ["failed", "done", "done"]
    assert json.loads((tmp_path / "z/_manifest.jsonl").read_text().splitlines()[0])["state"] == "failed"


def test_predictions_are_exported(trained, tmp_path):
    features, model = trained
    out = redshift_predict(model, features, tmp_path / "z")
    from astropy.table import Table

    table = Table.read(export(out, tmp_path / "z.fits"))
    assert len(table) == NUM


def test_a_directory_is_needed_for_workers(trained, tmp_path):
    with pytest.raises(InputError, match=r"omit the extension '\.parquet'"):
        redshift_predict(trained[1], trained[0], tmp_path / "z.parquet", workers=2)
