"""Stage `redshift_train`: train one method and save it."""

import logging
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from deepfits.errors import InputError, require_known
from deepfits.progress import noted
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER, train_classifier
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.learning import LOSSES
from deepfits.redshifts.method import Training
from deepfits.redshifts.methods import METHODS, Adapted, Boosting, TemplateFit, uses_templates
from deepfits.redshifts.predictor import Predictor, train_predictor
from deepfits.redshifts.split import require_enough
from deepfits.stages.redshifts.classes import classes_of
from deepfits.stages.redshifts.load import (
    fingerprints,
    has_head,
    inputs_of,
    is_of_classes,
    load_dataset,
    warn_of_default_filters,
    with_measurements,
)
from deepfits.stages.redshifts.parameters import Learning
from deepfits.stages.stage import claim, stage

log = logging.getLogger(__name__)

USUAL = "extended"  # feature set by default


@dataclass(frozen=True)
class TrainPredictorConfig(Learning):
    """Parameters of `redshift_train`."""

    _: KW_ONLY
    method: str | None = None
    """A method of `redshift`, such as ``boosting``, ``network`` or ``templates``. By default ``adapted``,
    which needs only one label, for redshifts from fits with a model that has a head, as ``builtin:ugriz``,
    and ``boosting`` otherwise or if a feature set is given."""
    feature_set: str | None = None
    """Feature set (see `redshift`) for ``boosting``, ``network`` and ``hybrid``, by default ``extended``;
    ``fits``, ``deep`` or ``templates`` for ``stack``. Other methods have no choice."""
    loss: str | None = None
    """Training loss: ``squared`` (best for R²) or ``absolute`` (best for σ_MAD). By default ``squared``, but
    ``absolute`` for ``adapted`` and ``pretrained``: the estimate is then the median of p(z), as it is without
    labels, and not the mean."""


@stage(TrainPredictorConfig, result="trained method")
def redshift_train(config: TrainPredictorConfig) -> Path:
    """Train one method on the labelled objects that are not held out, and save it for `redshift_predict`.

    The model is saved as JSON, arrays and the formats of the libraries, none of which can run code when
    loaded. A finished model with the same inputs and settings is kept.

    Raises
    ------
    InputError
        As for `redshift`; no directory is left behind.

    Examples
    --------
    Redshifts: `deepfits redshift train run/features-both spectra.csv --out run/redshift-model`

    Stars and galaxies: `deepfits property train run/features-both truth.csv --target kind --out run/kind`
    """
    if config.loss is not None:
        require_known("loss", config.loss, LOSSES)
    if is_of_classes(config.labels, config.label_column):
        return _train_classes(config)
    if config.method is not None:
        require_known("method", config.method, METHODS)
    dataset = load_dataset(config, fewest=1, fewest_to_test=0)
    by_head = config.feature_set is None and has_head(dataset, config)
    method = config.method or (Adapted if by_head else Boosting).name
    feature_set = config.feature_set or USUAL
    kind, templates = METHODS[method], uses_templates(method, feature_set)
    require_enough(len(dataset.split.fitted), len(dataset.split.test), kind.fewest_labels)
    loss = config.loss or kind.usual_loss
    config = replace(config, method=method, feature_set=feature_set, loss=loss)
    inputs = inputs_of(dataset, config, templates=templates)
    kind.check(feature_set, inputs)
    if templates or kind is TemplateFit:
        warn_of_default_filters(inputs)
    with claim(config, name="redshift train", inputs=fingerprints(config)) as results:
        if results.is_finished:
            return results.path
        _log_numbers(dataset)
        filters = inputs.options.filters if templates else None
        dataset = with_measurements(dataset, config, template_filters=filters)
        with config.progress("train", total=1, unit="methods") as task:
            training = Training(
                dataset=dataset,
                feature_set=feature_set,
                loss=loss,
                options=inputs.options,
                progress=noted(config.progress, task, method),
            )

            def member(name: str, features: str) -> Predictor:
                own = replace(training, feature_set=features)
                return train_predictor(METHODS[name], config.label_column, own)

            predictor = train_predictor(kind, config.label_column, replace(training, member=member))
            storage.save(predictor, results.path)
            task.advance(1, method)
    return results.path


def _log_numbers(dataset: Dataset) -> None:
    """Log how many labels are used; the held-out ones are not."""
    log.info(
        "training on %d labelled objects; %d are held out for `redshift evaluate`",
        *(len(dataset.split.fitted), len(dataset.split.test)),
    )


def _train_classes(config: TrainPredictorConfig) -> Path:
    """Train on a target of classes."""
    if config.method not in (None, Boosting.name):
        raise InputError(
            f"{config.labels}: {config.label_column} has class names, which only boosting predicts, not "
            f"{config.method}"
        )
    feature_set = config.feature_set or USUAL
    config = replace(config, method=Boosting.name, feature_set=feature_set)
    dataset = load_dataset(config, classes=True)
    Boosting.check(feature_set, inputs_of(dataset, config))
    label, names = classes_of(dataset, config)
    with claim(config, name="redshift train", inputs=fingerprints(config)) as results:
        if not results.is_finished:
            _log_numbers(dataset)
            with config.progress("train classes", total=1, unit="methods") as task:
                dataset = with_measurements(dataset, config)
                classifier = train_classifier(config.label_column, feature_set, dataset, label, names, config)
                storage.save(classifier, results.path, CLASSIFIER)
                task.advance(1, Boosting.name)
    return results.path
