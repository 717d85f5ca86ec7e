"""Between a scene and the pixels of one object in one band: PSF, pixel size, sub-pixel place.

Shapes: N objects, B bands, K Gaussians of a PSF, T terms of an observation, D data pixels a side, S scene
pixels a side.

A PSF is a sum of K round Gaussians (`deepfits.gaussian_psf`). A scene is drawn at a reference PSF, one round
Gaussian of variance σ_ref². The kernel from reference to PSF is then again a sum of Gaussians, of variances
σ_k² − σ_ref², and since a Gaussian is separable,

    image_b = Σ_k w_k · Y_k · scene_b · X_kᵀ,

with Y_k and X_k of shape (D, S): a Gaussian of that variance, integrated over the data's pixels, at the
distances between pixel centres. Their columns sum to 1, which conserves flux; their rows to the ratio of the
pixel sides. An orthogonal rotation of the K products leaves the sum as it is and gathers nearly all of it in
the first T of them (`TERMS`), so that an observation costs T small matrix products from either side.

Scene and data are centred on each other, apart from a shift. Needs PyTorch and NumPy alone.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.compiled import library
from deepfits.errors import InputError
from deepfits.gaussian_psf import (
    FWHM_PER_SIGMA,
    NUM_GAUSSIANS,
    WIDEST,
    expand_profile,
    expansion_radii,
    fwhm_of,
    profile_of,
)

TERMS = 2
FEWEST_PIXELS = 8  # on a side, that `small_products` take
SAMPLED = 0.55  # least standard deviation of a kernel, in scene pixels, that their sums stand for
TOLERANCE = 0.03  # of the peak: what a PSF may differ from its expansion above a reference


@dataclass(frozen=True, kw_only=True)
class SceneGrid:
    """What a scene is drawn on, and at what PSF.

    S pixels a side, and the full width at half maximum of the reference PSF.
    """

    size: int
    pixel_scale_arcsec: float
    reference_fwhm_arcsec: float

    @property
    def reference_sigma(self) -> float:
        """Standard deviation of the reference PSF, arcseconds."""
        return self.reference_fwhm_arcsec / FWHM_PER_SIGMA


def all_above_reference(
    psf: np.ndarray, grid: SceneGrid, bands: Sequence[str], used: np.ndarray | None = None
) -> np.ndarray:
    """Bring the PSFs of many objects, ``(N, B, K, 2)``, above a reference; each different one once.

    Those that are not `used`, ``(N, B)`` (a band without data), become the reference's own.

    Raises
    ------
    InputError
        One that matters is too sharp, or unknown.
    """
    flat = np.ascontiguousarray(psf, dtype=np.float32).reshape(-1, *psf.shape[2:])
    band = np.tile(np.arange(psf.shape[1]), len(psf))
    matters = np.ones(len(flat), bool) if used is None else used.reshape(-1)
    out = np.zeros_like(flat)
    out[:, 0, 0], out[:, :, 1] = 1, grid.reference_sigma
    which = np.flatnonzero(matters)
    if len(which):
        different, first, back = np.unique(
            flat[which].reshape(len(which), -1), axis=0, return_index=True, return_inverse=True
        )
        made = []
        for row, at in zip(different, which[first], strict=True):
            name = bands[band[at]]
            if not np.isfinite(row).all():
                raise InputError(
                    f"band {name}: the PSF is unknown, and a model of scenes cannot go without; cut again "
                    "with psf, such as --psf g=0.8 (FWHM, arcsec) or --psf g=PSF.fits"
                )
            made.append(above_reference(row.reshape(flat.shape[1:]), grid, name))
        out[which] = np.stack(made)[back.reshape(-1)]
    return out.reshape(psf.shape)


def above_reference(psf: np.ndarray, grid: SceneGrid, band: str = "") -> np.ndarray:
    """Return the same PSF as a sum of Gaussians that the reference can be brought to, ``(K, 2)``.

    Every Gaussian must be wider than the reference by a kernel that scene pixels sample, or be the reference
    itself.

    Raises
    ------
    InputError
        The PSF is sharper than that; the message says what to do.
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
    ratio = -0.5 * (radius[:, None] / used[:, 1].astype(float)) ** 2
    enclosed = -np.expm1(ratio) @ used[:, 0].astype(float)
    sigma = np.geomspace(least, max(WIDEST * fwhm, 2 * least), len(psf))
    weight, error = expand_profile(radius, profile_of(psf, radius), enclosed, sigma)
    if error > TOLERANCE:
        where = f"band {band}: " if band else ""
        raise InputError(
            f"{where}a PSF of {fwhm:.2f} arcsec (FWHM) is too sharp for a model whose scenes are drawn at "
            f"{grid.reference_fwhm_arcsec:g} arcsec; smooth the images to about "
            f"{1.4 * grid.reference_fwhm_arcsec:.2f} arcsec, or train a model with a sharper reference"
        )
    return np.stack([weight, sigma], axis=1).astype(np.float32)


