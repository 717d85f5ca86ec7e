"""Stage `export`: write features or predictions as catalogues for other programs."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.config import Range
from deepfits.errors import InputError, naming, nearest
from deepfits.explorer.tags import read_tags
from deepfits.files import TEMPORARY_PREFIX, contents, digest, naming_full_disk, writing
from deepfits.fitting.columns import Column, describe
from deepfits.fitting.features import shard_paths
from deepfits.progress import Progress, Task
from deepfits.provenance import versions
from deepfits.scale.cluster import ON_ONE_MACHINE
from deepfits.stages.parameters import Choosing, Partial
from deepfits.stages.stage import INPUT, claim, stage
from deepfits.tables import format_of, from_arrow, matches_conditions, require_column, write_table
from deepfits.tables.parquet import table_from_arrow
from deepfits.tables.writing import to_arrow_table

Describing = Callable[[str], Column]

HALF_LARGEST = 65504.0
UNREADABLE = "cannot read this table", "make it again"
FINEST_ORDERS = range(7, 13)  # HEALPix orders: cells of 27 arcmin to 51 arcsec


@dataclass(frozen=True)
class ExportConfig(Choosing, Partial):
    """Parameters of `export`."""

    features: Annotated[str | Path, INPUT]
    """A run directory, of which features, catalogue, redshifts, truth and tags are joined into one table.
    Or the output of `fit`, `inpaint` or `redshift predict` alone: a directory, or one Parquet file."""
    out: str | Path
    """Output file, or directory for HATS."""
    _: KW_ONLY
    format: Literal["parquet", "fits", "votable", "ecsv", "csv", "hdf5", "hats"] | None = None
    """``"parquet"``, ``"fits"``, ``"votable"``, ``"ecsv"``, ``"csv"``, ``"hdf5"`` or ``"hats"``. By default
    the extension of `out` decides (``.parquet``, ``.fits``, ``.vot``, ``.ecsv``, ``.csv``, ``.h5``); a name
    without an extension is a HATS directory."""
    columns: Sequence[str] | None = None
    """Columns to write, in this order; by default all that are stored. For a run, derived columns can also be
    named: ``reduced_chi2``, ``mag_model_<band>``, and colours such as ``g_minus_i``."""
    store: Annotated[str | Path | None, INPUT] = None
    """Cutout store of the features, if it is not in the run directory. The columns of its catalogue are
    joined to the features."""
    tables: Mapping[str, str | Path] | None = None
    """Further tables to join, each as ``NAME=PATH``: spectra, labels, another catalogue. They are matched by
    position or identifier (`deepfits.join`). A column whose name already exists becomes ``NAME.column``."""
    half: bool = False
    """Write latents, their errors and embeddings as 16-bit floats, which makes files about a third smaller
    (see docs/how-to/scale.md for the loss of precision). Parquet and HATS only."""
    margin_arcsec: Annotated[float, Range(ge=0)] = 5.0
    """HATS only: width of the margin around each partition in which objects of its neighbours are listed too,
    so that cross-matches across borders are complete."""
    partition_rows: Annotated[int, Range(ge=1)] = 200_000
    """HATS only: maximum number of objects in a partition."""


@stage(ExportConfig, result="catalogue")
def export(config: ExportConfig) -> Path:
    """Export a run, or features, as one catalogue in FITS, VOTable, Parquet, HATS, ..., with units and UCDs.

    Tags set in the explorer become a column ``tag``. Parquet and HATS are written shard by shard if nothing
    is joined or selected; all else is held in memory.

    Raises
    ------
    InputError
        No features or unfinished ones, an unknown format, extension or column, no ra and dec for HATS, or
        something in `out` that is not an earlier export.

    Examples
    --------
    The whole run as one table: `deepfits export run --out galaxies.fits`

    A selection, joined with spectra: `deepfits export run --out bright.vot --tables spectra=spectra.csv
    --where "mag_auto_i < 22"`

    Only the features, for LSDB: `deepfits export run/features-both --out galaxies --format hats`
    """
    out = Path(config.out)
    chosen = _format(out, config.format)
    if config.half and chosen not in ("parquet", "hats"):
        raise InputError(f"export: {chosen} has no 16-bit floats; leave half out, or choose parquet or hats")
    source = Path(config.features)
    is_run = source.is_dir() and next(source.glob("shard-*.parquet"), None) is None
    tags = read_tags(source) if source.is_dir() and not is_run else {}
    is_joined = is_run or bool(config.store or config.tables or config.where or tags)
    if is_joined and not source.is_dir():
        raise InputError(f"{source}: joining and selecting need a run, or a directory of features")
    features = source
    tables: dict[str, str | Path] = dict(config.tables or {})
    inputs: dict[str, Any] = {}
    if is_run:
        from deepfits.explorer.joined import find_parts

        parts = find_parts(source, config.store)
        features, tables = parts.features, {**parts.tables, **tables}
        tags = read_tags(features)
        inputs = {"features": contents(features), "store": contents(parts.store) if parts.store else None}
    inputs |= {
        "tables": {label: contents(path) for label, path in tables.items()} or None,
        "tags": digest(sorted(tags.items())) if tags else None,
    }
    describing: Describing = describe
    if not is_joined:
        paths = [features] if features.is_file() else shard_paths(features)
        names = _names(paths[0], config.columns)
    with (
        claim(
            config, name="export", inputs=inputs, settings={"format": chosen}, is_file=True, renew=True
        ) as results,
        naming_full_disk(out),
        ExitStack() as stack,
    ):
        if results.is_finished:
            return out
        if is_joined:
            # named after `out`, so that the next run can remove what a killed run leaves
            scratch = TemporaryDirectory(f"-{out.name}", TEMPORARY_PREFIX, out.parent)
            paths = [Path(stack.enter_context(scratch)) / "joined.parquet"]
            describing = _write_joined(config, is_run, paths[0])
            names = _names(paths[0], None)
        shards = _Shards(source, paths, names, config.half, config.progress, describing)
        if chosen == "parquet":
            shards.write_parquet(out)
        elif chosen == "hats":
            shards.write_hats(out, config.margin_arcsec, config.partition_rows)
        else:
            shards.write_table(out)
    return out


def _write_joined(config: ExportConfig, is_run: bool, path: Path) -> Describing:
    """Write the joined columns of features, catalogue and further tables for the selected objects.

    Return the function that describes them.
    """
    from deepfits.explorer.joined import JoinedTable, join
    from deepfits.explorer.objects import Objects

    if is_run:
        table = join(config.features, store=config.store, tables=config.tables, partial=config.partial)
    else:
        table = JoinedTable(config.features, store=config.store, tables=config.tables)
    names, rows = list(config.columns or table), np.ones(table.num_rows, dtype=bool)
    if "embedding" in table:  # from `fit`
        Objects(table)  # adds derived columns: magnitudes and colours
    if config.where is not None:
        rows = matches_conditions(table, config.where, config.features)
    if not rows.any():
        raise InputError(f"{config.features}: no object satisfies the conditions; loosen them")
    table.load(names)
    which: Any = slice(None) if rows.all() else rows  # the former without a copy
    write_table(path, {name: require_column(table, name, config.features)[which] for name in names})
    return {name: table.describe(name) for name in names}.__getitem__  # does not keep the table


def _format(out: Path, format: str | None) -> str:
    """Return the format to write; the extension of `out` must not contradict `format`."""
    if not out.suffix:
        return format or "hats"
    if format == "hats":
        return format
    by_ending = format_of(out)
    if format not in (None, by_ending):
        raise InputError(
            f"{out}: its extension means {by_ending}, but format is {format}; leave one of them out"
        )
    return by_ending


def _names(path: Path, wanted: Sequence[str] | None) -> list[str]:
    with naming(path, *UNREADABLE):
        available = pq.read_schema(path).names
    for name in wanted or ():
        if name not in available:
            raise InputError(f"{path}: no column {name!r}; {nearest(name, available)}")
    return list(dict.fromkeys(wanted or available))


@dataclass(frozen=True)
class _Shards:
    """Tables of one or several shards, and the columns to write."""

    features: Path
    paths: list[Path]
    names: list[str]
    half: bool
    progress: Progress
    describe: Describing

    def tables(self) -> Iterator[Any]:
        """Yield the table of each non-empty shard, with units and descriptions."""
        schema, is_empty = None, True
        for path in self.paths:
            with naming(path, *UNREADABLE):
                stored = table_from_arrow(pq.read_table(path, columns=self.names), path).columns
                columns = {name: stored.pop(name) for name in self.names}
            for name in {*self.names} & {"latent", "latent_std", "embedding"} if self.half else ():
                columns[name] = np.clip(columns[name], -HALF_LARGEST, HALF_LARGEST).astype(np.float16)
            if schema is None:
                schema = to_arrow_table(columns, info=_made_by(), describe=self.describe).schema
            table = to_arrow_table(columns)
            if table.schema != schema:
                raise InputError(
                    f"{path}: its columns differ from those of {self.paths[0].name}; they are not of one run"
                )
            if len(table) or len(self.paths) == 1:
                is_empty = False
                yield table.cast(schema)
        if is_empty:
            raise InputError(f"{self.features}: no object in any of the {len(self.paths)} shards")

    def write_parquet(self, out: Path) -> None:
        """Write one Parquet file, shard by shard."""
        tables = self.tables()
        first = next(tables)
        with (
            writing(out) as temporary,
            self._task() as task,
            pq.ParquetWriter(temporary, first.schema) as writer,
        ):
            for table in chain([first], tables):
                writer.write_table(table)
                task.advance(1)

    def write_table(self, out: Path) -> None:
        """Write a table in another format, held in memory as a whole."""
        with self._task() as task:

            def read() -> Iterator[Any]:
                for table in self.tables():
                    task.advance(1)
                    yield table

            joined = table_from_arrow(pa.concat_tables(read()), out).columns
        columns = {name: joined.pop(name) for name in self.names}
        write_table(out, columns, info=_made_by(), describe=self.describe)

    def write_hats(self, out: Path, margin_arcsec: float, partition_rows: int) -> None:
        """Write a HATS collection (catalogue and margin) with hats-import, through one Parquet file."""
        for name in ("ra", "dec"):
            if name not in self.names:
                raise InputError(
                    f"{self.features}: HATS partitions the sky by ra and dec; no column {name!r} here"
                )
        suffix = f"-{out.name}"  # so that the next run can remove what a killed run leaves
        with (
            writing(out) as temporary,
            TemporaryDirectory(suffix, TEMPORARY_PREFIX, temporary.parent) as name,
        ):
            scratch = Path(name)
            source = scratch / "source.parquet"
            self.write_parquet(source)
            _require_positions(source, self.features)
            with self.progress("HATS", total=1, unit="catalogues") as task:
                _import(source, scratch, out.name, self.names, margin_arcsec, partition_rows)
                task.advance(1)
            (scratch / out.name).rename(temporary)

    def _task(self) -> AbstractContextManager[Task]:
        return self.progress("export", total=len(self.paths), unit="shards")


def _made_by() -> dict[str, str]:
    return {"made_by": f"deepfits export, version {versions()['deepfits']}"}


def _import(
    source: Path, directory: Path, name: str, names: list[str], margin_arcsec: float, partition_rows: int
) -> None:
    import dask
    from distributed import Client
    from hats_import import CollectionArguments, pipeline_with_client

    schema = directory / "schema.parquet"
    pq.write_table(pq.read_schema(source).empty_table(), schema)
    arguments = CollectionArguments(
        output_path=directory,
        output_artifact_name=name,
        progress_bar=False,
        resume=False,
        simple_progress_bar=False,
        tmp_dir=directory,
    ).catalog(
        input_file_list=[source],
        file_reader="parquet",
        ra_column="ra",
        dec_column="dec",
        sort_columns="object_id" if "object_id" in names else None,
        pixel_threshold=partition_rows,
        highest_healpix_order=_finest_order(source, partition_rows),
        use_schema_file=schema,
        write_table_kwargs={"compression": "zstd"},  # level 15, hats-import's own, gains 0.1%
    )
    if margin_arcsec > 0:
        arguments = arguments.add_margin(
            margin_threshold=margin_arcsec, is_default=True, write_table_kwargs={"compression": "zstd"}
        )
    # hats-import reopens the catalogue to make the margin, and warns that the collection is incomplete and
    # that all of it will be read. Both are expected here.
    here = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        warnings.catch_warnings(),
        dask.config.set(ON_ONE_MACHINE),
        Client(**here, set_as_default=False) as client,
        client.as_current(),
    ):
        warnings.filterwarnings("ignore", "Computing partitions from catalog")
        root = logging.getLogger()
        root.addFilter(_is_not_expected)
        try:
            pipeline_with_client(arguments, client)
        finally:
            root.removeFilter(_is_not_expected)


def _is_not_expected(record: logging.LogRecord) -> bool:
    return "Looking for catalog" not in record.getMessage()


def _require_positions(source: Path, name: Path) -> None:
    """Refuse objects without a position, as in images without WCS: they belong to no part of the sky."""
    table = pq.read_table(source, columns=["ra", "dec"])
    is_missing = ~np.isfinite([from_arrow(table[n]).astype(float) for n in ("ra", "dec")]).all(axis=0)
    if number := int(is_missing.sum()):
        raise InputError(
            f"{name}: {number} of {len(table)} objects have no ra and dec, by which HATS partitions the sky "
            "(images without WCS have none); choose another format"
            + (', or leave them out with --where "dec >= -90"' if number < len(table) else "")
        )


def _finest_order(source: Path, partition_rows: int) -> int:
    """Return the coarsest HEALPix order at which no cell has more than `partition_rows` objects."""
    from hats.pixel_math.healpix_shim import radec2pix

    for order in FINEST_ORDERS:
        counts = np.zeros(12 * 4**order, dtype=np.int64)
        for batch in pq.ParquetFile(source).iter_batches(columns=["ra", "dec"]):
            ra, dec = (batch.column(n).to_numpy(zero_copy_only=False).astype(float) for n in range(2))
            np.add.at(counts, radec2pix(order, ra, dec), 1)
        if counts.max() <= partition_rows:
            return order
    raise InputError(
        f"export: more than {partition_rows} objects within an arcminute; raise partition_rows to "
        f"{counts.max()}"
    )
