"""Stage `stack`: exposures in, one coadd per band out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepfits.errors import InputError
from deepfits.photometry import NJY_ZERO_POINT
from deepfits.progress import Progress, silent

# Rows combined at a time: at most 256, and few enough that all exposures' strips fit into this many bytes.
STRIP, STRIP_BYTES = 256, 200 << 20


def stack(
    images: str | Path | list[str],
    out: str | Path,
    *,
    bands: list[str] | None = None,
    method: str = "clipped",
    clip: float = 4.0,
    register: str = "report",
    grid: str | Path | None = None,
    pixel_scale: float | None = None,
    subtract_level: bool = True,
    zero_point: list[str] | float | dict[str, float] | None = None,
    bad_planes: list[str] | None = None,
    mask_polarity: str | None = None,
    weight_scale: str = "auto",
    progress: Progress = silent,
) -> Path:
    """Stack the exposures of each band onto one grid: ``coadd-<band>.fits`` and ``coadd-<band>.weight.fits``.

    The coadds are in nJy, aligned with each other to the pixel, with inverse variances as weights.
    ``stack.json`` beside them says of each exposure its residual shift against the others, its sky level and
    how much of it was rejected. A band that is there already, made in the same way, is kept.

    Parameters
    ----------
    images
        Exposures: a directory, FITS files, or ``band=path``.
    out
        Directory for the coadds.
    bands
        Bands to stack; all by default.
    method
        ``clipped`` (weighted mean without outliers), ``mean`` or ``median``.
    clip
        Outliers lie more than this many standard deviations (and three tenths) off the median.
    register
        What to do about residual shifts between exposures, measured on matched sources: ``report``,
        ``apply`` (take them out too) or ``none``.
    grid
        A FITS image whose grid is used; by default the smallest one, north up, that holds everything.
    pixel_scale
        Of the default grid, arcseconds; that of the finest exposure when None.
    subtract_level
        Take the median sky level off each exposure.
    zero_point, bad_planes, mask_polarity, weight_scale
        As in `detect`.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Exposures that cannot be stacked, or other coadds there already.
    """
    from deepfits.photometry import reference_band
    from deepfits.survey.bands import sort_bands
    from deepfits.survey.find import find_exposures
    from deepfits.survey.planes import BAD_MASK_PLANES, ReadOptions, open_plane
    from deepfits.survey.stacking import METHODS, common_grid
    from deepfits.survey.zeropoint import parse_per_band

    if method not in METHODS:
        raise InputError(f"method: {method!r}; choose one of {', '.join(METHODS)}")
    if register not in ("report", "apply", "none"):
        raise InputError(f"register: {register!r}; choose report, apply or none")
    out = Path(out)
    exposures = find_exposures(images, bands=bands)
    options = ReadOptions(
        zero_point=parse_per_band(zero_point, "zero_point"),
        bad_planes=tuple(bad_planes) if bad_planes is not None else BAD_MASK_PLANES,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
    )
    settings = {
        "files": {b: [[s.path.name, s.path.stat().st_size] for s in found] for b, found in exposures.items()},
        "method": method,
        "clip": clip,
        "register": register,
        "grid": str(grid) if grid is not None else None,
        "pixel_scale": pixel_scale,
        "subtract_level": subtract_level,
        "zero_point": dict(options.zero_point),
        "weight_scale": weight_scale,
    }
    report = _earlier(out, settings)
    if all(_is_there(out, band) and band in report for band in exposures):
        return out
    with ExitStack() as opened:
        planes = {b: [open_plane(s, options, opened) for s in found] for b, found in exposures.items()}
        every = [plane for found in planes.values() for plane in found]
        target = _grid_of(grid) if grid is not None else common_grid(every, pixel_scale)
        shifts = (
            _registrations(planes, target, reference_band(sort_bands(planes)), progress)
            if register != "none"
            else {}
        )
        for band, found in planes.items():
            if _is_there(out, band) and band in report:
                continue
            report[band] = _one_band(band, found, target, shifts, settings, out, progress)
            _write_report(out, settings, report)
    return out


def _is_there(out: Path, band: str) -> bool:
    return all((out / f"coadd-{band}{end}.fits").exists() for end in ("", ".weight"))


def _earlier(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier run with the same settings reported."""
    from deepfits.files import read_json

    path = out / "stack.json"
    if not path.exists():
        if any(out.glob("coadd-*.fits")):
            raise InputError(f"{out}: holds coadds of another origin; name another directory")
        return {}
    content = read_json(path, what="stacking report")
    if content.get("settings") != settings:
        raise InputError(
            f"{out}: coadds made of other exposures or with other settings are there already; remove them or "
            "name another directory"
        )
    bands = content.get("bands", {})
    return dict(bands) if isinstance(bands, dict) else {}


def _write_report(out: Path, settings: dict[str, Any], report: dict[str, Any]) -> None:
    from deepfits.files import write_json

    write_json(out / "stack.json", {"settings": settings, "bands": report})


