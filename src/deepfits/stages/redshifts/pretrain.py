"""Stage `redshift_pretrain`: train a redshift head on simulated skies, for use without labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import named_contents, write_text
from deepfits.progress import Task, noted
from deepfits.redshifts import storage
from deepfits.sky.population import PopulationLaws
from deepfits.sky.surveys import find_survey
from deepfits.stages.simulate import simulate
from deepfits.stages.stage import INPUT, NEUTRAL, Common, claim, part_of, stage

if TYPE_CHECKING:
    from deepfits.models.bundle import Model
    from deepfits.stages.redshifts.pretraining import FittedSky, Pointing

FORMAT = 5
SHARPEST = 1.45  # FWHM of the narrowest simulated PSF, in units of the reference PSF's


@dataclass(frozen=True)
class PretrainConfig(Common):
    """Parameters of `redshift_pretrain`."""

    out: str | Path
    """Output directory of the head."""
    _: KW_ONLY
    model: Annotated[str | Path, INPUT] = "builtin:ugriz"
    """Scene model with which the real objects will be fitted: from `train` with the recipe ``"scene"``, or
    ``builtin:NAME``."""
    survey: str | Path | None = None
    """Survey whose filters, depths and seeing are simulated: ``clauds-hsc``, ``rubin-like``, ``sdss-like``,
    or a TOML file (see docs/how-to/simulated-sky.md). By default all three in turn, with further galaxies
    seen through filters of many cameras, for a head that works for any survey."""
    population: Annotated[str | Path | None, INPUT] = None
    """A TOML file with constants of the galaxy population to train on. By default the population is drawn
    anew for each sky and for every 200 further galaxies."""
    num_skies: Annotated[int, Range(ge=1)] = 10
    """Number of skies to simulate and cut out."""
    num_fitted: Annotated[int, Range(ge=30)] = 1000
    """Maximum number of objects to fit in each sky."""
    num_examples: Annotated[int, Range(ge=0)] = 150_000
    """Number of further galaxies, which are not fitted but take over the measurement errors of a similar
    fitted object. In turn, a network trains on this many with the templates of several libraries, of one,
    of the recent ones with little scatter, or of several with little scatter."""
    steps: Annotated[int, Range(ge=1)] = 3000
    """Training steps of each network."""
    num_members: Annotated[int, Range(ge=1)] = 12
    """Number of networks in the ensemble."""
    distant_weight: Annotated[float, Range(gt=0)] = 1.4
    """Number of galaxies beyond z = 2 relative to the simulated population, by which p(z) is reweighted.
    Above 1, fewer distant galaxies are mistaken for nearby ones, and more nearby ones for distant ones."""
    seed: Annotated[int, Range(ge=0, lt=2_000_000)] = 0
    """Seed of all random draws; the same seed gives the same head."""
    num_threads: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    """CPU threads for simulating and fitting. Does not affect the results."""
    device: Annotated[str, NEUTRAL] = "cpu"
    """Device for the fits: ``"cpu"``, ``"cuda"`` or ``"auto"``."""


@stage(PretrainConfig, result="redshift head")
def redshift_pretrain(config: PretrainConfig) -> Path:
    """Train a redshift head on simulated skies, for `redshift predict` without labels or with few.

    Skies with varying galaxy populations, seeing and depth are simulated, and their objects are detected, cut
    out and fitted like real ones. From these, and from many more simulated galaxies, an ensemble of small
    networks learns p(z) and the class of an object given its fluxes at the reference PSF and their errors. An
    interrupted run continues after the last finished sky.

    Returns
    -------
    Path
        `out`, the head: ``head.json`` and its arrays. ``skies/`` in it can be deleted afterwards.

    Raises
    ------
    InputError
        A model that is not a scene model, or a survey whose bands differ from the model's.

    Examples
    --------
    For your own filters: `deepfits redshift pretrain --survey mine.toml --out run/head`
    """
    from deepfits.models.bundle import Model
    from deepfits.redshifts.head import Examples
    from deepfits.redshifts.head_training import train_head
    from deepfits.stages.redshifts.pretraining import (
        FILTERS,
        POPULATIONS,
        default_surveys,
        draw_pointings,
        grafted,
    )

    model = Model.load(config.model)
    if model.grid is None:
        raise InputError(
            f"{config.model}: this model draws images of a single survey, but a head needs a scene model: "
            "use builtin:ugriz, or train one with `deepfits train --recipe scene`"
        )
    surveys = default_surveys() if config.survey is None else [find_survey(config.survey)]
    for survey in surveys:
        if set(survey.names) != set(model.info.bands):
            raise InputError(
                f"survey {survey.name!r} has the bands {'-'.join(survey.names)}, but the model "
                f"{config.model} draws {'-'.join(model.info.bands)}; use a survey with the bands of the "
                "model, under the same names (the head of builtin:ugriz serves surveys that lack some)"
            )
    laws = None if config.population is None else PopulationLaws.read(config.population)
    populations = POPULATIONS
    if laws is not None:
        populations = (lambda _: laws,)
    described = {"survey": named_contents([survey.to_json() for survey in surveys])}
    given = {"model": model.fingerprint}
    with claim(config, name="redshift pretrain", version=FORMAT, settings=described, inputs=given) as results:
        if results.is_finished:
            return results.path
        narrowest = SHARPEST * model.grid.reference_fwhm_arcsec
        pointings = draw_pointings(surveys, config.num_skies, config.num_fitted, config.seed, narrowest)
        if laws is not None:
            pointings = [replace(pointing, laws=laws) for pointing in pointings]
        fitted = []
        with config.progress("skies", total=len(pointings), unit="skies") as task:
            for number, pointing in enumerate(pointings):
                where = results.path / "skies" / f"sky-{number:02d}"
                fitted.append(_fitted_sky(pointing, where, number, model, config, task))
                task.advance(1)
        parts = [sky.examples for sky in fitted]
        example_sets = [Examples.join(parts)]  # one, or one for each kind of population
        if config.num_examples:
            rng = np.random.default_rng((config.seed, config.num_skies))
            filters = FILTERS if config.survey is None else None
            drawn = [
                grafted(fitted, pointings, config.num_examples, rng, each, filters) for each in populations
            ]
            example_sets = [Examples.join([*parts, more]) for more in drawn]
        head = part_of(
            config,
            train_head,
            examples=example_sets,
            bands=model.info.bands,
            model_hash=model.fingerprint,
            about={
                "surveys": [survey.name for survey in surveys],
                "num_fitted": int(sum(len(sky.examples) for sky in fitted)),
                "num_drawn": int(config.num_examples),
                "faintest_i": float(max(pointing.limit for pointing in pointings)),
            },
        )
        head.reweighted(config.distant_weight).save(results.path)
    return results.path


def _fitted_sky(
    pointing: Pointing, where: Path, number: int, model: Model, config: PretrainConfig, task: Task
) -> FittedSky:
    """Simulate one sky and fit its objects, or read it if it is finished."""
    from deepfits.fitting.features import read_features
    from deepfits.stages.cutouts import cutouts
    from deepfits.stages.fit import fit
    from deepfits.stages.redshifts.pretraining import EXAMPLES, FittedSky, match_truth
    from deepfits.survey.store import CutoutStore
    from deepfits.tables import match_identities, read_table

    if (where / EXAMPLES).exists():
        return storage.load(FittedSky, where, EXAMPLES, what="file of examples")
    where.mkdir(parents=True, exist_ok=True)
    survey, population = where / "survey.toml", where / "population.toml"
    write_text(survey, pointing.survey.to_toml())
    write_text(
        population, "".join(f"{key} = {json.dumps(law)}\n" for key, law in vars(pointing.laws).items())
    )
    progress = noted(config.progress, task, f"sky {number + 1}")
    sky = simulate(
        where / "sky",
        survey=survey,
        population=population,
        size=pointing.size,
        seed=1000 * config.seed + number,
        workers=config.num_threads,
        progress=progress,
    )
    size = model.cutout_size(pointing.survey.pixel_scale_arcsec)
    store = CutoutStore(cutouts(sky, where / "cutouts", size=size, progress=progress))
    columns, truth = store.catalogue(["ra", "dec"]), read_table(where / "sky" / "truth.parquet")
    magnitude = truth[f"mag_{pointing.reference}"]
    rows = match_truth(columns, truth, magnitude)
    is_wanted = (rows >= 0) & (magnitude[rows] < pointing.limit + 0.5)
    order = np.random.default_rng((config.seed, number, 1)).permutation(np.flatnonzero(is_wanted))
    chosen = np.sort(order[: config.num_fitted])
    identity = columns["object_id"][chosen]
    fits = fit(
        store.directory,
        config.model,
        where / "fits",
        object_ids=identity.tolist(),
        threads=config.num_threads,
        device=config.device,
        progress=progress,
    )
    features = read_features(fits)
    true = rows[chosen][match_identities(features["object_id"], identity)]
    fitted = FittedSky.of(features, truth, true, model.info.bands)
    storage.save(fitted, where, EXAMPLES)
    for part in ("sky", "cutouts", "fits"):
        shutil.rmtree(where / part)
    return fitted
