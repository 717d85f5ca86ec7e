"""Redshifts without labels, from a head trained on simulated galaxies.

Shapes: N objects, Q quantile levels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepfits.errors import InputError
from deepfits.redshifts.features import Matrix, Source, check_available
from deepfits.redshifts.head import CLASSES, Head, head_directory, point_of, quantiles_of
from deepfits.redshifts.method import Estimates, Inputs, Method, Trained, Training
from deepfits.redshifts.naming import class_columns
from deepfits.redshifts.scene_light import SceneLight
from deepfits.splits import in_batches


@dataclass(frozen=True, kw_only=True)
class HeadMethod(Method):
    """Base of the methods that use a head: they read redshifts off scenes, however few labels there are."""

    takes_features: ClassVar[bool] = False
    usual_loss: ClassVar[str] = "absolute"
    only_redshifts: ClassVar[bool] = True
    reads_scenes: ClassVar[bool] = True
    fewest_labels: ClassVar[int] = 1

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require fits by a model of scenes, and a head for that model."""
        super().check(feature_set, inputs)
        check_available("scene", inputs.feature_sets)
        find_head(inputs.options.head, inputs.model_hash)


@dataclass(frozen=True, kw_only=True)
class Pretrained(HeadMethod):
    """A head that has seen no labels.

    The point estimate is the mean of p(z) for the loss ``"squared"`` and the median for ``"absolute"``.
    """

    name: ClassVar[str] = "pretrained"

    head: Head
    loss: str = "absolute"

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Take the head unchanged."""
        head = find_head(training.options.head, training.dataset.model_hash)
        return Trained(method=cls(head=head, loss=training.loss), about={"num_train": 0})

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return p(z), the point estimate for the loss, the domain flags and the class."""
        hashes = source.columns.get("model_hash", np.empty(0, dtype=str))
        for model_hash in np.unique(hashes).tolist():
            _require_model(self.head, str(model_hash), "this head")
        light = SceneLight.of(source, self.head.bands)

        def of(part: SceneLight) -> list[np.ndarray]:
            density, kinds = self.head.densities(part)
            return [point_of(density, self.loss), quantiles_of(density), kinds]

        point, quantiles, kinds = in_batches(of, light)
        columns = domain_and_class(self.head, light, kinds)
        return Estimates(point=point, quantiles=quantiles, columns=columns)


def domain_and_class(head: Head, light: SceneLight, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Return columns of the distance from the simulated galaxies' domain, and of the class."""
    return head.domain.flags(head.inputs(light)) | class_columns(kinds, CLASSES)


def find_head(head: str | Path | None, model_hash: str) -> Head:
    """Return the given head, or the one that ships with the model of the features."""
    if head is None:
        return Head.load(head_directory(model_hash))
    loaded = Head.load(head)
    _require_model(loaded, model_hash, str(head))
    return loaded


def _require_model(head: Head, model_hash: str, name: str) -> None:
    """Raise `InputError` where the head does not serve the model of the features."""
    if not head.is_for(model_hash):
        raise InputError(
            f"{name}: trained on fits of model {head.model_hash}, the features are of model {model_hash}; "
            "fit with the former, or train a head for the latter (`deepfits redshift pretrain`)"
        )
