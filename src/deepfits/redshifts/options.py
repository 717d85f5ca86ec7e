"""Options of learning redshifts, which the stages inherit and the methods use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from deepfits.config import INPUT, NAMES_FILES, NEUTRAL, Range


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """Seed and threads."""

    seed: Annotated[int, Range(ge=0, lt=2**31)] = 0
    """Random seed for choosing labels, tuning and TPOT."""
    num_threads: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    """Number of boosting threads, and of TPOT worker processes. It is explicit because boosting threads that
    contend for cores run a hundred times slower."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions(Seeded):
    """How redshifts are learned."""

    model: Annotated[str | Path | None, INPUT] = None
    """The model that the features were fitted with; networks on images start from its embedder."""
    filters: Annotated[Sequence[str], NAMES_FILES] = ()
    """The speclite name of each band's filter, such as ``sdss2010-g``, in the order of the features' bands;
    by default the filters given by the image headers. If these give none, templates are fitted through the
    filters of CLAUDS and HSC, and heads allow for any filter."""
    distributions: bool = True
    """Whether to learn and evaluate p(z), for methods that can."""
    tuning_trials: Annotated[int, Range(ge=1)] = 6
    """Number of boosting settings compared for each row of the table."""
    tpot_minutes: Annotated[float, Range(gt=0)] = 1.0
    """Time budget of TPOT in minutes."""
    wide_resnet_width: Annotated[int, Range(ge=1)] = 64
    """Channels of the Wide ResNet's first stage: 64 in the paper, 8 or 16 for CPUs."""
    network_epochs: Annotated[int, Range(ge=1)] = 60
    """Maximum number of epochs for each network on images."""
    network_minutes: Annotated[float, Range(gt=0)] = 60.0
    """Maximum time in minutes for each network on images."""
    device: Annotated[str, NEUTRAL] = "cpu"
    """Device on which networks on images are trained."""
    head: Annotated[str | Path | None, INPUT] = None
    """A head trained on simulated galaxies, from `redshift_pretrain`; by default the head that ships with the
    model of the features."""
