"""Workers: processes on this machine, or those of any Dask scheduler.

`distributed` (``pip install 'deepfits[scale]'``) sends shards to workers and restarts workers that die. This
module only chooses the number of threads and the GPU of local workers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepfits.errors import InputError
from deepfits.processes import THREAD_VARIABLES, available_cores, require_main_guard

if TYPE_CHECKING:
    from distributed import Client


CONNECT_SECONDS = 20.0
ON_ONE_MACHINE = {"distributed.comm.require-encryption": False, "distributed.comm.default-scheme": "tcp"}
"""Settings of Dask that the user's configuration may state for other clusters."""
CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)  # which of them depends on Dask


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Worker settings; see `deepfits.stages.parameters.OnWorkers`.

    Without a scheduler, a `number` of 0 or 1 means this process.
    """

    number: int = 1
    scheduler: str | None = None
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.number > 1:
            raise InputError(
                "workers and scheduler: the scheduler has workers of its own; give one of the two"
            )

    @property
    def is_here(self) -> bool:
        """Whether this process does all the work."""
        return self.scheduler is None and self.number <= 1

    @property
    def threads_each(self) -> int | None:
        """Threads per local worker; with a scheduler None, and in this process `threads`."""
        if self.is_here:
            return self.threads
        if self.scheduler is not None:
            return None
        return max(1, (self.threads or available_cores()) // self.number)


@contextmanager
def connect(workers: Workers) -> Iterator[Client]:
    """Yield a Dask client, for the given scheduler or for newly started local processes."""
    from distributed import Client
    from distributed.comm import get_address_host_port
    from distributed.utils import silence_logging_cmgr

    if workers.scheduler is None:
        with local_cluster(workers) as cluster, Client(cluster, set_as_default=False) as client:
            yield client
        return
    is_file = workers.scheduler.endswith(".json")
    if is_file and not os.path.exists(workers.scheduler):
        raise InputError(f"{workers.scheduler}: no such scheduler file; start `dask scheduler` first")
    where: dict[str, Any] = {"scheduler_file" if is_file else "address": workers.scheduler}
    try:
        if not is_file:
            get_address_host_port(workers.scheduler)  # without a port, the client would fail, and wait
        client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{workers.scheduler}: no Dask scheduler answers there ({' '.join(str(error).split())}); start "
            "one with `dask scheduler`, or check the address"
        ) from error
    # Dask would print a traceback when the scheduler is lost, besides the error that says so.
    with silence_logging_cmgr(logging.CRITICAL, "distributed.client"), client:
        yield client


@contextmanager
def local_cluster(workers: Workers) -> Iterator[Any]:
    """Start processes on this machine, each with its share of the threads, and a GPU.

    There is no memory limit, because Dask would pause workers with a large model forever.
    """
    require_main_guard(workers.number)
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR, "dashboard": False}
    spec = {
        number: {"cls": Nanny, "options": {**options, "env": environment}}
        for number, environment in enumerate(_environments(workers))
    }
    here = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": here}
    settings = {
        "distributed.worker.daemon": True,
        "distributed.scheduler.worker-ttl": None,
        # Dask gives up a worker that is not back 15 s after its death, and would wait forever without any.
        "distributed.deploy.lost-worker-timeout": "1000 days",
        # Dask's own returns memory to the system at each step of a fit, which more than doubles its time.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        **ON_ONE_MACHINE,
    }
    with (
        dask.config.set(settings),
        SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.ERROR) as cluster,
    ):
        yield cluster


def _environments(workers: Workers) -> list[dict[str, str]]:
    """Return the environment of each local worker."""
    common = dict.fromkeys(THREAD_VARIABLES, str(workers.threads_each))
    common["OMP_WAIT_POLICY"] = "PASSIVE"  # docs/decisions/04-threads-wait-asleep.md
    gpus = _gpus() if workers.device.startswith("cuda") else []
    own = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [common | own[number % len(own)] for number in range(workers.number)]


def _gpus() -> list[str]:
    """Return the identifiers, for ``CUDA_VISIBLE_DEVICES``, of the GPUs available to this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def lost_scheduler() -> InputError:
    """Return the error for a scheduler that no longer responds."""
    return InputError(
        "the Dask scheduler is gone; completed work is kept. Start it and run the same command again to do "
        "the rest"
    )
