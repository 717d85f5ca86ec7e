"""Table 1 of Murray, Fabbro & Yi (2019), done again: every method, the same held-out objects, two skies.

    python benchmarks/table1.py --out table1 [--skies simulated zcosmos] [--labels 1000 10000]

For each sky: images, cutouts, fits with a model that has seen neither, and then a table for each number of
labels, curves over all numbers of labels, and pictures. ``simulated`` is the built-in sky; ``zcosmos`` is
drawn from the real magnitudes and redshifts of zCOSMOS-bright (``--zcosmos FILE``, else
``zcosmos/zcosmost_bright20k.csv`` in $DEEPFITS_REAL_DATA or ../shared/data). ``--model`` names another
model than the one that comes with the package; ``--train-minutes`` trains one for each sky instead, on the
objects that are not held out. With ``--features``, ``--labels-table`` and ``--store`` the table is made for
a sky of your own. Finished work under ``--out`` is used again, so the command may be stopped at any time;
``--stop-after images`` or ``fits`` ends it there.

The last line is one JSON object with every row, its bootstrap errors, the hardware, versions and commit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json, writing
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.results import paper_table
from deepfits.stages.redshift_curves import write_curves
from deepfits.survey.store import CutoutStore

ZCOSMOS_COLUMNS = {band: f"{band}_photzi25" for band in "ugriz"}
METHODS = (
    "boosting",
    "network",
    "tpot",
    "neighbours",
    "templates",
    "lephare",
    "wide_resnet",
    "semi_supervised",
    "scratch",
    "hybrid",
    "stack",
)
CURVE_METHODS = ("boosting", "network", "templates")
FEATURE_SETS = ("latents", "magnitudes", "network:templates", "all")
DOMAIN = {"select": ["kind == galaxy", "mag_i < 24"], "train_select": ["mag_i < 22.5"]}


def main() -> None:
    """Make the tables, print them, and end with one JSON object."""
    arguments = parse()
    out = Path(arguments.out)
    found: dict[str, Any] = {}
    for sky in ["own"] if arguments.features else arguments.skies:
        inputs = own_inputs(arguments) if sky == "own" else make_sky(sky, out / sky, arguments)
        if arguments.stop_after:
            continue
        found[sky] = make_tables(sky, inputs, out / sky, arguments)
    if arguments.domain and "simulated" in found:
        make_domain(out / "simulated", arguments)
    print("\n" + paper_table())
    rows = {
        sky: {labels: [compact(row) for row in table["rows"]] for labels, table in tables.items()}
        for sky, tables in found.items()
    }
    print(json.dumps({"benchmark": "table1", "skies": rows, "provenance": provenance()}))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Table 1: every method on the same held-out objects.")
    parser.add_argument("--out", default="table1")
    parser.add_argument("--skies", nargs="+", default=["simulated", "zcosmos"])
    parser.add_argument("--labels", nargs="+", type=int, default=[10000, 1000], help="of the full tables")
    parser.add_argument(
        "--curve", nargs="*", type=int, default=[100, 300, 3000], help="of tables with fast methods alone"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--curve-methods", nargs="+", default=list(CURVE_METHODS))
    parser.add_argument("--feature-sets", nargs="+", default=list(FEATURE_SETS))
    parser.add_argument("--losses", nargs="+", default=["absolute"])
    parser.add_argument("--patches", type=int, default=9)
    parser.add_argument("--size", type=int, default=2050)
    parser.add_argument("--seed", type=int, default=7, help="of the simulated sky; no model was trained on 7")
    parser.add_argument(
        "--faintest", type=float, default=25.0, help="labels are brighter than this i magnitude"
    )
    parser.add_argument("--model", default="builtin:clauds-hsc")
    parser.add_argument("--tolerance", type=float, default=None, help="of the fits; 0.003 halves the time")
    parser.add_argument("--no-uncertainty", action="store_true", help="of the fits; saves a third")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--train-minutes", type=float, default=0.0, help="train a model for each sky")
    parser.add_argument("--tpot-minutes", type=float, default=5.0)
    parser.add_argument("--tuning-trials", type=int, default=6)
    parser.add_argument("--wide-resnet-width", type=int, default=64)
    parser.add_argument("--network-minutes", type=float, default=30.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--domain", action="store_true", help="also learn from bright objects alone")
    parser.add_argument("--stop-after", choices=["images", "fits"], default=None)
    parser.add_argument("--pictures", default=None, help="where pictures go; by default into --out")
    parser.add_argument("--zcosmos", default=None)
    parser.add_argument("--features", default=None)
    parser.add_argument("--embedder-features", default=None)
    parser.add_argument("--labels-table", default=None)
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
    """Go the whole way from images to features for one sky; only objects with a label are fitted."""
    inputs = {
        "labels": directory / "sky" / "truth.parquet",
        "store": directory / "cutouts",
        "select": ["kind == galaxy"],
    }
    keywords: dict[str, Any] = {"size": arguments.size}
    if sky == "zcosmos":
        keywords["catalogue"] = zcosmos_catalogue(directory, arguments)
    else:
        keywords |= {"num_patches": arguments.patches, "seed": arguments.seed}
        inputs["select"].append(f"mag_i < {arguments.faintest:g}")
    print(f"{sky}: simulating and cutting", flush=True)
    images = deepfits.simulate(directory / "sky", workers=arguments.threads, **keywords)
    store = deepfits.cutouts(images, inputs["store"])
    if arguments.stop_after == "images":
        return inputs
    inputs["model"] = arguments.model
    if arguments.train_minutes:
        print(f"{sky}: training {arguments.recipe} for {arguments.train_minutes} minutes at most", flush=True)
        inputs["model"] = deepfits.train(
            store,
            directory / "model",
            recipe=arguments.recipe,
            max_time=arguments.train_minutes,
            threads=arguments.threads,
            device=arguments.device,
        )
    labelled = labelled_objects(inputs)
    for mode in ("embedder", "both"):
        print(f"{sky}: fitting {len(labelled)} objects, mode {mode}", flush=True)
        features = deepfits.fit(
            store,
            inputs["model"],
            directory / f"features-{mode}",
            mode=mode,
            object_ids=labelled,
            uncertainty=mode == "both" and not arguments.no_uncertainty,
            tolerance=arguments.tolerance if mode == "both" else None,
            threads=arguments.threads,
            device=arguments.device,
        )
        inputs["features" if mode == "both" else "embedder_features"] = features
    return inputs


def labelled_objects(inputs: dict[str, Any]) -> list[int]:
    """Return the identities of the cutouts that have a label."""
    labels = read_labels(inputs["labels"], select=inputs["select"])
    catalogue = CutoutStore(inputs["store"]).catalogue(["ra", "dec"])
    columns = {name: np.asarray(catalogue[name]) for name in ("object_id", "ra", "dec")}
    return columns["object_id"][match_labels(columns, labels).rows].tolist()


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


def make_tables(
    sky: str, inputs: dict[str, Any], out: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Make the tables of one sky, its curves and its pictures; return the tables by the labels they used."""
    tables: dict[str, dict[str, Any]] = {}
    for number in [*arguments.labels, *arguments.curve]:
        methods = arguments.methods if number in arguments.labels else arguments.curve_methods
        directory = out / f"redshift-{number:05d}"
        content = make_table(inputs, directory, arguments, methods, max_labels=number)
        used = content["rows"][0]["num_train"]
        print(f"\n## {sky}: {used} labels\n")
        print((directory / "table.md").read_text(), flush=True)
        tables[str(used)] = content
    write_curves(out, {int(used): table for used, table in tables.items()})
    draw(sky, out, max(arguments.labels), arguments)
    return tables


