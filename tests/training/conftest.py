"""A store of round blobs for the tests of training."""

import numpy as np
import pytest

from deepfits.survey.store import Cutouts, create_store, shard_name, write_shard
from tests.helpers.trainings import INFO


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Write noisy cutouts of round blobs with a wide range of brightness."""
    directory = create_store(tmp_path_factory.mktemp("cutouts"), INFO)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 7.5
    flux = 10 ** rng.uniform(1, 2.5, (200, 1, 1, 1))
    shape = np.exp(-(x**2 + y**2) / (2 * rng.uniform(1, 2, (200, 1, 1, 1)) ** 2))
    image = (flux * shape * np.array([0.6, 1.0])[:, None, None] + rng.normal(size=(200, 2, 16, 16))).astype(
        "f4"
    )
    weight = np.ones_like(image)
    weight[:10, 1] = 0
    cutouts = Cutouts(object_id=np.arange(200), image=image, weight=weight)
    write_shard(directory / shard_name(0), cutouts, INFO)
    return directory
