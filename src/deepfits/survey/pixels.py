"""Calibration of FITS images and weights to nJy and nJy⁻², shared by coadds, exposures and cutouts.

Shapes: H, W pixels of one band.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS

from deepfits.errors import InputError
from deepfits.photometry import NJY_ZERO_POINT, njy_per_count
from deepfits.survey.astrometry import celestial_wcs, pixel_area_of
from deepfits.survey.fill import HALF_STEP
from deepfits.survey.fitsfile import as_float, quantisation_step, quiet, read_rows, stem_of
from deepfits.survey.hdu_roles import further_masks, is_ccd_data, meaning_of_mask, name_of, words_of
from deepfits.survey.masks import BAD_MASK_PLANES, MaskRule, mask_rule, named_planes
from deepfits.survey.sdss import FrameNoise
from deepfits.survey.weights import WEIGHT_ROLES, inverse_variance
from deepfits.survey.zeropoint import (
    exposure_of,
    possible_zero_points,
    unit_of,
    zero_point_doubts,
    zero_point_of_header,
    zero_point_of_unit,
)

_LARGE = 1e15
# Weights are exposure times if this quantile of them equals EXPTIME within this fraction.
FULL_DEPTH, SAME_EXPOSURE = 0.98, 0.03
MOST_ASINH = 40.0  # maximum asinh magnitude: a flux of 10¹⁶ times the softening
PICTURE = (
    "values from 0 to 255, as in pictures, whose stretch is unknown; use the survey's FITS images, not its "
    "JPEG or PNG"
)
_SAMPLE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class HduPixels:
    """The pixels of an image HDU, or of one layer of a cube, in stored units.

    Values with an absolute value of at most `least`, given per row, ``(H,)``, are read as 0: dithered
    compression does not preserve zeros.
    """

    hdu: Any
    path: Path
    layer: int | None = None
    file: fits.HDUList | None = None  # the open file, if it is not the image's
    own: "HduPixels | None" = None  # for a mask in a separate file, that in the image's file
    least: np.ndarray | None = None
    may_be_asinh: bool = True  # False if the cards of the scaling can only be copies of the image's

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)``."""
        height, width = tuple(self.hdu.shape)[-2:]
        return int(height), int(width)

    @property
    def header(self) -> fits.Header:
        """The HDU's own header."""
        return self.hdu.header

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Read rows `start` to `stop`."""
        values = self._linear(read_rows(self.hdu, self.path, start, stop, layer=self.layer))
        if self.least is None:
            return values
        return np.where(np.abs(values) <= self.least[start:stop, None], 0, values)

    def as_extra(self, role: str) -> Self:
        """Return weights or a mask with the zeros restored that dithered compression has changed.

        Of these, only Pan-STARRS's own variances can have its asinh scaling.
        """
        step, is_dithered = quantisation_step(self.hdu)
        least = HALF_STEP * step if step is not None and is_dithered else None
        return replace(self, least=least, may_be_asinh=role == "variance")

    def _linear(self, values: np.ndarray) -> np.ndarray:
        """Undo the asinh scaling of Pan-STARRS stacks: BOFFSET + BSOFTEN · 2 sinh(value · ln(10) / 2.5)."""
        if not self.is_asinh:
            return values
        stated = [self.header[key] for key in ("BOFFSET", "BSOFTEN")]
        offset, softening = map(as_float, stated)
        if not (math.isfinite(offset) and 0 < softening < math.inf):
            raise InputError(f"{self.path}: BOFFSET and BSOFTEN are {stated}; fetch the file again")
        if (np.abs(values) > MOST_ASINH).any():
            raise InputError(
                f"{self.path}: fluxes, not asinh magnitudes as BSOFTEN and BOFFSET imply; remove these cards"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(
                offset + softening * 2 * np.sinh(values.astype(np.float64) * math.log(10) / 2.5)
            )

    @property
    def is_asinh(self) -> bool:
        """Return whether the values are asinh magnitudes."""
        return self.may_be_asinh and "BSOFTEN" in self.header and "BOFFSET" in self.header


def header_of(hdus: fits.HDUList, hdu: Any) -> fits.Header:
    """Return an image's header, with cards that it lacks taken from the primary header.

    ``FLUXMAG0`` is taken from the calibration in the tables of files of Rubin's and HSC's pipelines too.
    """
    with quiet():
        header = hdus[0].header.copy(strip=True)
        if hdu is not hdus[0]:
            header.extend(hdu.header, update=True)
        if "FLUXMAG0" not in header and (njy := _archived_njy_per_count(hdus)) is not None:
            header["FLUXMAG0"] = 10 ** (NJY_ZERO_POINT / 2.5) / njy, "by PHOTOCALIB_ID"
    return header


def _archived_njy_per_count(hdus: fits.HDUList) -> float | None:
    """Return the nJy per count (at the mean over the image) in the archive of Rubin's pipelines, if any.

    AR_HDU is the number, from 1, of an index of its objects, in which PHOTOCALIB_ID is the calibration.
    """
    number, own = (hdus[0].header.get(key) for key in ("AR_HDU", "PHOTOCALIB_ID"))
    if not (isinstance(number, int) and isinstance(own, int) and 1 < number <= len(hdus)):
        return None
    index = hdus[number - 1].data
    entries = index[(index["id"] == own) & (index["name"] == "PhotoCalib")]
    if not len(entries):
        return None
    rows = hdus[number - 1 + int(entries["cat.archive"][0])].data
    return float(rows["calibrationMean"][int(entries["row0"][0])])


def cards_of_all_layers(header: Mapping[str, Any]) -> fits.Header:
    """Return the cards of a cube that tell its camera: others may be those of one of its bands."""
    return fits.Header([(key, header[key]) for key in ("INSTRUME", "TELESCOP", "ORIGIN") if key in header])


@dataclass(kw_only=True)
class CalibratedPixels:
    """Image and weights of one band, in nJy and nJy⁻², read a few rows at a time."""

    image: HduPixels  # the counts
    extras: dict[str, HduPixels | FrameNoise]  # further planes by role: one of `WEIGHT_ROLES`, and ``mask``
    header: fits.Header  # with cards that the image lacks from the primary header
    zero_point: float  # AB, of the counts
    masks: list[tuple[HduPixels, MaskRule]]  # HDUs, each with the rule for its bad pixels
    wcs: WCS | None
    wcs_remarks: list[str]  # its problems, or why there is none
    remarks: list[str]  # on what was decided; those on problems start with ``WARNING: ``
    weight_factor: float = 1.0  # squared ratio of the nJy per count of the image to that of the weights
    zero_point_source: str = ""  # empty if given by the user

    @property
    def mask(self) -> MaskRule | None:
        """Rule for the bad pixels of the mask's first HDU; None without a mask."""
        return self.masks[0][1] if self.masks else None

    @property
    def weight_role(self) -> str | None:
        """Meaning of the weights: one of `WEIGHT_ROLES`, or None without weights."""
        return next((role for role in WEIGHT_ROLES if role in self.extras), None)

    def are_exposure_times(self, weight: np.ndarray) -> bool:
        """Return whether weights, in nJy⁻², are exposure times up to the header's, as in HST's images."""
        seconds, used = exposure_of(self.header), weight[weight > 0]
        if self.weight_role != "weight" or seconds in (None, 1.0) or not used.size:
            return False
        most = float(np.quantile(used, FULL_DEPTH)) * njy_per_count(self.zero_point) ** 2
        return abs(most / self.weight_factor / seconds - 1) < SAME_EXPOSURE

    def rows(self, start: int, stop: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray | None]:
        """Read flux and inverse variance (None without weights) of rows `start` to `stop`, float32.

        Masked pixels have weight 0, or flux NaN if there are no weights. Other pixels without data may have
        weights or fluxes that are not finite, or weights that are not positive.
        """
        counts = self.image.rows(start, stop)
        factor = njy_per_count(self.zero_point)
        role = self.weight_role
        weight = None
        if role is not None:
            plane = self.extras[role]
            stored = (
                plane.variance(counts.astype(np.float32), start)
                if isinstance(plane, FrameNoise)
                else plane.rows(start, stop)
            )
            weight = inverse_variance(stored, role, scale * self.weight_factor / factor**2)
        flux = to_flux(counts, factor)
        if self.masks:
            is_bad = np.logical_or.reduce([rule.is_bad(mask.rows(start, stop)) for mask, rule in self.masks])
            if weight is not None:
                weight[is_bad] = 0
            else:
                flux[is_bad] = np.nan
        return flux, weight


