"""Fluxes, colours and redshifts on skies that were simulated without this package.

    python benchmarks/independent.py --out bench-independent [--surveys des ...] [--zcosmos F] [--calibrate]

GalSim draws fields of 2,400 pixels a side with the seeing, pixel scale and depth of four surveys. Galaxy
counts follow a power law in i to 26.5; colours and redshifts are those of zCOSMOS galaxies with secure
redshifts and similar magnitudes (of the faintest ones, for fainter galaxies). Each galaxy has a de
Vaucouleurs bulge and an exponential disc, of which the bulge is rounder and 0.2 mag redder in g − i; a third
of the bright ones have knots. There is one star per sixteen galaxies, with colours down to type M. PSFs are
Kolmogorov or Moffat profiles, sheared by 2%, and their width is not in the headers. The images are then
analysed as by a user: `deepfits cutouts`, `fit` with ``builtin:ugriz``, and `redshift predict` without
labels.

Results for detections within 0.6″ of a galaxy, by true i magnitude: the median of `flux_model_<band>` over
truth and the width of its pulls; median error and scatter of the colours from `flux_gauss_<band>`, to which
the red bulges contribute up to about 0.02 mag; redshifts without labels; and the median `anomaly`, which
should not depend on brightness. With ``--calibrate`` the model is calibrated on each survey before the fit.
Errors are bootstrap errors. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import torch
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import deepfits
import table1
from deepfits.fitting.features import read_features
from deepfits.photometry import flux_of_magnitude
from deepfits.provenance import provenance
from deepfits.tables import read_table, write_table

BANDS = "ugriz"
SIDE = 2400  # pixels
BRIGHTEST, FAINTEST = 17.0, 26.5
SLOPE, AT_24 = 0.35, 12.0  # slope of log N; galaxies per arcmin² and mag at i = 24
STARS = 1 / 16  # per galaxy
BULGE_REDDER = np.array([0.3, 0.2, 0.08, 0.0, -0.05])  # magnitudes, relative to the disc and to i
BINS = ((17, 19), (19, 20), (20, 21), (21, 22), (22, 23), (23, 24))
COLOURS = (("u", "g"), ("g", "r"), ("r", "i"), ("i", "z"))
NEAREST_ARCSEC = 0.6
FEWEST, NUM_RESAMPLES = 15, 200
GSPARAMS = galsim.GSParams(maximum_fft_size=8192)

Rows = np.ndarray


@dataclass(frozen=True)
class Survey:
    """Properties of a survey's images.

    Attributes
    ----------
    depth
        5σ limiting magnitude in a 2″ aperture, per band.
    moffat_beta
        None for a Kolmogorov PSF.
    """

    pixel_scale_arcsec: float
    fwhm_arcsec: tuple[float, ...]
    depth: tuple[float, ...]
    zero_point: float
    moffat_beta: float | None

    def psf(self, band: int) -> galsim.GSObject:
        """Return the PSF of a band."""
        fwhm, beta = self.fwhm_arcsec[band], self.moffat_beta
        circular = galsim.Kolmogorov(fwhm=fwhm) if beta is None else galsim.Moffat(beta, fwhm=fwhm)
        return circular.shear(g1=0.02, g2=-0.01)


SURVEYS = {
    "des": Survey(0.263, (1.25, 1.12, 0.96, 0.88, 0.84), (23.3, 24.7, 24.4, 23.8, 23.1), 30.0, None),
    "kids": Survey(0.2, (1.0, 0.9, 0.68, 0.8, 0.9), (24.2, 25.1, 25.0, 23.7, 23.2), 0.0, 3.2),
    "panstarrs": Survey(0.25, (1.4, 1.3, 1.2, 1.1, 1.05), (22.6, 23.3, 23.2, 23.1, 22.3), 25.0, 3.2),
    "rubin": Survey(0.2, (0.92, 0.85, 0.8, 0.78, 0.77), (26.1, 27.4, 27.5, 26.8, 26.1), 31.4, None),
}


def main() -> None:
    """Simulate, cut, fit and predict for every survey, and print the comparison with the truth."""
    parser = argparse.ArgumentParser(description="Fluxes and redshifts on skies simulated with GalSim.")
    parser.add_argument("--out", default="bench-independent")
    parser.add_argument("--surveys", nargs="+", default=list(SURVEYS), choices=list(SURVEYS))
    parser.add_argument("--zcosmos", default=None, help="table of zCOSMOS-bright")
    parser.add_argument("--calibrate", action="store_true", help="calibrate the model on each survey")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, suffix = {}, "-calibrated" if options.calibrate else ""
    for name in options.surveys:
        out = Path(options.out) / name
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "truth.parquet").exists():
            print(f"{name}: simulating", flush=True)
            draw(SURVEYS[name], table1.zcosmos_catalogue(out, options), out, list(SURVEYS).index(name))
        store = deepfits.cutouts(out / "images", out / "cutouts")
        model: str | Path = "builtin:ugriz"
        if options.calibrate:
            model = deepfits.calibrate(model, store, out / "model", threads=1)
        features = deepfits.fit(store, model, out / f"features{suffix}", threads=1)
        predicted = deepfits.redshift_predict(features, out=out / f"redshifts{suffix}.parquet")
        found[name] = compare(
            read_features(features), read_table(predicted), read_table(out / "truth.parquet")
        )
        show(name, found[name])
    print(json.dumps({"benchmark": "independent", "surveys": found, "provenance": provenance()}))


def draw(survey: Survey, zcosmos: Path, out: Path, seed: int) -> None:
    """Simulate a field, and write images, weights and the truth table."""
    rng = np.random.default_rng(seed)
    side_arcmin = SIDE * survey.pixel_scale_arcsec / 60
    truth = population(zcosmos, side_arcmin**2, rng)
    number = len(truth["z_spec"])
    place = rng.uniform(20, SIDE - 20, size=(number, 2))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.1, 2.2], [SIDE / 2, SIDE / 2]
    wcs.wcs.cdelt = [-survey.pixel_scale_arcsec / 3600, survey.pixel_scale_arcsec / 3600]
    sky = wcs.pixel_to_world(*(place - 1).T)
    truth |= {"ra": sky.ra.deg, "dec": sky.dec.deg}
    (out / "images").mkdir(exist_ok=True)
    for band, name in enumerate(BANDS):
        image, psf = galsim.ImageD(SIDE, SIDE, scale=survey.pixel_scale_arcsec), survey.psf(band)
        for row in range(number):
            galaxy = profile(truth, row, band, survey.zero_point)
            reach = 12 * truth["half_light_radius_arcsec"][row] + 4 * survey.fwhm_arcsec[band]
            add(
                image, galsim.Convolve(psf, galaxy, gsparams=GSPARAMS), place[row], truth["mag_i"][row], reach
            )
        error = 10 ** (-0.4 * (survey.depth[band] - survey.zero_point)) / 5 / np.sqrt(np.pi)
        noise = error * survey.pixel_scale_arcsec
        header = wcs.to_header()
        header["MAGZERO"], header["FILTER"] = survey.zero_point, name
        pixels = (image.array + rng.normal(0, noise, image.array.shape)).astype(np.float32)
        fits.writeto(out / "images" / f"field_{name}.fits", pixels, header, overwrite=True)
        weight = np.full_like(pixels, 1 / noise**2)
        fits.writeto(out / "images" / f"field_{name}.weight.fits", weight, header, overwrite=True)
    write_table(out / "truth.parquet", truth)


def population(zcosmos: Path, square_arcmin: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return magnitudes, redshifts and shapes of a field's objects: galaxies first, then stars."""
    with zcosmos.open() as handle:
        rows = list(csv.DictReader(handle))
    known = np.array([[float(row[f"mag_{band}"]) for band in BANDS] for row in rows])
    redshift = np.array([float(row["z_spec"]) for row in rows])
    low, high = (10 ** (SLOPE * (limit - 24)) for limit in (BRIGHTEST, FAINTEST))
    expected = AT_24 * (high - low) / (SLOPE * np.log(10)) * square_arcmin
    i = 24 + np.log10(rng.uniform(low, high, size=rng.poisson(expected))) / SLOPE
    order = np.argsort(known[:, 3])
    near = np.searchsorted(known[order, 3], np.clip(i, 19, 22.3)) + rng.integers(-100, 100, size=len(i))
    donor = order[np.clip(near, 0, len(order) - 1)]
    galaxies = known[donor] + (i - known[donor, 3])[:, None]
    star_i = rng.uniform(BRIGHTEST, 24, size=int(STARS * len(i)))
    redness = rng.uniform(0.3, 3.0, size=len(star_i))  # g − i
    stars = star_i[:, None] + redness[:, None] * np.array([1.9, 1.0, 0.35, 0.0, -0.18])
    zero = np.zeros(len(stars))
    radius = np.exp(rng.normal(np.log(0.55 * 10 ** (-0.13 * (i - 22))), 0.4)).clip(0.05, 6)
    ellipticity = np.abs(rng.normal(0, 0.35, size=len(i))).clip(0, 0.8)
    truth = {
        "z_spec": np.concatenate([redshift[donor], zero]),
        "half_light_radius_arcsec": np.concatenate([radius, zero]),
        "bulge": np.concatenate([rng.beta(0.7, 1.8, size=len(i)), zero]),
        "ellipticity": np.concatenate([ellipticity, zero]),
        "angle": rng.uniform(0, np.pi, size=len(i) + len(stars)),
    }
    magnitude = np.concatenate([galaxies, stars])
    return truth | {f"mag_{band}": magnitude[:, place] for place, band in enumerate(BANDS)}


