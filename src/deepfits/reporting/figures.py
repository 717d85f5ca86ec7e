"""Pictures of galaxies, of training and of fits.

Shapes: N objects, B bands, H, W pixels. Each function takes arrays and returns a matplotlib ``Figure``; no
global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#3b6ea8", "#c8553d", "#3f8f6b", "#8a6bb1", "#b8892b", "#5f6b78")
INK = "#1d2733"
MISSING = (0.86, 0.87, 0.89)

# Weights of (blue, green, red) thirds of the bands that make an average faint galaxy look white.
_BALANCE = {"blue": 2.2, "green": 1.1, "red": 0.9}


def noise_per_band(weight: np.ndarray) -> np.ndarray:
    """Return the median pixel noise of each band in nJy, ``(B,)``; NaN for a band without data.

    Parameters
    ----------
    weight
        ``(N, B, H, W)``, nJy⁻².
    """
    out = np.full(weight.shape[1], np.nan)
    for band in range(weight.shape[1]):
        valid = weight[:, band][weight[:, band] > 0]
        if valid.size:
            out[band] = float(np.median(valid)) ** -0.5
    return out


def colour_composite(image: np.ndarray, noise: np.ndarray, *, softening: float = 8.0) -> np.ndarray:
    """Combine all bands into a colour picture, after Lupton et al. (2004): hue does not saturate.

    Parameters
    ----------
    image
        ``(B, H, W)``, nJy.
    noise
        ``(B,)``, nJy per pixel: sets where the stretch turns from linear to logarithmic.
    softening
        That point, in units of the noise.

    Returns
    -------
    ndarray
        ``(H, W, 3)`` in [0, 1].
    """
    image = np.where(np.isfinite(image), image, 0)
    # The thirds of the bands, blue first, without bands that have no noise figure (no data).
    thirds = np.array_split(np.arange(len(image)), 3) if len(image) >= 3 else [np.arange(len(image))] * 3
    layers = []
    for name, which in zip(("blue", "green", "red"), thirds, strict=True):
        good = which[np.isfinite(noise[which])]
        layers.append(_BALANCE[name] * image[good].mean(axis=0) if good.size else np.zeros(image.shape[1:]))
    rgb = np.stack(layers[::-1], axis=-1)
    scale = softening * float(np.nanmedian(noise))
    intensity = rgb.mean(axis=-1)
    stretched = np.arcsinh(intensity / scale) / np.arcsinh(60.0)
    rgb = np.clip(rgb, 0, None) * (stretched / np.where(intensity > 0, intensity, np.inf))[..., None]
    return np.clip(0.06 + rgb / np.maximum(1, rgb.max(axis=-1, keepdims=True)), 0, 1)


def stretch(image: np.ndarray, noise: float, top: float) -> np.ndarray:
    """Map flux to [0, 1] by an asinh: −2σ is 0, `top` (nJy) is 1. NaN stays NaN."""
    low = np.arcsinh(-2.0 / 3.0)
    high = np.arcsinh(max(top, 5 * noise) / (3 * noise))
    return np.clip((np.arcsinh(image / (3 * noise)) - low) / (high - low), 0, 1)


def gallery(
    rows: Sequence[tuple[str, np.ndarray]],
    bands: Sequence[str],
    noise: np.ndarray,
    *,
    titles: Sequence[str],
    notes: Mapping[str, Sequence[str]] | None = None,
    per_line: int = 2,
    reference: int = 0,
) -> Figure:
    """Draw several versions of the same galaxies under each other: M19 Figs. 1 and 2.

    Parameters
    ----------
    rows
        Label and images ``(N, B, H, W)`` in nJy of each version; NaN where there is nothing to show.
    bands
        Names of the bands.
    noise
        ``(B,)`` nJy per pixel.
    titles
        One line above each galaxy.
    notes
        For a row's label, a short text per galaxy under the label (a χ², say).
    per_line
        Galaxies side by side.
    reference
        The row whose brightness sets the stretch of each band, for all rows alike.

    Returns
    -------
    Figure
        A column with the colour composite and one per band, for each galaxy.
    """
    number, num_rows, num_columns = len(titles), len(rows), len(bands) + 1
    lines = -(-number // per_line)
    cell = 0.82
    figure = Figure(
        figsize=(per_line * (num_columns * cell + 1.35), lines * (num_rows * cell + 0.62) + 0.1),
    )
    outer = figure.add_gridspec(
        lines, per_line, hspace=0.17, wspace=0.24, left=0.085, right=0.995, top=0.965, bottom=0.01
    )
    for index in range(number):
        inner = outer[index // per_line, index % per_line].subgridspec(
            num_rows, num_columns, hspace=0.04, wspace=0.04
        )
        tops = [float(np.nanpercentile(rows[reference][1][index, band], 99.7)) for band in range(len(bands))]
        for line, (label, images) in enumerate(rows):
            note = notes.get(label, [""] * number)[index] if notes else ""
            for column in range(num_columns):
                axes = figure.add_subplot(inner[line, column])
                _bare(axes)
                if column == 0:
                    _show_colour(axes, images[index], noise)
                    axes.set_ylabel(
                        label + (f"\n{note}" if note else ""), rotation=0, ha="right", va="center", size=7.5
                    )
                else:
                    _show_band(axes, images[index, column - 1], float(noise[column - 1]), tops[column - 1])
                if line == 0:
                    axes.set_title("colour" if column == 0 else bands[column - 1], size=8, pad=2)
        first = figure.add_subplot(outer[index // per_line, index % per_line])
        first.axis("off")
        first.set_title(titles[index], size=8.5, pad=13, color=INK, weight="bold")
    return figure


def _show_colour(axes: Axes, image: np.ndarray, noise: np.ndarray) -> None:
    if np.isfinite(image).any():
        axes.imshow(colour_composite(image, noise), origin="lower", interpolation="nearest")
    else:
        axes.set_facecolor(MISSING)


def _show_band(axes: Axes, image: np.ndarray, noise: float, top: float) -> None:
    if not np.isfinite(image).any():
        axes.set_facecolor(MISSING)
        axes.text(0.5, 0.5, "no data", ha="center", va="center", size=6.5, transform=axes.transAxes)
        return
    axes.imshow(
        stretch(image, noise, top), origin="lower", interpolation="nearest", cmap="magma", vmin=0, vmax=1
    )


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def contact_sheet(image: np.ndarray, noise: np.ndarray, *, columns: int = 16) -> Figure:
    """Draw the colour composites of many galaxies, ``(N, B, H, W)``, close together."""
    side = image.shape[-1] + 1
    lines = -(-len(image) // columns)
    canvas = np.ones((lines * side, columns * side, 3))
    for index, one in enumerate(image):
        y, x = side * (index // columns), side * (index % columns)
        canvas[y : y + side - 1, x : x + side - 1] = colour_composite(one, noise)[::-1]
    figure = Figure(figsize=(9, 9 * lines / columns))
    axes = figure.add_axes((0, 0, 1, 1))
    _bare(axes)
    axes.imshow(canvas, interpolation="nearest")
    return figure


def training_curves(steps: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """Draw each loss against the step, smoothed, with the raw values behind."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, values) in zip(COLOURS, losses.items(), strict=False):
        axes.plot(steps, values, color=colour, alpha=0.22, lw=0.7)
        axes.plot(steps, _smooth(values), color=colour, lw=1.6, label=name)
    axes.set_yscale("log")
    _label(axes, "step", "loss")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 40)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def chi2_distributions(
    reduced: Mapping[str, np.ndarray], *, magnitude: np.ndarray | None, magnitude_name: str
) -> Figure:
    """Draw reduced χ² per mode: its distribution, and its median against magnitude.

    Parameters
    ----------
    reduced
        For each mode, ``(N,)`` reduced χ² of the same objects.
    magnitude
        ``(N,)`` AB magnitudes, NaN where not measured; None to leave the second panel out.
    magnitude_name
        For the axis.
    """
    has_second = magnitude is not None and np.isfinite(magnitude).sum() >= 20
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 2 if has_second else 1, squeeze=False)[0]
    every = np.concatenate(list(reduced.values()))
    every = every[np.isfinite(every) & (every > 0)]
    low, high = 0.7, float(np.clip(np.percentile(every, 90), 2, 20)) if every.size else 2.0
    bins = np.geomspace(low, high, 60).tolist()
    for colour, (mode, values) in zip(COLOURS, reduced.items(), strict=False):
        axes[0].hist(np.clip(values, low, high), bins=bins, histtype="step", color=colour, lw=1.5, label=mode)
        if has_second:
            assert magnitude is not None
            _binned_median(axes[1], magnitude, values, colour)
    axes[0].axvline(1, color=INK, lw=0.7, ls=":")
    axes[0].set_xscale("log")
    _label(axes[0], f"reduced χ² ({high:.1f} and above in the last bin)", "objects")
    axes[0].legend(frameon=False, fontsize=8)
    if has_second:
        axes[1].axhline(1, color=INK, lw=0.7, ls=":")
        axes[1].set_yscale("log")
        _label(axes[1], magnitude_name, "reduced χ²: median, 16–84%")
    return figure


