"""Text tables of unknown layout: separated by commas, tabs, semicolons or blanks, with various headers.

Every entry is read as text first, and a column is converted to numbers only if all its entries are numbers:
identities with leading zeros stay text, integers never pass through floats, and missing values are marked.
"""

import bz2
import gzip
import logging
import lzma
import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.errors import InputError, listed, naming
from deepfits.tables.entries import any_match, as_numbers, as_text, shows_decimal_commas, with_thousands
from deepfits.tables.names import FIELDS, IDENTITIES, SIGNS
from deepfits.tables.table import B1950, Table, mentions_b1950, require_distinct
from deepfits.tables.text_header import COMMENT, NOT_A_ROW, find_layout, split_line

PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""First bytes of gzip, bzip2, xz and Zstandard files, and the functions that open them."""
UNPACKED_BY_ASTROPY = tuple(PACKED)[:3]  # those that astropy unpacks piece by piece as it reads FITS
ZIP = b"PK\x03\x04"
MAX_RATIO = 300  # largest plausible compression ratio of a table

log = logging.getLogger(__name__)

_HEAD = 1 << 17
_OF_VIZIER = re.compile(r"(?m)^#Column[\t;]([^\t;]+)[\t;]\([^)]*\)[\t;](.*?)[\s;]*(?:\[ucd=([^\]]*)\])?\s*$")
"""Descriptions of the columns of VizieR's tables apart by tabulators or semicolons."""
_IN_SINGLE_QUOTES = re.compile(r"(?:\s*#.*\n)*\s*'[^'\n]+'(?:[\s,;|]+'[^'\n]+')+[ \t\r]*\n")
"""The beginning of a text table whose header has single quotes around each name."""


def unpack(path: Path) -> tuple[bytes, str]:
    """Return the unpacked bytes of a file that begins like `PACKED` or `ZIP`, and its name without packing.

    Raise `InputError` if it unpacks to more than `MAX_RATIO` times its size, and more than 64 MiB, or is a
    ZIP archive of several files.
    """
    content, name = path.read_bytes(), path.stem
    limit = max(len(content) * MAX_RATIO, 1 << 26)
    with naming(path, "cannot unpack this file"):
        if content.startswith(ZIP):
            archive = zipfile.ZipFile(BytesIO(content))
            names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
            if len(names) != 1:
                raise InputError(f"{path}: a ZIP of {len(names)} files ({listed(names)}); unpack it first")
            handle, name = archive.open(names[0]), names[0]
        else:
            handle = next(opened for magic, opened in PACKED.items() if content.startswith(magic))(
                BytesIO(content)
            )
        with handle:
            unpacked = bytes(handle.read(limit + 1))
    if len(unpacked) > limit:
        raise InputError(f"{path}: unpacks to more than {limit} bytes; this is not a table")
    return unpacked, name


