"""A training from its first step to its model, whatever interrupts it.

What lies in the model's directory while it trains: ``training.json`` (the settings), ``metrics.jsonl``,
``checkpoints/``. The model itself is written at the end, ``model.json`` last.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.files import read_json, write_json
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.progress import Progress, Task, silent
from deepfits.provenance import provenance
from deepfits.survey.store import CutoutStore
from deepfits.training.checkpoint import (
    cut_metrics,
    is_same_training,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from deepfits.training.config import TrainingConfig
from deepfits.training.data import Batches, Survey, look_over
from deepfits.training.evaluation import Evaluator
from deepfits.training.health import FitFunction
from deepfits.training.loop import Trainer
from deepfits.training.noise import NoiseSource, white_autocovariance


class Session:
    """One training in one directory.

    Parameters
    ----------
    store, out
        Where the cutouts are, and where the model goes.
    model, training
        The configuration; bands and size are taken from the store.
    name
        What the configuration is called.
    seed
        Decides everything random.
    threads
        For PyTorch, while this runs.
    fit
        How latents are fitted when the model's health is looked at; None leaves the fits out.
    """

    def __init__(
        self,
        store: Path,
        out: Path,
        model: ModelConfig,
        training: TrainingConfig,
        *,
        name: str,
        seed: int,
        threads: int | None = None,
        fit: FitFunction | None = None,
    ) -> None:
        self.store, self.out, self.name = CutoutStore(store), out, name
        self.seed, self.threads, self.fit = seed, threads, fit
        self.config = training
        self.architecture = dataclasses.replace(
            model, num_bands=len(self.store.info.bands), size=self.store.info.size
        )
        self.seconds = 0.0  # of training, earlier runs counted in

    def run(self, *, max_time: float | None = None, progress: Progress = silent) -> Path:
        """Train to the end, or until `max_time` minutes are over, and write the model."""
        if max_time is not None and not max_time > 0:
            raise InputError(f"max_time must be a positive number of minutes, not {max_time!r}")
        with using_threads(self.threads):
            survey = self._look_over(progress)
            settings = self._settings(survey)
            self._compare(settings)
            if (self.out / "model.json").exists():
                return self.out
            write_json(self.out / "training.json", settings | {"provenance": provenance()})
            trainer = self._make_trainer(survey)
            step = self._restore(trainer)
            evaluator = Evaluator(self.store, self.out, trainer, fit=self.fit, step=step)
            step = self._train(trainer, survey, evaluator, step, max_time, progress)
            self._finish(trainer, survey, evaluator, step)
        return self.out

    def _look_over(self, progress: Progress) -> Survey:
        config = self.config
        return look_over(
            self.store,
            kind=config.normalisation,
            softening_sigmas=config.softening_sigmas,
            incomplete=config.incomplete,
            seed=self.seed,
            progress=progress,
        )

    def _settings(self, survey: Survey) -> dict[str, Any]:
        return {
            "recipe": self.name,
            "model": self.architecture.to_json(),
            "training": self.config.to_json(),
            "seed": self.seed,
            "data": survey.fingerprint,
        }

    def _compare(self, settings: dict[str, Any]) -> None:
        """Refuse to go on with a training of other settings."""
        path = self.out / "training.json"
        if not path.exists():
            return
        there = read_json(path, what="training description")
        odd = [key for key, value in settings.items() if there.get(key) != value]
        if odd:
            details = [d for key in odd for d in _differences(key, there.get(key), settings[key])]
            raise InputError(
                f"{self.out}: a training with other settings is there ({'; '.join(details)}); choose another "
                "directory, or remove this one to start anew"
            )

    def _make_trainer(self, survey: Survey) -> Trainer:
        torch.manual_seed(self.seed)
        info = dataclasses.replace(self.store.info, extra={})  # files and settings stay with the store
        model = Model.make(self.architecture, info, survey.normalisation)
        config = self.config
        num_bands, size = self.architecture.num_bands, self.architecture.size
        is_correlated = config.noise == "correlated"
        autocovariance = survey.autocovariance if is_correlated else white_autocovariance(num_bands)
        return Trainer(model, config, NoiseSource(autocovariance, size), self.seed)

    def _restore(self, trainer: Trainer) -> int:
        """Return to the last checkpoint, if there is one; return the number of steps done."""
        found = load_checkpoint(self.out / "checkpoints")
        step = 0
        if found is not None:
            state, content = found
            if not is_same_training(state, trainer.state()):
                raise InputError(f"{self.out}: checkpoints of another model; remove them to start anew")
            trainer.restore(state)
            step, self.seconds = int(content["step"]), float(content["seconds"])
        cut_metrics(self.out / "metrics.jsonl", step)
        return step

    def _train(
        self,
        trainer: Trainer,
        survey: Survey,
        evaluator: Evaluator,
        step: int,
        max_time: float | None,
        progress: Progress,
    ) -> int:
        config = self.config
        batches = Batches(
            self.store, survey.rows, config.batch_size, seed=self.seed, symmetries=config.symmetries
        ).start(step)
        self.out.mkdir(parents=True, exist_ok=True)
        limit = float("inf") if max_time is None else 60 * max_time
        with (
            (self.out / "metrics.jsonl").open("a", encoding="utf-8") as metrics,
            noticing_signals() as noticed,
            progress("train", total=config.steps, unit="steps", done=step) as task,
        ):
            start = saved = time.monotonic()
            before = self.seconds
            while step < config.steps and self.seconds < limit and not evaluator.has_lost_patience:
                losses = self._step(trainer, next(batches), step, limit)
                step += 1
                now = time.monotonic()
                self.seconds = before + now - start
                self._log(metrics, task, step, losses)
                if config.evaluate_every and step % config.evaluate_every == 0:
                    task.advance(0, note=evaluator.look(step))
                if noticed or now - saved > config.checkpoint_seconds:
                    self._save(trainer, step)
                    saved = now
                if noticed:
                    raise noticed[0]
        self._save(trainer, step)
        return step

    def _step(self, trainer: Trainer, batch: Any, step: int, limit: float) -> dict[str, torch.Tensor]:
        fraction = max(step / self.config.steps, self.seconds / limit)
        try:
            return trainer.step(batch, step, fraction)
        except NonFiniteLossError as error:
            found = list_checkpoints(self.out / "checkpoints")
            last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
            raise NonFiniteLossError(
                f"{self.out}: {error}; {last}; running again goes on from it, and a lower learning_rate may "
                "avoid it"
            ) from error

    def _log(self, metrics: Any, task: Task, step: int, losses: dict[str, torch.Tensor]) -> None:
        config = self.config
        if step % config.log_every and step != config.steps:
            task.advance(1)
            return
        row = {name: float(loss) for name, loss in losses.items()}
        rate = step * config.batch_size / self.seconds
        line = {"step": step, "seconds": round(self.seconds, 2), "images_per_s": round(rate, 1), **row}
        metrics.write(json.dumps(line) + "\n")
        metrics.flush()
        task.advance(1, note=", ".join(f"{name[:4]} {loss:.3f}" for name, loss in row.items()))

    def _save(self, trainer: Trainer, step: int) -> None:
        save_checkpoint(self.out / "checkpoints", step, trainer.state(), {"seconds": self.seconds})

    def _finish(self, trainer: Trainer, survey: Survey, evaluator: Evaluator, step: int) -> None:
        model, step, metrics = evaluator.conclude(step)
        model.card = {
            "recipe": self.name,
            "training": self.config.to_json(),
            "steps": step,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "data": {
                "fingerprint": survey.fingerprint,
                "survey": self.store.info.survey,
                "num_used": survey.num_used,
                "num_complete": survey.num_complete,
                "num_incomplete": survey.num_incomplete,
                "num_held_out": survey.num_held_out,
            },
            "metrics": metrics,
            "noise_autocovariance": trainer.noise.autocovariance.tolist(),
            "provenance": provenance(),
        }
        model.save(self.out)


def _differences(key: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            f"{name} was {there.get(name)!r}, now {value!r}"
            for name, value in here.items()
            if there.get(name) != value
        ]
    return [f"{key} was {there!r}, now {here!r}"]


@contextmanager
def using_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch use `number` threads for a while."""
    before = torch.get_num_threads()
    if number is not None:
        if number < 1:
            raise InputError(f"threads must be a positive whole number, not {number!r}")
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def noticing_signals() -> Iterator[list[BaseException]]:
    """Note Ctrl-C and SIGTERM instead of breaking off in the middle of a step.

    Yields a list that stays empty until one comes, and then holds what to raise. A second Ctrl-C breaks off
    at once. Outside the main thread, where Python allows no handlers, nothing is noted.
    """
    noticed: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield noticed
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if noticed:
            raise KeyboardInterrupt
        noticed.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noticed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
