"""What became of each shard: ``_manifest.jsonl``, a line for each.

The results themselves are the truth; the manifest says what cannot be seen from them (why a shard failed,
how long it took) and saves opening thousands of files to see what is left. It is always whole: written beside
and renamed. Rewriting takes at most a twentieth of the time, so that a survey of many shards does not wait
for it, and a killed command leaves lines that are seconds old; results that they do not mention are found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from deepfits.config import from_mapping
from deepfits.errors import InputError
from deepfits.files import MANIFEST, json_lines, write_text

SHARE_OF_TIME = 0.05

State = Literal["done", "failed", "missing"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line, of the shard of that name.

    Attributes
    ----------
    state
        ``done``, ``failed``, or ``missing``: not tried yet.
    objects
        How many are in the result (or would be); None where the shard cannot be read.
    seconds
        That the work took; None when it is not known.
    made_from, num_bytes
        Digest of what the result was made from, and its size: another size is another file.
    """

    shard: str
    state: State
    objects: int | None = None
    seconds: float | None = None
    reason: str = ""
    made_from: str = ""
    num_bytes: int | None = None


class Manifest:
    """The lines of a directory, in the order of their shards; a manifest that is damaged counts as none."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / MANIFEST
        self.entries: dict[str, Entry] = {}
        self._is_changed = False
        self._next_save = 0.0
        for _, line in json_lines(self.path):
            try:
                entry = from_mapping(Entry, line, where=self.path)
            except InputError:
                continue  # a damaged line is a shard of which nothing is known
            self.entries[entry.shard] = entry

    def keep_only(self, shards: Iterable[str]) -> None:
        """Forget shards that are no longer there."""
        known = set(shards)
        left = {name: entry for name, entry in self.entries.items() if name in known}
        self._is_changed |= left != self.entries
        self.entries = left

    def put(self, entry: Entry) -> None:
        """Change a line."""
        if self.entries.get(entry.shard) != entry:
            self.entries[entry.shard] = entry
            self._is_changed = True

    def save_when_due(self) -> None:
        """Write the manifest, unless it was written just now."""
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Write the manifest, if a line has changed."""
        if not self._is_changed:
            return
        begin = time.monotonic()
        lines = [json.dumps(asdict(self.entries[name])) for name in sorted(self.entries)]
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        self._is_changed = False
        now = time.monotonic()
        self._next_save = now + (now - begin) / SHARE_OF_TIME

    def failed(self) -> list[Entry]:
        """Return the lines of failed shards."""
        return [self.entries[name] for name in sorted(self.entries) if self.entries[name].state == "failed"]


def read_manifest(directory: str | Path) -> list[Entry]:
    """Read the manifest of a directory of results, in the order of the shards; empty without one."""
    entries = Manifest(directory).entries
    return [entries[name] for name in sorted(entries)]
