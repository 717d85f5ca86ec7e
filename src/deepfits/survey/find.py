"""Finding the images of a survey, and their fields and bands.

A *field* is a region of sky with one image per band: an HSC patch, an SDSS frame, a coadd. Known layouts:

``plain``
    ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits``; one field per directory, or one in each
    subdirectory.
``hsc``
    ``calexp-<filter>-<tract>-<patch>.fits``: image, mask and variance in HDUs 1 to 3. Other files of the same
    tract and patch (``Mega-u_<tract>_<x>c<y>.fits``) belong to the same field.
``sdss``
    ``frame-<band>-<run>-<camcol>-<field>.fits.bz2``.
``generic``
    Any FITS image whose header (``FILTER``) or name gives the band; files that differ only in the band form
    one field.

For anything else, give the mapping: ``images=["u=one.fits", "g=two.fits[1]", "r=three.fits[SCI]"]``.

`deepfits.survey.image_source` determines the band and field of a file; `deepfits.survey.companions` finds its
weights and mask.
"""

import glob
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from deepfits.errors import DamagedFileError, InputError, for_each
from deepfits.files import require_regular
from deepfits.photometry import reference_band
from deepfits.results import read_record
from deepfits.survey.bands import band_name, band_of_name, is_instrument, is_known_band, sort_bands
from deepfits.survey.companions import is_companion, is_no_image_of_a_band, kind_of, log_remarks
from deepfits.survey.file_names import HELD, given_name, kind_of_folder, split_name
from deepfits.survey.fitsfile import hdu_number, is_fits_name, opened, peek_headers
from deepfits.survey.hdu_roles import ROLES, name_of, sky_images
from deepfits.survey.image_source import FieldSources, ImageSource, bands_of_images, source_of
from deepfits.survey.places import fields_of_one_place, groups_of_one_place, place_of

log = logging.getLogger(__name__)
# Names of incomplete downloads, backups, and images in unsupported formats.
_NO_IMAGE = re.compile(
    r"\.(?:asdf|jp2|tiff?)$|\.(?:fits?|fts|fz)(?:\.\w+)?(?:~|\.(?:part|partial|filepart|(?:cr)?download|tmp|bak|old|orig))$",
    re.IGNORECASE,
)
_BUNDLE = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|zip)$", re.IGNORECASE)  # archives of several files
# Unsupported compression.
_UNREADABLE = re.compile(r"\.(?:fits?|fts)\.(?:Z|zst|zip|lz4|7z|tar|lzma|br)$", re.IGNORECASE)
# Maximum depth of directories searched, below the one given.
DEEPEST = 12
_EXPLICIT = re.compile(r"^(?P<band>[A-Za-z][A-Za-z0-9_*+-]{0,15})=(?P<path>.+)$")
_HDU = re.compile(r"^(?P<path>.+)\[(?P<hdu>[^][]+)\]$")
# A path with the band and the HDU given by the user; these by path.
_Item = tuple[Path, str | None, int | None]
_Stated = dict[Path, list[tuple[str | None, int | None]]]


def find_fields(images: str | Path | Iterable[str | Path]) -> list[FieldSources]:
    """Find the fields in a directory, a file, or a list of these, sorted by name.

    Directories are searched recursively, down to the first with FITS files on each branch. In a list,
    ``band=path`` sets a file's band, and ``path[2]`` or ``path[SCI]`` its HDU, also for files in directories
    of the list. Patterns such as ``tiles/*/coadd-?.fits`` and ``g=tiles/*.fits[SCI]`` stand for what they
    match. Raise `InputError` if nothing is found, a band cannot be determined, or two files are for one band
    of a field. Files with unreadable headers are named together.
    """
    images = _as_list(images)
    try:
        return _group(_all_sources(images))
    except DamagedFileError:
        for_each(_files_in(images), peek_headers, "files")
        raise


def _files_in(images: Iterable[str | Path]) -> list[Path]:
    """Return the files that are given, and those in the directories that are searched."""
    files: list[Path] = []
    for path, *_ in map(_parsed, images):
        folders = [path, *_leaves(path)] if path.is_dir() else []
        files += [name for folder in folders for name in fits_files(folder)] or [path]
    return files


