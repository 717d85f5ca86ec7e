"""Calibrating a model on a survey: other errors, the same networks and latents."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import deepfits
from deepfits.errors import InputError, TooFewGalaxiesError
from deepfits.models.bundle import Model
from deepfits.models.card import describe
from deepfits.survey.store import shard_name, write_shard
from tests.helpers.stage_runs import RUNS


def test_errors_are_other_and_latents_the_same(base, first, tmp_path):
    calibrated, plain = Model.load(first("calibrate")), Model.load(base / "model")
    assert calibrated.fingerprint == plain.fingerprint
    assert plain.errors is None
    assert calibrated.errors is not None
    assert 0 < min(calibrated.errors["light_fraction"]) < 1
    assert "were measured on another survey" in describe(calibrated)
    out = tmp_path / "features"
    deepfits.fit(base / "survey", first("calibrate"), out, threads=1)
    other = deepfits.fit(base / "survey", base / "model", tmp_path / "other", threads=1)
    ours, theirs = deepfits.read_features(out), deepfits.read_features(other)
    for name in ("latent", "flux_model_g", "chi2", "model_hash"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    bright = np.isfinite(ours["flux_model_err_g"])
    assert bright.mean() > 0.5
    assert (ours["flux_model_err_g"] > theirs["flux_model_err_g"])[bright].mean() > 0.9
    assert np.nanmedian(ours["anomaly"]) < 1
    assert (ours["anomaly"] != theirs["anomaly"])[bright].any()
    with pytest.raises(InputError, match="calibration"):
        deepfits.fit(base / "survey", base / "model", out, threads=1)


def test_too_few_bright_galaxies(base, tmp_path):
    shutil.copytree(base / "store", tmp_path / "survey")
    shutil.copytree(base / "model", tmp_path / "model")
    with pytest.raises(TooFewGalaxiesError, match=r"of \d objects are bright .* 40 are needed"):
        RUNS["calibrate"](tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_survey_that_lacks_a_band_of_the_model(base, tmp_path):
    shutil.copytree(base / "model", tmp_path / "model")
    shutil.copytree(base / "survey", tmp_path / "survey")
    survey = deepfits.CutoutStore(base / "survey")
    cutouts = survey.read_shard(0)
    cutouts.weight[:, 1] = 0
    write_shard(tmp_path / "survey" / shard_name(0), cutouts, survey.info)
    with pytest.raises(TooFewGalaxiesError, match=rf"\(none has {survey.info.bands[1]}\); .* as it is"):
        RUNS["calibrate"](tmp_path, tmp_path / "out")


@pytest.mark.parametrize("ships", [False, True])
def test_only_a_model_trained_here_may_have_seen_the_objects(base, tmp_path, monkeypatch, ships):
    """A model that ships with the package has not, wherever it lies: calibrated before, or copied."""
    asked = []

    def measure_on(model, store, *, held_out_only, **more):
        asked.append(held_out_only)
        raise TooFewGalaxiesError("enough")

    monkeypatch.setattr("deepfits.training.model_error.measure_on", measure_on)
    monkeypatch.setattr("deepfits.models.bundle.find_builtin", lambda found: "a model" if ships else None)
    with pytest.raises(TooFewGalaxiesError):
        RUNS["calibrate"](base, tmp_path / "out")
    assert asked == [not ships]
