"""Every stage, killed twenty times at random moments: nothing lost, doubled or left behind, the same bits.

Each attempt is a process of its own session that is killed with all that it started, as `kill -9`, an
operating system short of memory, or a power cut do it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

import deepfits
from deepfits.files import TEMPORARY_PREFIX

NUM_KILLS = int(os.environ.get("DEEPFITS_NUM_KILLS", "20"))
TINY = {"width": 16, "latent_size": 8, "num_blocks": 2, "batch_size": 16, "num_evaluated": 16}
QUICK: dict[str, Any] = {"num_steps": 6, "threads": 1}
METHODS = {"methods": ("constant", "neighbours", "boosting"), "tuning_trials": 1}
# What may differ between two runs: when, how fast, with what.
VOLATILE = {"provenance", "seconds", "total_seconds", "images_per_s", "time_utc", "rate", "run", "out"}

Stage = Callable[[Path, Path], object]
STAGES: dict[str, Stage] = {
    "simulate": lambda run, out: deepfits.simulate(out, size=192, num_patches=2, seed=3, exposures=1),
    "detect": lambda run, out: deepfits.detect(run / "sky", out / "catalogue.parquet"),
    "cutouts": lambda run, out: deepfits.cutouts(run / "sky", out, shard_size=16, size=16),
    "train": lambda run, out: deepfits.train(
        run / "cutouts", out, recipe="tiny", steps=60, threads=1, options=TINY | {"checkpoint_seconds": 0.2}
    ),
    "fit": lambda run, out: deepfits.fit(run / "cutouts", run / "model", out, **QUICK),
    "fit-2-workers": lambda run, out: deepfits.fit(
        run / "cutouts", run / "model", out, **(QUICK | {"threads": 2}), workers=2
    ),
    "inpaint": lambda run, out: deepfits.inpaint(
        run / "cutouts", run / "model", out, num_calibration=20, **QUICK
    ),
    "redshift": lambda run, out: deepfits.redshift(
        run / "features-both", run / "sky" / "truth.parquet", out, store=run / "cutouts", **METHODS
    ),
    "export": lambda run, out: deepfits.export(run / "features-both", out / "all.fits"),
    "report": lambda run, out: deepfits.report(run, out=out / "report"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Run every stage once, undisturbed."""
    run = tmp_path_factory.mktemp("run")
    deepfits.simulate(run / "sky", size=400, seed=3)
    STAGES["cutouts"](run, run / "cutouts")
    STAGES["train"](run, run / "model")
    STAGES["fit"](run, run / "features-both")
    return run


def _child(stage: Stage, run: Path, out: Path) -> None:
    os.setsid()
    torch.set_num_threads(1)
    stage(run, out)


def _attempt(stage: Stage, run: Path, out: Path, seconds: float | None) -> bool:
    """Run a stage in a process of its own, killed after `seconds`; say whether it came to its end."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(stage, run, out))
    process.start()
    process.join(seconds)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return True
    assert process.pid is not None
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive  # workers go with the command that started them
    return False


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in VOLATILE}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _content(path: Path, out: Path) -> Any:
    """Return what must be the same in a file, whenever and wherever it was made."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    if path.suffix == ".h5":
        found: dict[str, np.ndarray] = {}
        with h5py.File(path) as file:
            file.visititems(lambda n, d: found.update({n: d[()]}) if isinstance(d, h5py.Dataset) else None)
        return found
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(str(out), "OUT")
        return [
            _plain(json.loads(line)) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])
        ]
    if path.suffix in (".html", ".png", ".md") or "tensorboard" in path.parts:
        return None  # figures and pages say when and how fast
    return path.read_bytes()


def _names(directory: Path) -> list[str]:
    """Name the files that must be there; when checkpoints before the last were written is up to the clock."""
    kept = sorted(directory.glob("checkpoints/step-*"))[-1:]
    return [
        str(path.relative_to(directory))
        for path in _files(directory)
        if "tensorboard" not in path.parts
        and (
            "checkpoints" not in path.parts or not path.parent.name.startswith("step-") or path.parent in kept
        )
    ]


def assert_same_results(found: Path, expected: Path) -> None:
    names = [_names(directory) for directory in (found, expected)]
    assert names[0] == names[1]
    assert names[0]
    for name in names[0]:
        np.testing.assert_equal(_content(found / name, found), _content(expected / name, expected), name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STAGES)
def test_killed_at_random_moments(run: Path, tmp_path: Path, name: str):
    stage, rng = STAGES[name], np.random.default_rng(sum(map(ord, name)))
    begin = time.perf_counter()
    assert _attempt(stage, run, tmp_path / "whole", None)
    whole = time.perf_counter() - begin
    out, kills = tmp_path / "killed" / "out", 0
    while kills < NUM_KILLS:
        if _attempt(stage, run, out, rng.uniform(0.02, whole)):
            assert_same_results(out, tmp_path / "whole")
            shutil.rmtree(out)
        else:
            kills += 1
    assert _attempt(stage, run, out, None)
    assert_same_results(out, tmp_path / "whole")
    left = [path for path in (tmp_path / "killed").rglob("*") if TEMPORARY_PREFIX in path.name]
    assert not left
