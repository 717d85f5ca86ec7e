"""Tables of FITS files and VOTables, through astropy."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.candidates import Candidate, choose_table
from deepfits.tables.sky import identity_name, position_names
from deepfits.tables.table import INFO, Table, as_info, from_astropy, require_distinct

log = logging.getLogger(__name__)


def read_fits(path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the table of a FITS file that is meant (`choose_table`)."""
    from astropy.io import fits

    size = path.stat().st_size
    with fits.open(path, memmap=False) as hdus:
        candidates: list[Candidate] = []
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
            candidates.append(Candidate(key, names, rows))
        chosen = choose_table(candidates, path, selection, wanted)

        def read(one: Candidate) -> Table:
            return _of_hdu(hdus[places[one.key]], path)

        return _with_places_beside(read(chosen), [c for c in candidates if c is not chosen], read)


def _of_hdu(hdu: Any, path: Path) -> Table:
    """Return the table of an HDU."""
    from astropy.table import Table as AstropyTable

    if hdu.header.get("ZTABLE"):
        raise InputError(f"{path}: a table that fpack compressed; unpack it with funpack, and give that")
    require_distinct(list(hdu.columns.names), path)
    gaps = _gaps_as_stored(hdu)
    content = AstropyTable.read(hdu, format="fits", unit_parse_strict="silent", mask_invalid=False)
    for name, is_gap in gaps.items():
        content[name] = np.ma.array(np.ma.getdata(content[name]), mask=is_gap)
    table = _one_row_to_many(from_astropy(content, str(path)))
    stated = (hdu.header.get("RADESYS", hdu.header.get("RADECSYS", "")), hdu.header.get("EQUINOX"))
    frames = dict.fromkeys(table.columns, frame) if (frame := _frame(*stated)) else table.frames
    return replace(table, info=as_info(hdu.header.get(INFO.upper(), "{}")), frames=frames)


def _frame(system: Any, equinox: Any) -> str:
    """Return the frame that a file states, as `Table` has it; '' for ICRS and J2000, and where it says none.

    Examples
    --------
    >>> _frame("FK4", None), _frame("", 1975.0), _frame("eq_FK5", "J2015.5"), _frame("ICRS", 2016.0)
    ('fk4 B1950', 'fk4 B1975', 'fk5 J2015.5', '')
    """
    number = re.search(r"(?:1[89]|20)\d\d(?:\.\d*)?", str(equinox))
    year = float(number[0]) if number else None
    kind = re.sub("^(?:EQ_)?(FK[45]).*", r"\1", str(system).strip().upper())
    if kind == "FK4" or (kind == "" and year is not None and year < 1984):  # as the FITS standard has it
        return f"fk4 B{year or 1950:g}"
    return f"fk5 J{year:g}" if kind in ("FK5", "") and year not in (None, 2000) else ""


def _with_places_beside(
    table: Table, others: Sequence[Candidate], read: Callable[[Candidate], Table]
) -> Table:
    """Add the columns of another table of the file that has the places, of the same objects row by row.

    Such are the files of DESI's redrock: REDSHIFTS and FIBERMAP.
    """
    identity = identity_name(table.columns)
    if identity is None or position_names(table.columns) is not None:
        return table
    for one in others:
        has_all = identity in one.names and position_names(one.names) is not None
        if has_all and one.rows == len(table.columns[identity]):
            other = read(one)
            if np.array_equal(other.columns[identity], table.columns[identity]):
                log.warning(
                    "%s: of the same objects as %s in this file, which says where they are",
                    *(table.where, one.key),
                )
                return replace(
                    table,
                    columns=other.columns | table.columns,
                    units=other.units | table.units,
                    ucds=other.ucds | table.ucds,
                    frames=other.frames | table.frames,
                )
    return table


def _gaps_as_stored(hdu: Any) -> dict[str, np.ndarray]:
    """Return where scaled columns and truth values have no value, by name, and take TNULL away from those.

    It is a number as stored; astropy looks for it among the scaled ones, and takes a truth value that is
    neither T nor F as false.
    """
    stored, gaps = np.asarray(hdu.data).view(np.ndarray), {}
    for column in hdu.columns:
        values = stored[column.name] if column.name in (stored.dtype.names or ()) else np.zeros(0)
        is_scaled = column.bscale not in (None, "", 1) or column.bzero not in (None, "", 0)
        if column.null is not None and is_scaled and values.dtype.kind in "iu":
            gaps[column.name] = np.asarray(values == column.null)
            column.null = None
        elif str(column.format).strip() in ("L", "1L") and (values == 0).any():
            gaps[column.name] = np.asarray(values == 0)
    return gaps


def _one_row_to_many(table: Table) -> Table:
    """Unfold a structure of arrays, which IDL writes as one row: each column a list of all objects."""
    lengths = {values.shape[1] if values.ndim == 2 else 0 for values in table.columns.values()}
    if len(lengths) != 1 or lengths <= {0, 1} or any(len(values) != 1 for values in table.columns.values()):
        return table
    return replace(table, columns={name: values[0] for name, values in table.columns.items()})


def read_votable(path: Path, content: bytes, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the table of a VOTable that is meant (`choose_table`)."""
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
        Candidate(str(table.name or table.ID or number), [f.name for f in table.fields], len(table.array))
        for number, table in enumerate(tables, 1)
    ]
    chosen = candidates.index(choose_table(candidates, path, selection, wanted))
    meant = tables[chosen]
    table = from_astropy(meant.to_table(use_names_over_ids=True), str(path))
    systems = [f for of in (tree, *tree.resources, *_below(tree.resources)) for f in of.coordinate_systems]
    frames = {f.ID: _frame(f.system or "ICRS", f.equinox) for f in systems}
    named = {field.name: frames[field.ref] for field in meant.fields if field.ref in frames}
    if len(frames) == 1 and not named:
        named = dict.fromkeys(table.columns, *frames.values())
    frames = {name: frame for name, frame in named.items() if frame}
    return replace(table, info=as_info(meant.description), frames=table.frames | frames)


def _below(resources: Sequence[Any]) -> list[Any]:
    """Return the resources within resources, however deep."""
    return [one for of in resources for one in (*of.resources, *_below(of.resources))]
