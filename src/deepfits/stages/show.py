"""Stages `show`, `similar` and `odd`: figures and tables of selected objects of a run."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import write_text, writing
from deepfits.results import read_record
from deepfits.stages.parameters import Choosing, OfRun
from deepfits.stages.stage import claim, part_of, stage
from deepfits.tables import require_column, write_table

if TYPE_CHECKING:
    from deepfits.explorer.drawing import Drawer
    from deepfits.explorer.objects import Objects

log = logging.getLogger(__name__)

SHOWN = (
    "object_id", "ra", "dec", "reduced_chi2", "status", "anomaly", "class", "z_spec", "z_phot", "z_err68_low",
    "z_err68_high", "flags", "tag",
)  # fmt: skip
WIDEST_CELL = 90


@dataclass(frozen=True)
class Looking(OfRun):
    """Outputs."""

    _: KW_ONLY
    out: str | Path | None = None
    """Output directory for the figure (PNG and PDF) and the table (CSV); by default ``show/``, ``similar/``
    or ``odd/`` next to the features. Earlier results there are replaced."""
    columns: Sequence[str] | None = None
    """Columns of the printed table; the CSV file has all columns."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Looking):
    """Parameters of `show`."""

    ids: Sequence[int | str]
    """Identifiers (`object_id`) of the objects to show, in this order, or positions, such as "150.1 2.25"."""


@dataclass(frozen=True, kw_only=True)
class SimilarConfig(Looking, Choosing):
    """Parameters of `similar`."""

    ids: Sequence[int | str]
    """Identifiers (`object_id`) or positions of the examples; with several, objects near all of them are
    found."""
    unlike: Sequence[int | str] = ()
    """Identifiers of counter-examples: objects nearer to one of these than to the examples are excluded."""
    number: Annotated[int, Range(ge=1)] = 24
    """Number of objects to find."""
    magnitude_window: Annotated[float | None, Range(gt=0)] = None
    """Restrict the search to objects within this many magnitudes of the examples' mean magnitude."""


@dataclass(frozen=True, kw_only=True)
class OddConfig(Looking, Choosing):
    """Parameters of `odd`."""

    number: Annotated[int, Range(ge=1)] = 24
    """Number of objects to show."""
    everything: bool = False
    """Also rank flagged objects, stars, artefacts, and objects that are saturated or lack data at their
    centre. By default these are excluded and only counted."""


@stage(ShowConfig, result="pictures")
def show(config: ShowConfig) -> Path:
    """Show selected objects of a run: image, best fit and residual in every band, and a table.

    Returns
    -------
    Path
        Output directory with ``show.png``, ``show.pdf``, ``objects.csv`` (all columns of features, catalogue,
        redshifts and truth) and ``table.md`` (the printed table).

    Raises
    ------
    InputError
        No features or cutouts, or an identifier that is not among them.

    Examples
    --------
    `deepfits show demo --id 1203 --id 77`
    """
    from deepfits import plot

    objects, drawer = _load(config)
    rows = _rows(objects, config.ids)
    titles = [str(identity) for identity in objects.object_id[rows].tolist()]

    def draw(image: np.ndarray, weight: np.ndarray, fitted: np.ndarray | None, noise: np.ndarray) -> Any:
        shown = {"observed": np.where(weight > 0, image, np.nan)}
        how: dict[str, Any] = {}
        if fitted is not None:
            shown["best fit"], how["residual"] = fitted, plot.significance(image, fitted, weight)
            how["notes"] = {"best fit": [f"χ²ᵣ {chi2:.2f}" for chi2 in objects.column("reduced_chi2")[rows]]}
        return plot.reconstructions(shown, drawer.store.info.bands, noise, titles=titles, **how)

    return _write(config, "show", draw, drawer, rows, {})


@stage(SimilarConfig, result="pictures")
def similar(config: SimilarConfig) -> Path:
    """Find the objects of a run most similar to given examples, by distance between their embeddings.

    The embedding is nearly insensitive to noise, orientation and sub-pixel position. A ``distance`` of 1 is
    the median distance to objects as bright as the examples. If even the nearest objects are farther than
    0.8, they hardly resemble the examples, and a warning says so.

    Returns
    -------
    Path
        Output directory with ``similar.png``, ``similar.pdf``, ``objects.csv`` and ``table.md``, the examples
        first.

    Raises
    ------
    InputError
        No features or cutouts, an identifier that is not among them, or an example without a fit.

    Examples
    --------
    `deepfits similar demo --id 1203`

    Among objects of similar magnitude: `deepfits similar demo --id 1203 --magnitude-window 0.5`
    """
    from deepfits import plot
    from deepfits.explorer.objects import unlike_warning

    objects, drawer = _load(config)
    examples = _rows(objects, config.ids)
    neighbours, distance = objects.neighbours(
        examples,
        unlike=_rows(objects, config.unlike),
        number=config.number,
        magnitude_window=config.magnitude_window,
        allowed=objects.satisfying(config.where),
    )
    if warning := unlike_warning(distance):
        log.warning("%s", warning)
    rows = np.concatenate([examples, neighbours])
    away = np.concatenate([np.zeros(len(examples)), distance])
    names = objects.object_id[rows].tolist()
    marks = [*["example"] * len(examples), *(f"distance {value:.2f}" for value in distance)]
    captions = [f"{name}   {mark}" for name, mark in zip(names, marks, strict=True)]
    return _write(config, "similar", partial(plot.tiles, captions=captions), drawer, rows, {"distance": away})


