"""The distance between two galaxies, in units of variations that are not intrinsic to a galaxy.

Shapes: N objects, L latent dimensions, B bands.

A latent also encodes a galaxy's orientation and parity, its position relative to the pixels, and the noise.
These nuisances fill most directions of the latent: by Euclidean distance, the nearest neighbours of a galaxy
are those that happen to be oriented like it. Their effect can be measured without labels: model images are
rotated, mirrored, shifted by fractions of a pixel and given noise, and then embedded. With C the covariance
of these embeddings about those of the original images, and P that of embeddings of latents drawn from the
posteriors of fits,

    S = C + P,    distance² = (a − b)ᵀ (S + ε·tr(S)/L)⁻¹ (a − b) / L,

so that directions dominated by nuisances, or left undetermined by a fit, have little weight. One P serves all
objects: individual ones differ by some tenths, and distances with a P of each pair find no better neighbours
(docs/decisions).

Source: within-class covariance normalisation (Hatch & Stolcke 2006, ICASSP), here with classes that need no
labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepfits.errors import InputError, naming
from deepfits.files import read_json, write_json
from deepfits.symmetries import NUM_SYMMETRIES, symmetry

if TYPE_CHECKING:
    import torch

    from deepfits.fitting.forward import ForwardModel

FILE = "_similarity.json"
RIDGE = 0.01
MOST_DRAWN = 256
NUM_POSTERIOR_DRAWS = 4
SHRINKAGE_STRENGTH = 16.0
"""Strength of the prior for comparing galaxies: real ones are nearer to the origin than prior draws."""


def latent_distance(latent: np.ndarray) -> np.ndarray:
    """Return the root mean square of latents, 1 for a typical draw of the prior: ``(N, L)`` to ``(N,)``.

    Examples
    --------
    >>> float(latent_distance(np.ones((1, 64)))[0])
    1.0
    """
    return np.sqrt(np.mean(np.square(latent, dtype=np.float64), axis=1))


def shrink_latents(latent: np.ndarray, covariance: np.ndarray, prior_strength: float) -> np.ndarray:
    """Return the latents of fits under a narrower prior, which suppresses what the data hardly constrain.

    Near its maximum z, a posterior of covariance C is normal. If the strength of the prior is λ instead of
    λ₀, the maximum is at (1 + (λ − λ₀) C)⁻¹ z, here with λ = `SHRINKAGE_STRENGTH`. Latents, ``(N, L)``, are
    returned unchanged if their covariance, ``(N, L, L)``, is not finite, or if they were found without a
    prior or with a narrower one.

    Examples
    --------
    >>> shrink_latents(np.ones((1, 1)), np.full((1, 1, 1), 1 / 15), 1.0).round(6).tolist()
    [[0.5]]
    """
    if not 0 < prior_strength < SHRINKAGE_STRENGTH:
        return latent
    covariance = np.where(np.isfinite(covariance).all((1, 2), keepdims=True), covariance, 0)
    narrowing = np.eye(latent.shape[1]) + (SHRINKAGE_STRENGTH - prior_strength) * covariance
    return np.linalg.solve(narrowing, latent[..., None].astype(np.float64))[..., 0].astype(latent.dtype)


def learn_nuisance(
    model: ForwardModel, latent: np.ndarray, covariance: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return the nuisance covariance S, ``(L, L)``.

    `latent` ``(N, L)`` and `covariance` ``(N, L, L)`` are best fits of galaxies and their posterior
    covariances; `noise` ``(B,)`` is that of a pixel in nJy, infinite for a band without data.
    """
    import torch

    rng = torch.Generator().manual_seed(0)
    chosen = torch.from_numpy(np.ascontiguousarray(latent[:MOST_DRAWN], dtype=np.float32))
    sight = model.nominal_sight(len(chosen))
    sigma = torch.from_numpy(np.where(np.isfinite(noise), noise, 0).astype(np.float32))[:, None, None]
    drawn = model.draw(chosen, sight)
    weight = torch.where(sigma > 0, sigma**-2, 0).expand_as(drawn)
    reference = model.embed(drawn, weight, sight)
    out = torch.zeros(latent.shape[1], latent.shape[1], dtype=torch.float64)
    for number in range(NUM_SYMMETRIES):
        rotated = shifted(symmetry(drawn, number), (torch.rand(2, generator=rng) - 0.5).tolist())
        noisy = rotated + sigma * torch.randn(rotated.shape, generator=rng)
        offset = (model.embed(noisy, weight, sight) - reference).double()
        out += offset.T @ offset
    nuisance = out / (NUM_SYMMETRIES * len(chosen))
    return (nuisance + posterior_scatter(model, chosen, covariance, rng)).numpy()


