"""Cutouts: the right pixels, the right weights, whole shards, and nothing dropped."""

from __future__ import annotations

import bz2
import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.nddata.utils import NoOverlapError
from astropy.table import QTable

import deepfits
from deepfits import tables
from deepfits.errors import InputError
from deepfits.fitting.features import write_shard as write_features
from deepfits.gaussian_psf import fwhm_of
from deepfits.progress import silent
from deepfits.results import require_finished
from deepfits.scale.manifest import read_manifest
from deepfits.stages.detect import Detection
from deepfits.survey import cutting
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.cutting import compiled_copy, copy_windows, cut
from deepfits.survey.store import CutoutStore, shard_catalogue
from deepfits.tables import read_table, write_table
from tests.helpers.gaussian_sky import SCALE, ZERO_POINTS, draw, make_truth, make_wcs, write_plain
from tests.helpers.psfex import write_psfex
from tests.helpers.results import assert_same_results

SHAPE = (320, 360)


@pytest.fixture(scope="module")
def truth():
    return make_truth(np.random.default_rng(15), 50, SHAPE, margin=4)


@pytest.fixture(scope="module")
def sky(tmp_path_factory, truth):
    return write_plain(tmp_path_factory.mktemp("sky"), truth, SHAPE, rng=np.random.default_rng(16))


@pytest.fixture(scope="module")
def store(sky, tmp_path_factory):
    return CutoutStore(deepfits.cutouts(sky, tmp_path_factory.mktemp("out") / "store", shard_size=20))


class Array:
    """A plane in memory, which counts the rows that are read of it."""

    def __init__(self, image, weight):
        self.image, self.weight, self.shape = image, weight, image.shape
        self.num_rows = 0

    def rows(self, start, stop):
        self.num_rows += stop - start
        return self.image[start:stop], self.weight[start:stop]


@pytest.mark.parametrize("size", [8, 9, 32])
@pytest.mark.parametrize("max_rows", [40, 1024])
def test_same_pixels_as_cutout2d(size, max_rows):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(120, 90)).astype(np.float32)
    plane = Array(image, np.ones_like(image))
    x, y = rng.uniform(-3, 93, 200), rng.uniform(-3, 123, 200)
    x[:4], y[:4] = [10, 10.5, 11.49999, 0], [20, 20.5, 119, 0]
    stamps, weights = cut(plane, x, y, size, max_rows=max_rows)
    for index in range(len(x)):
        expected = Cutout2D(image, (x[index], y[index]), size, mode="partial", fill_value=0).data
        np.testing.assert_array_equal(stamps[index], expected)
        inside = Cutout2D(plane.weight, (x[index], y[index]), size, mode="partial", fill_value=0).data
        np.testing.assert_array_equal(weights[index], inside)


def test_objects_far_outside_are_empty():
    plane = Array(np.ones((50, 50), np.float32), np.ones((50, 50), np.float32))
    stamps, weights = cut(plane, np.array([500.0, -90.0, 25.0]), np.array([25.0, 25.0, -400.0]), 16)
    assert not stamps.any()
    assert not weights.any()
    with pytest.raises(NoOverlapError):  # where we give zeros, Cutout2D refuses
        Cutout2D(plane.image, (500.0, 25.0), 16, mode="partial")


def test_rows_are_read_about_once():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(2000, 60)).astype(np.float32)
    plane = Array(image, np.ones_like(image))
    y = np.sort(rng.uniform(0, 1999, 3000))
    cut(plane, rng.uniform(0, 59, 3000), y, 32, max_rows=512)
    assert plane.num_rows < 1.15 * 2000


def test_windows_at_the_rim_by_hand():
    strip = np.arange(400.0).reshape(20, 20) + 1
    out, weight = np.zeros((3, 4, 4)), np.zeros((3, 4, 4))
    places = np.array([-2, 5]), np.array([3, 18])
    copy_windows((out, weight), np.array([2, 0]), (strip, 2 * strip), *places)
    np.testing.assert_array_equal(weight, 2 * out)
    np.testing.assert_array_equal(out[2][:, 2:], strip[3:7, :2])
    np.testing.assert_array_equal(out[0][:2], strip[18:, 5:9])
    assert not out[0][2:].any()
    assert not out[1].any()


