"""How sure a fit is: the Laplace approximation around the best latent, and what it means for fluxes.

Shapes: N objects, L latent dimensions, B bands, H, W pixels, K sums over pixels, P = L + B parameters.

Around the minimum, the latent and the amplitudes together answer linearly to noise in the pixels. With H the
Gauss–Newton half-Hessian of what was minimised, and M the scatter that pixel noise gives its gradient, their
covariance is H⁻¹ M H⁻¹; where the weights of the fit are the inverse variances, M = H and this is H⁻¹.

The latent is not unique: along directions that change no pixel, H is singular. A unit-normal prior, the
distribution that the generator was trained with, bounds these; it is part of H here even where the fit used
none. Fluxes of pixels that have data do not feel it, because flat directions do not change them.

Amplitudes that were solved for after the fit, at the latent θ that it found with amplitudes of 1, answer to
the noise directly and through θ: with m the drawn image, D = diag(mᵀWm), P the prior's precision, J = ∂m/∂θ,

    δa = (D + P)⁻¹ (mᵀW ε − a JᵀWm · δθ),

from which the joint covariance of latent and amplitudes follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.observation import Observation

JACOBIANS = {"cpu": 2, "cuda": 8}
"""How many are held at once: on processors as many as their caches hold."""


@dataclass
class Posterior:
    """Covariances of one batch, and the model's images and fluxes.

    Attributes
    ----------
    covariance
        ``(N, P, P)``: of latent and amplitudes together (P = L where amplitudes are not free).
    model
        ``(N, B, H, W)``: amplitude × generated image.
    flux, flux_std
        ``(N, B, K)``: sums over the model's pixels.
    pixel_std
        ``(N, B, H, W)`` or None.
    scene_flux_std
        ``(N, B, J)``: of sums over the scenes' pixels; None where none were asked for.
    """

    covariance: Tensor
    num_latents: int
    model: Tensor
    flux: Tensor
    flux_std: Tensor
    pixel_std: Tensor | None
    scene_flux_std: Tensor | None = None

    @property
    def latent_std(self) -> Tensor:
        """Standard deviations of the latent, ``(N, L)``."""
        return self._std()[:, : self.num_latents]

    @property
    def amplitude_std(self) -> Tensor | None:
        """Standard deviations of the amplitudes, ``(N, B)``, or None where they were not free."""
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
    """Approximate the posterior around `latent`.

    Parameters
    ----------
    objective
        Whose renderer draws in flux.
    latent
        ``(N, L)``, where the fit ended.
    image, weight
        ``(N, B, H, W)``, the data and their inverse variances, cleaned.
    sums
        ``(K, H, W)``: what to sum over the pixels; or ``(N, B, K, H, W)``, of each object and band.
    fit_weight
        ``(N, B, H, W)``: the weights that the fit gave the pixels, in the unit of `weight`, where they were
        not the inverse variances.
    amplitude
        ``(N, B)``, where the fit ended; solved for when not given.
    with_pixels
        Return the standard deviation of each pixel of the model too.
    solved_after
        The prior of amplitudes that were solved for after the fit, with the weights `weight`.
    observation
        For a renderer of scenes: how each of these objects was observed.
    scene_sums
        ``(J, S, S)``: what to sum over the pixels of the scenes themselves.
    """
    used = weight if fit_weight is None else fit_weight
    scene = objective.renderer(latent)
    drawn = scene if observation is None else observation.show(scene)  # m, as the data would be
    if amplitude is None:
        solver = Objective(objective.renderer, amplitude_prior=solved_after) if solved_after else objective
        amplitude = solver.amplitudes(drawn, image, weight if solved_after else used)
    is_free = objective.amplitude_prior is not None
    has_amplitudes = is_free or solved_after is not None
    weights = [weight] if fit_weight is None else [fit_weight, _noise_of_fit(weight, fit_weight)]
    by = weights if is_free else [] if solved_after is None else [weight, used]
    scale = amplitude[:, :, None, None]
    model = drawn * scale
    sums = sums.to(model).expand(*model.shape[:2], *sums.shape[-3:])
    planes = torch.cat((sums, *(drawn[:, :, None] * w[:, :, None] for w in by)), dim=2)
    rings = None if scene_sums is None else scene_sums.to(scene).expand(*scene.shape[:2], *scene_sums.shape)
    by_model = [w * scale**2 for w in weights] if is_free else weights  # of derivatives of the model image
    (information, slopes, *of_rings), kept = _over_jacobians(
        objective, latent, observation, by_model, planes, rings, keep=with_pixels
    )
    slopes, along_drawn = slopes[..., : sums.shape[2]], slopes[..., sums.shape[2] :]
    if is_free:
        mixed = along_drawn * amplitude.double()[:, None, :, None]
        information = torch.stack(
            [_joint(information[:, i], mixed[..., i], drawn, w) for i, w in enumerate(by)], 1
        )
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
        scene_flux_std=None if rings is None else std(of_rings[0], scene, rings),
    )


def _over_jacobians(
    objective: Objective,
    latent: Tensor,
    observation: Observation | None,
    weights: Sequence[Tensor],
    planes: Tensor,
    rings: Tensor | None,
    *,
    keep: bool,
) -> tuple[list[Tensor], list[tuple[slice, Tensor]]]:
    """Return what `_over_pixels` sums, over scenes by `rings` too, few objects at a time; J to `keep`."""
    parts, kept = [], []
    size = JACOBIANS.get(latent.device.type, JACOBIANS["cuda"])
    for part in (slice(first, first + size) for first in range(0, len(latent), size)):
        of_scene = objective.renderer.jacobian(latent[part])[1]
        derivative = of_scene if observation is None else observation[part].tangents(of_scene)  # J = ∂m/∂θ
        found = _over_pixels(derivative, [w[part] for w in weights], planes[part])
        parts.append(found if rings is None else (*found, _over_pixels(of_scene, [], rings[part])[1]))
        if keep:
            kept.append((part, derivative))
    return [torch.cat(values) for values in zip(*parts, strict=True)], kept


def _hessian_and_covariance(
    information: Tensor, precision: Tensor, weight: Tensor, fit_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return H and the covariance H⁻¹ M H⁻¹ of what was fitted, ``(N, P, P)`` each."""
    half_hessian = information[:, 0] + precision
    inverse = torch.linalg.inv(half_hessian)
    if fit_weight is None:
        return half_hessian, inverse  # M = H
    prior = precision * _ratio(fit_weight, weight)[:, :, None]  # the truth's own scatter, in units of the fit
    return half_hessian, inverse @ (information[:, 1] + prior) @ inverse


