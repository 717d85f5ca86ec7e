"""One metric for all objects: the average Gauss–Newton matrix of the generator.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.

Latent directions differ by orders of magnitude in how much they change the image, and they do so alike for
all galaxies. The average of JᵀWJ over galaxies drawn from the generator itself knows this; it is computed
once for a generator, never from the objects that are fitted, so no object's result depends on its
neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepfits.fitting.objective import Objective
from deepfits.fitting.rendering import Renderer

NUM_REFERENCE = 64
BATCH = 8


def gauss_newton(derivative: Tensor, weight: Tensor) -> Tensor:
    """Return JᵀWJ, ``(N, L, L)``, from derivatives ``(N, L, B, H, W)`` and weights ``(N, B, H, W)``."""
    flat = derivative.flatten(2)
    return (flat * weight.flatten(1)[:, None]) @ flat.mT


def average_metric(
    renderer: Renderer,
    num_latents: int,
    *,
    weight: Tensor | None = None,
    num_reference: int = NUM_REFERENCE,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    profiled: bool = False,
) -> Tensor:
    """Average the Gauss–Newton matrices of galaxies drawn from the generator.

    Parameters
    ----------
    renderer
        In the unit of the fit.
    num_latents
        L.
    weight
        Of the pixels, broadcastable to ``(B, H, W)``; 1 by default. Per band, what matters is the ratio.
    num_reference
        How many latents to draw, unit normal, from `seed`.
    profiled
        Take out of each derivative what an amplitude per band would take up (Kaufman 1975).

    Returns
    -------
    Tensor
        ``(L, L)``, symmetric, with mean diagonal 1: each galaxy counts alike, however bright.
    """
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(num_reference, num_latents, generator=generator, dtype=torch.float64)
    total = torch.zeros(num_latents, num_latents, dtype=torch.float64)
    for part in latent.split(BATCH):
        image, derivative = renderer.jacobian(part.to(dtype=dtype, device=device))
        used = torch.ones_like(image)
        if weight is not None:
            used = used * weight.to(image)
        if profiled:
            derivative = project_out(derivative, image, used)
        matrix = gauss_newton(derivative, used).double().cpu()
        size = matrix.diagonal(dim1=1, dim2=2).mean(1)
        usable = torch.isfinite(matrix).all((1, 2)) & (size > 0)
        total += (matrix[usable] / size[usable, None, None]).sum(0)
    size = total.diagonal().mean()
    if not size > 0:
        raise ValueError("the images do not change with the latent at any of the reference latents")
    return total / size


def inverse_with_ridge(metric: Tensor, ridge: float) -> Tensor:
    """Invert a metric with `ridge` times its mean diagonal added, float64 inside; ``(L, L)``."""
    length = len(metric)
    eye = torch.eye(length, dtype=torch.float64)
    inverse = torch.linalg.inv(metric.double() + ridge * metric.diagonal().mean() * eye)
    return (inverse + inverse.T) / 2


def project_out(derivative: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Take from each derivative, ``(N, L, B, H, W)``, its part along the image of its band, weighted."""
    weighted = weight * image
    norm = (weighted * image).sum((2, 3)).clamp_min(torch.finfo(image.dtype).tiny)
    along = torch.einsum("nlbhw,nbhw->nlb", derivative, weighted) / norm[:, None]
    return derivative - along[..., None, None] * image[:, None]


def curvature(objective: Objective, latent: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Return the Gauss–Newton half-Hessian of each object's loss in the latent, ``(N, L, L)``.

    Amplitudes, where they are free, are projected out, their prior left aside.
    """
    model, derivative = objective.renderer.jacobian(latent)
    if objective.amplitude_prior is not None:
        amplitude = objective.amplitudes(model, image, weight)
        derivative = project_out(derivative, model, weight) * amplitude[:, None, :, None, None]
    eye = torch.eye(latent.shape[1], dtype=latent.dtype, device=latent.device)
    return gauss_newton(derivative, weight) + objective.prior_strength * eye
