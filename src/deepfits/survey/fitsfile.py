"""Opening FITS files that may be compressed, damaged or hostile.

Everything that astropy may raise or warn about on a broken file becomes one `InputError` with the file's
name. Before any pixel is touched the sizes that the headers declare are held against the size of the file, so
that a header cannot make us allocate what is not there.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy import log
from astropy.io import fits

from deepfits.errors import InputError

SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz", ".fits.bz2", ".fits.xz", ".fit.gz", ".fz")
MAX_PIXELS = 1 << 31
MAX_UNPACKED = 1 << 35
MAX_HDUS = 4096
# Unpacked copies that are kept between detection and cutting may take so many bytes together.
MAX_KEPT = 8 << 30
# The most pixels per stored byte that a tile compression reaches on real or empty images.
MAX_TILE_RATIO = 20_000
_BLOCK = 1 << 20
_PACKING_ERRORS = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
_OPENERS: dict[bytes, Any] = {b"BZ": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}


def is_fits_name(path: Path) -> bool:
    """Say whether a name looks like a FITS file's."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem_of(path: str | Path) -> str:
    """Return the name without directory and FITS suffixes, ``%2C`` read as a comma."""
    name = re.sub("%2c", ",", Path(path).name, flags=re.IGNORECASE)
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@contextmanager
def opened(path: str | Path, unpacked: Path | None = None) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading, unpacked into a temporary file when it is compressed as a whole.

    Parameters
    ----------
    path
        The file.
    unpacked
        Directory where an unpacked copy is kept and found again, as long as all of them take less than
        `MAX_KEPT` bytes; None removes it when the file is closed.

    Raises
    ------
    InputError
        No such file, not FITS, truncated, or declaring more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with tempfile.TemporaryDirectory(prefix="deepfits-") as temporary:
        plain = _unpack(path, Path(temporary), unpacked)
        if plain.stat().st_size < 2880:
            raise InputError(f"{path}: not a FITS file (shorter than one block); fetch it again")
        with plain.open("rb") as handle, _open(path, plain, handle) as hdus:
            yield hdus


def _open(path: Path, plain: Path, handle: IO[bytes]) -> fits.HDUList:
    with quiet():
        try:
            hdus = fits.open(handle, memmap=False, lazy_load_hdus=True, ignore_missing_simple=False)
            number = 0
            while number < MAX_HDUS and _has(hdus, number):
                number += 1
            _check_sizes(path, hdus, plain.stat().st_size)
        except InputError:
            raise
        except (
            Exception
        ) as error:  # astropy raises many kinds on damaged files: all mean the same to the user
            raise InputError(f"{path}: not a readable FITS file ({_short(error)}); fetch it again") from error
    return hdus


def _has(hdus: fits.HDUList, number: int) -> bool:
    try:
        hdus[number]
    except IndexError:
        return False
    return True


def _check_sizes(path: Path, hdus: fits.HDUList, file_size: int) -> None:
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        start, length = info["datLoc"], info["datSpan"]
        if start + length > file_size:
            raise InputError(
                f"{path}: truncated: HDU {index} declares {length} bytes from byte {start}, "
                f"the file has {file_size}; fetch it again"
            )
        shape = getattr(hdu, "shape", None) if hdu.is_image else None
        if shape:
            pixels = int(np.prod([int(s) for s in shape], dtype=object))
            if min(shape) < 0 or pixels > MAX_PIXELS:
                raise InputError(f"{path}: HDU {index} declares {tuple(shape)} pixels; not a survey image")
            if isinstance(hdu, fits.CompImageHDU) and pixels > MAX_TILE_RATIO * max(length, 1):
                raise InputError(
                    f"{path}: HDU {index} declares {pixels} pixels in {length} bytes; not a credible image"
                )


