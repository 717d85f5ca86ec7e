"""The stage `redshift`: from files to the table, repeated runs, and wrong input."""

import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.fitting.columns import Column
from deepfits.redshifts.features import read_features
from deepfits.redshifts.inputs import _cached
from deepfits.redshifts.method import Estimates, Method, Trained
from deepfits.redshifts.methods import METHODS
from deepfits.redshifts.pdf import LEVELS
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.evaluate import redshift_evaluate
from deepfits.stages.redshifts.load import parse_names
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.redshifts.train import redshift_train
from deepfits.tables import read, read_table, write_table
from tests.helpers.redshift_inputs import (
    NUMBER,
    make_sky,
    metrics_of,
    write_features,
    write_labels,
    write_store,
)

FAST = {"methods": ("boosting",), "tuning_trials": 1, "distributions": False}


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    features, labels, store = inputs
    out = tmp_path_factory.mktemp("out") / "redshift"
    assert deepfits.redshift(features, labels, out, store=store, **FAST) == out
    return out


def test_all_rows_beat_the_constant(done):
    rows, content = metrics_of(done)
    names = ["latents", "model", "extended", "magnitudes", "combined", "matched"]
    assert list(rows) == ["constant", *(f"boosting-{name}-squared" for name in names)]
    floor = rows["constant"]["metrics"]
    for key, row in rows.items():
        if key != "constant":
            assert row["metrics"]["r2"]["value"] > 0.7
            # σ_MAD of 80 test objects has an error of about 15%
            assert row["metrics"]["sigma_mad"]["value"] < 0.7 * floor["sigma_mad"]["value"]
            assert row["metrics"]["r2"]["error"] > 0
    # the median of the training objects is no better than the mean of the test objects
    assert -0.3 < floor["r2"]["value"] <= 0
    assert content["magnitude"] == "mag_i"
    assert set(content["definitions"]) >= set(floor)


def test_all_rows_use_the_same_held_out_objects(done, sky):
    predictions = read_table(done / "predictions.parquet")
    expected = sky["object_id"][is_held_out(sky["object_id"])]
    np.testing.assert_array_equal(np.sort(predictions["object_id"]), expected)
    rows, _ = metrics_of(done)
    assert {row["num_test"] for row in rows.values()} == {len(expected)}
    row = rows["boosting-latents-squared"]["metrics"]
    error = predictions["z_phot_boosting_latents_squared"] - predictions["z_spec"]
    assert row["rmse"]["value"] == pytest.approx(np.sqrt(np.mean(error**2)))
    truth = dict(zip(sky["object_id"].tolist(), sky["z_spec"], strict=True))
    true_redshifts = [truth[object_id] for object_id in predictions["object_id"].tolist()]
    assert true_redshifts == predictions["z_spec"].tolist()


def test_split_is_stored(done, sky):
    split = read_table(done / "split.parquet")
    assert len(split["object_id"]) == NUMBER
    is_test = split["part"] == "test"
    np.testing.assert_array_equal(is_test, is_held_out(split["object_id"]))
    assert (split["part"] == "validation").sum() > 50
    assert (split["separation_arcsec"] < 1e-3).all()


def test_table_prints_its_definitions(done):
    text = (done / "table.md").read_text()
    assert "| boosting | latents | squared | 0." in text
    assert "1.4826 × median" in text
    assert "±" in text


def test_a_repeated_run_does_not_train_again(done, inputs, monkeypatch):
    features, labels, store = inputs
    before = (done / "metrics.json").read_text()
    monkeypatch.setattr("deepfits.stages.redshifts.compare.train_predictor", None)
    deepfits.redshift(features, labels, done, store=store, **FAST)
    rows, _ = metrics_of(done)
    assert rows == {row["key"]: row for row in json.loads(before)["rows"]}


def test_an_interrupted_run_resumes(done, inputs, tmp_path, monkeypatch):
    """A run that stops at the second method keeps the first, and resumes like an uninterrupted one."""
    import deepfits.stages.redshifts.compare as stage

    features, labels, store = inputs
    trained = []
    original = stage.train_predictor

    def train_two(*arguments, **keywords):
        trained.append(1)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    monkeypatch.setattr(stage, "train_predictor", train_two)
    with pytest.raises(KeyboardInterrupt):
        deepfits.redshift(features, labels, tmp_path / "out", store=store, **FAST)
    assert not (tmp_path / "out" / "metrics.json").exists()
    deepfits.redshift(features, labels, tmp_path / "out", store=store, **FAST)
    assert len(trained) == 2 + 6
    expected, resumed = (metrics_of(out)[0] for out in (done, tmp_path / "out"))
    for key in expected:
        assert expected[key]["metrics"] == resumed[key]["metrics"]


def test_other_settings_are_refused(done, inputs):
    features, labels, store = inputs
    with pytest.raises(InputError, match=r"made with match_radius_arcsec = 1\.0, now 0\.5"):
        deepfits.redshift(features, labels, done, store=store, match_radius_arcsec=0.5, **FAST)


