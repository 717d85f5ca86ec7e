"""Validation of configurations: every value is checked once, on entry, against declared types and ranges.

A configuration is a dataclass or the signature of a function. Its type hints declare the valid values of each
key, and `from_mapping` and `arguments` check TOML, JSON and command-line input against them. The error for an
unknown key suggests the nearest valid one; that for a wrong type names file, key, value and expected type.
Nothing is guessed: a string is never a list, ``true`` is never 1, and numbers are finite unless declared
otherwise.

Plain Python on purpose, so that models, training and fits run with PyTorch alone installed
(docs/decisions/70-checked-where-it-enters.md).
"""

import collections.abc
import dataclasses
import inspect
import math
import numbers
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, TypeVar, Union, cast

from deepfits.errors import InputError, nearest
from deepfits.files import read_text

MAX_TOML_BYTES = 1 << 22
MAX_WHOLE_NUMBER = 2**63 - 1
_UNIONS = (Union, types.UnionType)
_LISTS = (list, tuple, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
_SHOWN = 60

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Mark:
    """Role of a configuration field; see `deepfits.stages.stage`."""

    name: str


INPUT = Mark("input")
NEUTRAL = Mark("neutral")
NAMES_FILES = Mark("names files")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Range of valid numbers, ``Annotated[float, Range(gt=0, le=1)]``; infinity is never in it.

    Examples
    --------
    >>> str(Range(ge=1, lt=8)), str(Range(ge=1, le=1 << 20))
    ('from 1 and below 8', 'from 1 to 1048576')
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    nan: bool = False  # whether NaN (unknown; null in JSON) is allowed

    def holds(self, value: float) -> bool:
        """Return whether `value` is in the range."""
        if math.isnan(value):
            return self.nan
        return (
            not math.isinf(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"from {self.ge:.15g} to {self.le:.15g}"
        bounds = {"from": self.ge, "above": self.gt, "up to": self.le, "below": self.lt}
        return " and ".join(f"{word} {bound:.15g}" for word, bound in bounds.items() if bound is not None)


def from_mapping(kind: type[Made], content: Any, *, where: str | Path) -> Made:
    """Build a dataclass from the content of a file (or option) `where`, as parsed from TOML or JSON.

    Fields may be nested dataclasses, ``Literal``, optional values, lists, tuples, mappings and paths;
    ``Annotated[..., Range(...)]`` bounds a number. Raise `InputError` if the content is not a mapping,
    has an unknown key (the nearest valid one is suggested), lacks a required key, or has a value that
    violates its declaration or that the dataclass itself rejects.
    """
    return _build(kind, content, f"{where}", "")


def arguments(function: Callable[..., Any], content: Any, *, where: str | Path) -> dict[str, Any]:
    """Check the content of a file against a function's signature; return keyword arguments for it.

    Missing arguments are not an error here, but in the call. Errors are those of `from_mapping`.
    """
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function, include_extras=True)
    valid = {name: hints.get(name, Any) for name in parameters}
    return _convert_items(valid, content, f"{where}", "")


def convert(value: Any, annotation: Any, *, where: str | Path, key: str = "") -> Any:
    """Convert `value` to the type hint `annotation`; errors name `where` and `key`."""
    return _convert(value, annotation, f"{where}", key)


def check(config: Any, *, where: str, fields_of: Any = None) -> None:
    """Check a dataclass constructed in Python against its type hints; call this in ``__post_init__``.

    Lists become tuples, and integers floats, where these are declared. With `fields_of`, a base class of
    `config`, only its fields are checked.
    """
    for name, annotation in _hints(cast(Any, fields_of or type(config))).items():
        value = getattr(config, name)
        checked = _convert(value, annotation, where, name)
        if checked is not value:
            object.__setattr__(config, name, checked)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a type hint, with unions flattened and ``Annotated`` removed."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    is_union = typing.get_origin(hint) in _UNIONS
    return tuple(b for a in typing.get_args(hint) for b in alternatives(a)) if is_union else (hint,)


class Stored:
    """Base class of dataclasses that are stored as JSON or TOML."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; NaN becomes None."""
        return cast(dict[str, Any], as_json(self))

    @classmethod
    def from_json(cls, content: Any, where: str | Path = "") -> Self:
        """Rebuild the object from `to_json`; errors name `where`, the key and the expected value."""
        return from_mapping(cls, content, where=where)


def read_toml(path: str | Path, *, what: str = "file") -> dict[str, Any]:
    """Read a TOML file, with errors that name it.

    Raise `InputError` if it is absent, unreadable, larger than 4 MiB, not TOML, or nested too deeply.
    """
    return parse_toml(read_text(path, what=what, max_bytes=MAX_TOML_BYTES), where=path, what=what)


def parse_toml(text: str, *, where: str | Path, what: str = "file") -> dict[str, Any]:
    """Parse untrusted TOML; errors name `where`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}: cannot read this {what}: it is nested too deeply") from None
    except ValueError as error:  # not TOML, or integers too long to convert
        raise InputError(f"{where}: this {what} is not valid TOML ({error})") from error


def as_json(value: Any) -> Any:
    """Convert a value, or a dataclass, to types of JSON and TOML; paths become strings, and NaN None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(entry) for entry in value]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


@lru_cache(maxsize=256)
def _hints(kind: Any) -> dict[str, Any]:
    """Return the type hints of all fields that ``__init__`` takes."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


@lru_cache(maxsize=256)
def _required(kind: Any) -> list[str]:
    parameters = inspect.signature(kind).parameters
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def _build(kind: type[Made], content: Any, where: str, key: str) -> Made:
    given = _convert_items(_hints(cast(Any, kind)), content, where, key)
    missing = [name for name in _required(cast(Any, kind)) if name not in given]
    if missing:
        raise InputError(f"{_place(where, key)}: {', '.join(map(repr, missing))} must be given")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{_place(where, key)}: {error}") from error


def _convert_items(valid: Mapping[str, Any], content: Any, where: str, key: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise _wrong("a mapping", content, where, key)
    for name in content:
        if name not in valid:
            raise InputError(f"{_place(where, key)}: unknown key {_show(name)}; {nearest(str(name), valid)}")
    return {name: _convert(value, valid[name], where, _join(key, name)) for name, value in content.items()}


def _convert(value: Any, annotation: Any, where: str, key: str, range_: Range = Range()) -> Any:
    annotation, range_ = _without_marks(annotation, range_)
    container, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if container in _UNIONS:
        return _convert_union(value, annotation, where, key, range_)
    if container is Literal:
        return _convert_literal(value, inner, where, key)
    if annotation is Any:
        return value
    if annotation in (int, float):
        return _convert_number(value, annotation, where, key, range_)
    if annotation is Path:
        ok = isinstance(value, PurePath) or (isinstance(value, str) and value != "" and "\0" not in value)
        return Path(_accept(value, ok, annotation, where, key))
    if container in _LISTS:
        return _convert_list(value, annotation, where, key, range_)
    if container in MAPPINGS:
        if not isinstance(value, Mapping):
            raise _wrong(annotation, value, where, key)
        of = inner[1] if len(inner) == 2 else Any
        return {
            _convert(name, inner[0] if inner else Any, where, key): _convert(v, of, where, _join(key, name))
            for name, v in value.items()
        }
    if dataclasses.is_dataclass(annotation):
        return value if isinstance(value, container) else _build(container, value, where, key)
    ok = callable(value) if getattr(container, "_is_protocol", False) else isinstance(value, container)
    return _accept(value, ok, annotation, where, key)


def _without_marks(annotation: Any, range_: Range) -> tuple[Any, Range]:
    """Return a type hint without ``Annotated``, and the range that it declares, or else the given one."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation, range_
    kind, *marks = typing.get_args(annotation)
    return kind, next((mark for mark in marks if isinstance(mark, Range)), range_)


def _convert_number(value: Any, annotation: type, where: str, key: str, range_: Range) -> int | float:
    expected = _describe(annotation, range_)
    if value is None and annotation is float and range_.nan:
        return math.nan
    kind = numbers.Integral if annotation is int else numbers.Real
    if isinstance(value, bool) or type(value).__name__ == "bool" or not isinstance(value, kind):
        raise _wrong(expected, value, where, key)
    if isinstance(value, numbers.Integral) and abs(int(value)) > MAX_WHOLE_NUMBER:
        raise _wrong(f"{expected} that fits in 64 bits", value, where, key)
    if not range_.holds(float(value)):
        raise _wrong(expected, value, where, key)
    return cast(float, value if type(value) is annotation else annotation(value))


def _convert_literal(value: Any, valid: tuple[Any, ...], where: str, key: str) -> Any:
    for choice in valid:
        if type(choice) is type(value) and choice == value:
            return choice
    close = nearest(str(value), map(str, valid))
    hint = f"; {close}" if close.startswith("did") else ""
    raise InputError(
        f"{_place(where, key)} must be {_either(repr(choice) for choice in valid)}, not {_show(value)}{hint}"
    )


def _convert_list(value: Any, annotation: Any, where: str, key: str, range_: Range) -> Any:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, collections.abc.Collection):
        raise _wrong(_describe(annotation, range_), value, where, key)
    container, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if container is tuple and inner and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _wrong(f"a list of {len(inner)}", value, where, key)
        kinds: Any = inner
    else:
        kinds = [inner[0] if inner else Any] * len(value)
    made = [
        _convert(entry, kind, where, f"{key}[{index}]", range_)
        for index, (entry, kind) in enumerate(zip(value, kinds, strict=True))
    ]
    is_same = all(a is b for a, b in zip(made, value, strict=True))  # then return the input itself
    if container is collections.abc.Sequence:
        return value if is_same else made
    return value if is_same and type(value) is container else container(made)


