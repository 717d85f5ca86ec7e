"""What counts as a source: stated once; the stages inherit from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What counts as a source.

    Parameters
    ----------
    threshold
        In standard deviations of the smoothed combined image.
    min_pixels
        Connected pixels above the threshold that a source needs.
    """

    threshold: Annotated[float, Range(gt=0)] = 4.0
    min_pixels: Annotated[int, Range(ge=1)] = 5


@dataclass(frozen=True, kw_only=True)
class DeblendOptions(SourceOptions):
    """Detection image and deblending.

    Parameters
    ----------
    combine
        How bands make the detection image: ``"snr"`` (mean signal-to-noise) or ``"chi2"``.
    deblend_contrast
        Least contrast at which touching sources are separated, as SExtractor's DEBLEND_MINCONT.
    """

    combine: Literal["snr", "chi2"] = "snr"
    deblend_contrast: Annotated[float, Range(ge=0, le=1)] = 0.0003
