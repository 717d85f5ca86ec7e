"""Measurement of a model's errors from galaxies that it was not trained on, without knowledge of the truth.

Shapes: N objects, B bands, H = W pixels.

Bright galaxies, whose noise is negligible, yield the model's own error f: their model fluxes are compared
with the flux in the image. Injected galaxies yield the error g due to other objects: model images are added
to the sky of other cutouts and fitted there, neighbours included. f and g are those of
`deepfits.fitting.model_error`.

The same bright galaxies yield the relative error of the rendered flux per pixel, and all galaxies the typical
statistics of `deepfits.fitting.oddity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from deepfits.errors import TooFewGalaxiesError
from deepfits.fitting.engine import Advance
from deepfits.fitting.fitter import Fitted, Fitter
from deepfits.fitting.inpainting import model_error, smallest_wide_enough
from deepfits.fitting.measuring import measure, measured_alone, oddities, total_radius_pixels
from deepfits.fitting.model_error import FLUXES, ModelError
from deepfits.fitting.oddity import NARROW_PIXELS, PARTS, comparable, over, region, smoothed
from deepfits.fitting.own_light import OwnFluxes, inverse_noise, own_light, soft_circles, symmetric
from deepfits.fitting.similarity import latent_distance, learn_nuisance
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.observation import Sight
from deepfits.photometry import aperture_flux, robust_scatter
from deepfits.survey.neighbours import find_neighbours
from deepfits.survey.store import Cutouts

FEWEST = 40  # minimum number of bright galaxies for a measurement
BRIGHT_SIGMA, BRIGHT_PERCENTILE = 60.0, 92.0
"""Signal to noise in 2 arcsec, all bands together, above which galaxies are bright, and its percentile."""
MOST_BRIGHT, NUM_ORDINARY, NUM_DRAWN = 120, 120, 200
NUM_FITS = MOST_BRIGHT + NUM_ORDINARY + NUM_DRAWN  # maximum number of fits of a measurement
PERCENTILES = (20.0, 97.0)
"""Percentiles of the signal to noise of all objects between which galaxies are injected."""
LEAST_COVERED = 0.2  # fraction of the objects above which a band counts as one of the survey
LARGEST_UNSEEN = 20.0
LARGEST_DIMMING = 3.0
"""Largest factor by which a galaxy is dimmed before it is injected: faint galaxies are smaller."""


def learn_model_error(
    fitter: Fitter, cutouts: Cutouts, otherwise: ModelError | None = None, advance: Advance | None = None
) -> ModelError:
    """Measure the errors of a model on galaxies of a survey that it was not trained on.

    The fitter has the settings of the survey's fits, and no measured `model_error` yet. Bands that (nearly)
    no object has get the values of `otherwise`. `advance` is called with the number of fits newly done. Raise
    `TooFewGalaxiesError` if there are fewer than `FEWEST` bright galaxies with data in all bands that the
    survey has.
    """
    rng = np.random.default_rng(0)
    galaxies = _Galaxies(fitter=fitter, cutouts=cutouts, advance=advance)
    rows, is_bright = _choose(galaxies, rng)
    fitted = galaxies.fit(cutouts.image[rows], cutouts.weight[rows], rows)
    drawn = fitter.reconstruct(fitted)
    good = np.isfinite(drawn).all((1, 2, 3))
    if (is_bright & good).sum() < FEWEST:
        raise _too_few(galaxies)
    injected, truth = _inject(galaxies, fitted, rows, good, rng)
    measured = measure(fitter, fitted, galaxy_psf=galaxies.psf[rows])
    fraction = _flux_fractions(fitter, fitted, measured, drawn, is_bright & good)
    latent, brightness = fitted.fit.latent.numpy()[good], drawn[good].sum((1, 2, 3))
    covariance = measured["latent_covariance"][good]
    with np.errstate(divide="ignore"):  # a band without data
        noise = 1 / np.median(inverse_noise(cutouts.weight[rows]), axis=0)
    nuisance = learn_nuisance(fitter, latent, covariance, noise)
    bands = len(fitter.info.bands)
    learnt = ModelError(
        flux_fraction=fraction,
        flux_unseen={kind: _unseen(injected, truth, kind, fraction[kind]) for kind in FLUXES},
        usual=ModelError.unknown(bands).usual,
        light_fraction=_light_fractions(fitter, fitted, np.nan_to_num(drawn), is_bright & good),
        latent_trend=_trend(np.log(np.maximum(brightness, 1.0)), latent_distance(latent)),
        latent_nuisance=tuple(tuple(float(f"{value:.4g}") for value in row) for row in nuisance),
    )
    learnt = _in_bands(galaxies.has_band, learnt, otherwise or ModelError.unknown(bands))
    figures = oddities(fitter, fitted, drawn, learnt)
    middle, upper = np.percentile([figures[part][good] for part in PARTS], [50, 84], axis=1)
    usual = zip(middle.tolist(), np.maximum(upper - middle, 1e-3).tolist(), strict=True)
    return replace(learnt, usual=dict(zip(PARTS, usual, strict=True)))


@dataclass(frozen=True, kw_only=True)
class _Galaxies:
    """Objects that the model was not trained on, and the fitter for them."""

    fitter: Fitter
    cutouts: Cutouts
    advance: Advance | None

    @cached_property
    def psf(self) -> np.ndarray:
        """PSFs, ``(N, B, K, 2)``, by default those of the store's seeing."""
        return psf_or_moffat(self.cutouts.psf, self.fitter.info.fwhm_arcsec, len(self.cutouts))

    @cached_property
    def sight(self) -> Sight | None:
        """How the objects were observed; None for a model of images."""
        return self.fitter.sight(self.cutouts)

    @cached_property
    def aperture(self) -> tuple[np.ndarray, np.ndarray]:
        """Flux and error in the aperture, ``(N, B)``; NaN for bands without data."""
        return aperture_flux(self.cutouts.image, self.cutouts.weight, self.fitter.sums[1])

    @cached_property
    def has_band(self) -> np.ndarray:
        """Which bands the survey has, ``(B,)`` bool."""
        return np.asarray(np.isfinite(self.aperture[0]).mean(axis=0) > LEAST_COVERED)

    @cached_property
    def signal(self) -> np.ndarray:
        """Signal to noise in the aperture, all bands together, ``(N,)``."""
        flux, error = self.aperture
        number = np.isfinite(flux).sum(axis=1)
        return np.asarray(np.nansum(flux / error, axis=1) / np.sqrt(np.maximum(number, 1)))

    @cached_property
    def is_whole(self) -> np.ndarray:
        """Which objects have all bands of the survey, ``(N,)`` bool."""
        is_known = np.isfinite(self.aperture[0])
        return np.asarray(is_known[:, self.has_band].all(1) & is_known.any(1))

    def seen(self, rows: np.ndarray) -> Sight | None:
        """Return how objects were observed; None for a model of images."""
        return None if self.sight is None else self.sight.take(torch.from_numpy(rows))

    def fit(self, image: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> Fitted:
        """Fit images that were observed like the objects of these rows."""
        is_neighbour = find_neighbours(image, weight, noise_correlation=self.fitter.info.noise_correlation)
        return self.fitter.fit(
            np.arange(len(image)),
            image,
            weight,
            self.advance,
            is_neighbour=is_neighbour,
            sight=self.seen(rows),
        )


def _choose(galaxies: _Galaxies, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose bright and ordinary galaxies: return their rows, and which of these are bright."""
    signal, is_whole = galaxies.signal, galaxies.is_whole
    ranked = np.sort(signal[is_whole])
    if len(ranked) < FEWEST or ranked[-FEWEST] < BRIGHT_SIGMA:
        raise _too_few(galaxies)
    limit = max(BRIGHT_SIGMA, min(np.percentile(ranked, BRIGHT_PERCENTILE), ranked[-FEWEST]))
    bright = rng.permutation(np.flatnonzero(is_whole & (signal >= limit)))[:MOST_BRIGHT]
    ordinary = np.setdiff1d(np.flatnonzero(is_whole & (signal > 10)), bright)
    rows = np.concatenate([bright, rng.permutation(ordinary)[:NUM_ORDINARY]])
    return rows, np.arange(len(rows)) < len(bright)


def _too_few(galaxies: _Galaxies) -> TooFewGalaxiesError:
    bright = int((galaxies.is_whole & (galaxies.signal >= BRIGHT_SIGMA)).sum())
    names = zip(galaxies.fitter.info.bands, galaxies.has_band, strict=True)
    bands = ", ".join(band for band, is_there in names if is_there)
    return TooFewGalaxiesError(
        f"errors of the model: {bright} of {len(galaxies.cutouts)} objects are bright (signal to noise above "
        f"{BRIGHT_SIGMA:g}) and have data in all of {bands}; {FEWEST} are needed. Give more objects, or fit "
        "with the model as it is"
    )


def _inject(
    galaxies: _Galaxies, fitted: Fitted, rows: np.ndarray, good: np.ndarray, rng: np.random.Generator
) -> tuple[OwnFluxes, np.ndarray]:
    """Inject dimmed galaxies into the sky of faint objects, and fit them there.

    Return the fluxes, ``(N, B, 2)``, of the galaxies that are still the central object: with their errors as
    fitted there, and those of the injected images alone.
    """
    fitter, cutouts, signal, is_whole = galaxies.fitter, galaxies.cutouts, galaxies.signal, galaxies.is_whole
    circle = fitter.sums[1]
    faint = np.flatnonzero(is_whole & (signal < np.median(signal[is_whole])))
    skies = rng.choice(faint, NUM_DRAWN, replace=len(faint) < NUM_DRAWN)
    low, high = np.log(np.maximum(np.percentile(signal[is_whole], PERCENTILES), 5))
    goal = np.exp(rng.uniform(low, high, size=NUM_DRAWN))
    sources = np.array([rng.choice(_as_bright(signal[rows], good, value)) for value in goal])
    scale = np.minimum(goal / signal[rows[sources]], 1.0)[:, None, None, None]
    galaxy = scale * _alone(fitter, fitted, sources, galaxies.seen(skies))
    # Roll the sky by half its size, which moves its own central object to the corners.
    half = fitter.info.size // 2
    sky, inverse = (
        np.roll(pixels[skies], (half, half), (2, 3)) for pixels in (cutouts.image, cutouts.weight)
    )
    refitted = galaxies.fit((sky + galaxy).astype(np.float32), inverse, skies)
    psf, scale_arcsec = galaxies.psf[skies], fitter.info.pixel_scale_arcsec
    fluxes = OwnFluxes.of(measure(fitter, refitted, galaxy_psf=psf), psf, scale_arcsec)
    truth = OwnFluxes.of(measured_alone(fitter, galaxy, inverse, psf), psf, scale_arcsec).flux
    sky_flux = np.einsum("nbhw,hw->n", np.where(inverse > 0, sky, 0), circle)
    is_seen = sky_flux < 0.5 * np.einsum("nbhw,hw->n", galaxy, circle)  # else another object is central
    return replace(fluxes, **{name: values[is_seen] for name, values in vars(fluxes).items()}), truth[is_seen]


def _in_bands(is_first: np.ndarray, measured: ModelError, otherwise: ModelError) -> ModelError:
    """Return what was measured, with the values of `otherwise` in bands that are not in `which`."""

    def chosen(first: Any, second: Any) -> Any:
        if isinstance(first, dict):
            return {kind: chosen(first[kind], second[kind]) for kind in first}
        return tuple(float(value) for value in np.where(is_first, first, second))

    names = "flux_fraction", "flux_unseen", "light_fraction"
    return replace(measured, **{n: chosen(getattr(measured, n), getattr(otherwise, n)) for n in names})


def median_of(errors: Sequence[ModelError]) -> ModelError:
    """Combine the errors measured in several surveys: the median of each number, the mean of matrices."""

    def middle(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple) and values[0] and isinstance(values[0][0], tuple):
            return tuple(tuple(float(value) for value in row) for row in np.mean(np.array(values), axis=0))
        if isinstance(values[0], dict):
            return {name: middle([error[name] for error in values]) for name in values[0]}
        return tuple(float(value) for value in np.median(np.array(values), axis=0))

    return ModelError(**{name: middle([vars(error)[name] for error in errors]) for name in vars(errors[0])})


def _flux_fractions(
    fitter: Fitter, fitted: Fitted, measured: dict[str, np.ndarray], drawn: np.ndarray, rows: np.ndarray
) -> dict[str, tuple[float, ...]]:
    """Compare model fluxes of bright galaxies with the flux in their images, in the same circles."""
    image, weight = fitted.image.numpy()[rows], fitted.weight.numpy()[rows]
    pixels = np.where(weight > 0, image, drawn[rows])
    variance = 1 / np.where(weight > 0, weight, np.inf)
    counted = own_light(drawn[rows], fitted.is_neighbour.numpy()[rows])
    circles = soft_circles(image.shape[3], measured["total_radius"][rows])
    sums = np.broadcast_to(fitter.sums[1], image.shape), counted * circles[:, None]
    out = {}
    for number, (kind, over_pixels) in enumerate(zip(FLUXES, sums, strict=True), start=1):
        model_flux = (pixels * over_pixels).sum((2, 3))
        error = np.sqrt((variance * over_pixels**2).sum((2, 3)))
        flux, noise = (measured[name][rows, :, number] for name in ("flux", "flux_std"))
        out[kind] = tuple(
            float(model_error(flux[:, band], noise[:, band], model_flux[:, band], error[:, band]) or 0.0)
            for band in range(len(fitter.info.bands))
        )
    return out


def _as_bright(signal: np.ndarray, good: np.ndarray, goal: float) -> np.ndarray:
    """Return galaxies that are brighter than a signal to noise, but not by much; else the brightest."""
    fitting = np.flatnonzero(good & (signal >= goal) & (signal <= LARGEST_DIMMING * goal))
    return fitting if len(fitting) else np.flatnonzero(good & (signal == signal[good].max()))


def _alone(fitter: Fitter, fitted: Fitted, rows: np.ndarray, sight: Sight | None) -> np.ndarray:
    """Render galaxies without what surrounds them, ``(N, B, H, W)``: their symmetric part."""
    drawn = fitter.reconstruct(replace(fitted.take(torch.from_numpy(rows)), sight=sight))
    size = drawn.shape[3]
    return np.asarray(symmetric(drawn) * soft_circles(size, np.array([(size - 1) / 2]))[:, None])


def _unseen(own: OwnFluxes, truth: np.ndarray, kind: str, fraction: tuple[float, ...]) -> tuple[float, ...]:
    """Return, for each band, the g with which the pulls of injected galaxies have unit width."""
    number, bands = FLUXES.index(kind), len(fraction)
    others, off = replace(ModelError.unknown(bands), flux_fraction={kind: fraction}), own.flux - truth

    def pulls(g: float, band: int) -> np.ndarray:
        error = replace(others, flux_unseen={kind: (g,) * bands}).flux_error(kind, own)
        pull = off[:, band, number] / error[:, band]
        return pull[np.isfinite(pull)]

    def widening(band: int) -> float:
        if len(pulls(1.0, band)) < FEWEST:
            return 0.0
        return smallest_wide_enough(lambda g: bool(robust_scatter(pulls(g, band)) > 1), LARGEST_UNSEEN)

    return tuple(widening(band) for band in range(bands))


def _light_fractions(
    fitter: Fitter, fitted: Fitted, drawn: np.ndarray, rows: np.ndarray
) -> tuple[float, ...]:
    """Return the relative error of the rendered flux that explains residuals of bright galaxies, ``B``."""
    image, weight, model = fitted.image.numpy()[rows], fitted.weight.numpy()[rows], drawn[rows]
    radius = total_radius_pixels(fitter, model, weight)
    weight = np.where(region(image.shape[3], radius)[:, None], weight, 0)
    noise = np.array(fitter.info.noise_correlation)
    residual, variance, flux = smoothed(*comparable(image, weight, model, noise), NARROW_PIXELS)
    inside = weight > 0

    def share(band: int) -> float:
        r, noise2, light = (values[:, band][inside[:, band]] for values in (residual, variance, flux))
        if not len(r):
            return 0.0
        # 4.55% of a normal distribution lie beyond two standard deviations.
        return smallest_wide_enough(
            lambda f: bool((np.abs(over(r, noise2 + (f * light) ** 2)) > 2).mean() > 0.0455), 1.0
        )

    return tuple(share(band) for band in range(image.shape[1]))


def _trend(brightness: np.ndarray, distance: np.ndarray) -> tuple[float, float, float, float]:
    """Return a line through the medians of three equal parts in brightness, and the range of brightness."""
    parts = np.array_split(np.argsort(brightness), 3)
    x, y = ([float(np.median(values[part])) for part in parts] for values in (brightness, distance))
    slope = (y[2] - y[0]) / max(x[2] - x[0], 1e-6)
    low, high = np.percentile(brightness, [1, 99])
    return float(np.mean(y) - slope * np.mean(x)), float(slope), float(low), float(high)
