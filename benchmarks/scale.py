"""Measure many shards over workers: weak scaling, what reading and writing cost, and memory.

Run as ``python benchmarks/scale.py`` (some ten minutes on two cores that nobody else uses). Cutouts of a
small simulated sky are repeated under fresh identities until there are enough. Every worker has one thread.
Weak scaling gives two workers twice the shards of one, both warm (libraries and model loaded). The fit alone
is the same fit of the same objects from memory to memory, in turns with the stage. The last line is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepfits
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.scale.cluster import Workers, connect
from deepfits.scale.manifest import read_manifest
from deepfits.survey.store import Cutouts, CutoutStore, create_store, shard_name, write_shard

MODEL = "builtin:clauds-hsc"


def base_cutouts(directory: Path) -> Path:
    """Simulate a small sky and cut it."""
    sky = deepfits.simulate(directory / "sky", size=1000, seed=7)
    return deepfits.cutouts(sky, directory / "base")


def repeat(store: Path, out: Path, number: int, shard_size: int) -> Path:
    """Write a store of `number` objects: those of another one, again and again, under fresh identities."""
    source = CutoutStore(store)
    shards = [source.read_shard(n) for n in range(len(source.shards))]
    image, weight = (np.concatenate([getattr(s, name) for s in shards]) for name in ("image", "weight"))
    create_store(out, source.info)
    for index, first in enumerate(range(0, number, shard_size)):
        identity = np.arange(first, min(first + shard_size, number))
        rows = identity % len(image)
        place = {"ra": 150 + identity * 1e-5, "dec": np.zeros(len(identity))}
        cutouts = Cutouts(object_id=identity, image=image[rows], weight=weight[rows], catalogue=place)
        write_shard(out / shard_name(index), cutouts, source.info)
    return out


def peak_mb() -> float:
    """Return the most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def on_workers(number: int, store: Path, out: Path, warm: Path, budget: dict[str, Any]) -> dict[str, Any]:
    """Fit a store on warm workers; return seconds, the start's seconds, and each worker's peak memory."""
    begin = time.perf_counter()
    with connect(Workers(number=number, threads=number)) as client:
        assert client.scheduler is not None
        address = client.scheduler.address
        deepfits.fit(warm, MODEL, out.with_name(f"{out.name}-warm"), scheduler=address, **budget)
        started = time.perf_counter()
        deepfits.fit(store, MODEL, out, scheduler=address, **budget)
        ended = time.perf_counter()
        peaks = list(client.run(peak_mb).values())
    busy = sum(entry.seconds or 0 for entry in read_manifest(out))
    return {
        "start_seconds": started - begin,
        "seconds": ended - started,
        "busy_seconds": busy,
        "peak_worker_mb": max(peaks),
    }


def fit_alone(store: Path, budget: dict[str, Any]) -> float:
    """Return the seconds that the fit of all objects takes, from memory to columns in memory."""
    opened = CutoutStore(store)
    fitter = Fitter(Model.load(MODEL), FitSettings(**budget), opened.info, threads=1)
    seconds = 0.0
    for shard in opened:
        begin = time.perf_counter()
        fitted = fitter.fit(shard.object_id, shard.image, shard.weight)
        feature_table(fitter, fitted, shard)
        seconds += time.perf_counter() - begin
    return seconds


def stage(store: Path, out: Path, budget: dict[str, Any]) -> float:
    """Return the seconds that the shards of the same take in the stage, in this process."""
    deepfits.fit(store, MODEL, out, threads=1, **budget)
    seconds = sum(entry.seconds or 0 for entry in read_manifest(out))
    shutil.rmtree(out)
    return seconds


def measure_fraction(store: Path, out: Path, budget: dict[str, Any], rounds: int) -> tuple[float, float]:
    """Return the fit's share of the stage's time, and the seconds a shard costs beside it: medians."""
    shards = len(CutoutStore(store).shards)
    shares, extra = [], []
    for _ in range(rounds):
        alone, whole = fit_alone(store, budget), stage(store, out, budget)
        shares.append(alone / whole)
        extra.append((whole - alone) / shards)
    return statistics.median(shares), statistics.median(extra)


def weak_scaling(base: Path, directory: Path, warm: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare one worker with two that have twice the shards."""
    budget = {"num_steps": options.num_steps}
    per_worker = options.shards * options.shard_size
    stores = {n: repeat(base, directory / f"for-{n}", n * per_worker, options.shard_size) for n in (1, 2)}
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for turn in range(options.rounds):
        for number, store in stores.items():
            found = on_workers(number, store, directory / f"w{number}-{turn}", warm, budget)
            runs[number].append(found)
            rate = number * per_worker / found["seconds"]
            print(f"{number} worker(s): {found['seconds']:.1f} s, {rate:.0f} objects/s", flush=True)
    seconds = {n: statistics.median(run["seconds"] for run in runs[n]) for n in runs}
    busy = statistics.median(run["busy_seconds"] for run in runs[1])
    sizes = [path.stat().st_size for path in (directory / "w1-0").glob("*.parquet")]
    return {
        "weak_scaling": seconds[1] / seconds[2],
        "objects_per_second_1": per_worker / seconds[1],
        "objects_per_second_2": 2 * per_worker / seconds[2],
        "scheduling_seconds_per_shard": (seconds[1] - busy) / options.shards,
        "start_seconds": statistics.median(run["start_seconds"] for run in runs[2]),
        "feature_bytes_per_object": sum(sizes) / per_worker,
    }


def fraction(base: Path, directory: Path, warm: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the stage with the fit alone, in turns."""
    store = repeat(base, directory / "alone", options.shards * options.shard_size, options.shard_size)
    budget = {"num_steps": options.num_steps}
    share, extra = measure_fraction(store, directory / "stage", budget, options.rounds)
    return {"fit_fraction": share, "overhead_seconds_per_shard": extra}


def memory(base: Path, directory: Path, warm: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak of a worker with few objects and with many; the least number of steps will do."""
    figures: dict[str, Any] = {}
    for number in (10_000, options.large):
        label = f"{number // 1000}k"
        store = repeat(base, directory / label, number, 2048)
        found = on_workers(2, store, directory / f"m{label}", warm, {"num_steps": 1, "uncertainty": False})
        figures[f"peak_worker_mb_{label}"] = round(found["peak_worker_mb"], 1)
        print(
            f"{label}: fitted in {found['seconds']:.0f} s, a worker's peak {found['peak_worker_mb']:.0f} MB, "
            f"this process {peak_mb():.0f} MB",
            flush=True,
        )
        shutil.rmtree(store)
    return figures


PARTS = {"scaling": weak_scaling, "fraction": fraction, "memory": memory}


def main() -> None:
    """Run everything, or the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="Cutouts to repeat; a sky is simulated by default.")
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--shards", type=int, default=2, help="Per worker, for the timed parts.")
    parser.add_argument("--num-steps", type=int, default=30, help="The most steps of the timed fits.")
    parser.add_argument("--large", type=int, default=200_000, help="Objects of the larger store for memory.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        base = options.store or base_cutouts(directory)
        warm = repeat(base, directory / "warm", 2 * 64, 64)
        for part in options.parts:
            figures |= PARTS[part](base, directory, warm, options)
    for key, value in figures.items():
        print(f"{key:30s} {value:.4g}")
    about = {"model": MODEL, "num_steps": options.num_steps, "shard_size": options.shard_size}
    print(json.dumps({**figures, **about, "load_average": os.getloadavg()[0], "provenance": provenance()}))


if __name__ == "__main__":
    main()
