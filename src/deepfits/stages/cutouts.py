"""Stage `cutouts`: make a cutout store from images and a catalogue."""

from __future__ import annotations

import os
import tempfile
from dataclasses import KW_ONLY, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import contents, read_json
from deepfits.results import Results, read_record, results
from deepfits.stages.detect import FORMAT as CATALOGUE_FORMAT
from deepfits.stages.detect import Detection, inputs_by_part
from deepfits.stages.parameters import (
    Choosing,
    Cutting,
    Images,
    OnCluster,
    Partial,
    as_list,
    images_at,
    require_catalogue,
)
from deepfits.stages.stage import INPUT, claim, part_of, refuse_given, stage
from deepfits.survey.bands import require_bands
from deepfits.survey.catalogue import read_catalogue, read_info

if TYPE_CHECKING:
    from deepfits.survey.fields import ImageSet


FORMAT = 8


@dataclass(frozen=True)
class CutoutsConfig(Cutting, Choosing, OnCluster, Partial):
    """Parameters of `cutouts`."""

    images: Annotated[Images, INPUT]
    """A directory, a FITS file, or a list of these and of ``band=path``; see `deepfits.survey.find`. Or a
    TOML file that describes cutouts made elsewhere; see `deepfits.survey.readers`."""
    out: str | Path
    """Output directory, the cutout store."""
    _: KW_ONLY
    catalogue: Annotated[str | Path | None, INPUT] = None
    """Objects to cut out: Parquet, FITS table or CSV with ra and dec (degrees) or x and y (pixels of the
    reference band, 0-based), and with several fields also ``object_id`` and ``field``. By default the objects
    are detected, and ``catalogue.parquet`` is written to the store. For cutouts made elsewhere, a table of
    further columns to store."""
    size: Annotated[int, Range(ge=4, le=4096)] = 32
    """Side of a cutout in pixels: a multiple of 16 for the recipes of `train`, except ``scene``."""


@stage(CutoutsConfig, result="cutout store")
def cutouts(config: CutoutsConfig) -> Path:
    """Cut out every object in every band, with weights, and write a cutout store.

    Bands are aligned by their WCS. No object is dropped: pixels outside an image and missing bands get weight
    0, and the affected objects are counted in ``summary.json`` and listed in ``incomplete.csv`` in the store.
    Run the same command again to add what is missing.

    Raises
    ------
    InputError
        Unusable images or catalogue, or another store in `out`. An image that cannot be read while objects
        are cut out does not stop the other shards: the error is raised at the end and names the image, and
        ``_manifest.jsonl`` records the state of each shard.

    Examples
    --------
    Detect and cut out all objects: `deepfits cutouts sky --out run/cutouts`

    With your own catalogue, in three bands: `deepfits cutouts frames/ --out run/cutouts --catalogue mine.fits
    --band g,r,i`
    """
    from deepfits.survey.psf import parse_psf_option

    images = as_list(config.images)
    if len(images) == 1 and str(images[0]).endswith(".toml"):
        return _ingest(config, Path(images[0]))
    if config.catalogue is not None:
        require_catalogue(config, config.catalogue)
    # A scheduler's workers may run in another directory: give them absolute paths.
    chosen = config.find(config.images if config.scheduler is None else images_at(images, os.path.realpath))
    require_bands(parse_psf_option(config.psf), chosen.bands, "psf")
    inputs = {"images": chosen.settings()["files"]}
    by_part = _inputs_by_part(config, chosen, inputs)
    with claim(config, name="cutouts", version=FORMAT, inputs=inputs, by_part=by_part) as claimed:
        _cut(config, chosen, claimed)
        chosen.require_unchanged()
    return claimed.path


def _inputs_by_part(config: CutoutsConfig, chosen: ImageSet, inputs: dict[str, Any]) -> list[str]:
    """Return the inputs of which some parts may have changed since the store was begun, as others have not.

    These are the images, and with them a catalogue of `detect`, which only detects again where they changed.
    """
    store = Path(config.out) / "store.json"
    if not store.exists() or read_record(config.out).get("inputs", {}).get("images") == inputs["images"]:
        return []
    if not chosen.has_field_of(read_json(store, what="store description").get("extra", {})):
        return []
    is_ours = config.catalogue is not None and bool(read_info(config.catalogue).get("fields"))
    return ["images", *(["catalogue"] if is_ours else [])]


def _ingest(config: CutoutsConfig, path: Path) -> Path:
    """Copy the cutouts described by a TOML file into a store."""
    from deepfits.survey.cutout_description import read_description
    from deepfits.survey.ingest import ingest
    from deepfits.survey.psf import parse_psf_option

    description = read_description(path)
    unused = {f.name for f in fields(Cutting)} - {"psf", "shard_size", "progress"}
    refuse_given(
        config, unused, f"on cutouts made elsewhere; leave it out, or say it in the description {path}"
    )
    inputs = {"images": contents(path, description.path)}
    with claim(config, name="cutouts", version=FORMAT, inputs=inputs) as claimed:
        part_of(config, ingest, description_path=path, out=claimed.path, psf=parse_psf_option(config.psf))
    return claimed.path


def _cut(config: CutoutsConfig, chosen: ImageSet, claimed: Results) -> None:
    """Detect the objects if no catalogue is given, and cut them out."""
    from deepfits.survey.build import build_store
    from deepfits.survey.describing import StorePlan
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.psf import parse_psf_option, require_given_psfs

    out, psf = claimed.path, parse_psf_option(config.psf)
    with tempfile.TemporaryDirectory(prefix="deepfits-") as unpacked:
        if config.catalogue is None:
            require_given_psfs(psf, chosen.bands, {})
            path = out / "catalogue.parquet"
            # Detection and cutting read the same files; compressed ones are decompressed only once.
            kept = chosen.keeping_copies(unpacked)
            detection = part_of(config, Detection, images=kept, options=part_of(config, DetectOptions))
            measuring = {"smoothing_arcsec": config.smoothing_arcsec, "min_snr": config.min_snr}
            inputs = {"images": claimed.content["inputs"]["images"]}
            with results(
                path,
                "detect",
                inputs=inputs,
                settings={**asdict(detection.options), **measuring},
                version=CATALOGUE_FORMAT,
                is_file=True,
                by_part=inputs_by_part(chosen, path, inputs),
            ) as catalogue:
                detection.write(catalogue, workers=config.workers, progress=config.progress)
            if config.scheduler is None:  # its workers cannot see this machine's copies
                chosen = kept
        else:
            path, detected = Path(config.catalogue), out / "catalogue.parquet"
            if detected.exists() and os.path.realpath(path) != os.path.realpath(detected):
                raise InputError(
                    f"{detected}: the objects of an earlier run, but --catalogue is {path}; choose another "
                    "output, or remove it to start over"
                )
        columns = read_catalogue(path, where=config.where)
        require_given_psfs(psf, chosen.bands, columns)
        plan = part_of(config, StorePlan, images=chosen, catalogue_path=path, psf=psf)
        where, counted = (config.workers, config.scheduler), claimed.is_finished
        build_store(plan, columns, read_info(path), out, config.progress, *where, is_counted=counted)
