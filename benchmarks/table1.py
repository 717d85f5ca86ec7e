"""Table 1 of Murray, Fabbro & Yi (2019), done again: every method, the same held-out objects, two skies.

    python benchmarks/table1.py --out table1 [--skies simulated zcosmos] [--labels 1000 10000]

For each sky: images, cutouts, a model trained on them without labels, fits, and then a table for each number
of labels. ``simulated`` is the built-in sky; ``zcosmos`` is drawn from the real magnitudes and redshifts of
zCOSMOS-bright (``--zcosmos FILE``, else ``zcosmos/zcosmost_bright20k.csv`` in $DEEPFITS_REAL_DATA or
../shared/data). With ``--features``, ``--labels-table`` and ``--store`` the table is made for a sky of your
own instead. Finished work under ``--out`` is used again.

The last line is one JSON object with every row, its bootstrap errors, the hardware, versions and commit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json, writing
from deepfits.provenance import provenance
from deepfits.redshifts.results import paper_table

ZCOSMOS_COLUMNS = {band: f"{band}_photzi25" for band in "ugriz"}


def main() -> None:
    """Make the tables, print them, and end with one JSON object."""
    arguments = parse()
    out = Path(arguments.out)
    found: dict[str, Any] = {}
    for sky in ["own"] if arguments.features else arguments.skies:
        inputs = own_inputs(arguments) if sky == "own" else make_sky(sky, out / sky, arguments)
        found[sky] = {}
        for number in arguments.labels:
            content = make_table(inputs, out / sky / f"redshift-{number:05d}", number, arguments)
            used = content["rows"][0]["num_train"]
            print(f"\n## {sky}: {used} labels\n")
            print((out / sky / f"redshift-{number:05d}" / "table.md").read_text())
            found[sky][str(used)] = content["rows"]
    print("\n" + paper_table())
    rows = {
        sky: {labels: [compact(row) for row in rows] for labels, rows in tables.items()}
        for sky, tables in found.items()
    }
    print(json.dumps({"benchmark": "table1", "skies": rows, "provenance": provenance()}))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Table 1: every method on the same held-out objects.")
    parser.add_argument("--out", default="table1")
    parser.add_argument("--skies", nargs="+", default=["simulated", "zcosmos"])
    parser.add_argument("--labels", nargs="+", type=int, default=[1000, 10000])
    parser.add_argument("--methods", nargs="+", default=["boosting", "tpot", "neighbours", "templates"])
    parser.add_argument("--losses", nargs="+", default=["squared", "absolute"])
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument(
        "--faintest", type=float, default=25.0, help="labels are brighter than this i magnitude"
    )
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--train-minutes", type=float, default=30.0)
    parser.add_argument("--tpot-minutes", type=float, default=5.0)
    parser.add_argument("--tuning-trials", type=int, default=6)
    parser.add_argument("--wide-resnet-width", type=int, default=64)
    parser.add_argument("--network-minutes", type=float, default=30.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--zcosmos", default=None)
    parser.add_argument("--features", default=None)
    parser.add_argument("--embedder-features", default=None)
    parser.add_argument("--labels-table", default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--store", default=None)
    parser.add_argument("--select", nargs="*", default=None)
    return parser.parse_args()


def own_inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take features, labels and cutouts that are there."""
    return {
        "features": arguments.features,
        "labels": arguments.labels_table,
        "store": arguments.store,
        "embedder_features": arguments.embedder_features,
        "model": arguments.model,
        "select": arguments.select or [],
    }


