"""The report's figures with several panels; what is drawn in them is `deepfits.plot`.

No global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepfits import plot


def single(size: tuple[float, float], draw: Callable[[Axes], Any]) -> Figure:
    """Return a figure of one panel, which `draw` fills."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure


def contact_sheet(image: np.ndarray, noise: np.ndarray, *, columns: int = 16) -> Figure:
    """Draw the colour composites of many galaxies, ``(N, B, H, W)``, close together."""
    figure = Figure(figsize=(9, 9 * -(-len(image) // columns) / columns))
    plot.contact_sheet(image, noise, columns=columns, ax=figure.add_axes((0, 0, 1, 1)))
    return figure


def chi2(
    signal_to_noise: np.ndarray, reduced: Mapping[str, np.ndarray], central: Mapping[str, np.ndarray]
) -> Figure:
    """Draw reduced χ² of each mode: its distribution, and its median against signal to noise.

    Signal to noise is ``(N,)``, and so are, for each mode, χ² over the cutout and in its middle.
    """
    figure = Figure(figsize=(10.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    plot.chi2_histogram(reduced, ax=axes[0])
    plot.chi2_by_signal(signal_to_noise, reduced, ax=axes[1], y_name="χ²ᵣ of the cutout")
    plot.chi2_by_signal(signal_to_noise, central, ax=axes[2], y_name="χ²ᵣ of the middle")
    return figure
