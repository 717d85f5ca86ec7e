"""Is the training healthy? Numbers and pictures on objects that it never sees.

Shapes: N objects, B bands, H, W pixels, F features.

Nothing here needs a download or a classifier: images are compared by their radial profiles in every band,
colours included, in the networks' units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.models.bundle import Model
from deepfits.observation import Sight
from deepfits.training.data import Batch
from deepfits.training.losses import fine_structure
from deepfits.training.noise import NoiseSource, noise_of

FitFunction = Callable[[Model, Tensor, Tensor, Tensor, Sight | None], Tensor]

NUM_RINGS = 6
COLLAPSE_SPREAD = 0.3
TEXTURE_ALARM = 1.2
PANEL = 8


def radial_features(x: Tensor) -> Tensor:
    """Describe images ``(N, B, H, W)``, in the networks' units, by their mean in rings, per band.

    It is ``(N, B * NUM_RINGS)``, for rings of equal width out to half the side; differences between the
    bands' numbers are colours.
    """
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device) - (height - 1) / 2
    column = torch.arange(width, device=x.device) - (width - 1) / 2
    radius = torch.hypot(row[:, None], column[None, :])
    ring = (radius / (min(height, width) / 2) * NUM_RINGS).long()
    is_in = torch.stack([(ring == n).to(x.dtype) for n in range(NUM_RINGS)])  # (rings, H, W)
    is_in = is_in / is_in.sum(dim=(1, 2), keepdim=True)
    return torch.einsum("nbhw,rhw->nbr", x, is_in).flatten(1)


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return the kernel distance of two samples of features, ``(N, F)`` and ``(M, F)``, in units of its own.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y/F + 1)³: near 0 for
    equal distributions, and it may dip below. Features are counted from the real sample's median in units of
    its interquartile range and compressed by asinh: a cube would see nothing but a few bright stars.

    Source: Bińkowski et al. (2018), with these features in place of a classifier's.
    """
    low, middle, high = torch.quantile(real, _quantiles(real, 0.25, 0.5, 0.75), dim=0)
    scale = (high - low).clamp(min=1e-12)
    a, b = (torch.asinh((f - middle) / scale).double() for f in (real, generated))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def texture(real: Tensor, generated: Tensor) -> float:
    """Compare the finest patterns of generated images with those of real ones: 1 is right, above 1 too much.

    The ratio of the root mean squares, over objects, of each object's median absolute fine structure (which
    galaxies' cores do not change), in the worst band. Both ``(N, B, H, W)`` as observed, with noise. Radial
    profiles do not see such patterns, and they average out of magnitudes and shapes.
    """

    def level(x: Tensor) -> Tensor:
        size = fine_structure(x).abs().flatten(3).median(dim=3).values  # (2, N, B)
        return size.square().mean(dim=(0, 1)).sqrt()

    return float((level(generated) / level(real).clamp(min=1e-12)).max())


def _quantiles(like: Tensor, *levels: float) -> Tensor:
    return torch.tensor(levels, dtype=like.dtype, device=like.device)


def spread(real: Tensor, generated: Tensor) -> float:
    """Compare how different generated objects are with how different real ones are: 1 is right, 0 a collapse.

    The median over features, ``(N, F)``, of the ratio of the interquartile ranges.
    """

    def width(f: Tensor) -> Tensor:
        low, high = torch.quantile(f, _quantiles(real, 0.25, 0.75), dim=0)
        return high - low

    return float((width(generated) / width(real).clamp(min=1e-12)).median())


@torch.no_grad()
def examine(
    model: Model,
    held_out: Batch,
    noise: NoiseSource,
    *,
    add_noise: bool,
    seed: int = 0,
    fit: FitFunction | None = None,
) -> dict[str, Any]:
    """Measure the health of a model in evaluation mode, on complete cutouts that are never trained on.

    Returns ``kernel_distance``, ``spread``, ``collapsed``, ``texture``, ``textured``; the discriminator's
    mean answers ``answer_real`` and ``answer_generated`` (it no longer tells them apart when they are equal);
    for ``embedder`` and, where a function fits latents, ``both``: the median reduced chi-square
    ``chi2_<mode>`` and per band ``chi2_<mode>_<band>``; ``latent_spread``: the standard deviation of embedded
    real images' latents, where generated ones have 1. Noise of real images is added to generated ones when
    the generator draws none itself; these are the same at each examination of one seed.
    """
    image, weight, sight = held_out.image, held_out.weight, held_out.sight
    flux = draw_observed(model, weight, noise if add_noise else None, seed, sight)
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
    for mode, found in latents.items():
        squares = ((image - model.render(found, sight)) ** 2 * weight).sum(dim=(2, 3))
        chi2 = squares / (weight > 0).sum(dim=(2, 3)).clamp(min=1)  # (N, B)
        out[f"chi2_{mode}"] = float(chi2.mean(dim=1).median())
        for number, band in enumerate(model.info.bands):
            out[f"chi2_{mode}_{band}"] = float(chi2[:, number].median())
    return out


@torch.no_grad()
def draw_observed(
    model: Model, weight: Tensor, noise: NoiseSource | None, seed: int, sight: Sight | None = None
) -> Tensor:
    """Draw as many objects as there are weights, ``(N, B, H, W)`` in nJy, as they would be observed.

    `noise` is None for a generator that draws noise itself.
    """
    latent, draw = _draw_latents(model, weight, seed)
    flux = model.render(latent, sight)
    if noise is not None:
        flux = flux + noise_of(weight) * noise.draw(len(weight), draw)
    return torch.where(weight > 0, flux, 0)


def _draw_latents(model: Model, like: Tensor, seed: int) -> tuple[Tensor, torch.Generator]:
    """Return a latent for each of some images, and what goes on drawing."""
    draw = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(len(like), model.config.latent_size, generator=draw, device=like.device), draw


@torch.no_grad()
def make_panel(model: Model, held_out: Batch, *, seed: int = 0, fit: FitFunction | None = None) -> np.ndarray:
    """Return rows of images to look at: real, embedded, fitted (with `fit`), generated from fixed latents.

    They are ``(rows, PANEL, B, H, W)`` in nJy.
    """
    shown = held_out[:PANEL]
    image, weight, sight = shown.image, shown.weight, shown.sight
    guess = model.embed(image, weight, sight)
    rows = [image, model.render(guess, sight)]
    if fit is not None:
        with torch.enable_grad():
            best = fit(model, image, weight, guess, sight)
        rows.append(model.render(best, sight))
    rows.append(model.render(_draw_latents(model, image, seed)[0], sight))
    return torch.stack(rows).cpu().numpy()


def colour_panel(panel: np.ndarray, softening: np.ndarray) -> np.ndarray:
    """Turn a panel into a picture: the reddest, the middle and the bluest band as red, green and blue.

    The picture is ``(rows * (H + 1), columns * (W + 1), 3)`` uint8, with a dark line between the images. The
    panel is ``(rows, columns, B, H, W)`` in nJy, the softening that of each band.
    """
    num_bands = panel.shape[2]
    which = [num_bands - 1, num_bands // 2, 0]
    x = np.arcsinh(panel[:, :, which] / softening[which, None, None])
    top = np.quantile(x[0], 0.995)
    x = np.clip((x + 0.5) / (top + 0.5), 0, 1)
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1), (0, 1)))
    rows, columns, _, height, width = x.shape
    picture = x.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    return (255 * picture).astype(np.uint8)
