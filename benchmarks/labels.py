"""Redshift quality against the number of labels: the pretrained head, adapted, and all baselines.

    python benchmarks/labels.py --out bench-labels [--quick] [--head HEAD] [--parts curves ingredients]

Two skies are fitted with ``builtin:ugriz``: galaxies of zCOSMOS-bright, simulated as CLAUDS+HSC from their
observed magnitudes and redshifts, and a simulated sky whose seed and population differ from those on which
the head was trained. On each sky and for 0, 30, 100, 300, 1,000, 3,000 and 10,000 labels, redshifts of the
same held-out galaxies are predicted by the methods ``pretrained`` (no labels) and ``adapted``, and by the
baselines: networks on aperture magnitudes, on apertures at a common PSF, on template fits and on the scene,
stacks of baselines, and template fitting alone. With up to 300 labels much depends on which these are, so
that metrics are means over several draws (`DRAWS`), the same for every method. Then smaller heads without
each of their ingredients are trained and evaluated on the same galaxies (`ingredients`). ``--quick`` uses
2,500 galaxies per sky, three numbers of labels and one draw, and leaves out the ingredients.

Finished work under ``--out`` is reused. The last line is one JSON object. For each sky, number of labels and
metric it contains the value and error of ``adapted`` and of the baseline that is best in this metric, and the
values of ``adapted`` in single draws.
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
import ingredients
import table1
from deepfits.files import read_arrays, read_json
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.redshifts.head import Head
from deepfits.redshifts.pdf import MEDIAN
from deepfits.redshifts.results import RowKey, make_row, mean_rows
from deepfits.tables import read_table

NUMBERS = (0, 30, 100, 300, 1000, 3000, 10000)
DRAWS = {30: 12, 100: 12, 300: 6}
"""Draws of labels, by their number; one for others."""
PARTS = ("curves", "ingredients")
QUICK = {"numbers": (0, 100, 1000), "objects": 2500, "draws": {}, "parts": PARTS[:1]}
FULL = {"numbers": NUMBERS, "objects": 15000, "draws": DRAWS, "parts": PARTS}
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
FILTERS = {"zcosmos": ("cfht_megacam-ustar", "4777", "6289", "7684", "9037")}
"""Filters of a sky's magnitudes (u* and Suprime-Cam's g, r, i, z), told to the head in one row."""


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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None, help="by default both")
    parser.add_argument("--figures", default=None, help="directory for figures of the curves")
    parser.add_argument("--zcosmos", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    out = Path(options.out)
    inputs = {sky: make_sky(sky, out / sky, options) for sky in options.skies}
    found: dict[str, Any] = {"benchmark": "labels"}
    if "curves" in options.parts:
        found["skies"] = {sky: tables(sky, inputs[sky], out / sky, options) for sky in options.skies}
        if options.record and "0" in found["skies"].get("zcosmos", {}):
            record(Path(options.record), found["skies"]["zcosmos"]["0"])
    if "ingredients" in options.parts:
        found["ingredients"] = ingredients.measure(inputs, options.model, out / "head")
    print(json.dumps({**found, "provenance": provenance()}))


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


def make_sky(sky: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, cut and fit one sky."""
    objects = options.objects
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


def tables(sky: str, inputs: dict[str, Any], out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make a table for each number and draw of labels."""
    baselines = QUICK_BASELINES if options.quick else BASELINES
    chosen = options.methods or ["pretrained", "adapted", *baselines]
    sets = [f"{method}:{name}" for method, names in baselines.items() for name in names]
    rows: dict[int, list[list[dict[str, Any]]]] = {}
    features = Path(inputs["features"]).name
    draws = [(n, seed) for n in sorted(options.numbers) if n for seed in range(options.draws.get(n, 1))]
    for number, seed in draws:
        methods = [m for m in chosen if number >= 100 or m in ("pretrained", "adapted", "templates")]
        table = deepfits.redshift(
            inputs["features"],
            inputs["labels"],
            out / f"labels-{number:05d}-{seed}-{features}",
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
            seed=seed,
            progress=table1.PrintedProgress(sky),
        )
        rows.setdefault(number, []).append(read_json(table / "metrics.json")["rows"])
        if 0 in options.numbers and 0 not in rows:
            without = [row for row in rows[number][0] if row["method"] in ("pretrained", "constant")]
            photometry = out / f"photometry-{features}.templates.npz"
            fitted = read_arrays(photometry, what="file of template fits")["quantiles"]
            without.append(row_without_labels(table, RowKey(method="templates", features="no label"), fitted))
            if sky in FILTERS:
                without.append(filters_told(table, inputs["features"], FILTERS[sky], options.head))
            rows[0] = [without]
    if options.figures:
        means = {number: mean_rows(draws) for number, draws in rows.items()}
        plot_curves(means, Path(options.figures) / f"labels-{sky}.png")
    return {str(number): compared(sky, number, rows[number]) for number in sorted(rows)}


def filters_told(table: Path, features: Path, filters: tuple[str, ...], head: str | None) -> dict[str, Any]:
    """Evaluate the head, given the filters, on the held-out galaxies of a table."""
    out = table.parent / "filters-told.parquet"
    predicted = read_table(
        deepfits.redshift_predict(head or features, features if head else None, out=out, filters=filters)
    )
    rows = {identity: row for row, identity in enumerate(predicted["object_id"])}
    objects = read_table(table / "split.parquet")["object_id"]
    quantiles = predicted["quantiles"][[rows[identity] for identity in objects]]
    return row_without_labels(table, RowKey(method="pretrained", features="filters told"), quantiles)


def row_without_labels(table: Path, key: RowKey, quantiles: np.ndarray) -> dict[str, Any]:
    """Evaluate quantiles for the objects of a table, which no label has changed, on its held-out ones."""
    objects = read_table(table / "split.parquet")
    is_test = objects["part"] == "test"
    return make_row(
        key,
        {"z_phot": quantiles[is_test, MEDIAN], "quantiles": quantiles[is_test]},
        objects["z_spec"][is_test],
        objects["magnitude"][is_test],
        num_train=0,
        seconds=0.0,
    )


def plot_curves(rows: dict[int, list[dict[str, Any]]], path: Path) -> None:
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


def compared(sky: str, number: int, draws: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Print all rows, means over the draws; return our row and the best baseline of each metric."""
    rows = mean_rows(draws)
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
            if len(draws) > 1:
                single = [row for rows in draws for row in rows if row["key"] == ours["key"]]
                entry["adapted"]["draws"] = [value_of(row, name)[0] for row in single]
        if told := [row for row in rows if row["features"] == "filters told"]:
            entry["filters_told"] = dict(zip(("value", "error"), value_of(told[0], name), strict=True))
        rivals = [row for row in others if has(row, name)]
        if rivals:
            best = min(rivals, key=lambda row: rank(name, value_of(row, name)[0]))
            entry["baseline"] = dict(zip(("value", "error"), value_of(best, name), strict=True))
            entry["baseline"]["row"] = best["key"]
        out["metrics"][name] = entry
    high = [ours["by_redshift"][-1]] if ours is not None else []
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
