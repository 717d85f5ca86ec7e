"""Parallel processing of fields in separate processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from deepfits.processes import require_main_guard

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Yield results in order of completion; an error in one job cancels those that have not started.

    A single worker is this process. Others are spawned, not forked, because the threads of HDF5 and OpenMP do
    not survive a fork. Scripts that use several therefore need ``if __name__ == "__main__":``.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    require_main_guard(workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