def make_sky(sky: str, directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Go the whole way from images to features for one sky."""
    keywords: dict[str, Any] = {"size": arguments.size, "num_patches": arguments.patches}
    if sky == "zcosmos":
        keywords = {"size": arguments.size, "catalogue": zcosmos_catalogue(directory, arguments)}
    print(f"{sky}: simulating and cutting", flush=True)
    images = deepfits.simulate(directory / "sky", workers=arguments.threads, **keywords)
    store = deepfits.cutouts(images, directory / "cutouts")
    print(f"{sky}: training {arguments.recipe} for {arguments.train_minutes} minutes at most", flush=True)
    model = deepfits.train(
        store,
        directory / "model",
        recipe=arguments.recipe,
        max_time=arguments.train_minutes,
        threads=arguments.threads,
        device=arguments.device,
    )
    features = {}
    for mode in ("embedder", "both"):
        print(f"{sky}: fitting, mode {mode}", flush=True)
        features[mode] = deepfits.fit(
            store,
            model,
            directory / f"features-{mode}",
            mode=mode,
            threads=arguments.threads,
            device=arguments.device,
        )
    return {
        "features": features["both"],
        "embedder_features": features["embedder"],
        "model": model,
        "labels": directory / "sky" / "truth.parquet",
        "store": store,
        "select": ["kind == galaxy", f"mag_i < {arguments.faintest}"],
    }


def zcosmos_catalogue(directory: Path, arguments: argparse.Namespace) -> Path:
    """Write the secure galaxies of zCOSMOS-bright with magnitudes in all five bands, for `simulate`.

    Secure: class 3.x, 4.x, 2.5 or 9.3 to 9.5 (a leading 1 marks broad lines), and 0.01 < z < 4.
    """
    path = Path(arguments.zcosmos) if arguments.zcosmos else default_zcosmos()
    out = directory / "zcosmos.csv"
    if out.exists():
        return out
    with path.open() as handle:
        rows = [row for row in csv.DictReader(handle) if is_secure(row)]
    with writing(out) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*(f"mag_{band}" for band in ZCOSMOS_COLUMNS), "z_spec", "kind"])
        for row in rows:
            writer.writerow([*(row[name] for name in ZCOSMOS_COLUMNS.values()), row["zpec"], "galaxy"])
    return out


def default_zcosmos() -> Path:
    """Return where the table lies when it is not named."""
    root = Path(os.environ.get("DEEPFITS_REAL_DATA", "../shared/data"))
    path = root / "zcosmos" / "zcosmost_bright20k.csv"
    if not path.exists():
        raise InputError(f"{path}: no such table; name it with --zcosmos, or leave the sky zcosmos out")
    return path


def is_secure(row: dict[str, str]) -> bool:
    """Say whether a row of zCOSMOS has a secure redshift and all magnitudes."""
    confidence = float(row["cc"]) % 10
    is_sure = 3 <= confidence < 5 or abs(confidence - 2.5) < 0.01 or 9.25 < confidence < 9.55
    magnitudes = [float(row[name] or "nan") for name in ZCOSMOS_COLUMNS.values()]
    return is_sure and 0.01 < float(row["zpec"]) < 4 and all(10 < one < 32 for one in magnitudes)


def make_table(
    inputs: dict[str, Any], out: Path, number: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Make one table, and return its ``metrics.json``."""
    deepfits.redshift(
        inputs["features"],
        inputs["labels"],
        out,
        store=inputs["store"],
        embedder_features=inputs["embedder_features"],
        model=inputs["model"],
        select=inputs["select"],
        methods=arguments.methods,
        losses=arguments.losses,
        max_labels=number,
        tpot_minutes=arguments.tpot_minutes,
        tuning_trials=arguments.tuning_trials,
        wide_resnet_width=arguments.wide_resnet_width,
        network_minutes=arguments.network_minutes,
        device=arguments.device,
        num_threads=arguments.threads,
    )
    return read_json(out / "metrics.json", what="metrics")


def compact(row: dict[str, Any]) -> dict[str, Any]:
    """Keep what the JSON line needs of a row."""
    names = ("key", "num_train", "num_test", "seconds", "metrics", "pdf_metrics", "domain")
    return {name: row[name] for name in names if name in row}


if __name__ == "__main__":
    main()
