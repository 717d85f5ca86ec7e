"""Reading of FITS tables and VOTables with astropy."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.candidates import Candidate, choose_table
from deepfits.tables.identities import identity_name
from deepfits.tables.names import position_names
from deepfits.tables.sky import frame_of
from deepfits.tables.table import INFO, Table, as_info, from_astropy, require_distinct

_TEXT_FIELD = re.compile(
    rb"""(<(?:\w+:)?FIELD\b)(?=[^>]*\bdatatype=["'](?:char|unicodeChar|string)\b)([^>]*)"""
)
_LENGTH = re.compile(rb"""\barraysize=["'][^"']*["']""")
log = logging.getLogger(__name__)


def read_fits(source: Path | BytesIO, path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the selected table of a FITS file (see `choose_table`); `path` is for messages."""
    from astropy.io import fits

    size = path.stat().st_size
    with fits.open(source, memmap=False) as hdus:
        candidates: list[Candidate] = []
        hdu_numbers: dict[str, int] = {}
        for number, hdu in enumerate(hdus):
            if not isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)) or isinstance(hdu, fits.CompImageHDU):
                continue
            rows, width = int(hdu.header["NAXIS2"]), int(hdu.header["NAXIS1"])
            if rows * width > 1000 * size:
                raise InputError(f"{path}: HDU {number} declares {rows * width} bytes in a file of {size}")
            for card in hdu.header["TDIM*"].cards:
                if not _is_dimension(card.value, str(hdu.header.get(f"TFORM{card.keyword[4:]}", ""))):
                    del hdu.header[card.keyword]  # SDSS's CasJobs: (1) for text; astropy reads a letter
            for card in hdu.header["TZERO*"].cards:  # astropy fails on unsigned integers marked by 32768.0
                if isinstance(card.value, float) and card.value.is_integer():
                    is_highest = math.isclose(card.value, 2**63, rel_tol=1e-14)  # 9.22337203685478E+18
                    hdu.header[card.keyword] = 2**63 if is_highest else int(card.value)
            names = list(hdu.columns.names)
            if hdu.name == "LDAC_IMHEAD" or names == ["Field Header Card"]:
                continue  # SExtractor's copy of the image header
            key = hdu.name if hdu.name and hdu.name not in hdu_numbers else str(number)
            hdu_numbers[key] = number
            candidates.append(Candidate(key, names, rows))
        chosen = choose_table(candidates, path, selection, wanted)

        def read(candidate: Candidate) -> Table:
            return read_hdu(hdus[hdu_numbers[candidate.key]], path)

        return _with_positions_from_sibling(read(chosen), [c for c in candidates if c is not chosen], read)


def _is_dimension(stated: Any, form: str) -> bool:
    """Return whether a TDIM has the number of elements of its column, whose TFORM is `form`."""
    repeat = re.match(r"\s*(\d*)[A-Z]", form)
    shape = re.fullmatch(r"\s*\(\s*(\d+(?:\s*,\s*\d+)*)\s*\)\s*", str(stated))
    if repeat is None or shape is None:
        return False
    is_variable = re.match(r"\s*\d*[PQ]", form) is not None
    return is_variable or math.prod(map(int, shape[1].split(","))) == int(repeat[1] or 1)


def read_hdu(hdu: Any, path: str | Path) -> Table:
    """Read the table of an HDU; `path` is for messages."""
    from astropy.table import Table as AstropyTable

    if hdu.header.get("ZTABLE"):
        raise InputError(f"{path}: this table was compressed by fpack; unpack it with funpack")
    require_distinct(list(hdu.columns.names), path)
    gaps = _gaps_as_stored(hdu)
    content = AstropyTable.read(hdu, format="fits", unit_parse_strict="silent", mask_invalid=False)
    for name, is_gap in gaps.items():
        content[name] = np.ma.array(np.ma.getdata(content[name]), mask=is_gap)
    table = _one_row_to_many(from_astropy(content, str(path)))
    stated = (hdu.header.get("RADESYS", hdu.header.get("RADECSYS", "")), hdu.header.get("EQUINOX"))
    frames = dict.fromkeys(table.columns, frame) if (frame := frame_of(*stated)) else table.frames
    return replace(table, info=as_info(hdu.header.get(INFO.upper(), "{}")), frames=frames)


def _with_positions_from_sibling(
    table: Table, siblings: Sequence[Candidate], read: Callable[[Candidate], Table]
) -> Table:
    """Add the columns of another table in the file that has the positions of the same objects, row by row.

    In DESI's redrock files REDSHIFTS has no positions, FIBERMAP does. A table without identities, as in
    COSMOS-Web's catalogue, is taken to list the objects of one with as many rows.
    """
    if position_names(table.columns) is not None:
        return table
    identity, number = identity_name(table.columns), len(next(iter(table.columns.values()), ()))
    for sibling in siblings:
        if sibling.rows != number or position_names(sibling.names) is None:
            continue
        if identity is not None and identity not in sibling.names:
            continue
        other = read(sibling)
        if identity is None or np.array_equal(other.columns[identity], table.columns[identity]):
            log.warning(
                "%s: positions are taken from %s in the same file, which lists the same objects%s",
                *(table.where, sibling.key, "" if identity else ", as far as its number of rows tells"),
            )
            parts = ("columns", "units", "ucds", "frames")
            return replace(table, **{part: getattr(other, part) | getattr(table, part) for part in parts})
    return table


def _gaps_as_stored(hdu: Any) -> dict[str, np.ndarray]:
    """Return masks of missing values by name, in columns of which astropy does not; remove their TNULL.

    TNULL refers to stored values, but astropy compares it with scaled ones; astropy reads a logical value
    that is neither T nor F as false, and an empty integer of an ASCII table as 0. TNULL of floats, which some
    archives write, is not allowed.
    """
    stored, gaps = np.asarray(hdu.data).view(np.ndarray), {}
    is_ascii = hdu.header["XTENSION"] == "TABLE"
    for number, column in enumerate(hdu.columns, 1):
        values = stored[column.name] if column.name in (stored.dtype.names or ()) else np.zeros(0)
        is_scaled = column.bscale not in (None, "", 1) or column.bzero not in (None, "", 0)
        if is_ascii and not str(column.format).startswith("A"):
            text = np.char.strip(values.astype("S"))
            gaps[column.name] = (text == b"") | (text == str(column.null).strip().encode())
            hdu.data.field(column.name)  # converted while TNULL is known
            column.null = None
        elif column.null is not None and is_scaled and values.dtype.kind in "iu":
            gaps[column.name] = np.asarray(values == column.null)
            column.null = None
        elif values.dtype.kind == "f" and isinstance(null := hdu.header.get(f"TNULL{number}"), (int, float)):
            gaps[column.name] = np.isclose(values, null, rtol=1e-6, atol=0)
        elif str(column.format).strip() in ("L", "1L") and (values == 0).any():
            gaps[column.name] = np.asarray(values == 0)
    return gaps


def _one_row_to_many(table: Table) -> Table:
    """Unfold a structure of arrays, which IDL writes as one row whose columns list all objects.

    Beside positions that are lists, columns of a single value, such as a version, apply to all objects, and
    other lists are those of nothing.
    """
    if any(len(values) != 1 for values in table.columns.values()):
        return table
    lengths = {name: values.shape[1] if values.ndim > 1 else 0 for name, values in table.columns.items()}
    pair = position_names(lengths)
    length = lengths[pair[0]] if pair else max(lengths.values(), default=0)
    if length <= 1 or (set(lengths.values()) != {length} and (pair is None or lengths[pair[1]] != length)):
        return table
    columns = {
        name: np.repeat(values, length) if values.ndim == 1 else values[0]
        for name, values in table.columns.items()
        if lengths[name] in (0, length)
    }
    unused = {name: f"{n} values in one row" for name, n in lengths.items() if name not in columns}
    return replace(table, columns=columns, unused=table.unused | unused)


def read_votable(path: Path, content: bytes, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the selected table of a VOTable (see `choose_table`)."""
    from astropy.io import votable
    from astropy.utils.xml.iterparser import get_xml_iterator

    is_fits = False
    with get_xml_iterator(BytesIO(content)) as parts:
        for is_start, name, attributes, _ in parts:
            is_fits |= name == "FITS"
            # astropy would fetch it, whether file: or http:. At its end an element has text, not attributes.
            if is_start and name == "STREAM" and "href" in attributes:
                raise InputError(
                    f"{path}: its data are in another file ({attributes['href'][:80]}); only data stored "
                    "in the VOTable itself are read (TABLEDATA or BINARY2)"
                )
    if is_fits:
        raise InputError(f"{path}: its data are FITS inside the VOTable; save it as FITS, or with BINARY2")
    if b"<TABLEDATA" in content:  # text beyond the declared length, 1 if none is declared, would be lost
        content = _TEXT_FIELD.sub(
            lambda part: part[1] + b' arraysize="*"' + _LENGTH.sub(b"", part[2]), content
        )
    tree = votable.parse(BytesIO(content), verify="ignore")
    for info in tree.iter_info():
        if (info.name, info.value) == ("QUERY_STATUS", "ERROR"):
            raise InputError(
                f"{path}: contains an error of the service instead of data: {str(info.content)[:200]!r}; "
                "repeat the query"
            )
        if (info.name, info.value) == ("QUERY_STATUS", "OVERFLOW"):
            log.warning("WARNING: %s: the service truncated the result (OVERFLOW): rows are missing", path)
    tables = list(tree.iter_tables())
    candidates = [
        Candidate(str(table.name or table.ID or number), [f.name for f in table.fields], len(table.array))
        for number, table in enumerate(tables, 1)
    ]
    chosen = candidates.index(choose_table(candidates, path, selection, wanted))
    selected = tables[chosen]
    table = from_astropy(selected.to_table(use_names_over_ids=True), str(path))
    frames = {s.ID: frame_of(s.system or "ICRS", s.equinox) for s in tree.iter_coosys()}
    named = {field.name: frames[field.ref] for field in selected.fields if field.ref in frames}
    if len(frames) == 1 and not named:
        named = dict.fromkeys(table.columns, *frames.values())
    frames = {name: frame for name, frame in named.items() if frame}
    return replace(table, info=as_info(selected.description), frames=table.frames | frames)
