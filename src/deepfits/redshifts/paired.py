"""Two methods on the same objects: the difference of their metrics with its own error.

The errors of two rows of a table cannot be added up, because the same held-out objects are hard for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.redshifts.metrics import measured_difference
from deepfits.redshifts.results import table_lines
from deepfits.tables import read_table, require_column

COLUMNS = {"r2": "R²", "sigma_mad": "σ_MAD", "eta": "η (5 σ_MAD)", "eta_15": "η (0.15)"}


def paired_differences(
    directory: str | Path, pairs: Sequence[tuple[str, str]], *, num_resamples: int = 300
) -> list[dict[str, Any]]:
    """Compare methods of a `redshift` directory.

    Parameters
    ----------
    pairs
        Keys of rows: the one, and what it is compared with.

    Returns
    -------
    list
        ``{"ours": key, "other": key, "num": N, "metrics": {name: {"value", "error"}}}`` for each pair: metric
        of ours minus metric of the other. Objects that one of them has no estimate of are left out.

    Raises
    ------
    InputError
        A key that the directory has no row of.
    """
    path = Path(directory) / "predictions.parquet"
    columns = read_table(path, what="predictions")
    truth = require_column(columns, "z_spec", path)
    out = []
    for ours, other in pairs:
        one, two = (require_column(columns, f"z_phot_{key.replace('-', '_')}", path) for key in (ours, other))
        has = np.isfinite(one) & np.isfinite(two)
        metrics = measured_difference(one[has], two[has], truth[has], num_resamples=num_resamples)
        out.append({"ours": ours, "other": other, "num": int(has.sum()), "metrics": metrics})
    return out


def paired_table(differences: Sequence[Mapping[str, Any]]) -> str:
    """Return the differences as Markdown."""
    cells = [
        [f"`{row['ours']}` − `{row['other']}`", *(_signed(row["metrics"][name]) for name in COLUMNS)]
        for row in differences
    ]
    head = "Differences on the same objects, with the bootstrap error of the difference:"
    return "\n".join([head, "", *table_lines(["ours − other", *COLUMNS.values()], cells)]) + "\n"


def _signed(entry: Mapping[str, float | None]) -> str:
    if entry["value"] is None or entry["error"] is None:
        return "–"
    return f"{entry['value']:+.4f} ± {entry['error']:.4f}"
