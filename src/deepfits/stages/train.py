"""The stage `train`: from a cutout store to a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfits.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from deepfits.models.bundle import Model


FIT_STEPS = 40


def train(
    store: str | Path,
    out: str | Path,
    *,
    recipe: str = "small",
    steps: int | None = None,
    max_time: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    embedder_only: str | Path | None = None,
    device: str = "auto",
    num_devices: int = 1,
    num_nodes: int = 1,
    precision: str = "float32",
    compile: bool = False,
    channels_last: bool = False,
    tensorboard: bool = True,
    tracker: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Train generator, discriminator and embedder on the cutouts of a store (M19 §2.2).

    Running it again goes on from the last checkpoint, or returns at once when the model is finished.

    Parameters
    ----------
    store
        The cutout store. Held-out objects (`deepfits.splits`) are never trained on.
    out
        The model's directory: ``model.json``, ``weights.safetensors``, ``metrics.jsonl``, ``checkpoints/``.
    recipe
        ``paper``, ``small`` or ``tiny``: see `deepfits.recipes`.
    steps
        Number of steps, in place of the recipe's.
    max_time
        Stop after this many minutes of training, earlier runs of the same training counted in.
    seed
        Decides the networks' start, the order of the images, and every draw.
    threads
        Processor threads for PyTorch; None leaves its own choice.
    options
        Fields of the recipe's configurations of model and training to replace, such as ``{"ema": 0.99}``.
    embedder_only
        A finished model (or ``builtin:NAME``): train a new embedder for its generator, and nothing else.
    device
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    num_devices, num_nodes
        Several devices share each batch, through Lightning Fabric.
    precision
        ``"float32"``, ``"tf32"`` or ``"bf16"``.
    compile, channels_last
        For speed, where the hardware likes it.
    tensorboard
        Write curves to ``tensorboard/``, if TensorBoard is installed.
    tracker
        ``"mlflow"`` or ``"wandb"``: give the numbers to that too, in its active run or a new one.
    progress
        Where to tell how far it is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Nothing to train on, an impossible configuration, or a model of other settings in `out`.
    NonFiniteLossError
        A loss was not finite; the message names the step and the last good checkpoint.

    Examples
    --------
    >>> train("run/cutouts", "run/model", recipe="tiny")  # doctest: +SKIP
    """
    from deepfits.recipes import recipe as get_recipe
    from deepfits.recipes import replace
    from deepfits.training.engine import EngineConfig
    from deepfits.training.session import Plan, Session

    chosen = replace(get_recipe(recipe), options or {})
    if steps is not None:
        chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, steps=steps))
    plan = Plan(
        store=Path(store),
        out=Path(out),
        model=chosen.model,
        training=chosen.training,
        name=recipe,
        seed=seed,
        engine=EngineConfig(
            device=device,
            num_devices=num_devices,
            num_nodes=num_nodes,
            precision=precision,
            compile=compile,
            channels_last=channels_last,
        ),
        threads=threads,
        embedder_only=embedder_only,
        tensorboard=tensorboard,
        tracker=tracker,
        fit=_fit,
    )
    return Session(plan).run(max_time=max_time, progress=progress)


def _fit(model: Model, image: Tensor, weight: Tensor, start: Tensor) -> Tensor:
    """Fit latents to look at a model's health: the stage `fit`'s way, with fewer steps."""
    from deepfits.fitting.bestfit import fit
    from deepfits.fitting.folded import FoldedGenerator, can_fold
    from deepfits.fitting.rendering import Differentiated, InFlux

    generator = model.generator
    inner = FoldedGenerator(generator) if can_fold(generator) else Differentiated(generator)
    renderer = InFlux(inner, model.normalisation)
    return fit(renderer, image, weight, start, num_steps=FIT_STEPS).latent
