"""A trained model and the pixels of one survey: what it draws into them, and what it guesses from them.

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

Everything is done in batches of one size, the last one padded, so that no kernel changes its shape and a row
alone decides its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepfits.fitting.engine import in_threads
from deepfits.fitting.folded import renderer_of
from deepfits.fitting.model_error import ModelError
from deepfits.fitting.rendering import InFlux
from deepfits.observation import Observation, Sight
from deepfits.photometry import total_and_aperture
from deepfits.survey.store import Cutouts, StoreInfo
from deepfits.symmetries import NUM_SYMMETRIES, symmetry

if TYPE_CHECKING:
    from deepfits.models.bundle import Model

OWN_SHARE = 0.05
"""Of the fitted latent in the embedding of scenes, whose embedder leaves some directions out."""
USUAL_SOFTENING = 3.0
"""Softening of the stretch in units of the noise, unless a recipe says otherwise."""


class ForwardModel:
    """A model, on the device where it is to run, as the survey of some cutouts sees it.

    So many objects are side by side as a batch holds; threads are PyTorch's own choice by default.

    Attributes
    ----------
    sums
        ``(2, H, W)``: what is summed of every drawing, all pixels and the aperture.
    edge_pixels
        Radius of the largest circle in what is drawn of an object, in pixels of the survey.
    model_error
        What the model says that it draws wrong.
    """

    def __init__(self, model: Model, info: StoreInfo, *, batch_size: int, threads: int | None = None) -> None:
        self.model, self.info, self.batch_size = model, info, batch_size
        generator = model.generator
        self.device = next(generator.parameters()).device
        self.threads = (threads or torch.get_num_threads()) if self.device.type == "cpu" else 1
        self.inner = renderer_of(generator)
        self.in_flux = InFlux(self.inner, model.normalisation)
        self.grid = model.grid
        self.num_latents = model.config.latent_size
        self.sums = total_and_aperture(info.size, info.pixel_scale_arcsec)
        self.edge_pixels = info.size / 2
        if self.grid is not None:
            scene_arcsec = self.grid.size * self.grid.pixel_scale_arcsec
            self.edge_pixels = min(self.edge_pixels, scene_arcsec / info.pixel_scale_arcsec / 2)
        content, bands = model.model_error, len(info.bands)
        self.model_error = (
            ModelError.unknown(bands)
            if content is None
            else ModelError.from_json(content, bands, f"model {model.fingerprint}")
        )

    def sight(self, cutouts: Cutouts) -> Sight | None:
        """Describe how cutouts of this store were observed; None for a model that need not know."""
        return None if self.grid is None else self.model.sight(cutouts, self.info)

    def nominal_sight(self, number: int) -> Sight | None:
        """Return how drawn objects are taken to be observed, for trials without data."""
        if self.grid is None:
            return None
        info = self.info
        nominal = Sight.nominal(self.grid, len(info.bands), info.size, info.pixel_scale_arcsec)
        return nominal[torch.zeros(number, dtype=torch.int64)]

    def observation(self, sight: Sight | None, rows: Tensor) -> Observation | None:
        """Return the way from scenes to the pixels of some rows; None for a model that draws images."""
        return None if sight is None else sight[rows].to(self.device).observation()

    def draw_rows(self, latent: Tensor, sight: Sight | None, rows: Tensor) -> Tensor:
        """Draw images of some rows in nJy, amplitudes of 1, on the device."""
        drawn = self.in_flux(latent[rows].to(self.device))
        observation = self.observation(sight, rows)
        return drawn if observation is None else observation.show(drawn)

    def draw(self, latent: Tensor, sight: Sight | None = None) -> Tensor:
        """Draw images in nJy from latents ``(N, L)``, amplitudes of 1: ``(N, B, H, W)``, on the CPU."""
        shape = len(self.info.bands), self.info.size, self.info.size
        return self.in_batches(lambda rows: self.draw_rows(latent, sight, rows), len(latent), *shape)

    def embed(self, image: Tensor, weight: Tensor, sight: Sight | None = None) -> Tensor:
        """Return the embedder's latents, ``(N, L)``."""

        def guess(rows: Tensor) -> Tensor:
            if sight is None:
                return self.model.embed(image[rows], weight[rows])
            return self.model.embed(image[rows], weight[rows], sight[rows])

        return self.in_batches(guess, len(image), self.num_latents)

    def embedding(self, latent: Tensor) -> Tensor:
        """Return what the embedder says of drawings of latents ``(N, L)``: ``(N, L)``, on the CPU.

        Many latents draw nearly the same galaxy, and which of them a fit ends at says little of it. What is
        drawn says all, and the embedder's answer to it, without noise, always through the same PSF and
        pixels, the mean over the eight orientations of the square, is nearly the same for all of them. For
        models of scenes `OWN_SHARE` of the latent itself is added.
        """
        finite = torch.nan_to_num(latent)
        noise = torch.tensor(self.model.normalisation.softening) / USUAL_SOFTENING
        weight = (noise**-2)[:, None, None].to(self.device)
        nominal, way = None, None
        if self.grid is not None:
            nominal = Sight.nominal(self.grid, len(self.info.bands)).to(self.device)
            way = nominal.observation()

        def embed(rows: Tensor) -> Tensor:
            drawn = self.in_flux(finite[rows].to(self.device))
            drawn = drawn if way is None else way(drawn)
            same = weight.expand_as(drawn)
            sight = None if nominal is None else nominal[torch.zeros(len(rows), dtype=torch.int64)]
            seen = self.model.network_input(drawn, same, sight)  # turns with the drawing: all else is even
            answers = [self.model.embedder(symmetry(seen, n)) for n in range(NUM_SYMMETRIES)]
            return torch.stack(answers).mean(0)

        answer = self.in_batches(embed, len(latent), self.num_latents)
        if self.grid is not None:
            answer = answer + OWN_SHARE * finite
        return torch.where(torch.isfinite(latent).all(1, keepdim=True), answer, torch.nan)

    def in_batches(self, work: Callable[[Tensor], Tensor], number: int, *shape: int) -> Tensor:
        """Do `work` on rows in padded batches, on one core each: ``(N, *shape)`` float32, on the CPU."""
        if not number:
            return torch.empty(0, *shape)
        size = self.batch_size

        def batch(first: int) -> Tensor:
            with torch.no_grad():
                done = work(torch.arange(first, first + size).clamp_max(number - 1))
            return done[: min(size, number - first)].float().cpu()

        return torch.cat(in_threads(batch, range(0, number, size), self.threads))
