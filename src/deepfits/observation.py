"""The linear map from a scene to the pixels of an object in one band: PSF, pixel size, sub-pixel position.

Shapes: N objects, B bands, K Gaussians of a PSF, T terms of an observation, D data pixels per side, S scene
pixels per side.

A PSF is a sum of K round Gaussians (`deepfits.gaussian_psf`). A scene is drawn at a reference PSF, one round
Gaussian of variance σ_ref². The kernel from reference to PSF is then again a sum of Gaussians, of variances
σ_k² − σ_ref², and since a Gaussian is separable,

    image_b = Σ_k w_k · Y_k · scene_b · X_kᵀ,

with Y_k and X_k of shape (D, S): a Gaussian of that variance around each scene pixel's centre, integrated
over the data's pixels. Their columns sum to 1, which conserves flux; their rows to the ratio of the pixel
sides. An orthogonal rotation of the K products leaves the sum unchanged and concentrates nearly all of it in
the first T of them (`TERMS`), so that an observation costs T small matrix products from either side.

Scene and data have a common centre, apart from a shift. Needs only PyTorch and NumPy.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from deepfits.compiled import library
from deepfits.errors import InputError
from deepfits.gaussian_psf import (
    FWHM_PER_SIGMA,
    NUM_GAUSSIANS,
    WIDEST,
    enclosed,
    expand_profile,
    expansion_radii,
    fwhm_of,
    profile_of,
)
from deepfits.splits import PerObject

TERMS = 2
FEWEST_PIXELS = 8  # minimum number per side for `small_products`
SAMPLED = 0.55  # minimum standard deviation of a kernel, in scene pixels, for these to sample it well
ADVISED = 1.2  # FWHM of PSFs that can surely be expanded, in units of that of the narrowest Gaussian
TOLERANCE = 0.03  # maximum error, relative to the peak, of the expansion of a PSF


@dataclass(frozen=True, kw_only=True)
class SceneGrid:
    """Pixel grid and reference PSF of scenes."""

    size: int  # S, pixels per side
    pixel_scale_arcsec: float
    reference_fwhm_arcsec: float

    @property
    def reference_sigma(self) -> float:
        """Standard deviation of the reference PSF, arcseconds."""
        return self.reference_fwhm_arcsec / FWHM_PER_SIGMA


def all_above_reference(
    psf: np.ndarray, grid: SceneGrid, bands: Sequence[str], used: np.ndarray
) -> np.ndarray:
    """Apply `above_reference` to the PSFs of many objects, ``(N, B, K, 2)``, once for each distinct PSF.

    A PSF that is not `used`, ``(N, B)`` (in a band without data), need not be known, nor wide enough: it is
    then replaced by the reference PSF. Raise `InputError` if one that is used is too sharp, or unknown.
    """
    band, number, matters = np.tile(np.arange(len(bands)), len(psf)), psf.shape[2], used.reshape(-1)
    flat = np.ascontiguousarray(psf, dtype=np.float32).reshape(-1, 2 * number)
    key = np.concatenate([np.nan_to_num(flat, nan=-1), matters[:, None]], axis=1)
    different, first, back = np.unique(key, axis=0, return_index=True, return_inverse=True)
    made = np.zeros((len(different), number, 2), dtype=np.float32)
    made[:, 0, 0], made[:, :, 1] = 1, grid.reference_sigma
    for row, at in enumerate(first):
        name = bands[band[at]]
        try:
            if not np.isfinite(flat[at]).all():
                raise InputError(
                    f"band {name}: the PSF is unknown, and a model of scenes needs it; make the cutouts "
                    "again with psf, such as --psf g=0.8 (FWHM, arcsec) or --psf g=PSF.fits"
                )
            made[row] = above_reference(flat[at].reshape(number, 2), grid, name)
        except InputError:
            if matters[at]:
                raise
    return made[back.reshape(-1)].reshape(psf.shape)


def above_reference(psf: np.ndarray, grid: SceneGrid, band: str = "") -> np.ndarray:
    """Expand a PSF in Gaussians that the reference PSF can be convolved to, ``(K, 2)``.

    Every Gaussian must be the reference itself, or wider by a kernel that the scene's pixels sample. A PSF
    that satisfies this is returned unchanged. Raise `InputError` if the PSF is too sharp for this; the
    message says what to do.
    """
    reference = grid.reference_sigma
    least = math.hypot(reference, SAMPLED * grid.pixel_scale_arcsec)
    used = psf[psf[:, 0] > 0]
    if (used[:, 1] >= least).all():
        return psf
    if len(used) == 1 and abs(used[0, 1] / reference - 1) < 1e-6:
        return psf
    fwhm = float(fwhm_of(psf))
    radius = expansion_radii(fwhm)
    sigma = np.geomspace(least, max(WIDEST * fwhm, 2 * least), len(psf))
    weight, error = expand_profile(radius, profile_of(psf, radius), enclosed(psf, radius), sigma)
    if error > TOLERANCE:
        where = f"band {band}: " if band else ""
        needed = ADVISED * least * FWHM_PER_SIGMA
        finer = (
            f"{name}={value * fwhm / needed:.2g}"
            for name, value in (
                ("reference_fwhm_arcsec", grid.reference_fwhm_arcsec),
                ("scene_pixel_arcsec", grid.pixel_scale_arcsec),
            )
        )
        raise InputError(
            f"{where}a PSF of {fwhm:.2f} arcsec (FWHM) is too sharp for a model whose scenes are drawn at "
            f"{grid.reference_fwhm_arcsec:g} arcsec with pixels of {grid.pixel_scale_arcsec:g} arcsec; "
            f"smooth the images to about {needed:.2g} arcsec, or train a model with finer scenes: "
            f"--set {','.join(finer)}, and scene_size so that they are as large as the cutouts"
        )
    return np.stack([weight, sigma], axis=1).astype(np.float32)


def _matrices(sigma: Tensor, shift: Tensor, size: int, pixel_scale: float, grid: SceneGrid) -> Tensor:
    """Integrate Gaussians of standard deviations ``(..., K)`` over data pixels: ``(..., K, D, S)``.

    `shift`, ``(...)`` arcseconds, is the position of the scene's centre relative to that of the data.
    """
    edges = (torch.arange(size + 1, device=sigma.device).double() - size / 2) * pixel_scale
    middles = torch.arange(grid.size, device=sigma.device).double() - (grid.size - 1) / 2
    centres = middles * grid.pixel_scale_arcsec
    distance = (edges[:, None] - centres).to(sigma) - shift[..., None, None]  # (..., D + 1, S)
    inverse = math.sqrt(0.5) / sigma.clamp_min(1e-6 * grid.pixel_scale_arcsec)
    steps = torch.erf(distance[..., None, :, :] * inverse[..., None, None])
    return (steps[..., 1:, :] - steps[..., :-1, :]).mul_(0.5)


@cache
def small_products() -> ctypes.CDLL | None:
    """Return the compiled matrix products of `Observation`, or None if they were not built or cannot run.

    They are built if a C compiler is available at installation (``_observation.c``).
    """
    loaded = library("_observation", "deepfits_tangents", "fits are")
    return loaded if loaded is not None and loaded.deepfits_supported() else None


class Observation:
    """Linear map from scenes to data, of N objects, or a single one for all objects.

    The terms are concatenated into one matrix per side, so that their sum is one contraction: P = scene ·
    columns, ``(S, T·D)``, has the memory layout of ``(S·T, D)``, and image = rows · P. The adjoint is the
    reverse. Two products of twice the size are faster than four, and need no summation.

    `rows` are ``(N·B, D, S·T)``, with the terms of each scene pixel next to each other, and `columns`,
    transposed, ``(N·B, S, T·D)``; `turned` are these transposed, if `small_products` can be used, else None.
    """

    def __init__(self, rows: Tensor, columns: Tensor, num_bands: int) -> None:
        self.rows, self.columns, self.num_bands = rows.contiguous(), columns.contiguous(), num_bands
        fewest = min(rows.shape[1], columns.shape[1])
        is_fit = rows.device.type == "cpu" and rows.dtype == torch.float32 and fewest >= FEWEST_PIXELS
        self.turned = columns.mT.contiguous() if is_fit and small_products() is not None else None

    def __len__(self) -> int:
        return len(self.rows) // self.num_bands

    def __getitem__(self, chosen: slice) -> Self:
        rows, columns = (
            m.unflatten(0, (-1, self.num_bands))[chosen].flatten(0, 1) for m in (self.rows, self.columns)
        )
        return type(self)(rows, columns, self.num_bands)

    @property
    def size(self) -> int:
        """Number of data pixels per side, D."""
        return self.rows.shape[1]

    def put(self, slots: Tensor, other: Self) -> None:
        """Replace the objects in `slots` by those of `other`."""
        for name in ("rows", "columns") if self.turned is None else ("rows", "columns", "turned"):
            target, source = (getattr(way, name).unflatten(0, (-1, self.num_bands)) for way in (self, other))
            target[slots] = source

    def __call__(self, scene: Tensor) -> Tensor:
        """Map scenes, ``(N, B, S, S)``, to data, ``(N, B, D, D)``; differentiable."""
        rows, columns = self._matrices(len(scene))
        part = torch.bmm(scene.flatten(0, 1), columns)  # (N·B, S, T·D)
        return torch.bmm(rows, part.view(len(part), -1, self.size)).view(*scene.shape[:2], *2 * [self.size])

    def show(self, scene: Tensor) -> Tensor:
        """Map scenes to data without derivatives, which is faster with `small_products`."""
        if not self._is_small(scene):
            return self(scene)
        return self._small("deepfits_show", self.columns, scene, self.size)

    def transpose(self, image: Tensor) -> Tensor:
        """Apply the adjoint, from ``(N, B, D, D)`` to ``(N, B, S, S)``; without derivatives."""
        if self._is_small(image):
            return self._small("deepfits_transpose", self.turned, image, self.columns.shape[1])
        rows, columns = self._matrices(len(image))
        part = torch.bmm(rows.mT, image.flatten(0, 1))  # (N·B, S·T, D)
        return torch.bmm(part.view(len(part), columns.shape[1], -1), columns.mT).unflatten(0, image.shape[:2])

    def _is_small(self, plane: Tensor) -> bool:
        return self.turned is not None and len(self) == len(plane) and plane.dtype == self.rows.dtype

    def _small(self, function: str, right: Tensor | None, plane: Tensor, side: int, *shared: int) -> Tensor:
        """Apply one of `small_products` to planes ``(N, ..., B, ...)``: ``(N, ..., B, side, side)``."""
        assert right is not None
        plane = plane.detach().contiguous()
        out = plane.new_empty(*plane.shape[:-2], side, side)
        scene_side = self.columns.shape[1]
        sizes = (len(self.rows), self.size, scene_side, self.rows.shape[2] // scene_side)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (self.rows, right, plane, out)]
        if getattr(small_products(), function)(*pointers, *sizes, *shared):
            raise MemoryError("no memory for an observation")
        return out

    def tangents(self, derivative: Tensor) -> Tensor:
        """Map derivatives of scenes, ``(N, L, B, S, S)``, to those of data, ``(N, L, B, D, D)``."""
        number, length = derivative.shape[:2]
        if self._is_small(derivative):
            return self._small(
                "deepfits_tangents", self.columns, derivative, self.size, length, self.num_bands
            )
        rows, columns = self._matrices(number)
        flat = derivative.transpose(1, 2).reshape(len(rows), -1, derivative.shape[-1])  # (N·B, L·S, S)
        part = torch.bmm(flat, columns).view(len(rows), length, -1, self.size)
        return (rows[:, None] @ part).unflatten(0, (number, -1)).transpose(1, 2).contiguous()

    def _matrices(self, number: int) -> tuple[Tensor, Tensor]:
        if len(self) == number:
            return self.rows, self.columns
        return self.rows.repeat(number, 1, 1), self.columns.repeat(number, 1, 1)


@dataclass(frozen=True, eq=False)
class Sight(PerObject):
    """Observing conditions of some objects: everything that defines the `Observation` of their scenes."""

    grid: SceneGrid
    psf: Tensor  # (N, B, K, 2), as returned by `all_above_reference`
    # (N, 2): position (y, x) of the object, and the scene's centre, relative to the centre of the cutout
    shift_pixels: Tensor
    size: int  # D, pixels per side of the data
    pixel_scale_arcsec: float  # of the data

    @classmethod
    def nominal(cls, grid: SceneGrid, num_bands: int, size: int = 0, pixel_scale_arcsec: float = 0.0) -> Self:
        """Return nominal conditions, one object at twice the reference FWHM.

        They serve where results must not depend on the observation, such as in metrics of the latent space.
        The pixels are those of the scenes by default.
        """
        size, pixel_scale_arcsec = size or grid.size, pixel_scale_arcsec or grid.pixel_scale_arcsec
        psf = np.zeros((1, num_bands, NUM_GAUSSIANS, 2), dtype=np.float32)
        psf[..., 0, 0], psf[..., 1] = 1, 2 * grid.reference_sigma
        return cls(grid, torch.from_numpy(psf), torch.zeros(1, 2), size, pixel_scale_arcsec)

    def __len__(self) -> int:
        return len(self.psf)

    def __repr__(self) -> str:
        pixels = f"{self.size}×{self.size} pixels of {self.pixel_scale_arcsec:.4g}″"
        return f"<Sight of {len(self)} objects in {self.psf.shape[1]} bands, {pixels}>"

    def to(self, device: torch.device | str) -> Self:
        """Move the tensors to a device."""
        return replace(self, psf=self.psf.to(device), shift_pixels=self.shift_pixels.to(device))

    def observation(self, dtype: torch.dtype = torch.float32, *, terms: int = TERMS) -> Observation:
        """Build the map from scenes to these data, with T terms; the sum is exact for T of K or more."""
        grid, size, pixel, psf = self.grid, self.size, self.pixel_scale_arcsec, self.psf.to(dtype)
        number, bands, _, _ = psf.shape
        weight = psf[..., 0].flatten(0, 1)  # (N·B, K)
        variance = psf[..., 1].flatten(0, 1) ** 2 - grid.reference_sigma**2
        if not torch.isfinite(psf).all() or (variance[weight > 0] < -1e-5 * grid.reference_sigma**2).any():
            raise ValueError("a PSF is unknown or sharper than the reference: see above_reference")
        sigma = variance.clamp_min(0).sqrt()
        shift = self.shift_pixels.to(psf)[:, None].expand(number, bands, 2).flatten(0, 1) * pixel
        rows = columns = _matrices(sigma, shift[:, 0], size, pixel, grid)
        if bool((shift[:, 0] != shift[:, 1]).any()):
            columns = _matrices(sigma, shift[:, 1], size, pixel, grid)
        if terms < psf.shape[2]:
            turn = _main_terms(weight, sigma, size * pixel, pixel, terms).to(rows)
        else:
            turn = torch.diag_embed(weight.sqrt())
        rows, columns = (torch.bmm(turn.mT, m.flatten(2)).unflatten(2, m.shape[2:]) for m in (rows, columns))
        return Observation(  # from (N·B, T, D, S)
            rows.permute(0, 2, 3, 1).flatten(2), columns.permute(0, 3, 1, 2).flatten(2), bands
        )

    @property
    def area(self) -> float:
        """Area of a scene pixel in data pixels."""
        return (self.grid.pixel_scale_arcsec / self.pixel_scale_arcsec) ** 2

    @property
    def is_inside(self) -> Tensor:
        """Whether the centre of each data pixel lies in the scene, ``(D, D)`` bool."""
        away = (torch.arange(self.size) - (self.size - 1) / 2).abs() * self.pixel_scale_arcsec
        row = away <= self.grid.size * self.grid.pixel_scale_arcsec / 2
        return row[:, None] & row

    def on_grid(self, image: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
        """Resample data onto the scene grid, for networks that take any survey: ``(N, B, S, S)``.

        Linear interpolation in nJy per scene pixel, at the data's own PSF, with the object in the centre.
        Pixels dominated by noise are first shrunk by m / (m + σ²), m = floor² + flux² / 9, so that empty
        regions have moderate values at any depth. Pixels without data are 0.

        Images and weights, ``(N, B, D, D)``, are finite, also where the weight is 0. Noise far below the
        floor, ``(B, 1, 1)`` in nJy per scene pixel, causes no shrinkage.
        """
        area = self.area
        flux = image * area
        level = flux.square() / 9 + floor.square()
        return self.interpolate(flux * (level * weight) / (level * weight + area**2))

    def described(self, weight: Tensor, floor: Tensor) -> Tensor:
        """Return maps of depth and PSF width on the scene grid, ``(N, 2B, S, S)``.

        First log(1 + (floor / σ)²) of each band, which is 0 where there is no data, then the logarithm of the
        width of each band's PSF relative to the reference, also 0 there. Parameters as in `on_grid`.
        """
        depth = self.interpolate(torch.log1p(floor.square() * weight / self.area**2))
        share, sigma = self.psf.to(weight).unbind(-1)
        peak = (share * (self.grid.reference_sigma / sigma).square()).sum(-1)  # relative to the reference
        width = -0.5 * peak.log()[..., None, None] * (weight > 0).any(dim=(2, 3), keepdim=True)
        return torch.cat((depth, width.expand_as(depth)), dim=1)

    def interpolate(self, image: Tensor) -> Tensor:
        """Resample planes of the data, ``(N, C, D, D)``, onto the scene grid, ``(N, C, S, S)``."""
        grid = self.grid
        at = (torch.arange(grid.size, device=image.device) - (grid.size - 1) / 2) * math.sqrt(self.area)
        data = torch.arange(self.size, device=image.device) - (self.size - 1) / 2
        rows, columns = (
            (1 - (at + shift[:, None] - data[:, None, None]).abs()).clamp_min(0).permute(1, 2, 0)
            for shift in self.shift_pixels.to(image).T
        )  # (N, S, D)
        return rows[:, None] @ image @ columns[:, None].mT


def centre_shift(x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Return the positions of objects relative to the centres of their cutouts, ``(N, 2)``: (y, x), pixels.

    Source: `deepfits.survey.cutting.corners`, which defines the pixels of the cutout of an object at (x, y).
    """
    at = np.stack([np.asarray(y, dtype=float), np.asarray(x, dtype=float)], axis=1)
    shift = at - np.ceil(at - size / 2) - (size - 1) / 2
    return np.where(np.isfinite(shift), shift, 0).astype(np.float32)


