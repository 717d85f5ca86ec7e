"""Choosing one of several tables in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfits.errors import InputError, nearest
from deepfits.tables.identities import identity_name
from deepfits.tables.names import position_names


@dataclass(frozen=True)
class Candidate:
    """A table in a file: the name or path that selects it, its column names and its number of rows."""

    key: str
    names: list[str]
    rows: int


def choose_table(
    candidates: list[Candidate], path: Path, selection: str | None, wanted: Sequence[str]
) -> Candidate:
    """Return the selected table, by name or number; without a selection, the only plausible one.

    Tables that have rows, the `wanted` columns, positions and identities are preferred, in this order. Raise
    `InputError` for no table, none of the selected name, or several that are equally plausible.
    """
    keys = [candidate.key for candidate in candidates]
    if not candidates:
        raise InputError(f"{path}: contains no table")
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
            f"{path}: contains several tables ({', '.join(keys[:8])}), of which {len(left)} could be meant; "
            f"name one, as in '{path.name}[{left[0].key}]'"
        )
    return left[0]
