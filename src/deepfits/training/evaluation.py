"""Evaluation of a model during training: diagnostics, their files, and the choice of the best model."""

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.files import writing
from deepfits.models.bundle import Model
from deepfits.pictures import noise_per_band, png, strip
from deepfits.splits import is_held_out
from deepfits.survey.normalise import is_complete
from deepfits.survey.store import Cutouts, CutoutStore, join_cutouts
from deepfits.training.checkpoint import cut_metrics, kept_rows
from deepfits.training.data import Batch
from deepfits.training.health import draw_observed, examine, fit_briefly, make_panel
from deepfits.training.loop import Trainer
from deepfits.training.shapes import compare_shapes, measure_shapes


class Evaluator:
    """Evaluate the model at intervals, on held-out cutouts.

    The model's directory receives ``evaluations.jsonl``, images ``panels/step-00001000.png`` (if Pillow is
    installed) and, with patience, the best model so far in ``best/``. Evaluations recorded after the `step`
    at which the training starts or resumes are discarded.
    """

    def __init__(self, store: CutoutStore, out: Path, trainer: Trainer, *, step: int, writes: bool) -> None:
        self.out, self.trainer, self.writes = out, trainer, writes
        self.held_out = load_held_out(store, trainer)
        self.noise = None if trainer.config.noise == "none" else trainer.noise
        self.history = list(kept_rows(out / "evaluations.jsonl", step).values())
        if writes:
            cut_metrics(out / "evaluations.jsonl", step)

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the smallest kernel distance, not collapsed and, if possible, not textured."""
        good = [row for row in self.history if not row["collapsed"]]
        good = [row for row in good if not row.get("textured")] or good
        return min(good, key=lambda row: row["kernel_distance"], default=None)

    @property
    def should_stop_early(self) -> bool:
        """Whether the last `patience` evaluations brought no improvement."""
        patience = self.trainer.config.patience
        if not patience or self.best is None:
            return False
        return len(self.history) - 1 - self.history.index(self.best) >= patience

    def evaluate(self, step: int) -> str:
        """Evaluate the model after `step` steps; return a summary for the progress bar."""
        if self.held_out is None:
            return ""
        model = self.trainer.finished_model()
        found = examine(model, self.held_out, self.noise, seed=self.trainer.seed, fit=fit_briefly)
        row = {"step": step, **found}
        if not all(math.isfinite(v) for v in row.values()):
            row = {k: v if math.isfinite(v) else None for k, v in row.items()} | {"collapsed": True}
        self.history.append(row)
        if not self.writes:
            return ""
        if self.trainer.config.patience and self.best is row:
            with writing(self.out / "best") as temporary:
                model.save(temporary)
        self._save_panel(model, step)
        with (self.out / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return _summary(row)

    def _save_panel(self, model: Model, step: int) -> None:
        assert self.held_out is not None
        if importlib.util.find_spec("PIL") is None:
            return  # optional dependency; the numbers are recorded anyway
        panel = make_panel(model, self.held_out, seed=self.trainer.seed, fit=fit_briefly)
        noise = noise_per_band(self.held_out.weight.cpu().numpy())
        picture = strip(panel.reshape(-1, *panel.shape[2:]), noise, panel.shape[1])
        with writing(self.out / "panels" / f"step-{step:08d}.png") as path:
            path.write_bytes(png(picture, zoom=3))

    def choose_model(self, step: int) -> tuple[Model, int, dict[str, Any] | None]:
        """Return the model to keep, its number of training steps, and its metrics."""
        if self.held_out is not None and not (self.history and self.history[-1]["step"] == step):
            self.evaluate(step)
        if self.held_out is None:
            return self.trainer.finished_model(), step, None
        if self.trainer.config.patience and self.best is not None:
            model = Model.load(self.out / "best")
            shutil.rmtree(self.out / "best")
            return model, self.best["step"], self.best | self._compare_shapes(model)
        model = self.trainer.finished_model()
        return model, step, self.history[-1] | self._compare_shapes(model)

    def _compare_shapes(self, model: Model) -> dict[str, float]:
        """Compare distributions of magnitudes, colours and shapes; empty if sep is not installed."""
        assert self.held_out is not None
        if importlib.util.find_spec("sep") is None:
            return {}
        image, weight, sight = self.held_out.image, self.held_out.weight, self.held_out.sight
        drawn = draw_observed(model, weight, self.noise, self.trainer.seed, sight)
        scale = model.info.pixel_scale_arcsec if sight is None else sight.pixel_scale_arcsec
        real, generated = (
            measure_shapes(flux.cpu().numpy(), weight.cpu().numpy(), model.info.bands, scale)
            for flux in (image, drawn)
        )
        return compare_shapes(real, generated)


def load_held_out(store: CutoutStore, trainer: Trainer) -> Batch | None:
    """Read at most `num_evaluated` complete held-out cutouts; None if there are fewer than 16."""
    number, mask = trainer.config.num_evaluated, trainer.config.neighbours == "mask"
    indices = np.flatnonzero(is_held_out(store.catalogue([])["object_id"]))
    shuffled = np.random.default_rng(0).permutation(indices)
    parts: list[Cutouts] = []
    missing = number
    for start in range(0, len(shuffled), number):
        cutouts = store.take(shuffled[start : start + number])
        whole = is_complete(cutouts.image, cutouts.weight)
        parts.append(cutouts.take(np.flatnonzero(whole)[:missing]))
        missing -= len(parts[-1])
        if not missing:
            break
    if number - missing < 16:
        return None
    cutouts = join_cutouts(parts, store.directory)
    return Batch.of(cutouts, store.info, trainer.grid, mask_neighbours=mask).to(trainer.device)


def _summary(row: dict[str, Any]) -> str:
    if row["collapsed"]:
        return f"COLLAPSED: generated objects are too similar (spread {row['spread']:.2f})"
    if row.get("textured"):
        return f"TEXTURE: generated images have too much fine structure ({row['texture']:.2f} times the real)"
    words = [f"distance {row['kernel_distance']:.3f}", f"spread {row['spread']:.2f}"]
    if "chi2_both" in row:
        words.append(f"chi2 {row['chi2_both']:.2f}")
    return ", ".join(words)
