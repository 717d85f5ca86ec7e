"""Training examples for a head: simulated galaxies, observed, detected and fitted like real ones.

Shapes: N objects, B bands.

Fitting is expensive, drawing galaxies is cheap. Therefore some thousands of objects are fitted, on skies with
different populations, seeing, depth and pixel scales, and many more galaxies are drawn from other populations
and *grafted*: each takes over the effect of image, noise, neighbours and fit on the measurements of a fitted
galaxy with similar fluxes and size, its donor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

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
from deepfits.sky.surveys import SkySurvey, find_survey
from deepfits.splits import PerObject

FAINTEST = 25.5  # faintest i magnitude of training examples; shallower surveys end at their own limit
BELOW_DEPTH = 0.7  # the limit of a survey is brighter than its depth by this many magnitudes
MATCH_ARCSEC = 1.0
PER_POPULATION = 200
"""Objects drawn from each population; with fewer populations, the networks would memorise them."""
POPULATIONS: tuple[Callable[[np.random.Generator], PopulationLaws], ...] = (
    PopulationLaws.randomised,
    partial(PopulationLaws.randomised, templates="cww"),
    partial(PopulationLaws.randomised, templates="recent", narrow=True),
    partial(PopulationLaws.randomised, narrow=True),
)
"""The kinds of random populations; each network of a head is trained on one."""
FILTERS = {
    "u": ("cfht_megacam-u", "cfht_megacam-ustar", "sdss2010-u", "lsst2023-u", "lsst2016-u", "decam2014-u"),
    "g": ("hsc2017-g", "sdss2010-g", "lsst2023-g", "decam2014-g", "cfht_megacam-g", "panstarrs-g", "BASS-g"),
    "r": ("hsc2017-r2", "sdss2010-r", "lsst2023-r", "decam2014-r", "cfht_megacam-r", "panstarrs-r", "BASS-r"),
    "i": (
        "hsc2017-i2", "hsc2017-i", "sdss2010-i", "lsst2023-i", "decam2014-i", "cfht_megacam-i", "panstarrs-i",
    ),
    "z": ("hsc2017-z", "sdss2010-z", "lsst2023-z", "decam2014-z", "cfht_megacam-z", "panstarrs-z", "MzLS-z"),
}  # fmt: skip
"""Filters for each band name, by their names in `speclite`, for a head that works for any survey."""
NUM_DONORS = 6  # number of nearest fitted objects among which a donor is drawn
FARTHEST_DONOR = 1.2
"""Maximum distance of a donor in `_donor_coordinates`: logarithmic fluxes in all bands, and size."""
SIZE_SOFTENING_ARCSEC = 0.3
EXAMPLES = "examples.json"  # name of a fitted sky on disk, for `deepfits.redshifts.storage`
BRIGHT_SIGMA = 5.0  # signal-to-noise ratio above which a donor's measurement is scaled; see `as_donor`
MAX_SIZE, MIN_SIZE = 2000, 500  # side of a simulated sky, pixels


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """Properties of one of the simulated skies on which a head is trained; `size` in pixels."""

    survey: SkySurvey
    laws: PopulationLaws
    size: int

    @property
    def reference(self) -> str:
        """The band in which the magnitude limit is defined: i, or its substitute."""
        return reference_band(self.survey.names)

    @property
    def limit(self) -> float:
        """The faintest magnitude of training examples in the reference band."""
        depth = self.survey.bands[self.survey.names.index(self.reference)].depth
        return float(np.clip(depth - BELOW_DEPTH, 19.0, FAINTEST))

    @property
    def filters(self) -> tuple[str, ...]:
        """The filter of each band."""
        return tuple(band.filter for band in self.survey.bands)


def draw_pointing(
    surveys: Sequence[SkySurvey], number: int, objects: int, rng: np.random.Generator, narrowest: float
) -> Pointing:
    """Draw the properties of a sky: a survey with perturbed seeing and depth, and a galaxy population.

    `number` is that of the pointing, which selects the survey to perturb. The sky is sized for about as many
    `objects` to the magnitude limit; `narrowest` is the FWHM of the narrowest PSF that the model can draw,
    arcsec.
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
    """Draw the properties of several skies, each from its own random stream; see `draw_pointing`."""
    return [
        draw_pointing(surveys, place, objects, np.random.default_rng((seed, place)), narrowest)
        for place in range(number)
    ]


