"""The manifest ``_manifest.jsonl``, which records the state of each shard in one line.

The result files themselves are authoritative; the manifest adds what cannot be seen from them (why a shard
failed, how long it took), and avoids opening thousands of files to find out what is left. It is written
atomically, to a temporary file that is then renamed. At most a twentieth of the time is spent on rewriting
it, so that surveys with many shards are not slowed down. After a killed command it may be a few seconds out
of date; results that it does not mention are still recognised.
"""

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
    """The record of one shard."""

    shard: str
    state: State  # done, failed, or missing (not tried yet)
    objects: int | None = None  # number of objects in the result; None if the shard cannot be read
    seconds: float | None = None  # processing time; None if unknown
    reason: str = ""
    made_from: str = ""  # digest of the inputs of the result
    num_bytes: int | None = None  # size of its file, by which a changed one is recognised


class Manifest:
    """The records of all shards of a directory; damaged lines of the file are ignored."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / MANIFEST
        self.entries: dict[str, Entry] = {}
        self._is_changed = False
        self._next_save = 0.0
        for _, line in json_lines(self.path):
            try:
                entry = from_mapping(Entry, line, where=self.path)
            except InputError:
                continue  # a damaged line: nothing is known about this shard
            self.entries[entry.shard] = entry

    def keep_only(self, shards: Iterable[str]) -> None:
        """Drop the records of all other shards."""
        known = set(shards)
        kept = {name: entry for name, entry in self.entries.items() if name in known}
        self._is_changed |= kept != self.entries
        self.entries = kept

    def put(self, entry: Entry) -> None:
        """Set the record of a shard."""
        if self.entries.get(entry.shard) != entry:
            self.entries[entry.shard] = entry
            self._is_changed = True

    def save_when_due(self) -> None:
        """Write the manifest, unless it was written recently."""
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Write the manifest, if a record has changed."""
        if not self._is_changed:
            return
        begin = time.monotonic()
        write_text(self.path, "".join(f"{json.dumps(asdict(entry))}\n" for entry in self.by_shard()))
        self._is_changed = False
        now = time.monotonic()
        self._next_save = now + (now - begin) / SHARE_OF_TIME

    def by_shard(self) -> list[Entry]:
        """Return all records, sorted by shard."""
        return [self.entries[name] for name in sorted(self.entries)]

    def failed(self) -> list[Entry]:
        """Return the records of failed shards."""
        return [entry for entry in self.by_shard() if entry.state == "failed"]


def read_manifest(directory: str | Path) -> list[Entry]:
    """Return the records of a directory of results, sorted by shard; empty without a manifest."""
    return Manifest(directory).by_shard()
