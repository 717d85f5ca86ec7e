"""What is measured at the best fits: χ², fluxes and their errors, and anomaly scores.

Shapes: N objects, B bands, L latent dimensions, H = W pixels, S scene pixels a side, K sums over pixels, A
apertures for colours, C circles of the curve of growth.

All sums are over pixels of the noise-free model image, m = a · G(latent) at the PSF and pixels of the survey.
Errors from noise are those of the Laplace approximation (`deepfits.fitting.posterior`), multiplied by the
ratio of the errors of sums to those of independent pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfits.fitting.engine import in_threads
from deepfits.fitting.fitter import Fitted, Fitter
from deepfits.fitting.model_error import ModelError
from deepfits.fitting.oddity import PARTS, UNUSUAL_LATENT, residual_figures, score
from deepfits.fitting.own_light import joined_with_data, own_light, soft_circles, total_radius, wings
from deepfits.fitting.posterior import Posterior, laplace
from deepfits.fitting.similarity import latent_distance
from deepfits.photometry import aperture_names, apertures, growth_circles, total_and_aperture

BATCH = 32


def measure(
    fitter: Fitter, fitted: Fitted, *, with_pixels: bool = False, galaxy_psf: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Measure χ², fluxes and errors at the best latents; NaN without a fit, and for errors not asked for.

    Returns ``chi2`` and ``dof`` ``(N, B)``; ``flux`` and ``flux_std`` ``(N, B, K)`` of the whole cutout and
    the aperture; ``growth`` ``(N, B, C)`` (the galaxy's flux in `deepfits.photometry.growth_circles`);
    ``latent_std`` ``(N, L)``; ``amplitude_std`` ``(N, B)``; for scene models ``scene_flux``,
    ``scene_flux_std`` and ``scene_growth``, the same of the scenes; and, with pixels, ``model`` and
    ``pixel_std`` ``(N, B, H, W)``.

    With PSFs of the galaxies, ``(N, B, K, 2)``, the central galaxy alone is measured too
    (`deepfits.fitting.own_light`): a third flux, that in the circle of ``total_radius`` ``(N,)``, pixels,
    without ``removed`` ``(N, B)``, the flux attributed to neighbours; ``background`` ``(N, B)``, ``beyond``
    and ``outside`` ``(N,)`` of `deepfits.fitting.own_light.wings`; ``aperture_flux`` and
    ``aperture_flux_err`` ``(N, B, A)``, model and data combined, in `deepfits.photometry.apertures`, one of
    them matched to the PSFs; and ``latent_covariance`` ``(N, L, L)``, that of the posterior.
    """
    measurement = _Measurement(fitter, fitted, with_pixels=with_pixels, galaxy_psf=galaxy_psf)
    out = {
        name: np.full((len(fitted), *shape), np.float32(np.nan)) for name, shape in measurement.shapes.items()
    }

    def work(rows: Tensor) -> None:
        for name, values in measurement.of_batch(rows).items():
            out[name][rows.numpy()] = values.cpu().numpy()

    rows = torch.isfinite(fitted.fit.latent).all(1).nonzero()[:, 0]
    batches = rows.split(BATCH) if len(rows) else ()
    in_threads(work, batches, fitter.threads)
    return out | {"dof": (fitted.weight > 0).sum((2, 3)).numpy()}