def profile(truth: dict[str, np.ndarray], row: int, band: int, zero_point: float) -> galsim.GSObject:
    """Return the profile of an object before convolution with the PSF."""
    flux = 10 ** (-0.4 * (truth[f"mag_{BANDS[band]}"][row] - zero_point))
    radius = truth["half_light_radius_arcsec"][row]
    if radius == 0:
        return galsim.DeltaFunction(flux=flux)
    ellipticity, angle = truth["ellipticity"][row], truth["angle"][row] * galsim.radians
    fraction = truth["bulge"][row] * 10 ** (-0.4 * BULGE_REDDER[band])
    fraction /= fraction + 1 - truth["bulge"][row]
    bulge = galsim.DeVaucouleurs(half_light_radius=0.7 * radius, flux=fraction)
    disc = galsim.Exponential(half_light_radius=radius, flux=1 - fraction)
    galaxy = bulge.shear(e=0.4 * ellipticity, beta=angle) + disc.shear(e=ellipticity, beta=angle)
    if truth["mag_i"][row] < 22.5 and row % 3 == 0:
        dice = galsim.BaseDeviate(row + 1)
        knots = galsim.RandomKnots(8, half_light_radius=radius, flux=0.15, rng=dice)
        galaxy = 0.85 * galaxy + knots.shear(e=ellipticity, beta=angle)
    return galaxy * flux


