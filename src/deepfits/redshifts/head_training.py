"""Training a head on simulated objects, and adapting it to known redshifts.

Shapes: N objects, B bands, K inputs, G cells of ln(1 + z), V validation objects.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from deepfits.errors import NonFiniteLossError
from deepfits.progress import Progress, Task, silent
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.head import (
    CELL,
    NUM_CELLS,
    NUM_FLUXES,
    Examples,
    Head,
    build_network,
    narrowed,
    weights_of,
)
from deepfits.redshifts.learning import LIMIT, Standard
from deepfits.redshifts.networks import descend, one_cycle
from deepfits.redshifts.scene_light import SceneLight, head_inputs, input_names, reference_order
from deepfits.splits import evenly_spaced

MISSING = 0.08  # probability of dropping each band of a training example, for half of the examples
WRONG = 0.01
"""Probability of a gross error in a band, as in real photometry: a log-normal factor, with σ = 1 in ln."""
HIDDEN_FILTERS = 0.3  # probability that the filters of a training example are hidden
DEEPEST_CUT = 1.2
"""Natural logarithm of the largest factor by which half of the training examples are made noisier."""
NUM_REPLAY = 4000  # maximum number of simulated examples kept with a head, for its adaptation
RATE, WEIGHT_DECAY = 2e-3, 0.01
"""Learning rate of training on simulated examples; weight decay of this and of fine-tuning."""
ZERO_POINT_SIGMA = 0.05  # standard deviation of the prior on a zero point, magnitudes
ZERO_POINT_STEPS, MOST_FOR_ZERO_POINTS = 40, 1000
"""Number of gradient steps to fit the zero points, and maximum number of objects used."""
EPOCHS, PATIENCE = 40, 8
"""Maximum number of fine-tuning epochs, and the number without improvement after which it stops."""
TUNING_BATCH, TUNING_RATE = 64, 5e-4
"""Real examples per batch of fine-tuning, to which as many simulated ones are added, and the learning rate.
For the simulated ones, deviations from the original p(z) are penalised."""


class Minibatches:
    """Examples as tensors, with augmentation drawn anew for every batch: more noise, and missing bands."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.parts = examples.light.tensors()
        self.log = torch.as_tensor(np.log1p(np.clip(examples.redshift, 0, None)), dtype=torch.float32)
        self.kind = torch.as_tensor(examples.kind)
        self.weight = torch.as_tensor(examples.weight, dtype=torch.float32)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.log)

    def rows(self, number: int) -> torch.Tensor:
        """Draw rows at random, with replacement."""
        return torch.randint(len(self), (number,), generator=self.generator)

    def with_light_noise(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return measurements of the given rows with noise of 0.3 σ added."""
        parts = [part[rows] for part in self.parts]
        noise = 0.3 * torch.randn(parts[0].shape, generator=self.generator)
        for place in range(0, NUM_FLUXES, 2):
            parts[place] = parts[place] + parts[place + 1] * noise
        return parts

    def augmented(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return measurements of the given rows, augmented as if from other surveys.

        Half of the rows get more noise and, independently, half lose bands (at least two remain). A few bands
        get a gross error, and some rows do not know their filters.
        """
        parts = [part[rows] for part in self.parts]
        shape, draw = parts[0].shape, self.generator
        is_worse = torch.rand(len(rows), 1, generator=draw) < 0.5
        factor = torch.exp(DEEPEST_CUT * torch.rand(len(rows), 1, generator=draw) ** 2)
        factor = torch.where(is_worse, factor, torch.ones_like(factor))
        more = torch.sqrt(factor**2 - 1)
        noise = torch.randn(shape, generator=draw)
        for place in range(0, NUM_FLUXES, 2):  # the fluxes share most of their noise, as they share pixels
            own = noise if place == 0 else 0.8 * noise + 0.6 * torch.randn(shape, generator=draw)
            parts[place] = parts[place] + more * parts[place + 1] * own
            parts[place + 1] = parts[place + 1] * factor
        is_wrong = torch.rand(shape, generator=draw) < WRONG
        error = torch.exp(is_wrong * torch.randn(shape, generator=draw))
        for place in range(0, NUM_FLUXES, 2):
            parts[place] = parts[place] * error
        is_less = torch.rand(len(rows), 1, generator=draw) < 0.5
        lost = (torch.rand(shape, generator=draw) < MISSING) & is_less
        lost &= ((torch.isfinite(parts[0]) & ~lost).sum(1, keepdim=True)) >= 2
        is_hidden = torch.rand(len(rows), 1, generator=draw) < HIDDEN_FILTERS
        parts[-1] = torch.where(is_hidden, torch.nan, parts[-1])
        return [torch.where(lost, torch.nan, part) for part in parts]

    def loss(self, output: torch.Tensor, entropy: float, rows: Any = slice(None)) -> torch.Tensor:
        """Return `head_loss` of the networks' output for the given rows."""
        return head_loss(output, self.log[rows], self.kind[rows], self.weight[rows], entropy)


def head_loss(
    output: torch.Tensor, log: torch.Tensor, kind: torch.Tensor, weight: torch.Tensor, entropy: float
) -> torch.Tensor:
    """Return 20 CRPS of ln(1 + z) plus `entropy` times the cross-entropies of the redshift and the class.

    `output` ``(N, G + 3)`` has the logits of the cells of ln(1 + z) and of the classes; `log` ``(N,)`` is the
    true ln(1 + z), ignored for stars, and `kind` the index of the class.
    """
    logits = output[:, :NUM_CELLS]
    position = (log / CELL - 0.5).clamp(0, NUM_CELLS - 1.001)
    low = position.floor().long()
    fraction = position - low
    logp = torch.log_softmax(logits, 1)
    cross = -(
        (1 - fraction) * logp.gather(1, low[:, None])[:, 0]
        + fraction * logp.gather(1, low[:, None] + 1)[:, 0]
    )
    cumulative = torch.cumsum(logp.exp(), 1)
    edge = (torch.arange(NUM_CELLS) + 1) * CELL
    crps = ((cumulative - (edge >= log[:, None]).float()) ** 2).sum(1) * CELL
    each, used = 20 * crps + entropy * cross, weight * (kind != 1)
    redshift_loss = (used * each).sum() / used.sum().clamp(min=1e-6)
    class_loss = (weight * cross_entropy(output[:, NUM_CELLS:], kind, reduction="none")).mean()
    return redshift_loss + entropy * class_loss


def train_head(
    examples: Sequence[Examples],
    bands: Sequence[str],
    *,
    model_hash: str,
    steps: int,
    num_members: int = 3,
    channels: int = 192,
    batch: int = 384,
    seed: int = 0,
    unseen: Sequence[str] = (),
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Head:
    """Train a head on simulated objects, each network on one of the sets of examples, in turn.

    Networks trained on different sets of templates make different errors, so that their mean is more often
    right than a single network trained on everything.

    Inputs named in `unseen`, from `scene_light.INPUTS`, are hidden from the networks, for ablation studies.
    """
    rng = np.random.default_rng(seed)
    joined = Examples.join(examples)
    light = joined.light.take(rng.permutation(len(joined))[:20000])
    light.wavelength[rng.random(len(light)) < HIDDEN_FILTERS] = np.nan
    values = head_inputs(light.tensors(), reference_order(tuple(bands))).numpy()
    standard = Standard.learn(values)
    centre, scale = (each.astype(np.float32) for each in (standard.centre, standard.scale))
    scale[[name.partition("_")[0] in unseen for name in input_names(bands)]] = np.inf
    head = Head(
        bands=tuple(bands),
        model_hash=model_hash,
        centre=centre,
        scale=scale,
        channels=channels,
        members=(),
        zero_points=np.zeros(len(bands)),
        replay=_as_float32(joined.take(rng.permutation(len(joined))[:NUM_REPLAY])),
        domain=Domain.learn(((values - centre) / scale).clip(-LIMIT, LIMIT)[:4000]),
        about=about or {},
    )
    with progress("train a head", total=num_members * steps, unit="steps") as task:
        members = tuple(
            _train_member(head, some, number, seed + number, steps, batch, task)
            for number, some in zip(range(num_members), cycle(examples), strict=False)
        )
    return replace(head, members=members)


def _train_member(
    head: Head, examples: Examples, number: int, seed: int, steps: int, batch: int, task: Task
) -> dict[str, np.ndarray]:
    """Train one network of a head from random weights, and return its weights."""
    batches = Minibatches(examples, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(len(head.centre), head.channels)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    network.train()
    for step in range(steps):
        rows = batches.rows(batch)
        loss = batches.loss(network(head.standardised(batches.augmented(rows))), 1.0, rows)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"training a head: loss {loss.item()} in step {step + 1}")
        descend(network, optimiser, loss, RATE * one_cycle(step / steps, 0.05))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            task.advance(step % 100 + 1, f"network {number + 1}, loss {loss.item():.3f}")
    return weights_of(network)


def _as_float32(examples: Examples) -> Examples:
    """Return the examples in single precision, to save disk space."""
    light: dict[str, Any] = {n: value.astype(np.float32) for n, value in vars(examples.light).items()}
    return replace(
        examples,
        light=SceneLight(**light),
        redshift=examples.redshift.astype(np.float32),
        weight=examples.weight.astype(np.float32),
    )


def fit_zero_points(head: Head, examples: Examples) -> Head:
    """Fit a zero point per band by gradient descent on the networks' loss, with a Gaussian prior."""
    rows = evenly_spaced(len(examples), MOST_FOR_ZERO_POINTS)
    batches = Minibatches(examples.take(rows), 0)
    start = torch.as_tensor(head.zero_points, dtype=torch.float32)
    shift = torch.zeros(len(head.bands), requires_grad=True)
    optimiser = torch.optim.Adam([shift])
    for network in head.networks:
        network.requires_grad_(False)
    for step in range(ZERO_POINT_STEPS):
        optimiser.param_groups[0]["lr"] = 0.015 * one_cycle(step / ZERO_POINT_STEPS, 0.1)
        inputs = head.standardised(head.corrected(batches.parts, start + shift))
        each = [batches.loss(network(inputs), 0.3) for network in head.networks]
        loss = torch.stack(each).mean() + (shift**2).sum() / (2 * ZERO_POINT_SIGMA**2 * len(rows))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for network in head.networks:
        network.requires_grad_(True)
    return replace(head, zero_points=head.zero_points + shift.detach().double().numpy())


def suited(head: Head, examples: Examples, number: int) -> Head:
    """Return the head with zero points, and of its members the `number` with the lowest losses, best first.

    Members were trained on different templates (`train_head`), of which some are closer to real galaxies.
    """
    some = examples.take(evenly_spaced(len(examples), MOST_FOR_ZERO_POINTS))
    zeroed, truth = fit_zero_points(head, some), Minibatches(some, 0)
    inputs = torch.as_tensor(zeroed.inputs(some.light))
    with torch.no_grad():
        losses = [truth.loss(network(inputs), 0.3).item() for network in head.networks]
    members = tuple(head.members[place] for place in np.argsort(losses)[:number])
    return fit_zero_points(replace(head, members=members), some)


class _BestSoFar:
    """A network's weights at the lowest validation loss, and the validation objects' p(z).

    The density, ``(V, G)``, of each half of the validation objects is from the weights at the lowest loss of
    the other half.
    """

    def __init__(self, head: Head, left_out: Examples, network: Any) -> None:
        self.inputs = torch.as_tensor(head.inputs(left_out.light))
        self.truth = Minibatches(left_out, 0)
        self.weights, self.density = weights_of(network), torch.zeros(len(left_out), NUM_CELLS)
        self._least = {"first": np.inf, "second": np.inf, "all": np.inf}
        self.update(network)

    def update(self, network: Any) -> bool:
        """Compare the current network with the best so far; return whether it has the lowest overall loss."""
        first, second = slice(0, None, 2), slice(1, None, 2)
        with torch.no_grad():
            output = network(self.inputs)
        for name, judges, others in (("first", first, second), ("second", second, first)):
            if self._is_least(name, output, judges):
                self.density[others] = torch.softmax(output[others, :NUM_CELLS], 1)
        is_best = self._is_least("all", output, slice(None))
        if is_best:
            self.weights = weights_of(network)
        return is_best

    def _is_least(self, name: str, output: torch.Tensor, rows: slice) -> bool:
        loss, least = self.truth.loss(output[rows], 0.1, rows).item(), self._least[name]
        self._least[name] = min(loss, least)
        return loss < least


def fine_tuned(
    head: Head, number: int, train: Examples, left_out: Examples, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fine-tune one member of a head, with early stopping on the examples left out.

    The member before fine-tuning is among the candidates.

    Return the weights at the lowest validation loss, and p(z) on the cells for the objects left out. Each
    half of these is estimated with the weights that suit the other half best, so that early stopping on an
    object never affects its own estimate.
    """
    network = build_network(len(head.centre), head.channels, head.members[number % len(head.members)])
    real, simulated = (Minibatches(some, seed + number) for some in (train, head.replay))
    untuned = torch.as_tensor(head.densities_as_trained(head.replay.light)[0], dtype=torch.float32)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    best, since = _BestSoFar(head, left_out, network), 0
    steps = max(8, len(real) // TUNING_BATCH)
    for epoch in range(EPOCHS):
        for step in range(steps):
            rows = real.rows(min(TUNING_BATCH, len(real)))
            replayed = simulated.rows(len(rows))
            measured = head.corrected(real.with_light_noise(rows))
            pairs = zip(measured, simulated.augmented(replayed), strict=True)
            output = network(head.standardised([torch.cat(pair) for pair in pairs]))
            drift = torch.softmax(output[len(rows) :, :NUM_CELLS], 1) - untuned[replayed]
            loss = real.loss(output[: len(rows)], 0.3, rows)
            loss = loss + 20 * CELL * (torch.cumsum(drift, 1) ** 2).sum(1).mean()
            share = (epoch * steps + step) / (EPOCHS * steps)
            descend(network, optimiser, loss, TUNING_RATE * one_cycle(share, 0.1))
        since = 0 if best.update(network) else since + 1
        if since >= PATIENCE:
            break
    return best.weights, narrowed(best.density.double().numpy(), head.sharpness)
