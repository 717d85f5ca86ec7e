"""Pictures and tables of some objects, from the command line and from Python."""

import csv
import re
import shutil

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from astropy.table import Table

import deepfits
from deepfits import fitting
from deepfits.errors import InputError
from deepfits.explorer.objects import Objects
from deepfits.explorer.oddity import _compared
from deepfits.fitting.similarity import Similarity
from deepfits.observation import SceneGrid, Sight
from deepfits.results import require_finished
from deepfits.stages.show import _form_of
from deepfits.survey.neighbours import neighbours_of
from deepfits.tables import read_table, write_table
from tests.helpers.drawn_run import NUM, load, make_run
from tests.helpers.limits import largest_file
from tests.helpers.results import assert_same_results

FIRST = 2**60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def rows_of(path):
    with (path / "objects.csv").open() as file:
        return list(csv.DictReader(file))


def test_draw_applies_amplitudes(run):
    features = deepfits.read_features(run / "features-both")
    model, store = deepfits.Model.load(run / "model"), deepfits.CutoutStore(run / "cutouts")
    drawn = model.draw(features, [9, 3])
    cutouts = store.take(np.array([9, 3]))
    weight = np.where(neighbours_of(cutouts, store.info)[:, None], 0, cutouts.weight)
    chi2 = ((cutouts.image - drawn) ** 2 * weight).sum((1, 2, 3))
    np.testing.assert_allclose(chi2, features["chi2"][[9, 3]], rtol=1e-3)
    assert model.draw(features).shape == (NUM, *store.shape)
    assert model.draw(features, features["object_id"] < 0).shape == (0, *store.shape)
    np.testing.assert_array_equal(model.draw(Table(features), [9, 3]), drawn)
    with pytest.raises(InputError, match="row -1 is outside"):
        model.draw(features, [-1])
    with pytest.raises(InputError, match="fitted with model abc"):
        model.draw({**features, "model_hash": np.full(NUM, "abc")}, [0])


def test_show_draws_the_objects_that_are_asked_for(run, tmp_path):
    out = deepfits.show(run, ids=[FIRST + 7, str(FIRST + 3)], out=tmp_path / "show")
    found = rows_of(out)
    assert [one["object_id"] for one in found] == [str(FIRST + 7), str(FIRST + 3)]
    single = rows_of(deepfits.show(run, ids=np.int64(FIRST + 7), out=tmp_path / "single"))
    assert [one["object_id"] for one in single] == [str(FIRST + 7)]
    assert float(found[1]["z_spec"]) == pytest.approx(3 / 50)
    assert (out / "table.md").read_text().splitlines()[2].startswith(f"| {FIRST + 7}")
    picture = matplotlib.image.imread(out / "show.png")
    assert picture[..., :3].std() > 0.1
    assert (out / "show.pdf").read_bytes().startswith(b"%PDF")
    lines = (out / "table.md").read_text().splitlines()
    column = lines[0].split("|").index(next(name for name in lines[0].split("|") if "reduced_chi2" in name))
    decimals = {len(line.split("|")[column].strip().partition(".")[2]) for line in lines[2:]}
    assert len(decimals) == 1
    place = f"{found[1]['ra']} {found[1]['dec']}"
    by_place = rows_of(deepfits.show(run, ids=[place, FIRST + 7], out=tmp_path / "by-place"))
    assert [one["object_id"] for one in by_place] == [str(FIRST + 3), str(FIRST + 7)]
    with pytest.raises(InputError, match=f"has no object_id 12, .* example of an object_id there is {FIRST}"):
        deepfits.show(run, ids=[12])
    with pytest.raises(InputError, match="no object lies within 5″"):
        deepfits.show(run, ids=["10 20"])


def test_tables_of_objects_have_one_number_of_decimals():
    assert _form_of(np.array([19.91, 21.0, np.nan])) == "z.2f"
    assert _form_of(np.array([0.9875, 1.45, 0.0])) == "z.3f"
    assert _form_of(np.array([1.02, 30_000.0])) == ".4g"
    assert _form_of(np.array([np.nan])) == ".4g"


