"""Saving and loading trained methods: frozen dataclasses of numbers, arrays and trees.

A directory holds one JSON file (``predictor.json``), all arrays in ``arrays.safetensors``, and boosted trees
in their libraries' own formats; loading them cannot execute code. The JSON file is written last and contains
the hashes of all parts and of itself, which are checked before anything else is read, because some libraries
crash on damaged files.

Objects are rebuilt from the declared types of the dataclasses' fields; a value of another type is an error
that names the field. A field declared as a base class may hold any of its subclasses.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

from deepfits.config import from_mapping
from deepfits.errors import InputError, naming
from deepfits.files import digest, fingerprint, read_json, write_json, writing

T = TypeVar("T")
SCHEMA_VERSION = 7
PREDICTOR = "predictor.json"
ARRAYS = "arrays.safetensors"
_TREES = {"xgboost": ".ubj", "lightgbm": ".txt"}
_MAX_DEPTH = 40


def save(value: Any, directory: str | Path, name: str = PREDICTOR, *, version: int = SCHEMA_VERSION) -> None:
    """Write a dataclass and everything in it, replacing an earlier one."""
    from safetensors.numpy import save as serialised

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).unlink(missing_ok=True)
    arrays: dict[str, np.ndarray] = {}
    trees: dict[str, Any] = {}
    content = _encoded(value, "", arrays, trees)
    with writing(directory / ARRAYS) as temporary:
        temporary.write_bytes(serialised({k: np.asarray(array, order="C") for k, array in arrays.items()}))
    for part, booster in trees.items():
        with writing(directory / part) as temporary:
            # The libraries' save_model() may not report a disk that is full at the end of the file.
            if part.endswith(".ubj"):
                temporary.write_bytes(booster.save_raw("ubj"))
            else:
                temporary.write_text(booster.model_to_string(), encoding="utf-8")
    parts = {part: fingerprint(directory / part) for part in (ARRAYS, *trees)}
    record = {"schema_version": version, "content": content, "parts": parts}
    write_json(directory / name, {**record, "content_hash": digest(record)})


def load(
    cls: type[T],
    directory: str | Path,
    name: str = PREDICTOR,
    *,
    what: str = "redshift model",
    version: int = SCHEMA_VERSION,
) -> T:
    """Load what `save` has written."""
    directory = Path(directory)
    path = directory / name
    content = read_json(path, what=f"{what} ({name})")
    recorded_hash = content.pop("content_hash", None)
    if content.get("schema_version") != version:
        raise InputError(f"{path}: not a {what} of this version; train again")
    if recorded_hash != digest(content) or not isinstance(content.get("parts"), dict):
        raise InputError(f"{path}: this {what} is damaged: its hash does not match; train again")
    for part, hashed in {ARRAYS: None, **content["parts"]}.items():
        if Path(part).name != part or not (directory / part).is_file():
            raise InputError(f"{directory / part}: no such file, although {name} lists it; train again")
        if fingerprint(directory / part) != hashed:
            raise InputError(
                f"{directory / part}: damaged: its hash is not the one recorded in {name}; train again"
            )
    with naming(path, f"not a {what}", "train again"):
        try:
            made = _Reader(cls, directory, set(content["parts"])).decoded(content["content"])
        except InputError as error:  # which does not name the file
            raise ValueError(error) from error
        if not isinstance(made, cls):
            raise TypeError(f"a {type(made).__name__}, where a {cls.__name__} is expected")
        return made


def _encoded(value: Any, key: str, arrays: dict[str, np.ndarray], trees: dict[str, Any]) -> Any:
    """Return a value in JSON form, with references to arrays and trees, which are collected by key."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        arrays[key] = value
        return {"array": key}
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _encoded(getattr(value, field.name), f"{key}.{field.name}".lstrip("."), arrays, trees)
            for field in dataclasses.fields(value)
        }
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_encoded(item, f"{key}.{number}", arrays, trees) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(name): _encoded(item, f"{key}.{name}", arrays, trees) for name, item in value.items()}
    library = type(value).__module__.partition(".")[0]
    if library not in _TREES:
        raise TypeError(f"{key}: a {type(value).__name__} cannot be stored")
    part = key + _TREES[library]
    trees[part] = value
    return {"trees": part}


class _Reader:
    """Inverse of `_encoded`, for a dataclass `cls`."""

    def __init__(self, cls: type, directory: Path, parts: set[str]) -> None:
        from safetensors.numpy import load_file

        self.directory, self.parts = directory, parts
        self.kinds = {kind.__name__: kind for kind in _dataclasses_in(cls, set())}
        self.arrays = load_file(directory / ARRAYS)

    def decoded(self, content: Any, depth: int = 0) -> Any:
        """Return the value of JSON content, checked against the declared types of dataclasses."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(content, list):
            return [self.decoded(item, depth + 1) for item in content]
        if not isinstance(content, dict):
            return content
        if content.keys() == {"array"}:
            return self.arrays[content["array"]]
        if content.keys() == {"trees"}:
            return self._trees(content["trees"])
        values = {name: self.decoded(item, depth + 1) for name, item in content.items()}
        if (name := values.pop("is", None)) is None:
            return values
        kind = self.kinds[name]
        if lacking := {field.name for field in dataclasses.fields(kind)} - values.keys():
            raise ValueError(f"{name}: {sorted(lacking)} must be given")
        return from_mapping(kind, values, where=name)

    def _trees(self, part: str) -> Any:
        if part not in self.parts:
            raise ValueError(f"{part} is not among the parts")
        if part.endswith(".ubj"):
            import xgboost

            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(self.directory / part)
            return booster
        import lightgbm

        return lightgbm.Booster(model_file=self.directory / part)


def _dataclasses_in(hint: Any, found: set[type]) -> set[type]:
    """Add the dataclasses that a type hint allows, at any depth and with their subclasses, to `found`."""
    further = get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint not in found:
        found.add(hint)
        further = (*get_type_hints(hint).values(), *hint.__subclasses__())
    for kind in further:
        _dataclasses_in(kind, found)
    return found
