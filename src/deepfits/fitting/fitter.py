"""From cutouts and a model to the columns of the features: what the stages `fit` and `inpaint` share.

Shapes: N objects, S starts, L latent dimensions, B bands, H = W pixels.

A model is known here only by what is asked of it (`TrainedModel`), so that this part does not import the
networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from deepfits.errors import InputError
from deepfits.fitting.bestfit import fit
from deepfits.fitting.engine import Advance, Fit, Status, in_threads
from deepfits.fitting.extent import spread
from deepfits.fitting.folded import FoldedGenerator, can_fold
from deepfits.fitting.metric import Metric, TaughtMetric, learn_metric
from deepfits.fitting.model_error import FLUXES, ModelError
from deepfits.fitting.objective import AmplitudePrior, Objective, centre_weight
from deepfits.fitting.oddity import PARTS, residual_figures, score
from deepfits.fitting.own_light import enclosed, joined_with_data, own_light, soft_circles, total_radius
from deepfits.fitting.posterior import Posterior, laplace
from deepfits.fitting.refinement import Refine, Refinement
from deepfits.fitting.rendering import Differentiated, InFlux, Observed, Renderer
from deepfits.fitting.scores import latent_distance
from deepfits.fitting.settings import FitSettings
from deepfits.fitting.starts import random_starts
from deepfits.observation import Observation, SceneGrid, Sight, fwhm_of, psf_or_moffat
from deepfits.photometry import (
    aperture_names,
    apertures,
    growth_circles,
    growth_radii,
    total_and_aperture,
)
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from deepfits.symmetries import NUM_SYMMETRIES, symmetry

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
POSTERIOR_BATCH = 8
OWN_SHARE = 0.05
"""Of the fitted latent in the embedding of scenes, whose embedder leaves some directions out."""
USUAL_SOFTENING = 3.0
"""Softening of the stretch in units of the noise, unless a recipe says otherwise."""


class TrainedModel(Protocol):
    """What is asked of a model (`deepfits.models.bundle.Model` has it)."""

    @property
    def generator(self) -> torch.nn.Module:
        """From latents to images in the network's units."""

    @property
    def normalisation(self) -> Normalisation:
        """Between nJy and the network's units."""

    @property
    def fingerprint(self) -> str:
        """What changes with the model."""

    @property
    def grid(self) -> SceneGrid | None:
        """What scenes are drawn on; None for a model that draws images."""

    def sight(self, cutouts: Any, info: Any) -> Sight | None:
        """Describe how cutouts of a store were observed; None for a model that need not know."""

    def embed(self, image: Any, weight: Any, sight: Sight | None = None) -> Tensor:
        """Guess latents from images and weights in nJy."""


@dataclass
class Fitted:
    """Some objects after the fit, with the data it saw.

    Attributes
    ----------
    fit
        The outcome; `Fit.loss` is in the units of the objective that was minimised.
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻², cleaned.
    fit_weight
        What the fit took as weights, in nJy⁻²; None where it took `weight`.
    is_neighbour
        ``(N, H, W)`` bool: pixels of other objects, which the fit did not see.
    sight
        For models of scenes: how they were observed.
    """

    fit: Fit
    image: Tensor
    weight: Tensor
    fit_weight: Tensor | None
    is_neighbour: Tensor
    sight: Sight | None = None

    def take(self, rows: Tensor, sight: Sight | None = None) -> Fitted:
        """Return some rows, seen as `sight` says where it is given."""
        return Fitted(
            fit=self.fit.select(rows),
            image=self.image[rows],
            weight=self.weight[rows],
            fit_weight=None if self.fit_weight is None else self.fit_weight[rows],
            is_neighbour=self.is_neighbour[rows],
            sight=sight if sight is not None or self.sight is None else self.sight[rows],
        )


@dataclass(frozen=True, kw_only=True)
class OwnFluxes:
    """Fluxes of the galaxies in the middle, of each kind in `deepfits.fitting.model_error.FLUXES`.

    Attributes
    ----------
    flux, noise
        ``(N, B, 2)``, nJy: values, and their errors by noise alone.
    removed
        ``(N, B)``: drawn light inside the total's circle that was taken for neighbours'.
    """

    flux: np.ndarray
    noise: np.ndarray
    removed: np.ndarray


