"""Redshift networks that are taught before there are labels: on simulated galaxies, for any survey.

Shapes: N objects, B bands, K inputs, G cells of ln(1 + z), Q quantile levels.

A head is a few small networks from `deepfits.redshifts.scene_light` to p(z) on a grid and to the classes
galaxy, star and quasar. It takes errors as inputs and bands may be missing, so that one head serves every
depth. It can be adapted to known redshifts: by a zero point for each band, and by further training
(`deepfits.redshifts.head_training`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import ab_magnitude
from deepfits.redshifts import storage
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.learning import LIMIT
from deepfits.redshifts.pdf import LEVELS, sorted_quantiles
from deepfits.redshifts.scene_light import FLUXES, SceneLight, head_inputs, reference_order
from deepfits.redshifts.spectra import distance_modulus

if TYPE_CHECKING:
    import torch

HEAD = "head.json"
FORMAT = 7
"""Of a head on disk: others than of redshift models, so that heads that ship stay readable."""
CLASSES = ("galaxy", "star", "quasar")
NUM_CELLS = 240
LARGEST = float(np.log1p(6.5))
"""ln(1 + z) at the end of the grid."""
CELL = LARGEST / NUM_CELLS
CENTRES = (np.arange(NUM_CELLS) + 0.5) * CELL
NUM_FLUXES = 2 * len(FLUXES)
"""Of the measurements of `SceneLight`: fluxes, each with its error after it, which come first."""
MARGIN = 0.5
"""Magnitudes by which a galaxy may outshine the most luminous of those whose redshifts are known."""
SOFTNESS = 0.15
"""Magnitudes over which that limit falls."""
SHARPNESS = 1.2
"""The probability outside of each interval about the median is raised to this power: heads are taught to be
right over all populations that are drawn; those of a survey are more alike."""


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
        arrays = {name: getattr(self, name)[rows] for name in ("redshift", "kind", "weight")}
        return Examples(light=self.light.take(rows), **arrays)

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Return examples one after the other."""
        names = ("redshift", "kind", "weight")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(light=SceneLight.join([part.light for part in parts]), **arrays)

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
    sharpness
        By which p(z) is narrower than the networks' own.
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
    sharpness: float = SHARPNESS

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
            return self.standardised(self.corrected(light.tensors())).numpy()

    def corrected(self, parts: Sequence[torch.Tensor], zero_points: Any = None) -> list[torch.Tensor]:
        """Return measurements with zero points taken off, by default the head's own ``(B,)``."""
        import torch

        zero_points = torch.as_tensor(
            self.zero_points if zero_points is None else zero_points, dtype=torch.float32
        )
        factor = 10 ** (0.4 * zero_points)
        # the gradient of a band that is missing is 0, and not NaN
        fluxes, shapes = parts[:NUM_FLUXES], parts[NUM_FLUXES:]
        known = [torch.isfinite(flux) for flux in fluxes]
        return [
            torch.where(is_known, torch.where(is_known, flux, 0.0) * factor, torch.nan)
            for is_known, flux in zip(known, fluxes, strict=True)
        ] + list(shapes)

    def standardised(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return inputs of the networks from measurements, ``(N, K)``."""
        import torch

        values = head_inputs(parts, self.order)
        centre, scale = (torch.as_tensor(each, dtype=torch.float32) for each in (self.centre, self.scale))
        return torch.nan_to_num((values - centre) / scale).clamp(-LIMIT, LIMIT)

    def densities(self, light: SceneLight) -> tuple[np.ndarray, np.ndarray]:
        """Return p of the cells of ln(1 + z), ``(N, G)``, and of the classes, ``(N, 3)``."""
        density, kinds = self.densities_as_taught(light)
        return narrowed(density, self.sharpness), kinds

    def densities_as_taught(self, light: SceneLight) -> tuple[np.ndarray, np.ndarray]:
        """Return what `densities` does, as wide as the networks say."""
        import torch

        inputs = torch.as_tensor(self.inputs(light))
        density, kinds = np.zeros((len(light), NUM_CELLS)), np.zeros((len(light), len(CLASSES)))
        with torch.no_grad():
            for network in self.networks:
                network.eval()
                for start in range(0, len(inputs), 4096):
                    part = slice(start, start + 4096)
                    output = network(inputs[part])
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
        magnitude = ab_magnitude(light.total[:, self.order[0]])
        redshift = np.maximum(redshift, 1e-3)
        seen = magnitude if redshift.ndim == 1 else magnitude[:, None]
        return seen - distance_modulus(redshift) + 2.5 * np.log10(1 + redshift)

    def brightest(self, examples: Examples) -> float | None:
        """Return the luminosity beyond which there are no galaxies, from those of known redshift."""
        magnitude = self.luminosities(examples.light, examples.redshift)
        return float(np.nanmin(magnitude)) - MARGIN if np.isfinite(magnitude).any() else None

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
        head = storage.load(cls, directory, HEAD, what="redshift head", version=FORMAT)
        model = Path(directory).resolve().parent
        if not (model / "model.json").exists():
            return head
        from deepfits.models.bundle import Model

        beside = Model.load(model).fingerprint
        return head if head.serves(beside) else replace(head, also_for=(*head.also_for, beside))


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
    """Say where the predictions of a head come from, how well they did on real redshifts, and what helps."""
    lines = [
        "These redshifts come from simulated galaxies: no spectrum of this survey, or of any other, was seen."
    ]
    if head.also_for:
        serves = " and ".join((head.model_hash, *head.also_for))
        lines.append(f"The head serves fits of the models with fingerprints {serves}.")
    if measured := head.about.get("real"):
        lines.append(f"How well such predictions did on real redshifts: {measured}")
    lines.append(
        "With spectra, even a few: `deepfits redshift train FEATURES SPECTRA --method adapted --out MODEL`."
    )
    return " ".join(lines)


def _cumulative(density: np.ndarray) -> np.ndarray:
    """Return the distribution function at the edges of the cells, ``(N, G + 1)``, from 0 to 1."""
    function = np.concatenate([np.zeros((len(density), 1)), np.cumsum(density, axis=1)], axis=1)
    return np.asarray(function / function[:, -1:])


def narrowed(density: np.ndarray, power: float) -> np.ndarray:
    """Return p of the cells, ``(N, G)``, narrower about the same medians by `SHARPNESS` or another power."""
    sides = 2 * _cumulative(density) - 1
    inside = 1 - np.clip(1 - np.abs(sides), 0, 1) ** power
    return np.asarray(np.diff(np.sign(sides) * inside, axis=1) / 2)


def quantiles_of(density: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Return quantiles in z, ``(N, Q)``, of p on the cells of ln(1 + z), ``(N, G)``."""
    edges = np.arange(NUM_CELLS + 1) * CELL
    function = _cumulative(density) + np.linspace(0, 1e-9, NUM_CELLS + 1)
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
