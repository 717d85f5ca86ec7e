"""A small model and stores of cutouts drawn by it, for tests with many shards."""

from pathlib import Path

import numpy as np
import torch

from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard

BANDS = ("g", "r", "i")
INFO = StoreInfo(bands=BANDS, size=16, pixel_scale_arcsec=0.3, noise_correlation=(1.0, 1.0, 1.0))


def make_model(directory: Path, info: StoreInfo = INFO, *, latent_size: int = 8, gain: float = 2.5) -> Model:
    """Write an untrained model for images of 16 × 16 pixels, and return it.

    This also sets the seed of torch, so that later draws are the same in every test.
    """
    torch.manual_seed(3)
    config = ModelConfig(num_bands=3, size=16, latent_size=latent_size, width=16, num_blocks=2)
    units = Normalisation(kind="asinh", mean=(0.5, 0.6, 0.7), std=(1.0, 1.1, 1.2), softening=(2.0, 3.0, 4.0))
    model = Model.make(config, info, units).eval()
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(gain)  # an untrained generator hardly depends on its latent
    model.save(directory)
    return model


def make_store(directory: Path, model: Model, lengths: tuple[int, ...], *, seed: int = 4) -> Path:
    """Write a store with one shard of each length."""
    rng = np.random.default_rng(seed)
    create_store(directory, INFO)
    first = 100
    for number, length in enumerate(lengths):
        latent = torch.from_numpy(rng.normal(size=(length, 8)).astype(np.float32))
        clean = model.render(latent).detach().numpy()
        image = (clean + rng.normal(size=clean.shape)).astype(np.float32)
        cutouts = Cutouts(
            object_id=np.arange(first, first + length),
            image=image,
            weight=np.ones_like(image),
            catalogue={"ra": rng.uniform(0, 1, length), "dec": rng.uniform(0, 1, length)},
        )
        write_shard(directory / shard_name(number), cutouts, INFO)
        first += length
    return directory
