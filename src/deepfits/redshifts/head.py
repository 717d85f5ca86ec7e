"""Small fully connected networks on features: smooth where trees are steps.

Shapes: N objects, K features, Q quantile levels, M members.

One network for each fold of a cross-validation: it learns from the others, stops by its own, and the mean of
all is the estimate. So every labelled object has an estimate that did not learn from it. Each network has
1 + Q outputs: the estimate and the quantiles of p(z).
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
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.images import NUM_OUTPUTS, ImageConfig, ImageRegressor, TargetScale, train_images
from deepfits.redshifts.left_out import LeftOut
from deepfits.redshifts.pdf import pit, recalibrated, sorted_quantiles

LIMIT = 8.0
"""Standardised features are held to this, so that a wild one does not carry a network off."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Size and training, the same for every feature set.

    Attributes
    ----------
    channels, dropout
        Of the three hidden layers.
    num_steps
        Steps of training of each member, about; few labels see at most `max_epochs`.
    """

    loss: str = "absolute"
    channels: int = 192
    dropout: float = 0.1
    num_members: int = 4
    num_steps: int = 2500
    max_epochs: int = 120
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HeadEnsemble:
    """Trained networks.

    Attributes
    ----------
    members
        One for each fold.
    names
        Of the K features.
    centre, spread
        ``(K,)``: how features are standardised.
    validation_pit
        ``(V,)``: of objects that were left out, for recalibration.
    """

    members: tuple[ImageRegressor, ...]
    names: tuple[str, ...]
    centre: np.ndarray
    spread: np.ndarray
    config: HeadConfig
    validation_pit: np.ndarray

    def predict_both(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return estimates ``(N,)`` and quantiles ``(N, Q)`` before recalibration: means over the members."""
        if features.ndim != 2 or features.shape[1] != len(self.names):
            raise InputError(f"the model was trained on {len(self.names)} features, not {features.shape[1:]}")
        found = [one.predict_both(standardised(features, self.centre, self.spread)) for one in self.members]
        quantiles = [one for _, one in found if one is not None]
        return np.mean([point for point, _ in found], axis=0), np.mean(quantiles, axis=0)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return estimates ``(N,)``."""
        return self.predict_both(features)[0]

    def calibrated(self, quantiles: np.ndarray) -> np.ndarray:
        """Return recalibrated quantiles, ``(N, Q)``."""
        return recalibrated(sorted_quantiles(quantiles), self.validation_pit)

    def save(self, directory: str | Path) -> None:
        """Write ``network.json`` and ``network.safetensors``."""
        from safetensors.torch import save_file

        directory = Path(directory)
        tensors = {
            f"{number}.{name}": tensor.contiguous().cpu()
            for number, one in enumerate(self.members)
            for name, tensor in one.network.state_dict().items()
        }
        with writing(directory / "network.safetensors") as temporary:
            save_file(tensors, temporary)
        content = {
            "config": asdict(self.config),
            "names": list(self.names),
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "scales": [asdict(one.scale) for one in self.members],
            "histories": [one.history for one in self.members],
            "validation_pit": self.validation_pit.tolist(),
        }
        write_json(directory / "network.json", content)

    @classmethod
    def load(cls, directory: str | Path) -> HeadEnsemble:
        """Read back `save`.

        Raises
        ------
        InputError
            The files are damaged or do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        content = read_json(directory / "network.json", what="description of networks")
        try:
            config = HeadConfig(**content["config"])
            tensors = load_file(directory / "network.safetensors")
            members = []
            for number, scale in enumerate(content["scales"]):
                network = make_head(len(content["names"]), config, seed=0)
                prefix = f"{number}."
                network.load_state_dict(
                    {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
                )
                history = content["histories"][number]
                members.append(ImageRegressor(network=network, scale=TargetScale(**scale), history=history))
            return cls(
                members=tuple(members),
                names=tuple(content["names"]),
                centre=np.array(content["centre"]),
                spread=np.array(content["spread"]),
                config=config,
                validation_pit=np.array(content["validation_pit"]),
            )
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{directory}: not networks of redshifts ({error}); train again") from error


def standardised(features: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return features with the typical one at 0 and what is missing there too: ``(N, K)`` float32."""
    found = np.where(np.isfinite(features), (features - centre) / spread, 0.0)
    return np.clip(found, -LIMIT, LIMIT).astype(np.float32)


def learn_standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median and half the central 68% range of each feature: ``(K,)`` each."""
    known = np.isfinite(features).any(axis=0)
    filled = np.where(known, features, 0.0)
    low, centre, high = np.nanquantile(filled, [0.16, 0.5, 0.84], axis=0)
    return centre, np.where(high > low, (high - low) / 2, 1.0)


def make_head(num_features: int, config: HeadConfig, *, seed: int) -> Any:
    """Make an untrained network from ``(N, K)`` to ``(N, 1 + Q)``."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = [num_features] + [config.channels] * 3
        layers: list[Any] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(config.dropout)]
        return nn.Sequential(*layers, nn.Linear(config.channels, NUM_OUTPUTS))


def train_head(
    features: Matrix, value: np.ndarray, config: HeadConfig, *, progress: Progress = silent
) -> tuple[HeadEnsemble, LeftOut]:
    """Train one network for each fold.

    Parameters
    ----------
    features, value
        Of N training objects; NaN counts as the typical value.

    Returns
    -------
    ensemble
        The networks.
    left_out
        What the network that did not learn from it says of each object; its rows count from 0 to N − 1.
    """
    import torch

    centre, spread = learn_standard(features.values)
    inputs = standardised(features.values, centre, spread)
    folds = np.random.default_rng(config.seed).permutation(len(value)) % config.num_members
    point, quantiles = np.empty(len(value)), np.empty((len(value), NUM_OUTPUTS - 1))
    batch = int(np.clip(len(value) // 20, 8, 128))
    epochs = int(np.clip(config.num_steps * batch / len(value), 10, config.max_epochs))
    members = []
    for fold in range(config.num_members):
        inside = folds == fold
        training = ImageConfig(
            loss=config.loss, epochs=epochs, patience=epochs, batch=batch, seed=config.seed + fold
        )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed + fold)  # of the dropout
            one = train_images(
                make_head(inputs.shape[1], config, seed=config.seed + fold),
                (inputs[~inside], value[~inside]),
                (inputs[inside], value[inside]),
                training,
                progress=progress,
            )
        point[inside], found = one.predict_both(inputs[inside])
        assert found is not None
        quantiles[inside] = found
        members.append(one)
    ensemble = HeadEnsemble(
        members=tuple(members),
        names=features.names,
        centre=centre,
        spread=spread,
        config=config,
        validation_pit=np.sort(pit(quantiles, value)),
    )
    return ensemble, LeftOut(rows=np.arange(len(value)), point=point, quantiles=quantiles)
