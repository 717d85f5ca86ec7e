"""How the networks' weights are drawn before the first step; M19 does not say.

``"uniform"``
    PyTorch's own: uniform, by the number of inputs (He et al. 2015 with a = √5), biases too.
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
    """Draw the weights of all convolutions and linear layers anew, in place; ``"uniform"`` leaves them.

    Where a weight is spectrally normalised, it is what lies under the normalisation that is drawn.
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
