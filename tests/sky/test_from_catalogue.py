import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

import deepfits
from deepfits.errors import InputError
from deepfits.sky.from_catalogue import from_table, grid_positions, resolve_columns
from deepfits.sky.scene import draw_model, make_scene
from deepfits.sky.surveys import find_survey
from tests.helpers.galaxy_table import BANDS, make_table
from tests.helpers.real_data import REAL_DATA

SURVEY = find_survey("clauds-hsc")


def given(table: dict[str, np.ndarray], mapping: dict[str, str] | None = None, **units: str):
    found = resolve_columns(list(table), SURVEY, mapping or {}, "table")
    return from_table(table, found, SURVEY, np.random.default_rng(2), "table", units)


def test_magnitudes_are_drawn_as_they_stand():
    table = make_table(1)
    objects = given(table).table | {"x": np.array([128.0]), "y": np.array([128.0])}
    scene = make_scene(SURVEY, 256, 1, 0, objects, defects=False)
    seen = 31.4 - 2.5 * np.log10(draw_model(scene, (0, 256)).sum(axis=(1, 2)))
    expected = [table[f"mag_{b}"][0] for b in BANDS]
    np.testing.assert_allclose(seen, expected, atol=2e-3)  # wings beyond the stamp


def test_forms_are_those_of_the_table_and_drawn_where_it_has_none():
    table = make_table()
    table["half_light_radius_arcsec"][3] = -99.0
    objects = given(table).table
    good = np.arange(30) != 3
    np.testing.assert_allclose(objects["half_light_radius_arcsec"][good], 0.5)
    assert objects["half_light_radius_arcsec"][3] > 0
    np.testing.assert_allclose(objects["disc_ratio"], table["axis_ratio"])
    np.testing.assert_allclose(objects["angle"], np.radians(table["angle_deg"]) % np.pi)
    late = objects["bulge_fraction"] == 0
    assert late.any()
    # The radius of the table is circularised: major axis times √q.
    circular = (objects["disc_radius_arcsec"] * np.sqrt(objects["disc_ratio"]))[late & good]
    np.testing.assert_allclose(circular, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("axis_ratio", 70.0), ("bulge_fraction", 55.0), ("half_light_radius_arcsec", 550.0)]
)
def test_forms_that_cannot_be_used_are_said(caplog, name, value):
    table = make_table()
    table[name] = np.r_[[-99.0, 99.0], np.full(28, 0.4)]
    given(table)
    said = "are drawn at random"
    assert said not in caplog.text, "placeholders"
    table[name] = np.r_[[-99.0, 0.0], np.full(28, value)]
    assert (given(table).table["disc_ratio"] <= 1).all()
    assert f"28 of 30 values of {name} are above" in caplog.text
    assert said in caplog.text


def test_rows_without_a_magnitude_are_left_out_and_counted():
    table = make_table()
    table["mag_u"][:4] = (-99.0, 99.0, np.nan, -99.9)
    objects = given(table)
    assert len(objects) == 26
    assert objects.left_out == 4
    np.testing.assert_array_equal(objects.table["object_id"], np.arange(704, 730))


def test_redshift_zero_is_a_star_and_nonsense_is_no_redshift():
    table = make_table()
    table["z_spec"][:3] = (0.0, -99.0, 9.9999)
    objects = given(table).table
    assert objects["kind"][0] == "star"
    assert objects["disc_radius_arcsec"][0] == 0
    assert (objects["kind"][1:] == "galaxy").all()
    assert objects["z_spec"][0] == 0
    assert np.isnan(objects["z_spec"][1:3]).all()
    np.testing.assert_array_equal(objects["z_spec"][3:], table["z_spec"][3:])
    np.testing.assert_array_equal(objects["z_spec_flag"][:4], [4, 0, 0, 4])
    assert np.isfinite(objects["half_light_radius_arcsec"]).all()


