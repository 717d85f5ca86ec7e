"""How redshifts are learned: stated once, for the stages, which inherit from these, and for the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from deepfits.config import Range


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """Seed and threads.

    Parameters
    ----------
    seed
        Seed of the choice of labels, of the tuning and of TPOT.
    num_threads
        Threads of boosting, and worker processes of TPOT; explicit, because boosting threads that contend for
        cores run a hundred times slower.
    """

    seed: Annotated[int, Range(ge=0, lt=2**31)] = 0
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class LearningOptions(Seeded):
    """How redshifts are learned.

    Parameters
    ----------
    model
        The model that the features were fitted with; networks on images start from its embedder.
    filters
        A filter for each band, in the order of the features' bands: a name that speclite knows, such as
        ``sdss2010-g``. By default those that the images' headers name; without any, templates are fitted
        through the filters of CLAUDS and HSC, and heads allow for any filter.
    distributions
        Whether to learn and measure p(z), where a method can.
    tuning_trials
        Number of settings of boosting that are compared for each row of the table.
    tpot_minutes
        Time that TPOT may take, in minutes.
    wide_resnet_width
        Channels of the Wide ResNet's first stage; 64 is the paper's, 8 or 16 are for CPUs.
    network_epochs
        Passes over the labelled images that each network on images may take.
    network_minutes
        Minutes that each network on images may take.
    device
        Where networks on images are trained.
    head
        Head trained on simulated skies, from `redshift_pretrain`; by default the one that came with the model
        of the features.
    """

    model: str | Path | None = None
    filters: Sequence[str] = ()
    distributions: bool = True
    tuning_trials: Annotated[int, Range(ge=1)] = 6
    tpot_minutes: Annotated[float, Range(gt=0)] = 1.0
    wide_resnet_width: Annotated[int, Range(ge=1)] = 64
    network_epochs: Annotated[int, Range(ge=1)] = 60
    network_minutes: Annotated[float, Range(gt=0)] = 60.0
    device: str = "cpu"
    head: str | Path | None = None
