"""Inputs of redshift heads: fluxes, errors and sizes of an object, comparable between surveys.

Shapes: N objects, B bands, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepfits.errors import InputError
from deepfits.passbands import COLUMN
from deepfits.photometry import REFERENCE_BANDS
from deepfits.redshifts.features import Source
from deepfits.splits import PerObject

if TYPE_CHECKING:
    import torch

FLOOR = 0.01  # error as a fraction of the flux, added in quadrature: no generator is more accurate
EDGE = 12.0  # logarithms of errors and fluxes relative to the reference band are clipped to ± this
INPUTS = (
    "flux", "error", "observed", "growth", "radius", "concentration", "colour", "noise", "core", "passband",
    "told",
)  # fmt: skip
"""Inputs for each band, in the order of `head_inputs`."""
FLUXES = ("flux", "total", "gaussian")  # measurements that have an error, ``<name>_err``
COLUMNS = {
    "flux": "flux_aper_scene", "flux_err": "flux_aper_scene_err", "total": "flux_scene",
    "total_err": "flux_scene_err", "gaussian": "flux_gauss", "gaussian_err": "flux_gauss_err",
    "radius": "scene_half_light_arcsec", "concentration": "scene_concentration", "wavelength": COLUMN,
}  # fmt: skip
"""Names of the measurements' columns in features, without the band."""


@dataclass(frozen=True, kw_only=True)
class SceneLight(PerObject):
    """Measurements of the best-fit scene, and of model and data combined; NaN where a band has no data."""

    flux: np.ndarray  # (N, B), nJy: flux of the scene in an aperture of 2″ diameter
    flux_err: np.ndarray  # (N, B), nJy
    total: np.ndarray  # (N, B), nJy: total flux of the scene
    total_err: np.ndarray  # (N, B), nJy
    gaussian: np.ndarray  # (N, B), nJy: model and data combined, in Gaussian apertures matched to the PSF
    gaussian_err: np.ndarray  # (N, B), nJy
    radius: np.ndarray  # (N, B), arcsec: half-light radius
    concentration: np.ndarray  # (N, B)
    wavelength: np.ndarray  # (N, B), Å: mean wavelength of the filter; NaN where unknown

    @property
    def is_valid(self) -> np.ndarray:
        """``(N, B)`` bool: whether a band was observed."""
        return np.asarray(np.isfinite(self.flux) & np.isfinite(self.flux_err) & (self.flux_err > 0))

    @classmethod
    def of(cls, source: Source, bands: Sequence[str]) -> SceneLight:
        """Take the measurements in the given bands; bands that the features lack are missing.

        A band without any data (``dof_<band>`` of 0) is also missing, although the scene has a flux there.
        """
        columns, number = source.columns, len(source)
        measured = [band for band in bands if f"flux_aper_scene_{band}" in columns]
        if len(measured) < 2:
            raise InputError(
                f"these features have fluxes at the reference PSF (flux_aper_scene_<band>) in {measured} "
                f"of the bands {list(bands)}; two are needed: fit with a model of scenes (builtin:ugriz)"
            )
        if not any(f"flux_gauss_{band}" in columns for band in measured):
            raise InputError(
                "these features have no fluxes of model and data combined (flux_gauss_<band>), which a head "
                "needs: they are from an earlier version; fit again"
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
            raise InputError("these features have no errors, which a head needs: fit again, with errors")
        return light

    def tensors(self) -> list[torch.Tensor]:
        """Return the measurements in field order, ``(N, B)`` float32 each; NaN where missing."""
        import torch

        valid = self.is_valid
        arrays = [np.where(valid, array, np.nan) for array in vars(self).values()]
        return [torch.as_tensor(array, dtype=torch.float32) for array in arrays]


def reference_order(bands: Sequence[str]) -> list[int]:
    """Return the indices of the bands in order of preference as the reference band."""
    first = [bands.index(band) for band in REFERENCE_BANDS if band in bands]
    return first + [place for place in range(len(bands)) if place not in first]


def input_names(bands: Sequence[str]) -> list[str]:
    """Return the names of the inputs that `head_inputs` makes, in order."""
    return ["reference", *(f"{name}_{band}" for name in INPUTS for band in bands)]


def head_inputs(parts: Sequence[torch.Tensor], order: Sequence[int]) -> torch.Tensor:
    """Return the inputs of a head's networks, ``(N, 1 + 11 B)``, NaN where missing.

    They are differentiable functions of `parts`, those of `SceneLight.tensors`. The reference band is the
    first one in `order` with data. The first input is the logarithm of the scene's aperture flux in the
    reference band. The others are, for each band:

    - the logarithms of aperture flux and error relative to it, and whether the band was observed;
    - the logarithms of total over aperture flux and of the radius, and the concentration;
    - the logarithms of Gaussian flux and error relative to the Gaussian flux in the reference band, and of
      Gaussian over aperture flux;
    - the logarithm of the filter's wavelength and whether it is known; the wavelengths of an object count as
      known only if those of all its observed bands are.

    The logarithm of a flux f with error e is asinh(f / 2e) + ln e, as for asinh magnitudes, which is linear
    in f within the noise.
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
    total_light, _ = logarithms(total, total_error)
    gaussian_light, gaussian_light_noise = logarithms(gaussian, gaussian_error)
    reference, seen_reference = first(light), first(gaussian_light)
    is_told = (torch.isfinite(wavelength) | ~torch.isfinite(flux)).all(1, keepdim=True)
    wavelength = torch.where(is_told, wavelength, torch.nan)
    return torch.cat(
        [
            reference,
            (light - reference).clamp(-EDGE, EDGE),
            (noise - reference).clamp(-EDGE, EDGE),
            torch.isfinite(flux).to(light.dtype),
            (total_light - light).clamp(-3, 3),
            torch.log(radius.clamp(0.02, 30.0)),
            concentration,
            (gaussian_light - seen_reference).clamp(-EDGE, EDGE),
            (gaussian_light_noise - seen_reference).clamp(-EDGE, EDGE),
            (gaussian_light - light).clamp(-3, 3),
            torch.log(wavelength),
            torch.isfinite(wavelength).to(light.dtype),
        ],
        dim=1,
    )
