"""The objectives (M19 §2.2): least-squares GAN and the embedder's.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Fourth differences: the response to a wave is sin⁴(π k), with k in waves per pixel.
FOURTH_DIFFERENCE = (1 / 16, -4 / 16, 6 / 16, -4 / 16, 1 / 16)


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Drive the discriminator's answers, both ``(N,)``, to 1 for real and 0 for generated images.

    Source: Mao et al. (2017), eq. 2 with a = 0, b = 1.
    """
    return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (generated**2).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """Drive the discriminator's answers on generated images, ``(N,)``, to 1.

    Source: Mao et al. (2017), eq. 2 with c = 1.
    """
    return 0.5 * ((generated - 1) ** 2).mean()


def embedder_loss(latent: Tensor, guess: Tensor) -> Tensor:
    """Mean squared error of guessed latents, both ``(N, L)``. Source: M19 eq. 1, per latent dimension."""
    return ((guess - latent) ** 2).mean()


def reconstruction_loss(residual: Tensor, is_valid: Tensor, *, logarithmic: bool = False) -> Tensor:
    """Mean over objects of the mean squared residual over valid pixels, both ``(N, B, H, W)``.

    Not in M19. `residual` is in the networks' units divided by the noise near zero flux there: 1 is a perfect
    reconstruction; after an asinh stretch the cores of bright objects count by their logarithm. With
    `logarithmic` each object counts by log(1 + its mean): where objects of very different brightness are
    learned together, the brightest would else drown the embedder's own loss (docs/log.md).
    """
    squares = torch.where(is_valid, residual**2, 0.0).sum(dim=(1, 2, 3))
    each = squares / is_valid.sum(dim=(1, 2, 3)).clamp(min=1)
    return each.log1p().mean() if logarithmic else each.mean()


def fine_structure(x: Tensor) -> Tensor:
    """Pick from images, ``(N, B, H, W)``, what changes from pixel to pixel along rows and along columns.

    Returns
    -------
    Tensor
        ``(2, N, B, H - 4, W - 4)``. An alternation ±1 of pixels along an axis gives 1 there; a point source
        seen through a sampled PSF gives next to nothing.
    """
    height, width = x.shape[2] - 4, x.shape[3] - 4
    along_y = sum(c * x[:, :, i : i + height, 2 : 2 + width] for i, c in enumerate(FOURTH_DIFFERENCE))
    along_x = sum(c * x[:, :, 2 : 2 + height, i : i + width] for i, c in enumerate(FOURTH_DIFFERENCE))
    return torch.stack((torch.as_tensor(along_y), torch.as_tensor(along_x)))


def smoothness_loss(x: Tensor) -> Tensor:
    """Mean square of the fine structure of images, ``(N, B, H, W)``, in units of the noise. Not in M19.

    A PSF that the pixels sample lets nothing through at the finest scales, so noise-free images have nothing
    there. The discriminator does not hold the generator to that: behind the noise that noise-aware training
    adds, it sees too little of such patterns.
    """
    return fine_structure(x).square().mean()
