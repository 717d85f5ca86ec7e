"""Stage `redshift`: compare redshift methods trained on features and labels (M19 §3.3, Table 1)."""

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from deepfits.errors import InputError, require_known
from deepfits.photometry import robust_scatter
from deepfits.progress import noted
from deepfits.provenance import provenance
from deepfits.redshifts import storage
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import FEATURE_SETS
from deepfits.redshifts.inputs import photoz_column
from deepfits.redshifts.labels import read_labels
from deepfits.redshifts.learning import LOSSES
from deepfits.redshifts.method import Inputs, Training
from deepfits.redshifts.methods import (
    METHODS,
    Adapted,
    Boosting,
    Constant,
    Pretrained,
    Stack,
    TemplateFit,
    TpotModel,
)
from deepfits.redshifts.methods.stack import STACKS
from deepfits.redshifts.metrics import delta_z
from deepfits.redshifts.naming import as_written, truth_name
from deepfits.redshifts.pdf import pit
from deepfits.redshifts.predictor import Predictor, train_predictor
from deepfits.redshifts.results import (
    RowKey,
    join_predictions,
    make_row,
    read_row,
    row_directory,
    write_metrics,
    write_row,
)
from deepfits.redshifts.split import MIN_TRAIN
from deepfits.stages.redshifts.classes import redshift_classes
from deepfits.stages.redshifts.load import (
    fingerprints,
    has_head,
    inputs_of,
    is_of_classes,
    load_dataset,
    parse_names,
    warn_of_default_filters,
    with_measurements,
)
from deepfits.stages.redshifts.parameters import Learning
from deepfits.stages.redshifts.predict import describing
from deepfits.stages.stage import NEUTRAL, claim, part_of, settings_of, stage
from deepfits.tables import write_table
from deepfits.tables.values import is_redshift_name

USUAL, OF_HEADS = (Boosting.name, TpotModel.name), (Pretrained.name, Adapted.name)
"""Methods by default, and those that are added where there is a head."""


@dataclass(frozen=True)
class CompareConfig(Learning):
    """Parameters of `redshift`."""

    _: KW_ONLY
    methods: Annotated[Sequence[str] | None, NEUTRAL] = None
    """Methods to compare. On feature sets: ``"boosting"`` (tuned XGBoost) and ``"network"`` (small neural
    networks). On the latents: ``"tpot"``. On photometry: ``"neighbours"`` (nearest neighbours in colour
    space) and ``"templates"`` (template fitting). On images: ``"wide_resnet"`` (50 layers, trained from
    scratch; slow without a GPU), ``"semi_supervised"`` (the model's embedder, fine-tuned on the labels),
    ``"scratch"`` (the same network without the model's weights) and ``"hybrid"`` (the embedder combined with
    aperture magnitudes). ``"stack"`` combines several methods. For fits with a scene model: ``"pretrained"``
    (trained on simulated galaxies, uses no labels) and ``"adapted"`` (the same, adapted to the labels). A
    constant is always included as the baseline. By default boosting and TPOT, and for redshifts from fits
    with a model that has a head, as ``builtin:ugriz``, pretrained and adapted."""
    feature_sets: Annotated[Sequence[str] | None, NEUTRAL] = None
    """Feature sets for boosting and small networks; by default all that are available (``oriented`` only for
    other targets than redshifts). Choose from ``latents``, ``oriented``, ``model``, ``extended``,
    ``magnitudes``, ``combined``, ``matched``, ``templates``, ``sizes``, ``all``, ``scene``, ``portable`` and
    ``embedder``. A prefix limits a set to one method, as in ``boosting:all``. Stacks are chosen by
    ``stack:templates``, ``stack:fits`` and ``stack:deep``. Give a list, or text such as ``latents,model``."""
    losses: Annotated[Sequence[str] | None, NEUTRAL] = None
    """Training loss: ``"squared"`` (best for R²) or ``"absolute"`` (best for σ_MAD), or both. By default each
    method's own, as in `redshift_train`: ``"absolute"`` for ``"adapted"`` and ``"pretrained"``, ``"squared"``
    for the others."""
    photoz: Annotated[str | None, NEUTRAL] = None
    """Your own photometric redshifts to compare with: a column of the labels, or ``TABLE:COLUMN``."""
    template_features: bool = False
    """Fit templates to all objects, and use the quantiles of their redshift distributions as features of
    boosting and small networks: feature sets ``templates``, ``sizes`` and ``all``."""


