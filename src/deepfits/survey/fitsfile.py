"""Opening FITS files that may be compressed, damaged or malicious.

Whatever astropy raises on a broken file becomes an `InputError` with the file's name. The sizes declared in
the headers are checked against the file's size before any pixel is read, so that a bad header cannot cause a
huge allocation.
"""

import bz2
import gzip
import hashlib
import lzma
import math
import os
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy import log
from astropy.io import fits

from deepfits.errors import DamagedFileError, InputError, naming, one_line
from deepfits.files import require_regular

_PACKED = ("", ".fz", ".gz", ".bz2", ".xz")
SUFFIXES = (*(f"{plain}{end}" for plain in (".fits", ".fit", ".fts") for end in _PACKED), ".fz", ".ftz")
MAX_PIXELS = 1 << 31
MAX_UNPACKED = 1 << 35
MAX_HDUS = 4096
MAX_BLOCKS = 400  # maximum number of blocks of a header
# Maximum total size, in bytes, of the decompressed copies kept between detection and cutting.
MAX_KEPT = 8 << 30
# Maximum number of pixels per stored byte reached by tile compression, even of empty images.
MAX_TILE_RATIO = 20_000
# Maximum number of bytes to decompress for the sake of a later header.
MAX_SKIPPED = 64 << 20
_BLOCK = 1 << 20
_RECORD = 2880
# What may follow the = of a card: a quoted string, a logical value or a number, and a comment.
_VALUE = re.compile(r"(?:'(?:[^']|'')*'|[TF]|[+-]?(?:\d+\.?\d*|\.\d+)(?:[EDed][+-]?\d+)?)?\s*(?:/.*)?")
_UNPRINTABLE = re.compile(rb"[\x00-\x1f\x7f]")
_PACKING_ERRORS = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
_OPENERS: dict[bytes, Any] = {b"BZ": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}


def is_fits_name(path: Path) -> bool:
    """Return whether a file is named like a FITS file."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem_of(path: str | Path) -> str:
    """Return the name without directory and FITS suffixes, with ``%2C`` decoded to a comma."""
    name = re.sub("%2c", ",", Path(path).name, flags=re.IGNORECASE)
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@contextmanager
def opened(path: str | Path, unpacked: Path | None = None) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading; a compressed file (not tiles) is unpacked to a temporary file.

    If a directory `unpacked` is given, the copy is kept there and reused, as long as all copies together take
    less than `MAX_KEPT` bytes; otherwise it is removed when the file is closed. Raise `InputError` if the
    file is missing, not FITS, truncated, or declares more data than it holds.
    """
    path = Path(path)
    require_regular(path)
    with tempfile.TemporaryDirectory(prefix="deepfits-") as temporary:
        plain = _unpack(path, Path(temporary), unpacked)
        if plain.stat().st_size < 2880:
            raise InputError(f"{path}: not a FITS file (shorter than one block); fetch it again")
        with plain.open("rb") as handle, _open(path, plain, handle) as hdus:
            yield hdus


class OpenFiles(ExitStack):
    """FITS files that stay open until the end, each opened once, however many of its images are read.

    Decompressed copies are kept in `unpacked`, if given; see `opened`.
    """

    def __init__(self, unpacked: Path | None = None) -> None:
        super().__init__()
        self._unpacked, self._files = unpacked, dict[Path, fits.HDUList]()

    def open(self, path: Path) -> fits.HDUList:
        """Open a file, or return it if it is open."""
        if path not in self._files:
            self._files[path] = self.enter_context(opened(path, self._unpacked))
        return self._files[path]


def _open(path: Path, plain: Path, handle: IO[bytes]) -> fits.HDUList:
    with quiet(), naming(path, "not a readable FITS file"):
        hdus = fits.open(handle, memmap=False, lazy_load_hdus=True, ignore_missing_simple=False)
        for hdu in islice(hdus, MAX_HDUS):
            _settle_unprintable(hdu, handle)
            _settle_cards(hdu.header)
        _check_sizes(path, hdus, plain.stat().st_size)
    return hdus


def _settle_unprintable(hdu: Any, handle: IO[bytes]) -> None:
    """Replace illegal characters (tabs, line ends, NUL) by blanks in cards that astropy refuses."""
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
    """Parse a header, with control characters as blanks and non-ASCII bytes as question marks."""
    text = _UNPRINTABLE.sub(b" ", stored).decode("ascii", errors="replace")
    return fits.Header.fromstring(text.replace("\ufffd", "?"))