def make_table(
    inputs: dict[str, Any], out: Path, arguments: argparse.Namespace, methods: list[str], **keywords: Any
) -> dict[str, Any]:
    """Make one table, and return its ``metrics.json``."""
    deepfits.redshift(
        inputs["features"],
        inputs["labels"],
        out,
        **{
            "store": inputs["store"],
            "embedder_features": inputs["embedder_features"],
            "model": inputs["model"],
            "select": inputs["select"],
            "methods": methods,
            "feature_sets": arguments.feature_sets,
            "losses": arguments.losses,
            "template_features": True,
            "photometry": out.parent / "photometry.npz",
            "tpot_minutes": arguments.tpot_minutes,
            "tuning_trials": arguments.tuning_trials,
            "wide_resnet_width": arguments.wide_resnet_width,
            "network_minutes": arguments.network_minutes,
            "device": arguments.device,
            "num_threads": arguments.threads,
            **keywords,
        },
    )
    return dict(read_json(out / "metrics.json", what="metrics"))


def make_domain(out: Path, arguments: argparse.Namespace) -> None:
    """Learn from bright objects and test on faint ones too: what the flag for the domain is good for."""
    inputs = {
        "features": out / "features-both",
        "embedder_features": out / "features-embedder",
        "labels": out / "sky" / "truth.parquet",
        "store": out / "cutouts",
        "model": arguments.model,
        "select": [],
    }
    small = argparse.Namespace(**{**vars(arguments), "feature_sets": ["model", "magnitudes"]})
    make_table(inputs, out / "redshift-bright", small, ["network"], **DOMAIN)
    print("\n## simulated: labels brighter than i = 22.5, tests to 24\n")
    print((out / "redshift-bright" / "table.md").read_text(), flush=True)
    from deepfits.reporting.redshift_figures import domain_curves

    save(domain_curves(out / "redshift-bright"), "simulated-domain", out, arguments)


def draw(sky: str, out: Path, number: int, arguments: argparse.Namespace) -> None:
    """Draw the table of most labels, and the curves."""
    from deepfits.reporting.redshift_figures import all_figures, label_curves

    for name, figure, _ in all_figures(out / f"redshift-{number:05d}"):
        save(figure, f"{sky}-{name}", out, arguments)
    save(label_curves(out), f"{sky}-curves", out, arguments)


def save(figure: Any, name: str, out: Path, arguments: argparse.Namespace) -> None:
    """Write one picture."""
    path = Path(arguments.pictures) if arguments.pictures else out / "pictures"
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / f"redshifts-{name}.png", dpi=110)


def compact(row: dict[str, Any]) -> dict[str, Any]:
    """Keep what the JSON line needs of a row."""
    names = ("key", "num_train", "num_test", "seconds", "metrics", "pdf_metrics", "domain", "weights")
    return {name: row[name] for name in names if name in row}


if __name__ == "__main__":
    main()
