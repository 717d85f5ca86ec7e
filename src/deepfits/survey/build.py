"""Building a cutout store from fields and a catalogue.

Shapes: N objects, B bands, S side of a cutout.

The assignment of objects to shards is deterministic: fields in order of their names, objects in order of y,
`shard_size` per shard. So a repeated run recognises existing shards, whichever process wrote them.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError, ShardsFailedError, joined_error
from deepfits.files import digest, remove_leftovers
from deepfits.gaussian_psf import NUM_GAUSSIANS
from deepfits.passbands import COLUMN
from deepfits.processes import in_processes
from deepfits.progress import Progress, Task
from deepfits.scale.cluster import Workers
from deepfits.scale.manifest import read_manifest
from deepfits.scale.run import Execute, run_shards
from deepfits.scale.work import Advance, Here, Outcome, Process, Shard, Work, attempt
from deepfits.splits import as_text
from deepfits.survey.band_registration import position_warnings
from deepfits.survey.bands import given_for
from deepfits.survey.catalogue import stored_units
from deepfits.survey.coverage import valid_fractions, write_coverage
from deepfits.survey.cutting import cut
from deepfits.survey.describing import (
    StorePlan,
    describe_store,
    known_field,
    known_or_described,
    warn_of_doubtful_psfs,
)
from deepfits.survey.fields import Field, OpenFields
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.psf import gaussians_at, with_psf_of_objects
from deepfits.survey.store import (
    PSF_MISMATCH,
    Cutouts,
    StoreInfo,
    create_store,
    read_info,
    shard_made_from,
    shard_name,
    write_shard,
)
from deepfits.tables import place_hint

AT_A_TIME = 4096  # objects in several fields whose cutouts are compared at a time
MAX_OFFSET_PIXELS = 0.5  # maximum median offset between a catalogue's pixel and sky positions
log = logging.getLogger(__name__)
_REMEDY = (
    "If this was a temporary problem, run the same command again: it does only what is missing or failed. "
    "Otherwise repair these images first, or leave them out, and cut into another directory"
)

_LEAVE_OUT = "Repair these images, or leave the fields out"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The objects of one shard: their rows in a catalogue, and pixel positions in the field."""

    number: int
    field_index: int
    columns: dict[str, np.ndarray]  # of the catalogue: all of it, or only their rows
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def alone(self) -> Self:
        """Return the task with only its own rows of the catalogue, to be sent to other processes."""
        few = {name: values[self.rows] for name, values in self.columns.items()}
        return replace(self, rows=np.arange(len(self.rows)), columns=few)


def build_store(
    plan: StorePlan,
    columns: dict[str, np.ndarray],
    info: dict[str, Any],
    out: Path,
    progress: Progress,
    workers: int,
    scheduler: str | None,
    *,
    is_counted: bool = False,
) -> None:
    """Cut the missing shards, in `workers` processes or on a scheduler, then count incomplete objects.

    If these are counted already and no shard is missing, nothing is written. Raise `ShardsFailedError` if
    images turn out to be damaged; all other shards are done.
    """
    earlier = read_info(out) if (out / "store.json").exists() else None
    with closing(OpenFields(plan.images)) as fields:
        layout = lay_out(plan, columns, info, fields)
        tasks = layout.tasks
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        if earlier is not None and is_counted:
            store_info = earlier
        else:
            described = _describe(plan, tasks, fields, info, {} if earlier is None else earlier.extra)
            store_info = describe_store(plan, described, columns)
            store_info.extra["units"] = stored_units(columns, info)
            if earlier is None or described != earlier.extra.get("fields"):
                warn_of_doubtful_psfs(store_info, described)
        create_store(out, store_info)
        out = out.resolve()  # workers may have another working directory
        is_here = workers == 1 and scheduler is None
        shards = [
            store_shard(task.number, len(task.rows), made_from, task if is_here else task.alone())
            for task, made_from in zip(tasks, _digests(tasks, plan, store_info), strict=True)
        ]
        _remove_others(out, shards)
        work = CutWork(plan=plan, info=store_info, out=out)
        how: Work | Execute = work if scheduler is not None else partial(_in_processes, work, workers)
        if is_here:
            how = Here(lambda: partial(_cut_and_write, fields, work))
        else:
            fields.close()
        try:
            is_new = run_shards(
                how,
                shards,
                out,
                title="cut out",
                is_done=partial(is_written, store_info),
                progress=progress,
                workers=Workers(scheduler=scheduler),
                suffix=".h5",
                remedy=_REMEDY,
            )
        except ShardsFailedError:
            _count(out, layout, store_info, columns["object_id"])
            raise
    if is_new or not is_counted:
        _count(out, layout, store_info, columns["object_id"])


