"""Selection of the training set, and batches whose order depends only on seed and step.

Shapes: N objects, B bands, H, W pixels.

Shards are loaded in groups that fit in memory; a store that fits as a whole is one group, loaded once. In
each epoch the shards and the objects within a group are shuffled by a pure function of seed and epoch, so
that a training resumed at step s sees the same images as an uninterrupted one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from deepfits.errors import InputError
from deepfits.models.sight import sight_of
from deepfits.observation import SceneGrid, Sight
from deepfits.progress import Progress, Task, silent
from deepfits.splits import PerObject, is_held_out
from deepfits.survey.neighbours import neighbours_of
from deepfits.survey.normalise import Kind, Normalisation, is_complete
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo
from deepfits.symmetries import NUM_SYMMETRIES, symmetry
from deepfits.training.noise import measure_autocovariance

SCENE_SAMPLE = 1000
NOISE_SAMPLE = 4000  # objects: about 4000 × 700 outer pixels are plenty


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The objects of a store to train on, and statistics measured over them."""

    rows: tuple[np.ndarray, ...]  # row indices to train on, for each shard
    num_complete: int  # of the whole store, without held-out objects
    num_incomplete: int  # likewise
    num_held_out: int
    normalisation: Normalisation  # measured over all complete training images
    autocovariance: np.ndarray  # autocovariance of the noise, (B, 2k+1, 2k+1): see `deepfits.training.noise`
    fingerprint: str  # hash of the objects trained on and of their pixel statistics

    @property
    def num_used(self) -> int:
        """Number of objects to train on."""
        return sum(len(rows) for rows in self.rows)


