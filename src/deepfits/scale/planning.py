"""Devices and costs from which `deepfits.stages.plan` estimates computing time and data volume.

The figures and their sources are in ``devices.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from deepfits.errors import require_known
from deepfits.files import read_json


@dataclass(frozen=True, kw_only=True)
class Device:
    """A computing device.

    `flops` is the sustained number of floating-point operations per second, measured in the fit itself or
    estimated from a data sheet.
    """

    words: str
    flops: float
    is_measured: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one object."""

    flop: float  # floating-point operations of fit and errors
    words: str  # settings for which this was measured
    overhead_seconds: float  # time for reading and writing
    feature_bytes: float  # size of the features on disk


@dataclass(frozen=True)
class Line:
    """One line of a plan; `kind` is ``measured``, ``estimated``, ``assumed`` or ``given``."""

    what: str
    value: float
    unit: str
    kind: str
    how: str = ""


def figures() -> dict[str, Any]:
    """Return the content of ``devices.json``."""
    with resources.as_file(resources.files("deepfits.scale") / "devices.json") as path:
        return read_json(path, what="table of devices")


def named_device(name: str) -> Device:
    """Return a device by its name in ``devices.json``."""
    table = figures()["devices"]
    require_known("device", name, [*table, "measured"])  # the message offers to time a device
    return Device(**table[name])
