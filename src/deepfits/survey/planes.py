"""The planes of one band: image in nJy and weight in nJy⁻², read some rows at a time.

Whatever a file holds (weight, variance, rms, mask bits, NaN, nothing), a `Plane` gives the same two arrays;
and says in `remarks` what it had to decide. The rows are read from the disk when they are asked for, so that
an image need not fit into memory.

Shapes: H, W pixels of the plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from deepfits.errors import InputError, nearest
from deepfits.photometry import njy_per_count
from deepfits.survey.find import ImageSource
from deepfits.survey.fitsfile import image_hdus, opened, quiet, read_rows
from deepfits.survey.noise import Noise, measure_noise, sample_rows
from deepfits.survey.roles import ROLES, number_of, role_of, sky_images
from deepfits.survey.sdss import FrameNoise, frame_noise
from deepfits.survey.zeropoint import HSC_COADD_ZERO_POINT, is_vega, zero_point_of_header

# Mask planes whose pixels have no usable flux. DETECTED is no defect; SAT and CR pixels are interpolated in
# the coadds, and what was interpolated is not data.
BAD_MASK_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "SUSPECT", "CROSSTALK", "UNMASKEDNAN")
# Too few to measure noise on.
FEW_PIXELS = 64
# A weight map whose implied noise is off by more than this factor is taken as relative, and scaled.
RELATIVE_FACTOR = 2.0
# The first of these that there is says the weights.
_WEIGHTS = ("ivar", "variance", "rms", "weight", "photon noise")


@dataclass(kw_only=True)
class ReadOptions:
    """How to read planes where the files leave a choice.

    Attributes
    ----------
    zero_point
        AB zero point per band; the key ``""`` for all others; see `zeropoint.parse_per_band`.
    pixel_scale
        Arcseconds, for images without WCS.
    assume_aligned
        Images without WCS are aligned pixel to pixel.
    bad_planes
        Names of mask planes whose pixels get weight 0.
    mask_polarity
        What a non-zero pixel of a mask without named planes means: ``"bad"`` or ``"good"``.
    weight_scale
        ``"auto"``: weights that do not agree with the measured noise are relative and are scaled;
        ``"absolute"``: inverse variances as they stand; ``"relative"``: always scaled.
    unpacked
        Directory to keep unpacked copies of compressed files in, for when they are read again.
    """

    zero_point: Mapping[str, float] = field(default_factory=dict)
    pixel_scale: float | None = None
    assume_aligned: bool = False
    bad_planes: tuple[str, ...] = BAD_MASK_PLANES
    mask_polarity: str | None = None
    weight_scale: str = "auto"
    unpacked: Path | None = None

    def __post_init__(self) -> None:
        if self.mask_polarity not in (None, "bad", "good"):
            raise InputError(
                f"mask_polarity: {self.mask_polarity!r}; say what non-zero means: 'bad' or 'good'"
            )
        if self.weight_scale not in ("auto", "absolute", "relative"):
            raise InputError(f"weight_scale: {self.weight_scale!r}; choose auto, absolute or relative")
        if self.pixel_scale is not None and not 1e-3 < self.pixel_scale < 1e4:
            raise InputError(f"pixel_scale: {self.pixel_scale!r} is no size of a pixel in arcseconds")


class Plane:
    """Image and weight of one band, open for reading.

    Attributes
    ----------
    source
        The files.
    shape
        ``(H, W)``.
    wcs
        The celestial WCS, or None.
    pixel_scale
        Arcseconds.
    zero_point
        AB, of the counts in the file.
    noise
        Background level and pixel noise, nJy, measured on some rows.
    noise_correlation
        Noise of large apertures over what independent pixels would have, as far as the header says; else 1.
    remarks
        What was decided, in words.
    header
        Of the image, with the primary header's cards where it lacks them.
    """

    def __init__(self, source: ImageSource, options: ReadOptions, stack: ExitStack) -> None:
        self.source, self.options = source, options
        self.remarks: list[str] = []
        hdus = stack.enter_context(opened(source.path, options.unpacked))
        number = self._image_number(hdus)
        self._image = hdus[number]
        with quiet():
            self.header = hdus[0].header.copy(strip=True) if number else fits.Header()
            self.header.extend(self._image.header, update=True)
        self.shape: tuple[int, int] = (int(self._image.shape[0]), int(self._image.shape[1]))
        self.wcs = self._celestial()
        self.pixel_scale = self._pixel_scale()
        self.zero_point = self._zero_point(hdus)
        self.factor = njy_per_count(self.zero_point)
        self._asinh = self._asinh_scaling()
        self._extras = self._find_extras(hdus, stack)
        self._bad_bits = self._mask_bits()
        self._scale = 1.0
        self._constant: float | None = None
        self._zero_is_empty = False
        self.noise = self._measure()
        self.noise_correlation = self._stated_correlation()

    @property
    def path(self) -> Any:
        """The image's file."""
        return self.source.path

    @property
    def weight_kind(self) -> str:
        """What the weights come from: ``variance``, ``weight``, ``mask`` and so on, or ``measured``."""
        return self._weight_role or "measured"

    @property
    def _weight_role(self) -> str | None:
        return next((k for k in _WEIGHTS if k in self._extras), None)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows ``start`` to ``stop`` (excluded).

        Returns
        -------
        image, weight
            ``(stop − start, W)`` float32 each, nJy and nJy⁻². The image is 0 where the weight is 0.
        """
        image = self._linear(read_rows(self._image, self.path, start, stop).astype(np.float32))
        is_zero = image == 0 if self._zero_is_empty else None
        weight = self._weight_rows(start, stop, image)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.factor != 1:
                image *= np.float32(self.factor)
            if is_zero is None and _all_valid(image, weight):
                return image, weight
            is_valid = (np.abs(image) < np.inf) & (weight > 0) & (weight < np.inf)
        if is_zero is not None:
            is_valid &= ~is_zero
        if not is_valid.all():
            weight[~is_valid] = 0
            image[~is_valid] = 0
        return image, weight

    def _linear(self, image: np.ndarray) -> np.ndarray:
        """Undo the asinh scaling of Pan-STARRS stacks: BOFFSET + BSOFTEN · 2 sinh(value · ln(10) / 2.5)."""
        if self._asinh is None:
            return image
        offset, softening = self._asinh
        with np.errstate(over="ignore", invalid="ignore"):
            flux = offset + softening * 2 * np.sinh(image.astype(np.float64) * math.log(10) / 2.5)
        return np.asarray(flux, dtype=np.float32)

    def strips(self, height: int = 512) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Go through the plane in strips: first row, image, weight."""
        for start in range(0, self.shape[0], height):
            image, weight = self.rows(start, min(start + height, self.shape[0]))
            yield start, image, weight

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the whole plane: image and weight, ``(H, W)``."""
        image = np.empty(self.shape, np.float32)
        weight = np.empty(self.shape, np.float32)
        for start, one, its in self.strips():
            image[start : start + len(one)] = one
            weight[start : start + len(one)] = its
        return image, weight

    def _image_number(self, hdus: fits.HDUList) -> int:
        numbers = image_hdus(hdus)
        if self.source.hdu is not None:
            if self.source.hdu not in numbers:
                raise InputError(
                    f"{self.path}: HDU {self.source.hdu} is no image; images are in HDUs {numbers}"
                )
            return self.source.hdu
        found = sky_images(hdus)
        if not found:
            shapes = [tuple(h.shape or ()) for h in hdus if h.is_image]
            remedy = ""
            if any(len(shape) == 3 for shape in shapes):
                remedy = "; for a cube of cutouts write a TOML file (deepfits cutouts mine.toml)"
            raise InputError(f"{self.path}: no two-dimensional image in this file (found {shapes}){remedy}")
        if len(found) > 1 and self.source.layout != "hsc":
            raise InputError(
                f"{self.path}: holds {len(found)} images of the sky, in HDUs {_shortened(found)}; name the "
                f"one you mean, {self.source.band}={self.path.name}[{found[0]}], or stack them with "
                "`deepfits stack`"
            )
        return found[0]

    def _celestial(self) -> WCS | None:
        with quiet():
            try:
                wcs = WCS(self.header, naxis=2)
                if not wcs.has_celestial:
                    return None
                corners = wcs.pixel_to_world_values([0, self.shape[1] - 1], [0, self.shape[0] - 1])
            except Exception:  # an unusable WCS is no WCS; the caller says what to do without one
                return None
        return wcs if np.isfinite(corners).all() else None

    def _pixel_scale(self) -> float:
        if self.wcs is not None:
            return float(np.mean(proj_plane_pixel_scales(self.wcs.celestial))) * 3600
        if not self.options.assume_aligned:
            raise InputError(
                f"{self.path}: no WCS in the header; if the bands are aligned pixel to pixel, say "
                "assume_aligned with pixel_scale (arcseconds), else solve the astrometry first"
            )
        if self.options.pixel_scale is None:
            raise InputError(f"{self.path}: no WCS in the header; give pixel_scale (arcseconds)")
        return self.options.pixel_scale

    def _zero_point(self, hdus: fits.HDUList) -> float:
        given = self.options.zero_point
        if self.source.band in given or "" in given:
            return given.get(self.source.band, given.get("", 0.0))
        try:
            found = zero_point_of_header(self.header)
        except InputError as error:
            raise InputError(f"{self.path}: {error}; give zero_point") from None
        if found is None and self.source.layout == "hsc":
            found = HSC_COADD_ZERO_POINT, "HSC coadds"
        if found is None and self.source.layout == "sdss":
            found = 22.5, "SDSS frames"
        if found is not None and "unit" not in found[1] and is_vega(self.header):
            self.remarks.append(
                f"WARNING: zero points of this survey ({found[1]} = {found[0]:.2f}) are in Vega magnitudes "
                "as a rule; give the AB one (zero_point), or write PHOTSYS = 'AB' into the header"
            )
        if found is None:
            raise InputError(
                f"{self.path}: no zero point in the header (MAGZERO, FLUXMAG0, BUNIT, ...); give it, for "
                f"example zero_point={self.source.band}=27.0"
            )
        self.remarks.append(f"zero point {found[0]:.4g} from {found[1]}")
        return found[0]

    def _asinh_scaling(self) -> tuple[float, float] | None:
        """Return offset and softening where the values are asinh magnitudes (Pan-STARRS stacks)."""
        if "BSOFTEN" not in self.header or "BOFFSET" not in self.header:
            return None
        cards = [self.header[key] for key in ("BOFFSET", "BSOFTEN")]
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in cards) or cards[1] <= 0:
            raise InputError(f"{self.path}: BOFFSET and BSOFTEN are {cards}; fetch the file again")
        self.remarks.append("asinh scaling undone (BSOFTEN and BOFFSET, Pan-STARRS)")
        return float(cards[0]), float(cards[1])

    def _stated_correlation(self) -> float:
        """Return what the header says of correlated noise (NOISCORR, in simulated and stacked coadds)."""
        value = self.header.get("NOISCORR", 1.0)
        is_credible = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.5 <= value <= 20
        return float(value) if is_credible else 1.0

    def _find_extras(self, hdus: fits.HDUList, stack: ExitStack) -> dict[str, Any]:
        extras = self._own_extras(hdus)
        for path, kind in self.source.companions:
            beside = stack.enter_context(opened(path, self.options.unpacked))
            numbers = image_hdus(beside)
            if not numbers:
                raise InputError(f"{path}: no two-dimensional image in this {kind} file")
            if kind != "mask":
                extras = {k: v for k, v in extras.items() if k == "mask"}
            mine = number_of(hdus, self._image)
            number = mine if mine in numbers else numbers[0]
            extras[kind] = self._of_same_shape(beside[number], path)
        return extras

    def _own_extras(self, hdus: fits.HDUList) -> dict[str, Any]:
        """Find weights and mask in the image's own file: by name, of the same version (HST's EXTVER)."""
        extras: dict[str, Any] = {}
        numbers = image_hdus(hdus)
        for number in numbers:
            role = role_of(hdus[number].name)
            if role in ROLES and hdus[number].ver == self._image.ver and role not in extras:
                extras[role] = self._of_same_shape(hdus[number], self.path)
        if not extras and number_of(hdus, self._image) == 0 and (noise := frame_noise(hdus)) is not None:
            extras["photon noise"] = noise
            self.remarks.append(
                f"SDSS frame: variance from sky, photons (gain {noise.gain}), dark current and read-out"
            )
        if self.source.layout == "hsc" and not extras and len(numbers) >= 3:
            image, mask, variance = numbers[:3]
            if hdus[image] is self._image:
                extras = {"mask": hdus[mask], "variance": hdus[variance]}
        return extras

    def _of_same_shape(self, hdu: Any, path: Any) -> Any:
        if tuple(hdu.shape) != self.shape:
            raise InputError(
                f"{path}: {tuple(hdu.shape)} pixels, but the image {self.path.name} has {self.shape}; give "
                "the weight or mask that belongs to this image"
            )
        return hdu

    def _mask_bits(self) -> int:
        """Return the bits that mean bad, from the mask's own MP_ cards."""
        if "mask" not in self._extras:
            return 0
        mask = self._extras["mask"]
        planes = {k[3:]: v for k, v in mask.header.items() if k.startswith("MP_")}
        if not planes:
            if self.options.mask_polarity is None:
                raise InputError(
                    f"{self.path}: the mask has no MP_ cards that name its planes; say what non-zero means: "
                    "mask_polarity 'bad' or 'good'"
                )
            return -1
        if wrong := [k for k, v in planes.items() if not (isinstance(v, int) and 0 <= v < 63)]:
            raise InputError(f"{self.path}: MP_{wrong[0]} = {planes[wrong[0]]!r} is no bit number")
        known = {*planes, *BAD_MASK_PLANES}
        for name in self.options.bad_planes:
            if name not in known:
                raise InputError(f"{self.path}: no mask plane {name!r}; {nearest(name, planes)}")
        used = [name for name in self.options.bad_planes if name in planes]
        self.remarks.append(f"mask planes taken as bad: {', '.join(used) or 'none'}")
        return sum(1 << planes[name] for name in used)

    def _weight_rows(self, start: int, stop: int, counts: np.ndarray) -> np.ndarray:
        """Return the weights in nJy⁻²; what is not positive and finite among them has no data.

        `counts` are the image's rows as they are stored: photon noise follows from them.
        """
        extras, per_square = self._extras, np.float32(self._scale / self.factor**2)
        kind = self._weight_role
        if kind is None:
            weight = np.full(counts.shape, 1.0 if self._constant is None else self._constant, np.float32)
        else:
            plane = extras[kind]
            if isinstance(plane, FrameNoise):
                weight = plane.variance(counts, start)
            else:
                weight = read_rows(plane, self.path, start, stop).astype(np.float32)
            with np.errstate(all="ignore"):
                if kind == "rms":
                    np.multiply(weight, np.abs(weight), out=weight)
                if kind in ("variance", "rms", "photon noise"):
                    np.divide(1, weight, out=weight)
                if per_square != 1:
                    weight *= per_square
        if "mask" in extras:
            bits = read_rows(extras["mask"], self.path, start, stop)
            if self._bad_bits >= 0:
                weight[(bits.astype(np.int64) & self._bad_bits) != 0] = 0
            else:
                weight[(bits != 0) == (self.options.mask_polarity == "bad")] = 0
        return weight

    def _measure(self) -> Noise:
        """Measure background and noise on some rows, and settle what the weights mean."""
        has_weight = self._weight_role is not None
        rows = sample_rows(self.shape[0])
        blocks = [self.rows(start, stop) for start, stop in rows]
        image = np.concatenate([b[0] for b in blocks])
        weight = np.concatenate([b[1] for b in blocks])
        if not (weight > 0).any():
            image, weight = self.read()
        if not (weight > 0).any():
            raise InputError(
                f"{self.path}: no pixel with data (all NaN, masked or of weight 0); leave this file out"
            )
        if not has_weight:
            is_zero = (image == 0) & (weight > 0)
            chance = _zeros_by_chance(image)
            excess = is_zero.mean() - chance
            if excess > 0.01 and chance > 0.1 * is_zero.mean():
                self.remarks.append(
                    f"WARNING: {is_zero.mean():.0%} of the pixels are exactly 0, more than the steps of the "
                    "counts explain; if they are no data, give a weight or a mask"
                )
            elif excess > 0.005:
                self._zero_is_empty = True
                weight[is_zero] = 0
                self.remarks.append(f"{is_zero.mean():.1%} of the pixels are exactly 0: taken as no data")
                if not (weight > 0).any():
                    raise InputError(f"{self.path}: every pixel is 0; leave this file out")
        noise = measure_noise(image, weight > 0)
        if noise is None and has_weight and (weight > 0).sum() < FEW_PIXELS:
            self.remarks.append("WARNING: hardly any pixel has data; check the polarity of the mask")
            return Noise(level=0.0, sigma=float(np.median(weight[weight > 0])) ** -0.5)
        if noise is None:
            raise InputError(
                f"{self.path}: the pixels do not vary, so no noise can be measured; not a survey image"
            )
        if not has_weight:
            self._constant = noise.sigma**-2
            self.remarks.append(
                f"no weight plane: constant weight from the measured noise of {noise.sigma:.3g} nJy"
            )
        else:
            self._settle_scale(noise, weight)
        return noise

    def _settle_scale(self, noise: Noise, weight: np.ndarray) -> None:
        stated = float(np.median(weight[weight > 0])) ** -0.5
        ratio = noise.sigma / stated
        mode = self.options.weight_scale
        is_off = not 1 / RELATIVE_FACTOR < ratio < RELATIVE_FACTOR
        may_be_relative = self._weight_role == "weight"
        if mode == "relative" or (mode == "auto" and is_off and may_be_relative):
            self._scale = ratio**-2
            self.remarks.append(
                f"relative weights: the measured noise is {ratio:.3g} times what they say; scaled to it"
            )
        elif is_off:
            self.remarks.append(
                f"WARNING: measured noise is {ratio:.3g} times what the {self._weight_role} plane says; "
                "check unit and polarity, or say weight_scale relative"
            )


