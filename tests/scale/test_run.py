"""Many shards in one process: what is skipped, what fails, what is written down, and a full disk."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dask
import h5py
import numpy as np
import pytest

from deepfits.errors import InputError, ShardsFailedError
from deepfits.files import MANIFEST, TEMPORARY_PREFIX, writing
from deepfits.fitting.features import read_features
from deepfits.progress import silent
from deepfits.scale.cluster import Workers, connect
from deepfits.scale.manifest import Manifest, read_manifest
from deepfits.scale.run import run_shards
from deepfits.scale.work import Shard
from deepfits.stages.fit import fit
from deepfits.stages.inpaint import inpaint
from tests.helpers.limits import largest_file

LENGTHS = (12, 1, 0, 12, 12)
QUICK = {"num_steps": 4, "uncertainty": False, "threads": 1}


@dataclass(frozen=True)
class Toy:
    """Write a shard's name, unless it is to fail."""

    out: Path
    failing: tuple[str, ...] = ()
    error: Exception | None = None

    def open(self, threads=None):
        def process(shard, advance):
            if shard.name in self.failing:
                raise self.error or KeyError("a defect")
            with writing(self.out / f"{shard.name}.txt") as temporary:
                temporary.write_text(shard.made_from)
            advance(shard.objects)

        return process


def is_done(path, made_from):
    return path.exists() and path.read_text() == made_from


def run_toy(out, shards, **options):
    work = Toy(out, options.pop("failing", ()), options.pop("error", None))
    settings = {
        "title": "toy",
        "is_done": is_done,
        "workers": Workers(),
        "progress": silent,
        "suffix": ".txt",
    }
    return run_shards(work, shards, out, **settings, **options)


def shards_of(number):
    return [Shard(name=f"shard-{n:05d}", objects=n, made_from=f"digest {n}") for n in range(number)]


def test_what_is_done_is_not_done_again(tmp_path):
    assert run_toy(tmp_path, shards_of(4))
    entries = read_manifest(tmp_path)
    assert [(e.shard, e.state, e.objects) for e in entries] == [
        (f"shard-{n:05d}", "done", n) for n in range(4)
    ]
    assert all(e.seconds >= 0 and e.num_bytes == len("digest 0") for e in entries)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert not run_toy(tmp_path, shards_of(4))
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    (tmp_path / MANIFEST).unlink()  # the results themselves are the truth
    assert not run_toy(tmp_path, shards_of(4))
    assert [e.state for e in read_manifest(tmp_path)] == ["done"] * 4


def test_what_changed_or_is_damaged_is_done_again(tmp_path):
    run_toy(tmp_path, shards_of(3))
    (tmp_path / "shard-00001.txt").write_text("half")
    (tmp_path / "shard-00002.txt").unlink()
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace("digest 0", "digest of something else") + '{"torn')
    assert run_toy(tmp_path, shards_of(3))
    assert [p.read_text() for p in sorted(tmp_path.glob("*.txt"))] == ["digest 0", "digest 1", "digest 2"]
    assert len(path.read_text().splitlines()) == 3


def test_a_failure_names_its_shard_and_stops_no_other(tmp_path):
    with pytest.raises(ShardsFailedError, match=r"2 of 5 shards failed.*shard-00001.*run the same command"):
        run_toy(tmp_path, shards_of(4), failing=("shard-00001",), unreadable={"shard-00009": "no such thing"})
    states = {e.shard: (e.state, e.reason) for e in read_manifest(tmp_path)}
    assert states["shard-00009"] == ("failed", "no such thing")
    assert states["shard-00001"][0] == "failed"
    assert "KeyError: 'a defect' (test_run.py:" in states["shard-00001"][1]
    assert sorted(p.stem for p in tmp_path.glob("*.txt")) == ["shard-00000", "shard-00002", "shard-00003"]
    assert run_toy(tmp_path, shards_of(4))
    assert [e.state for e in read_manifest(tmp_path)] == ["done"] * 4


def test_a_package_that_lacks_is_named_with_its_extra(tmp_path):
    lacks = ModuleNotFoundError("No module named 'sep'", name="sep")
    with pytest.raises(ShardsFailedError, match=r"this needs 'sep'; .*deepfits\[survey\]"):
        run_toy(tmp_path, shards_of(2), failing=("shard-00001",), error=lacks)


def test_results_of_another_store_are_not_mixed_in(tmp_path):
    run_toy(tmp_path, shards_of(3))
    with pytest.raises(InputError, match=r"shard-00002.txt.*no longer exists"):
        run_toy(tmp_path, shards_of(2))


@pytest.mark.parametrize(
    "line",
    [
        '{"shard": ["a"], "state": "done"}',
        '{"shard": "shard-00001", "state": "dnoe"}',
        '{"shard": "shard-00001", "state": "done", "objects": "many"}',
        '{"shard": "shard-00001", "state": "done", "num_bytes": NaN}',
        '{"shard": "shard-00001", "state": "done", "seconds": 1e999}',
        '{"shard": "shard-00001", "colour": "red"}',
        '{"a":' * 3000 + "1" + "}" * 3000,
        '{"shard": "shard-00001", "objects": ' + "9" * 5000 + "}",
        '{"shard": "shard-000',
        "\udcff\udcfe",
        "[]",
        "null",
    ],
)
def test_a_damaged_line_of_the_manifest_is_a_shard_of_which_nothing_is_known(tmp_path, line):
    run_toy(tmp_path, shards_of(3))
    before = read_manifest(tmp_path)
    path = tmp_path / MANIFEST
    lines = path.read_bytes().splitlines()
    lines[1] = line.encode("utf-8", "surrogateescape")
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert [e.shard for e in read_manifest(tmp_path)] == ["shard-00000", "shard-00002"]
    run_toy(tmp_path, shards_of(3))
    after = read_manifest(tmp_path)
    assert [(e.shard, e.state, e.objects) for e in after] == [(e.shard, e.state, e.objects) for e in before]


