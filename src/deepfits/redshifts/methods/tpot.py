"""TPOT restricted to gradient boosting, as in M19 §3.3: a genetic search over regressors in a fixed time.

Shapes: N objects, K features.
"""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deepfits.errors import InputError
from deepfits.files import write_json
from deepfits.progress import Progress, silent
from deepfits.redshifts import storage
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import check_width
from deepfits.redshifts.method import Estimates, Inputs, Method, Trained, Training
from deepfits.redshifts.methods.trees import TreeSum

_NOT_INSTALLED = 'TPOT is not installed; install "deepfits[redshift]", or leave the method tpot out'
_GRACE_S = 180.0
_PKG_RESOURCES = "from importlib.metadata import distribution as get_distribution\n"
"""Substitute for the module `pkg_resources`, which setuptools has dropped: TPOT's dependency stopit uses it
to look up its own version."""


@dataclass(frozen=True, kw_only=True)
class TpotConfig:
    """How long and how widely to search.

    `minutes` is the time budget of the search; starting the workers and training the best pipeline come on
    top. Workers are single-threaded processes, `num_threads` in number, of `memory_gib` each. `population` is
    the number of pipelines in a generation.
    """

    loss: str = "squared"
    minutes: float = 1.0
    population: int = 12
    num_folds: int = 3
    memory_gib: float = 2.0
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class TpotModel(Method):
    """The regressor of the best pipeline, and a list of all pipelines tried, best first.

    The regressor is `booster`, an `xgboost.Booster` or `lightgbm.Booster`, or else `trees` from scikit-learn;
    `kind` is its class name.
    """

    name: ClassVar[str] = "tpot"
    one_of: ClassVar[tuple[str, ...]] = ("latents",)  # as in M19

    booster: Any
    trees: TreeSum | None
    kind: str
    names: tuple[str, ...]
    config: TpotConfig
    pipelines: list[dict[str, Any]]

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require TPOT, and the feature set."""
        if importlib.util.find_spec("tpot") is None:
            raise InputError(_NOT_INSTALLED)
        super().check(feature_set, inputs)

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Search within the time budget."""
        options = training.options
        config = TpotConfig(
            loss=training.loss,
            minutes=options.tpot_minutes,
            seed=options.seed,
            num_threads=options.num_threads,
        )
        best = train_tpot(training.matrix, training.value, config, progress=training.progress)
        losses = {"num_pipelines": len(best.pipelines), "cross_validated_loss": best.pipelines[0]["loss"]}
        return Trained(method=best, about=losses)

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Evaluate the regressor."""
        assert features is not None
        return Estimates(point=self.point(features.values))

    def point(self, features: np.ndarray) -> np.ndarray:
        """Return point estimates, ``(N,)`` float64, for features ``(N, K)``."""
        check_width(features, len(self.names))
        features = np.asarray(features, dtype=np.float32)
        if self.trees is not None:
            return self.trees.predict(features)
        if self.kind == "XGBRegressor":
            return self.booster.inplace_predict(features).astype(np.float64)
        return self.booster.predict(features, num_threads=1)


def train_tpot(
    features: Matrix, value: np.ndarray, config: TpotConfig, *, progress: Progress = silent
) -> TpotModel:
    """Search in a separate process with a time limit; features must be finite, targets are ``(N,)``.

    Because the search ends by the clock, its result depends on the speed of the machine: the seed alone does
    not make it reproducible.
    """
    if not np.isfinite(features.values).all():
        raise InputError("TPOT's regressors need finite features; some features of these objects are missing")
    with tempfile.TemporaryDirectory(prefix="deepfits-tpot-", ignore_cleanup_errors=True) as folder:
        directory = Path(folder)
        write_json(directory / "job.json", asdict(config))
        names = np.array(features.names)
        np.savez(directory / "arrays.npz", features=features.values, names=names, value=value)
        _run_worker(directory, config, progress)
        return storage.load(TpotModel, directory)


def _run_worker(directory: Path, config: TpotConfig, progress: Progress) -> None:
    """Run the worker with a hard time limit; all its processes have ended when this returns."""
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
            [sys.executable, "-m", "deepfits.redshifts.methods.tpot_worker", str(directory)],
            stdin=subprocess.PIPE,
            stdout=handle,
            stderr=handle,
            cwd=directory,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            started = reported = time.monotonic()
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                now = min(time.monotonic(), started + 60 * config.minutes)
                task.advance(now - reported)
                reported = now
        finally:
            status = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if status == 0:
        return
    text = log.read_text(errors="replace")
    if "No module named 'tpot'" in text:
        raise InputError(_NOT_INSTALLED)
    if status is None or "No individuals" in text or "no individuals" in text:
        raise InputError(
            f"TPOT finished no pipeline within {config.minutes} minutes; give it more time, or fewer labels"
        )
    raise RuntimeError(f"TPOT failed with status {status}:\n{text[-3000:]}")
