"""Cutouts that are dropped onto the page; the files are untrusted, and read with care.

Shapes: B bands, H, W pixels.
"""

import io
from typing import Any

import numpy as np

from deepfits.errors import InputError, naming
from deepfits.pictures import noise_at_edges

MAX_UPLOAD_BYTES = 16 << 20


def weight_from_edges(image: np.ndarray) -> np.ndarray:
    """Return inverse variances ``(B, H, W)`` from the robust scatter of the outer pixels of each band."""
    sigma = noise_at_edges(image)[:, None, None]
    is_known = np.isfinite(image) & (sigma > 0)
    return np.where(is_known, np.where(sigma > 0, sigma, np.inf) ** -2, 0).astype(np.float32)


def read_dropped(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a cutout and its weight, if any, from an uploaded file: ``.npy``, ``.npz`` or FITS.

    A FITS file contains a cube, or one image HDU per band; an HDU named WEIGHT (or IVAR) of the cube's shape
    is its weight. An ``.npz`` contains the array ``image`` and, optionally, ``weight``.
    """
    with naming(name, "cannot be read"):
        if name.lower().endswith((".npy", ".npz")):
            image, weight = _read_numpy(name, content)
        elif name.lower().endswith((".fits", ".fit", ".fits.gz")):
            image, weight = _read_fits(content)
        else:
            raise InputError(f"{name}: unknown format; use .fits, .npy or .npz")
    if image.ndim != 3 or image.dtype.kind not in "fiu":
        raise InputError(f"{name}: contains an array of shape {image.shape}, not bands, height and width")
    return image, weight


def _read_numpy(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    loaded: Any = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded, None
    if sum(member.file_size for member in loaded.zip.infolist()) > MAX_UPLOAD_BYTES:
        raise InputError(f"{name}: unpacks to more than the limit of {MAX_UPLOAD_BYTES >> 20} MiB")
    if "image" not in loaded:
        raise InputError(f"{name}: has no array `image`; it has {sorted(loaded)}")
    return loaded["image"], loaded.get("weight")


def _read_fits(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    from astropy.io import fits

    images, weight = [], None
    with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False) as file:
        for hdu in file:
            if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
                continue
            shape = hdu.shape
            if not shape or np.prod([float(n) for n in shape]) * 8 > MAX_UPLOAD_BYTES:
                continue
            data = np.asarray(hdu.data)
            if hdu.name.upper() in ("WEIGHT", "IVAR"):
                weight = data
            else:
                images.append(data)
    if not images:
        raise InputError("no image in this FITS file")
    return (images[0] if images[0].ndim == 3 else np.stack(images)), weight
