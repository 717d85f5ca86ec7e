"""Draw the contact sheets in docs/images from real survey images, which must be available.

    python benchmarks/survey_pictures.py

SDSS: three fields, cut with the default options. KiDS and VIKING: images without a WCS and units, with given
zero points. HSC: a cube of 58×48 pixels with variance and mask, read as one cutout.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepfits
from deepfits.provenance import provenance
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
    """Extract cutouts, draw them, and print numbers of objects and times."""
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        sdss = _timed(record, "sdss", REAL / "sdss", Path(temporary) / "sdss")
        _draw(sdss, "survey-sdss.png", band="r")
        kids = _timed(
            record,
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
        hsc = _timed(record, "hsc_cosmos", description, Path(temporary) / "hsc", size=48)
        contact_sheet(hsc, IMAGES / "survey-hsc.png", which=np.arange(1))
    print(f"drew {IMAGES}/survey-*.png")
    print(json.dumps({**record, "provenance": provenance()}))


def _timed(record: dict[str, Any], name: str, images: Path, out: Path, **options: Any) -> CutoutStore:
    start = time.perf_counter()
    store = CutoutStore(deepfits.cutouts(images, out, **options))
    summary = json.loads((out / "summary.json").read_text())
    record[name] = summary | {
        "seconds": round(time.perf_counter() - start, 1),
        "bands": list(store.info.bands),
    }
    return store


def _draw(store: CutoutStore, name: str, *, band: str) -> None:
    """Draw 24 objects at even steps in magnitude rank, all brighter than the median."""
    mags = store.catalogue([f"mag_auto_{band}"])[f"mag_auto_{band}"]
    order = np.argsort(mags)[: np.isfinite(mags).sum()]
    which = order[np.linspace(0, len(order) // 2, 24).astype(int)]
    contact_sheet(store, IMAGES / name, which=which, order_by=f"mag_auto_{band}")


def contact_sheet(
    store: CutoutStore,
    path: str | Path,
    *,
    which: np.ndarray,
    order_by: str | None = None,
) -> Path:
    """Draw objects in all bands, one row of stamps per object, labelled with magnitude and star score.

    Parameters
    ----------
    store
        The store.
    path
        PNG to write.
    which
        Rows of the store.
    order_by
        Catalogue column by which the objects are sorted.

    Returns
    -------
    Path
        `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = store.take(np.asarray(which))
    if order_by is not None:
        chosen = chosen.take(np.argsort(chosen.catalogue[order_by]))
    bands = store.info.bands
    columns = 2 if len(chosen) > 6 else 1
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.05 * columns * (len(bands) + 0.7), 1.05 * rows + 0.3), dpi=72)
    FigureCanvasAgg(figure)
    across = columns * (len(bands) + 1)
    for index in range(len(chosen)):
        row, column = index % rows, index // rows
        for band in range(len(bands)):
            axes = figure.add_subplot(rows, across, row * across + column * (len(bands) + 1) + band + 1)
            axes.imshow(_stretched(chosen.image[index, band], chosen.weight[index, band]), **_LOOK)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(bands[band], fontsize=9)
            if band == 0:
                axes.set_ylabel(_label(chosen.catalogue, index, bands), fontsize=6)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.96, bottom=0.01, wspace=0.04, hspace=0.04)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return Path(path)


_LOOK: dict[str, Any] = {
    "origin": "lower",
    "cmap": "gray",
    "vmin": -1.0,
    "vmax": 5.0,
    "interpolation": "nearest",
}


def _stretched(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return asinh of half the signal-to-noise ratio; NaN (drawn white) where there are no data."""
    return np.where(weight > 0, np.arcsinh(image * np.sqrt(weight) / 2), np.nan)


def _label(catalogue: dict[str, np.ndarray], index: int, bands: tuple[str, ...]) -> str:
    band = "r" if "r" in bands else bands[len(bands) // 2]
    name = f"mag_auto_{band}"
    label = f"{band} {catalogue[name][index]:.1f}" if name in catalogue else ""
    if "star_score" in catalogue:
        label += f"\n★ {catalogue['star_score'][index]:.2f}"
    return label


if __name__ == "__main__":
    main()
