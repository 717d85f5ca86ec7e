"""Readers of foreign cutouts: arrays in HDF5, Parquet or NumPy files, FITS files, Multimodal Universe files.

A TOML file describes what the arrays do not contain (`deepfits.survey.cutout_description`); for FITS cutouts
it may omit what their headers and names give (`deepfits.survey.fits_cutouts`).

Shapes: N objects, B bands, H, W pixels in the file.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deepfits.errors import InputError, naming
from deepfits.files import require_regular
from deepfits.hdf5 import LocalGroup, opened
from deepfits.photometry import njy_per_count
from deepfits.survey.bands import band_name
from deepfits.survey.cutout_description import (
    HDF5,
    PARQUET,
    Description,
    compare_bands,
    read_description,
    zero_points,
)
from deepfits.survey.cutout_parts import joined
from deepfits.survey.fits_cutouts import open_fits_cutouts
from deepfits.survey.foreign_cutouts import (
    ForeignCutouts,
    check_identity,
    named_filters,
    plain_values,
    resolve_weights,
)
from deepfits.survey.masks import BAD_MASK_PLANES, mask_rule
from deepfits.survey.nested_parquet import open_nested
from deepfits.survey.pixels import PICTURE
from deepfits.survey.psf import MAX_SIDE, expand_images, psf_of_widths
from deepfits.survey.zeropoint import AGREEMENT, NAMES_OF_ZERO_POINTS, given_doubts

log = logging.getLogger(__name__)

__all__ = ["open_cutouts", "read_description"]
NAMES_OF_BANDS = (
    *("bands", "band", "band_names", "bandnames"),
    *("filters", "filter", "filter_names", "filternames"),
)
"""Names of arrays and attributes that list a file's bands."""
_NAMES_OF_SCALES = ("pixelscale", "pixscale", "pixelscl", "pixelscalearcsec", "pixscalearcsec")
REMEDY = "write the images as one array (N, B, H, W: numpy.stack) into .h5 or .npz"
MAX_NPZ_RATIO = 5000
FEW_OBJECTS = 200
MOST_ARRAYS = 4096


@contextmanager
def open_cutouts(description: Description) -> Iterator[ForeignCutouts]:
    """Open the cutouts of a description, which the files must match."""
    path = description.path.resolve()
    if not path.exists():
        raise InputError(
            f"{description.where}: file {path} does not exist; the path is relative to the TOML file"
        )
    if not path.is_dir():
        require_regular(path)
    if description.is_fits:
        yield _settled(open_fits_cutouts(description, path), description)
    elif path.suffix in (".npz", ".npy"):
        yield _settled(_from_arrays(description, path, _numpy_arrays(description, path)), description)
    else:
        paths = [part.resolve() for part in description.parts] or [path]
        with ExitStack() as files:
            found = []
            for source in paths:
                if source.suffix.lower() in PARQUET:
                    found.append(_from_arrays(description, source, files.enter_context(open_nested(source))))
                    continue
                if source.suffix.lower() not in HDF5 and not h5py.is_hdf5(source):
                    raise InputError(f"{source}: not an HDF5, Parquet, NumPy or FITS file; {REMEDY}")
                file = files.enter_context(opened(source))
                found.append(_from_arrays(description, source, LocalGroup(file, source)))
            yield _settled(joined(found, paths, path), description)


def _settled(cutouts: ForeignCutouts, description: Description) -> ForeignCutouts:
    """Determine the meaning of the weights and the store's bands."""
    absent = tuple(band_name(b) for b in description.absent_bands)
    if both := [b for b in absent if b in cutouts.bands]:
        raise InputError(f"{description.where}: absent_bands names {both[0]}, which the file has")
    cutouts.absent_bands = absent
    resolve_weights(cutouts)
    return cutouts


