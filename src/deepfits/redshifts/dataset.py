"""The data set that all methods of one table share: objects, labels, split and sources of features.

Shapes: N labelled objects with a finite latent.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import REFERENCE_BANDS, asinh_magnitude, bands_with_data
from deepfits.redshifts.features import Source, band_names, is_usable
from deepfits.redshifts.labels import Labels, match_labels
from deepfits.redshifts.pdf import LEAST_STEP
from deepfits.redshifts.split import MIN_TRAIN, Split, split_objects
from deepfits.tables import Columns, matches_conditions
from deepfits.tables.values import is_no_value, is_redshift_name

PLAUSIBLE = (0.0, 50.0)  # range of valid magnitudes; values outside it count as missing
MOST_CODES = 10  # whole numbers of at most this many different values may be classes
LEAST_SPREAD, LARGEST, LEAST_RATIO = 50 * LEAST_STEP, 1e30, 1e-5
"""Limits of the standard deviation of a property, and of its ratio to the largest value."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The labelled objects."""

    object_id: np.ndarray  # (N,)
    value: np.ndarray  # (N,)
    magnitude: np.ndarray  # (N,), for stratification and binning; NaN where unknown
    magnitude_name: str
    separation_arcsec: np.ndarray  # (N,)
    split: Split
    source: Source  # measurements from which feature sets are made, N rows
    label_columns: Columns  # the other columns of the labels, N rows
    counts: dict[str, int | str]  # numbers of objects and labels, and of those lost at each step
    classes: tuple[str, ...] = ()  # class names where the target is a class; `value` then holds class indices
    unit: str = ""  # unit of `value` as far as the labels state it

    @property
    def model_hash(self) -> str:
        """Fingerprint of the model that the features were fitted with; '' where it is not recorded."""
        hashes = self.source.columns.get("model_hash")
        return "" if hashes is None else str(hashes[0])


def make_dataset(
    features: Columns,
    labels: Labels,
    *,
    match: str = "auto",
    radius_arcsec: float = 1.0,
    train_select: Sequence[str] = (),
    **splitting: Any,
) -> Dataset:
    """Join features and labels, drop objects without a finite latent, and split.

    Objects without a finite latent are excluded from every row of the table, so that all methods are compared
    on the same objects; their number is in `counts`. `train_select` restricts the training labels but not the
    test labels; `splitting` is passed to `split_objects`.
    """
    usable = is_usable(features)
    columns = {name: values[usable] for name, values in features.items()}
    pairs = match_labels(columns, labels, match=match, radius_arcsec=radius_arcsec)
    columns = {name: values[pairs.rows] for name, values in columns.items()}
    value = labels.value[pairs.label_rows]
    log.info("%s: %d of %d labels match an object", labels.where, len(value), len(labels))
    if np.ptp(value) == 0 and len(value) >= MIN_TRAIN:
        same = repr(labels.classes[int(value[0])]) if labels.classes else f"{value[0]:g}"
        raise InputError(
            f"{labels.where}: all {len(value)} matched labels are {same}; there is nothing to learn from them"
        )
    if not labels.classes and not is_redshift_name(labels.target):
        _require_scale(value, labels)
        _warn_of_codes(value, labels)
    magnitude, magnitude_name = _reference_magnitude(columns, labels, pairs.label_rows)
    known = {name: values[pairs.label_rows] for name, values in labels.columns.items()}
    split = split_objects(
        columns["object_id"],
        value,
        magnitude,
        ra=columns.get("ra"),
        dec=columns.get("dec"),
        is_trainable=matches_conditions(known, train_select, labels.where) if train_select else None,
        **splitting,
    )
    counts: dict[str, int | str] = {
        **{f"labels_{name}": number for name, number in (labels.counts | pairs.counts).items()},
        "objects": len(usable),
        "objects_without_finite_latent": int((~usable).sum()),
        "matched": len(value),
        "matched_by": pairs.by,
        **{name: len(rows) for name, rows in vars(split).items()},
    }
    return Dataset(
        object_id=columns["object_id"],
        value=value,
        magnitude=magnitude,
        magnitude_name=magnitude_name,
        separation_arcsec=pairs.separation_arcsec,
        split=split,
        source=Source(columns=columns, bands=band_names(columns)),
        label_columns=known,
        counts=counts,
        classes=labels.classes,
        unit=labels.unit,
    )


def _require_scale(value: np.ndarray, labels: Labels) -> None:
    """Reject values that differ by less than distributions and single precision resolve, or are too large."""
    spread, largest = float(value.std()), float(np.abs(value).max())
    if len(value) >= MIN_TRAIN and not (LEAST_SPREAD < spread < LARGEST and spread > LEAST_RATIO * largest):
        raise InputError(
            f"{labels.where}: {labels.target} ranges from {value.min():.6g} to {value.max():.6g}, which "
            "distributions in steps of 0.0001 and in single precision do not resolve: give it in another "
            "unit (or its logarithm), less a constant if it is far from 0"
        )


def _warn_of_codes(value: np.ndarray, labels: Labels) -> None:
    """Warn of a few whole numbers, which may be codes of classes."""
    codes = np.unique(value)
    if len(codes) <= MOST_CODES and (codes == np.round(codes)).all():
        log.warning(
            "WARNING: %s: %s is learned as a number although it has only %d values (%s); if they are "
            "classes, write names in their place, or use `deepfits property classes`",
            *(labels.where, labels.target, len(codes), ", ".join(f"{code:g}" for code in codes)),
        )


def _reference_magnitude(columns: Columns, labels: Labels, label_rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a magnitude and its name: from the labels, else the catalogue, else the model fluxes."""
    bands = (*REFERENCE_BANDS, *band_names(columns))
    for band in bands:
        for name in (f"mag_{band}", f"mag_auto_{band}"):
            for table, rows in ((labels.columns, label_rows), (columns, slice(None))):
                if name in table and table[name].dtype.kind == "f" and table[name].ndim == 1:
                    magnitude = _known_magnitudes(table[name][rows])
                    if np.isfinite(magnitude).any():
                        return magnitude, name
    known = bands_with_data(columns)
    for band in bands:
        if band in known:
            flux = columns[f"flux_model_{band}"].astype(np.float64)
            return asinh_magnitude(flux, 1.0), f"asinh magnitude of flux_model_{band}"
    return np.full(len(columns["object_id"]), np.nan), "none"


def _known_magnitudes(values: np.ndarray) -> np.ndarray:
    """Return magnitudes as float64, ``(N,)``, with placeholders for missing values (−99, 99, 1e20) as NaN."""
    magnitude = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        magnitude[~((magnitude > PLAUSIBLE[0]) & (magnitude < PLAUSIBLE[1]))] = np.nan
    magnitude[is_no_value(magnitude, is_redshift=False)] = np.nan
    return magnitude