class _Measurement:
    """The measurements to make of some objects, and the pixel weights for them."""

    def __init__(
        self, fitter: Fitter, fitted: Fitted, *, with_pixels: bool, galaxy_psf: np.ndarray | None
    ) -> None:
        self.fitter, self.fitted = fitter, fitted
        self.with_pixels, self.galaxy_psf = with_pixels, galaxy_psf
        info, device = fitter.info, fitter.device
        grid = info.size, info.pixel_scale_arcsec
        self.sums = torch.from_numpy(fitter.sums).to(device)  # (2, H, W)
        self.circles = torch.from_numpy(growth_circles(*grid)[0]).to(device)  # (C, H, W)
        self.noise = torch.tensor(info.noise_correlation, device=device)  # (B,)
        self.scene_sums: Tensor | None = None
        if fitter.grid is not None:
            scene = fitter.grid.size, fitter.grid.pixel_scale_arcsec
            self.scene_sums = torch.from_numpy(total_and_aperture(*scene)).to(device)  # (2, S, S)
            self.scene_circles = torch.from_numpy(growth_circles(*scene)[0]).to(device)  # (C, S, S)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each measurement, for one object."""
        bands, side, length = len(self.fitter.info.bands), self.fitter.info.size, self.fitter.num_latents
        sums = bands, len(self.sums) + (self.galaxy_psf is not None)
        out: dict[str, tuple[int, ...]] = {
            "chi2": (bands,),
            "flux": sums,
            "flux_std": sums,
            "latent_std": (length,),
            "amplitude_std": (bands,),
            "growth": (bands, len(self.circles)),
        }
        if self.galaxy_psf is not None:
            in_apertures = bands, len(aperture_names())
            out |= {"total_radius": (), "removed": (bands,), "background": (bands,)}
            out |= {"beyond": (), "outside": (), "latent_covariance": (length, length)}
            out |= {"aperture_flux": in_apertures, "aperture_flux_err": in_apertures}
        if self.scene_sums is not None:
            sums = bands, len(self.scene_sums)
            out |= {"scene_flux": sums, "scene_flux_std": sums}
            out["scene_growth"] = bands, len(self.scene_circles)
        if self.with_pixels:
            out |= dict.fromkeys(("model", "pixel_std"), (bands, side, side))
        return out

    def of_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Measure one batch of objects."""
        fitter, fitted = self.fitter, self.fitted
        padded = torch.cat((rows, rows[-1:].expand(BATCH - len(rows))))  # all batches have one shape
        image, weight, latent, amplitude = (
            t[padded].to(fitter.device)
            for t in (fitted.image, fitted.weight, fitted.fit.latent, fitted.fit.amplitude)
        )
        observation = fitter.observation(fitted.sight, padded)
        scene = fitter.in_flux(latent) * amplitude[:, :, None, None]
        model = scene if observation is None else observation.show(scene)
        drawn = model.cpu().numpy()
        own = own_light(drawn, fitted.is_neighbour[padded].numpy())
        sums = self.sums.expand(*model.shape[:2], *self.sums.shape)  # (N, B, K, H, W)
        if self.galaxy_psf is not None:
            grid = fitter.info.size, fitter.info.pixel_scale_arcsec
            through = apertures(*grid, self.galaxy_psf[padded.numpy()])
            radius = total_radius_pixels(fitter, drawn, weight.cpu().numpy())
            circle = soft_circles(fitter.info.size, radius)[:, None]
            of_galaxy = np.stack([own * pixels for pixels in (circle, *through)], axis=2).astype(np.float32)
            sums = torch.cat((sums, torch.from_numpy(of_galaxy).to(fitter.device)), dim=2)
        if fitter.settings.uncertainty:
            posterior = laplace(
                fitter.objective,
                latent,
                image,
                weight,
                sums,
                fit_weight=None if fitted.fit_weight is None else fitted.fit_weight[padded].to(fitter.device),
                amplitude=amplitude,
                with_pixels=self.with_pixels,
                solved_after=fitter.prior_after,
                observation=observation,
                scene_sums=self.scene_sums,
            )
            model = posterior.model
            out = self._with_errors(posterior)
        else:
            out = {"flux": torch.einsum("nbhw,nbkhw->nbk", model, sums)}
        light = torch.from_numpy(own).to(fitter.device)
        out["chi2"] = ((image - model) ** 2 * weight).sum((2, 3))  # χ²_b = Σ w (I − m)²
        out["growth"] = torch.einsum("nbhw,khw->nbk", model * light, self.circles)
        if self.scene_sums is not None:
            out["scene_growth"] = torch.einsum("nbhw,khw->nbk", scene, self.scene_circles)
            out["scene_flux"] = torch.einsum("nbhw,khw->nbk", scene, self.scene_sums)
        if self.galaxy_psf is not None:
            out["total_radius"] = torch.from_numpy(radius)
            out["removed"] = ((1 - light) * torch.from_numpy(circle).to(fitter.device) * model).sum((2, 3))
            psf = self.galaxy_psf[padded.numpy()]
            parts = _wings(fitter, own * drawn, weight.cpu().numpy(), radius, psf)
            out |= {name: torch.from_numpy(values) for name, values in parts.items()}
            out |= self._in_apertures(image, weight, model, own, through, out)
        if self.with_pixels:
            out["model"] = model
        return {name: values[: len(rows)] for name, values in out.items()}

    def _with_errors(self, posterior: Posterior) -> dict[str, Tensor]:
        """Return fluxes and their errors from noise, corrected for the correlation of the pixels."""
        noise = self.noise
        errors = {
            "flux_std": (posterior.flux_std, noise[:, None]),
            "scene_flux_std": (posterior.scene_flux_std, noise[:, None]),
            "amplitude_std": (posterior.amplitude_std, noise),
            "pixel_std": (posterior.pixel_std, noise[:, None, None]),
        }
        out = {name: std * factor for name, (std, factor) in errors.items() if std is not None}
        if self.galaxy_psf is not None:
            length = self.fitter.num_latents
            out["latent_covariance"] = posterior.covariance[:, :length, :length]
        return {"flux": posterior.flux, "latent_std": posterior.latent_std} | out

    def _in_apertures(
        self,
        image: Tensor,
        weight: Tensor,
        model: Tensor,
        own: np.ndarray,
        through: Sequence[np.ndarray],
        out: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Split the aperture sums off the fluxes, and combine them with the fluxes of the data there."""
        total = len(self.sums) + 1
        noise = out.get("flux_std", torch.full_like(out["flux"], torch.nan))
        joined = [
            joined_with_data(
                image.cpu().numpy(),
                weight.cpu().numpy(),
                model.cpu().numpy(),
                own * aperture,
                aperture,
                noise=np.array(self.fitter.info.noise_correlation),
                model_noise=noise[:, :, total + number].cpu().numpy(),
                fraction=np.array(self.fitter.model_error.light_fraction),
            )
            for number, aperture in enumerate(through)
        ]
        flux, error = (np.stack(values, axis=2) for values in zip(*joined, strict=True))
        totals = {name: out[name][:, :, :total] for name in ("flux", "flux_std") if name in out}
        return totals | {
            "aperture_flux": torch.from_numpy(flux),
            "aperture_flux_err": torch.from_numpy(error),
        }


