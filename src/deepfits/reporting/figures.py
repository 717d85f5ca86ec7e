"""Multi-panel figures of the report, whose panels are drawn by `deepfits.plot`.

They do not use matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepfits import plot


def single(size: tuple[float, float], draw: Callable[[Axes], Any]) -> Figure:
    """Return a figure with a single panel, drawn by `draw`."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure


def contact_sheet(image: np.ndarray, noise: np.ndarray, *, columns: int = 16) -> Figure:
    """Draw a contact sheet of colour composites of galaxies, ``(N, B, H, W)``."""
    figure = Figure(figsize=(9, 9 * -(-len(image) // columns) / columns))
    plot.contact_sheet(image, noise, columns=columns, ax=figure.add_axes((0, 0, 1, 1)))
    return figure


def chi2(
    signal_to_noise: np.ndarray, reduced: Mapping[str, np.ndarray], central: Mapping[str, np.ndarray]
) -> Figure:
    """Draw reduced χ² for each mode: its distribution, and its median against signal-to-noise ratio.

    `signal_to_noise` is ``(N,)``, as are, for each mode, χ² of the whole cutout and of its centre.
    """
    figure = Figure(figsize=(10.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    plot.chi2_histogram(reduced, ax=axes[0])
    plot.chi2_by_signal(signal_to_noise, reduced, ax=axes[1], y_name="χ²ᵣ of the cutout")
    plot.chi2_by_signal(signal_to_noise, central, ax=axes[2], y_name="χ²ᵣ of the centre")
    return figure