def _numpy_arrays(d: Description, path: Path) -> dict[str, np.ndarray]:
    with naming(path, "not a readable NumPy file"):
        if path.suffix == ".npy":
            try:
                return {str(d.image): np.load(path, mmap_mode="r", allow_pickle=False)}
            except ValueError as error:
                if "Python objects" not in str(error):
                    raise
                raise InputError(
                    f"{path}: holds Python objects, such as images of different sizes, which are not read; "
                    "save one array of numbers, with NaN around smaller images"
                ) from error
        with np.load(path, allow_pickle=False) as content:
            declared = sum(member.file_size for member in content.zip.infolist())
            if declared > MAX_NPZ_RATIO * path.stat().st_size:
                raise InputError(f"{path}: declares {declared} bytes in a file of {path.stat().st_size}")
            named = (d.image, d.weight, d.mask, d.psf, d.object_id or "object_id", *(d.columns or ()))
            needed = set(map(str, named))
            arrays = {}
            for name in content.files if d.columns is None else needed & set(content.files):
                try:
                    arrays[name] = content[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    if name in needed:
                        raise InputError(
                            f"{path}: {name} holds Python objects, which are not read; save it as numbers or "
                            "text (astype(str))"
                        ) from error
                    log.warning("%s: %s holds Python objects: not read", path, name)
            return arrays


def _from_arrays(d: Description, path: Path, content: Any) -> ForeignCutouts:
    """Read cutouts from named arrays, in a dictionary or an HDF5 file."""
    if d.format == "multimodal-universe":
        d = _of_universe(d, path, content)
    names: dict[str, Any] = {"image": d.image, "weight": d.weight, "mask": d.mask}
    arrays = {role: _array(content, name, path) for role, name in names.items() if name is not None}
    axes, bands, scale = d.axes, d.bands, float(d.pixel_scale_arcsec or 0)
    if "N" not in axes:
        arrays, axes = {role: np.asarray(array)[None] for role, array in arrays.items()}, f"N{axes}"
    image = arrays["image"]
    _check_images(d, path, names["image"], image, axes)
    number, num_bands = image.shape[axes.index("N")], image.shape[axes.index("B")] if "B" in axes else 1
    if len(bands) != num_bands:
        hint = "; if the bands are the last axis, give axes = 'NHWB'" if image.shape[-1] == len(bands) else ""
        raise InputError(
            f"{path}: {num_bands} bands in {names['image']}, but {len(bands)} are named: {', '.join(bands)}"
            f"{hint}"
        )
    without_bands = tuple(n for n, axis in zip(image.shape, axes, strict=True) if axis != "B")
    for role, shapes in (("weight", [image.shape]), ("mask", [image.shape, without_bands])):
        if role in arrays and arrays[role].shape not in shapes:
            raise InputError(
                f"{path}: {names[role]} has shape {arrays[role].shape}, the images {image.shape}"
            )

    def raw(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        parts = {role: _slab(array, axes, start, stop, path) for role, array in arrays.items()}
        return parts["image"], parts.get("weight"), parts.get("mask")

    rule = None
    if "mask" in arrays:
        rule = mask_rule(
            {},
            _slab(arrays["mask"], axes, 0, min(number, FEW_OBJECTS), path),
            bad_planes=d.bad_planes or BAD_MASK_PLANES,
            polarity=d.mask_nonzero_is,
            where=str(d.where),
            option="mask_nonzero_is",
        )
    columns = named_filters(bands, number)
    columns |= _columns(d, content, number, {*map(str, names.values()), str(d.psf)})
    name = d.object_id or ("object_id" if "object_id" in content or "object_id" in columns else None)
    identity = np.arange(1, number + 1, dtype=np.int64)
    if name is not None:
        named = columns.pop(name, None)
        identity = check_identity(_array(content, name, path) if named is None else named, path, number)
    return ForeignCutouts(
        bands=tuple(band_name(b) for b in bands),
        number=number,
        pixel_scale_arcsec=scale,
        fwhm_arcsec=d.fwhm_arcsec,
        object_id=identity,
        columns=columns,
        factor=np.array([njy_per_count(p) for p in zero_points(d, len(bands))]),
        has_identity=name is not None,
        has_weights="weight" in arrays,
        raw=raw,
        psf=_psf_reader(d, content, path, (number, num_bands), scale),
        weight_is=d.weight_role,
        may_be_relative=d.weight_is == "weight",
        mask=rule,
        remarks=([rule.words] if rule is not None else []) + _doubts(d, path, content, image, bands),
    )


def _of_universe(d: Description, path: Path, content: Any) -> Description:
    """Return the description of a file of the Multimodal Universe, with what the file itself states."""
    named = np.asarray(_array(content, "image_band", path)[()])
    first = named if named.ndim == 1 else named[0]
    if named.ndim == 2 and (named != first).any():
        raise InputError(f"{path}: the order of the bands differs between objects; write one file per order")
    scales = np.asarray(_array(content, "image_scale", path)[()], dtype=float)
    scale = float(np.nanmedian(scales)) if d.pixel_scale_arcsec is None else d.pixel_scale_arcsec
    if not np.isfinite(scale) or (
        d.pixel_scale_arcsec is None and np.nanmax(np.abs(scales / scale - 1)) > 0.01
    ):
        raise InputError(f"{path}: image_scale differs between objects or bands; one scale is needed")
    fwhm, psf = d.fwhm_arcsec, d.psf
    if "image_psf_fwhm" in content and not fwhm:
        widths = np.asarray(content["image_psf_fwhm"][()], dtype=float).reshape(-1, len(first))
        fwhm, psf = tuple(np.nanmedian(widths, axis=0).tolist()), psf or "image_psf_fwhm"
    found = replace(
        d,
        bands=tuple(_texts(first)),
        image=next((n for n in ("image_flux", "image_array") if n in content), "image_flux"),
        weight="image_ivar" if "image_ivar" in content else None,
        weight_is="ivar",
        mask="image_mask" if "image_mask" in content else None,
        pixel_scale_arcsec=scale,
        fwhm_arcsec=fwhm,
        psf=psf,
        axes="NBHW",
    )
    object.__setattr__(found, "where", d.where)
    return found


def _check_images(d: Description, path: Path, name: str | int, image: Any, axes: str) -> None:
    """Raise unless an array holds real numbers with these axes that are not those of pictures."""
    if len(image.shape) != len(axes) or image.dtype.kind not in "fiu":
        hint = ", or axes = 'NHW' for one band" if len(image.shape) == 3 and len(d.bands) == 1 else ""
        kind = "" if image.dtype.kind in "fiu" else f" and dtype {image.dtype}, which is not a real number"
        raise InputError(f"{path}: {name} has shape {image.shape}{kind}; axes {axes} are needed{hint}")
    with naming(path, f"cannot read {name}"):
        few = np.asarray(image[:FEW_OBJECTS])
    if _is_picture(few):
        raise InputError(f"{path}: {name} holds {PICTURE}")


def _doubts(d: Description, path: Path, content: Any, image: Any, bands: tuple[str, ...]) -> list[str]:
    """Return warnings where bands, unit, zero point or scale in the file contradict the description."""
    attributes = [owner.attrs for owner in (image, content) if hasattr(owner, "attrs")]
    stated = [attrs[name] for attrs in attributes for name in NAMES_OF_BANDS if name in attrs]
    arrays = (content.get(name) for name in NAMES_OF_BANDS if name in content)
    stated += [plain_values(found) for found in arrays if hasattr(found, "dtype")]
    out = [compare_bands(_words(value), bands, path) for value in stated]
    unit = next(
        (attrs[key] for attrs in attributes for key in ("BUNIT", "unit", "units") if key in attrs), ""
    )
    for point in dict.fromkeys(zero_points(d, len(bands))):
        out += [f"WARNING: {text}" for text in given_doubts({"BUNIT": "".join(_texts(unit))}, point)]
    for option, names, given, tolerance in (
        ("zero_point", NAMES_OF_ZERO_POINTS, zero_points(d, len(bands)) or (None,), AGREEMENT),
        ("pixel_scale_arcsec", _NAMES_OF_SCALES, (d.pixel_scale_arcsec,), 0.01 * (d.pixel_scale_arcsec or 1)),
    ):
        for name, values in _numbers([*attributes, content], names).items() if None not in given else ():
            if (np.abs(values[:, None] - np.array(given)).min(1) > tolerance).any():
                span = " to ".join(dict.fromkeys(f"{v:g}" for v in (values.min(), values.max())))
                out.append(
                    f"WARNING: {name} in the file is {span}, but {option} of {d.where.name} is used for all "
                    "objects; make them agree"
                )
    return [text for text in out if text is not None]


def _numbers(owners: list[Any], names: Collection[str]) -> dict[str, np.ndarray]:
    """Return finite values of attributes and arrays by name; `names` are lower case without underscores."""
    out = {}
    for owner in owners:
        for name in [n for n in map(str, owner) if n.replace("_", "").lower() in names]:
            values = np.ravel(owner[name])
            values = values[np.isfinite(values)] if values.dtype.kind in "iuf" else values[:0]
            if values.size:
                out[name] = values.astype(float)
    return out


def _texts(value: Any) -> list[str]:
    """Return a string or a list of strings as a list; empty for anything else."""
    parts = np.asarray(value).reshape(-1).tolist()
    texts = [part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in parts]
    return texts if all(isinstance(text, str) for text in texts) else []


def _words(value: Any) -> list[str]:
    """Return the words of a list of strings, or of a single one: ``gri`` and ``g,r,i`` both give three."""
    texts = _texts(value)
    if len(texts) != 1:
        return texts
    words = re.split(r"[,;\s]+", texts[0].strip("[]() "))
    return words if len(words) > 1 else list(words[0])


def _is_picture(values: np.ndarray) -> bool:
    """Return whether the values are those of a picture: bytes, or bytes divided by 255."""
    if values.dtype == np.uint8 or values.dtype.kind != "f" or not values.size:
        return values.dtype == np.uint8
    steps = np.asarray(values, np.float32) * 255
    is_within = bool(values.min() >= 0 and 0.1 < values.max() <= 1)
    return is_within and bool(np.abs(steps - np.round(steps)).max() < 1e-2)  # not of float16: too coarse


def _psf_reader(
    d: Description, content: Any, path: Path, shape: tuple[int, int], scale: float
) -> Callable[[int, int], np.ndarray] | None:
    """Return a reader of the objects' PSFs from an array of widths or of images, told apart by its axes."""
    if (name := d.psf) is None:
        return None
    array = _array(content, name, path)
    axes = array.shape
    if array.dtype.kind not in "fiu" or (
        axes not in (shape, shape[1:])
        and (axes[:-2] not in (shape, shape[1:]) or not min(axes[-2:]) >= 3 or max(axes[-2:]) > MAX_SIDE)
    ):
        raise InputError(
            f"{path}: {name} has shape {axes}; widths {shape} or images {(*shape, 'h', 'w')} of up to "
            f"{MAX_SIDE} pixels are needed, or the same without the first axis"
        )
    is_per_object = axes[:2] == shape
    side = d.psf_scale_arcsec or scale

    def read(start: int, stop: int) -> np.ndarray:
        with naming(path, f"cannot read {name} of objects {start} to {stop}"):
            part = np.asarray(array[start:stop] if is_per_object else array[()][None])
        if part.ndim == 2:
            psf = psf_of_widths(part)
        else:
            images = part.reshape(-1, *part.shape[2:])
            psf = expand_images(images, side).reshape(*part.shape[:2], -1, 2)
        return np.broadcast_to(psf, (stop - start, *psf.shape[1:]))

    return read


def _array(content: Any, name: Any, path: Path) -> Any:
    found = content.get(str(name)) if hasattr(content, "get") else None
    if found is None or not hasattr(found, "shape") or not hasattr(found, "dtype"):
        raise InputError(f"{path}: no array {name!r}; {_what_there_is(content)}")
    return found


def _what_there_is(content: Any) -> str:
    """List the available arrays for an error message, with advice if each object or band has its own."""
    is_file = hasattr(content, "arrays")
    shapes = content.arrays() if is_file else {str(k): np.shape(content[k]) for k in sorted(content)}
    listed = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:4])
    text = f"there are {listed}{', ...' if len(shapes) > 4 else ''}"
    images = [name for name, shape in shapes.items() if len(shape) >= 2 and sorted(shape)[-2] > 2]
    images.sort(key=lambda name: -len(shapes[name]))
    if len(images) > 1 and len(shapes[images[0]]) < 4:
        return (
            f"{text}; a single array of all objects and bands is needed, (N, B, H, W): combine them with "
            "numpy.stack, and put the names of the objects into an array object_id"
        )
    return f"{text}; give the one with the images: image = {images[0]!r}" if images else text


