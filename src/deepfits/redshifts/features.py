"""Feature matrices, from the fits and from the cutouts.

Shapes: N objects, B bands, L latent dimensions, K features, A apertures, Q quantile levels.

``latents``
    the embedding of the noise-free best-fit image (`deepfits.fitting.forward.ForwardModel.embedding`), in
    units of the scatter that noise, orientation and position cause in it;
``oriented``
    the latents as fitted (M19 §3.3), in which orientation and what depends on it (axis ratios) have the same
    weight as everything else;
``model``
    the other results of the best fit: magnitudes and colours from fluxes that combine model and data, sizes,
    and whether the object is larger than the PSF;
``extended``
    ``latents`` and ``model``;
``magnitudes``
    ordinary aperture magnitudes and colours from the same cutouts: the baseline;
``combined``
    ``extended`` and ``magnitudes``;
``templates``
    ``magnitudes`` and the p(z) quantiles from template fitting to them: also a baseline;
``sizes``
    ``templates`` and the half-light radii and concentrations of the noise-free best-fit images, which
    aperture magnitudes do not contain;
``all``
    ``model`` and ``templates``;
``matched``
    aperture magnitudes and colours at a common PSF (`COMMON_FWHM_ARCSEC`): the baseline across surveys;
``scene``
    magnitudes, colours, sizes and concentrations of the noise-free scene at its reference PSF, for models
    that draw scenes;
``portable``
    ``scene`` and ``matched``: the features that do not depend on the survey;
``embedder``
    the embedder's latents without a fit (from a features directory of that mode).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from deepfits.errors import InputError, require_known
from deepfits.photometry import aperture_names, asinh_magnitude, bands_of
from deepfits.redshifts.learning import check_width
from deepfits.redshifts.photometry import matched_names, typical_error
from deepfits.splits import PerObject
from deepfits.tables import Columns, identities, read_table, require_column, require_unique

FEATURE_SETS = {
    "latents": ("latents",),
    "oriented": ("oriented",),
    "model": ("model",),
    "extended": ("latents", "model"),
    "magnitudes": ("magnitudes",),
    "combined": ("latents", "model", "magnitudes"),
    "templates": ("magnitudes", "templates"),
    "sizes": ("magnitudes", "templates", "sizes"),
    "all": ("model", "magnitudes", "templates"),
    "matched": ("matched",),
    "scene": ("scene",),
    "portable": ("scene", "matched"),
    "embedder": ("embedder",),
}
"""The blocks that are concatenated to each feature set; see `BLOCKS`."""
LATENTS = {"latents", "embedder"}
"""Blocks of latents that are scaled by `Source.similarity` where it is known."""


@dataclass(frozen=True, kw_only=True)
class Matrix(PerObject):
    """Features of N objects, ``(N, K)`` float32, NaN where a measurement is missing, and their K names.

    Errors are standard deviations, ``(N, K)``, 0 for features taken as exact; None if no feature has any.
    """

    values: np.ndarray
    names: tuple[str, ...]
    errors: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.values.shape[1:] == (len(self.names),)

    @property
    def is_latent(self) -> np.ndarray:
        """``(K,)`` bool: which features are latents, whose relative scales are meaningful."""
        return np.array([name.startswith(("latent_", "embedding_", "embedder_")) for name in self.names])

    def hstack(self, other: Self) -> Self:
        """Concatenate the features of two matrices of the same objects."""
        errors = None
        if self.errors is not None or other.errors is not None:
            errors = np.hstack(
                [np.zeros_like(m.values) if m.errors is None else m.errors for m in (self, other)]
            )
        values = np.hstack([self.values, other.values])
        return replace(self, values=values, names=self.names + other.names, errors=errors)


@dataclass(frozen=True, kw_only=True)
class Source(PerObject):
    """The measurements from which features are made."""

    SHARED: ClassVar[tuple[str, ...]] = ("similarity",)

    columns: Columns  # columns of the features directory, N rows
    bands: tuple[str, ...]
    flux: np.ndarray | None = None  # (N, A, B), nJy: aperture photometry, where there are cutouts
    flux_err: np.ndarray | None = None
    matched_flux: np.ndarray | None = None  # (N, A, B), nJy: at a common PSF, where PSFs allow it
    matched_flux_err: np.ndarray | None = None
    embedder: np.ndarray | None = None  # (N, L): latents of the embedder alone, where available
    # (L, L), where known: latents times this matrix are in units of the scatter that noise, orientation and
    # position cause in them (`deepfits.fitting.similarity`).
    similarity: np.ndarray | None = None
    # (N, Q): p(z) quantiles from template fitting with zero points of 1, where requested.
    template_quantiles: np.ndarray | None = None
    # Function from n identities to their images and weights, (n, B, H, W) in nJy and nJy⁻², where there are
    # cutouts; images are read on demand and not cached.
    read_images: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    latents: str = "latent"  # the column that the block `latents` uses
    has_spread: bool = True  # whether the block `model` uses the spread

    def __len__(self) -> int:
        return len(self.columns["object_id"])

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images, 0 where there are no data, and weights: ``(N, B, H, W)`` each."""
        if self.read_images is None:
            raise InputError("this method learns from the cutouts: give the store")
        image, weight = self.read_images(self.columns["object_id"])
        return np.where(weight > 0, image, 0.0).astype(np.float32), weight

    def available(self) -> tuple[str, ...]:
        """Return the names of the feature sets that can be made."""
        return available_sets(
            self.columns,
            cutouts=self.flux is not None,
            matched=self.matched_flux is not None,
            templates=self.template_quantiles is not None,
            embedder=self.embedder is not None,
        )


