"""The command line as a user meets it: help, exit statuses, one clear line for what went wrong."""

import importlib.util
import inspect
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from astropy.io import fits

from deepfits.cli import _listed, make_app, words_of
from deepfits.option_names import option_names
from deepfits.options import SET_BY_COMMAND_LINE, options_of
from deepfits.processes import available_cores, stated_threads
from deepfits.results import RECORD
from deepfits.stages import MODULES, load
from deepfits.stages.stage import INPUT, documentation
from tests.helpers.command import Command, run_cli

COMMANDS = [
    "simulate",
    "stack",
    "check",
    "detect",
    "cutouts",
    "train",
    "fit",
    "inpaint",
    "redshift",
    "export",
    "plan",
    "report",
    "run",
    "demo",
]


def assert_one_clear_line(done, *words):
    """Hold an input error to its form: status 2, one line, no traceback, and it names what matters."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("deepfits: "), done.stderr
    for word in words:
        assert word in last, f"{word!r} not in {last!r}"


@pytest.fixture(scope="module")
def app():
    return make_app(MODULES)


def help_of(app, capsys, *command):
    app.help_print(list(command))
    return re.sub(r"[\s│]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("name", MODULES)
def test_help_of_every_command_shows_every_argument(app, capsys, name):
    shown = help_of(app, capsys, *words_of(name))
    for argument in set(inspect.signature(load(name)).parameters) - SET_BY_COMMAND_LINE - {"keywords"}:
        for option in option_names(argument):
            assert option in shown, option


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"redshift"}))
def test_help_of_every_command_shows_an_example(app, capsys, command):
    shown = help_of(app, capsys, command)
    assert f"deepfits {command}" in shown.partition("Example")[2]


@pytest.mark.parametrize("name", MODULES)
def test_no_two_options_of_a_command_say_the_same(name):
    said = list(documentation(load(name).config).values())
    assert [words for words in said if said.count(words) > 1] == []


def test_top_level_help_lists_every_stage_and_is_quick():
    begin = _seconds_of_children()
    code = "from deepfits.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert _seconds_of_children() - begin < 5
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b +\w", done.stdout), command
    assert "Predict redshifts" in run_cli("redshift", "--help").stdout
    assert run_cli("--version").stdout.strip() == version("deepfits")


def test_terminals_without_a_size_do_not_wrap_the_help_forever():
    done = subprocess.run(
        [sys.executable, "-m", "deepfits", "--help"], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "COLUMNS": "0"},
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) > 60


@pytest.mark.parametrize(
    ("stated", "number"), [("3", 3), ("3,2", 3), ("", None), ("auto", None), ("0", None)]
)
def test_threads_that_the_environment_states(monkeypatch, stated, number):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert stated_threads() == (number or available_cores())


def _seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_in_the_words_of_the_command_line(app, capsys):
    assert "`redshift predict`" in _listed("redshift_train").__doc__  # before a stage is imported
    shown = help_of(app, capsys, "cutouts") + help_of(app, capsys, "fit") + help_of(app, capsys, "inpaint")
    for words in (
        "u=30,g=27",
        "zero_point=27.0 and shard_size=1024",
        "only with --objective flux",
        "[default: u]",
    ):
        assert words in shown
    for name in set(MODULES) - {"redshift"}:
        shown = help_of(app, capsys, *words_of(name))
        assert not [stage for stage in MODULES if "_" in stage and stage in shown], name
        assert not re.search(r"""\[["'(]|[{(]["']""", shown), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "s", "-o", "x"), "MODEL is missing"),
        (("fit", "s", "m"), "--out is missing"),
        (("fit", "s", "m", "--out"), "--out requires an argument"),
        (("show", "run"), "--id is missing"),
    ],
)
def test_what_is_missing_is_named_as_the_help_has_it(words, said):
    assert_one_clear_line(run_cli(*words), said, f"deepfits {words[0]} --help")


