"""Contact sheets: many cutouts at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepfits.survey.store import CutoutStore


def contact_sheet(
    store: CutoutStore,
    path: str | Path,
    *,
    num_objects: int = 12,
    seed: int = 0,
    which: np.ndarray | None = None,
    order_by: str | None = None,
) -> Path:
    """Draw some objects in all bands, one object a row of stamps, and say what they are.

    Parameters
    ----------
    store
        The store to look at.
    path
        A PNG.
    num_objects
        How many, drawn at random with `seed`, unless `which` names rows of the store.
    order_by
        A catalogue column that the rows are sorted by.

    Returns
    -------
    Path
        `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if which is None:
        which = np.random.default_rng(seed).permutation(len(store))[:num_objects]
    chosen = store.take(np.asarray(which))
    if order_by is not None:
        chosen = chosen.select(np.argsort(chosen.catalogue[order_by]))
    bands = store.info.bands
    columns = 2 if len(chosen) > 6 else 1
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.05 * columns * (len(bands) + 0.7), 1.05 * rows + 0.3), dpi=72)
    FigureCanvasAgg(figure)
    across = columns * (len(bands) + 1)
    for index in range(len(chosen)):
        row, column = index % rows, index // rows
        for band in range(len(bands)):
            axes = figure.add_subplot(rows, across, row * across + column * (len(bands) + 1) + band + 1)
            axes.imshow(_stretched(chosen.image[index, band], chosen.weight[index, band]), **_LOOK)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(bands[band], fontsize=9)
            if band == 0:
                axes.set_ylabel(_label(chosen.catalogue, index, bands), fontsize=6)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.96, bottom=0.01, wspace=0.04, hspace=0.04)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return Path(path)


_LOOK: dict[str, Any] = {
    "origin": "lower",
    "cmap": "gray",
    "vmin": -1.0,
    "vmax": 5.0,
    "interpolation": "nearest",
}


def _stretched(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return asinh of the signal-to-noise; NaN (drawn white) without data."""
    return np.where(weight > 0, np.arcsinh(image * np.sqrt(weight) / 2), np.nan)


def _label(catalogue: dict[str, np.ndarray], index: int, bands: tuple[str, ...]) -> str:
    band = "r" if "r" in bands else bands[len(bands) // 2]
    name = f"mag_auto_{band}"
    words = f"{band} {catalogue[name][index]:.1f}" if name in catalogue else ""
    if "star_score" in catalogue:
        words += f"\n★ {catalogue['star_score'][index]:.2f}"
    return words
