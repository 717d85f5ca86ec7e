"""The cutout store, the input of every stage after `cutouts`.

Shapes: N objects, B bands, H = W = size pixels.

A store is a directory. ``store.json`` holds what all shards share (bands, scale, unit, schema); each
``shard-00000.h5`` holds ``image`` and ``weight``, ``(N, B, H, W)`` float32 in nJy and nJy⁻²,
``is_neighbour``, ``(N, H, W)`` uint8, which flags pixels of other objects (since schema 2; measured where it
is missing), and the group ``catalogue`` with one dataset per column, including ``object_id``. Shards are
written atomically and read one at a time, so a store may be larger than memory. Requires only NumPy and h5py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Self

import h5py
import numpy as np

from deepfits.config import Range, Stored, check
from deepfits.errors import InputError, nearest
from deepfits.files import give_inside, read_json, write_json, writing_hdf5
from deepfits.hdf5 import local_object, opened, read_column
from deepfits.splits import PerObject
from deepfits.survey.bands import places_of
from deepfits.tables.matching import match_identities

SCHEMA_VERSION = 2
READABLE_SCHEMAS = (1, 2)
FLUX_UNIT = "nJy"
NEIGHBOURS = "is_neighbour"
PSF_MISMATCH = "psf_mismatch"
"""Prefix, before the band, of the columns with the relative error of fluxes due to the PSF."""
_SLASH = "%2F"  # escapes the slash in column names such as chi2/dof, which HDF5 would read as a group path
MAX_SIDE = 4096
MAX_BANDS = 64
MAX_GAUSSIANS = 32


@dataclass(frozen=True, kw_only=True)
class StoreInfo(Stored):
    """Properties shared by all cutouts of a store.

    Attributes
    ----------
    bands
        Band names, in the order of the arrays' second axis.
    size
        Side of a cutout in pixels.
    pixel_scale_arcsec
        Pixel scale.
    fwhm_arcsec
        FWHM of the PSF in each band; NaN where unknown.
    survey
        Human-readable name.
    noise_correlation
        Ratio, per band, of the true noise in a large aperture to the noise expected from the weights for
        independent pixels; 1 where unknown.
    """

    bands: tuple[str, ...]
    size: Annotated[int, Range(ge=4, le=MAX_SIDE)]
    pixel_scale_arcsec: Annotated[float, Range(ge=1e-6, le=1e5)]
    fwhm_arcsec: tuple[Annotated[float, Range(gt=0, le=1e5, nan=True)], ...] = ()
    survey: str = ""
    flux_unit: str = FLUX_UNIT
    schema_version: int = SCHEMA_VERSION
    noise_correlation: tuple[Annotated[float, Range(ge=1e-3, le=1e3)], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, where="cutouts")
        num_bands = len(self.bands)
        if not 1 <= num_bands <= MAX_BANDS or len(set(self.bands)) != num_bands:
            raise InputError(f"a store needs 1 to {MAX_BANDS} different bands, not {self.bands!r}")
        for band in self.bands:  # used in column names, file names and HTML pages
            if not 1 <= len(band) <= 64 or not band.isprintable() or "/" in band or "\\" in band:
                raise InputError(f"{band!r} is not a name for a band; use letters, digits and - _ . *")
        for name in ("fwhm_arcsec", "noise_correlation"):
            values = getattr(self, name) or (np.nan if name == "fwhm_arcsec" else 1.0,) * num_bands
            if len(values) != num_bands:
                raise InputError(f"{name} has {len(values)} values for {num_bands} bands")
            object.__setattr__(self, name, tuple(float(v) for v in values))

    @classmethod
    def from_json(cls, content: Any, where: str | Path = "") -> Self:
        """Parse the output of `to_json`; `where` is named in errors."""
        if not isinstance(content, Mapping):
            raise InputError(f"{where} must be names with values, not {content!r:.60}")
        if content.get("schema_version") not in READABLE_SCHEMAS:
            raise InputError(
                f"{where}: store schema {content.get('schema_version')!r}; this version reads "
                f"{READABLE_SCHEMAS[0]} to {READABLE_SCHEMAS[-1]}: make it again with `deepfits cutouts`"
            )
        known = {f.name for f in fields(cls)}
        return super().from_json({k: v for k, v in content.items() if k in known}, where)


@dataclass(frozen=True, kw_only=True)
class BandOrder:
    """Selection and order of a store's bands, for a model with other bands.

    Bands are named as in the store. Bands of the model that the store lacks have place None, weight 0 and an
    unknown PSF.
    """

    bands: tuple[str, ...]
    places: tuple[int | None, ...]

    @classmethod
    def of(cls, available: Sequence[str], wanted: Sequence[str]) -> BandOrder:
        """Match a model's bands to a store's."""
        places = places_of(wanted, available)
        names = (band if n is None else available[n] for band, n in zip(wanted, places, strict=True))
        return cls(bands=tuple(names), places=places)

    def info(self, info: StoreInfo) -> StoreInfo:
        """Return the store's description for these bands."""
        fwhm, noise = info.fwhm_arcsec, info.noise_correlation
        return replace(
            info,
            bands=self.bands,
            fwhm_arcsec=tuple(np.nan if n is None else fwhm[n] for n in self.places),
            noise_correlation=tuple(1.0 if n is None else noise[n] for n in self.places),
        )

    def cutouts(self, cutouts: Cutouts) -> Cutouts:
        """Return cutouts in these bands; themselves if they are in these bands already."""
        if self.places == tuple(range(cutouts.image.shape[1])):
            return cutouts
        psf = None if cutouts.psf is None else self.take(cutouts.psf, np.nan)
        return replace(
            cutouts, image=self.take(cutouts.image, 0), weight=self.take(cutouts.weight, 0), psf=psf
        )

    def take(self, array: np.ndarray, absent: float) -> np.ndarray:
        """Return an array ``(N, B, ...)`` in these bands, with the value `absent` for missing ones."""
        out = np.full((len(array), len(self.places), *array.shape[2:]), absent, array.dtype)
        for index, place in enumerate(self.places):
            if place is not None:
                out[:, index] = array[:, place]
        return out