def _grid_of(path: str | Path) -> Any:
    """Take the grid of an image."""
    from astropy.wcs import WCS

    from deepfits.survey.fitsfile import image_hdus, opened, quiet
    from deepfits.survey.grids import Grid

    with opened(path) as hdus, quiet():
        numbers = image_hdus(hdus)
        if not numbers:
            raise InputError(f"{path}: no two-dimensional image to take the grid of")
        hdu = hdus[numbers[0]]
        wcs = WCS(hdu.header, naxis=2)
        if not wcs.has_celestial:
            raise InputError(f"{path}: no WCS to take the grid of")
        return Grid(wcs=wcs, shape=(int(hdu.shape[0]), int(hdu.shape[1])), path=Path(path))


def _registrations(
    planes: dict[str, list[Any]], target: Any, reference: str, progress: Progress
) -> dict[Any, Any]:
    """Measure each exposure against the one of the reference band with most sources."""
    from deepfits.survey.stacking import bright_sources, register

    total = sum(len(found) for found in planes.values())
    lists = {}
    with progress("register", total=total, unit="exposures") as task:
        for band, found in planes.items():
            for plane in found:
                lists[plane] = (band, bright_sources(plane, target))
                task.advance(1, plane.path.name)
    best = max((p for p in planes[reference]), key=lambda p: len(lists[p][1].x))
    anchor = lists[best][1]
    return {p: register(its, anchor, same_band=band == reference) for p, (band, its) in lists.items()}


def _one_band(
    band: str,
    found: list[Any],
    target: Any,
    shifts: dict[Any, Any],
    settings: dict[str, Any],
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Stack one band strip by strip, and write coadd and weights."""
    import numpy as np

    from deepfits.survey.grids import AlignedPlane
    from deepfits.survey.stacking import stack_strip

    apply = settings["register"] == "apply"
    aligned, levels = [], []
    for plane in found:
        shift = shifts.get(plane)
        offset = (shift.dx, shift.dy) if apply and shift is not None else (0.0, 0.0)
        aligned.append(AlignedPlane(plane, target, offset))
        levels.append(plane.noise.level if settings["subtract_level"] else 0.0)
    image = np.zeros(target.shape, np.float32)
    weight = np.zeros(target.shape, np.float32)
    num_rejected = 0
    with progress(f"stack {band}", total=target.shape[0], unit="rows") as task:
        height = max(16, min(STRIP, STRIP_BYTES // (32 * len(aligned) * target.shape[1])))
        for start in range(0, target.shape[0], height):
            stop = min(start + height, target.shape[0])
            image[start:stop], weight[start:stop], rejected = stack_strip(
                aligned, levels, start, stop, settings["method"], settings["clip"]
            )
            num_rejected += int(rejected.sum())
            task.advance(stop - start)
    if not (weight > 0).any():
        raise InputError(f"band {band}: no exposure covers the grid; check the WCS of {found[0].path}")
    correlation = float(np.mean([a.noise_correlation for a in aligned]))
    _write_band(out, band, image, weight, target, correlation, len(found))
    return {
        "num_exposures": len(found),
        "fraction_covered": float((weight > 0).mean()),
        "num_rejected": num_rejected,
        "noise_correlation": correlation,
        "exposures": [_exposure_report(p, a, shifts.get(p)) for p, a in zip(found, aligned, strict=True)],
    }


def _exposure_report(plane: Any, aligned: Any, shift: Any) -> dict[str, Any]:
    import math

    def number(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    said: dict[str, Any] = {
        "file": plane.path.name,
        "how": aligned.kind,
        "sky_level_njy": number(plane.noise.level),
        "noise_njy": number(plane.noise.sigma),
        "remarks": plane.remarks,
    }
    if shift is not None:
        said |= {
            "residual_shift_pixels": [number(shift.dx), number(shift.dy)],
            "scatter_pixels": number(shift.scatter),
            "num_matched": shift.num_matched,
            "flux_ratio": number(shift.flux_ratio),
        }
    return said


def _write_band(
    out: Path, band: str, image: Any, weight: Any, target: Any, correlation: float, num_exposures: int
) -> None:
    from astropy.io import fits

    from deepfits.files import writing
    from deepfits.survey.fitsfile import quiet

    with quiet():
        header = target.wcs.to_header()
    header["FILTER"] = band
    header["BUNIT"] = "nJy"
    header["MAGZERO"] = (NJY_ZERO_POINT, "AB magnitude of one count")
    header["NOISCORR"] = (round(correlation, 4), "noise of large apertures over that of pixels")
    header["NUMEXP"] = (num_exposures, "exposures stacked")
    for end, array in ((".weight", weight), ("", image)):
        with writing(out / f"coadd-{band}{end}.fits") as temporary:
            fits.writeto(temporary, array, header)
