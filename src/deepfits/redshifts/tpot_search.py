"""TPOT restricted to gradient boosting, as in M19 §3.3: a genetic search over regressors in a time budget.

Shapes: N objects, K features.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json
from deepfits.progress import Progress, silent
from deepfits.redshifts.boosting import LOSSES
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.trees import TreeSum

_BEST = {
    "XGBRegressor": "best.ubj",
    "LGBMRegressor": "best.txt",
    "GradientBoostingRegressor": "best.npz",
}
_GRACE_S = 180.0
_PKG_RESOURCES = "from importlib.metadata import distribution as get_distribution\n"
"""stopit, which TPOT needs, asks `pkg_resources` for its own version; setuptools has dropped that module, so
the worker finds this one in its place."""


@dataclass(frozen=True, kw_only=True)
class TpotConfig:
    """How long and how widely to search.

    Attributes
    ----------
    minutes
        Time budget of the search; starting the workers and training the best pipeline come on top.
    population
        Pipelines in a generation.
    memory_gib
        Limit of each worker process.
    num_threads
        Worker processes, of one thread each.
    """

    loss: str = "squared"
    minutes: float = 1.0
    population: int = 12
    num_folds: int = 3
    memory_gib: float = 2.0
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"loss {self.loss!r} is unknown; choose one of {LOSSES}")
        if not self.minutes > 0:
            raise InputError(f"TPOT's time budget must be positive, not {self.minutes} minutes")


@dataclass(frozen=True, kw_only=True)
class TpotModel:
    """The best pipeline, and all that were found.

    Attributes
    ----------
    regressor
        An `xgboost.Booster`, a `lightgbm.Booster` or a `TreeSum`.
    kind
        Which regressor it was.
    pipelines
        Every pipeline with its settings and cross-validated loss, best first.
    """

    regressor: Any
    kind: str
    names: tuple[str, ...]
    config: TpotConfig
    pipelines: list[dict[str, Any]]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return estimates ``(N,)`` float64 for features ``(N, K)``."""
        if features.ndim != 2 or features.shape[1] != len(self.names):
            raise InputError(f"the model was trained on {len(self.names)} features, not {features.shape[1:]}")
        features = np.asarray(features, dtype=np.float32)
        if self.kind == "XGBRegressor":
            return self.regressor.inplace_predict(features).astype(np.float64)
        if self.kind == "LGBMRegressor":
            return self.regressor.predict(features, num_threads=1)
        return self.regressor.predict(features)

    def save(self, directory: str | Path) -> None:
        """Write ``tpot.json`` with all pipelines, and the best one in its own library's format."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / _BEST[self.kind]
        if self.kind == "LGBMRegressor":
            self.regressor.save_model(path, num_iteration=-1)
        elif self.kind == "XGBRegressor":
            self.regressor.save_model(path)
        else:
            self.regressor.save(path)
        content = {
            "best": self.kind,
            "names": list(self.names),
            "config": asdict(self.config),
            "pipelines": self.pipelines,
        }
        write_json(directory / "tpot.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> TpotModel:
        """Read back `save`."""
        directory = Path(directory)
        content = read_json(directory / "tpot.json", what="TPOT description")
        try:
            return cls(
                regressor=_load_best(directory, content["best"]),
                kind=content["best"],
                names=tuple(content["names"]),
                config=TpotConfig(**content["config"]),
                pipelines=content["pipelines"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{directory}: not a TPOT result ({error}); train again") from error


def _load_best(directory: Path, kind: str) -> Any:
    path = directory / _BEST[kind]
    if not path.exists():
        raise InputError(f"{path}: no such file, though tpot.json names it; train again")
    if kind == "XGBRegressor":
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(path)
        return booster
    if kind == "LGBMRegressor":
        import lightgbm

        return lightgbm.Booster(model_file=path)
    return TreeSum.load(path)


def train_tpot(
    features: Matrix, value: np.ndarray, config: TpotConfig, *, progress: Progress = silent
) -> TpotModel:
    """Search in a process of its own, with a time limit.

    Parameters
    ----------
    features
        Of N training objects, all finite.
    value
        ``(N,)``, the target.

    Raises
    ------
    InputError
        TPOT is not installed, or no pipeline finished within the budget.

    Notes
    -----
    A search that ends by the clock finds other pipelines on a faster machine: the seed alone does not make it
    repeatable.
    """
    if not np.isfinite(features.values).all():
        raise InputError("TPOT's regressors need finite features; a feature of these objects is missing")
    directory = Path(tempfile.mkdtemp(prefix="deepfits-tpot-"))
    try:
        write_json(directory / "job.json", asdict(config))
        np.savez(directory / "arrays.npz", features=features.values, value=value)
        _run_worker(directory, config, progress)
        content = read_json(directory / "pipelines.json", what="list of pipelines")
        return TpotModel(
            regressor=_load_best(directory, content["best"]),
            kind=content["best"],
            names=features.names,
            config=config,
            pipelines=content["pipelines"],
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run_worker(directory: Path, config: TpotConfig, progress: Progress) -> None:
    """Run the worker, with a hard limit; nothing of it is left running when this returns."""
    (directory / "pkg_resources.py").write_text(_PKG_RESOURCES)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    log = directory / "log.txt"
    deadline = time.monotonic() + 60 * config.minutes * 1.5 + _GRACE_S
    with (
        log.open("wb") as handle,
        progress("TPOT", total=60 * config.minutes, unit="s") as task,
        subprocess.Popen(
            [sys.executable, "-m", "deepfits.redshifts.tpot_worker", str(directory)],
            stdin=subprocess.PIPE,
            stdout=handle,
            stderr=handle,
            cwd=directory,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            started = told = time.monotonic()
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                now = min(time.monotonic(), started + 60 * config.minutes)
                task.advance(now - told)
                told = now
        finally:
            status = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if status == 0:
        return
    text = log.read_text(errors="replace")
    if "No module named 'tpot'" in text:
        raise InputError('TPOT is not installed; install "deepfits[redshift]", or leave the method tpot out')
    if status is None or "No individuals" in text or "no individuals" in text:
        raise InputError(
            f"TPOT finished no pipeline within {config.minutes} minutes; give it more time, or fewer labels"
        )
    raise RuntimeError(f"TPOT failed with status {status}:\n{text[-3000:]}")
