"""Tables joined to the objects of a run: which row is of which object, and what is said where several are."""

import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.table import Table

from deepfits.errors import InputError
from deepfits.explorer.joined import JoinedTable, join, read_features
from deepfits.fitting import features as features_module
from deepfits.fitting.columns import describe
from deepfits.stages.export import export
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.store import Cutouts, StoreInfo, create_store, write_shard
from deepfits.tables import match_one_to_one
from tests.helpers.redshift_inputs import make_sky, write_features

NUM = 420


@pytest.fixture(scope="module")
def sky():
    return make_sky()


@pytest.fixture(scope="module")
def features(sky, tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("joined") / "features", sky)


def table_of(directory, **columns):
    Table(columns).write(directory / "mine.ecsv", overwrite=True)
    return directory / "mine.ecsv"


def joined(features, directory, **columns):
    return JoinedTable(features, tables={"mine": table_of(directory, **columns)})


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_of_features_is_named(features, tmp_path, number):
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        shutil.copy(features / "shard-00000.parquet", tmp_path / name)
    damaged = tmp_path / f"shard-0000{number}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"{damaged.name}: cannot read these features .*; fit again"):
        read_features(tmp_path)
    with pytest.raises(InputError, match=rf"{damaged.name}: cannot read these features .*; fit again"):
        JoinedTable(tmp_path)["object_id"]


def test_a_store_of_other_objects_with_the_same_identities_is_refused(features, sky, tmp_path):
    """Such as ``cutouts`` beside the features of another field, whose objects are numbered from 1 too."""
    for name, shift in (("same", 0.0), ("other", 1.0)):
        info = StoreInfo(bands=("g",), size=4, pixel_scale_arcsec=0.2)
        pixels = np.ones((NUM, 1, 4, 4), np.float32)
        place = {"ra": sky["ra"] + shift, "dec": sky["dec"]}
        cutouts = Cutouts(object_id=sky["object_id"], image=pixels, weight=pixels, catalogue=place)
        write_shard(create_store(tmp_path / name, info) / "shard-00000.h5", cutouts, info)
    assert JoinedTable(features, store=tmp_path / "same").store_row is not None
    with pytest.raises(InputError, match=rf"other: {NUM} objects of .*features lie elsewhere in this store"):
        JoinedTable(features, store=tmp_path / "other")


@pytest.mark.parametrize("by", ["identity", "place"])
def test_of_several_rows_of_an_object_the_first_counts_and_it_is_said(features, sky, tmp_path, caplog, by):
    """Of rows at one place it was now this one, now the other, as the tree of places had them."""
    key = {"object_id": sky["object_id"]} if by == "identity" else {"ra": sky["ra"], "dec": sky["dec"]}
    twice = {name: np.tile(values, 2) for name, values in key.items()}
    value = np.concatenate([sky["z_spec"], sky["z_spec"] + 1])
    found = joined(features, tmp_path, **twice, mass=value)
    np.testing.assert_allclose(found["mass"], sky["z_spec"])
    assert f"{NUM} of {2 * NUM} rows are duplicates of an object" in caplog.text
    caplog.clear()
    joined(features, tmp_path, **key, mass=sky["z_spec"])
    assert not caplog.text
    # of the truth of a simulated sky each row is an object, one behind the other
    JoinedTable(features).add_table("truth", table_of(tmp_path, **twice, mass=value), of_run=True)
    assert not caplog.text


def test_a_neighbour_within_the_radius_is_no_further_row(features, sky, tmp_path, caplog):
    ra = np.concatenate([sky["ra"], sky["ra"] + 0.4 / 3600])
    values = np.arange(2 * NUM, dtype=float)
    found = joined(features, tmp_path, ra=ra, dec=np.tile(sky["dec"], 2), mass=values)
    np.testing.assert_array_equal(found["mass"], values[:NUM])
    assert not caplog.text


def test_several_rows_of_an_identity_near_an_object_are_told(features, sky, tmp_path, caplog):
    """Spectra of one object have slightly different positions."""
    ra = np.concatenate([sky["ra"], sky["ra"] + 0.4 / 3600])
    ids = 39_627_000_000_000_000 + np.tile(np.arange(NUM), 2)
    joined(features, tmp_path, TARGETID=ids, ra=ra, dec=np.tile(sky["dec"], 2), mass=ra)
    assert f"of {2 * NUM} rows are duplicates of an object whose nearest row is used" in caplog.text


