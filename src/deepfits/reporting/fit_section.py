"""Section of the report on the fits (M19 Fig. 1) and their χ².

Shapes: N held-out objects, B bands.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deepfits import plot
from deepfits.reporting.held_out import APERTURE_ARCSEC, MIN_IN_BIN, RULE, UNSEEN, FitResult, HeldOut
from deepfits.reporting.page import PageTable, Picture, Section, format_number

SIGNAL_EDGES = (0, 10, 30, 100, np.inf)
ALL = "all"
CENTRE = f"within {APERTURE_ARCSEC:g}″ of the centre"


def fit_section(held: HeldOut, fits: Mapping[str, FitResult], explanations: Mapping[str, str]) -> Section:
    """Return the section with M19 Fig. 1, and χ² of each mode and of a blank image for the same objects."""
    last = list(fits)[-1]
    caption = (
        "Observations and reconstructions (after M19 Fig. 1). The stretch of a band is the same in all rows "
        f"of a galaxy; the residual is that of “{last}”, in units of the noise. {RULE}. These are "
        "bright ones."
    )
    pictures = [Picture(name="figure-1", figure=_reconstructions(held, fits, held.examples), caption=caption)]
    if len(held.faint):
        pictures.append(
            Picture(
                name="figure-1-faint",
                figure=_reconstructions(held, fits, held.faint),
                caption="The same for faint objects, selected by the same rule.",
            )
        )
    reduced, central = _by_mode(held, fits)
    figure = Figure(figsize=(10.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    plot.chi2_histogram(reduced, ax=axes[0])
    plot.chi2_by_signal(held.signal_to_noise, reduced, ax=axes[1], y_name="χ²ᵣ of the cutout")
    plot.chi2_by_signal(held.signal_to_noise, central, ax=axes[2], y_name="χ²ᵣ of the centre")
    pictures.append(
        Picture(
            name="chi2",
            figure=figure,
            caption="Reduced χ² with inverse-variance weights: of all valid pixels of the cutout, and of "
            f"those {CENTRE} against signal-to-noise ratio (median, 16 to 84%). Blank: an empty image. Most "
            "pixels are empty, so χ² of the whole cutout says little about faint galaxies.",
        )
    )
    paragraphs = [UNSEEN, *(f"{mode}: {explanations[mode]}" for mode in fits if mode in explanations)]
    tables = [_chi2_table(held, fits, reduced), _central_table(held, fits, central)]
    return Section(title="Best fits", paragraphs=paragraphs, tables=tables, pictures=pictures)


def _reconstructions(held: HeldOut, fits: Mapping[str, FitResult], objects: np.ndarray) -> Any:
    rows = {"observed": held.observed[objects], **{mode: fit.images(objects) for mode, fit in fits.items()}}
    last = rows[list(fits)[-1]]
    notes = {mode: [f"χ²ᵣ {fit.reduced[i]:.2f}" for i in objects] for mode, fit in fits.items()}
    return plot.reconstructions(
        rows,
        held.bands,
        held.noise,
        residual=plot.significance(held.cutouts.image[objects], last, held.cutouts.weight[objects]),
        titles=held.titles(objects),
        notes=notes,
    )


def chi2_summary(held: HeldOut, fits: Mapping[str, FitResult]) -> dict[str, Any]:
    """Return the medians shown in the tables, for ``summary.json``."""
    reduced, central = _by_mode(held, fits)
    return {
        mode: {
            name: {
                "median_reduced_chi2": _median(reduced[mode][members]),
                "median_reduced_chi2_central": _median(central[mode][members]),
                "num_objects": int(members.sum()),
            }
            for name, members in _signal_ranges(held, fits).items()
        }
        for mode in reduced
    }


def _by_mode(
    held: HeldOut, fits: Mapping[str, FitResult]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return reduced χ² of the cutout and of its centre, ``(N,)``, for a blank image and for each mode."""
    reduced = {"blank": held.blank} | {mode: fit.reduced for mode, fit in fits.items()}
    return reduced, {"blank": held.blank_central} | {mode: fit.central for mode, fit in fits.items()}


def _chi2_table(held: HeldOut, fits: Mapping[str, FitResult], reduced: Mapping[str, np.ndarray]) -> PageTable:
    ranges = _signal_ranges(held, fits)
    rows = []
    for mode, values in reduced.items():
        cells = [mode, *(format_number(_median(values[members])) for members in ranges.values())]
        if mode in fits:
            fit = fits[mode]
            done = fit.status[fit.status != ""]
            cells += [format_number(_median(values)) for values in fit.reduced_band.T]
            cells += [format_number(_median(fit.num_steps), "{:.0f}")]
            cells += [f"{np.mean(done == 'converged'):.0%}" if done.size else ""]
        rows.append([*cells, *[""] * (len(ranges) + len(held.bands) + 3 - len(cells))])
    return PageTable(
        columns=["whole cutout", *_range_names(ranges), *held.bands, "steps", "converged"],
        rows=rows,
        caption="Median reduced χ² of fitted held-out objects (their number in brackets), in ranges of "
        f"signal-to-noise ratio (omitted if they have fewer than {MIN_IN_BIN} objects) and in each band. 1 "
        "is a fit to the noise; neighbours that a model does not draw increase it.",
    )


def _central_table(
    held: HeldOut, fits: Mapping[str, FitResult], central: Mapping[str, np.ndarray]
) -> PageTable:
    measured = np.isfinite(list(central.values())[-1])
    ranges = {name: members & measured for name, members in _signal_ranges(held, fits).items()}
    ranges = {name: members for name, members in ranges.items() if name == ALL or members.sum() >= MIN_IN_BIN}
    rows = [
        [mode, *(format_number(_median(values[members])) for members in ranges.values())]
        for mode, values in central.items()
    ]
    return PageTable(
        columns=[CENTRE, *_range_names(ranges)], rows=rows, caption=f"The same {CENTRE}, where the galaxy is."
    )


def _range_names(ranges: Mapping[str, np.ndarray]) -> list[str]:
    return [f"{name} ({int(members.sum()):,})" for name, members in ranges.items()]


def _signal_ranges(held: HeldOut, fits: Mapping[str, FitResult]) -> dict[str, np.ndarray]:
    """Return which of the fitted objects are in each range of signal-to-noise ratio."""
    is_fitted = np.any([np.isfinite(fit.reduced) for fit in fits.values()], axis=0)
    ranges = {ALL: is_fitted}
    for low, high in pairwise(SIGNAL_EDGES):
        name = f"S/N > {low:g}" if np.isinf(high) else f"S/N {low:g}–{high:g}"
        members = is_fitted & (held.signal_to_noise >= low) & (held.signal_to_noise < high)
        if members.sum() >= MIN_IN_BIN:
            ranges[name] = members
    return ranges


def _median(values: np.ndarray) -> float | None:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else None
