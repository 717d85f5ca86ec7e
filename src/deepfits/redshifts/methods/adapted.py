"""A head trained on simulated galaxies, adapted to the available labels, from a single one to many thousands.

Shapes: N objects, V labelled objects, M stages, Q quantile levels.

The adaptation has several stages, each evaluated by cross-validation on labels that it has not seen:

``pretrained``
    the head unchanged;
``zero_points``
    the head with a zero point per band, fitted through the networks;
``tuned``
    the zero-pointed head, fine-tuned on labels mixed with simulated examples, and limited to the luminosities
    of the labelled galaxies;
``templates``
    template fitting with zero points and an error floor of its own, where there is photometry from the
    cutouts and the labels do not suffice for the networks below;
``residual``
    small networks on the zero-pointed head's p(z) and the other available features;
``network on <set>``
    small networks that do not use the head, for each of the feature sets `MEMBERS`.

The result is the mixture of the stages' distributions whose weights suit the left-out labels best. Gains
that are not significant do not count: the improvement over the unchanged head is reduced by its standard
error, and with few labels the weights stay near equal ones for the stages of the head. Far from the
labels, which say nothing about weights there, the two simplest stages count the same. Mixing
distributions, instead of averaging quantiles, keeps the peaks of a bimodal p(z); an averaged quantile
would lie between them. Near the labels, the mixture is then shifted in ln(1 + z) by what its left-out
errors call for, as a smooth function of redshift, and its widths are recalibrated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from deepfits.photometry import robust_scatter
from deepfits.redshifts.domain import INSIDE, NUM_NEIGHBOURS, Domain
from deepfits.redshifts.features import FeatureRecipe, Matrix, Source
from deepfits.redshifts.head import CENTRES, LARGEST, Examples, Head, quantiles_of
from deepfits.redshifts.learning import folds
from deepfits.redshifts.method import Estimates, OutOfFold, Trained, Training
from deepfits.redshifts.methods.network import MLPConfig, MLPEnsemble, train_ensemble
from deepfits.redshifts.methods.pretrained import HeadMethod, domain_and_class, find_head
from deepfits.redshifts.methods.templates import Photometry, TemplateFit, can_fit_templates
from deepfits.redshifts.pdf import (
    AS_PREDICTED,
    LEVELS,
    MEDIAN,
    cumulative,
    mixture,
    pit,
    recalibrated,
    sorted_quantiles,
    values_at,
)
from deepfits.redshifts.predictor import Predictor
from deepfits.redshifts.scene_light import SceneLight
from deepfits.splits import evenly_spaced

NUM_FOLDS = 5
FEWEST_TO_JUDGE = 10  # smallest number of labels for which stages are evaluated by cross-validation
FEWEST_TO_TUNE = 30
FEWEST_FOR_RESIDUALS = 200
MOST_TO_TUNE = 6000
CERTAIN = 5  # number of perfectly calibrated pseudo-labels added for recalibration, as a prior
SMOOTH = 200
"""Number of pseudo-labels added for recalibration that follow a smooth fit to the labels' PIT values."""
FARTHEST = 2.0
"""Errors are clipped to this many half-widths of the 68% interval when they are compared with widths."""
LOW, HIGH = (int(np.argmin(np.abs(LEVELS - level))) for level in (0.16, 0.84))
NUM_PIT = 400  # number of PIT values on either side of 0.5 that represent their distribution
STIFFNESS = 5.0
"""Penalty on the squared distance of the weights from the default ones, in units of the unchanged head's CRPS
divided by the number of labels."""
HEADS = ("pretrained", "zero_points", "tuned")
"""Stages that are heads; the last one is missing with few labels."""
NUM_TO_WEIGH = 3000  # maximum number of labels used to choose the weights
SHIFT, SHIFT_LENGTH = 0.01, 0.1  # prior scatter and correlation length of the shift, both in ln(1 + z)
NUM_TO_SHIFT = 1000  # maximum number of labels used to find the shift
NUM_POINTS = 481  # points of the grid in ln(1 + z) on which distributions are compared
SETS = ("all", "templates", "magnitudes", "matched")
"""Feature sets for the residual networks, in addition to the scene: the first available one."""
MEMBERS = ("scene", "matched", "templates")  # feature sets for the networks without the head, where available


