"""Differences between the metrics of two methods on the same objects, with their own errors.

The errors of two rows of a table must not be combined in quadrature: they are correlated, because the same
held-out objects are difficult for both methods.
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
        Pairs of row keys: ours, and the one to compare with.

    Returns
    -------
    list
        ``{"ours": key, "other": key, "num": N, "metrics": {name: {"value", "error"}}}`` for each pair, where
        the value is our metric minus the other. Objects without an estimate from both are excluded.

    Raises
    ------
    InputError
        A key without a row in the directory.
    """
    path = Path(directory) / "predictions.parquet"
    columns = read_table(path, what="predictions")
    truth = require_column(columns, "z_spec", path)
    out = []
    for ours, other in pairs:
        first, second = (
            require_column(columns, f"z_phot_{key.replace('-', '_')}", path) for key in (ours, other)
        )
        is_valid = np.isfinite(first) & np.isfinite(second)
        metrics = measured_difference(
            first[is_valid], second[is_valid], truth[is_valid], num_resamples=num_resamples
        )
        out.append({"ours": ours, "other": other, "num": int(is_valid.sum()), "metrics": metrics})
    return out


def measured_difference(
    z_phot: np.ndarray, other: np.ndarray, z_spec: np.ndarray, *, num_resamples: int = 300, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of `z_phot` minus those of `other`, on the same objects; all arrays are ``(N,)``.

    The error is the scatter of the difference over bootstrap resamples that both estimates share. It is
    smaller than for independent metrics, since the same objects are difficult for both.
    """
    generator = np.random.default_rng(seed)

    def difference(rows: np.ndarray) -> dict[str, float]:
        ours, theirs = point_metrics(z_phot[rows], z_spec[rows]), point_metrics(other[rows], z_spec[rows])
        return {name: ours[name] - theirs[name] for name in ours}

    value = difference(np.arange(len(z_spec)))
    resampled = [difference(generator.integers(len(z_spec), size=len(z_spec))) for _ in range(num_resamples)]
    out: dict[str, dict[str, float | None]] = {}
    for name in value:
        values = np.array([differences[name] for differences in resampled])
        error = values[np.isfinite(values)].std()
        entry = {"value": float(value[name]), "error": float(error)}
        out[name] = {key: number if np.isfinite(number) else None for key, number in entry.items()}
    return out


def paired_table(differences: Sequence[Mapping[str, Any]]) -> str:
    """Return the differences as a Markdown table."""
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
"""Table 1 of M19 as published. It uses other data, so it is for reference, not for comparison."""


def paper_table() -> str:
    """Return Table 1 of the paper as Markdown, with the caveats of a comparison."""
    names = ("r2", "bias", "sigma_mad", "eta")
    cells = [
        [method, *("–" if values[name] is None else f"{values[name]:.3f}" for name in names)]
        for method, values in PAPER
    ]
    lines = [
        "For reference, Table 1 of Murray, Fabbro & Yi (2019) as published. It is based on other data "
        "(CLAUDS and HSC images, spectroscopic redshifts), and defines σ_MAD and η differently.",
        "",
        *table_lines(["method", *(HEADINGS[name] for name in names)], cells),
    ]
    return "\n".join(lines) + "\n"
