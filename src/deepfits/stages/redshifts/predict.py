"""The stage `redshift_predict`: a trained method, used on one table of features or on many shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import fingerprint
from deepfits.progress import Progress, silent
from deepfits.redshifts.features import is_usable, read_features
from deepfits.redshifts.predict import load_predictor, predict_table
from deepfits.redshifts.results import write_columns
from deepfits.scale.work import Advance, Process, Shard


def redshift_predict(
    model: str | Path,
    features: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Predict the redshift of every object of a features directory.

    Parameters
    ----------
    model
        Directory that `redshift_train` wrote (or one of ``methods/`` of a `redshift` directory).
    features, store, embedder_features
        Of any objects; what the model's feature set needs.
    out
        Parquet file: `object_id`, `ra` and `dec` where known, `z_phot`, distributions as `quantiles` with
        `z_mean`, `z_median`, `z_mode`, `z_err68_low`, `z_err68_high`, `z_err95_low`, `z_err95_high`, where an
        object lies outside the training domain, and `is_valid`: objects without a finite latent have NaN. Of
        a classifier: `class`, and `p_<class>` for each. A name without an ending is a directory: one such
        file for each file of the features that holds objects, and ``manifest.jsonl``; running it again makes
        only what is missing or failed.
    workers, scheduler
        As in `fit`, for a directory.

    Returns
    -------
    Path
        `out`.
    """
    out = Path(out)
    if not out.suffix or workers > 1 or scheduler is not None:
        return predict_shards(
            model,
            features,
            out,
            store=store,
            embedder_features=embedder_features,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
    predictor, columns = load_predictor(model), read_features(features)
    if not is_usable(columns).any():
        raise InputError(f"{features}: no object has a finite latent")
    table = predict_table(
        predictor, columns, store=store, embedder_features=embedder_features, progress=progress
    )
    write_columns(out, table)
    return out


def predict_shards(
    model: str | Path,
    features: str | Path,
    out: Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Do `redshift_predict` for each file of a features directory, on workers; see there.

    Raises
    ------
    InputError
        `out` names a file, or `features` is one.
    ShardsFailedError
        Some files could not be read, or do not fit the model; all others are done.
    """
    from deepfits.fitting.features import is_done
    from deepfits.scale.cluster import Workers
    from deepfits.scale.run import run_shards

    if out.suffix:
        raise InputError(f"{out}: several workers write a directory; leave the ending {out.suffix!r} out")
    load_predictor(model)  # what is wrong with it is said once
    shards, unreadable = _find(Path(features), _fingerprint(Path(model)))
    if not shards and not unreadable:
        raise InputError(f"{features}: no object in any of these files; run `deepfits fit` to the end")
    out.mkdir(parents=True, exist_ok=True)
    work = PredictWork(
        model=str(Path(model).resolve()),
        features=str(Path(features).resolve()),
        out=str(out.resolve()),
        store=None if store is None else str(Path(store).resolve()),
        embedder_features=None if embedder_features is None else str(Path(embedder_features).resolve()),
    )
    run_shards(
        work,
        shards,
        out,
        title="redshifts",
        is_done=is_done,
        workers=Workers(number=workers, scheduler=scheduler),
        progress=progress,
        unreadable=unreadable,
    )
    return out


def _fingerprint(model: Path) -> str:
    """Return what changes with a redshift model."""
    return fingerprint(*sorted(path for path in model.rglob("*") if path.is_file()))


def _find(features: Path, model_hash: str) -> tuple[list[Shard], dict[str, str]]:
    """List the files of the features that hold objects, and those that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deepfits.fitting.features import digest, shard_paths

    if features.is_file():
        raise InputError(f"{features}: is one file; name the directory, or a file such as z.parquet for OUT")
    shards, unreadable = [], {}
    for path in shard_paths(features):
        try:
            about = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            unreadable[path.stem] = f"{path}: cannot read these features ({error}); fit again"
            continue
        if about.num_rows:
            stated = (about.metadata or {}).get(b"made_from", b"").decode()
            made_from = digest([stated, about.num_rows, path.stat().st_size, model_hash])
            shards.append(Shard(name=path.stem, objects=about.num_rows, made_from=made_from))
    return shards, unreadable


@dataclass(frozen=True, kw_only=True)
class PredictWork:
    """Predict for the files of a features directory; all paths are absolute."""

    model: str
    features: str
    out: str
    store: str | None
    embedder_features: str | None

    def open(self, threads: int | None = None) -> Process:
        """Load the redshift model."""
        from deepfits.fitting.features import write_table

        predictor = load_predictor(self.model)

        def process(shard: Shard, advance: Advance) -> None:
            columns = read_features(Path(self.features) / f"{shard.name}.parquet")
            usable = is_usable(columns)
            if not usable.any():  # the columns of a prediction are known from predicting anything
                columns["latent"] = np.where(np.arange(len(usable))[:, None] == 0, 0, columns["latent"])
            table = predict_table(
                predictor, columns, store=self.store, embedder_features=self._guesses(shard)
            )
            if not usable.any():
                table = _without_predictions(table)
            write_table(Path(self.out) / f"{shard.name}.parquet", table, shard.made_from)
            advance(shard.objects)

        return process

    def _guesses(self, shard: Shard) -> Path | None:
        """Return the embedder's latents of the same shard, or else of all."""
        if self.embedder_features is None:
            return None
        directory = Path(self.embedder_features)
        same = directory / f"{shard.name}.parquet"
        return same if same.exists() else directory


def _without_predictions(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blank everything but identity and position."""
    out = {}
    for name, values in table.items():
        if name in ("object_id", "ra", "dec"):
            out[name] = values
        elif values.dtype.kind == "f":
            out[name] = np.full_like(values, np.nan)
        else:
            out[name] = np.zeros_like(values)
    return out
