"""Benchmarks in miniature: each ends, and its last line is one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MINIATURES = {
    "cutouts": "--side 600 --objects 300 --sample 50 --pairs 1",
    "detect": "--size 500 --seed 3",
    "explore": "--objects 2000",
    "features": "--out . --skies simulated --objects 60 --repeated 4 --fits default",
    "fit": "--objects 64 --wide-objects 4 --adam-steps 2",
    "honesty": "--labels 300 --test 300",
    "labels": "--out . --quick --skies simulated --objects 700 --numbers 0 100",
    "oddities": "--out . --objects 60 --planted 4",
    "scale": "--shards 1 --num-steps 2 --rounds 1 --shard-size 40 --parts scaling fraction",
    "sky": "--objects 500 --galsim-objects 20",
    "train": "--rounds 1 --seconds 1",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MINIATURES)
def test_benchmark_ends_with_its_figures(name, tmp_path):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *MINIATURES[name].split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(figures, dict)
    assert figures
