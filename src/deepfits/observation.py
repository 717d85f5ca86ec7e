"""Between a scene and the pixels of one object in one band: PSF, pixel size, sub-pixel place.

Shapes: N objects, B bands, K Gaussians of a PSF, T terms of an observation, D data pixels a side, S scene
pixels a side.

A PSF is a sum of K round Gaussians (multi-Gaussian expansion: Emsellem, Monnet & Bacon 1994), an array
``(..., K, 2)`` of weights, which sum to 1, and standard deviations in arcseconds; NaN where it is unknown. It
is the PSF of the optics and the atmosphere: the pixel comes on top of it. A scene is drawn at a reference
PSF, one round Gaussian of variance σ_ref². The kernel from reference to PSF is then again a sum of Gaussians,
of variances σ_k² − σ_ref², and since a Gaussian is separable,

    image_b = Σ_k w_k · Y_k · scene_b · X_kᵀ,

with Y_k and X_k of shape (D, S): a Gaussian of that variance, integrated over the data's pixels, at the
distances between pixel centres. Their columns sum to 1, which conserves flux; their rows to the ratio of the
pixel sides. An orthogonal rotation of the K products leaves the sum as it is and gathers nearly all of it in
the first T of them (`TERMS`), so that an observation costs T small matrix products from either side.

Scene and data are centred on each other, apart from a shift. Needs PyTorch and NumPy alone.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.compiled import library
from deepfits.errors import InputError

log = logging.getLogger(__name__)
NUM_GAUSSIANS = 8
USUAL_BETA = 3.0
"""Index of the Moffat profile (Moffat 1969) where only the width of a PSF is known."""
TERMS = 2
FEWEST_PIXELS = 8  # on a side, that `small_products` take
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
NARROWEST, WIDEST = 0.25, 6.0  # standard deviations of an expansion, in units of the FWHM
SAMPLED = 0.55  # least standard deviation of a kernel, in scene pixels, that their sums stand for
TOLERANCE = 0.03  # of the peak: what a PSF may differ from its expansion above a reference


@dataclass(frozen=True, kw_only=True)
class SceneGrid:
    """What a scene is drawn on, and at what PSF.

    Attributes
    ----------
    size
        S.
    pixel_scale_arcsec
        Side of a scene pixel.
    reference_fwhm_arcsec
        Full width at half maximum of the reference PSF.
    """

    size: int
    pixel_scale_arcsec: float
    reference_fwhm_arcsec: float

    @property
    def reference_sigma(self) -> float:
        """Standard deviation of the reference PSF, arcseconds."""
        return self.reference_fwhm_arcsec / FWHM_PER_SIGMA


def moffat_psf(fwhm_arcsec: float, beta: float = USUAL_BETA) -> np.ndarray:
    """Return a Moffat profile as a sum of Gaussians, ``(K, 2)``; NaN for a width of NaN.

    Examples
    --------
    >>> psf = moffat_psf(0.8)
    >>> round(float(psf[:, 0].sum()), 6), round(float(fwhm_of(psf)), 2)
    (1.0, 0.8)
    """
    if not math.isfinite(fwhm_arcsec):
        return np.full((NUM_GAUSSIANS, 2), np.nan, dtype=np.float32)
    psf = _unit_moffat(round(beta if math.isfinite(beta) else USUAL_BETA, 2)).copy()
    psf[:, 1] *= fwhm_arcsec
    return psf.astype(np.float32)


@lru_cache(maxsize=256)
def _unit_moffat(beta: float) -> np.ndarray:
    """Return the expansion of a Moffat profile of FWHM 1."""
    if not beta > 1:
        raise InputError(f"a Moffat profile needs an index above 1, not {beta}")
    squared = 1 / (4 * (2 ** (1 / beta) - 1))  # of the scale radius
    radius = _radii(1.0)
    profile = (beta - 1) / (np.pi * squared) * (1 + radius**2 / squared) ** -beta
    enclosed = 1 - (1 + radius**2 / squared) ** (1 - beta)
    sigma = np.geomspace(NARROWEST, WIDEST, NUM_GAUSSIANS)
    return np.stack([_expand(radius, profile, enclosed, sigma)[0], sigma], axis=1)


def _radii(fwhm: float) -> np.ndarray:
    return np.concatenate([[0.0], np.geomspace(0.02, 12, 120)]) * fwhm


def _expand(
    radius: np.ndarray, profile: np.ndarray, enclosed: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fit weights to a round profile and its enclosed flux; return them and the worst error over the peak."""
    ratio = -0.5 * (radius[:, None] / sigma) ** 2
    gaussians = np.exp(ratio) / (2 * np.pi * sigma**2)
    rows = np.concatenate([gaussians / profile[0], 3 * -np.expm1(ratio)])
    weight = non_negative(rows, np.concatenate([profile / profile[0], 3 * enclosed]))
    weight /= weight.sum()
    return weight, float(np.abs(gaussians @ weight - profile).max() / profile[0])


