"""The documentation: its tutorials run in a short form, and it names all stages and no page that is missing.

As they stand, the tutorials run when the site is built (`make docs`), which also fails where a reference does
not resolve.
"""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cyclopts import CycloptsError

from deepfits.cli import _common, _which, make_app
from deepfits.stages import MODULES

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"


def cells(name, *, short):
    """Return the code cells of a tutorial; the short form sets the parameters that its head names."""
    yaml = pytest.importorskip("yaml")
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    values = yaml.safe_load(text.split("---\n")[1])["short"] if short else {}
    found = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    parameters = [number for number, cell in enumerate(found) if ":tags: [parameters]" in cell]
    assert len(parameters) == 1
    for key, value in values.items():
        cell, times = re.subn(rf"^{key} = [^#\n]*", f"{key} = {value!r}  ", found[parameters[0]], flags=re.M)
        assert times == 1, f"{name}: no parameter {key}"
        found[parameters[0]] = cell
    return [re.sub(r"^:\w+:.*\n", "", cell, flags=re.MULTILINE) for cell in found]


def run(name, tmp_path, monkeypatch, *, short):
    """Run a tutorial as a script, in a directory of its own; return its variables."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    variables = {"__name__": name}
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    try:
        for number, cell in enumerate(cells(name, short=short)):
            exec(compile(cell, f"{name}.md, cell {number}", "exec"), variables)
    finally:
        from matplotlib import pyplot

        pyplot.close("all")
        matplotlib.use(backend)
    return variables


def first_steps(found):
    assert abs(np.median(found["difference"])) < 0.15  # mag, fits against truth
    assert found["features"]["latent"].std() > 0.3


def own_images(found):
    assert len(found["exported"]) == len(found["mine"]) == len(found["features"]["latent"])
    assert np.nanmedian(found["features"]["flux_model_r"]) > 0


def redshifts(found):
    assert found["measured"]["sigma_mad"] < 0.1  # template fitting, without a label; a constant has 0.25
    assert (found["curves"] / "curves.json").is_file()


def own_decoder(found):
    assert (found["best"].latent - found["truth"])[:, :2].std() < 0.5
    assert ((found["width"] > 0.5) & (found["width"] < 1.6)).all()  # of 40 pulls


CHECKS = {f.__name__.replace("_", "-"): f for f in (first_steps, own_images, redshifts, own_decoder)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHECKS)
def test_tutorials_run(name, tmp_path, monkeypatch):
    CHECKS[name](run(name, tmp_path, monkeypatch, short=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHECKS)
def test_tutorials_run_as_they_stand(name, tmp_path, monkeypatch):
    CHECKS[name](run(name, tmp_path, monkeypatch, short=False))


@pytest.mark.slow
def test_the_tutorial_of_the_explorer_runs(tmp_path, monkeypatch):
    found = run("explorer", tmp_path, monkeypatch, short=True)
    assert found["odd"]
    assert found["explorer"].returncode is not None


def test_the_page_of_python_lists_every_stage():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in MODULES if f".. autofunction:: deepfits.{name}\n" not in page]
    assert not missing


def test_pages_that_code_names_exist():
    named = {}
    for folder in ("src", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                named.setdefault(page, path)
    assert len(named) > 3
    assert {page: path for page, path in named.items() if not (ROOT / page).is_file()} == {}


def test_names_that_the_documentation_imports_exist():
    code = r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```"
    wanted = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(code, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for module, names in re.findall(r"^from (deepfits[\w.]*) import ([\w, ]+)", block, re.MULTILINE):
                wanted |= {(page.name, module, name.strip()) for name in names.split(",")}
            wanted |= {
                (page.name, "deepfits", name) for name in re.findall(r"\bdeepfits\.([a-z_]+)\(", block)
            }
    assert len(wanted) > 25
    missing = [one for one in sorted(wanted) if not hasattr(importlib.import_module(one[1]), one[2])]
    assert missing == []


def pages_read():
    """Return the pages that are written by hand."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in pages if page.name != "cli.md" and "_build" not in page.parts]


def commands_shown():
    """Return page and words of each command that stands on a line of its own in a page."""
    for page in pages_read():
        for block in re.findall(r"^```.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"\s*deepfits \S", line):
                    words = shlex.split(line, comments=True)[1:]
                    yield page.relative_to(ROOT), words[: words.index("2>&1")] if "2>&1" in words else words


def test_commands_in_the_documentation_are_understood():
    app, shown, wrong = make_app(MODULES), list(commands_shown()), []
    assert len(shown) > 40
    for page, words in shown:
        try:
            app.parse_args(_which(_common(list(words))[2])[1], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            wrong.append(f"{page}: deepfits {' '.join(words)}: {error}")
    assert wrong == []


def benchmarks_shown():
    """Return page and words of each call of a benchmark, within a line or in a block; not of the log."""
    for page in (p for p in pages_read() if p.name != "log.md"):
        text = re.sub(r"\s*\\?\n\s*", " ", page.read_text(encoding="utf-8"))
        for script, words in re.findall(
            r"python (benchmarks/\w+\.py)([^`;()]*?)(?=`|;|\(| python |&&)", text
        ):
            yield page.relative_to(ROOT), script, shlex.split(words.partition(" ...")[0], comments=True)
        for name in re.findall(r"make bench-(\w+)", text):
            yield page.relative_to(ROOT), f"benchmarks/{name}.py", []


PARSE = """
import argparse, json, os, runpy, sys

class Understood(Exception):
    pass

def parse_args(parser, *args):
    parse(parser, *args)
    raise Understood

parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, parse_args
sys.path.insert(0, "benchmarks")
for sys.argv in json.load(sys.stdin):
    try:
        runpy.run_path(os.path.abspath(sys.argv[0]), run_name="__main__")
    except Understood:
        print(*sys.argv)
"""


def test_benchmarks_in_the_documentation_are_understood():
    shown = {(page, script, *words) for page, script, words in benchmarks_shown() if "--help" not in words}
    assert len(shown) > 20
    lacking = [(page, script) for page, script, *_ in shown if not (ROOT / script).is_file()]
    assert not lacking
    texts = {script: (ROOT / script).read_text(encoding="utf-8") for _, script, *_ in shown}
    calls = sorted({(script, *words) for _, script, *words in shown if "parse_args" in texts[script]})
    # In a process of its own: benchmarks register further methods.
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(calls),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [" ".join(words) for words in calls], done.stderr