def _main_terms(weight: Tensor, sigma: Tensor, side: float, pixel: float, terms: int) -> Tensor:
    """Return the rotation, times √w, that concentrates a sum of products in its first terms: ``(N·B, K, T)``.

    Σ_k √w_k Y_k ⊗ √w_k X_k = Σ_t Y'_t ⊗ X'_t for Y'_t = Σ_k V_kt √w_k Y_k, and X' likewise, with any
    orthogonal V. Its first column is parallel to the flux that a cutout contains of a source at its centre:
    the terms left out are orthogonal to it and contribute none of that flux. The other columns are the
    leading eigenvectors of the projected matrix of inner products. `weight` and `sigma` of the kernels'
    Gaussians are ``(N·B, K)``; `sigma`, `side` (of a cutout) and `pixel` (its side) are in arcseconds.
    """
    root, variance = weight.double().sqrt(), sigma.double() ** 2 + pixel**2 / 12
    both = variance[:, :, None] + variance[:, None]
    gram = root[:, :, None] * root[:, None] * (both / both.amin((1, 2), keepdim=True)).rsqrt()
    flux = root * torch.erf(side / 2 * (2 * variance).rsqrt())
    first = flux / flux.norm(dim=1, keepdim=True)
    away = torch.eye(flux.shape[1], dtype=flux.dtype, device=flux.device) - first[:, :, None] * first[:, None]
    _, vectors = torch.linalg.eigh(away @ gram @ away)
    others = vectors.flip(-1)[:, :, : terms - 1]
    return root[:, :, None] * torch.cat((first[:, :, None], others), dim=2)