def test_redshifts_may_be_text_with_gaps():
    table = make_table()
    expected = np.where(np.arange(30) % 3 == 0, np.nan, table["z_spec"])
    table["z_spec"] = np.where(np.isnan(expected), "--", expected.astype(str))
    np.testing.assert_allclose(given(table).table["z_spec"], expected)


def test_kinds_count_in_capitals_too_and_others_are_named(caplog):
    table = make_table()
    kinds = ["STAR", "Quasar", "Galaxy", "other", "QSO", ""]
    table["kind"] = np.array(kinds + ["galaxy"] * (len(table["z_spec"]) - len(kinds)))
    table["z_spec"][5] = 0.0  # nobody said what it is
    objects = given(table).table
    assert objects["kind"][:6].tolist() == ["star", "quasar", "galaxy", "galaxy", "quasar", "star"]
    assert (objects["half_light_radius_arcsec"][[0, 1, 4, 5]] == 0).all()
    assert "drawn as galaxies: other (1 times)" in caplog.text


def test_what_objects_are_counts_in_columns_written_in_capitals():
    table = make_table() | {"Kind": np.full(30, "STAR"), "Z_SPEC": np.zeros(30)}
    del table["z_spec"]
    objects = given(table).table
    assert (objects["kind"] == "star").all()
    assert (objects["z_spec_flag"] == 4).all()


def test_redshifts_and_identities_under_other_names_are_said(caplog):
    table = make_table()
    given(table)
    assert not caplog.text
    table["redshift"], table["ID"] = table.pop("z_spec"), table.pop("object_id")
    assert np.isnan(given(table).table["z_spec"]).all()
    assert "redshifts are not known; is it 'redshift'?" in caplog.text
    assert "columns=['object_id=ID']" in caplog.text
    caplog.clear()
    given(table, {"z_spec": "redshift", "object_id": "ID"})
    assert not caplog.text


def test_of_several_tables_in_a_file_the_one_with_the_magnitudes_is_meant(tmp_path):
    given = make_table(20)
    tables = [Table({"ra": [1.0, 2.0], "dec": [1.0, 2.0]}), Table(given)]
    fits.HDUList([fits.PrimaryHDU(), *map(fits.BinTableHDU, tables)]).writeto(tmp_path / "two.fits")
    out = deepfits.simulate(tmp_path / "sky", catalogue=tmp_path / "two.fits", size=256)
    truth = pq.read_table(out / "truth.parquet")
    assert set(truth["object_id"].to_pylist()) == set(given["object_id"].tolist())


@pytest.mark.parametrize(
    "values", [np.arange(30) % 2 * 3 + 3, np.arange(30) > 5, np.array(["PSF", "DEV"] * 15)], ids=str
)
def test_kinds_in_a_surveys_own_code_are_refused(values):
    """SDSS's 3 and 6, a column of truth values and the types of the Legacy Surveys were all galaxies."""
    with pytest.raises(InputError, match=r"column 'kind' must be galaxy, star or quasar, not .* times"):
        given(make_table() | {"kind": values})


@pytest.mark.parametrize(
    "name", ["isStar", "star_flag", "CLASS_STAR", "lp_type", "type", "i_extendedness_value"]
)
def test_columns_that_tell_stars_are_said(caplog, name):
    table = make_table()
    table[name] = np.arange(30) % 2 / 1.0
    given(table)
    assert f"{name} may distinguish stars" in caplog.text
    caplog.clear()
    given(table | {name: np.zeros(30)})
    given(table | {"kind": np.full(30, "galaxy")})
    assert "stars" not in caplog.text


def test_stars_move_and_a_table_of_them_is_doubted(caplog):
    table = make_table()
    table["z_spec"][:20] = np.linspace(-4e-4, 4e-4, 20)
    objects = given(table).table
    assert objects["kind"].tolist() == ["star"] * 20 + ["galaxy"] * 10
    assert (objects["z_spec"][:20] == 0).all()
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "20 of 30 objects with a redshift are drawn as stars" in record.getMessage()


