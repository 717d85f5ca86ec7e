"""Which images show one piece of sky, by their headers: bands whose names differ in the numbers of runs."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from deepfits.survey.fitsfile import has_image, peek_headers, quiet_log

log = logging.getLogger(__name__)

# Images are of one place where their middles lie so near, and their sides differ by so little (of them).
APART, LARGER = 0.1, 0.2
_CARDS = re.compile(r"(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]")


def fields_of_one_place(fields: Mapping[str, Mapping[str, tuple[Path, int | None]]]) -> list[list[str]]:
    """Return which fields are bands of one, by name: they lie in one place, and no band is there twice.

    Only fields whose names differ in nothing but numbers, or the band's letter at an end of a word
    (``ji1230057`` of 2MASS), are looked at: whatever else a name says may mean that the images are to be kept
    apart. `fields` are files and HDUs, by name and band.

    Returns
    -------
    list of lists
        Of two names or more, sorted.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    for name, images in fields.items():
        for key in _keys(name, images):
            alike[key].add(name)
    out: list[list[str]] = []
    for names in alike.values():
        bands = [set(fields[name]) for name in names]
        if all(its == bands[0] for its in bands):
            continue  # fields of all bands each
        joined = {name for group in out for name in group}
        for found in groups_of_one_place({n: next(iter(fields[n].values())) for n in sorted(names - joined)}):
            every = [band for name in found for band in fields[name]]
            if len(every) == len(set(every)):
                log.warning(
                    "%s lie in one place on the sky: bands of one field, %r", ", ".join(found), found[0]
                )
                out.append(found)
    return out


def _keys(name: str, bands: Collection[str]) -> list[str]:
    """Return what a field's name shares with those of its other bands: all but numbers, and the own band.

    Examples
    --------
    >>> _keys("ji1230057", ["J"]), _keys("N12-g", ["g", "r"])
    (['ji#', '*i#'], ['N#-g'])
    """
    plain = re.sub(r"\d+", "#", name)
    if len(bands) > 1:
        return [plain]
    word = re.escape(next(iter(bands)))
    either = rf"(?:{word}|{word[0]})"
    glued = re.finditer(
        rf"(?i)(?<![^-_. ]){either}(?=[^-_. ])|(?<=[^-_. ]){either}(?![^-_. ])",
        plain,
    )
    return [plain, *(f"{plain[: match.start()]}*{plain[match.end() :]}" for match in glued)]


def groups_of_one_place(images: Mapping[str, tuple[Path, int | None]]) -> list[list[str]]:
    """Return which images, files and HDUs by name, show one piece of sky by their headers: of two or more."""
    return _together({name: place for name, image in images.items() if (place := _place(*image)) is not None})


def lie_in_one_place(*images: tuple[Path, int | None]) -> bool:
    """Return whether all images, files and HDUs, show one piece of sky by their headers."""
    groups = groups_of_one_place({str(number): image for number, image in enumerate(images)})
    return any(len(group) == len(images) for group in groups)


def _together(places: Mapping[str, tuple[np.ndarray, float]]) -> list[list[str]]:
    """Return the names whose places are one."""
    names = list(places)
    if len(names) < 2:
        return []
    middles, sides = np.stack([places[n][0] for n in names]), np.array([places[n][1] for n in names])
    pairs = cKDTree(middles).query_pairs(APART * float(sides.max()), output_type="ndarray")
    one, other = pairs.T
    small, large = np.minimum(sides[one], sides[other]), np.maximum(sides[one], sides[other])
    distance = np.linalg.norm(middles[one] - middles[other], axis=1)
    one, other = (
        ends[(distance <= APART * small) & (large <= (1 + LARGER) * small)] for ends in (one, other)
    )
    links = csr_array((np.ones(len(one)), (one, other)), shape=(len(names), len(names)))
    number, of = connected_components(links, directed=False)
    groups = ([names[k] for k in np.flatnonzero(of == label)] for label in range(number))
    return [group for group in groups if len(group) > 1]


def _place(path: Path, hdu: int | None) -> tuple[np.ndarray, float] | None:
    """Return the middle of an image as a unit vector, and its side in radians; None without a WCS."""
    headers = peek_headers(path)
    numbers = [hdu] if hdu is not None else [n for n, header in enumerate(headers) if has_image(header)]
    if not numbers or numbers[0] >= len(headers):
        return None
    own: Mapping[str, Any] = headers[numbers[0]]
    source = own if "CTYPE1" in own else headers[0]
    cards = fits.Header([(k, v) for k, v in source.items() if _CARDS.fullmatch(k)])
    for key in ("CTYPE1", "CTYPE2"):  # distortions move the middle by less than counts here
        cards[key] = re.sub(r"-(?:TPV|TNX|ZPX|ZPN|TAN-SIP)$", "-TAN", str(source.get(key, "")).strip())
    width, height = (own.get(f"ZNAXIS{n}", own.get(f"NAXIS{n}")) for n in (1, 2))
    with warnings.catch_warnings(), quiet_log():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(cards, naxis=2)
            x, y = np.array([0.5, 0.0, 1.0, 0.5, 0.5]) * width, np.array([0.5, 0.5, 0.5, 0.0, 1.0]) * height
            middle, *edges = wcs.pixel_to_world(x, y).icrs.cartesian.xyz.value.T
        except Exception:  # no usable WCS: reading the image says so
            return None
    across = [float(np.linalg.norm(edges[i] - edges[i + 1])) for i in (0, 2)]
    side = math.sqrt(across[0] * across[1])
    return (middle, side) if np.isfinite(middle).all() and side > 0 else None
