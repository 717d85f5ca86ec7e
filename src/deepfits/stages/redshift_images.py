"""The row of the Wide ResNet in the table of redshifts: the same labels, the images themselves (M19 §3.3)."""

from __future__ import annotations

import time
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


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Size and budget of the Wide ResNet.

    Attributes
    ----------
    width
        Channels of the first stage; 64 is the paper's, 8 or 16 are for CPUs.
    epochs, minutes
        Passes and time at most.
    """

    width: int = 64
    epochs: int = 60
    minutes: float = 60.0
    device: str = "cpu"
    seed: int = 0


def wide_resnet_row(
    out: Path,
    dataset: Dataset,
    store: str | Path | None,
    loss: str,
    options: NetworkOptions,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train on the images of the training objects, and measure on those of the test objects.

    Raises
    ------
    InputError
        No store was given.
    """
    import torch
    from safetensors.torch import save_file

    from deepfits.models.wide_resnet import WideResNet, WideResNetConfig

    key = RowKey(method="wide_resnet", features="images", loss=loss)
    directory = out / "methods" / str(key)
    done = read_row(directory)
    if done is not None:
        return done
    if store is None:
        raise InputError("the method wide_resnet learns from the cutouts: give the store")
    started = time.monotonic()
    images, normalisation = _normalised_images(store, dataset)
    split, value = dataset.split, dataset.value
    config = ImageConfig(
        loss=loss,
        epochs=options.epochs,
        max_minutes=options.minutes,
        seed=options.seed,
        device=options.device,
    )
    network_config = WideResNetConfig(num_bands=images.shape[1], width=options.width)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = WideResNet(network_config)
    regressor = train_images(
        network,
        (images[split.train], value[split.train]),
        (images[split.validation], value[split.validation]),
        config,
        progress=progress,
    )
    z_phot = regressor.predict(images[split.test], device=options.device)
    directory.mkdir(parents=True, exist_ok=True)
    with writing(directory / "weights.safetensors") as temporary:
        save_file({n: t.contiguous().cpu() for n, t in regressor.network.state_dict().items()}, temporary)
    about = {
        "network": asdict(network_config),
        "num_layers": network_config.num_layers,
        "num_parameters": sum(p.numel() for p in network.parameters()),
        "epochs": len(regressor.history),
    }
    content = {
        **about,
        "config": asdict(config),
        "history": regressor.history,
        "centre": regressor.centre,
        "scale": regressor.scale,
        "normalisation": normalisation,
    }
    write_json(directory / "wide_resnet.json", content)
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


def _normalised_images(store: str | Path, dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the objects' images, ``(N, B, H, W)`` float32, in units measured on training objects.

    Pixels without data are set to zero flux.
    """
    from deepfits.survey.normalise import measure_normalisation
    from deepfits.survey.store import CutoutStore

    cutouts = CutoutStore(store)
    place = {one: row for row, one in enumerate(cutouts.catalogue([])["object_id"].tolist())}
    rows = np.array([place.get(one, -1) for one in dataset.object_id.tolist()])
    if (rows < 0).any():
        missing = dataset.object_id[rows < 0][0]
        raise InputError(f"{store}: object_id {missing} of the features is not in this store")
    found = cutouts.take(rows)
    image = np.where(found.weight > 0, found.image, 0.0).astype(np.float32)
    train = dataset.split.train
    normalisation = measure_normalisation(image[train], found.weight[train], "asinh")
    return normalisation.normalise(image).astype(np.float32), normalisation.to_json()