@stage(CompareConfig, result="comparison")
def redshift(config: CompareConfig) -> Path:
    """Train several methods to predict redshifts or another property, and compare them on held-out objects.

    The target, `label_column`, may be any column of the labels. Numbers are predicted like redshifts; names
    are predicted as classes, as by `redshift_classes`.

    Every method with every one of its feature sets is a row of the table, and takes seconds to minutes:
    choose `methods` and `feature_sets` to see the first rows soon. Finished rows are kept, so that more can
    be added by a later run with the same inputs and settings. The requirements of each method (a model,
    cutouts, a program) are checked before any work.

    Returns
    -------
    Path
        `out`, with ``metrics.json``, ``table.md``, ``predictions.parquet``, ``split.parquet`` and the trained
        methods.

    Raises
    ------
    InputError
        Files that cannot be read or have no objects in common, labels that are too few or all equal, a single
        band, a method without what it requires, or results with other settings in `out`.

    Examples
    --------
    The usual methods: `deepfits redshift compare run/features-both spectra.csv --out run/redshift`

    With photometry and templates: `deepfits redshift compare run/features-both spectra.csv --out run/redshift
    --store run/cutouts --method boosting,templates`

    Sizes: `deepfits property compare run/features-both truth.csv --target half_light_arcsec --out run/sizes`
    """
    if is_of_classes(config.labels, config.label_column):
        return _compare_classifiers(config)
    names = [name for name in parse_names(config.methods) if name in METHODS]
    fewest = max((METHODS[name].fewest_labels for name in names), default=MIN_TRAIN)
    dataset = load_dataset(config, fewest=fewest)
    if config.methods is None:
        config = replace(config, methods=[*USUAL, *(OF_HEADS if has_head(dataset, config) else ())])
    inputs = inputs_of(dataset, config, templates=config.template_features)
    keys = plan_rows(config, inputs)
    if config.template_features or RowKey(method=TemplateFit.name) in keys:
        warn_of_default_filters(inputs)
    photoz = photoz_column(config.photoz, dataset, config.match_radius_arcsec) if config.photoz else None
    with claim(config, name="redshift compare", inputs=fingerprints(config)) as results:
        out = results.path
        if any(read_row(row_directory(out, key)) is None for key in keys):
            filters = inputs.options.filters if config.template_features else None
            dataset = with_measurements(dataset, config, template_filters=filters)
        comparison = Comparison(config=config, out=out, dataset=dataset, inputs=inputs)
        split = {
            "object_id": dataset.object_id,
            "part": dataset.split.names(len(dataset.object_id)),
            "magnitude": dataset.magnitude,
            "separation_arcsec": dataset.separation_arcsec,
            truth_name(config.label_column): dataset.value,  # which may have one of these names
        }
        write_table(out / "split.parquet", split)
        rows = []
        with config.progress("compare", total=len(keys) + bool(config.photoz), unit="methods") as task:
            for key in keys:
                rows.append(comparison.row(key, noted(config.progress, task, str(key))))
                task.advance(1, str(key))
            if photoz is not None:
                rows.append(comparison.column(str(config.photoz), photoz))
                task.advance(1, str(config.photoz))
        named = ("object_id", truth_name(config.label_column), "magnitude")
        columns = {name: split[name][dataset.split.test] for name in named}
        described = describing(config.label_column, dataset.unit)
        join_predictions(out, [row["key"] for row in rows], columns, config.label_column, described)
        about = {
            "target": config.label_column,
            "magnitude": dataset.magnitude_name,
            "counts": dataset.counts,
            "settings": settings_of(config),
            "provenance": provenance(),
        }
        write_metrics(out, rows, about)
    return out


def _compare_classifiers(config: CompareConfig) -> Path:
    """Make the table for a target of classes."""
    methods = parse_names(config.methods) or USUAL
    if Boosting.name not in methods or config.photoz or config.template_features:
        raise InputError(
            f"{config.labels}: {config.label_column} has class names, which only boosting predicts; include "
            "it in methods, and leave out photoz and template_features"
        )
    names = _feature_sets_for(Boosting.name, parse_names(config.feature_sets))
    return part_of(config, redshift_classes, feature_sets=names)


def _out_of_fold_metrics(predictor: Predictor, dataset: Dataset) -> dict[str, Any]:
    """Measure a method on its out-of-fold predictions, which may be used for model selection."""
    estimates = predictor.out_of_fold
    if estimates is None:
        return {}
    value = dataset.value[estimates.rows]
    error = delta_z(estimates.point, value, is_redshift=is_redshift_name(predictor.target))
    return {"left_out": {"sigma_mad": float(robust_scatter(error)), "num": len(value)}}


