"""Positions of galaxies, clustered with others of similar redshift.

Shapes: N galaxies. Lengths in pixels.
"""

import math

import numpy as np

CENTRES = 0.02  # fraction of galaxies that can host satellites
SATELLITES = 0.25  # fraction of galaxies that are satellites of another one
SLOPE = 0.8
"""The density of satellites falls as θ^−0.8, the slope of the angular correlation function of galaxies."""
REACH_ARCSEC = (1.0, 60.0)


def clustered_positions(
    redshift: np.ndarray, low: float, high: float, pixel_scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions: most uniformly, some around a galaxy of nearly the same redshift.

    Galaxies that would fall outside are wrapped to the other side, which conserves the density.

    Return x and y of each galaxy, in pixels; `low` and `high` are the borders of the square field, and
    `pixel_scale` is in arcsec.
    """
    number = len(redshift)
    x, y = rng.uniform(low, high, (2, number))
    u = rng.random(number)
    centres = np.flatnonzero(u < CENTRES)
    satellites = np.flatnonzero((u >= CENTRES) & (u < CENTRES + SATELLITES))
    # Their density on the sky falls as θ^−SLOPE. Drawn even without hosts, to keep the random stream aligned.
    share = rng.random(len(satellites))
    inner, outer = ((r / pixel_scale) ** (2 - SLOPE) for r in REACH_ARCSEC)
    distance = (inner + share * (outer - inner)) ** (1 / (2 - SLOPE))
    angle = rng.uniform(0, 2 * math.pi, len(satellites))
    if not centres.size:
        return x, y
    order = centres[np.argsort(redshift[centres], kind="stable")]
    at = np.searchsorted(redshift[order], redshift[satellites])
    before, after = order[np.maximum(at - 1, 0)], order[np.minimum(at, len(order) - 1)]
    nearer = np.abs(redshift[after] - redshift[satellites]) < np.abs(redshift[before] - redshift[satellites])
    host = np.where(nearer, after, before)
    side = high - low
    x[satellites] = low + (x[host] + distance * np.cos(angle) - low) % side
    y[satellites] = low + (y[host] + distance * np.sin(angle) - low) % side
    return x, y