def _all_sources(images: list[str | Path]) -> list[ImageSource]:
    """Return all images; files with several bands give one source per band.

    What the list says of a file in one of its directories takes precedence over name and header.
    """
    items = [_parsed(item) for item in images]
    stated: _Stated = defaultdict(list)
    for path, band, hdu in items:
        if not path.is_dir() and (band, hdu) != (None, None):
            stated[path.resolve()].append((band, hdu))
    sources = [s for path, *_ in items if path.is_dir() for s in _sources_in(path, stated)]
    done, maps = {s.path.resolve() for s in sources} & stated.keys(), []
    given = {(band, path.resolve(), hdu) for path, band, hdu in items if band and path.resolve() not in done}
    has_fields = _show_several_places(given)
    explicit: list[ImageSource] = []
    for path, band, hdu in items:
        if path.is_dir() or path.resolve() in done:
            continue
        if (band, hdu) != (None, None):
            source = source_of(path, band=band, hdu=hdu, is_of_name=has_fields)
            (sources if band is None else explicit).append(source)
        elif path.resolve() not in stated:
            if _is_image(path):
                sources.append(source_of(path, folder=_named_by(path.resolve().parent.name, Path()).band))
            else:
                maps.append(path)
    sources += explicit if has_fields else _of_one_field(explicit)
    if maps and sources:
        log.warning(
            "%s%s: weights, a mask, a table or another map by name or header, not an image",
            *(maps[0], f" and {len(maps) - 1} more files" * (len(maps) > 1)),
        )
    log_remarks(source.path for source in sources)
    found = [s for source in sources for s in _of_each_band(source)]
    if not found:
        if maps:
            raise InputError(
                f"{maps[0]}: weights, a mask, a table or another map by name or header, not an image; give "
                f"the image, or, if it is one, its band too: BAND={maps[0]}"
            )
        where = Path(first := images[0])
        if where.is_dir() and _holds_files(where) and kind_of_folder(where) is not None:
            raise InputError(
                f"{first}: this directory's name says that its files belong to images of the same names in "
                "another directory; if they are images themselves, rename the directory"
            )
        if stage := read_record(where).get("stage"):
            raise InputError(f"{first}: the results of `deepfits {stage}`, not images; give the images")
        raise InputError(
            f"{first}: no FITS image found (.fits, .fit or .fts, compressed or not); check the path"
        )
    return found


def _show_several_places(given: Iterable[tuple[str, Path, int | None]]) -> bool:
    """Return whether files given for their bands show several places, else they are bands of one field."""
    by_band: dict[str, dict[str, tuple[Path, int | None]]] = defaultdict(dict)
    for band, path, hdu in given:
        by_band[band][f"{path}[{hdu}]"] = path, hdu
    is_several = any(len(files) > 1 for files in by_band.values())
    return is_several and not any(map(groups_of_one_place, by_band.values()))


def _of_one_field(sources: list[ImageSource]) -> list[ImageSource]:
    """Name the field of files given for its bands, which may lie in several directories, alike."""
    names = {source.field for source in sources} - {""}
    if len(sources) < 2 or len(names) > 1:
        return sources
    common = os.path.commonpath([source.path.resolve().parent for source in sources])
    name = next(iter(names), Path(common).name)
    return [source if source.field else replace(source, field=name) for source in sources]


def _of_each_band(source: ImageSource) -> list[ImageSource]:
    """Split a file that holds images of several bands into one source per image."""
    if source.hdu is not None or source.layout == "hsc":
        return [source]
    found = bands_of_images(source.path)
    if len(set(found.values())) < 2:
        return [source]
    return [replace(source, band=band, hdu=number, layer=n) for (number, n), band in found.items()]


def find_exposures(
    images: str | Path | Iterable[str | Path], *, bands: Iterable[str] | None = None
) -> dict[str, list[ImageSource]]:
    """Find images for stacking: any number per band, regardless of field.

    Return them by band, in order of wavelength, each list sorted by path. Raise `InputError` if nothing is
    found, or a requested band is missing.
    """
    chips = for_each(_all_sources(_as_list(images)), _chips, "exposures")
    sources = [source for of_file in chips for source in of_file]
    available = sort_bands(s.band for s in sources)
    wanted = tuple(band_name(b) for b in bands) if bands is not None else available
    if missing := [b for b in wanted if b not in available]:
        raise InputError(
            f"no exposure in band {missing[0]}; found {', '.join(available)}. Add the files, or give them as "
            "band=path"
        )
    return {
        b: sorted((s for s in sources if s.band == b), key=lambda s: (str(s.path), s.hdu or 0))
        for b in wanted
    }


