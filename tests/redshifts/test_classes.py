"""Classification with few labels: metrics compared with scikit-learn, tables, prediction, wrong input."""

import json

import numpy as np
import pytest

import deepfits
from deepfits.errors import InputError
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER, Classifier, class_metrics, class_numbers, confusion
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.classes import redshift_classes
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.tables import read_table, write_table
from tests.helpers.redshift_inputs import make_sky, write_features, write_labels


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Make three classes that depend on redshift, of which one in ten is wrong."""
    directory, sky = tmp_path_factory.mktemp("inputs"), make_sky()
    generator = np.random.default_rng(3)
    number = np.digitize(sky["z_spec"], [0.4, 1.0])
    number = np.where(
        generator.uniform(size=len(number)) < 0.1, generator.integers(3, size=len(number)), number
    )
    kind = np.array(["far", "middle", "near"])[2 - number]
    labels = write_labels(directory / "labels.parquet", sky, kind=kind)
    return write_features(directory / "features", sky), labels, sky, kind


def test_metrics_agree_with_scikit_learn():
    from sklearn import metrics

    generator = np.random.default_rng(0)
    label = generator.integers(3, size=300)
    probability = generator.dirichlet(np.ones(3), 300) + 0.4 * np.eye(3)[label]
    probability /= probability.sum(axis=1, keepdims=True)
    found, guess = class_metrics(probability, label), probability.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(label, guess))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(label, guess))
    assert found["f1"] == pytest.approx(metrics.f1_score(label, guess, average="macro"))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(label, probability, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(label, probability))


def test_calibration_detects_overconfidence():
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.5, 1.0, 20000)
    label = (generator.uniform(size=20000) > chance).astype(int)
    calibrated = np.stack([chance, 1 - chance], axis=1)
    # for 20,000 objects in ten bins, the standard error of each fraction is 0.01
    assert class_metrics(calibrated, label)["calibration"] < 0.015
    overconfident = np.stack([np.full(20000, 0.999), np.full(20000, 0.001)], axis=1)
    assert class_metrics(overconfident, label)["calibration"] > 0.2


def test_table_of_classes_and_prediction(inputs, tmp_path):
    features, labels, sky, kind = inputs
    out = redshift_classes(features, labels, tmp_path / "out", feature_sets=("latents", "model"))
    content = json.loads((out / "metrics.json").read_text())
    test = is_held_out(sky["object_id"])
    common = max(np.mean(kind[test] == name) for name in np.unique(kind))
    for row in content["rows"]:
        assert row["num_test"] == test.sum()
        assert row["metrics"]["accuracy"]["value"] > common + 0.15
        assert row["metrics"]["accuracy"]["error"] > 0
        assert sum(entry["num"] for entry in row["confusion"]) == test.sum()
    assert "| far |" in (out / "table.md").read_text()
    model = out / "methods" / "classes-latents"
    stamp = (model / "row.json").stat().st_mtime_ns
    redshift_classes(features, labels, out, feature_sets=("latents", "model"))
    assert (model / "row.json").stat().st_mtime_ns == stamp
    found = read_table(redshift_predict(model, features, tmp_path / "classes.parquet"))
    total = found["p_far"] + found["p_middle"] + found["p_near"]
    np.testing.assert_allclose(total, 1, atol=1e-6)
    agreed = np.mean(found["class"][test] == kind[test])
    assert agreed == pytest.approx(content["rows"][0]["metrics"]["accuracy"]["value"])
    with pytest.raises(InputError, match="also give the features"):
        redshift_predict(model, out=tmp_path / "without.parquet")


@pytest.mark.parametrize("form", ["text with gaps", "truth values", "whole numbers"])
def test_classes_may_be_text_or_boolean_or_integer(inputs, tmp_path, form):
    features, _, sky, kind = inputs
    is_far = kind == "far"
    values = {
        "text with gaps": np.where(np.arange(len(kind)) < 30, "", kind),
        "truth values": is_far,
        "whole numbers": is_far.astype(int),
    }[form]
    labels = write_labels(tmp_path / "labels.parquet", sky, kind=values)
    options = {"label_column": "kind"}
    if form == "whole numbers":  # numbers are classes only if requested
        out = redshift_classes(features, labels, tmp_path / "out", feature_sets=("latents",), **options)
        model = out / "methods" / "classes-latents"
    else:
        model = deepfits.redshift_train(
            features, labels, tmp_path / "model", feature_set="latents", **options
        )
    found = deepfits.redshift_evaluate(
        redshift_predict(model, features, tmp_path / "p.csv"), labels, tmp_path / "evaluated", **options
    )
    (row,) = json.loads((found / "metrics.json").read_text())["rows"]
    test = is_held_out(sky["object_id"]) & (values != "" if form == "text with gaps" else True)
    assert row["num_test"] == test.sum()
    common = max(np.mean(values[test] == name) for name in np.unique(values[test]))
    assert row["metrics"]["accuracy"]["value"] > common


def test_confusion_counts_every_object():
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    found = confusion(probability, np.array([0, 0, 1]), ("a", "b"))
    assert found[0] == {"class": "a", "num": 2, "given": {"a": 1, "b": 1}}
    assert found[1] == {"class": "b", "num": 1, "given": {"a": 0, "b": 1}}


def test_wrong_classes_are_refused(inputs, tmp_path):
    features, _, sky, kind = inputs
    single = write_labels(tmp_path / "one.parquet", sky, kind=np.full(len(kind), "galaxy"))
    with pytest.raises(InputError, match=r"all 420 matched labels"):
        redshift_classes(features, single, tmp_path / "out")
    with pytest.raises(InputError, match=r"needs 10 objects, and 'b' has 3: .*--select 'COLUMN != b'"):
        class_numbers(np.array(["a"] * 30 + ["b"] * 3), "labels")
    with pytest.raises(InputError, match="use regression to predict a number"):
        class_numbers(np.arange(500), "labels")
    with pytest.raises(InputError, match="no such classifier"):
        storage.load(Classifier, tmp_path, CLASSIFIER, what="classifier")
    text = write_labels(tmp_path / "text.parquet", sky, z_spec=kind, kind=kind)
    with pytest.raises(InputError, match="a class, not a redshift"):
        deepfits.redshift(features, text, tmp_path / "redshift")
    with pytest.raises(InputError, match="kind has class names, which only boosting predicts"):
        deepfits.redshift(features, text, tmp_path / "redshift", label_column="kind", methods=["network"])
    with pytest.raises(InputError, match="not network"):
        deepfits.redshift_train(
            features, text, tmp_path / "model", label_column="kind", method="network", feature_set="latents"
        )


def test_a_class_can_be_the_target_of_the_redshift_stages(inputs, tmp_path):
    features, labels, sky, kind = inputs
    asked = {"label_column": "kind"}
    out = deepfits.redshift(features, labels, tmp_path / "out", feature_sets=("latents",), **asked)
    row = json.loads((out / "metrics.json").read_text())["rows"][0]
    model = deepfits.redshift_train(features, labels, tmp_path / "model", feature_set="latents", **asked)
    found = deepfits.redshift_predict(model, features, tmp_path / "classes.parquet")
    judged = deepfits.redshift_evaluate(found, labels, tmp_path / "judged", **asked)
    again = json.loads((judged / "metrics.json").read_text())["rows"][0]
    assert again["num_test"] == is_held_out(sky["object_id"]).sum()
    assert again["metrics"]["auc"]["value"] == pytest.approx(row["metrics"]["auc"]["value"])
    assert again["metrics"]["auc"]["value"] > 0.65  # a tenth of the labels are wrong on purpose
    more = write_labels(tmp_path / "more.parquet", sky, kind=np.where(np.arange(len(kind)) % 9, kind, "new"))
    with pytest.raises(InputError, match="no probability of the class 'new'"):
        deepfits.redshift_evaluate(found, more, tmp_path / "more", **asked)


def test_external_probabilities_must_add_up_to_one(inputs, tmp_path):
    """Previously, a column `p_value` counted as a class, the most probable one of every object."""
    _, labels, sky, kind = inputs
    names = sorted(set(kind.tolist()))
    table = {name: sky[name] for name in ("object_id", "ra", "dec")}
    table |= {f"p_{name}": np.where(kind == name, 0.9, 0.1 / (len(names) - 1)) for name in names}

    def evaluated(**changes):
        path = write_table(tmp_path / "mine.fits", table | changes)
        options = {"label_column": "kind", "held_out_only": False}
        found = deepfits.redshift_evaluate(path, labels, tmp_path / "judged", **options)
        return json.loads((found / "metrics.json").read_text())["rows"][0]

    unknown = np.arange(len(kind)) < 7
    row = evaluated(p_value=kind, **{f"p_{names[0]}": np.where(unknown, np.nan, table[f"p_{names[0]}"])})
    assert (row["num_test"], row["num_missing"]) == (len(kind) - 7, 7)
    assert row["metrics"]["accuracy"]["value"] == 1
    with pytest.raises(InputError, match=r"p_value add up to 1\.\d+, not to 1: leave out"):
        evaluated(p_value=np.full(len(kind), 0.95))
    with pytest.raises(InputError, match="add up to 100, not to 1"):
        evaluated(**{f"p_{name}": 100 * table[f"p_{name}"] for name in names})
    with pytest.raises(InputError, match="no object has a probability of every class"):
        evaluated(**{f"p_{names[0]}": np.full(len(kind), np.nan)})
