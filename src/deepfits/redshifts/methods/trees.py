"""scikit-learn's gradient boosting as plain arrays, which can be stored without pickle and read safely.

Shapes: T trees, M nodes in the largest tree, N objects, K features.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TreeSum:
    """A constant plus a sum of regression trees."""

    # left, right, feature: (T, M) int32: the children of each node, −1 at a leaf, and the feature it splits
    # on, 0 at a leaf.
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    # threshold, value: (T, M) float64: an object goes left if its feature, as float32, does not exceed the
    # threshold; `value` is a leaf's contribution before the learning rate.
    threshold: np.ndarray
    value: np.ndarray
    constants: np.ndarray  # (2,): the constant term and the learning rate

    def __post_init__(self) -> None:
        """Check that children come after their parents, so that traversal always ends."""
        parent = np.arange(self.left.shape[-1])
        for child in (self.left, self.right):
            if ((child >= 0) & ((child <= parent) | (child >= child.shape[-1]))).any():
                raise InputError("a tree whose branches do not lead to leaves; train again")

    @classmethod
    def of(cls, regressor: Any) -> Self:
        """Convert a fitted `sklearn.ensemble.GradientBoostingRegressor`."""
        trees = [estimator.tree_ for estimator in regressor.estimators_[:, 0]]
        size = max(tree.node_count for tree in trees)

        def padded(arrays: list[np.ndarray], fill: float, dtype: str) -> np.ndarray:
            out = np.full((len(arrays), size), fill, dtype=dtype)
            for row, array in zip(out, arrays, strict=True):
                row[: len(array)] = array
            return out

        start = float(regressor.init_.predict(np.zeros((1, regressor.n_features_in_)))[0])
        return cls(
            left=padded([t.children_left for t in trees], -1, "i4"),
            right=padded([t.children_right for t in trees], -1, "i4"),
            feature=np.maximum(padded([t.feature for t in trees], 0, "i4"), 0),
            threshold=padded([t.threshold for t in trees], 0, "f8"),
            value=padded([t.value[:, 0, 0] for t in trees], 0, "f8"),
            constants=np.array([start, float(regressor.learning_rate)]),
        )

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return point estimates, ``(N,)``, for features ``(N, K)``."""
        features = np.asarray(features, dtype=np.float32)
        total = np.full(len(features), self.constants[0])
        rows = np.arange(len(features))
        for tree in range(len(self.left)):
            node = np.zeros(len(features), dtype=np.int64)
            while True:
                is_inner = self.left[tree, node] >= 0
                if not is_inner.any():
                    break
                goes_left = features[rows, self.feature[tree, node]] <= self.threshold[tree, node]
                child = np.where(goes_left, self.left[tree, node], self.right[tree, node])
                node = np.where(is_inner, child, node)
            total += self.constants[1] * self.value[tree, node]
        return total