def available_sets(
    columns: Columns, *, cutouts: bool, matched: bool, templates: bool, embedder: bool
) -> tuple[str, ...]:
    """Return the names of the feature sets that can be made of the columns and the other inputs available."""
    model_fluxes = {f"{name}_{band}" for name in MODEL_FLUXES.values() for band in band_names(columns)}
    has = {
        "latents": True,
        "oriented": True,
        "model": bool(model_fluxes) and model_fluxes <= columns.keys(),
        "magnitudes": cutouts,
        "matched": matched,
        "scene": bool(bands_of(columns, "flux_scene")),
        "templates": templates and cutouts,
        "sizes": any(name.startswith(SIZES[0]) for name in columns),
        "embedder": embedder,
    }
    return tuple(name for name, blocks in FEATURE_SETS.items() if all(has[block] for block in blocks))


def check_available(name: str, available: Sequence[str]) -> None:
    """Raise `InputError` where a feature set is unknown or cannot be made; the message says what it needs."""
    require_known("feature set", name, FEATURE_SETS)
    if name not in available:
        needs = " and ".join(dict.fromkeys(BLOCKS[block].needs for block in FEATURE_SETS[name]))
        raise InputError(f"the feature set {name!r} needs {needs}")


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """How to make one feature set, identically for training objects and all others."""

    name: str  # one of `FEATURE_SETS`
    bands: tuple[str, ...]
    # Softening of the asinh magnitudes of each block, learned from the training objects: (A, B), nJy.
    softening: dict[str, np.ndarray] = field(default_factory=dict)
    similarity: np.ndarray | None = None  # (L, L), for sets with latents where it is known; see `Source`
    # The column that the block `latents` uses: "embedding", or "latent" where the features lack embeddings.
    latents: str = "latent"
    has_spread: bool = True  # whether any training object has a spread, which the block `model` then uses

    @classmethod
    def learn(cls, name: str, source: Source) -> Self:
        """Make the recipe of a feature set from training objects."""
        check_available(name, source.available())
        learned = {block: BLOCKS[block].softening(source) for block in FEATURE_SETS[name]}
        return cls(
            name=name,
            bands=source.bands,
            softening={block: value for block, value in learned.items() if value is not None},
            similarity=source.similarity if LATENTS & {*FEATURE_SETS[name]} else None,
            latents="embedding" if "embedding" in source.columns else "latent",
            has_spread=bool(np.isfinite(source.columns.get("spread", np.nan)).any()),
        )

    def make(self, source: Source) -> Matrix:
        """Make the features of any objects, ``(N, K)``."""
        check_available(self.name, source.available())
        if source.bands != self.bands:
            raise InputError(
                f"these objects have the bands {'-'.join(source.bands)}, the model was made for "
                f"{'-'.join(self.bands)}"
            )
        blocks = FEATURE_SETS[self.name]
        needed = [self.latents] * ("latents" in blocks) + ["spread"] * ("model" in blocks and self.has_spread)
        if missing := [name for name in needed if name not in source.columns]:
            raise InputError(
                f"these features have no column {missing[0]!r}, which the model was trained on: fit again"
            )
        source = replace(source, similarity=self.similarity, latents=self.latents, has_spread=self.has_spread)
        return reduce(Matrix.hstack, [BLOCKS[name].make(source, self.softening.get(name)) for name in blocks])


def read_features(directory: str | Path) -> Columns:
    """Read a features directory (or one Parquet file of the same columns)."""
    columns = read_table(directory, what="features")
    identity, latent = (require_column(columns, name, directory) for name in ("object_id", "latent"))
    if not len(identity):
        raise InputError(f"{directory}: these features contain no objects; run `deepfits fit` to the end")
    if latent.dtype.kind not in "fiu" or latent.ndim > 2:
        raise InputError(f"{directory}: latent must be numbers, or lists of numbers, not {latent.dtype}")
    columns["latent"] = latent.reshape(len(latent), -1)  # readers flatten lists of one number
    columns["object_id"] = identity = identities(identity, directory)  # held out whatever their type
    require_unique(identity, directory)
    bands = band_names(columns)
    if len(bands) == 1:
        raise InputError(
            f"{directory}: these features have only the single band {bands[0]!r}; redshifts need "
            "colours, so fit a store with at least two bands"
        )
    return columns


