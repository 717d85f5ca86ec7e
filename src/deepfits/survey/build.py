"""Building a cutout store from fields and a catalogue.

Shapes: N objects, B bands, S side of a cutout.

The assignment of objects to shards is deterministic: fields in order of their names, objects in order of y,
`shard_size` per shard. So a repeated run recognises existing shards, whichever process wrote them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, ShardsFailedError
from deepfits.files import digest, remove_leftovers
from deepfits.gaussian_psf import NUM_GAUSSIANS
from deepfits.passbands import COLUMN, wavelength_in_header
from deepfits.progress import Progress, Task
from deepfits.scale.cluster import Workers, map_on_workers
from deepfits.scale.manifest import read_manifest
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Outcome, Shard, attempt
from deepfits.splits import as_text
from deepfits.survey.band_registration import band_shifts, shift_warnings
from deepfits.survey.bands import require_bands
from deepfits.survey.coverage import write_coverage
from deepfits.survey.cutting import cut
from deepfits.survey.detection import DetectOptions
from deepfits.survey.extract import Extraction, extract
from deepfits.survey.fields import Field, ImageSet, open_field
from deepfits.survey.image_source import FieldSources
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.noise import sky_doubts
from deepfits.survey.parallel import in_processes
from deepfits.survey.psf import (
    MOST_COMPACT,
    STARS,
    UNKNOWN,
    column_record,
    find_psf,
    gaussians_at,
    psf_column,
    psf_of_objects,
    read_psf_option,
)
from deepfits.survey.store import (
    Cutouts,
    StoreInfo,
    create_store,
    read_info,
    shard_identities,
    shard_name,
    write_shard,
)
from deepfits.tables import place_hint

SCALE_TOLERANCE = 0.01
MIDDLE_ROWS = 1024
MAX_OFFSET_PIXELS = 0.5
"""Maximum median offset between a catalogue's pixel and sky positions."""
WARNING = "WARNING: "
log = logging.getLogger(__name__)
_REMEDY = (
    "If this was a temporary problem, run the same command again: it does only what is missing or failed. "
    "Otherwise repair or leave out these images, and cut into another directory"
)
_POLICY = (
    "cutouts are centred on the pixel nearest to the object (as astropy.nddata.Cutout2D); pixels are copied "
    "unaltered when the bands share a grid or differ by whole pixels, else interpolated with cubic splines "
    "onto the reference band's grid"
)


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """Settings of the store to build."""

    images: ImageSet
    size: int
    shard_size: int
    survey: str
    catalogue_path: Path
    keep_duplicates: bool = False
    psf: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_bands(self.psf, self.images.bands, "psf")

    def settings(self) -> dict[str, Any]:
        """Return the settings that the shards depend on."""
        return self.images.settings() | {
            "size": self.size,
            "shard_size": self.shard_size,
            **({"keep_duplicates": True} if self.keep_duplicates else {}),
            **({"psf": dict(self.psf)} if self.psf else {}),
        }


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The objects of one shard: their rows in the catalogue, and pixel positions in the field."""

    number: int
    field_index: int
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray


def build_store(
    plan: StorePlan,
    columns: dict[str, np.ndarray],
    info: dict[str, Any],
    out: Path,
    progress: Progress,
    workers: int,
    scheduler: str | None,
) -> None:
    """Cut the missing shards, in `workers` processes or on a scheduler, then count incomplete objects.

    Raises
    ------
    ShardsFailedError
        Images turned out to be damaged; all other shards are done.
    """
    there = read_info(out) if (out / "store.json").exists() else None
    with closing(OpenFields(plan.images)) as fields:
        layout = lay_out(plan, columns, info, fields)
        tasks = layout.tasks
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        if (store_info := there) is None:
            store_info = describe_store(plan, describe_fields(plan, info, tasks, fields), columns)
            warn_of_doubtful_psfs(store_info)
        create_store(out, store_info)
        out = out.resolve()  # workers may have another working directory
        shards = [
            store_shard(task.number, columns["object_id"][task.rows], len(task.rows), task) for task in tasks
        ]

        def execute(todo: list[Shard], bar: Task) -> Iterator[tuple[Shard, Outcome]]:
            fields.close()
            by_name = {shard.name: shard for shard in todo}
            if scheduler is None:
                jobs = _jobs(plan, todo, columns, store_info, out, workers)
                results = in_processes(_run_job, jobs, workers)
            else:
                jobs = _jobs(plan, todo, columns, store_info, out, len(todo))
                results = map_on_workers(_run_job, jobs, Workers(scheduler=scheduler))
            for outcome in chain.from_iterable(results):
                bar.advance(by_name[outcome.shard].objects)
                yield by_name[outcome.shard], outcome

        try:
            run_shards(
                None,
                shards,
                out,
                title="cut out",
                is_done=partial(has_identities, store_info),
                workers=Workers(),
                progress=progress,
                open_here=lambda: partial(_cut_and_write, fields, columns, plan, store_info, out),
                execute=None if workers == 1 and scheduler is None else execute,
                suffix=".h5",
                remedy=_REMEDY,
            )
        except ShardsFailedError:
            _count(out, layout, store_info, columns["object_id"])
            raise
    _count(out, layout, store_info, columns["object_id"])


def _count(out: Path, layout: Layout, info: StoreInfo, object_id: np.ndarray) -> None:
    """Count the incomplete objects in the finished shards."""
    done = {entry.shard for entry in read_manifest(out) if entry.state == "done"}
    paths = [out / shard_name(task.number) for task in layout.tasks]
    if complete := [path for path in paths if path.stem in done]:
        write_coverage(out, info.bands, complete, object_id[layout.outside], layout.num_duplicates)


def _place_hint(columns: dict[str, np.ndarray], fields: OpenFields) -> str:
    """Suggest the unit of the right ascensions, if they are not degrees."""
    if "ra" not in columns:
        return ""
    field = fields.open(0)
    height, width = field.shape
    return place_hint(columns["ra"], field.sky(np.array([0.0, width]), np.array([0.0, height]))[0])


def store_shard(number: int, object_id: np.ndarray, objects: int, content: Any) -> Shard:
    """Describe a shard of a store; it is recognised by a digest of its objects' identities."""
    return Shard(
        name=Path(shard_name(number)).stem,
        objects=objects,
        made_from=digest(as_text(object_id)),
        content=content,
    )