def _slab(array: Any, axes: str, start: int, stop: int, path: Path) -> np.ndarray:
    """Read objects `start` to `stop` as ``(n, B, H, W)``; a mask without bands gets B = 1."""
    letters = axes if len(array.shape) == 4 else axes.replace("B", "")
    index = tuple(slice(start, stop) if a == "N" else slice(None) for a in letters)
    with naming(path, f"cannot read objects {start} to {stop}"):  # a damaged chunk
        part = np.asarray(array[index])
    order = [letters.index(a) for a in "NBHW" if a in letters]
    part = part.transpose(order)
    return part if part.ndim == 4 else part[:, None]


def _columns(d: Description, content: Any, number: int, taken: set[str]) -> dict[str, np.ndarray]:
    """Return the columns named in the description, or all with one value per object.

    Fields of structured arrays count as columns, and so do arrays in groups of HDF5 files, by the last part
    of their names.
    """
    one_each = (number,), (number, 1)
    arrays = content.arrays(MOST_ARRAYS) if hasattr(content, "arrays") else {}
    in_groups = sorted(path for path, shape in arrays.items() if "/" in path and shape in one_each)
    paths = [*sorted(map(str, content)), *in_groups]
    columns: dict[str, Any] = {}
    for place in [place for place in paths if place not in taken]:
        short = place.rpartition("/")[2]
        columns[place.replace("/", "_") if short in columns else short] = content.get(place)
    for found in [array for array in columns.values() if getattr(array, "dtype", None) is not None]:
        if found.dtype.names and found.shape == (number,):
            columns = {name: found[name] for name in found.dtype.names} | columns
    out = {}
    for name in d.columns if d.columns is not None else columns:
        found = columns.get(name) if name in columns else content.get(name)
        usable = getattr(found, "shape", None) in one_each and name not in taken
        if d.columns is not None and not usable:
            raise InputError(
                f"{d.where}: column {name!r} is not in the file with one value for each of {number} objects"
            )
        if usable:
            values = plain_values(found).reshape(number)
            if values.dtype.kind in "iufbU":
                out[name] = values
    return out
