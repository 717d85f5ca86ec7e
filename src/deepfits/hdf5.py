"""Safe reading of third-party HDF5 files: nothing but their own bytes is ever read.

An HDF5 data set can refer to other files, through external storage, an external link or a virtual data set. A
malicious file could thus copy any file that the user can read into published results. All three are refused,
and so are data sets that declare far more memory than the file has bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deepfits.errors import InputError, naming
from deepfits.files import require_regular

_MAX_LINKS = 16
# Bytes that a data set may declare, per byte of the file and in any case.
MAX_RATIO = 1000
ALWAYS_ALLOWED = 64 << 20
_ROWS_OF_TEXT = 64  # rows per read: many may point to one long string, at no cost in the file


@contextmanager
def opened(
    path: str | Path, *, what: str = "HDF5 file", remedy: str = "copy it again"
) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raise `InputError` if it is not regular, or is found to be damaged, on opening or at any later access.
    """
    require_regular(Path(path))
    with naming(path, f"damaged {what}", remedy), h5py.File(path, "r") as file:
        yield file


def read_column(data: h5py.Dataset) -> np.ndarray:
    """Return the values of a data set with at least one axis: numbers, booleans or strings.

    Raise `InputError` if it has another type (references, compounds, lists), or strings that together take
    far more memory than the file has bytes.
    """
    kind, where = h5py.check_string_dtype(data.dtype), f"{data.file.filename}: {data.name}"
    if kind is None:
        if data.dtype.kind not in "biuf":
            raise InputError(f"{where} holds {data.dtype}, neither numbers nor strings; leave it out")
        return np.asarray(data[()])
    allowed, total, longest = _allowed(data.file.filename), 0, 0
    step = _ROWS_OF_TEXT if kind.length is None else max(len(data), 1)
    texts: list[str] = []
    for start in range(0, len(data), step):
        rows = data.asstr("utf-8", errors="replace")[start : start + step].ravel().tolist()
        texts += rows
        total, longest = total + sum(map(len, rows)), max([longest, *map(len, rows)])
        if 4 * max(total, longest * data.size) > allowed:
            raise InputError(f"{where} holds strings of up to {longest} characters; leave it out")
    return np.array(texts, dtype=str).reshape(data.shape)


def local_object(group: h5py.Group, name: str, path: str | Path, *, depth: int = 0) -> Any:
    """Return a data set or group by name, or None if it does not exist.

    Raise `InputError` if it lies outside the file, is packed as in netCDF, or declares far more bytes than
    the file has.
    """
    if depth > _MAX_LINKS:
        raise InputError(f"{path}: circular links at {name!r}")
    here: Any = group.file["/"] if name.startswith("/") else group
    for part in [p for p in name.split("/") if p not in ("", ".")]:
        if not isinstance(here, h5py.Group):
            return None
        link = here.get(part, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{path}: {part!r} is a link into the file {link.filename}; only data of the file itself are "
                "read: copy them into it"
            )
        here = (
            local_object(here, link.path, path, depth=depth + 1)
            if isinstance(link, h5py.SoftLink)
            else here[part]
        )
    if isinstance(here, h5py.Dataset):
        _check(here, name, Path(path))
    return here


def _check(data: h5py.Dataset, name: str, path: Path) -> None:
    if data.external or data.is_virtual:
        place = f"another file ({data.external[0][0]})" if data.external else "other files (virtual data set)"
        raise InputError(
            f"{path}: the data of {name!r} lie in {place}; only data of the file itself are read: copy them "
            "into it"
        )
    stored = data.id.get_create_plist()
    filters = [stored.get_filter(number) for number in range(stored.get_nfilters())]
    if lacking := [code for code, *_ in filters if not h5py.h5z.filter_avail(code)]:
        raise InputError(
            f"{path}: {name!r} is compressed by a plugin of HDF5 (filter {lacking[0]}) that is not here; "
            "write it anew with gzip, where hdf5plugin is installed"
        )
    scale, offset = (data.attrs.get(name, usual) for name, usual in (("scale_factor", 1), ("add_offset", 0)))
    if np.any(np.asarray(scale) != 1) or np.any(np.asarray(offset) != 0):
        raise InputError(
            f"{path}: {name!r} is packed as in netCDF (scale_factor {scale}, add_offset {offset}), which is "
            "not supported; write its values unpacked, as xarray reads them"
        )
    declared = int(np.prod(data.shape or (1,), dtype=object)) * data.dtype.itemsize
    if declared > _allowed(path):
        raise InputError(f"{path}: {name} declares {declared} bytes in a file of {path.stat().st_size}")


def _allowed(path: str | Path) -> int:
    return max(MAX_RATIO * Path(path).stat().st_size, ALWAYS_ALLOWED)


class LocalGroup:
    """A file or group as a mapping whose members are read with `local_object`."""

    def __init__(self, group: h5py.Group, path: Path) -> None:
        self._group, self._path = group, path

    @property
    def attrs(self) -> Any:
        """Attributes of the file or group."""
        return self._group.attrs

    def get(self, name: str) -> Any:
        """Return a member, or None if it does not exist."""
        return local_object(self._group, name, self._path)

    def __getitem__(self, name: str) -> Any:
        member = self.get(name)
        if member is None:
            raise KeyError(name)
        return member

    def __iter__(self) -> Any:
        return iter(self._group)

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def arrays(self, most: int = 50) -> dict[str, tuple[int, ...]]:
        """Return the shapes of up to `most` arrays by path, including those in subgroups; for messages."""
        out: dict[str, tuple[int, ...]] = {}
        waiting = [(self._group, "", 0)]
        while waiting and len(out) < most:
            group, where, depth = waiting.pop(0)
            for name in list(group)[: most - len(out)]:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                member = group[name]
                if isinstance(member, h5py.Dataset):
                    out[f"{where}{name}"] = member.shape or ()
                elif isinstance(member, h5py.Group) and depth < _MAX_LINKS:
                    waiting.append((member, f"{where}{name}/", depth + 1))
        return out
