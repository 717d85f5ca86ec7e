"""The small pieces of C, which are built where the package is installed with a C compiler."""

from __future__ import annotations

import ctypes
import logging
from importlib.util import find_spec

log = logging.getLogger(__name__)


def library(name: str, function: str, slower: str) -> ctypes.CDLL | None:
    """Return a shared library of this package, or None where it was not built or cannot be used.

    `name` is that of the module, as ``_observation``, `function` one that it must have: a library that was
    built from the source of another version lacks it. `slower` is said in the warning.
    """
    found = find_spec(f"deepfits.{name}")
    if found is None or found.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(found.origin)
        getattr(loaded, function)
        return loaded
    except (OSError, AttributeError) as error:  # built for another machine, or from another source
        log.warning("WARNING: %s: %s; %s slower without it, install again", found.origin, error, slower)
        return None
