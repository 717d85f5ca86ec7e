"""The example for SLURM, dry: the script of a job is what SLURM and a worker need, and bash accepts it."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "survey_slurm.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("survey_slurm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.make_cluster(scheduler_options={"dashboard_address": "127.0.0.1:0"}) as cluster:
        yield cluster.job_script(), cluster.scheduler_address


def test_the_script_of_a_job(script, tmp_path):
    text, address = script
    lines = text.splitlines()
    assert lines[0].startswith("#!")
    for directive in ("-p GPU", "-A PROJECT", "--gpus=1", "--cpus-per-task=8", "-t 04:00:00", "-n 1"):
        assert any(line.startswith("#SBATCH") and directive in line for line in lines), directive
    worker = lines[-1]
    assert "distributed.cli.dask_worker" in worker
    assert address in worker
    assert "--nthreads 8" in worker
    assert "--lifetime 235m" in worker
    assert any("OMP_WAIT_POLICY=PASSIVE" in line for line in lines[:-1])
    path = tmp_path / "job.sh"
    path.write_text(text)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_the_command_of_the_worker_is_one(script):
    """Run the worker's program with the options of the script: it knows them all."""
    text, _ = script
    import shlex
    import sys

    arguments = shlex.split(text.splitlines()[-1].split("dask_worker", 1)[1])
    options = [one for one in arguments if one.startswith("--")]
    shown = subprocess.run(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in options:
        assert option in shown, option
