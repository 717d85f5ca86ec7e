"""Reading and writing of tables: catalogues, labels and predictions.

`read_table` recognises Parquet, FITS, VOTable, HDF5, ECSV and text by content, and `write_table` chooses the
format from the file extension. Columns are recognised by the names that surveys commonly give them.
"""

from deepfits.tables.conditions import as_conditions, as_truth, choose, matches_conditions
from deepfits.tables.identities import identities, identity_name, likely_identity, require_unique
from deepfits.tables.matching import (
    SAME_PLACE_ARCSEC,
    apart_arcsec,
    has_known_positions,
    likely_match,
    match_identities,
    match_one_to_one,
    require_aligned,
    take_rows,
    unit_vectors,
    warn_of_running_numbers,
)
from deepfits.tables.parquet import from_arrow, parquet_files
from deepfits.tables.reading import exists, from_memory, read, read_table
from deepfits.tables.sky import main_column, place_hint, positions, with_degrees, with_standard_names
from deepfits.tables.table import Columns, Table, require_column, with_list, without_lists
from deepfits.tables.writing import format_of, require_storable, write_table
