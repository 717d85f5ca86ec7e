"""Redshift networks pretrained on simulated galaxies, usable for any survey without labels.

Shapes: N objects, B bands, K inputs, G cells of ln(1 + z), Q quantile levels.

A head is an ensemble of small networks that map the measurements of `deepfits.redshifts.scene_light` to p(z)
on a grid and to the probabilities of galaxy, star and quasar. Flux errors are among the inputs and bands may
be missing, so that one head serves surveys of any depth. A head can be adapted to known redshifts by a zero
point per band and by fine-tuning (`deepfits.redshifts.head_training`).
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
from deepfits.splits import PerObject, in_batches

if TYPE_CHECKING:
    import torch

HEAD = "head.json"
FORMAT = 7
"""Format version of a saved head, independent of the redshift models' so that shipped heads stay readable."""
CLASSES = ("galaxy", "star", "quasar")
NUM_CELLS = 240
LARGEST = float(np.log1p(6.5))  # ln(1 + z) at the upper end of the grid
CELL = LARGEST / NUM_CELLS
CENTRES = (np.arange(NUM_CELLS) + 0.5) * CELL
NUM_FLUXES = 2 * len(FLUXES)
"""Number of leading `SceneLight` arrays that are fluxes and their errors, interleaved."""
MARGIN = 0.5  # magnitudes by which a galaxy may outshine the most luminous one of known redshift
SOFTNESS = 0.15  # width in magnitudes over which that limit falls off
DISTANT, TRANSITION = float(np.log(3)), 4 * CELL
"""ln(1 + z) beyond which galaxies count as distant (z > 2), and the scale of the transition there."""
OUTPUT_BIAS = "6.bias"  # name of the bias of the last of the four linear layers; see `build_network`
SHARPNESS = 1.2
"""Power to which the probability outside each central interval is raised. Heads are trained to be calibrated
over all simulated populations; the galaxies of one survey are more alike, so p(z) may be narrower."""