def _binned_median(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, num_bins: int = 8) -> None:
    is_good = np.isfinite(x) & np.isfinite(y)
    edges = np.quantile(x[is_good], np.linspace(0, 1, num_bins + 1))
    centres: list[float] = []
    low: list[float] = []
    middle: list[float] = []
    high: list[float] = []
    for left, right in pairwise(edges):
        inside = y[is_good & (x >= left) & (x <= right)]
        if inside.size >= 5:
            centres.append((left + right) / 2)
            for out, level in ((low, 16), (middle, 50), (high, 84)):
                out.append(float(np.percentile(inside, level)))
    axes.plot(centres, middle, "o-", color=colour, ms=3.5, lw=1.4)
    axes.fill_between(centres, low, high, color=colour, alpha=0.15, lw=0)


def scatter_with_truth(
    measured: np.ndarray, predicted: np.ndarray, *, x_name: str, y_name: str, title: str = ""
) -> Figure:
    """Draw predicted against measured magnitudes with the line of equality, and the difference below."""
    is_good = np.isfinite(measured) & np.isfinite(predicted)
    x, y = measured[is_good], predicted[is_good]
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1.2), sharex=True)
    upper.plot(x, y, ".", ms=3, alpha=0.4, color=COLOURS[0], mew=0)
    if x.size:
        limits = np.percentile(np.concatenate([x, y]), [0.5, 99.5])
        upper.plot(limits, limits, color=INK, lw=0.8)
        upper.set(xlim=limits, ylim=limits)
        lower.set_ylim(-1, 1)
    lower.plot(x, y - x, ".", ms=3, alpha=0.4, color=COLOURS[0], mew=0)
    lower.axhline(0, color=INK, lw=0.8)
    _label(upper, "", y_name)
    _label(lower, x_name, "difference")
    upper.set_title(title, size=9)
    return figure


def magnitude_histogram(magnitude: np.ndarray, name: str) -> Figure:
    """Draw the number of objects per half magnitude."""
    good = magnitude[np.isfinite(magnitude)]
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    if good.size:
        edges = np.arange(np.floor(good.min()), np.ceil(good.max()) + 0.5, 0.5)
        axes.hist(good, bins=edges.tolist(), color=COLOURS[0], alpha=0.85)
    axes.set_yscale("log")
    _label(axes, name, "objects per 0.5 mag")
    return figure


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, size=9)
    axes.set_ylabel(y, size=9)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
