"""Layers that generator, discriminator and embedder share (M19 §2.1).

Shapes: N objects, C channels, H, W pixels. An `UpBlock` doubles the sides, a `DownBlock` halves them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrizations import spectral_norm
from torch.overrides import TorchFunctionMode

from deepfits.config import Range, Stored, check
from deepfits.errors import InputError

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Stored):
    """Architecture of the networks.

    The defaults are those of M19 §2.1, except `kernel_size`, which is not given there.
    """

    num_bands: Annotated[int, Range(ge=1, le=64)] = 5
    """Bands of the cutouts; training takes them and the size from the store."""
    size: Annotated[int, Range(ge=4, le=4096)] = 32
    """Side of the cutouts."""
    latent_size: Annotated[int, Range(ge=1, le=4096)] = 64
    """Number of latent dimensions."""
    width: Annotated[int, Range(ge=1, le=8192)] = 1024
    """Channels at the smallest resolution, halved by every block."""
    num_blocks: Annotated[int, Range(ge=0, le=10)] = 3
    """Number of residual blocks. One more layer, without a pass-through, is next to the image, so the
    smallest resolution is ``size / 2**(num_blocks + 1)`` pixels (2 for 32)."""
    kernel_size: Annotated[int, Range(ge=2, le=16)] = 4
    """Kernel size of all convolutions, whose stride is 2."""
    num_groups: Annotated[int, Range(ge=0, le=8192)] = 4
    """Groups of the group normalisation in discriminator and embedder; 0 for no normalisation."""
    negative_slope: Annotated[float, Range(ge=0, lt=1)] = 0.2
    """Slope of the LeakyReLU in discriminator and embedder."""
    sees_observation: bool = False
    """For scene models: discriminator and embedder are also given how an image was observed, in two planes
    per band (`deepfits.observation.Sight.described`)."""

    def __post_init__(self) -> None:
        check(self, where="model")
        factor = 2 ** (self.num_blocks + 1)
        if self.size % factor:
            most = (self.size & -self.size).bit_length() - 2  # blocks for which the side can be halved
            fewer = f" or set num_blocks={most}" if most >= 0 else ""
            raise InputError(
                f"model: {self.num_blocks} blocks need cutouts whose side is a multiple of {factor} pixels, "
                f"not {self.size}; cut with size={factor * math.ceil(self.size / factor)}{fewer}"
            )
        if self.num_groups and any(channels % self.num_groups for channels in self.channels):
            raise InputError(
                f"model: channels {self.channels} cannot be split into {self.num_groups} groups; "
                "choose another width or num_groups"
            )
        if self.width % 2**self.num_blocks:
            raise InputError(f"model: width {self.width} cannot be halved {self.num_blocks} times")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels from the smallest resolution to the largest, without the bands of the image."""
        return tuple(self.width // 2**n for n in range(self.num_blocks + 1))

    @property
    def base_size(self) -> int:
        """Side of the smallest resolution in pixels."""
        return self.size // 2 ** (self.num_blocks + 1)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        content = super().to_json()
        if not self.sees_observation:  # as in models saved before this option existed
            del content["sees_observation"]
        return content


def upsampling(inputs: int, outputs: int, config: ModelConfig) -> nn.ConvTranspose2d:
    """Make a transposed convolution that exactly doubles the sides."""
    padding = (config.kernel_size - 1) // 2
    return nn.ConvTranspose2d(
        inputs,
        outputs,
        config.kernel_size,
        stride=2,
        padding=padding,
        output_padding=2 + 2 * padding - config.kernel_size,
    )


def downsampling(inputs: int, outputs: int, config: ModelConfig) -> nn.Sequential:
    """Make a convolution that exactly halves the sides, with spectral and group normalisation."""
    padding = (config.kernel_size - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, config.kernel_size, stride=2, padding=padding)
    layers: list[nn.Module] = [spectral_norm(convolution)]
    if config.num_groups:
        layers.append(nn.GroupNorm(config.num_groups, outputs))
    return nn.Sequential(*layers)


def _joined(name: str, *modules: nn.Module, dim: int = 0) -> Tensor:
    """Concatenate the weights or biases of modules."""
    return torch.cat([getattr(module, name) for module in modules], dim=dim)


class UpBlock(nn.Module):
    """A transposed convolution with ReLU, plus one without: ``(N, C, H, W)`` to ``(N, C', 2H, 2W)``."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.main = upsampling(inputs, outputs, config)
        self.pass_through = upsampling(inputs, outputs, config)

    def forward(self, x: Tensor) -> Tensor:
        """Sum main path and pass-through, computed as one convolution because they read the same input."""
        main, other = self.main, self.pass_through
        geometry: dict[str, Any] = {
            name: getattr(main, name) for name in ("stride", "padding", "output_padding")
        }
        weight, bias = _joined("weight", main, other, dim=1), _joined("bias", main, other)
        both = nn.functional.conv_transpose2d(x, weight, bias, **geometry)
        with_relu, without = both.chunk(2, dim=1)
        return torch.relu(with_relu) + without


class DownBlock(nn.Module):
    """A convolution with LeakyReLU, plus one without: ``(N, C, H, W)`` to ``(N, C', H/2, W/2)``."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.main = downsampling(inputs, outputs, config)
        self.pass_through = downsampling(inputs, outputs, config)
        self.negative_slope = config.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Sum main path and pass-through, computed as one convolution because they read the same input."""
        convolution = cast(nn.Conv2d, self.main[0])
        paths = self.main[0], self.pass_through[0]
        both = nn.functional.conv2d(
            x, _joined("weight", *paths), _joined("bias", *paths), convolution.stride, convolution.padding
        )
        if len(self.main) > 1:  # no group extends over both paths
            norm = cast(nn.GroupNorm, self.main[1])
            paths = self.main[1], self.pass_through[1]
            both = nn.functional.group_norm(
                both, 2 * norm.num_groups, _joined("weight", *paths), _joined("bias", *paths), norm.eps
            )
        with_relu, without = both.chunk(2, dim=1)
        return nn.functional.leaky_relu(with_relu, self.negative_slope) + without


class Encoder(nn.Module):
    """The generator's mirror image: images ``(N, B, H, W)`` in the network's units to ``(N, num_outputs)``.

    The discriminator has 1 output and the embedder `ModelConfig.latent_size`.

    Source: M19 §2.1. As in the generator, the layer next to the image has neither activation nor
    pass-through.
    """

    def __init__(self, config: ModelConfig, num_outputs: int) -> None:
        super().__init__()
        channels = config.channels[::-1]  # few channels at the resolution of the image
        self.config = config
        planes = 3 if config.sees_observation else 1
        self.first = downsampling(planes * config.num_bands, channels[0], config)
        self.blocks = nn.Sequential(*(DownBlock(a, b, config) for a, b in pairwise(channels)))
        self.last = spectral_norm(nn.Linear(config.width * config.base_size**2, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map images in the network's units to `num_outputs` numbers each."""
        return self.last(self.blocks(self.first(x)).flatten(1))


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())


def without_allocating(make: Callable[[], Made]) -> Made:
    """Make an object whose tensors have shapes but no memory, to validate a file before reading it."""
    kind: Any = parametrizations._SpectralNorm
    iterate, divide = kind._power_method, kind.forward

    def skip_without_memory(self: Any, weight: Tensor, number: int) -> None:
        if not weight.is_meta:
            iterate(self, weight, number)

    def same_without_memory(self: Any, weight: Tensor) -> Tensor:
        return weight if weight.is_meta else divide(self, weight)

    # Spectral norms are computed when they are registered, which takes seconds on the meta device.
    kind._power_method, kind.forward = skip_without_memory, same_without_memory
    try:
        with torch.device("meta"), _SkipInitialisation():
            return make()
    finally:
        kind._power_method, kind.forward = iterate, divide


class _SkipInitialisation(TorchFunctionMode):
    """Skip the initialisation of tensors without memory, for which PyTorch would load its compiler (3 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_", "normalize")):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