def _chips(source: ImageSource) -> list[ImageSource]:
    """Split a file with several CCDs into one source per image of the sky."""
    if source.hdu is not None or source.layout == "hsc":
        return [source]
    with opened(source.path) as hdus:
        numbers = sky_images(hdus)
        names = {n: name_of(hdus[n]) for n in numbers}
    first, *others = numbers or [0]
    for number in others:
        both = {str(n): (source.path, n) for n in (first, number)}
        if names[number] != names[first] and groups_of_one_place(both):
            raise InputError(
                f"{source.path}: HDUs {first} ({names[first]}) and {number} ({names[number]}) show the same "
                f"piece of sky, so they are not CCDs of a camera; give the image: "
                f"{source.band}={source.path}[{first}]"
            )
    return [replace(source, hdu=n) for n in numbers] if len(numbers) > 1 else [source]


def _as_list(images: str | Path | Iterable[str | Path]) -> list[str | Path]:
    given = [images] if isinstance(images, (str, Path)) else list(images)
    out = [path for item in given for path in _matches(item)]
    if not out:
        raise InputError("no images given; give a directory or FITS files")
    return out


def _matches(item: str | Path) -> list[str | Path]:
    """Return what a pattern matches, each with its band and HDU; the item itself if it is no pattern."""
    if not set("*?") & set(str(item)) or Path(item).exists():
        return [item]
    if found := sorted(glob.glob(str(item), recursive=True)):
        return [*found]
    band, text, hdu = _split(str(item))
    ends = f"{band}=" * (band is not None), f"[{hdu}]" * (hdu is not None)
    return [path.join(ends) for path in sorted(glob.glob(text, recursive=True))] or [item]


def _split(text: str) -> tuple[str | None, str, str | None]:
    """Return the band, path and HDU of ``band=path[hdu]``; None for what it lacks."""
    band = hdu = None
    if match := _EXPLICIT.match(text):
        band, text = match["band"], match["path"]
    if match := _HDU.match(text):
        text, hdu = match["path"], match["hdu"]
    return band, text, hdu


def _parsed(item: str | Path) -> _Item:
    """Return the path, band and HDU of an item of the list, which may be a directory."""
    text, band, hdu = str(item), None, None
    path = Path(text)
    if not path.exists():
        band, text, which = _split(text)
        path = Path(text)
        if which is not None and (which.isdigit() or path.is_file()):
            hdu = hdu_number(path, which)
        elif which is not None:
            path = Path(f"{text}[{which}]")
    if path.is_file() and _BUNDLE.search(path.name):
        raise InputError(f"{path}: an archive of files; unpack it, and give the directory")
    if path.is_dir():
        if band is not None:
            raise InputError(f"{item}: band=path needs a file, not a directory")
        return path, None, None
    require_regular(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".npz", ".npy"):
        raise InputError(
            f"{path}: arrays, not an image; describe them in a TOML file (bands, zero_point, "
            "pixel_scale_arcsec, ...) and give that"
        )
    return path, band, hdu


def _sources_in(directory: Path, stated: _Stated) -> list[ImageSource]:
    top = directory.resolve().name
    found = _in_one_directory(directory, stated, _named_by(top, Path()))
    read = {directory.resolve()}  # symbolic links may be duplicates or cycles
    is_simulated = read_record(directory).get("stage") == "simulate"
    for leaf in _leaves(directory):
        if is_simulated and leaf.is_relative_to(directory / "exposures"):
            continue  # they show what the coadds show
        if leaf.resolve() in read:
            log.warning("%s: a link to a directory that is read already; ignored", leaf)
            continue
        read.add(leaf.resolve())
        found += _in_one_directory(leaf, stated, _named_by(top, leaf.relative_to(directory)))
        for below in _subdirectories(leaf):
            if _holds_files(below):
                log.warning(
                    "WARNING: %s: not searched (nested too deep in %s, or below other FITS files); give this "
                    "directory too",
                    *(below, directory),
                )
    return found


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """What the names of directories say: a band, and the field of files that state their own, and of others.

    The fields are empty if the names say nothing else.
    """

    band: str | None
    field: str
    field_of_band: str


