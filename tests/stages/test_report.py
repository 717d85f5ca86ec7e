"""The report of parts that lie elsewhere than in the run: what it says of them is of those."""

import json
import shutil

import deepfits
from deepfits.files import write_json


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
