"""How wrong a generator draws, learnt without truth from galaxies that it has not been trained on.

Shapes: N objects, B bands, H = W pixels.

The Laplace approximation knows what pixel noise does to a flux. It knows nothing of a generator that cannot
draw this galaxy, of light beyond the total's aperture, and of what other objects add. So errors of fluxes are

    error² = σ² + g_b² · σ · flux + (h · removed)² + (f_b · flux)²,

with the error σ by noise, for each kind of flux and each band. Of what was taken away as neighbours' light
(`deepfits.fitting.own_light`) a share h = `UNSURE` is uncertain, so that a galaxy by itself has smaller
errors than one in a crowd. Bright galaxies, whose noise counts for nothing, show what the drawing is wrong
by, f: their model fluxes against the light in the image. Galaxies that are drawn again onto the sky of other
cutouts and fitted there, neighbours and all, show what is left of others, g: more in the larger circles of
brighter galaxies, though not in proportion to their flux.

The same bright galaxies say what share of the light is drawn wrong pixel by pixel, and all of them what
figures of `deepfits.fitting.oddity` ordinary galaxies have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepfits.errors import InputError
from deepfits.fitting.inpainting import model_error, smallest_wide_enough
from deepfits.fitting.oddity import NARROW_PIXELS, PARTS, comparable, over, region, smoothed
from deepfits.fitting.own_light import enclosed, own_light, soft_circles, symmetric
from deepfits.fitting.scores import latent_distance
from deepfits.fitting.similarity import learn_nuisance
from deepfits.observation import fwhm_of, psf_or_moffat
from deepfits.photometry import aperture_flux, robust_scatter

if TYPE_CHECKING:
    from deepfits.fitting.fitter import Fitted, Fitter, OwnFluxes
    from deepfits.observation import Sight

FLUXES = ("flux_aper_model", "flux_model")
UNSURE = 0.8
"""Share of the light taken for neighbours' that is uncertain: likeliest by the truth of a simulated sky."""
FEWEST = 40
"""Bright galaxies without which nothing is learnt."""
BRIGHT_SIGMA, BRIGHT_PERCENTILE = 60.0, 92.0
"""Signal to noise of a bright galaxy inside 2 arcsec, all bands together, and brighter than so many."""
MOST_BRIGHT, NUM_ORDINARY, NUM_DRAWN = 120, 120, 200
PERCENTILES = (20.0, 97.0)
"""Of the signal to noise of all objects: between these galaxies are drawn again."""
LARGEST_BLEND = 5.0
LARGEST_DIMMING = 3.0
"""By how much a galaxy is dimmed at most before it is drawn again: faint ones are smaller."""


@dataclass(frozen=True, kw_only=True)
class ModelError:
    """What a model gets wrong.

    Attributes
    ----------
    flux_fraction, flux_blend
        For each kind of flux, f and g of each band.
    light_fraction
        ``B``: share of the light that is drawn wrong, on the scale of the PSF.
    usual
        For each figure of `deepfits.fitting.oddity.PARTS`, its median over ordinary galaxies, and the
        distance from there to the 84th percentile.
    latent_trend
        Usual `latent_distance` as intercept and slope in the logarithm of the flux in nJy of all bands,
        and the least and the largest logarithm it was learnt from.
    latent_nuisance
        ``(L, L)``: what noise, orientation and place do to a latent (`deepfits.fitting.similarity`).
    """

    flux_fraction: dict[str, tuple[float, ...]]
    flux_blend: dict[str, tuple[float, ...]]
    light_fraction: tuple[float, ...]
    usual: dict[str, tuple[float, float]]
    latent_trend: tuple[float, float, float, float]
    latent_nuisance: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def unknown(cls, num_bands: int) -> ModelError:
        """Return what is assumed where nobody has measured it: fluxes that know the noise alone."""
        return cls(
            flux_fraction={kind: (0.0,) * num_bands for kind in FLUXES},
            flux_blend={kind: (0.0,) * num_bands for kind in FLUXES},
            light_fraction=(0.05,) * num_bands,
            usual={
                "structure": (2.2, 0.8),
                "extended": (1.2, 0.7),
                "colour": (3.4, 0.8),
                "latent": (0.0, 0.3),
            },
            latent_trend=(1.0, 0.0, 0.0, 0.0),
        )

    def flux_error(
        self, kind: str, band: int, flux: np.ndarray, noise: np.ndarray, removed: np.ndarray
    ) -> np.ndarray:
        """Return the whole error of fluxes, ``(N,)``, from that by noise and from what was taken away."""
        return _total_error(flux, noise, removed, self.flux_blend[kind][band], self.flux_fraction[kind][band])

    def unusual_latent(self, latent_distance: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """Return how much longer than usual latents are, ``(N,)``; `flux` is the sum of all bands."""
        start, slope, low, high = self.latent_trend
        return latent_distance - start - slope * np.clip(np.log(np.maximum(flux, 1.0)), low, high)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_bands: int, where: str) -> ModelError:
        """Read back `to_json`.

        Raises
        ------
        InputError
            Anything but finite numbers, as many as there are bands.
        """

        def numbers(values: Any, length: int) -> tuple[float, ...]:
            found = tuple(float(value) for value in values)
            if len(found) != length or not np.isfinite(found).all():
                raise ValueError(f"{length} finite numbers are needed, not {values!r}")
            return found

        try:
            nuisance = content["latent_nuisance"]
            return cls(
                flux_fraction={kind: numbers(content["flux_fraction"][kind], num_bands) for kind in FLUXES},
                flux_blend={kind: numbers(content["flux_blend"][kind], num_bands) for kind in FLUXES},
                light_fraction=numbers(content["light_fraction"], num_bands),
                usual={part: numbers(content["usual"][part], 2) for part in PARTS},  # type: ignore[misc]
                latent_trend=numbers(content["latent_trend"], 4),  # type: ignore[arg-type]
                latent_nuisance=tuple(numbers(row, len(nuisance)) for row in nuisance),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: model_error is not what a model says of its errors ({error}); train again"
            ) from error


