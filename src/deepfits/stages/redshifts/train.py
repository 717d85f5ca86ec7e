"""The stage `redshift_train`: one method, learned and kept."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from deepfits.errors import InputError, require_known
from deepfits.progress import noted
from deepfits.redshifts import storage
from deepfits.redshifts.classes import CLASSIFIER
from deepfits.redshifts.learning import LOSSES
from deepfits.redshifts.method import Training
from deepfits.redshifts.methods import METHODS, Boosting, uses_templates
from deepfits.redshifts.predictor import Predictor, train_predictor
from deepfits.stages.redshifts.classes import classes_of, learn_classes
from deepfits.stages.redshifts.load import (
    fingerprints,
    inputs_of,
    is_of_classes,
    load_dataset,
    with_measurements,
)
from deepfits.stages.redshifts.parameters import Learning
from deepfits.stages.stage import claim, stage


@dataclass(frozen=True)
class TrainPredictorConfig(Learning):
    """What `redshift_train` takes.

    Parameters
    ----------
    method
        One of those that `redshift` compares, such as ``network``, ``templates`` or ``adapted``, which takes
        any number of labels from one on.
    feature_set
        Of ``boosting``, ``network`` and ``hybrid`` one of those of `redshift`; of ``stack`` ``fits``,
        ``deep`` or ``templates``. Other methods choose for themselves.
    loss
        ``squared`` (serves R²) or ``absolute`` (serves σ_MAD).
    """

    _: KW_ONLY
    method: str = "boosting"
    feature_set: str = "extended"
    loss: str = "squared"


@stage(TrainPredictorConfig)
def redshift_train(config: TrainPredictorConfig) -> Path:
    """Train one method on the labelled objects that are not held out, and store it to be used on others.

    Returns
    -------
    Path
        `out`, the redshift model: JSON, arrays and the libraries' own formats; nothing in it can run code.
        When it holds a model of the same inputs and settings, nothing is done.

    Raises
    ------
    InputError
        As `redshift`; then no directory is left behind.

    Examples
    --------
    A model for objects without labels: `deepfits redshift train run/features-both spectra.csv --out run/z`

    Stars and galaxies: `deepfits property train run/features-both truth.csv --target kind --out run/kind`
    """
    require_known("loss", config.loss, LOSSES)
    if is_of_classes(config.labels, config.label_column):
        return _train_classes(config)
    require_known("method", config.method, METHODS)
    kind, templates = METHODS[config.method], uses_templates(config.method, config.feature_set)
    dataset = load_dataset(config, fewest=kind.fewest_labels, fewest_to_test=0)
    inputs = inputs_of(dataset, config, templates=templates)
    kind.check(config.feature_set, inputs)
    with claim(config, name="redshift train", inputs=fingerprints(config)) as results:
        if results.is_finished:
            return results.path
        dataset = with_measurements(dataset, config, templates=templates)
        with config.progress("train redshifts", total=1, unit="methods") as task:
            training = Training(
                dataset=dataset,
                feature_set=config.feature_set,
                loss=config.loss,
                options=inputs.options,
                progress=noted(config.progress, task, config.method),
            )

            def member(name: str, features: str) -> Predictor:
                own = replace(training, feature_set=features)
                return train_predictor(METHODS[name], config.label_column, own)

            predictor = train_predictor(kind, config.label_column, replace(training, member=member))
            storage.save(predictor, results.path)
            task.advance(1, config.method)
    return results.path


def _train_classes(config: TrainPredictorConfig) -> Path:
    """Train on a target that is a class."""
    if config.method != Boosting.name:
        raise InputError(
            f"{config.labels}: {config.label_column} names classes, which are learned by boosting alone, not "
            f"by {config.method}"
        )
    dataset = load_dataset(config, classes=True)
    Boosting.check(config.feature_set, inputs_of(dataset, config))
    label, names = classes_of(dataset, config)
    with claim(config, name="redshift train", inputs=fingerprints(config)) as results:
        if not results.is_finished:
            with config.progress("train classes", total=1, unit="methods") as task:
                dataset = with_measurements(dataset, config)
                classifier = learn_classes(config, config.feature_set, dataset, label, names)
                storage.save(classifier, results.path, CLASSIFIER)
                task.advance(1, config.method)
    return results.path
