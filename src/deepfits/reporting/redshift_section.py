"""The report's table of redshifts, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepfits.reporting import redshift_figures
from deepfits.reporting.page import Picture, Section, Table

COLUMNS = {
    "r2": "R²",
    "bias": "bias",
    "bias_median": "bias (median)",
    "sigma_mad": "σ_MAD",
    "eta": "η (5 σ_MAD)",
    "eta_15": "η (0.15)",
    "eta_05": "η (0.05)",
}


def section(directory: Path, metrics: Mapping[str, Any]) -> tuple[Section, dict[str, Any]]:
    """Return the section on redshifts, and the figures in it.

    Parameters
    ----------
    directory
        What the stage `redshift` wrote.
    metrics
        Its ``metrics.json``.
    """
    rows = metrics["rows"]
    table = Table(
        columns=["method", "features", "loss", *COLUMNS.values()],
        rows=[
            [row["method"], row["features"], row["loss"], *(_cell(row["metrics"][name]) for name in COLUMNS)]
            for row in rows
        ],
        caption="± is the standard deviation over bootstrap resamples of the held-out objects. "
        + ". ".join(metrics["definitions"][name] for name in COLUMNS)
        + ".",
    )
    text = (
        f"{rows[0]['num_test']:,} held-out objects with a redshift, the same for every row; trained on "
        f"{rows[0]['num_train']:,} labels."
    )
    pictures = [
        Picture(name=f"redshift-{name}", figure=figure, caption=caption)
        for name, figure, caption in redshift_figures.all_figures(directory)
    ]
    best = min(
        (r for r in rows if r["method"] != "constant"), key=lambda r: r["metrics"]["sigma_mad"]["value"]
    )
    summary = {
        "rows": [
            {
                "name": _name(row),
                "num_train": row["num_train"],
                "num_test": row["num_test"],
                **{name: row["metrics"][name] for name in COLUMNS},
            }
            for row in rows
        ],
        "best": {"name": _name(best), "text": f"{best['metrics']['sigma_mad']['value']:.3f}"},
    }
    return Section(title="Redshifts", paragraphs=[text], tables=[table], pictures=pictures), summary


def _name(row: Mapping[str, Any]) -> str:
    return " on ".join(part for part in (row["method"], row["features"]) if part)


def _cell(entry: Mapping[str, float | None]) -> str:
    if entry["value"] is None:
        return "–"
    return f"{entry['value']:.3f}" + (f" ± {entry['error']:.3f}" if entry["error"] is not None else "")
