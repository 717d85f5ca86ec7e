"""Stage `redshift_evaluate`: measure predictions against known redshifts."""

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.provenance import provenance
from deepfits.redshifts.classes import class_metrics_with_errors, confusion, write_classes
from deepfits.redshifts.labels import Labels, add_standard_names, match_labels, read_estimates, read_labels
from deepfits.redshifts.metrics import MIN_OBJECTS, delta_z
from deepfits.redshifts.naming import ESTIMATE, truth_name, written_name
from deepfits.redshifts.pdf import LEVELS
from deepfits.redshifts.results import RowKey, make_row, write_metrics
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.load import is_of_classes
from deepfits.stages.redshifts.parameters import Matching
from deepfits.stages.stage import INPUT, claim, stage
from deepfits.tables import Columns, identities, read, require_column, with_list, write_table
from deepfits.tables.values import is_redshift_name

log = logging.getLogger(__name__)

MOST_OFF = 0.02  # by which probabilities of classes may miss a sum of 1: text may have been rounded


@dataclass(frozen=True)
class EvaluateConfig(Matching):
    """Parameters of `redshift_evaluate`."""

    predictions: Annotated[str | Path, INPUT]
    """File from `redshift_predict`, or any table with `z_phot` and identities or positions; for another
    target with `<target>_predicted`, for classes with `class` and `p_<class>`."""
    labels: Annotated[str | Path, INPUT]
    """Table of known redshifts, or of other properties (Parquet, FITS or CSV), with `ra` and `dec`, or
    `object_id`."""
    out: str | Path
    """Output directory for ``metrics.json``, ``table.md``, and ``objects.csv``: predictions and known values,
    the worst first."""
    _: KW_ONLY
    held_out_only: bool = True
    """Use only held-out objects, on which no method was trained. Predictions that used no labels are always
    measured on all."""


@stage(EvaluateConfig, result="metrics")
def redshift_evaluate(config: EvaluateConfig) -> Path:
    """Measure predicted redshifts, or another property, against known values: bias, scatter, outliers.

    Raises
    ------
    InputError
        Tables that cannot be read or lack a column, too few objects in common, or other files in `out`.

    Examples
    --------
    Redshifts: `deepfits redshift evaluate run/redshifts.parquet spectra.csv --out run/metrics`

    Photometric redshifts from elsewhere: `deepfits redshift evaluate photoz.fits spectra.csv --out metrics
    --no-held-out-only`
    """
    target, estimate = config.label_column, written_name(ESTIMATE, config.label_column)
    table = read(config.predictions, what="predictions", wanted=(estimate,))
    used = table.info.get("num_train")
    config = replace(config, held_out_only=config.held_out_only and used != 0)
    columns = add_standard_names(table)
    classes = is_of_classes(config.labels, target) or ("class" in columns and estimate not in columns)
    known = read_labels(config.labels, column=target, select=config.select, classes=classes)
    identity = _identities(columns, config)
    if not classes:
        if estimate not in columns:
            raise InputError(
                f"{config.predictions}: no column {estimate!r}; {nearest(estimate, table.columns)}; rename "
                f"the column of estimates to {estimate}"
            )
        columns = with_list(columns, "quantiles")
        columns = columns | {ESTIMATE: read_estimates(columns, estimate, config.predictions)}
        if "quantiles" in columns:
            _check_quantiles(columns["quantiles"][np.isfinite(columns[ESTIMATE])], config.predictions)
    rows, label_rows = _matched(columns, identity, known, config)
    about = {
        "target": target,
        "held_out_only": config.held_out_only,
        "counts": known.counts,
        "provenance": provenance(),
    }
    name = Path(config.predictions).stem
    matched = {column: values[rows] for column, values in columns.items()}
    with (
        claim(config, name="redshift evaluate", renew=True) as results,
        config.progress("evaluate", total=len(rows), unit="objects") as task,
    ):
        if classes:
            truth = np.array(known.classes)[known.value[label_rows].astype(int)]
            row = _row_of_classes(matched, truth, config)
            row |= {"key": name, "features": name, "num_train": used}
            write_classes(results.path, {**about, "rows": [row]})
        else:
            truth, nothing = known.value[label_rows], np.full(len(rows), np.nan)
            key = RowKey(method=name)
            row = make_row(key, matched, truth, nothing, num_train=used, seconds=0.0, target=target)
            write_metrics(results.path, [row], about)
            error = delta_z(matched[ESTIMATE], truth, is_redshift=is_redshift_name(target))
            worst = np.argsort(-np.abs(error), kind="stable")
            listed = {c: values for c, values in matched.items() if values.ndim == 1 and c != ESTIMATE}
            listed |= {estimate: matched[ESTIMATE], truth_name(target): truth}
            write_table(results.path / "objects.csv", {c: values[worst] for c, values in listed.items()})
        task.advance(len(rows))
    return results.path


