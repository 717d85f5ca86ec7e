"""The discriminator: how real an image looks (M19 §2.1)."""

from __future__ import annotations

from torch import Tensor

from deepfits.models.layers import Encoder, ModelConfig


class Discriminator(Encoder):
    """Score each image with one number, near 1 for real and 0 for generated ones (least-squares loss)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, num_outputs=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, ``(N, B, H, W)`` in the network's units, to ``(N,)``."""
        return super().forward(x)[:, 0]
