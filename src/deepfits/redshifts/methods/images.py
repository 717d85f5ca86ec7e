"""Networks that learn from the images themselves.

Shapes: N objects, B bands, H = W pixels, K features, Q quantile levels.

``wide_resnet``
    the supervised baseline of M19 §3.3, from scratch;
``semi_supervised``
    the future work of M19: the model's embedder, learned without labels, goes on learning with the few labels
    and a small head, while the generator stays as it is;
``scratch``
    the same network with random first weights: what the training without labels is worth;
``hybrid``
    the embedder as in ``semi_supervised``, and beside its latents a set of features for the head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
    standardised,
    train_network,
)
from deepfits.redshifts.pdf import pit, recalibrated

if TYPE_CHECKING:
    from deepfits.models.bundle import Model
    from deepfits.survey.normalise import Normalisation


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a network starts from. Without weights of its embedder it has random ones."""

    architecture: Architecture
    normalisation: Normalisation
    embedder: dict[str, Any] | None = None
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImageNetwork(Method):
    """A network on images: trained on the training part, stopped and recalibrated by the validation part.

    The normalisation, between nJy and the network's units, is as JSON can hold it; the standard is that of
    the features, where it takes some, and the PIT, ``(V,)``, of the validation part.
    """

    takes_features: ClassVar[bool] = False
    flags_domain: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 2e-3

    network: TrainedNetwork
    normalisation: dict[str, Any]
    standard: Standard | None
    validation_pit: np.ndarray
    device: str = "cpu"

    @classmethod
    def rows(cls, inputs: Inputs, wanted: Sequence[str] | None) -> list[str]:
        """Once, on the images."""
        return ["images"]

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require the cutouts, and the features that it takes."""
        inputs.require_cutouts(cls.name)
        super().check(feature_set, inputs)

    @classmethod
    @abstractmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Return where to start from; `image` and `weight` are those of the training part."""

    @classmethod
    def fit(cls, training: Training) -> Trained[Self]:
        """Train on the training part, stop and recalibrate by the validation part."""
        import torch

        from deepfits.models.layers import count_parameters

        options, rows = training.options, training.rows
        image, weight = training.dataset.source.take(rows).images()
        is_validation = np.isin(rows, training.dataset.split.validation)
        standard, features = None, []
        if training.features is not None:
            standard = Standard.learn(training.matrix.values)
            features = [standardised(standard, training.matrix.values)]
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
        """Show the network the images, and beside them the features."""
        from deepfits.survey.normalise import Normalisation

        image, _ = source.images()
        inputs = [Normalisation.from_json(self.normalisation).normalise(image).astype(np.float32)]
        if features is not None and self.standard is not None:
            inputs.append(standardised(self.standard, features.values))
        point, quantiles = self.network.predict(*inputs, device=self.device)
        return Estimates(point=point, quantiles=recalibrated(quantiles, self.validation_pit))


@dataclass(frozen=True, kw_only=True)
class WideResNetOnImages(ImageNetwork):
    """The supervised baseline of M19 §3.3."""

    name: ClassVar[str] = "wide_resnet"

    @classmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Start from random weights, in units that the training images give."""
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
    """The model's embedder, fine-tuned with the labels."""

    name: ClassVar[str] = "semi_supervised"
    learning_rate: ClassVar[float] = 1e-3
    starts_from_model: ClassVar[bool] = True

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require a model of the same bands and size."""
        super().check(feature_set, inputs)
        _model_for(cls.name, inputs)

    @classmethod
    def start(cls, training: Training, image: np.ndarray, weight: np.ndarray, num_features: int) -> Start:
        """Start from the model's embedder, or the same network with random weights."""
        bands = training.dataset.source.bands
        inputs = Inputs(bands=bands, pixels=image.shape[-1], feature_sets=(), options=training.options)
        model = _model_for(cls.name, inputs)
        kind = "hybrid" if cls.takes_features else "embedder"
        return Start(
            architecture=Architecture(kind=kind, settings=model.config.to_json(), num_features=num_features),
            normalisation=model.normalisation,
            embedder=model.embedder.state_dict() if cls.starts_from_model else None,
            about={"model_hash": model.fingerprint},
        )


@dataclass(frozen=True, kw_only=True)
class Scratch(SemiSupervised):
    """The same network with random first weights."""

    name: ClassVar[str] = "scratch"
    learning_rate: ClassVar[float] = 2e-3
    starts_from_model: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Hybrid(SemiSupervised):
    """The embedder, and beside its latents a set of features."""

    name: ClassVar[str] = "hybrid"
    takes_features: ClassVar[bool] = True

    @classmethod
    def rows(cls, inputs: Inputs, wanted: Sequence[str] | None) -> list[str]:
        """Beside magnitudes, with what template fitting says where that is wanted."""
        return ["templates" if "templates" in inputs.feature_sets else "magnitudes"]


def _model_for(method: str, inputs: Inputs) -> Model:
    """Return the model to start from.

    Raises
    ------
    InputError
        No model is given, or it is for other cutouts.
    """
    from deepfits.models.bundle import Model

    path = inputs.options.model
    if path is None:
        raise InputError(f"the method {method} needs a trained model: give `model`")
    model = Model.load(path)
    if (inputs.bands, inputs.pixels) != (tuple(model.info.bands), model.info.size):
        raise InputError(
            f"{path}: this model is for {model.info.size} pixels of the bands {model.info.bands}, the "
            f"cutouts have {inputs.pixels} pixels of the bands {inputs.bands}"
        )
    return model
