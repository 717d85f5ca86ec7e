"""Classification: star or galaxy, spiral or not, or any other column of labels.

Shapes: N objects, K features, C classes.

Gradient boosting with the cross-entropy loss, tuned by cross-validation as for redshifts, with the same
feature sets, held-out objects and splits; and metrics that are not dominated by the most frequent class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import write_json, write_text
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.redshifts.learning import folds
from deepfits.redshifts.methods.boosting import FIRST_TRIAL, fixed_parameters, train_with_early_stopping
from deepfits.redshifts.metrics import with_errors
from deepfits.redshifts.options import Seeded
from deepfits.redshifts.results import caption, format_metric, table_lines

CLASSIFIER = "classifier.json"  # file name of a classifier, for `deepfits.redshifts.storage`

DEFINITIONS = {
    "accuracy": "fraction of objects assigned their true class",
    "balanced_accuracy": "mean over the classes of the completeness, the fraction of a class recovered",
    "f1": "mean over the classes of 2 · purity · completeness / (purity + completeness)",
    "auc": "mean over the classes of the area under the ROC curve, one class against the others",
    "log_loss": "mean of −ln p(true class)",
    "calibration": "mean of |p − fraction correct| over ten bins of the largest probability, by objects",
}
MIN_OF_A_CLASS = 10
NUM_FOLDS, NUM_RESAMPLES = 3, 200
MAX_CLASSES = 50
_TRIALS: Sequence[dict[str, float]] = (
    FIRST_TRIAL,
    {"max_depth": 3, "eta": 0.1, "min_child_weight": 1, "subsample": 0.8, "colsample_bynode": 0.5},
    {"max_depth": 6, "eta": 0.05, "min_child_weight": 4, "subsample": 0.7, "colsample_bynode": 0.25},
)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Trees (an `xgboost.Booster`) trained on one feature set; `names` are the C classes, sorted."""

    booster: Any
    names: tuple[str, ...]
    recipe: FeatureRecipe
    target: str
    about: dict[str, Any] = field(default_factory=dict)

    def predict(self, source: Source) -> np.ndarray:
        """Return the probability of each class, ``(N, C)`` float64; each row sums to 1."""
        probability = self.booster.inplace_predict(self.recipe.make(source).values)
        probability = probability.reshape(len(probability), -1).astype(np.float64)
        return probability / probability.sum(axis=1, keepdims=True)


def class_numbers(label: np.ndarray, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the index of each object's class, ``(N,)``, and the names of the classes."""
    unique, numbers, counts = np.unique(label.astype(str), return_inverse=True, return_counts=True)
    names = tuple(unique.tolist())
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"{where}: {len(names)} different labels ({names[0]!r}, {names[1]!r}, …), at most {MAX_CLASSES} "
            "are allowed; use regression to predict a number"
        )
    if counts.min() < MIN_OF_A_CLASS:
        rare = names[counts.argmin()]
        raise InputError(
            f"{where}: a class needs {MIN_OF_A_CLASS} objects, and {rare!r} has {counts.min()}: leave it out "
            f"(--select 'COLUMN != {rare}'), or merge classes"
        )
    return numbers, names


def train_classifier(
    target: str, feature_set: str, dataset: Dataset, label: np.ndarray, names: Sequence[str], options: Seeded
) -> Classifier:
    """Choose among a few settings by cross-validation, then train on all training objects.

    `label`, ``(N,)``, holds class indices from 0 to C − 1.
    """
    import xgboost

    recipe, fitted = FeatureRecipe.learn(feature_set, dataset.source), dataset.split.fitted
    values, label = recipe.make(dataset.source).take(fitted).values, label[fitted]
    fixed = {
        "objective": "multi:softprob",
        "num_class": len(names),
        "eval_metric": "mlogloss",
        **fixed_parameters(options.seed, options.num_threads),
    }
    parts = folds(len(label), NUM_FOLDS, np.random.default_rng(options.seed))
    trials = []
    for settings in _TRIALS:
        boosters = [
            train_with_early_stopping(
                {**settings, **fixed}, values, label, train, test, max_rounds=600, patience=20
            )
            for train, test in parts
        ]
        losses = [booster.best_score for booster in boosters]
        rounds = [booster.best_iteration + 1 for booster in boosters]
        trials.append((float(np.mean(losses)), int(np.mean(rounds) * 1.1) + 1, settings))
    loss, total, settings = min(trials, key=lambda trial: trial[0])
    data = xgboost.DMatrix(values, label=label)
    booster = xgboost.train({**settings, **fixed}, data, num_boost_round=total)
    about = {"num_train": len(label), "cross_validated_loss": loss, "settings": settings, "num_rounds": total}
    return Classifier(booster=booster, names=tuple(names), recipe=recipe, target=target, about=about)


