"""Named recipes: complete configurations of a model and its training, which `train` describes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepfits.errors import InputError, nearest, require_known
from deepfits.models.layers import ModelConfig
from deepfits.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Configuration of a model and of its training."""

    model: ModelConfig
    training: TrainingConfig


# The training settings that performed best on small budgets (docs/log.md).
_BEYOND_THE_PAPER = TrainingConfig(
    steps=25_000,
    batch_size=32,
    learning_rate=1e-3,
    shared_discriminator_pass=True,
    reconstruction=0.5,
    smoothness=10.0,
    normalisation="asinh",
    noise="correlated",
    noisy_embedder=True,
    symmetries=True,
    decay=0.5,
    ema=0.995,
)
RECIPES = {
    "paper": Recipe(model=ModelConfig(), training=TrainingConfig(batch_size=64, steps=300_000)),
    "small": Recipe(model=ModelConfig(width=128), training=_BEYOND_THE_PAPER),
    "tiny": Recipe(model=ModelConfig(width=64), training=dataclasses.replace(_BEYOND_THE_PAPER, steps=5_000)),
    "scene": Recipe(
        # Group normalisation would discard each image's brightness from the first layer on.
        model=ModelConfig(width=128, num_groups=0, sees_observation=True),
        training=dataclasses.replace(
            _BEYOND_THE_PAPER, reference_fwhm_arcsec=0.4, neighbours="mask", reconstruction=1.0
        ),
    ),
}


def recipe(name: str) -> Recipe:
    """Return a recipe by name; the error for an unknown name suggests the nearest."""
    require_known("recipe", name, RECIPES)
    return RECIPES[name]


def replace(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """Replace fields of the model's or the training's configuration; unknown names are errors.

    Examples
    --------
    >>> replace(RECIPES["tiny"], {"width": 32, "ema": 0.0}).model.width
    32
    """
    parts: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    names = {f.name: part for part in parts for f in dataclasses.fields(getattr(recipe, part))}
    for key, value in options.items():
        if key not in names:
            raise InputError(f"a recipe has no option {key!r}; {nearest(key, names)}")
        parts[names[key]][key] = value
    return Recipe(
        model=dataclasses.replace(recipe.model, **parts["model"]),
        training=dataclasses.replace(recipe.training, **parts["training"]),
    )
