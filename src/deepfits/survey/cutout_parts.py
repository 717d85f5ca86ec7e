"""Cutouts made elsewhere that are spread over several files of arrays, read as one.

Shapes: N objects of all files, n those that are read together, B bands, H, W pixels.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.survey.foreign_cutouts import ForeignCutouts
from deepfits.tables import require_unique

SCALE_TOLERANCE = 0.01


def joined(parts: Sequence[ForeignCutouts], paths: Sequence[Path], directory: Path) -> ForeignCutouts:
    """Return the cutouts of several files, `paths` in a directory, one after another.

    Columns that a file lacks are left out, with a remark. Raise `InputError` if the files differ in their
    bands, sizes, pixel scales or weights, or an identity occurs twice.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    expected = _properties(first)
    for part, path in zip(parts, paths, strict=True):
        for what, value in _properties(part).items():
            if value != expected[what]:
                raise InputError(
                    f"{path}: {what} {value}, but {expected[what]} in {paths[0]}; all files of a "
                    "directory must be alike: describe the others by another TOML file"
                )
        if abs(part.pixel_scale_arcsec / first.pixel_scale_arcsec - 1) > SCALE_TOLERANCE:
            raise InputError(
                f"{path}: pixels of {part.pixel_scale_arcsec:g} arcsec, but {first.pixel_scale_arcsec:g} in "
                f"{paths[0]}; describe it by another TOML file"
            )
    names = [name for name in first.columns if all(name in part.columns for part in parts)]
    lost = sorted({name for part in parts for name in part.columns} - {*names})
    ends = np.cumsum([part.number for part in parts]).tolist()
    identity = np.concatenate([part.object_id for part in parts])
    if first.has_identity:
        require_unique(identity, directory)
    else:
        identity = np.arange(1, len(identity) + 1, dtype=np.int64)

    def slices(start: int, stop: int) -> Iterator[tuple[ForeignCutouts, int, int]]:
        """Yield the files with objects `start` to `stop`, and the numbers of these in each."""
        for number in range(bisect_right(ends, start), len(ends)):
            before = ends[number] - parts[number].number
            if before < stop:
                yield parts[number], max(start - before, 0), min(stop - before, parts[number].number)

    def raw(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        image, weight, mask = zip(*(part.raw(a, b) for part, a, b in slices(start, stop)), strict=True)
        return _concatenated(image), _concatenated(weight), _concatenated(mask)

    def psf(start: int, stop: int) -> np.ndarray:
        return np.concatenate([part.psf(a, b) for part, a, b in slices(start, stop) if part.psf is not None])

    widths = [part.fwhm_arcsec for part in parts]
    remarks = dict.fromkeys(text for part in parts for text in part.remarks)
    if lost:
        text = f"WARNING: columns that some of {len(parts)} files lack are left out: {', '.join(lost)}"
        remarks[text] = None
    return replace(
        first,
        number=len(identity),
        fwhm_arcsec=tuple(np.nanmedian(widths, axis=0).tolist()) if first.fwhm_arcsec else (),
        object_id=identity,
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        raw=raw,
        psf=None if first.psf is None else psf,
        remarks=list(remarks),
    )


def _properties(part: ForeignCutouts) -> dict[str, Any]:
    """Return what the cutouts of all files must share, by its name in messages."""
    image, weight, mask = part.raw(0, 1)
    planes = [name for name, plane in (("weights", weight), ("a mask", mask)) if plane is not None]
    return {
        "bands are": ", ".join(part.bands),
        "cutouts have": " × ".join(map(str, image.shape[-2:])),
        "beside the images there are": " and ".join(planes) or "no other arrays",
        "PSFs are": "given" if part.psf is not None else "not given",
        "identities are": "given" if part.has_identity else "not given",
    }


def _concatenated(planes: Sequence[Any]) -> Any:
    return None if planes[0] is None else np.concatenate(planes)
