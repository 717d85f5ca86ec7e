"""The stage `train`: from a cutout store to a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import Range
from deepfits.files import contents
from deepfits.results import require_finished
from deepfits.splits import is_held_out
from deepfits.stages.parameters import Choosing, Images, Partial, as_list
from deepfits.stages.stage import INPUT, NEUTRAL, claim, part_of, stage
from deepfits.training.settings import EngineSettings, TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from deepfits.models.bundle import Model
    from deepfits.observation import Sight

FIT_STEPS = 40
MAX_MEASURED = 3000
"""Held-out objects of a store among which those are chosen that a model's errors are learnt from."""
FORMAT = 2


@dataclass(frozen=True)
class TrainConfig(TrainingSettings, EngineSettings, Choosing, Partial):
    """What `train` takes.

    Parameters
    ----------
    store
        The cutout store. With the recipe ``"scene"`` there may be several, of any seeing, depth, pixels and
        size, with the same bands. Held-out objects (`deepfits.splits`) are never trained on.
    out
        The model's directory: ``model.json``, ``weights.safetensors``, ``metrics.jsonl``, ``checkpoints/``.
    recipe
        ``"paper"`` (64 latents, 1024 channels), ``"small"`` (an hour on a CPU), ``"tiny"`` (minutes) or
        ``"scene"`` (scenes at one PSF): see `deepfits.recipes`.
    steps
        Number of steps, in place of the recipe's.
    max_time
        Stop after this many minutes of training, earlier runs of the same training counted in.
    options
        Fields of the recipe's configurations of model and training to replace, such as ``{"ema": 0.99}``.
    """

    store: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY
    recipe: str = "small"
    steps: Annotated[int, Range(ge=1)] | None = None
    max_time: Annotated[float | None, NEUTRAL, Range(gt=0)] = None
    options: Mapping[str, Any] | None = None


@stage(TrainConfig)
def train(config: TrainConfig) -> Path:
    """Train generator, discriminator and embedder on the cutouts of a store (M19 §2.1, §2.2).

    Held-out objects are never trained on. Running it again goes on from the last checkpoint, or returns at
    once when the model is finished.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Nothing to train on, an impossible configuration, a store that is not finished, or a model of other
        settings in `out`.
    NonFiniteLossError
        A loss was not finite; the message names the step and the last good checkpoint.

    Examples
    --------
    `deepfits train run/cutouts --out run/model --recipe tiny`

    One setting of the recipe: `deepfits train run/cutouts --out run/model --set width=256`
    """
    from deepfits.recipes import recipe as get_recipe
    from deepfits.recipes import replace
    from deepfits.training.engine import EngineConfig
    from deepfits.training.session import Session, TrainingPlan

    chosen = replace(get_recipe(config.recipe), config.options or {})
    if config.steps is not None:
        chosen = dataclasses.replace(
            chosen, training=dataclasses.replace(chosen.training, steps=config.steps)
        )
    stores = as_list(config.store)
    for store in stores:
        require_finished(store, partial=config.partial)
    plan = part_of(
        config,
        TrainingPlan,
        store=[Path(store) for store in stores],
        out=Path(config.out),
        model=chosen.model,
        training=chosen.training,
        name=config.recipe,
        engine=part_of(config, EngineConfig),
        fit=_fit,
        measure_error=measure_model_error,
    )
    session = Session(plan)
    if plan.engine.num_devices * plan.engine.num_nodes > 1 and _rank():  # one of several claims the directory
        return session.run(max_time=config.max_time, progress=config.progress)
    inputs: dict[str, Any] = {
        "store": contents(*stores),
        "embedder_only": session.base.fingerprint if session.base else None,
    }
    settings = {"training": chosen.training.to_json(), "model": chosen.model.to_json()}
    with claim(config, name="train", version=FORMAT, inputs=inputs, settings=settings) as results:
        session.run(max_time=config.max_time, progress=config.progress)
    return results.path


def _rank() -> int:
    """Return 0 in the first process of all nodes, where torchrun, Lightning or SLURM have started several."""

    def number(name: str) -> int:
        return int(os.environ.get(name) or 0)

    if os.environ.get("RANK"):
        return number("RANK")
    if os.environ.get("LOCAL_RANK"):  # Lightning's own processes, one node after the other
        return number("NODE_RANK") or number("LOCAL_RANK")
    return number("SLURM_PROCID")


def measure_model_error(model: Model, stores: Sequence[str | Path]) -> dict[str, Any] | None:
    """Measure how wrong a finished model draws objects that it was not trained on; None with too few of them.

    Of several stores, the median of each number.
    """
    from deepfits.fitting.error_measurement import learn_model_error, median_of
    from deepfits.fitting.fitter import FitSettings, Fitter
    from deepfits.survey.neighbours import find_neighbours
    from deepfits.survey.store import CutoutStore

    errors = []
    for path in stores:
        store = CutoutStore(path, skip_bad=True)
        rows = np.flatnonzero(is_held_out(store.catalogue([])["object_id"]))
        chosen = np.sort(np.random.default_rng(0).permutation(rows)[:MAX_MEASURED])
        if not len(chosen):
            continue
        cutouts = store.take(chosen)
        fitter = Fitter(dataclasses.replace(model, model_error=None), FitSettings(), store.info)
        learnt = learn_model_error(
            fitter,
            cutouts.image,
            cutouts.weight,
            partial(find_neighbours, noise_correlation=store.info.noise_correlation),
            sight=fitter.sight(cutouts),
            psf=cutouts.psf,
        )
        if learnt is not None:
            errors.append(learnt)
    return median_of(errors).to_json() if errors else None


def _fit(model: Model, image: Tensor, weight: Tensor, start: Tensor, sight: Sight | None = None) -> Tensor:
    """Fit latents to look at a model's health: the stage `fit`'s way, with fewer steps."""
    from deepfits.fitting.bestfit import fit
    from deepfits.fitting.folded import renderer_of
    from deepfits.fitting.rendering import InFlux

    renderer = InFlux(renderer_of(model.generator), model.normalisation)
    return fit(renderer, image, weight, start, sight=sight, num_steps=FIT_STEPS).latent