def _noise_of_fit(weight: Tensor, fit_weight: Tensor) -> Tensor:
    """Return the weights that make M: the noise of pixels by the weights that the fit gave them."""
    return torch.where(weight > 0, fit_weight**2 / weight.clamp_min(1e-30), 0)


def _over_pixels(derivative: Tensor, weights: Sequence[Tensor], planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return JᵀWJ for each of V weights, ``(N, V, L, L)``, and sums of J times planes, ``(N, L, B, K)``.

    In float64: the information on some directions of a bright galaxy is 10⁸ times that on others, and
    rounding of float32 would tell where in its batch an object stands. Band by band, all in one product. J is
    ``(N, L, B, H, W)``, each of the weights ``(N, B, H, W)``, the planes ``(N, B, K, H, W)``.
    """
    number, length, bands = derivative.shape[:3]
    weighted = len(weights) * length
    right = derivative.new_empty(
        number, weighted + planes.shape[2], planes[0, 0, 0].numel(), dtype=torch.float64
    )
    products = []
    for band in range(bands):
        of_band = derivative[:, :, band].flatten(2).double()  # (N, L, H·W)
        for i, weight in enumerate(weights):
            torch.mul(
                of_band, weight[:, band].flatten(1)[:, None], out=right[:, i * length : (i + 1) * length]
            )
        right[:, weighted:] = planes[:, band].flatten(2)
        products.append(of_band @ right.mT)
    product = torch.stack(products, dim=2)  # (N, L, B, V·L + K)
    information = product[..., :weighted].sum(2).unflatten(2, (len(weights), length)).transpose(1, 2)
    return information, product[..., weighted:]


def _std_of_sums(slopes: Tensor, drawn: Tensor | None, covariance: Tensor, sums: Tensor) -> Tensor:
    """Return the standard deviations of sums over pixels, ``(N, B, K)``, given each's ``(N, B, K, H, W)``.

    `slopes`, ``(N, L, B, K)``, are their derivatives.
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

    In float64, so that rounding does not tell where in its batch an object stands. `along_drawn` and
    `along_used`, ``(N, L, B)``, are the derivatives' products with the drawing, by the weights of the noise
    and of the fit.
    """
    dtype = covariance.dtype
    covariance, half_hessian, drawn, amplitude, weight = (
        t.double() for t in (covariance, half_hessian, drawn, amplitude, weight)
    )
    own = (drawn * weight * drawn).sum((2, 3))  # of the noise in mᵀWε, and D
    precision = prior.precision(own.shape[1], own)
    inverse = torch.linalg.inv(torch.diag_embed(own) + precision)  # (N, B, B)
    follows = -(amplitude[:, None] * along_drawn).mT  # (N, B, L)
    both = torch.linalg.solve(half_hessian, along_used)  # of the latent with mᵀWε, (N, L, B)
    through = follows @ both
    amplitudes = torch.diag_embed(own) + precision + through + through.mT + follows @ covariance @ follows.mT
    amplitudes = inverse @ amplitudes @ inverse
    mixed = (both + covariance @ follows.mT) @ inverse
    upper = torch.cat((covariance, mixed), dim=2)
    return torch.cat((upper, torch.cat((mixed.mT, amplitudes), dim=2)), dim=1).to(dtype)


def _per_band(values: Tensor) -> Tensor:
    """Spread ``(N, B, ...)`` to ``(N, B, B, ...)``: the amplitude of one band changes that band alone."""
    eye = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    return eye.view(1, *eye.shape, *([1] * (values.ndim - 2))) * values[:, None]


def _joint(of_latent: Tensor, mixed: Tensor, drawn: Tensor, weight: Tensor) -> Tensor:
    """Return the Gauss–Newton matrix of latent and amplitudes: ``(N, P, P)``; `mixed` is ``(N, L, B)``."""
    of_amplitude = torch.diag_embed((drawn * weight * drawn).sum((2, 3)))
    mixed = mixed.to(of_latent.dtype)
    upper = torch.cat((of_latent, mixed), dim=2)
    return torch.cat((upper, torch.cat((mixed.mT, of_amplitude), dim=2)), dim=1)


def _ratio(used: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of the weights of the fit in units of the inverse variances, ``(N, 1)``."""
    return (used.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-30))[:, None]


def _prior_precision(
    objective: Objective, latent: Tensor, amplitude: Tensor, used: Tensor, weight: Tensor
) -> Tensor:
    strength = _ratio(used, weight).clamp_min(objective.prior_strength).expand_as(latent)
    if objective.amplitude_prior is None:
        return torch.diag_embed(strength)
    number, length, bands = len(latent), latent.shape[1], amplitude.shape[1]
    out = torch.zeros(number, length + bands, length + bands, dtype=latent.dtype, device=latent.device)
    out[:, :length, :length] = torch.diag_embed(strength)
    out[:, length:, length:] = objective.amplitude_prior.precision(bands, latent)
    return out


def _pixel_std(derivative: Tensor, drawn: Tensor | None, covariance: Tensor) -> Tensor:
    """Return the standard deviation of each pixel of the model, ``(N, B, H, W)``; in float64 as all sums."""
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
