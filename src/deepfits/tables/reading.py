"""Reading of tables in any format: Parquet, FITS, VOTable, HDF5, ECSV or text, recognised by content."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, naming
from deepfits.files import parse_json, read_arrays, split_table_path
from deepfits.tables.conditions import as_truth
from deepfits.tables.entries import GAPS
from deepfits.tables.fits_votable import read_fits, read_hdu, read_votable
from deepfits.tables.hdf5_tables import read_hdf5
from deepfits.tables.identities import identity_name
from deepfits.tables.names import position_names
from deepfits.tables.parquet import STREAM, parquet_files, read_feather, read_parquet, table_from_arrow
from deepfits.tables.sky import with_file_conventions
from deepfits.tables.table import Columns, Table, from_astropy, plain_array, require_distinct
from deepfits.tables.text import MAX_RATIO, PACKED, UNPACKED_BY_ASTROPY, ZIP, decode, unpack
from deepfits.tables.text_formats import read_if_of_objects, read_text_table

TEXT_ENDINGS = (
    "csv", "tsv", "txt", "dat", "cat", "ecsv", "tab", "tbl", "asc", "ascii", "lis", "list", "mrt", "reg",
    "out", "zout", "bpz", "tex", "tdat", "tst",
)  # fmt: skip
_QUOTED_NAME = re.compile(
    r"""\A\s*(?:\[(?P<cas>[^\]]+)\]:\w+|#?\s*(["'`]?)(?P<bare>.*?)\2)\s*\Z""", re.DOTALL
)  # MAST's CasJobs writes [ra]:Float
_NO_UNITS = (*GAPS, "unitless", "dimensionless")
_SPREADSHEET = re.compile("xls.?|ods|numbers")
_OTHERS = {
    ZIP: "a spreadsheet; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save the sheet as CSV",  # of Excel before 2007
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"\x1f\x9d": "packed by `compress`; unpack it first, with `gunzip`",
    b"ustar": "a packed TAR archive; unpack it first, with `tar -xf {name}`",
    b"\x89HDF": "a packed HDF5 file; unpack it first",
    b"SQLite format 3": "an SQLite database; export its table: "
    "sqlite3 -csv -header {name} 'select * from TABLE' > table.csv",
    b"root\0": "a ROOT file; write its tree as a table, with uproot and pandas",
    b"\x80": "a pickle, which may run any program; write the table as Parquet or FITS",
    b"SR\0": "an IDL save file; write the table as FITS, with mwrfits or scipy.io.readsav",
    b"MATLAB": "a MATLAB file; write the table as CSV, with writetable",
}  # fmt: skip
"""First bytes of files of other kinds (in TAR after the first name), and what to do with them."""


def read_table(path: str | Path, *, what: str = "table", columns: Sequence[str] | None = None) -> Columns:
    """Return the columns of a table; see `read`."""
    return read(path, what=what, columns=columns).columns


