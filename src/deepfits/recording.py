"""Work on a GPU that is recorded once and replayed: launching its many small kernels one by one takes longer.

What is recorded must be made of tensors of fixed shapes, must not wait for the device, and must leave its
results in tensors that it was given or that it returns (https://pytorch.org/docs/stable/notes/cuda.html,
"CUDA Graphs").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3


class Recording:
    """A function of tensors, done as it stands a few times, then recorded as a CUDA graph and replayed.

    The work goes from tensors (or None), always of the same shapes, to named tensors.
    """

    def __init__(self, work: Callable[..., dict[str, Tensor]]) -> None:
        self.work = work
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.held: list[Tensor | None] = []
        self.found: dict[str, Tensor] = {}

    def accepts(self, given: Sequence[Tensor | None]) -> bool:
        """Return whether these have the shapes of the first call."""
        shapes, held = ([None if t is None else t.shape for t in some] for some in (given, self.held))
        return not held or shapes == held

    def __call__(self, given: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Do the work once more; what is returned stays as it is."""
        if not self.held:
            self.held = [None if t is None else t.clone() for t in given]
        for mine, theirs in zip(self.held, given, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        self.calls += 1
        if self.calls <= WARM_UP:
            beside, here = torch.cuda.Stream(), torch.cuda.current_stream()
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                found = self.work(*self.held)
            here.wait_stream(beside)
            return {name: t.clone() for name, t in found.items()}
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # Other threads read ahead meanwhile.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.found = self.work(*self.held)
        self.graph.replay()
        return {name: t.clone() for name, t in self.found.items()}
