"""Solvers: from the losses and gradients so far, where to evaluate next.

Shapes: N slots (one object each), L latent dimensions, M remembered pairs.

A solver is three functions on a state, a dictionary of tensors with one row per slot: `init` starts all
slots, `step` takes the evaluation at ``state["trial"]`` and sets the next trial, and `terminate` says which
slots are done. Rows never interact, so slots can be refilled one by one.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from deepfits.fitting.metric import Metric

State = dict[str, Tensor]
MOVED_AT_ONCE = 256  # objects whose metric is recomputed in one step on a GPU; others wait for the next


class Solver(Protocol):
    """Interface of a solver.

    A solver whose steps can be captured in a CUDA graph (`deepfits.recording`) has an attribute
    ``can_record``.
    """

    @property
    def num_steps(self) -> int:
        """Maximum number of steps per object, each of which costs one gradient evaluation."""

    def init(self, start: Tensor) -> State:
        """Return the state for starts ``(N, L)``, which are the first trials."""

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Use the evaluation at ``state["trial"]`` to set the next trial, in place."""

    def terminate(self, state: State) -> Tensor:
        """Return which slots have converged, ``(N,)`` bool."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with learning rate 0.25 and a fixed number of steps, the paper's solver (M19 §2.3).

    The update is that of `torch.optim.Adam`, with a step count for each slot.
    """

    num_steps: int = 500
    learning_rate: float = 0.25
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def init(self, start: Tensor) -> State:
        """Start with zero moments."""
        return {
            "trial": start.clone(),
            "mean": torch.zeros_like(start),
            "square": torch.zeros_like(start),
            "count": torch.zeros_like(start[:, 0]),
        }

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Update the moments and the trial (Kingma & Ba 2015, algorithm 1)."""
        beta1, beta2 = self.betas
        count = state["count"].add_(1)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step_size = self.learning_rate / (1 - beta1**count)
        rms = state["square"].sqrt() / (1 - beta2**count).sqrt()[:, None] + self.epsilon
        state["trial"].sub_(step_size[:, None] * state["mean"] / rms)

    def terminate(self, state: State) -> Tensor:
        """Return False everywhere: all steps are taken."""
        return torch.zeros_like(state["count"], dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Limited-memory BFGS for all slots in parallel, preconditioned by the generator's Gauss–Newton matrix.

    Each step costs one gradient evaluation: the trial is accepted if the loss decreases sufficiently
    (Armijo); otherwise the step is shortened by quadratic interpolation, while the other slots go on.

    Sources: Nocedal & Wright, *Numerical Optimization* (2006), algorithms 7.5 and 3.5. The inverse Hessian is
    applied in compact form, with fewer operations than by two loops over the pairs (Byrd, Nocedal & Schnabel
    1994, theorem 2.2): with the pairs (s, y) as columns of S and Y, oldest first, R is the upper triangle of
    SᵀY and D its diagonal. Pairs are stored in any order; a new one takes the place of the oldest.

    The inverse of the metric near the object, times a scale factor, is the initial inverse Hessian (without a
    metric, the identity); it is recomputed where the latent at which the metric is evaluated
    (`Metric.where_known`) has moved farther than `metric_reach`.

    A slot has converged when the predicted decrease of its next step is below the fraction `tolerance` of the
    loss; with 0 it never does. The prediction is half the slope along the direction, which is exact for a
    quadratic with the current Hessian (half the squared Newton decrement: Boyd & Vandenberghe 2004, §9.5).
    """

    num_steps: int = 100
    metric: Metric | None = None
    memory: int = 12  # pairs (s, y) that are kept
    tolerance: float = 7e-5
    sufficient_decrease: float = 1e-4
    max_step: float = 1.0  # root mean square per latent
    first_step: float = 0.1  # in units of its direction, whose scale is not known yet
    max_failures: int = 6
    metric_reach: float = 1.0  # root mean square per latent
    can_record: ClassVar[bool] = True

    def init(self, start: Tensor) -> State:
        """Start without memory: the first direction is the preconditioned negative gradient."""
        number, length = start.shape
        count = torch.zeros_like(start[:, 0])
        pairs = start.new_zeros(number, self.memory, length)
        state = {}
        if self.metric is not None:
            state = {"inverse_metric": self.metric.inverse(start), "anchor": self.metric.where_known(start)}
        return state | {
            "trial": start.clone(),
            "latent": start.clone(),
            "loss": torch.full_like(count, torch.inf),
            "gradient": torch.zeros_like(start),
            "direction": torch.zeros_like(start),
            "slope": count.clone(),  # directional derivative of the loss along the direction
            "length": count.clone(),  # of the current trial step, in units of the direction
            "s": pairs.clone(),
            "y": pairs.clone(),
            "sy": start.new_zeros(number, self.memory),  # D, the products sᵀy; 0 where there is no pair
            "inverse_r": start.new_zeros(number, self.memory, self.memory),
            "oldest": torch.zeros_like(count, dtype=torch.int64),  # where the next pair goes
            "scale": count.clone(),  # of the initial inverse Hessian; 0 before the first pair
            "failures": count.clone(),
            "is_done": torch.zeros_like(count, dtype=torch.bool),
        }

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Accept the trial or shorten the step, slot by slot."""
        is_first = ~torch.isfinite(state["loss"])
        enough = state["loss"] + self.sufficient_decrease * state["length"] * state["slope"]
        is_finite = torch.isfinite(loss) & torch.isfinite(gradient).all(1)
        accepted = is_finite & (is_first | (loss <= enough))
        self._remember(state, gradient, accepted & ~is_first)
        shortened = self._shorten(state, loss, is_finite)
        for name, value in (("latent", state["trial"]), ("gradient", gradient)):
            state[name] = _choose(accepted, value, state[name])
        state["loss"] = torch.where(accepted, loss, state["loss"])
        self._update_metric(state)
        self._set_direction(state, accepted)
        self._mark_converged(state, accepted)
        state["length"] = torch.where(accepted, self._first_length(state), shortened)
        state["failures"] = torch.where(accepted, 0, state["failures"] + 1)
        state["is_done"] = state["is_done"] | (state["failures"] > self.max_failures)
        state["trial"] = state["latent"] + state["length"][:, None] * state["direction"]

    def terminate(self, state: State) -> Tensor:
        """Return which slots have converged, or cannot decrease the loss along their direction."""
        return state["is_done"]

    def _remember(self, state: State, gradient: Tensor, accepted: Tensor) -> None:
        """Put the new pair in the place of the oldest, where the loss is convex along the step."""
        s, y = state["trial"] - state["latent"], gradient - state["gradient"]
        product = (s * y).sum(1)
        curved = product > 1e-6 * (s * s).sum(1).sqrt() * (y * y).sum(1).sqrt()
        keep = accepted & curved
        scale = product / (y * _apply_inverse_metric(state, y)).sum(1)
        state["scale"] = torch.where(keep, scale, state["scale"])
        # R loses the row and the column of the oldest pair and gains a column, and so does R⁻¹
        place = torch.arange(len(y), device=y.device), state["oldest"]
        products = (state["s"] * y[:, None]).sum(2)
        products[place] = 0
        column = (state["inverse_r"] * products[:, None]).sum(2) / -product[:, None]
        column[place] = 1 / product
        by_column = state["inverse_r"].mT
        for pairs, new in (
            (state["s"], s),
            (state["y"], y),
            (state["sy"], product),
            (state["inverse_r"], 0),
            (by_column, column),
        ):
            pairs[place] = _choose(keep, new, pairs[place])
        state["oldest"] = (state["oldest"] + keep) % self.memory

    def _mark_converged(self, state: State, accepted: Tensor) -> None:
        """Mark slots whose next step would hardly lower the loss, once a pair has set its scale."""
        decrease = -0.5 * state["slope"]
        is_small = (state["scale"] > 0) & (decrease < self.tolerance * state["loss"].abs())
        state["is_done"] = state["is_done"] | (accepted & is_small)

    def _shorten(self, state: State, loss: Tensor, is_finite: Tensor) -> Tensor:
        """Minimise the parabola through loss, slope and the failed trial, within limits."""
        length, slope = state["length"], state["slope"]
        curvature = loss - state["loss"] - length * slope
        best = -slope * length**2 / (2 * curvature)
        best = torch.where(is_finite & torch.isfinite(best), best, 0.1 * length)
        return torch.minimum(torch.maximum(best, 0.05 * length), 0.5 * length)

    def _update_metric(self, state: State) -> None:
        """Recompute the metric of objects that have moved far from where it was computed."""
        if self.metric is None:
            return
        now = self.metric.where_known(state["latent"])
        is_far = (now - state["anchor"]).square().mean(1).sqrt() > self.metric_reach
        if is_far.is_cuda:  # a fixed number of rows, far ones first, so that the host need not synchronise
            rows = is_far.float().topk(min(MOVED_AT_ONCE, len(is_far))).indices
            moved = is_far[rows]
            for name, fresh in (
                ("inverse_metric", self.metric.inverse(state["latent"][rows])),
                ("anchor", now[rows]),
            ):
                state[name][rows] = _choose(moved, fresh, state[name][rows])
            return
        rows = is_far.nonzero()[:, 0]
        if len(rows):
            state["inverse_metric"][rows] = self.metric.inverse(state["latent"][rows])
            state["anchor"][rows] = now[rows]

    def _set_direction(self, state: State, accepted: Tensor) -> None:
        """Set direction and slope where a trial was accepted."""
        g = state["gradient"]
        direction = -self._apply_inverse_hessian(state, g)
        slope = (direction * g).sum(1)
        state["direction"] = _choose(accepted, direction, state["direction"])
        state["slope"] = torch.where(accepted, slope, state["slope"])
        # A zero gradient is a minimum; an ascent direction cannot occur but by rounding.
        state["is_done"] = state["is_done"] | (accepted & ~(slope < 0))

    def _apply_inverse_hessian(self, state: State, g: Tensor) -> Tensor:
        """Return Hg = r + S R⁻ᵀ (D p - Yᵀr) with p = R⁻¹Sᵀg and r = H₀ (g - Y p), `g` being ``(N, L)``."""
        s, y, inverse_r = state["s"], state["y"], state["inverse_r"]
        p = (inverse_r * (s * g[:, None]).sum(2)[:, None]).sum(2)
        r = _apply_inverse_metric(state, g - (y * p[:, :, None]).sum(1))
        r = r * torch.where(state["scale"] > 0, state["scale"], 1)[:, None]
        rest = state["sy"] * p - (y * r[:, None]).sum(2)
        return r + (s * (inverse_r * rest[:, :, None]).sum(1)[:, :, None]).sum(1)

    def _first_length(self, state: State) -> Tensor:
        """Return the full step, limited to `max_step` per latent (root mean square)."""
        size = (state["direction"] ** 2).mean(1).sqrt()
        wanted = torch.where(state["scale"] > 0, 1.0, self.first_step).to(size)  # any default dtype
        return torch.minimum(wanted, self.max_step / size.clamp_min(1e-30))


def _choose(is_new: Tensor, new: Tensor | float, old: Tensor) -> Tensor:
    """Return the new rows where `is_new`, ``(N,)`` bool, and the old ones elsewhere."""
    return torch.where(is_new.view(-1, *(1,) * (old.ndim - 1)), new, old)


def _apply_inverse_metric(state: State, g: Tensor) -> Tensor:
    """Apply the inverse metric row by row; the last bits of a matrix product would depend on other rows."""
    if "inverse_metric" not in state:
        return g
    return (g[:, :, None] * state["inverse_metric"]).sum(1)  # it is symmetric
