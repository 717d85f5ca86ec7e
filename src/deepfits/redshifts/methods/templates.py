"""Template fitting: χ² over templates and redshifts, with the prior of Benítez (2000), as surveys do it.

The zero points, the error of the templates, and whether to limit the luminosity of galaxies are learned from
the labels.

Shapes: N objects, T templates, Z redshifts, B bands, V calibration objects, Q quantile levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import asinh_magnitude, reference_band
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.method import Estimates, Inputs, Method, Trained, Training
from deepfits.redshifts.pdf import AS_PREDICTED, MEDIAN, from_grid, pinball, pit, recalibrated
from deepfits.redshifts.scene_light import reference_order
from deepfits.redshifts.spectra import (
    FILTERS,
    absolute_offsets,
    filter_response,
    rest_spectra,
    template_fluxes,
)
from deepfits.splits import PerObject, evenly_spaced

REDSHIFTS = tuple(np.round(np.expm1(np.linspace(np.log1p(0.005), np.log1p(6.0), 390)), 5).tolist())
ERROR_FLOOR = 0.06  # error of the templates as a fraction of the flux, without labels
ERROR_FLOORS = (0.03, 0.05, 0.08, 0.12)
BRIGHTEST = (None, -24.0)  # candidate limits on the absolute i magnitude; −24 is LePHARE's default
NUM_ITERATIONS = 3
NUM_TUNING = 500  # maximum number of labelled objects used to choose the error floor and the limit
NUM_CALIBRATION = 1000  # maximum number of labelled objects used to recalibrate the distributions
_BATCH = 200
_TINY = 1e-200


@dataclass(frozen=True, kw_only=True)
class Photometry(PerObject):
    """Fluxes to fit and their errors, ``(N, B)``, nJy, and the magnitude for the prior, ``(N,)``.

    It is that in i or, for objects without data there, in the next reference band.
    """

    flux: np.ndarray
    flux_err: np.ndarray
    magnitude: np.ndarray

    @classmethod
    def of(cls, source: Source) -> Self:
        """Take the Gaussian apertures for the fluxes, and the widest circular one for the magnitude."""
        if source.flux is None or source.flux_err is None:
            raise InputError("template fitting needs the cutouts: give the store")
        flux, bands = source.flux, list(source.bands)
        order = np.array([bands.index(reference_band(bands)), *reference_order(bands)])
        total = np.fmax(flux[:, -2], flux[:, -1])[:, order]
        first = np.isfinite(total).argmax(axis=1)[:, None]
        magnitude = asinh_magnitude(np.take_along_axis(total, first, axis=1)[:, 0], 1.0)
        return cls(flux=flux[:, -1], flux_err=source.flux_err[:, -1], magnitude=magnitude)


def benitez_prior(magnitude: np.ndarray, places: np.ndarray, redshifts: np.ndarray) -> np.ndarray:
    """Return p(z, T | m), ``(N, T, Z)``, divided evenly among the templates of a type.

    Source: Benítez (2000, ApJ 536, 571), eq. 22 to 24 and Table 1, used with the i magnitude; m is clipped to
    20 to 27. Templates up to a third of the way from E to Sbc belong to the first type, and those up to
    halfway from Scd to Im to the second.
    """
    magnitude = np.clip(np.where(np.isfinite(magnitude), magnitude, 24.0), 20.0, 27.0) - 20.0
    types = np.where(places < 0.5, 0, np.where(places < 2.5, 1, 2))
    share = np.stack([0.35 * np.exp(-0.45 * magnitude), 0.5 * np.exp(-0.147 * magnitude)])
    share = np.concatenate([share, 1 - share.sum(axis=0, keepdims=True)])  # (3, N)
    out = np.empty((len(magnitude), len(places), len(redshifts)))
    laws = ((0.431, 0.0913, 2.465), (0.390, 0.0636, 1.806), (0.0626, 0.123, 0.906))
    steps = np.gradient(redshifts)
    for number, (start, slope, alpha) in enumerate(laws):
        typical = start + slope * magnitude[:, None]
        law = redshifts**alpha * np.exp(-((redshifts / typical) ** alpha))
        law = law / (law * steps).sum(axis=1, keepdims=True)
        is_type = types == number
        out[:, is_type] = (share[number][:, None] * law / max(is_type.sum(), 1))[:, None]
    return out


def chi_square(flux: np.ndarray, weight: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return χ² at the best non-negative amplitude, ``(N, T, Z)``.

    For amplitude a, χ² = Σ w (f − a m)² has its minimum at a = Σ w f m / Σ w m². Fluxes and weights are
    ``(N, B)``, where a weight of 0 leaves a band out; models are ``(T, Z, B)``.
    """
    cross = np.einsum("nb,tzb->ntz", weight * flux, model)
    square = np.einsum("nb,tzb->ntz", weight, model**2)
    constant = (weight * flux**2).sum(axis=1)[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(square > 0, np.maximum(cross, 0.0) ** 2 / square, 0.0)
    return constant - gain


@dataclass(frozen=True, kw_only=True)
class TemplateFit(Method):
    """Template fitting with corrections learned from labels."""

    name: ClassVar[str] = "templates"
    takes_features: ClassVar[bool] = False
    has_loss: ClassVar[bool] = False
    only_redshifts: ClassVar[bool] = True

    bands: tuple[str, ...]
    filters: tuple[str, ...]  # of each band
    zero_points: np.ndarray  # (B,): factors by which observed fluxes are multiplied
    validation_pit: np.ndarray  # (V,): PIT values for recalibration; `AS_PREDICTED` for none
    # Error, as a fraction of the flux, that is added in quadrature to the flux errors.
    error_floor: float = ERROR_FLOOR
    # Absolute i magnitude of the most luminous galaxies that are allowed; None for no limit.
    brightest: float | None = None

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require cutouts, templates, and a filter for each band."""
        super().check(feature_set, inputs)
        inputs.require_cutouts(cls.name)
        for name in filters_of(inputs.bands, inputs.options.filters):
            filter_response(name)
        rest_spectra()

    @classmethod
    def learn(
        cls, photometry: Photometry, value: np.ndarray, bands: Sequence[str], filters: Sequence[str] = ()
    ) -> Self:
        """Learn zero points, error floor, luminosity limit and recalibration from objects of known redshift.

        For each error floor, the zero point of a band is the median ratio of the best template's flux, at the
        known redshift, to the observed flux, among objects detected at more than 10 σ. The error floor and
        the limit are those with the lowest CRPS of ln(1 + z) for `NUM_TUNING` objects.
        """
        names = filters_of(bands, filters)
        rows = evenly_spaced(len(value), NUM_TUNING)
        tuning, trials = photometry.take(rows), []
        for floor in ERROR_FLOORS:
            zero_points = _zero_points(photometry, value, names, floor)
            for brightest in BRIGHTEST:
                fit = cls(
                    bands=tuple(bands),
                    filters=names,
                    zero_points=zero_points,
                    validation_pit=AS_PREDICTED,
                    error_floor=floor,
                    brightest=brightest,
                )
                trials.append((float(pinball(fit.raw_quantiles(tuning), value[rows]).mean()), fit))
        return min(trials, key=lambda trial: trial[0])[1].calibrated(photometry, value)

    def calibrated(self, photometry: Photometry, value: np.ndarray) -> Self:
        """Return a copy recalibrated on at most `NUM_CALIBRATION` objects of known redshift."""
        rows = evenly_spaced(len(value), NUM_CALIBRATION)
        return replace(self, validation_pit=pit(self.raw_quantiles(photometry.take(rows)), value[rows]))

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Learn zero points, error floor, luminosity limit and recalibration."""
        source = training.dataset.source
        photometry = Photometry.of(source).take(training.rows)
        fit = cls.learn(photometry, training.value, source.bands, training.options.filters)
        about: dict[str, Any] = {
            "zero_points": dict(zip(fit.bands, fit.zero_points.tolist(), strict=True)),
            "error_floor": fit.error_floor,
            "brightest": fit.brightest,
        }
        return Trained(method=fit, about=about)

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return the posterior median and recalibrated quantiles."""
        return self.estimates(Photometry.of(source))

    def estimates(self, photometry: Photometry) -> Estimates:
        """Return the estimates of `predict` from photometry."""
        raw = self.raw_quantiles(photometry)
        return Estimates(point=raw[:, MEDIAN], quantiles=recalibrated(raw, self.validation_pit))

    def posterior(self, photometry: Photometry) -> tuple[np.ndarray, np.ndarray]:
        """Return p(z) marginalised over templates, ``(N, Z)``, of maximum 1, and its grid, `REDSHIFTS`.

        The luminosity limit is ignored for objects that are impossible below it.
        """
        model, places = template_fluxes(self.filters, REDSHIFTS)
        reference = self.filters[self.bands.index(reference_band(self.bands))]
        grid = np.array(REDSHIFTS)
        out = []
        for start in range(0, len(photometry), _BATCH):
            part = photometry.take(np.arange(start, min(start + _BATCH, len(photometry))))
            flux, weight = _corrected(part, self.zero_points, self.error_floor)
            chi2 = chi_square(flux, weight, model)
            likelihood = np.exp(-0.5 * (chi2 - chi2.min(axis=(1, 2), keepdims=True)))
            joint = likelihood * benitez_prior(part.magnitude, places, grid)
            density = joint.sum(axis=1)
            if self.brightest is not None:
                absolute = part.magnitude[:, None, None] + absolute_offsets(reference, REDSHIFTS)
                limited = (joint * ~(absolute < self.brightest)).sum(axis=1)
                is_possible = limited.max(axis=1) > _TINY
                density[is_possible] = limited[is_possible]
            out.append(density / density.max(axis=1, keepdims=True))
        return np.concatenate(out), grid

    def raw_quantiles(self, photometry: Photometry) -> np.ndarray:
        """Return the posterior's quantiles at `LEVELS`, ``(N, Q)``, before recalibration."""
        return from_grid(*self.posterior(photometry))


def _corrected(
    photometry: Photometry, zero_points: np.ndarray, error_floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and weights, corrected for zero points and error floor; weights are 0 without data."""
    is_valid = np.isfinite(photometry.flux) & (photometry.flux_err > 0)
    flux = np.where(is_valid, photometry.flux * zero_points, 0.0)
    error = np.where(is_valid, photometry.flux_err * zero_points, np.inf)
    return flux, 1 / (error**2 + (error_floor * flux) ** 2)


def filters_of(bands: Sequence[str], filters: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the filter of each band: those given, by default those of CLAUDS and HSC."""
    if filters:
        names = [name.strip() for given in filters for name in str(given).split(",")]
        if len(names) != len(bands):
            raise InputError(f"{len(names)} filters for the {len(bands)} bands {tuple(bands)}")
        return tuple(names)
    unknown = [band for band in bands if band not in FILTERS]
    if unknown:
        raise InputError(
            f"no filter is known for band {unknown[0]!r}; give filters, one for each of {', '.join(bands)}: "
            "names of speclite, such as hsc2017-g, or files of wavelengths (Å) and transmissions"
        )
    return tuple(FILTERS[band] for band in bands)


def can_fit_templates(bands: Sequence[str], filters: Sequence[str] = ()) -> bool:
    """Return whether GalSim and speclite are installed, and all bands have a filter curve."""
    if any(find_spec(name) is None for name in ("galsim", "speclite")):
        return False
    try:
        for name in filters_of(bands, filters):
            filter_response(name)
    except InputError:  # a band without a filter, or a filter known only by its mean wavelength
        return False
    return True


def _zero_points(
    photometry: Photometry, value: np.ndarray, filters: tuple[str, ...], floor: float
) -> np.ndarray:
    model, _ = template_fluxes(filters, REDSHIFTS)
    place = np.abs(np.array(REDSHIFTS)[:, None] - value[None]).argmin(axis=0)
    out = np.ones(len(filters))
    for _ in range(NUM_ITERATIONS):
        flux, weight = _corrected(photometry, out, floor)
        out = out * _ratios(flux, weight, photometry, model[:, place])
        out /= np.exp(np.log(out).mean())
    return out


def _ratios(flux: np.ndarray, weight: np.ndarray, photometry: Photometry, model: np.ndarray) -> np.ndarray:
    """Return the median ratio of best template to observed flux, ``(B,)``; `model` is ``(T, N, B)``."""
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
