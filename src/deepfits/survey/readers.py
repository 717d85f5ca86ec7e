"""Cutouts that somebody else made: arrays in HDF5 or NumPy files, FITS cubes, Multimodal Universe files.

A TOML file beside them says what cannot be known from the arrays: bands, unit, and what a mask means. For
example

    file = "cutouts.h5"            # .h5, .npz, .npy, or FITS: a directory of files, or one
    bands = ["g", "r", "i"]
    image = "images"               # name in the file; for FITS the HDU's number or name
    weight = "ivar"                # may be left out
    weight_is = "ivar"             # or "variance", "rms"
    mask = "mask"                  # may be left out
    mask_nonzero_is = "bad"        # or "good": asked for whenever there is a mask
    zero_point = 27.0              # AB, or one for each band
    pixel_scale_arcsec = 0.168

``format = "multimodal-universe"`` knows the names of those files (``image_flux`` or ``image_array``,
``image_ivar``, ``image_mask``, ``image_band``, ``image_psf_fwhm``, ``image_scale``), and takes the rest from
them. FITS cutouts may leave out whatever their headers and names say (`deepfits.survey.fits_cutouts`).
``axes`` are ``NBHW`` unless said otherwise; ``BHW`` is a single object.

Shapes: N objects, B bands, H, W pixels of the file, S side of the store.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.photometry import njy_per_count
from deepfits.survey.bands import band_name
from deepfits.survey.fitsfile import is_fits_name
from deepfits.survey.noise import clipped_statistics

FORMATS = ("arrays", "fits", "multimodal-universe")
WEIGHT_KINDS = ("ivar", "variance", "rms")
MAX_NPZ_RATIO = 5000
# Too few to measure noise on.
FEW_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the TOML file says; see the module for the keys."""

    file: str
    bands: tuple[str, ...] = ()
    format: str = "arrays"
    image: str | int = "image"
    weight: str | int | None = None
    weight_is: str = "ivar"
    mask: str | int | None = None
    mask_nonzero_is: str | None = None
    zero_point: float | tuple[float, ...] | None = None
    pixel_scale_arcsec: float | None = None
    fwhm_arcsec: tuple[float, ...] = ()
    object_id: str | None = None
    columns: tuple[str, ...] | None = None
    axes: str = "NBHW"
    survey: str = ""
    where: Path = field(default_factory=Path)