@dataclass(frozen=True, kw_only=True)
class Cutouts(PerObject):
    """Some objects of a store.

    Attributes
    ----------
    object_id
        ``(N,)`` int64 or str.
    image
        ``(N, B, H, W)`` float32, nJy; finite wherever the weight is positive.
    weight
        ``(N, B, H, W)`` float32, inverse variance in nJy⁻²; 0 means no valid data.
    catalogue
        Columns of the catalogue, each ``(N,)``, without `object_id`.
    psf
        ``(N, B, K, 2)`` float32: the PSF as a sum of K circular Gaussians, as weights and standard deviations
        in arcseconds (see `deepfits.gaussian_psf`); NaN where unknown. None in stores without PSFs.
    is_neighbour
        ``(N, H, W)`` bool: pixels of other objects; None if the store has no such mask (see
        `deepfits.survey.neighbours.neighbours_of`).
    """

    object_id: np.ndarray
    image: np.ndarray
    weight: np.ndarray
    catalogue: dict[str, np.ndarray] = field(default_factory=dict)
    psf: np.ndarray | None = None
    is_neighbour: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<Cutouts: {self.image.shape}, with {len(self.catalogue)} columns of the catalogue>"


def shard_name(number: int) -> str:
    """Return the file name of shard `number`."""
    return f"shard-{number:05d}.h5"


def create_store(directory: str | Path, info: StoreInfo) -> Path:
    """Create an empty store, or describe an existing one, of the same bands and size, anew if that differs.

    Raises
    ------
    InputError
        The directory already holds a store with other bands or another size.
    """
    directory = Path(directory)
    path, content = directory / "store.json", info.to_json()
    if path.exists():
        existing = read_info(directory)
        if (existing.bands, existing.size) != (info.bands, info.size):
            raise InputError(
                f"{directory}: a store with bands {'-'.join(existing.bands)} and size {existing.size} is "
                "there already; choose another directory or remove it"
            )
    if not path.exists() or read_json(path) != json.loads(json.dumps(content)):
        write_json(path, content)
    return directory