def band_names(columns: Columns) -> tuple[str, ...]:
    """Return the bands of the features, in the order of their columns."""
    return next(filter(None, (bands_of(columns, what) for what in ("flux_model", "chi2", "amplitude"))), ())


def latents(source: Source) -> Matrix:
    """Return the latents, scaled by `Source.similarity`; fitted latents have errors."""
    values = _in_units(source.columns[source.latents], source)
    errors = source.columns.get("latent_std") if source.latents == "latent" else None
    if errors is None or not np.isfinite(errors).any():
        errors = None
    elif source.similarity is not None:
        errors = np.sqrt(errors.astype(np.float32) ** 2 @ source.similarity**2)
    return replace(_numbered_features(source.latents, values), errors=errors)


def _in_units(latent: np.ndarray, source: Source) -> np.ndarray:
    values = latent.astype(np.float32)
    if source.similarity is None:
        return values
    check_width(values, len(source.similarity))
    return values @ source.similarity


def is_usable(columns: Columns) -> np.ndarray:
    """Return which objects have a finite latent: ``(N,)`` bool."""
    return np.asarray(np.isfinite(columns["latent"]).all(axis=1))


MODEL_FLUXES = {f"fit_{name}": f"flux_{name}" for name in aperture_names()}
"""Columns of the fluxes that combine model and data, for each aperture."""


def model_features(source: Source, softening: np.ndarray | None) -> Matrix:
    """Return the best fit's results other than the latent; the softening is ``(A, B)``, nJy."""
    columns, bands = source.columns, band_names(source.columns)
    out = magnitude_features(_fluxes(columns, MODEL_FLUXES, bands), softening, bands, list(MODEL_FLUXES))
    if any(name.startswith(f"{SIZES[0]}_") for name in columns):
        out = out.hstack(size_features(columns, bands))
    return out.hstack(spread_features(columns)) if source.has_spread else out


SPREAD_UNIT, SPREAD_FLOOR = 0.01, 0.002
"""Typical spread of a faint galaxy, and the error floor that PSF uncertainty sets for a bright star."""
SIZES = ("half_light_arcsec", "concentration")
"""Columns of the best-fit galaxies' sizes; the features are the logarithm of the first, and the second."""


def size_features(columns: Columns, bands: Sequence[str], prefix: str = "") -> Matrix:
    """Return half-light radii, as ln(arcsec), and concentrations of the best fits; NaN where undefined.

    `prefix` precedes the columns' names: ``scene_`` for those of the scenes at their reference PSF.
    """
    missing = [band for band in bands if f"{prefix}{SIZES[0]}_{band}" not in columns]
    if missing:
        raise InputError(f"these features have no radii ({prefix}{SIZES[0]}_<band>) in {missing}; fit again")
    radius, concentration = (_by_band(columns, f"{prefix}{name}", bands) for name in SIZES)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.hstack([np.log(radius), concentration])
    names = [f"{prefix}{name}_{band}" for name in ("log_half_light", SIZES[1]) for band in bands]
    return Matrix(values=np.where(np.isfinite(values), values, np.nan).astype(np.float32), names=tuple(names))


def spread_features(columns: Columns) -> Matrix:
    """Return the asinh of the spread (excess size over the PSF), in fixed units and in units of its error."""
    value, error = (columns[name].astype(np.float64) for name in ("spread", "spread_err"))
    sigma = np.hypot(error, SPREAD_FLOOR)
    values = np.column_stack([np.arcsinh(value / SPREAD_UNIT), np.arcsinh(value / sigma)])
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    return Matrix(values=values, names=("spread", "spread_sigma"))


def _by_band(columns: Columns, prefix: str, bands: Sequence[str]) -> np.ndarray:
    return np.stack([columns[f"{prefix}_{band}"] for band in bands], axis=1).astype(np.float64)


def _fluxes(columns: Columns, kinds: Mapping[str, str], bands: Sequence[str]) -> np.ndarray:
    """Return A kinds of flux, ``(N, A, B)``."""
    return np.stack([_by_band(columns, column, bands) for column in kinds.values()], axis=1)


