"""The small pieces of C, which are built where the package is installed with a C compiler."""

from __future__ import annotations

import ctypes
import logging
from importlib.util import find_spec

log = logging.getLogger(__name__)


def library(name: str, slower: str) -> ctypes.CDLL | None:
    """Return a shared library of this package, or None where it was not built or cannot be loaded.

    `name` is that of the module, as ``_observation``; `slower` is said in the warning.
    """
    found = find_spec(f"deepfits.{name}")
    if found is None or found.origin is None:
        return None
    try:
        return ctypes.CDLL(found.origin)
    except OSError as error:  # built for another machine
        log.warning("WARNING: %s: %s; %s slower without it, install again", found.origin, error, slower)
        return None