def test_options_are_written_as_ever(app):
    bound = app.parse_args(
        ["cutouts", "a", "b", "--out", "o", "--band", "u", "-b", "g,r", "--bands=i", "--zero-point", "u=27"]
    )[1]
    given = bound.arguments
    assert given["images"] == ["a", "b"]
    assert given["bands"] == ["u", "g", "r", "i"]
    assert given["zero_point"] == ["u=27"]
    given = app.parse_args(["redshift", "compare", "f", "l", "-o", "x", "-m", "network", "--method", "stack"])
    assert given[1].arguments["methods"] == ["network", "stack"]
    given = app.parse_args(["train", "s", "-o", "x", "--set", "width=256", "--set", "ema=0.9"])[1].arguments
    assert given["options"] == ["width=256", "ema=0.9"]
    assert app.parse_args(["stack", "s", "-o", "x", "--keep-level"])[1].arguments["subtract_level"] is False
    assert app.parse_args(["explore", "run", "--no-browser"])[1].arguments["open_browser"] is False
    given = app.parse_args(["fit", "s", "m", "-o", "x", "--amplitudes", "none"])[1].arguments
    assert given["amplitudes"] == "none"
    assert app.parse_args(["plan", "--objects", "2e10"])[1].arguments["objects"] == 2e10


def test_properties_are_the_commands_of_redshifts(app):
    for words in (["train"], ["compare"]):
        given = app.parse_args(["property", *words, "f", "l", "-o", "x", "--target", "size"])[1].arguments
        assert given["label_column"] == "size"
    assert "--target" in run_cli("property", "train", "--help").stdout
    assert_one_clear_line(run_cli("property", "f", "l", "--out", "x"), "--target")


def test_what_is_wrong_is_said_in_the_words_of_the_command_line(tmp_path):
    done = run_cli("cutouts", tmp_path, "--out", tmp_path / "o", "--zero-point", "u=x")
    assert_one_clear_line(done, "--zero-point")
    done = run_cli("fit", "s", "m", "-o", tmp_path / "o", "--objective", "papr")
    assert_one_clear_line(done, "--objective", "paper")
    done = run_cli("fit", "s", "m", "-o", tmp_path / "o", "--set", "sead=3")
    assert_one_clear_line(done, "sead", "'seed'")
    done = run_cli("fit", "s", "m", "-o", tmp_path / "o", "--set", "foo=3")
    assert_one_clear_line(done, "valid names are: amplitudes, batch_size, catalogue")
    done = run_cli("fit", "s", "m", "-o", tmp_path / "o", "--num-steps", "5", "--set", "num_steps=6")
    assert_one_clear_line(done, "--num-steps is given twice")
    done = run_cli("train", "s", "-o", tmp_path / "o", "--steps", "5", "--set", "steps=6")
    assert_one_clear_line(done, "--steps 5", "is given twice")
    done = run_cli("train", "s", "-o", tmp_path / "o", "--set", "width=3", "--set", "width=4")
    assert_one_clear_line(done, "--set: width is given twice, as 3 and 4")
    done = run_cli("train", "s", "-o", tmp_path / "o", "--set", "seed=3")
    assert_one_clear_line(done, "a recipe has no seed; give it as --seed 3")
    assert_one_clear_line(run_cli("redshift", "predict", tmp_path), "--out z.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_message_ends_before_the_help_is_named(tmp_path):
    done = run_cli("show", tmp_path, "--id", "@nix.txt")
    assert_one_clear_line(done, "nix.txt: no such list; check the path. See `deepfits show --help`.")
    wrong = 'Unknown command "cutout". Did you mean "cutouts"? See `deepfits --help`.'
    assert_one_clear_line(run_cli("cutout", tmp_path), wrong)


def test_unknown_option_and_missing_argument_have_status_2(tmp_path):
    assert run_cli("fit", "--nonsense").returncode == 2
    assert run_cli("train").returncode == 2


def test_lists_in_messages_are_written_as_options(tmp_path):
    """It said ``--columns ['mag_u=...']``, which no shell passes on."""
    (tmp_path / "mine.csv").write_text("u_mag,g_mag\n20,21\n")
    done = run_cli("simulate", tmp_path / "sky", "--catalogue", tmp_path / "mine.csv")
    assert_one_clear_line(done, "map it with --columns mag_u=...")


def test_keys_of_a_toml_file_are_not_written_as_options(tmp_path):
    """It said ``give --zero-point``, which the description does not heed."""
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 1, 8, 8)))
    lines = 'file = "a.npz"\nbands = ["g"]\npixel_scale_arcsec = 0.2\n'
    (tmp_path / "mine.toml").write_text(lines)
    done = run_cli("cutouts", tmp_path / "mine.toml", "--out", tmp_path / "o")
    assert_one_clear_line(done, "mine.toml: give zero_point (AB")
    done = run_cli("cutouts", tmp_path / "a.npz", "--out", tmp_path / "o")
    assert_one_clear_line(done, "TOML file (bands, zero_point, pixel_scale_arcsec, ...)")


