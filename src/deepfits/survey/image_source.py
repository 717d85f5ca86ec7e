"""Sources of images: the file of one band of one field, and the band and field of a given file."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from deepfits.errors import InputError
from deepfits.survey.bands import (
    UNSURE,
    band_name,
    band_of_header,
    band_of_name,
    bands_of_layers,
    is_known_band,
    passband,
    settled_bands,
)
from deepfits.survey.companions import companions_of
from deepfits.survey.file_names import EUCLID_MER, given_name
from deepfits.survey.fitsfile import axes_of, has_image, peek_headers
from deepfits.survey.hdu_roles import known_band_of_plane, name_in, role_of

log = logging.getLogger(__name__)
_SDSS = re.compile(r"^frame-(?P<band>[ugriz])-(?P<field>\d+-\d-\d+)$")
_HSC = re.compile(r"^calexp-(?P<band>[A-Za-z0-9-]+)-(?P<field>\d+-\d+,\d+)$")
_UNIONS = re.compile(
    r"^(?:calexp-)?(?:CFIS(?:_LSB)?|PSS?[-.]DR\d|WISHES|WHIGS|UNIONS)[._](?P<tile>\d{1,3}[._]\d{1,3})(?=$|[._])"
)
_PATCH = re.compile(r"(?P<tract>\d{4,5})[-_](?P<x>\d{1,2})[,cx](?P<y>\d{1,2})")
# Telescope and camera in names of MAST's high-level products, which differ between the bands of a field.
_HLSP = re.compile(r"^(hlsp_[a-z0-9-]+)_(?:hst|jwst)_[a-z0-9-]+(?=_)")
# Empty slot of the second filter wheel, in names of Webb's mosaics (Hubble's of the same field lack it).
_CLEAR = re.compile(r"[-_. ]?clearp?(?=$|[-_. ])", re.IGNORECASE)
# Drizzled with and without correction for charge transfer, which infrared detectors do not need.
_DRIZZLED = re.compile(r"(?<=[-_.])dr[cz](?=$|[-_.])")


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Location of the image of one band of one field.

    Its companions are files with weights, which are ``weight`` (inverse variance, possibly up to a factor),
    ``ivar``, ``variance`` or ``rms``, and a ``mask``. Roles that end in `SHARED` apply to all bands.
    """

    band: str
    field: str
    path: Path
    hdu: int | None = None  # None for the first that has an image
    layer: int | None = None  # number of the image in a cube
    companions: tuple[tuple[Path, str], ...] = ()
    layout: str = "generic"  # or hsc, sdss
    is_of_folder: bool = False  # only the name of a directory gives the band


