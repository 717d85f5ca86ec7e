"""Stars against galaxies, from half-light radii.

Shapes: N sources.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

# Scatter of the logarithm of the half-light radii of bright stars (undersampling, varying PSF).
SPREAD = 0.04
# The logarithm of a half-light radius is uncertain by about this over the signal-to-noise.
NOISE_FACTOR = 1.5
# Above this, stars and galaxies are told apart well enough to count the stars without help.
CLEAR_SNR = 60.0
# Least number of well-measured sources to look for stars among.
LEAST = 8
NUM_ROUNDS = 30  # of expectation and maximisation
# Least signal-to-noise, places and half-widths in the logarithm of the radius where a peak is looked for.
CUTS, HALF_WIDTHS = (30.0, 60.0, 150.0, 300.0, 600.0, 1200.0), (0.02, 0.03, 0.04)
PLACES = (-0.06, -0.04, -0.02, 0.0, 0.02)
# Standard errors from which on an excess is one of stars: galaxies alone reach 2.4 in all these.
LEAST_EXCESS = 3.0


def stellar_radius(radius: np.ndarray, snr: np.ndarray) -> float:
    """Find the stars' half-light radius: the first dense cluster of radii from the small end.

    Half-light radii and signal-to-noise of the total flux are ``(N,)``; sources above 30 are looked at. It
    is NaN when there are too few sources to tell.
    """
    good = np.isfinite(radius) & (radius > 0.3) & (snr > 30)
    if good.sum() < LEAST:
        return np.nan
    values = np.sort(np.log(radius[good]))
    width = 2 * SPREAD
    counts = np.searchsorted(values, values + width, side="right") - np.arange(len(values))
    dense = counts >= max(LEAST // 2, 0.4 * counts.max())
    first = int(np.argmax(dense))
    # From the first dense place on, the window that holds most within the next half-width is centred on them.
    near = slice(
        first, max(int(np.searchsorted(values, values[first] + 0.5 * width, side="right")), first + 1)
    )
    start = first + int(np.argmax(counts[near]))
    return float(np.exp(np.median(values[start : start + counts[start]])))


@dataclass(frozen=True, kw_only=True)
class Locus:
    """Where stars lie: within `half_width` in the logarithm of the half-light radius, above `least_snr`."""

    radius: float
    half_width: float
    least_snr: float


def stellar_peak(radius: np.ndarray, snr: np.ndarray, centre: float) -> Locus | None:
    """Find where stars stand out most: more sources of their half-light radius than of one beside it.

    Galaxies become more and more frequent from the smallest radius on; stars are a peak before that. The
    brighter the sources, the narrower the peak and the fewer the galaxies in it, so several limits of
    signal-to-noise and several widths are tried, at the centre and near it, where galaxies push it up.
    Radii and signal-to-noise are as in `stellar_radius`, and `centre` is what that found. It is None where
    no excess is beyond chance.
    """
    if not np.isfinite(centre):
        return None
    good = np.isfinite(radius) & (radius > 0)
    excess, snr = np.log(radius[good] / centre), snr[good]
    found, most = None, LEAST_EXCESS
    for cut, place, half in itertools.product(CUTS, PLACES, HALF_WIDTHS):
        edges = place + half * np.array([-3, -1, 1, 3])
        below, at, above = np.histogram(excess[snr > cut], edges)[0].tolist()
        beside = max(below, above)
        sureness = (at - beside) / np.sqrt(max(at + beside, 1))
        if sureness > most:
            most = sureness
            found = Locus(radius=float(centre * np.exp(place)), half_width=half, least_snr=cut)
    return found


def star_score(radius: np.ndarray, snr: np.ndarray, centre: float) -> np.ndarray:
    """Return the probability that each source is a star, from its half-light radius and its noise.

    Among sources of similar signal-to-noise, the logarithms of the radii are a mixture of stars (at `centre`)
    and galaxies (a Gaussian whose mean, width and share are fitted by expectation maximisation), both blurred
    by the noise. So where the noise cannot tell them apart, the score is the share of stars. Towards fainter
    sources that share may only fall, as it does on the sky: noise alone would otherwise make stars of all. A
    radius may be NaN, and so may the stars' own, `centre`, when unknown. It is ``(N,)`` in [0, 1]; 0.5 where
    nothing is known.
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
        # What is smaller than a star (noise, cosmic rays) is as compact as one, as far as this score goes.
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
