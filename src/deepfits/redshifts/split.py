"""Who trains, who tunes, who tests: decided once, by identity, and stored.

Test objects are the held-out ones of `deepfits.splits`, which the networks never saw either. Inside the
others, a validation part is set aside, stratified in redshift and magnitude: for early stopping and
recalibration, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepfits.errors import InputError
from deepfits.splits import is_held_out, unit_hash

MIN_TRAIN = 30
MIN_TEST = 5
VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of each part; `unused` are labelled training objects beyond the wanted number of labels."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    unused: np.ndarray

    def names(self, number: int) -> np.ndarray:
        """Return the part of every row as text: ``(N,)``."""
        out = np.full(number, "unused", dtype="<U10")
        for name in ("train", "validation", "test"):
            out[getattr(self, name)] = name
        return out

    @property
    def fitted(self) -> np.ndarray:
        """Rows whose labels a method may learn from: training and validation, sorted."""
        return np.sort(np.concatenate([self.train, self.validation]))


def split_objects(
    object_id: np.ndarray,
    value: np.ndarray,
    magnitude: np.ndarray | None = None,
    *,
    max_labels: int | None = None,
    seed: int = 0,
    ra: np.ndarray | None = None,
    dec: np.ndarray | None = None,
    block_arcmin: float | None = None,
    is_trainable: np.ndarray | None = None,
    fewest: int = MIN_TRAIN,
    fewest_to_test: int = MIN_TEST,
) -> Split:
    """Divide labelled objects.

    Parameters
    ----------
    object_id, value, magnitude
        ``(N,)``: identity, target, and a magnitude to stratify in (may be absent or partly NaN).
    max_labels
        Use at most this many labels for training and validation together. Smaller numbers give subsets of
        larger ones, so that curves against the number of labels compare like with like.
    ra, dec, block_arcmin
        With `block_arcmin`, the sky is cut into squares of that side, a fifth of which are for testing:
        test objects are the held-out ones inside, and nothing inside is trained on, so that a test object and
        a training one never lie in the same square.
    is_trainable
        ``(N,)`` bool: whose labels may be learned from; test objects may be any.
    fewest, fewest_to_test
        Objects to train and to test on that are enough.

    Raises
    ------
    InputError
        Too few objects to train or to test.
    """
    is_test = is_held_out(object_id)
    is_free = ~is_test if is_trainable is None else ~is_test & is_trainable
    if block_arcmin is not None:
        in_test_block = _test_blocks(ra, dec, block_arcmin)
        is_test, is_free = is_test & in_test_block, is_free & ~in_test_block
    test, free = np.flatnonzero(is_test), np.flatnonzero(is_free)
    order = np.argsort(unit_hash(object_id[free], salt=f"labels-{seed}"), kind="stable")
    if max_labels is not None and max_labels < fewest:
        raise InputError(f"max_labels is {max_labels}; at least {fewest} are needed to train this")
    used = free[order[:max_labels]]
    if len(used) < fewest or len(test) < fewest_to_test:
        chosen = len(value) if is_trainable is None else is_trainable.sum()
        looser = f"; train_select leaves {chosen} of {len(value)}" if chosen < len(value) else ""
        raise InputError(
            f"too few labels: {len(used)} objects to train on and {len(test)} held-out ones to test on; at "
            f"least {fewest} and {fewest_to_test} are needed. Give more labels, or a larger match "
            f"radius{looser}"
        )
    is_validation = _stratified(used, value, magnitude, object_id, seed)
    return Split(
        train=np.sort(used[~is_validation]),
        validation=np.sort(used[is_validation]),
        test=test,
        unused=np.setdiff1d(np.arange(len(object_id)), np.concatenate([used, test])),
    )


def _stratified(
    used: np.ndarray, value: np.ndarray, magnitude: np.ndarray | None, object_id: np.ndarray, seed: int
) -> np.ndarray:
    """Pick every fifth object along a path through redshift and magnitude: ``(len(used),)`` bool."""
    num_slices = max(1, int(np.sqrt(len(used) / 20)))
    rank = np.argsort(np.argsort(value[used], kind="stable"), kind="stable")
    redshift_slice = rank * num_slices // len(used)
    second = unit_hash(object_id[used], salt=f"validation-{seed}")
    if magnitude is not None:
        second = np.where(np.isfinite(magnitude[used]), magnitude[used], np.inf)
    path = np.lexsort((second, redshift_slice))
    step = round(1 / VALIDATION_FRACTION)
    out = np.zeros(len(used), dtype=bool)
    out[path[step // 2 :: step]] = True
    return out


def _test_blocks(ra: np.ndarray | None, dec: np.ndarray | None, block_arcmin: float) -> np.ndarray:
    if ra is None or dec is None:
        raise InputError("a split by sky blocks needs ra and dec in the features")
    if not block_arcmin > 0:
        raise InputError(f"the side of a sky block must be positive, not {block_arcmin} arcmin")
    row = np.floor(dec * 60 / block_arcmin).astype(np.int64)
    shrink = np.cos(np.radians((row + 0.5) * block_arcmin / 60))
    column = np.floor(ra * shrink * 60 / block_arcmin).astype(np.int64)
    blocks, which = np.unique(
        np.char.add(np.char.add(row.astype(str), ","), column.astype(str)), return_inverse=True
    )
    order = np.argsort(unit_hash(blocks, salt="sky-block"))
    is_test = np.zeros(len(blocks), dtype=bool)
    is_test[order[: max(1, round(len(blocks) / 5))]] = True
    return is_test[which]
