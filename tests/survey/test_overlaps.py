"""Patches that overlap: each object has one primary detection, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy.spatial import cKDTree

import deepfits
from deepfits.photometry import FLAG_MASKED
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.overlaps import primary_detections
from deepfits.survey.store import CutoutStore
from tests.helpers.gaussian_sky import make_truth, write_plain

SHAPE, STEP = (260, 300), 200


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Two patches with a hundred columns in common: the second one's origin lies at column 200."""
    root = tmp_path_factory.mktemp("patches")
    truth = make_truth(np.random.default_rng(1), 70, (SHAPE[0], SHAPE[1] + STEP), margin=14)
    for name, start in (("p1", 0), ("p2", STEP)):
        inside = (truth["x"] > start + 8) & (truth["x"] < start + SHAPE[1] - 8)
        mine = {k: v[inside] for k, v in truth.items()}
        mine["x"] = mine["x"] - start
        write_plain(root / name, mine, SHAPE, rng=np.random.default_rng(start), bands="gri", sigma=1.0)
        # The same sky: the reference point of the second patch lies `start` columns further left.
        for path in (root / name).iterdir():
            with fits.open(path, mode="update") as hdus:
                hdus[0].header["CRPIX1"] -= start
    return root, truth


def test_each_object_has_one_primary_detection(patches, tmp_path):
    root, truth = patches
    columns = read_catalogue(deepfits.detect(root, tmp_path / "c.parquet"))
    x = columns["x"] + np.where(columns["field"] == "p2", STEP, 0)
    primary = columns["is_primary"]
    common = (truth["x"] > STEP + 14) & (truth["x"] < SHAPE[1] - 14)
    assert common.sum() > 8
    every, single = (cKDTree(np.c_[x, columns["y"]][w]) for w in (np.ones(len(x), bool), primary))
    places = np.c_[truth["x"], truth["y"]]
    twice = every.query_ball_point(places[common], 2, return_length=True)
    assert (twice == 2).mean() > 0.9
    found = every.query_ball_point(places, 2, return_length=True) > 0
    np.testing.assert_array_equal(single.query_ball_point(places[found], 2, return_length=True), 1)
    # The detection farther from its edge: left of the middle of the common columns that is the first patch.
    middle = (STEP + SHAPE[1] - 1) / 2
    both = common & (every.query_ball_point(places, 2, return_length=True) == 2)
    inner = both & (np.abs(truth["x"] - middle) < np.minimum(truth["y"], SHAPE[0] - 1 - truth["y"]) - 55)
    assert inner.sum() >= 3
    for place in places[inner]:
        row = np.flatnonzero(primary)[single.query_ball_point(place, 2)[0]]
        assert columns["field"][row] == ("p1" if place[0] < middle else "p2")


def test_duplicates_are_said_of_a_catalogue_that_another_program_has_written_again(patches, tmp_path, caplog):
    """Its metadata are lost, so that its is_primary was neither used nor mentioned."""
    root, _ = patches
    deepfits.detect(root, tmp_path / "c.parquet")
    read_catalogue(tmp_path / "c.parquet")
    assert "not primary" not in caplog.text
    table = pd.read_parquet(tmp_path / "c.parquet")
    table.to_parquet(tmp_path / "mine.parquet")
    store = CutoutStore(deepfits.cutouts(root, tmp_path / "all", catalogue=tmp_path / "mine.parquet"))
    assert len(store) == len(table)
    number = (~table["is_primary"]).sum()
    assert f"{number} of {len(table)} objects are not primary by is_primary, so probably" in caplog.text
    assert "--where 'is_primary == true'" in caplog.text


def test_fields_whose_common_objects_differ_in_brightness_are_said(patches, tmp_path, caplog):
    """As by a zero point that one tile's header has for another exposure time."""
    root = shutil.copytree(patches[0], tmp_path / "sky")
    deepfits.detect(root, tmp_path / "right.parquet")
    assert "as bright" not in caplog.text
    for name in ("coadd-g.fits", "coadd-g.weight.fits"):
        with fits.open(root / "p2" / name, mode="update") as hdus:
            hdus[0].header["MAGZERO"] -= 2.5 * np.log10(1.5)
            hdus[0].data *= 1.5**2 if "weight" in name else 1  # as deep as before
    deepfits.detect(root, tmp_path / "wrong.parquet")
    (text,) = [record.getMessage() for record in caplog.records if "as bright" in record.getMessage()]
    assert re.match(
        r"WARNING: in g of field p2, \d+ objects are 1\.[45]\d times as bright as in p1; are", text
    )


def test_cutouts_take_primary_detections_unless_told_otherwise(patches, tmp_path):
    root, _ = patches
    store = CutoutStore(deepfits.cutouts(root, tmp_path / "one"))
    columns = read_catalogue(tmp_path / "one/catalogue.parquet")
    summary = json.loads((tmp_path / "one/summary.json").read_text())
    assert summary["num_duplicates_left_out"] == (~columns["is_primary"]).sum() > 5
    assert set(store.catalogue()["object_id"]) == set(columns["object_id"][columns["is_primary"]])
    both = deepfits.cutouts(
        root, tmp_path / "all", catalogue=tmp_path / "one/catalogue.parquet", keep_duplicates=True
    )
    assert set(CutoutStore(both).catalogue()["object_id"]) == set(columns["object_id"])