def _identities(columns: Columns, config: EvaluateConfig) -> np.ndarray | None:
    """Return the identities of the predictions; None if they are unusable, and only positions are needed."""
    try:
        return identities(require_column(columns, "object_id", config.predictions), str(config.predictions))
    except InputError as error:
        if config.match == "id" or "ra" not in columns:
            raise
        if config.held_out_only:
            raise InputError(f"{error}; with held_out_only=False positions are enough") from None
        return None


def _check_quantiles(quantiles: np.ndarray, path: str | Path) -> None:
    """Raise if quantiles ``(N, ...)`` are not those of `LEVELS`, or do not increase."""
    shape = quantiles.shape[1:]
    if shape != LEVELS.shape:
        raise InputError(
            f"{path}: quantiles holds {shape[0] if shape else 1} values for each object, not the "
            f"{len(LEVELS)} of deepfits; leave that column out"
        )
    if wrong := int((~(np.diff(quantiles, axis=1) >= 0).all(axis=1)).sum()):
        raise InputError(
            f"{path}: quantiles of {wrong} objects with an estimate are missing or do not increase with "
            f"their levels ({LEVELS[0]:g} to {LEVELS[-1]:g}); correct them, or leave that column out"
        )


def _matched(
    columns: Columns, identity: np.ndarray | None, known: Labels, config: EvaluateConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the objects to evaluate, and the rows of their labels; see `_identities`."""
    match = "position" if identity is None else config.match
    pairs = match_labels(columns, known, match=match, radius_arcsec=config.match_radius_arcsec)
    rows, label_rows, kind, remedy = pairs.rows, pairs.label_rows, "objects", ""
    same: Any = identity if pairs.by == "id" else columns["ra"] + 1j * columns["dec"]
    if repeated := int(np.isin(same, same[rows]).sum()) - len(rows):
        log.warning(
            "WARNING: %s: %d rows are not used: another one before them has the same %s",
            *(config.predictions, repeated, "object_id" if pairs.by == "id" else "ra and dec"),
        )
    if config.held_out_only and identity is not None:
        keep = is_held_out(identity[rows])
        rows, label_rows, kind = rows[keep], label_rows[keep], "held-out objects"
        remedy = "; held_out_only=False uses all objects, if the method was trained on none of them"
    if len(rows) < MIN_OBJECTS:
        raise InputError(
            f"{config.predictions}: {len(rows)} {kind} have a label; at least {MIN_OBJECTS} are "
            f"needed{remedy}"
        )
    return rows, label_rows


def _row_of_classes(
    columns: Mapping[str, np.ndarray], truth: np.ndarray, config: EvaluateConfig
) -> dict[str, Any]:
    """Measure predicted class probabilities."""
    known = tuple(
        name.removeprefix("p_")
        for name, values in columns.items()
        if name.startswith("p_") and values.dtype.kind in "fiu" and values.ndim == 1
    )
    if missing := sorted(set(truth.tolist()) - set(known)):
        raise InputError(
            f"{config.predictions}: no probability of the class {missing[0]!r} (p_{missing[0]}), which "
            f"{config.labels} has; train with labels of all classes, or leave it out with select"
        )
    probability = np.stack([columns[f"p_{name}"] for name in known], axis=1).astype(np.float64)
    has = np.isfinite(probability).all(axis=1)
    if not has.any():
        raise InputError(f"{config.predictions}: no object has a probability of every class")
    total = probability[has].sum(axis=1)
    if np.abs(total - 1).max() > MOST_OFF:
        names = ", ".join(f"p_{name}" for name in known)
        raise InputError(
            f"{config.predictions}: {names} add up to {total[np.abs(total - 1).argmax()]:g}, not to 1: leave "
            "out those that are of no class, or divide by their sum"
        )
    probability, label = probability[has], np.array([known.index(name) for name in truth[has].tolist()])
    return {
        "num_test": len(label),
        "num_missing": int((~has).sum()),
        "metrics": class_metrics_with_errors(probability, label),
        "confusion": confusion(probability, label, known),
    }
