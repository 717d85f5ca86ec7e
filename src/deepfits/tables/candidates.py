"""Which of several tables in a file is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfits.errors import InputError, nearest
from deepfits.tables.sky import identity_name, position_names


@dataclass(frozen=True)
class Candidate:
    """One of several tables in a file."""

    key: str
    names: list[str]
    rows: int


def choose_table(
    candidates: list[Candidate], path: Path, selection: str | None, wanted: Sequence[str]
) -> Candidate:
    """Return the table that is meant: the one that is named, or the only one that could be."""
    keys = [candidate.key for candidate in candidates]
    if not candidates:
        raise InputError(f"{path}: holds no table")
    if selection is not None:
        chosen = [c for c in candidates if c.key.lower().strip("/") == selection.lower().strip("/")]
        if not chosen and selection.isdigit() and 0 < int(selection) <= len(candidates):
            chosen = [candidates[int(selection) - 1]]
        if not chosen:
            raise InputError(f"{path}: no table {selection!r}; {nearest(selection, keys)}")
        return chosen[0]
    left = candidates
    for test in (
        lambda c: c.rows > 0,
        lambda c: set(wanted) <= set(c.names),
        lambda c: position_names(c.names) is not None,
        lambda c: identity_name(c.names) is not None,
    ):
        fitting = [candidate for candidate in left if test(candidate)]
        left = fitting or left
    if len(left) > 1:
        raise InputError(
            f"{path}: holds {len(left)} tables that could be meant ({', '.join(keys[:8])}); name one, as in "
            f"'{path.name}[{left[0].key}]'"
        )
    return left[0]
