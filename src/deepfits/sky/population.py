"""The galaxy population: counts, types, redshifts, spectra, sizes and shapes.

Shapes: N objects, B bands. A population is a `Table`, a dictionary of columns of equal length.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np

from deepfits.config import Range, check, from_mapping, read_toml
from deepfits.passbands import filter_centre, load_filter
from deepfits.photometry import NJY_ZERO_POINT
from deepfits.sky.spectra import CWW, REST_BAND, ULTRAVIOLET, ColourGrid, colour_grid, draw_sequence

Table = dict[str, np.ndarray]

COUNT_FILTER = "hsc2017-i2"  # number counts are defined in this band, whatever bands a survey has
COUNTS_AT_25 = 46.0  # galaxies per square arcminute brighter than i = 25 (LSST Science Book 2009, eq. 3.7)
FAINT_SLOPE, BRIGHT_SLOPE, BREAK_MAG = 0.31, 0.50, 20.5
"""Slopes of log₁₀ of the counts per magnitude, and the i magnitude at which they change; bright counts are
nearly Euclidean."""
BRIGHTEST = 15.0
FAINTEST_EVOLUTION = 26.0
MAX_DRAWN_REDSHIFT = 6.5
BRIGHTEST_ABSOLUTE, BRIGHTENING, BRIGHTENING_ENDS = -24.3, 1.0, 1.5
"""Absolute rest-frame r magnitude of the brightest galaxies at redshift 0, its brightening per unit redshift
(Lin et al. 1999), and the redshift beyond which it is constant. Objects in the tails of the redshift law that
would be brighter are drawn again."""
REDSHIFT_SCALE = 1.15
"""Factor on the redshift law that compensates for the tail removed by these limits, so that the median
redshifts agree with the LSST Science Book (2009, eqs. 3.8 and 3.9)."""
MAX_REDRAWS = 40

OPTICAL_ABOVE, ULTRAVIOLET_BELOW = 5000.0, 2000.0
"""Rest wavelengths, Å, between which the scatter about the templates changes from its ultraviolet to its
optical value."""

EARLY, SPIRAL, IRREGULAR = 0, 1, 2

_Constant = Annotated[float, Range(ge=0, le=10)]


@dataclass(frozen=True, kw_only=True)
class PopulationLaws:
    """The free parameters of the population model."""

    smooth_scatter: _Constant = 0.11
    """Standard deviation, in magnitudes, of smooth deviations of each galaxy's spectrum from its template,
    above `OPTICAL_ABOVE` in the rest frame."""
    ultraviolet_scatter: _Constant = 0.06
    """The same below `ULTRAVIOLET_BELOW`."""
    smooth_length: Annotated[float, Range(ge=0.02, le=10)] = 0.15
    """Correlation length of these deviations in ln λ."""
    oddity: _Constant = 0.5
    """Standard deviation of the ln of a galaxy's amplitude of these smooth deviations."""
    calibration_scatter: _Constant = 0.02
    """Standard deviation of an independent deviation in each band, magnitudes."""
    dust_early: _Constant = 0.03
    """Mean of the exponential distribution of E(B−V), for early types."""
    dust_late: _Constant = 0.12
    """The same for other types."""
    early_share: _Constant = 1.0
    """Factor on the fraction of early types of Benítez (2000)."""
    spiral_share: _Constant = 1.0
    """The same for spirals."""
    redshift_scale: Annotated[float, Range(gt=0, le=10)] = 1.0
    """Factor on the redshifts of that paper: above 1, galaxies of a given magnitude are more distant."""
    template_offset: Annotated[float, Range(ge=-10, le=10)] = 0.0
    """Offset of the position in the template sequence; positive is bluer."""
    line_strength: _Constant = 0.0
    """Mean strength of additional emission lines in spirals and irregulars, relative to the equivalent widths
    of `LINES`; it scatters by a factor of 2."""
    common_scatter: _Constant = 0.0
    """Standard deviation, in magnitudes, of a smooth deviation from the templates common to all galaxies of a
    type, i.e. of errors of the templates."""
    passband_shift: _Constant = 0.0
    """Standard deviation of the relative wavelength shift of each passband, common to all galaxies of a
    draw."""
    zero_point_scatter: _Constant = 0.0
    """Standard deviation of the zero point of each band, in magnitudes, common to all galaxies of a draw."""
    ultraviolet_limit: Annotated[float, Range(ge=-40, le=-10)] = -21.2
    """Absolute magnitude at 2300 Å (GALEX NUV), corresponding to a luminosity L_limit, of an exponential
    cut-off: galaxies are kept with probability exp(−L/L_limit), as in Schechter (1976)."""
    templates: tuple[str, ...] = CWW
    """Six spectra from red to blue, from `deepfits.sky.spectra.galaxy_templates`."""

    def __post_init__(self) -> None:
        check(self, where="population")

    @classmethod
    def randomised(
        cls,
        rng: np.random.Generator,
        *,
        templates: Literal["all", "recent", "cww"] = "all",
        narrow: bool = False,
    ) -> Self:
        """Draw plausible laws at random, so that a model trained on many draws does not rely on any one.

        The templates are drawn from all libraries or all but `CWW` (``"recent"``), or are those of `CWW`,
        with a larger common scatter and zero-point scatter. With `narrow`, galaxies are closer to their
        templates, and common scatter and zero-point scatter are smaller.
        """
        of_cww = templates == "cww"
        laws = cls(
            smooth_scatter=rng.uniform(0.05, 0.13),
            ultraviolet_scatter=rng.uniform(0.04, 0.12),
            smooth_length=rng.uniform(0.12, 0.3),
            oddity=rng.uniform(0.3, 0.7),
            calibration_scatter=rng.uniform(0.005, 0.03),
            dust_early=rng.uniform(0.01, 0.06),
            dust_late=rng.uniform(0.06, 0.2),
            early_share=rng.uniform(0.6, 1.4),
            spiral_share=rng.uniform(0.6, 1.3),
            redshift_scale=rng.uniform(0.85, 1.25),
            template_offset=rng.normal(0, 0.1),
            line_strength=rng.uniform(0, 1),
            common_scatter=rng.uniform(0, 0.08 if of_cww else 0.05),
            passband_shift=0.003,
            zero_point_scatter=0.04 if of_cww else 0.025,
            templates=CWW if of_cww else draw_sequence(rng, recent=templates == "recent"),
            ultraviolet_limit=rng.uniform(-21.6, -20.8),
        )
        if not narrow:
            return laws
        return replace(
            laws,
            smooth_scatter=rng.uniform(0.04, 0.08),
            ultraviolet_scatter=rng.uniform(0.04, 0.08),
            calibration_scatter=rng.uniform(0.005, 0.015),
            common_scatter=rng.uniform(0, 0.02),
            zero_point_scatter=0.015,
            oddity=rng.uniform(0.2, 0.5),
        )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the laws from a TOML file with the same keys; missing keys have their defaults."""
        return from_mapping(cls, read_toml(path, what="population"), where=path)


LINES = ((3728.0, 40.0), (4861.0, 15.0), (4996.0, 60.0), (6563.0, 80.0))
"""Emission lines ([O II], Hβ, [O III] 4959 and 5007 Å combined, Hα): rest wavelength and equivalent width, Å,
for an irregular galaxy with a line strength of 1; a spiral has a third of that."""
LINE_SCATTER = 0.7  # standard deviation of ln of the line strength between galaxies


DEFAULT_LAWS = PopulationLaws()


def cumulative_counts(mag: np.ndarray | float) -> np.ndarray:
    """Return the number of galaxies per square arcminute brighter than an i magnitude."""
    mag = np.asarray(mag, dtype=float)
    at_break = COUNTS_AT_25 * 10 ** (FAINT_SLOPE * (BREAK_MAG - 25))
    # The differential counts are continuous at the break, hence the ratio of the slopes.
    ratio = FAINT_SLOPE / BRIGHT_SLOPE
    bright = at_break * ratio * 10 ** (BRIGHT_SLOPE * (mag - BREAK_MAG))
    faint = at_break * (10 ** (FAINT_SLOPE * (mag - BREAK_MAG)) - 1 + ratio)
    return np.where(mag < BREAK_MAG, bright, faint)


def draw_magnitudes(number: int, limit: float, rng: np.random.Generator) -> np.ndarray:
    """Draw i magnitudes between `BRIGHTEST` and `limit` from the counts, ``(N,)``."""
    nodes = np.linspace(BRIGHTEST, limit, 2000)
    counts = cumulative_counts(nodes)
    return np.interp(rng.uniform(counts[0], counts[-1], number), counts, nodes)


def draw_types(mag: np.ndarray, rng: np.random.Generator, laws: PopulationLaws = DEFAULT_LAWS) -> np.ndarray:
    """Draw the types `EARLY`, `SPIRAL` or `IRREGULAR` (Benítez 2000, eq. 23), ``(N,)`` int."""
    depth = np.maximum(mag - 20, 0)
    early = laws.early_share * 0.35 * np.exp(-0.45 * depth)
    spiral = laws.spiral_share * 0.50 * np.exp(-0.147 * depth)
    u = rng.random(len(mag))
    return np.where(u < early, EARLY, np.where(u < early + spiral, SPIRAL, IRREGULAR))


def draw_redshifts(
    mag: np.ndarray, kind: np.ndarray, rng: np.random.Generator, laws: PopulationLaws = DEFAULT_LAWS
) -> np.ndarray:
    """Draw redshifts: p(z) ∝ z^α exp(−(z/z_m)^α) with z_m = z_o + k_m (m − 20) (Benítez 2000, eq. 24).

    Brighter than m = 20, where that relation ends, z_m scales as the distance of a standard candle. Fainter
    than m = 26 it is constant, because the relation was fitted to brighter galaxies and would grow without
    limit.
    """
    alpha = np.array([2.465, 1.806, 0.906])[kind]
    z_o = np.array([0.431, 0.390, 0.0626])[kind]
    k_m = np.array([0.0913, 0.0636, 0.123])[kind]
    candle = 10 ** (0.2 * np.minimum(mag - 20, 0))
    scale = (z_o + k_m * np.clip(mag - 20, 0, FAINTEST_EVOLUTION - 20)) * candle
    redshift = laws.redshift_scale * scale * rng.gamma((alpha + 1) / alpha) ** (1 / alpha)
    return np.maximum(redshift, 0.003)


def draw_templates(kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the position in the template sequence, ``(N,)``, from 0 for E to 5 for the bluest.

    The ranges are chosen so that colours to i = 22.5 match those of zCOSMOS-bright galaxies.
    """
    number = len(kind)
    early = np.abs(rng.normal(0.0, 0.3, number))
    return np.choose(kind, [early, rng.uniform(0.8, 3.0, number), rng.uniform(2.4, 5.0, number)])


