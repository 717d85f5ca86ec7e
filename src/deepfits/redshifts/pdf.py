"""Redshift distributions as quantiles: a compact representation, and its statistics and metrics.

Shapes: N objects, Q quantile levels, G grid points, V validation objects.

A distribution is represented by its Q quantiles at the fixed `LEVELS`. Between them the cumulative
distribution F is linear; beyond the outermost levels the tails are exponential, at rates set by the three
outermost quantiles.
"""

from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.redshifts.metrics import measured, with_errors
from deepfits.splits import in_batches

LEVELS = np.array([0.01, 0.025, 0.05, 0.1, 0.16, 0.25, 0.35, 0.5, 0.65, 0.75, 0.84, 0.9, 0.95, 0.975, 0.99])
"""Levels of the stored quantiles, which include the 68% and 95% intervals and the median."""
AS_PREDICTED = np.empty(0)  # no PIT values: `recalibrated` returns distributions unchanged
MEDIAN = int(np.argmin(np.abs(LEVELS - 0.5)))  # index of the median in `LEVELS`

DEFINITIONS = {
    "pit_ks": "largest distance between the PIT values' cumulative distribution and the uniform one",
    "coverage_68": "fraction of objects whose z_spec lies in the central 68% interval",
    "coverage_95": "fraction of objects whose z_spec lies in the central 95% interval",
    "r2_mean": "R² of the mean of the distribution, the estimate that minimises the squared error",
    "crps": "mean of ∫ (F(x) − H(x − z_spec))² dx",
    "cde_loss": "mean of ∫ p(x)² dx − 2 p(z_spec)",
}
LEAST_STEP = 1e-4  # least difference between quantiles of neighbouring levels


def sorted_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """Sort crossing quantiles, ``(N, Q)``, so that they increase by at least 1e-4 from level to level."""
    out = np.sort(np.asarray(quantiles, dtype=np.float64), axis=1)
    steps = np.arange(out.shape[1]) * LEAST_STEP
    return np.maximum.accumulate(out - steps, axis=1) + steps


