"""Ablation of the pretrained redshift head: what each ingredient contributes without labels.

Part of ``benchmarks/labels.py``. Small heads are trained in the same way as by `deepfits redshift pretrain`,
each without one ingredient: some of the inputs, the grafted galaxies, or the variety of their populations.
The training skies are those of ``OUT/head`` (made by `redshift pretrain` if missing). Two of them are held
out and serve to compare the heads. For information, the heads are also evaluated on a simulated sky of
another population, and on zCOSMOS with its spectroscopic redshifts.

Latents, χ² and posterior widths exist only for fitted galaxies, so they cannot be inputs of a head that is
also trained on grafted ones. Their contribution is measured with networks that are trained on fitted galaxies
of the simulated sky, with and without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

import deepfits
import table1
from deepfits.models.bundle import Model
from deepfits.photometry import robust_scatter
from deepfits.redshifts import storage
from deepfits.redshifts.features import FeatureRecipe, Matrix, Source, band_names, read_features
from deepfits.redshifts.head import Examples, Head, quantiles_of
from deepfits.redshifts.head_training import train_head
from deepfits.redshifts.labels import match_labels, read_labels
from deepfits.redshifts.methods.network import MLPConfig, train_ensemble
from deepfits.redshifts.metrics import delta_z
from deepfits.redshifts.pdf import MEDIAN, pdf_metrics
from deepfits.redshifts.scene_light import SceneLight
from deepfits.sky.population import PopulationLaws
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.pretrain import SHARPEST
from deepfits.stages.redshifts.pretraining import (
    EXAMPLES,
    FILTERS,
    POPULATIONS,
    FittedSky,
    default_surveys,
    draw_pointings,
    grafted,
)

NUM_SKIES, NUM_FITTED = 10, 1000
LEFT_OUT = (7, 9)
"""Held-out skies: one of CLAUDS+HSC, one of Rubin."""
NUM_DRAWN, STEPS = 60_000, 2_500
SEVERAL, ONE, RECENT_NARROW, SEVERAL_NARROW = POPULATIONS
HEADS: dict[str, dict[str, Any]] = {
    "everything": {},
    "no radii and concentrations": {"unseen": ("radius", "concentration")},
    "neither these nor total fluxes": {"unseen": ("radius", "concentration", "growth")},
    "no colours of drawing and data": {"unseen": ("colour", "noise", "core")},
    "no errors as inputs": {"unseen": ("error", "noise")},
    "filters not told": {"unseen": ("passband", "told")},
    "the same, filters of three surveys alone": {"unseen": ("passband", "told"), "filters": None},
    "templates of one library": {"populations": (ONE,)},
    "the recent templates, with little scatter": {"populations": (RECENT_NARROW,)},
    "several libraries, with little scatter": {"populations": (SEVERAL_NARROW,)},
    "a network for each of these four kinds": {"populations": POPULATIONS},
    "grafted galaxies of one population": {"populations": (lambda _: PopulationLaws(),)},
    "a quarter of the grafted galaxies": {"drawn": NUM_DRAWN // 4},
    "fitted galaxies alone": {"drawn": 0},
}
NETWORKS = {
    "scene": (),
    "scene, χ², posterior widths": ("quality",),
    "scene, latents": ("latents",),
    "scene, χ², posterior widths, latents": ("quality", "latents"),
}
"""Feature blocks used in addition to ``scene``."""
COLUMNS = ("σ_MAD", "η (0.15)", "CRPS", "68%")


def measure(inputs: dict[str, dict[str, Any]], model: str, head: Path) -> dict[str, Any]:
    """Train and evaluate heads and networks on fitted skies, and print the tables."""
    skies = {sky: labelled(fitted) for sky, fitted in inputs.items()}
    return {"heads": heads(skies, model, head), "networks": networks(skies)}


def labelled(inputs: dict[str, Any]) -> tuple[Source, np.ndarray]:
    """Return the fitted objects with a known redshift, and their redshifts."""
    columns = read_features(inputs["features"])
    columns = {name: values[np.isfinite(columns["latent"]).all(axis=1)] for name, values in columns.items()}
    known = read_labels(inputs["labels"], select=inputs["select"])
    pairs = match_labels(columns, known)
    columns = {name: values[pairs.rows] for name, values in columns.items()}
    return Source(columns=columns, bands=band_names(columns)), known.value[pairs.label_rows]


def heads(skies: dict[str, tuple[Source, np.ndarray]], model_name: str, head: Path) -> dict[str, Any]:
    """Train a head without each ingredient, and evaluate it."""
    model = Model.load(model_name)
    assert model.grid is not None
    out = deepfits.redshift_pretrain(
        head,
        model=model_name,
        num_skies=NUM_SKIES,
        num_fitted=NUM_FITTED,
        progress=table1.PrintedProgress("skies"),
    )
    places = [out / "skies" / f"sky-{number:02d}" for number in range(NUM_SKIES)]
    every = [storage.load(FittedSky, place, EXAMPLES) for place in places]
    narrowest = SHARPEST * model.grid.reference_fwhm_arcsec
    pointings = draw_pointings(default_surveys(), NUM_SKIES, NUM_FITTED, 0, narrowest)
    kept = [number for number in range(NUM_SKIES) if number not in LEFT_OUT]
    fitted = [every[number] for number in kept]
    aside = Examples.join([every[number].examples for number in LEFT_OUT])
    aside = aside.take(np.flatnonzero(aside.kind == 0))
    tests = {"left out": (aside.light, aside.redshift)}
    tests |= {
        name: (SceneLight.of(source, model.info.bands), value) for name, (source, value) in skies.items()
    }

    def train(
        unseen: tuple[str, ...] = (),
        drawn: int = NUM_DRAWN,
        populations: tuple[Callable[[np.random.Generator], PopulationLaws], ...] = (SEVERAL,),
        filters: Mapping[str, Sequence[str]] | None = FILTERS,
    ) -> Head:
        parts, sets = [sky.examples for sky in fitted], []
        for population in populations:
            rng, kept_pointings = np.random.default_rng(3), [pointings[number] for number in kept]
            more = [grafted(fitted, kept_pointings, drawn, rng, population, filters)] if drawn else []
            sets.append(Examples.join([*parts, *more]))
        return train_head(
            sets,
            model.info.bands,
            model_hash=model.fingerprint,
            steps=STEPS if drawn else STEPS // 2,
            num_members=len(sets),
            unseen=unseen,
        )

    def evaluated(head: Head) -> Callable[[str], list[float]]:
        return lambda name: judge(quantiles_of(head.densities(tests[name][0])[0]), tests[name][1])

    return table("head", HEADS, lambda name: evaluated(train(**HEADS[name])), tests)


def networks(skies: dict[str, tuple[Source, np.ndarray]]) -> dict[str, Any]:
    """Train networks on fits of the simulated sky, with and without latents and fit quality."""
    if "simulated" not in skies:
        return {}
    source, value = skies["simulated"]
    is_test = is_held_out(source.columns["object_id"])
    train = source.take(np.flatnonzero(~is_test))
    tests = {"left out": (source.take(np.flatnonzero(is_test)), value[is_test])}
    tests |= {name: pair for name, pair in skies.items() if name != "simulated"}
    made = {name: FeatureRecipe.learn(name, train).make for name in ("scene", "latents")}
    made["quality"] = quality

    def features(source: Source, more: tuple[str, ...]) -> Matrix:
        return reduce(Matrix.hstack, [made[name](source) for name in ("scene", *more)])

    def evaluated(name: str) -> Callable[[str], list[float]]:
        more = NETWORKS[name]
        ensemble, _, _ = train_ensemble(features(train, more), value[~is_test], MLPConfig())

        def evaluate(test: str) -> list[float]:
            quantiles = ensemble.predict(tests[test][0], features(tests[test][0], more)).quantiles
            assert quantiles is not None
            return judge(quantiles, tests[test][1])

        return evaluate

    return table("networks on fits", NETWORKS, evaluated, tests)


def quality(source: Source) -> Matrix:
    """Return ln reduced χ² of all bands and of each band, and the mean ln posterior width of the latents."""
    columns, ends = source.columns, ("", *(f"_{band}" for band in source.bands))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = [np.log(columns[f"chi2{end}"] / columns[f"dof{end}"]) for end in ends]
        values.append(np.log(columns["latent_std"].astype(np.float64)).mean(axis=1))
    table = np.column_stack(values).astype(np.float32)
    names = (*(f"log_chi2_dof{end}" for end in ends), "log_latent_std")
    return Matrix(values=np.where(np.isfinite(table), table, np.nan), names=names)


def judge(quantiles: np.ndarray, redshift: np.ndarray) -> list[float]:
    """Return the metrics of `COLUMNS`."""
    error = delta_z(quantiles[:, MEDIAN], redshift)
    metrics: dict[str, Any] = pdf_metrics(quantiles, redshift, num_resamples=2)
    return [
        float(robust_scatter(error)),
        float((np.abs(error) > 0.15).mean()),
        metrics["crps"]["value"],
        metrics["coverage_68"]["value"],
    ]


def table(
    title: str,
    rows: dict[str, Any],
    made: Callable[[str], Callable[[str], list[float]]],
    tests: dict[str, tuple[Any, np.ndarray]],
) -> dict[str, Any]:
    """Compute and print a table row by row; return its values."""
    cells = [f"{name} ({len(value):,}): {', '.join(COLUMNS)}" for name, (_, value) in tests.items()]
    print(f"\n| {title} | {' | '.join(cells)} |\n|---|{'---|' * len(cells)}", flush=True)
    out = {}
    for row in rows:
        evaluate = made(row)
        out[row] = {name: dict(zip(COLUMNS, evaluate(name), strict=True)) for name in tests}
        cells = [
            f"{m['σ_MAD']:.4f}, {100 * m['η (0.15)']:.1f}%, {m['CRPS']:.4f}, {100 * m['68%']:.0f}%"
            for m in out[row].values()
        ]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return out
