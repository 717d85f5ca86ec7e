"""Stage `calibrate`: measure the errors of a finished model on a survey that it was not trained on."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from deepfits.config import Range
from deepfits.files import contents, write_text
from deepfits.stages.parameters import Choosing, Partial
from deepfits.stages.stage import INPUT, NEUTRAL, claim, stage
from deepfits.training.settings import MAX_MEASURED


@dataclass(frozen=True)
class CalibrateConfig(Choosing, Partial):
    """Parameters of `calibrate`."""

    model: str | Path
    """A model from `train`, or ``builtin:NAME``."""
    store: Annotated[str | Path, INPUT]
    """Cutout store of the survey. Of a model from `train` only held-out objects are used, since it may have
    been trained on the others."""
    out: str | Path
    """Output directory of the calibrated model."""
    _: KW_ONLY
    max_objects: Annotated[int, Range(ge=100)] = MAX_MEASURED
    """Maximum number of objects, drawn at random, among which bright and faint galaxies are chosen."""
    threads: Annotated[int | None, NEUTRAL, Range(ge=1)] = None
    """CPU threads; by default PyTorch decides."""
    device: Annotated[str, NEUTRAL] = "cpu"
    """``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU if there is one)."""


@stage(CalibrateConfig, result="model")
def calibrate(config: CalibrateConfig) -> Path:
    """Measure the errors of a model on your own survey: of its fluxes, and what counts as an anomaly.

    How well a model draws galaxies, and how much other objects disturb a flux, differs between surveys. A
    model that ships with the package, or was trained on another survey, has the values of the surveys that it
    was trained on. This takes a minute and needs no truth: bright galaxies are compared with their images,
    and dimmed copies of them are injected into the sky of other cutouts. The networks stay as they are, and
    so do latents, fluxes and redshift heads; fit the cutouts with the calibrated model. Bands of the model
    that the store lacks keep their values.

    Raises
    ------
    TooFewGalaxiesError
        There are not enough bright galaxies with data in all bands of the store.
    InputError
        The model cannot be fitted to the store, the store is not finished, or there are other results in
        `out`.

    Examples
    --------
    `deepfits calibrate builtin:ugriz run/cutouts --out run/model`

    `deepfits fit run/cutouts run/model --out run/features-both`
    """
    from deepfits.fitting.error_measurement import NUM_FITS
    from deepfits.models.bundle import Model, find_builtin
    from deepfits.models.card import describe
    from deepfits.stages.fit_work import open_store
    from deepfits.training.model_error import measure_on

    loaded = Model.load(config.model, config.device)
    store, _ = open_store(config, loaded)
    inputs = {**loaded.made_from(), "store": contents(config.store)}
    with claim(config, name="calibrate", inputs=inputs) as results:
        if results.is_finished:
            return results.path
        with config.progress("calibrate", total=NUM_FITS, unit="fits") as task:
            error = measure_on(
                loaded,
                store,
                held_out_only=find_builtin(loaded.fingerprint) is None,
                max_objects=config.max_objects,
                threads=config.threads,
                advance=task.advance,
            )
        loaded.calibration = {"errors": error.to_json(), "survey": store.info.survey}
        write_text(results.path / "README.md", describe(loaded, f"Model `{results.path.name}`"))
        loaded.save(results.path)
    return results.path