def read(
    path: str | Path, *, what: str = "table", columns: Sequence[str] | None = None, wanted: Sequence[str] = ()
) -> Table:
    """Read a table: Parquet (a file, or a directory of files), FITS, VOTable, HDF5, ECSV, or text.

    ``file.fits[NAME]`` or ``file.h5[path]`` selects one of several tables in a file; otherwise, the `wanted`
    columns help to choose it. Only `columns` are read, if the format allows it (Parquet, Feather). Raise
    `InputError`, which calls the table `what`, if the file does not exist, is damaged, has an unknown format,
    or contains several plausible tables.
    """
    path, selection = split_table_path(Path(path))
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    with naming(path, f"cannot read this {what}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the readers warn of unusual units and deviations from standards
        if path.is_dir():
            return _normalized(table_from_arrow(read_parquet(parquet_files(path), path, columns), path))
        return _normalized(_read_file(path, selection, columns, wanted))


def from_memory(given: Any, where: str) -> Table:
    """Treat a table of astropy, FITS, pandas, Polars or Arrow, or a mapping of columns, like a file.

    Tables that are not computed yet (LSDB, Dask, lazy ones of Polars) are. Errors name `where`.
    """
    import pyarrow as pa
    from astropy.io import fits
    from astropy.table import Table as AstropyTable

    with naming(where, f"{type(given).__name__} is not a table", "give a table, or the path of one"):
        for finish in ("collect", "compute"):
            given = getattr(given, finish)() if hasattr(given, finish) else given
        is_pandas = hasattr(given, "reset_index")
        if hasattr(given, "__arrow_c_stream__") and not is_pandas:
            return _normalized(table_from_arrow(pa.table(given), Path(where)))
        if is_pandas:
            further = [n for n in given.index.names if n is not None and n not in given.columns]
            given = given.reset_index(further) if further else given
            names = [str(name) for name in given.columns]
            require_distinct(names, where)
            arrays, unused = {}, {}
            for number, name in enumerate(names):
                try:
                    arrays[name] = _arrow_array(given.iloc[:, number])
                except pa.ArrowNotImplementedError:  # complex numbers
                    unused[name] = str(given.dtypes.iloc[number])
            table = table_from_arrow(pa.table(arrays), Path(where))
            return _normalized(replace(table, unused=table.unused | unused))
        given = fits.BinTableHDU(given) if isinstance(given, fits.FITS_rec) else given
        if isinstance(given, fits.BinTableHDU):
            return _normalized(read_hdu(given.copy(), where))
        return _normalized(from_astropy(AstropyTable(given), where))


def _normalized(table: Table) -> Table:
    """Apply masks stored as columns: HSC's ``NAME_isnull``, and astropy's ``NAME.mask`` in HDF5.

    Names lose blanks and quotes around them, and units that mean none (``-``, ``None``, ``unitless``) are
    dropped; for positions and identities see `with_file_conventions`.
    """
    table = _with_bare_names(table)
    for name, values in table.columns.items():
        for mark in (table.columns.get(f"{name}{end}") for end in ("_isnull", ".mask")):
            is_gap = None if mark is None else as_truth(mark)
            if is_gap is not None and values.shape == is_gap.shape:
                table.columns[name] = plain_array(np.ma.array(table.columns[name], mask=is_gap))
    units = {name: unit for name, unit in table.units.items() if unit.strip().lower() not in _NO_UNITS}
    return with_file_conventions(replace(table, units=units))


def _with_bare_names(table: Table) -> Table:
    """Remove blanks and quotes around names, and the mark of a comment before them, unless two then agree.

    pandas keeps those of ``# id, ra``, and Bagpipes writes ``#ID``.
    """
    bare = {
        name: _QUOTED_NAME.sub(r"\g<cas>\g<bare>", name) or name for name in (*table.columns, *table.unused)
    }
    if len(set(bare.values())) < len(bare) or all(name == new for name, new in bare.items()):
        return table
    parts = ("columns", "units", "ucds", "frames", "unused")
    renamed: dict[str, Any] = {
        part: {bare.get(name, name): value for name, value in getattr(table, part).items()} for part in parts
    }
    return replace(table, **renamed)


def exists(path: str | Path) -> bool:
    """Return whether the file exists; a selection of one of its tables is ignored."""
    return split_table_path(Path(path))[0].exists()


def _read_file(
    path: Path, selection: str | None, columns: Sequence[str] | None, wanted: Sequence[str]
) -> Table:
    with path.open("rb") as handle:
        head = handle.read(4096)
    ending, content = path.suffix.lower().lstrip("."), None
    if ending == "npz" and head.startswith(ZIP):
        return _read_arrays(path)
    is_zip = head.startswith(ZIP) and not _SPREADSHEET.fullmatch(ending)
    is_fits = re.search(r"\.fits?\.\w+$", path.name.lower()) and head.startswith(UNPACKED_BY_ASTROPY)
    if is_zip or (head.startswith(tuple(PACKED)) and not is_fits):
        content, name = unpack(path)
        head, ending = content[:4096], Path(name).suffix.lower().lstrip(".")
    source: Path | BytesIO = path if content is None else BytesIO(content)
    if head.startswith(b"PAR1"):
        return table_from_arrow(read_parquet([path], path, columns, content), path)
    if head.startswith((b"ARROW1", b"FEA1", STREAM)):
        return read_feather(source, path, columns)
    if head.startswith(b"\x93NUMPY"):
        from astropy.table import Table as AstropyTable

        return from_astropy(AstropyTable(np.load(source, allow_pickle=False)), str(path))
    if head.startswith(b"\x89HDF") and content is None:
        return read_hdf5(path, selection, wanted)
    for magic, what in _OTHERS.items():
        if head.startswith(magic, 257 if magic == b"ustar" else 0):
            raise InputError(f"{path}: {what.format(name=path.name)}")
    is_text = head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" not in head
    if is_fits or head.startswith(b"SIMPLE  ") or (".fit" in path.name.lower() and not is_text):
        return read_fits(source, path, selection, wanted)
    if content is None:
        content = path.read_bytes() if is_text else b""
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if bare.startswith(b"<") and b"VOTABLE" in head.upper():
        return read_votable(path, content, selection, wanted)
    if re.match(rb"<(?:!doctype|html|\?xml)\b", bare, re.IGNORECASE):
        raise InputError(
            f"{path}: a web page, not a table, possibly an error or log-in page; download it again"
        )
    if ending in ("json", "jsonl", "ndjson"):
        return _read_json(path, decode(content))
    text = decode(content) if is_text else ""
    if ending not in TEXT_ENDINGS or not is_text:
        if (table := read_if_of_objects(path, text)) is not None:
            return table
        raise InputError(
            f"{path}: not a table in a known format, by extension or content; use .parquet, .fits, "
            ".ecsv, .csv, .txt, .vot or .h5 (pandas and astropy convert many other formats)"
        )
    if ending == "ecsv" and not text.lstrip().startswith("# %ECSV"):
        raise InputError(f"{path}: not ECSV, which begins with '# %ECSV 1.0'; rename it to .csv or .txt")
    return read_text_table(path, text)


def _read_arrays(path: Path) -> Table:
    """Read the columns that NumPy's `savez` writes: arrays of equal length, or one structured array."""
    from astropy.table import Table as AstropyTable

    columns = read_arrays(path, what="table", remedy="write it again", max_ratio=MAX_RATIO)
    first = next(iter(columns.values()), np.zeros(0))
    if len(columns) == 1 and first.dtype.names:
        return from_astropy(AstropyTable(first), str(path))
    if len({array.shape[:1] for array in columns.values()}) != 1 or not first.ndim:
        raise InputError(
            f"{path}: arrays of different lengths, not the columns of a table: "
            f"{', '.join(f'{name} {array.shape}' for name, array in list(columns.items())[:8])}"
        )
    return from_astropy(AstropyTable(columns), str(path))


def _read_json(path: Path, text: str) -> Table:
    """Read JSON as pandas and web services write it: rows, in a list or one per line, or columns."""
    import pyarrow as pa

    lines = text.splitlines()
    is_by_line = lines[0].rstrip().endswith("}") and len(lines) > 1
    text = f"[{','.join(filter(str.strip, lines))}]" if is_by_line else text
    content = parse_json(text, where=path, allow_nan=True)
    if isinstance(content, list) and content[:1] and _json_tables(content[0]):
        content = content[0]  # SkyServer writes [{"TableName": "Table1", "Rows": [{...}, ...]}]
    rows, labels = _json_rows(content) if isinstance(content, dict) else (content, [])
    if rows is not None:
        if not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: rows without column names; write them as records, or as CSV")
        names = list(dict.fromkeys(name for row in rows for name in row))
        content = {name: [row.get(name) for row in rows] for name in names}
    if "index" not in content and [str(label) for label in labels] != [str(n) for n in range(len(labels))]:
        content["index"] = labels
    return table_from_arrow(pa.table({name: _arrow_array(values) for name, values in content.items()}), path)


def _arrow_array(values: Any) -> Any:
    """Convert a column to Arrow; numbers among text, and integers above int64, become text."""
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None or value != value else str(value) for value in values])


