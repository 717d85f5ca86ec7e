"""How images are read where the files leave a choice: stated once; the stages inherit from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range

PerBand = Sequence[str] | str | float | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read.

    Parameters
    ----------
    zero_point
        AB zero point where the headers have none: ``27``, or one for each band, ``["u=30", "g=27"]``.
    pixel_scale
        Pixel scale in arcseconds, for images without WCS.
    bad_planes
        Mask planes whose pixels have no valid data, by name or by number from 0.
    mask_polarity
        What a non-zero pixel of a mask without named planes means: ``"bad"`` or ``"good"``.
    weight_scale
        What weights mean: ``"auto"`` (scaled to the measured noise where they disagree with it),
        ``"absolute"`` (inverse variances, used as they are) or ``"relative"`` (always scaled).
    """

    zero_point: PerBand | None = None
    pixel_scale: Annotated[float, Range(gt=1e-3, lt=1e4)] | None = None
    bad_planes: Sequence[str | int] | None = None
    mask_polarity: Literal["bad", "good"] | None = None
    weight_scale: Literal["auto", "absolute", "relative"] = "auto"


@dataclass(frozen=True, kw_only=True)
class FieldReadingOptions(ReadingOptions):
    """Images without WCS.

    Parameters
    ----------
    assume_aligned
        Take the bands of images without WCS to be aligned pixel to pixel.
    """

    assume_aligned: bool = False
