"""Galaxies simulated on the device, from the table ``gpu_population.npz``.

Shapes: N objects, B bands, H, W pixels, S side of a stamp, K = S/2 + 1.

Profiles and their transforms are those of `deepfits.sky.drawing`: an exponential disc and a Spergel bulge,
convolved with the survey's PSF and pixels. Every cutout has its galaxy within half a pixel of the centre,
half a neighbour on average, and correlated noise.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepfits.provenance import provenance
from deepfits.training.loop import Trainer
from deepfits.training.noise import NoiseSource

TABLE = Path(__file__).with_name("gpu_population.npz")
SIZE = 32
DISC_SCALE = 1.6783469900166605
BULGE_POWER = -0.4
NEIGHBOUR_CHANCE = 0.25  # for each of two possible neighbours
NEAREST, FARTHEST = 5.0, 20.0  # pixels
MAG_STEPS = 1000.0


def mag_steps(flux: np.ndarray) -> np.ndarray:
    """Return AB magnitudes of fluxes in nJy, as 16-bit integers in units of 0.001 mag."""
    mag = 31.4 - 2.5 * np.log10(np.maximum(flux, 1e-9))
    return np.clip(np.rint(MAG_STEPS * mag), 0, 65535).astype(np.uint16)


@dataclass
class Drawn:
    """Simulated cutouts and the true properties of their galaxies.

    Attributes
    ----------
    image, weight
        ``(N, B, 32, 32)``, nJy and nJy⁻².
    z_spec
        ``(N,)``: redshifts.
    flux
        ``(N, B)``: fluxes in nJy.
    """

    image: Tensor
    weight: Tensor
    z_spec: Tensor
    flux: Tensor


class DeviceSky:
    """Simulates cutouts of galaxies on a device."""

    def __init__(self, device: torch.device | str, table: Path = TABLE) -> None:
        self.device = torch.device(device)
        with np.load(table) as held:
            self.columns: dict[str, Any] = {name: held[name] for name in held.files}

        def tensor(name: str) -> Tensor:
            return torch.as_tensor(np.asarray(self.columns[name], dtype=np.float32), device=device)

        self.flux, self.bulge = (10 ** (0.4 * (31.4 - tensor(n) / MAG_STEPS)) for n in ("mag", "bulge_mag"))
        self.disc_radius, self.bulge_radius = tensor("disc_radius"), tensor("bulge_radius")
        self.disc_ratio, self.bulge_ratio = tensor("disc_ratio"), tensor("bulge_ratio")
        self.z_spec, self.transfer, self.sigma = tensor("z_spec"), tensor("transfer"), tensor("sigma")
        self.bulge_scale = float(self.columns["bulge_scale"])
        self.bands = tuple(str(band) for band in self.columns["bands"])
        self.pixel_scale_arcsec = float(self.columns["pixel_scale_arcsec"])
        self.noise = NoiseSource(np.asarray(self.columns["autocovariance"], dtype=float), SIZE)

    def __len__(self) -> int:
        return len(self.flux)

    def draw(self, number: int, draw: torch.Generator) -> Drawn:
        """Simulate noisy cutouts; the random generator must be on the device."""
        rows = torch.randint(len(self), (number,), generator=draw, device=self.device)
        spectrum = self._spectrum(rows, self._uniform((number, 2), draw) - 0.5, draw)
        for _ in range(2):
            there = self._uniform((number,), draw) < NEIGHBOUR_CHANCE
            radius = NEAREST + (FARTHEST - NEAREST) * self._uniform((number,), draw).sqrt()
            angle = 2 * math.pi * self._uniform((number,), draw)
            at = torch.stack((radius * angle.sin(), radius * angle.cos()), dim=1)
            others = torch.randint(len(self), (number,), generator=draw, device=self.device)
            spectrum += self._spectrum(others, at, draw) * there[:, None, None, None]
        side = self.transfer.shape[1]
        stamps = torch.fft.irfft2(spectrum, s=(side, side))
        first = (side - SIZE) // 2
        clean = stamps[:, :, first : first + SIZE, first : first + SIZE]
        sigma = self.sigma[:, None, None] * (1 + 0.1 * (self._uniform((number, 1, 1, 1), draw) - 0.5))
        image = clean + sigma * self.noise.draw(number, draw)
        weight = (sigma**-2).expand_as(image).contiguous()
        return Drawn(image.contiguous(), weight, self.z_spec[rows], self.flux[rows])

    def _uniform(self, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=draw, device=self.device)

    def _spectrum(self, rows: Tensor, at: Tensor, draw: torch.Generator) -> Tensor:
        """Return Fourier transforms, ``(N, B, S, K)``, of galaxies at offsets `at`, ``(N, 2)`` pixels."""
        angle = math.pi * self._uniform((len(rows),), draw)
        return self.spectrum(rows, at, angle)

    def spectrum(self, rows: Tensor, at: Tensor, angle: Tensor) -> Tensor:
        """Return Fourier transforms, ``(N, B, S, K)``, for position angles `angle`: ``(N,)``."""
        return spectra(
            (self.flux[rows], self.bulge[rows]),
            (self.disc_radius[rows] / DISC_SCALE, self.disc_ratio[rows]),
            (self.bulge_radius[rows] / self.bulge_scale, self.bulge_ratio[rows]),
            at + self.transfer.shape[1] // 2,
            angle,
            self.transfer,
        )


def neighbour_pixels(own: Tensor, others: Tensor, sigma: Tensor) -> Tensor:
    """Return where neighbours outshine both noise and object, dilated by one pixel: ``(N, H, W)`` bool.

    Parameters
    ----------
    own, others
        Noise-free images of the object and of its neighbours, ``(N, B, H, W)``.
    sigma
        Noise per pixel, broadcast to ``(N, B, 1, 1)``.
    """
    signal = (others / sigma).sum(1)
    is_other = (signal / math.sqrt(own.shape[1]) > 1) & (signal > (own / sigma).sum(1))
    return functional.max_pool2d(is_other[:, None].float(), 3, 1, 1)[:, 0] > 0


def without_neighbours(image: Tensor, weight: Tensor, is_other: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and weights, both 0 in pixels of neighbours."""
    weight = torch.where(is_other[:, None], 0, weight)
    return torch.where(weight > 0, image, 0), weight


