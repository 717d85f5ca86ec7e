"""Options of a command, from a stage's signature and docstring.

A parameter is declared once, in the stage's configuration. This module only defines how it is written on the
command line: ``object_ids`` is ``--object-ids`` or ``--object-id``, lists are given by repeating the option
or with commas, mappings as ``name=value``.
"""

import ast
import collections.abc
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from deepfits.config import MAPPINGS, alternatives, parse_toml
from deepfits.errors import InputError
from deepfits.files import read_text
from deepfits.option_names import option_names
from deepfits.stages import MODULES
from deepfits.stages.stage import documentation

SET_BY_COMMAND_LINE = {"progress", "threads", "num_threads"}
# Conditions and paths may contain commas.
NOT_SPLIT = {"images", "select", "train_select", "where"}
OFF = {
    "subtract_level": ["--keep-level"], "held_out_only": ["--all"], "open_browser": ["--no-browser"],
}  # fmt: skip
_NEXT_PAIR = re.compile(r",(?=\s*\w+\s*=)")
_BRACKETS, _QUOTES = re.compile(r"\[([^][]*)\]"), re.compile(r"(['\"])(.*)\1")


def options_of(stage: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a command for cyclopts, positional ones first."""
    signature, hints = inspect.signature(stage), get_type_hints(stage, include_extras=True)
    descriptions, groups = documentation(getattr(stage, "config", stage)), _groups(stage)
    shown: list[inspect.Parameter] = []
    inputs = [
        p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "out"
    ]
    for parameter in signature.parameters.values():
        name = parameter.name
        if name in SET_BY_COMMAND_LINE or parameter.kind is parameter.VAR_KEYWORD:
            continue
        is_option = parameter.kind is parameter.KEYWORD_ONLY or (name == "out" and bool(shown))
        kind, converter = _type(name, hints[name])
        if get_origin(kind) is list and name in inputs[:-1]:
            kind, converter = str, None  # a list would take what belongs to the next positions
        off = [f"--no-{name.replace('_', '-')}", *OFF.get(name, [])]
        # Required parameters go into the first help panel, whatever their group.
        is_grouped = name in groups and parameter.default is not parameter.empty
        grouped: dict[str, Any] = {"group": groups[name]} if is_grouped else {}
        described = Parameter(
            name=option_names(name),
            negative=off if kind in (bool, bool | None) else (),
            help=in_shell(descriptions.get(name, "")),
            converter=converter,
            consume_multiple=False,
            show_default=_default if parameter.default not in (None, (), "") else False,
            **grouped,
        )
        place = parameter.KEYWORD_ONLY if is_option else parameter.POSITIONAL_OR_KEYWORD
        shown.append(parameter.replace(annotation=Annotated[kind, described], kind=place))
    if "options" not in signature.parameters:
        more = Annotated[list[str] | None, Parameter(name="--set", show=False)]
        shown.append(inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=more))
    return sorted(shown, key=lambda p: (p.kind, p.kind is p.KEYWORD_ONLY and p.default is not p.empty))


def _default(value: Any) -> str:
    """Return a default as it would be given on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _type(name: str, hint: Any) -> tuple[Any, Callable[..., Any] | None]:
    """Return the command-line type of a type hint, and its converter from text if it needs one."""
    kinds = [kind for kind in alternatives(hint) if kind is not NoneType]
    optional = None if NoneType in alternatives(hint) else ...
    if len(kinds) == 1 and get_origin(kinds[0]) in MAPPINGS:
        return list[str] | None, None
    lists = [kind for kind in kinds if get_origin(kind) in (list, tuple, collections.abc.Sequence)]
    if lists:
        inner = get_args(lists[0])[0]
        kind: Any = list[inner if inner in (int, float) or get_origin(inner) is Literal else str]  # type: ignore[misc]
        converter = None if name in NOT_SPLIT else functools.partial(_read_list, inner)
        return (kind if optional is ... else kind | None), converter
    kind = str if kinds[:1] == [str] or Path in kinds else kinds[0]
    return (kind if optional is ... else kind | None), None


def _read_list(inner: Any, _: Any, tokens: Sequence[Any]) -> list[Any]:
    """Read a list from repeated options, comma-separated values, or a file of values, ``@FILE``."""
    texts = [part for token in tokens for part in _values(token.value)]
    return [inner(text) if inner in (int, float) else text for text in texts]


def name_value(given: Sequence[str], option: str) -> dict[str, Any]:
    """Parse ``name=value`` pairs, with values as TOML if possible, else as text.

    Several pairs may be separated by commas, which otherwise belong to the value.

    Examples
    --------
    >>> name_value(["psf=0.8:2.5,allow_missing=true", "zero_point=g=27,r=26"], "--cutting")
    {'psf': '0.8:2.5', 'allow_missing': True, 'zero_point': 'g=27,r=26'}
    >>> name_value(["zero_point=g=27", "zero_point=25", "zero_point=r=26"], "--cutting")
    {'zero_point': 'g=27,25,r=26'}
    """
    settings: dict[str, Any] = {}
    for pair in given:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise InputError(f"{option} {pair}: write it as NAME=VALUE")
        found: dict[str, Any] = {name: text}
        try:
            found = {name: parse_toml(f"value = {text}", where=option, what="value")["value"]}
        except InputError:  # plain text
            first, *more = _NEXT_PAIR.split(text, maxsplit=1)
            if "=" not in first and more:
                found = name_value([f"{name}={first}", more[0]], option)
        for name, value in found.items():
            earlier = settings.get(name)
            if name not in settings:
                settings[name] = value
            elif "=" in f"{earlier}{value}":  # pairs of a repeated name, zero_point=g=27, add up
                settings[name] = f"{earlier},{value}"
            elif earlier != value:
                raise InputError(
                    f"{option}: {name} is given twice, as {earlier} and {value}; leave out one of the two"
                )
    return settings


def from_text(stage: Callable[..., Any], given: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the arguments that are given as text: mappings (``name=value``), and all in ``--set``."""
    settings: dict[str, Any] = {}
    for name, hint in get_type_hints(stage).items():
        kinds = [get_origin(kind) for kind in alternatives(hint) if kind is not NoneType]
        if len(kinds) == 1 and kinds[0] in MAPPINGS and isinstance(given.get(name), list):
            settings[name] = name_value(given[name], option_names(name)[-1])
        if isinstance(value := more.get(name), str) and {list, collections.abc.Sequence} & set(kinds):
            settings[name] = _split(value)
        elif name in more:
            settings[name] = value
    return settings


def _values(text: str) -> list[str]:
    """Split text into values, or read those of ``@FILE``: one per line, all on one line, or in a table."""
    if not text.startswith("@"):
        return _split(text)
    if identities := _identities(text[1:]):
        return identities
    lines = [line.strip() for line in read_text(text[1:], what="list").splitlines() if line.strip()]
    return lines if len(lines) > 1 else [part for line in lines for part in _split(line)]


def _identities(path: str) -> list[str]:
    """Return the identities in a table, such as a selection saved in the explorer; empty for other files."""
    from deepfits import tables

    try:
        tables.format_of(path)
        columns = tables.read_table(path)
    except InputError:
        return []
    name = tables.identity_name(columns)
    return tables.identities(columns[name], path, name).astype(str).tolist() if name is not None else []


def _split(text: str) -> list[str]:
    """Split at commas; enclosing brackets, and quotes around values, are removed."""
    inner = _BRACKETS.fullmatch(text.strip())
    parts = [part.strip() for part in (inner[1] if inner else text).split(",")]
    return [quoted[2] if (quoted := _QUOTES.fullmatch(part)) else part for part in parts if part]


def about(stage: Callable[..., Any]) -> str:
    """Return the text of a help page: the docstring before its sections, and its examples."""
    text = inspect.getdoc(stage) or ""
    head, _, sections = text.partition("\nParameters\n---")
    examples = sections.partition("\nExamples\n--------\n")[2].strip()
    return in_shell(head.strip() + (f"\n\n**Examples**\n\n{examples}" if examples else ""))


def _groups(stage: Any) -> dict[str, Group]:
    """Return the help panel of each option that is declared in a group of parameters."""
    groups: dict[str, Group] = {}
    for number, kind in enumerate(inspect.getmro(getattr(stage, "config", object))[1:-1]):
        title = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
        for name in inspect.get_annotations(kind):
            groups.setdefault(name, Group(title, sort_key=number + 2))
    return groups


def in_shell(text: str) -> str:
    """Rewrite Python code in a docstring as it is typed in a shell: values, lists, arguments, stage names."""
    return re.sub(r"`([^`]+)`", lambda code: f"`{_typed(code[1])}`", text.replace("``", "`"))


def _typed(code: str) -> str:
    if code in MODULES:
        return code.replace("_", " ")
    if argument := re.fullmatch(r'([a-z_]+)="([^"]*)"', code):
        return f"--{argument[1].replace('_', '-')} {argument[2]}"
    try:
        value = ast.literal_eval(code) if code[0] in '[{"' else code
    except (SyntaxError, ValueError):
        return code
    if isinstance(value, dict):
        return "` and `".join(f"{name}={part}" for name, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