def test_sizes_and_angles_count_in_the_units_that_the_table_says():
    table = make_table()
    arcsec = table["half_light_radius_arcsec"].copy()
    angle = np.radians(table["angle_deg"])
    changed = table | {"half_light_radius_arcsec": arcsec / 3600, "angle_deg": angle}
    objects = given(changed, half_light_radius_arcsec="deg", angle_deg="rad").table
    np.testing.assert_allclose(objects["half_light_radius_arcsec"], arcsec)
    np.testing.assert_allclose(objects["angle"], angle)
    for unit in ("arcseconds", "ARCSEC", '"'):
        found = given(table, half_light_radius_arcsec=unit).table["half_light_radius_arcsec"]
        np.testing.assert_allclose(found, arcsec)
    with pytest.raises(InputError, match="'half_light_radius_arcsec' is in 'pix'; it must be in arcsec"):
        given(table, half_light_radius_arcsec="pix")


def test_a_code_in_place_of_an_angle_is_none():
    table = make_table()
    table["angle_deg"][:3] = -999.0
    expected = given({k: v for k, v in make_table().items() if k != "angle_deg"}).table["angle"][:3]
    np.testing.assert_array_equal(given(table).table["angle"][:3], expected)


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        (lambda mag: 10 ** ((23.9 - mag) / 2.5), "uJy", "is a flux .uJy.; AB magnitudes are needed: .* 23.9"),
        (lambda mag: 10 ** ((22.5 - mag) / 2.5), "", "seems to hold fluxes, such as"),
        (lambda mag: 10 ** ((31.4 - mag) / 2.5), "", "seems to hold fluxes, such as"),
        (lambda mag: mag, "mag(ST)", "holds magnitudes of another system"),
        (lambda mag: mag, "vegamag", "holds magnitudes of another system"),
        (lambda mag: np.stack([mag, mag], axis=1), "mag", "holds lists of 2 numbers"),
        (lambda mag: mag.astype(str) + "*", "", r"holds text, not numbers, such as '\d+\.\d+\*'"),
    ],
)
def test_what_is_no_ab_magnitude_is_refused(values, unit, message):
    table = make_table()
    table["g_cmodel"] = values(table["mag_g"])
    with pytest.raises(InputError, match=f"table: column 'g_cmodel' .given as mag_g. {message}"):
        given(table, {"mag_g": "g_cmodel"}, g_cmodel=unit)


def test_a_column_called_flux_is_one():
    table = make_table()
    table["flux_g"] = 10 ** ((22.5 - table["mag_g"]) / 2.5) + 5  # all of it between 5 and 40
    with pytest.raises(InputError, match=r"'flux_g' .given as mag_g. is a flux .judging by its name."):
        given(table, {"mag_g": "flux_g"})


@pytest.mark.parametrize("unit", ["mag", "mag(AB)", "ABmag", "AB"])
def test_units_of_ab_magnitudes_change_nothing(unit):
    objects = given(make_table(), **{f"mag_{b}": unit for b in BANDS}).table
    np.testing.assert_array_equal(objects["flux"], given(make_table()).table["flux"])


def test_a_magnitude_that_stands_for_none_again_and_again_is_none(caplog):
    caplog.set_level("INFO")
    table = make_table()
    table["mag_u"][:4] = 37.5  # of a flux of 0.001, as DES wrote it
    assert given(table).left_out == 4
    assert "4 of 30 rows lack a magnitude and are left out: u (4 rows)" in caplog.text


@pytest.mark.parametrize("factor", [299792.458, 40.0], ids=["velocities", "magnitudes"])
def test_a_column_that_holds_no_redshifts_is_refused(factor):
    table = make_table()
    table["z_spec"] *= factor
    with pytest.raises(InputError, match="column 'z_spec' does not hold redshifts: its median is"):
        given(table)