def test_identities_that_are_not_exact_or_any_catalogue_has(features, sky, tmp_path, caplog):
    found = joined(features, tmp_path, object_id=sky["object_id"].astype(float), mass=sky["z_spec"])
    np.testing.assert_allclose(found["mass"], sky["z_spec"])
    inexact = 2.0**60 + 256 * np.arange(NUM)
    with pytest.raises(InputError, match=r"mine\.ecsv: object_id was written as floating point"):
        joined(features, tmp_path, object_id=inexact, mass=sky["z_spec"])
    by_place = joined(features, tmp_path, object_id=inexact, ra=sky["ra"], dec=sky["dec"], mass=sky["z_spec"])
    np.testing.assert_allclose(by_place["mass"], sky["z_spec"])
    assert not caplog.text
    joined(features, tmp_path, id=sky["object_id"], mass=sky["z_spec"])
    assert "matched by id alone, since positions are not known in both" in caplog.text


def test_rows_of_the_same_identity_that_lie_elsewhere_are_not_used(features, sky, tmp_path, caplog):
    """A table of two fields, each of which counts its objects anew."""
    half = NUM // 2
    ra = np.concatenate([sky["ra"][:half], sky["ra"][half:] + 100])
    found = joined(features, tmp_path, id=sky["object_id"], ra=ra, dec=sky["dec"], mass=sky["z_spec"])
    np.testing.assert_array_equal(found["mass"], np.where(np.arange(NUM) < half, sky["z_spec"], np.nan))
    assert f"{half} rows have the object_id of an object that is more than 1″ away" in caplog.text


def test_tables_offset_by_more_than_the_radius_are_refused(features, sky, tmp_path):
    with pytest.raises(
        InputError, match=r"mine\.ecsv: most positions are offset by .* \+1\.50″ in declination"
    ):
        joined(features, tmp_path, ra=sky["ra"], dec=sky["dec"] + 1.5 / 3600, mass=sky["z_spec"])


def test_positions_that_are_swapped_are_told(sky, tmp_path):
    features = write_features(tmp_path / "features", {**sky, "ra": sky["ra"] % 20})
    with pytest.raises(InputError, match=r"by object_id or position; ra and dec look swapped"):
        joined(features, tmp_path, ra=sky["dec"], dec=sky["ra"] % 20, mass=sky["z_spec"])
    with pytest.raises(
        InputError, match=rf"position; {NUM} objects with dec beyond ±90 .* and not swapped\?"
    ):
        joined(features, tmp_path, ra=sky["dec"], dec=sky["ra"] % 20 + 100, mass=sky["z_spec"])


def test_without_known_positions_identities_decide(sky, tmp_path, caplog):
    """Images without WCS have NaN in ra and dec, and so have the predictions made from their features."""
    nowhere = np.full(NUM, np.nan)
    features = write_features(tmp_path / "features", {**sky, "ra": nowhere, "dec": nowhere})
    for places in ({"ra": nowhere, "dec": nowhere}, {"ra": sky["ra"], "dec": sky["dec"]}):
        columns = {"object_id": sky["object_id"][::-1], **places, "mass": sky["z_spec"][::-1]}
        np.testing.assert_array_equal(joined(features, tmp_path, **columns)["mass"], sky["z_spec"])
    assert not caplog.text
    joined(features, tmp_path, id=sky["object_id"], ra=sky["ra"], dec=sky["dec"], mass=sky["z_spec"])
    assert "matched by id alone, since positions are not known in both" in caplog.text


def test_columns_of_lists_are_left_out_with_a_message(features, sky, tmp_path, caplog):
    caplog.set_level("INFO")
    mags = {"MAG_APER": np.ones((NUM, 3)), "MAG_AUTO": np.ones(NUM)}
    found = joined(features, tmp_path, object_id=sky["object_id"], ra=sky["ra"], dec=sky["dec"], **mags)
    assert "MAG_AUTO" in found
    assert "mine.ecsv: columns of several values per object are left out: MAG_APER (3 values);" in caplog.text
    caplog.clear()
    assert "MAG_APER" not in read_catalogue(tmp_path / "mine.ecsv")
    assert "are left out: MAG_APER (3 values);" in caplog.text


