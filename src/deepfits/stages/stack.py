"""Stage `stack`: combine exposures into one coadd per band."""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError, for_each
from deepfits.files import allow_many_open_files, contents_of, read_json, write_json, writing
from deepfits.passbands import wavelength_in_header
from deepfits.photometry import NJY_ZERO_POINT, reference_band
from deepfits.progress import Progress
from deepfits.results import read_record
from deepfits.stages.parameters import Images, Reading, as_list
from deepfits.stages.stage import INPUT, claim, part_of, refuse_given, stage
from deepfits.survey.bands import given_for, is_known_band, require_bands, sort_bands
from deepfits.survey.remarks import pattern_of, warnings_in

# Maximum rows combined at a time, further limited so that the strips of all exposures fit into these bytes.
STRIP, STRIP_BYTES = 256, 200 << 20
FORMAT = 3
REPORT = "stack.json"
# Offset in pixels, and fractional flux difference, from the other exposures of a band that cause a warning.
FAR_OFF, UNLIKE_FLUX = 1.0, 0.1
# Minimum number of exposures for their median position to be robust against one wrong WCS.
FEWEST = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StackConfig(Reading):
    """Parameters of `stack`."""

    images: Annotated[Images, INPUT]
    """Exposures: a directory, FITS files, or ``band=path``."""
    out: str | Path
    """Output directory for the coadds."""
    _: KW_ONLY
    method: Literal["clipped", "mean", "median"] = "clipped"
    """How pixels are combined: ``"clipped"`` (weighted mean with outliers rejected), ``"mean"`` (weighted) or
    ``"median"``, which preserves fluxes only where the seeing is the same in all exposures."""
    clip: Annotated[float, Range(gt=0)] = 4.0
    """Reject pixels that differ from the median, or the lower of two, by more than this many standard
    deviations plus 30 per cent of it, or more where the seeing differs, which spares bright sources."""
    register: Literal["report", "apply", "none"] = "report"
    """Residual shifts between exposures, measured from matched sources: ``"report"`` writes them to
    ``stack.json``, ``"apply"`` also corrects them, ``"none"`` does not measure them."""
    grid: Annotated[str | Path | None, INPUT] = None
    """A FITS image that defines the output grid; by default the smallest grid, north up, that covers all
    exposures."""
    pixel_scale: Annotated[float | None, Range(gt=0)] = None
    """Pixel scale of the default grid in arcsec; by default that of the finest exposure."""
    subtract_level: bool = True
    """Subtract the median sky level from each exposure, and what is left of it from the coadd."""


