"""One claim on every result: what differs is refused by name, and nothing foreign is replaced."""

import errno
import json
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, fields

import numpy as np
import pytest

from deepfits.errors import InputError, ShardsFailedError
from deepfits.files import MANIFEST, contents, writing
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER
from deepfits.redshifts.head import HEAD
from deepfits.redshifts.storage import PREDICTOR
from deepfits.results import _HELD, RECORD, require_finished, results
from deepfits.stages import MODULES, load
from deepfits.stages.stage import INPUT, NAMES_FILES, NEUTRAL, documentation, field_names, settings_of

REQUIRED = {"images": "a", "out": "o", "store": "s", "model": "m", "features": "f", "labels": "l", "run": "r",
            "config": "c", "objects": 1.0, "predictions": "p", "ids": ["1"]}  # fmt: skip


def config_of(name):
    kind = load(name).config
    return kind(**{key: value for key, value in REQUIRED.items() if key in {f.name for f in fields(kind)}})


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_is_documented_once_and_counts_unless_it_is_marked(name):
    config = config_of(name)
    names = {f.name for f in fields(config)}
    assert set(documentation(type(config))) == names
    marked = {"out", *field_names(config, INPUT), *field_names(config, NEUTRAL)}
    assert set(settings_of(config)) == names - marked
    assert "progress" in marked
    for key in names - marked:
        other = copy(config)
        object.__setattr__(other, key, ["other"])  # whatever the stage itself makes of it
        assert settings_of(other)[key] == ["other"]


@pytest.mark.parametrize("name", MODULES)
def test_files_that_settings_name_count_by_their_contents(name, tmp_path):
    config = config_of(name)
    (tmp_path / "elsewhere").mkdir()
    for key in field_names(config, NAMES_FILES):

        def setting(path, content, config=config, key=key):
            path.write_text(content)
            object.__setattr__(config, key, [f"g={path}", "0.8", str(path)])
            return settings_of(config)[key]

        first = setting(tmp_path / "named.fits", "one")
        assert first[0].startswith("g=named.fits ")
        assert first[1] == "0.8"
        assert setting(tmp_path / "elsewhere" / "named.fits", "one") == first
        assert setting(tmp_path / "named.fits", "two") != first


def claimed(out, path, **settings):
    return results(out, "fit", inputs={"store": contents(path)}, settings=settings)


def test_what_differs_is_named_and_the_same_is_kept(tmp_path):
    path, out = tmp_path / "input", tmp_path / "new" / "out"
    path.write_bytes(b"one")
    with claimed(out, path, seed=1) as made:
        assert not made.is_finished
        (out / "shard").write_text("x")
    copy = tmp_path / "copy"
    copy.write_bytes(b"one")
    with claimed(out, copy, seed=1) as made:
        assert made.is_finished
    with pytest.raises(InputError, match="seed = 1, now 2"), claimed(out, path, seed=2):
        pass
    path.write_bytes(b"two")
    with pytest.raises(InputError, match=r"its input 'store' has changed;"):
        claimed(out, path, seed=1).__enter__()
    with pytest.raises(InputError, match="contains results of `deepfits fit`"):
        results(out, "inpaint", inputs={}, settings={}).__enter__()
    assert (out / "shard").read_text() == "x"


@pytest.mark.parametrize("error", [ShardsFailedError("all"), InputError("lost"), KeyboardInterrupt()])
def test_the_manifest_of_shards_of_which_none_is_done_is_kept(tmp_path, error):
    out = tmp_path / "out"

    def fail(**settings):
        with results(out, "fit", inputs={}, settings=settings):
            (out / MANIFEST).write_text("{}\n")
            raise error

    with pytest.raises(type(error)):
        fail(seed=1)
    assert (out / MANIFEST).exists()
    with pytest.raises(type(error)):  # nothing is lost by other settings
        fail(seed=2)
    (out / "shard-00000.parquet").touch()  # a worker has outlived the command
    with results(out, "fit", inputs={}, settings={"seed": 2}) as made:
        assert not made.is_finished


def test_an_input_that_is_new_or_gone_is_said_to_be(tmp_path):
    with results(tmp_path / "out", "fit", inputs={"store": "a", "start": None}, settings={}):
        (tmp_path / "out" / "shard").write_text("x")
    for inputs, said in (
        ({"store": "a", "start": "b"}, "made without 'start', now with it"),
        ({"store": None, "start": None}, "made with 'store', now without it"),
    ):
        with pytest.raises(InputError, match=said):
            results(tmp_path / "out", "fit", inputs=inputs, settings={}).__enter__()


def test_which_of_several_tables_counts(tmp_path):
    path, out = tmp_path / "z.fits", tmp_path / "out"
    path.write_bytes(b"several tables")
    with claimed(out, f"{path}[A]"):
        (out / "shard").write_text("x")
    with claimed(out, f"{path}[A]") as made:
        assert made.is_finished
    with pytest.raises(InputError, match=r"its input 'store' has changed \(table B is new\)"):
        claimed(out, f"{path}[B]").__enter__()
    assert contents(f"{path}[A]", f"{path}[B]").keys() == {"z.fits[A]", "z.fits[B]"}
    assert contents(path).keys() == {"contents"}


