"""Tables in: labels and features, from Parquet, FITS and CSV, as plain columns.

Shapes: N rows, L latent dimensions.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest

Columns = dict[str, np.ndarray]

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"^\s*([A-Za-z_][\w.\-]*)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*$")


def read_table(path: str | Path, *, what: str = "table", columns: Sequence[str] | None = None) -> Columns:
    """Read a table: Parquet (a file, or a directory of files), FITS (first table HDU), CSV or ECSV.

    Columns of lists (a latent) become ``(N, L)``. Missing numbers become NaN; integers with missing values
    become float64.

    Parameters
    ----------
    columns
        Read these alone, where the format can (Parquet).

    Raises
    ------
    InputError
        No such file, an ending that says no format, or a file that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    ending = "".join(path.suffixes[-2:]).lower()
    try:
        if path.is_dir() or ending.endswith((".parquet", ".pq")):
            return _read_parquet(path, columns)
        if ending.endswith((".fits", ".fit", ".fits.gz", ".csv", ".ecsv")):
            return _read_astropy(path, ending)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot read this {what} ({error})") from error
    raise InputError(f"{path}: the ending says no format that is known; use .parquet, .fits, .csv or .ecsv")


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"{path}: no .parquet file in this directory; give the directory that `deepfits fit` wrote"
        )
    tables = [pq.ParquetFile(file).read(columns=list(columns) if columns else None) for file in files]
    odd = [
        file
        for file, table in zip(files, tables, strict=True)
        if table.column_names != tables[0].column_names
    ]
    if odd:
        raise InputError(f"{odd[0]}: other columns than {files[0].name}; the files are not of one run")
    table = pa.concat_tables(tables).combine_chunks()
    return {name: _from_arrow(table.column(name)) for name in table.column_names}


def _from_arrow(column: Any) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        flat = column.combine_chunks()
        values = flat.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return np.array(["" if one is None else str(one) for one in column.to_pylist()])
    return column.to_numpy()


def _read_astropy(path: Path, ending: str) -> Columns:
    from astropy.table import Table

    if "fit" in ending:
        table = Table.read(path, format="fits", unit_parse_strict="silent")
    else:
        table = Table.read(path, format="ascii.ecsv" if ending.endswith("ecsv") else "ascii.csv")
    out: Columns = {}
    for name in table.colnames:
        column = table[name]
        if hasattr(column, "filled"):
            column = column.astype(float).filled(np.nan) if column.dtype.kind in "iuf" else column.filled()
        values = np.asarray(column)
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        out[name] = values.astype(values.dtype.newbyteorder("=")) if values.dtype.kind in "iufc" else values
    return out


def require_column(columns: Columns, name: str, where: str | Path) -> np.ndarray:
    """Return a column, or say which one was most likely meant."""
    if name not in columns:
        raise InputError(f"{where}: no column {name!r}; {nearest(name, columns)}")
    return columns[name]


def matches_conditions(columns: Columns, conditions: Sequence[str], where: str | Path) -> np.ndarray:
    """Say which rows satisfy all conditions: ``(N,)`` bool.

    Parameters
    ----------
    conditions
        Each ``COLUMN OP VALUE`` with OP one of >= <= == != > <, as ``"z_spec_flag >= 3"`` or
        ``"kind == galaxy"``; a column of bool is compared with ``true`` or ``false``.

    Raises
    ------
    InputError
        A condition that cannot be read, an unknown column, or a text where a number is needed.

    Examples
    --------
    >>> matches_conditions({"q": np.array([1, 3, 4])}, ["q >= 3"], "labels").tolist()
    [False, True, True]
    """
    number = len(next(iter(columns.values()))) if columns else 0
    keep = np.ones(number, dtype=bool)
    for condition in conditions:
        match = _CONDITION.match(condition)
        if match is None:
            raise InputError(f"condition {condition!r} is not COLUMN OP VALUE, as in 'z_spec_flag >= 3'")
        name, sign, text = match.groups()
        column = require_column(columns, name, where)
        keep &= np.asarray(_OPERATORS[sign](column, _as_kind(text, column, condition)), dtype=bool)
    return keep


def _as_kind(text: str, column: np.ndarray, condition: str) -> Any:
    if column.dtype.kind in "UO":
        return text.strip("'\"")
    if column.dtype.kind == "b":
        if text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        raise InputError(f"condition {condition!r}: the column holds true and false")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"condition {condition!r}: the column holds numbers, {text!r} is none") from None
