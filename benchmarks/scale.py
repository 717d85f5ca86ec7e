"""Fitting many shards with several workers: weak scaling, overhead of reading and writing, and memory.

    python benchmarks/scale.py

This takes about ten minutes on two idle cores. The cutouts of a small simulated sky are repeated with new IDs
until there are enough. Every worker has one thread. For weak scaling, two workers get twice as many shards as
one; both have already loaded the libraries and the model. For the overhead, the stage alternates with a fit
of the same objects that neither reads nor writes files. The last line is one JSON object.
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
    """Simulate a small sky and extract cutouts."""
    sky = deepfits.simulate(directory / "sky", size=1000, seed=7)
    return deepfits.cutouts(sky, directory / "base")


def repeat(store: Path, out: Path, number: int, shard_size: int) -> Path:
    """Write a store of `number` objects by repeating those of `store` with new IDs."""
    source = CutoutStore(store)
    shards = [source.read_shard(n) for n in range(len(source.shards))]
    image, weight = (np.concatenate([getattr(s, name) for s in shards]) for name in ("image", "weight"))
    create_store(out, source.info)
    for index, first in enumerate(range(0, number, shard_size)):
        object_id = np.arange(first, min(first + shard_size, number))
        rows = object_id % len(image)
        place = {"ra": 150 + object_id * 1e-5, "dec": np.zeros(len(object_id))}
        cutouts = Cutouts(object_id=object_id, image=image[rows], weight=weight[rows], catalogue=place)
        write_shard(out / shard_name(index), cutouts, source.info)
    return out


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def on_workers(number: int, store: Path, out: Path, warm: Path, budget: dict[str, Any]) -> dict[str, Any]:
    """Fit a store on warm workers; return the times of start and fit, and the workers' peak memory."""
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
    """Return the seconds for fitting all objects, from cutouts in memory to columns in memory."""
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
    """Return the seconds that the stage takes for the shards of a store, in this process."""
    deepfits.fit(store, MODEL, out, threads=1, **budget)
    seconds = sum(entry.seconds or 0 for entry in read_manifest(out))
    shutil.rmtree(out)
    return seconds


def measure_fraction(store: Path, out: Path, budget: dict[str, Any], rounds: int) -> tuple[float, float]:
    """Return medians of the fit's fraction of the stage's time, and of the overhead in seconds per shard."""
    shards = len(CutoutStore(store).shards)
    shares, extra = [], []
    for _ in range(rounds):
        alone, whole = fit_alone(store, budget), stage(store, out, budget)
        shares.append(alone / whole)
        extra.append((whole - alone) / shards)
    return statistics.median(shares), statistics.median(extra)


def weak_scaling(base: Path, directory: Path, warm: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare one worker with two workers that fit twice as many shards."""
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
    """Compare the stage with the fit alone, in alternation."""
    store = repeat(base, directory / "alone", options.shards * options.shard_size, options.shard_size)
    budget = {"num_steps": options.num_steps}
    share, extra = measure_fraction(store, directory / "stage", budget, options.rounds)
    return {"fit_fraction": share, "overhead_seconds_per_shard": extra}


def memory(base: Path, directory: Path, warm: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the peak memory of a worker with few and with many objects, in fits of a single step."""
    figures: dict[str, Any] = {}
    for number in (10_000, options.large):
        label = f"{number // 1000}k"
        store = repeat(base, directory / label, number, 2048)
        found = on_workers(2, store, directory / f"m{label}", warm, {"num_steps": 1, "uncertainty": False})
        figures[f"peak_worker_mb_{label}"] = round(found["peak_worker_mb"], 1)
        print(
            f"{label}: fitted in {found['seconds']:.0f} s; peak memory {found['peak_worker_mb']:.0f} MB per "
            f"worker, {peak_mb():.0f} MB in this process",
            flush=True,
        )
        shutil.rmtree(store)
    return figures


PARTS = {"scaling": weak_scaling, "fraction": fraction, "memory": memory}


def main() -> None:
    """Run all parts, or the selected ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="cutouts to repeat; by default those of a simulated sky")
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--shards", type=int, default=2, help="shards per worker, for the timed parts")
    parser.add_argument("--num-steps", type=int, default=30, help="maximum number of steps of the timed fits")
    parser.add_argument("--large", type=int, default=200_000, help="objects of the larger store for memory")
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
