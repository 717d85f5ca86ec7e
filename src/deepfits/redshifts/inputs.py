"""Inputs to features beyond the fits: photometry and template fits from the cutouts, and embedder latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import contents, digest, named_contents, read_arrays, writing
from deepfits.passbands import COLUMN, filter_at, require_own_bands, wavelength_of
from deepfits.photometry import RADII_ARCSEC
from deepfits.progress import Progress, silent
from deepfits.provenance import code
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import Source, band_names, read_features
from deepfits.redshifts.labels import match_labels, read_estimates, read_table_of_estimates
from deepfits.redshifts.methods.templates import Photometry, TemplateFit, filters_of
from deepfits.redshifts.pdf import AS_PREDICTED
from deepfits.redshifts.photometry import COMMON_FWHM_ARCSEC, aperture_photometry, matched_photometry
from deepfits.redshifts.spectra import FILTERS
from deepfits.survey.bands import places_of
from deepfits.tables import Columns, match_identities, take_rows

if TYPE_CHECKING:
    from deepfits.survey.store import StoreInfo


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

    Measurements of the cutouts are cached in the file `photometry`, an ``.npz``. `template_filters` are the
    speclite names of the filters, one per band, through which templates are fitted to make the template
    features; an empty sequence stands for those of CLAUDS and HSC, and None leaves templates out.
    """
    identity = source.columns["object_id"]
    if store is not None:
        info = check_store(store, source.bands)
        bands = info.bands
        measured: dict[str, Any] = _cached(
            photometry,
            lambda: digest(contents(store), list(bands), identity),
            lambda: store_photometry(store, bands, identity, progress=progress),
        )
        if not can_match(info):
            measured |= {"matched_flux": None, "matched_flux_err": None}
        source = replace(source, bands=bands, read_images=partial(store_images, store, bands), **measured)
    if template_filters is not None and source.flux is not None:
        source = replace(source, template_quantiles=_template_quantiles(photometry, source, template_filters))
    if embedder_features is not None:
        columns = read_features(embedder_features)
        rows = match_identities(identity, columns["object_id"])
        if (rows < 0).all():
            raise InputError(
                f"{embedder_features}: these features contain none of the objects; fit the same store"
            )
        source = replace(source, embedder=take_rows(columns["latent"].astype(np.float32), rows))
    return source


def with_filters(columns: Columns, filters: Sequence[str]) -> Columns:
    """Return features with the mean wavelength of each band's filter added, where filters are given."""
    if not filters:
        return columns
    bands = band_names(columns)
    names = filters_of(bands, filters)
    wavelengths = [wavelength_of(name) for name in names]
    require_own_bands(bands, names, wavelengths)
    of_bands, number = zip(bands, wavelengths, strict=True), len(columns["object_id"])
    return columns | {f"{COLUMN}_{band}": np.full(number, value, np.float32) for band, value in of_bands}


def records_filters(columns: Columns) -> bool:
    """Return whether the features record the filter of any band."""
    return any(name.startswith(f"{COLUMN}_") and np.isfinite(columns[name]).any() for name in columns)


def known_filters(columns: Columns) -> tuple[str, ...]:
    """Return the filters of all bands where the features record them, the same for all objects; else ().

    Objects without data in a band do not count. If no object has data in it, as where a model of u g r i z
    is fitted to g r i z, its default filter stands for it.
    """
    names: list[str | None] = []
    is_known = False
    for band in band_names(columns):
        number = columns.get(f"dof_{band}", np.ones(len(columns["object_id"])))
        wavelength = columns.get(f"{COLUMN}_{band}", np.full(len(number), np.nan))
        wavelengths = np.unique(wavelength[number > 0])
        is_one = len(wavelengths) == 1 and bool(np.isfinite(wavelengths[0]))
        names.append(
            filter_at(float(wavelengths[0]), band)
            if is_one
            else None
            if len(wavelengths)
            else FILTERS.get(band)
        )
        is_known |= is_one
    return tuple(name for name in names if name is not None) if is_known and all(names) else ()


def check_store(store: str | Path, bands: Sequence[str]) -> StoreInfo:
    """Return the store's metadata, restricted to the bands of the features where the two differ."""
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    known = cutouts.info.bands
    if len(known) < 2:
        raise InputError(f"{store}: cutouts in the single band {known[0]!r}; redshifts need colours")
    if not bands or set(bands) == set(known):
        return cutouts.info
    if all(place is None for place in places_of(bands, known)):
        raise InputError(
            f"{store}: the cutouts have the bands {'-'.join(known)}, the features {'-'.join(bands)}"
        )
    return cutouts.in_bands(bands).info