@dataclass(frozen=True, kw_only=True)
class Adapted(HeadMethod):
    """A head adapted to labels."""

    name: ClassVar[str] = "adapted"

    heads: tuple[Head, ...]  # the head unchanged, with zero points, and fine-tuned where labels suffice
    # residual, recipes: networks on the head's p(z) and other features, and how to make the latter; None
    # and empty with few labels.
    residual: MLPEnsemble | None = None
    recipes: tuple[FeatureRecipe, ...] = ()
    weights: np.ndarray  # (M,): weight of each stage near the labels
    validation_pit: np.ndarray  # PIT values for recalibration
    labelled: Domain | None = None  # domain of the labels in the head's inputs; None with few labels
    loss: str = "absolute"  # "squared" for the mean of p(z) as the point estimate, else its median
    members: tuple[Predictor, ...] = ()  # networks without the head
    templates: TemplateFit | None = None  # template fitting; None without photometry, and with many labels
    # Luminosity limit of the tuned head, as an absolute magnitude; see `Head.brightest`.
    brightest: float | None = None
    shift: np.ndarray | None = None  # of ln(1 + z) near the labels, at `CENTRES`; None with few labels

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Fit each stage, then the weights of the mixture and the recalibration."""
        head = find_head(training.options.head, training.dataset.model_hash)
        source, value = training.dataset.source.take(training.rows), training.value
        light = SceneLight.of(source, head.bands)
        examples = Examples.galaxies(light, np.clip(value, 0, None))
        if len(value) < FEWEST_TO_JUDGE:
            return cls._of_few(head, examples, training.loss)
        rng = np.random.default_rng(training.options.seed)
        parts = folds(len(value), min(NUM_FOLDS, len(value)), rng)
        heads, left_out = _adapted_heads(head, examples, parts, training)
        others, of_others = _other_stages(training, source, heads[1], parts)
        left_out |= of_others
        weights = _weights(left_out, value)
        method = cls(
            heads=tuple(stage.without_replay() for stage in heads),
            weights=weights,
            validation_pit=AS_PREDICTED,
            labelled=_domain_of(head.inputs(light)) if len(value) >= FEWEST_TO_TUNE else None,
            loss=training.loss,
            brightest=head.brightest(examples),
            **others,
        )
        mixed = mixture(np.array(list(left_out.values())), weights)
        fitted, *_ = method._mixture(source, light)
        shift, shifted = _shift_of(mixed, value), np.empty_like(mixed)
        for train, test in parts:
            shifted[test] = _shifted(mixed[test], _shift_of(mixed[train], value[train]))
        validation_pit = _for_recalibration(shifted, _shifted(fitted, shift), value)
        method = replace(method, shift=shift, validation_pit=validation_pit)
        final = recalibrated(shifted, validation_pit)
        out_of_fold = OutOfFold(rows=training.rows, point=_point(final, training.loss), quantiles=final)
        return Trained(method=method, out_of_fold=out_of_fold, about=_about(method, left_out))

    @classmethod
    def _of_few(cls, head: Head, examples: Examples, loss: str) -> Trained:
        """Weight the head with and without zero points equally, with too few labels to evaluate them."""
        from deepfits.redshifts.head_training import fit_zero_points

        method = cls(
            heads=tuple(stage.without_replay() for stage in (head, fit_zero_points(head, examples))),
            weights=np.full(2, 0.5),
            validation_pit=AS_PREDICTED,
            loss=loss,
        )
        return Trained(method=method, about=_about(method, HEADS[:2]))

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Mix the stages; far from the labels, only the two simplest ones."""
        light = SceneLight.of(source, self.heads[0].bands)
        mixed, kinds, near = self._mixture(source, light)
        adapted = recalibrated(_shifted(mixed, self.shift), self.validation_pit)
        quantiles = near[:, None] * adapted + (1 - near[:, None]) * mixed
        return Estimates(
            point=_point(quantiles, self.loss),
            quantiles=quantiles,
            columns=domain_and_class(self.heads[0], light, kinds),
        )

    def _mixture(self, source: Source, light: SceneLight) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return quantiles before shift and recalibration, ``(N, Q)``, and class probabilities, ``(N, 3)``.

        The third array, ``(N,)``, is 1 for objects like the labels and 0 for those far from all of them.
        """
        stages = []
        for place, head in enumerate(self.heads):
            quantiles, kinds = head.quantiles(light, self.brightest if place == 2 else None)
            stages.append(quantiles)
        if self.templates is not None:
            stages.append(self.templates.raw_quantiles(Photometry.of(source)))
        if self.residual is not None:
            matrix = _residual_features(self.heads[1], source, self.recipes)
            residual = self.residual.predict(source, matrix).quantiles
            assert residual is not None
            stages.append(residual)
        stages += [member.predict(source)["quantiles"] for member in self.members]
        near = np.ones(len(light))
        if self.labelled is not None:
            distance = self.labelled.distance(self.heads[0].inputs(light))
            near = np.clip(2.0 - distance / self.labelled.limit, 0.0, 1.0)
        weights = near[:, None] * self.weights
        weights[:, :2] += 0.5 * (1 - near[:, None])
        return mixture(np.array(stages), weights), kinds, near


def _domain_of(inputs: np.ndarray) -> Domain:
    """Return the domain of the labels; ten or more are outside, so that no odd one sets its limit."""
    return Domain.learn(inputs, inside=min(INSIDE, 1 - NUM_NEIGHBOURS / len(inputs)))


def _shift_of(left_out: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the shift of ln(1 + z) that out-of-fold quantiles, ``(V, Q)``, call for, at `CENTRES`.

    It is the mean of a Gaussian process through the errors of the medians, whose prior keeps it small where
    there are few labels. Errors in the wings count as in a Cauchy distribution.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    rows = evenly_spaced(len(value), NUM_TO_SHIFT)
    median = np.log1p(left_out[rows, MEDIAN])[:, None]
    error = np.log1p(np.clip(value[rows], 0, None)) - median[:, 0]
    scatter = max(float(robust_scatter(error)), SHIFT / 2)  # not 0, however few labels there are
    kernel = ConstantKernel(SHIFT**2) * RBF(SHIFT_LENGTH)
    weight = np.ones(len(rows))
    for _ in range(5):
        process = GaussianProcessRegressor(kernel, alpha=scatter**2 / weight, optimizer=None)
        process.fit(median, error)
        weight = 1 / (1 + ((error - process.predict(median)) / (2 * scatter)) ** 2)
    return np.asarray(process.predict(CENTRES[:, None]))


def _shifted(quantiles: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Shift quantiles, ``(N, Q)``, in ln(1 + z) by `shift` at their medians."""
    if shift is None:
        return quantiles
    logs = np.log1p(quantiles)
    logs += np.interp(logs[:, MEDIAN], CENTRES, shift)[:, None]
    return sorted_quantiles(np.expm1(np.clip(logs, 0, None)))


