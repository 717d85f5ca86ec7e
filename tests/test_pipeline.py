"""The whole way: from a simulated sky to the report."""

import json
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

import deepfits
from deepfits.passbands import wavelength_of
from deepfits.splits import is_held_out
from deepfits.survey.store import CutoutStore
from tests.helpers.command import Command, run_cli

SMALL_RUN = """
[simulate]
size = 480
seed = 5
[detect]
[cutouts]
shard_size = 60
[train]
recipe = "tiny"
steps = 60
options = { width = 32, latent_size = 16, batch_size = 32 }
[fit]
modes = ["embedder", "optimise", "both"]
[redshift]
methods = ["boosting"]
feature_sets = ["latents", "magnitudes"]
tuning_trials = 2
scenes = "builtin:ugriz"
scene_labels = 10
"""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Run every stage, too briefly to be good at anything."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "small.toml").write_text(SMALL_RUN)
    return deepfits.run(directory / "small.toml", out=directory / "out")


def test_every_stage_leaves_its_files(small_run):
    out = small_run.parents[1]
    for name in (
        "sky/coadd-u.fits",
        "sky/truth.parquet",
        "catalogue.parquet",
        "cutouts/store.json",
        "model/model.json",
        "features-embedder/_features.json",
        "features-optimise/_features.json",
        "features-both/_features.json",
        "redshift/metrics.json",
        "scenes/redshift/metrics.json",
        "report/index.html",
        "report/figures/figure-1.png",
        "report/figures/figure-2.png",
        "config.json",
        "provenance.json",
    ):
        assert (out / name).exists(), name
    assert not list(out.rglob(".writing-*"))
    assert json.loads((out / "config.json").read_text())["inpaint"]["bands"] == ["u"]


def _identities(features):
    return [i for p in sorted(features.glob("shard-*")) for i in pq.read_table(p)["object_id"].to_pylist()]


def test_filters_travel_from_headers_to_features(small_run):
    """What seeing through filters costs, heads must know: the sky's own, as its images' headers say."""
    out = small_run.parents[1]
    for place in (out / "features-both", out / "scenes" / "features"):
        table = pq.read_table(sorted(place.glob("shard-*"))[0])
        for band, name in (("u", "cfht_megacam-u"), ("z", "hsc2017-z")):
            found = table[f"filter_wavelength_{band}"].to_numpy()
            np.testing.assert_allclose(found, wavelength_of(name), atol=1)


def test_identities_travel_to_every_output(small_run):
    out = small_run.parents[1]
    ids = set(CutoutStore(out / "cutouts").catalogue(["object_id"])["object_id"].tolist())
    assert set(_identities(out / "features-both")) == ids
    held = {i for i, h in zip(ids, is_held_out(np.array(list(ids))), strict=True) if h}
    assert set(_identities(out / "features-optimise")) == held
    predicted = pq.read_table(out / "redshift" / "predictions.parquet").column("object_id").to_pylist()
    assert set(predicted) <= held


def test_both_fits_better_than_the_guess_it_starts_from(small_run):
    summary = json.loads((small_run.parent / "summary.json").read_text())["fits"]
    chi2 = {mode: summary[mode]["all"]["median_reduced_chi2"] for mode in summary}
    assert chi2["both"] < chi2["embedder"]
    assert chi2["optimise"] < chi2["embedder"]
    # Noise alone gives 1; a model that drew nothing could not come near it on bright objects.
    assert 0.8 < chi2["both"] < 10


