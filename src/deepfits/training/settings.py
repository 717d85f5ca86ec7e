"""Settings of a training beside its recipe: stated once, for the stages, which inherit from these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deepfits.config import INPUT, NEUTRAL, Range


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers, and threads.

    Parameters
    ----------
    seed
        Seed of every random draw, of the initial networks and of the order of the images.
    threads
        Processor threads for PyTorch; its own choice by default.
    """

    seed: Annotated[int, Range(ge=0, lt=1 << 22)] = 0
    threads: Annotated[int | None, NEUTRAL, Range(ge=1)] = None


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Device.

    Parameters
    ----------
    device
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    """

    device: Annotated[str, NEUTRAL] = "auto"


@dataclass(frozen=True, kw_only=True)
class EngineSettings(OnDevice):
    """Speed and precision.

    Parameters
    ----------
    num_devices
        GPUs of a machine that share each batch, through Lightning Fabric (``pip install
        'deepfits[training]'``).
    num_nodes
        Machines whose GPUs share each batch.
    precision
        ``"float32"``; ``"tf32"``: its products on tensor cores; ``"bf16"``: networks in bfloat16, losses and
        weights in float32. All others here change the numbers within rounding.
    compile
        Compile the networks with ``torch.compile``.
    channels_last
        Store images with the bands as the innermost axis.
    """

    num_devices: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    num_nodes: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: Annotated[bool, NEUTRAL] = False
    channels_last: Annotated[bool, NEUTRAL] = False


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Draws):
    """What is trained, and where progress is recorded.

    Parameters
    ----------
    embedder_only
        A finished model (or ``builtin:NAME``): train a new embedder for its generator, and nothing else.
    tensorboard
        Write curves to ``tensorboard/``, if TensorBoard is installed.
    tracker
        ``"mlflow"`` or ``"wandb"``: also log the losses there, in the active run or a new one.
    """

    embedder_only: Annotated[str | Path | None, INPUT] = None
    tensorboard: Annotated[bool, NEUTRAL] = True
    tracker: Annotated[Literal["mlflow", "wandb"] | None, NEUTRAL] = None


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Training of the refiner and the metric.

    Parameters
    ----------
    steps
        Training steps of the refiner, and as many of the metric.
    num_reference
        Number of latents at which the metric is computed, each from a Jacobian.
    batch_size
        Objects in each training step of the refiner.
    learning_rate
        Learning rate of the refiner's optimiser, Adam.
    """

    steps: Annotated[int, Range(ge=1)] = 5000
    num_reference: Annotated[int, Range(ge=1)] = 8000
    batch_size: Annotated[int, Range(ge=1)] = 32
    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
