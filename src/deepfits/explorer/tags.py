"""Tags that users give to objects, stored with the features; they can serve as labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json

TAGS = ("keep", "discard")
FILE = "_tags.json"


def read_tags(features: Path) -> dict[str, str]:
    """Return the tag of each object that has one, by identity."""
    path = features / FILE
    if not path.exists():
        return {}
    tags = read_json(path, what="file of tags").get("tags")
    if not isinstance(tags, dict) or not all(value in TAGS for value in tags.values()):
        raise InputError(f"{path}: contains no valid tags; remove it to start over")
    return dict(tags)


def write_tags(features: Path, tags: Mapping[str, str]) -> None:
    """Write all tags."""
    write_json(features / FILE, {"tags": dict(tags)})


def tag_column(tags: Mapping[str, str], object_id: np.ndarray) -> np.ndarray:
    """Return the tag of each object, '' if it has none.

    Examples
    --------
    >>> tag_column({"7": "keep"}, np.array([3, 7])).tolist()
    ['', 'keep']
    """
    return np.array(
        [tags.get(str(identity), "") for identity in object_id.tolist()], dtype=f"U{max(map(len, TAGS))}"
    )
