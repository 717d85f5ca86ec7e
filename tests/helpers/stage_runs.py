"""Every stage on small inputs, for the tests of repeated runs, killed runs and full disks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import deepfits
from deepfits.stages.export import export
from deepfits.stages.redshifts.classes import redshift_classes
from deepfits.stages.redshifts.curves import redshift_curves
from deepfits.stages.redshifts.evaluate import redshift_evaluate
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.redshifts.train import redshift_train
from tests.helpers.galaxy_table import make_table
from tests.helpers.gaussian_sky import SCALE, make_truth, write_plain
from tests.helpers.redshift_inputs import make_sky, write_features, write_labels, write_store
from tests.helpers.small_model import INFO, make_model, make_store

SHAPE = (96, 90)
TINY = {"width": 16, "latent_size": 4, "num_blocks": 2, "batch_size": 8, "num_evaluated": 4}
QUICK: dict[str, Any] = {"num_steps": 2, "threads": 1}
BOOSTED: dict[str, Any] = {"tuning_trials": 1, "distributions": False}
ROWS = {**BOOSTED, "methods": ("boosting",)}

Run = Callable[..., Any]


def make_base(base: Path) -> Path:
    """Make one small input of each kind."""
    rng = np.random.default_rng(15)
    write_plain(base / "sky", make_truth(rng, 12, SHAPE, margin=8, bands="gri"), SHAPE, rng=rng, bands="gri")
    deepfits.detect(base / "sky", base / "catalogue.parquet")
    pq.write_table(pa.table(make_table(6)), base / "given.parquet")
    make_model(base / "coadd-model", replace(INFO, pixel_scale_arcsec=SCALE))
    model = make_model(base / "model")
    make_store(base / "store", model, (20, 12))
    make_store(base / "survey", model, (260,))
    deepfits.fit(base / "store", base / "model", base / "features-both", **QUICK)
    run = base / "run"
    run.mkdir()
    for name, target in (("cutouts", "store"), ("model", "model"), ("features-both", "features-both")):
        shutil.copytree(base / target, run / name)
    sky = make_sky()
    write_features(base / "features", sky)
    write_features(base / "guesses", {**sky, "latent": sky["latent"][:, ::-1].copy()})
    kinds = np.where(sky["z_spec"] > 0.7, "far", "near")
    write_labels(base / "labels.parquet", sky, kind=kinds, mine=sky["z_spec"] + 0.1)
    write_store(base / "cutouts", sky)
    train_quickly(base, base / "predictor")
    redshift_predict(base / "predictor", base / "features", base / "predicted.parquet")
    return base


def train_quickly(base: Path, out: Path, **options: Any) -> Path:
    return redshift_train(
        base / "features", base / "labels.parquet", out, **{"feature_set": "latents", **BOOSTED, **options}
    )


def compare(d: Path, out: Path, **options: Any) -> Path:
    options = {"feature_sets": ("latents",), **ROWS, **options}
    return deepfits.redshift(d / "features", d / "labels.parquet", out, **options)


def inpaint(d: Path, out: Path, **options: Any) -> Path:
    options = {"bands": "g", "num_calibration": 8, **QUICK, **options}
    return deepfits.inpaint(d / "store", d / "model", out, **options)


RUNS: dict[str, Run] = {
    "simulate": lambda d, out, **options: deepfits.simulate(
        out, **({"size": 96, "catalogue": d / "given.parquet", "workers": 1} | options)
    ),
    "stack": lambda d, out, **options: deepfits.stack(
        d / "sky", out, **{"register": "none", "grid": d / "sky" / "coadd-g.fits", **options}
    ),
    "detect": lambda d, out, **options: deepfits.detect(d / "sky", out / "catalogue.parquet", **options),
    "cutouts": lambda d, out, **options: deepfits.cutouts(
        d / "sky", out, **{"catalogue": d / "catalogue.parquet", "size": 16, **options}
    ),
    "train": lambda d, out, **options: deepfits.train(
        d / "store", out, **{"recipe": "tiny", "steps": 2, "threads": 1, "options": TINY, **options}
    ),
    "calibrate": lambda d, out, **options: deepfits.calibrate(
        d / "model", d / "survey", out, **{"threads": 1, **options}
    ),
    "fit": lambda d, out, **options: deepfits.fit(d / "store", d / "model", out, **{**QUICK, **options}),
    "fit-coadds": lambda d, out, **options: deepfits.fit(
        d / "sky",
        d / "coadd-model",
        out,
        **{**QUICK, "from_coadds": True, "catalogue": d / "catalogue.parquet", **options},
    ),
    "inpaint": inpaint,
    "redshift": compare,
    "redshift-beside": lambda d, out, **options: compare(
        d,
        out,
        **{
            "feature_sets": ("magnitudes", "embedder"),
            "store": d / "cutouts",
            "embedder_features": d / "guesses",
            "model": d / "model",
            "photoz": f"{d / 'labels.parquet'}:mine",
            "photometry": d / "photometry.npz",
            **options,
        },
    ),
    "redshift-curves": lambda d, out, **options: redshift_curves(
        d / "features",
        d / "labels.parquet",
        out,
        **{"numbers": (60,), "feature_sets": ("latents",), **ROWS, **options},
    ),
    "redshift-classes": lambda d, out, **options: redshift_classes(
        d / "features", d / "labels.parquet", out, **{"feature_sets": ("latents",), **options}
    ),
    "redshift-train": train_quickly,
    "redshift-predict": lambda d, out, **options: redshift_predict(
        d / "predictor", d / "features", out / "z.parquet", **options
    ),
    "redshift-predict-shards": lambda d, out, **options: redshift_predict(
        d / "predictor", d / "features", out, **options
    ),
    "redshift-evaluate": lambda d, out, **options: redshift_evaluate(
        d / "predicted.parquet", d / "labels.parquet", out, **options
    ),
    "export": lambda d, out, **options: export(d / "features-both", out / "all.parquet", **options),
    "report": lambda d, out, **options: deepfits.report(d / "run", out=out, **{"num_examples": 1, **options}),
}
