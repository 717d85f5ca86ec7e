"""Foreign cutouts (made by other software), read in nJy and nJy⁻²; see `deepfits.survey.readers`.

Shapes: N objects, B bands, H, W pixels in the file, S side of the store's cutouts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deepfits.errors import InputError
from deepfits.hdf5 import read_column
from deepfits.passbands import COLUMN, wavelength_in_header
from deepfits.splits import evenly_spaced
from deepfits.survey.bands import band_name
from deepfits.survey.cutout_description import store_bands
from deepfits.survey.fill import Fill, find_marks, without_data
from deepfits.survey.masks import MOSTLY_MASKED, MaskRule
from deepfits.survey.noise import (
    FEW_PIXELS,
    MAX_RIM_SIGMAS,
    brightest_flux,
    clipped_statistics,
    difference_noise,
    rim,
    rim_pixels,
    weight_doubts,
)
from deepfits.survey.remarks import of_band
from deepfits.survey.store import BandOrder
from deepfits.survey.weights import inverse_variance, usable_range
from deepfits.tables import identities, require_unique

SAMPLE = 200
UNLIKE_NOISE = 1.35
"""Ratio of the 98th to the 2nd percentile of the objects' noise above which each object gets its own weight.

The threshold on the log of the ratio is raised by 4/√n, the spread expected from measuring on n pixels.
"""
LEAST_NOISE = 1e-15  # minimum noise, nJy; the weight for smaller values would overflow float32


@dataclass(kw_only=True)
class ForeignCutouts:
    """Cutouts open for reading.

    `raw` reads objects ``start`` to ``stop`` as stored: image, and weight and mask or None; `psf` their PSFs,
    ``(n, B, K, 2)``, NaN where unknown, if the file has any. `from_headers` returns further columns, by name,
    of the objects in some rows: positions and the wavelengths of filters from the headers of FITS files,
    which are known only once an object has been read.

    In bands in which each object is weighted by its own noise, `own_noise` holds, by the band's index, the
    noise in nJy for objects with too few pixels to measure it, and the ratio of the rim's noise to
    `difference_noise`, both medians over objects.
    """

    bands: tuple[str, ...]  # in the order of the arrays
    number: int  # N
    pixel_scale_arcsec: float  # 0 if unknown
    fwhm_arcsec: tuple[float, ...]  # of the PSF per band; empty if unknown
    object_id: np.ndarray  # (N,)
    columns: dict[str, np.ndarray]  # (N,) each
    factor: np.ndarray  # (B,) nJy per unit of the arrays
    raw: Callable[[int, int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    psf: Callable[[int, int], np.ndarray] | None = None
    from_headers: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda rows: {}
    absent_bands: tuple[str, ...] = ()  # bands of the store that the file lacks
    has_identity: bool = True  # in the file; otherwise objects are numbered
    weight_is: str = "ivar"  # one of `WEIGHT_ROLES`
    mask: MaskRule | None = None
    remarks: list[str] = field(default_factory=list)  # on what was decided
    constant: np.ndarray = field(default_factory=lambda: np.ones(1))  # (B,) weight, if the file has none
    own_noise: dict[int, tuple[float, float]] = field(default_factory=dict)
    has_weights: bool = True
    may_be_relative: bool = False
    are_exposure_times: bool = False  # and so relative weights
    weight_scale: np.ndarray = field(default_factory=lambda: np.ones(1))  # (B,) applied to weights
    credible: np.ndarray = field(default_factory=lambda: np.array([[0.0, np.inf]]))  # (B, 2) of weights
    fill: dict[int, list[Fill]] = field(default_factory=dict)  # marks of pixels without data, by band's index
    noise: np.ndarray = field(default_factory=lambda: np.full(1, np.nan))  # (B,) nJy, of the rims of a sample
    brightest: np.ndarray = field(default_factory=lambda: np.full(1, np.inf))  # (B,) nJy; no data above

    @property
    def store_bands(self) -> tuple[str, ...]:
        """Bands of a store made from these cutouts: the file's bands and the absent ones."""
        return store_bands(self.bands, self.absent_bands)

    def read(self, start: int, stop: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of objects `start` to `stop`, ``(n, B, S, S)`` float32, nJy and nJy⁻².

        Cutouts larger than `size` are cropped about their centre, smaller ones padded with weight 0; with
        ``size=None`` they keep their shape.
        """
        flux, out = self.converted(*self.raw(start, stop))
        return (flux, out) if size is None else (to_shape(flux, size, size), to_shape(out, size, size))

    def converted(
        self, image: np.ndarray, weight: np.ndarray | None, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Convert the output of `raw` to nJy and nJy⁻², with weight 0 where there is no data."""
        factor = self.factor[:, None, None]
        with np.errstate(all="ignore"):
            flux = (image * factor).astype(np.float32)
            if weight is None:
                out = np.broadcast_to(self.constant[:, None, None], flux.shape).astype(np.float32)
            else:
                scale = self.weight_scale[:, None, None] / factor**2
                out = inverse_variance(weight, self.weight_is, scale)
                low, high = (self.credible[:, i, None, None] for i in (0, 1))
                out = np.where((out > low) & (out < high), out, np.float32(0))
            is_bad = ~np.isfinite(flux) | (np.abs(flux) > self.brightest[:, None, None])
        for band, fills in self.fill.items():
            if fills:
                is_bad[:, band] |= without_data(fills, image[:, band])
        if mask is not None and self.mask is not None:
            is_bad |= np.broadcast_to(self.mask.is_bad(mask), flux.shape)
        out = np.where(is_bad, np.float32(0), out)
        flux = np.where(out > 0, flux, np.float32(0))
        for band, (usual, ratio) in self.own_noise.items():
            for object_flux, object_weight in zip(flux[:, band], out[:, band], strict=True):
                sigma, number = difference_noise(object_flux, object_weight > 0)
                object_weight[object_weight > 0] = (
                    ratio * sigma if number >= FEW_PIXELS and sigma > LEAST_NOISE else usual
                ) ** -2.0
        return flux, out

    def read_for_store(self, start: int, stop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight as `read` does, in the store's bands, with weight 0 in absent bands."""
        image, weight = self.read(start, stop, size)
        if not self.absent_bands:
            return image, weight
        places = tuple(self.bands.index(b) if b in self.bands else None for b in self.store_bands)
        order = BandOrder(bands=self.store_bands, places=places)
        return order.take(image, 0), order.take(weight, 0)

    def per_store_band(self, values: tuple[float, ...], default: float) -> tuple[float, ...]:
        """Reorder values for the file's bands into the store's bands, with `default` for absent ones."""
        known = dict(zip(self.bands, values, strict=False))
        return tuple(known.get(b, default) for b in self.store_bands)


def named_filters(bands: Iterable[str], number: int) -> dict[str, np.ndarray]:
    """Return the wavelengths of filters whose names tell the camera, by column, ``(N,)`` each.

    Examples
    --------
    >>> {name: values.tolist() for name, values in named_filters(["HSC-G", "des-r", "i"], 1).items()}
    {'filter_wavelength_g': [4809.0], 'filter_wavelength_r': [6438.0]}
    """
    found = {band_name(name): wavelength_in_header({"FILTER": name}, band_name(name)) for name in bands}
    return {f"{COLUMN}_{band}": np.full(number, value) for band, value in found.items() if value is not None}


def to_shape(array: np.ndarray, height: int, width: int, *, empty: float = 0.0) -> np.ndarray:
    """Crop or pad the last two axes about the pixel length // 2, the one nearest to an object's centre."""
    out = np.full((*array.shape[:-2], height, width), empty, array.dtype)
    pairs = zip(array.shape[-2:], (height, width), strict=True)
    (to_y, from_y), (to_x, from_x) = (_overlap(length, size) for length, size in pairs)
    out[..., to_y, to_x] = array[..., from_y, from_x]
    return out


def _overlap(length: int, size: int) -> tuple[slice, slice]:
    """Return the slices (into `size` pixels, from `length` pixels) that copy an axis with centres aligned."""
    start = length // 2 - size // 2
    first, last = max(start, 0), min(start + size, length)
    return slice(first - start, last - start), slice(first, last)


def plain_values(array: Any) -> np.ndarray:
    """Return an array or an HDF5 dataset as a NumPy array of numbers or str."""
    if isinstance(array, h5py.Dataset) and h5py.check_string_dtype(array.dtype) is not None:
        return read_column(array)
    values = np.asarray(array[()] if isinstance(array, h5py.Dataset) else array)
    return values.astype(str) if values.dtype.kind == "S" else values


def check_identity(array: Any, path: Path, number: int) -> np.ndarray:
    """Return unique identities as int64 or str."""
    values = plain_values(array)
    if values.shape != (number,):
        raise InputError(f"{path}: object_id has shape {values.shape}, for {number} objects")
    values = identities(values, path)
    require_unique(values, path)
    return values


_Raw = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def _stacked(parts: list[_Raw]) -> _Raw:
    """Stack objects that were read one by one; if their shapes differ, padded with NaN of weight 0."""
    shapes = [image.shape[-2:] for image, _, _ in parts]
    side = np.max(shapes, axis=0)
    if len(set(shapes)) > 1:
        parts = [
            (to_shape(image, *side, empty=np.nan), None if weight is None else to_shape(weight, *side), None)
            for image, weight, _ in parts
        ]
    weight, mask = (
        None if parts[0][n] is None else np.concatenate([part[n] for part in parts]) for n in (1, 2)
    )
    return np.concatenate([image for image, *_ in parts]), weight, mask


def resolve_weights(cutouts: ForeignCutouts) -> None:
    """Measure the noise on the rims of a sample of cutouts, to set the weights or to check existing ones.

    The sample is spread evenly over the file, because problems occur in runs, e.g. per tile of a survey.
    """
    if cutouts.number == 0:
        raise InputError("the file holds no cutout")
    num_bands = len(cutouts.bands)
    cutouts.weight_scale = np.ones(num_bands)
    cutouts.credible = np.tile([0.0, np.inf], (num_bands, 1))
    sample = [cutouts.raw(int(row), int(row) + 1) for row in evenly_spaced(cutouts.number, SAMPLE)]
    raw = _stacked(sample)
    _settle_fill(cutouts, raw[0], cutouts.converted(*raw)[1])
    image, weight = cutouts.converted(*raw)
    has_data = [bool((weight[:, band] > 0).any()) for band in range(num_bands)]
    if not any(has_data):
        raise InputError(
            f"none of {len(sample)} sampled cutouts has a pixel with data; check weight, the polarity of the "
            "mask (mask_nonzero_is), and whether the values overflow their type"
        )
    cutouts.remarks += [
        f"WARNING: {band}: none of {len(sample)} sampled cutouts has data in this band"
        for band, is_there in zip(cutouts.bands, has_data, strict=True)
        if not is_there and cutouts.has_weights
    ]
    _warn_if_masked(cutouts, raw[2])
    cutouts.noise = np.full(num_bands, np.nan)
    cutouts.brightest = np.full(num_bands, np.inf)
    for band in range(num_bands):
        if cutouts.has_weights:
            cutouts.credible[band], remarks = usable_range(weight[:, band], cutouts.weight_is)
            cutouts.remarks += of_band(cutouts.bands[band], remarks)
            low, high = cutouts.credible[band]
            weight[:, band] *= (weight[:, band] > low) & (weight[:, band] < high)
        _measure_noise(cutouts, band, image[:, band], weight[:, band])
    if cutouts.has_weights:
        _compare_objects(cutouts, sample)
    else:
        _weight_by_noise(cutouts, sample)


def _measure_noise(cutouts: ForeignCutouts, band: int, image: np.ndarray, weight: np.ndarray) -> None:
    """Measure the noise of a band on the rims of sampled cutouts, ``(n, H, W)``, and check the weights."""
    fluxes, weights = rim_pixels(image, weight)
    level, sigma = clipped_statistics(fluxes)
    cutouts.noise[band] = sigma
    if abs(level) > MAX_RIM_SIGMAS * sigma:
        cutouts.remarks.append(
            f"WARNING: {cutouts.bands[band]}: the sky at the cutouts' rims lies at {level / sigma:.1f} σ; "
            "subtract it first"
        )
    if not sigma > 0:
        return
    stated = float(np.median(weights)) ** -0.5
    expected = max(sigma, stated if cutouts.has_weights else 0.0)
    cutouts.brightest[band], remarks = brightest_flux(image, expected)
    cutouts.remarks += of_band(cutouts.bands[band], remarks)
    if cutouts.has_weights:
        _compare_weights(cutouts, band, stated)


def _weight_by_noise(cutouts: ForeignCutouts, sample: list[_Raw]) -> None:
    """Set the weights of cutouts without any, from the noise of all objects or of each."""
    if not (is_noise := cutouts.noise > LEAST_NOISE).all():
        odd = int(np.argmin(is_noise))
        raise InputError(
            f"band {cutouts.bands[odd]}: the cutouts' rims do not vary by more than {cutouts.noise[odd]:g} "
            "nJy, so no noise can be measured; give weight, or check the polarity of the mask "
            "(mask_nonzero_is), the unit and the zero point"
        )
    cutouts.constant = cutouts.noise**-2.0
    _settle_own_noise(cutouts, sample)
    if len(cutouts.own_noise) < len(cutouts.bands):
        cutouts.remarks.append("no weights: constant weight from the noise measured on the cutouts' rims")
    if names := ", ".join(cutouts.bands[band] for band in cutouts.own_noise):
        cutouts.remarks.append(
            f"no weights, and the noise in {names} differs between objects: each object's weight is from its "
            "own noise"
        )


def _compare_objects(cutouts: ForeignCutouts, sample: list[_Raw]) -> None:
    """Warn if the weights of objects of different depth do not follow their noise."""
    stated, spread = np.full((2, len(sample), len(cutouts.bands)), np.nan)
    for place, raw in enumerate(sample):
        image, weight = (part[0] for part in cutouts.converted(*raw))
        for band in range(len(cutouts.bands)):
            sigma, number = difference_noise(image[band], weight[band] > 0)
            if number >= FEW_PIXELS and sigma > 0:
                stated[place, band] = np.median(rim_pixels(image[[band]], weight[[band]])[1])
                spread[place, band] = sigma
    remedies = {role: f'give weight_is = "{role}"' for role in ("rms", "variance")}
    for band, name in enumerate(cutouts.bands):
        is_used = stated[:, band] > 0
        doubts = weight_doubts(stated[is_used, band], spread[is_used, band], remedies)
        cutouts.remarks += [f"WARNING: {name}: {text}" for text in doubts]


def _settle_own_noise(cutouts: ForeignCutouts, sample: list[_Raw]) -> None:
    """Determine the bands in which the noise differs between objects."""
    rim_sigma, sigma, number = (np.full((len(sample), len(cutouts.bands)), np.nan) for _ in range(3))
    for place, raw in enumerate(sample):
        image, weight = (part[0] for part in cutouts.converted(*raw))
        outer = rim(*image.shape[1:])
        for band, (flux, is_valid) in enumerate(zip(image, weight > 0, strict=True)):
            sigma[place, band], number[place, band] = difference_noise(flux, is_valid)
            rim_sigma[place, band] = clipped_statistics(flux[is_valid & outer])[1]
    for band in range(len(cutouts.bands)):
        is_used = (number[:, band] >= FEW_PIXELS) & (sigma[:, band] > 0) & (rim_sigma[:, band] > 0)
        if not is_used.any():
            continue
        noise, count = sigma[is_used, band], np.median(number[is_used, band])
        low, high = np.percentile(noise, [2, 98])
        if np.log(high / low) > np.log(UNLIKE_NOISE) + 4 / np.sqrt(count):
            ratio = float(np.median(rim_sigma[is_used, band] / noise))
            cutouts.own_noise[band] = ratio * float(np.median(noise)), ratio


def _settle_fill(cutouts: ForeignCutouts, counts: np.ndarray, weight: np.ndarray) -> None:
    """Find fill values: pixels without data, whatever their weights."""
    for band, name in enumerate(cutouts.bands):
        cutouts.fill[band], remarks = find_marks(counts[:, band], weight[:, band])
        cutouts.remarks += of_band(name, remarks)


def _warn_if_masked(cutouts: ForeignCutouts, mask: np.ndarray | None) -> None:
    """Warn if the mask removes more than half of the pixels, or of the central pixels."""
    if mask is None or cutouts.mask is None:
        return
    is_bad = cutouts.mask.is_bad(mask)
    y, x = is_bad.shape[-2] // 2, is_bad.shape[-1] // 2
    for what, share in (("pixels", is_bad.mean()), ("cutouts' centres", is_bad[..., y, x].mean())):
        if share > MOSTLY_MASKED:
            cutouts.remarks.append(
                f"WARNING: the mask removes {share:.0%} of the {what} ({cutouts.mask.words}); give the bad "
                "bits (bad_planes), or check mask_nonzero_is"
            )
            return


def _compare_weights(cutouts: ForeignCutouts, band: int, stated: float) -> None:
    """Compare the noise implied by the weights with the measured noise; rescale relative weights."""
    ratio = float(cutouts.noise[band]) / stated
    if 0.5 < ratio < 2 and not cutouts.are_exposure_times:
        return
    if cutouts.may_be_relative:
        cutouts.weight_scale[band] = ratio**-2
        cutouts.credible[band] *= ratio**-2
        cutouts.remarks.append(
            f"{cutouts.bands[band]}: relative weights: the measured noise is {ratio:.3g} times what they "
            "imply; rescaled"
        )
    elif ratio > 5 or ratio < 0.2:
        cutouts.remarks.append(
            f"WARNING: {cutouts.bands[band]}: the noise at the cutouts' rims is {ratio:.3g} times what the "
            "weights imply; check weight_is, the unit and the polarity"
        )