def _all_valid(image: np.ndarray, weight: np.ndarray) -> bool:
    """Say that every pixel has data, in few passes: a sum with NaN or infinity in it is not finite."""
    return bool(np.isfinite(image.sum()) and np.isfinite(weight.sum()) and weight.min() > 0)


def _zeros_by_chance(image: np.ndarray) -> float:
    """Return the fraction of pixels that are 0 because counts come in steps: that of the values next to 0."""
    size = np.abs(image[np.isfinite(image) & (image != 0)])
    if not size.size:
        return 0.0
    return float((size <= size.min() * 1.001).sum() / 2 / image.size)


def _shortened(numbers: list[int]) -> str:
    few = ", ".join(map(str, numbers[:6]))
    return f"{few}, ..." if len(numbers) > 6 else few


def open_plane(source: ImageSource, options: ReadOptions, stack: ExitStack) -> Plane:
    """Open one plane; whatever astropy raises on damaged headers becomes an error that names the file."""
    with quiet():
        try:
            return Plane(source, options, stack)
        except InputError:
            raise
        except Exception as error:  # astropy parses cards when they are asked for, and raises many kinds
            text = " ".join(str(error).split())[:160]
            raise InputError(f"{source.path}: damaged header ({text}); fetch it again") from error


@contextmanager
def open_planes(sources: Mapping[str, ImageSource], options: ReadOptions) -> Iterator[dict[str, Plane]]:
    """Open the planes of all bands of a field, and close them together.

    Raises
    ------
    InputError
        A file is unusable, or images without WCS do not have the same shape.
    """
    with ExitStack() as stack:
        planes = {band: open_plane(source, options, stack) for band, source in sources.items()}
        shapes = {band: p.shape for band, p in planes.items() if p.wcs is None}
        if (
            shapes
            and len(shapes) < len(planes)
            and not all(p.shape == next(iter(shapes.values())) for p in planes.values())
        ):
            odd = next(iter(shapes))
            raise InputError(f"{planes[odd].path}: no WCS, and another shape than the bands that have one")
        if len(set(shapes.values())) > 1:
            first, *others = shapes
            odd = next(b for b in others if shapes[b] != shapes[first])
            raise InputError(
                f"{planes[odd].path}: shape {shapes[odd]}, but {planes[first].path.name} has "
                f"{shapes[first]}; images without WCS must be aligned, pixel to pixel"
            )
        yield planes
