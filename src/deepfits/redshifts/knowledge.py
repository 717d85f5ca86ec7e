"""What features know about simulated galaxies, whose sizes, shapes, types and redshifts are known exactly.

Shapes: N objects, K features, T targets, M labels, J test objects.

All properties are predicted by the same method, kernel ridge regression, whose few hyperparameters are chosen
from the labels alone, so that the comparison is between feature sets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepfits.redshifts.classes import area_under_curve
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.redshifts.learning import Standard
from deepfits.tables import Columns

SETS = {
    "magnitudes": "aperture magnitudes",
    "latents": "latents",
    "oriented": "fitted latents",
    "model": "fit measurements",
    "extended": "latents, fit measurements",
    "combined": "all",
}
NUM_LABELS = (300, 3000)
NEEDED = (
    "half_light_radius_arcsec", "kind", "z_spec", "bulge_fraction", "bulge_ratio", "disc_ratio", "angle",
    "ebv",
)  # fmt: skip
"""Columns that the truth table must have."""
NUM_BOOTSTRAP = 100
CLASS = " or galaxy"  # end of the names of classes, which are 1 or 0
MIN_OF_A_CLASS = 20
WIDTHS, RIDGES = (0.5, 1.0, 2.0, 4.0), (0.003, 0.03, 0.3, 3.0)
MOST_TO_CHOOSE = 1000


def properties_of(truth: Columns) -> Columns:
    """Return the properties in the truth table of a simulated sky; see `deepfits simulate`.

    Each is ``(N,)``, NaN for objects without it. The radius is ln r and the redshift ln(1 + z). The
    orientation is (1 − axis ratio) · cos 2θ, which vanishes for round galaxies.
    """
    kind = truth["kind"]
    is_galaxy = kind == "galaxy"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(truth["bulge_fraction"] > 0.5, truth["bulge_ratio"], truth["disc_ratio"])
        values = {
            "half-light radius": np.log(truth["half_light_radius_arcsec"]),
            "axis ratio": ratio,
            "orientation": (1 - ratio) * np.cos(2 * truth["angle"]),
            "bulge fraction": truth["bulge_fraction"],
            "dust": truth["ebv"],
            "redshift": np.log1p(truth["z_spec"]),
        }
    out = {name: np.where(is_galaxy, column, np.nan) for name, column in values.items()}
    for name in ("star", "quasar"):
        if (kind == name).sum() >= MIN_OF_A_CLASS:
            out[f"{name}{CLASS}"] = np.where(is_galaxy | (kind == name), kind == name, np.nan)
    return out


def predictability(
    source: Source, properties: Columns, is_judged: np.ndarray, *, num_labels: Sequence[int] = NUM_LABELS
) -> list[dict[str, Any]]:
    """Return how well each property is predicted, for each number of labels and each feature set.

    Each row is ``{"features", "num_labels", "num_judged", "found": {name: [score, bootstrap error]}}``, with
    R² or, for a class, the area under the ROC curve. `is_judged`, ``(N,)`` bool, marks the test objects;
    labels are drawn from the others, at most all of them.
    """
    order = np.random.default_rng(0).permutation(np.flatnonzero(~is_judged))
    judged, out = np.flatnonzero(is_judged), []
    for number in sorted({min(few, len(order)) for few in num_labels}):
        labelled = order[:number]
        for name in SETS:
            if name in source.available():
                matrix = FeatureRecipe.learn(name, source).make(source)
                standard = Standard.learn(matrix.values[labelled], matrix.is_latent)
                features = standard.clipped(matrix.values)
                scores = _scores(features, properties, labelled, judged)
                row = {"features": name, "num_labels": number, "num_judged": len(judged)}
                out.append({**row, "found": scores})
    return out


def _scores(
    features: np.ndarray, properties: Columns, labelled: np.ndarray, judged: np.ndarray
) -> dict[str, list[float | None]]:
    """Return the score and error of each property; properties of the same objects are fitted together."""

    def area(score: np.ndarray, truth: np.ndarray) -> float:
        return area_under_curve(score, truth > 0.5) if 0 < truth.mean() < 1 else np.nan

    out: dict[str, list[float | None]] = {name: [None, None] for name in properties}
    groups: dict[bytes, list[str]] = {}
    for name, value in properties.items():
        groups.setdefault(np.isfinite(value).tobytes(), []).append(name)
    for names in groups.values():
        has = np.isfinite(properties[names[0]])
        learn, judge = labelled[has[labelled]], judged[has[judged]]
        if min(len(learn), len(judge)) < MIN_OF_A_CLASS:
            continue
        value = np.stack([properties[name] for name in names], axis=1)
        estimate = kernel_ridge(features[learn], value[learn], features[judge])
        for number, name in enumerate(names):
            truth = value[judge, number]
            if np.ptp(truth) > 0 and np.ptp(value[learn, number]) > 0:
                score = area if name.endswith(CLASS) else r2
                out[name] = with_error(score, estimate[:, number], truth)
    return out


def kernel_ridge(features: np.ndarray, target: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Predict targets by kernel ridge regression with a Gaussian kernel.

    The kernel width and the ridge are chosen for each target by the leave-one-out error of the first 1,000
    labels, which must be in random order.

    `features` ``(M, K)`` and `target` ``(M, T)`` are those of the labels; the result is ``(J, T)`` for the
    objects with the features `asked`, ``(J, K)``.

    Source: leave-one-out errors of ridge regression, Hastie, Tibshirani & Friedman (2009), eq. 7.64.
    """
    from scipy.linalg import cho_factor, cho_solve

    tuning = slice(MOST_TO_CHOOSE)
    own, mean = squared_distances(features[tuning], features[tuning]), target.mean(axis=0)
    typical = np.median(own)
    least, chosen = np.full(target.shape[1], np.inf), np.zeros((target.shape[1], 2))
    for width in WIDTHS:
        level, vectors = np.linalg.eigh(np.exp(-own / (width * typical)))
        rotated = vectors.T @ (target[tuning] - mean)
        for ridge in RIDGES:
            inverse = 1 / (level + ridge)
            residual = vectors @ (inverse[:, None] * rotated) / ((vectors**2) @ inverse)[:, None]
            error = np.mean(residual**2, axis=0)
            chosen[error < least] = width, ridge
            least = np.minimum(error, least)
    out = np.empty((len(asked), target.shape[1]))
    within, across = squared_distances(features, features), squared_distances(asked, features)
    for width, ridge in np.unique(chosen, axis=0):
        columns = (chosen == (width, ridge)).all(axis=1)
        kernel = np.exp(-within / (width * typical))
        kernel[np.diag_indices_from(kernel)] += ridge
        coefficients = cho_solve(cho_factor(kernel, overwrite_a=True), (target - mean)[:, columns])
        out[:, columns] = np.exp(-across / (width * typical)) @ coefficients + mean[columns]
    return out


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return squared Euclidean distances between all pairs of rows, ``(N, M)``."""
    inner = first @ second.T
    return np.maximum((first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * inner, 0)


def r2(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the coefficient of determination."""
    return float(1 - np.sum((estimate - truth) ** 2) / np.sum((truth - truth.mean()) ** 2))


def with_error(statistic: Callable[..., Any], *arrays: np.ndarray) -> list[float | None]:
    """Return a statistic and its bootstrap error over the objects."""
    rng, number = np.random.default_rng(0), len(arrays[0])
    draws = [rng.integers(number, size=number) for _ in range(NUM_BOOTSTRAP)]
    values = [float(statistic(*(array[rows] for array in arrays))) for rows in draws]
    return [round(float(statistic(*arrays)), 4), round(float(np.nanstd(values)), 4)]


def table_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the column names and the cells of a table of the results of `predictability`."""
    cells = []
    for row in rows:
        cells.append([SETS[row["features"]], f"{row['num_labels']:,}"])
        for name, (value, error) in row["found"].items():
            digits = 3 if name.endswith(CLASS) else 2
            cells[-1].append("–" if value is None else f"{value:.{digits}f} ± {error:.{digits}f}")
    return ["features", "labels", *(rows[0]["found"] if rows else ())], cells
