"""Redshifts trained on one survey and applied to another: the same galaxies simulated in three surveys.

    python benchmarks/transfer.py --out bench-transfer [--objects 1000] [--model builtin:ugriz]

Galaxies of zCOSMOS-bright are simulated, from their observed magnitudes and redshifts, as CLAUDS+HSC, as
Rubin and as a shallow survey (0.3 arcsec pixels, 1.3 arcsec seeing). Cutouts at the detections of each survey
are fitted with one scene model. Small networks are trained on the redshifts of half of the galaxies in one
survey and evaluated on the other half in every survey; then the halves are exchanged. The feature sets are
those of `deepfits.redshifts.features`: aperture magnitudes (``magnitudes``), apertures at a common PSF
(``matched``), model magnitudes (``model``), the scene at its reference PSF (``scene``), ``latents``, and
``portable`` (scene and matched). They are compared with the model's pretrained head: without labels, adapted
to a hundred labels of one survey, and adapted to all labels of the half.

Finished work under ``--out`` is reused. The last line is one JSON object with the metrics for each pair of
surveys and each feature set, and ``worst_ratio``: for the set among ``scene``, ``latents`` and ``portable``
that is best within surveys, the largest ratio over all pairs of σ_MAD after training on another survey to
σ_MAD after training on the survey itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deepfits
import table1
from deepfits.files import write_json
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.provenance import provenance
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.redshifts.inputs import complete_source
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.method import Training
from deepfits.redshifts.methods.adapted import Adapted
from deepfits.redshifts.methods.network import MLPConfig, train_ensemble
from deepfits.redshifts.methods.pretrained import Pretrained
from deepfits.redshifts.metrics import point_metrics
from deepfits.redshifts.split import Split
from deepfits.sky.surveys import SkySurvey, find_survey
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.store import CutoutStore

SETS = ("magnitudes", "matched", "model", "scene", "latents", "portable")
OURS = ("scene", "latents", "portable")

Rows = np.ndarray
Estimator = Callable[[Source, Rows], np.ndarray]


def main() -> None:
    """Make skies and fits, and print the table."""
    parser = argparse.ArgumentParser(description="Redshifts trained on one survey and applied to another.")
    parser.add_argument("--out", default="bench-transfer")
    parser.add_argument("--objects", type=int, default=1000, help="galaxies to simulate")
    parser.add_argument("--model", default="builtin:ugriz")
    parser.add_argument("--zcosmos", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, out = Model.load(options.model), Path(options.out)
    surveys = {name: observe(name, survey, model, out, options) for name, survey in make_surveys().items()}
    common = set.intersection(*(set(identity.tolist()) for identity, _, _ in surveys.values()))
    sources, label = {}, np.empty(0)
    for name, (identity, label_here, source) in surveys.items():
        rows = np.flatnonzero([object_id in common for object_id in identity.tolist()])
        rows = rows[np.argsort(identity[rows])]
        sources[name], label = source.take(rows), label_here[rows]
    print(f"{len(label)} galaxies detected in every survey", flush=True)
    pairs = {name: judge(partial(teach_networks, name, label), sources, label) for name in SETS}
    by_head = {
        name: judge(partial(teach_head, number, label), sources, label)
        for name, number in (("head, 0", 0), ("head, 100", 100), ("head, half", len(label)))
    }
    for name, found in (pairs | by_head).items():
        for pair, metrics in found.items():
            print(f"{name:12} {pair:28}" + "".join(f"{metrics[m]:9.3f}" for m in metrics), flush=True)
    best = min(OURS, key=lambda name: np.mean([pairs[name][f"{s} -> {s}"]["sigma_mad"] for s in sources]))
    ratios = {
        pair: metrics["sigma_mad"]
        / pairs[best][f"{pair.split(' -> ')[1]} -> {pair.split(' -> ')[1]}"]["sigma_mad"]
        for pair, metrics in pairs[best].items()
    }
    result = {
        "galaxies": len(label),
        "metrics": pairs | by_head,
        "best": best,
        "worst_ratio": max(ratios.values()),
        "model": model.fingerprint,
        "provenance": provenance(),
    }
    print(json.dumps(result))


def make_surveys() -> dict[str, SkySurvey]:
    """Return the three surveys; the shallow one is two magnitudes shallower than ten years of Rubin."""
    rubin = find_survey("rubin-like")
    bands = tuple(replace(band, depth=band.depth - 2, fwhm_arcsec=1.3) for band in rubin.bands)
    shallow = replace(rubin, name="shallow", bands=bands, pixel_scale_arcsec=0.3)
    return {"clauds-hsc": find_survey("clauds-hsc"), "rubin-like": rubin, "shallow": shallow}


def observe(
    name: str, survey: SkySurvey, model: Model, out: Path, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, Source]:
    """Simulate the galaxies in one survey, detect, cut and fit them.

    Returns
    -------
    identity
        ``(N,)``: IDs of the detected galaxies in the truth table.
    label
        ``(N,)``: their redshifts.
    source
        Their measurements, from which features are made.
    """
    directory = out / name
    out.mkdir(parents=True, exist_ok=True)
    lines = table1.zcosmos_catalogue(out, options).read_text().splitlines()
    rows = np.sort(np.random.default_rng(5).permutation(len(lines) - 1)[: options.objects]) + 1
    some = out / "some.csv"
    if not some.exists():
        some.write_text("\n".join([lines[0], *(lines[row] for row in rows)]) + "\n")
    described = out / f"{name}.toml"
    if not described.exists():
        described.write_text(survey.to_toml())
    sky = deepfits.simulate(directory / "sky", size=1026, catalogue=some, survey=described, seed=7)
    store = CutoutStore(
        deepfits.cutouts(sky, directory / "cutouts", size=model.cutout_size(survey.pixel_scale_arcsec))
    )
    labels = read_labels(directory / "sky" / "truth.parquet", select=["kind == galaxy"])
    catalogue = store.catalogue(["ra", "dec"])
    found = match_labels({key: np.asarray(values) for key, values in catalogue.items()}, labels)
    cutouts = store.take(np.asarray(found.rows))
    columns = fit(model, cutouts, store, directory / "fits.npz")
    columns["model_hash"] = np.full(len(cutouts.object_id), model.fingerprint)
    source = Source(columns=columns, bands=store.info.bands)
    source = complete_source(source, store=store.directory, photometry=directory / "photometry.npz")
    truth = np.asarray(found.label_rows)
    print(f"{name}: {len(truth)} of {len(labels.value)} galaxies detected and fitted", flush=True)
    return labels.columns["object_id"][truth], labels.value[truth], source


def fit(model: Model, cutouts: Any, store: CutoutStore, path: Path) -> dict[str, np.ndarray]:
    """Fit all objects with default settings, or load an earlier fit with the same model."""
    made_by = path.with_suffix(".json")
    if not path.exists() or json.loads(made_by.read_text()) != model.fingerprint:
        fitter = Fitter(model, FitSettings(), store.info, threads=1)
        fitted = fitter.fit_cutouts(with_neighbours(cutouts, store.info))
        columns = feature_table(fitter, fitted, cutouts)
        numbers: dict[str, Any] = {key: value for key, value in columns.items() if value.dtype.kind != "U"}
        np.savez(path, **numbers)
        write_json(made_by, model.fingerprint)
    return dict(np.load(path))


def judge(
    teach: Callable[[Source, Rows], Estimator], sources: dict[str, Source], label: np.ndarray
) -> dict[str, dict[str, float]]:
    """Train on half of the galaxies in each survey, and evaluate the other half in every survey."""
    half = np.random.default_rng(1).permutation(len(label)) % 2
    out = {}
    for trained_on, training_source in sources.items():
        estimates = {name: np.empty(len(label)) for name in sources}
        for part in (0, 1):
            train, test = np.flatnonzero(half != part), np.flatnonzero(half == part)
            estimate = teach(training_source, train)
            for name, source in sources.items():
                estimates[name][test] = estimate(source, test)
        for name, values in estimates.items():
            out[f"{trained_on} -> {name}"] = measured(values, label)
    return out


def teach_networks(features: str, label: np.ndarray, source: Source, train: Rows) -> Estimator:
    """Train networks on a set of features."""
    recipe = FeatureRecipe.learn(features, source)
    config = MLPConfig(num_members=2, num_steps=800)
    ensemble, _, _ = train_ensemble(recipe.make(source).take(train), label[train], config)
    return lambda source, rows: ensemble.predict(source.take(rows), recipe.make(source).take(rows)).point


def teach_head(number: int, label: np.ndarray, source: Source, train: Rows) -> Estimator:
    """Adapt the model's pretrained head to `number` of the labels; with 0, use it unchanged."""
    chosen = np.sort(np.random.default_rng(2).permutation(train)[:number])
    training = Training(dataset=as_dataset(source, label, chosen), loss="absolute")
    method = (Adapted if number else Pretrained).fit(training).method
    return lambda source, rows: method.predict(source.take(rows), None).point


def measured(estimate: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return the metrics for the table."""
    metrics = point_metrics(estimate, label)
    return {
        "r2": metrics["r2"],
        "bias": metrics["bias"],
        "sigma_mad": metrics["sigma_mad"],
        "eta": metrics["eta_15"],
    }


def as_dataset(source: Source, label: np.ndarray, train: np.ndarray) -> Dataset:
    """Return a dataset whose training set consists of the rows `train`."""
    none, unknown = np.empty(0, dtype=np.int64), np.full(len(label), np.nan)
    return Dataset(
        object_id=np.arange(len(label)),
        value=label,
        magnitude=unknown,
        magnitude_name="",
        separation_arcsec=unknown,
        split=Split(train=train, validation=none, test=none, unused=none),
        source=source,
        label_columns={},
        counts={},
    )


if __name__ == "__main__":
    main()
