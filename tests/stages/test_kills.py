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
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import deepfits
from deepfits.files import TEMPORARY_PREFIX
from tests.helpers.results import assert_same_results
from tests.helpers.stage_runs import RUNS, TINY, Run

NUM_KILLS = int(os.environ.get("DEEPFITS_NUM_KILLS", "20"))
TRAINING = {"steps": 12, "options": {**TINY, "checkpoint_seconds": 0.1}}

STAGES: dict[str, Run] = {
    **{name: run for name, run in RUNS.items() if name != "redshift-beside"},
    "simulate": partial(RUNS["simulate"], catalogue=None, num_patches=2, exposures=1),
    "cutouts": partial(RUNS["cutouts"], shard_size=4),
    "train": partial(RUNS["train"], **TRAINING),
    "fit-2-workers": partial(RUNS["fit"], threads=2, workers=2),
    "show": lambda base, out: deepfits.show(base / "run", ids=[100, 101], out=out),
    "redshift": partial(RUNS["redshift"], methods=("neighbours", "boosting")),
}


def _child(name: str, base: Path, out: Path) -> None:
    os.setsid()
    torch.set_num_threads(1)
    STAGES[name](base, out)


def _attempt(name: str, base: Path, out: Path, seconds: float | None) -> bool:
    """Run a stage in a process of its own, killed after `seconds`; say whether it came to its end."""
    context = multiprocessing.get_context("forkserver")  # the tests' own process may have threads
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_child, args=(name, base, out))
    process.start()
    process.join(seconds)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return True
    assert process.pid is not None
    children = []
    with suppress(psutil.NoSuchProcess):  # it has just come to its end
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode == 0:
        return True
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive  # workers go with the command that started them
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STAGES)
def test_killed_at_random_moments(base: Path, tmp_path: Path, name: str):
    rng = np.random.default_rng(sum(map(ord, name)))
    begin = time.perf_counter()
    assert _attempt(name, base, tmp_path / "whole", None)
    whole = time.perf_counter() - begin
    out, kills = tmp_path / "killed" / "out", 0
    while kills < NUM_KILLS:
        if _attempt(name, base, out, rng.uniform(0.02, whole)):
            assert_same_results(out, tmp_path / "whole")
            shutil.rmtree(out)
        else:
            kills += 1
    assert _attempt(name, base, out, None)
    assert_same_results(out, tmp_path / "whole")
    left = [path for path in (tmp_path / "killed").rglob("*") if TEMPORARY_PREFIX in path.name]
    assert not left
