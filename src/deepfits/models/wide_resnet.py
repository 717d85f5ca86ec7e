"""The Wide ResNet with 50 layers, the supervised network that M19 compares with.

Shapes: N objects, C channels, B bands, H = W pixels.

Source: Zagoruyko & Komodakis (2016), WRN-50-2-bottleneck (their table 8): the bottleneck residual network of
He et al. (2015) with 50 layers and twice the channels inside each bottleneck; the stride is in the 3×3
convolution.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from deepfits.config import Range, check
from deepfits.errors import InputError

EXPANSION = 4
_Number = Annotated[int, Range(ge=1, le=8192)]


@dataclass(frozen=True, kw_only=True)
class WideResNetConfig:
    """Architecture of the network."""

    num_bands: _Number = 5
    num_outputs: _Number = 1  # 1 for a redshift; the number of bins for p(z)
    # Number of residual blocks in each stage; (3, 4, 6, 3) makes 50 layers.
    blocks: Annotated[tuple[int, ...], Range(ge=1, le=100)] = (3, 4, 6, 3)
    width: _Number = 64  # channels of the first stage, doubled by each of the next
    widening: _Number = 2  # width of the bottlenecks relative to those of a plain residual network
    # Start with a 3×3 convolution of stride 1 without pooling, suited to 32×32 pixels, instead of the 7×7
    # one of stride 2 with pooling for 224×224 pixels.
    small_images: bool = True

    def __post_init__(self) -> None:
        check(self, where="wide_resnet")
        if not 1 <= len(self.blocks) <= 6:
            raise InputError(f"wide_resnet: blocks must be 1 to 6 numbers, not {self.blocks!r}")

    @property
    def num_layers(self) -> int:
        """Convolutions on the longest path, and the linear layer."""
        return 3 * sum(self.blocks) + 2


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut; the 3×3 one divides the sides by `stride`."""

    def __init__(self, inputs: int, planes: int, stride: int, widening: int) -> None:
        super().__init__()
        inner, outputs = planes * widening, planes * EXPANSION
        self.way = nn.Sequential(
            *(convolve(inputs, inner, 1), nn.ReLU()),
            *(convolve(inner, inner, 3, stride), nn.ReLU()),
            convolve(inner, outputs, 1),
        )
        is_same = stride == 1 and inputs == outputs
        self.short_cut = nn.Identity() if is_same else convolve(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Sum bottleneck and shortcut."""
        return torch.relu(self.way(x) + self.short_cut(x))


class WideResNet(nn.Module):
    """Predict `WideResNetConfig.num_outputs` numbers from normalised images, ``(N, B, H, W)``."""

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        first, pooling = ((3, 1), []) if config.small_images else ((7, 2), [nn.MaxPool2d(3, 2, 1)])
        self.first = nn.Sequential(convolve(config.num_bands, config.width, *first), nn.ReLU(), *pooling)
        stages, inputs = [], config.width
        for number, blocks in enumerate(config.blocks):
            planes = config.width * 2**number
            for block in range(blocks):
                stride = 2 if number and not block else 1
                stages.append(Bottleneck(inputs, planes, stride, config.widening))
                inputs = planes * EXPANSION
        self.stages = nn.Sequential(*stages)
        self.last = nn.Linear(inputs, config.num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, ``(N, B, H, W)``, to ``(N, num_outputs)``."""
        return self.last(self.stages(self.first(x)).mean(dim=(2, 3)))


def convolve(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Make a convolution without bias, initialised as in He et al. (2015), with batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
