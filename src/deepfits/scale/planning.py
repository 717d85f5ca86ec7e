"""Estimates of computing time and data volume for a survey.

The rate follows from the sustained floating-point performance of a device, the operations per object, and the
overhead of reading and writing. Every line states whether it was measured, estimated or assumed. The figures
and their sources are in ``devices.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from deepfits.errors import require_known
from deepfits.files import read_json

SECONDS_PER_DAY = 86_400.0


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


def make_plan(
    *,
    num_objects: float,
    device: Device,
    num_devices: int,
    cost: Cost,
    num_bands: int,
    size: int,
    objects_per_arcmin2: float,
    pixel_scale_arcsec: float,
    half: bool,
    latent_size: int,
) -> list[Line]:
    """Estimate the resources for a survey; see `deepfits.stages.plan.PlanConfig`.

    Devices process shards independently, so that the rate scales with their number. The density of objects
    and the pixel scale determine how many coadd pixels are read per object.
    """
    kind = "measured" if device.is_measured else "estimated"
    rate = 1 / (cost.flop / device.flops + cost.overhead_seconds)
    seconds = num_objects / rate / num_devices
    cutout = 2 * 4 * num_bands * size**2
    coadd = 2 * 4 * num_bands * 3600 / pixel_scale_arcsec**2 / objects_per_arcmin2
    kept = cost.feature_bytes - (3 * 2 * latent_size if half else 0)
    tera = 1e12
    flop = f"{cost.flop / 1e9:.2f} GFLOP per object ({cost.words})"
    together = "all devices together"
    return [
        Line("objects", num_objects, "", "given"),
        Line("devices", num_devices, "", "given", device.words),
        Line(
            "rate of a device", rate, "objects/s", kind,
            f"{device.flops / 1e9:,.0f} GFLOP/s ({device.source}) over {flop}, and "
            f"{cost.overhead_seconds * 1e3:.2g} ms per object to read and write (measured)",
        ),
        Line("time", seconds / SECONDS_PER_DAY, "days", kind),
        Line("device hours", seconds / 3600 * num_devices, "h", kind),
        Line(
            "devices for one day", num_objects / rate / SECONDS_PER_DAY, "", kind,
            "linear in the number of devices: shards are independent",
        ),
        Line(
            "features", num_objects * kept / tera, "TB", "measured",
            f"{kept:.0f} bytes per object{', latents in 16 bits' if half else ''}",
        ),
        Line(
            "cutout store, if kept", num_objects * cutout / tera, "TB", "given",
            f"{cutout:,} bytes per object: image and weight, {num_bands} bands of {size}×{size}",
        ),
        Line(
            "coadds, read once", num_objects * coadd / tera, "TB", "assumed",
            f"{objects_per_arcmin2:g} objects per arcmin², pixels of {pixel_scale_arcsec:g} arcsec",
        ),
        Line("reading from a store", cutout * rate * num_devices / 1e6, "MB/s", kind, together),
        Line("reading from coadds", coadd * rate * num_devices / 1e6, "MB/s", kind, together),
        Line("writing features", kept * rate * num_devices / 1e6, "MB/s", kind, together),
    ]  # fmt: skip
