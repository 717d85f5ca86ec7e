"""The p(z) of single objects, from a run's table of redshifts.

Shapes: T objects with a redshift, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.files import content_of, read_json
from deepfits.redshifts.pdf import LEVELS
from deepfits.tables import match_identities, read_table, take_rows
from deepfits.tables.values import is_redshift_name


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Quantiles of p(z) by the method that did best on the objects left out while it learned.

    Attributes
    ----------
    method
        What it is called.
    object_id, z_spec, z_phot
        ``(T,)``.
    quantiles
        ``(T, Q)``, at `deepfits.redshifts.pdf.LEVELS`.
    """

    method: str
    object_id: np.ndarray
    z_spec: np.ndarray
    z_phot: np.ndarray
    quantiles: np.ndarray

    @classmethod
    def read(cls, directory: Path) -> Distributions | None:
        """Read them from what `redshift` wrote; None where no method gives any."""
        if not (directory / "metrics.json").exists():
            return None
        metrics = read_json(directory / "metrics.json", what="redshift metrics")
        with content_of(directory / "metrics.json", what="table of redshifts"):
            rows = [row for row in metrics["rows"] if "pdf_metrics" in row]
            if not is_redshift_name(metrics["target"]) or not rows:
                return None
            row = min(rows, key=lambda one: (one.get("left_out") or {}).get("sigma_mad", np.inf))
            own = read_table(directory / "methods" / row["key"] / "predictions.parquet")
        known = read_table(directory / "predictions.parquet", columns=["object_id", "z_spec"])
        places = match_identities(own["object_id"], known["object_id"])
        return cls(
            method=" on ".join(part for part in (row["method"], row["features"]) if part),
            object_id=own["object_id"],
            z_spec=take_rows(known["z_spec"], places),
            z_phot=own["z_phot"],
            quantiles=np.asarray(own["quantiles"], dtype=np.float64),
        )

    def of(self, object_id: Any) -> Mapping[str, Any] | None:
        """Return the density of one object as a staircase between its quantiles, None where it has none."""
        row = int(match_identities(np.array([object_id]), self.object_id)[0])
        if row < 0 or not np.isfinite(self.quantiles[row]).all():
            return None
        edges = np.sort(self.quantiles[row])
        density = np.diff(LEVELS) / np.maximum(np.diff(edges), 1e-4)
        known = {"z_spec": self.z_spec[row], "z_phot": self.z_phot[row]}
        return {
            "method": self.method,
            "edges": edges.tolist(),
            "density": density.tolist(),
            **{name: float(value) if np.isfinite(value) else None for name, value in known.items()},
        }