def learn_model_error(
    fitter: Fitter,
    image: np.ndarray,
    weight: np.ndarray,
    find_neighbours: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    sight: Sight | None = None,
    psf: np.ndarray | None = None,
    seed: int = 0,
) -> ModelError | None:
    """Measure how wrong a model draws the galaxies of a survey.

    Parameters
    ----------
    fitter
        Of the model, with the settings to be used; its own `model_error` must be unknown.
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻²: objects that the model was not trained on.
    find_neighbours
        From images and weights to the pixels of other objects, ``(N, H, W)`` bool.
    sight
        For a model of scenes.
    psf
        ``(N, B, K, 2)``, of the objects where it is known; else that of the store's seeing.

    Returns
    -------
    ModelError or None
        None with fewer than `FEWEST` bright galaxies.
    """
    rng = np.random.default_rng(seed)
    circle = fitter.sums[1].numpy()
    flux, error = aperture_flux(image, weight, circle)
    signal = np.nansum(flux / error, axis=1) / np.sqrt(np.maximum(np.isfinite(flux).sum(1), 1))
    whole = np.isfinite(flux).all(1)
    if not whole.any():
        return None
    beyond = min(np.percentile(signal[whole], BRIGHT_PERCENTILE), np.sort(signal[whole])[-FEWEST:][0])
    bright = np.flatnonzero(whole & (signal >= max(BRIGHT_SIGMA, beyond)))
    if len(bright) < FEWEST:
        return None
    bright = rng.permutation(bright)[:MOST_BRIGHT]
    others = np.setdiff1d(np.flatnonzero(whole & (signal > 10)), bright)
    rows = np.concatenate([bright, rng.permutation(others)[:NUM_ORDINARY]])
    is_bright = np.arange(len(rows)) < len(bright)

    psf = psf_or_moffat(psf, fitter.info.fwhm_arcsec, len(image))

    def fit(pixels: np.ndarray, inverse: np.ndarray, which: np.ndarray) -> Fitted:
        others = find_neighbours(pixels, inverse)
        seen = None if sight is None else sight[torch.from_numpy(which)]
        return fitter.fit(np.arange(len(pixels)), pixels, inverse, is_neighbour=others, sight=seen)

    def fluxes(fitted: Fitted, which: np.ndarray) -> OwnFluxes:
        return fitter.own_fluxes(
            fitter.measure(fitted, sums=fitter.sums, with_pixels=False, with_galaxy=True), psf[which]
        )

    fitted = fit(image[rows], weight[rows], rows)
    drawn = fitter.reconstruct(fitted)
    good = np.isfinite(drawn).all((1, 2, 3))
    if (is_bright & good).sum() < FEWEST:
        return None
    # Galaxies on the sky of faint objects, turned inside out: their own middle is in the corners.
    faint = np.flatnonzero(whole & (signal < np.median(signal[whole])))
    skies = rng.choice(faint, NUM_DRAWN, replace=len(faint) < NUM_DRAWN)
    low, high = np.log(np.maximum(np.percentile(signal[whole], PERCENTILES), 5))
    goal = np.exp(rng.uniform(low, high, size=NUM_DRAWN))
    sources = np.array([rng.choice(_as_bright(signal[rows], good, one)) for one in goal])
    scale = np.minimum(goal / signal[rows[sources]], 1.0)[:, None, None, None]
    seen = None if sight is None else sight[torch.from_numpy(skies)]
    galaxy = scale * _alone(fitter, fitted, sources, seen)
    half = image.shape[3] // 2
    sky, inverse = (np.roll(pixels[skies], (half, half), (2, 3)) for pixels in (image, weight))
    again = fluxes(fit((sky + galaxy).astype(np.float32), inverse, skies), skies)
    under = np.einsum("nbhw,hw->n", np.where(inverse > 0, sky, 0), circle)
    is_seen = under < 0.5 * np.einsum("nbhw,hw->n", galaxy, circle)  # else the middle is another object's
    truth = np.stack(
        [np.einsum("nbhw,hw->nb", galaxy, circle), galaxy.sum((2, 3)) / _in_cutout(fitter, psf[skies])],
        axis=2,
    )
    bands, correlation = fitter.info.bands, np.array(fitter.info.noise_correlation)
    own = fluxes(fitted, rows)
    fraction = _flux_fractions(fitter, fitted, own, drawn, psf[rows], is_bright & good)
    again = replace(again, **{name: values[is_seen] for name, values in vars(again).items()})
    radius = fitter.total_radius_pixels(torch.from_numpy(np.nan_to_num(drawn)), fitted.weight)
    light = _light_fractions(
        fitted.image.numpy(),
        fitted.weight.numpy(),
        np.nan_to_num(drawn),
        radius,
        correlation,
        is_bright & good,
    )
    latent = fitted.fit.latent.numpy()[good]
    total = own.flux[good, :, 1].sum(axis=1)
    trend = _trend(np.log(np.maximum(total, 1.0)), latent_distance(latent))
    typical = np.nanmedian(
        np.where(weight[rows] > 0, weight[rows], np.nan).reshape(len(rows), len(bands), -1), axis=2
    )
    nuisance = learn_nuisance(fitter, latent, np.nanmedian(typical, axis=0) ** -0.5, seed=seed)
    fitter.model_error = ModelError(
        flux_fraction=fraction,
        flux_blend={
            kind: _blend(again, truth[is_seen], number, fraction[kind]) for number, kind in enumerate(FLUXES)
        },
        usual=ModelError.unknown(len(bands)).usual,
        light_fraction=light,
        latent_trend=trend,
        latent_nuisance=tuple(tuple(float(f"{one:.4g}") for one in row) for row in nuisance),
    )
    figures = fitter.oddities(fitted)
    return replace(fitter.model_error, usual={part: _usual(figures[part][good]) for part in PARTS})


