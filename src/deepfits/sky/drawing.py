"""Drawing galaxies and stars, as batches of stamps computed in Fourier space.

Shapes: N objects, B bands, S side of a stamp in pixels, K = S/2 + 1 wavenumbers of a real transform. Lengths
are in pixels, wavenumbers k in radians per pixel, fluxes in nJy.

All profiles have analytic Fourier transforms, so that drawing a galaxy convolved with any PSF takes a single
inverse transform. The disc is exponential (Sérsic n = 1). The bulge has a Spergel (2010) profile with
ν = −0.6, which approximates a de Vaucouleurs profile (n = 4) over the relevant radii but has the closed-form
transform (1 + k²r₀²)^−0.4. Profiles are computed once for all bands.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gamma, kv

from deepfits.gaussian_psf import moffat_radius
from deepfits.splits import PerObject

DISC_SCALE = 1.6783469900166605  # half-light radius of an exponential disc in units of its scale length
BULGE_NU = -0.6
SIZES = np.array([16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048])
DRAW_BYTES = 1 << 21
"""Memory of the stamps of one batch; it should fit in a core's cache (larger batches are slower)."""


@dataclass(frozen=True)
class Shapes(PerObject):
    """Positions, fluxes and shapes of objects to draw."""

    x: np.ndarray  # (N,): position of the centre in the scene, pixels; that of the first pixel is at 0
    y: np.ndarray  # (N,)
    disc_flux: np.ndarray  # (N, B), nJy; a star is a disc of radius 0
    bulge_flux: np.ndarray  # (N, B), nJy
    disc_radius: np.ndarray  # (N,): half-light radius along the major axis, pixels
    bulge_radius: np.ndarray  # (N,)
    disc_ratio: np.ndarray  # (N,): minor over major axis, in (0, 1]
    bulge_ratio: np.ndarray  # (N,)
    angle: np.ndarray  # (N,) direction of the major axis, radians from +x to +y


@lru_cache(maxsize=1)
def bulge_scale() -> float:
    """Return the half-light radius of the bulge in units of r₀ (Spergel 2010, eq. 5)."""
    nu = BULGE_NU + 1
    return float(
        brentq(lambda u: (u / 2) ** nu * kv(nu, u) / gamma(nu + 1) - 1 / (4 * nu), 1e-4, 5, xtol=1e-14)
    )


