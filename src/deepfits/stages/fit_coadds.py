"""Fit directly from images: cut out, fit and write the features without storing the cutouts.

Objects are divided into shards just as `cutouts` divides them (fields by name, objects by y, `shard_size` at
a time), so the features are bit for bit those that a store of these cutouts would give.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.config import from_mapping
from deepfits.errors import InputError
from deepfits.files import digest, read_json, write_json
from deepfits.gaussian_psf import NUM_GAUSSIANS
from deepfits.models.bundle import Model
from deepfits.models.sight import require_psf
from deepfits.scale.work import Advance, Process, Shard
from deepfits.splits import is_held_out
from deepfits.stages.detect import detect
from deepfits.stages.fit_work import FittingWork, Selection
from deepfits.stages.parameters import Cutting, images_at, require_catalogue
from deepfits.stages.stage import part_of
from deepfits.survey import describing
from deepfits.survey.bands import given_for, places_of, sort_bands
from deepfits.survey.build import ShardTask, cut_task, lay_out
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.describing import StorePlan
from deepfits.survey.fields import ImageSet, OpenFields
from deepfits.survey.find import find_fields
from deepfits.survey.psf import gaussians_of, parse_psf_option, require_given_psfs
from deepfits.survey.store import StoreInfo, check_cutouts, shard_name

DESCRIPTION = "_coadds.json"


def prepare(config: Any, out: Path, model: Model, common: Mapping[str, Any]) -> tuple[CoaddWork, Selection]:
    """Find the images and the objects on them, detecting the objects if there is no catalogue.

    `config` is a `deepfits.stages.fit.FitConfig`; `common` are the fields of `FittingWork`. The model
    determines the bands and size of the cutouts. The content of each selected shard is a `Part`.
    """
    images, cutting = images_at(config.store, os.path.realpath), dict(config.cutting or {})
    if taken := cutting.keys() & {"bands", "size", *vars(config)}:
        given = ", ".join(sorted(taken))
        raise InputError(f"cutting: {given}: bands and size are the model's, the rest is given to fit itself")
    options = from_mapping(Cutting, cutting, where="cutting")
    options = replace(options, bands=_bands(images, model), progress=config.progress)
    chosen, psf = options.find(images), parse_psf_option(options.psf)
    path = Path(config.catalogue or out / "catalogue.parquet")
    if config.catalogue is None:
        require_given_psfs(psf, chosen.bands, {})
        part_of(options, detect, images=images, out=path, workers=max(1, config.workers))
    else:
        require_catalogue(options, path)
    columns, known = read_catalogue(path, where=config.where), read_info(path)
    require_given_psfs(psf, chosen.bands, columns)
    plan = part_of(
        options, StorePlan, images=chosen, size=cutout_size(model, chosen), catalogue_path=path, psf=psf
    )
    with closing(OpenFields(chosen)) as fields:
        tasks = lay_out(plan, columns, known, fields).tasks
        info = _describe(plan, known, tasks, fields, columns, out / DESCRIPTION)
    _require_psf(model, info, chosen)
    widths = [given_for(b, plan.psf) or f"psfsize_{b}" for b in chosen.bands]
    widths = [name for name in dict.fromkeys(widths) if name in columns]
    parts = [_part(task, widths, config) for task in tasks]
    if not any(len(part.rows) for part in parts):
        raise InputError(f"{path}: none of its objects on the images is among those to be fitted")
    settings = plan.settings()
    del settings["files"]  # the digest of each part has its own files
    work = CoaddWork(plan=plan, info=info, digest=digest(settings), **common)
    return work, Selection(shards=_shards(parts, plan, info), unreadable={})


def _bands(images: list[str], model: Model) -> tuple[str, ...]:
    """Return the model's bands as the images name them, such as ``ustar`` for u or ``R`` for r."""
    available = sort_bands(band for field in find_fields(images) for band in field.bands)
    places = places_of(model.info.bands, available)
    return tuple(b if n is None else available[n] for b, n in zip(model.info.bands, places, strict=True))


def _describe(
    plan: StorePlan,
    known: dict[str, Any],
    tasks: list[ShardTask],
    fields: OpenFields,
    columns: dict[str, np.ndarray],
    path: Path,
) -> StoreInfo:
    """Describe the cutouts from the readable fields; unreadable ones are reported when they are cut.

    The properties common to all fields are determined once and kept in `path`, so that the features of one
    field do not change when another is repaired or added. They are determined again if the images that they
    came from have changed.
    """
    earlier = read_json(path, what="description of cutouts") if path.exists() else {}
    described: dict[str, dict[str, Any]] = dict(earlier.get("fields", {}))
    changed, reason = set(), None
    for index in sorted({task.field_index for task in tasks}):
        name = plan.images.fields[index].name
        known_fields = {"fields": {**known.get("fields", {}), **described}}
        try:
            now = describing.known_or_described(plan.images, index, fields, known_fields)
        except InputError as error:
            reason = error
            continue
        if name in described and now is not described[name]:
            changed.add(name)
        described[name] = now
    if not described:
        assert reason is not None
        raise reason
    common = earlier.get("common", [])
    if not common or changed & set(common):
        common = sorted(described)
    info = describing.describe_store(plan, {name: described[name] for name in common}, columns)
    describing.one_scale(described)
    write_json(path, {"common": common, "fields": described})
    return _with_field_properties(info, plan, described, columns)


