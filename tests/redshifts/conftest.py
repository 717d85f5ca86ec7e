"""Small inputs shared by the tests of redshifts."""

import numpy as np
import pytest

from tests.helpers.redshift_inputs import make_sky, write_features, write_labels, write_store


@pytest.fixture(scope="session")
def sky():
    return make_sky()


@pytest.fixture(scope="session")
def inputs(sky, tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    return (
        write_features(directory / "features", sky),
        write_labels(directory / "labels.parquet", sky),
        write_store(directory / "store", sky),
    )


@pytest.fixture(scope="session")
def embedder(inputs, tmp_path_factory):
    """Write an untrained model for cutouts of this shape."""
    from deepfits.models.bundle import Model
    from deepfits.models.layers import ModelConfig
    from deepfits.survey.normalise import Normalisation
    from deepfits.survey.store import CutoutStore

    constants = {"mean": (0.1,) * 3, "std": (1.0,) * 3, "softening": (3.0,) * 3}
    config = ModelConfig(num_bands=3, size=16, latent_size=8, width=16, num_blocks=2, num_groups=2)
    model = Model.make(config, CutoutStore(inputs[2]).info, Normalisation(kind="asinh", **constants))
    return model.save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def redshifts():
    """Return estimates with broad tails, and the true redshifts."""
    generator = np.random.default_rng(3)
    z_spec = generator.gamma(2.0, 0.4, size=2000)
    z_phot = z_spec + 0.05 * (1 + z_spec) * generator.standard_t(2, size=2000) + 0.01
    return z_phot, z_spec
