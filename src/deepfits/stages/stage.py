"""A stage is a configuration and a function of it.

The configuration is a frozen dataclass, the single place where a parameter's name, type, default and
documentation are given. Everything else is derived from it: the Python function and its help, the command
line, the sections of a run file, and the record of what a result was made from.

    @dataclass(frozen=True)
    class FitConfig(OnWorkers):
        store: Annotated[str | Path, INPUT]
        \"\"\"The cutouts.\"\"\"
        out: str | Path
        ...
        _: KW_ONLY
        objective: Literal["flux", "paper"] = "flux"
        workers: Annotated[int, NEUTRAL] = 1


    @stage(FitConfig)
    def fit(config: FitConfig) -> Path:
        with claim(config, name="fit") as results:
            ...

Users call `deepfits.fit(store, out, objective="paper")`. When deciding whether an existing result is still
valid, paths marked `INPUT` are compared by their contents, fields marked `NEUTRAL` are ignored because they
do not change the result, and all other fields are compared by value; in those marked `NAMES_FILES`, which may
name files (``g=PSF.fits``), the files are compared by their contents too.
"""

import ast
import functools
import inspect
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_origin, get_type_hints

from deepfits.config import INPUT, NAMES_FILES, NEUTRAL, Mark, alternatives, as_json, check
from deepfits.errors import InputError, missing_extra, nearest
from deepfits.files import contents, named_contents
from deepfits.option_names import option_names
from deepfits.progress import Progress, silent
from deepfits.results import Results, require_finished, results


@dataclass(frozen=True, kw_only=True)
class Common:
    """Parameters of every stage."""

    progress: Annotated[Progress, NEUTRAL] = silent
    """Progress display; see `deepfits.progress`. Silent by default."""


P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")


def stage(config: Callable[P, C], *, result: str = "") -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Turn ``work(config)`` into a function of the configuration's fields, with their documentation.

    `result` is what the command line calls the path that it returns.
    """

    def decorate(work: Callable[[C], R]) -> Callable[P, R]:
        name = work.__name__
        returned = inspect.signature(work).return_annotation
        signature = _signature(config, returned)

        @functools.wraps(work, assigned=("__module__", "__name__", "__qualname__"), updated=())
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{name}() {_wrong_arguments(signature, args, kwargs) or error}") from None
            try:
                given = config(*args, **kwargs)
                _require_finite(given, name)
                _require_paths(given, name)
                _wrap_single_values(given)
                check(given, where=name)
                _require_device(given)
                with _plain_defaults():
                    return work(given)
            except InputError as error:  # the message says what to do; our traceback would not help the user
                raise error.with_traceback(None) from None
            except ModuleNotFoundError as error:
                if (needed := missing_extra(error)) is None:
                    raise
                raise InputError(needed) from error

        del call.__wrapped__
        call.__annotations__ = get_type_hints(config, include_extras=True)
        call.__signature__ = signature  # type: ignore[attr-defined]
        described = documentation(config)
        ordered = {name: described[name] for name in signature.parameters if name in described}
        call.__doc__ = _with_parameters(inspect.getdoc(work) or "", ordered, returned)
        call.config, call.result = config, result  # type: ignore[attr-defined]
        return call

    return decorate


def _wrong_arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str | None:
    """Return what to write instead of a misspelt argument, or of too many without a name."""
    for key in (key for key in kwargs if key not in signature.parameters):
        option = f"--{key.replace('_', '-')}"
        meant = next((name for name in signature.parameters if option in option_names(name)), None)
        hint = f"did you mean {meant!r}?" if meant else nearest(key, signature.parameters)
        return f"got an unexpected keyword argument {key!r}; {hint}"
    named = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    first = [name for name in signature.parameters if name not in named]
    if len(args) > len(first):
        return f"takes {', '.join(first)} and then arguments by name, such as {named[0]}=…"
    return None


def _require_finite(config: Any, name: str) -> None:
    """Refuse NaN and infinity, which range checks may let through and JSON records cannot hold."""
    for key, value in vars(config).items():
        for number in _floats(value):
            if not math.isfinite(number):
                raise InputError(f"{name}: {key} must be a finite number, not {number}")


def _floats(value: Any) -> Iterator[float]:
    """Yield all floats in a value, at any depth of lists and mappings."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _floats(entry)