def _softening(columns: Columns, kinds: Mapping[str, str], bands: Sequence[str]) -> np.ndarray:
    """Return the median error of each kind of flux, ``(A, B)``, else 1% of its median absolute value."""

    def of(column: str) -> np.ndarray:
        if all(f"{column}_err_{band}" in columns for band in bands):
            error = _by_band(columns, f"{column}_err", bands)
            if np.isfinite(error).any(axis=0).all() and (np.nanmedian(error, axis=0) > 0).all():
                return typical_error(error)
        size = typical_error(np.abs(_by_band(columns, column, bands))) / 100
        return np.where(size > 0, size, 1.0)

    return np.stack([of(column) for column in kinds.values()])


SCENE_FLUXES = {"scene_aper": "flux_aper_scene", "scene": "flux_scene"}
"""Columns of the scene's noise-free fluxes: inside a 2″ aperture at the reference PSF, and in total."""


def magnitude_features(
    flux: np.ndarray | None, softening: np.ndarray | None, bands: Sequence[str], apertures: Sequence[str]
) -> Matrix:
    """Return magnitude and colour features.

    The features are, for each aperture, B magnitudes and the B (B − 1) / 2 colours of all pairs of bands, and
    for each aperture after the first its magnitudes relative to the first; NaN where data are missing.

    `flux` is ``(N, A, B)`` in nJy; `softening` ``(A, B)`` is that of the asinh magnitudes, the training
    objects' typical error.
    """
    magnitude = asinh_magnitude(_known(flux), _known(softening))  # (N, A, B)
    bands = list(bands)
    blue, red = np.triu_indices(len(bands), 1)
    columns: list[np.ndarray] = []
    names: list[str] = []
    for number, aperture in enumerate(apertures):
        measured = magnitude[:, number]
        columns += [measured, measured[:, blue] - measured[:, red]]
        names += [f"mag_{aperture}_{band}" for band in bands]
        names += [f"colour_{aperture}_{bands[a]}_{bands[b]}" for a, b in zip(blue, red, strict=True)]
        if number:
            columns.append(measured - magnitude[:, 0])
            names += [f"growth_{aperture}_{band}" for band in bands]
    return Matrix(values=np.concatenate(columns, axis=1).astype(np.float32), names=tuple(names))


def _numbered_features(name: str, values: np.ndarray) -> Matrix:
    return Matrix(values=values, names=tuple(f"{name}_{number}" for number in range(values.shape[1])))


def _known(values: np.ndarray | None) -> np.ndarray:
    """Return measurements that `check_available` has found to be available."""
    assert values is not None
    return values


@dataclass(frozen=True)
class Block:
    """One kind of feature: what it needs, how it is made, and the softening to learn beforehand, if any."""

    needs: str
    make: Callable[[Source, np.ndarray | None], Matrix]
    softening: Callable[[Source], np.ndarray | None] = lambda source: None


BLOCKS = {
    "latents": Block("a features directory", lambda source, _: latents(source)),
    "oriented": Block(
        "a features directory", lambda source, _: latents(replace(source, similarity=None, latents="latent"))
    ),
    "model": Block(
        "features with fluxes from model and data combined (flux_gauss_<band> and the like; fit again)",
        model_features,
        lambda source: _softening(source.columns, MODEL_FLUXES, band_names(source.columns)),
    ),
    "magnitudes": Block(
        "the cutouts: give the store",
        lambda source, softening: magnitude_features(source.flux, softening, source.bands, aperture_names()),
        lambda source: typical_error(_known(source.flux_err)),
    ),
    "matched": Block(
        "the cutouts, with known PSFs no wider than 1.6 arcsec (FWHM)",
        lambda source, softening: magnitude_features(
            source.matched_flux, softening, source.bands, matched_names()
        ),
        lambda source: typical_error(_known(source.matched_flux_err)),
    ),
    "scene": Block(
        "features of a model that draws scenes (flux_scene_<band>; train with the recipe scene)",
        lambda source, softening: magnitude_features(
            _fluxes(source.columns, SCENE_FLUXES, source.bands), softening, source.bands, list(SCENE_FLUXES)
        ).hstack(size_features(source.columns, source.bands, "scene_")),
        lambda source: _softening(source.columns, SCENE_FLUXES, source.bands),
    ),
    "templates": Block(
        "template fitting: give the store, and template_features",
        lambda source, _: _numbered_features(
            "template", np.log1p(_known(source.template_quantiles)).astype(np.float32)
        ),
    ),
    "sizes": Block(
        "radii of the fits (half_light_arcsec_<band>; fit again)",
        lambda source, _: size_features(source.columns, source.bands),
    ),
    "embedder": Block(
        "the features of the embedder alone: give the directory of `deepfits fit --mode embedder`",
        lambda source, _: _numbered_features("embedder", _in_units(_known(source.embedder), source)),
    ),
}
"""The blocks that feature sets consist of; add a new kind of feature here."""
