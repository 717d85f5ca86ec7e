"""Point sources: stars on the stellar locus, and quasars.

Shapes: N objects, B bands.
"""

import numpy as np
from scipy.integrate import cumulative_trapezoid

from deepfits.passbands import filter_centre
from deepfits.photometry import NJY_ZERO_POINT, flux_of_magnitude
from deepfits.sky.population import COUNT_FILTER, Table
from deepfits.sky.spectra import REDSHIFTS, quasar_grid

STARS_AT_20_5, STAR_SLOPE = 0.57, 0.055
"""Stars per square arcminute and magnitude at i = 20.5, and slope of log₁₀ of the counts per magnitude, for a
field at high galactic latitude: stars are about 30% of the objects at i = 20 to 21, and a few per cent at 25.
"""
BRIGHTEST_STAR, FAINTEST_STAR = 15.0, 27.0
BRIGHTEST_QUASAR, FAINTEST_QUASAR = 18.0, 25.0

_SDSS_CENTRES = np.log([3551.0, 4686.0, 6166.0, 7480.0, 8932.0])


def star_counts(limit: float) -> float:
    """Return the number of stars per square arcminute brighter than `limit`."""
    low, high = _star_law(limit)
    return float(STARS_AT_20_5 * (high - low) / (STAR_SLOPE * np.log(10)))


def _star_law(limit: float) -> tuple[float, float]:
    """Return the differential counts at the bright and the faint end, relative to those at i = 20.5."""
    low, high = (10 ** (STAR_SLOPE * (m - 20.5)) for m in (BRIGHTEST_STAR, min(limit, FAINTEST_STAR)))
    return low, high


def draw_stars(number: int, limit: float, filters: tuple[str, ...], rng: np.random.Generator) -> Table:
    """Draw stars brighter than `limit`: ``mag_count`` ``(N,)`` and ``flux`` ``(N, B)`` in nJy.

    On the stellar locus g−r is a function of r−i (Jurić et al. 2008, eq. 8); u−g and i−z are piecewise linear
    fits by eye to the medians of Covey et al. (2007). Magnitudes in other filters are interpolated in ln λ
    between the five SDSS bands, which reproduces the locus to about 0.05 mag.
    """
    u = rng.random(number)
    low, high = _star_law(limit)
    mag = 20.5 + np.log10(low + u * (high - low)) / STAR_SLOPE
    # Halo and disc stars near the turn-off, and M dwarfs, which dominate at faint magnitudes.
    share = np.clip(0.45 + 0.08 * (mag - 20), 0.3, 0.85)
    is_dwarf = rng.random(number) < share
    r_i = np.where(is_dwarf, rng.normal(1.15, 0.3, number), rng.normal(0.15, 0.07, number))
    r_i = np.clip(r_i, 0.02, 2.0)
    g_r = 1.39 * (1 - np.exp(-4.9 * r_i**3 - 2.45 * r_i**2 - 1.68 * r_i - 0.050))
    u_g = np.interp(g_r, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6], [0.9, 1.1, 1.5, 1.9, 2.2, 2.5, 2.6, 2.7])
    i_z = np.interp(r_i, [0.0, 0.3, 1.0, 1.5, 2.0], [-0.03, 0.16, 0.57, 0.85, 1.15])
    r = mag + r_i
    locus = np.stack([r + g_r + u_g, r + g_r, r, mag, mag - i_z], axis=1)
    locus += rng.normal(0, 0.03, locus.shape)
    magnitudes = np.stack([_at_filter(locus, name) for name in filters], axis=1)
    return {"mag_count": mag, "flux": flux_of_magnitude(magnitudes)}


def _at_filter(magnitudes: np.ndarray, name: str) -> np.ndarray:
    """Interpolate magnitudes in the SDSS bands, ``(N, 5)``, to the central wavelength of a filter."""
    position = np.interp(np.log(filter_centre(name)), _SDSS_CENTRES, np.arange(5.0))
    low = min(int(position), 3)
    part = position - low
    return magnitudes[:, low] * (1 - part) + magnitudes[:, low + 1] * part


def quasar_counts(limit: float) -> float:
    """Return the number of quasars per square arcminute brighter than `limit`, about 0.5% of all objects.

    The differential counts rise by 0.6 dex per magnitude to i = 20 and by 0.2 beyond, with 30 quasars per
    square degree brighter than 20 (after Richards et al. 2006).
    """
    return float(np.interp(min(limit, FAINTEST_QUASAR), *_quasar_law()))


def _quasar_law() -> tuple[np.ndarray, np.ndarray]:
    nodes = np.linspace(BRIGHTEST_QUASAR, FAINTEST_QUASAR, 200)
    differential = 10 ** (np.where(nodes < 20, 0.6, 0.2) * (nodes - 20))
    total = cumulative_trapezoid(differential, nodes, initial=0)
    return nodes, total * 30 / 3600 / np.interp(20.0, nodes, total)


def draw_quasars(number: int, limit: float, filters: tuple[str, ...], rng: np.random.Generator) -> Table:
    """Draw quasars brighter than `limit`: ``mag_count``, ``z_spec`` and ``flux`` ``(N, B)`` in nJy.

    They have the mean spectrum with a scatter of 0.3 in its slope, and redshifts around 1.7 with a tail
    beyond 4.
    """
    nodes, total = _quasar_law()
    top = np.interp(min(limit, FAINTEST_QUASAR), nodes, total)
    mag = np.interp(rng.uniform(0, top, number), total, nodes)
    redshift = np.clip(rng.gamma(4.0, 0.42, number), 0.15, 6.0)
    grid = quasar_grid((COUNT_FILTER, *filters))
    log_flux = np.stack([np.interp(redshift, REDSHIFTS, column) for column in grid.T], axis=1)
    centres = [filter_centre(name) for name in (COUNT_FILTER, *filters)]
    tilt = rng.normal(0, 0.3, number)[:, None] * np.log10(np.array(centres) / centres[0])
    log_flux = log_flux + tilt + rng.normal(0, 0.01, log_flux.shape)
    scale = 0.4 * (NJY_ZERO_POINT - mag) - log_flux[:, 0]
    return {"mag_count": mag, "z_spec": redshift, "flux": 10 ** (log_flux[:, 1:] + scale[:, None])}
