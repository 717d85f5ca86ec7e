"""What the report says: each function turns measured arrays into a section of the page.

Shapes: N held-out objects, B bands, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepfits import plot
from deepfits.photometry import ab_magnitude, robust_scatter
from deepfits.reporting import figures
from deepfits.reporting.map import make_map
from deepfits.reporting.page import PageTable, Picture, Section
from deepfits.reporting.selection import choose_examples
from deepfits.survey.store import StoreInfo
from deepfits.tables import as_conditions

MAX_ON_SHEET = 160
HEALTH = {
    "answer_real": "discriminator's answer to real images (target 1)",
    "answer_generated": "discriminator's answer to generated images (target 0)",
    "spread": "spread of generated galaxies, relative to real ones",
    "kernel_distance": "kernel distance of profiles and colours to real images",
}
RULE = (
    "Objects are chosen by rule: held-out objects with data in every pixel and without flags, at evenly "
    "spaced quantiles of their signal to noise, the same in every row and figure"
)
UNSEEN = "Measured on held-out objects, which the networks never saw."
SIGNAL_EDGES = (0, 10, 30, 100, np.inf)
MIN_IN_BIN = 5
MIN_COLOUR_SNR = 10.0
CENTRE = "within 1″ of the middle"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out objects of a store.

    Attributes
    ----------
    object_id
        ``(N,)``.
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    own_weight
        `weight` without the pixels of neighbours, where the fits leave them out.
    flux, flux_error
        ``(N, B)``, nJy, in the central aperture.
    signal_to_noise
        ``(N,)``, all bands together, in that aperture.
    blank, blank_central
        ``(N,)``, reduced χ² of an image without anything on it: in the cutout, and in its middle.
    examples, faint
        Indices of the objects that figures show: bright enough to be seen, and faint ones.
    """

    object_id: np.ndarray
    image: np.ndarray
    weight: np.ndarray
    own_weight: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    signal_to_noise: np.ndarray
    blank: np.ndarray
    blank_central: np.ndarray
    examples: np.ndarray
    faint: np.ndarray
    bands: tuple[str, ...]
    reference: int
    aperture_arcsec: float

    @property
    def magnitude(self) -> np.ndarray:
        """Aperture magnitude in the reference band, ``(N,)``."""
        return ab_magnitude(self.flux[:, self.reference])

    @property
    def magnitude_name(self) -> str:
        """What `magnitude` is, for axes and tables."""
        return f"{self.bands[self.reference]} magnitude (AB, {self.aperture_arcsec:g}″ radius)"

    def titles(self, which: np.ndarray) -> list[str]:
        """One line for each of some objects."""
        band = self.bands[self.reference]
        return [
            f"{self.object_id[i]}   {band} = {self.magnitude[i]:.1f}"
            if np.isfinite(self.magnitude[i])
            else str(self.object_id[i])
            for i in which
        ]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What one mode of the fit gave for the held-out objects, in their order.

    Attributes
    ----------
    chi2, dof
        ``(N,)``; NaN where the object was not fitted.
    chi2_band, dof_band
        ``(N, B)``.
    status
        ``(N,)`` text.
    latent, embedding
        ``(N, L)``: what was fitted, and by what galaxies are compared.
    central
        ``(N,)``, reduced χ² in the middle; NaN where it was not measured.
    drawn
        Fitted image ``(B, H, W)``, nJy, of each object that a figure shows.
    """

    chi2: np.ndarray
    dof: np.ndarray
    chi2_band: np.ndarray
    dof_band: np.ndarray
    status: np.ndarray
    num_steps: np.ndarray
    latent: np.ndarray
    embedding: np.ndarray
    central: np.ndarray
    drawn: Mapping[int, np.ndarray]

    @property
    def reduced(self) -> np.ndarray:
        """Reduced χ², ``(N,)``."""
        return self.chi2 / np.where(self.dof > 0, self.dof, np.nan)

    def images(self, which: np.ndarray) -> np.ndarray:
        """Return the fitted images of objects that figures show, ``(n, B, H, W)``."""
        return np.stack([self.drawn[int(index)] for index in which])


def sky_section(
    held: HeldOut,
    info: StoreInfo,
    num_objects: int,
    counts: Mapping[str, int],
    where: Sequence[str] | str | None = None,
) -> Section:
    """Show what the cutouts look like, and of which survey they are."""
    noise = plot.noise_per_band(held.weight)
    order = choose_examples(held.signal_to_noise, MAX_ON_SHEET, (1.0, 0.5))
    chosen = "" if where is None else f" Only objects with {' and '.join(as_conditions(where))}."
    text = [
        f"{info.survey or 'A survey without a name'}, pixels of {info.pixel_scale_arcsec:.3g}″.{chosen}",
        f"{num_objects:,} cutouts of {held.image.shape[-1]}×{held.image.shape[-1]} pixels in the bands "
        f"{', '.join(held.bands)}; {len(held.object_id):,} of the held-out ones were read for this page.",
    ]
    rows = [
        [
            band,
            f"{info.fwhm_arcsec[b]:.2f}″" if np.isfinite(info.fwhm_arcsec[b]) else "unknown",
            f"{noise[b]:.3g}",
            f"{ab_magnitude(5 * np.nanmedian(held.flux_error[:, b])):.2f}"
            if np.isfinite(held.flux_error[:, b]).any()
            else "no data",
            f"{(held.weight[:, b] <= 0).mean():.2%}",
            f"{(held.weight[:, b] <= 0).all(axis=(1, 2)).mean():.2%}",
        ]
        for b, band in enumerate(held.bands)
    ]
    table = PageTable(
        columns=[
            "band",
            "PSF (FWHM)",
            "noise per pixel (nJy)",
            "5σ depth (AB)",
            "pixels without data",
            "objects without",
        ],
        rows=rows,
        caption=f"Depth in an aperture of {held.aperture_arcsec:g}″ radius, from the weights, taking pixels "
        "as independent." + "".join(f" {number:,} {words}." for words, number in counts.items() if number),
    )
    which = "All" if len(order) == len(held.object_id) else f"{len(order)} of the brighter half of the"
    sheet = Picture(
        name="contact-sheet",
        figure=figures.contact_sheet(np.where(held.weight[order] > 0, held.image[order], np.nan), noise),
        caption=f"{which} held-out objects, from high to low signal to noise; all bands in one colour "
        "picture each.",
    )
    histogram = Picture(
        name="magnitudes",
        figure=figures.single(
            (7.2, 2.4), lambda ax: plot.magnitudes(held.magnitude, held.magnitude_name, ax=ax)
        ),
        caption="Brightness of the held-out objects.",
    )
    return Section(title="Images", paragraphs=text, tables=[table], pictures=[sheet, histogram])


def training_section(card: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Section:
    """Show how the networks were trained."""
    names = [k for k in ("discriminator", "generator", "embedder") if metrics and k in metrics[0]]
    pictures = []
    if names:
        used = [m for m in metrics if all(k in m for k in names)]
        curves = {k: np.array([m[k] for m in used], dtype=float) for k in names}
        steps = np.array([m["step"] for m in used], dtype=float)
        pictures.append(
            Picture(
                name="training",
                figure=figures.single((7.2, 2.9), lambda ax: plot.losses(steps, curves, ax=ax)),
                caption="Losses while training (M19 §2.2): least-squares GAN, and the embedder's mean "
                "squared error of the latent (a guess without any skill has 1).",
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
    caption = "Spread: of generated images against that of real ones; near 0 the generator has collapsed."
    tables = [PageTable(columns=["", ""], rows=rows, caption=caption)] if rows else []
    return Section(title="Training", tables=tables, pictures=pictures)


def _fact(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def fit_section(held: HeldOut, fits: Mapping[str, FitResult], explanations: Mapping[str, str]) -> Section:
    """Show M19 Fig. 1, and the χ² of each mode beside that of a blank image, on the same objects."""
    last = list(fits)[-1]
    caption = (
        "Observation and reconstructions (after M19 Fig. 1). The stretch of a band is the same in all rows "
        f"of a galaxy; the residual is that of “{last}”, in units of the noise. {RULE}: here the bright ones."
    )
    pictures = [Picture(name="figure-1", figure=_reconstructions(held, fits, held.examples), caption=caption)]
    if len(held.faint):
        pictures.append(
            Picture(
                name="figure-1-faint",
                figure=_reconstructions(held, fits, held.faint),
                caption="The same for faint ones, by the same rule.",
            )
        )
    reduced = {"blank": held.blank, **{mode: fit.reduced for mode, fit in fits.items()}}
    central = {"blank": held.blank_central, **{mode: fit.central for mode, fit in fits.items()}}
    pictures.append(
        Picture(
            name="chi2",
            figure=figures.chi2(held.signal_to_noise, reduced, central),
            caption="Reduced χ², in nJy with inverse-variance weights: over all valid pixels of the cutout, "
            f"and {CENTRE} against signal to noise (median, 16 to 84%). Blank: an image with nothing on it. "
            "Most pixels are empty, so that the whole cutout says little of faint galaxies.",
        )
    )
    paragraphs = [UNSEEN, *(f"{mode}: {explanations[mode]}" for mode in fits if mode in explanations)]
    tables = [_chi2_table(held, fits, reduced), _central_table(held, fits, central)]
    return Section(title="Best fits", paragraphs=paragraphs, tables=tables, pictures=pictures)


def _reconstructions(held: HeldOut, fits: Mapping[str, FitResult], which: np.ndarray) -> Any:
    image, weight = held.image[which], held.weight[which]
    rows = {"observed": np.where(weight > 0, image, np.nan)}
    rows |= {mode: fit.images(which) for mode, fit in fits.items()}
    last = rows[list(fits)[-1]]
    notes = {mode: [f"χ²ᵣ {fit.reduced[i]:.2f}" for i in which] for mode, fit in fits.items()}
    return plot.reconstructions(
        rows,
        held.bands,
        plot.noise_per_band(held.weight),
        residual=plot.significance(image, last, weight),
        titles=held.titles(which),
        notes=notes,
    )


def latent_section(
    held: HeldOut,
    fits: Mapping[str, FitResult],
    columns: Mapping[str, np.ndarray],
    place: np.ndarray,
    knows: Sequence[PageTable] = (),
) -> Section:
    """Show the latents: a map, how repeatable they are, how far from the prior, and what neighbours share.

    Parameters
    ----------
    columns
        ``(N,)`` each, by what the map can be coloured besides brightness and χ².
    place
        ``(N, L)``: coordinates of the embeddings between which distances are taken.
    knows
        Tables of what they know, where the truth is at hand.
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
        rows.append([mode, *(_number(float(cell), "{:.2f}") for cell in cells)])
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


