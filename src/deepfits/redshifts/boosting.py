"""Gradient boosting with XGBoost, tuned by cross-validation: the fast regressor for every feature set.

Shapes: N objects, K features.

R² and σ_MAD trade against each other through the loss: ``squared`` serves R², ``absolute`` σ_MAD. Every row
of a table is tuned with the same number of trials, on training objects alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.images import TargetScale

OBJECTIVES = {"squared": ("reg:squarederror", "rmse"), "absolute": ("reg:absoluteerror", "mae")}
LOSSES = tuple(OBJECTIVES)

_SPACE: dict[str, Sequence[float]] = {
    "max_depth": (3, 4, 6, 8),
    "eta": (0.05, 0.1),
    "min_child_weight": (1, 4, 12),
    "subsample": (0.6, 0.75, 0.9),
    "colsample_bynode": (0.25, 0.5, 1.0),
    "lambda": (1.0, 5.0, 20.0),
}
_FIRST_TRIAL = {
    "max_depth": 4,
    "eta": 0.1,
    "min_child_weight": 4,
    "subsample": 0.8,
    "colsample_bynode": 0.5,
    "lambda": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class BoostingConfig:
    """How to tune and train.

    Attributes
    ----------
    loss
        ``"squared"`` or ``"absolute"``.
    num_trials
        Settings that are compared, drawn from a fixed space; the first is always the same sober one.
    num_folds
        Of the cross-validation.
    num_members
        Models of the best setting with different seeds, whose mean is the estimate: with few labels, the seed
        of one alone moves R² by several hundredths.
    max_rounds, patience
        Trees at most, and trees without improvement after which a fold stops.
    num_threads
        Explicit, because boosting threads that contend for cores run a hundred times slower.
    """

    loss: str = "squared"
    num_trials: int = 8
    num_folds: int = 3
    num_members: int = 5
    max_rounds: int = 1500
    patience: int = 30
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.loss not in OBJECTIVES:
            raise InputError(f"loss {self.loss!r} is unknown; choose one of {LOSSES}")
        if min(self.num_trials, self.num_members, self.num_threads) < 1 or self.num_folds < 2:
            raise InputError("boosting needs at least one trial, one member, one thread and two folds")


@dataclass(frozen=True, kw_only=True)
class BoostedTrees:
    """A trained regressor.

    Attributes
    ----------
    boosters
        The members, each an `xgboost.Booster`.
    names
        The K features in order.
    config, parameters, trials
        How it came about; `trials` has the cross-validated loss of every setting.
    scale
        Of the target.
    left_out
        ``(N,)``: what the best setting said of each training object in the cross-validation; not stored.
    """

    boosters: tuple[Any, ...]
    names: tuple[str, ...]
    config: BoostingConfig
    parameters: dict[str, Any]
    scale: TargetScale
    trials: list[dict[str, Any]] = field(default_factory=list)
    left_out: np.ndarray | None = None

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return estimates ``(N,)`` float64 for features ``(N, K)``."""
        if features.ndim != 2 or features.shape[1] != len(self.names):
            raise InputError(f"the model was trained on {len(self.names)} features, not {features.shape[1:]}")
        features = np.asarray(features, dtype=np.float32)
        answers = [one.inplace_predict(features) for one in self.boosters]
        return self.scale.inverse(np.asarray(np.mean(answers, axis=0, dtype=np.float64)))

    def save(self, directory: str | Path) -> None:
        """Write ``boosting-0.ubj`` and so on (XGBoost's format) and ``boosting.json``; none can run code."""
        directory = Path(directory)
        for number, booster in enumerate(self.boosters):
            with writing(directory / f"boosting-{number}.ubj") as temporary:
                booster.save_model(temporary)
        content = {
            "names": list(self.names),
            "config": asdict(self.config),
            "parameters": self.parameters,
            "trials": self.trials,
            "scale": asdict(self.scale),
        }
        write_json(directory / "boosting.json", content)

    @classmethod
    def load(cls, directory: str | Path, *, num_threads: int = 1) -> BoostedTrees:
        """Read back `save`."""
        import xgboost

        directory = Path(directory)
        content = read_json(directory / "boosting.json", what="boosting description")
        try:
            config = BoostingConfig(**content["config"])
            boosters = []
            for number in range(config.num_members):
                boosters.append(xgboost.Booster({"nthread": num_threads}))
                boosters[-1].load_model(directory / f"boosting-{number}.ubj")
            return cls(
                boosters=tuple(boosters),
                names=tuple(content["names"]),
                config=config,
                parameters=content["parameters"],
                scale=TargetScale(**content["scale"]),
                trials=content["trials"],
            )
        except (KeyError, TypeError, xgboost.core.XGBoostError) as error:
            raise InputError(f"{directory}: not a boosting model ({error}); train again") from error