def to_flux(counts: np.ndarray, factor: float) -> np.ndarray:
    """Convert counts to nJy, float32; via float64 where float32 might overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        if factor == 1:
            return counts.astype(np.float32)
        if counts.dtype.kind == "f" and counts.dtype.itemsize <= 4 and 1 / _LARGE < factor < _LARGE:
            return np.asarray(counts * np.float32(factor), np.float32)
        return (counts * np.float64(factor)).astype(np.float32)


def calibrated(
    hdus: fits.HDUList,
    image: HduPixels,
    extras: Mapping[str, HduPixels | FrameNoise],
    *,
    zero_point: float | None = None,
    default: tuple[float, str] | None = None,
    bad_planes: tuple[str | int, ...] = BAD_MASK_PLANES,
    mask_polarity: str | None = None,
    mask_option: str = "mask_polarity",
    remedy: str = "give zero_point",
    pixel_scale_arcsec: float | None = None,
) -> CalibratedPixels:
    """Calibrate one band from its headers: an image, and weights and mask by role.

    Without a zero point of the user's, the header's is used, or else `default`, a zero point and words on it;
    `remedy` is advice in errors on how to give it. For masks see `deepfits.survey.masks.mask_rule`. If
    a pixel scale is given, no WCS is read. Raise `InputError` if shapes differ, the zero point is missing or
    contradictory, or the meaning of a mask is unknown.
    """
    path = image.path
    header = header_of(hdus, image.hdu)
    if image.header.get("BITPIX") == 8 and image.header.get("BSCALE", 1) == 1:
        raise InputError(f"{path}: {PICTURE}")
    for plane in extras.values():
        if isinstance(plane, HduPixels) and plane.shape != image.shape:
            raise InputError(
                f"{plane.path}: {plane.shape} pixels, but the image {path.name} has {image.shape}; "
                "give the weight or mask that belongs to this image, or move this file elsewhere"
            )
    if "weight" in extras and _is_pan_starrs_variance(extras["weight"], header):
        extras = {"variance" if role == "weight" else role: plane for role, plane in extras.items()}
    extras = {r: p.as_extra(r) if isinstance(p, HduPixels) else p for r, p in extras.items()}
    remarks: list[str] = []
    wcs: WCS | None = None
    doubts: list[str] = []
    if pixel_scale_arcsec is None:
        wcs, doubts = celestial_wcs(hdus, image.hdu, header)
        remarks += doubts if wcs is not None else []
        pixel_sr = pixel_area_of(wcs) if wcs is not None else None
    else:
        pixel_sr = math.radians(pixel_scale_arcsec / 3600) ** 2
    words, problems = "", list[str]()
    if zero_point is None:
        try:
            zero_point, words = _zero_point(header, pixel_sr, default, path, remedy)
            remarks.append(f"zero point {zero_point:.4g} from {words}")
        except InputError as error:
            problems.append(str(error))
    masks: list[tuple[HduPixels, MaskRule]] = []
    if (mask := extras.get("mask")) is not None:
        assert isinstance(mask, HduPixels)
        try:
            masks, unused = _masks(hdus, mask, header, path, bad_planes, mask_polarity, mask_option)
            remarks += [*unused, *(rule.words for _, rule in masks)]
        except InputError as error:
            problems.append(str(error))
    if problems or zero_point is None:
        raise InputError("; and ".join(problems))
    remarks += [f"WARNING: {text}" for text in zero_point_doubts(header, zero_point, words, pixel_sr)]
    if image.is_asinh:
        remarks.append("asinh scaling undone (BSOFTEN and BOFFSET, Pan-STARRS)")
    out = CalibratedPixels(
        image=image,
        extras=extras,
        header=header,
        zero_point=zero_point,
        zero_point_source=words,
        masks=masks,
        wcs=wcs,
        wcs_remarks=doubts,
        remarks=remarks,
    )
    out.weight_factor = _unit_of_weights(out, header, pixel_sr)
    return out


def _is_pan_starrs_variance(plane: HduPixels | FrameNoise, header: Mapping[str, Any]) -> bool:
    """Return whether weights of an image are Pan-STARRS's, whose ``wt`` files hold variances."""
    words = words_of(stem_of(plane.path)) if isinstance(plane, HduPixels) else []
    return "wt" in words and ("skycell" in words or "FPA.ZP" in header)


