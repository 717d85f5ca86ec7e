"""Stage `plan`: estimate the time and storage that a survey needs, from measured throughputs.

The devices, the cost of an object and their sources are in ``configs/devices.json``.
"""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from deepfits.config import Range
from deepfits.errors import require_known
from deepfits.files import read_json
from deepfits.fitting.settings import FitSettings
from deepfits.processes import torch_threads
from deepfits.progress import Progress
from deepfits.provenance import hardware
from deepfits.stages.stage import Common, stage

if TYPE_CHECKING:
    from deepfits.models.bundle import Model

MEASURED_OBJECTS = 256
SECONDS_PER_DAY = 86_400.0
_SMALLER = {"TB": (0.1, 1000, "GB"), "days": (1.0, 24, "h")}  # units of values below these, and factors


@dataclass(frozen=True, kw_only=True)
class Device:
    """A computing device."""

    words: str
    flops: float  # sustained operations per second, measured in the fit itself or estimated from a data sheet
    is_measured: bool
    source: str


@dataclass(frozen=True)
class Line:
    """One line of a plan; `kind` is ``measured``, ``estimated``, ``assumed`` or ``given``."""

    what: str
    value: float
    unit: str
    kind: str
    how: str = ""


@dataclass(frozen=True)
class Plan:
    """Planning figures, each with how it was obtained; ``str`` gives a readable table."""

    lines: tuple[Line, ...]

    def __getitem__(self, what: str) -> float:
        return next(line.value for line in self.lines if line.what == what)

    def __repr__(self) -> str:  # in notebooks, where the last value of a cell is shown
        return str(self)

    def __str__(self) -> str:
        width = max(len(line.what) for line in self.lines)
        rows = []
        for line in self.lines:
            least, times, smaller = _SMALLER.get(line.unit, (0.0, 1, ""))
            value, unit = (line.value, line.unit) if line.value >= least else (times * line.value, smaller)
            figure = f"{_plain(value)} {unit}".strip()
            why = f"{line.kind}{': ' + line.how if line.how else ''}"
            rows.append(f"{line.what:{width}s}  {figure:>18s}   {why}")
        return "\n".join(rows)


def _plain(value: float) -> str:
    is_plain = value < 1e15 and (value >= 100 or value == int(value))
    return f"{value:,.0f}" if is_plain else f"{value:.3g}"


@dataclass(frozen=True)
class PlanConfig(Common):
    """Parameters of `plan`."""

    objects: Annotated[float, Range(gt=0)]
    """Number of objects in the survey, such as 2e10."""
    _: KW_ONLY
    device: str = "cpu-core"
    """``"measured"`` times a core of this machine now; ``"cpu-core"``, ``"h200"``, ``"h100"`` and ``"a100"``
    use the package's table."""
    num_devices: Annotated[int, Range(ge=1)] = 1
    """Number of devices that work in parallel."""
    model: str | Path = "builtin:clauds-hsc"
    """The model to fit; its size determines the cost per object."""
    objects_per_arcmin2: Annotated[float, Range(gt=0)] = 50.0
    """Surface density of the objects, which determines how many coadd pixels are read."""
    half: bool = False
    """Store latents as 16-bit floats, as `export` can."""


@stage(PlanConfig)
def plan(config: PlanConfig) -> Plan:
    """Estimate the time and storage needed to fit a survey, and say what is measured and what is estimated.

    Returns
    -------
    Plan
        Its `lines` state for each figure whether it was measured or estimated, and from what.

    Raises
    ------
    InputError
        A number that is not positive, or an unknown device.

    Examples
    --------
    A Rubin-like survey on GPUs: `deepfits plan --objects 2e10 --device h200 --num-devices 64`

    A million objects on eight cores like this one: `deepfits plan --objects 1e6 --device measured
    --num-devices 8`
    """
    from deepfits.models.bundle import Model

    loaded = Model.load(config.model)
    cost = cost_of(loaded)
    if config.device == "measured":
        device = measure_core(loaded, cost["flop"], config.progress)
    else:
        device = named_device(config.device)
    return Plan(tuple(_lines(config, loaded, device, cost)))


