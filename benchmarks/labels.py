"""Redshift quality against the number of labels: the pretrained head, adapted, and all baselines.

    python benchmarks/labels.py --out bench-labels [--quick] [--head HEAD]

Two skies are fitted with ``builtin:ugriz``: galaxies of zCOSMOS-bright, simulated as CLAUDS+HSC from their
observed magnitudes and redshifts, and a simulated sky whose seed and population differ from those on which
the head was trained. On each sky and for 0, 30, 100, 300, 1,000, 3,000 and 10,000 labels, redshifts of the
same held-out galaxies are predicted by the methods ``pretrained`` (no labels) and ``adapted``, and by the
baselines: networks on aperture magnitudes, on apertures at a common PSF, on template fits and on the scene,
stacks of baselines, and template fitting alone. ``--quick`` uses 2,500 galaxies per sky and three numbers of
labels.

Finished work under ``--out`` is reused. The last line is one JSON object. For each sky, number of labels and
metric it contains the value and error of ``adapted`` and of the baseline that is best in this metric.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deepfits
import table1
from deepfits.files import read_arrays, read_json
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.redshifts.head import Head
from deepfits.redshifts.pdf import MEDIAN
from deepfits.redshifts.results import RowKey, make_row
from deepfits.tables import read_table

NUMBERS = (0, 30, 100, 300, 1000, 3000, 10000)
QUICK = {"numbers": (0, 100, 1000), "objects": 2500}
BASELINES = {
    "network": ("magnitudes", "matched", "templates", "scene"),
    "stack": ("templates",),
    "templates": (),
}
"""Baseline methods, and the feature sets that each is trained on."""
QUICK_BASELINES: dict[str, tuple[str, ...]] = {"network": ("matched", "templates"), "templates": ()}
LARGER = ("r2", "r2_mean")
"""Metrics for which larger is better; see `rank` for the others."""
METRICS = ("r2", "sigma_mad", "eta_15", "bias")
PDF_METRICS = ("r2_mean", "crps", "coverage_68")
POPULATION = """smooth_scatter = 0.09
ultraviolet_scatter = 0.09
smooth_length = 0.2
dust_late = 0.09
early_share = 0.8
spiral_share = 1.15
redshift_scale = 1.12
template_offset = 0.1
line_strength = 0.5
common_scatter = 0.03
zero_point_scatter = 0.02
passband_shift = 0.004
ultraviolet_limit = -21.0
"""
"""Population of the simulated sky, as TOML; it differs from the head's training populations."""
FAINTEST = 24.5


