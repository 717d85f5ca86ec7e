"""Every table in and out: catalogues, labels and predictions, as people have them.

`read_table` takes Parquet, FITS, VOTable, HDF5, ECSV and text by their content, `write_table` writes what the
ending of the name says; columns are found by the names that surveys give them.
"""

from __future__ import annotations

from deepfits.tables.conditions import as_conditions, choose, matches_conditions
from deepfits.tables.matching import match_identities, match_positions, take_rows
from deepfits.tables.reading import Table, exists, from_arrow, from_astropy, read, read_table, require_column
from deepfits.tables.sky import (
    Positions,
    identities,
    identity_name,
    place_hint,
    positions,
    require_unique,
    with_our_names,
)
from deepfits.tables.text import Columns
from deepfits.tables.writing import ENDINGS, format_of, write_table
