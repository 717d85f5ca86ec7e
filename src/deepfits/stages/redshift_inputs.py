"""What the redshift stages read: features, labels, cutouts, and a user's own estimates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import writing
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset, make_dataset
from deepfits.redshifts.features import Source, read_features
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.pdf import LEVELS
from deepfits.redshifts.photometry import RADII_ARCSEC, aperture_photometry
from deepfits.redshifts.templates import Photometry, TemplateFit, filters_of
from deepfits.tables import require_column


def load_dataset(
    features: str | Path,
    labels: str | Path,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    photometry: str | Path | None = None,
    template_filters: Sequence[str] | None = None,
    label_column: str = "z_spec",
    select: Sequence[str] = (),
    match: str = "auto",
    match_radius_arcsec: float = 1.0,
    max_labels: int | None = None,
    block_arcmin: float | None = None,
    train_select: Sequence[str] = (),
    seed: int = 0,
    classes: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Read, join and split; see the stage `redshift` for the arguments."""
    columns = read_features(features)
    known = read_labels(labels, column=label_column, select=select, classes=classes)
    dataset = make_dataset(
        columns,
        known,
        match=match,
        radius_arcsec=match_radius_arcsec,
        max_labels=max_labels,
        seed=seed,
        block_arcmin=block_arcmin,
        train_select=train_select,
    )
    source = complete_source(
        dataset.source,
        store=store,
        embedder_features=embedder_features,
        photometry=photometry,
        template_filters=template_filters,
        progress=progress,
    )
    return replace(dataset, source=source)


def complete_source(
    source: Source,
    *,
    store: str | Path | None = None,
    embedder_features: str | Path | None = None,
    photometry: str | Path | None = None,
    template_filters: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Source:
    """Add photometry from the cutouts and the embedder's latents, where these are given.

    Parameters
    ----------
    photometry
        An ``.npz`` file that keeps what was measured in the cutouts for the next time.
    template_filters
        A speclite filter for each band (or none of them: those of CLAUDS and HSC) to fit templates with,
        whose quantiles then are features; None leaves templates out.
    """
    identity = source.columns["object_id"]
    if store is not None:
        flux, flux_err, bands = _kept(photometry, store, identity, progress)
        if len(bands) < 2:
            raise InputError(f"{store}: cutouts of the one band {bands[0]!r}; redshifts need colours")
        if source.bands and set(source.bands) != set(bands):
            raise InputError(f"{store}: cutouts of the bands {bands}, the features are of {source.bands}")
        source = replace(
            source, flux=flux, flux_err=flux_err, bands=bands, read_images=partial(store_images, store)
        )
    if template_filters is not None and source.flux is not None:
        found = _template_quantiles(photometry, source, template_filters)
        source = replace(source, template_quantiles=found)
    if embedder_features is not None:
        source = replace(source, embedder=_latents_of(embedder_features, identity))
    return source


def _kept(
    path: str | Path | None, store: str | Path, identity: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return `store_photometry`, from the file where it has these objects of this store."""
    about = _about(store, identity)
    found = _read_kept(path, about)
    if "flux" not in found:
        flux, flux_err, bands = store_photometry(store, identity, progress=progress)
        found = {"flux": flux, "flux_err": flux_err, "bands": np.array(bands)}
        _keep(path, about, found)
    return found["flux"], found["flux_err"], tuple(found["bands"].tolist())


def _template_quantiles(path: str | Path | None, source: Source, filters: Sequence[str]) -> np.ndarray:
    """Return the quantiles of template fitting with zero points of 1, ``(N, Q)``; kept too."""
    assert source.flux is not None
    assert source.flux_err is not None
    names = filters_of(source.bands, filters)
    about = _about("templates " + " ".join(names), source.columns["object_id"])
    path = None if path is None else Path(path).with_suffix(".templates.npz")
    found = _read_kept(path, about)
    if "quantiles" not in found:
        fit = TemplateFit(
            bands=source.bands,
            filters=names,
            zero_points=np.ones(len(names)),
            validation_pit=LEVELS,
        )
        photometry = Photometry.of_apertures(source.flux, source.flux_err, source.bands)
        found = {"quantiles": fit.raw_quantiles(photometry).astype(np.float32)}
        _keep(path, about, found)
    return found["quantiles"]


def _about(what: str | Path, identity: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join([str(what), *map(str, identity.tolist())]).encode())
    return digest.hexdigest()


def _read_kept(path: str | Path | None, about: str) -> dict[str, np.ndarray]:
    """Return what the file holds, nothing where there is none or it is of other objects."""
    if path is None or not Path(path).exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a file of photometry ({error}); remove it") from error
    return found if str(found.pop("about", "")) == about else {}


def _keep(path: str | Path | None, about: str, arrays: dict[str, np.ndarray]) -> None:
    if path is not None:
        everything: dict[str, Any] = {"about": np.array(about), **arrays}
        with writing(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **everything)


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
    from deepfits.survey.store import CutoutStore, shard_identities

    cutouts = CutoutStore(store)
    info = cutouts.info
    flux = np.full((len(object_id), len(RADII_ARCSEC) + 1, len(info.bands)), np.nan)
    flux_err = np.full_like(flux, np.nan)
    wanted = {one: row for row, one in enumerate(object_id.tolist())}
    is_found = np.zeros(len(object_id), dtype=bool)
    with progress("aperture magnitudes", total=len(cutouts), unit="objects") as task:
        for number, path in enumerate(cutouts.shards):
            identity = shard_identities(path, info).tolist()
            pairs = [(n, wanted[one]) for n, one in enumerate(identity) if one in wanted]
            if pairs:
                shard = cutouts.read_shard(number)
                places, rows = (np.array(side) for side in zip(*pairs, strict=True))
                flux[rows], flux_err[rows] = aperture_photometry(
                    shard.image[places],
                    shard.weight[places],
                    pixel_scale_arcsec=info.pixel_scale_arcsec,
                    fwhm_arcsec=info.fwhm_arcsec,
                )
                is_found[rows] = True
            task.advance(len(identity))
            if is_found.all():
                break
    if not is_found.all():
        raise InputError(
            f"{store}: {int((~is_found).sum())} objects of the features are not in this store, object_id "
            f"{object_id[~is_found][0]} among them; give the store that the features were fitted from"
        )
    return flux, flux_err, info.bands


def store_images(store: str | Path, object_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and weights of some objects of a cutout store, ``(n, B, H, W)`` in nJy and nJy⁻².

    Raises
    ------
    InputError
        An object is not in the store.
    """
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    place = {one: row for row, one in enumerate(cutouts.catalogue([])["object_id"].tolist())}
    rows = np.array([place.get(one, -1) for one in object_id.tolist()], dtype=np.int64)
    if (rows < 0).any():
        raise InputError(f"{store}: object_id {object_id[rows < 0][0]} of the features is not in this store")
    found = cutouts.take(rows)
    return found.image, found.weight


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
        return require_column(dataset.label_columns, name, "labels").astype(np.float64)
    table = read_labels(path, column=name)
    found = match_labels(dataset.source.columns, table, radius_arcsec=radius_arcsec)
    out = np.full(len(dataset.object_id), np.nan)
    out[found.rows] = table.value[found.label_rows]
    return out
