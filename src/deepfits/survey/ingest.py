"""Importing foreign cutouts into a cutout store."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from deepfits import tables
from deepfits.errors import InputError
from deepfits.files import digest, remove_leftovers
from deepfits.gaussian_psf import NUM_GAUSSIANS, expand_image, fwhm_of, moffat_psf
from deepfits.progress import Progress
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Here, Shard
from deepfits.splits import as_text, evenly_spaced
from deepfits.survey.bands import given_for, require_bands
from deepfits.survey.build import is_written, store_shard
from deepfits.survey.catalogue import read_catalogue, read_info, stored_units
from deepfits.survey.coverage import valid_fractions, write_coverage
from deepfits.survey.cutout_description import read_description
from deepfits.survey.describing import median_of_known
from deepfits.survey.foreign_cutouts import ForeignCutouts
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.psf import gaussians_of, psf_of_objects, read_psf_option, with_psf_of_objects
from deepfits.survey.readers import open_cutouts
from deepfits.survey.remarks import WARNING, warnings_in
from deepfits.survey.seeing import star_among_cutouts, with_wings
from deepfits.survey.store import Cutouts, StoreInfo, create_store, write_shard
from deepfits.tables import choose, match_identities
from deepfits.tables.sky import positions_agree
from deepfits.tables.table import plain_array

log = logging.getLogger(__name__)
_ROW = " row"  # cannot clash with a column's name
SAMPLE = 200  # number of objects whose median FWHM is the store's
OFF_CENTRE_PIXELS = 2.0  # from the middle of a cutout, above which there is a warning
COMPACT_AMONG, RUN = 2000, 50  # objects searched for the most compact ones; read in runs of this length


def ingest(
    description_path: str | Path,
    out: Path,
    *,
    size: int,
    shard_size: int,
    progress: Progress,
    catalogue: str | Path | None = None,
    where: str | Sequence[str] | None = None,
    psf: Mapping[str, str] | None = None,
) -> None:
    """Copy the cutouts described by a TOML file into a store, keeping existing shards.

    The columns of a catalogue are added, matched by identity, or by position if no identity matches; values
    are missing (NaN, or empty text) where it has no row for a cutout. Conditions on columns (`where`) select
    cutouts. `psf` is the user's, by band (`deepfits.survey.psf.parse_psf_option`).
    """
    description = read_description(description_path)
    settings = {"size": size, "shard_size": shard_size, **({"psf": dict(psf)} if psf else {})}
    with open_cutouts(description) as found:
        for text in warnings_in(found.remarks):
            log.warning("%s%s: %s", WARNING, description.where.name, text)
        units: dict[str, str] = {}
        if catalogue is not None:
            _join(found, Path(catalogue))
            units = stored_units(found.columns, read_info(catalogue))
        read_psf, widths = _psf_and_widths(found, psf or {}, size)
        info = StoreInfo(
            bands=found.store_bands,
            size=size,
            pixel_scale_arcsec=found.pixel_scale_arcsec,
            fwhm_arcsec=widths,
            survey=description.survey,
            extra={"settings": settings, "remarks": found.remarks, "units": units},
        )
        named = zip(info.bands, widths, strict=True)
        if unknown := [band for band, width in named if band in found.bands and not width > 0]:
            log.info(
                "%s: the PSF of band %s is unknown: models that need it cannot be used there until it is "
                "given: fwhm_arcsec or psf in the TOML file, or for example --psf 0.8 (FWHM, arcsec)",
                description.where.name,
                ", ".join(unknown),
            )
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        create_store(out, info)
        all_rows = {**found.columns, "object_id": found.object_id, _ROW: np.arange(found.number)}
        chosen = choose(all_rows, where, description.where)[_ROW]
        parts = [chosen[start : start + shard_size] for start in range(0, len(chosen), shard_size)]
        shards = [
            store_shard(number, len(part), digest(as_text(found.object_id[part])), part)
            for number, part in enumerate(parts)
        ]
        run_shards(
            Here(lambda: partial(_one_shard, found, read_psf, info, out)),
            shards,
            out,
            title="read",
            is_done=partial(is_written, info),
            progress=progress,
            suffix=".h5",
        )
    write_coverage(out, info.bands, [out / f"{shard.name}.h5" for shard in shards], has_fields=False)


def _join(cutouts: ForeignCutouts, path: Path) -> None:
    """Add a catalogue's columns to the cutouts, by identity, or row by row if the cutouts have none.

    If no identity is in both, as where files are named by position, they are matched by position.
    """
    columns = read_catalogue(path, needs_places=False)
    identity = columns.pop("object_id")
    if not cutouts.has_identity:
        if len(identity) != cutouts.number:
            raise InputError(
                f"{path}: {len(identity)} rows for {cutouts.number} cutouts without object_id; give one row "
                "for each, in the same order, or give object_id in the TOML file"
            )
        _warn_of_identities(cutouts, identity, path)
        cutouts.object_id, rows = identity, np.arange(cutouts.number)
        is_absent = np.zeros(cutouts.number, bool)
        cutouts.remarks.append(
            f"catalogue {path.name}: matched row by row, since the cutouts have no object_id"
        )
    else:
        rows = match_identities(cutouts.object_id, identity)
        if (rows < 0).all():
            rows = _nearest_rows(cutouts, columns, path)
            columns.setdefault("catalogue_id", identity)
        is_absent = rows < 0
        if is_absent.all():
            raise InputError(
                f"{path}: no row for any of the {cutouts.number} cutouts: they have object_id "
                f"{cutouts.object_id[0]}, ..., the catalogue {identity[0]}, ..., and no object is in the "
                "middle of a cutout; use the same identities, or leave it out"
            )
    if is_absent.any():
        text = (
            f"catalogue {path.name}: no row for {int(is_absent.sum())} of {cutouts.number} cutouts, among "
            f"them object_id {cutouts.object_id[is_absent][0]}: its columns are empty there"
        )
        log.warning("%s%s", WARNING, text)
        cutouts.remarks.append(f"{WARNING}{text}")
    pairs = (cutouts.columns, ~is_absent), (columns, rows[~is_absent])
    here, there = (tables.positions({n: v[some] for n, v in of.items()}, {}, path) for of, some in pairs)
    if here and there and (here.is_known & there.is_known).any() and not positions_agree(here, there):
        raise InputError(
            f"{path}: its objects are not at the positions of the cutouts ({' and '.join(here.names)}): is "
            "it in another order, or are its identities different?"
        )
    for name, values in columns.items():
        cutouts.columns[name] = plain_array(np.ma.array(values[rows], mask=is_absent))
    _warn_of_offsets(cutouts, path)


def _nearest_rows(cutouts: ForeignCutouts, columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Return the catalogue's row at the middle of each cutout, −1 without one or without positions."""
    known = tables.positions(cutouts.columns, {}, path)
    here = cutouts.from_headers(np.arange(cutouts.number)) if known is None else vars(known)
    if not (here.keys() >= {"ra", "dec"} <= columns.keys()):
        return np.full(cutouts.number, -1)
    radius = OFF_CENTRE_PIXELS * cutouts.pixel_scale_arcsec
    rows, *_ = tables.match_one_to_one(here["ra"], here["dec"], columns["ra"], columns["dec"], radius)
    if (number := int((rows >= 0).sum())) > 0:
        text = (
            f"catalogue {path.name}: none of its identities is one of the cutouts', so that {number} of "
            f"{cutouts.number} cutouts were matched by position (the nearest within {radius:.2g} arcsec)"
        )
        log.warning("%s", text)
        cutouts.remarks.append(text)
    return rows