def test_the_report_says_what_was_measured(small_run):
    html = small_run.read_text()
    for words in ("Fig. 1", "Fig. 2", "σ_MAD", "held-out", "Murray, Fabbro"):
        assert words in html
    metrics = json.loads((small_run.parents[1] / "redshift" / "metrics.json").read_text())
    first = metrics["rows"][0]["metrics"]["sigma_mad"]["value"]
    assert f"{first:.3f}" in html
    scenes = json.loads((small_run.parents[1] / "scenes" / "redshift" / "metrics.json").read_text())["rows"]
    by_method = {row["method"]: row for row in scenes}
    assert by_method["adapted"]["num_train"] == 10
    # without any label redshifts of the same objects are better than of methods that learned from them
    assert by_method["pretrained"]["num_test"] == metrics["rows"][0]["num_test"]
    without, constant = (
        one["metrics"]["sigma_mad"]["value"] for one in (by_method["pretrained"], metrics["rows"][0])
    )
    assert without < 0.7 * constant
    assert "without any label: pretrained" in html


def test_running_again_changes_nothing(small_run):
    out = small_run.parents[1]
    watched = [
        out / "sky/coadd-u.fits",
        out / "cutouts/shard-00000.h5",
        out / "model/weights.safetensors",
        out / "features-both/shard-00000.parquet",
        out / "redshift/_made_from.json",
    ]
    before = [(p.stat().st_mtime_ns, p.read_bytes()) for p in watched]
    deepfits.run(out.parent / "small.toml", out=out)
    for path, (time_written, content) in zip(watched, before, strict=True):
        assert path.read_bytes() == content, path
        assert path.stat().st_mtime_ns == time_written, path


def test_a_model_refuses_a_store_of_other_bands(small_run, tmp_path):
    out = small_run.parents[1]
    description = json.loads((out / "cutouts" / "store.json").read_text())
    description["bands"] = ["g", "r", "i", "z", "y"]
    (tmp_path / "store.json").write_text(json.dumps(description))
    (tmp_path / "shard-00000.h5").symlink_to(out / "cutouts" / "shard-00000.h5")
    with pytest.raises(deepfits.errors.InputError, match=r"do not fit the model.*g-r-i-z-y"):
        deepfits.fit(tmp_path, out / "model", tmp_path / "features")


def test_a_report_without_redshifts_says_so_and_invents_none(small_run, tmp_path):
    out = small_run.parents[1]
    for name in ("cutouts", "model", "features-both"):
        (tmp_path / name).symlink_to(out / name)
    html = deepfits.report(tmp_path).read_text()
    assert "no comparison with known redshifts" in html
    assert "σ_MAD" not in html


def _kill_when(process, condition, sig):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sig)
    return process.wait(timeout=60).returncode


@pytest.fixture(scope="module")
def undisturbed(small_run, tmp_path_factory):
    """Features of the paper's solver, slow enough to be interrupted, made in one go."""
    out, features = small_run.parents[1], tmp_path_factory.mktemp("undisturbed") / "features"
    return deepfits.fit(out / "cutouts", out / "model", features, solver="adam", num_steps=40, threads=1)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fit_goes_on_and_ends_the_same(small_run, undisturbed, tmp_path, sig):
    out = small_run.parents[1]
    command = [
        *("fit", str(out / "cutouts"), str(out / "model"), "--out", str(tmp_path / "features")),
        *("--solver", "adam", "--num-steps", "40"),
    ]
    shards = sorted(p.name for p in undisturbed.glob("shard-*"))
    first = tmp_path / "features" / shards[0]
    status = _kill_when(Command(*command), first.exists, sig)
    assert status == (130 if sig == signal.SIGINT else -signal.SIGKILL)
    assert sorted(p.name for p in (tmp_path / "features").glob("shard-*")) < shards
    written = first.stat().st_mtime_ns
    run_cli(*command).check_returncode()
    assert first.stat().st_mtime_ns == written
    for name in shards:
        resumed, whole = (pq.read_table(d / name) for d in (tmp_path / "features", undisturbed))
        assert resumed.schema == whole.schema
        for column in whole.column_names:
            pair = [np.array(t[column].to_pylist()) for t in (resumed, whole)]
            np.testing.assert_array_equal(*pair, err_msg=f"{name}: {column}")