def _point(quantiles: np.ndarray, loss: str) -> np.ndarray:
    if loss == "squared":
        return np.asarray(values_at(quantiles, np.linspace(0.005, 0.995, 100)).mean(axis=1))
    return np.asarray(quantiles[:, MEDIAN])


def _about(method: Adapted, names: Iterable[str]) -> dict[str, Any]:
    head = method.heads[1]
    return {
        "weights": dict(zip(names, method.weights.tolist(), strict=True)),
        "zero_points": dict(zip(head.bands, head.zero_points.tolist(), strict=True)),
    }


def _adapted_heads(
    head: Head, examples: Examples, parts: list[tuple[np.ndarray, np.ndarray]], training: Training
) -> tuple[tuple[Head, ...], dict[str, np.ndarray]]:
    """Return the stages that are heads, and their out-of-fold quantiles, ``(V, Q)`` each."""
    from deepfits.redshifts.head_training import fine_tuned, suited

    is_tuned = len(examples) >= FEWEST_TO_TUNE
    first, _ = head.quantiles(examples.light)
    shifted, tuned = np.empty_like(first), np.empty_like(first)
    members, zeroed = [], suited(head, examples, NUM_FOLDS)
    with training.progress("adapt", total=len(parts), unit="folds") as task:
        for place, (train, test) in enumerate(parts):
            left_in, left_out = examples.take(train), examples.take(test)
            stage = suited(head, left_in, NUM_FOLDS)
            shifted[test], _ = stage.quantiles(left_out.light)
            if is_tuned:
                seed = training.options.seed + place
                rows = np.random.default_rng(seed).permutation(len(train))[:MOST_TO_TUNE]
                member, density = fine_tuned(stage, place, left_in.take(rows), left_out, seed)
                members.append(member)
                limit = stage.brightest(left_in)
                tuned[test] = quantiles_of(stage.limited(density, left_out.light, limit))
            task.advance(1)
    heads, estimates = [head, zeroed], [first, shifted]
    if is_tuned:
        heads.append(replace(zeroed, members=tuple(members)))
        estimates.append(tuned)
    return tuple(heads), dict(zip(HEADS, estimates, strict=False))