def match_truth(
    columns: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], magnitude: np.ndarray
) -> np.ndarray:
    """Return for each detection the row of the matching true object, ``(N,)``, −1 for none.

    Among several within `MATCH_ARCSEC`, brightness (from the true `magnitude`) is weighed against distance.
    """
    shrink = np.cos(np.radians(np.mean(truth["dec"])))
    places = [np.stack([table["ra"] * shrink, table["dec"]], axis=1) * 3600 for table in (truth, columns)]
    tree = cKDTree(places[0])
    brightness = -0.4 * np.log(10) * magnitude
    out = np.full(len(places[1]), -1)
    candidates = tree.query_ball_point(places[1], MATCH_ARCSEC)
    for row, (place, near) in enumerate(zip(places[1], candidates, strict=True)):
        if near:
            distance = np.hypot(*(places[0][near] - place).T)
            out[row] = near[int(np.argmax(brightness[near] - (distance / 0.5) ** 2))]
    return out


@dataclass(frozen=True, kw_only=True)
class FittedSky(PerObject):
    """Fitted objects of one pointing, with their true properties."""

    examples: Examples  # measurements, true redshifts and classes
    flux: np.ndarray  # true total fluxes, (N, B) nJy
    radius: np.ndarray  # true half-light radii, (N,) arcsec; 0 for point sources

    @classmethod
    def of(
        cls,
        columns: Mapping[str, np.ndarray],
        truth: Mapping[str, np.ndarray],
        rows: np.ndarray,
        bands: Sequence[str],
    ) -> Self:
        """Combine features with the `rows` of the truth table; objects without a fit are left out."""
        light = SceneLight.of(Source(columns=dict(columns), bands=tuple(bands)), bands)
        kind = np.array([CLASSES.index(str(kind)) for kind in np.asarray(truth["kind"])[rows]])
        redshift = np.asarray(truth["z_spec"], dtype=float)[rows]
        keep = np.flatnonzero(np.isfinite(light.flux).any(axis=1) & np.isfinite(redshift))
        flux = np.stack(
            [flux_of_magnitude(np.asarray(truth[f"mag_{band}"], dtype=float)[rows]) for band in bands], axis=1
        )
        examples = Examples(light=light, redshift=redshift, kind=kind, weight=np.ones(len(rows)))
        radius = np.asarray(truth["half_light_radius_arcsec"], dtype=float)[rows]
        return cls(examples=examples, flux=flux, radius=radius).take(keep)


def grafted(
    fitted: Sequence[FittedSky],
    pointings: Sequence[Pointing],
    number: int,
    rng: np.random.Generator,
    population: Callable[[np.random.Generator], PopulationLaws] = PopulationLaws.randomised,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> Examples:
    """Draw `number` objects, and give each the measurements that its donor would have had with its fluxes.

    For every `PER_POPULATION` objects a new population is drawn with `population`. They are seen through the
    filters of the donor's pointing, or through filters drawn from `filters` for each band. Raise `InputError`
    if too few drawn objects have a donor that is similar enough.
    """
    trees, noises = [], []
    for sky in fitted:
        noise = np.nanmedian(sky.examples.light.flux_err, axis=0)
        noise = np.where(np.isfinite(noise) & (noise > 0), noise, 1.0)
        noises.append(noise)
        trees.append(cKDTree(_donor_coordinates(sky.flux, sky.radius, noise)))
    parts: list[Examples] = []
    have, draws = 0, 0
    while have < number:
        index = draws % len(fitted)
        draws += 1
        if draws > 200 + 20 * number / PER_POPULATION:
            raise InputError("hardly any drawn object resembles a fitted one; raise num_fitted or num_skies")
        laws = population(rng)
        pointing, sky = pointings[index], fitted[index]
        low, high = BRIGHTEST + 4.0, pointing.limit + 0.3
        limit = low + (high - low) * np.sqrt(rng.random())
        seen_through = pointing.filters
        if filters is not None:
            own = zip(pointing.survey.names, seen_through, strict=True)
            seen_through = tuple(str(rng.choice(filters.get(band, (name,)))) for band, name in own)
        flux, radius, redshift, kind = _draw(PER_POPULATION, limit, seen_through, laws, rng)
        distance, near = trees[index].query(_donor_coordinates(flux, radius, noises[index]), k=NUM_DONORS)
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


def _donor_coordinates(flux: np.ndarray, radius: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return coordinates for the search of donors: logarithmic fluxes (linear below the noise) and size."""
    return np.column_stack([np.arcsinh(flux / (2 * noise)), np.log(radius + SIZE_SOFTENING_ARCSEC)])


def _draw(
    number: int, limit: float, filters: tuple[str, ...], laws: PopulationLaws, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw galaxies, stars and quasars in their natural proportions: fluxes, radii, redshifts and kinds."""
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
    """Return the measurements that donors would have had with other fluxes, ``(N, B)``.

    In bands where the donor is bright (`BRIGHT_SIGMA`), its measurement is scaled. In the others, the flux
    difference is added, times the fraction of the donor's flux that was measured.
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
    """Return the surveys on which a general-purpose head is trained, the deep ones more often."""
    return list(map(find_survey, ("clauds-hsc", "rubin-like", "clauds-hsc", "sdss-like", "rubin-like")))
