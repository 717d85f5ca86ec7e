"""The fastest float32 arithmetic measured on this machine, the limit to which benchmarks compare themselves.

A single matrix product of one library is not a limit (oneDNN's convolutions have run at 1.23 times the rate
of BLAS's square product), so several operations are timed: square and tall matrix products of PyTorch's BLAS,
the same through oneDNN (as 1×1 convolutions), and NumPy's BLAS in its own process, with and without the
environment variables that select its kernels. The fastest one is the limit. If the clock rate and the vector
units of the CPU can be read, the theoretical peak is reported as well.

    python benchmarks/machine.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
# Shapes (m, k, n): square ones of three sizes, and tall ones as in layers with few channels.
SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 256), (16384, 256, 128))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Arithmetic limit of the machine.

    Attributes
    ----------
    flops
        The fastest measured rate, in float32 operations per second.
    by
        Name of the operation that reached it.
    rates
        All rates measured, by name.
    peak_flops
        Theoretical peak of the CPU for this number of threads; None if unknown.
    """

    flops: float
    by: str
    rates: dict[str, float]
    peak_flops: float | None

    def to_json(self) -> dict[str, object]:
        """Return a JSON-compatible dictionary."""
        return asdict(self)

    def describe(self, flops: float) -> str:
        """Describe a rate as a fraction of the limit, with a warning if it exceeds the limit."""
        fraction = flops / self.flops
        text = (
            f"{fraction:.0%} of the fastest arithmetic found here ({self.flops / 1e9:.0f} GFLOP/s, {self.by})"
        )
        if self.peak_flops and self.peak_flops >= self.flops:  # else the clock runs faster than reported
            text += f", {flops / self.peak_flops:.0%} of the theoretical peak ({self.peak_flops / 1e9:.0f})"
        return text + (
            "; WARNING: the rate exceeds the limit, which was therefore mismeasured" if fraction > 1 else ""
        )


def measure_limit(device: torch.device | str = "cpu", *, seconds: float = 0.4) -> Limit:
    """Time every candidate for `seconds`, with PyTorch's current number of threads; return the fastest."""
    device = torch.device(device)
    rates = {}
    for m, k, n in SHAPES:
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        pixels, kernel = b.reshape(1, k, n, 1), a.reshape(m, k, 1, 1)
        operations = 2.0 * m * k * n
        shape = f"{m}x{k}x{n}"
        rates[f"matrix product {shape}"] = _rate(partial(torch.matmul, a, b), operations, seconds, device)
        convolve = partial(torch.nn.functional.conv2d, pixels, kernel)
        rates[f"convolution {shape}"] = _rate(convolve, operations, seconds, device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        set_here = {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
        rates["NumPy"] = _numpy_rate(threads, set_here)
        if set_here:
            rates["NumPy, kernels of its own choice"] = _numpy_rate(threads, {})
    by = max(rates, key=lambda name: rates[name])
    peak = theoretical_peak(torch.get_num_threads()) if device.type == "cpu" else None
    return Limit(flops=rates[by], by=by, rates=rates, peak_flops=peak)


def _rate(call: Callable[[], object], operations: float, seconds: float, device: torch.device) -> float:
    """Return the best rate of single calls, since interference only makes calls slower."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return operations / best


_NUMPY = """
import sys, time, numpy
n, best = 1536, float("inf")
a = numpy.ones((n, n), "f4")
a @ a
for _ in range(8):
    begin = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - begin)
print(2 * n**3 / best)
"""


def _numpy_rate(threads: int, kernels: dict[str, str]) -> float:
    kept = {name: value for name, value in os.environ.items() if name not in KERNEL_VARIABLES}
    number = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(
        [sys.executable, "-c", _NUMPY], env={**kept, **kernels, **number}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return float(done.stdout)


def theoretical_peak(threads: int) -> float | None:
    """Return clock rate × vector lanes × 2 operations × 2 units × threads, from ``/proc/cpuinfo``.

    Uses the maximum clock rate if the system reports it, else the current one, which a CPU that raises its
    clock under load can exceed. Two fused multiply-add units per core are assumed, as in CPUs of the last ten
    years; some have only one with AVX-512.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    flags = fields.get("flags", "").split()
    if "fma" not in flags:
        return None
    highest = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if highest.exists():
        clock = 1e3 * float(highest.read_text())
    elif "cpu MHz" in fields:
        clock = 1e6 * float(fields["cpu MHz"])
    else:
        return None
    lanes = 16 if "avx512f" in flags else 8
    return clock * lanes * 2 * 2 * threads


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    limit = measure_limit(arguments.device)
    for name, rate in sorted(limit.rates.items(), key=lambda item: -item[1]):
        print(f"{name:36s} {rate / 1e9:8.1f} GFLOP/s")
    print(
        f"theoretical peak at the clock that the system reports: {limit.peak_flops / 1e9:.0f} GFLOP/s"
        if limit.peak_flops
        else "theoretical peak unknown"
    )
    print(json.dumps({"benchmark": "machine", "threads": arguments.threads, **limit.to_json()}))


if __name__ == "__main__":
    main()
