"""The work on one shard: read it, fit it and write its features, holding only that shard in memory."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import contents_of, digest, writing_hdf5
from deepfits.fitting import features
from deepfits.fitting.settings import FitSettings
from deepfits.results import require_finished
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Here, Parts, Process, Shard
from deepfits.splits import is_held_out
from deepfits.stages.parameters import Solving
from deepfits.tables.matching import match_identities, take_rows

if TYPE_CHECKING:
    from deepfits.fitting.fitter import Fitter
    from deepfits.models.bundle import Model
    from deepfits.survey.store import BandOrder, Cutouts, CutoutStore, StoreInfo

    Reading = Callable[[Shard], Cutouts]
    Written = tuple[dict[str, np.ndarray], dict[str, np.ndarray], Sequence[str]]
    """Columns, images and bands, as `ModelWork.write` takes them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected objects of a store, shard by shard."""

    # The `content` of each is (fingerprint, object_id): the fingerprint of its file, and the identifiers of
    # the selected objects, None for all.
    shards: list[Shard]
    unreadable: dict[str, str]  # the reason for each shard that cannot be opened, by name

    @property
    def made_from(self) -> str:
        """Digest of what all shards are made from."""
        return digest([(shard.name, shard.made_from) for shard in self.shards])

    @property
    def num_objects(self) -> int:
        """Number of selected objects in the readable shards."""
        return sum(shard.objects for shard in self.shards)


def select(
    store: CutoutStore, *, held_out_only: bool = False, object_ids: Sequence[int | str] | None = None
) -> Selection:
    """Select objects shard by shard, reading only their identifiers.

    Raise `InputError` if the selection is empty, or the store has no object with one of the `object_ids`.
    With unreadable shards neither can be known, and neither is an error.
    """
    wanted = None if object_ids is None else {str(identity) for identity in object_ids}
    missing = set(wanted or ())
    shards, unreadable = [], {path.stem: reason for path, reason in store.bad.items()}
    pixels = contents_of({path.name: path for path in store.shards})
    for number, path in enumerate(store.shards):
        try:
            identity = store.identities(number)
        except InputError as error:
            unreadable[path.stem] = str(error)
            continue
        chosen = identity[is_held_out(identity)] if held_out_only else identity
        if wanted is not None:
            names = identity.astype(str)
            missing -= set(names.tolist())
            chosen = chosen[np.isin(chosen.astype(str), sorted(wanted))]
        made_from = digest(chosen, pixels[path.name])
        is_all = len(chosen) == len(identity) and store.where is None
        content = (pixels[path.name], None if is_all else chosen)
        shards.append(Shard(name=path.stem, objects=len(chosen), made_from=made_from, content=content))
    if missing and not unreadable:
        raise InputError(f"{store.directory}: object_id {min(missing)} is not in this store")
    if not any(shard.objects for shard in shards) and not unreadable:
        raise InputError(f"{store.directory}: none of its {len(store)} objects is among those to be fitted")
    return Selection(shards=shards, unreadable=unreadable)


def open_store(config: Any, model: Model) -> tuple[CutoutStore, list[str]]:
    """Open a stage's store in the bands and order of a model; log cautions, and return both.

    Raise `InputError` if the store is not finished, or the model cannot be fitted to it.
    """
    from deepfits.survey.store import CutoutStore

    require_finished(config.store, partial=config.partial)
    stored = CutoutStore(config.store, skip_bad=True, where=config.where)
    cautions = model.check(stored.info)
    for caution in cautions:
        log.warning("%s: %s", config.store, caution)
    return model.open(stored), cautions


def open_selected(config: Solving, model: Model) -> tuple[CutoutStore, list[str], Selection]:
    """Open a store to fit; return it, cautions, and the selected objects."""
    store, cautions = open_store(config, model)
    model.require_psf(store)
    return store, cautions, select(store, held_out_only=config.held_out_only, object_ids=config.object_ids)


def read_selected(store: Path, info: StoreInfo, shard: Shard, order: BandOrder) -> Cutouts:
    """Read the selected objects of a shard, with the bands rearranged."""
    from deepfits.survey.store import read_shard

    path = store / f"{shard.name}.h5"
    cutouts = read_shard(path, info)
    pixels, wanted = shard.content
    if wanted is not None:
        cutouts = cutouts.take(np.isin(cutouts.object_id, wanted))
    size = int(pixels.split()[0])
    if path.stat().st_size != size or digest(cutouts.object_id, pixels) != shard.made_from:
        raise InputError(f"{path}: its objects have changed since the run began; run it again")
    return order.cutouts(cutouts)


def absolute(path: str | Path) -> str:
    """Return an absolute path, valid in every process; ``builtin:`` models are returned unchanged."""
    return str(path) if str(path).startswith("builtin:") else os.path.realpath(path)


@dataclass(frozen=True, kw_only=True)
class ModelWork(ABC):
    """Base of work on shards that needs a model (a `deepfits.scale.work.Work`). Paths are absolute."""

    model: str
    model_hash: str
    out: str
    settings: FitSettings
    threads: int | None = None
    device: str = "cpu"

    def open(self, threads: int | None = None) -> Process:
        """Load the model, check that it is still the same, and return the function that processes a shard."""
        from deepfits.models.bundle import Model

        loaded = Model.load(self.model, self.device)
        if loaded.fingerprint != self.model_hash:
            raise InputError(
                f"{self.model}: on this worker, the model differs from the one that the run began with"
            )
        return self.open_with(loaded, threads)

    @abstractmethod
    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Return the function that processes one shard, with a model that is already loaded."""

    def fitter(self, model: Model, info: StoreInfo, threads: int | None) -> Fitter:
        """Make the fitter for cutouts described by `info`."""
        from deepfits.fitting.fitter import Fitter

        return Fitter(model, self.settings, info, threads=self.threads or threads)

    def write(
        self,
        shard: Shard,
        columns: Mapping[str, np.ndarray],
        planes: Mapping[str, np.ndarray],
        bands: Sequence[str],
    ) -> None:
        """Write the columns of a table, and images ``(N, B, H, W)`` in nJy, if any, as HDF5.

        The table is written last, so that its presence means that all is written.
        """
        import h5py

        path = Path(self.out) / f"{shard.name}.parquet"
        if planes:
            with writing_hdf5(path.with_suffix(".h5")) as file:
                file.attrs["bands"], file.attrs["flux_unit"] = list(bands), "nJy"
                identity = columns["object_id"]
                is_text = identity.dtype.kind in "US"
                file["object_id"] = identity.astype(h5py.string_dtype()) if is_text else identity
                for name, values in planes.items():
                    file[name] = values
        features.write_shard(path, columns, shard.made_from)

    def of_store(self, store: str, model: Model, threads: int | None) -> tuple[Reading, Fitter]:
        """Return the function that reads a shard of a store in the model's bands, and the fitter for it."""
        from deepfits.survey.store import read_info

        info = read_info(store)
        order = model.order(info)
        fitter = self.fitter(model, order.info(info), threads)
        return lambda shard: read_selected(Path(store), info, shard, order), fitter