def _warn_of_offsets(cutouts: ForeignCutouts, path: Path) -> None:
    """Warn of objects of a catalogue that, by the WCS in the headers, are not in the middle of their cutouts.

    Those are cutouts that were trimmed at an image's edge, or made for other objects.
    """
    some = evenly_spaced(cutouts.number, SAMPLE)  # which have been read
    headers = cutouts.from_headers(some)
    if "ra" not in headers or "ra" not in cutouts.columns:
        return
    ra, dec = cutouts.columns["ra"][some], cutouts.columns["dec"][some]
    east = ((ra - headers["ra"] + 180) % 360 - 180) * np.cos(np.radians(headers["dec"]))
    offset = np.hypot(east, dec - headers["dec"]) * 3600 / cutouts.pixel_scale_arcsec
    if (is_off := offset > OFF_CENTRE_PIXELS).any():
        text = (
            f"catalogue {path.name}: by the WCS, {is_off.sum()} of {len(some)} objects lie more than "
            f"{OFF_CENTRE_PIXELS:g} pixels from the middle of their cutout, among them object_id "
            f"{cutouts.object_id[some][is_off][0]} by {offset[is_off][0]:.0f}: what lies in the middle is "
            "taken as the object; make these cutouts anew, filled where there is no image, or leave them out"
        )
        log.warning("%s%s", WARNING, text)
        cutouts.remarks.append(f"{WARNING}{text}")


def _warn_of_identities(cutouts: ForeignCutouts, identity: np.ndarray, path: Path) -> None:
    """Warn if a catalogue is matched row by row although an array has its identities in another order."""
    name = tables.identity_name(cutouts.columns)
    theirs = tables.identity_name(tables.read(path, what="catalogue").columns)
    if name is None or theirs is None:
        return
    own = cutouts.columns[name].astype(str)
    if np.isin(own, identity.astype(str)).any() and (own != identity.astype(str)).any():
        log.warning(
            "%s%s: matched row by row, though %s of the cutouts and %s of the catalogue differ; to match by "
            "these, give object_id = '%s' in the TOML file",
            *(WARNING, path, name, theirs, name),
        )


