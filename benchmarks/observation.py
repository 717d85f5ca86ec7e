"""Cost of the observation operator in an evaluation of the fit, on one core.

The objective of the built-in model (128 channels) is evaluated with its gradient, as in a fit, alternately
without and with an observation (PSF, position and pixel grid). The result is the median ratio over all pairs.

    python benchmarks/observation.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from deepfits.fitting.folded import FoldedGenerator
from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.fitting.rendering import InFlux
from deepfits.gaussian_psf import moffat_psf
from deepfits.models.bundle import Model
from deepfits.observation import SceneGrid, Sight, above_reference
from deepfits.provenance import provenance

SLOTS = 64
PAIRS = 60
GRID = SceneGrid(size=32, pixel_scale_arcsec=0.18, reference_fwhm_arcsec=0.4)
SURVEYS = {"hsc": (32, 0.168), "rubin": (27, 0.2), "des": (20, 0.263), "sdss": (14, 0.396)}


def make_sight(size: int, pixel: float) -> Sight:
    """Return observing conditions with different seeing and subpixel positions."""
    rng = np.random.default_rng(0)
    psf = [[above_reference(moffat_psf(w), GRID) for w in rng.uniform(0.7, 1.3, 5)] for _ in range(SLOTS)]
    place = torch.from_numpy(rng.uniform(-0.5, 0.5, (SLOTS, 2))).float()
    return Sight(GRID, torch.from_numpy(np.array(psf)), place, size, pixel)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    """Run the benchmark and print one JSON object."""
    torch.set_num_threads(1)
    model = Model.load("builtin:clauds-hsc")
    renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
    objective = Objective(renderer, amplitude_prior=AmplitudePrior())
    latent = torch.randn(SLOTS, 64, generator=torch.Generator().manual_seed(0))
    scene = renderer(latent)
    weight = torch.ones_like(scene)
    found = {}
    for name, (size, pixel) in SURVEYS.items():
        observation = make_sight(size, pixel).observation()
        image = observation(scene)
        ones = torch.ones_like(image)
        ratios, plain = [], []
        for _ in range(PAIRS):
            plain.append(seconds(lambda: objective(latent, scene, weight)))
            # Default arguments bind this survey's observation.
            through = seconds(lambda o=observation, i=image, w=ones: objective(latent, i, w, o))  # type: ignore[misc]
            ratios.append(through / plain[-1])
        found[name] = {
            "ratio": round(float(np.median(ratios)), 3),
            "quartiles": np.quantile(ratios, [0.25, 0.75]).round(3).tolist(),
            "us_without": round(1e6 * float(np.median(plain)) / SLOTS, 1),
        }
    print(json.dumps({"slots": SLOTS, "pairs": PAIRS, "surveys": found, "provenance": provenance()}))


if __name__ == "__main__":
    main()
