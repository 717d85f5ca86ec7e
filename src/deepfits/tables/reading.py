"""Any table in: Parquet, FITS, VOTable, HDF5, ECSV and text, by the content rather than by the name."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, naming, nearest
from deepfits.files import parse_json, split_table_path
from deepfits.tables.sky import POSITIONS, identity_name
from deepfits.tables.text import Columns, decode, read_text, truth_with_gaps, unpack, whole_with_gaps

log = logging.getLogger(__name__)

INFO = "deepfits"
"""Key of what our own tables say of themselves, as JSON."""
TEXT_ENDINGS = (
    "csv", "tsv", "txt", "dat", "cat", "ecsv", "tab", "tbl", "asc", "ascii", "lis", "list", "mrt", "reg",
    "out", "zout", "bpz", "tex",
)  # fmt: skip
MOST_OF_SMALL_FILES = 4 << 30
"""Bytes that a Parquet file may unpack to however small it is: columns of one value pack without end."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_LIKELY_REDSHIFTS = (
    "z_spec", "zspec", "z", "specz", "spec_z", "redshift", "z_best", "zbest", "z_specz", "zs", "z_true",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a file holds.

    Attributes
    ----------
    columns
        ``(N,)`` numbers, truth values or text each, lists of one length ``(N, L)``. Gaps are NaN in floats
        and ``""`` in text; whole numbers with gaps are floats where those are exact, else text.
    units
        As the file says them.
    where
        The file, for messages.
    info
        What a table of ours says of itself.
    unused
        Columns that are neither, and what they are.
    """

    columns: Columns
    where: str
    units: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


def read_table(path: str | Path, *, what: str = "table", columns: Sequence[str] | None = None) -> Columns:
    """Return the columns of a table; see `read`."""
    return read(path, what=what, columns=columns).columns


def read(
    path: str | Path, *, what: str = "table", columns: Sequence[str] | None = None, wanted: Sequence[str] = ()
) -> Table:
    """Read a table of anybody's.

    Parameters
    ----------
    path
        Parquet (a file, or a directory of files), FITS, VOTable, HDF5, ECSV, or text; ``file.fits[NAME]``
        or ``file.h5[path]`` where a file holds several tables.
    what
        Named in errors.
    columns
        Read these alone, where the format can (Parquet).
    wanted
        Of several tables in a file, the one with these columns is meant.

    Raises
    ------
    InputError
        No such file, no format that is known, several tables that could be meant, or a damaged file.
    """
    path, selection = split_table_path(Path(path))
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    with naming(path, f"cannot read this {what}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the readers' remarks on units and deviations from standards
        if path.is_dir():
            return _without_marked(_read_parquet(_parquet_files(path), path, columns))
        return _without_marked(_read_file(path, selection, columns, wanted))


def _without_marked(table: Table) -> Table:
    """Make gaps of what other columns mark so: HSC's ``NAME_isnull``, astropy's ``NAME.mask`` in HDF5."""
    for name, values in table.columns.items():
        for is_gap in (table.columns.get(f"{name}{end}") for end in ("_isnull", ".mask")):
            if is_gap is not None and is_gap.dtype.kind == "b" and values.shape == is_gap.shape:
                table.columns[name] = plain(np.ma.array(table.columns[name], mask=is_gap))
    return table


def exists(path: str | Path) -> bool:
    """Return whether there is such a table, be it one of several in a file."""
    return split_table_path(Path(path))[0].exists()


def _read_file(
    path: Path, selection: str | None, columns: Sequence[str] | None, wanted: Sequence[str]
) -> Table:
    with path.open("rb") as handle:
        head = handle.read(4096)
    ending = path.suffix.lower().lstrip(".")
    if head.startswith(b"PAR1"):
        return _read_parquet([path], path, columns)
    if head.startswith((b"ARROW1", b"FEA1")):
        import pyarrow.feather

        return _of_arrow(pyarrow.feather.read_table(path, columns=columns and list(columns)), path)
    if head.startswith(b"\x93NUMPY"):
        from astropy.table import Table as AstropyTable

        return from_astropy(AstropyTable(np.load(path, allow_pickle=False)), str(path))
    if head.startswith(b"\x89HDF"):
        return _read_hdf5(path, selection, wanted)
    if head.startswith(b"PK\x03\x04"):
        what = "an Excel workbook; save its sheet as CSV" if "xls" in ending else "a ZIP archive; unpack it"
        raise InputError(f"{path}: {what}, and give that")
    if head.startswith(b"SIMPLE  ") or ".fit" in path.name.lower():
        return _read_fits(path, selection, wanted)
    content = unpack(path) if head.startswith(_PACKED) else b""
    if content:
        head, ending = content[:4096], Path(path.stem).suffix.lower().lstrip(".")
        if head.startswith(b"SIMPLE  "):
            return _read_fits(path, selection, wanted)
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if bare.startswith(b"<") and b"VOTABLE" in head.upper():
        return _read_votable(path, content or path.read_bytes(), selection, wanted)
    if ending in ("json", "jsonl", "ndjson"):
        return _read_json(path, decode(content or path.read_bytes()))
    is_text = head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" not in head
    text = decode(content or path.read_bytes()) if is_text else ""
    if ending not in TEXT_ENDINGS or not is_text:
        if (table := _plain_table(path, text)) is not None:
            return table
        raise InputError(
            f"{path}: not a table in a known format, by its ending or its content; use .parquet, "
            ".fits, .ecsv, .csv, .txt, .vot or .h5 (pandas or astropy read many others, and write these)"
        )
    if ending == "ecsv" and not text.lstrip().startswith("# %ECSV"):
        raise InputError(f"{path}: no ECSV, which begins with '# %ECSV 1.0'; call it .csv or .txt")
    return _read_text(path, text)


def _read_json(path: Path, text: str) -> Table:
    """Read JSON: a list of rows or a row a line, or columns, each a list or, as pandas has it, by row."""
    import pyarrow as pa

    lines = text.splitlines()
    is_by_line = lines[0].rstrip().endswith("}") and len(lines) > 1
    content = parse_json(f"[{','.join(filter(str.strip, lines))}]" if is_by_line else text, where=path)
    if isinstance(content, dict):
        rows = dict.fromkeys(row for column in content.values() if isinstance(column, dict) for row in column)
        content = {k: list(map(v.get, rows)) if isinstance(v, dict) else v for k, v in content.items()}
    else:
        names = dict.fromkeys(name for row in content for name in row)
        content = {name: [row.get(name) for row in content] for name in names}
    return _of_arrow(pa.table(content), path)


def _plain_table(path: Path, text: str) -> Table | None:
    """Return a table of text whose ending says nothing, if its columns say what the objects are."""
    try:
        table = _read_text(path, text)
    except InputError:
        return None
    pairs = [{a, b} <= {name.lower() for name in table.columns} for a, b in POSITIONS]
    return table if any(pairs) or identity_name(table.columns) is not None else None


def _read_text(path: Path, text: str) -> Table:
    start = text[:20000].lstrip()
    if start.startswith("# %ECSV"):
        return _from_astropy_text(path, text, "ascii.ecsv")
    if "Byte-by-byte Description" in start:
        return _from_astropy_text(path, text, "ascii.mrt" if start.startswith("Title:") else "ascii.cds")
    if (readme := _described_beside(path)) is not None:
        from astropy.table import Table as AstropyTable

        return from_astropy(AstropyTable.read(str(path), format="ascii.cds", readme=str(readme)), str(path))
    if kinds := re.findall(r"\\begin\{(tabular|deluxetable|longtable)", text):
        text = _from_latex(text, path, kinds)
    elif re.fullmatch(r"\s*(\|.*\|[ \t\r]*\n)+", text):  # of fixed width, or Markdown
        text = re.sub(r"(?m)^\|[-|: \t\r]*\n|^\||\|[ \t\r]*$", "", text)
    elif re.match(r"(\\.*\n)*\|", start):
        return _from_astropy_text(path, text, "ascii.ipac")
    columns, units = read_text(text, path)
    return Table(columns=columns, units=units, where=str(path))


def _described_beside(path: Path) -> Path | None:
    """Return the ReadMe of a catalogue of the CDS, if it lies beside a table that it describes."""
    readme = path.with_name("ReadMe")
    if not readme.is_file():
        return None
    text, name = decode(readme.read_bytes()), re.sub(r"\.gz$", "", path.name)
    described = re.findall(r"(?mi)^Byte-by-byte Description of file: *(.+)$", text)
    patterns = [pattern for line in described for pattern in re.split("[, \r]+", line) if pattern]
    return readme if any(fnmatch(name, pattern) for pattern in patterns) else None


def _from_latex(text: str, path: Path, kinds: Sequence[str]) -> str:
    """Return a table of LaTeX with tabs, without what is there for the eye alone."""
    from astropy.io import ascii
    from astropy.table import Table as AstropyTable

    if len(kinds) > 1:
        raise InputError(f"{path}: holds {len(kinds)} tables of LaTeX; keep the one you mean in a file")
    text = re.sub(r"\\(?:[hc]line(?:\{[^}]*\})?|(?:top|mid|bottom)rule)(?![A-Za-z])", "", text)
    with naming(
        path, "cannot read this table of LaTeX", "one row a line, below one of names, is read; or CSV"
    ):
        table = AstropyTable.read(
            text.replace("longtable", "tabular").splitlines(),
            format="ascii.aastex" if kinds[0] == "deluxetable" else "ascii.latex",
            converters={"*": [ascii.convert_numpy(str)]},
            fill_values=[],
        )

    def words(entry: object) -> str:
        there = re.sub(r"\\(?:nodata|[lc]?dots)(?![A-Za-z])(?:\{\})?", "", str(entry)).replace(r"\pm", "±")
        there = re.sub(r"\\(?:rm|it|bf|text\w*|math\w*|phantom\{[^}]*\})(?![A-Za-z])", "", there)
        return re.sub(r"_\s+", "_", re.sub(r"[${}\\]", "", there)).replace("~", " ").strip()

    return "\n".join("\t".join(map(words, row)) for row in (table.colnames, *table.iterrows()))


def _from_astropy_text(path: Path, text: str, format: str) -> Table:
    from astropy.table import QTable
    from astropy.table import Table as AstropyTable

    lines = text.splitlines()
    gaps = [("", "0"), ("null", "0")]  # the latter in Gaia's
    table = (
        QTable.read(lines, format=format, fill_values=gaps)
        if format == "ascii.ecsv"
        else AstropyTable.read(lines, format=format)
    )
    return from_astropy(table, str(path))


def from_astropy(table: Any, where: str) -> Table:
    """Take the columns of an astropy table: sky coordinates as degrees (ICRS), times as text or numbers."""
    columns: Columns = {}
    units: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name in table.colnames:
        column = table[name]
        if type(column).__name__ == "SkyCoord":
            sky = column.icrs
            unused[name] = "sky coordinates"
            is_main = not {"ra", "dec"} & set(table.colnames) and "ra" not in columns
            ra, dec = ("ra", "dec") if is_main else (f"{name}_ra", f"{name}_dec")
            columns[ra], columns[dec] = np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)
            continue
        if type(column).__name__ == "Time":
            values: Any = np.ma.asarray(column.value)
        elif type(column).__name__.endswith(("Quantity", "Angle", "Longitude", "Latitude")):
            mask = getattr(column, "mask", False)
            values = np.ma.array(getattr(column, "unmasked", column).value, mask=mask)
        else:
            values = column
        unit = getattr(column, "unit", None)
        if unit is not None and str(unit):
            units[name] = str(unit)
        try:
            columns[name] = plain(values)
        except TypeError:
            unused[name] = type(column).__name__ if not hasattr(values, "dtype") else str(values.dtype)
    raw = table.meta.get(INFO, table.meta.get(INFO.upper(), "{}"))
    return Table(columns=columns, units=units, where=where, info=_as_info(raw), unused=unused)


def plain(values: Any) -> np.ndarray:
    """Return a column as an ordinary array, with gaps as `Table` has them.

    Raises
    ------
    TypeError
        It holds neither numbers, nor truth values, nor text.
    """
    is_gap = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = np.asarray(np.ma.getdata(values))
    kind = array.dtype.kind
    if array.ndim > 1 and all(length == 1 for length in array.shape[1:]):  # lists of one value each
        return plain(values.reshape(len(array)))
    if array.ndim == 2 and kind in "SU":
        return np.stack([plain(row) for row in array])
    if array.ndim > 1 and kind in "iufb":
        array = array.astype(array.dtype.newbyteorder("="))
        return array if is_gap is None or not is_gap.any() else np.where(is_gap, np.nan, array.astype(float))
    if array.ndim != 1:
        raise TypeError
    if kind == "O":
        if not all(value is None or isinstance(value, (str, bytes)) for value in array):
            raise TypeError
        array = np.array(["" if value is None else _decoded(value) for value in array], dtype=str)
    elif kind == "S":
        array = np.array([_decoded(value) for value in array.tolist()], dtype=str)
    if array.dtype.kind == "U":
        array = np.char.strip(array) if len(array) else array
        return array if is_gap is None else np.where(is_gap, "", array)
    if kind not in "iufb":
        raise TypeError
    array = array.astype(array.dtype.newbyteorder("="))
    if is_gap is None or not is_gap.any():
        return array
    if kind == "f":
        return np.where(is_gap, np.nan, array)
    return truth_with_gaps(array, is_gap) if kind == "b" else whole_with_gaps(array, is_gap)


def _decoded(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")


def _as_info(raw: Any) -> dict[str, Any]:
    """Return what a table of ours says of itself; whatever else stands in that place is not for us."""
    try:
        content = parse_json(str(raw if isinstance(raw, str) else _decoded(raw or b"{}")), where="a table")
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class _Candidate:
    """One of several tables in a file."""

    key: str
    names: list[str]
    rows: int


def _choose(
    candidates: list[_Candidate], path: Path, selection: str | None, wanted: Sequence[str]
) -> _Candidate:
    """Return the table that is meant: the one that is named, or the only one that could be."""
    keys = [candidate.key for candidate in candidates]
    if not candidates:
        raise InputError(f"{path}: holds no table")
    if selection is not None:
        chosen = [c for c in candidates if c.key.lower().strip("/") == selection.lower().strip("/")]
        if not chosen and selection.isdigit() and 0 < int(selection) <= len(candidates):
            chosen = [candidates[int(selection) - 1]]
        if not chosen:
            raise InputError(f"{path}: no table {selection!r}; {nearest(selection, keys)}")
        return chosen[0]
    left = candidates
    for test in (
        lambda c: c.rows > 0,
        lambda c: set(wanted) <= set(c.names),
        lambda c: any({a, b} <= {n.lower() for n in c.names} for a, b in POSITIONS),
        lambda c: identity_name(c.names) is not None,
    ):
        fitting = [candidate for candidate in left if test(candidate)]
        left = fitting or left
    if len(left) > 1:
        raise InputError(
            f"{path}: holds {len(left)} tables that could be meant ({', '.join(keys[:8])}); name one, as in "
            f"'{path.name}[{left[0].key}]'"
        )
    return left[0]


def _read_fits(path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    from astropy.io import fits
    from astropy.table import Table as AstropyTable

    size = path.stat().st_size
    with fits.open(path, memmap=False) as hdus:
        candidates: list[_Candidate] = []
        places: dict[str, int] = {}
        for number, hdu in enumerate(hdus):
            if not isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)) or isinstance(hdu, fits.CompImageHDU):
                continue
            rows, width = int(hdu.header["NAXIS2"]), int(hdu.header["NAXIS1"])
            if rows * width > 1000 * size:
                raise InputError(f"{path}: HDU {number} declares {rows * width} bytes in a file of {size}")
            names = list(hdu.columns.names)
            if hdu.name == "LDAC_IMHEAD" or names == ["Field Header Card"]:
                continue  # SExtractor's copy of the image's header
            key = hdu.name if hdu.name and hdu.name not in places else str(number)
            places[key] = number
            candidates.append(_Candidate(key, names, rows))
        hdu = hdus[places[_choose(candidates, path, selection, wanted).key]]
        gaps = _gaps_of_scaled(hdu)
        content = AstropyTable.read(hdu, format="fits", unit_parse_strict="silent", mask_invalid=False)
        for name, is_gap in gaps.items():
            content[name] = np.ma.array(np.ma.getdata(content[name]), mask=is_gap)
        table = _one_row_to_many(from_astropy(content, str(path)))
        info = _as_info(hdu.header.get(INFO.upper(), "{}"))
    return replace(table, info=info)


def _gaps_of_scaled(hdu: Any) -> dict[str, np.ndarray]:
    """Return where scaled columns have no value, by name, and take TNULL away from them.

    It is a number as stored; astropy looks for it among the scaled ones.
    """
    stored, gaps = np.asarray(hdu.data).view(np.ndarray), {}
    for column in hdu.columns:
        is_scaled = column.bscale not in (None, "", 1) or column.bzero not in (None, "", 0)
        if column.null is not None and is_scaled and stored[column.name].dtype.kind in "iu":
            gaps[column.name] = np.asarray(stored[column.name] == column.null)
            column.null = None
    return gaps


def _one_row_to_many(table: Table) -> Table:
    """Unfold a structure of arrays, which IDL writes as one row: each column a list of all objects."""
    lengths = {values.shape[1] if values.ndim == 2 else 0 for values in table.columns.values()}
    if len(lengths) != 1 or lengths <= {0, 1} or any(len(values) != 1 for values in table.columns.values()):
        return table
    return replace(table, columns={name: values[0] for name, values in table.columns.items()})


def _read_votable(path: Path, content: bytes, selection: str | None, wanted: Sequence[str]) -> Table:
    from io import BytesIO

    from astropy.io import votable
    from astropy.utils.xml.iterparser import get_xml_iterator

    with get_xml_iterator(BytesIO(content)) as parts:
        for _, name, attributes, _ in parts:
            if name == "STREAM" and "href" in attributes:  # astropy would fetch it, be it file: or http:
                raise InputError(
                    f"{path}: its data lie elsewhere ({attributes['href'][:80]}); only data of the file "
                    "itself are read: write them into it (TABLEDATA or BINARY2)"
                )
    tree = votable.parse(BytesIO(content), verify="ignore")
    for info in (info for resource in tree.resources for info in resource.infos):
        if (info.name, info.value) == ("QUERY_STATUS", "ERROR"):
            raise InputError(
                f"{path}: the service's answer is an error: {str(info.content)[:200]!r}; ask again"
            )
        if (info.name, info.value) == ("QUERY_STATUS", "OVERFLOW"):
            log.warning("WARNING: %s: the service cut the result off (OVERFLOW): rows are missing", path)
    tables = list(tree.iter_tables())
    candidates = [
        _Candidate(str(table.name or table.ID or number), [f.name for f in table.fields], len(table.array))
        for number, table in enumerate(tables, 1)
    ]
    chosen = candidates.index(_choose(candidates, path, selection, wanted))
    meant = tables[chosen]
    table = from_astropy(meant.to_table(use_names_over_ids=True), str(path))
    return replace(table, info=_as_info(meant.description))


def _read_hdf5(path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    import h5py

    from deepfits.hdf5 import opened, read_column

    with opened(path) as file:
        candidates = _hdf5_tables(file, path)
        chosen = _choose(candidates, path, selection, wanted)
        member = file[chosen.key]
        if isinstance(member, h5py.Dataset):
            from astropy.table import Table as AstropyTable

            return from_astropy(AstropyTable.read(file, path=chosen.key, format="hdf5"), str(path))
        columns: Columns = {}
        units: dict[str, str] = {}
        unused: dict[str, str] = {}
        for name in chosen.names:
            data, mask = member[name], None
            if isinstance(data, h5py.Group):  # vaex
                data, mask = data["data"], data.get("mask")
            is_text = h5py.check_string_dtype(data.dtype) is not None
            if not is_text and data.dtype.kind not in "biuf":
                unused[name] = str(data.dtype)
                continue
            values = read_column(data)
            columns[name] = plain(values if mask is None else np.ma.array(values, mask=read_column(mask)))
            unit = data.attrs.get("unit", data.attrs.get("units"))
            if isinstance(unit, (str, bytes)):
                units[name] = _decoded(unit)
        return Table(columns=columns, units=units, where=str(path), unused=unused)


def _hdf5_tables(file: Any, path: Path) -> list[_Candidate]:
    """List structured data sets, and groups whose data sets are columns of one length; vaex's too."""
    import h5py

    from deepfits.hdf5 import local_object

    out: list[_Candidate] = []
    seen: set[Any] = set()  # a group may hold itself

    def visit(group: Any, key: str, depth: int) -> None:
        columns: dict[str, int] = {}
        seen.add(group.id)
        if "pandas_type" in group.attrs or "pandas_version" in group.attrs:
            raise InputError(f"{path}: pandas' own HDF5, which holds pickles; write it with to_parquet")
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.SoftLink):
                continue
            member = local_object(group, name, path)
            if isinstance(member, h5py.Group) and {"data"} <= set(member) <= {"data", "mask"}:
                parts = [local_object(member, part, path) for part in member]  # vaex: a group is a column
                if all(isinstance(p, h5py.Dataset) and p.ndim == 1 and not p.dtype.names for p in parts):
                    columns[name] = len(parts[0])
                    continue
            if isinstance(member, h5py.Group):
                if member.id not in seen:
                    if depth >= 8:
                        raise InputError(f"{path}: {key}{name} lies too deep; put the table further up")
                    visit(member, f"{key}{name}/", depth + 1)
                continue
            if not isinstance(member, h5py.Dataset):
                continue
            if member.dtype.names and member.ndim == 1:
                out.append(_Candidate(f"{key}{name}", list(member.dtype.names), len(member)))
            elif member.ndim in (1, 2) and not name.endswith("__table_column_meta__"):
                columns[name] = len(member)
        if columns:
            lengths = list(columns.values())
            common = max(set(lengths), key=lengths.count)
            names = [name for name, length in columns.items() if length == common]
            out.append(_Candidate(key or "/", names, common))

    visit(file, "", 0)
    return out


