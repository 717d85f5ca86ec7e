"""What a run file says, and what is made of it, before any stage runs."""

import json
from pathlib import Path

import numpy as np
import pytest

import deepfits
from deepfits.errors import InputError, TooFewGalaxiesError
from deepfits.fitting.features import DESCRIPTION
from deepfits.models.bundle import Model
from deepfits.progress import silent
from deepfits.redshifts.labels import read_labels
from deepfits.splits import is_held_out
from deepfits.stages.run import _bands_to_hide, _from_scenes, _run, read_run_file
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard
from tests.helpers.redshift_inputs import make_sky, write_labels


def run_file(directory, text):
    (directory / "run.toml").write_text(text)
    return read_run_file(directory / "run.toml")


def test_paths_are_relative_to_the_file_whatever_else_is_said_of_them(tmp_path):
    read = run_file(
        tmp_path,
        '[images]\npath = ["coadds/r.fits", "g=coadds/one.fits", "/a/run=3/i.fits"]\n'
        '[redshift]\nlabels = "spectra.csv"\nscenes = "model"\n[inpaint]\ntruth = "/b/truth.parquet"\n'
        '[simulate]\nsurvey = "sdss-like"\npopulation = "laws.toml"\n',
    )
    assert read.images == [f"{tmp_path}/coadds/r.fits", f"g={tmp_path}/coadds/one.fits", "/a/run=3/i.fits"]
    assert read.sections["redshift"]["labels"] == f"{tmp_path}/spectra.csv"
    assert read.sections["redshift"]["scenes"] == f"{tmp_path}/model"
    assert read.sections["inpaint"]["truth"] == "/b/truth.parquet"
    assert read.sections["simulate"] == {"survey": "sdss-like", "population": f"{tmp_path}/laws.toml"}
    built_in = run_file(tmp_path, '[simulate]\n[redshift]\nscenes = "builtin:ugriz"\n')
    assert built_in.sections["redshift"]["scenes"] == "builtin:ugriz"


def test_files_that_settings_name_are_relative_to_the_file_too(tmp_path):
    for name in ("mine.toml", "psf.fits", "g.txt"):
        (tmp_path / name).touch()
    read = run_file(
        tmp_path,
        '[simulate]\nsurvey = "mine.toml"\n[cutouts]\npsf = ["g=psf.fits", "r=0.8"]\n'
        '[redshift]\nfilters = ["g.txt", "sdss2010-r"]\nphotometry = "fluxes.npz"\n',
    )
    assert read.sections["simulate"]["survey"] == f"{tmp_path}/mine.toml"
    assert read.sections["cutouts"]["psf"] == [f"g={tmp_path}/psf.fits", "r=0.8"]
    assert read.sections["redshift"]["filters"] == [f"{tmp_path}/g.txt", "sdss2010-r"]
    assert read.sections["redshift"]["photometry"] == f"{tmp_path}/fluxes.npz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('out = "runs/a"', r"unknown key 'out' outside of all sections; it belongs to \[run\]"),
        (
            "[images]\nzero-point = 27",
            r"unknown key 'zero-point' in \[images\]; it belongs to .* or \[cutouts\]",
        ),
        ('[fit]\nmodel = "m"', r"unknown key 'model' in \[fit\]; it belongs to \[run\] or"),
        ("[fit]\nnum-steps = 9", r"unknown key 'num-steps' in \[fit\]; did you mean 'num_steps'"),
        ('images = "coadds"', r"images must be a section, \[images\]"),
        ("[trian]", r"unknown section \[trian\]; did you mean 'train'"),
    ],
)
def test_a_misplaced_key_is_told_where_it_belongs(tmp_path, text, message):
    with pytest.raises(InputError, match=r"run\.toml: " + message):
        run_file(tmp_path, text)