def _json_rows(content: dict[str, Any]) -> tuple[list[Any] | None, list[Any]]:
    """Return the rows of a JSON object and their labels; None for the rows if it contains columns."""
    if heads := _heads(content):
        names = [head["name"] if isinstance(head, dict) else head for head in heads]
        rows = content["data"]
        named = [dict(zip(names, row, strict=True)) if isinstance(row, list) else row for row in rows]
        return named, content.get("index", [])
    if content and all(isinstance(value, dict) for value in content.values()):
        outer, inner = list(content), list(dict.fromkeys(key for part in content.values() for key in part))
        if _are_rows(outer, inner):
            return list(content.values()), outer
        return [{name: content[name].get(row) for name in outer} for row in inner], inner
    if not any(isinstance(value, (list, dict)) for value in content.values()):
        return [content], []  # the only row of JSON Lines
    return next(iter(_json_tables(content)), None), []


def _json_tables(content: Any) -> list[list[Any]]:
    """Return the rows that a JSON object lists beside metadata, if all else in it is no list."""
    values = content.values() if isinstance(content, dict) else ()
    lists = [value for value in values if isinstance(value, list)]
    return lists if len(lists) == 1 and lists[0] and all(isinstance(row, dict) for row in lists[0]) else []


def _heads(content: dict[str, Any]) -> list[Any]:
    """Return the headings of the columns of rows called ``data``; empty if ``data`` is itself a column."""
    rows, schema = content.get("data"), content.get("schema")
    if not isinstance(rows, list) or not all(isinstance(row, (list, dict)) for row in rows):
        return []
    stated = [content.get(key) for key in ("columns", "fields", "metadata")]
    stated += [schema.get("fields")] if isinstance(schema, dict) else []
    return next((heads for heads in stated if isinstance(heads, list)), [])


def _are_rows(outer: list[str], inner: list[str]) -> bool:
    """Return whether the outer keys of nested objects are rows and the inner ones are columns."""
    if any(position_names(keys) or identity_name(keys) for keys in (outer, inner)):
        return bool(position_names(inner) or identity_name(inner))
    return all(map(str.isdigit, outer)) and not all(map(str.isdigit, inner))
