"""The process in which TPOT searches: ``python -m deepfits.redshifts.methods.tpot_worker JOB``.

TPOT starts Dask workers as separate processes. Because they are started from here, users' scripts need no
``__main__`` guard, the workers always end with this process, and the time limit can be enforced from outside.
JOB holds ``job.json`` and ``arrays.npz`` (``features``, their ``names``, ``value``); this process adds the
`TpotModel`.

The search space consists of three gradient-boosting regressors. TPOT 1.1's own space for the one of
scikit-learn, which M19 uses, contains only the losses of the classifier, so that all its pipelines fail;
hence the spaces defined here.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.config import from_mapping
from deepfits.files import read_arrays, read_json
from deepfits.redshifts import storage
from deepfits.redshifts.methods.tpot import TpotConfig, TpotModel
from deepfits.redshifts.methods.trees import TreeSum

LIBRARY_LOSSES = {
    "sklearn": {"squared": "squared_error", "absolute": "absolute_error"},
    "xgboost": {"squared": "reg:squarederror", "absolute": "reg:absoluteerror"},
    "lightgbm": {"squared": "regression", "absolute": "regression_l1"},
}
SCORERS = {"squared": "neg_mean_squared_error", "absolute": "neg_mean_absolute_error"}


def search_space(loss: str, seed: int) -> Any:
    """Return a TPOT search space of three gradient-boosting regressors."""
    from ConfigSpace import ConfigurationSpace, Float, Integer
    from lightgbm import LGBMRegressor
    from sklearn.ensemble import GradientBoostingRegressor
    from tpot.search_spaces.nodes import EstimatorNode
    from tpot.search_spaces.pipelines import ChoicePipeline
    from xgboost import XGBRegressor

    rate = {"learning_rate": Float("learning_rate", bounds=(0.01, 0.3), log=True)}
    common = {"n_estimators": Integer("n_estimators", bounds=(50, 500), log=True), **rate}
    rows = {"subsample": Float("subsample", bounds=(0.5, 1.0))}
    spaces = {
        GradientBoostingRegressor: {
            **common,
            **rows,
            "max_depth": Integer("max_depth", bounds=(2, 8)),
            "min_samples_leaf": Integer("min_samples_leaf", bounds=(1, 50), log=True),
            "max_features": Float("max_features", bounds=(0.05, 1.0), log=True),
            "loss": LIBRARY_LOSSES["sklearn"][loss],
        },
        XGBRegressor: {
            **common,
            **rows,
            "max_depth": Integer("max_depth", bounds=(2, 10)),
            "min_child_weight": Integer("min_child_weight", bounds=(1, 30), log=True),
            "colsample_bynode": Float("colsample_bynode", bounds=(0.1, 1.0)),
            "reg_lambda": Float("reg_lambda", bounds=(0.1, 30), log=True),
            "objective": LIBRARY_LOSSES["xgboost"][loss],
            "nthread": 1,
            "verbosity": 0,
        },
        LGBMRegressor: {
            **common,
            **rows,
            "subsample_freq": 1,
            "num_leaves": Integer("num_leaves", bounds=(4, 128), log=True),
            "min_child_samples": Integer("min_child_samples", bounds=(2, 60), log=True),
            "colsample_bytree": Float("colsample_bytree", bounds=(0.2, 1.0)),
            "reg_lambda": Float("reg_lambda", bounds=(0.01, 30), log=True),
            "objective": LIBRARY_LOSSES["lightgbm"][loss],
            "n_jobs": 1,
            "verbose": -1,
        },
    }
    nodes = [
        EstimatorNode(method=method, space=ConfigurationSpace({**space, "random_state": seed}))
        for method, space in spaces.items()
    ]
    return ChoicePipeline(search_spaces=nodes)


def run_search(features: np.ndarray, value: np.ndarray, config: TpotConfig) -> Any:
    """Search within the time budget; return the fitted `TPOTRegressor`."""
    from dask.distributed import Client, LocalCluster
    from tpot import TPOTRegressor

    with (
        LocalCluster(
            n_workers=config.num_threads,
            threads_per_worker=1,
            processes=True,
            memory_limit=f"{config.memory_gib}GiB",
            dashboard_address=None,
            silence_logs=40,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(_warm_up)  # so that imports do not use up the time budget
        search = TPOTRegressor(
            search_space=search_space(config.loss, config.seed),
            scorers=[SCORERS[config.loss]],
            scorers_weights=[1],
            cv=config.num_folds,
            population_size=config.population,
            generations=None,
            max_time_mins=config.minutes,
            max_eval_time_mins=max(config.minutes / 3, 1.0),
            n_jobs=config.num_threads,
            client=client,
            random_state=config.seed,
            verbose=0,
        )
        search.fit(features, value)
    return search


def _warm_up() -> None:
    """Import the libraries that pipelines need into a worker, which takes seconds."""
    import lightgbm  # noqa: F401
    import sklearn.ensemble  # noqa: F401
    import tpot  # noqa: F401
    import xgboost  # noqa: F401


def pipelines_found(search: Any) -> list[dict[str, Any]]:
    """List all evaluated pipelines: regressor, settings, loss and generation, or the reason for a failure."""
    table = search.evaluated_individuals
    score_name = search.objective_names[0]
    out = []
    for _, row in table.iterrows():
        pipeline = row["Individual"].export_pipeline()
        score = row[score_name]
        failed = row["Eval Error"] if isinstance(row["Eval Error"], str) else None
        is_scored = isinstance(score, int | float | np.number) and np.isfinite(score)
        settings = pipeline.get_params().items()
        out.append(
            {
                "regressor": type(pipeline).__name__,
                "settings": {k: v for k, v in settings if isinstance(v, str | int | float) and v == v},
                "loss": -float(score) if is_scored else None,
                "generation": int(row["Generation"]),
                "failed": failed or (None if is_scored else "not finished within the time budget"),
            }
        )
    return sorted(out, key=lambda pipeline: (pipeline["loss"] is None, pipeline["loss"] or 0.0))


def best_model(search: Any, config: TpotConfig, names: tuple[str, ...]) -> TpotModel:
    """Return the fitted regressor in a form that can be stored without pickle, and all pipelines tried."""
    pipeline = search.fitted_pipeline_
    kind = type(pipeline).__name__
    boosters = {"XGBRegressor": lambda: pipeline.get_booster(), "LGBMRegressor": lambda: pipeline.booster_}
    booster = boosters[kind]() if kind in boosters else None
    return TpotModel(
        booster=booster,
        trees=TreeSum.of(pipeline) if booster is None else None,
        kind=kind,
        names=names,
        config=config,
        pipelines=pipelines_found(search),
    )


def _end_with_parent() -> None:
    """End this process and its Dask workers as soon as the parent's end of the pipe closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main(directory: Path) -> None:
    """Run the job in `directory`."""
    path = directory / "job.json"
    config = from_mapping(TpotConfig, read_json(path), where=path)
    arrays = read_arrays(directory / "arrays.npz")
    search = run_search(arrays["features"], arrays["value"], config)
    storage.save(best_model(search, config, tuple(arrays["names"].tolist())), directory)


if __name__ == "__main__":
    _end_with_parent()
    main(Path(sys.argv[1]))