def _convert_union(value: Any, annotation: Any, where: str, key: str, range_: Range) -> Any:
    errors = []
    members = typing.get_args(annotation)
    for member in sorted(members, key=lambda m: m is not type(value)):  # try the exact type first
        try:
            return _convert(value, member, where, key, range_)
        except WrongTypeError as error:
            errors.append(error)
    deeper = [error for error in errors if error.key != key]
    if len(deeper) == 1:  # a list with a single wrong entry
        raise deeper[0]
    raise _wrong(_describe(annotation, range_), value, where, key)


class WrongTypeError(InputError):
    """A value has the wrong type; `key` names the setting."""

    key = ""


def _accept(value: Any, ok: bool, annotation: Any, where: str, key: str) -> Any:
    if not ok:
        raise _wrong(annotation, value, where, key)
    return value


def _wrong(expected: Any, value: Any, where: str, key: str) -> WrongTypeError:
    expected = expected if isinstance(expected, str) else _describe(expected, Range())
    error = WrongTypeError(f"{_place(where, key)} must be {expected}, not {_show(value)}")
    error.key = key
    return error


def _place(where: str, key: str) -> str:
    return ": ".join(part for part in (where, key) if part)


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _show(value: Any) -> str:
    """Return a short one-line representation of any value."""
    if isinstance(value, int) and abs(value) > MAX_WHOLE_NUMBER:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    text = f"a {type(value).__name__}" if "\n" in text else text  # arrays and tables
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _either(words: typing.Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _describe(annotation: Any, range_: Range) -> str:
    """Describe a type hint in words."""
    annotation, range_ = _without_marks(annotation, range_)
    container, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if container in _UNIONS:
        return _either(dict.fromkeys(_describe(m, range_) for m in inner if m is not type(None)))
    if container is Literal:
        return _either(repr(choice) for choice in inner)
    if annotation in (int, float):
        word = "a whole number" if annotation is int else "a number" if range_.nan else "a finite number"
        return f"{word} {range_}".strip()
    if container in _LISTS:
        of: dict[Any, str] = {str: ' of strings, ["…", "…"]', int: " of whole numbers", float: " of numbers"}
        return "a list" + of.get(_without_marks(inner[0], range_)[0] if inner else None, "")
    if container in MAPPINGS or dataclasses.is_dataclass(annotation):
        return "a mapping"
    words: dict[Any, str] = {bool: "true or false", str: "a string", Path: "a path", type(None): "left out"}
    if getattr(annotation, "_is_protocol", False):
        return f"a function; see {annotation.__module__}.{annotation.__name__}"
    return words.get(annotation) or str(getattr(annotation, "__name__", annotation))
