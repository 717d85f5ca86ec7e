"""The pipeline's stages: each reads files and writes files. The package and the command line expose them.

This module only lists where each stage is defined, so that a stage is imported when it is first used.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

_NAMES = (
    "simulate", "stack", "check", "detect", "cutouts", "train", "calibrate", "fit", "inpaint", "redshift",
    "redshift_curves", "redshift_classes", "redshift_train", "redshift_pretrain", "redshift_predict",
    "redshift_evaluate", "export", "explore", "show", "similar", "odd", "model", "plan", "report", "run",
    "demo",
)  # fmt: skip
_ELSEWHERE = {"redshift": "redshifts.compare", "similar": "show", "odd": "show", "demo": "run"}
MODULES = {name: _ELSEWHERE.get(name, name.replace("redshift_", "redshifts.")) for name in _NAMES}


def load(name: str) -> Callable[..., Any]:
    """Import a stage."""
    stage: Callable[..., Any] = getattr(import_module(f"deepfits.stages.{MODULES[name]}"), name)
    return stage
