"""What a method sees of an object: matrices of features from the fit and from the cutouts.

Shapes: N objects, B bands, L latent dimensions, K features.

``latents``
    the fitted latent alone, as in M19 §3.3;
``model``
    what else the best fit gives: noise-free model magnitudes and colours, amplitudes, sizes, χ² per degree of
    freedom and the mean uncertainty of the latent;
``extended``
    both;
``magnitudes``
    ordinary aperture magnitudes and colours from the same cutouts: the baseline;
``combined``
    the extended features and the ordinary magnitudes together;
``templates``
    ordinary magnitudes, and the quantiles that template fitting gives for them: a baseline too;
``sizes``
    ``templates``, and the half-light radii and concentrations of the noise-free images of the best fit: what
    magnitudes in apertures do not say;
``all``
    what the best fit gives (``model``), and ``templates``;
``embedder``
    the embedder's latents without the fit (a features directory of that mode).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.redshifts.photometry import (
    aperture_names,
    magnitude_features,
    typical_error,
)
from deepfits.tables import Columns, read_table, require_column

FEATURE_SETS = (
    "latents",
    "model",
    "extended",
    "magnitudes",
    "combined",
    "templates",
    "sizes",
    "all",
    "embedder",
)
TEMPLATE_SETS = ("templates", "sizes", "all")
"""Feature sets that ask template fitting."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What features can be made of.

    Attributes
    ----------
    columns
        Of the features directory, N rows.
    bands
        Names of the B bands.
    flux, flux_err
        ``(N, A, B)``, nJy: aperture photometry of the same objects, where the cutouts are at hand.
    embedder
        ``(N, L)``: latents of the embedder alone, where they are at hand.
    template_quantiles
        ``(N, Q)``: what template fitting says, with zero points of 1, where that is wanted.
    read_images
        Returns images and weights, ``(n, B, H, W)`` in nJy and nJy⁻², of n identities, where there are
        cutouts; images are read when a method asks for them, and not kept.
    """

    columns: Columns
    bands: tuple[str, ...]
    flux: np.ndarray | None = None
    flux_err: np.ndarray | None = None
    embedder: np.ndarray | None = None
    template_quantiles: np.ndarray | None = None
    read_images: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images with zero flux where there are no data, and weights: ``(N, B, H, W)``.

        Raises
        ------
        InputError
            There are no cutouts.
        """
        if self.read_images is None:
            raise InputError("this method learns from the cutouts: give the store")
        image, weight = self.read_images(self.columns["object_id"])
        return np.where(weight > 0, image, 0.0).astype(np.float32), weight

    def available(self) -> list[str]:
        """Return the names of the feature sets that can be made."""
        out = ["latents"]
        if any(name.startswith("flux_model_") for name in self.columns):
            out += ["model", "extended"]
        if self.flux is not None:
            out += ["magnitudes", "combined"] if "extended" in out else ["magnitudes"]
        if self.template_quantiles is not None:
            out += ["templates"]
            out += ["sizes"] if any(name.startswith(SIZES[0]) for name in self.columns) else []
            out += ["all"] if "model" in out else []
        if self.embedder is not None:
            out.append("embedder")
        return out

    def take(self, rows: np.ndarray) -> Source:
        """Return some rows."""
        return Source(
            columns={name: values[rows] for name, values in self.columns.items()},
            bands=self.bands,
            flux=None if self.flux is None else self.flux[rows],
            flux_err=None if self.flux_err is None else self.flux_err[rows],
            embedder=None if self.embedder is None else self.embedder[rows],
            template_quantiles=None if self.template_quantiles is None else self.template_quantiles[rows],
            read_images=self.read_images,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one feature set, the same for training objects and for any others.

    Attributes
    ----------
    name
        One of `FEATURE_SETS`.
    bands
        Names of the bands.
    softening
        nJy, of the asinh magnitudes, as learned from the training objects: under ``"model"`` and
        ``"magnitudes"``, each ``(A, B)`` for A kinds of flux.
    """

    name: str
    bands: tuple[str, ...]
    softening: dict[str, np.ndarray]

    @classmethod
    def learn(cls, name: str, source: Source) -> Recipe:
        """Make the recipe from the objects that are there.

        Raises
        ------
        InputError
            The set cannot be made of what is given.
        """
        if name not in FEATURE_SETS:
            raise InputError(f"feature set {name!r} is unknown; {nearest(name, FEATURE_SETS)}")
        if name not in source.available():
            raise InputError(f"the feature set {name!r} needs {_NEEDS[name]}")
        softening = {}
        if name in ("model", "extended", "combined", "all"):
            softening["model"] = model_features(source.columns)[1]
        if name in ("magnitudes", "combined", *TEMPLATE_SETS):
            softening["magnitudes"] = _magnitudes_of(source, None)[1]
        return cls(name=name, bands=source.bands, softening=softening)

    def make(self, source: Source) -> Matrix:
        """Make the features of any objects: ``(N, K)``.

        Raises
        ------
        InputError
            Other bands than the recipe's, or something that it needs is not there.
        """
        if self.name not in source.available():
            raise InputError(f"the feature set {self.name!r} needs {_NEEDS[self.name]}")
        if source.bands != self.bands:
            raise InputError(
                f"these objects have the bands {source.bands}, the model was made for {self.bands}"
            )
        if self.name == "embedder":
            assert source.embedder is not None
            names = tuple(f"embedder_{number}" for number in range(source.embedder.shape[1]))
            return Matrix(values=source.embedder.astype(np.float32), names=names)
        parts = []
        if self.name in ("latents", "extended", "combined"):
            parts.append(latents(source.columns))
        if "model" in self.softening:
            parts.append(model_features(source.columns, self.softening["model"])[0])
        if "magnitudes" in self.softening:
            parts.append(_magnitudes_of(source, self.softening["magnitudes"])[0])
        if self.name in TEMPLATE_SETS:
            parts.append(_template_features(source))
        if self.name == "sizes":
            parts.append(size_features(source.columns, self.bands))
        return reduce(Matrix.beside, parts)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        softening = {name: values.tolist() for name, values in self.softening.items()}
        return {"name": self.name, "bands": list(self.bands), "softening": softening}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recipe:
        """Read back `to_json`."""
        return cls(
            name=content["name"],
            bands=tuple(content["bands"]),
            softening={
                name: np.array(values, dtype=np.float64) for name, values in content["softening"].items()
            },
        )


def _magnitudes_of(source: Source, softening: np.ndarray | None) -> tuple[Matrix, np.ndarray]:
    assert source.flux is not None
    assert source.flux_err is not None
    return ordinary_magnitudes(source.flux, source.flux_err, source.bands, softening)


def _template_features(source: Source) -> Matrix:
    assert source.template_quantiles is not None
    values = np.log1p(source.template_quantiles).astype(np.float32)
    return Matrix(values=values, names=tuple(f"template_{number}" for number in range(values.shape[1])))


_NEEDS = {
    "latents": "a features directory",
    "model": "features with model fluxes (flux_model_<band>); fit again",
    "extended": "features with model fluxes (flux_model_<band>); fit again",
    "magnitudes": "the cutouts: give the store",
    "combined": "features with model fluxes, and the cutouts: give the store",
    "templates": "template fitting of the cutouts' magnitudes: give the store, and template_features",
    "sizes": "radii of the fits (half_light_arcsec_<band>; fit again), and template fitting: give the store, "
    "and template_features",
    "all": "model fluxes, and template fitting: give the store, and template_features",
    "embedder": "the features of the embedder alone: give the directory of `deepfits fit --mode embedder`",
}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Features of some objects.

    Attributes
    ----------
    values
        ``(N, K)`` float32; NaN where a measurement is missing.
    names
        ``K`` names.
    """

    values: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.values.shape[1:] == (len(self.names),)

    def beside(self, other: Matrix) -> Matrix:
        """Return the columns of both."""
        return Matrix(values=np.hstack([self.values, other.values]), names=self.names + other.names)

    def take(self, rows: np.ndarray) -> Matrix:
        """Return some rows."""
        return Matrix(values=self.values[rows], names=self.names)


def read_features(directory: str | Path) -> Columns:
    """Read a features directory (or one Parquet file of the same columns).

    Raises
    ------
    InputError
        No `object_id` or `latent`, an identity twice, or fewer than two bands.
    """
    columns = read_table(directory, what="features")
    identity, latent = (
        require_column(columns, "object_id", directory),
        require_column(columns, "latent", directory),
    )
    if latent.ndim != 2 or not len(identity):
        raise InputError(f"{directory}: no object in these features; run `deepfits fit` to the end")
    unique, counts = np.unique(identity, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{directory}: object_id {unique[counts > 1][0]} occurs {counts.max()} times")
    bands = band_names(columns)
    if len(bands) == 1:
        raise InputError(
            f"{directory}: these features are of the one band {bands[0]!r}; redshifts need colours, so fit a "
            "store with at least two bands"
        )
    return columns


def band_names(columns: Columns) -> tuple[str, ...]:
    """Return the bands that the columns speak of, in their order."""
    for prefix in ("flux_model_", "chi2_", "amplitude_"):
        names = [name[len(prefix) :] for name in columns if name.startswith(prefix)]
        found = [name for name in names if not name.startswith("err_")]
        if found:
            return tuple(found)
    return ()


def latents(columns: Columns) -> Matrix:
    """Return the fitted latents."""
    values = columns["latent"].astype(np.float32)
    return Matrix(values=values, names=tuple(f"latent_{number}" for number in range(values.shape[1])))


def is_usable(columns: Columns) -> np.ndarray:
    """Say which objects have a finite latent: ``(N,)`` bool."""
    return np.asarray(np.isfinite(columns["latent"]).all(axis=1))


MODEL_FLUXES = {"model_aper": "flux_aper_model", "model": "flux_model"}
"""Columns of the fit's noise-free fluxes: inside a 2″ aperture, and of the whole cutout with neighbours."""


def model_features(columns: Columns, softening: np.ndarray | None = None) -> tuple[Matrix, np.ndarray]:
    """Return what the best fit gives besides the latent.

    Parameters
    ----------
    softening
        ``(A, B)``, nJy, of the asinh magnitudes in the A kinds of model flux: the one returned for the
        objects that a method was trained on, when it is used for others. By default the median error of the
        model flux, or a hundredth of its median size where the features have no errors.

    Raises
    ------
    InputError
        The features have no model fluxes.
    """
    bands = band_names(columns)
    missing = [band for band in bands if f"flux_model_{band}" not in columns]
    if not bands or missing:
        raise InputError(f"these features have no model fluxes (flux_model_<band>) {missing}; fit again")
    kinds = {
        name: column
        for name, column in MODEL_FLUXES.items()
        if all(f"{column}_{band}" in columns for band in bands)
    }
    flux = np.stack([_by_band(columns, column, bands) for column in kinds.values()], axis=1)  # (N, A, B)
    if softening is None:
        softening = np.stack([_model_softening(columns, column, bands) for column in kinds.values()])
    magnitudes, names = magnitude_features(flux, softening, bands, list(kinds))
    quality = _fit_quality(columns, bands)
    values = np.column_stack([magnitudes, *(one.astype(np.float32) for one in quality.values())])
    out = Matrix(values=values, names=(*names, *quality))
    if any(name.startswith(f"{SIZES[0]}_") for name in columns):
        out = out.beside(size_features(columns, bands))
    return out, softening


SIZES = ("half_light_arcsec", "concentration")
"""Columns of the drawn galaxies' radii: the logarithm of the first is a feature, and the second."""


def size_features(columns: Columns, bands: Sequence[str]) -> Matrix:
    """Return half-light radii, as ln arcsec, and concentrations of the best fits; NaN where there are none.

    Raises
    ------
    InputError
        The features have no radii.
    """
    missing = [band for band in bands if f"{SIZES[0]}_{band}" not in columns]
    if missing:
        raise InputError(f"these features have no radii ({SIZES[0]}_<band>) in {missing}; fit again")
    radius, concentration = (_by_band(columns, name, bands) for name in SIZES)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.hstack([np.log(radius), concentration])
    names = [f"{name}_{band}" for name in ("log_half_light", SIZES[1]) for band in bands]
    return Matrix(values=np.where(np.isfinite(values), values, np.nan).astype(np.float32), names=tuple(names))


def _by_band(columns: Columns, prefix: str, bands: Sequence[str]) -> np.ndarray:
    return np.stack([columns[f"{prefix}_{band}"] for band in bands], axis=1).astype(np.float64)


def _model_softening(columns: Columns, column: str, bands: Sequence[str]) -> np.ndarray:
    if all(f"{column}_err_{band}" in columns for band in bands):
        error = _by_band(columns, f"{column}_err", bands)
        if np.isfinite(error).any(axis=0).all() and (np.nanmedian(error, axis=0) > 0).all():
            return typical_error(error)
    size = typical_error(np.abs(_by_band(columns, column, bands))) / 100
    return np.where(size > 0, size, 1.0)


def _fit_quality(columns: Columns, bands: Sequence[str]) -> Columns:
    """χ² per degree of freedom, amplitudes and the latent's uncertainty, where the features have them."""
    out: Columns = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for suffix in ("", *(f"_{band}" for band in bands)):
            if f"chi2{suffix}" in columns and f"dof{suffix}" in columns:
                dof = np.where(columns[f"dof{suffix}"] > 0, columns[f"dof{suffix}"], np.nan)
                out[f"log_chi2_dof{suffix}"] = np.log(columns[f"chi2{suffix}"] / dof)
        for band in bands:
            if f"amplitude_{band}" in columns:
                out[f"amplitude_{band}"] = columns[f"amplitude_{band}"].astype(np.float64)
        if "latent_std" in columns:
            out["log_latent_std"] = np.log(columns["latent_std"].astype(np.float64)).mean(axis=1)
    out = {name: np.where(np.isfinite(values), values, np.nan) for name, values in out.items()}
    return {name: values for name, values in out.items() if np.isfinite(values).any()}


def ordinary_magnitudes(
    flux: np.ndarray, flux_err: np.ndarray, bands: Sequence[str], softening: np.ndarray | None = None
) -> tuple[Matrix, np.ndarray]:
    """Return aperture magnitudes and colours; `flux` and `flux_err` are those of `aperture_photometry`.

    Raises
    ------
    InputError
        Fewer than two bands.
    """
    if len(bands) < 2:
        raise InputError(
            f"the store has the one band {bands[0]!r}; redshifts need colours: at least two bands"
        )
    if softening is None:
        softening = typical_error(flux_err)
    values, names = magnitude_features(flux, softening, bands, aperture_names())
    return Matrix(values=values, names=tuple(names)), softening
