"""Fit a survey on a SLURM cluster: workers come and go as jobs, the shards stay where they are.

    python examples/survey_slurm.py /SCRATCH/cutouts /SCRATCH/model /SCRATCH/features --jobs 32

runs on a login or service node, asks SLURM for jobs of one GPU each, and hands them shards. Run it again
after anything that went wrong: it does what is missing. ``--show`` prints the script of a job.
Needs ``pip install 'deepfits[scale]'``. Change what is in capitals.
"""

from __future__ import annotations

import argparse
from typing import Any

from dask_jobqueue import SLURMCluster
from distributed import Client

import deepfits
from deepfits.console import show_progress


def make_cluster(**changes: Any) -> SLURMCluster:
    """Describe one job: one worker process that uses all of its cores, and its GPU."""
    settings: dict[str, Any] = {
        "queue": "GPU",
        "account": "PROJECT",
        "cores": 8,
        "processes": 1,
        "memory": "32GB",
        "walltime": "04:00:00",
        "job_extra_directives": ["--gpus=1", "--signal=TERM@60"],
        "job_script_prologue": [
            "source $HOME/VENV/bin/activate",
            "export OMP_NUM_THREADS=8 OMP_WAIT_POLICY=PASSIVE",
            # Dask's own setting returns memory at each step of a fit, which more than doubles its time.
            "export MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432",
        ],
        # A worker ends in good time before its job does; another takes its shard from the beginning.
        "worker_extra_args": ["--lifetime", "235m", "--lifetime-stagger", "4m"],
        "local_directory": "$TMPDIR",
        "death_timeout": 120,
    }
    return SLURMCluster(**{**settings, **changes})


def main() -> None:
    """Ask for jobs, and fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="print a job's script and end")
    options = parser.parse_args()
    with make_cluster() as cluster:
        if options.show:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=1, maximum_jobs=options.jobs)  # idle jobs are given back
        with Client(cluster):
            deepfits.fit(
                options.store,
                options.model,
                options.out,
                device="cuda",
                scheduler=cluster.scheduler_address,
                progress=show_progress,
            )


if __name__ == "__main__":
    main()
