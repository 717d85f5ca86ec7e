"""Training runs, stops, resumes, and refuses inconsistent settings."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.models.bundle import Model
from deepfits.stages.train import _rank, train
from deepfits.survey.store import CutoutStore, shard_name, write_shard
from deepfits.training.config import TrainingConfig
from deepfits.training.loop import Trainer
from tests.helpers.trainings import INFO, OPTIONS, StopAt, losses

ALL = {"reconstruction": 0.1, "incomplete": True}


def test_training_writes_a_model_with_its_card(store, tmp_path):
    out = train(store, tmp_path / "m", recipe="tiny", steps=3, options=OPTIONS)
    model = Model.load(out)
    assert model.info.bands == ("g", "r")
    assert (model.config.size, model.config.num_bands) == (16, 2)
    assert model.card["steps"] == 3
    assert model.card["data"]["num_incomplete"] <= 10
    total = sum(model.card["data"][f"num_{n}"] for n in ("complete", "incomplete", "held_out"))
    assert total == 200
    assert [row["step"] for row in losses(out)] == [1, 2, 3]
    assert torch.isfinite(model.render(torch.randn(5, 4))).all()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, 3),
        ({"RANK": "4", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, 4),  # torchrun, on the second node of a job
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, 1),  # started by Lightning
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, 1),
        ({}, 0),
    ],
)
def test_rank_of_a_process(monkeypatch, environment, expected):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _rank() == expected


def test_a_separate_training_in_a_slurm_task_keeps_its_record(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    out = train(store, tmp_path / "m", recipe="tiny", steps=1, options=OPTIONS)
    assert (out / "_made_from.json").exists()


def test_training_again_changes_nothing(store, tmp_path):
    out = train(store, tmp_path / "m", recipe="tiny", steps=2, options=OPTIONS)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    train(store, out, recipe="tiny", steps=2, options=OPTIONS)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_a_finished_model_is_recognised_without_reading_the_store(store, tmp_path, monkeypatch):
    out = train(store, tmp_path / "m", recipe="tiny", steps=1, options=OPTIONS)
    monkeypatch.setattr("deepfits.training.session.measure_training_set", pytest.fail)
    assert train(store, out, recipe="tiny", steps=1, options=OPTIONS) == out


def test_other_cutouts_are_refused(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    out = train(copy, tmp_path / "m", recipe="tiny", steps=1, options=OPTIONS)
    shutil.rmtree(copy)
    shutil.copytree(store, copy, copy_function=shutil.copyfile)  # other modification times, same cutouts
    assert train(copy, out, recipe="tiny", steps=1, options=OPTIONS) == out
    shard = CutoutStore(copy).read_shard(0)
    write_shard(copy / shard_name(0), shard.take(np.arange(150)), INFO)
    with pytest.raises(InputError, match="its input 'store' has changed"):
        train(copy, out, recipe="tiny", steps=1, options=OPTIONS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [{}, ALL, {"shared_discriminator_pass": False}])
def test_resumed_training_is_the_uninterrupted_one(store, tmp_path, number, options):
    options = OPTIONS | options
    whole = train(store, tmp_path / "whole", recipe="tiny", steps=9, options=options)
    kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    out = tmp_path / "parts"
    for step in (4, 6):
        with pytest.raises(kind):
            train(store, out, recipe="tiny", steps=9, options=options, progress=StopAt(step, number))
        assert not (out / "model.json").exists()
        assert losses(out)[-1]["step"] == step
    train(store, out, recipe="tiny", steps=9, options=options)
    assert losses(out) == losses(whole)
    assert Model.load(out).fingerprint == Model.load(whole).fingerprint


def test_a_killed_training_resumes_from_its_last_checkpoint(store, tmp_path):
    """The process is killed without a chance to clean up; one thread, for reproducible rounding."""
    whole = train(store, tmp_path / "whole", recipe="tiny", steps=8, threads=1, options=OPTIONS)
    out = tmp_path / "killed"
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.helpers.trainings import OPTIONS, StopAt
from deepfits.stages.train import _rank, train
options = OPTIONS | {{"checkpoint_seconds": 0.0}}
train({str(store)!r}, {str(out)!r}, recipe="tiny", steps=8, threads=1, options=options, progress=StopAt(5, 9))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "genera')  # as an interrupted write may leave behind
    (out / "checkpoints" / ".writing-0000-step-00000006").mkdir()
    train(store, out, recipe="tiny", steps=8, threads=1, options=OPTIONS | {"checkpoint_seconds": 0.0})
    assert losses(out) == losses(whole)
    assert not list((out / "checkpoints").glob(".writing*"))


def test_other_settings_are_refused(store, tmp_path):
    out = train(store, tmp_path / "m", recipe="tiny", steps=2, options=OPTIONS)
    with pytest.raises(InputError, match="seed = 0, now 1"):
        train(store, out, recipe="tiny", steps=2, seed=1, options=OPTIONS)
    with pytest.raises(InputError, match=r"made without options\.ema = 0\.5; .*remove it"):
        train(store, out, recipe="tiny", steps=2, options=OPTIONS | {"ema": 0.5})
    with pytest.raises(InputError, match="did you mean 'ema'"):
        train(store, out, recipe="tiny", options={"eme": 0.5})
    with pytest.raises(InputError, match="valid names are: paper, scene, small, tiny"):
        train(store, out, recipe="tyni")
    with pytest.raises(InputError, match="not a cutout store"):
        train(tmp_path / "nowhere", out)


def test_a_damaged_checkpoint_is_reported(store, tmp_path):
    out = tmp_path / "m"
    with pytest.raises(KeyboardInterrupt):
        train(store, out, recipe="tiny", steps=5, options=OPTIONS, progress=StopAt(2, signal.SIGINT))
    (path,) = (out / "checkpoints").glob("*/state.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="damaged checkpoint; remove"):
        train(store, out, recipe="tiny", steps=5, options=OPTIONS)


def test_checkpoints_of_another_model_are_refused(store, tmp_path):
    for name, options in {"m": OPTIONS, "larger": OPTIONS | {"latent_size": 8}}.items():
        stop = StopAt(2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path / name, recipe="tiny", steps=5, options=options, progress=stop)
    shutil.rmtree(tmp_path / "m/checkpoints")
    shutil.move(tmp_path / "larger/checkpoints", tmp_path / "m/checkpoints")
    with pytest.raises(InputError, match="checkpoints of another model; remove them"):
        train(store, tmp_path / "m", recipe="tiny", steps=5, options=OPTIONS)


def test_a_loss_that_is_not_finite_stops_before_the_step(store, tmp_path, monkeypatch):
    out = tmp_path / "m"
    options = OPTIONS | {"checkpoint_seconds": 0.0}
    real_step, seen = Trainer.step, {}

    def step(self, batch, number, fraction=0.0, **others):
        if number == 3:
            seen["before"] = {k: t.clone() for k, t in self.model.state_dict().items() if "param" not in k}
            seen["trainer"] = self
            batch.image[0, 0, 0, 0] = torch.inf
        return real_step(self, batch, number, fraction)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(NonFiniteLossError, match=r"discriminator.*step 3.*step-00000003"):
        train(store, out, recipe="tiny", steps=5, options=options)
    after = seen["trainer"].model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in seen["before"].items())
    monkeypatch.undo()
    train(store, out, recipe="tiny", steps=5, options=options)
    assert Model.load(out).card["steps"] == 5


def test_max_time_stops_the_training_and_saves_a_model(store, tmp_path, caplog):
    shown = StopAt(-1, 0)
    out = train(
        store, tmp_path / "m", recipe="tiny", steps=10**6, max_time=1 / 60, options=OPTIONS, progress=shown
    )
    model = Model.load(out)
    assert shown.counts["train"] == pytest.approx(
        model.card["seconds"], abs=0.1
    )  # the progress bar counts seconds
    assert 0 < model.card["steps"] < 10**6
    assert model.card["seconds"] < 10  # a step may be slow on a busy machine
    for minutes, is_longer in ((1 / 60, False), (10.0, True)):
        caplog.clear()
        train(store, out, recipe="tiny", steps=10**6, max_time=minutes, options=OPTIONS)
        assert ("is finished, after 0.0 minutes" in caplog.text) == is_longer
    assert Model.load(out).fingerprint == model.fingerprint


def test_training_works_outside_the_main_thread(store, tmp_path):
    thread = threading.Thread(
        target=train, args=(store, tmp_path / "m"), kwargs={"recipe": "tiny", "steps": 1, "options": OPTIONS}
    )
    thread.start()
    thread.join()
    assert Model.load(tmp_path / "m").card["steps"] == 1


def test_the_embedder_learns_to_invert_the_generator(store, tmp_path):
    options = OPTIONS | {"noise": "none", "noisy_embedder": False, "smoothness": 0.0, "learning_rate": 2e-3}
    rows = losses(train(store, tmp_path / "m", recipe="tiny", steps=150, options=options))
    assert rows[-1]["embedder"] < 0.7 * rows[0]["embedder"]
    assert np.isfinite([list(row.values()) for row in rows]).all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"noise": "pink"}, "pink"),
        ({"ema": 1.0}, "ema"),
        ({"decay": 2}, "decay"),
    ],
)
def test_impossible_settings_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        TrainingConfig(**options)
    assert TrainingConfig.from_json(TrainingConfig().to_json()) == TrainingConfig()


def test_evaluations_write_metrics_and_panels(store, tmp_path):
    options = OPTIONS | {"evaluate_every": 2}
    out = train(store, tmp_path / "m", recipe="tiny", steps=5, options=options)
    rows = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert rows[-1].items() <= Model.load(out).card["metrics"].items()
    assert 0 <= Model.load(out).card["metrics"]["ks_mag_g"] <= 1
    assert {"kernel_distance", "spread", "chi2_both", "chi2_embedder_g"} <= set(rows[-1])
    assert rows[-1]["chi2_both"] < rows[-1]["chi2_embedder"]
    assert [p.name for p in sorted((out / "panels").iterdir())] == [
        f"step-{step:08d}.png" for step in (2, 4, 5)
    ]


def test_early_stopping_keeps_the_best_model(store, tmp_path, monkeypatch):
    distances = iter([3.0, 1.0, 2.0, 2.5, 0.1])
    seen = []

    def examine(model, *_, **__):
        seen.append(model.fingerprint)
        return {"kernel_distance": next(distances), "spread": 1.0, "collapsed": False}

    monkeypatch.setattr("deepfits.training.evaluation.examine", examine)
    options = OPTIONS | {"evaluate_every": 1, "patience": 2}
    out = train(store, tmp_path / "m", recipe="tiny", steps=50, options=options)
    model = Model.load(out)
    assert model.card["steps"] == 2
    assert model.card["metrics"]["kernel_distance"] == 1.0
    assert model.fingerprint == seen[1]
    assert len(seen) == 4
    assert not (out / "best").exists()


def test_an_embedder_can_be_trained_for_a_finished_generator(store, tmp_path):
    base = train(store, tmp_path / "base", recipe="tiny", steps=5, options=OPTIONS)
    alone = OPTIONS | {"reconstruction": 0.0}
    out = train(store, tmp_path / "new", recipe="tiny", steps=60, embedder_only=base, options=alone)
    before, after = Model.load(base), Model.load(out)
    latent = torch.randn(50, 4)
    assert torch.equal(before.render(latent), after.render(latent))
    image = before.render(latent)
    weight = torch.ones_like(image)
    errors = [((m.embed(image, weight) - latent) ** 2).mean() for m in (before, after)]
    assert errors[1] < errors[0]
    assert after.card["embedder_of"] == before.fingerprint
    assert set(losses(out)[0]) == {"step", "embedder"}


def test_an_embedder_can_be_refined_on_images(store, tmp_path):
    base = train(store, tmp_path / "base", recipe="tiny", steps=40, options=OPTIONS)
    refining = OPTIONS | {"refine": True, "reconstruction": 3.0, "decay": 0.0, "log_every": 1}
    out = train(store, tmp_path / "refined", recipe="tiny", steps=60, embedder_only=base, options=refining)
    found = [row["reconstruction"] for row in losses(out)]
    assert sum(found[-10:]) < sum(found[:10])
    still = refining | {"learning_rate": 1e-12}
    same = train(store, tmp_path / "still", recipe="tiny", steps=1, embedder_only=base, options=still)
    pairs = zip(
        Model.load(same).embedder.named_parameters(),
        Model.load(base).embedder.named_parameters(),
        strict=True,
    )
    for (name, value), (_, before) in pairs:
        torch.testing.assert_close(value, before, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
)
def test_errors_for_too_little_memory_name_a_batch_size_that_fits(store, tmp_path, monkeypatch, error):
    def step(self, batch, number, fraction=0.0, **others):
        if len(batch.image) > 5:
            raise error
        return {}

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(InputError, match=r"batch of 16 does not fit.*batch_size=4 fits"):
        train(store, tmp_path / "m", recipe="tiny", steps=2, options=OPTIONS)
    assert not (tmp_path / "m").exists(), (
        "the size that fits is another setting, which would be refused there"
    )


def test_all_that_takes_long_is_shown(store, tmp_path):
    """Also what follows the last step: it took half a minute in silence."""
    shown = StopAt(-1, 0)
    train(store, tmp_path / "m", recipe="tiny", steps=2, options=OPTIONS, progress=shown)
    assert list(shown.counts) == ["measure", "train", "evaluate", "measure errors"]
    assert (shown.counts["train"], shown.counts["evaluate"]) == (2, 1)


def test_curves_for_tensorboard(store, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = train(store, tmp_path / "m", recipe="tiny", steps=3, options=OPTIONS)
    curves = accumulator.EventAccumulator(str(out / "tensorboard"))
    curves.Reload()
    values = [event.value for event in curves.Scalars("training/generator")]
    np.testing.assert_allclose(values, [row["generator"] for row in losses(out)], rtol=1e-6)
    silent = train(store, tmp_path / "s", recipe="tiny", steps=3, options=OPTIONS, tensorboard=False)
    assert not (silent / "tensorboard").exists()


@pytest.mark.parametrize("options", [{"precision": "tf32"}, {"channels_last": True}])
def test_other_engines_agree_within_rounding(store, tmp_path, options):
    plain = train(store, tmp_path / "a", recipe="tiny", steps=3, options=OPTIONS)
    other = train(store, tmp_path / "b", recipe="tiny", steps=3, options=OPTIONS, **options)
    for a, b in zip(losses(plain), losses(other), strict=True):
        assert a == pytest.approx(b, rel=1e-3)  # three Adam steps amplify the last bits


def test_bf16_trains(store, tmp_path):
    out = train(store, tmp_path / "m", recipe="tiny", steps=2, options=OPTIONS, precision="bf16")
    plain = train(store, tmp_path / "p", recipe="tiny", steps=2, options=OPTIONS)
    for a, b in zip(losses(plain), losses(out), strict=True):
        assert a == pytest.approx(b, rel=0.1)
    assert Model.load(out).generator.first.weight.dtype == torch.float32
    assert losses(out) != losses(plain)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"device": "tpu"}, "device"), ({"precision": "fp4"}, "precision"), ({"seed": -1}, "seed")],
)
def test_impossible_engines_are_refused(store, tmp_path, options, word):
    with pytest.raises(InputError, match=word):
        train(store, tmp_path / "m", recipe="tiny", steps=1, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_compiled_networks_agree_within_rounding(store, tmp_path):
    plain = train(store, tmp_path / "a", recipe="tiny", steps=3, options=OPTIONS | ALL)
    other = train(store, tmp_path / "b", recipe="tiny", steps=3, options=OPTIONS | ALL, compile=True)
    for a, b in zip(losses(plain), losses(other), strict=True):
        assert a == pytest.approx(b, rel=1e-3)  # three Adam steps amplify the last bits
