"""How wrong a generator draws: the errors of fluxes, and what is usual of ordinary galaxies.

Shapes: N objects, L latent dimensions.

The Laplace approximation knows what pixel noise does to a flux. It knows nothing of a generator that cannot
draw this galaxy, of light beyond the total's aperture, and of what other objects add. So errors of fluxes are

    error² = σ² + g_b² · area · flux + (h · removed)² + (e · beyond)² + (f_b · flux)²,

with the error σ by noise, for each kind of flux and each band. Galaxies that nobody sees beside a galaxy,
up to some share of its flux, add the variance ∫ n(F) F² dF in each arcsec² of its aperture, which with counts
n ∝ F^−1.9 is in proportion to the flux, whatever the survey's noise. Of what was taken away as neighbours'
light (`deepfits.fitting.own_light`) a share h = `UNSURE` is uncertain, so that a galaxy by itself has smaller
errors than one in a crowd; of what a total has from beyond its circle e = `EXTRAPOLATED` is. f and g are
learnt in `deepfits.fitting.error_measurement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.fitting.oddity import PARTS

FLUXES = ("flux_aper_model", "flux_model")
USUAL_UNSEEN = 0.7
"""g, in nJy^½ per arcsec, where a model was measured before it was one: of the models that ship."""
UNSURE = 0.8
"""Share of the light taken for neighbours' that is uncertain: likeliest by the truth of a simulated sky."""


@dataclass(frozen=True, kw_only=True)
class ModelError:
    """What a model gets wrong.

    Attributes
    ----------
    flux_fraction, flux_unseen
        For each kind of flux, f and g (nJy^½ per arcsec) of each band.
    light_fraction
        ``B``: share of the light that is drawn wrong, on the scale of the PSF.
    usual
        For each figure of `deepfits.fitting.oddity.PARTS`, its median over ordinary galaxies, and the
        distance from there to the 84th percentile.
    latent_trend
        Usual `latent_distance` as intercept and slope in the logarithm of the flux in nJy of all bands,
        and the least and the largest logarithm it was learnt from.
    latent_nuisance
        ``(L, L)``: what noise, orientation, place and what a fit leaves open do to a latent
        (`deepfits.fitting.similarity`).
    """

    flux_fraction: dict[str, tuple[float, ...]]
    flux_unseen: dict[str, tuple[float, ...]]
    light_fraction: tuple[float, ...]
    usual: dict[str, tuple[float, float]]
    latent_trend: tuple[float, float, float, float]
    latent_nuisance: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def unknown(cls, num_bands: int) -> ModelError:
        """Return what is assumed where nobody has measured it: fluxes that know the noise alone."""
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

    def flux_error(
        self,
        kind: str,
        band: int,
        flux: np.ndarray,
        noise: np.ndarray,
        area: np.ndarray,
        unsure: np.ndarray,
    ) -> np.ndarray:
        """Return the whole error of fluxes, ``(N,)``: that by noise, of `OwnFluxes.area` and `unsure`."""
        unseen, fraction = self.flux_unseen[kind][band], self.flux_fraction[kind][band]
        return total_error(flux, noise, area, unsure, unseen, fraction)

    def unusual_latent(self, latent_distance: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """Return how much longer than usual latents are, ``(N,)``; `flux` is the sum of all bands."""
        start, slope, low, high = self.latent_trend
        return latent_distance - start - slope * np.clip(np.log(np.maximum(flux, 1.0)), low, high)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_bands: int, where: str) -> ModelError:
        """Read back `to_json`.

        Raises
        ------
        InputError
            Anything but finite numbers, as many as there are bands.
        """

        def numbers(values: Any, length: int) -> tuple[float, ...]:
            read = tuple(float(value) for value in values)
            if len(read) != length or not np.isfinite(read).all():
                raise ValueError(f"{length} finite numbers are needed, not {values!r}")
            return read

        try:
            nuisance = content["latent_nuisance"]
            usual = dict.fromkeys(FLUXES, (USUAL_UNSEEN,) * num_bands)  # of models from before
            unseen = content.get("flux_unseen", usual)
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
                f"{where}: model_error is not what a model says of its errors ({error}); train again"
            ) from error


def total_error(
    flux: np.ndarray,
    noise: np.ndarray,
    area: np.ndarray,
    unsure: np.ndarray,
    unseen: float,
    fraction: float,
) -> np.ndarray:
    """Return the whole error of fluxes, ``(N,)``."""
    return np.sqrt(noise**2 + unseen**2 * area * np.abs(flux) + unsure**2 + (fraction * flux) ** 2)
