"""Reading of HDF5 tables: structured datasets, groups of columns, and the layouts of vaex and astropy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.candidates import Candidate, choose_table
from deepfits.tables.table import Table, decoded, from_astropy, plain_array

_OF_VAEX = {"data", "mask", "indices", "null_bitmap"}
"""Members of a group that is a column, as vaex writes it; text has the latter two."""


def read_hdf5(path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the selected table of an HDF5 file (see `choose_table`)."""
    import h5py

    from deepfits.hdf5 import opened, read_column

    with opened(path) as file:
        candidates = _hdf5_tables(file, path)
        chosen = choose_table(candidates, path, selection, wanted)
        member = file[chosen.key]
        if isinstance(member, h5py.Dataset):
            from astropy.table import Table as AstropyTable

            return from_astropy(AstropyTable.read(file, path=chosen.key, format="hdf5"), str(path))
        table = Table(where=str(path))
        for name in chosen.names:
            data, gaps = member[name], None
            if isinstance(data, h5py.Group):  # vaex
                if "indices" in data:
                    table.columns[name] = _text_of_vaex(data)
                    continue
                data, gaps = data["data"], data.get("mask")
            is_text = h5py.check_string_dtype(data.dtype) is not None
            if not is_text and data.dtype.kind not in "biuf":
                table.unused[name] = str(data.dtype)
                continue
            values = np.ma.array(read_column(data), mask=gaps is not None and read_column(gaps))
            for key in ("_FillValue", "missing_value") if not is_text else ():  # of netCDF
                values[np.isin(values.data, data.attrs.get(key, ()))] = np.ma.masked
            table.columns[name] = plain_array(values)
            unit = data.attrs.get("unit", data.attrs.get("units"))
            if isinstance(unit, (str, bytes)):
                table.units[name] = decoded(unit)
        return table


def _text_of_vaex(parts: Any) -> np.ndarray:
    """Return text, which vaex stores as Arrow does: all letters, and where each entry begins and ends."""
    import pyarrow as pa

    starts = np.ascontiguousarray(parts["indices"][()], dtype=np.int64)
    letters = np.ascontiguousarray(parts["data"][()], dtype=np.uint8)
    is_there = pa.py_buffer(parts["null_bitmap"][()].tobytes()) if "null_bitmap" in parts else None
    buffers = [is_there, pa.py_buffer(starts.tobytes()), pa.py_buffer(letters.tobytes())]
    text = pa.Array.from_buffers(pa.large_string(), len(starts) - 1, buffers)
    text.validate(full=True)
    return plain_array(np.array(text.to_pylist(), dtype=object))


def _hdf5_tables(file: Any, path: Path) -> list[Candidate]:
    """List structured datasets, and groups of datasets of equal length (columns), including vaex's."""
    import h5py

    from deepfits.hdf5 import local_object

    out: list[Candidate] = []
    seen: set[Any] = set()  # a group may contain itself

    def visit(group: Any, key: str, depth: int) -> None:
        columns: dict[str, int] = {}
        seen.add(group.id)
        if "pandas_type" in group.attrs or "pandas_version" in group.attrs:
            raise InputError(
                f"{path}: written by pandas' to_hdf, whose layout may hold pickles; use to_parquet"
            )
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.SoftLink):
                continue
            member = local_object(group, name, path)
            if isinstance(member, h5py.Group) and "data" in member and set(member) <= _OF_VAEX:
                parts = {part: local_object(member, part, path) for part in member}
                data_sets = [part for part in parts.values() if isinstance(part, h5py.Dataset)]
                if len(data_sets) == len(parts) and all(d.ndim == 1 and not d.dtype.names for d in data_sets):
                    columns[name] = len(parts["indices"]) - 1 if "indices" in parts else len(parts["data"])
                    continue
            if isinstance(member, h5py.Group):
                if member.id not in seen:
                    if depth >= 8:
                        raise InputError(f"{path}: {key}{name} is nested too deeply; move the table up")
                    visit(member, f"{key}{name}/", depth + 1)
                continue
            if not isinstance(member, h5py.Dataset):
                continue
            if member.dtype.names and member.ndim == 1:
                out.append(Candidate(f"{key}{name}", list(member.dtype.names), len(member)))
            elif member.ndim in (1, 2) and not name.endswith("__table_column_meta__"):
                columns[name] = len(member)
        if columns:
            lengths = list(columns.values())
            common = max(set(lengths), key=lengths.count)
            names = [name for name, length in columns.items() if length == common]
            out.append(Candidate(key or "/", names, common))

    visit(file, "", 0)
    return out