def test_rows_of_other_inputs_are_refused(done, inputs, sky, tmp_path):
    """Inputs are compared by content, not by path."""
    features, labels, store = inputs
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(labels.read_bytes())
    same = tmp_path / "same"
    shutil.copytree(done, same)
    deepfits.redshift(features, labels, same, store=store, **FAST)
    write_labels(copy, sky, z_spec=sky["z_spec"] + 0.01)
    with pytest.raises(InputError, match="its input 'labels' has changed"):
        deepfits.redshift(features, copy, same, store=store, **FAST)
    with pytest.raises(InputError, match="made with 'store', now without it"):
        deepfits.redshift(features, labels, same, **FAST)
    brighter = write_store(tmp_path / "brighter", {**sky, "flux": 1.1 * sky["flux"]})
    with pytest.raises(InputError, match="its input 'store' has changed"):
        deepfits.redshift(features, labels, same, store=brighter, **FAST)
    with pytest.raises(InputError, match="made without 'embedder_features', now with it"):
        deepfits.redshift(features, labels, same, store=store, embedder_features=features, **FAST)
    with pytest.raises(InputError, match="made without 'model', now with it"):
        deepfits.redshift(features, labels, same, store=store, model="builtin:clauds-hsc", **FAST)


def test_a_model_of_other_labels_is_refused(inputs, sky, tmp_path):
    labels = write_labels(tmp_path / "labels.parquet", sky)
    keywords = {"feature_set": "latents", "tuning_trials": 1, "distributions": False}
    model = redshift_train(inputs[0], labels, tmp_path / "model", **keywords)
    write_labels(labels, sky, z_spec=sky["z_spec"] + 0.01)
    with pytest.raises(InputError, match="its input 'labels' has changed"):
        redshift_train(inputs[0], labels, model, **keywords)


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ({"methods": ["network", "hybrid"]}, "row hybrid-magnitudes-squared cannot be made: .* give `model`"),
        (
            {"feature_sets": ["latents", "templates"]},
            "boosting-templates-squared cannot be made: .*template",
        ),
        ({"feature_sets": ["latent"]}, "did you mean 'latents'"),
        ({"feature_sets": ["bosting:latents"]}, "did you mean 'boosting'"),
        ({"methods": ["stack"], "feature_sets": ["stack:fits"]}, "row stack-fits-squared cannot be made"),
        ({"methods": ["templates"], "filters": ["sdss2010-g"]}, "1 filters for the 3 bands"),
        ({"methods": ["templates"], "filters": ["nosuch-g"] * 3}, "filter 'nosuch-g' is neither"),
    ],
)
def test_impossible_rows_are_refused_before_any_work(inputs, tmp_path, monkeypatch, keywords, word):
    features, labels, store = inputs
    for work in ("train_predictor", "with_measurements"):
        monkeypatch.setattr(f"deepfits.stages.redshifts.compare.{work}", None)
    with pytest.raises(InputError, match=word):
        deepfits.redshift(features, labels, tmp_path / "out", store=store, **{**FAST, **keywords})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    ["[latents, model]", "latents,model", " latents , model ", ["latents,model"], ["latents", "model"]],
)
def test_feature_sets_may_be_written_plainly(given):
    assert parse_names(given) == ["latents", "model"]


def test_unfinished_features_are_refused_unless_partial(sky, inputs, tmp_path):
    features = write_features(tmp_path / "features", sky)
    states = [{"shard": "shard-00000", "state": "done"}, {"shard": "shard-00001", "state": "failed"}]
    (features / "_manifest.jsonl").write_text("".join(json.dumps(state) + "\n" for state in states))
    with pytest.raises(InputError, match="is not finished"):
        deepfits.redshift(features, inputs[1], tmp_path / "out", **FAST)
    out = deepfits.redshift(
        features, inputs[1], tmp_path / "out", partial=True, feature_sets="latents", **FAST
    )
    assert metrics_of(out)[0]["boosting-latents-squared"]["metrics"]["r2"]["value"] > 0.7


def test_objects_without_latents_are_excluded_from_every_row(sky, inputs, tmp_path):
    spoiled = {**sky, "latent": sky["latent"].copy()}
    spoiled["latent"][::10] = np.nan
    features = write_features(tmp_path / "features", spoiled)
    out = deepfits.redshift(features, inputs[1], tmp_path / "out", store=inputs[2], **FAST)
    rows, content = metrics_of(out)
    assert content["counts"]["objects_without_finite_latent"] == NUMBER // 10
    left = is_held_out(sky["object_id"]) & (np.arange(NUMBER) % 10 > 0)
    assert {row["num_test"] for row in rows.values()} == {left.sum()}


def test_fewer_labels_are_no_better(inputs, done, tmp_path):
    features, labels, store = inputs
    out = deepfits.redshift(features, labels, tmp_path / "out", store=store, max_labels=40, **FAST)
    few, many = metrics_of(out)[0], metrics_of(done)[0]
    for key in ("boosting-latents-squared", "boosting-magnitudes-squared"):
        assert few[key]["num_train"] == 40
        assert few[key]["metrics"]["rmse"]["value"] > many[key]["metrics"]["rmse"]["value"]