@pytest.mark.skipif(compiled_copy() is None, reason="the compiled copy is not there")
@pytest.mark.parametrize(("shape", "size"), [((70, 90), 32), ((70, 90), 9), ((20, 90), 32), ((20, 11), 32)])
def test_compiled_copy_is_that_of_slices(shape, size, monkeypatch):
    rng = np.random.default_rng(3)
    strips = rng.normal(size=(2, *shape)).astype(np.float32)
    left, bottom = (rng.integers(-size - 3, length + 4, 300) for length in shape[::-1])
    which = rng.permutation(400)[:300]

    def copied():
        out = np.zeros((2, 400, 3, size, size), np.float32)  # of the second of three bands
        copy_windows((out[0, :, 1], out[1, :, 1]), which, tuple(strips), left, bottom)
        return out

    compiled = copied()
    monkeypatch.setattr(cutting, "compiled_copy", lambda: None)
    np.testing.assert_array_equal(compiled, copied())
    assert compiled[:, :, 1].any()


def test_what_the_compiled_copy_does_not_take_is_cut_by_slices(monkeypatch):
    image = np.random.default_rng(4).normal(size=(60, 50)).astype(np.float32)
    plain = cut(Array(image, image), np.array([20.0]), np.array([25.0]), 16)[0]
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    columns = np.asfortranarray(image)
    double = image.astype(np.float64)
    for other in (wide, columns, double, image.astype(">f4")):
        np.testing.assert_array_equal(
            cut(Array(other, other), np.array([20.0]), np.array([25.0]), 16)[0], plain
        )
    mirrored = np.zeros((1, 16, 16), np.float32)[:, :, ::-1]
    cut(Array(image, image), np.array([20.0]), np.array([25.0]), 16, out=(mirrored, mirrored.copy()))
    np.testing.assert_array_equal(mirrored, plain)


def test_images_are_in_njy_and_weights_are_inverse_variances(store, sky):
    chosen = store.take(np.arange(len(store)))
    for index, band in enumerate(store.info.bands):
        with fits.open(sky / f"coadd-{band}.fits") as hdus:
            counts = hdus[0].data.astype(float)
        unit = 10 ** ((31.4 - ZERO_POINTS[band]) / 2.5)
        for row in (0, 7, 23):
            place = chosen.catalogue["x"][row], chosen.catalogue["y"][row]
            expected = Cutout2D(counts * unit, place, 32, mode="partial", fill_value=0).data
            np.testing.assert_allclose(chosen.image[row, index], expected, rtol=2e-6)
        valid = chosen.weight[:, index] > 0
        np.testing.assert_allclose(chosen.weight[:, index][valid], 0.25, rtol=1e-5)


