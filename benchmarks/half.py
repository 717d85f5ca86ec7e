"""Cost of 16-bit latents: χ² of best fits with latents rounded to half precision, against the exact latents.

    python benchmarks/half.py --store run/cutouts --model run/model

Takes about a minute. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deepfits.fitting.fitter import Fitter
from deepfits.fitting.measuring import measure
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.survey.store import CutoutStore


def main() -> None:
    """Fit, round the latents, and compare χ²."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", default="builtin:clauds-hsc")
    parser.add_argument(
        "--number", type=int, default=512, help="number of objects, evenly spaced in the store"
    )
    options = parser.parse_args()
    store, model = CutoutStore(options.store), Model.load(options.model)
    cutouts = store.take(np.linspace(0, len(store) - 1, options.number).astype(int))
    fitter = Fitter(model, FitSettings(), store.info)
    fitted = fitter.fit(cutouts.object_id, cutouts.image, cutouts.weight)
    rounded = replace(fitted, fit=replace(fitted.fit, latent=fitted.fit.latent.half().float()))
    exact, coarse = (measure(fitter, latents) for latents in (fitted, rounded))
    change = (coarse["chi2"] - exact["chi2"]).sum(1)
    dof = exact["dof"].sum(1)
    good = torch.isfinite(fitted.fit.latent).all(1).numpy()
    figures = {
        "num_objects": int(good.sum()),
        "median_change": float(np.median(change[good])),
        "mean_change": float(change[good].mean()),
        "percentile_99_change": float(np.percentile(change[good], 99)),
        "largest_change_per_dof": float((change / dof)[good].max()),
        "largest_latent": float(fitted.fit.latent[torch.from_numpy(good)].abs().max()),
    }
    for name, value in figures.items():
        print(f"{name:25s} {value:.4g}")
    print(json.dumps({**figures, "model": str(options.model), "provenance": provenance()}))


if __name__ == "__main__":
    main()
