"""The posterior covariance of a fit by the Laplace approximation, and the errors of fluxes that follow.

Shapes: N objects, L latent dimensions, B bands, H, W pixels, K sums over pixels, P = L + B parameters.

Near the minimum, latent and amplitudes respond linearly to noise in the pixels. With H the Gauss–Newton
half-Hessian of the objective, and M the covariance that pixel noise gives its half-gradient, the covariance
of the parameters is the sandwich H⁻¹ M H⁻¹; if the weights of the fit are the inverse variances, M = H and
this is H⁻¹.

The latent is not unique: along directions that change no pixel, JᵀWJ is singular. The unit-normal prior, with
which the generator was trained, bounds these directions; H includes it here even if the fit used no prior.
Fluxes summed over pixels with data are not affected, since flat directions do not change them.

Amplitudes that are solved for after the fit, at the latent θ that was found with amplitudes of 1, respond to
the noise ε both directly and through θ. With m the model image, D = diag(mᵀWm), P the precision of the
amplitude prior and J = ∂m/∂θ,

    δa = (D + P)⁻¹ (mᵀW ε − a JᵀWm · δθ),

from which the joint covariance of latent and amplitudes follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.observation import Observation

JACOBIANS = {"cpu": 2, "cuda": 8}
"""Jacobians that are held in memory at once; on a CPU, as many as fit in its caches."""


@dataclass
class Posterior:
    """Posterior covariances of a batch of objects, their model images, and fluxes with errors."""

    covariance: Tensor  # (N, P, P): of latent and amplitudes jointly (P = L if amplitudes are fixed)
    num_latents: int
    model: Tensor  # (N, B, H, W): amplitude × rendered image
    flux: Tensor  # (N, B, K): sums over the pixels of the model image
    flux_std: Tensor  # (N, B, K)
    pixel_std: Tensor | None  # (N, B, H, W): standard deviations of the pixels of the model image, or None
    # (N, B, J): standard deviations of sums over the pixels of the scene, or None.
    scene_flux_std: Tensor | None = None

    @property
    def latent_std(self) -> Tensor:
        """Standard deviations of the latent, ``(N, L)``."""
        return self._std()[:, : self.num_latents]

    @property
    def amplitude_std(self) -> Tensor | None:
        """Standard deviations of the amplitudes, ``(N, B)``, or None if they are fixed."""
        std = self._std()[:, self.num_latents :]
        return std if std.shape[1] else None

    def _std(self) -> Tensor:
        return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()


def laplace(
    objective: Objective,
    latent: Tensor,
    image: Tensor,
    weight: Tensor,
    sums: Tensor,
    *,
    fit_weight: Tensor | None = None,
    amplitude: Tensor | None = None,
    with_pixels: bool = False,
    solved_after: AmplitudePrior | None = None,
    observation: Observation | None = None,
    scene_sums: Tensor | None = None,
) -> Posterior:
    """Approximate the posterior around `latent`, the best fits ``(N, L)``, by a normal distribution.

    The objective is that of the fit, with a renderer that draws in flux. Data and inverse variances,
    ``(N, B, H, W)``, are finite, and images 0 where the weight is. `sums` are pixel weights of the flux sums,
    ``(K, H, W)`` or ``(N, B, K, H, W)``, and `scene_sums` those of sums over the scenes, ``(J, S, S)``;
    `observation` says how each object was observed, for a renderer of scenes. `fit_weight` are the weights of
    the fit, in the unit of `weight`, if these were not the inverse variances. Amplitudes, ``(N, B)``, are
    solved for if not given; `solved_after` is their prior if that was done after the fit, with `weight`.
    """
    used = weight if fit_weight is None else fit_weight
    scene = objective.renderer(latent)
    drawn = scene if observation is None else observation.show(scene)  # m, at the data's PSF and pixels
    if amplitude is None:
        solver = Objective(objective.renderer, amplitude_prior=solved_after) if solved_after else objective
        amplitude = solver.amplitudes(drawn, image, weight if solved_after else used)
    is_free = objective.amplitude_prior is not None
    has_amplitudes = is_free or solved_after is not None
    weights = [used]
    if fit_weight is not None:  # V, with which M = JᵀVJ
        weights.append(torch.where(weight > 0, fit_weight**2 / weight.clamp_min(1e-30), 0))
    mixed_weights = weights if is_free else [] if solved_after is None else [weight, used]
    scale = amplitude[:, :, None, None]
    model = drawn * scale
    sums = sums.to(model).expand(*model.shape[:2], *sums.shape[-3:])
    planes = torch.cat((sums, *(drawn[:, :, None] * w[:, :, None] for w in mixed_weights)), dim=2)
    if scene_sums is not None:
        scene_sums = scene_sums.to(scene).expand(*scene.shape[:2], *scene_sums.shape)
    jacobian_weights = [w * scale**2 for w in weights] if is_free else weights
    (information, slopes, *scene_slopes), kept = _over_jacobians(
        objective, latent, observation, jacobian_weights, planes, scene_sums, keep=with_pixels
    )
    slopes, along_drawn = slopes[..., : sums.shape[2]], slopes[..., sums.shape[2] :]
    if is_free:
        mixed = along_drawn * amplitude.double()[:, None, :, None]
        own = [torch.diag_embed((drawn * w * drawn).sum((2, 3))).double() for w in mixed_weights]
        parts = zip(information.unbind(1), mixed.unbind(-1), own, strict=True)
        information = torch.stack([_blocks(*part) for part in parts], 1)
    precision = _prior_precision(objective, latent, amplitude, used, weight).double()
    half_hessian, covariance = _hessian_and_covariance(information, precision, weight, fit_weight)
    if solved_after is not None:
        along = along_drawn[..., 0], along_drawn[..., 1]
        covariance = _with_amplitudes(
            covariance, half_hessian, *along, drawn, amplitude, weight, solved_after
        )

    def std(slopes: Tensor, unscaled: Tensor, sums: Tensor) -> Tensor:
        slopes = slopes * amplitude.double()[:, None, :, None]
        return _std_of_sums(slopes, unscaled if has_amplitudes else None, covariance, sums)

    pixel_std = [
        _pixel_std(derivative * scale[part, None], drawn[part] if has_amplitudes else None, covariance[part])
        for part, derivative in kept
    ]
    return Posterior(
        covariance=covariance.to(latent.dtype),
        num_latents=latent.shape[1],
        model=model,
        flux=torch.einsum("nbhw,nbkhw->nbk", model, sums),
        flux_std=std(slopes, drawn, sums),
        pixel_std=torch.cat(pixel_std) if with_pixels else None,
        scene_flux_std=None if scene_sums is None else std(scene_slopes[0], scene, scene_sums),
    )


def _over_jacobians(
    objective: Objective,
    latent: Tensor,
    observation: Observation | None,
    weights: Sequence[Tensor],
    planes: Tensor,
    scene_sums: Tensor | None,
    *,
    keep: bool,
) -> tuple[list[Tensor], list[tuple[slice, Tensor]]]:
    """Return the products of `_over_pixels`, a few Jacobians at a time, and these Jacobians if `keep`.

    With `scene_sums`, the sums of the scenes' Jacobians are appended.
    """
    parts, kept = [], []
    size = JACOBIANS.get(latent.device.type, JACOBIANS["cuda"])
    for part in (slice(first, first + size) for first in range(0, len(latent), size)):
        scene = objective.renderer.jacobian(latent[part])[1]
        derivative = scene if observation is None else observation[part].tangents(scene)  # J = ∂m/∂θ
        products = _over_pixels(derivative, [w[part] for w in weights], planes[part])
        scene_products = () if scene_sums is None else (_over_pixels(scene, [], scene_sums[part])[1],)
        parts.append((*products, *scene_products))
        if keep:
            kept.append((part, derivative))
    return [torch.cat(values) for values in zip(*parts, strict=True)], kept


def _hessian_and_covariance(
    information: Tensor, precision: Tensor, weight: Tensor, fit_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return H and the covariance H⁻¹ M H⁻¹, ``(N, P, P)`` each."""
    half_hessian = information[:, 0] + precision
    inverse = torch.linalg.inv(half_hessian)
    if fit_weight is None:
        return half_hessian, inverse  # M = H
    prior = precision * _ratio(fit_weight, weight)[:, :, None]  # scatter of the true latent, in fit units
    return half_hessian, inverse @ (information[:, 1] + prior) @ inverse