def read_description(path: str | Path) -> Description:
    """Read the TOML file, with errors that name it.

    Raises
    ------
    InputError
        Not TOML, an unknown key (with the nearest valid one), a wrong type, or a mask without its polarity.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot read this description ({error})") from error
    known = {f.name for f in fields(Description)} - {"where"}
    for key in content:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
    if not isinstance(content.get("file"), str):
        raise InputError(f'{path}: say file = "...", the cutouts\' file or directory')
    for key in ("bands", "zero_point", "fwhm_arcsec", "columns"):
        if isinstance(content.get(key), list):
            content[key] = tuple(content[key])
    out = Description(**content, where=path)
    _check_description(out)
    return out


def _check_description(d: Description) -> None:
    for name, valid in (("format", FORMATS), ("weight_is", WEIGHT_KINDS)):
        if getattr(d, name) not in valid:
            raise InputError(f"{d.where}: {name} = {getattr(d, name)!r}; choose one of {', '.join(valid)}")
    if d.mask is not None and d.mask_nonzero_is not in ("bad", "good"):
        raise InputError(f'{d.where}: say what a non-zero mask means: mask_nonzero_is = "bad" or "good"')
    if sorted(d.axes) not in (sorted("NBHW"), sorted("BHW")):
        raise InputError(f"{d.where}: axes = {d.axes!r} must be the letters N B H W in the file's order")
    is_fits = _is_fits(d, d.where.parent / d.file)
    if d.bands and not all(isinstance(b, str) for b in d.bands):
        raise InputError(f'{d.where}: bands must be names, for example bands = ["g", "r"]')
    if d.format != "multimodal-universe" and not is_fits:
        if not d.bands:
            raise InputError(f'{d.where}: say the bands, for example bands = ["g", "r"]')
        if not isinstance(d.pixel_scale_arcsec, (int, float)):
            raise InputError(f"{d.where}: say pixel_scale_arcsec")
    if d.zero_point is None and is_fits:
        return  # in the headers, perhaps
    if d.zero_point is None:
        raise InputError(f"{d.where}: say zero_point (AB; 31.4 for nJy, 22.5 for nanomaggies, 23.9 for µJy)")
    points = d.zero_point if isinstance(d.zero_point, tuple) else (d.zero_point,)
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in points):
        raise InputError(f"{d.where}: zero_point = {d.zero_point!r} is no number, nor a list of numbers")


@dataclass(kw_only=True)
class ForeignCutouts:
    """Cutouts open for reading.

    Attributes
    ----------
    bands
        In the order of the arrays.
    number
        N.
    pixel_scale_arcsec, fwhm_arcsec
        As far as known; one value per band.
    object_id, columns
        Identity and what else the file says of each object, ``(N,)`` each.
    factor
        nJy per unit of the arrays, by band.
    raw
        Reads some objects as they are stored: image, weight and mask, the latter two where there are any.
    has_weights, may_be_relative, weight_scale
        Whether weights were found; whether they may be right up to a factor; by what they were scaled.
    noise
        Of one pixel, measured on the rims of some cutouts, nJy, by band.
    remarks
        What was decided, in words.
    """

    bands: tuple[str, ...]
    number: int
    pixel_scale_arcsec: float
    fwhm_arcsec: tuple[float, ...]
    object_id: np.ndarray
    columns: dict[str, np.ndarray]
    factor: np.ndarray
    raw: Callable[[int, int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    weight_is: str = "ivar"
    mask_nonzero_is: str | None = None
    remarks: list[str] = field(default_factory=list)
    constant: np.ndarray | None = None
    has_weights: bool = True
    may_be_relative: bool = False
    weight_scale: np.ndarray = field(default_factory=lambda: np.ones(1))
    noise: np.ndarray = field(default_factory=lambda: np.full(1, np.nan))

    def read(self, start: int, stop: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of some objects, ``(n, B, S, S)`` float32, nJy and nJy⁻².

        Cutouts larger than `size` are cropped about their middle, smaller ones get a rim of weight 0; None
        leaves them as they are.
        """
        image, weight, mask = self.raw(start, stop)
        factor = self.factor[:, None, None]
        with np.errstate(all="ignore"):
            flux = (image * factor).astype(np.float32)
            if weight is None:
                constant = np.ones(len(self.bands)) if self.constant is None else self.constant
                out = np.broadcast_to(constant[:, None, None], flux.shape).astype(np.float32)
            elif self.weight_is == "ivar":
                out = (weight / factor**2).astype(np.float32)
            else:
                out = (
                    1 / (weight * factor) ** 2 if self.weight_is == "rms" else 1 / (weight * factor**2)
                ).astype(np.float32)
                out = np.where(weight > 0, out, np.float32(0))
            out = np.where(np.isfinite(out) & (out > 0) & np.isfinite(flux), out, np.float32(0))
        if mask is not None:
            is_marked = np.broadcast_to(mask != 0, flux.shape)
            out = np.where(is_marked == (self.mask_nonzero_is == "bad"), np.float32(0), out)
        flux = np.where(out > 0, flux, np.float32(0))
        out = out * self.weight_scale[:, None, None].astype(np.float32)
        return (flux, out) if size is None else (_to_size(flux, size), _to_size(out, size))


def _to_size(array: np.ndarray, size: int) -> np.ndarray:
    """Crop or pad the last two axes about the pixel (length // 2), which an object's centre is nearest to."""
    out = np.zeros((*array.shape[:-2], size, size), array.dtype)
    (to_y, from_y), (to_x, from_x) = (_overlap(length, size) for length in array.shape[-2:])
    out[..., to_y, to_x] = array[..., from_y, from_x]
    return out


def _overlap(length: int, size: int) -> tuple[slice, slice]:
    start = length // 2 - size // 2
    first, last = max(start, 0), min(start + size, length)
    return slice(first - start, last - start), slice(first, last)


