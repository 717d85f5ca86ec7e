"""Reading of Parquet files, Parquet datasets and Feather; conversion between Arrow and NumPy columns."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepfits.errors import InputError, naming
from deepfits.tables.entries import as_numbers
from deepfits.tables.table import (
    INFO,
    Columns,
    Table,
    as_info,
    plain_array,
    require_distinct,
    truth_with_gaps,
    whole_with_gaps,
)

_TEXT = ("string", "large_string", "binary", "large_binary", "fixed_size_binary")
STREAM = b"\xff\xff\xff\xff"
"""First bytes of an Arrow IPC stream, which Polars and Hugging Face's datasets write."""
MOST_OF_SMALL_FILES = 4 << 30
"""Bytes that even a tiny Parquet file may unpack to, since constant columns compress without limit."""
VERSIONED = ("_delta_log", "metadata/*.metadata.json", ".hoodie", "_versions")
"""What tables of Delta Lake, Iceberg, Hudi and Lance contain, in this order."""


def parquet_files(directory: Path) -> list[Path]:
    """Return the files of a dataset: our own ``shard-*.parquet``, or those of a HATS or Hive layout."""
    if any(next(directory.glob(pattern), None) for pattern in VERSIONED):
        raise InputError(
            f"{directory}: a table of Delta Lake, Iceberg, Hudi or Lance, whose files also hold rows that "
            "were replaced or deleted; write it as Parquet with a program that reads it"
        )
    collection = directory / "collection.properties"
    if collection.is_file():
        main = re.search(r"^hats_primary_table_url\s*=\s*(\S+)", collection.read_text(encoding="utf-8"), re.M)
        if main is not None and (directory / main[1]).resolve().parent == directory.resolve():
            return parquet_files(directory / main[1])
    if (directory / "dataset").is_dir() and any(directory.glob("*properties")):  # HATS: statistics lie beside
        return parquet_files(directory / "dataset")
    files = sorted(directory.glob("shard-*.parquet")) or [
        file
        for file in sorted(p for e in ("parquet", "pq", "parq") for p in directory.rglob(f"*.{e}"))
        if not any(part.startswith(("_", ".")) for part in file.relative_to(directory).parts)
        and file.name != "data_thumbnail.parquet"
    ]
    if not files:
        raise InputError(
            f"{directory}: no .parquet file in this directory; give the directory or file of the table"
        )
    for file in files:
        if not file.is_file():  # opening a pipe would wait forever
            raise InputError(f"{file}: is not a regular file; remove it and make it again")
    return files


def read_parquet(
    files: list[Path], where: Path, columns: Sequence[str] | None, unpacked: bytes | None = None
) -> pa.Table:
    """Read files that have the same columns as one Arrow table, or only its `columns`.

    `unpacked` is the content of the only file, if it was packed.
    """
    parts = []
    for file in files:
        part = pq.ParquetFile(file if unpacked is None else BytesIO(unpacked))
        size = file.stat().st_size if unpacked is None else len(unpacked)
        rows = part.metadata.num_rows
        require_credible(rows * part.metadata.num_columns, f"{rows} rows", size, file)
        content = _flat(part.read(columns=list(columns) if columns else None), file)
        for name, value in _partition_of(file, where).items():
            if name not in content.column_names and name in (columns or (name,)):
                content = content.append_column(name, pa.array([value] * len(content), pa.large_string()))
        parts.append(content)
        if set(parts[-1].column_names) != set(parts[0].column_names):
            raise InputError(
                f"{file}: columns differ from those of {files[0]}; these files are not one table, give one"
            )
    same = [p.select(parts[0].column_names) for p in parts]
    with naming(where, "a column has other types in other files", "write all files with the same types"):
        return pa.concat_tables(same, promote_options="permissive")


def require_credible(values: int, words: str, size: int, where: Path) -> None:
    """Raise `InputError` if a file declares more values, called `words`, than its size in bytes allows."""
    if 8 * values > max(1000 * size, MOST_OF_SMALL_FILES):
        raise InputError(f"{where}: declares {words} in a file of {size} bytes")


def _partition_of(file: Path, directory: Path) -> dict[str, str]:
    """Return the columns that only the names of subdirectories contain, as in ``field=COSMOS`` (Hive).

    Those of HATS, which number cells of the sky, are left out.
    """
    parts = file.relative_to(directory).parts[:-1] if file != directory else ()
    pairs = [part.partition("=") for part in parts if "=" in part]
    values = {name: unquote(value) for name, _, value in pairs if name not in ("Norder", "Dir", "Npix")}
    return {name: "" if value == "__HIVE_DEFAULT_PARTITION__" else value for name, value in values.items()}


def read_feather(source: Path | BytesIO, where: Path, columns: Sequence[str] | None) -> Table:
    """Read an Arrow IPC file (Feather) or stream, or only its `columns`."""
    import pyarrow.feather

    with source.open("rb") if isinstance(source, Path) else source as file:
        if file.read(len(STREAM)) == STREAM:
            file.seek(0)
            whole = pa.ipc.open_stream(file).read_all()
            return table_from_arrow(whole.select(list(columns)) if columns else whole, where)
        file.seek(0)
        return table_from_arrow(pyarrow.feather.read_table(file, columns=columns and list(columns)), where)


