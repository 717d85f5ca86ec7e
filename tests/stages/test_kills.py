"""Every stage, killed twenty times at random moments: nothing lost, doubled or left behind, the same bits.

Each attempt is a process of its own session that is killed with all that it started, as `kill -9`, an
operating system short of memory, or a power cut do it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import deepfits
from deepfits.files import TEMPORARY_PREFIX
from tests.helpers.results import assert_same_results

NUM_KILLS = int(os.environ.get("DEEPFITS_NUM_KILLS", "20"))
TINY = {"width": 16, "latent_size": 8, "num_blocks": 2, "batch_size": 16, "num_evaluated": 16}
QUICK: dict[str, Any] = {"num_steps": 6, "threads": 1}
METHODS = {"methods": ("constant", "neighbours", "boosting"), "tuning_trials": 1}
# What may differ between two runs: when, how fast, with what.

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
