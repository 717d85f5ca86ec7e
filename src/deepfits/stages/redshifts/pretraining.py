"""Examples for a head: galaxies of simulated skies, drawn, observed, detected and fitted as real ones are.

Shapes: N objects, B bands.

Fits are dear, galaxies are cheap. So some thousands are fitted, on skies of different populations, seeing,
depth and pixels; and many more are drawn from ever new populations and *grafted*: each takes over what image,
noise, neighbours and fit did to a fitted galaxy of nearly the same fluxes and size (its donor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from deepfits.errors import InputError
from deepfits.passbands import filter_centre
from deepfits.photometry import flux_of_magnitude, reference_band
from deepfits.redshifts.features import Source
from deepfits.redshifts.head import CLASSES, Examples
from deepfits.redshifts.scene_light import FLUXES, SceneLight
from deepfits.sky.points import draw_quasars, draw_stars, quasar_counts, star_counts
from deepfits.sky.population import BRIGHTEST, PopulationLaws, cumulative_counts, draw_galaxies
from deepfits.sky.surveys import SURVEYS, SkySurvey

FAINTEST = 25.5
"""i magnitude of what is taught at most; a survey less deep ends where it shows no more."""
BELOW_DEPTH = 0.7
MATCH_ARCSEC = 1.0
PER_POPULATION = 200
"""Objects drawn from one population: hundreds of populations, or their chances are learnt by heart."""
FILTERS = {
    "u": ("cfht_megacam-u", "cfht_megacam-ustar", "sdss2010-u", "lsst2023-u", "lsst2016-u", "decam2014-u"),
    "g": ("hsc2017-g", "sdss2010-g", "lsst2023-g", "decam2014-g", "cfht_megacam-g", "panstarrs-g", "BASS-g"),
    "r": ("hsc2017-r2", "sdss2010-r", "lsst2023-r", "decam2014-r", "cfht_megacam-r", "panstarrs-r", "BASS-r"),
    "i": (
        "hsc2017-i2",
        "hsc2017-i",
        "sdss2010-i",
        "lsst2023-i",
        "decam2014-i",
        "cfht_megacam-i",
        "panstarrs-i",
    ),
    "z": ("hsc2017-z", "sdss2010-z", "lsst2023-z", "decam2014-z", "cfht_megacam-z", "panstarrs-z", "MzLS-z"),
}
"""Filters of bands of these names, for a head that serves any survey: `speclite`'s names."""
NUM_DONORS = 6
FARTHEST_DONOR = 1.2
"""Distance of a donor in logarithms of fluxes, all bands together, and of the size."""
SIZE_SOFTENING_ARCSEC = 0.3
EXAMPLES = "examples.json"
"""Name of a fitted sky on disk, for `deepfits.redshifts.storage`."""
BRIGHT_SIGMA = 5.0
MAX_SIZE, MIN_SIZE = 2000, 500


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """One sky of the many that a head is taught on."""

    survey: SkySurvey
    laws: PopulationLaws
    size: int

    @property
    def reference(self) -> str:
        """The band that says how bright an object is: i, or what stands for it."""
        return reference_band(self.survey.names)

    @property
    def limit(self) -> float:
        """The faintest magnitude in that band that is taught here."""
        depth = self.survey.bands[self.survey.names.index(self.reference)].depth
        return float(np.clip(depth - BELOW_DEPTH, 19.0, FAINTEST))

    @property
    def filters(self) -> tuple[str, ...]:
        """Of its bands."""
        return tuple(band.filter for band in self.survey.bands)


def draw_pointing(
    surveys: Sequence[SkySurvey], number: int, objects: int, rng: np.random.Generator, narrowest: float
) -> Pointing:
    """Draw what a sky is like: a survey seen better or worse than it is, and a population.

    The surveys take turns by the pointing's number. It should hold about so many objects, galaxies, down to
    its limit; the model draws no PSF narrower, in arcsec, than the narrowest.
    """
    base = surveys[number % len(surveys)]
    seeing, deeper = rng.uniform(0.85, 1.5), rng.uniform(-1.5, 0.3)
    bands = tuple(
        replace(
            band,
            depth=float(band.depth + deeper + rng.normal(0, 0.2)),
            fwhm_arcsec=float(max(band.fwhm_arcsec * seeing * np.exp(rng.normal(0, 0.06)), narrowest)),
        )
        for band in base.bands
    )
    moffat_beta = float(rng.uniform(2.5, 4.5))
    survey = replace(base, name=f"{base.name}-{number}", bands=bands, moffat_beta=moffat_beta)
    pointing = Pointing(survey=survey, laws=PopulationLaws.randomised(rng), size=MIN_SIZE)
    area = objects / float(cumulative_counts(pointing.limit) - cumulative_counts(BRIGHTEST))
    side = np.sqrt(area) * 60 / survey.pixel_scale_arcsec
    return replace(pointing, size=int(np.clip(side, MIN_SIZE, MAX_SIZE)))


