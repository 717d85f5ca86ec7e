"""Fields, with all their bands on one grid, open for reading."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from deepfits.errors import InputError
from deepfits.files import contents_of, states_of
from deepfits.photometry import reference_band
from deepfits.survey.astrometry import pixels_at
from deepfits.survey.bands import band_name, require_bands, sort_bands
from deepfits.survey.find import find_fields
from deepfits.survey.fitsfile import axes_of, has_image, peek_headers, quiet
from deepfits.survey.grids import AlignedPlane, align, share_beyond
from deepfits.survey.image_source import FieldSources
from deepfits.survey.planes import Plane, ReadOptions, open_planes

log = logging.getLogger(__name__)

# Fields whose planes together are smaller than this are read once and kept in memory.
CACHE_BYTES = 400 << 20
MIDDLE_ROWS = 1024
# Rows, and strips of rows, on which stars are found if the catalogue is not made by detection.
SAMPLE_ROWS, NUM_STRIPS = 2560, 5
GAP = 13  # rows without weight between strips: half the side of a star's stamp
# As many fields, and more, of at most so many pixels a side may be cutouts of single objects.
MANY_SMALL, SMALL = 10, 200
# Share of a band's data beyond the grid above which there is a warning: patches and tiles overlap by less.
MOST_BEYOND = 0.25


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Fields to work on, sorted by name, and options for reading them.

    The bands are those of the result, in order; fields may lack some if that was allowed. The grid of a field
    is that of the reference band, or a default choice if it is None or missing (`reference_of`). With
    `allow_missing`, an image without data counts as a missing band. `stamps` are those of the files when the
    set was made; see `require_unchanged`.
    """

    fields: tuple[FieldSources, ...]
    bands: tuple[str, ...]
    options: ReadOptions
    reference: str | None = None
    allow_missing: bool = False
    stamps: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what workers need: not the fingerprints of all files."""
        return {name: value for name, value in vars(self).items() if name != "states_by_field"}

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on, for JSON: fingerprints of the files, and options."""
        files = {name: path for field in self.fields for name, path in self._files_of(field).items()}
        return {"files": contents_of(files), "bands": list(self.bands), "reference": self.reference} | (
            self._reading()
        )

    def require_unchanged(self, *fields: FieldSources) -> None:
        """Raise `InputError` if a file of these fields (by default all) differs from what it was at first.

        The coadds may still be written, or replaced after a fit was prepared: what was measured on one
        version would be used for cutouts from another.
        """
        now = _stamps(path for field in fields or self.fields for path in self._files_of(field).values())
        changed = [path for path, stamp in now.items() if self.stamps.get(path, stamp) != stamp]
        if changed:
            more = f" and {len(changed) - 1} more files" * (len(changed) > 1)
            raise InputError(
                f"{changed[0]}{more}: changed since the work on it began; start again once the images are "
                "complete"
            )

    def keeping_copies(self, directory: str | Path) -> Self:
        """Return this set, with decompressed copies of its files kept in a directory."""
        return replace(self, options=replace(self.options, unpacked=Path(directory)))

    @cached_property
    def states_by_field(self) -> dict[str, dict[str, str]]:
        """Fingerprints of each field's files, by the field's name, made as for `settings`."""
        files = {field.name: self._files_of(field) for field in self.fields}
        states = states_of({name: path for paths in files.values() for name, path in paths.items()})
        return {field: {name: states[name] for name in paths} for field, paths in files.items()}

    def made_from(self, field: FieldSources) -> dict[str, Any]:
        """Return what products of a field depend on, for JSON; see `is_made_from`."""
        files = states_of(self._files_of(field), is_sample=True)
        return {"files": files, "reference": self.reference_of(field)} | self._reading()

    def is_made_from(
        self, field: FieldSources, earlier: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> bool:
        """Return whether a product was made from these images of a field (or more), with the same options.

        `earlier` is what `made_from` returned. Files that the `settings` of then name are compared with these
        too: their fingerprints may be those of all their bytes, not of samples.
        """
        if whole := settings.get("files"):
            states = self.states_by_field[field.name]
            if any(whole.get(name, state) != state for name, state in states.items()):
                return False
        now = self.made_from(field)
        files = earlier.get("files", {})
        return {**now, "files": {}} == {**earlier, "files": {}} and now["files"].items() <= files.items()

    def has_field_of(self, info: Mapping[str, Any]) -> bool:
        """Return whether any field is as it was for an earlier result, which `info` describes."""
        earlier, settings = info.get("fields", {}), info.get("settings", {})
        return any(
            self.is_made_from(field, earlier[field.name].get("made_from", {}), settings)
            for field in self.fields
            if field.name in earlier
        )

    def reference_of(self, field: FieldSources) -> str:
        """Return the band that defines a field's grid."""
        is_there = self.reference is not None and self.reference in field.images
        return str(self.reference) if is_there else reference_band(sort_bands(field.bands))

    def _files_of(self, field: FieldSources) -> dict[str, Path]:
        return {
            f"{field.name}/{source.band}/{number}/{path.name}": path
            for source in field.images.values()
            for number, path in enumerate((source.path, *(p for p, _ in self.options.used_of(source))))
        }

    def _reading(self) -> dict[str, Any]:
        given = asdict(self.options) | {"bad_planes": list(self.options.bad_planes)}
        del given["unpacked"]
        return given


def image_set(
    images: str | Path | Iterable[str | Path],
    *,
    bands: Iterable[str] | None = None,
    reference: str | None = None,
    allow_missing: bool = False,
    **reading: Any,
) -> ImageSet:
    """Find the fields and choose the bands of the result; `reading` is passed to `ReadOptions`.

    Raise `InputError` if a field lacks a band (unless `allow_missing`) or has none of them, or a given band
    does not exist.
    """
    options = ReadOptions(**reading)
    fields = find_fields(images)
    _warn_of_cutouts(fields)
    available = sort_bands(b for field in fields for b in field.bands)
    require_bands(options.zero_point, available, "zero_point")
    wanted = tuple(dict.fromkeys(band_name(b) for b in bands)) if bands else available
    for band in wanted:
        lacking = [field for field in fields if band not in field.images]
        if lacking and not allow_missing:
            names = ", ".join(repr(field.name) for field in lacking[:3])
            where = next(iter(lacking[0].images.values())).path.parent
            raise InputError(
                f"{where}: no image in band {band} for field {names} (it has "
                f"{', '.join(lacking[0].bands)}); add the file, specify it with {band}=PATH, or use "
                "allow_missing to keep its objects with weight 0"
            )
        if len(lacking) == len(fields):
            log.warning("WARNING: no image in band %s: its weight is 0 everywhere", band)
    if reference is not None and band_name(reference) not in available:
        raise InputError(f"reference_band {reference!r} is not among the bands {', '.join(available)}")
    kept = [replace(f, images={b: f.images[b] for b in wanted if b in f.images}) for f in fields]
    if empty := [field.name for field in kept if not field.images]:
        raise InputError(f"field {empty[0]!r} has none of the bands {', '.join(wanted)}; leave it out")
    chosen = ImageSet(
        fields=tuple(kept),
        bands=wanted,
        options=options,
        reference=band_name(reference) if reference is not None else None,
        allow_missing=allow_missing,
    )
    files = (chosen._files_of(field) for field in kept)
    return replace(chosen, stamps=_stamps(path for paths in files for path in paths.values()))


def _warn_of_cutouts(fields: Sequence[FieldSources]) -> None:
    """Warn of fields that are so small that they may be cutouts, of one object each."""
    sources = [next(iter(field.images.values())) for field in fields[:MANY_SMALL]]
    sides = [n for s in sources for h in peek_headers(s.path) if has_image(h) for n in axes_of(h)[:2]]
    if len(sources) == MANY_SMALL and max(sides, default=SMALL + 1) <= SMALL:
        log.warning(
            "WARNING: %s and %d more fields of up to %d pixels: if each is a cutout of one object, describe "
            "them in a TOML file (docs/how-to/survey-files.md) and give that",
            *(sources[0].path, len(fields) - 1, max(sides)),
        )


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """Return size and time (whole seconds) of files, to tell whether they change.

    Not the inode, nor fractions of seconds, which are not constant on every network file system.
    """
    states = {path: path.stat() for path in sorted(set(paths)) if path.exists()}
    return {path: (state.st_size, int(state.st_mtime)) for path, state in states.items()}


class Field:
    """All bands of a field on the grid of the reference plane, whose shape and pixel scale it has.

    Its planes are `AlignedPlane`, or `InMemory` for small fields.
    """

    def __init__(self, sources: FieldSources, planes: dict[str, Plane], reference: str) -> None:
        self.sources, self.name = sources, sources.name
        self.reference = planes[reference]
        self.shape, self.pixel_scale = self.reference.shape, self.reference.pixel_scale
        self.aligned: dict[str, AlignedPlane] = align(planes, reference)
        size = 8 * len(planes) * int(np.prod(self.shape))
        self.planes: dict[str, AlignedPlane | InMemory] = dict(self.aligned)
        if size <= CACHE_BYTES:
            self.planes = {b: InMemory(p) for b, p in self.aligned.items()}

    def remarks(self) -> dict[str, list[str]]:
        """Describe the decisions made for each band."""
        out = {}
        for band, plane in self.aligned.items():
            texts = list(plane.plane.remarks)
            if plane.kind != "same":
                dx, dy = plane.shift
                how = "whole pixels" if plane.kind == "shifted" else "cubic splines"
                texts.append(
                    f"aligned to {self.reference.source.band} by ({dx:+.2f}, {dy:+.2f}) pixels, {how}"
                )
            out[band] = texts
        return out

    def empty_warnings(self) -> list[str]:
        """Warn of images without data, which were left out."""
        return [
            f"{source.path} has no pixel with data: weight 0 in {band}"
            for band, source in self.sources.images.items()
            if band not in self.planes
        ]

    def beyond_warnings(self) -> list[str]:
        """Warn of bands of which much lies beyond the grid, where nothing is detected or cut out."""
        grid = self.reference.source.band
        shares = {b: share_beyond(plane.plane, self.reference) for b, plane in self.aligned.items()}
        return [
            f"{band}: {share:.0%} of its data lie beyond the image of {grid}, the reference band, where "
            f"nothing is detected or cut out; to use all of them, give reference_band {band}"
            for band, share in shares.items()
            if share > MOST_BEYOND
        ]

    def row(self, y: np.ndarray) -> np.ndarray:
        """Return the rows: those of its planes are its own (see `PartOfField`)."""
        return y

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return right ascension and declination, degrees; NaN without a WCS."""
        wcs: WCS | None = self.reference.wcs
        if wcs is None or not len(x):
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        with quiet():
            sky = wcs.pixel_to_world(x, y).icrs
        return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)

    def pixels(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel positions on the grid; NaN for positions that are invalid or cannot lie on it."""
        if self.reference.wcs is None:
            raise InputError(
                f"{self.reference.path}: no WCS, so ra and dec cannot be used; give a catalogue "
                "with x and y (pixels)"
            )
        ok = np.isfinite(ra) & np.isfinite(dec) & (np.abs(np.nan_to_num(dec)) <= 90)
        x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
        if ok.any():
            x[ok], y[ok] = pixels_at(self.reference.wcs, SkyCoord(ra[ok], dec[ok], unit="deg"))
        return x, y


class InMemory:
    """An aligned plane that is read once and kept in memory."""

    def __init__(self, plane: AlignedPlane) -> None:
        self.plane, self.shape = plane, plane.shape
        self.noise_correlation = plane.noise_correlation

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.plane.read()

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of image and weight."""
        image, weight = self._arrays
        return image.copy(), weight.copy()

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of some rows."""
        image, weight = self._arrays
        return image[start:stop], weight[start:stop]


def middle_rows(field: Field) -> tuple[int, int]:
    """Return the first of the middle `MIDDLE_ROWS` rows of a field, and the one after the last."""
    start = max((field.shape[0] - MIDDLE_ROWS) // 2, 0)
    return start, min(start + MIDDLE_ROWS, field.shape[0])


class PartOfField:
    """Some strips of rows of a field, one above the other, with a field's interface.

    Weights are 0 in the last `GAP` rows of each strip but the topmost, so that no object is joined to one of
    the next strip.
    """

    def __init__(self, field: Field, strips: Sequence[tuple[int, int]]) -> None:
        self.name, self.pixel_scale, self.shape = field.name, field.pixel_scale, field.shape
        self.planes = {band: _Strips(plane, strips) for band, plane in field.planes.items()}
        self._rows = np.concatenate([np.arange(start, stop) for start, stop in strips])

    def row(self, y: np.ndarray) -> np.ndarray:
        """Return the rows in the whole field."""
        return np.interp(y, np.arange(len(self._rows)), self._rows)

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return NaN: positions are not needed."""
        return np.full(len(x), np.nan), np.full(len(y), np.nan)


class _Strips:
    def __init__(self, plane: Any, strips: Sequence[tuple[int, int]]) -> None:
        self._plane, self._strips = plane, strips
        self.shape = (sum(stop - start for start, stop in strips), plane.shape[1])
        self.noise_correlation = plane.noise_correlation

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of image and weight."""
        images, weights = zip(*(self._plane.rows(*strip) for strip in self._strips), strict=True)
        image, weight = np.concatenate(images), np.concatenate(weights)
        for above in np.cumsum([len(part) for part in images])[:-1]:
            weight[above - GAP : above] = 0
        return image, weight


def middle_of(field: Field) -> PartOfField:
    """Return the middle rows of a field."""
    return PartOfField(field, [middle_rows(field)])


def sample_of(field: Field) -> Field | PartOfField:
    """Return strips that are spread over a field, with `SAMPLE_ROWS` rows, or the field if it has no more."""
    height, each = field.shape[0], SAMPLE_ROWS // NUM_STRIPS
    if height <= SAMPLE_ROWS:
        return field
    starts = np.linspace(0, height - each, NUM_STRIPS).astype(int).tolist()
    return PartOfField(field, [(start, start + each) for start in starts])


@contextmanager
def open_field(sources: FieldSources, images: ImageSet) -> Iterator[Field]:
    """Open one field of a set."""
    with open_planes(sources.images, images.options, may_be_empty=images.allow_missing) as planes:
        opened_sources = replace(sources, images={band: sources.images[band] for band in planes})
        yield Field(sources, dict(planes), images.reference_of(opened_sources))


class OpenFields:
    """The fields of a plan; the most recently used one stays open."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._stack = ExitStack()
        self._there: tuple[int, Field] | None = None

    def open(self, index: int) -> Field:
        """Return field number `index`, which stays open until another one is requested."""
        if self._there is None or self._there[0] != index:
            self.close()
            field = self._stack.enter_context(open_field(self._images.fields[index], self._images))
            self._there = index, field
        return self._there[1]

    def close(self) -> None:
        """Close the open field, if any."""
        self._stack.close()
        self._there = None