def train_boosting(features: Matrix, value: np.ndarray, config: BoostingConfig) -> BoostedTrees:
    """Tune on cross-validation, then train on everything that is given.

    Parameters
    ----------
    features
        Of N training objects; NaN counts as missing.
    value
        ``(N,)``, the target.
    """
    import xgboost

    scale = TargetScale.learn(value, config.loss)
    target = scale.forward(value)
    generator = np.random.default_rng(config.seed)
    folds = generator.permutation(len(value)) % config.num_folds
    settings = [_FIRST_TRIAL] + [_draw(generator) for _ in range(config.num_trials - 1)]
    found = [_cross_validate(features.values, target, folds, one, config) for one in settings]
    best, left_out = min(found, key=lambda one: one[0]["loss"])
    parameters = {**best["settings"], **_fixed(config)}
    data = xgboost.DMatrix(features.values, label=target, nthread=config.num_threads)
    boosters = tuple(
        xgboost.train({**parameters, "seed": config.seed + number}, data, num_boost_round=best["rounds"])
        for number in range(config.num_members)
    )
    return BoostedTrees(
        boosters=boosters,
        names=features.names,
        config=config,
        parameters=parameters,
        scale=scale,
        trials=[trial for trial, _ in found],
        left_out=scale.inverse(left_out),
    )


def _draw(generator: np.random.Generator) -> dict[str, Any]:
    return {name: generator.choice(values).item() for name, values in _SPACE.items()}


def _fixed(config: BoostingConfig) -> dict[str, Any]:
    objective, metric = OBJECTIVES[config.loss]
    return {
        "objective": objective,
        "eval_metric": metric,
        "tree_method": "hist",
        "max_bin": 128,
        "nthread": config.num_threads,
        "seed": config.seed,
        "verbosity": 0,
    }


def _cross_validate(
    features: np.ndarray,
    value: np.ndarray,
    folds: np.ndarray,
    settings: dict[str, Any],
    config: BoostingConfig,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the settings with their loss over all folds and the number of trees to train on everything.

    And, ``(N,)``, what the trees of the other folds said of each object.
    """
    import xgboost

    losses, rounds, left_out = [], [], np.empty(len(value))
    for fold in range(config.num_folds):
        inside = folds == fold
        train = xgboost.DMatrix(features[~inside], label=value[~inside], nthread=config.num_threads)
        test = xgboost.DMatrix(features[inside], label=value[inside], nthread=config.num_threads)
        booster = xgboost.train(
            {**settings, **_fixed(config)},
            train,
            num_boost_round=config.max_rounds,
            evals=[(test, "left_out")],
            early_stopping_rounds=config.patience,
            verbose_eval=False,
        )
        losses.append(booster.best_score ** (2 if config.loss == "squared" else 1))
        rounds.append(booster.best_iteration + 1)
        last = (0, booster.best_iteration + 1)
        left_out[inside] = booster.inplace_predict(features[inside], iteration_range=last)
    # the final model sees more objects than a fold did, and stands a few more trees
    total = max(1, round(float(np.mean(rounds)) * 1.1))
    return {"settings": settings, "loss": float(np.mean(losses)), "rounds": total}, left_out