def _with_field_properties(
    info: StoreInfo,
    plan: StorePlan,
    described: Mapping[str, dict[str, Any]],
    columns: Mapping[str, np.ndarray],
) -> StoreInfo:
    """Replace the extra information by what cutting needs to know of each field: PSF and wavelengths."""
    psf = {name: describing.settled_psf(known, plan, columns) for name, known in described.items()}
    wavelengths = {name: {"wavelength": known["wavelength"]} for name, known in described.items()}
    kept = replace(info, extra={"psf": psf, "fields": wavelengths})
    describing.warn_of_doubtful_psfs(kept, described)
    return kept


def _require_psf(model: Model, info: StoreInfo, images: ImageSet) -> None:
    """Refuse images of which no field has PSFs that the model accepts, before any object is cut out."""
    fields = [field for field in images.fields if field.name in info.extra["psf"]]
    if model.grid is None or not fields:
        return
    psf = [
        [gaussians_of(info.extra["psf"][field.name].get(band), NUM_GAUSSIANS) for band in info.bands]
        for field in fields
    ]
    used = np.array([[band in field.bands for band in info.bands] for field in fields])
    require_psf(np.array(psf), used, info, model.grid)


def cutout_size(model: Model, images: ImageSet) -> int:
    """Return the cutout side in pixels that a model needs for these images."""
    if model.grid is None:
        return model.info.size
    with closing(OpenFields(images)) as fields:
        return model.cutout_size(fields.open(0).pixel_scale)


def describe_images(images: ImageSet, size: int) -> StoreInfo:
    """Describe the cutouts of images without a catalogue, using all fields."""
    plan = StorePlan(images=images, size=size, shard_size=1)
    with closing(OpenFields(images)) as fields:
        described = {
            field.name: describing.known_or_described(images, number, fields)
            for number, field in enumerate(images.fields)
        }
    return _with_field_properties(describing.describe_store(plan, described, {}), plan, described, {})


def _part(task: ShardTask, widths: Sequence[str], config: Any) -> ShardTask:
    """Return the part of a shard that is to be fitted, with the columns of the catalogue that this needs."""
    columns = task.columns
    identity = columns["object_id"][task.rows]
    keep = is_held_out(identity) if config.held_out_only else np.ones(len(identity), dtype=bool)
    if config.object_ids is not None:
        keep &= np.isin(identity.astype(str), [str(wanted) for wanted in config.object_ids])
    rows = task.rows[keep]
    wanted = ["object_id", *(name for name in ("ra", "dec", *widths) if name in columns)]
    selected = {name: columns[name][rows] for name in wanted}
    return replace(task, columns=selected, rows=np.arange(len(rows)), x=task.x[keep], y=task.y[keep])


def _shards(parts: Sequence[ShardTask], plan: StorePlan, info: StoreInfo) -> list[Shard]:
    states = plan.images.states_by_field
    common = replace(info, extra={}).to_json()
    shards = []
    for number, part in enumerate(parts):
        name, x, y = plan.images.fields[part.field_index].name, part.x, part.y
        own = [info.extra[what].get(name) for what in ("psf", "fields")]
        made_from = digest(*part.columns.values(), x, y, states[name], common, *own)
        stem = Path(shard_name(number)).stem
        shards.append(Shard(name=stem, objects=len(x), made_from=made_from, content=part))
    return shards


@dataclass(frozen=True, kw_only=True)
class CoaddWork(FittingWork):
    """Cut out and fit parts of fields.

    `info` is the description that a store of these cutouts would have. Two works are equal if their digests
    (and common settings) are.
    """

    plan: StorePlan = field(compare=False)
    info: StoreInfo = field(compare=False)
    digest: str

    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Use a model that is already loaded. The last field stays open for the next part."""
        fitter = self.fitter(model, self.info, threads)
        fields = OpenFields(self.plan.images)

        def process(shard: Shard, advance: Advance) -> None:
            images = fields.open(shard.content.field_index)
            cutouts = cut_task(images, shard.content, self.plan, self.info)
            check_cutouts(cutouts, self.info, shard.name)
            self.write(shard, *self.fitted(fitter, cutouts, shard, advance))

        return process