def test_pictures_do_not_depend_on_the_settings_of_the_user(run, tmp_path):
    """LaTeX for all text is common among astronomers, and absent from the nodes of clusters."""
    pictures = []
    for number, settings in enumerate(({}, {"text.usetex": True, "font.size": 30})):
        with matplotlib.rc_context(settings):
            shown = deepfits.show(run, ids=[FIRST], out=tmp_path / f"show-{number}")
            odd = deepfits.odd(run, number=2, everything=True, out=tmp_path / f"odd-{number}")
            page = deepfits.report(run, num_examples=1, out=tmp_path / f"report-{number}")
        files = shown / "show.png", odd / "odd.png", *sorted((page.parent / "figures").iterdir())
        pictures.append([file.read_bytes() for file in files])
    assert pictures[0] == pictures[1]


def test_features_of_a_model_that_came_with_the_package_are_drawn_with_it(run, tmp_path, monkeypatch):
    builtin = tmp_path / "builtin"
    monkeypatch.setattr("deepfits.models.bundle.BUILTIN_DIRECTORY", builtin)
    alone = tmp_path / "run"
    shutil.copytree(run, alone, ignore=lambda directory, names: {"model"} & set(names))
    builtin.mkdir()
    assert load(alone)[1].model is None
    shutil.copytree(run / "model", builtin / "mine")
    assert load(alone)[1].model.fingerprint == deepfits.Model.load(run / "model").fingerprint


