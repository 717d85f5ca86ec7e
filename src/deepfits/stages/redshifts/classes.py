"""Stage `redshift_classes`: the comparison table of `redshift` for a target of classes."""

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.provenance import provenance
from deepfits.redshifts import storage
from deepfits.redshifts.classes import (
    CLASSIFIER,
    class_metrics_with_errors,
    class_numbers,
    confusion,
    train_classifier,
    write_classes,
)
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.methods import Boosting
from deepfits.redshifts.naming import class_columns
from deepfits.redshifts.results import read_row, row_directory, write_row
from deepfits.stages.redshifts.load import inputs_of, load_dataset, parse_names, with_measurements
from deepfits.stages.redshifts.parameters import Labelled
from deepfits.stages.stage import NEUTRAL, claim, settings_of, stage
from deepfits.tables import write_table


@dataclass(frozen=True)
class ClassesConfig(Labelled):
    """Parameters of `redshift_classes`."""

    _: KW_ONLY
    label_column: str = "kind"
    """Column of the labels with the class (text or integers)."""
    feature_sets: Annotated[Sequence[str] | None, NEUTRAL] = None
    """Feature sets to train on; by default all that are available. See `redshift`."""


@stage(ClassesConfig, result="classes")
def redshift_classes(config: ClassesConfig) -> Path:
    """Train classifiers by boosting on every feature set, and measure them on held-out objects.

    Returns
    -------
    Path
        `out`: ``metrics.json``, ``table.md``, ``split.parquet``, and under ``methods/`` a classifier for each
        feature set, for `redshift_predict`.

    Raises
    ------
    InputError
        As for `redshift`; or a single class, or a class of fewer than ten objects.

    Examples
    --------
    Stars and galaxies: `deepfits redshift classes run/features-both kinds.csv --out run/classes`
    """
    dataset = load_dataset(config, classes=True)
    inputs = inputs_of(dataset, config)
    wanted = Boosting.rows(inputs, parse_names(config.feature_sets) or None)
    for name in wanted:
        Boosting.check(name, inputs)
    label, names = classes_of(dataset, config)
    test = dataset.split.test
    if len(np.unique(label[test])) < 2:
        raise InputError(
            f"column {config.label_column!r}: all held-out objects are of one class; give more labels"
        )
    with claim(config, name="redshift classes") as results:
        out = results.path
        if any(read_row(row_directory(out, f"classes-{name}")) is None for name in wanted):
            dataset = with_measurements(dataset, config)
        split = {"object_id": dataset.object_id, "part": dataset.split.names(len(label))}
        write_table(out / "split.parquet", {**split, config.label_column: np.array(names)[label]})
        rows = []
        with config.progress("classes", total=len(wanted), unit="feature sets") as task:
            for name in wanted:
                rows.append(_row(config, out, name, dataset, label, names))
                task.advance(1, name)
        content = {
            "target": config.label_column,
            "classes": list(names),
            "counts": dataset.counts,
            "rows": rows,
            "settings": settings_of(config),
            "provenance": provenance(),
        }
        write_classes(out, content)
    return out


def classes_of(dataset: Dataset, config: Labelled) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return each object's class index, ``(N,)``, and the class names, all of which have training objects."""
    label, names = class_numbers(np.array(dataset.classes)[dataset.value.astype(int)], str(config.labels))
    if len(np.unique(label[dataset.split.fitted])) < len(names):
        raise InputError(f"column {config.label_column!r}: a class has no training object; give more labels")
    return label, names


def _row(
    config: ClassesConfig, out: Path, name: str, dataset: Dataset, label: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Train and measure a classifier on one feature set, or read its finished row."""
    key, target = f"classes-{name}", config.label_column
    directory = row_directory(out, key)
    done = read_row(directory)
    if done is not None:
        return done
    started = time.monotonic()
    fitted, test = dataset.split.fitted, dataset.split.test
    classifier = train_classifier(target, name, dataset, label, names, config)
    storage.save(classifier, directory, CLASSIFIER)
    probability = classifier.predict(dataset.source.take(test))
    row = {
        "key": key,
        "features": name,
        "num_train": len(fitted),
        "num_test": len(test),
        "seconds": round(time.monotonic() - started, 2),
        "metrics": class_metrics_with_errors(probability, label[test]),
        "confusion": confusion(probability, label[test], names),
        **classifier.about,
    }
    columns = {"object_id": dataset.object_id[test], target: np.array(names)[label[test]]}
    columns |= class_columns(probability, names)
    write_row(directory, row, columns)
    return row
