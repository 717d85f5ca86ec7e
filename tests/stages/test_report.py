"""The report of parts that lie elsewhere than in the run: what it says of them is of those."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json, write_json
from deepfits.models.bundle import Model
from deepfits.results import RECORD
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.report_parts import _load_model
from tests.helpers.stage_runs import RUNS
from tests.stages.test_again import column, other_model


def test_results_of_other_inputs_are_said_or_left_out(base, tmp_path, caplog):
    shutil.copytree(base / "run", tmp_path / "run")
    run = tmp_path / "run"
    RUNS["inpaint"](base, run / "inpaint-g")
    redshift_predict(base / "predictor", run / "features-both", run / "z.parquet")
    caplog.clear()
    assert read_json(deepfits.report(run, num_examples=1).with_name("summary.json"))["fits"]
    deepfits.join(run)
    described = run / "features-both" / "_features.json"
    described.rename(run / "kept.json")  # as in a fit that was interrupted
    deepfits.report(run, num_examples=1, partial=True)
    (run / "kept.json").rename(described)
    assert "has changed" not in caplog.text
    column("features-both", "chi2", lambda chi2: chi2 + 1)(run)
    for see in (lambda: deepfits.join(run), lambda: deepfits.report(run, num_examples=1)):
        caplog.clear()
        see()
        assert re.search(r"z\.parquet: its input 'features' has changed .*redshift predict", caplog.text)
    other_model(run)
    assert not read_json(deepfits.report(run, num_examples=1).with_name("summary.json"))["fits"]
    assert re.search("features-both: left out: fitted with another model", caplog.text)
    assert re.search(r"inpaint-g: its input 'model' has changed .*deepfits inpaint", caplog.text)


def test_counts_and_training_are_those_of_the_parts_that_are_named(base, tmp_path):
    run, store, model = tmp_path / "run", tmp_path / "other-store", tmp_path / "other-model"
    shutil.copytree(base / "run", run)
    shutil.copytree(run / "cutouts", store)
    shutil.copytree(run / "model", model)
    write_json(run / "cutouts" / "summary.json", {"num_incomplete": 71234})
    write_json(store / "summary.json", {"num_incomplete": 84321})
    losses = {"discriminator": 0.5, "generator": 0.5, "embedder": 0.5}
    record = "".join(json.dumps({"step": step, **losses}) + "\n" for step in (1, 2))
    (model / "metrics.jsonl").write_text(record)
    page = deepfits.report(run, store=store, model=model, num_examples=1)
    html = page.read_text()
    assert "84,321" in html
    assert "71,234" not in html
    assert (page.parent / "figures" / "training.png").exists()  # drawn from the model's own record


def test_what_a_run_lacks_is_said_once_with_its_whole_command(base, tmp_path):
    """Commands were broken as prose (`--` at the end of a line), and that for redshifts named no files."""
    shutil.copytree(base / "run", run := tmp_path / "run")
    commands = re.findall(r"<pre>deepfits (.*)</pre>", deepfits.report(run, num_examples=1).read_text())
    assert f"inpaint {run}/cutouts {run}/model --out {run}/inpaint-u --band u" in commands
    known = f"redshift {run}/features-both spectra.csv --out {run}/redshift --store {run}/cutouts"
    assert [command for command in commands if command.startswith("redshift")] == [known]


def test_a_band_that_was_predicted_twice_has_a_figure_and_numbers_of_each(base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    RUNS["inpaint"](base, run / "inpaint-g", bands="g")
    alone = read_json(deepfits.report(run, num_examples=1).parent / "summary.json")["inpaint"]
    RUNS["inpaint"](base, run / "inpaint-g-r", bands=("g", "r"))
    page = deepfits.report(run, num_examples=1)
    both = read_json(page.parent / "summary.json")["inpaint"]
    assert both["g"] == alone["g"]
    assert "r" in both
    names = {path.name for path in (page.parent / "figures").glob("inpaint-*.png")}
    assert names == {"inpaint-g.png", "inpaint-g-with-g-r.png", "inpaint-r-with-g-r.png"}
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    assert len(set(shown)) == len(shown)


def test_a_predicted_band_named_otherwise_than_in_the_store_is_reported(base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    RUNS["inpaint"](base, run / "inpaint-G", bands="lsst_g")
    page = deepfits.report(run, num_examples=1)
    assert "scatter_mag" in read_json(page.parent / "summary.json")["inpaint"]["g"]


@pytest.mark.parametrize("what", ["features-both", "truth.parquet"])
def test_damaged_files_are_named(base, tmp_path, what):
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    damaged = run / "sky" / "truth.parquet"
    if what == "features-both":
        damaged = min((run / "features-both").glob("shard-*.parquet"))
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=rf"{what}: cannot read .*(again|remove it)"):
        deepfits.report(run, num_examples=1)


@pytest.mark.parametrize("column", ["chi2", "object_id"])
def test_features_without_a_column_or_of_other_identities_are_named(base, tmp_path, column):
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    for path in (run / "features-both").glob("shard-*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index(column)
        changed = table.remove_column(place)
        if column == "object_id":
            text = pa.array([f"J{number}" for number in table[column].to_pylist()])
            changed = changed.append_column(column, text)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(
        InputError, match=r"features-both: cannot read these features of this store .*; fit again"
    ):
        deepfits.report(run, num_examples=1)


def test_where_the_cutouts_are_is_asked_for(tmp_path):
    """It advised to make the store that is elsewhere."""
    with pytest.raises(InputError, match="neither cutouts nor features are there; give a run directory"):
        deepfits.report(tmp_path)
    (tmp_path / "features-both").mkdir()
    with pytest.raises(InputError, match=r"the report needs the cutouts; give their store \(store=...\)"):
        deepfits.report(tmp_path)


def test_features_of_an_unfinished_fit_say_which_model_that_came_with_the_package_made_them(tmp_path):
    (tmp_path / "features-both").mkdir()
    fingerprint = Model.load("builtin:ugriz").fingerprint
    write_json(tmp_path / "features-both" / RECORD, {"stage": "fit", "inputs": {"model": fingerprint}})
    assert _load_model(tmp_path, tmp_path / "model").fingerprint == fingerprint
