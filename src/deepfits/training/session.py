"""Resumable training sessions, from the first step to the finished model.

During training the model's directory contains ``training.json`` (the settings), ``metrics.jsonl`` and
``checkpoints/``. The model itself is written at the end, ``model.json`` last.
"""

import dataclasses
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deepfits.config import convert
from deepfits.errors import InputError, NonFiniteLossError, is_out_of_memory
from deepfits.files import write_json, write_text
from deepfits.models.bundle import Model
from deepfits.models.card import describe
from deepfits.models.layers import ModelConfig
from deepfits.processes import torch_threads
from deepfits.progress import Progress, silent
from deepfits.provenance import provenance
from deepfits.survey.store import CutoutStore
from deepfits.tables.conditions import as_conditions
from deepfits.training.checkpoint import is_same_training, list_checkpoints, load_checkpoint, save_checkpoint
from deepfits.training.config import TrainingConfig
from deepfits.training.data import (
    Batch,
    Batches,
    MixedBatches,
    TrainingSet,
    measure_for_scenes,
    measure_training_set,
)
from deepfits.training.engine import make_engine
from deepfits.training.evaluation import Evaluator
from deepfits.training.loop import Trainer
from deepfits.training.model_error import measure_model_error
from deepfits.training.noise import NoiseSource, white_autocovariance
from deepfits.training.records import Recorder
from deepfits.training.settings import EngineSettings, TrainingSettings

MEMORY_BYTES = 4e9  # of images held at once, over all stores
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan(TrainingSettings):
    """Complete specification of a training: inputs, outputs, configuration and settings."""

    store: Sequence[Path]  # cutouts; several stores train a generator of scenes
    out: Path  # the model's directory
    model: ModelConfig  # number of bands and size are taken from the store
    training: TrainingConfig
    # Conditions on the stores' catalogues; only objects that satisfy them are used.
    where: str | Sequence[str] | None = None
    name: str
    engine: EngineSettings