@dataclass(frozen=True, kw_only=True)
class Examples(PerObject):
    """Training objects."""

    light: SceneLight  # measurements of the N objects
    redshift: np.ndarray  # (N,); ignored for stars
    kind: np.ndarray  # (N,): index into `CLASSES`
    weight: np.ndarray  # (N,): weight in the loss

    @classmethod
    def galaxies(cls, light: SceneLight, redshift: np.ndarray) -> Examples:
        """Make examples of galaxies of known redshift, with equal weights."""
        number = len(redshift)
        return cls(
            light=light,
            redshift=np.asarray(redshift, dtype=float),
            kind=np.zeros(number, dtype=np.int64),
            weight=np.ones(number),
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """A trained head."""

    bands: tuple[str, ...]
    model_hash: str  # fingerprint of the model whose fits the head was trained on
    centre: np.ndarray  # (K,): standardisation of the inputs
    scale: np.ndarray  # (K,)
    channels: int  # width of each of the three hidden layers
    members: tuple[dict[str, np.ndarray], ...]  # weights of each network, by parameter name
    zero_points: np.ndarray  # (B,): magnitudes subtracted from the observed ones
    # Simulated examples that are replayed during adaptation so that the head does not forget them.
    replay: Examples
    domain: Domain  # domain of the simulated galaxies in the space of the inputs
    about: dict[str, Any] = field(default_factory=dict)  # how the head was trained, and its accuracy
    # Fingerprints of further models whose fits the head has been validated on and also serves.
    also_for: tuple[str, ...] = ()
    sharpness: float = SHARPNESS  # power by which p(z) is narrowed; see `SHARPNESS`

    def is_for(self, model_hash: str) -> bool:
        """Return whether the head may be used with the fits of a model."""
        return model_hash in (self.model_hash, *self.also_for)

    @cached_property
    def networks(self) -> list[Any]:
        """The `torch.nn.Module` of each member."""
        return [build_network(len(self.centre), self.channels, member) for member in self.members]

    @property
    def order(self) -> list[int]:
        """Indices of the bands in order of preference as the reference band."""
        return reference_order(self.bands)

    def inputs(self, light: SceneLight) -> np.ndarray:
        """Return the standardised inputs of the networks, ``(N, K)``; 0 where missing."""
        import torch

        with torch.no_grad():
            return self.standardised(self.corrected(light.tensors())).numpy()

    def corrected(self, parts: Sequence[torch.Tensor], zero_points: Any = None) -> list[torch.Tensor]:
        """Return measurements corrected for zero points ``(B,)``, by default the head's own."""
        import torch

        zero_points = torch.as_tensor(
            self.zero_points if zero_points is None else zero_points, dtype=torch.float32
        )
        factor = 10 ** (0.4 * zero_points)
        # the inner `where` keeps the gradient of a missing band 0 rather than NaN
        fluxes, shapes = parts[:NUM_FLUXES], parts[NUM_FLUXES:]
        known = [torch.isfinite(flux) for flux in fluxes]
        return [
            torch.where(is_known, torch.where(is_known, flux, 0.0) * factor, torch.nan)
            for is_known, flux in zip(known, fluxes, strict=True)
        ] + list(shapes)

    def standardised(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the standardised inputs of the networks, ``(N, K)``, as a tensor, from `parts`."""
        import torch

        values = head_inputs(parts, self.order)
        centre, scale = (torch.as_tensor(each, dtype=torch.float32) for each in (self.centre, self.scale))
        return torch.nan_to_num((values - centre) / scale).clamp(-LIMIT, LIMIT)

    def densities(self, light: SceneLight) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of the cells of ln(1 + z), ``(N, G)``, and of the classes, ``(N, 3)``."""
        density, kinds = self.densities_as_trained(light)
        return narrowed(density, self.sharpness), kinds

    def densities_as_trained(self, light: SceneLight) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `densities`, without narrowing p(z)."""
        import torch

        def of(inputs: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                outputs = [network.eval()(torch.as_tensor(inputs)) for network in self.networks]
            pairs = [output.split([NUM_CELLS, len(CLASSES)], 1) for output in outputs]
            return [
                np.mean([torch.softmax(part, 1).double().numpy() for part in same], axis=0)
                for same in zip(*pairs, strict=True)
            ]

        density, kinds = in_batches(of, self.inputs(light))
        return density, kinds

    def quantiles(self, light: SceneLight, brightest: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the quantiles of `limited` p(z), ``(N, Q)``, and the probabilities of the classes."""

        def of(part: SceneLight) -> list[np.ndarray]:
            density, kinds = self.densities(part)
            return [quantiles_of(self.limited(density, part, brightest)), kinds]

        quantiles, kinds = in_batches(of, light)
        return quantiles, kinds

    def luminosities(self, light: SceneLight, redshift: np.ndarray) -> np.ndarray:
        """Return absolute magnitudes in the reference band, ``(N, ...)``; NaN where that band has no data.

        They are of the scene's total flux, at the rest-frame wavelength at which the observed light was
        emitted, so that no K-correction and hence no spectrum is needed.

        `redshift` is ``(N,)``, or ``(1, G)`` to evaluate every object at G redshifts.
        """
        magnitude = ab_magnitude(light.total[:, self.order[0]])
        redshift = np.maximum(redshift, 1e-3)
        apparent = magnitude if redshift.ndim == 1 else magnitude[:, None]
        return apparent - distance_modulus(redshift) + 2.5 * np.log10(1 + redshift)

    def brightest(self, examples: Examples) -> float | None:
        """Return the absolute magnitude of the brightest plausible galaxy, from those of known redshift.

        None where no example has a magnitude in the reference band.
        """
        magnitude = self.luminosities(examples.light, examples.redshift)
        return float(np.nanmin(magnitude)) - MARGIN if np.isfinite(magnitude).any() else None

    def limited(self, density: np.ndarray, light: SceneLight, brightest: float | None) -> np.ndarray:
        """Return p(z) on the cells, ``(N, G)``, suppressed where a galaxy would exceed a luminosity limit."""
        if brightest is None:
            return density
        beyond = np.nan_to_num(brightest - self.luminosities(light, np.expm1(CENTRES)[None]), nan=-np.inf)
        out = density / (1 + np.exp(np.clip(beyond / SOFTNESS, -50, 50)))
        return np.asarray(out / out.sum(axis=1, keepdims=True))

    def reweighted(self, factor: float) -> Head:
        """Return the head for a population with `factor` times as many galaxies beyond `DISTANT`.

        By Bayes' theorem p(z) is multiplied there by this factor, so its logarithm is added to the output
        biases of the networks.
        """
        change = np.zeros(NUM_CELLS + len(CLASSES))
        change[:NUM_CELLS] = np.log(factor) / (1 + np.exp((DISTANT - CENTRES) / TRANSITION))
        members = [
            member | {OUTPUT_BIAS: (member[OUTPUT_BIAS] + change).astype(np.float16)}
            for member in self.members
        ]
        about = {**self.about, "distant_weight": factor * self.about.get("distant_weight", 1.0)}
        return replace(self, members=tuple(members), about=about)

    def without_replay(self) -> Head:
        """Return the head without its simulated examples, which predicting does not need."""
        return replace(self, replay=self.replay.take(np.arange(0)))

    def save(self, directory: str | Path) -> None:
        """Write ``head.json`` and its arrays; see `deepfits.redshifts.storage`."""
        storage.save(self, directory, HEAD, version=FORMAT)

    @classmethod
    def load(cls, directory: str | Path) -> Head:
        """Read a head written by `save`; one inside a model's directory also serves that model."""
        head = storage.load(cls, directory, HEAD, what="redshift head", version=FORMAT)
        model = Path(directory).resolve().parent
        if not (model / "model.json").exists():
            return head
        from deepfits.models.bundle import Model

        beside = Model.load(model).fingerprint
        return head if head.is_for(beside) else replace(head, also_for=(*head.also_for, beside))


def head_directory(model_hash: str) -> Path:
    """Return the directory of the head that ships with a built-in model."""
    from deepfits.models.bundle import BUILTIN_DIRECTORY

    for place in sorted(BUILTIN_DIRECTORY.glob(f"*/head/{HEAD}")):
        if Head.load(place.parent).is_for(model_hash):
            return place.parent
    raise InputError(
        f"no head ships with model {model_hash}, which these features were fitted with; fit with "
        "builtin:ugriz, or train a head for your model (`deepfits redshift pretrain --model MODEL --out "
        "HEAD`) and give its directory"
    )


def disclaimer(head: Head) -> str:
    """Return a note on how a head was trained, its accuracy on real redshifts, and how to improve on it."""
    lines = [
        "These redshifts come from simulated galaxies: no spectrum of this survey or any other was used."
    ]
    if head.also_for:
        lines.append("The head was trained on fits of an earlier version of this model.")
    if measured := head.about.get("real"):
        lines.append(f"Accuracy of such predictions on real redshifts: {measured}")
    lines.append(
        "If there are spectra, even a few, use them: `deepfits redshift train FEATURES SPECTRA --out MODEL`."
    )
    return " ".join(lines)


def _cumulative(density: np.ndarray) -> np.ndarray:
    """Return the cumulative distribution at the edges of the cells, ``(N, G + 1)``, from 0 to 1."""
    function = np.concatenate([np.zeros((len(density), 1)), np.cumsum(density, axis=1)], axis=1)
    return np.asarray(function / function[:, -1:])


def narrowed(density: np.ndarray, power: float) -> np.ndarray:
    """Return p(z) on the cells, ``(N, G)``, narrowed about its median by a power such as `SHARPNESS`."""
    sides = 2 * _cumulative(density) - 1
    inside = 1 - np.clip(1 - np.abs(sides), 0, 1) ** power
    return np.asarray(np.diff(np.sign(sides) * inside, axis=1) / 2)


def quantiles_of(density: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Return quantiles in z, ``(N, Q)``, of distributions on the cells of ln(1 + z), ``(N, G)``."""
    edges = np.arange(NUM_CELLS + 1) * CELL
    function = _cumulative(density) + np.linspace(0, 1e-9, NUM_CELLS + 1)
    out = np.stack([np.interp(levels, row, edges) for row in function])
    return sorted_quantiles(np.expm1(out))


def point_of(density: np.ndarray, loss: str) -> np.ndarray:
    """Return the point estimate that suits a loss, ``(N,)``: the mean of z if squared, else the median."""
    if loss == "squared":
        return np.asarray(density @ np.expm1(CENTRES) / density.sum(axis=1))
    return quantiles_of(density, np.array([0.5]))[:, 0]


def build_network(num_inputs: int, channels: int, weights: dict[str, np.ndarray] | None = None) -> Any:
    """Build a network with the given weights, or with random ones drawn from PyTorch's global generator."""
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
