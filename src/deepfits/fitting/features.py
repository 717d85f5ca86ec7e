"""Features on disk: one Parquet file per shard, and a description of how they were made.

Shapes: N objects, L latent dimensions, B bands.

A directory holds ``_features.json`` and one ``shard-00000.parquet`` per shard of the store; files are written
atomically. Every file records a fingerprint of the objects and pixels that it was made from, so that an
interrupted run can resume.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.config import convert
from deepfits.errors import InputError, naming, nearest
from deepfits.files import give_inside, read_json, write_json, writing
from deepfits.provenance import provenance
from deepfits.results import read_record
from deepfits.tables.parquet import from_arrow
from deepfits.tables.writing import to_arrow_table

DESCRIPTION = "_features.json"
SCHEMA_VERSION = 1
_UNREADABLE = "cannot read these features", "fit again"


def finish(
    directory: str | Path,
    settings: dict[str, Any],
    summary: dict[str, Any],
    *,
    made_from: str,
    description: str = DESCRIPTION,
) -> None:
    """Write the description, once all shards are done; `made_from` is the key for `is_finished`."""
    content = {"schema_version": SCHEMA_VERSION, "settings": settings, "summary": summary}
    content["made_from"] = made_from
    write_json(Path(directory) / description, content | {"provenance": provenance()})


def read_settings(directory: str | Path) -> dict[str, Any]:
    """Return the settings of a directory's features, from its description."""
    path = Path(directory) / DESCRIPTION
    settings = read_json(path, what="description of features").get("settings")
    return convert(settings, dict[str, Any], where=path, key="settings")


def is_finished(
    directory: str | Path, *, made_from: str | None = None, description: str = DESCRIPTION
) -> bool:
    """Return whether the description exists, and if `made_from` is given, whether it is of these shards."""
    path = Path(directory) / description
    if made_from is None or not path.exists():
        return path.exists()
    return read_json(path, what="description of features").get("made_from") == made_from


def write_shard(
    path: str | Path,
    columns: Mapping[str, np.ndarray],
    made_from: str,
    *,
    describe: Callable[[str], Any] | None = None,
) -> None:
    """Write columns, ``(N,)`` or ``(N, L)`` each, as Parquet, with `made_from` as the key for `is_done`.

    `describe` returns the unit and the description of a column.
    """
    table = to_arrow_table(columns, describe=describe)
    metadata = table.schema.metadata or {}
    table = table.replace_schema_metadata({**metadata, b"made_from": made_from.encode()})
    with writing(path) as temporary:
        pq.write_table(table, temporary)


def is_done(path: str | Path, made_from: str) -> bool:
    """Return whether a complete file with this `made_from` exists."""
    path = Path(path)
    if not path.exists():
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return False  # damaged, to be made again
    return metadata.get(b"made_from") == made_from.encode()


def read_features(directory: str | Path, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the features of all shards as NumPy columns; ``latent`` and ``latent_std`` are ``(N, L)``."""
    if columns is not None:
        columns = [columns] if isinstance(columns, str) else list(columns)
    paths = shard_paths(directory)
    names = column_names(paths[0])
    for name in columns or []:
        if name not in names:
            raise InputError(f"{paths[0]}: no column {name!r}; {nearest(name, names)}")
    tables = [_read_table(path, columns) for path in paths]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise InputError(f"{directory}: the shards have different columns ({error}); fit again") from error
    return {name: from_arrow(table[name]) for name in table.column_names}


def no_features(directory: str | Path) -> InputError:
    """Return the error of a directory without features, with those inside it, or an unfinished fit there."""
    places = sorted(place for place in Path(directory).glob("*") if place.is_dir())
    begun = [place for place in (Path(directory), *places) if read_record(place).get("stage") == "fit"]
    make = "make them with `deepfits fit`"
    if begun:
        make = f"the fit in {begun[0]} has not made any yet: run it again"
    remedy = give_inside(Path(directory), DESCRIPTION, make)
    return InputError(f"{directory}: no features there; {remedy}")


def shard_paths(directory: str | Path) -> list[Path]:
    """Return the feature files of a directory; at least one must exist, and all must be regular files."""
    paths = sorted(Path(directory).glob("shard-*.parquet"))
    if not paths:
        raise no_features(directory)
    for path in paths:
        if not path.is_file():  # opening a pipe would wait forever
            raise InputError(f"{path}: is not a regular file; remove it and fit again")
    return paths


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a feature file."""
    with naming(path, *_UNREADABLE):
        return list(pq.read_schema(path).names)


def read_shard(path: str | Path, columns: list[str] | None = None) -> dict[str, np.ndarray]:
    """Read one feature file as NumPy columns."""
    table = _read_table(path, columns)
    return {name: from_arrow(table[name]) for name in table.column_names}


def _read_table(path: str | Path, columns: list[str] | None) -> pa.Table:
    with naming(path, *_UNREADABLE):
        return pq.read_table(path, columns=columns)
