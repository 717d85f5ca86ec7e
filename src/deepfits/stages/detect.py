"""Stage `detect`: images in, catalogue out."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepfits.errors import InputError
from deepfits.files import Results
from deepfits.progress import Progress
from deepfits.stages.parameters import Detecting, Images, InProcesses
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.survey.sources import DeblendOptions
from deepfits.tables import format_of

if TYPE_CHECKING:
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import ImageSet


FORMAT = 2


@dataclass(frozen=True)
class DetectConfig(Detecting, DeblendOptions, InProcesses):
    """What `detect` takes.

    Parameters
    ----------
    images
        A directory, a FITS file, or a list of these and of ``band=path``; see `deepfits.survey.find`.
    out
        The catalogue: Parquet, or a FITS table when the name ends in ``.fits``.
    background_mesh
        Side of the background's mesh in pixels.
    aperture_arcsec
        Diameter of the fixed aperture.
    """

    images: Annotated[Images, INPUT]
    out: str | Path
    _: KW_ONLY
    background_mesh: int = 128
    aperture_arcsec: float = 2.0


@stage(DetectConfig)
def detect(config: DetectConfig) -> Path:
    """Find everything on the images, and measure it in every band.

    All bands together make the detection image. Nothing is cut on nature, brightness or shape. Where fields
    overlap, an object is detected in each; ``is_primary`` is true for the detection farthest from the edges
    of its field, see `deepfits.survey.overlaps`. All detections stay in the catalogue.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Images that cannot be used, or another catalogue, made otherwise, under the same name.

    Examples
    --------
    `deepfits detect sky --out catalogue.parquet`
    """
    return detect_with(config)


def detect_with(config: DetectConfig) -> Path:
    """Do `detect`."""
    from deepfits.survey.detection import DetectOptions

    format_of(config.out)  # before the work
    options = part_of(config, DetectOptions, mesh=config.background_mesh)
    chosen = config.find(config.images)
    files = chosen.settings()["files"]
    with claim(config, name="detect", version=FORMAT, inputs={"images": files}, is_file=True) as results:
        detect_in(
            chosen,
            results,
            options,
            smoothing_arcsec=config.smoothing_arcsec,
            aperture_arcsec=config.aperture_arcsec,
            min_snr=config.min_snr,
            workers=config.workers,
            progress=config.progress,
        )
    return results.path


def detect_in(
    chosen: ImageSet,
    results: Results,
    options: DetectOptions,
    *,
    smoothing_arcsec: float | None,
    aperture_arcsec: float = 2.0,
    min_snr: float,
    workers: int,
    progress: Progress,
) -> None:
    """Do what `detect` does, on images that were found already, unless the catalogue is there."""
    from deepfits.survey.catalogue import write_catalogue

    if results.is_finished:
        return
    out = results.path
    measuring = {"aperture_arcsec": aperture_arcsec, "min_snr": min_snr}
    settings = chosen.settings() | {
        "detect": asdict(options) | {"smoothing_arcsec": smoothing_arcsec} | measuring
    }
    columns, infos = _all_fields(
        chosen, options, settings, out, progress, workers, smoothing_arcsec, measuring
    )
    write_catalogue(out, columns, {"settings": settings, "fields": infos})
    _remove_parts(out)


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

    from deepfits.survey.build import log_warnings
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
            log_warnings(name, info)
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
        extraction = extract(field, options, bands=chosen.bands, **measuring)
        if not len(extraction.columns["object_id"]):
            raise InputError(
                f"field {sources.name!r}: nothing detected; lower the threshold of {options.threshold}"
            )
        stellar = extraction.stellar_radius_arcsec
        info = describe_field(field, chosen.bands, extraction) | {
            "num_objects": len(extraction.columns["object_id"]),
            "stellar_radius_arcsec": stellar if math.isfinite(stellar) else None,
        }
    return extraction.columns, info