def test_training_on_bright_objects_only(inputs, sky, tmp_path):
    """With training on bright objects only, faint ones are farther from the training domain."""
    features, labels, _ = inputs
    out = deepfits.redshift(
        features, labels, tmp_path / "out", feature_sets=("model",), train_select=["mag_i < 21.5"], **FAST
    )
    split = read_table(out / "split.parquet")
    is_training = np.isin(split["part"], ["train", "validation"])
    assert split["magnitude"][is_training].max() < 21.5
    assert split["magnitude"][split["part"] == "test"].max() > 23.5
    row = metrics_of(out)[0]["boosting-model-squared"]
    assert row["num_test"] == is_held_out(sky["object_id"]).sum()
    assert row["domain"]["num_outside"] > 0.2 * row["num_test"]
    found = read_table(out / "methods" / row["key"] / "predictions.parquet")
    magnitude = dict(zip(sky["object_id"].tolist(), sky["mag_i"].tolist(), strict=True))
    magnitude = np.array([magnitude[object_id] for object_id in found["object_id"].tolist()])
    flagged = found["is_outside_domain"]
    assert magnitude[flagged].mean() > magnitude[~flagged].mean() + 0.5


@pytest.mark.parametrize("filters", [(), ("sdss2010-g", "sdss2010-r", "sdss2010-i")])
def test_filters_that_are_assumed_for_templates_are_named(inputs, tmp_path, monkeypatch, caplog, filters):
    """The images of the store name no filters."""
    features, labels, store = inputs

    def stopped(*given, **more):
        raise KeyboardInterrupt

    for module in ("compare", "train"):
        monkeypatch.setattr(f"deepfits.stages.redshifts.{module}.with_measurements", stopped)
    for call, settings in (
        (deepfits.redshift, {"methods": ("templates",)}),
        (deepfits.redshift, {"methods": ("boosting",), "template_features": True}),
        (redshift_train, {"method": "templates"}),
        (redshift_train, {"method": "boosting", "feature_set": "templates"}),
    ):
        caplog.clear()
        with pytest.raises(KeyboardInterrupt):
            call(features, labels, tmp_path / "out", store=store, filters=filters, **settings)
        said = "those of CLAUDS and HSC, hsc2017-g, hsc2017-r, hsc2017-i; if" in caplog.text
        assert said == (not filters)


def test_photometry_of_the_cutouts_is_cached(inputs, tmp_path):
    features, labels, store = inputs
    keywords = {**FAST, "feature_sets": ("magnitudes", "templates"), "template_features": True}
    keywords |= {"filters": ("sdss2010-g", "sdss2010-r", "sdss2010-i"), "photometry": tmp_path / "kept.npz"}
    first = deepfits.redshift(features, labels, tmp_path / "one", store=store, **keywords)
    assert (tmp_path / "kept.npz").exists()
    assert (tmp_path / "kept.templates.npz").exists()
    before = (tmp_path / "kept.npz").read_bytes()
    second = deepfits.redshift(features, labels, tmp_path / "two", store=store, **keywords)
    assert (tmp_path / "kept.npz").read_bytes() == before
    other = write_store(tmp_path / "store", {**make_sky(), "flux": 2 * make_sky()["flux"]})
    third = deepfits.redshift(features, labels, tmp_path / "three", store=other, **keywords)
    key = "boosting-magnitudes-squared"
    assert metrics_of(third)[0][key]["metrics"] != metrics_of(second)[0][key]["metrics"]
    (tmp_path / "kept.npz").write_bytes(b"nothing of the kind")
    for key, row in metrics_of(first)[0].items():
        assert row["metrics"] == metrics_of(second)[0][key]["metrics"]
    with pytest.raises(InputError, match="damaged file of photometry"):
        deepfits.redshift(features, labels, tmp_path / "four", store=store, **keywords)


def test_cached_measurements_are_those_of_this_version(tmp_path, monkeypatch):
    def cached(value):
        return _cached(tmp_path / "kept.npz", lambda: "inputs", lambda: {"flux": np.array(value)})["flux"]

    assert [cached(1), cached(2)] == [1, 1]
    monkeypatch.setattr("deepfits.redshifts.inputs.code", lambda: "another version")
    assert [cached(3), cached(4)] == [3, 3]


def test_shuffled_labels_give_no_information(sky, inputs, tmp_path):
    """With shuffled redshifts, no method is better than the constant, so no information leaks."""
    generator = np.random.default_rng(0)
    labels = write_labels(tmp_path / "labels.parquet", sky, z_spec=generator.permutation(sky["z_spec"]))
    out = deepfits.redshift(inputs[0], labels, tmp_path / "out", store=inputs[2], **FAST)
    assert max(row["metrics"]["r2"]["value"] for row in metrics_of(out)[0].values()) < 0.1