def test_the_manifest_of_many_shards_costs_little(tmp_path):
    manifest = Manifest(tmp_path)
    run_toy(tmp_path, shards_of(200))
    assert len(manifest.entries) == 0
    saves = []
    manifest = Manifest(tmp_path)
    manifest.save = lambda: saves.append(1)
    manifest._next_save = float("inf")
    manifest.save_when_due()
    assert not saves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers must be a whole number from 0"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "give one of the two"),
        ({"scheduler": "nowhere.json"}, "no such scheduler file"),
        ({"scheduler": "not an address"}, "no Dask scheduler answers"),
        ({"scheduler": "localhost"}, "no Dask scheduler answers there .missing port number"),
    ],
)
def test_impossible_workers_are_refused(sky, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("distributed.Client", None)  # one that has failed waits for 40 seconds at its end
    with pytest.raises(InputError, match=message):
        fit(sky / "store", sky / "model", tmp_path / "x", **QUICK, **options)


def test_workers_here_do_not_need_what_other_clusters_of_the_user_need():
    settings = {"distributed.comm.require-encryption": True, "distributed.comm.default-scheme": "tls"}
    with dask.config.set(settings), connect(Workers(number=2)) as client:
        assert len(client.nthreads()) == 2


def assert_same(directory, undisturbed):
    """Hold results to those of the run that nothing disturbed: every object once, every bit the same."""
    found = read_features(directory)
    assert len(np.unique(found["object_id"])) == len(found["object_id"])
    for name, values in found.items():
        np.testing.assert_array_equal(values, undisturbed[name], err_msg=name)
    assert not list(directory.glob(f"{TEMPORARY_PREFIX}*"))


def test_one_object_and_none(undisturbed, sky):
    assert len(undisturbed["object_id"]) == sum(LENGTHS)
    assert np.isfinite(undisturbed["latent"]).all()


def corrupt(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "not a number":
        with h5py.File(path, "r+") as file:
            file["image"][3, 0, 0, 0] = np.nan
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "not a number", "empty file"])
def test_a_corrupt_shard_among_good_ones(how, sky, undisturbed, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", sky / "store", store], check=True)
    bad = store / "shard-00003.h5"
    good = bad.read_bytes()
    corrupt(bad, how)
    with pytest.raises(ShardsFailedError, match=r"1 of 5 shards failed.*shard-00003: .*shard-00003\.h5"):
        fit(store, sky / "model", tmp_path / "f", **QUICK)
    assert [e.state for e in read_manifest(tmp_path / "f")] == ["done", "done", "done", "failed", "done"]
    found = read_features(tmp_path / "f")["object_id"]
    bad_ids = np.arange(113, 125)
    np.testing.assert_array_equal(np.setdiff1d(undisturbed["object_id"], found), bad_ids)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "f").glob("*.parquet")}
    bad.write_bytes(good)
    fit(store, sky / "model", tmp_path / "f", **QUICK)
    assert_same(tmp_path / "f", undisturbed)
    assert {n: (tmp_path / "f" / n).stat().st_mtime_ns for n in times} == times
    assert json.loads((tmp_path / "f/_features.json").read_text())["summary"]["num_objects"] == sum(LENGTHS)


def test_inpainting_goes_on_after_a_corrupt_shard(sky, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", sky / "store", store], check=True)
    corrupt(store / "shard-00000.h5", "truncated")
    with pytest.raises(ShardsFailedError, match="shard-00000"):
        inpaint(store, sky / "model", tmp_path / "i", bands=("r",), num_steps=3, threads=1)
    assert len(read_features(tmp_path / "i")["object_id"]) == sum(LENGTHS[1:])


def test_no_space_stops_the_run_and_leaves_nothing_half_written(sky, undisturbed, tmp_path):
    with (
        largest_file(8000),
        pytest.raises(InputError, match=r"make space, .* run the same command again"),
    ):
        fit(sky / "store", sky / "model", tmp_path / "f", **QUICK)
    assert not list(tmp_path.rglob("shard-*"))
    assert not list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*"))
    fit(sky / "store", sky / "model", tmp_path / "f", **QUICK)
    assert_same(tmp_path / "f", undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 40 kB, where this is allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here; the limit on file sizes stands in for it")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk(sky, undisturbed, small_disk):
    out = small_disk / "features"
    with pytest.raises(InputError, match=r"of 5 shards are done: .*No space left.*make space"):
        fit(sky / "store", sky / "model", out, **QUICK)
    done = read_features(out)["object_id"]
    assert 0 < len(done) < sum(LENGTHS)
    assert not list(out.glob(f"{TEMPORARY_PREFIX}*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    fit(sky / "store", sky / "model", out, **QUICK)
    assert_same(out, undisturbed)
