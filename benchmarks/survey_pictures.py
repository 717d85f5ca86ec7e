"""Draw the contact sheets of docs/images from the real images, where these are at hand.

    python benchmarks/survey_pictures.py

SDSS: three fields, as a user would cut them. KiDS and VIKING: no WCS, no unit; the zero points are given.
HSC: a cube of 58×48 pixels with variance and mask, read as one cutout.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import deepfits
from deepfits.provenance import provenance
from deepfits.survey.contact import contact_sheet
from deepfits.survey.store import CutoutStore

REAL = Path(os.environ.get("DEEPFITS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
IMAGES = Path(__file__).parents[1] / "docs" / "images"
HSC = """
file = "{file}"
axes = "BHW"
bands = ["g", "r", "i", "z", "y"]
image = "images"
weight = "variance"
weight_is = "variance"
columns = []
zero_point = 27.0
pixel_scale_arcsec = 0.168
"""


def main() -> None:
    """Cut, draw, and say how many and how fast."""
    said = {}
    with tempfile.TemporaryDirectory() as temporary:
        sdss = _timed(said, "sdss", REAL / "sdss", Path(temporary) / "sdss")
        _draw(sdss, "survey-sdss.png", band="r")
        kids = _timed(
            said,
            "kids_viking",
            REAL / "kids_viking",
            Path(temporary) / "kids",
            assume_aligned=True,
            pixel_scale=0.339,
            zero_point=["0", "Z=30"],
        )
        _draw(kids, "survey-kids.png", band="r")
        description = Path(temporary) / "hsc.toml"
        description.write_text(HSC.format(file=(REAL / "hsc_cosmos" / "hsc_cosmos_35.npz").resolve()))
        hsc = _timed(said, "hsc_cosmos", description, Path(temporary) / "hsc", size=48)
        contact_sheet(hsc, IMAGES / "survey-hsc.png", which=np.arange(1))
    print(f"Drew {IMAGES}/survey-*.png.")
    print(json.dumps({**said, "provenance": provenance()}))


def _timed(said: dict, name: str, images: Path, out: Path, **options: object) -> CutoutStore:
    start = time.perf_counter()
    store = CutoutStore(deepfits.cutouts(images, out, **options))
    summary = json.loads((out / "summary.json").read_text())
    said[name] = summary | {"seconds": round(time.perf_counter() - start, 1), "bands": list(store.info.bands)}
    return store


def _draw(store: CutoutStore, name: str, *, band: str) -> None:
    """Draw 24 objects spread evenly over the magnitudes of everything brighter than the median."""
    mags = store.catalogue([f"mag_auto_{band}"])[f"mag_auto_{band}"]
    order = np.argsort(mags)[: np.isfinite(mags).sum()]
    which = order[np.linspace(0, len(order) // 2, 24).astype(int)]
    contact_sheet(store, IMAGES / name, which=which, order_by=f"mag_auto_{band}")


if __name__ == "__main__":
    main()
