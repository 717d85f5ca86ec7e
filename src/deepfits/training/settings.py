"""Training settings other than the recipe, as base classes that the stages inherit from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deepfits.config import INPUT, NEUTRAL, Range

MAX_MEASURED = 3000  # maximum number of objects of a store from which the errors of a model are measured


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Devices, precision and compilation."""

    device: Annotated[str, NEUTRAL] = "auto"
    """``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``."""
    num_devices: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    """Number of GPUs per machine that share each batch, through Lightning Fabric (``pip install
    'deepfits[training]'``)."""
    num_nodes: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    """Number of machines whose GPUs share each batch."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """``"float32"``; ``"tf32"``: float32 with matrix products in TF32 on tensor cores; ``"bf16"``: networks
    in bfloat16, losses and weights in float32. The other settings here change results only by rounding."""
    compile: Annotated[bool, NEUTRAL] = False
    """Compile the networks with ``torch.compile``."""
    channels_last: Annotated[bool, NEUTRAL] = False
    """Store images in PyTorch's channels-last memory format."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What is trained, with which random numbers, and where metrics are recorded."""

    embedder_only: Annotated[str | Path | None, INPUT] = None
    """A finished model (or ``builtin:NAME``): only train a new embedder for its generator."""
    tensorboard: Annotated[bool, NEUTRAL] = True
    """Write training curves to ``tensorboard/``, if TensorBoard is installed."""
    tracker: Annotated[Literal["mlflow", "wandb"] | None, NEUTRAL] = None
    """``"mlflow"`` or ``"wandb"``: also log metrics there, to the active run or a new one."""
    seed: Annotated[int, Range(ge=0, lt=1 << 22)] = 0
    """Seed of all random numbers, including the initial weights and the order of the images."""
    threads: Annotated[int | None, NEUTRAL, Range(ge=1)] = None
    """Number of CPU threads for PyTorch; by default its own choice."""