@pytest.mark.parametrize("text", ['[run]\nout = ""', '[run]\nmodel = ""', '[redshift]\nlabels = ""'])
def test_an_empty_path_is_not_the_directory_of_the_file(tmp_path, text):
    with pytest.raises(InputError, match=r"run\.toml: a path is empty"):
        run_file(tmp_path, f'{text}\n[images]\npath = "coadds"\n')
    with pytest.raises(InputError, match=r"run\.toml: a path is empty"):
        run_file(tmp_path, '[images]\npath = [""]\n')


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "run.toml").write_bytes(b'\xef\xbb\xbf[images]\r\npath = "coadds"\r\n')
    assert read_run_file(tmp_path / "run.toml").images == [f"{tmp_path}/coadds"]


@pytest.mark.parametrize("text", ['[redshift]\nlabels = "nix.csv"', '[run]\nmodel = "nix.csv"'])
def test_a_file_that_does_not_exist_is_named_before_any_work(tmp_path, text):
    (tmp_path / "run.toml").write_text(f'[images]\npath = "coadds"\n{text}\n')
    with pytest.raises(
        InputError, match=r"nix.csv: no such file or directory \(\[\w+\] \w+ of the run file\)"
    ):
        deepfits.run(tmp_path / "run.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('label_column = "zspec"', "spectra.csv: no column 'zspec'; did you mean 'z_spec'"),
        ('select = ["qual >= 3"]', "spectra.csv: no column 'qual'; did you mean 'quality'"),
        ('methods = ["bosting"]', "method 'bosting' is unknown; did you mean 'boosting'"),
        ('losses = ["absolut"]', "loss 'absolut' is unknown; did you mean 'absolute'"),
        ('feature_sets = ["boosting:magnitude"]', "feature set 'magnitude' is unknown; did you mean"),
        ('feature_sets = ["stack:fit"]', "feature set 'fit' is unknown; did you mean 'fits'"),
    ],
)
def test_redshifts_that_cannot_be_learned_are_said_before_any_work(tmp_path, setting, message):
    (tmp_path / "spectra.csv").write_text("id,z_spec,quality\n1,0.1,4\n2,0.3,3\n3,0.2,4\n")
    (tmp_path / "coadds").mkdir()
    text = f'[images]\npath = "coadds"\n[redshift]\nlabels = "spectra.csv"\n{setting}\n'
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        deepfits.run(tmp_path / "run.toml")
    assert not (tmp_path / "run").exists()


def test_what_is_odd_about_labels_is_said_once_in_a_run(tmp_path, monkeypatch, caplog):
    """They are read before any work, and again for redshifts."""
    (tmp_path / "spectra.csv").write_text("id,z_spec\n1,0.1\n2,-0.3\n3,0.2\n")
    (tmp_path / "coadds").mkdir()
    text = '[images]\npath = "coadds"\n[redshift]\nlabels = "spectra.csv"\n'
    (tmp_path / "run.toml").write_text(text)
    again = []
    monkeypatch.setattr(
        "deepfits.stages.run._run", lambda *_: again.append(read_labels(tmp_path / "spectra.csv"))
    )
    for _ in range(2):
        caplog.clear()
        deepfits.run(tmp_path / "run.toml")
        assert len(caplog.records) == 1
    assert len(again) == 2


def test_labels_that_are_missing_are_said_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"run\.toml.*needs labels"):
        run_file(tmp_path, '[images]\npath = "coadds"\n[redshift]\n')


def test_images_are_recorded_where_they_are_from_any_directory(tmp_path, monkeypatch):
    """The explorer cuts out objects at any position from them, wherever it is started."""
    (tmp_path / "run.toml").write_text('[images]\npath = ["coadds/*/", "g=one.fits"]\n')
    monkeypatch.chdir(tmp_path)
    recorded = read_run_file("run.toml").to_json()["images"]["path"]
    assert recorded == [f"{tmp_path}/coadds/*/", f"g={tmp_path}/one.fits"]


