"""How a latent is fitted: stated once, for the stages, which inherit from these, and for the fitter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_type_hints

from deepfits.config import Range, convert
from deepfits.errors import InputError

PASSES = 2


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """Objective and solver.

    Parameters
    ----------
    objective
        ``"flux"`` (χ² in nJy), ``"stretched"`` (the same noise, carried into the network's units), or
        ``"paper"`` (squared differences in the network's units, every valid pixel alike: M19 eq. 2).
    solver
        ``"lbfgs"``, ``"lbfgs-plain"`` or ``"adam"`` (the paper's).
    num_steps
        Largest number of steps per object; by default 100, and 500 with ``"adam"``.
    tolerance
        A fit ends when the next step would lower the objective by less than this fraction of it, by default
        7e-5. ``"adam"`` takes all its steps.
    passes
        Passes of the model's refiner, which improves each start before the fit. By default 2 in mode
        ``"both"`` if the model has a refiner (`teach`), else 0. In mode ``"embedder"`` they improve the guess
        that is the result.
    num_starts
        Starts per object; the best fit is kept. In mode ``"both"`` the first is the embedder's guess.
    prior_strength
        Strength of the unit-normal prior on the latent. By default 1, for the maximum a posteriori; with the
        paper's objective 0.
    amplitudes
        ``"after"``: 1 in the fit, so that latents carry brightness and colour; at the best latent each band's
        is solved for once, and multiplies the model's fluxes. ``"fit"``: free in the fit, by variable
        projection, with ``objective="flux"`` alone. ``"none"``: 1 throughout, as in M19. By default
        ``"after"``; for the paper's objective ``"none"``.
    centre_fwhm_arcsec
        Multiply the weights by a Gaussian of this FWHM around the middle.
    batch_size
        Objects that are fitted at the same time.
    seed
        Seed of the random starts, which depend only on the seed and the object's identity.
    """

    objective: Literal["flux", "stretched", "paper"] = "flux"
    solver: Literal["lbfgs", "lbfgs-plain", "adam"] = "lbfgs"
    num_steps: Annotated[int, Range(ge=1)] | None = None
    tolerance: Annotated[float, Range(ge=0)] | None = None
    passes: Annotated[int, Range(ge=0)] | None = None
    num_starts: Annotated[int, Range(ge=1)] = 1
    prior_strength: Annotated[float, Range(ge=0)] | None = None
    amplitudes: Literal["after", "fit", "none"] | None = None
    centre_fwhm_arcsec: Annotated[float, Range(gt=0)] | None = None
    batch_size: Annotated[int, Range(ge=1)] = 64
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FitSettings(SolverSettings):
    """Start, neighbours and errors.

    Parameters
    ----------
    mode
        ``"embedder"`` (its guess, as it is), ``"optimise"`` (fit from random latents) or ``"both"`` (fit from
        the embedder's guess).
    neighbours
        ``"mask"``: the pixels of other objects, as the store says, have no influence; ``"keep"``: they are
        fitted like all others.
    uncertainty
        Compute ``latent_std`` and the errors of the model fluxes; NaN in the features where not. By default
        in the modes that fit: of the embedder's guess it would take most of the time.
    precision
        Of the generator's convolutions during the fit, on a GPU: ``"float32"``, ``"float16"`` or
        ``"bfloat16"``. Residuals, sums and latents are float32 in any case, and each fit is brought to its
        end in float32 from where half precision has come to.
    """

    mode: Literal["embedder", "optimise", "both"] = "both"
    neighbours: Literal["mask", "keep"] = "mask"
    uncertainty: bool | None = None
    precision: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(FitSettings, include_extras=True).items():
            convert(getattr(self, name), hint, where="fit", key=name)
        is_paper = self.objective == "paper"
        if self.prior_strength is None:
            object.__setattr__(self, "prior_strength", 0.0 if is_paper else 1.0)
        if self.amplitudes is None:
            object.__setattr__(self, "amplitudes", "none" if is_paper else "after")
        if self.uncertainty is None:
            object.__setattr__(self, "uncertainty", self.mode != "embedder")
        if self.amplitudes == "fit" and self.objective != "flux":
            raise InputError(
                f"fit: amplitudes are factors on fluxes and mean nothing with objective={self.objective!r}; "
                "use objective='flux', or amplitudes='after' or 'none'"
            )

    @property
    def strength(self) -> float:
        """`prior_strength`, which is settled by now."""
        assert self.prior_strength is not None
        return self.prior_strength

    def resolved(self, has_refiner: bool) -> FitSettings:
        """Settle what depends on the model: `passes`.

        Raises
        ------
        InputError
            Passes of a refiner that the model does not have.
        """
        passes = self.passes
        if passes is None:
            passes = PASSES if has_refiner and (self.mode, self.solver) == ("both", "lbfgs") else 0
        if passes and not has_refiner:
            raise InputError(
                f"fit: passes={passes}, but this model has no refiner; teach it one with `deepfits teach`, "
                "or leave passes out"
            )
        return replace(self, passes=passes)
