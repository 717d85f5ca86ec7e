"""The three networks of M19 §2.1: generator, discriminator and embedder.

Shapes: N objects, L latent dimensions, C channels, B bands, H = W pixels.
"""

from itertools import pairwise

from torch import Tensor, nn

from deepfits.models.layers import Encoder, ModelConfig, UpBlock, upsampling


class Generator(nn.Module):
    """Render images, ``(N, B, H, W)`` in the network's units, from unit-normal latents ``(N, L)``.

    A linear layer without activation, residual blocks that double the sides and halve the channels, and a
    last transposed convolution without activation. There is no normalisation.

    Source: M19 §2.1, whose text gives 4098 outputs of the linear layer; we use 2·2·1024 = 4096.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels
        self.config = config
        self.first = nn.Linear(config.latent_size, config.width * config.base_size**2)
        self.blocks = nn.Sequential(*(UpBlock(a, b, config) for a, b in pairwise(channels)))
        self.last = upsampling(channels[-1], config.num_bands, config)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents, ``(N, L)``, to images, ``(N, B, H, W)``, in the network's units."""
        base = self.config.base_size
        x = self.first(latent).view(-1, self.config.width, base, base)  # (N, C, 2, 2) for 32 pixels
        return self.last(self.blocks(x))


class Discriminator(Encoder):
    """Score each image with one number, near 1 for real and 0 for generated ones (least-squares loss)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, num_outputs=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, ``(N, B, H, W)`` in the network's units, to ``(N,)``."""
        return super().forward(x)[:, 0]


class Embedder(Encoder):
    """Estimate the latents, ``(N, L)``, of images, ``(N, B, H, W)`` in the network's units.

    It is the generator's approximate inverse.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, num_outputs=config.latent_size)
