"""Fitting straight from images: cut, fit, write the features, keep no cutouts.

The objects are shared out as `cutouts` would share them out into a store (fields in the order of their names,
objects in order of y, `shard_size` at a time), so the features are those of that store, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.config import from_mapping
from deepfits.errors import InputError
from deepfits.files import digest, read_json, write_json
from deepfits.models.bundle import Model
from deepfits.scale.work import Advance, Process, Shard
from deepfits.splits import is_held_out
from deepfits.stages.detect import detect
from deepfits.stages.fit_work import FittingWork, Selection, absolute, write_fitted
from deepfits.stages.parameters import Cutting
from deepfits.stages.stage import part_of
from deepfits.survey import build
from deepfits.survey.build import OpenFields, ShardTask, StorePlan
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.fields import ImageSet
from deepfits.survey.psf import parse_psf_option
from deepfits.survey.store import StoreInfo, check_cutouts

DESCRIPTION = "_coadds.json"


@dataclass(frozen=True, kw_only=True)
class CoaddSource:
    """Images, and which objects are cut from where.

    `info` is what a store of these cutouts would say of itself; the content of each selected shard is a
    `Part`.
    """

    plan: StorePlan
    info: StoreInfo
    selection: Selection

    def work(self, **common: Any) -> CoaddWork:
        """Return what fits these images; `common` are the fields of `FittingWork`."""
        alone = replace(self, selection=Selection(shards=[], unreadable={}))
        settings = self.plan.settings()
        del settings["files"]  # each part's own are in its digest
        return CoaddWork(source=alone, digest=digest(settings), **common)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some objects of a field: where they lie, and their columns of the catalogue, ``(N,)`` each."""

    task: ShardTask
    columns: dict[str, np.ndarray]


def prepare(config: Any, out: Path, model: Model) -> CoaddSource:
    """Find the images and the objects on them; detect the objects first where there is no catalogue.

    All is as `deepfits.stages.fit.FitConfig` says; the model's bands are cut, to the size that it takes.

    Raises
    ------
    InputError
        An unknown argument; images or a catalogue that cannot be used.
    """
    images, cutting = absolute(config.store), dict(config.cutting or {})
    if "bands" in cutting:
        raise InputError("cutting: the bands are the model's; leave them out")
    options = from_mapping(Cutting, cutting, where="cutting")
    options = replace(options, bands=model.info.bands, progress=config.progress)
    chosen = options.find(images)
    path = Path(config.catalogue or out / "catalogue.parquet")
    if config.catalogue is None:
        part_of(options, detect, images=images, out=path, workers=max(1, config.workers))
    elif not path.exists():
        raise InputError(f"{path}: no such catalogue; check the path, or leave it out to detect")
    columns, known = read_catalogue(path, where=config.where), read_info(path)
    plan = part_of(
        options,
        build.StorePlan,
        images=chosen,
        size=cutout_size(model, chosen),
        catalogue_path=path,
        psf=parse_psf_option(options.psf),
    )
    with closing(build.OpenFields(chosen)) as fields:
        tasks, _ = build.plan_shards(plan, columns, known, fields)
        if not tasks:
            raise InputError(f"{path}: no object lies on any of the images; check ra, dec and the WCS")
        description = out / DESCRIPTION
        if description.exists():
            info = StoreInfo.from_json(read_json(description, what="description of cutouts"), description)
        else:
            info = _describe(plan, known, tasks, fields, columns)
            write_json(description, info.to_json())
    widths = [plan.psf.get(b, plan.psf.get("", f"psfsize_{b}")) for b in chosen.bands]
    widths = [name for name in dict.fromkeys(widths) if name in columns]
    parts = [_part(task, columns, widths, config) for task in tasks]
    if not any(len(part.task.x) for part in parts):
        raise InputError(f"{path}: none of its objects on the images is among those to be fitted")
    return CoaddSource(plan=plan, info=info, selection=Selection(shards=_shards(parts, plan), unreadable={}))


