"""Distributions by quantile boosting: XGBoost with one set of trees for each level.

Shapes: N objects, K features, Q levels.

The trees are recalibrated by cross-validation: the interval that says 68% is made to hold 68% of objects that
trees have not learned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.pdf import LEVELS, mixture, pit, recalibrated, sorted_quantiles

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


@dataclass(frozen=True, kw_only=True)
class BoostedQuantiles:
    """Trained trees, and PIT values of objects that were left out, before recalibration.

    Attributes
    ----------
    booster
        The `xgboost.Booster`.
    names
        The K features in order.
    validation_pit
        ``(V,)``.
    left_out
        ``(N, Q)``: what the cross-validation said of each training object; not stored.
    """

    booster: Any
    names: tuple[str, ...]
    validation_pit: np.ndarray
    left_out: np.ndarray | None = None

    def predict(
        self, features: np.ndarray, spread: np.ndarray | None = None, *, raw: bool = False
    ) -> np.ndarray:
        """Return quantiles at `LEVELS`, ``(N, Q)``, recalibrated unless `raw`.

        Parameters
        ----------
        features
            ``(N, K)``.
        spread
            ``(N, K)``: the features' own standard deviations (0 or NaN: exact). With them each distribution
            is the mixture over `NUM_DRAWS` draws of the features, the same draws for every object.
        """
        if features.ndim != 2 or features.shape[1] != len(self.names):
            raise InputError(f"the model was trained on {len(self.names)} features, not {features.shape[1:]}")
        if spread is None:
            quantiles = self._raw(features)
        else:
            spread = np.where(np.isfinite(spread), spread, 0.0)
            half = np.random.default_rng(0).normal(size=(NUM_DRAWS // 2, 1, features.shape[1]))
            draws = np.concatenate([half, -half])
            quantiles = mixture(np.stack([self._raw(features + draw * spread) for draw in draws]))
        return quantiles if raw else recalibrated(quantiles, self.validation_pit)

    def _raw(self, features: np.ndarray) -> np.ndarray:
        found = self.booster.inplace_predict(np.asarray(features, dtype=np.float32))
        return sorted_quantiles(found.reshape(len(features), len(LEVELS)))

    def save(self, directory: str | Path) -> None:
        """Write ``quantiles.ubj`` and ``quantiles.json``."""
        directory = Path(directory)
        with writing(directory / "quantiles.ubj") as temporary:
            self.booster.save_model(temporary)
        content = {"names": list(self.names), "validation_pit": self.validation_pit.tolist()}
        write_json(directory / "quantiles.json", {**content, "levels": LEVELS.tolist()})

    @classmethod
    def load(cls, directory: str | Path, *, num_threads: int = 1) -> BoostedQuantiles:
        """Read back `save`."""
        import xgboost

        directory = Path(directory)
        content = read_json(directory / "quantiles.json", what="description of quantiles")
        booster = xgboost.Booster({"nthread": num_threads})
        try:
            booster.load_model(directory / "quantiles.ubj")
            names, validation_pit = tuple(content["names"]), np.array(content["validation_pit"])
        except (KeyError, TypeError, ValueError, xgboost.core.XGBoostError) as error:
            raise InputError(f"{directory}: not a quantile model ({error}); train again") from error
        if content.get("levels") != LEVELS.tolist():
            raise InputError(f"{directory}: quantiles at other levels than this version's; train again")
        return cls(booster=booster, names=names, validation_pit=validation_pit)


def train_quantiles(
    features: Matrix,
    value: np.ndarray,
    *,
    spread: np.ndarray | None = None,
    num_folds: int = 3,
    seed: int = 0,
    num_threads: int = 1,
) -> BoostedQuantiles:
    """Train on all objects, and recalibrate by what trees say of objects that they have not learned from.

    In a cross-validation each object gets its PIT from trees of the other folds; the first fold also says
    when to stop. The trees that are kept learn from everything.

    Parameters
    ----------
    features, value
        Of N training objects; NaN counts as missing.
    spread
        The features' uncertainties, ``(N, K)``, when later predictions come with theirs.
    """
    parameters = {**_SETTINGS, "quantile_alpha": LEVELS.tolist(), "seed": seed, "nthread": num_threads}
    folds = np.random.default_rng(seed).permutation(len(value)) % num_folds
    found = np.empty((len(value), len(LEVELS)))
    rounds: int | None = None
    for fold in range(num_folds):
        left_out = folds == fold
        booster, rounds = _train(parameters, features.values, value, ~left_out, rounds)
        trees = BoostedQuantiles(booster=booster, names=features.names, validation_pit=LEVELS)
        part = None if spread is None else spread[left_out]
        found[left_out] = trees.predict(features.values[left_out], part, raw=True)
    assert rounds is not None
    everything = np.ones(len(value), dtype=bool)
    booster, _ = _train(parameters, features.values, value, everything, round(rounds * 1.1))
    transform = np.sort(pit(found, value))
    return BoostedQuantiles(booster=booster, names=features.names, validation_pit=transform, left_out=found)


def _train(
    parameters: dict[str, Any],
    features: np.ndarray,
    value: np.ndarray,
    which: np.ndarray,
    rounds: int | None,
) -> tuple[Any, int]:
    """Train on the objects that `which` picks; without `rounds`, the others say when to stop."""
    import xgboost

    threads = parameters["nthread"]
    data = xgboost.QuantileDMatrix(features[which], label=value[which], max_bin=64, nthread=threads)
    if rounds is not None:
        return xgboost.train(parameters, data, num_boost_round=rounds), rounds
    others = xgboost.QuantileDMatrix(
        features[~which], label=value[~which], ref=data, max_bin=64, nthread=threads
    )
    booster = xgboost.train(
        parameters,
        data,
        num_boost_round=MAX_ROUNDS,
        evals=[(others, "left_out")],
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
    )
    rounds = booster.best_iteration + 1
    return booster[:rounds], rounds