@pytest.mark.parametrize(
    ("changes", "keywords", "word"),
    [
        ({"z_spec": np.full(NUMBER, 0.7)}, {}, "all 420 matched labels are 0.7"),
        ({"kind": np.full(NUMBER, "star")}, {"label_column": "kind"}, "all 420 matched labels are 'star'"),
        ({"size": np.linspace(1, 5, NUMBER) * 1e-4}, {"label_column": "size"}, "size ranges from 0.0001 to"),
        (
            {"lum": np.linspace(1, 5, NUMBER) * 1e43},
            {"label_column": "lum"},
            r"lum ranges .* \(or its logarithm",
        ),
        ({"day": np.linspace(0, 1, NUMBER) + 1e6}, {"label_column": "day"}, "less a constant if it is far"),
        ({"z_spec": np.full(NUMBER, np.nan)}, {}, "420 have a 'z_spec' that is not finite"),
        ({"dec": np.full(NUMBER, -40.0)}, {}, "no overlap"),
        ({"dec": None}, {"match": "position"}, "needs ra and dec"),
        ({}, {"match": "id"}, "another numbering|no overlap"),
        ({}, {"label_column": "zspec"}, "did you mean 'z_spec'"),
        ({}, {"select": ["mag_i < 20.1"]}, "too few labels"),
        ({}, {"methods": ["bosting"]}, "did you mean 'boosting'"),
        ({}, {"losses": ["cubic"]}, "valid names are: absolute, squared"),
        ({}, {"match": "name"}, "match must be 'auto'"),
        ({}, {"max_labels": 5}, "at least 30"),
    ],
)
def test_errors_for_wrong_input(sky, inputs, tmp_path, changes, keywords, word):
    labels = write_labels(tmp_path / "labels.parquet", sky, **changes)
    with pytest.raises(InputError, match=word):
        deepfits.redshift(inputs[0], labels, tmp_path / "out", **{**FAST, **keywords})
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_one_band_is_refused(sky, inputs, tmp_path):
    features = write_features(tmp_path / "features", sky, bands=("i",))
    with pytest.raises(InputError, match="the single band 'i'"):
        deepfits.redshift(features, inputs[1], tmp_path / "out", **FAST)
    store = write_store(tmp_path / "store", sky, bands=("i",))
    with pytest.raises(InputError, match="the single band 'i'"):
        deepfits.redshift(inputs[0], inputs[1], tmp_path / "out", store=store, **FAST)


def test_store_of_other_objects_is_refused(sky, inputs, tmp_path):
    other = {**sky, "object_id": sky["object_id"] + 5}
    store = write_store(tmp_path / "store", other)
    with pytest.raises(InputError, match="5 objects of the features are not in this store"):
        deepfits.redshift(inputs[0], inputs[1], tmp_path / "out", store=store, **FAST)


