"""Comparison of result directories, ignoring when and where they were made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq

VOLATILE = {"provenance", "seconds", "total_seconds", "images_per_s", "time_utc", "rate", "run", "out"}


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in VOLATILE}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _content(path: Path, out: Path) -> Any:
    """Return the content of a file that does not depend on when and where it was made."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    if path.suffix == ".h5":
        arrays: dict[str, np.ndarray] = {}
        with h5py.File(path) as file:
            file.visititems(lambda n, d: arrays.update({n: d[()]}) if isinstance(d, h5py.Dataset) else None)
        return arrays
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(str(out), "OUT")
        return [
            _plain(json.loads(line)) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])
        ]
    if path.suffix in (".html", ".png", ".md") or "tensorboard" in path.parts:
        return None  # figures and pages contain times
    return path.read_bytes()


def _names(directory: Path) -> list[str]:
    """Return the names of all files except earlier checkpoints, which depend on timing."""
    kept = sorted(directory.glob("checkpoints/step-*"))[-1:]
    return [
        str(path.relative_to(directory))
        for path in _files(directory)
        if "tensorboard" not in path.parts
        and (
            "checkpoints" not in path.parts or not path.parent.name.startswith("step-") or path.parent in kept
        )
    ]


def assert_same_results(found: Path, expected: Path) -> None:
    names = [_names(directory) for directory in (found, expected)]
    assert names[0] == names[1]
    assert names[0]
    for name in names[0]:
        np.testing.assert_equal(_content(found / name, found), _content(expected / name, expected), name)
