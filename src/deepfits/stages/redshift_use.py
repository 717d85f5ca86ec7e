"""The stages `redshift_train`, `redshift_predict` and `redshift_evaluate`: one method, used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.redshifts.classes import Classifier
from deepfits.redshifts.features import TEMPLATE_SETS, Source, band_names, is_usable, read_features
from deepfits.redshifts.image_methods import NetworkOptions
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.metrics import MIN_OBJECTS
from deepfits.redshifts.predictor import Options, Predictor
from deepfits.redshifts.results import RowKey, check_settings, make_row, write_columns, write_metrics
from deepfits.redshifts.training import needs_templates, train_predictor
from deepfits.splits import is_held_out
from deepfits.stages.redshift_classes import class_columns
from deepfits.stages.redshift_inputs import complete_source, load_dataset
from deepfits.tables import format_of, read_table, require_column


def redshift_train(
    features: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    method: str = "boosting",
    feature_set: str = "extended",
    loss: str = "squared",
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    model: str | Path | None = None,
    distributions: bool = True,
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    filters: Sequence[str] | None = None,
    seed: int = 0,
    tuning_trials: int = 6,
    tpot_minutes: float = 1.0,
    wide_resnet_width: int = 64,
    network_epochs: int = 60,
    network_minutes: float = 60.0,
    device: str = "cpu",
    num_threads: int = 1,
    progress: Progress = silent,
) -> Path:
    """Train one method on the labelled objects that are not held out, and store it to be used on others.

    Parameters
    ----------
    features, labels, store, embedder_features, model
        As for `redshift`; methods that learn from images need `store`, and all but `wide_resnet` `model`.
    out
        Directory of the redshift model: JSON and the libraries' own formats; nothing in it can run code.
    method, feature_set, loss
        One of each; see `redshift`. The feature set of `stack` is ``fits``, ``deep`` or ``templates``;
        networks on images have none, but for `hybrid`.
    wide_resnet_width, network_epochs, network_minutes, device
        As for `redshift`.

    Returns
    -------
    Path
        `out`. When it holds a model of the same settings, nothing is done.
    """
    out = Path(out)
    settings = {
        "features": str(features),
        "labels": str(labels),
        "method": method,
        "feature_set": feature_set,
        "loss": loss,
        "distributions": distributions,
        "label_column": label_column,
        "select": list(select),
        "match": match,
        "match_radius_arcsec": match_radius_arcsec,
        "max_labels": max_labels,
        "block_arcmin": block_arcmin,
        "filters": list(filters or ()),
        "seed": seed,
        "tuning_trials": tuning_trials,
        "tpot_minutes": tpot_minutes,
        "networks": [wide_resnet_width, network_epochs, network_minutes],
    }
    dataset = load_dataset(
        features,
        labels,
        store=store,
        embedder_features=embedder_features,
        label_column=label_column,
        select=select,
        match=match,
        match_radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        block_arcmin=block_arcmin,
        template_filters=(filters or ()) if needs_templates(method, feature_set) else None,
        seed=seed,
        progress=progress,
    )
    check_settings(out, settings)
    if (out / "predictor.json").exists():
        return out
    options = Options(
        loss=loss,
        distributions=distributions,
        tuning_trials=tuning_trials,
        tpot_minutes=tpot_minutes,
        filters=tuple(filters or ()),
        networks=NetworkOptions(
            width=wide_resnet_width,
            epochs=network_epochs,
            minutes=network_minutes,
            model=model,
            device=device,
        ),
        seed=seed,
        num_threads=num_threads,
    )
    with progress("train redshifts", total=1, unit="methods") as task:
        predictor = train_predictor(
            method, feature_set, dataset, options, target=label_column, progress=progress
        )
        predictor.save(out)
        task.advance(1, method)
    return out


def redshift_predict(
    model: str | Path,
    features: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Predict the redshift of every object of a features directory.

    Parameters
    ----------
    model
        Directory that `redshift_train` wrote (or one of ``methods/`` of a `redshift` directory).
    features, store, embedder_features
        Of any objects; what the model's feature set needs.
    out
        A table in the format that its ending says (``.parquet``, ``.fits``, ``.csv``): `object_id`, `ra` and
        `dec` where known, `z_phot`, distributions as `quantiles` with
        `z_mean`, `z_median`, `z_mode`, `z_err68_low`, `z_err68_high`, `z_err95_low`, `z_err95_high`, where an
        object lies outside the training domain, and `is_valid`: objects without a finite latent have NaN. Of
        a classifier: `class`, and `p_<class>` for each. A name without an ending is a directory: one such
        file for each file of the features that holds objects, and ``_manifest.jsonl``; running it again makes
        only what is missing or failed.
    workers, scheduler
        As in `fit`, for a directory.

    Returns
    -------
    Path
        `out`.
    """
    out = Path(out)
    if not out.suffix or workers > 1 or scheduler is not None:
        from deepfits.stages.redshift_shards import predict_shards

        return predict_shards(
            model,
            features,
            out,
            store=store,
            embedder_features=embedder_features,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
    format_of(out)  # before the work
    predictor, columns = load_predictor(model), read_features(features)
    if not is_usable(columns).any():
        raise InputError(f"{features}: no object has a finite latent")
    table = predict_table(
        predictor, columns, store=store, embedder_features=embedder_features, progress=progress
    )
    write_columns(out, table)
    return out


def load_predictor(model: str | Path) -> Predictor | Classifier:
    """Read a trained method, whichever kind it is."""
    is_classifier = (Path(model) / "classifier.json").exists()
    return Classifier.load(model) if is_classifier else Predictor.load(model)


def predict_table(
    predictor: Predictor | Classifier,
    columns: dict[str, np.ndarray],
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the columns of the predictions for objects of which at least one has a finite latent."""
    usable = is_usable(columns)
    source = Source(
        columns={name: values[usable] for name, values in columns.items()}, bands=band_names(columns)
    )
    source = complete_source(
        source,
        store=store,
        embedder_features=embedder_features,
        template_filters=_filters_for(predictor),
        progress=progress,
    )
    with progress("redshifts", total=len(usable), unit="objects") as task:
        if isinstance(predictor, Classifier):
            predictions = class_columns(predictor.predict(source), predictor.names)
        else:
            predictions = predictor.predict(source)
        task.advance(len(usable))
    table: dict[str, Any] = {n: columns[n] for n in ("object_id", "ra", "dec") if n in columns}
    table |= {name: _spread_out(values, usable) for name, values in predictions.items()}
    return {**table, "is_valid": usable}


def _filters_for(predictor: Predictor | Classifier) -> Sequence[str] | None:
    """Return the filters of the templates that a method's features were made with, None where it has none."""
    for one in (predictor, *(predictor.members if isinstance(predictor, Predictor) else ())):
        if one.recipe is not None and one.recipe.name in TEMPLATE_SETS:
            return tuple(one.about.get("filters", ()))
    return None


def _spread_out(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Put values of the usable objects at their rows; NaN, or False, elsewhere."""
    fill: Any = {"b": False, "U": ""}.get(values.dtype.kind, np.nan)
    out = np.full((len(usable), *values.shape[1:]), fill, dtype=values.dtype)
    out[usable] = values
    return out


def redshift_evaluate(
    predictions: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    held_out_only: bool = True,
    progress: Progress = silent,
) -> Path:
    """Measure predictions against known redshifts.

    Parameters
    ----------
    predictions
        File that `redshift_predict` wrote, or any table with `object_id` and `z_phot`.
    labels
        Table with the known redshifts.
    out
        Directory for ``metrics.json`` and ``table.md``.
    held_out_only
        Use the held-out objects alone: no method may be judged by objects that it learned from.

    Returns
    -------
    Path
        `out`.
    """
    out = Path(out)
    columns = read_table(predictions, what="predictions")
    known = read_labels(labels, column=label_column, select=select)
    identity = require_column(columns, "object_id", predictions)
    require_column(columns, "z_phot", predictions)
    found = match_labels(columns, known, match=match, radius_arcsec=match_radius_arcsec)
    keep = is_held_out(identity[found.rows]) if held_out_only else np.ones(len(found.rows), dtype=bool)
    rows, label_rows = found.rows[keep], found.label_rows[keep]
    if len(rows) < MIN_OBJECTS:
        raise InputError(
            f"{predictions}: {len(rows)} held-out objects have a label; at least {MIN_OBJECTS} are needed"
        )
    with progress("evaluate", total=len(rows), unit="objects") as task:
        row = make_row(
            RowKey(method=Path(predictions).stem),
            {name: values[rows] for name, values in columns.items()},
            known.value[label_rows],
            np.full(len(rows), np.nan),
            num_train=0,
            seconds=0.0,
        )
        task.advance(len(rows))
    about = {"target": label_column, "counts": known.counts, "provenance": provenance()}
    write_metrics(out, [row], about)
    return out


def read_metrics(directory: str | Path) -> dict[str, Any]:
    """Return ``metrics.json`` of a redshift directory."""
    return read_json(Path(directory) / "metrics.json", what="metrics")
