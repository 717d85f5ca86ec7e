"""Normalisation of fluxes: from nJy to the inputs of networks and back.

Shapes: N objects, B bands, H, W pixels.

There are two kinds, with constants per band that are measured over all training images:

``standard``
    x = (flux − mean) / std, as in the paper (M19 §3.1).
``asinh``
    x = (asinh(flux / softening) − mean) / std: linear near the noise, logarithmic above it (after Lupton,
    Gunn & Szalay 1999), so that bright galaxies do not dominate over faint ones.

Both work on NumPy arrays and PyTorch tensors.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import torch

from deepfits.config import Range, Stored, check
from deepfits.errors import InputError

Array = TypeVar("Array", np.ndarray, torch.Tensor)

Kind = Literal["standard", "asinh"]
MAX_STRETCHED = 50.0
"""Upper limit of stretched values; asinh of any flux in units of any softening is far smaller."""


@dataclass(frozen=True, kw_only=True)
class Normalisation(Stored):
    """Mapping from nJy to network units and back.

    Attributes
    ----------
    kind
        ``"standard"`` or ``"asinh"``.
    mean, std
        Per band; of the flux in nJy (``standard``) or of the stretched flux (``asinh``).
    softening
        Per band, nJy; flux at which the stretch turns from linear to logarithmic. Unused by ``standard``.
    """

    kind: Kind
    mean: tuple[Annotated[float, Range(ge=-1e15, le=1e15)], ...]
    std: tuple[Annotated[float, Range(ge=1e-15, le=1e15)], ...]
    softening: tuple[Annotated[float, Range(ge=1e-15, le=1e15)], ...]

    def __post_init__(self) -> None:
        check(self, where="normalisation")
        if not len(self.mean) == len(self.std) == len(self.softening):
            raise InputError("normalisation: mean, std and softening need one value per band each")
        if self.kind == "asinh" and max(map(abs, (*self.mean, *self.std))) > MAX_STRETCHED:
            raise InputError(
                f"normalisation: mean and std of stretched values must be below {MAX_STRETCHED}, not "
                f"{self.mean} and {self.std}"
            )

    def normalise(self, flux: Array) -> Array:
        """Map nJy, ``(..., B, H, W)``, to network units."""
        mean, std, softening = self._constants(flux)
        if self.kind == "standard":
            return (flux - mean) / std
        arcsinh = torch.arcsinh if isinstance(flux, torch.Tensor) else np.arcsinh
        return (arcsinh(flux / softening) - mean) / std

    def denormalise(self, x: Array) -> Array:
        """Map network units, ``(..., B, H, W)``, to nJy: the inverse of `normalise`."""
        mean, std, softening = self._constants(x)
        if self.kind == "standard":
            return x * std + mean
        sinh = torch.sinh if isinstance(x, torch.Tensor) else np.sinh
        return softening * sinh(x * std + mean)

    def slope(self, flux: Array) -> Array:
        """Return dx/dflux at `flux`, nJy⁻¹; a weight w in nJy⁻² becomes w / slope² in network units."""
        _, std, softening = self._constants(flux)
        if self.kind == "standard":
            return flux * 0 + 1 / std
        return 1 / (std * (flux**2 + softening**2) ** 0.5)

    def _constants(self, like: Array) -> tuple[Array, Array, Array]:
        values = (self.mean, self.std, self.softening)
        if isinstance(like, torch.Tensor):
            mean, std, softening = (per_band(v, like.dtype, like.device) for v in values)
        else:
            dtype = like.dtype if like.dtype.kind == "f" else np.dtype(float)
            mean, std, softening = (np.asarray(v, dtype=dtype)[:, None, None] for v in values)
        return mean, std, softening


@lru_cache(maxsize=128)
def per_band(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return per-band values as a ``(B, 1, 1)`` tensor, cached since copies to the device are blocking."""
    with torch.inference_mode(False):  # later users of the cached tensor may need gradients
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


class _Arcsinh(torch.autograd.Function):
    """asinh from the vectorised logarithm: sign(x) log1p(a + a² / (1 + √(1 + a²))) with a = |x|."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        a = x.abs()
        root = (a * a).add_(1).sqrt_().add_(1)
        return torch.log1p(a + (a / root) * a).mul_(x.sign())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x * x).add_(1).rsqrt_()


def arcsinh(x: torch.Tensor) -> torch.Tensor:
    """Return asinh(x), exact to rounding for |x| up to 10¹⁸ in float32.

    Examples
    --------
    >>> x = torch.tensor([-3.0, 0.0, 1e-6, 200.0])
    >>> torch.allclose(arcsinh(x), torch.asinh(x), rtol=1e-6)
    True
    """
    result: torch.Tensor = _Arcsinh.apply(x)
    return result


def normalise(normalisation: Normalisation, flux: torch.Tensor) -> torch.Tensor:
    """Map nJy, ``(..., B, H, W)``, to network units; a fast version of `Normalisation.normalise`.

    PyTorch's own asinh is not vectorised on CPUs.
    """
    if normalisation.kind != "asinh":
        return normalisation.normalise(flux)
    mean, std, softening = normalisation._constants(flux)
    return (arcsinh(flux / softening) - mean) / std


def is_complete(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return which objects have data in all pixels of all bands, ``(N,)`` bool (M19 §3.1)."""
    return ((weight > 0) & np.isfinite(image)).all(axis=(1, 2, 3))


def measure_normalisation(image: np.ndarray, weight: np.ndarray, kind: Kind = "asinh") -> Normalisation:
    """Measure the constants from all valid pixels of a set of images.

    Parameters
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻². Pixels with weight 0 are left out.
    kind
        ``"standard"`` or ``"asinh"``, which is softened at three times the median pixel noise of the band.

    Raises
    ------
    InputError
        A band has no valid pixel or does not vary.
    """
    if kind not in get_args(Kind):
        raise InputError(f"normalisation {kind!r} is unknown; choose one of {get_args(Kind)}")
    mean, std, softening = [], [], []
    for band in range(image.shape[1]):
        is_valid = weight[:, band] > 0
        flux = image[:, band][is_valid].astype(np.float64)
        if flux.size < 2:
            raise InputError(f"normalisation: no valid pixel in band number {band}")
        softening.append(3 * float(np.median(weight[:, band][is_valid])) ** -0.5)
        stretched = flux if kind == "standard" else np.arcsinh(flux / softening[-1])
        mean.append(float(stretched.mean()))
        std.append(float(stretched.std()))
        if not std[-1] > 0:
            raise InputError(f"normalisation: band number {band} has the same value in every pixel")
    return Normalisation(kind=kind, mean=tuple(mean), std=tuple(std), softening=tuple(softening))
