"""Fit the objects of your own catalogue partition by partition, with LSDB or Dask.

    catalogue = lsdb.open_catalog("my_hats")
    fit = deepfits.stages.partitions.PartitionFit.prepare("coadds/", "builtin:clauds-hsc")
    features = catalogue.map_partitions(fit, meta=fit.meta(catalogue))

Needs pandas, which ``deepfits[lsdb]`` installs.
"""

import inspect
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from deepfits.config import from_mapping
from deepfits.errors import InputError, nearest
from deepfits.files import digest
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.passbands import COLUMN
from deepfits.stages.fit_coadds import cutout_size, describe_images
from deepfits.stages.fit_work import absolute
from deepfits.survey import build
from deepfits.survey.fields import ImageSet, image_set
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.planes import ReadOptions
from deepfits.survey.store import Cutouts, StoreInfo
from deepfits.tables import from_arrow, identities, positions
from deepfits.tables.parquet import to_arrow

CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class PartitionFit:
    """Cut out and fit the objects of a table: call it with a table, or pass it to `map_partitions`.

    Made by `prepare`. It can be sent to other processes, each of which loads the model once.
    """

    images: ImageSet = field(compare=False)
    info: StoreInfo = field(compare=False)  # of cutouts from these images
    settings: FitSettings
    model: str
    key: str  # digest of images and model, by which two instances are compared
    id_column: str
    ra_column: str
    dec_column: str
    threads: int | None
    device: str

    @classmethod
    def prepare(
        cls,
        images: str | Path,
        model: str | Path,
        *,
        reading: Mapping[str, Any] | None = None,
        id_column: str = "object_id",
        ra_column: str = "ra",
        dec_column: str = "dec",
        threads: int | None = None,
        device: str = "cpu",
        **settings: Any,
    ) -> Self:
        """Inspect the images once, and set up the fit.

        Parameters
        ----------
        images
            Directory or file of the coadds.
        model
            A trained model; it determines the bands and size of the cutouts.
        reading
            Arguments of `cutouts` that control how images are read, such as ``{"zero_point": 27.0}``.
        id_column, ra_column, dec_column
            Column names in your catalogue; positions are in degrees.
        threads, device
            As in `fit`, for each process.
        settings
            Settings of the fit: ``mode``, ``num_steps``, ``prior_strength`` and the other fields of
            `deepfits.fitting.settings.FitSettings`.

        Raises
        ------
        InputError
            Images that cannot be used or that the model cannot be fitted to, or an unknown argument.
        """
        valid = (*inspect.signature(image_set).parameters, *ReadOptions.__dataclass_fields__)
        for name in reading or ():
            if name not in valid:
                raise InputError(f"reading: unknown argument {name!r}; {nearest(name, valid)}")
        loaded = Model.load(model)
        chosen = image_set(images, bands=loaded.info.bands, **(reading or {}))
        info = describe_images(chosen, cutout_size(loaded, chosen))
        loaded.check(info)
        return cls(
            images=chosen,
            info=info,
            settings=from_mapping(FitSettings, settings, where="settings of the fit"),
            model=absolute(model),
            key=digest(chosen.settings(), loaded.made_from()),
            id_column=id_column,
            ra_column=ra_column,
            dec_column=dec_column,
            threads=threads,
            device=device,
        )

    def meta(self, catalogue: Any) -> pd.DataFrame:
        """Return an empty table with the columns of the result, which Dask needs in advance.

        `catalogue` is an LSDB catalogue or a pandas table.
        """
        empty = getattr(catalogue, "meta", None)  # of LSDB, with its index
        if empty is None:
            empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in catalogue.dtypes.items()})
        return self(empty)

    def __call__(self, objects: pd.DataFrame) -> pd.DataFrame:
        """Fit the objects of a table with columns for identifier and position.

        Returns
        -------
        pandas.DataFrame
            The same rows and index, with identifier, position and the columns of the features, as Arrow
            types. Objects outside all images have nulls.
        """
        names = [self.id_column, self.ra_column, self.dec_column]
        for name in names:
            if name not in objects.columns:
                raise InputError(f"partition: no column {name!r}; it has {list(objects.columns)}")
        kept = objects[names]
        table = self._features(self._columns(kept))
        new = {
            name: pd.Series(pd.arrays.ArrowExtensionArray(table[name]), index=objects.index)
            for name in table.column_names
            if name not in ("object_id", "ra", "dec")
        }
        return kept.assign(**new)

    def _columns(self, kept: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return identifiers and positions as NumPy arrays; missing positions are NaN."""
        columns: dict[str, np.ndarray] = {}
        where = "partition"
        for name in kept.columns:
            try:
                columns[name] = from_arrow(pa.array(kept[name], from_pandas=True))
            except TypeError as error:
                raise InputError(f"partition: column {name!r} holds neither numbers nor text") from error
        sky = positions({"ra": columns[self.ra_column], "dec": columns[self.dec_column]}, {}, where)
        assert sky is not None
        identity = identities(columns[self.id_column], where, self.id_column)
        return {"object_id": identity, "ra": sky.ra, "dec": sky.dec}

    def _features(self, columns: dict[str, np.ndarray]) -> Any:
        """Cut out and fit the objects; return an Arrow table in row order, with nulls off the images."""
        fitter, info = _fitter(self), self.info

        def fitted(cutouts: Cutouts) -> dict[str, np.ndarray]:
            fit = fitter.fit_cutouts(with_neighbours(cutouts, info))
            return feature_table(fitter, fit, cutouts)

        none = np.zeros((0, len(info.bands), info.size, info.size), dtype=np.float32)
        nowhere = {name: columns[name][:0] for name in ("ra", "dec")}
        nowhere |= {f"{COLUMN}_{band}": np.empty(0, np.float32) for band in info.bands}
        identity = columns["object_id"][:0]
        parts = [fitted(Cutouts(object_id=identity, image=none, weight=none, catalogue=nowhere))]
        rows = []
        plan = build.StorePlan(images=self.images, size=info.size, shard_size=CHUNK)
        with closing(build.OpenFields(self.images)) as fields:
            tasks = build.plan_shards(plan, columns, {}, fields).tasks if len(columns["ra"]) else []
            for task in tasks:
                cutouts = build.cut_task(fields.open(task.field_index), task, plan, info)
                parts.append(fitted(cutouts))
                rows.append(task.rows)
        place = np.full(len(columns["ra"]), -1)
        if rows:
            place[np.concatenate(rows)] = np.arange(sum(map(len, rows)))
        tables = [pa.table({name: to_arrow(values) for name, values in part.items()}) for part in parts]
        joined = pa.concat_tables(
            tables, promote_options="default"
        ).combine_chunks()  # nulls: unknown filters
        return joined.take(pa.array(place, mask=place < 0, type=pa.int64()))


@lru_cache(maxsize=1)
def _fitter(fit: PartitionFit) -> Fitter:
    """Return the fitter, keeping the most recent one so that the model is loaded once per process."""
    loaded = Model.load(fit.model, fit.device)
    return Fitter(loaded, fit.settings, fit.info, threads=fit.threads)
