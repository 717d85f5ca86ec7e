"""What the names of files and directories say that they hold: images, weights, masks.

A word of a name (``weight``, ``invvar``, ``flags``) says what the pixels are; the other words are what an
image shares with its weights and its mask.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from deepfits.survey.fitsfile import peek_headers, stem_of
from deepfits.survey.hdu_roles import OTHER, ROLES, words_of

EUCLID_MER = re.compile(
    r"^EUC_MER_(?:(?:BGSUB-)?MOSAIC|(?P<other>BGMOD|[A-Z]+-PSF))-(?P<band>[A-Za-z0-9-]+?)"
    r"(?:-(?P<kind>RMS|FLAG))?_TILE(?P<tile>\d+)"
)
# std and n are scatter and numbers of images, -u holds the outliers that -m has not.
_UNWISE = re.compile(r"^(?P<name>unwise-\w+-w[1-4])-(?P<kind>img|invvar|std|n)-(?P<end>[mu])$")
# What a word of a file's name says about its pixels, where a file of the same name without it is there too.
KINDS = {word.lower(): role for role, words in ROLES.items() for word in words} | dict.fromkeys(
    OTHER, "other"
)
IMAGE_WORDS = (
    "image", "img", "sci", "drz", "drc", "ooi", "opi", "osi", "osj", "oki", "bgsub", "int", "maic", "refimg",
    "sciimg", "mosaic", "map",
)  # fmt: skip
HELD = {"weight": "weights", "ivar": "weights", "variance": "variances", "rms": "errors", "mask": "a mask"}


def split_name(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Split a file's name into what it shares with its weights and mask, and what its pixels are.

    Examples
    --------
    >>> split_name("legacysurvey-1501p020-image-g"), split_name("legacysurvey-1501p020-invvar-g")
    ((('legacysurvey', '1501p020', 'g'), None), (('legacysurvey', '1501p020', 'g'), 'ivar'))
    >>> split_name("SPLUS-s01_F660_swpweight")
    (('SPLUS', 's01', 'F660', 'swp'), 'weight')
    >>> split_name("tile_g_inverse_variance"), split_name("tile_g_rms_map")
    ((('tile', 'g'), 'ivar'), (('tile', 'g'), 'rms'))
    """
    if match := EUCLID_MER.match(stem):
        found = match["kind"]
        kind = KINDS[found.lower()] if found else "other" if match["other"] else None
        return (match["band"], match["tile"]), kind
    if match := _UNWISE.match(stem):
        kind = {"img": None, "invvar": "ivar"}.get(match["kind"], "other") if match["end"] == "m" else "other"
        return (match["name"],), kind
    words = words_of(stem)
    places = [i for i, w in enumerate(words) if w.lower() in KINDS and len(words) > 1]
    kind = KINDS[words[places[-1]].lower()] if places else None
    if kind == "weight" and "skycell" in words:
        kind = "variance"  # what Pan-STARRS calls wt
    dropped: tuple[str, ...] = IMAGE_WORDS
    if kind == "variance" and {"inv", "inverse"} & {w.lower() for w in words}:
        kind, dropped = "ivar", (*IMAGE_WORDS, "inv", "inverse")
    kept = (w for i, w in enumerate(words) if i not in places[-1:] and w.lower() not in dropped)
    return tuple(kept), kind


def given_name(path: Path) -> str:
    """Return a file's name without its ending: of ESO's archive, the one that the survey gave it."""
    name = peek_headers(path)[0].get("ORIGFILE") if path.name.startswith("ADP.") else None
    return stem_of(name if isinstance(name, str) and name else path)


def says_what_it_holds(name: str) -> bool:
    """Return whether a directory's name says what its files hold, such as ``images`` or ``weights``."""
    return bool({name.lower(), name.lower().removesuffix("s")} & {*KINDS, *IMAGE_WORDS})


def kind_of_folder(directory: Path) -> str | None:
    """Return what the files of a directory hold by its name, such as ``weights`` or ``invvar``."""
    name = Path(os.path.abspath(directory)).name.lower()
    kind = KINDS.get(name, KINDS.get(name.removesuffix("s")))
    return None if name.startswith("exp") else kind  # exposures are images
