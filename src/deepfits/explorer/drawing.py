"""What the explorer draws with the model: best fits, walks through the latent, fits of dropped cutouts.

Shapes: N objects, B bands, H, W pixels, L latent dimensions.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepfits.errors import InputError
from deepfits.explorer.objects import Objects
from deepfits.explorer.pictures import add_seeing_and_noise, panels
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.observation import Sight
from deepfits.photometry import robust_scatter
from deepfits.pictures import colour_composite, lay_out, noise_per_band, png, strip
from deepfits.survey.store import Cutouts

MAX_UPLOAD_BYTES = 16 << 20
NOISE_SAMPLE = 256
EDGE_PIXELS = 3


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A cutout that was dropped onto the page, fitted.

    Attributes
    ----------
    latent
        ``(L,)``.
    reduced_chi2
        Of the best fit.
    picture
        PNG of its panels.
    predicted_njy
        For each band without data: what the fit draws there, summed over the cutout.
    """

    latent: np.ndarray
    reduced_chi2: float
    picture: bytes
    predicted_njy: dict[str, float]


class Drawer:
    """Draws objects of a run with the model that fitted them.

    Parameters
    ----------
    objects
        With their store.
    model
        The model that made the features; None where there is none: pictures then show the images alone.
    settings
        How the features were fitted, for cutouts dropped onto the page.
    """

    def __init__(self, objects: Objects, model: Model | None, settings: FitSettings) -> None:
        self.objects, self.model, self.settings = objects, model, settings
        store = objects.store
        if store is None:
            raise InputError("pictures need the cutouts: give the store")
        self.store = store
        sample = np.linspace(0, len(store) - 1, min(NOISE_SAMPLE, len(store))).astype(int)
        self.noise = noise_per_band(store.take(np.unique(sample)).weight)
        self._lock = threading.Lock()
        self._fitter: Fitter | None = None

    def fitted(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Draw the best fits in nJy, amplitudes included, ``(N, B, H, W)``; NaN without a fit."""
        if self.model is None:
            raise InputError("drawing needs the model: give it with --model")
        rows = np.asarray(rows, dtype=np.int64)
        with self._lock:
            return self.model.draw(self._latents(), rows, sight=self._sight(rows))

    def render(self, latent: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Draw images in nJy, ``(N, B, H, W)``, from latents ``(N, L)``; NaN where a latent is.

        A model of scenes draws them as these objects' pixels would show them, or, without rows, themselves.
        """
        if self.model is None:
            raise InputError("drawing needs the model: give it with --model")
        sight = None if rows is None else self._sight(rows)
        with self._lock, torch.no_grad():
            drawn = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32))
            return self.model.render(drawn, sight).numpy()

    def _sight(self, rows: np.ndarray) -> Sight | None:
        """Say how objects were observed; only models of scenes ask."""
        if self.model is None or self.model.grid is None:
            return None
        return self.model.sight(self._take(rows), self.store.info)

    def panels(self, row: int, *, zoom: int = 3) -> bytes:
        """Return the picture of one object: observed, fitted, residual and drawing, band by band."""
        image, weight = self.images([row])
        if self.model is None or not self.objects.is_fitted[row]:
            fitted = scene = np.full_like(image[0], np.nan)
        else:
            fitted = self.fitted([row])[0]
            scene = self.scene(row) if self.draws_scenes else fitted
        return png(panels(image[0], weight[0], fitted, np.nan_to_num(scene), self.noise), zoom=zoom)

    @property
    def draws_scenes(self) -> bool:
        """Whether the model draws what is there, without the PSF of an observation."""
        return self.model is not None and self.model.grid is not None

    def scene(self, row: int) -> np.ndarray:
        """Draw an object without PSF and noise, on the pixels of its cutout, ``(B, H, W)`` in nJy."""
        assert self.model is not None
        with self._lock:
            drawn = self.model.draw(self._latents(), [row])[0]
        ours, theirs = self.store.info, self.model.info
        ratio = ours.pixel_scale_arcsec / theirs.pixel_scale_arcsec
        place = (np.arange(ours.size) - (ours.size - 1) / 2) * ratio + (theirs.size - 1) / 2
        index = np.clip(np.round(place), 0, theirs.size - 1).astype(int)
        return drawn[:, index][:, :, index] * ratio**2

    def _latents(self) -> dict[str, np.ndarray]:
        """Return the columns that drawing needs."""
        table = self.objects.table
        wanted = ("latent", *(f"amplitude_{band}" for band in self.store.info.bands))
        return {name: table[name] for name in wanted if name in table}

    def strip(self, rows: Sequence[int], *, columns: int = 8, zoom: int = 2) -> bytes:
        """Return colour composites of objects, in the order given."""
        image, weight = self.images(rows)
        return png(strip(image, weight, self.noise, columns=columns), zoom=zoom)

    def images(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of objects, ``(N, B, H, W)``, nJy and nJy⁻²."""
        cutouts = self._take(rows)
        return cutouts.image, cutouts.weight

    def _take(self, rows: Sequence[int] | np.ndarray) -> Cutouts:
        assert self.objects.store_row is not None
        at = self.objects.store_row[np.asarray(rows, dtype=np.int64)]
        if (at < 0).any():
            raise InputError(f"{self.store.directory}: object {self.objects.object_id[rows[0]]} is not in it")
        return self.store.take(at)

    def walk(
        self,
        row: int | None,
        offsets: Sequence[float],
        *,
        fwhm_arcsec: float = 0.0,
        noise: float = 0.0,
        zoom: int = 6,
    ) -> bytes:
        """Draw a galaxy at steps along the principal directions, from an object (None: the middle of all)."""
        middle, directions = self.objects.directions
        start = middle if row is None else self.objects.latent[row]
        number = min(len(offsets), len(directions))
        latent = start + np.asarray(offsets[:number], dtype=np.float32) @ directions[:number]
        return self._drawn(latent[None], fwhm_arcsec, noise, columns=1, zoom=zoom)

    def between(self, first: int, second: int, number: int = 8, *, zoom: int = 2) -> bytes:
        """Draw what lies between two objects, on a straight line in the latent."""
        step = np.linspace(0, 1, number, dtype=np.float32)[:, None]
        latent = (1 - step) * self.objects.latent[first] + step * self.objects.latent[second]
        return self._drawn(latent, 0.0, 0.0, columns=number, zoom=zoom)

    def _drawn(
        self, latent: np.ndarray, fwhm_arcsec: float, noise: float, *, columns: int, zoom: int
    ) -> bytes:
        seen = add_seeing_and_noise(
            self.render(latent),
            fwhm_pixels=fwhm_arcsec / self.store.info.pixel_scale_arcsec,
            noise=noise * self.noise,
            rng=np.random.default_rng(1),
        )
        return png(lay_out([colour_composite(one, self.noise) for one in seen], columns), zoom=zoom)

    def fit_dropped(self, image: np.ndarray, weight: np.ndarray | None) -> Dropped:
        """Fit a cutout ``(B, H, W)`` in nJy; a band that is all NaN or zero is missing.

        Without a weight, the noise of each band is measured at the cutout's edges.

        Raises
        ------
        InputError
            Another shape than the model's.
        """
        if self.model is None:
            raise InputError("fitting needs the model: give it with --model")
        expected = self.store.shape
        if image.shape != expected:
            raise InputError(
                f"this cutout has the shape {image.shape}; bands, height and width must be {expected}: bands "
                f"{', '.join(self.store.info.bands)}"
            )
        image = image.astype(np.float32)
        weight = weight_from_edges(image) if weight is None else weight.astype(np.float32)
        is_valid = (weight > 0) & np.isfinite(image) & np.isfinite(weight)
        weight, image = np.where(is_valid, weight, 0), np.where(is_valid, image, 0)
        with self._lock:
            if self._fitter is None:
                self._fitter = Fitter(self.model, self.settings, self.store.info)
            pixels, weights = torch.from_numpy(image[None]), torch.from_numpy(weight[None].astype(np.float32))
            dropped = Cutouts(object_id=np.array([0]), image=image[None], weight=weight[None])
            found = self._fitter.fit(np.array([0]), pixels, weights, sight=self._fitter.sight(dropped))
            columns = self._fitter.features(np.array([0]), found, {})
            fitted = self._fitter.reconstruct(found)[0]
        if columns["status"][0] == "too_little_data":
            raise InputError("this cutout has too few valid pixels to be fitted")
        picture = png(panels(image, weight, fitted, fitted, self.noise), zoom=3)
        missing = [b for b, band in enumerate(self.store.info.bands) if not is_valid[b].any()]
        return Dropped(
            latent=columns["latent"][0],
            reduced_chi2=float(columns["chi2"][0] / max(1, columns["dof"][0])),
            picture=picture,
            predicted_njy={self.store.info.bands[b]: float(fitted[b].sum()) for b in missing},
        )


def weight_from_edges(image: np.ndarray) -> np.ndarray:
    """Return inverse variances ``(B, H, W)`` from the robust scatter of the outer pixels of each band."""
    edge = np.ones(image.shape[-2:], dtype=bool)
    edge[EDGE_PIXELS:-EDGE_PIXELS, EDGE_PIXELS:-EDGE_PIXELS] = False
    out = np.zeros(image.shape, dtype=np.float32)
    for band, pixels in enumerate(image):
        outer = pixels[edge & np.isfinite(pixels)]
        if outer.size:
            sigma = float(robust_scatter(outer))
            if sigma > 0:
                out[band] = np.where(np.isfinite(pixels), sigma**-2, 0)
    return out


def read_dropped(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a cutout and, where it has one, its weight from an uploaded file: ``.npy``, ``.npz`` or FITS.

    A FITS file holds a cube, or an image HDU for each band; an HDU named WEIGHT (or IVAR) of the cube's shape
    is its weight. In an ``.npz`` the arrays are ``image`` and, if there is one, ``weight``.

    Raises
    ------
    InputError
        Too large, another format, damaged, or no image in it.
    """
    if len(content) > MAX_UPLOAD_BYTES:
        raise InputError(f"{name}: {len(content)} bytes are more than the {MAX_UPLOAD_BYTES} allowed")
    try:
        if name.endswith((".npy", ".npz")):
            image, weight = _read_numpy(name, content)
        elif name.endswith((".fits", ".fit", ".fits.gz")):
            image, weight = _read_fits(content)
        else:
            raise InputError(f"{name}: unknown format; use .fits, .npy or .npz")
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes a reader do is the file's fault
        raise InputError(f"{name}: cannot be read ({error})") from error
    if image.ndim != 3 or image.dtype.kind not in "fiu":
        raise InputError(f"{name}: holds an array of shape {image.shape}; bands, height and width are needed")
    return image, weight


def _read_numpy(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    found: Any = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found, None
    if sum(one.file_size for one in found.zip.infolist()) > MAX_UPLOAD_BYTES:
        raise InputError(f"{name}: unpacks to more than the {MAX_UPLOAD_BYTES >> 20} MiB that may be sent")
    if "image" not in found:
        raise InputError(f"{name}: has no array `image`; it has {sorted(found)}")
    return found["image"], found.get("weight")


def _read_fits(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    from astropy.io import fits

    images, weight = [], None
    with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False) as file:
        for hdu in file:
            if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
                continue
            shape = hdu.shape
            if not shape or np.prod([float(n) for n in shape]) * 8 > MAX_UPLOAD_BYTES:
                continue
            data = np.asarray(hdu.data)
            if hdu.name.upper() in ("WEIGHT", "IVAR"):
                weight = data
            else:
                images.append(data)
    if not images:
        raise InputError("no image in this FITS file")
    return (images[0] if images[0].ndim == 3 else np.stack(images)), weight
