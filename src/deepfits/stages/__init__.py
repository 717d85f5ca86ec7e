"""Stages: one function each, of files in and files out; the package and the command line offer them.

Where each stands is listed here, so that nothing is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

MODULES = {
    "simulate": "simulate",
    "stack": "stack",
    "check": "check",
    "detect": "detect",
    "cutouts": "cutouts",
    "train": "train",
    "teach": "teach",
    "fit": "fit",
    "inpaint": "inpaint",
    "redshift": "redshifts.compare",
    "redshift_curves": "redshifts.curves",
    "redshift_classes": "redshifts.classes",
    "redshift_train": "redshifts.train",
    "redshift_pretrain": "redshifts.pretrain",
    "redshift_predict": "redshifts.predict",
    "redshift_evaluate": "redshifts.evaluate",
    "export": "export",
    "explore": "explore",
    "show": "show",
    "similar": "show",
    "odd": "show",
    "model": "model",
    "plan": "plan",
    "report": "report",
    "run": "run",
    "demo": "run",
}


def load(name: str) -> Callable[..., Any]:
    """Import a stage."""
    stage: Callable[..., Any] = getattr(import_module(f"deepfits.stages.{MODULES[name]}"), name)
    return stage
