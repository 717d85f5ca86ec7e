"""Which objects are held out: a rule on the object's identity, so that every stage agrees; and samples.

An object is held out when the hash of its `object_id` falls under the held-out fraction. The rule needs no
file and no order: training leaves these objects out, reports draw figures from them, and redshifts are tested
on them, whatever shard they lie in.
"""

from __future__ import annotations

import hashlib

import numpy as np

HELD_OUT_FRACTION = 0.2


def as_text(object_id: np.ndarray) -> list[str]:
    """Return identities as text, in which whole numbers, text and bytes of the same signs are the same."""
    each = np.asarray(object_id).tolist()
    return [one.decode() if isinstance(one, bytes) else str(one) for one in each]


def unit_hash(object_id: np.ndarray, salt: str = "held-out") -> np.ndarray:
    """Map identities, ``(N,)`` integers or text, to numbers in [0, 1), float64, that depend on nothing else.

    Another salt gives another, independent, assignment.

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
    """Return some of so many rows, evenly from the first to the last.

    Examples
    --------
    >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist()
    ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, number - 1, min(number, at_most)).astype(int))


def is_held_out(object_id: np.ndarray) -> np.ndarray:
    """Return which objects are never trained on: ``(N,)`` bool."""
    return unit_hash(object_id) < HELD_OUT_FRACTION
