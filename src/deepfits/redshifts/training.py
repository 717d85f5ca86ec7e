"""Training any one method on a data set, with its distributions and what it says of objects left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.progress import Progress, silent
from deepfits.redshifts.boosting import BoostingConfig, train_boosting
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import TEMPLATE_SETS, Recipe, Source
from deepfits.redshifts.head import HeadConfig, train_head
from deepfits.redshifts.image_methods import IMAGE_METHODS, train_image_method
from deepfits.redshifts.left_out import LeftOut
from deepfits.redshifts.lephare import train_lephare
from deepfits.redshifts.neighbours import train_neighbours
from deepfits.redshifts.pdf import pit, recalibrated, sorted_quantiles
from deepfits.redshifts.predictor import (
    METHODS,
    TEMPLATE_METHODS,
    Constant,
    Options,
    Predictor,
    StackWeights,
    photometry_of,
    spread_of,
)
from deepfits.redshifts.quantiles import train_quantiles
from deepfits.redshifts.stack import averaged, common, stacking_weights
from deepfits.redshifts.templates import train_templates
from deepfits.redshifts.tpot_search import TpotConfig, train_tpot

STACKS = {
    "templates": (("network", "magnitudes"), ("network", "templates")),
    "fits": (
        ("network", "magnitudes"),
        ("network", "templates"),
        ("network", "sizes"),
        ("network", "all"),
    ),
    "deep": (("network", "templates"), ("network", "sizes"), ("hybrid", "templates")),
}
"""What a stack joins: ``templates`` is a baseline, ``fits`` adds the fits, ``deep`` has the embedder too."""

Trainer = Callable[[str, str], Predictor]


def train_predictor(
    method: str,
    feature_set: str,
    dataset: Dataset,
    options: Options,
    *,
    target: str = "z_spec",
    train_member: Trainer | None = None,
    progress: Progress = silent,
) -> Predictor:
    """Train one method on the training and validation parts of a data set.

    Parameters
    ----------
    feature_set
        What it learns from; of template fitting and the networks on images, nothing; of a stack, which one.
    train_member
        Gives the members of a stack, where they are at hand already.

    Raises
    ------
    InputError
        An unknown method, or features that cannot be made.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; {nearest(method, METHODS)}")
    if method == "stack":

        def train(one: str, features: str) -> Predictor:
            return train_predictor(one, features, dataset, options, target=target, progress=progress)

        return _train_stack(feature_set, dataset, options, target, train_member or train)
    if method in TEMPLATE_METHODS:
        return _train_template_method(method, dataset, options, target)
    if method in IMAGE_METHODS:
        return _train_image_method(method, feature_set, dataset, options, target, progress)
    recipe = Recipe.learn(feature_set, dataset.source)
    values = recipe.make(dataset.source).take(dataset.split.fitted).values
    return replace(
        _train_on_features(method, recipe, dataset, options, progress),
        target=target,
        domain=Domain.learn(values) if method != "constant" else None,
        model_hash=_model_hash(dataset.source),
    )


def needs_templates(method: str, feature_set: str) -> bool:
    """Say whether a method wants what template fitting says among its features."""
    keys = STACKS.get(feature_set, ()) if method == "stack" else ((method, feature_set),)
    return any(one in TEMPLATE_SETS and kind not in TEMPLATE_METHODS for kind, one in keys)


def _model_hash(source: Source) -> str:
    hashes = source.columns.get("model_hash")
    return "" if hashes is None else str(hashes[0])


def _train_template_method(method: str, dataset: Dataset, options: Options, target: str) -> Predictor:
    photometry, fitted = photometry_of(dataset.source), dataset.split.fitted
    train = train_templates if method == "templates" else train_lephare
    fit = train(
        photometry.take(fitted),
        dataset.value[fitted],
        dataset.source.bands,
        filters=options.filters or None,
    )
    about = {
        "zero_points": dict(zip(fit.bands, fit.zero_points.tolist(), strict=True)),
        "error_floor": fit.error_floor,
        "brightest": fit.brightest,
    }
    return Predictor(method=method, loss="", target=target, recipe=None, point=fit, about=about)


def _train_image_method(
    method: str, feature_set: str, dataset: Dataset, options: Options, target: str, progress: Progress
) -> Predictor:
    recipe = Recipe.learn(feature_set, dataset.source) if method == "hybrid" else None
    part, left_out, about = train_image_method(
        method,
        dataset,
        None if recipe is None else recipe.make(dataset.source),
        options.loss,
        options.seed,
        options.networks,
        progress=progress,
    )
    return Predictor(
        method=method,
        loss=options.loss,
        target=target,
        recipe=recipe,
        point=part,
        left_out=left_out,
        about={"num_train": len(dataset.split.fitted), **_filters_about(recipe, options), **about},
    )


def _filters_about(recipe: Recipe | None, options: Options) -> dict[str, Any]:
    is_asked = recipe is not None and recipe.name in TEMPLATE_SETS
    return {"filters": list(options.filters)} if is_asked else {}


