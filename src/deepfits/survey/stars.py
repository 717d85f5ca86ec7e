"""Star–galaxy separation by half-light radius.

Shapes: N sources.
"""

import itertools
from dataclasses import dataclass

import numpy as np

SPREAD = 0.04  # scatter of the logarithm of the half-light radii of bright stars (undersampling, varying PSF)
# The error of the logarithm of a half-light radius is about this divided by the signal-to-noise.
NOISE_FACTOR = 1.5
CLEAR_SNR = 60.0  # above this signal-to-noise the radii alone determine the fraction of stars
LEAST = 8  # minimum number of well-measured sources for finding the stellar radius
# Half-light radius, pixels, below which a source is one hot pixel (0.40), not a star, however sharp the PSF.
ONE_PIXEL = 0.5
# Sources above this signal-to-noise that are smaller than this fraction of stars are no images of the sky.
SHARP, SHARP_SNR = 0.6, 15.0
NUM_ROUNDS = 30  # of expectation maximisation
# Grid of the search for the stellar peak: minimum signal-to-noise, half-width and offset in log radius.
CUTS, HALF_WIDTHS = (30.0, 60.0, 150.0, 300.0, 600.0, 1200.0), (0.02, 0.03, 0.04)
PLACES = (-0.06, -0.04, -0.02, 0.0, 0.02)
# Significance, in σ, above which an excess is due to stars; galaxies alone reach 2.4 over this grid.
LEAST_EXCESS = 3.0


def stellar_radius(radius: np.ndarray, snr: np.ndarray) -> float:
    """Find the half-light radius of stars: the first dense cluster of radii from the small end.

    Half-light radii and signal-to-noise of the total flux are ``(N,)``; only sources with signal-to-noise
    above 30 are used. Returns NaN if there are too few of them.
    """
    good = np.isfinite(radius) & (radius > ONE_PIXEL) & (snr > 30)
    if good.sum() < LEAST:
        return np.nan
    values = np.sort(np.log(radius[good]))
    width = 2 * SPREAD
    counts = np.searchsorted(values, values + width, side="right") - np.arange(len(values))
    dense = counts >= max(LEAST // 2, 0.4 * counts.max())
    first = int(np.argmax(dense))
    # Of the windows that start within half a width of the first dense one, use the fullest.
    end = int(np.searchsorted(values, values[first] + 0.5 * width, side="right"))
    start = first + int(np.argmax(counts[first : max(end, first + 1)]))
    return float(np.exp(np.median(values[start : start + counts[start]])))


def too_sharp(radius: np.ndarray, snr: np.ndarray, stellar: float) -> np.ndarray:
    """Return which sources are much smaller than stars, ``(N,)`` bool: hot pixels and cosmic rays.

    Half-light radii and signal-to-noise are ``(N,)``, and `stellar` is the radius of stars, NaN if unknown.
    """
    limit = ONE_PIXEL if np.isnan(stellar) else SHARP * stellar
    return np.asarray((radius < limit) & (snr > SHARP_SNR))


@dataclass(frozen=True, kw_only=True)
class Locus:
    """Stellar locus: log half-light radii within `half_width` of `radius`, for sources above `least_snr`."""

    radius: float
    half_width: float
    least_snr: float


def stellar_peak(radius: np.ndarray, snr: np.ndarray, centre: float) -> Locus | None:
    """Find the most significant stellar peak: an excess of sources over those at adjacent radii.

    The number of galaxies rises steadily from the smallest radii on, whereas stars form a peak before that
    rise. The brighter the sources, the narrower the peak and the fewer galaxies lie within it, so several
    limits of signal-to-noise and several widths are tried, at `centre` and around it, as galaxies bias it
    upwards. Radii and signal-to-noise are as for `stellar_radius`, which also gives `centre`. Returns None if
    no excess is significant.
    """
    if not np.isfinite(centre):
        return None
    good = np.isfinite(radius) & (radius > 0)
    excess, snr = np.log(radius[good] / centre), snr[good]
    locus, most = None, LEAST_EXCESS
    for cut, offset, half in itertools.product(CUTS, PLACES, HALF_WIDTHS):
        edges = offset + half * np.array([-3, -1, 1, 3])
        below, at, above = np.histogram(excess[snr > cut], edges)[0].tolist()
        beside = max(below, above)
        significance = (at - beside) / np.sqrt(max(at + beside, 1))
        if significance > most:
            most = significance
            locus = Locus(radius=float(centre * np.exp(offset)), half_width=half, least_snr=cut)
    return locus


def star_score(radius: np.ndarray, snr: np.ndarray, centre: float) -> np.ndarray:
    """Return the probability that each source is a star, from its half-light radius and signal-to-noise.

    Among sources of similar signal-to-noise, the log radii are modelled as a mixture of stars (at `centre`)
    and galaxies (a Gaussian whose mean, width and fraction are fitted by expectation maximisation), both
    broadened by the noise. Where the noise makes them indistinguishable, the score is thus the fraction of
    stars. Towards fainter sources this fraction may only decrease, as it does on the sky; otherwise noise
    alone could classify all of them as stars. Radii may be NaN, and so may `centre` if unknown. The score is
    ``(N,)`` in [0, 1], and 0.5 where nothing is known.
    """
    score = np.full(len(radius), 0.5)
    known = np.flatnonzero(np.isfinite(radius) & (radius > 0)) if np.isfinite(centre) else np.empty(0, int)
    if not known.size:
        return score
    excess = np.log(radius[known] / centre)
    noise = NOISE_FACTOR / np.maximum(snr[known], 1.0)
    groups = np.array_split(np.argsort(-snr[known], kind="stable"), max(1, min(10, len(known) // 100)))
    most = 0.98
    for group in groups:
        score[known[group]], share = _mixture(excess[group], noise[group], most)
        if np.median(snr[known[group]]) < CLEAR_SNR:
            most = share
    return score


def _mixture(excess: np.ndarray, noise: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    share, mean, width = min(0.3, most), 0.5, 0.4
    of_star = np.zeros_like(excess)
    for _ in range(NUM_ROUNDS):
        # Sources smaller than stars (noise, cosmic rays) are treated as being of a star's size.
        star = share * _gaussian(np.maximum(excess, 0), SPREAD**2 + noise**2)
        galaxy = (1 - share) * _gaussian(excess - mean, width**2 + noise**2)
        of_star = star / np.maximum(star + galaxy, 1e-300)
        total = max(float((1 - of_star).sum()), 1e-3)
        share = float(np.clip(of_star.mean(), 0.01, most))
        mean = float(np.clip(((1 - of_star) * excess).sum() / total, 0.15, 2.0))
        spread = ((1 - of_star) * (excess - mean) ** 2).sum() / total
        blur = ((1 - of_star) * noise**2).sum() / total
        width = float(np.sqrt(np.clip(spread - blur, 0.15**2, 1.0)))
    return of_star, share


def _gaussian(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x**2 / variance) / np.sqrt(variance)
