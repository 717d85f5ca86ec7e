"""Initialisation of the networks' weights, which M19 does not specify.

``"uniform"``
    PyTorch's default: uniform, scaled by the number of inputs (He et al. 2015 with a = √5), biases included.
``"normal"``
    Normal with a standard deviation of 0.02, biases 0 (Radford, Metz & Chintala 2016).
``"orthogonal"``
    Orthogonal, biases 0 (Saxe, McClelland & Ganguli 2014).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

NORMAL_STD = 0.02


def initialise(network: nn.Module, kind: str) -> None:
    """Redraw the weights of all convolutions and linear layers, in place; ``"uniform"`` leaves them as made.

    For a spectrally normalised layer the underlying, unnormalised weight is drawn.
    """
    if kind == "uniform":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            with torch.no_grad():
                weight = _under_normalisation(module)
                if kind == "normal":
                    nn.init.normal_(weight, std=NORMAL_STD)
                else:
                    nn.init.orthogonal_(weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _under_normalisation(module: nn.Module) -> Tensor:
    if parametrize.is_parametrized(module, "weight"):
        return cast(Tensor, module.parametrizations.weight.original)  # type: ignore[union-attr]
    return cast(Tensor, module.weight)
