"""Work on several fields at a time, in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from deepfits.processes import require_main_guard

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Yield the results as they come, in no order; an error of one job ends the others that have not begun.

    Processes are spawned, not forked: threads of the libraries (HDF5, OpenMP) do not survive a fork. A script
    that asks for several workers therefore needs ``if __name__ == "__main__":``.
    """
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