@dataclass(frozen=True, kw_only=True)
class FittingWork(ModelWork):
    """Fit cutouts, starting from the latents in the features `start` if given."""

    start: str | None = None
    reconstructions: bool = False

    def fitted(self, fitter: Fitter, cutouts: Cutouts, shard: Shard, advance: Advance) -> Written:
        """Fit cutouts, and return their features, and the best-fit images if these are wanted."""
        from deepfits.fitting.feature_table import feature_table
        from deepfits.survey.neighbours import with_neighbours

        start = None if self.start is None else read_starts(self.start, shard.name, cutouts.object_id)
        fitted = fitter.fit_cutouts(with_neighbours(cutouts, fitter.info), advance, start=start)
        columns = feature_table(fitter, fitted, cutouts)
        planes = {}
        if self.reconstructions:
            drawn = fitter.reconstruct(fitted)
            planes = {"model": drawn, "residual": fitted.image.numpy() - drawn}
        return columns, planes, fitter.info.bands


@dataclass(frozen=True, kw_only=True)
class FitWork(FittingWork):
    """Fit the shards of a store, and write ``shard-00000.parquet`` for each."""

    store: str

    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Return the three steps of a shard: read, fit, write."""
        read, fitter = self.of_store(self.store, model, threads)
        return Parts(
            read,
            lambda shard, cutouts, advance: self.fitted(fitter, cutouts, shard, advance),
            lambda shard, fitted: self.write(shard, *fitted),
        )


def run_work(config: Any, work: ModelWork, selection: Selection, model: Model, out: Path, title: str) -> None:
    """Process the shards that are not done yet."""
    workers = config.pool()
    run_shards(
        Here(lambda: work.open_with(model)) if workers.is_here else work,
        selection.shards,
        out,
        title=title,
        is_done=features.is_done,
        progress=config.progress,
        workers=workers,
        unreadable=selection.unreadable,
    )


def read_starts(directory: str | Path, shard: str, object_id: np.ndarray) -> np.ndarray:
    """Return the latents of these objects in an earlier fit, ``(N, L)``; NaN where it has none.

    A fit of the same store has them in the shard of the same name; otherwise all shards are read.
    """
    path = Path(directory) / f"{shard}.parquet"
    columns = features.read_shard(path, ["object_id", "latent"]) if path.is_file() else None
    if columns is None or (match_identities(object_id, columns["object_id"]) < 0).any():
        columns = features.read_features(directory, ["object_id", "latent"])
    return take_rows(columns["latent"], match_identities(object_id, columns["object_id"]))
