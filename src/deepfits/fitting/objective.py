"""The objective of a fit (M19 eq. 2, generalised by weights and a prior) and its gradient.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.

    loss = Σ weight·(I − a_b·G(latent))²  +  (a − 1)ᵀ P (a − 1)  +  strength·|latent|²

With unit weights, a = 1 and strength 0 this is M19 eq. 2. If the amplitudes a_b of the bands are free, they
are solved for in closed form at every latent (variable projection, Golub & Pereyra 1973); by the envelope
theorem the gradient is then the one at fixed amplitudes. All sums are per object.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from deepfits.fitting.rendering import Renderer
from deepfits.observation import Observation


@dataclass(frozen=True, kw_only=True)
class AmplitudePrior:
    """A normal prior on the amplitudes of the bands around 1, with covariance between bands.

    The amplitudes are 1 + common + own_b. The common part is constrained by every band that has data, so the
    amplitude of a band without data follows the other bands, with the uncertainty that ``own_b`` leaves.

    Attributes
    ----------
    common_sigma
        Standard deviation of the part that all bands share (brightness).
    band_sigma
        Standard deviation of each band's own part (colour).
    """

    common_sigma: float = 1.0
    band_sigma: float = 0.3

    def precision(self, num_bands: int, like: Tensor) -> Tensor:
        """Return the inverse covariance P, ``(B, B)``, with the dtype and device of `like`."""
        return _precision(self, num_bands, like.dtype, like.device)


@lru_cache(maxsize=64)
def _precision(prior: AmplitudePrior, num_bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    ones = torch.ones(num_bands, num_bands, dtype=torch.float64)
    covariance = prior.common_sigma**2 * ones + prior.band_sigma**2 * torch.eye(num_bands).double()
    return torch.linalg.inv(covariance).to(device, dtype)


class Objective:
    """The loss of each object and its gradient with respect to the latent.

    The renderer draws in the unit of the images that are fitted. If the weights are inverse variances, the
    loss is −2 ln likelihood, and a `prior_strength` of 1 gives the maximum a posteriori. Without an
    `amplitude_prior`, amplitudes are fixed to 1.
    """

    def __init__(
        self,
        renderer: Renderer,
        *,
        prior_strength: float = 0.0,
        amplitude_prior: AmplitudePrior | None = None,
    ) -> None:
        self.renderer = renderer
        self.prior_strength = prior_strength
        self.amplitude_prior = amplitude_prior

    def __call__(
        self, latent: Tensor, image: Tensor, weight: Tensor, observation: Observation | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate loss, ``(N,)``, gradient, ``(N, L)``, and amplitudes, ``(N, B)``, at latents ``(N, L)``.

        Images and weights, ``(N, B, H, W)``, must be finite, and images 0 where the weight is. If the
        renderer draws scenes, `observation` takes each object's scene to its pixels.
        """
        model, pullback = self.renderer.with_pullback(latent)
        if observation is not None:
            model = observation.show(model)
        loss, amplitude, weighted = self._compare(model, image, weight)
        weighted.mul_(-2 * amplitude[:, :, None, None])
        gradient = pullback(weighted if observation is None else observation.transpose(weighted))
        if self.prior_strength:
            loss = loss + self.prior_strength * (latent * latent).sum(1)
            gradient = gradient + 2 * self.prior_strength * latent
        return loss, gradient, amplitude

    def value(
        self, latent: Tensor, image: Tensor, weight: Tensor, observation: Observation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate loss, ``(N,)``, and amplitudes, ``(N, B)``, without the gradient."""
        model = self.renderer(latent)
        if observation is not None:
            model = observation.show(model)
        loss, amplitude, _ = self._compare(model, image, weight)
        return loss + self.prior_strength * (latent * latent).sum(1), amplitude

    def _compare(self, model: Tensor, image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, amplitudes, and residuals times weights."""
        amplitude = self.amplitudes(model, image, weight)
        if self.amplitude_prior is None:
            residual = image - model
        else:
            residual = torch.addcmul(image, model, amplitude[:, :, None, None], value=-1)
        weighted = residual * weight
        loss = residual.mul_(weighted).sum((1, 2, 3))  # M19 eq. 2: (weight * residual**2).sum((1, 2, 3))
        if self.amplitude_prior is not None:
            offset = amplitude - 1
            precision = self.amplitude_prior.precision(offset.shape[1], offset)
            loss = loss + torch.einsum("nb,bc,nc->n", offset, precision, offset)
        return loss, amplitude, weighted

    def amplitudes(self, model: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        """Solve for the best-fitting amplitudes, ``(N, B)``, of model images ``(N, B, H, W)``."""
        num_objects, num_bands = model.shape[:2]
        if self.amplitude_prior is None:
            return torch.ones(num_objects, num_bands, dtype=model.dtype, device=model.device)
        weighted = model * weight
        precision = self.amplitude_prior.precision(num_bands, model)
        matrix = torch.diag_embed((weighted * model).sum((2, 3))) + precision
        target = (weighted * image).sum((2, 3)) + precision.sum(1)
        factor, _ = torch.linalg.cholesky_ex(matrix)  # not finite where the images are not
        return torch.cholesky_solve(target[:, :, None], factor)[:, :, 0]