def _settle_cards(header: fits.Header) -> None:
    """Read non-standard values as text: ``MAGZERO = 27,0``, ``SEEING = nan``, an unclosed quote.

    Errors about a missing number can then quote the text, and one bad card does not spoil the header.
    """
    for card in list(header.cards):
        _, _, value = card.image.partition("=")
        if _VALUE.fullmatch(value.strip()):
            continue  # the fast path for nearly all cards
        try:
            _ = card.value
        except fits.VerifyError:
            with suppress(fits.VerifyError):  # the keyword is invalid too: raises when it is accessed
                card.verify("silentfix")


def _check_sizes(path: Path, hdus: fits.HDUList, file_size: int) -> None:
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        start, length = info["datLoc"], info["datSpan"]
        if file_size < start + length < file_size + _RECORD:  # tolerate a last record without padding
            length = int((getattr(hdu, "_bintable", None) or hdu).size)
        if start + length > file_size:
            raise InputError(
                f"{path}: truncated: HDU {index} declares {length} bytes from byte {start}, "
                f"but the file has {file_size}; fetch it again"
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
    partial = kept.with_suffix(f".{os.getpid()}.part")  # other processes may unpack the same file now
    shutil.move(out, partial)
    partial.replace(kept)
    return kept


@contextmanager
def quiet_log() -> Iterator[None]:
    """Silence astropy's log while headers are read, but not its warnings."""
    level = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy's log and the warnings that it raises on odd but usable headers."""
    with warnings.catch_warnings(), quiet_log():
        warnings.simplefilter("ignore")
        yield


def sums_that_fail(path: Path) -> list[str]:
    """Return the HDUs (names and versions) whose data do not match their checksum (DATASUM).

    This reads the whole file. Compressed files are skipped: decompression checks their own checksums.
    """
    if _first(path) in _OPENERS:
        return []
    with warnings.catch_warnings(record=True) as caught, quiet_log():
        warnings.simplefilter("always")
        with (
            naming(path, "not a readable FITS file"),
            fits.open(path, checksum=True, disable_image_compression=True) as hdus,
        ):
            len(hdus)  # reads all HDUs
    found = (re.search(r"Datasum verification failed for HDU (\(.*?\))", str(w.message)) for w in caught)
    return [match[1] for match in found if match]


def image_hdus(hdus: fits.HDUList) -> list[int]:
    """Return the indices of the HDUs with a two-dimensional image, apart from further axes of length 1."""
    return [i for i, hdu in enumerate(hdus) if hdu.is_image and _is_plane(tuple(hdu.shape or ()))]


def hdu_number(path: Path, hdu: str) -> int:
    """Return the number of an HDU given by number, or of an image by name, also with version: ``SCI,2``."""
    if hdu.isdigit():
        return int(hdu)
    name, _, version = (part.strip() for part in hdu.upper().partition(","))
    with opened(path) as hdus:
        names = {number: (hdus[number].name, str(hdus[number].ver)) for number in image_hdus(hdus)}
    for number, (own_name, own_version) in names.items():
        if own_name == name and version in ("", own_version):
            return number
    listing = ", ".join(f"{number} ({own_name or 'no name'})" for number, (own_name, _) in names.items())
    raise InputError(f"{path}: no image in an HDU {hdu}; its images are in HDUs: {listing or 'none'}")


def _is_plane(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) > 1 and all(length == 1 for length in shape[:-2])


def read_rows(hdu: Any, path: Path, start: int, stop: int, *, layer: int | None = None) -> np.ndarray:
    """Read rows of an image, or of a layer of a cube, in stored units (with BSCALE and BZERO applied)."""
    with quiet(), naming(path, f"cannot read rows {start} to {stop}"):  # a damaged tile, a broken scale card
        before = (0,) * (len(hdu.shape) - 2) if layer is None else (layer,)
        rows = np.asarray(hdu.section[(*before, slice(start, stop))])
    if rows.shape != (stop - start, hdu.shape[-1]) or rows.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: rows {start} to {stop} were read as {rows.shape} of {rows.dtype}; fetch it again"
        )
    return _without_blanks(rows, hdu)


