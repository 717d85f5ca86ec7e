"""Configuration: what is declared is what is taken, and errors name file, key, value and remedy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from deepfits.config import Range, arguments, as_json, check, convert, from_mapping, read_toml
from deepfits.errors import InputError
from deepfits.files import json_lines, read_arrays, read_json


@dataclass(frozen=True, kw_only=True)
class Band:
    name: str
    depth: Annotated[float, Range(ge=10, lt=40)] = 27.0


@dataclass(frozen=True, kw_only=True)
class Survey:
    bands: tuple[Band, ...]
    names: tuple[str, ...] = ()
    steps: int = 10
    rate: float = 0.5
    kind: Literal["mean", "median"] = "mean"
    seeing: tuple[Annotated[float, Range(gt=0, nan=True)], ...] = ()
    out: Path | None = None
    turned: bool = False
    zero_point: float | Sequence[float] | None = None
    more: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, where="survey")
        if self.steps == 13:
            raise InputError("13 steps bring bad luck")


BANDS = [{"name": "g", "depth": 26}]


def test_a_full_round_trip():
    content = {
        "bands": [{"name": "g", "depth": 26}, {"name": "r"}],
        "names": ["a", "b"],
        "steps": 7,
        "rate": 2,
        "kind": "median",
        "seeing": [0.7, None],
        "out": "x/y",
        "turned": True,
        "zero_point": [27, 30.5],
        "more": {"a": 3},
    }
    survey = from_mapping(Survey, content, where="s.toml")
    assert survey.bands == (Band(name="g", depth=26.0), Band(name="r"))
    assert survey.names == ("a", "b")
    assert isinstance(survey.rate, float)
    assert survey.out == Path("x/y")
    assert math.isnan(survey.seeing[1])
    assert list(survey.zero_point) == [27.0, 30.5]
    back = json.loads(json.dumps(as_json(survey), allow_nan=False))
    assert back["seeing"] == [0.7, None]
    again = from_mapping(Survey, back, where="s.toml")
    assert (again.bands, again.more, again.steps) == (survey.bands, {"a": 3}, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bnds": BANDS}, "s.toml: unknown key 'bnds'; did you mean 'bands'"),
        ({}, "s.toml: 'bands' must be given"),
        (
            {"bands": [{"name": "g", "dept": 1}]},
            r"s.toml: bands\[0\]: unknown key 'dept'; did you mean 'depth'",
        ),
        (
            {"bands": [{"name": "g", "depth": 99}]},
            r"bands\[0\].depth must be a finite number from 10 and below 40",
        ),
        ({"bands": "ugriz"}, "s.toml: bands must be a list, not 'ugriz'"),
        ({"bands": BANDS, "names": "ugriz"}, r"names must be a list of strings, .*, not 'ugriz'"),
        ({"bands": BANDS, "names": ["u", 3]}, r"names\[1\] must be a string, not 3"),
        ({"bands": BANDS, "steps": True}, "steps must be a whole number, not True"),
        ({"bands": BANDS, "steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"bands": BANDS, "steps": math.nan}, "steps must be a whole number, not nan"),
        ({"bands": BANDS, "steps": "3"}, "steps must be a whole number, not '3'"),
        (
            {"bands": BANDS, "steps": 1 << 70},
            "steps must be .* that fits in 64 bits, not a number of 71 bits",
        ),
        ({"bands": BANDS, "steps": 0xF**9000}, "a number of .* bits"),
        ({"bands": BANDS, "rate": math.inf}, "rate must be a finite number, not inf"),
        ({"bands": BANDS, "rate": False}, "rate must be a finite number, not False"),
        (
            {"bands": BANDS, "kind": "meen"},
            "kind must be 'mean' or 'median', not 'meen'",
        ),
        ({"bands": BANDS, "turned": 1}, "turned must be true or false, not 1"),
        ({"bands": BANDS, "out": 5}, "out must be a path, not 5"),
        ({"bands": BANDS, "out": "a\0b"}, "out must be a path"),
        (
            {"bands": BANDS, "zero_point": "27"},
            "zero_point must be a finite number or a list of numbers",
        ),
        ({"bands": BANDS, "zero_point": [27, "x"]}, r"zero_point\[1\] must be a finite number, not 'x'"),
        ({"bands": BANDS, "more": {"a": "b"}}, "more.a must be a whole number, not 'b'"),
        ({"bands": BANDS, "steps": 13}, "s.toml: 13 steps bring bad luck"),
        ([1], "s.toml must be a mapping"),
    ],
)
def test_what_is_not_declared_is_refused_by_name(content: Any, message: str):
    with pytest.raises(InputError, match=message):
        from_mapping(Survey, content, where="s.toml")


def test_python_is_held_to_the_same_types():
    survey = Survey(bands=[Band(name="g")], rate=1, steps=np.int64(4))
    assert (survey.bands, survey.steps) == ((Band(name="g"),), 4)
    assert type(survey.steps) is int
    with pytest.raises(InputError, match="survey: steps must be a whole number"):
        Survey(bands=(), steps=True)


def test_arguments_of_a_function_are_checked_by_its_signature():
    def stage(store: str | Path, *, bands: Sequence[str] | None = None, strength: float = 1.0) -> None: ...

    assert arguments(stage, {"bands": ["u"], "strength": 2}, where="[fit]") == {
        "bands": ["u"],
        "strength": 2.0,
    }
    with pytest.raises(InputError, match=r"run.toml \[fit\]: unknown key 'band'; did you mean 'bands'"):
        arguments(stage, {"band": ["u"]}, where="run.toml [fit]")
    with pytest.raises(InputError, match=r"\[fit\]: bands must be a list of strings"):
        arguments(stage, {"bands": "ugriz"}, where="[fit]")
    assert convert(3, float, where="--set", key="strength") == 3.0


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 50_000 + "]" * 50_000, "a = " + "9" * 5_000, "a = ", "\udcff", "a = 1\n" * 2]
)
def test_hostile_toml_is_one_line(tmp_path: Path, text: str):
    path = tmp_path / "hostile.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"hostile.toml: .*this file") as caught:
        read_toml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        "[" * 200_000,
        '{"a": ' + "9" * 5_000 + "}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"a": 123456789012345678901}',
        '{"a": 1',
        "[1]",
        "",
    ],
)
def test_hostile_json_is_one_line(tmp_path: Path, text: str):
    path = tmp_path / "hostile.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"hostile.json: .*this file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_sound_json_is_read(tmp_path: Path):
    path = tmp_path / "sound.json"
    path.write_text('{"a": [1, 2.5, null, "\\ud83d\\ude00"], "b": {"c": true}}')
    assert read_json(path) == {"a": [1, 2.5, None, "😀"], "b": {"c": True}}


def test_damaged_lines_and_archives(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    assert list(json_lines(path)) == []
    path.write_bytes(b'{"a": 1}\n' + b"[" * 200_000 + b'\n\xff\n{"a": 2}\n{"a":')
    assert [line for _, line in json_lines(path)] == [{"a": 1}, None, None, {"a": 2}, None]
    archive = tmp_path / "x.npz"
    np.savez(archive, position=np.arange(6.0))
    whole = archive.read_bytes()
    np.testing.assert_array_equal(read_arrays(archive)["position"], np.arange(6.0))
    np.savez_compressed(archive, position=np.zeros(1 << 24))
    for content in (b"", whole[:60], whole[:100] + b"!!" + whole[102:], b"\x80\x04N.", archive.read_bytes()):
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: (damaged|declares 1342178)"):
            read_arrays(archive)
    archive.unlink()
    os.mkfifo(archive)
    with pytest.raises(InputError, match="not a file"):
        read_arrays(archive)