def test_every_object_of_the_catalogue_is_there_with_its_columns(store):
    catalogue = read_catalogue(store.directory / "catalogue.parquet")
    columns = store.catalogue()
    assert sorted(columns["object_id"]) == sorted(catalogue["object_id"])
    order = np.argsort(catalogue["object_id"])
    back = order[np.searchsorted(catalogue["object_id"], columns["object_id"], sorter=order)]
    for name in catalogue:
        np.testing.assert_array_equal(columns[name], catalogue[name][back])
    assert len(store.shards) == -(-len(catalogue["x"]) // 20)
    assert store.info.fwhm_arcsec[2] == pytest.approx(3.5 * 0.168, rel=0.05)
    assert store.info.pixel_scale_arcsec == pytest.approx(0.168, rel=1e-6)


def test_edges_are_counted_and_listed(store, truth):
    columns = store.catalogue()
    at_edge = (columns["x"] < 15) | (columns["x"] > 344) | (columns["y"] < 15) | (columns["y"] > 304)
    summary = json.loads((store.directory / "summary.json").read_text())
    assert summary["num_objects"] == len(columns["x"])
    assert summary["num_incomplete"] == at_edge.sum() > 0
    listed = (store.directory / "incomplete.csv").read_text().splitlines()
    assert {int(line.split(",")[0]) for line in listed[1:]} == set(columns["object_id"][at_edge])
    np.testing.assert_array_equal(columns["fraction_valid_g"] < 1, at_edge)


def test_a_damaged_or_lost_shard_is_cut_again_and_no_other(sky, tmp_path):
    out = deepfits.cutouts(sky, tmp_path / "store", shard_size=20)
    shards = sorted(out.glob("shard-*.h5"))
    before = [p.stat().st_mtime_ns for p in shards]
    content = shards[1].read_bytes()
    shards[0].unlink()
    shards[1].write_bytes(content[: len(content) // 2])
    (out / ".writing-abc-shard-00009.h5").write_bytes(b"left by a killed process")
    deepfits.cutouts(sky, out, shard_size=20)
    after = [p.stat().st_mtime_ns for p in sorted(out.glob("shard-*.h5"))]
    assert after[2:] == before[2:]
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert not list(out.glob(".writing-*"))
    assert len(CutoutStore(out)) > 40


def test_mistakes_can_be_mended_without_another_detection(sky, tmp_path):
    out = tmp_path / "store"
    with pytest.raises(InputError, match="neither a number, a file nor a column"):
        deepfits.cutouts(sky, out, psf="g=psf.fits")
    assert not out.exists()  # refused before the detection
    with pytest.raises(InputError, match="flagz"):
        deepfits.cutouts(sky, out, where="flagz == 0")
    made = (out / "catalogue.parquet").stat().st_mtime_ns
    own = shutil.copy(out / "catalogue.parquet", tmp_path / "own.parquet")
    with pytest.raises(InputError, match=r"catalogue.parquet: the objects of an earlier run"):
        deepfits.cutouts(sky, out, catalogue=own)
    deepfits.cutouts(sky, out, where="flags == 0")
    assert (out / "catalogue.parquet").stat().st_mtime_ns == made
    with pytest.raises(InputError, match="choose another output, or remove it"):
        deepfits.cutouts(sky, out)


def test_other_settings_need_another_directory(store, sky):
    with pytest.raises(InputError, match="choose another output, or remove it"):
        deepfits.cutouts(sky, store.directory, shard_size=20, size=16)


def test_own_catalogue_with_sky_positions(sky, truth, tmp_path):
    wcs = make_wcs(SHAPE)
    ra, dec = wcs.pixel_to_world_values(truth["x"], truth["y"])
    ids = np.array([f"galaxy {i}" for i in range(len(ra))])
    path = write_table(
        tmp_path / "mine.fits",
        {"ID": ids, "RA": np.append(ra[:-1], 10.0), "DEC": dec, "Mass": ra * 0 + 9},
    )
    out = deepfits.cutouts(sky, tmp_path / "store", catalogue=path, size=16)
    store = CutoutStore(out)
    columns = store.catalogue()
    assert len(store) == len(ra) - 1
    assert set(columns["object_id"]) == set(ids[:-1])
    assert (columns["Mass"] == 9).all()
    row = int(np.flatnonzero(columns["object_id"] == "galaxy 3")[0])
    assert columns["x"][row] == pytest.approx(truth["x"][3], abs=1e-3)
    assert json.loads((out / "summary.json").read_text())["num_outside_every_image"] == 1
    assert "outside every image" in (out / "incomplete.csv").read_text()


@pytest.mark.parametrize("ending", ["ecsv", "parquet"])
def test_units_of_a_catalogue_are_kept_in_exports(sky, truth, tmp_path, ending):
    ra, dec = make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"])
    table = QTable({"ra": ra / 15 * units.hourangle, "dec": dec * units.deg, "id": np.arange(len(ra))})
    table["mass"], table["size"], table["flux_g"] = ra * units.Msun, ra * units.kpc, ra * 3
    path = tmp_path / f"mine.{ending}"
    table.write(path, format="ascii.ecsv" if ending == "ecsv" else "parquet")
    store = CutoutStore(deepfits.cutouts(sky, tmp_path / "store", catalogue=path, size=16))
    columns = store.catalogue(["ra", "dec"])
    columns["flux_model_g"] = np.ones(len(store))
    write_features(tmp_path / "features" / "shard-00000.parquet", columns, "test")
    for name in ("all.fits", "all.vot", "all.parquet"):
        out = tables.read(deepfits.export(tmp_path / "features", tmp_path / name, store=store.directory))
        known = {name: units.Unit(unit) for name, unit in out.units.items()}
        assert (known["mass"], known["size"], known["ra"]) == (units.Msun, units.kpc, units.deg)
        assert not {"flux_g", "x"} & known.keys()
        np.testing.assert_allclose(out.columns["mass"], out.columns["ra"])


def test_objects_of_a_catalogue_of_pixel_positions_get_sky_positions(sky, truth, tmp_path):
    """As SExtractor's default catalogues: without ra and dec, labels could not be matched by position."""
    rows = "".join(
        f"{n} {x + 1} {y + 1}\n" for n, (x, y) in enumerate(zip(truth["x"], truth["y"], strict=True))
    )
    (tmp_path / "mine.txt").write_text("NUMBER X_IMAGE Y_IMAGE\n" + rows)
    found = CutoutStore(
        deepfits.cutouts(sky, tmp_path / "store", catalogue=tmp_path / "mine.txt")
    ).catalogue()
    ra, dec = make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"])
    np.testing.assert_allclose(found["ra"], ra[found["object_id"]], atol=1e-8)
    np.testing.assert_allclose(found["dec"], dec[found["object_id"]], atol=1e-8)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 1), (-3, 7)])
