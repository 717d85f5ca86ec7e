"""Stage `detect`: images in, catalogue out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfits.errors import InputError
from deepfits.progress import Progress, silent

if TYPE_CHECKING:
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import ImageSet


def detect(
    images: str | Path | list[str],
    out: str | Path,
    *,
    bands: list[str] | None = None,
    reference_band: str | None = None,
    threshold: float = 4.0,
    min_pixels: int = 5,
    smoothing_arcsec: float | None = None,
    combine: str = "snr",
    deblend_contrast: float = 0.001,
    background_mesh: int = 128,
    aperture_arcsec: float = 2.0,
    min_snr: float = 0.0,
    allow_missing: bool = False,
    zero_point: list[str] | float | dict[str, float] | None = None,
    pixel_scale: float | None = None,
    assume_aligned: bool = False,
    bad_planes: list[str] | None = None,
    mask_polarity: str | None = None,
    weight_scale: str = "auto",
    workers: int = 1,
    progress: Progress = silent,
) -> Path:
    """Find everything on the images, and measure it in every band.

    Where fields overlap, an object is detected in each; ``is_primary`` is true for the detection farthest
    from the edges of its field, see `deepfits.survey.overlaps`. All detections stay in the catalogue.

    Parameters
    ----------
    images
        A directory, a FITS file, or a list of these and of ``band=path``; see `deepfits.survey.find`.
    out
        The catalogue: Parquet, or a FITS table when the name ends in ``.fits``.
    bands
        Bands to use, in this order; all by default.
    reference_band
        The band whose pixel grid the others are brought to; i, else r, z or g, else the middle one.
    threshold, min_pixels, smoothing_arcsec, combine, deblend_contrast, background_mesh
        What counts as a source; see `deepfits.survey.detection.DetectOptions`. The smoothing is 2.5 pixels
        wide by default.
    aperture_arcsec
        Diameter of the fixed aperture.
    min_snr
        Keep sources with at least this signal-to-noise of the total flux, all bands together. The default
        keeps everything.
    allow_missing
        Fields that lack a band are taken, with NaN in its columns.
    zero_point
        AB zero point where the headers have none: ``27``, or ``["u=30", "g=27"]``.
    pixel_scale, assume_aligned
        For images without WCS: arcseconds per pixel, and that the bands are aligned pixel to pixel.
    bad_planes, mask_polarity, weight_scale
        How masks and weights are read; see `deepfits.survey.planes.ReadOptions`.
    workers
        Processes that work on different fields at the same time.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Images that cannot be used, or another catalogue, made otherwise, under the same name.
    """
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import image_set
    from deepfits.survey.parallel import check_workers

    check_workers(workers)
    chosen = image_set(
        images,
        bands=bands,
        reference=reference_band,
        allow_missing=allow_missing,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
    )
    options = DetectOptions(
        threshold=threshold,
        min_pixels=min_pixels,
        combine=combine,
        deblend_contrast=deblend_contrast,
        mesh=background_mesh,
    )
    return detect_in(
        chosen,
        Path(out),
        options,
        smoothing_arcsec=smoothing_arcsec,
        aperture_arcsec=aperture_arcsec,
        min_snr=min_snr,
        workers=workers,
        progress=progress,
    )


def detect_in(
    chosen: ImageSet,
    out: Path,
    options: DetectOptions,
    *,
    smoothing_arcsec: float | None = None,
    aperture_arcsec: float = 2.0,
    min_snr: float = 0.0,
    workers: int = 1,
    progress: Progress = silent,
) -> Path:
    """Do what `detect` does, on images that were found already."""
    from deepfits.survey.catalogue import write_catalogue

    measuring = {"aperture_arcsec": aperture_arcsec, "min_snr": min_snr}
    settings = chosen.settings() | {
        "detect": vars(options) | {"smoothing_arcsec": smoothing_arcsec} | measuring
    }
    if _is_done(out, settings):
        return out
    columns, infos = _all_fields(
        chosen, options, settings, out, progress, workers, smoothing_arcsec, measuring
    )
    write_catalogue(out, columns, {"settings": settings, "fields": infos})
    _remove_parts(out)
    return out


def _is_done(out: Path, settings: dict[str, Any]) -> bool:
    from deepfits.survey.catalogue import read_info

    if not out.exists():
        return False
    if out.suffix not in (".parquet", ".pq"):
        raise InputError(f"{out}: there is a file already; remove it to detect again")
    if read_info(out).get("settings") != settings:
        raise InputError(
            f"{out}: a catalogue made with other images or settings is there already; remove it or choose "
            "another name"
        )
    return True


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _remove_parts(out: Path) -> None:
    import shutil

    if _parts(out).exists():
        shutil.rmtree(_parts(out))


def _all_fields(
    chosen: Any,
    options: Any,
    settings: dict[str, Any],
    out: Path,
    progress: Progress,
    workers: int,
    smoothing_arcsec: float | None,
    measuring: dict[str, float],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Detect field by field; a finished field is kept beside `out` until all are."""
    import numpy as np

    from deepfits.survey.build import warn_of
    from deepfits.survey.catalogue import read_catalogue, read_info, write_catalogue
    from deepfits.survey.overlaps import primary_detections
    from deepfits.survey.parallel import in_processes

    many = len(chosen.fields) > 1
    done: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for sources in chosen.fields:
        path = _parts(out) / f"{sources.name}.parquet"
        if many and path.exists() and read_info(path).get("settings") == settings:
            done[sources.name] = read_catalogue(path), read_info(path)["field"]
    todo = [sources for sources in chosen.fields if sources.name not in done]
    jobs = [(sources, chosen, options, smoothing_arcsec, measuring) for sources in todo]
    with progress("detect", total=len(chosen.fields), unit="fields", done=len(done)) as task:
        results = map(_job, jobs) if workers == 1 else in_processes(_job, jobs, workers)
        for name, columns, info in results:
            if many:
                write_catalogue(
                    _parts(out) / f"{name}.parquet", columns, {"settings": settings, "field": info}
                )
            warn_of(name, info)
            done[name] = columns, info
            task.advance(1, f"{name}: {len(columns['object_id'])} sources")
    parts = [done[sources.name][0] for sources in chosen.fields]
    infos = {sources.name: done[sources.name][1] for sources in chosen.fields}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(np.unique(joined["object_id"])) < len(joined["object_id"]):
        raise InputError("two fields have names with the same hash; rename the directory of one of them")
    joined["is_primary"] = primary_detections(joined, infos)
    return joined, infos


def _job(job: tuple[Any, ...]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return job[0].name, *_one_field(*job)


def _one_field(
    sources: Any, chosen: Any, options: Any, smoothing_arcsec: float | None, measuring: dict[str, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    from dataclasses import replace

    from deepfits.survey.build import describe_field
    from deepfits.survey.extract import extract
    from deepfits.survey.fields import open_field

    with open_field(sources, chosen) as field:
        if smoothing_arcsec is not None:
            options = replace(options, smoothing_pixels=smoothing_arcsec / field.pixel_scale)
        found = extract(field, options, bands=chosen.bands, **measuring)
        if not len(found.columns["object_id"]):
            raise InputError(
                f"field {sources.name!r}: nothing detected; lower the threshold of {options.threshold}"
            )
        stellar = found.stellar_radius_arcsec
        info = describe_field(field, chosen.bands, found) | {
            "num_objects": len(found.columns["object_id"]),
            "stellar_radius_arcsec": stellar if math.isfinite(stellar) else None,
        }
    return found.columns, info
