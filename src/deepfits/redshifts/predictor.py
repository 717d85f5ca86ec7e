"""A trained method with everything needed to apply it to other objects, in memory and on disk.

Shapes: N objects, K features, Q quantile levels.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import FeatureRecipe, Source
from deepfits.redshifts.method import Method, OutOfFold, Training
from deepfits.redshifts.pdf import point_estimates, sorted_quantiles
from deepfits.tables.values import is_redshift_name


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained method, stored by `deepfits.redshifts.storage`, which can load all imported methods."""

    method: Method
    loss: str
    target: str  # name of the target's column in training
    recipe: FeatureRecipe | None = None  # how features are made; None for methods that take none
    domain: Domain | None = None  # domain of the labelled objects in feature space
    # Fingerprint of the model that the features were fitted with; features of other models are rejected.
    model_hash: str = ""
    filters: tuple[str, ...] = ()  # speclite names of the bands' filters in training, for template features
    # Out-of-fold estimates of the labelled objects, for methods that have them.
    out_of_fold: OutOfFold | None = None
    # Number of training objects, the target's `unit` if known, and further information on the training.
    about: dict[str, Any] = field(default_factory=dict)

    def predict(self, source: Source) -> dict[str, np.ndarray]:
        """Return the columns of the predictions, ``(N,)`` each unless stated otherwise.

        There are the point estimates `z_phot`; for distributions, `quantiles`, ``(N, Q)``, and `z_mean`,
        `z_median`, `z_mode`, `z_err68_low` and so on; with a domain, `domain_distance` and
        `is_outside_domain`; and any further columns of the method.
        """
        self._check_model(source)
        features = None if self.recipe is None else self.recipe.make(source)
        estimates = self.method.predict(source, features)
        out = {"z_phot": estimates.point}
        if estimates.quantiles is not None:
            quantiles = estimates.quantiles
            if is_redshift_name(self.target):  # the tails, once recalibrated, may extend below
                quantiles = sorted_quantiles(np.maximum(quantiles, 0))
            out["quantiles"] = quantiles.astype(np.float32)
            out |= point_estimates(quantiles)
        out |= estimates.columns
        if self.domain is not None and features is not None:
            out |= self.domain.flags(features.values)
        return out

    def _check_model(self, source: Source) -> None:
        hashes = source.columns.get("model_hash")
        if self.model_hash and hashes is not None and len(hashes) and (hashes != self.model_hash).any():
            raise InputError(
                f"these features were fitted with model {hashes[hashes != self.model_hash][0]}, but the "
                f"redshifts were trained on fits of model {self.model_hash}; fit with the latter, "
                "or train the redshifts again"
            )


def train_predictor(method: type[Method], target: str, training: Training) -> Predictor:
    """Make the features of a data set, and train one method on its training and validation parts."""
    dataset, recipe, domain = training.dataset, None, None
    if method.takes_features:
        recipe = FeatureRecipe.learn(training.feature_set, dataset.source)
        training = replace(training, features=recipe.make(dataset.source))
        if method.flags_domain:
            domain = Domain.learn(training.matrix.values, training.matrix.is_latent)
    trained = method.fit(training)
    return Predictor(
        method=trained.method,
        loss=training.loss if method.has_loss else "",
        target=target,
        recipe=recipe,
        domain=domain,
        model_hash=dataset.model_hash if recipe is not None or method.reads_scenes else "",
        filters=tuple(training.options.filters),
        out_of_fold=trained.out_of_fold,
        about={"num_train": len(training.rows), "unit": dataset.unit, **trained.about},
    )
