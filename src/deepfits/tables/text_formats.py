"""Text tables in standard formats: ECSV, CDS, AAS machine-readable, TDAT, DAOPHOT, IPAC, LaTeX, Markdown."""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.errors import InputError, naming
from deepfits.tables.entries import NUMBER, as_numbers
from deepfits.tables.identities import identity_name
from deepfits.tables.names import position_names
from deepfits.tables.table import Table, from_astropy, plain_array
from deepfits.tables.text import decode, read_text
from deepfits.tables.text_header import NOT_A_ROW

_BEGINNINGS = {"# %ECSV": "ascii.ecsv", "<HEADER>": "ascii.tdat", "#K ": "ascii.daophot"}
"""First words of text in formats that astropy reads."""
_RULE = re.compile(r"(?m)^[ ]*-+ *(?P<delimiter>[|;\t+])(?=.*---) *-+(?: *(?P=delimiter) *-+)*[ \t\r]*$")
"""A rule of dashes below a header, divided as the columns are; rows without values have a dash each."""
_WIDTHS = re.compile(r"(?m)^ *(=+|-+)(?: +(?:=+|-+))+[ \t\r]*$")
"""A rule divided by blanks: of reStructuredText, above and below header and rows, SQLite, or astropy."""
_LINES_AS_ASCII = {
    code: "|" if character in "│┃┆┇┊┋║" else "-" if character in "─━┄┅┈┉═" else "+"
    for code, character in ((code, chr(code)) for code in range(0x2500, 0x2580))
}
"""Lines and corners of frames, as SQLite, DuckDB and Polars draw them."""


def read_text_table(path: Path, text: str) -> Table:
    """Read a text table in the format that its content shows, else of any layout (`read_text`)."""
    start = text[:20000].lstrip()
    if format := next((name for begin, name in _BEGINNINGS.items() if start.startswith(begin)), None):
        from astropy.table import QTable

        gaps = [("", "0"), ("null", "0")]  # the latter is used by Gaia
        return from_astropy(QTable.read(text.splitlines(), format=format, fill_values=gaps), str(path))
    if "Byte-by-byte Description" in start:
        return _read_described(path, text.splitlines(), "Mrt" if start.startswith("Title:") else "Cds")
    if (readme := _readme_for(path)) is not None:
        return _read_described(path, str(path), "Cds", readme=str(readme))
    text = _cut_at_rule(text)
    if kinds := re.findall(r"\\begin\{(tabular|deluxetable|longtable)", text):
        text = _from_latex(text, path, kinds)
    elif (rows := _between_bars(text)) is not None:
        text = rows
    elif re.match(r"(\\.*\n)*\|", start):
        return _read_described(path, text.splitlines(), "Ipac")
    else:
        text = _from_ruled_header(text, path)
    return read_text(text, path)


def read_if_of_objects(path: Path, text: str) -> Table | None:
    """Read a text table of unknown extension, if it has positions or identities; None otherwise."""
    try:
        table = read_text_table(path, text)
    except InputError:
        return None
    is_of_objects = position_names(table.columns) is not None or identity_name(table.columns) is not None
    return table if is_of_objects else None


def _between_bars(text: str) -> str | None:
    """Return the rows of a table whose lines begin and end with bars, without what else is in the text.

    Databases draw a frame of dashes or lines around it, Markdown and Org a rule below its header, and
    astropy's fixed width neither; None if it is none of these.
    """
    if not re.search("[|│┃║]", text[:20000]):
        return None
    text = text.translate(_LINES_AS_ASCII)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [line for line in lines if line.startswith("|") and line.endswith("|")]
    rules = [line for line in lines if re.fullmatch(r"[|+][-|+=: \t]*[|+]", line) and {*line} & {*"-="}]
    if not rows or not (rules or len(rows) == len(lines)):
        return None
    return "\n".join(row[1:-1] for row in rows if row not in rules)


def _cut_at_rule(text: str) -> str:
    """Separate columns by tabs if a rule states their widths: entries may be empty, or contain blanks."""
    if (rule := _WIDTHS.search(text[:20000])) is None:
        return text
    rows = [line for line in text.splitlines() if line.strip() and not NOT_A_ROW.match(line)]
    starts = [part.start() for part in re.finditer(r"\S+", rule[0])]
    if not all(line[start - 1] == " " for line in rows for start in starts[1:] if start <= len(line)):
        return text if rule[1].startswith("-") else _WIDTHS.sub("", text)
    below = next((number for number, line in enumerate(rows) if number and _WIDTHS.match(line)), 0)
    rows = [line for number, line in enumerate(rows) if number == below or not _WIDTHS.match(line)]
    return "\n".join(
        "\t".join(line[a:b].strip() for a, b in pairwise([0, *starts[1:], None])) for line in rows
    )


