"""Loss functions (M19 §2.2): least-squares GAN, embedder, and optional terms.

Shapes: N objects, L latent dimensions, B bands, H, W pixels.
"""

import torch
from torch import Tensor

# Floor on the size of a discriminator output, below the float32 rounding of its target 1.
NEAR_ZERO = 1e-8
# Fourth differences: the response to a wave is sin⁴(π k), with k in waves per pixel.
FOURTH_DIFFERENCE = (1 / 16, -4 / 16, 6 / 16, -4 / 16, 1 / 16)


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Push the discriminator's outputs, both ``(N,)``, to 1 for real and 0 for generated images.

    Source: Mao et al. (2017), eq. 2 with a = 0, b = 1.
    """
    return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (generated**2).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """Push the discriminator's outputs for generated images, ``(N,)``, to 1.

    Source: Mao et al. (2017), eq. 2 with c = 1.
    """
    return 0.5 * ((generated - 1) ** 2).mean()


def shared_pass(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Serve the discriminator's loss and the generator's with one backward pass through the discriminator.

    The discriminator treats each image independently. If a cotangent v is propagated back from its outputs d,
    image i receives vᵢ ∂dᵢ/∂xᵢ, so that a factor on vᵢ can equally be applied to the gradient at the image.
    For generated images the discriminator's weights need the gradient of `discriminator_loss`, vᵢ = dᵢ / N;
    the generator needs that of `generator_loss`, vᵢ = (dᵢ - 1) / N. The former is propagated, and the
    gradient at image i is then multiplied by (dᵢ - 1) / dᵢ.

    This is as accurate as a separate pass for the generator, however small dᵢ is: no other image contributes
    to the gradient at image i, so all numbers there, and their rounding errors, scale with vᵢ until they
    underflow (at 1e-38, also in bfloat16). Only at dᵢ ≈ 0 would the gradient be lost. The propagated value
    and the divisor therefore have a size of at least `NEAR_ZERO`, with the sign of dᵢ: this changes the
    gradient of the weights by less than the rounding error of an output near 1, and that of the generator not
    at all.

    Return the cotangent to propagate back from the outputs, ``(2N,)`` with those for real images first, and
    the factor by which to multiply the gradient at each generated image, ``(N,)``.

    Examples
    --------
    >>> cotangent, factor = shared_pass(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0]))
    >>> cotangent.tolist(), (factor * cotangent[2:]).tolist()  # the second is for the generator's loss
    ([-0.25, 0.0, 0.25, 4.999999969612645e-09], [-0.25, -0.5])
    """
    divisor = torch.copysign(generated.abs().clamp(min=NEAR_ZERO), generated)
    cotangent = torch.cat(((real - 1) / len(real), divisor / len(generated)))
    return cotangent, (generated - 1) / divisor


def with_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss with the given value and the given gradient with respect to `x`."""
    return value + (gradient * (x - x.detach())).sum()


def embedder_loss(latent: Tensor, guess: Tensor) -> Tensor:
    """Return the mean squared error of guessed latents, both ``(N, L)``: M19 eq. 1 per latent dimension."""
    return ((guess - latent) ** 2).mean()


def reconstruction_loss(residual: Tensor, is_valid: Tensor, *, logarithmic: bool = False) -> Tensor:
    """Return the mean over objects of the mean squared residual over valid pixels. Not in M19.

    `residual` and `is_valid` are ``(N, B, H, W)``. Residuals are in the networks' units divided by the noise
    at zero flux, so that a perfect reconstruction gives 1; after an asinh stretch the cores of bright objects
    contribute logarithmically. With `logarithmic` each object contributes log(1 + its mean): when objects of
    very different brightness are trained on together, the brightest would otherwise dominate the embedder's
    own loss (docs/log.md).
    """
    squares = torch.where(is_valid, residual**2, 0.0).sum(dim=(1, 2, 3))
    each = squares / is_valid.sum(dim=(1, 2, 3)).clamp(min=1)
    return each.log1p().mean() if logarithmic else each.mean()


def fine_structure(x: Tensor) -> Tensor:
    """Filter images, ``(N, B, H, W)``, for variations from pixel to pixel along columns and along rows.

    Returns ``(2, N, B, H - 4, W - 4)``. Pixels that alternate between ±1 along an axis give ±1 for that axis;
    a point source with a well-sampled PSF gives almost nothing.
    """
    height, width = x.shape[2] - 4, x.shape[3] - 4
    along_y = sum(c * x[:, :, i : i + height, 2 : 2 + width] for i, c in enumerate(FOURTH_DIFFERENCE))
    along_x = sum(c * x[:, :, 2 : 2 + height, i : i + width] for i, c in enumerate(FOURTH_DIFFERENCE))
    return torch.stack((torch.as_tensor(along_y), torch.as_tensor(along_x)))


def smoothness_loss(x: Tensor) -> Tensor:
    """Return the mean square fine structure of images, ``(N, B, H, W)``, in units of the noise. Not in M19.

    With a well-sampled PSF, noise-free images have no structure at the finest scales. The discriminator does
    not enforce this, because the noise added in noise-aware training hides such patterns from it.
    """
    return fine_structure(x).square().mean()
