"""The split into training, validation and test objects, which is determined by identity and stored.

Test objects are the held-out ones of `deepfits.splits`, which the image models have not seen either. Of the
others, a validation part is set aside, stratified in redshift and magnitude, for early stopping and
recalibration.
"""

from dataclasses import dataclass

import numpy as np

from deepfits.errors import InputError
from deepfits.splits import is_held_out, unit_hash

MIN_TRAIN = 30
MIN_TEST = 5
VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row indices of each part; `unused` are all other objects, such as those beyond `max_labels`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    unused: np.ndarray

    def names(self, number: int) -> np.ndarray:
        """Return the name of the part of every row, ``(N,)``."""
        out = np.full(number, "unused", dtype="<U10")
        for name in ("train", "validation", "test"):
            out[getattr(self, name)] = name
        return out

    @property
    def fitted(self) -> np.ndarray:
        """Rows of the training and validation objects, sorted, from which methods may learn."""
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
    """Split labelled objects into training, validation and test parts.

    The magnitude is for stratification, and may be absent or partly NaN. At most `max_labels` are used for
    training and validation together: smaller numbers select subsets of larger ones, so that learning curves
    are consistent. Of training (including validation) and of test objects there must be at least `fewest` and
    `fewest_to_test`; only the former are restricted to those that are trainable.

    With `block_arcmin`, the sky is divided into squares of that side, a fifth of which are for testing: test
    objects are the held-out ones in them, and no other object in them is used, so that test and training
    objects never lie in the same square.
    """
    is_test = is_held_out(object_id)
    is_free = ~is_test if is_trainable is None else ~is_test & is_trainable
    if block_arcmin is not None:
        in_test_block = _test_blocks(ra, dec, block_arcmin)
        is_test, is_free = is_test & in_test_block, is_free & ~in_test_block
    test, free = np.flatnonzero(is_test), np.flatnonzero(is_free)
    order = np.argsort(unit_hash(object_id[free], salt=f"labels-{seed}"), kind="stable")
    if max_labels is not None and max_labels < fewest:
        raise InputError(f"training needs at least {fewest} labels, not {max_labels}")
    used = free[order[:max_labels]]
    chosen = len(value) if is_trainable is None else is_trainable.sum()
    looser = f"; train_select leaves {chosen} of {len(value)}" if chosen < len(value) else ""
    require_enough(len(used), len(test), fewest, fewest_to_test, looser)
    is_validation = _stratified(used, value, magnitude, object_id, seed)
    return Split(
        train=np.sort(used[~is_validation]),
        validation=np.sort(used[is_validation]),
        test=test,
        unused=np.setdiff1d(np.arange(len(object_id)), np.concatenate([used, test])),
    )


def require_enough(train: int, test: int, fewest: int, fewest_to_test: int = 0, hint: str = "") -> None:
    """Raise `InputError` if there are fewer objects to train on or to test on than needed."""
    if train < fewest or test < fewest_to_test:
        raise InputError(
            f"too few labels: {train} objects to train on and {test} held-out ones to test on; at least "
            f"{fewest} and {fewest_to_test} are needed. Give more labels, or a larger match radius{hint}"
        )


def _stratified(
    used: np.ndarray, value: np.ndarray, magnitude: np.ndarray | None, object_id: np.ndarray, seed: int
) -> np.ndarray:
    """Mark every fifth object, ordered by magnitude within slices of redshift: ``(len(used),)`` bool."""
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
    names = [f"{first},{second}" for first, second in zip(row, column, strict=True)]
    blocks, block_of = np.unique(names, return_inverse=True)
    order = np.argsort(unit_hash(blocks, salt="sky-block"))
    is_test = np.zeros(len(blocks), dtype=bool)
    is_test[order[: max(1, round(len(blocks) / 5))]] = True
    return is_test[block_of]
