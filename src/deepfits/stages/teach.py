"""Stage `teach`: train the fitting aids of a finished model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated

from deepfits.files import write_text
from deepfits.processes import torch_threads
from deepfits.stages.parameters import Images, Partial, as_list
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.training.settings import Draws, OnDevice, Teaching


@dataclass(frozen=True)
class TeachConfig(Teaching, Draws, OnDevice, Partial):
    """Parameters of `teach`.

    Parameters
    ----------
    model
        A finished model, or ``builtin:NAME``. It is not changed.
    store
        Cutout store that the model was trained on, or a similar one; several for a model of scenes. Held-out
        objects are not used.
    out
        Output directory for a copy of the model with the aids.
    """

    model: Annotated[str | Path, INPUT]
    store: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY


@stage(TeachConfig)
def teach(config: TeachConfig) -> Path:
    """Train the aids that shorten a model's fits: a refiner of starting points, and a metric network.

    The refiner improves the embedder's guess before the fit, and the metric network preconditions the
    optimiser. `train` does this itself if the recipe says so; use this command for a model trained without
    aids, or to train them for longer. Generator, discriminator and embedder do not change.

    Returns
    -------
    Path
        `out`: the model, with ``aids.safetensors``.

    Raises
    ------
    InputError
        Incompatible model and store, or a store that is not finished.

    Examples
    --------
    `deepfits teach run/model run/cutouts --out run/model-taught`

    Train for longer than the default: `deepfits teach run/model run/cutouts --out run/model-taught --steps
    20000`
    """
    from deepfits.models.bundle import Model
    from deepfits.models.card import describe
    from deepfits.survey.store import CutoutStore
    from deepfits.training.engine import EngineConfig
    from deepfits.training.teaching import teach_aids

    stores = as_list(config.store)
    model = Model.load(config.model, EngineConfig(device=config.device).kind)
    teaching = part_of(config, Teaching)
    with (
        claim(config, name="teach", inputs={"model": model.fingerprint}) as results,
        torch_threads(config.threads),
    ):
        if not (results.path / "model.json").exists():
            taught = replace(model, card=dict(model.card))
            taught.aids, taught.card["aids"] = teach_aids(
                model, [CutoutStore(store) for store in stores], teaching, seed=config.seed,
                progress=config.progress,
            )  # fmt: skip
            write_text(results.path / "README.md", describe(taught, f"Model `{results.path.name}`"))
            taught.save(results.path)
    return results.path
