"""A trained model applied to the pixels of one survey: rendering latents, and embedding images.

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

All work is done in batches of one size, the last one padded, so that kernels never change shape and a row's
result depends on that row alone.
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
"""Weight of the fitted latent in the embedding of scene models, whose embedder misses some directions."""
USUAL_SOFTENING = 3.0  # default softening of the asinh stretch, in units of the pixel noise


class ForwardModel:
    """A model on its device, applied to the bands and pixels of one survey.

    At most `batch_size` objects are processed at once; `threads` defaults to PyTorch's own setting. `sums`,
    ``(2, H, W)``, are the pixel weights of the two flux sums, the whole cutout and the circular aperture, and
    `edge_pixels` is the radius of the largest circle within the model image of an object, in pixels of the
    survey. `model_error` are the flux errors stored with the model, or `ModelError.unknown`.
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
        content, bands = model.errors, len(info.bands)
        self.model_error = (
            ModelError.unknown(bands)
            if content is None
            else ModelError.from_json(content, bands, f"model {model.fingerprint}")
        )

    def sight(self, cutouts: Cutouts) -> Sight | None:
        """Describe how cutouts of this store were observed; None for a model of images."""
        return None if self.grid is None else self.model.sight(cutouts, self.info)

    def nominal_sight(self, number: int) -> Sight | None:
        """Return nominal observing conditions for objects without data; None for a model of images."""
        if self.grid is None:
            return None
        info = self.info
        nominal = Sight.nominal(self.grid, len(info.bands), info.size, info.pixel_scale_arcsec)
        return nominal.take([0] * number)

    def observation(self, sight: Sight | None, rows: Tensor) -> Observation | None:
        """Return the operator from scenes to the pixels of some rows; None for a model of images."""
        return None if sight is None else sight.take(rows).to(self.device).observation()

    def draw_rows(self, latent: Tensor, sight: Sight | None, rows: Tensor) -> Tensor:
        """Render some rows in nJy, with amplitudes of 1, on the device."""
        drawn = self.in_flux(latent[rows].to(self.device))
        observation = self.observation(sight, rows)
        return drawn if observation is None else observation.show(drawn)

    def draw(self, latent: Tensor, sight: Sight | None = None) -> Tensor:
        """Render latents ``(N, L)`` in nJy, with amplitudes of 1: ``(N, B, H, W)``, on the CPU."""
        shape = len(self.info.bands), self.info.size, self.info.size
        return self.in_batches(lambda rows: self.draw_rows(latent, sight, rows), len(latent), *shape)

    def embed(self, image: Tensor, weight: Tensor, sight: Sight | None = None) -> Tensor:
        """Return the embedder's latents, ``(N, L)``, of images in nJy with weights in nJy⁻²."""

        def guess(rows: Tensor) -> Tensor:
            if sight is None:
                return self.model.embed(image[rows], weight[rows])
            return self.model.embed(image[rows], weight[rows], sight.take(rows))

        return self.in_batches(guess, len(image), self.num_latents)

    def embedding(self, latent: Tensor) -> Tensor:
        """Embed the noise-free model images of latents: ``(N, L)`` to ``(N, L)``, on the CPU; NaN stays NaN.

        Many latents render nearly the same galaxy, and which of them a fit ends at carries little
        information. E(G(latent)) is nearly the same for all of them: the embedding of the noise-free image,
        always through the same PSF and pixels, averaged over the eight orientations of the square. For scene
        models `OWN_SHARE` times the latent is added.
        """
        finite = torch.nan_to_num(latent)
        noise = torch.tensor(self.model.normalisation.softening) / USUAL_SOFTENING
        weight = (noise**-2)[:, None, None].to(self.device)
        nominal, observation = None, None
        if self.grid is not None:
            nominal = Sight.nominal(self.grid, len(self.info.bands)).to(self.device)
            observation = nominal.observation()

        def embed(rows: Tensor) -> Tensor:
            drawn = self.in_flux(finite[rows].to(self.device))
            drawn = drawn if observation is None else observation(drawn)
            uniform = weight.expand_as(drawn)
            sight = None if nominal is None else nominal.take([0] * len(rows))
            x = self.model.network_input(drawn, uniform, sight)  # all but the image is uniform: rotate it all
            return torch.stack([self.model.embedder(symmetry(x, n)) for n in range(NUM_SYMMETRIES)]).mean(0)

        embedded = self.in_batches(embed, len(latent), self.num_latents)
        if self.grid is not None:
            embedded = embedded + OWN_SHARE * finite
        return torch.where(torch.isfinite(latent).all(1, keepdim=True), embedded, torch.nan)

    def in_batches(self, work: Callable[[Tensor], Tensor], number: int, *shape: int) -> Tensor:
        """Apply `work` to padded batches of row numbers, in threads: ``(N, *shape)`` float32, on the CPU."""
        if not number:
            return torch.empty(0, *shape)
        size = self.batch_size

        def batch(first: int) -> Tensor:
            with torch.no_grad():
                done = work(torch.arange(first, first + size).clamp_max(number - 1))
            return done[: min(size, number - first)].float().cpu()

        return torch.cat(in_threads(batch, range(0, number, size), self.threads))
