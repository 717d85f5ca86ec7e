"""Single exposures of a patch, dithered and rotated, each with its own seeing and zero point.

Shapes: H rows of a strip, W columns; an exposure has one band.

The inverse-variance weighted mean of a band's exposures reaches the depth of its coadd. The noise of their
pixels is independent. Cosmic rays differ between exposures and are not masked: rejecting them is left to
stacking.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.files import writing
from deepfits.sky.defects import draw_defects
from deepfits.sky.layouts import Writer, pair_writer
from deepfits.sky.noise import aperture_factor, pixel_sigma
from deepfits.sky.population import Table
from deepfits.sky.scene import Conditions, Scene, choose_stamps, patch_name, to_shapes

DITHER = 0.06  # maximum shift of an exposure, as a fraction of the patch's side
ROTATION_DEG = 5.0
ZERO_POINT_SCATTER, SEEING_SCATTER = 0.1, 0.12
COSMIC_RAYS_PER_MEGAPIXEL = 30.0
_STREAM = 20


def exposure_paths(out: Path, scene: Scene, index: int, exposure: int) -> tuple[Path, Path]:
    """Return the paths of an exposure's image and weight."""
    band = scene.survey.names[index]
    stem = f"exposure-{patch_name(scene.patch)}-{band}-{exposure:02d}"
    folder = out / "exposures" / band
    return folder / f"{stem}.fits", folder / f"{stem}.weight.fits"


def make_exposure(scene: Scene, table: Table, index: int, exposure: int, number: int) -> Scene:
    """Return the scene of an exposure: number `exposure` of `number` that together make up the coadd.

    It has the single band `index`, and the positions and orientations of all objects on its own pixel grid.
    """
    key = (scene.seed, scene.patch, _STREAM, index, exposure)
    rng = np.random.default_rng(key)
    band = scene.survey.bands[index]
    scale = scene.survey.pixel_scale_arcsec
    fwhm = scene.conditions.fwhm_arcsec[index] * math.exp(SEEING_SCATTER * rng.normal())
    band = replace(band, zero_point=round(band.zero_point + ZERO_POINT_SCATTER * rng.normal(), 4))
    survey = replace(scene.survey, bands=(band,), noise_correlation=1.0)
    rotation = math.radians(rng.uniform(-ROTATION_DEG, ROTATION_DEG) + 90 * int(rng.integers(0, 2)))
    shift = rng.uniform(-DITHER, DITHER, 2) * scene.size
    wcs = _rotated(scene.wcs, scene.size, scale, rotation, shift)
    sky = scene.wcs.all_pix2world(table["x"], table["y"], 0)
    x, y = wcs.all_world2pix(*sky, 0)
    flux = {name: table[name][:, [index]] for name in ("flux", "bulge_flux")}
    shapes = to_shapes({**table, **flux, "x": x, "y": y, "angle": table["angle"] - rotation}, scale)
    factor = aperture_factor(0.0, survey.depth_radius)
    depth = scene.conditions.depth[index] - 1.25 * math.log10(number)
    conditions = Conditions(
        fwhm_arcsec=(fwhm,),
        depth=(depth,),
        sigma=(pixel_sigma(depth, survey.depth_radius, factor),),
        sky=(scene.conditions.sky[index],),
        kernel=0.0,
    )
    return replace(
        scene,
        survey=survey,
        conditions=conditions,
        wcs=wcs,
        shapes=shapes,
        stamp_size=choose_stamps(shapes, survey, conditions),
        defects=None if scene.defects is None else draw_defects(1, scene.size, rng),
        noise_key=(*key, 1),
    )


def _rotated(wcs: Any, size: int, scale: float, rotation: float, shift: np.ndarray) -> Any:
    """Return the WCS of an image rotated (radians) and shifted (pixels) with respect to the patch."""
    out = wcs.deepcopy()
    middle = np.array([[(size - 1) / 2, (size - 1) / 2]]) + shift
    out.wcs.crval = wcs.all_pix2world(middle, 0)[0]
    out.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
    c, s = math.cos(rotation) * scale / 3600, math.sin(rotation) * scale / 3600
    # A direction at angle a from the patch's +x is at angle a − rotation from the exposure's +x.
    out.wcs.cd = [[-c, s], [s, c]]
    out.wcs.set()
    return out


@contextmanager
def open_exposure(paths: tuple[Path, Path], scene: Scene) -> Iterator[Writer]:
    """Create an exposure's files under temporary names, and yield a function that writes strips to them."""
    with writing(paths[0]) as image_path, writing(paths[1]) as weight_path:
        write_pair = pair_writer([image_path, weight_path], scene, 0)

        def write(first_row: int, image: np.ndarray, variance: np.ndarray, bits: np.ndarray) -> None:
            write_pair(first_row, image + _cosmic_rays(scene, first_row, image.shape[1:]), variance, bits)

        yield write


def _cosmic_rays(scene: Scene, first_row: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw cosmic-ray tracks in a strip, ``(H, W)`` nJy, truncated at its borders."""
    height, width = shape
    rng = np.random.default_rng((*scene.noise_key, 2, first_row))
    out = np.zeros((height, width), dtype=np.float32)
    for _ in range(rng.poisson(COSMIC_RAYS_PER_MEGAPIXEL * height * width / 1e6)):
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * math.pi)
        steps = np.arange(rng.integers(1, 16))
        columns = (x + steps * math.cos(angle)).astype(int)
        rows = (y + steps * math.sin(angle)).astype(int)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        out[rows[inside], columns[inside]] += scene.conditions.sigma[0] * rng.uniform(20, 300)
    return out
