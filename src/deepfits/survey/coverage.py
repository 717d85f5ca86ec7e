"""Which objects of a store lack pixels: counted in ``summary.json``, listed in ``incomplete.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deepfits.files import write_json, writing


def write_coverage(
    out: Path,
    bands: tuple[str, ...],
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    outside: np.ndarray | None = None,
    num_duplicates: int = 0,
) -> None:
    """Write both files.

    Parts are field names, identities and fractions of valid pixels, ``(n,)``, ``(n,)``, ``(n, B)``, shard by
    shard; `outside` has the identities of the catalogue's objects that lie on no image, `num_duplicates`
    counts detections left out because another one of the same object is primary.
    """
    total = incomplete = 0
    lacking, empty = np.zeros(len(bands), int), np.zeros(len(bands), int)
    outside = np.empty(0) if outside is None else outside
    with (
        writing(out / "incomplete.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as handle,
    ):
        table = csv.writer(handle)
        table.writerow(["object_id", "field", *(f"fraction_valid_{b}" for b in bands)])
        for field, ids, valid in parts:
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
