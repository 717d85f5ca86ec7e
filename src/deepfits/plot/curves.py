"""Figures with axes: redshifts, χ², maps of latents, training.

Shapes: N objects, L latent dimensions.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from deepfits.photometry import robust_scatter
from deepfits.plot.style import COLOURS, GRID, INK, label, own_axes, plain_logarithm

_DENSITY = LinearSegmentedColormap.from_list("density", ["#c9d9ec", "#3b6ea8", "#14263d"])
MANY = 1500  # above this number of points, a density is drawn
MIN_IN_BIN = 5
OUTLIER = 0.15
METRICS = {"r2": "R²", "sigma_mad": "σ_MAD", "eta_15": "fraction with |Δz| > 0.15", "bias": "bias"}


def scatter(
    z_spec: np.ndarray,
    z_phot: np.ndarray,
    *,
    title: str = "",
    note: str | None = None,
    top: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show estimated against spectroscopic redshifts, ``(N,)`` each; dotted: Δz = ±0.15 (1 + z).

    `note` is a text in the corner, by default σ_MAD and the outlier fraction.
    """
    ax = own_axes(ax, (3.2, 3.5))
    known = np.isfinite(z_spec) & np.isfinite(z_phot)
    z_spec, z_phot = z_spec[known], z_phot[known]
    if top is None:
        top = float(np.quantile(z_spec, 0.995)) * 1.1 if len(z_spec) else 1.0
    if note is None and len(z_spec):
        error = (z_phot - z_spec) / (1 + z_spec)
        share = (np.abs(error) > OUTLIER).mean()
        note = f"σ_MAD {robust_scatter(error):.3f}\nη(0.15) {share:.3f}"
    if len(z_spec) <= MANY:
        ax.scatter(z_spec, z_phot, s=_dot(len(z_spec)), color=COLOURS[0], alpha=0.6, linewidths=0)
    else:
        box = (0, top, 0, top)
        ax.hexbin(z_spec, z_phot, gridsize=60, extent=box, bins="log", mincnt=1, cmap=_DENSITY, linewidths=0)
    line = np.array([0.0, top])
    ax.plot(line, line, color=INK, linewidth=0.8)
    for sign in (-1, 1):
        ax.plot(line, line + sign * OUTLIER * (1 + line), color=INK, linewidth=0.6, linestyle=":")
    ax.text(0.04, 0.96, note or "", transform=ax.transAxes, va="top", fontsize=8)
    label(ax, "z_spec", "z_phot", title)
    ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    return ax


def _dot(number: int) -> float:
    """Return the area of a point: a few are seen, and many do not hide each other."""
    return float(np.clip(6000 / max(1, number), 3, 20))


def pit(values: np.ndarray, *, title: str = "", note: str = "", ax: Axes | None = None) -> Axes:
    """Show a histogram of PIT values, ``(N,)``: flat, within the noise (grey), if p(z) is calibrated."""
    ax = own_axes(ax, (3.2, 2.8))
    values = values[np.isfinite(values)]
    error = (10 / max(1, len(values)) * 0.9) ** 0.5  # of a bin's density, if p(z) is calibrated
    ax.axhspan(1 - error, 1 + error, color=GRID)
    ax.hist(values, bins=np.linspace(0, 1, 11).tolist(), density=True, color=COLOURS[0], alpha=0.8)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    ax.text(0.5, 0.04, note, transform=ax.transAxes, ha="center", fontsize=8, bbox=behind)
    label(ax, "PIT", "density", title)
    return ax


def label_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str = "sigma_mad", *, ax: Axes | None = None
) -> Axes:
    """Show a metric against the number of labels, one line per method.

    Parameters
    ----------
    curves
        Points of each method by name, with ``num_labels`` and ``metrics`` (``value`` and ``error`` of each);
        see `deepfits.reporting.redshift_figures.curves_of`.
    metric
        ``"r2"``, ``"sigma_mad"``, ``"eta_15"`` or ``"bias"``.
    """
    ax = own_axes(ax, (4.5, 3.2))
    for number, (name, points) in enumerate(curves.items()):
        # shifted slightly, so that error bars do not overlap
        x = [point["num_labels"] * 1.05 ** (number - len(curves) / 2) for point in points]
        linestyle = "-" if number < len(COLOURS) else "--"
        _line_with_errors(ax, x, points, metric, number, label=name, linestyle=linestyle)
    plain_logarithm(ax, "x")
    ax.grid(color=GRID, linewidth=0.6)
    if metric in ("sigma_mad", "eta_15"):
        ax.set_ylim(bottom=0)
    label(ax, "number of labels", METRICS[metric])
    return ax