def _wrap_single_values(config: Any) -> None:
    """Accept a single string or identity where a list is declared: ``bands="u"``, ``ids=1203``."""
    for key, hint in get_type_hints(type(config), include_extras=True).items():
        value, kinds = getattr(config, key, None), alternatives(hint)
        plain: set[Any] = {str} if isinstance(value, str) else {int, float}
        is_list = Sequence in [get_origin(kind) for kind in kinds] and not plain & {*kinds}
        if isinstance(value, str | Integral) and is_list:
            object.__setattr__(config, key, (value,))


def _require_paths(config: Any, name: str) -> None:
    """Refuse tables and arrays where a path is expected, and "", which would mean the current directory.

    Also expand ``~``.
    """
    required = inspect.signature(type(config)).parameters
    for key in ["out", *field_names(config, INPUT)]:
        value = getattr(config, key, None)
        if isinstance(value, Iterator):  # as from Path.glob
            object.__setattr__(config, key, value := list(value))
        several = value if isinstance(value, list | tuple) else [value]
        if unusable := [entry for entry in several if not isinstance(entry, str | os.PathLike | None)]:
            kind = type(unusable[0])
            is_ours = kind.__module__.startswith("deepfits.")
            remedy = "give the path that it was read from" if is_ours else "write it into a file first"
            if isinstance(unusable[0], Mapping) and not is_ours:
                remedy = "give a path, or a list of paths"
            raise InputError(f"{name}: {key} must be a path, not {kind.__name__}; {remedy}")
        if "" in several or (not several and required[key].default is inspect.Parameter.empty):
            raise InputError(f"{name}: {key} is empty; name a path")
        at_home = [entry if entry is None else _at_home(entry) for entry in several]
        if at_home != several:
            object.__setattr__(config, key, at_home if isinstance(value, list | tuple) else at_home[0])


