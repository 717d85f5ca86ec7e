"""The stage `redshift_evaluate`: predictions against known redshifts."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from deepfits.errors import InputError
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.metrics import MIN_OBJECTS
from deepfits.redshifts.results import RowKey, make_row, write_metrics
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.parameters import Matching
from deepfits.stages.stage import INPUT, claim, stage
from deepfits.tables import identities, read, require_column


@dataclass(frozen=True)
class EvaluateConfig(Matching):
    """What `redshift_evaluate` takes.

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
    """

    predictions: Annotated[str | Path, INPUT]
    labels: Annotated[str | Path, INPUT]
    out: str | Path
    _: KW_ONLY
    held_out_only: bool = True


@stage(EvaluateConfig)
def redshift_evaluate(config: EvaluateConfig) -> Path:
    """Measure predictions against known redshifts.

    Returns
    -------
    Path
        `out`.

    Examples
    --------
    How good they are: `deepfits redshift evaluate run/redshifts.parquet spectra.csv --out run/metrics`
    """
    table = read(config.predictions, what="predictions")
    columns = table.columns
    known = read_labels(config.labels, column=config.label_column, select=config.select)
    identity = identities(require_column(columns, "object_id", config.predictions), str(config.predictions))
    require_column(columns, "z_phot", config.predictions)
    pairs = match_labels(columns, known, match=config.match, radius_arcsec=config.match_radius_arcsec)
    keep = np.ones(len(pairs.rows), dtype=bool)
    if config.held_out_only:
        keep = is_held_out(identity[pairs.rows])
    rows, label_rows = pairs.rows[keep], pairs.label_rows[keep]
    if len(rows) < MIN_OBJECTS:
        raise InputError(
            f"{config.predictions}: {len(rows)} held-out objects have a label; at least {MIN_OBJECTS} are "
            "needed"
        )
    with claim(config, name="redshift evaluate", renew=True) as results:
        with config.progress("evaluate", total=len(rows), unit="objects") as task:
            row = make_row(
                RowKey(method=Path(config.predictions).stem),
                {name: values[rows] for name, values in columns.items()},
                known.value[label_rows],
                np.full(len(rows), np.nan),
                num_train=table.info.get("num_train"),
                seconds=0.0,
            )
            task.advance(len(rows))
        about = {"target": config.label_column, "counts": known.counts, "provenance": provenance()}
        write_metrics(results.path, [row], about)
    return results.path
