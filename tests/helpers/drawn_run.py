"""A small run (store, model, features) whose images were drawn by its own model, so that fits are good."""

import numpy as np
import torch

from deepfits.explorer.launch import load_drawer, load_objects
from deepfits.stages.fit import fit
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard
from tests.helpers.small_model import BANDS, make_model

NUM = 40


def load(run, *, model=None, images=None, **options):
    """Return the objects of a run and their drawer, as the explorer loads them."""
    objects = load_objects(run, **options)
    return objects, load_drawer(objects, run, model=model, images=images)


def make_run(directory):
    """Make ``cutouts/``, ``model/`` and ``features-both/``; object 7 has no g band."""
    info = StoreInfo(bands=BANDS, size=16, pixel_scale_arcsec=0.3)
    model = make_model(directory / "model", info)
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
