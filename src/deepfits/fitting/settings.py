"""Settings of a fit, defined once for the stages that inherit them and for the fitter."""

from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import NEUTRAL, Range, check
from deepfits.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """The objective and how it is minimised."""

    objective: Literal["flux", "paper"] = "flux"
    """``"flux"`` (χ² in nJy) or ``"paper"`` (squared residuals in the network's units, all valid pixels
    weighted equally: M19 eq. 2)."""
    solver: Literal["lbfgs", "adam"] = "lbfgs"
    """``"lbfgs"`` or ``"adam"`` (the paper's)."""
    num_steps: Annotated[int, Range(ge=1)] | None = None
    """Maximum number of steps per object; by default 100 for L-BFGS and 500 for Adam."""
    tolerance: Annotated[float, Range(ge=0)] | None = None
    """L-BFGS has converged when the next step is predicted to lower the objective by less than this fraction,
    by default 7e-5; see `deepfits.fitting.fit`. Adam takes all its steps."""
    num_starts: Annotated[int, Range(ge=1)] = 1
    """Starts per object; the best result is kept. In mode ``"both"`` the first start is the embedder's
    estimate and the others are random."""
    prior_strength: Annotated[float, Range(ge=0)] | None = None
    """Strength of the unit-normal prior on the latent. By default 1 (maximum a posteriori), or 0 for the
    paper's objective."""
    amplitudes: Literal["after", "fit", "none"] | None = None
    """``"after"``: fixed to 1 in the fit, so that the latent carries brightness and colour, then solved for
    in each band at the best latent and applied to the model fluxes. ``"fit"``: free in the fit, by variable
    projection; only with ``objective="flux"``. ``"none"``: fixed to 1 throughout, as in M19. By default
    ``"after"``, or ``"none"`` for the paper's objective."""
    batch_size: Annotated[int, NEUTRAL, Range(ge=1)] = 64
    """Number of objects that are fitted at once. Results depend on it in their last bits only."""
    seed: int = 0
    """Seed of the random starts, which depend on seed and identity alone."""


@dataclass(frozen=True, kw_only=True)
class FitSettings(SolverSettings):
    """Where a fit starts, which pixels it uses, and whether it computes uncertainties."""

    mode: Literal["embedder", "optimise", "both"] = "both"
    """``"embedder"`` (the embedder's estimate, without a fit), ``"optimise"`` (fit from random latents) or
    ``"both"`` (fit from the embedder's estimate)."""
    neighbours: Literal["mask", "keep"] = "mask"
    """``"mask"``: pixels that belong to other objects according to the store get weight 0; ``"keep"``: they
    are fitted like all others."""
    uncertainty: bool | None = None
    """Compute ``latent_std`` and the errors of the model fluxes, which are NaN otherwise. By default on,
    except in mode ``"embedder"``, where it would take most of the time."""

    def __post_init__(self) -> None:
        check(self, where="fit", fields_of=FitSettings)
        is_paper = self.objective == "paper"
        if self.prior_strength is None:
            object.__setattr__(self, "prior_strength", 0.0 if is_paper else 1.0)
        if self.amplitudes is None:
            object.__setattr__(self, "amplitudes", "none" if is_paper else "after")
        if self.uncertainty is None:
            object.__setattr__(self, "uncertainty", self.mode != "embedder")
        if self.amplitudes == "fit" and self.objective != "flux":
            raise InputError(
                f"fit: amplitudes='fit' scales fluxes and needs objective='flux', not {self.objective!r}; "
                "change the objective, or use amplitudes='after' or 'none'"
            )

    @property
    def strength(self) -> float:
        """`prior_strength`, after its default has been resolved."""
        assert self.prior_strength is not None
        return self.prior_strength
