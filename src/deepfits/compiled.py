"""Loader of the optional C extensions, built if a C compiler is available at installation."""

import ctypes
import logging
from importlib.util import find_spec

log = logging.getLogger(__name__)


def library(name: str, function: str, slower: str) -> ctypes.CDLL | None:
    """Load a shared library of this package; None if it was not built or cannot be used.

    `name` is its module name, such as ``_observation``. `function` must be one of its symbols, which a
    library built from another version's source lacks. `slower` is the start of the warning's last clause,
    such as "fits are".
    """
    spec = find_spec(f"deepfits.{name}")
    if spec is None or spec.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(spec.origin)
        getattr(loaded, function)
        return loaded
    except (OSError, AttributeError) as error:  # built for another machine or from another version
        log.warning("WARNING: %s: %s; %s slower without it; reinstall deepfits", spec.origin, error, slower)
        return None
