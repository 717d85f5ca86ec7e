"""Section of the report on redshifts: table and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.redshifts.results import HEADINGS, PDF_HEADINGS, format_metric
from deepfits.reporting import redshift_figures
from deepfits.reporting.held_out import UNSEEN
from deepfits.reporting.page import PageTable, Picture, Section
from deepfits.reporting.redshift_figures import name_of

COLUMNS = ("r2", "bias", "bias_median", "sigma_mad", "eta", "eta_15", "eta_05")
METHODS = {
    "constant": "the same redshift for all objects, for reference",
    "boosting": "gradient-boosted trees (XGBoost)",
    "network": "small neural networks",
    "tpot": "pipelines found by TPOT, as in M19",
    "neighbours": "the nearest labelled objects in colour space",
    "templates": "template fitting, with zero points calibrated on the labels",
    "stack": "a combination of several methods",
    "column": "your own estimates",
    "wide_resnet": "a Wide ResNet trained on the images from scratch",
    "scratch": "the embedder's architecture trained on the images from scratch",
    "semi_supervised": "the embedder, fine-tuned on the labels",
    "hybrid": "the embedder combined with aperture magnitudes",
    "pretrained": "trained on simulated galaxies, without any labels",
    "adapted": "trained on simulated galaxies, then adapted to the labels",
}
FEATURES = {
    "latents": "the embedder's output for the best-fit images",
    "oriented": "the latents as fitted, including orientation",
    "model": "magnitudes from best fits and data combined, and sizes",
    "extended": "latents and model",
    "embedder": "the embedder's output for the observed images, without a fit",
    "magnitudes": "standard aperture magnitudes",
    "combined": "latents, model and magnitudes",
    "templates": "magnitudes, and the results of template fitting",
    "sizes": "templates, and sizes from the best fits",
    "all": "model and templates",
    "matched": "PSF-matched magnitudes",
    "scene": "magnitudes and sizes of the noise-free scenes",
    "portable": "scene and matched",
    "fits": "methods with and without the best fits",
}
OUR_METHODS = ("semi_supervised", "hybrid", "pretrained", "adapted")
PREDICTED = ("z_phot", "z_err68_low", "z_err68_high", "class", "is_outside_domain")
"""Columns of predictions that `predicted` shows."""
DISTRIBUTIONS = ("coverage_68", "crps")  # metrics of p(z) shown in the table
OTHER_FEATURES = ("", "magnitudes", "matched", "templates")  # measurable without the model


def section(
    directory: Path, metrics: Mapping[str, Any], scenes: Mapping[str, Any] | None = None
) -> tuple[Section, dict[str, Any]]:
    """Return the section on redshifts, and its summary.

    `scenes` are the same metrics for fits with a model of scenes.
    """
    rows = [*metrics["rows"]]
    if scenes is not None:
        rows += [row for row in scenes["rows"] if row["method"] != "constant"]
    table = _table(rows, metrics["definitions"])
    text = (
        f"Tested on {rows[0]['num_test']:,} held-out objects with a redshift, the same for every row; "
        f"trained on {rows[0]['num_train']:,} labels."
    )
    if scenes is not None:
        text += (
            " The last rows are for fits of the same objects with a model of scenes, whose redshift head was "
            "trained on simulated galaxies: without any spectra, and with a few."
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


def predicted(
    tables: Mapping[str, Mapping[str, np.ndarray]], num_train: Mapping[str, int | None]
) -> tuple[PageTable, Picture]:
    """Summarise redshifts whose truth is unknown, from the columns of each table of `redshift predict`.

    `num_train` is the number of labels that each method learned from, where it is known.
    """
    rows, galaxies = [], {}
    for name, columns in tables.items():
        z, low, high = (columns[key] for key in ("z_phot", "z_err68_low", "z_err68_high"))
        kinds, is_outside = columns.get("class"), columns.get("is_outside_domain")
        used = np.isfinite(z) & (True if kinds is None else np.isin(kinds, ("", "galaxy")))
        z, width = z[used], ((high - low) / 2 / (1 + z))[used]
        galaxies[name] = z, width
        others = [None if kinds is None else (kinds == kind).sum() for kind in ("star", "quasar")]
        counts = [num_train.get(name), len(used), len(z), *others]
        counts.append(None if is_outside is None else is_outside[used].sum())
        cells = ["", ""]
        if len(z):
            low, middle, high = np.percentile(z, (16, 50, 84))
            cells = [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{np.median(width):.3f}"]
        rows.append([name, *("–" if count is None else f"{count:,}" for count in counts), *cells])
    table = PageTable(
        columns=["", "labels", "objects", "galaxies", "stars", "quasars", "outside", "redshift", "width"],
        rows=rows,
        caption="labels: number of redshifts that the method learned from; outside: galaxies unlike those "
        "that it was trained on; –: not known; redshift: median of the galaxies, and 16 to 84%; width: "
        "median half-width of the 68% interval, in units of 1 + z.",
    )
    caption = (
        "Predicted redshifts of the galaxies, and the half-widths of their 68% intervals (line: median; "
        "shaded: 16 to 84%). Large widths are mostly those of p(z) with two peaks."
    )
    return table, Picture(
        name="redshift-predicted", figure=redshift_figures.predicted(galaxies), caption=caption
    )


def _table(rows: Sequence[Mapping[str, Any]], definitions: Mapping[str, str]) -> PageTable:
    headings = {name: HEADINGS[name] for name in COLUMNS} | {
        name: PDF_HEADINGS[name]
        for name in DISTRIBUTIONS
        if any(name in row.get("pdf_metrics", {}) for row in rows)
    }
    return PageTable(
        columns=["", "method", "features", "loss", "labels", *headings.values()],
        rows=[
            [
                "" if row["method"] == "constant" else "ours" if is_ours(row) else "baseline",
                *(row[name] for name in ("method", "features", "loss")),
                f"{row['num_train']:,}",
                *(_cell(row, name) for name in headings),
            ]
            for row in rows
        ],
        caption="ours: uses the model (its latents, its images or its embedder); baseline: does not. "
        "loss: the error that is minimised. labels: number of redshifts to learn from. ± is the standard "
        "deviation over bootstrap samples of the held-out objects. "
        + ". ".join(f"{heading}: {definitions[name]}" for name, heading in headings.items())
        + ".",
    )


def _cell(row: Mapping[str, Any], name: str) -> str:
    """Format a metric of the estimates or distributions of a row; empty if it has none."""
    metrics = {**row["metrics"], **row.get("pdf_metrics", {})}
    return format_metric(metrics[name]) if name in metrics else ""


def _words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the methods and features in a table."""
    out = []
    for title, what, known in (("Methods", "method", METHODS), ("Features", "features", FEATURES)):
        present = [name for name in dict.fromkeys(row[what] for row in rows) if name in known]
        if present:
            out.append(f"{title}: " + "; ".join(f"{name}, {known[name]}" for name in present) + ".")
    return out


def _headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return our best method and the best baseline.

    Ours is selected without the test objects: by its metrics on training objects left out of the fit
    (`left_out` in its row), among the methods trained on all labels. The baseline is the best on the test
    objects themselves, a choice that can only favour it.
    """
    most = max(row["num_train"] for row in rows)
    own_rows = [row for row in rows if row.get("left_out") and is_ours(row) and row["num_train"] == most]
    baselines = [row for row in rows if row["method"] != "constant" and not is_ours(row)]
    best = {}
    if own_rows:
        best["ours"] = min(own_rows, key=lambda row: row["left_out"]["sigma_mad"])
    if baselines:
        best["best baseline"] = min(baselines, key=lambda row: row["metrics"]["sigma_mad"]["value"])
    if without := next((row for row in rows if row["method"] == "pretrained"), None):
        best["without any label"] = without
    return {
        f"σ_MAD of redshifts, {words}: {name_of(row)}": _cell(row, "sigma_mad") for words, row in best.items()
    }


def is_ours(row: Mapping[str, Any]) -> bool:
    """Return whether a row uses the model: its latents, its images or its embedder."""
    return row["method"] in OUR_METHODS or row["features"] not in OTHER_FEATURES
