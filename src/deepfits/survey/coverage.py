"""Completeness of a store's cutouts: counts in ``summary.json``, a list of objects in ``incomplete.csv``."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deepfits.files import write_json, writing
from deepfits.survey.store import CutoutStore, shard_catalogue

VALID = "fraction_valid_"
"""Beginning of the names of columns with the fraction of a cutout's pixels that have data, per band."""


def valid_fractions(weight: np.ndarray, bands: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the fraction of each cutout's pixels with data as columns, from weights ``(N, B, H, W)``."""
    valid = (weight > 0).mean(axis=(2, 3)).astype(np.float32)
    return {f"{VALID}{band}": valid[:, index] for index, band in enumerate(bands)}


def have_data(store: CutoutStore, bands: Sequence[str]) -> np.ndarray:
    """Return which objects of a store have data in any of these bands, ``(N,)`` bool.

    Stores that were not written by `cutouts` lack these columns; all of their objects are taken to have data.
    """
    recorded = {name for name in shard_catalogue(store.shards[0]) if name.startswith(VALID)}
    if not recorded:
        return np.ones(len(store), dtype=bool)
    out = np.zeros(len(store), dtype=bool)
    for name in {f"{VALID}{band}" for band in bands} & recorded:
        out |= store.catalogue([name])[name] > 0
    return out


def write_coverage(
    out: Path,
    bands: tuple[str, ...],
    shards: Iterable[Path],
    outside: np.ndarray | None = None,
    num_duplicates: int = 0,
    *,
    has_fields: bool = True,
) -> None:
    """Write ``summary.json`` and ``incomplete.csv`` into the directory of a store.

    `outside` are the identities of catalogue objects that lie on no image, `num_duplicates` counts detections
    left out because another of the same object is primary. Shards that `has_fields` state the field of each
    object.
    """
    names = [f"{VALID}{band}" for band in bands]
    total = incomplete = 0
    lacking, empty = np.zeros(len(bands), int), np.zeros(len(bands), int)
    outside = np.empty(0) if outside is None else outside
    with (
        writing(out / "incomplete.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as handle,
    ):
        table = csv.writer(handle)
        table.writerow(["object_id", "field", *names])
        for path in shards:
            columns = shard_catalogue(path, ["field", *names] if has_fields else names)
            ids, valid = columns["object_id"], np.stack([columns[name] for name in names], axis=1)
            field = columns["field"] if has_fields else np.full(len(ids), "")
            is_short = (valid < 1).any(axis=1)
            total, incomplete = total + len(ids), incomplete + int(is_short.sum())
            lacking += (valid < 1).sum(axis=0)
            empty += (valid == 0).sum(axis=0)
            for row in np.flatnonzero(is_short):
                table.writerow([ids[row], field[row], *(f"{v:.4f}" for v in valid[row])])
        for identity in outside:
            table.writerow([identity, "outside every image", *("0" for _ in bands)])
    write_json(
        out / "summary.json",
        {
            "num_objects": total,
            "num_incomplete": incomplete,
            "num_lacking_pixels": dict(zip(bands, lacking.tolist(), strict=True)),
            "num_without_data": dict(zip(bands, empty.tolist(), strict=True)),
            "num_outside_every_image": len(outside),
            "num_duplicates_left_out": num_duplicates,
        },
    )
