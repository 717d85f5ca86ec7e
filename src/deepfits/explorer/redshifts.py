"""Redshift distributions p(z) of single objects, from a run's redshift table or from predictions.

Shapes: T objects with a redshift, Q quantiles.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.files import contents, read_json, reading_record
from deepfits.redshifts.head import HEAD, head_directory
from deepfits.redshifts.pdf import LEVELS
from deepfits.redshifts.predict import load_predictor, predict_table
from deepfits.results import read_record
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard
from deepfits.tables import match_identities, read_table, take_rows, with_list
from deepfits.tables.values import is_redshift_name


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Quantiles of p(z), ``(T, Q)``, by the method that did best on objects left out of its training.

    `find_model` returns the directory of the redshift model, or None if it is unknown.
    """

    method: str
    find_model: Callable[[], Path | None]
    object_id: np.ndarray
    z_spec: np.ndarray
    z_phot: np.ndarray
    quantiles: np.ndarray

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the results of `redshift`; None if no method has distributions."""
        metrics = read_json(directory / "metrics.json", what="redshift metrics")
        with reading_record(directory / "metrics.json", what="table of redshifts"):
            rows = [row for row in metrics["rows"] if "pdf_metrics" in row]
            if not is_redshift_name(metrics["target"]) or not rows:
                return None
            row = min(rows, key=lambda row: (row.get("left_out") or {}).get("sigma_mad", np.inf))
            own = read_table(directory / "methods" / row["key"] / "predictions.parquet")
        known = read_table(directory / "predictions.parquet", columns=["object_id", "z_spec"])
        places = match_identities(own["object_id"], known["object_id"])
        return cls(
            method=" on ".join(part for part in (row["method"], row["features"]) if part),
            find_model=lambda: directory / "methods" / row["key"],
            object_id=own["object_id"],
            z_spec=take_rows(known["z_spec"], places),
            z_phot=own["z_phot"],
            quantiles=np.asarray(own["quantiles"], dtype=np.float64),
        )

    @classmethod
    def of_predictions(cls, path: Path, find_model: Callable[[], Path | None]) -> Self | None:
        """Read a table written by `redshift predict`; None if it has no distributions."""
        own = with_list(read_table(path), "quantiles")
        has_all = {"object_id", "quantiles", "z_phot"} <= own.keys()
        if not has_all or own["quantiles"].shape[1:] != LEVELS.shape:
            return None
        return cls(
            method=path.name,
            find_model=find_model,
            object_id=own["object_id"],
            z_spec=np.full(len(own["object_id"]), np.nan),
            z_phot=own["z_phot"],
            quantiles=np.asarray(own["quantiles"], dtype=np.float64),
        )

    def of(self, object_id: Any) -> Mapping[str, Any] | None:
        """Return the p(z) of one object, constant between its quantiles; None if it has none."""
        row = int(match_identities(np.array([object_id]), self.object_id)[0])
        return None if row < 0 else self._staircase(self.quantiles[row], self.z_phot[row], self.z_spec[row])

    def predict(self, features: Mapping[str, np.ndarray], cutouts: Cutouts, info: StoreInfo) -> Any:
        """Predict p(z) of a new object from its features and its cutout."""
        if (model := self.find_model()) is None:
            raise InputError(f"the model that predicted {self.method} is not in the run")
        with tempfile.TemporaryDirectory(prefix="deepfits-") as name:
            write_shard(create_store(name, info) / shard_name(0), replace(cutouts, catalogue={}), info)
            predicted = predict_table(load_predictor(model), dict(features), store=name)
        if "quantiles" not in predicted:
            return None
        return self._staircase(predicted["quantiles"][0].astype(float), float(predicted["z_phot"][0]), np.nan)

    def _staircase(self, quantiles: np.ndarray, z_phot: float, z_spec: float) -> Mapping[str, Any] | None:
        if not np.isfinite(quantiles).all():
            return None
        edges = np.sort(quantiles)
        density = np.diff(LEVELS) / np.maximum(np.diff(edges), 1e-4)
        low, high = np.interp([0.16, 0.84], LEVELS, edges)
        known = {"z_spec": z_spec, "z_phot": z_phot, "low": low, "high": high}
        numbers = {name: float(value) if np.isfinite(value) else None for name, value in known.items()}
        return {"method": self.method, "edges": edges.tolist(), "density": density.tolist(), **numbers}


def find_distributions(home: Path, tables: Mapping[str, Path], model_hash: str | None) -> list[Distributions]:
    """Return the p(z) of the objects of the run `home` from tables of predictions, in the tables' order.

    `find_parts` in `deepfits.explorer.joined` puts methods that were tested on labelled objects first.
    """
    distributions = []
    for path in tables.values():
        if path.name == "predictions.parquet" and (path.parent / "metrics.json").exists():
            distributions.append(Distributions.read(path.parent))
        else:
            find = partial(_find_model, path, home, model_hash)
            distributions.append(Distributions.of_predictions(path, find))
    return [distribution for distribution in distributions if distribution is not None]


def _find_model(predictions: Path, home: Path, model_hash: str | None) -> Path | None:
    """Find the redshift model by its contents: in the run, or the head shipped with the features' model."""
    made_with = read_record(predictions).get("inputs", {}).get("model")
    places = [path.parent for name in ("predictor.json", HEAD) for path in home.rglob(name)]
    with suppress(InputError):
        places += [head_directory(model_hash)] if model_hash else []
    return next((place for place in places if contents(place) == made_with), None)