def test_the_choice_does_not_depend_on_order_and_needs_no_sky():
    rng = np.random.default_rng(3)
    ra, dec = 150 + rng.uniform(0, 0.01, 40), 2 + rng.uniform(0, 0.01, 40)
    names = np.repeat(["a", "b", "c"], 40)
    columns = {
        "field": names,
        "ra": np.tile(ra, 3),
        "dec": np.tile(dec, 3),
        "x": rng.uniform(0, 99, 120),
        "y": rng.uniform(0, 99, 120),
        "kron_radius": np.full(120, 8.0),
        "flags": np.zeros(120, np.int32),
    }
    infos = {n: {"shape": [100, 100], "pixel_scale_arcsec": 0.05} for n in "abc"}
    first = primary_detections(columns, infos)
    np.testing.assert_array_equal(first.reshape(3, 40).sum(axis=0), 1)
    order = rng.permutation(120)
    second = primary_detections({k: v[order] for k, v in columns.items()}, dict(reversed(infos.items())))
    np.testing.assert_array_equal(first[order], second)
    without = primary_detections(columns | {"ra": np.full(120, np.nan)}, infos)
    assert without.all()


def test_what_the_edge_of_a_field_left_of_an_object_is_no_object(tmp_path):
    """Its centre is too far from that of the whole object, in another field, to be the same detection."""
    shape, edge = (200, 200), 100
    truth = {"x": np.array([edge - 0.5, 60.0]), "y": np.array([100.0, 60.0]), "fwhm": np.array([8.0, 4.0])}
    for name, start in (("p1", 0), ("p2", edge)):
        mine = truth | {"x": truth["x"] - start} | {f"flux_{band}": np.full(2, 3e4) for band in "gri"}
        write_plain(tmp_path / name, mine, shape, rng=np.random.default_rng(start), bands="gri", sigma=1.0)
        for path in (tmp_path / name).iterdir():
            with fits.open(path, mode="update") as hdus:
                hdus[0].header["CRPIX1"] -= start
    columns = read_catalogue(deepfits.detect(tmp_path, tmp_path / "c.parquet", min_snr=20))
    assert (columns["field"] == "p2").sum() == 1
    assert set(columns["field"][columns["is_primary"]]) == {"p1"}
    assert columns["is_primary"].sum() == 2


def test_a_masked_neighbour_of_a_bright_galaxy_in_both_fields_is_kept_once():
    """It is no piece of the galaxy, whose ellipse it lies in: the other field shows it at the same place."""
    columns = {
        "field": np.repeat(["a", "b"], 2),
        "ra": np.tile([10.0, 10.0 + 3 / 3600], 2),
        "dec": np.zeros(4),
        "x": np.array([40.0, 55.0, 45.0, 60.0]),
        "y": np.full(4, 50.0),
        "kron_radius": np.tile([25.0, 5.0], 2),
        "flags": np.tile([0, FLAG_MASKED], 2),
    }
    infos = {n: {"shape": [100, 100], "pixel_scale_arcsec": 0.2} for n in "ab"}
    is_primary = primary_detections(columns, infos)
    assert is_primary.reshape(2, 2).sum(axis=0).tolist() == [1, 1]


def test_what_lies_where_a_field_has_no_data_is_taken_from_one_that_shows_it(patches, tmp_path):
    """Tiles are seldom full: the corners of turned ones are empty, and lay farther from the edges."""
    root, truth = patches
    for source in root.rglob("*.fits"):
        path = tmp_path / "sky" / source.relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with fits.open(source) as hdus:
            if path.parent.name == "p1":
                hdus[0].data[:, 230:] = np.nan
            hdus.writeto(path)
    common = (truth["x"] > STEP + 8) & (truth["x"] < SHAPE[1] - 8)
    with fits.open(root / "p1/coadd-g.fits") as hdus:
        ra, dec = WCS(hdus[0].header).pixel_to_world_values(truth["x"][common], truth["y"][common])
    Table({"ra": ra, "dec": dec, "object_id": np.flatnonzero(common)}).write(tmp_path / "c.csv")
    store = CutoutStore(
        deepfits.cutouts(tmp_path / "sky", tmp_path / "a", catalogue=tmp_path / "c.csv", size=17)
    )
    columns = store.catalogue()
    assert len(store) == common.sum() > 8
    x = truth["x"][columns["object_id"]]
    hidden = x > 230 - 8
    assert hidden.sum() > 5
    assert set(columns["field"][hidden]) == {"p2"}
    whole = np.minimum(truth["y"], SHAPE[0] - truth["y"])[columns["object_id"]] > 9
    assert (columns["fraction_valid_g"][hidden & (x > STEP + 9) & whole] == 1).all()
    columns = read_catalogue(deepfits.detect(tmp_path / "sky", tmp_path / "b.parquet"))
    x = columns["x"] + np.where(columns["field"] == "p2", STEP, 0)
    cut_off = (x > 222) & (x < 227)
    assert cut_off.sum() == 2
    assert (columns["is_primary"][cut_off] == (columns["field"][cut_off] == "p2")).all()
