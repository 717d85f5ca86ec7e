"""Catalogues that others read: Parquet, FITS, VOTable and HATS, with units and UCDs."""

import shutil

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table
from astropy.units import Unit

from deepfits import __version__
from deepfits.errors import InputError
from deepfits.explorer.tags import write_tags
from deepfits.fitting.columns import describe
from deepfits.fitting.features import DESCRIPTION
from deepfits.fitting.features import write_shard as write_features
from deepfits.photometry import aperture_names
from deepfits.stages.export import export
from deepfits.survey.store import Cutouts, StoreInfo, create_store, write_shard
from deepfits.tables import read, read_table, write_table

# LSDB's own use of pandas
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")
NUM, BANDS = 400, ("u", "g", "i")


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(5)
    # A clump on both sides of a border of HEALPix cells (ra = 45°), and a sparse field.
    ra = np.concatenate([rng.normal(45, 0.4, 300), rng.uniform(200, 201, 100)])
    dec = np.concatenate([rng.normal(0.2, 0.4, 300), rng.uniform(-30, -29, 100)])
    out = {
        "object_id": np.arange(NUM) + 7,
        "ra": ra,
        "dec": dec,
        "latent": rng.normal(size=(NUM, 6)).astype(np.float32),
        "latent_std": rng.uniform(0.1, 1, (NUM, 6)).astype(np.float32),
        "chi2": rng.uniform(900, 1100, NUM).astype(np.float32),
        "dof": np.full(NUM, 1000),
        "status": np.where(rng.uniform(size=NUM) < 0.5, "converged", "step_limit"),
    }
    for band in BANDS:
        out[f"flux_model_{band}"] = rng.uniform(1, 1000, NUM).astype(np.float32)
        out[f"flux_model_err_{band}"] = np.ones(NUM, np.float32)
        out[f"amplitude_{band}"] = np.ones(NUM, np.float32)
    out["latent"][3] = np.nan
    return out


@pytest.fixture(scope="module")
def features(columns, tmp_path_factory):
    directory = tmp_path_factory.mktemp("features")
    for number, rows in enumerate((slice(0, 150), slice(150, 150), slice(150, NUM))):
        part = {name: values[rows] for name, values in columns.items()}
        write_features(directory / f"shard-{number:05d}.parquet", part, "test")
    return directory


def test_parquet_that_others_read(features, columns, tmp_path):
    path = export(features, tmp_path / "all.parquet")
    schema = pq.read_schema(path)
    flux = schema.field("flux_model_g").metadata
    assert flux == {
        b"unit": b"nJy",
        b"ucd": b"phot.flux.density;em.opt.B;meta.modelled",
        b"description": b"Total flux of the central galaxy alone in the noise-free model, band g",
    }
    by_pandas = pd.read_parquet(path)
    np.testing.assert_array_equal(np.stack(by_pandas["latent"]), columns["latent"])
    by_polars = pl.read_parquet(path)
    np.testing.assert_array_equal(by_polars["latent"].to_numpy(), columns["latent"])
    assert by_polars["status"].to_list() == columns["status"].tolist()
    rows = duckdb.sql(f"select object_id, latent[2], ra from '{path}' where chi2 > 1000 order by object_id")
    found = np.array(rows.fetchall())
    chosen = columns["chi2"] > 1000
    np.testing.assert_array_equal(found[:, 0], columns["object_id"][chosen])
    np.testing.assert_array_equal(found[:, 1].astype(np.float32), columns["latent"][chosen, 1])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.filterwarnings("ignore:No table..len")  # as Parquet does not limit the length of text
def test_astropy_and_topcat_find_units_in_parquet(features, columns, tmp_path, half):
    """Astropy in YAML, TOPCAT (and astropy, as parquet.votable) in a VOTable without data."""
    out = export(features, tmp_path / "all.parquet", half=half)
    for format in ("parquet", "parquet.votable"):
        table = Table.read(out, format=format)
        assert table.colnames == list(columns)
        np.testing.assert_array_equal(table["object_id"], columns["object_id"])
        assert table["latent"].shape == columns["latent"].shape
        for name in columns:
            assert str(table[name].unit or "") == describe(name).unit
            assert table[name].description == (describe(name).words or None)
            assert (table[name].meta or {}).get("ucd", "") == describe(name).ucd
    assert b"<DATA" not in pq.read_schema(out).metadata[b"IVOA.VOTable-Parquet.content"]


def test_features_themselves_are_read_as_they_lie(features, columns):
    np.testing.assert_array_equal(pl.read_parquet(features / "*.parquet")["chi2"], columns["chi2"])
    found = duckdb.sql(f"select count(*), sum(dof) from '{features}/*.parquet'").fetchall()
    assert found == [(NUM, columns["dof"].sum())]
    assert len(pd.read_parquet(features)) == NUM


