"""Observations and fits of the held-out objects that the report shows, and which of them figures show.

Shapes: N held-out objects, B bands, H, W pixels, L latent dimensions.
"""

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
BRIGHT, FAINT = (0.99, 0.80), (0.60, 0.20)  # quantiles of signal-to-noise ratio of objects in figures


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
    reduced: np.ndarray  # (N,): χ² per valid pixel
    reduced_band: np.ndarray  # (N, B): the same in each band
    status: np.ndarray  # (N,) strings
    num_steps: np.ndarray
    latent: np.ndarray  # (N, L)
    embedding: np.ndarray  # (N, L), by which galaxies are compared
    central: np.ndarray  # (N,), reduced χ² in the centre; NaN where it was not measured
    drawn: Mapping[int, np.ndarray]  # fitted image (B, H, W), nJy, of each object shown in a figure, by index

    def images(self, which: np.ndarray) -> np.ndarray:
        """Return the fitted images of objects shown in figures, ``(n, B, H, W)``."""
        return np.stack([self.drawn[int(index)] for index in which])


def reduced_chi2(image: np.ndarray, model: np.ndarray | float, weight: np.ndarray) -> np.ndarray:
    """Return χ² per valid pixel, ``(N,)``, of a model of images ``(N, B, H, W)``."""
    number = (weight > 0).sum(axis=(1, 2, 3))
    residual = np.asarray(image - model, dtype=np.float64)  # a fit that failed may draw 10²⁰ nJy
    chi2 = (residual**2 * weight).sum(axis=(1, 2, 3))
    return np.where(number > 0, chi2 / np.maximum(number, 1), np.nan)


def choose_examples(ranking: np.ndarray, number: int, quantiles: tuple[float, float] = BRIGHT) -> np.ndarray:
    """Choose up to `number` objects at evenly spaced quantiles of `ranking`, highest first.

    The ranking, ``(N,)``, is by signal-to-noise ratio; objects with NaN are not eligible.

    Examples
    --------
    >>> choose_examples(np.arange(101.0), 3).tolist()
    [99, 90, 80]
    """
    eligible = np.flatnonzero(np.isfinite(ranking))
    if eligible.size <= number:
        return eligible[np.argsort(-ranking[eligible], kind="stable")]
    order = eligible[np.argsort(ranking[eligible], kind="stable")]
    places = np.linspace(*quantiles, number) * (len(order) - 1)
    return order[np.unique(np.round(places).astype(int))[::-1]]
