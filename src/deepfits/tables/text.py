"""Text tables of unknown layout: separated by commas, tabs, semicolons or blanks, with various headers.

Every entry is read as text first, and a column is converted to numbers only if all its entries are numbers:
identities with leading zeros stay text, integers never pass through floats, and missing values are marked.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.errors import InputError
from deepfits.tables.table import Columns, require_distinct, truth_with_gaps, whole_with_gaps

GAPS = (
    "", "null", "n/a", "na", "none", "--", "-", "---", "...", "masked", "\\n", "indef", "<na>",
    "#n/a", "(null)", "?", "n.a.", "undef", "undefined", "nodata", "no data", "missing", "–", "—",
    "#num!", "#value!", "#div/0!", "#ref!", "#name?",  # Excel
    *(f"{sign}{word}" for sign in ("", "+", "-") for word in ("nan", "nan(ind)", "nan(snan)")),
    *(  # C library of Windows
        f"{sign}1.#{word}{zeros}"
        for sign in ("", "+", "-") for word in ("qnan", "snan", "ind", "inf")
        for zeros in ("", "0", "00", "000")
    ),
    *("*" * length for length in range(2, 31)),  # Fortran, if a field is too narrow
)  # fmt: skip
"""Entries that mark missing values in numeric columns, in lower case; compared without regard to case."""
IDENTITIES = (
    "object_id", "objectid", "coadd_object_id", "coadd_objects_id", "targetid", "target_id", "ls_id", "id",
    "source_id", "sourceid", "number", "objid", "obj_id", "num", "label", "galaxy_id", "id_cosmos", "id_iau",
    "cosmos_id", "cataid", "objno", "specobjid", "ident",
)  # fmt: skip
"""Names of identity columns, the most reliable first; compared without regard to case."""
FIELDS = ("field", "patch")
"""Names of columns with the field of an object; compared without regard to case."""
SIGNS = re.compile(r"dec?-|\+/-|(?:d(?:e(?:cl?)?)?_?)?si?gn(?:_?dec?)?", re.IGNORECASE)
"""Names of columns with the sign of the declination, in which - is not a missing value."""
WITH_EXPONENT = r"^[+-]?\d(\.\d+)?[eE][+]?\d+$"
"""Long integers as spreadsheets write them, without their last digits."""
MOST_TITLES = 5
"""Maximum number of title lines above the header."""
PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""First bytes of gzip, bzip2, xz and Zstandard files, and the functions that open them."""
MAX_RATIO = 300
"""Largest plausible compression ratio of a table."""

log = logging.getLogger(__name__)

_DELIMITERS = "\t;|,"
_HEAD = 1 << 17
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?"
_INTEGER = r"^([+-]?[1-9]\d*|[+]?0)$"  # not -0, whose sign applies to the minutes that follow
_FLOAT = rf"^({_NUMBER}|[+-]?[iI][nN][fF]([iI][nN][iI][tT][yY])?)$"
_DECIMAL_COMMA = r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$"
_PLACE = re.compile(rf"^{_NUMBER}$|^[+-]?\d+[:hd ]\s*\d+")
_COMMENT = ("#", "%", "!", "//")
# A comment, or the last line of psql's output.
_NOT_A_ROW = re.compile(rf"^\s*(?:{'|'.join(_COMMENT)}|\(\d+ rows?\)\s*$)")
_TYPE = re.compile(
    r"^(?:\d*[NSD]|(?:u?int|float)\d*|integer|long|short|byte|double|real|char|str|string|text|bool.*)$"
)
_SEXTRACTOR = re.compile(r"^#\s*(\d+)\s+([A-Za-z_]\S*)(?:\s.*?)?(?:\[([^\]]*)\])?\s*$")
# Informal variants of it: "# (3) RA", "# 3: RA", "# Column 3: RA (deg)".
_NUMBERED = re.compile(
    r"^#\s*(?:col(?:umn)?\.?\s*)?\(?(\d+)(?:\)|\.|\s*[=:-])?\s+([A-Za-z_]\S*)(?:\s.*?)?"
    r"(?:[\[(]([^\])]*)[\])])?\s*$",
    re.IGNORECASE,
)
_RIGHT_ASCENSION = re.compile(r"_?(?:ra|r\.a\.|alpha)(?:_?\(?j?2000\)?)?", re.IGNORECASE)
_DECLINATION = re.compile(r"_?(?:dec?|decl\.?|delta)(?:_?\(?j?2000\)?)?", re.IGNORECASE)


