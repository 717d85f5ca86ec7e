"""Parameters that several redshift stages share, stated once."""

from __future__ import annotations

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
    """Which labels are used, and for which objects.

    Parameters
    ----------
    label_column
        The target: any column of the labels, of numbers or of names of classes.
    select
        Conditions on the labels, such as ``"z_spec_flag >= 3"``; all must hold.
    match
        ``"position"``, ``"id"`` or ``"auto"`` (by position where both sides have one).
    match_radius_arcsec
        Largest distance of a match by position.
    """

    label_column: str = "z_spec"
    select: Sequence[str] = ()
    match: Literal["auto", "id", "position"] = "auto"
    match_radius_arcsec: Annotated[float, Range(ge=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class FromFits(Partial):
    """Inputs besides the features.

    Parameters
    ----------
    store
        The cutouts that the features come from. They allow boosting on ordinary magnitudes and colours for
        comparison, nearest neighbours in colour space, and template fitting.
    embedder_features
        Features of the embedder alone (`fit` with mode ``embedder``), as another feature set.
    """

    store: Annotated[str | Path | None, INPUT] = None
    embedder_features: Annotated[str | Path | None, INPUT] = None


@dataclass(frozen=True)
class Labelled(Matching, FromFits, Seeded):
    """Labels to learn from.

    Parameters
    ----------
    features
        Directory that `fit` wrote.
    labels
        Table with the known redshifts (Parquet, FITS or CSV), and `ra` and `dec`, or `object_id`.
    out
        Directory for the results.
    train_select
        Conditions on the labels that are learned from, but not on the test objects, such as
        ``"mag_i < 22.5"``: shows how redshifts do beyond the limit of a spectroscopic survey.
    max_labels
        Learn from at most this many labels.
    block_arcmin
        Side of sky squares, of which a fifth are for testing alone; by default objects are divided by their
        identity, regardless of where they lie.
    photometry
        A file, ``.npz``, that keeps what is measured in the cutouts for the next table of the same objects.
    """

    features: Annotated[str | Path, INPUT]
    labels: Annotated[str | Path, INPUT]
    out: str | Path
    _: KW_ONLY
    train_select: Sequence[str] = ()
    max_labels: Annotated[int, Range(ge=1)] | None = None
    block_arcmin: Annotated[float, Range(gt=0)] | None = None
    photometry: Annotated[str | Path | None, NEUTRAL] = None
    num_threads: Annotated[int, NEUTRAL, Range(ge=1)] = 1


@dataclass(frozen=True)
class Learning(Labelled, LearningOptions):
    """How redshifts are learned from features, or from images."""

    _: KW_ONLY
    model: Annotated[str | Path | None, INPUT] = None
    device: Annotated[str, NEUTRAL] = "cpu"
    head: Annotated[str | Path | None, INPUT] = None