def add(
    image: galsim.ImageD, seen: galsim.GSObject, place: np.ndarray, magnitude: float, reach: float
) -> None:
    """Draw an object on a stamp and add it to an image.

    The stamp of an object brighter than magnitude 23 extends over `reach` arcsec, up to 400 pixels.
    """
    side = 256 if magnitude < 20 else 48
    if magnitude < 23:
        side = int(np.clip(2 * np.ceil(reach / image.scale / 2), side, 400))
    x, y = (round(value) for value in place)
    stamp = seen.drawImage(nx=side, ny=side, scale=image.scale, offset=(place[0] - x, place[1] - y))
    stamp.setCenter(x, y)
    overlap = stamp.bounds & image.bounds
    image[overlap] += stamp[overlap]


def compare(
    features: dict[str, np.ndarray], predicted: dict[str, np.ndarray], truth: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Compare measurements with the truth, in bins of magnitude."""
    detected, expected = (
        SkyCoord(table["ra"] * units.deg, table["dec"] * units.deg) for table in (features, truth)
    )
    nearest, distance, _ = detected.match_to_catalog_sky(expected)
    true = {name: values[nearest] for name, values in truth.items()}
    is_near, is_star = distance.arcsec < NEAREST_ARCSEC, true["half_light_radius_arcsec"] == 0
    out: dict[str, Any] = {}
    for kind, chosen in (("galaxies", is_near & ~is_star), ("stars", is_near & is_star)):
        for low, high in BINS:
            rows = np.flatnonzero(chosen & (true["mag_i"] >= low) & (true["mag_i"] < high))
            if len(rows) >= FEWEST:
                out[f"{kind} {low}-{high}"] = figures(features, predicted, true, rows, kind == "galaxies")
    return out


def figures(
    features: dict[str, np.ndarray],
    predicted: dict[str, np.ndarray],
    true: dict[str, np.ndarray],
    rows: Rows,
    with_redshifts: bool,
) -> dict[str, Any]:
    """Return the statistics of some objects."""
    out: dict[str, Any] = {"number": len(rows)}
    for band in BANDS:
        expected = flux_of_magnitude(true[f"mag_{band}"][rows])
        flux, error = (features[f"flux_model{end}_{band}"][rows] for end in ("", "_err"))
        out[f"flux {band}"] = with_error(flux / expected, np.median)
        out[f"pulls {band}"] = with_error((flux - expected) / error, width)
    out["anomaly median"] = with_error(features["anomaly"][rows], np.median)
    for blue, red in COLOURS:
        flux = [features[f"flux_gauss_{band}"][rows] for band in (blue, red)]
        both = (flux[0] > 0) & (flux[1] > 0)
        colour = -2.5 * np.log10(flux[0][both] / flux[1][both])
        error = colour - (true[f"mag_{blue}"] - true[f"mag_{red}"])[rows][both]
        out[f"colour {blue}-{red}"] = with_error(error, np.median)
        out[f"scatter {blue}-{red}"] = with_error(error, width)
    if with_redshifts:
        z = true["z_spec"][rows]
        delta = (predicted["z_phot"][rows] - z) / (1 + z)
        inside = (predicted["z_err68_low"][rows] < z) & (z < predicted["z_err68_high"][rows])
        out["redshift bias"] = with_error(delta, np.median)
        out["redshift scatter"] = with_error(
            delta, lambda values: 1.4826 * np.median(np.abs(values - np.median(values)))
        )
        out["redshift outliers"] = with_error(np.abs(delta) > 0.15, np.mean)
        out["redshift inside 68%"] = with_error(inside, np.mean)
    return out


def width(values: np.ndarray) -> float:
    """Return half the distance between the 16th and the 84th percentile."""
    return float(np.diff(np.percentile(values, [16, 84]))[0] / 2)


def with_error(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> list[float]:
    """Return a statistic and its bootstrap error, ignoring NaN (objects without a fit)."""
    values = values[np.isfinite(values)]
    draws = np.random.default_rng(0).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    return [float(statistic(values)), float(np.std([statistic(values[rows]) for rows in draws]))]


def show(name: str, found: dict[str, Any]) -> None:
    """Print the results of a survey."""
    print(f"\n{name}")
    for which, row in found.items():
        print(f"  {which}, {row['number']} objects")
        for kind in ("flux", "pulls", "colour", "scatter", "redshift", "anomaly"):
            parts = [(key, value) for key, value in row.items() if key.split()[0] == kind]
            print(
                "    "
                + kind
                + "  "
                + "  ".join(f"{k.split(' ', 1)[1]} {v:.3f} ± {e:.3f}" for k, (v, e) in parts)
            )


if __name__ == "__main__":
    main()