def draw_pointings(
    surveys: Sequence[SkySurvey], number: int, objects: int, seed: int, narrowest: float
) -> list[Pointing]:
    """Draw what several skies are like, each from its own random numbers; see `draw_pointing`."""
    return [
        draw_pointing(surveys, place, objects, np.random.default_rng((seed, place)), narrowest)
        for place in range(number)
    ]


def match_truth(
    columns: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], magnitude: np.ndarray
) -> np.ndarray:
    """Return for each detection the row of the true object that it shows, −1 for none: ``(N,)``.

    Of several within `MATCH_ARCSEC` the brightest by the true magnitudes, unless it is farther off.
    """
    shrink = np.cos(np.radians(np.mean(truth["dec"])))
    places = [np.stack([table["ra"] * shrink, table["dec"]], axis=1) * 3600 for table in (truth, columns)]
    tree = cKDTree(places[0])
    brightness = -0.4 * np.log(10) * magnitude
    out = np.full(len(places[1]), -1)
    found = tree.query_ball_point(places[1], MATCH_ARCSEC)
    for row, (place, near) in enumerate(zip(places[1], found, strict=True)):
        if near:
            distance = np.hypot(*(places[0][near] - place).T)
            out[row] = near[int(np.argmax(brightness[near] - (distance / 0.5) ** 2))]
    return out


@dataclass(frozen=True, kw_only=True)
class FittedSky:
    """Objects of one pointing with their truth.

    Of the N objects, true total fluxes, ``(N, B)`` nJy, and half-light radii, ``(N,)`` arcsec, 0 of points.
    """

    examples: Examples
    flux: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(
        cls,
        columns: Mapping[str, np.ndarray],
        truth: Mapping[str, np.ndarray],
        rows: np.ndarray,
        bands: Sequence[str],
    ) -> FittedSky:
        """Join features and the true objects, row by row; objects without a fit are left out."""
        light = SceneLight.of(Source(columns=dict(columns), bands=tuple(bands)), bands)
        kind = np.array([CLASSES.index(str(kind)) for kind in np.asarray(truth["kind"])[rows]])
        redshift = np.asarray(truth["z_spec"], dtype=float)[rows]
        keep = np.flatnonzero(np.isfinite(light.flux).any(axis=1) & np.isfinite(redshift))
        flux = np.stack(
            [flux_of_magnitude(np.asarray(truth[f"mag_{band}"], dtype=float)[rows]) for band in bands], axis=1
        )
        examples = Examples(light=light, redshift=redshift, kind=kind, weight=np.ones(len(rows)))
        return cls(
            examples=examples.take(keep),
            flux=flux[keep],
            radius=np.asarray(truth["half_light_radius_arcsec"], dtype=float)[rows][keep],
        )


