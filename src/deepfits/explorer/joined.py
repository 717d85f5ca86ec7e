"""One table of everything known about a run's objects: features, catalogue, predictions, truth, tags.

Rows are those of the features; columns are read on first access, so that a million objects load in seconds.
"""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.explorer.tags import read_tags, tag_column
from deepfits.files import contents, read_json
from deepfits.fitting.columns import Column, describe
from deepfits.fitting.features import DESCRIPTION, column_names, no_features, shard_paths
from deepfits.fitting.features import read_features as read_columns
from deepfits.redshifts.head import HEAD
from deepfits.results import read_record, require_finished, warn_of_other_inputs
from deepfits.survey.store import CutoutStore, shard_catalogue
from deepfits.tables import (
    SAME_PLACE_ARCSEC,
    Columns,
    Table,
    apart_arcsec,
    from_memory,
    has_known_positions,
    identities,
    identity_name,
    likely_match,
    match_identities,
    match_one_to_one,
    place_hint,
    positions,
    read,
    require_aligned,
    take_rows,
    warn_of_running_numbers,
    with_degrees,
    with_standard_names,
    without_lists,
)

if TYPE_CHECKING:
    import pandas

FEATURES = ("features-both", "features-optimise", "features-embedder")
RADIUS_ARCSEC = 1.0
TRUTH = Path("sky") / "truth.parquet"
_KINDS = "fiubUS"
ReadColumns: TypeAlias = Callable[[list[str]], Mapping[str, np.ndarray]]
TableLike: TypeAlias = str | Path | Any
"""A file, a table of astropy, pandas, Polars or Arrow, or a mapping of columns."""
log = logging.getLogger(__name__)