def _lines(config: PlanConfig, model: Model, device: Device, cost: dict[str, Any]) -> list[Line]:
    """Estimate the resources for a survey.

    The rate follows from the sustained floating-point performance of a device, the operations per object, and
    the overhead of reading and writing. Devices process shards independently, so that the rate scales with
    their number. The density of objects and the pixel scale determine how many coadd pixels are read per
    object.
    """
    bands, size, scale = len(model.info.bands), model.info.size, model.info.pixel_scale_arcsec
    kind = "measured" if device.is_measured else "estimated"
    rate = 1 / (cost["flop"] / device.flops + cost["overhead_seconds"])
    seconds = config.objects / rate / config.num_devices
    cutout = 2 * 4 * bands * size**2
    coadd = 2 * 4 * bands * 3600 / scale**2 / config.objects_per_arcmin2
    kept = cost["feature_bytes"] - (3 * 2 * model.config.latent_size if config.half else 0)
    tera = 1e12
    flop = f"{cost['flop'] / 1e9:.2f} GFLOP per object ({cost['words']})"
    together = "all devices together"
    return [
        Line("objects", config.objects, "", "given"),
        Line("devices", config.num_devices, "", "given", device.words),
        Line(
            "rate of a device", rate, "objects/s", kind,
            f"{device.flops / 1e9:,.0f} GFLOP/s ({device.source}) over {flop}, and "
            f"{cost['overhead_seconds'] * 1e3:.2g} ms per object to read and write (measured)",
        ),
        Line("time", seconds / SECONDS_PER_DAY, "days", kind),
        Line("device hours", seconds / 3600 * config.num_devices, "h", kind),
        Line(
            "devices for one day", config.objects / rate / SECONDS_PER_DAY, "", kind,
            "linear in the number of devices: shards are independent",
        ),
        Line(
            "features", config.objects * kept / tera, "TB", "measured",
            f"{kept:.0f} bytes per object{', latents in 16 bits' if config.half else ''}",
        ),
        Line(
            "cutout store, if kept", config.objects * cutout / tera, "TB", "given",
            f"{cutout:,} bytes per object: image and weight, {bands} bands of {size}×{size}",
        ),
        Line(
            "coadds, read once", config.objects * coadd / tera, "TB", "assumed",
            f"{config.objects_per_arcmin2:g} objects per arcmin², pixels of {scale:g} arcsec",
        ),
        Line("reading from a store", cutout * rate * config.num_devices / 1e6, "MB/s", kind, together),
        Line("reading from coadds", coadd * rate * config.num_devices / 1e6, "MB/s", kind, together),
        Line("writing features", kept * rate * config.num_devices / 1e6, "MB/s", kind, together),
    ]  # fmt: skip


def figures() -> dict[str, Any]:
    """Return the content of ``devices.json``."""
    with resources.as_file(resources.files("deepfits") / "configs" / "devices.json") as path:
        return read_json(path, what="table of devices")


def named_device(name: str) -> Device:
    """Return a device by its name in ``devices.json``."""
    table = figures()["devices"]
    require_known("device", name, [*table, "measured"])  # the message offers to time a device
    return Device(**table[name])


def cost_of(model: Model) -> dict[str, Any]:
    """Return the cost per object with this model, scaled from the reference model by generator size.

    The floating-point operations of fit and errors (``flop``, and the settings for which they were counted),
    the time for reading and writing, and the size of the features on disk. Nearly all of the work is
    evaluating and differentiating the generator, so the cost is proportional to its number of operations.
    """
    known = figures()["cost"]
    ratio = generator_flop(model) / known["generator_flop"]
    scaled = "" if abs(ratio - 1) < 1e-3 else f", times {ratio:.3g} for the size of this generator"
    return {**known, "flop": known["flop"] * ratio, "words": f"counted, {known['words']}{scaled}"}


def generator_flop(model: Model) -> float:
    """Count the floating-point operations of one generator evaluation."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    latent = torch.zeros(1, model.config.latent_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generator(latent)
    return float(counter.get_total_flops())


def measure_core(model: Model, flop: float, progress: Progress) -> Device:
    """Time the fit of noisy images drawn by the model on one core of this machine."""
    import torch

    from deepfits.fitting.feature_table import feature_table
    from deepfits.fitting.fitter import Fitter
    from deepfits.survey.store import Cutouts

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        clean = model.render(torch.randn(MEASURED_OBJECTS, model.config.latent_size, generator=generator))
    sigma = torch.tensor(model.normalisation.softening)[:, None, None]
    image = clean + sigma * torch.randn(clean.shape, generator=generator)
    weight = (sigma**-2).expand_as(image).contiguous()
    identity = np.arange(MEASURED_OBJECTS)
    fitter = Fitter(model, FitSettings(), model.info, threads=1)
    with torch_threads(1), progress("measure", total=MEASURED_OBJECTS, unit="objects") as task:
        begin = time.process_time()  # whatever else runs on this core
        fitted = fitter.fit(identity, image, weight, sight=fitter.nominal_sight(MEASURED_OBJECTS))
        feature_table(fitter, fitted, Cutouts(object_id=identity, image=image.numpy(), weight=weight.numpy()))
        seconds = time.process_time() - begin
        task.advance(MEASURED_OBJECTS)
    return Device(
        words=f"cores like one of this machine ({hardware()['processor']})",
        flops=flop * MEASURED_OBJECTS / seconds,
        is_measured=True,
        source=f"{MEASURED_OBJECTS} drawn objects in {seconds:.1f} s of one core, timed just now",
    )
