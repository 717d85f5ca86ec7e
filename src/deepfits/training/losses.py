"""The objectives (M19 §2.2): least-squares GAN and the embedder's.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def reconstruction_loss(residual: Tensor, is_valid: Tensor) -> Tensor:
    """Mean over objects of the mean squared residual over valid pixels, both ``(N, B, H, W)``.

    Not in M19. `residual` is in the networks' units divided by the noise near zero flux there: 1 is a perfect
    reconstruction; after an asinh stretch the cores of bright objects count by their logarithm.
    """
    squares = torch.where(is_valid, residual**2, 0.0).sum(dim=(1, 2, 3))
    return (squares / is_valid.sum(dim=(1, 2, 3)).clamp(min=1)).mean()
