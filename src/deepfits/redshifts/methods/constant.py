"""The same estimate for everybody, the median of the labels: the floor of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.method import Estimates, Method, Trained, Training


@dataclass(frozen=True, kw_only=True)
class Constant(Method):
    """A number."""

    name: ClassVar[str] = "constant"
    takes_features: ClassVar[bool] = False
    has_loss: ClassVar[bool] = False

    value: float

    @classmethod
    def fit(cls, training: Training) -> Trained[Constant]:
        """Take the median."""
        return Trained(method=cls(value=float(np.median(training.value))))

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return it for every object."""
        return Estimates(point=np.full(len(source), self.value))
