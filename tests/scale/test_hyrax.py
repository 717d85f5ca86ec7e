"""The example for Hyrax gives the latents that `deepfits fit` gives."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import deepfits
from deepfits.fitting.features import read_features

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
def test_latents_through_hyrax_are_those_of_fit(tmp_path):
    pytest.importorskip("hyrax", exc_type=Exception)
    path = Path(__file__).parents[2] / "examples" / "hyrax_fit.py"
    spec = importlib.util.spec_from_file_location("hyrax_fit", path)
    example = importlib.util.module_from_spec(spec)
    sys.modules["hyrax_fit"] = example
    spec.loader.exec_module(example)
    store = deepfits.cutouts(deepfits.simulate(tmp_path / "sky", size=400, seed=5), tmp_path / "cutouts")
    found = example.latents(store, "builtin:clauds-hsc", str(tmp_path / "results"))
    features = deepfits.fit(
        store,
        "builtin:clauds-hsc",
        tmp_path / "features",
        amplitudes="none",
        prior_strength=0.0,
        neighbours="keep",
        uncertainty=False,
        threads=1,
    )
    np.testing.assert_array_equal(found, read_features(features)["latent"])
