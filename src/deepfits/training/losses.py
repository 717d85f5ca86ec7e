"""The objectives (M19 §2.2): least-squares GAN and the embedder's.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

# Of an answer of the discriminator: float32 does not resolve less beside its targets, 0 and 1.
NEAR_ZERO = 1e-8
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


def shared_pass(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Let one pass backwards through the discriminator serve its own loss and the generator's.

    The discriminator answers each image by itself. So if v is sent backwards from its answers d, what arrives
    at image i is vᵢ ∂dᵢ/∂xᵢ, and a factor on vᵢ can as well be put on at the image. The weights need the
    gradient of `discriminator_loss`, vᵢ = dᵢ / N on generated images; the generator needs that of
    `generator_loss`, vᵢ = (dᵢ - 1) / N. The first is sent; what arrives is multiplied by (dᵢ - 1) / dᵢ.

    That is as exact as a pass of its own for the second, however small dᵢ is: nothing from another image is
    added on the way to image i, so all numbers there, and their roundings, scale with vᵢ, until they
    underflow (at 1e-38, in bfloat16 too). Only dᵢ = 0 itself, or nearly, would be lost. Therefore what is
    sent and divided by is at least `NEAR_ZERO` in size, of the sign of dᵢ: this changes the gradient of the
    weights by less than the rounding of an answer near 1, and that of the generator not at all. Answers are
    ``(N,)``.

    Returns
    -------
    sent, factor
        ``(2N,)`` and ``(N,)``: what to send backwards from the answers, those on real images first; and what
        to multiply the gradient at each generated image by.

    Examples
    --------
    >>> sent, factor = shared_pass(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0]))
    >>> sent.tolist(), (factor * sent[2:]).tolist()  # the second: of the generator's loss
    ([-0.25, 0.0, 0.25, 4.999999969612645e-09], [-0.25, -0.5])
    """
    divisor = torch.copysign(generated.abs().clamp(min=NEAR_ZERO), generated)
    sent = torch.cat(((real - 1) / len(real), divisor / len(generated)))
    return sent, (generated - 1) / divisor


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, upstream[0] * gradient, None


def with_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss of this value whose gradient with respect to `x` is already known."""
    return cast(Tensor, _WithGradient.apply(value, x, gradient))


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

    Returns ``(2, N, B, H - 4, W - 4)``: an alternation ±1 of pixels along an axis gives 1 there; a point
    source seen through a sampled PSF gives next to nothing.
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
