"""Training networks on known redshifts, from images, features, or both.

Shapes: N objects, B bands, H = W pixels, K features, Q quantile levels.

Every network has 1 + Q outputs, the point estimate and the quantiles of p(z), and is trained in the same way:
AdamW with a one-cycle learning rate, keeping the weights of the best validation loss. Images are augmented
by random flips, quarter turns and shifts by a pixel, and predictions are averaged over the eight
orientations.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import NonFiniteLossError
from deepfits.progress import Progress, silent
from deepfits.redshifts.learning import TargetScale
from deepfits.redshifts.pdf import LEVELS, sorted_quantiles
from deepfits.symmetries import NUM_SYMMETRIES, symmetry

if TYPE_CHECKING:
    import torch

NUM_OUTPUTS = 1 + len(LEVELS)  # the point estimate and the quantiles of p(z)
HEAD_CHANNELS = 64
HYBRID_CHANNELS = 192


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How to train: for at most `epochs`, and at most `patience` epochs without a better validation loss.

    Training stops after `max_minutes` with the best weights so far; the learning rate schedule is compressed
    so that it ends in time.
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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Description from which a network can be built.

    Kinds are ``"mlp"`` (on K features), ``"wide_resnet"``, ``"embedder"`` (the model's embedder and a small
    head), and ``"hybrid"`` (a head on the embedder's latents concatenated with K features).
    """

    kind: str
    settings: dict[str, Any]
    num_features: int = 0

    def build(self) -> Any:
        """Build the network, with random weights and 1 + Q outputs."""
        from torch import nn

        if self.kind == "mlp":
            sizes = [self.num_features] + [self.settings["channels"]] * 3
            layers = _hidden(sizes, self.settings["dropout"])
            return nn.Sequential(*layers, nn.Linear(sizes[-1], NUM_OUTPUTS))
        if self.kind == "wide_resnet":
            from deepfits.models.wide_resnet import WideResNet, WideResNetConfig

            return WideResNet(WideResNetConfig(**self.settings))
        from deepfits.models.layers import ModelConfig
        from deepfits.models.networks import Embedder

        config = ModelConfig(**self.settings)
        embedder = Embedder(config)
        if self.kind == "hybrid":
            return _hybrid(embedder, config.latent_size + self.num_features)
        hidden = nn.Linear(config.latent_size, HEAD_CHANNELS)
        return nn.Sequential(embedder, hidden, nn.ReLU(), nn.Linear(HEAD_CHANNELS, NUM_OUTPUTS))


def _hidden(sizes: Sequence[int], dropout: float) -> list[Any]:
    from torch import nn

    layers: list[Any] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(dropout)]
    return layers


def _hybrid(embedder: Any, num_inputs: int) -> Any:
    """Return a network of images and features, whose head takes latents and features concatenated."""
    import torch
    from torch import nn

    class HybridNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedder = embedder
            layers = _hidden((num_inputs, HYBRID_CHANNELS, HYBRID_CHANNELS), 0.1)
            self.head = nn.Sequential(*layers, nn.Linear(HYBRID_CHANNELS, NUM_OUTPUTS))

        def forward(self, images: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.embedder(images), features], dim=1))

    return HybridNetwork()


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A trained network, the scale of its outputs, and the losses of each epoch (`history`)."""

    architecture: Architecture
    weights: dict[str, np.ndarray]
    scale: TargetScale
    history: list[dict[str, float]] = field(default_factory=list)

    @cached_property
    def network(self) -> Any:
        """The `torch.nn.Module`, whose outputs are ``(N, 1 + Q)``."""
        import torch

        with torch.random.fork_rng():
            network = self.architecture.build()
        network.load_state_dict({name: torch.tensor(values) for name, values in self.weights.items()})
        return network

    def predict(
        self, *inputs: np.ndarray, batch: int = 256, device: str = "cpu"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return point estimates, ``(N,)``, and quantiles before recalibration, ``(N, Q)``, float64."""
        outputs = _outputs(self.network, inputs, batch=batch, device=device)
        point, quantiles = self.scale.inverse(outputs[:, 0]), self.scale.inverse(outputs[:, 1:])
        return point, sorted_quantiles(quantiles)


