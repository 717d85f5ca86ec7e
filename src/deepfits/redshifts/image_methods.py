"""Methods that learn from the images themselves, as a part of a predictor.

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

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.head import learn_standard, standardised
from deepfits.redshifts.images import NUM_OUTPUTS, ImageConfig, ImageRegressor, TargetScale, train_images
from deepfits.redshifts.left_out import LeftOut
from deepfits.redshifts.pdf import pit, recalibrated

IMAGE_METHODS = ("wide_resnet", "semi_supervised", "scratch", "hybrid")
HEAD_CHANNELS = 64
HYBRID_CHANNELS = 192
_RATES = {"wide_resnet": 2e-3, "semi_supervised": 1e-3, "scratch": 2e-3, "hybrid": 1e-3}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Size and budget of the networks.

    Attributes
    ----------
    width
        Channels of the Wide ResNet's first stage; 64 is the paper's, 8 or 16 are for CPUs.
    epochs, minutes
        Passes and time at most.
    model
        Directory of the model whose embedder all but the Wide ResNet have.
    """

    width: int = 64
    epochs: int = 60
    minutes: float = 60.0
    model: str | Path | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ImageMethod:
    """A trained network with what it needs to be used.

    Attributes
    ----------
    regressor
        The network.
    method
        One of `IMAGE_METHODS`.
    architecture
        The network's configuration, as JSON can hold it.
    normalisation
        Between nJy and the network's units, as JSON can hold it.
    centre, spread
        ``(K,)``: of the features, for ``hybrid``; else empty.
    validation_pit
        ``(V,)``: of the validation part, for recalibration.
    """

    regressor: ImageRegressor
    method: str
    architecture: dict[str, Any]
    normalisation: dict[str, Any]
    centre: np.ndarray
    spread: np.ndarray
    validation_pit: np.ndarray
    device: str = "cpu"

    def predict_both(self, source: Source, matrix: Matrix | None) -> tuple[np.ndarray, np.ndarray]:
        """Return estimates ``(N,)`` and recalibrated quantiles ``(N, Q)``."""
        from deepfits.survey.normalise import Normalisation

        image, _ = source.images()
        inputs = [Normalisation.from_json(self.normalisation).normalise(image).astype(np.float32)]
        if matrix is not None:
            inputs.append(standardised(matrix.values, self.centre, self.spread))
        point, quantiles = self.regressor.predict_both(*inputs, device=self.device)
        assert quantiles is not None
        return point, recalibrated(quantiles, self.validation_pit)

    def save(self, directory: str | Path) -> None:
        """Write ``weights.safetensors`` and ``image_method.json``."""
        from safetensors.torch import save_file

        directory = Path(directory)
        tensors = {n: t.contiguous().cpu() for n, t in self.regressor.network.state_dict().items()}
        with writing(directory / "weights.safetensors") as temporary:
            save_file(tensors, temporary)
        content = {
            "method": self.method,
            "architecture": self.architecture,
            "normalisation": self.normalisation,
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "scale": asdict(self.regressor.scale),
            "history": self.regressor.history,
            "validation_pit": self.validation_pit.tolist(),
        }
        write_json(directory / "image_method.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> ImageMethod:
        """Read back `save`.

        Raises
        ------
        InputError
            The files are damaged or do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        content = read_json(directory / "image_method.json", what="description of a network")
        try:
            network = make_network(content["method"], content["architecture"], len(content["centre"]))
            network.load_state_dict(load_file(directory / "weights.safetensors"))
            return cls(
                regressor=ImageRegressor(
                    network=network, scale=TargetScale(**content["scale"]), history=content["history"]
                ),
                method=content["method"],
                architecture=content["architecture"],
                normalisation=content["normalisation"],
                centre=np.array(content["centre"]),
                spread=np.array(content["spread"]),
                validation_pit=np.array(content["validation_pit"]),
            )
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{directory}: not a network of redshifts ({error}); train again") from error


def make_network(method: str, architecture: dict[str, Any], num_features: int = 0) -> Any:
    """Make the untrained network of a method, with 1 + Q outputs."""
    from torch import nn

    from deepfits.models.embedder import Embedder
    from deepfits.models.layers import ModelConfig
    from deepfits.models.wide_resnet import WideResNet, WideResNetConfig

    if method == "wide_resnet":
        blocks = tuple(architecture["blocks"])
        return WideResNet(WideResNetConfig(**{**architecture, "blocks": blocks}))
    config = ModelConfig(**architecture)
    if method == "hybrid":
        return _hybrid(Embedder(config), config.latent_size, num_features)
    return nn.Sequential(
        Embedder(config),
        nn.Linear(config.latent_size, HEAD_CHANNELS),
        nn.ReLU(),
        nn.Linear(HEAD_CHANNELS, NUM_OUTPUTS),
    )


def _hybrid(embedder: Any, latent_size: int, num_features: int) -> Any:
    """Return a network from images and features: the head sees latents and features side by side."""
    import torch
    from torch import nn

    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedder = embedder
            sizes = (latent_size + num_features, HYBRID_CHANNELS, HYBRID_CHANNELS)
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(sizes):
                layers += [nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(0.1)]
            self.head = nn.Sequential(*layers, nn.Linear(HYBRID_CHANNELS, NUM_OUTPUTS))

        def forward(self, images: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.embedder(images), features], dim=1))

    return Hybrid()


def train_image_method(
    method: str,
    dataset: Dataset,
    matrix: Matrix | None,
    loss: str,
    seed: int,
    options: NetworkOptions,
    *,
    progress: Progress = silent,
) -> tuple[ImageMethod, LeftOut, dict[str, Any]]:
    """Train a network on the images of the training part, stopped and recalibrated by the validation part.

    Parameters
    ----------
    matrix
        Features of all objects of the data set, for ``hybrid``.

    Returns
    -------
    part, left_out, about
        The network, what it says of the validation part, and figures for the table.

    Raises
    ------
    InputError
        No cutouts, or no model where one is needed.
    """
    import torch

    split, value = dataset.split, dataset.value
    image, weight = dataset.source.take(split.fitted).images()
    is_validation = np.isin(split.fitted, split.validation)
    architecture, normalisation, model = _begin(method, dataset, image, weight, ~is_validation, options)
    inputs = [normalisation.normalise(image).astype(np.float32)]
    centre, spread = np.empty(0), np.empty(0)
    if matrix is not None:
        centre, spread = learn_standard(matrix.values[split.fitted])
        inputs.append(standardised(matrix.values[split.fitted], centre, spread))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make_network(method, architecture, len(centre))
        if model is not None and method != "scratch":
            embedder = network.embedder if method == "hybrid" else network[0]
            embedder.load_state_dict(model.embedder.state_dict())
        config = ImageConfig(
            loss=loss,
            epochs=options.epochs,
            max_minutes=options.minutes,
            learning_rate=_RATES[method],
            seed=seed,
            device=options.device,
        )
        known = value[split.fitted]
        regressor = train_images(
            network,
            (*(one[~is_validation] for one in inputs), known[~is_validation]),
            (*(one[is_validation] for one in inputs), known[is_validation]),
            config,
            progress=progress,
        )
    point, quantiles = regressor.predict_both(*(one[is_validation] for one in inputs), device=options.device)
    assert quantiles is not None
    left_out = LeftOut(rows=split.fitted[is_validation], point=point, quantiles=quantiles)
    part = ImageMethod(
        regressor=regressor,
        method=method,
        architecture=architecture,
        normalisation=normalisation.to_json(),
        centre=centre,
        spread=spread,
        validation_pit=np.sort(pit(quantiles, known[is_validation])),
        device=options.device,
    )
    about = {
        "num_parameters": sum(one.numel() for one in network.parameters()),
        "epochs": len(regressor.history),
        "training": asdict(config),
    }
    if method == "wide_resnet":
        about["num_layers"] = 3 * sum(architecture["blocks"]) + 2
    else:
        assert model is not None
        about["model_hash"] = model.fingerprint
    return part, left_out, about


def _begin(
    method: str,
    dataset: Dataset,
    image: np.ndarray,
    weight: np.ndarray,
    is_train: np.ndarray,
    options: NetworkOptions,
) -> tuple[dict[str, Any], Any, Any]:
    """Return the architecture, the normalisation, and the model to start from (None for the Wide ResNet)."""
    if method == "wide_resnet":
        from deepfits.models.wide_resnet import WideResNetConfig
        from deepfits.survey.normalise import measure_normalisation

        config = WideResNetConfig(num_bands=image.shape[1], num_outputs=NUM_OUTPUTS, width=options.width)
        return asdict(config), measure_normalisation(image[is_train], weight[is_train], "asinh"), None
    from deepfits.models.bundle import Model

    if options.model is None:
        raise InputError(f"the method {method} needs a trained model: give `model`")
    model = Model.load(options.model)
    expected = (len(model.info.bands), model.info.size)
    if image.shape[1:3] != expected or dataset.source.bands != tuple(model.info.bands):
        raise InputError(
            f"{options.model}: this model is for {expected[1]} pixels of the bands {model.info.bands}, the "
            f"cutouts have {image.shape[2]} pixels of the bands {dataset.source.bands}"
        )
    return model.config.to_json(), model.normalisation, model