class Fitter:
    """Fits cutouts with one model and one choice of settings.

    Parameters
    ----------
    model
        The trained model, on the device where the fit is to run.
    settings
        How to fit.
    info
        Of the store: its noise correlation scales the errors.
    threads
        Cores to use; PyTorch's own choice by default.
    """

    def __init__(
        self,
        model: TrainedModel,
        settings: FitSettings,
        info: StoreInfo,
        *,
        threads: int | None = None,
        amplitude_prior: AmplitudePrior | None = None,
    ) -> None:
        settings = settings.resolved(getattr(model, "aids", None) is not None)
        self.model, self.settings, self.info = model, settings, info
        self.threads = threads or torch.get_num_threads()
        self.device = next(model.generator.parameters()).device
        generator = model.generator
        self.inner: Renderer = (
            FoldedGenerator(generator) if can_fold(generator) else Differentiated(generator)
        )
        self.in_flux = InFlux(self.inner, model.normalisation)
        self.fast = self._make_fast()
        self.num_latents = self._count_latents()
        amplitude_prior = amplitude_prior or AmplitudePrior()
        self.prior = amplitude_prior if settings.amplitudes == "fit" else None
        self.prior_after = amplitude_prior if settings.amplitudes == "after" else None
        self.objective = Objective(self.in_flux, prior_strength=settings.strength, amplitude_prior=self.prior)
        self.grid: SceneGrid | None = getattr(model, "grid", None)
        self.scene_sums: Tensor | None = None
        if self.grid is not None:
            if settings.objective != "flux":
                raise InputError(
                    f"fit: objective={settings.objective!r} compares images in a network's units, and "
                    "this model draws scenes at another PSF; use objective='flux'"
                )
            grid = self.grid.size, self.grid.pixel_scale_arcsec
            self.scene_circles, self.scene_radius_arcsec = growth_circles(*grid)
            self.scene_sums = torch.from_numpy(total_and_aperture(*grid))
        self.sums = torch.from_numpy(total_and_aperture(info.size, info.pixel_scale_arcsec))
        self.apertures = apertures(info.size, info.pixel_scale_arcsec, info.fwhm_arcsec).astype(np.float32)
        self.circles, self.radius_arcsec = growth_circles(info.size, info.pixel_scale_arcsec)
        content = getattr(model, "model_error", None)
        bands = len(info.bands)
        self.model_error = (
            ModelError.unknown(bands)
            if content is None
            else ModelError.from_json(content, bands, f"model {model.fingerprint}")
        )
        self.refinement = self._make_refinement()
        self.metric = (
            self._make_metric() if settings.solver == "lbfgs" and settings.mode != "embedder" else None
        )

    def sight(self, cutouts: Any) -> Sight | None:
        """Describe how cutouts of this store were observed; None for a model that need not know."""
        if self.grid is None:
            return None
        found: Sight | None = self.model.sight(cutouts, self.info)
        return found

    def nominal_sight(self, number: int) -> Sight | None:
        """Return how drawn objects are taken to be observed, for trials without data."""
        if self.grid is None:
            return None
        info = self.info
        nominal = Sight.nominal(self.grid, len(info.bands), info.size, info.pixel_scale_arcsec)
        return nominal[torch.zeros(number, dtype=torch.int64)]

    def _count_latents(self) -> int:
        if isinstance(self.inner, FoldedGenerator):
            return self.inner.num_latents
        config = getattr(self.model, "config", None)
        return int(config.latent_size) if config is not None else 64

    def _make_fast(self) -> Renderer:
        """Return what the fit evaluates: the generator in the precision that was asked for."""
        name = self.settings.precision
        if name == "float32":
            return self.inner
        if self.device.type == "cpu":
            raise InputError(
                f"fit: precision={name!r} is for GPUs; processors are slower in it than in float32: leave "
                "precision at 'float32', or choose device='cuda'"
            )
        if not isinstance(self.inner, FoldedGenerator):
            raise InputError(
                f"fit: precision={name!r} needs a generator of the paper's structure; leave it at 'float32'"
            )
        return FoldedGenerator(self.model.generator, inner_dtype=PRECISIONS[name])

    @property
    def _centre_fwhm_pixels(self) -> float | None:
        fwhm = self.settings.centre_fwhm_arcsec
        return None if fwhm is None else fwhm / self.info.pixel_scale_arcsec

    def _make_refinement(self) -> Refinement | None:
        if not self.settings.passes:
            return None
        network: Refine = self.model.aids.refiner  # type: ignore[attr-defined]
        if self.settings.objective == "flux":
            return Refinement(network, self.objective, self.model.normalisation)
        return Refinement(network, Objective(self.inner, prior_strength=self.settings.strength), None)

    def _make_metric(self) -> Metric | TaughtMetric:
        in_flux = self.settings.objective == "flux"
        aids = getattr(self.model, "aids", None)
        if aids is not None and self.prior is None and self._centre_fwhm_pixels is None:
            logarithm: Callable[[Tensor], Tensor] = partial(aids.metric, in_flux=in_flux)
            return TaughtMetric(logarithm)
        weight = torch.ones(len(self.info.bands), 1, 1)
        renderer: Renderer = self.inner
        if self.grid is not None:
            nominal = self.nominal_sight(1)
            assert nominal is not None
            renderer = Observed(self.in_flux, nominal.observation().to(self.device))
            weight = torch.tensor(self.model.normalisation.softening)[:, None, None] ** -2
        elif in_flux:  # the softening follows the noise of each band
            renderer = self.in_flux
            weight = torch.tensor(self.model.normalisation.softening)[:, None, None] ** -2
        if self._centre_fwhm_pixels is not None:
            weight = weight * centre_weight(self.info.size, self._centre_fwhm_pixels)
        return learn_metric(
            renderer,
            self.num_latents,
            weight=weight,
            device=self.device,
            profiled=self.prior is not None,
        )

    def starts(
        self, object_id: np.ndarray, image: Tensor, weight: Tensor, sight: Sight | None = None
    ) -> Tensor:
        """Return where the fits start, ``(S, N, L)``, from images in nJy and weights in nJy⁻²."""
        starts = self._guesses(object_id, image, weight, sight)
        if self.refinement is None:
            return starts
        data, data_weight, _ = self._in_units_of_fit(image, weight)
        if self._centre_fwhm_pixels is not None:
            data_weight = data_weight * centre_weight(self.info.size, self._centre_fwhm_pixels)
        return torch.stack([self._refine(start, data, data_weight, sight) for start in starts])

    def _refine(self, start: Tensor, data: Tensor, weight: Tensor, sight: Sight | None) -> Tensor:
        """Improve starts in batches of one size, padded, so that each depends on its object alone."""
        refinement, passes, size = self.refinement, self.settings.passes, self.settings.batch_size
        assert refinement is not None
        assert passes is not None
        out = torch.empty_like(start)

        def work(first: int) -> None:
            rows = torch.arange(first, first + size).clamp_max(len(start) - 1)
            seen = None if sight is None else sight[rows].to(self.device)
            latent, image, used = (t[rows].to(self.device) for t in (start, data, weight))
            observation = None if seen is None else seen.observation()
            found = refinement(latent, image, used, passes, seen, observation)
            out[first : first + size] = found[: len(start) - first].cpu()

        threads = self.threads if self.device.type == "cpu" else 1
        in_threads(work, range(0, len(start), size), threads)
        return out

    def _guesses(
        self, object_id: np.ndarray, image: Tensor, weight: Tensor, sight: Sight | None = None
    ) -> Tensor:
        settings = self.settings
        if settings.mode == "optimise":
            draws = random_starts(
                object_id, self.num_latents, seed=settings.seed, num_starts=settings.num_starts
            )
            return torch.from_numpy(draws)
        guess = self.embed(image, weight, sight)[None]
        if settings.mode == "embedder" or settings.num_starts == 1:
            return guess
        draws = random_starts(
            object_id, self.num_latents, seed=settings.seed, num_starts=settings.num_starts - 1
        )
        return torch.cat((guess, torch.from_numpy(draws)))

    def draw(self, latent: Tensor, sight: Sight | None = None) -> Tensor:
        """Draw images in nJy from latents ``(N, L)``, amplitudes of 1: ``(N, B, H, W)``, on the CPU."""

        def draw(rows: Tensor) -> Tensor:
            drawn = self.in_flux(latent[rows].to(self.device))
            observation = self._observation(sight, rows)
            return drawn if observation is None else observation.show(drawn)

        if not len(latent):
            return torch.empty(0, len(self.info.bands), self.info.size, self.info.size)
        return self._in_batches(draw, len(latent))

    def embed(self, image: Tensor, weight: Tensor, sight: Sight | None = None) -> Tensor:
        """Return the embedder's latents, ``(N, L)``."""
        if not len(image):
            return torch.empty(0, self.num_latents)

        def guess(rows: Tensor) -> Tensor:
            if sight is None:
                return self.model.embed(image[rows], weight[rows])
            return self.model.embed(image[rows], weight[rows], sight[rows])

        return self._in_batches(guess, len(image))

    def embedding(self, latent: Tensor) -> Tensor:
        """Return what the embedder says of drawings of latents ``(N, L)``: ``(N, L)``, on the CPU.

        Many latents draw nearly the same galaxy, and which of them a fit ends at says little of it. What is
        drawn says all, and the embedder's answer to it, without noise, always through the same PSF and
        pixels, the mean over the eight orientations of the square, is nearly the same for all of them. For
        models of scenes `OWN_SHARE` of the latent itself is added.
        """
        if not len(latent):
            return torch.empty(0, self.num_latents)
        finite = torch.nan_to_num(latent)
        noise = torch.tensor(self.model.normalisation.softening) / USUAL_SOFTENING
        weight = (noise**-2)[:, None, None].to(self.device)
        sight, way = None, None
        if self.grid is not None:
            sight = Sight.nominal(
                self.grid, len(self.info.bands), self.grid.size, self.grid.pixel_scale_arcsec
            )
            sight = sight.to(self.device)
            way = sight.observation()

        def embed(rows: Tensor) -> Tensor:
            drawn = self.in_flux(finite[rows].to(self.device))
            drawn = drawn if way is None else way(drawn)
            seen = weight.expand_as(drawn)
            of = None if sight is None else sight[torch.zeros(len(rows), dtype=torch.int64)]
            answers = [self.model.embed(symmetry(drawn, n), seen, of) for n in range(NUM_SYMMETRIES)]
            return torch.stack(answers).mean(0)

        found = self._in_batches(embed, len(latent))
        if self.grid is not None:
            found = found + OWN_SHARE * finite
        return torch.where(torch.isfinite(latent).all(1, keepdim=True), found, torch.nan)

    def _in_batches(self, work: Callable[[Tensor], Tensor], number: int) -> Tensor:
        """Do `work` on rows in padded batches, on one core each: a row alone decides its result."""
        size = self.settings.batch_size

        def batch(first: int) -> Tensor:
            with torch.no_grad():
                done = work(torch.arange(first, first + size).clamp_max(number - 1))
            return done[: min(size, number - first)].float().cpu()

        threads = self.threads if self.device.type == "cpu" else 1
        return torch.cat(in_threads(batch, range(0, number, size), threads))

    def fit(
        self,
        object_id: np.ndarray,
        image: np.ndarray | Tensor,
        weight: np.ndarray | Tensor,
        advance: Advance | None = None,
        *,
        is_neighbour: np.ndarray | None = None,
        sight: Sight | None = None,
        start: np.ndarray | None = None,
    ) -> Fitted:
        """Fit images in nJy with weights in nJy⁻², ``(N, B, H, W)``.

        Parameters
        ----------
        is_neighbour
            ``(N, H, W)`` bool: pixels of other objects, for the setting ``neighbours="mask"``; None: none.
        sight
            For a model of scenes: how the images were observed (`Fitter.sight`).
        start
            ``(N, L)``: begin with these latents in place of the mode's first start; NaN where none is known.
        """
        settings = self.settings
        weight = torch.as_tensor(weight, dtype=torch.float32)
        others = torch.zeros(len(image), *image.shape[2:], dtype=torch.bool)
        if settings.neighbours == "mask" and is_neighbour is not None:
            others = torch.as_tensor(is_neighbour)
            weight = torch.where(others[:, None], 0, weight)
        if sight is not None:
            weight = torch.where(sight.is_inside.to(weight.device), weight, 0)
        image = torch.where(weight > 0, torch.as_tensor(image, dtype=torch.float32), 0)
        if (sight is None) != (self.grid is None):
            raise ValueError("a model of scenes needs to know how images were observed, and no other does")
        begin = self.starts(object_id, image, weight, sight)
        if start is not None:
            known = torch.as_tensor(start, dtype=torch.float32)
            begin[0] = torch.where(torch.isfinite(known).all(1, keepdim=True), known, begin[0])
        data, data_weight, equivalent = self._in_units_of_fit(image, weight)
        if settings.mode == "embedder":
            result = self._take(begin[0], image, weight, sight)
            if advance is not None:
                advance(len(image))
        else:
            result = self._minimise(self.fast, data, data_weight, begin, advance, sight)
            if self.fast is not self.inner:  # to the end in float32, from where halves have come to
                rounded, reached = result, torch.where(torch.isfinite(result.latent), result.latent, begin[0])
                result = self._minimise(self.inner, data, data_weight, reached[None], None, sight)
                result.num_steps += rounded.num_steps
                result.loss_start = rounded.loss_start
        if self.prior_after is not None:
            result.amplitude = self._amplitudes_after(result.latent, image, weight, sight)
        return Fitted(result, image, weight, equivalent, others, sight)

    def _amplitudes_after(self, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None) -> Tensor:
        """Solve for the amplitudes at the best latents once, ``(N, B)``; NaN without a fit."""
        solver = Objective(self.in_flux, amplitude_prior=self.prior_after)
        out = torch.full((len(latent), image.shape[1]), torch.nan)
        size = self.settings.batch_size
        rows = torch.isfinite(latent).all(1).nonzero()[:, 0]
        for part in rows.split(size) if len(rows) else ():
            padded = torch.cat((part, part[-1:].expand(size - len(part))))  # shapes never change
            data = (t[padded].to(self.device) for t in (latent, image, weight))
            drawn, seen, used = self.in_flux(next(data)), *data
            if (observation := self._observation(sight, padded)) is not None:
                drawn = observation.show(drawn)
            out[part] = solver.amplitudes(drawn, seen, used)[: len(part)].cpu()
        return out

    def _minimise(
        self,
        inner: Renderer,
        data: Tensor,
        weight: Tensor,
        start: Tensor,
        advance: Advance | None,
        sight: Sight | None,
    ) -> Fit:
        settings = self.settings
        return fit(
            InFlux(inner, self.model.normalisation) if settings.objective == "flux" else inner,
            data,
            weight,
            start,
            sight=sight,
            solver=settings.solver,
            num_steps=settings.num_steps,
            tolerance=settings.tolerance,
            prior_strength=settings.strength,
            amplitudes=self.prior or False,
            centre_fwhm_pixels=self._centre_fwhm_pixels,
            metric=self.metric,
            batch_size=settings.batch_size,
            threads=self.threads,
            device=self.device,
            advance=advance,
        )

    def _in_units_of_fit(self, image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return data and weights as the objective has them, and those weights in nJy⁻² (None: the same)."""
        objective, units = self.settings.objective, self.model.normalisation
        centre = torch.ones(())
        if self._centre_fwhm_pixels is not None:
            centre = centre_weight(image.shape[3], self._centre_fwhm_pixels)
        if objective == "flux":
            return image, weight, None if centre.ndim == 0 else weight * centre
        slope = units.slope(image)
        if objective == "stretched":
            return units.normalise(image), weight / slope**2, None if centre.ndim == 0 else weight * centre
        is_valid = (weight > 0).to(weight.dtype)
        return units.normalise(image), is_valid, is_valid * slope**2 * centre

    def _take(self, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None) -> Fit:
        """Return the embedder's guess as if it were a fit."""
        out = Fit.empty(len(latent), self.num_latents, image.shape[1])
        enough = (weight > 0).sum((1, 2, 3)) >= self.num_latents
        out.latent[enough] = latent[enough]
        out.status[enough] = int(Status.NOT_FITTED)
        centre = self._in_units_of_fit(image, weight)[2] if self._centre_fwhm_pixels is not None else None
        indices = enough.nonzero()[:, 0]
        for rows in indices.split(self.settings.batch_size) if len(indices) else ():
            used = (weight if centre is None else centre)[rows].to(self.device)
            loss, amplitude = self.objective.value(
                latent[rows].to(self.device),
                image[rows].to(self.device),
                used,
                self._observation(sight, rows),
            )
            out.loss[rows] = out.loss_start[rows] = loss.cpu()
            out.amplitude[rows] = amplitude.cpu()
        return out

    def _observation(self, sight: Sight | None, rows: Tensor) -> Observation | None:
        return None if sight is None else sight[rows].to(self.device).observation()

    def features(
        self,
        object_id: np.ndarray,
        fitted: Fitted,
        catalogue: dict[str, np.ndarray],
        psf: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the columns of the features, as `docs/reference/files.md` has them.

        Parameters
        ----------
        psf
            ``(N, B, K, 2)``, of the objects where it is known; else that of the store's seeing.
        """
        found, bands = fitted.fit, self.info.bands
        measured = self.measure(fitted, sums=self.sums, with_pixels=False, with_galaxy=True)
        psf = psf_or_moffat(psf, self.info.fwhm_arcsec, len(object_id))
        light = self.own_fluxes(measured, psf)
        out: dict[str, np.ndarray] = {"object_id": object_id}
        out |= {name: catalogue[name] for name in ("ra", "dec") if name in catalogue}
        out["latent"] = found.latent.numpy()
        out["latent_std"] = measured["latent_std"]
        out["embedding"] = self.embedding(found.latent).numpy()
        out |= {"chi2": measured["chi2"].sum(1), "dof": measured["dof"].sum(1)}
        for index, band in enumerate(bands):
            out[f"chi2_{band}"] = measured["chi2"][:, index]
            out[f"dof_{band}"] = measured["dof"][:, index]
        out["loss"] = found.loss.numpy()
        out["loss_start"] = found.loss_start.numpy()
        out["status"] = status_names(found)
        out["num_steps"] = found.num_steps.numpy()
        out["latent_distance"] = latent_distance(found.latent.numpy()).astype(np.float32)
        drawn = self.reconstruct(fitted)
        out["discriminator_score"] = self._discriminate(fitted, drawn)
        odd = self.oddities(fitted, drawn)
        out |= {name: odd[name] for name in ("anomaly", "artefact", "anomaly_reason")}
        for index, band in enumerate(bands):
            out[f"amplitude_{band}"] = found.amplitude[:, index].numpy()
            out[f"amplitude_err_{band}"] = measured["amplitude_std"][:, index]
            out[f"flux_cutout_model_{band}"] = measured["flux"][:, index, 0]
            out[f"flux_cutout_model_err_{band}"] = measured["flux_std"][:, index, 0]
            for number, name in enumerate(FLUXES):
                flux, noise = (values[:, index, number] for values in (light.flux, light.noise))
                out[f"{name}_{band}"] = flux
                out[f"{name}_err_{band}"] = self.model_error.flux_error(
                    name, index, flux, noise, light.removed[:, index]
                )
        for name, (flux, error) in self._fluxes_with_data(fitted, drawn, measured).items():
            for index, band in enumerate(bands):
                out[f"flux_{name}_{band}"] = flux[:, index]
                out[f"flux_{name}_err_{band}"] = error[:, index]
        out |= self._sizes(measured["growth"], self.radius_arcsec)
        out["spread"], out["spread_err"] = spread(
            fitted.image.numpy(),
            (fitted.weight * ~fitted.is_neighbour[:, None]).numpy(),
            psf,
            self.info.pixel_scale_arcsec,
            np.array(self.info.noise_correlation),
        )
        if self.scene_sums is not None:
            for index, band in enumerate(bands):
                for number, name in enumerate(("flux_scene", "flux_aper_scene")):
                    out[f"{name}_{band}"] = measured["scene_flux"][:, index, number]
                    out[f"{name}_err_{band}"] = measured["scene_flux_std"][:, index, number]
            out |= self._sizes(measured["scene_growth"], self.scene_radius_arcsec, "scene_")
        out["model_hash"] = np.full(len(object_id), self.model.fingerprint)
        return out

    def own_fluxes(self, measured: dict[str, np.ndarray], psf: np.ndarray) -> OwnFluxes:
        """Return the fluxes of the galaxies in the middle, as `measure` has found them ``with_galaxy``.

        Parameters
        ----------
        psf
            ``(N, B, K, 2)``: what it puts beyond the circle of the total is made up for.
        """
        inside = enclosed(fwhm_of(psf), measured["total_radius"] * self.info.pixel_scale_arcsec)
        share = np.stack([np.ones_like(inside), inside], axis=2).astype(np.float32)
        flux, noise = (measured[name][:, :, 1:3] / share for name in ("flux", "flux_std"))
        return OwnFluxes(flux=flux, noise=noise, removed=measured["removed"])

    def _fluxes_with_data(
        self, fitted: Fitted, drawn: np.ndarray, measured: dict[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the galaxies' fluxes in each of `apertures` by drawing and data, and errors, ``(N, B)``."""
        others = fitted.is_neighbour.numpy()
        weight = np.where(others[:, None], 0, fitted.weight.numpy())
        own = own_light(np.nan_to_num(drawn), others)
        return {
            name: joined_with_data(
                fitted.image.numpy(),
                weight,
                drawn,
                own * aperture,
                aperture,
                noise=np.array(self.info.noise_correlation),
                model_noise=measured["flux_std"][:, :, len(self.sums) + 1 + number],
                fraction=np.array(self.model_error.light_fraction),
            )
            for number, (name, aperture) in enumerate(zip(aperture_names(), self.apertures, strict=True))
        }

    def oddities(self, fitted: Fitted, drawn: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return what is odd about the middle galaxies and the images (`deepfits.fitting.oddity`).

        Parameters
        ----------
        drawn
            Of `reconstruct`, where it is at hand.

        Returns
        -------
        dict
            ``anomaly``, ``artefact`` and ``anomaly_reason``, ``(N,)``, and the figures that make the anomaly.
            NaN and an empty reason without a fit.
        """
        drawn = self.reconstruct(fitted) if drawn is None else drawn
        number = len(drawn)
        is_fitted = np.isfinite(drawn).all((1, 2, 3))
        names = ("anomaly", "artefact", *PARTS)
        out = {name: np.full(number, np.float32(np.nan)) for name in names}
        reasons = np.full(number, "", dtype=object)
        size = self.settings.batch_size
        rows = np.flatnonzero(is_fitted)
        for part in np.split(rows, range(size, len(rows), size)) if len(rows) else ():
            image, weight = fitted.image[part].numpy(), fitted.weight[part]
            radius = self.total_radius_pixels(torch.from_numpy(drawn[part]), weight)
            figures = residual_figures(
                image,
                weight.numpy(),
                drawn[part],
                radius_pixels=radius,
                fraction=np.array(self.model_error.light_fraction),
                noise=np.array(self.info.noise_correlation),
                bands=self.info.bands,
                pixel_scale_arcsec=self.info.pixel_scale_arcsec,
            )
            far = latent_distance(fitted.fit.latent[part].numpy())
            figures["latent"] = self.model_error.unusual_latent(far, drawn[part].sum((1, 2, 3)))
            figures["latent_words"] = np.full(len(part), "seldom drawn like this")
            total, leading = score(figures, self.model_error.usual)
            for name in (*PARTS, "artefact"):
                out[name][part] = figures[name]
            out["anomaly"][part] = total
            words = np.array([figures[f"{figure}_words"][k] for k, figure in enumerate(leading)])
            is_image = (figures["artefact"] > 0) & (figures["artefact"] >= figures["colour"])
            reasons[part] = np.where(is_image, figures["artefact_words"], words)
        return out | {"anomaly_reason": reasons.astype(str)}

    def _sizes(self, growth: np.ndarray, radius_arcsec: Any, prefix: str = "") -> dict[str, np.ndarray]:
        """Return half-light radii and concentrations, 5 lg(r80 / r20), of the drawn galaxies in each band."""
        r20, r50, r80 = np.moveaxis(growth_radii(growth, radius_arcsec), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            concentration = 5 * np.log10(r80 / r20)
        sizes = {"half_light_arcsec": r50, "concentration": concentration}
        return {
            f"{prefix}{name}_{band}": values[:, index].astype(np.float32)
            for name, values in sizes.items()
            for index, band in enumerate(self.info.bands)
        }

    def reconstruct(self, fitted: Fitted) -> np.ndarray:
        """Draw the best fits in nJy, amplitudes included: ``(N, B, H, W)``; NaN without a fit."""
        if not len(fitted.image):
            return np.empty(tuple(fitted.image.shape), dtype=np.float32)
        drawn = self.draw(fitted.fit.latent, fitted.sight)
        return (drawn * fitted.fit.amplitude[:, :, None, None]).numpy()

    def total_radius_pixels(self, model: Tensor, weight: Tensor) -> np.ndarray:
        """Return the radius of the circle that holds the total of each galaxy, ``(N,)``."""
        size, scale = self.info.size, self.info.pixel_scale_arcsec
        radius = total_radius(model.cpu().numpy(), weight.cpu().numpy(), size, scale)
        return np.asarray(radius / scale)

    def _discriminate(self, fitted: Fitted, drawn: np.ndarray) -> np.ndarray:
        """Return the discriminator's score of the observed images: near 1 is usual; NaN without one.

        What has no data or is a neighbour's is filled in with the drawing, so that the score does not see it.
        """
        network = getattr(self.model, "discriminator", None)
        if network is None:
            return np.full(len(fitted.image), np.float32(np.nan))
        image = torch.where(fitted.weight > 0, fitted.image, torch.nan_to_num(torch.from_numpy(drawn)))

        def score(rows: Tensor) -> Tensor:
            if fitted.sight is None:
                seen = self.model.normalisation.normalise(image[rows].to(self.device))
            else:
                seen = self.model.network_input(  # type: ignore[attr-defined]
                    image[rows].to(self.device),
                    fitted.weight[rows].to(self.device),
                    fitted.sight[rows].to(self.device),
                )
            return network(seen).view(-1)

        return self._in_batches(score, len(image)).numpy() if len(image) else np.empty(0, dtype=np.float32)

    def measure(
        self,
        fitted: Fitted,
        *,
        sums: Tensor,
        with_pixels: bool,
        with_galaxy: bool = False,
        uncertainty: bool | None = None,
    ) -> dict[str, np.ndarray]:
        """Measure χ², fluxes and errors at the best latents.

        Parameters
        ----------
        sums
            ``(K, H, W)``: what to sum over the pixels.
        with_galaxy
            Also the galaxy's own light (`deepfits.fitting.own_light`), as more sums: within the circle of
            its total, and in each of `apertures`.

        Returns
        -------
        dict
            ``chi2`` and ``dof`` ``(N, B)``, ``flux`` and ``flux_std`` ``(N, B, K)``, ``growth`` ``(N, B, C)``
            (flux in `circles`), ``latent_std`` ``(N, L)``, ``amplitude_std`` ``(N, B)``; with the galaxy
            ``total_radius`` ``(N,)`` in pixels and ``removed`` ``(N, B)``, light taken for neighbours'; with
            pixels ``model`` and ``pixel_std`` ``(N, B, H, W)``.
            NaN for objects without a fit, and for errors where none were asked for.
        """
        with_errors = bool(self.settings.uncertainty) if uncertainty is None else uncertainty
        number, bands = fitted.image.shape[:2]
        num_sums = len(sums) + (1 + len(self.apertures)) * with_galaxy
        nan = np.float32(np.nan)
        out = {
            "chi2": np.full((number, bands), nan),
            "dof": (fitted.weight > 0).sum((2, 3)).numpy(),
            "flux": np.full((number, bands, num_sums), nan),
            "flux_std": np.full((number, bands, num_sums), nan),
            "latent_std": np.full((number, self.num_latents), nan),
            "amplitude_std": np.full((number, bands), nan),
            "growth": np.full((number, bands, len(self.circles)), nan),
        }
        if with_galaxy:
            out |= {"total_radius": np.full(number, nan), "removed": np.full((number, bands), nan)}
        if self.scene_sums is not None:
            out |= {
                "scene_flux": np.full((number, bands, len(self.scene_sums)), nan),
                "scene_flux_std": np.full((number, bands, len(self.scene_sums)), nan),
                "scene_growth": np.full((number, bands, len(self.scene_circles)), nan),
            }
        if with_pixels:
            out |= {name: np.full(tuple(fitted.image.shape), nan) for name in ("model", "pixel_std")}
        usable = torch.isfinite(fitted.fit.latent).all(1).nonzero()[:, 0]

        def work(rows: Tensor) -> None:
            found = self._measure_batch(fitted, rows, sums, with_pixels, with_errors, with_galaxy)
            for name, values in found.items():
                out[name][rows.numpy()] = values.cpu().numpy()

        batches = usable.split(POSTERIOR_BATCH) if len(usable) else ()
        in_threads(work, batches, self.threads if self.device.type == "cpu" else 1)
        return out

    def _measure_batch(
        self,
        fitted: Fitted,
        rows: Tensor,
        sums: Tensor,
        with_pixels: bool,
        uncertainty: bool,
        with_galaxy: bool,
    ) -> dict[str, Tensor]:
        padded = torch.cat((rows, rows[-1:].expand(POSTERIOR_BATCH - len(rows))))  # shapes never change
        image, weight, latent, amplitude = (
            t[padded].to(self.device)
            for t in (fitted.image, fitted.weight, fitted.fit.latent, fitted.fit.amplitude)
        )
        observation = self._observation(fitted.sight, padded)
        scene = self.in_flux(latent) * amplitude[:, :, None, None]
        model = scene if observation is None else observation.show(scene)
        sums = sums.to(self.device).expand(*model.shape[:2], *sums.shape)
        own = torch.from_numpy(own_light(model.cpu().numpy(), fitted.is_neighbour[padded].numpy()))
        own = own.to(self.device)
        if with_galaxy:
            radius = self.total_radius_pixels(model, weight)
            circle = torch.from_numpy(soft_circles(self.info.size, radius))[:, None].to(self.device)
            over = torch.from_numpy(self.apertures).to(self.device).transpose(0, 1)  # (B, A, H, W)
            sums = torch.cat((sums, (own * circle)[:, :, None], own[:, :, None] * over), dim=2)
        if not uncertainty:
            out = {"flux": torch.einsum("nbhw,nbkhw->nbk", model, sums)}
        else:
            found = self._laplace(fitted, padded, sums, observation, with_pixels=with_pixels)
            model = found.model
            noise = torch.tensor(self.info.noise_correlation, device=self.device)
            out = {
                "flux": found.flux,
                "flux_std": found.flux_std * noise[:, None],
                "latent_std": found.latent_std,
            }
            if found.scene_flux_std is not None:
                out["scene_flux_std"] = found.scene_flux_std * noise[:, None]
            if found.amplitude_std is not None:
                out["amplitude_std"] = found.amplitude_std * noise
            if found.pixel_std is not None:
                out["pixel_std"] = found.pixel_std * noise[:, None, None]
        out["chi2"] = ((image - model) ** 2 * weight).sum((2, 3))
        growing = torch.from_numpy(self.circles).to(self.device)
        out["growth"] = torch.einsum("nbhw,khw->nbk", model * own, growing)
        if self.scene_sums is not None:
            rings = torch.from_numpy(self.scene_circles).to(self.device)
            out["scene_growth"] = torch.einsum("nbhw,khw->nbk", scene, rings)
            out["scene_flux"] = torch.einsum("nbhw,khw->nbk", scene, self.scene_sums.to(scene))
        if with_galaxy:
            out["total_radius"] = torch.from_numpy(radius)
            out["removed"] = ((1 - own) * circle * model).sum((2, 3))
        if with_pixels:
            out["model"] = model
        return {name: values[: len(rows)] for name, values in out.items()}

    def _laplace(
        self,
        fitted: Fitted,
        rows: Tensor,
        sums: Tensor,
        observation: Observation | None,
        *,
        with_pixels: bool = False,
    ) -> Posterior:
        """Approximate the posteriors of some objects."""
        image, weight, latent, amplitude = (
            t[rows].to(self.device)
            for t in (fitted.image, fitted.weight, fitted.fit.latent, fitted.fit.amplitude)
        )
        return laplace(
            self.objective,
            latent,
            image,
            weight,
            sums,
            fit_weight=None if fitted.fit_weight is None else fitted.fit_weight[rows].to(self.device),
            amplitude=amplitude,
            with_pixels=with_pixels,
            solved_after=self.prior_after,
            observation=observation,
            scene_sums=self.scene_sums,
        )

    def latent_covariance(self, fitted: Fitted) -> Tensor:
        """Return the posterior covariances of latents, ``(N, L, L)``, on the CPU; NaN without a fit."""
        out = torch.full((len(fitted.image), self.num_latents, self.num_latents), torch.nan)
        sums = self.sums.to(self.device)

        def work(rows: Tensor) -> None:
            found = self._laplace(fitted, rows, sums, self._observation(fitted.sight, rows))
            out[rows] = found.covariance[:, : self.num_latents, : self.num_latents].cpu()

        usable = torch.isfinite(fitted.fit.latent).all(1).nonzero()[:, 0]
        batches = usable.split(POSTERIOR_BATCH) if len(usable) else ()
        in_threads(work, batches, self.threads if self.device.type == "cpu" else 1)
        return out


def status_names(found: Fit) -> np.ndarray:
    """Return the statuses as words, ``(N,)`` str."""
    names = np.array([s.name.lower() for s in Status])
    return names[found.status.numpy()]


def index_of(bands: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    """Return the places of some bands, with an error that names those that are not there."""
    missing = [band for band in wanted if band not in bands]
    if missing:
        raise InputError(f"{what}: no band {missing[0]!r}; there are {'-'.join(bands)}")
    return [list(bands).index(band) for band in wanted]
