"""Options of source detection that several stages share by inheritance."""

from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range

MESH = 128
"""Side of the cells in which the background is measured, pixels."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Definition of a source."""

    threshold: Annotated[float, Range(gt=0)] = 4.0
    """Detection threshold, in standard deviations of the smoothed combined image."""
    min_pixels: Annotated[int, Range(ge=1)] = 5
    """Minimum number of connected pixels above the threshold."""


@dataclass(frozen=True, kw_only=True)
class DeblendOptions(SourceOptions):
    """How bands are combined and blended sources are separated."""

    combine: Literal["snr", "chi2"] = "snr"
    """How bands are combined into the detection image: ``"snr"`` (mean signal-to-noise) or ``"chi2"``."""
    deblend_contrast: Annotated[float, Range(ge=0, le=1)] = 0.0003
    """Minimum contrast for deblending, as SExtractor's DEBLEND_MINCONT."""
