"""The report's table of redshifts, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepfits.redshifts.results import HEADINGS, PDF_HEADINGS, format_metric
from deepfits.reporting import redshift_figures
from deepfits.reporting.held_out import UNSEEN
from deepfits.reporting.page import PageTable, Picture, Section
from deepfits.reporting.redshift_figures import name_of

COLUMNS = ("r2", "bias", "bias_median", "sigma_mad", "eta", "eta_15", "eta_05")
METHODS = {
    "constant": "the same redshift for all, the floor",
    "boosting": "XGBoost trees",
    "network": "small neural networks",
    "tpot": "pipelines found by TPOT, as in M19",
    "neighbours": "the nearest labelled objects in colour space",
    "templates": "classical fitting of galaxy spectra, with zero points from the labels",
    "lephare": "the same spectra through LePHARE",
    "stack": "several methods joined",
    "column": "estimates of your own",
    "wide_resnet": "a network on the images, from scratch",
    "scratch": "the embedder's network on the images, without its training",
    "semi_supervised": "the embedder, fine-tuned with the labels",
    "hybrid": "the embedder beside aperture magnitudes",
    "pretrained": "learned from simulated galaxies, without any label",
    "adapted": "learned from simulated galaxies, then adapted to the labels",
}
FEATURES = {
    "latents": "what the embedder says of the best fits",
    "oriented": "the latents as they were fitted, orientation and all",
    "model": "magnitudes of best fits and data together, and sizes",
    "extended": "latents and model",
    "embedder": "the embedder's latents, without a fit",
    "magnitudes": "ordinary aperture magnitudes",
    "combined": "latents, model and magnitudes",
    "templates": "magnitudes, and what template fitting makes of them",
    "sizes": "templates, with sizes from the best fits",
    "all": "model and templates",
    "matched": "magnitudes at a common PSF",
    "scene": "magnitudes and sizes of the noise-free scenes",
    "portable": "scene and matched",
    "fits": "methods with and without the best fits",
}
OURS, BASELINE = "ours", "baseline"
OUR_METHODS = ("semi_supervised", "hybrid", "pretrained", "adapted")
DISTRIBUTIONS = ("coverage_68", "crps")
"""Metrics of p(z) in the table."""
OTHER_FEATURES = ("", "magnitudes", "matched", "templates")  # what anyone can measure without the model


def section(
    directory: Path, metrics: Mapping[str, Any], scenes: Mapping[str, Any] | None = None
) -> tuple[Section, dict[str, Any]]:
    """Return the section on redshifts, and the figures in it.

    `scenes` are the same metrics of fits of another model, one that draws scenes.
    """
    rows = [*metrics["rows"]]
    if scenes is not None:
        rows += [row for row in scenes["rows"] if row["method"] != "constant"]
    headings = {name: HEADINGS[name] for name in COLUMNS} | {
        name: PDF_HEADINGS[name]
        for name in DISTRIBUTIONS
        if any(name in row.get("pdf_metrics", {}) for row in rows)
    }
    table = PageTable(
        columns=["", "method", "features", "loss", "labels", *headings.values()],
        rows=[
            [
                _whose(row),
                *(row[name] for name in ("method", "features", "loss")),
                f"{row['num_train']:,}",
                *(_cell(row, name) for name in headings),
            ]
            for row in rows
        ],
        caption=f"{OURS}: uses the model (its latents, what it draws, or its embedder); {BASELINE}: what "
        "anyone can do without it. ± is the standard deviation over bootstrap resamples of the held-out "
        "objects. "
        + ". ".join(f"{heading}: {metrics['definitions'][name]}" for name, heading in headings.items())
        + ".",
    )
    text = (
        f"{rows[0]['num_test']:,} held-out objects with a redshift, the same for every row; trained on "
        f"{rows[0]['num_train']:,} labels."
    )
    if scenes is not None:
        text += (
            " The last rows are of fits of the same objects with a model that draws scenes, whose head was "
            "taught on simulated galaxies: what there is before any spectrum, and with a few."
        )
    pictures = [
        Picture(name=f"redshift-{name}", figure=figure, caption=caption)
        for name, figure, caption in redshift_figures.all_figures(directory)
    ]
    summary = {
        "rows": [
            {
                "name": name_of(row),
                "num_train": row["num_train"],
                "num_test": row["num_test"],
                **{name: row["metrics"][name] for name in COLUMNS},
            }
            for row in rows
        ],
        "headline": _headline(rows),
    }
    paragraphs = [UNSEEN, text, *_words(rows)]
    return Section(title="Redshifts", paragraphs=paragraphs, tables=[table], pictures=pictures), summary


def _cell(row: Mapping[str, Any], name: str) -> str:
    """Return a metric of a row of estimates or of their distributions; empty where it has none."""
    metrics = {**row["metrics"], **row.get("pdf_metrics", {})}
    return format_metric(metrics[name]) if name in metrics else ""


def _words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the methods and features of a table."""
    out = []
    for title, what, known in (("Methods", "method", METHODS), ("Features", "features", FEATURES)):
        present = [name for name in dict.fromkeys(row[what] for row in rows) if name in known]
        if present:
            out.append(f"{title}: " + "; ".join(f"{name}, {known[name]}" for name in present) + ".")
    return out


def _headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return our best method and the best baseline.

    Ours is chosen without the test objects, by those left out while it learned (`left_out` in its row), among
    those that learned from all labels. The
    baseline is whichever did best on the test objects themselves: a choice that can only favour it.
    """
    most = max(row["num_train"] for row in rows)
    judged = [row for row in rows if row.get("left_out") and is_ours(row) and row["num_train"] == most]
    others = [row for row in rows if row["method"] != "constant" and not is_ours(row)]
    best = {}
    if judged:
        best["ours"] = min(judged, key=lambda row: row["left_out"]["sigma_mad"])
    if others:
        best["best baseline"] = min(others, key=lambda row: row["metrics"]["sigma_mad"]["value"])
    if without := next((row for row in rows if row["method"] == "pretrained"), None):
        best["without any label"] = without
    return {
        f"σ_MAD of redshifts, {words}: {name_of(row)}": f"{row['metrics']['sigma_mad']['value']:.3f}"
        for words, row in best.items()
    }


def is_ours(row: Mapping[str, Any]) -> bool:
    """Return whether a row uses the model: its latents, what it draws, or its embedder."""
    return row["method"] in OUR_METHODS or row["features"] not in OTHER_FEATURES


def _whose(row: Mapping[str, Any]) -> str:
    return "" if row["method"] == "constant" else OURS if is_ours(row) else BASELINE
