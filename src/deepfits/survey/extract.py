"""Extraction of a catalogue from a field: detection, photometry, star score and seeing.

Shapes: N sources.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import FLAG_MASKED, FLAG_SHARP, ab_magnitude
from deepfits.survey.detection import DetectOptions, background_of, combined_image, find_sources
from deepfits.survey.fields import Field, PartOfField
from deepfits.survey.photometry import (
    Apertures,
    half_light_radius,
    make_apertures,
    measure_band,
    not_measured,
)
from deepfits.survey.psf_error import matched_flux_error
from deepfits.survey.psf_variation import width_over_field
from deepfits.survey.seeing import best_in_band, choose_stars, moffat_fwhm, star_image, stars_at
from deepfits.survey.stars import Locus, star_score, stellar_peak, stellar_radius, too_sharp

MOST_STARS = 40  # maximum number of stars for the PSF of a band


@dataclass(kw_only=True)
class Extraction:
    """Catalogue of a field, and quantities measured along the way, most of them by band."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)  # (N,) each, sorted by y
    fwhm_arcsec: dict[str, float] = field(default_factory=dict)  # NaN where there were too few stars
    stellar_radius_arcsec: float = np.nan  # half-light radius of stars on the combined image
    star_images: dict[str, np.ndarray | None] = field(default_factory=dict)  # None where there are too few
    widths: dict[str, list[list[float]] | None] = field(default_factory=dict)  # see `width_over_field`
    flux_errors: dict[str, float | None] = field(default_factory=dict)  # see `matched_flux_error`
    stars_stand_out: bool = False  # as a peak (`stellar_peak`), unlike the most compact galaxies


def object_ids(field_name: str, number: int) -> np.ndarray:
    """Return identities that differ between fields: 31 bits of the name's hash, then a 32-bit running number.

    They depend only on the field's name and the order of its sources, not on other fields.
    """
    digest = hashlib.blake2b(field_name.encode(), digest_size=4).digest()
    prefix = int.from_bytes(digest, "big") & 0x7FFFFFFF
    return (np.int64(prefix) << np.int64(32)) + np.arange(1, number + 1, dtype=np.int64)


def extract(
    sky: Field | PartOfField,
    options: DetectOptions,
    *,
    bands: tuple[str, ...],
    aperture_arcsec: float = 2.0,
    min_snr: float = 0.0,
    find_variation: bool = True,
) -> Extraction:
    """Detect and measure all sources of a field; columns of bands that it lacks are NaN.

    `aperture_arcsec` is the diameter of the photometric aperture. Sources below `min_snr` are left out. The
    variation of the PSF's width is measured unless `find_variation` is false.
    """
    scale = sky.pixel_scale
    combined, is_empty = combined_image(sky.planes, options)
    try:
        sources, segmentation = find_sources(combined, is_empty, options)
    except InputError as error:
        raise InputError(f"field {sky.name}: {error}") from error
    apertures = make_apertures(sources, combined, is_empty, segmentation)
    radius = half_light_radius(combined, is_empty, apertures, segmentation)
    total = measure_band(combined, (~is_empty).astype(np.float32), apertures, segmentation, radius=3.0)
    snr = np.nan_to_num(total["flux"] / total["flux_err"])
    compact, stellar = radius, stellar_radius(radius, snr)
    if np.isfinite(stellar):  # measured again inside a circle not much larger than stars
        reach = max(3 * stellar, 2.0)
        compact = half_light_radius(combined, is_empty, apertures, segmentation, reach=reach)
        stellar = stellar_radius(compact, snr)
    score = star_score(compact, snr, stellar)
    del combined, is_empty
    flags = sources["flag"].astype(np.int32) | np.where(too_sharp(radius, snr, stellar), FLAG_SHARP, 0)
    stars = everywhere = clear = np.empty(0, int)
    peak = stellar_peak(compact, snr, stellar)
    if np.isfinite(stellar):
        around = Locus(radius=stellar, half_width=0.08, least_snr=40)
        stars = choose_stars(compact, snr, flags, peak or around, most=200)
        if find_variation:
            everywhere = choose_stars(compact, snr, flags, replace(around, half_width=0.16), most=1000)
    if peak is not None:  # above its limit of brightness few of the sources around the peak are galaxies
        clear = choose_stars(compact, snr, flags, replace(peak, half_width=0.08), most=200)
    out = Extraction(stellar_radius_arcsec=stellar * scale, stars_stand_out=peak is not None)
    columns: dict[str, np.ndarray] = {}
    for band in bands:
        if band in sky.planes:
            measured, star, out.widths[band], out.flux_errors[band] = _one_band(
                sky, band, apertures, segmentation, (stars, everywhere, clear), options, aperture_arcsec
            )
        else:
            measured, star = not_measured(len(sources)), None
        out.star_images[band] = star
        out.fwhm_arcsec[band] = np.nan if star is None else scale * moffat_fwhm(star)
        flags |= measured.pop("flags")
        columns |= {f"{name}_{band}": values for name, values in measured.items()}
        columns[f"mag_auto_{band}"] = ab_magnitude(measured["flux"])
    order = np.lexsort((apertures.x, apertures.y))
    order = order[snr[order] >= min_snr] if min_snr > 0 else order
    shapes = {
        "x": apertures.x,
        "y": apertures.y,
        "a": sources["a"].astype(float),
        "b": sources["b"].astype(float),
        "theta": apertures.theta,
        "kron_radius": apertures.kron * apertures.a,
        "half_light_radius_arcsec": radius * scale,
        "num_pixels": sources["npix"].astype(np.int32),
        "snr": snr,
        "star_score": score,
        "flags": flags,
    }
    columns = {name: values[order] for name, values in (shapes | columns).items()}
    ra, dec = sky.sky(columns["x"], columns["y"])
    identity = {
        "object_id": object_ids(sky.name, len(order)),
        "field": np.full(len(order), sky.name),
        "ra": ra,
        "dec": dec,
    }
    out.columns = identity | columns
    return out


def _one_band(
    sky: Field | PartOfField,
    band: str,
    apertures: Apertures,
    segmentation: np.ndarray,
    stars: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: DetectOptions,
    aperture_arcsec: float,
) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[list[float]] | None, float | None]:
    plane = sky.planes[band]
    image, weight = plane.read()
    background_of(image, weight <= 0, options.mesh, segmentation > 0).subfrom(image)
    measured = measure_band(
        image,
        weight,
        apertures,
        segmentation,
        radius=0.5 * aperture_arcsec / sky.pixel_scale,
        noise_correlation=plane.noise_correlation,
    )
    snr = measured["flux_aper"] / measured["flux_aper_err"]
    is_whole = (measured["flags"] & FLAG_MASKED) == 0  # unlike saturated stars
    first, *others = (best_in_band(rows[is_whole[rows]], snr) for rows in stars)
    chosen = (first[:MOST_STARS], *others)
    best, everywhere, clear = ((apertures.x[rows], apertures.y[rows]) for rows in chosen)
    star = star_image(image, weight, *best)
    widths = error = None
    if star is not None:
        stamps, places = stars_at(image, weight, segmentation, *everywhere)
        (x, y), among = places, (best[0], sky.row(best[1]))
        widths = width_over_field(stamps, star, x, sky.row(y), among=among, shape=sky.shape)
        stamps, (x, y) = stars_at(image, weight, segmentation, *clear)
        error = matched_flux_error(stamps, star, x, sky.row(y), widths, sky.shape)
    return measured, star, widths, error