def test_a_catalogue_beside_the_sources_causes_a_warning(sky, truth, tmp_path, caplog, dx, dy):
    """Pixels counted from 1 in columns x and y, or those of a band whose image is shifted, as by SDSS."""
    path = write_table(tmp_path / "mine.parquet", {"x": truth["x"] + dx, "y": truth["y"] + dy})
    deepfits.cutouts(sky, tmp_path / "store", catalogue=path)
    found = [text for text in caplog.messages if "off the sources" in text]
    assert len(found) == (dx != 0)
    if dx:
        offset = [float(n) for n in found[0].partition("(")[2].partition(")")[0].split(",")]
        np.testing.assert_allclose(offset, (dx, dy), atol=0.15)


def test_positions_without_sources_cause_no_warning_of_an_offset(sky, tmp_path, caplog):
    """Where nothing bright is there is no offset; what random places agree on is chance."""
    places = np.random.default_rng(3).uniform(10, 300, (2, 3000))
    path = write_table(tmp_path / "random.parquet", {"x": places[0], "y": places[1]})
    deepfits.cutouts(sky, tmp_path / "store", catalogue=path, size=8)
    assert "off the sources" not in caplog.text


def test_catalogue_that_misses_every_image_is_refused(sky, tmp_path):
    path = write_table(tmp_path / "far.parquet", {"ra": np.array([10.0]), "dec": np.array([-40.0])})
    with pytest.raises(InputError, match="no object lies on any"):
        deepfits.cutouts(sky, tmp_path / "store", catalogue=path)


@pytest.mark.parametrize("sky", ["known", "absent", "empty"])
def test_objects_of_other_images_are_not_cut_from_the_only_one(sky, tmp_path, truth):
    """Pixel positions refer to the image on which the object was detected."""
    both = tmp_path / "both"
    both.mkdir()
    for name, dec in (("A", 2.0), ("B", 3.0)):
        image = draw(SHAPE, truth["x"], truth["y"], truth["flux_r"], truth["fwhm"])
        image += np.random.default_rng(ord(name)).normal(0, 2.0, SHAPE)
        header = make_wcs(SHAPE, dec=dec).to_header()
        header["FILTER"], header["MAGZERO"] = "r", ZERO_POINTS["r"]
        fits.writeto(both / f"{name}-r.fits", image.astype(np.float32), header)
    (tmp_path / "A").mkdir()
    shutil.copy(both / "A-r.fits", tmp_path / "A")
    catalogue = deepfits.detect(both, tmp_path / "c.parquet")
    if sky != "known":
        columns = read_catalogue(catalogue)
        nowhere = np.full(len(columns["x"]), np.nan)
        columns = {name: columns[name] for name in ("object_id", "x", "y", "field")}
        columns |= {"ra": nowhere, "dec": nowhere} if sky == "empty" else {}
        catalogue = write_table(tmp_path / "pixels.parquet", columns)
    of_a = read_catalogue(catalogue)["field"] == "A"
    assert 0 < of_a.sum() < len(of_a)
    store = CutoutStore(deepfits.cutouts(tmp_path / "A", tmp_path / "store", catalogue=catalogue))
    assert sorted(store.catalogue()["object_id"]) == sorted(read_catalogue(catalogue)["object_id"][of_a])


def test_duplicate_identities_are_refused(sky, tmp_path):
    columns = {"object_id": np.array([3, 3]), "x": np.array([9.0, 20.0]), "y": np.array([9.0, 20.0])}
    path = write_table(tmp_path / "twice.parquet", columns)
    with pytest.raises(InputError, match="object_id 3 occurs 2 times"):
        deepfits.cutouts(sky, tmp_path / "store", catalogue=path)


def test_all_shards_have_the_same_columns_whichever_filters_a_field_has(truth, tmp_path):
    for name, bands in (("a", "ugr"), ("b", "gr")):
        sky = write_plain(tmp_path / "sky" / name, truth, SHAPE, rng=np.random.default_rng(16), bands=bands)
        with fits.open(sky / "coadd-r.fits", mode="update") as file:
            file[0].header["WAVELEN"] = 6200.0
        if "u" in bands:
            with fits.open(sky / "coadd-u.fits", mode="update") as file:
                file[0].header["WAVELEN"] = 3600.0
    store = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "store", allow_missing=True))
    columns = store.take(np.arange(len(store))).catalogue  # a KeyError
    is_first = columns["field"] == "a"
    assert 0 < is_first.sum() < len(store)
    assert (columns["filter_wavelength_r"] == 6200).all()
    np.testing.assert_array_equal(columns["filter_wavelength_u"], np.where(is_first, 3600, np.nan))
    assert np.isnan(columns["filter_wavelength_g"]).all()


