"""A head taught on simulated galaxies, adapted to the labels there are: from one of them to many thousands.

Shapes: N objects, V labelled objects, M stages, Q quantile levels.

In stages, each built on the one before, and each judged on labels it had not learned from:

``pretrained``
    the head as it is;
``zero_points``
    a zero point for each band, learned through the networks;
``tuned``
    that head, trained further, with simulated examples between the real ones;
``residual``
    small networks on what the zero-pointed head says and on every other feature there is;
``network`` on `MEMBERS`
    small networks that know nothing of the head: the best that labels alone would give.

The answer is a mixture of the stages, with weights that the labels left out choose, and that lean towards the
simpler stages while labels are few. Where no label is near, the two simpler ones answer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import FeatureRecipe, Matrix, Source
from deepfits.redshifts.head import (
    Examples,
    Head,
    TuneConfig,
    fine_tuned,
    fit_zero_points,
    quantiles_of,
)
from deepfits.redshifts.learning import folds
from deepfits.redshifts.method import Estimates, Inputs, Method, OutOfFold, Trained, Training
from deepfits.redshifts.methods.network import MLPConfig, MLPEnsemble, train_ensemble
from deepfits.redshifts.methods.pretrained import Pretrained, find_head, told_by
from deepfits.redshifts.pdf import AS_PREDICTED, LEVELS, pit, recalibrated, sorted_quantiles
from deepfits.redshifts.predictor import Predictor
from deepfits.redshifts.scene_light import SceneLight

NUM_FOLDS = 5
FEWEST_TO_JUDGE = 10
"""Labels from which on some are left out to judge by; of fewer, each gives zero points a tenth of the say."""
FEWEST_TO_TUNE = 30
FEWEST_FOR_RESIDUALS = 200
MOST_TO_TUNE = 6000
CERTAIN = 100
"""Labels that recalibration counts as if they had been seen and were as predicted."""
CAUTION = 0.02
PRICES = (0.0, 0.25, 1.0, 2.0, 2.0, 2.0, 2.0)
"""What each stage must gain to have all the weight: `CAUTION` times this, in units of the loss of the first,
at 100 labels; less with more labels, as one over their number."""
NUM_TO_WEIGH = 3000
"""Labels that choose the weights, at most."""
SETS = ("all", "templates", "magnitudes", "matched")
"""What residuals are learned from besides the scene: the first that can be had."""
MEMBERS = ("scene", "matched", "templates")
"""What networks without the head learn from, where it can be had."""


@dataclass(frozen=True, kw_only=True)
class Adapted(Method):
    """A head and what labels made of it.

    Attributes
    ----------
    heads
        As it was taught, with zero points, and tuned where labels sufficed.
    residual, recipes
        Networks on other features, and how these are made; None where labels did not suffice.
    members
        Networks without the head.
    weights
        ``(M,)``: how much each stage counts near the labels.
    validation_pit
        For recalibration.
    labelled
        Where the labels lie among the inputs of the head; None for a few.
    """

    name: ClassVar[str] = "adapted"
    takes_features: ClassVar[bool] = False
    only_redshifts: ClassVar[bool] = True
    reads_scenes: ClassVar[bool] = True
    fewest_labels: ClassVar[int] = 1

    heads: tuple[Head, ...]
    residual: MLPEnsemble | None
    recipes: tuple[FeatureRecipe, ...]
    weights: np.ndarray
    validation_pit: np.ndarray
    labelled: Domain | None
    loss: str = "absolute"
    members: tuple[Predictor, ...] = ()

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require what the head needs."""
        Pretrained.check(feature_set, inputs)

    @classmethod
    def fit(cls, training: Training) -> Trained[Adapted]:
        """Adapt stage by stage, then weigh the stages."""
        options, source = training.options, training.dataset.source
        head = find_head(options.head, training.dataset.model_hash)
        some, value = source.take(training.rows), training.value
        light = SceneLight.of(some, head.bands)
        examples = Examples.galaxies(light, np.clip(value, 0, None))
        number = len(value)
        if number < FEWEST_TO_JUDGE:
            few = (head, fit_zero_points(head, examples))
            method = cls(
                heads=tuple(one.without_replay() for one in few),
                residual=None,
                recipes=(),
                weights=np.array([1 - number / FEWEST_TO_JUDGE, number / FEWEST_TO_JUDGE]),
                validation_pit=AS_PREDICTED,
                labelled=None,
                loss=training.loss,
            )
            return Trained(method=method, about=_about(method))
        rng = np.random.default_rng(options.seed)
        parts = folds(number, min(NUM_FOLDS, number), rng)
        heads, left_out = _adapted_heads(head, examples, parts, options.seed, training)
        residual: MLPEnsemble | None = None
        recipes: tuple[FeatureRecipe, ...] = ()
        members: tuple[Predictor, ...] = ()
        if number >= FEWEST_FOR_RESIDUALS:
            recipes = _recipes(source)
            matrix = _residual_features(heads[1], some, recipes)
            config = MLPConfig(loss="absolute", seed=options.seed)
            residual, _, quantiles = train_ensemble(matrix, value, config, progress=training.progress)
            left_out.append(quantiles)
            if training.member is not None:
                there = [name for name in MEMBERS if name in source.available()]
                members = tuple(training.member("network", name) for name in there)
                left_out += [_left_out(member, training.rows) for member in members]
        weights = _weights(left_out, value, number)
        mixed = _mixed(weights, left_out)
        transform = pit(mixed, value)
        method = cls(
            heads=tuple(one.without_replay() for one in heads),
            residual=residual,
            recipes=recipes,
            weights=weights,
            validation_pit=_for_recalibration(transform),
            labelled=Domain.learn(head.inputs(light)) if number >= FEWEST_TO_TUNE else None,
            loss=training.loss,
            members=members,
        )
        final = recalibrated(mixed, method.validation_pit)
        found = OutOfFold(rows=training.rows, point=_point(final, training.loss), quantiles=final)
        return Trained(method=method, out_of_fold=found, about=_about(method))

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Mix the stages; away from the labels the simpler ones alone."""
        light = SceneLight.of(source, self.heads[0].bands)
        stages = []
        for one in self.heads:
            density, kinds = one.densities(light)
            stages.append(quantiles_of(density))
        if self.residual is not None:
            matrix = _residual_features(self.heads[1], source, self.recipes)
            found = self.residual.predict(source, matrix).quantiles
            assert found is not None
            stages.append(found)
        stages += [member.predict(source)["quantiles"] for member in self.members]
        near = np.ones(len(light))
        if self.labelled is not None:
            distance = self.labelled.distance(self.heads[0].inputs(light))
            near = np.clip(2.0 - distance / self.labelled.limit, 0.0, 1.0)
        simple = np.zeros_like(self.weights)
        simple[:2] = self.weights[:2] if self.weights[:2].sum() > 0 else [0.0, 1.0]
        simple /= simple.sum()
        weights = near[:, None] * self.weights + (1 - near[:, None]) * simple
        mixed = sorted_quantiles(np.einsum("nm,mnq->nq", weights, np.array(stages)))
        quantiles = recalibrated(mixed, self.validation_pit)
        return Estimates(
            point=_point(quantiles, self.loss),
            quantiles=quantiles,
            columns=told_by(self.heads[0], light, kinds),
        )


def _point(quantiles: np.ndarray, loss: str) -> np.ndarray:
    from deepfits.redshifts.pdf import MEDIAN, values_at

    if loss == "squared":
        return np.asarray(values_at(quantiles, np.linspace(0.005, 0.995, 100)).mean(axis=1))
    return np.asarray(quantiles[:, MEDIAN])


def _about(method: Adapted) -> dict[str, Any]:
    names = ["pretrained", "zero_points", "tuned"][: len(method.heads)]
    names += ["residual"] if method.residual is not None else []
    names += [f"network on {member.recipe.name}" for member in method.members if member.recipe is not None]
    head = method.heads[1]
    return {
        "weights": dict(zip(names, method.weights.tolist(), strict=True)),
        "zero_points": dict(zip(head.bands, head.zero_points.tolist(), strict=True)),
    }


def _adapted_heads(
    head: Head,
    examples: Examples,
    parts: list[tuple[np.ndarray, np.ndarray]],
    seed: int,
    training: Training,
) -> tuple[tuple[Head, ...], list[np.ndarray]]:
    """Return the stages of the head, and their estimates of labels left out, ``(V, Q)`` each."""
    number = len(examples)
    is_tuned = number >= FEWEST_TO_TUNE
    left_out = [quantiles_of(head.densities(examples.light)[0])]
    shifted, tuned = np.empty_like(left_out[0]), np.empty_like(left_out[0])
    members, zeroed = [], fit_zero_points(head, examples)
    with training.progress("adapt", total=len(parts), unit="folds") as task:
        for place, (train, test) in enumerate(parts):
            one = fit_zero_points(head, examples.take(train))
            shifted[test] = quantiles_of(one.densities(examples.light.take(test))[0])
            if is_tuned:
                some = train[np.random.default_rng(seed + place).permutation(len(train))[:MOST_TO_TUNE]]
                config = TuneConfig(seed=seed + place)
                member, density = fine_tuned(one, place, examples.take(some), examples.take(test), config)
                members.append(member)
                tuned[test] = quantiles_of(density)
            task.advance(1)
    left_out.append(shifted)
    if not is_tuned:
        return (head, zeroed), left_out
    left_out.append(tuned)
    return (head, zeroed, replace(zeroed, members=tuple(members))), left_out


def _left_out(member: Predictor, rows: np.ndarray) -> np.ndarray:
    found = member.out_of_fold
    assert found is not None
    assert found.quantiles is not None
    return np.asarray(found.at(rows).quantiles)


def _for_recalibration(transform: np.ndarray) -> np.ndarray:
    """Return the PIT to recalibrate with: of widths alone, and with `CERTAIN` labels that were as predicted.

    The PIT and its mirror image leave medians as they are: a few labels must not shift every estimate.
    """
    certain = np.repeat((np.arange(CERTAIN) + 0.5) / CERTAIN, 2)
    return np.sort(np.concatenate([transform, 1 - transform, certain]))


def _recipes(source: Source) -> tuple[FeatureRecipe, ...]:
    """Return how the residual networks' features are made: of the scene, and the richest set there is."""
    available = source.available()
    names = ["scene", *[name for name in SETS if name in available][:1]]
    return tuple(FeatureRecipe.learn(name, source) for name in names)