def grafted(
    fitted: Sequence[FittedSky],
    pointings: Sequence[Pointing],
    number: int,
    rng: np.random.Generator,
    population: Callable[[np.random.Generator], PopulationLaws] = PopulationLaws.randomised,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> Examples:
    """Draw many objects, and let each be measured as its donor was.

    Every `PER_POPULATION` objects are of a population that is asked for anew, seen through the donor's
    filters, or through any of the `filters` of each band.
    """
    trees, noises = [], []
    for sky in fitted:
        noise = np.nanmedian(sky.examples.light.flux_err, axis=0)
        noise = np.where(np.isfinite(noise) & (noise > 0), noise, 1.0)
        noises.append(noise)
        trees.append(cKDTree(_place(sky.flux, sky.radius, noise)))
    parts: list[Examples] = []
    have, draws = 0, 0
    while have < number:
        which = draws % len(fitted)
        draws += 1
        if draws > 200 + 20 * number / PER_POPULATION:
            raise InputError("hardly any drawn object is like one that was fitted: fit more of them")
        laws = population(rng)
        pointing, sky = pointings[which], fitted[which]
        low, high = BRIGHTEST + 4.0, pointing.limit + 0.3
        limit = low + (high - low) * np.sqrt(rng.random())
        seen_through = pointing.filters
        if filters is not None:
            own = zip(pointing.survey.names, seen_through, strict=True)
            seen_through = tuple(str(rng.choice(filters.get(band, (name,)))) for band, name in own)
        flux, radius, redshift, kind = _draw(PER_POPULATION, limit, seen_through, laws, rng)
        distance, near = trees[which].query(_place(flux, radius, noises[which]), k=NUM_DONORS)
        pick = rng.integers(NUM_DONORS, size=len(near))
        rows = np.arange(len(near))
        donor, distance = near[rows, pick], distance[rows, pick]
        good = np.flatnonzero((distance < FARTHEST_DONOR) & (donor < len(sky.flux)))
        light = as_donor(sky.examples.light.take(donor[good]), sky.flux[donor[good]], flux[good])
        wavelength = np.array([filter_centre(name) for name in seen_through])
        light = replace(light, wavelength=np.where(light.is_valid, wavelength, np.nan))
        parts.append(
            Examples(light=light, redshift=redshift[good], kind=kind[good], weight=np.ones(len(good)))
        )
        have += len(good)
    return Examples.join(parts).take(np.arange(number))


def _place(flux: np.ndarray, radius: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return where objects lie among others: logarithms of fluxes above the noise, and of the size."""
    return np.column_stack([np.arcsinh(flux / (2 * noise)), np.log(radius + SIZE_SOFTENING_ARCSEC)])


def _draw(
    number: int, limit: float, filters: tuple[str, ...], laws: PopulationLaws, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw galaxies, stars and quasars as they occur: fluxes, radii, redshifts and kinds."""
    counts = np.array([float(cumulative_counts(limit)), star_counts(limit), quasar_counts(limit)])
    numbers = rng.multinomial(number, counts / counts.sum())
    galaxies = draw_galaxies(int(numbers[0]), limit, filters, rng, laws)
    stars = draw_stars(int(numbers[1]), limit, filters, rng)
    quasars = draw_quasars(int(numbers[2]), limit, filters, rng)
    flux = np.concatenate([table["flux"] for table in (galaxies, stars, quasars)])
    points = np.zeros(int(numbers[1:].sum()))
    radius = np.concatenate([galaxies["half_light_radius_arcsec"], points])
    redshift = np.concatenate([galaxies["z_spec"], np.zeros(numbers[1]), quasars["z_spec"]])
    return flux, radius, redshift, np.repeat(np.arange(3), numbers)


def as_donor(light: SceneLight, donor_flux: np.ndarray, flux: np.ndarray) -> SceneLight:
    """Return what would have been measured had the donors had other fluxes.

    In a band where the donor is bright, its measurement is scaled; where it is lost in the noise, the
    difference is added, times the share of the light that was measured.
    """

    def moved(measured: np.ndarray, error: np.ndarray) -> np.ndarray:
        is_known = np.isfinite(measured) & (error > 0)
        weight = 1 / np.where(is_known, error, np.inf) ** 2
        measured = np.where(weight > 0, measured, 0.0)
        share = (weight * measured * donor_flux).sum(1) / np.maximum((weight * donor_flux**2).sum(1), 1e-30)
        added = measured + np.clip(share, 0, 1.5)[:, None] * (flux - donor_flux)
        is_bright = donor_flux > BRIGHT_SIGMA * error
        out = np.where(is_bright, measured * flux / donor_flux, added)
        return np.where(weight > 0, out, np.nan)

    return replace(
        light, **{name: moved(getattr(light, name), getattr(light, f"{name}_err")) for name in FLUXES}
    )


def default_surveys() -> list[SkySurvey]:
    """Return the surveys that a head for any survey is taught on, the deep ones more often."""
    return [SURVEYS[name] for name in ("clauds-hsc", "rubin-like", "clauds-hsc", "sdss-like", "rubin-like")]
