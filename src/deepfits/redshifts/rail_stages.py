"""RAIL stages: an informer and an estimator that use fitted latents and return `qp` ensembles.

    informer = DeepfitsInformer.make_stage(name="inform", model="deepfits.pkl", columns=["latent"])
    informer.inform(training)                       # a table of latents, with a column `redshift`
    estimator = DeepfitsEstimator.make_stage(name="estimate", model=informer.get_handle("model"))
    ensemble = estimator.estimate(table).data       # a qp.Ensemble

They require ``deepfits[rail,redshift]``. The method is the boosting of `deepfits redshift`: quantiles of p(z)
from boosted trees, recalibrated by cross-validation. Columns hold lists (``latent``) or numbers.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ceci.config import StageParameter
from rail.core.common_params import SharedParams
from rail.estimation.estimator import CatEstimator
from rail.estimation.informer import CatInformer

from deepfits.errors import InputError
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.methods.quantiles import train_quantiles
from deepfits.redshifts.pdf import LEVELS, as_qp, point_estimates
from deepfits.tables.values import is_no_value

log = logging.getLogger(__name__)


def matrix_of(table: Mapping[str, Any], columns: Sequence[str]) -> Matrix:
    """Concatenate columns of a table to a feature matrix, ``(N, K)`` float32."""
    parts, names = [], []
    for name in columns:
        values = _column(table, name)
        if values.dtype == object:  # lists, as in pandas
            values = np.stack([np.asarray(value, dtype=np.float32) for value in values])
        values = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float32)
        parts.append(values)
        names += [f"{name}_{n}" for n in range(values.shape[1])] if values.shape[1] > 1 else [name]
    return Matrix(values=np.concatenate(parts, axis=1), names=tuple(names))


def _column(table: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in table:
        raise InputError(f"no column {name!r} in this table; it has {sorted(table)}")
    return np.asarray(table[name])


class DeepfitsInformer(CatInformer):
    """Learn p(z) from fitted latents or other columns.

    Redshifts that mark missing ones, such as -99, are left out, with a warning.
    """

    name = "DeepfitsInformer"
    config_options = CatInformer.config_options.copy()
    config_options.update(
        redshift_col=SharedParams.copy_param("redshift_col"),
        seed=StageParameter(int, 0, msg="seed of the cross-validation"),
        num_threads=StageParameter(int, 1, msg="number of threads"),
        columns=StageParameter(list, ["latent"], msg="columns to learn from: lists of numbers, or numbers"),
    )

    def run(self) -> None:
        """Train, and store the trees as the model."""
        table = self._convert_table_format(self.get_data("input"))
        features = matrix_of(table, self.config.columns)
        redshift = _column(table, self.config.redshift_col).astype(np.float64)
        is_code = is_no_value(redshift, is_redshift=True)
        if is_code.any():
            log.warning(
                "WARNING: %d of %d values of %r mark missing redshifts (such as -99) and are left out",
                *(is_code.sum(), len(redshift), self.config.redshift_col),
            )
        usable = np.isfinite(features.values).all(axis=1) & np.isfinite(redshift) & ~is_code
        if usable.sum() < 2 * len(features.names):
            raise InputError(f"{usable.sum()} objects with a redshift and a latent are too few to learn from")
        kept = Matrix(values=features.values[usable], names=features.names)
        quantiles, _ = train_quantiles(
            kept, redshift[usable], seed=self.config.seed, num_threads=self.config.num_threads
        )
        self.model = {
            "columns": list(self.config.columns),
            "quantiles": quantiles,
            "prior": np.quantile(redshift[usable], LEVELS),
        }
        self.add_data("model", self.model)


class DeepfitsEstimator(CatEstimator):
    """Estimate p(z) of each object as quantiles.

    Objects with a non-finite feature, such as those without a latent, have the redshift distribution of the
    training labels and no `zmode` (NaN). Their number is logged.
    """

    name = "DeepfitsEstimator"
    config_options = CatEstimator.config_options.copy()

    def _process_chunk(self, start: int, end: int, data: Any, first: bool) -> None:
        table = self._convert_table_format(data)
        features = matrix_of(table, self.model["columns"])
        quantiles = self.model["quantiles"].predict(features)
        is_unknown = ~np.isfinite(features.values).all(axis=1)
        quantiles[is_unknown] = self.model["prior"]
        if is_unknown.any():
            names = ", ".join(self.model["columns"])
            log.warning(
                "WARNING: %d of objects %d to %d lack a value in %s: their p(z) is the distribution of all "
                "training redshifts, and their zmode is NaN",
                *(is_unknown.sum(), start, end, names),
            )
        ensemble = as_qp(quantiles)
        mode = np.where(is_unknown, np.nan, point_estimates(quantiles)["z_mode"])
        ensemble.set_ancil({"zmode": mode[:, None]})
        self._do_chunk_output(ensemble, start, end, first, data=table)