def can_match(info: StoreInfo) -> bool:
    """Return whether a store's images can be brought to the common PSF in every band."""
    return bool((np.asarray(info.fwhm_arcsec) <= COMMON_FWHM_ARCSEC).all())


def _template_quantiles(path: str | Path | None, source: Source, filters: Sequence[str]) -> np.ndarray:
    """Return the quantiles of template fitting with zero points of 1, ``(N, Q)``; also cached."""
    names = filters_of(source.bands, filters)
    fit = TemplateFit(
        bands=source.bands, filters=names, zero_points=np.ones(len(names)), validation_pit=AS_PREDICTED
    )
    return _cached(
        None if path is None else Path(path).with_suffix(".templates.npz"),
        lambda: digest(named_contents(names), source.flux, source.flux_err, source.columns["object_id"]),
        lambda: {"quantiles": fit.raw_quantiles(Photometry.of(source)).astype(np.float32)},
    )["quantiles"]


def _cached(
    path: str | Path | None, made_from: Callable[[], str], measure: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return arrays from the cache where they were made from the same data, else measure and cache them."""
    if path is None:
        return measure()
    expected = f"{made_from()} {code()}"
    if Path(path).exists():
        arrays = read_arrays(path, what="file of photometry")
        if str(arrays.pop("made_from", "")) == expected:
            return arrays
    arrays = measure()
    everything: dict[str, Any] = {"made_from": np.array(expected), **arrays}
    with writing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **everything)
    return arrays


def store_photometry(
    store: str | Path, bands: Sequence[str], object_id: np.ndarray, *, progress: Progress = silent
) -> dict[str, np.ndarray]:
    """Measure aperture fluxes of the given objects in a cutout store, shard by shard.

    Returns ``flux``, ``flux_err``, ``matched_flux``, ``matched_flux_err``: ``(N, A, B)``, nJy, in the order
    of `object_id`.
    """
    from deepfits.gaussian_psf import psf_or_moffat
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store).in_bands(bands)
    info, scale = cutouts.info, cutouts.info.pixel_scale_arcsec
    circles = len(RADII_ARCSEC)
    flux, flux_err = np.full((2, len(object_id), circles + 1, len(bands)), np.nan)
    matched, matched_err = np.full((2, len(object_id), circles, len(bands)), np.nan)
    places = cutouts.rows_of(object_id)
    order = np.argsort(places, kind="stable")
    shards = np.split(order, np.searchsorted(places[order], np.cumsum(cutouts.lengths)))
    with progress("aperture magnitudes", total=len(object_id), unit="objects") as task:
        for rows in filter(len, shards):
            batch = cutouts.take(places[rows])
            pixels, psf = (batch.image, batch.weight), psf_or_moffat(batch.psf, info.fwhm_arcsec, len(batch))
            flux[rows], flux_err[rows] = aperture_photometry(*pixels, psf, pixel_scale_arcsec=scale)
            matched[rows], matched_err[rows] = matched_photometry(*pixels, psf, pixel_scale_arcsec=scale)
            task.advance(len(rows))
    return {"flux": flux, "flux_err": flux_err, "matched_flux": matched, "matched_flux_err": matched_err}


def store_images(
    store: str | Path, bands: Sequence[str], object_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and weights of n objects of a cutout store, ``(n, B, H, W)`` in nJy and nJy⁻²."""
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store).in_bands(bands)
    batch = cutouts.take(cutouts.rows_of(object_id))
    return batch.image, batch.weight


def photoz_column(photoz: str, dataset: Dataset, radius_arcsec: float) -> np.ndarray:
    """Return a user's own estimates for the objects of a data set, ``(N,)``; NaN where there is none.

    `photoz` is ``COLUMN`` for a column of the labels, or ``TABLE:COLUMN``.
    """
    path, _, name = photoz.rpartition(":")
    if not path:
        return read_estimates(dataset.label_columns, name, "labels")
    table = read_table_of_estimates(path, name)
    match = match_labels(dataset.source.columns, table, radius_arcsec=radius_arcsec)
    out = np.full(len(dataset.object_id), np.nan)
    out[match.rows] = table.value[match.label_rows]
    return out