def test_missing_band_is_kept_with_weight_zero_when_allowed(truth, tmp_path):
    rng = np.random.default_rng(3)
    write_plain(tmp_path / "sky" / "patch-00", truth, SHAPE, rng=rng)
    write_plain(tmp_path / "sky" / "patch-01", truth, SHAPE, rng=rng, bands="griz")
    with pytest.raises(InputError, match="no image in band u for field 'patch-01'"):
        deepfits.cutouts(tmp_path / "sky", tmp_path / "store")
    store = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "store", allow_missing=True))
    chosen = store.take(np.arange(len(store)))
    second = chosen.catalogue["field"] == "patch-01"
    assert 0 < second.sum() < len(store)
    assert not chosen.weight[second, 0].any()
    assert chosen.weight[~second, 0].any(axis=(1, 2)).all()
    assert np.isnan(chosen.catalogue["flux_u"][second]).all()
    assert json.loads((store.directory / "summary.json").read_text())["num_without_data"]["u"] == second.sum()


@pytest.mark.parametrize("band", ["u", "i"])  # i defines the grid
def test_an_image_without_data_is_a_missing_band(band, truth, tmp_path):
    for name in ("empty", "absent"):
        rng = np.random.default_rng(3)
        for patch in ("patch-00", "patch-01"):
            write_plain(tmp_path / name / patch, truth, SHAPE, rng=rng, weights=False)
    with fits.open(tmp_path / "empty" / "patch-01" / f"coadd-{band}.fits", mode="update") as file:
        file[0].data[:] = np.nan
    (tmp_path / "absent" / "patch-01" / f"coadd-{band}.fits").unlink()
    with pytest.raises(InputError, match=f"patch-01/coadd-{band}.fits: no pixel with data .*allow_missing"):
        deepfits.cutouts(tmp_path / "empty", tmp_path / "store")
    found = deepfits.check(tmp_path / "empty")
    assert not found.is_fatal
    assert any(f"coadd-{band}.fits: no pixel with data" in text for text in found.warnings)
    empty, absent = (
        CutoutStore(deepfits.cutouts(tmp_path / name, tmp_path / f"store-{name}", allow_missing=True))
        for name in ("empty", "absent")
    )
    assert len(empty) == len(absent) > 0
    one, other = (store.take(np.arange(len(store))) for store in (empty, absent))
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.psf, other.psf)
    for path in (tmp_path / "empty" / "patch-01").iterdir():
        fits.writeto(path, np.full(SHAPE, np.nan, np.float32), fits.getheader(path), overwrite=True)
    with pytest.raises(
        InputError, match=r"patch-01/coadd-.*: no pixel with data in any band; leave this field"
    ):
        deepfits.cutouts(tmp_path / "empty", tmp_path / "other", allow_missing=True)


def test_the_width_of_a_given_psf_is_that_of_the_store(sky, tmp_path):
    measured = CutoutStore(deepfits.cutouts(sky, tmp_path / "measured"))
    given = CutoutStore(deepfits.cutouts(sky, tmp_path / "given", psf=["g=1.3"]))
    g = given.info.bands.index("g")
    others = np.arange(len(given.info.bands)) != g
    assert given.info.fwhm_arcsec[g] == pytest.approx(1.3, rel=0.02)
    assert measured.info.fwhm_arcsec[g] != pytest.approx(1.3, rel=0.05)
    np.testing.assert_array_equal(
        np.array(given.info.fwhm_arcsec)[others], np.array(measured.info.fwhm_arcsec)[others]
    )
    assert fwhm_of(given.read_shard(0).psf[:, g]) == pytest.approx(1.3, rel=0.02)
    # A column says it at each object, and a model of PSFEx at each place.
    r = given.info.bands.index("r")
    there = given.catalogue(["ra", "dec"])
    widths = np.linspace(0.8, 1.4, len(given))
    pq.write_table(pa.table({**there, "seeing": widths}), tmp_path / "c.parquet")
    y, x = np.mgrid[-12:13, -12:13]
    plane = np.exp(-0.5 * (x**2 + y**2) / 2.5**2)
    wider = np.exp(-0.5 * (x**2 + y**2) / 3.5**2) / 3.5**2 * 2.5**2 - plane
    write_psfex(tmp_path / "r.psf", np.stack([plane, wider, 0 * plane]), 1, step=1.0, zero=0.0, scale=100.0)
    options = {"catalogue": tmp_path / "c.parquet", "psf": ["g=seeing", f"r={tmp_path / 'r.psf'}"]}
    each = CutoutStore(deepfits.cutouts(sky, tmp_path / "each", **options))
    found = each.take(np.arange(len(each)))
    seen = fwhm_of(found.psf)
    order = np.argsort(found.object_id)
    assert seen[order, g] == pytest.approx(widths[np.argsort(there["object_id"])], rel=0.01)
    assert each.info.fwhm_arcsec[g] == pytest.approx(1.1, rel=0.01)
    assert np.corrcoef(seen[:, r], found.catalogue["x"])[0, 1] > 0.9


