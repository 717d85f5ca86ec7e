"""Complete, named configurations: everything that a training decides, in one place each.

``paper``
    M19 as it stands.
``small``
    For a workstation without a GPU: an hour on two cores.
``tiny``
    For a demonstration: minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepfits.errors import InputError, nearest
from deepfits.models.layers import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how."""

    model: ModelConfig


def paper() -> Recipe:
    """M19 §2: 64 latents, 1024 channels, 5 bands of 32×32 pixels."""
    return Recipe(model=ModelConfig())


def small() -> Recipe:
    """Return the recipe for a CPU and an hour."""
    return Recipe(model=ModelConfig(width=128))


def tiny() -> Recipe:
    """Return the recipe for a CPU and a few minutes."""
    return Recipe(model=ModelConfig(width=64))


RECIPES = {"paper": paper, "small": small, "tiny": tiny}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name; an unknown name is an error that names the nearest."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]()
