"""Section of the report on the latents: a map, repeatability, and properties of neighbours.

Shapes: N held-out objects, L latent dimensions.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from deepfits import plot
from deepfits.photometry import ab_magnitude, robust_scatter
from deepfits.reporting.held_out import MIN_IN_BIN, UNSEEN, FitResult, HeldOut
from deepfits.reporting.map import make_map
from deepfits.reporting.page import PageTable, Picture, Section, format_number, single

MIN_COLOUR_SNR = 10.0


def latent_section(
    held: HeldOut,
    fits: Mapping[str, FitResult],
    columns: Mapping[str, np.ndarray],
    place: np.ndarray,
    knows: Sequence[PageTable] = (),
) -> Section:
    """Return the section on the latents: a map, distances from the prior, repeatability, and neighbours.

    The map can be coloured by `columns`, ``(N,)`` each, besides brightness and χ². Distances are measured
    between the coordinates `place` of the embeddings, ``(N, L)``. `knows` are tables on the information
    content of the latents, if the truth is known.
    """
    mode = list(fits)[-1]
    last = fits[mode]
    shown = {
        held.magnitude_name: held.magnitude,
        "log10 signal-to-noise ratio": np.log10(np.maximum(held.signal_to_noise, 0.1)),
        "reduced χ²": last.reduced,
        **columns,
    }
    picture = Picture(
        name="latent-map",
        figure=single(
            (6.4, 4.4),
            lambda ax: plot.latent_map(
                last.embedding, colour=held.magnitude, name=held.magnitude_name, ax=ax
            ),
        ),
        caption="The same map as a static figure.",
    )
    tables = [_prior_table(fits), *_repeat_table(fits), *_neighbour_table(held, place), *knows]
    made = make_map(held.object_id, last.embedding, held.observed, held.noise, shown)
    return Section(
        title="Latents",
        paragraphs=[
            f"{UNSEEN} Results of “{mode}”. The map and the distances are based on embeddings: many latents "
            "draw the same galaxy, but the embedder's output for its image is the same for all of them."
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
        "Distance of latents from the centre of the prior (root mean square over dimensions): draws from the "
        f"prior have 1.00 ± {(2 * size) ** -0.5:.2f}; the generator was never trained far beyond that."
    )
    return PageTable(columns=["distance from the prior", "16%", "median", "84%"], rows=rows, caption=caption)


def _repeat_table(fits: Mapping[str, FitResult]) -> list[PageTable]:
    """Compare differences between two fits of the same object with those between different objects."""
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
        medians = [np.median(same), np.median(other), np.median(same) / np.median(other)]
        cells = [f"{int(good.sum()):,}", *(f"{value:.2f}" for value in medians)]
        rows.append([name, *cells, f"{np.median(difference):+z.1f}"])
    return [
        PageTable(
            columns=["", "objects", "between two starts", "between objects", "ratio", "Δχ²"],
            rows=rows,
            caption="Repeatability of fits: median root mean square difference between fits of the same "
            "object from a random start and from the embedder's guess, and between fits of different "
            "objects, for latents and for the embeddings of their images; and the median difference in χ². "
            "A ratio of 0 is perfectly repeatable, 1 is chance.",
        )
    ]


def _neighbour_table(held: HeldOut, coordinates: np.ndarray) -> list[PageTable]:
    """Compare the measured colours of nearest neighbours with those of random pairs."""
    with_data = np.flatnonzero(np.isfinite(held.flux_error).any(axis=0))  # bands with data
    flux, error = held.flux[:, with_data], held.flux_error[:, with_data]
    bright = np.isfinite(coordinates).all(axis=1) & (flux > MIN_COLOUR_SNR * error).all(axis=1)
    rows = np.flatnonzero(bright)
    if len(rows) < 4 * MIN_IN_BIN or len(with_data) < 2:
        return []
    place = coordinates[rows].astype(np.float64)
    square = (place**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * place @ place.T
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    magnitude = ab_magnitude(flux[rows])
    cells = []
    for index, (blue, red) in enumerate(pairwise(held.bands[n] for n in with_data)):
        colour = magnitude[:, index] - magnitude[:, index + 1]
        near = robust_scatter(colour - colour[nearest])
        far = robust_scatter(colour - np.roll(colour, len(colour) // 2))
        cells.append([f"{blue} − {red}", f"{near:.3f}", f"{far:.3f}", f"{near / far:.2f}"])
    return [
        PageTable(
            columns=["colour", "nearest neighbours", "random pairs", "ratio"],
            rows=cells,
            caption="Scatter (1.4826 MAD, magnitudes) of the difference between the measured colours of two "
            f"objects, for nearest neighbours by embedding and for random pairs, among {len(rows):,} objects "
            f"above {MIN_COLOUR_SNR:g}σ in every band.",
        )
    ]
