"""Stage `train`: train a model on a cutout store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import contents
from deepfits.results import require_finished
from deepfits.stages.parameters import Choosing, Images, Partial, as_list
from deepfits.stages.stage import INPUT, NEUTRAL, claim, part_of, stage
from deepfits.training.settings import EngineSettings, TrainingSettings

if TYPE_CHECKING:
    from deepfits.recipes import Recipe

FORMAT = 2


@dataclass(frozen=True)
class TrainConfig(TrainingSettings, EngineSettings, Choosing, Partial):
    """Parameters of `train`."""

    store: Annotated[Images, INPUT]
    """Cutout store to train on. With the recipe ``"scene"`` there may be several, with the same bands but any
    seeing, depth, pixel scale and cutout size. Held-out objects (`deepfits.splits`) are not used."""
    out: str | Path
    """Output directory of the model: ``model.json``, ``weights.safetensors``, ``metrics.jsonl`` and
    ``checkpoints/``."""
    _: KW_ONLY
    recipe: str = "small"
    """Size of the networks and length of the training: ``"paper"`` (as in M19: 64 latent dimensions, 1024
    channels), ``"small"`` (an hour on a CPU), ``"tiny"`` (minutes, to try things out) or ``"scene"`` (a
    generator of scenes at one reference PSF, for data of any seeing)."""
    steps: Annotated[int, Range(ge=1)] | None = None
    """Number of training steps, instead of the recipe's."""
    max_time: Annotated[float | None, NEUTRAL, Range(gt=0)] = None
    """Stop after this many minutes of training, including earlier runs of the same training."""
    options: Mapping[str, Any] | None = None
    """Further fields of the recipe's model and training configurations to change, such as ``{"ema": 0.99}``
    (on the command line ``--set ema=0.99``)."""


@stage(TrainConfig, result="model")
def train(config: TrainConfig) -> Path:
    """Train a generative model of galaxies and its embedder on the cutouts of a store (M19 §2.1, §2.2).

    The generator maps latent vectors to multi-band images, trained against a discriminator; the embedder
    learns the inverse mapping. No labels are needed. Held-out objects are not used. Run the same command
    again to continue from the last checkpoint; a finished model is kept.

    Raises
    ------
    InputError
        Nothing to train on, an invalid configuration, a store that is not finished, or a model with other
        settings in `out`.
    NonFiniteLossError
        A loss was not finite; the message names the step and the last good checkpoint.

    Examples
    --------
    A first try, in minutes: `deepfits train run/cutouts --out run/model --recipe tiny`

    Change one setting of a recipe: `deepfits train run/cutouts --out run/model --set width=256`
    """
    from deepfits.training.session import Session, TrainingPlan

    chosen = recipe_of(config.recipe, config.options, config.steps)
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
        engine=part_of(config, EngineSettings),
    )
    session = Session(plan)
    if plan.engine.num_devices * plan.engine.num_nodes > 1 and _rank():  # only rank 0 claims the directory
        return session.run(max_time=config.max_time, progress=config.progress)
    inputs: dict[str, Any] = {
        "store": contents(*stores),
        "embedder_only": session.base.fingerprint if session.base else None,
    }
    settings = {"training": chosen.training.to_json(), "model": chosen.model.to_json()}
    with claim(config, name="train", version=FORMAT, inputs=inputs, settings=settings) as results:
        session.run(max_time=config.max_time, progress=config.progress)
    return results.path


def recipe_of(
    recipe: str = TrainConfig.recipe, options: Mapping[str, Any] | None = None, steps: int | None = None
) -> Recipe:
    """Return the recipe of this name with the fields that are changed in it; see `TrainConfig`."""
    from deepfits import recipes

    changed = dict(options or {})
    for name in changed.keys() & {f.name for f in fields(TrainConfig)} - {"steps"}:
        raise InputError(
            f"a recipe has no {name}; give it as {name}={changed[name]!r}, not among the options"
        )
    if steps is not None:
        if "steps" in changed:
            raise InputError(f"steps={steps} is given twice, also in options; leave out one of the two")
        changed["steps"] = steps
    return recipes.replace(recipes.recipe(recipe), changed)


def _rank() -> int:
    """Return 0 in the first process of all nodes, if torchrun, Lightning or SLURM have started several."""

    def number(name: str) -> int:
        return int(os.environ.get(name) or 0)

    if os.environ.get("RANK"):
        return number("RANK")
    if os.environ.get("LOCAL_RANK"):  # started by Lightning itself: rank within the node
        return number("NODE_RANK") or number("LOCAL_RANK")
    return number("SLURM_PROCID")
