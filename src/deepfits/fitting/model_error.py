"""Errors of fluxes beyond pixel noise, and the statistics of ordinary galaxies that anomalies refer to.

Shapes: N objects, L latent dimensions.

The Laplace approximation propagates pixel noise to a flux. It does not know that the generator cannot render
a galaxy exactly, how much flux is beyond the aperture of a total, or what other objects contribute. So the
errors of fluxes are

    error² = σ² + g_b² · area · flux + (h · removed)² + (e · beyond)² + (f_b · flux)²,

with the error σ from noise, for each kind of flux and each band.

- g: undetected galaxies of up to some fraction of a galaxy's flux add the variance ∫ n(F) F² dF per arcsec²
of its aperture. With counts n ∝ F^−1.9 this is nearly proportional to the flux, whatever the survey's noise.
- h = `deepfits.fitting.own_light.UNSURE`: this fraction of the flux that was removed as that of neighbours
(`deepfits.fitting.own_light`) is uncertain, so that an isolated galaxy has smaller errors than one in a
crowded field.
- e = `EXTRAPOLATED`: the same, for the flux of a total beyond its circle, and for the background inside it.
- f: the error of the generator, as a fraction of the flux.

f and g are measured in `deepfits.fitting.error_measurement`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.fitting.oddity import PARTS
from deepfits.fitting.own_light import OwnFluxes

FLUXES = ("flux_aper_model", "flux_model")
USUAL_UNSEEN = 0.7
"""g, in nJy^½ per arcsec, of models that were saved before it was measured; from the models that ship."""


@dataclass(frozen=True, kw_only=True)
class ModelError:
    """Measured errors of a model."""

    flux_fraction: dict[str, tuple[float, ...]]  # for each kind of flux, f of each band
    flux_unseen: dict[str, tuple[float, ...]]  # the same for g, nJy^½ per arcsec
    light_fraction: tuple[float, ...]  # (B,): relative error of the rendered flux, on the scale of the PSF
    # For each statistic in `deepfits.fitting.oddity.PARTS`, its median over ordinary galaxies, and the
    # distance from there to the 84th percentile.
    usual: dict[str, tuple[float, float]]
    # Typical `latent_distance` as intercept and slope in the natural logarithm of the flux in nJy of all
    # bands, and the range of that logarithm in which it was measured.
    latent_trend: tuple[float, float, float, float]
    # (L, L): covariance of embeddings due to noise, orientation, position and the uncertainty of a fit
    # (`deepfits.fitting.similarity`).
    latent_nuisance: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def unknown(cls, num_bands: int) -> Self:
        """Return defaults for a model whose errors were not measured: those of fluxes are noise alone."""
        return cls(
            flux_fraction={kind: (0.0,) * num_bands for kind in FLUXES},
            flux_unseen={kind: (0.0,) * num_bands for kind in FLUXES},
            light_fraction=(0.05,) * num_bands,
            usual={
                "structure": (2.2, 0.8),
                "extended": (1.2, 0.7),
                "colour": (3.4, 0.8),
                "latent": (0.0, 0.3),
            },
            latent_trend=(1.0, 0.0, 0.0, 0.0),
        )

    def flux_error(self, kind: str, own: OwnFluxes) -> np.ndarray:
        """Return the total error of fluxes of a kind, ``(N, B)``."""
        number, area = FLUXES.index(kind), own.area[:, FLUXES.index(kind), None]
        flux, noise, unsure = (part[:, :, number] for part in (own.flux, own.noise, own.unsure))
        g, f = (np.array(part[kind], dtype=flux.dtype) for part in (self.flux_unseen, self.flux_fraction))
        return np.sqrt(noise**2 + g**2 * area * np.abs(flux) + unsure**2 + (f * flux) ** 2)

    def unusual_latent(self, latent_distance: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """Return latent distances minus their typical value, ``(N,)``; `flux` is summed over the bands."""
        start, slope, low, high = self.latent_trend
        return latent_distance - start - slope * np.clip(np.log(np.maximum(flux, 1.0)), low, high)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_bands: int, where: str) -> Self:
        """Read back `to_json`."""

        def numbers(values: Any, length: int) -> tuple[float, ...]:
            read = tuple(float(value) for value in values)
            if len(read) != length or not np.isfinite(read).all():
                raise ValueError(f"{length} finite numbers are needed, not {values!r}")
            return read

        try:
            nuisance = content["latent_nuisance"]
            default = dict.fromkeys(FLUXES, (USUAL_UNSEEN,) * num_bands)
            unseen = content.get("flux_unseen", default)
            return cls(
                flux_fraction={kind: numbers(content["flux_fraction"][kind], num_bands) for kind in FLUXES},
                flux_unseen={kind: numbers(unseen[kind], num_bands) for kind in FLUXES},
                light_fraction=numbers(content["light_fraction"], num_bands),
                usual={part: numbers(content["usual"][part], 2) for part in PARTS},  # type: ignore[misc]
                latent_trend=numbers(content["latent_trend"], 4),  # type: ignore[arg-type]
                latent_nuisance=tuple(numbers(row, len(nuisance)) for row in nuisance),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: model_error is not a valid description of a model's errors ({error}); train again"
            ) from error
