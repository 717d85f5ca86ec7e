"""Small fully connected networks on features: smooth where trees are steps.

Shapes: N objects, K features, Q quantile levels.

One network for each fold of a cross-validation: it learns from the others, stops by its own, and the mean of
all is the estimate. So every labelled object has an estimate that did not learn from it.
"""

from __future__ import annotations

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
    standardised,
    train_network,
)
from deepfits.redshifts.pdf import pit, recalibrated, sorted_quantiles


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Size of the three hidden layers, and training, the same for every feature set.

    Each member takes `num_steps` of training, about; few labels see at most `max_epochs`.
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
    """Trained networks on K features, one for each fold.

    PIT values, ``(V,)``, of objects that were left out are for recalibration.
    """

    name: ClassVar[str] = "network"

    members: tuple[TrainedNetwork, ...]
    names: tuple[str, ...]
    standard: Standard
    config: MLPConfig
    validation_pit: np.ndarray

    @classmethod
    def fit(cls, training: Training) -> Trained[MLPEnsemble]:
        """Train one network for each fold."""
        config = MLPConfig(loss=training.loss, seed=training.options.seed)
        ensemble, point, quantiles = train_ensemble(
            training.matrix, training.value, config, progress=training.progress
        )
        return Trained(
            method=ensemble, out_of_fold=OutOfFold(rows=training.rows, point=point, quantiles=quantiles)
        )

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Average the members."""
        assert features is not None
        inputs = standardised(self.standard, features.values)
        members = [member.predict(inputs) for member in self.members]
        quantiles = sorted_quantiles(np.mean([quantiles for _, quantiles in members], axis=0))
        return Estimates(
            point=np.mean([point for point, _ in members], axis=0),
            quantiles=recalibrated(quantiles, self.validation_pit),
        )


def train_ensemble(
    features: Matrix, value: np.ndarray, config: MLPConfig, *, progress: Progress = silent
) -> tuple[MLPEnsemble, np.ndarray, np.ndarray]:
    """Train one network for each fold. A feature that is NaN counts as the typical value.

    Beside the networks it returns out-of-fold estimates, ``(N,)`` and recalibrated quantiles ``(N, Q)``.
    """
    import torch

    standard = Standard.learn(features.values, features.is_latent)
    inputs = standardised(standard, features.values)
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
            torch.manual_seed(seed)  # of the dropout
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
