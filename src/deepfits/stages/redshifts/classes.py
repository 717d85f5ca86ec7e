"""The stage `redshift_classes`: the table of `redshift` for a target that is a class, not a number."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.redshifts.classes import (
    DEFINITIONS,
    class_columns,
    class_numbers,
    class_table,
    confusion,
    measured_classes,
    train_classifier,
)
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import Recipe
from deepfits.redshifts.methods import Boosting
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.results import check_settings, write_columns
from deepfits.stages.redshifts.load import inputs_of, load_dataset, with_measurements


def redshift_classes(
    features: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    label_column: str = "kind",
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    feature_sets: Sequence[str] | None = None,
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    seed: int = 0,
    num_threads: int = 1,
    progress: Progress = silent,
) -> Path:
    """Learn a class from few labels, by boosting on every feature set, and measure it on held-out objects.

    Parameters
    ----------
    label_column
        The column of the labels that names the class (text, or whole numbers).
    features, labels, out, store, embedder_features, feature_sets, select, match, match_radius_arcsec
        As for `redshift`.
    max_labels, block_arcmin, seed, num_threads
        As for `redshift`.

    Returns
    -------
    Path
        `out`: ``metrics.json``, ``table.md``, ``split.parquet``, and a classifier for each feature set under
        ``methods/``, which `redshift_predict` takes.

    Raises
    ------
    InputError
        As `redshift`; or one class alone, or a class of fewer than ten objects.
    """
    out = Path(out)
    dataset = load_dataset(
        features,
        labels,
        label_column=label_column,
        select=select,
        match=match,
        match_radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        block_arcmin=block_arcmin,
        seed=seed,
        classes=True,
    )
    options = LearningOptions(seed=seed, num_threads=num_threads)
    given: dict[str, Any] = {"store": store, "embedder_features": embedder_features, "templates": False}
    inputs = inputs_of(dataset, options, **given)
    wanted = Boosting.rows(inputs, feature_sets or None)
    for name in wanted:
        Boosting.check(name, inputs)
    dataset = with_measurements(dataset, options, **given, progress=progress)
    label, names = class_numbers(np.array(dataset.classes)[dataset.value.astype(int)], str(labels))
    settings = {
        "features": str(features),
        "labels": str(labels),
        "label_column": label_column,
        "select": list(select),
        "max_labels": max_labels,
        "block_arcmin": block_arcmin,
        "match": [match, match_radius_arcsec],
        "seed": seed,
    }
    check_settings(out, settings)
    split = {"object_id": dataset.object_id, "part": dataset.split.names(len(label))}
    write_columns(out / "split.parquet", {**split, label_column: np.array(names)[label]})
    rows = []
    with progress("classes", total=len(wanted), unit="feature sets") as task:
        for name in wanted:
            rows.append(_row(out, name, dataset, label, names, label_column, seed, num_threads))
            task.advance(1, name)
    content = {
        "target": label_column,
        "classes": list(names),
        "counts": dataset.counts,
        "definitions": DEFINITIONS,
        "rows": rows,
        "settings": settings,
        "provenance": provenance(),
    }
    write_json(out / "metrics.json", content)
    with writing(out / "table.md") as temporary:
        temporary.write_text(class_table(content), encoding="utf-8")
    return out


def _row(
    out: Path,
    name: str,
    dataset: Dataset,
    label: np.ndarray,
    names: Sequence[str],
    target: str,
    seed: int,
    num_threads: int,
) -> dict[str, Any]:
    """Train and measure on one feature set, or read what was done before."""
    directory = out / "methods" / f"classes-{name}"
    if (directory / "row.json").exists():
        return dict(read_json(directory / "row.json", what="row of a table"))
    started = time.monotonic()
    recipe = Recipe.learn(name, dataset.source)
    fitted, test = dataset.split.fitted, dataset.split.test
    if len(np.unique(label[fitted])) < len(names) or len(np.unique(label[test])) < 2:
        raise InputError(
            f"column {target!r}: a class has no object to learn from, or the held-out objects are of one "
            "class; give more labels"
        )
    matrix = recipe.make(dataset.source)
    classifier = train_classifier(
        matrix.take(fitted),
        label[fitted],
        names,
        recipe,
        target=target,
        seed=seed,
        num_threads=num_threads,
    )
    classifier.save(directory)
    probability = classifier.predict(dataset.source.take(test))
    row = {
        "key": f"classes-{name}",
        "features": name,
        "num_train": len(fitted),
        "num_test": len(test),
        "seconds": round(time.monotonic() - started, 2),
        "metrics": measured_classes(probability, label[test]),
        "confusion": confusion(probability, label[test], names),
        **classifier.about,
    }
    columns = {"object_id": dataset.object_id[test], target: np.array(names)[label[test]]}
    columns |= class_columns(probability, names)
    write_columns(directory / "predictions.parquet", columns)
    write_json(directory / "row.json", row)
    return row
