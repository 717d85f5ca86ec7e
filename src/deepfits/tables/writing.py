"""Writing of tables, in the format of the file extension."""

import gzip
import json
import re
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.errors import InputError
from deepfits.files import writing, writing_hdf5
from deepfits.tables.parquet import to_arrow
from deepfits.tables.table import INFO

ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet", ".fits": "fits", ".fit": "fits", ".fits.gz": "fits",
    ".csv": "csv", ".ecsv": "ecsv", ".vot": "votable", ".votable": "votable", ".xml": "votable",
    ".h5": "hdf5", ".hdf5": "hdf5",
}  # fmt: skip

LONGEST_IN_FITS = 68  # number of characters of a header card, which a column's name must fit into
ROWS, BLOCK = 16_384, 2880  # rows of FITS that are converted together, and bytes of a record of the standard
MOST_IN_FITS = 999  # number of columns that the FITS standard allows


def format_of(path: str | Path) -> str:
    """Return the format of a file extension, which must be one of `ENDINGS`.

    Examples
    --------
    >>> format_of("photo-z.FITS")
    'fits'
    """
    name = Path(path).name.lower()
    kind = next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)
    if kind is None:
        raise InputError(f"{path}: unknown table format; use {', '.join(ENDINGS)}")
    return kind


def write_table(
    path: str | Path,
    columns: Mapping[str, np.ndarray],
    *,
    info: Mapping[str, Any] | None = None,
    describe: Callable[[str], Any] | None = None,
) -> Path:
    """Write a table atomically, in the format of the file extension.

    Columns are ``(N,)`` or ``(N, L)`` each; the latter are written to CSV as L columns. `info` describes the
    table, and is restored by `read` (except from CSV); `describe` returns ``unit``, ``ucd`` and ``words`` (a
    description) of a column. Raise `InputError` for an unknown extension, or a format that cannot store these
    columns (`require_storable`).
    """
    path = Path(path)
    format = format_of(path)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    require_storable(path, arrays)
    with writing(path) as temporary:
        if format == "parquet":
            pq.write_table(
                to_arrow_table(arrays, info=info, describe=describe), temporary, compression="zstd"
            )
        else:
            write_astropy(temporary, arrays, format, info=info, describe=describe)
    return path


def require_storable(path: str | Path, columns: Mapping[str, np.ndarray]) -> None:
    """Check that FITS, if that is the format of `path`, can store the columns.

    The `InputError` for too many columns, or for the first name or text beyond ASCII, names other formats.
    """
    name = Path(path).name
    if format_of(name) != "fits":
        return
    if len(columns) > MOST_IN_FITS:
        raise InputError(
            f"{name}: FITS allows {MOST_IN_FITS} columns, not {len(columns)}; select some (columns=...), or "
            "use .parquet or .ecsv"
        )
    for column in columns:
        if not (column.isascii() and column.isprintable() and len(column) <= LONGEST_IN_FITS):
            raise InputError(
                f"{name}: FITS allows only names of up to {LONGEST_IN_FITS} ASCII characters, not "
                f"{column!r}; rename it, leave it out (columns=...), or use .parquet or .ecsv"
            )
    for column, values in columns.items():
        text = values.ravel().tolist() if values.dtype.kind == "U" else []
        if (entry := next((entry for entry in text if not entry.isascii()), None)) is not None:
            raise InputError(
                f"{name}: FITS allows only ASCII in text, not {entry[:20]!r} in column {column!r}; use "
                ".parquet or .ecsv"
            )


def to_arrow_table(
    columns: Mapping[str, np.ndarray],
    *,
    info: Mapping[str, Any] | None = None,
    describe: Callable[[str], Any] | None = None,
) -> pa.Table:
    """Convert columns to an Arrow table, ``(N, L)`` to fixed-size lists."""
    fields, arrays = [], []
    for name, values in columns.items():
        arrays.append(to_arrow(values))
        fields.append(pa.field(name, arrays[-1].type, metadata=_field_metadata(name, describe)))
    return pa.table(arrays, schema=pa.schema(fields, metadata=_arrow_metadata(columns, info, describe)))


def _arrow_metadata(
    columns: Mapping[str, np.ndarray], info: Mapping[str, Any] | None, describe: Callable[[str], Any] | None
) -> dict[str, str]:
    """Return the metadata of a Parquet file: `info`, and the columns' units, UCDs and descriptions.

    astropy reads the latter from YAML of its own, TOPCAT and other tools from a VOTable without data, as in
    the IVOA's note on Parquet.
    """
    metadata = {} if info is None else {INFO: json.dumps(info)}
    if describe is None:
        return metadata
    from astropy.table.meta import get_yaml_from_table

    table, _ = _described({name: values[:0] for name, values in columns.items()}, "votable", describe)
    content = BytesIO()
    _write_votable(table, content)
    fields = re.sub(r"(?<=[^>\s])\n\s*(?=[^<\s])", " ", content.getvalue().decode())  # long descriptions
    return metadata | {
        "table_meta_yaml": "\n".join(get_yaml_from_table(table)),
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": fields,
    }