def test_invalid_features_are_refused(inputs, tmp_path):
    with pytest.raises(InputError, match="no such features"):
        deepfits.redshift(tmp_path / "absent", inputs[1], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.parquet file"):
        deepfits.redshift(tmp_path / "empty", inputs[1], tmp_path / "out")
    with pytest.raises(InputError, match="no column 'latent'"):
        deepfits.redshift(inputs[1], inputs[1], tmp_path / "out")


@pytest.mark.parametrize("kind", [float, str])
def test_the_same_objects_are_held_out_whatever_the_type_of_their_identities(sky, tmp_path, kind):
    given = {**sky, "object_id": sky["object_id"].astype(kind)}
    features = read_features(write_features(tmp_path / "features", given))
    held_out = is_held_out(features["object_id"])
    np.testing.assert_array_equal(held_out, is_held_out(sky["object_id"]))


@dataclass(frozen=True, kw_only=True)
class Nearest(Method):
    """A method of somebody's own: features, no loss, and nothing but a subclass."""

    name: ClassVar[str] = "nearest"
    has_loss: ClassVar[bool] = False

    known: np.ndarray
    value: np.ndarray

    @classmethod
    def fit(cls, training):
        return Trained(method=cls(known=training.matrix.values, value=training.value))

    def predict(self, source, features):
        apart = np.square(features.values[:, None] - self.known[None]).sum(axis=2)
        return Estimates(point=self.value[apart.argmin(axis=1)])


def test_a_method_of_ones_own_has_rows_and_predicts(inputs, sky, tmp_path, monkeypatch):
    features, labels, _ = inputs
    monkeypatch.setitem(METHODS, Nearest.name, Nearest)
    out = deepfits.redshift(
        features, labels, tmp_path / "out", methods=["nearest"], feature_sets=["latents", "model"]
    )
    rows, _ = metrics_of(out)
    assert list(rows) == ["constant", "nearest-latents", "nearest-model"]
    assert rows["nearest-latents"]["metrics"]["r2"]["value"] > 0.3
    model = redshift_train(features, labels, tmp_path / "model", method="nearest", feature_set="latents")
    found = read_table(redshift_predict(model, features, tmp_path / "z.parquet"))
    assert np.corrcoef(found["z_phot"], sky["z_spec"])[0, 1] > 0.6


def test_own_features_of_one_number(inputs, sky, tmp_path):
    rows = {"object_id": sky["object_id"], "ra": sky["ra"], "dec": sky["dec"]}
    write_table(tmp_path / "one.parquet", {**rows, "latent": sky["z_spec"]})
    model = redshift_train(
        tmp_path / "one.parquet", inputs[1], tmp_path / "z", feature_set="latents", tuning_trials=1
    )
    found = read_table(redshift_predict(model, tmp_path / "one.parquet", tmp_path / "z.parquet"))
    assert np.corrcoef(found["z_phot"], sky["z_spec"])[0, 1] > 0.95
    write_table(tmp_path / "two.parquet", {**rows, "latent": np.stack([sky["z_spec"]] * 2, axis=1)})
    with pytest.raises(InputError, match=r"trained on 1 features, not \(2,\)"):
        redshift_predict(model, tmp_path / "two.parquet", tmp_path / "z2.parquet")


@pytest.mark.slow
def test_tpot_row(inputs, tmp_path):
    features, labels, _ = inputs
    out = deepfits.redshift(features, labels, tmp_path / "out", methods=("tpot",), tpot_minutes=0.3)
    rows, _ = metrics_of(out)
    assert rows["tpot-latents-squared"]["metrics"]["r2"]["value"] > 0.7
    assert rows["tpot-latents-squared"]["num_pipelines"] >= 12


@pytest.fixture(scope="module")
def complete(inputs, tmp_path_factory):
    """Make a table with all fast methods, distributions and a column of the user."""
    features, labels, store = inputs
    out = tmp_path_factory.mktemp("complete") / "redshift"
    return deepfits.redshift(
        features,
        labels,
        out,
        store=store,
        methods=("boosting", "neighbours", "templates"),
        feature_sets=("latents", "magnitudes"),
        losses=("absolute",),
        tuning_trials=1,
        photoz="mag_i",
        filters=("sdss2010-g", "sdss2010-r", "sdss2010-i"),
    )


def test_invalid_external_estimates_are_refused_before_any_work(inputs, tmp_path, monkeypatch):
    features, labels, _ = inputs
    sky = make_sky()
    kinds = write_labels(tmp_path / "kinds.parquet", sky, kind=np.full(len(sky["ra"]), "galaxy"))
    monkeypatch.setattr("deepfits.stages.redshifts.compare.train_predictor", None)
    for table, name, match in ((labels, "nix", "no column 'nix'"), (kinds, "kind", "'kind' .* not numbers")):
        with pytest.raises(InputError, match=match):
            deepfits.redshift(features, table, tmp_path / "out", photoz=name, **FAST)
    assert not (tmp_path / "out").exists()


def test_a_target_may_have_the_name_of_a_result_column(inputs, sky, tmp_path):
    features, _, _ = inputs
    labels = write_labels(tmp_path / "labels.parquet", sky, magnitude=sky["mag_i"] + 40)
    out = deepfits.redshift(features, labels, tmp_path / "out", label_column="magnitude", methods=())
    for name in ("split.parquet", "predictions.parquet"):
        assert (read_table(out / name)["magnitude"] > 50).all()


def test_every_method_has_a_row(complete):
    rows, _ = metrics_of(complete)
    assert list(rows) == [
        "constant",
        "boosting-latents-absolute",
        "boosting-magnitudes-absolute",
        "neighbours-magnitudes-absolute",
        "templates",
        "column-mag_i",
    ]
    for key, row in rows.items():
        assert ("pdf_metrics" in row) == (key not in ("constant", "column-mag_i"))
        assert row["num_missing"] == 0
    assert rows["neighbours-magnitudes-absolute"]["metrics"]["r2"]["value"] > 0.8
    assert rows["column-mag_i"]["metrics"]["bias"]["value"] > 5
    # p(z) of a trained method must be better than the distribution of all redshifts
    spread = rows["constant"]["metrics"]["rmse"]["value"]
    assert rows["boosting-magnitudes-absolute"]["pdf_metrics"]["crps"]["value"] < 0.25 * spread


def test_distributions_are_stored_with_their_estimates(complete):
    found = read_table(complete / "methods" / "boosting-magnitudes-absolute" / "predictions.parquet")
    assert found["quantiles"].shape == (len(found["object_id"]), len(LEVELS))
    assert found["quantiles"].dtype == np.float32
    assert (np.diff(found["quantiles"], axis=1) > 0).all()
    assert (found["z_err95_low"] < found["z_err68_low"]).all()
    assert (found["z_err68_low"] < found["z_median"]).all()
    assert (found["z_median"] < found["z_err68_high"]).all()
    assert {"z_mean", "z_mode", "domain_distance", "is_outside_domain"} <= set(found)
    assert "CRPS" in (complete / "table.md").read_text()


@pytest.mark.parametrize(("method", "feature_set"), [("boosting", "combined"), ("neighbours", "magnitudes")])
def test_train_predict_evaluate_agrees_with_the_table(inputs, sky, tmp_path, method, feature_set):
    features, labels, store = inputs
    options = {"method": method, "feature_set": feature_set, "store": store, "tuning_trials": 1}
    model = redshift_train(features, labels, tmp_path / "model", **options)
    stamp = (model / "predictor.json").stat().st_mtime_ns
    redshift_train(features, labels, tmp_path / "model", **options)
    assert (model / "predictor.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match='made with loss = "squared"'):
        redshift_train(features, labels, model, loss="absolute", **options)
    predictions = redshift_predict(model, features, tmp_path / "z.parquet", store=store)
    found = read_table(predictions)
    assert found["is_valid"].all()
    np.testing.assert_array_equal(found["object_id"], sky["object_id"])
    directory = redshift_evaluate(predictions, labels, tmp_path / "evaluated")
    evaluated = read_json(directory / "metrics.json", what="metrics")
    used = 420 - is_held_out(sky["object_id"]).sum()
    assert evaluated["rows"][0]["num_train"] == used
    words = (tmp_path / "evaluated" / "table.md").read_text()
    assert f"held-out objects; labels used for training: {used}." in words
    everything = redshift_evaluate(predictions, labels, tmp_path / "all", held_out_only=False)
    words = (everything / "table.md").read_text()
    assert words.startswith("420 objects, held out or not; ")
    assert "resamples of the objects, held out or not" in words
    table = deepfits.redshift(
        features,
        labels,
        tmp_path / "table",
        store=store,
        methods=(method,),
        feature_sets=(feature_set,),
        tuning_trials=1,
    )
    row = metrics_of(table)[0][f"{method}-{feature_set}-squared"]
    assert evaluated["rows"][0]["metrics"] == row["metrics"]
    assert evaluated["rows"][0]["pdf_metrics"]["crps"] == row["pdf_metrics"]["crps"]
    # CSV files have one column per quantile
    redshift_predict(model, features, tmp_path / "z.csv", store=store)
    (flat,) = metrics_of(redshift_evaluate(tmp_path / "z.csv", labels, tmp_path / "flat"))[0].values()
    assert flat["pdf_metrics"]["crps"]["value"] == pytest.approx(row["pdf_metrics"]["crps"]["value"])


def test_ids_that_fits_cannot_store_are_refused_before_any_work(inputs, sky, tmp_path, monkeypatch):
    features, labels, _ = inputs
    asked = {"loss": "absolute", "feature_set": "latents", "tuning_trials": 1}
    model = redshift_train(features, labels, tmp_path / "model", **asked)
    columns = read_table(features) | {"object_id": np.array([f"é{n}" for n in range(len(sky["z_spec"]))])}
    write_table(tmp_path / "accents.parquet", columns)
    monkeypatch.setattr("deepfits.stages.redshifts.predict.predict_table", None)
    with pytest.raises(InputError, match=r"z\.fits: FITS allows only ASCII in text, not 'é0' in column"):
        redshift_predict(model, tmp_path / "accents.parquet", tmp_path / "z.fits")


def test_placeholders_in_external_estimates_are_ignored(inputs, sky, tmp_path):
    """Previously, −99 counted as an estimate, with an R² of −9,000 for a fifth of the objects."""
    _, labels, _ = inputs
    z_phot = sky["z_spec"] + 0.01
    table = {name: sky[name] for name in ("object_id", "ra", "dec")}
    coded = np.where(np.arange(len(z_phot)) < 80, -99.0, z_phot)
    path = write_table(tmp_path / "mine.csv", {**table, "z_phot": coded})
    found = redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
    (row,) = read_json(found / "metrics.json", what="metrics")["rows"]
    assert (row["num_test"], row["num_missing"]) == (len(z_phot) - 80, 80)
    assert row["metrics"]["r2"]["value"] == pytest.approx(1, abs=0.01)
    wide = write_table(tmp_path / "wide.fits", {**table, "z_phot": z_phot, "quantiles": np.ones((420, 7))})
    with pytest.raises(InputError, match=r"wide\.fits: quantiles holds 7 values for each object, not the 15"):
        redshift_evaluate(wide, labels, tmp_path / "wide")


def test_predictions_without_labels_are_measured_on_all(sky, tmp_path):
    """With sixty spectra, two thirds of them were left out, although no label had been used."""
    table = {name: sky[name] for name in ("object_id", "ra", "dec", "z_spec")}
    wrong = np.where(np.arange(len(sky["z_spec"])) == 5, 8.3, sky["z_spec"])
    wrong[6] = 0.0
    estimates = np.where(np.arange(len(wrong)) == 6, 2.0, sky["z_spec"])
    labels = write_table(tmp_path / "labels.fits", table | {"z_spec": wrong})
    for used, asked in ((0, len(sky["z_spec"])), (9, is_held_out(sky["object_id"]).sum())):
        path = write_table(tmp_path / "z.fits", table | {"z_phot": estimates}, info={"num_train": used})
        found = redshift_evaluate(path, labels, tmp_path / f"judged-{used}")
        assert read_json(found / "metrics.json", what="metrics")["rows"][0]["num_test"] == asked
        objects = read_table(found / "objects.csv")
        assert len(objects["z_spec"]) == asked
        if not used:  # the worst is the first, by the error over 1 + z
            assert objects["object_id"][:2].tolist() == sky["object_id"][[6, 5]].tolist()
            assert objects["z_spec"][:2].tolist() == [0.0, 8.3]


@pytest.mark.parametrize("by", ["id", "position"])
def test_external_estimates_with_several_rows_for_an_object_are_reported(sky, tmp_path, caplog, by):
    """The first counts, also in tables with the estimates of several methods below each other."""
    names = ("object_id", "ra", "dec") if by == "position" else ("object_id",)
    table = {name: sky[name] for name in names}
    labels = write_table(tmp_path / "labels.fits", table | {"z_spec": sky["z_spec"]})
    table["z_phot"] = sky["z_spec"]
    twice = {name: np.concatenate([values, values[:7]]) for name, values in table.items()}
    path = write_table(tmp_path / "mine.fits", twice)
    redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
    said = "object_id" if by == "id" else "ra and dec"
    assert f"mine.fits: 7 rows are not used: another one before them has the same {said}" in caplog.text


@pytest.mark.parametrize("value", [np.nan, 9.0])
def test_external_quantiles_that_are_missing_or_in_disorder_are_refused(inputs, sky, tmp_path, value):
    _, labels, _ = inputs
    quantiles = sky["z_spec"][:, None] + LEVELS
    quantiles[3:5, 6] = value
    table = {name: sky[name] for name in ("object_id", "ra", "dec")}
    table |= {"z_phot": sky["z_spec"], "quantiles": quantiles}
    path = write_table(tmp_path / "mine.fits", table)
    with pytest.raises(
        InputError, match=r"mine\.fits: quantiles of 2 objects with an estimate are missing or"
    ):
        redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
    table["z_phot"] = np.where(np.isin(np.arange(len(quantiles)), [3, 4]), np.nan, sky["z_spec"])
    path = write_table(tmp_path / "mine.fits", table)
    redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)


def test_external_estimates_with_other_names_of_ids_and_coordinates(inputs, sky, tmp_path):
    """Previously, `id` was refused, RAJ2000 was ignored, and angles as text raised a traceback."""
    _, labels, _ = inputs
    place = SkyCoord(sky["ra"], sky["dec"], unit="deg")
    number = len(sky["ra"])
    table = {"id": np.arange(number), "z_phot": sky["z_spec"] + 0.01}
    text = {"RA": place.ra.to_string("hour", sep=":"), "Dec": place.dec.to_string("deg", sep=":")}
    for places in ({"RAJ2000": sky["ra"], "DEJ2000": sky["dec"]}, text):
        path = write_table(tmp_path / "mine.csv", table | places)
        found = redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
        (row,) = read_json(found / "metrics.json", what="metrics")["rows"]
        assert row["num_test"] == number
        assert row["metrics"]["sigma_mad"]["value"] < 0.01


@pytest.mark.parametrize("identity", [None, "CATID", "inexact"])
def test_external_estimates_with_positions_need_no_identities(inputs, sky, tmp_path, identity):
    """They were refused for want of `object_id`, which only serves to find held-out objects."""
    _, labels, _ = inputs
    number = np.arange(len(sky["ra"]))
    own = {None: {}, "CATID": {"CATID": number}, "inexact": {"ID": 2.0**60 + 256 * number}}[identity]
    table = {**own, "RA": sky["ra"], "DEC": sky["dec"], "z_phot": sky["z_spec"] + 0.01}
    path = write_table(tmp_path / "mine.fits", table)
    found = redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
    (row,) = read_json(found / "metrics.json", what="metrics")["rows"]
    assert row["num_test"] == len(number)
    assert row["metrics"]["bias_median"]["value"] == pytest.approx(0.006, abs=0.003)
    with pytest.raises(InputError, match="with held_out_only=False positions are enough"):
        redshift_evaluate(path, labels, tmp_path / "held")
    with pytest.raises(InputError, match="object_id"):
        redshift_evaluate(path, labels, tmp_path / "id", held_out_only=False, match="id")
    nowhere = write_labels(tmp_path / "nowhere.parquet", sky, ra=None, dec=None)
    with pytest.raises(InputError, match="matching by position needs ra and dec"):
        redshift_evaluate(path, nowhere, tmp_path / "nowhere", held_out_only=False)
    named = write_table(tmp_path / "named.fits", {"Z_BEST" if n == "z_phot" else n: table[n] for n in table})
    with pytest.raises(InputError, match=r"Z_BEST; rename the column of estimates to z_phot"):
        redshift_evaluate(named, labels, tmp_path / "named", held_out_only=False)


def test_many_external_estimates_of_zero_are_reported(inputs, sky, tmp_path, caplog):
    _, labels, _ = inputs
    table = {name: sky[name] for name in ("object_id", "ra", "dec")}
    for number, is_reported in ((60, True), (2, False)):
        z_phot = np.where(np.arange(len(sky["ra"])) < number, 0, sky["z_spec"])
        path = write_table(tmp_path / "mine.fits", table | {"z_phot": z_phot})
        redshift_evaluate(path, labels, tmp_path / "judged", held_out_only=False)
        assert ("60 of 420 rows have a z_phot of 0, or within 0.001" in caplog.text) == is_reported
        caplog.clear()


def test_targets_other_than_redshift(inputs, sky, tmp_path):
    features, _, _ = inputs
    size = 10 + 20 * np.sqrt(sky["z_spec"])  # larger than any redshift
    labels = write_labels(tmp_path / "sizes.parquet", sky, size=size)
    write_table(labels, read_table(labels), describe=lambda name: Column(unit="kpc" * (name == "size")))
    asked = {"label_column": "size", "loss": "absolute", "feature_set": "latents", "tuning_trials": 1}
    model = redshift_train(features, labels, tmp_path / "model", **asked)
    found = redshift_predict(model, features, tmp_path / "sizes.fits")
    predicted = read_table(found)
    assert {"size_predicted", "size_median", "size_err68_low", "quantiles"} <= set(predicted)
    assert not {name for name in predicted if name.startswith("z_")}
    in_shards = redshift_predict(model, features, tmp_path / "shards")
    for units in (read(found).units, read(in_shards).units):
        assert {name for name, unit in units.items() if unit == "kpc"} == {
            name for name in predicted if name.startswith(("size_", "quantiles"))
        }
    for path in in_shards.glob("*.parquet"):
        assert (
            b'"size_predicted" unit="kpc"' in pq.read_schema(path).metadata[b"IVOA.VOTable-Parquet.content"]
        )
    test = is_held_out(sky["object_id"])
    error = predicted["size_predicted"][test] - size[test]
    metrics = metrics_of(redshift_evaluate(found, labels, tmp_path / "judged", label_column="size"))
    row = next(iter(metrics[0].values()))["metrics"]
    assert row["rmse"]["value"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
    assert row["bias"]["value"] == pytest.approx(np.mean(error), abs=1e-3)  # not divided by 1 + z
    assert row["r2"]["value"] > 0.5
    assert "eta_15" not in row
    fast = FAST | {"label_column": "size", "feature_sets": ("latents",)}
    out = deepfits.redshift(features, labels, tmp_path / "out", **fast)
    units = read(out / "predictions.parquet").units
    assert units["size"] == units["size_predicted_boosting_latents_squared"] == "kpc"
    for method in ("templates", "pretrained", "adapted"):
        with pytest.raises(InputError, match=f"{method} predicts redshifts only, not size"):
            deepfits.redshift(features, labels, tmp_path / "no", methods=[method], label_column="size")


def test_predictions_flag_objects_without_latents(inputs, sky, tmp_path):
    features, labels, _ = inputs
    model = redshift_train(features, labels, tmp_path / "model", feature_set="latents", tuning_trials=1)
    spoiled = {**sky, "latent": sky["latent"].copy()}
    spoiled["latent"][7] = np.nan
    spoiled["latent"][8] = 1000.0
    found = read_table(
        redshift_predict(model, write_features(tmp_path / "features", spoiled), tmp_path / "z.parquet")
    )
    assert not found["is_valid"][7]
    assert np.isnan(found["z_phot"][7])
    assert found["is_valid"].sum() == NUMBER - 1
    assert found["is_outside_domain"][8]
    assert found["is_outside_domain"].mean() < 0.1


def test_other_bands_and_models_are_refused(inputs, sky, tmp_path):
    features, labels, _ = inputs
    model = redshift_train(features, labels, tmp_path / "model", feature_set="latents", tuning_trials=1)
    other = write_features(tmp_path / "features", sky, bands=("g", "r"))
    with pytest.raises(InputError, match="the model was made for"):
        redshift_predict(model, other, tmp_path / "z.parquet")
    with pytest.raises(InputError, match="no such redshift model"):
        redshift_predict(features, features, tmp_path / "z.parquet")
    with pytest.raises(InputError, match=r"builtin:ugriz: a model of images, .* give the features alone"):
        redshift_predict("builtin:ugriz", features, tmp_path / "z.parquet")
    with pytest.raises(InputError, match="'magnitudes' needs the cutouts"):
        redshift_train(features, labels, tmp_path / "other", feature_set="magnitudes")
    assert not (tmp_path / "other").exists()


def test_a_failed_training_leaves_nothing_behind(inputs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("in the middle of it")

    monkeypatch.setattr("deepfits.stages.redshifts.train.train_predictor", fail)
    with pytest.raises(RuntimeError):
        redshift_train(inputs[0], inputs[1], tmp_path / "new" / "model", feature_set="latents")
    assert not (tmp_path / "new").exists()
