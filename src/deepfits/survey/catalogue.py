"""Catalogues: whose objects are where.

A catalogue of ours carries what it was made with and what was measured of each field.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits import tables
from deepfits.errors import InputError, naming
from deepfits.files import parse_json

log = logging.getLogger(__name__)
_PRIMARY = re.compile(r"(?!is_primary$).*primary(_?detection)?", re.IGNORECASE)
"""Columns in which surveys mark doubles, of overlapping tiles: brick_primary, detect_isPrimary."""


def read_info(path: str | Path) -> dict[str, Any]:
    """Return what a catalogue says of itself; empty for files that others wrote."""
    if str(path).lower().endswith((".parquet", ".pq")):
        import pyarrow.parquet as pq

        with naming(str(path), "not a readable Parquet file"):
            text = (pq.read_schema(path).metadata or {}).get(b"deepfits", b"{}").decode()
        content = parse_json(text, where=path, what="catalogue's note of how it was made")
        return content if isinstance(content, dict) else {}
    if Path(path).is_dir():
        return {}
    return tables.read(path, what="catalogue").info


def read_catalogue(
    path: str | Path, *, where: str | Sequence[str] | None = None, needs_places: bool = True
) -> dict[str, np.ndarray]:
    """Read a catalogue of anyone's; see `deepfits.tables.read` for the formats.

    Returns columns of numbers, truth values or text, ``(N,)`` each, of the rows that satisfy all conditions.
    They keep their names, but for identity, position and field, which get ours; positions become degrees
    (ICRS), NaN where there is none. Without an identity the rows are numbered from 1. Where places are
    needed, a catalogue that does not say them is refused.

    Raises
    ------
    InputError
        Unreadable, no positions, or an identity that lacks, occurs twice, or is not exact.
    """
    table = tables.read(path, what="catalogue")
    sky = tables.positions(table.columns, table.units, path)
    columns = {
        name: values
        for name, values in tables.with_our_names(table, sky).items()
        if values.ndim == 1 and values.dtype.kind in "iufbU"
    }
    if needs_places and not ({"ra", "dec"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        there = ", ".join(list(table.columns)[:12])
        raise InputError(f"{path}: no ra and dec, nor x and y; it has {there}; rename the columns")
    number = len(next(iter(columns.values())))
    if number == 0:
        raise InputError(f"{path}: the catalogue has no rows")
    name = tables.identity_name(table.columns) or "object_id"
    if "object_id" in columns:
        columns["object_id"] = tables.identities(columns["object_id"], path, name)
    else:
        columns["object_id"] = np.arange(1, number + 1, dtype=np.int64)
    chosen = tables.choose(table.columns | columns, where, path)  # by their names and ours
    columns = {name: chosen[name] for name in columns}
    if needs_places:
        _warn_of_doubles(columns, path)
    tables.require_unique(columns["object_id"], path, name)
    if "ra" in columns:
        lost = sky.lost if sky is not None else ""
        if not np.isfinite(columns["ra"]).any():
            if (
                not needs_places or {"x", "y"} <= columns.keys()
            ):  # of images without WCS: the pixels are all that is known
                return columns
            raise InputError(f"{path}: no object has a position on the sky: {lost}")
        if lost:
            log.warning("WARNING: %s: %s; they will lie on no image", path, lost)
    return columns


def _warn_of_doubles(columns: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Warn of objects that a survey's own mark calls doubles; `is_primary`, ours, is respected later."""
    for name, values in columns.items():
        if _PRIMARY.fullmatch(name) and values.dtype.kind in "biuf" and set(np.unique(values)) == {0, 1}:
            log.warning(
                "WARNING: %s: %d of %d objects are not primary by %s, doubles as a rule; --where '%s == %s' "
                "leaves them out",
                *(path, (values == 0).sum(), len(values), name),
                *(name, "true" if values.dtype.kind == "b" else 1),
            )