def class_metrics(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return every metric of `DEFINITIONS`.

    Probabilities are ``(N, C)`` and labels class indices, ``(N,)``. Means are over the classes that occur
    among the labels.

    Examples
    --------
    >>> metrics = class_metrics(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    >>> metrics["accuracy"], metrics["auc"]
    (1.0, 1.0)
    """
    guess, present = probability.argmax(axis=1), np.unique(label)
    completeness, scores, areas = [], [], []
    for number in present:
        is_one, is_guess = label == number, guess == number
        hits = float((is_one & is_guess).sum())
        completeness.append(hits / is_one.sum())
        scores.append(2 * hits / (is_one.sum() + is_guess.sum()))
        if not is_one.all():
            areas.append(area_under_curve(probability[:, number], is_one))
    return {
        "accuracy": float((guess == label).mean()),
        "balanced_accuracy": float(np.mean(completeness)),
        "f1": float(np.mean(scores)),
        "auc": float(np.mean(areas)) if areas else float("nan"),
        "log_loss": float(-np.log(np.maximum(probability[np.arange(len(label)), label], 1e-12)).mean()),
        "calibration": _calibration(probability.max(axis=1), guess == label),
    }


def area_under_curve(score: np.ndarray, is_one: np.ndarray) -> float:
    """Return the area under the ROC curve: the probability that an object of the class outscores another.

    Ties count half.
    """
    from scipy.stats import rankdata

    number = int(is_one.sum())
    total = rankdata(score)[is_one].sum() - number * (number + 1) / 2
    return float(total / (number * (len(score) - number)))


def _calibration(largest: np.ndarray, is_right: np.ndarray) -> float:
    bins = np.minimum((largest * 10).astype(int), 9)
    parts = [bins == index for index in np.unique(bins)]
    return float(np.sum([abs(largest[p].mean() - is_right[p].mean()) * p.mean() for p in parts]))


def class_metrics_with_errors(
    probability: np.ndarray, label: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Return every metric with its error from bootstrapping the objects."""
    values = class_metrics(probability, label)
    picked = np.random.default_rng(0).integers(len(label), size=(NUM_RESAMPLES, len(label)))
    drawn = [class_metrics(probability[rows], label[rows]) for rows in picked]
    return with_errors(values, {name: np.array([figures[name] for figures in drawn]) for name in values})


def confusion(probability: np.ndarray, label: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per true class: its name, number of objects, and how many were assigned each class."""
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (label, probability.argmax(axis=1)), 1)
    return [
        {"class": name, "num": sum(given), "given": dict(zip(names, given, strict=True))}
        for name, given in zip(names, counts.tolist(), strict=True)
    ]


def write_classes(out: Path, content: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` and ``table.md``."""
    write_json(out / "metrics.json", {**content, "definitions": DEFINITIONS})
    write_text(out / "table.md", class_table(content))


def class_table(content: Mapping[str, Any]) -> str:
    """Return the table of feature sets as Markdown, with definitions and the best row's confusion matrix."""
    rows = content["rows"]
    best = min(rows, key=lambda row: row["metrics"]["log_loss"]["value"])
    names = [entry["class"] for entry in best["confusion"]]
    metrics = [
        [row["features"], *(format_metric(row["metrics"][name]) for name in DEFINITIONS)] for row in rows
    ]
    given = [
        [entry["class"], str(entry["num"]), *(str(entry["given"][name]) for name in names)]
        for entry in best["confusion"]
    ]
    lines = [
        caption(content),
        "",
        *table_lines(["features", *DEFINITIONS], metrics),
        "",
        *(f"- {name}: {text}" for name, text in DEFINITIONS.items()),
        "",
        f"Assigned classes (columns) against true classes (rows), features {best['features']}:",
        "",
        *table_lines(["class", "objects", *names], given),
    ]
    return "\n".join(lines) + "\n"
