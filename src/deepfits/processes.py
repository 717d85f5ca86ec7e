"""Processes, which a script starts under a main guard, and their threads."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deepfits.errors import InputError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch use `number` threads for a while; None leaves it its own choice."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_main_guard(workers: int) -> None:
    """Refuse several workers in a script that would start itself anew in each of them.

    New processes import the script that asked for them. Where the call stands outside of
    ``if __name__ == "__main__":``, each would make the same call, and Python ends them all with tracebacks.
    """
    frame: FrameType | None = sys._getframe()
    while frame and (frame.f_code.co_name, frame.f_globals.get("__name__")) != ("<module>", "__main__"):
        frame = frame.f_back
    if frame is None or _is_guarded(Path(frame.f_code.co_filename), frame.f_lineno):
        return
    raise InputError(
        f"{frame.f_code.co_filename}: line {frame.f_lineno} asks for {workers} workers, which are processes "
        'that import this script: put the call under `if __name__ == "__main__":`'
    )


def _is_guarded(path: Path, line: int) -> bool:
    """Return whether a line stands under an ``if`` that asks for ``__name__``, or in no file at all."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # a notebook or a prompt: nothing that could be imported
    for node in tree.body:
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            test = node.test if isinstance(node, ast.If) else ast.Tuple([])
            return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
    return False
