"""The report's map of the latents, and how far they are repeatable and tell galaxies apart.

Shapes: N held-out objects, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from deepfits import plot
from deepfits.photometry import ab_magnitude, robust_scatter
from deepfits.reporting import figures
from deepfits.reporting.held_out import MIN_IN_BIN, UNSEEN, FitResult, HeldOut
from deepfits.reporting.map import make_map
from deepfits.reporting.page import PageTable, Picture, Section, format_number

MIN_COLOUR_SNR = 10.0


def latent_section(
    held: HeldOut,
    fits: Mapping[str, FitResult],
    columns: Mapping[str, np.ndarray],
    place: np.ndarray,
    knows: Sequence[PageTable] = (),
) -> Section:
    """Show the latents: a map, how repeatable they are, how far from the prior, and what neighbours share.

    The map can be coloured by the columns, ``(N,)`` each, besides brightness and χ²; distances are taken
    between the places, ``(N, L)``, coordinates of the embeddings. `knows` are tables of what they know, where
    the truth is at hand.
    """
    mode = list(fits)[-1]
    last = fits[mode]
    shown = {
        held.magnitude_name: held.magnitude,
        "signal to noise (lg)": np.log10(np.maximum(held.signal_to_noise, 0.1)),
        "reduced χ²": last.reduced,
        **columns,
    }
    picture = Picture(
        name="latent-map",
        figure=figures.single(
            (6.4, 4.4),
            lambda ax: plot.latent_map(
                last.embedding, colour=held.magnitude, name=held.magnitude_name, ax=ax
            ),
        ),
        caption="The same map, as a figure.",
    )
    tables = [_prior_table(fits), *_repeat_table(fits), *_neighbour_table(held, place), *knows]
    made = make_map(held.object_id, last.embedding, held.image, held.weight, shown)
    return Section(
        title="Latents",
        paragraphs=[
            f"{UNSEEN} Of “{mode}”. The map and distances are those of the embeddings: many latents draw the "
            "same galaxy, and the embedder's answer to the drawing is the same for all of them."
        ],
        tables=tables,
        map=made,
        pictures=[picture],
    )


def _prior_table(fits: Mapping[str, FitResult]) -> PageTable:
    rows = []
    for mode, fit in fits.items():
        far = np.sqrt(np.mean(np.square(fit.latent, dtype=np.float64), axis=1))
        far = far[np.isfinite(far)]
        cells = np.percentile(far, [16, 50, 84]) if far.size else np.full(3, np.nan)
        rows.append([mode, *(format_number(float(cell), "{:.2f}") for cell in cells)])
    size = next(iter(fits.values())).latent.shape[1]
    caption = (
        "Distance of latents from the middle of the prior, as a root mean square: a draw of the prior has "
        f"1.00 ± {(2 * size) ** -0.5:.2f}; far above it the generator was never trained."
    )
    return PageTable(columns=["from the prior", "16%", "median", "84%"], rows=rows, caption=caption)


def _repeat_table(fits: Mapping[str, FitResult]) -> list[PageTable]:
    """Compare the latents of the same objects from two starts with those of different objects."""
    if not {"optimise", "both"} <= fits.keys():
        return []
    rows = []
    for name in ("latent", "embedding"):
        first, second = getattr(fits["optimise"], name), getattr(fits["both"], name)
        good = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        if good.sum() < 2 * MIN_IN_BIN:
            return []
        first, second = first[good], second[good]
        same = np.sqrt(np.mean((first - second) ** 2, axis=1))
        other = np.sqrt(np.mean((first - np.roll(second, len(second) // 2, axis=0)) ** 2, axis=1))
        difference = (fits["optimise"].chi2 - fits["both"].chi2)[good]
        apart = [np.median(same), np.median(other), np.median(same) / np.median(other)]
        cells = [f"{int(good.sum()):,}", *(f"{value:.2f}" for value in apart)]
        rows.append([name, *cells, f"{np.median(difference):+.1f}"])
    return [
        PageTable(
            columns=["", "objects", "between two starts", "between objects", "ratio", "Δχ²"],
            rows=rows,
            caption="How repeatable fits are: median root mean square difference between an object fitted "
            "from a random start and from the embedder's guess, beside that between different objects, in "
            "latents and in embeddings of what they draw; and the median difference of χ². 0 is "
            "repeatable, 1 is chance.",
        )
    ]


def _neighbour_table(held: HeldOut, coordinates: np.ndarray) -> list[PageTable]:
    """Compare measured colours of nearest neighbours with those of any two objects."""
    bright = np.isfinite(coordinates).all(axis=1) & (held.flux > MIN_COLOUR_SNR * held.flux_error).all(axis=1)
    rows = np.flatnonzero(bright)
    if len(rows) < 4 * MIN_IN_BIN or len(held.bands) < 2:
        return []
    place = coordinates[rows].astype(np.float64)
    square = (place**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * place @ place.T
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    magnitude = ab_magnitude(held.flux[rows])
    cells = []
    for index, (blue, red) in enumerate(pairwise(held.bands)):
        colour = magnitude[:, index] - magnitude[:, index + 1]
        near = robust_scatter(colour - colour[nearest])
        far = robust_scatter(colour - np.roll(colour, len(colour) // 2))
        cells.append([f"{blue} − {red}", f"{near:.3f}", f"{far:.3f}", f"{near / far:.2f}"])
    return [
        PageTable(
            columns=["colour", "nearest neighbours", "any two", "ratio"],
            rows=cells,
            caption="Scatter (1.4826 MAD, magnitudes) of the difference between the measured colours of two "
            f"objects: nearest neighbours by embedding, and any two, of {len(rows):,} objects above "
            f"{MIN_COLOUR_SNR:g}σ in every band.",
        )
    ]
