"""From other people's cutouts to a cutout store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import remove_leftovers
from deepfits.progress import Progress
from deepfits.scale.cluster import Workers
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Shard
from deepfits.survey.build import has_identities, store_shard
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.coverage import write_coverage
from deepfits.survey.cutout_description import read_description
from deepfits.survey.foreign_cutouts import ForeignCutouts
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.readers import open_cutouts
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_catalogue, write_shard
from deepfits.tables import choose, match_identities
from deepfits.tables.reading import plain

WARNING = "WARNING: "
log = logging.getLogger(__name__)
_ROW = " row"  # no name of a column


def ingest(
    description_path: str | Path,
    out: Path,
    *,
    size: int,
    shard_size: int,
    progress: Progress,
    catalogue: str | Path | None = None,
    where: str | Sequence[str] | None = None,
) -> None:
    """Copy the cutouts that a TOML file describes into a store; shards that are there already are kept.

    The columns of a catalogue with the same identities go into the store too, with gaps (NaN, or empty text)
    where it has no row for a cutout. With conditions on the columns, only cutouts that satisfy them.
    """
    description = read_description(description_path)
    settings = {"size": size, "shard_size": shard_size}
    with open_cutouts(description) as found:
        for text in found.remarks:
            if text.startswith(WARNING):
                log.warning("%s%s: %s", WARNING, description.where.name, text.removeprefix(WARNING))
        if catalogue is not None:
            _join(found, Path(catalogue))
        info = StoreInfo(
            bands=found.store_bands,
            size=size,
            pixel_scale_arcsec=found.pixel_scale_arcsec,
            fwhm_arcsec=found.per_store_band(found.fwhm_arcsec, float("nan")) if found.fwhm_arcsec else (),
            survey=description.survey,
            extra={"settings": settings, "remarks": found.remarks},
        )
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        create_store(out, info)
        all_rows = {**found.columns, "object_id": found.object_id, _ROW: np.arange(found.number)}
        chosen = choose(all_rows, where, description.where)[_ROW]
        parts = [chosen[start : start + shard_size] for start in range(0, len(chosen), shard_size)]
        shards = [
            store_shard(number, found.object_id[part], len(part), part) for number, part in enumerate(parts)
        ]
        run_shards(
            None,
            shards,
            out,
            title="read",
            is_done=partial(has_identities, info),
            workers=Workers(),
            progress=progress,
            open_here=lambda: partial(_one_shard, found, info, out),
            suffix=".h5",
        )
    write_coverage(out, info.bands, (_fractions(out / f"{shard.name}.h5", info) for shard in shards))


def _join(cutouts: ForeignCutouts, path: Path) -> None:
    """Add a catalogue's columns to the cutouts: by identity; row by row where the cutouts have none."""
    columns = read_catalogue(path, needs_places=False)
    identity = columns.pop("object_id")
    if not cutouts.has_identity:
        if len(identity) != cutouts.number:
            raise InputError(
                f"{path}: {len(identity)} rows for {cutouts.number} cutouts that have no object_id; give one "
                "row for each, in the same order, or say object_id in the TOML file"
            )
        cutouts.object_id, rows = identity, np.arange(cutouts.number)
        is_absent = np.zeros(cutouts.number, bool)
        cutouts.remarks.append(
            f"catalogue {path.name}: taken row by row, since the cutouts have no object_id"
        )
    else:
        rows = match_identities(cutouts.object_id, identity)
        is_absent = rows < 0
        if is_absent.all():
            raise InputError(
                f"{path}: no row for any of the {cutouts.number} cutouts: they have object_id "
                f"{cutouts.object_id[0]}, ..., the catalogue {identity[0]}, ...; give it the same "
                "identities, or leave it out"
            )
    if is_absent.any():
        text = (
            f"catalogue {path.name}: no row for {int(is_absent.sum())} of {cutouts.number} cutouts, among "
            f"them object_id {cutouts.object_id[is_absent][0]}: its columns have gaps there"
        )
        log.warning("%s%s", WARNING, text)
        cutouts.remarks.append(f"{WARNING}{text}")
    for name, values in columns.items():
        cutouts.columns[name] = plain(np.ma.array(values[rows], mask=is_absent))


def _one_shard(found: ForeignCutouts, info: StoreInfo, out: Path, shard: Shard, advance: Advance) -> None:
    """Write one shard."""
    rows = shard.content
    image, weight = _read(found, rows, info.size)
    valid = (weight > 0).mean(axis=(2, 3))
    columns = {name: values[rows] for name, values in found.columns.items()}
    columns |= {f"fraction_valid_{b}": valid[:, i].astype(np.float32) for i, b in enumerate(info.bands)}
    cutouts = Cutouts(object_id=found.object_id[rows], image=image, weight=weight, catalogue=columns)
    write_shard(out / f"{shard.name}.h5", with_neighbours(cutouts, info), info)
    advance(shard.objects)


def _read(found: ForeignCutouts, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read some rows, those that follow each other in one go."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    read = [found.read_for_store(int(run[0]), int(run[-1]) + 1, size) for run in runs]
    return np.concatenate([image for image, _ in read]), np.concatenate([weight for _, weight in read])


def _fractions(path: Path, info: StoreInfo) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return no fields, identities and fractions of valid pixels, for `write_coverage`."""
    names = [f"fraction_valid_{b}" for b in info.bands]
    columns = shard_catalogue(path, names)
    identity = columns["object_id"]
    return np.full(len(identity), ""), identity, np.stack([columns[name] for name in names], axis=1)