def test_half_precision(features, columns, tmp_path):
    path = export(features, tmp_path / "half.parquet", half=True)
    full = export(features, tmp_path / "full.parquet", columns=["object_id", "latent", "latent_std"])
    small = export(features, tmp_path / "s.parquet", half=True, columns=["object_id", "latent", "latent_std"])
    assert small.stat().st_size < 0.7 * full.stat().st_size
    found = np.stack(pd.read_parquet(path)["latent"])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, columns["latent"], rtol=2**-11)
    assert pl.read_parquet(path)["latent"].to_numpy().shape == (NUM, 6)


def test_fits_with_units_and_ucds(features, columns, tmp_path):
    path = export(features, tmp_path / "all.fits")
    with fits.open(path) as hdus:
        header, data = hdus[1].header, hdus[1].data
        np.testing.assert_array_equal(data["latent"], columns["latent"])
        number = list(columns).index("flux_model_err_i") + 1
        assert header[f"TTYPE{number}"] == "flux_model_err_i"
        assert header[f"TUNIT{number}"] == "nJy"
        assert header[f"TUCD{number}"] == "stat.error;phot.flux.density;em.opt.I"
    table = Table.read(path)
    assert str(table["ra"].unit) == "deg"
    assert table["status"].tolist() == columns["status"].tolist()


@pytest.mark.parametrize("ending", ["fits", "vot", "ecsv", "parquet"])
def test_tables_name_the_version_that_made_them(features, tmp_path, ending):
    """Only a file beside them did, which does not travel with a table given to others."""
    name = export(features, tmp_path / f"one.{ending}")
    assert read(name).info["made_by"] == f"deepfits export, version {__version__}"


def test_votable_with_units_and_ucds(features, columns, tmp_path):
    path = export(
        features, tmp_path / "all.vot", columns=["object_id", "ra", "dec", "latent", "flux_model_u"]
    )
    from astropy.io.votable import parse_single_table

    table = parse_single_table(path)
    fields = {f.name: f for f in table.fields}
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    assert str(fields["flux_model_u"].unit) == "nJy"
    np.testing.assert_array_equal(np.asarray(table.array["latent"].data), columns["latent"])


def test_columns_are_described_by_the_table_they_are_from(columns, tmp_path):
    """The detection's magnitudes were called predicted ones, and fluxes in a user's table nJy."""
    features = tmp_path / "run" / "features-both"
    write_features(features / "shard-00000.parquet", columns, "test")
    (features / DESCRIPTION).write_text("{}")
    sky = {name: columns[name] for name in ("object_id", "ra", "dec")}
    detected = {"is_primary": np.ones(NUM, bool), "mag_auto_i": np.full(NUM, 21.0), "flux_g": np.ones(NUM)}
    image, weight = np.zeros((NUM, 3, 4, 4), "f4"), np.ones((NUM, 3, 4, 4), "f4")
    cutouts = Cutouts(image=image, weight=weight, object_id=sky["object_id"], catalogue=sky | detected)
    info = StoreInfo(bands=BANDS, size=4, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.8,) * 3)
    create_store(tmp_path / "run" / "cutouts", info)
    write_shard(tmp_path / "run" / "cutouts" / "shard-00000.h5", cutouts, info)
    Table(sky | {"flux_u": np.ones(NUM)}).write(tmp_path / "mine.ecsv")
    path = export(tmp_path / "run", tmp_path / "all.vot", tables={"mine": str(tmp_path / "mine.ecsv")})
    table = Table.read(path)
    assert table["mag_auto_i"].description == "AB magnitude in the Kron ellipse, band i"
    assert table["flux_g"].description == "Measured flux in the Kron ellipse, band g"
    assert str(table["flux_g"].unit) == "nJy"
    assert table["flux_model_g"].description.startswith("Total flux of the central galaxy")
    assert table["flux_u"].unit is None
    assert not table["flux_u"].description


@pytest.mark.parametrize(
    "name",
    ["object_id", "ra", "latent", "latent_std", "chi2", "dof_u", "status", "flux_model_err_y", "mag_aper_j",
     "mag_err_i", "amplitude_err_g", "z_phot", "z_mean", "z_err68_low", "loss", "latent_distance",
     "model_hash", "num_steps", "flux_aper_measured_vis", "z_median", "flux_aper_scene_err_u", "mag_model_i",
     "scene_half_light_arcsec_i", "fraction_beyond", "correction_mag_i",
     *(f"flux_{aperture}_err_i" for aperture in aperture_names())],
)  # fmt: skip
def test_ucds_are_of_the_controlled_vocabulary(name):
    assert_in_vocabulary(describe(name).ucd)