def _describe(
    plan: StorePlan, tasks: list[ShardTask], fields: OpenFields, info: dict[str, Any], earlier: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Describe the fields with objects, by name; those that cannot be read are named together.

    Descriptions of the same images in the catalogue, or in an `earlier` version of the store, are used.
    """
    described: dict[str, dict[str, Any]] = {}
    failed: list[InputError] = []
    for index, of_field in groupby(tasks, lambda task: task.field_index):
        field = plan.images.fields[index]
        try:
            described[field.name] = known_or_described(plan.images, index, fields, info, earlier)
            is_new = described[field.name] is not known_field(field, earlier)
            if is_new and not info.get("fields"):  # the catalogue is not ours
                x, y = np.concatenate([(task.x, task.y) for task in of_field], axis=1)
                for text in position_warnings(fields.open(index), x, y):
                    log.warning("WARNING: %s: %s", plan.catalogue_path, text)
        except InputError as error:
            failed.append(error)
    if failed:
        raise joined_error(failed, len(described) + len(failed), "fields", _LEAVE_OUT)
    return described


def _count(out: Path, layout: Layout, info: StoreInfo, object_id: np.ndarray) -> None:
    """Count the incomplete objects in the finished shards."""
    done = {entry.shard for entry in read_manifest(out) if entry.state == "done"}
    paths = [out / shard_name(task.number) for task in layout.tasks]
    if complete := [path for path in paths if path.stem in done]:
        write_coverage(out, info.bands, complete, object_id[layout.outside], layout.num_duplicates)


def _place_hint(columns: dict[str, np.ndarray], fields: OpenFields) -> str:
    """Suggest what is wrong with positions, if they would lie on the first field otherwise."""
    if "ra" not in columns:
        return ""
    field = fields.open(0)
    height, width = field.shape
    near = field.sky(np.array([0.0, width]), np.array([0.0, height]))
    return place_hint(columns["ra"], columns["dec"], *near)


def _digests(tasks: list[ShardTask], plan: StorePlan, info: StoreInfo) -> list[str]:
    """Return a digest of what each shard depends on: its objects, its field's files, its description."""
    states, common, out = plan.images.states_by_field, replace(info, extra={}).to_json(), list[str]()
    for task in tasks:
        name = plan.images.fields[task.field_index].name
        own = info.extra["psf"][name], info.extra["fields"][name].get("wavelength")
        out.append(digest(_hash(task), task.x, task.y, states[name], common, *own))
    return out


def _hash(task: ShardTask) -> str:
    """Return a hash of the rows of the catalogue."""
    hashed = hashlib.sha256()
    for name, values in sorted(task.columns.items()):
        chosen = values[task.rows]
        chosen = np.array(as_text(chosen)) if chosen.dtype.hasobject else chosen
        hashed.update(f"{name} {chosen.dtype}".encode())
        hashed.update(chosen.tobytes())
    return hashed.hexdigest()


def _remove_others(out: Path, shards: list[Shard]) -> None:
    """Remove shards that there no longer are: images that have changed show fewer objects."""
    names = {shard.name for shard in shards}
    for path in out.glob("shard-*.h5"):
        if path.stem not in names:
            path.unlink()


def store_shard(number: int, objects: int, made_from: str, content: Any) -> Shard:
    """Describe a shard of a store."""
    return Shard(name=Path(shard_name(number)).stem, objects=objects, made_from=made_from, content=content)


def is_written(info: StoreInfo, path: Path, made_from: str) -> bool:
    """Return whether a file is an intact shard that was made from this."""
    try:
        return path.exists() and shard_made_from(path, info) == made_from
    except InputError:
        return False  # damaged: will be rewritten


def _cut_and_write(fields: OpenFields, work: CutWork, shard: Shard, advance: Advance) -> None:
    """Cut and write one shard."""
    task: ShardTask = shard.content
    cutouts = cut_task(fields.open(task.field_index), task, work.plan, work.info)
    path = work.out / f"{shard.name}.h5"
    write_shard(path, with_neighbours(cutouts, work.info), work.info, shard.made_from)
    advance(shard.objects)


@dataclass(frozen=True, kw_only=True)
class CutWork:
    """Cut the objects of shards out of their fields; a field stays open for the next shard (a `Work`)."""

    plan: StorePlan = field(compare=False)
    info: StoreInfo = field(compare=False)
    out: Path

    def open(self, threads: int | None = None) -> Process:
        """Return the function that processes a shard, whose content is a `ShardTask`."""
        return partial(_cut_and_write, OpenFields(self.plan.images), self)


def _in_processes(
    work: CutWork, workers: int, todo: list[Shard], bar: Task
) -> Iterator[tuple[Shard, Outcome]]:
    """Process shards in several processes, consecutive ones of a field together."""
    by_name, length = {shard.name: shard for shard in todo}, max(1, -(-len(todo) // workers))
    groups = [list(group) for _, group in groupby(todo, lambda shard: shard.content.field_index)]
    jobs = [group[start : start + length] for group in groups for start in range(0, len(group), length)]
    for outcome in chain.from_iterable(in_processes(partial(_attempt_all, work), jobs, workers)):
        bar.advance(by_name[outcome.shard].objects)
        yield by_name[outcome.shard], outcome


def _attempt_all(work: CutWork, shards: list[Shard]) -> list[Outcome]:
    with closing(OpenFields(work.plan.images)) as fields:
        process = partial(_cut_and_write, fields, work)
        return [attempt(process, shard, lambda number: None) for shard in shards]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Assignment of a catalogue's objects to shards."""

    tasks: list[ShardTask]
    outside: np.ndarray  # rows of objects that lie on no image
    num_duplicates: int  # detections left out because another of the same object is primary


def lay_out(
    plan: StorePlan, columns: dict[str, np.ndarray], info: dict[str, Any], fields: OpenFields
) -> Layout:
    """Assign objects to fields and shards; warn of objects that lie on no image, or raise if none does."""
    layout, number = plan_shards(plan, columns, info, fields), len(columns["object_id"])
    if not layout.tasks:
        raise InputError(
            f"{plan.catalogue_path}: no object lies on any of the images; check ra, dec and the WCS"
            f"{_place_hint(columns, fields)}"
        )
    if lost := len(layout.outside):
        log.warning("%s: %d of %d objects lie on no image", plan.catalogue_path, lost, number)
    return layout


def plan_shards(
    plan: StorePlan, columns: dict[str, np.ndarray], info: dict[str, Any], fields: OpenFields
) -> Layout:
    """Assign objects to fields and shards: only primary ones, if the catalogue is ours."""
    is_wanted = np.ones(len(columns["object_id"]), bool)
    if info.get("fields") and "is_primary" in columns and not plan.keep_duplicates:
        is_wanted = columns["is_primary"].astype(bool)
    owner, x, y = _assign(plan, columns, info, fields)
    owner[~is_wanted] = -1
    tasks: list[ShardTask] = []
    for index in range(len(plan.images.fields)):
        rows = np.flatnonzero(owner == index)
        rows = rows[np.argsort(y[rows], kind="stable")]
        for start in range(0, len(rows), plan.shard_size):
            part = rows[start : start + plan.shard_size]
            task = ShardTask(
                number=len(tasks), field_index=index, columns=columns, rows=part, x=x[part], y=y[part]
            )
            tasks.append(task)
    outside = np.flatnonzero(is_wanted & (owner < 0))
    return Layout(tasks=tasks, outside=outside, num_duplicates=int((~is_wanted).sum()))


def _assign(
    plan: StorePlan, columns: dict[str, np.ndarray], info: dict[str, Any], fields: OpenFields
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the field of each object (−1: none) and its pixel position there.

    Among several fields, this is the one with the most data in the object's cutout in the reference band;
    among equals, the one in which it lies farthest from the edges.
    """
    number = len(columns["object_id"])
    names = [field.name for field in plan.images.fields]
    named = columns["field"].astype(str) if "field" in columns else np.array([""])
    is_named = np.isin(named, names)
    has_sky = bool(np.isfinite(columns.get("ra", np.nan)).any())
    has_names = bool(is_named.all() or (is_named.any() and not has_sky))
    has_pixels = {"x", "y"} <= columns.keys() and (has_names or len(names) == 1 == len(np.unique(named)))
    if has_pixels and has_sky and not info.get("fields") and fields.open(0).reference.wcs is not None:
        # x and y of a foreign catalogue often refer to another image.
        log.info("%s: positions are from ra and dec; x and y are not used", plan.catalogue_path)
        has_pixels = False
    if not has_pixels and not has_sky:
        raise InputError(
            f"{plan.catalogue_path}: x and y alone do not determine which image an object is on; add a "
            f"column field with the images' names, such as {names[0]!r}, or ra and dec"
        )
    on_image: dict[int, tuple[np.ndarray, ...]] = {}
    failed: list[InputError] = []
    for index, name in enumerate(names):
        is_named_here = named == name if has_names else np.ones(number, bool)
        if not is_named_here.any():
            continue
        known = known_field(plan.images.fields[index], info)
        try:
            height, width = known["shape"] if known and has_pixels else fields.open(index).shape
            if has_pixels:
                x, y = columns["x"].astype(float), columns["y"].astype(float)
            else:
                x, y = fields.open(index).pixels(columns["ra"].astype(float), columns["dec"].astype(float))
        except InputError as error:
            failed.append(error)
            continue
        margin = np.minimum.reduce([x + 0.5, y + 0.5, width - 0.5 - x, height - 0.5 - y])
        rows = np.flatnonzero(is_named_here & (margin >= 0))
        on_image[index] = rows, x[rows], y[rows], margin[rows]
    if failed:
        raise joined_error(failed, len(on_image) + len(failed), "fields", _LEAVE_OUT)
    owner, x_of, y_of = np.full(number, -1), np.full(number, np.nan), np.full(number, np.nan)
    best, most = np.full(number, -np.inf), np.full(number, -np.inf)
    times = np.bincount(np.concatenate([rows for rows, *_ in on_image.values()]), minlength=number)
    for index, (rows, x, y, margin) in on_image.items():
        share = np.ones(len(rows))
        if (several := times[rows] > 1).any():
            share[several] = _share_shown(fields.open(index), x[several], y[several], plan.size)
        better = (share > most[rows]) | ((share == most[rows]) & (margin > best[rows]))
        chosen = rows[better]
        owner[chosen], x_of[chosen], y_of[chosen] = index, x[better], y[better]
        most[chosen], best[chosen] = share[better], margin[better]
    return owner, x_of, y_of


def _share_shown(field: Field, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Return the fraction of each cutout with data in the reference band, ``(N,)``."""
    share, order = np.empty(len(x)), np.argsort(y)
    for start in range(0, len(x), AT_A_TIME):
        part = order[start : start + AT_A_TIME]
        share[part] = (cut(field.reference, x[part], y[part], size)[1] > 0).mean((1, 2))
    return share


def cut_task(field: Field, task: ShardTask, plan: StorePlan, info: StoreInfo) -> Cutouts:
    """Cut the objects of one shard; raise `InputError` if an image has changed since the plan was made."""
    bands, size, number = plan.images.bands, plan.size, len(task.rows)
    image, weight = (np.zeros((number, len(bands), size, size), np.float32) for _ in range(2))
    for index, band in enumerate(bands):
        if band in field.aligned:
            cut(field.aligned[band], task.x, task.y, size, out=(image[:, index], weight[:, index]))
    columns = {name: values[task.rows] for name, values in task.columns.items()}
    identity = columns.pop("object_id")
    if "ra" in columns:
        _check_places(field, task, columns, plan)
    columns |= {"x": task.x, "y": task.y, "field": np.full(number, field.name)}
    columns |= _sky_positions(field, task, columns)
    columns |= valid_fractions(weight, bands)
    wavelengths = info.extra.get("fields", {}).get(field.name, {}).get("wavelength", {})
    for band in bands:  # all of them, so that all shards have the same columns
        wavelength = math.nan if wavelengths.get(band) is None else wavelengths[band]
        columns.setdefault(f"{COLUMN}_{band}", np.full(number, wavelength, dtype=np.float32))
    known = info.extra.get("psf", {}).get(field.name, {})
    psf = np.empty((number, len(bands), NUM_GAUSSIANS, 2), np.float32)
    for index, band in enumerate(bands):
        of_band = known.get(band) or {}
        columns[f"{PSF_MISMATCH}_{band}"] = np.full(number, of_band.get("flux_error", np.nan), np.float32)
        of_field = gaussians_at(of_band, task.x, task.y, NUM_GAUSSIANS)
        given, at_band, scale = given_for(band, plan.psf), columns, field.pixel_scale
        if band in field.aligned:  # models refer to the pixels of the band's own image
            x, y = field.aligned[band].own_pixels(task.x, task.y)
            at_band = columns | {"x": x, "y": y}
            scale = field.aligned[band].plane.pixel_scale
        psf[:, index] = with_psf_of_objects(of_field, given, band, at_band, scale)
    plan.images.require_unchanged(field.sources)
    return Cutouts(object_id=identity, image=image, weight=weight, catalogue=columns, psf=psf)


def _sky_positions(field: Field, task: ShardTask, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ra and dec, from the WCS where the catalogue has pixel positions only."""
    ra, dec = (columns.get(name, np.full(len(task.x), np.nan)).astype(float) for name in ("ra", "dec"))
    is_missing = ~(np.isfinite(ra) & np.isfinite(dec))
    ra[is_missing], dec[is_missing] = field.sky(task.x[is_missing], task.y[is_missing])
    return {"ra": ra, "dec": dec}


def _check_places(field: Field, task: ShardTask, columns: dict[str, np.ndarray], plan: StorePlan) -> None:
    """Raise if pixel and sky positions disagree, in which case one of them is for another image."""
    known = np.isfinite(columns["ra"].astype(float))
    if field.reference.wcs is None or not known.any():
        return
    x, y = field.pixels(columns["ra"][known].astype(float), columns["dec"][known].astype(float))
    off = float(np.median(np.hypot(x - task.x[known], y - task.y[known])))
    if off > MAX_OFFSET_PIXELS:
        raise InputError(
            f"{plan.catalogue_path}: x and y lie {off:.1f} pixels (median) from ra and dec on {field.name}; "
            "leave x and y out of the catalogue, or detect again on these images"
        )
