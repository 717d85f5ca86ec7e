"""Two networks that speed up a fit, trained after the model and saved with it.

Shapes: N objects, L latent dimensions, B bands, S pixels.

The refiner sees an image, the rendering of a latent, and the residual, and updates the latent (Marino, Yue &
Mandt 2018; Alaluf, Patashnik & Cohen-Or 2021). The metric predicts how images change with the latent, for the
solver (`deepfits.fitting.metric`). Neither changes the objective: where they are wrong, the fit takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from deepfits.config import Range, Stored, check
from deepfits.models.layers import ModelConfig

VIEWS = 4
"""Inputs of the refiner per band: the image, the model image, the residual, the weights."""


@dataclass(frozen=True, kw_only=True)
class AidsConfig(Stored):
    """Architecture of the two networks.

    Attributes
    ----------
    width
        Channels of the refiner's first convolution, doubled by each of the next.
    hidden
        Width of the refiner's fully connected layer.
    metric_hidden
        Width of the hidden layers of the metric network.
    """

    width: Annotated[int, Range(ge=1, le=1024)] = 24
    hidden: Annotated[int, Range(ge=1, le=8192)] = 512
    metric_hidden: Annotated[int, Range(ge=1, le=8192)] = 320

    def __post_init__(self) -> None:
        check(self, where="aids")


class Refiner(nn.Module):
    """From views of objects, ``(N, 4 B, S, S)``, and their latents, to latent steps ``(N, L)``.

    Strided convolutions down to the generator's smallest resolution, then two linear layers that have the
    latent as additional input. The last is initialised to zero, so that an untrained refiner changes nothing.
    """

    def __init__(self, model: ModelConfig, config: AidsConfig) -> None:
        super().__init__()
        channels = [VIEWS * model.num_bands, *(config.width * 2**n for n in range(model.num_blocks + 1))]
        size, padding = model.kernel_size, (model.kernel_size - 1) // 2
        layers = [nn.Conv2d(a, b, size, stride=2, padding=padding) for a, b in pairwise(channels)]
        self.convolutions = nn.ModuleList(layers)
        self.first = nn.Linear(channels[-1] * model.base_size**2 + model.latent_size, config.hidden)
        self.last = nn.Linear(config.hidden, model.latent_size)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, views: Tensor, latent: Tensor) -> Tensor:
        """Return the change of each latent."""
        x = views
        for convolution in self.convolutions:
            x = nn.functional.leaky_relu(convolution(x), 0.2)
        x = torch.cat((x.flatten(1), latent), dim=1)
        return self.last(nn.functional.leaky_relu(self.first(x), 0.2))


class Logarithm(nn.Module):
    """From latents, ``(N, L)``, to upper triangles of logarithms of Gauss–Newton matrices.

    An affine map, plus a network for its residual, whose last layer is initialised to zero.
    """

    def __init__(self, length: int, hidden: int) -> None:
        super().__init__()
        outputs = length * (length + 1) // 2
        self.affine = nn.Linear(length, outputs)
        self.beyond = nn.Sequential(
            *(nn.Linear(length, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, outputs),
        )
        for parameter in self.beyond[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, latent: Tensor) -> Tensor:
        """Return upper triangles, ``(N, L (L + 1) / 2)``."""
        return self.affine(latent) + self.beyond(latent)


class MetricNetwork(nn.Module):
    """From latents, ``(N, L)``, to logarithms of Gauss–Newton matrices, symmetric ``(N, L, L)``.

    One network for χ² in flux, and one for squared differences in the networks' units.
    """

    def __init__(self, model: ModelConfig, config: AidsConfig) -> None:
        super().__init__()
        self.length = model.latent_size
        self.in_flux, self.in_units = (Logarithm(self.length, config.metric_hidden) for _ in range(2))

    def part(self, in_flux: bool) -> Logarithm:
        """Return the network for one kind of objective."""
        return self.in_flux if in_flux else self.in_units

    def forward(self, latent: Tensor, *, in_flux: bool) -> Tensor:
        """Return the matrices for an objective in flux, or in the networks' units."""
        packed = self.part(in_flux)(latent)
        row, column = torch.triu_indices(self.length, self.length, device=packed.device)
        out = packed.new_empty(len(packed), self.length, self.length)
        out[:, row, column] = packed
        out[:, column, row] = packed
        return out


class Aids(nn.Module):
    """The refiner and the metric network."""

    def __init__(self, model: ModelConfig, config: AidsConfig | None = None) -> None:
        super().__init__()
        self.config = config or AidsConfig()
        self.refiner = Refiner(model, self.config)
        self.metric = MetricNetwork(model, self.config)
