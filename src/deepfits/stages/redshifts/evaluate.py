"""The stage `redshift_evaluate`: predictions against known redshifts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.metrics import MIN_OBJECTS
from deepfits.redshifts.results import RowKey, make_row, write_metrics
from deepfits.splits import is_held_out
from deepfits.tables import read_table, require_column


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
    pairs = match_labels(columns, known, match=match, radius_arcsec=match_radius_arcsec)
    keep = is_held_out(identity[pairs.rows]) if held_out_only else np.ones(len(pairs.rows), dtype=bool)
    rows, label_rows = pairs.rows[keep], pairs.label_rows[keep]
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
