"""Draw the training curves of a model and its last panel with row labels, for the documentation.

python benchmarks/training_figures.py MODEL docs/images
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.image import imread

from deepfits.provenance import provenance

ROWS = ("real", "embedder", "best fit", "generated")


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def smooth(values: np.ndarray, number: int = 9) -> np.ndarray:
    """Return running medians."""
    padded = np.pad(values, number // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, number), axis=1)


def draw_curves(model: Path, out: Path) -> None:
    """Plot losses and health metrics against the training step."""
    rows = read_rows(model / "metrics.jsonl")
    evaluations = read_rows(model / "evaluations.jsonl")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    steps = np.array([row["step"] for row in rows])
    for name in ("discriminator", "generator", "embedder", "reconstruction"):
        if name in rows[0]:
            axes[0].plot(steps, smooth(np.array([row[name] for row in rows])), label=name)
    axes[0].set(xlabel="step", ylabel="loss (running median)", ylim=(0, 2))
    at = [row["step"] for row in evaluations]
    axes[1].plot(at, [row["kernel_distance"] for row in evaluations], "o-", label="kernel distance")
    axes[1].plot(at, [row["spread"] for row in evaluations], "s-", label="spread")
    axes[1].axhline(1, color="grey", lw=0.7, ls=":")
    axes[1].set(xlabel="step", ylabel="generated against real", ylim=(0, None))
    for mode in ("embedder", "both"):
        axes[2].plot(at, [row[f"chi2_{mode}"] for row in evaluations], "o-", label=mode)
    axes[2].axhline(1, color="grey", lw=0.7, ls=":")
    axes[2].set(xlabel="step", ylabel="median reduced χ², held out")
    for axis in axes:
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(out / "training-curves.png", dpi=110)


def draw_panel(model: Path, out: Path) -> None:
    """Label the rows of the last panel."""
    picture = imread(sorted((model / "panels").glob("*.png"))[-1])
    height, width = picture.shape[:2]
    figure, axis = plt.subplots(figsize=(8, 8 * height / width), constrained_layout=True)
    axis.imshow(picture, interpolation="nearest")
    axis.set(xticks=[], yticks=(np.arange(len(ROWS)) + 0.5) * height / len(ROWS), yticklabels=ROWS)
    figure.savefig(out / "training-panel.png", dpi=110)


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw_curves(arguments.model, arguments.out)
    draw_panel(arguments.model, arguments.out)
    print("drew training-curves.png and training-panel.png")
    print(json.dumps({"model": arguments.model.name, **provenance()}))


if __name__ == "__main__":
    main()