def _is_fits(d: Description, path: Path) -> bool:
    return d.format == "fits" or path.is_dir() or is_fits_name(path)


@contextmanager
def open_cutouts(description: Description) -> Iterator[ForeignCutouts]:
    """Open what a description describes.

    Raises
    ------
    InputError
        Files that are absent, damaged, or not what the description says.
    """
    path = (description.where.parent / description.file).resolve()
    if not path.exists():
        raise InputError(
            f"{description.where}: file {path} does not exist; the path counts from the TOML file"
        )
    if _is_fits(description, path):
        from deepfits.survey.fits_cutouts import open_fits_cutouts

        found = open_fits_cutouts(description, path)
        _settle(found)
        yield found
    elif path.suffix in (".npz", ".npy"):
        found = _from_arrays(description, path, _numpy_arrays(description, path))
        _settle(found)
        yield found
    else:
        try:
            with h5py.File(path, "r") as file:
                found = _from_arrays(description, path, file)
                _settle(found)
                yield found
        except InputError:
            raise
        except Exception as error:  # h5py raises many kinds on damaged files, at any access
            raise InputError(f"{path}: not a readable HDF5 file ({str(error)[:160]})") from error


def _numpy_arrays(d: Description, path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npy":
            return {str(d.image): np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as content:
            names = {
                str(n) for n in (d.image, d.weight, d.mask, d.object_id, *(d.columns or ())) if n is not None
            }
            sizes = {i.filename: i.file_size for i in content.zip.infolist()}
            if sum(sizes.values()) > MAX_NPZ_RATIO * path.stat().st_size:
                raise InputError(
                    f"{path}: declares {sum(sizes.values())} bytes in a file of {path.stat().st_size}"
                )
            if d.columns is None:
                names |= set(content.files)
            return {name: content[name] for name in names if name in content.files}
    except InputError:
        raise
    except Exception as error:  # a damaged archive: zipfile, zlib and numpy raise many kinds
        raise InputError(f"{path}: not a readable NumPy file ({str(error)[:160]})") from error


def _from_arrays(d: Description, path: Path, content: Any) -> ForeignCutouts:
    """Use arrays by name: a dictionary or an HDF5 file."""
    is_universe = d.format == "multimodal-universe"
    names: dict[str, Any] = {"image": d.image, "weight": d.weight, "mask": d.mask}
    if is_universe:
        names["image"] = next((n for n in ("image_flux", "image_array") if n in content), "image_flux")
        names["weight"] = "image_ivar" if "image_ivar" in content else None
        names["mask"] = "image_mask" if "image_mask" in content else None
        if names["mask"] and d.mask_nonzero_is not in ("bad", "good"):
            raise InputError(
                f'{d.where}: say what a non-zero image_mask means: mask_nonzero_is = "bad" or "good"'
            )
    arrays = {role: _array(content, name, path) for role, name in names.items() if name is not None}
    axes = "NBHW" if is_universe else d.axes
    if "N" not in axes:
        arrays, axes = {role: np.asarray(array)[None] for role, array in arrays.items()}, f"N{axes}"
    image = arrays["image"]
    if len(image.shape) != 4 or image.dtype.kind not in "fiu":
        raise InputError(f"{path}: {names['image']} has shape {image.shape}; four axes {axes} are needed")
    number, num_bands = image.shape[axes.index("N")], image.shape[axes.index("B")]
    bands, scale, fwhm = (
        _universe_facts(d, path, content) if is_universe else (d.bands, d.pixel_scale_arcsec, d.fwhm_arcsec)
    )
    if len(bands) != num_bands:
        raise InputError(
            f"{path}: {num_bands} bands in {names['image']}, but {len(bands)} are named: {', '.join(bands)}"
        )
    for role in ("weight", "mask"):
        if role in arrays and not _fits_to(arrays[role].shape, image.shape, axes, role):
            raise InputError(
                f"{path}: {names[role]} has shape {arrays[role].shape}, the images {image.shape}"
            )

    def raw(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        parts = {role: _slab(array, axes, start, stop, path) for role, array in arrays.items()}
        return parts["image"], parts.get("weight"), parts.get("mask")

    columns = _columns(d, content, number, set(map(str, names.values())))
    name = d.object_id or ("object_id" if "object_id" in content else None)
    identity = (
        check_identity(_array(content, name, path), path, number)
        if name
        else np.arange(1, number + 1, dtype=np.int64)
    )
    columns.pop(name or "", None)
    return ForeignCutouts(
        bands=tuple(band_name(b) for b in bands),
        number=number,
        pixel_scale_arcsec=float(scale or 0),
        fwhm_arcsec=fwhm,
        object_id=identity,
        columns=columns,
        factor=np.array([njy_per_count(p) for p in zero_points(d, len(bands))]),
        has_weights="weight" in arrays,
        raw=raw,
        weight_is="ivar" if is_universe else d.weight_is,
        mask_nonzero_is=d.mask_nonzero_is,
    )


def _array(content: Any, name: Any, path: Path) -> Any:
    found = content.get(str(name)) if hasattr(content, "get") else None
    if found is None or not hasattr(found, "shape") or not hasattr(found, "dtype"):
        raise InputError(f"{path}: no array {name!r}; there are {', '.join(sorted(map(str, content)))[:200]}")
    if isinstance(found, h5py.Dataset) and found.dtype.kind in "fiub":
        size = int(np.prod(found.shape, dtype=object)) * found.dtype.itemsize
        if size > 1000 * path.stat().st_size:
            raise InputError(f"{path}: {name} declares {size} bytes in a file of {path.stat().st_size}")
    return found


def _fits_to(shape: tuple[int, ...], image: tuple[int, ...], axes: str, role: str) -> bool:
    without_bands = tuple(n for n, a in zip(image, axes, strict=True) if a != "B")
    return shape == image or (role == "mask" and shape == without_bands)


def _slab(array: Any, axes: str, start: int, stop: int, path: Path) -> np.ndarray:
    """Read some objects, with the axes in our order; a mask without bands gets one for all."""
    letters = axes if len(array.shape) == 4 else axes.replace("B", "")
    index = tuple(slice(start, stop) if a == "N" else slice(None) for a in letters)
    try:
        part = np.asarray(array[index])
    except Exception as error:  # a damaged chunk: HDF5 filters raise many kinds
        raise InputError(f"{path}: cannot read objects {start} to {stop} ({str(error)[:160]})") from error
    order = [letters.index(a) for a in "NBHW" if a in letters]
    part = part.transpose(order)
    return part if part.ndim == 4 else part[:, None]


def _universe_facts(
    d: Description, path: Path, content: Any
) -> tuple[tuple[str, ...], float, tuple[float, ...]]:
    named = np.asarray(_array(content, "image_band", path)[()])
    first = named if named.ndim == 1 else named[0]
    if named.ndim == 2 and (named != first).any():
        raise InputError(
            f"{path}: the order of the bands differs between objects; one file per order is needed"
        )
    bands = tuple(b.decode() if isinstance(b, bytes) else str(b) for b in first.tolist())
    scales = np.asarray(_array(content, "image_scale", path)[()], dtype=float)
    scale = float(np.nanmedian(scales)) if d.pixel_scale_arcsec is None else float(d.pixel_scale_arcsec)
    if not np.isfinite(scale) or (
        d.pixel_scale_arcsec is None and np.nanmax(np.abs(scales / scale - 1)) > 0.01
    ):
        raise InputError(f"{path}: image_scale differs between objects or bands; one scale is needed")
    fwhm: tuple[float, ...] = ()
    if "image_psf_fwhm" in content:
        widths = np.asarray(content["image_psf_fwhm"][()], dtype=float)
        fwhm = tuple(float(v) for v in np.nanmedian(widths.reshape(-1, len(bands)), axis=0))
    return bands, scale, fwhm


def _columns(d: Description, content: Any, number: int, taken: set[str]) -> dict[str, np.ndarray]:
    """Take the columns named, or every one-dimensional array of the right length."""
    out = {}
    for name in d.columns if d.columns is not None else sorted(map(str, content)):
        found = content.get(name)
        usable = hasattr(found, "shape") and found.shape == (number,) and name not in taken
        if d.columns is not None and not usable:
            raise InputError(
                f"{d.where}: column {name!r} is not in the file with one value for each of {number} objects"
            )
        if usable:
            values = _plain(found)
            if values.dtype.kind in "iufbU":
                out[name] = values
    return out


def _plain(found: Any) -> np.ndarray:
    if isinstance(found, h5py.Dataset) and h5py.check_string_dtype(found.dtype) is not None:
        return np.asarray(found.asstr()[:]).astype(str)
    values = np.asarray(found[()] if isinstance(found, h5py.Dataset) else found)
    return values.astype(str) if values.dtype.kind == "S" else values


def check_identity(found: Any, path: Path, number: int) -> np.ndarray:
    """Return identities, whole numbers or text, each of which occurs once."""
    values = _plain(found)
    if values.shape != (number,):
        raise InputError(f"{path}: object_id has shape {values.shape}, for {number} objects")
    if values.dtype.kind not in "iuU":
        raise InputError(f"{path}: object_id must be whole numbers or text, not {values.dtype}")
    unique, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{path}: object_id {unique[counts > 1][0]} occurs {counts.max()} times; make it unique"
        )
    return values.astype(np.int64) if values.dtype.kind == "u" else values


def zero_points(d: Description, num_bands: int) -> tuple[float, ...]:
    """Return the zero point of each band that the description gives."""
    points = d.zero_point if isinstance(d.zero_point, tuple) else (d.zero_point,) * num_bands
    if len(points) != num_bands:
        raise InputError(f"{d.where}: {len(points)} zero points for {num_bands} bands")
    return tuple(float(p) for p in points if p is not None)


def _settle(found: ForeignCutouts, sample: int = 200) -> None:
    """Measure the noise on the rims of some cutouts: it is the weight where there is none, else a check."""
    if found.number == 0:
        raise InputError("the file holds no cutout")
    found.weight_scale = np.ones(len(found.bands))
    image, weight = found.read(0, min(sample, found.number), None)
    rim = np.zeros(image.shape[-2:], bool)
    margin = max(min(image.shape[-2:]) // 8, 1)
    rim[:] = True
    rim[margin:-margin, margin:-margin] = False
    found.noise = np.full(len(found.bands), np.nan)
    for band in range(len(found.bands)):
        fluxes, its = image[:, band][:, rim], weight[:, band][:, rim]
        if (its > 0).sum() < FEW_PIXELS:
            fluxes, its = image[:, band], weight[:, band]
        found.noise[band] = clipped_statistics(fluxes[its > 0])[1]
        if found.has_weights and (its > 0).any() and found.noise[band] > 0:
            _hold_weights(found, band, float(np.median(its[its > 0])) ** -0.5)
    if found.has_weights:
        return
    if not (found.noise > 0).all():
        odd = found.bands[int(np.argmin(np.nan_to_num(found.noise) > 0))]
        raise InputError(
            f"band {odd}: the cutouts' rims do not vary, so no noise can be measured; give weight, or check "
            "the polarity of the mask (mask_nonzero_is)"
        )
    found.constant = found.noise**-2.0
    found.remarks.append("no weights: constant weight from the noise measured on the cutouts' rims")


def _hold_weights(found: ForeignCutouts, band: int, stated: float) -> None:
    """Hold the noise that the weights say to the measured one; scale those that may be relative."""
    ratio = float(found.noise[band]) / stated
    if 0.5 < ratio < 2:
        return
    if found.may_be_relative:
        found.weight_scale[band] = ratio**-2
        found.remarks.append(
            f"{found.bands[band]}: relative weights: the measured noise is {ratio:.3g} times what they say; "
            "scaled to it"
        )
    elif ratio > 5 or ratio < 0.2:
        found.remarks.append(
            f"WARNING: {found.bands[band]}: the noise at the cutouts' rims is {ratio:.3g} times what the "
            "weights say; check weight_is, the unit and the polarity"
        )