def next_section(run: Path, store: Path, example: str | None, *, has_redshifts: bool) -> Section:
    """Return what can be done with the results."""
    labels = f"deepfits redshift {run}/features-both spectra.csv --out {run}/redshift --store {store}"
    commands = [
        (
            f"deepfits explore {run}",
            "All objects on a page: a map, neighbours, your catalogue over it.",
        ),
        (f"deepfits odd {run}", "Pictures of the oddest objects, with what is odd about them."),
        (f"deepfits similar {run} --id {example}", "Objects most like one of your choice."),
        (f"deepfits show {run} --id {example}", "Image, best fit and residual of any objects."),
        (f"deepfits export {run} --out galaxies.fits", "All in one catalogue, for TOPCAT or your programs."),
        (labels, "Redshifts, from a table with z_spec of some of the objects."),
    ]
    if example is None:
        commands = [pair for pair in commands if "--id" not in pair[0]]
    words = "Every figure lies beside this page under figures/, as PNG and PDF; summary.json has the numbers."
    return Section(
        title="What you can do next",
        paragraphs=[words],
        commands=commands[:-1] if has_redshifts else commands,
    )


def chi2_summary(held: HeldOut, fits: Mapping[str, FitResult]) -> dict[str, Any]:
    """Return the medians that the tables show, for ``summary.json``."""
    reduced = {"blank": (held.blank, held.blank_central)}
    reduced |= {mode: (fit.reduced, fit.central) for mode, fit in fits.items()}
    return {
        mode: {
            name: {
                "median_reduced_chi2": _median(whole[which]),
                "median_reduced_chi2_central": _median(central[which]),
                "num_objects": int(which.sum()),
            }
            for name, which in _signal_ranges(held, fits).items()
        }
        for mode, (whole, central) in reduced.items()
    }


