"""How well the anomaly scores find features planted in galaxies of a crowded simulated sky.

    python benchmarks/oddities.py --out bench-features [--objects 200] [--planted 60]

Galaxies with 20 < i < 23.5 are fitted unaltered, and some of them again with a planted feature:

``rings``, ``second nuclei``
    a quarter of the galaxy's flux in each band, in a ring of radius 0.9 to 1.4″ or a point source 0.6 to 1.1″
    from the centre, at the resolution of the PSF;
``knots of another colour``
    12 to 60% of the flux in two bands (u and g, or i and z), in a point source 0.5 to 1″ from the centre;
``wrong PSF``
    one band convolved with a Gaussian of σ = 1.2 to 1.8 pixels;
``tracks``, ``columns``
    in one band, a line of 1 to 5 pixels of 10 to 40σ, starting within 1.2″ of the centre, or a column of 15σ.

Pixels of neighbours are identified again on each altered image, as on real ones. For every kind of feature
the benchmark gives the probability that an altered galaxy ranks above an unaltered one (the area under the
ROC curve) by `discriminator_score`, `anomaly` and `artefact`, with bootstrap errors, and the fraction of
altered galaxies with an `artefact`. The sky is that of ``benchmarks/features.py`` under the same ``--out``.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata

import features
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.photometry import FWHM_PER_SIGMA, flux_of_magnitude
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo

SCORES = ("discriminator_score", "anomaly", "artefact")
SELECT = ["kind == galaxy", "mag_i > 20", "mag_i < 23.5"]
NUM_RESAMPLES = 300


def main() -> None:
    """Fit altered and unaltered galaxies, and print how well the scores separate them."""
    parser = argparse.ArgumentParser(description="How well the anomaly scores find planted features.")
    parser.add_argument("--out", default="bench-features")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--planted", type=int, default=60, help="altered galaxies of each kind")
    parser.add_argument("--model", default="builtin:clauds-hsc")
    options = parser.parse_args()
    torch.set_num_threads(1)
    directory = Path(options.out) / "simulated"
    store = CutoutStore(features.make_sky("simulated", directory, options.objects, options))
    known = read_labels(directory / "sky" / "truth.parquet", select=SELECT)
    catalogue = {name: np.asarray(values) for name, values in store.catalogue(["ra", "dec"]).items()}
    pairs = match_labels(catalogue, known)
    chosen = np.random.default_rng(4).permutation(len(pairs.rows))[: options.objects]
    chosen = chosen[np.argsort(pairs.rows[chosen])]
    cutouts = store.take(pairs.rows[chosen])
    magnitude = np.stack(
        [known.columns[f"mag_{band}"][pairs.label_rows[chosen]] for band in store.info.bands], axis=1
    )
    fitter = Fitter(Model.load(options.model), FitSettings(), store.info, threads=1)
    usual = scores(fitter, cutouts)
    found: dict[str, Any] = {
        "none": {"number": len(chosen), "with_artefact": float((usual["artefact"] > 0).mean())}
    }
    print(f"\n| planted | {' | '.join(SCORES)} | with an artefact |\n|---|{'---|' * (len(SCORES) + 1)}")
    for number, (kind, plant) in enumerate(KINDS.items()):
        rng = np.random.default_rng((9, number))
        rows = np.sort(rng.permutation(len(chosen))[: options.planted])
        image = cutouts.image[rows].copy()
        for pixels, row in zip(image, rows, strict=True):
            flux = flux_of_magnitude(magnitude[row].astype(float))
            plant(pixels, cutouts.weight[row], flux, store.info, rng)
        altered = scores(fitter, replace(cutouts.take(rows), image=image))
        found[kind] = {name: ranked(altered[name], usual[name]) for name in SCORES}
        found[kind]["with_artefact"] = float((altered["artefact"] > 0).mean())
        cells = [f"{found[kind][n]['value']:.2f} ± {found[kind][n]['error']:.2f}" for n in SCORES]
        print(f"| {kind} | {' | '.join(cells)} | {found[kind]['with_artefact']:.0%} |", flush=True)
    print(json.dumps({"benchmark": "oddities", "planted": found, "provenance": provenance()}))


def scores(fitter: Fitter, cutouts: Cutouts) -> dict[str, np.ndarray]:
    """Fit cutouts and return `SCORES`, all with the sign that larger means odder."""
    searched = with_neighbours(replace(cutouts, is_neighbour=None), fitter.info)  # with the planted features
    columns = feature_table(fitter, fitter.fit_cutouts(searched), cutouts)
    out = {name: columns[name].astype(float) for name in SCORES}
    out["discriminator_score"] = -out["discriminator_score"]
    return out


def ranked(altered: np.ndarray, usual: np.ndarray) -> dict[str, float]:
    """Return the probability that an altered score exceeds an unaltered one, and its bootstrap error."""

    def area(first: np.ndarray, second: np.ndarray) -> float:
        ranks = rankdata(np.concatenate([first, second]))[: len(first)]
        return float((ranks.mean() - (len(first) + 1) / 2) / len(second))

    altered, usual = altered[np.isfinite(altered)], usual[np.isfinite(usual)]
    rng = np.random.default_rng(0)
    again = [
        area(rng.choice(altered, len(altered)), rng.choice(usual, len(usual))) for _ in range(NUM_RESAMPLES)
    ]
    return {"value": area(altered, usual), "error": float(np.std(again))}


def light_at(
    image: np.ndarray, info: StoreInfo, profile: Callable[[float, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return a source of flux 1 in each band, ``(B, H, W)``.

    `profile` takes the σ of the PSF and coordinates relative to the centre, ``(2, H, W)``, both in arcsec.
    """
    side = (np.arange(info.size) - (info.size - 1) / 2) * info.pixel_scale_arcsec
    place = np.stack(np.meshgrid(side, side, indexing="ij"))
    drawn = np.stack([profile(fwhm / FWHM_PER_SIGMA, place) for fwhm in info.fwhm_arcsec])
    return np.asarray(drawn / drawn.sum((1, 2), keepdims=True), dtype=image.dtype)