def _from_ruled_header(text: str, path: Path) -> str:
    r"""Cut off what precedes a header with a rule of dashes below it, as SIMBAD, Skycat and VizieR draw it.

    Raise `InputError` for several such headers: VizieR writes all tables of a catalogue into one file.

    Examples
    --------
    >>> text = "SIMBAD\n\n# |typ|redshift\n--|---|--------\n1 |G  |0.3"
    >>> print(_from_ruled_header(text, Path("simbad.txt")))
    number |typ|redshift
    --|---|--------
    1 |G  |0.3
    """
    rules = list(_RULE.finditer(text))
    if not rules:
        return text
    delimiter = "|" if rules[0]["delimiter"] == "+" else rules[0]["delimiter"]
    number = len(re.findall("-+", rules[0][0])) - 1
    above = text[: rules[0].start()].splitlines(keepends=True)
    is_alike = [line.count(delimiter) == number for line in above[:-4:-1]]  # from the rule upwards
    if True not in is_alike or is_alike == [True] * 3:  # the latter are rows, not only names and units
        return text
    if len(rules) > 1:
        raise InputError(f"{path}: contains several tables; save each in a file of its own")
    first = len(above) - (2 if is_alike[1:2] == [True] else 1)
    header = re.sub(r"^#(?=\s*[|;\t])", "number", above[first])
    return header + "".join(above[first + 1 :]) + text[rules[0].start() :]


def _read_described(path: Path, source: str | list[str], format: str, **options: str) -> Table:
    """Read a table whose description states the types and missing values of columns: CDS, AAS, IPAC.

    Missing entries are those of all text tables, and the number that the description states, however it is
    written: ``?=-99`` beside -99.000. astropy compares the text, and fails on dashes and dots.
    """
    from astropy.io import ascii

    reader = ascii.get_reader(getattr(ascii, format), converters={"*": [ascii.convert_numpy(str)]}, **options)
    kind_of = reader.header.get_col_type
    reader.header.get_col_type = lambda column: kind_of(column) and ascii.core.StrType
    table = from_astropy(reader.read(source), str(path))
    stated = {name: text for text, _, *names in reader.data.fill_values for name in names}
    for column in reader.cols:
        if not issubclass(kind_of(column), ascii.core.NumType):
            continue
        text = pa.array(table.columns[column.name].tolist(), pa.string())
        values = as_numbers(pc.replace_substring_regex(text, r"^([+-]?)0+(\d)", r"\1\2"))
        null = stated.get(column.name, "")
        if values.dtype.kind in "iuf" and re.fullmatch(NUMBER, null):
            values = plain_array(np.ma.array(values, mask=values == float(null)))
        table.columns[column.name] = values
    return table


def _readme_for(path: Path) -> Path | None:
    """Return the CDS ReadMe in the same directory, if it describes this table."""
    readme = path.with_name("ReadMe")
    if not readme.is_file():
        return None
    text, name = decode(readme.read_bytes()), re.sub(r"\.gz$", "", path.name)
    described = re.findall(r"(?mi)^Byte-by-byte Description of file: *(.+)$", text)
    patterns = [pattern for line in described for pattern in re.split("[, \r]+", line) if pattern]
    return readme if any(fnmatch(name, pattern) for pattern in patterns) else None


def _from_latex(text: str, path: Path, kinds: Sequence[str]) -> str:
    """Convert a LaTeX table to text separated by tabs, without typesetting commands."""
    from astropy.io import ascii
    from astropy.table import Table as AstropyTable

    if len(kinds) > 1:
        raise InputError(
            f"{path}: contains {len(kinds)} LaTeX tables; save the one you need in a file of its own"
        )
    text = re.sub(r"\\(?:[hc]line(?:\{[^}]*\})?|(?:top|mid|bottom)rule)(?![A-Za-z])", "", text)
    units: list[str] = []
    if (head := re.search(r"\\tablehead\s*\{(.*?)\}\s*\\startdata", text, re.DOTALL)) is not None:
        lines = [line for line in " ".join(head[1].split()).split(r"\\") if r"\colhead" in line]
        units = lines[1].replace(r"\colhead", "").split("&") if len(lines) == 2 else []
        if lines[:1]:  # as astropy reads it: one line, of names
            text = text.replace(head[0], f"\\tablehead{{{lines[0]}}}\n\\startdata")
    with naming(path, "cannot read this LaTeX table", "write a header line and one row per line, or use CSV"):
        table = AstropyTable.read(
            text.replace("longtable", "tabular").splitlines(),
            format="ascii.aastex" if kinds[0] == "deluxetable" else "ascii.latex",
            converters={"*": [ascii.convert_numpy(str)]},
            fill_values=[],
        )

    def words(entry: object) -> str:
        plain = re.sub(r"\\(?:nodata|[lc]?dots)(?![A-Za-z])(?:\{\})?", "", str(entry)).replace(r"\pm", "±")
        plain = re.sub(r"\\(?:tablenotemark|tnote|footnotemark)\s*(?:\{[^}]*\}|\[[^\]]*\])", "", plain)
        plain = re.sub(r"\^?\{?\\circ\}?", "°", plain)
        plain = re.sub(r"\\(?:rm|it|bf|text\w*|math\w*|phantom\{[^}]*\})(?![A-Za-z])", "", plain)
        return re.sub(r"_\s+", "_", re.sub(r"[${}\\]", "", plain)).replace("~", " ").strip()

    below = [[words(unit).strip("() ") or "-" for unit in units]] if units else []
    return "\n".join("\t".join(map(words, row)) for row in (table.colnames, *below, *table.iterrows()))