def test_the_configuration_that_is_recorded_is_all_that_runs(tmp_path):
    resolved = run_file(tmp_path, "[simulate]\n").to_json()
    assert list(resolved) == ["run", "simulate", "cutouts", "train", "fit", "inpaint", "redshift", "report"]
    assert resolved["redshift"]["labels"] == str(tmp_path / "run" / "sky" / "truth.parquet")
    assert resolved["inpaint"]["bands"] is None  # the store will say
    assert "redshift" not in run_file(tmp_path, '[images]\npath = "coadds"\n').to_json()


def test_a_given_model_takes_the_place_of_training(tmp_path, monkeypatch, caplog):
    text = '[run]\nmodel = "builtin:ugriz"\n[images]\npath = "coadds"\n'
    read = run_file(tmp_path, text)
    assert read.to_json()["run"]["model"] == "builtin:ugriz"
    assert list(read.sections) == ["cutouts", "calibrate", "fit", "inpaint", "report"]
    with pytest.raises(InputError, match=r"run\.toml.*'builtin:ugriz'.*\[train\]"):
        run_file(tmp_path, text + "[train]\nsteps = 5\n")
    with pytest.raises(InputError, match=r"run\.toml.*needs no \[calibrate\]"):
        run_file(tmp_path, '[images]\npath = "coadds"\n[calibrate]\nmax_objects = 500\n')

    calls, fails = {}, []

    def recorder(name):
        def call(*inputs, progress, **options):
            calls[name] = (inputs, options)
            if name in fails:
                raise TooFewGalaxiesError("2 of 9 objects are bright")
            return tmp_path / name

        return call

    settings = {"settings": {"model_hash": Model.load("builtin:ugriz").fingerprint}}
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / DESCRIPTION).write_text(json.dumps(settings))
    monkeypatch.setattr("deepfits.stages.run.load", recorder)
    monkeypatch.setattr("deepfits.stages.run._bands_to_hide", lambda *_: ["u"])
    assert _run(read, silent) == tmp_path / "report"
    assert list(calls) == ["cutouts", "calibrate", "fit", "inpaint", "redshift_predict", "report"]
    assert calls["calibrate"][0] == ("builtin:ugriz", tmp_path / "cutouts", read.out / "model")
    assert calls["fit"][0][1] == tmp_path / "calibrate"
    fails.append("calibrate")
    assert _run(read, silent) == tmp_path / "report"
    assert calls["fit"][0][1] == "builtin:ugriz"
    assert "2 of 9 objects are bright; those measured in training are used" in caplog.text
    predicted = {"out": read.out / "redshifts.parquet"}
    assert calls["redshift_predict"] == ((), {"model": tmp_path / "fit", **predicted})
    calls.clear()
    read.sections["redshift"] = {"labels": "spectra.csv", "filters": ["sdss2010-g"]}  # labels are used
    (read.out / "redshift" / "methods" / "adapted-absolute").mkdir(parents=True)
    assert _run(read, silent) == tmp_path / "report"
    assert list(calls)[-3:] == ["redshift", "redshift_predict", "report"]
    adapted = {"model": read.out / "redshift" / "methods" / "adapted-absolute", "features": tmp_path / "fit"}
    given = {**predicted, **adapted, "store": tmp_path / "cutouts", "filters": ["sdss2010-g"]}
    assert calls["redshift_predict"] == ((), given)
    calls.clear()
    del read.sections["redshift"]
    read.sections["fit"]["modes"] = ["embedder"]  # without errors, which redshifts need
    assert _run(read, silent) == tmp_path / "report"
    assert "redshift_predict" not in calls


