"""The generator: from unit-normal latents to galaxy images (M19 §2.1).

Shapes: N objects, L latent dimensions, C channels, B bands, H = W pixels.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from deepfits.models.layers import ModelConfig, UpBlock, upsampling


class Generator(nn.Module):
    """Render images, ``(N, B, H, W)`` in the network's units, from latents ``(N, L)``.

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
