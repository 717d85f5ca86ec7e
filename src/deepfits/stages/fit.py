"""The stage `fit`: cutouts and a model in, features out, one file per shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.progress import Progress, silent

if TYPE_CHECKING:
    from deepfits.survey.store import CutoutStore


def fit(
    store: str | Path,
    model: str | Path,
    out: str | Path,
    *,
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
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Fit the latent of every cutout: the features (M19 §2.3).

    Running it again makes only the shards that are missing.

    Parameters
    ----------
    store, model
        Directories that `cutouts` and `train` wrote.
    out
        Directory for the features.
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
        Cores to use; PyTorch's own choice by default. Changes no number.
    device
        ``"cpu"`` or ``"cuda"``.
    progress
        Shows what is done.

    Returns
    -------
    Path
        `out`: Parquet files as `docs/architecture.md` describes, and ``_features.json``.

    Raises
    ------
    InputError
        Model and store do not fit together, an unknown option, or features with other settings in `out`.
    """
    from deepfits.fitting import features
    from deepfits.fitting.fitter import FitSettings, Fitter
    from deepfits.models.bundle import Model
    from deepfits.provenance import provenance
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
        seed=seed,
    )
    loaded, cutouts = Model.load(model, device), CutoutStore(store)
    cautions = loaded.check(cutouts.info)
    described = {**settings.to_json(), "reconstructions": reconstructions, "model_hash": loaded.fingerprint}
    chosen = choose(cutouts, held_out_only=held_out_only, object_ids=object_ids)
    directory = features.begin(out, {**described, "objects": features.digest(*chosen.values())})
    made_from = {number: features.digest(chosen[number]) for number in chosen}
    paths = {number: directory / features.table_name(number) for number in chosen}
    todo = [number for number, path in paths.items() if not features.is_done(path, made_from[number])]
    if todo:
        fitter = Fitter(loaded, settings, cutouts.info, threads=threads)
        total, left = (sum(len(chosen[n]) for n in numbers) for numbers in (chosen, todo))
        with progress(f"fit ({mode})", total=total, unit="objects", done=total - left) as task:
            lock = Lock()

            def advance(number: int) -> None:
                with lock:
                    task.advance(number)

            for number in todo:
                shard = cutouts.read_shard(number)
                shard = shard.select(np.isin(shard.object_id, chosen[number]))
                fitted = fitter.fit(shard.object_id, shard.image, shard.weight, advance)
                columns = fitter.features(shard.object_id, fitted, shard.catalogue)
                if reconstructions:
                    drawn = fitter.reconstruct(fitted)
                    planes = {"model": drawn, "residual": fitted.image.numpy() - drawn}
                    write_images(
                        paths[number].with_suffix(".h5"), shard.object_id, planes, cutouts.info.bands
                    )
                features.write_table(paths[number], columns, made_from[number])
    if todo or not features.is_finished(directory):
        summary = {**summarise(directory), "cautions": cautions, "store": str(cutouts.directory)}
        features.finish(directory, summary, provenance())
    return directory


def write_images(
    path: Path, object_id: np.ndarray, planes: Mapping[str, np.ndarray], bands: Sequence[str]
) -> None:
    """Write images ``(N, bands, H, W)`` in nJy as HDF5, whole or not at all."""
    import h5py

    from deepfits.files import writing

    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["bands"], file.attrs["flux_unit"] = list(bands), "nJy"
        is_text = object_id.dtype.kind in "US"
        file["object_id"] = object_id.astype(h5py.string_dtype()) if is_text else object_id
        for name, values in planes.items():
            file[name] = values


def choose(
    store: CutoutStore, *, held_out_only: bool, object_ids: Sequence[int | str] | None
) -> dict[int, np.ndarray]:
    """Return, for each shard's number, the identities that are to be fitted."""
    from deepfits.splits import is_held_out

    identity = store.catalogue(["object_id"])["object_id"]
    chosen = np.ones(len(identity), dtype=bool)
    if held_out_only:
        chosen &= is_held_out(identity)
    if object_ids is not None:
        wanted = np.array([str(one) for one in object_ids], dtype=str)
        missing = sorted(set(wanted.tolist()) - set(identity.astype(str).tolist()))
        if missing:
            raise InputError(f"{store.directory}: object_id {missing[0]} is not in this store")
        chosen &= np.isin(identity.astype(str), wanted)
    if not chosen.any():
        raise InputError(
            f"{store.directory}: none of its {len(identity)} objects is among those to be fitted"
        )
    parts = np.split(np.arange(len(identity)), np.cumsum(store.lengths)[:-1])
    return {number: identity[rows[chosen[rows]]] for number, rows in enumerate(parts)}


def summarise(directory: Path) -> dict[str, Any]:
    """Return what `_features.json` says of all shards together."""
    from deepfits.fitting.features import read_features

    columns = read_features(directory, ["chi2", "dof", "status", "num_steps"])
    good = np.isfinite(columns["chi2"]) & (columns["dof"] > 0)
    reduced = columns["chi2"][good] / columns["dof"][good]
    names, counts = np.unique(columns["status"], return_counts=True)
    return {
        "num_objects": len(columns["chi2"]),
        "median_reduced_chi2": float(np.median(reduced)) if good.any() else None,
        "mean_num_steps": float(columns["num_steps"].mean()),
        "status": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
    }
