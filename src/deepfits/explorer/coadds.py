"""Cutouts at any position on the images of a run, made as by `deepfits cutouts`."""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.survey import build
from deepfits.survey.fields import image_set
from deepfits.survey.reading import FieldReadingOptions
from deepfits.survey.store import BandOrder, Cutouts, CutoutStore
from deepfits.tables import positions

_READING = ("bands", "reference", *(field.name for field in fields(FieldReadingOptions)))
_IAU_NAME = re.compile(r"J(\d\d)(\d\d)(\d\d(?:\.\d*)?)([+−-]\d\d)(\d\d)(\d\d(?:\.\d*)?)$")


def find_images(run: Path) -> str | Path | Sequence[str] | None:
    """Return the images of a run made by `deepfits run` or `deepfits demo`; None if they are unknown."""
    for name in ("coadds", "sky"):  # coadds first: if there are any, the cutouts were made from them
        if any((run / name).rglob("*.fits*")):
            return run / name
    if (run / "config.json").exists():
        given = read_json(run / "config.json", what="configuration of a run").get("images", {})
        return given.get("path") if isinstance(given, dict) else None
    return None


def read_place(text: str) -> tuple[float, float]:
    """Parse a position, in degrees or sexagesimal; return right ascension and declination in degrees.

    Also a name that contains it, such as SDSS J100024.00+021500.0.

    Examples
    --------
    >>> read_place("150.1, 2.25")
    (150.1, 2.25)
    >>> [round(degrees, 4) for degrees in read_place("10 00 24 +02 15 00")]
    [150.1, 2.25]
    >>> [round(degrees, 4) for degrees in read_place("SDSS J100024.00+021500.0")]
    [150.1, 2.25]
    """
    name = _IAU_NAME.search(text)
    joined = " ".join(name.groups()) if name else re.sub(r"[(),;\[\]]", " ", text)
    words = re.sub(r"(?<=[\ds])(?=[+−-]\d)", " ", joined).split()
    if len(words) == 6:
        words = [":".join(words[:3]), ":".join(words[3:])]
    place = None
    if len(words) == 2:
        place = positions({"ra": np.array(words[:1]), "dec": np.array(words[1:])}, {}, "position")
    if place is None or not place.is_known[0]:
        raise InputError(f"{text!r} is not a position; write 150.1 2.25 or 10:00:24 +02:15:00")
    return float(place.ra[0]), float(place.dec[0])


class Coadds:
    """Images from which a store was made, for further cutouts like those of the store, in its bands.

    They are found with the reading options of the store.
    """

    def __init__(self, path: str | Path | Sequence[str | Path], store: CutoutStore) -> None:
        self.info = store.info
        self.where = str(path) if isinstance(path, str | Path) else ", ".join(map(str, path))
        settings = store.info.extra.get("settings", {})
        if "files" not in settings:
            raise InputError(f"{store.directory}: these cutouts were not made from images by deepfits")
        reading = {name: settings[name] for name in _READING if name in settings}
        self.images = image_set(path, allow_missing=True, **reading)
        current = self.images.settings()["files"]
        changed = [name for name, state in settings["files"].items() if current.get(name) != state]
        if changed:
            raise InputError(
                f"{self.where}: not the images that {store.directory} was cut from ({changed[0]} differs or "
                "is missing); give those with --images"
            )

    def cut(self, ra: float, dec: float) -> Cutouts:
        """Cut out the object at a position, in degrees."""
        path, size = Path("position"), self.info.size  # as messages call it
        plan = build.StorePlan(images=self.images, size=size, shard_size=1, catalogue_path=path)
        columns = {"object_id": np.array([0]), "ra": np.array([ra]), "dec": np.array([dec])}
        with closing(build.OpenFields(self.images)) as opened:
            tasks = build.plan_shards(plan, columns, {}, opened).tasks
            if not tasks:
                raise InputError(f"{ra:.6f} {dec:+.6f} lies on none of the images of {self.where}")
            cutouts = build.cut_task(opened.open(tasks[0].field_index), tasks[0], plan, self.info)
        return BandOrder.of(self.images.bands, self.info.bands).cutouts(cutouts)
