"""Files that reach beyond themselves, and paths that are no files: refused, by name."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.errors import InputError
from deepfits.survey.find import find_fields
from deepfits.survey.readers import open_cutouts, read_description
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from tests.helpers.gaussian_sky import make_wcs

SHAPE = (40, 40)


def image(path, **cards):
    header = make_wcs(SHAPE).to_header()
    header.update({"MAGZERO": 27.0} | cards)
    fits.writeto(path, np.random.default_rng(0).normal(0, 1, SHAPE).astype("f4"), header)


def redirect(file, name, secret, how):
    """Let a data set of a file lie elsewhere."""
    shape, kind = file[name].shape, file[name].dtype
    del file[name]
    if how == "external storage":
        size = int(np.prod(shape)) * kind.itemsize
        file.create_dataset(name, shape, kind, external=[(str(secret), 0, size)])
    elif how == "external link":
        file[name] = h5py.ExternalLink(str(secret), "/image")
    elif how == "soft link to a link":
        file["hidden"] = h5py.ExternalLink(str(secret), "/image")
        file[name] = h5py.SoftLink("/hidden")
    else:
        layout = h5py.VirtualLayout(shape, kind)
        layout[...] = h5py.VirtualSource(str(secret), "image", shape)
        file.create_virtual_dataset(name, layout)


HOW = ["external storage", "external link", "soft link to a link", "virtual"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["image", "catalogue/mag"])
def test_a_store_shows_nothing_but_its_own_bytes(tmp_path, how, name):
    info = StoreInfo(bands=("g",), size=8, pixel_scale_arcsec=0.2)
    create_store(tmp_path, info)
    ones = np.ones((3, 1, 8, 8), np.float32)
    cutouts = Cutouts(object_id=np.arange(3), image=ones, weight=ones, catalogue={"mag": np.ones(3)})
    path = tmp_path / shard_name(0)
    write_shard(path, cutouts, info)
    assert CutoutStore(tmp_path).read_shard(0).catalogue["mag"].sum() == 3
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["image"] = np.ones((3, 1, 8, 8), np.float32) if name == "image" else np.ones(3)
    with h5py.File(path, "r+") as file:
        redirect(file, name, secret, how)
    with pytest.raises(InputError, match=r"shard-00000\.h5: .*only data of the file itself are read"):
        CutoutStore(tmp_path).read_shard(0)


ODD_COLUMNS = {
    "structure": np.zeros(3, [("a", "i4"), ("b", "f8")]),
    "complex": np.ones(3, np.complex128),
    "lists": h5py.vlen_dtype(np.int32),
    "references": h5py.ref_dtype,
    "bytes": h5py.opaque_dtype("M8[s]"),
    "half": np.ones(3, np.float16),
}


@pytest.mark.parametrize("kind", ODD_COLUMNS)
@pytest.mark.parametrize("name", ["mag", "object_id"])
def test_columns_of_a_store_are_numbers_or_text(tmp_path, kind, name):
    info = StoreInfo(bands=("g",), size=8, pixel_scale_arcsec=0.2)
    create_store(tmp_path, info)
    ones = np.ones((3, 1, 8, 8), np.float32)
    path = tmp_path / shard_name(0)
    write_shard(path, Cutouts(object_id=np.arange(3), image=ones, weight=ones), info)
    with h5py.File(path, "r+") as file:
        group, odd = file["catalogue"], ODD_COLUMNS[kind]
        if name in group:
            del group[name]
        if isinstance(odd, np.ndarray):
            group[name] = odd
        else:
            group.create_dataset(name, (3,), odd)
    if kind == "half" and name == "mag":
        assert CutoutStore(tmp_path).read_shard(0).catalogue["mag"].sum() == 3
        return
    with pytest.raises(InputError, match=rf"shard-00000\.h5: .*{name} holds"):
        CutoutStore(tmp_path).read_shard(0)


@pytest.mark.parametrize("how", HOW)
def test_arrays_of_others_show_nothing_but_their_own_bytes(tmp_path, how):
    noise = np.random.default_rng(0).normal(0, 1, (5, 2, 12, 12)).astype("f4")
    for name in ("cut", "secret"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image"] = noise
    text = 'file = "cut.h5"\nbands = ["g", "r"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2'
    (tmp_path / "c.toml").write_text(text)
    with open_cutouts(read_description(tmp_path / "c.toml")) as cutouts:
        assert cutouts.read(0, 5, 12)[0].std() > 10
    with h5py.File(tmp_path / "cut.h5", "r+") as file:
        redirect(file, "image", tmp_path / "secret.h5", how)
    with (
        pytest.raises(InputError, match=r"cut\.h5: .*only data of the file itself are read"),
        open_cutouts(read_description(tmp_path / "c.toml")),
    ):
        pass


def test_what_is_found_is_used_or_named(tmp_path):
    for band in "gr":
        image(tmp_path / f"coadd-{band}.fits", FILTER=band)
    assert find_fields(tmp_path)[0].bands == ("g", "r")
    os.symlink("/data/gone/coadd-i.fits", tmp_path / "coadd-i.fits")
    with pytest.raises(InputError, match=r"coadd-i\.fits: a link to /data/gone/coadd-i\.fits"):
        find_fields(tmp_path)
    (tmp_path / "coadd-i.fits").unlink()
    os.mkfifo(tmp_path / "coadd-i.fits")
    with pytest.raises(InputError, match=r"coadd-i\.fits: a FIFO, socket or device"):
        find_fields(tmp_path)
    (tmp_path / "coadd-i.fits").unlink()
    image(tmp_path / "coadd-i.weight.fits")
    with pytest.raises(InputError, match=r"coadd-i\.weight\.fits: holds weights .* is missing"):
        find_fields(tmp_path)
    with pytest.raises(InputError, match="a FIFO, socket or device"):
        find_fields("/dev/zero")


def test_a_catalogue_joins_cutouts_made_elsewhere(tmp_path, caplog):
    rng = np.random.default_rng(0)
    ids = np.array([30, 10, 20])
    np.savez(tmp_path / "c.npz", image=rng.normal(0, 1, (3, 1, 12, 12)).astype("f4"), object_id=ids)
    text = 'file = "c.npz"\nbands = ["r"]\nabsent_bands = ["g"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2'
    (tmp_path / "c.toml").write_text(text)
    rows = "object_id,ra,dec,z_spec\n10,1,1,0.1\n20,1,1,0.2\n30,1,1,0.3\n40,1,1,0.4\n"
    (tmp_path / "cat.csv").write_text(rows)
    deepfits.cutouts(tmp_path / "c.toml", tmp_path / "s", catalogue=tmp_path / "cat.csv", size=12)
    store = CutoutStore(tmp_path / "s")
    found = store.read_shard(0)
    assert store.info.bands == ("g", "r")
    np.testing.assert_allclose(found.catalogue["z_spec"], ids / 100)
    assert (found.weight[:, 0] == 0).all()
    assert (found.weight[:, 1] > 0).all()
    few = "object_id,ra,dec,z_spec,flag,name\n10,1,1,0.1,1,a\n30,1,1,0.3,9007199254740993,c\n"
    (tmp_path / "few.csv").write_text(few)
    deepfits.cutouts(tmp_path / "c.toml", tmp_path / "t", catalogue=tmp_path / "few.csv", size=12)
    assert "no row for 1 of 3 cutouts, among them object_id 20" in caplog.text
    found = CutoutStore(tmp_path / "t").read_shard(0).catalogue
    np.testing.assert_array_equal(found["z_spec"], [0.3, 0.1, np.nan])
    assert found["flag"].tolist() == ["9007199254740993", "1", ""]
    assert found["name"].tolist() == ["c", "a", ""]
    (tmp_path / "none.csv").write_text("object_id,ra,dec\n7,1,1\n")
    with pytest.raises(InputError, match=r"none\.csv: no row for any of the 3 cutouts: .* object_id 30"):
        deepfits.cutouts(tmp_path / "c.toml", tmp_path / "u", catalogue=tmp_path / "none.csv", size=12)


def test_a_catalogue_in_another_order_than_cutouts_made_elsewhere(tmp_path, caplog):
    image, ra = np.random.default_rng(0).normal(0, 1, (3, 1, 12, 12)).astype("f4"), np.array([1.0, 1.1, 1.2])
    text = 'file = "c.npz"\nbands = ["r"]\nzero_point = 27.0\npixel_scale_arcsec = 0.2\n'
    (tmp_path / "c.toml").write_text(text)
    (tmp_path / "cat.csv").write_text("ID,ra,dec,z_spec\n30,1.2,1,0.3\n20,1.1,1,0.2\n10,1.0,1,0.1\n")

    def made(out, **columns):
        np.savez(tmp_path / "c.npz", image=image, **columns)
        deepfits.cutouts(tmp_path / "c.toml", tmp_path / out, catalogue=tmp_path / "cat.csv", size=12)
        return CutoutStore(tmp_path / out).read_shard(0).catalogue["z_spec"].tolist()

    assert made("by-row", other=[1, 2, 3]) == [0.3, 0.2, 0.1]
    assert "differ" not in caplog.text
    made("said", targetid=[10, 20, 30])
    assert "row by row, though targetid of the cutouts and ID of the catalogue differ" in caplog.text
    with pytest.raises(
        InputError, match=r"cat\.csv: its objects are not at the positions of the cutouts \(ra and dec\)"
    ):
        made("refused", ra=ra, dec=np.ones(3))
    with pytest.raises(InputError, match="not at the positions of the cutouts"):
        made("other", object_id=[10, 20, 30], ra=ra + 5, dec=np.ones(3))
    assert made("joined", object_id=[10, 20, 30], ra=ra, dec=np.ones(3)) == [0.1, 0.2, 0.3]
