"""The layout of a text table, from its first lines: separator, names of columns, units, titles to skip."""

import csv
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfits.errors import InputError
from deepfits.tables.entries import GAPS, NUMBER
from deepfits.tables.names import IDENTITIES, first_name, position_names

MOST_TITLES = 5  # maximum number of title lines above the header
_DELIMITERS = "\t;|,"
_PLACE = re.compile(rf"^{NUMBER}$|^[+-]?\d+,\d+$|^[+-]?\d+[:hd ]\s*\d+")
COMMENT = ("#", "%", "!", "//")
# A comment, or the last line of what databases, astropy, Skycat or SIMBAD write.
NOT_A_ROW = re.compile(
    rf"^\s*(?:{'|'.join(COMMENT)}|(?:\(?\d+ rows?(?: affected| selected| in set .*)?[).]*|Length = \d+ rows|"
    r"\[?EOD\]?|={3,})\s*$)"
)
_TYPE = re.compile(
    r"^(?:\d*[NSD]|[<>|=]?[USfiu]\d+|(?:u?int|float|string)\d*|integer|(?:big|small|tiny)int|long|short|byte|"
    r"double(?: precision)?|real|numeric|decimal|(?:var|unicode)?char|str|text|object|category|bool.*)"
    r"(?: ?[(\[][\d, *]*[)\]])?$",
    re.IGNORECASE,
)
_SEXTRACTOR = re.compile(r"^#\s*(\d+)\s+([A-Za-z_]\S*)(?:\s.*?)?(?:\[([^\]]*)\])?\s*$")
# Informal variants of it: "# (3) RA", "# 3: RA", "# Column 3: RA (deg)".
_NUMBERED = re.compile(
    r"^#\s*(?:col(?:umn)?\.?\s*)?\(?(\d+)(?:\)|\.|\s*[=:-])?\s+([A-Za-z_]\S*)(?:\s.*?)?"
    r"(?:[\[(]([^\])]*)[\])])?\s*$",
    re.IGNORECASE,
)
_NAME_AND_NUMBER = r"([A-Za-z_]\S*)(?:(?<=\(\))|\s+)(\d+)(?:-\d+)?(?=[\s,]|$)"
"""Entry of LePHARE's list of columns: ``Z_BEST 2``, ``MAG_OBS() 16`` or ``MAG_OBS()16-20``."""
_RIGHT_ASCENSION = re.compile(r"_?(?:ra|r\.a\.|alpha)(?:_?\(?j?2000\)?)?", re.IGNORECASE)
_DECLINATION = re.compile(r"_?(?:dec?|decl\.?|delta)(?:_?\(?j?2000\)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class TextLayout:
    """Column names, delimiter (None for blanks), index of the first row, and units by column."""

    names: list[str]
    delimiter: str | None
    first_row: int
    units: dict[str, str]


def find_layout(head: list[str], where: str | Path) -> TextLayout:
    """Infer the layout from the first lines of a table."""
    comments: list[str] = []
    start = 0
    while start < len(head) and (not head[start].strip() or head[start].lstrip().startswith(COMMENT)):
        comments.append(head[start].strip())
        start += 1
    lines = [line for line in head[start:] if line.strip() and not NOT_A_ROW.match(line)][:50]
    if not lines:
        raise InputError(f"{where}: contains no rows")
    units: dict[str, str] = {}
    names = _sextractor_names(_as_sextractor(comments), units, len(split_line(lines[0], None)))
    if names is None and (titles := _num_titles(lines)):
        start = head.index(lines[titles], start)
        lines = lines[titles:]
    rows = [line for line in lines if not _is_rule(line)]
    delimiter = None if names else _delimiter(rows or lines)
    first = split_line(lines[0], delimiter)
    if names is None:
        second = split_line(lines[1], delimiter) if len(lines) > 1 else None
        if delimiter is None and second is not None and len(second) < len(first):  # RA (deg)
            joined = re.findall(r"\S+(?:\s+[\[(][^\])]*[\])])?", lines[0])
            first = joined if len(joined) == len(second) else first
        if _is_header(first, second):
            names = ["", *first] if _has_row_names(lines, first, delimiter) else first
            start += 1
            start += _below_header(head[start:], names, delimiter, units)
        else:
            names = _names_in_comments(comments, delimiter, len(first), units)
    if names is None:
        raise InputError(
            f"{where}: no header: the first line is {', '.join(first[:4])}; insert a line of names above "
            "it, such as: id ra dec z_spec"
        )
    number = len(split_line(lines[-1], delimiter))
    names = names[:-1] if not names[-1] and number == len(names) - 1 else names  # a delimiter at its end
    names = [name.rstrip(",:") for name in names]  # also where the entries are separated by blanks
    names = _without_numbers(_with_parts(names, number))
    names = [name or f"column_{number}" for number, name in enumerate(names, 1)]
    return TextLayout(names, delimiter, start, units)


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
        entries = [split_line(line, delimiter) for line in rows]
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

    if lines and NOT_A_ROW.match(lines[0]):
        units.update(_stated_units(names, split_line(_bare_comment(lines[0]), delimiter)))
        return 0
    for number, line in enumerate(lines[:3]):
        if {*line} & {*"-="} and _is_rule(line):
            if number == 1 and len(entries := split_line(lines[0], delimiter)) == len(names):
                keep_units(entries)
            return number + 1 if number < 2 else 0
    if len(lines) > 1:  # types, or words above numbers
        first, second = split_line(lines[0], delimiter), split_line(lines[1], delimiter)
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
    >>> _as_sextractor(["# Prior: 1", "# IDENT 1 Z_BEST 2 MAG_OBS()3-7", "# CONTEXT 8 #"])[1:]
    ['# 1 IDENT', '# 2 Z_BEST', '# 3 MAG_OBS()', '# 8 CONTEXT']
    """
    out: list[str] = []
    last = 0
    for line in comments:
        pairs = re.findall(_NAME_AND_NUMBER, line)
        numbers = [int(number) for _, number in pairs]
        is_list = re.fullmatch(rf"#(?:\s+{_NAME_AND_NUMBER}(?:\s*,)?)+[\s#]*", line) is not None
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
        counts = {re.sub(r'"[^"]*"', "", line).count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return delimiter
    # Otherwise use that of the header, so that the error can name the inconsistent line.
    return next((d for d in "\t;," if d in lines[0] and any(d in line for line in lines[1:])), None)


def split_line(line: str, delimiter: str | None) -> list[str]:
    """Return the entries of a line, separated by a delimiter, or by blanks if it is None."""
    if delimiter is None:
        return shlex.split(line, posix=True) if line.count('"') % 2 == 0 < line.count('"') else line.split()
    entries = next(csv.reader([line.rstrip("\r")], delimiter=delimiter, skipinitialspace=True))
    return [entry.strip() for entry in entries]


def _is_header(first: Sequence[str], second: Sequence[str] | None) -> bool:
    """Return whether the first line is a header: without numbers, or with text above numbers."""
    is_number = [bool(_PLACE.match(entry)) for entry in first]
    if not any(is_number):
        return any(entry.lower() not in GAPS for entry in first)
    numbers = [entry for entry, number in zip(first, is_number, strict=True) if number]
    if second is None or any("." in entry or "," in entry for entry in numbers):
        return False
    pairs = zip(first, is_number, second, strict=False)
    return any(not n and a.lower() not in GAPS and bool(_PLACE.match(b)) for a, n, b in pairs)


def _has_row_names(lines: Sequence[str], names: Sequence[str], delimiter: str | None) -> bool:
    """Return whether rows begin with an entry that the header lacks, as R's `write.table` writes row names.

    They are in quotes, as is the header, or are running numbers in a table without identities (from 0 if
    pandas has printed them).
    """
    rows = [split_line(line, delimiter) for line in lines[1:]]
    if delimiter not in (None, "\t") or {len(row) for row in rows if row[-1]} != {len(names) + 1}:
        return False
    is_quoted = all(line.startswith('"') for line in lines) and lines[1].count('"') < 2 * len(rows[0])
    first = int(rows[0][0] != "0")
    is_numbered = [row[0] for row in rows] == [str(number) for number in range(first, first + len(rows))]
    return is_quoted or (is_numbered and first_name(names, IDENTITIES) is None)


def _names_in_comments(
    comments: Sequence[str], delimiter: str | None, number: int, units: dict[str, str]
) -> list[str] | None:
    """Return the names in a comment for `number` entries, which may be followed by one with units.

    Of several, it is the last that names positions, or an identity, or else the last that has no units.
    """
    found: list[list[str]] = []  # from the last to the first
    for line in reversed(comments):
        bare = _bare_comment(line)
        for names in (split_line(bare, delimiter), bare.split(), re.split(r"\s*[,;|]\s*", bare)):
            if len(_with_parts(names, number)) == number and not any(_PLACE.match(name) for name in names):
                found.append(names)
                break
    places = [position_names(names) is not None for names in found]
    named = [first_name(names, IDENTITIES) is not None for names in found]
    others = [not _are_units(names) for names in found]
    best = next((tests.index(True) for tests in (places, named, others) if any(tests)), 0)
    if found[best - 1 : best]:
        units.update(_stated_units(found[best], found[best - 1]))
    return found[best] if found else None


def _stated_units(names: Sequence[str], entries: Sequence[str]) -> dict[str, str]:
    """Return the units of columns in a line below their names; empty if the line contains something else.

    Examples
    --------
    >>> _stated_units(["id", "ra", "dec", "z"], ["number", "[hours]", "[deg]", "float"])
    {'ra': 'hours', 'dec': 'deg'}
    >>> _stated_units(["id", "ra", "dec", "z"], ["of", "Smith", "et", "al."])
    {}
    """
    stated = dict(zip(names, map(_without_brackets, entries), strict=False))
    places = [stated[name] for name in position_names(stated) or ()]
    if len(entries) != len(names) or not any(u and _are_units(u) for u in (places, list(stated.values()))):
        return {}
    return {name: unit for name, unit in stated.items() if unit and _are_units([unit])}


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
