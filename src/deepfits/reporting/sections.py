"""Sections of the report on the images, the training, and next steps.

Shapes: N held-out objects, B bands.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deepfits import plot
from deepfits.photometry import ab_magnitude
from deepfits.reporting.held_out import APERTURE_ARCSEC, HeldOut, choose_examples
from deepfits.reporting.page import PageTable, Picture, Section, single
from deepfits.tables import as_conditions

MAX_ON_SHEET, SHEET_COLUMNS = 160, 16
HEALTH = {
    "answer_real": "discriminator's output for real images (target 1)",
    "answer_generated": "discriminator's output for generated images (target 0)",
    "spread": "spread of generated galaxies, relative to real ones",
    "kernel_distance": "kernel distance between generated and real profiles and colours",
}


def sky_section(
    held: HeldOut, num_objects: int, counts: Mapping[str, int], where: Sequence[str] | str | None = None
) -> Section:
    """Return the section on the survey and its cutouts."""
    info = held.info
    order = choose_examples(held.signal_to_noise, MAX_ON_SHEET, (1.0, 0.5))
    chosen = "" if where is None else f" Only objects with {' and '.join(as_conditions(where))}."
    text = [
        f"{info.survey or 'Unnamed survey'}, pixels of {info.pixel_scale_arcsec:.3g}″.{chosen}",
        f"{num_objects:,} cutouts of {info.size}×{info.size} pixels in the bands "
        f"{', '.join(held.with_data)}; {len(held.object_id):,} of the held-out ones were used for this page.",
    ]
    which = "All" if len(order) == len(held.object_id) else f"{len(order)} of the brighter half of the"
    figure = Figure(figsize=(9, 9 * -(-len(order) // SHEET_COLUMNS) / SHEET_COLUMNS))
    axes = figure.add_axes((0, 0, 1, 1))
    plot.contact_sheet(held.observed[order], held.noise, columns=SHEET_COLUMNS, ax=axes)
    sheet = Picture(
        name="contact-sheet",
        figure=figure,
        caption=f"{which} held-out objects, from high to low signal-to-noise ratio, as colour composites of "
        "all bands.",
    )
    histogram = Picture(
        name="magnitudes",
        figure=single((7.2, 2.4), lambda ax: plot.magnitudes(held.magnitude, held.magnitude_name, ax=ax)),
        caption="Magnitudes of the held-out objects.",
    )
    table = _depth_table(held, counts)
    return Section(title="Images", paragraphs=text, tables=[table], pictures=[sheet, histogram])


def _depth_table(held: HeldOut, counts: Mapping[str, int]) -> PageTable:
    rows, fwhm_arcsec = [], held.info.fwhm_arcsec
    for b, band in enumerate(held.bands):
        error, is_empty = held.flux_error[:, b], held.cutouts.weight[:, b] <= 0
        has_data = band in held.with_data
        rows.append(
            [
                band,
                f"{fwhm_arcsec[b]:.2f}″" if np.isfinite(fwhm_arcsec[b]) else "unknown",
                f"{held.noise[b]:.3g}" if has_data else "no data",
                f"{ab_magnitude(5 * np.nanmedian(error)):.2f}" if has_data else "no data",
                f"{is_empty.mean():.2%}",
                f"{is_empty.all(axis=(1, 2)).mean():.2%}",
            ]
        )
    columns = ["band", "PSF (FWHM)", "noise per pixel (nJy)", "5σ depth (AB)", "pixels without data"]
    return PageTable(
        columns=[*columns, "objects without data"],
        rows=rows,
        caption=f"Depth in an aperture of {APERTURE_ARCSEC:g}″ radius, from the weights, assuming "
        "independent pixels."
        + "".join(f" {number:,} {words}." for words, number in counts.items() if number),
    )


def training_section(card: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section on the training of the networks."""
    names = [k for k in ("discriminator", "generator", "embedder") if metrics and k in metrics[0]]
    pictures = []
    if names:
        used = [m for m in metrics if all(k in m for k in names)]
        curves = {k: np.array([m[k] for m in used], dtype=float) for k in names}
        steps = np.array([m["step"] for m in used], dtype=float)
        pictures.append(
            Picture(
                name="training",
                figure=single((7.2, 2.9), lambda ax: plot.losses(steps, curves, ax=ax)),
                caption="Training losses (M19 §2.2): those of a least-squares GAN, and the embedder's mean "
                "squared error of the latent (1 for a guess without any skill).",
            )
        )
    facts = {
        "recipe": card.get("recipe"),
        "steps": card.get("steps"),
        "minutes": card["seconds"] / 60 if "seconds" in card else None,
        "images trained on": (card.get("data") or {}).get("num_used"),
        "images held out": (card.get("data") or {}).get("num_held_out"),
        **{name: (card.get("metrics") or {}).get(key) for key, name in HEALTH.items()},
    }
    rows = [[name, _fact(value)] for name, value in facts.items() if value is not None]
    caption = "Spread of generated images relative to that of real ones: near 0, the generator has collapsed."
    tables = [PageTable(columns=["", ""], rows=rows, caption=caption)] if rows else []
    return Section(title="Training", tables=tables, pictures=pictures)


def _fact(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def next_section(run: Path, example: str | None) -> Section:
    """Return the section on what can be done with the results."""
    commands = {
        f"explore {run}": "All objects on one page: a map, neighbours, your own catalogue overlaid.",
        f"odd {run}": "Images of the oddest objects, and what is odd about them.",
    }
    if example is not None:
        commands[f"similar {run} --id {example}"] = "Objects most similar to one of your choice."
        commands[f"show {run} --id {example}"] = "Image, best fit and residual of any object."
    commands[f"export {run} --out galaxies.fits"] = "Everything in one table, for TOPCAT or your programs."
    words = "All figures are in figures/, next to this page, as PNG and PDF; summary.json has the numbers."
    return Section(title="Next steps", paragraphs=[words], commands=commands)
