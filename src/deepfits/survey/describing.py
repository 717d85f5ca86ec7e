"""Descriptions of fields and of a store of their cutouts, from the images and what was measured on them."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.passbands import wavelength_in_header
from deepfits.survey.band_registration import band_shifts, shift_warnings
from deepfits.survey.bands import given_for, require_bands
from deepfits.survey.detection import DetectOptions
from deepfits.survey.extract import Extraction, extract
from deepfits.survey.fields import Field, ImageSet, OpenFields, middle_of, sample_of
from deepfits.survey.image_source import FieldSources
from deepfits.survey.noise import sky_doubts
from deepfits.survey.psf import (
    MOST_COMPACT,
    STARS,
    UNKNOWN,
    column_record,
    find_psf,
    psf_column,
    read_psf_option,
)
from deepfits.survey.remarks import describe, warnings_in
from deepfits.survey.store import StoreInfo

FORMAT = 6  # of the descriptions of fields in catalogues
SCALE_TOLERANCE = 0.01
SAME_WIDTH = 1.2  # ratio of the FWHM of given PSFs and of stars above which there is a warning
log = logging.getLogger(__name__)
_POLICY = (
    "cutouts are centred on the pixel nearest to the object (as astropy.nddata.Cutout2D); pixels are copied "
    "unaltered when the bands share a grid or differ by whole pixels, else interpolated with cubic splines "
    "onto the reference band's grid"
)


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """Settings of the store to build."""

    images: ImageSet
    size: int
    shard_size: int
    survey: str = ""
    catalogue_path: Path = Path()
    keep_duplicates: bool = False
    psf: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_bands(self.psf, self.images.bands, "psf")

    def settings(self) -> dict[str, Any]:
        """Return the settings that the shards depend on."""
        return self.images.settings() | {
            "size": self.size,
            "shard_size": self.shard_size,
            **({"keep_duplicates": True} if self.keep_duplicates else {}),
            **({"psf": dict(self.psf)} if self.psf else {}),
        }


def known_or_described(
    images: ImageSet, index: int, opened: OpenFields, *infos: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the description of a field from the first of `infos` that has one of these images.

    If none has, or in an earlier format, the field is described. If it cannot be read, the first description
    is used anyway: the error is raised when it is cut.
    """
    field, described = images.fields[index], []
    for info in infos:
        if not (known := known_field(field, info)):
            continue
        made_from, settings = known.get("made_from", {}), info.get("settings", {})
        if known.get("format") == FORMAT and images.is_made_from(field, made_from, settings):
            return known
        described.append(known)
    try:
        now = describe_field(opened.open(index), images)
    except InputError:
        if not described:
            raise
        return described[0]
    log_warnings(field.name, now)
    return now


