"""The command line as a user meets it: help, exit statuses, one clear line for what went wrong."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.main import get_command
from typer.testing import CliRunner

import deepfits
from deepfits.cli import app

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


def run_cli(*arguments, cwd=None):
    """Run the command in a process of its own, as a shell does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", "from deepfits.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
        timeout=240,
    )


def assert_one_clear_line(done, *words):
    """Hold an input error to its form: status 2, one line, no traceback, and it names what matters."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("deepfits: "), done.stderr
    for word in words:
        assert word in last, f"{word!r} not in {last!r}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"deepfits {command}" in re.sub(r"\s+", " ", result.output)
    assert "Example" in result.output


def test_top_level_help_lists_every_stage():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", result.output), command


def test_unknown_option_and_missing_argument_have_status_2(tmp_path):
    assert run_cli("fit", "--nonsense").returncode == 2
    assert run_cli("train").returncode == 2


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


def _command_of(name):
    group = get_command(app).commands
    if name == "redshift":
        return group["redshift"].commands["compare"]
    if name.startswith("redshift_"):
        return group["redshift"].commands[name.removeprefix("redshift_")]
    return group[name]


@pytest.mark.parametrize("name", [n for n in deepfits.__all__ if n != "__version__"])
def test_options_are_the_functions_arguments_with_the_same_defaults(name):
    arguments = inspect.signature(getattr(deepfits, name)).parameters
    for parameter in _command_of(name).params:
        if parameter.name in {"help", "more", "option"}:
            continue
        if "keywords" in arguments and parameter.name not in arguments:
            continue  # passed on to `redshift`
        assert parameter.name in arguments, parameter.name
        default = arguments[parameter.name].default
        if parameter.required or parameter.default is None or default is inspect.Parameter.empty:
            continue
        assert str(parameter.default) == str(default), parameter.name