def unpack(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if its format is one of `PACKED`.

    Raises
    ------
    InputError
        It unpacks to more than `MAX_RATIO` times its size, and more than 64 MiB.
    """
    content = path.read_bytes()
    for magic, opened in PACKED.items():
        if content.startswith(magic):
            limit = max(len(content) * MAX_RATIO, 1 << 26)
            with opened(BytesIO(content)) as handle:
                unpacked = bytes(handle.read(limit + 1))
            if len(unpacked) > limit:
                raise InputError(f"{path}: unpacks to more than {limit} bytes; this is not a table")
            return unpacked
    return content


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


def read_text(text: str, where: str | Path) -> tuple[Columns, dict[str, str]]:
    """Read a text table, whose layout is inferred from its first lines.

    Returns
    -------
    columns, units
        Units as far as the header or the comments give them.

    Raises
    ------
    InputError
        No header, a repeated name, or a line with more or fewer entries than the header.
    """
    text = re.sub(r"\A\s*sep=.[ \t\r]*\n", "", text)  # written for Excel
    if text.lstrip().startswith("# Region file format"):
        raise InputError(f"{where}: DS9 regions, not a table; save them as columns ra and dec")
    if re.match(r"\s*<(?:!doctype|html|\?xml)\b", text[:200], re.IGNORECASE):
        raise InputError(
            f"{where}: a web page, not a table, possibly an error or log-in page; download it again"
        )
    head = text[:_HEAD].split("\n")
    if len(text) > _HEAD:
        head.pop()
    head = _whole_lines(head)
    layout = _layout(head, where)
    names, delimiter = layout.names, layout.delimiter
    require_distinct(names, where)
    body = text[sum(len(line) + 1 for line in head[: layout.first_row]) :]
    if delimiter is not None:
        first = [_split(line, delimiter) for line in head[layout.first_row :][:50] if line.strip()]
        if first and all(len(row) == len(names) + 1 and not row[-1] for row in first):
            body = re.sub(rf"(?m){re.escape(delimiter)}[ \r]*$", "", body)  # trailing delimiters
    entries = (
        _by_blanks(body, names, where, layout.first_row + 1)
        if delimiter is None
        else _by_delimiter(body, names, delimiter, where)
    )
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
    has_commas = delimiter != "," and any(map(_shows_decimal_commas, numbers))
    return {name: _column(name, column, has_commas) for name, column in named.items()}, layout.units


@dataclass(frozen=True)
class _Layout:
    """Column names, delimiter (None for blanks), index of the first row, and units by column."""

    names: list[str]
    delimiter: str | None
    first_row: int
    units: dict[str, str]


def _layout(head: list[str], where: str | Path) -> _Layout:
    """Infer the layout from the first lines of a table."""
    comments: list[str] = []
    start = 0
    while start < len(head) and (not head[start].strip() or head[start].lstrip().startswith(_COMMENT)):
        comments.append(head[start].strip())
        start += 1
    lines = [line for line in head[start:] if line.strip() and not _NOT_A_ROW.match(line)][:50]
    if not lines:
        raise InputError(f"{where}: contains no rows")
    units: dict[str, str] = {}
    names = _sextractor_names(_as_sextractor(comments), units, len(lines[0].split()))
    if names is None and (titles := _num_titles(lines)):
        start = head.index(lines[titles], start)
        lines = lines[titles:]
    rows = [line for line in lines if not _is_rule(line)]
    delimiter = None if names else _delimiter(rows or lines)
    first = _split(lines[0], delimiter)
    if names is None:
        second = _split(lines[1], delimiter) if len(lines) > 1 else None
        if delimiter is None and second is not None and len(second) < len(first):  # RA (deg)
            joined = re.findall(r"\S+(?:\s+[\[(][^\])]*[\])])?", lines[0])
            first = joined if len(joined) == len(second) else first
        if _is_header(first, second):
            names, start = first, start + 1
            start += _below_header(head[start:], names, delimiter, units)
        else:
            names = _names_in_comments(comments, delimiter, len(first), units)
    if names is None:
        raise InputError(
            f"{where}: no header: the first line is {', '.join(first[:4])}; insert a line of names above "
            "it, such as: id ra dec z_spec"
        )
    if delimiter is None:  # names may have commas even if the entries are separated by blanks
        names = _with_parts([name.rstrip(",") for name in names], len(lines[-1].split()))
    names = _without_numbers(names)
    names = [name or f"column_{number}" for number, name in enumerate(names, 1)]
    return _Layout(names, delimiter, start, units)


def _column(name: str, entries: pa.Array, has_commas: bool) -> np.ndarray:
    """Convert a column to numbers, except for signs of declinations, and identities and fields in some cases.

    These are text if they have commas (HSC's patch 4,5), and identities also if they have an exponent: they
    are long integers rounded by a spreadsheet, or text such as 12e5, unless all digits are there
    (1.000000e+00), as NumPy's `savetxt` writes them.
    """
    if SIGNS.fullmatch(name):
        return _text(entries)
    if name.lower() in (*IDENTITIES, *FIELDS) and _any_match(entries, ","):
        return _text(entries)
    if name.lower() in IDENTITIES and _any_match(entries, "^[+-]?[0-9.]+[eEdD]"):
        parts = [re.fullmatch(r"\d\.(\d+)e\+(\d+)", entry) for entry in entries.to_pylist()]
        if not all(part is not None and len(part[1]) >= int(part[2]) for part in parts):
            return _text(entries)
    return as_numbers(entries, has_commas)


def _num_titles(lines: Sequence[str]) -> int:
    """Return the number of title lines above the header.

    They have other numbers of entries than the rows below, or, from spreadsheets, are padded with empty ones.

    Examples
    --------
    >>> _num_titles(["Table 1. Redshifts", "id ra dec z", "1 150.1 2.1 0.3"]), _num_titles(["id z", "1 0.3"])
    (1, 0)
    >>> _num_titles(["Redshifts,,", ",,", "id,ra,z", "1,150.1,0.3"])
    2
    """
    for number in range(min(MOST_TITLES, len(lines) - 2) + 1):
        rows = [line for line in lines[number:] if not _is_rule(line)]
        delimiter = _delimiter(rows)
        entries = [_split(line, delimiter) for line in rows]
        is_even = len({len(row) for row in entries}) == 1 and len(rows) > 1 and lines[number] == rows[0]
        is_even = is_even and sum(map(bool, entries[0])) > 1
        if is_even and not any(map(_PLACE.match, entries[0])) and _is_header(*entries[:2]):
            has_numbers = any(_PLACE.match(entry) for row in entries[1:4] for entry in row)
            return number if has_numbers else 0
    return 0


def _is_rule(line: str) -> bool:
    """Return whether a line has no entries: it is drawn with dashes, or has only delimiters."""
    return not line.strip("-=+|,; \t\r")


def _below_header(
    lines: Sequence[str], names: Sequence[str], delimiter: str | None, units: dict[str, str]
) -> int:
    """Count the lines of units, types and dashes between header and rows, as in VizieR; fill in `units`."""

    def keep_units(entries: Sequence[str]) -> None:
        pairs = zip(names, entries, strict=False)
        units.update({name: unit for name, unit in pairs if unit and not _TYPE.match(unit)})

    if lines and _NOT_A_ROW.match(lines[0]):
        entries = _split(_bare_comment(lines[0]), delimiter)
        if len(entries) == len(names) and _are_units(entries):
            keep_units([_without_brackets(entry) for entry in entries])
        return 0
    for number, line in enumerate(lines[:3]):
        if "-" in line and _is_rule(line):
            if number == 1:
                keep_units(_split(lines[0], delimiter))
            return number + 1 if number < 2 else 0
    if len(lines) > 1:  # types, or words above numbers
        first, second = _split(lines[0], delimiter), _split(lines[1], delimiter)
        pairs = [(a, b) for a, b in zip(first, second, strict=False) if a.lower() not in GAPS]
        is_above = [not _PLACE.match(a) and bool(_PLACE.match(b)) for a, b in pairs]
        if any(is_above) and all(n or _TYPE.match(a) for n, (a, _) in zip(is_above, pairs, strict=True)):
            keep_units(first)
            return 1
    return 0


def _as_sextractor(comments: Sequence[str]) -> list[str]:
    """Rewrite LePHARE's list of column names and numbers in SExtractor's style; keep other comments.

    Examples
    --------
    >>> _as_sextractor(["# Prior: 1", "# IDENT 1 Z_BEST 2 MAG_OBS() 3", "# CONTEXT 8 #"])[1:]
    ['# 1 IDENT', '# 2 Z_BEST', '# 3 MAG_OBS()', '# 8 CONTEXT']
    """
    out: list[str] = []
    last = 0
    for line in comments:
        pairs = re.findall(r"([A-Za-z_]\S*)\s+(\d+)", line)
        numbers = [int(number) for _, number in pairs]
        is_list = re.fullmatch(r"#(\s+[A-Za-z_]\S*\s+\d+(\s*,)?)+[\s#]*", line) is not None
        if is_list and numbers == sorted(numbers) and (numbers[0] > last > 0 or numbers[:2] == [1, 2]):
            out += [f"# {number} {name}" for name, number in pairs]
            last = numbers[-1]
        else:
            out.append(line)
    return out


def _sextractor_names(
    comments: Sequence[str], units: dict[str, str], number_of_entries: int
) -> list[str] | None:
    """Return the column names of a SExtractor header (``#   1 NUMBER   Running number``), or None."""
    names: list[str] = []
    is_strict = any(map(_SEXTRACTOR.match, comments))
    for line in comments:
        match = (_SEXTRACTOR if is_strict else _NUMBERED).match(line)
        if match is None:
            continue
        number, name, unit = int(match[1]), match[2], match[3]
        if number == 1 and not is_strict:  # numbered lines before this one were not columns
            names = []
        if number <= len(names) or number > len(names) + 1000 or (not names and number != 1):
            return None
        base = names[-1] if names else ""
        names += [f"{base}_{k}" for k in range(1, number - len(names))]  # further elements of a vector
        names.append(name)
        if unit:
            units[name] = unit
    if not 1 < len(names) <= number_of_entries or (not is_strict and len(names) < number_of_entries):
        return None
    return names + [f"{names[-1]}_{k}" for k in range(1, number_of_entries - len(names) + 1)]


def _without_numbers(names: list[str]) -> list[str]:
    """Strip running numbers from names if all have them.

    Examples
    --------
    >>> _without_numbers(["1:id", "2:ra", "3:dec"]), _without_numbers(["id(0)", "ra(1)"])
    (['id', 'ra', 'dec'], ['id', 'ra'])
    """
    for pattern in (r"\(?(?P<number>\d+)[:.)](?P<name>\S.*)", r"(?P<name>.+?)\s*[\[(](?P<number>\d+)[\])]"):
        found = [match for match in (re.fullmatch(pattern, name) for name in names) if match is not None]
        numbers = [int(match["number"]) for match in found]
        if 1 < len(found) == len(names) and numbers == list(range(numbers[0], numbers[0] + len(names))):
            return [match["name"] for match in found]
    return names


def _with_parts(names: list[str], number: int) -> list[str]:
    """Expand the names of sexagesimal coordinates separated by blanks, such as 10 02 02.8 +02 16 26.

    Examples
    --------
    >>> _with_parts(["id", "RA", "Dec", "z"], 8)
    ['id', 'RAh', 'RAm', 'RAs', 'DEd', 'DEm', 'DEs', 'z']
    """
    ra, dec = ([n for n in names if kind.fullmatch(n)] for kind in (_RIGHT_ASCENSION, _DECLINATION))
    if number != len(names) + 4 or len(ra) != 1 or len(dec) != 1:
        return names
    parts = {ra[0]: ["RAh", "RAm", "RAs"], dec[0]: ["DEd", "DEm", "DEs"]}
    return [part for name in names for part in parts.get(name, [name])]


def _delimiter(lines: Sequence[str]) -> str | None:
    """Return the delimiter that occurs equally often in every line; None for blanks."""
    for delimiter in _DELIMITERS:
        counts = {_outside_quotes(line).count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return delimiter
    # Otherwise use that of the header, so that the error can name the inconsistent line.
    return next((d for d in "\t;," if d in lines[0] and any(d in line for line in lines[1:])), None)


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


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line) if '"' in line else line


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return shlex.split(line, posix=True) if line.count('"') % 2 == 0 < line.count('"') else line.split()
    import csv

    return [
        entry.strip()
        for entry in next(csv.reader([line.rstrip("\r")], delimiter=delimiter, skipinitialspace=True))
    ]


def _is_header(first: Sequence[str], second: Sequence[str] | None) -> bool:
    """Return whether the first line is a header: without numbers, or with text above numbers."""
    is_number = [bool(_PLACE.match(entry)) for entry in first]
    if not any(is_number):
        return any(entry.lower() not in GAPS for entry in first)
    if second is None or any("." in entry for entry, number in zip(first, is_number, strict=True) if number):
        return False
    pairs = zip(first, is_number, second, strict=False)
    return any(not n and a.lower() not in GAPS and bool(_PLACE.match(b)) for a, n, b in pairs)


def _names_in_comments(
    comments: Sequence[str], delimiter: str | None, number: int, units: dict[str, str]
) -> list[str] | None:
    """Return the names in the last comment with `number` words; it may be followed by one with units."""
    below: list[str] = []
    for line in reversed(comments):
        bare = _bare_comment(line)
        for names in (_split(bare, delimiter), bare.split(), [n.strip() for n in bare.split(",")]):
            if len(names) == number and not any(_PLACE.match(name) for name in names):
                if not below and _are_units(names):
                    below = names
                    break
                units.update(zip(names, map(_without_brackets, below), strict=False))
                return names
    return below or None


def _bare_comment(line: str) -> str:
    return line.strip().lstrip("#%!/ \t")


def _without_brackets(unit: str) -> str:
    return unit.strip("[]() ")


def _are_units(entries: Sequence[str]) -> bool:
    """Return whether all entries are units or mean "no unit".

    Examples
    --------
    >>> _are_units(["-", "[hours]", "deg", "mag"]), _are_units(["id", "ra", "dec", "mag"])
    (True, False)
    """
    from astropy import units

    def is_unit(entry: str) -> bool:
        try:
            units.Unit(entry.removesuffix("s"))
        except (ValueError, TypeError):
            return entry.lower() in GAPS
        return True

    return all(is_unit(_without_brackets(entry)) for entry in entries)


def _by_delimiter(text: str, names: list[str], delimiter: str, where: str | Path) -> list[pa.Array]:
    from pyarrow import csv

    errors: list[str] = []

    def handle_invalid(row: csv.InvalidRow) -> str:
        entries = (row.text or "").strip()
        if _NOT_A_ROW.match(entries) or not entries.strip(delimiter + " "):
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
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(keys, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: cannot read this text ({str(error)[:160]})") from error
    if errors:
        raise InputError(
            f"{where}: {errors[0]}; quote entries that contain {delimiter!r}, or correct the line"
        )
    columns = [pc.utf8_trim_whitespace(table.column(key).combine_chunks()) for key in keys]
    is_comment = pc.match_substring_regex(columns[0], f"^({'|'.join(_COMMENT)})")
    if (number := pc.sum(is_comment).as_py() or 0) > 0:
        log.warning(
            "WARNING: %s: %d of %d rows are skipped as comments, such as the one that begins with %r",
            *(where, number, len(is_comment), columns[0].filter(is_comment)[0].as_py()),
        )
        columns = [column.filter(pc.invert(is_comment)) for column in columns]
    return columns


def _by_blanks(text: str, names: list[str], where: str | Path, line_number: int) -> list[pa.Array]:
    rows = []
    for number, line in enumerate(text.split("\n"), line_number):
        entries = _split(line, None) if '"' in line else line.split()
        if not entries or entries[0].startswith(_COMMENT):
            continue
        if len(entries) != len(names):
            raise InputError(
                f"{where}: line {number} has {len(entries)} entries, the header {len(names)}; write "
                "missing entries as nan and put quotes around text with blanks, or use CSV"
            )
        rows.append(entries)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return [pa.array(column, pa.string()) for column in columns]


def as_numbers(column: pa.Array, has_commas: bool = False) -> np.ndarray:
    """Convert a column of text to numbers or booleans if all entries allow it, or else keep the text.

    With `has_commas`, other columns of the table have shown that commas are decimal commas.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    lower = pc.utf8_lower(column)
    is_gap = pc.is_in(lower, pa.array(GAPS))
    values = pc.replace_substring(column.filter(pc.invert(is_gap)), "−", "-")  # the minus sign of journals
    gap = np.asarray(is_gap.to_numpy(zero_copy_only=False), dtype=bool)

    if not len(values):
        return np.full(len(column), np.nan)
    if _all_match(values, _INTEGER):
        return _integers(values, gap)
    if _all_match(values, r"^[+-]?\d+$") and _any_match(values, r"^[+-]?0\d"):
        return _text(column)  # leading zeros are significant
    if _all_match(values, _FLOAT):
        return _floats(pc.replace_substring_regex(values, "[dD]", "e"), gap)
    if (has_commas or _has_decimal_commas(values)) and _all_match(values, _DECIMAL_COMMA):
        return _floats(pc.replace_substring(values, ",", "."), gap)
    if _all_match(lower.filter(pc.invert(is_gap)), "^(true|false)$"):
        return truth_with_gaps(np.array(pc.equal(lower, "true").to_numpy(zero_copy_only=False)), gap)
    return _text(column)


def is_number(text: object) -> bool:
    """Return whether text is a number or marks a missing one."""
    try:
        float(str(text))
    except ValueError:
        return str(text).lower() in GAPS
    return True


def numbers_in_text(values: np.ndarray) -> np.ndarray:
    """Convert text ``(N,)`` to numbers or booleans, as `as_numbers` does, or else keep it."""
    return as_numbers(pa.array(values.astype(str).tolist(), pa.string()))


def _has_decimal_commas(values: pa.Array) -> bool:
    """Return whether any comma must be a decimal comma; 12,345 may be a thousands separator."""
    return _any_match(values, r"^[+-]?0,\d|^[+-]?\d+,(\d{1,2}|\d{4,})([eE].*)?$")


def _shows_decimal_commas(column: pa.Array) -> bool:
    """Return whether a column is numeric and has commas that can only be decimal commas."""
    values = column.filter(pc.invert(pc.is_in(pc.utf8_lower(column), pa.array(GAPS))))
    return _has_decimal_commas(values) and _all_match(values, _DECIMAL_COMMA)


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def _any_match(values: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def _text(column: pa.Array) -> np.ndarray:
    return np.array(column.to_pylist(), dtype=str) if len(column) else np.zeros(0, "U1")


def _floats(values: pa.Array, gap: np.ndarray) -> np.ndarray:
    out = np.full(len(gap), np.nan)
    out[~gap] = pc.cast(pc.ascii_ltrim(values, "+"), pa.float64()).to_numpy(zero_copy_only=False)
    return out


def _integers(values: pa.Array, gap: np.ndarray) -> np.ndarray:
    bare = pc.ascii_ltrim(values, "+")
    for kind in (pa.int64(), pa.uint64()):
        try:
            numbers = pc.cast(bare, kind).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            continue
        full = np.zeros(len(gap), numbers.dtype)
        full[~gap] = numbers
        return whole_with_gaps(full, gap)
    out = np.full(len(gap), "", dtype=object)
    out[~gap] = bare.to_pylist()
    return out.astype(str)