def _over_pixels(derivative: Tensor, weights: Sequence[Tensor], planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return JᵀWJ for each of V weights, ``(N, V, L, L)``, and sums of J times planes, ``(N, L, B, K)``.

    In float64: the information on some directions of a bright galaxy is 10⁸ times that on others, so that
    float32 results would depend, through rounding, on an object's position in its batch. One product per band
    gives all of them. J is ``(N, L, B, H, W)``, each of the weights ``(N, B, H, W)``, the planes ``(N, B, K,
    H, W)``.
    """
    number, length, bands = derivative.shape[:3]
    weighted = len(weights) * length
    right = derivative.new_empty(
        number, weighted + planes.shape[2], planes[0, 0, 0].numel(), dtype=torch.float64
    )
    products = []
    for band in range(bands):
        in_band = derivative[:, :, band].flatten(2).double()  # (N, L, H·W)
        for i, weight in enumerate(weights):
            torch.mul(
                in_band, weight[:, band].flatten(1)[:, None], out=right[:, i * length : (i + 1) * length]
            )
        right[:, weighted:] = planes[:, band].flatten(2)
        products.append(in_band @ right.mT)
    product = torch.stack(products, dim=2)  # (N, L, B, V·L + K)
    information = product[..., :weighted].sum(2).unflatten(2, (len(weights), length)).transpose(1, 2)
    return information, product[..., weighted:]


def _std_of_sums(slopes: Tensor, drawn: Tensor | None, covariance: Tensor, sums: Tensor) -> Tensor:
    """Return the standard deviations, ``(N, B, K)``, of sums over pixels with weights ``(N, B, K, H, W)``.

    `slopes`, ``(N, L, B, K)``, are the derivatives of the sums with respect to the latent; `drawn` is the
    image before the amplitudes if these have errors, else None.
    """
    if drawn is not None:
        own = torch.einsum("nbhw,nbkhw->nbk", drawn, sums)
        slopes = torch.cat((slopes, _per_band(own.double())), dim=1)  # (N, P, B, K)
    variance = torch.einsum("npbk,npq,nqbk->nbk", slopes, covariance.double(), slopes)
    return variance.to(sums.dtype).clamp_min(0).sqrt()


def _with_amplitudes(
    covariance: Tensor,
    half_hessian: Tensor,
    along_drawn: Tensor,
    along_used: Tensor,
    drawn: Tensor,
    amplitude: Tensor,
    weight: Tensor,
    prior: AmplitudePrior,
) -> Tensor:
    """Add amplitudes that were solved for at the latent to its covariance: ``(N, L + B, L + B)``.

    In float64, so that rounding does not depend on an object's position in its batch. `along_drawn` and
    `along_used`, ``(N, L, B)``, are JᵀWm with the inverse variances and with the weights of the fit.
    """
    dtype = covariance.dtype
    covariance, half_hessian, drawn, amplitude, weight = (
        t.double() for t in (covariance, half_hessian, drawn, amplitude, weight)
    )
    own = (drawn * weight * drawn).sum((2, 3))  # D, which is also the variance of mᵀWε
    precision = prior.precision(own.shape[1], own)
    inverse = torch.linalg.inv(torch.diag_embed(own) + precision)  # (N, B, B)
    slope = -(amplitude[:, None] * along_drawn).mT  # −a JᵀWm, (N, B, L)
    common = torch.linalg.solve(half_hessian, along_used)  # covariance of θ and mᵀWε, (N, L, B)
    through = slope @ common
    amplitudes = torch.diag_embed(own) + precision + through + through.mT + slope @ covariance @ slope.mT
    amplitudes = inverse @ amplitudes @ inverse
    mixed = (common + covariance @ slope.mT) @ inverse
    return _blocks(covariance, mixed, amplitudes).to(dtype)


def _per_band(values: Tensor) -> Tensor:
    """Spread ``(N, B, ...)`` to ``(N, B, B, ...)``: a band's amplitude changes that band alone."""
    eye = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    return eye.view(1, *eye.shape, *([1] * (values.ndim - 2))) * values[:, None]


def _blocks(of_latent: Tensor, mixed: Tensor, of_amplitude: Tensor) -> Tensor:
    """Return the symmetric matrix of latent and amplitudes, ``(N, P, P)``; `mixed` is ``(N, L, B)``."""
    upper = torch.cat((of_latent, mixed), dim=2)
    return torch.cat((upper, torch.cat((mixed.mT, of_amplitude), dim=2)), dim=1)


def _ratio(used: Tensor, weight: Tensor) -> Tensor:
    """Return the mean fit weight over the mean inverse variance, ``(N, 1)``."""
    return (used.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-30))[:, None]