def write_shard(path: str | Path, cutouts: Cutouts, info: StoreInfo, made_from: str = "") -> None:
    """Write one shard atomically, with the digest of what it was made from.

    Raises
    ------
    InputError
        Shapes do not agree, a weight is negative or not finite, a pixel with positive weight is not finite,
        or an object_id occurs twice. The message names the shard and the first offending object.
    """
    check_cutouts(cutouts, info, path)
    with writing_hdf5(path) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["bands"] = list(info.bands)
        file.attrs["flux_unit"] = info.flux_unit
        file.attrs["pixel_scale_arcsec"] = info.pixel_scale_arcsec
        file.attrs["fwhm_arcsec"] = info.fwhm_arcsec
        file.attrs["made_from"] = made_from
        has_no_data = cutouts.weight <= 0
        image = np.where(has_no_data, np.float32(0), cutouts.image) if has_no_data.any() else cutouts.image
        file.create_dataset("image", data=image.astype(np.float32, copy=False))
        weight = cutouts.weight.astype(np.float32, copy=False)
        file.create_dataset("weight", data=weight, **_packing(weight))
        if cutouts.psf is not None:
            file.create_dataset("psf", data=cutouts.psf.astype(np.float32, copy=False), compression="lzf")
        if cutouts.is_neighbour is not None:
            others = cutouts.is_neighbour.astype(np.uint8)
            packing = {"compression": "lzf", "chunks": (min(64, len(others)), *others.shape[1:])}
            file.create_dataset(NEIGHBOURS, data=others, **(packing if len(others) else {}))
        group = file.create_group("catalogue")
        for name, column in {"object_id": cutouts.object_id, **cutouts.catalogue}.items():
            group.create_dataset(name.replace("/", _SLASH), data=_to_hdf5(column))