def has_identities(info: StoreInfo, path: Path, made_from: str) -> bool:
    """Return whether a file is an intact shard with the planned objects."""
    if not path.exists():
        return False
    try:
        return digest(as_text(shard_identities(path, info))) == made_from
    except InputError:
        return False  # damaged: will be rewritten


def _are_wanted(plan: StorePlan, columns: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
    """Return which objects to cut, ``(N,)`` bool: only primary ones, if the catalogue is ours."""
    if plan.keep_duplicates or not info.get("fields") or "is_primary" not in columns:
        return np.ones(len(columns["object_id"]), bool)
    return columns["is_primary"].astype(bool)


def _cut_and_write(
    fields: OpenFields,
    columns: dict[str, np.ndarray],
    plan: StorePlan,
    info: StoreInfo,
    out: Path,
    shard: Shard,
    advance: Advance,
) -> None:
    """Cut and write one shard."""
    task: ShardTask = shard.content
    field = fields.open(task.field_index)
    cutouts = with_neighbours(cut_task(field, task, columns, plan, info), info)
    write_shard(out / shard_name(task.number), cutouts, info)
    advance(shard.objects)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Shards of one field for one process, with their rows of the catalogue."""

    plan: StorePlan
    shards: tuple[Shard, ...]
    columns: dict[str, np.ndarray]
    info: StoreInfo
    out: Path


def _jobs(
    plan: StorePlan,
    todo: list[Shard],
    columns: dict[str, np.ndarray],
    info: StoreInfo,
    out: Path,
    workers: int,
) -> Iterator[_Job]:
    """Group consecutive shards of a field into jobs, at most 1/`workers` of all shards in each."""
    length = max(1, -(-len(todo) // workers))
    for index in sorted({shard.content.field_index for shard in todo}):
        mine = [shard for shard in todo if shard.content.field_index == index]
        for start in range(0, len(mine), length):
            part = mine[start : start + length]
            rows = np.concatenate([shard.content.rows for shard in part])
            ends = np.cumsum([shard.objects for shard in part])
            shards = tuple(
                replace(shard, content=replace(shard.content, rows=np.arange(end - shard.objects, end)))
                for shard, end in zip(part, ends, strict=True)
            )
            few = {name: values[rows] for name, values in columns.items()}
            yield _Job(plan=plan, shards=shards, columns=few, info=info, out=out)


def _run_job(job: _Job) -> list[Outcome]:
    with closing(OpenFields(job.plan.images)) as fields:
        process = partial(_cut_and_write, fields, job.columns, job.plan, job.info, job.out)
        return [attempt(process, shard, lambda number: None) for shard in job.shards]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Assignment of a catalogue's objects to shards.

    Attributes
    ----------
    tasks
        The shards.
    outside
        Rows of objects that lie on no image.
    num_duplicates
        Number of detections left out because another detection of the same object is primary.
    """

    tasks: list[ShardTask]
    outside: np.ndarray
    num_duplicates: int


def lay_out(
    plan: StorePlan, columns: dict[str, np.ndarray], info: dict[str, Any], fields: OpenFields
) -> Layout:
    """Assign objects to fields and shards, with a warning about objects that lie on no image.

    Raises
    ------
    InputError
        No object lies on any image.
    """
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
    """Assign objects to fields and shards."""
    is_wanted = _are_wanted(plan, columns, info)
    owner, x, y = _assign(plan, columns, info, fields)
    owner[~is_wanted] = -1
    tasks: list[ShardTask] = []
    for index in range(len(plan.images.fields)):
        rows = np.flatnonzero(owner == index)
        rows = rows[np.argsort(y[rows], kind="stable")]
        for start in range(0, len(rows), plan.shard_size):
            part = rows[start : start + plan.shard_size]
            tasks.append(ShardTask(number=len(tasks), field_index=index, rows=part, x=x[part], y=y[part]))
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
    shown: dict[int, tuple[np.ndarray, ...]] = {}
    for index, name in enumerate(names):
        mine = named == name if has_names else np.ones(number, bool)
        if not mine.any():
            continue
        known = _known_field(plan.images.fields[index], info)
        height, width = known["shape"] if known and has_pixels else fields.open(index).shape
        if has_pixels:
            x, y = columns["x"].astype(float), columns["y"].astype(float)
        else:
            x, y = fields.open(index).pixels(columns["ra"].astype(float), columns["dec"].astype(float))
        with np.errstate(invalid="ignore"):
            margin = np.minimum.reduce([x + 0.5, y + 0.5, width - 0.5 - x, height - 0.5 - y])
            rows = np.flatnonzero(mine & (margin >= 0))
        shown[index] = rows, x[rows], y[rows], margin[rows]
    owner, x_of, y_of = np.full(number, -1), np.full(number, np.nan), np.full(number, np.nan)
    best, most = np.full(number, -np.inf), np.full(number, -np.inf)
    times = np.bincount(np.concatenate([rows for rows, *_ in shown.values()]), minlength=number)
    for index, (rows, x, y, margin) in shown.items():
        share = np.ones(len(rows))
        if (several := times[rows] > 1).any():
            share[several] = _share_shown(fields.open(index), x[several], y[several], plan.size)
        better = (share > most[rows]) | ((share == most[rows]) & (margin > best[rows]))
        chosen = rows[better]
        owner[chosen], x_of[chosen], y_of[chosen] = index, x[better], y[better]
        most[chosen], best[chosen] = share[better], margin[better]
    return owner, x_of, y_of


def _share_shown(field: Field, x: np.ndarray, y: np.ndarray, size: int, at_a_time: int = 4096) -> np.ndarray:
    """Return the fraction of each cutout with data in the reference band, ``(N,)``."""
    share, order = np.empty(len(x)), np.argsort(y)
    for start in range(0, len(x), at_a_time):
        part = order[start : start + at_a_time]
        share[part] = (cut(field.reference, x[part], y[part], size)[1] > 0).mean((1, 2))
    return share


class OpenFields:
    """The fields of a plan; the most recently used one stays open."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._stack = ExitStack()
        self._there: tuple[int, Field] | None = None

    def open(self, index: int) -> Field:
        """Return field number `index`, which stays open until another one is requested."""
        if self._there is None or self._there[0] != index:
            self.close()
            field = self._stack.enter_context(open_field(self._images.fields[index], self._images))
            self._there = index, field
        return self._there[1]

    def close(self) -> None:
        """Close the open field, if any."""
        self._stack.close()
        self._there = None


def cut_task(
    field: Field, task: ShardTask, columns: dict[str, np.ndarray], plan: StorePlan, info: StoreInfo
) -> Cutouts:
    """Cut the objects of one shard."""
    bands, size, number = plan.images.bands, plan.size, len(task.rows)
    image = np.zeros((number, len(bands), size, size), np.float32)
    weight = np.zeros_like(image)
    for index, band in enumerate(bands):
        if band in field.aligned:
            cut(field.aligned[band], task.x, task.y, size, out=(image[:, index], weight[:, index]))
    ours = {name: values[task.rows] for name, values in columns.items() if name != "object_id"}
    if "ra" in columns:
        _check_places(field, task, ours, plan)
    ours |= {"x": task.x, "y": task.y, "field": np.full(number, field.name)}
    valid = (weight > 0).mean(axis=(2, 3))
    ours |= {f"fraction_valid_{band}": valid[:, i].astype(np.float32) for i, band in enumerate(bands)}
    seen = info.extra.get("fields", {}).get(field.name, {}).get("wavelength", {})
    for band, wavelength in seen.items():
        if wavelength is not None:
            ours.setdefault(f"{COLUMN}_{band}", np.full(number, wavelength, dtype=np.float32))
    known = info.extra.get("psf", {}).get(field.name, {})
    psf = np.empty((number, len(bands), NUM_GAUSSIANS, 2), np.float32)
    for index, band in enumerate(bands):
        psf[:, index] = gaussians_at(known.get(band), task.x, task.y, NUM_GAUSSIANS)
        given = plan.psf.get(band, plan.psf.get(""))
        if given is not None or not np.isfinite(psf[:, index]).all():
            per_object = psf_of_objects(given, band, ours, field.pixel_scale)
            psf[:, index] = psf[:, index] if per_object is None else per_object
    return Cutouts(
        object_id=columns["object_id"][task.rows],
        image=image,
        weight=weight,
        catalogue=ours,
        psf=psf,
    )


def _check_places(field: Field, task: ShardTask, ours: dict[str, np.ndarray], plan: StorePlan) -> None:
    """Raise if pixel and sky positions disagree, in which case one of them is for another image."""
    known = np.isfinite(ours["ra"].astype(float))
    if field.reference.wcs is None or not known.any():
        return
    x, y = field.pixels(ours["ra"][known].astype(float), ours["dec"][known].astype(float))
    off = float(np.median(np.hypot(x - task.x[known], y - task.y[known])))
    if off > MAX_OFFSET_PIXELS:
        raise InputError(
            f"{plan.catalogue_path}: x and y lie {off:.1f} pixels (median) from ra and dec on {field.name}; "
            "leave x and y out of the catalogue, or detect again on these images"
        )


def describe_fields(
    plan: StorePlan, info: dict[str, Any], tasks: list[ShardTask], opened: OpenFields
) -> dict[str, dict[str, Any]]:
    """Describe the fields of some shards, by name, using a catalogue's `info` where it is up to date."""
    return {
        plan.images.fields[index].name: known_or_described(plan.images, index, info, opened)
        for index in sorted({task.field_index for task in tasks})
    }


def known_or_described(
    images: ImageSet, index: int, info: Mapping[str, Any], opened: OpenFields
) -> dict[str, Any]:
    """Return the description of a field from `info` if it was made from these images; else describe it.

    If the field cannot be read, `info` is used anyway: the error is raised when it is cut.
    """
    field, known = images.fields[index], _known_field(images.fields[index], info)
    if images.is_made_from(field, known.get("made_from", {})):
        return known
    try:
        now = describe_field(opened.open(index), images)
    except InputError:
        if not known:
            raise
        return known
    log_warnings(field.name, now)
    return now


def _known_field(field: FieldSources, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a catalogue's description of a field; empty if it has none."""
    known: dict[str, Any] = info.get("fields", {}).get(field.name, {})
    return known


def describe_store(
    plan: StorePlan, fields: Mapping[str, dict[str, Any]], columns: Mapping[str, np.ndarray]
) -> StoreInfo:
    """Describe the store: the common pixel scale, and medians over fields of FWHM and noise correlation."""
    scale = one_scale(fields)
    bands = plan.images.bands
    psf = {name: settled_psf(field, plan, columns) for name, field in fields.items()}
    return StoreInfo(
        bands=bands,
        size=plan.size,
        pixel_scale_arcsec=scale,
        fwhm_arcsec=tuple(
            _median([_width(field, psf[name], b) for name, field in fields.items()], np.nan) for b in bands
        ),
        noise_correlation=tuple(
            _median([field["noise_correlation"].get(b) for field in fields.values()], 1.0) for b in bands
        ),
        survey=plan.survey,
        extra={
            "settings": plan.settings(),
            "fields": dict(fields),
            "psf": psf,
            "sub_pixel_policy": _POLICY,
        },
    )


def one_scale(fields: Mapping[str, dict[str, Any]]) -> float:
    """Return the pixel scale common to all fields, arcsec.

    Raises
    ------
    InputError
        The scales differ by more than `SCALE_TOLERANCE`.
    """
    scales = {name: field["pixel_scale_arcsec"] for name, field in fields.items()}
    scale = float(np.median(list(scales.values())))
    if max(abs(s / scale - 1) for s in scales.values()) > SCALE_TOLERANCE:
        fine, coarse = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
        raise InputError(
            f"the fields have pixels of {scales[fine]:.4f} ({fine}) to {scales[coarse]:.4f} arcsec "
            f"({coarse}); a store needs one scale: make one store for each, or resample them to one grid "
            "with `deepfits stack`"
        )
    return scale


def settled_psf(known: dict[str, Any], plan: StorePlan, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the PSFs of a field's bands; those given by the user take precedence.

    A catalogue's column with the width for each object is used if the user names it, or if the PSF is
    unknown or measured on the most compact objects.
    """
    psf = dict(known["psf"])
    for band in plan.images.bands:
        given = plan.psf.get(band, plan.psf.get(""))
        widths = psf_column(given, band, columns)
        if widths is not None and (given is not None or _source(psf, band) in (UNKNOWN, MOST_COMPACT)):
            psf[band] = column_record(given or f"psfsize_{band}", widths)
        elif given is not None:
            psf[band] = read_psf_option(given, known["pixel_scale_arcsec"], band)
    return psf


def warn_of_doubtful_psfs(info: StoreInfo) -> None:
    """Warn of fields and bands whose PSF is unknown or may be measured on galaxies, and say what is used."""
    for name, psf in info.extra["psf"].items():
        for band, fwhm in zip(info.bands, info.fwhm_arcsec, strict=True):
            source = _source(psf, band)
            if source == MOST_COMPACT:
                why = "the PSF is that of the most compact objects, as no stars stand out"
                then = f"{psf[band]['fwhm_arcsec']:.2f} arcsec is too wide if these are galaxies: give it"
            elif source != UNKNOWN:
                continue
            else:
                why = "the PSF is unknown (too few stars, no FWHM in the header)"
                then = "models that need it cannot use this band until it is given"
                if math.isfinite(fwhm):
                    then = f"that of the other fields, {fwhm:.2f} arcsec, is used; better give it"
            log.warning(
                "WARNING: field %s, band %s: %s; %s, in arcsec, as psf=%s=0.8", *(name, band, why, then, band)
            )


def _width(known: dict[str, Any], psf: dict[str, Any], band: str) -> float | None:
    """Return the FWHM in a band of a field, as measured on the image if the PSF is; else that of the PSF."""
    found: float | None = psf.get(band, {}).get("fwhm_arcsec")
    is_measured = _source(psf, band) in (STARS, MOST_COMPACT)
    return (known["fwhm_arcsec"].get(band) if is_measured else None) or found


def _source(psf: Mapping[str, Mapping[str, Any]], band: str) -> str:
    """Return the source of a band's PSF; '' if the field lacks the band."""
    return str(psf.get(band, {}).get("source", ""))


def _median(values: list[float | None], default: float) -> float:
    found = [v for v in values if v is not None and math.isfinite(v)]
    return float(np.median(found)) if found else default


def describe_field(field: Field, images: ImageSet, found: Extraction | None = None) -> dict[str, Any]:
    """Describe a field of an image set, for JSON.

    The PSF and its variation are taken from the extraction `found`; without it, a constant PSF is measured on
    the middle `MIDDLE_ROWS` rows.
    """
    middle, shape = MiddleOfField(field), list(field.shape)
    if found is None:
        found = extract(middle, DetectOptions(threshold=6.0), bands=images.bands, is_whole=False)
    widths = {b: {"coefficients": w, "shape": shape} for b, w in found.widths.items() if w is not None}
    fwhm = found.fwhm_arcsec
    reference = field.reference.source.band
    shifts = band_shifts(middle, reference)
    remarks, scale = field.remarks(), field.pixel_scale
    stated = [
        f"{b}: {r.removeprefix(WARNING)}" for b, texts in remarks.items() for r in texts if WARNING in r
    ]
    stated += [f"{b}: {text}" for b, plane in field.aligned.items() for text in sky_doubts(plane.plane)]
    return {
        "made_from": images.made_from(field.sources),
        "shape": list(field.shape),
        "pixel_scale_arcsec": field.pixel_scale,
        "fwhm_arcsec": {b: (float(v) if math.isfinite(v) else None) for b, v in fwhm.items()},
        "psf": {
            band: find_psf(
                found.star_images.get(band),
                plane.plane.header,
                scale,
                widths.get(band),
                stars_stand_out=found.stars_stand_out,
            )
            for band, plane in field.aligned.items()
        },
        "wavelength": {b: wavelength_in_header(p.plane.header, b) for b, p in field.aligned.items()},
        "noise_correlation": {b: p.noise_correlation for b, p in field.aligned.items()},
        "noise_njy": {b: p.plane.noise.sigma for b, p in field.aligned.items()},
        "shift_pixels": {b: [s.dx, s.dy] if s.num_matched else None for b, s in shifts.items()},
        "remarks": remarks,
        "warnings": [*stated, *shift_warnings(shifts, reference)],
    }


def log_warnings(field_name: str, info: dict[str, Any]) -> None:
    """Log the warnings in a field's description."""
    for text in info.get("warnings", []):
        log.warning("WARNING: %s %s", field_name, text)


class MiddleOfField:
    """The middle `MIDDLE_ROWS` rows of a field, with a field's interface."""

    def __init__(self, field: Field) -> None:
        self.name, self.pixel_scale = field.name, field.pixel_scale
        start = max((field.shape[0] - MIDDLE_ROWS) // 2, 0)
        stop = min(start + MIDDLE_ROWS, field.shape[0])
        self.planes = {band: _Strip(plane, start, stop) for band, plane in field.planes.items()}

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return NaN: positions are not needed."""
        return np.full(len(x), np.nan), np.full(len(y), np.nan)


class _Strip:
    def __init__(self, plane: Any, start: int, stop: int) -> None:
        self._plane, self._start, self._stop = plane, start, stop
        self.shape = (stop - start, plane.shape[1])
        self.noise_correlation = plane.noise_correlation

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of image and weight."""
        image, weight = self._plane.rows(self._start, self._stop)
        return image.copy(), weight.copy()
