"""A trained method with everything that it needs to be used on other objects, in memory and on disk.

Shapes: N objects, K features, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json
from deepfits.redshifts.boosting import BoostedTrees
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import Matrix, Recipe, Source
from deepfits.redshifts.head import HeadEnsemble
from deepfits.redshifts.image_methods import IMAGE_METHODS, ImageMethod, NetworkOptions
from deepfits.redshifts.left_out import LeftOut
from deepfits.redshifts.lephare import LephareFit
from deepfits.redshifts.neighbours import Neighbours
from deepfits.redshifts.pdf import LEVELS, point_estimates, recalibrated, sorted_quantiles
from deepfits.redshifts.quantiles import BoostedQuantiles
from deepfits.redshifts.stack import averaged
from deepfits.redshifts.templates import Photometry, TemplateFit
from deepfits.redshifts.tpot_search import TpotModel

FEATURE_METHODS = ("constant", "boosting", "network", "tpot", "neighbours")
TEMPLATE_METHODS = ("templates", "lephare")
METHODS = (*FEATURE_METHODS, *TEMPLATE_METHODS, *IMAGE_METHODS, "stack")
"""In the order of the table."""
SCHEMA_VERSION = 2
MEDIAN = int(np.argmin(np.abs(LEVELS - 0.5)))


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
    networks
        Budget of the networks that learn from images, and the model that they start from.
    """

    loss: str = "squared"
    distributions: bool = True
    tuning_trials: int = 6
    tpot_minutes: float = 1.0
    filters: tuple[str, ...] = ()
    networks: NetworkOptions = field(default_factory=NetworkOptions)
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
class StackWeights:
    """How much each member of a stack counts: ``(M,)``; and the PIT values for recalibration, ``(V,)``."""

    weights: np.ndarray
    validation_pit: np.ndarray

    def save(self, directory: str | Path) -> None:
        """Write ``stack.json``."""
        content = {"weights": self.weights.tolist(), "validation_pit": self.validation_pit.tolist()}
        write_json(Path(directory) / "stack.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> StackWeights:
        """Read back `save`."""
        content = read_json(Path(directory) / "stack.json", what="weights of a stack")
        return cls(**{name: np.array(content[name]) for name in ("weights", "validation_pit")})


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
    members
        Of a stack: the methods that it joins.
    left_out
        What the method says of labelled objects that it did not learn from, where it can.
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
    members: tuple[Predictor, ...] = ()
    left_out: LeftOut | None = None
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
        if self.method in TEMPLATE_METHODS:
            photometry = photometry_of(source)
            raw, quantiles = self.point.predict_both(photometry)
            return {"z_phot": raw[:, MEDIAN], **_distribution_columns(quantiles)}
        if self.method == "stack":
            return self._predict_stack(source)
        matrix = None
        if self.recipe is not None:
            self._check_model(source)
            matrix = self.recipe.make(source)
        if self.method in IMAGE_METHODS:
            point, quantiles = self.point.predict_both(source, matrix)
            return {"z_phot": point, **_distribution_columns(quantiles)}
        assert matrix is not None
        out = self._predict_features(matrix, source)
        if self.domain is not None:
            out["domain_distance"] = self.domain.distance(matrix.values)
            out["is_outside_domain"] = out["domain_distance"] > self.domain.limit
        return out

    def _predict_features(self, matrix: Matrix, source: Source) -> dict[str, np.ndarray]:
        if self.method == "network":
            point, quantiles = self.point.predict_both(matrix.values)
            return {"z_phot": point, **_distribution_columns(self.point.calibrated(quantiles))}
        out = {"z_phot": self.point.predict(matrix.values)}
        if self.method == "neighbours":
            out |= _distribution_columns(self.point.predict_quantiles(matrix.values))
        elif self.quantiles is not None:
            out |= _distribution_columns(self.quantiles.predict(matrix.values, spread_of(matrix, source)))
        return out

    def _predict_stack(self, source: Source) -> dict[str, np.ndarray]:
        """Average the members; where an object lies outside is what the first member with a domain says."""
        found = [one.predict(source) for one in self.members]
        weights = self.point.weights
        out = {"z_phot": averaged(weights, [one["z_phot"] for one in found])}
        quantiles = averaged(weights, [one["quantiles"] for one in found])
        out |= _distribution_columns(recalibrated(sorted_quantiles(quantiles), self.point.validation_pit))
        known = [one for one in found if "domain_distance" in one]
        if known:
            out |= {name: known[0][name] for name in ("domain_distance", "is_outside_domain")}
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
        for part in (self.point, self.quantiles, self.domain, self.left_out):
            if part is not None:
                part.save(directory)
        for number, member in enumerate(self.members):
            member.save(directory / f"member-{number}")
        content = {
            "schema_version": SCHEMA_VERSION,
            "method": self.method,
            "loss": self.loss,
            "target": self.target,
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "has_quantiles": self.quantiles is not None,
            "has_domain": self.domain is not None,
            "has_left_out": self.left_out is not None,
            "num_members": len(self.members),
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
                members=tuple(
                    cls.load(Path(directory) / f"member-{number}") for number in range(content["num_members"])
                ),
                left_out=LeftOut.load(directory) if content["has_left_out"] else None,
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
    "lephare": LephareFit,
    "network": HeadEnsemble,
    "stack": StackWeights,
    **dict.fromkeys(IMAGE_METHODS, ImageMethod),
}


def photometry_of(source: Source) -> Photometry:
    """Return what template fitting takes."""
    if source.flux is None or source.flux_err is None:
        raise InputError("template fitting needs the cutouts: give the store")
    return Photometry.of_apertures(source.flux, source.flux_err, source.bands)


def _distribution_columns(quantiles: np.ndarray) -> dict[str, np.ndarray]:
    return {"quantiles": quantiles.astype(np.float32), **point_estimates(quantiles)}


def spread_of(matrix: Matrix, source: Source) -> np.ndarray | None:
    """Return the uncertainty of each feature, ``(N, K)``: the latent's where there is one, else 0."""
    known = source.columns.get("latent_std")
    if known is None or not matrix.names[0].startswith("latent_") or not np.isfinite(known).any():
        return None
    out = np.zeros_like(matrix.values)
    out[:, : known.shape[1]] = known
    return out
