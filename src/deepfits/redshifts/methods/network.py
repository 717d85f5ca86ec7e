"""Ensembles of MLPs on features, which are smooth where trees are stepwise constant.

Shapes: N objects, K features, V left-out objects, Q quantile levels.

There is one network per fold of a cross-validation, trained on the other folds with early stopping on its
own; the estimate is the mean over the networks. Thus every labelled object has an out-of-fold estimate.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepfits.progress import Progress, silent
from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import Standard, folds
from deepfits.redshifts.method import Estimates, Method, OutOfFold, Trained, Training
from deepfits.redshifts.networks import (
    NUM_OUTPUTS,
    Architecture,
    NetworkConfig,
    TrainedNetwork,
    train_network,
)
from deepfits.redshifts.pdf import pit, recalibrated, sorted_quantiles


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Width of the three hidden layers, and training, the same for every feature set.

    Each member is trained for about `num_steps` steps, or `max_epochs` epochs if that is less.
    """

    loss: str = "absolute"
    channels: int = 192
    dropout: float = 0.1
    num_members: int = 4
    num_steps: int = 2500
    max_epochs: int = 120
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class MLPEnsemble(Method):
    """Trained networks on K features, one per fold.

    `validation_pit`, ``(V,)``, are out-of-fold PIT values for recalibration.
    """

    name: ClassVar[str] = "network"

    members: tuple[TrainedNetwork, ...]
    names: tuple[str, ...]
    standard: Standard
    config: MLPConfig
    validation_pit: np.ndarray

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Train one network per fold."""
        config = MLPConfig(loss=training.loss, seed=training.options.seed)
        ensemble, point, quantiles = train_ensemble(
            training.matrix, training.value, config, progress=training.progress
        )
        return Trained(
            method=ensemble, out_of_fold=OutOfFold(rows=training.rows, point=point, quantiles=quantiles)
        )

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Average the members' estimates and quantiles."""
        assert features is not None
        inputs = self.standard.clipped(features.values).astype(np.float32)
        members = [member.predict(inputs) for member in self.members]
        quantiles = sorted_quantiles(np.mean([quantiles for _, quantiles in members], axis=0))
        return Estimates(
            point=np.mean([point for point, _ in members], axis=0),
            quantiles=recalibrated(quantiles, self.validation_pit),
        )


def train_ensemble(
    features: Matrix, value: np.ndarray, config: MLPConfig, *, progress: Progress = silent
) -> tuple[MLPEnsemble, np.ndarray, np.ndarray]:
    """Train one network per fold; a NaN feature is replaced by the median.

    Returns the ensemble, and out-of-fold estimates, ``(N,)``, and recalibrated quantiles, ``(N, Q)``.
    """
    import torch

    standard = Standard.learn(features.values, features.is_latent)
    inputs = standard.clipped(features.values).astype(np.float32)
    settings = {"channels": config.channels, "dropout": config.dropout}
    architecture = Architecture(kind="mlp", settings=settings, num_features=inputs.shape[1])
    point, quantiles = np.empty(len(value)), np.empty((len(value), NUM_OUTPUTS - 1))
    batch = int(np.clip(len(value) // 20, 8, 128))
    epochs = int(np.clip(config.num_steps * batch / len(value), 10, config.max_epochs))
    members = []
    parts = folds(len(value), config.num_members, np.random.default_rng(config.seed))
    for number, (train, test) in enumerate(parts):
        seed = config.seed + number
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = architecture.build()
            torch.manual_seed(seed)  # for dropout
            member = train_network(
                architecture,
                (inputs[train], value[train]),
                (inputs[test], value[test]),
                NetworkConfig(loss=config.loss, epochs=epochs, patience=epochs, batch=batch, seed=seed),
                network=network,
                progress=progress,
            )
        point[test], quantiles[test] = member.predict(inputs[test])
        members.append(member)
    transform = np.sort(pit(quantiles, value))
    ensemble = MLPEnsemble(
        members=tuple(members),
        names=features.names,
        standard=standard,
        config=config,
        validation_pit=transform,
    )
    return ensemble, point, recalibrated(quantiles, transform)