@pytest.mark.parametrize(
    "name",
    ["x", "snr", "flags", "star_score", "half_light_radius_arcsec", "flux_err_g", "flux_aper_g", "mag_auto_i",
     "fraction_valid_u"],
)  # fmt: skip
def test_ucds_of_detections(name):
    assert_in_vocabulary(describe(name, table="detections").ucd)


def assert_in_vocabulary(ucd):
    assert ucd
    assert check_ucd(ucd, check_controlled_vocabulary=True, has_colon=False)


@pytest.fixture(scope="module")
def catalogue(features, tmp_path_factory):
    return export(features, tmp_path_factory.mktemp("hats") / "galaxies", format="hats", partition_rows=100)


@pytest.mark.slow
def test_lsdb_opens_and_filters(catalogue, columns):
    lsdb = pytest.importorskip("lsdb")
    opened = lsdb.open_catalog(catalogue)
    assert len(opened.get_healpix_pixels()) > 2
    whole = opened.compute()
    assert sorted(whole["object_id"]) == columns["object_id"].tolist()
    order = np.argsort(whole["object_id"].to_numpy())
    np.testing.assert_array_equal(np.stack(whole["latent"].to_numpy())[order], columns["latent"])
    bright = opened.query("flux_model_i > 500").compute()
    assert len(bright) == (columns["flux_model_i"] > 500).sum()
    cone = opened.cone_search(ra=45, dec=0.2, radius_arcsec=300).compute()
    offset = np.hypot((columns["ra"] - 45) * np.cos(np.deg2rad(0.2)), columns["dec"] - 0.2) * 3600
    assert len(cone) == (offset < 300).sum() > 0


@pytest.mark.slow
def test_lsdb_cross_matches_across_borders(catalogue, columns):
    lsdb = pytest.importorskip("lsdb")
    shift = 0.5 / 3600
    other = pd.DataFrame(
        {"their_id": columns["object_id"], "ra": columns["ra"], "dec": columns["dec"] + shift}
    )
    theirs = lsdb.from_dataframe(other, ra_column="ra", dec_column="dec", margin_threshold=5.0)
    matched = theirs.crossmatch(
        lsdb.open_catalog(catalogue),
        radius_arcsec=1.0,
        suffixes=("_theirs", "_ours"),
        suffix_method="all_columns",
    ).compute()
    assert len(matched) == NUM
    near = matched["their_id_theirs"] == matched["object_id_ours"]
    assert near.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "x.fits", "half": True}, "no 16-bit floats"),
        ({"out": "x", "format": "hat"}, "did you mean 'hats'"),
        ({"out": "x.parquet", "columns": ["latents"]}, "did you mean 'latent'"),
        ({"out": "x.cvs"}, r"use \.parquet, .*\.csv"),
        ({"out": "x.fits", "format": "parquet"}, "leave one of them out"),
        ({"out": "x", "columns": ["latent"]}, "no column 'ra'"),
    ],
)
def test_impossible_exports_are_refused(features, tmp_path, options, message):
    out = tmp_path / options.pop("out")
    with pytest.raises(InputError, match=message):
        export(features, out, **options)
    assert not out.exists()


