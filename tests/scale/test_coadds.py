"""Fitting straight from images: the same bits as through a store, without one, and resumable."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from deepfits.errors import InputError, ShardsFailedError
from deepfits.fitting.features import read_features
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.scale.manifest import read_manifest
from deepfits.splits import is_held_out
from deepfits.stages.cutouts import cutouts
from deepfits.stages.fit import fit
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from tests.helpers.gaussian_sky import SCALE, make_truth, write_plain

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # of LSDB
SHAPE = (150, 140)
QUICK = {"num_steps": 3, "uncertainty": False, "threads": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write two fields of five bands."""
    directory = tmp_path_factory.mktemp("sky")
    for number in range(2):
        rng = np.random.default_rng(15 + number)
        truth = make_truth(rng, 25, SHAPE, margin=4)
        write_plain(directory / f"field-{number}", truth, SHAPE, rng=rng)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    info = StoreInfo(bands=tuple("ugriz"), size=16, pixel_scale_arcsec=SCALE)
    config = ModelConfig(num_bands=5, size=16, latent_size=8, width=16, num_blocks=2)
    ones = (1.0,) * 5
    units = Normalisation(kind="asinh", mean=(0.0,) * 5, std=ones, softening=ones)
    Model.make(config, info, units).save(directory)
    return directory


@pytest.fixture(scope="module")
def through_a_store(images, model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    store = cutouts(images, directory / "cutouts", size=16, shard_size=10)
    return store, read_features(fit(store, model, directory / "features", **QUICK))


def test_the_same_bits_as_through_a_store(images, model, through_a_store, tmp_path):
    store, expected = through_a_store
    options = {**QUICK, "from_coadds": True, "catalogue": store / "catalogue.parquet"}
    out = fit(images, model, tmp_path / "f", cutting={"shard_size": 10}, **options)
    found = read_features(out)
    assert len(found["object_id"]) >= 45
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    tables = {p.with_suffix(".parquet").name for p in store.glob("shard*")}
    assert {p.name for p in out.iterdir()} == {
        "_features.json",
        "_made_from.json",
        "_coadds.json",
        "_manifest.jsonl",
    } | tables
    (out / "shard-00001.parquet").unlink()
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("shard*")}
    fit(images, model, out, cutting={"shard_size": 10}, **options)
    np.testing.assert_array_equal(read_features(out)["latent"], expected["latent"])
    assert {n: (out / n).stat().st_mtime_ns for n in times} == times
    with pytest.raises(InputError, match="cutting"):
        fit(images, model, out, cutting={"shard_size": 11}, **options)


@pytest.mark.slow
def test_without_a_catalogue_objects_are_detected(images, model, through_a_store, tmp_path):
    out = fit(images, model, tmp_path / "f", from_coadds=True, held_out_only=True, **QUICK)
    expected = through_a_store[1]["object_id"]
    found = read_features(out)["object_id"]
    np.testing.assert_array_equal(np.sort(found), np.sort(expected[is_held_out(expected)]))
    assert pq.read_metadata(out / "catalogue.parquet").num_rows == len(expected)


def test_a_damaged_field_stops_no_other(images, model, through_a_store, tmp_path):
    bad = tmp_path / "sky"
    bad.mkdir()
    for number in range(2):
        (bad / f"field-{number}").mkdir()
        for path in (images / f"field-{number}").iterdir():
            (bad / f"field-{number}" / path.name).write_bytes(path.read_bytes())
    path = bad / "field-1" / "coadd-r.fits"
    whole = path.read_bytes()
    options = {**QUICK, "from_coadds": True, "catalogue": through_a_store[0] / "catalogue.parquet"}
    path.write_bytes(whole[:20_000])
    with pytest.raises(ShardsFailedError, match=r"failed.*coadd-r\.fits"):
        fit(bad, model, tmp_path / "f", cutting={"shard_size": 10}, **options)
    states = [entry.state for entry in read_manifest(tmp_path / "f")]
    assert "done" in states
    assert "failed" in states
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "f").glob("shard*")}
    path.write_bytes(whole)
    fit(bad, model, tmp_path / "f", cutting={"shard_size": 10}, **options)
    found = read_features(tmp_path / "f")
    np.testing.assert_array_equal(found["latent"], through_a_store[1]["latent"])
    assert {n: (tmp_path / "f" / n).stat().st_mtime_ns for n in times} == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutting": {"zeropoint": 27}}, "did you mean 'zero_point'"),
        ({"cutting": {"shard_size": 0}}, "shard_size must be a whole number from 1"),
        ({"catalogue": "nowhere.parquet"}, "no such catalogue"),
    ],
)
def test_wrong_arguments_are_refused(images, model, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        fit(images, model, tmp_path / "f", from_coadds=True, **options)


@pytest.mark.slow
def test_a_function_for_partitions_of_a_catalogue(images, model, through_a_store):
    """The same latents over LSDB's partitions; objects on no image have nulls."""
    pd = pytest.importorskip("pandas")
    lsdb = pytest.importorskip("lsdb")
    from deepfits.stages.partitions import PartitionFit

    catalogue = pd.read_parquet(through_a_store[0] / "catalogue.parquet")[["object_id", "ra", "dec", "field"]]
    mine = catalogue[catalogue["field"] == "field-0"].drop(columns="field")
    lonely = pd.DataFrame({"object_id": [-5], "ra": [10.0], "dec": [70.0]})
    mine = pd.concat([mine, lonely], ignore_index=True)
    hats = lsdb.from_dataframe(mine, ra_column="ra", dec_column="dec", margin_threshold=None)
    assert len(hats.get_healpix_pixels()) > 1
    fit_partition = PartitionFit.prepare(images / "field-0", model, num_steps=3, uncertainty=False, threads=1)
    found = hats.map_partitions(fit_partition, meta=fit_partition.meta(hats)).compute()
    assert len(found) == len(mine)
    by_id = found.set_index("object_id")
    assert by_id["latent"].isna().sum() == 1
    assert pd.isna(by_id.loc[-5, "latent"])
    expected = through_a_store[1]
    for identity, latent in zip(expected["object_id"], expected["latent"], strict=True):
        if identity in by_id.index:
            np.testing.assert_array_equal(np.asarray(by_id.loc[identity, "latent"]), latent)
    with pytest.raises(InputError, match="no column 'ra'"):
        fit_partition(mine.drop(columns="ra"))