def describe_training(
    trainer: Trainer, name: str, step: int, seconds: float, noise: NoiseSource
) -> dict[str, Any]:
    """Return the card of a model that was trained on galaxies simulated on the fly."""
    config, engine, number = trainer.config, trainer.engine, step * trainer.config.batch_size
    return {
        "recipe": name,
        "training": config.to_json(),
        "engine": dataclasses.asdict(engine.config) | {"num_processes": 1},
        "steps": step,
        "seed": trainer.seed,
        "seconds": round(seconds, 1),
        "embedder_of": None,
        "data": {
            "fingerprint": "drawn as it went",
            "survey": trainer.model.info.survey,
            "num_used": number,
            "num_complete": number,
            "num_incomplete": 0,
            "num_held_out": 0,
        },
        "noise_autocovariance": noise.autocovariance.tolist(),
        "provenance": provenance(),
        "device": torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu",
    }


def spectra(
    flux: tuple[Tensor, Tensor],
    disc: tuple[Tensor, Tensor],
    bulge: tuple[Tensor, Tensor],
    at: Tensor,
    angle: Tensor,
    transfer: Tensor,
) -> Tensor:
    """Return Fourier transforms, ``(N, B, S, K)``, of galaxies.

    Parameters
    ----------
    flux
        Total flux and bulge flux, ``(N, B)``.
    disc, bulge
        Scale radius along the major axis in pixels, and axis ratio, ``(N,)`` each.
    at, angle
        Pixel coordinates (y, x) on the stamp, ``(N, 2)``, and position angle of the major axis, ``(N,)``.
    transfer
        Transfer function of PSF and pixels: ``(S, K)``, ``(B, S, K)`` or ``(N, B, S, K)``.
    """
    side, device = transfer.shape[-2], transfer.device
    ky = 2 * math.pi * torch.fft.fftfreq(side, device=device)[:, None]
    kx = 2 * math.pi * torch.fft.rfftfreq(side, device=device)

    def squared(
        radius: Tensor, ratio: Tensor
    ) -> Tensor:  # k²r² in the frame where the ellipse is a circle, (N, S, K)
        c, s, a2, b2 = angle.cos(), angle.sin(), radius**2, (radius * ratio) ** 2
        xx, yy, xy = a2 * c**2 + b2 * s**2, a2 * s**2 + b2 * c**2, 2 * (a2 - b2) * c * s
        return xx[:, None, None] * kx**2 + yy[:, None, None] * ky**2 + xy[:, None, None] * kx * ky

    bulge_flux = flux[1][:, :, None, None]
    disc_flux = flux[0][:, :, None, None] - bulge_flux
    profile = disc_flux * torch.rsqrt(1 + squared(*disc))[:, None] ** 3
    profile = profile + bulge_flux * torch.exp(BULGE_POWER * torch.log1p(squared(*bulge)))[:, None]
    phase = at[:, :1, None] * ky + at[:, 1:, None] * kx
    return profile * transfer * torch.polar(torch.ones_like(phase), -phase)[:, None]
