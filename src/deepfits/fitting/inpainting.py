"""Predicted bands compared with measured ones, and with predictions from other bands without a network.

Shapes: N objects, B bands, H = W pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepfits.photometry import MIN_SIGNAL_TO_NOISE, SIGMA_PER_MAD, robust_scatter
from deepfits.tables.matching import unit_vectors

MATCH_RADIUS_ARCSEC = 0.5
MIN_CALIBRATION = 30  # minimum number of objects to measure a band's model error
MAX_MODEL_ERROR = 3.0
NUM_RESAMPLES = 200
# Effective wavelengths in nm, by common names of bands; if any name is unknown, bands are equally spaced.
WAVELENGTH_NM = {
    **{"u": 370.0, "u*": 380.0, "ustar": 380.0, "B": 440.0, "g": 480.0, "V": 550.0, "r": 620.0, "r2": 620.0},
    **{"i": 770.0, "i2": 770.0, "z": 890.0, "Z": 880.0, "y": 980.0, "Y": 1020.0},
    **{"J": 1250.0, "H": 1640.0, "K": 2150.0, "Ks": 2150.0},
}
DEFINITIONS = {
    "delta": "magnitude of the predicted aperture flux minus that of the measured one",
    "bias": "median of delta",
    "scatter": "1.4826 × median of the absolute deviation of delta from its median",
    "pull": "(predicted − measured aperture flux) / root of the summed variances, for all objects with data",
    "deepfits": (
        "the band as the generator renders it, corrected for systematic errors measured on other objects "
        "with the band hidden; generator alone: without this correction"
    ),
    "model_error": (
        "fraction of the predicted flux that is added to its error in quadrature, to account for errors of "
        "the generator; measured on other objects with the band hidden"
    ),
    "objects": (
        f"held out, measured at {MIN_SIGNAL_TO_NOISE:g} sigma or more in the band that was hidden; each "
        "method is evaluated on those for which it makes a prediction"
    ),
    "truth": (
        "colour with the adjacent band (predicted minus measured aperture magnitude) minus that of the "
        f"brightest true source within {MATCH_RADIUS_ARCSEC} arcsec, for objects measured in both bands"
    ),
    "interpolation": "magnitudes of the two nearest other bands, linear in the logarithm of the wavelength",
    "regression": (
        "linear regression of the magnitude on those of all other bands, fitted to the objects that are not "
        "held out"
    ),
}


def interpolate(magnitudes: np.ndarray, bands: Sequence[str], hidden: str) -> np.ndarray:
    """Predict a band's magnitude, ``(N,)``, from the two nearest bands, linearly in log wavelength.

    Magnitudes are ``(N, B)``; the column of the hidden band is not used. At either end of the range this
    extrapolates. Without another band, all are NaN.

    Examples
    --------
    >>> float(interpolate(np.array([[22.0, 99.0, 24.0]]), ["a", "b", "c"], "b")[0])
    23.0
    """
    known = all(band in WAVELENGTH_NM for band in bands)
    position = np.log([WAVELENGTH_NM[b] for b in bands]) if known else np.arange(len(bands), dtype=float)
    target = list(bands).index(hidden)
    others = [n for n in range(len(bands)) if n != target]
    others.sort(key=lambda n: abs(position[n] - position[target]))
    if not others:
        return np.full(len(magnitudes), np.nan)
    if len(others) == 1:
        return magnitudes[:, others[0]]
    below = [n for n in others if position[n] < position[target]]
    above = [n for n in others if position[n] > position[target]]
    first, second = (below[0], above[0]) if below and above else others[:2]
    share = (position[target] - position[first]) / (position[second] - position[first])
    return magnitudes[:, first] * (1 - share) + magnitudes[:, second] * share


def regress(magnitudes: np.ndarray, target: int, is_training: np.ndarray) -> np.ndarray:
    """Predict one column, ``(N,)``, from the others by least squares on the training rows.

    Rows with NaN in the other columns give NaN; with too few training rows, all do.
    """
    others = np.delete(magnitudes, target, axis=1)
    design = np.column_stack([others, np.ones(len(others))])
    usable = is_training & np.isfinite(magnitudes).all(1)
    if usable.sum() < 2 * design.shape[1]:
        return np.full(len(magnitudes), np.nan)
    coefficients, *_ = np.linalg.lstsq(design[usable], magnitudes[usable, target], rcond=None)
    return design @ coefficients


def match_brightest(
    ra: np.ndarray, dec: np.ndarray, true_ra: np.ndarray, true_dec: np.ndarray, true_magnitude: np.ndarray
) -> np.ndarray:
    """Return the row of the brightest true source near each position, −1 for none: ``(N,)``.

    Positions are in degrees, ``(N,)``; those of true sources, and their magnitudes, are ``(M,)``.
    """
    from scipy.spatial import cKDTree

    here = np.nan_to_num(unit_vectors(ra, dec), nan=2.0)  # unknown positions are near none
    truth = np.nan_to_num(unit_vectors(true_ra, true_dec))
    near = cKDTree(truth).query_ball_point(here, np.radians(MATCH_RADIUS_ARCSEC / 3600))
    return np.array([rows[np.argmin(true_magnitude[rows])] if rows else -1 for rows in near], dtype=int)


def compare_magnitudes(predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Return number, bias and scatter of predicted minus measured magnitudes, with bootstrap errors.

    Without objects, bias, scatter and their errors are None.
    """
    delta = predicted - measured
    delta = delta[np.isfinite(delta)]
    names = ("bias_mag", "bias_mag_error", "scatter_mag", "scatter_mag_error")
    values: list[float | None] = [None] * len(names)
    if len(delta):
        resampled = np.random.default_rng(0).choice(delta, (NUM_RESAMPLES, len(delta)))
        statistics = (np.median, robust_scatter)
        values = [float(x) for f in statistics for x in (f(delta), np.std(f(resampled, axis=1)))]
    return {
        "num_objects": len(delta),
        **dict(zip(names, values, strict=True)),
        "num_beyond_0.5_mag": int((np.abs(delta) > 0.5).sum()),
    }


