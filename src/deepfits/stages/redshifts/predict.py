"""Stage `redshift_predict`: apply a trained method to one table of features or to many shards."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.config import NAMES_FILES
from deepfits.errors import InputError
from deepfits.files import contents, digest, named_contents
from deepfits.fitting.columns import Column, describe
from deepfits.fitting.features import is_done, shard_paths, write_shard
from deepfits.photometry import bands_of, bands_with_data
from deepfits.provenance import code
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER, Classifier
from deepfits.redshifts.features import is_usable, read_features
from deepfits.redshifts.head import HEAD, Head, disclaimer, head_directory
from deepfits.redshifts.inputs import records_filters
from deepfits.redshifts.naming import is_of_target
from deepfits.redshifts.predict import load_predictor, predict_table
from deepfits.redshifts.predictor import Predictor
from deepfits.scale.cluster import Workers
from deepfits.scale.run import run_shards
from deepfits.scale.work import Advance, Process, Shard
from deepfits.stages.fit_work import absolute
from deepfits.stages.parameters import OnCluster
from deepfits.stages.redshifts.parameters import FromFits
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.tables import Columns, format_of, require_storable, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictConfig(FromFits, OnCluster):
    """Parameters of `redshift_predict`."""

    model: Annotated[str | Path, INPUT]
    """Redshift model: a directory from `redshift_train` (or under ``methods/`` in the output of `redshift`),
    or a head from `redshift_pretrain`. If only features are given, the head shipped with their model is used,
    which needs no labels."""
    features: Annotated[str | Path | None, INPUT] = None
    """Features of any objects, from `fit`. Also give the store and the embedder's features if the model was
    trained with them."""
    out: str | Path | None = None
    """Output table, in the format of its extension (``.parquet``, ``.fits`` or ``.csv``), with `object_id`,
    `ra` and `dec` if known, `z_phot`, the distribution as `quantiles`, `z_mean`, `z_median`, `z_mode`,
    `z_err68_low`, `z_err68_high`, `z_err95_low` and `z_err95_high`, a flag for objects outside the training
    domain, and `is_valid` (objects without a finite latent have NaN). Classifiers write `class` and
    `p_<class>`. A name without an extension is a directory, with one such file for each non-empty file of the
    features, and ``_manifest.jsonl``; run again to process what is missing or failed."""
    _: KW_ONLY
    filters: Annotated[Sequence[str], NAMES_FILES] = ()
    """Filter of each band, in the order of the features' bands: a name of speclite, such as ``sdss2010-g``, a
    file of wavelengths and transmissions, or the mean wavelength in Å. By default the filters named in the
    image headers. If these are unknown, a head allows for any plausible filters."""


@stage(PredictConfig, result="predictions")
def redshift_predict(config: PredictConfig) -> Path:
    """Predict redshifts, or another property, from features with a trained model.

    Without a model, the head shipped with the features' own model predicts redshifts without any labels, if
    there is one.

    Raises
    ------
    InputError
        Features of another kind than the model was trained on, or something else in `out`.
    ShardsFailedError
        Some files could not be read or do not match the model; all others are done.

    Examples
    --------
    One table: `deepfits redshift predict run/redshift-model run/features-both --out run/redshifts.parquet`

    Many shards: `deepfits redshift predict MODEL FEATURES --out run/redshifts --workers 4` (a directory)

    Without any labels: `deepfits redshift predict run/features-both --out run/redshifts.parquet`

    With the filters of SDSS: `deepfits redshift predict FEATURES --out z.fits --filters
    sdss2010-u,sdss2010-g,sdss2010-r,sdss2010-i,sdss2010-z`
    """
    if config.out is None:
        raise InputError("give an output path: out='z.parquet', a table, or a directory")
    out, (config, columns) = Path(config.out), _with_head(config)
    if not out.suffix or config.workers > 1 or config.scheduler is not None:
        return _predict_shards(config, out)
    format_of(out)  # refuse an unknown format before the work
    assert config.features is not None
    predictor, columns = load_predictor(config.model), columns or read_features(config.features)
    if not is_usable(columns).any():
        raise InputError(f"{config.features}: no object has a finite latent")
    require_storable(out, {"object_id": columns["object_id"]})
    with claim(config, name="redshift predict", is_file=True, renew=True) as results:
        if not results.is_finished:
            table = part_of(config, predict_table, predictor=predictor, columns=columns)
            info = {"num_train": predictor.about.get("num_train")}
            write_table(out, table, info=info, describe=_describing(predictor))
    return out


def _describing(predictor: Predictor | Classifier) -> Callable[[str], Column]:
    return describing(predictor.target, str(predictor.about.get("unit", "")))


def describing(target: str, unit: str) -> Callable[[str], Column]:
    """Return the function that describes the columns of predictions, with the unit of the target."""

    def describe_prediction(name: str) -> Column:
        about = describe(name, table="predictions")
        return replace(about, unit=unit) if is_of_target(name, target) else about

    return describe_prediction


def _with_head(config: PredictConfig) -> tuple[PredictConfig, Columns | None]:
    """Fill in the head of the features' model if only features are given, and return these features too."""
    if config.features is not None:
        return config, None
    features = config.model
    if any((Path(features) / name).exists() for name in (storage.PREDICTOR, HEAD, CLASSIFIER)):
        raise InputError(f"{features}: is a redshift model; also give the features to predict from")
    columns = read_features(features)
    hashes = columns.get("model_hash")
    if hashes is None:
        raise InputError(f"{features}: does not record which model it was fitted with; fit again")
    place = head_directory(str(hashes[0]))
    log.info(disclaimer(Head.load(place)))
    known = bands_with_data(columns)
    if lacking := [band for band in bands_of(columns) if band not in known]:
        log.info(
            "No object has data in %s: expect larger errors than these, for which p(z) allows; `redshift "
            "evaluate` measures them where spectra are.",
            ", ".join(lacking),
        )
    if not config.filters and not records_filters(columns):
        log.info(
            "The image headers do not name the filters, so all plausible ones are considered; give them with "
            "--filters for a sharper p(z)."
        )
    return replace(config, model=place, features=features), columns