def test_several_inputs_may_lie_anywhere(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").write_text(name)
    monkeypatch.chdir(tmp_path)
    assert contents("one", "two") == contents(tmp_path / "one", tmp_path / "two")
    assert contents("one", "two") != contents("two", "one")


@pytest.mark.parametrize("name", [PREDICTOR, HEAD, CLASSIFIER])
def test_a_redshift_model_is_its_description_without_what_lies_beside(name, tmp_path):
    @dataclass
    class Anything:
        values: np.ndarray

    storage.save(Anything(np.arange(3.0)), tmp_path, name)
    before = contents(tmp_path)
    (tmp_path / "skies").mkdir()
    (tmp_path / "skies" / "examples.json").write_text("{}")  # of redshift_pretrain, which may be deleted
    (tmp_path / "predictions.parquet").touch()
    assert contents(tmp_path) == before
    storage.save(Anything(np.arange(3.0) + 1), tmp_path, name)
    assert contents(tmp_path) != before


def test_foreign_files_stay_and_failures_leave_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        results(tmp_path / "mine", "fit", inputs={}, settings={}).__enter__()
    table = tmp_path / "labels.parquet"
    table.write_text("mine")
    with pytest.raises(InputError, match="was not written by deepfits"):
        results(table, "export", inputs={}, settings={}, is_file=True).__enter__()
    with pytest.raises(RuntimeError), results(tmp_path / "a" / "b", "fit", inputs={}, settings={}):
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.parquet", "mine"]
    out = tmp_path / "out.txt"
    with results(out, "export", inputs={}, settings={}, is_file=True):
        out.write_text("ours")
    out.write_text("somebody else's")
    with pytest.raises(InputError, match="not the one that deepfits wrote"):
        results(out, "export", inputs={}, settings={}, is_file=True).__enter__()
    with pytest.raises(InputError, match="made without x = 1"):
        results(out, "export", inputs={}, settings={"x": 1}, is_file=True, renew=True).__enter__()
    assert out.read_text() == "somebody else's"


def test_quick_results_of_another_version_are_made_again(tmp_path, monkeypatch):
    quick, slow = tmp_path / "quick", tmp_path / "slow"

    def is_finished(out, **options):
        with results(out, "report", inputs={}, settings={}, **options) as claim:
            return claim.is_finished

    assert not any((is_finished(quick, renew=True), is_finished(slow)))
    assert all((is_finished(quick, renew=True), is_finished(slow)))
    monkeypatch.setattr("deepfits.results.code", lambda: "0.2.0")
    assert [is_finished(quick, renew=True), is_finished(slow)] == [False, True]
    assert is_finished(quick, renew=True)


def test_an_inner_setting_that_is_none_is_one_that_is_absent(tmp_path):
    """As for outer ones: a version that adds an optional setting keeps earlier results."""
    with results(tmp_path / "sky", "simulate", inputs={}, settings={"laws": {"slope": 0.6}}):
        pass
    same = {"laws": {"slope": 0.6, "limit": None}}
    with results(tmp_path / "sky", "simulate", inputs={}, settings=same) as claim:
        assert claim.is_finished
    other = {"laws": {"slope": 0.6, "limit": 25}}
    with pytest.raises(InputError, match=r"made without laws\.limit = 25"):
        results(tmp_path / "sky", "simulate", inputs={}, settings=other).__enter__()


def test_unfinished_inputs_are_refused(tmp_path):
    out = tmp_path / "features"

    def interrupted():
        with results(out, "fit", inputs={}, settings={}):
            (out / "shard-00000.parquet").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not json.loads((out / RECORD).read_text())["finished"]
    with pytest.raises(InputError, match="not finished; run the same `deepfits fit`"):
        require_finished(out)
    assert not require_finished(out, partial=True)
    with results(out, "fit", inputs={}, settings={}):
        pass
    assert require_finished(out)
    (out / "_manifest.jsonl").write_text('{"state": "done"}\n{"state": "missing"}\n')
    with pytest.raises(InputError, match="1 of 2 shards"):
        require_finished(out)


@pytest.mark.parametrize("is_file", [False, True])
def test_what_was_killed_before_it_wrote_anything_may_be_made_of_other_inputs(tmp_path, is_file):
    out = tmp_path / "results"
    for name in ("a", "b", "c"):
        claim = results(out, "detect", inputs={"images": {name: "1"}}, settings={}, is_file=is_file)
        claimed = claim.__enter__()  # and never left, as after a kill
        assert not claimed.is_finished
        if not is_file:
            (out / "catalogue.parquet.made_from.json").write_text("{}")
            (out / ".catalogue.parquet.parts").mkdir(exist_ok=True)
            _HELD.clear()
    if not is_file:  # the catalogue has its own record, which tells whether it can be used
        (out / "catalogue.parquet").write_text("x")
        claim = results(out, "detect", inputs={"images": {"d": "1"}}, settings={})
        assert not claim.__enter__().is_finished
    (out if is_file else out / "shard-00000.h5").write_text("x")
    with pytest.raises(InputError, match="its input 'images' has changed"):
        results(out, "detect", inputs={"images": {"a": "1"}}, settings={}, is_file=is_file).__enter__()


def test_a_file_that_was_removed_may_be_made_of_other_inputs(tmp_path):
    """Its record stays beside it, and the message had said to remove the file."""
    out = tmp_path / "catalogue.parquet"
    for name in ("a", "b"):
        with results(out, "detect", inputs={"images": {name: "1"}}, settings={}, is_file=True) as claimed:
            assert not claimed.is_finished
            out.write_text(name)
        with pytest.raises(InputError, match=r"its input 'images' has changed .*or remove it to start over"):
            results(out, "detect", inputs={"images": {"c": "1"}}, settings={}, is_file=True).__enter__()
        out.unlink()


def test_another_thread_in_the_same_directory_is_refused(tmp_path):
    out = tmp_path / "features"

    def claim_it():
        with results(out, "fit", inputs={}, settings={}):
            pass

    with ThreadPoolExecutor(1) as other:
        with (
            results(out, "fit", inputs={}, settings={}),
            pytest.raises(InputError, match="features: another thread is using this directory"),
        ):
            other.submit(claim_it).result()
        other.submit(claim_it).result()


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_file", [False, True])
def test_another_process_that_makes_the_same_output_is_refused(tmp_path, is_file, is_killed):
    out = tmp_path / "new" / "features"
    doing = "writing this file" if is_file else "using this directory"
    claim = {"stage": "fit", "inputs": {}, "settings": {}, "is_file": is_file}
    code = (
        "import sys\nfrom deepfits.results import results\n"
        f"with results({str(out)!r}, **{claim!r}):\n"
        "    print('here', flush=True)\n    sys.stdin.read()\n"
        f"    open({str(out)!r}, 'w').close() if {is_file} else None\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "here\n"
        with pytest.raises(InputError, match=f"features: another process is {doing}"):
            results(out, **claim).__enter__()
        if is_killed:
            other.kill()
        else:
            other.stdin.close()
        other.wait()
    for _ in range(2):
        with results(out, **claim), results(out, **claim):
            out.touch()
    assert (
        [path.name for path in out.iterdir()] == [RECORD]
        if out.is_dir()
        else len([*out.parent.iterdir()]) == 2
    )
    assert require_finished(out)


@pytest.mark.parametrize("is_file", [False, True])
def test_a_filesystem_without_locks_is_gone_on_with(tmp_path, monkeypatch, is_file):
    def no_locks(*arguments):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("deepfits.results.fcntl.flock", no_locks)
    with results(tmp_path / "out", "fit", inputs={}, settings={}, is_file=is_file):
        (tmp_path / "out").touch()
    assert require_finished(tmp_path / "out")
    assert not [*tmp_path.glob(".*")]


def test_a_shard_that_was_taken_away_is_missed(tmp_path):
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        (tmp_path / name).write_text("x")
    lines = [json.dumps({"shard": f"shard-0000{n}", "state": "done"}) for n in range(2)]
    (tmp_path / "_manifest.jsonl").write_text("\n".join(lines))
    assert require_finished(tmp_path)
    (tmp_path / "shard-00001.parquet").unlink()
    with pytest.raises(InputError, match="1 of 2 shards"):
        require_finished(tmp_path)


def test_what_a_killed_run_left_beside_a_file_goes_with_the_next(tmp_path):
    out = tmp_path / "all.csv"
    left = ["all.csv", "all.csv.made_from.json", "other.csv"]
    for number, name in enumerate(left):
        (tmp_path / f".writing-{number:08x}-{name}").write_text("half")
    with results(out, "export", inputs={}, settings={}, is_file=True), writing(out) as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".writing-00000002-other.csv", "all.csv", "all.csv.made_from.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused_by_every_stage(name, value):
    stage, config = load(name), config_of(name)
    given = {key: getattr(config, key) for key in REQUIRED if hasattr(config, key)}
    for key in [one.name for one in fields(config) if re.search(r"\bfloat\b", str(one.type))]:
        with pytest.raises(InputError, match=rf"{name}: {key} must be a finite number"):
            stage(**given | {key: value})
    for key in [one.name for one in fields(config) if re.search(r"Mapping|\bdict", str(one.type))]:
        for nested in ([1.0, value], {"g": value}, {"a": [{"b": (value,)}]}):
            with pytest.raises(InputError, match=rf"{name}: {key} must be a finite number"):
                stage(**given | {key: nested})


@pytest.mark.parametrize("content", ['{"inputs": []}', '{"settings": 1}', '{"written": "x"}', "[" * 10**5])
def test_a_record_that_is_none_is_named(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    for read in (require_finished, lambda path: results(path, "fit", inputs={}, settings={}).__enter__()):
        with pytest.raises(InputError, match=r"_made_from\.json: .*record of a result"):
            read(tmp_path)
