"""The planes of one band: image in nJy and weight in nJy⁻², read a few rows at a time.

Whatever a file holds (weight, variance, rms, mask bits, NaN, nothing), a `Plane` returns the same two arrays,
and documents its decisions in `remarks`. Rows are read from disk on request, so that an image need not fit
into memory.

Shapes: H, W pixels of the plane.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from deepfits.config import check
from deepfits.errors import InputError, NoDataError, listed, naming
from deepfits.photometry import njy_per_count
from deepfits.survey.astrometry import pixel_scale_of
from deepfits.survey.bands import given_for
from deepfits.survey.companions import SHARED
from deepfits.survey.cutting import Rows
from deepfits.survey.extra_planes import find_extras
from deepfits.survey.fill import HALF_STEP, Fill, find_marks, without_data
from deepfits.survey.fitsfile import OpenFiles, as_float, image_hdus, quantisation_step, quiet, stem_of
from deepfits.survey.hdu_roles import meaning_of_mask, name_of, sky_images
from deepfits.survey.image_source import ImageSource
from deepfits.survey.masks import BAD_MASK_PLANES, MOSTLY_MASKED
from deepfits.survey.noise import FEW_PIXELS, Noise, brightest_flux, depth_of, measure_noise, sample_rows
from deepfits.survey.pixels import HduPixels, calibrated, cards_of_all_layers
from deepfits.survey.reading import FieldReadingOptions
from deepfits.survey.sky_surface import SkySurface
from deepfits.survey.weights import usable_range
from deepfits.survey.zeropoint import HSC_COADD_ZERO_POINT, parse_per_band, rate_doubts

Blocks = list[tuple[np.ndarray, np.ndarray | None]]
"""Image and weight, or None, of some blocks of rows."""

STRIP = 512  # rows read at a time
# Weights whose implied noise is off by more than this factor, for pixels or for sums over many, are relative,
# and rescaled.
RELATIVE_FACTOR = 1.25
# Limits on the depth (5σ in 2″, AB) implied by a header's zero point; beyond, the zero point is wrong.
CREDIBLE_DEPTH = (8.0, 36.0)
# Depth above which a zero point of one count per second may have been taken for one of a count.
SHALLOW = 19.0


@dataclass(frozen=True, kw_only=True)
class ReadOptions(FieldReadingOptions):
    """Validated options for reading planes: zero points by band (``""``: all others), and bad mask planes.

    Decompressed copies of files are kept in the directory `unpacked`, to be reused.
    """

    zero_point: Mapping[str, float] = field(default_factory=dict)
    bad_planes: tuple[str | int, ...] = BAD_MASK_PLANES
    unpacked: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "zero_point", parse_per_band(self.zero_point, "zero_point"))
        planes = BAD_MASK_PLANES if self.bad_planes is None else tuple(self.bad_planes)
        object.__setattr__(self, "bad_planes", planes)
        check(self, where="reading")

    @property
    def says_what_is_bad(self) -> bool:
        """Whether the user gave the meaning of the mask; if so, a mask shared by all bands is used."""
        return self.mask_polarity is not None or tuple(self.bad_planes) != BAD_MASK_PLANES

    def used_of(self, source: ImageSource) -> list[tuple[Path, str]]:
        """Return the companion files of an image that are used, each with its kind."""
        return [
            (path, kind)
            for path, kind in source.companions
            if kind != f"mask{SHARED}" or self.says_what_is_bad or meaning_of_mask(stem_of(path))
        ]


class Plane:
    """Image and weight of one band, open for reading.

    Beside the properties of `CalibratedPixels` it has a `weight_kind`, one of `WEIGHT_ROLES` or ``measured``;
    a `noise`, background level and noise in nJy, measured on a sample of rows; and a `noise_correlation`, the
    ratio of the noise in large apertures to that of independent pixels with these weights.
    """

    def __init__(self, source: ImageSource, options: ReadOptions, files: OpenFiles) -> None:
        self.source, self.options = source, options
        self.path = source.path
        hdus = files.open(self.path)
        self._image = hdus[self._image_number(hdus)]
        extras = find_extras(source, hdus, self._image, options.used_of(source), files)
        self._has_shared_weights = extras.has_shared_weights
        given = given_for(source.band, options.zero_point)
        defaults = {"hsc": (HSC_COADD_ZERO_POINT, "HSC coadds"), "sdss": (22.5, "SDSS frames")}
        self._pixels = calibrated(
            hdus,
            HduPixels(hdu=self._image, path=source.path, layer=source.layer),
            extras.planes,
            zero_point=given,
            default=defaults.get(source.layout),
            bad_planes=options.bad_planes,
            mask_polarity=options.mask_polarity,
            remedy=f"give zero_point, for example zero_point=27.0 or zero_point={source.band}=27.0",
        )
        self.remarks: list[str] = self._pixels.remarks + extras.notes
        header = self._pixels.header
        self.header = header if source.layer is None else cards_of_all_layers(header)
        self.shape: tuple[int, int] = self._pixels.image.shape
        self.wcs = self._pixels.wcs
        self.pixel_scale = self._pixel_scale()
        self.zero_point = self._pixels.zero_point
        self.has_mask = bool(self._pixels.masks)
        self.weight_kind = self._pixels.weight_role or "measured"
        self._scale = 1.0
        self._noise_over_stated = 1.0
        self._constant: float | None = None
        self._fills: list[Fill] = []
        self._credible = 0.0, math.inf
        self._brightest = math.inf
        self._sky: SkySurface | None = None
        self.noise = self._measure()
        if options.subtract_sky:
            self._sky = SkySurface(*self.read())
            self.noise = replace(self.noise, level=self.noise.level - self._sky.level)
            self.remarks.append(
                f"the sky that was left is subtracted, {self._sky.level:.3g} nJy in the middle"
            )
        if given is None:
            self._check_depth(self._pixels.zero_point_source)
        self.noise_correlation = self._correlation()

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows ``start`` to ``stop`` (excluded).

        Returns image and weight, ``(stop − start, W)`` float32, nJy and nJy⁻². The image is 0 where the
        weight is 0.
        """
        image, weight = self._usable(*self._pixels.rows(start, stop, self._scale), start)
        if self._sky is not None:
            image = np.where(weight > 0, image - self._sky.rows(start, stop), 0)
        return image, weight

    def _usable(
        self, image: np.ndarray, weight: np.ndarray | None, start: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set image and weight of rows from `start` on to 0, in place, where there are no usable data."""
        stop = start + len(image)
        if weight is None:
            weight = np.full(image.shape, 1.0 if self._constant is None else self._constant, np.float32)
        fills = self._fills
        if all(fill.value == 0 and fill.half_step is None for fill in fills) and not (image == 0).any():
            fills = []
        low, high = self._credible
        with np.errstate(over="ignore", invalid="ignore"):
            is_valid = (np.abs(image) < self._brightest) & (weight > low) & (weight < high)
        if fills:
            margin = max(fill.margin for fill in fills)
            first, last = max(start - margin, 0), min(stop + margin, self.shape[0])
            is_fill = without_data(fills, self._pixels.image.rows(first, last), first)
            is_valid &= ~is_fill[start - first : stop - first]
        if not is_valid.all():
            weight[~is_valid] = 0
            image[~is_valid] = 0
        return image, weight

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the whole plane: image and weight, ``(H, W)``."""
        return read_all(self)

    def _image_number(self, hdus: fits.HDUList) -> int:
        numbers = image_hdus(hdus)
        if self.source.hdu is not None:
            if self.source.layer is None and self.source.hdu not in numbers:
                raise InputError(
                    f"{self.path}: HDU {self.source.hdu} is not an image; images are in HDUs {numbers}"
                )
            return self.source.hdu
        found = sky_images(hdus)
        if not found:
            if numbers:
                raise InputError(
                    f"{self.path}: no image of the sky, by the names of its HDUs "
                    f"({', '.join(name_of(hdus[n]) for n in numbers[:6])}); if HDU {numbers[0]} is one, give "
                    f"it: {self.source.band}={self.path}[{numbers[0]}]"
                )
            shapes = [tuple(h.shape or ()) for h in hdus if h.is_image]
            of_cutouts = "; for a cube of cutouts write a TOML file (deepfits cutouts mine.toml)"
            remedy = of_cutouts if any(len(shape) == 3 for shape in shapes) else ""
            raise InputError(f"{self.path}: no two-dimensional image in this file (found {shapes}){remedy}")
        if len(found) > 1 and self.source.layout != "hsc":
            raise InputError(
                f"{self.path}: holds {len(found)} images of the sky, in HDUs {listed(found)}; give the "
                f"one to use, {self.source.band}={self.path}[{found[0]}], or stack them with "
                "`deepfits stack`"
            )
        return found[0]

    def _pixel_scale(self) -> float:
        if self.wcs is not None:
            return pixel_scale_of(self.wcs)
        reason = next(iter(self._pixels.wcs_remarks), "no WCS in the header")
        if self.options.assume_aligned and self.options.pixel_scale is not None:
            return self.options.pixel_scale
        remedy = "give pixel_scale (arcseconds)"
        if not self.options.assume_aligned:
            remedy = f"if the bands are aligned, {remedy} and assume_aligned, else solve the astrometry first"
        raise InputError(f"{self.path}: {reason}; {remedy}")

    def _check_depth(self, source: str) -> None:
        """Reject a zero point from `source` if it implies an impossible depth; warn of a suspicious one."""
        depth = depth_of(self.noise.sigma, self.pixel_scale)
        if not CREDIBLE_DEPTH[0] < depth < CREDIBLE_DEPTH[1]:
            raise InputError(
                f"{self.path}: the zero point {self.zero_point:.4g} from {source} implies a depth of "
                f"{depth:.1f} AB (5σ in 2″) for this image, which is impossible; give zero_point, for "
                f"example zero_point={self.source.band}=27.0"
            )
        if depth < SHALLOW:
            doubts = (f"WARNING: {text}" for text in rate_doubts(self.header, self.zero_point, source))
            self.remarks += [text for text in doubts if text not in self.remarks]

    def _correlation(self) -> float:
        """Return the noise correlation: NOISCORR, in simulated and stacked coadds, else as measured.

        Weights may state the noise that pixels would have without correlation, which is larger than their
        scatter: then the correlation is in the weights already.
        """
        stated = as_float(self._pixels.header.get("NOISCORR"))
        measured = max(1.0, self.noise.correlation * min(self._noise_over_stated, 1.0))
        return stated if 0.5 <= stated <= 20 else measured

    def _measure(self) -> Noise:
        """Measure background and noise on a sample of rows, and determine the meaning of the weights."""
        has_weight = self._pixels.weight_role is not None
        rows = sample_rows(self.shape[0])
        blocks = [self._pixels.rows(start, stop) for start, stop in rows]
        if has_weight:
            self._settle_range(blocks)
        self._settle_fill(rows, blocks)
        image, weight = self._usable_blocks(rows, blocks)
        if not (weight > 0).any():
            image, weight = self.read()
        if not (weight > 0).any():
            raise NoDataError(
                f"{self.path}: no pixel with data (all NaN, 0, masked or of weight 0); leave this "
                + ("file out" if self.source.layer is None else f"band, {self.source.band}, out (bands)")
                + ", or use allow_missing to keep its objects with weight 0"
            )
        self._warn_if_masked(rows)
        noise = measure_noise(image, weight > 0)
        if noise is None and has_weight and (weight > 0).sum() < FEW_PIXELS:
            self.remarks.append("WARNING: hardly any pixels have data; check the polarity of the mask")
            return Noise(level=0.0, sigma=float(np.median(weight[weight > 0])) ** -0.5)
        if noise is None:
            raise InputError(
                f"{self.path}: the pixels do not vary, so no noise can be measured; not a survey image"
            )
        expected = max(noise.sigma, float(np.median(weight[weight > 0])) ** -0.5 if has_weight else 0.0)
        self._brightest, remarks = brightest_flux(image, expected)
        self.remarks += remarks
        self._settle_saturation(image)
        if not has_weight:
            self._constant = noise.sigma**-2
            self.remarks.append(
                f"no weight plane: constant weight from the measured noise of {noise.sigma:.3g} nJy"
            )
        else:
            self._settle_scale(noise, image, weight)
        return noise

    def _settle_saturation(self, image: np.ndarray) -> None:
        """Find the flux from which on pixels are saturated, by ``SATURATE``, with a sample of the image.

        If pixels exceed it by a factor of two, more than exposures differ, it is not for these counts.
        """
        level = as_float(self.header.get("SATURATE"))
        flux = level * njy_per_count(self.zero_point) * (1 - 1e-5)  # of pixels in float32
        if 0 < flux < self._brightest and image.max() < 2 * flux:
            self._brightest = flux
            if share := float((image >= flux).mean()):
                self.remarks.append(
                    f"{100 * share:.2g}% of pixels are saturated (SATURATE = {level:g}): treated as no data"
                )

    def _usable_blocks(self, rows: list[tuple[int, int]], blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of blocks of rows, with what is known of pixels without data so far."""
        usable = [
            self._usable(image.copy(), None if weight is None else weight.copy(), start)
            for (image, weight), (start, _) in zip(blocks, rows, strict=True)
        ]
        image, weight = zip(*usable, strict=True)
        return np.concatenate(image), np.concatenate(weight)

    def _settle_range(self, blocks: Blocks) -> None:
        """Determine the range of credible weights; values outside mark pixels without data."""
        image, weight = (np.concatenate([np.asarray(block[k]) for block in blocks]) for k in (0, 1))
        is_absolute = self._pixels.weight_role != "weight"
        noise = measure_noise(image, np.isfinite(image)) if is_absolute else None
        self._credible, remarks = usable_range(
            weight, str(self._pixels.weight_role), None if noise is None else noise.sigma**-2
        )
        self.remarks += remarks

    def _settle_fill(self, rows: list[tuple[int, int]], blocks: Blocks) -> None:
        """Find the values that mark pixels without data."""
        counts = np.concatenate([self._pixels.image.rows(a, b) for a, b in rows])
        weight = None
        if self._pixels.weight_role is not None:
            weight = self._usable_blocks(rows, blocks)[1]
        step, is_dithered = quantisation_step(self._image)
        steps = None if step is None else np.concatenate([step[start:stop] for start, stop in rows])
        fills, remarks = find_marks(counts, weight, steps, is_dithered)
        all_rows = None if step is None else step * HALF_STEP
        self._fills = [f if f.half_step is None else replace(f, half_step=all_rows) for f in fills]
        self.remarks += remarks
        has_data = np.isfinite(counts) & (counts != 0)
        left = float((weight[has_data] > 0).mean()) if weight is not None and has_data.any() else 1.0
        if left < 1 - MOSTLY_MASKED and not self.has_mask:
            self.remarks.append(
                f"WARNING: the {self.weight_kind} plane leaves {left:.0%} of the non-zero pixels; is it a "
                "mask, where 0 is good? name the file .mask.fits and give mask_polarity"
            )

    def _warn_if_masked(self, rows: list[tuple[int, int]]) -> None:
        """Warn if the mask removes more than the fraction `MOSTLY_MASKED` of the pixels."""
        mask, rule = self._pixels.extras.get("mask"), self._pixels.mask
        if rule is None or not isinstance(mask, HduPixels):
            return
        share = float(np.mean([rule.is_bad(mask.rows(a, b)).mean() for a, b in rows]))
        if share > MOSTLY_MASKED:
            self.remarks.append(
                f"WARNING: the mask removes {share:.0%} of the pixels ({rule.words}); are these the bad "
                "ones? (bad_planes, mask_polarity)"
            )

    def _settle_scale(self, noise: Noise, image: np.ndarray, weight: np.ndarray) -> None:
        used = weight[weight > 0]
        ratio, correlation = noise.sigma * float(np.median(used)) ** 0.5, noise.correlation
        if used.min() < used.max():
            # Not the ratio of the medians: if the depth varies, they refer to different pixels.
            normalised = measure_noise((image - noise.level) * np.sqrt(weight), weight > 0)
            if normalised is not None:
                ratio, correlation = normalised.sigma, normalised.correlation
        mode = self.options.weight_scale
        is_off = ratio > RELATIVE_FACTOR or ratio * max(correlation, 1.0) < 1 / RELATIVE_FACTOR
        may_be_relative = self._pixels.weight_role == "weight"
        is_relative = self._has_shared_weights or (
            may_be_relative and (is_off or self._pixels.are_exposure_times(weight))
        )
        if mode == "relative" or (mode == "auto" and is_relative):
            self._scale = ratio**-2
            low, high = self._credible
            self._credible = low * self._scale, high * self._scale
            self.remarks.append(
                f"relative weights: the measured noise is {ratio:.3g} times what they imply; rescaled"
            )
            return
        self._noise_over_stated = ratio
        if is_off:
            self.remarks.append(
                f"WARNING: measured noise is {ratio:.3g} times what the {self.weight_kind} plane implies; "
                "check unit and polarity, or give weight_scale relative"
            )


def read_all(plane: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Read image and weight of a whole plane, ``(H, W)`` float32, strip by strip."""
    image, weight = np.empty(plane.shape, np.float32), np.empty(plane.shape, np.float32)
    for start in range(0, plane.shape[0], STRIP):
        stop = min(start + STRIP, plane.shape[0])
        image[start:stop], weight[start:stop] = plane.rows(start, stop)
    return image, weight


def open_plane(source: ImageSource, options: ReadOptions, files: OpenFiles) -> Plane:
    """Open one plane; whatever astropy raises on damaged headers becomes an error that names the file."""
    with quiet(), naming(source.path, "damaged header"):  # cards are parsed lazily
        return Plane(source, options, files)


@contextmanager
def open_planes(
    sources: Mapping[str, ImageSource],
    options: ReadOptions,
    unusable: list[InputError] | None = None,
    *,
    may_be_empty: bool = False,
) -> Iterator[dict[str, Plane]]:
    """Open the planes of all bands of a field.

    Errors on single files are added to `unusable`, if given, and their bands left out. With `may_be_empty`,
    so are bands without data, as long as others have some. Raise `InputError` if a file is unusable, or
    images without WCS do not have the same shape.
    """
    planes: dict[str, Plane] = {}
    empty: list[InputError] | None = [] if may_be_empty else unusable
    with OpenFiles(options.unpacked) as files:
        for band, source in sources.items():
            try:
                planes[band] = open_plane(source, options, files)
            except InputError as error:
                left_out = empty if isinstance(error, NoDataError) else unusable
                if left_out is None:
                    raise
                left_out.append(error)
        if empty and may_be_empty and not planes:
            raise InputError(
                f"{next(iter(sources.values())).path}: no pixel with data in any band; leave this field out"
            )
        if planes and options.says_what_is_bad and not any(plane.has_mask for plane in planes.values()):
            option = "mask_polarity" if options.mask_polarity is not None else "bad_planes"
            raise InputError(
                f"{next(iter(planes.values())).path}: {option} is given, but no image of this field has a "
                f"mask; put the masks next to the images (NAME.mask.fits), or leave {option} out"
            )
        unplaced = next((plane for plane in planes.values() if plane.wcs is None), None)
        other = next(
            (plane for plane in planes.values() if unplaced is not None and plane.shape != unplaced.shape),
            None,
        )
        if unplaced is not None and other is not None:
            raise InputError(
                f"{other.path}: shape {other.shape}, but {unplaced.path.name}, which has no WCS, has "
                f"{unplaced.shape}; images without WCS must be aligned with the other bands, pixel to pixel"
            )
        yield planes
