"""Reproduce Table 1 of Murray, Fabbro & Yi (2019): every method on the same held-out objects of two skies.

    python benchmarks/table1.py --out table1 [--skies simulated zcosmos] [--labels 1000 10000]

Cutouts of each simulated sky are fitted with a model that was trained on neither sky. The benchmark then
makes one table per number of labels, plots the metrics against the number of labels, and draws figures.
``simulated`` is the built-in sky; ``zcosmos`` is simulated from the observed magnitudes and redshifts of
zCOSMOS-bright (``--zcosmos FILE``, by default ``zcosmos/zcosmost_bright20k.csv`` in $DEEPFITS_REAL_DATA or
../shared/data). The skies run in parallel, one process each (``--parallel 1`` runs them in sequence).
``--model`` replaces the model that ships with the package; ``--train-minutes`` instead trains a model for
each sky, on the objects that are not held out. ``--features``, ``--labels-table`` and ``--store`` make the
table for your own data. Finished work under ``--out`` is reused, so the command can be interrupted at any
time; ``--stop-after images`` or ``fits`` stops it after that step.

The default budgets, the same for every method, suit one or two hours on a laptop's CPU. With more time, or a
GPU, use ``--network-minutes 30 --wide-resnet-width 64 --tpot-minutes 10 --tuning-trials 6``.

The last line is one JSON object with every row and its bootstrap errors, paired differences, the budgets, the
hardware, the versions and the commit.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.plot.style import COLOURS, GRID, INK
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.methods import METHODS as KNOWN_METHODS
from deepfits.reporting.redshift_figures import all_figures, label_curves, label_of
from deepfits.stages.redshifts.curves import write_curves
from deepfits.survey.store import CutoutStore
from deepfits.tables import read_table
from lephare_fit import LephareFit
from paired import paired_differences, paired_table, paper_table

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN_METHODS[LephareFit.name] = LephareFit
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
FEATURE_SETS = (
    *(
        f"network:{name}"
        for name in ("latents", "embedder", "model", "magnitudes", "templates", "sizes", "all")
    ),
    *(f"boosting:{name}" for name in ("latents", "embedder", "extended", "magnitudes")),
    *(f"stack:{name}" for name in ("templates", "fits", "deep")),
)
FITS: dict[str, dict[str, Any]] = {
    "embedder_features": {"mode": "embedder"},
    "features": {"mode": "both"},
    "plain_features": {"mode": "both", "amplitudes": "none", "prior_strength": 0.0, "neighbours": "keep"},
}
"""Settings of the fits. Plain fits hold the amplitudes at 1, as in M19, so that latents carry the colours."""
FIT_DIRECTORIES = {
    "embedder_features": "features-embedder",
    "features": "features-both",
    "plain_features": "features-plain",
}
WITH_TEMPLATES = ("templates", "sizes", "all", "fits", "deep")
PLAIN = {"methods": ["boosting", "network", "tpot"], "feature_sets": ["latents"]}
"""Methods trained on the latents of plain fits, as in M19; their rows form a separate table."""
BUDGETS = ("network_minutes", "wide_resnet_width", "tpot_minutes", "tuning_trials")
DOMAIN = {"select": ["kind == galaxy", "mag_i < 24"], "train_select": ["mag_i < 22.5"]}
OURS = "stack-fits"
PAIRS = (
    ("stack-fits", "stack-templates"),
    ("stack-deep", "stack-templates"),
    ("network-sizes", "network-templates"),
    ("network-all", "network-templates"),
    ("network-all", "network-magnitudes"),
    ("network-model", "network-magnitudes"),
    ("semi_supervised-images", "scratch-images"),
)
"""Rows to compare object by object; `OURS` is also compared with every other row."""
CURVES = {
    "curves": ("network", "stack", "templates", "lephare", "neighbours"),
    "curves-more": ("boosting", "tpot", "wide_resnet", "semi_supervised", "scratch", "hybrid"),
}
"""Methods in each figure of metrics against the number of labels."""


def main() -> None:
    """Make and print the tables, then print one JSON object."""
    arguments = parse()
    skies = ["own"] if arguments.features else arguments.skies
    print(f"Budgets: {budgets_in_words(arguments)}.", flush=True)
    workers = min(arguments.parallel or len(skies), len(skies))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(skies, pool.map(run_sky, skies, [arguments] * len(skies)), strict=True))
    print("\n" + paper_table())
    rows, plain, differences = (
        {sky: {labels: pick(table) for labels, table in tables.items()} for sky, tables in results.items()}
        for pick in (
            lambda table: [compact(row) for row in table["rows"]],
            lambda table: [compact(row) for row in table.get("plain_latents", [])],
            lambda table: table["differences"],
        )
    )
    content = {
        "benchmark": "table1",
        "skies": rows,
        "latents_of_plain_fits": plain,
        "differences": differences,
        "budgets": {name: getattr(arguments, name) for name in BUDGETS},
        "provenance": provenance(),
    }
    print(json.dumps(content))


def run_sky(sky: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run everything for one sky; return its tables by the number of labels."""
    import torch

    torch.set_num_threads(arguments.threads)
    out = Path(arguments.out) / sky
    inputs = own_inputs(arguments) if sky == "own" else make_sky(sky, out, arguments)
    if arguments.stop_after:
        return {}
    tables = make_tables(sky, inputs, out, arguments)
    if arguments.domain and sky == "simulated":
        make_domain(out, arguments)
    return tables