def test_a_band_that_no_field_has_is_there_without_data(truth, tmp_path, caplog):
    write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(3), bands="grz")
    wanted = {"bands": tuple("ugriz"), "size": 16}
    with pytest.raises(InputError, match=r"no image in band u .*allow_missing"):
        deepfits.cutouts(tmp_path / "sky", tmp_path / "store", **wanted)
    made = deepfits.cutouts(tmp_path / "sky", tmp_path / "store", allow_missing=True, **wanted)
    store = CutoutStore(made)
    assert store.info.bands == tuple("ugriz")
    weight = store.take(np.arange(len(store))).weight
    assert not weight[:, [0, 3]].any()
    assert weight[:, [1, 2, 4]].any(axis=(2, 3)).all(axis=1).mean() > 0.9
    assert "no image in band i" in caplog.text


def test_wild_pixels_of_weight_zero_never_enter(truth, tmp_path):
    hole = np.s_[100:140, 100:200]
    write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(4), bad=[("r", hole)])
    store = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "store"))
    image = np.concatenate([shard.image for shard in store])
    weight = np.concatenate([shard.weight for shard in store])
    assert np.abs(image).max() < 5e3
    assert (weight[:, 2] == 0).sum() > (weight[:, 1] == 0).sum()


def test_processes_make_the_same_store(truth, tmp_path):
    for index, name in enumerate(("patch-00", "patch-01")):
        write_plain(tmp_path / "sky" / name, truth, SHAPE, rng=np.random.default_rng(index))
    one = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "one", shard_size=16))
    two = CutoutStore(deepfits.cutouts(tmp_path / "sky", tmp_path / "two", shard_size=16, workers=2))
    assert [p.name for p in one.shards] == [p.name for p in two.shards]
    assert one.info.extra["fields"] == two.info.extra["fields"]
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.object_id, second.object_id)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.weight, second.weight)
        for name, column in first.catalogue.items():
            np.testing.assert_array_equal(column, second.catalogue[name])
    with pytest.raises(InputError, match="workers must be a whole number from 1"):
        deepfits.cutouts(tmp_path / "sky", tmp_path / "three", workers=0)


def test_catalogue_in_a_directory_as_hats_lays_it_out(sky, truth, tmp_path):
    ra, dec = make_wcs(SHAPE).pixel_to_world_values(truth["x"], truth["y"])
    columns = {"object_id": np.arange(len(ra)), "ra": ra, "dec": dec, "z_spec": truth["x"] / 100}
    for number, half in enumerate((np.s_[:20], np.s_[20:])):
        path = tmp_path / "hats" / "dataset" / "Norder=0" / "Dir=0" / f"Npix={number}.parquet"
        write_table(path, {name: values[half] for name, values in columns.items()})
    (tmp_path / "hats" / "partition_info.csv").write_text("Norder,Npix\n0,0\n0,1\n")
    (tmp_path / "hats" / "hats.properties").write_text("obs_collection=mine\n")
    store = CutoutStore(deepfits.cutouts(sky, tmp_path / "store", catalogue=tmp_path / "hats", size=16))
    found = store.catalogue(["z_spec"])
    assert sorted(found["object_id"]) == list(range(len(ra)))
    np.testing.assert_allclose(found["z_spec"], columns["z_spec"][found["object_id"]])


