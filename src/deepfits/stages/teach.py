"""The stage `teach`: a finished model learns what helps its fits."""

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
    """What `teach` takes.

    Parameters
    ----------
    model
        A finished model (or ``builtin:NAME``); it stays as it is.
    store
        Cutouts as the model was trained on; several for a model of scenes. Held-out objects are left alone.
    out
        Directory for the model with its aids.
    """

    model: Annotated[str | Path, INPUT]
    store: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY


@stage(TeachConfig)
def teach(config: TeachConfig) -> Path:
    """Teach a finished model what makes its fits shorter: a refiner of starts, and a metric.

    `train` does this itself when a recipe says so; this adds them to a model that was trained without, or
    teaches them longer. Generator, discriminator and embedder stay as they are.

    Returns
    -------
    Path
        `out`: the model, with ``aids.safetensors``.

    Raises
    ------
    InputError
        Model and store do not fit together, or a store that is not finished.

    Examples
    --------
    `deepfits teach run/model run/cutouts --out run/model-taught`
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
