"""Validation of predicted bands against measurements, other methods, and the truth of a simulation."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from deepfits.errors import InputError, naming
from deepfits.fitting import inpainting
from deepfits.photometry import MIN_SIGNAL_TO_NOISE, ab_magnitude, aperture_flux
from deepfits.progress import Progress
from deepfits.scale.work import thread_safe
from deepfits.splits import is_held_out
from deepfits.stages.inpaint_work import Calibrations, predict, some_of
from deepfits.survey.store import CutoutStore

log = logging.getLogger(__name__)


def validate(
    calibrations: Calibrations,
    store: CutoutStore,
    max_objects: int,
    truth: str | Path | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Hide each band in turn for held-out objects; return for each how well it is predicted."""
    fitter, bands = calibrations.fitter, store.info.bands
    identity = store.catalogue(["object_id"])["object_id"]
    held_out = is_held_out(identity)
    if not held_out.any():
        raise InputError(
            f"{store.directory}: no held-out object among {len(store)} to validate with; use a larger store"
        )
    tested = some_of(store, held_out, max_objects)
    known = some_of(store, ~held_out, 10 * max_objects)
    fluxes = [aperture_flux(part.image, part.weight, fitter.sums[1])[0] for part in (tested, known)]
    magnitudes = ab_magnitude(np.concatenate(fluxes))
    del known  # large
    rows = []
    with_data = [n for n in range(len(bands)) if (tested.weight[:, n] > 0).any()]
    log.info(
        "validation: each of %s is hidden in turn, in up to %s objects to calibrate predictions and in %s "
        "to compare them",
        *(
            ", ".join(bands[index] for index in with_data),
            f"{calibrations.num_objects:,}",
            f"{len(tested):,}",
        ),
    )
    calibrated = [calibrations.of([bands[index]])[0] for index in with_data]
    with progress("validate", total=len(with_data) * len(tested), unit="objects") as task:
        advance = thread_safe(task.advance)
        for index, calibration in zip(with_data, calibrated, strict=True):
            columns, predicted = predict(
                fitter, tested, [index], advance, calibrations=[calibration], with_pixels=False
            )
            row = _compare_band(
                columns, magnitudes[:, with_data], [bands[n] for n in with_data], bands[index]
            )
            row |= {"model_error": calibration.error, "is_corrected": calibration.correction is not None}
            if truth is not None:
                row["truth"] = _compare_with_truth(columns, predicted, bands, with_data, index, Path(truth))
            rows.append(row)
    return rows


def _compare_band(
    columns: dict[str, np.ndarray], magnitudes: np.ndarray, bands: Sequence[str], band: str
) -> dict[str, Any]:
    """Return one row of the validation: bias and scatter of every method in a band, and pulls.

    `columns` are the predictions for the tested objects, the first of those with `magnitudes`, ``(N, B)``,
    in the bands with data; the other methods learn from the rest.
    """
    num_tested = len(columns["object_id"])
    is_known = np.arange(len(magnitudes)) >= num_tested
    predicted, predicted_err = columns[f"flux_aper_{band}"], columns[f"flux_aper_err_{band}"]
    measured, measured_err = columns[f"flux_aper_measured_{band}"], columns[f"flux_aper_measured_err_{band}"]
    is_bright = measured >= MIN_SIGNAL_TO_NOISE * measured_err
    target = np.where(is_bright, ab_magnitude(measured), np.nan)
    methods = {
        "deepfits": ab_magnitude(predicted),
        "generator alone": ab_magnitude(predicted) - columns[f"correction_mag_{band}"],
        "interpolation": inpainting.interpolate(magnitudes, bands, band)[:num_tested],
        "regression": inpainting.regress(magnitudes, bands.index(band), is_known)[:num_tested],
    }
    compared = {name: inpainting.compare_magnitudes(values, target) for name, values in methods.items()}
    pulls = inpainting.compare_pulls(predicted, predicted_err, measured, measured_err)
    return {"band": band, "methods": compared, **pulls}


def _compare_with_truth(
    columns: dict[str, np.ndarray],
    predicted: dict[str, np.ndarray],
    bands: Sequence[str],
    with_data: Sequence[int],
    index: int,
    path: Path,
) -> dict[str, Any]:
    """Compare the colour, predicted minus measured in the adjacent band, with that of the true source.

    Both magnitudes are measured in the aperture, so that flux losses and neighbours nearly cancel. `there`
    are the bands with data.
    """
    place = with_data.index(index)
    other = with_data[place - 1] if place else with_data[min(1, len(with_data) - 1)]
    band, beside = bands[index], bands[other]
    names = ["ra", "dec", f"mag_{band}", f"mag_{beside}"]
    with naming(path, f"cannot read {names} from this table of true sources", "make it again"):
        table = pq.read_table(path, columns=names)
    if "ra" not in columns or "dec" not in columns:
        raise InputError(f"{path}: the store has no ra and dec to match with; validate without truth")
    ra, dec, true, true_beside = (table[name].to_numpy() for name in names)
    row = inpainting.match_brightest(columns["ra"], columns["dec"], ra, dec, true_beside)
    is_used = row >= 0
    measured, measured_err = predicted["measured"], predicted["measured_err"]
    for place in (index, other):
        is_used &= measured[:, place] >= MIN_SIGNAL_TO_NOISE * measured_err[:, place]
    colour = columns[f"mag_aper_{band}"] - ab_magnitude(measured[:, other])
    expected = np.where(is_used, true[row] - true_beside[row], np.nan)
    return {"beside": beside, **inpainting.compare_magnitudes(colour, expected)}
