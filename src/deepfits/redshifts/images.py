"""Training networks on known redshifts: from images, from features, or from both.

Shapes: N objects, B bands, H = W pixels, K features, Q quantile levels.

The network itself is handed in (for Table 1 the Wide ResNet of `deepfits.models.wide_resnet`, M19 §3.3, or
the model's embedder with a head); here is how every one of them is trained: AdamW with a one-cycle learning
rate, the weights of the best validation loss, and for images random flips, quarter turns and shifts by a
pixel, and estimates averaged over the eight orientations. A network with 1 + Q outputs learns the quantiles
of p(z) beside the estimate.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.progress import Progress, silent
from deepfits.redshifts.pdf import LEVELS, sorted_quantiles
from deepfits.symmetries import NUM_SYMMETRIES, symmetry

if TYPE_CHECKING:
    import torch

NUM_OUTPUTS = 1 + len(LEVELS)
"""Of a network that learns distributions too."""


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
        Stop then, with the best weights so far; the learning rate comes down in time.
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
            raise InputError("training a network needs at least one epoch, two objects a batch and some time")


@dataclass(frozen=True, kw_only=True)
class TargetScale:
    """The target in the network's units: (f(value) − centre) / scale.

    Attributes
    ----------
    is_log
        f is ln(1 + value): an absolute error of ln(1 + z) is one of Δz, which σ_MAD and η ask for. Else f
        changes nothing, so that a squared error is that of R².
    """

    centre: float
    scale: float
    is_log: bool

    @classmethod
    def learn(cls, value: np.ndarray, loss: str) -> TargetScale:
        """Take the scale of training objects; a target that goes below −0.5 is no redshift and has no log."""
        is_log = loss == "absolute" and float(value.min()) > -0.5
        found = np.log1p(value) if is_log else value
        return cls(centre=float(found.mean()), scale=float(found.std()) or 1.0, is_log=is_log)

    def forward(self, value: np.ndarray) -> np.ndarray:
        """Return values in the network's units."""
        return ((np.log1p(value) if self.is_log else value) - self.centre) / self.scale

    def inverse(self, answer: np.ndarray) -> np.ndarray:
        """Return the network's answers as values; those of a log are held to three times the range."""
        found = self.centre + self.scale * np.clip(answer.astype(np.float64), -10, 10)
        return np.expm1(np.minimum(found, 5.0)) if self.is_log else found