def _other_stages(
    training: Training, source: Source, zeroed: Head, parts: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the fields of `Adapted` for the other stages, and their out-of-fold quantiles, ``(V, Q)`` each.

    `source` holds the labelled objects.
    """
    options, value, everything = training.options, training.value, training.dataset.source
    left_out: dict[str, np.ndarray] = {}
    fitted: dict[str, Any] = {}
    if len(value) < FEWEST_FOR_RESIDUALS:
        if source.flux is not None and can_fit_templates(source.bands, options.filters):
            fitted["templates"], left_out["templates"] = _template_fit(source, value, parts, options.filters)
        return fitted, left_out
    available = everything.available()
    names = ["scene", *[name for name in SETS if name in available][:1]]
    fitted["recipes"] = recipes = tuple(FeatureRecipe.learn(name, everything) for name in names)
    matrix = _residual_features(zeroed, source, recipes)
    config = MLPConfig(loss="absolute", seed=options.seed)
    fitted["residual"], _, left_out["residual"] = train_ensemble(
        matrix, value, config, progress=training.progress
    )
    if training.member is not None:
        names = [name for name in MEMBERS if name in available]
        fitted["members"] = tuple(training.member("network", name) for name in names)
        for name, member in zip(names, fitted["members"], strict=True):
            left_out[f"network on {name}"] = member.out_of_fold.at(training.rows).quantiles
    return fitted, left_out


def _template_fit(
    source: Source, value: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], filters: Sequence[str]
) -> tuple[TemplateFit, np.ndarray]:
    """Return template fitting calibrated on all labels, and out-of-fold quantiles, ``(V, Q)``."""
    photometry = Photometry.of(source)
    left_out = np.empty((len(value), len(LEVELS)))
    for train, test in parts:
        fit = TemplateFit.learn(photometry.take(train), value[train], source.bands, filters)
        left_out[test] = fit.raw_quantiles(photometry.take(test))
    return TemplateFit.learn(photometry, value, source.bands, filters), left_out


def _for_recalibration(left_out: np.ndarray, fitted: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return smooth, symmetric PIT values with which to recalibrate the widths of the final mixture.

    An out-of-fold estimate comes from a single member of each ensemble, the final one from their mean, which
    has smaller errors and slightly wider distributions. The difference of the two at the labels is the part
    of the error that averaging removes: its variance is subtracted from that of the out-of-fold errors.

    PIT values are folded about 0.5, so that medians are unchanged (a few labels must not shift every
    estimate). A hundred labels constrain two parameters better than every quantile, ten thousand constrain
    more than two. So the labels are supplemented by `CERTAIN` calibrated pseudo-labels and by `SMOOTH` that
    follow the maximum-likelihood beta distribution of the PIT values, binned at the `LEVELS`.

    `left_out` and `fitted` are quantiles for the labels `value`, ``(V, Q)``: out-of-fold, and by the final
    mixture, which has seen them.
    """
    from scipy.optimize import minimize
    from scipy.stats import beta

    middle, error = np.log1p(left_out[:, MEDIAN]), np.log1p(np.clip(value, 0, None))
    error -= middle
    moved = np.log1p(fitted[:, MEDIAN]) - middle
    width, final_width = (np.log1p(each[:, [LOW, MEDIAN, HIGH]]) for each in (left_out, fitted))

    def in_widths(shift: np.ndarray) -> np.ndarray:
        half = np.where(shift > 0, width[:, 2] - width[:, 1], width[:, 1] - width[:, 0])
        return np.asarray(np.minimum(np.abs(shift) / half, FARTHEST))

    smaller = np.sqrt(max(1 - np.mean(in_widths(moved) ** 2) / np.mean(in_widths(error) ** 2), 0.25))
    wider = np.median((final_width[:, 2] - final_width[:, 0]) / (width[:, 2] - width[:, 0]))
    transform = pit(left_out, np.expm1(middle + error * smaller / wider))
    folded = np.abs(2 * transform - 1)
    edges = np.concatenate([[0.0], 2 * LEVELS[MEDIAN + 1 :] - 1, [1.0]])
    counts = np.histogram(folded, edges)[0] + CERTAIN * np.diff(edges)

    def negative_log_likelihood(logs: np.ndarray) -> float:
        return float(-(counts * np.log(np.diff(beta.cdf(edges, *np.exp(logs))) + 1e-12)).sum())

    shape = np.exp(minimize(negative_log_likelihood, np.zeros(2), method="Nelder-Mead").x)
    uniform, smooth, levels = ((np.arange(number) + 0.5) / number for number in (CERTAIN, SMOOTH, NUM_PIT))
    folded = np.quantile(np.concatenate([folded, uniform, beta.ppf(smooth, *shape)]), levels)
    return np.sort(np.concatenate([0.5 - folded / 2, 0.5 + folded / 2]))


def _residual_features(head: Head, source: Source, recipes: tuple[FeatureRecipe, ...]) -> Matrix:
    """Return the head's quantiles of ln(1 + z), and other features."""
    quantiles = np.log1p(head.quantiles(SceneLight.of(source, head.bands))[0])
    names = tuple(f"head_{number}" for number in range(quantiles.shape[1]))
    own = Matrix(values=quantiles.astype(np.float32), names=names)
    return reduce(Matrix.hstack, [recipe.make(source) for recipe in recipes], own)


def _weights(left_out: dict[str, np.ndarray], value: np.ndarray) -> np.ndarray:
    """Return weights of the stages, ``(M,)``, that sum to 1.

    They minimise the sum of three terms: the out-of-fold CRPS of ln(1 + z); one standard error of its
    difference from the CRPS of the first stage, the unchanged head; and `STIFFNESS` over the number of labels
    times the squared distance from the default weights, which are equal for all `HEADS` and 0 otherwise. The
    first two are in units of the first stage's mean CRPS.
    """
    from scipy.optimize import minimize

    count, rows = len(left_out), evenly_spaced(len(value), NUM_TO_WEIGH)
    number, grid = len(rows), np.linspace(0, LARGEST, NUM_POINTS)
    is_above = grid >= np.log1p(np.clip(value[rows], 0, None))[:, None]
    error = np.stack(
        [cumulative(quantiles[rows], np.expm1(grid)) - is_above for quantiles in left_out.values()], axis=1
    )
    product = error @ error.mT * grid[1]  # A, (V, M, M): the CRPS of the mixture is w·A·w
    first = product[:, 0, 0]
    scale = float(first.mean())
    start = np.array([name in HEADS for name in left_out], dtype=float)
    start /= start.sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        along = product @ weights
        change = along @ weights - first
        spread = np.sqrt(change.var() + (1e-6 * scale) ** 2)
        spread_slope = (change - change.mean()) @ (2 * along) / (number * spread * np.sqrt(number))
        offset = weights - start
        pull = STIFFNESS / number * offset
        crps = float(change.mean() + spread / np.sqrt(number)) / scale
        return crps + float(pull @ offset), (2 * along.mean(axis=0) + spread_slope) / scale + 2 * pull

    sum_is_1 = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda _: np.ones(count)}
    best = minimize(loss, start, jac=True, method="SLSQP", bounds=[(0, 1)] * count, constraints=sum_is_1)
    weights = np.clip(best.x, 0, None)
    return np.asarray(weights / weights.sum())
