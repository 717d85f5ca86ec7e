"""The stage `teach`: a finished model learns what helps its fits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated

from deepfits.files import writing
from deepfits.stages.parameters import Images
from deepfits.stages.stage import INPUT, NEUTRAL, Common, claim, part_of, stage


@dataclass(frozen=True)
class TeachConfig(Common):
    """What `teach` takes.

    Parameters
    ----------
    model
        A finished model (or ``builtin:NAME``); it stays as it is.
    store
        Cutouts as the model was trained on; several for a model of scenes. Held-out objects are left alone.
    out
        Directory for the model with its aids.
    steps
        Of the refiner, and as many of the metric.
    num_reference
        Latents at which the metric is computed.
    batch_size, learning_rate
        Of the refiner's steps.
    seed
        Decides every draw.
    threads
        Processor threads for PyTorch; its own choice by default.
    device
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    partial
        Take a store that is not finished.
    """

    model: Annotated[str | Path, INPUT]
    store: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY
    steps: int = 5000
    num_reference: int = 8000
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    threads: Annotated[int | None, NEUTRAL] = None
    device: Annotated[str, NEUTRAL] = "auto"
    partial: Annotated[bool, NEUTRAL] = False


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
    from deepfits.training.session import using_threads
    from deepfits.training.teaching import Teaching, teach_aids

    stores = [config.store] if isinstance(config.store, str | Path) else list(config.store)
    model = Model.load(config.model, EngineConfig(device=config.device).kind)
    teaching = part_of(config, Teaching)
    with (
        claim(config, name="teach", inputs={"model": model.fingerprint}) as results,
        using_threads(config.threads),
    ):
        if not (results.path / "model.json").exists():
            taught = replace(model, card=dict(model.card))
            taught.aids, taught.card["aids"] = teach_aids(
                model, [CutoutStore(store) for store in stores], teaching, seed=config.seed,
                progress=config.progress,
            )  # fmt: skip
            with writing(results.path / "README.md") as path:
                path.write_text(describe(taught, f"Model `{results.path.name}`"), encoding="utf-8")
            taught.save(results.path)
    return results.path
