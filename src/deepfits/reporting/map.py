"""Small interactive map inside the report: up to some thousand objects, with images on hover.

Shapes: N held-out objects, B bands, H, W pixels, M objects on the map.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from io import BytesIO

import numpy as np

from deepfits.photometry import robust_scatter
from deepfits.pictures import colour_composite, eight_bits
from deepfits.splits import unit_hash

MAX_OBJECTS = 3000
TILE = 32  # pixels per side of an image
ACROSS = 64  # images per row of the sheet
_EXPORT = re.compile(r"export\s*\{\s*([\w$]+) as default\s*\};?")


@dataclass(frozen=True, kw_only=True)
class Map:
    """Content of a map for the page.

    `data` is JSON with identities, positions and named columns (float32 in base64); `sheet` is a JPEG of all
    images side by side in base64.
    """

    data: str
    sheet: str

    @property
    def engine(self) -> str:
        """Script that draws the points: that of the explorer, with its export replaced by a constant."""
        source = resources.files("deepfits") / "explorer" / "static" / "regl-scatterplot.js"
        return _EXPORT.sub(r"const createScatterplot = \1;", source.read_text("utf-8"))


def principal_components(latent: np.ndarray) -> np.ndarray:
    """Return two principal components of latents, ``(N, L)``, scaled to [−1, 1]; NaN for NaN latents."""
    good = np.isfinite(latent).all(axis=1)
    out = np.full((len(latent), 2), np.nan)
    centred = latent[good] - latent[good].mean(axis=0)
    place = centred @ np.linalg.svd(centred.T @ centred)[0][:, :2]
    # Bright galaxies are far out: compress distances beyond the typical scatter logarithmically.
    offset = place - np.median(place, axis=0)
    place = np.arcsinh(offset / (2 * np.maximum(robust_scatter(offset, axis=0), 1e-9)))
    # The central 98% fill the map; the others are placed at its edge.
    low, high = np.percentile(place, [1, 99], axis=0)
    out[good] = np.clip(0.9 * (2 * (place - low) / np.maximum(high - low, 1e-9) - 1), -0.98, 0.98)
    return out


def make_map(
    object_id: np.ndarray,
    latent: np.ndarray,
    observed: np.ndarray,
    noise: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> Map | None:
    """Make a map of the objects with a fit; None if there are fewer than three.

    Latents are ``(N, L)``, images ``(N, B, H, W)`` in nJy, NaN without data, the noise ``(B,)`` nJy per
    pixel. Points can be coloured by any of `columns`, ``(N,)`` each, initially by the first.
    """
    place = principal_components(latent) if len(latent) > 2 else np.empty((0, 2))
    rows = np.flatnonzero(np.isfinite(place).all(axis=1))
    if len(rows) < 3:
        return None
    rows = np.sort(rows[np.argsort(unit_hash(object_id[rows], "map"))[:MAX_OBJECTS]])
    data = {
        "id": [str(identity) for identity in object_id[rows].tolist()],
        "x": _packed(place[rows, 0]),
        "y": _packed(place[rows, 1]),
        "columns": {name: _packed(values[rows]) for name, values in columns.items()},
        "tile": TILE,
        "across": ACROSS,
    }
    sheet = _sheet(observed[rows], noise)
    return Map(data=json.dumps(data).replace("<", "\\u003c"), sheet=sheet)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def _sheet(observed: np.ndarray, noise: np.ndarray) -> str:
    """Return all images, resized to ``TILE`` pixels per side, on one sheet as JPEG in base64."""
    from PIL import Image

    lines = -(-len(observed) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * TILE, lines * TILE), "white")
    for number, pixels in enumerate(observed):
        tile = Image.fromarray(eight_bits(colour_composite(pixels, noise)[::-1]))
        if tile.size != (TILE, TILE):
            tile = tile.resize((TILE, TILE), Image.Resampling.BOX)
        sheet.paste(tile, (TILE * (number % ACROSS), TILE * (number // ACROSS)))
    buffer = BytesIO()
    sheet.save(buffer, format="JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()
