"""Stage `inpaint`: predict bands from the others, and validate the predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import contents, read_json, write_json
from deepfits.fitting import features
from deepfits.fitting.inpainting import DEFINITIONS
from deepfits.fitting.settings import FitSettings
from deepfits.results import UNREADABLE
from deepfits.scale.manifest import Manifest
from deepfits.stages.fit_work import absolute, open_selected, run_work
from deepfits.stages.parameters import Solving
from deepfits.stages.stage import INPUT, NEUTRAL, claim, part_of, stage
from deepfits.survey.bands import places_of

FORMAT = 2
DESCRIPTION, VALIDATION = "inpaint.json", "validation.json"


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(Solving):
    """Parameters of `inpaint`."""

    bands: Sequence[str] | str = ("u",)
    """Bands to predict. Their data, where they exist, are not used in the fit."""
    validate: Annotated[bool, NEUTRAL] = False
    """Also validate on held-out objects: each observed band is hidden in turn, and its prediction is compared
    with the measurement, as are interpolation between and regression on the magnitudes of the other bands.
    Writes ``validation.json``; finished predictions can be validated later."""
    max_validation: Annotated[int, NEUTRAL, Range(ge=1)] = 2000
    """Maximum number of held-out objects for the validation."""
    num_calibration: Annotated[int, Range(ge=0)] = 1500
    """Number of objects (none of them held out) on which predictions are calibrated: the bands are hidden,
    and the generator's systematic error relative to the measurements is corrected
    (`deepfits.fitting.correction`). Any remaining scatter beyond the noise is added to the errors, as a
    fraction of the flux. Both are written to ``calibration.json``. A band without any data is not corrected,
    and its fractional error is the largest that other bands have before correction. With 0, predictions are
    not corrected and their errors include only the noise."""
    truth: Annotated[str | Path | None, INPUT] = None
    """Parquet table with ``ra``, ``dec`` and ``mag_<band>`` of the true sources of a simulated sky, with
    which the validation also compares."""
    prior_strength: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the unit-normal prior on the latent, which determines the appearance of pixels without data
    as far as the other pixels leave it open."""
    amplitudes: Literal["after", "fit", "none"] = "none"
    """As in `fit`, but by default ``"none"``: with free amplitudes, the observed bands would constrain the
    hidden one less."""
    images: bool = True
    """Write predicted images and their errors as HDF5, in addition to fluxes."""


@stage(InpaintConfig, result="predictions")
def inpaint(config: InpaintConfig) -> Path:
    """Predict missing bands from the others: images, fluxes and magnitudes with errors.

    The latent is fitted with the weights of these bands set to 0, and the bands are then drawn from it; no
    further training is needed. Run the same command again to process only the shards that are missing or
    failed; ``_manifest.jsonl`` lists their state.

    Returns
    -------
    Path
        `out`: ``shard-00000.parquet`` with ``flux_<band>``, ``flux_aper_<band>``, their errors and
        magnitudes, and ``correction_mag_<band>`` (added by the calibration); ``shard-00000.h5`` with
        ``image`` and ``image_err``; ``inpaint.json`` and ``validation.json``.

    Raises
    ------
    InputError
        A band that the store does not have, no band left to fit, incompatible model and store, a store that
        is not finished, or other results in `out`.

    Examples
    --------
    Predict u: `deepfits inpaint run/cutouts run/model --out run/inpaint-u --band u --validate`
    """
    from deepfits.fitting.fitter import Fitter
    from deepfits.models.bundle import Model
    from deepfits.stages.inpaint_validation import validate
    from deepfits.stages.inpaint_work import CALIBRATION, Calibrations, InpaintWork

    pool = config.pool()
    # Neighbours are found in all bands including the hidden ones, which may not be used: mask no pixels.
    settings = part_of(config, FitSettings, neighbours="keep")
    loaded = Model.load(config.model, config.device if pool.is_here else "cpu")
    cutouts, _, selection = open_selected(config, loaded)
    bands = bands_to_predict(config.bands, cutouts.info.bands, f"{cutouts.directory}, with {config.model}")
    # Unlike a fit, predictions depend on the whole store, since they are calibrated on it. Only shards that
    # could not be read then may change (be repaired) without invalidating the others.
    failed = [entry.shard for entry in Manifest(config.out).failed()]
    unusable = [*failed, *(path.stem for path in cutouts.bad)]
    pixels = contents(config.store) | {f"{name}.h5": UNREADABLE for name in unusable}
    # The truth and the other settings of the validation are recorded in its file: predictions do not depend
    # on them, so that finished ones can be validated, or validated again.
    validated = {"max_validation": config.max_validation, "truth": config.truth and contents(config.truth)}
    inputs = {**loaded.made_from(), "store": pixels, "truth": None}
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
        run_work(config, work, selection, loaded, results.path, f"inpaint {'-'.join(bands)}")
        path = results.path / VALIDATION
        before = read_json(path, what="validation").get("made_from") if path.exists() else None
        if config.validate and before != validated:
            rows = validate(calibrations, cutouts, config.max_validation, config.truth, config.progress)
            content = {"definitions": DEFINITIONS, "made_from": validated, "bands": rows}
            write_json(path, content)
        made_from = selection.made_from
        if not features.is_finished(results.path, made_from=made_from, description=DESCRIPTION):
            about = {"num_objects": selection.num_objects, "store": str(cutouts.directory)}
            summary = {**about, "bands": list(bands)}
            described = {**results.content["settings"], "model_hash": loaded.fingerprint}
            features.finish(results.path, described, summary, made_from=made_from, description=DESCRIPTION)
    return results.path


def bands_to_predict(bands: str | Sequence[str], known: Sequence[str], where: str | Path) -> tuple[str, ...]:
    """Return the requested bands under the names that are known, those of the store in the model's bands."""
    named = (bands,) if isinstance(bands, str) else tuple(bands)
    places = zip(named, places_of(named, known), strict=True)
    chosen = tuple(dict.fromkeys(band if place is None else known[place] for band, place in places))
    if unknown := [band for band in chosen if band not in known]:
        raise InputError(f"{where}: no band {unknown[0]!r}; there are {'-'.join(known)}")
    if not chosen or len(chosen) == len(known):
        raise InputError(
            f"inpaint: bands {'-'.join(chosen)} leave no band to predict, or none to predict from; name "
            "some, not all"
        )
    return chosen
