"""Cores, threads and worker processes, which scripts must start under a main guard."""

import ast
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from deepfits.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stated_threads() -> int:
    """Return the number of threads that OMP_NUM_THREADS states, the first of a list; by default all cores."""
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(stated) if stated.isdigit() and int(stated) > 0 else available_cores()


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads within a block; None leaves it unchanged."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_main_guard(workers: int) -> None:
    """Raise an error if a script without a main guard starts worker processes.

    New processes import the script that starts them. A call outside ``if __name__ == "__main__":`` would be
    repeated in each of them, and Python would end them all with tracebacks.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not Path(script).exists():  # python - < script.py
        raise InputError(
            f"a script from standard input starts {workers} worker processes, which cannot import it; save "
            "it as a file, or use workers=1"
        )
    frame: FrameType | None = sys._getframe()
    while frame and (frame.f_code.co_name, frame.f_globals.get("__name__")) != ("<module>", "__main__"):
        frame = frame.f_back
    if frame is None or _is_guarded(Path(frame.f_code.co_filename), frame.f_lineno):
        return
    raise InputError(
        f"{frame.f_code.co_filename}: line {frame.f_lineno} starts {workers} worker processes, each of "
        'which imports this script; put the call under `if __name__ == "__main__":`'
    )


def _is_guarded(path: Path, line: int) -> bool:
    """Return whether a line is inside an ``if`` that tests ``__name__``, or has no source file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # a notebook or a prompt, which workers do not import
    for node in tree.body:
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            test = node.test if isinstance(node, ast.If) else ast.Tuple([])
            return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
    return False


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Yield results in order of completion; an error in one job cancels those that have not started.

    A single worker is this process. Others are spawned, not forked, because the threads of HDF5 and OpenMP do
    not survive a fork. Scripts that use several therefore need ``if __name__ == "__main__":``.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

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
