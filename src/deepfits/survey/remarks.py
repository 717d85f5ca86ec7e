"""Remarks on what was decided about images and cutouts; those on problems begin with `WARNING`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WARNING = "WARNING: "


def warnings_in(remarks: Iterable[str]) -> list[str]:
    """Return the remarks on problems, without the mark."""
    return [text.removeprefix(WARNING) for text in remarks if text.startswith(WARNING)]


def pattern_of(text: str) -> str:
    """Return a remark without its numbers, which those of one kind share."""
    return re.sub(r"\d+", "#", text)


def of_band(band: str, remarks: Iterable[str]) -> list[str]:
    """Return remarks that name their band."""
    marks = ((WARNING if text.startswith(WARNING) else "", text.removeprefix(WARNING)) for text in remarks)
    return [f"{mark}{band}: {text}" for mark, text in marks]


def describe(remarks: Mapping[str, list[str]]) -> list[str]:
    """Return remarks as lines, with one line for all bands that share a remark."""
    bands_of: dict[str, list[str]] = {}
    for band, texts in remarks.items():
        for text in texts:
            bands_of.setdefault(text, []).append(band)
    return [f"{' '.join(bands)}: {text}" for text, bands in bands_of.items()]
