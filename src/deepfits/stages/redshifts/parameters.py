"""Groups of parameters shared by several redshift stages."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from deepfits.config import Range
from deepfits.redshifts.options import LearningOptions, Seeded
from deepfits.stages.parameters import Partial
from deepfits.stages.stage import INPUT, NEUTRAL, Common


@dataclass(frozen=True, kw_only=True)
class Matching(Common):
    """Labels and how they are matched."""

    label_column: str = "z_spec"
    """Column of the labels that is the target: numbers, or class names."""
    select: Sequence[str] = ()
    """Use only labels that satisfy all these conditions, such as ``"z_spec_flag >= 3"``."""
    match: Literal["auto", "id", "position"] = "auto"
    """How labels and objects are matched: ``"position"``, ``"id"`` (`object_id`) or ``"auto"`` (by position
    if both tables have one)."""
    match_radius_arcsec: Annotated[float, Range(ge=0)] = 1.0
    """Maximum separation of a match, also of one by `object_id` if both positions are known."""


@dataclass(frozen=True, kw_only=True)
class FromFits(Partial):
    """Further inputs."""

    store: Annotated[str | Path | None, INPUT] = None
    """Cutout store of the features. It enables methods that use photometry or images: boosting on ordinary
    magnitudes and colours, nearest neighbours in colour space, template fitting, and networks on images."""
    embedder_features: Annotated[str | Path | None, INPUT] = None
    """Features from the embedder alone (`fit` with mode ``embedder``), as a further feature set."""


@dataclass(frozen=True)
class Labelled(Matching, FromFits, Seeded):
    """Training data."""

    features: Annotated[str | Path, INPUT]
    """Directory of features, from `fit`."""
    labels: Annotated[str | Path, INPUT]
    """Table of known redshifts, or of other properties (Parquet, FITS or CSV), with `ra` and `dec`, or
    `object_id`."""
    out: str | Path
    """Output directory."""
    _: KW_ONLY
    train_select: Sequence[str] = ()
    """Conditions on the training labels only, such as ``"mag_i < 22.5"``. The test objects remain
    unrestricted, which shows how methods extrapolate beyond a spectroscopic sample."""
    max_labels: Annotated[int, Range(ge=1)] | None = None
    """Maximum number of labels to train on."""
    block_arcmin: Annotated[float, Range(gt=0)] | None = None
    """Split the sky into squares of this side and test on a fifth of them. By default objects are split by
    their identifier, independently of position."""
    photometry: Annotated[str | Path | None, NEUTRAL] = None
    """File (``.npz``) in which measurements of the cutouts are saved for reuse with the same objects."""


@dataclass(frozen=True)
class Learning(Labelled, LearningOptions):
    """Training data, and how redshifts are learned from them."""
