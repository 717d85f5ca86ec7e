"""The stage `redshift_predict`: a trained method, used on one table of features or on many shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.errors import InputError
from deepfits.files import contents, digest
from deepfits.fitting.features import is_done, shard_paths, write_shard
from deepfits.redshifts.features import is_usable, read_features
from deepfits.redshifts.head import HEAD, Head, disclaimer, head_directory
from deepfits.redshifts.inputs import say_filters
from deepfits.redshifts.predict import load_predictor, predict_table
from deepfits.scale.cluster import Workers
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Process, Shard
from deepfits.stages.fit_work import absolute
from deepfits.stages.parameters import OnCluster
from deepfits.stages.redshifts.parameters import FromFits
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.tables import format_of, require_storable, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictConfig(FromFits, OnCluster):
    """What `redshift_predict` takes.

    Parameters
    ----------
    model
        Directory that `redshift_train` wrote (or one of ``methods/`` of a `redshift` directory), or a head
        from `redshift_pretrain`. With no labels, leave it out and give the features alone: the head that came
        with their model makes the predictions.
    features
        Features of any objects, from `fit`. Also give the store and the embedder's features if the model
        learned from them.
    out
        A table in the format that its ending says (``.parquet``, ``.fits``, ``.csv``): `object_id`, `ra` and
        `dec` where known, `z_phot`, distributions as `quantiles` with
        `z_mean`, `z_median`, `z_mode`, `z_err68_low`, `z_err68_high`, `z_err95_low`, `z_err95_high`, where an
        object lies outside the training domain, and `is_valid`: objects without a finite latent have NaN. Of
        a classifier: `class`, and `p_<class>` for each. A name without an ending is a directory: one such
        file for each file of the features that holds objects, and ``_manifest.jsonl``; running it again makes
        only what is missing or failed.
    filters
        A filter for each band, in the order of the features' bands: a name that speclite knows, such as
        ``sdss2010-g``, a file of wavelengths and transmissions, or the mean wavelength in Å. By default those
        that the images' headers name; without any, a head allows for any filter.
    """

    model: Annotated[str | Path, INPUT]
    features: Annotated[str | Path | None, INPUT] = None
    out: str | Path | None = None
    _: KW_ONLY
    filters: Sequence[str] = ()


@stage(PredictConfig)
def redshift_predict(config: PredictConfig) -> Path:
    """Predict the redshift of every object of a features directory.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        The features are not those that the model was trained on, or something else lies at `out`.
    ShardsFailedError
        Some files could not be read, or do not fit the model; all others are done.

    Examples
    --------
    One table: `deepfits redshift predict run/redshift-model run/features-both --out run/redshifts.parquet`

    Many shards: `deepfits redshift predict MODEL FEATURES --out run/redshifts --workers 4` (a directory)

    Without any label: `deepfits redshift predict run/features-both --out run/redshifts.parquet`

    Seen through filters of SDSS: `deepfits redshift predict FEATURES --out z.fits --filters
    sdss2010-u,sdss2010-g,sdss2010-r,sdss2010-i,sdss2010-z`
    """
    if config.out is None:
        raise InputError("say where predictions go: out='z.parquet', a table, or a directory")
    out, config = Path(config.out), with_head(config)
    if not out.suffix or config.workers > 1 or config.scheduler is not None:
        return _predict_shards(config, out)
    format_of(out)  # before the work
    assert config.features is not None
    predictor, columns = load_predictor(config.model), read_features(config.features)
    if not is_usable(columns).any():
        raise InputError(f"{config.features}: no object has a finite latent")
    require_storable(out, {"object_id": columns["object_id"]})  # before the work, too
    with claim(config, name="redshift predict", is_file=True, renew=True) as results:
        if not results.is_finished:
            table = part_of(config, predict_table, predictor=predictor, columns=columns)
            write_table(out, table, info={"num_train": predictor.about.get("num_train")})
    return out


def with_head(config: PredictConfig) -> PredictConfig:
    """Return the same with the head of the features' model, where no model is given."""
    if config.features is not None:
        return config
    features = config.model
    if (Path(features) / "predictor.json").exists() or (Path(features) / HEAD).exists():
        raise InputError(f"{features}: is a redshift model; name the features to predict for too")
    columns = read_features(features)
    hashes = columns.get("model_hash")
    if hashes is None:
        raise InputError(f"{features}: does not say which model it was fitted with; fit again")
    place = head_directory(str(hashes[0]))
    log.info(disclaimer(Head.load(place)))
    if not config.filters and not say_filters(columns):
        log.info(
            "The images did not say which filters they were taken through, so that any are taken for "
            "possible; name them with --filters, and p(z) will be sharper."
        )
    return replace(config, model=place, features=features)


def _predict_shards(config: PredictConfig, out: Path) -> Path:
    """Predict for each file of a features directory, on workers."""
    assert config.features is not None
    if out.suffix:
        raise InputError(f"{out}: several workers write a directory; leave the ending {out.suffix!r} out")
    load_predictor(config.model)  # what is wrong with it is said once
    beside = [path for path in (config.model, config.store, config.embedder_features) if path is not None]
    made_with = digest([contents(path) for path in beside])
    shards, unreadable = _find(Path(config.features), made_with)
    if not shards and not unreadable:
        raise InputError(f"{config.features}: no object in any of these files; run `deepfits fit` to the end")
    # the contents of each shard are in its own digest: only what has changed is predicted again
    with claim(config, name="redshift predict", inputs={"features": None}, renew=True) as results:
        config = replace(config, out=results.path)
        names = [f.name for f in fields(PredictWork) if f.name != "filters"]
        paths = {name: getattr(config, name) for name in names}
        places: dict[str, Any] = {k: None if path is None else absolute(path) for k, path in paths.items()}
        work = PredictWork(**places, filters=tuple(config.filters))
        run_shards(
            work,
            shards,
            results.path,
            title="redshifts",
            is_done=is_done,
            workers=Workers(number=config.workers, scheduler=config.scheduler),
            progress=config.progress,
            unreadable=unreadable,
        )
    return out


def _find(features: Path, made_with: str) -> tuple[list[Shard], dict[str, str]]:
    """List the files of the features that hold objects, and those that cannot be read."""
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
            made_from = digest([contents(path), made_with])
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
    filters: tuple[str, ...]

    def open(self, threads: int | None = None) -> Process:
        """Load the redshift model."""
        predictor = load_predictor(self.model)

        def process(shard: Shard, advance: Advance) -> None:
            columns = read_features(Path(self.features) / f"{shard.name}.parquet")
            guesses = self.embedder_features  # the embedder's latents of the same shard, or else of all
            if guesses is not None and (same := Path(guesses) / f"{shard.name}.parquet").exists():
                guesses = str(same)
            table = predict_table(
                predictor,
                columns,
                store=self.store,
                embedder_features=guesses,
                filters=self.filters,
            )
            write_shard(Path(self.out) / f"{shard.name}.parquet", table, shard.made_from)
            advance(shard.objects)

        return process
