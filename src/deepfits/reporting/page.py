"""The page that a run ends with: one HTML file, figures inside, that can be mailed or archived."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from deepfits.files import write_text, writing
from deepfits.plot.style import save
from deepfits.reporting.map import Map

DOTS_PER_INCH = 150


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption. Its name is that of the file under ``figures/``, without the ending."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table with its caption: cells are text already."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def format_number(value: float | None, form: str = "{:.3f}") -> str:
    """Return a number as a cell of a table; empty without one."""
    return "" if value is None else form.format(value)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: paragraphs, tables, commands with what they do, the map, pictures, in order."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    commands: Sequence[tuple[str, str]] = ()
    map: Map | None = None
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report. The headline has pairs of a figure and what it is, shown large at the top."""

    title: str
    subtitle: str
    headline: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: Sequence[str] = ()


def write_page(directory: str | Path, page: Page) -> Path:
    """Write ``index.html`` with all figures inside it, and each as PNG and PDF under ``figures/``."""
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
