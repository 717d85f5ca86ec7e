"""Catalogues on disk: Parquet (what we write), FITS tables and text (what we also read).

A catalogue carries, in the Parquet file's metadata under ``deepfits``, what it was made with and what was
measured of each field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.errors import InputError
from deepfits.files import writing

_KEY = b"deepfits"
_ALIASES = {
    "object_id": ("object_id", "objectid", "id", "source_id", "number", "objid", "coadd_object_id"),
    "ra": (
        "ra",
        "alpha_j2000",
        "raj2000",
        "ra_deg",
        "_raj2000",
        "alpha",
        "alphawin_j2000",
        "right_ascension",
        "ramean",
    ),
    "dec": (
        "dec",
        "delta_j2000",
        "dej2000",
        "decj2000",
        "dec_deg",
        "_dej2000",
        "delta",
        "deltawin_j2000",
        "declination",
        "decmean",
    ),
    "x": ("x", "x_pixel"),
    "y": ("y", "y_pixel"),
    "field": ("field", "patch"),
}
_FITS = (".fits", ".fit", ".fits.gz", ".cat")
_TEXT = (".csv", ".ecsv", ".txt", ".dat")


def write_catalogue(path: str | Path, columns: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Path:
    """Write Parquet, or a FITS table when the name ends so, whole or not at all."""
    path = Path(path)
    with writing(path) as temporary:
        if path.name.lower().endswith(_FITS):
            from astropy.table import Table

            table = Table({n: np.asarray(v) for n, v in columns.items()})
            table.meta["DEEPFITS"] = f"{len(table)} objects"
            table.write(temporary, format="fits", overwrite=True)
        else:
            arrays = {name: pa.array(np.asarray(values)) for name, values in columns.items()}
            made = pa.table(arrays).replace_schema_metadata({_KEY: json.dumps(info).encode()})
            pq.write_table(made, temporary, compression="zstd")
    return path


def read_info(path: str | Path) -> dict[str, Any]:
    """Return what a Parquet catalogue says of itself; empty for files that others wrote."""
    if not str(path).lower().endswith((".parquet", ".pq")):
        return {}
    try:
        metadata = pq.read_schema(path).metadata or {}
        content = json.loads(metadata.get(_KEY, b"{}"))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    return content if isinstance(content, dict) else {}


def read_catalogue(path: str | Path) -> dict[str, np.ndarray]:
    """Read a catalogue of anyone's: Parquet (a file or a directory of them), FITS table, CSV.

    Columns keep their names, but for identity, position and field, which get ours whatever their case and
    usual spelling. Without an identity the rows are numbered from 1.

    Returns
    -------
    dict
        Columns of numbers, bool or text, ``(N,)`` each.

    Raises
    ------
    InputError
        Unreadable, no positions, or an identity that occurs twice.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such catalogue; check the path")
    columns = _parquet(path) if path.is_dir() or path.suffix in (".parquet", ".pq") else _table(path)
    columns = _with_our_names(columns)
    if not ({"ra", "dec"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        raise InputError(f"{path}: no ra and dec, nor x and y; it has {', '.join(list(columns)[:12])}")
    number = len(next(iter(columns.values())))
    if number == 0:
        raise InputError(f"{path}: the catalogue has no rows")
    identity = columns.setdefault("object_id", np.arange(1, number + 1, dtype=np.int64))
    if identity.dtype.kind in "u":
        columns["object_id"] = identity = identity.astype(np.int64)
    if identity.dtype.kind not in "iU":
        raise InputError(f"{path}: object_id must be whole numbers or text, not {identity.dtype}")
    values, counts = np.unique(identity, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{path}: object_id {values[counts > 1][0]} occurs {counts.max()} times; make it unique"
        )
    return columns


def _parquet(path: Path) -> dict[str, np.ndarray]:
    import pyarrow.dataset as ds

    try:
        table = ds.dataset(path, format="parquet", exclude_invalid_files=path.is_dir()).to_table()
        return {name: _values(table.column(name)) for name in table.column_names if _is_usable(table, name)}
    except Exception as error:  # names and values of damaged files are decoded when they are asked for
        raise InputError(f"{path}: not a readable Parquet catalogue ({str(error)[:160]})") from error


def _is_usable(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(test(kind) for test in (*tests, pa.types.is_boolean))


def _values(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(column.to_pylist(), dtype=str)
    return column.to_numpy()


def _table(path: Path) -> dict[str, np.ndarray]:
    from astropy.table import Table

    from deepfits.survey.fitsfile import quiet

    name = path.name.lower()
    if not name.endswith(_FITS + _TEXT):
        raise InputError(f"{path}: a catalogue must be Parquet, a FITS table, CSV or ECSV")
    reader = (
        {"format": "fits"}
        if name.endswith(_FITS)
        else {"format": "ascii.ecsv" if name.endswith("ecsv") else "csv"}
    )
    try:
        with quiet():
            table = Table.read(path, **reader)
    except Exception as error:  # the table readers raise many kinds on damaged files
        raise InputError(f"{path}: not a readable catalogue ({str(error)[:160]})") from error
    out = {}
    for column in table.colnames:
        values = table[column]
        if values.ndim != 1 or values.dtype.kind not in "iufbUS":
            continue
        if hasattr(values, "filled"):
            values = (
                values.astype(float).filled(np.nan)
                if values.dtype.kind in "iuf" and values.mask.any()
                else values.filled()
            )
        array = np.asarray(values)
        out[column] = (
            array.astype(str) if array.dtype.kind == "S" else array.astype(array.dtype.newbyteorder("="))
        )
    return out


def _with_our_names(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    by_lower = {name.lower(): name for name in reversed(list(columns))}
    renamed = {}
    for ours, aliases in _ALIASES.items():
        found = next((by_lower[a] for a in aliases if a in by_lower), None)
        if found is not None and ours not in columns:
            renamed[found] = ours
    return {renamed.get(name, name): values for name, values in columns.items()}