def table_from_arrow(table: Any, where: Path) -> Table:
    """Convert an Arrow table to a `Table`, with its units and our metadata.

    Columns that nothing else refers to are released one by one, so that large ones are in memory once.
    """
    table = _flat(table, where)
    metadata = table.schema.metadata or {}
    out = Table(
        where=str(where),
        columns=_range_index(metadata, table.num_rows),
        units=_astropy_units(metadata.get(b"table_meta_yaml", b"")),
        info=as_info(metadata.get(INFO.encode(), b"{}")),
    )
    for entry in table.schema:
        is_index = entry.name.startswith("__index_level_") and "index" not in table.column_names
        name = "index" if is_index else entry.name  # of pandas, without a name
        try:
            column, table = table.column(entry.name), table.drop_columns(entry.name)
            out.columns[name] = from_arrow(column)
        except TypeError as error:
            out.unused[name] = str(error) or str(entry.type)
            continue
        if unit := (entry.metadata or {}).get(b"unit"):
            out.units[name] = unit.decode()
    return out


def _astropy_units(metadata: bytes) -> dict[str, str]:
    """Return the units that astropy and Rubin's butler write into the metadata of a Parquet file."""
    from astropy.table.meta import YamlParseError, get_header_from_yaml

    try:
        described = get_header_from_yaml(metadata.decode().split("\n"))["datatype"] if metadata else []
    except (YamlParseError, UnicodeDecodeError, KeyError):
        return {}
    return {str(column["name"]): str(column["unit"]) for column in described if column.get("unit")}


def _range_index(metadata: Mapping[bytes, bytes], number: int) -> Columns:
    """Return pandas' index if it is a named range, which is stored in the metadata only."""
    indices = as_info(metadata.get(b"pandas", b"{}")).get("index_columns", [])
    for index in indices if isinstance(indices, list) else []:
        if isinstance(index, dict) and index.get("kind") == "range" and index.get("name"):
            values = np.arange(index["start"], index["stop"], index["step"])
            return {str(index["name"]): values} if len(values) == number else {}
    return {}


def _flat(table: Any, where: Path) -> Any:
    """Replace categories by their values, all string types by one, and structs by columns ``NAME.FIELD``."""
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    require_distinct(table.column_names, where)
    for index, entry in enumerate(table.schema):
        kind = entry.type.value_type if pa.types.is_dictionary(entry.type) else entry.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
            kind = pa.large_string()
        if kind != entry.type:
            column = table.column(index)
            if pa.types.is_dictionary(entry.type):  # Arrow cannot take from views, which Polars writes
                codes = [(part.indices, part.dictionary.cast(kind)) for part in column.chunks]
                column = pa.chunked_array([words.take(code) for code, words in codes], kind)
            table = table.set_column(index, entry.with_type(kind), column.cast(kind))
    return table


def to_arrow(values: np.ndarray) -> pa.Array:
    """Convert values ``(N,)`` or ``(N, L)`` to Arrow, the latter as fixed-size lists."""
    values = np.asarray(values)
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def from_arrow(column: Any) -> np.ndarray:
    """Convert an Arrow column to NumPy, ``(N,)`` or ``(N, L)``, with missing values as in `Table`.

    Raise `TypeError` for unsupported types.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return from_arrow(column.cast(kind.value_type))
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        return plain_array(_lists(column))
    gap = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), dtype=bool)
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        column = column.cast(pa.string())
        kind = column.type
    if str(kind).partition("[")[0] in _TEXT:
        return plain_array(np.array(column.to_pylist(), dtype=object))
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_decimal(kind):
        values = column.to_pylist()
        if kind.scale > 0:
            return np.array([np.nan if value is None else float(value) for value in values])
        return as_numbers(
            pa.array(["" if value is None else f"{int(value)}" for value in values], pa.string())
        )
    if types.is_boolean(kind):
        return truth_with_gaps(np.array(column.fill_null(False).to_numpy(zero_copy_only=False)), gap)
    if types.is_integer(kind):
        return whole_with_gaps(np.array(column.fill_null(0).to_numpy(zero_copy_only=False)), gap)
    if types.is_floating(kind):
        values = np.array(column.to_numpy(zero_copy_only=False))
        return values.astype(np.float32) if values.dtype == np.float16 else values
    raise TypeError


def _lists(column: Any) -> np.ndarray:
    """Convert lists of equal length to ``(N, L)``, with NaN for missing ones; `TypeError` for others."""
    kind = column.type.value_type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise TypeError
    is_valid = np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), dtype=bool)
    valid = column.filter(pa.array(is_valid))
    if pa.types.is_fixed_size_list(column.type):
        length = column.type.list_size
    else:
        lengths = set(pc.list_value_length(valid).to_pylist()) or {0}
        if len(lengths) > 1:
            raise TypeError
        length = lengths.pop()
    flat = np.array(valid.flatten().to_numpy(zero_copy_only=False)).reshape(len(valid), length)
    if is_valid.all():
        return flat
    out = np.full((len(column), length), np.nan, dtype=flat.dtype if flat.dtype.kind == "f" else float)
    out[is_valid] = flat
    return out
