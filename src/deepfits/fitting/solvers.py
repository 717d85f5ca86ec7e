"""Solvers: given losses and gradients so far, where to evaluate next.

Shapes: N slots (one object each), L latent dimensions, M remembered pairs.

A solver is three functions on a state that is a dictionary of tensors with one row per slot: `init` starts
all slots, `step` takes an evaluation at ``state["trial"]`` and sets the next trial, `terminate` says which
slots are done. No row ever reads another row: slots can be refilled one by one, and objects never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from deepfits.fitting.metric import Metric, TaughtMetric

State = dict[str, Tensor]
MOVED_AT_ONCE = 256  # objects whose metric a GPU takes anew in one step; more wait for the next


class Solver(Protocol):
    """What the engine asks of a solver.

    One whose steps a GPU can record (`deepfits.recording`) says so with an attribute ``can_record``.
    """

    @property
    def num_steps(self) -> int:
        """The most steps of one object; each costs one gradient evaluation."""

    def init(self, start: Tensor) -> State:
        """Start all slots at ``(N, L)``; the first evaluation will be there."""

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Take the evaluation at ``state["trial"]`` and set the next trial, in place."""

    def terminate(self, state: State) -> Tensor:
        """Return which slots have converged, ``(N,)`` bool."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """The paper's solver (M19 §2.3): Adam with learning rate 0.25, a fixed number of steps.

    The update is `torch.optim.Adam`'s, per slot with its own step count.
    """

    num_steps: int = 500
    learning_rate: float = 0.25
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def init(self, start: Tensor) -> State:
        """Start with empty moments."""
        return {
            "trial": start.clone(),
            "mean": torch.zeros_like(start),
            "square": torch.zeros_like(start),
            "count": torch.zeros_like(start[:, 0]),
        }

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Update the moments and move (Kingma & Ba 2015, algorithm 1)."""
        beta1, beta2 = self.betas
        count = state["count"].add_(1)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = self.learning_rate / (1 - beta1**count)
        spread = state["square"].sqrt() / (1 - beta2**count).sqrt()[:, None] + self.epsilon
        state["trial"].sub_(size[:, None] * state["mean"] / spread)

    def terminate(self, state: State) -> Tensor:
        """Return that no slot is done before its last step."""
        return torch.zeros_like(state["count"], dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Limited-memory BFGS, all slots side by side, in the metric of an average Gauss–Newton matrix.

    Each step costs one gradient evaluation: the trial is accepted when the loss falls enough (Armijo), else
    the step is shortened by a parabola through what is known, while the other slots go on.

    Source: Nocedal & Wright, *Numerical Optimization* (2006), algorithms 7.4 and 3.5.

    Attributes
    ----------
    metric
        Whose inverse near the object is the initial inverse Hessian, up to a factor; None means the identity.
    memory
        Pairs remembered.
    tolerance
        Converged when the next step promises to lower the loss by less than this (relative): half the slope
        along its direction, which is exact where the loss is a parabola with the Hessian that is known
        (Boyd & Vandenberghe 2004, §9.5: the Newton decrement). 0 never converges.
    first_step
        Length of the first trial step in units of its direction, whose scale is not known yet.
    max_step
        No step is longer than this (root mean square per latent).
    metric_reach
        The metric is taken anew where an object has come farther than this (root mean square per latent) from
        where it was taken; fits from an embedder's guess never do.
    """

    num_steps: int = 100
    metric: Metric | TaughtMetric | None = None
    memory: int = 12
    tolerance: float = 7e-5
    sufficient_decrease: float = 1e-4
    max_step: float = 1.0
    first_step: float = 0.1
    max_failures: int = 6
    metric_reach: float = 1.0
    can_record: ClassVar[bool] = True

    def init(self, start: Tensor) -> State:
        """Start without memory: the first direction is the preconditioned gradient."""
        number, length = start.shape
        count = torch.zeros_like(start[:, 0])
        pairs = start.new_zeros(number, self.memory, length)
        state = {}
        if self.metric is not None:
            state = {"inverse_metric": self.metric.inverse(start), "anchor": start.clone()}
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
            "rho": start.new_zeros(number, self.memory),  # 0 where there is no pair
            "scale": count.clone(),  # of the initial inverse Hessian; 0 before the first pair
            "failures": count.clone(),
            "is_done": torch.zeros_like(count, dtype=torch.bool),
        }

    def step(self, state: State, loss: Tensor, gradient: Tensor) -> None:
        """Accept or shorten, slot by slot."""
        is_first = ~torch.isfinite(state["loss"])
        enough = state["loss"] + self.sufficient_decrease * state["length"] * state["slope"]
        is_finite = torch.isfinite(loss) & torch.isfinite(gradient).all(1)
        accepted = is_finite & (is_first | (loss <= enough))
        self._remember(state, gradient, accepted & ~is_first)
        shortened = self._shorten(state, loss, is_finite)
        for name, value in (("latent", state["trial"]), ("gradient", gradient)):
            state[name] = torch.where(accepted[:, None], value, state[name])
        state["loss"] = torch.where(accepted, loss, state["loss"])
        self._move_metric(state)
        self._aim(state, accepted)
        self._judge(state, accepted)
        state["length"] = torch.where(accepted, self._first_length(state), shortened)
        state["failures"] = torch.where(accepted, 0, state["failures"] + 1)
        state["is_done"] = state["is_done"] | (state["failures"] > self.max_failures)
        state["trial"] = state["latent"] + state["length"][:, None] * state["direction"]

    def terminate(self, state: State) -> Tensor:
        """Return which slots converged, or cannot go down any further along any direction known."""
        return state["is_done"]

    def _remember(self, state: State, gradient: Tensor, accepted: Tensor) -> None:
        s, y = state["trial"] - state["latent"], gradient - state["gradient"]
        product = (s * y).sum(1)
        curved = product > 1e-6 * (s * s).sum(1).sqrt() * (y * y).sum(1).sqrt()
        keep = (accepted & curved)[:, None]
        metric_y = _through_metric(state, y)
        scale = product / (y * metric_y).sum(1)
        rho = torch.where(keep[:, 0], 1 / product, 0)
        for name, new in (("s", s), ("y", y), ("rho", rho)):
            rolled = torch.cat((state[name][:, 1:], new[:, None]), dim=1)  # the newest pair is the last
            mask = keep[:, :, None] if state[name].ndim == 3 else keep
            state[name] = torch.where(mask, rolled, state[name])
        state["scale"] = torch.where(keep[:, 0], scale, state["scale"])

    def _judge(self, state: State, accepted: Tensor) -> None:
        """Mark what the next step can hardly improve, once a pair has told the scale of its direction."""
        promised = -0.5 * state["slope"]
        is_small = (state["scale"] > 0) & (promised < self.tolerance * state["loss"].abs())
        state["is_done"] = state["is_done"] | (accepted & is_small)

    def _shorten(self, state: State, loss: Tensor, is_finite: Tensor) -> Tensor:
        """Minimise the parabola through loss, slope and the failed trial, within limits."""
        length, slope = state["length"], state["slope"]
        curvature = loss - state["loss"] - length * slope
        best = -slope * length**2 / (2 * curvature)
        best = torch.where(is_finite & torch.isfinite(best), best, 0.1 * length)
        return torch.minimum(torch.maximum(best, 0.05 * length), 0.5 * length)

    def _move_metric(self, state: State) -> None:
        """Take the metric anew where an object has come far from where its metric was taken."""
        if self.metric is None:
            return
        away = (state["latent"] - state["anchor"]).square().mean(1).sqrt() > self.metric_reach
        if away.is_cuda:  # always as many rows, so that nothing waits: those that are away, then others
            rows = away.float().topk(min(MOVED_AT_ONCE, len(away))).indices
            moved = away[rows]
            for name, fresh in (
                ("inverse_metric", self.metric.inverse(state["latent"][rows])),
                ("anchor", state["latent"][rows]),
            ):
                is_new = moved.view(-1, *(1,) * (fresh.ndim - 1))
                state[name][rows] = torch.where(is_new, fresh, state[name][rows])
            return
        rows = away.nonzero()[:, 0]
        if len(rows):
            state["inverse_metric"][rows] = self.metric.inverse(state["latent"][rows])
            state["anchor"][rows] = state["latent"][rows]

    def _aim(self, state: State, accepted: Tensor) -> None:
        """Set direction and slope from the two-loop recursion, where a trial was accepted."""
        g = state["gradient"]
        direction = -self._apply_inverse_hessian(state, g)
        slope = (direction * g).sum(1)
        state["direction"] = torch.where(accepted[:, None], direction, state["direction"])
        state["slope"] = torch.where(accepted, slope, state["slope"])
        # An exactly zero gradient is a minimum; an uphill direction cannot occur while all rho are positive.
        state["is_done"] = state["is_done"] | (accepted & ~(slope < 0))

    def _apply_inverse_hessian(self, state: State, g: Tensor) -> Tensor:
        s, y, rho = state["s"], state["y"], state["rho"]
        q, alphas = g, []
        for index in reversed(range(self.memory)):
            alpha = rho[:, index] * (s[:, index] * q).sum(1)
            q = q - alpha[:, None] * y[:, index]
            alphas.append(alpha)
        r = _through_metric(state, q)
        r = r * torch.where(state["scale"] > 0, state["scale"], 1)[:, None]
        for index, alpha in enumerate(reversed(alphas)):
            beta = rho[:, index] * (y[:, index] * r).sum(1)
            r = r + (alpha - beta)[:, None] * s[:, index]
        return r

    def _first_length(self, state: State) -> Tensor:
        """Take the full step, but none longer than `max_step` per latent (root mean square)."""
        size = (state["direction"] ** 2).mean(1).sqrt()
        wanted = torch.where(state["scale"] > 0, 1.0, self.first_step)
        return torch.minimum(wanted, self.max_step / size.clamp_min(1e-30))


def _through_metric(state: State, g: Tensor) -> Tensor:
    """Multiply row by row: the last bits of a matrix product would know the other rows."""
    if "inverse_metric" not in state:
        return g
    return (g[:, None, :] * state["inverse_metric"]).sum(2)