def non_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve least squares for coefficients that are not negative (Lawson & Hanson 1974, algorithm NNLS).

    Examples
    --------
    >>> non_negative(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([1.0, -1.0])).tolist()
    [1.0, 0.0]
    """
    number = matrix.shape[1]
    out, is_free = np.zeros(number), np.zeros(number, dtype=bool)
    least = 1e-10 * np.abs(matrix.T @ target).max()
    for _ in range(3 * number):
        slope = np.where(is_free, -np.inf, matrix.T @ (target - matrix @ out))
        if slope.max() <= least:
            break
        is_free[slope.argmax()] = True
        while True:
            trial = np.zeros(number)
            trial[is_free] = np.linalg.lstsq(matrix[:, is_free], target, rcond=None)[0]
            if (trial[is_free] > 0).all():
                break
            falling = is_free & (trial <= 0)
            step = (out[falling] / np.maximum(out[falling] - trial[falling], 1e-300)).min()
            out = out + step * (trial - out)
            is_free &= out > 1e-12 * max(out.max(), 1e-300)
            out[~is_free] = 0
        out = trial
    return out


def expand_image(image: np.ndarray, pixel_scale_arcsec: float, *, pixel_side: float = 1.0) -> np.ndarray:
    """Return a measured PSF image as a sum of round Gaussians, ``(K, 2)``.

    Parameters
    ----------
    image
        ``(H, W)``, any flux, without background; NaN where it is unknown. The PSF is where its peak is.
    pixel_scale_arcsec
        Side of its pixels.
    pixel_side
        Side, in pixels of this image, of the detector's pixels whose blur the image holds and which is taken
        out again: 1 for a star or HSC's models; 0 where the image is the PSF at its pixels' centres.

    Raises
    ------
    InputError
        The image holds no light, or is mostly NaN.
    """
    image = np.asarray(image, dtype=float)
    is_known = np.isfinite(image)
    light = np.where(is_known, image, 0)
    if image.ndim != 2 or 2 * is_known.sum() < image.size or not light.sum() > 0:
        raise InputError("a PSF image must be two-dimensional, mostly finite and hold light")
    scale = light.max()
    above = (light > scale / 2).sum()
    fwhm = max(2 * math.sqrt(above / np.pi), 1.0)
    y0, x0 = centre_of_light(light.clip(min=0), fwhm)
    y, x = np.arange(image.shape[0]) - y0, np.arange(image.shape[1]) - x0
    sigma = np.geomspace(NARROWEST * fwhm, min(WIDEST * fwhm, min(image.shape) / 2), NUM_GAUSSIANS)
    profiles = []
    for width in sigma:
        along_y, along_x = (_pixel_mean(at, width, pixel_side) for at in (y, x))
        profiles.append(np.outer(along_y, along_x)[is_known])
    weight = non_negative(np.stack(profiles, axis=1) / scale, image[is_known] / scale)
    if not weight.sum() > 0:
        raise InputError("a PSF image has no peak that Gaussians could describe")
    return np.stack([weight / weight.sum(), sigma * pixel_scale_arcsec], axis=1).astype(np.float32)


def centre_of_light(light: np.ndarray, fwhm: float) -> tuple[float, float]:
    """Return the centre (y, x) of the light around the peak, pixels: the mean under a Gaussian there."""
    (y0, x0), sigma = np.unravel_index(int(light.argmax()), light.shape), max(fwhm / FWHM_PER_SIGMA, 0.7)
    y, x = np.arange(light.shape[0]), np.arange(light.shape[1])
    at = np.array([y0, x0], dtype=float)
    for _ in range(20):
        part = light * np.outer(
            *(np.exp(-0.5 * ((o - c) / sigma) ** 2) for o, c in zip((y, x), at, strict=True))
        )
        mean = np.array([part.sum(1) @ y, part.sum(0) @ x]) / part.sum()
        at += 2 * (mean - at)  # the Gaussian holds the mean back by half, of a peak as wide as it
        at = at.clip((y0 - 2, x0 - 2), (y0 + 2, x0 + 2))
    return float(at[0]), float(at[1])


def _pixel_mean(at: np.ndarray, sigma: float, side: float) -> np.ndarray:
    """Return the mean of a Gaussian over pixels of this side (0: its value) centred at `at`."""
    if not side:
        return np.asarray(np.exp(-0.5 * (at / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)))
    edge = torch.as_tensor(np.stack([at + side / 2, at - side / 2]) / (sigma * math.sqrt(2)))
    upper, lower = torch.erf(edge).numpy()
    return np.asarray((upper - lower) / (2 * side))


def profile_of(psf: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the surface brightness, ``(..., R)``, of PSFs ``(..., K, 2)`` at radii ``(..., R)``."""
    weight, sigma = psf[..., 0].astype(float), psf[..., 1].astype(float)
    each = np.exp(-0.5 * (radius[..., None] / sigma[..., None, :]) ** 2) / (
        2 * np.pi * sigma[..., None, :] ** 2
    )
    return np.asarray((weight[..., None, :] * each).sum(-1))