def budgets_in_words(arguments: argparse.Namespace) -> str:
    """Describe the budget of each method."""
    return (
        f"{arguments.network_minutes:g} minutes of training for each network on images, a Wide ResNet of "
        f"width {arguments.wide_resnet_width}, {arguments.tpot_minutes:g} minutes for TPOT, "
        f"{arguments.tuning_trials} setting(s) for boosting, {arguments.threads} thread(s)"
    )


class PrintedProgress:
    """Print progress: after every redshift method, and once a minute during long tasks."""

    def __init__(self, sky: str) -> None:
        self.sky = sky

    @contextmanager
    def __call__(
        self, description: str, *, total: float | None, unit: str = "", done: float = 0
    ) -> Iterator[_Task]:
        """Start a task."""
        yield _Task(self.sky, description, total, done)


class _Task:
    def __init__(self, sky: str, description: str, total: float | None, done: float) -> None:
        self.sky, self.description, self.total, self.done = sky, description, total, done
        self.last_printed = time.monotonic()

    def advance(self, number: float = 1, note: str = "") -> None:
        """Count finished units, and print the progress if it is due."""
        self.done += number
        seconds = time.monotonic() - self.last_printed
        if (number and self.description == "redshifts") or seconds > 60:
            share = f"{self.done:.0f} of {self.total:.0f}" if self.total else f"{self.done:.0f}"
            print(f"{self.sky}: {self.description}, {share} {note} ({seconds:.0f} s)", flush=True)
            self.last_printed = time.monotonic()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Table 1: every method on the same held-out objects.")
    parser.add_argument("--out", default="table1")
    parser.add_argument("--skies", nargs="+", default=["simulated", "zcosmos"])
    parser.add_argument(
        "--labels", nargs="+", type=int, default=[10000, 1000], help="numbers of labels of the full tables"
    )
    parser.add_argument(
        "--curve",
        nargs="*",
        type=int,
        default=[100, 300, 3000],
        help="further numbers of labels, for the curves",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument(
        "--curve-methods", nargs="+", help="methods in the tables of --curve; by default those of --methods"
    )
    parser.add_argument("--feature-sets", nargs="+", default=list(FEATURE_SETS), help="METHOD:SET")
    parser.add_argument("--fits", nargs="+", default=list(FITS), choices=list(FITS))
    parser.add_argument("--losses", nargs="+", default=["absolute"])
    parser.add_argument("--patches", type=int, default=9)
    parser.add_argument("--size", type=int, default=2050)
    parser.add_argument(
        "--seed", type=int, default=7, help="seed of the simulated sky; no model was trained on 7"
    )
    parser.add_argument(
        "--faintest", type=float, default=25.0, help="faintest i magnitude of objects with a label"
    )
    parser.add_argument("--model", default="builtin:clauds-hsc")
    parser.add_argument(
        "--tolerance", type=float, default=None, help="tolerance of the fits; 0.003 halves the time"
    )
    parser.add_argument(
        "--no-uncertainty", action="store_true", help="fit without errors; saves a third of the time"
    )
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--train-minutes", type=float, default=0.0, help="train a model for each sky")
    parser.add_argument("--tpot-minutes", type=float, default=0.5)
    parser.add_argument("--tuning-trials", type=int, default=1)
    parser.add_argument("--wide-resnet-width", type=int, default=8)
    parser.add_argument("--network-minutes", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads per sky")
    parser.add_argument("--parallel", type=int, default=0, help="skies to run in parallel; by default all")
    parser.add_argument(
        "--domain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also train on the bright objects of the simulated sky only",
    )
    parser.add_argument("--stop-after", choices=["images", "fits"], default=None)
    parser.add_argument("--pictures", default=None, help="directory for figures; by default in --out")
    parser.add_argument("--zcosmos", default=None)
    parser.add_argument("--features", default=None)
    parser.add_argument("--embedder-features", default=None)
    parser.add_argument("--labels-table", default=None)
    parser.add_argument("--store", default=None)
    parser.add_argument("--select", nargs="*", default=None)
    arguments = parser.parse_args()
    arguments.curve_methods = arguments.curve_methods or arguments.methods
    return arguments


def own_inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the features, labels and cutouts named on the command line."""
    return {
        "features": arguments.features,
        "labels": arguments.labels_table,
        "store": arguments.store,
        "embedder_features": arguments.embedder_features,
        "model": arguments.model,
        "select": arguments.select or [],
    }


def make_sky(sky: str, directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Simulate, cut and fit one sky; only objects with a label are fitted."""
    inputs: dict[str, Any] = {
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
    print(f"{sky}: simulating the sky and extracting cutouts", flush=True)
    images = deepfits.simulate(directory / "sky", workers=arguments.threads, **keywords)
    store = deepfits.cutouts(images, inputs["store"])
    if arguments.stop_after == "images":
        return inputs
    inputs["model"] = arguments.model
    if arguments.train_minutes:
        print(f"{sky}: training {arguments.recipe} for up to {arguments.train_minutes} minutes", flush=True)
        inputs["model"] = deepfits.train(
            store,
            directory / "model",
            recipe=arguments.recipe,
            max_time=arguments.train_minutes,
            threads=arguments.threads,
            device=arguments.device,
        )
    labelled = labelled_objects(inputs)
    for name, settings in ((name, FITS[name]) for name in arguments.fits):
        print(f"{sky}: fitting {len(labelled)} objects, {settings}", flush=True)
        is_main = name == "features"
        inputs[name] = deepfits.fit(
            store,
            inputs["model"],
            directory / FIT_DIRECTORIES[name],
            object_ids=labelled,
            uncertainty=is_main and not arguments.no_uncertainty,
            tolerance=arguments.tolerance if is_main else None,
            threads=arguments.threads,
            device=arguments.device,
            progress=PrintedProgress(sky),
            **settings,
        )
    return inputs


def labelled_objects(inputs: dict[str, Any]) -> list[int]:
    """Return the `object_id` of every cutout that has a label."""
    labels = read_labels(inputs["labels"], select=inputs["select"])
    catalogue = CutoutStore(inputs["store"]).catalogue(["ra", "dec"])
    columns = {name: np.asarray(catalogue[name]) for name in ("object_id", "ra", "dec")}
    return columns["object_id"][match_labels(columns, labels).rows].tolist()


def zcosmos_catalogue(directory: Path, arguments: argparse.Namespace) -> Path:
    """Write zCOSMOS-bright galaxies with secure redshifts and all five magnitudes, for `simulate`.

    Secure means confidence class 3.x, 4.x, 2.5 or 9.3 to 9.5 (a leading 1 marks broad lines), and
    0.01 < z < 4.
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
    """Return the default path of the zCOSMOS-bright table."""
    root = Path(os.environ.get("DEEPFITS_REAL_DATA", "../shared/data"))
    path = root / "zcosmos" / "zcosmost_bright20k.csv"
    if not path.exists():
        raise InputError(f"{path}: no such file; give its path with --zcosmos, or leave out the sky zcosmos")
    return path


def is_secure(row: dict[str, str]) -> bool:
    """Tell whether a row of zCOSMOS has a secure redshift and all magnitudes."""
    confidence = float(row["cc"]) % 10
    is_sure = 3 <= confidence < 5 or abs(confidence - 2.5) < 0.01 or 9.25 < confidence < 9.55
    magnitudes = [float(row[name] or "nan") for name in ZCOSMOS_COLUMNS.values()]
    return is_sure and 0.01 < float(row["zpec"]) < 4 and all(10 < magnitude < 32 for magnitude in magnitudes)


def make_tables(
    sky: str, inputs: dict[str, Any], out: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Make the tables and figures of one sky; return the tables by the number of labels they used."""
    tables: dict[str, dict[str, Any]] = {}
    for number in [*arguments.labels, *arguments.curve]:
        methods = arguments.methods if number in arguments.labels else arguments.curve_methods
        directory = out / f"redshift-{number:05d}"
        print(f"{sky}: table with up to {number} labels", flush=True)
        content = make_table(
            inputs, directory, arguments, methods, max_labels=number, progress=PrintedProgress(sky)
        )
        content["differences"] = compare(directory, content["rows"], arguments)
        used = content["rows"][0]["num_train"]
        print(f"\n## {sky}: {used} labels\n")
        print((directory / "table.md").read_text())
        print((directory / "differences.md").read_text(), flush=True)
        tables[str(used)] = content
        if number in arguments.labels and "plain_features" in inputs:
            content["plain_latents"] = make_plain(sky, inputs, out / f"plain-{number:05d}", arguments, number)
    write_curves(out, {int(used): [table] for used, table in tables.items()})
    draw(sky, out, max(arguments.labels), arguments)
    return tables


def make_plain(
    sky: str, inputs: dict[str, Any], out: Path, arguments: argparse.Namespace, number: int
) -> list[dict[str, Any]]:
    """Return rows for the latents of plain fits, on the same objects and labels."""
    plain = {**inputs, "features": inputs["plain_features"]}
    keywords = {"feature_sets": PLAIN["feature_sets"], "template_features": False, "max_labels": number}
    content = make_table(plain, out, arguments, PLAIN["methods"], progress=PrintedProgress(sky), **keywords)
    print(f"\n## {sky}: latents of fits with amplitudes held at 1\n")
    print((out / "table.md").read_text(), flush=True)
    return [row for row in content["rows"] if row["method"] != "constant"]


def make_table(
    inputs: dict[str, Any], out: Path, arguments: argparse.Namespace, methods: list[str], **keywords: Any
) -> dict[str, Any]:
    """Make one table; return the content of its ``metrics.json``."""
    deepfits.redshift(
        inputs["features"],
        inputs["labels"],
        out,
        **{
            "store": inputs["store"],
            "embedder_features": inputs.get("embedder_features"),
            "model": inputs["model"],
            "select": inputs["select"],
            "methods": methods,
            "feature_sets": arguments.feature_sets,
            "losses": arguments.losses,
            "template_features": any(name.split(":")[1] in WITH_TEMPLATES for name in arguments.feature_sets),
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


def compare(
    directory: Path, rows: list[dict[str, Any]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Compare `PAIRS`, and `OURS` with every other row, on the same objects; write and return the results."""
    loss = arguments.losses[-1]
    keys = [row["key"] for row in rows if row["method"] != "constant"]
    named = {key.removesuffix(f"-{loss}"): key for key in keys}
    pairs = [*PAIRS, *((OURS, name) for name in named if name != OURS)]
    known = [(named[a], named[b]) for a, b in dict.fromkeys(pairs) if a in named and b in named]
    differences = paired_differences(directory, known)
    write_json(directory / "differences.json", {"differences": differences})
    with writing(directory / "differences.md") as temporary:
        temporary.write_text(paired_table(differences), encoding="utf-8")
    return differences


def make_domain(out: Path, arguments: argparse.Namespace) -> None:
    """Train on bright objects and test on faint ones as well, to evaluate the training-domain flag."""
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
    save(domain_curves(out / "redshift-bright"), "simulated-domain", out, arguments)


def domain_curves(directory: Path) -> Figure:
    """Plot the outlier fraction against magnitude, separately inside and outside the training domain.

    One panel per method that flags objects outside its domain.
    """
    metrics = read_json(directory / "metrics.json")
    predictions = read_table(directory / "predictions.parquet")
    rows = [row for row in metrics["rows"] if "domain" in row]
    magnitude, z_spec = predictions["magnitude"], predictions["z_spec"]
    edges = np.arange(np.floor(2 * np.nanmin(magnitude)) / 2, np.nanmax(magnitude) + 0.5, 0.5)
    figure = Figure(figsize=(3.6 * max(len(rows), 1), 3.4), layout="constrained")
    axes = figure.subplots(1, max(len(rows), 1), sharey=True, squeeze=False)[0]
    for axis, row in zip(axes, rows, strict=False):
        own = read_table(directory / "methods" / row["key"] / "predictions.parquet")
        is_outside = own["is_outside_domain"]
        is_bad = np.abs(predictions[f"z_phot_{row['key'].replace('-', '_')}"] - z_spec) / (1 + z_spec) > 0.15
        for number, (name, which) in enumerate((("inside", ~is_outside), ("outside", is_outside))):
            points = []
            for low, high in itertools.pairwise(edges):
                inside = which & (magnitude >= low) & (magnitude < high)
                if inside.sum() >= 10:
                    share = is_bad[inside].mean()
                    error = np.sqrt(max(share * (1 - share), 0.01) / inside.sum())
                    points.append(((low + high) / 2, share, error))
            if points:
                middle, share, error = np.array(points).T
                axis.errorbar(middle, share, yerr=error, color=COLOURS[number], marker="o", label=name)
        share = [is_outside[(magnitude >= low) & (magnitude < low + 0.5)] for low in edges[:-1]]
        flagged = [part.mean() if len(part) else np.nan for part in share]
        axis.plot(edges[:-1] + 0.25, flagged, color=INK, linestyle=":", label="fraction outside")
        axis.set_title(label_of(row), fontsize=9)
        axis.set_xlabel(metrics["magnitude"])
        axis.grid(color=GRID, linewidth=0.6)
    axes[0].set_ylabel("fraction above 0.15")
    axes[0].set_ylim(0, 0.8)
    axes[-1].legend(fontsize=8, frameon=False)
    return figure


def draw(sky: str, out: Path, number: int, arguments: argparse.Namespace) -> None:
    """Draw the figures of the table with the most labels, and the label curves."""
    for name, figure, _ in all_figures(out / f"redshift-{number:05d}"):
        save(figure, f"{sky}-{name}", out, arguments)
    for name, methods in CURVES.items():
        save(label_curves(out, methods), f"{sky}-{name}", out, arguments)


def save(figure: Any, name: str, out: Path, arguments: argparse.Namespace) -> None:
    """Save one figure."""
    path = Path(arguments.pictures) if arguments.pictures else out / "pictures"
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / f"redshifts-{name}.png", dpi=110)


def compact(row: dict[str, Any]) -> dict[str, Any]:
    """Keep the entries of a row that the JSON line needs."""
    names = ("key", "num_train", "num_test", "seconds", "metrics", "pdf_metrics", "domain", "weights")
    return {name: row[name] for name in names if name in row}


if __name__ == "__main__":
    main()