def test_objects_are_those_of_a_given_catalogue(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"run\.toml: .* takes the place of \[detect\]"):
        run_file(tmp_path, '[images]\npath = "coadds"\n[detect]\n[cutouts]\ncatalogue = "mine.fits"\n')
    read = run_file(tmp_path, '[images]\npath = "coadds"\n[cutouts]\ncatalogue = "mine.fits"\n')
    calls = {}

    def loaded(name):
        def stage(*inputs, progress, **options):
            calls[name] = options
            raise KeyboardInterrupt

        return stage

    monkeypatch.setattr("deepfits.stages.run.load", loaded)
    monkeypatch.setattr("deepfits.stages.run.RunFile.to_json", lambda self: {"run": {}})
    with pytest.raises(KeyboardInterrupt):
        _run(read, silent)
    assert calls == {"cutouts": {"catalogue": f"{tmp_path}/mine.fits"}}


def test_the_time_of_a_stage_is_that_of_all_starts(tmp_path, monkeypatch):
    """A report of a run that was interrupted said that its training had taken no time."""
    read = run_file(tmp_path, '[images]\npath = "coadds"\n')
    clock = [0.0]

    def loaded(name):
        def stage(*inputs, progress, **options):
            clock[0] += 100 if not (read.out / "seconds.json").exists() else 1
            if name == "train":
                clock[0] += 20
                raise KeyboardInterrupt
            return tmp_path / name

        return stage

    monkeypatch.setattr("deepfits.stages.run.load", loaded)
    monkeypatch.setattr("deepfits.stages.run._bands_to_hide", lambda *_: [])
    monkeypatch.setattr("deepfits.stages.run.time.monotonic", lambda: clock[0])
    for spent in ({"cutouts": 100, "train": 21, "total": 121}, {"cutouts": 101, "train": 42, "total": 143}):
        with pytest.raises(KeyboardInterrupt):
            _run(read, silent)
        assert json.loads((read.out / "seconds.json").read_text()) == spent