@stage(StackConfig, result="coadds")
def stack(config: StackConfig) -> Path:
    """Stack exposures into one coadd per band, on a common grid, with weights.

    Writes ``coadd-<band>.fits`` (nJy) and ``coadd-<band>.weight.fits`` (inverse variance). All bands share
    one pixel grid. ``stack.json`` records the number of rejected pixels of each band, and the residual shift
    and sky level of each exposure. Bands that are already stacked are kept.

    Raises
    ------
    InputError
        Exposures that cannot be stacked, or other coadds in `out`.

    Examples
    --------
    `deepfits stack exposures/ --out coadds`

    Two bands, with misaligned exposures corrected: `deepfits stack exposures/ --out coadds --band g,r
    --register apply`
    """
    from deepfits.survey.find import find_exposures
    from deepfits.survey.fitsfile import OpenFiles
    from deepfits.survey.noise import sky_doubts
    from deepfits.survey.planes import ReadOptions, open_plane
    from deepfits.survey.stacking import common_grid
    from deepfits.survey.zeropoint import parse_per_band

    _refuse_coadds_among_images(config)
    if config.grid is not None:
        refuse_given(config, ["pixel_scale"], f"with the grid of {config.grid}; leave one of them out")
    exposures = find_exposures(as_list(config.images), bands=config.bands)
    points = parse_per_band(config.zero_point, "zero_point")
    others = [] if config.bands is None else filter(is_known_band, points)  # not stacked now
    require_bands(points, [*exposures, *others], "zero_point")
    options = part_of(config, ReadOptions, zero_point=points, pixel_scale=None)
    files = {
        f"{band}/{exposure}/{number}/{path.name}": path
        for band, sources in exposures.items()
        for exposure, source in enumerate(sources)
        for number, path in enumerate((source.path, *(p for p, _ in source.companions)))
    }
    inputs = {"images": contents_of(files)}
    with claim(config, name="stack", version=FORMAT, inputs=inputs) as results, OpenFiles() as opened:
        out, report = results.path, {}
        if (out / REPORT).exists():  # has the bands that an earlier run finished
            report = read_json(out / REPORT, what="stacking report").get("bands", {})
            report = dict(report) if isinstance(report, dict) else {}
        coadds = {b: [out / f"coadd-{b}{end}.fits" for end in ("", ".weight")] for b in exposures}
        left = [b for b, paths in coadds.items() if b not in report or not all(p.exists() for p in paths)]
        if not left:
            return out
        allow_many_open_files()
        every = for_each(
            [source for sources in exposures.values() for source in sources],
            lambda source: open_plane(source, options, opened),
            "exposures",
        )
        planes = {band: [plane for plane in every if plane.source.band == band] for band in exposures}
        for band_planes in planes.values():
            _refuse_duplicates(band_planes)
        doubts: dict[str, list[str]] = defaultdict(list)
        for plane in every:
            for text in [*warnings_in(plane.remarks), *sky_doubts(plane, is_subtracted=True)]:
                doubts[pattern_of(text)].append(f"{plane.path}: {text}")
        for first, *more in doubts.values():
            log.warning("WARNING: %s%s", first, f" ({len(more)} more such exposures or CCDs)" * bool(more))
        for band, in_band in planes.items():
            _warn_of_zero_points(band, in_band, given_for(band, points))
        grid = config.grid
        target = _grid_from_image(grid) if grid is not None else common_grid(every, config.pixel_scale)
        shifts = {}
        if config.register != "none":
            shifts = _register_exposures(planes, target, reference_band(sort_bands(planes)), config.progress)
            for band, in_band in planes.items():
                _warn_of_odd_exposures(band, {p: shifts[p] for p in in_band}, config.register == "apply")
        for band in left:
            report[band] = _stack_band(band, planes[band], target, shifts, config, out)
            write_json(out / REPORT, {"settings": results.content["settings"], "bands": report})
    return out


def _refuse_coadds_among_images(config: StackConfig) -> None:
    """Refuse coadds among the exposures: simulated ones, and those that the next run would stack too."""
    out = os.path.realpath(config.out)
    for place in as_list(config.images):
        if (own := Path(place) / "exposures").is_dir() and read_record(place).get("stage") == "simulate":
            raise InputError(f"{place}: holds the coadds of its exposures too; give {own}")
        if Path(place).is_dir() and Path(out).is_relative_to(os.path.realpath(place)):
            raise InputError(
                f"{config.out}: lies within {place}, where coadds would be taken for exposures; choose "
                "another directory"
            )


def _refuse_duplicates(planes: Sequence[Any]) -> None:
    """Refuse duplicates (a copy, or a compressed version): they would count twice and understate the noise.

    Exposures with the same pixels have bit for bit the same WCS, sky level and noise.
    """
    from deepfits.survey.fitsfile import stem_of

    by_pixels: dict[Any, Path] = {}
    by_name: dict[Path, Path] = {}
    for plane in planes:
        path, place = plane.path, plane.wcs and (*plane.wcs.wcs.crval, *plane.wcs.wcs.crpix)
        pixels = (plane.shape, plane.noise, place)
        namesake = by_name.setdefault(path.parent / stem_of(path), path)
        if pixels in by_pixels or namesake != path:
            raise InputError(
                f"{by_pixels.get(pixels, namesake)}, {path}: the same exposure twice, which would be counted "
                "as two; leave one out"
            )
        by_pixels[pixels] = path


def _grid_from_image(path: str | Path) -> Any:
    """Return the pixel grid of a FITS image."""
    from deepfits.survey.astrometry import celestial_wcs
    from deepfits.survey.fitsfile import image_hdus, opened
    from deepfits.survey.grids import Grid
    from deepfits.survey.pixels import header_of

    with opened(path) as hdus:
        numbers = image_hdus(hdus)
        if not numbers:
            raise InputError(f"{path}: no two-dimensional image to take the grid from")
        hdu = hdus[numbers[0]]
        wcs, remarks = celestial_wcs(hdus, hdu, header_of(hdus, hdu))
        if wcs is None:
            raise InputError(f"{path}: no usable grid: {remarks[0]}")
        return Grid(wcs=wcs, shape=(int(hdu.shape[-2]), int(hdu.shape[-1])), path=Path(path))


