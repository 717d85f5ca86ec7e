"""Two methods on the same objects: the difference of their metrics with its own error.

The errors of two rows of a table cannot be added up, because the same held-out objects are hard for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.redshifts.metrics import point_metrics
from deepfits.redshifts.results import HEADINGS, table_lines
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


def measured_difference(
    z_phot: np.ndarray, other: np.ndarray, z_spec: np.ndarray, *, num_resamples: int = 300, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return by how much the metrics of estimates exceed those of others on the same objects, ``(N,)`` each.

    The error is the scatter of the difference over resamples in which both have the same objects: less than
    that of either metric, as both stumble over the same ones.
    """
    generator = np.random.default_rng(seed)

    def difference(rows: np.ndarray) -> dict[str, float]:
        ours, theirs = point_metrics(z_phot[rows], z_spec[rows]), point_metrics(other[rows], z_spec[rows])
        return {name: ours[name] - theirs[name] for name in ours}

    value = difference(np.arange(len(z_spec)))
    resampled = [difference(generator.integers(len(z_spec), size=len(z_spec))) for _ in range(num_resamples)]
    out: dict[str, dict[str, float | None]] = {}
    for name in value:
        values = np.array([one[name] for one in resampled])
        error = values[np.isfinite(values)].std()
        found = {"value": float(value[name]), "error": float(error)}
        out[name] = {key: one if np.isfinite(one) else None for key, one in found.items()}
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


PAPER = (
    ("Wide ResNet", {"r2": 0.011, "bias": -0.028, "sigma_mad": 0.253, "eta": None}),
    ("CLAUDS photometric redshifts", {"r2": 0.608, "bias": 0.009, "sigma_mad": 0.059, "eta": 0.450}),
    ("TPOT on fitted latents", {"r2": 0.633, "bias": -0.024, "sigma_mad": 0.130, "eta": 0.389}),
)
"""Table 1 of M19 as printed: other data, so for reference and not for comparison."""


def paper_table() -> str:
    """Return the paper's own figures as Markdown, with what must be said about them."""
    names = ("r2", "bias", "sigma_mad", "eta")
    cells = [
        [method, *("–" if values[name] is None else f"{values[name]:.3f}" for name in names)]
        for method, values in PAPER
    ]
    lines = [
        "For reference, Table 1 of Murray, Fabbro & Yi (2019) as printed. It is on other data (CLAUDS and "
        "HSC images with spectroscopic redshifts), and its σ_MAD and η have other definitions than ours.",
        "",
        *table_lines(["method", *(HEADINGS[name] for name in names)], cells),
    ]
    return "\n".join(lines) + "\n"
