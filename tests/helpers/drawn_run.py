"""A small run whose images were drawn by its own model, so that fits are good: store, model, features."""

import numpy as np
import torch

from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.stages.fit import fit
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard

BANDS = ("g", "r", "i")
NUM = 40


def make_run(directory):
    """Make ``cutouts/``, ``model/`` and ``features-both/``; object 7 has no g band."""
    torch.manual_seed(3)
    info = StoreInfo(bands=BANDS, size=16, pixel_scale_arcsec=0.3)
    config = ModelConfig(num_bands=3, size=16, latent_size=8, width=16, num_blocks=2)
    units = Normalisation(kind="asinh", mean=(0.5, 0.6, 0.7), std=(1.0, 1.1, 1.2), softening=(2.0, 3.0, 4.0))
    model = Model.make(config, info, units).eval()
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(2.5)
    model.save(directory / "model")
    clean = model.render(torch.randn(NUM, 8)).numpy()
    rng = np.random.default_rng(4)
    image = (clean + rng.normal(size=clean.shape)).astype(np.float32)
    weight = np.ones_like(image)
    weight[7, 0] = 0
    create_store(directory / "cutouts", info)
    cutouts = Cutouts(
        object_id=np.arange(NUM) + 2**60,
        image=image,
        weight=weight,
        catalogue={"ra": 150 + np.arange(NUM) / 100, "dec": np.full(NUM, 2.0), "z_spec": np.arange(NUM) / 50},
    )
    write_shard(directory / "cutouts" / shard_name(0), cutouts, info)
    fit(
        directory / "cutouts",
        directory / "model",
        directory / "features-both",
        threads=1,
        amplitudes="fit",
        prior_strength=0.0,
    )
    return directory
