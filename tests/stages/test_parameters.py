"""Every parameter of a stage is documented, and stated once: in its configuration or a group it inherits."""

import inspect
import sys
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch

import deepfits
from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.stages import MODULES, load
from deepfits.stages.stage import documentation
from deepfits.survey.inspection import Findings
from tests.helpers.stage_runs import RUNS


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_is_documented(name):
    config = load(name).config
    assert set(documentation(config)) == set(inspect.signature(config).parameters)


def numbers_without_range(hint):
    """Return whether a type hint lets any number through."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return not any(isinstance(mark, Range) for mark in marks) and numbers_without_range(inner)
    if get_origin(hint) in (Union, UnionType):
        return any(numbers_without_range(kind) for kind in get_args(hint))
    return hint in (int, float)


@pytest.mark.parametrize("name", MODULES)
def test_every_number_says_where_it_may_lie(name):
    hints = get_type_hints(load(name).config, include_extras=True)
    # Zero points and PSFs are read as text too; seeds may be any whole number.
    free = {field for field, hint in hints.items() if numbers_without_range(hint)}
    assert free <= {"zero_point", "psf", "seed"}


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        (
            "report",
            {"progress": True},
            "progress must be a function; see deepfits.progress.Progress, not True",
        ),
        ("report", {"num_examples": 0}, "num_examples must be a whole number from 1, not 0"),
        ("report", {"max_objects": -5}, "max_objects must be a whole number from 1, not -5"),
        ("inpaint", {"validate": True, "max_validation": 0}, "max_validation must be a whole number from 1"),
        ("stack", {"pixel_scale": 0.0, "grid": None}, "pixel_scale must be a finite number above 0"),
        ("stack", {"clip": -1.0}, "clip must be a finite number above 0"),
        ("fit", {"num_steps": 0}, "num_steps must be a whole number from 1, not 0"),
        ("cutouts", {"size": 0}, "size must be a whole number from 4 to 4096, not 0"),
        ("detect", {"deblend_contrast": -1.0}, "deblend_contrast must be a finite number from 0 to 1"),
        ("detect", {"aperture_arcsec": -1.0}, "aperture_arcsec must be a finite number above 0"),
        ("redshift", {"seed": -1}, "seed must be a whole number from 0"),
        ("redshift-curves", {"numbers": ()}, "at least one number of labels"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_any_work(base, tmp_path, stage, options, said):
    with pytest.raises(InputError, match=said):
        RUNS[stage](base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("odd", {"number": 0}, "number must be a whole number from 1, not 0"),
        ("similar", {"ids": []}, "name at least one object"),
        ("show", {"ids": []}, "name at least one object"),
        ("explore", {"port": 70000}, "port must be a whole number from 0 to 65535, not 70000"),
    ],
)
def test_what_is_shown_must_be_something(base, stage, options, said):
    with pytest.raises(InputError, match=said):
        load(stage)(base / "run", **options)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((3, 8, 8)), "images must be a path, not ndarray; write it into a file first"),
        (pd.DataFrame({"a": [1]}), "images must be a path, not DataFrame; write it into a file first"),
        ({"i": "tile-i.fits"}, "images must be a path, not dict; give a path, or a list of paths"),
        (Findings(), "images must be a path, not Findings; give the path that it was read from"),
        ([], "images is empty; name a path"),
    ],
)
def test_what_is_no_path_is_refused(images, said):
    with pytest.raises(InputError, match=said):
        deepfits.check(images)


def test_paths_may_come_from_a_glob(base):
    given = deepfits.check(sorted((base / "sky").glob("*.fits")))
    assert str(deepfits.check((base / "sky").glob("*.fits"))) == str(given) == repr(given)
    assert len(given.rows) == 3


def test_a_misspelt_argument_names_the_nearest():
    with pytest.raises(
        TypeError, match=r"fit\(\) got an unexpected keyword argument 'objectve'; did you mean 'obj"
    ):
        deepfits.fit("store", objectve="paper")
    with pytest.raises(TypeError, match="keyword argument 'target'; did you mean 'label_column'"):
        deepfits.redshift("features", "labels", "out", target="mass")  # its name on the command line
    with pytest.raises(TypeError, match=r"fit\(\) missing a required argument: 'model'"):
        deepfits.fit("store")
    with pytest.raises(TypeError, match=r"show\(\) takes run and then arguments by name, such as ids=…"):
        deepfits.show("run", [7])


def test_a_missing_package_is_named_in_python_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        InputError, match=r"needs 'uvicorn'; install it with `pip install 'deepfits\[explore\]'`"
    ):
        deepfits.explore("run")


def test_help_shows_plain_types():
    shown = str(inspect.signature(deepfits.fit))
    assert "num_starts: int = 1" in shown
    assert "Annotated" not in shown


@pytest.mark.parametrize("where", [lambda columns: columns["mag"] < 20, [True, False]])
def test_a_condition_is_text(base, where):
    with pytest.raises(InputError, match="a condition is text, such as 'flags == 0', not"):
        deepfits.CutoutStore(base / "store", where=where)


def test_an_error_about_a_table_is_one_line():
    with pytest.raises(InputError, match=r"tables\.mine must be a string or a path, not a DataFrame$"):
        deepfits.export("run", "out.fits", tables={"mine": pd.DataFrame({"a": [1]})})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("stage", ["fit", "inpaint", "simulate", "redshift", "train"])
@pytest.mark.parametrize(
    ("device", "said"), [("cuda", "PyTorch finds no GPU on this machine"), ("gpu", "'gpu' is unknown")]
)
def test_a_device_that_is_not_there_is_refused_before_any_work(base, tmp_path, stage, device, said):
    """It ended in a traceback of PyTorch's, or as a shard to be repaired."""
    with pytest.raises(InputError, match=said):
        RUNS[stage](base, tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


def test_a_gpu_is_used_if_there_is_one(base, tmp_path):
    out = RUNS["fit"](base, tmp_path / "auto", device="auto")
    plain = RUNS["fit"](base, tmp_path / "plain")
    assert np.array_equal(deepfits.read_features(out)["latent"], deepfits.read_features(plain)["latent"])


@pytest.fixture
def in_double():
    """PyTorch's default type as a user may have set it in the same notebook."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_callers_default_type_changes_nothing(base, tmp_path, in_double):
    """It ended in errors on types, as shards to be repaired."""
    found = deepfits.read_features(RUNS["fit"](base, tmp_path / "double"))
    assert torch.get_default_dtype() == torch.float64
    cutouts = deepfits.CutoutStore(base / "store").read_shard(0)
    embedded = deepfits.Model.load(base / "model").embed(cutouts.image, cutouts.weight)
    torch.set_default_dtype(torch.float32)
    plain = deepfits.read_features(RUNS["fit"](base, tmp_path / "plain"))
    assert np.array_equal(found["latent"], plain["latent"])
    assert torch.equal(embedded, deepfits.Model.load(base / "model").embed(cutouts.image, cutouts.weight))


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, lambda: np.errstate(all="raise")])
def test_what_the_caller_set_does_not_reach_the_work(base, tmp_path, caller):
    with caller():
        out = RUNS["train"](base, tmp_path / "there")
        deepfits.cutouts(base / "sky", tmp_path / "cut", catalogue=base / "catalogue.parquet")
    plain = RUNS["train"](base, tmp_path / "plain")
    assert deepfits.Model.load(out).fingerprint == deepfits.Model.load(plain).fingerprint


def test_features_of_a_run_are_found_or_named(base):
    assert len(deepfits.read_features(base / "run" / "features-both", "latent")) == 1
    assert len(deepfits.read_features(base / "run" / "features-both", ("latent", "chi2"))) == 2
    with pytest.raises(InputError, match="no column 'laten'; did you mean 'latent'"):
        deepfits.read_features(base / "run" / "features-both", ["laten"])
    with pytest.raises(InputError, match=r"no features there; give .*run/features-both$"):
        deepfits.read_features(base / "run")
    whole = deepfits.join(base / "run", store=deepfits.CutoutStore(base / "run" / "cutouts"))
    assert whole.num_rows == deepfits.join(base / "run").num_rows


def test_a_plan_is_shown_as_its_table():
    plan = deepfits.plan(objects=1e6)
    assert repr(plan) == str(plan)