@lru_cache(maxsize=1)
def _distances() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return redshifts, distance moduli, and kpc per arcsecond (flat, H₀ = 70, Ω_m = 0.3)."""
    from astropy.cosmology import FlatLambdaCDM

    model = FlatLambdaCDM(H0=70, Om0=0.3)
    redshift = np.concatenate([np.geomspace(1e-3, 0.1, 200), np.linspace(0.101, 8, 800)])
    modulus = np.asarray(model.distmod(redshift).value)
    scale = np.asarray(model.kpc_proper_per_arcmin(redshift).value) / 60
    return redshift, modulus, scale


def absolute_magnitudes(
    mag: np.ndarray,
    redshift: np.ndarray,
    template: np.ndarray,
    dust: np.ndarray,
    templates: tuple[str, ...] = CWW,
) -> np.ndarray:
    """Return absolute rest-frame r magnitudes, ``(N,)``, from observed i magnitudes."""
    grid = colour_grid((COUNT_FILTER,), templates)
    nodes, modulus, _ = _distances()
    stretch = -2.5 * (grid.at(template, dust, redshift)[:, 0] - grid.rest_at(template, dust, REST_BAND))
    return mag - np.interp(redshift, nodes, modulus) - stretch - 2.5 * np.log10(1 + redshift)


def draw_radii(
    kind: np.ndarray, absolute: np.ndarray, redshift: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw half-light radii in arcseconds (Shen et al. 2003, eqs. 14, 15 and 18, with evolution).

    Sizes shrink with redshift as (1+z)^−0.75 for late and (1+z)^−1.48 for early types (van der Wel et al.
    2014).
    """
    excess = 10 ** (-0.4 * (absolute + 20.52))
    late = (
        -0.4 * 0.21 * absolute + (0.53 - 0.21) * np.log10(1 + excess) - 1.31 - 0.75 * np.log10(1 + redshift)
    )
    early = -0.24 * absolute - 4.63 - 1.48 * np.log10(1 + redshift)
    # The relation for early types holds for giants; dwarfs of all types follow that for late types.
    early = np.where(absolute > -19.0, np.maximum(early, late - 0.3), early)
    log_kpc = np.where(kind == EARLY, early, late)
    scatter = 0.25 + 0.23 / (1 + excess)
    log_kpc = log_kpc + scatter / math.log(10) * rng.normal(size=len(kind))
    nodes, _, kpc_per_arcsec = _distances()
    return np.clip(10**log_kpc / np.interp(redshift, nodes, kpc_per_arcsec), 0.03, 15.0)


