"""Completeness and purity of `detect`, against the truth of a simulated sky and an SDSS catalogue.

    python benchmarks/detect.py --size 2000 --seed 3 101 102 103

Sources on the simulated sky overlap as on the real one; those brighter than i = 24 that are missed are missed
in blends. The SDSS part runs if the data are available (in DEEPFITS_REAL_DATA, or in ../shared/data beside
the checkout).
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
# Faintest i magnitude of a true match: noise can scatter sources this faint above the threshold.
FAINTEST = 27.5
MATCH_PIXELS = 4.0
# A detection's own match may be fainter than its measured magnitude by up to this much.
FAINTER = 1.5


def simulated(size: int, seed: int, directory: Path, **options: Any) -> dict[str, np.ndarray]:
    """Detect on a simulated sky and match with its truth; return columns of truth and detections."""
    sky = deepfits.simulate(directory / f"sky-{seed}", size=size, seed=seed)
    start = time.perf_counter(), time.process_time()
    columns = read_catalogue(deepfits.detect(sky, directory / f"catalogue-{seed}.parquet", **options))
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    truth = pq.read_table(Path(sky) / "truth.parquet").to_pydict()
    x, y, mag = (np.asarray(truth[name], dtype=float) for name in ("x", "y", "mag_i"))
    found = cKDTree(np.c_[columns["x"], columns["y"]])
    distance, index = found.query(np.c_[x, y])
    real = mag < FAINTEST
    back, _ = cKDTree(np.c_[x[real], y[real]]).query(found.data)
    return {
        "mag": mag,
        "kind": np.asarray(truth["kind"]),
        "is_found": distance < MATCH_PIXELS,
        "mag_of_found": columns["mag_auto_i"][index],
        "score_of_found": columns["star_score"][index],
        "is_true": back < MATCH_PIXELS,
        "has_own_truth": own_truth(np.c_[x, y], mag, found.data, columns["mag_auto_i"]),
        "mag_auto": columns["mag_auto_i"],
        "seconds": np.array([seconds]),
    }


def own_truth(places: np.ndarray, mag: np.ndarray, found: np.ndarray, mag_of_found: np.ndarray) -> np.ndarray:
    """Return which detections have a true source of their own: ``(N,)`` bool.

    Detections and sources within `MATCH_PIXELS` are paired one to one, closest pairs first, so that fragments
    of a galaxy remain without a source. A source may be up to `FAINTER` magnitudes fainter than the
    detection.
    """
    number = len(found)
    near = cKDTree(places).query_ball_point(found, MATCH_PIXELS)
    detection = np.repeat(np.arange(number), [len(n) for n in near])
    source = np.concatenate([np.asarray(n, dtype=int) for n in near])
    is_possible = mag[source] < mag_of_found[detection] + FAINTER
    detection, source = detection[is_possible], source[is_possible]
    distance = np.hypot(*(places[source] - found[detection]).T)
    has_own, is_taken = np.zeros(number, bool), np.zeros(len(mag), bool)
    for pair in np.argsort(distance):
        if not has_own[detection[pair]] and not is_taken[source[pair]]:
            has_own[detection[pair]] = is_taken[source[pair]] = True
    return has_own


def measures(skies: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return completeness and purity over all skies, with binomial 1σ errors."""
    all_of = {name: np.concatenate([sky[name] for sky in skies]) for name in skies[0]}
    mag, kind, is_found, score = (all_of[n] for n in ("mag", "kind", "is_found", "score_of_found"))
    is_bright = all_of["mag_auto"] < LIMIT
    offset = (all_of["mag_of_found"] - mag)[is_found & (mag < LIMIT)]
    offset = offset[np.isfinite(offset)]
    bins = [(20, 22), (22, 23), (23, 24), (24, 25), (25, 26)]
    shares = {
        "completeness": is_found[mag < LIMIT],
        "purity": all_of["is_true"][is_bright],
        "purity_one_to_one": all_of["has_own_truth"][is_bright],
        "purity_all": all_of["is_true"],
    }
    return {
        **{name: float(values.mean()) for name, values in shares.items()},
        **{f"{name}_error": float(values.std() / len(values) ** 0.5) for name, values in shares.items()},
        "completeness_by_mag": {
            f"{a}-{b}": round(float(is_found[(mag >= a) & (mag < b)].mean()), 3) for a, b in bins
        },
        "num_truth": int((mag < LIMIT).sum()),
        "num_detected": len(all_of["mag_auto"]),
        "median_mag_offset": float(np.median(offset)),
        "mag_scatter": float(1.4826 * np.median(np.abs(offset - np.median(offset)))),
        "stars_scored_star": float((score[is_found & (kind == "star") & (mag < 22)] > 0.5).mean()),
        "galaxies_scored_galaxy": float((score[is_found & (kind == "galaxy") & (mag < 22)] < 0.5).mean()),
        "seconds": round(float(all_of["seconds"][:, 0].sum()), 2),
        "processor_seconds": round(float(all_of["seconds"][:, 1].sum()), 2),
    }


def sdss(directory: Path, **options: Any) -> dict[str, Any] | None:
    """Compare with the SDSS catalogue of galaxies and stars in a field; None without the data."""
    folder = REAL / "sdss"
    files = [str(p) for p in sorted(folder.glob("frame-*-003918-3-0213.fits.bz2"))]
    if not files:
        return None
    out = directory / "sdss.parquet"  # the catalogue positions refer to the r frame
    start = time.perf_counter()
    columns = read_catalogue(deepfits.detect(files, out, reference_band="r", **options))
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
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[3], help="seeds of the skies, which are combined"
    )
    parser.add_argument("--deblend-contrast", type=float)
    arguments = parser.parse_args()
    options = {"deblend_contrast": arguments.deblend_contrast} if arguments.deblend_contrast else {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        result = measures([simulated(arguments.size, seed, directory, **options) for seed in arguments.seed])
        real = sdss(directory, **options)
    print(
        f"Simulated sky, {result['num_truth']} objects brighter than i = {LIMIT}: "
        f"{result['completeness']:.1%} ± {result['completeness_error']:.1%} detected. Of the detections "
        f"brighter than i = {LIMIT}, {result['purity']:.1%} ± {result['purity_error']:.1%} are real and "
        f"{result['purity_one_to_one']:.1%} have a true object of their own; of all detections, "
        f"{result['purity_all']:.1%} are real."
    )
    if real is not None:
        print(
            f"SDSS field 003918-3-0213: {real['completeness_galaxies']:.1%} of the catalogued galaxies and "
            f"{real['completeness_stars']:.1%} of the catalogued stars are detected; "
            f"{real['purity_r21']:.1%} of our detections brighter than r = 21 are in the catalogue."
        )
    record = {"sdss": real, "size": arguments.size, "seeds": arguments.seed, "provenance": provenance()}
    print(json.dumps({**result, **record}))


if __name__ == "__main__":
    main()