def error_curve(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, *, x: str, ax: Axes | None = None
) -> Axes:
    """Show a metric in bins, one line per method.

    Parameters
    ----------
    curves
        Bins of each method by name, with ``low``, ``high`` and ``metrics``.
    x
        Name of the binned quantity.
    """
    ax = own_axes(ax, (4.5, 2.8))
    for number, (name, bins) in enumerate(curves.items()):
        if not bins:
            continue
        # Shifted slightly, so that error bars do not overlap; the last bin may be open.
        width = min(group["high"] - group["low"] for group in bins)
        centre = np.array([group["low"] + min(group["high"] - group["low"], width) / 2 for group in bins])
        at = centre + 0.3 * width * ((number + 0.5) / len(curves) - 0.5)
        _line_with_errors(ax, at, bins, metric, number, label=name)
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_ylim(bottom=0)
    label(ax, x, METRICS[metric])
    return ax


def _line_with_errors(
    ax: Axes, x: Any, points: Sequence[Mapping[str, Any]], metric: str, number: int, **options: Any
) -> None:
    estimates = [point["metrics"][metric] for point in points]
    ax.errorbar(
        x,
        [estimate["value"] for estimate in estimates],
        yerr=[estimate["error"] for estimate in estimates],
        color=COLOURS[number % len(COLOURS)],
        marker="o",
        markersize=3.5,
        linewidth=1.2,
        **options,
    )


