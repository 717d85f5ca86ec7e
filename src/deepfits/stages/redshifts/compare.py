"""The stage `redshift`: from features and labels to the table of metrics (M19 §3.3, Table 1)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deepfits.errors import InputError, nearest
from deepfits.files import fingerprint
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.inputs import photoz_column
from deepfits.redshifts.learning import LOSSES
from deepfits.redshifts.method import Inputs
from deepfits.redshifts.methods import METHODS, Constant
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.pdf import pit
from deepfits.redshifts.predictor import Predictor, train_predictor
from deepfits.redshifts.results import (
    RowKey,
    check_settings,
    join_predictions,
    make_row,
    read_row,
    write_columns,
    write_metrics,
    write_row,
)
from deepfits.stages.redshifts.load import inputs_of, load_dataset, with_measurements


def redshift(
    features: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    model: str | Path | None = None,
    methods: Sequence[str] = ("boosting", "tpot"),
    feature_sets: Sequence[str] | None = None,
    losses: Sequence[str] = ("squared",),
    distributions: bool = True,
    label_column: str = "z_spec",
    photoz: str | None = None,
    select: Sequence[str] = (),
    train_select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    filters: Sequence[str] | None = None,
    template_features: bool = False,
    photometry: str | Path | None = None,
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
    """Predict redshifts of held-out objects by every method, and measure how good they are.

    Parameters
    ----------
    features
        Directory that `fit` wrote.
    labels
        Table with the known redshifts (Parquet, FITS or CSV), and `ra` and `dec`, or `object_id`.
    out
        Directory for ``metrics.json``, ``table.md``, ``predictions.parquet``, ``split.parquet`` and models.
    store
        The cutouts that the features come from; with them, boosting on ordinary magnitudes and colours stands
        beside the deep features, and neighbours in colour space and template fitting can be had.
    embedder_features
        Features of the embedder alone (`fit` with mode ``embedder``), as another feature set.
    model
        The model that the features were fitted with; networks on images start from its embedder.
    methods
        ``"boosting"`` (XGBoost, tuned) and ``"network"`` (small networks), both on every feature set,
        ``"tpot"`` (on the latents), ``"neighbours"`` (in colour space), ``"templates"``, ``"lephare"`` (the
        same templates through LePHARE), and from the images ``"wide_resnet"`` (50 layers, from scratch; slow
        without a GPU), ``"semi_supervised"`` (the model's embedder, fine-tuned with the labels),
        ``"scratch"`` (the same network without the model's weights) and ``"hybrid"`` (the embedder beside
        aperture magnitudes); ``"stack"`` joins several. The constant is always there, as the floor.
    feature_sets
        Use these alone for boosting and small networks: ``latents``, ``model``, ``extended``,
        ``magnitudes``, ``combined``, ``templates``, ``sizes``, ``all``, ``embedder``; ``boosting:all`` for
        one alone, and ``stack:fits`` for stacks.
    losses
        ``"squared"`` (serves R²) or ``"absolute"`` (serves σ_MAD), or both.
    distributions
        Whether to learn and measure p(z), where a method can.
    label_column
        The target.
    photoz
        A column of the labels, or ``TABLE:COLUMN``, with photometric redshifts of your own to stand beside.
    select
        Conditions on the labels, such as ``"z_spec_flag >= 3"``; all must hold.
    train_select
        Conditions that only the labels to learn from must satisfy, such as ``"mag_i < 22.5"``: how redshifts
        do where no spectroscopic survey went.
    match, match_radius_arcsec
        ``"position"``, ``"id"`` or ``"auto"`` (by position where both sides have one).
    max_labels
        Learn from at most this many labels.
    block_arcmin
        Side of sky squares, of which a fifth are for testing alone; by default objects are divided by their
        identity, regardless of where they lie.
    filters
        A speclite filter for each band, for template fitting; by default those of CLAUDS and HSC.
    template_features
        Fit templates to all objects, and give their quantiles to boosting and small networks as features: the
        sets ``templates``, ``sizes`` and ``all``.
    photometry
        A file, ``.npz``, that keeps what is measured in the cutouts for the next table of the same objects.
    seed
        Of the choice of labels, the tuning and TPOT.
    tuning_trials
        Settings of boosting that are compared for each row.
    tpot_minutes
        Time budget of TPOT.
    wide_resnet_width
        Channels of the Wide ResNet's first stage; 64 is the paper's.
    network_epochs, network_minutes, device
        Budget of each network, and where it is trained.
    num_threads
        Threads of boosting, and worker processes of TPOT.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Files that cannot be read or do not overlap, labels that are all the same or too few, one band only,
        or results of other settings in `out`.
    """
    out = Path(out)
    methods, losses = _checked(methods, METHODS, "method"), _checked(losses, LOSSES, "loss")
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
        train_select=train_select,
        seed=seed,
    )
    inputs = inputs_of(
        dataset, options, store=store, embedder_features=embedder_features, templates=template_features
    )
    keys = wanted_rows(methods, losses, feature_sets, inputs)
    dataset = with_measurements(
        dataset,
        options,
        store=store,
        embedder_features=embedder_features,
        templates=template_features,
        photometry=photometry,
        progress=progress,
    )
    settings = {
        "features": _contents(features),
        "labels": _contents(labels),
        "label_column": label_column,
        "select": list(select),
        "train_select": list(train_select),
        "match": match,
        "match_radius_arcsec": match_radius_arcsec,
        "max_labels": max_labels,
        "block_arcmin": block_arcmin,
        "filters": list(filters or ()),
        "template_features": template_features,
        "distributions": distributions,
        "seed": seed,
        "tuning_trials": tuning_trials,
        "tpot_minutes": tpot_minutes,
        "networks": [wide_resnet_width, network_epochs, network_minutes],
    }
    check_settings(out, settings)
    write_columns(out / "split.parquet", _split_columns(dataset))
    rows = []
    with progress("redshifts", total=len(keys) + bool(photoz), unit="methods") as task:
        for key in keys:
            rows.append(_row(out, key, dataset, options, label_column, progress))
            task.advance(1, str(key))
        if photoz:
            rows.append(_column_row(out, photoz, dataset, match_radius_arcsec))
            task.advance(1, photoz)
    test = dataset.split.test
    columns = {
        "object_id": dataset.object_id[test],
        "z_spec": dataset.value[test],
        "magnitude": dataset.magnitude[test],
    }
    join_predictions(out, [row["key"] for row in rows], columns)
    about = {
        "target": label_column,
        "magnitude": dataset.magnitude_name,
        "counts": dataset.counts,
        "settings": settings,
        "provenance": provenance(),
    }
    write_metrics(out, rows, about)
    return out


def _checked(given: Sequence[str], valid: Iterable[str], what: str) -> list[str]:
    given = [given] if isinstance(given, str) else list(given)
    for one in given:
        if one not in valid:
            raise InputError(f"{what} {one!r} is unknown; {nearest(one, valid)}")
    return given


def _contents(path: str | Path) -> str:
    """Return a fingerprint of a table or a directory of tables."""
    path = Path(path)
    return fingerprint(*(sorted(path.glob("*.parquet")) if path.is_dir() else [path]))


def _split_columns(dataset: Dataset) -> dict[str, Any]:
    return {
        "object_id": dataset.object_id,
        "part": dataset.split.names(len(dataset.object_id)),
        "z_spec": dataset.value,
        "magnitude": dataset.magnitude,
        "separation_arcsec": dataset.separation_arcsec,
    }


def wanted_rows(
    methods: Sequence[str], losses: Sequence[str], feature_sets: Sequence[str] | None, inputs: Inputs
) -> list[RowKey]:
    """List the rows: the floor, then the methods in the order of `METHODS` for each loss.

    Raises
    ------
    InputError
        A row that cannot be made of what is given, with what it needs.
    """
    chosen = [method for name, method in METHODS.items() if name in methods and method is not Constant]
    keys = [
        RowKey(method=method.name, features=name, loss=loss)
        for loss in losses
        for method in chosen
        if method.has_loss
        for name in method.rows(inputs, _named_for(method.name, feature_sets))
    ]
    keys += [RowKey(method=method.name) for method in chosen if not method.has_loss]
    for key in keys:
        try:
            METHODS[key.method].check(key.features, inputs)
        except InputError as error:
            raise InputError(f"the row {key} cannot be made: {error}") from error
    return [RowKey(method=Constant.name), *keys]


def _named_for(method: str, feature_sets: Sequence[str] | None) -> list[str] | None:
    """Return the feature sets that are named for a method, ``NAME`` or ``METHOD:NAME``; None: no wish."""
    if not feature_sets or method not in ("boosting", "network", "stack"):
        return None
    pairs = [one.rpartition(":") for one in feature_sets]
    own = [name for only, _, name in pairs if only == method]
    return own or None if method == "stack" else [name for only, _, name in pairs if only in ("", method)]


def _row(
    out: Path, key: RowKey, dataset: Dataset, options: LearningOptions, target: str, progress: Progress
) -> dict[str, Any]:
    """Train and measure one method, or read what was done before."""
    directory = out / "methods" / str(key)
    done = read_row(directory)
    if done is not None:
        return done
    started = time.monotonic()

    def member(method: str, features: str) -> Predictor:
        """Take a member of a stack from its own row, which is made first where it is not there."""
        own = RowKey(method=method, features=features, loss=key.loss)
        _row(out, own, dataset, options, target, progress)
        return Predictor.load(out / "methods" / str(own))

    predictor = train_predictor(
        METHODS[key.method],
        key.features,
        dataset,
        options,
        target,
        loss=key.loss or "squared",
        member=member,
        progress=progress,
    )
    predictor.save(directory)
    test = dataset.split.test
    predictions = predictor.predict(dataset.source.take(test))
    if "quantiles" in predictions:
        predictions["pit"] = pit(predictions["quantiles"], dataset.value[test])
    row = make_row(
        key,
        predictions,
        dataset.value[test],
        dataset.magnitude[test],
        num_train=len(dataset.split.fitted),
        seconds=time.monotonic() - started,
        about=predictor.about,
    )
    write_row(directory, row, dataset.object_id[test], predictions)
    return row


def _column_row(out: Path, photoz: str, dataset: Dataset, radius_arcsec: float) -> dict[str, Any]:
    """Measure the user's own estimates, on those test objects that have one."""
    key = RowKey(method="column", features=photoz.rpartition(":")[2])
    test = dataset.split.test
    estimate = photoz_column(photoz, dataset, radius_arcsec)[test]
    row = make_row(
        key, {"z_phot": estimate}, dataset.value[test], dataset.magnitude[test], num_train=0, seconds=0.0
    )
    write_row(out / "methods" / str(key), row, dataset.object_id[test], {"z_phot": estimate})
    return row
