"""The pipeline's stages: each reads files and writes files. The package and the command line expose them.

This module only lists where each stage is defined, so that a stage is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_NAMES = ("simulate", "stack", "check", "detect", "cutouts", "train", "teach", "fit", "inpaint", "redshift")
_REDSHIFTS = ("curves", "classes", "train", "pretrain", "predict", "evaluate")
_MORE_NAMES = ("export", "explore", "show", "similar", "odd", "model", "plan", "report", "run", "demo")
_ELSEWHERE = {"redshift": "redshifts.compare", "similar": "show", "odd": "show", "demo": "run"}
MODULES = {
    **{name: _ELSEWHERE.get(name, name) for name in _NAMES},
    **{f"redshift_{name}": f"redshifts.{name}" for name in _REDSHIFTS},
    **{name: _ELSEWHERE.get(name, name) for name in _MORE_NAMES},
}


def load(name: str) -> Callable[..., Any]:
    """Import a stage."""
    stage: Callable[..., Any] = getattr(import_module(f"deepfits.stages.{MODULES[name]}"), name)
    return stage
