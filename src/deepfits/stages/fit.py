"""Stage `fit`: fit a model to cutouts and write features, one file per shard."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import NAMES_FILES
from deepfits.errors import InputError
from deepfits.files import digest
from deepfits.fitting import features
from deepfits.fitting.features import read_shard, shard_paths
from deepfits.fitting.model_error import ModelError
from deepfits.fitting.settings import FitSettings
from deepfits.fitting.similarity import Similarity
from deepfits.results import Results
from deepfits.stages.fit_work import FitWork, ModelWork, absolute, open_selected, run_work
from deepfits.stages.parameters import Images, Solving, as_list
from deepfits.stages.stage import INPUT, NEUTRAL, claim, part_of, refuse_given, stage

if TYPE_CHECKING:
    from deepfits.models.bundle import Model

log = logging.getLogger(__name__)
FORMAT = 7


@dataclass(frozen=True, kw_only=True)
class FitConfig(Solving, FitSettings):
    """Parameters of `fit`."""

    store: Annotated[Images, INPUT] = field(kw_only=False)  # type: ignore[assignment]
    """Cutout store, from `cutouts`; with `from_coadds`, images."""
    from_coadds: bool = False
    """Fit directly from images: `store` is then what `cutouts` takes as images: a directory, a pattern such
    as ``"tiles/*/"``, or several: ``g=ONE.fits,r=TWO.fits`` (in Python also a list). Objects are cut out,
    fitted and discarded, part by part. The features are identical to those from a store of these cutouts."""
    catalogue: Annotated[str | Path | None, NEUTRAL] = None
    """With `from_coadds`: the objects to fit. By default they are detected."""
    cutting: Annotated[Mapping[str, Any] | None, NAMES_FILES] = None
    """With `from_coadds`: arguments of `cutouts`, such as ``{"zero_point": 27.0, "shard_size": 1024}``. The
    model determines bands and size."""
    start: Annotated[str | Path | None, INPUT] = None
    """Features of an earlier fit with the same generator (fewer bands or other settings, say), whose latents
    are the starting points. Objects that it lacks start as `mode` says."""
    reconstructions: bool = False
    """Also write the best-fit images, ``shard-00000.h5`` with ``model`` (amplitudes applied) and
    ``residual``."""


@stage(FitConfig, result="features")
def fit(config: FitConfig) -> Path:
    """Fit the latent of every cutout: the features (M19 §2.3).

    Finds the latent vector whose generated image best matches each cutout, with uncertainties and model
    fluxes. One Parquet file is written per shard of the store. A shard that cannot be read does not stop the
    others: it is reported at the end and in ``_manifest.jsonl``. Run the same command again to fit only the
    shards that are missing or failed, or whose cutouts have changed.

    Returns
    -------
    Path
        `out`: Parquet files (docs/reference/files.md), ``_features.json`` and ``_manifest.jsonl``.

    Raises
    ------
    InputError
        Incompatible model and store, an unknown option, a store that is not finished, or other results in
        `out`.
    ShardsFailedError
        Some shards could not be read or fitted. All others are done, and the manifest has the reasons.

    Examples
    --------
    The features of a run: `deepfits fit run/cutouts run/model --out run/features-both --workers 4`

    From images: `deepfits fit --from-coadds coadds/ run/model --out features --cutting zero_point=27`

    As in M19: `deepfits fit run/cutouts run/model --out run/features-adam --solver adam --objective paper`
    """
    from deepfits.models.bundle import Model, find_builtin

    if not config.from_coadds:
        refuse_given(config, ("catalogue", "cutting"), "without from_coadds; set that, or leave it out")
        stores = as_list(config.store)
        if len(stores) != 1:
            raise InputError("fit: give one store, or for a list of images from_coadds")
        config = replace(config, store=stores[0])
    pool = config.pool()
    loaded = Model.load(config.model, config.device if pool.is_here else "cpu")
    settings = part_of(config, FitSettings)
    common: dict[str, Any] = {
        "model": absolute(config.model),
        "model_hash": loaded.fingerprint,
        "out": absolute(config.out),
        "settings": settings,
        "start": None if config.start is None else absolute(config.start),
        "reconstructions": config.reconstructions,
        "threads": pool.threads_each,
        "device": config.device,
    }
    if config.start is not None:
        _check_start(config, loaded)
    # Each shard's digest covers the contents of its cutouts (or images), so only changed shards are refitted.
    inputs: dict[str, Any] = {**loaded.made_from(), "store": None}
    if not config.from_coadds:
        cutouts, cautions, selection = open_selected(config, loaded)
        inputs["store"] = digest(replace(cutouts.info, extra={}).to_json())
    with claim(config, name="fit", version=FORMAT, inputs=inputs) as results:
        work: ModelWork
        if config.from_coadds:
            from deepfits.stages.fit_coadds import prepare  # needs the dependencies of detection

            work, selection = prepare(config, results.path, loaded, common)
            cautions = loaded.check(work.info)
            for caution in cautions:
                log.warning("%s: %s", config.store, caution)
        else:
            work = FitWork(store=absolute(stores[0]), **common)
        calibrate = f"`deepfits calibrate {config.model} STORE --out MODEL` measures them"
        if loaded.errors is None:
            few = "its errors were not measured (too few bright galaxies): those of fluxes are too small"
            log.warning("%s: %s; %s on more", config.model, few, calibrate)
        elif loaded.calibration is None and find_builtin(loaded.fingerprint):
            whose = "errors and anomalies are those of the surveys that the model was trained on"
            log.info("%s; %s on yours", whose, calibrate)
        run_work(config, work, selection, loaded, results.path, f"fit ({config.mode})")
        if not features.is_finished(results.path, made_from=selection.made_from):
            _finish(config, loaded, results, cautions, selection.made_from)
    return results.path


def _finish(
    config: FitConfig, model: Model, results: Results, cautions: Sequence[str], made_from: str
) -> None:
    """Write the description of all shards together, ``_features.json``."""
    summary = {
        **summarise(results.path),
        "cautions": cautions,
        "store": ", ".join(map(str, as_list(config.store))),
    }
    if summary["num_objects"] and summary["median_reduced_chi2"] is None:  # all NaN: not a finished result
        how = ", ".join(f"{name}: {number}" for name, number in summary["status"].items())
        raise InputError(
            f"{results.path}: none of {summary['num_objects']} objects has a fit ({how}); check the weights "
            "and fluxes of the cutouts (`deepfits check`), and that the model was trained for such images"
        )
    if model.errors is not None:
        error = ModelError.from_json(model.errors, len(model.info.bands), str(config.model))
        Similarity.of(np.array(error.latent_nuisance)).save(results.path)
    described = {**results.content["settings"], "model_hash": model.fingerprint}
    features.finish(results.path, described, summary, made_from=made_from)


def _check_start(config: FitConfig, model: Model) -> None:
    """Refuse starting points that are not latents of this model's generator."""
    if config.mode == "embedder":
        raise InputError("mode 'embedder' does not fit, so start has no effect; choose another mode")
    latent = read_shard(shard_paths(str(config.start))[0], ["latent"])["latent"]
    if latent.shape[1] != model.config.latent_size:
        raise InputError(
            f"{config.start}: latents have {latent.shape[1]} dimensions, this model's have "
            f"{model.config.latent_size}; give features fitted with the same generator"
        )


def summarise(directory: Path) -> dict[str, Any]:
    """Return the summary of all shards for ``_features.json``, reading one shard at a time."""
    reduced, status, num_steps = [], Counter[str](), 0
    for path in shard_paths(directory):
        columns = read_shard(path, ["chi2", "dof", "status", "num_steps"])
        good = np.isfinite(columns["chi2"]) & (columns["dof"] > 0)
        reduced.append((columns["chi2"][good] / columns["dof"][good]).astype(np.float32))
        status.update(columns["status"].tolist())
        num_steps += int(columns["num_steps"].sum())
    total, all_reduced = status.total(), np.concatenate(reduced)
    return {
        "num_objects": total,
        "median_reduced_chi2": float(np.median(all_reduced)) if len(all_reduced) else None,
        "mean_num_steps": num_steps / total if total else 0.0,
        "status": dict(sorted(status.items())),
    }
