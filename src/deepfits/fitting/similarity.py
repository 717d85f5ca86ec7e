"""How far apart two galaxies are, in units of what does not make galaxies different.

Shapes: N objects, L latent dimensions, B bands.

A latent also holds how a galaxy is turned, mirrored and placed on the pixels, and what the noise has done to
it. None of this is the galaxy's, and it fills most directions of the latent: by plain distance the nearest of
a galaxy are those that happen to lie like it. What it does can be seen without any label: drawings are
turned, mirrored, shifted by parts of a pixel and given noise, and the embedder reads all of them. With C the
covariance of its answers about those to the drawings themselves, and P that of embeddings of latents drawn
from the posteriors of fits,

    S = C + P,    distance² = (a − b)ᵀ (S + ε·tr(S)/L)⁻¹ (a − b) / L,

in which what tells nothing, and what a fit leaves open, counts little. One P serves all: objects differ in it
by some tenths, and distances in units of each pair's own find no better neighbours (docs/decisions).

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


def learn_nuisance(
    model: ForwardModel, latent: np.ndarray, covariance: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return the covariance S of what does not make galaxies different, ``(L, L)``.

    Parameters
    ----------
    latent, covariance
        ``(N, L)`` and ``(N, L, L)``: of galaxies as they are fitted, and of their posteriors.
    noise
        ``(B,)``: of a pixel, nJy.
    """
    import torch

    rng = torch.Generator().manual_seed(0)
    chosen = torch.from_numpy(np.ascontiguousarray(latent[:MOST_DRAWN], dtype=np.float32))
    sight = model.nominal_sight(len(chosen))
    sigma = torch.from_numpy(noise.astype(np.float32))[:, None, None]
    drawn = model.draw(chosen, sight)
    weight = (sigma**-2).expand_as(drawn)
    plain = model.embed(drawn, weight, sight)
    out = torch.zeros(latent.shape[1], latent.shape[1], dtype=torch.float64)
    for number in range(NUM_SYMMETRIES):
        turned = shifted(symmetry(drawn, number), (torch.rand(2, generator=rng) - 0.5).tolist())
        noisy = turned + sigma * torch.randn(turned.shape, generator=rng)
        off = (model.embed(noisy, weight, sight) - plain).double()
        out += off.T @ off
    nuisance = out / (NUM_SYMMETRIES * len(chosen))
    return (nuisance + posterior_scatter(model, chosen, covariance, rng)).numpy()


def posterior_scatter(
    model: ForwardModel, latent: torch.Tensor, covariance: np.ndarray, rng: torch.Generator
) -> torch.Tensor:
    """Return the covariance P of embeddings of latents drawn from their posteriors, ``(L, L)`` float64."""
    import torch

    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance[: len(latent)]).double())
    root = (vectors * values.clamp_min(0).sqrt()[:, None]).float()
    plain = model.embedding(latent)
    out = torch.zeros(latent.shape[1], latent.shape[1], dtype=torch.float64)
    for _ in range(NUM_POSTERIOR_DRAWS):
        normal = torch.randn(latent.shape, generator=rng)
        off = (model.embedding(latent + torch.einsum("nij,nj->ni", root, normal)) - plain).double()
        out += off.T @ off
    return out / (NUM_POSTERIOR_DRAWS * len(latent))


def shifted(images: torch.Tensor, by: list[float]) -> torch.Tensor:
    """Shift images, ``(N, B, H, H)``, by parts of a pixel down and right, through the Fourier plane."""
    import torch

    size = images.shape[3]
    down, right = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :]
    phase = torch.exp(-2j * torch.pi * (down * by[0] + right * by[1]))
    return torch.fft.irfft2(torch.fft.rfft2(images) * phase, s=(size, size))


@dataclass(frozen=True)
class Similarity:
    """Coordinates in which the distance of two galaxies is how different they are.

    Attributes
    ----------
    matrix
        ``(L, L)``: latents times this are the coordinates.
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, nuisance: np.ndarray) -> Similarity:
        """Take the units from the covariance of what does not make galaxies different.

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
        """Return the latent's own distances."""
        return cls(np.eye(length, dtype=np.float32))

    def coordinates(self, latent: np.ndarray) -> np.ndarray:
        """Return ``(N, L)``, between which the root mean square over L is the distance."""
        return np.asarray(latent, dtype=np.float32) @ self.matrix

    def save(self, directory: Path) -> None:
        """Write it beside features."""
        write_json(directory / FILE, {"matrix": self.matrix.astype(float).round(5).tolist()})

    @classmethod
    def read(cls, directory: Path, length: int) -> Similarity:
        """Read what lies beside features of so many latent dimensions; plain distances where nothing does.

        Raises
        ------
        InputError
            The file holds anything but numbers of this shape.
        """
        path = Path(directory) / FILE
        if not path.exists():
            return cls.plain(length)
        with naming(path, "holds no matrix", "fit again"):
            matrix = np.array(read_json(path, what="distance between latents")["matrix"], dtype=np.float32)
        if matrix.shape != (length, length) or not np.isfinite(matrix).all():
            raise InputError(f"{path}: holds no matrix of {length} × {length} finite numbers; fit again")
        return cls(matrix)
