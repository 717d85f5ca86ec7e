"""Renderers: maps from latents to images, with the derivatives that a fit needs.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.

Each step of a fit needs an image and a vector–Jacobian product (pullback); the posterior covariance needs the
whole Jacobian. Any differentiable function from latents to images can be fitted (`Differentiated`); renderers
with derivatives of their own, such as `deepfits.fitting.folded.FoldedGenerator`, are faster.
"""

import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deepfits.errors import InputError
from deepfits.survey.normalise import Normalisation, per_band

Render = Callable[[Tensor], Tensor]
Pullback = Callable[[Tensor], Tensor]

STRETCH_LIMIT = 20.0  # sinh(20) softenings is brighter than any galaxy; beyond, the map is linear


@runtime_checkable
class Renderer(Protocol):
    """Interface of a renderer.

    One that can be captured in a CUDA graph (`deepfits.recording`) has an attribute ``can_record``.
    """

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the images, ``(N, B, H, W)``, of latents ``(N, L)``."""

    def with_pullback(self, latent: Tensor) -> tuple[Tensor, Pullback]:
        """Return the images, and the function from image cotangents to latent cotangents."""

    def jacobian(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images, and their derivatives, ``(N, L, B, H, W)``."""


class Differentiated:
    """A renderer from any differentiable function, by automatic differentiation."""

    def __init__(self, render: Render) -> None:
        self.render = render

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the images, without an autograd graph."""
        with torch.no_grad():
            return self.render(latent)

    def with_pullback(self, latent: Tensor) -> tuple[Tensor, Pullback]:
        """Return the images and their pullback, which may be called once."""
        latent = latent.detach().requires_grad_(True)
        with torch.enable_grad():
            image = self.render(latent)
        if not image.requires_grad:
            raise InputError(
                "PyTorch cannot differentiate render: its images do not depend on the latent, or it uses "
                "NumPy, detach() or no_grad()"
            )

        def pullback(cotangent: Tensor) -> Tensor:
            return torch.autograd.grad(image, latent, cotangent)[0]

        return image.detach(), pullback

    def jacobian(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate in forward mode, all directions of all objects in one batch."""
        number, length = latent.shape
        repeated = latent.detach().repeat_interleave(length, dim=0)
        tangent = torch.eye(length, dtype=latent.dtype, device=latent.device).repeat(number, 1)
        with warnings.catch_warnings(), torch.no_grad(), forward_ad.dual_level():
            # Loads TorchScript rules, for which recent versions of PyTorch warn.
            warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
            dual = self.render(forward_ad.make_dual(repeated, tangent))
            image, derivative = forward_ad.unpack_dual(dual)
        if derivative is None:
            derivative = torch.zeros_like(image)
        shape = (number, length, *image.shape[1:])
        return image.view(shape)[:, 0], derivative.reshape(shape)


class InFlux:
    """A renderer in the network's units, converted to flux.

    An asinh stretch is inverted by a sinh, which overflows for latents far outside the trained range. Beyond
    `STRETCH_LIMIT` the map is continued along its tangent, so that loss and gradient stay finite and the
    gradient points back.
    """

    def __init__(self, renderer: Renderer, units: Normalisation) -> None:
        self.renderer, self.units = renderer, units
        self.can_record = getattr(renderer, "can_record", False)

    def _to_flux(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flux and dflux/dx."""
        if self.units.kind != "asinh":
            flux = self.units.denormalise(x)
            return flux, 1 / self.units.slope(flux)
        units = self.units
        mean, std, softening = (
            per_band(v, x.dtype, x.device) for v in (units.mean, units.std, units.softening)
        )
        stretched = torch.addcmul(mean, x, std)
        inside = stretched.clamp(-STRETCH_LIMIT, STRETCH_LIMIT)
        up = inside.exp()
        down = up.reciprocal()
        slope = (up + down).mul_(softening / 2)  # dflux/dstretched: softening · cosh
        flux = up.sub_(down).mul_(softening / 2)  # softening · sinh
        flux.addcmul_(stretched.sub_(inside), slope)
        return flux, slope.mul_(std)

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the images in flux."""
        return self._to_flux(self.renderer(latent))[0]

    def with_pullback(self, latent: Tensor) -> tuple[Tensor, Pullback]:
        """Return the images in flux and their pullback."""
        x, inner = self.renderer.with_pullback(latent)
        flux, scale = self._to_flux(x)
        return flux, lambda cotangent: inner(cotangent * scale)

    def jacobian(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images in flux and their derivatives."""
        x, derivative = self.renderer.jacobian(latent)
        flux, scale = self._to_flux(x)
        return flux, derivative * scale[:, None]


def as_renderer(render: Render | Renderer) -> Renderer:
    """Return `render` itself if it is a `Renderer`, else wrapped in `Differentiated`."""
    if isinstance(render, Renderer):
        return render
    return Differentiated(render)
