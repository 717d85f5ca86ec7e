"""The work of `inpaint` on one shard: fit without some bands, draw these, and calibrate the predictions.

Shapes: N objects, B bands, H, W pixels.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.config import Stored, convert
from deepfits.files import read_json, write_json
from deepfits.fitting.correction import Correction, cross_corrected, learn_correction
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.inpainting import model_error
from deepfits.fitting.measuring import measure
from deepfits.models.bundle import Model
from deepfits.photometry import ab_magnitude, aperture_flux, magnitude_error
from deepfits.progress import Progress
from deepfits.scale.work import Advance, Process, Shard, thread_safe
from deepfits.splits import evenly_spaced, is_held_out
from deepfits.stages.fit_work import ModelWork
from deepfits.survey.coverage import have_data
from deepfits.survey.store import Cutouts, CutoutStore

log = logging.getLogger(__name__)
CALIBRATION = "calibration.json"
SUMS = ("", "_aper")  # total and aperture fluxes


@dataclass(frozen=True, kw_only=True)
class Calibration(Stored):
    """Calibration of a band's predictions, from objects observed in that band."""

    error: float = 0.0  # model error as a fraction of the flux, added in quadrature
    correction: Correction | None = None  # correction of the generator's systematic error; None without one


@dataclass(frozen=True, kw_only=True)
class InpaintWork(ModelWork):
    """Predict bands for the shards of a store."""

    store: str
    bands: tuple[str, ...]
    images: bool
    calibrations: tuple[Calibration, ...]

    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Return the function that processes one shard, with a model that is already loaded."""
        read, fitter = self.of_store(self.store, model, threads)
        hidden = [fitter.info.bands.index(band) for band in self.bands]

        def process(shard: Shard, advance: Advance) -> None:
            calibrations = self.calibrations
            columns, predicted = predict(fitter, read(shard), hidden, advance, calibrations=calibrations)
            planes = {"image": predicted["model"], "image_err": predicted["pixel_std"]} if self.images else {}
            self.write(shard, columns, planes, self.bands)

        return process


def predict(
    fitter: Fitter,
    shard: Cutouts,
    hidden: list[int],
    advance: Advance,
    *,
    calibrations: Sequence[Calibration] | None = None,
    with_pixels: bool = True,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fit without some bands, and predict these.

    Return the columns of the table (identifier, quality of the fit, fluxes and magnitudes of the hidden
    bands, which are not calibrated without `calibrations`), and predictions: aperture fluxes of all bands
    ``(N, B)``, uncalibrated predictions ``drawn``, ``measured`` and ``measured_err``; and `with_pixels`,
    ``model`` and ``pixel_std`` of the hidden bands.
    """
    weight = shard.weight.copy()
    weight[:, hidden] = 0
    fitted = fitter.fit(shard.object_id, shard.image, weight, advance, sight=fitter.sight(shard))
    measures = measure(fitter, fitted, with_pixels=with_pixels)
    out: dict[str, np.ndarray] = {"object_id": shard.object_id}
    out |= {name: shard.catalogue[name] for name in ("ra", "dec") if name in shard.catalogue}
    out |= {name: measures[name].sum(1) for name in ("chi2", "dof")}
    out |= {"status": fitted.fit.status_names, "latent": fitted.fit.latent.numpy()}
    measured, error = aperture_flux(shard.image, shard.weight, fitter.sums[1])
    error = error * np.array(fitter.info.noise_correlation)
    drawn = measures["flux"][..., 1].astype(np.float64)
    for index, known in zip(hidden, calibrations or [Calibration()] * len(hidden), strict=True):
        band = fitter.info.bands[index]
        correction = known.correction
        added = np.zeros(len(drawn)) if correction is None else correction.magnitude(drawn, measured)
        factor = 10 ** (-0.4 * added)
        for number, name in enumerate(SUMS):
            flux = measures["flux"][:, index, number] * factor
            flux_err = np.hypot(measures["flux_std"][:, index, number] * factor, known.error * flux)
            out[f"flux{name}_{band}"], out[f"flux{name}_err_{band}"] = flux, flux_err
            out[f"mag{name}_{band}"] = ab_magnitude(flux)
            out[f"mag{name}_err_{band}"] = magnitude_error(flux, flux_err)
        out[f"correction_mag_{band}"] = added.astype(np.float32)
        out[f"flux_aper_measured_{band}"] = measured[:, index]
        out[f"flux_aper_measured_err_{band}"] = error[:, index]
        if with_pixels:
            scale = factor[:, None, None].astype(np.float32)
            model, std = (measures[name][:, index] * scale for name in ("model", "pixel_std"))
            measures["pixel_std"][:, index] = np.hypot(std, known.error * model)
            measures["model"][:, index] = model
    pixels = {name: values[:, hidden] for name, values in measures.items() if name in ("model", "pixel_std")}
    return out, {**pixels, "drawn": drawn, "measured": measured, "measured_err": error}