def _without_blanks(rows: np.ndarray, hdu: Any) -> np.ndarray:
    """Replace the BLANK value of unsigned integers by NaN, as astropy does for all other types."""
    blank = hdu.header.get("BLANK")
    if rows.dtype.kind != "u" or isinstance(blank, bool) or not isinstance(blank, int):
        return rows
    is_blank = rows == blank + int(hdu.header.get("BZERO", 0))
    return np.where(is_blank, np.nan, rows.astype(np.float64)) if is_blank.any() else rows


def quantisation_step(hdu: Any) -> tuple[np.ndarray | None, bool]:
    """Return the quantisation step of a tile-compressed floating-point image, and whether it is dithered.

    The step of each row, ``(H,)``, is the median over tiles, unless each row is a tile; None if the image is
    not quantised. SUBTRACTIVE_DITHER_2 preserves zeros, and counts as not dithered here.
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
        except Exception:  # a damaged table raises when the pixels are read
            return None, False
    used = steps[np.isfinite(steps) & (steps > 0)]
    if not used.size:
        return None, False
    height = hdu.shape[-2]
    per_row = np.nan_to_num(steps).reshape(-1) if steps.size == height else np.full(height, np.median(used))
    return per_row, method == "SUBTRACTIVE_DITHER_1"


def peek_headers(path: str | Path) -> list[dict[str, Any]]:
    """Read the headers of all HDUs without the data.

    In a compressed file, only up to an image in the primary HDU, or to one of more than `MAX_SKIPPED` bytes:
    later headers would require decompressing its data.
    """
    path = Path(path)
    require_regular(path)
    return _peeked(path, stamp(path))


def stamp(path: Path) -> tuple[int, ...]:
    """Return a cache key that changes when a file or directory changes.

    It includes ctime, because mtime can be set, e.g. by copying.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _peeked(path: Path, stamp: tuple[int, ...]) -> list[dict[str, Any]]:
    """Read the headers, cached until the file changes."""
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
                if opener is not None and (has_image(headers[0]) or length > MAX_SKIPPED):
                    break
                stream.seek(-(-length // 2880) * 2880, os.SEEK_CUR)
    except InputError as error:
        raise DamagedFileError(f"{path}: {error}; fetch it again") from None
    except _PACKING_ERRORS as error:
        raise DamagedFileError(
            f"{path}: not a readable FITS file ({one_line(error)}); fetch it again"
        ) from error
    if not headers:
        raise DamagedFileError(f"{path}: an empty file; fetch it again")
    return headers


def has_image(header: Mapping[str, Any]) -> bool:
    """Return whether a header describes an image, tile-compressed or not, of two or more dimensions."""
    is_table = header.get("XTENSION") in ("BINTABLE", "TABLE", "A3DTABLE")
    if is_table and header.get("ZIMAGE", False) is not True:
        return False
    count = header.get("ZNAXIS" if is_table else "NAXIS", 0)
    return isinstance(count, int) and count >= 2


def axes_of(header: Mapping[str, Any]) -> list[int]:
    """Return the lengths of an image's axes, columns first, tile-compressed or not; 0 in damaged headers."""
    key = "ZNAXIS" if isinstance(header.get("ZNAXIS"), int) else "NAXIS"
    lengths = (header.get(f"{key}{n + 1}") for n in range(min(header[key], 999)))
    return [length if isinstance(length, int) else 0 for length in lengths]


def _data_bytes(header: Mapping[str, Any]) -> int:
    """Return the number of data bytes that a header declares."""
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
        raise InputError(f"the header declares {length} bytes")
    return length


def _first(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(2)


def _one_header(stream: IO[bytes], start: bytes) -> dict[str, Any]:
    text = start
    for _ in range(MAX_BLOCKS):
        block = stream.read(2880 - len(text) % 2880)
        text += block
        if not text.startswith((b"SIMPLE  =", b"XTENSION=")):
            raise InputError("not a FITS file (images of other formats must be converted first)")
        if len(text) % 2880 or not block:
            raise InputError("truncated in the header")
        if any(text[i : i + 80].rstrip() == b"END" for i in range(len(text) - 2880, len(text), 80)):
            with quiet():
                try:
                    header = _header_of(text)
                    _settle_cards(header)
                    return {key: header[key] for key in header if key not in ("", "COMMENT", "HISTORY")}
                except Exception as error:  # astropy raises many kinds on damaged cards
                    raise InputError(f"unreadable header ({one_line(error)})") from error
    raise InputError("no END card in the header")


def as_float(value: Any) -> float:
    """Return the number that a card holds, also as text; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
