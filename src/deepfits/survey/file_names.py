"""Roles of files and directories by their names: images, weights, masks.

One word of a name (``weight``, ``invvar``, ``flags``) gives the role; an image shares the other words with
its weights and its mask.
"""

import os
import re
from pathlib import Path

from deepfits.survey.fitsfile import peek_headers, stem_of
from deepfits.survey.hdu_roles import OTHER, ROLES, words_of

EUCLID_MER = re.compile(
    r"^EUC_MER_(?:(?:BGSUB-)?MOSAIC|(?P<other>BGMOD|[A-Z]+-PSF))-(?P<band>[A-Za-z0-9-]+?)"
    r"(?:-(?P<kind>RMS|FLAG))?_TILE(?P<tile>\d+)"
)
# std and n are the scatter and the number of exposures; -u includes the outliers that are masked in -m.
_UNWISE = re.compile(r"^(?P<name>unwise-\w+-w[1-4])-(?P<kind>img|invvar|std|n)-(?P<end>[mu])$")
# Role of a file by a word of its name, where a file with the same name but without that word exists too.
KINDS = {word.lower(): role for role, words in ROLES.items() for word in words} | dict.fromkeys(
    OTHER, "other"
)
IMAGE_WORDS = (
    "image", "img", "sci", "drz", "drc", "ooi", "opi", "osi", "osj", "oki", "bgsub", "int", "maic", "refimg",
    "sciimg", "mosaic", "map", "calexp", "i2d",
)  # fmt: skip
HELD = {"weight": "weights", "ivar": "weights", "variance": "variances", "rms": "errors", "mask": "a mask"}


def split_name(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Split a file's name into the words shared with its weights and mask, and its role (None: an image).

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
        suffix = match["kind"]
        kind = KINDS[suffix.lower()] if suffix else "other" if match["other"] else None
        return (match["band"], match["tile"]), kind
    if match := _UNWISE.match(stem):
        kind = {"img": None, "invvar": "ivar"}.get(match["kind"], "other") if match["end"] == "m" else "other"
        return (match["name"],), kind
    words = words_of(stem)
    places = [i for i, w in enumerate(words) if w.lower() in KINDS and len(words) > 1]
    kind = KINDS[words[places[-1]].lower()] if places else None
    dropped: tuple[str, ...] = IMAGE_WORDS
    if kind == "variance" and {"inv", "inverse"} & {w.lower() for w in words}:
        kind, dropped = "ivar", (*IMAGE_WORDS, "inv", "inverse")
    role = places if kind == "other" else places[-1:]  # det_bkgd is one role
    kept = (w for i, w in enumerate(words) if i not in role and w.lower() not in dropped)
    return tuple(kept), kind


def given_name(path: Path) -> str:
    """Return a file's name without its ending; for files of ESO's archive, their original name."""
    name = peek_headers(path)[0].get("ORIGFILE") if path.name.startswith("ADP.") else None
    return stem_of(name if isinstance(name, str) and name else path)


def says_what_it_holds(name: str) -> bool:
    """Return whether a directory is named after the role of its files, such as ``images`` or ``weights``."""
    return bool({name.lower(), name.lower().removesuffix("s")} & {*KINDS, *IMAGE_WORDS})


def kind_of_folder(directory: Path) -> str | None:
    """Return the role of a directory's files by its name, ``weight`` for ``weights``; None for images."""
    name = Path(os.path.abspath(directory)).name.lower()
    kind = KINDS.get(name, KINDS.get(name.removesuffix("s")))
    return None if name.startswith("exp") else kind  # a directory of exposures, i.e. images
