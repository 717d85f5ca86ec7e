"""Figures of redshifts: estimates against truth, errors against magnitude and redshift, PIT.

Each function takes a directory written by the stage `redshift` and returns a matplotlib ``Figure``, without
using matplotlib's global state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepfits import plot
from deepfits.config import convert
from deepfits.files import read_json
from deepfits.plot.curves import running_median
from deepfits.plot.style import COLOURS, label

MAX_PANELS = 4


def name_of(row: Mapping[str, Any]) -> str:
    """Return the display name of a row: ``boosting on latents``."""
    return " on ".join(part for part in (row["method"], row["features"]) if part)


def label_of(row: Mapping[str, Any]) -> str:
    """Return the label of a row in figures: its display name, and the loss unless it is squared."""
    text = name_of(row)
    return f"{text} ({row['loss']})" if row["loss"] not in ("", "squared") else text


def _shown(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Select rows by rule: the best on latents (as in M19), the best on magnitudes, then by σ_MAD."""
    ranked = sorted(
        (row for row in rows if row["method"] != "constant"),
        key=lambda row: row["metrics"]["sigma_mad"]["value"],
    )
    first = [[row for row in ranked if row["features"] == name][:1] for name in ("latents", "magnitudes")]
    picked = [row for best in first for row in best]
    picked += [row for row in ranked if row not in picked][: number - len(picked)]
    return [row for row in rows if row in picked]


def redshift_scatter(directory: str | Path) -> Figure:
    """Draw z_phot against z_spec of the held-out objects, one panel per method, for up to four methods."""
    metrics = read_json(Path(directory) / "metrics.json", what="metrics")
    predictions = pq.read_table(Path(directory) / "predictions.parquet")
    rows, z_spec = _shown(metrics["rows"], MAX_PANELS), predictions["z_spec"].to_numpy()
    top = float(np.quantile(z_spec, 0.995)) * 1.1

    def draw(row: Mapping[str, Any], axis: Axes) -> None:
        values = row["metrics"]
        note = f"σ_MAD {values['sigma_mad']['value']:.3f}\nη(0.15) {values['eta_15']['value']:.3f}"
        z_phot = predictions[f"z_phot_{row['key'].replace('-', '_')}"].to_numpy()
        plot.scatter(z_spec, z_phot, title=label_of(row), note=note, top=top, ax=axis)

    return _panels(rows, draw, height=3.7, sharex=True)


