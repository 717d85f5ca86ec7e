"""Rows of objects: the held-out sample, by identities so that all stages agree; subsets; rows of dataclasses.

An object is held out if the hash of its `object_id` is below the held-out fraction. The rule depends on no
file and no order: training excludes these objects, figures in reports show them, and redshifts are tested on
them, whatever shard they are in.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

HELD_OUT_FRACTION = 0.2
BATCH = 4096
"""Number of objects for which p(z) on a grid is in memory at a time, here and in networks."""


def as_text(object_id: np.ndarray) -> list[str]:
    """Convert identities to strings, so that integers, strings and bytes of the same characters agree."""
    values = np.asarray(object_id).tolist()
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def unit_hash(object_id: np.ndarray, salt: str = "held-out") -> np.ndarray:
    """Hash identities, ``(N,)`` integers or text, to uniform numbers in [0, 1), float64.

    Different salts give independent numbers.

    Examples
    --------
    >>> bool(unit_hash(np.array([7]))[0] == unit_hash(np.array(["7"]))[0])
    True
    """
    out = np.empty(len(object_id))
    for index, text in enumerate(as_text(object_id)):
        digest = hashlib.blake2b(f"{salt}:{text}".encode(), digest_size=8).digest()
        out[index] = (int.from_bytes(digest, "big") >> 11) / 2.0**53
    return out


def evenly_spaced(number: int, at_most: int) -> np.ndarray:
    """Return the indices of up to `at_most` of `number` rows, evenly spaced from first to last.

    Examples
    --------
    >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist()
    ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, number - 1, min(number, at_most)).astype(int))


def is_held_out(object_id: np.ndarray) -> np.ndarray:
    """Return which objects are held out, never trained on: ``(N,)`` bool."""
    return unit_hash(object_id) < HELD_OUT_FRACTION


@dataclass(frozen=True, kw_only=True)
class PerObject:
    """Base of dataclasses whose fields are arrays with one row for each object, the first one always.

    Arrays are of NumPy or PyTorch. Fields may also be such dataclasses, mappings of such arrays, or None.
    Those of other types, and those in `SHARED`, are the same for all objects.
    """

    SHARED: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def take(self, rows: Any) -> Self:
        """Select rows, by number, by a mask or by a slice."""
        own = {name: value for name, value in vars(self).items() if name not in self.SHARED}
        return replace(self, **{name: _taken(value, rows) for name, value in own.items()})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate rows; a field that any part lacks is None."""
        own = [name for name in vars(parts[0]) if name not in cls.SHARED]
        return replace(parts[0], **{name: _joined([getattr(p, name) for p in parts]) for name in own})


def in_batches(function: Callable[..., Sequence[np.ndarray]], *objects: Any) -> list[np.ndarray]:
    """Return the arrays that `function` makes of N objects, computed for at most `BATCH` of them at a time.

    Objects are arrays with N rows, or dataclasses of such arrays; results have one row for each object.
    """
    starts = range(0, max(len(objects[0]), 1), BATCH)
    parts = [function(*(_taken(each, slice(at, at + BATCH)) for each in objects)) for at in starts]
    return [np.concatenate(same) for same in zip(*parts, strict=True)]


def _taken(value: Any, rows: Any) -> Any:
    if isinstance(value, PerObject):
        return value.take(rows)
    if isinstance(value, Mapping):
        return {name: _taken(array, rows) for name, array in value.items()}
    return value[rows] if getattr(value, "ndim", 0) else value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, PerObject):
        return first.join(values)
    if isinstance(first, Mapping):
        return {name: _joined([value[name] for value in values]) for name in first}
    if not getattr(first, "ndim", 0):
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    import torch

    return torch.cat(tuple(values))