class Session:
    """A training in one directory, as specified by a `TrainingPlan`."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan, self.config, self.out = plan, plan.training, plan.out
        self.stores = [CutoutStore(path, where=plan.where) for path in plan.store]
        self.store = self.stores[0]
        self.base = Model.load(plan.embedder_only) if plan.embedder_only is not None else None
        if self.base is not None:
            for store in self.stores:
                self.base.check(store.info, to_train=True)
        self.grid = self.base.grid if self.base is not None else self.config.grid
        self._check_stores()
        self.architecture = dataclasses.replace(
            self.base.config if self.base else plan.model,
            num_bands=len(self.store.info.bands),
            size=self.store.info.size if self.grid is None else self.grid.size,
        )
        self.seconds = 0.0  # training time, including earlier runs

    def _check_stores(self) -> None:
        """Raise if the stores cannot be used to train one model."""
        if self.base is None and self.plan.model.sees_observation and self.grid is None:
            raise InputError(
                "sees_observation requires a model of scenes: also set reference_fwhm_arcsec, or set "
                "sees_observation=false"
            )
        if len(self.stores) > 1 and self.grid is None:
            raise InputError(
                "training on several stores requires a model of scenes: choose the recipe 'scene', or set "
                "reference_fwhm_arcsec"
            )
        for store in self.stores[1:]:
            if store.info.bands != self.store.info.bands:
                raise InputError(
                    f"{store.directory}: bands {'-'.join(store.info.bands)}, but {self.store.directory} has "
                    f"{'-'.join(self.store.info.bands)}; make the cutouts again with the same bands in the "
                    "same order (a band without data gets weight 0)"
                )

    def _warn_of_small_scenes(self) -> None:
        """Warn of cutouts larger than the scenes to be learned, before the time is spent on training."""
        if self.base is not None or self.grid is None:  # `Model.check` refuses them for a finished model
            return
        factor = 2 ** (self.architecture.num_blocks + 1)  # of which the side must be a multiple
        scene = self.grid.size * self.grid.pixel_scale_arcsec
        for store in self.stores:
            pixel = store.info.pixel_scale_arcsec
            side = store.info.size * pixel
            if side > scene + pixel:
                size = factor * math.ceil(round(side / self.grid.pixel_scale_arcsec / factor, 3))
                log.warning(
                    "WARNING: %s: %.1f arcsec a side, but the scenes have %.1f, and fits will not use pixels "
                    "outside; for galaxies that are larger, set scene_size=%d or larger scene_pixel_arcsec",
                    *(store.directory, side, scene, size),
                )

    def run(self, *, max_time: float | None = None, progress: Progress = silent) -> Path:
        """Train to the end, or for at most `max_time` minutes, and write the model."""
        with torch_threads(self.plan.threads):
            if (self.out / "model.json").exists():  # finished; the stage has checked its inputs
                self._warn_of_more_time(max_time)
                return self.out
            self._warn_of_small_scenes()
            surveys = self._measure_stores(progress)
            self.engine = make_engine(self.plan.engine)
            if self.config.batch_size % self.engine.num_processes:
                raise InputError(
                    f"batch_size {self.config.batch_size} cannot be shared by {self.engine.num_processes} "
                    "processes; choose a multiple"
                )
            batches = self._batches(surveys)
            if self.engine.rank:
                progress = silent
            else:
                write_json(self.out / "training.json", self._settings(surveys))
            self.trainer = self._make_trainer(surveys)
            step = self._restore()
            evaluator = Evaluator(self.store, self.out, self.trainer, step=step, writes=not self.engine.rank)
            try:
                step = self._train(batches.start(step), evaluator, step, max_time, progress)
            except InputError:  # the remedy is another setting, which must not be refused as another training
                self._forget_unless_begun()
                raise
            self._finish(surveys, evaluator, step, progress)
        return self.out

    def _forget_unless_begun(self) -> None:
        """Remove what was written before the first step, if there is no checkpoint yet."""
        if not list_checkpoints(self.out / "checkpoints"):
            shutil.rmtree(self.out / "tensorboard", ignore_errors=True)
            for name in ("training.json", "metrics.jsonl"):
                (self.out / name).unlink(missing_ok=True)

    def _warn_of_more_time(self, max_time: float | None) -> None:
        """Warn that a training that ended by its time limit is not continued with a longer one."""
        card = Model.load(self.out).card
        if max_time is not None and card["steps"] < self.config.steps and card["seconds"] < 60 * max_time:
            log.warning(
                "WARNING: %s: is finished, after %.1f minutes; to train longer, choose another output",
                *(self.out, card["seconds"] / 60),
            )

    def _measure_stores(self, progress: Progress) -> list[TrainingSet]:
        """Measure each store's training set; all get the same normalisation."""
        config = self.config
        surveys = [
            measure_training_set(
                store,
                kind=config.normalisation,
                softening_sigmas=config.softening_sigmas,
                incomplete=config.incomplete,
                seed=self.plan.seed,
                progress=progress,
            )
            for store in self.stores
        ]
        if self.base is not None:
            common = self.base.normalisation
        elif self.grid is not None:
            common = measure_for_scenes(
                self.stores, surveys, self.grid, softening_sigmas=config.softening_sigmas, seed=self.plan.seed
            )
        else:
            return surveys
        return [dataclasses.replace(survey, normalisation=common) for survey in surveys]

    def _settings(self, surveys: list[TrainingSet]) -> dict[str, Any]:
        return {
            "recipe": self.plan.name,
            "model": self.architecture.to_json(),
            "training": self.config.to_json(),
            "seed": self.plan.seed,
            "embedder_of": self.base.fingerprint if self.base else None,
            **({} if self.plan.where is None else {"where": list(as_conditions(self.plan.where))}),
            "data": "-".join(survey.fingerprint for survey in surveys),
            "provenance": provenance(),
        }

    def _make_trainer(self, surveys: list[TrainingSet]) -> Trainer:
        torch.manual_seed(self.plan.seed)
        info = dataclasses.replace(self.store.info, extra={})  # drop the store's files and settings
        reference = None if self.grid is None else self.grid.reference_fwhm_arcsec
        if self.grid is not None:
            info = dataclasses.replace(
                info,
                size=self.grid.size,
                pixel_scale_arcsec=self.grid.pixel_scale_arcsec,
                fwhm_arcsec=(self.grid.reference_fwhm_arcsec,) * len(info.bands),
                survey=" + ".join(dict.fromkeys(s.info.survey for s in self.stores if s.info.survey)),
                noise_correlation=(),
            )
        model = Model.make(self.architecture, info, surveys[0].normalisation, reference)
        if self.base is not None:
            model.generator.load_state_dict(self.base.generator.state_dict())
            model.discriminator.load_state_dict(self.base.discriminator.state_dict())
            if self.config.refine:
                model.embedder.load_state_dict(self.base.embedder.state_dict())
        white = white_autocovariance(self.architecture.num_bands)
        is_correlated = self.config.noise == "correlated"
        noise = [
            NoiseSource(survey.autocovariance if is_correlated else white, store.info.size)
            for survey, store in zip(surveys, self.stores, strict=True)
        ]
        return Trainer(model, self.config, noise, self.plan.seed, self.engine)

    def _restore(self) -> int:
        """Restore the last checkpoint, if there is one; return the number of steps done."""
        where = self.out / "checkpoints"
        checkpoint = load_checkpoint(where, clean=not self.engine.rank)
        if checkpoint is None:
            return 0
        state, content = checkpoint
        if not is_same_training(state, self.trainer.state()):
            raise InputError(f"{self.out}: checkpoints of another model; remove them to start over")
        self.trainer.restore(state)
        self.seconds = convert(content.get("seconds"), float, where=where, key="seconds")
        return convert(content.get("step"), int, where=where, key="step")

    def _batches(self, surveys: list[TrainingSet]) -> MixedBatches:
        config = self.config
        parts = [
            Batches(
                store,
                survey.rows,
                config.batch_size,
                seed=self.plan.seed,
                symmetries=config.symmetries,
                device=self.engine.device,
                memory_bytes=MEMORY_BYTES / len(self.stores),
                grid=self.grid,
                mask_neighbours=config.neighbours == "mask",
            )
            for store, survey in zip(self.stores, surveys, strict=True)
        ]
        return MixedBatches(parts, self.plan.seed)

    def _train(
        self,
        batches: Iterator[tuple[int, Batch]],
        evaluator: Evaluator,
        step: int,
        max_time: float | None,
        progress: Progress,
    ) -> int:
        config = self.config
        limit = float("inf") if max_time is None else 60 * max_time
        total: dict[str, Any] = {"total": config.steps, "unit": "steps", "done": step}
        if max_time is not None:
            total = {"total": limit, "unit": "s", "done": self.seconds}
        recording: AbstractContextManager[Recorder | None] = nullcontext()
        if not self.engine.rank:
            recording = Recorder(self.out, step, tensorboard=self.plan.tensorboard, tracker=self.plan.tracker)
        with recording as recorder, deferring_signals() as pending, progress("train", **total) as task:
            start = saved = time.monotonic()
            before = self.seconds
            while step < config.steps and self.seconds < limit and not evaluator.should_stop_early:
                store, batch = next(batches)
                losses = self._step(batch, step, limit, store)
                step += 1
                now, last = time.monotonic(), self.seconds
                self.seconds = before + now - start
                task.advance(
                    1 if max_time is None else self.seconds - last, self._log(recorder, step, losses)
                )
                if config.evaluate_every and step % config.evaluate_every == 0:
                    task.advance(0, note=evaluator.evaluate(step))
                    if recorder is not None and evaluator.history:
                        recorder.show("health", evaluator.history[-1])
                # All processes must react to a signal in the same step, or the others would wait forever.
                agreed = self.engine.average(torch.tensor([self.seconds, float(len(pending))]))
                self.seconds, is_stopped = float(agreed[0]), float(agreed[1]) > 0
                if is_stopped or now - saved > config.checkpoint_seconds:
                    self._save(step)
                    saved = now
                if is_stopped:
                    raise pending[0] if pending else SystemExit(128 + signal.SIGTERM)
        self._save(step)
        return step

    def _step(self, batch: Batch, step: int, limit: float, store: int) -> dict[str, torch.Tensor]:
        fraction = max(step / self.config.steps, self.seconds / limit)
        improve = self.trainer.step_embedder if self.base is not None else self.trainer.step
        try:
            return improve(batch, step, fraction, store=store)
        except NonFiniteLossError as error:
            kept = list_checkpoints(self.out / "checkpoints")
            last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
            raise NonFiniteLossError(
                f"{self.out}: {error}; {last}; a new run resumes from there, and a lower learning_rate may "
                "help"
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = f"{self.out}: a batch of {self.config.batch_size} does not fit in memory"
        raise InputError(
            f"{message}; {advise_batch_size(lambda b: improve(b, step, fraction, store=store), batch)}"
        )

    def _log(self, recorder: Recorder | None, step: int, losses: dict[str, torch.Tensor]) -> str:
        """Record the losses every `log_every` steps; return a note for the progress bar."""
        config = self.config
        if step % config.log_every and step != config.steps:
            return ""
        row = {name: float(loss) for name, loss in losses.items()}
        rate = step * config.batch_size / self.seconds
        timing = {"seconds": round(self.seconds, 2), "images_per_s": round(rate, 1)}
        if recorder is not None:
            recorder.write({"step": step, **timing, **row})
        note = ", ".join(f"{name[:4]} {loss:.3f}" for name, loss in row.items())
        return f"step {step:,}, {rate:,.0f} images/s, {note}"

    def _save(self, step: int) -> None:
        if not self.engine.rank:
            save_checkpoint(self.out / "checkpoints", step, self.trainer.state(), {"seconds": self.seconds})

    def _finish(
        self, surveys: list[TrainingSet], evaluator: Evaluator, step: int, progress: Progress
    ) -> None:
        if self.engine.rank:
            return
        with progress("evaluate", total=1, unit="model") as task:
            model, step, metrics = evaluator.choose_model(step)
            task.advance(1)
        model.model_error = measure_model_error(model, self.plan.store, progress)
        counted = ("num_used", "num_complete", "num_incomplete", "num_held_out")
        model.card = {
            "recipe": self.plan.name,
            "training": self.config.to_json(),
            "engine": dataclasses.asdict(self.plan.engine) | {"num_processes": self.engine.num_processes},
            "steps": step,
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 1),
            "embedder_of": self.base.fingerprint if self.base else None,
            "data": {
                "fingerprint": "-".join(survey.fingerprint for survey in surveys),
                "survey": self.trainer.model.info.survey,
                "stores": [str(store.directory) for store in self.stores],
                "where": None if self.plan.where is None else list(as_conditions(self.plan.where)),
                **{name: sum(getattr(survey, name) for survey in surveys) for name in counted},
            },
            "metrics": metrics,
            "noise_autocovariance": self.trainer.noise.autocovariance.tolist(),
            "provenance": provenance(),
        }
        write_text(self.out / "README.md", describe(model, f"Model `{self.out.name}`"))
        model.save(self.out)


def advise_batch_size(improve: Callable[[Batch], Any], batch: Batch) -> str:
    """Halve the batch until it fits, and return advice for the error message."""
    size = len(batch) // 2
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            improve(batch.take(slice(size)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
        else:
            return f"batch_size={size} fits"
    return "not even a single image fits: choose a smaller width"


@contextmanager
def deferring_signals() -> Iterator[list[BaseException]]:
    """Defer Ctrl-C and SIGTERM until the current step is complete.

    Yields a list that is empty until a signal arrives, and then holds the exception to raise. A second signal
    interrupts at once. Outside the main thread, where Python does not allow signal handlers, nothing is
    deferred.
    """
    pending: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