def plan_rows(config: CompareConfig, inputs: Inputs) -> list[RowKey]:
    """List the rows: the constant, then the methods in the order of `METHODS`, each with its losses."""
    names, losses, feature_sets = _known_names(config)
    chosen = [method for name, method in METHODS.items() if name in names and method is not Constant]
    keys = [
        RowKey(method=method.name, features=name, loss=loss)
        for method in chosen
        for loss in (losses or [method.usual_loss] if method.has_loss else [""])
        for name in method.rows(inputs, _feature_sets_for(method.name, feature_sets))
    ]
    for key in keys:
        try:
            METHODS[key.method].check(key.features, inputs)
        except InputError as error:
            raise InputError(f"the row {key} cannot be made: {error}") from error
    return [RowKey(method=Constant.name), *keys]


def _known_names(config: CompareConfig) -> tuple[list[str], list[str], list[str]]:
    """Return the names of methods, losses and feature sets, or raise an error for an unknown one."""
    names, losses = parse_names(config.methods), parse_names(config.losses)
    feature_sets = parse_names(config.feature_sets)
    for name in (*names, *(text.partition(":")[0] for text in feature_sets if ":" in text)):
        require_known("method", name, METHODS)
    for loss in losses:
        require_known("loss", loss, LOSSES)
    for text in feature_sets:
        method, _, name = text.rpartition(":")
        require_known("feature set", name, STACKS if method == "stack" else FEATURE_SETS)
    return names, losses, feature_sets


def require_usable(labels: str | Path | None, **settings: Any) -> None:
    """Raise the errors of `redshift` that need no features: in names, and in the labels, if given."""
    config = CompareConfig(features="", labels=labels or "", out="", **settings)
    _known_names(config)
    if labels is None:
        return
    classes = is_of_classes(labels, config.label_column)
    read_labels(labels, column=config.label_column, select=config.select, classes=classes)


def _feature_sets_for(method: str, feature_sets: Sequence[str]) -> list[str] | None:
    """Return the feature sets chosen for a method, as ``NAME`` or ``METHOD:NAME``; None for the default."""
    if not feature_sets:
        return None
    pairs = [text.rpartition(":") for text in feature_sets]
    own = [name for only, _, name in pairs if only == method]
    if method == Stack.name:
        return own or None
    return [name for only, _, name in pairs if only in ("", method)]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rows of one table, each stored in its own directory."""

    config: CompareConfig
    out: Path
    dataset: Dataset
    inputs: Inputs

    def row(self, key: RowKey, progress: Any) -> dict[str, Any]:
        """Train and measure one method, or read its finished row."""
        directory, dataset = row_directory(self.out, key), self.dataset
        done = read_row(directory)
        if done is not None:
            return done
        started = time.monotonic()

        def member(method: str, features: str) -> Predictor:
            """Load a member of a stack from its own row, which is made first if missing."""
            own = RowKey(method=method, features=features, loss=key.loss)
            self.row(own, progress)
            return storage.load(Predictor, row_directory(self.out, own))

        training = Training(
            dataset=dataset,
            feature_set=key.features,
            loss=key.loss or "squared",
            options=self.inputs.options,
            member=member,
            progress=progress,
        )
        predictor = train_predictor(METHODS[key.method], self.config.label_column, training)
        storage.save(predictor, directory)
        test = dataset.split.test
        predictions = predictor.predict(dataset.source.take(test))
        if "quantiles" in predictions:
            predictions["pit"] = pit(predictions["quantiles"], dataset.value[test])
        about = {**predictor.about, **_out_of_fold_metrics(predictor, dataset)}
        num_train, seconds = len(dataset.split.fitted), time.monotonic() - started
        return self._write(key, predictions, num_train=num_train, seconds=seconds, about=about)

    def column(self, name: str, photoz: np.ndarray) -> dict[str, Any]:
        """Measure the user's own estimates, ``(N,)``, on the test objects that have one."""
        key = RowKey(method="column", features=name.rpartition(":")[2])
        return self._write(key, {"z_phot": photoz[self.dataset.split.test]}, num_train=0, seconds=0.0)

    def _write(self, key: RowKey, predictions: dict[str, np.ndarray], **others: Any) -> dict[str, Any]:
        """Measure and write predictions for the test objects."""
        dataset, test, target = self.dataset, self.dataset.split.test, self.config.label_column
        value, magnitude = dataset.value[test], dataset.magnitude[test]
        row = make_row(key, predictions, value, magnitude, target=target, **others)
        columns = {"object_id": dataset.object_id[test], **as_written(predictions, target)}
        write_row(row_directory(self.out, key), row, columns, describing(target, dataset.unit))
        return row