def _describe(
    plan: StorePlan,
    known: dict[str, Any],
    tasks: list[ShardTask],
    fields: OpenFields,
    columns: dict[str, np.ndarray],
) -> StoreInfo:
    """Describe the cutouts by the fields that can be read; the others will be named when they are cut.

    This is done once and kept, so that the features do not change when a field is mended.
    """
    described = dict(known.get("fields", {}))
    readable, reason = set(), None
    for index in sorted({task.field_index for task in tasks}):
        name = plan.images.fields[index].name
        try:
            if not build.is_described(described.get(name)):
                described[name] = build.describe_field(fields.open(index), plan.images.bands)
            readable.add(index)
        except InputError as error:
            reason = error
    if reason is not None and not readable:
        raise reason
    able = [task for task in tasks if task.field_index in readable]
    return _without_extra(plan, described, able, fields, columns)


def _without_extra(
    plan: StorePlan,
    described: dict[str, Any],
    tasks: list[ShardTask],
    fields: OpenFields,
    columns: dict[str, np.ndarray] | None = None,
) -> StoreInfo:
    whole = build.describe_store(plan, {"fields": described}, tasks, fields, columns)
    return replace(whole, extra={"psf": whole.extra["psf"]})


def cutout_size(model: Model, images: ImageSet) -> int:
    """Return the side of the cutouts of these images that a model takes."""
    if model.grid is None:
        return model.info.size
    with closing(build.OpenFields(images)) as fields:
        return model.cutout_size(fields.open(0).pixel_scale)


def describe_images(images: ImageSet, size: int) -> StoreInfo:
    """Describe the cutouts of images without a catalogue, every field alike."""
    plan = build.StorePlan(images=images, size=size, shard_size=1, survey="", catalogue_path=Path())
    none = np.empty(0)
    with closing(build.OpenFields(images)) as fields:
        tasks = [
            build.ShardTask(number=n, field_index=n, rows=none, x=none, y=none)
            for n in range(len(images.fields))
        ]
        described = {}
        for task in tasks:
            field_images = fields.open(task.field_index)
            described[field_images.name] = build.describe_field(field_images, images.bands)
        return _without_extra(plan, described, tasks, fields)


def _part(task: ShardTask, columns: dict[str, np.ndarray], widths: Sequence[str], config: Any) -> Part:
    identity = columns["object_id"][task.rows]
    keep = is_held_out(identity) if config.held_out_only else np.ones(len(identity), dtype=bool)
    if config.object_ids is not None:
        keep &= np.isin(identity.astype(str), [str(wanted) for wanted in config.object_ids])
    rows = task.rows[keep]
    wanted = ["object_id", *(name for name in ("ra", "dec", *widths) if name in columns)]
    ours = {name: columns[name][rows] for name in wanted}
    kept = replace(task, rows=np.arange(len(rows)), x=task.x[keep], y=task.y[keep])
    return Part(task=kept, columns=ours)


def _shards(parts: Sequence[Part], plan: StorePlan) -> list[Shard]:
    files: dict[str, dict[str, Any]] = {}
    for name, state in plan.settings()["files"].items():
        files.setdefault(name.split("/")[0], {})[name] = state
    names = [field.name for field in plan.images.fields]
    return [
        Shard(
            name=f"shard-{number:05d}",
            objects=len(part.task.x),
            made_from=digest(
                *part.columns.values(), part.task.x, part.task.y, files.get(names[part.task.field_index])
            ),
            content=part,
        )
        for number, part in enumerate(parts)
    ]


@dataclass(frozen=True, kw_only=True)
class CoaddWork(FittingWork):
    """Cut and fit parts of fields. The source is without its shards; two works are compared by its digest."""

    source: CoaddSource = field(compare=False)
    digest: str

    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Use a model that is loaded already. The field last cut from stays open for the next part."""
        fitter = self.fitter(model, self.source.info, threads)
        fields = build.OpenFields(self.source.plan.images)

        def process(shard: Shard, advance: Advance) -> None:
            part = shard.content
            images = fields.open(part.task.field_index)
            cutouts = build.cut_task(images, part.task, part.columns, self.source.plan, self.source.info)
            check_cutouts(cutouts, self.source.info, shard.name)
            write_fitted(self.fitted(fitter, cutouts, shard, advance), Path(self.out), shard)

        return process