@stage(OddConfig, result="pictures")
def odd(config: OddConfig) -> Path:
    """Show the most unusual galaxies of a run and why they are, ranked by a brightness-independent score.

    Returns
    -------
    Path
        Output directory with ``odd.png``, ``odd.pdf``, ``objects.csv`` and ``table.md``, the oddest first.

    Raises
    ------
    InputError
        No features or cutouts, or no object that satisfies the conditions.

    Examples
    --------
    `deepfits odd demo --where "snr > 20"`

    With stars, blends and saturated objects: `deepfits odd demo --everything`
    """
    from deepfits import plot
    from deepfits.explorer.oddity import rank

    objects, drawer = _load(config)
    _warn_if_not_calibrated(objects.directory)
    allowed = objects.satisfying(config.where)
    ranking = rank(objects, config.number, allowed, everything=config.everything)
    excluded = f"excluded: {ranking.left_out}; everything=True ranks them too"
    if not len(ranking.rows):
        ordinary = (
            f"the anomaly of all {int(allowed.sum()):,} is 0" if allowed.any() else "loosen the conditions"
        )
        remedy = excluded if ranking.left_out else ordinary
        raise InputError(f"{objects.directory}: no object to rank; {remedy}")
    if ranking.left_out:
        log.info("%s", excluded)
    rows, why = ranking.rows, ranking.why
    names = objects.object_id[rows].tolist()
    reasons = [words.replace(" − ", "\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}") for words in why]  # colours
    captions = [f"{name}\n{textwrap.fill(words, 44)}" for name, words in zip(names, reasons, strict=True)]
    return _write(config, "odd", partial(plot.tiles, captions=captions), drawer, rows, {"why": np.array(why)})


def _warn_if_not_calibrated(features: Path) -> None:
    """Warn if anomalies are measured on the scale of other surveys than that of the features."""
    from deepfits.models.bundle import find_builtin

    made_from = read_record(features).get("inputs", {})
    if "calibration" not in made_from and find_builtin(made_from.get("model")):
        log.warning(
            "WARNING: %s: anomalies are on the scale of the surveys that the model was trained on, so bright "
            "galaxies may lead; `deepfits calibrate MODEL STORE --out CALIBRATED`, and fit with that",
            features,
        )


def _load(config: Any) -> tuple[Objects, Drawer]:
    from deepfits.explorer.launch import load_drawer, load_objects

    if not getattr(config, "ids", True):
        raise InputError("ids: name at least one object")
    objects = part_of(config, load_objects)
    drawer = part_of(config, load_drawer, objects=objects)
    if drawer is None:
        raise InputError(f"{objects.directory}: pictures need the cutouts; give their store (store=...)")
    return objects, drawer


def _rows(objects: Objects, ids: Sequence[int | str]) -> np.ndarray:
    rows = objects.rows_of(list(ids))
    for place in np.flatnonzero(rows < 0).tolist():
        rows[place] = objects.find(str(ids[place]))[0]
    return rows


def _write(
    config: Any,
    name: str,
    draw: Callable[..., Any],
    drawer: Drawer,
    rows: np.ndarray,
    more: Mapping[str, np.ndarray],
) -> Path:
    """Draw image, weight and best fit, and write the figure and the tables."""
    from deepfits.plot.style import DOTS_PER_INCH, default_style, save

    objects = drawer.objects
    out = objects.directory.parent / name if config.out is None else Path(config.out)
    columns = {**objects.selection(rows), **more}
    has_values = {
        name: np.isfinite(values).any() if values.dtype.kind == "f" else (values != "").any()
        for name in SHOWN
        if (values := columns.get(name)) is not None
    }
    wanted = [name for name, has in has_values.items() if has]
    wanted.insert(3, f"mag_model_{objects.reference}")
    wanted = [*(config.columns or wanted), *(name for name in more if name not in (config.columns or ()))]
    printed = {name: require_column(columns, name, objects.directory) for name in wanted}
    with claim(config, name=name, out=out, renew=True), default_style():
        fitted = None if drawer.model is None else drawer.fitted(rows)
        image, weight = drawer.images(rows)
        figure = draw(image=image, weight=weight, fitted=fitted, noise=drawer.noise)
        for ending, metadata in {"png": None, "pdf": {"CreationDate": None}}.items():
            with writing(out / f"{name}.{ending}") as temporary:
                save(figure, temporary, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=metadata)
        write_table(out / "objects.csv", columns)
        write_text(out / "table.md", _markdown(printed))
    return out


def _markdown(columns: Mapping[str, np.ndarray]) -> str:
    """Format columns as a Markdown table: numbers aligned to the right, text to the left."""
    padded = []
    for name, values in columns.items():
        form = "z.5f" if name in ("ra", "dec") else _form_of(values)
        cells = [name, *(_cell(value, form) for value in values.tolist())]
        width, is_text = max(2, *map(len, cells)), values.dtype.kind not in "fiub"
        cells.insert(1, "-" * width if is_text else "-" * (width - 1) + ":")
        padded.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in zip(*padded, strict=True))


def _form_of(values: np.ndarray) -> str:
    """Return the format of a column of numbers: one number of decimals, unless they differ too much."""
    size = np.abs(values[np.isfinite(values) & (values != 0)]) if values.dtype.kind == "f" else values[:0]
    if not len(size) or max(size.max(), size.max() / size.min()) > 1e4:
        return ".4g"
    return f"z.{max(0, 3 - int(np.floor(np.log10(size.max()))))}f"


def _cell(value: Any, form: str) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else format(value, form)
    text = " ".join(str(value).split()).replace("|", r"\|")
    return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 1]}…"
