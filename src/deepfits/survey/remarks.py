"""Remarks on what was decided about images and cutouts; those on problems begin with `WARNING`."""

import re
from collections.abc import Iterable, Mapping

WARNING = "WARNING: "
_NUMBER = re.compile(r"((?:(?<!\w)[+-])?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def warnings_in(remarks: Iterable[str]) -> list[str]:
    """Return the remarks on problems, without the mark."""
    return [text.removeprefix(WARNING) for text in remarks if text.startswith(WARNING)]


def pattern_of(text: str) -> str:
    """Return a remark without its numbers, which those of one kind share."""
    return _NUMBER.sub("#", text)


def of_band(band: str, remarks: Iterable[str]) -> list[str]:
    """Return remarks that name their band."""
    marks = ((WARNING if text.startswith(WARNING) else "", text.removeprefix(WARNING)) for text in remarks)
    return [f"{mark}{band}: {text}" for mark, text in marks]


def describe(remarks: Mapping[str, Iterable[str]]) -> list[str]:
    """Return remarks as lines, with one line for all bands that share a remark, apart from its numbers.

    Examples
    --------
    >>> describe({"g": ["at 2.5 σ"], "r": ["no mask", "at -1e-05 σ"], "i": ["no mask"]})
    ['g r: at 2.5/-1e-05 σ', 'r i: no mask']
    """
    alike: dict[str, dict[str, list[str]]] = {}
    for band, texts in remarks.items():
        for text in texts:
            kind = pattern_of(text)
            while band in alike.setdefault(kind, {}):  # a further one, such as of another HDU
                kind += "#"
            alike[kind][band] = _NUMBER.split(text)
    lines = []
    for by_band in alike.values():
        joined = (
            "/".join(same) if len({*same}) > 1 else same[0] for same in zip(*by_band.values(), strict=True)
        )
        lines.append(f"{' '.join(by_band)}: {''.join(joined)}")
    return lines
