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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy import log
from astropy.io import fits

from deepfits.errors import InputError, naming, one_line
from deepfits.files import require_regular

_PACKED = ("", ".fz", ".gz", ".bz2", ".xz")
SUFFIXES = (*(f"{plain}{end}" for plain in (".fits", ".fit", ".fts") for end in _PACKED), ".fz", ".ftz")
MAX_PIXELS = 1 << 31
MAX_UNPACKED = 1 << 35
MAX_HDUS = 4096
# Unpacked copies that are kept between detection and cutting may take so many bytes together.
MAX_KEPT = 8 << 30
# The most pixels per stored byte that a tile compression reaches on real or empty images.
MAX_TILE_RATIO = 20_000
# Of a compressed file at most so many bytes are unpacked to look for a later header.
MAX_SKIPPED = 64 << 20
_BLOCK = 1 << 20
_RECORD = 2880
# What may follow the = of a card: text in quotes, a truth value, a number, and a comment.
_VALUE = re.compile(r"(?:'(?:[^']|'')*'|[TF]|[+-]?(?:\d+\.?\d*|\.\d+)(?:[EDed][+-]?\d+)?)?\s*(?:/.*)?")
_UNPRINTABLE = re.compile(rb"[\x00-\x1f\x7f]")
_PACKING_ERRORS = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
_OPENERS: dict[bytes, Any] = {b"BZ": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}