def _parquet_files(directory: Path) -> list[Path]:
    """Return the files of a data set; ours are ``shard-*.parquet``, others lie as HATS or Hive lay them."""
    collection = directory / "collection.properties"
    if collection.is_file():
        main = re.search(r"^hats_primary_table_url\s*=\s*(\S+)", collection.read_text(encoding="utf-8"), re.M)
        if main is not None and (directory / main[1]).resolve().parent == directory.resolve():
            return _parquet_files(directory / main[1])
    files = sorted(directory.glob("shard-*.parquet")) or [
        file
        for file in sorted(p for e in ("parquet", "pq", "parq") for p in directory.rglob(f"*.{e}"))
        if not any(part.startswith(("_", ".")) for part in file.relative_to(directory).parts)
        and file.name not in ("data_thumbnail.parquet",)
    ]
    if not files:
        raise InputError(
            f"{directory}: no .parquet file in this directory; give the one that holds the table"
        )
    for file in files:
        if not file.is_file():  # opening a pipe would wait forever
            raise InputError(f"{file}: is not a regular file; remove it and make it again")
    return files


def _read_parquet(files: list[Path], where: Path, columns: Sequence[str] | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        part = pq.ParquetFile(file)
        declared, size = part.metadata.num_rows * part.metadata.num_columns * 8, file.stat().st_size
        if declared > max(1000 * size, MOST_OF_SMALL_FILES):
            raise InputError(f"{file}: declares {part.metadata.num_rows} rows in a file of {size} bytes")
        parts.append(_flat(part.read(columns=list(columns) if columns else None)))
        if set(parts[-1].column_names) != set(parts[0].column_names):
            raise InputError(f"{file}: other columns than {files[0].name}; the files are not of one run")
    same = [p.select(parts[0].column_names) for p in parts]
    return _of_arrow(pa.concat_tables(same, promote_options="permissive"), where)


def _of_arrow(table: Any, where: Path) -> Table:
    """Take the columns of an Arrow table, with what it says of units and of itself."""
    table = _flat(table)
    stated = table.schema.metadata or {}
    out: Columns = _named_range(stated, table.num_rows)
    units = _astropy_units(stated.get(b"table_meta_yaml", b""))
    unused: dict[str, str] = {}
    for entry in table.schema:
        if entry.name.startswith("__index_level_"):
            continue  # pandas' index without a name
        values = from_arrow(table.column(entry.name))
        if values is None:
            unused[entry.name] = str(entry.type)
            continue
        out[entry.name] = values
        unit = (entry.metadata or {}).get(b"unit")
        if unit:
            units[entry.name] = unit.decode()
    info = _as_info(stated.get(INFO.encode(), b"{}"))
    return Table(columns=out, units=units, where=str(where), info=info, unused=unused)


def _astropy_units(stated: bytes) -> dict[str, str]:
    """Return the units that astropy, and Rubin's butler, write into the note of a Parquet file."""
    from astropy.table.meta import YamlParseError, get_header_from_yaml

    try:
        described = get_header_from_yaml(stated.decode().split("\n"))["datatype"] if stated else []
    except (YamlParseError, UnicodeDecodeError, KeyError):
        return {}
    return {str(column["name"]): str(column["unit"]) for column in described if column.get("unit")}


def _named_range(stated: Mapping[bytes, bytes], number: int) -> Columns:
    """Return pandas' index where it has a name and counts: it stands in the note of the file alone."""
    indices = _as_info(stated.get(b"pandas", b"{}")).get("index_columns", [])
    for index in indices if isinstance(indices, list) else []:
        if isinstance(index, dict) and index.get("kind") == "range" and index.get("name"):
            values = np.arange(index["start"], index["stop"], index["step"])
            return {str(index["name"]): values} if len(values) == number else {}
    return {}


def _flat(table: Any) -> Any:
    """Turn categories into their values, all kinds of text into one, and structures into ``NAME.FIELD``."""
    import pyarrow as pa

    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    for index, entry in enumerate(table.schema):
        kind = entry.type.value_type if pa.types.is_dictionary(entry.type) else entry.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
            kind = pa.large_string()
        if kind != entry.type:
            table = table.set_column(index, entry.with_type(kind), table.column(index).cast(kind))
    return table


def from_arrow(column: Any) -> np.ndarray | None:
    """Return an Arrow column as NumPy has it, with gaps as `Table` has them; None for what is no column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return from_arrow(column.cast(kind.value_type))
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _lists(column)
    gap = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), dtype=bool)
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        column = column.cast(pa.string())
        kind = column.type
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    ):
        return plain(np.array(["" if value is None else value for value in column.to_pylist()], dtype=object))
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_decimal(kind):
        values = column.to_pylist()
        if kind.scale > 0:
            return np.array([np.nan if value is None else float(value) for value in values])
        from deepfits.tables.text import as_numbers

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
    return None


def _lists(column: Any) -> np.ndarray | None:
    """Return lists of one length as ``(N, L)``, rows of NaN where there is none; None for other lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)):
        return None
    is_there = np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), dtype=bool)
    whole = column.filter(pa.array(is_there))
    if pa.types.is_fixed_size_list(column.type):
        length = column.type.list_size
    else:
        lengths = set(pc.list_value_length(whole).to_pylist()) or {0}
        if len(lengths) > 1:
            return None
        length = lengths.pop()
    flat = np.array(whole.flatten().to_numpy(zero_copy_only=False)).reshape(len(whole), length)
    if is_there.all():
        return flat
    out = np.full((len(column), length), np.nan, dtype=flat.dtype if flat.dtype.kind == "f" else float)
    out[is_there] = flat
    return out


def require_column(columns: Mapping[str, np.ndarray], name: str, where: str | Path) -> np.ndarray:
    """Return a column, or say which one was most likely meant."""
    if name not in columns:
        if (missing := getattr(columns, "missing", None)) is not None:  # a joined table knows more
            raise InputError(missing(name))
        likely = [c for c in columns if c.lower() in _LIKELY_REDSHIFTS] if name == "z_spec" else []
        hint = f"is it {likely[0]!r}? name it (label_column)" if likely else nearest(name, columns)
        raise InputError(f"{where}: no column {name!r}; {hint}")
    return columns[name]
