"""What a redshift method is.

A method is a frozen dataclass of what it has learned (numbers, arrays, trees, weights): `fit` makes it,
`predict` uses it, and `deepfits.redshifts.storage` writes and reads it. To add one, write a file in
`deepfits.redshifts.methods` with a subclass of `Method`, and name it in `METHODS` there; the table, `redshift
train` and `redshift predict` then have it.

Shapes: N objects, V objects with an out-of-fold estimate, Q quantile levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from deepfits.errors import InputError
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import Matrix, Source, check_available
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.split import MIN_TRAIN
from deepfits.tables.values import is_redshift_name

M = TypeVar("M", bound="Method")


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a method says of objects: ``(N,)`` points, and where it has them quantiles of p(z), ``(N, Q)``.

    Quantiles are at `LEVELS`; columns are what else it says, ``(N,)`` each.
    """

    point: np.ndarray
    quantiles: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Estimates of labelled objects by learners that had not seen them: for recalibration and stacking.

    Rows, ``(V,)``, say which of the data set's objects; points are ``(V,)``, quantiles ``(V, Q)``,
    recalibrated, or None.
    """

    rows: np.ndarray
    point: np.ndarray
    quantiles: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> OutOfFold:
        """Return the objects of some rows, in their order; all must be there."""
        order = np.argsort(self.rows)
        place = order[np.searchsorted(self.rows[order], rows)]
        assert np.array_equal(self.rows[place], rows)
        quantiles = None if self.quantiles is None else self.quantiles[place]
        return OutOfFold(rows=rows, point=self.point[place], quantiles=quantiles)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What methods will be given, known before anything is measured: feature sets that can be made, of what.

    Bands are those of the cutouts, or else of the features; pixels of a cutout's side, None where there are
    no cutouts.
    """

    bands: tuple[str, ...]
    pixels: int | None
    feature_sets: tuple[str, ...]
    options: LearningOptions
    target: str = "z_spec"
    model_hash: str = ""

    def require_cutouts(self, method: str) -> None:
        """Raise where there are no cutouts."""
        if self.pixels is None:
            raise InputError(f"the method {method} needs the cutouts: give the store")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a method learns from.

    Attributes
    ----------
    dataset
        Objects, labels and their division; a method may look at the parts that train and validate alone.
    feature_set, features
        The features of all objects of the data set; None for methods that take none. The set of a stack says
        which one.
    loss
        One of `LOSSES`.
    member
        Returns the `Predictor` of another method, trained on a feature set: what a stack joins.
    """

    dataset: Dataset
    feature_set: str = ""
    features: Matrix | None = None
    loss: str = "squared"
    options: LearningOptions = field(default_factory=LearningOptions)
    member: Callable[[str, str], Any] | None = None
    progress: Progress = silent

    @cached_property
    def matrix(self) -> Matrix:
        """Features of the objects that may be learned from."""
        assert self.features is not None
        return self.features.take(self.rows)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the objects that may be learned from."""
        return self.dataset.split.fitted

    @property
    def value(self) -> np.ndarray:
        """Their targets."""
        return self.dataset.value[self.rows]


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[M]):
    """A trained method, its out-of-fold estimates where it has any, and figures for the table."""

    method: M
    out_of_fold: OutOfFold | None = None
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A trained method; subclasses are frozen dataclasses.

    Attributes
    ----------
    name
        What users call it.
    takes_features
        Whether it learns from a feature set.
    has_loss
        Whether there is one row of it for each loss.
    flags_domain
        Whether objects outside the domain of the training objects' features are flagged.
    only_redshifts
        Whether it knows what a redshift is, and can learn no other target.
    reads_scenes
        Whether it takes the light of scenes as it stands in the features of one model, without a feature set.
    """

    name: ClassVar[str]
    takes_features: ClassVar[bool] = True
    has_loss: ClassVar[bool] = True
    flags_domain: ClassVar[bool] = True
    only_redshifts: ClassVar[bool] = False
    fewest_labels: ClassVar[int] = MIN_TRAIN
    reads_scenes: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fit(cls, training: Training) -> Trained[Self]:
        """Learn from the objects whose labels may be learned from."""

    @abstractmethod
    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Estimate the redshifts of any objects; `features` are those of its feature set."""

    @classmethod
    def rows(cls, inputs: Inputs, wanted: Sequence[str] | None) -> list[str]:
        """Return the feature sets to try in a table, by default all; ``[""]`` for a method that takes none.

        `wanted` are those that the user names for this method; None where none are named.
        """
        if not cls.takes_features:
            return [""]
        if wanted is not None:
            return list(wanted)
        # no redshift depends on how a galaxy lies
        left_out = {"oriented"} if is_redshift_name(inputs.target) else set()
        return [name for name in inputs.feature_sets if name not in left_out]

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Raise `InputError`, with the remedy, where the method could not learn from what will be given."""
        if cls.only_redshifts and not is_redshift_name(inputs.target):
            raise InputError(f"the method {cls.name} predicts redshifts alone, not {inputs.target}")
        if cls.takes_features:
            check_available(feature_set, inputs.feature_sets)
