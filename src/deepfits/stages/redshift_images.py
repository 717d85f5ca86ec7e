"""The rows of networks in the table of redshifts: the same labels, the images themselves.

``wide_resnet``
    the supervised baseline of M19 §3.3, from scratch;
``semi_supervised``
    the future work of M19: the model's embedder, learned without labels, goes on learning with the few labels
    and a small head, while the generator stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import write_json, writing
from deepfits.progress import Progress, silent
from deepfits.redshifts.dataset import Dataset
from deepfits.redshifts.images import ImageConfig, train_images
from deepfits.redshifts.results import RowKey, make_row, read_row, write_row

NETWORK_METHODS = ("wide_resnet", "semi_supervised")
HEAD_CHANNELS = 64


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
        Directory of the model whose embedder `semi_supervised` starts from.
    """

    width: int = 64
    epochs: int = 60
    minutes: float = 60.0
    model: str | Path | None = None
    device: str = "cpu"
    seed: int = 0


def network_row(
    method: str,
    out: Path,
    dataset: Dataset,
    store: str | Path | None,
    loss: str,
    options: NetworkOptions,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network on the images of the training objects, and measure on those of the test objects.

    Raises
    ------
    InputError
        No store, or no model where one is needed.
    """
    key = RowKey(method=method, features="images", loss=loss)
    directory = out / "methods" / str(key)
    done = read_row(directory)
    if done is not None:
        return done
    if store is None:
        raise InputError(f"the method {method} learns from the cutouts: give the store")
    started = time.monotonic()
    make = _wide_resnet if method == "wide_resnet" else _semi_supervised
    network, images, about, rate = make(store, dataset, options)
    split, value = dataset.split, dataset.value
    config = ImageConfig(
        loss=loss,
        epochs=options.epochs,
        max_minutes=options.minutes,
        learning_rate=rate,
        seed=options.seed,
        device=options.device,
    )
    regressor = train_images(
        network,
        (images[split.train], value[split.train]),
        (images[split.validation], value[split.validation]),
        config,
        progress=progress,
    )
    z_phot = regressor.predict(images[split.test], device=options.device)
    about |= {
        "num_parameters": sum(one.numel() for one in network.parameters()),
        "epochs": len(regressor.history),
    }
    content = {
        **about,
        "config": asdict(config),
        "history": regressor.history,
        "centre": regressor.centre,
        "scale": regressor.scale,
    }
    _save(directory, method, network, content)
    row = make_row(
        key,
        {"z_phot": z_phot},
        value[split.test],
        dataset.magnitude[split.test],
        num_train=len(split.fitted),
        seconds=time.monotonic() - started,
        about=about,
    )
    write_row(directory, row, dataset.object_id[split.test], {"z_phot": z_phot})
    return row


def _save(directory: Path, method: str, network: Any, content: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    with writing(directory / "weights.safetensors") as temporary:
        save_file({n: t.contiguous().cpu() for n, t in network.state_dict().items()}, temporary)
    write_json(directory / f"{method}.json", content)


_Made = tuple[Any, np.ndarray, dict[str, Any], float]


def _seeded(seed: int, make: Callable[[], Any]) -> Any:
    """Make a network whose first weights depend on the seed alone."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def _wide_resnet(store: str | Path, dataset: Dataset, options: NetworkOptions) -> _Made:
    """Return an untrained Wide ResNet, normalised images, what there is to say, and the learning rate."""
    from deepfits.models.wide_resnet import WideResNet, WideResNetConfig
    from deepfits.survey.normalise import measure_normalisation

    image, weight = _images(store, dataset)
    train = dataset.split.train
    normalisation = measure_normalisation(image[train], weight[train], "asinh")
    config = WideResNetConfig(num_bands=image.shape[1], width=options.width)
    network = _seeded(options.seed, lambda: WideResNet(config))
    about = {
        "network": asdict(config),
        "num_layers": config.num_layers,
        "normalisation": normalisation.to_json(),
    }
    return network, normalisation.normalise(image).astype(np.float32), about, 2e-3


def _semi_supervised(store: str | Path, dataset: Dataset, options: NetworkOptions) -> _Made:
    """Return the model's embedder with a small head, and images in the model's units."""
    from torch import nn

    from deepfits.models.bundle import Model
    from deepfits.survey.store import CutoutStore

    if options.model is None:
        raise InputError("the method semi_supervised starts from a trained model: give `model`")
    model = Model.load(options.model)
    model.check(CutoutStore(store).info)
    image, _ = _images(store, dataset)
    latent_size = dataset.source.columns["latent"].shape[1]

    def with_head() -> Any:
        return nn.Sequential(
            model.embedder.requires_grad_(True),
            nn.Linear(latent_size, HEAD_CHANNELS),
            nn.ReLU(),
            nn.Linear(HEAD_CHANNELS, 1),
        )

    about = {"model_hash": model.fingerprint, "normalisation": model.normalisation.to_json()}
    images = model.normalisation.normalise(image).astype(np.float32)
    return _seeded(options.seed, with_head), images, about, 1e-3


def _images(store: str | Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return images in nJy, with zero flux where there are no data, and weights: ``(N, B, H, W)``."""
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    place = {one: row for row, one in enumerate(cutouts.catalogue([])["object_id"].tolist())}
    rows = np.array([place.get(one, -1) for one in dataset.object_id.tolist()])
    if (rows < 0).any():
        missing = dataset.object_id[rows < 0][0]
        raise InputError(f"{store}: object_id {missing} of the features is not in this store")
    found = cutouts.take(rows)
    return np.where(found.weight > 0, found.image, 0.0).astype(np.float32), found.weight
