"""The loop of the fit: evaluate, keep the best iterate, step, and refill the slots of finished objects.

Shapes: N objects, K slots, L latent dimensions, B bands, H, W pixels.

Objects are fitted in a fixed number of slots; when one is done, the next in the queue takes its slot. So the
networks always see full batches, and since kernels never change shape, an object's result is the same to the
last bit whatever else is in its batch. Bright objects take the most steps, and without a prior the faintest
ones do too. Both go first and ordinary ones last, so that few slots idle at the end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from threading import Event
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from deepfits.fitting.objective import Objective
from deepfits.fitting.solvers import Solver
from deepfits.observation import Sight
from deepfits.recording import Recording
from deepfits.splits import PerObject

POWER_BATCH = 256

Advance = Callable[[int], None]
Part = TypeVar("Part")
Done = TypeVar("Done")


class Status(IntEnum):
    """How a fit ended; the features hold the names in lower case."""

    CONVERGED = 0
    STEP_LIMIT = 1
    NON_FINITE = 2
    TOO_LITTLE_DATA = 3
    NOT_FITTED = 4  # the embedder's estimate


@dataclass(frozen=True, eq=False)
class Fit(PerObject):
    """The result, one row per object, on the CPU; NaN for objects with too little data.

    Attributes
    ----------
    latent
        ``(N, L)``: the best of all latents that were evaluated.
    loss, loss_start
        ``(N,)``: the objective at `latent`, from the same evaluation, and at the start.
    amplitude
        ``(N, B)``: amplitudes of the bands at `latent`; 1 where they are fixed.
    num_steps, status
        ``(N,)`` int64: gradient evaluations after the one at the start, and a `Status`.
    """

    latent: Tensor
    loss: Tensor
    loss_start: Tensor
    amplitude: Tensor
    num_steps: Tensor
    status: Tensor

    def __repr__(self) -> str:
        names, numbers = np.unique(self.status_names, return_counts=True)
        ends = ", ".join(f"{number:,} {name}" for name, number in zip(names, numbers, strict=True))
        return f"<Fit of {len(self)} objects, {self.latent.shape[1]} latents: {ends}>"

    @property
    def status_names(self) -> np.ndarray:
        """Lower-case names of the statuses, ``(N,)`` str."""
        return np.array([status.name.lower() for status in Status])[self.status.numpy()]

    @classmethod
    def empty(cls, number: int, length: int, bands: int, dtype: torch.dtype = torch.float32) -> Self:
        """Return `number` rows of NaN with status `TOO_LITTLE_DATA`."""

        def unknown(*shape: int) -> Tensor:
            return torch.full(shape, torch.nan, dtype=dtype)

        return cls(
            latent=unknown(number, length),
            loss=unknown(number),
            loss_start=unknown(number),
            amplitude=unknown(number, bands),
            num_steps=torch.zeros(number, dtype=torch.int64),
            status=torch.full((number,), int(Status.TOO_LITTLE_DATA)),
        )


def minimise(
    objective: Objective,
    image: Tensor,
    weight: Tensor,
    start: Tensor,
    solver: Solver,
    *,
    num_slots: int,
    device: torch.device,
    advance: Advance,
    threads: int = 1,
    sight: Sight | None = None,
) -> Fit:
    """Minimise the objective of every object; the number of threads does not change the results.

    Images and weights, ``(N, B, H, W)``, must be finite, and images 0 where the weight is; starts are ``(N,
    L)``. `num_slots` objects are fitted at once (padded if there are fewer), and `advance` is called with the
    number of objects newly done. For a renderer of scenes, `sight` describes how the objects were observed.
    """
    stop = Event()

    def work(rows: Tensor) -> Fit:
        out = Fit.empty(len(rows), start.shape[1], image.shape[1], start.dtype)
        if len(rows):
            data, observed_by = (
                (image[rows], weight[rows], start[rows]),
                None if sight is None else sight.take(rows),
            )
            pool = _Pool(objective, solver, *data, num_slots, device, observed_by)
            while pool.is_busy and not stop.is_set():
                advance(pool.collect(out, *pool.advance()))
        return out

    parts = torch.arange(len(image)).tensor_split(max(1, min(threads, -(-len(image) // num_slots))))
    return Fit.join(in_threads(work, parts, threads, stop=stop))


class _Pool:
    """Slots with one object each: its data, the solver's state, and its best iterate so far."""

    def __init__(
        self,
        objective: Objective,
        solver: Solver,
        image: Tensor,
        weight: Tensor,
        start: Tensor,
        num_slots: int,
        device: torch.device,
        sight: Sight | None,
    ) -> None:
        self.objective, self.solver, self.sight = objective, solver, sight
        self.source = image, weight, start
        parts = zip(image.split(POWER_BATCH), weight.split(POWER_BATCH), strict=True)
        power = torch.cat([(i * i * w).sum((1, 2, 3)) for i, w in parts])
        rank = power.cpu().argsort(stable=True).argsort()
        self.queue = (2 * rank - len(rank) + 1).abs().argsort(descending=True, stable=True)
        self.next = min(num_slots, len(image))
        first = self.queue[torch.arange(num_slots).clamp_max(self.next - 1)]  # spare slots repeat an object
        self.owner = torch.where(torch.arange(num_slots) < self.next, first, -1)
        self.image, self.weight, begin = (t[first].to(device) for t in self.source)
        self.observation = None if sight is None else sight.take(first).to(device).observation(begin.dtype)
        self.state = solver.init(begin)
        bands = self.image.shape[1]
        count = torch.zeros(num_slots, dtype=torch.int64, device=device)
        infinite = torch.full((num_slots,), torch.inf, dtype=begin.dtype, device=device)
        self.best = {
            "latent": begin.clone(),
            "loss": infinite.clone(),
            "loss_start": infinite.clone(),
            "amplitude": torch.ones(num_slots, bands, dtype=begin.dtype, device=device),
            "num_steps": count,
        }
        can_record = all(getattr(part, "can_record", False) for part in (objective.renderer, solver))
        self.recording = Recording(self._advance_in_place) if device.type == "cuda" and can_record else None

    @property
    def is_busy(self) -> bool:
        return bool((self.owner >= 0).any())

    def advance(self) -> tuple[Tensor, Tensor]:
        """Evaluate all trials, keep the best, and step; return which slots converged and which failed."""
        if self.recording is None:
            return self._advance()
        done = self.recording(())
        return done["converged"], done["failed"]

    def _advance_in_place(self) -> dict[str, Tensor]:
        """Advance, writing into the same tensors as before, as a CUDA graph requires."""
        before = dict(self.state), dict(self.best)
        converged, failed = self._advance()
        for kept, now in zip(before, (self.state, self.best), strict=True):
            for name, tensor in kept.items():
                if now[name] is not tensor:
                    tensor.copy_(now[name])
        self.state, self.best = before
        return {"converged": converged, "failed": failed}

    def _advance(self) -> tuple[Tensor, Tensor]:
        best, trial = self.best, self.state["trial"]
        loss, gradient, amplitude = self.objective(trial, self.image, self.weight, self.observation)
        is_first = best["num_steps"] == 0
        better = (loss < best["loss"]) & torch.isfinite(gradient).all(1)
        best["latent"] = torch.where(better[:, None], trial, best["latent"])
        best["amplitude"] = torch.where(better[:, None], amplitude, best["amplitude"])
        best["loss"] = torch.where(better, loss, best["loss"])
        best["loss_start"] = torch.where(is_first, loss, best["loss_start"])
        best["num_steps"] = best["num_steps"] + 1  # evaluations here; steps are one fewer
        self.solver.step(self.state, loss, gradient)
        failed = ~torch.isfinite(best["loss"]) | ~torch.isfinite(self.state["trial"]).all(1)
        return self.solver.terminate(self.state), failed

    def collect(self, out: Fit, converged: Tensor, failed: Tensor) -> int:
        """Write finished objects to `out` and refill their slots; return how many finished."""
        exhausted = self.best["num_steps"] > self.solver.num_steps
        done = (converged | failed | exhausted).cpu() & (self.owner >= 0)
        slots = done.nonzero()[:, 0]
        if not len(slots):
            return 0
        owner = self.owner[slots]
        status = torch.where(converged, int(Status.CONVERGED), int(Status.STEP_LIMIT))
        status = torch.where(failed, int(Status.NON_FINITE), status)
        out.status[owner] = status.cpu()[slots]
        for name, values in self.best.items():
            getattr(out, name)[owner] = values[slots.to(values.device)].cpu()
        out.num_steps[owner] -= 1
        self._refill(slots)
        return len(slots)

    def _refill(self, slots: Tensor) -> None:
        """Give the slots to the next objects in the queue; slots without one idle on their old data."""
        self.owner[slots] = -1
        objects = self.queue[self.next : self.next + len(slots)]
        if not len(objects):
            return
        slots = slots[: len(objects)]
        self.next += len(objects)
        self.owner[slots] = objects
        places = slots.to(self.image.device)
        image, weight, start = (t[objects].to(self.image.device) for t in self.source)
        self.image[places], self.weight[places] = image, weight
        if self.sight is not None and self.observation is not None:
            observation = self.sight.take(objects).to(self.image.device).observation(start.dtype)
            self.observation.put(places, observation)
        for name, fresh in self.solver.init(start).items():
            self.state[name][places] = fresh
        self.best["latent"][places] = start
        for name in ("loss", "loss_start"):
            self.best[name][places] = torch.inf
        self.best["num_steps"][places] = 0


def in_threads(
    work: Callable[[Part], Done], parts: Sequence[Part], threads: int, *, stop: Event | None = None
) -> list[Done]:
    """Apply `work` to independent parts, in threads of one core each; results do not depend on `threads`.

    An error or Ctrl-C sets `stop`, so that parts in progress, which are waited for, can end early.

    Threads that each run small batches of their own keep two cores busier than one batch spread over both,
    and do not compete with other programs for cores as OpenMP's threads do.
    """

    def alone(part: Part) -> Done:
        torch.set_num_threads(1)
        return work(part)

    before, threads = torch.get_num_threads(), min(threads, len(parts))
    try:
        if threads <= 1:  # here, where Ctrl-C takes effect at once and not after the part
            return [alone(part) for part in parts]
        with ThreadPoolExecutor(threads) as executor:
            try:
                return list(executor.map(alone, parts))
            except BaseException:
                if stop is not None:
                    stop.set()
                raise
    finally:
        torch.set_num_threads(before)