@pytest.mark.parametrize("is_same", [True, False])
def test_positions_in_unnamed_hours_get_a_hint(features, sky, tmp_path, is_same):
    ids = sky["object_id"] + (0 if is_same else 10**6)
    said = f"although {NUM} have the same object_id: they lie elsewhere; " if is_same else "position; "
    with pytest.raises(InputError, match=f"no row .*{said}the right ascensions look like hours: name"):
        joined(features, tmp_path, object_id=ids, ra=sky["ra"] / 15, dec=sky["dec"], mass=sky["z_spec"])
    found = joined(features, tmp_path, object_id=ids, ra_hours=sky["ra"] / 15, dec=sky["dec"], mass=ids)
    np.testing.assert_array_equal(found["mass"], ids)


def test_identities_by_another_name_get_a_hint(features, sky, tmp_path):
    with pytest.raises(InputError, match=r"no row .*column 'sex_key' would match: rename it"):
        joined(features, tmp_path, sex_key=sky["object_id"], mass=sky["z_spec"])


def test_a_table_without_rows_is_refused(features, tmp_path):
    with pytest.raises(InputError, match="no row matches an object"):
        joined(features, tmp_path, ra=np.zeros(0), dec=np.zeros(0), mass=np.zeros(0))


def test_of_a_large_table_only_the_rows_of_the_objects_stay_in_memory(features, sky):
    rng, number = np.random.default_rng(0), 100_000
    ra, dec = np.append(rng.uniform(0, 300, number), sky["ra"][::2]), np.full(number, -60.0)
    columns = {"ra": ra, "dec": np.append(dec, sky["dec"][::2]), "mass": np.arange(number + NUM / 2)}
    found = JoinedTable(features)
    assert found.num_rows == NUM  # read before memory is measured
    tracemalloc.start()
    found.add_table("mine", columns)
    assert tracemalloc.get_traced_memory()[0] < number
    tracemalloc.stop()
    np.testing.assert_array_equal(found["mass"][::2], number + np.arange(NUM / 2))
    assert np.isnan(found["mass"][1::2]).all()


def test_pairs_are_one_to_one():
    here = np.array([10.0, 10.0 + 0.3 / 3600, 20.0, np.nan])
    there = np.array([10.0 + 0.1 / 3600, 20.0, 20.0, 30.0])
    rows, apart, nearest = match_one_to_one(here, np.zeros(4), there, np.zeros(4), 1.0)
    assert rows.tolist() == [0, -1, 1, -1]
    assert nearest.tolist() == [0, 2, 2, -1]
    np.testing.assert_allclose(apart, [0.1, np.nan, 0.0, np.nan], atol=1e-4)


