"""Diagnostics of a training on held-out objects: numbers and pictures.

Shapes: N objects, B bands, H, W pixels, F features.

No pretrained classifier is needed: images are compared by their radial profiles in all bands (and hence their
colours), in the networks' units.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.fitting.bestfit import fit
from deepfits.fitting.folded import renderer_of
from deepfits.fitting.rendering import InFlux
from deepfits.models.bundle import Model
from deepfits.observation import Sight
from deepfits.photometry import distance_from_middle
from deepfits.training.data import Batch
from deepfits.training.losses import fine_structure
from deepfits.training.noise import NoiseSource, noise_of

FitFunction = Callable[[Model, Tensor, Tensor, Tensor, Sight | None], Tensor]

FIT_STEPS = 40
NUM_RINGS = 6
COLLAPSE_SPREAD = 0.3
TEXTURE_ALARM = 1.2
PANEL = 8


def fit_briefly(
    model: Model, image: Tensor, weight: Tensor, start: Tensor, sight: Sight | None = None
) -> Tensor:
    """Fit latents to monitor the training: as the stage `fit` does, with fewer steps."""
    renderer = InFlux(renderer_of(model.generator), model.normalisation)
    return fit(renderer, image, weight, start, sight=sight, num_steps=FIT_STEPS).latent


def radial_features(x: Tensor) -> Tensor:
    """Describe images, ``(N, B, H, H)`` in the networks' units, by their mean in rings, per band.

    Returns ``(N, B * NUM_RINGS)``, for rings of equal width out to half the side; differences between bands
    are colours.
    """
    size = x.shape[3]
    radius = torch.from_numpy(distance_from_middle(size)).to(x.device)
    ring = (radius / (size / 2) * NUM_RINGS).long()
    is_in = torch.stack([(ring == n).to(x.dtype) for n in range(NUM_RINGS)])  # (rings, H, W)
    is_in = is_in / is_in.sum(dim=(1, 2), keepdim=True)
    return torch.einsum("nbhw,rhw->nbr", x, is_in).flatten(1)


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return the kernel distance between two samples of features, ``(N, F)`` and ``(M, F)``.

    This is the unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y/F + 1)³: near
    0, and possibly slightly negative, for equal distributions. Features are measured from the real sample's
    median in units of its interquartile range and compressed by asinh; otherwise the cubic kernel would be
    dominated by a few bright stars.

    Source: Bińkowski et al. (2018), with these features in place of a classifier's.
    """
    low, middle, high = (real.quantile(level, dim=0) for level in (0.25, 0.5, 0.75))
    scale = (high - low).clamp(min=1e-12)
    a, b = (torch.asinh((f - middle) / scale).double() for f in (real, generated))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def texture(real: Tensor, generated: Tensor) -> float:
    """Return the ratio of fine structure in generated and real images: 1 is right, above 1 too much.

    For each object and band the median absolute fine structure is taken, which is insensitive to galaxy
    cores; the result is the ratio of its root mean squares over objects, in the worst band. Both samples are
    ``(N, B, H, W)`` as observed, with noise. Radial profiles are blind to such pixel-scale patterns, and
    magnitudes and shapes average over them.
    """

    def level(x: Tensor) -> Tensor:
        size = fine_structure(x).abs().flatten(3).median(dim=3).values  # (2, N, B)
        return size.square().mean(dim=(0, 1)).sqrt()

    return float((level(generated) / level(real).clamp(min=1e-12)).max())


def spread(real: Tensor, generated: Tensor) -> float:
    """Compare the diversity of generated objects with that of real ones: 1 is right, 0 is mode collapse.

    Returns the median over features, ``(N, F)``, of the ratio of interquartile ranges.
    """

    def width(f: Tensor) -> Tensor:
        return f.quantile(0.75, dim=0) - f.quantile(0.25, dim=0)

    return float((width(generated) / width(real).clamp(min=1e-12)).median())