def _matrices(sigma: Tensor, shift: Tensor, size: int, pixel_scale: float, grid: SceneGrid) -> Tensor:
    """Integrate Gaussians of standard deviations ``(..., K)`` over data pixels: ``(..., K, D, S)``.

    `shift`, ``(...)`` arcseconds, is where the middle of the scene lies in the data.
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
    """Return the compiled products of `Observation`, or None where they were not built or cannot run.

    They are built where the package is installed with a C compiler (``_observation.c``).
    """
    found = library("_observation", "deepfits_tangents", "fits are")
    return found if found is not None and found.deepfits_supported() else None


class Observation:
    """The way from scenes to data, for N objects (or 1, for all alike).

    The terms lie beside each other in one matrix for each side, so that their sum is one contraction: P =
    scene · columns, ``(S, T·D)``, is in memory also ``(S·T, D)``, and image = rows · P. The adjoint takes the
    same way back. Two products of twice the size cost less than four, and nothing is added up.

    Attributes
    ----------
    rows
        ``(N·B, D, S·T)``: the matrices from the left, the terms of each scene pixel side by side.
    columns
        ``(N·B, S, T·D)``: those from the right, transposed.
    turned
        ``(N·B, T·D, S)``: `columns` transposed, where `small_products` take it; else None.
    """

    def __init__(self, rows: Tensor, columns: Tensor, num_bands: int) -> None:
        self.rows, self.columns, self.num_bands = rows.contiguous(), columns.contiguous(), num_bands
        fewest = min(rows.shape[1], columns.shape[1])
        is_fit = rows.device.type == "cpu" and rows.dtype == torch.float32 and fewest >= FEWEST_PIXELS
        self.turned = columns.mT.contiguous() if is_fit and small_products() is not None else None

    @classmethod
    def make(
        cls,
        grid: SceneGrid,
        psf: np.ndarray | Tensor,
        *,
        size: int,
        pixel_scale_arcsec: float,
        shift_pixels: np.ndarray | Tensor | None = None,
        terms: int = TERMS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Observation:
        """Build the matrices, of T terms; K or more make the sum exact.

        PSFs, ``(N, B, K, 2)``, are as `above_reference` returns each; size, D, and the side of a pixel are
        those of the data. Shifts, ``(N, 2)``, say where, from the middle of the cutout, the middle of the
        scene lies, (y, x) in data pixels; 0 by default.
        """
        psf = torch.as_tensor(psf, dtype=dtype, device=device)
        number, bands, _, _ = psf.shape
        weight = psf[..., 0].flatten(0, 1)  # (N·B, K)
        variance = psf[..., 1].flatten(0, 1) ** 2 - grid.reference_sigma**2
        if not torch.isfinite(psf).all() or (variance[weight > 0] < -1e-5 * grid.reference_sigma**2).any():
            raise ValueError("a PSF is unknown or sharper than the reference: see above_reference")
        sigma = variance.clamp_min(0).sqrt()
        shift = torch.zeros(number, 2, dtype=dtype) if shift_pixels is None else torch.as_tensor(shift_pixels)
        shift = shift.to(psf)[:, None].expand(number, bands, 2).flatten(0, 1) * pixel_scale_arcsec
        rows = columns = _matrices(sigma, shift[:, 0], size, pixel_scale_arcsec, grid)
        if bool((shift[:, 0] != shift[:, 1]).any()):
            columns = _matrices(sigma, shift[:, 1], size, pixel_scale_arcsec, grid)
        if terms < psf.shape[2]:
            side = size * pixel_scale_arcsec
            turn = _main_terms(weight, sigma, side, pixel_scale_arcsec, terms).to(rows)
        else:
            turn = torch.diag_embed(weight.sqrt())
        rows, columns = (torch.bmm(turn.mT, m.flatten(2)).unflatten(2, m.shape[2:]) for m in (rows, columns))
        return cls(  # from (N·B, T, D, S)
            rows.permute(0, 2, 3, 1).flatten(2), columns.permute(0, 3, 1, 2).flatten(2), bands
        )

    def __len__(self) -> int:
        return len(self.rows) // self.num_bands

    def __getitem__(self, which: slice) -> Observation:
        rows, columns = (
            m.unflatten(0, (-1, self.num_bands))[which].flatten(0, 1) for m in (self.rows, self.columns)
        )
        return Observation(rows, columns, self.num_bands)

    @property
    def size(self) -> int:
        """D."""
        return self.rows.shape[1]

    def put(self, slots: Tensor, other: Observation) -> None:
        """Replace the objects in some places by others."""
        for name in ("rows", "columns") if self.turned is None else ("rows", "columns", "turned"):
            mine, theirs = (getattr(way, name).unflatten(0, (-1, self.num_bands)) for way in (self, other))
            mine[slots] = theirs

    def to(self, device: torch.device | str) -> Observation:
        """Move the matrices."""
        return Observation(self.rows.to(device), self.columns.to(device), self.num_bands)

    def __call__(self, scene: Tensor) -> Tensor:
        """Show scenes, ``(N, B, S, S)``, as data, ``(N, B, D, D)``; differentiable."""
        rows, columns = self._of(len(scene))
        part = torch.bmm(scene.flatten(0, 1), columns)  # (N·B, S, T·D)
        return torch.bmm(rows, part.view(len(part), -1, self.size)).view(*scene.shape[:2], *2 * [self.size])

    def show(self, scene: Tensor) -> Tensor:
        """Return the same without derivatives, sooner where `small_products` are there."""
        if not self._is_small(scene):
            return self(scene)
        return self._small("deepfits_show", self.columns, scene, self.size)

    def transpose(self, image: Tensor) -> Tensor:
        """Apply the adjoint: ``(N, B, D, D)`` to ``(N, B, S, S)``; without derivatives."""
        if self._is_small(image):
            return self._small("deepfits_transpose", self.turned, image, self.columns.shape[1])
        rows, columns = self._of(len(image))
        part = torch.bmm(rows.mT, image.flatten(0, 1))  # (N·B, S·T, D)
        return torch.bmm(part.view(len(part), columns.shape[1], -1), columns.mT).unflatten(0, image.shape[:2])

    def _is_small(self, plane: Tensor) -> bool:
        return self.turned is not None and len(self) == len(plane) and plane.dtype == self.rows.dtype

    def _small(self, function: str, right: Tensor | None, plane: Tensor, side: int, *shared: int) -> Tensor:
        """Call one of `small_products` for planes ``(N, ..., B, ...)``: ``(N, ..., B, side, side)``."""
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
        """Show derivatives of scenes, ``(N, L, B, S, S)``, as derivatives of data, ``(N, L, B, D, D)``."""
        number, length = derivative.shape[:2]
        if self._is_small(derivative):
            return self._small(
                "deepfits_tangents", self.columns, derivative, self.size, length, self.num_bands
            )
        rows, columns = self._of(number)
        flat = derivative.transpose(1, 2).reshape(len(rows), -1, derivative.shape[-1])  # (N·B, L·S, S)
        part = torch.bmm(flat, columns).view(len(rows), length, -1, self.size)
        return (rows[:, None] @ part).unflatten(0, (number, -1)).transpose(1, 2).contiguous()

    def _of(self, number: int) -> tuple[Tensor, Tensor]:
        if len(self) == number:
            return self.rows, self.columns
        return self.rows.repeat(number, 1, 1), self.columns.repeat(number, 1, 1)


@dataclass(frozen=True, eq=False)
class Sight:
    """How some objects were observed: all that an `Observation` of their scenes is made from.

    Attributes
    ----------
    psf
        ``(N, B, K, 2)``, as `all_above_reference` returns it.
    shift_pixels
        ``(N, 2)``: where the object lies from the middle of the cutout, (y, x).
    size, pixel_scale_arcsec
        Of the data.
    """

    grid: SceneGrid
    psf: Tensor
    shift_pixels: Tensor
    size: int
    pixel_scale_arcsec: float

    @classmethod
    def nominal(
        cls, grid: SceneGrid, num_bands: int, size: int = 0, pixel_scale_arcsec: float = 0.0
    ) -> Sight:
        """Return how one object would be seen at twice the reference's width: what metrics are learnt at.

        Its pixels are by default those of the scenes.
        """
        size, pixel_scale_arcsec = size or grid.size, pixel_scale_arcsec or grid.pixel_scale_arcsec
        psf = np.zeros((1, num_bands, NUM_GAUSSIANS, 2), dtype=np.float32)
        psf[..., 0, 0], psf[..., 1] = 1, 2 * grid.reference_sigma
        return cls(grid, torch.from_numpy(psf), torch.zeros(1, 2), size, pixel_scale_arcsec)

    def __len__(self) -> int:
        return len(self.psf)

    def __getitem__(self, which: Any) -> Sight:
        return replace(self, psf=self.psf[which], shift_pixels=self.shift_pixels[which])

    def to(self, device: torch.device | str) -> Sight:
        """Move to a device."""
        return replace(self, psf=self.psf.to(device), shift_pixels=self.shift_pixels.to(device))

    def observation(self, dtype: torch.dtype = torch.float32) -> Observation:
        """Build the way from scenes to these data."""
        return Observation.make(
            self.grid,
            self.psf,
            size=self.size,
            pixel_scale_arcsec=self.pixel_scale_arcsec,
            shift_pixels=self.shift_pixels,
            dtype=dtype,
            device=self.psf.device,
        )

    @property
    def area(self) -> float:
        """Area of a scene pixel in data pixels."""
        return (self.grid.pixel_scale_arcsec / self.pixel_scale_arcsec) ** 2

    @property
    def is_inside(self) -> Tensor:
        """Which pixels of the data have their middle in the scene, ``(D, D)`` bool."""
        away = (torch.arange(self.size) - (self.size - 1) / 2).abs() * self.pixel_scale_arcsec
        row = away <= self.grid.size * self.grid.pixel_scale_arcsec / 2
        return row[:, None] & row

    def on_grid(self, image: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
        """Bring data onto the grid of the scenes, for networks that see every survey: ``(N, B, S, S)``.

        Linear interpolation in nJy per scene pixel, at the data's own PSF, the object in the middle. Pixels
        that noise dominates are shrunk first: by m / (m + σ²) with m = floor² + flux² / 9, so that images of
        any depth have no more than moderate values where there is nothing; without data it is 0.

        Parameters
        ----------
        image, weight
            ``(N, B, D, D)``, nJy and nJy⁻²; finite, also where the weight is 0.
        floor
            ``(B, 1, 1)``, nJy per scene pixel: noise below it changes nothing.
        """
        area = self.area
        flux = image * area
        level = flux.square() / 9 + floor.square()
        return self.interpolate(flux * (level * weight) / (level * weight + area**2))

    def described(self, weight: Tensor, floor: Tensor) -> Tensor:
        """Describe how these data were observed, on the grid of the scenes: ``(N, 2B, S, S)``.

        For each band log(1 + (floor / σ)²), which is 0 where there is no data, then for each band the
        logarithm of the width of the PSF over the reference's. Parameters as in `on_grid`.
        """
        depth = self.interpolate(torch.log1p(floor.square() * weight / self.area**2))
        share, sigma = self.psf.to(weight).unbind(-1)
        peak = (share * (self.grid.reference_sigma / sigma).square()).sum(-1)  # over the reference's
        width = -0.5 * peak.log()[..., None, None]
        return torch.cat((depth, width.expand_as(depth)), dim=1)

    def interpolate(self, image: Tensor) -> Tensor:
        """Bring planes of the data, ``(N, C, D, D)``, onto the grid of the scenes, ``(N, C, S, S)``."""
        grid = self.grid
        at = (torch.arange(grid.size, device=image.device) - (grid.size - 1) / 2) * math.sqrt(self.area)
        data = torch.arange(self.size, device=image.device) - (self.size - 1) / 2
        rows, columns = (
            (1 - (at + shift[:, None] - data[:, None, None]).abs()).clamp_min(0).permute(1, 2, 0)
            for shift in self.shift_pixels.to(image).T
        )  # (N, S, D)
        return rows[:, None] @ image @ columns[:, None].mT


def centre_shift(x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Return where objects lie from the middle of their cutouts, ``(N, 2)``: (y, x) in pixels.

    Source: `deepfits.survey.cutting.corners`, for what a cutout of an object at (x, y) holds.
    """
    at = np.stack([np.asarray(y, dtype=float), np.asarray(x, dtype=float)], axis=1)
    shift = at - np.ceil(at - size / 2) - (size - 1) / 2
    return np.where(np.isfinite(shift), shift, 0).astype(np.float32)


def _main_terms(weight: Tensor, sigma: Tensor, side: float, pixel: float, terms: int) -> Tensor:
    """Return the rotation that gathers a sum of products in its first terms, ``(N·B, K, T)``.

    Σ_k √w_k Y_k ⊗ √w_k X_k = Σ_t Y'_t ⊗ X'_t for Y'_t = Σ_k V_kt √w_k Y_k, X' alike, with any orthogonal V.
    Its first column is along the flux that the data hold of light in their middle: the terms left out are
    orthogonal to it and hold none of that flux. The others are the eigenvectors with the largest eigenvalues
    of the matrix of inner products. Weights and standard deviations of the kernels' Gaussians are ``(N·B,
    K)``; these and the sides of a cutout and of its pixels are in arcseconds.
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
