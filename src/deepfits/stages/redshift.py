"""The stage `redshift`: from features and labels to the table of metrics (M19 §3.3, Table 1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.files import fingerprint, write_json
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.redshifts.boosting import LOSSES, BoostingConfig, train_boosting
from deepfits.redshifts.dataset import Dataset, make_dataset
from deepfits.redshifts.features import Matrix, ordinary_magnitudes, read_features
from deepfits.redshifts.labels import read_labels
from deepfits.redshifts.photometry import aperture_photometry
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
from deepfits.redshifts.tpot_search import TpotConfig, train_tpot

METHODS = ("boosting", "tpot")


def redshift(
    features: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    methods: Sequence[str] = METHODS,
    losses: Sequence[str] = ("squared",),
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    seed: int = 0,
    tuning_trials: int = 6,
    tpot_minutes: float = 1.0,
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
        beside the deep features.
    methods
        ``"boosting"`` (XGBoost, tuned, on every feature set) and ``"tpot"`` (on the latents). The constant
        prediction is always there, as the floor.
    losses
        ``"squared"`` (serves R²) or ``"absolute"`` (serves σ_MAD), or both.
    label_column
        The target.
    select
        Conditions on the labels, such as ``"z_spec_flag >= 3"``; all must hold.
    match, match_radius_arcsec
        ``"position"``, ``"id"`` or ``"auto"`` (by position where both sides have one).
    max_labels
        Learn from at most this many labels.
    block_arcmin
        Side of sky squares, of which a fifth are for testing alone; by default objects are divided by their
        identity, regardless of where they lie.
    seed
        Of the choice of labels, the tuning and TPOT.
    tuning_trials
        Settings of boosting that are compared for each row.
    tpot_minutes
        Time budget of TPOT.
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
    columns = read_features(features)
    known = read_labels(labels, column=label_column, select=select)
    settings = {
        "features": _features_fingerprint(Path(features)),
        "labels": fingerprint(*_files(Path(labels))),
        "store": str(store) if store is not None else None,
        "label_column": label_column,
        "select": list(select),
        "match": match,
        "match_radius_arcsec": match_radius_arcsec,
        "max_labels": max_labels,
        "block_arcmin": block_arcmin,
        "seed": seed,
        "tuning_trials": tuning_trials,
        "tpot_minutes": tpot_minutes,
    }
    dataset = make_dataset(
        columns,
        known,
        match=match,
        radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        seed=seed,
        block_arcmin=block_arcmin,
    )
    check_settings(out, settings)
    if store is not None:
        dataset.sets["magnitudes"] = store_magnitudes(store, dataset.object_id, progress=progress)
    _write_split(out, dataset)
    keys = [RowKey(method="constant"), *_wanted_rows(methods, losses, dataset)]
    rows = []
    with progress("redshifts", total=len(keys), unit="methods") as task:
        for key in keys:
            rows.append(_row(out, key, dataset, seed, tuning_trials, tpot_minutes, num_threads, progress))
            task.advance(1, str(key))
    test = dataset.split.test
    join_predictions(
        out,
        [str(key) for key in keys],
        {
            "object_id": dataset.object_id[test],
            "z_spec": dataset.value[test],
            "magnitude": dataset.magnitude[test],
        },
    )
    about = {
        "target": label_column,
        "magnitude": dataset.magnitude_name,
        "counts": dataset.counts,
        "settings": settings,
        "provenance": provenance(),
    }
    write_metrics(out, rows, about)
    return out


def _checked(given: Sequence[str], valid: Sequence[str], what: str) -> list[str]:
    given = [given] if isinstance(given, str) else list(given)
    for one in given:
        if one not in valid:
            raise InputError(f"{what} {one!r} is unknown; {nearest(one, valid)}")
    return given


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _features_fingerprint(path: Path) -> str:
    description = path / "features.json"
    return fingerprint(*([description] if description.exists() else []), *_files(path))


def store_magnitudes(store: str | Path, object_id: np.ndarray, *, progress: Progress = silent) -> Matrix:
    """Measure ordinary magnitudes and colours of some objects of a cutout store, shard by shard.

    Raises
    ------
    InputError
        An object is not in the store, or the store has one band.
    """
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    info = cutouts.info
    flux = np.full((len(object_id), 3, len(info.bands)), np.nan)
    flux_err = np.full_like(flux, np.nan)
    wanted = {one: row for row, one in enumerate(object_id.tolist())}
    is_found = np.zeros(len(object_id), dtype=bool)
    with progress("aperture magnitudes", total=len(cutouts), unit="objects") as task:
        for shard in cutouts:
            pairs = [
                (place, wanted[one]) for place, one in enumerate(shard.object_id.tolist()) if one in wanted
            ]
            if pairs:
                places, rows = (np.array(side) for side in zip(*pairs, strict=True))
                flux[rows], flux_err[rows] = aperture_photometry(
                    shard.image[places],
                    shard.weight[places],
                    pixel_scale_arcsec=info.pixel_scale_arcsec,
                    fwhm_arcsec=info.fwhm_arcsec,
                )
                is_found[rows] = True
            task.advance(len(shard))
    if not is_found.all():
        raise InputError(
            f"{store}: {int((~is_found).sum())} objects of the features are not in this store, object_id "
            f"{object_id[~is_found][0]} among them; give the store that the features were fitted from"
        )
    return ordinary_magnitudes(flux, flux_err, info.bands)[0]


def _write_split(out: Path, dataset: Dataset) -> None:
    columns = {
        "object_id": dataset.object_id,
        "part": dataset.split.names(len(dataset.object_id)),
        "z_spec": dataset.value,
        "magnitude": dataset.magnitude,
        "separation_arcsec": dataset.separation_arcsec,
    }
    write_columns(out / "split.parquet", columns)


def _wanted_rows(methods: Sequence[str], losses: Sequence[str], dataset: Dataset) -> list[RowKey]:
    out = []
    for loss in losses:
        if "tpot" in methods:
            out.append(RowKey(method="tpot", features="latents", loss=loss))
        if "boosting" in methods:
            out += [RowKey(method="boosting", features=name, loss=loss) for name in dataset.sets]
    return out


def _row(
    out: Path,
    key: RowKey,
    dataset: Dataset,
    seed: int,
    tuning_trials: int,
    tpot_minutes: float,
    num_threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train and measure one method, or read what was done before."""
    directory = out / "methods" / str(key)
    done = read_row(directory)
    if done is not None:
        return done
    started = time.monotonic()
    rows, test = dataset.split.fitted, dataset.split.test
    value = dataset.value[rows]
    about: dict[str, Any] = {}
    if key.method == "constant":
        constant = float(np.median(value))
        z_phot = np.full(len(test), constant)
        write_json(directory / "constant.json", {"value": constant})
    else:
        matrix = dataset.sets[key.features]
        if key.method == "boosting":
            config = BoostingConfig(
                loss=key.loss, num_trials=tuning_trials, seed=seed, num_threads=num_threads
            )
            model: Any = train_boosting(matrix.take(rows), value, config)
            about["cross_validated_loss"] = min(trial["loss"] for trial in model.trials)
        else:
            search = TpotConfig(loss=key.loss, minutes=tpot_minutes, seed=seed, num_threads=num_threads)
            model = train_tpot(matrix.take(rows), value, search, progress=progress)
            about["num_pipelines"] = len(model.pipelines)
            about["cross_validated_loss"] = model.pipelines[0]["loss"]
        model.save(directory)
        z_phot = model.predict(matrix.values[test])
    row = make_row(
        key,
        z_phot,
        dataset.value[test],
        dataset.magnitude[test],
        num_train=len(rows),
        seconds=time.monotonic() - started,
        about=about,
    )
    write_row(directory, row, dataset.object_id[test], z_phot)
    return row
