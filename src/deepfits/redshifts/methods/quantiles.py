"""Distributions by quantile regression with XGBoost, with one set of trees for each level.

Shapes: N objects, K features, V left-out objects, Q quantile levels.

The quantiles are recalibrated by cross-validation, so that a 68% interval contains 68% of objects that were
not trained on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepfits.progress import Progress, silent
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.learning import check_width, folds, train_until
from deepfits.redshifts.pdf import AS_PREDICTED, LEVELS, mixture, pit, recalibrated, sorted_quantiles

_SETTINGS = {
    "objective": "reg:quantileerror",
    "tree_method": "hist",
    "max_bin": 64,
    "max_depth": 4,
    "eta": 0.2,
    "min_child_weight": 4,
    "subsample": 0.8,
    "colsample_bynode": 0.5,
    "verbosity": 0,
}
MAX_ROUNDS = 120
PATIENCE = 8
NUM_DRAWS = 8
NUM_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class BoostedQuantiles:
    """Trees (an `xgboost.Booster`) for quantiles from K features, in the order of `names`.

    `validation_pit`, ``(V,)``, are out-of-fold PIT values before recalibration.
    """

    booster: Any
    names: tuple[str, ...]
    validation_pit: np.ndarray

    def predict(self, features: Matrix, *, raw: bool = False) -> np.ndarray:
        """Return quantiles at `LEVELS`, ``(N, Q)``, recalibrated unless `raw`.

        If the features have errors, each distribution is the mixture over `NUM_DRAWS` perturbations of the
        features by their errors, with the same standard normal draws for every object; an error that is not
        finite counts as 0.
        """
        check_width(features.values, len(self.names))
        if features.errors is None:
            quantiles = self._raw(features.values)
        else:
            errors = np.where(np.isfinite(features.errors), features.errors, 0.0)
            half = np.random.default_rng(0).normal(size=(NUM_DRAWS // 2, 1, errors.shape[1]))
            draws = np.concatenate([half, -half])
            quantiles = mixture(np.stack([self._raw(features.values + draw * errors) for draw in draws]))
        return quantiles if raw else recalibrated(quantiles, self.validation_pit)

    def _raw(self, values: np.ndarray) -> np.ndarray:
        quantiles = self.booster.inplace_predict(np.asarray(values, dtype=np.float32))
        return sorted_quantiles(quantiles.reshape(len(values), len(LEVELS)))


def train_quantiles(
    features: Matrix, value: np.ndarray, *, seed: int = 0, num_threads: int = 1, progress: Progress = silent
) -> tuple[BoostedQuantiles, np.ndarray]:
    """Train on all objects, and recalibrate by cross-validation.

    The number of trees is set by early stopping on the first fold. A NaN feature counts as missing. Returns
    the trees, and recalibrated out-of-fold quantiles, ``(N, Q)``.
    """
    import xgboost

    parameters = {**_SETTINGS, "quantile_alpha": LEVELS.tolist(), "seed": seed, "nthread": num_threads}

    def data(rows: Any, ref: Any = None) -> Any:
        return xgboost.QuantileDMatrix(
            features.values[rows],
            label=value[rows],
            ref=ref,
            max_bin=parameters["max_bin"],
            nthread=num_threads,
        )

    out_of_fold, rounds = np.empty((len(value), len(LEVELS))), 0
    with progress("boosted quantiles", total=NUM_FOLDS, unit="folds") as task:
        for train, test in folds(len(value), NUM_FOLDS, np.random.default_rng(seed)):
            known = data(train)
            if rounds:
                booster = xgboost.train(parameters, known, num_boost_round=rounds)
            else:
                booster = train_until(
                    parameters, known, data(test, known), max_rounds=MAX_ROUNDS, patience=PATIENCE
                )
                rounds = booster.best_iteration + 1
                booster = booster[:rounds]
            trees = BoostedQuantiles(booster=booster, names=features.names, validation_pit=AS_PREDICTED)
            out_of_fold[test] = trees.predict(features.take(test), raw=True)
            task.advance()
    booster = xgboost.train(parameters, data(slice(None)), num_boost_round=round(rounds * 1.1))
    transform = np.sort(pit(out_of_fold, value))
    trees = BoostedQuantiles(booster=booster, names=features.names, validation_pit=transform)
    return trees, recalibrated(out_of_fold, transform)