def _packing(weight: np.ndarray) -> dict[str, Any]:
    """Compress weights with few distinct values (uniform depth, or measured from the noise) to save space."""
    if (
        not len(weight)
        or len(np.unique(weight[:: max(len(weight) // 8, 1), :, ::4, ::4])) > 16 * weight.shape[1]
    ):
        return {}
    return {"compression": "lzf", "chunks": (min(8, len(weight)), *weight.shape[1:])}


def check_cutouts(cutouts: Cutouts, info: StoreInfo, where: str | Path) -> None:
    """Validate cutouts against the store's description; see `write_shard` for the errors."""
    _require_identities(cutouts.object_id, where)
    number = len(cutouts.object_id)
    arrays = {"image": cutouts.image, "weight": cutouts.weight, "psf": cutouts.psf}
    _require_shapes({**arrays, NEIGHBOURS: cutouts.is_neighbour}, number, info, where)
    if cutouts.psf is not None:
        _check_psf(cutouts.psf, where)
    for name, column in cutouts.catalogue.items():
        if np.shape(column) != (number,):
            raise InputError(f"{where}: column {name!r} has shape {np.shape(column)}, expected ({number},)")
    ids, counts = np.unique(cutouts.object_id, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{where}: object_id {ids[counts > 1][0]} occurs {counts.max()} times")
    is_wrong = ~np.isfinite(cutouts.weight) | (cutouts.weight < 0)
    is_wrong |= (cutouts.weight > 0) & ~np.isfinite(cutouts.image)
    if is_wrong.any():
        first, band = np.argwhere(is_wrong)[0][:2]
        raise InputError(
            f"{where}: object {cutouts.object_id[first]}, band {info.bands[band]}: a weight is negative or "
            "not finite, or a pixel with positive weight is not finite; set the weight of bad pixels to 0"
        )


def _require_identities(object_id: np.ndarray, where: str | Path) -> None:
    if object_id.dtype.kind not in "iuUO":
        raise InputError(f"{where}: object_id holds {object_id.dtype}; whole numbers or text are needed")


def _require_shapes(arrays: Mapping[str, Any], number: int, info: StoreInfo, where: str | Path) -> None:
    """Raise unless arrays or datasets, None if absent, fit to the store's description."""
    of_band, pixels = (number, len(info.bands)), (info.size, info.size)
    for name, array in arrays.items():
        found = array.shape if isinstance(array, (np.ndarray, h5py.Dataset)) else None
        expected: tuple[Any, ...] = {"psf": (*of_band, "K", 2), NEIGHBOURS: (number, *pixels)}.get(
            name, (*of_band, *pixels)
        )
        if array is None and name in ("psf", NEIGHBOURS):
            continue
        if name == "psf" and found is not None and len(found) == 4 and 1 <= found[2] <= MAX_GAUSSIANS:
            expected = (*of_band, found[2], 2)
        if found != expected or array.dtype.kind not in "fiub":
            raise InputError(
                f"{where}: {name} has shape {found}, by the store's description {expected}; cut it again"
            )


def _check_psf(psf: np.ndarray, where: str | Path) -> None:
    known = psf[np.isfinite(psf).all((2, 3))]
    is_fine = (known[..., 0] >= 0).all() and (known[..., 1] > 0).all()
    if not (is_fine and np.allclose(known[..., 0].sum(-1), 1, atol=1e-3)):
        raise InputError(f"{where}: psf weights must not be negative and sum to 1, and widths be positive")


def _to_hdf5(column: np.ndarray) -> np.ndarray:
    column = np.asarray(column)
    return column.astype(h5py.string_dtype()) if column.dtype.kind in "UO" else column


class CutoutStore:
    """A store opened for reading, one shard at a time.

    Parameters
    ----------
    directory
        The directory with ``store.json``.
    where
        Conditions on the catalogue's columns, such as ``"flags == 0"``; other objects are ignored.

    Attributes
    ----------
    info
        Properties shared by all cutouts.
    shards
        Paths of the shards, sorted.
    lengths
        Number of objects in each shard.

    Raises
    ------
    InputError
        The directory is not a store, holds no shard, a shard does not match the store's description, or no
        object satisfies the conditions.

    Notes
    -----
    A shard that cannot be opened is an error; with ``skip_bad=True`` it is skipped, and the reason is kept in
    `bad`.
    """

    def __init__(
        self, directory: str | Path, *, skip_bad: bool = False, where: str | Sequence[str] | None = None
    ) -> None:
        self.directory, self.where = Path(directory), where
        self.info = self._stored = read_info(directory)
        self._order = BandOrder.of(self.info.bands, self.info.bands)
        self.shards: list[Path] = []
        self.lengths: list[int] = []
        self.bad: dict[Path, str] = {}
        self._rows: list[np.ndarray | None] = []  # None: all
        for path in sorted(self.directory.glob("shard-*.h5")):
            try:
                length = shard_length(path, self.info)
                columns = None if where is None else shard_catalogue(path)
            except InputError as error:
                if not skip_bad:
                    raise
                self.bad[path] = str(error)
                continue
            rows = None if columns is None else self._satisfying(columns)
            self.shards.append(path)
            self._rows.append(rows)
            self.lengths.append(length if rows is None else len(rows))
        if where is not None and not len(self) and not self.bad:
            raise InputError(
                f"{self.directory}: no object satisfies {_in_words(where)}; loosen the conditions"
            )
        if not self.shards and not self.bad:
            raise InputError(f"{self.directory}: the store holds no shard; run `deepfits cutouts` to the end")

    def in_bands(self, bands: Sequence[str]) -> CutoutStore:
        """Return a view of the store in these bands, matched by name or by passband; see `BandOrder`."""
        out = copy(self)
        out._order = BandOrder.of(self._stored.bands, bands)
        out.info = out._order.info(self._stored)
        return out

    def __len__(self) -> int:
        return sum(self.lengths)

    def __repr__(self) -> str:
        info, which = self.info, "" if self.where is None else f" with {_in_words(self.where)}"
        return (
            f"<CutoutStore {self.directory}: {len(self)} objects{which} in {', '.join(info.bands)}, "
            f"{info.size}×{info.size} pixels of {info.pixel_scale_arcsec:.4g}″>"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one object: ``(B, H, W)``."""
        return len(self.info.bands), self.info.size, self.info.size

    def _repr_html_(self) -> str:
        from deepfits.notebook import NUM_PICTURES, describe_columns

        info = self.info
        seeing = [
            f"{b} {f:.2f}″" for b, f in zip(info.bands, info.fwhm_arcsec, strict=True) if np.isfinite(f)
        ]
        facts = {
            "conditions": None if self.where is None else _in_words(self.where),
            "survey": info.survey,
            "bands": ", ".join(info.bands),
            "cutouts": f"{info.size}×{info.size} pixels of {info.pixel_scale_arcsec:.4g}″",
            "seeing": ", ".join(seeing),
            "damaged shards": len(self.bad) or None,
        }
        some = self.take(np.arange(min(NUM_PICTURES, len(self))))
        columns = {"object_id": some.object_id, **some.catalogue}
        return describe_columns("Cutouts", str(self.directory), columns, len(self), some.image, **facts)

    def _satisfying(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        from deepfits.tables.conditions import matches_conditions

        return np.flatnonzero(matches_conditions(columns, self.where or (), self.directory))

    def identities(self, number: int) -> np.ndarray:
        """Validate shard `number` and return its object_id."""
        object_id, rows = shard_identities(self.shards[number], self._stored), self._rows[number]
        return object_id if rows is None else object_id[rows]

    def read_shard(self, number: int, *, columns: list[str] | None = None) -> Cutouts:
        """Read shard `number`, from 0, with all or the given columns of the catalogue."""
        if not 0 <= number < len(self.shards):
            raise InputError(f"{self.directory}: no shard {number}; there are {len(self.shards)}, from 0")
        shard, rows = self._read(number, columns=columns), self._rows[number]
        return shard if rows is None else shard.take(rows)

    def _read(self, number: int, **options: Any) -> Cutouts:
        return self._order.cutouts(read_shard(self.shards[number], self._stored, **options))

    def __iter__(self) -> Iterator[Cutouts]:
        """Iterate over the shards in order."""
        return (self.read_shard(number) for number in range(len(self.shards)))

    def catalogue(self, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Read all or some columns of all shards, `object_id` first, without the images."""
        columns = [columns] if isinstance(columns, str) else columns
        parts: list[dict[str, np.ndarray]] = []
        for path, rows in zip(self.shards, self._rows, strict=True):
            shard = shard_catalogue(path, columns)
            parts.append(shard if rows is None else {name: values[rows] for name, values in shard.items()})
        names = parts[0].keys()
        for path, part in zip(self.shards, parts, strict=True):
            if part.keys() != names:
                odd = sorted(set(part) ^ set(names))
                raise InputError(
                    f"{path}: catalogue columns differ from those of {self.shards[0].name}: {odd}"
                )
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def rows_of(self, object_id: np.ndarray) -> np.ndarray:
        """Return the indices, for `take`, of objects with features; all must be in the store."""
        rows = match_identities(object_id, self.catalogue([])["object_id"])
        if (is_absent := rows < 0).any():
            raise InputError(
                f"{self.directory}: {int(is_absent.sum())} objects of the features are not in this store, "
                f"object_id {object_id[is_absent][0]} among them; give the store that they were fitted from"
            )
        return rows

    def take(self, rows: Sequence[int] | np.ndarray) -> Cutouts:
        """Read some objects: row numbers, which count through all shards, in the order given, or a mask."""
        indices = as_rows(rows, len(self), self.directory)
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        parts, order = [], []
        for number in range(len(self.shards)):
            wanted = np.flatnonzero((indices >= starts[number]) & (indices < starts[number + 1]))
            if wanted.size:
                rows, back = np.unique(indices[wanted] - starts[number], return_inverse=True)
                chosen = self._rows[number]
                rows = rows if chosen is None else chosen[rows]
                parts.append(self._read(number, rows=rows).take(back))
                order.append(wanted)
        if not parts:
            return self.read_shard(0).take(np.empty(0, dtype=np.int64))
        back = np.argsort(np.concatenate(order))
        joined = join_cutouts(parts, self.directory)
        return joined.take(back)


def as_rows(rows: Any, number: int, where: str | Path) -> np.ndarray:
    """Return row numbers, ``(n,)``, from row numbers or a mask ``(number,)``; errors name `where`.

    Examples
    --------
    >>> as_rows([True, False, True], 3, "store").tolist(), as_rows(2, 3, "store").tolist()
    ([0, 2], [2])
    """
    chosen = np.atleast_1d(rows)
    if chosen.size == 0:
        return np.empty(0, dtype=np.int64)
    if chosen.dtype.kind == "b" and chosen.shape == (number,):
        return np.flatnonzero(chosen)
    if chosen.dtype.kind not in "iu" or chosen.ndim > 1:
        found = f"{chosen.dtype} of shape {chosen.shape}"
        raise InputError(f"{where}: rows must be whole numbers, or a mask of {number}, not {found}")
    if (is_outside := (chosen < 0) | (chosen >= number)).any():
        raise InputError(f"{where}: row {chosen[is_outside][0]} is outside the {number} objects")
    return chosen.astype(np.int64)


def _in_words(where: str | Sequence[str]) -> str:
    return where if isinstance(where, str) else " and ".join(where)


def join_cutouts(parts: list[Cutouts], where: Path) -> Cutouts:
    """Concatenate objects of one store; `where` is named in errors."""
    if len({None if part.psf is None else part.psf.shape[1:] for part in parts}) > 1:
        raise InputError(f"{where}: some shards have no PSFs, or PSFs of another shape; cut the store again")
    return Cutouts.join(parts)


def read_info(directory: str | Path) -> StoreInfo:
    """Read a store's description."""
    path = Path(directory) / "store.json"
    if not path.exists():
        remedy = give_inside(path.parent, path.name, "make one with `deepfits cutouts IMAGES --out STORE`")
        raise InputError(f"{directory}: no store.json, so this is not a cutout store; {remedy}")
    return StoreInfo.from_json(read_json(path, what="store description"), path)


def shard_length(path: str | Path, info: StoreInfo) -> int:
    """Validate a shard against the store's description, and return its number of objects."""
    with _open(path) as file:
        return _check_shard(file, Path(path), info)


def shard_catalogue(path: str | Path, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the columns of one shard, `object_id` first, without the images."""
    with _open(path) as file:
        return _read_catalogue(file, Path(path), columns)


def shard_identities(path: str | Path, info: StoreInfo) -> np.ndarray:
    """Validate a shard against the store's description, and return its object_id."""
    with _open(path) as file:
        _check_shard(file, Path(path), info)
        return _read_catalogue(file, Path(path), [])["object_id"]


def shard_made_from(path: str | Path, info: StoreInfo) -> str:
    """Validate a shard against the store's description, and return the digest that it was written with."""
    with _open(path) as file:
        _check_shard(file, Path(path), info)
        return str(file.attrs.get("made_from", ""))


def read_shard(
    path: str | Path, info: StoreInfo, *, columns: list[str] | None = None, rows: np.ndarray | None = None
) -> Cutouts:
    """Read one shard, or some of its rows (increasing and unique); validate it as `write_shard` does."""
    path = Path(path)
    with _open(path) as file:
        _check_shard(file, path, info)
        selection: Any = slice(None) if rows is None else rows
        with np.errstate(all="ignore"):
            image = file["image"][selection].astype(np.float32, copy=False)
            weight = file["weight"][selection].astype(np.float32, copy=False)
        psf = file["psf"][selection] if "psf" in file else None
        others = file[NEIGHBOURS][selection] != 0 if NEIGHBOURS in file else None
        catalogue = {k: v[selection] for k, v in _read_catalogue(file, path, columns).items()}
    cutouts = Cutouts(
        object_id=catalogue.pop("object_id"),
        image=image,
        weight=weight,
        catalogue=catalogue,
        psf=psf,
        is_neighbour=others,
    )
    check_cutouts(cutouts, info, path)
    return cutouts


def _open(path: str | Path) -> AbstractContextManager[h5py.File]:
    return opened(path, what="shard", remedy="remove it and cut again")


def _check_shard(file: h5py.File, path: Path, info: StoreInfo) -> int:
    identity = local_object(file, "catalogue/object_id", path)
    if not isinstance(identity, h5py.Dataset):
        raise InputError(f"{path}: no catalogue/object_id in this shard; remove it and cut again")
    number = identity.shape[0] if identity.ndim == 1 else -1
    datasets = {name: local_object(file, name, path) for name in ("image", "weight", "psf", NEIGHBOURS)}
    _require_shapes(datasets, number, info, path)
    return number


def _read_catalogue(file: h5py.File, path: Path, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    group = local_object(file, "catalogue", path)
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: no catalogue in this shard; remove it and cut again")
    available = [name.replace(_SLASH, "/") for name in group]
    names = ["object_id", *(c for c in (columns if columns is not None else available) if c != "object_id")]
    out: dict[str, np.ndarray] = {}
    shape = None
    for name in names:
        data = local_object(group, name.replace("/", _SLASH), path)
        shape = getattr(data, "shape", None) if name == "object_id" else shape
        if not isinstance(data, h5py.Dataset) or data.shape != shape or data.ndim != 1:
            raise InputError(f"{path}: the catalogue has no column {name!r}; {nearest(name, available)}")
        out[name] = read_column(data)
    _require_identities(out["object_id"], path)
    return out