def test_a_catalogue_is_not_overwritten(features, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        export(features, tmp_path, format="hats")


@pytest.mark.parametrize("ending", ["parquet", "fits", "csv", "ecsv", "vot", "h5"])
def test_the_ending_decides_and_foreign_files_stay(features, columns, tmp_path, ending):
    path = tmp_path / f"all.{ending}"
    names = ["object_id", "ra", "latent", "status"]
    export(features, path, columns=names)
    found = read_table(path)
    np.testing.assert_array_equal(found["object_id"], columns["object_id"])
    np.testing.assert_array_equal(found["ra"], columns["ra"])
    assert found["status"].tolist() == columns["status"].tolist()
    last = found["latent_5"] if ending == "csv" else found["latent"][:, 5]
    np.testing.assert_allclose(last, columns["latent"][:, 5], rtol=1e-6)
    if ending != "csv":  # which cannot say whose it is
        export(features, path, columns=["object_id", "dec"])
        assert list(read_table(path)) == ["object_id", "dec"]
    foreign = tmp_path / f"labels.{ending}"
    write_table(foreign, {"object_id": np.arange(3)})
    before = foreign.read_bytes()
    with pytest.raises(InputError, match="already exists and was not written by deepfits"):
        export(features, foreign)
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("name", ["all.parquet", "all.fits", "some.parquet"])
def test_tags_of_the_explorer_are_a_column(features, columns, tmp_path, name):
    tagged = tmp_path / "features"
    shutil.copytree(features, tagged)
    where = {"where": "ra > 100"} if name == "some.parquet" else {}
    assert "tag" not in read_table(export(tagged, tmp_path / f"before-{name}", **where))
    write_tags(tagged, {"9": "keep", "380": "discard"})
    found = read_table(export(tagged, tmp_path / name, **where))
    wanted = {9: "keep", 380: "discard"}
    assert found["tag"].tolist() == [wanted.get(one, "") for one in found["object_id"].tolist()]
    assert (found["tag"] == "discard").sum() == 1
    kept = export(tagged, tmp_path / "kept.csv", where="tag == keep", columns=["object_id", "tag"])
    assert read_table(kept)["object_id"].tolist() == [9]


@pytest.mark.parametrize(
    ("ending", "label"), [("parquet", "tractor"), ("fits", "tractor"), ("fits", "features")]
)
def test_columns_of_joined_tables_get_no_units_of_ours(features, columns, tmp_path, ending, label):
    """Previously, nanomaggies were called nJy. Capitals do not distinguish names in FITS and SQL."""
    table = {"object_id": columns["object_id"], "flux_g": np.ones(NUM), "FLUX_MODEL_G": np.ones(NUM)}
    mine = write_table(tmp_path / "tractor.fits", table)
    out = export(features, tmp_path / f"all.{ending}", tables={label: mine})
    if ending == "fits":
        units = {name: str(Table.read(out)[name].unit or "") for name in Table.read(out).colnames}
    else:
        units = {f.name: (f.metadata or {}).get(b"unit", b"").decode() for f in pq.read_schema(out)}
    assert (units["flux_g"], units["flux_model_g"], units[f"{label}.FLUX_MODEL_G"]) == ("", "nJy", "")
    assert len({name.lower() for name in units}) == len(units)


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot", "ecsv", "h5"])
def test_columns_of_joined_tables_keep_their_units(features, columns, tmp_path, ending):
    """They were lost. FITS gets them as written: astropy cannot write all, and refuses 15 deg (hours)."""
    units = {"mass": "solMass", "flux_g": "nmgy", "hour_angle": "15 deg", "mag_i": "mag(AB)", "n": ""}
    table = Table({"object_id": columns["object_id"], **{name: np.ones(NUM) for name in units}})
    for name, unit in units.items():
        table[name].unit = unit or None
    table.write(tmp_path / "mine.ecsv")
    out = export(features, tmp_path / f"all.{ending}", tables={"mine": tmp_path / "mine.ecsv"})
    found = read(out).units
    for name, unit in units.items():
        assert Unit(found.get(name, "")) == Unit(unit)
    assert found["flux_model_g"] == "nJy"


def test_a_joined_csv_has_one_column_per_latent(features, columns, tmp_path):
    """Previously a traceback: the joined table was asked to describe `latent_0`, which it has not."""
    mine = write_table(tmp_path / "mine.fits", {"object_id": columns["object_id"], "size": columns["chi2"]})
    found = read_table(export(features, tmp_path / "all.csv", tables={"mine": mine}))
    np.testing.assert_array_equal(found["object_id"], columns["object_id"])
    np.testing.assert_allclose(found["latent_5"], columns["latent"][:, 5], rtol=1e-6)
    np.testing.assert_allclose(found["size"], columns["chi2"], rtol=1e-6)


def test_missing_numbers_in_csv_do_not_turn_columns_into_text(tmp_path):
    size = np.where(np.arange(9) % 3, np.arange(9) / 7, np.nan)
    path = write_table(tmp_path / "t.csv", {"object_id": np.arange(9), "size": size})
    readers = (
        read_table,
        pl.read_csv,
        pd.read_csv,
        Table.read,
        lambda p: duckdb.read_csv(str(p)).fetchnumpy(),
    )
    for reader in readers:
        found = np.ma.asarray(reader(path)["size"])
        assert found.dtype.kind == "f"  # Polars read text
        np.testing.assert_allclose(np.ma.filled(found, np.nan), size, rtol=1e-15)


def test_objects_without_positions_have_no_place_in_hats(columns, tmp_path):
    """As from images without WCS. Previously the HEALPix library panicked."""
    part = {**columns, "ra": columns["ra"].copy(), "dec": columns["dec"].copy()}
    part["ra"][:2] = part["dec"][:3] = np.nan
    write_features(tmp_path / "features" / "shard-00000.parquet", part, "test")
    with pytest.raises(InputError, match=f'3 of {NUM} objects have no ra and dec.*--where "dec >= -90"'):
        export(tmp_path / "features", tmp_path / "galaxies", format="hats")
    part["ra"][:] = np.nan
    write_features(tmp_path / "features" / "shard-00000.parquet", part, "test")
    where = tmp_path / "features"
    with pytest.raises(InputError, match=rf"^{where}: {NUM} of {NUM} objects .* choose another format$"):
        export(where, tmp_path / "galaxies", format="hats", where=["chi2 >= 0"])  # through a temporary table
    assert not (tmp_path / "galaxies").exists()
