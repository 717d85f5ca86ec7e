"""From cutouts and a model to best-fitting latents, for every stage that fits.

Shapes: N objects, S starts, L latent dimensions, B bands, H = W pixels.

A fit starts from the embedder's estimate or from draws of the prior; minimises χ² plus the prior term of the
latent (`deepfits.fitting.objective`, `engine`); and solves for the amplitudes of the bands once, at the best
latent. Fluxes and other measurements at the best fit are in `deepfits.fitting.measuring`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepfits.errors import InputError
from deepfits.fitting.bestfit import fit
from deepfits.fitting.engine import Advance, Fit, Status
from deepfits.fitting.forward import ForwardModel
from deepfits.fitting.metric import Metric, learn_metric
from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.fitting.rendering import InFlux, Renderer
from deepfits.fitting.settings import FitSettings
from deepfits.observation import Sight
from deepfits.splits import PerObject, as_text
from deepfits.survey.store import Cutouts, StoreInfo

if TYPE_CHECKING:
    from deepfits.models.bundle import Model


@dataclass(frozen=True, eq=False)
class Fitted(PerObject):
    """Best fits of some objects, with the data that were fitted."""

    fit: Fit
    image: Tensor  # (N, B, H, W), nJy; 0 for pixels that were excluded from the fit
    weight: Tensor  # (N, B, H, W), nJy⁻²; likewise
    fit_weight: Tensor | None  # weights of the fit in nJy⁻²; None if they are `weight`
    is_neighbour: Tensor  # (N, H, W) bool: pixels of other objects, excluded from the fit
    sight: Sight | None = None  # for scene models: how the objects were observed


class Fitter(ForwardModel):
    """Fits cutouts with one model and one set of settings, on the model's device.

    `info` describes the store, whose noise correlation scales the errors; `threads` defaults to PyTorch's own
    setting.
    """

    def __init__(
        self, model: Model, settings: FitSettings, info: StoreInfo, *, threads: int | None = None
    ) -> None:
        super().__init__(model, info, batch_size=settings.batch_size, threads=threads)
        self.settings = settings
        if self.grid is not None and settings.objective != "flux":
            raise InputError(
                f"fit: objective={settings.objective!r} compares images in a network's units, but "
                "this model's units apply to scenes, not to observed images; use objective='flux'"
            )
        self.prior = AmplitudePrior() if settings.amplitudes == "fit" else None
        self.prior_after = AmplitudePrior() if settings.amplitudes == "after" else None
        self.objective = Objective(self.in_flux, prior_strength=settings.strength, amplitude_prior=self.prior)
        needs_metric = settings.solver == "lbfgs" and settings.mode != "embedder"
        self.metric = self._make_metric() if needs_metric else None

    def in_objective(self, inner: Renderer) -> Renderer:
        """Return the renderer in the units of the objective: `inner` itself, or `inner` converted to flux."""
        return InFlux(inner, self.model.normalisation) if self.settings.objective == "flux" else inner

    def _make_metric(self) -> Metric:
        weight = torch.ones(len(self.info.bands), 1, 1)
        if self.settings.objective == "flux":  # the softening is proportional to the noise of each band
            weight = torch.tensor(self.model.normalisation.softening)[:, None, None] ** -2
        return learn_metric(
            self.in_objective(self.inner),
            self.num_latents,
            weight=weight,
            observation=self.observation(self.nominal_sight(1), torch.tensor([0])),
            device=self.device,
            profiled=self.prior is not None,
        )

    def fit_cutouts(
        self, cutouts: Cutouts, advance: Advance | None = None, *, start: np.ndarray | None = None
    ) -> Fitted:
        """Fit cutouts of a store, masking the pixels of other objects in `is_neighbour`; see `fit`.

        `deepfits.survey.neighbours.with_neighbours` provides cutouts with `is_neighbour`.
        """
        return self.fit(
            cutouts.object_id,
            cutouts.image,
            cutouts.weight,
            advance,
            is_neighbour=cutouts.is_neighbour,
            sight=self.sight(cutouts),
            start=start,
        )

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

        `is_neighbour` ``(N, H, W)`` marks pixels of other objects, which the setting ``neighbours="mask"``
        excludes. Scene models need the `sight` (`Fitter.sight`). The latents `start` ``(N, L)`` replace the
        mode's first start where they are finite. `advance` is called with the number of objects newly done.
        """
        if (sight is None) != (self.grid is None):
            raise ValueError("`sight` is required for scene models, and only for these")
        weight = torch.as_tensor(weight, dtype=torch.float32)
        masked = torch.zeros(len(image), *image.shape[2:], dtype=torch.bool)
        if self.settings.neighbours == "mask" and is_neighbour is not None:
            masked = torch.as_tensor(is_neighbour)
            weight = torch.where(masked[:, None], 0, weight)
        if sight is not None:
            weight = torch.where(sight.is_inside.to(weight.device), weight, 0)
        image = torch.where(weight > 0, torch.as_tensor(image, dtype=torch.float32), 0)
        begin = self.starts(object_id, image, weight, sight)
        if start is not None:
            known = torch.as_tensor(start, dtype=torch.float32)
            begin[0] = torch.where(torch.isfinite(known).all(1, keepdim=True), known, begin[0])
        data, data_weight, fit_weight = self.in_units_of_fit(image, weight)
        if self.settings.mode == "embedder":
            best = self._guess_as_fit(begin[0], image, weight, sight)
            if advance is not None:
                advance(len(image))
        else:
            best = fit(
                self.in_objective(self.inner),
                data,
                data_weight,
                begin,
                sight=sight,
                solver=self.settings.solver,
                num_steps=self.settings.num_steps,
                tolerance=self.settings.tolerance,
                prior_strength=self.settings.strength,
                amplitudes=self.prior or False,
                metric=self.metric,
                batch_size=self.settings.batch_size,
                threads=self.threads,
                device=self.device,
                advance=advance,
            )
        if self.prior_after is not None:
            best = replace(best, amplitude=self._amplitudes_after(best.latent, image, weight, sight))
        return Fitted(best, image, weight, fit_weight, masked, sight)

    def in_units_of_fit(self, image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return data and weights in the objective's units, and the weights in nJy⁻² (None if unchanged)."""
        units = self.model.normalisation
        if self.settings.objective == "flux":
            return image, weight, None
        is_valid = (weight > 0).to(weight.dtype)
        return units.normalise(image), is_valid, is_valid * units.slope(image) ** 2

    def starts(
        self, object_id: np.ndarray, image: Tensor, weight: Tensor, sight: Sight | None = None
    ) -> Tensor:
        """Return the starts, ``(S, N, L)``, of fits to images in nJy with weights in nJy⁻².

        They are the embedder's estimate, draws of the prior, or both, depending on the mode.
        """
        mode, num_starts = self.settings.mode, self.settings.num_starts
        guess = torch.empty(0, len(image), self.num_latents)
        if mode != "optimise":
            guess = self.embed(image, weight, sight)[None]
        num_draws = {"embedder": 0, "optimise": num_starts, "both": num_starts - 1}[mode]
        draws = random_starts(object_id, self.num_latents, seed=self.settings.seed, num_starts=num_draws)
        return torch.cat((guess, torch.from_numpy(draws)))

    def _guess_as_fit(self, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None) -> Fit:
        """Return the embedder's estimate as a `Fit`."""
        out = Fit.empty(len(latent), self.num_latents, image.shape[1])
        rows = ((weight > 0).sum((1, 2, 3)) >= self.num_latents).nonzero()[:, 0]

        def evaluate(part: Tensor) -> Tensor:
            part = rows[part]
            guess, data, data_weight = (t[part].to(self.device) for t in (latent, image, weight))
            loss, amplitude = self.objective.value(guess, data, data_weight, self.observation(sight, part))
            return torch.cat((loss[:, None], amplitude), dim=1)

        evaluated = self.in_batches(evaluate, len(rows), 1 + image.shape[1])
        out.latent[rows], out.status[rows] = latent[rows], int(Status.NOT_FITTED)
        out.loss[rows] = out.loss_start[rows] = evaluated[:, 0]
        out.amplitude[rows] = evaluated[:, 1:]
        return out

    def _amplitudes_after(self, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None) -> Tensor:
        """Solve for the amplitudes at the best latents, ``(N, B)``; NaN without a fit."""
        solver = Objective(self.in_flux, amplitude_prior=self.prior_after)
        rows = torch.isfinite(latent).all(1).nonzero()[:, 0]

        def solve(part: Tensor) -> Tensor:
            part = rows[part]
            drawn = self.draw_rows(latent, sight, part)
            return solver.amplitudes(drawn, image[part].to(self.device), weight[part].to(self.device))

        out = torch.full((len(latent), image.shape[1]), torch.nan)
        out[rows] = self.in_batches(solve, len(rows), image.shape[1])
        return out

    def reconstruct(self, fitted: Fitted) -> np.ndarray:
        """Render the best fits in nJy, amplitudes included: ``(N, B, H, W)``; NaN without a fit."""
        drawn = self.draw(fitted.fit.latent, fitted.sight)
        return (drawn * fitted.fit.amplitude[:, :, None, None]).numpy()


def random_starts(
    object_id: np.ndarray, num_latents: int, *, seed: int = 0, num_starts: int = 1
) -> np.ndarray:
    """Draw unit-normal latents, ``(S, N, L)`` float32, that depend on identity and seed alone.

    They are the same in any shard, batch or order.

    Examples
    --------
    >>> both, single = random_starts(np.array([3, 8]), 4), random_starts(np.array([8]), 4)
    >>> bool((both[0, 1] == single[0, 0]).all())
    True
    """
    out = np.empty((num_starts, len(object_id), num_latents), dtype=np.float32)
    for row, text in enumerate(as_text(object_id)):
        digest = hashlib.blake2b(f"start:{seed}:{text}".encode(), digest_size=16).digest()
        draws = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
        out[:, row] = draws.standard_normal((num_starts, num_latents), dtype=np.float32)
    return out
