"""Grouping images of the same sky area by their headers: bands whose names differ in running numbers."""

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

# Maximum distance of centres and difference of sides, for images of the same area, in units of their sides.
APART, LARGER = 0.1, 0.2
_CARDS = re.compile(r"(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]")


def fields_of_one_place(fields: Mapping[str, Mapping[str, tuple[Path, int | None]]]) -> list[list[str]]:
    """Find fields that are bands of a single one: they show the same area, and no band occurs twice.

    Their names may differ in any words, such as versions. Where a band occurs twice, as in two releases side
    by side, only fields belong together whose names differ in nothing but numbers, or the band's letter at
    either end of a word (``ji1230057`` of 2MASS). From files and HDUs, by the field's name and band, return
    the sorted names, two or more in each group.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    for name, images in fields.items():
        for key in _keys(name, images):
            alike[key].add(name)
    out: list[list[str]] = []
    for names in (set(fields), *alike.values()):
        bands = [set(fields[name]) for name in names]
        if all(own == bands[0] for own in bands):
            continue  # each field is complete
        joined = {name for group in out for name in group}
        for group in groups_of_one_place({n: next(iter(fields[n].values())) for n in sorted(names - joined)}):
            all_bands = [band for name in group for band in fields[name]]
            if len(all_bands) == len(set(all_bands)):
                log.warning(
                    "%s show the same area of the sky: taken as bands of one field, %r",
                    ", ".join(group),
                    group[0],
                )
                out.append(group)
    return out


def _keys(name: str, bands: Collection[str]) -> list[str]:
    """Return patterns that a field's name may share with those of its other bands: without numbers or band.

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
    glued = re.finditer(rf"(?i)(?<![^-_. ]){either}(?=[^-_. ])|(?<=[^-_. ]){either}(?![^-_. ])", plain)
    return [plain, *(f"{plain[: match.start()]}*{plain[match.end() :]}" for match in glued)]


def groups_of_one_place(images: Mapping[str, tuple[Path, int | None]]) -> list[list[str]]:
    """Return groups of two or more images (file and HDU, by name) that show the same area of the sky."""
    places = {name: place for name, image in images.items() if (place := place_of(*image)) is not None}
    names = list(places)
    if len(names) < 2:
        return []
    centres, sides = np.stack([places[n][0] for n in names]), np.array([places[n][1] for n in names])
    pairs = cKDTree(centres).query_pairs(APART * float(sides.max()), output_type="ndarray")
    first, second = pairs.T
    small, large = np.minimum(sides[first], sides[second]), np.maximum(sides[first], sides[second])
    distance = np.linalg.norm(centres[first] - centres[second], axis=1)
    is_match = (distance <= APART * small) & (large <= (1 + LARGER) * small)
    first, second = first[is_match], second[is_match]
    links = csr_array((np.ones(len(first)), (first, second)), shape=(len(names), len(names)))
    number, labels = connected_components(links, directed=False)
    groups = ([names[k] for k in np.flatnonzero(labels == label)] for label in range(number))
    return [group for group in groups if len(group) > 1]


def place_of(path: Path, hdu: int | None) -> tuple[np.ndarray, float] | None:
    """Return the centre of an image as a unit vector, and its side in radians; None without a WCS."""
    headers = peek_headers(path)
    numbers = [hdu] if hdu is not None else [n for n, header in enumerate(headers) if has_image(header)]
    if not numbers or numbers[0] >= len(headers):
        return None
    own: Mapping[str, Any] = headers[numbers[0]]
    source = own if "CTYPE1" in own else headers[0]
    if "CTYPE1" not in source:
        return None
    width, height = (own.get(f"ZNAXIS{n}", own.get(f"NAXIS{n}")) for n in (1, 2))
    cards = fits.Header([(key, value) for key, value in source.items() if _CARDS.fullmatch(key)])
    for key in ("CTYPE1", "CTYPE2"):  # distortions hardly move the centre
        cards[key] = re.sub(r"-(?:TPV|TNX|ZPX|ZPN|TAN-SIP)$", "-TAN", str(cards.get(key, "")).strip())
    with warnings.catch_warnings(), quiet_log():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(cards, naxis=2)
            x, y = np.array([0.5, 0.0, 1.0, 0.5, 0.5]) * width, np.array([0.5, 0.5, 0.5, 0.0, 1.0]) * height
            centre, *edges = wcs.pixel_to_world(x, y).icrs.cartesian.xyz.value.T
        except Exception:  # no usable WCS; reported when the image is read
            return None
    across = [float(np.linalg.norm(edges[i] - edges[i + 1])) for i in (0, 2)]
    side = math.sqrt(across[0] * across[1])
    return (centre, side) if np.isfinite(centre).all() and side > 0 else None
