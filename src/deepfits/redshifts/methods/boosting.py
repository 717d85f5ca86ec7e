"""Gradient boosting with XGBoost, tuned by cross-validation: the fast regressor for every feature set.

Shapes: N objects, K features.

Every row of a table is tuned with the same number of trials, on training and validation objects only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from deepfits.progress import Progress, silent
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import TargetScale, check_width, folds, train_until
from deepfits.redshifts.method import Estimates, Method, OutOfFold, Trained, Training
from deepfits.redshifts.methods.quantiles import BoostedQuantiles, train_quantiles

OBJECTIVES = {"squared": ("reg:squarederror", "rmse"), "absolute": ("reg:absoluteerror", "mae")}

_SPACE: dict[str, Sequence[float]] = {
    "max_depth": (3, 4, 6, 8),
    "eta": (0.05, 0.1),
    "min_child_weight": (1, 4, 12),
    "subsample": (0.6, 0.75, 0.9),
    "colsample_bynode": (0.25, 0.5, 1.0),
    "lambda": (1.0, 5.0, 20.0),
}
FIRST_TRIAL = {"max_depth": 4, "eta": 0.1, "min_child_weight": 4, "subsample": 0.8, "colsample_bynode": 0.5}


@dataclass(frozen=True, kw_only=True)
class BoostingConfig:
    """How to tune and train.

    `num_trials` settings from a fixed space are compared, the first of which is always the same. The estimate
    is the mean of `num_members` models with the best setting and different seeds, because with few labels the
    seed of a single model changes R² by several hundredths. Each fold trains at most `max_rounds` trees, and
    stops after `patience` without improvement.
    """

    loss: str = "squared"
    num_trials: int = 8
    num_folds: int = 3
    num_members: int = 5
    max_rounds: int = 1500
    patience: int = 30
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class BoostedTrees:
    """Ensemble of `xgboost.Booster` for point estimates from K features, in the order of `names`.

    `parameters` are XGBoost's, and `trials` the cross-validated loss of every setting.
    """

    boosters: tuple[Any, ...]
    names: tuple[str, ...]
    config: BoostingConfig
    parameters: dict[str, Any]
    scale: TargetScale
    trials: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return estimates ``(N,)`` float64 for features ``(N, K)``."""
        check_width(features, len(self.names))
        features = np.asarray(features, dtype=np.float32)
        members = [booster.inplace_predict(features) for booster in self.boosters]
        return self.scale.inverse(np.asarray(np.mean(members, axis=0, dtype=np.float64)))


def train_boosting(
    features: Matrix, value: np.ndarray, config: BoostingConfig, *, progress: Progress = silent
) -> tuple[BoostedTrees, np.ndarray]:
    """Tune by cross-validation, then train on all objects.

    Targets are ``(N,)``; a NaN feature counts as missing. Returns the trees, and out-of-fold estimates with
    the best setting, ``(N,)``.
    """
    import xgboost

    scale = TargetScale.learn(value, config.loss)
    target = scale.forward(value)
    generator = np.random.default_rng(config.seed)
    parts = folds(len(value), config.num_folds, generator)
    settings: list[dict[str, Any]] = [{**FIRST_TRIAL, "lambda": 1.0}]
    for _ in range(config.num_trials - 1):
        settings.append({name: generator.choice(values).item() for name, values in _SPACE.items()})
    objective, metric = OBJECTIVES[config.loss]
    fixed = {
        "objective": objective,
        "eval_metric": metric,
        **fixed_parameters(config.seed, config.num_threads),
    }
    trials = []
    with progress("tune boosted trees", total=len(settings), unit="settings") as task:
        for trial in settings:
            trials.append(_cross_validate(features.values, target, parts, trial, fixed, config))
            task.advance()
    best, out_of_fold = min(trials, key=lambda trial: trial[0]["loss"])
    parameters = {**best["settings"], **fixed}
    data = xgboost.DMatrix(features.values, label=target, nthread=config.num_threads)
    boosters = tuple(
        xgboost.train({**parameters, "seed": config.seed + number}, data, num_boost_round=best["rounds"])
        for number in range(config.num_members)
    )
    trees = BoostedTrees(
        boosters=boosters,
        names=features.names,
        config=config,
        parameters=parameters,
        scale=scale,
        trials=[trial for trial, _ in trials],
    )
    return trees, scale.inverse(out_of_fold)


def fixed_parameters(seed: int, num_threads: int) -> dict[str, Any]:
    """Return XGBoost parameters that are neither tuned nor dependent on the target."""
    return {"tree_method": "hist", "max_bin": 128, "nthread": num_threads, "seed": seed, "verbosity": 0}


def _cross_validate(
    features: np.ndarray,
    value: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    settings: dict[str, Any],
    fixed: dict[str, Any],
    config: BoostingConfig,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the settings with their loss and number of trees, and out-of-fold estimates ``(N,)``."""
    parameters = {**settings, **fixed}
    losses, rounds, out_of_fold = [], [], np.empty(len(value))
    for train, test in parts:
        booster = train_with_early_stopping(
            parameters, features, value, train, test, max_rounds=config.max_rounds, patience=config.patience
        )
        losses.append(booster.best_score ** (2 if config.loss == "squared" else 1))
        rounds.append(booster.best_iteration + 1)
        out_of_fold[test] = booster.inplace_predict(features[test], iteration_range=(0, rounds[-1]))
    # the final model is trained on more objects than each fold, and can use a few more trees
    total = max(1, round(float(np.mean(rounds)) * 1.1))
    return {"settings": settings, "loss": float(np.mean(losses)), "rounds": total}, out_of_fold


def train_with_early_stopping(
    parameters: dict[str, Any],
    features: np.ndarray,
    value: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    **limits: int,
) -> Any:
    """Train an `xgboost.Booster` on `train` rows with early stopping on `test` rows; see `train_until`."""
    import xgboost

    threads = parameters["nthread"]
    data, others = (xgboost.DMatrix(features[r], label=value[r], nthread=threads) for r in (train, test))
    return train_until(parameters, data, others, **limits)


@dataclass(frozen=True, kw_only=True)
class Boosting(Method):
    """Boosted trees for the point estimate and, if distributions are requested, for the quantiles."""

    name: ClassVar[str] = "boosting"

    trees: BoostedTrees
    quantiles: BoostedQuantiles | None = None

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Tune and train the point estimator, and train the quantiles."""
        options = training.options
        config = BoostingConfig(
            loss=training.loss,
            num_trials=options.tuning_trials,
            seed=options.seed,
            num_threads=options.num_threads,
        )
        progress = training.progress
        trees, point = train_boosting(training.matrix, training.value, config, progress=progress)
        quantiles = known = None
        if options.distributions:
            quantiles, known = train_quantiles(
                training.matrix,
                training.value,
                seed=options.seed,
                num_threads=options.num_threads,
                progress=progress,
            )
        return Trained(
            method=cls(trees=trees, quantiles=quantiles),
            out_of_fold=OutOfFold(rows=training.rows, point=point, quantiles=known),
            about={"cross_validated_loss": min(trial["loss"] for trial in trees.trials)},
        )

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return point estimates, and quantiles if they were trained."""
        assert features is not None
        quantiles = None if self.quantiles is None else self.quantiles.predict(features)
        return Estimates(point=self.trees.predict(features.values), quantiles=quantiles)
