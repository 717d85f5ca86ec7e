"""Networks that learn from the images themselves.

Shapes: N objects, B bands, H = W pixels, K features, Q quantile levels.

``wide_resnet``
    the supervised baseline of M19 §3.3, trained from scratch;
``semi_supervised``
    the future work of M19: the model's embedder, trained without labels, is fine-tuned on the few labels with
    a small head, while the generator is unchanged;
``scratch``
    the same network from random initial weights, to measure the value of training without labels;
``hybrid``
    as ``semi_supervised``, with a feature set concatenated to the embedder's latents as input to the head.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deepfits.errors import InputError
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import Standard
from deepfits.redshifts.method import Estimates, Inputs, Method, OutOfFold, Trained, Training
from deepfits.redshifts.networks import (
    NUM_OUTPUTS,
    Architecture,
    NetworkConfig,
    TrainedNetwork,
    train_network,
)
from deepfits.redshifts.pdf import pit, recalibrated

if TYPE_CHECKING:
    from deepfits.models.bundle import Model
    from deepfits.survey.normalise import Normalisation


@dataclass(frozen=True, kw_only=True)
class Start:
    """Starting point of a network; the embedder's weights are random if `embedder` is None."""

    architecture: Architecture
    normalisation: Normalisation
    embedder: dict[str, Any] | None = None
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImageNetwork(Method):
    """A network on images, with early stopping and recalibration on the validation part."""

    takes_features: ClassVar[bool] = False
    flags_domain: ClassVar[bool] = False
    one_of: ClassVar[tuple[str, ...]] = ("images",)
    learning_rate: ClassVar[float] = 2e-3

    network: TrainedNetwork
    normalisation: dict[str, Any]  # conversion from nJy to the network's units, in JSON form
    standard: Standard | None  # standardisation of the features; None for networks without features
    validation_pit: np.ndarray  # (V,): PIT values of the validation part, for recalibration
    device: str = "cpu"

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require the cutouts, and the features if the method takes any."""
        inputs.require_cutouts(cls.name)
        super().check(feature_set, inputs)

    @classmethod
    @abstractmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Return the starting point; `image` and `weight` are those of the training part."""

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Train on the training part, with early stopping and recalibration on the validation part."""
        import torch

        from deepfits.models.layers import count_parameters

        options, rows = training.options, training.rows
        image, weight = training.dataset.source.take(rows).images()
        is_validation = np.isin(rows, training.dataset.split.validation)
        standard, features = None, []
        if training.features is not None:
            standard = Standard.learn(training.matrix.values)
            features = [standard.clipped(training.matrix.values).astype(np.float32)]
        num_features = sum(block.shape[1] for block in features)
        start = cls.start(training, image[~is_validation], weight[~is_validation], num_features)
        inputs = [start.normalisation.normalise(image).astype(np.float32), *features, training.value]
        train, validation = (
            tuple(block[part] for block in inputs) for part in (~is_validation, is_validation)
        )
        config = NetworkConfig(
            loss=training.loss,
            epochs=options.network_epochs,
            max_minutes=options.network_minutes,
            learning_rate=cls.learning_rate,
            seed=options.seed,
            device=options.device,
        )
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            network = start.architecture.build()
            if start.embedder is not None:
                embedder = network.embedder if cls.takes_features else network[0]
                embedder.load_state_dict(start.embedder)
            trained = train_network(
                start.architecture, train, validation, config, network=network, progress=training.progress
            )
        point, quantiles = trained.predict(*validation[:-1], device=options.device)
        transform = np.sort(pit(quantiles, validation[-1]))
        quantiles = recalibrated(quantiles, transform)
        method = cls(
            network=trained,
            normalisation=start.normalisation.to_json(),
            standard=standard,
            validation_pit=transform,
            device=options.device,
        )
        about = {
            **start.about,
            "num_parameters": count_parameters(network),
            "epochs": len(trained.history),
            "training": asdict(config),
        }
        out_of_fold = OutOfFold(rows=rows[is_validation], point=point, quantiles=quantiles)
        return Trained(method=method, out_of_fold=out_of_fold, about=about)

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Evaluate the network on images, and on features if the method takes any."""
        from deepfits.survey.normalise import Normalisation

        image, _ = source.images()
        inputs = [Normalisation.from_json(self.normalisation).normalise(image).astype(np.float32)]
        if features is not None and self.standard is not None:
            inputs.append(self.standard.clipped(features.values).astype(np.float32))
        point, quantiles = self.network.predict(*inputs, device=self.device)
        return Estimates(point=point, quantiles=recalibrated(quantiles, self.validation_pit))


@dataclass(frozen=True, kw_only=True)
class WideResNetOnImages(ImageNetwork):
    """The supervised baseline of M19 §3.3."""

    name: ClassVar[str] = "wide_resnet"

    @classmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Start from random weights, with a normalisation measured from the training images."""
        from deepfits.models.wide_resnet import WideResNetConfig
        from deepfits.survey.normalise import measure_normalisation

        config = WideResNetConfig(
            num_bands=image.shape[1], num_outputs=NUM_OUTPUTS, width=training.options.wide_resnet_width
        )
        return Start(
            architecture=Architecture(kind="wide_resnet", settings=asdict(config)),
            normalisation=measure_normalisation(image, weight, "asinh"),
            about={"num_layers": config.num_layers},
        )


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(ImageNetwork):
    """The model's embedder, fine-tuned on the labels."""

    name: ClassVar[str] = "semi_supervised"
    learning_rate: ClassVar[float] = 1e-3
    starts_from_model: ClassVar[bool] = True

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require a model of the same bands and size."""
        super().check(feature_set, inputs)
        _model_for(cls.name, inputs.options.model, inputs.bands, inputs.pixels)

    @classmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Start from the model's embedder, or from the same architecture with random weights."""
        bands, pixels = training.dataset.source.bands, image.shape[-1]
        model = _model_for(cls.name, training.options.model, bands, pixels)
        kind = "hybrid" if cls.takes_features else "embedder"
        return Start(
            architecture=Architecture(kind=kind, settings=model.config.to_json(), num_features=num_features),
            normalisation=model.normalisation,
            embedder=model.embedder.state_dict() if cls.starts_from_model else None,
            about={"model_hash": model.fingerprint},
        )


@dataclass(frozen=True, kw_only=True)
class Scratch(SemiSupervised):
    """The network of `SemiSupervised`, trained from random weights."""

    name: ClassVar[str] = "scratch"
    learning_rate: ClassVar[float] = 2e-3
    starts_from_model: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Hybrid(SemiSupervised):
    """The embedder, with features concatenated to its latents."""

    name: ClassVar[str] = "hybrid"
    takes_features: ClassVar[bool] = True
    one_of: ClassVar[tuple[str, ...]] = ("templates", "magnitudes")


def _model_for(method: str, path: str | Path | None, bands: tuple[str, ...], pixels: int | None) -> Model:
    """Return the model to start from, which must be for cutouts of these bands and this size."""
    from deepfits.models.bundle import Model

    if path is None:
        raise InputError(f"the method {method} needs a trained model: give `model`")
    model = Model.load(path)
    if (bands, pixels) != (tuple(model.info.bands), model.info.size):
        raise InputError(
            f"{path}: this model is for cutouts of {model.info.size} pixels in the bands "
            f"{'-'.join(model.info.bands)}, these have {pixels} pixels and the bands {'-'.join(bands)}"
        )
    return model
