"""The Gauss–Newton metric: how much images change with the latent, learnt once per generator.

Shapes: N objects, R reference latents, L latent dimensions, B bands, H, W pixels.

Latent directions differ by orders of magnitude in how much they change the image, which the Gauss–Newton
matrix JᵀWJ measures. Fits converge fast in this metric, but at an object's own latent it costs as much as
some thirty steps of the fit. So it is computed at latents drawn from the prior, and its logarithm is modelled
as an affine function of the latent, whose exponential is positive definite everywhere. The metric depends on
the generator alone, never on the objects that are fitted, so that an object's result does not depend on the
others.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from deepfits.errors import InputError
from deepfits.fitting.rendering import Renderer
from deepfits.observation import Observation

REFERENCES_PER_LATENT = 4
BATCH = 8
RIDGE = 0.02  # in units of the mean diagonal; bounds directions that do not change the image
SHRINKAGE = 0.3  # ridge of the regression for the slopes, per reference latent
MAX_RADIUS = 1.5  # root mean square per latent; farther out, the metric at this radius is used
SQUARINGS = 5
CHUNKS = {"cpu": 4, "cuda": 512}  # matrices per exponential; fixed, so that results are the same bitwise


@dataclass(frozen=True)
class Metric:
    """The logarithm of the Gauss–Newton half-Hessian JᵀWJ as an affine function of the latent."""

    centre: Tensor  # (L, L): its value at the origin
    slopes: Tensor  # (L, L, L): its derivative along each latent (first axis)

    def to(self, device: torch.device | None, dtype: torch.dtype) -> Self:
        """Convert to the device and type of the latents: recorded fits cannot copy from elsewhere."""
        return replace(self, centre=self.centre.to(device, dtype), slopes=self.slopes.to(device, dtype))

    def inverse(self, latent: Tensor) -> Tensor:
        """Return the inverse at each latent, ``(N, L, L)``; it depends on that latent alone, bitwise.

        The exponential is a truncated series, squared `SQUARINGS` times: symmetric and positive definite like
        the exact one, and close enough to it that no fit is affected.
        """
        number, length = latent.shape
        chunk = CHUNKS.get(latent.device.type, CHUNKS["cuda"])
        near = self.where_known(latent)
        parts = []
        for first in range(0, number, chunk):
            rows = torch.arange(first, first + chunk, device=near.device).clamp_max(number - 1)
            logarithm = self.centre + (near[rows] @ self.slopes.flatten(1)).view(-1, length, length)
            parts.append(_exponential(-logarithm)[: number - first])
        return torch.cat(parts) if parts else latent.new_zeros(0, length, length)

    @staticmethod
    def where_known(latent: Tensor) -> Tensor:
        """Return the latents, ``(N, L)``, at which the metric is evaluated: within `MAX_RADIUS`."""
        radius = latent.square().mean(1, keepdim=True).sqrt()
        return latent * (MAX_RADIUS / radius.clamp_min(MAX_RADIUS))


def _exponential(matrix: Tensor) -> Tensor:
    """Exponentiate symmetric matrices, ``(N, L, L)``: (1 + x + x²/2)^(2^s) with x = matrix / 2^s."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    x = matrix / 2**SQUARINGS
    out = eye + x + x @ x / 2
    for _ in range(SQUARINGS):
        out = out @ out
    return (out + out.mT) / 2


def _logarithm_of(matrix: Tensor, ridge: float) -> Tensor:
    """Return the logarithm of symmetric matrices, ``(N, L, L)``, with a ridge relative to their diagonals."""
    eye = torch.eye(matrix.shape[-1], dtype=torch.float64, device=matrix.device)
    size = matrix.diagonal(dim1=1, dim2=2).mean(1)
    values, vectors = torch.linalg.eigh(matrix + ridge * size[:, None, None] * eye)
    values = torch.maximum(values, ridge / 2 * size[:, None])
    return vectors @ torch.diag_embed(values.log()) @ vectors.mT


def gauss_newton(derivative: Tensor, weight: Tensor) -> Tensor:
    """Return JᵀWJ, ``(N, L, L)``, from derivatives ``(N, L, B, H, W)`` and weights ``(N, B, H, W)``."""
    flat = derivative.flatten(2)
    return (flat * weight.flatten(1)[:, None]) @ flat.mT


def learn_metric(
    renderer: Renderer,
    num_latents: int,
    *,
    weight: Tensor | None = None,
    observation: Observation | None = None,
    num_reference: int | None = None,
    ridge: float = RIDGE,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    profiled: bool = False,
) -> Metric:
    """Learn how a generator's Gauss–Newton matrix changes with the latent.

    The renderer is in the unit of the fit. `weight` is that of the pixels, broadcastable to ``(B, H, W)``, of
    which only the ratios between bands matter; an `observation` is that of a typical object, for scenes. The
    Jacobian is computed at `num_reference` latents drawn from the prior: by default four per latent
    dimension, and at least 64. `ridge` is added to each matrix, in units of its mean diagonal. With
    `profiled`, what an amplitude per band would absorb is projected out of each derivative (Kaufman 1975).
    """
    number = num_reference or max(64, REFERENCES_PER_LATENT * num_latents)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(number, num_latents, generator=generator, dtype=torch.float64)
    logarithms, used = [], []
    for part in latent.split(BATCH):
        image, derivative = renderer.jacobian(part.to(dtype=dtype, device=device))
        if observation is not None:
            image, derivative = observation(image), observation.tangents(derivative)
        pixels = torch.ones_like(image) if weight is None else weight.to(image).expand_as(image)
        if profiled:
            derivative = project_out(derivative, image, pixels)
        matrix = gauss_newton(derivative, pixels).double().cpu()
        usable = torch.isfinite(matrix).all((1, 2)) & (matrix.diagonal(dim1=1, dim2=2).mean(1) > 0)
        logarithms.append(_logarithm_of(matrix[usable], ridge))
        used.append(part[usable])
    target, reference = torch.cat(logarithms), torch.cat(used)
    if not len(target):
        raise InputError(
            "the generated images do not change with the latent, or are not finite, at any of the reference "
            "latents (drawn from a unit normal); the decoder must be differentiable by PyTorch there"
        )
    offset = reference - reference.mean(0)
    normal = offset.T @ offset + SHRINKAGE * len(offset) * torch.eye(num_latents, dtype=torch.float64)
    slopes = torch.linalg.solve(normal, offset.T @ (target - target.mean(0)).flatten(1))
    slopes = slopes.view(num_latents, num_latents, num_latents)
    centre = target.mean(0) - torch.einsum("l,lmn->mn", reference.mean(0), slopes)
    return Metric(centre, slopes).to(device, dtype)


def project_out(derivative: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Subtract from derivatives, ``(N, L, B, H, W)``, their weighted projection on the image of the band."""
    weighted = weight * image
    norm = (weighted * image).sum((2, 3)).clamp_min(torch.finfo(image.dtype).tiny)
    along = torch.einsum("nlbhw,nbhw->nlb", derivative, weighted) / norm[:, None]
    return derivative - along[..., None, None] * image[:, None]
