"""A trained method with everything that it needs to be used on other objects, in memory and on disk.

Shapes: N objects, K features, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.files import read_json, write_json
from deepfits.progress import Progress, silent
from deepfits.redshifts.boosting import BoostedTrees, BoostingConfig, train_boosting
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import Matrix, Recipe, Source
from deepfits.redshifts.neighbours import Neighbours, train_neighbours
from deepfits.redshifts.pdf import point_estimates
from deepfits.redshifts.quantiles import BoostedQuantiles, train_quantiles
from deepfits.redshifts.templates import Photometry, TemplateFit, train_templates
from deepfits.redshifts.tpot_search import TpotConfig, TpotModel, train_tpot

METHODS = ("constant", "boosting", "tpot", "neighbours", "templates")
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What training any method may be told.

    Attributes
    ----------
    loss
        ``"squared"`` or ``"absolute"``.
    distributions
        Whether to learn p(z) too, where the method can.
    tuning_trials, tpot_minutes
        How much tuning.
    filters
        speclite names for template fitting; by default those of CLAUDS and HSC.
    """

    loss: str = "squared"
    distributions: bool = True
    tuning_trials: int = 6
    tpot_minutes: float = 1.0
    filters: tuple[str, ...] = ()
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same estimate for everybody: the floor of every table."""

    value: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return `value` for each row."""
        return np.full(len(features), self.value)

    def save(self, directory: str | Path) -> None:
        """Write ``constant.json``."""
        write_json(Path(directory) / "constant.json", {"value": self.value})

    @classmethod
    def load(cls, directory: str | Path) -> Constant:
        """Read back `save`."""
        content = read_json(Path(directory) / "constant.json", what="constant")
        return cls(value=float(content["value"]))


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained method.

    Attributes
    ----------
    method, loss, target
        What it is.
    recipe
        How features are made; None for template fitting, which takes fluxes.
    point
        What gives the point estimates.
    quantiles
        What gives distributions, where the method has a part of its own for them.
    domain
        The labelled objects' place in feature space.
    model_hash
        Of the model that the features were fitted with; other features are refused.
    about
        Figures of the training.
    """

    method: str
    loss: str
    target: str
    recipe: Recipe | None
    point: Any
    quantiles: BoostedQuantiles | None = None
    domain: Domain | None = None
    model_hash: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def predict(self, source: Source) -> dict[str, np.ndarray]:
        """Return a column of point estimates `z_phot`, and what else the method gives, ``(N,)`` each.

        With distributions: `quantiles` ``(N, Q)``, and `z_mean`, `z_median`, `z_mode`, `z_err68_low` and so
        on.
        With a domain: `domain_distance` and `is_outside_domain`.

        Raises
        ------
        InputError
            The objects' features are not those that the method was trained on.
        """
        if self.method == "templates":
            photometry = _photometry(source)
            quantiles = self.point.predict_quantiles(photometry)
            return {"z_phot": self.point.predict(photometry), **_distribution_columns(quantiles)}
        assert self.recipe is not None
        self._check_model(source)
        matrix = self.recipe.make(source)
        out = {"z_phot": self.point.predict(matrix.values)}
        if self.method == "neighbours":
            out |= _distribution_columns(self.point.predict_quantiles(matrix.values))
        elif self.quantiles is not None:
            out |= _distribution_columns(self.quantiles.predict(matrix.values, _spread(matrix, source)))
        if self.domain is not None:
            out["domain_distance"] = self.domain.distance(matrix.values)
            out["is_outside_domain"] = out["domain_distance"] > self.domain.limit
        return out

    def _check_model(self, source: Source) -> None:
        hashes = source.columns.get("model_hash")
        if self.model_hash and hashes is not None and len(hashes) and (hashes != self.model_hash).any():
            raise InputError(
                f"these features were fitted with model {hashes[hashes != self.model_hash][0]}, the "
                f"redshifts were trained on model {self.model_hash}; fit with that one, "
                "or train the redshifts again"
            )

    def save(self, directory: str | Path) -> None:
        """Write the parts, then ``predictor.json``."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for part in (self.point, self.quantiles, self.domain):
            if part is not None:
                part.save(directory)
        content = {
            "schema_version": SCHEMA_VERSION,
            "method": self.method,
            "loss": self.loss,
            "target": self.target,
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "has_quantiles": self.quantiles is not None,
            "has_domain": self.domain is not None,
            "model_hash": self.model_hash,
            "about": self.about,
        }
        write_json(directory / "predictor.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> Predictor:
        """Read back `save`.

        Raises
        ------
        InputError
            No predictor there, or a damaged one.
        """
        path = Path(directory) / "predictor.json"
        content = read_json(path, what="redshift model (predictor.json)")
        if content.get("schema_version") != SCHEMA_VERSION or content.get("method") not in METHODS:
            raise InputError(f"{path}: not a redshift model of this version; train again")
        try:
            return cls(
                method=content["method"],
                loss=content["loss"],
                target=content["target"],
                recipe=None if content["recipe"] is None else Recipe.from_json(content["recipe"]),
                point=_PARTS[content["method"]].load(directory),
                quantiles=BoostedQuantiles.load(directory) if content["has_quantiles"] else None,
                domain=Domain.load(directory) if content["has_domain"] else None,
                model_hash=content["model_hash"],
                about=content["about"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: not a redshift model ({error}); train again") from error


_PARTS: Mapping[str, Any] = {
    "constant": Constant,
    "boosting": BoostedTrees,
    "tpot": TpotModel,
    "neighbours": Neighbours,
    "templates": TemplateFit,
}


def _photometry(source: Source) -> Photometry:
    if source.flux is None or source.flux_err is None:
        raise InputError("template fitting needs the cutouts: give the store")
    return Photometry.of_apertures(source.flux, source.flux_err, source.bands)


def _distribution_columns(quantiles: np.ndarray) -> dict[str, np.ndarray]:
    return {"quantiles": quantiles.astype(np.float32), **point_estimates(quantiles)}


def _spread(matrix: Matrix, source: Source) -> np.ndarray | None:
    """Return the uncertainty of each feature, ``(N, K)``: the latent's where there is one, else 0."""
    known = source.columns.get("latent_std")
    if known is None or not matrix.names[0].startswith("latent_") or not np.isfinite(known).any():
        return None
    out = np.zeros_like(matrix.values)
    out[:, : known.shape[1]] = known
    return out


def train_predictor(
    method: str,
    feature_set: str,
    dataset: Dataset,
    options: Options,
    *,
    target: str = "z_spec",
    progress: Progress = silent,
) -> Predictor:
    """Train one method on the training and validation parts of a data set.

    Raises
    ------
    InputError
        An unknown method, or features that cannot be made.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; {nearest(method, METHODS)}")
    split, value = dataset.split, dataset.value
    if method == "templates":
        photometry = _photometry(dataset.source)
        fit = train_templates(
            photometry.take(split.fitted),
            value[split.fitted],
            dataset.source.bands,
            filters=options.filters or None,
        )
        about = {"zero_points": dict(zip(fit.bands, fit.zero_points.tolist(), strict=True))}
        return Predictor(method=method, loss="", target=target, recipe=None, point=fit, about=about)
    recipe = Recipe.learn(feature_set, dataset.source)
    matrix = recipe.make(dataset.source)
    fitted, fitted_value = matrix.take(split.fitted), value[split.fitted]
    point, quantiles, about = _train_parts(method, matrix, dataset, options, progress)
    domain = Domain.learn(fitted.values) if method != "constant" else None
    hashes = dataset.source.columns.get("model_hash")
    return Predictor(
        method=method,
        loss="" if method == "constant" else options.loss,
        target=target,
        recipe=recipe,
        point=point,
        quantiles=quantiles,
        domain=domain,
        model_hash="" if hashes is None else str(hashes[0]),
        about={"num_train": len(fitted_value), **about},
    )


def _train_parts(
    method: str, matrix: Matrix, dataset: Dataset, options: Options, progress: Progress
) -> tuple[Any, BoostedQuantiles | None, dict[str, Any]]:
    split, value = dataset.split, dataset.value
    fitted, fitted_value = matrix.take(split.fitted), value[split.fitted]
    parts = (
        matrix.take(split.train),
        value[split.train],
        matrix.take(split.validation),
        value[split.validation],
    )
    if method == "constant":
        return Constant(value=float(np.median(fitted_value))), None, {}
    if method == "neighbours":
        asked = train_neighbours(*parts, loss=options.loss)
        return asked, None, {"num_neighbours": asked.num}
    if method == "tpot":
        search = TpotConfig(
            loss=options.loss,
            minutes=options.tpot_minutes,
            seed=options.seed,
            num_threads=options.num_threads,
        )
        best = train_tpot(fitted, fitted_value, search, progress=progress)
        about = {"num_pipelines": len(best.pipelines), "cross_validated_loss": best.pipelines[0]["loss"]}
        return best, None, about
    config = BoostingConfig(
        loss=options.loss,
        num_trials=options.tuning_trials,
        seed=options.seed,
        num_threads=options.num_threads,
    )
    trees = train_boosting(fitted, fitted_value, config)
    quantiles = None
    if options.distributions:
        quantiles = train_quantiles(
            fitted,
            fitted_value,
            spread=_spread(fitted, dataset.source.take(split.fitted)),
            seed=options.seed,
            num_threads=options.num_threads,
        )
    return trees, quantiles, {"cross_validated_loss": min(trial["loss"] for trial in trees.trials)}


def feature_sets_of(method: str, source: Source, wanted: Sequence[str] | None = None) -> list[str]:
    """Return the feature sets that a method is tried on in a table.

    The constant needs none and TPOT has the paper's latents; neighbours are asked in colour space, or in
    latent space where there are no cutouts; boosting takes all.
    """
    available = source.available()
    if wanted:
        return [name for name in wanted if name in available or method == "boosting"]
    if method in ("tpot", "constant"):
        return ["latents"]
    if method == "neighbours":
        return ["magnitudes"] if "magnitudes" in available else ["latents"]
    return available