def _at_home(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Expand ``~`` in ``~/run`` and ``g=~/g.fits``, which shells leave in ``--out=~/run``."""
    text = os.fspath(path)
    start, tilde, rest = text.partition("~")
    if not tilde or not re.fullmatch(r"(?:[\w*+-]+=)?", start) or os.path.lexists(text):
        return path
    return start + os.path.expanduser(tilde + rest)


@contextmanager
def _plain_defaults() -> Iterator[None]:
    """Keep what the caller set in NumPy and PyTorch (types, error handling, no_grad) out of the work."""
    import numpy as np

    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        if "torch" in sys.modules:
            from deepfits.tensors import plain_defaults

            stack.enter_context(plain_defaults())
        yield


def _require_device(config: Any) -> None:
    """Refuse a device that this machine lacks; a scheduler's workers have devices of their own."""
    is_here = "device" in field_names(config, NEUTRAL) and getattr(config, "scheduler", None) is None
    if is_here and config.device != "cpu":  # which needs no PyTorch
        from deepfits.tensors import require_device

        object.__setattr__(config, "device", str(require_device(config.device)))


def claim(
    config: Any,
    *,
    name: str,
    out: str | Path | None = None,
    version: int = 1,
    inputs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    is_file: bool = False,
    renew: bool = False,
    by_part: Collection[str] = (),
) -> AbstractContextManager[Results]:
    """Claim a stage's output path, recording the inputs and settings of its configuration.

    `inputs` are fingerprints that replace or add to those of the `INPUT` fields, where the contents of the
    path alone do not identify what is read, and `settings` values that replace or add to those of the fields,
    such as what a default was resolved to. For the others, and what `out` may hold, see
    `deepfits.results.results`. Raise `InputError` if an input does not exist or is not finished, unless the
    configuration's `partial` is set.
    """
    partial = bool(getattr(config, "partial", False))
    given, is_whole = dict(inputs or {}), True
    for key in field_names(config, INPUT):
        value = getattr(config, key)
        paths = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
        for path in paths:
            if Path(path).exists():
                is_whole &= require_finished(path, partial=partial)
        if key not in given:
            given[key] = contents(*paths) if paths else None
    return results(
        config.out if out is None else out,
        name,
        inputs={key: given[key] for key in sorted(given)},
        settings={**settings_of(config), **(settings or {})},
        version=version,
        is_file=is_file,
        renew=renew,
        by_part=by_part,
        is_partial=not is_whole,
    )


def settings_of(config: Any) -> dict[str, Any]:
    """Return the fields that affect the result, without inputs and `out`, ready for JSON."""
    left_out = {"out", *field_names(config, INPUT), *field_names(config, NEUTRAL)}
    settings = {f.name: as_json(getattr(config, f.name)) for f in fields(config) if f.name not in left_out}
    return settings | {name: named_contents(settings[name]) for name in field_names(config, NAMES_FILES)}


def refuse_given(config: Any, names: Iterable[str], why: str) -> None:
    """Raise `InputError` if any of these fields, which have no effect here, differs from its default."""
    defaults = {f.name: f.default for f in fields(config)}
    if given := [name for name in sorted(names) if getattr(config, name) != defaults[name]]:
        raise InputError(f"{given[0]}={getattr(config, given[0])!r} has no effect {why}")


def field_names(config: Any, mark: Mark) -> list[str]:
    """Return the names of the fields that carry a mark, in order."""
    hints = get_type_hints(config if isinstance(config, type) else type(config), include_extras=True)
    return [f.name for f in fields(config) if mark in getattr(hints[f.name], "__metadata__", ())]


def part_of(config: Any, kind: Callable[..., T], **others: Any) -> T:
    """Call `kind` (a dataclass or a stage) with the fields it shares with `config`, updated by `others`."""
    names = {f.name for f in fields(config)} & set(inspect.signature(kind).parameters)
    return kind(**{**{name: getattr(config, name) for name in names}, **others})


def documentation(config: Any) -> dict[str, str]:
    """Return the description of each field, the docstring below it in a configuration or base, in order."""
    stated: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        stated |= _described_fields(kind)
    return {name: stated[name] for name in inspect.signature(config).parameters if name in stated}


@functools.cache
def _described_fields(kind: type) -> dict[str, str]:
    """Return the descriptions of a class's own fields; none if its source is not installed."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _signature(config: Any, returned: Any) -> inspect.Signature:
    """Return a configuration's signature: positional fields first, its own fields before inherited ones."""
    declared = inspect.signature(config).parameters
    order = dict.fromkeys(name for kind in config.__mro__ for name in inspect.get_annotations(kind))
    plain = get_type_hints(config)  # without marks and ranges
    used = (declared[name].replace(annotation=plain[name]) for name in order if name in declared)
    parameters = sorted(used, key=lambda p: p.kind)
    return inspect.Signature(parameters, return_annotation=returned)


def _with_parameters(text: str, parameters: Mapping[str, str], returned: Any) -> str:
    """Insert what a stage takes, and that it returns `out` if it says nothing else, before other sections."""
    lines = text.splitlines()
    at = next((n - 1 for n, line in enumerate(lines) if n and line and set(line) == {"-"}), len(lines))
    section = ["Parameters", "----------"]
    for name, description in parameters.items():
        section += [name, *textwrap.wrap(description, 100, initial_indent="    ", subsequent_indent="    ")]
    if returned in (Path, "Path") and "Returns" not in lines:
        section += ["", "Returns", "-------", "Path", "    `out`."]
    before = "\n".join(lines[:at]).rstrip()
    return "\n".join([before, "", *section, "", *lines[at:]]).rstrip() + "\n"
