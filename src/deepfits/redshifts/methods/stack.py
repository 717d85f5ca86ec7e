"""Stacking of several methods, with weights learned from out-of-fold estimates.

Shapes: N objects, V labelled objects, M methods, Q quantile levels.

Source: stacked regression, Breiman (1996, Machine Learning 24, 49): non-negative weights that minimise the
loss of cross-validated estimates; here they also sum to 1, and quantiles are averaged with the same weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from deepfits.errors import InputError, require_known
from deepfits.redshifts.domain import FLAGS
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import TargetScale
from deepfits.redshifts.method import Estimates, Inputs, Method, OutOfFold, Trained, Training
from deepfits.redshifts.methods.images import Hybrid
from deepfits.redshifts.methods.network import MLPEnsemble
from deepfits.redshifts.pdf import pit, recalibrated, sorted_quantiles
from deepfits.redshifts.predictor import Predictor

_MEMBERS: dict[str, type[Method]] = {method.name: method for method in (MLPEnsemble, Hybrid)}
STACKS = {
    "templates": (("network", "magnitudes"), ("network", "templates")),
    "fits": (("network", "magnitudes"), ("network", "templates"), ("network", "sizes"), ("network", "all")),
    "deep": (("network", "templates"), ("network", "sizes"), ("hybrid", "templates")),
}
"""Members of each stack: ``templates`` is a baseline, ``fits`` adds the fits, ``deep`` the embedder."""
RIDGE = 0.02
"""Strength of the penalty towards equal weights, relative to the loss, which few labels constrain poorly."""


@dataclass(frozen=True, kw_only=True)
class Stack(Method):
    """Trained methods and their weights, ``(M,)``.

    `validation_pit`, ``(V,)``, are out-of-fold PIT values for recalibration.
    """

    name: ClassVar[str] = "stack"
    takes_features: ClassVar[bool] = False

    members: tuple[Predictor, ...]
    weights: np.ndarray
    validation_pit: np.ndarray

    @classmethod
    def rows(cls, inputs: Inputs, wanted: Sequence[str] | None) -> list[str]:
        """Return the stacks that the user chose, by default all whose members' features are available."""
        if wanted:
            return list(wanted)
        has = set(inputs.feature_sets)
        return [name for name, keys in STACKS.items() if has.issuperset(own for _, own in keys)]

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Check the members."""
        require_known("stack", feature_set, STACKS)
        if not inputs.options.distributions:
            raise InputError("a stack averages distributions too: leave `distributions` on")
        for method, name in STACKS[feature_set]:
            _MEMBERS[method].check(name, inputs)

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Learn weights and recalibration from the members' out-of-fold estimates."""
        assert training.member is not None
        keys = STACKS[training.feature_set]
        members = tuple(training.member(*key) for key in keys)
        parts = common([member.out_of_fold for member in members if member.out_of_fold is not None])
        rows, value = parts[0].rows, training.dataset.value[parts[0].rows]
        points = np.array([part.point for part in parts])
        weights = stacking_weights(points, value, training.loss)
        quantiles = [part.quantiles for part in parts if part.quantiles is not None]
        mixed = sorted_quantiles(averaged(weights, quantiles))
        transform = np.sort(pit(mixed, value))
        return Trained(
            method=cls(members=members, weights=weights, validation_pit=transform),
            out_of_fold=OutOfFold(
                rows=rows, point=averaged(weights, list(points)), quantiles=recalibrated(mixed, transform)
            ),
            about={
                "weights": {"-".join(key): float(weight) for key, weight in zip(keys, weights, strict=True)},
                "num_left_out": len(value),
            },
        )

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Average the members; domain flags are those of the first member that has any."""
        columns = [member.predict(source) for member in self.members]
        quantiles = sorted_quantiles(averaged(self.weights, [column["quantiles"] for column in columns]))
        flags = next((column for column in columns if FLAGS[0] in column), {})
        return Estimates(
            point=averaged(self.weights, [column["z_phot"] for column in columns]),
            quantiles=recalibrated(quantiles, self.validation_pit),
            columns={name: flags[name] for name in FLAGS if name in flags},
        )


def common(parts: Sequence[OutOfFold]) -> list[OutOfFold]:
    """Restrict out-of-fold estimates to the objects that all methods have, in the same order."""
    rows = reduce(np.intersect1d, [part.rows for part in parts])
    return [part.at(rows) for part in parts]


def stacking_weights(points: np.ndarray, value: np.ndarray, loss: str) -> np.ndarray:
    """Return the weights of the methods, ``(M,)``, that sum to 1.

    `points` are out-of-fold estimates, ``(M, V)``, of `value`, ``(V,)``; the loss is ``"squared"``, or
    ``"absolute"`` in ln(1 + z), as in `TargetScale`.
    """
    from scipy.optimize import minimize

    number = len(points)
    scale = TargetScale.learn(value, loss)
    target, estimates = scale.forward(value), np.array([scale.forward(point) for point in points])

    def objective(logits: np.ndarray) -> float:
        weights = _simplex(logits)
        error = weights @ estimates - target
        size = np.mean(error**2) if loss == "squared" else np.mean(np.abs(error))
        return float(size * (1 + RIDGE * number * np.sum((weights - 1 / number) ** 2)))

    starts = [np.zeros(number), *(3.0 * np.eye(number))]
    best = min(
        (minimize(objective, start, method="Nelder-Mead", options={"maxiter": 400}) for start in starts),
        key=lambda result: result.fun,
    )
    return _simplex(best.x)


def _simplex(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(np.clip(logits - np.max(logits), -30, 0))
    return raised / raised.sum()


def averaged(weights: np.ndarray, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weighted mean of estimates ``(N,)`` or quantiles ``(N, Q)`` of M methods."""
    return np.tensordot(weights, np.array(values, dtype=np.float64), axes=1)