def _register_exposures(
    planes: dict[str, list[Any]], target: Any, reference: str, progress: Progress
) -> dict[Any, Any]:
    """Register each exposure against the exposure of the reference band with the most sources.

    Shifts are relative to the median exposure of the reference band (if at least `FEWEST` were matched); flux
    ratios are relative to an exposure of the same band.
    """
    from deepfits.survey.stacking import bright_sources, register

    every = [plane for band_planes in planes.values() for plane in band_planes]
    lists, registered = {}, {}
    with progress("register", total=len(every), unit="exposures") as task:
        for plane in every:
            lists[plane] = bright_sources(plane, target)
            task.advance(1, plane.path.name)
    best = {band: max(in_band, key=lambda p: len(lists[p].x)) for band, in_band in planes.items()}
    for p, detected in lists.items():
        found, own = register(detected, lists[best[reference]]), best[p.source.band]
        ratio = (found if own is best[reference] else register(detected, lists[own])).flux_ratio
        registered[p] = replace(found, flux_ratio=ratio, width=detected.width)
    measured = [registered[p] for p in planes[reference] if registered[p].num_matched]
    if len(measured) < FEWEST:
        return registered
    dx, dy = np.median([(s.dx, s.dy) for s in measured], axis=0).tolist()
    return {p: replace(s, dx=s.dx - dx, dy=s.dy - dy) if s.num_matched else s for p, s in registered.items()}


def _warn_of_zero_points(band: str, planes: Sequence[Any], given: float | None) -> None:
    """Warn if the zero points in the headers of a band's exposures differ, but one is given for all."""
    from deepfits.survey.zeropoint import NOTABLE, zero_point_of_header

    stated: list[tuple[float, Path]] = []
    for plane in planes if given is not None else ():
        with suppress(InputError):  # unusable ones may be why one is given
            if (found := zero_point_of_header(plane.header)) is not None:
                stated.append((found[0], plane.path))
    if not stated:
        return
    (low, low_path), (high, high_path) = min(stated), max(stated)
    if high - low > NOTABLE:
        log.warning(
            "WARNING: zero point %g is used for all exposures and CCDs of %s, though those in their headers "
            "differ by %.2f mag, from %.2f (%s) to %.2f (%s); if the differences are real, write the AB zero "
            "point of each into its header (MAGZERO), and give none",
            *(given, band, high - low, low, low_path, high, high_path),
        )


def _warn_of_odd_exposures(band: str, shifts: dict[Any, Any], is_mended: bool) -> None:
    """Warn of exposures that are shifted (unless corrected) or scaled relative to the others of a band."""
    measured = [s for s in shifts.values() if s.num_matched]
    if not measured:
        return
    dx, dy = np.median([(s.dx, s.dy) for s in measured], axis=0).tolist()
    ratios = [s.flux_ratio for s in shifts.values() if math.isfinite(s.flux_ratio)]
    usual = float(np.median(ratios)) if ratios else math.nan
    for plane, shift in shifts.items():
        off = math.hypot(shift.dx - dx, shift.dy - dy) if shift.num_matched else 0.0
        if off > FAR_OFF and not is_mended:
            log.warning(
                "WARNING: %s: lies %.1f pixels off the other exposures of %s; correct its WCS, or use "
                "--register apply",
                *(plane.path, off, band),
            )
        if abs(shift.flux_ratio / usual - 1) > UNLIKE_FLUX:
            log.warning(
                "WARNING: %s: its sources are %.2f times as bright as in the other exposures of %s; check "
                "its zero point",
                *(plane.path, shift.flux_ratio / usual, band),
            )