def test_compressed_files_are_unpacked_once_for_detection_and_cutting(tmp_path, monkeypatch):
    from deepfits.survey import fitsfile

    rng = np.random.default_rng(8)
    shape = (220, 240)
    truth = make_truth(rng, 30, shape)
    plain = write_plain(tmp_path / "plain", truth, shape, rng=np.random.default_rng(9), bands="gr")
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in plain.iterdir():
        (packed / f"{path.name}.bz2").write_bytes(bz2.compress(path.read_bytes()))
    opened = []

    def unpack(path, mode):
        opened.append(path)
        return bz2.open(path, mode)

    monkeypatch.setitem(fitsfile._OPENERS, b"BZ", unpack)
    store = CutoutStore(deepfits.cutouts(packed, tmp_path / "store"))
    counts = {name: sum(p.name == name for p in opened) for name in {p.name for p in opened}}
    # Images are opened once more for their headers alone; weights are not.
    assert counts == {
        f"coadd-{b}{end}.fits.bz2": 2 if end == "" else 1 for b in "gr" for end in ("", ".weight")
    }
    other = CutoutStore(deepfits.cutouts(plain, tmp_path / "other"))
    rows = np.arange(len(other))
    np.testing.assert_array_equal(store.take(rows).image, other.take(rows).image)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_field_stops_no_other_and_the_manifest_says_so(tmp_path, workers):
    images = deepfits.simulate(tmp_path / "sky", size=200, num_patches=3, seed=4)
    catalogue = deepfits.detect(images, tmp_path / "found.parquet")
    whole = CutoutStore(deepfits.cutouts(images, tmp_path / "whole", catalogue=catalogue))
    path = images / "patch-01" / "coadd-g.fits"
    good = path.read_bytes()
    path.write_bytes(good[:20_000])
    out = tmp_path / "store"
    with pytest.raises(InputError, match=r"1 of 3 shards .*patch-01.*truncated.*another directory"):
        deepfits.cutouts(images, out, catalogue=catalogue, workers=workers)
    states = {entry.shard: entry for entry in read_manifest(out)}
    assert [entry.state for entry in states.values()] == ["done", "failed", "done"]
    assert "truncated" in states["shard-00001"].reason
    assert not (out / "shard-00001.h5").exists()
    assert json.loads((out / "summary.json").read_text())["num_objects"] == len(CutoutStore(out))
    kept = (out / "shard-00000.h5").stat().st_mtime_ns
    with pytest.raises(InputError, match="1 of 3 shards"):  # again: nothing that is done is done anew
        deepfits.cutouts(images, out, catalogue=catalogue, workers=workers)
    assert (out / "shard-00000.h5").stat().st_mtime_ns == kept
    again = {entry.shard: entry for entry in read_manifest(out)}
    assert again["shard-00000"] == states["shard-00000"]
    for number, shard in enumerate(whole):
        if number != 1:
            ours = CutoutStore(out).take(np.flatnonzero(np.isin(_identities(out), shard.object_id)))
            np.testing.assert_array_equal(ours.image, shard.image)
    path.write_bytes(good)
    mended = deepfits.cutouts(images, out, catalogue=catalogue, workers=workers)
    assert (out / "shard-00000.h5").stat().st_mtime_ns == kept
    assert [entry.state for entry in read_manifest(mended)] == ["done"] * 3
    assert sum(entry.objects for entry in read_manifest(mended)) == len(CutoutStore(mended)) == len(whole)


def test_of_images_that_have_changed_only_the_fields_are_made_again(tmp_path, monkeypatch, caplog):
    """As where a tile was released again: the whole store was refused, and so was the catalogue."""
    images = deepfits.simulate(tmp_path / "sky", size=200, num_patches=3, seed=4)
    given = {"psf": "0.8", "shard_size": 60}
    out = deepfits.cutouts(images, tmp_path / "store", **given)
    catalogue = deepfits.detect(images, tmp_path / "found.parquet")
    of_catalogue = deepfits.cutouts(images, tmp_path / "of-catalogue", catalogue=catalogue, **given)
    fields = CutoutStore(out).catalogue(["field"])["field"]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.h5")}
    for path in (images / "patch-01").glob("coadd-?.fits"):
        with fits.open(path, mode="update") as file:
            file[0].data[80:140, 80:140] = 0.0  # a hole, in which there were objects
    detected = []
    detect_field = Detection._detect_field
    monkeypatch.setattr(
        Detection, "_detect_field", lambda self, it: (detected.append(it.name), detect_field(self, it))[1]
    )
    with caplog.at_level("INFO"):
        assert deepfits.detect(images, catalogue) == catalogue
        assert deepfits.cutouts(images, out, **given) == out
    assert detected == ["patch-01"] * 2
    assert "its input 'images' has changed (patch-01/" in caplog.text
    fresh = deepfits.cutouts(images, tmp_path / "fresh", **given)
    assert_same_results(out, fresh)
    deepfits.cutouts(images, of_catalogue, catalogue=catalogue, **given)
    fresh = deepfits.cutouts(images, tmp_path / "also-fresh", catalogue=catalogue, **given)
    assert_same_results(of_catalogue, fresh)
    assert pq.read_table(catalogue).schema.equals(pq.read_table(out / "catalogue.parquet").schema)
    now = CutoutStore(out).catalogue(["field"])["field"]
    assert (now == "patch-01").sum() < (fields == "patch-01").sum()
    others = [path for path in out.glob("shard-*.h5") if "patch-01" not in _fields_of(path)]
    assert others
    assert all(path.stat().st_mtime_ns == before[path.name] for path in others)
    other = deepfits.simulate(tmp_path / "other", size=200, num_patches=3, seed=5)  # files of the same names
    for stage, path, more in ((deepfits.detect, catalogue, {}), (deepfits.cutouts, out, given)):
        with pytest.raises(InputError, match=r"its input 'images' has changed \(patch-00/"):
            stage(other, path, **more)
    mine = write_table(tmp_path / "mine.parquet", read_table(catalogue))
    of_mine = deepfits.cutouts(images, tmp_path / "of-mine", catalogue=mine, **given)
    write_table(mine, {key: values[1:] for key, values in read_table(catalogue).items()})
    with pytest.raises(InputError, match="its input 'catalogue' has changed"):
        deepfits.cutouts(images, of_mine, catalogue=mine, **given)
    shutil.rmtree(images / "patch-02")
    with pytest.raises(
        InputError, match=r"its input 'images' has changed \(patch-02/.* is no longer among them\)"
    ):
        deepfits.cutouts(images, out, **given)