def _masks(
    hdus: fits.HDUList,
    mask: HduPixels,
    header: fits.Header,
    path: Path,
    bad_planes: tuple[str | int, ...],
    polarity: str | None,
    option: str,
) -> tuple[list[tuple[HduPixels, MaskRule]], list[str]]:
    """Return a mask's HDUs with their rules, the main one first, and warnings about unused HDUs."""
    masks: list[tuple[HduPixels, MaskRule]] = []
    unused: list[str] = []
    first = max((mask.shape[0] - _SAMPLE_ROWS) // 2, 0)
    sampled, wanted = (first, min(first + _SAMPLE_ROWS, mask.shape[0])), bad_planes
    further = [replace(mask, hdu=hdu) for hdu in further_masks(hdus, mask.hdu, mask.file)]
    for more in [plane.as_extra("mask") for plane in (*further, mask.own) if plane is not None]:
        planes, name = named_planes(more.header), name_of(more.hdu)
        is_of_mask = more.path == mask.path  # to which a given polarity refers
        meaning = (polarity if is_of_mask else None) or meaning_of_mask(name)
        listed = bad_planes if is_of_mask or planes.keys() & set(bad_planes) else BAD_MASK_PLANES
        if present := tuple(name for name in listed if name in planes):
            rule = mask_rule(more.header, more.rows(*sampled), bad_planes=present, where=str(path))
            masks.append((more, rule))
            if bad_planes != BAD_MASK_PLANES:
                wanted = tuple(name for name in wanted if name not in present)
        elif meaning is not None and not planes:
            words = f"non-zero pixels of {name} are {meaning}"
            masks.append((more, MaskRule(nonzero_is_bad=meaning == "bad", words=words)))
        elif not planes:
            unused.append(
                f"WARNING: {more.path.name}: a further mask, {name}, is not used: its meaning is unknown; "
                + f"give the meaning of non-zero ({option}), or " * is_of_mask
                + "name it BADMASK or GOODMASK"
            )
    own = [stem_of(mask.path)] if mask.path != path else []
    meaning = polarity or meaning_of_mask(name_of(mask.hdu), *own)
    if meaning is None and mask.path == path and is_ccd_data(hdus):
        meaning = "bad"
    rule = MaskRule(bits=0, words="mask planes taken as bad: none of the first HDU's")
    if wanted or not masks or (meaning is not None and not named_planes(mask.header)):
        rule = mask_rule(
            mask.header,
            mask.rows(*sampled),
            bad_planes=wanted,
            polarity=meaning,
            image_header=header,
            where=str(path),
            option=option,
        )
    return [(mask, rule), *masks], unused


def _zero_point(
    header: fits.Header, pixel_sr: float | None, default: tuple[float, str] | None, path: Path, remedy: str
) -> tuple[float, str]:
    try:
        found = zero_point_of_header(header, pixel_sr) or default
    except InputError as error:
        raise InputError(f"{path}: {error}; {remedy}") from None
    if found is None:
        unit = f", and BUNIT {str(header['BUNIT'])!r} is not a flux" if unit_of(header) else ""
        if "SOFTBIAS" in header and isinstance(flux := header.get("FLUX20"), (int, float)) and flux > 0:
            remedy = (
                "a frame of SDSS DR7: use frame-*.fits of DR8 or later, or subtract SOFTBIAS and sky and "
                f"give zero_point, about {20 + 2.5 * math.log10(flux):.2f}"
            )
        elif cards := possible_zero_points(header):
            remedy = f"its cards may state one: {cards}; {remedy}"
        raise InputError(
            f"{path}: no zero point in the header (MAGZERO, FLUXMAG0, BUNIT, ...){unit}; {remedy}"
        )
    return found


def _unit_of_weights(pixels: CalibratedPixels, header: fits.Header, pixel_sr: float | None) -> float:
    """Return `CalibratedPixels.weight_factor`; 1 unless the weights state another unit than the image."""
    role = pixels.weight_role
    plane = pixels.extras[role] if role is not None else None
    if role is None or not isinstance(plane, HduPixels):
        return 1.0
    text = unit_of(plane.header)
    power = {"rms": 1.0, "variance": 0.5}.get(role, -0.5)
    if not text or text == unit_of(header):
        return 1.0
    with quiet():
        try:
            noise_unit = units.Unit(text) ** power
            zero_point = zero_point_of_unit(noise_unit.to_string(), header, pixel_sr)
        except (ValueError, TypeError, InputError):
            return 1.0  # not a unit of noise
    if zero_point is None:
        return 1.0
    if role == "weight":  # weights with a unit are absolute
        pixels.extras["ivar"] = pixels.extras.pop(role)
    ratio = njy_per_count(pixels.zero_point) / njy_per_count(zero_point)
    if abs(math.log(ratio)) > 0.01:
        pixels.remarks.append(f"{role} plane in {text}, converted to the image's unit")
        return ratio**2
    return 1.0
