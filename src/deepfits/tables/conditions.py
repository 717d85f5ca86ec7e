"""Conditions on the columns of a table, such as ``z_spec_flag >= 3``."""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.entries import GAPS, NUMBER, numbers_in_text
from deepfits.tables.table import Columns, require_column

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    **{">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt},
    **{"==": operator.eq, "!=": operator.ne},
}
_CONDITION = re.compile(
    r"(?i)^\s*(`[^`]+`|\S.*?)\s*(>=|<=|==|!=|<>|=|>|<|(?<=\s)is(?:\s+not)?(?=\s))\s*([^=<>].*?)\s*$"
)
_OR = re.compile(r"\s+or\s+|\s*\|\|?\s*", re.IGNORECASE)
_AND = re.compile(r"\s+and\s+|\s*&&?\s*", re.IGNORECASE)
_VALUE_FIRST = re.compile(
    rf"({NUMBER})\s*(>=|<=|==?|!=|>|<)\s*([^<>=]*[^<>=\s])\s*((?:>=|<=|>|<).*)?", re.DOTALL
)
_OF_SQL = {"=": "==", "<>": "!=", "is": "==", "is not": "!="}
_TURNED = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}
_NEGATED = {">=": "<", "<": ">=", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
_COMPOUND = re.compile(r">=|<=|==|!=|>|<|\||&|\b(?:or|and)\b", re.IGNORECASE)
_NOT = re.compile(r"\s*(?:not\b|[~!](?!=))\s*", re.IGNORECASE)
_ALONE = re.compile(r"`[^`]+`|[^\W\d][\w.]*")
_QUOTED = re.compile(r"(['\"])(?!.*\1.+\1$)(.*)\1")
_IN_QUOTES = re.compile(r"(?:^|(?<=[\s=(<>&|]))(['\"`]).*?\1", re.DOTALL)
_TERM = r"(?!(?:and|or|not)\b)(?:['\"`][^'\"`]+['\"`]|[\w.]*\([^()&|<>=!]*\)|[^-+*/%\s()&|<>=!~]+)"
_SET = re.compile(  # of a column, or of what is computed from columns
    rf"(?<![\w.])([-+]?{_TERM}(?:\s*[-+*/%]+\s*{_TERM})*)\s+(not\s+)?(?:in\s*[(\[](?P<values>[^()\[\]]+)[)\]](?!\s*[<>=!])"
    rf"|between\s+(?P<low>{NUMBER})\s+and\s+(?P<high>{NUMBER}))",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"(['\"]).*?\1|[^,\s][^,]*")
_INTEGER = re.compile(r"^[+-]?\d{1,40}$")
_TRUE = ("true", "t", "yes", "y", "1")
_ARITHMETIC: dict[Any, Any] = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply}
_ARITHMETIC |= {ast.Div: np.true_divide, ast.Mod: np.mod, ast.Pow: np.power, ast.USub: np.negative}
_ARITHMETIC |= {"abs": np.abs, "log10": np.log10, "sqrt": np.sqrt}
_TRUTH = dict.fromkeys(_TRUE, True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)


def as_conditions(given: str | Sequence[str]) -> tuple[str, ...]:
    """Split conditions that are joined by ``and``; alternatives, joined by ``or``, stay together.

    Examples
    --------
    >>> as_conditions("flags == 0 and mag_i < 22")
    ('flags == 0', 'mag_i < 22')
    >>> as_conditions("q in (3, 4) & (0.1 < z_spec <= 2)")
    ('(q == 3 or q == 4)', 'z_spec > 0.1', 'z_spec <= 2')
    """
    out: list[str] = []
    several = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    for text in several:
        if not isinstance(text, str):
            raise InputError(f"a condition is text, such as 'flags == 0', not {type(text).__name__}")
        out += _all_of(_without_sets(text))
    return tuple(out)


def _without_sets(text: str) -> str:
    """Write out sets and ranges of values: ``q in (3, 4)`` becomes ``(q == 3 or q == 4)``."""
    quoted = {place for match in _IN_QUOTES.finditer(text) for place in range(*match.span())}

    def written_out(match: re.Match[str]) -> str:
        if match.end(1) in quoted:
            return match[0]
        name = match[1]
        each = [f"{name} == {entry[0].strip()}" for entry in _ENTRY.finditer(match["values"] or "")]
        ends = f"{name} >= {match['low']} and {name} <= {match['high']}"
        return f"{match[2] or ''}({' or '.join(each) or ends})"

    return _SET.sub(written_out, text)


