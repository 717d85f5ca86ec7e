"""Fitting straight from images: the same bits as through a store, without one, and resumable."""

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import gaussian_filter

from deepfits.errors import InputError, ShardsFailedError
from deepfits.fitting.features import read_features
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.progress import silent
from deepfits.scale.manifest import read_manifest
from deepfits.splits import is_held_out
from deepfits.stages.cutouts import cutouts
from deepfits.stages.fit import fit
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import CutoutStore, StoreInfo
from tests.helpers.gaussian_sky import SCALE, make_truth, write_plain

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # of LSDB
SHAPE = (150, 140)
QUICK = {"num_steps": 3, "uncertainty": False, "threads": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write two fields of five bands.

    The correlation of the noise is stated, since that of a set of fields is measured once, on the first ones.
    """
    directory = tmp_path_factory.mktemp("sky")
    for number in range(2):
        rng = np.random.default_rng(15 + number)
        truth = make_truth(rng, 25, SHAPE, margin=4)
        write_plain(directory / f"field-{number}", truth, SHAPE, rng=rng)
        for path in (directory / f"field-{number}").glob("coadd-?.fits"):
            fits.setval(path, "NOISCORR", value=1.0)
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


def test_images_may_be_several_as_those_of_cutouts(images, model, through_a_store, tmp_path):
    store, expected = through_a_store
    options = {**QUICK, "from_coadds": True, "catalogue": store / "catalogue.parquet"}
    files = [f"{band}={images}/field-0/coadd-{band}.fits" for band in "ugriz"]
    for name, given in (("list", files), ("pattern", f"{images}/*-0/coadd-?.fits")):
        out = fit(given, model, tmp_path / name, where="field == field-0", **options)
        found = read_features(out)
        assert 20 <= len(found["object_id"]) < len(expected["object_id"])
        at = np.searchsorted(
            expected["object_id"], found["object_id"], sorter=np.argsort(expected["object_id"])
        )
        rows = np.argsort(expected["object_id"])[at]
        np.testing.assert_array_equal(found["latent"], expected["latent"][rows])
    with pytest.raises(InputError, match="give one store"):
        fit([store, store], model, tmp_path / "f")


@pytest.mark.slow
def test_without_a_catalogue_objects_are_detected(images, model, through_a_store, tmp_path):
    out = fit(images, model, tmp_path / "f", from_coadds=True, held_out_only=True, **QUICK)
    expected = through_a_store[1]["object_id"]
    found = read_features(out)["object_id"]
    np.testing.assert_array_equal(np.sort(found), np.sort(expected[is_held_out(expected)]))
    assert pq.read_metadata(out / "catalogue.parquet").num_rows == len(expected)


def test_psfs_too_sharp_for_the_scenes_are_refused_before_any_object_is_cut(images, model, tmp_path):
    of_images = Model.load(model)
    parts = of_images.config, of_images.info, of_images.normalisation
    scenes = Model.make(*parts, reference_fwhm_arcsec=5.0).save(tmp_path / "scenes")
    with pytest.raises(InputError, match=r"band [ugriz]: a PSF of .* is too sharp.*; smooth the images"):
        fit(images, scenes, tmp_path / "f", from_coadds=True, **QUICK)
    assert not list((tmp_path / "f").glob("shard*"))


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


def test_objects_that_come_later_are_as_if_they_had_been_there(images, model, through_a_store, tmp_path):
    """What a field's PSF and filters are is known of each field, whenever the first object on it comes."""
    store, expected = through_a_store
    options = {**QUICK, "from_coadds": True, "cutting": {"shard_size": 10}}
    few = tmp_path / "few.parquet"
    whole = pq.read_table(store / "catalogue.parquet")
    pq.write_table(whole.filter(pc.equal(whole["field"], "field-0")), few)
    fit(images, model, tmp_path / "f", catalogue=few, **options)
    fit(images, model, tmp_path / "f", catalogue=store / "catalogue.parquet", **options)
    found = read_features(tmp_path / "f")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_images_that_change_are_described_anew(images, model, through_a_store, tmp_path, monkeypatch):
    monkeypatch.setattr("deepfits.files.NAMED_FILES", 3)  # as in a survey of a thousand files
    sky = shutil.copytree(images, tmp_path / "sky")
    store, expected = through_a_store
    options = {**QUICK, "from_coadds": True, "catalogue": store / "catalogue.parquet"}
    options["cutting"] = {"shard_size": 10}
    out = fit(sky, model, tmp_path / "f", **options)
    before = read_features(out)
    for name, values in expected.items():
        np.testing.assert_array_equal(before[name], values, err_msg=name)
    for path in (sky / "field-1").glob("coadd-?.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus[0].data = gaussian_filter(hdus[0].data, 2.0)  # of 3.5 pixels, now 5.9
    fit(sky, model, out, **options)
    widths = [json.loads((out / "_coadds.json").read_text())["fields"][f"field-{n}"] for n in (0, 1)]
    narrow, wide = ([its["psf"][band]["fwhm_arcsec"] for band in "ugriz"] for its in widths)
    np.testing.assert_allclose(narrow, 3.5 * SCALE, rtol=0.1)
    np.testing.assert_allclose(wide, 5.9 * SCALE, rtol=0.1)
    anew = read_features(fit(sky, model, tmp_path / "g", **options))
    after = read_features(out)
    for name, values in anew.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    assert (after["flux_gauss_i"] != before["flux_gauss_i"]).mean() > 0.3


def test_doubles_of_overlapping_fields_are_fitted_once(images, model, tmp_path):
    sky = tmp_path / "sky"
    for number in range(2):
        shutil.copytree(images / "field-0", sky / f"field-{number}")
    store = CutoutStore(cutouts(sky, tmp_path / "store", size=16))
    found = read_features(fit(sky, model, tmp_path / "f", from_coadds=True, **QUICK))
    np.testing.assert_array_equal(np.sort(found["object_id"]), np.sort(store.catalogue()["object_id"]))
    assert len(found["object_id"]) == pq.read_metadata(tmp_path / "f/catalogue.parquet").num_rows / 2 > 20
    options = {"from_coadds": True, "cutting": {"keep_duplicates": True}, **QUICK}
    both = read_features(fit(sky, model, tmp_path / "g", **options))
    assert len(both["object_id"]) == 2 * len(found["object_id"])


def test_objects_on_no_image_are_counted_and_bands_go_by_their_passband(
    images, model, through_a_store, tmp_path, caplog
):
    sky = shutil.copytree(images / "field-0", tmp_path / "sky")
    for path in sky.glob("coadd-u*"):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["FILTER"] = "u*"
        path.rename(sky / path.name.replace("-u", "-ustar"))
    rows = read_catalogue(through_a_store[0] / "catalogue.parquet")
    is_mine = rows["field"] == "field-0"
    ra, dec = np.append(rows["ra"][is_mine], [10.0, 11.0]), np.append(rows["dec"][is_mine], [-60.0, 70.0])
    path = tmp_path / "c.parquet"
    options = {**QUICK, "from_coadds": True, "catalogue": path}
    pq.write_table(pa.table({"object_id": np.arange(len(ra)), "ra": ra, "dec": dec}), path)
    found = read_features(fit(sky, model, tmp_path / "f", **options))
    assert len(found["object_id"]) == is_mine.sum()
    assert f"2 of {len(ra)} objects lie on no image" in caplog.text
    assert np.isfinite(found["flux_gauss_ustar"]).all()
    Table.read(path).write(tmp_path / "c.fits")
    again = fit(sky, model, tmp_path / "of-fits", **options | {"catalogue": tmp_path / "c.fits[1]"})
    np.testing.assert_array_equal(read_features(again)["latent"], found["latent"])
    pq.write_table(pa.table({"object_id": np.arange(len(ra)), "ra": ra / 15, "dec": dec}), path)
    with pytest.raises(InputError, match=r"no object lies on any of the images.*look like hours"):
        fit(sky, model, tmp_path / "g", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutting": {"zeropoint": 27}}, "did you mean 'zero_point'"),
        ({"cutting": {"shard_size": 0}}, "shard_size must be a whole number from 1"),
        ({"catalogue": "nowhere.parquet"}, "no such catalogue"),
        (
            {"catalogue": "c.parquet", "cutting": {"min_snr": 5.0}},
            "min_snr=5.0 has no effect with a catalogue",
        ),
        (
            {"catalogue": "c.parquet", "from_coadds": False},
            "has no effect without from_coadds; set that",
        ),
        (
            {"cutting": {"size": 40, "where": "snr > 5"}},
            "cutting: size, where: bands and size are the model's",
        ),
        (
            {"cutting": {"zero_point": 27.0}, "from_coadds": False},
            "has no effect without from_coadds; set that",
        ),
    ],
)
def test_wrong_arguments_are_refused(images, model, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        fit(images, model, tmp_path / "f", **{"from_coadds": True, **options})


def test_results_are_no_images(model, through_a_store, tmp_path):
    with pytest.raises(InputError, match="the results of `deepfits cutouts`, not images"):
        fit(through_a_store[0], model, tmp_path / "f", from_coadds=True)


def _write_again(path):
    """Leave a file as long as before, but written later."""
    os.utime(path, (0, path.stat().st_mtime + 10))


def test_images_that_change_during_the_fit_are_refused(images, model, through_a_store, tmp_path):
    """What was planned for one version of a field is not cut from another (it was, without a word)."""
    sky = shutil.copytree(images, tmp_path / "sky")

    @contextmanager
    def progress(title, **about):
        _write_again(sky / "field-1" / "coadd-r.fits")
        with silent(title, **about) as task:
            yield task

    catalogue, out = through_a_store[0] / "catalogue.parquet", tmp_path / "f"
    options = {**QUICK, "from_coadds": True, "catalogue": catalogue, "cutting": {"shard_size": 10}}
    with pytest.raises(ShardsFailedError, match=r"field-1/coadd-r.fits: changed since the work on it began"):
        fit(sky, model, out, progress=progress, **options)
    states = {entry.state for entry in read_manifest(out)}
    assert states == {"done", "failed"}, "the other field is done"
    fit(sky, model, out, **options)
    np.testing.assert_array_equal(read_features(out)["latent"], through_a_store[1]["latent"])


def test_images_that_change_after_a_fit_was_prepared_are_refused(images, model, through_a_store, tmp_path):
    pd = pytest.importorskip("pandas")
    from deepfits.stages.partitions import PartitionFit

    sky = shutil.copytree(images, tmp_path / "sky")
    columns = read_catalogue(through_a_store[0] / "catalogue.parquet")
    mine = pd.DataFrame({name: columns[name][:3] for name in ("object_id", "ra", "dec")})
    fit_partition = PartitionFit.prepare(sky, model, mode="embedder", threads=1)
    assert fit_partition(mine)["latent"].notna().all()
    for path in sky.glob("*/coadd-r.fits"):
        _write_again(path)
    with pytest.raises(InputError, match=r"coadd-r.fits: changed since the work on it began; start again"):
        fit_partition(mine)


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


@pytest.mark.parametrize("field", ["field-0", "field-1"])
def test_partitions_on_images_that_name_their_filters(images, model, tmp_path, field):
    """The columns are those of `meta`, whichever fields a partition lies on (they did not agree)."""
    pd = pytest.importorskip("pandas")
    from deepfits.stages.partitions import PartitionFit

    sky = shutil.copytree(images, tmp_path / "sky")
    with fits.open(sky / field / "coadd-g.fits", mode="update") as file:
        file[0].header["WAVELEN"] = 4800.0
    columns = read_catalogue(cutouts(sky, tmp_path / "store") / "catalogue.parquet")
    mine = pd.DataFrame({name: columns[name] for name in ("object_id", "ra", "dec")})
    with pytest.raises(InputError, match=r"unknown key 'num_step'; did you mean 'num_steps'"):
        PartitionFit.prepare(sky, model, num_step=3)
    with pytest.raises(InputError, match=r"unknown argument 'zeropoint'; did you mean 'zero_point'"):
        PartitionFit.prepare(sky, model, reading={"zeropoint": 27.0})
    fit_partition = PartitionFit.prepare(sky, model, mode="embedder", threads=1)
    found, meta = fit_partition(mine), fit_partition.meta(mine)
    assert list(found.columns) == list(meta.columns)
    assert dict(found.dtypes) == dict(meta.dtypes)
    is_known = found["filter_wavelength_g"].eq(4800.0).fillna(False)
    assert is_known.all() if field == "field-0" else not is_known.any()  # both are at one place: the first
    assert found["latent"].notna().all()
