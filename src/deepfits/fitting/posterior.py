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

from dataclasses import dataclass

import torch
from torch import Tensor

from deepfits.fitting.metric import gauss_newton
from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.observation import Observation


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
    scene, of_scene = objective.renderer.jacobian(latent)
    drawn, derivative = scene, of_scene  # m and J = ∂m/∂θ, of the data's pixels
    if observation is not None:
        drawn, derivative = observation(scene), observation.tangents(of_scene)
    if amplitude is None:
        solver = Objective(objective.renderer, amplitude_prior=solved_after) if solved_after else objective
        amplitude = solver.amplitudes(drawn, image, weight if solved_after else used)
    is_free = objective.amplitude_prior is not None
    if is_free:
        derivative = derivative * amplitude[:, None, :, None, None]  # of the model image
    precision = _prior_precision(objective, latent, amplitude, used, weight)
    half_hessian, covariance = _of_fit(derivative, drawn if is_free else None, precision, weight, fit_weight)
    model = drawn * amplitude[:, :, None, None]
    sums = sums.to(model).expand(*model.shape[:2], *sums.shape[-3:])
    if solved_after is None:
        slopes = _along(derivative, sums)
    else:  # all sums over the derivatives' pixels at once
        weighted = torch.stack((drawn * weight, drawn * used), dim=2)
        slopes = _along(derivative, torch.cat((sums, weighted), dim=2))
        covariance = _with_amplitudes(
            covariance, half_hessian, slopes[..., -2], slopes[..., -1], drawn, amplitude, weight, solved_after
        )
        slopes = slopes[..., :-2] * amplitude.double()[:, None, :, None]
    has_amplitudes = is_free or solved_after is not None
    scene_flux_std = None
    if scene_sums is not None:
        rings = scene_sums.to(scene).expand(*scene.shape[:2], *scene_sums.shape)
        of_rings = _along(of_scene, rings)
        if has_amplitudes:
            of_rings = of_rings * amplitude.double()[:, None, :, None]
        scene_flux_std = _std_of_sums(of_rings, scene if has_amplitudes else None, covariance, rings)
    pixel_std = None
    if with_pixels:
        if solved_after is not None:
            derivative = derivative * amplitude[:, None, :, None, None]
        pixel_std = _pixel_std(derivative, drawn if has_amplitudes else None, covariance)
    return Posterior(
        covariance=covariance,
        num_latents=latent.shape[1],
        model=model,
        flux=torch.einsum("nbhw,nbkhw->nbk", model, sums),
        flux_std=_std_of_sums(slopes, drawn if has_amplitudes else None, covariance, sums),
        pixel_std=pixel_std,
        scene_flux_std=scene_flux_std,
    )


def _of_fit(
    derivative: Tensor, drawn: Tensor | None, precision: Tensor, weight: Tensor, fit_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return H and the covariance H⁻¹ M H⁻¹ of what was fitted, ``(N, P, P)`` each."""
    if fit_weight is None:
        half_hessian = _information(derivative, drawn, weight) + precision
        return half_hessian, torch.linalg.inv(half_hessian)  # M = H
    half_hessian = _information(derivative, drawn, fit_weight) + precision
    noise = torch.where(weight > 0, fit_weight**2 / weight.clamp_min(1e-30), 0)
    prior = precision * _ratio(fit_weight, weight)[:, :, None]  # the truth's own scatter, in units of the fit
    scatter = _information(derivative, drawn, noise) + prior
    inverse = torch.linalg.inv(half_hessian)
    return half_hessian, inverse @ scatter @ inverse


def _along(derivative: Tensor, planes: Tensor) -> Tensor:
    """Sum derivatives, ``(N, L, B, H, W)``, times planes, ``(N, B, K, H, W)``, over pixels: ``(N, L, B, K)``.

    In float64: the rounding of float32 would tell where in its batch an object stands.
    """
    of_band = derivative.double().transpose(1, 2).flatten(3)  # (N, B, L, H·W)
    return (of_band @ planes.double().flatten(3).mT).transpose(1, 2)


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


def _information(derivative: Tensor, drawn: Tensor | None, weight: Tensor) -> Tensor:
    """Return the Gauss–Newton matrix of latent and, where `drawn` is given, amplitudes: ``(N, P, P)``."""
    of_latent = gauss_newton(derivative, weight)
    if drawn is None:
        return of_latent
    weighted = drawn * weight
    mixed = torch.einsum("nlbhw,nbhw->nlb", derivative, weighted)
    of_amplitude = torch.diag_embed((weighted * drawn).sum((2, 3)))
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
    """Return the standard deviation of each pixel of the model, ``(N, B, H, W)``."""
    slopes = derivative.flatten(2)  # (N, L, B·H·W)
    length = slopes.shape[1]
    out = (slopes * (covariance[:, :length, :length] @ slopes)).sum(1).view_as(derivative[:, 0])
    if drawn is not None:
        mixed, own = covariance[:, :length, length:], covariance[:, length:, length:]
        out = out + 2 * drawn * torch.einsum("nlbhw,nlb->nbhw", derivative, mixed)
        out = out + drawn**2 * own.diagonal(dim1=1, dim2=2)[:, :, None, None]
    return out.clamp_min(0).sqrt()