def _prior_precision(
    objective: Objective, latent: Tensor, amplitude: Tensor, used: Tensor, weight: Tensor
) -> Tensor:
    strength = torch.diag_embed(_ratio(used, weight).clamp_min(objective.prior_strength).expand_as(latent))
    if objective.amplitude_prior is None:
        return strength
    bands = amplitude.shape[1]
    precision = objective.amplitude_prior.precision(bands, latent).expand(len(latent), bands, bands)
    return _blocks(strength, strength.new_zeros(*latent.shape, bands), precision)


def _pixel_std(derivative: Tensor, drawn: Tensor | None, covariance: Tensor) -> Tensor:
    """Return the standard deviation of each pixel of the model image, ``(N, B, H, W)``, by way of float64."""
    dtype, derivative = derivative.dtype, derivative.double()
    slopes = derivative.flatten(2)  # (N, L, B·H·W)
    length = slopes.shape[1]
    out = (slopes * (covariance[:, :length, :length] @ slopes)).sum(1).view_as(derivative[:, 0])
    if drawn is not None:
        drawn = drawn.double()
        mixed, own = covariance[:, :length, length:], covariance[:, length:, length:]
        out = out + 2 * drawn * torch.einsum("nlbhw,nlb->nbhw", derivative, mixed)
        out = out + drawn**2 * own.diagonal(dim1=1, dim2=2)[:, :, None, None]
    return out.clamp_min(0).sqrt().to(dtype)