def test_pictures_that_were_interrupted_are_made_whole_by_the_next_call(run, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    out, whole = tmp_path / "show", deepfits.show(run, ids=[FIRST + 7], out=tmp_path / "whole")
    deepfits.show(run, ids=[FIRST + 3], out=out)
    with monkeypatch.context() as patch:
        patch.setattr("deepfits.stages.show.write_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deepfits.show(run, ids=[FIRST + 7], out=out)
    with pytest.raises(InputError, match="show: is not finished"):
        require_finished(out)
    assert require_finished(deepfits.show(run, ids=[FIRST + 7], out=out))
    assert_same_results(out, whole)
    assert not list(out.glob(".writing-*"))


def test_similar_are_the_nearest_that_satisfy_the_conditions(run, tmp_path):
    out = deepfits.similar(run, ids=[FIRST + 4], number=5, where="z_spec < 0.5", out=tmp_path / "similar")
    place = deepfits.read_features(run / "features-both")["embedding"]
    place = Similarity.read(run / "features-both", place.shape[1]).coordinates(place).astype(float)
    distance = np.sqrt(((place - place[4]) ** 2).mean(1))
    distance[[4, *range(25, NUM)]] = np.inf
    found = rows_of(out)
    wanted = [4, *np.argsort(distance)[:5].tolist()]
    assert [int(one["object_id"]) - FIRST for one in found] == wanted
    objects = load(run)[0]
    others = np.isfinite(objects.brightness) & (np.arange(NUM) != 4)
    typical = np.median(np.sqrt(((place - place[4]) ** 2).mean(1))[others])
    assert float(found[3]["distance"]) == pytest.approx(distance[wanted[3]] / typical, rel=1e-3)


def test_similar_says_that_nothing_satisfies_the_conditions(run, tmp_path, caplog):
    out = deepfits.similar(run, ids=[FIRST + 4], unlike=[FIRST + 4], out=tmp_path / "similar")
    assert [int(one["object_id"]) for one in rows_of(out)] == [FIRST + 4]
    assert "no other object satisfies the conditions" in caplog.text


def test_odd_says_why_and_obeys_conditions(run, tmp_path):
    out = deepfits.odd(run, number=6, where=["z_spec >= 0.2"], out=tmp_path / "odd")
    found = rows_of(out)
    assert len(found) == 6
    assert all(float(one["z_spec"]) >= 0.2 for one in found)
    assert all(one["why"] for one in found)
    score = [float(one["anomaly"]) for one in found]
    assert score == sorted(score, reverse=True)


def test_brightness_and_colours_are_those_of_bands_with_data(run):
    objects, _ = load(run)
    colours = [{name for name in _compared(objects, row) if "minus" in name} for row in range(NUM)]
    assert objects.reference == "i"
    assert set().union(*colours) == {"g_minus_r", "r_minus_i"}
    table = objects.table
    table.add("dof_i", np.zeros(len(objects)))
    table.add("dof_g", np.zeros(len(objects)))
    lacking = Objects(table)  # the model predicts g and i for all
    assert lacking.reference == "r"
    np.testing.assert_array_equal(lacking.brightness, lacking.column("mag_model_r"))
    compared = [name for row in range(NUM) for name in _compared(lacking, row)]
    assert set(compared) == {"half_light_arcsec_r", "concentration_r"}


def test_tables_are_joined_by_place_where_numbers_mean_something_else(run, tmp_path):
    place = {
        "object_id": np.arange(NUM) + FIRST,
        "ra": 150 + np.arange(NUM)[::-1] / 100,
        "dec": np.full(NUM, 2.0),
    }
    write_table(tmp_path / "truth.parquet", {**place, "true": np.arange(NUM)[::-1]})
    write_table(tmp_path / "own.parquet", {"object_id": np.arange(5) + FIRST, "z_spec": np.arange(5) + 1})
    table = deepfits.join(run, tables={"truth": tmp_path / "truth.parquet", "own": tmp_path / "own.parquet"})
    assert table["true"].tolist() == list(range(NUM))
    np.testing.assert_allclose(table["z_spec"], np.arange(NUM) / 50)
    np.testing.assert_allclose(table["own.z_spec"][:5], np.arange(5) + 1)
    assert np.isnan(table["own.z_spec"][5:]).all()
    assert table["latent"].shape == (NUM, 8)
    write_table(tmp_path / "none.csv", {"object_id": np.array([1, 2]), "x": np.array([1, 2])})
    with pytest.raises(InputError, match=r"none\.csv: no row matches an object"):
        deepfits.join(run, tables={"none": tmp_path / "none.csv"})


def test_they_show_themselves_in_notebooks(run):
    features = deepfits.read_features(run / "features-both")
    for shown in (
        features,
        deepfits.join(run),
        deepfits.CutoutStore(run / "cutouts"),
        deepfits.Model.load(run / "model"),
    ):
        html = shown._repr_html_()
        assert "data:image/png;base64," in html
        assert "g, r, i" in html or f"{NUM}" in html
    assert re.search(r">\d\.\d{3}<.*>\d+ (converged|step_limit)[<,]", features._repr_html_(), re.DOTALL)
    model, cutouts = deepfits.Model.load(run / "model"), deepfits.CutoutStore(run / "cutouts").take([0])
    best = fitting.fit(model.render, cutouts.image, cutouts.weight, np.zeros((1, 8), np.float32), num_steps=1)
    assert re.fullmatch(r"<Fit of 1 objects, 8 latents: 1 \w+>", repr(best))
    sight = Sight.nominal(SceneGrid(size=8, pixel_scale_arcsec=0.2, reference_fwhm_arcsec=0.5), 3)
    assert repr(sight) == "<Sight of 1 objects in 3 bands, 8×8 pixels of 0.2″>"
    features["<script>"] = features["chi2"]
    assert "<script>" not in features._repr_html_()


def test_a_model_says_what_it_is_and_what_it_fits(run, tmp_path):
    told = deepfits.model(run / "model", store=run / "cutouts")
    assert "bands g, r, i" in told
    assert "compatible: no objections" in told
    assert "builtin:clauds-hsc" in deepfits.model()
    shutil.copytree(run / "cutouts", tmp_path / "other")
    path = tmp_path / "other" / "store.json"
    path.write_text(path.read_text().replace('"i"', '"z"'))
    with pytest.raises(InputError, match="the model knows g-r-i"):
        deepfits.model(run / "model", store=tmp_path / "other")


def test_a_fit_begins_with_the_latents_of_another(run, tmp_path):
    wanted = [FIRST + n for n in range(6)]
    common = {"threads": 1, "object_ids": wanted, "amplitudes": "fit", "prior_strength": 0.0}
    given = (run / "cutouts", run / "model")
    again = deepfits.fit(*given, tmp_path / "again", start=run / "features-both", uncertainty=False, **common)
    found, before = deepfits.read_features(again), deepfits.read_features(run / "features-both")
    # begun where the other came to: it is at its end at once
    np.testing.assert_allclose(found["loss_start"], before["loss"][:6], rtol=1e-3)
    assert (found["num_steps"] < before["num_steps"][:6]).all()
    with pytest.raises(InputError, match="start"):
        deepfits.fit(*given, tmp_path / "again", uncertainty=False, **common)
    with pytest.raises(InputError, match="mode 'embedder' does not fit"):
        deepfits.fit(*given, tmp_path / "none", mode="embedder", start=run / "features-both")


def test_catalogue_and_spectra_are_exported_beside_the_features(run, tmp_path):
    write_table(tmp_path / "spectra.csv", {"object_id": np.arange(9) + FIRST, "quality": np.arange(9)})
    given = {"store": run / "cutouts", "tables": {"spectra": tmp_path / "spectra.csv"}}
    for ending in ("parquet", "fits"):
        path = tmp_path / f"all.{ending}"
        deepfits.export(run / "features-both", path, where="quality > 5 and z_spec > 0", **given)
        found = read_table(path)
        assert (found["object_id"] - FIRST).tolist() == [6, 7, 8]
        np.testing.assert_allclose(found["z_spec"], np.array([6, 7, 8]) / 50)
        assert found["latent"].shape == (3, 8)


def test_a_full_disk_is_named_with_the_export(run, tmp_path):
    """Also while the joined columns are written, which lie in a temporary directory."""
    with largest_file(4000), pytest.raises(OSError, match=r"File too large: '[^']*/x/all\.parquet'"):
        deepfits.export(run, tmp_path / "x" / "all.parquet")


def test_a_run_is_exported_with_all_that_is_known_of_it(run, tmp_path):
    out = deepfits.export(run, tmp_path / "all.parquet", where="reduced_chi2 > 0 and z_spec < 0.2")
    found = read_table(out)
    assert (found["object_id"] - FIRST).tolist() == list(range(10))
    assert {"latent", "z_spec", "anomaly"} <= found.keys()
    assert "reduced_chi2" not in found
    twice = ["object_id", "chi2", "object_id"]
    for ending in ("csv", "parquet"):
        path = deepfits.export(run / "features-both", tmp_path / f"twice.{ending}", columns=twice)
        assert list(read_table(path)) == ["object_id", "chi2"]
    out = deepfits.export(
        run, tmp_path / "few.csv", columns=["object_id", "g_minus_r", "r_minus_i", "g_minus_i"]
    )
    few = read_table(out)
    assert list(few) == ["object_id", "g_minus_r", "r_minus_i", "g_minus_i"]
    np.testing.assert_allclose(few["g_minus_i"], few["g_minus_r"] + few["r_minus_i"], rtol=1e-5)
    with pytest.raises(
        InputError, match=r"no column 'z_spek' among those of features, .*: 'z_spec' \(catalogue\)"
    ):
        deepfits.export(run, tmp_path / "none.csv", columns=["z_spek"])
    with pytest.raises(InputError, match="cutouts has it: give the run"):
        deepfits.export(run / "features-both", tmp_path / "none.csv", where="z_spec < 1")