def draw_ratios(dispersion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw axis ratios q, ``(N,)``, from an ellipticity (1−q²)/(1+q²) with two normal components.

    The modulus of the ellipticity has the given root mean square, and is at most 0.9.
    """
    number = len(dispersion)
    ellipticity = np.hypot(rng.normal(size=number), rng.normal(size=number)) * dispersion / math.sqrt(2)
    ellipticity = np.minimum(ellipticity, 0.9)
    return np.sqrt((1 - ellipticity) / (1 + ellipticity))


def draw_galaxies(
    number: int,
    limit: float,
    filters: tuple[str, ...],
    rng: np.random.Generator,
    laws: PopulationLaws | None = None,
) -> Table:
    """Draw galaxies with i magnitudes down to `limit`, with all properties except positions.

    Columns are ``mag_count`` (i), ``type``, ``z_spec``, ``template``, ``ebv``, ``mag_absolute_r``, ``flux``
    and ``bulge_flux``, ``(N, B)`` nJy in the given filters, and those of `draw_structure`.
    """
    laws = laws or DEFAULT_LAWS
    mag = draw_magnitudes(number, limit, rng)
    table = {"mag_count": mag, **_draw_physical(mag, rng, laws)}
    grid = colour_grid((COUNT_FILTER, *filters), laws.templates)
    log_flux = grid.at(table["template"], table["ebv"], table["z_spec"])
    scale = 0.4 * (NJY_ZERO_POINT - mag) - log_flux[:, 0]
    deviation = draw_deviations(filters, table["z_spec"], laws, rng) + _systematics(filters, table, laws, rng)
    table["flux"] = 10 ** (log_flux[:, 1:] + scale[:, None] + 0.4 * deviation)
    table |= draw_structure(table, rng)
    table["bulge_flux"] = bulge_fluxes(table, grid)
    return table


def _draw_physical(mag: np.ndarray, rng: np.random.Generator, laws: PopulationLaws) -> Table:
    """Draw type, redshift, template, dust and absolute magnitude, excluding implausible combinations."""
    names = ("z_spec", "template", "ebv", "mag_absolute_r")
    out = {"type": np.zeros(len(mag), dtype=int), **{name: np.zeros(len(mag)) for name in names}}
    redraw, grid = np.arange(len(mag)), colour_grid((COUNT_FILTER,), laws.templates)
    for _ in range(MAX_REDRAWS):
        m = mag[redraw]
        k = draw_types(m, rng, laws)
        z = REDSHIFT_SCALE * draw_redshifts(m, k, rng, laws)
        t = np.clip(draw_templates(k, rng) + laws.template_offset, 0.0, 5.0)
        e = np.minimum(rng.exponential(np.where(k == EARLY, laws.dust_early, laws.dust_late)), 1.0)
        a = absolute_magnitudes(m, z, t, e, laws.templates)
        for column, values in zip(out.values(), (k, z, t, e, a), strict=True):
            column[redraw] = values
        is_excluded = (a < brightest_absolute(z)) | (z > MAX_DRAWN_REDSHIFT)
        ultraviolet = a - 2.5 * (grid.rest_at(t, e, ULTRAVIOLET) - grid.rest_at(t, e, REST_BAND))
        luminosity = 10 ** (-0.4 * (ultraviolet - laws.ultraviolet_limit))
        is_excluded |= rng.random(len(m)) > np.exp(-luminosity)
        redraw = redraw[is_excluded]
        if not redraw.size:
            break
    out["z_spec"] = np.minimum(out["z_spec"], MAX_DRAWN_REDSHIFT)
    return out


def brightest_absolute(redshift: np.ndarray) -> np.ndarray:
    """Return the absolute r magnitude of the brightest galaxies at a redshift."""
    return BRIGHTEST_ABSOLUTE - BRIGHTENING * np.minimum(redshift, BRIGHTENING_ENDS)


def draw_deviations(
    filters: tuple[str, ...], redshift: np.ndarray, laws: PopulationLaws, rng: np.random.Generator
) -> np.ndarray:
    """Draw the deviations of each galaxy from its template, ``(N, B)`` magnitudes; positive is brighter.

    They are the sum of a smooth random function of rest wavelength, evaluated in the bands at the galaxy's
    redshift, and an independent deviation in each band. The former is smaller in the ultraviolet, where dust
    and hydrogen already introduce scatter.
    """
    nodes = np.arange(math.log(600.0), math.log(12_000.0), 0.5 * laws.smooth_length)
    amplitude = np.interp(
        nodes, np.log([ULTRAVIOLET_BELOW, OPTICAL_ABOVE]), [laws.ultraviolet_scatter, laws.smooth_scatter]
    )
    distance = np.subtract.outer(nodes, nodes) / laws.smooth_length
    covariance = np.exp(-0.5 * distance**2) + 1e-8 * np.eye(len(nodes))
    curves = rng.normal(size=(len(redshift), len(nodes))) @ np.linalg.cholesky(covariance).T * amplitude
    # The amplitude varies between galaxies: log-normal with root mean square 1.
    oddity = np.exp(laws.oddity * rng.normal(size=len(redshift)) - laws.oddity**2)
    curves *= oddity[:, None]
    out = laws.calibration_scatter * rng.normal(size=(len(redshift), len(filters)))
    row = np.arange(len(redshift))

    def in_filter(name: str) -> np.ndarray:
        at = (math.log(filter_centre(name)) - np.log1p(redshift) - nodes[0]) / (nodes[1] - nodes[0])
        low = np.clip(at.astype(int), 0, len(nodes) - 2)
        part = np.clip(at - low, 0, 1)
        return np.asarray(curves[row, low] * (1 - part) + curves[row, low + 1] * part)

    # The magnitude in the band of the counts is kept; only colours change.
    out -= in_filter(COUNT_FILTER)[:, None]
    for band, name in enumerate(filters):
        out[:, band] += in_filter(name)
    return out


def _systematics(
    filters: tuple[str, ...], table: Table, laws: PopulationLaws, rng: np.random.Generator
) -> np.ndarray:
    """Draw systematic errors common to all galaxies of a draw, and emission lines: ``(N, B)`` magnitudes.

    Positive is brighter. As in `draw_deviations`, ``mag_count`` is not affected. Parameters that are 0
    consume no random numbers.
    """
    kind, template, dust, redshift = (table[name] for name in ("type", "template", "ebv", "z_spec"))
    out = np.zeros((len(redshift), len(filters)))
    names = (COUNT_FILTER, *filters)
    if laws.common_scatter:
        nodes = np.linspace(math.log(900.0), math.log(11_000.0), 10)
        curves = laws.common_scatter * rng.normal(size=(3, len(nodes)))
        magnitudes = np.empty((len(redshift), len(names)))
        for band, name in enumerate(names):
            at = math.log(filter_centre(name)) - np.log1p(redshift)
            each = np.stack([np.interp(at, nodes, curve) for curve in curves])
            magnitudes[:, band] = each[kind, np.arange(len(kind))]
        out += magnitudes[:, 1:] - magnitudes[:, :1]
    if laws.passband_shift:
        shift = laws.passband_shift * rng.normal(size=len(filters))
        grid, step = colour_grid(names, laws.templates), 0.01
        # A passband shifted to the red is equivalent to a galaxy at a slightly lower redshift.
        slope = (
            grid.at(template, dust, np.maximum((1 + redshift) * (1 - step) - 1, 0.0))
            - grid.at(template, dust, redshift)
        )[:, 1:] / step
        out += 2.5 * np.clip(slope, -4, 4) * shift
    if laws.zero_point_scatter:
        out += laws.zero_point_scatter * rng.normal(size=len(filters))
    if laws.line_strength:
        strength = laws.line_strength * np.array([0.0, 1 / 3, 1.0])[kind]
        strength = strength * np.exp(LINE_SCATTER * rng.normal(size=len(kind)) - LINE_SCATTER**2 / 2)
        gain = np.ones((len(redshift), len(names)))
        for band, name in enumerate(names):
            wavelength, response = load_filter(name)
            width = response.sum() * (wavelength[1] - wavelength[0])
            for line, equivalent in LINES:
                share = np.interp(line * (1 + redshift), wavelength, response, left=0.0, right=0.0) / width
                gain[:, band] += strength * equivalent * (1 + redshift) * share
        magnitudes = 2.5 * np.log10(gain)
        out += magnitudes[:, 1:] - magnitudes[:, :1]
    return out


def draw_structure(table: Table, rng: np.random.Generator) -> Table:
    """Draw sizes and shapes of galaxies from their ``type``, ``mag_absolute_r`` and ``z_spec``.

    Columns are ``half_light_radius_arcsec`` of the whole galaxy, ``disc_radius_arcsec`` and
    ``bulge_radius_arcsec`` along the major axis, ``bulge_fraction`` in i, ``disc_ratio`` and ``bulge_ratio``
    (minor over major axis), and ``angle`` (radians).
    """
    kind = table["type"]
    number = len(kind)
    radius = draw_radii(kind, table["mag_absolute_r"], table["z_spec"], rng)
    u = rng.random(number)
    fraction = np.choose(kind, [0.5 + 0.3 * u, 0.1 + 0.2 * u, 0.0 * u])
    disc_ratio = draw_ratios(np.where(kind == EARLY, 0.2, 0.46), rng)
    # A bulge has about a third of the galaxy's radius if there is a disc, and most of it in early types.
    bulge = radius * np.where(kind == EARLY, 0.8, 0.35)
    disc = radius * np.choose(kind, [1.5, 1.15, 1.0])
    ellipticity = 0.4 * (1 - disc_ratio**2) / (1 + disc_ratio**2)  # bulges are rounder
    return {
        "half_light_radius_arcsec": radius,
        "disc_radius_arcsec": disc / np.sqrt(disc_ratio),
        "bulge_radius_arcsec": bulge,
        "bulge_fraction": fraction,
        "disc_ratio": disc_ratio,
        "bulge_ratio": np.sqrt((1 - ellipticity) / (1 + ellipticity)),
        "angle": rng.uniform(0, math.pi, number),
    }


def bulge_fluxes(table: Table, grid: ColourGrid) -> np.ndarray:
    """Return bulge fluxes with the colours of an old population, ``(N, B)`` nJy; the disc has the rest.

    The table needs ``template``, ``ebv``, ``z_spec``, ``mag_count``, ``bulge_fraction`` and ``flux``; the
    grid is that of `COUNT_FILTER`, followed by the filters of the bands.
    """
    old = np.minimum(table["template"], 0.15)
    log_flux = grid.at(old, np.minimum(table["ebv"], 0.1), table["z_spec"])
    scale = 0.4 * (NJY_ZERO_POINT - table["mag_count"]) - log_flux[:, 0]
    bulge = table["bulge_fraction"][:, None] * 10 ** (log_flux[:, 1:] + scale[:, None])
    return np.minimum(bulge, 0.9 * table["flux"])