def median_of(errors: Sequence[ModelError]) -> ModelError:
    """Return the median of each number, and the mean of matrices: of a model that serves several surveys."""

    def middle(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple) and values[0] and isinstance(values[0][0], tuple):
            return tuple(tuple(float(one) for one in row) for row in np.mean(np.array(values), axis=0))
        if isinstance(values[0], dict):
            return {name: middle([one[name] for one in values]) for name in values[0]}
        return tuple(float(one) for one in np.median(np.array(values), axis=0))

    return ModelError(**{name: middle([vars(one)[name] for one in errors]) for name in vars(errors[0])})


def _flux_fractions(
    fitter: Fitter,
    fitted: Fitted,
    own: OwnFluxes,
    drawn: np.ndarray,
    psf: np.ndarray,
    rows: np.ndarray,
) -> dict[str, tuple[float, ...]]:
    """Compare model fluxes of bright galaxies with the light in their images."""
    image, weight = fitted.image.numpy()[rows], fitted.weight.numpy()[rows]
    pixels = np.where(weight > 0, image, drawn[rows])
    variance = np.where(weight > 0, 1 / np.where(weight > 0, weight, 1), 0)
    size = image.shape[3]
    used = own_light(drawn[rows], fitted.is_neighbour.numpy()[rows])
    inside = _in_cutout(fitter, psf[rows])[..., None, None]
    sums = {
        "flux_aper_model": np.broadcast_to(fitter.sums[1].numpy(), image.shape),
        "flux_model": used * soft_circles(size, np.array([(size - 1) / 2]))[:, None] / inside,
    }
    out = {}
    for number, (kind, over_pixels) in enumerate(sums.items()):
        measured = (pixels * over_pixels).sum((2, 3))
        error = np.sqrt((variance * over_pixels**2).sum((2, 3)))
        flux, noise = (one[rows, :, number] for one in (own.flux, own.noise))
        found = [
            model_error(
                flux[:, band],
                noise[:, band],
                measured[:, band],
                error[:, band],
            )
            for band in range(len(fitter.info.bands))
        ]
        out[kind] = tuple(float(one or 0.0) for one in found)
    return out