def _train_on_features(
    method: str, recipe: Recipe, dataset: Dataset, options: Options, progress: Progress
) -> Predictor:
    """Train a method that takes a matrix of features; `train_predictor` adds what all of them have."""
    split, value = dataset.split, dataset.value
    matrix = recipe.make(dataset.source)
    fitted, known = matrix.take(split.fitted), value[split.fitted]
    made = Predictor(
        method=method,
        loss=options.loss,
        target="",
        recipe=recipe,
        point=None,
        about={"num_train": len(known), **_filters_about(recipe, options)},
    )
    if method == "constant":
        return replace(made, loss="", point=Constant(value=float(np.median(known))))
    if method == "neighbours":
        train, validation = split.train, split.validation
        asked = train_neighbours(
            matrix.take(train),
            value[train],
            matrix.take(validation),
            value[validation],
            loss=options.loss,
        )
        return replace(made, point=asked, about={**made.about, "num_neighbours": asked.num})
    if method == "tpot":
        search = TpotConfig(
            loss=options.loss,
            minutes=options.tpot_minutes,
            seed=options.seed,
            num_threads=options.num_threads,
        )
        best = train_tpot(fitted, known, search, progress=progress)
        about = {"num_pipelines": len(best.pipelines), "cross_validated_loss": best.pipelines[0]["loss"]}
        return replace(made, point=best, about={**made.about, **about})
    if method == "network":
        head = HeadConfig(loss=options.loss, seed=options.seed)
        ensemble, left_out = train_head(fitted, known, head, progress=progress)
        return replace(made, point=ensemble, left_out=replace(left_out, rows=split.fitted))
    config = BoostingConfig(
        loss=options.loss,
        num_trials=options.tuning_trials,
        seed=options.seed,
        num_threads=options.num_threads,
    )
    trees = train_boosting(fitted, known, config)
    quantiles = None
    if options.distributions:
        quantiles = train_quantiles(
            fitted,
            known,
            spread=spread_of(fitted, dataset.source.take(split.fitted)),
            seed=options.seed,
            num_threads=options.num_threads,
        )
    assert trees.left_out is not None
    return replace(
        made,
        point=trees,
        quantiles=quantiles,
        left_out=LeftOut(
            rows=split.fitted, point=trees.left_out, quantiles=quantiles.left_out if quantiles else None
        ),
        about={**made.about, "cross_validated_loss": min(trial["loss"] for trial in trees.trials)},
    )


def _train_stack(
    name: str, dataset: Dataset, options: Options, target: str, train_member: Trainer
) -> Predictor:
    """Join methods: weights and recalibration from what they say of objects that they did not learn from."""
    if name not in STACKS:
        raise InputError(f"no stack is called {name!r}; {nearest(name, tuple(STACKS))}")
    if not options.distributions:
        raise InputError("a stack averages distributions too: leave them on")
    members = tuple(train_member(*key) for key in STACKS[name])
    parts = common([one.left_out for one in members if one.left_out is not None])
    value = dataset.value[parts[0].rows]
    points = np.array([one.point for one in parts])
    weights = stacking_weights(points, value, options.loss)
    quantiles = []
    for member, part in zip(members, parts, strict=True):
        assert part.quantiles is not None
        own = member.quantiles if member.quantiles is not None else member.point
        raw = sorted_quantiles(np.asarray(part.quantiles, dtype=np.float64))
        quantiles.append(recalibrated(raw, own.validation_pit))
    mixed = sorted_quantiles(averaged(weights, quantiles))
    about: dict[str, Any] = {
        "num_train": len(dataset.split.fitted),
        "weights": {"-".join(key): float(one) for key, one in zip(STACKS[name], weights, strict=True)},
        "num_left_out": len(value),
    }
    return Predictor(
        method="stack",
        loss=options.loss,
        target=target,
        recipe=None,
        point=StackWeights(weights=weights, validation_pit=np.sort(pit(mixed, value))),
        members=members,
        left_out=LeftOut(rows=parts[0].rows, point=averaged(weights, list(points)), quantiles=mixed),
        about=about,
    )


def feature_sets_of(method: str, source: Source, wanted: Sequence[str] | None = None) -> list[str]:
    """Return the feature sets that a method is tried on in a table.

    The constant needs none and TPOT has the paper's latents; neighbours are asked in colour space, or in
    latent space where there are no cutouts; boosting and small networks take all; networks on images none,
    but for the hybrid's magnitudes.
    """
    available = source.available()
    if wanted:
        return [name for name in wanted if name in available or method in ("boosting", "network", "stack")]
    if method in ("tpot", "constant"):
        return ["latents"]
    if method == "hybrid":
        return ["templates" if "templates" in available else "magnitudes"]
    if method == "stack":
        return [name for name, keys in STACKS.items() if all(f in available for _, f in keys)]
    if method == "neighbours":
        return ["magnitudes"] if "magnitudes" in available else ["latents"]
    return available
