"""Images of galaxies on matplotlib axes.

Shapes: N objects, B bands, H, W pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from deepfits.pictures import (
    BRIGHTEST,
    GAP,
    MISSING,
    RESIDUAL_SIGMA,
    colour_composite,
    combined,
    diverging,
    lay_out,
    noise_at_edges,
    noise_per_band,
    noise_where,
    significance,
    stretch,
    strip,
    top_of,
)
from deepfits.plot.style import INK, bare, own_axes

CELL_INCHES = 0.82


def composite(
    image: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    weight: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show all bands of a galaxy, ``(B, H, W)`` in nJy, as a colour composite.

    Parameters
    ----------
    noise
        ``(B,)`` nJy per pixel, which sets the stretch; by default from `weight`, else from the image's edge.
    weight
        ``(B, H, W)`` nJy⁻².
    """
    ax = own_axes(ax, (2.5, 2.5))
    bare(ax)
    if noise is None and weight is not None:
        noise = noise_per_band(weight[None])
    elif noise is None:
        noise = noise_at_edges(image)
    shown = image if weight is None else np.where(weight > 0, image, np.nan)
    ax.imshow(colour_composite(shown, noise), origin="lower", interpolation="nearest")
    return ax


def residuals(image: np.ndarray, fitted: np.ndarray, weight: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Show (image − fit) in units of the noise, with bands side by side: blue −5, white 0, red +5.

    Image and fit are ``(B, H, W)`` in nJy, the weight is in nJy⁻².
    """
    ax = own_axes(ax, (1.5 * len(image), 1.6))
    bare(ax)
    sigma = significance(image, fitted, weight)
    ax.imshow(lay_out([diverging(band)[::-1] for band in sigma], len(sigma)), interpolation="nearest")
    return ax


def reconstructions(
    rows: Mapping[str, np.ndarray],
    bands: Sequence[str],
    noise: np.ndarray,
    *,
    residual: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    per_line: int = 2,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Show several versions of the same galaxies in rows, as in M19 Figs. 1 and 2.

    Parameters
    ----------
    rows
        Images ``(N, B, H, W)`` in nJy of each version, by label; NaN where there are none. The first version
        that has a band sets its stretch for all, and the bands of the first are those of the composites.
    noise
        ``(B,)`` nJy per pixel.
    residual
        ``(N, B, H, W)`` in units of the noise, shown in the last row; see `significance`.
    titles
        One line above each galaxy.
    notes
        Short texts shown under the labels, by label and galaxy (such as χ²).
    per_line
        Number of galaxies side by side.
    """
    images = list(rows.values())
    number, columns = len(images[0]), len(bands) + 1
    lines, per_line = -(-number // per_line), min(per_line, number)
    depth = len(rows) + (residual is not None)
    size = (per_line * (columns * CELL_INCHES + 1.35), lines * (depth * CELL_INCHES + 0.62) + 0.1)
    figure = figure or Figure(figsize=size)  # outside pyplot: notebooks display it as the value of a cell
    margin = 0.62 / size[1]  # room for a title, independent of the height
    space = {"hspace": 0.17, "wspace": 0.24}
    edges = {"left": 0.95 / size[0], "right": 0.995, "top": 1 - margin, "bottom": 0.01}
    outer = figure.add_gridspec(lines, per_line, **space, **edges)
    for index in range(number):
        ax = figure.add_subplot(outer[index // per_line, index % per_line])
        bare(ax)
        galaxy = {label: several[index] for label, several in rows.items()}
        names = [label + (f"\n{notes[label][index]}" if notes and label in notes else "") for label in rows]
        _show_versions(ax, galaxy, names, bands, noise, None if residual is None else residual[index])
        if titles is not None:
            ax.set_title(titles[index], size=8.5, pad=15, color=INK, weight="bold")
    return figure


def _show_versions(
    ax: Axes,
    rows: Mapping[str, np.ndarray],
    names: Sequence[str],
    bands: Sequence[str],
    noise: np.ndarray,
    residual: np.ndarray | None,
) -> None:
    """Show versions of one galaxy, ``(B, H, W)`` each, as a single image, labelled on the left and above.

    A single image, because hundreds of axes would take most of the time of a report.
    """
    first = next(iter(rows.values()))
    high, wide = np.array(first.shape[-2:]) + GAP
    tops = [_brightest(images) for images in zip(*rows.values(), strict=True)]
    seen, brightest = noise_where(first, noise), top_of(first, noise)
    cells, row_names = [], list(names)
    for line, images in enumerate(rows.values()):
        cells.append(colour_composite(images, seen, top=brightest))
        for band, image in enumerate(images):
            cells.append(_band(image, float(noise[band]), tops[band]))
            if not np.isfinite(image).any():
                middle = ((band + 1) * wide + wide / 2, line * high + high / 2)
                ax.text(*middle, "no data", ha="center", va="center", size=6.5)
    if residual is not None:
        cells += [diverging(values) for values in (combined(residual), *residual)]
        row_names.append(f"residual\n±{RESIDUAL_SIGMA:g} σ")
    ax.imshow(lay_out([cell[::-1] for cell in cells], len(bands) + 1), interpolation="nearest")
    for column, name in enumerate(("colour", *bands)):
        place = (column * wide + wide / 2, 0)
        ax.annotate(name, place, (0, 4), textcoords="offset points", ha="center", va="bottom", size=8)
    for line, name in enumerate(row_names):
        place = (0, line * high + high / 2)
        ax.annotate(name, place, (-5, 0), textcoords="offset points", ha="right", va="center", size=7.5)


def _brightest(versions: Sequence[np.ndarray]) -> float:
    """Return the 99.7th percentile of the first version of a band, ``(H, W)`` each, that has data; else 0."""
    return next((float(np.nanpercentile(i, 99.7)) for i in versions if np.isfinite(i).any()), 0.0)


def _band(image: np.ndarray, noise: float, top: float) -> np.ndarray:
    """Return one band as RGB, ``(H, W, 3)``; grey where there is no data."""
    if not np.isfinite(image).any():
        return np.full((*image.shape, 3), MISSING)
    noise = noise if np.isfinite(noise) else max(1e-9, float(np.nanstd(image)))
    shown = stretch(image, noise, top or 5 * noise)
    return np.where(np.isfinite(shown)[..., None], colormaps["magma"](np.nan_to_num(shown))[..., :3], MISSING)


def tiles(
    image: np.ndarray,
    weight: np.ndarray,
    captions: Sequence[str],
    *,
    fitted: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    columns: int = 4,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Show colour composites of many galaxies with captions, and optionally best fits and residuals.

    Each galaxy has its own stretch, so that faint ones are visible; `contact_sheet` uses one for all.

    Parameters
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    fitted
        Best fits, ``(N, B, H, W)`` in nJy; NaN where there is none.
    noise
        ``(B,)`` nJy per pixel; by default that of these images.
    """
    noise = noise_per_band(weight) if noise is None else noise
    lines, columns = -(-len(image) // columns), min(columns, len(image))
    wide = 1 if fitted is None else 3
    above = 0.02 if fitted is None else 0.2  # inches, as are
    below = 0.15 + 0.13 * max(caption.count("\n") + 1 for caption in captions)
    height = above + lines * (1 + below)
    figure = figure or Figure(figsize=(columns * (wide + 0.25), height))
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - above / height, bottom=below / height, wspace=0.08, hspace=below
    )
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for ax in axes:
        bare(ax)
    if fitted is not None:
        for ax in axes[:columns]:
            for place, name in enumerate(("observed", "best fit", f"residual ±{RESIDUAL_SIGMA:g} σ")):
                ax.text((place + 0.5) / wide, 1.03, name, transform=ax.transAxes, ha="center", size=7)
    for index, ax in enumerate(axes[: len(image)]):
        observed = np.where(weight[index] > 0, image[index], np.nan)
        seen, top = noise_where(observed, noise), top_of(observed, noise)
        shown = [colour_composite(observed, seen, top=top)]
        if fitted is not None:
            sigma = significance(image[index], fitted[index], weight[index])
            shown.append(colour_composite(fitted[index], seen, top=top))
            shown.append(diverging(combined(sigma)))
        ax.imshow(lay_out([picture[::-1] for picture in shown], wide), interpolation="nearest")
        ax.set_xlabel(captions[index], size=7, labelpad=2)
    return figure


def contact_sheet(image: np.ndarray, noise: np.ndarray, *, columns: int = 16, ax: Axes | None = None) -> Axes:
    """Show a contact sheet of colour composites of many galaxies, ``(N, B, H, W)`` in nJy."""
    ax = own_axes(ax, (9, 9 * -(-len(image) // columns) / columns))
    bare(ax)
    ax.imshow(strip(image, noise, columns, top=BRIGHTEST), interpolation="nearest")
    return ax