def some_of(store: CutoutStore, which: np.ndarray, at_most: int) -> Cutouts:
    """Read up to `at_most` of the selected objects, from all over the store."""
    rows = np.flatnonzero(which)
    return store.take(rows[evenly_spaced(len(rows), at_most)])


class Calibrations:
    """Calibrations of combinations of hidden bands, measured on demand from objects that have these bands.

    They are saved in ``calibration.json``, so that a run that is continued uses the same numbers.
    """

    def __init__(
        self,
        make_fitter: Callable[[], Fitter],
        store: CutoutStore,
        path: Path,
        num_objects: int,
        progress: Progress,
    ) -> None:
        self._make_fitter, self.store, self.path = make_fitter, store, path
        self.num_objects, self.progress = num_objects, progress
        self.measured: dict[str, list[dict[str, Any] | None]] = {}
        if path.exists():
            hidden = read_json(path, what="calibration").get("hidden")
            self.measured = convert(hidden, dict[str, list[dict[str, Any] | None]], where=path, key="hidden")

    @cached_property
    def fitter(self) -> Fitter:
        """The fitter, made on first use."""
        return self._make_fitter()

    def of(self, bands: Sequence[str]) -> tuple[Calibration, ...]:
        """Return the calibration of each of the bands, when they are hidden together.

        A band without data gets the largest uncorrected error that the generator has in any band with data.
        """
        if not self.num_objects:
            return (Calibration(),) * len(bands)
        measured = self._measured(bands)
        largest = 0.0
        if None in measured:
            absent = "-".join(b for b, found in zip(bands, measured, strict=True) if found is None)
            log.warning(
                "WARNING: %s: too few objects have %s to correct its predictions; their error is the largest "
                "of those measured in the other bands",
                *(self.store.directory, absent),
            )
            uncorrected = [band for name in self.store.info.bands for band in self._measured([name])]
            largest = max((band["error_alone"] for band in uncorrected if band is not None), default=0.0)
        return tuple(
            Calibration(error=largest)
            if band is None
            else Calibration.from_json({name: band[name] for name in ("error", "correction")})
            for band in measured
        )

    def _measured(self, bands: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return the measurement for each of the bands; None where there are too few data."""
        key = "-".join(bands)
        if key not in self.measured:
            is_training = ~is_held_out(self.store.catalogue([])["object_id"])
            cutouts = some_of(self.store, is_training & have_data(self.store, bands), self.num_objects)
            hidden = [self.store.info.bands.index(band) for band in bands]
            self.measured[key] = self._measure(cutouts, hidden)
            write_json(self.path, {"num_objects": len(cutouts), "hidden": self.measured})
        return self.measured[key]

    def _measure(self, cutouts: Cutouts, hidden: list[int]) -> list[dict[str, Any] | None]:
        if not (cutouts.weight[:, hidden] > 0).any():
            return [None] * len(hidden)
        title = f"calibrate {'-'.join(self.store.info.bands[band] for band in hidden)}"
        with self.progress(title, total=len(cutouts), unit="objects") as task:
            advance = thread_safe(task.advance)
            columns, predicted = predict(self.fitter, cutouts, hidden, advance, with_pixels=False)
        bands = self.store.info.bands
        return [_calibrate(columns, predicted, bands[band], tuple(hidden), band) for band in hidden]


def _calibrate(
    columns: dict[str, np.ndarray],
    predicted: dict[str, np.ndarray],
    band: str,
    hidden: tuple[int, ...],
    index: int,
) -> dict[str, Any] | None:
    """Learn a band's correction, and measure by cross-validation the error that remains."""
    names = (f"flux_aper{part}_{band}" for part in ("", "_err", "_measured", "_measured_err"))
    flux, flux_err, measured, measured_err = (columns[name] for name in names)
    uncorrected = model_error(flux, flux_err, measured, measured_err)
    if uncorrected is None:
        return None
    fluxes = predicted["drawn"], predicted["measured"], predicted["measured_err"]
    correction = learn_correction(*fluxes, hidden, index)
    error = uncorrected
    if correction is not None:
        factor = cross_corrected(*fluxes, hidden, index)
        remaining = model_error(flux * factor, flux_err * factor, measured, measured_err)
        assert remaining is not None
        if remaining < uncorrected:
            error = remaining
        else:  # the correction does not help
            correction = None
    return {**Calibration(error=error, correction=correction).to_json(), "error_alone": uncorrected}