def main() -> None:
    """Make skies, fits and tables, and print the comparison."""
    parser = argparse.ArgumentParser(description="Redshift quality against the number of labels.")
    parser.add_argument("--out", default="bench-labels")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--skies", nargs="+", default=["zcosmos", "simulated"])
    parser.add_argument("--numbers", nargs="+", type=int, default=None, help="numbers of labels")
    parser.add_argument("--objects", type=int, default=None, help="most galaxies to simulate on each sky")
    parser.add_argument("--fits", type=int, default=None, help="galaxies to fit on each; by default all")
    parser.add_argument("--model", default="builtin:ugriz")
    parser.add_argument("--head", default=None, help="redshift head; by default that of the model")
    parser.add_argument("--record", default=None, help="head in which to store the result without labels")
    parser.add_argument("--methods", nargs="+", default=None, help="methods to run; by default all")
    parser.add_argument("--figures", default=None, help="directory for figures of the curves")
    parser.add_argument("--zcosmos", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick: dict[str, Any] = QUICK if options.quick else {"numbers": NUMBERS, "objects": 15000}
    numbers = options.numbers or quick["numbers"]
    found = {}
    for sky in options.skies:
        inputs = make_sky(sky, Path(options.out) / sky, options.objects or quick["objects"], options)
        found[sky] = tables(sky, inputs, Path(options.out) / sky, numbers, options)
    if options.record and "0" in found.get("zcosmos", {}):
        record(Path(options.record), found["zcosmos"]["0"])
    print(json.dumps({"benchmark": "labels", "skies": found, "provenance": provenance()}))


def record(place: Path, found: dict[str, Any]) -> None:
    """Store the performance of a head on real redshifts, without labels, in the head itself."""
    value = {name: metric["adapted"]["value"] for name, metric in found["metrics"].items()}
    head = Head.load(place)
    bias = found["bias_by_magnitude"]
    (bright, at_bright), *_, (faint, at_faint) = bias.items()
    text = (
        f"{found['num_test']:,} galaxies of zCOSMOS-bright (i < 22.5), their real magnitudes and redshifts "
        f"drawn as CLAUDS+HSC, filters not given: σ_MAD {value['sigma_mad']:.3f}, "
        f"{100 * value['eta_15']:.1f}% beyond 0.15, R² {value['r2']:.2f}, "
        f"{100 * value['coverage_68']:.0f}% in the 68% interval, bias {value['bias']:+.3f} "
        f"({at_bright:+.3f} at {bright}, {at_faint:+.3f} at {faint} mag)."
    )
    replace(head, about={**head.about, "real": text}).save(place)


def make_sky(sky: str, out: Path, objects: int, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, cut and fit one sky."""
    out.mkdir(parents=True, exist_ok=True)
    keywords: dict[str, Any] = {"size": 2050}
    select = ["kind == galaxy"]
    if sky == "zcosmos":
        lines = table1.zcosmos_catalogue(out, options).read_text().splitlines()
        rows = np.sort(np.random.default_rng(5).permutation(len(lines) - 1)[:objects]) + 1
        keywords["catalogue"] = out / f"some-{len(rows)}.csv"
        keywords["catalogue"].write_text("\n".join([lines[0], *(lines[row] for row in rows)]) + "\n")
        keywords["seed"] = 7
    else:
        population = out / "population.toml"
        population.write_text(POPULATION)
        select.append(f"mag_i < {FAINTEST}")
        keywords |= {"population": population, "seed": 77, "num_patches": -(-objects // 850)}
    print(f"{sky}: simulating the sky and extracting cutouts", flush=True)
    images = deepfits.simulate(out / f"sky-{objects}", workers=1, **keywords)
    size = Model.load(options.model).cutout_size(0.168)
    inputs: dict[str, Any] = {"labels": images / "truth.parquet", "select": select}
    inputs["store"] = deepfits.cutouts(images, out / f"cutouts-{objects}", size=size)
    identities = table1.labelled_objects(inputs)[: options.fits or objects]
    print(f"{sky}: fitting {len(identities)} galaxies", flush=True)
    inputs["features"] = deepfits.fit(
        inputs["store"],
        options.model,
        out / f"features-{len(identities)}",
        object_ids=identities,
        threads=1,
        progress=table1.PrintedProgress(sky),
    )
    return inputs


def tables(
    sky: str, inputs: dict[str, Any], out: Path, numbers: tuple[int, ...], options: argparse.Namespace
) -> dict[str, Any]:
    """Make a table for each number of labels."""
    baselines = QUICK_BASELINES if options.quick else BASELINES
    chosen = options.methods or ["pretrained", "adapted", *baselines]
    sets = [f"{method}:{name}" for method, names in baselines.items() for name in names]
    rows: dict[int, list[dict[str, Any]]] = {}
    features = Path(inputs["features"]).name
    for number in sorted(numbers):
        if number == 0:
            continue
        methods = [m for m in chosen if number >= 100 or m in ("pretrained", "adapted", "templates")]
        table = deepfits.redshift(
            inputs["features"],
            inputs["labels"],
            out / f"labels-{number:05d}-{features}",
            store=inputs["store"],
            select=inputs["select"],
            methods=methods,
            feature_sets=sets,
            losses=["absolute"],
            template_features=True,
            max_labels=number,
            head=options.head,
            photometry=out / f"photometry-{features}.npz",
            num_threads=1,
            progress=table1.PrintedProgress(sky),
        )
        rows[number] = read_json(table / "metrics.json")["rows"]
        if number == min(n for n in numbers if n) and 0 in numbers:
            rows[0] = [row for row in rows[number] if row["method"] in ("pretrained", "constant")]
            rows[0].append(templates_without_labels(table, out / f"photometry-{features}.templates.npz"))
    if options.figures:
        draw(rows, Path(options.figures) / f"labels-{sky}.png")
    return {str(number): compared(sky, number, rows[number]) for number in sorted(rows)}


def templates_without_labels(table: Path, path: Path) -> dict[str, Any]:
    """Evaluate template fits without zero-point corrections on the held-out galaxies of a table."""
    objects = read_table(table / "split.parquet")
    is_test = objects["part"] == "test"
    quantiles = read_arrays(path, what="file of template fits")["quantiles"][is_test]
    return make_row(
        RowKey(method="templates", features="no label"),
        {"z_phot": quantiles[:, MEDIAN], "quantiles": quantiles},
        objects["z_spec"][is_test],
        objects["magnitude"][is_test],
        num_train=0,
        seconds=0.0,
    )


def draw(rows: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """Plot the metrics against the number of labels; a horizontal line shows the head without labels."""
    from matplotlib.figure import Figure

    from deepfits.plot import label_curves

    curves: dict[str, list[dict[str, Any]]] = {}
    for number in sorted(set(rows) - {0}):
        for row in rows[number]:
            if row["method"] not in ("constant", "pretrained"):
                name = " on ".join(row["key"].removesuffix("-absolute").split("-", 1))
                curves.setdefault(name, []).append(
                    {"num_labels": row["num_train"], "metrics": row["metrics"]}
                )
    curves = dict(sorted(curves.items(), key=lambda item: item[0] != "adapted"))
    first = next(row for row in rows[min(rows)] if row["method"] == "pretrained")
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for ax, metric in zip(figure.subplots(1, 3), ("sigma_mad", "eta_15", "r2"), strict=True):
        label_curves(curves, metric, ax=ax)
        value, error = value_of(first, metric)
        ax.axhline(value, color="0.4", linestyle=":", label="the head, no labels")
        ax.axhspan(value - error, value + error, color="0.4", alpha=0.12, linewidth=0)
        ax.set_ylim(top=max(ax.get_ylim()[1], 1.05 * (value + error)))
    ax.set_ylim(max(ax.get_ylim()[0], 0.2), 1)
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def compared(sky: str, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print all rows; return our row and the best baseline of each metric."""
    ours = next((row for row in rows if row["method"] == ("adapted" if number else "pretrained")), None)
    others = [row for row in rows if row["method"] not in ("adapted", "pretrained", "constant")]
    for row in rows:
        cells = "".join(
            f"{value_of(row, name)[0]:9.3f}" for name in (*METRICS, *PDF_METRICS) if has(row, name)
        )
        print(f"{sky:10} {number:6} {row['key']:30}{cells}", flush=True)
    out: dict[str, Any] = {"metrics": {}}
    if ours is not None:
        out |= {name: ours[name] for name in ("num_train", "num_test")}
        out["bias_by_magnitude"] = {
            f"{part['low']:g}–{part['high']:g}": part["metrics"]["bias"]["value"]
            for part in ours["by_magnitude"]
            if "metrics" in part
        }
    for name in (*METRICS, *PDF_METRICS):
        entry: dict[str, Any] = {}
        if ours is not None:
            entry["adapted"] = dict(zip(("value", "error"), value_of(ours, name), strict=True))
        rivals = [row for row in others if has(row, name)]
        if rivals:
            best = min(rivals, key=lambda row: rank(name, value_of(row, name)[0]))
            entry["baseline"] = dict(zip(("value", "error"), value_of(best, name), strict=True))
            entry["baseline"]["row"] = best["key"]
        out["metrics"][name] = entry
    high = [row["by_redshift"][-1] for row in rows if row is ours]
    if high and "metrics" in high[0]:
        out["eta_15_beyond_2"] = high[0]["metrics"]["eta_15"]
    return out


def has(row: dict[str, Any], name: str) -> bool:
    """Tell whether a row has a metric."""
    return name in row["metrics"] or name in row.get("pdf_metrics", {})


def value_of(row: dict[str, Any], name: str) -> tuple[float, float]:
    """Return a metric and its error."""
    entry = row["metrics"].get(name) or row["pdf_metrics"][name]
    return entry["value"], entry["error"]


def rank(name: str, value: float) -> float:
    """Return a sort key of a metric's value, smallest for the best value."""
    if name in LARGER:
        return -value
    return abs(value - 0.68) if name == "coverage_68" else abs(value)


if __name__ == "__main__":
    main()
