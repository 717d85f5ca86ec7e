"""Correction of a hidden band for systematic errors of the generator, measured where the band is known.

Shapes: N objects, B bands, K terms.

A generator predicts a band from galaxies that match the other bands. What it gets wrong about their colours
is the same for similar galaxies, so it can be measured on objects that have the band, hidden for the purpose,
and corrected. The magnitude difference is a quadratic function of the model's magnitude and colours, and a
linear one of the residuals of the fit in the other bands. The generator is not trained again.

Magnitudes are asinh magnitudes, which are defined for negative fluxes too; their zero point cancels.
"""

from dataclasses import dataclass

import numpy as np

from deepfits.config import Stored
from deepfits.photometry import POGSON, asinh_magnitude

MIN_PER_TERM = 8  # minimum objects per term, else there are no quadratic terms, or no correction at all
LIMIT_MAG = 5.0  # larger than the errors of a generator in a band whose real colours it has not learnt
RANGE = (0.5, 99.5)  # percentiles of the training objects to which the linear terms are clipped
RIDGE = 1e-3
FLOOR_MAG = 0.1  # added in quadrature to the noise of each magnitude, to limit the weight of bright objects
HUBER = 1.5  # standard deviations beyond which the loss of a residual is linear
ITERATIONS, NUM_FOLDS = 10, 5


@dataclass(frozen=True, kw_only=True)
class Correction(Stored):
    """The magnitude difference between a hidden band and its prediction by the generator."""

    hidden: tuple[int, ...]  # indices of the bands that were hidden together
    softening: tuple[float, ...]  # B softenings of the asinh magnitudes, nJy
    low: tuple[float, ...]  # range to which the linear terms are clipped
    high: tuple[float, ...]
    # K coefficients: of 1, of the linear terms, and, if there were enough objects, of products of two of
    # the model's magnitude and colours.
    coefficients: tuple[float, ...]

    def magnitude(self, drawn: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return the correction to add to the model magnitude, ``(N,)``.

        Model and measured aperture fluxes are ``(N, B)``, nJy; measured ones may be NaN, and those of hidden
        bands are not used.
        """
        linear = _linear_terms(drawn, measured, self.hidden, np.array(self.softening))
        linear = np.clip(linear, self.low, self.high)
        terms = _terms(linear, drawn.shape[1], len(self.coefficients) > 1 + linear.shape[1])
        added = np.clip(terms @ np.array(self.coefficients), -LIMIT_MAG, LIMIT_MAG)
        return np.where(np.isfinite(added), added, 0.0)

    def factor(self, drawn: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return the factor by which to multiply the model flux, ``(N,)``."""
        return 10 ** (-0.4 * self.magnitude(drawn, measured))


def learn_correction(
    drawn: np.ndarray, measured: np.ndarray, measured_err: np.ndarray, hidden: tuple[int, ...], band: int
) -> Correction | None:
    """Fit the correction of a hidden band by robust weighted least squares; None with too few objects.

    `drawn` are model aperture fluxes from best fits without the `hidden` bands, and `measured` those measured
    on the images, NaN where there are none: ``(N, B)`` nJy.
    """
    softening = np.array([_softening(*columns) for columns in zip(measured.T, measured_err.T, strict=True)])
    linear = _linear_terms(drawn, measured, hidden, softening)
    soft, flux = softening[band], drawn[:, band]
    target = asinh_magnitude(measured[:, band], soft, 0.0) - asinh_magnitude(flux, soft, 0.0)
    noise = POGSON * measured_err[:, band] / np.sqrt(flux**2 + 4 * soft**2)
    usable = np.isfinite(target + noise) & np.isfinite(linear).all(1)
    if usable.sum() < MIN_PER_TERM * (1 + linear.shape[1]):
        return None
    low, high = np.percentile(linear[usable], RANGE, axis=0)
    linear = np.clip(linear[usable], low, high)
    terms = _terms(linear, drawn.shape[1], True)
    if len(terms) < MIN_PER_TERM * terms.shape[1]:
        terms = _terms(linear, drawn.shape[1], False)
    coefficients = _robust_fit(terms, target[usable], 1 / (noise[usable] ** 2 + FLOOR_MAG**2))
    return Correction(
        hidden=tuple(hidden),
        softening=tuple(softening.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        coefficients=tuple(coefficients.tolist()),
    )


def cross_corrected(
    drawn: np.ndarray, measured: np.ndarray, measured_err: np.ndarray, hidden: tuple[int, ...], band: int
) -> np.ndarray:
    """Return out-of-fold correction factors, ``(N,)``; 1 where no correction could be fitted."""
    out = np.ones(len(drawn))
    folds = np.arange(len(drawn)) % NUM_FOLDS
    for fold in range(NUM_FOLDS):
        inside = folds == fold
        fitted = learn_correction(drawn[~inside], measured[~inside], measured_err[~inside], hidden, band)
        if fitted is not None:
            out[inside] = fitted.factor(drawn[inside], measured[inside])
    return out


def _softening(measured: np.ndarray, measured_err: np.ndarray) -> float:
    """Return the median error of the objects that were measured; 1 without any."""
    known = measured_err[np.isfinite(measured) & (measured_err > 0)]
    return float(np.median(known)) if known.size else 1.0


def _linear_terms(
    drawn: np.ndarray, measured: np.ndarray, hidden: tuple[int, ...], softening: np.ndarray
) -> np.ndarray:
    """Return the model's mean magnitude and colours, and the residuals in the bands that were fitted."""
    shown = [band for band in range(drawn.shape[1]) if band not in hidden]
    magnitude = asinh_magnitude(drawn, softening, 0.0)
    residual = asinh_magnitude(measured[:, shown], softening[shown], 0.0) - magnitude[:, shown]
    residual = np.where(np.isfinite(residual), np.clip(residual, -1, 1), 0.0)
    return np.column_stack([magnitude[:, shown].mean(1), np.diff(magnitude, axis=1), residual])


def _terms(linear: np.ndarray, num_bands: int, quadratic: bool) -> np.ndarray:
    """Return the design matrix: 1, the linear terms, and products of the first B of these."""
    out = [np.ones((len(linear), 1)), linear]
    if quadratic:
        row, column = np.triu_indices(num_bands)
        out.append(linear[:, row] * linear[:, column])
    return np.hstack(out)


def _robust_fit(terms: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Minimise Huber's loss with a ridge penalty, by iteratively reweighted least squares.

    Terms are standardised for the penalty; the coefficients returned are for the original terms.
    """
    centre, std = terms.mean(0), terms.std(0)
    centre[0], std[0] = 0.0, 1.0
    std = np.where(std > 0, std, 1.0)
    design = (terms - centre) / std
    robust_weight = weight.copy()
    ridge = RIDGE * np.diag([0.0] + [1.0] * (design.shape[1] - 1))
    coefficients = np.zeros(design.shape[1])
    for _ in range(ITERATIONS):
        normal = design.T @ (design * robust_weight[:, None]) + robust_weight.sum() * ridge
        coefficients = np.linalg.solve(normal, design.T @ (robust_weight * target))
        residual = np.abs(target - design @ coefficients) * np.sqrt(weight)
        robust_weight = weight * np.minimum(1.0, HUBER / np.maximum(residual, 1e-12))
    out = coefficients / std
    out[0] -= (coefficients[1:] * centre[1:] / std[1:]).sum()
    return np.asarray(out)
