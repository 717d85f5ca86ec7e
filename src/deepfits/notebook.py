"""HTML representations of tables, models and stores for notebooks: a few facts and sample images."""

import base64
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec

import numpy as np

from deepfits.errors import listed
from deepfits.pictures import BRIGHTEST, png, strip

NUM_PICTURES = 10
MAX_NAMES = 60


def describe(title: str, facts: Mapping[str, object], pictures: np.ndarray | None = None) -> str:
    """Return an HTML table of facts, above a strip of images, ``(N, B, H, W)`` in nJy, if given."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "")
    )
    picture = ""
    if pictures is not None and len(pictures) and find_spec("PIL") is not None:
        edge = np.concatenate((pictures[:, :, :2], pictures[:, :, -2:]), axis=2)
        noise = np.maximum(edge.std(axis=(0, 2, 3)), 0.02 * np.abs(pictures).max(axis=(0, 2, 3)))
        code = base64.b64encode(png(strip(pictures, noise, len(pictures), top=BRIGHTEST), zoom=2)).decode()
        picture = f'<img alt="galaxies" style="image-rendering:pixelated" src="data:image/png;base64,{code}">'
    return f"<div><b>{escape(title)}</b><table>{rows}</table>{picture}</div>"


def describe_columns(
    title: str,
    where: str,
    columns: Mapping[str, np.ndarray],
    number: int,
    pictures: np.ndarray | None = None,
    **facts: object,
) -> str:
    """Describe a table: its number of rows, its origin and its columns."""
    names = listed(list(columns), MAX_NAMES)
    return describe(title, {"objects": f"{number:,}", "from": where, **facts, "columns": names}, pictures)