def total_radius_pixels(fitter: Fitter, model: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the radius of the circle for the total flux of each galaxy, ``(N,)``, within the model image."""
    scale = fitter.info.pixel_scale_arcsec
    return np.minimum(total_radius(model, weight, scale, fitter.edge_pixels) / scale, fitter.edge_pixels)


def _wings(
    fitter: Fitter, light: np.ndarray, weight: np.ndarray, radius: np.ndarray, psf: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the corrections of total fluxes to the flux in their circles."""
    noise, scale = np.array(fitter.info.noise_correlation), fitter.info.pixel_scale_arcsec
    parts = wings(light, weight, radius, fitter.edge_pixels, psf=psf, noise=noise, pixel_scale_arcsec=scale)
    return {name: values.astype(np.float32) for name, values in parts.items()}


def measured_alone(
    fitter: Fitter, light: np.ndarray, weight: np.ndarray, psf: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure the fluxes of noise-free images of single galaxies, ``(N, B, H, W)``, for `OwnFluxes.of`.

    The weights are those of the data that they were added to, and their circles are chosen accordingly.
    """
    radius = total_radius_pixels(fitter, light, weight)
    over = 1.0, fitter.sums[1], soft_circles(fitter.info.size, radius)[:, None]
    flux = np.stack([(light * pixels).sum((2, 3)) for pixels in over], axis=2)
    nothing = {"flux_std": np.zeros_like(flux), "removed": np.zeros_like(flux[:, :, 0])}
    return {"flux": flux, "total_radius": radius} | nothing | _wings(fitter, light, weight, radius, psf)


def oddities(
    fitter: Fitter, fitted: Fitted, drawn: np.ndarray, model_error: ModelError | None = None
) -> dict[str, np.ndarray]:
    """Return anomaly scores of the central galaxies and artefact scores of the images.

    `drawn` are the model images from `Fitter.reconstruct`; the errors of the generator are by default those
    stored with the model. The columns ``(N,)`` are ``anomaly``, ``artefact``, ``anomaly_reason`` and the
    statistics that make up the anomaly (`deepfits.fitting.oddity`); NaN and an empty reason without a fit.
    """
    info, known = fitter.info, model_error or fitter.model_error
    names = ("anomaly", "artefact", *PARTS)
    out: dict[str, Any] = {name: np.full(len(drawn), np.float32(np.nan)) for name in names}
    reasons = np.full(len(drawn), "", dtype=object)
    rows, size = np.flatnonzero(np.isfinite(drawn).all((1, 2, 3))), fitter.batch_size
    for part in np.split(rows, range(size, len(rows), size)) if len(rows) else ():
        image, weight, model = fitted.image[part].numpy(), fitted.weight[part].numpy(), drawn[part]
        figures = residual_figures(
            image,
            weight,
            model,
            radius_pixels=total_radius_pixels(fitter, model, weight),
            fraction=np.array(known.light_fraction),
            noise=np.array(info.noise_correlation),
            bands=info.bands,
            pixel_scale_arcsec=info.pixel_scale_arcsec,
        )
        distance = latent_distance(fitted.fit.latent[part].numpy())
        figures["latent"] = known.unusual_latent(distance, model.sum((1, 2, 3)))
        figures["latent_words"] = np.full(len(part), UNUSUAL_LATENT)
        out["anomaly"][part], leading = score(figures, known.usual)
        for name in (*PARTS, "artefact"):
            out[name][part] = figures[name]
        words = np.array([figures[f"{figure}_words"][row] for row, figure in enumerate(leading)])
        is_image = (figures["artefact"] > 0) & (figures["artefact"] >= figures["colour"])
        reasons[part] = np.where(is_image, figures["artefact_words"], words)
    return out | {"anomaly_reason": reasons.astype(str)}


def discriminator_score(fitter: Fitter, fitted: Fitted, drawn: np.ndarray) -> np.ndarray:
    """Return the discriminator's score of the observed images, ``(N,)``: the higher, the more typical.

    Pixels without data and those of neighbours are filled in with the model image, so that they do not affect
    the score.
    """
    model, network = fitter.model, fitter.model.discriminator
    filled = torch.where(fitted.weight > 0, fitted.image, torch.nan_to_num(torch.from_numpy(drawn)))

    def judge(rows: Tensor) -> Tensor:
        image = filled[rows].to(fitter.device)
        if fitted.sight is None:
            return network(model.normalisation.normalise(image)).view(-1)
        weight, sight = fitted.weight[rows].to(fitter.device), fitted.sight.take(rows).to(fitter.device)
        return network(model.network_input(image, weight, sight)).view(-1)

    return fitter.in_batches(judge, len(fitted)).numpy()
