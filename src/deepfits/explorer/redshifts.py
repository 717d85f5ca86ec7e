"""The p(z) of single objects, from a run's table of redshifts.

Shapes: T objects with a redshift, Q quantiles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.files import content_of, read_json
from deepfits.redshifts.pdf import LEVELS
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard
from deepfits.tables import match_identities, read_table, take_rows
from deepfits.tables.values import is_redshift_name


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Quantiles of p(z) by the method that did best on the objects left out while it learned.

    Attributes
    ----------
    method
        What it is called.
    directory
        Where it lies.
    object_id, z_spec, z_phot
        ``(T,)``.
    quantiles
        ``(T, Q)``, at `deepfits.redshifts.pdf.LEVELS`.
    """

    method: str
    directory: Path
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
            directory=directory / "methods" / row["key"],
            object_id=own["object_id"],
            z_spec=take_rows(known["z_spec"], places),
            z_phot=own["z_phot"],
            quantiles=np.asarray(own["quantiles"], dtype=np.float64),
        )

    def of(self, object_id: Any) -> Mapping[str, Any] | None:
        """Return the density of one object as a staircase between its quantiles, None where it has none."""
        row = int(match_identities(np.array([object_id]), self.object_id)[0])
        if row < 0:
            return None
        return self._staircase(self.quantiles[row], self.z_phot[row], self.z_spec[row])

    def predict(self, features: Mapping[str, np.ndarray], cutouts: Cutouts, info: StoreInfo) -> Any:
        """Return the same for an object that is in no table, from its features and its cutout.

        Raises
        ------
        InputError
            The method learned from something that this object does not have.
        """
        from deepfits.redshifts.predict import load_predictor, predict_table

        with tempfile.TemporaryDirectory(prefix="deepfits-") as name:
            write_shard(create_store(name, info) / shard_name(0), replace(cutouts, catalogue={}), info)
            found = predict_table(load_predictor(self.directory), dict(features), store=name)
        if "quantiles" not in found:
            return None
        return self._staircase(found["quantiles"][0].astype(float), float(found["z_phot"][0]), np.nan)

    def _staircase(self, quantiles: np.ndarray, z_phot: float, z_spec: float) -> Mapping[str, Any] | None:
        if not np.isfinite(quantiles).all():
            return None
        edges = np.sort(quantiles)
        density = np.diff(LEVELS) / np.maximum(np.diff(edges), 1e-4)
        low, high = np.interp([0.16, 0.84], LEVELS, edges)
        known = {"z_spec": z_spec, "z_phot": z_phot, "low": low, "high": high}
        return {
            "method": self.method,
            "edges": edges.tolist(),
            "density": density.tolist(),
            **{name: float(value) if np.isfinite(value) else None for name, value in known.items()},
        }
