"""Errors of a finished model, measured on the held-out objects of its stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.fitting.error_measurement import learn_model_error, median_of
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.splits import is_held_out
from deepfits.survey.neighbours import find_neighbours
from deepfits.survey.store import CutoutStore

MAX_MEASURED = 3000
"""Maximum number of objects of a store from which the errors are measured."""


def measure_model_error(model: Model, stores: Sequence[str | Path]) -> dict[str, Any] | None:
    """Measure the model error on held-out objects; None if there are too few.

    With several stores, the median of each number is returned.
    """
    errors = []
    for path in stores:
        store = CutoutStore(path, skip_bad=True)
        rows = np.flatnonzero(is_held_out(store.catalogue([])["object_id"]))
        chosen = np.sort(np.random.default_rng(0).permutation(rows)[:MAX_MEASURED])
        if not len(chosen):
            continue
        cutouts = store.take(chosen)
        fitter = Fitter(replace(model, model_error=None), FitSettings(), store.info)
        error = learn_model_error(
            fitter,
            cutouts.image,
            cutouts.weight,
            partial(find_neighbours, noise_correlation=store.info.noise_correlation),
            sight=fitter.sight(cutouts),
            psf=cutouts.psf,
        )
        if error is not None:
            errors.append(error)
    return median_of(errors).to_json() if errors else None
