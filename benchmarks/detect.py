"""Completeness and purity of `detect`: against a simulated sky's truth, and a field's SDSS catalogue.

    python benchmarks/detect.py --size 2000

The simulated sky has neighbours, as the real one does: what is lost brighter than i = 24 is lost in blends.
The SDSS part runs where the data are at hand (DEEPFITS_REAL_DATA, or ../shared/data beside the checkout).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.spatial import cKDTree

import deepfits
from deepfits.provenance import provenance
from deepfits.survey.catalogue import read_catalogue

REAL = Path(os.environ.get("DEEPFITS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
LIMIT = 24.0
# Truth that a detection may be: noise lifts sources over the threshold that are this faint.
FAINTEST = 27.5
MATCH_PIXELS = 4.0


def simulated(size: int, seed: int, directory: Path) -> dict[str, Any]:
    """Compare with the truth of a simulated sky."""
    sky = deepfits.simulate(directory / "sky", size=size, seed=seed)
    start = time.perf_counter()
    columns = read_catalogue(deepfits.detect(sky, directory / "catalogue.parquet"))
    seconds = time.perf_counter() - start
    truth = pq.read_table(Path(sky) / "truth.parquet").to_pydict()
    x, y, mag = (np.asarray(truth[name], dtype=float) for name in ("x", "y", "mag_i"))
    kind = np.asarray(truth["kind"])
    found = cKDTree(np.c_[columns["x"], columns["y"]])
    distance, index = found.query(np.c_[x, y])
    is_found = distance < MATCH_PIXELS
    real = mag < FAINTEST
    back, _ = cKDTree(np.c_[x[real], y[real]]).query(found.data)
    is_bright = columns["mag_auto_i"] < LIMIT
    matched = is_found & (mag < LIMIT)
    offset = columns["mag_auto_i"][index[matched]] - mag[matched]
    offset = offset[np.isfinite(offset)]
    bins = [(20, 22), (22, 23), (23, 24), (24, 25), (25, 26)]
    score = columns["star_score"][index]
    return {
        "completeness": float(is_found[mag < LIMIT].mean()),
        "purity": float((back[is_bright] < MATCH_PIXELS).mean()),
        "purity_all": float((back < MATCH_PIXELS).mean()),
        "completeness_by_mag": {
            f"{a}-{b}": round(float(is_found[(mag >= a) & (mag < b)].mean()), 3) for a, b in bins
        },
        "num_truth": int((mag < LIMIT).sum()),
        "num_detected": len(back),
        "median_mag_offset": float(np.median(offset)),
        "mag_scatter": float(1.4826 * np.median(np.abs(offset - np.median(offset)))),
        "stars_scored_star": float((score[is_found & (kind == "star") & (mag < 22)] > 0.5).mean()),
        "galaxies_scored_galaxy": float((score[is_found & (kind == "galaxy") & (mag < 22)] < 0.5).mean()),
        "seconds": round(seconds, 2),
    }


def sdss(directory: Path) -> dict[str, Any] | None:
    """Compare with the galaxies and stars that SDSS lists in a field."""
    folder = REAL / "sdss"
    files = [str(p) for p in sorted(folder.glob("frame-*-003918-3-0213.fits.bz2"))]
    if not files:
        return None
    start = time.perf_counter()
    columns = read_catalogue(deepfits.detect(files, directory / "sdss.parquet"))
    seconds = time.perf_counter() - start
    found = cKDTree(np.c_[columns["x"], columns["y"]])
    lists = {k: np.loadtxt(folder / f"003918-3-0213_{k}.csv", delimiter=",") for k in ("gals", "stars")}
    near = {k: found.query(v) for k, v in lists.items()}
    every = cKDTree(np.concatenate(list(lists.values())))
    bright = columns["mag_auto_r"] < 21
    return {
        "completeness_galaxies": float((near["gals"][0] < 3).mean()),
        "completeness_stars": float((near["stars"][0] < 3).mean()),
        "purity_r21": float((every.query(found.data[bright])[0] < 3).mean()),
        "num_listed": {k: len(v) for k, v in lists.items()},
        "num_detected": len(bright),
        "agreement_star_galaxy_r21": _agreement(near, columns),
        "seconds": round(seconds, 2),
    }


def _agreement(near: dict[str, Any], columns: dict[str, np.ndarray]) -> float:
    right = []
    for name, (distance, index) in near.items():
        which = (distance < 3) & (columns["mag_auto_r"][index] < 21)
        right.append((columns["star_score"][index[which]] > 0.5) == (name == "stars"))
    return float(np.concatenate(right).mean())


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = simulated(arguments.size, arguments.seed, Path(temporary))
        real = sdss(Path(temporary))
    print(
        f"Simulated sky, {result['num_truth']} objects brighter than i = {LIMIT}: "
        f"{result['completeness']:.1%} found; of the detections brighter than that "
        f"{result['purity']:.1%} are true, of all {result['purity_all']:.1%}."
    )
    if real is not None:
        print(
            f"SDSS field 003918-3-0213: {real['completeness_galaxies']:.1%} of the listed galaxies and "
            f"{real['completeness_stars']:.1%} of the stars found; "
            f"{real['purity_r21']:.1%} of our detections brighter than r = 21 are listed."
        )
    print(json.dumps({**result, "sdss": real, "size": arguments.size, "provenance": provenance()}))


if __name__ == "__main__":
    main()