def predicted(galaxies: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw predicted redshifts and the half-widths of their 68% intervals, ``(N,)`` each, by table."""
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    numbers, widths = figure.subplots(1, 2)
    every = np.concatenate([z for z, _ in galaxies.values()])
    bins = np.linspace(0, max(float(np.percentile(every, 99.5)) * 1.05 if every.size else 1.0, 0.01), 50)
    for colour, (name, (z, width)) in zip(COLOURS, galaxies.items(), strict=False):
        numbers.hist(np.clip(z, 0, bins[-1]), bins=bins.tolist(), histtype="step", color=colour, label=name)
        running_median(widths, z, width, 10, color=colour)
    widths.set_ylim(bottom=0)
    label(numbers, f"z_phot (last bin: {bins[-2]:.2f} and above)", "galaxies")
    label(widths, "z_phot", "half of the 68% interval / (1 + z)")
    if len(galaxies) > 1:
        numbers.legend(frameon=False, fontsize=8)
    return figure


def _panels(
    rows: Sequence[Mapping[str, Any]], draw: Callable[..., None], *, height: float, **how: Any
) -> Figure:
    """Draw one panel per row of the table, side by side."""
    figure = Figure(figsize=(3.0 * len(rows), height), layout="constrained")
    axes = figure.subplots(1, len(rows), sharey=True, squeeze=False, **how)[0]
    for axis, row in zip(axes, rows, strict=True):
        draw(row, axis)
    for axis in axes[1:]:
        axis.set_ylabel("")
    return figure


def _add_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Add a legend below the panels, from the first axes that have labels."""
    handles, labels = next(filter(all, (axis.get_legend_handles_labels() for axis in axes)), ((), ()))
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def error_curves(directory: str | Path) -> Figure | None:
    """Draw σ_MAD and η(0.15) against magnitude and redshift, one line per method, for up to eight.

    None if no bin has enough objects.
    """
    metrics = read_json(Path(directory) / "metrics.json", what="metrics")
    rows = _shown(metrics["rows"], len(COLOURS))
    has_far = any("metrics" in entry for row in rows for entry in row["by_redshift"][-1:])
    redshift = "z_spec (the last point is all of z > 2)" if has_far else "z_spec"
    names = {"by_magnitude": metrics["magnitude"], "by_redshift": redshift}
    if not any("metrics" in entry for row in rows for by in names for entry in row[by]):
        return None
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    for column, (by, x) in enumerate(names.items()):
        curves = {label_of(row): [entry for entry in row[by] if "metrics" in entry] for row in rows}
        for line, name in enumerate(("sigma_mad", "eta_15")):
            plot.error_curve(curves, name, x=x if line else "", ax=axes[line, column])
    _add_legend(figure, axes[0])
    return figure


def pit_histograms(directory: str | Path) -> Figure | None:
    """Draw the PIT histograms of up to four methods with distributions: flat if p(z) is calibrated.

    None if no method has distributions.
    """
    metrics = read_json(Path(directory) / "metrics.json", what="metrics")
    rows = [row for row in metrics["rows"] if "pdf_metrics" in row]
    rows = sorted(rows, key=lambda row: row["pdf_metrics"]["crps"]["value"])[:MAX_PANELS]
    if not rows:
        return None

    def draw(row: Mapping[str, Any], axis: Axes) -> None:
        path = Path(directory) / "methods" / row["key"] / "predictions.parquet"
        values = row["pdf_metrics"]
        note = f"68% interval: {values['coverage_68']['value']:.1%}\nCRPS {values['crps']['value']:.4f}"
        transform = pq.read_table(path, columns=["pit"])["pit"].to_numpy()
        plot.pit(transform, title=label_of(row), note=note, ax=axis)

    return _panels(rows, draw, height=2.8)


def label_curves(directory: str | Path, methods: Sequence[str] | None = None) -> Figure:
    """Draw metrics against the number of labels, of all or some methods, from results of `redshift_curves`.

    Rows that occur for a single number of labels are omitted, unless there are no others.
    """
    curves = curves_of(directory, methods)
    figure = Figure(figsize=(9.0, 6.2), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, name in zip(axes.flat, plot.METRICS, strict=True):
        plot.label_curves(curves, name, ax=axis)
    for axis in axes[0]:
        axis.set_xlabel("")
    _add_legend(figure, axes[0])
    return figure


def curves_of(directory: str | Path, methods: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the points of each method, as input to `deepfits.plot.label_curves`."""
    path = Path(directory) / "curves.json"
    content = read_json(path, what="label curves").get("curves")
    curves = convert(content, list[dict[str, Any]], where=path, key="curves")
    rows = [row for row in curves[-1]["rows"] if row["method"] != "constant"]
    keys = [row["key"] for row in rows if methods is None or row["method"] in methods]
    times = {key: sum(row["key"] == key for curve in curves for row in curve["rows"]) for key in keys}
    keys = [key for key in keys if times[key] > 1] or keys
    by_key = {
        key: [{**r, "num_labels": c["num_labels"]} for c in curves for r in c["rows"] if r["key"] == key]
        for key in keys
    }
    return {label_of(points[0]): points for points in by_key.values()}


def all_figures(directory: str | Path) -> list[tuple[str, Figure, str]]:
    """Return all figures for which the directory has data: ``(name, figure, caption)``."""
    directory = Path(directory)
    captions = {
        "scatter": "Estimated against spectroscopic redshifts of the held-out objects; dotted: z_phot − "
        "z_spec = ±0.15 (1 + z_spec).",
        "errors": "σ_MAD and the outlier fraction against magnitude and redshift, with bootstrap errors; "
        "bins with fewer than 20 objects are omitted.",
        "pit": "PIT of the held-out objects, F(z_spec): flat if the distributions are calibrated; grey: "
        "expected scatter of a calibrated method.",
    }
    drawn = (redshift_scatter(directory), error_curves(directory), pit_histograms(directory))
    figures = zip(captions.items(), drawn, strict=True)
    return [(name, figure, caption) for (name, caption), figure in figures if figure is not None]