def decode(content: bytes) -> str:
    """Decode text: UTF-8 with or without a byte-order mark, UTF-16 with one, or else Latin-1."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text if "\n" in text else text.replace("\r", "\n")
    return re.sub(r"\x1a\s*\Z", "", text)  # the end-of-file mark of DOS


def read_text(text: str, where: str | Path) -> Table:
    """Read a text table, whose layout is inferred from its first lines.

    Raise `InputError` for no header, a repeated name, or a line with more or fewer entries than the header.
    """
    text = re.sub(r"\A\s*sep=.[ \t\r]*\n", "", text)  # written for Excel
    if text.lstrip().startswith("# Region file format"):
        raise InputError(f"{where}: DS9 regions, not a table; save them as columns ra and dec")
    if _IN_SINGLE_QUOTES.match(text) and '"' not in text:
        text = text.replace("'", '"')
    head = text[:_HEAD].split("\n")
    if len(text) > _HEAD:
        head.pop()
    head = _whole_lines(head)
    layout = find_layout(head, where)
    names, delimiter = layout.names, layout.delimiter
    require_distinct(names, where)
    body = text[sum(len(line) + 1 for line in head[: layout.first_row]) :]
    if delimiter is not None:
        first = [split_line(line, delimiter) for line in head[layout.first_row :][:50] if line.strip()]
        if first and all(len(row) == len(names) + 1 and not row[-1] for row in first):
            body = re.sub(rf"(?m){re.escape(delimiter)}[ \r]*$", "", body)  # trailing delimiters
    if delimiter is None:
        entries = _by_blanks(body, names, where, layout.first_row + 1)
    else:
        entries = _by_delimiter(body, names, delimiter, where)
    repeats = [pc.index(column, pa.scalar(name)).as_py() for column, name in zip(entries, names, strict=True)]
    if len(names) > 1 and min(repeats) >= 0 and len(set(repeats)) == 1:
        raise InputError(
            f"{where}: the header is repeated after row {repeats[0]}; save concatenated tables as separate "
            "files, or remove that line"
        )
    if '="' in body:  # ="00123", which keeps spreadsheets from converting it to a number
        entries = [pc.replace_substring_regex(column, '^="(.*)"$', r"\1") for column in entries]
    named = dict(zip(names, entries, strict=True))
    numbers = [column for name, column in named.items() if name.lower() not in (*IDENTITIES, *FIELDS)]
    has_commas = delimiter != "," and any(map(shows_decimal_commas, numbers))
    for name in with_thousands(named) if has_commas else ():
        log.warning(
            "WARNING: %s: dots in column %r are taken as separators of thousands, because other columns have "
            "decimal commas; write decimal points or commas in all columns",
            *(where, name),
        )
        named[name] = pc.replace_substring(named[name], ".", "")
    table = Table(where=str(where), units=layout.units)
    for name, column in named.items():
        try:
            table.columns[name] = _column(name, column, has_commas)
        except TypeError as error:
            table.unused[name] = str(error)
    for name, words, ucd in _OF_VIZIER.findall(text[:_HEAD]):
        table.ucds.update({name: ucd} if ucd and name in named else {})
        table.frames.update({name: B1950} if mentions_b1950(words) and name in named else {})
    return table


def _column(name: str, entries: pa.Array, has_commas: bool) -> np.ndarray:
    """Convert a column to numbers, except for signs of declinations, and identities and fields in some cases.

    These are text if they have commas (HSC's patch 4,5), and identities also if they have a fraction (169.429
    of SMASH: a field and a number) or an exponent: they are long integers rounded by a spreadsheet, or text
    such as 12e5, unless all digits are there (1.000000e+00), as NumPy's `savetxt` writes them.
    """
    is_identity = name.lower() in IDENTITIES
    if SIGNS.fullmatch(name) or (name.lower() in FIELDS and any_match(entries, ",")):
        return as_text(entries)
    if is_identity and any_match(entries, r",|^\d+\.\d*[1-9]\d*$"):
        return as_text(entries)
    if is_identity and any_match(entries, "^[+-]?[0-9.]+[eEdD]"):
        parts = [re.fullmatch(r"\d\.(\d+)e\+(\d+)", entry) for entry in entries.to_pylist()]
        if not all(part is not None and len(part[1]) >= int(part[2]) for part in parts):
            return as_text(entries)
    return as_numbers(entries, has_commas)


def _whole_lines(lines: Sequence[str]) -> list[str]:
    r"""Join lines across which a quoted entry continues; quotes inside an unquoted entry do not count.

    Examples
    --------
    >>> _whole_lines(['1;"two', 'lines";2', '3;a 3" lens;4'])
    ['1;"two\nlines";2', '3;a 3" lens;4']
    >>> _whole_lines(['"A 1" "150.1" 0.3', '"A 2" "150.2" 0.4'])
    ['"A 1" "150.1" 0.3', '"A 2" "150.2" 0.4']
    """
    out: list[str] = []
    goes_on = False
    for line in lines:
        out.append(f"{out.pop()}\n{line}" if goes_on else line)
        # Whole quoted entries become dashes, so that what follows them is not at the start of an entry.
        left = re.sub(r'(^|[\t;|,])\s*"(?:[^"]|"")*"', r"\1-", out[-1]) if '"' in out[-1] else ""
        goes_on = re.search(r'(?:^|[\t;|,])\s*"', left) is not None
    return out


def _by_delimiter(text: str, names: list[str], delimiter: str, where: str | Path) -> list[pa.Array]:
    from pyarrow import csv

    errors: list[str] = []

    def handle_invalid(row: csv.InvalidRow) -> str:
        entries = (row.text or "").strip()
        if NOT_A_ROW.match(entries) or not entries.strip(delimiter + " "):
            return "skip"
        errors.append(f"the line {entries[:60]!r} has {row.actual_columns} entries, the header {len(names)}")
        return "skip"

    if not text.strip():
        return [pa.array([], pa.string()) for _ in names]
    keys = [str(number) for number in range(len(names))]
    try:
        table = csv.read_csv(
            BytesIO(text.encode()),
            read_options=csv.ReadOptions(column_names=keys),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=handle_invalid, newlines_in_values='"' in text
            ),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(keys, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: cannot read this text ({str(error)[:160]})") from error
    if errors:
        raise InputError(
            f"{where}: {errors[0]}; quote entries that contain {delimiter!r}, or correct the line"
        )
    columns = [pc.utf8_trim_whitespace(table.column(key).combine_chunks()) for key in keys]
    is_comment = pc.match_substring_regex(columns[0], f"^({'|'.join(COMMENT)})")
    if (number := pc.sum(is_comment).as_py() or 0) > 0:
        log.warning(
            "WARNING: %s: %d of %d rows are skipped as comments, such as the one that begins with %r",
            *(where, number, len(is_comment), columns[0].filter(is_comment)[0].as_py()),
        )
        columns = [column.filter(pc.invert(is_comment)) for column in columns]
    return columns


def _by_blanks(text: str, names: list[str], where: str | Path, line_number: int) -> list[pa.Array]:
    if '"' not in text:
        even = ["\t".join(line.split()) for line in text.split("\n") if not NOT_A_ROW.match(line)]
        with suppress(InputError):  # named below, with the number of the line
            return _by_delimiter("\n".join(even), names, "\t", where)
    rows = []
    for number, line in enumerate(text.split("\n"), line_number):
        entries = split_line(line, None) if '"' in line else line.split()
        if not entries or NOT_A_ROW.match(line):
            continue
        if len(entries) != len(names):
            raise InputError(
                f"{where}: line {number} has {len(entries)} entries, the header {len(names)}; write "
                "missing entries as nan and put quotes around text with blanks, or use CSV"
            )
        rows.append(entries)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return [pa.array(column, pa.string()) for column in columns]
