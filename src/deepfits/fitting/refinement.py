"""A better start: a network looks at what a latent leaves unexplained, and changes it, a few times.

Shapes: N objects, L latent dimensions, B bands, D data pixels, S pixels of the network.

An embedder guesses once and never sees what its guess draws. A refiner does: each pass costs one drawing and
one small network (Marino, Yue & Mandt 2018, *Iterative amortized inference*; Alaluf et al. 2021, *ReStyle*).
It is shown the weights that the objective has, so that missing bands, masked pixels and every objective are
one thing to it.
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
    """Passes of a refiner (`deepfits.models.aids.Refiner`) in front of a fit, whose objective it lowers.

    The network takes views, ``(N, 4 B, S, S)``, and latents to steps; units are those of the networks, where
    the objective is in flux, else None.
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
        """Return the best of the latents on the way, ``(N, L)``, of so many passes.

        Images and weights, ``(N, B, D, D)``, are in the objective's units; for scenes, sight and observation
        say how the objects were observed, and the way there.
        """
        views = self.shown(image, weight, sight)
        best, lowest = latent, torch.full_like(latent[:, 0], torch.inf)
        for number in range(num_passes + 1):
            loss, amplitude, drawn = self.objective.value_and_drawing(latent, image, weight, observation)
            is_better = loss < lowest
            best = torch.where(is_better[:, None], latent, best)
            lowest = torch.where(is_better, loss, lowest)
            if number < num_passes:
                drawn = drawn * amplitude[:, :, None, None]
                latent = latent + self.network(views(drawn), latent)
        return best

    def shown(self, image: Tensor, weight: Tensor, sight: Sight | None = None) -> Callable[[Tensor], Tensor]:
        """Return the function from drawings to what the network is shown of them, ``(N, 4 B, S, S)``.

        Image and drawing in the networks' units, the residual in units of the noise, and the inverse noise in
        the networks' units, these two through asinh; 0 where there are no data, the drawing apart.
        """
        root, area = weight.sqrt(), 1.0 if sight is None else sight.area
        scale, x = root, image
        if self.units is not None:
            scale = root / (self.units.slope(image * area) * area)
            x = normalise(self.units, image * area)
        x, scale = torch.where(weight > 0, x, 0), arcsinh(scale)

        def views(drawn: Tensor) -> Tensor:
            left = arcsinh((image - drawn) * root)
            if self.units is not None:
                drawn = normalise(self.units, drawn * area)
            both = torch.cat((x, drawn, left, scale), dim=1)
            return both if sight is None else sight.interpolate(both)

        return views
