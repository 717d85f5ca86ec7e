"""What the redshift stages read: features, labels, cutouts, and a user's own estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset, make_dataset
from deepfits.redshifts.features import Source, read_features
from deepfits.redshifts.labels import Labels, match_labels, read_labels
from deepfits.redshifts.photometry import RADII_ARCSEC, aperture_photometry
from deepfits.redshifts.tables import need, read_table


def load_dataset(
    features: str | Path,
    labels: str | Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Dataset:
    """Read, join and split; see the stage `redshift` for the arguments."""
    columns = read_features(features)
    known = read_labels(labels, column=label_column, select=select)
    dataset = make_dataset(
        columns,
        known,
        match=match,
        radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        seed=seed,
        block_arcmin=block_arcmin,
    )
    source = complete_source(
        dataset.source, store=store, embedder_features=embedder_features, progress=progress
    )
    return replace(dataset, source=source)


def complete_source(
    source: Source,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    progress: Progress = silent,
) -> Source:
    """Add photometry from the cutouts and the embedder's latents, where these are given."""
    identity = source.columns["object_id"]
    if store is not None:
        flux, flux_err, bands = store_photometry(store, identity, progress=progress)
        if len(bands) < 2:
            raise InputError(f"{store}: cutouts of the one band {bands[0]!r}; redshifts need colours")
        if source.bands and set(source.bands) != set(bands):
            raise InputError(f"{store}: cutouts of the bands {bands}, the features are of {source.bands}")
        source = replace(source, flux=flux, flux_err=flux_err, bands=bands)
    if embedder_features is not None:
        source = replace(source, embedder=_latents_of(embedder_features, identity))
    return source


def store_photometry(
    store: str | Path, object_id: np.ndarray, *, progress: Progress = silent
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Measure aperture fluxes of some objects of a cutout store, shard by shard.

    Returns
    -------
    flux, flux_err
        ``(N, A, B)``, nJy, in the order of `object_id`.
    bands
        B names.

    Raises
    ------
    InputError
        An object is not in the store.
    """
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    info = cutouts.info
    flux = np.full((len(object_id), len(RADII_ARCSEC) + 1, len(info.bands)), np.nan)
    flux_err = np.full_like(flux, np.nan)
    wanted = {one: row for row, one in enumerate(object_id.tolist())}
    is_found = np.zeros(len(object_id), dtype=bool)
    with progress("aperture magnitudes", total=len(cutouts), unit="objects") as task:
        for shard in cutouts:
            pairs = [(n, wanted[one]) for n, one in enumerate(shard.object_id.tolist()) if one in wanted]
            if pairs:
                places, rows = (np.array(side) for side in zip(*pairs, strict=True))
                flux[rows], flux_err[rows] = aperture_photometry(
                    shard.image[places],
                    shard.weight[places],
                    pixel_scale_arcsec=info.pixel_scale_arcsec,
                    fwhm_arcsec=info.fwhm_arcsec,
                )
                is_found[rows] = True
            task.advance(len(shard))
    if not is_found.all():
        raise InputError(
            f"{store}: {int((~is_found).sum())} objects of the features are not in this store, object_id "
            f"{object_id[~is_found][0]} among them; give the store that the features were fitted from"
        )
    return flux, flux_err, info.bands


def _latents_of(directory: str | Path, object_id: np.ndarray) -> np.ndarray:
    """Return the latents of other features for the same objects; NaN where they lack one."""
    columns = read_features(directory)
    place = {one: row for row, one in enumerate(columns["object_id"].tolist())}
    rows = np.array([place.get(one, -1) for one in object_id.tolist()])
    if (rows < 0).all():
        raise InputError(f"{directory}: none of the objects is in these features; fit the same store")
    out = columns["latent"][rows].astype(np.float32)
    out[rows < 0] = np.nan
    return out


def photoz_column(photoz: str, dataset: Dataset, radius_arcsec: float) -> np.ndarray:
    """Return a user's own estimates for the objects of a data set, ``(N,)``; NaN where there is none.

    Parameters
    ----------
    photoz
        ``COLUMN`` of the labels, or ``TABLE:COLUMN``.
    """
    path, _, name = photoz.rpartition(":")
    if not path:
        return need(dataset.label_columns, name, "labels").astype(np.float64)
    columns = read_table(path, what="table of photometric redshifts")
    value = need(columns, name, path)
    if value.dtype.kind not in "iuf":
        raise InputError(f"{path}: column {name!r} holds no numbers")
    table = Labels(value=value.astype(np.float64), columns=columns, where=path)
    found = match_labels(dataset.source.columns, table, radius_arcsec=radius_arcsec)
    out = np.full(len(dataset.object_id), np.nan)
    out[found.rows] = table.value[found.label_rows]
    return out
