"""Redshift networks that are taught before there are labels: on simulated galaxies, for any survey.

Shapes: N objects, B bands, K inputs, G cells of ln(1 + z), Q quantile levels.

A head is a few small networks from `deepfits.redshifts.scene_light` to p(z) on a grid and to the classes
galaxy, star and quasar. It takes errors as inputs and bands may be missing, so that one head serves every
depth. It can be adapted to known redshifts: by a zero point for each band, and by further training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.photometry import NJY_ZERO_POINT
from deepfits.progress import Progress, silent
from deepfits.redshifts import storage
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.networks import one_cycle
from deepfits.redshifts.pdf import LEVELS, sorted_quantiles
from deepfits.redshifts.scene_light import FLUXES, SceneLight, head_inputs, input_names, reference_order

if TYPE_CHECKING:
    import torch

HEAD = "head.json"
FORMAT = 5
"""Of a head on disk: others than of redshift models, so that heads that ship stay readable."""
CLASSES = ("galaxy", "star", "quasar")
NUM_CELLS = 240
LARGEST = float(np.log1p(6.5))
"""ln(1 + z) at the end of the grid."""
CELL = LARGEST / NUM_CELLS
CENTRES = (np.arange(NUM_CELLS) + 0.5) * CELL
NUM_FLUXES = 2 * len(FLUXES)
"""Of the measurements of `SceneLight`: fluxes, each with its error after it, which come first."""
LIMIT = 8.0
MARGIN = 0.5
"""Magnitudes by which a galaxy may outshine the most luminous of those whose redshifts are known."""
SOFTNESS = 0.15
"""Magnitudes over which that limit falls."""
MISSING = 0.08
"""Chance of each band to be left out of a training example, for a half of the examples."""
DEEPEST_CUT = 1.2
"""Training examples are made noisier by factors up to e to this, a half of them."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Objects to learn from.

    Attributes
    ----------
    light
        N measurements.
    redshift
        ``(N,)``; of stars it does not count.
    kind
        ``(N,)``: place in `CLASSES`.
    weight
        ``(N,)``.
    """

    light: SceneLight
    redshift: np.ndarray
    kind: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.redshift)

    def take(self, rows: np.ndarray) -> Examples:
        """Return some rows."""
        return Examples(
            light=self.light.take(rows),
            redshift=self.redshift[rows],
            kind=self.kind[rows],
            weight=self.weight[rows],
        )

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Return examples one after the other."""
        names = ("redshift", "kind", "weight")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in names
        }
        return cls(light=SceneLight.join([part.light for part in parts]), **joined)

    @classmethod
    def galaxies(cls, light: SceneLight, redshift: np.ndarray) -> Examples:
        """Return galaxies of known redshift, each counting the same."""
        number = len(redshift)
        return cls(
            light=light,
            redshift=np.asarray(redshift, dtype=float),
            kind=np.zeros(number, dtype=np.int64),
            weight=np.ones(number),
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """A taught head.

    Attributes
    ----------
    bands
        B names.
    model_hash
        Of the model whose fits it was taught on.
    centre, scale
        ``(K,)``: standardisation of its inputs.
    channels
        Of each of the three hidden layers.
    members
        Weights of the networks by name.
    zero_points
        ``(B,)`` magnitudes that are taken off the observed ones.
    replay
        Simulated examples that keep a head what it is while it is adapted.
    domain
        Where the simulated galaxies lie.
    about
        How it was taught, and how well it did.
    also_for
        Further models, by their hashes, whose fits it was tried on and serves as well.
    """

    bands: tuple[str, ...]
    model_hash: str
    centre: np.ndarray
    scale: np.ndarray
    channels: int
    members: tuple[dict[str, np.ndarray], ...]
    zero_points: np.ndarray
    replay: Examples
    domain: Domain
    about: dict[str, Any] = field(default_factory=dict)
    also_for: tuple[str, ...] = ()

    def serves(self, model_hash: str) -> bool:
        """Return whether it may be used with the fits of a model."""
        return model_hash in (self.model_hash, *self.also_for)

    @cached_property
    def networks(self) -> list[Any]:
        """The `torch.nn.Module` of each member."""
        return [built(len(self.centre), self.channels, member) for member in self.members]

    @property
    def order(self) -> list[int]:
        """Places of the bands as they serve as the reference."""
        return reference_order(self.bands)

    def inputs(self, light: SceneLight) -> np.ndarray:
        """Return standardised inputs of the networks, ``(N, K)``; 0 where missing."""
        import torch

        with torch.no_grad():
            return self._standardised(self._corrected(light.tensors())).numpy()

    def _corrected(self, parts: Sequence[torch.Tensor], zero_points: Any = None) -> list[torch.Tensor]:
        import torch

        zero_points = torch.as_tensor(
            self.zero_points if zero_points is None else zero_points, dtype=torch.float32
        )
        factor = 10 ** (0.4 * zero_points)
        # the gradient of a band that is missing is 0, and not NaN
        fluxes, shapes = parts[:NUM_FLUXES], parts[NUM_FLUXES:]
        known = [torch.isfinite(one) for one in fluxes]
        return [
            torch.where(is_known, torch.where(is_known, one, 0.0) * factor, torch.nan)
            for is_known, one in zip(known, fluxes, strict=True)
        ] + list(shapes)

    def _standardised(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        values = head_inputs(parts, self.order)
        centre, scale = (torch.as_tensor(one, dtype=torch.float32) for one in (self.centre, self.scale))
        return torch.nan_to_num((values - centre) / scale).clamp(-LIMIT, LIMIT)

    def densities(self, light: SceneLight) -> tuple[np.ndarray, np.ndarray]:
        """Return p of the cells of ln(1 + z), ``(N, G)``, and of the classes, ``(N, 3)``."""
        import torch

        inputs = torch.as_tensor(self.inputs(light))
        density, kinds = np.zeros((len(light), NUM_CELLS)), np.zeros((len(light), len(CLASSES)))
        with torch.no_grad():
            for network in self.networks:
                network.eval()
                for start in range(0, len(inputs), 4096):
                    output = network(inputs[start : start + 4096])
                    part = slice(start, start + 4096)
                    density[part] += torch.softmax(output[:, :NUM_CELLS], 1).double().numpy()
                    kinds[part] += torch.softmax(output[:, NUM_CELLS:], 1).double().numpy()
        return density / len(self.networks), kinds / len(self.networks)

    def luminosities(self, light: SceneLight, redshift: np.ndarray) -> np.ndarray:
        """Return absolute magnitudes in the band that serves as the reference, NaN without it: ``(N, ...)``.

        They are of the total light, at the rest wavelength where it was emitted: no spectrum is asked for.

        Parameters
        ----------
        redshift
            ``(N,)``, or ``(1, G)`` for each of G.
        """
        from astropy.cosmology import FlatLambdaCDM

        total = light.total[:, self.order[0]]
        with np.errstate(invalid="ignore", divide="ignore"):
            magnitude = NJY_ZERO_POINT - 2.5 * np.log10(np.where(total > 0, total, np.nan))
        redshift = np.maximum(redshift, 1e-3)
        modulus = FlatLambdaCDM(H0=70.0, Om0=0.3).distmod(redshift).value
        seen = magnitude if redshift.ndim == 1 else magnitude[:, None]
        return np.asarray(seen - modulus + 2.5 * np.log10(1 + redshift))

    def brightest(self, examples: Examples) -> float | None:
        """Return the luminosity beyond which there are no galaxies, from those of known redshift."""
        found = self.luminosities(examples.light, examples.redshift)
        return float(np.nanmin(found)) - MARGIN if np.isfinite(found).any() else None

    def limited(self, density: np.ndarray, light: SceneLight, brightest: float | None) -> np.ndarray:
        """Return p of the cells, ``(N, G)``, without galaxies more luminous than a limit."""
        if brightest is None:
            return density
        beyond = np.nan_to_num(brightest - self.luminosities(light, np.expm1(CENTRES)[None]), nan=-np.inf)
        out = density / (1 + np.exp(np.clip(beyond / SOFTNESS, -50, 50)))
        return np.asarray(out / out.sum(axis=1, keepdims=True))

    def without_replay(self) -> Head:
        """Return it without the simulated examples: enough to predict with."""
        return replace(self, replay=self.replay.take(np.arange(0)))

    def save(self, directory: str | Path) -> None:
        """Write ``head.json`` and its arrays; see `deepfits.redshifts.storage`."""
        storage.save(self, directory, HEAD, version=FORMAT)

    @classmethod
    def load(cls, directory: str | Path) -> Head:
        """Read back `save`; a head that lies in a model's directory serves that model."""
        found = storage.load(cls, directory, HEAD, what="redshift head", version=FORMAT)
        model = Path(directory).resolve().parent
        if not (model / "model.json").exists():
            return found
        from deepfits.models.bundle import Model

        beside = Model.load(model).fingerprint
        return found if found.serves(beside) else replace(found, also_for=(*found.also_for, beside))


def head_directory(model_hash: str) -> Path:
    """Return where the head lies that came with a model.

    Raises
    ------
    InputError
        None came with it.
    """
    from deepfits.models.bundle import BUILTIN_DIRECTORY

    for place in sorted(BUILTIN_DIRECTORY.glob(f"*/head/{HEAD}")):
        if Head.load(place.parent).serves(model_hash):
            return place.parent
    raise InputError(
        f"no head came with model {model_hash}, which these features were fitted with; fit with "
        "builtin:ugriz, or teach a head for your model (`deepfits redshift pretrain --model MODEL --out "
        "HEAD`) and name it"
    )


def disclaimer(head: Head) -> str:
    """Measure the predictions of a head."""
    lines = [
        "These redshifts come from simulated galaxies: no spectrum of this survey, or of any other, was seen."
    ]
    if head.also_for:
        lines.append(
            f"The head was taught on fits of another model, {head.model_hash}, and serves this one too."
        )
    if measured := head.about.get("real"):
        lines.append(f"How well such predictions did on real redshifts: {measured}")
    lines.append(
        "With spectra, even a few: `deepfits redshift train FEATURES SPECTRA --method adapted --out MODEL`."
    )
    return " ".join(lines)


def quantiles_of(density: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Return quantiles in z, ``(N, Q)``, of p on the cells of ln(1 + z), ``(N, G)``."""
    edges = np.arange(NUM_CELLS + 1) * CELL
    function = np.concatenate([np.zeros((len(density), 1)), np.cumsum(density, axis=1)], axis=1)
    function /= function[:, -1:]
    function += np.linspace(0, 1e-9, NUM_CELLS + 1)
    out = np.stack([np.interp(levels, row, edges) for row in function])
    return sorted_quantiles(np.expm1(out))


def point_of(density: np.ndarray, loss: str) -> np.ndarray:
    """Return the estimate that a loss asks for, ``(N,)``: the mean of z, or its median."""
    if loss == "squared":
        return np.asarray(density @ np.expm1(CENTRES) / density.sum(axis=1))
    return quantiles_of(density, np.array([0.5]))[:, 0]


def built(num_inputs: int, channels: int, weights: dict[str, np.ndarray] | None = None) -> Any:
    """Make a network with these weights, or with random ones from PyTorch's own generator as it stands."""
    import torch
    from torch import nn

    sizes = [num_inputs, channels, channels, channels]
    layers: list[Any] = []
    with torch.random.fork_rng(enabled=weights is not None):
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        network = nn.Sequential(*layers, nn.Linear(channels, NUM_CELLS + len(CLASSES)))
    if weights is not None:
        network.load_state_dict({k: torch.tensor(v.astype(np.float32)) for k, v in weights.items()})
    return network


def weights_of(network: Any) -> dict[str, np.ndarray]:
    """Return a network's weights in half precision, by name."""
    return {k: v.detach().cpu().numpy().astype(np.float16) for k, v in network.state_dict().items()}


class Minibatches:
    """Examples as tensors, disturbed anew in every batch: noisier, and with bands missing."""

    def __init__(self, examples: Examples, seed: int) -> None:
        import torch

        self.parts = examples.light.tensors()
        self.log = torch.as_tensor(np.log1p(np.clip(examples.redshift, 0, None)), dtype=torch.float32)
        self.kind = torch.as_tensor(examples.kind)
        self.weight = torch.as_tensor(examples.weight, dtype=torch.float32)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.log)

    def rows(self, number: int) -> torch.Tensor:
        """Pick rows at random."""
        import torch

        return torch.randint(len(self), (number,), generator=self.generator)

    def lightly_disturbed(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return measurements of some rows with a little noise of their own."""
        import torch

        parts = [one[rows] for one in self.parts]
        noise = 0.3 * torch.randn(parts[0].shape, generator=self.generator)
        for place in range(0, NUM_FLUXES, 2):
            parts[place] = parts[place] + parts[place + 1] * noise
        return parts

    def disturbed(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return measurements of some rows, half of them as a shallower survey with fewer bands has them."""
        import torch

        parts = [one[rows] for one in self.parts]
        shape, draw = parts[0].shape, self.generator
        is_worse = torch.rand(len(rows), 1, generator=draw) < 0.5
        factor = torch.exp(DEEPEST_CUT * torch.rand(len(rows), 1, generator=draw) ** 2)
        factor = torch.where(is_worse, factor, torch.ones_like(factor))
        more = torch.sqrt(factor**2 - 1)
        noise = torch.randn(shape, generator=draw)
        for place in range(0, NUM_FLUXES, 2):  # mostly the noise of the same pixels
            own = noise if place == 0 else 0.8 * noise + 0.6 * torch.randn(shape, generator=draw)
            parts[place] = parts[place] + more * parts[place + 1] * own
            parts[place + 1] = parts[place + 1] * factor
        is_less = torch.rand(len(rows), 1, generator=draw) < 0.5
        lost = (torch.rand(shape, generator=draw) < MISSING) & is_less
        lost &= ((torch.isfinite(parts[0]) & ~lost).sum(1, keepdim=True)) >= 2
        return [torch.where(lost, torch.nan, one) for one in parts]


def head_loss(
    output: torch.Tensor, log: torch.Tensor, kind: torch.Tensor, weight: torch.Tensor, entropy: float
) -> torch.Tensor:
    """Return CRPS of ln(1 + z) and `entropy` times the cross-entropies, of redshifts and of classes."""
    import torch
    from torch.nn.functional import cross_entropy

    logits = output[:, :NUM_CELLS]
    at = (log / CELL - 0.5).clamp(0, NUM_CELLS - 1.001)
    low = at.floor().long()
    share = at - low
    logp = torch.log_softmax(logits, 1)
    near = -(
        (1 - share) * logp.gather(1, low[:, None])[:, 0] + share * logp.gather(1, low[:, None] + 1)[:, 0]
    )
    function = torch.cumsum(logp.exp(), 1)
    edge = (torch.arange(NUM_CELLS) + 1) * CELL
    crps = ((function - (edge >= log[:, None]).float()) ** 2).sum(1) * CELL
    has = weight * (kind != 1)
    of_redshift = (has * (20 * crps + entropy * near)).sum() / has.sum().clamp(min=1e-6)
    return (
        of_redshift + entropy * (weight * cross_entropy(output[:, NUM_CELLS:], kind, reduction="none")).mean()
    )


def teach(
    examples: Examples,
    bands: Sequence[str],
    *,
    model_hash: str,
    steps: int,
    num_members: int = 3,
    channels: int = 192,
    batch: int = 384,
    rate: float = 2e-3,
    num_replay: int = 4000,
    seed: int = 0,
    unseen: Sequence[str] = (),
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Head:
    """Teach a head on simulated objects.

    Parameters
    ----------
    unseen
        Inputs to hide from the networks, of `scene_light.INPUTS`: to find out what they bring.
    """
    import torch

    rng = np.random.default_rng(seed)
    order = reference_order(tuple(bands))
    some = examples.light.take(rng.permutation(len(examples))[:20000])
    values = head_inputs(some.tensors(), order).numpy()
    low, centre, high = np.nanquantile(values, [0.16, 0.5, 0.84], axis=0)
    centre = np.nan_to_num(centre).astype(np.float32)
    scale = np.nan_to_num(np.where(high > low, (high - low) / 2, 1.0), nan=1.0).astype(np.float32)
    hidden = [place for place, one in enumerate(input_names(bands)) if one.partition("_")[0] in unseen]
    scale[hidden] = np.inf
    places = rng.permutation(len(examples))
    head = Head(
        bands=tuple(bands),
        model_hash=model_hash,
        centre=centre,
        scale=scale,
        channels=channels,
        members=(),
        zero_points=np.zeros(len(bands)),
        replay=as_float32(examples.take(places[:num_replay])),
        domain=Domain.learn(((values - centre) / scale).clip(-LIMIT, LIMIT)[:4000]),
        about=about or {},
    )
    members = []
    with progress("teach a head", total=num_members * steps, unit="steps") as task:
        for number in range(num_members):
            batches = Minibatches(examples, seed + number)
            with torch.random.fork_rng():
                torch.manual_seed(seed + number)
                network = built(len(centre), channels)
            optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
            network.train()
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = rate * one_cycle(step / steps, 0.05)
                rows = batches.rows(batch)
                output = network(head._standardised(batches.disturbed(rows)))
                loss = head_loss(output, batches.log[rows], batches.kind[rows], batches.weight[rows], 1.0)
                if not torch.isfinite(loss):
                    raise NonFiniteLossError(f"teaching a head: loss {loss.item()} in step {step + 1}")
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                if (step + 1) % 100 == 0:
                    task.advance(100, f"network {number + 1}, loss {loss.item():.3f}")
            members.append(weights_of(network))
    return replace(head, members=tuple(members))


def fit_zero_points(
    head: Head,
    examples: Examples,
    *,
    prior: float = 0.05,
    steps: int = 40,
    rate: float = 0.015,
    most: int = 1000,
) -> Head:
    """Learn a zero point for each band through the networks: the best loss with a Gaussian prior.

    Parameters
    ----------
    prior
        Standard deviation of a zero point, magnitudes.
    most
        Objects that are looked at, at most.
    """
    import torch

    rows = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).astype(int))
    batches = Minibatches(examples.take(rows), 0)
    start = torch.as_tensor(head.zero_points, dtype=torch.float32)
    shift = torch.zeros(len(head.bands), requires_grad=True)
    optimiser = torch.optim.Adam([shift], lr=rate)
    for network in head.networks:
        network.requires_grad_(False)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * one_cycle(step / steps, 0.1)
        inputs = head._standardised(head._corrected(batches.parts, start + shift))
        each = [
            head_loss(network(inputs), batches.log, batches.kind, batches.weight, 0.3)
            for network in head.networks
        ]
        loss = torch.stack(each).mean() + (shift**2).sum() / (2 * prior**2 * len(rows))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for network in head.networks:
        network.requires_grad_(True)
    return replace(head, zero_points=head.zero_points + shift.detach().double().numpy())


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a head is trained further on known redshifts.

    Attributes
    ----------
    epochs, patience
        At most so many passes through the labels; stop after so many without a better loss of those left out.
    replay
        Simulated examples in a batch, for each real one; they are asked what the untuned head said.
    """

    epochs: int = 40
    patience: int = 8
    batch: int = 64
    rate: float = 5e-4
    weight_decay: float = 0.01
    replay: float = 1.0
    seed: int = 0


def fine_tuned(
    head: Head, number: int, train: Examples, left_out: Examples, config: TuneConfig
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Train one member of a head further, and keep its weights at the best loss of what is left out.

    The untrained member is among those that are compared.

    Returns
    -------
    weights
        Of the trained network.
    density
        ``(V, G)``: p on the cells for the V left out. Each half of them is told by the weights that suit the
        other half best, so that no object had a say in when the network that speaks of it stopped.
    """
    import torch

    torch_seed = config.seed + number
    network = built(len(head.centre), head.channels, head.members[number % len(head.members)])
    real, others = Minibatches(train, torch_seed), Minibatches(head.replay, torch_seed)
    inputs = torch.as_tensor(head.inputs(left_out.light))
    truth = Minibatches(left_out, 0)
    predicted = torch.as_tensor(head.densities(head.replay.light)[0], dtype=torch.float32)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    halves = (slice(0, None, 2), slice(1, None, 2))
    least = {"first": np.inf, "second": np.inf, "all": np.inf}
    density = torch.zeros(len(truth), NUM_CELLS)
    weights, since = weights_of(network), 0

    def is_best() -> bool:
        """Compare the network as it stands with the best so far; say whether it is the best for all."""
        nonlocal weights
        with torch.no_grad():
            output = network(inputs)

        def is_less(name: str, rows: slice) -> bool:
            loss = head_loss(output[rows], truth.log[rows], truth.kind[rows], truth.weight[rows], 0.1).item()
            found, least[name] = loss < least[name], min(loss, least[name])
            return found

        for name, judges, spoken_of in (("first", *halves), ("second", *halves[::-1])):
            if is_less(name, judges):
                density[spoken_of] = torch.softmax(output[spoken_of, :NUM_CELLS], 1)
        found = is_less("all", slice(None))
        if found:
            weights = weights_of(network)
        return found

    is_best()
    steps = max(8, len(real) // config.batch)
    for epoch in range(config.epochs):
        for step in range(steps):
            share = (epoch * steps + step) / (config.epochs * steps)
            optimiser.param_groups[0]["lr"] = config.rate * one_cycle(share, 0.1)
            rows = real.rows(min(config.batch, len(real)))
            again = others.rows(max(1, int(config.replay * len(rows))))
            parts = [
                torch.cat(pair)
                for pair in zip(
                    head._corrected(real.lightly_disturbed(rows)),
                    others.disturbed(again),
                    strict=True,
                )
            ]
            output = network(head._standardised(parts))
            mine, sim = output[: len(rows)], output[len(rows) :]
            loss = head_loss(mine, real.log[rows], real.kind[rows], real.weight[rows], 0.3)
            gap = torch.cumsum(torch.softmax(sim[:, :NUM_CELLS], 1) - predicted[again], 1)
            loss = loss + config.replay * 20 * CELL * (gap**2).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        since = 0 if is_best() else since + 1
        if since >= config.patience:
            break
    return weights, density.double().numpy()


def as_float32(examples: Examples) -> Examples:
    """Return the same, smaller on disk."""
    light: dict[str, Any] = {n: value.astype(np.float32) for n, value in vars(examples.light).items()}
    return replace(
        examples,
        light=SceneLight(**light),
        redshift=examples.redshift.astype(np.float32),
        weight=examples.weight.astype(np.float32),
    )
