"""Names and places that do harm: markup, formulas and control characters, links, and outputs among inputs."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from deepfits import options
from deepfits.errors import InputError
from deepfits.files import writing
from deepfits.plot.style import save
from deepfits.reporting.map import make_map
from deepfits.results import RECORD, results
from deepfits.stages.fit import fit
from deepfits.stages.show import _markdown
from deepfits.stages.stack import stack
from deepfits.stages.train import train
from deepfits.survey.store import CutoutStore
from deepfits.tables import read_table, write_table
from tests.helpers.command import run_cli
from tests.helpers.small_model import make_model, make_store
from tests.helpers.stage_runs import RUNS, TINY

NAMES = [
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a\u2028b", r"$\frac{1}{$",
    "$x^{", "x" * 5000, "{{7*7}}", "=cmd|calc", "a|b\nc", "\x1b[31mred", "[KSB2010] 5", "&%#_~^\\",
]  # fmt: skip


def test_names_are_drawn_as_they_are(tmp_path):
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots()
    axes.set_title(r"$\frac{1}{$ $x$")
    axes.set_xticks([0], labels=["$x^{$"])
    save(figure, tmp_path / "formula.png")
    axes.set_title(r"$\frac{1}{$ ")
    save(figure, tmp_path / "less.png")
    written, less = ((tmp_path / f"{name}.png").read_bytes() for name in ("formula", "less"))
    assert len(written) > 1000
    assert written != less


def test_a_map_holds_names_in_which_no_page_ends():
    rng = np.random.default_rng(1)
    number = len(NAMES)
    pixels = np.ones((number, 2, 8, 8))
    values = {"chi2": np.arange(number, dtype=float)}
    made = make_map(np.array(NAMES), rng.normal(size=(number, 4)), pixels, np.ones(2), values)
    assert made is not None
    assert "<" not in made.data
    assert sorted(json.loads(made.data)["id"]) == sorted(NAMES)


def test_tables_in_text_have_a_line_for_each_object():
    lines = _markdown({"object_id": np.array(NAMES), "flags": np.arange(len(NAMES))}).splitlines()
    assert len(lines) == 2 + len(NAMES)
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) < 110
    assert r"a\|b c" in lines[10]


def test_columns_of_one_digit_are_a_table_of_markdown():
    """A line of the rule with a colon alone is no rule."""
    rule = _markdown({"n": np.arange(3), "t": np.array(["a", "b", "c"])}).splitlines()[1]
    assert re.fullmatch(r"\| -+: \| -+ \|", rule)


def test_messages_hold_nothing_that_a_terminal_obeys(tmp_path):
    done = run_cli("model", f"{tmp_path}/a\x1b[31m\u202eb")
    assert done.returncode == 2
    said = done.stderr
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "a\ufffd[31m\ufffdb: no model.json there" in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[KSB2010] 5", ["[KSB2010] 5"]),
        ("[u,g]", ["u", "g"]),
        ("'u', \"g\"", ["u", "g"]),
        ("O'Neil 7,x", ["O'Neil 7", "x"]),
        ("'", ["'"]),
    ],
)
def test_brackets_and_quotes_of_names_stay(given, expected):
    assert options._values(given) == expected


def test_a_list_of_identities_is_read_line_by_line(tmp_path):
    (tmp_path / "ids.txt").write_text("NGC 4535\na,b\n\n[VV96] J1\n")
    assert options._values(f"@{tmp_path / 'ids.txt'}") == ["NGC 4535", "a,b", "[VV96] J1"]
    (tmp_path / "line.txt").write_text("7, 8\n")
    assert options._values(f"@{tmp_path / 'line.txt'}") == ["7", "8"]
    # a saved selection: its lines, with all columns, were taken as identities
    for name in ("t.csv", "t.fits", "t.vot", "t.parquet"):
        write_table(tmp_path / name, {"ra": np.ones(2), "object_id": np.array([2**60 + 1, 7])})
        assert options._values(f"@{tmp_path / name}") == [str(2**60 + 1), "7"]
    (tmp_path / "bare.csv").write_text("2\n7\n")
    assert options._values(f"@{tmp_path / 'bare.csv'}") == ["2", "7"]


def test_whoever_writes_is_said_to_write_the_final_file(tmp_path):
    with pytest.raises(InputError, match=r"all\.fits: no") as caught, writing(tmp_path / "all.fits") as path:
        raise InputError(f"{path.name}: no")
    assert ".writing-" not in str(caught.value)


def test_a_directory_may_look_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(Path("a:b") / "t.parquet", {"object_id": np.arange(3)})
    assert read_table(Path("a:b") / "t.parquet")["object_id"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"^a:b/all\.fits: no$"), writing("a:b/all.fits") as path:
        raise InputError(f"{path}: no")


def claimed(out, **options):
    return results(out, "fit", inputs={}, settings={}, **options)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_links_that_lead_nowhere_are_named(tmp_path, target, is_file):
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InputError, match=f"link: a link to {target}, which does not exist"):
        claimed(tmp_path / "link", is_file=is_file).__enter__()
    with pytest.raises(InputError, match="link: a link to"):
        fit(make_store(tmp_path / "s", make_model(tmp_path / "m"), (2,)), tmp_path / "m", tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


def test_a_link_to_a_directory_is_that_directory_and_links_in_it_are_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "mine.txt").write_text("mine")
    with claimed(tmp_path / "link"):
        (tmp_path / "there" / "part").symlink_to("../mine.txt")
        with writing(tmp_path / "link" / "part") as path:
            path.write_text("ours")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / RECORD).exists()
    assert (tmp_path / "there" / "part").read_text() == "ours"
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_is_hidden_there_is_never_removed(tmp_path):
    (tmp_path / ".env").write_text("mine")
    with suppress(InputError), claimed(tmp_path):
        (tmp_path / "_features.json").write_text("ours")
        raise InputError("no")
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize("empty", ["store", "model", "out"])
def test_an_empty_path_is_not_the_directory_here(tmp_path, empty):
    paths = {"store": tmp_path / "a", "model": tmp_path / "b", "out": tmp_path / "c", empty: ""}
    with pytest.raises(InputError, match=f"fit: {empty} is empty; name a path"):
        fit(**paths)


def test_coadds_are_not_written_among_the_exposures(base, tmp_path):
    os.symlink(base / "sky", tmp_path / "sky")
    with pytest.raises(InputError, match=r"inside: lies within .*sky, where coadds would be taken for"):
        stack(tmp_path / "sky", tmp_path / "sky" / "inside")
    assert not (base / "sky" / "inside").exists()
    assert RUNS["stack"](base, tmp_path / "sky-stacked").is_dir()


def test_simulated_coadds_are_not_stacked_with_their_exposures(tmp_path):
    sky = tmp_path / "sky"
    with results(sky, "simulate", inputs={}, settings={}):
        (sky / "exposures").mkdir()
    with pytest.raises(InputError, match=r"coadds of its exposures too; give .*exposures"):
        stack(sky, tmp_path / "out")


def test_a_training_that_cannot_begin_leaves_nothing(base, tmp_path):
    options = {"recipe": "tiny", "steps": 2, "threads": 1, "options": {**TINY, "batch_size": 1000}}
    with pytest.raises(InputError, match="fewer than a batch of 1000"):
        train(base / "store", tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


def test_columns_may_be_called_anything(tmp_path):
    from deepfits.survey.store import Cutouts, create_store, shard_name, write_shard
    from tests.helpers.small_model import INFO

    names = ["chi2/dof", "../a", *NAMES[:4]]
    image = np.ones((3, 3, 16, 16), dtype=np.float32)
    columns = {name: np.arange(3.0) + number for number, name in enumerate(names)}
    create_store(tmp_path, INFO)
    cutouts = Cutouts(object_id=np.array(NAMES[:3]), image=image, weight=image, catalogue=columns)
    write_shard(tmp_path / shard_name(0), cutouts, INFO)
    read = CutoutStore(tmp_path, where="chi2/dof > 0").catalogue()
    assert read["object_id"].tolist() == NAMES[1:3]
    for name in names:
        np.testing.assert_array_equal(read[name], columns[name][1:])
    with pytest.raises(InputError, match=re.escape("no column 'dof'")):
        CutoutStore(tmp_path).catalogue(["dof"])
