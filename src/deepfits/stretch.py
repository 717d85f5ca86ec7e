"""The stretch of the networks' units, fast: PyTorch's asinh runs one number at a time on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Normalising(Protocol):
    """What is asked of a normalisation (`deepfits.survey.normalise.Normalisation` has it)."""

    @property
    def kind(self) -> str:
        """``"standard"`` or ``"asinh"``."""

    @property
    def mean(self) -> Sequence[float]:
        """Per band."""

    @property
    def std(self) -> Sequence[float]:
        """Per band."""

    @property
    def softening(self) -> Sequence[float]:
        """Per band, nJy."""

    def normalise(self, flux: Any) -> Any:
        """Map nJy to the networks' units."""

    def slope(self, flux: Any) -> Any:
        """Return dx/dflux in nJy⁻¹."""


class _Arcsinh(torch.autograd.Function):
    """asinh by a vectorised logarithm: sign(x) log1p(a + a² / (1 + √(1 + a²))) with a = the absolute of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        a = x.abs()
        root = (a * a).add_(1).sqrt_().add_(1)
        return torch.log1p(a + (a / root) * a).mul_(x.sign())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x * x).add_(1).rsqrt_()


def arcsinh(x: Tensor) -> Tensor:
    """Return asinh(x), exact to rounding for absolute values up to 10¹⁸ in float32.

    Examples
    --------
    >>> x = torch.tensor([-3.0, 0.0, 1e-6, 200.0])
    >>> torch.allclose(arcsinh(x), torch.asinh(x), rtol=1e-6)
    True
    """
    result: Tensor = _Arcsinh.apply(x)
    return result


def normalise(normalisation: Normalising, flux: Tensor) -> Tensor:
    """Map nJy, ``(..., B, H, W)``, to the networks' units, as `Normalisation.normalise` does."""
    if normalisation.kind != "asinh":
        same: Tensor = normalisation.normalise(flux)
        return same
    mean, std, softening = (
        torch.tensor(values, dtype=flux.dtype, device=flux.device)[:, None, None]
        for values in (normalisation.mean, normalisation.std, normalisation.softening)
    )
    return (arcsinh(flux / softening) - mean) / std
