"""Section of the report on missing bands: M19 Fig. 2, and predicted against measured fluxes.

Shapes: N held-out objects, B bands, K hidden bands, H, W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from matplotlib.figure import Figure

from deepfits import plot
from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.hdf5 import local_object, opened, read_column
from deepfits.photometry import MIN_SIGNAL_TO_NOISE, ab_magnitude, robust_scatter
from deepfits.reporting.held_out import RULE, UNSEEN, HeldOut
from deepfits.reporting.page import PageTable, Picture, Section, format_number
from deepfits.tables import match_identities


def section(directories: Sequence[Path], held: HeldOut) -> tuple[Section, dict[str, Any]]:
    """Return the section on missing bands and its summary, from results of the stage `inpaint`."""
    pictures, tables = [], []
    summary: dict[str, Any] = {}
    for number, directory in enumerate(directories):
        description = read_json(directory / "inpaint.json", what="description of the inpainting")
        bands = tuple(description["summary"]["bands"])  # as the store names them, however they were given
        together = "" if number == 0 else f"-with-{'-'.join(bands)}"
        pictures.append(_figure_2(directory, bands, held, f"figure-2{together}"))
        for band in bands:
            comparison = _compare(directory, band, held, f"inpaint-{band}{together}")
            if comparison is not None:
                picture, figures_of_band = comparison
                pictures.append(picture)
                summary.setdefault(band, figures_of_band)
        if (directory / "validation.json").exists():
            validation = read_json(directory / "validation.json", what="validation")
            tables.append(_validation_table(validation))
            summary["validation"] = validation["bands"]
    summary["headline"] = {
        f"scatter of the predicted {band} band (mag)": f"{summary[band]['scatter_mag']:.2f}"
        for band in list(summary)
        if band != "validation"
    }
    text = (
        "The weights of a band were set to 0, so that its data had no influence; the latent was fitted to "
        "the other bands, and the generator predicted the missing one. No network was trained for this. "
        "Systematic errors of the generator are corrected if enough other objects have the band."
    )
    shown = Section(title="Missing bands", paragraphs=[UNSEEN, text], tables=tables, pictures=pictures)
    return shown, summary


def _figure_2(directory: Path, bands: Sequence[str], held: HeldOut, name: str) -> Picture:
    hidden = [held.bands.index(band) for band in bands]
    observed = held.observed[held.examples]
    given = observed.copy()
    given[:, hidden] = np.nan
    filled = observed.copy()
    filled[:, hidden] = _images(directory, held.object_id[held.examples], len(hidden), observed.shape[-2:])
    figure = plot.reconstructions(
        {"observed": observed, "given": given, "filled in": filled},
        held.bands,
        held.noise,
        titles=held.titles(held.examples),
    )
    caption = (
        f"{', '.join(bands)}, filled in by the best fit to the other bands (after M19 Fig. 2). The filled-in "
        f"images are the model, and have no noise. {RULE}."
    )
    return Picture(name=name, figure=cast(Figure, figure), caption=caption)


def _images(directory: Path, object_id: np.ndarray, num_bands: int, shape: tuple[int, ...]) -> np.ndarray:
    """Read predicted images, ``(N, K, H, W)`` in nJy; NaN for objects without a prediction."""
    out = np.full((len(object_id), num_bands, *shape), np.nan)
    for path in sorted(directory.glob("shard-*.h5")):
        with opened(path, what="predicted images", remedy="run `deepfits inpaint` again") as file:
            ids, images = (local_object(file, name, path) for name in ("object_id", "image"))
            rows = match_identities(object_id, read_column(ids))
            for row in np.flatnonzero(rows >= 0):
                out[row] = images[rows[row]]
    return out


def _compare(directory: Path, band: str, held: HeldOut, name: str) -> tuple[Picture, dict[str, Any]] | None:
    """Compare predicted with measured aperture magnitudes; None if there are no measurements."""
    columns = {
        "predicted": f"flux_aper_{band}",
        "measured": f"flux_aper_measured_{band}",
        "error": f"flux_aper_measured_err_{band}",
    }
    files = pa.dataset.dataset(sorted(directory.glob("shard-*.parquet")))
    missing = sorted(set(columns.values()) - set(files.schema.names))
    if missing:
        raise InputError(f"{directory}: no column {missing[0]!r}; run `deepfits inpaint` again")
    table = files.to_table(
        columns=["object_id", *columns.values()],
        filter=pa.dataset.field("object_id").isin(held.object_id.tolist()),
    )
    flux = {kind: table[column].to_numpy().astype(float) for kind, column in columns.items()}
    is_bright = flux["measured"] >= MIN_SIGNAL_TO_NOISE * flux["error"]
    measured = np.where(is_bright, ab_magnitude(flux["measured"]), np.nan)
    predicted = ab_magnitude(flux["predicted"])
    difference = predicted - measured
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return None
    bias, scatter = float(np.median(difference)), float(robust_scatter(difference))
    caption = (
        f"Aperture magnitude in the {band} band, predicted without its data, against the measured one, for "
        f"{difference.size:,} held-out objects of at least {MIN_SIGNAL_TO_NOISE:g}σ in this band: median "
        f"difference {bias:+z.3f}, scatter (1.4826 MAD) {scatter:.3f} mag."
    )
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1.2), sharex=True)
    names = {"x_name": f"{band} measured (AB)", "y_name": f"{band} predicted (AB)"}
    plot.scatter_with_difference(measured, predicted, axes=(upper, lower), **names)
    result = {"num_objects": int(difference.size), "bias_mag": bias, "scatter_mag": scatter}
    return Picture(name=name, figure=figure, caption=caption), result


def _validation_table(validation: Mapping[str, Any]) -> PageTable:
    methods = list(validation["bands"][0]["methods"])
    rows = []
    for entry in validation["bands"]:
        cells = [entry["band"], str(entry["methods"][methods[0]]["num_objects"])]
        for method in methods:
            metrics = entry["methods"][method]
            cells.append(" /\n".join(_with_error(metrics, name) for name in ("bias_mag", "scatter_mag")))
        rows.append(
            [*cells, format_number(entry["pull_median"], "{:+z.3f}"), format_number(entry["pull_width"])]
        )
    defined = validation["definitions"].items()
    shown = [f"{name}: {text}" for name, text in defined if name not in ("model_error", "truth")]
    return PageTable(
        columns=["hidden band", "objects", *methods, "pull, median", "pull, width"],
        rows=rows,
        caption="Each band hidden in turn and predicted from the others: bias / scatter in magnitudes, with "
        "bootstrap errors. " + ". ".join(shown) + ".",
    )


def _with_error(metrics: Mapping[str, Any], name: str) -> str:
    error = metrics[f"{name}_error"]
    text = format_number(metrics[name], "{:+z.3f}" if name == "bias_mag" else "{:z.3f}")
    return text if error is None else f"{text} ± {error:.3f}"
