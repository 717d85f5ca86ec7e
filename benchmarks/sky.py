"""Speed and accuracy of drawing the simulated sky, compared with GalSim on the same objects.

Galaxies of the built-in population with i < 26 are drawn in five bands on stamps of 32 × 32 pixels, on one
core: by this package in batches in Fourier space, by GalSim one at a time (with its default accuracy, the
same profiles and the same PSF). The errors are relative to GalSim at high accuracy: on stamps large enough to
contain the objects, as fractions of the peak, and on the stamps of the simulated sky, in units of the noise
per pixel. ``--scene`` also times the simulation of a whole sky of that many sources, from the population to
the files.

    python benchmarks/sky.py [--objects 4000] [--galsim-objects 100] [--scene 200000]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import galsim
import numpy as np
import torch

import deepfits
from deepfits.provenance import provenance
from deepfits.sky.drawing import Shapes, draw_stamps, psf_transfer
from deepfits.sky.population import cumulative_counts, draw_galaxies
from deepfits.sky.scene import MARGIN, choose_stamps, draw_conditions, to_shapes
from deepfits.sky.surveys import SkySurvey, find_survey

STAMP = 32
BATCH = 100
LARGE = 256


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=4000)
    parser.add_argument("--galsim-objects", type=int, default=100)
    parser.add_argument("--scene", type=int, default=0, help="also simulate a sky of about this many sources")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    survey = find_survey("clauds-hsc")
    shapes = make_objects(survey, arguments.objects, arguments.seed)
    ours, theirs = speeds(shapes, survey, arguments.galsim_objects)
    errors = image_errors(shapes, survey, arguments.galsim_objects)
    print(f"ours:   {ours:9.0f} stamps of 32 × 32 pixels per second on one core (one stamp per band)")
    print(f"GalSim: {theirs:9.0f}, slower by a factor of {ours / theirs:.0f}")
    print(f"largest error: {errors['image']:.1e} of the peak, {errors['flux']:.1e} of the flux,")
    print(f"{errors['scene']:.3f} of the noise per pixel on the stamps of the simulated sky")
    result = {
        "benchmark": "sky",
        "stamps_per_s_core": ours,
        "galsim_stamps_per_s_core": theirs,
        "speedup_vs_galsim": ours / theirs,
        "max_image_error": errors["image"],
        "median_image_error": errors["median"],
        "max_peak_error": errors["peak"],
        "max_flux_error": errors["flux"],
        "max_half_light_radius_error": errors["radius"],
        "max_error_in_scene_sigma": errors["scene"],
        "objects": arguments.objects,
        "galsim_objects": arguments.galsim_objects,
    }
    if arguments.scene:
        result["scene"] = whole_sky(survey, arguments.scene, arguments.seed)
    print(json.dumps(result | provenance()))


def make_objects(survey: SkySurvey, number: int, seed: int) -> Shapes:
    """Draw galaxies from the population, at random positions."""
    rng = np.random.default_rng(seed)
    filters = tuple(band.filter for band in survey.bands)
    table = draw_galaxies(number, 26.0, filters, rng)
    table["x"], table["y"] = rng.uniform(0, 1000, (2, number))
    return to_shapes(table, survey.pixel_scale_arcsec)


def fwhm_pixels(survey: SkySurvey) -> tuple[float, ...]:
    """Return the seeing in pixels."""
    return tuple(band.fwhm_arcsec / survey.pixel_scale_arcsec for band in survey.bands)


def speeds(shapes: Shapes, survey: SkySurvey, galsim_objects: int) -> tuple[float, float]:
    """Return stamps per second, ours and GalSim's: each the best of five alternating rounds."""
    transfer = psf_transfer(STAMP, fwhm_pixels(survey), survey.moffat_beta)
    ours, theirs = [], []
    for part in np.array_split(np.arange(galsim_objects), 5):
        start = time.perf_counter()
        for first in range(0, len(shapes), BATCH):
            draw_stamps(shapes.take(np.arange(first, min(first + BATCH, len(shapes)))), transfer)
        ours.append(len(shapes) * len(survey.bands) / (time.perf_counter() - start))
        start = time.perf_counter()
        for index in part:
            for band in range(len(survey.bands)):
                galsim_stamp(shapes, int(index), band, survey, STAMP)
        theirs.append(len(part) * len(survey.bands) / (time.perf_counter() - start))
    return max(ours), max(theirs)