def _psf_and_widths(
    found: ForeignCutouts, given: Mapping[str, str], size: int
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, ...]]:
    """Return a reader of the objects' PSFs by rows, and the store's FWHM in each band.

    Unknown PSFs are estimated.
    """
    some = evenly_spaced(found.number, SAMPLE)

    def sampled(read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return fwhm_of(np.concatenate([read(np.array([row])) for row in some]))

    read_psf = _psf_reader(found, given)
    known = sampled(read_psf)
    if (is_unknown := ~np.isfinite(known).any(axis=0)).any():
        bands = [band for band, unknown in zip(found.store_bands, is_unknown, strict=True) if unknown]
        estimated = _estimate_psf(found, [band for band in bands if band in found.bands], size)
        read_psf = _psf_reader(found, given, estimated)
        known = sampled(read_psf)
    stated = found.per_store_band(found.fwhm_arcsec, float("nan"))
    return read_psf, tuple(
        median_of_known(measured) if given or not width > 0 else width
        for width, measured in zip(stated, known.T, strict=True)
    )


def _estimate_psf(found: ForeignCutouts, bands: Sequence[str], size: int) -> dict[str, np.ndarray]:
    """Estimate unknown PSFs, ``(K, 2)`` for each band, from the most compact objects, with a warning.

    Without stars among them, this is an upper limit on the width. Bands in which it fails are omitted.
    """
    starts = np.unique(np.linspace(0, max(found.number - RUN, 0), -(-COMPACT_AMONG // RUN)).astype(int))
    rows = np.unique(starts[:, None] + np.arange(min(RUN, found.number)))
    image, weight = _read(found, rows, size)
    out, used = {}, []
    for band in bands:
        place = found.store_bands.index(band)
        star = star_among_cutouts(image[:, place], weight[:, place], found.pixel_scale_arcsec)
        if star is None:
            continue
        out[band] = expand_image(with_wings(star[0]), found.pixel_scale_arcsec)
        used.append(star[1])
    if out:
        widths = ", ".join(f"{float(fwhm_of(psf)):.2f}" for psf in out.values())
        number = f"{min(used)} to {max(used)}" if len({*used}) > 1 else f"{used[0]}"
        text = (
            f"the PSF of {', '.join(out)} is not given: estimated from the {number} most compact of "
            f"{len(rows)} objects, {widths} arcsec (FWHM), narrower if none of them is a star; to give it: "
            "fwhm_arcsec or psf in the TOML file, or for example --psf 0.8"
        )
        log.warning("%s%s", WARNING, text)
        found.remarks.append(f"{WARNING}{text}")
    return out


def _psf_reader(
    found: ForeignCutouts, given: Mapping[str, str], estimated: Mapping[str, np.ndarray] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a reader of the objects' PSFs by rows, ``(n, B, K, 2)`` in the store's bands; NaN where unknown.

    In order of precedence: given by the user, from the file (per object, or common to all), from a
    catalogue's column, and estimated.
    """
    require_bands(given, found.store_bands, "psf")
    scale = found.pixel_scale_arcsec
    fixed = {band: moffat_psf(width) for band, width in zip(found.bands, found.fwhm_arcsec, strict=False)}
    for band in found.bands:
        option = given_for(band, given)
        if option is not None and psf_of_objects(option, band, found.columns, scale) is None:
            fixed[band] = gaussians_of(read_psf_option(option, scale, band), NUM_GAUSSIANS)

    def read(rows: np.ndarray) -> np.ndarray:
        out = np.full((len(rows), len(found.store_bands), NUM_GAUSSIANS, 2), np.nan, np.float32)
        own = None if found.psf is None else np.concatenate([found.psf(a, b) for a, b in _runs(rows)])
        columns = {name: values[rows] for name, values in found.columns.items()}
        for index, band in enumerate(found.bands):
            psf, option = out[:, found.store_bands.index(band)], given_for(band, given)
            if option is None and own is not None:
                psf[:] = own[:, index]
            elif band in fixed:
                psf[:] = fixed[band]
            psf[:] = with_psf_of_objects(psf, option, band, columns, scale)
            if estimated and band in estimated:
                psf[:] = np.where(np.isfinite(psf).all((1, 2), keepdims=True), psf, estimated[band])
        return out

    return read


def _one_shard(
    found: ForeignCutouts,
    read_psf: Callable[[np.ndarray], np.ndarray],
    info: StoreInfo,
    out: Path,
    shard: Shard,
    advance: Advance,
) -> None:
    """Write one shard."""
    rows = shard.content
    image, weight = _read(found, rows, info.size)
    columns = {name: values[rows] for name, values in found.columns.items()}
    for name, values in found.from_headers(rows).items():
        known = columns.get(name, values)
        columns[name] = np.where(np.isfinite(known), known, values) if known.dtype.kind == "f" else known
    columns |= valid_fractions(weight, info.bands)
    cutouts = Cutouts(
        object_id=found.object_id[rows], image=image, weight=weight, catalogue=columns, psf=read_psf(rows)
    )
    write_shard(out / f"{shard.name}.h5", with_neighbours(cutouts, info), info, shard.made_from)
    advance(shard.objects)


def _read(found: ForeignCutouts, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the cutouts in these rows, consecutive ones together."""
    read = [found.read_for_store(first, end, size) for first, end in _runs(rows)]
    return np.concatenate([image for image, _ in read]), np.concatenate([weight for _, weight in read])


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return the start and stop of each run of consecutive rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]