def model_error(
    predicted: np.ndarray, predicted_error: np.ndarray, measured: np.ndarray, measured_error: np.ndarray
) -> float | None:
    """Return the fraction of the predicted flux that must be added in quadrature to its error.

    The Laplace approximation accounts for noise but not for errors of the generator. The result is the
    smallest fraction for which half of the pulls lie within ±0.6745, as those of a standard normal do; any
    bias is thus included in the error. It is between 0 and `MAX_MODEL_ERROR`, or None with fewer than
    `MIN_CALIBRATION` objects. Aperture fluxes, ``(N,)``, are those of objects whose band was hidden; rows
    with NaN are ignored.
    """
    rows = np.isfinite(predicted + predicted_error + measured + measured_error)
    if rows.sum() < MIN_CALIBRATION:
        return None
    residual = np.abs(predicted - measured)[rows]
    noise = (predicted_error**2 + measured_error**2)[rows]
    flux2 = predicted[rows] ** 2

    def is_wide(fraction: float) -> bool:
        return bool(SIGMA_PER_MAD * np.median(residual / np.sqrt(noise + fraction**2 * flux2)) > 1)

    return smallest_wide_enough(is_wide, MAX_MODEL_ERROR)


def smallest_wide_enough(is_wide: Callable[[float], bool], high: float) -> float:
    """Return the smallest error up to `high` for which the pulls are not too wide, by bisection."""
    low = 0.0
    if not is_wide(low):
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if is_wide(middle) else (low, middle)
    return high


def compare_pulls(
    predicted: np.ndarray, predicted_error: np.ndarray, measured: np.ndarray, measured_error: np.ndarray
) -> dict[str, Any]:
    """Return number, median and width of the pulls of predicted fluxes; None without objects."""
    pull = (predicted - measured) / np.sqrt(predicted_error**2 + measured_error**2)
    pull = pull[np.isfinite(pull)]
    if not len(pull):
        return {"num_pulls": 0, "pull_median": None, "pull_width": None}
    return {
        "num_pulls": len(pull),
        "pull_median": float(np.median(pull)),
        "pull_width": float(robust_scatter(pull)),
    }
