"""Redshifts straight from images: training a network with augmentation and early stopping.

Shapes: N objects, B bands, H = W pixels.

The network itself is handed in (for Table 1 it is the Wide ResNet of `deepfits.models.wide_resnet`, M19
§3.3); here is how it is trained as carefully as the other methods: random flips, quarter turns and shifts by
a pixel, AdamW with a one-cycle learning rate, the weights of the best validation loss, and estimates averaged
over the eight orientations.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.progress import Progress, silent

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How to train.

    Attributes
    ----------
    loss
        ``"squared"`` or ``"absolute"``.
    epochs, patience
        At most so many passes; stop after so many without a better validation loss.
    max_minutes
        Stop then, with the best weights so far.
    """

    loss: str = "squared"
    epochs: int = 60
    patience: int = 15
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    max_minutes: float = 60.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.loss not in ("squared", "absolute"):
            raise InputError(f"loss {self.loss!r} is unknown; choose squared or absolute")
        if self.epochs < 1 or self.batch < 2 or not self.max_minutes > 0:
            raise InputError("training on images needs at least one epoch, two objects a batch and some time")


@dataclass(frozen=True, kw_only=True)
class ImageRegressor:
    """A trained network with the scale of its answers.

    Attributes
    ----------
    network
        Maps ``(N, B, H, W)`` to ``(N, 1)``.
    centre, scale
        The estimate is centre + scale × the network's answer.
    history
        Training and validation loss of each epoch.
    """

    network: Any
    centre: float
    scale: float
    history: list[dict[str, float]]

    def predict(self, images: np.ndarray, *, batch: int = 256, device: str = "cpu") -> np.ndarray:
        """Return estimates ``(N,)`` float64, averaged over the eight orientations."""
        import torch

        self.network.eval().to(device)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                part = torch.as_tensor(images[start : start + batch], device=device)
                answers = [
                    self.network(_oriented(part, turns, flip)) for turns in range(4) for flip in (0, 1)
                ]
                parts.append(torch.stack(answers).mean(dim=0)[:, 0].double().cpu().numpy())
        return self.centre + self.scale * np.concatenate(parts)


def _oriented(images: torch.Tensor, turns: int, flip: int) -> torch.Tensor:
    import torch

    turned = torch.rot90(images, turns, dims=(2, 3))
    return torch.flip(turned, dims=(3,)) if flip else turned


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, flip and shift each image at random: ``(N, B, H, W)``; a shift repeats the border's pixels."""
    import torch

    number, _, height, width = images.shape
    draw = torch.randint(0, 72, (number,), generator=generator)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    out = torch.empty_like(images)
    for one in range(number):
        turns, rest = int(draw[one] % 4), int(draw[one] // 4)
        flip, shift = rest % 2, rest // 2
        row, column = shift // 3, shift % 3
        cut = padded[one : one + 1, :, row : row + height, column : column + width]
        out[one] = _oriented(cut, turns, flip)[0]
    return out


def train_images(
    network: Any,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    config: ImageConfig,
    *,
    progress: Progress = silent,
) -> ImageRegressor:
    """Train a network on images.

    Parameters
    ----------
    network
        A `torch.nn.Module` from ``(N, B, H, W)`` to ``(N, 1)``; its weights are changed.
    train, validation
        Images in the network's units, float32, and targets ``(N,)``.

    Raises
    ------
    NonFiniteLossError
        The loss stopped being a number.
    """
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    images, value = torch.as_tensor(train[0]), torch.as_tensor(train[1], dtype=torch.float32)
    centre, scale = float(value.mean()), float(value.std()) or 1.0
    value = (value - centre) / scale
    network.to(config.device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = max(1, len(images) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=config.epochs * steps + 1, pct_start=0.2
    )
    best, best_state, since = np.inf, copy.deepcopy(network.state_dict()), 0
    history: list[dict[str, float]] = []
    deadline = time.monotonic() + 60 * config.max_minutes
    with progress("train on images", total=config.epochs, unit="epochs") as task:
        for epoch in range(config.epochs):
            network.train()
            order = torch.randperm(len(images), generator=generator)
            total = 0.0
            for step in range(steps):
                rows = order[step * config.batch : (step + 1) * config.batch]
                batch = augmented(images[rows], generator).to(config.device)
                loss = _loss(network(batch)[:, 0], value[rows].to(config.device), config.loss)
                if not torch.isfinite(loss):
                    raise NonFiniteLossError(f"training on images: loss {loss.item()} in epoch {epoch + 1}")
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += loss.item() / steps
            current = ImageRegressor(network=network, centre=centre, scale=scale, history=[])
            error = (current.predict(validation[0], device=config.device) - validation[1]) / scale
            found = float(np.mean(error**2 if config.loss == "squared" else np.abs(error)))
            history.append({"train": total, "validation": found})
            since += 1
            if found < best:
                best, best_state, since = found, copy.deepcopy(network.state_dict()), 0
            task.advance(1, f"validation loss {found:.4f}")
            if since >= config.patience or time.monotonic() > deadline:
                break
    network.load_state_dict(best_state)
    return ImageRegressor(network=network, centre=centre, scale=scale, history=history)


def _loss(answer: torch.Tensor, value: torch.Tensor, kind: str) -> torch.Tensor:
    error = answer - value
    return (error**2).mean() if kind == "squared" else error.abs().mean()
