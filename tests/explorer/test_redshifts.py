"""The redshift of a cutout that is in no table is the one that the table would have."""

import numpy as np
import pytest

import deepfits
from deepfits.explorer.redshifts import Distributions
from deepfits.tables import read_table
from tests.helpers.redshift_inputs import make_sky, write_features, write_labels, write_store


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Learn from aperture magnitudes, which are measured in the cutouts, and from the fit's."""
    out, sky = tmp_path_factory.mktemp("redshifts"), make_sky()
    features, store = write_features(out / "features", sky), write_store(out / "cutouts", sky)
    labels = write_labels(out / "labels.parquet", sky)
    deepfits.redshift(
        features,
        labels,
        out / "redshift",
        store=store,
        methods=("boosting",),
        feature_sets=("magnitudes",),
        tuning_trials=1,
        num_threads=1,
    )
    return out


def test_prediction_for_one_cutout_is_that_of_the_table(table):
    known = Distributions.read(table / "redshift")
    features, store = read_table(table / "features"), deepfits.CutoutStore(table / "cutouts")
    for identity in known.object_id[[0, 7]].tolist():
        row = int(np.flatnonzero(features["object_id"] == identity)[0])
        one = {name: values[[row]] for name, values in features.items()}
        expected = known.of(identity)
        found = known.predict(one, store.take(np.array([row])), store.info)
        assert found["z_phot"] == pytest.approx(expected["z_phot"], rel=1e-5)
        np.testing.assert_allclose(found["edges"], expected["edges"], rtol=1e-4)
        assert found["low"] < found["high"]
        assert found["z_spec"] is None, "nobody knows it"
        assert expected["z_spec"] == pytest.approx(make_sky()["z_spec"][identity - 1000])