def test_red_galaxies_get_early_types():
    from deepfits.sky.population import EARLY, IRREGULAR
    from deepfits.sky.spectra import colour_grid

    grid = colour_grid(tuple(b.filter for b in SURVEY.bands))
    for place, kind in ((0.0, EARLY), (4.5, IRREGULAR)):
        log_flux = grid.at(np.array([place]), np.zeros(1), np.array([0.5]))[0]
        mag = 21 - 2.5 * (log_flux - log_flux[3])
        table = {f"mag_{b}": mag[[i]] for i, b in enumerate(BANDS)} | {"z_spec": np.array([0.5])}
        objects = given(table).table
        assert objects["type"][0] == kind
        assert objects["template"][0] == pytest.approx(place, abs=0.01)


def test_objects_stand_apart():
    x, y = grid_positions(200, 1000, np.random.default_rng(3))
    distance = np.hypot(np.subtract.outer(x, x), np.subtract.outer(y, y)) + 1e9 * np.eye(200)
    assert distance.min() > 20
    assert x.min() > 0
    assert max(x.max(), y.max()) < 1000


def test_a_users_table_becomes_a_sky(tmp_path):
    table = make_table(40)
    table["m_u"] = table.pop("mag_u")
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table(table), path)
    out = deepfits.simulate(
        tmp_path / "sky", catalogue=path, columns=["mag_u=m_u"], where=["z_spec < 0.9"], size=256
    )
    truth = pq.read_table(out / "truth.parquet").to_pandas().set_index("object_id")
    expected = table["object_id"][table["z_spec"] < 0.9]
    assert set(truth.index) == set(expected.tolist())
    assert set(truth.patch) == {"patch-00", "patch-01"}  # 25 to a patch
    # Nobody knows whose magnitudes these are.
    assert fits.getval(next((out / "patch-00").glob("*g.fits")), "WAVELEN") == 0
    np.testing.assert_allclose(truth.loc[expected, "mag_u"], table["m_u"][table["z_spec"] < 0.9])
    with pytest.raises(InputError, match="made with where"):
        deepfits.simulate(tmp_path / "sky", catalogue=path, columns=["mag_u=m_u"], size=256, num_patches=2)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"mag_u": None}, {}, "no column 'mag_u'"),
        ({}, {"columns": ["mag_u=m_u"]}, "no column 'm_u'"),
        ({}, {"columns": ["magnitude_u=mag_u"]}, "not a column that `simulate` reads"),
        ({}, {"columns": ["mag_u"]}, "is not OURS=THEIRS"),
        ({}, {"columns": ["mag_u=mag_g", "mag_u=mag_r"]}, "'mag_u' is given twice"),
        ({}, {"where": ["z_spec > 5"]}, "no row satisfies"),
        ({"mag_u": np.full(30, -99.0)}, {}, "no row has a magnitude in every band"),
        ({"object_id": np.ones(30)}, {}, "occurs 30 times; make it unique"),
        ({name: np.zeros(0) for name in make_table()}, {}, "the catalogue has no rows"),
    ],
)
def test_tables_that_will_not_do_are_refused_with_reasons(tmp_path, change, options, message):
    table = make_table() | change
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), path)
    with pytest.raises(InputError, match=message):
        deepfits.simulate(tmp_path / "sky", catalogue=path, size=256, **options)


@pytest.mark.real
def test_zcosmos_becomes_a_sky_with_natures_colours(tmp_path):
    path = REAL_DATA / "zcosmos/zcosmost_bright20k.csv"
    if not path.exists():
        pytest.skip(f"no zCOSMOS table at {path}; set DEEPFITS_REAL_DATA")
    columns = [f"mag_{b}={b}_photzi25" for b in BANDS]
    columns += ["z_spec=zpec", "z_spec_flag=cc", "object_id=id_zcosmos"]
    out = deepfits.simulate(
        tmp_path / "sky", catalogue=path, columns=columns, size=1500, where=["cc >= 3", "id_zcosmos < 810000"]
    )
    truth = pq.read_table(out / "truth.parquet").to_pandas()
    assert len(truth) > 1000
    galaxies = truth[truth.kind == "galaxy"]
    assert 0.4 < galaxies.z_spec.median() < 0.8
    image = fits.getdata(out / "patch-00/coadd-i.fits")
    assert np.isfinite(image).all()
