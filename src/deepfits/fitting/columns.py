"""Units, UCDs and descriptions of the columns of features and predictions, for formats that hold them.

UCDs are from the IVOA's list (UCD1+, version 1.5); that of a band is the part of the spectrum that contains
its central wavelength (u: ``em.opt.U``).
"""

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

_SPECTRUM = {
    "u": "em.opt.U", "b": "em.opt.B", "g": "em.opt.B", "v": "em.opt.V", "r": "em.opt.R", "i": "em.opt.I",
    "z": "em.opt.I", "y": "em.opt.I", "j": "em.IR.J", "h": "em.IR.H", "k": "em.IR.K", "ks": "em.IR.K",
    "vis": "em.opt.R",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """Unit, UCD and description of a column."""

    unit: str = ""  # as in the FITS and VOUnits standards; empty for a dimensionless number
    ucd: str = ""  # unified content descriptor; empty if none applies
    words: str = ""


@cache
def _columns(table: str) -> dict[str, Column]:
    """Return the columns of a table and those of any, as ``columns.csv`` lists them."""
    with Path(__file__).with_name("columns.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if table in (row.pop("table").split() or [table])]
    return {row.pop("name"): Column(**row) for row in rows}


def describe(name: str, *, table: str = "features") -> Column:
    """Describe a column of features or predictions, or of another `table` that is joined to them.

    In the table ``"detections"`` fluxes and magnitudes are measured ones. In any other they may be anything,
    and have no description. Unknown columns have an empty one.

    Examples
    --------
    >>> describe("flux_model_err_r").ucd
    'stat.error;phot.flux.density;em.opt.R'
    >>> describe("flux_g", table="mine")
    Column(unit='', ucd='', words='')
    """
    columns = _columns(table)
    if name in columns:
        return columns[name]
    if "_minus_" in name and table == "features":
        name = "colour_" + name.replace("_minus_", " - ")
    parts = name.split("_")
    for number in reversed(range(1, len(parts))):  # flux_model_err_<band> before flux_model_<band>
        prefix, band = "_".join(parts[:number]), "_".join(parts[number:])
        if known := columns.get(f"{prefix}_<band>"):
            words = known.words if "<band>" in known.words else f"{known.words}, band <band>"
            return replace(known, ucd=_with_band(known.ucd, band), words=words.replace("<band>", band))
    return Column()


def _with_band(ucd: str, band: str) -> str:
    word = _SPECTRUM.get(band.lower())
    what, modelled, _ = ucd.partition(";meta.modelled")
    return f"{what};{word}{modelled}" if word else ucd
