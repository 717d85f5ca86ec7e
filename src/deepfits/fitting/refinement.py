"""Refinement of a start: a network sees what a latent leaves unexplained and updates it, a few times.

Shapes: N objects, L latent dimensions, B bands, D data pixels, S pixels of the network.

An embedder makes one estimate and never sees the image that it renders. A refiner does: each pass costs one
rendering and one small network (Marino, Yue & Mandt 2018, *Iterative amortized inference*; Alaluf et al.
2021, *ReStyle*). Its input is scaled by the weights of the objective, so that missing bands, masked pixels
and different objectives need no special cases.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepfits.fitting.objective import Objective
from deepfits.observation import Observation, Sight
from deepfits.survey.normalise import Normalisation, arcsinh, normalise

Refine = Callable[[Tensor, Tensor], Tensor]


class Refinement:
    """Passes of a refiner (`deepfits.models.aids.Refiner`) that lower the objective before the fit.

    `network` maps views, ``(N, 4 B, S, S)``, and latents to latent steps; `units` is the networks'
    normalisation if the objective is in flux, else None.
    """

    def __init__(self, network: Refine, objective: Objective, units: Normalisation | None) -> None:
        self.network, self.objective, self.units = network, objective, units

    @torch.no_grad()
    def __call__(
        self,
        latent: Tensor,
        image: Tensor,
        weight: Tensor,
        num_passes: int,
        sight: Sight | None = None,
        observation: Observation | None = None,
    ) -> Tensor:
        """Return the best latents, ``(N, L)``, among the starts and the results of all passes.

        Images and weights, ``(N, B, D, D)``, are in the objective's units. For scenes, `sight` describes how
        the objects were observed, and `observation` is the operator from scenes to their pixels.
        """
        views = self.shown(image, weight, sight)
        best, lowest = latent, torch.full_like(latent[:, 0], torch.inf)
        for number in range(num_passes + 1):
            loss, amplitude, drawn = self.objective.value_and_image(latent, image, weight, observation)
            is_better = loss < lowest
            best = torch.where(is_better[:, None], latent, best)
            lowest = torch.where(is_better, loss, lowest)
            if number < num_passes:
                drawn = drawn * amplitude[:, :, None, None]
                latent = latent + self.network(views(drawn), latent)
        return best

    def shown(self, image: Tensor, weight: Tensor, sight: Sight | None = None) -> Callable[[Tensor], Tensor]:
        """Return the function from model images to the network's input, ``(N, 4 B, S, S)``.

        For each band: image and model image in the networks' units, and, through asinh, the residual in units
        of the noise and the inverse noise in the networks' units. All but the model image are 0 where there
        is no data.
        """
        root, area = weight.sqrt(), 1.0 if sight is None else sight.area
        scale, x = root, image
        if self.units is not None:
            scale = root / (self.units.slope(image * area) * area)
            x = normalise(self.units, image * area)
        x, scale = torch.where(weight > 0, x, 0), arcsinh(scale)

        def views(drawn: Tensor) -> Tensor:
            residual = arcsinh((image - drawn) * root)
            if self.units is not None:
                drawn = normalise(self.units, drawn * area)
            planes = torch.cat((x, drawn, residual, scale), dim=1)
            return planes if sight is None else sight.interpolate(planes)

        return views
