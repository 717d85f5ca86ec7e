"""The stage `redshift_train`: one method, learned and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepfits.progress import Progress, silent
from deepfits.redshifts.methods import METHODS, method_named, uses_templates
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.predictor import Predictor, train_predictor
from deepfits.redshifts.results import check_settings
from deepfits.stages.redshifts.load import inputs_of, load_dataset, with_measurements


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
    options = LearningOptions(
        model=model,
        filters=tuple(filters or ()),
        distributions=distributions,
        tuning_trials=tuning_trials,
        tpot_minutes=tpot_minutes,
        wide_resnet_width=wide_resnet_width,
        network_epochs=network_epochs,
        network_minutes=network_minutes,
        device=device,
        seed=seed,
        num_threads=num_threads,
    )
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
    )
    kind = method_named(method)
    given: dict[str, Any] = {"store": store, "embedder_features": embedder_features}
    given["templates"] = uses_templates(method, feature_set)
    kind.check(feature_set, inputs_of(dataset, options, **given))
    check_settings(out, settings)
    if (out / "predictor.json").exists():
        return out
    dataset = with_measurements(dataset, options, **given, progress=progress)

    def member(name: str, features: str) -> Predictor:
        return train_predictor(
            METHODS[name], features, dataset, options, label_column, loss=loss, progress=progress
        )

    with progress("train redshifts", total=1, unit="methods") as task:
        predictor = train_predictor(
            kind, feature_set, dataset, options, label_column, loss=loss, member=member, progress=progress
        )
        predictor.save(out)
        task.advance(1, method)
    return out
