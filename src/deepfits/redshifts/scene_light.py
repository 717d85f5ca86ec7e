"""What a head sees of an object: its light with errors, whatever the survey.

Shapes: N objects, B bands, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from deepfits.errors import InputError
from deepfits.passbands import COLUMN
from deepfits.photometry import REFERENCE_BANDS
from deepfits.redshifts.features import Source

if TYPE_CHECKING:
    import torch

FLOOR = 0.01
"""Share of a flux that its error is at least: no generator draws better."""
EDGE = 12.0
"""Logarithms of errors and fluxes relative to the reference band are held to this."""
INPUTS = (
    "flux", "error", "observed", "growth", "radius", "concentration", "colour", "noise", "core", "passband",
    "told",
)  # fmt: skip
"""Inputs for each band: see `head_inputs`."""
FLUXES = ("flux", "total", "gaussian")
"""What each has an error beside it, ``<name>_err``."""
COLUMNS = {
    "flux": "flux_aper_scene", "flux_err": "flux_aper_scene_err", "total": "flux_scene",
    "total_err": "flux_scene_err", "gaussian": "flux_gauss", "gaussian_err": "flux_gauss_err",
    "radius": "scene_half_light_arcsec", "concentration": "scene_concentration", "wavelength": COLUMN,
}  # fmt: skip
"""What features call these."""


@dataclass(frozen=True, kw_only=True)
class SceneLight:
    """Measurements of the best fit's scene, and of drawing and data together; NaN where a band has no data.

    Attributes
    ----------
    flux, flux_err
        ``(N, B)``, nJy: of the scene inside 2″.
    total, total_err
        ``(N, B)``, nJy: of the scene.
    gaussian, gaussian_err
        ``(N, B)``, nJy: of drawing and data, through Gaussians matched to the PSF.
    radius, concentration
        ``(N, B)``: half-light radius in arcsec.
    wavelength
        ``(N, B)``, Å: mean wavelength of the filter; NaN where it is not known.
    """

    flux: np.ndarray
    flux_err: np.ndarray
    total: np.ndarray
    total_err: np.ndarray
    gaussian: np.ndarray
    gaussian_err: np.ndarray
    radius: np.ndarray
    concentration: np.ndarray
    wavelength: np.ndarray

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def is_valid(self) -> np.ndarray:
        """Where a band was observed: ``(N, B)``."""
        return np.asarray(np.isfinite(self.flux) & np.isfinite(self.flux_err) & (self.flux_err > 0))

    def take(self, rows: np.ndarray) -> SceneLight:
        """Return some rows."""
        return SceneLight(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[SceneLight]) -> SceneLight:
        """Return objects one after the other."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def of(cls, source: Source, bands: Sequence[str]) -> SceneLight:
        """Take what features have in these bands; a band that they do not have is missing.

        A band without a pixel of data (``dof_<band>`` of 0) is missing too, though the scene has light there.

        Raises
        ------
        InputError
            Features without scenes, or with fewer than two of the bands.
        """
        columns, number = source.columns, len(source)
        there = [band for band in bands if f"flux_aper_scene_{band}" in columns]
        if len(there) < 2:
            raise InputError(
                f"these features have light at the reference PSF (flux_aper_scene_<band>) in {there} of the "
                f"bands {list(bands)}, and two are needed: fit with a model that draws scenes (builtin:ugriz)"
            )
        if not any(f"flux_gauss_{band}" in columns for band in there):
            raise InputError(
                "these features have no fluxes by drawing and data (flux_gauss_<band>), which a head asks "
                "for: they are of an earlier version; fit again"
            )

        def column(name: str) -> np.ndarray:
            out = np.full((number, len(bands)), np.nan)
            for place, band in enumerate(bands):
                if f"{name}_{band}" in columns:
                    out[:, place] = columns[f"{name}_{band}"]
                    if f"dof_{band}" in columns:
                        out[~(columns[f"dof_{band}"] > 0), place] = np.nan
            return out

        light = cls(**{name: column(written) for name, written in COLUMNS.items()})
        if not np.isfinite(light.flux_err).any():
            raise InputError(
                "these features have no errors, which a head asks for: fit with uncertainty=True"
            )
        return light

    def tensors(self) -> list[torch.Tensor]:
        """Return the measurements in their order, ``(N, B)`` float32 each; NaN where there is none."""
        import torch

        valid = self.is_valid
        arrays = [getattr(self, f.name) for f in fields(self)]
        return [torch.as_tensor(np.where(valid, array, np.nan), dtype=torch.float32) for array in arrays]


def reference_order(bands: Sequence[str]) -> list[int]:
    """Return the bands' places in the order in which they serve as the reference."""
    first = [bands.index(band) for band in REFERENCE_BANDS if band in bands]
    return first + [place for place in range(len(bands)) if place not in first]


def input_names(bands: Sequence[str]) -> list[str]:
    """Return names of the inputs of `head_inputs`, in their order."""
    return ["reference", *(f"{name}_{band}" for name in INPUTS for band in bands)]


def head_inputs(parts: Sequence[torch.Tensor], order: Sequence[int]) -> torch.Tensor:
    """Return what a head's networks see, ``(N, 1 + 11 B)``, NaN where missing.

    The logarithm of the scene's flux in the reference band (the first one of `order` with data); and for each
    band the logarithms of its flux and of its error relative to that, whether it was observed, the logarithms
    of total over aperture and of the radius, and the concentration; then logarithms of flux and error through
    Gaussians relative to that flux in the reference band, and of that flux over the scene's; and the
    logarithm of the filter's wavelength, and whether it is known, which it is where it is of every band that
    was observed. A logarithm of a flux f with error e is asinh(f / 2e) + ln e, as of asinh magnitudes: linear
    in the noise. Differentiable in the fluxes. `parts` are those of `SceneLight.tensors`.
    """
    import torch

    flux, error, total, total_error, gaussian, gaussian_error, radius, concentration, wavelength = parts

    def logarithms(flux: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        error = torch.sqrt(error**2 + (FLOOR * flux) ** 2)
        return torch.asinh(flux / (2 * error)) + torch.log(error), torch.log(error)

    def first(light: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(light[:, :1], torch.nan)
        for place in order:
            out = torch.where(torch.isfinite(out), out, light[:, place, None])
        return out

    light, noise = logarithms(flux, error)
    whole, _ = logarithms(total, total_error)
    seen, seen_noise = logarithms(gaussian, gaussian_error)
    reference, seen_reference = first(light), first(seen)
    is_told = (torch.isfinite(wavelength) | ~torch.isfinite(flux)).all(1, keepdim=True)
    wavelength = torch.where(is_told, wavelength, torch.nan)
    return torch.cat(
        [
            reference,
            (light - reference).clamp(-EDGE, EDGE),
            (noise - reference).clamp(-EDGE, EDGE),
            torch.isfinite(flux).to(light.dtype),
            (whole - light).clamp(-3, 3),
            torch.log(radius.clamp(0.02, 30.0)),
            concentration,
            (seen - seen_reference).clamp(-EDGE, EDGE),
            (seen_noise - seen_reference).clamp(-EDGE, EDGE),
            (seen - light).clamp(-3, 3),
            torch.log(wavelength),
            torch.isfinite(wavelength).to(light.dtype),
        ],
        dim=1,
    )
