"""The report page: a single HTML file with embedded figures, which can be mailed or archived."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepfits.files import write_text, writing
from deepfits.plot.style import DOTS_PER_INCH, save
from deepfits.reporting.map import Map


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption; `name` is that of its file under ``figures/``, without suffix."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table of formatted cells, with its caption."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def single(size: tuple[float, float], draw: Callable[[Axes], Any]) -> Figure:
    """Return a figure with a single panel, drawn by `draw`."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure


def format_number(value: float | None, form: str = "{:.3f}") -> str:
    """Format a number as a table cell; None gives an empty cell."""
    return "" if value is None else form.format(value)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: paragraphs, tables, commands with descriptions, map, pictures, in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    commands: Sequence[tuple[str, str]] = ()
    map: Map | None = None
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report. `headline` has pairs of a number and its description, shown in large type at the top."""

    title: str
    headline: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: Sequence[str] = ()


def write_page(directory: str | Path, page: Page) -> Path:
    """Write ``index.html`` with all figures embedded, and each figure as PNG and PDF under ``figures/``."""
    directory = Path(directory)
    embedded: dict[str, str] = {}
    for section in page.sections:
        for picture in section.pictures:
            buffer = BytesIO()
            save(picture.figure, buffer, format="png", dpi=DOTS_PER_INCH)
            with writing(directory / "figures" / f"{picture.name}.png") as temporary:
                temporary.write_bytes(buffer.getvalue())
            with writing(directory / "figures" / f"{picture.name}.pdf") as temporary:
                save(picture.figure, temporary, metadata={"CreationDate": None})
            embedded[picture.name] = base64.b64encode(buffer.getvalue()).decode()
    environment = Environment(
        loader=PackageLoader("deepfits.reporting", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(page=page, embedded=embedded)
    write_text(directory / "index.html", html)
    return directory / "index.html"
