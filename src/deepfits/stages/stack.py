"""Stage `stack`: exposures in, one coadd per band out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import contents_of, read_json, write_json, writing
from deepfits.passbands import wavelength_in_header
from deepfits.photometry import NJY_ZERO_POINT, reference_band
from deepfits.progress import Progress
from deepfits.stages.parameters import Images, Reading, as_list
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.survey.bands import is_known_band, require_bands, sort_bands

# Rows combined at a time: at most 256, and few enough that all exposures' strips fit into this many bytes.
STRIP, STRIP_BYTES = 256, 200 << 20
FORMAT = 2
REPORT = "stack.json"
# Pixels off the other exposures of a band, and share of the flux off theirs, that are said.
FAR_OFF, UNLIKE_FLUX = 1.0, 0.1
# Exposures whose median place is that of their WCS, whatever the WCS of one of them says.
FEWEST = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StackConfig(Reading):
    """What `stack` takes.

    Parameters
    ----------
    images
        Exposures: a directory, FITS files, or ``band=path``.
    out
        Directory for the coadds.
    method
        ``"clipped"`` (weighted mean without outliers), ``"mean"`` or ``"median"``.
    clip
        Outliers lie more than this many standard deviations (and three tenths) off the median.
    register
        What to do about residual shifts between exposures, measured on matched sources: ``"report"``,
        ``"apply"`` (take them out too) or ``"none"``.
    grid
        A FITS image whose grid is used; by default the smallest one, north up, that holds everything.
    pixel_scale
        Of the default grid, arcseconds; that of the finest exposure by default.
    subtract_level
        Take the median sky level off each exposure.
    """

    images: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY
    method: Literal["clipped", "mean", "median"] = "clipped"
    clip: Annotated[float, Range(gt=0)] = 4.0
    register: Literal["report", "apply", "none"] = "report"
    grid: Annotated[str | Path | None, INPUT] = None
    pixel_scale: Annotated[float | None, Range(gt=0)] = None
    subtract_level: bool = True


@stage(StackConfig)
def stack(config: StackConfig) -> Path:
    """Stack the exposures of each band onto one grid: ``coadd-<band>.fits`` and ``coadd-<band>.weight.fits``.

    The coadds are in nJy, aligned with each other to the pixel, with inverse variances as weights.
    ``stack.json`` beside them says of each exposure its residual shift against the others, its sky level and
    how much of it was rejected. A band that is there already is kept.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Exposures that cannot be stacked, or other coadds there already.

    Examples
    --------
    `deepfits stack exposures/ --out coadds`
    """
    from deepfits.survey.find import find_exposures
    from deepfits.survey.planes import ReadOptions, open_plane
    from deepfits.survey.stacking import common_grid
    from deepfits.survey.zeropoint import parse_per_band

    _require_apart(config)
    exposures = find_exposures(config.images, bands=config.bands)
    points = parse_per_band(config.zero_point, "zero_point")
    others = [] if config.bands is None else filter(is_known_band, points)  # those that are not stacked now
    require_bands(points, [*exposures, *others], "zero_point")
    options = part_of(config, ReadOptions, zero_point=points, pixel_scale=None)
    files = {
        f"{band}/{exposure}/{number}/{path.name}": path
        for band, sources in exposures.items()
        for exposure, source in enumerate(sources)
        for number, path in enumerate((source.path, *(p for p, _ in source.companions)))
    }
    inputs = {"images": contents_of(files)}
    with claim(config, name="stack", version=FORMAT, inputs=inputs) as results, ExitStack() as opened:
        out, report = results.path, {}
        if (out / REPORT).exists():  # of the bands that an earlier run finished
            report = read_json(out / REPORT, what="stacking report").get("bands", {})
            report = dict(report) if isinstance(report, dict) else {}
        if all(_is_there(out, band) and band in report for band in exposures):
            return out
        planes = {b: [open_plane(s, options, opened) for s in sources] for b, sources in exposures.items()}
        for band_planes in planes.values():
            _require_different(band_planes)
        every = [plane for band_planes in planes.values() for plane in band_planes]
        for plane, text in ((p, t) for p in every for t in p.remarks if t.startswith("WARNING: ")):
            log.warning("WARNING: %s: %s", plane.path, text.removeprefix("WARNING: "))
        grid = config.grid
        target = _grid_of(grid) if grid is not None else common_grid(every, config.pixel_scale)
        shifts = {}
        if config.register != "none":
            shifts = _registrations(planes, target, reference_band(sort_bands(planes)), config.progress)
            for band, its in planes.items():
                _warn_of_odd_exposures(band, {p: shifts[p] for p in its}, config.register == "apply")
        for band, band_planes in planes.items():
            if _is_there(out, band) and band in report:
                continue
            report[band] = _one_band(band, band_planes, target, shifts, config, out)
            write_json(out / REPORT, {"settings": results.content["settings"], "bands": report})
    return out


def _require_apart(config: StackConfig) -> None:
    """Refuse to write coadds among the exposures, where the next run would stack them too."""
    out = os.path.realpath(config.out)
    for place in as_list(config.images):
        if Path(place).is_dir() and Path(out).is_relative_to(os.path.realpath(place)):
            raise InputError(
                f"{config.out}: lies within {place}, where coadds would be taken for exposures; choose "
                "another place"
            )


def _require_different(planes: Sequence[Any]) -> None:
    """Refuse an exposure that is there twice, copied or packed: it would count as two, with less noise.

    Of the same pixels, place, level and noise are the same to the last bit.
    """
    from deepfits.survey.fitsfile import stem_of

    of_pixels: dict[Any, Path] = {}
    of_names: dict[Path, Path] = {}
    for plane in planes:
        path, place = plane.path, plane.wcs and (*plane.wcs.wcs.crval, *plane.wcs.wcs.crpix)
        pixels = (plane.shape, plane.noise, place)
        namesake = of_names.setdefault(path.parent / stem_of(path), path)
        if pixels in of_pixels or namesake != path:
            raise InputError(
                f"{of_pixels.get(pixels, namesake)}, {path}: the same exposure twice, which would count as "
                "two; leave one out"
            )
        of_pixels[pixels] = path


def _is_there(out: Path, band: str) -> bool:
    return all((out / f"coadd-{band}{end}.fits").exists() for end in ("", ".weight"))


def _grid_of(path: str | Path) -> Any:
    """Take the grid of an image."""
    from deepfits.survey.astrometry import celestial_wcs
    from deepfits.survey.fitsfile import image_hdus, opened
    from deepfits.survey.grids import Grid
    from deepfits.survey.pixels import header_of

    with opened(path) as hdus:
        numbers = image_hdus(hdus)
        if not numbers:
            raise InputError(f"{path}: no two-dimensional image to take the grid of")
        hdu = hdus[numbers[0]]
        wcs, remarks = celestial_wcs(hdus, hdu, header_of(hdus, hdu))
        if wcs is None:
            raise InputError(f"{path}: no grid to take: {remarks[0]}")
        return Grid(wcs=wcs, shape=(int(hdu.shape[-2]), int(hdu.shape[-1])), path=Path(path))


def _registrations(
    planes: dict[str, list[Any]], target: Any, reference: str, progress: Progress
) -> dict[Any, Any]:
    """Measure each exposure against the one of the reference band with most sources.

    Places are those relative to the median exposure of that band, fluxes to one of the exposure's own.
    """
    from deepfits.survey.stacking import bright_sources, register

    total = sum(len(band_planes) for band_planes in planes.values())
    lists = {}
    with progress("register", total=total, unit="exposures") as task:
        for band, exposures in planes.items():
            for plane in exposures:
                lists[plane] = (band, bright_sources(plane, target))
                task.advance(1, plane.path.name)
    best = {band: max(its, key=lambda p: len(lists[p][1].x)) for band, its in planes.items()}
    anchor = lists[best[reference]][1]
    found = {p: register(its, anchor, same_band=band == reference) for p, (band, its) in lists.items()}
    for p, (band, its) in lists.items():
        if band != reference:
            found[p] = replace(found[p], flux_ratio=register(its, lists[best[band]][1]).flux_ratio)
    measured = [found[p] for p in planes[reference] if found[p].num_matched]
    if len(measured) < FEWEST:
        return found
    dx, dy = _median_place(measured)
    return {p: replace(s, dx=s.dx - dx, dy=s.dy - dy) if s.num_matched else s for p, s in found.items()}


def _median_place(measured: Sequence[Any]) -> tuple[float, float]:
    """Return the median shift of some exposures along x and y, pixels."""
    return float(np.median([s.dx for s in measured])), float(np.median([s.dy for s in measured]))


def _warn_of_odd_exposures(band: str, shifts: dict[Any, Any], is_mended: bool) -> None:
    """Warn of exposures that lie off the others of a band, unless that is taken out, or are brighter."""
    measured = [s for s in shifts.values() if s.num_matched]
    if not measured:
        return
    dx, dy = _median_place(measured)
    ratios = [s.flux_ratio for s in shifts.values() if math.isfinite(s.flux_ratio)]
    usual = float(np.median(ratios)) if ratios else math.nan
    for plane, shift in shifts.items():
        off = math.hypot(shift.dx - dx, shift.dy - dy) if shift.num_matched else 0.0
        if off > FAR_OFF and not is_mended:
            log.warning(
                "WARNING: %s: lies %.1f pixels off the other exposures of %s; mend its WCS, or say "
                "--register apply",
                *(plane.path, off, band),
            )
        if abs(shift.flux_ratio / usual - 1) > UNLIKE_FLUX:
            log.warning(
                "WARNING: %s: its sources are %.2f times as bright as in the other exposures of %s; check "
                "its zero point",
                *(plane.path, shift.flux_ratio / usual, band),
            )


def _one_band(
    band: str, planes: list[Any], target: Any, shifts: dict[Any, Any], config: StackConfig, out: Path
) -> dict[str, Any]:
    """Stack one band strip by strip, and write coadd and weights."""
    from astropy.io import fits

    from deepfits.survey.grids import AlignedPlane
    from deepfits.survey.stacking import stack_strip

    apply = config.register == "apply"
    aligned, levels = [], []
    for plane in planes:
        shift = shifts.get(plane)
        offset = (shift.dx, shift.dy) if apply and shift is not None else (0.0, 0.0)
        aligned.append(AlignedPlane(plane, target, offset))
        levels.append(plane.noise.level if config.subtract_level else 0.0)
    image = np.zeros(target.shape, np.float32)
    weight = np.zeros(target.shape, np.float32)
    num_rejected = 0
    with config.progress(f"stack {band}", total=target.shape[0], unit="rows") as task:
        height = max(16, min(STRIP, STRIP_BYTES // (32 * len(aligned) * target.shape[1])))
        for start in range(0, target.shape[0], height):
            stop = min(start + height, target.shape[0])
            image[start:stop], weight[start:stop], rejected = stack_strip(
                aligned, levels, start, stop, config.method, config.clip
            )
            num_rejected += int(rejected.sum())
            task.advance(stop - start)
    if not (weight > 0).any():
        raise InputError(f"band {band}: no exposure covers the grid; check the WCS of {planes[0].path}")
    correlation = float(np.mean([a.noise_correlation for a in aligned]))
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
        }
    return report


def _band_header(band: str, target: Any, correlation: float, planes: list[Any]) -> Any:
    """Return the header of a coadd, which says the filter's wavelength where all exposures have the same."""
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
