"""Trained methods on disk: round trips, and errors for damaged or invalid files."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.files import digest
from deepfits.redshifts import storage


@dataclass(frozen=True, kw_only=True)
class Part:
    values: np.ndarray
    name: str = "a"


@dataclass(frozen=True, kw_only=True)
class SpecialPart(Part):
    more: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]
    by_name: dict[str, np.ndarray]
    number: int
    limit: float | None = None
    one: Part | None = None
    about: dict[str, Any] = field(default_factory=dict)


def make_whole():
    values = np.random.default_rng(0).normal(size=(3, 4))
    return Whole(
        parts=(Part(values=values), SpecialPart(values=np.array(7, dtype=np.int64), more=3.5)),
        by_name={"layers.0.weight": values.astype(np.float32), "empty": np.empty((0, 2))},
        number=4,
        about={"nested": {"list": [1, 2.5, "x", None]}},
    )


def test_dataclasses_round_trip_with_their_types(tmp_path):
    storage.save(make_whole(), tmp_path)
    back = storage.load(Whole, tmp_path)
    assert [type(part) for part in back.parts] == [Part, SpecialPart]
    np.testing.assert_array_equal(back.parts[0].values, make_whole().parts[0].values)
    assert back.parts[1].values.shape == ()
    assert back.parts[1].values == 7
    assert back.parts[1].more == 3.5
    assert back.by_name["layers.0.weight"].dtype == np.float32
    assert back.by_name["empty"].shape == (0, 2)
    assert (back.number, back.limit, back.one, back.about) == (4, None, None, make_whole().about)


def test_any_changed_byte_is_detected(tmp_path):
    storage.save(make_whole(), tmp_path)
    generator = np.random.default_rng(1)
    for name in ("predictor.json", "arrays.safetensors"):
        good = (tmp_path / name).read_bytes()
        for place in generator.integers(len(good), size=30):
            spoiled = bytearray(good)
            spoiled[place] ^= 1 << int(generator.integers(8))
            (tmp_path / name).write_bytes(spoiled)
            with pytest.raises(InputError):
                storage.load(Whole, tmp_path)
        for length in (0, len(good) // 2):
            (tmp_path / name).write_bytes(good[:length])
            with pytest.raises(InputError):
                storage.load(Whole, tmp_path)
        (tmp_path / name).write_bytes(good)
    storage.load(Whole, tmp_path)
    (tmp_path / "arrays.safetensors").unlink()
    with pytest.raises(InputError, match=r"no such file, although predictor\.json lists it"):
        storage.load(Whole, tmp_path)


def rewritten(directory, change):
    """Change the content and update the hash."""
    path = directory / "predictor.json"
    whole = json.loads(path.read_text())
    del whole["content_hash"]
    change(whole)
    whole["content_hash"] = digest(whole)
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["content"].update(number="4"),
        lambda whole: whole["content"].update(number=True),
        lambda whole: whole["content"].update(parts={}),
        lambda whole: whole["content"].update({"is": "Popen"}),
        lambda whole: whole["content"].update(extra=1),
        lambda whole: whole["content"].pop("number"),
        lambda whole: whole["content"].pop("limit"),
        lambda whole: whole["content"]["parts"][0].update(values={"array": "nowhere"}),
        lambda whole: whole["content"].update(about={"x": {"trees": "../../secret.ubj"}}),
        lambda whole: whole["parts"].update({"../predictor.json": "0"}),
        lambda whole: whole.update(content=[]),
        lambda whole: whole["parts"].pop("arrays.safetensors"),
        lambda whole: whole.update(parts=[]),
    ],
)
def test_invalid_content_is_refused(tmp_path, change):
    storage.save(make_whole(), tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(InputError, match="train again"):
        storage.load(Whole, tmp_path)


def test_another_version_is_refused(tmp_path):
    storage.save(make_whole(), tmp_path)
    rewritten(tmp_path, lambda whole: whole.update(schema_version=2))
    with pytest.raises(InputError, match="not a redshift model of this version"):
        storage.load(Whole, tmp_path)
    with pytest.raises(InputError, match="no such redshift model"):
        storage.load(Whole, tmp_path / "absent")


def test_an_interrupted_save_leaves_no_model(tmp_path, monkeypatch):
    """The description is removed first and written last, so that parts of two models are never mixed."""
    storage.save(make_whole(), tmp_path)
    monkeypatch.setattr(storage, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.save(make_whole(), tmp_path)
    with pytest.raises(InputError, match="no such redshift model"):
        storage.load(Whole, tmp_path)
