"""The report page: a single HTML file with embedded figures, which can be mailed or archived."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """A table of formatted cells, with its caption; empty columns, as of bands without data, are left out."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        kept = [c for c in zip(self.columns, *self.rows, strict=True) if any(c[1:]) or not self.rows]
        columns, *rows = zip(*kept, strict=True)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)


def single(size: tuple[float, float], draw: Callable[[Axes], Any]) -> Figure:
    """Return a figure with a single panel, drawn by `draw`."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure


def format_number(value: float | None, form: str = "{:z.3f}") -> str:
    """Format a number as a table cell; None gives an empty cell."""
    return "" if value is None else form.format(value)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page, in this order; `commands` are those of deepfits, with descriptions."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    map: Map | None = None
    pictures: Sequence[Picture] = ()


def write_page(
    directory: Path,
    *,
    title: str,
    headline: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    footer: Sequence[str],
) -> Path:
    """Write ``index.html`` with all figures embedded, and each figure as PNG and PDF under ``figures/``.

    `headline` has pairs of a number and its description, shown in large type at the top.
    """
    about = {"title": title, "headline": headline, "sections": sections, "footer": footer}
    embedded: dict[str, str] = {}
    for section in sections:
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
    html = environment.get_template("report.html").render(about, embedded=embedded)
    write_text(directory / "index.html", html)
    return directory / "index.html"
