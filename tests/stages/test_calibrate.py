"""Calibrating a model on a survey: other errors, the same networks and latents."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil

import h5py
import numpy as np
import pytest

import deepfits
from deepfits.errors import InputError, TooFewGalaxiesError
from deepfits.fitting.model_error import FLUXES
from deepfits.models.bundle import Model
from deepfits.models.card import describe
from deepfits.results import RECORD
from deepfits.stages.show import _warn_if_not_calibrated
from tests.helpers.stage_runs import RUNS


@pytest.mark.slow
def test_errors_are_other_and_latents_the_same(base, first, tmp_path, caplog):
    calibrated, plain = Model.load(first("calibrate")), Model.load(base / "model")
    assert calibrated.fingerprint == plain.fingerprint
    assert plain.errors is None
    assert calibrated.errors is not None
    assert 0 < min(calibrated.errors["light_fraction"]) < 1
    assert "measured by `deepfits calibrate` on a survey without a name" in describe(calibrated)
    out = tmp_path / "features"
    deepfits.fit(base / "survey", first("calibrate"), out, threads=1)
    assert "errors were not measured" not in caplog.text
    other = deepfits.fit(base / "survey", base / "model", tmp_path / "other", threads=1)
    ours, theirs = deepfits.read_features(out), deepfits.read_features(other)
    for name in ("latent", "flux_model_g", "chi2", "model_hash"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    bright = np.isfinite(ours["flux_model_err_g"])
    assert bright.mean() > 0.5
    assert (ours["flux_model_err_g"] > theirs["flux_model_err_g"])[bright].mean() > 0.9
    # The largest of four statistics in units of their scatter has the median 1 if they are independent.
    assert 0 < np.nanmedian(ours["anomaly"]) < 2
    assert (ours["anomaly"] != theirs["anomaly"])[bright].any()
    with pytest.raises(InputError, match="calibration"):
        deepfits.fit(base / "survey", base / "model", out, threads=1)


def test_a_band_that_the_survey_lacks_keeps_its_values(base, first, tmp_path):
    shutil.copytree(base / "survey", tmp_path / "survey")
    with h5py.File(next((tmp_path / "survey").glob("*.h5")), "r+") as file:
        file["weight"][:, 0] = 0
    known = Model.load(first("calibrate"))
    shipped = dict(known.errors, light_fraction=(0.77, 0.0, 0.0))
    known.model_error, known.calibration = shipped, None
    known.save(tmp_path / "model")
    found = Model.load(RUNS["calibrate"](tmp_path, tmp_path / "out")).errors
    assert found["light_fraction"][0] == 0.77
    assert 0 < min(found["light_fraction"][1:]) < 0.77
    assert all(found["flux_fraction"][kind][0] == shipped["flux_fraction"][kind][0] for kind in FLUXES)
    assert np.isfinite(found["latent_nuisance"]).all()


def test_seeing_that_the_model_was_not_trained_at_is_said(base, tmp_path, caplog):
    model = Model.load(base / "model")
    model.info = dataclasses.replace(model.info, fwhm_arcsec=(0.7,) * len(model.info.bands))
    model.save(tmp_path / "model")
    shutil.copytree(base / "survey", tmp_path / "survey")
    content = json.loads((tmp_path / "survey" / "store.json").read_text())
    content["fwhm_arcsec"] = [2.0] * len(content["bands"])
    (tmp_path / "survey" / "store.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        RUNS["calibrate"](tmp_path, tmp_path / "out")
    assert "seeing 2.00 arcsec, the model was trained at 0.70" in caplog.text


def test_too_few_bright_galaxies(base, tmp_path):
    shutil.copytree(base / "store", tmp_path / "survey")
    shutil.copytree(base / "model", tmp_path / "model")
    with pytest.raises(TooFewGalaxiesError, match=r"of \d objects are bright .* 40 are needed"):
        RUNS["calibrate"](tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_errors_of_a_model_that_were_not_measured_are_missed(base, tmp_path, caplog):
    """Trained on few objects: errors of bright galaxies were a tenth of a per cent, without a word."""
    model = Model.load(base / "model")
    model.model_error = None
    model.save(tmp_path / "model")
    deepfits.fit(base / "store", tmp_path / "model", tmp_path / "out", mode="embedder")
    assert "those of fluxes are too small; `deepfits calibrate" in caplog.text


@pytest.mark.parametrize(
    ("made_from", "is_warned"),
    [
        ({"model": "shipped"}, True),
        ({"model": "shipped", "calibration": "0a"}, False),
        ({"model": "1b"}, False),
    ],
)
def test_anomalies_on_the_scale_of_other_surveys(tmp_path, caplog, made_from, is_warned):
    fingerprint = Model.load("builtin:ugriz").fingerprint if made_from["model"] == "shipped" else "1b"
    record = {"stage": "fit", "version": 1, "inputs": made_from | {"model": fingerprint}, "settings": {}}
    (tmp_path / RECORD).write_text(json.dumps(record | {"finished": True}))
    with caplog.at_level(logging.WARNING):
        _warn_if_not_calibrated(tmp_path)
    assert ("deepfits calibrate MODEL STORE" in caplog.text) == is_warned


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
