"""GPU work recorded as a CUDA graph and replayed, which is faster than launching many small kernels.

The work must use tensors of fixed shapes, must not synchronise with the device, and must leave its results in
tensors that it receives or returns (https://pytorch.org/docs/stable/notes/cuda.html,
"CUDA Graphs").
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3


class Recording:
    """A function of tensors that runs eagerly a few times, then is recorded as a CUDA graph and replayed.

    It maps tensors (or None), always of the same shapes, to named tensors.
    """

    def __init__(self, work: Callable[..., dict[str, Tensor]]) -> None:
        self.work = work
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.held: list[Tensor | None] = []
        self.found: dict[str, Tensor] = {}

    def accepts(self, given: Sequence[Tensor | None]) -> bool:
        """Return whether the inputs have the shapes of the first call."""
        shapes, held = ([None if t is None else t.shape for t in some] for some in (given, self.held))
        return not held or shapes == held

    def __call__(self, given: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Run the work; the returned tensors are copies that later calls do not overwrite."""
        if not self.held:
            self.held = [None if t is None else t.clone() for t in given]
        for held, value in zip(self.held, given, strict=True):
            if held is not None and value is not None:
                held.copy_(value)
        self.calls += 1
        if self.calls <= WARM_UP:
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                outputs = self.work(*self.held)
            current.wait_stream(side)
            return {name: t.clone() for name, t in outputs.items()}
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # Other threads prefetch data at the same time.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.found = self.work(*self.held)
        self.graph.replay()
        return {name: t.clone() for name, t in self.found.items()}