@torch.no_grad()
def examine(
    model: Model, held_out: Batch, noise: NoiseSource | None, *, seed: int = 0, fit: FitFunction | None = None
) -> dict[str, Any]:
    """Compute diagnostics of a model in evaluation mode, on complete held-out cutouts.

    `noise` is as in `draw_observed`. The latents and the noise depend only on the seed, so that successive
    evaluations are comparable.

    Return ``kernel_distance``, ``spread``, ``collapsed``, ``texture`` and ``textured``; the discriminator's
    mean outputs ``answer_real`` and ``answer_generated`` (equal when it cannot tell the two apart);
    ``latent_spread``, the standard deviation of the latents of embedded real images (1 for the prior); and,
    for the mode ``embedder`` and, given a `fit` function, ``both``, the median reduced chi-square
    ``chi2_<mode>`` and per band ``chi2_<mode>_<band>``.
    """
    image, weight, sight = held_out.image, held_out.weight, held_out.sight
    flux = draw_observed(model, weight, noise, seed, sight)
    x_real, x_generated = model.network_input(image, weight, sight), model.network_input(flux, weight, sight)
    num_bands = image.shape[1]
    real, generated = radial_features(x_real[:, :num_bands]), radial_features(x_generated[:, :num_bands])
    guess = model.embed(image, weight, sight)
    out: dict[str, Any] = {
        "kernel_distance": kernel_distance(real, generated),
        "spread": (width := spread(real, generated)),
        "collapsed": width < COLLAPSE_SPREAD,
        "texture": (level := texture(x_real[:, :num_bands], x_generated[:, :num_bands])),
        "textured": level > TEXTURE_ALARM,
        "answer_real": float(model.discriminator(x_real).mean()),
        "answer_generated": float(model.discriminator(x_generated).mean()),
        "latent_spread": float(guess.std(dim=0).mean()),
    }
    latents = {"embedder": guess}
    if fit is not None:
        with torch.enable_grad():
            latents["both"] = fit(model, image, weight, guess, sight)
    for mode, latent in latents.items():
        squares = ((image - model.render(latent, sight)) ** 2 * weight).sum(dim=(2, 3))
        chi2 = squares / (weight > 0).sum(dim=(2, 3)).clamp(min=1)  # (N, B)
        out[f"chi2_{mode}"] = float(chi2.mean(dim=1).median())
        for number, band in enumerate(model.info.bands):
            out[f"chi2_{mode}_{band}"] = float(chi2[:, number].median())
    return out


@torch.no_grad()
def draw_observed(
    model: Model, weight: Tensor, noise: NoiseSource | None, seed: int, sight: Sight | None = None
) -> Tensor:
    """Draw one object per weight map, ``(N, B, H, W)`` in nJy, as it would be observed.

    `noise` is None for a generator whose images already contain noise.
    """
    latent, draw = _draw_latents(model, weight, seed)
    flux = model.render(latent, sight)
    if noise is not None:
        flux = flux + noise_of(weight) * noise.draw(len(weight), draw)
    return torch.where(weight > 0, flux, 0)


def _draw_latents(model: Model, like: Tensor, seed: int) -> tuple[Tensor, torch.Generator]:
    """Return one latent per image, and the random generator for further draws."""
    draw = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(len(like), model.config.latent_size, generator=draw, device=like.device), draw


@torch.no_grad()
def make_panel(model: Model, held_out: Batch, *, seed: int = 0, fit: FitFunction | None = None) -> np.ndarray:
    """Return rows of example images: real, embedded, fitted (with `fit`), generated from fixed latents.

    The result is ``(rows, PANEL, B, H, W)`` in nJy.
    """
    shown = held_out.take(slice(PANEL))
    image, weight, sight = shown.image, shown.weight, shown.sight
    guess = model.embed(image, weight, sight)
    rows = [image, model.render(guess, sight)]
    if fit is not None:
        with torch.enable_grad():
            best = fit(model, image, weight, guess, sight)
        rows.append(model.render(best, sight))
    rows.append(model.render(_draw_latents(model, image, seed)[0], sight))
    return torch.stack(rows).cpu().numpy()
