"""A store of several shards, and its fit that nothing disturbs; a module says how (LENGTHS, QUICK)."""

import pytest

from deepfits.fitting.features import read_features
from deepfits.stages.fit import fit
from tests.helpers.small_model import make_model, make_store


@pytest.fixture(scope="module")
def sky(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sky")
    make_store(directory / "store", make_model(directory / "model"), request.module.LENGTHS)
    return directory


@pytest.fixture(scope="module")
def undisturbed(request, sky, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "features"
    return read_features(fit(sky / "store", sky / "model", out, **request.module.QUICK))
