"""The stage `inpaint`: predict bands, whether they are there or not, and say how well that goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from deepfits.config import convert
from deepfits.errors import InputError
from deepfits.files import UNREADABLE, contents, read_json, require_finished, write_json
from deepfits.fitting.settings import FitSettings
from deepfits.photometry import ab_magnitude, aperture_flux, magnitude_error
from deepfits.progress import Progress
from deepfits.scale.work import Advance, Process, Shard
from deepfits.splits import is_held_out
from deepfits.stages.fit_work import ModelWork, absolute, read_selected, run_work, select, write_images
from deepfits.stages.parameters import Solving
from deepfits.stages.stage import INPUT, claim, part_of, stage

if TYPE_CHECKING:
    from deepfits.fitting.correction import Correction
    from deepfits.fitting.fitter import Fitter
    from deepfits.models.bundle import Model
    from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo

log = logging.getLogger(__name__)
FORMAT = 2
DESCRIPTION = "inpaint.json"
CALIBRATION = "calibration.json"
SUMS = ("", "_aper")  # total, and the aperture


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(Solving):
    """What `inpaint` takes.

    Parameters
    ----------
    bands
        The bands to predict. Data of theirs, where there are any, are not looked at.
    validate
        Also hide each band that is there, one at a time, for held-out objects, and compare the prediction
        with the measurement, with interpolation between the other bands' magnitudes, and with regression on
        them: ``validation.json``.
    max_validation
        Held-out objects to validate with, at most.
    num_calibration
        Objects, none of them held out, by which predictions are calibrated: the bands are hidden, and what
        the generator gets systematically wrong about them is learnt from the measurements and taken out
        (`deepfits.fitting.correction`). What noise does not explain of the differences that remain becomes an
        error of the model, a fraction of the flux. Both stand in ``calibration.json``. A band without data
        anywhere is not corrected, and takes the largest error that other bands have uncorrected. 0: the
        generator alone, and errors that know the noise alone.
    truth
        Parquet with ``ra``, ``dec`` and ``mag_<band>`` of the true sources of a simulated sky: the validation
        then also compares with these.
    prior_strength
        Of the unit-normal prior on the latent. It is on by default: it decides what pixels without data look
        like where the others leave it open.
    amplitudes
        As in `fit`, but ``"none"`` by default: with free ones, bands that are there say less about the one
        that is not.
    images
        Write predicted images and their errors as HDF5, not the fluxes alone.
    """

    bands: Sequence[str] | str = ("u",)
    validate: bool = False
    max_validation: int = 2000
    num_calibration: int = 1500
    truth: Annotated[str | Path | None, INPUT] = None
    prior_strength: float = 1.0
    amplitudes: Literal["after", "fit", "none"] = "none"
    images: bool = True


@stage(InpaintConfig)
def inpaint(config: InpaintConfig) -> Path:
    """Predict whole bands from the others: images, fluxes and magnitudes with errors.

    The latent is fitted with the weights of these bands at 0, then the bands are drawn; nothing is trained
    for it. Running it again makes only what is missing or failed; ``_manifest.jsonl`` says which shards those
    are.

    Returns
    -------
    Path
        `out`: ``shard-00000.parquet`` with ``flux_<band>``, ``flux_aper_<band>``, their errors and
        magnitudes, ``correction_mag_<band>`` (what calibration has added), ``shard-00000.h5`` with ``image``
        and ``image_err``, ``inpaint.json``, and ``validation.json``.

    Raises
    ------
    InputError
        A band that the store does not have, no band left to fit, model and store that do not fit together,
        a store that is not finished, or other results in `out`.

    Examples
    --------
    `deepfits inpaint run/cutouts run/model --out run/inpaint-u --band u --validate`
    """
    from deepfits.fitting import features
    from deepfits.fitting.fitter import Fitter, index_of
    from deepfits.models.bundle import Model
    from deepfits.provenance import provenance
    from deepfits.scale.manifest import read_manifest
    from deepfits.survey.bands import places_of
    from deepfits.survey.store import CutoutStore

    bands = (config.bands,) if isinstance(config.bands, str) else tuple(config.bands)
    pool = config.pool()
    # What is a neighbour is seen in all bands, and the hidden ones may not be seen: all pixels are kept.
    settings = part_of(config, FitSettings, neighbours="keep")
    require_finished(config.store, partial=config.partial)
    loaded = Model.load(config.model, config.device if pool.is_here else "cpu")
    stored = CutoutStore(config.store, skip_bad=True, where=config.where)
    for caution in loaded.check(stored.info):
        log.warning("%s: %s", config.store, caution)
    cutouts = loaded.open(stored)
    bands = tuple(
        band if place is None else cutouts.info.bands[place]
        for band, place in zip(bands, places_of(bands, cutouts.info.bands), strict=True)
    )
    index_of(cutouts.info.bands, bands, f"{cutouts.directory}, with {config.model}")
    if not bands or len(set(bands)) == len(cutouts.info.bands):
        raise InputError(f"inpaint: bands {bands} leave nothing to predict, or nothing to predict it from")
    selection = select(cutouts, held_out_only=config.held_out_only, object_ids=config.object_ids)
    # Unlike a fit, predictions depend on the whole store, by which they are calibrated; only what could not
    # be read then may have been mended.
    failed = [one.shard for one in read_manifest(config.out) if one.state == "failed"]
    unusable = [*failed, *(path.stem for path in cutouts.bad)]
    pixels = contents(config.store) | {f"{name}.h5": UNREADABLE for name in unusable}
    inputs = {"model": loaded.fingerprint, "store": pixels}
    with claim(config, name="inpaint", version=FORMAT, inputs=inputs) as results:
        calibrations = Calibrations(
            lambda: Fitter(loaded.to(config.device), settings, cutouts.info, threads=config.threads),
            cutouts,
            results.path / CALIBRATION,
            config.num_calibration,
            config.progress,
        )
        work = InpaintWork(
            store=absolute(config.store),
            model=absolute(config.model),
            model_hash=loaded.fingerprint,
            out=absolute(results.path),
            settings=settings,
            bands=bands,
            images=config.images,
            calibrations=calibrations.of(bands),
            threads=pool.threads_each,
            device=config.device,
        )
        is_changed = run_work(config, work, selection, loaded, results.path, f"inpaint {'-'.join(bands)}")
        if config.validate and not (results.path / "validation.json").exists():
            _validate(
                calibrations, cutouts, results.path, config.max_validation, config.truth, config.progress
            )
        if is_changed or not features.is_finished(results.path, description=DESCRIPTION):
            summary = {
                "num_objects": selection.num_objects,
                "store": str(cutouts.directory),
                "bands": list(bands),
            }
            described = {**results.content["settings"], "model_hash": loaded.fingerprint}
            features.finish(results.path, described, summary, provenance(), description=DESCRIPTION)
    return results.path


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is known of a band's predictions from objects that have the band.

    Attributes
    ----------
    error
        The fraction of the flux that is added to its error in quadrature.
    correction
        What the generator gets systematically wrong; None where nothing is known.
    """

    error: float = 0.0
    correction: Correction | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return {"error": self.error, "correction": self.correction and self.correction.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        """Read back `to_json`."""
        from deepfits.fitting.correction import Correction

        correction = content["correction"]
        return cls(error=content["error"], correction=correction and Correction.from_json(correction))


@dataclass(frozen=True, kw_only=True)
class InpaintWork(ModelWork):
    """Predict bands for the shards of a store."""

    store: str
    bands: tuple[str, ...]
    images: bool
    calibrations: tuple[Calibration, ...]

    def open_with(self, model: Model, threads: int | None = None) -> Process:
        """Use a model that is loaded already."""
        from deepfits.fitting import features
        from deepfits.fitting.fitter import index_of
        from deepfits.survey.store import read_info

        stored = read_info(self.store)
        order = model.order(stored)
        info = stored if order is None else order.info(stored)
        hidden = index_of(info.bands, self.bands, self.store)
        fitter = self.fitter(model, info, threads)

        def process(shard: Shard, advance: Advance) -> None:
            path = Path(self.out) / f"{shard.name}.parquet"
            cutouts = read_selected(Path(self.store), stored, shard, order)
            columns, predicted = predict(fitter, cutouts, hidden, advance, calibrations=self.calibrations)
            if self.images:
                planes = {"image": predicted["model"], "image_err": predicted["pixel_std"]}
                write_images(path.with_suffix(".h5"), cutouts.object_id, planes, self.bands)
            features.write_table(path, columns, shard.made_from)

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
    """Fit without some bands, and draw these.

    Parameters
    ----------
    hidden
        Places of the bands to hide.
    calibrations
        Of these bands; by default nothing is known of them.

    Returns
    -------
    columns
        Of the table: identity, quality of the fit, and fluxes and magnitudes of the hidden bands.
    predicted
        ``model`` and ``pixel_std`` of the hidden bands, with pixels; ``drawn`` and ``measured`` ``(N, B)``,
        aperture fluxes of all bands without calibration, and ``measured_err``.
    """
    from deepfits.fitting.fitter import status_names

    weight = shard.weight.copy()
    weight[:, hidden] = 0
    fitted = fitter.fit(shard.object_id, shard.image, weight, advance, sight=fitter.sight(shard))
    found = fitter.measure(fitted, sums=fitter.sums, with_pixels=with_pixels)
    out: dict[str, np.ndarray] = {"object_id": shard.object_id}
    out |= {name: shard.catalogue[name] for name in ("ra", "dec") if name in shard.catalogue}
    out |= {"chi2": found["chi2"].sum(1), "dof": found["dof"].sum(1), "status": status_names(fitted.fit)}
    out["latent"] = fitted.fit.latent.numpy()
    measured, error = aperture_flux(shard.image, shard.weight, fitter.sums[1].numpy())
    error = error * np.array(fitter.info.noise_correlation)
    drawn = found["flux"][..., 1].astype(np.float64)
    for index, known in zip(hidden, calibrations or [Calibration()] * len(hidden), strict=True):
        band = fitter.info.bands[index]
        added = (
            np.zeros(len(drawn)) if known.correction is None else known.correction.magnitude(drawn, measured)
        )
        factor = 10 ** (-0.4 * added)
        for number, name in enumerate(SUMS):
            flux = found["flux"][:, index, number] * factor
            flux_err = np.hypot(found["flux_std"][:, index, number] * factor, known.error * flux)
            out[f"flux{name}_{band}"], out[f"flux{name}_err_{band}"] = flux, flux_err
            out[f"mag{name}_{band}"] = ab_magnitude(flux)
            out[f"mag{name}_err_{band}"] = magnitude_error(flux, flux_err)
        out[f"correction_mag_{band}"] = added.astype(np.float32)
        out[f"flux_aper_measured_{band}"] = measured[:, index]
        out[f"flux_aper_measured_err_{band}"] = error[:, index]
        if with_pixels:
            scale = factor[:, None, None].astype(np.float32)
            model = found["model"][:, index] * scale
            found["pixel_std"][:, index] = np.hypot(found["pixel_std"][:, index] * scale, known.error * model)
            found["model"][:, index] = model
    pixels = {name: values[:, hidden] for name, values in found.items() if name in ("model", "pixel_std")}
    return out, {**pixels, "drawn": drawn, "measured": measured, "measured_err": error}


class Calibrations:
    """What objects whose bands are known teach about predicting these, measured when it is asked for.

    It is kept in ``calibration.json``, so that work that is continued uses the same numbers.
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
        self._fitter: Fitter | None = None
        self.measured: dict[str, list[dict[str, Any] | None]] = {}
        if path.exists():
            hidden = read_json(path, what="calibration").get("hidden")
            kind = dict[str, list[dict[str, Any] | None]]
            self.measured = convert(hidden, kind, where=path, key="hidden")

    @property
    def fitter(self) -> Fitter:
        """The fitter, made when it is needed first."""
        if self._fitter is None:
            self._fitter = self._make_fitter()
        return self._fitter

    def of(self, bands: Sequence[str]) -> tuple[Calibration, ...]:
        """Return what is known of bands that are hidden together.

        A band without data takes the largest error that the generator alone makes in a band that has some.
        """
        if not self.num_objects:
            return (Calibration(),) * len(bands)
        found = self._measured(bands)
        largest = 0.0
        if None in found:
            alone = [one for band in self.store.info.bands for one in self._measured([band])]
            largest = max((one["error_alone"] for one in alone if one is not None), default=0.0)
        return tuple(
            Calibration(error=largest) if one is None else Calibration.from_json(one) for one in found
        )

    def _measured(self, bands: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return, for each of the bands, what was measured; None where there are too few data."""
        key = "-".join(bands)
        if key not in self.measured:
            is_ours = ~is_held_out(self.store.catalogue(["object_id"])["object_id"])
            cutouts = self.store.take(np.flatnonzero(is_ours)[: self.num_objects])
            hidden = [self.store.info.bands.index(band) for band in bands]
            self.measured[key] = self._measure(cutouts, hidden)
            write_json(self.path, {"num_objects": len(cutouts), "hidden": self.measured})
        return self.measured[key]

    def _measure(self, cutouts: Cutouts, hidden: list[int]) -> list[dict[str, Any] | None]:
        if not (cutouts.weight[:, hidden] > 0).any():
            return [None] * len(hidden)
        with self.progress("calibrate", total=len(cutouts), unit="objects") as task:
            columns, found = predict(self.fitter, cutouts, hidden, _in_turn(task.advance), with_pixels=False)
        bands = self.store.info.bands
        return [_calibrate(columns, found, bands[one], tuple(hidden), one) for one in hidden]


def _calibrate(
    columns: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    band: str,
    hidden: tuple[int, ...],
    index: int,
) -> dict[str, Any] | None:
    """Learn a band's correction, and the error that it leaves on objects that it was not learnt from."""
    from deepfits.fitting.correction import cross_corrected, learn_correction
    from deepfits.fitting.inpainting import model_error

    names = (f"flux_aper{part}_{band}" for part in ("", "_err", "_measured", "_measured_err"))
    flux, flux_err, measured, measured_err = (columns[name] for name in names)
    alone = model_error(flux, flux_err, measured, measured_err)
    if alone is None:
        return None
    fluxes = found["drawn"], found["measured"], found["measured_err"]
    correction = learn_correction(*fluxes, hidden, index)
    error = alone
    if correction is not None:
        factor = cross_corrected(*fluxes, hidden, index)
        left = model_error(flux * factor, flux_err * factor, measured, measured_err)
        assert left is not None
        if left < alone:
            error = left
        else:  # it mends nothing
            correction = None
    return {**Calibration(error=error, correction=correction).to_json(), "error_alone": alone}


def _in_turn(advance: Advance) -> Advance:
    """Let several threads report their progress."""
    lock = Lock()

    def locked(number: int) -> None:
        with lock:
            advance(number)

    return locked


def _validate(
    calibrations: Calibrations,
    store: CutoutStore,
    directory: Path,
    max_objects: int,
    truth: str | Path | None,
    progress: Progress,
) -> None:
    """Hide each band in turn, for held-out objects, and write how well it is predicted."""
    from deepfits.fitting.inpainting import DEFINITIONS

    fitter = calibrations.fitter
    identity = store.catalogue(["object_id"])["object_id"]
    held_out = is_held_out(identity)
    if not held_out.any():
        raise InputError(
            f"{store.directory}: no held-out object among {len(store)}, so none to validate with"
        )
    known = store.take(np.flatnonzero(~held_out)[: 10 * max_objects])
    tested = store.take(np.flatnonzero(held_out)[:max_objects])
    rows = []
    there = [n for n in range(len(store.info.bands)) if (tested.weight[:, n] > 0).any()]
    known_of = [calibrations.of([store.info.bands[index]])[0] for index in there]
    with progress("validate", total=len(there) * len(tested), unit="objects") as task:
        advance = _in_turn(task.advance)
        for index, known_one in zip(there, known_of, strict=True):
            columns, found = predict(
                fitter, tested, [index], advance, calibrations=[known_one], with_pixels=False
            )
            row = _judge(fitter, store.info, columns, known, tested, index)
            row |= {"model_error": known_one.error, "is_corrected": known_one.correction is not None}
            if truth is not None:
                row["truth"] = _judge_by_truth(columns, found, store.info.bands, index, Path(truth))
            rows.append(row)
    write_json(directory / "validation.json", {"definitions": DEFINITIONS, "bands": rows})


def _judge(
    fitter: Fitter,
    info: StoreInfo,
    columns: dict[str, np.ndarray],
    known: Cutouts,
    tested: Cutouts,
    index: int,
) -> dict[str, Any]:
    """Return one row of the validation: a band, and every method's bias and scatter."""
    from deepfits.fitting import inpainting

    band, circle = info.bands[index], fitter.sums[1].numpy()
    image, weight = (np.concatenate([getattr(c, n) for c in (tested, known)]) for n in ("image", "weight"))
    flux, _ = aperture_flux(image, weight, circle)
    magnitudes = ab_magnitude(flux)
    is_known = np.arange(len(image)) >= len(tested)
    predicted, predicted_err = columns[f"flux_aper_{band}"], columns[f"flux_aper_err_{band}"]
    measured, measured_err = columns[f"flux_aper_measured_{band}"], columns[f"flux_aper_measured_err_{band}"]
    is_bright = measured >= inpainting.MIN_SIGNAL_TO_NOISE * measured_err
    target = np.where(is_bright, ab_magnitude(measured), np.nan)
    methods = {
        "deepfits": ab_magnitude(predicted),
        "generator alone": ab_magnitude(predicted) - columns[f"correction_mag_{band}"],
        "interpolation": inpainting.interpolate(magnitudes, info.bands, band)[: len(tested)],
        "regression": inpainting.regress(magnitudes, index, is_known)[: len(tested)],
    }
    compared = {name: inpainting.compare_magnitudes(values, target) for name, values in methods.items()}
    pulls = inpainting.compare_pulls(predicted, predicted_err, measured, measured_err)
    return {"band": band, "methods": compared, **pulls}


def _judge_by_truth(
    columns: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    bands: Sequence[str],
    index: int,
    path: Path,
) -> dict[str, Any]:
    """Compare colours, predicted minus measured in the band beside, with those of the true sources there.

    Both are aperture magnitudes, so that light outside the aperture and of neighbours hardly counts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deepfits.fitting import inpainting

    other = 1 if index == 0 else index - 1
    band, beside = bands[index], bands[other]
    names = ["ra", "dec", f"mag_{band}", f"mag_{beside}"]
    try:
        table = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot read {names} from this table of true sources ({error})") from error
    if "ra" not in columns or "dec" not in columns:
        raise InputError(f"{path}: the store has no ra and dec to match with; validate without truth")
    ra, dec, true, true_beside = (table[name].to_numpy() for name in names)
    row = inpainting.match_brightest(columns["ra"], columns["dec"], ra, dec, true_beside)
    is_used = row >= 0
    for one in (index, other):
        is_used &= found["measured"][:, one] >= inpainting.MIN_SIGNAL_TO_NOISE * found["measured_err"][:, one]
    colour = columns[f"mag_aper_{band}"] - ab_magnitude(found["measured"][:, other])
    expected = np.where(is_used, true[row] - true_beside[row], np.nan)
    return {"beside": beside, **inpainting.compare_magnitudes(colour, expected)}
