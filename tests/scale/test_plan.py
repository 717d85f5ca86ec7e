"""Plans: arithmetic that can be checked by hand, and words that say what was measured."""

import json

import pytest

import deepfits
from deepfits.errors import InputError
from deepfits.stages.plan import figures, named_device

DEFAULT = "builtin:clauds-hsc"


def test_the_arithmetic_by_hand():
    one = deepfits.plan(2e10, device="h200", num_devices=10, objects_per_arcmin2=40)
    cost = figures()["cost"]
    rate = 1 / (cost["flop"] / named_device("h200").flops + cost["overhead_seconds"])
    assert one["rate of a device"] == pytest.approx(rate)
    assert one["time"] == pytest.approx(2e10 / rate / 10 / 86_400)
    assert one["device hours"] == pytest.approx(2e10 / rate / 3600)
    assert one["devices for one day"] == pytest.approx(one["time"] * 10)
    assert one["cutout store, if kept"] == pytest.approx(2e10 * 5 * 32 * 32 * 8 / 1e12)
    assert one["features"] == pytest.approx(2e10 * cost["feature_bytes"] / 1e12)
    assert one["reading from a store"] == pytest.approx(10 * rate * 40_960 / 1e6)
    pixels_per_object = 3600 / 0.168**2 / 40
    assert one["coadds, read once"] == pytest.approx(2e10 * pixels_per_object * 5 * 8 / 1e12, rel=1e-3)


@pytest.mark.parametrize(("what", "factor", "unit"), [("features", 1000, "GB"), ("time ", 24, "h")])
def test_small_surveys_are_in_gigabytes_and_hours(what, factor, unit):
    plan = deepfits.plan(1e6)
    line = next(line for line in str(plan).splitlines() if line.startswith(what))
    assert float(line.split()[1]) == pytest.approx(factor * plan[what.strip()], rel=0.01)
    assert line.split()[2] == unit


def test_half_precision_saves_two_bytes_a_latent():
    full, half = (deepfits.plan(1e12, half=one)["features"] for one in (False, True))
    assert full - half == pytest.approx(3 * 2 * 64)


def test_estimates_are_called_estimates():
    assert "estimated" in str(deepfits.plan(1e6, device="a100"))
    text = str(deepfits.plan(1e6, device="cpu-core"))
    assert "estimated" not in text
    assert "measured" in text
    for entry in figures()["devices"].values():
        assert entry["is_measured"] == ("not measured" not in entry["source"])


def test_a_larger_generator_costs_more(tmp_path):
    from deepfits.models.bundle import Model
    from deepfits.models.layers import ModelConfig

    builtin = Model.load(DEFAULT)
    large = Model.make(ModelConfig(width=256), builtin.info, builtin.normalisation)
    large.save(tmp_path / "large")
    rates = [deepfits.plan(1e6, model=one)["rate of a device"] for one in (DEFAULT, tmp_path / "large")]
    assert 3 < rates[0] / rates[1] < 4.5  # the inner layers go as the square of the width


@pytest.mark.slow
def test_measured_here():
    found = deepfits.plan(1e6, device="measured")
    assert "timed just now" in str(found)
    assert 1 < found["rate of a device"] < 1e5


@pytest.mark.parametrize(
    ("objects", "options", "message"),
    [
        (0, {}, "objects must be a finite number above 0"),
        (float("inf"), {}, "objects must be a finite number"),
        (1e6, {"device": "h20"}, "did you mean 'h200'"),
        (1e6, {"num_devices": 0}, "num_devices must be a whole number from 1"),
    ],
)
def test_impossible_plans_are_refused(objects, options, message):
    with pytest.raises(InputError, match=message):
        deepfits.plan(objects, **options)


def test_the_table_is_whole():
    table = json.loads(json.dumps(figures()))
    assert set(table["cost"]) == {
        "flop", "generator_flop", "words", "overhead_seconds", "feature_bytes", "source"
    }  # fmt: skip
    assert all(named_device(name).source for name in table["devices"])
