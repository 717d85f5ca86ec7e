"""Test that redshifts are no easier to predict on the simulated sky than on the real one.

Draws galaxies with i < 25.5 from the population (no stars or quasars) and simulates each in isolation, sums
the flux in a 2″ aperture in every band, adds the aperture's noise (sky and source photons), and trains
gradient boosting with absolute loss on the noisy magnitudes. The scatter and the outlier fraction in four
magnitude ranges are compared with the values expected for such a survey.

    python benchmarks/honesty.py [--labels 150000] [--test 90000] [--seed 1]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
import torch

from deepfits.photometry import asinh_magnitude, circular_aperture, flux_of_magnitude
from deepfits.provenance import provenance
from deepfits.sky.drawing import draw_stamps, psf_transfer
from deepfits.sky.population import PopulationLaws, draw_galaxies
from deepfits.sky.scene import to_shapes
from deepfits.sky.surveys import SkySurvey, find_survey

LIMIT = 25.5
RANGES = ((0.0, 22.5), (22.5, 23.5), (23.5, 24.5), (24.5, 25.5))
EXPECTED = ((0.036, 0.06), (0.043, 0.11), (0.059, 0.13), (0.097, 0.24))
"""Expected σ_MAD and outlier fraction (> 0.15) for ugriz data at this depth with 150,000 labels."""
STAMP = 32


def main() -> None:
    """Run the benchmark, and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, default=150_000)
    parser.add_argument("--test", type=int, default=90_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    survey = find_survey("clauds-hsc")
    start = time.perf_counter()
    rng = np.random.default_rng((arguments.seed, 77))
    filters = tuple(band.filter for band in survey.bands)
    table = draw_galaxies(arguments.labels + arguments.test, LIMIT, filters, rng)
    flux, error = observe_apertures(table, survey, rng)
    drawn = time.perf_counter() - start
    features = magnitude_features(flux, error)
    target = table["z_spec"]
    z_phot = learn(features, target, arguments.labels)
    z_true = target[arguments.labels :]
    delta = (z_phot - z_true) / (1 + z_true)
    rows = compare(table["mag_count"][arguments.labels :], delta)
    worst = max(max(abs(row["sigma_ratio"] - 1), abs(row["outlier_ratio"] - 1)) for row in rows)
    report(rows, worst, drawn, time.perf_counter() - start, arguments.labels)
    result = {
        "benchmark": "honesty",
        "labels": arguments.labels,
        "test_objects": arguments.test,
        "seed": arguments.seed,
        "ranges": rows,
        "max_deviation": worst,
        "laws": PopulationLaws().__dict__,
        "seconds": round(time.perf_counter() - start, 1),
        **provenance(),
    }
    print(json.dumps(result))


def observe_apertures(
    table: dict[str, np.ndarray], survey: SkySurvey, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate each object in isolation; return 2″ aperture fluxes and their errors, ``(N, B)``, in nJy."""
    scale = survey.pixel_scale_arcsec
    fwhm = tuple(band.fwhm_arcsec / scale for band in survey.bands)
    transfer = psf_transfer(STAMP, fwhm, survey.moffat_beta)
    radius = survey.depth_radius
    half = math.ceil(radius) + 1
    inside = circular_aperture(2 * half + 1, radius, subpixels=5)
    number = len(table["z_spec"])
    # Every object is centred on its stamp, so that all share one aperture.
    shapes = to_shapes(table | {"x": np.zeros(number), "y": np.zeros(number)}, scale)
    middle = slice(STAMP // 2 - half, STAMP // 2 + half + 1)
    mask = torch.from_numpy(inside).float()
    sums = []
    for first in range(0, number, 200):
        stamps = draw_stamps(shapes.take(np.arange(first, min(first + 200, number))), transfer)
        sums.append((stamps[:, :, middle, middle] * mask).sum(dim=(2, 3)).numpy())
    flux = np.concatenate(sums).astype(float)
    sky_error = np.array([flux_of_magnitude(band.depth) / 5 for band in survey.bands])
    sky_flux = np.array([flux_of_magnitude(band.sky_mag) * inside.sum() * scale**2 for band in survey.bands])
    error = sky_error * np.sqrt(1 + np.maximum(flux, 0) / sky_flux)
    return flux + error * rng.normal(size=flux.shape), np.broadcast_to(error, flux.shape)


def magnitude_features(flux: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return asinh magnitudes (Lupton, Gunn & Szalay 1999) and colours of adjacent bands: ``(N, 2B − 1)``."""
    soft = 2 * np.median(error, axis=0)
    mag = asinh_magnitude(flux, soft)
    return np.concatenate([mag, -np.diff(mag, axis=1)], axis=1)


def learn(features: np.ndarray, redshift: np.ndarray, labels: int) -> np.ndarray:
    """Train gradient boosting on ln(1 + z) of the first `labels` objects; return redshifts of the others."""
    from lightgbm import LGBMRegressor

    model = LGBMRegressor(
        objective="regression_l1",
        n_estimators=600,
        learning_rate=0.08,
        num_leaves=63,
        min_child_samples=30,
        n_jobs=1,
        random_state=0,
        verbose=-1,
    )
    model.fit(features[:labels], np.log1p(redshift[:labels]))
    return np.expm1(model.predict(features[labels:]))


def compare(mag: np.ndarray, delta: np.ndarray) -> list[dict[str, float]]:
    """Return measured and expected σ_MAD and outlier fraction (> 0.15) in each magnitude range."""
    rows = []
    for (low, high), (sigma_expected, outliers_expected) in zip(RANGES, EXPECTED, strict=True):
        inside = delta[(mag >= low) & (mag < high)]
        sigma = float(1.4826 * np.median(np.abs(inside - np.median(inside))))
        outliers = float((np.abs(inside) > 0.15).mean())
        rows.append(
            {
                "mag_low": low,
                "mag_high": high,
                "objects": len(inside),
                "bias": float(inside.mean()),
                "sigma_mad": sigma,
                "sigma_mad_expected": sigma_expected,
                "sigma_ratio": sigma / sigma_expected,
                "outliers_015": outliers,
                "outliers_015_expected": outliers_expected,
                "outlier_ratio": outliers / outliers_expected,
            }
        )
    return rows


def report(rows: list[dict[str, float]], worst: float, drawn: float, total: float, labels: int) -> None:
    """Print the comparison as a table."""
    print(
        f"{labels} labelled galaxies with i < {LIMIT}, ugriz at the depth of CLAUDS + HSC Deep; "
        f"simulated in {drawn:.0f} s"
    )
    print("i magnitude     objects  σ_MAD (expected)   above 0.15 (expected)")
    for row in rows:
        print(
            f"{row['mag_low']:5.1f} to {row['mag_high']:4.1f} {row['objects']:9d}"
            f"  {row['sigma_mad']:.4f} ({row['sigma_mad_expected']:.3f})"
            f"    {row['outliers_015']:.3f} ({row['outliers_015_expected']:.2f})"
        )
    print(f"largest deviation {worst:.0%}; {total:.0f} s in total")


if __name__ == "__main__":
    main()
