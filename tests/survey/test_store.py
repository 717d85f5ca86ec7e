"""The cutout store: what goes in comes out, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.gaussian_psf import moffat_psf
from deepfits.survey.store import (
    Cutouts,
    CutoutStore,
    StoreInfo,
    create_store,
    read_shard,
    shard_catalogue,
    shard_identities,
    shard_name,
    write_shard,
)

INFO = StoreInfo(
    bands=("u", "g"), size=8, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.9, float("nan")), survey="mine"
)


def make(number, *, first=0, seed=0, text_ids=False):
    rng = np.random.default_rng(seed)
    shape = (number, 2, 8, 8)
    weight = rng.uniform(0.5, 2, shape).astype(np.float32)
    weight[rng.random(shape) < 0.1] = 0
    ids = np.arange(first, first + number)
    return Cutouts(
        object_id=np.array([f"object {i}" for i in ids]) if text_ids else ids,
        image=np.where(weight > 0, rng.normal(size=shape), 0).astype(np.float32),
        weight=weight,
        catalogue={"ra": rng.random(number), "name": np.array([f"n{i}" for i in ids]), "good": ids % 2 == 0},
    )


@pytest.fixture
def store(tmp_path):
    create_store(tmp_path, INFO)
    for number, length in enumerate((5, 3, 4)):
        write_shard(tmp_path / shard_name(number), make(length, first=10 * number, seed=number), INFO)
    return CutoutStore(tmp_path)


def test_neighbours_are_kept_beside_the_weights(tmp_path):
    """In reading, selecting and taking; shards of schema 1 have none, and are still read."""
    create_store(tmp_path, INFO)
    others = np.random.default_rng(3).random((5, 8, 8)) < 0.3
    made = replace(make(5), is_neighbour=others)
    write_shard(tmp_path / shard_name(0), made, INFO)
    store = CutoutStore(tmp_path)
    there = store.read_shard(0)
    np.testing.assert_array_equal(there.is_neighbour, others)
    np.testing.assert_array_equal(there.weight, made.weight)
    np.testing.assert_array_equal(store.take(np.array([3, 1])).is_neighbour, others[[3, 1]])
    with pytest.raises(InputError, match="is_neighbour has shape"):
        write_shard(tmp_path / shard_name(1), replace(made, is_neighbour=others[:, :4]), INFO)
    content = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(content | {"schema_version": 1}))
    write_shard(tmp_path / shard_name(1), make(3, first=10), INFO)
    old = CutoutStore(tmp_path)
    assert old.read_shard(1).is_neighbour is None
    assert old.take(np.array([0, 6])).is_neighbour is None
    assert len(old) == 8


def test_round_trip(store):
    assert len(store) == 12
    assert store.shape == (2, 8, 8)
    for number, length in enumerate((5, 3, 4)):
        there, made = store.read_shard(number), make(length, first=10 * number, seed=number)
        np.testing.assert_array_equal(there.object_id, made.object_id)
        np.testing.assert_array_equal(there.image, made.image)
        np.testing.assert_array_equal(there.weight, made.weight)
        for name, column in made.catalogue.items():
            np.testing.assert_array_equal(there.catalogue[name], column)
            assert there.catalogue[name].dtype.kind == column.dtype.kind


def test_description_round_trip(store):
    assert store.info.bands == INFO.bands
    assert store.info.fwhm_arcsec[0] == 0.9
    assert np.isnan(store.info.fwhm_arcsec[1])
    assert store.info.noise_correlation == (1.0, 1.0)
    assert "NaN" not in (store.directory / "store.json").read_text()


def test_text_identities(tmp_path):
    create_store(tmp_path, INFO)
    write_shard(tmp_path / shard_name(0), make(3, text_ids=True), INFO)
    assert CutoutStore(tmp_path).read_shard(0).object_id.tolist() == ["object 0", "object 1", "object 2"]


def test_taking_over_shards_in_any_order(store):
    whole = [shard for shard in store]
    everything = np.concatenate([shard.image for shard in whole])
    which = np.array([11, 0, 7, 7, 5, 4])
    taken = store.take(which)
    np.testing.assert_array_equal(taken.image, everything[which])
    np.testing.assert_array_equal(taken.object_id, store.catalogue()["object_id"][which])
    assert len(store.take(np.empty(0, int))) == 0
    with pytest.raises(InputError, match="row 12 is outside the 12 objects"):
        store.take(np.array([12]))


def test_rows_may_be_a_mask_and_nothing_is_rounded(store):
    """A mask was taken as the rows 0 and 1, over and over."""
    bright = np.arange(12) % 5 == 2
    np.testing.assert_array_equal(store.take(bright).object_id, store.catalogue()["object_id"][[2, 7]])
    assert store.take(3).object_id.tolist() == [3]
    for rows in (np.array([1.5]), bright[:5], np.zeros((2, 2), int)):
        with pytest.raises(InputError, match="rows must be whole numbers, or a mask of 12"):
            store.take(rows)
    with pytest.raises(InputError, match="no shard 9; there are 3"):
        store.read_shard(9)
    assert list(store.catalogue("ra")) == ["object_id", "ra"]
    with pytest.raises(InputError, match="no column 'raa'; did you mean 'ra'"):
        store.catalogue(["raa"])


def test_stores_and_cutouts_are_shown_in_a_line(store):
    assert f"{store.directory}: 12 objects in " in repr(store)
    assert repr(store.read_shard(0)).startswith("<Cutouts: (5, 2, ")


def test_parts_of_a_shard(store):
    path = store.shards[0]
    np.testing.assert_array_equal(
        read_shard(path, INFO, rows=np.array([1, 3])).image, store.read_shard(0).image[[1, 3]]
    )
    assert list(store.read_shard(0, columns=["ra"]).catalogue) == ["ra"]
    assert list(shard_catalogue(path, [])) == ["object_id"]
    assert shard_identities(path, INFO).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="no column 'mass'"):
        store.catalogue(["mass"])


def test_weights_that_hardly_vary_are_packed(tmp_path):
    cutouts = make(64)
    constant = replace(cutouts, weight=np.where(cutouts.weight > 0, np.float32(0.25), np.float32(0)))
    sizes = []
    for name, one in (("a", cutouts), ("b", replace(constant, weight=np.full_like(constant.weight, 0.25)))):
        write_shard(tmp_path / name, one, INFO)
        sizes.append((tmp_path / name).stat().st_size)
        np.testing.assert_array_equal(read_shard(tmp_path / name, INFO).weight, one.weight)
    assert sizes[1] < 0.75 * sizes[0]


def test_image_is_zero_where_there_is_no_data(tmp_path):
    cutouts = make(4)
    image = np.where(cutouts.weight > 0, cutouts.image, np.nan)
    write_shard(tmp_path / "s.h5", replace(cutouts, image=image), INFO)
    assert not read_shard(tmp_path / "s.h5", INFO).image[cutouts.weight == 0].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: replace(c, image=c.image[:, :1]), "image has shape"),
        (lambda c: replace(c, weight=-c.weight), "a weight is negative or not finite"),
        (
            lambda c: replace(c, image=np.full_like(c.image, np.nan)),
            "pixel with positive weight is not finite",
        ),
        (lambda c: replace(c, object_id=np.zeros(4, int)), "object_id 0 occurs 4 times"),
        (lambda c: replace(c, object_id=np.arange(4) / 2), "object_id holds float64; whole numbers or text"),
        (lambda c: replace(c, catalogue={"ra": np.zeros(3)}), "column 'ra' has shape"),
    ],
)
def test_what_is_not_written(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        write_shard(tmp_path / "s.h5", change(make(4)), INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_in_place_of_its_store(tmp_path):
    create_store(tmp_path / "cutouts", INFO)
    with pytest.raises(InputError, match=f"give {tmp_path}/cutouts$"):
        CutoutStore(tmp_path)


def test_no_store_no_shards_other_bands(tmp_path, store):
    with pytest.raises(InputError, match=r"no store\.json, so this is not a cutout store"):
        CutoutStore(tmp_path / "nothing")
    with pytest.raises(InputError, match="is there already"):
        create_store(store.directory, replace(INFO, bands=("u", "r")))
    create_store(tmp_path / "empty", INFO)
    with pytest.raises(InputError, match="holds no shard"):
        CutoutStore(tmp_path / "empty")


def test_damaged_shards_are_named_or_collected(store):
    path = store.shards[1]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"shard-00001\.h5"):
        CutoutStore(store.directory)
    rest = CutoutStore(store.directory, skip_bad=True)
    assert len(rest) == 9
    assert list(rest.bad) == [path]


def test_a_shard_of_another_store_is_refused(store):
    with h5py.File(store.shards[0], "a") as file:
        del file["weight"]
        file["weight"] = np.ones((5, 2, 9, 9), np.float32)
    with pytest.raises(InputError, match=r"weight has shape \(5, 2, 9, 9\), by the store's description"):
        CutoutStore(store.directory)


def test_a_shard_that_declares_far_more_than_it_holds(store):
    with h5py.File(store.shards[0], "w") as file:
        file.create_dataset("image", (10**7, 2, 8, 8), "f4", chunks=(1, 2, 8, 8))
        file.create_dataset("weight", (10**7, 2, 8, 8), "f4", chunks=(1, 2, 8, 8))
        file.create_dataset("catalogue/object_id", (10**7,), "i8", chunks=(1000,))
    with pytest.raises(InputError, match="declares 80000000 bytes in a file of"):
        CutoutStore(store.directory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "store schema 99"),
        ({"bands": []}, "a store needs 1 to"),
        ({"bands": ["u", "u"]}, "different bands"),
        ({"size": "large"}, r"store.json: size must be a whole number .*, not 'large'"),
        ({"size": 2}, "size must be a whole number from 4"),
        ({"bands": "ur"}, "bands must be a list of strings"),
        ({"bands": ["u", "../r"]}, "'../r' is not a name for a band"),
        ({"bands": ["u", "<b>\n"]}, "is not a name for a band"),
        ({"pixel_scale_arcsec": 0}, "pixel_scale_arcsec must be a finite number from 1e-06"),
        ({"pixel_scale_arcsec": True}, "pixel_scale_arcsec must be a finite number"),
        ({"noise_correlation": [1e300, 1]}, r"noise_correlation\[0\] must be a finite number"),
        ({"fwhm_arcsec": "wide"}, "fwhm_arcsec must be a list of numbers"),
        ({"fwhm_arcsec": [1.0]}, "fwhm_arcsec has 1 values for 2 bands"),
    ],
)
def test_descriptions_that_cannot_be(store, change, words):
    path = store.directory / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        CutoutStore(store.directory)


def test_a_store_is_read_in_the_bands_of_a_model(tmp_path):
    rng = np.random.default_rng(5)
    info = StoreInfo(
        bands=("ustar", "r", "g", "y"), size=8, pixel_scale_arcsec=0.2, noise_correlation=(1, 2, 3, 4)
    )
    image = rng.normal(size=(6, 4, 8, 8)).astype("f4")
    psf = np.array([[moffat_psf(w) for w in (0.6, 0.7, 0.8, 0.9)]] * 6)
    cutouts = Cutouts(
        object_id=np.arange(6),
        image=image,
        weight=np.ones_like(image),
        psf=psf,
        catalogue={"m": np.arange(6)},
    )
    create_store(tmp_path, info)
    write_shard(tmp_path / "shard-00000.h5", cutouts, info)
    for where in (None, "m != 2"):
        store = CutoutStore(tmp_path, where=where).in_bands("ugriz")
        assert store.info.bands == ("ustar", "g", "r", "i", "z")
        assert store.info.noise_correlation == (1, 3, 2, 1, 1)
        rows = np.delete(np.arange(6), [] if where is None else [2])
        for found, at in ((store.read_shard(0), rows), (store.take(np.array([4, 0])), rows[[4, 0]])):
            assert np.array_equal(found.image[:, :3], image[at][:, [0, 2, 1]])
            assert np.array_equal(found.psf[:, :3], psf[at][:, [0, 2, 1]])
            assert not found.weight[:, 3:].any()
            assert np.isnan(found.psf[:, 3:]).all()
    same = CutoutStore(tmp_path).in_bands(info.bands)
    assert np.array_equal(same.read_shard(0).image, image)