def test_settings_that_a_stage_refuses_are_not_recorded(tmp_path, monkeypatch):
    """The configuration beside the results stays the one that they were made with."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "r.toml"

    def run_with(num_steps, refused=""):
        path.write_text(f'[images]\npath = "images"\n[fit]\nnum_steps = {num_steps}\n')
        config = read_run_file(path)

        def loaded(name):
            def call(*given, **more):
                if name == refused:
                    raise InputError("made with num_steps = 4")
                return Path("result")

            return call

        recorded = {"run": {}, "fit": {"num_steps": num_steps}}
        with monkeypatch.context() as patched:
            patched.setattr("deepfits.stages.run.load", loaded)
            patched.setattr("deepfits.stages.run._bands_to_hide", lambda *_: ["u"])
            patched.setattr("deepfits.stages.run.RunFile.to_json", lambda self: recorded)
            _run(config, silent)

    run_with(4)
    with pytest.raises(InputError, match="made with"):
        run_with(5, refused="fit")
    assert json.loads((tmp_path / "r" / "config.json").read_text())["fit"]["num_steps"] == 4
    run_with(5)
    assert json.loads((tmp_path / "r" / "config.json").read_text())["fit"]["num_steps"] == 5


def test_only_exposures_are_stacked(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"run\.toml: \[stack\] needs exposures"):
        run_file(tmp_path, "[simulate]\n[stack]\n")
    read, calls = run_file(tmp_path, "[simulate]\nexposures = 2\n[stack]\n"), {}

    def loaded(name):
        def stage(*inputs, **options):
            calls[name] = inputs
            if name == "cutouts":
                raise KeyboardInterrupt
            return tmp_path / name

        return stage

    monkeypatch.setattr("deepfits.stages.run.load", loaded)
    monkeypatch.setattr("deepfits.stages.run.RunFile.to_json", lambda self: {"run": {}})
    with pytest.raises(KeyboardInterrupt):
        _run(read, silent)
    sky = tmp_path / "run" / "sky"
    assert calls["stack"] == (sky / "exposures", tmp_path / "run" / "coadds")
    assert calls["cutouts"][0] == tmp_path / "stack"


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
def test_files_of_others_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    read = run_file(tmp_path, f'[run]\nout = "{tmp_path}"\n[images]\npath = "coadds"\n')
    with pytest.raises(InputError, match=rf"{name}: was not written by"):
        _run(read, silent)
    assert {path.name for path in tmp_path.iterdir()} == {name, "run.toml"}


def make_store(directory, *bands):
    """Describe a store of these bands, without any objects."""
    info = StoreInfo(bands=bands, size=4, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.8,) * len(bands))
    return create_store(directory, info)


@pytest.mark.parametrize(
    ("bands", "hidden"), [(("g", "u", "r"), ["u"]), (("g", "r"), ["g"]), (("F814W",), [])]
)
def test_the_band_that_is_hidden_is_one_of_the_store(tmp_path, bands, hidden):
    make_store(tmp_path / "store", *bands)
    assert _bands_to_hide(tmp_path / "store", None, None) == hidden


@pytest.mark.parametrize(
    ("given", "bands", "directory"),
    [
        ('[inpaint]\nbands = "F606W"\n', ("F606W", "F814W"), "inpaint-F606W"),
        ("", ("g", "r"), "inpaint-g"),
        ("", ("g",), None),
    ],
)
def test_bands_are_predicted_if_there_is_another(tmp_path, monkeypatch, given, bands, directory):
    read, calls = run_file(tmp_path, f'[images]\npath = "coadds"\n{given}'), {}
    make_store(tmp_path / "cutouts", *bands)

    def recorder(name):
        def call(*inputs, progress, **options):
            calls[name] = inputs
            return tmp_path / name

        return call

    monkeypatch.setattr("deepfits.stages.run.load", recorder)
    _run(read, silent)
    assert "report" in calls
    assert (calls["inpaint"][2].name if "inpaint" in calls else None) == directory


def test_a_band_to_predict_that_is_not_there_is_named_before_training(tmp_path):
    make_store(tmp_path / "store", "g", "r", "i", "z")
    with pytest.raises(InputError, match=r"store: no band 'u'; there are g-r-i-z"):
        _bands_to_hide(tmp_path / "store", ["u"], None)
    assert _bands_to_hide(tmp_path / "store", ["u"], "builtin:ugriz") == ["u"]  # which draws it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\noptions = {emma = 0.9}", "no option 'emma'"),
        ("[train]\nrecipe = 'tinny'", "recipe 'tinny' is unknown"),
        ("[cutouts]\nsize = 40", "multiple of 16 pixels, not 40"),
    ],
)
def test_settings_that_a_late_stage_refuses_are_named_before_any_work(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(f'[images]\npath = "coadds"\n{text}\n')
    with pytest.raises(InputError, match=message):
        deepfits.run(tmp_path / "run.toml")
    assert not (tmp_path / "run").exists()


def test_scenes_are_judged_on_the_objects_of_the_other_rows(tmp_path):
    calls = {}

    def call(name, *inputs, **options):
        calls[name] = options

    sky, info = (
        make_sky(),
        StoreInfo(bands=("g", "r"), size=4, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.8, 0.8)),
    )
    pixels = np.ones((len(sky["ra"]), 2, 4, 4), dtype="f4")
    places = {name: sky[name] for name in ("ra", "dec")}
    cutouts = Cutouts(object_id=sky["object_id"], image=pixels, weight=pixels, catalogue=places)
    write_shard(create_store(tmp_path / "store", info) / shard_name(0), cutouts, info)
    labels = write_labels(tmp_path / "labels.parquet", sky)
    section = {"scenes": "model", "block_arcmin": 4.0, "match": "position", "match_radius_arcsec": 0.5}
    _from_scenes(call, section, tmp_path / "store", labels, tmp_path)
    for name in ("block_arcmin", "match", "match_radius_arcsec"):
        assert calls["redshift"][name] == section[name]
    tested = np.intersect1d(calls["fit"]["object_ids"], sky["object_id"][is_held_out(sky["object_id"])])
    assert 0 < len(tested) < is_held_out(sky["object_id"]).sum()  # those of the squares for testing alone
