"""Template fitting: χ² over templates and redshifts, with the prior of Benítez (2000), as surveys do it.

Shapes: N objects, T templates, Z redshifts, B bands, Q levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json
from deepfits.redshifts.pdf import LEVELS, from_grid, pit, recalibrated
from deepfits.redshifts.photometry import asinh_magnitude
from deepfits.redshifts.spectra import FILTERS, template_fluxes

REDSHIFTS = tuple(np.round(np.expm1(np.linspace(np.log1p(0.005), np.log1p(6.0), 390)), 5).tolist())
ERROR_FLOOR = 0.04
NUM_CALIBRATION = 1000
"""Labelled objects that the distributions are recalibrated on, at most."""
_BATCH = 200


@dataclass(frozen=True, kw_only=True)
class Photometry:
    """Fluxes to fit: ``(N, B)`` each, nJy, and the i magnitude that the prior asks for, ``(N,)``."""

    flux: np.ndarray
    flux_err: np.ndarray
    magnitude: np.ndarray

    @classmethod
    def of_apertures(cls, flux: np.ndarray, flux_err: np.ndarray, bands: Sequence[str]) -> Photometry:
        """Take the Gaussian apertures for colours and the widest circular one for the magnitude.

        Parameters
        ----------
        flux, flux_err
            ``(N, A, B)``, of `aperture_photometry`.
        """
        reference = next(
            (bands.index(band) for band in ("i", "r", "z", "g") if band in bands), len(bands) // 2
        )
        total = np.fmax(flux[:, -2, reference], flux[:, -1, reference])
        return cls(flux=flux[:, -1], flux_err=flux_err[:, -1], magnitude=asinh_magnitude(total, 1.0))

    def take(self, rows: np.ndarray) -> Photometry:
        """Return some rows."""
        return Photometry(flux=self.flux[rows], flux_err=self.flux_err[rows], magnitude=self.magnitude[rows])

    def __len__(self) -> int:
        return len(self.flux)


def benitez_prior(magnitude: np.ndarray, places: np.ndarray, redshifts: np.ndarray) -> np.ndarray:
    """Return p(z, T | m): ``(N, T, Z)``, shared evenly among the templates of a type.

    Source: Benítez (2000, ApJ 536, 571), eq. 22 to 24 and Table 1, used with the i magnitude; m is held to 20
    to 27. Templates up to a third of the way from E to Sbc are of the first type, those up to half-way from
    Scd to Im of the second.
    """
    magnitude = np.clip(np.where(np.isfinite(magnitude), magnitude, 24.0), 20.0, 27.0) - 20.0
    kinds = np.where(places < 0.5, 0, np.where(places < 2.5, 1, 2))
    share = np.stack([0.35 * np.exp(-0.45 * magnitude), 0.5 * np.exp(-0.147 * magnitude)])
    share = np.concatenate([share, 1 - share.sum(axis=0, keepdims=True)])  # (3, N)
    out = np.empty((len(magnitude), len(places), len(redshifts)))
    laws = ((0.431, 0.0913, 2.465), (0.390, 0.0636, 1.806), (0.0626, 0.123, 0.906))
    steps = np.gradient(redshifts)
    for kind, (start, slope, alpha) in enumerate(laws):
        typical = start + slope * magnitude[:, None]
        law = redshifts**alpha * np.exp(-((redshifts / typical) ** alpha))
        law = law / (law * steps).sum(axis=1, keepdims=True)
        of_kind = kinds == kind
        out[:, of_kind] = (share[kind][:, None] * law / max(of_kind.sum(), 1))[:, None]
    return out


def chi_square(flux: np.ndarray, weight: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return χ² at the best amplitude (not negative): ``(N, T, Z)``.

    With amplitude a: Σ w (f − a m)², least at a = Σ w f m / Σ w m².

    Parameters
    ----------
    flux, weight
        ``(N, B)``; weight 0 leaves a band out.
    model
        ``(T, Z, B)``.
    """
    cross = np.einsum("nb,tzb->ntz", weight * flux, model)
    square = np.einsum("nb,tzb->ntz", weight, model**2)
    constant = (weight * flux**2).sum(axis=1)[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(square > 0, np.maximum(cross, 0.0) ** 2 / square, 0.0)
    return constant - gain


@dataclass(frozen=True, kw_only=True)
class TemplateFit:
    """Template fitting with corrections learned from labels.

    Attributes
    ----------
    bands, filters
        B names each.
    zero_points
        ``(B,)``: what observed fluxes are multiplied with.
    validation_pit
        For recalibration; `LEVELS` itself changes nothing.
    """

    bands: tuple[str, ...]
    filters: tuple[str, ...]
    zero_points: np.ndarray
    validation_pit: np.ndarray

    def posterior(self, photometry: Photometry) -> np.ndarray:
        """Return p(z) on the grid `REDSHIFTS`, summed over templates: ``(N, Z)``, of largest value 1."""
        model, places = template_fluxes(self.filters, REDSHIFTS)
        grid = np.array(REDSHIFTS)
        out = []
        for start in range(0, len(photometry), _BATCH):
            part = photometry.take(np.arange(start, min(start + _BATCH, len(photometry))))
            flux, weight = _corrected(part, self.zero_points)
            chi2 = chi_square(flux, weight, model)
            likelihood = np.exp(-0.5 * (chi2 - chi2.min(axis=(1, 2), keepdims=True)))
            found = (likelihood * benitez_prior(part.magnitude, places, grid)).sum(axis=1)
            out.append(found / found.max(axis=1, keepdims=True))
        return np.concatenate(out)

    def raw_quantiles(self, photometry: Photometry) -> np.ndarray:
        """Return quantiles at `LEVELS`, ``(N, Q)``, as the posterior has them."""
        return from_grid(self.posterior(photometry), np.array(REDSHIFTS))

    def predict_both(self, photometry: Photometry) -> tuple[np.ndarray, np.ndarray]:
        """Return raw quantiles, whose median is the estimate, and recalibrated ones: ``(N, Q)`` each."""
        raw = self.raw_quantiles(photometry)
        return raw, recalibrated(raw, self.validation_pit)

    def save(self, directory: str | Path) -> None:
        """Write ``templates.json``."""
        content = {
            "bands": list(self.bands),
            "filters": list(self.filters),
            "zero_points": self.zero_points.tolist(),
            "validation_pit": self.validation_pit.tolist(),
        }
        write_json(Path(directory) / "templates.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> TemplateFit:
        """Read back `save`."""
        path = Path(directory) / "templates.json"
        content = read_json(path, what="description of template fitting")
        try:
            return cls(
                bands=tuple(content["bands"]),
                filters=tuple(content["filters"]),
                zero_points=np.array(content["zero_points"], dtype=np.float64),
                validation_pit=np.array(content["validation_pit"], dtype=np.float64),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a description of template fitting ({error})") from error


def _corrected(photometry: Photometry, zero_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and weights, with zero points and the error floor; bands without data have weight 0."""
    is_valid = np.isfinite(photometry.flux) & (photometry.flux_err > 0)
    flux = np.where(is_valid, photometry.flux * zero_points, 0.0)
    error = np.where(is_valid, photometry.flux_err * zero_points, np.inf)
    return flux, 1 / (error**2 + (ERROR_FLOOR * flux) ** 2)


def filters_of(bands: Sequence[str], filters: Sequence[str] | None) -> tuple[str, ...]:
    """Return the filter of each band: those given, or those of CLAUDS and HSC.

    Raises
    ------
    InputError
        A band without a filter, or another number of filters than of bands.
    """
    if filters:
        if len(filters) != len(bands):
            raise InputError(f"{len(filters)} filters for the {len(bands)} bands {tuple(bands)}")
        return tuple(filters)
    unknown = [band for band in bands if band not in FILTERS]
    if unknown:
        raise InputError(f"no filter is known for band {unknown[0]!r}; give one speclite name for each band")
    return tuple(FILTERS[band] for band in bands)


def train_templates(
    photometry: Photometry,
    value: np.ndarray,
    bands: Sequence[str],
    *,
    filters: Sequence[str] | None = None,
    num_iterations: int = 3,
) -> TemplateFit:
    """Learn zero points from objects of known redshift, as surveys do, and how to recalibrate.

    In turn: the best template of each object at its redshift, then in each band the median ratio of what the
    template says and what was observed, among objects above 10 σ there.

    Parameters
    ----------
    photometry, value
        Of the N labelled objects.
    """
    names = filters_of(bands, filters)
    model, _ = template_fluxes(names, REDSHIFTS)
    place = np.abs(np.array(REDSHIFTS)[:, None] - value[None]).argmin(axis=0)
    zero_points = np.ones(len(bands))
    for _ in range(num_iterations):
        flux, weight = _corrected(photometry, zero_points)
        zero_points = zero_points * _ratios(flux, weight, photometry, model[:, place])
        zero_points /= np.exp(np.log(zero_points).mean())
    fit = TemplateFit(bands=tuple(bands), filters=names, zero_points=zero_points, validation_pit=LEVELS)
    some = np.unique(np.linspace(0, len(value) - 1, min(len(value), NUM_CALIBRATION)).astype(int))
    transform = pit(fit.raw_quantiles(photometry.take(some)), value[some])
    return TemplateFit(bands=tuple(bands), filters=names, zero_points=zero_points, validation_pit=transform)


def _ratios(flux: np.ndarray, weight: np.ndarray, photometry: Photometry, model: np.ndarray) -> np.ndarray:
    """Return the median over objects of template over observation, ``(B,)``; `model` is ``(T, N, B)``."""
    cross = np.einsum("nb,tnb->tn", weight * flux, model)
    square = np.einsum("nb,tnb->tn", weight, model**2)
    best = np.argmax(np.maximum(cross, 0.0) ** 2 / square, axis=0)
    rows = np.arange(len(flux))
    expected = (cross[best, rows] / square[best, rows])[:, None] * model[best, rows]
    out = np.ones(flux.shape[1])
    for band in range(flux.shape[1]):
        is_good = (photometry.flux[:, band] > 10 * photometry.flux_err[:, band]) & (expected[:, band] > 0)
        if is_good.sum() >= 20:
            out[band] = np.median(expected[is_good, band] / flux[is_good, band])
    return out