class JoinedTable(Mapping[str, np.ndarray]):
    """Columns of features (a directory), joined with those of their catalogue and of other tables.

    `origin` maps each column to the table that it is from. Parameters and errors are those of `join`; a
    column whose name is taken becomes ``name.column``.

    Examples
    --------
    >>> table = JoinedTable("run/features-both", tables={"mine": "spectra.csv"})  # doctest: +SKIP
    >>> bright = table["mag_i"] < 22  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str | Path,
        *,
        store: CutoutStore | str | Path | None = None,
        tables: Mapping[str, TableLike] | None = None,
        radius_arcsec: float = RADIUS_ARCSEC,
    ) -> None:
        self.directory = Path(features)
        self._lock = threading.RLock()
        self._read: dict[str, np.ndarray] = {}
        self._readers: dict[str, Callable[[], np.ndarray]] = {}
        self._sharded: dict[str, tuple[ReadColumns, str]] = {}  # columns in shards, and their names there
        self.origin: dict[str, str] = {}
        self._joined: dict[str, Column] = {}  # as the user's catalogue, or a further table, states them

        read = partial(read_columns, features)
        for name in column_names(shard_paths(features)[0]):
            self._add_sharded(name, read, name, "features")
        if tags := read_tags(self.directory):
            self.add("tag", lambda: tag_column(tags, self["object_id"]), "tags")
        self.store = CutoutStore(store) if isinstance(store, str | Path) else store
        self.store_row = None if self.store is None else self._add_catalogue(self.store)
        for label, path in (tables or {}).items():
            self.add_table(label, path, radius_arcsec)

    def __getitem__(self, name: str) -> np.ndarray:
        with self._lock:
            if name not in self._read:
                if name not in self._readers:
                    raise KeyError(self.missing(name))
                self._read[name] = self._readers[name]()
            return self._read[name]

    def load(self, names: Iterable[str]) -> None:
        """Read several columns together: each shard is opened once, not once for each column."""
        with self._lock:
            wanted: dict[ReadColumns, dict[str, str]] = {}
            for name in names:
                if name in self._sharded and name not in self._read:
                    read, column = self._sharded[name]
                    wanted.setdefault(read, {})[name] = column
            for read, columns in wanted.items():
                values = read(list(columns.values()))
                self._read |= {name: values[column] for name, column in columns.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def num_rows(self) -> int:
        """Number of objects."""
        return len(self["object_id"])

    def add(self, name: str, values: np.ndarray | Callable[[], np.ndarray], origin: str = "") -> None:
        """Add a column, or a function that reads it; a column of the same name is replaced."""
        if not callable(values):
            values = np.asarray(values)
            if values.shape[:1] != (self.num_rows,):
                raise InputError(
                    f"column {name!r} has shape {values.shape}; there are {self.num_rows} objects"
                )
        with self._lock:
            self._read.pop(name, None)
            self._sharded.pop(name, None)
            self._readers[name] = values if callable(values) else lambda: values
            self.origin[name] = origin
            self._joined.pop(name, None)

    def _add_sharded(self, name: str, read: ReadColumns, column: str, origin: str) -> None:
        self.add(name, lambda: read([column])[column], origin)
        self._sharded[name] = read, column

    def describe(self, name: str) -> Column:
        """Describe a column by its name and its table: a user's ``flux_g`` is not that of a prediction."""
        if name in self._joined:
            return self._joined[name]
        is_detected = self.origin[name] == "catalogue" and "is_primary" in self  # made by `detect`
        return describe(name, table="detections" if is_detected else self.origin[name] or "features")

    def missing(self, name: str) -> str:
        """Return the error message for a missing column, with similar names and where it may be found."""
        folded = {column.lower(): column for column in self._readers}
        close = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
        named = [f"{n!r}" + (f" ({self.origin[n]})" if self.origin[n] else "") for n in close]
        origins = ", ".join(dict.fromkeys(origin for origin in self.origin.values() if origin))
        near = f"; the nearest: {', '.join(named)}" if named else ""
        hint = _find_column(self, name) or "join a table that has it (export --tables NAME=PATH)"
        return f"{self.directory}: no column {name!r} among those of {origins}{near}; {hint}"

    def _add_catalogue(self, store: CutoutStore) -> np.ndarray:
        """Add the catalogue's columns, and return the rows of the objects in the store."""
        columns = shard_catalogue(store.shards[0])
        place = [name for name in ("ra", "dec") if name in columns and name in self._readers]
        self.load(["object_id", *place])
        catalogue = store.catalogue(place)
        rows = match_identities(self["object_id"], catalogue["object_id"])
        remedy = "give the store that they were fitted from"
        if (rows < 0).all():
            raise InputError(f"{store.directory}: contains none of the objects of {self.directory}; {remedy}")
        if len(place) == 2:  # features have the positions of their store
            found = np.flatnonzero(rows >= 0)
            is_far = apart_arcsec(self, found, rows[found], catalogue) > RADIUS_ARCSEC
            if is_far.any():
                raise InputError(
                    f"{store.directory}: {int(is_far.sum())} objects of {self.directory} lie elsewhere in "
                    f"this store, object_id {self['object_id'][found[is_far]][0]} among them; {remedy}"
                )

        def read(names: list[str]) -> Mapping[str, np.ndarray]:
            return {name: take_rows(values, rows) for name, values in store.catalogue(names).items()}

        for name in columns:
            if name not in self._readers:
                key = self._free_name(name, "catalogue")
                self._add_sharded(key, read, name, "catalogue")
                if unit := store.info.extra.get("units", {}).get(name):
                    self._joined[key] = replace(describe(name, table=""), unit=unit)
        return rows

    def add_table(
        self, label: str, path: TableLike, radius_arcsec: float = RADIUS_ARCSEC, *, of_run: bool = False
    ) -> None:
        """Match the rows of another table, in a file or in memory, to the objects, and add its columns.

        Rows are matched by position, one to one, if positions are known in both tables (detection catalogues
        and spectroscopic ones rarely share identities), unless most rows of the same ``object_id`` are at the
        same position; else by ``object_id``, without those that lie elsewhere. If several rows match an
        object the first is used, with a warning; in tables made by the run (`of_run`) each row is a different
        object.

        Columns keep their names, except for positions, which become ``ra`` and ``dec`` (degrees, ICRS).
        Identities and positions are added where they are the table's own, not those of the objects.
        """
        table = read(path) if isinstance(path, str | Path) else from_memory(path, label)
        path = path if isinstance(path, str | Path) else label
        sky = positions(table.columns, table.units, path)
        columns = with_standard_names(table, sky)
        has_positions = sky is not None and bool(sky.is_known.any()) and has_known_positions(self)
        rows, nearest = self._match_identities(table, columns, has_positions=has_positions)
        by_position, hint = False, ""
        if sky is not None and has_positions:
            hint = place_hint(sky.ra, sky.dec, self["ra"], self["dec"])
            matched, separation, near = match_one_to_one(
                self["ra"], self["dec"], sky.ra, sky.dec, radius_arcsec
            )
            is_pair = matched >= 0
            by_position = bool(2 * (rows[is_pair] == matched[is_pair]).sum() <= is_pair.sum())
            if by_position and not is_pair.any() and (rows >= 0).any():
                hint = f", although {(rows >= 0).sum()} have the same object_id: they lie elsewhere{hint}"
            if by_position:
                rows, nearest = matched, near
                require_aligned(path, separation[is_pair], self["ra"], self["dec"], columns, radius_arcsec)
            else:
                rows = self._without_far(rows, columns, path, radius_arcsec)
        if (rows < 0).all():
            hint = hint or likely_match(table.columns, self["object_id"])
            hint = hint or (f"; {sky.lost}" if sky is not None and sky.lost else "")
            raise InputError(
                f"{path}: no row matches an object of {self.directory}, by object_id or position{hint}"
            )
        if not of_run:
            _warn_of_duplicates(rows, nearest, columns, path, by_position=by_position)
        shared = None if by_position and not of_run else columns.get("object_id")
        added = with_degrees(table.columns, sky)
        has_row = rows >= 0
        # Rows of those that match: the table may be large.
        kept = np.where(has_row, np.cumsum(has_row) - 1, -1)
        for name, values in (added if of_run else without_lists(added, path, table.unused)).items():
            is_place = sky is not None and name in ("ra", "dec")
            is_ours = values is shared
            if is_place and has_positions and shared is not None:
                is_ours = np.array_equal(values[rows[has_row]], self[name][has_row])
            if not is_ours and values.ndim == 1 and values.dtype.kind in _KINDS:
                key = self._free_name(name, label)
                self.add(key, partial(take_rows, values[rows[has_row]], kept), label)
                made = "truth" if label == "truth" else "predictions"
                about = describe(name, table=made if of_run else "")
                unit = "deg" if is_place else table.units.get(name, about.unit if of_run else "")
                self._joined[key] = replace(about, unit=unit)

    def _free_name(self, name: str, label: str) -> str:
        """Prefix a name that is taken, whatever its capitals, which neither FITS nor SQL distinguishes."""
        return f"{label}.{name}" if name.lower() in map(str.lower, self._readers) else name

    def _match_identities(
        self, table: Table, columns: Columns, *, has_positions: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Match by identity: return the row of each object, ``(N,)``, and the object of each row; −1 if none.

        `columns` are those of the table under our names. If positions are known in both tables
        (`has_positions`), the table need not have identities.
        """
        name = identity_name(table.columns) or "object_id"
        none = np.full(self.num_rows, -1), np.full(0, -1)
        if "object_id" not in columns:
            return none
        try:
            others = identities(columns["object_id"], table.where, name)
        except InputError:
            if not has_positions:
                raise
            return none
        objects = self["object_id"]
        if not has_positions and name != "object_id":
            warn_of_running_numbers(table.where, name, objects, others)
        return match_identities(objects, others), match_identities(others, objects)

    def _without_far(
        self, rows: np.ndarray, columns: Columns, path: str | Path, radius_arcsec: float
    ) -> np.ndarray:
        """Leave out rows of the same identity as an object that lie elsewhere, with a warning."""
        found = np.flatnonzero(rows >= 0)
        is_far = apart_arcsec(self, found, rows[found], columns) > radius_arcsec
        if is_far.any():
            log.warning(
                "WARNING: %s: %d rows have the object_id of an object that is more than %g″ away, and are "
                "not used",
                *(path, is_far.sum(), radius_arcsec),
            )
        out = rows.copy()
        out[found[is_far]] = -1
        return out

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame of all columns; each latent is one array."""
        self.load(self)
        return _to_pandas(self)

    def __repr__(self) -> str:
        return f"<JoinedTable of {self.directory}: {self.num_rows} objects, {len(self)} columns>"

    def _repr_html_(self) -> str:
        return _html("Joined table", self, self.directory)


def _warn_of_duplicates(
    rows: np.ndarray, nearest: np.ndarray, columns: Columns, path: str | Path, *, by_position: bool
) -> None:
    """Warn if objects have several rows; `rows` are the rows of objects, `nearest` the objects of rows."""
    extra = np.flatnonzero(nearest >= 0)
    extra = extra[(rows[nearest[extra]] >= 0) & (rows[nearest[extra]] != extra)]
    if by_position:  # rows farther away are neighbours, not duplicates, unless they have the same identity
        first = rows[nearest[extra]]
        is_double = apart_arcsec(columns, extra, first) < SAME_PLACE_ARCSEC
        if "object_id" in columns:
            is_double |= columns["object_id"][extra] == columns["object_id"][first]
        extra = extra[is_double]
    if len(extra):
        log.warning(
            "WARNING: %s: %d of %d rows are duplicates of an object whose %s row is used; to use "
            "another, remove that one",
            *(path, len(extra), len(nearest), "nearest" if by_position else "first"),
        )


def _to_pandas(columns: Mapping[str, np.ndarray]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame({name: list(v) if v.ndim > 1 else v for name, v in columns.items()})


class Features(dict[str, np.ndarray]):
    """Columns of features, ``(N,)`` or ``(N, L)`` each, with a summary for notebooks."""

    directory = Path()

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame; each latent is one array, as where pandas reads the files."""
        return _to_pandas(self)

    def __missing__(self, name: str) -> np.ndarray:
        raise KeyError(f"{self.directory}: no column {name!r}; {nearest(str(name), self)}")

    def __repr__(self) -> str:
        number = len(next(iter(self.values()), ()))
        return f"<Features {self.directory}: {number} objects, {len(self)} columns>"

    def _repr_html_(self) -> str:
        return _html("Features", self, self.directory)


def read_features(directory: str | Path, columns: Sequence[str] | None = None) -> Features:
    """Read all or some columns of features; ``latent`` and ``latent_std`` are ``(N, L)``.

    Raises
    ------
    InputError
        There are no features, or they lack a column.
    """
    features = Features(read_columns(directory, columns))
    features.directory = Path(directory)
    return features


def _html(title: str, columns: Mapping[str, np.ndarray], directory: Path) -> str:
    """Return a summary of features for notebooks, with images of the first galaxies."""
    from deepfits.notebook import NUM_PICTURES, describe_columns

    facts, pictures = {}, None
    with suppress(InputError):  # both are optional
        summary = read_json(directory / DESCRIPTION, what="description of features")["summary"]
        status = ", ".join(f"{number:,} {name}" for name, number in summary["status"].items())
        median = summary["median_reduced_chi2"]  # None where nothing was fitted
        facts = {"median reduced χ²": f"{median:.3f}" if median is not None else "", "status": status}
        store = CutoutStore(find_parts(directory).store or str(summary["store"]), skip_bad=True)
        pictures = store.take(np.arange(min(NUM_PICTURES, len(store)))).image
    number = len(next(iter(columns.values()), ()))
    return describe_columns(title, str(directory), columns, number, pictures, **facts)


@dataclass(frozen=True)
class RunParts:
    """The run directory `home`, and what is known to belong to its features."""

    home: Path
    features: Path
    store: Path | None
    model: str | Path | None
    tables: dict[str, Path]


def find_parts(run: str | Path, store: str | Path | None = None, model: str | Path | None = None) -> RunParts:
    """Find the features, store, model and further tables of a run directory, or of a directory of features.

    The tables are those of labelled objects (``redshift/predictions.parquet``), all results of `deepfits
    redshift predict` and `property predict` in the run, under any name, and the truth of a simulated sky.
    """
    run = Path(run)
    features = next((p for p in (run, *map(run.joinpath, FEATURES)) if (p / DESCRIPTION).exists()), None)
    if features is None:
        raise no_features(run)
    home = run.parent if features == run else run
    if store is None and (home / "cutouts" / "store.json").exists():
        store = home / "cutouts"
    if model is None and (home / "model" / "model.json").exists():
        model = home / "model"
    labelled = sorted(home.glob("*/predictions.parquet"), key=lambda path: path.parent.name != "redshift")
    tables = {path.parent.name: path for path in labelled} | find_predictions(home)
    if (home / TRUTH).exists():
        tables["truth"] = home / TRUTH
    return RunParts(home, features, Path(store) if store else None, model, tables)


def find_predictions(home: Path) -> dict[str, Path]:
    """Find results of `redshift predict` and `property predict` in a run: tables or directories of them.

    Those of a head that has seen no labels come last, so that ``z_phot`` is that of one which has.
    """
    records = {path: read_record(path) for path in sorted(home.glob("*")) if path.name[0] not in "._"}
    found = [path for path, record in records.items() if record.get("stage") == "redshift predict"]
    found.sort(key=lambda path: HEAD in (records[path].get("inputs", {}).get("model") or {}))
    return {path.stem: path for path in found}


def warn_of_other_features(home: Path, results: Iterable[Path]) -> None:
    """Warn of results that were not made from any features of a run as they are now."""
    made = sorted({path.parent for path in home.glob("*/shard-*.parquet")})  # unfinished ones too
    warn_of_other_inputs(results, "features", (contents(features) for features in made))


def _find_column(table: JoinedTable, name: str) -> str:
    """Return a hint to the part of the run that has a column which was not joined; '' if none has."""
    with suppress(InputError):
        parts = find_parts(table.directory)
        tables = [path for path in parts.tables.values() if path.suffix == ".parquet"]
        has = {path: column_names(path) for path in tables}
        if parts.store is not None and table.store is None:
            has[parts.store] = list(shard_catalogue(CutoutStore(parts.store, skip_bad=True).shards[0]))
        for path, names in has.items():
            if name in names:
                return f"{path} has it: give the run, {table.directory.parent}, instead of its features"
    return ""


def join(
    run: str | Path,
    *,
    store: CutoutStore | str | Path | None = None,
    tables: Mapping[str, TableLike] | None = None,
    radius_arcsec: float = RADIUS_ARCSEC,
    partial: bool = False,
) -> JoinedTable:
    """Join features, catalogue, predicted redshifts, truth and your own tables into one.

    Parameters
    ----------
    run
        A run directory, or features written by `fit`.
    store
        Their cutouts, if they are not in the run.
    tables
        Further tables by name: files, or tables of astropy, pandas, Polars or Arrow.
    radius_arcsec
        Maximum separation of matching positions.
    partial
        Accept features, cutouts or redshifts that are not finished.

    Returns
    -------
    JoinedTable
        A mapping of columns, each read on first access. Convert it with ``table.to_pandas()``,
        ``polars.DataFrame(dict(table))`` or ``astropy.table.Table(dict(table))``.

    Raises
    ------
    InputError
        There are no features, or a store or table contains none of their objects.
    """
    tables = {} if tables is None else tables
    if not isinstance(tables, Mapping):
        raise InputError('tables must be given by name: tables={"mine": "spectra.csv"}')
    parts = find_parts(run, store.directory if isinstance(store, CutoutStore) else store)
    results = [path if path.parent == parts.home else path.parent for path in parts.tables.values()]
    for part in (parts.features, parts.store, *results):
        if part is not None:
            require_finished(part, partial=partial)
    warn_of_other_features(parts.home, results)
    opened = store if isinstance(store, CutoutStore) else None
    if opened is None and parts.store is not None:
        opened = CutoutStore(parts.store, skip_bad=True)
    joined = JoinedTable(parts.features, store=opened)
    given = {Path(path).resolve() for path in tables.values() if isinstance(path, str | Path)}
    for label, path in parts.tables.items():
        if path.resolve() not in given:
            try:
                joined.add_table(label, path, radius_arcsec, of_run=True)
            except InputError as error:  # tables that were only found in the run need not match
                log.warning("left out: %s", error)
    if others := [name for name in (f"{label}.z_phot" for label in parts.tables) if name in joined]:
        log.info("z_phot is that of %s; the others are %s", joined.origin["z_phot"], ", ".join(others))
    for label, table in tables.items():
        joined.add_table(label, table, radius_arcsec)
    return joined