def _in_cutout(fitter: Fitter, psf: np.ndarray) -> np.ndarray:
    """Return the share of a point source's light in the largest circle of a cutout, ``(N, B)``."""
    radius = fitter.info.size / 2 * fitter.info.pixel_scale_arcsec
    return enclosed(fwhm_of(psf), np.full(len(psf), radius))


def _as_bright(signal: np.ndarray, good: np.ndarray, goal: float) -> np.ndarray:
    """Return which galaxies, dimmed to a signal to noise, are not too large for it; else the brightest."""
    found = np.flatnonzero(good & (signal >= goal) & (signal <= LARGEST_DIMMING * goal))
    return found if len(found) else np.flatnonzero(good & (signal == signal[good].max()))


def _alone(fitter: Fitter, fitted: Fitted, rows: np.ndarray, sight: Sight | None) -> np.ndarray:
    """Draw galaxies without whatever else is drawn around them, ``(N, B, H, W)``: their symmetric part."""
    drawn = fitter.reconstruct(fitted.take(torch.from_numpy(rows), sight))
    size = drawn.shape[3]
    return np.asarray(symmetric(drawn) * soft_circles(size, np.array([(size - 1) / 2]))[:, None])


def _total_error(
    flux: np.ndarray, noise: np.ndarray, removed: np.ndarray, blend: float, fraction: float
) -> np.ndarray:
    """Return the whole error of fluxes, ``(N,)``."""
    return np.sqrt(
        noise**2 + blend**2 * noise * np.abs(flux) + (UNSURE * removed) ** 2 + (fraction * flux) ** 2
    )


def _blend(own: OwnFluxes, truth: np.ndarray, kind: int, fraction: Sequence[float]) -> tuple[float, ...]:
    """Return the g of each band with which the pulls of galaxies drawn again are 1 wide."""
    flux, noise, true = (one[:, :, kind] for one in (own.flux, own.noise, truth))

    def one(band: int) -> float:
        x, sigma, off = (values[:, band] for values in (flux, noise, flux - true))
        rows = np.isfinite(x + sigma + off)
        if rows.sum() < FEWEST:
            return 0.0
        parts = x[rows], sigma[rows], own.removed[rows, band]
        return smallest_wide_enough(
            lambda g: bool(robust_scatter(off[rows] / _total_error(*parts, g, fraction[band])) > 1),
            0.0,
            LARGEST_BLEND,
        )

    return tuple(one(band) for band in range(flux.shape[1]))


def _light_fractions(
    image: np.ndarray,
    weight: np.ndarray,
    model: np.ndarray,
    radius_pixels: np.ndarray,
    noise: np.ndarray,
    rows: np.ndarray,
) -> tuple[float, ...]:
    """Return the share of the light with which residuals of bright galaxies are as wide as noise, ``B``."""
    image, weight, model = image[rows], weight[rows], model[rows]
    weight = np.where(region(image.shape[3], radius_pixels[rows])[:, None], weight, 0)
    left, spread, light = smoothed(*comparable(image, weight, model, noise), NARROW_PIXELS)
    inside = weight > 0

    def share(band: int) -> float:
        there = inside[:, band]
        off, known, drawn = (one[:, band][there] for one in (left, spread, light))
        # One residual in twenty lies beyond two standard deviations.
        return smallest_wide_enough(
            lambda f: bool((np.abs(over(off, known + (f * drawn) ** 2)) > 2).mean() > 0.0455), 0.0, 1.0
        )

    return tuple(share(band) for band in range(image.shape[1]))


def _trend(brightness: np.ndarray, distance: np.ndarray) -> tuple[float, float, float, float]:
    """Return a line through the medians of three parts, and the range that it was learnt from."""
    parts = np.array_split(np.argsort(brightness), 3)
    x, y = ([float(np.median(values[part])) for part in parts] for values in (brightness, distance))
    slope = (y[2] - y[0]) / max(x[2] - x[0], 1e-6)
    low, high = np.percentile(brightness, [1, 99])
    return float(np.mean(y) - slope * np.mean(x)), float(slope), float(low), float(high)


def _usual(values: np.ndarray) -> tuple[float, float]:
    middle, upper = np.percentile(values, [50, 84])
    return float(middle), float(max(upper - middle, 1e-3))