def latent_map(
    latent: np.ndarray,
    *,
    colour: np.ndarray | None = None,
    name: str = "",
    logarithmic: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Show latents, ``(N, L)``, on their first two principal components; positions ``(N, 2)`` as they are.

    Parameters
    ----------
    colour
        ``(N,)`` numbers that set the colours of the points.
    name
        Label of the colour bar.
    logarithmic
        Whether the colour scale is logarithmic.
    """
    ax = own_axes(ax, (5.2, 4.4))
    good = np.flatnonzero(np.isfinite(latent).all(axis=1))
    place = latent[good]
    if latent.shape[1] > 2:
        centred = place - place.mean(axis=0)
        place = centred @ np.linalg.svd(centred.T @ centred)[0][:, :2]
    size = _dot(len(good))
    if colour is None:
        ax.scatter(place[:, 0], place[:, 1], s=size, color=COLOURS[0], alpha=0.4, linewidths=0)
    else:
        shown = np.asarray(colour, dtype=float)[good]
        finite = shown[np.isfinite(shown) & ((shown > 0) | (not logarithmic))]
        low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
        scale: dict[str, Any] = {"norm": LogNorm(low, high)} if logarithmic else {"vmin": low, "vmax": high}
        points = ax.scatter(
            place[:, 0], place[:, 1], c=shown, s=size, alpha=0.6, linewidths=0, cmap="viridis", **scale
        )
        bar = ax.figure.colorbar(points, ax=ax, label=name)
        bar.ax.tick_params(labelsize=8)
    label(ax, "first component", "second component")
    return ax


def losses(steps: np.ndarray, curves: Mapping[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """Show losses against the step: smoothed, in front of the raw values."""
    ax = own_axes(ax, (7.2, 2.9))
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        ax.plot(steps, values, color=colour, alpha=0.22, lw=0.7)
        alone = "o" if len(steps) == 1 else ""  # a line through one point would be invisible
        ax.plot(steps, _smooth(values), color=colour, lw=1.6, marker=alone, label=name)
    plain_logarithm(ax, "y")
    label(ax, "step", "loss")
    ax.legend(frameon=False, fontsize=8, ncols=3)
    return ax


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 40)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def chi2_histogram(reduced: Mapping[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """Show distributions of reduced χ², ``(N,)`` each; the first and last bins include values beyond."""
    ax = own_axes(ax, (4.0, 2.9))
    every = np.concatenate(list(reduced.values()))
    every = every[np.isfinite(every) & (every > 0)]
    low, high = 0.7, float(np.clip(np.percentile(every, 90), 2, 20)) if every.size else 2.0
    bins = np.geomspace(low, high, 60).tolist()
    for colour, (name, values) in zip(COLOURS, reduced.items(), strict=False):
        clipped = np.clip(values[np.isfinite(values)], low, high)
        ax.hist(clipped, bins=bins, histtype="step", color=colour, lw=1.5, label=name)
    ax.axvline(1, color=INK, lw=0.7, ls=":")
    ax.set_xlim(low, high * 1.02)
    plain_logarithm(ax, "x")
    label(ax, f"reduced χ² (last bin: {high:.1f} and above)", "objects")
    ax.legend(frameon=False, fontsize=8, loc="upper center")
    return ax


def chi2_by_signal(
    signal_to_noise: np.ndarray,
    reduced: Mapping[str, np.ndarray],
    *,
    num_bins: int = 8,
    y_name: str = "reduced χ²",
    ax: Axes | None = None,
) -> Axes:
    """Show the median of reduced χ², ``(N,)`` each, in bins of signal-to-noise ratio; shaded: 16 to 84%.

    Objects that are too few for bins are shown as points.
    """
    ax = own_axes(ax, (4.0, 2.9))
    for number, (name, values) in enumerate(reduced.items()):
        colour = COLOURS[number % len(COLOURS)]
        if not running_median(ax, signal_to_noise, values, num_bins, color=colour, label=name):
            ax.plot(signal_to_noise, values, "o", color=colour, ms=3.5, label=name)
    ax.axhline(1, color=INK, lw=0.7, ls=":")
    plain_logarithm(ax, "x")
    plain_logarithm(ax, "y")
    label(ax, "signal-to-noise ratio", y_name)
    ax.legend(frameon=False, fontsize=8)
    return ax


def running_median(ax: Axes, x: np.ndarray, y: np.ndarray, num_bins: int, **line: Any) -> bool:
    """Show the median of `y`, and 16 to 84%, in equal-number bins of `x`; return whether any has enough."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    bins = []
    for left, right in pairwise(np.quantile(x, np.linspace(0, 1, num_bins + 1))) if good.any() else ():
        is_inside = (x >= left) & (x <= right)
        if is_inside.sum() >= MIN_IN_BIN:
            bins.append([np.median(x[is_inside]), *np.percentile(y[is_inside], [16, 50, 84])])
    if bins:
        middle, low, median, high = np.transpose(bins)
        ax.plot(middle, median, "o-", ms=3.5, lw=1.4, **line)
        ax.fill_between(middle, low, high, color=line["color"], alpha=0.15, lw=0)
    return bool(bins)


def scatter_with_difference(
    measured: np.ndarray,
    predicted: np.ndarray,
    *,
    x_name: str,
    y_name: str,
    axes: tuple[Axes, Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Show predicted against measured magnitudes with the identity line, and their difference below."""
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(2, 1, height_ratios=(3, 1.2), sharex=True, layout="constrained")[1]
    is_good = np.isfinite(measured) & np.isfinite(predicted)
    x, y = measured[is_good], predicted[is_good]
    upper, lower = axes
    how: dict[str, Any] = {"s": _dot(len(x)), "alpha": 0.5, "color": COLOURS[0], "linewidths": 0}
    upper.scatter(x, y, **how)
    if x.size:
        limits = np.percentile(np.concatenate([x, y]), [0.5, 99.5])
        upper.plot(limits, limits, color=INK, lw=0.8)
        upper.set(xlim=limits, ylim=limits)
        lower.set_ylim(-1, 1)
    lower.scatter(x, y - x, **how)
    lower.axhline(0, color=INK, lw=0.8)
    label(upper, "", y_name)
    label(lower, x_name, "difference")
    return upper, lower


def magnitudes(magnitude: np.ndarray, name: str, *, ax: Axes | None = None) -> Axes:
    """Show the number of objects per half magnitude."""
    ax = own_axes(ax, (7.2, 2.4))
    good = magnitude[np.isfinite(magnitude)]
    if good.size:
        edges = np.arange(np.floor(good.min()), np.ceil(good.max()) + 0.5, 0.5)
        ax.hist(good, bins=edges.tolist(), color=COLOURS[0], alpha=0.85)
        ax.set_ylim(bottom=0.5)  # bins with a single object are seen
    plain_logarithm(ax, "y")
    label(ax, name, "objects per 0.5 mag")
    return ax
