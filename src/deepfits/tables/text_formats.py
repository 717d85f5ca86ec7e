"""Text tables in standard formats: ECSV, CDS and AAS machine-readable, IPAC, Markdown."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from deepfits.errors import InputError
from deepfits.tables.identities import identity_name
from deepfits.tables.names import position_names
from deepfits.tables.table import Table, from_astropy
from deepfits.tables.text import decode, read_text


def read_text_table(path: Path, text: str) -> Table:
    """Read a text table in the format that its content shows, else of any layout (`read_text`)."""
    start = text[:20000].lstrip()
    if start.startswith("# %ECSV"):
        return _from_astropy_text(path, text, "ascii.ecsv")
    if "Byte-by-byte Description" in start:
        return _from_astropy_text(path, text, "ascii.mrt" if start.startswith("Title:") else "ascii.cds")
    if (readme := _readme_for(path)) is not None:
        from astropy.table import Table as AstropyTable

        return from_astropy(AstropyTable.read(str(path), format="ascii.cds", readme=str(readme)), str(path))
    unframed = re.sub(r"(?m)^\+[-+=]+\+[ \t\r]*\n?", "", text)  # frames drawn by MySQL
    if kind := re.search(r"\\begin\{(tabular|deluxetable|longtable)", text):
        format = "aastex" if kind[1] == "deluxetable" else "latex"
        raise InputError(
            f"{path}: a LaTeX table; convert it to CSV, as with astropy: Table.read({path.name!r}, "
            f"format='ascii.{format}').write('{path.stem}.csv')"
        )
    if re.fullmatch(r"\s*(\|.*\|[ \t\r]*(?:\n|\Z))+", unframed):  # fixed width, Markdown, or framed
        text = re.sub(r"(?m)^\|[-|: \t\r]*\n|^\||\|[ \t\r]*$", "", unframed)
    elif re.match(r"(\\.*\n)*\|", start):
        return _from_astropy_text(path, text, "ascii.ipac")
    columns, units = read_text(text, path)
    return Table(columns=columns, units=units, where=str(path))


def read_if_of_objects(path: Path, text: str) -> Table | None:
    """Read a text table of unknown extension, if it has positions or identities; None otherwise."""
    try:
        table = read_text_table(path, text)
    except InputError:
        return None
    is_of_objects = position_names(table.columns) is not None or identity_name(table.columns) is not None
    return table if is_of_objects else None


def _readme_for(path: Path) -> Path | None:
    """Return the CDS ReadMe in the same directory, if it describes this table."""
    readme = path.with_name("ReadMe")
    if not readme.is_file():
        return None
    text, name = decode(readme.read_bytes()), re.sub(r"\.gz$", "", path.name)
    described = re.findall(r"(?mi)^Byte-by-byte Description of file: *(.+)$", text)
    patterns = [pattern for line in described for pattern in re.split("[, \r]+", line) if pattern]
    return readme if any(fnmatch(name, pattern) for pattern in patterns) else None


def _from_astropy_text(path: Path, text: str, format: str) -> Table:
    from astropy.table import QTable
    from astropy.table import Table as AstropyTable

    lines = text.splitlines()
    gaps = [("", "0"), ("null", "0")]  # the latter is used by Gaia
    table = (
        QTable.read(lines, format=format, fill_values=gaps)
        if format == "ascii.ecsv"
        else AstropyTable.read(lines, format=format)
    )
    return from_astropy(table, str(path))
