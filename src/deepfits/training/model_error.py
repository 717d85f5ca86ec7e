"""Errors of a finished model, measured on objects of a store that it was not trained on."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import TooFewGalaxiesError
from deepfits.fitting.engine import Advance
from deepfits.fitting.error_measurement import NUM_FITS, learn_model_error, median_of
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.model_error import ModelError
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.progress import Progress, silent
from deepfits.splits import is_held_out
from deepfits.survey.store import CutoutStore
from deepfits.training.settings import MAX_MEASURED


def measure_model_error(
    model: Model, stores: Sequence[str | Path], progress: Progress = silent
) -> dict[str, Any] | None:
    """Measure the model error on held-out objects; None if there are too few.

    With several stores, the median of each number is returned.
    """
    errors = []
    with progress("measure errors", total=len(stores) * NUM_FITS, unit="fits") as task:
        for path in stores:
            with suppress(TooFewGalaxiesError):
                errors.append(measure_on(model, CutoutStore(path, skip_bad=True), advance=task.advance))
    return median_of(errors).to_json() if errors else None


def measure_on(
    model: Model,
    store: CutoutStore,
    *,
    held_out_only: bool = True,
    max_objects: int = MAX_MEASURED,
    threads: int | None = None,
    advance: Advance | None = None,
) -> ModelError:
    """Measure the model error on a store; `advance` is called with the number of galaxies newly fitted.

    Bands that the store lacks keep the values of the training. Raise `TooFewGalaxiesError` if there are not
    enough bright galaxies.
    """
    rows = np.arange(len(store))
    if held_out_only:
        rows = np.flatnonzero(is_held_out(store.catalogue([])["object_id"]))
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:max_objects])
    trained = model.model_error
    bands, name = len(model.info.bands), f"model {model.fingerprint}"
    uncalibrated = replace(model, model_error=None, calibration=None)
    fitter = Fitter(uncalibrated, FitSettings(), store.info, threads=threads)
    otherwise = None if trained is None else ModelError.from_json(trained, bands, name)
    return learn_model_error(fitter, store.take(chosen), otherwise, advance)
