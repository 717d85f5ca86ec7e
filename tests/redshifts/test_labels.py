"""Labels: file formats, conditions, matching by position and ID, and the split."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import deepfits
from deepfits.errors import InputError
from deepfits.redshifts.dataset import make_dataset
from deepfits.redshifts.labels import (
    Labels,
    match_labels,
    read_estimates,
    read_labels,
    read_table_of_estimates,
)
from deepfits.redshifts.split import split_objects
from deepfits.splits import is_held_out
from deepfits.tables import matches_conditions, read_table, write_table
from deepfits.tables.values import is_redshift_name


@pytest.fixture
def table():
    return Table(
        {
            "object_id": np.arange(6),
            "ra": 150 + np.arange(6) / 100,
            "dec": np.full(6, 2.0),
            "z_spec": [0.1, 0.5, np.nan, 1.2, 3.0, np.inf],
            "z_spec_flag": [4, 2, 4, 3, 1, 4],
            "kind": ["galaxy", "galaxy", "star", "galaxy", "quasar", "galaxy"],
        }
    )


@pytest.mark.parametrize("ending", ["fits", "csv", "ecsv", "parquet"])
def test_every_format_gives_the_same_columns(table, tmp_path, ending):
    path = tmp_path / f"labels.{ending}"
    if ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: table[name].tolist() for name in table.colnames}
        pq.write_table(pa.table(columns), path)
    else:
        table.write(path)
    found = read_table(path)
    assert list(found) == table.colnames
    np.testing.assert_array_equal(found["z_spec"], table["z_spec"])
    np.testing.assert_array_equal(found["z_spec_flag"], table["z_spec_flag"])
    assert found["kind"].tolist() == table["kind"].tolist()
    assert found["ra"].dtype.isnative


def test_invalid_labels_are_excluded_and_counted(table, tmp_path):
    table.write(tmp_path / "labels.fits")
    labels = read_labels(tmp_path / "labels.fits", select=["z_spec_flag >= 3", "kind == galaxy"])
    assert labels.value.tolist() == [0.1, 1.2]
    assert labels.counts == {"rows": 6, "not_selected": 3, "not_finite": 1}
    assert labels.columns["object_id"].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("column", "select", "word"),
    [
        ("z_spek", [], "did you mean 'z_spec'"),
        ("kind", [], "holds text, not numbers"),
        ("z_spec", ["z_spec_flag > 100"], "none of 6 rows"),
        ("z_spec", ["z_spec_flag"], "'z_spec_flag == true': the column is numeric"),
        ("z_spec", ["z_spec_flag >= good"], "'good' is not a number"),
        ("z_spec", ["z_spec_flag, 3"], "COLUMN OP VALUE"),
        ("z_spec", ["flagg >= 3"], "no column 'flagg'"),
    ],
)
def test_errors_for_wrong_labels(table, tmp_path, column, select, word):
    table.write(tmp_path / "labels.ecsv")
    with pytest.raises(InputError, match=word):
        read_labels(tmp_path / "labels.ecsv", column=column, select=select)


@pytest.mark.parametrize("values", [[True, False, True], [True, True, True], [1, 0, 1], [1.0, 0.0, np.nan]])
def test_a_column_that_tells_which_objects_have_a_redshift_is_refused(tmp_path, values):
    Table({"object_id": [1, 2, 3], "z_spec": values}).write(tmp_path / "labels.fits")
    with pytest.raises(InputError, match="'z_spec' holds only true and false, or 0 and 1"):
        read_labels(tmp_path / "labels.fits")


def test_errors_for_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "absent.csv")
    for name in ("broken.parquet", "broken.fits", "broken.ecsv"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=name):
            read_table(tmp_path / name)
    (tmp_path / "labels.docx").write_bytes(b"")
    with pytest.raises(InputError, match="by extension or content"):
        read_table(tmp_path / "labels.docx")


def test_bool_conditions():
    columns = {"good": np.array([True, False])}
    assert matches_conditions(columns, ["good == true"], "x").tolist() == [True, False]
    assert matches_conditions(columns, ["good != true"], "x").tolist() == [False, True]


def make_sky(number, seed, shift_arcsec=0.0):
    generator = np.random.default_rng(seed)
    ra, dec = 150 + generator.uniform(0, 0.2, number), 2 + generator.uniform(0, 0.2, number)
    return {"object_id": np.arange(number), "ra": ra, "dec": dec + shift_arcsec / 3600}


def as_labels(columns, value=None):
    value = np.arange(len(columns["ra"]), dtype=float) if value is None else value
    return Labels(value=value, columns=columns, where="labels.fits")


def test_match_by_position_finds_shuffled_objects():
    sky = make_sky(300, 0)
    order = np.random.default_rng(1).permutation(300)
    labels = as_labels({name: sky[name][order] for name in ("ra", "dec")}, order.astype(float))
    found = match_labels(sky, labels, radius_arcsec=0.5)
    assert found.by == "position"
    np.testing.assert_array_equal(labels.value[found.label_rows], found.rows)
    assert len(found.rows) == 300


def test_match_is_one_to_one_with_the_nearest_label():
    features = {"object_id": np.arange(2), "ra": np.array([10.0, 10.0]), "dec": np.array([0.0, 0.5 / 3600])}
    labels = as_labels({"ra": np.array([10.0]), "dec": np.array([0.4 / 3600])})
    found = match_labels(features, labels, radius_arcsec=1.0)
    assert found.rows.tolist() == [1]
    assert found.separation_arcsec[0] == pytest.approx(0.1, abs=1e-3)


def test_other_positions_that_match_more_objects_are_named(caplog):
    """Catalogues of X-ray and radio sources also have the positions of their optical counterparts."""
    sky = make_sky(300, 0)
    apart = np.random.default_rng(1).normal(0, 1.5 / 3600, (2, 300))
    source = {"ra": sky["ra"] + apart[0], "dec": sky["dec"] + apart[1]}
    said = (
        r"labels\.fits: 300 objects match the positions in CTP_RA and CTP_DEC, but only \d\d those that are"
    )
    match_labels(sky, as_labels(source | {"CTP_RA": sky["ra"], "CTP_DEC": sky["dec"]}))
    assert re.search(said, caplog.text)
    caplog.clear()
    few = {name: sky[name][:9] for name in ("ra", "dec")}
    places = {name: np.concatenate([sky[name][:9], sky[name] + 1]) for name in few}
    match_labels(sky, as_labels(places | {"RA_TARG": places["ra"], "DEC_TARG": places["dec"]}))
    assert not caplog.text


def test_match_respects_the_radius():
    sky = make_sky(50, 2)
    near, far = (as_labels(make_sky(50, 2, shift)) for shift in (0.9, 1.1))
    assert len(match_labels(sky, near, match="position").rows) == 50
    with pytest.raises(InputError, match=r"offset by .* more than the radius"):
        match_labels(sky, far, match="position")


def test_labels_offset_by_more_than_the_radius_are_refused(caplog):
    """In a dense field a third of them match a wrong object within the radius."""
    sky = make_sky(60_000, 2)
    few = {name: values[::100] for name, values in sky.items()}
    east = 1.2 / 3600 / np.cos(np.radians(few["dec"]))
    shifted = as_labels({"ra": few["ra"] + east, "dec": few["dec"] - 0.8 / 3600})
    with pytest.raises(InputError, match=r"by \+1\.20″ in right ascension and \-0\.80″ in declination"):
        match_labels(sky, shifted)
    elsewhere = make_sky(600, 9)
    match_labels(sky, as_labels({name: elsewhere[name] for name in ("ra", "dec")}))  # not offset
    assert "as by chance" in caplog.text
    caplog.clear()
    apart = np.random.default_rng(4).normal(0, 0.1 / 3600, (2, 600))
    found = match_labels(sky, as_labels({"ra": few["ra"] + apart[0], "dec": few["dec"] + apart[1]}))
    assert (found.rows != 100 * found.label_rows).mean() < 0.05
    assert "offset" not in caplog.text
    assert "by chance" not in caplog.text


def test_labels_of_the_same_identity_elsewhere_are_left_out(caplog):
    """Such as those of another field, in which the same numbers are those of other objects."""
    sky, other = make_sky(60, 2), make_sky(60, 3)
    of_two = {name: np.concatenate([sky[name][:40], other[name][30:50]]) for name in sky}
    labels = as_labels(of_two)
    found = match_labels(sky, labels, match="id")
    assert found.label_rows.tolist() == list(range(40))
    assert found.counts == {"elsewhere": 20}
    assert (
        "20 elsewhere; those elsewhere lie more than 1.0″ from the object of their object_id" in caplog.text
    )


def test_identities_that_start_anew_in_each_field_are_told(caplog):
    labels = as_labels({"object_id": np.tile(np.arange(20), 2)}, np.linspace(0.1, 2.0, 40))
    labels.columns["object_id"][:2] = 50, 51
    features = {"object_id": np.arange(60)}
    assert match_labels(features, labels).rows.tolist() == [0, 1, 50, 51]
    assert "36 disagreeing; these are left out: " in caplog.text
    assert "or the labels of one field if object_id starts anew in each" in caplog.text


@pytest.mark.parametrize("fields", ["AEGIS", "UDS"])
def test_few_identities_that_two_fields_share_show_that_they_start_anew(fields):
    """Labels are sparse: only two of forty identities are in both fields, but all of the other are wrong."""
    of_two = {"object_id": np.r_[np.arange(40), np.arange(38, 78)], "field": np.repeat(["UDS", fields], 40)}
    labels = as_labels(of_two, np.linspace(0.1, 2.0, 80))
    features = {"object_id": np.arange(100)}
    if fields == "UDS":  # several spectra of one object, most of which failed
        assert len(match_labels(features, labels).rows) == 76
        return
    with pytest.raises(InputError, match="2 of 2 that are in two, such as UDS and AEGIS, have different"):
        match_labels(features, labels)
    placed, known = (
        c | {"ra": 150.0 + c["object_id"], "dec": 0 * c["object_id"]} for c in (features, of_two)
    )
    found = match_labels(placed, as_labels(known, labels.value), match="id")  # objects at the same place
    assert (len(found.rows), found.counts) == (76, {"disagreeing": 4})
    labels.value[[38, 39]] = labels.value[[40, 41]]  # objects in overlapping pointings, observed twice
    assert len(match_labels(features, labels).rows) == 78


@pytest.mark.parametrize("is_blend", [True, False])
def test_further_labels_within_the_radius_that_disagree_cause_a_warning(caplog, is_blend):
    sky = make_sky(50, 2)
    twice = {"object_id": np.arange(100), "ra": np.tile(sky["ra"], 2)}
    twice["dec"] = np.concatenate([sky["dec"], sky["dec"] + 0.5 / 3600])
    value = np.linspace(0.1, 1.0, 50)
    labels = as_labels(twice, np.concatenate([value, value + (0.4 if is_blend else 0)]))
    assert match_labels(sky, labels).label_rows.tolist() == list(range(50))
    said = "50 of 100 labels are within 1″ of an object, but disagree with its nearest label"
    assert (said in caplog.text) is is_blend
    caplog.clear()
    few = as_labels({name: column[:52] for name, column in twice.items()}, labels.value[:52])
    match_labels(sky, few)  # as normal as in a crowded field
    assert "WARNING" not in caplog.text


def test_match_by_id_joins_text_and_numbers():
    features = {"object_id": np.array([5, 7, 9])}
    labels = as_labels({"object_id": np.array(["9", "5", "1"]), "ra": np.zeros(3)})
    found = match_labels(features, labels)
    assert found.by == "id"
    assert labels.value[found.label_rows].tolist() == [1, 0]
    assert found.rows.tolist() == [0, 2]


@pytest.mark.parametrize("nowhere", ["features", "labels"])
def test_match_by_id_where_no_object_has_a_position(nowhere):
    """Images without WCS have NaN in ra and dec, and so have labels whose columns are empty."""
    sky = make_sky(50, 2)
    without = {**sky, "ra": np.full(50, np.nan), "dec": np.full(50, np.nan)}
    features, labels = (without, sky) if nowhere == "features" else (sky, without)
    found = match_labels(features, as_labels({**labels}))
    assert found.by == "id"
    assert len(found.rows) == 50


def test_inconsistent_ids_are_detected():
    sky, other = make_sky(50, 2), make_sky(50, 3)
    with pytest.raises(InputError, match="another numbering"):
        match_labels(sky, as_labels(other), match="id")


def test_nothing_in_common_is_an_error():
    features = {"object_id": np.array([1, 2])}
    with pytest.raises(InputError, match="no overlap"):
        match_labels(features, as_labels({"object_id": np.array([3, 4]), "ra": np.zeros(2)}))
    with pytest.raises(InputError, match="no column 'object_id'"):
        match_labels(features, as_labels({"name": np.array([3, 4]), "ra": np.zeros(2)}))
    with pytest.raises(InputError, match="needs ra and dec"):
        match_labels(features, as_labels({"ra": np.zeros(2)}), match="position")


@pytest.fixture
def objects():
    generator = np.random.default_rng(4)
    return np.arange(5000), generator.gamma(2, 0.4, 5000), generator.normal(23, 1, 5000)


def test_split_keeps_held_out_objects_for_the_test(objects):
    split = split_objects(*objects)
    np.testing.assert_array_equal(split.test, np.flatnonzero(is_held_out(objects[0])))
    parts = [split.train, split.validation, split.test, split.unused]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(5000))
    assert len(split.validation) == pytest.approx(0.2 * len(split.fitted), abs=2)


def test_validation_is_stratified(objects):
    _, value, magnitude = objects
    split = split_objects(*objects)
    for column in (value, magnitude):
        edges = np.quantile(column[split.fitted], np.linspace(0, 1, 6))
        share = np.histogram(column[split.validation], edges)[0] / len(split.validation)
        # a random choice of 800 scatters by 0.014; a stratified one by much less
        np.testing.assert_allclose(share, 0.2, atol=0.015)


def test_fewer_labels_are_a_subset_of_more(objects):
    with pytest.raises(InputError, match="training needs at least 30 labels, not 20"):  # of `numbers`, too
        split_objects(*objects, max_labels=20)
    small = split_objects(*objects, max_labels=100)
    large = split_objects(*objects, max_labels=1000)
    assert len(small.fitted) == 100
    assert np.isin(small.fitted, large.fitted).all()
    np.testing.assert_array_equal(small.test, large.test)
    other = split_objects(*objects, max_labels=100, seed=1)
    assert not np.isin(small.fitted, other.fitted).all()


def test_split_does_not_depend_on_order(objects):
    identity, value, magnitude = objects
    order = np.random.default_rng(0).permutation(len(identity))
    split = split_objects(*objects, max_labels=500)
    shuffled = split_objects(identity[order], value[order], magnitude[order], max_labels=500)
    np.testing.assert_array_equal(np.sort(order[shuffled.fitted]), split.fitted)


def test_blocks_are_never_split(objects):
    generator = np.random.default_rng(5)
    ra, dec = 150 + generator.uniform(0, 1, 5000), generator.uniform(0, 1, 5000)
    split = split_objects(*objects, ra=ra, dec=dec, block_arcmin=6.0)
    assert len(split.test) > 20
    row = np.floor(dec * 10).astype(int)
    column = np.floor(ra * np.cos(np.radians((row + 0.5) / 10)) * 10).astype(int)
    square = row * 100000 + column
    assert not np.isin(square[split.test], square[split.fitted]).any()
    with pytest.raises(InputError, match="needs ra and dec"):
        split_objects(*objects, block_arcmin=6.0)


def test_too_few_labels_are_an_error(objects):
    with pytest.raises(InputError, match="too few labels"):
        split_objects(*(column[:20] for column in objects))
    with pytest.raises(InputError, match="at least 30"):
        split_objects(*objects, max_labels=10)
    with pytest.raises(InputError, match="match radius; train_select leaves 7 of 5000"):
        split_objects(*objects, is_trainable=np.arange(5000) < 7)


@pytest.mark.parametrize("name", ["object_id", "part", "ra"])
def test_reserved_target_names_are_refused(tmp_path, name):
    """Previously, the split of a target called ``part`` contained the target instead of the parts."""
    with pytest.raises(InputError, match=f"the name '{name}' is reserved in results"):
        read_labels(tmp_path / "l.fits", column=name)


def test_external_estimates_with_placeholders_text_and_poor_values(caplog):
    z = np.linspace(0.1, 2, 30)
    codes = np.where(np.arange(30) < 4, -99.0, z)
    found = read_estimates({"zb": codes}, "zb", "mine.csv")
    np.testing.assert_array_equal(found, np.where(codes < 0, np.nan, z))
    assert "mine.csv: 4 of 30 rows have no zb: -99 (4 times) is a placeholder there" in caplog.text
    caplog.clear()
    for wrong in ([-0.05, 7.3], [6.0, 6.0, 6.0]):  # the latter at the end of a program's grid
        poor = np.append(z, wrong)
        np.testing.assert_array_equal(read_estimates({"zb": poor}, "zb", "mine.csv"), poor)
    np.testing.assert_array_equal(read_estimates({"zb": z.astype(str)}, "zb", "mine.csv"), z)
    assert not caplog.text
    assert np.isnan(read_estimates({"zb": np.full(30, -99.0)}, "zb", "mine.csv")).all()
    with pytest.raises(InputError, match=r"mine.csv: column 'zb' holds lists of 2 values"):
        read_estimates({"zb": np.stack([z, z], axis=1)}, "zb", "mine.csv")
    with pytest.raises(
        InputError, match=r"mine.csv: the median of column 'z_phot' is 1.05e\+03: .*not redshifts"
    ):
        read_estimates({"z_phot": 1000 * z}, "z_phot", "mine.csv")  # as Pan-STARRS's database holds them


def test_tables_of_estimates_are_read_as_estimates(tmp_path, caplog):
    """Previously, they were read as labels: poor ones were excluded, and errors named options of labels."""
    z = np.linspace(0.1, 2, 40)
    z[:5], z[5] = 0.0, 23.0
    path = write_table(
        tmp_path / "eazy.fits",
        {"id": np.arange(40), "ra": 150 + z, "dec": z, "zb": np.where(z == z[6], -99.0, z), "flag": z > 1},
    )
    found = read_table_of_estimates(path, "zb")
    np.testing.assert_array_equal(found.value, np.delete(z, 6))
    np.testing.assert_array_equal(found.columns["object_id"], np.delete(np.arange(40), 6))
    assert "1 of 40 rows have no zb: -99" in caplog.text
    assert "select" not in caplog.text
    Table({"ra": z, "dec": z, "zb": np.full(40, np.nan)}).write(tmp_path / "none.fits")
    with pytest.raises(InputError, match=r"none\.fits: none of 40 rows has an estimate in 'zb'"):
        read_table_of_estimates(tmp_path / "none.fits", "zb")


def test_placeholders_are_not_magnitudes(tmp_path):
    """Previously, −99 counted as a magnitude, and bins began there."""
    number = 200
    magnitude = np.random.default_rng(3).uniform(18, 24, number)
    coded = magnitude.copy()
    coded[:60] = np.tile([-99.0, 99.0, -9999.0, 1e20, np.inf, 37.5], 10)
    table = Table({"object_id": np.arange(number), "z_spec": np.linspace(0.1, 1, number), "mag_i": coded})
    table.write(tmp_path / "l.fits")
    features = {"object_id": np.arange(number), "latent": np.ones((number, 2)), "mag_i": magnitude}
    dataset = make_dataset(features, read_labels(tmp_path / "l.fits"))
    assert dataset.magnitude_name == "mag_i"
    np.testing.assert_array_equal(dataset.magnitude[60:], coded[60:])
    assert np.isnan(dataset.magnitude[:60]).all()
    table["mag_i"] = -99.0  # no valid magnitudes: use those of the features
    table.write(tmp_path / "l.fits", overwrite=True)
    dataset = make_dataset(features, read_labels(tmp_path / "l.fits"))
    np.testing.assert_array_equal(dataset.magnitude, magnitude)


@pytest.mark.parametrize(("name", "is_said"), [("kind", True), ("z_spec", False), ("size", False)])
def test_codes_of_classes_that_are_learned_as_numbers_are_said(tmp_path, caplog, name, is_said):
    """Of 0, 1 and 2, numbers such as 0.7 were predicted without a word."""
    number = 200
    value = np.arange(number) % 3 + (0.5 * np.arange(number) if name == "size" else 1)
    Table({"object_id": np.arange(number), name: value}).write(tmp_path / "l.fits")
    features = {"object_id": np.arange(number), "latent": np.ones((number, 2))}
    make_dataset(features, read_labels(tmp_path / "l.fits", column=name))
    said = "kind is learned as a number although it has only 3 values (1, 2, 3); if they are classes"
    assert (said in caplog.text) == is_said


@pytest.mark.parametrize(
    ("name", "factor", "is_said"),
    [
        *((name, 1, True) for name in ("zfit", "PHZ_BEST", "pfs_z", "nnAvgZ", "zp", "zPerson", "REDSH")),
        *((name, 1, False) for name in ("z_spec", "size", "flux_z", "axis_ratio", "log_mass")),
        *((name, 25, False) for name in ("zp", "z_offset")),
    ],
)
def test_targets_that_may_be_redshifts_of_another_name(table, tmp_path, caplog, name, factor, is_said):
    table[name] = np.linspace(0.1, 1, 6) * factor
    table.write(tmp_path / "l.csv", overwrite=True)
    read_labels(tmp_path / "l.csv", column=name)
    assert (f"{name} is taken for another property than redshift" in caplog.text) == is_said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best_z", True),
        ("sp_z", True),
        ("zBEST", True),
        ("z_mag", False),
        ("z_flag", False),
        ("mag_z", False),
        ("zobs", True),
        ("zmode", True),
        ("ez_z_phot", True),
        *((name, True) for name in ("photoz_best", "pz_best_dnnz", "specz_best", "lp_zp_2", "lp_zs", "ZB")),
        *((name, True) for name in ("zph", "zgal", "hetdex_z", "median_z", "SPE_Z_1", "BPZ_ZMC_SOF")),
        *((name, False) for name in ("photoz_risk", "pz_width", "radius_z", "zp", "lp_type", "size")),
        *(
            (name, True)
            for name in (
                "ZPRIMUS",
                "zlegac",
                "annz_best",
                "zp_best",
                "DNF_ZN",
                "MEAN_Z_BPZ",
                "nsa_z",
                "ZDIST",
                "zHD",
                "zb_1",
                "bpz_z",
            )
        ),
        ("z_min_risk", True),
        *((name, False) for name in ("ZSRC", "z_best_type", "zspec_qual", "z_risk", "zspec_ref", "z_q")),
        *((name, False) for name in ("z_auto", "Z_PETRO", "z_cmodel_ab", "z_aper3")),
        *((name, False) for name in ("Z_PHOT_STD", "Z_PHOT_L68", "z_conf", "z_ra", "Z_IVAR")),
        ("best_zspec", True),
        ("final_z", True),
        ("DNF_Z", True),
        ("SPE_Z", True),
        ("zgrism", True),
        ("BPZ_ZMEAN_SOF", True),
        ("PHZ_MODE_1", True),
        ("zmag", False),
        *((name, True) for name in ("spec-z", "Spec z", "z (spec)", "photo-z", "z-phot")),
        *((name, False) for name in ("Z_B_MIN", "redshift_qsoc_lower", "z_spec84", "zscore_qsoc")),
        *((name, True) for name in ("z_max_grism", "z_minchi2", "ez_z_phot")),
        *((name, False) for name in ("z-J", "r-z", "phot-g", "z - W1")),
        ("dered_z", False),
        ("psf_z", False),
        ("zeropoint_z", False),
        ("nobs_z", False),
        ("zone", False),
    ],
)
def test_names_of_redshifts(name, expected):
    assert is_redshift_name(name) == expected


def test_the_table_of_a_file_that_has_the_estimates_is_evaluated(tmp_path):
    number = 40
    z_spec = np.linspace(0.1, 1, number)
    places = {"ra": np.linspace(150, 151, number), "dec": np.full(number, 2.0)}
    Table({**places, "z_spec": z_spec}).write(tmp_path / "spectra.fits")
    named = {"PHOTOMETRY": {"id": np.arange(number), **places}, "PHZ": {**places, "z_phot": z_spec}}
    hdus = [fits.BinTableHDU(Table(columns), name=name) for name, columns in named.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "cat.fits")
    spectra, out = tmp_path / "spectra.fits", tmp_path / "out"
    deepfits.redshift_evaluate(tmp_path / "cat.fits", spectra, out, held_out_only=False)
    assert json.loads((out / "metrics.json").read_text())["rows"][0]["num_test"] == number


def test_a_missing_column_of_redshifts_is_to_be_named(tmp_path):
    for names, words in (
        ("z_mag,id", "valid names are: .*z_mag"),
        ("zbest", r"is it 'zbest'\?"),
        ("redshift,zspec", r"is it 'zspec'\?"),  # of HELP, whose column redshift is photometric
        ("zbest,SPEC_Z,Z", r"is it 'SPEC_Z'\?"),
        ("ZPRIMUS,ZPRIMUS_ZCONF", r"is it 'ZPRIMUS'\?"),
        ("lp_zBEST,z_phot,zHEL", r"is it 'zHEL'\?"),
        ("log1pz,zspec_flag", "valid names are: .*zspec_flag"),
    ):
        values = ",".join("0.3" for _ in names.split(","))
        (tmp_path / "t.csv").write_text(f"ra,dec,{names}\n1,2,{values}\n")
        with pytest.raises(InputError, match=rf"no column 'z_spec'; {words}; name that of the redshifts"):
            read_labels(tmp_path / "t.csv")