def known_field(field: FieldSources, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a catalogue's description of a field; empty if it has none."""
    known: dict[str, Any] = info.get("fields", {}).get(field.name, {})
    return known


def describe_store(
    plan: StorePlan, fields: Mapping[str, dict[str, Any]], columns: Mapping[str, np.ndarray]
) -> StoreInfo:
    """Describe the store: the common pixel scale, and medians over fields of FWHM and noise correlation."""
    scale, bands = one_scale(fields), plan.images.bands
    psf = {name: settled_psf(field, plan, columns) for name, field in fields.items()}
    widths = [[_width(field, psf[name], b) for name, field in fields.items()] for b in bands]
    noise = [[field["noise_correlation"].get(b) for field in fields.values()] for b in bands]
    return StoreInfo(
        bands=bands,
        size=plan.size,
        pixel_scale_arcsec=scale,
        fwhm_arcsec=tuple(map(median_of_known, widths)),
        noise_correlation=tuple(median_of_known(values, 1.0) for values in noise),
        survey=plan.survey,
        extra={"settings": plan.settings(), "fields": dict(fields), "psf": psf, "sub_pixel_policy": _POLICY},
    )


def one_scale(fields: Mapping[str, dict[str, Any]]) -> float:
    """Return the pixel scale, arcsec, that all fields must have in common to within `SCALE_TOLERANCE`."""
    scales = {name: field["pixel_scale_arcsec"] for name, field in fields.items()}
    scale = float(np.median(list(scales.values())))
    if max(abs(s / scale - 1) for s in scales.values()) > SCALE_TOLERANCE:
        fine, coarse = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
        raise InputError(
            f"the fields have pixels of {scales[fine]:.4f} ({fine}) to {scales[coarse]:.4f} arcsec "
            f"({coarse}); a store needs one scale: make one store for each, or resample them to one grid "
            "with `deepfits stack`"
        )
    return scale


def settled_psf(known: dict[str, Any], plan: StorePlan, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the PSFs of a field's bands; those given by the user take precedence.

    A catalogue's column with the width for each object is used if the user names it, or if the PSF is
    unknown or measured on the most compact objects.
    """
    psf = dict(known["psf"])
    for band in plan.images.bands:
        given = given_for(band, plan.psf)
        widths = psf_column(given, band, columns)
        if widths is not None and (given is not None or _source(psf, band) in (UNKNOWN, MOST_COMPACT)):
            psf[band] = column_record(given or f"psfsize_{band}", widths)
        elif given is not None:
            own = known.get("own_scale_arcsec", {}).get(band) or known["pixel_scale_arcsec"]
            psf[band] = read_psf_option(given, own, band)
    return psf


def warn_of_doubtful_psfs(info: StoreInfo, fields: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of fields and bands whose PSF is unknown, or may be measured on galaxies, and say what is used.

    Given PSFs are compared with those measured on the fields, whose descriptions are `fields`.
    """
    for band in info.bands:
        doubtful = [
            (name, psf[band], measured)
            for name, psf in info.extra["psf"].items()
            if (measured := fields[name]["psf"].get(band)) is not None
            and _contradicts(psf[band], measured, info.pixel_scale_arcsec)
        ]
        for name, given, measured in doubtful[:1]:
            log.warning(
                "WARNING: field %s%s, band %s: the PSF (%s) has a FWHM of %.2f arcsec, but %s one of %.2f; "
                "is it that of this image, and its pixel scale right (PIXSCALE, OVERSAMP)?",
                *(name, f" (and {len(doubtful) - 1} more)" * (len(doubtful) > 1), band),
                *(given["source"], given["fwhm_arcsec"]),
                *(measured["source"].partition(",")[0], measured["fwhm_arcsec"]),
            )
    for band, fwhm in zip(info.bands, info.fwhm_arcsec, strict=True):
        for source in (MOST_COMPACT, UNKNOWN):
            names = [name for name, psf in info.extra["psf"].items() if _source(psf, band) == source]
            if not names:
                continue
            if source == MOST_COMPACT:
                width = info.extra["psf"][names[0]][band]["fwhm_arcsec"]
                why = "the PSF is that of the most compact objects, as no stars stand out"
                then = f"{width:.2f} arcsec is too wide if these are galaxies: give it"
            else:
                why = "the PSF is unknown (too few stars, no FWHM in the header)"
                then = "models that need it cannot use this band until it is given"
                if math.isfinite(fwhm):
                    then = f"that of the other fields, {fwhm:.2f} arcsec, is used; better give it"
            log.warning(
                "WARNING: field %s%s, band %s: %s; %s, in arcsec, as psf=%s=0.8",
                *(names[0], f" (and {len(names) - 1} more)" * (len(names) > 1), band, why, then, band),
            )


def _contradicts(psf: Mapping[str, Any], measured: Mapping[str, Any], pixel_scale: float) -> bool:
    """Return whether a PSF is wider than its field's most compact objects, or narrower than its stars."""
    if measured["source"] not in (STARS, MOST_COMPACT) or psf["source"] == UNKNOWN:
        return False
    ratio = psf["fwhm_arcsec"] / measured["fwhm_arcsec"]
    is_resolved = measured["source"] == STARS and measured["fwhm_arcsec"] > 2 * pixel_scale
    return bool(ratio > SAME_WIDTH or (is_resolved and ratio < 1 / SAME_WIDTH))


def _width(known: dict[str, Any], psf: dict[str, Any], band: str) -> float | None:
    """Return the FWHM in a band of a field, as measured on the image if the PSF is; else that of the PSF."""
    found: float | None = psf.get(band, {}).get("fwhm_arcsec")
    is_measured = _source(psf, band) in (STARS, MOST_COMPACT)
    return (known["fwhm_arcsec"].get(band) if is_measured else None) or found


def _source(psf: Mapping[str, Mapping[str, Any]], band: str) -> str:
    """Return the source of a band's PSF; '' if the field lacks the band."""
    return str(psf.get(band, {}).get("source", ""))


def median_of_known(values: Iterable[float | None], default: float = math.nan) -> float:
    """Return the median of the finite values; `default` if there are none."""
    found = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.median(found)) if found else default


def describe_field(field: Field, images: ImageSet, found: Extraction | None = None) -> dict[str, Any]:
    """Describe a field of an image set, for JSON.

    The PSF and its variation are taken from the extraction `found`; without it, they are measured on strips
    spread over the field.
    """
    middle = middle_of(field)
    if found is None:
        found = extract(sample_of(field), DetectOptions(threshold=6.0), bands=images.bands)
    shape = list(field.shape)
    widths = {b: {"log_width": w, "shape": shape} for b, w in found.widths.items() if w is not None}
    reference = field.reference.source.band
    shifts = band_shifts(middle, reference)
    remarks = field.remarks()
    doubts = {b: warnings_in(remarks[b]) + sky_doubts(plane.plane) for b, plane in field.aligned.items()}
    stated = describe(doubts) + field.empty_warnings() + field.beyond_warnings()
    return {
        "format": FORMAT,
        "made_from": images.made_from(field.sources),
        "shape": shape,
        "pixel_scale_arcsec": field.pixel_scale,
        "own_scale_arcsec": {b: p.plane.pixel_scale for b, p in field.aligned.items()},
        "fwhm_arcsec": {b: (float(v) if math.isfinite(v) else None) for b, v in found.fwhm_arcsec.items()},
        "psf": {
            band: find_psf(
                found.star_images.get(band),
                plane.plane.header,
                field.pixel_scale,
                widths.get(band),
                found.flux_errors.get(band),
                stars_stand_out=found.stars_stand_out,
            )
            for band, plane in field.aligned.items()
        },
        "wavelength": {b: wavelength_in_header(p.plane.header, b) for b, p in field.aligned.items()},
        "noise_correlation": {b: p.noise_correlation for b, p in field.aligned.items()},
        "noise_njy": {b: p.plane.noise.sigma for b, p in field.aligned.items()},
        "shift_pixels": {b: [s.dx, s.dy] if s.num_matched else None for b, s in shifts.items()},
        "remarks": remarks,
        "warnings": [*stated, *shift_warnings(shifts, reference)],
    }


def log_warnings(field_name: str, info: dict[str, Any]) -> None:
    """Log the warnings in a field's description."""
    for text in info.get("warnings", []):
        log.warning("WARNING: %s %s", field_name, text)
