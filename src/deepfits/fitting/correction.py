"""What a generator gets systematically wrong about a hidden band, learnt where the band is known.

Shapes: N objects, B bands, K terms.

A generator fills in a band by what galaxies look like that fit the other bands. What it has not learnt about
their colours is the same for similar galaxies, so it can be measured on objects that have the band, hidden
for the purpose, and taken out: the difference in magnitude, as a quadratic function of the drawn galaxy's
magnitude and colours and a linear one of what the fit leaves over in the other bands. Nothing is trained
again.
Magnitudes are asinh magnitudes, which negative fluxes have too; their zero point drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepfits.config import Stored
from deepfits.photometry import POGSON, asinh_magnitude

MIN_PER_TERM = 8  # objects for each term: with fewer the quadratic terms are left out, then everything
LIMIT_MAG = 5.0  # more than a generator is off in a band whose real colours it has not learnt
RANGE = (0.5, 99.5)  # per cent of the objects learnt from; beyond these a term stays where it was
RIDGE = 1e-3
FLOOR_MAG = 0.1  # added to the noise of each magnitude: no object counts more than this allows
HUBER = 1.5  # residuals beyond so many standard deviations count by their size, not by its square
ITERATIONS, NUM_FOLDS = 10, 5


@dataclass(frozen=True, kw_only=True)
class Correction(Stored):
    """How much brighter than drawn a hidden band is.

    Attributes
    ----------
    hidden
        Places of the bands that were hidden together.
    softening
        ``B`` of them, nJy: of the asinh magnitudes.
    low, high
        Of the linear terms: values beyond are held there.
    coefficients
        ``K`` of them: 1, the linear terms, products of two of the drawn magnitude and colours if there were
        objects enough.
    """

    hidden: tuple[int, ...]
    softening: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    coefficients: tuple[float, ...]

    def magnitude(self, drawn: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return what has to be added to the drawn magnitude, ``(N,)``.

        Aperture fluxes drawn and measured are ``(N, B)``, nJy; measured ones may be NaN, and those of hidden
        bands are not read.
        """
        linear = _linear_terms(drawn, measured, self.hidden, np.array(self.softening))
        linear = np.clip(linear, self.low, self.high)
        terms = _terms(linear, drawn.shape[1], len(self.coefficients) > 1 + linear.shape[1])
        added = np.clip(terms @ np.array(self.coefficients), -LIMIT_MAG, LIMIT_MAG)
        return np.where(np.isfinite(added), added, 0.0)

    def factor(self, drawn: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return what the drawn flux has to be multiplied with, ``(N,)``."""
        return 10 ** (-0.4 * self.magnitude(drawn, measured))


def learn_correction(
    drawn: np.ndarray, measured: np.ndarray, measured_err: np.ndarray, hidden: tuple[int, ...], band: int
) -> Correction | None:
    """Learn how much brighter than drawn a band is, by robust weighted least squares.

    None with too few objects. Aperture fluxes, ``(N, B)`` nJy, are drawn by the best fits to the bands that
    were not hidden, and measured on the images, NaN where there are none; `hidden` are places of the bands
    that were hidden together.
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
    """Return factors, ``(N,)``, that no object's own measurement has gone into; 1 where none was learnt."""
    out = np.ones(len(drawn))
    folds = np.arange(len(drawn)) % NUM_FOLDS
    for fold in range(NUM_FOLDS):
        inside = folds == fold
        learnt = learn_correction(drawn[~inside], measured[~inside], measured_err[~inside], hidden, band)
        if learnt is not None:
            out[inside] = learnt.factor(drawn[inside], measured[inside])
    return out


def _softening(measured: np.ndarray, measured_err: np.ndarray) -> float:
    """Return the median error of the objects that were measured; 1 where there are none."""
    known = measured_err[np.isfinite(measured) & (measured_err > 0)]
    return float(np.median(known)) if known.size else 1.0


def _linear_terms(
    drawn: np.ndarray, measured: np.ndarray, hidden: tuple[int, ...], softening: np.ndarray
) -> np.ndarray:
    """Return magnitude and colours as drawn, then what the fit left over in the bands that it saw."""
    seen = [band for band in range(drawn.shape[1]) if band not in hidden]
    magnitude = asinh_magnitude(drawn, softening, 0.0)
    rest = asinh_magnitude(measured[:, seen], softening[seen], 0.0) - magnitude[:, seen]
    rest = np.where(np.isfinite(rest), np.clip(rest, -1, 1), 0.0)
    return np.column_stack([magnitude[:, seen].mean(1), np.diff(magnitude, axis=1), rest])


def _terms(linear: np.ndarray, num_bands: int, quadratic: bool) -> np.ndarray:
    """Return the design: 1, the linear terms, and products of magnitude and colours, the first B of these."""
    out = [np.ones((len(linear), 1)), linear]
    if quadratic:
        row, column = np.triu_indices(num_bands)
        out.append(linear[:, row] * linear[:, column])
    return np.hstack(out)


def _robust_fit(terms: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Minimise Huber's loss with a ridge, by iterated least squares in standardised terms."""
    centre, spread = terms.mean(0), terms.std(0)
    centre[0], spread[0] = 0.0, 1.0
    spread = np.where(spread > 0, spread, 1.0)
    design = (terms - centre) / spread
    used = weight.copy()
    ridge = RIDGE * np.diag([0.0] + [1.0] * (design.shape[1] - 1))
    coefficients = np.zeros(design.shape[1])
    for _ in range(ITERATIONS):
        normal = design.T @ (design * used[:, None]) + used.sum() * ridge
        coefficients = np.linalg.solve(normal, design.T @ (used * target))
        off = np.abs(target - design @ coefficients) * np.sqrt(weight)
        used = weight * np.minimum(1.0, HUBER / np.maximum(off, 1e-12))
    out = coefficients / spread
    out[0] -= (coefficients[1:] * centre[1:] / spread[1:]).sum()
    return np.asarray(out)