def wave_numbers(size: int, device: str | torch.device = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the wavenumbers along y, ``(S,)``, and x, ``(K,)``, of a real transform of ``(S, S)``."""
    ky = 2 * math.pi * torch.fft.fftfreq(size, device=device)
    kx = 2 * math.pi * torch.fft.rfftfreq(size, device=device)
    return ky, kx


def moffat_transfer(k: np.ndarray, fwhm: float, beta: float) -> np.ndarray:
    """Return the Fourier transform of an untruncated Moffat profile of flux 1.

    This is 2 (k r₀ / 2)^(β−1) K_(β−1)(k r₀) / Γ(β−1), with K a modified Bessel function. Wavenumbers, of any
    shape, are in radians per pixel, the FWHM in pixels; β must be above 1.
    """
    u = np.maximum(np.asarray(k) * moffat_radius(fwhm, beta), 1e-8)
    return 2 * (u / 2) ** (beta - 1) * kv(beta - 1, u) / gamma(beta - 1)


def psf_transfer(size: int, fwhm: tuple[float, ...], beta: float) -> torch.Tensor:
    """Return the transfer function of Moffat PSFs (`fwhm` in pixels) and pixel, ``(B, S, K)`` float32."""
    ky, kx = (k.numpy().astype(float) for k in wave_numbers(size))
    k = np.hypot(ky[:, None], kx[None, :])
    pixel = np.sinc(ky / (2 * np.pi))[:, None] * np.sinc(kx / (2 * np.pi))[None, :]
    return torch.from_numpy(np.stack([moffat_transfer(k, w, beta) * pixel for w in fwhm])).float()


def draw_stamps(shapes: Shapes, transfer: torch.Tensor) -> torch.Tensor:
    """Draw each object at the centre of its own stamp, ``(N, B, S, S)`` float32, nJy per pixel.

    Only the fractional part of positions is used: the object lies within half a pixel of pixel (S/2, S/2).
    Stamps are periodic, i.e. flux that leaves on one side enters on the other, so their side should be chosen
    with `stamp_sizes`. The stamps are drawn on the device of `transfer`, ``(B, S, K)`` from `psf_transfer`.
    """
    size, device = transfer.shape[1], transfer.device
    ky, kx = wave_numbers(size, device)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=device)

    u = _squared_length(tensor(shapes.disc_radius / DISC_SCALE), shapes.disc_ratio, shapes.angle, ky, kx)
    disc = torch.rsqrt(1 + u) ** 3  # (N, S, K)
    spectrum = tensor(shapes.disc_flux)[:, :, None, None] * disc[:, None]  # (N, B, S, K)
    has_bulge = np.flatnonzero((shapes.bulge_flux != 0).any(axis=1))
    if has_bulge.size:
        part = shapes.take(has_bulge)
        u = _squared_length(tensor(part.bulge_radius / bulge_scale()), part.bulge_ratio, part.angle, ky, kx)
        bulge = torch.exp(-(1 + BULGE_NU) * torch.log1p(u))
        where = torch.as_tensor(has_bulge, device=device)
        spectrum.index_add_(0, where, tensor(part.bulge_flux)[:, :, None, None] * bulge[:, None])
    spectrum *= transfer
    shift_x = tensor(shapes.x - np.rint(shapes.x)) + size // 2
    shift_y = tensor(shapes.y - np.rint(shapes.y)) + size // 2
    phase = _phase(shift_y, ky)[:, :, None] * _phase(shift_x, kx)[:, None, :]  # (N, S, K)
    return torch.fft.irfft2(spectrum * phase[:, None], s=(size, size))


def _phase(shift: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    angle = -shift[:, None] * k
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _squared_length(
    radius: torch.Tensor, ratio: np.ndarray, angle: np.ndarray, ky: torch.Tensor, kx: torch.Tensor
) -> torch.Tensor:
    """Return k²r², ``(N, S, K)``, in the frame where the ellipse is a circle of the given radius."""
    # A quadratic form in (kx, ky) with three coefficients per object.
    q = torch.as_tensor(ratio, dtype=torch.float32, device=kx.device)
    c = torch.as_tensor(np.cos(angle), dtype=torch.float32, device=kx.device)
    s = torch.as_tensor(np.sin(angle), dtype=torch.float32, device=kx.device)
    a2, b2 = radius**2, (radius * q) ** 2
    xx = (a2 * c**2 + b2 * s**2)[:, None] * kx**2
    yy = (a2 * s**2 + b2 * c**2)[:, None] * ky**2
    xy = (2 * (a2 - b2) * c * s)[:, None] * kx
    return xx[:, None, :] + yy[:, :, None] + xy[:, None, :] * ky[None, :, None]


def stamp_sizes(shapes: Shapes, faint: np.ndarray, fwhm: np.ndarray, beta: float) -> np.ndarray:
    """Choose the side of each object's stamp from `SIZES`, ``(N,)`` int, large enough for its visible part.

    Flux may be cut off below the surface brightness `faint`, ``(B,)`` nJy per pixel; `fwhm` is ``(B,)``
    pixels.
    """
    r0 = np.array([moffat_radius(w, beta) for w in fwhm])
    total = shapes.disc_flux + shapes.bulge_flux
    wing = (np.maximum(total / (math.pi * r0**2 * faint / (beta - 1)), 1.0)) ** (1 / beta) - 1
    radius = (r0 * np.sqrt(wing)).max(axis=1)
    scales = shapes.disc_radius / DISC_SCALE, shapes.bulge_radius / bulge_scale()
    disc = _exponential_reach(shapes.disc_flux, scales[0], shapes.disc_ratio, faint)
    bulge = _exponential_reach(shapes.bulge_flux, scales[1], shapes.bulge_ratio, faint)
    extended = np.maximum(disc, bulge)
    needed = 2 * np.where(extended > 0, np.hypot(radius, extended) + 1, radius + 1)
    return SIZES[np.minimum(np.searchsorted(SIZES, needed), len(SIZES) - 1)]


def _exponential_reach(
    flux: np.ndarray, scale: np.ndarray, ratio: np.ndarray, faint: np.ndarray
) -> np.ndarray:
    """Return the radius, ``(N,)``, beyond which exp(−r/scale) wings are below `faint` in every band."""
    area = 2 * math.pi * np.maximum(scale**2 * ratio, 1e-6)
    excess = np.maximum(flux / (area[:, None] * faint), 1.0)
    return (scale[:, None] * np.log(excess)).max(axis=1)


def draw_into(
    image: np.ndarray,
    shapes: Shapes,
    sizes: np.ndarray,
    fwhm: tuple[float, ...],
    beta: float,
    *,
    first_row: int = 0,
    device: str = "cpu",
) -> None:
    """Add objects to the part of a scene that begins at `first_row`.

    The image, ``(B, H, W)`` float32 in nJy per pixel, is changed in place. Positions refer to the whole
    scene, `sizes`, ``(N,)``, come from `stamp_sizes`, and `fwhm` is in pixels per band.
    """
    num_bands = image.shape[0]
    for size in np.unique(sizes):
        transfer = psf_transfer(int(size), fwhm, beta).to(device)
        members = np.flatnonzero(sizes == size)
        batch = max(1, DRAW_BYTES // (int(size) ** 2 * num_bands * 4))
        for start in range(0, len(members), batch):
            rows = members[start : start + batch]
            stamps = draw_stamps(shapes.take(rows), transfer).cpu().numpy()
            lefts = np.rint(shapes.x[rows]).astype(int) - size // 2
            bottoms = np.rint(shapes.y[rows]).astype(int) - size // 2 - first_row
            for stamp, left, bottom in zip(stamps, lefts.tolist(), bottoms.tolist(), strict=True):
                add_stamp(image, stamp, left, bottom)


def add_stamp(image: np.ndarray, stamp: np.ndarray, left: int, bottom: int) -> None:
    """Add a stamp, ``(B, S, S)``, to an image, ``(B, H, W)``, where the two overlap."""
    height, width = image.shape[1:]
    size = stamp.shape[-1]
    y0, y1 = max(bottom, 0), min(bottom + size, height)
    x0, x1 = max(left, 0), min(left + size, width)
    if y0 < y1 and x0 < x1:
        image[:, y0:y1, x0:x1] += stamp[:, y0 - bottom : y1 - bottom, x0 - left : x1 - left]
