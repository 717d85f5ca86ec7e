"""RAIL's informer and estimator on latents: `qp` ensembles that say where redshifts are."""

import numpy as np
import pytest

pytest.importorskip("rail.estimation")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def make_table(number, seed):
    """Draw latents of which two make the redshift."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(number, 4)).astype(np.float32)
    redshift = np.exp(0.4 * latent[:, 0] - 0.3 * latent[:, 1]) + rng.normal(0, 0.03, number)
    return {"id": np.arange(number), "latent": latent, "redshift": redshift}


def test_inform_and_estimate(tmp_path, monkeypatch, caplog):
    from deepfits.redshifts.rail_stages import DeepfitsEstimator, DeepfitsInformer

    monkeypatch.chdir(tmp_path)
    informer = DeepfitsInformer.make_stage(name="inform", model="m.pkl", hdf5_groupname="")
    training = make_table(1500, 1)
    coded = {name: np.concatenate([values, values[:60]]) for name, values in training.items()}
    coded["redshift"][1500:] = -99
    informer.inform(coded)
    assert "60 of 1560 values of 'redshift' mark missing redshifts" in caplog.text
    test = make_table(400, 2)
    test["latent"][5] = np.nan
    estimator = DeepfitsEstimator.make_stage(
        name="estimate", model=informer.get_handle("model"), hdf5_groupname="", chunk_size=150,
        output_mode="return", id_col="id",
    )  # fmt: skip
    ensemble = estimator.estimate(test).data
    assert ensemble.npdf == 400
    median = np.squeeze(ensemble.median())
    good = np.arange(400) != 5
    scatter = np.median(np.abs(median - test["redshift"])[good] / (1 + test["redshift"][good]))
    assert scatter < 0.06  # the spread of all redshifts is 0.2
    low, high = (np.squeeze(ensemble.ppf(q)) for q in (0.16, 0.84))
    inside = ((test["redshift"] > low) & (test["redshift"] < high))[good].mean()
    assert 0.58 < inside < 0.78  # 68% of 399: the standard deviation is 2.3%
    np.testing.assert_array_equal(np.squeeze(ensemble.ancil["id"]), test["id"])
    mode = np.squeeze(ensemble.ancil["zmode"])
    assert ((low < mode) & (mode < high))[good].mean() > 0.95  # inside the central interval
    expected = np.quantile(training["redshift"], [0.16, 0.5, 0.84])  # without a latent: as the labels are
    np.testing.assert_allclose([low[5], median[5], high[5]], expected, rtol=1e-5)
    assert np.flatnonzero(np.isnan(mode)).tolist() == [5]
    assert "1 of objects 0 to 400 lack a value in latent: their p(z) is the distribution" in caplog.text


def test_columns_that_are_not_there_are_named(tmp_path, monkeypatch):
    from deepfits.errors import InputError
    from deepfits.redshifts.rail_stages import DeepfitsInformer

    monkeypatch.chdir(tmp_path)
    informer = DeepfitsInformer.make_stage(name="i2", model="n.pkl", hdf5_groupname="", columns=["latents"])
    with pytest.raises(InputError, match="no column 'latents'"):
        informer.inform(make_table(50, 1))
    unlabelled = make_table(50, 1)
    del unlabelled["redshift"]
    informer = DeepfitsInformer.make_stage(name="i3", model="n.pkl", hdf5_groupname="")
    with pytest.raises(InputError, match="no column 'redshift'"):
        informer.inform(unlabelled)