def _chi2_table(held: HeldOut, fits: Mapping[str, FitResult], reduced: Mapping[str, np.ndarray]) -> PageTable:
    ranges = _signal_ranges(held, fits)
    rows = []
    for mode, values in reduced.items():
        cells = [mode, *(_number(_median(values[which])) for which in ranges.values())]
        if mode in fits:
            fit = fits[mode]
            per_band = fit.chi2_band / np.where(fit.dof_band > 0, fit.dof_band, np.nan)
            done = fit.status[fit.status != ""]
            cells += [_number(_median(per_band[:, b])) for b in range(len(held.bands))]
            cells += [_number(_median(fit.num_steps), "{:.0f}")]
            cells += [f"{np.mean(done == 'converged'):.0%}" if done.size else ""]
        rows.append([*cells, *[""] * (len(ranges) + len(held.bands) + 3 - len(cells))])
    return PageTable(
        columns=["whole cutout", *_range_names(ranges), *held.bands, "steps", "converged"],
        rows=rows,
        caption="Median reduced χ² of held-out objects that were fitted (how many in brackets), in ranges of "
        f"signal to noise (those with fewer than {MIN_IN_BIN} are not shown) and in each band. 1 is a fit to "
        "the noise; neighbours that a model does not draw raise it.",
    )


