"""The stage `fit`: cutouts and a model in, features out, one file per shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.progress import Progress, silent


def fit(
    store: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    from_coadds: bool = False,
    catalogue: str | Path | None = None,
    cutting: Mapping[str, Any] | None = None,
    mode: str = "both",
    objective: str = "flux",
    solver: str = "lbfgs",
    num_steps: int | None = None,
    tolerance: float | None = None,
    num_starts: int = 1,
    prior_strength: float = 0.0,
    amplitudes: bool | None = None,
    centre_fwhm_arcsec: float | None = None,
    uncertainty: bool = True,
    reconstructions: bool = False,
    held_out_only: bool = False,
    object_ids: Sequence[int | str] | None = None,
    batch_size: int = 64,
    precision: str = "float32",
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Fit the latent of every cutout: the features (M19 §2.3).

    Running it again makes only the shards that are missing or failed; ``manifest.jsonl`` says which.

    Parameters
    ----------
    store, model
        Directories that `cutouts` and `train` wrote.
    out
        Directory for the features.
    from_coadds
        `store` names images, as for `cutouts`: each part of a field is cut, fitted and forgotten. The
        features are those that a store of these cutouts would give.
    catalogue
        From coadds: what to cut; without one, the objects are detected first.
    cutting
        From coadds: arguments of `cutouts`, such as ``{"zero_point": 27.0, "shard_size": 1024}``. Bands and
        size are the model's.
    mode
        ``"embedder"`` (its guess, as it is), ``"optimise"`` (fit from random latents) or ``"both"`` (fit from
        the embedder's guess).
    objective
        ``"flux"`` (χ² in nJy), ``"stretched"`` (the same noise, carried into the network's units), or
        ``"paper"`` (squared differences in the network's units, every valid pixel alike).
    solver
        ``"lbfgs"``, ``"lbfgs-plain"`` or ``"adam"`` (the paper's).
    num_steps, tolerance, prior_strength, batch_size
        As in `deepfits.fitting.fit`.
    precision
        Of the generator's convolutions during the fit, on a GPU: ``"float32"``, ``"float16"`` or
        ``"bfloat16"``. Residuals, sums and latents are float32 in any case, and each fit is brought to its
        end in float32 from where half precision has come to.
    num_starts
        Starts per object, the best of which is kept. In mode ``"both"`` the first is the embedder's guess.
    amplitudes
        Let the brightness of each band be free (variable projection). By default, with ``objective="flux"``,
        which it needs, in the modes that fit: it measured best (docs/log.md).
    centre_fwhm_arcsec
        Let the weights fall off from the middle, so that neighbours do not steer the fit.
    uncertainty
        Compute ``latent_std`` and the errors of the model fluxes; NaN in the features where not.
    reconstructions
        Also write what was drawn, ``shard-00000.h5`` with ``model``, amplitudes included, and ``residual``.
    held_out_only, object_ids
        Fit only the objects that training never saw, or only these.
    seed
        Of the random starts, which depend on seed and identity alone.
    threads
        Cores to use, of all workers together; PyTorch's own choice by default. Changes no number.
    device
        ``"cpu"`` or ``"cuda"``. Workers on this machine take turns among its GPUs; those of a scheduler use
        the one that they were given.
    workers
        Processes on this machine, each taking shards of its own (``deepfits[scale]``). Changes no number.
    scheduler
        Address (or scheduler file) of a Dask scheduler, whose workers then do the work; they need to see the
        same paths.
    progress
        Shows what is done.

    Returns
    -------
    Path
        `out`: Parquet files as `docs/architecture.md` describes, ``_features.json`` and ``manifest.jsonl``.

    Raises
    ------
    InputError
        Model and store do not fit together, an unknown option, or features with other settings in `out`.
    ShardsFailedError
        Some shards could not be read or fitted. All others are done, and the manifest has the reasons.
    """
    from deepfits.fitting import features
    from deepfits.fitting.fitter import FitSettings
    from deepfits.models.bundle import Model
    from deepfits.provenance import provenance
    from deepfits.scale.cluster import Workers
    from deepfits.scale.run import run_shards
    from deepfits.stages.fit_coadds import CoaddWork, prepare
    from deepfits.stages.fit_work import FitWork, Selection, absolute, select, selection_settings
    from deepfits.survey.store import CutoutStore

    settings = FitSettings(
        mode=mode,
        objective=objective,
        solver=solver,
        num_steps=num_steps,
        tolerance=tolerance,
        num_starts=num_starts,
        prior_strength=prior_strength,
        amplitudes=objective == "flux" and mode != "embedder" if amplitudes is None else amplitudes,
        centre_fwhm_arcsec=centre_fwhm_arcsec,
        uncertainty=uncertainty,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
    )
    hands = Workers(number=workers, scheduler=scheduler, threads=threads, device=device)
    loaded = Model.load(model, device if hands.is_here else "cpu")
    described = {**settings.to_json(), "reconstructions": reconstructions, "model_hash": loaded.fingerprint}
    common: dict[str, Any] = {
        "model": absolute(model),
        "model_hash": loaded.fingerprint,
        "out": absolute(out),
        "settings": settings,
        "reconstructions": reconstructions,
        "threads": hands.threads_each,
        "device": device,
    }
    work: FitWork | CoaddWork
    if from_coadds:
        source = prepare(
            absolute(store),
            Path(out),
            loaded.info,
            catalogue=catalogue,
            cutting=cutting or {},
            held_out_only=held_out_only,
            object_ids=object_ids,
            workers=workers,
            progress=progress,
        )
        info, selection = source.info, source.selection
        described |= {"coadds": features.digest(source.settings())}
        alone = replace(source, selection=Selection(shards=[], unreadable={}))
        work = CoaddWork(source=alone, digest=described["coadds"], **common)
    else:
        cutouts = CutoutStore(store, skip_bad=True)
        info = cutouts.info
        selection = select(cutouts, held_out_only=held_out_only, object_ids=object_ids)
        work = FitWork(store=absolute(store), **common)
    cautions = loaded.check(info)
    described |= selection_settings(info, held_out_only, object_ids)
    directory = features.begin(out, described)
    is_changed = run_shards(
        work,
        selection.shards,
        directory,
        title=f"fit ({mode})",
        is_done=features.is_done,
        workers=hands,
        progress=progress,
        unreadable=selection.unreadable,
        open_here=lambda: work.open_with(loaded),
    )
    if is_changed or not features.is_finished(directory):
        summary = {**summarise(directory), "cautions": cautions, "store": str(store)}
        features.finish(directory, summary, provenance())
    return directory


def summarise(directory: Path) -> dict[str, Any]:
    """Return what `_features.json` says of all shards together, which are read one after the other."""
    from deepfits.fitting.features import read_table, shard_paths

    reduced, status, num_steps = [], Counter[str](), 0
    for path in shard_paths(directory):
        columns = read_table(path, ["chi2", "dof", "status", "num_steps"])
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
