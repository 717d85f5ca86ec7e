"""Measure the model error on a store, save it with the model, and test it on a sky with known truth.

    python benchmarks/model_error.py MODEL [STORE ...] [--only PART] [--write DIRECTORY] [--truth STORE TRUTH]

`deepfits train` measures the model error of every model that it trains; without a STORE that one is used.
Measuring again is meant for models from earlier versions. The test gives the bias of `flux_model_<band>` with
respect to the true flux and the width of its pulls, by magnitude, with bootstrap errors. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import FitSettings, Fitter
from deepfits.models.bundle import Model
from deepfits.photometry import flux_of_magnitude, robust_scatter
from deepfits.provenance import provenance
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.survey.neighbours import with_neighbours
from deepfits.survey.store import CutoutStore
from deepfits.training.model_error import measure_model_error

BINS = ((18, 20), (20, 22), (22, 23), (23, 24), (24, 25))


def main() -> None:
    """Measure, save and test the model error."""
    parser = argparse.ArgumentParser(description="Measure and test a model's model error.")
    parser.add_argument("model")
    parser.add_argument("store", nargs="*")
    parser.add_argument("--only", help="replace only this entry, such as latent_nuisance")
    parser.add_argument("--write", help="directory in which to save the model with the new error")
    parser.add_argument(
        "--truth", nargs=2, metavar=("STORE", "TRUTH"), help="cutouts and truth of a test sky"
    )
    parser.add_argument("--objects", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.load(options.model)
    if options.store:
        measured = measure_model_error(model, options.store)
        if measured is None:
            parser.error("too few bright galaxies to measure anything")
        only = measured if options.only is None else {options.only: measured[options.only]}
        model.model_error = {**(model.model_error or {}), **only}
    if options.write:
        model.save(options.write)
    out: dict[str, Any] = {"model_error": model.model_error}
    if options.truth:
        out["pulls"] = judge(model, options.truth[0], options.truth[1], options.objects)
    print(json.dumps({"figures": out, "provenance": provenance()}))


def judge(model: Model, where: str, truth: str, number: int) -> dict[str, Any]:
    """Compare the fluxes of some galaxies on a sky with their true fluxes."""
    store = CutoutStore(where)
    labels = read_labels(truth, select=["kind == galaxy", "mag_i < 25"])
    catalogue = {name: np.asarray(values) for name, values in store.catalogue(["ra", "dec"]).items()}
    pairs = match_labels(catalogue, labels)
    chosen = np.sort(np.random.default_rng(3).permutation(len(pairs.rows))[:number])
    cutouts = store.take(np.asarray(pairs.rows)[chosen])
    true = {name: values[np.asarray(pairs.label_rows)[chosen]] for name, values in labels.columns.items()}
    fitter = Fitter(model, FitSettings(), store.info, threads=1)
    fitted = fitter.fit_cutouts(with_neighbours(cutouts, store.info))
    columns = feature_table(fitter, fitted, cutouts)
    out: dict[str, Any] = {}
    for band in store.info.bands:
        flux, error = columns[f"flux_model_{band}"], columns[f"flux_model_err_{band}"]
        expected = flux_of_magnitude(true[f"mag_{band}"].astype(float))
        for low, high in BINS:
            inside = (true["mag_i"] >= low) & (true["mag_i"] < high) & np.isfinite(flux)
            ratio, pull = (flux / expected)[inside], ((flux - expected) / error)[inside]
            if len(ratio) < 5:
                continue
            draws = np.random.default_rng(0).integers(len(pull), size=(100, len(pull)))
            out[f"{band} {low}-{high}"] = row = {
                "objects": len(pull),
                "bias": [round(float(np.median(ratio) - 1), 4), spread(np.median(ratio[draws], axis=1))],
                "pull_width": [
                    round(float(robust_scatter(pull)), 3),
                    spread(robust_scatter(pull[draws], axis=1)),
                ],
                "pull_median": round(float(np.median(pull)), 3),
            }
            print(f"{band} {low}-{high}: {json.dumps(row)}", flush=True)
    return out


def spread(values: np.ndarray) -> float:
    """Return the bootstrap error from the values of all resamples."""
    return round(float(np.std(values)), 3)


if __name__ == "__main__":
    main()
