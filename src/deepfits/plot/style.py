"""Colours and axes shared by all figures."""

import math
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#3b6ea8", "#c8553d", "#3f8f6b", "#8a6bb1", "#b8892b", "#5f6b78", "#222222", "#d17fae")
INK = "#1d2733"
GRID = "#d9dde2"
DOTS_PER_INCH = 150  # of the pictures that stages write


def default_style() -> AbstractContextManager[None]:
    """Return a context in which files are drawn without the user's settings, such as LaTeX for all text."""
    return context("default")


def own_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the given axes, or new pyplot axes."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=size, layout="constrained")[1]
    return ax


def save(figure: Figure, target: Any, **options: Any) -> None:
    """Save a figure without parsing its texts as math: an identity may contain dollar signs."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}):
        figure.savefig(target, facecolor="white", **options)


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Label the axes, and remove the top and right spines."""
    ax.set_xlabel(x, size=9)
    ax.set_ylabel(y, size=9)
    if title:
        ax.set_title(title, size=9)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def plain_logarithm(ax: Axes, which: str) -> None:
    """Make an axis logarithmic, if any data on it are positive, with plain tick labels such as 0.5, 2, 10."""
    if not math.isfinite(getattr(ax.dataLim, f"minpos{which}")):
        return
    getattr(ax, f"set_{which}scale")("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = sorted(getattr(ax, f"get_{which}lim")())
    within = high / low < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if within else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def bare(ax: Axes) -> None:
    """Remove ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
