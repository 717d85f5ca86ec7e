"""Images that the explorer makes with the model: best fits, walks in latent space, fits of uploaded cutouts.

Shapes: N objects, B bands, H, W pixels, L latent dimensions.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from deepfits.errors import InputError
from deepfits.explorer.coadds import Coadds
from deepfits.explorer.objects import Objects
from deepfits.explorer.uploads import weight_from_edges
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.photometry import FWHM_PER_SIGMA
from deepfits.pictures import (
    colour_composite,
    combined,
    diverging,
    grey,
    lay_out,
    noise_per_band,
    noise_where,
    png,
    significance,
    stretch,
    strip,
    top_of,
)
from deepfits.splits import evenly_spaced
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.store import Cutouts

NOISE_SAMPLE = 256


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Fit of a cutout that was dropped onto the page, or made at a position.

    `features` are columns of one row each, as written by `deepfits fit`; `picture` is a PNG of the panels;
    `missing` are the bands without data, which the fit fills in.
    """

    features: dict[str, np.ndarray]
    cutouts: Cutouts
    picture: bytes
    missing: tuple[str, ...]


class Drawer:
    """Draws objects of a run with the model that fitted them; without a model, only their images.

    `settings` are those of the fit, for uploaded cutouts; `images` are those from which the cutouts were
    made, for cutouts at other positions.
    """

    def __init__(
        self,
        objects: Objects,
        model: Model | None,
        settings: FitSettings,
        images: str | Path | Sequence[str | Path] | None = None,
    ) -> None:
        self.objects, self.model, self.settings, self.images_path = objects, model, settings, images
        store = objects.store
        if store is None:
            raise InputError("pictures need the cutouts: give the store")
        self.store = store
        self.noise = noise_per_band(store.take(evenly_spaced(len(store), NOISE_SAMPLE)).weight)
        self._lock = threading.Lock()

    def fitted(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Draw the best fits in nJy, amplitudes included, ``(N, B, H, W)``; NaN without a fit."""
        model, rows = self._needed_model("drawing"), np.asarray(rows, dtype=np.int64)
        with self._lock:
            sight = model.sight(self._take(rows), self.store.info) if self.draws_scenes else None
            return model.draw(self._latents(), rows, sight=sight)

    def _needed_model(self, what: str) -> Model:
        if self.model is None:
            raise InputError(f"{what} needs the model: give it with --model")
        return self.model

    def render(self, latent: np.ndarray) -> np.ndarray:
        """Draw images in nJy, ``(N, B, H, W)``, from latents ``(N, L)``; NaN for latents that are NaN.

        A model of scenes draws the scenes themselves.
        """
        with self._lock, torch.no_grad():
            drawn = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32))
            return self._needed_model("drawing").render(drawn).numpy()

    def panels(self, row: int) -> bytes:
        """Return a PNG of one object: observed, fitted, residual and noise-free image of each band."""
        image, weight = self.images([row])
        if self.model is None or not self.objects.is_fitted[row]:
            fitted = scene = np.full_like(image[0], np.nan)
        else:
            fitted = self.fitted([row])[0]
            scene = self.scene(row) if self.draws_scenes else fitted
        return png(_panels(image[0], weight[0], fitted, np.nan_to_num(scene), self.noise), zoom=3)

    @property
    def draws_scenes(self) -> bool:
        """Whether the model draws scenes, without the PSF of an observation."""
        return self.model is not None and self.model.grid is not None

    def scene(self, row: int) -> np.ndarray:
        """Draw an object without PSF and noise, on the pixels of its cutout, ``(B, H, W)`` in nJy."""
        with self._lock:
            return self._on_pixels(self._needed_model("drawing").draw(self._latents(), [row])[0])

    def _on_pixels(self, drawn: np.ndarray) -> np.ndarray:
        """Resample a scene to the pixels of the cutouts, ``(B, H, W)``, by nearest neighbours."""
        store_info, model_info = self.store.info, self._needed_model("drawing").info
        ratio = store_info.pixel_scale_arcsec / model_info.pixel_scale_arcsec
        place = (np.arange(store_info.size) - (store_info.size - 1) / 2) * ratio + (model_info.size - 1) / 2
        index = np.clip(np.round(place), 0, model_info.size - 1).astype(int)
        return drawn[:, index][:, :, index] * ratio**2

    def _latents(self) -> dict[str, np.ndarray]:
        """Return the columns that drawing needs."""
        table = self.objects.table
        wanted = ("latent", *(f"amplitude_{band}" for band in self.store.info.bands))
        return {name: table[name] for name in wanted if name in table}

    def strip(self, rows: Sequence[int], *, columns: int = 8) -> bytes:
        """Return a PNG of the colour composites of objects, in the given order."""
        image, weight = self.images(rows)
        return png(strip(np.where(weight > 0, image, np.nan), self.noise, columns, gap=0), zoom=2)

    def images(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of objects, ``(N, B, H, W)``, nJy and nJy⁻²."""
        cutouts = self._take(rows)
        return cutouts.image, cutouts.weight

    def _take(self, rows: Sequence[int] | np.ndarray) -> Cutouts:
        assert self.objects.store_row is not None
        wanted = np.asarray(rows, dtype=np.int64)
        at = self.objects.store_row[wanted]
        if (at < 0).any():
            absent = self.objects.object_id[wanted[at < 0][0]]
            raise InputError(f"{self.store.directory}: does not contain object {absent}")
        return self.store.take(at)

    def walk(
        self,
        row: int | None,
        offsets: Sequence[float],
        *,
        end: int | None = None,
        way: float = 0.0,
        fwhm_arcsec: float = 0.0,
        noise: float = 0.0,
    ) -> bytes:
        """Draw a galaxy at offsets along the principal directions from an object, or from the mean if None.

        With `end`, the starting point is interpolated between the two objects: at `way` 0 it is the first, at
        1 the other.
        """
        middle, directions, _ = self.objects.principal
        start = middle if row is None else self.objects.latent[row]
        if end is not None:
            start = (1 - way) * start + way * self.objects.latent[end]
        number = min(len(offsets), len(directions))
        latent = start + np.asarray(offsets[:number], dtype=np.float32) @ directions[:number]
        return self._drawn(latent[None], start[None], fwhm_arcsec, noise, zoom=6)

    def between(self, first: int, second: int, *, fwhm_arcsec: float = 0.0, noise: float = 0.0) -> bytes:
        """Draw galaxies on the straight line between two objects in latent space."""
        step = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
        latent = (1 - step) * self.objects.latent[first] + step * self.objects.latent[second]
        return self._drawn(latent, latent, fwhm_arcsec, noise, zoom=2)

    def _drawn(
        self, latent: np.ndarray, stretch: np.ndarray, fwhm_arcsec: float, noise: float, *, zoom: int
    ) -> bytes:
        """Draw latents side by side, with seeing and noise, in a stretch that suits the latents `stretch`."""
        if not np.isfinite(latent).all():
            raise InputError("an object has no fit and cannot be drawn")
        info = self._needed_model("drawing").info if self.draws_scenes else self.store.info
        observed = add_seeing_and_noise(
            self.render(latent),
            fwhm_pixels=fwhm_arcsec / info.pixel_scale_arcsec,
            noise=noise * self.noise,
            rng=np.random.default_rng(1),
        )
        top = max(top_of(image, self.noise) for image in self.render(stretch))
        return png(strip(observed, self.noise, len(observed), top=top), zoom=zoom)

    @property
    def drawn_fwhm_arcsec(self) -> float | None:
        """FWHM of images drawn from a latent alone (median over bands); None if unknown."""
        if self.model is not None and self.draws_scenes:
            return self.model.reference_fwhm_arcsec
        known = np.array(self.store.info.fwhm_arcsec, dtype=float)
        return float(np.nanmedian(known)) if np.isfinite(known).any() else None

    def fit_position(self, ra: float, dec: float) -> Dropped:
        """Make a cutout at a position on the images of the run, and fit it."""
        with self._lock:
            return self._fit(self._coadds.cut(ra, dec))

    @cached_property
    def _coadds(self) -> Coadds:
        if self.images_path is None:
            raise InputError(
                f"the images of {self.store.directory} are unknown: restart with --images DIRECTORY, the one "
                "that was given to `deepfits cutouts`"
            )
        return Coadds(self.images_path, self.store)

    def fit_dropped(self, image: np.ndarray, weight: np.ndarray | None) -> Dropped:
        """Fit a cutout ``(B, H, W)`` in nJy; a band that is all NaN or zero is missing.

        Without a weight, the noise of each band is measured at the cutout's edges.
        """
        expected = self.store.shape
        if image.shape != expected:
            raise InputError(
                f"this cutout has the shape {image.shape}; bands, height and width must be {expected}: bands "
                f"{', '.join(self.store.info.bands)}"
            )
        image = image.astype(np.float32)
        weight = weight_from_edges(image) if weight is None else weight.astype(np.float32)
        if weight.shape != expected:
            raise InputError(f"the weight has the shape {weight.shape}, but its image {expected}")
        is_valid = (weight > 0) & np.isfinite(image) & np.isfinite(weight)
        dropped = Cutouts(
            object_id=np.array([0]),
            image=np.where(is_valid, image, 0).astype(np.float32)[None],
            weight=np.where(is_valid, weight, 0).astype(np.float32)[None],
        )
        with self._lock:
            return self._fit(dropped)

    @cached_property
    def _fitter(self) -> Fitter:
        return Fitter(self._needed_model("fitting"), self.settings, self.store.info)

    def _fit(self, cutouts: Cutouts) -> Dropped:
        """Fit one cutout as `deepfits fit` does."""
        fitter = self._fitter
        fit = fitter.fit_cutouts(with_neighbours(cutouts, self.store.info))
        columns = feature_table(fitter, fit, cutouts)
        if columns["status"][0] == "too_little_data":
            raise InputError("this cutout has too few valid pixels to be fitted")
        fitted = fitter.reconstruct(fit)[0]
        image, weight = cutouts.image[0], cutouts.weight[0]
        scene = self._on_pixels(fitter.model.draw(columns, [0])[0]) if self.draws_scenes else fitted
        bands = self.store.info.bands
        return Dropped(
            features=columns,
            cutouts=cutouts,
            picture=png(_panels(image, weight, fitted, scene, self.noise), zoom=3),
            missing=tuple(bands[b] for b in range(len(bands)) if not (weight[b] > 0).any()),
        )


def _panels(
    image: np.ndarray, weight: np.ndarray, fitted: np.ndarray, scene: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Arrange one object in rows per band and columns: observed, best fit, residual in σ, noise-free image.

    Images and weights are ``(B, H, W)``, nJy and nJy⁻²; the noise is ``(B,)``, nJy per pixel. The first row
    of the picture, ``(B + 1, 4)`` tiles in [0, 1], combines all bands.
    """
    residual = significance(image, fitted, weight)
    observed = np.where(weight > 0, image, np.nan)
    shown_noise, top = noise_where(observed, noise), top_of(observed, noise)
    first = [
        colour_composite(observed, shown_noise, top=top),
        colour_composite(fitted, shown_noise, top=top),
        diverging(combined(residual)),
        colour_composite(scene, shown_noise, top=top),
    ]
    rows = [first]
    for band in range(len(image)):
        level = noise[band] if np.isfinite(noise[band]) else max(1e-9, float(np.std(fitted[band])))
        top = float(np.nanpercentile(fitted[band], 99.5)) if np.isfinite(fitted[band]).any() else 5 * level
        pixels = observed[band], fitted[band], scene[band]
        data, fit, clean = (grey(stretch(each, level, top)) for each in pixels)
        rows.append([data, fit, diverging(residual[band]), clean])
    return lay_out([tile[::-1] for row in rows for tile in row], 4)


def add_seeing_and_noise(
    image: np.ndarray, *, fwhm_pixels: float, noise: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Convolve images, ``(N, B, H, W)``, with a round Gaussian, and add white noise of `noise`, ``(B,)``."""
    if fwhm_pixels > 0:
        from scipy.ndimage import gaussian_filter

        sigma = fwhm_pixels / FWHM_PER_SIGMA
        image = gaussian_filter(image, sigma=(0, 0, sigma, sigma), mode="nearest")
    return image + rng.normal(size=image.shape) * np.nan_to_num(noise)[:, None, None]