def _unpack(path: Path, directory: Path, keep: Path | None) -> Path:
    opener = _OPENERS.get(_first(path))
    if opener is None:
        return path
    kept = None
    if keep is not None:
        status = path.stat()
        label = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        kept = keep / f"{hashlib.blake2b(label.encode(), digest_size=16).hexdigest()}.fits"
        if kept.exists():
            return kept
        if not keep.is_dir():
            kept = None
    out = directory / "plain.fits"
    written = 0
    try:
        with opener(path, "rb") as stream, out.open("wb") as target:
            while block := stream.read(_BLOCK):
                written += len(block)
                if written > MAX_UNPACKED:
                    raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED} bytes; not a survey image")
                target.write(block)
    except _PACKING_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged ({_short(error)}); fetch it again") from error
    if kept is None or written + sum(p.stat().st_size for p in kept.parent.iterdir()) > MAX_KEPT:
        return out
    partial = kept.with_suffix(f".{os.getpid()}.part")  # another process may unpack the same file now
    shutil.move(out, partial)
    partial.replace(kept)
    return kept


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings that odd but usable headers raise in astropy, and what it says to its own log."""
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel("ERROR")
        try:
            yield
        finally:
            log.setLevel(level)


def image_hdus(hdus: fits.HDUList) -> list[int]:
    """Return the numbers of the HDUs that hold a two-dimensional image."""
    return [
        i for i, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape or ()) == 2 and min(hdu.shape) > 1
    ]


def read_rows(hdu: Any, path: Path, start: int, stop: int) -> np.ndarray:
    """Read some rows of an image as they are stored (scaled by BSCALE and BZERO)."""
    with quiet():
        try:
            rows = np.asarray(hdu.section[start:stop])
        except Exception as error:  # a damaged tile or a broken scale card: astropy raises many kinds
            raise InputError(
                f"{path}: cannot read rows {start} to {stop} ({_short(error)}); fetch it again"
            ) from error
    if rows.shape != (stop - start, *hdu.shape[1:]) or rows.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: rows {start} to {stop} came as {rows.shape} of {rows.dtype}; fetch it again"
        )
    return rows


def peek_headers(path: str | Path) -> list[dict[str, Any]]:
    """Read the first header, and the second where the first has no data, without the rest.

    Returns
    -------
    list of dict
        One or two headers, by keyword; the second follows a primary HDU without data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    status = path.stat()
    return _peeked(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _peeked(path: Path, size: int, stamp: int) -> list[dict[str, Any]]:
    """Read the headers; again only when size or time of the file have changed."""
    opener = _OPENERS.get(_first(path), open)
    headers: list[dict[str, Any]] = []
    try:
        with opener(path, "rb") as stream:
            headers.append(_one_header(stream))
            if headers[0].get("NAXIS", 0) == 0:
                more = stream.read(1)
                if more:
                    headers.append(_one_header(stream, more))
    except InputError as error:
        raise InputError(f"{path}: {error}; fetch it again") from None
    except _PACKING_ERRORS as error:
        raise InputError(f"{path}: not a readable FITS file ({_short(error)}); fetch it again") from error
    return headers


def _first(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(2)


def _one_header(stream: IO[bytes], start: bytes = b"", max_blocks: int = 400) -> dict[str, Any]:
    text = start
    for _ in range(max_blocks):
        block = stream.read(2880 - len(text) % 2880)
        if (len(text) + len(block)) % 2880 or not block:
            raise InputError("not a FITS file, or truncated in the header")
        text += block
        if not text.startswith((b"SIMPLE  =", b"XTENSION=")):
            raise InputError("not a FITS file")
        if any(text[i : i + 80].rstrip() == b"END" for i in range(len(text) - 2880, len(text), 80)):
            with quiet():
                try:
                    header = fits.Header.fromstring(text.decode("ascii", errors="replace"))
                    return {key: header[key] for key in header if key not in ("", "COMMENT", "HISTORY")}
                except Exception as error:  # whatever astropy makes of damaged cards
                    raise InputError(f"unreadable header ({_short(error)})") from error
    raise InputError("no end of the header")