def cumulative(quantiles: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the cumulative distribution of each object, ``(N, G)`` in (0, 1).

    Quantiles are ``(N, Q)`` and increasing; the points `at` are ``(N, G)``, or ``(G,)`` for all objects.
    """
    at = np.broadcast_to(at, (len(quantiles), np.shape(at)[-1])).astype(np.float64)
    out = np.empty(at.shape)
    for row, (points, values) in enumerate(zip(at, quantiles, strict=True)):
        out[row] = np.interp(points, values, LEVELS)
    first, last = quantiles[:, :1], quantiles[:, -1:]
    low_slope, high_slope = _tail_slopes(quantiles)
    with np.errstate(over="ignore"):
        below = LEVELS[0] * np.exp(np.minimum((at - first) * low_slope, 0.0))
        above = 1 - (1 - LEVELS[-1]) * np.exp(np.minimum((last - at) * high_slope, 0.0))
    return np.where(at < first, below, np.where(at > last, above, out))


def _tail_slopes(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates of the lower and upper exponential tails, ``(N, 1)`` each."""
    low = np.log(LEVELS[2] / LEVELS[0]) / (quantiles[:, 2:3] - quantiles[:, :1])
    high = np.log((1 - LEVELS[-3]) / (1 - LEVELS[-1])) / (quantiles[:, -1:] - quantiles[:, -3:-2])
    return low, high


def density(quantiles: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the mean density p in each cell of a grid, ``(N, G − 1)``."""
    return np.diff(cumulative(quantiles, grid), axis=1) / np.diff(grid)


def values_at(quantiles: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return quantiles at other levels, including the tails: ``(N, Q)`` to ``(N, len(wanted))``."""
    place = np.maximum(np.searchsorted(LEVELS, wanted, side="right") - 1, 0)
    slope = np.diff(quantiles, axis=1, append=quantiles[:, -1:]) / np.diff(LEVELS, append=np.inf)
    out = slope.take(place, axis=1) * (wanted - LEVELS[place]) + quantiles.take(place, axis=1)
    low_slope, high_slope = _tail_slopes(quantiles)
    safe = np.clip(wanted, 1e-6, 1 - 1e-6)
    below = quantiles[:, :1] + np.log(np.minimum(safe / LEVELS[0], 1.0)) / low_slope
    above = quantiles[:, -1:] - np.log(np.minimum((1 - safe) / (1 - LEVELS[-1]), 1.0)) / high_slope
    return np.where(wanted < LEVELS[0], below, np.where(wanted > LEVELS[-1], above, out))


def from_grid(probability: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the quantiles, ``(N, Q)``, of distributions given on a grid.

    `probability` holds non-negative densities at the grid points, ``(N, G)``, in any normalisation; the grid,
    ``(G,)``, is increasing.
    """
    steps = np.diff(grid)
    cells = (probability[:, 1:] + probability[:, :-1]) / 2 * steps
    total = cells.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        raise InputError("a distribution on a grid is zero everywhere")
    function = np.concatenate([np.zeros((len(cells), 1)), np.cumsum(cells / total, axis=1)], axis=1)
    tilt = np.linspace(0, 1e-9, len(grid))  # makes F strictly increasing, hence invertible
    return sorted_quantiles(np.stack([np.interp(LEVELS, row + tilt, grid) for row in function]))


def mixture(parts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the quantiles of mixtures of S components each: ``(S, N, Q)``, increasing, to ``(N, Q)``.

    The weights of the components, ``(S,)`` or ``(N, S)``, sum to 1; they are equal by default.
    """
    number, length = parts.shape[:2]
    if weights is None:
        weights = np.full(number, 1 / number)
    weights = np.broadcast_to(weights, (length, number))
    is_used = weights.any(axis=0)
    parts, weights = parts[is_used], weights[:, is_used]
    out = np.empty(parts.shape[1:])
    for row in range(length):
        points = np.unique(parts[:, row])
        out[row] = np.interp(LEVELS, weights[row] @ cumulative(parts[:, row], points), points)
    return sorted_quantiles(out)


def point_estimates(quantiles: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean, median, mode and intervals, ``(N,)`` each, under Rubin-style names.

    `z_mode` is the centre of the narrowest interval that contains half of the probability, a robust estimate
    of the mode of a distribution given by quantiles.
    """

    def mean_and_mode(part: np.ndarray) -> list[np.ndarray]:
        values = values_at(part, np.linspace(0.005, 0.995, 199))
        narrowest = (values[:, 99:] - values[:, :100]).argmin(axis=1)
        rows = np.arange(len(values))
        return [values.mean(axis=1), (values[rows, narrowest] + values[rows, narrowest + 99]) / 2]

    mean, mode = in_batches(mean_and_mode, quantiles)
    return {
        "z_mean": mean,
        "z_median": quantiles[:, MEDIAN],
        "z_mode": mode,
        **{name: quantiles[:, np.searchsorted(LEVELS, level)] for name, level in _INTERVALS.items()},
    }


_INTERVALS = {"z_err68_low": 0.16, "z_err68_high": 0.84, "z_err95_low": 0.025, "z_err95_high": 0.975}
"""Levels of the ends of the central intervals, which are among `LEVELS`."""


def pit(quantiles: np.ndarray, z_spec: np.ndarray) -> np.ndarray:
    """Return the probability integral transform F(z_spec), ``(N,)``: uniform if p(z) is calibrated."""
    return cumulative(quantiles, np.asarray(z_spec)[:, None])[:, 0]


def crps(quantiles: np.ndarray, z_spec: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score of each object, ``(N,)``, on a grid of redshifts."""
    middle = (grid[1:] + grid[:-1]) / 2
    step = middle[None, :] >= np.asarray(z_spec)[:, None]
    return ((cumulative(quantiles, middle) - step) ** 2 * np.diff(grid)).sum(axis=1)


def pinball(quantiles: np.ndarray, z_spec: np.ndarray) -> np.ndarray:
    """Return the mean pinball loss of ln(1 + z) of each object, ``(N,)``: half its CRPS."""
    above = np.log1p(np.clip(z_spec, 0, None))[:, None] - np.log1p(np.clip(quantiles, -0.5, None))
    return np.maximum(LEVELS * above, (LEVELS - 1) * above).mean(axis=1)


def cde_loss(quantiles: np.ndarray, z_spec: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return ∫p² dz − 2 p(z_spec) of each object, ``(N,)``, with p averaged over the cells of a grid."""
    cells = density(quantiles, grid)
    where = np.clip(np.searchsorted(grid, z_spec, side="right") - 1, 0, len(grid) - 2)
    return (cells**2 * np.diff(grid)).sum(axis=1) - 2 * cells[np.arange(len(cells)), where]


def pdf_metrics(
    quantiles: np.ndarray, z_spec: np.ndarray, *, num_resamples: int = 300
) -> dict[str, dict[str, float | None]]:
    """Return every metric of `DEFINITIONS` with its bootstrap error."""
    lowest = min(float(np.min(z_spec)), float(np.min(quantiles)))
    highest = max(float(np.max(z_spec)), float(np.max(quantiles)))
    grid = np.linspace(min(0.0, lowest), highest * 1.2 + 0.1, 601)
    margin = 0.2 * (highest - lowest)
    if highest < 0 or lowest > 10 * margin:  # absolute magnitudes, dates
        grid = np.linspace(lowest - margin, highest + margin, 601)
    transform = pit(quantiles, z_spec)
    per_object = {
        "coverage_68": ((transform >= 0.16) & (transform <= 0.84)).astype(float),
        "coverage_95": ((transform >= 0.025) & (transform <= 0.975)).astype(float),
        "crps": crps(quantiles, z_spec, grid),
        "cde_loss": cde_loss(quantiles, z_spec, grid),
    }
    picked = np.random.default_rng(0).integers(len(z_spec), size=(num_resamples, len(z_spec)))
    values = {name: each.mean() for name, each in per_object.items()}
    resampled = {name: each[picked].mean(axis=1) for name, each in per_object.items()}
    values["pit_ks"] = distance_to_uniform(transform)
    resampled["pit_ks"] = np.array([distance_to_uniform(transform[sample]) for sample in picked])
    mean = point_estimates(quantiles)["z_mean"]
    r2 = measured(mean, z_spec, is_redshift=False, num_resamples=num_resamples)["r2"]
    return {**with_errors(values, resampled), "r2_mean": r2}


def distance_to_uniform(transform: np.ndarray) -> float:
    """Return the Kolmogorov–Smirnov distance of PIT values from the uniform distribution."""
    ordered = np.sort(transform)
    number = len(ordered)
    after = np.arange(1, number + 1) / number
    return float(np.maximum(after - ordered, ordered - after + 1 / number).max())


def recalibrated(quantiles: np.ndarray, validation_pit: np.ndarray) -> np.ndarray:
    """Correct quantiles, ``(N, Q)``, using the PIT values of validation objects.

    The quantile at level τ is replaced by that at the τ-quantile of the validation objects' PIT values (after
    Kuleshov, Fenner & Ermon 2018, arXiv:1807.00263, eq. 5), so that calibrated quantiles do not change.
    `validation_pit`, ``(V,)``, are PIT values before recalibration, of objects used neither for training nor
    for testing; if empty (`AS_PREDICTED`), the quantiles are returned unchanged.

    Examples
    --------
    >>> quantiles = np.linspace(0.2, 0.8, len(LEVELS))[None]
    >>> bool((recalibrated(quantiles, AS_PREDICTED) == quantiles).all())
    True
    """
    if not len(validation_pit):
        return quantiles
    number = len(validation_pit)
    ordered = np.concatenate([[0.0], np.sort(validation_pit), [1.0]])
    shares = np.concatenate([[0.0], (np.arange(number) + 0.5) / number, [1.0]])
    return sorted_quantiles(values_at(quantiles, np.interp(LEVELS, shares, ordered)))


def as_qp(quantiles: np.ndarray) -> Any:
    """Return the distributions as a `qp` ensemble of quantiles, as used by RAIL."""
    try:
        import qp
    except ImportError:
        raise InputError("qp is not installed; `pip install qp-prob`") from None
    return qp.Ensemble(qp.quant, data={"quants": LEVELS, "locs": np.asarray(quantiles)})
