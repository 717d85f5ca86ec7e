"""The interface of redshift methods.

A trained method is a frozen dataclass of what it has learned (numbers, arrays, trees, weights): `fit` makes
it, `predict` uses it, and `deepfits.redshifts.storage` saves and loads it. To add a method, write a subclass
of `Method` in a new module of `deepfits.redshifts.methods` and list it in `METHODS` there; the table,
`redshift train` and `redshift predict` then offer it.

Shapes: N objects, V objects with an out-of-fold estimate, Q quantile levels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import Matrix, Source, check_available
from deepfits.redshifts.options import LearningOptions
from deepfits.redshifts.split import MIN_TRAIN
from deepfits.splits import PerObject
from deepfits.tables.values import is_redshift_name


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """A method's estimates for N objects."""

    point: np.ndarray  # ``(N,)``: point estimates
    # ``(N, Q)``: quantiles of p(z) at `deepfits.redshifts.pdf.LEVELS`; None for methods without p(z).
    quantiles: np.ndarray | None = None
    # Further columns of the predictions, ``(N,)`` each.
    columns: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OutOfFold(PerObject):
    """Out-of-fold estimates of labelled objects, for recalibration and stacking."""

    rows: np.ndarray  # ``(V,)``: row indices of the objects in the data set
    point: np.ndarray  # ``(V,)``: point estimates
    quantiles: np.ndarray | None = None  # ``(V, Q)``: recalibrated quantiles, or None

    def at(self, rows: np.ndarray) -> Self:
        """Select the objects of the given rows, in their order; all must be present."""
        order = np.argsort(self.rows)
        out = self.take(order[np.searchsorted(self.rows[order], rows)])
        assert np.array_equal(out.rows, rows)
        return out


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs that methods will get, known before anything is measured."""

    bands: tuple[str, ...]  # bands of the cutouts, or else of the features
    pixels: int | None  # side of a cutout in pixels; None without cutouts
    feature_sets: tuple[str, ...]  # names of the feature sets that can be made
    options: LearningOptions  # how redshifts are learned
    target: str = "z_spec"  # name of the target's column
    model_hash: str = ""  # fingerprint of the model that the features were fitted with

    def require_cutouts(self, method: str) -> None:
        """Raise `InputError` if there are no cutouts."""
        if self.pixels is None:
            raise InputError(f"the method {method} needs the cutouts: give the store")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training data and options of a method."""

    dataset: Dataset  # with its split; a method may use only the training and validation parts
    feature_set: str = ""  # name of the feature set; for a stack, name of the stack
    features: Matrix | None = None  # features of all objects of the data set; None for methods that take none
    loss: str = "squared"  # one of `deepfits.redshifts.learning.LOSSES`
    options: LearningOptions = field(default_factory=LearningOptions)  # how redshifts are learned
    # Function from the names of a method and a feature set to a trained `Predictor`, for methods that combine
    # others.
    member: Callable[[str, str], Any] | None = None
    progress: Progress = silent

    @cached_property
    def matrix(self) -> Matrix:
        """Features of the training and validation objects."""
        assert self.features is not None
        return self.features.take(self.rows)

    @property
    def rows(self) -> np.ndarray:
        """Row indices of the training and validation objects."""
        return self.dataset.split.fitted

    @property
    def value(self) -> np.ndarray:
        """Targets of the training and validation objects."""
        return self.dataset.value[self.rows]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained method, its out-of-fold estimates if any, and further entries of its row in the table."""

    method: "Method"
    out_of_fold: OutOfFold | None = None
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A trained method; subclasses are frozen dataclasses."""

    name: ClassVar[str]  # name of the method in options and tables
    takes_features: ClassVar[bool] = True  # whether it learns from a feature set
    # The feature sets of its only row: the first that can be made, else the last; () for those of the user's
    # choice.
    one_of: ClassVar[tuple[str, ...]] = ()
    has_loss: ClassVar[bool] = True  # whether it depends on the loss, and has one row in the table for each
    # The loss if none is asked for. A head's networks do not depend on it: it chooses the point estimate.
    usual_loss: ClassVar[str] = "squared"
    flags_domain: ClassVar[bool] = True  # whether objects unlike the training objects' features are flagged
    only_redshifts: ClassVar[bool] = False  # whether it can predict no other target than redshifts
    fewest_labels: ClassVar[int] = MIN_TRAIN  # smallest number of labels that it can learn from
    # Whether it uses the scene fluxes in the features of one particular model, without a feature set.
    reads_scenes: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fit(cls, training: Training) -> Trained:
        """Learn from the training and validation objects."""

    @abstractmethod
    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Estimate the target of any objects; `features` are those of the method's feature set."""

    @classmethod
    def rows(cls, inputs: Inputs, wanted: Sequence[str] | None) -> list[str]:
        """Return the feature sets to try in a table, by default all; ``[""]`` for a method that takes none.

        `wanted` are those that the user chose for this method; None for the default.
        """
        if cls.one_of:
            return [next((name for name in cls.one_of if name in inputs.feature_sets), cls.one_of[-1])]
        if not cls.takes_features:
            return [""]
        if wanted is not None:
            return list(wanted)
        # redshift does not depend on orientation
        left_out = {"oriented"} if is_redshift_name(inputs.target) else set()
        return [name for name in inputs.feature_sets if name not in left_out]

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Raise `InputError`, with a remedy, if the method cannot learn from the inputs."""
        if cls.only_redshifts and not is_redshift_name(inputs.target):
            raise InputError(f"the method {cls.name} predicts redshifts only, not {inputs.target}")
        if cls.takes_features:
            check_available(feature_set, inputs.feature_sets)