def galsim_stamp(
    shapes: Shapes,
    index: int,
    band: int,
    survey: SkySurvey,
    size: int,
    accuracy: galsim.GSParams | None = None,
) -> np.ndarray:
    """Draw one object in one band with GalSim: ``(size, size)``."""
    parts = []
    for flux, radius, ratio, is_disc in (
        (shapes.disc_flux, shapes.disc_radius, shapes.disc_ratio, True),
        (shapes.bulge_flux, shapes.bulge_radius, shapes.bulge_ratio, False),
    ):
        if flux[index, band] > 0:
            circular = float(radius[index] * np.sqrt(ratio[index]))
            total = float(flux[index, band])
            part = (
                galsim.Exponential(half_light_radius=circular, flux=total)
                if is_disc
                else galsim.Spergel(nu=-0.6, half_light_radius=circular, flux=total)
            )
            parts.append(part.shear(q=float(ratio[index]), beta=float(shapes.angle[index]) * galsim.radians))
    psf = galsim.Moffat(beta=survey.moffat_beta, fwhm=fwhm_pixels(survey)[band])
    image = galsim.Image(size, size, scale=1.0)
    image.setOrigin(0, 0)
    middle = [size // 2 + float(v[index] - np.rint(v[index])) for v in (shapes.x, shapes.y)]
    galsim.Convolve(galsim.Add(parts), psf, gsparams=accuracy).drawImage(
        image, center=galsim.PositionD(*middle)
    )
    return np.asarray(image.array)


def image_errors(shapes: Shapes, survey: SkySurvey, number: int) -> dict[str, float]:
    """Return the largest errors relative to GalSim at high accuracy, and the median image error."""
    exact = galsim.GSParams(
        folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=32768
    )
    conditions = draw_conditions(survey, 0, 0)
    sizes = choose_stamps(shapes, survey, conditions)
    errors: dict[str, list[float]] = {name: [] for name in ("image", "peak", "flux", "radius", "scene")}
    for index in range(number):
        galaxy = shapes.take(np.array([index]))
        small = int(sizes[index])
        large = max(LARGE, 2 * small)
        stamps, in_scene = (
            draw_stamps(galaxy, psf_transfer(size, fwhm_pixels(survey), survey.moffat_beta))[0].numpy()
            for size in (large, small)
        )
        middle = slice(large // 2 - small // 2, large // 2 - small // 2 + small)
        for band, ours in enumerate(stamps):
            theirs = galsim_stamp(shapes, index, band, survey, large, exact)
            total = float(shapes.disc_flux[index, band] + shapes.bulge_flux[index, band])
            top = float(theirs.max())
            errors["image"].append(float(np.abs(ours - theirs).max()) / top)
            errors["peak"].append(abs(float(ours.max()) - top) / top)
            errors["flux"].append(abs(float(ours.sum(dtype=float)) - total) / total)
            radii = [galsim.Image(image.copy(), scale=1.0).calculateHLR() for image in (ours, theirs)]
            errors["radius"].append(abs(radii[0] / radii[1] - 1))
            error = np.abs(in_scene[band] - theirs[middle, middle]).max()
            errors["scene"].append(float(error) / conditions.sigma[band])
    return {name: max(values) for name, values in errors.items()} | {
        "median": float(np.median(errors["image"]))
    }


def whole_sky(survey: SkySurvey, sources: int, seed: int) -> dict[str, float]:
    """Time the simulation of a sky of about `sources` sources on all cores, including its files."""
    per_pixel = float(cumulative_counts(survey.mag_limit)) * (survey.pixel_scale_arcsec / 60) ** 2
    num_patches = max(1, round(sources / (per_pixel * (4200 + 2 * MARGIN) ** 2)))
    size = int(np.sqrt(sources / per_pixel / num_patches)) - 2 * MARGIN
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        deepfits.simulate(Path(folder) / "sky", size=size, num_patches=num_patches, seed=seed)
        seconds = time.perf_counter() - start
    cores = len(os.sched_getaffinity(0))
    print(
        f"a sky of about {sources} sources, {num_patches} patches of {size} pixels: "
        f"{seconds:.0f} s on {cores} cores"
    )
    return {"sources": sources, "patches": num_patches, "size": size, "seconds": seconds}


if __name__ == "__main__":
    main()