def _outputs(
    network: Any, inputs: Sequence[np.ndarray], *, batch: int, device: str, average: bool = True
) -> np.ndarray:
    """Return the network's outputs, ``(N, 1 + Q)``, averaged over the eight orientations of images.

    Without `average`, images are used only in their own orientation, as for the validation loss.
    """
    import torch

    network.eval().to(device)
    has_images = average and any(part.ndim == 4 for part in inputs)
    orientations = range(NUM_SYMMETRIES) if has_images else [0]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), batch):
            chunk = [torch.as_tensor(part[start : start + batch], device=device) for part in inputs]
            outputs = [
                network(*(symmetry(part, number) if part.ndim == 4 else part for part in chunk))
                for number in orientations
            ]
            parts.append(torch.stack(outputs).mean(dim=0).double().cpu().numpy())
    return np.concatenate(parts)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, flip and shift each image at random, ``(N, B, H, W)``; shifts replicate the border pixels."""
    import torch

    number, _, height, width = images.shape
    draw = torch.randint(0, 72, (number,), generator=generator)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    out = torch.empty_like(images)
    for index in range(number):
        turns, rest = int(draw[index] % 4), int(draw[index] // 4)
        flip, shift = rest % 2, rest // 2
        row, column = shift // 3, shift % 3
        cut = padded[index : index + 1, :, row : row + height, column : column + width]
        out[index] = symmetry(cut, turns + 4 * flip)[0]
    return out


def train_network(
    architecture: Architecture,
    train: tuple[np.ndarray, ...],
    validation: tuple[np.ndarray, ...],
    config: NetworkConfig,
    *,
    network: Any = None,
    progress: Progress = silent,
) -> TrainedNetwork:
    """Train the given `torch.nn.Module`, or by default a new network of the architecture.

    `train` and `validation` each hold the network's inputs, float32 in its units (images ``(N, B, H, W)``,
    features ``(N, K)``), followed by the targets, ``(N,)``. Raise `NonFiniteLossError` if the loss becomes
    NaN or infinite.
    """
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    inputs = [torch.as_tensor(part) for part in train[:-1]]
    scale = TargetScale.learn(train[-1], config.loss)
    value = torch.as_tensor(scale.forward(train[-1]), dtype=torch.float32)
    held_out = torch.as_tensor(scale.forward(validation[-1]), dtype=torch.float32)
    network = (architecture.build() if network is None else network).to(config.device)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    steps = max(1, len(value) // config.batch)
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
                parts = [part[rows] for part in inputs]
                batch = [augment(part, generator) if part.ndim == 4 else part for part in parts]
                output = network(*(part.to(config.device) for part in batch))
                loss = network_loss(output, value[rows].to(config.device), config.loss)
                if not torch.isfinite(loss):
                    raise NonFiniteLossError(f"training a network: loss {loss.item()} in epoch {epoch + 1}")
                elapsed = (time.monotonic() - started) / (60 * config.max_minutes)
                if elapsed > 1:
                    break
                done, total_steps = epoch * steps + step, config.epochs * steps
                is_late = elapsed * total_steps > done + 1  # otherwise the clock must not affect the result
                share = elapsed if is_late else done / total_steps
                descend(network, optimiser, loss, config.learning_rate * one_cycle(share))
                total += loss.item() / steps
            outputs = _outputs(network, validation[:-1], batch=256, device=config.device, average=False)
            validation_loss = network_loss(torch.as_tensor(outputs).float(), held_out, config.loss).item()
            history.append({"train": total, "validation": validation_loss})
            since += 1
            if validation_loss < best:
                best, best_state, since = validation_loss, copy.deepcopy(network.state_dict()), 0
            task.advance(1, f"validation loss {validation_loss:.4f}")
            if since >= config.patience or elapsed > 1:
                break
    weights = {name: tensor.cpu().contiguous().numpy() for name, tensor in best_state.items()}
    return TrainedNetwork(architecture=architecture, weights=weights, scale=scale, history=history)


def descend(network: Any, optimiser: Any, loss: torch.Tensor, rate: float) -> None:
    """Take one optimiser step at a learning rate, with the gradient norm clipped to 1."""
    import torch

    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def one_cycle(share: float, warm: float = 0.2) -> float:
    """Return the learning rate factor after a fraction `share` of the training, with warm-up until `warm`.

    Examples
    --------
    >>> [round(one_cycle(share), 2) for share in (0.0, 0.2, 0.6, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if share < warm:
        return 0.04 + 0.96 * 0.5 * (1 - float(np.cos(np.pi * share / warm)))
    return 0.5 * (1 + float(np.cos(np.pi * (share - warm) / (1 - warm))))


def network_loss(output: torch.Tensor, value: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the loss of the point estimate plus twice the mean pinball loss of the quantiles.

    The output, ``(N, 1 + Q)``, holds the point estimate, then the quantiles at `LEVELS`; values are ``(N,)``.
    """
    import torch

    error = output[:, 0] - value
    loss = (error**2).mean() if kind == "squared" else error.abs().mean()
    levels = torch.as_tensor(LEVELS, dtype=output.dtype, device=output.device)
    above = value[:, None] - output[:, 1:]
    return loss + 2 * torch.maximum(levels * above, (levels - 1) * above).mean()
