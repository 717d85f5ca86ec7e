"""Stage `detect`: images in, catalogue out."""

from __future__ import annotations

import math
import shutil
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.progress import Progress
from deepfits.results import Results
from deepfits.stages.parameters import Detecting, Images, InProcesses
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.parallel import in_processes
from deepfits.survey.sources import DeblendOptions
from deepfits.tables import format_of, write_table

if TYPE_CHECKING:
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import ImageSet
    from deepfits.survey.image_source import FieldSources


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
    background_mesh: Annotated[int, Range(ge=8)] = 128
    aperture_arcsec: Annotated[float, Range(gt=0)] = 2.0


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
    from deepfits.survey.detection import DetectOptions

    format_of(config.out)  # before the work
    detection = part_of(
        config,
        Detection,
        images=config.find(config.images),
        options=part_of(config, DetectOptions, mesh=config.background_mesh),
    )
    files = detection.images.settings()["files"]
    with claim(config, name="detect", version=FORMAT, inputs={"images": files}, is_file=True) as results:
        detection.write(results, workers=config.workers, progress=config.progress)
    return results.path


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What is detected, on images that were found already, and how it is measured."""

    images: ImageSet
    options: DetectOptions
    smoothing_arcsec: float | None = None
    aperture_arcsec: float = 2.0
    min_snr: float = 0.0

    def write(self, results: Results, *, workers: int, progress: Progress) -> None:
        """Detect field by field, unless the catalogue is there; a finished field is kept until all are."""
        from deepfits.survey.build import log_warnings

        if results.is_finished:
            return
        measuring = {"aperture_arcsec": self.aperture_arcsec, "min_snr": self.min_snr}
        detect = asdict(self.options) | {"smoothing_arcsec": self.smoothing_arcsec} | measuring
        settings, fields = self.images.settings() | {"detect": detect}, self.images.fields
        parts = results.path.with_name(f"{results.path.name}.parts")
        done: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for sources in fields:
            path = parts / f"{sources.name}.parquet"
            if len(fields) > 1 and path.exists() and read_info(path).get("settings") == settings:
                done[sources.name] = read_catalogue(path), read_info(path)["field"]
        todo = [sources for sources in fields if sources.name not in done]
        with progress("detect", total=len(fields), unit="fields", done=len(done)) as task:
            detected = (
                map(self._one_field, todo) if workers == 1 else in_processes(self._one_field, todo, workers)
            )
            for name, columns, info in detected:
                if len(fields) > 1:
                    about = {"settings": settings, "field": info}
                    write_table(parts / f"{name}.parquet", columns, info=about)
                log_warnings(name, info)
                done[name] = columns, info
                task.advance(1, f"{name}: {len(columns['object_id'])} sources")
        columns, infos = _joined({sources.name: done[sources.name] for sources in fields})
        write_table(results.path, columns, info={"settings": settings, "fields": infos})
        if parts.exists():
            shutil.rmtree(parts)

    def _one_field(self, sources: FieldSources) -> tuple[str, dict[str, Any], dict[str, Any]]:
        from deepfits.survey.build import describe_field
        from deepfits.survey.extract import extract
        from deepfits.survey.fields import open_field

        options = self.options
        with open_field(sources, self.images) as field:
            if self.smoothing_arcsec is not None:
                options = replace(options, smoothing_pixels=self.smoothing_arcsec / field.pixel_scale)
            extraction = part_of(self, extract, sky=field, options=options, bands=self.images.bands)
            number = len(extraction.columns["object_id"])
            if not number:
                raise InputError(
                    f"field {sources.name!r}: nothing detected; lower the threshold of {options.threshold}"
                )
            stellar = extraction.stellar_radius_arcsec
            info = describe_field(field, self.images, extraction) | {
                "num_objects": number,
                "stellar_radius_arcsec": stellar if math.isfinite(stellar) else None,
            }
        return sources.name, extraction.columns, info


def _joined(
    done: dict[str, tuple[dict[str, Any], dict[str, Any]]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Concatenate the catalogues of fields, and mark the primary detections."""
    from deepfits.survey.overlaps import primary_detections

    parts, infos = [columns for columns, _ in done.values()], {name: info for name, (_, info) in done.items()}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(np.unique(joined["object_id"])) < len(joined["object_id"]):
        raise InputError("two fields have names with the same hash; rename the directory of one of them")
    joined["is_primary"] = primary_detections(joined, infos)
    return joined, infos
