"""Saving and loading trained methods: frozen dataclasses of numbers, arrays and trees.

A directory holds one JSON file (``predictor.json``), all arrays in ``arrays.safetensors``, and boosted trees
in their libraries' own formats; loading them cannot execute code. The JSON file is written last and contains
the hashes of all parts and of itself, which are checked before anything else is read, because some libraries
crash on damaged files.

Objects are rebuilt from the declared types of the dataclasses' fields; a value of another type is an error
that names the field. A field declared as a base class may hold any of its subclasses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

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
    whole = {"schema_version": version, "content": content, "parts": parts}
    write_json(directory / name, {**whole, "content_hash": digest(whole)})


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
    stated = content.pop("content_hash", None)
    if content.get("schema_version") != version:
        raise InputError(f"{path}: not a {what} of this version; train again")
    if stated != digest(content) or not isinstance(content.get("parts"), dict):
        raise InputError(f"{path}: this {what} is damaged: its hash does not match; train again")
    for part, hashed in {ARRAYS: None, **content["parts"]}.items():
        if Path(part).name != part or not (directory / part).is_file():
            raise InputError(f"{directory / part}: no such file, although {name} lists it; train again")
        if fingerprint(directory / part) != hashed:
            raise InputError(
                f"{directory / part}: damaged: its hash is not the one recorded in {name}; train again"
            )
    with naming(path, f"not a {what}", "train again"):
        reader = _Reader(directory, set(content["parts"]))
        return reader.decoded(cls, content["content"], "", 0)


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
    """Inverse of `_encoded`."""

    def __init__(self, directory: Path, parts: set[str]) -> None:
        from safetensors.numpy import load_file

        self.directory, self.parts = directory, parts
        self.arrays = load_file(directory / ARRAYS)

    def decoded(self, hint: Any, content: Any, key: str, depth: int) -> Any:
        """Return the value of the declared type `hint`."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"{key}: nested too deeply")
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            if content is None and NoneType in arguments:
                return None
            return self.decoded(next(kind for kind in arguments if kind is not NoneType), content, key, depth)
        if hint is Any:
            is_trees = isinstance(content, dict) and set(content) == {"trees"}
            return self._trees(content["trees"]) if is_trees else content
        if hint is np.ndarray:
            return self.arrays[content["array"]]
        if dataclasses.is_dataclass(hint):
            return self._dataclass(hint, content, key, depth)
        if origin in (tuple, list):
            items = [
                self.decoded(arguments[0], item, f"{key}.{number}", depth + 1)
                for number, item in enumerate(_checked(content, list, key))
            ]
            return tuple(items) if origin is tuple else items
        if origin is dict:
            pairs = _checked(content, dict, key).items()
            return {n: self.decoded(arguments[1], item, f"{key}.{n}", depth + 1) for n, item in pairs}
        if hint is float and type(content) is int:
            return float(content)
        return _checked(content, hint, key)

    def _dataclass(self, hint: Any, content: Any, key: str, depth: int) -> Any:
        known = {kind.__name__: kind for kind in _with_subclasses(hint)}
        fields = dict(_checked(content, dict, key))
        cls = known[fields.pop("is")]
        hints = get_type_hints(cls)
        declared = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != declared:
            raise ValueError(f"{key}: the fields {sorted(set(fields) ^ declared)} are unknown or missing")
        keys = {name: f"{key}.{name}".lstrip(".") for name in fields}
        return cls(**{n: self.decoded(hints[n], item, keys[n], depth + 1) for n, item in fields.items()})

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


def _checked(content: Any, kind: type, key: str) -> Any:
    if type(content) is not kind:
        raise TypeError(f"{key}: expected a {kind.__name__}, got a {type(content).__name__}")
    return content


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    for subclass in list[type](cls.__subclasses__()):
        yield from _with_subclasses(subclass)