def test_an_absent_image_is_one_line_that_names_it(tmp_path):
    assert_one_clear_line(run_cli("cutouts", tmp_path / "nix.fits", "--out", tmp_path / "o"), "nix.fits")


def _write(path, data, *, wcs=True, **cards):
    header = fits.Header()
    if wcs:
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = 150.0, 2.0
        header["CRPIX1"] = header["CRPIX2"] = 32.0
        header["CD1_1"], header["CD2_2"] = -0.168 / 3600, 0.168 / 3600
    header["MAGZERO"] = 27.0
    header.update(cards)
    fits.writeto(path, data.astype(np.float32), header)


@pytest.fixture
def sky(tmp_path):
    """Five small coadds with one galaxy each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    galaxy = 60 * np.exp(-0.5 * ((x - 31) ** 2 + (y - 30) ** 2) / 9)
    directory = tmp_path / "sky"
    directory.mkdir()
    for band in "ugriz":
        _write(directory / f"coadd-{band}.fits", galaxy + rng.normal(size=(64, 64)), FILTER=band)
        _write(directory / f"coadd-{band}.weight.fits", np.ones((64, 64)), FILTER=band)
    return directory


def test_a_missing_band_is_named(sky, tmp_path):
    (sky / "coadd-u.fits").unlink()
    (sky / "coadd-u.weight.fits").unlink()
    bands = [part for band in "ugriz" for part in ("--band", band)]
    assert_one_clear_line(run_cli("cutouts", sky, "--out", tmp_path / "o", *bands), "u", "sky")


def test_a_wrong_shape_is_named(sky, tmp_path):
    (sky / "coadd-g.weight.fits").unlink()
    _write(sky / "coadd-g.weight.fits", np.ones((64, 60)), FILTER="g")
    assert_one_clear_line(run_cli("cutouts", sky, "--out", tmp_path / "o"), "coadd-g.weight.fits", "60")


def test_no_wcs_is_named(sky, tmp_path):
    (sky / "coadd-i.fits").unlink()
    _write(sky / "coadd-i.fits", np.zeros((64, 64)), wcs=False, FILTER="i")
    assert_one_clear_line(run_cli("cutouts", sky, "--out", tmp_path / "o"), "coadd-i.fits", "WCS")


def test_an_image_of_nan_is_named(sky, tmp_path):
    (sky / "coadd-z.fits").unlink()
    _write(sky / "coadd-z.fits", np.full((64, 64), np.nan), FILTER="z")
    assert_one_clear_line(run_cli("cutouts", sky, "--out", tmp_path / "o"), "coadd-z.fits")


def test_a_truncated_file_is_named(sky, tmp_path):
    path = sky / "coadd-r.fits"
    path.write_bytes(path.read_bytes()[:5000])
    assert_one_clear_line(run_cli("cutouts", sky, "--out", tmp_path / "o"), "coadd-r.fits")


def test_a_store_that_is_none_is_named(tmp_path):
    assert_one_clear_line(run_cli("train", tmp_path, "--out", tmp_path / "m"), str(tmp_path), "cutouts")


def test_a_model_that_is_none_is_named(sky, tmp_path):
    assert run_cli("cutouts", sky, "--out", tmp_path / "store").returncode == 0
    done = run_cli("fit", tmp_path / "store", tmp_path / "nix", "--out", tmp_path / "f")
    assert_one_clear_line(done, "nix", "deepfits train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[simulate]\nsead = 3\n", ["'sead'", "[simulate]", "'seed'"]),
        ("[simulat]\nseed = 3\n", ["[simulat]", "'simulate'"]),
        ("[train]\nrecipe = 'tiny'\n", ["[images]", "[simulate]"]),
        ("[simulate\n", ["not valid TOML"]),
        ("[simulate]\n[fit]\nmodes = ['bothh']\n", ["'bothh'", "'both'"]),
        ("[simulate]\n[fit]\nmodes = 'both'\n", ["[fit]: modes", "list", "'both'"]),
        ("[images]\npath = 3\n", ["[images]: path", "3"]),
        ("[simulate]\n[run]\nout = ['a']\n", ["[run]: out", "a string"]),
        ("[simulate]\n[redshift]\nlabels = 3\n", ["[redshift]: labels", "a string"]),
        ("[simulate]\n[train]\nsteps = nan\n", ["[train]: steps", "whole number", "nan"]),
        ("simulate = 3\n", ["[simulate]"]),
    ],
)
def test_mistakes_in_a_run_file_name_the_nearest_key(tmp_path, text, words):
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert_one_clear_line(run_cli("run", path, "--out", tmp_path / "out"), "run.toml", *words)
    assert not Path(tmp_path / "out").exists()


def test_the_page_of_commands_is_current():
    """The help in the documentation is the commands' own; `python docs/make_cli_page.py` writes it anew."""
    path = Path(__file__).resolve().parents[1] / "docs" / "make_cli_page.py"
    spec = importlib.util.spec_from_file_location("make_cli_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_check_ends_with_status_1_where_an_image_cannot_be_used(sky):
    assert run_cli("check", sky).returncode == 0
    path = sky / "coadd-r.fits"
    path.write_bytes(path.read_bytes()[:5000])
    done = run_cli("check", sky)
    assert done.returncode == 1
    assert "coadd-r.fits" in done.stdout
    path.unlink()
    _write(path, np.ones((64, 64)), FILTER="r", MAGZERO=30.0, MAGZPT=25.0)
    done = run_cli("check", sky)
    assert done.returncode == 1
    assert "give --zero-point, for example --zero-point 27.0 or --zero-point r=27.0" in done.stdout
    assert "zero_point" not in done.stdout + done.stderr
    assert run_cli("detect", sky, "--out", sky / "found.parquet").stderr.count("MAGZPT") == 1, "said once"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(tmp_path, number):
    begun = tmp_path / "sky" / RECORD
    command = Command("simulate", tmp_path / "sky", "--size", "4000", "--workers", "1")
    while not begun.exists() and command.poll() is None:
        time.sleep(0.01)
    command.send_signal(number)
    done = command.wait()
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == ("deepfits: interrupted; run the same command again to resume")


@pytest.mark.parametrize("module", ["deepfits.cli", "deepfits.stages.plan"])
def test_an_interruption_while_the_program_starts_is_one_line(module):
    code = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background of a shell
        "from importlib import abc\n"
        "class Interrupt(abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *more):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv[1:] = ['plan', '1000']\n"
        "runpy.run_module('deepfits', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "deepfits: interrupted\n")


def test_a_failed_stage_leaves_no_directory(sky, tmp_path):
    (sky / "coadd-i.fits").unlink()
    _write(sky / "coadd-i.fits", np.zeros((64, 64)), wcs=False, FILTER="i")
    assert run_cli("cutouts", sky, "--out", tmp_path / "new" / "o").returncode == 2
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_one_line(sky, tmp_path):
    for command in (("detect", sky, "-o", tmp_path / "c.parquet"), ("cutouts", sky, "-o", tmp_path / "s")):
        done = run_cli(*command, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
        assert_one_clear_line(done, "space")
    assert RECORD not in [p.name for p in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("then", "status", "said"), [("> /dev/full", 2, "make space"), ("| true", 141, ""), (">&-", 0, "")]
)
def test_output_that_nobody_takes(then, status, said):
    command = f"set -o pipefail; \"$0\" -c 'from deepfits.cli import main; main()' plan 1000 {then}"
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == (1 if said else 0)


def test_letters_that_the_locale_lacks_end_nothing():
    code = "from deepfits.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "1000"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 bands of 32?32" in done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_only_inputs_are_positions(name):
    positions = [p.name for p in options_of(load(name)) if p.kind is p.POSITIONAL_OR_KEYWORD]
    hints = get_type_hints(load(name).config, include_extras=True)
    assert set(positions[1:]) <= {field for field, hint in hints.items() if INPUT in get_args(hint)}