@dataclass(frozen=True, kw_only=True)
class ImageRegressor:
    """A trained network with the scale of its answers.

    Attributes
    ----------
    network
        Maps its inputs to ``(N, 1)`` or ``(N, 1 + Q)``.
    scale
        Of the target.
    history
        Training and validation loss of each epoch.
    """

    network: Any
    scale: TargetScale
    history: list[dict[str, float]]

    def predict(self, *inputs: np.ndarray, batch: int = 256, device: str = "cpu") -> np.ndarray:
        """Return estimates ``(N,)`` float64."""
        return self.predict_both(*inputs, batch=batch, device=device)[0]

    def predict_both(
        self, *inputs: np.ndarray, batch: int = 256, device: str = "cpu"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return estimates ``(N,)`` and, where the network has them, quantiles ``(N, Q)``."""
        answers = _answers(self.network, inputs, batch=batch, device=device)
        point = self.scale.inverse(answers[:, 0])
        if answers.shape[1] == 1:
            return point, None
        return point, sorted_quantiles(self.scale.inverse(answers[:, 1:]))


def _answers(
    network: Any, inputs: Sequence[np.ndarray], *, batch: int, device: str, turned: bool = True
) -> np.ndarray:
    """Return the network's answers, averaged over the eight orientations of images: ``(N, 1 or 1 + Q)``.

    Not `turned`: of images as they are alone, which is what the validation loss of each pass is made of.
    """
    import torch

    network.eval().to(device)
    has_images = turned and any(one.ndim == 4 for one in inputs)
    orientations = range(NUM_SYMMETRIES) if has_images else [0]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), batch):
            some = [torch.as_tensor(one[start : start + batch], device=device) for one in inputs]
            found = [
                network(*(symmetry(one, number) if one.ndim == 4 else one for one in some))
                for number in orientations
            ]
            parts.append(torch.stack(found).mean(dim=0).double().cpu().numpy())
    return np.concatenate(parts)


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
        out[one] = symmetry(cut, turns + 4 * flip)[0]
    return out


def train_images(
    network: Any,
    train: tuple[np.ndarray, ...],
    validation: tuple[np.ndarray, ...],
    config: ImageConfig,
    *,
    progress: Progress = silent,
) -> ImageRegressor:
    """Train a network.

    Parameters
    ----------
    network
        A `torch.nn.Module` from its inputs to ``(N, 1)`` or ``(N, 1 + Q)``; its weights are changed.
    train, validation
        The inputs, float32 in the network's units (images ``(N, B, H, W)``, features ``(N, K)``), and last
        the targets ``(N,)``.

    Raises
    ------
    NonFiniteLossError
        The loss stopped being a number.
    """
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    inputs = [torch.as_tensor(one) for one in train[:-1]]
    scale = TargetScale.learn(train[-1], config.loss)
    value = torch.as_tensor(scale.forward(train[-1]), dtype=torch.float32)
    other = torch.as_tensor(scale.forward(validation[-1]), dtype=torch.float32)
    network.to(config.device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = max(1, len(value) // config.batch)
    total_steps = config.epochs * steps
    best, best_state, since = np.inf, copy.deepcopy(network.state_dict()), 0
    history: list[dict[str, float]] = []
    started = time.monotonic()
    with progress("train a network", total=config.epochs, unit="epochs") as task:
        for epoch in range(config.epochs):
            network.train()
            order = torch.randperm(len(value), generator=generator)
            total = 0.0
            for step in range(steps):
                rows = order[step * config.batch : (step + 1) * config.batch]
                batch = [
                    (augmented(one[rows], generator) if one.ndim == 4 else one[rows]).to(config.device)
                    for one in inputs
                ]
                loss = network_loss(network(*batch), value[rows].to(config.device), config.loss)
                if not torch.isfinite(loss):
                    raise NonFiniteLossError(f"training a network: loss {loss.item()} in epoch {epoch + 1}")
                elapsed = (time.monotonic() - started) / (60 * config.max_minutes)
                if elapsed > 1:
                    break
                share = min(max((epoch * steps + step) / total_steps, elapsed), 1.0)
                for group in optimiser.param_groups:
                    group["lr"] = config.learning_rate * one_cycle(share)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                total += loss.item() / steps
            answers = _answers(network, validation[:-1], batch=256, device=config.device, turned=False)
            found = network_loss(torch.as_tensor(answers).float(), other, config.loss).item()
            history.append({"train": total, "validation": found})
            since += 1
            if found < best:
                best, best_state, since = found, copy.deepcopy(network.state_dict()), 0
            task.advance(1, f"validation loss {found:.4f}")
            if since >= config.patience or elapsed > 1:
                break
    network.load_state_dict(best_state)
    return ImageRegressor(network=network, scale=scale, history=history)


def one_cycle(share: float, warm: float = 0.2) -> float:
    """Return the learning rate's factor after a share of the steps, or of the time where that runs out first.

    Examples
    --------
    >>> [round(one_cycle(share), 2) for share in (0.0, 0.2, 0.6, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if share < warm:
        return 0.04 + 0.96 * 0.5 * (1 - float(np.cos(np.pi * share / warm)))
    return 0.5 * (1 + float(np.cos(np.pi * (share - warm) / (1 - warm))))


def network_loss(answer: torch.Tensor, value: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the loss of the estimate, and with it the mean pinball loss of the quantiles, if there are any.

    Parameters
    ----------
    answer
        ``(N, 1)`` or ``(N, 1 + Q)``: the estimate, then the quantiles at `LEVELS`.
    value
        ``(N,)``.
    """
    import torch

    error = answer[:, 0] - value
    loss = (error**2).mean() if kind == "squared" else error.abs().mean()
    if answer.shape[1] == 1:
        return loss
    levels = torch.as_tensor(LEVELS, dtype=answer.dtype, device=answer.device)
    above = value[:, None] - answer[:, 1:]
    return loss + 2 * torch.maximum(levels * above, (levels - 1) * above).mean()
