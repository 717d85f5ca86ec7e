"""What the report shows of held-out objects: what was observed, and what the fits gave.

Shapes: N held-out objects, B bands, H, W pixels, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepfits.photometry import ab_magnitude

RULE = (
    "Objects are chosen by rule: held-out objects with data in every pixel and without flags, at evenly "
    "spaced quantiles of their signal to noise, the same in every row and figure"
)
UNSEEN = "Measured on held-out objects, which the networks never saw."
MIN_IN_BIN = 5


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out objects of a store.

    Attributes
    ----------
    object_id
        ``(N,)``.
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    own_weight
        `weight` without the pixels of neighbours, where the fits leave them out.
    flux, flux_error
        ``(N, B)``, nJy, in the central aperture.
    signal_to_noise
        ``(N,)``, all bands together, in that aperture.
    blank, blank_central
        ``(N,)``, reduced χ² of an image without anything on it: in the cutout, and in its middle.
    examples, faint
        Indices of the objects that figures show: bright enough to be seen, and faint ones.
    """

    object_id: np.ndarray
    image: np.ndarray
    weight: np.ndarray
    own_weight: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    signal_to_noise: np.ndarray
    blank: np.ndarray
    blank_central: np.ndarray
    examples: np.ndarray
    faint: np.ndarray
    bands: tuple[str, ...]
    reference: int
    aperture_arcsec: float

    @property
    def magnitude(self) -> np.ndarray:
        """Aperture magnitude in the reference band, ``(N,)``."""
        return ab_magnitude(self.flux[:, self.reference])

    @property
    def magnitude_name(self) -> str:
        """What `magnitude` is, for axes and tables."""
        return f"{self.bands[self.reference]} magnitude (AB, {self.aperture_arcsec:g}″ radius)"

    def titles(self, which: np.ndarray) -> list[str]:
        """One line for each of some objects."""
        band = self.bands[self.reference]
        return [
            f"{self.object_id[i]}   {band} = {self.magnitude[i]:.1f}"
            if np.isfinite(self.magnitude[i])
            else str(self.object_id[i])
            for i in which
        ]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What one mode of the fit gave for the held-out objects, in their order.

    Attributes
    ----------
    chi2, dof
        ``(N,)``; NaN where the object was not fitted.
    chi2_band, dof_band
        ``(N, B)``.
    status
        ``(N,)`` text.
    latent, embedding
        ``(N, L)``: what was fitted, and by what galaxies are compared.
    central
        ``(N,)``, reduced χ² in the middle; NaN where it was not measured.
    drawn
        Fitted image ``(B, H, W)``, nJy, of each object that a figure shows.
    """

    chi2: np.ndarray
    dof: np.ndarray
    chi2_band: np.ndarray
    dof_band: np.ndarray
    status: np.ndarray
    num_steps: np.ndarray
    latent: np.ndarray
    embedding: np.ndarray
    central: np.ndarray
    drawn: Mapping[int, np.ndarray]

    @property
    def reduced(self) -> np.ndarray:
        """Reduced χ², ``(N,)``."""
        return self.chi2 / np.where(self.dof > 0, self.dof, np.nan)

    def images(self, which: np.ndarray) -> np.ndarray:
        """Return the fitted images of objects that figures show, ``(n, B, H, W)``."""
        return np.stack([self.drawn[int(index)] for index in which])