def measure_training_set(
    store: CutoutStore,
    *,
    kind: Kind = "asinh",
    softening_sigmas: float = 3.0,
    incomplete: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> TrainingSet:
    """Select the objects to train on, and measure their normalisation and noise.

    This takes two passes over the store, with one shard in memory at a time: the noise is measured first,
    because it sets the softening of the asinh stretch.
    """
    used, complete = [], []
    counts = {"complete": 0, "incomplete": 0, "held_out": 0}
    weights, sample_image, sample_weight = [], [], []
    digest = hashlib.sha256(repr(store.info.to_json()).encode())
    share = min(1.0, NOISE_SAMPLE / max(len(store), 1))
    rng = np.random.default_rng([seed, 1])
    with progress("measure", total=len(store), unit="objects") as task:
        for cutouts in store:
            out = is_held_out(cutouts.object_id)
            whole = is_complete(cutouts.image, cutouts.weight) & ~out
            has_data = (cutouts.weight > 0).any(axis=(1, 2, 3)) & ~out
            counts["complete"] += int(whole.sum())
            counts["incomplete"] += int((~whole & ~out).sum())
            counts["held_out"] += int(out.sum())
            rows = np.flatnonzero(has_data if incomplete else whole)
            used.append(rows)
            complete.append(np.flatnonzero(whole))
            digest.update(repr(cutouts.object_id[rows].tolist()).encode())
            if whole.any():
                weights.append(np.median(cutouts.weight[whole], axis=(2, 3)))
            chosen = np.flatnonzero(whole & (rng.random(len(cutouts)) < share))
            sample_image.append(cutouts.image[chosen])
            sample_weight.append(cutouts.weight[chosen])
            task.advance(len(cutouts) / 2)  # the other half in `_measure`
        if not counts["complete"]:
            raise InputError(
                f"{store.directory}: no complete cutout to train on ({counts['incomplete']} have bad pixels "
                f"or missing bands, {counts['held_out']} are held out); cut more objects, or leave out the "
                "band that is missing"
            )
        softening = softening_sigmas / np.sqrt(np.median(np.concatenate(weights), axis=0))
        normalisation = _measure(store, complete, kind, softening, task)
    digest.update(repr(normalisation.to_json()).encode())
    return TrainingSet(
        rows=tuple(used),
        num_complete=counts["complete"],
        num_incomplete=counts["incomplete"],
        num_held_out=counts["held_out"],
        normalisation=normalisation,
        autocovariance=measure_autocovariance(np.concatenate(sample_image), np.concatenate(sample_weight)),
        fingerprint=digest.hexdigest()[:16],
    )


def _measure(
    store: CutoutStore, rows: Sequence[np.ndarray], kind: Kind, softening: np.ndarray, task: Task
) -> Normalisation:
    """Measure mean and standard deviation of the (stretched) flux over all pixels, shard by shard."""
    number = 0
    total, squares = np.zeros((2, len(store.info.bands)))
    for shard, which in enumerate(rows):
        image = store.read_shard(shard, columns=[]).image
        task.advance(len(image) / 2)
        value = image[which].astype(np.float64)
        if kind == "asinh":
            value = np.arcsinh(value / softening[:, None, None])
        number += value[:, 0].size
        total = total + value.sum(axis=(0, 2, 3))
        squares = squares + (value**2).sum(axis=(0, 2, 3))
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    if not (std > 0).all():
        band = store.info.bands[int(np.argmin(std))]
        raise InputError(f"{store.directory}: band {band} has the same value in every pixel; leave it out")
    return Normalisation(
        kind=kind, mean=tuple(mean.tolist()), std=tuple(std.tolist()), softening=tuple(softening.tolist())
    )


def measure_for_scenes(
    stores: Sequence[CutoutStore],
    surveys: Sequence[TrainingSet],
    grid: SceneGrid,
    *,
    softening_sigmas: float,
    seed: int,
) -> Normalisation:
    """Measure the constants of the asinh stretch for several stores jointly, on the scenes' pixel grid.

    The softening is set by the 25th percentile of the noise, i.e. by the deepest images: shallower ones are
    shrunk where noise dominates (`deepfits.observation.Sight.on_grid`), and bright pixels are in the
    logarithmic regime in any case.
    """
    rng = np.random.default_rng([seed, 6])
    parts, noises = [], []
    for store, survey in zip(stores, surveys, strict=True):
        starts = np.concatenate([[0], np.cumsum(store.lengths)])
        rows = np.concatenate([rows + at for rows, at in zip(survey.rows, starts[:-1], strict=True)])
        chosen = np.sort(rng.permutation(rows)[:SCENE_SAMPLE])
        cutouts = store.take(chosen)
        cutouts = cutouts.take(is_complete(cutouts.image, cutouts.weight))
        sight = sight_of(cutouts, store.info, grid)
        noises.append(sight.area / np.sqrt(np.median(cutouts.weight, axis=(2, 3))))
        parts.append((torch.from_numpy(cutouts.image), torch.from_numpy(cutouts.weight), sight))
    softening = softening_sigmas * np.quantile(np.concatenate(noises), 0.25, axis=0)
    floor = torch.from_numpy(softening).float()[:, None, None]
    stretched = torch.cat([torch.asinh(s.on_grid(i, w, floor) / floor) for i, w, s in parts]).double()
    mean, std = stretched.mean((0, 2, 3)), stretched.std((0, 2, 3))
    return Normalisation(
        kind="asinh", mean=tuple(mean.tolist()), std=tuple(std.tolist()), softening=tuple(softening.tolist())
    )


@dataclass(frozen=True)
class Batch(PerObject):
    """Real images in nJy and their weights in nJy⁻², both ``(N, B, H, W)``; 0 flux where the weight is 0."""

    image: Tensor
    weight: Tensor
    sight: Sight | None = None

    @classmethod
    def of(cls, cutouts: Cutouts, info: StoreInfo, grid: SceneGrid | None, *, mask_neighbours: bool) -> Self:
        """Take cutouts of a store, on the CPU; weights are 0 in the pixels of neighbours if these are masked.

        With the grid of a model of scenes, the batch also states how each object was observed.
        """
        weight = cutouts.weight
        if mask_neighbours:
            weight = np.where(neighbours_of(cutouts, info)[:, None], np.float32(0), weight)
        image = np.where(weight > 0, cutouts.image, np.float32(0))
        sight = None if grid is None else sight_of(cutouts, info, grid)
        return cls(torch.from_numpy(image), torch.from_numpy(weight), sight)

    def to(self, device: torch.device) -> Self:
        """Move the tensors to a device."""
        sight = None if self.sight is None else self.sight.to(device)
        return replace(self, image=self.image.to(device), weight=self.weight.to(device), sight=sight)


class Batches:
    """Endless batches of real images, starting at any step.

    `rows` are those to use of each shard. Shards are held on the `device` in groups of at most
    `memory_bytes`; the incomplete last batch of a group is dropped. With `symmetries`, each image is flipped
    and rotated at random, by quarter turns. A model of scenes needs their pixel `grid`: the batches then
    state how each object was observed.
    """

    def __init__(
        self,
        store: CutoutStore,
        rows: tuple[np.ndarray, ...],
        batch_size: int,
        *,
        seed: int,
        symmetries: bool = False,
        device: torch.device | str = "cpu",
        memory_bytes: float = 4e9,
        grid: SceneGrid | None = None,
        mask_neighbours: bool = False,
    ) -> None:
        self.grid = grid
        self.store, self.rows, self.batch_size, self.seed = store, rows, batch_size, seed
        self.symmetries, self.device = symmetries, torch.device(device)
        num_used = sum(len(r) for r in rows)
        if num_used < batch_size:
            raise InputError(
                f"{store.directory}: {num_used} objects to train on, fewer than a batch of {batch_size}; "
                f"cut more objects, or make the batches smaller, such as batch_size={max(num_used // 4, 1)}"
            )
        object_bytes = 8 * int(np.prod(store.shape))
        self._capacity = max(batch_size, int(memory_bytes // object_bytes))
        self.mask_neighbours = mask_neighbours
        self._loaded: tuple[tuple[int, ...], Batch] | None = None

    def groups(self, epoch: int) -> list[tuple[int, ...]]:
        """Return the groups of shards in the order of one epoch; each group holds at least one batch."""
        shards = [number for number, rows in enumerate(self.rows) if len(rows)]
        if self._count(shards) <= self._capacity:
            return [tuple(shards)]
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(shards).tolist()
        groups: list[list[int]] = [[]]
        for shard in order:
            held = self._count(groups[-1])
            if held >= self.batch_size and held + len(self.rows[shard]) > self._capacity:
                groups.append([])
            groups[-1].append(shard)
        if len(groups) > 1 and self._count(groups[-1]) < self.batch_size:
            groups[-2] += groups.pop()
        return [tuple(group) for group in groups]

    def plan(self, epoch: int) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """Return the batches of one epoch: for each, its group of shards and row indices into the group."""
        batches = []
        for number, group in enumerate(self.groups(epoch)):
            length = self._count(group)
            order = np.random.default_rng([self.seed, 3, epoch, number]).permutation(length)
            whole = length // self.batch_size * self.batch_size
            batches += [(group, part) for part in order[:whole].reshape(-1, self.batch_size)]
        return batches

    def start(self, step: int) -> Iterator[Batch]:
        """Yield batches from step `step` on (counted from 0), epoch after epoch."""
        epoch, before = 0, 0
        while True:
            plan = self.plan(epoch)
            for number in range(max(step - before, 0), len(plan)):
                group, which = plan[number]
                yield self._turn(self._take(group, which), before + number)
            before += len(plan)
            epoch += 1

    def _count(self, shards: Sequence[int]) -> int:
        return sum(len(self.rows[shard]) for shard in shards)

    def _take(self, group: tuple[int, ...], which: np.ndarray) -> Batch:
        if self._loaded is None or self._loaded[0] != group:
            self._loaded = None  # free the previous group before loading the next
            self._loaded = (group, self._load(group))
        return self._loaded[1].take(torch.as_tensor(which, device=self.device))

    def _load(self, group: tuple[int, ...]) -> Batch:
        """Read the shards of a group into preallocated arrays."""
        shape = (self._count(group), *self.store.shape)
        image, weight = torch.empty(shape), torch.empty(shape)
        at, sights = 0, []
        for shard in group:
            cutouts = self.store.read_shard(shard, columns=None if self.grid else []).take(self.rows[shard])
            batch = Batch.of(cutouts, self.store.info, self.grid, mask_neighbours=self.mask_neighbours)
            part = slice(at, at + len(batch))
            image[part], weight[part] = batch.image, batch.weight
            if batch.sight is not None:
                sights.append(batch.sight)
            at += len(batch)
        return Batch(image, weight, Sight.join(sights) if sights else None).to(self.device)

    def _turn(self, batch: Batch, step: int) -> Batch:
        if not self.symmetries:
            return batch
        which = np.random.default_rng([self.seed, 4, step]).integers(NUM_SYMMETRIES, size=len(batch))
        index = torch.as_tensor(which, device=batch.image.device)
        sight = batch.sight
        if sight is not None:  # PSFs are round, so only the positions change
            sight = replace(sight, shift_pixels=turn_shift(sight.shift_pixels, index))
        return Batch(turn(batch.image, index), turn(batch.weight, index), sight)


class MixedBatches:
    """Batches drawn from several stores, in an order that depends only on seed and step.

    Each batch comes from a single store; stores are chosen in proportion to their numbers of objects.
    """

    def __init__(self, parts: list[Batches], seed: int) -> None:
        self.parts, self.seed = parts, seed
        number = np.array([sum(len(rows) for rows in part.rows) for part in parts], dtype=float)
        self.ends = np.cumsum(number / number.sum())

    def start(self, step: int) -> Iterator[tuple[int, Batch]]:
        """Yield the index of the store and the batch, from step `step` on."""
        draw = np.random.default_rng([self.seed, 5])
        last = len(self.parts) - 1
        before = np.minimum(np.searchsorted(self.ends, draw.random(step), side="right"), last)
        each = [part.start(int((before == n).sum())) for n, part in enumerate(self.parts)]
        while True:
            chosen = min(int(np.searchsorted(self.ends, draw.random(), side="right")), last)
            yield chosen, next(each[chosen])


def turn_shift(shift: Tensor, which: Tensor) -> Tensor:
    """Apply the symmetries of `turn` to offsets (y, x) from the centre, ``(N, 2)``."""
    y, x = shift.unbind(1)
    for number in range(1, 4):
        turned = which % 4 >= number
        y, x = torch.where(turned, -x, y), torch.where(turned, y, x)
    return torch.stack((y, torch.where(which >= 4, -x, x)), dim=1)


def turn(image: Tensor, which: Tensor) -> Tensor:
    """Apply one of the eight symmetries of the square, `which` in 0..7, to each image, ``(N, B, H, H)``."""
    out = torch.empty_like(image)
    for number in range(NUM_SYMMETRIES):
        chosen = which == number
        out[chosen] = symmetry(image[chosen], number)
    return out
