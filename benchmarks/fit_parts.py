"""Parts of the fit benchmark: wider generators, the plain Adam loop, loss curves, operation counts.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepfits.fitting.folded import FoldedGenerator
from deepfits.fitting.objective import Objective
from deepfits.fitting.solvers import Solver
from deepfits.models.networks import Generator


def widen(generator: Generator, factor: int) -> Generator:
    """Return a generator with `factor` times as many channels that draws the same images.

    Every channel is repeated, and the next layer averages the copies (Chen, Goodfellow & Shlens 2016). The
    number of operations is that of a wide network; the loss surface is unchanged.
    """
    out = copy.deepcopy(generator)
    first: Any = out.first
    blocks: Any = out.blocks
    channels = blocks[0].main.in_channels
    out.config = dataclasses.replace(out.config, width=factor * channels)
    with torch.no_grad():
        for name in ("weight", "bias"):
            values = getattr(first, name)
            shape = (channels, -1, *values.shape[1:])
            repeated = values.view(shape).repeat_interleave(factor, dim=0).reshape(-1, *values.shape[1:])
            setattr(first, name, nn.Parameter(repeated, requires_grad=False))
        first.out_features *= factor
        ways = [up for block in blocks for up in (block.main, block.pass_through)]
        for up in [*ways, out.last]:
            weight, bias = up.weight.repeat_interleave(factor, dim=0) / factor, up.bias
            up.in_channels *= factor
            if up is not out.last:
                weight, bias = weight.repeat_interleave(factor, 1), bias.repeat_interleave(factor)
                up.out_channels *= factor
            up.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
            up.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return out


def count_operations(folded: FoldedGenerator) -> float:
    """Count the floating-point operations of one loss and gradient (forward and backward) per object."""
    total, side = folded.matrix.numel(), folded.side
    for layer in folded.layers:
        total += layer.weight.numel() * side**2
        side *= 2
    return 2 * 2 * float(total)


@dataclass
class Run:
    """Result of running a solver on some objects.

    Attributes
    ----------
    loss
        ``(N,)``: the lowest loss of each object.
    evaluations
        Mean number of gradient evaluations per object.
    seconds
        Wall time.
    """

    loss: Tensor
    evaluations: float
    seconds: float


def plain_adam(
    draw: Callable[[Tensor], Tensor],
    image: Tensor,
    weight: Tensor,
    start: Tensor,
    num_steps: int,
    prior_strength: float = 0.0,
) -> Run:
    """Fit with a straightforward loop: `torch.optim.Adam` on the latents, network weights frozen."""
    latent = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([latent], lr=0.25)
    best = torch.full((len(start),), torch.inf, device=start.device)
    begin = time.perf_counter()
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = (weight * (image - draw(latent)) ** 2).sum((1, 2, 3))
        if prior_strength:
            loss = loss + prior_strength * latent.square().sum(1)
        loss.sum().backward()
        best = torch.minimum(best, loss.detach())
        optimiser.step()
    return Run(best, num_steps, time.perf_counter() - begin)


def curve(
    objective: Objective, image: Tensor, weight: Tensor, start: Tensor, solver: Solver, num_evaluations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest loss so far, ``(evaluations, N)``, and processor times in s, ``(evaluations,)``."""
    begin = time.process_time()
    state = solver.init(start)
    best = torch.full((len(start),), torch.inf)
    out, seconds = [], []
    for _ in range(num_evaluations):
        loss, gradient, _ = objective(state["trial"], image, weight)
        best = torch.fmin(best, loss)
        solver.step(state, loss, gradient)
        out.append(best.numpy().copy())
        seconds.append(time.process_time() - begin)
    return np.stack(out), np.array(seconds)