def _residual_features(head: Head, source: Source, recipes: tuple[FeatureRecipe, ...]) -> Matrix:
    """Return what the head says, and other features."""
    quantiles = np.log1p(quantiles_of(head.densities(SceneLight.of(source, head.bands))[0]))
    out = Matrix(
        values=quantiles.astype(np.float32), names=tuple(f"head_{n}" for n in range(quantiles.shape[1]))
    )
    for recipe in recipes:
        out = out.hstack(recipe.make(source))
    return out


def _mixed(weights: np.ndarray, stages: list[np.ndarray]) -> np.ndarray:
    return sorted_quantiles(np.einsum("m,mnq->nq", weights, np.array(stages)))


def pinball(quantiles: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the mean pinball loss of ln(1 + z) of each object, ``(N,)``: half its CRPS."""
    above = np.log1p(np.clip(value, 0, None))[:, None] - np.log1p(np.clip(quantiles, -0.5, None))
    return np.maximum(LEVELS * above, (LEVELS - 1) * above).mean(axis=1)


def _weights(stages: list[np.ndarray], value: np.ndarray, number: int) -> np.ndarray:
    """Return weights of the stages, ``(M,)``, that sum to 1: the least loss of labels left out, and caution.

    Caution is a price on later stages that falls as one over the number of labels.
    """
    from scipy.optimize import minimize

    count = len(stages)
    some = np.unique(np.linspace(0, len(value) - 1, min(NUM_TO_WEIGH, len(value))).astype(int))
    stages, value = [one[some] for one in stages], value[some]
    scale = float(pinball(stages[0], value).mean())
    price = CAUTION * 100 / number * np.array(PRICES[:count])

    def loss(free: np.ndarray) -> float:
        weights = np.exp(free - free.max())
        weights /= weights.sum()
        return float(pinball(_mixed(weights, stages), value).mean() / scale + price @ weights)

    found = min(
        (
            minimize(loss, 2.0 * np.eye(count)[first], method="Nelder-Mead", options={"maxiter": 150})
            for first in range(count)
        ),
        key=lambda one: float(one.fun),
    )
    weights = np.exp(found.x - found.x.max())
    return np.asarray(weights / weights.sum())
