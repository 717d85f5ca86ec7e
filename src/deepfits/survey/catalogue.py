"""Reading catalogues of objects.

Catalogues written by deepfits also state how they were made and what was measured in each field.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits import tables
from deepfits.errors import InputError, naming

MOST_CLOSE = 0.01
"""Larger fractions of objects within `tables.SAME_PLACE_ARCSEC` of another are not blends but duplicates."""
log = logging.getLogger(__name__)
_PRIMARY = re.compile(r".*primary(_?detection)?", re.IGNORECASE)
"""Columns by which surveys flag duplicates in overlapping tiles: brick_primary, detect_isPrimary."""


def read_info(path: str | Path) -> dict[str, Any]:
    """Return a catalogue's metadata, which only ours have, and the units of its columns (``"units"``)."""
    file = tables.parquet_files(Path(path))[0] if Path(path).is_dir() else Path(path)
    if file.name.lower().endswith((".parquet", ".pq")):
        import pyarrow.parquet as pq

        with naming(str(path), "not a readable Parquet file"):
            table = tables.from_memory(pq.read_schema(file).empty_table(), str(file))
    else:
        table = tables.read(path, what="catalogue")
    return {**({} if Path(path).is_dir() else table.info), "units": table.units}


def stored_units(columns: Iterable[str], info: Mapping[str, Any]) -> dict[str, str]:
    """Return the units of a catalogue's columns as its file states them (`read_info`).

    Columns that are replaced in a store (positions), and catalogues of `detect`, have those of
    `deepfits.fitting.columns`.
    """
    units = {} if info.get("fields") else info.get("units", {})
    return {name: units[name] for name in columns if name in units and name not in ("ra", "dec", "x", "y")}


def read_catalogue(
    path: str | Path, *, where: str | Sequence[str] | None = None, needs_places: bool = True
) -> dict[str, np.ndarray]:
    """Read the rows of a catalogue, in any format of `deepfits.tables.read`, that satisfy the conditions.

    The columns are numbers, booleans or text, ``(N,)`` each. They keep their names, except for identity,
    position and field, which are renamed to ours; positions are in degrees (ICRS), NaN where missing. Without
    identities the rows are numbered from 1. If positions are required, duplicates flagged by the survey cause
    a warning. Raise `InputError` if the file cannot be read or lacks them, or an identity is missing,
    repeated or inexact.
    """
    table = tables.read(path, what="catalogue")
    sky = tables.positions(table.columns, table.units, path)
    plain = tables.without_lists(tables.with_standard_names(table, sky), path, table.unused)
    columns = {name: values for name, values in plain.items() if values.dtype.kind in "iufbU"}
    if needs_places and not ({"ra", "dec"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        names = ", ".join(list(table.columns)[:12])
        raise InputError(f"{path}: no ra and dec, nor x and y; it has {names}; rename the columns")
    number = len(next(iter(columns.values())))
    if number == 0:
        raise InputError(f"{path}: the catalogue has no rows")
    name = tables.identity_name(table.columns) or "object_id"
    if "object_id" in columns:
        columns["object_id"] = tables.identities(columns["object_id"], path, name)
    else:
        likely = tables.likely_identity(columns) if needs_places else None
        columns["object_id"] = np.arange(1, number + 1, dtype=np.int64)
        if likely is not None:
            log.warning(
                "WARNING: %s: rows are numbered from 1, since no column is called object_id or id; if %s "
                "identifies the objects, rename it to object_id",
                *(path, likely),
            )
    chosen = tables.choose(table.columns | columns, where, path)  # by their names and ours
    columns = {name: chosen[name] for name in columns}
    if needs_places and not ("is_primary" in columns and table.info.get("fields")):  # of ours: used later
        _warn_of_doubles(columns, path)
    tables.require_unique(columns["object_id"], path, name)
    if "ra" in columns:
        lost = sky.lost if sky is not None else ""
        if not np.isfinite(columns["ra"]).any():
            if not needs_places or {"x", "y"} <= columns.keys():  # pixel positions, on images without WCS
                return columns
            raise InputError(f"{path}: no object has a position on the sky: {lost}")
        if lost:
            log.warning("WARNING: %s: %s; they will lie on no image", path, lost)
    return columns


def _warn_of_doubles(columns: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Warn of duplicates, flagged in a column or at the same positions."""
    if "ra" in columns:
        from scipy.spatial import cKDTree

        places = tables.unit_vectors(columns["ra"], columns["dec"])
        known = places[np.isfinite(places).all(axis=1)]
        chord = cKDTree(known).query(known, k=2)[0][:, 1] if len(known) else known
        number = int((chord < np.radians(tables.SAME_PLACE_ARCSEC / 3600)).sum())
        if number > MOST_CLOSE * len(places):
            log.warning(
                "WARNING: %s: %d of %d objects are within %g″ of another: if overlapping tiles list them "
                "twice, leave out the duplicates",
                *(path, number, len(places), tables.SAME_PLACE_ARCSEC),
            )
    for name, values in columns.items():
        if _PRIMARY.fullmatch(name) and values.dtype.kind in "biuf" and set(np.unique(values)) == {0, 1}:
            log.warning(
                "WARNING: %s: %d of %d objects are not primary by %s, so probably duplicates; "
                "--where '%s == %s' leaves them out",
                *(path, (values == 0).sum(), len(values), name),
                *(name, "true" if values.dtype.kind == "b" else 1),
            )