def _field_metadata(name: str, describe: Callable[[str], Any] | None) -> dict[str, str] | None:
    """Return unit, UCD and description of a column as Parquet field metadata."""
    if describe is None:
        return None
    about = describe(name)
    described = {"unit": about.unit, "ucd": about.ucd, "description": about.words}
    return {key: value for key, value in described.items() if value} or None


def write_astropy(
    path: Path,
    columns: Mapping[str, np.ndarray],
    format: str,
    *,
    info: Mapping[str, Any] | None = None,
    describe: Callable[[str], Any] | None = None,
) -> None:
    """Write FITS, VOTable, ECSV, CSV or HDF5 through astropy."""
    if format == "csv":
        columns, describe = _flat(columns), None  # CSV has no place for units and descriptions
    table, described = _described(columns, format, describe)
    if format == "fits":
        _write_fits(table, path, info, described)
    elif format == "votable":
        _write_votable(table, str(path), info)
    else:
        if info is not None and format != "csv":
            table.meta[INFO] = json.dumps(info)
        if format == "hdf5":
            with writing_hdf5(path) as file:
                try:
                    table.write(file, format="hdf5", path="table", serialize_meta=True)
                except ValueError as error:
                    if "header message is too large" not in str(error):
                        raise
                    raise InputError(
                        f"{path.name}: HDF5 has no room for the names and types of {len(columns)} columns; "
                        "select some (columns=...), or use .parquet or .ecsv"
                    ) from error
        else:
            with path.open("w", encoding="utf-8", newline="") as text:  # astropy would take the locale's
                table.write(text, format=f"ascii.{format}")


def _described(
    columns: Mapping[str, np.ndarray], format: str, describe: Callable[[str], Any] | None
) -> tuple[Any, dict[str, Any]]:
    """Return an astropy table with units and descriptions, and what `describe` says of each column."""
    from astropy.table import Table

    table = Table({name: _storable(values, format) for name, values in columns.items()}, copy=False)
    described = {name: describe(name) for name in table.colnames} if describe is not None else {}
    for name, about in described.items():
        table[name].unit = (about.unit or None) if format != "fits" else None  # whatever astropy makes of it
        table[name].description = about.words or None
        if about.ucd and format in ("votable", "ecsv"):
            table[name].info.meta = {"ucd": about.ucd}
    return table, described


def _write_votable(table: Any, target: str | BytesIO, info: Mapping[str, Any] | None = None) -> None:
    from astropy.io import votable
    from astropy.units import UnitsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", votable.exceptions.W03)  # an ID is generated; the name is kept
        warnings.simplefilter("ignore", UnitsWarning)  # about Angstrom, which every reader knows
        warnings.simplefilter("ignore", votable.exceptions.W50)  # and nanomaggies of a user's table
        file = votable.from_table(table)
        if info is not None:
            next(file.iter_tables()).description = json.dumps(info)
        votable.writeto(file, target, tabledata_format="binary2")


def _flat(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace each column of lists by one column per element, the inverse of `with_list`."""
    out: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if values.ndim == 1:
            out[name] = values
        else:
            out |= {f"{name}_{number}": part for number, part in enumerate(values.T)}
    return out


def _storable(values: np.ndarray, format: str) -> np.ndarray:
    """Convert values to a type that the format can store; int8, uint64 and float16 are not universal."""
    if format == "votable" and values.dtype.kind == "u":
        largest = np.iinfo(np.int64).max
        return values.astype(str) if len(values) and values.max() > largest else values.astype(np.int64)
    if format in ("votable", "fits") and values.dtype == np.int8:  # which FITS uses for booleans
        return values.astype(np.int16)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if format == "csv" and values.dtype.kind == "f":  # empty: Polars and others read nan as text
        return np.ma.masked_where(np.isnan(values), values)
    if format == "hdf5" and values.dtype.kind == "U":
        return np.char.encode(values, "utf-8") if len(values) else values.astype("S1")
    return values


def _write_fits(table: Any, path: Path, info: Mapping[str, Any] | None, described: Mapping[str, Any]) -> None:
    """Write a FITS table, whose rows astropy converts `ROWS` at a time: it makes several copies."""
    from astropy.io import fits
    from astropy.units import Unit

    whole = fits.table_to_hdu(table[:0])
    for number, name in enumerate(table.colnames, start=1):
        about = described.get(name)
        if about and about.ucd:
            whole.header[f"TUCD{number}"] = about.ucd
        if about and about.words:
            whole.header[f"TCOMM{number}"] = about.words
        unit = about.unit if about else ""
        if not unit.isascii():  # μJy, Å
            unit = str(Unit(unit, parse_strict="silent"))
        if unit and unit.isascii():
            whole.columns[name].unit = unit
    if info is not None:
        whole.header[INFO.upper()] = json.dumps(info)
    whole.header["NAXIS2"] = len(table)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write((fits.PrimaryHDU().header.tostring() + whole.header.tostring()).encode("ascii"))
        for start in range(0, len(table), ROWS):
            part, content = fits.table_to_hdu(table[start : start + ROWS]), BytesIO()
            part.writeto(content)
            size = part.header["NAXIS1"] * part.header["NAXIS2"]
            first = content.tell() - size - -size % BLOCK
            file.write(content.getbuffer()[first : first + size])
        file.write(bytes(-(whole.header["NAXIS1"] * len(table)) % BLOCK))
