"""Observations and fits of the held-out objects that the report shows.

Shapes: N held-out objects, B bands, H, W pixels, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np

from deepfits.photometry import ab_magnitude, circular_aperture, reference_band
from deepfits.pictures import noise_per_band
from deepfits.survey.store import Cutouts, StoreInfo

RULE = (
    "Objects are selected by rule: held-out objects with data in every pixel and without flags, at evenly "
    "spaced quantiles of signal-to-noise ratio; they are the same in all rows and figures"
)
UNSEEN = "Measured on held-out objects, which the networks never saw."
MIN_IN_BIN = 5
APERTURE_ARCSEC = 1.0


def central_circle(size: int, pixel_scale_arcsec: float) -> np.ndarray:
    """Return each pixel's share inside the central aperture, ``(H, W)``; radius: at least two pixels."""
    return circular_aperture(size, max(APERTURE_ARCSEC / pixel_scale_arcsec, 2.0))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out objects of a store."""

    cutouts: Cutouts
    info: StoreInfo
    own_weight: np.ndarray  # their weight, set to 0 in the pixels of neighbours if the fits exclude these
    flux: np.ndarray  # (N, B), nJy, in the central aperture
    flux_error: np.ndarray  # (N, B), nJy
    signal_to_noise: np.ndarray  # (N,), of all bands combined, in that aperture
    blank: np.ndarray  # (N,): reduced χ² of an empty image
    blank_central: np.ndarray  # (N,): the same in the centre
    examples: np.ndarray  # indices of the bright objects shown in figures
    faint: np.ndarray  # indices of the faint ones

    @property
    def object_id(self) -> np.ndarray:
        """Identities, ``(N,)``."""
        return self.cutouts.object_id

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.info.bands

    @property
    def observed(self) -> np.ndarray:
        """Images, ``(N, B, H, W)`` in nJy; NaN where there are no data."""
        return np.where(self.cutouts.weight > 0, self.cutouts.image, np.nan)

    @cached_property
    def noise(self) -> np.ndarray:
        """Median noise per pixel of each band, ``(B,)`` nJy."""
        return noise_per_band(self.cutouts.weight)

    @cached_property
    def with_data(self) -> tuple[str, ...]:
        """Names of the bands with data."""
        return tuple(compress(self.bands, np.isfinite(self.flux_error).any(axis=0)))

    @property
    def reference(self) -> str:
        """Reference band among those with data."""
        return reference_band(self.with_data or self.bands)

    @property
    def magnitude(self) -> np.ndarray:
        """Aperture magnitude in the reference band, ``(N,)``."""
        return ab_magnitude(self.flux[:, self.bands.index(self.reference)])

    @property
    def magnitude_name(self) -> str:
        """Name of `magnitude`, for axes and tables."""
        return f"{self.reference} magnitude (AB, {APERTURE_ARCSEC:g}″ radius)"

    def titles(self, which: np.ndarray) -> list[str]:
        """Return a one-line title for each object."""
        band, magnitude = self.reference, self.magnitude
        brightness = [f"   {band} = {magnitude[i]:.1f}" * bool(np.isfinite(magnitude[i])) for i in which]
        return [f"{self.object_id[i]}{text}" for i, text in zip(which, brightness, strict=True)]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Results of one mode of the fit for the held-out objects, in their order."""

    chi2: np.ndarray  # (N,); NaN where the object was not fitted
    dof: np.ndarray  # (N,)
    chi2_band: np.ndarray  # (N, B)
    dof_band: np.ndarray  # (N, B)
    status: np.ndarray  # (N,) strings
    num_steps: np.ndarray
    latent: np.ndarray  # (N, L)
    embedding: np.ndarray  # (N, L), by which galaxies are compared
    central: np.ndarray  # (N,), reduced χ² in the centre; NaN where it was not measured
    drawn: Mapping[int, np.ndarray]  # fitted image (B, H, W), nJy, of each object shown in a figure, by index

    @property
    def reduced(self) -> np.ndarray:
        """Reduced χ², ``(N,)``."""
        return self.chi2 / np.where(self.dof > 0, self.dof, np.nan)

    def images(self, which: np.ndarray) -> np.ndarray:
        """Return the fitted images of objects shown in figures, ``(n, B, H, W)``."""
        return np.stack([self.drawn[int(index)] for index in which])
