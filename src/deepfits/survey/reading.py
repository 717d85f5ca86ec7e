"""Options for reading images that several stages share by inheritance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range

PerBand = Sequence[str] | str | float | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read."""

    zero_point: PerBand | None = None
    """AB zero point, needed where headers have none: ``27``, or one per band, ``["u=30", "g=27"]``."""
    pixel_scale: Annotated[float, Range(gt=1e-3, lt=1e4)] | None = None
    """Pixel scale in arcseconds, for images without WCS."""
    bad_planes: Sequence[str | int] | None = None
    """Mask planes, by name or bit number from 0, whose pixels count as having no data."""
    mask_polarity: Literal["bad", "good"] | None = None
    """Meaning of non-zero pixels in masks without named planes: ``"bad"`` or ``"good"``."""
    weight_scale: Literal["auto", "absolute", "relative"] = "auto"
    """How to interpret weights: ``"auto"`` (rescale those that disagree with the measured noise),
    ``"absolute"`` (inverse variances, never rescaled) or ``"relative"`` (always rescale)."""


@dataclass(frozen=True, kw_only=True)
class FieldReadingOptions(ReadingOptions):
    """How images of fields with several bands are read."""

    assume_aligned: bool = False
    """Treat the bands of images without WCS as aligned pixel by pixel."""
    subtract_sky: bool = False
    """Subtract the sky that is left in the images, measured in a mesh of 128 pixels. Light of objects as
    large as that is lost with it."""
