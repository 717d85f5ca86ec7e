"""Provenance of files: versions, hardware, commit, time."""

import hashlib
import importlib.metadata
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from deepfits.config import convert
from deepfits.files import read_json
from deepfits.processes import available_cores

_PACKAGES = ("deepfits", "numpy", "torch", "astropy", "h5py", "pyarrow", "scikit-learn", "xgboost", "tpot")


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that affect results."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@cache
def code() -> str:
    """Return the package's version, with a digest of its sources and of the tables that they read."""
    here, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(path for path in here.rglob("*") if path.suffix in (".py", ".csv")):
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{versions()['deepfits']} (sources {digest.hexdigest()[:12]})"


def commit() -> str | None:
    """Return the commit of this checkout, with ``+`` if it is modified, or None outside a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return None
    try:
        name = _git(here, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the processor's name, the number of available cores, the architecture and the system."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # not Linux: keep the name from `platform`
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": available_cores(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def provenance() -> dict[str, Any]:
    """Return all of the above and the time (UTC), ready for JSON."""
    return {
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_seconds(run: Path) -> dict[str, float]:
    """Return the time, seconds, that each stage of a run has taken, in all starts together; empty if unknown.

    Raise `InputError` if the file contains something else.
    """
    path = run / "seconds.json"
    return convert(read_json(path, what="timing"), dict[str, float], where=path) if path.exists() else {}