def _central_table(
    held: HeldOut, fits: Mapping[str, FitResult], central: Mapping[str, np.ndarray]
) -> PageTable:
    measured = np.isfinite(list(central.values())[-1])
    ranges = {name: which & measured for name, which in _signal_ranges(held, fits).items()}
    ranges = {name: which for name, which in ranges.items() if which.sum() >= MIN_IN_BIN}
    rows = [
        [mode, *(_number(_median(values[which])) for which in ranges.values())]
        for mode, values in central.items()
    ]
    return PageTable(
        columns=[CENTRE, *_range_names(ranges)],
        rows=rows,
        caption=f"The same {CENTRE}, where the galaxy is.",
    )


def _range_names(ranges: Mapping[str, np.ndarray]) -> list[str]:
    return [f"{name} ({int(which.sum()):,})" for name, which in ranges.items()]


def _signal_ranges(held: HeldOut, fits: Mapping[str, FitResult]) -> dict[str, np.ndarray]:
    """Return which of the objects that were fitted are in a range of signal to noise."""
    is_fitted = np.any([np.isfinite(fit.reduced) for fit in fits.values()], axis=0)
    ranges = {"all": is_fitted}
    for low, high in pairwise(SIGNAL_EDGES):
        name = f"S/N > {low:g}" if np.isinf(high) else f"S/N {low:g}–{high:g}"
        which = is_fitted & (held.signal_to_noise >= low) & (held.signal_to_noise < high)
        if which.sum() >= MIN_IN_BIN:
            ranges[name] = which
    return ranges


def _median(values: np.ndarray) -> float | None:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else None


def _number(value: float | None, form: str = "{:.3f}") -> str:
    return "" if value is None else form.format(value)