@dataclass(frozen=True, kw_only=True)
class FieldSources:
    """Images of one field, by band, in order of wavelength."""

    name: str
    images: dict[str, ImageSource] = field(default_factory=dict)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the field."""
        return tuple(self.images)


def source_of(
    path: Path,
    *,
    band: str | None = None,
    hdu: int | None = None,
    folder: str | None = None,
    is_of_name: bool = False,
) -> ImageSource:
    """Determine the field and companions of an image file, and its band unless given.

    The band is that of header or name, or else `folder`, that of its directory.
    With `is_of_name`, the field is that of the file's name although the band is given.
    """
    stem = given_name(path)
    for layout, pattern, number in (("sdss", _SDSS, 0), ("hsc", _HSC, None)):
        if match := pattern.match(stem):
            band = band or band_name(match["band"])
            number = number if hdu is None else hdu
            return ImageSource(band=band, field=match["field"], path=path, hdu=number, layout=layout)
    head = path.with_name(f"{stem}.head")
    # Beside a coadd of SWarp's, it is the grid.
    if head.is_file() and all(cards.get("SOFTNAME") != "SWarp" for cards in peek_headers(path)):
        log.warning(
            "WARNING: %s: SCAMP's header beside the image is not read; write its cards into the image, or "
            "run SWarp",
            head,
        )
    plain = _DRIZZLED.sub("drz", _CLEAR.sub("", _HLSP.sub(r"\1", stem)))
    named, rest = band_of_name(plain)
    if match := EUCLID_MER.match(stem):
        named, rest = band_name(match["band"]), f"TILE{match['tile']}"
    patch = _PATCH.search(rest)
    is_named = band is not None and not is_of_name
    band = band or _band_of(path, stem, named)
    if is_of_folder := band is None and folder is not None:
        log.info("%s: band %s, by the name of the directory", path, folder)
        band = folder
    if band is None:
        raise InputError(_no_band(path))
    if patch:
        rest = f"{patch['tract']}-{patch['x']},{patch['y']}"
    elif is_named:
        rest = ""  # files given by band belong to a single field
    elif match := _UNIONS.match(stem):
        rest = match["tile"].replace("_", ".")  # the survey in the name differs between bands
    elif named != band and not EUCLID_MER.match(stem):
        if re.fullmatch("ch[1-4]", band):  # of Spitzer, I1 in names of SWIRE
            plain = re.sub(rf"(?<![^-_. ])I(?={band[-1]}[-_. ])", "ch", plain)
        matched, without = band_of_name(plain, {band})
        rest = without if matched else _without_band(plain, band) if named is None else rest
    return ImageSource(
        band=band, field=rest, path=path, hdu=hdu, companions=companions_of(path), is_of_folder=is_of_folder
    )


def _without_band(stem: str, band: str) -> str:
    """Return a name without the word for a band, i.e. the part shared by the files of one field.

    Examples
    --------
    >>> _without_band("STRIPE82-0001_F660_swp", "F660"), _without_band("6778_01500", "g")
    ('STRIPE82-0001-swp', '6778_01500')
    """
    words = list(re.finditer(r"[^-_. ]+", stem))
    word = next((w for w in reversed(words) if passband(w[0]) == passband(band)), None)
    if word is None:
        return stem
    return re.sub(r"[-_. ]{2,}", "-", stem[: word.start()] + stem[word.end() :]).strip("-_. ")


def bands_of_images(path: Path) -> dict[tuple[int, int | None], str]:
    """Return the bands stated by HDUs, or layers of cubes, with images of the sky, by HDU and layer."""
    headers = peek_headers(path)
    names = {n: str(header.get("EXTNAME", "")) for n, header in enumerate(headers) if has_image(header)}
    names = {n: name for n, name in names.items() if role_of(name_in(headers[n], name)) is None}
    numbers = {n: axes_of(headers[n])[2] if len(axes_of(headers[n])) == 3 else 1 for n in names}
    layers = {n: bands_of_layers(headers[0] | headers[n], number) for n, number in numbers.items()}
    if cubes := {n: bands for n, bands in layers.items() if len(bands) > 1}:
        return {(n, layer): band for n, bands in cubes.items() for layer, band in enumerate(bands)}
    cards = [band_of_header(headers[n]) or next(iter(layers[n]), None) for n in names]
    bands = settled_bands(cards, [*map(known_band_of_plane, names.values())])
    return {(number, None): band for number, band in zip(names, bands, strict=True) if band}


def _no_band(path: Path) -> str:
    """Return the message on an image whose band is unknown, with the remedy."""
    if any(len(axes_of(h)) == 3 for h in peek_headers(path) if has_image(h)):
        return (
            f"{path}: a cube, whose header does not name the bands of its layers; write them into it "
            "(BANDS = 'grz'), or, if this is one of many cutouts, a TOML file (docs/how-to/survey-files.md)"
        )
    return (
        f"{path}: neither the header (FILTER) nor the name gives the band; give it too, "
        f"as in g={path}; if it is no image of a band but another map, move it elsewhere"
    )


def _band_of(path: Path, stem: str, named: str | None) -> str | None:
    """Return the band stated by header or name, None if there is none; conflicting ones raise an error."""
    headers = peek_headers(path)
    images = [h for h in headers if has_image(h)]
    stated = next((b for b in map(band_of_header, [headers[0], *images]) if b), None)
    found = bands_of_images(path)
    if any(layer is not None for _, layer in found) or (stated is None and named is None):
        return next(iter(found.values()), None)
    if stated is None or named is None:
        return stated or named
    last = re.split(r"[-_. ]+", stem)[-1]
    is_last = band_of_name(last)[0] == named and is_known_band(named) and last not in UNSURE
    short, long = sorted((stated.lower(), named.lower()), key=len)  # u and ustar, or W1 and w1, may be one
    if is_last and not long.startswith(short):
        raise InputError(
            f"{path}: the band is {stated} by the header but {named} by the name; give the right one too: "
            f"{stated}={path} or {named}={path}"
        )
    return stated
