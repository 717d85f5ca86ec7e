"""Images in nested columns of Parquet files, as Hugging Face's `datasets` writes the Multimodal Universe.

Shapes: N objects of a file, n those that are read together, B bands, H, W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.errors import InputError, naming
from deepfits.tables.parquet import require_credible, table_from_arrow

_LEVELS = ("list", "element", "item", "array", "bag")
"""Names of the levels of lists in the paths of Parquet columns."""


class NestedColumn:
    """A column of lists of lists of the same lengths, read by row groups as an array ``(N, ...)``."""

    def __init__(self, file: pq.ParquetFile, path: str, where: Path) -> None:
        self._file, self._path, self._where = file, path, where
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        self._ends = np.cumsum([0, *sizes]).tolist()
        first = self._group(0)
        self.shape: tuple[int, ...] = (self._ends[-1], *first.shape[1:])
        self.dtype = first.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return the objects of a slice, with any further indices applied."""
        rows, *rest = (index if isinstance(index, tuple) else (index,)) or (slice(None),)
        start, stop, _ = rows.indices(self._ends[-1])
        parts = [
            self._group(number)[max(start - first, 0) : stop - first]
            for number, (first, last) in enumerate(pairwise(self._ends))
            if start < last and first < stop
        ]
        if any(part.shape[1:] != self.shape[1:] for part in parts):
            raise InputError(f"{self._where}: {self._path} has images of different sizes; write them apart")
        found = np.concatenate(parts) if parts else np.zeros((0, *self.shape[1:]), self.dtype)
        return found[(slice(None), *rest)]

    def _group(self, number: int) -> np.ndarray:
        with naming(self._where, f"cannot read {self._path}"):
            column = self._file.read_row_group(number, columns=[self._path]).column(0).combine_chunks()
        shape = [len(column)]
        while not pa.types.is_primitive(column.type) and not pa.types.is_string(column.type):
            if pa.types.is_struct(column.type):
                column = column.flatten()[0]
                continue
            lengths = np.unique(column.value_lengths().fill_null(-1).to_numpy())
            if len(lengths) != 1 or lengths[0] < 0:
                raise InputError(
                    f"{self._where}: {self._path} has lists of different lengths, or none, in some rows; "
                    "write objects with the same bands and sizes into one file"
                )
            shape.append(int(lengths[0]))
            column = column.flatten()
        return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


@contextmanager
def open_nested(path: Path) -> Iterator[dict[str, Any]]:
    """Open a Parquet file as arrays: ``image_flux`` for the part `flux` of `image`, and plain columns."""
    with naming(path, "not a readable Parquet file"):
        file = pq.ParquetFile(path)
    with file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        values = sum(g.column(number).num_values for g in groups for number in range(g.num_columns))
        require_credible(values, f"{values} values", path.stat().st_size, path)
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        bare = {leaf: [word for word in leaf.split(".") if word not in _LEVELS] for leaf in leaves}
        parts = {words[1]: leaf for leaf, words in bare.items() if len(words) == 2 and words[0] == "image"}
        if not parts or not file.num_row_groups:
            raise InputError(
                f"{path}: no nested column 'image' with images in bands, as in Hugging Face's datasets"
            )
        with naming(path, "not a readable Parquet file"):
            table = table_from_arrow(file.read([leaf for leaf in leaves if "." not in leaf]), path)
            nested = {f"image_{part}": NestedColumn(file, leaf, path) for part, leaf in parts.items()}
        yield {**table.columns, **nested}
