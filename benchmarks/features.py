"""Quality of latents and fluxes: the default fit and the former default, on the same objects.

    python benchmarks/features.py --out bench-features [--skies simulated zcosmos] [--objects 400 400]

Two skies at CLAUDS+HSC depth, neither of which the model was trained on: a crowded field of the built-in
population (galaxies with i < 25 and stars with i < 24), and galaxies of zCOSMOS-bright with their observed
magnitudes and redshifts. For each fit:

``redshift``
    R², σ_MAD and η(0.15) of small networks, out of fold, from latents, from fit measurements, from both with
    aperture magnitudes, and from aperture magnitudes alone;
``similar``, ``similar_plain``
    scatter of g − i, ln half-light radius and redshift between nearest neighbours at 22 < i < 24, relative to
    random pairs; neighbours are found by the embedding (`deepfits.fitting.similarity`) or by the plain
    distance of the latents;
``repeated``
    fits from random starts: the fraction of objects whose nearest neighbour among the first fits is their own
    first fit (by latent and by embedding), and the distance to it in units of the combined `latent_std`
    (1 is expected from noise alone);
``flux``
    flux of the central galaxy (`flux_model_i`) and of the whole cutout over truth, by magnitude: median,
    scatter, fraction above 1.5, and median and width of the pulls;
``chi2``, ``chi2_model``
    median χ² per pixel in the central 2″ by magnitude, excluding neighbours: with the variance of the noise
    alone, and with the known model error added to it;
``hidden``
    bias and scatter of the u magnitude predicted when u is not fitted, for u < 25.5;
``knows``
    (simulated sky) R² of size, axis ratio, orientation, bulge fraction, dust and redshift, and the area under
    the ROC curve for stars and galaxies, by kernel ridge regression with half of the objects as labels: from
    aperture magnitudes, latents, fit measurements, and all of them;
``steps``
    number of evaluations per fit.

Every value has a bootstrap error over the objects. Scene models (``--model builtin:ugriz``) are fitted to the
same cutouts. Finished work under ``--out`` is reused. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deepfits
import table1
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitted, Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.fitting.similarity import Similarity
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.models.bundle import Model
from deepfits.photometry import circular_aperture
from deepfits.provenance import provenance
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.redshifts.knowledge import (
    CLASS,
    predictability,
    properties_of,
    r2,
    squared_distances,
    with_error,
)
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.methods.network import MLPConfig, train_ensemble
from deepfits.redshifts.photometry import aperture_photometry
from deepfits.survey.neighbours import neighbours_of
from deepfits.survey.store import CutoutStore

FITS: dict[str, dict[str, Any]] = {
    "default": {},
    "former": {"amplitudes": "fit", "prior_strength": 0.0, "neighbours": "keep"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "embedder": {"mode": "embedder"},
    "plain": {"amplitudes": "none", "prior_strength": 0.0, "neighbours": "keep"},
    "neighbours kept": {"neighbours": "keep"},
    "prior 0.3": {"prior_strength": 0.3},
    "prior 3": {"prior_strength": 3.0},
}
BINS = ((18, 20), (20, 22), (22, 23), (23, 24), (24, 25))
NUM_STARS = 60
FEWEST = 10


def main() -> None:
    """Make the skies and the fits, and print the results."""
    parser = argparse.ArgumentParser(description="Quality of latents and fluxes of a fit.")
    parser.add_argument("--out", default="bench-features")
    parser.add_argument("--skies", nargs="+", default=["simulated", "zcosmos"])
    parser.add_argument("--objects", nargs="+", type=int, default=[400, 400], help="galaxies of each sky")
    parser.add_argument("--repeated", type=int, default=60, help="objects to fit again")
    parser.add_argument("--fits", nargs="+", default=list(FITS), choices=[*FITS, *OTHERS])
    parser.add_argument("--model", default="builtin:clauds-hsc")
    parser.add_argument("--zcosmos", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for sky, number in zip(options.skies, options.objects, strict=True):
        objects = Objects(sky, Path(options.out) / sky, number, options)
        found[sky] = {"objects": len(objects.label), "magnitudes": objects.redshift("magnitudes", {})}
        for name in options.fits:
            found[sky][name] = objects.figures(name, {**FITS, **OTHERS}[name], options.repeated)
            print(f"{sky}, {name}: {json.dumps(found[sky][name])}", flush=True)
    print(json.dumps({"figures": found, "provenance": provenance()}))


def make_sky(sky: str, directory: Path, number: int, options: argparse.Namespace) -> Path:
    """Simulate images and extract cutouts."""
    keywords: dict[str, Any] = {"size": 2050, "num_patches": 1, "seed": 12}
    if sky == "zcosmos":
        directory.mkdir(parents=True, exist_ok=True)
        lines = table1.zcosmos_catalogue(directory, options).read_text().splitlines()
        rows = np.sort(np.random.default_rng(5).permutation(len(lines) - 1)[: int(2.6 * number)]) + 1
        some = directory / "some.csv"
        some.write_text("\n".join([lines[0], *(lines[row] for row in rows)]) + "\n")
        keywords = {"size": 1026, "catalogue": some}
    images = deepfits.simulate(directory / "sky", **keywords)
    return deepfits.cutouts(images, directory / "cutouts")


class Objects:
    """The objects of one sky, with their true properties and their fits."""

    def __init__(self, sky: str, directory: Path, number: int, options: argparse.Namespace) -> None:
        store = CutoutStore(make_sky(sky, directory, number, options))
        select = ["kind == galaxy", *(["mag_i < 25"] if sky == "simulated" else [])]
        table = directory / "sky" / "truth.parquet"
        labels = read_labels(table, select=select)
        catalogue = store.catalogue(["ra", "dec"])
        pairs = match_labels({name: np.asarray(values) for name, values in catalogue.items()}, labels)
        chosen = np.sort(np.random.default_rng(3).permutation(len(pairs.rows))[:number])
        self.directory, self.info = directory, store.info
        taken = np.asarray(pairs.rows)[chosen]
        self.num_galaxies, stars = len(taken), np.empty(0, dtype=int)
        if sky == "simulated":
            known = read_labels(table, column="mag_i", select=["kind == star", "mag_i < 24"])
            found = match_labels({name: np.asarray(values) for name, values in catalogue.items()}, known)
            stars = np.setdiff1d(np.asarray(found.rows), taken)[:NUM_STARS]
        self.cutouts = store.take(np.concatenate([taken, stars]))
        self.others = neighbours_of(self.cutouts, store.info)
        rows = np.asarray(pairs.label_rows)[chosen]
        self.label = labels.value[rows]
        self.truth = {name: values[rows] for name, values in labels.columns.items()}
        self.magnitude = self.truth["mag_i"].astype(float)
        self.model = Model.load(options.model)
        error = self.model.model_error
        self.similarity = (
            Similarity.plain(self.model.config.latent_size)
            if error is None
            else Similarity.of(np.array(error["latent_nuisance"]))
        )
        self.flux, self.flux_err = aperture_photometry(
            self.cutouts.image,
            self.cutouts.weight,
            psf_or_moffat(self.cutouts.psf, store.info.fwhm_arcsec, len(self.cutouts)),
            pixel_scale_arcsec=store.info.pixel_scale_arcsec,
        )

    def figures(self, name: str, settings: dict[str, Any], num_repeated: int) -> dict[str, Any]:
        """Return all results of one fit."""
        everything = self.fit(name, settings)
        columns = {key: values[: self.num_galaxies] for key, values in everything.items()}
        few = np.flatnonzero((self.magnitude > 22) & (self.magnitude < 24))[:num_repeated]
        again = self.fit(f"{name} again", settings | {"mode": "optimise"}, rows=few)
        no_u = self.fit(f"{name} without u", settings, rows=few, hidden="u")
        sets = ("latents", "oriented", "model", "combined")
        return {
            "redshift": {features: self.redshift(features, columns) for features in sets},
            "similar": self.similar(self.similarity.coordinates(columns["embedding"])),
            "similar_plain": self.similar(columns["latent"]),
            "repeated": repeated(columns, again, few, self.similarity),
            "flux": {flux: self.fluxes(columns, flux) for flux in ("flux_model", "flux_cutout_model")},
            "chi2": self.by_magnitude(np.median, columns["chi2_centre"]),
            "chi2_model": self.by_magnitude(np.median, columns["chi2_centre_model"]),
            "hidden": self.hidden(no_u, few),
            "steps": with_error(np.mean, columns["num_steps"]),
            "knows": self.knows(everything) if len(everything["num_steps"]) > self.num_galaxies else {},
        }

    def fit(
        self, name: str, settings: dict[str, Any], *, rows: np.ndarray | None = None, hidden: str = ""
    ) -> dict[str, np.ndarray]:
        """Fit some objects, or load an earlier fit."""
        path = self.directory / f"fits-{self.model.fingerprint}" / f"{name.replace(' ', '-')}.npz"
        if not path.exists():
            print(f"{self.directory.name}: fitting {name}", flush=True)
            cutouts = self.cutouts if rows is None else self.cutouts.take(rows)
            others = self.others if rows is None else self.others[rows]
            weight = cutouts.weight.copy()
            if hidden:
                weight[:, self.info.bands.index(hidden)] = 0
            fitter = Fitter(self.model, FitSettings(**settings), self.info, threads=1)
            sight = fitter.sight(cutouts)
            fitted = fitter.fit(cutouts.object_id, cutouts.image, weight, is_neighbour=others, sight=sight)
            columns = feature_table(fitter, fitted, cutouts)
            for key, share in (("chi2_centre", 0.0), ("chi2_centre_model", 1.0)):
                columns[key] = self.central(fitter, fitted, others, share)
            numbers: dict[str, Any] = {k: v for k, v in columns.items() if v.dtype.kind != "U"}
            path.parent.mkdir(exist_ok=True)
            np.savez(path, **numbers)
        return dict(np.load(path))

    def central(self, fitter: Fitter, fitted: Fitted, others: np.ndarray, share: float) -> np.ndarray:
        """Return χ² per pixel in the central 2″, excluding pixels of neighbours even if the fit used them.

        The variance includes the known model error times `share`.
        """
        circle = circular_aperture(self.info.size, 1 / self.info.pixel_scale_arcsec)
        weight, drawn = fitted.weight.numpy() * ~others[:, None], fitter.reconstruct(fitted)
        wrong = share * np.array(fitter.model_error.light_fraction)[:, None, None] * drawn
        used = weight / (1 + weight * wrong**2) * circle
        residual = fitted.image.numpy() - drawn
        return np.asarray((used * residual**2).sum((1, 2, 3)) / ((weight > 0) * circle).sum((1, 2, 3)))

    def knows(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return how well each feature set predicts true properties, with half of the objects as labels."""
        source = Source(
            columns={"object_id": np.arange(len(columns["num_steps"])), **columns},
            bands=self.info.bands,
            flux=self.flux,
            flux_err=self.flux_err,
            similarity=self.similarity.matrix,
        )
        number = len(columns["num_steps"])
        truth = {
            name: np.concatenate([values, np.resize(values, number - self.num_galaxies)])
            for name, values in {**self.truth, "z_spec": self.label}.items()
        }
        truth["kind"] = np.where(np.arange(number) < self.num_galaxies, "galaxy", "star")
        bright = np.concatenate([self.magnitude, np.zeros(number - self.num_galaxies)]) < 24
        half = np.random.default_rng(2).permutation(number) % 2 == 0
        out: dict[str, Any] = {}
        for name, value in properties_of(truth).items():
            if name.endswith(CLASS):
                value = np.where(bright, value, np.nan)
            for row in predictability(source, {name: value}, half, num_labels=(number,)):
                out.setdefault(row["features"], {}).update(row["found"])
        return out

    def redshift(self, features: str, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Evaluate redshifts of each half of the objects, predicted by networks trained on the other half."""
        if not columns:
            columns = {"latent": np.zeros((len(self.label), 1))}
        flux, error = (values[: self.num_galaxies] for values in (self.flux, self.flux_err))
        source = Source(
            columns=columns,
            bands=self.info.bands,
            flux=flux,
            flux_err=error,
            similarity=self.similarity.matrix,
        )
        matrix = FeatureRecipe.learn(features, source).make(source)
        half = np.random.default_rng(1).permutation(len(self.label)) % 2
        z_phot = np.empty(len(self.label))
        for part in (0, 1):
            train, test = np.flatnonzero(half != part), np.flatnonzero(half == part)
            ensemble, _, _ = train_ensemble(
                matrix.take(train), self.label[train], MLPConfig(num_members=2, num_steps=400)
            )
            z_phot[test] = ensemble.predict(source, matrix.take(test)).point
        offset = (z_phot - self.label) / (1 + self.label)
        return {
            "r2": with_error(r2, z_phot, self.label),
            "sigma_mad": with_error(scatter, offset),
            "eta": with_error(lambda x: float(np.mean(np.abs(x) > 0.15)), offset),
        }

    def similar(self, latent: np.ndarray) -> dict[str, Any]:
        """Compare nearest neighbours with random pairs."""
        chosen = np.flatnonzero(
            (self.magnitude > 22) & (self.magnitude < 24) & np.isfinite(latent).all(axis=1)
        )
        away = squared_distances(latent[chosen], latent[chosen])
        np.fill_diagonal(away, np.inf)
        nearest = chosen[away.argmin(axis=1)]
        random = np.random.default_rng(0).permutation(chosen)
        properties = {
            "g_i": self.truth["mag_g"] - self.truth["mag_i"],
            "log_half_light": np.log(self.truth["half_light_radius_arcsec"]),
            "redshift": self.label,
        }
        return {
            name: with_error(
                lambda a, b: scatter(a) / scatter(b), q[chosen] - q[nearest], q[chosen] - q[random]
            )
            for name, q in properties.items()
        }

    def fluxes(self, columns: dict[str, np.ndarray], name: str) -> dict[str, Any]:
        """Compare i-band fluxes with the truth."""
        truth = 10 ** (-0.4 * (self.magnitude - 31.4))
        ratio = columns[f"{name}_i"] / truth
        pull = (columns[f"{name}_i"] - truth) / columns[f"{name}_err_i"]
        return {
            "median": self.by_magnitude(np.median, ratio),
            "scatter": self.by_magnitude(scatter, ratio),
            "above_1.5": self.by_magnitude(lambda x: float(np.mean(x > 1.5)), ratio),
            "pull_width": self.by_magnitude(scatter, pull),
            "pull_median": self.by_magnitude(np.median, pull),
        }

    def hidden(self, columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
        """Compare the predicted magnitude of the hidden band u with the truth."""
        truth, flux = self.truth["mag_u"][rows], columns["flux_model_u"]
        with np.errstate(divide="ignore", invalid="ignore"):
            off = 31.4 - 2.5 * np.log10(flux) - truth
        off = off[(truth < 25.5) & np.isfinite(off)]
        return {"bias": with_error(np.median, off), "scatter": with_error(scatter, off), "number": len(off)}

    def by_magnitude(self, figure: Callable[..., Any], values: np.ndarray) -> dict[str, Any]:
        """Compute a statistic in each bin of i magnitude with enough objects."""
        out = {}
        for low, high in BINS:
            inside = (self.magnitude >= low) & (self.magnitude < high) & np.isfinite(values)
            if inside.sum() >= FEWEST:
                out[f"{low}-{high}"] = with_error(figure, values[inside])
        return out


def repeated(
    columns: dict[str, np.ndarray], again: dict[str, np.ndarray], rows: np.ndarray, place: Similarity
) -> dict[str, Any]:
    """Compare fits from random starts with those from the embedder's guess."""
    good = np.isfinite(columns["latent"]).all(axis=1)
    own = (np.cumsum(good) - 1)[rows]
    away = squared_distances(again["latent"], columns["latent"][good])
    first, second = (place.coordinates(table["embedding"]) for table in (columns, again))
    apart = squared_distances(second, first[good])
    variance = again["latent_std"] ** 2 + columns["latent_std"][rows] ** 2
    sigmas = np.sqrt(np.mean((again["latent"] - columns["latent"][rows]) ** 2 / variance, axis=1))
    return {
        "own_nearest": with_error(np.mean, (away.argmin(axis=1) == own).astype(float)),
        "own_nearest_embedding": with_error(np.mean, (apart.argmin(axis=1) == own).astype(float)),
        "distance_sigma": with_error(np.median, sigmas[np.isfinite(sigmas)]),
    }


def scatter(values: np.ndarray) -> float:
    """Return 1.4826 × the median absolute deviation from the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


if __name__ == "__main__":
    main()
