"""Tables of FITS files and VOTables, through astropy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.candidates import Candidate, choose_table
from deepfits.tables.sky import from_fk4
from deepfits.tables.table import INFO, Table, as_info, from_astropy, require_distinct

log = logging.getLogger(__name__)


def read_fits(path: Path, selection: str | None, wanted: Sequence[str]) -> Table:
    """Read the table of a FITS file that is meant (`choose_table`)."""
    from astropy.io import fits
    from astropy.table import Table as AstropyTable

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
        hdu = hdus[places[choose_table(candidates, path, selection, wanted).key]]
        require_distinct(list(hdu.columns.names), path)
        gaps = _gaps_as_stored(hdu)
        content = AstropyTable.read(hdu, format="fits", unit_parse_strict="silent", mask_invalid=False)
        for name, is_gap in gaps.items():
            content[name] = np.ma.array(np.ma.getdata(content[name]), mask=is_gap)
        table = _one_row_to_many(from_astropy(content, str(path)))
        info = as_info(hdu.header.get(INFO.upper(), "{}"))
        frame = str(hdu.header.get("RADESYS", hdu.header.get("RADECSYS", ""))).strip().upper()
        is_fk4 = frame.startswith("FK4") or (frame == "" and hdu.header.get("EQUINOX") == 1950)
    table = replace(table, info=info)
    return from_fk4(table, table.columns) if is_fk4 else table


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
    frames = [f for of in (tree, *tree.resources, *_below(tree.resources)) for f in of.coordinate_systems]
    fk4 = {f.ID for f in frames if str(f.system) == "eq_FK4"}
    old = [field.name for field in meant.fields if field.ref in fk4 and field.ref is not None]
    return from_fk4(replace(table, info=as_info(meant.description)), old)


def _below(resources: Sequence[Any]) -> list[Any]:
    """Return the resources within resources, however deep."""
    return [one for of in resources for one in (*of.resources, *_below(of.resources))]
