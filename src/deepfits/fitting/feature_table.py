"""The columns of the features (`docs/reference/files.md`), from best fits and their cutouts.

Shapes: N objects, B bands, H = W pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deepfits.fitting.extent import spread
from deepfits.fitting.fitter import Fitted, Fitter
from deepfits.fitting.measuring import discriminator_score, measure, oddities
from deepfits.fitting.model_error import FLUXES
from deepfits.fitting.own_light import OwnFluxes
from deepfits.fitting.similarity import latent_distance, shrink_latents
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.passbands import COLUMN
from deepfits.photometry import aperture_names, growth_circles, growth_radii
from deepfits.survey.store import PSF_MISMATCH, Cutouts

Columns = dict[str, np.ndarray]
MATCHED_ERROR = 0.007
"""Minimum relative error of a PSF-matched flux due to errors of the PSF, and its value where these are
unknown: fluxes of stars show 0.2 to 1% in simulations."""


def feature_table(fitter: Fitter, fitted: Fitted, cutouts: Cutouts) -> Columns:
    """Return the features of fitted cutouts: a column, ``(N,)`` or ``(N, L)``, for each name.

    The cutouts provide identities, positions on the sky, and PSFs; unknown PSFs are replaced by those of the
    store's seeing.
    """
    best, info = fitted.fit, fitter.info
    psf = psf_or_moffat(cutouts.psf, info.fwhm_arcsec, len(cutouts))
    if fitted.sight is not None:  # in bands without data whose PSF is unknown, that of the generated image
        psf = np.where(np.isfinite(psf), psf, fitted.sight.psf.cpu().numpy())
    measured = measure(fitter, fitted, galaxy_psf=psf)
    out: Columns = {"object_id": cutouts.object_id}
    out |= {name: cutouts.catalogue[name] for name in ("ra", "dec") if name in cutouts.catalogue}
    out["latent"] = best.latent.numpy()
    out["latent_std"] = measured["latent_std"]
    compared = best.latent
    if fitter.settings.uncertainty:
        posterior = best.latent.numpy(), measured["latent_covariance"]
        compared = torch.from_numpy(shrink_latents(*posterior, fitter.settings.strength))
    out["embedding"] = fitter.embedding(compared).numpy()
    out |= {"chi2": measured["chi2"].sum(1), "dof": measured["dof"].sum(1)}
    out |= _per_band(info.bands, {name: measured[name] for name in ("chi2", "dof")})
    out["loss"] = best.loss.numpy()
    out["loss_start"] = best.loss_start.numpy()
    out["status"] = best.status_names
    out["num_steps"] = best.num_steps.numpy()
    out["latent_distance"] = latent_distance(best.latent.numpy()).astype(np.float32)
    drawn = fitter.reconstruct(fitted)
    out["discriminator_score"] = discriminator_score(fitter, fitted, drawn)
    odd = oddities(fitter, fitted, drawn)
    out |= {name: odd[name] for name in ("anomaly", "artefact", "anomaly_reason")}
    out |= _fluxes(fitter, fitted, measured, psf)
    out |= _colour_errors(out, cutouts.catalogue, info.bands)
    out |= _sizes(info.bands, measured["growth"], info.size, info.pixel_scale_arcsec)
    out["spread"], out["spread_err"] = spread(
        fitted.image.numpy(),
        fitted.weight.numpy(),
        psf,
        info.pixel_scale_arcsec,
        np.array(info.noise_correlation),
    )
    if fitter.grid is not None:
        out |= _scene_columns(fitter, measured)
    filters = [f"{COLUMN}_{band}" for band in info.bands]
    out |= {name: cutouts.catalogue[name] for name in filters if name in cutouts.catalogue}
    out["model_hash"] = np.full(len(cutouts), fitter.model.fingerprint)
    return out


def _per_band(bands: Sequence[str], values: Mapping[str, np.ndarray]) -> Columns:
    """Return a column for each band of values ``(N, B)``, with the columns of a band next to each other."""
    return {
        f"{name}_{band}": value[:, index]
        for index, band in enumerate(bands)
        for name, value in values.items()
    }


def _fluxes(fitter: Fitter, fitted: Fitted, measured: Columns, psf: np.ndarray) -> Columns:
    """Return amplitudes and fluxes: of the model image, of the central galaxy, and combined with the data."""
    bands, own = fitter.info.bands, OwnFluxes.of(measured, psf, fitter.info.pixel_scale_arcsec)
    values = {
        "amplitude": fitted.fit.amplitude.numpy(),
        "amplitude_err": measured["amplitude_std"],
        "flux_cutout_model": measured["flux"][:, :, 0],
        "flux_cutout_model_err": measured["flux_std"][:, :, 0],
    }
    for number, kind in enumerate(FLUXES):
        values |= {kind: own.flux[:, :, number], f"{kind}_err": fitter.model_error.flux_error(kind, own)}
    out = {"fraction_beyond": own.beyond.astype(np.float32)} | _per_band(bands, values)
    for number, name in enumerate(aperture_names()):
        flux, error = (measured[f"aperture_flux{end}"][:, :, number] for end in ("", "_err"))
        out |= _per_band(bands, {f"flux_{name}": flux, f"flux_{name}_err": error})
    return out


def _colour_errors(
    features: Mapping[str, np.ndarray], catalogue: Mapping[str, np.ndarray], bands: Sequence[str]
) -> Columns:
    """Return the errors of ``flux_gauss_<band>`` with those due to the PSF, as measured on the survey."""
    out: Columns = {}
    for band in bands:
        flux, noise = features[f"flux_gauss_{band}"], features[f"flux_gauss_err_{band}"]
        of_psf = np.fmax(
            catalogue.get(f"{PSF_MISMATCH}_{band}", np.float32(np.nan)), np.float32(MATCHED_ERROR)
        )
        out[f"flux_gauss_err_{band}"] = np.hypot(noise, of_psf * flux)
    return out


def _sizes(
    bands: Sequence[str], growth: np.ndarray, size: int, pixel_scale_arcsec: float, prefix: str = ""
) -> Columns:
    """Return half-light radii and concentrations, 5 lg(r80 / r20), of the model galaxies in each band."""
    _, radius_arcsec = growth_circles(size, pixel_scale_arcsec)
    r20, r50, r80 = np.moveaxis(growth_radii(growth, radius_arcsec), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        concentration = 5 * np.log10(r80 / r20)
    return _per_band(bands, {f"{prefix}half_light_arcsec": r50.astype(np.float32)}) | _per_band(
        bands, {f"{prefix}concentration": concentration.astype(np.float32)}
    )


def _scene_columns(fitter: Fitter, measured: Columns) -> Columns:
    """Return fluxes and sizes of the scenes themselves, before the PSF of the survey."""
    assert fitter.grid is not None
    bands, flux, error = fitter.info.bands, measured["scene_flux"], measured["scene_flux_std"]
    fluxes: Columns = {}
    for number, name in enumerate(("flux_scene", "flux_aper_scene")):
        fluxes |= {name: flux[:, :, number], f"{name}_err": error[:, :, number]}
    grid = fitter.grid.size, fitter.grid.pixel_scale_arcsec
    return _per_band(bands, fluxes) | _sizes(bands, measured["scene_growth"], *grid, "scene_")