@pytest.mark.parametrize("make", [dict, Table, pd.DataFrame], ids=["mapping", "astropy", "pandas"])
def test_tables_in_memory_are_joined_like_files(features, sky, tmp_path, make):
    columns = {
        "object_id": sky["object_id"][::-1],
        "mass": sky["z_spec"][::-1],
        "kind": ["a", "b"] * (NUM // 2),
    }
    on_disk = JoinedTable(features, tables={"mine": table_of(tmp_path, **columns)})
    found = JoinedTable(features, tables={"mine": make(columns)})
    for name in ("mass", "kind"):
        np.testing.assert_array_equal(found[name], on_disk[name])
    np.testing.assert_allclose(found["mass"], sky["z_spec"])
    with pytest.raises(InputError, match="mine: no row matches"):
        JoinedTable(features, tables={"mine": make({"object_id": [-5, -6], "mass": [0.0, 1.0]})})


def test_columns_of_predictions_are_described_and_those_of_others_are_not(features, sky):
    columns = {"object_id": sky["object_id"], "class": ["galaxy"] * NUM, "z_phot": sky["z_spec"]}
    columns |= {"magnitude": sky["z_spec"], "mag_u": sky["z_spec"]}
    table = JoinedTable(features, tables={"mine": columns})
    assert not table.describe("class").words
    table.add_table("z60", columns, of_run=True)
    for name in ("z60.class", "z60.z_phot"):
        assert table.describe(name).words
    assert table.describe("z60.magnitude").unit == "mag"
    assert not table.describe("z60.mag_u").words  # as in the truth: no magnitude that a fit predicts
    table.add_table("truth", columns | {"angle": sky["z_spec"], "kind": ["star"] * NUM}, of_run=True)
    assert table.describe("angle").unit == "rad"
    assert table.describe("truth.mag_u").words == "True AB magnitude, band u"
    assert table.describe("kind").words
    for name in ("p_star", "is_outside_domain", "domain_distance", "quantiles"):
        assert describe(name, table="predictions").words
    for name in ("is_primary", "field"):
        assert describe(name, table="detections").words
    assert describe("g_minus_r").words == "Colour g - r of the galaxy in PSF-matched Gaussian apertures, AB"
    assert not describe("n_minus_s", table="mine").words


def test_what_cannot_be_joined_is_refused(features, sky):
    with pytest.raises(InputError, match="tables must be given by name"):
        join(features, tables=["spectra.csv"])
    with pytest.raises(InputError, match="mine: dict is not a table"):
        JoinedTable(features, tables={"mine": {"object_id": [1, 2], "mass": [1.0, 2.0, 3.0]}})
    table = JoinedTable(features)
    with pytest.raises(InputError, match=rf"column 'x' has shape \(3,\); there are {NUM} objects"):
        table.add("x", np.zeros(3))
    table.add("x", list(sky["z_spec"]))
    np.testing.assert_array_equal(table["x"], sky["z_spec"])


def test_features_name_the_nearest_column_and_are_shown_in_a_line(features):
    columns = read_features(features)
    with pytest.raises(KeyError, match="no column 'laten'; did you mean 'latent'"):
        columns["laten"]
    assert repr(columns).endswith(f"{NUM} objects, {len(columns)} columns>")
    assert f"{NUM} objects" in repr(JoinedTable(features))


@pytest.mark.parametrize("read", [read_features, JoinedTable])
def test_features_become_data_frames_with_their_latents(features, read):
    columns = read(features)
    frame = columns.to_pandas()
    assert list(frame.columns) == list(columns)
    assert frame.shape == (NUM, len(columns))
    np.testing.assert_array_equal(np.stack(frame["latent"]), columns["latent"])
    again = JoinedTable(features, tables={"mine": frame[["object_id", "ra", "dec"]].assign(size=2.0)})
    assert (again["size"] == 2).all()


def test_a_table_keeps_the_names_of_its_columns_and_its_identities(features, sky, tmp_path):
    ids = 39_627_000_000_000_000 + np.arange(NUM)
    spectra = {"TARGETID": ids, "TARGET_RA": sky["ra"], "TARGET_DEC": sky["dec"]}
    pixels = {"X_IMAGE": np.arange(NUM, dtype=float), "Y_IMAGE": np.zeros(NUM), "patch": np.full(NUM, "4,5")}
    found = joined(features, tmp_path, **spectra, **pixels)
    for name, values in {"TARGETID": ids, **pixels}.items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_allclose(found["mine.ra"], sky["ra"])
    ours = joined(features, tmp_path, id=sky["object_id"], ra=sky["ra"], dec=sky["dec"], mass=sky["z_spec"])
    assert not {"id", "mine.ra", "mine.dec"} & set(ours)  # they are those of the objects


@pytest.mark.parametrize(
    "kind", ["polars", "arrow", "pandas with an index", "pandas with an index that is also a column"]
)
def test_tables_in_memory_of_other_libraries(features, sky, kind):
    columns = {"object_id": sky["object_id"][::-1], "mass": sky["z_spec"][::-1]}
    if kind == "polars":
        table = pytest.importorskip("polars").DataFrame(columns)
    elif kind == "arrow":
        table = pa.table(columns)
    else:
        table = pd.DataFrame(columns).set_index("object_id", drop="column" not in kind)
    np.testing.assert_array_equal(JoinedTable(features, tables={"mine": table})["mass"], sky["z_spec"])


def test_columns_are_read_together_from_each_shard(features, tmp_path, monkeypatch):
    """As many times as there were columns, `show` and `export` of a hundred fields took minutes."""
    opened, once = [], features_module._read_table
    monkeypatch.setattr(
        features_module, "_read_table", lambda *given: opened.append(given[0]) or once(*given)
    )
    table = JoinedTable(features)
    apart = {name: JoinedTable(features)[name] for name in table}
    opened.clear()
    table.load(table)
    assert len(opened) == len(set(opened)) > 0
    for name, values in apart.items():
        np.testing.assert_array_equal(table[name], values)
    assert len(opened) == len(set(opened))
    opened.clear()
    export(features, tmp_path / "all.fits", where="ra > -1")
    most = max(opened.count(path) for path in opened)
    assert most < 12 < len(table)