def is_fits_name(path: Path) -> bool:
    """Return whether a name looks like a FITS file's."""
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

    In a directory `unpacked` the copy is kept and found again, as long as all of them take less than
    `MAX_KEPT` bytes; without one it is removed when the file is closed.

    Raises
    ------
    InputError
        No such file, not FITS, truncated, or declaring more than it holds.
    """
    path = Path(path)
    require_regular(path)
    with tempfile.TemporaryDirectory(prefix="deepfits-") as temporary:
        plain = _unpack(path, Path(temporary), unpacked)
        if plain.stat().st_size < 2880:
            raise InputError(f"{path}: not a FITS file (shorter than one block); fetch it again")
        with plain.open("rb") as handle, _open(path, plain, handle) as hdus:
            yield hdus


def _open(path: Path, plain: Path, handle: IO[bytes]) -> fits.HDUList:
    with quiet(), naming(path, "not a readable FITS file"):
        hdus = fits.open(handle, memmap=False, lazy_load_hdus=True, ignore_missing_simple=False)
        number = 0
        while number < MAX_HDUS and _has(hdus, number):
            _settle_unprintable(hdus[number], handle)
            _settle_cards(hdus[number].header)
            number += 1
        _check_sizes(path, hdus, plain.stat().st_size)
    return hdus


def _has(hdus: fits.HDUList, number: int) -> bool:
    try:
        hdus[number]
    except IndexError:
        return False
    return True


def _settle_unprintable(hdu: Any, handle: IO[bytes]) -> None:
    """Read what no header may hold (tabs, line ends, bytes of 0) as blanks: astropy refuses such values."""
    info, place = hdu.fileinfo(), handle.tell()
    handle.seek(info["hdrLoc"])
    stored = handle.read(info["datLoc"] - info["hdrLoc"])
    handle.seek(place)
    if not _UNPRINTABLE.search(stored):
        return
    clean = _header_of(stored)
    for number, card in enumerate(list(hdu.header.cards)):
        try:
            _ = card.image
        except ValueError:
            del hdu.header[number]
            hdu.header.insert(number, (card.keyword, clean.get(card.keyword, "")))


def _header_of(stored: bytes) -> fits.Header:
    """Parse a header, what it may not hold as blanks or question marks."""
    text = _UNPRINTABLE.sub(b" ", stored).decode("ascii", errors="replace")
    return fits.Header.fromstring(text.replace("\ufffd", "?"))


def _settle_cards(header: fits.Header) -> None:
    """Read what is no value by the standard as text: ``MAGZERO = 27,0``, ``SEEING = nan``, an open quote.

    Whoever asks for a number then sees what stands there; a header's other cards are not lost.
    """
    for card in list(header.cards):
        _, _, value = card.image.partition("=")
        if _VALUE.fullmatch(value.strip()):
            continue  # most by far, and fast
        try:
            _ = card.value
        except fits.VerifyError:
            with suppress(fits.VerifyError):  # no keyword either: asking for it will say so
                card.verify("silentfix")


def _check_sizes(path: Path, hdus: fits.HDUList, file_size: int) -> None:
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        start, length = info["datLoc"], info["datSpan"]
        if file_size < start + length < file_size + _RECORD:  # the last record need not be filled up
            length = int((getattr(hdu, "_bintable", None) or hdu).size)
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
        label = os.fsencode(path.resolve()) + f" {stamp(path)}".encode()
        kept = keep / f"{hashlib.blake2b(label, digest_size=16).hexdigest()}.fits"
        if kept.exists():
            return kept
        if not keep.is_dir():
            kept = None
    out = directory / "plain.fits"
    written = 0
    with naming(path, "truncated or damaged"), opener(path, "rb") as stream, out.open("wb") as target:
        while block := stream.read(_BLOCK):
            written += len(block)
            if written > MAX_UNPACKED:
                raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED} bytes; not a survey image")
            target.write(block)
    if kept is None or written + sum(p.stat().st_size for p in kept.parent.iterdir()) > MAX_KEPT:
        return out
    partial = kept.with_suffix(f".{os.getpid()}.part")  # another process may unpack the same file now
    shutil.move(out, partial)
    partial.replace(kept)
    return kept


@contextmanager
def quiet_log() -> Iterator[None]:
    """Silence astropy's log while headers are read; warnings stay as they are."""
    level = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings that odd but usable headers raise in astropy, and its log."""
    with warnings.catch_warnings(), quiet_log():
        warnings.simplefilter("ignore")
        yield


def sums_that_fail(path: Path) -> list[str]:
    """Return the HDUs whose data are not what their writer summed up (DATASUM): names and versions.

    All bytes are read. Files that are packed as a whole have sums of their own, which unpacking looks at.
    """
    if _first(path) in _OPENERS:
        return []
    with warnings.catch_warnings(record=True) as caught, quiet_log():
        warnings.simplefilter("always")
        with (
            naming(path, "not a readable FITS file"),
            fits.open(path, checksum=True, disable_image_compression=True) as hdus,
        ):
            len(hdus)  # reads them all
    found = (re.search(r"Datasum verification failed for HDU (\(.*?\))", str(w.message)) for w in caught)
    return [match[1] for match in found if match]


def image_hdus(hdus: fits.HDUList) -> list[int]:
    """Return the numbers of the HDUs that hold a two-dimensional image, further axes of length 1 apart."""
    return [i for i, hdu in enumerate(hdus) if hdu.is_image and _is_plane(tuple(hdu.shape or ()))]


def _is_plane(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) > 1 and all(length == 1 for length in shape[:-2])


def read_rows(hdu: Any, path: Path, start: int, stop: int, *, layer: int | None = None) -> np.ndarray:
    """Read some rows of an image, or of a layer of a cube, as they are stored (with BSCALE and BZERO)."""
    with quiet(), naming(path, f"cannot read rows {start} to {stop}"):  # a damaged tile, a broken scale card
        before = (0,) * (len(hdu.shape) - 2) if layer is None else (layer,)
        rows = np.asarray(hdu.section[(*before, slice(start, stop))])
    if rows.shape != (stop - start, hdu.shape[-1]) or rows.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: rows {start} to {stop} came as {rows.shape} of {rows.dtype}; fetch it again"
        )
    return _without_blanks(rows, hdu)


def _without_blanks(rows: np.ndarray, hdu: Any) -> np.ndarray:
    """Turn the BLANK of unsigned integers into NaN, which astropy does for all others alone."""
    blank = hdu.header.get("BLANK")
    if rows.dtype.kind != "u" or isinstance(blank, bool) or not isinstance(blank, int):
        return rows
    is_blank = rows == blank + int(hdu.header.get("BZERO", 0))
    return np.where(is_blank, np.nan, rows.astype(np.float64)) if is_blank.any() else rows


def quantisation_step(hdu: Any) -> tuple[np.ndarray | None, bool]:
    """Return the steps that the values of a tile-compressed image of floats come in, and whether dithered.

    Returns
    -------
    step, is_dithered
        The step by row, ``(H,)``, of all rows alike unless tiles are rows; None for what was not quantised.
        With SUBTRACTIVE_DITHER_2 zeros stay zeros, so that counts as not dithered.
    """
    if not isinstance(hdu, fits.CompImageHDU) or hdu.header.get("BITPIX", 0) > 0:
        return None, False
    with quiet():
        try:
            table = hdu.compressed_data
            if table is None or "ZSCALE" not in (table.dtype.names or ()):
                return None, False
            steps = np.abs(np.asarray(table["ZSCALE"], float))
            method = str(hdu._bintable.header.get("ZQUANTIZ", "NO_DITHER")).strip().upper()
        except Exception:  # a damaged table: reading the pixels will say so
            return None, False
    used = steps[np.isfinite(steps) & (steps > 0)]
    if not used.size:
        return None, False
    height = hdu.shape[-2]
    of_row = np.nan_to_num(steps).reshape(-1) if steps.size == height else np.full(height, np.median(used))
    return of_row, method == "SUBTRACTIVE_DITHER_1"


def peek_headers(path: str | Path) -> list[dict[str, Any]]:
    """Read the headers of all HDUs without the data.

    Of a file that is compressed as a whole, up to the first image: what follows would have to be unpacked.
    """
    path = Path(path)
    require_regular(path)
    return _peeked(path, stamp(path))


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes with a file or a directory, for what is remembered while a process runs.

    The time of change is the system's own: the time of modification can be set, by copying or by hand.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _peeked(path: Path, stamp: tuple[int, ...]) -> list[dict[str, Any]]:
    """Read the headers; again only when the file has changed."""
    headers: list[dict[str, Any]] = []
    try:
        opener = _OPENERS.get(_first(path))
        with path.open("rb") if opener is None else opener(path, "rb") as stream:
            while len(headers) < MAX_HDUS:
                start = stream.read(1)
                if not start or (headers and start not in b"X"):
                    break
                headers.append(_one_header(stream, start))
                length = _data_bytes(headers[-1])
                if opener is not None and (has_image(headers[-1]) or length > MAX_SKIPPED):
                    break
                stream.seek(-(-length // 2880) * 2880, os.SEEK_CUR)
    except InputError as error:
        raise InputError(f"{path}: {error}; fetch it again") from None
    except _PACKING_ERRORS as error:
        raise InputError(f"{path}: not a readable FITS file ({one_line(error)}); fetch it again") from error
    if not headers:
        raise InputError(f"{path}: an empty file; fetch it again")
    return headers


def has_image(header: Mapping[str, Any]) -> bool:
    """Return whether a header is one of an image, tile-compressed or not, of two dimensions or more."""
    is_table = header.get("XTENSION") in ("BINTABLE", "TABLE", "A3DTABLE")
    if is_table and header.get("ZIMAGE", False) is not True:
        return False
    count = header.get("ZNAXIS" if is_table else "NAXIS", 0)
    return isinstance(count, int) and count >= 2


def _data_bytes(header: Mapping[str, Any]) -> int:
    """Return how many bytes of data follow a header, as it declares."""
    try:
        sizes = [int(header[f"NAXIS{i + 1}"]) for i in range(min(int(header.get("NAXIS", 0)), 999))]
        if not sizes:
            return 0
        if sizes[0] == 0 and header.get("GROUPS") is True:
            sizes = sizes[1:]
        pixels = int(np.prod(sizes, dtype=object))
        groups, extra = int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
        length = abs(int(header.get("BITPIX", 8))) // 8 * groups * (extra + pixels)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"unreadable header ({one_line(error)})") from error
    if not 0 <= length < 1 << 50:
        raise InputError(f"a header that declares {length} bytes")
    return length


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
                    header = _header_of(text)
                    _settle_cards(header)
                    return {key: header[key] for key in header if key not in ("", "COMMENT", "HISTORY")}
                except Exception as error:  # whatever astropy makes of damaged cards
                    raise InputError(f"unreadable header ({one_line(error)})") from error
    raise InputError("no end of the header")
