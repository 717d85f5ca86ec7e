"""The best fit of a latent to an image (M19 §2.3), its posterior covariance, and what is measured from it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfits.fitting.bestfit import fit as fit
    from deepfits.fitting.engine import Fit as Fit
    from deepfits.fitting.engine import Status as Status
    from deepfits.fitting.objective import AmplitudePrior as AmplitudePrior

_HOME = {"fit": "bestfit", "Fit": "engine", "Status": "engine", "AmplitudePrior": "objective"}


__all__ = list(_HOME)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import on first access, so that the command line's help need not load PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