def _named_by(top: str, below: Path) -> _Folder:
    """Return the band and field in the names of a directory that was given, and of directories below it.

    A name that is only a band (``HSC-G``) comes before one that has further words (``A383_g``). The field is
    what names neither band nor camera.
    """
    found = []
    for part in (top, *below.parts):
        band = band_name(part)
        found.append((band, "") if is_known_band(band) else band_of_name(part))
    whole = [number for number, (band, rest) in enumerate(found) if band and not rest]
    within = [number for number, (band, _) in enumerate(found) if band]
    place = next(iter(whole[::-1] + within[::-1]), None)
    words = {number: part for number, part in enumerate(below.parts, 1) if number not in whole}
    own, others = (
        "-".join(word for word in names.values() if word and not is_instrument(word))
        for names in (words, words if place is None else words | {place: found[place][1]})
    )
    return _Folder(band=None if place is None else found[place][0], field=own, field_of_band=others)


def _leaves(directory: Path, depth: int = 1) -> list[Path]:
    """Return the topmost subdirectories that hold FITS files.

    Archives use trees such as ``HSC-G/9813/4,5/calexp-*.fits`` and ``coadd/150/1501p020/``.
    """
    out = []
    for sub in _subdirectories(directory):
        below = _leaves(sub, depth + 1) if depth < DEEPEST and not _holds_files(sub) else []
        if below and kind_of_folder(sub) is not None:
            log.warning(
                "WARNING: %s: not used: by its name it holds %s; put them beside their images",
                *(sub, HELD.get(str(kind_of_folder(sub)), "no images")),
            )
            continue
        out += below or [sub]
    return out


def _holds_files(directory: Path) -> bool:
    return any(is_fits_name(p) for p in directory.iterdir())


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def fits_files(directory: Path) -> list[Path]:
    """Return the FITS files of a directory, sorted.

    Raise `InputError` if one cannot be read: a broken link, a FIFO, no permission, unsupported compression.
    """
    out = []
    for path in sorted(directory.iterdir()):
        if _UNREADABLE.search(path.name) and path.is_file():
            raise InputError(f"{path}: unsupported compression; unpack it, or move it elsewhere")
        if _NO_IMAGE.search(path.name) and path.is_file():
            log.warning("WARNING: %s: not used: by its name not a complete FITS file", path)
        if _BUNDLE.search(path.name) and path.is_file():
            log.warning("WARNING: %s: archives of files are not read; unpack it", path)
        if is_fits_name(path) and (path.is_symlink() or not path.is_dir()):
            require_regular(path)
            out.append(path)
    return out


def _in_one_directory(directory: Path, stated: _Stated, folder: _Folder) -> list[ImageSource]:
    """Find the images in a directory, whose name, and those of the ones above it, say `folder`.

    For the files in `stated`, band and HDU are given by the user.
    """
    sources, files, band = [], fits_files(directory), folder.band
    for path in files:
        if given := stated.get(path.resolve()):
            sources += [source_of(path, band=b, hdu=n, folder=band, is_of_name=True) for b, n in given]
        elif _is_image(path):
            sources.append(source_of(path, folder=band))
    kind = kind_of_folder(directory)
    if sources and kind in ROLES and any(kind_of(path) == kind for path in files):
        raise InputError(
            f"{sources[0].path}: in a directory of {HELD[str(kind)]}, but no image beside this directory has "
            "its name; restore that, or move this file elsewhere"
        )
    names = {s.field for s in sources}
    is_unnamed = len(names) == 1 and names <= {"", "coadd", "image", "img"}
    out = []
    for source in sources:
        name = folder.field_of_band if source.is_of_folder else folder.field
        if name and is_unnamed:
            source = replace(source, field=name)
        elif name and source.layout not in ("hsc", "sdss"):
            source = replace(source, field="-".join(filter(None, (name, source.field))))
        unnamed = directory.parent if source.is_of_folder else directory
        out.append(source if source.field else replace(source, field=unnamed.resolve().name))
    return out


def _is_image(path: Path) -> bool:
    """Return whether a file is an image of one band, by name and header; false for maps beside an image.

    Raise `InputError` if it holds weights or another map, but the image is missing.
    """
    if is_companion(path) or is_no_image_of_a_band(path):
        return False
    if (kind := kind_of(path)) is not None:
        raise InputError(
            f"{path}: holds {HELD.get(kind, 'no image')} by its name or header, but the image that it "
            f"belongs to is missing; restore that{_renaming_hint(path, fits_files(path.parent))}, or move "
            f"this file elsewhere; if it is an image itself, give its band too, BAND={path}"
        )
    return True


