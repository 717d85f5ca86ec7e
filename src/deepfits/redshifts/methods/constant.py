"""The median of the labels as the estimate for every object: the baseline that any method must beat."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.method import Estimates, Method, Trained, Training


@dataclass(frozen=True, kw_only=True)
class Constant(Method):
    """The same estimate for every object."""

    name: ClassVar[str] = "constant"
    takes_features: ClassVar[bool] = False
    has_loss: ClassVar[bool] = False

    value: float

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Take the median of the labels."""
        return Trained(method=cls(value=float(np.median(training.value))))

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return the median for every object."""
        return Estimates(point=np.full(len(source), self.value))
