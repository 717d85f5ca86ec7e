"""Metrics are sent to the selected trackers and written to disk."""

import json
import sys
from types import SimpleNamespace

import pytest

import deepfits
from deepfits.errors import InputError
from deepfits.training.checkpoint import cut_metrics
from deepfits.training.records import Recorder

ROW = {"step": 3, "generator": 0.5, "collapsed": False, "words": "left out"}
EXPECTED = ({"training/generator": 0.5, "training/collapsed": 0.0}, 3)


def test_mlflow_receives_metrics_in_a_new_run(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(
        active_run=lambda: None,
        start_run=lambda run_name: calls.append(run_name),
        log_metrics=lambda numbers, step: calls.append((numbers, step)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with Recorder(tmp_path, 0, tensorboard=False, tracker="mlflow") as recorder:
        recorder.write(ROW)
    assert calls == [tmp_path.name, EXPECTED]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == ROW


def test_wandb_receives_metrics_in_the_active_run(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(run="active", log=lambda numbers, step: calls.append((numbers, step)))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Recorder(tmp_path, 0, tensorboard=False, tracker="wandb") as recorder:
        recorder.write(ROW)
        recorder.show("health", {"step": 3, "spread": 1.0})
    assert calls == [EXPECTED, ({"health/spread": 1.0}, 3)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_unknown_and_missing_trackers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"tracker.*mlflow"):
        deepfits.train(tmp_path, tmp_path / "model", tracker="paper")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        Recorder(tmp_path, 0, tensorboard=False, tracker="wandb")


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    with Recorder(tmp_path, 0, tensorboard=False) as recorder:
        for step in (1, 2, 3):
            recorder.write({"step": step})
    with Recorder(tmp_path, 2, tensorboard=False) as recorder:
        recorder.write({"step": 3})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("line", ['{"step"', "[]", "3", '{"loss": 1}', '{"step": "two"}', "[" * 100_000])
def test_metrics_are_truncated_at_a_damaged_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 3.0}}\n{{"step": 2}}\n{line}\n{{"step": 3}}\n')
    cut_metrics(path, 5)
    assert path.read_text() == '{"step": 1, "loss": 3.0}\n{"step": 2}\n'
    cut_metrics(path, 1)
    assert path.read_text() == '{"step": 1, "loss": 3.0}\n'