def _all_of(text: str) -> list[str]:
    """Return the conditions of which all must hold, without the parentheses around each."""
    text = _bare(text)
    if len(_split(text, _OR)) > 1:
        return [f"({text})"]
    if len(parts := _split(text, _AND)) > 1:
        return [condition for part in parts for condition in _all_of(part)]
    if (negation := _NOT.match(text)) is not None:
        return _all_of(_negated(text[negation.end() :]))
    if _ALONE.fullmatch(text):
        return [f"{text} == true"]
    if (turned := _VALUE_FIRST.fullmatch(text)) is None:  # 0.1 < z_spec < 2
        return [text]
    value, sign, name, rest = turned[1], turned[4], turned[5], turned[6]
    return [f"{name} {_TURNED.get(sign, sign)} {value}"] + ([f"{name} {rest}"] if rest else [])


def _negated(text: str) -> str:
    """Return the opposite of a condition, which missing values do not satisfy either."""
    text = _bare(text)
    if len(parts := _split(text, _OR)) > 1:
        return " and ".join(_negated(part) for part in parts)
    if len(parts := _all_of(text)) > 1:
        return f"({' or '.join(map(_negated, parts))})"
    if _ALONE.fullmatch(text):
        return f"{text} == false"
    match = _CONDITION.match(parts[0])
    return f"{match[1]} {_NEGATED[_sign(match)]} {match[3]}" if match else text


def _sign(condition: re.Match[str]) -> str:
    """Return the operator of a condition as Python writes it."""
    sign = " ".join(condition[2].lower().split())
    return _OF_SQL.get(sign, sign)