def _renaming_hint(path: Path, files: list[Path]) -> str:
    """Suggest a name for weights or a mask if an image's name differs in a single word."""
    key, kind = split_name(given_name(path))
    for other in files:
        if len(set(split_name(given_name(other))[0]) ^ set(key)) == 1 and kind_of(other) is None:
            return f", or, if it is {other.name}, rename this file to {given_name(other)}.{kind}.fits"
    return ""


def _by_directory(sources: list[ImageSource]) -> list[ImageSource]:
    """Return the images with fields named after directories too, where these have files of the same names.

    Directories of tiles, as from ``tiles/*`` in a shell, are meant: the same band on other pixels of the sky.
    """
    alike: dict[tuple[str, str], set[tuple[Path, int | None]]] = defaultdict(set)
    for source in sources:
        alike[source.field, source.band].add((source.path.resolve(), source.hdu))
    divided = set()
    for (name, _), files in alike.items():
        if len({path.parent for path, _ in files}) == len(files) > 1:
            places = [(*place[0], place[1]) for file in files if (place := place_of(*file)) is not None]
            if len(set(places)) == len(places):
                divided.add(name)
    out = []
    for name in divided:
        of_field = [s for s in sources if s.field == name]
        top = os.path.commonpath([s.path.resolve().parent for s in of_field])
        for source in of_field:
            folder = _named_by("", source.path.resolve().parent.relative_to(top))
            directory = folder.field_of_band if source.is_of_folder else folder.field
            out.append(replace(source, field="-".join(filter(None, (directory, name)))))
    return [s for s in sources if s.field not in divided] + out


def _group(sources: list[ImageSource]) -> list[FieldSources]:
    groups: dict[str, dict[str, ImageSource]] = defaultdict(dict)
    sources = [s if s.field else replace(s, field=s.path.resolve().parent.name) for s in sources]
    for source in _by_directory(sources):
        name = source.field
        earlier = groups[name].setdefault(source.band, source)
        if earlier is source or (earlier.path.resolve(), earlier.hdu) == (source.path.resolve(), source.hdu):
            continue
        if earlier.path.resolve() == source.path.resolve():
            raise InputError(
                f"{source.path}: HDUs {earlier.hdu} and {source.hdu} both hold {source.band}; put each field "
                "into its own file, or stack exposures first with `deepfits stack`"
            )
        is_beside = earlier.path.resolve().parent == source.path.resolve().parent
        remedy = "put each field into its own directory" if is_beside else "give only one of them"
        raise InputError(
            f"{source.path}: a second {source.band} image of field {name!r}, besides {earlier.path}; "
            f"{remedy}, move the unwanted image elsewhere, stack exposures first with `deepfits stack`, or, "
            f"if they have different filters, give one a name of its own too: {source.band}_2={source.path}"
        )
    named = {name: {b: (s.path, s.hdu) for b, s in images.items()} for name, images in groups.items()}
    joined = fields_of_one_place(named)
    for first, *others in joined:
        for other in others:
            groups[first] |= {b: replace(s, field=first) for b, s in groups.pop(other).items()}
    _warn_of_one_place(groups)
    return [
        FieldSources(name=n, images={b: groups[n][b] for b in sort_bands(groups[n])}) for n in sorted(groups)
    ]


def _warn_of_one_place(groups: Mapping[str, Mapping[str, ImageSource]]) -> None:
    """Warn of fields that show the same area in the same band: one may hold the other's weights.

    Only bands that are the reference of some field are compared, because reading all headers takes long.
    """
    pairs = [
        (images[first], images[second])
        for band in sort_bands(reference_band(sort_bands(images)) for images in groups.values())
        for images in [{name: groups[name][band] for name in sorted(groups) if band in groups[name]}]
        for alike in groups_of_one_place({name: (s.path, s.hdu) for name, s in images.items()})
        for first, second in pairwise(alike)
    ]
    if pairs:
        log.warning(
            "WARNING: %s and %s show the same piece of sky in the same band%s: treated as separate fields, "
            "and objects are taken from either; if one holds weights, a mask or another map, name it so "
            "(.weight, .rms, .mask) or move it away; if they are two releases or versions, give only one; if "
            "exposures, stack them first with `deepfits stack`",
            *(pairs[0][0].path, pairs[0][1].path, f" ({len(pairs)} such pairs)" * (len(pairs) > 1)),
        )