def _predict_shards(config: PredictConfig, out: Path) -> Path:
    """Predict for each file of a features directory, with workers."""
    assert config.features is not None
    if out.suffix:
        raise InputError(f"{out}: several workers write a directory; omit the extension {out.suffix!r}")
    load_predictor(config.model)  # report any problem once, not for every shard
    inputs = [path for path in (config.model, config.store, config.embedder_features) if path is not None]
    made_with = digest([contents(path) for path in inputs], named_contents(config.filters), code())
    shards, unreadable = _find_shards(Path(config.features), made_with)
    if not shards and not unreadable:
        raise InputError(f"{config.features}: no object in any of these files; run `deepfits fit` to the end")
    # Each shard's digest covers its contents and settings, so only changed shards are predicted again.
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
            title="predict",
            is_done=is_done,
            workers=Workers(number=config.workers, scheduler=config.scheduler),
            progress=config.progress,
            unreadable=unreadable,
        )
    return out


def _find_shards(features: Path, made_with: str) -> tuple[list[Shard], dict[str, str]]:
    """List the non-empty files of the features, and the reason for each that cannot be read."""
    if features.is_file():
        raise InputError(f"{features}: is one file; give its directory, or a file such as z.parquet as OUT")
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
    """Predict for the files of a features directory. All paths are absolute."""

    model: str
    features: str
    out: str
    store: str | None
    embedder_features: str | None
    filters: tuple[str, ...]

    def open(self, threads: int | None = None) -> Process:
        """Load the redshift model and return the function that processes one shard."""
        predictor = load_predictor(self.model)

        def process(shard: Shard, advance: Advance) -> None:
            columns = read_features(Path(self.features) / f"{shard.name}.parquet")
            embedder = self.embedder_features  # read only the same shard, if there is one
            if embedder is not None and (same := Path(embedder) / f"{shard.name}.parquet").exists():
                embedder = str(same)
            table = predict_table(
                predictor, columns, store=self.store, embedder_features=embedder, filters=self.filters
            )
            out = Path(self.out) / f"{shard.name}.parquet"
            write_shard(out, table, shard.made_from, describe=_describing(predictor))
            advance(shard.objects)

        return process
