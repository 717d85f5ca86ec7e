"""Stage `detect`: make a catalogue from images."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError, joined_error
from deepfits.fitting.columns import describe
from deepfits.processes import in_processes
from deepfits.progress import Progress
from deepfits.results import Results, read_record
from deepfits.stages.parameters import Detecting, Images, InProcesses
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.survey.catalogue import read_info
from deepfits.survey.sources import MESH, DeblendOptions
from deepfits.tables import format_of, read_table, write_table

if TYPE_CHECKING:
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import ImageSet
    from deepfits.survey.image_source import FieldSources


FORMAT = 6
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectConfig(Detecting, DeblendOptions, InProcesses):
    """Parameters of `detect`."""

    images: Annotated[Images, INPUT]
    """A directory, a FITS file, or a list of these and of ``band=path``; see `deepfits.survey.find`."""
    out: str | Path
    """Output catalogue: Parquet, or a FITS table if the name ends in ``.fits``."""
    _: KW_ONLY
    background_mesh: Annotated[int, Range(ge=8)] = MESH
    """Mesh size of the background estimate, in pixels; the light of larger galaxies is partly subtracted."""
    aperture_arcsec: Annotated[float, Range(gt=0)] = 2.0
    """Diameter of the circular aperture for aperture photometry."""


@stage(DetectConfig, result="catalogue")
def detect(config: DetectConfig) -> Path:
    """Detect the sources in the images and measure them in every band.

    Sources are detected on a combination of all bands, and no selection by type, magnitude or shape is
    applied. An object in overlapping fields is detected in each, and every detection stays in the catalogue;
    ``is_primary`` marks the one that is complete or, failing that, farthest from the edges of its field
    (`deepfits.survey.overlaps`).

    Raises
    ------
    InputError
        Unusable images, or a catalogue in `out` that was made from other images or with other settings.

    Examples
    --------
    `deepfits detect sky --out catalogue.parquet`

    A lower threshold: `deepfits detect sky --out deep.parquet --threshold 2.5`
    """
    from deepfits.survey.detection import DetectOptions

    format_of(config.out)  # refuse an unknown format before the work
    detection = part_of(
        config,
        Detection,
        images=config.find(config.images),
        options=part_of(config, DetectOptions, mesh=config.background_mesh),
    )
    inputs = {"images": detection.images.settings()["files"]}
    by_part = inputs_by_part(detection.images, Path(config.out), inputs)
    with claim(
        config, name="detect", version=FORMAT, inputs=inputs, is_file=True, by_part=by_part
    ) as results:
        detection.write(results, workers=config.workers, progress=config.progress)
        detection.images.require_unchanged()
    return results.path


def inputs_by_part(images: ImageSet, path: Path, inputs: Mapping[str, Any]) -> list[str]:
    """Return the inputs of a catalogue that may have changed: images, if some fields are as they were."""
    is_other = path.exists() and read_record(path).get("inputs", inputs) != inputs
    return ["images"] if is_other and images.has_field_of(read_info(path)) else []


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A detection run on a set of images: how sources are detected and measured."""

    images: ImageSet
    options: DetectOptions
    smoothing_arcsec: float | None = None
    aperture_arcsec: float = 2.0
    min_snr: float = 0.0

    def write(self, results: Results, *, workers: int, progress: Progress) -> None:
        """Detect field by field, unless the catalogue is finished.

        A field that cannot be read does not stop the others, which are kept for the next run: each counts as
        done as long as its own images and the settings are the same. So do those of an earlier catalogue, of
        which some images have changed.
        """
        from deepfits.survey.describing import log_warnings

        if results.is_finished:
            return
        measuring = {"aperture_arcsec": self.aperture_arcsec, "min_snr": self.min_snr}
        detect = asdict(self.options) | {"smoothing_arcsec": self.smoothing_arcsec} | measuring
        settings, fields = self.images.settings() | {"detect": detect}, self.images.fields
        # Hidden, so that an output that holds nothing else yet may be made from other images.
        parts = results.path.with_name(f".{results.path.name}.parts")
        bands = list(self.images.bands)
        made_from = {
            sources.name: self.images.made_from(sources) | {"bands": bands, "detect": detect}
            for sources in fields
        }
        done = self._kept(results.path)
        for name, wanted in made_from.items():
            path = parts / f"{name}.parquet"
            if path.exists() and read_info(path).get("settings") == wanted:
                done[name] = read_table(path), read_info(path)["field"]
        remaining, failed = [sources for sources in fields if sources.name not in done], []
        with progress("detect", total=len(fields), unit="fields", done=len(done)) as task:
            for name, result in in_processes(self._attempt, remaining, workers):
                if isinstance(result, InputError):
                    failed.append(result)
                    if len(fields) > 1:  # else the error that follows says it
                        log.warning("WARNING: field %s left out for now: %s", name, result)
                    continue
                columns, info = done[name] = result
                if len(columns["object_id"]):
                    about = {"settings": made_from[name], "field": info}
                    write_table(parts / f"{name}.parquet", columns, info=about)
                log_warnings(name, info)
                task.advance(1, f"{name}: {len(columns['object_id'])} sources")
        if failed:
            remedy = (
                "Repair these images, or leave the fields out, and run the same command again, which keeps "
                "the others"
            )
            raise joined_error(failed, len(fields), "fields", remedy)
        columns, infos = _join_fields({sources.name: done[sources.name] for sources in fields}, bands)
        remedy = f"lower the threshold of {self.options.threshold}"
        remedy += f" or the min_snr of {self.min_snr}" if self.min_snr > 0 else ""
        empty = ", ".join(name for name, info in infos.items() if not info["num_objects"])
        if not len(columns["object_id"]):
            raise InputError(f"field {empty}: nothing detected; {remedy}")
        if empty:
            log.warning("WARNING: field %s: nothing detected; if it is not empty, %s", empty, remedy)
        about = {"settings": settings, "fields": infos}
        write_table(results.path, columns, info=about, describe=partial(describe, table="detections"))
        if parts.exists():
            shutil.rmtree(parts)

    def _kept(self, path: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Return what an earlier catalogue has of fields whose images have not changed since."""
        if not path.exists():
            return {}
        columns, info = read_table(path), read_info(path)
        columns.pop("is_primary", None)
        return {
            name: ({key: values[columns["field"] == name] for key, values in columns.items()}, known)
            for sources in self.images.fields
            if (known := info.get("fields", {}).get(name := sources.name)) is not None
            and self.images.is_made_from(sources, known["made_from"], info["settings"])
        }

    def _attempt(
        self, sources: FieldSources
    ) -> tuple[str, tuple[dict[str, Any], dict[str, Any]] | InputError]:
        """Return the name of a field and its catalogue and description, or the error."""
        try:
            return sources.name, self._detect_field(sources)
        except InputError as error:
            return sources.name, error

    def _detect_field(self, sources: FieldSources) -> tuple[dict[str, Any], dict[str, Any]]:
        from deepfits.survey.describing import describe_field
        from deepfits.survey.extract import extract
        from deepfits.survey.fields import open_field

        options = self.options
        with open_field(sources, self.images) as field:
            if self.smoothing_arcsec is not None:
                options = replace(options, smoothing_pixels=self.smoothing_arcsec / field.pixel_scale)
            extraction = part_of(self, extract, sky=field, options=options, bands=self.images.bands)
            stellar = extraction.stellar_radius_arcsec
            info = describe_field(field, self.images, extraction) | {
                "num_objects": len(extraction.columns["object_id"]),
                "stellar_radius_arcsec": stellar if math.isfinite(stellar) else None,
            }
        return extraction.columns, info


def _join_fields(
    done: dict[str, tuple[dict[str, Any], dict[str, Any]]], bands: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Concatenate the catalogues of all fields and mark the primary detections."""
    from deepfits.survey.overlaps import flux_warnings, primary_detections

    parts, infos = [columns for columns, _ in done.values()], {name: info for name, (_, info) in done.items()}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(np.unique(joined["object_id"])) < len(joined["object_id"]):
        raise InputError("two fields have names with the same hash; rename the directory of one of them")
    joined["is_primary"] = primary_detections(joined, infos)
    for text in flux_warnings(joined, infos, bands):
        log.warning("WARNING: %s", text)
    return joined, infos