def fwhm_of(psf: np.ndarray) -> np.ndarray:
    """Return the full width at half maximum, ``(...)`` arcseconds, of PSFs ``(..., K, 2)``; NaN stays NaN."""
    low = np.zeros(psf.shape[:-2])
    high = 4 * FWHM_PER_SIGMA * np.nanmax(psf[..., 1], axis=-1, initial=1e-3)
    half = profile_of(psf, low[..., None])[..., 0] / 2
    for _ in range(50):
        middle = (low + high) / 2
        is_inside = profile_of(psf, middle[..., None])[..., 0] > half
        low, high = np.where(is_inside, middle, low), np.where(is_inside, high, middle)
    return np.where(np.isfinite(half), low + high, np.nan)


def psf_or_moffat(psf: np.ndarray | None, fwhm_arcsec: Sequence[float], number: int) -> np.ndarray:
    """Return the PSFs of some objects, ``(N, B, K, 2)``: what is recorded, else Moffat profiles.

    Parameters
    ----------
    psf
        ``(N, B, K, 2)``, NaN where unknown; None where a store has recorded none.
    fwhm_arcsec
        Per band, for those that are unknown; where this is NaN too, the PSF stays NaN.
    """
    usual = np.stack([moffat_psf(fwhm) for fwhm in fwhm_arcsec])
    if psf is None:
        return np.broadcast_to(usual, (number, *usual.shape))
    return np.where(np.isfinite(psf).all((2, 3), keepdims=True), psf, usual)


def all_above_reference(
    psf: np.ndarray, grid: SceneGrid, bands: Sequence[str], used: np.ndarray | None = None
) -> np.ndarray:
    """Bring the PSFs of many objects, ``(N, B, K, 2)``, above a reference; each different one once.

    Parameters
    ----------
    used
        ``(N, B)``, which of them matter (a band with data); the others become the reference's own.

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
    radius = _radii(fwhm)
    ratio = -0.5 * (radius[:, None] / used[:, 1].astype(float)) ** 2
    enclosed = -np.expm1(ratio) @ used[:, 0].astype(float)
    sigma = np.geomspace(least, max(WIDEST * fwhm, 2 * least), len(psf))
    weight, error = _expand(radius, profile_of(psf, radius), enclosed, sigma)
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
    found = library("_observation", "fits are")
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
        """Build the matrices.

        Parameters
        ----------
        grid
            Of the scenes.
        psf
            ``(N, B, K, 2)``, as `above_reference` returns each.
        size, pixel_scale_arcsec
            Of the data: D, and the side of a pixel.
        shift_pixels
            ``(N, 2)``: where, from the middle of the cutout, the middle of the scene lies, (y, x) in data
            pixels; 0 by default.
        terms
            T; K or more makes the sum exact.
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
            mine, theirs = (getattr(one, name).unflatten(0, (-1, self.num_bands)) for one in (self, other))
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

    def _small(self, function: str, right: Tensor | None, plane: Tensor, side: int) -> Tensor:
        """Call one of `small_products` for planes, ``(N, B, ...)``; return ``(N, B, side, side)``."""
        assert right is not None
        plane = plane.detach().contiguous()
        out = plane.new_empty(*plane.shape[:2], side, side)
        scene_side = self.columns.shape[1]
        sizes = (len(self.rows), self.size, scene_side, self.rows.shape[2] // scene_side)
        pointers = [ctypes.c_void_p(one.data_ptr()) for one in (self.rows, right, plane, out)]
        if getattr(small_products(), function)(*pointers, *sizes):
            raise MemoryError("no memory for an observation")
        return out

    def tangents(self, derivative: Tensor) -> Tensor:
        """Show derivatives of scenes, ``(N, L, B, S, S)``, as derivatives of data, ``(N, L, B, D, D)``."""
        number, length = derivative.shape[:2]
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
    grid
        Of the scenes.
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
    def nominal(cls, grid: SceneGrid, num_bands: int, size: int, pixel_scale_arcsec: float) -> Sight:
        """Return how one object would be seen at twice the reference's width: what metrics are learnt at."""
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
    of the matrix of inner products.

    Parameters
    ----------
    weight, sigma
        ``(N·B, K)``, of the kernels' Gaussians, arcseconds.
    side, pixel
        Of a cutout and of its pixels, arcseconds.
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
