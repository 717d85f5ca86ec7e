"""From other people's cutouts to a cutout store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import fingerprint, read_json, remove_leftovers
from deepfits.progress import Progress
from deepfits.survey.coverage import write_coverage
from deepfits.survey.fitsfile import is_fits_name
from deepfits.survey.readers import ForeignCutouts, open_cutouts, read_description
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_identities, shard_name, write_shard


def ingest(
    description_path: str | Path, out: Path, *, size: int, shard_size: int, progress: Progress
) -> None:
    """Copy the cutouts that a TOML file describes into a store; shards that are there already are kept."""
    description = read_description(description_path)
    data = description.where.parent / description.file
    settings: dict[str, Any] = {
        "description": fingerprint(description.where),
        "bytes": data.stat().st_size if data.is_file() else _bytes_in(data),
        "size": size,
        "shard_size": shard_size,
    }
    there = out / "store.json"
    if (
        there.exists()
        and read_json(there, what="store description").get("extra", {}).get("settings") != settings
    ):
        raise InputError(f"{out}: another store is there already; remove it or choose another directory")
    with open_cutouts(description) as found:
        info = StoreInfo(
            bands=found.bands,
            size=size,
            pixel_scale_arcsec=found.pixel_scale_arcsec,
            fwhm_arcsec=found.fwhm_arcsec,
            survey=description.survey,
            extra={"settings": settings, "remarks": found.remarks},
        )
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        create_store(out, info)
        parts = []
        with progress("read", total=found.number, unit="objects") as bar:
            for number, start in enumerate(range(0, found.number, shard_size)):
                stop = min(start + shard_size, found.number)
                valid = _one_shard(found, info, out / shard_name(number), start, stop)
                parts.append((np.full(stop - start, ""), found.object_id[start:stop], valid))
                bar.advance(stop - start)
    write_coverage(out, info.bands, parts)


def _bytes_in(directory: Path) -> list[int]:
    """Return how many FITS files there are in a directory and below, and how large they are together."""
    sizes = [p.stat().st_size for p in directory.rglob("*") if is_fits_name(p)] if directory.is_dir() else []
    return [len(sizes), sum(sizes)]


def _one_shard(found: ForeignCutouts, info: StoreInfo, path: Path, start: int, stop: int) -> np.ndarray:
    """Write one shard, unless it is there; return the fractions of valid pixels, ``(n, B)``."""
    image, weight = found.read(start, stop, info.size)
    identity = found.object_id[start:stop]
    valid = (weight > 0).mean(axis=(2, 3))
    columns = {name: values[start:stop] for name, values in found.columns.items()}
    columns |= {f"fraction_valid_{b}": valid[:, i].astype(np.float32) for i, b in enumerate(info.bands)}
    if not (path.exists() and _has(path, info, identity)):
        write_shard(path, Cutouts(object_id=identity, image=image, weight=weight, catalogue=columns), info)
    return np.asarray(valid)


def _has(path: Path, info: StoreInfo, identity: np.ndarray) -> bool:
    try:
        return np.array_equal(shard_identities(path, info), identity)
    except InputError:
        return False  # damaged: it is written again