def _fields_of(shard):
    return set(shard_catalogue(shard, ["field"])["field"])


def _identities(store):
    return CutoutStore(store).catalogue(["object_id"])["object_id"]


def test_a_finished_store_is_not_written_to_again(tmp_path, truth):
    """It may be somebody else's: the same command ended with an error of permissions there."""
    sky = write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(16), bands="gr")
    store = deepfits.cutouts(sky, tmp_path / "store")
    for path in store.iterdir():
        os.utime(path, (0, 0))
    deepfits.cutouts(sky, store)
    assert not [path.name for path in store.iterdir() if path.stat().st_mtime]


def test_images_that_change_while_they_are_read_are_refused(tmp_path, truth):
    """As where the pipeline still writes them: the result, of both versions, counted as finished."""
    sky = write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(16), bands="gr")
    image = sky / "coadd-r.fits"

    @contextmanager
    def progress(title, **about):
        os.utime(image, (0, image.stat().st_mtime + 10))  # written again, as long as before
        with silent(title, **about) as task:
            yield task

    out = tmp_path / "found.parquet", tmp_path / "store"
    for stage, path, more in (
        (deepfits.detect, out[0], {}),
        (deepfits.cutouts, out[1], {"catalogue": out[0]}),
    ):
        with pytest.raises(
            InputError, match=r"coadd-r.fits: changed since the work on it began; start again"
        ):
            stage(sky, path, progress=progress, **more)
        with pytest.raises(InputError, match="not finished"):
            require_finished(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        stage(sky, path, **more)
        require_finished(path)


def test_what_a_catalogue_says_of_images_counts_for_these_alone(tmp_path, truth):
    """Of bands that it was not detected on, and of other images of the same names, the PSF is measured."""
    sky = write_plain(tmp_path / "sky", truth, SHAPE, rng=np.random.default_rng(16))
    catalogue = deepfits.detect(sky, tmp_path / "c.parquet", bands=["g", "r", "i"])

    def widths(name, **options):
        store = CutoutStore(deepfits.cutouts(sky, tmp_path / name, catalogue=catalogue, **options))
        return dict(zip(store.info.bands, store.info.fwhm_arcsec, strict=True)), store.info.extra["fields"]

    whole, described = widths("ugriz")
    np.testing.assert_allclose([whole[b] for b in "ugriz"], 3.5 * SCALE, rtol=0.1)
    some, its = widths("ri", bands=["r", "i"])
    assert "stellar_radius_arcsec" in its["coadd"]  # the catalogue's own
    assert "stellar_radius_arcsec" not in described["coadd"]
    wide = truth | {"fwhm": truth["fwhm"] + 1.5}
    write_plain(sky, wide, SHAPE, rng=np.random.default_rng(17))
    other, _ = widths("other", bands=["r", "i"])
    np.testing.assert_allclose([other[b] for b in "ri"], 5.0 * SCALE, rtol=0.1)
    np.testing.assert_allclose([some[b] for b in "ri"], 3.5 * SCALE, rtol=0.1)
