"""Compare training options with the plain recipe, on the same store and with the same budget.

Trains one small model per variant and evaluates it on the same held-out cutouts: the distance between
generated and real images, and the median reduced chi-square of the embedder's guess and of the best fit, for
all objects and for the bright ones. Prints a table, then one JSON object.

    python benchmarks/training_options.py STORE --steps 1000 --variants plain asinh noise-aware
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfits.fitting.bestfit import fit
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.recipes import RECIPES
from deepfits.splits import is_held_out
from deepfits.stages.train import train
from deepfits.survey.normalise import is_complete
from deepfits.survey.store import Cutouts, CutoutStore

PLAIN: dict[str, Any] = {
    "normalisation": "standard",
    "noise": "none",
    "noisy_embedder": False,
    "symmetries": False,
    "incomplete": False,
    "ema": 0.0,
    "decay": 0.0,
    "reconstruction": 0.0,
    "smoothness": 0.0,
    "shared_discriminator_pass": False,
}
ASINH = PLAIN | {"normalisation": "asinh"}
NOISE = ASINH | {"noise": "correlated"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "asinh": ASINH,
    "asinh, softer": ASINH | {"softening_sigmas": 10.0},
    "asinh, EMA": ASINH | {"ema": 0.99},
    "asinh, symmetries": ASINH | {"symmetries": True},
    "asinh, incomplete": ASINH | {"incomplete": True},
    "asinh, rates decay": ASINH | {"decay": 0.5},
    "white noise": ASINH | {"noise": "white"},
    "noise-aware": NOISE,
    "noise-aware, noisy embedder": NOISE | {"noisy_embedder": True},
    "noise-aware, reconstruction": NOISE | {"noisy_embedder": True, "reconstruction": 0.2},
    "all": {},  # the unmodified recipe
    "all, no EMA": {"ema": 0.0},
    "all, no symmetries": {"symmetries": False},
    "all, no decay": {"decay": 0.0},
    "all, incomplete": {"incomplete": True},
    "all, kernel 3": {"kernel_size": 3},
    "all, kernel 5": {"kernel_size": 5},
    "all, beta1 0": {"beta1": 0.0},
    "all, beta1 0.9": {"beta1": 0.9},
    "all, no smoothness": {"smoothness": 0.0},
    "all, two passes": {"shared_discriminator_pass": False},
    "all, no reconstruction": {"reconstruction": 0.0},
}
BRIGHT = 24.0


def held_out_cutouts(store: CutoutStore, number: int) -> Cutouts:
    """Return complete held-out cutouts in an order that depends only on the objects."""
    indices = np.flatnonzero(is_held_out(store.catalogue([])["object_id"]))
    cutouts = store.take(np.random.default_rng(0).permutation(indices)[: 2 * number])
    return cutouts.take(np.flatnonzero(is_complete(cutouts.image, cutouts.weight))[:number])


def reduced_chi2(model: Model, latent: torch.Tensor, image: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """Return the reduced chi-square of each object over all its pixels."""
    with torch.no_grad():
        return ((image - model.render(latent)) ** 2 * weight).mean(dim=(1, 2, 3)).numpy()


def measure(directory: Path, cutouts: Cutouts, magnitude: np.ndarray) -> dict[str, Any]:
    """Evaluate one model."""
    model = Model.load(directory)
    image, weight = torch.from_numpy(cutouts.image), torch.from_numpy(cutouts.weight)
    with torch.no_grad():
        guess = model.embed(image, weight)
    best = fit(model.render, image, weight, guess, num_steps=60).latent
    row: dict[str, Any] = {}
    for mode, latent in (("embedder", guess), ("both", best)):
        chi2 = reduced_chi2(model, latent, image, weight)
        row[f"chi2_{mode}"] = float(np.median(chi2))
        row[f"chi2_{mode}_bright"] = float(np.median(chi2[magnitude < BRIGHT]))
    metrics = model.card["metrics"]
    return row | {name: metrics[name] for name in ("kernel_distance", "spread", "texture")} | timing(model)


def timing(model: Model) -> dict[str, Any]:
    """Return the number of steps, the seconds and the speed of the training."""
    seconds, steps = model.card["seconds"], model.card["steps"]
    batch = model.card["training"]["batch_size"]
    return {"steps": steps, "seconds": seconds, "images_per_s": round(steps * batch / seconds, 1)}


def main() -> None:
    """Train and evaluate every variant, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="vary to estimate the scatter by chance")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cutouts = held_out_cutouts(CutoutStore(arguments.store), arguments.objects)
    magnitude = np.asarray(cutouts.catalogue["mag_auto_i"])
    names = [
        "chi2_embedder", "chi2_embedder_bright", "chi2_both", "chi2_both_bright", "kernel_distance", "spread",
        "texture",
        "images_per_s",
    ]  # fmt: skip
    print(f"{arguments.steps} steps of {arguments.recipe}; {len(cutouts)} held-out objects, ", end="")
    print(f"{int((magnitude < BRIGHT).sum())} of them brighter than i = {BRIGHT:g}")
    print("| variant | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    rows = {}
    for variant in arguments.variants:
        with tempfile.TemporaryDirectory() as directory:
            out = train(
                arguments.store,
                Path(directory) / "model",
                recipe=arguments.recipe,
                steps=arguments.steps,
                threads=arguments.threads,
                seed=arguments.seed,
                options=VARIANTS[variant],
            )
            rows[variant] = measure(out, cutouts, magnitude)
        print(f"| {variant} | " + " | ".join(f"{rows[variant][n]:.3f}" for n in names) + " |", flush=True)
    print(json.dumps({"variants": rows, "recipe": arguments.recipe, **provenance()}))


if __name__ == "__main__":
    main()
