"""Workers and schedulers that are killed: no object is lost or doubled, and no bit changes."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread, Timer

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

from deepfits.errors import InputError, ShardsFailedError
from deepfits.files import TEMPORARY_PREFIX, writing
from deepfits.fitting.features import is_done, read_features
from deepfits.progress import silent
from deepfits.provenance import code
from deepfits.scale.cluster import Workers, _environments, connect
from deepfits.scale.manifest import read_manifest
from deepfits.scale.run import POLL_SECONDS, _on_workers, _tried, run_shards
from deepfits.scale.work import OtherCodeError, Outcome, Shard, require_code
from deepfits.stages.fit import fit
from deepfits.stages.inpaint import inpaint
from deepfits.survey.store import CutoutStore
from tests.helpers.small_model import make_model

LENGTHS = (24, 24, 1, 0, 24, 24)
QUICK = {"num_steps": 8, "uncertainty": False, "threads": 1}
# Warnings of a library that has just lost a process are no concern of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    """Two workers, started once for all tests here; whoever is killed comes back."""
    with connect(Workers(number=2, threads=2)) as connected:
        yield connected


def address(client):
    return client.scheduler.address


def assert_whole(directory, undisturbed):
    found = read_features(directory)
    assert len(np.unique(found["object_id"])) == len(found["object_id"]) == len(undisturbed["object_id"])
    for name, values in found.items():
        np.testing.assert_array_equal(values, undisturbed[name], err_msg=name)
    assert not list(directory.glob(f"{TEMPORARY_PREFIX}*"))
    assert {e.state for e in read_manifest(directory)} == {"done"}


def environment_of_worker():
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def opened_models():
    from deepfits.scale.work import _opened

    return _opened.cache_info()


def test_workers_have_few_threads_load_the_model_once_and_give_the_same_bits(
    client, sky, undisturbed, tmp_path
):
    assert set(client.run(environment_of_worker).values()) == {("1", 1)}
    out = fit(sky / "store", sky / "model", tmp_path / "f", **QUICK, scheduler=address(client))
    assert_whole(out, undisturbed)
    assert all(entry.seconds is not None for entry in read_manifest(out))
    infos = list(client.run(opened_models).values())
    assert all(info.misses <= 1 for info in infos)
    assert sum(info.misses + info.hits for info in infos) == len(LENGTHS)


def kill_a_busy_worker(client, out, killed):
    """Wait for the first result, then kill a worker that has a shard in hand."""
    pids = client.run(os.getpid)
    for _ in range(3000):
        busy = [worker for worker, tasks in client.processing().items() if tasks]
        if list(out.glob("shard-*.parquet")) and busy:
            os.kill(pids[busy[0]], signal.SIGKILL)
            killed.append(pids[busy[0]])
            return
        time.sleep(0.01)


def test_a_worker_killed_in_mid_shard(client, sky, undisturbed, tmp_path):
    out, killed = tmp_path / "f", []
    killer = Thread(target=kill_a_busy_worker, args=(client, out, killed))
    killer.start()
    fit(sky / "store", sky / "model", out, **QUICK, scheduler=address(client))
    killer.join()
    assert killed
    assert killed[0] not in psutil.pids()
    assert_whole(out, undisturbed)


class Killer:
    """Die while a result is half written: once, or for one shard every time."""

    def __init__(self, out: Path, once: str, always: str = "") -> None:
        self.out, self.once, self.always = out, once, always

    def __hash__(self):
        return hash((self.out, self.once, self.always))

    def __eq__(self, other):
        return (self.out, self.once, self.always) == (other.out, other.once, other.always)

    def open(self, threads=None):
        def process(shard, advance):
            with writing(self.out / f"{shard.name}.txt") as temporary:
                temporary.write_text(shard.made_from[:3])
                first = self.out / f"died-{shard.name}"
                if shard.name == self.always or (shard.name == self.once and not first.exists()):
                    first.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                temporary.write_text(shard.made_from)

        return process


def test_a_worker_killed_with_a_file_half_written(client, tmp_path):
    shards = [Shard(name=f"shard-{n:05d}", objects=1, made_from=f"digest {n}") for n in range(4)]
    workers = Workers(scheduler=address(client))
    options = {"title": "", "workers": workers, "progress": silent, "suffix": ".txt"}
    options["is_done"] = lambda path, made_from: path.exists() and path.read_text() == made_from
    assert run_shards(Killer(tmp_path, "shard-00001"), shards, tmp_path, **options)
    assert (tmp_path / "died-shard-00001").exists()
    assert [p.read_text() for p in sorted(tmp_path.glob("shard*.txt"))] == [s.made_from for s in shards]
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))


@dataclass(frozen=True)
class Copier:
    """Write what a file held when the work was opened."""

    source: Path
    out: Path

    def open(self, threads=None):
        text = self.source.read_text()
        return lambda shard, advance: (self.out / f"{shard.name}.txt").write_text(text)


def test_workers_that_live_on_see_what_has_changed(client, tmp_path):
    options = {"title": "", "workers": Workers(scheduler=address(client)), "progress": silent}
    options |= {"suffix": ".txt", "is_done": lambda path, made_from: False}
    for text in ("one", "two"):
        (tmp_path / "model").write_text(text)
        shards = [Shard(name=f"shard-{n:05d}", objects=1, made_from=text) for n in range(4)]
        run_shards(Copier(tmp_path / "model", tmp_path), shards, tmp_path, **options)
        assert {path.read_text() for path in tmp_path.glob("shard*.txt")} == {text}


class OneWorker:
    def nthreads(self):
        return {"tcp://127.0.0.1:1": 1}


@pytest.mark.parametrize(("killers", "tries"), [("1", 6), ("02", 8), ("0123", 6)])
def test_shards_that_share_the_deaths_of_another_are_tried_alone(monkeypatch, killers, tries):
    """Two wait on a worker at a time, and a death counts for both; if all die, it is not for one of them."""
    tried = []

    def fake(client, work, todo, run):
        tried.extend(todo)
        for pair in (todo[:2], todo[2:]):
            is_killed = any(shard.name in killers for shard in pair)
            yield from (
                (shard, Outcome(shard=shard.name, seconds=0.0, is_killed=is_killed)) for shard in pair
            )

    monkeypatch.setattr("deepfits.scale.run._tried", fake)
    outcomes = list(_on_workers(OneWorker(), None, [Shard(name=n, objects=1, made_from="") for n in "0123"]))
    assert sorted(shard.name for shard, _ in outcomes) == list("0123")
    assert [shard.name for shard, outcome in outcomes if outcome.is_killed] == list(killers)
    assert len(tried) == tries


def test_a_worker_that_starts_slowly_after_its_death_is_not_given_up():
    settings = {"distributed.deploy.lost-worker-timeout": "1ms"}
    with dask.config.set(settings), connect(Workers(number=2)) as one:
        before = one.run(os.getpid)
        os.kill(min(before.values()), signal.SIGKILL)
        for _ in range(600):
            if len(one.nthreads()) == 2 and one.nthreads().keys() != before.keys():
                return
            time.sleep(0.1)
    pytest.fail("the worker did not come back")


def test_a_cluster_whose_workers_have_ended_is_reported(tmp_path, caplog):
    (tmp_path / "model").write_text("one")
    shards = [Shard(name=f"shard-{n:05d}", objects=1, made_from="one") for n in range(6)]
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, Client(cluster, set_as_default=False) as one:
        outcomes = _tried(one, Copier(tmp_path / "model", tmp_path), shards, "run")
        next(outcomes)
        assert "has no workers" not in caplog.text
        cluster.scale(0)
        while one.nthreads():
            time.sleep(0.01)
        Timer(3 * POLL_SECONDS, cluster.scale, [1]).start()
        assert len(list(outcomes)) == 5
    assert caplog.text.count("the Dask scheduler has no workers; waiting for them") == 1


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_listed_alone(tmp_path):
    """On a single worker, each death is counted for the next shard too, which waits there."""
    shards = [Shard(name=f"shard-{n:05d}", objects=1, made_from=f"digest {n}") for n in range(4)]
    options = {"title": "", "progress": silent, "suffix": ".txt"}
    options["is_done"] = lambda path, made_from: path.exists() and path.read_text() == made_from
    with connect(Workers(number=1, threads=1)) as client:
        options["workers"] = Workers(scheduler=address(client))
        with pytest.raises(
            ShardsFailedError, match=r"1 of 4 shards failed.*shard-00000: its worker died 4 times"
        ):
            run_shards(Killer(tmp_path, "", "shard-00000"), shards, tmp_path, **options)
    assert [p.stem for p in sorted(tmp_path.glob("shard*.txt"))] == [shards[n].name for n in (1, 2, 3)]


@pytest.mark.slow
def test_a_corrupt_shard_on_workers(client, sky, undisturbed, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", sky / "store", store], check=True)
    whole = (store / "shard-00001.h5").read_bytes()
    (store / "shard-00001.h5").write_bytes(whole[:-5000])
    with pytest.raises(ShardsFailedError, match=r"1 of 6 shards failed.*shard-00001"):
        fit(store, sky / "model", tmp_path / "f", **QUICK, scheduler=address(client))
    assert len(read_features(tmp_path / "f")["object_id"]) == sum(LENGTHS) - 24
    (store / "shard-00001.h5").write_bytes(whole)
    fit(store, sky / "model", tmp_path / "f", **QUICK, scheduler=address(client))
    assert_whole(tmp_path / "f", undisturbed)


@pytest.mark.slow
def test_another_model_under_the_same_name_is_refused(client, sky, tmp_path):
    work_model = tmp_path / "model"
    make_model(work_model)
    import json

    from deepfits.stages.fit_work import FitWork, select

    work = FitWork(
        store=str(sky / "store"), model=str(work_model), model_hash="0" * 16, out=str(tmp_path / "f"),
        settings=None,
    )  # fmt: skip
    (tmp_path / "f").mkdir()
    shards = select(CutoutStore(sky / "store")).shards[:1]
    with pytest.raises(ShardsFailedError, match="the model differs from the one that the run began with"):
        run_shards(
            work, shards, tmp_path / "f", title="", is_done=is_done, progress=silent,
            workers=Workers(scheduler=address(client)),
        )  # fmt: skip
    assert json.loads((tmp_path / "f/_manifest.jsonl").read_text())["state"] == "failed"


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(client, sky, tmp_path, monkeypatch):
    assert client.submit(require_code, code(), pure=False).result() is None
    monkeypatch.setattr("deepfits.scale.run.code", lambda: "0.0.1 (sources 0123456789ab)")
    with pytest.raises(
        OtherCodeError, match=r"worker at tcp://.* runs deepfits .* this command is deepfits 0.0.1"
    ):
        fit(sky / "store", sky / "model", tmp_path / "f", **QUICK, scheduler=address(client))
    assert not list(tmp_path.rglob("shard-*"))


def test_inpainting_on_workers(client, sky, tmp_path):
    options = {"bands": ("r",), "num_steps": 3, "object_ids": [100, 130, 180]}
    one = inpaint(sky / "store", sky / "model", tmp_path / "one", threads=1, **options)
    two = inpaint(sky / "store", sky / "model", tmp_path / "two", scheduler=address(client), **options)
    found = read_features(two)
    assert len(found["object_id"]) == 3
    for name, values in read_features(one).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.slow
def test_cutouts_on_workers(client, tmp_path):
    from deepfits.stages.cutouts import cutouts
    from tests.helpers.gaussian_sky import make_truth, write_plain

    rng = np.random.default_rng(1)
    sky = write_plain(tmp_path / "sky", make_truth(rng, 20, (120, 110)), (120, 110), rng=rng)
    one = cutouts(sky, tmp_path / "one", shard_size=8)
    options = {"shard_size": 8, "catalogue": one / "catalogue.parquet", "scheduler": address(client)}
    two = cutouts(sky, tmp_path / "two", **options)
    names = sorted(p.name for p in one.glob("shard-*.h5"))
    assert len(names) > 1
    assert sorted(p.name for p in two.glob("shard-*.h5")) == names
    first, second = CutoutStore(one), CutoutStore(two)
    for number in range(len(names)):
        np.testing.assert_array_equal(first.read_shard(number).image, second.read_shard(number).image)


def test_workers_keep_their_memory_between_the_steps_of_a_fit(client):
    """Dask's own setting has it returned and taken again at each step, for twice the time of the fit."""
    found = client.run(lambda: [os.environ.get(n) for n in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")])
    assert list(found.values()) == [[None, "1"]] * 2


def test_local_workers_share_threads_and_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    given = _environments(Workers(number=3, threads=8, device="cuda"))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == ["4", "7", "4"]
    assert {one["OMP_NUM_THREADS"] for one in given} == {"2"}
    assert "CUDA_VISIBLE_DEVICES" not in _environments(Workers(number=2, threads=1))[0]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """A scheduler and its workers, as processes of their own: started as a user does it."""

    def __init__(self, port, directory):
        self.address = f"tcp://127.0.0.1:{port}"
        dask = [sys.executable, "-m", "dask"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": directory}
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--no-dashboard",
            "--dashboard-address",
            "127.0.0.1:0",
        ]
        self.scheduler = subprocess.Popen([*dask, "scheduler", *options], **quiet)
        worker = [*dask, "worker", self.address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
        self.workers = subprocess.Popen([*worker, "--death-timeout", "30"], **quiet)

    def stop(self):
        for one in (self.scheduler, self.workers):
            if one.poll() is None:
                one.terminate()
            one.wait(30)


@pytest.mark.slow
def test_the_scheduler_killed_and_the_command_started_again(sky, undisturbed, tmp_path):
    port, out, killed = free_port(), tmp_path / "f", []
    cluster = Cluster(port, tmp_path)

    def kill_scheduler():
        for _ in range(60_000):
            if len(list(out.glob("shard-*.parquet"))) >= 2:
                cluster.scheduler.kill()
                killed.append(True)
                return
            time.sleep(0.001)

    killer = Thread(target=kill_scheduler)
    killer.start()
    try:
        with pytest.raises(InputError, match=r"scheduler is gone.*run the same command again"):
            fit(sky / "store", sky / "model", out, **QUICK, scheduler=cluster.address)
    finally:
        killer.join()
        cluster.stop()
    assert killed
    states = [e.state for e in read_manifest(out)]
    assert len(states) == len(LENGTHS)
    assert "failed" not in states
    for path in out.glob("shard-*.parquet"):
        read_features(out)
        assert path.stat().st_size > 0
    cluster = Cluster(port, tmp_path)
    try:
        fit(sky / "store", sky / "model", out, **QUICK, scheduler=cluster.address)
    finally:
        cluster.stop()
    assert_whole(out, undisturbed)


def start_command(sky, out, *more):
    main = "from deepfits.cli import main; main()"
    command = [sys.executable, "-c", main, "--threads", "2", "fit", sky / "store", sky / "model"]
    options = ["--out", out, "--num-steps", "8", "--set", "uncertainty=false", *more]
    return subprocess.Popen([str(c) for c in [*command, *options]], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_and_its_workers_killed_again_and_again(sky, undisturbed, tmp_path):
    out = tmp_path / "f"
    for _ in range(2):
        before = len(list(out.glob("shard-*.parquet")))
        command = start_command(sky, out, "--workers", "2")
        while len(list(out.glob("shard-*.parquet"))) == before and command.poll() is None:
            time.sleep(0.005)
        children = psutil.Process(command.pid).children(recursive=True)
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert children
        assert not alive  # nobody goes on behind our back
        for path in out.glob("shard-*.parquet"):
            assert path.stat().st_size > 0
    command = start_command(sky, out, "--workers", "2")
    _, errors = command.communicate()
    assert command.returncode == 0, errors
    assert_whole(out, undisturbed)


@pytest.mark.slow
def test_the_command_names_the_corrupt_shard_and_fails(sky, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", sky / "store", store], check=True)
    (store / "shard-00004.h5").write_bytes(b"no HDF5")
    subprocess.run(["ln", "-s", sky / "model", tmp_path / "model"], check=True)
    command = start_command(tmp_path, tmp_path / "f", "--workers", "2")
    _, errors = command.communicate()
    assert command.returncode == 2
    assert "1 of 6 shards failed" in errors.splitlines()[-1]
    assert "shard-00004" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert len(read_features(tmp_path / "f")["object_id"]) == sum(LENGTHS) - 24