def _bare(text: str) -> str:
    """Remove the parentheses around a whole condition, or around several."""
    text = text.strip()
    while text[:1] == "(" and [*_levels(text), 0].index(0) == len(text) - 1 and _is_whole(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _levels(text: str) -> list[int]:
    """Return how many parentheses are open after each character; quotes count as one."""
    plain = _IN_QUOTES.sub(lambda match: "(" + " " * (len(match[0]) - 2) + ")", text)
    return list(accumulate((letter == "(") - (letter == ")") for letter in plain))


def _split(text: str, joint: re.Pattern[str]) -> list[str]:
    """Split conditions at joints that have one on either side; ``flags & 4 == 0`` is a single one."""
    parts, start, levels = list[str](), 0, _levels(text)
    for match in joint.finditer(text):
        part = text[start : match.start()]
        is_bits = _ALONE.fullmatch(part) and re.match(r"\s*&\s*\d", text[match.start() :])  # flags & 4
        if levels[match.start()] == 0 and _is_whole(part) and not is_bits:
            parts.append(part)
            start = match.end()
    parts.append(text[start:])
    return parts if all(_is_whole(part) for part in parts) else [text]


def _is_whole(text: str) -> bool:
    return bool(_CONDITION.match(text) or _ALONE.fullmatch(_bare(_NOT.sub("", _bare(text), count=1))))


def matches_conditions(
    columns: Mapping[str, np.ndarray], conditions: str | Sequence[str], where: str | Path
) -> np.ndarray:
    """Return a mask ``(N,)`` of the rows that satisfy all conditions; a missing value satisfies none.

    A condition is ``COLUMN OP VALUE`` with OP one of >= <= == != > <, such as ``"z_spec_flag >= 3"`` or
    ``"kind == galaxy"``, a set as in ``"q in (3, 4)"`` or ``"q not in (0, 1)"``, a range as in
    ``"z between 0.1 and 1"``, or several joined by ``and`` and ``or``, with parentheses, or negated by
    ``not``. Numbers are compared numerically even if the table stores them as text; booleans are compared
    with ``true`` or ``false``, or stand alone (``"is_star"``, ``"not is_star"``). ``"z_spec != null"`` asks
    for a value, and ``== null`` for its lack. Both sides may be computed from columns of numbers:
    ``"mag_g - mag_i > 1"``, ``"abs(b) > 20"``, ``"z < z_max"``; columns of text are compared without quotes,
    too. ``COLUMN & BITS`` in place of COLUMN keeps only these bits of whole numbers: ``"flags & 4 == 0"``.
    Raise `InputError` for a condition that cannot be parsed, an unknown column, or text where a number is
    needed.

    Examples
    --------
    >>> matches_conditions({"q": np.array([1, 3, 4])}, ["q >= 3"], "labels").tolist()
    [False, True, True]
    >>> matches_conditions({"q": np.array([1, 3, 4])}, "(q >= 3) & (q < 4) | q == 1", "labels").tolist()
    [True, True, False]
    """
    number = len(next(iter(columns.values()))) if columns else 0
    keep = np.ones(number, dtype=bool)
    for condition in as_conditions(conditions):
        if len(alternatives := _split(_bare(condition), _OR)) > 1:
            keep &= reduce(operator.or_, (matches_conditions(columns, one, where) for one in alternatives))
            continue
        match = _CONDITION.match(condition)
        if match is None:
            raise InputError(
                f"condition {condition!r} is not COLUMN OP VALUE, as in 'z_spec_flag >= 3' or 'q in (3, 4)'"
            )
        name, sign, text = match[1], _sign(match), match[3]
        if name.strip("'\"`") in columns or (column := _computed(name, columns)) is None:
            column = require_column(columns, name.strip("'\"`"), where)
        if column.ndim != 1:
            raise InputError(f"condition {condition!r}: the column contains lists")
        other = _computed(text, columns)
        numbers = column if other is None else numbers_in_text(column)
        words = columns.get(text.strip("`"))
        if other is not None and numbers.dtype.kind in "iuf":
            keep &= _OPERATORS[sign](numbers, other) & np.isfinite(numbers) & np.isfinite(other)
        elif sign in ("==", "!=") and words is not None and {column.dtype.kind, words.dtype.kind} <= {*"UO"}:
            keep &= _OPERATORS[sign](column, words) & (column != "") & (words != "")
        else:
            keep &= _compare(column, sign, text, condition, where)
    return keep


def _computed(text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the numbers, ``(N,)``, that an expression such as ``mag_g - mag_i`` has; None if it is none."""
    with suppress(SyntaxError, TypeError, OverflowError), np.errstate(all="ignore"):
        plain = re.sub("`([^`]+)`", lambda name: repr(name[1]), text.strip())
        found = _evaluated(ast.parse(plain, mode="eval").body, columns)
        return found if np.ndim(found) else None
    return None


def _evaluated(node: ast.AST, columns: Mapping[str, np.ndarray]) -> Any:
    """Return the number, or the numbers ``(N,)``, of an expression; raise `TypeError` if it has none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    kind: Any = type(getattr(node, "op", None))
    if isinstance(node, ast.Call) and len(node.args) == 1:
        kind, parts = ast.unparse(node.func), node.args
    if operation := _ARITHMETIC.get(kind):
        return operation(*(np.asarray(_evaluated(part, columns), float) for part in parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        column, bits = (np.asarray(_evaluated(n, columns)) for n in (node.left, node.right))
        return _only_bits(column, bits, ast.unparse(node))
    name = str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)  # the former in backticks
    values = numbers_in_text(columns[name]) if name in columns else np.zeros((0, 0))
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise TypeError
    return values


def _only_bits(values: np.ndarray, bits: np.ndarray, text: str) -> np.ndarray:
    """Keep only some bits of whole numbers, ``(N,)``; missing values, NaN among floats, stay missing."""
    if values.dtype.kind == "b" or (values % 1 > 0).any() or ((bits % 1 > 0) | (bits < 0)).any():
        raise InputError(f"condition on {text!r}: only columns of whole numbers have bits")
    is_there = np.isfinite(values)
    whole = np.where(is_there, values, 0).astype(np.int64) if values.dtype.kind == "f" else values
    kept = whole.astype(np.uint64) & bits.astype(np.uint64)
    return kept if is_there.all() else np.where(is_there, kept, np.nan)


def choose(columns: Columns, conditions: str | Sequence[str] | None, where: str | Path) -> Columns:
    """Return the rows that satisfy all conditions, or all rows if there are no conditions.

    Errors are those of `matches_conditions`, and that no row is left.
    """
    if conditions is None:
        return columns
    keep = matches_conditions(columns, conditions, where)
    if not keep.any():
        joined = " and ".join(as_conditions(conditions))
        raise InputError(f"{where}: none of {len(keep)} objects satisfies {joined}; loosen the conditions")
    return {name: values[keep] for name, values in columns.items()}


def as_truth(column: np.ndarray) -> np.ndarray | None:
    """Convert booleans written as numbers or text (``t``, ``F``, ``1``); None if the column is not boolean.

    Examples
    --------
    >>> as_truth(np.array(["t", "f"])).tolist(), as_truth(np.array([0, 2])) is None
    ([True, False], True)
    """
    if column.dtype.kind == "b":
        return column
    words = np.char.lower(column.astype(str))
    if column.dtype.kind not in "iuU" or not np.isin(words, list(_TRUTH)).all():
        return None
    return np.isin(words, _TRUE)


def _compare(column: np.ndarray, sign: str, text: str, condition: str, where: str | Path) -> np.ndarray:
    compare = _OPERATORS[sign]
    kind = column.dtype.kind
    if text.lower() in ("null", "nan") and sign in ("==", "!="):
        is_gap = np.isnan(column) if kind == "f" else np.isin(np.char.lower(column.astype(str)), GAPS)
        return is_gap if sign == "==" else ~is_gap
    if kind in "UO":
        return _compare_text(column.astype(str), sign, text, condition, where)
    if kind == "b":
        if (word := text.strip("'\"").lower()) not in _TRUTH:
            raise InputError(f"condition {condition!r}: the column is boolean; compare it with true or false")
        return np.asarray(compare(column, _TRUTH[word]), dtype=bool)
    if text.lower() in ("true", "false") and np.isin(column[np.isfinite(column)], (0, 1)).all():
        text = str(int(_TRUTH[text.lower()]))
    value = _number(text.strip("'\""))
    if value is None:
        raise InputError(f"condition {condition!r}: the column is numeric, {text!r} is not a number")
    return np.asarray(compare(column, value) & np.isfinite(column), dtype=bool)


def _number(text: str) -> int | float | None:
    try:
        return int(text) if _INTEGER.match(text.strip()) else float(text)
    except ValueError:
        return None


def _compare_text(column: np.ndarray, sign: str, text: str, condition: str, where: str | Path) -> np.ndarray:
    """Compare a text column: numerically with a number, as booleans with true or false, else for equality."""
    quoted = _QUOTED.fullmatch(text)
    bare = quoted[2] if quoted else text
    if quoted is None and _COMPOUND.search(text):
        raise InputError(
            f"condition {condition!r} is not COLUMN OP VALUE: conditions are joined by 'and' and 'or'; put "
            "quotes around text that contains 'or' or an operator"
        )
    lower = np.char.lower(np.char.strip(column)) if len(column) else column
    is_gap = np.isin(lower, GAPS)
    value = None if quoted else _number(text)
    if value is not None:
        parsed = [None if gap else _number(entry) for entry, gap in zip(column.tolist(), is_gap, strict=True)]
        number = np.array([np.nan if entry is None else entry for entry in parsed], dtype=object)  # exact
        is_number = np.isfinite(number.astype(np.float64))
        odd = column[~is_gap & [entry is None for entry in parsed]]
        if len(odd) and sign not in ("==", "!="):
            raise InputError(
                f"{where}: condition {condition!r}: the column contains {str(odd[0])!r}, which is not a "
                "number; remove such entries from the table, or select values with =="
            )
        if not len(odd) or is_number.any():
            is_there = ~is_gap if sign == "!=" else is_number
            with np.errstate(invalid="ignore"):
                return np.asarray(_OPERATORS[sign](number, value), dtype=bool) & is_there
    if not quoted and bare.lower() in _TRUTH and np.isin(lower[~is_gap], list(_TRUTH)).all():
        is_true = np.isin(lower, _TRUE)
        return np.asarray(_OPERATORS[sign](is_true, _TRUTH[bare.lower()]) & ~is_gap, dtype=bool)
    if sign not in ("==", "!="):
        raise InputError(
            f"condition {condition!r}: the column is text, which has no order; use == or !=, for several "
            "values as in 'grade != C and grade != D'"
        )
    if not bare:
        return np.asarray(_OPERATORS[sign](column, bare), dtype=bool)
    if not (column == bare).any() and (alike := column[lower == bare.strip().lower()]).size:
        raise InputError(
            f"{where}: condition {condition!r}: no row has {bare!r}, but {len(alike)} have "
            f"{str(alike[0])!r}; write it like that"
        )
    return np.asarray(_OPERATORS[sign](column, bare) & (column != ""), dtype=bool)
