"""The images that a run came from: cutouts at any position on them, as `deepfits cutouts` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.survey import build
from deepfits.survey.fields import ImageSet, image_set
from deepfits.survey.reading import FieldReadingOptions
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo
from deepfits.tables import positions

_READING = ("bands", "reference", *(field.name for field in fields(FieldReadingOptions)))


def find_images(run: Path) -> str | Path | Sequence[str] | None:
    """Return the images of a run that `deepfits run` or `deepfits demo` made; None where none are known."""
    for name in ("coadds", "sky"):  # what was stacked is what was cut
        if any((run / name).rglob("*.fits*")):
            return run / name
    if (run / "config.json").exists():
        given = read_json(run / "config.json", what="configuration of a run").get("images", {})
        return given.get("path") if isinstance(given, dict) else None
    return None


def read_place(text: str) -> tuple[float, float]:
    """Return right ascension and declination, in degrees, of a position as people write it.

    Raises
    ------
    InputError
        It is no position.

    Examples
    --------
    >>> read_place("150.1, 2.25")
    (150.1, 2.25)
    >>> [round(degrees, 4) for degrees in read_place("10 00 24 +02 15 00")]
    [150.1, 2.25]
    """
    words = text.replace(",", " ").split()
    if len(words) == 6:
        words = [":".join(words[:3]), ":".join(words[3:])]
    if len(words) != 2:
        raise InputError(f"{text!r} is no position; write 150.1 2.25 or 10:00:24 +02:15:00")
    place = positions({"ra": np.array(words[:1]), "dec": np.array(words[1:])}, {}, "position")
    if place is None or not place.is_known[0]:
        raise InputError(f"{text!r} is no position; write 150.1 2.25 or 10:00:24 +02:15:00")
    return float(place.ra[0]), float(place.dec[0])


@dataclass(frozen=True)
class Coadds:
    """Images, and the store that was cut from them.

    Cutouts are made like those of the store, `info`; the path is for messages.
    """

    images: ImageSet
    info: StoreInfo
    path: Any

    @classmethod
    def open(cls, path: str | Path | Sequence[str | Path], store: CutoutStore) -> Coadds:
        """Find the images, read as the store's were.

        Raises
        ------
        InputError
            Cutouts that were made elsewhere, or images that are not those of the store.
        """
        settings = store.info.extra.get("settings", {})
        if "files" not in settings:
            raise InputError(f"{store.directory}: these cutouts were made elsewhere, not cut out of images")
        reading = {name: settings[name] for name in _READING if name in settings}
        images = image_set(path, allow_missing=True, **reading)
        current = images.settings()["files"]
        changed = [name for name, state in settings["files"].items() if current.get(name) != state]
        if changed:
            raise InputError(
                f"{path}: not the images that {store.directory} was cut from ({changed[0]} differs or is not "
                "there); name those with --images"
            )
        return cls(images, store.info, path)

    def cut(self, ra: float, dec: float) -> Cutouts:
        """Cut out the object at a position, in degrees.

        Raises
        ------
        InputError
            No image reaches there.
        """
        plan = build.StorePlan(
            images=self.images, size=self.info.size, shard_size=1, survey="", catalogue_path=Path("position")
        )
        columns = {"object_id": np.array([0]), "ra": np.array([ra]), "dec": np.array([dec])}
        with closing(build.OpenFields(self.images)) as opened:
            tasks = build.plan_shards(plan, columns, {}, opened).tasks
            if not tasks:
                raise InputError(f"{ra:.6f} {dec:+.6f} lies on none of the images of {self.path}")
            return build.cut_task(opened.open(tasks[0].field_index), tasks[0], columns, plan, self.info)
