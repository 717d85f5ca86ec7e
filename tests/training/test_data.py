"""Selection and order of training images."""

from itertools import islice

import numpy as np
import pytest
import torch

from deepfits.errors import InputError
from deepfits.splits import is_held_out
from deepfits.survey.normalise import measure_normalisation
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from deepfits.training.data import Batches, measure_training_set, turn

INFO = StoreInfo(bands=("g", "r"), size=8, pixel_scale_arcsec=0.2)


def make_store(directory, lengths=(40, 30, 50), bad=(), seed=0):
    rng = np.random.default_rng(seed)
    create_store(directory, INFO)
    start = 0
    for number, length in enumerate(lengths):
        ids = np.arange(start, start + length)
        image = rng.normal(3, 2, (length, 2, 8, 8)).astype(np.float32)
        image[:, :, 0, 0] = ids[:, None]  # mark each image with its object
        weight = np.full_like(image, 0.25)
        weight[np.isin(ids, bad), 1, 4:6] = 0
        write_shard(directory / shard_name(number), Cutouts(object_id=ids, image=image, weight=weight), INFO)
        start += length
    return CutoutStore(directory)


def ids_of(batch):
    return batch.image[:, 0, 0, 0].numpy().astype(int)


@pytest.mark.parametrize("kind", ["standard", "asinh"])
def test_normalisation_is_measured_on_all_complete_training_images(tmp_path, kind):
    store = make_store(tmp_path, bad=(3, 50, 51))
    survey = measure_training_set(store, kind=kind)
    ids = store.catalogue([])["object_id"]
    used = ~is_held_out(ids) & ~np.isin(ids, (3, 50, 51))
    cutouts = store.take(np.flatnonzero(used))
    expected = measure_normalisation(cutouts.image, cutouts.weight, kind)
    for name in ("mean", "std", "softening"):
        if name != "softening" or kind == "asinh":
            np.testing.assert_allclose(
                getattr(survey.normalisation, name), getattr(expected, name), rtol=1e-5
            )
    assert survey.num_complete == survey.num_used == used.sum()
    assert survey.num_held_out == is_held_out(ids).sum()


def test_held_out_and_incomplete_objects_are_not_used(tmp_path):
    bad = (3, 50, 51, 52)
    store = make_store(tmp_path, bad=bad)
    ids = store.catalogue([])["object_id"]
    wanted = set(ids[~is_held_out(ids)].tolist())
    for incomplete in (False, True):
        survey = measure_training_set(store, incomplete=incomplete)
        batches = Batches(store, survey.rows, 5, seed=0).start(0)
        seen = {int(i) for batch in islice(batches, 100) for i in ids_of(batch)}
        assert seen == (wanted if incomplete else wanted - set(bad))


def test_incomplete_images_have_zero_flux_without_data(tmp_path):
    store = make_store(tmp_path, bad=range(120))
    with pytest.raises(InputError, match="no complete cutout"):
        measure_training_set(store)
    store = make_store(tmp_path / "b", bad=range(60))
    rows = measure_training_set(store, incomplete=True).rows
    for batch in islice(Batches(store, rows, 8, seed=0).start(0), 10):
        assert (batch.image[batch.weight == 0] == 0).all()


def test_neighbours_are_masked_if_requested(tmp_path):
    """Weights of neighbours' pixels become 0 in batches, but not in the store."""
    create_store(tmp_path, INFO)
    ids = np.arange(40)
    image = np.random.default_rng(0).normal(3, 2, (40, 2, 8, 8)).astype(np.float32)
    weight = np.full_like(image, 0.25)
    others = np.random.default_rng(1).random((40, 8, 8)) < 0.3
    cutouts = Cutouts(object_id=ids, image=image, weight=weight, is_neighbour=others)
    write_shard(tmp_path / shard_name(0), cutouts, INFO)
    store = CutoutStore(tmp_path)
    rows = (ids,)
    masked, kept = (
        next(Batches(store, rows, 40, seed=0, mask_neighbours=mask).start(0)) for mask in (True, False)
    )
    assert (kept.weight == 0.25).all()
    hidden = masked.weight == 0
    assert hidden.float().mean() == pytest.approx(others.mean())
    assert (masked.image[hidden] == 0).all()
    assert (masked.image[~hidden] == kept.image[~hidden]).all()
    assert (hidden[:, 0] == hidden[:, 1]).all()


def test_an_epoch_contains_every_object_at_most_once_and_epochs_differ(tmp_path):
    store = make_store(tmp_path)
    rows = measure_training_set(store).rows
    number = sum(len(r) for r in rows)
    batches = Batches(store, rows, 10, seed=1)
    per_epoch = number // 10
    seen = np.concatenate([ids_of(b) for b in islice(batches.start(0), per_epoch)])
    assert len(set(seen)) == len(seen) == per_epoch * 10
    following = np.concatenate([ids_of(b) for b in islice(batches.start(per_epoch), per_epoch)])
    assert (seen != following).any()


@pytest.mark.parametrize("memory", [4e9, 25 * 1024])
def test_batches_started_at_a_later_step_are_the_same(tmp_path, memory):
    store = make_store(tmp_path)
    rows = measure_training_set(store).rows

    def make():
        return Batches(store, rows, 7, seed=1, symmetries=True, memory_bytes=memory)

    whole = list(islice(make().start(0), 40))
    for step in (1, 13, 31):
        again = next(make().start(step))
        assert torch.equal(again.image, whole[step].image)


def test_a_store_larger_than_memory_is_read_in_groups(tmp_path):
    store = make_store(tmp_path, lengths=(20, 20, 20, 20, 20))
    rows = measure_training_set(store).rows
    object_bytes = 8 * 2 * 8 * 8
    batches = Batches(store, rows, 7, seed=1, memory_bytes=36 * object_bytes)
    groups = batches.groups(0)
    assert len(groups) > 1
    assert sorted(sum(groups, ())) == [0, 1, 2, 3, 4]
    assert batches.groups(0) == groups
    assert any(batches.groups(epoch) != groups for epoch in range(1, 5))
    plan = batches.plan(0)
    assert len(plan) >= (sum(len(r) for r in rows) - 7 * len(groups)) // 7
    seen = np.concatenate([ids_of(b) for b in islice(batches.start(0), len(plan))])
    assert len(set(seen)) == len(seen)


def test_too_few_objects_for_a_batch_are_refused(tmp_path):
    store = make_store(tmp_path, lengths=(10,))
    with pytest.raises(InputError, match="fewer than a batch of 64"):
        Batches(store, measure_training_set(store).rows, 64, seed=0)


def test_turn_gives_the_eight_symmetries():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1)
    turned = turn(image, torch.arange(8))
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert torch.equal(turned[0], image[0])
    assert (turned[:, 0, 1, 1] == 4).all()  # the centre stays
    assert (turned[:, 0, ::2, ::2].sum((1, 2)) == 0 + 2 + 6 + 8).all()  # corners stay corners


def test_fingerprint_changes_with_objects_and_pixels(tmp_path):
    survey = measure_training_set(make_store(tmp_path / "a"))
    assert measure_training_set(make_store(tmp_path / "b")).fingerprint == survey.fingerprint
    assert measure_training_set(make_store(tmp_path / "c", seed=1)).fingerprint != survey.fingerprint
    assert measure_training_set(make_store(tmp_path / "d", bad=(1,))).fingerprint != survey.fingerprint