def posterior_scatter(
    model: ForwardModel, latent: torch.Tensor, covariance: np.ndarray, rng: torch.Generator
) -> torch.Tensor:
    """Return the covariance P, ``(L, L)`` float64, of embeddings of latents drawn from their posteriors."""
    import torch

    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance[: len(latent)]).double())
    root = (vectors * values.clamp_min(0).sqrt()[:, None]).float()
    reference = model.embedding(latent)
    out = torch.zeros(latent.shape[1], latent.shape[1], dtype=torch.float64)
    for _ in range(NUM_POSTERIOR_DRAWS):
        normal = torch.randn(latent.shape, generator=rng)
        offset = (model.embedding(latent + torch.einsum("nij,nj->ni", root, normal)) - reference).double()
        out += offset.T @ offset
    return out / (NUM_POSTERIOR_DRAWS * len(latent))


def shifted(images: torch.Tensor, by: list[float]) -> torch.Tensor:
    """Shift images, ``(N, B, H, H)``, down and right by fractions of a pixel, with a Fourier transform."""
    import torch

    size = images.shape[3]
    down, right = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :]
    phase = torch.exp(-2j * torch.pi * (down * by[0] + right * by[1]))
    return torch.fft.irfft2(torch.fft.rfft2(images) * phase, s=(size, size))


@dataclass(frozen=True)
class Similarity:
    """Coordinates whose Euclidean distances measure how different two galaxies are."""

    matrix: np.ndarray  # (L, L): latents times this are the coordinates

    @classmethod
    def of(cls, nuisance: np.ndarray) -> Similarity:
        """Whiten with the nuisance covariance.

        Examples
        --------
        >>> apart = Similarity.of(np.diag([100.0, 1.0])).coordinates(np.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> np.abs(apart.astype(float)).max(1).round(2).tolist()
        [0.1, 0.82]
        """
        length = len(nuisance)
        values, vectors = np.linalg.eigh(nuisance + RIDGE * np.trace(nuisance) / length * np.eye(length))
        return cls((vectors / np.sqrt(values)).astype(np.float32))

    @classmethod
    def plain(cls, length: int) -> Similarity:
        """Return the identity: Euclidean distances of latents."""
        return cls(np.eye(length, dtype=np.float32))

    def coordinates(self, latent: np.ndarray) -> np.ndarray:
        """Return coordinates, ``(N, L)``, whose root mean square difference over L is the distance."""
        return np.asarray(latent, dtype=np.float32) @ self.matrix

    def save(self, directory: Path) -> None:
        """Write the matrix to a directory of features."""
        write_json(directory / FILE, {"matrix": self.matrix.astype(float).round(5).tolist()})

    @classmethod
    def read(cls, directory: Path, length: int) -> Similarity:
        """Read the matrix from a directory of features; plain distances if there is none."""
        path = Path(directory) / FILE
        if not path.exists():
            return cls.plain(length)
        with naming(path, "holds no matrix", "fit again"):
            matrix = np.array(read_json(path, what="distance between latents")["matrix"], dtype=np.float32)
        if matrix.shape != (length, length) or not np.isfinite(matrix).all():
            raise InputError(f"{path}: holds no matrix of {length} × {length} finite numbers; fit again")
        return cls(matrix)
