"""Boosting and TPOT: training, round trips, and inputs without influence."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.redshifts import storage
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.methods.boosting import BoostedTrees, BoostingConfig, train_boosting
from deepfits.redshifts.methods.tpot import TpotConfig, TpotModel, train_tpot
from deepfits.redshifts.methods.trees import TreeSum


def make_problem(number=500, seed=0, noise=0.05):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(number, 5)).astype(np.float32)
    value = np.sin(features[:, 0]) + 0.5 * features[:, 1] ** 2 + noise * generator.normal(size=number)
    return Matrix(values=features, names=tuple("abcde")), value


def r2(value, estimate):
    return 1 - ((value - estimate) ** 2).sum() / ((value - value.mean()) ** 2).sum()


FAST = {"num_trials": 2, "num_folds": 2, "max_rounds": 150}


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_boosting_learns_a_non_linear_function(loss):
    model, out_of_fold = train_boosting(*make_problem(), BoostingConfig(loss=loss, **FAST))
    assert r2(make_problem()[1], out_of_fold) > 0.75
    features, value = make_problem(seed=1)
    assert r2(value, model.predict(features.values)) > 0.8


def test_boosting_does_not_learn_from_shuffled_values():
    features, value = make_problem()
    shuffled = np.random.default_rng(0).permutation(value)
    model, _ = train_boosting(features, shuffled, BoostingConfig(**FAST))
    test, test_value = make_problem(seed=1)
    assert r2(test_value, model.predict(test.values)) < 0.05


def test_absolute_loss_is_robust_against_outliers():
    features, value = make_problem(800)
    is_outlier = np.random.default_rng(7).uniform(size=800) < 0.15
    spoiled = value + 20 * is_outlier
    test, test_value = make_problem(seed=1)
    error = {}
    for loss in ("squared", "absolute"):
        model, _ = train_boosting(features, spoiled, BoostingConfig(loss=loss, **FAST))
        error[loss] = np.median(np.abs(model.predict(test.values) - test_value))
    assert error["absolute"] < 0.5 * error["squared"]


def test_boosting_is_repeatable():
    first, again = (train_boosting(*make_problem(), BoostingConfig(**FAST))[0] for _ in range(2))
    test, _ = make_problem(seed=1)
    np.testing.assert_array_equal(first.predict(test.values), again.predict(test.values))
    assert first.trials == again.trials


def test_boosting_round_trip(tmp_path):
    model, _ = train_boosting(*make_problem(), BoostingConfig(**FAST))
    storage.save(model, tmp_path)
    back = storage.load(BoostedTrees, tmp_path)
    test, _ = make_problem(seed=1)
    np.testing.assert_array_equal(model.predict(test.values), back.predict(test.values))
    assert (back.names, back.config, back.trials) == (model.names, model.config, model.trials)
    (tmp_path / "boosters.1.ubj").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"boosters\.1\.ubj: damaged"):
        storage.load(BoostedTrees, tmp_path)


def test_members_are_averaged():
    features, value = make_problem()
    model, _ = train_boosting(features, value, BoostingConfig(num_members=3, **FAST))
    single = [BoostedTrees(**{**vars(model), "boosters": (booster,)}) for booster in model.boosters]
    test, test_value = make_problem(seed=1)
    each = np.array([member.predict(test.values) for member in single])
    assert (each.std(axis=0) > 0).any()
    np.testing.assert_allclose(model.predict(test.values), each.mean(axis=0), rtol=1e-6)
    errors = ((each - test_value) ** 2).mean(axis=1)
    assert ((model.predict(test.values) - test_value) ** 2).mean() < errors.mean()


def test_missing_features_are_allowed():
    features, value = make_problem()
    holes = np.random.default_rng(1).uniform(size=features.values.shape) < 0.1
    spoiled = Matrix(values=np.where(holes, np.nan, features.values), names=features.names)
    model, _ = train_boosting(spoiled, value, BoostingConfig(**FAST))
    test, test_value = make_problem(seed=1)
    test_holes = np.random.default_rng(2).uniform(size=test.values.shape) < 0.1
    # with a tenth of the features missing, about a fifth of the information of two of them is lost
    assert r2(test_value, model.predict(np.where(test_holes, np.nan, test.values))) > 0.6


def test_another_number_of_features_is_refused():
    model, _ = train_boosting(*make_problem(100), BoostingConfig(**FAST))
    with pytest.raises(InputError, match="trained on 5 features"):
        model.predict(np.zeros((3, 4)))


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_trees_as_arrays_agree_with_scikit_learn(loss, tmp_path):
    from sklearn.ensemble import GradientBoostingRegressor

    features, value = make_problem()
    regressor = GradientBoostingRegressor(loss=loss, n_estimators=40, max_depth=5, random_state=0)
    regressor.fit(features.values, value)
    test, _ = make_problem(seed=1)
    trees = TreeSum.of(regressor)
    np.testing.assert_allclose(trees.predict(test.values), regressor.predict(test.values), rtol=1e-12)
    storage.save(trees, tmp_path)
    back = storage.load(TreeSum, tmp_path)
    np.testing.assert_array_equal(trees.predict(test.values), back.predict(test.values))


def test_trees_that_lead_in_circles_are_refused():
    tree = np.zeros((1, 3))
    circle = np.array([[1, 0, -1]])
    with pytest.raises(InputError, match="do not lead to leaves"):
        TreeSum(left=circle, right=circle, feature=tree, threshold=tree, value=tree, constants=np.ones(2))


class Watch:
    """A progress object that records the progress."""

    def __init__(self):
        self.done = 0.0

    def __call__(self, description, *, total, unit="", done=0):
        self.total = total
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, number=1, note=""):
        self.done += number


@pytest.mark.slow
def test_tpot_finds_pipelines_and_reports_progress(tmp_path):
    features, value = make_problem(100)
    watch = Watch()
    model = train_tpot(features, value, TpotConfig(minutes=0.25, population=4, num_folds=2), progress=watch)
    scored = [pipeline for pipeline in model.pipelines if pipeline["loss"] is not None]
    assert scored == model.pipelines[: len(scored)]
    assert scored[0]["regressor"] == model.kind
    assert {pipeline["regressor"] for pipeline in model.pipelines} <= {
        "XGBRegressor",
        "LGBMRegressor",
        "GradientBoostingRegressor",
    }
    assert watch.total == pytest.approx(15.0)
    assert 0 < watch.done <= watch.total * 1.001
    test, test_value = make_problem(seed=1)
    estimate = model.point(test.values)
    assert r2(test_value, estimate) > 0.3
    storage.save(model, tmp_path)
    np.testing.assert_allclose(storage.load(TpotModel, tmp_path).point(test.values), estimate, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_no_pipeline_of_the_search_space_is_invalid(loss):
    features, value = make_problem(150)
    model = train_tpot(features, value, TpotConfig(loss=loss, minutes=0.5, num_folds=2))
    failed = [pipeline["failed"] for pipeline in model.pipelines if pipeline["failed"]]
    assert "INVALID" not in failed
    assert len({pipeline["regressor"] for pipeline in model.pipelines}) == 3


def test_tpot_worker_ends_with_its_parent(tmp_path):
    """Killing the parent ends the search."""
    features, value = make_problem(150)
    job = {"loss": "squared", "minutes": 5, "population": 6, "num_folds": 2, "seed": 0}
    (tmp_path / "job.json").write_text(json.dumps({**job, "memory_gib": 2, "num_threads": 1}))
    np.savez(tmp_path / "arrays.npz", features=features.values, value=value)
    with subprocess.Popen(
        [sys.executable, "-m", "deepfits.redshifts.methods.tpot_worker", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        time.sleep(1.0)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=20) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_tpot_refuses_missing_features():
    features, value = make_problem(50)
    features.values[0, 0] = np.nan
    with pytest.raises(InputError, match="finite features"):
        train_tpot(features, value, TpotConfig())