def ring(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Plant a ring."""
    radius = rng.uniform(0.9, 1.4)
    light = light_at(image, info, lambda sigma, at: np.exp(-((np.hypot(*at) - radius) ** 2) / (2 * sigma**2)))
    image += 0.25 * flux[:, None, None] * light


def point(
    image: np.ndarray, info: StoreInfo, rng: np.random.Generator, near: float, far: float
) -> np.ndarray:
    """Return a point source of flux 1 per band, `near` to `far` arcsec from the centre: ``(B, H, W)``."""
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
    middle = away * np.array([np.sin(angle), np.cos(angle)])[:, None, None]
    return light_at(image, info, lambda sigma, at: np.exp(-((at - middle) ** 2).sum(0) / (2 * sigma**2)))


def nucleus(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Plant a second nucleus with the colour of the galaxy."""
    image += 0.25 * flux[:, None, None] * point(image, info, rng, 0.6, 1.1)


def knot(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Plant a knot in only two bands."""
    light, share = point(image, info, rng, 0.5, 1.0), rng.uniform(0.12, 0.6)
    for band in (("u", "g"), ("i", "z"))[rng.integers(2)]:
        place = info.bands.index(band)
        image[place] += share * flux[place] * light[place]


def blur(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Blur one band."""
    band = rng.integers(len(image))
    image[band] = ndimage.gaussian_filter(image[band], rng.uniform(1.2, 1.8))


def track(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Plant the track of a cosmic ray."""
    band, angle = rng.integers(len(image)), rng.uniform(0, 2 * np.pi)
    reach = 1.2 / info.pixel_scale_arcsec / np.sqrt(2)
    begin = info.size / 2 + rng.uniform(-reach, reach, 2)
    noise = 1 / np.sqrt(np.median(weight[band][weight[band] > 0]))
    steps = np.arange(rng.integers(1, 6))[:, None] * np.array([np.sin(angle), np.cos(angle)])
    y, x = np.clip((begin + steps).astype(int), 0, info.size - 1).T
    image[band, y, x] += rng.uniform(10, 40) * noise


def column(
    image: np.ndarray, weight: np.ndarray, flux: np.ndarray, info: StoreInfo, rng: np.random.Generator
) -> None:
    """Plant a bad column."""
    band, x = rng.integers(len(image)), info.size // 2 + rng.integers(-5, 6)
    image[band, :, x] += 15 / np.sqrt(np.median(weight[band][weight[band] > 0]))


KINDS = {
    "rings": ring,
    "second nuclei": nucleus,
    "knots of another colour": knot,
    "wrong PSF": blur,
    "tracks": track,
    "columns": column,
}

if __name__ == "__main__":
    main()
