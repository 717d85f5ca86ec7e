"""Predicting true properties from features: comparison with scikit-learn, informative features or not."""

import numpy as np
import pytest

from deepfits.redshifts import knowledge
from deepfits.redshifts.features import Source
from deepfits.redshifts.knowledge import kernel_ridge, predictability, properties_of, table_rows


def test_kernel_ridge_agrees_with_scikit_learn(monkeypatch):
    from sklearn.kernel_ridge import KernelRidge

    rng = np.random.default_rng(0)
    features, asked = rng.normal(size=(120, 3)), rng.normal(size=(40, 3))
    target = np.stack([np.sin(features[:, 0]), features[:, 1] * features[:, 2]], axis=1)
    monkeypatch.setattr(knowledge, "WIDTHS", (2.0,))
    monkeypatch.setattr(knowledge, "RIDGES", (0.03,))
    apart = ((features[:, None] - features[None]) ** 2).sum(2)
    theirs = KernelRidge(alpha=0.03, kernel="rbf", gamma=1 / (2 * np.median(apart)))
    expected = theirs.fit(features, target - target.mean(0)).predict(asked) + target.mean(0)
    np.testing.assert_allclose(kernel_ridge(features, target, asked), expected, atol=1e-8)


def test_settings_are_chosen_for_each_target():
    rng = np.random.default_rng(1)
    features, asked = rng.uniform(-1, 1, (300, 2)), rng.uniform(-1, 1, (100, 2))
    signal = np.sin(4 * asked[:, 0])
    target = np.stack([np.sin(4 * features[:, 0]), rng.normal(size=300)], axis=1)
    found = kernel_ridge(features, target, asked)
    assert np.std(found[:, 0] - signal) < 0.05
    assert np.std(found[:, 1]) < 0.5  # noise is not fitted


def test_only_properties_encoded_in_the_features_are_predicted():
    rng = np.random.default_rng(2)
    number = 600
    truth = {
        "kind": np.where(np.arange(number) % 5, "galaxy", "star"),
        "z_spec": rng.uniform(0, 1, number),
        "half_light_radius_arcsec": np.exp(rng.normal(size=number)),
        **{name: rng.uniform(size=number) for name in ("bulge_fraction", "bulge_ratio", "disc_ratio", "ebv")},
        "angle": rng.uniform(0, np.pi, number),
    }
    size, is_star = np.log(truth["half_light_radius_arcsec"]), truth["kind"] == "star"
    latent = np.stack([size, is_star + 0.3 * rng.normal(size=number), rng.normal(size=number)], axis=1)
    columns = {"object_id": np.arange(number), "latent": latent.astype("f4")}
    source = Source(columns=columns, bands=("g", "r"))
    properties = properties_of(truth)
    assert list(properties)[-1] == "star or galaxy"
    assert np.isnan(properties["half-light radius"][is_star]).all()
    rows = predictability(source, properties, np.arange(number) < 300, num_labels=(100, 3000))
    assert [(row["features"], row["num_labels"]) for row in rows] == [
        (name, number) for number in (100, 300) for name in ("latents", "oriented")
    ]
    found = rows[2]["found"]
    assert found["half-light radius"][0] > 0.95
    assert found["star or galaxy"][0] > 0.97
    for name in ("axis ratio", "dust", "redshift"):
        assert -0.1 < found[name][0] < 0.1
        assert 0 < found[name][1] < 0.1
    heads, cells = table_rows(rows)
    assert heads[:3] == ["features", "labels", "half-light radius"]
    assert [row[0] for row in cells[:2]] == ["latents", "fitted latents"]
    few = {"rare": np.where(np.arange(number) < 10, 1.0, np.nan)}
    assert predictability(source, few, np.arange(number) < 300)[0]["found"] == {"rare": [None, None]}


def test_orientation_and_axis_ratio_of_galaxies():
    truth = {
        "kind": np.array(["galaxy"] * 3),
        "z_spec": np.zeros(3),
        "half_light_radius_arcsec": np.ones(3),
        "bulge_fraction": np.array([0.1, 0.9, 0.1]),
        "bulge_ratio": np.array([0.9, 0.5, 0.9]),
        "disc_ratio": np.array([1.0, 0.9, 0.2]),
        "ebv": np.zeros(3),
        "angle": np.array([0.3, 0.0, np.pi / 2]),
    }
    by_name = properties_of(truth)
    assert by_name["orientation"] == pytest.approx([0, 0.5, -0.8])
    assert by_name["axis ratio"] == pytest.approx([1.0, 0.5, 0.2])
