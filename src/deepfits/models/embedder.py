"""The embedder: the generator's approximate inverse (M19 §2.1)."""

from __future__ import annotations

from deepfits.models.layers import Encoder, ModelConfig


class Embedder(Encoder):
    """Estimate the latents, ``(N, L)``, of images, ``(N, B, H, W)`` in the network's units."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, num_outputs=config.latent_size)