def _stack_band(
    band: str, planes: list[Any], target: Any, shifts: dict[Any, Any], config: StackConfig, out: Path
) -> dict[str, Any]:
    """Stack one band strip by strip, write coadd and weights, and return its entry of the report."""
    from astropy.io import fits

    from deepfits.survey.astrometry import pixel_scale_of
    from deepfits.survey.grids import AlignedPlane
    from deepfits.survey.noise import sample_rows
    from deepfits.survey.sky_surface import SkySurface
    from deepfits.survey.stacking import Registration, seeing_tolerances, stack_strip

    aligned, widths = [], []
    for plane in planes:
        shift = shifts.get(plane, Registration())
        offset = (shift.dx, shift.dy) if config.register == "apply" else (0.0, 0.0)
        level = plane.noise.level if config.subtract_level else 0.0
        aligned.append(AlignedPlane(plane, target, offset, level))
        widths.append(shift.width)
    tolerance, reach = seeing_tolerances(widths, pixel_scale_of(target.wcs))
    image = np.zeros(target.shape, np.float32)
    weight = np.zeros(target.shape, np.float32)
    num_rejected = 0
    with config.progress(f"stack {band}", total=target.shape[0], unit="rows") as task:
        height = max(16, min(STRIP, STRIP_BYTES // (32 * len(aligned) * target.shape[1])))
        for start in range(0, target.shape[0], height):
            stop = min(start + height, target.shape[0])
            image[start:stop], weight[start:stop], rejected = stack_strip(
                aligned, start, stop, config.method, config.clip, tolerance, reach
            )
            num_rejected += int(rejected.sum())
            task.advance(stop - start)
    if not (weight > 0).any():
        raise InputError(f"band {band}: no exposure covers the grid; check the WCS of {planes[0].path}")
    if config.subtract_level:  # what is left of it, as sources are better known in the coadd
        rows = np.flatnonzero((weight > 0).any(axis=1))
        rows = rows[np.concatenate([np.arange(*strip) for strip in sample_rows(len(rows))])]
        image[weight > 0] -= SkySurface(image[rows], weight[rows]).level
    # The noise of a pixel is that in large apertures without the correlation that this adds to the plane's.
    gains = [a.noise_correlation / a.plane.noise_correlation / a.plane.noise.sigma for a in aligned]
    weights = [gain**2 / a.area for gain, a in zip(gains, aligned, strict=True)]
    correlation = float(np.average([a.noise_correlation**2 for a in aligned], weights=weights) ** 0.5)
    header = _band_header(band, target, correlation, planes)
    for end, array in ((".weight", weight), ("", image)):
        with writing(out / f"coadd-{band}{end}.fits") as temporary:
            fits.writeto(temporary, array, header)
    return {
        "num_exposures": len(planes),
        "fraction_covered": float((weight > 0).mean()),
        "num_rejected": num_rejected,
        "noise_correlation": correlation,
        "exposures": [_exposure_report(p, a, shifts.get(p)) for p, a in zip(planes, aligned, strict=True)],
    }


def _exposure_report(plane: Any, aligned: Any, shift: Any) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    report: dict[str, Any] = {
        "file": plane.path.name,
        "how": aligned.kind,
        "sky_level_njy": number(plane.noise.level),
        "noise_njy": number(plane.noise.sigma),
        "remarks": plane.remarks,
    }
    if shift is not None:
        report |= {
            "residual_shift_pixels": [number(shift.dx), number(shift.dy)],
            "scatter_pixels": number(shift.scatter),
            "num_matched": shift.num_matched,
            "flux_ratio": number(shift.flux_ratio),
            "width_arcsec": number(shift.width),
        }
    return report


def _band_header(band: str, target: Any, correlation: float, planes: list[Any]) -> Any:
    """Return the header of a coadd; it has the filter's wavelength if that is the same for all exposures."""
    from deepfits.survey.fitsfile import quiet

    with quiet():
        header = target.wcs.to_header()
    header["FILTER"] = band
    header["BUNIT"] = "nJy"
    header["MAGZERO"] = (NJY_ZERO_POINT, "AB magnitude of one count")
    header["NOISCORR"] = (round(correlation, 4), "noise of large apertures over that of pixels")
    header["NUMEXP"] = (len(planes), "exposures stacked")
    wavelengths = {wavelength_in_header(plane.header, band) for plane in planes}
    if len(wavelengths) == 1 and None not in wavelengths:
        header["WAVELEN"] = (wavelengths.pop(), "mean wavelength of the filter, Angstrom")
    return header
