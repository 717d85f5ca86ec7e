"""Draw the same galaxies in three surveys, with the best fits and the scenes recovered from each survey.

    python benchmarks/transfer.py --out bench-transfer
    python benchmarks/scene_pictures.py bench-transfer docs/images/scenes.png [--model builtin:ugriz]

Rows: the image in each survey followed by its best fit, and then the scene at the reference PSF recovered
from each survey. The galaxies are the brightest ones with i > 20 that all three surveys detect.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.store import CutoutStore
from transfer import make_surveys

NUMBER = 10
BRIGHTEST = 20.0


def main() -> None:
    """Fit the galaxies and draw the figure."""
    parser = argparse.ArgumentParser(description="The same galaxies in three surveys, and their scenes.")
    parser.add_argument("sky", help="directory of benchmarks/transfer.py")
    parser.add_argument("out", help="PNG")
    parser.add_argument("--model", default="builtin:ugriz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load(options.model)
    rows: dict[str, tuple[CutoutStore, dict[int, int]]] = {}
    magnitude: dict[int, float] = {}
    for name in make_surveys():
        directory = Path(options.sky) / name
        store = CutoutStore(directory / "cutouts")
        labels = read_labels(directory / "sky" / "truth.parquet", select=["kind == galaxy"])
        places = {key: np.asarray(values) for key, values in store.catalogue(["ra", "dec"]).items()}
        found = match_labels(places, labels)
        identity = labels.columns["object_id"][found.label_rows]
        rows[name] = store, dict(zip(identity.tolist(), np.asarray(found.rows).tolist(), strict=True))
        magnitude |= dict(zip(labels.columns["object_id"], labels.columns["mag_i"], strict=True))
    common = set.intersection(*(set(row_of) for _, row_of in rows.values()))
    chosen = sorted((i for i in common if magnitude[i] > BRIGHTEST), key=lambda i: magnitude[i])[:NUMBER]
    pictures = []
    scenes = []
    for store, row_of in rows.values():
        cutouts = store.take(np.array([row_of[identity] for identity in chosen]))
        fitter = Fitter(model, FitSettings(uncertainty=False), store.info, threads=1)
        fitted = fitter.fit_cutouts(with_neighbours(cutouts, store.info))
        noise = np.sqrt(1 / np.median(cutouts.weight, axis=(0, 2, 3)))
        pictures += [colours(image, noise) for image in (cutouts.image, fitter.reconstruct(fitted))]
        with torch.no_grad():
            scene = model.render(torch.as_tensor(fitted.fit.latent)).numpy()
        scenes.append(colours(scene, np.array(model.normalisation.softening) / 3))
    save(pictures + scenes, list(rows), Path(options.out))


def colours(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return colour images of z, r and g with an asinh stretch, scaled by the noise: ``(N, H, W, 3)``."""
    x = np.arcsinh(image[:, [4, 2, 1]] / (3 * noise[[4, 2, 1], None, None]))
    top = x.max(axis=(1, 2, 3), keepdims=True)
    return np.clip(x / top, 0, 1).transpose(0, 2, 3, 1)


def save(rows: list[np.ndarray], names: list[str], path: Path) -> None:
    """Save a figure with one row of images per entry of `rows`."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    labels = [label for name in names for label in (name, "best fit")]
    labels += [f"scene from {name}" for name in names]
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(1.1 * len(rows[0]) + 1.3, 1.1 * len(rows)))
    for axis_row, row, label in zip(axes, rows, labels, strict=True):
        for axis, picture in zip(axis_row, row, strict=True):
            axis.imshow(picture, origin="lower", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        axis_row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(left=0.16, right=0.995, bottom=0.005, top=0.995, wspace=0.03, hspace=0.03)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
