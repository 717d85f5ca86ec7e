"""The stage `inpaint`: predict bands, whether they are there or not, and say how well that goes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import contents, write_json
from deepfits.fitting import features
from deepfits.fitting.inpainting import DEFINITIONS
from deepfits.fitting.settings import FitSettings
from deepfits.provenance import provenance
from deepfits.results import UNREADABLE
from deepfits.scale.manifest import read_manifest
from deepfits.stages.fit_work import absolute, open_selected, run_work
from deepfits.stages.parameters import Solving
from deepfits.stages.stage import INPUT, claim, part_of, stage
from deepfits.survey.bands import places_of

if TYPE_CHECKING:
    from deepfits.survey.store import CutoutStore

log = logging.getLogger(__name__)
FORMAT = 2
DESCRIPTION = "inpaint.json"


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(Solving):
    """What `inpaint` takes.

    Parameters
    ----------
    bands
        The bands to predict. Their own data, if there are any, are not used.
    validate
        Also hide each band that is present, one at a time, for held-out objects, and compare the prediction
        with the measurement, with interpolation between the magnitudes of the other bands, and with
        regression on them: ``validation.json``.
    max_validation
        Largest number of held-out objects to validate with.
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
        Strength of the unit-normal prior on the latent, which decides what pixels without data look like
        where the others leave it open.
    amplitudes
        As in `fit`, but ``"none"`` by default: with free amplitudes, the bands that are present say less
        about the missing one.
    images
        Also write predicted images and their errors, as HDF5.
    """

    bands: Sequence[str] | str = ("u",)
    validate: bool = False
    max_validation: Annotated[int, Range(ge=1)] = 2000
    num_calibration: Annotated[int, Range(ge=0)] = 1500
    truth: Annotated[str | Path | None, INPUT] = None
    prior_strength: Annotated[float, Range(ge=0)] = 1.0
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
    from deepfits.fitting.fitter import Fitter
    from deepfits.models.bundle import Model
    from deepfits.stages.inpaint_validation import validate
    from deepfits.stages.inpaint_work import CALIBRATION, Calibrations, InpaintWork

    pool = config.pool()
    # What is a neighbour is seen in all bands, and the hidden ones may not be seen: all pixels are kept.
    settings = part_of(config, FitSettings, neighbours="keep")
    loaded = Model.load(config.model, config.device if pool.is_here else "cpu")
    cutouts, cautions, selection = open_selected(config, loaded)
    for caution in cautions:
        log.warning("%s: %s", config.store, caution)
    bands = _bands_to_predict(config, cutouts)
    # Unlike a fit, predictions depend on the whole store, by which they are calibrated; only what could not
    # be read then may have been mended.
    failed = [entry.shard for entry in read_manifest(config.out) if entry.state == "failed"]
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
            rows = validate(calibrations, cutouts, config.max_validation, config.truth, config.progress)
            write_json(results.path / "validation.json", {"definitions": DEFINITIONS, "bands": rows})
        if is_changed or not features.is_finished(results.path, description=DESCRIPTION):
            about = {"num_objects": selection.num_objects, "store": str(cutouts.directory)}
            summary = {**about, "bands": list(bands)}
            described = {**results.content["settings"], "model_hash": loaded.fingerprint}
            features.finish(results.path, described, summary, provenance(), description=DESCRIPTION)
    return results.path


def _bands_to_predict(config: InpaintConfig, store: CutoutStore) -> tuple[str, ...]:
    """Return the bands that are named, as the store calls them."""
    named = (config.bands,) if isinstance(config.bands, str) else tuple(config.bands)
    known = store.info.bands
    places = zip(named, places_of(named, known), strict=True)
    bands = tuple(dict.fromkeys(band if place is None else known[place] for band, place in places))
    if unknown := [band for band in bands if band not in known]:
        raise InputError(
            f"{store.directory}, with {config.model}: no band {unknown[0]!r}; there are {'-'.join(known)}"
        )
    if not bands or len(bands) == len(known):
        raise InputError(f"inpaint: bands {bands} leave nothing to predict, or nothing to predict it from")
    return bands
