"""Predictions of a trained method for any objects.

Shapes: N objects.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.progress import Progress, silent
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER, Classifier
from deepfits.redshifts.features import FEATURE_SETS, Source, band_names, is_usable
from deepfits.redshifts.head import HEAD, Head
from deepfits.redshifts.inputs import complete_source, records_filters, with_filters
from deepfits.redshifts.methods.adapted import Adapted
from deepfits.redshifts.methods.pretrained import Pretrained
from deepfits.redshifts.methods.stack import Stack
from deepfits.redshifts.naming import as_written, class_columns
from deepfits.redshifts.predictor import Predictor
from deepfits.tables import Columns


def load_predictor(model: str | Path) -> Predictor | Classifier:
    """Load a trained method of any kind from its directory, including a head trained without labels."""
    if (Path(model) / HEAD).exists():
        method = Pretrained(head=Head.load(model))
        return Predictor(method=method, loss="absolute", target="z_spec", about={"num_train": 0})
    if (Path(model) / CLASSIFIER).exists():
        return storage.load(Classifier, model, CLASSIFIER, what="classifier")
    if str(model).startswith("builtin:") or (Path(model) / "model.json").exists():
        raise InputError(
            f"{model}: a model of images, not of redshifts; without labels give the features alone"
        )
    return storage.load(Predictor, model)


def predict_table(
    predictor: Predictor | Classifier,
    columns: Columns,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    filters: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the columns of the predictions, and `is_valid`; objects without a finite latent have none.

    `filters` are those of the features' bands; by default the filters recorded in the features, or else those
    given in training.
    """
    if not filters and not records_filters(columns):
        filters = getattr(predictor, "filters", ())
    columns = with_filters(columns, filters)
    usable = is_usable(columns)
    chosen: Any = slice(None) if usable.all() else usable  # without a copy
    if not usable.any():  # predict for a dummy object, to know the columns
        chosen = np.arange(len(usable)) == 0
        columns = {**columns, "latent": np.zeros_like(columns["latent"])}
    source = complete_source(
        Source(columns={name: values[chosen] for name, values in columns.items()}, bands=band_names(columns)),
        store=store,
        embedder_features=embedder_features,
        template_filters=template_filters(predictor),
        progress=progress,
    )
    with progress("predict", total=len(usable), unit="objects") as task:
        if isinstance(predictor, Classifier):
            predictions = class_columns(predictor.predict(source), predictor.names)
        else:
            predictions = as_written(predictor.predict(source), predictor.target)
        task.advance(len(usable))
    table: dict[str, Any] = {n: columns[n] for n in ("object_id", "ra", "dec") if n in columns}
    for name, values in predictions.items():
        fill: Any = {"b": False, "U": ""}.get(values.dtype.kind, np.nan)
        table[name] = np.full((len(usable), *values.shape[1:]), fill, dtype=values.dtype)
        table[name][usable] = values[usable[chosen]]
    return {**table, "is_valid": usable}


def template_filters(predictor: Predictor | Classifier) -> Sequence[str] | None:
    """Return the filters for the template features that a method uses; None if it uses none."""
    method = None if isinstance(predictor, Classifier) else predictor.method
    members = method.members if isinstance(method, (Stack, Adapted)) else ()
    for member in (predictor, *members):
        if not isinstance(member, Predictor):
            continue
        recipes = member.method.recipes if isinstance(member.method, Adapted) else (member.recipe,)
        if any(recipe is not None and "templates" in FEATURE_SETS[recipe.name] for recipe in recipes):
            return member.filters
    return None
