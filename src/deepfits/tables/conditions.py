"""Conditions on the columns of a table, such as ``z_spec_flag >= 3``."""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.entries import GAPS, NUMBER, numbers_in_text
from deepfits.tables.table import Columns, require_column

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    **{">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt},
    **{"==": operator.eq, "!=": operator.ne},
}
_SIGNS = {sign: sign for sign in _OPERATORS} | {"=": "==", "<>": "!="}
_NEGATED = {">=": "<", "<": ">=", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
_TURNED = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}
_OR, _AND, _NOT = ("or", "|", "||"), ("and", "&", "&&"), ("not", "~", "!")
_TOKEN = re.compile(
    r"(?:^|(?<=[\s=(\[,<>&|~!+*/%-]))(['\"`]).*?\1"  # text in quotes, a name in backticks
    r"|>=|<=|==|!=|<>|[=<>]|&&|\|\||[&|~!()\[\]]|[^\s()\[\]<>=!&|~'\"`]+|\S",
    re.DOTALL,
)
_NAME = re.compile(r"`[^`]+`|[^\W\d][\w.]*")
_QUOTED = re.compile(r"(['\"])(?!.*\1.+\1$)(.*)\1")
_ENTRY = re.compile(r"(['\"]).*?\1|[^,\s][^,]*")
_INTEGER = re.compile(r"^[+-]?\d{1,40}$")
_TRUE = ("true", "t", "yes", "y", "1")
_ARITHMETIC: dict[Any, Any] = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply}
_ARITHMETIC |= {ast.Div: np.true_divide, ast.Mod: np.mod, ast.Pow: np.power, ast.USub: np.negative}
_ARITHMETIC |= {"abs": np.abs, "log10": np.log10, "sqrt": np.sqrt}
_TRUTH = dict.fromkeys(_TRUE, True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)


@dataclass(frozen=True)
class _Comparison:
    left: str
    sign: str
    right: str

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"

    def negated(self) -> Self:
        """Return the opposite, which missing values do not satisfy either."""
        return replace(self, sign=_NEGATED[self.sign])


@dataclass(frozen=True)
class _Joined:
    """Conditions of which any, or all, must hold."""

    parts: tuple["_Condition", ...]
    is_any: bool

    def __str__(self) -> str:
        return f"({(' or ' if self.is_any else ' and ').join(map(str, self.parts))})"

    def negated(self) -> "_Condition":
        return _joined([part.negated() for part in self.parts], is_any=not self.is_any)


_Condition = _Comparison | _Joined


def _parts(condition: _Condition, *, is_any: bool) -> tuple[_Condition, ...]:
    """Return the conditions of which any, or all, must hold."""
    if isinstance(condition, _Joined) and condition.is_any == is_any:
        return condition.parts
    return (condition,)


def _joined(parts: Sequence[_Condition], *, is_any: bool) -> _Condition:
    if len(parts) == 1:
        return parts[0]
    return _Joined(tuple(one for part in parts for one in _parts(part, is_any=is_any)), is_any)


class _Parser:
    """Parse a condition by recursive descent, from ``or``, the weakest joint, to what is compared."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens = list(_TOKEN.finditer(text))

    def parse(self) -> _Condition:
        with suppress(RecursionError):
            condition = self._any()
            if self._next() == "":
                return condition
        raise self._error()

    def _error(self) -> InputError:
        return InputError(
            f"condition {self.text!r} is not COLUMN OP VALUE, as in 'z_spec_flag >= 3' or 'q in (3, 4)'; "
            "conditions are joined by 'and' and 'or'; put quotes around text that contains these or operators"
        )

    def _next(self, ahead: int = 0) -> str:
        """Return the next token, or a later one, in lower case; empty at the end."""
        place = self.at + ahead
        return self.tokens[place][0].lower() if place < len(self.tokens) else ""

    def _skip(self, *expected: str) -> bool:
        """Go on behind the next token if it is an expected one."""
        is_expected = self._next() in expected
        self.at += is_expected
        return is_expected

    def _require(self, expected: str) -> None:
        if not self._skip(expected):
            raise self._error()

    def _any(self) -> _Condition:
        parts = [self._all()]
        while self._skip(*_OR):
            parts.append(self._all())
        return _joined(parts, is_any=True)

    def _all(self) -> _Condition:
        parts = [self._parse_one()]
        while self._skip(*_AND):
            parts.append(self._parse_one())
        return _joined(parts, is_any=False)

    def _parse_one(self) -> _Condition:
        if self._skip(*_NOT):
            return self._parse_one().negated()
        if self._next() == "(" and self._next(self._length()) in ("", ")", *_OR, *_AND):
            self.at += 1
            condition = self._any()
            self._require(")")
            return condition
        term = self._term(is_first=True)
        is_negated = self._skip("not")
        condition = self._condition_on(term)
        return condition.negated() if is_negated else condition

    def _condition_on(self, term: str) -> _Condition:
        if self._skip("in"):
            start, self.at = self.tokens[self.at].end(), self.at + self._length()
            values = [entry[0].strip() for entry in _ENTRY.finditer(self.text[start : self._end() - 1])]
            if values:
                return _joined([_Comparison(term, "==", value) for value in values], is_any=True)
        elif self._skip("between"):
            low = self._term()
            self._require("and")
            ends = [_Comparison(term, ">=", low), _Comparison(term, "<=", self._term())]
            return _joined(ends, is_any=False)
        elif self._skip("is"):
            return _Comparison(term, "!=" if self._skip("not") else "==", self._term())
        elif self._next() in _SIGNS:
            return self._chain(term)
        elif _NAME.fullmatch(term):
            return _Comparison(term, "==", "true")
        elif "&" in term:
            return _Comparison(term, "!=", "0")
        raise self._error()

    def _chain(self, term: str) -> _Condition:
        """Return a comparison such as ``q > 3``, or several such as ``0.1 < z < 2``."""
        signs, terms = list[str](), [term]
        while self._next() in _SIGNS:
            signs.append(_SIGNS[self._next()])
            self.at += 1
            terms.append(self._term())
        if len(signs) > 1 and {sign[0] for sign in signs} not in ({"<"}, {">"}):
            raise self._error()
        parts = []
        for left, sign, right in zip(terms, signs, terms[1:], strict=False):
            is_turned = re.fullmatch(NUMBER, left) and not re.fullmatch(NUMBER, right)
            turned = (right, _TURNED.get(sign, sign), left)
            parts.append(_Comparison(*(turned if is_turned else (left, sign, right))))
        return _joined(parts, is_any=False)

    def _term(self, *, is_first: bool = False) -> str:
        """Return a column, a value, or what is computed from columns, as it is written."""
        start = self.at
        while (token := self._next()) not in ("", ")", "]", *_SIGNS):
            if is_first and self.at > start and self._is_keyword():
                break
            if token in (*_OR, *_AND) and not self._is_bits(self.tokens[start : self.at], is_first=is_first):
                break
            self.at += self._length() if token in ("(", "[") else 1
        if self.at == start:
            raise self._error()
        return self.text[self.tokens[start].start() : self._end()]

    def _is_keyword(self) -> bool:
        token, after = self._next(), self._next(1)
        return (
            token in ("between", "is")
            or (token == "in" and after in ("(", "["))
            or (token == "not" and after in ("in", "between"))
        )

    def _is_bits(self, before: list[re.Match[str]], *, is_first: bool) -> bool:
        """Tell ``flags & 4`` from a joint: a name and a number, which no second condition begins with."""
        if self._next() != "&" or len(before) != 1:
            return False
        operand, other = before[0][0], self._next(1)
        if _NAME.fullmatch(operand) and other[:1].isdigit():
            return is_first or self._next(2) not in _SIGNS
        return is_first and operand.isdigit() and _NAME.fullmatch(other) is not None

    def _length(self) -> int:
        """Return the number of tokens from the next bracket to the one that closes it, both included."""
        depth = 0
        for length, token in enumerate(self.tokens[self.at :], start=1):
            depth += (token[0] in "([") - (token[0] in ")]")
            if depth == 0:
                return length
        raise self._error()

    def _end(self) -> int:
        """Return where in the text the last token ended."""
        return self.tokens[self.at - 1].end()


def _parsed(given: str | Sequence[str]) -> list[_Condition]:
    """Return conditions of which all must hold."""
    several = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    out = list[_Condition]()
    for text in several:
        if not isinstance(text, str):
            raise InputError(f"a condition is text, such as 'flags == 0', not {type(text).__name__}")
        out += _parts(_Parser(text).parse(), is_any=False)
    return out


def as_conditions(given: str | Sequence[str]) -> tuple[str, ...]:
    """Split conditions that are joined by ``and``; alternatives, joined by ``or``, stay together.

    Raise `InputError` for a condition that cannot be parsed.

    Examples
    --------
    >>> as_conditions("flags == 0 and mag_i < 22")
    ('flags == 0', 'mag_i < 22')
    >>> as_conditions("q in (3, 4) & (0.1 < z_spec <= 2)")
    ('(q == 3 or q == 4)', 'z_spec > 0.1', 'z_spec <= 2')
    """
    return tuple(map(str, _parsed(given)))


def matches_conditions(
    columns: Mapping[str, np.ndarray], conditions: str | Sequence[str], where: str | Path
) -> np.ndarray:
    """Return a mask ``(N,)`` of the rows that satisfy all conditions; a missing value satisfies none.

    A condition is ``COLUMN OP VALUE`` with OP one of >= <= == != > <, such as ``"z_spec_flag >= 3"`` or
    ``"kind == galaxy"``, a set as in ``"q in (3, 4)"`` or ``"q not in (0, 1)"``, a range as in
    ``"z between 0.1 and 1"`` or ``"0.1 < z < 1"``, or several joined by ``and`` and ``or``, with parentheses,
    or negated by ``not``. Numbers are compared numerically even if the table stores them as text; booleans
    are compared with ``true`` or ``false``, or stand alone (``"is_star"``, ``"not is_star"``).
    ``"z_spec != null"`` asks for a value, and ``== null`` for its lack. Both sides may be computed from
    columns of numbers: ``"mag_g - mag_i > 1"``, ``"abs(b) > 20"``, ``"z < z_max"``; columns of text are
    compared without quotes, too. ``COLUMN & BITS`` in place of COLUMN keeps only these bits of whole numbers:
    ``"flags & 4 == 0"`` or ``"not (flags & 4)"``. Raise `InputError` for a condition that cannot be parsed,
    an unknown column, or text where a number is needed.

    Examples
    --------
    >>> matches_conditions({"q": np.array([1, 3, 4])}, ["q >= 3"], "labels").tolist()
    [False, True, True]
    >>> matches_conditions({"q": np.array([1, 3, 4])}, "(q >= 3) & (q < 4) | q == 1", "labels").tolist()
    [True, True, False]
    """
    number = len(next(iter(columns.values()))) if columns else 0
    return _matches(_Joined(tuple(_parsed(conditions)), is_any=False), columns, where, number)


def _matches(
    condition: _Condition, columns: Mapping[str, np.ndarray], where: str | Path, number: int
) -> np.ndarray:
    if isinstance(condition, _Joined):
        joint = operator.or_ if condition.is_any else operator.and_
        masks = (_matches(part, columns, where, number) for part in condition.parts)
        return reduce(joint, masks, np.full(number, not condition.is_any))
    sign, text = condition.sign, condition.right
    name = condition.left.strip("'\"`")
    if name in columns or (column := _computed(condition.left, columns)) is None:
        column = require_column(columns, name, where)
    if column.ndim != 1:
        raise InputError(f"condition {str(condition)!r}: the column contains lists")
    other = _computed(text, columns)
    numbers = column if other is None else numbers_in_text(column)
    words = columns.get(text.strip("`"))
    if other is not None and numbers.dtype.kind in "iuf":
        return np.asarray(_OPERATORS[sign](numbers, other) & np.isfinite(numbers) & np.isfinite(other))
    if sign in ("==", "!=") and words is not None and {column.dtype.kind, words.dtype.kind} <= {*"UO"}:
        return np.asarray(_OPERATORS[sign](column, words) & (column != "") & (words != ""))
    return _compare(column, sign, text, str(condition), where)


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
        raise InputError(
            f"condition {condition!r}: the column is numeric, and {text!r} is not a number; compare it as in "
            "'z_spec_flag >= 3', or 'flags & 4 != 0' for bits"
        )
    return np.asarray(compare(column, value) & np.isfinite(column), dtype=bool)


def _number(text: str) -> int | float | None:
    try:
        return int(text) if _INTEGER.match(text.strip()) else float(text)
    except ValueError:
        return None


def _compare_text(column: np.ndarray, sign: str, text: str, condition: str, where: str | Path) -> np.ndarray:
    """Compare a text column: numerically with a number, as booleans with true or false, else for equality."""
    quoted = _QUOTED.fullmatch(text)
    bare = (quoted[2] if quoted else text).strip()
    column = np.char.strip(column) if len(column) else column  # to the length of the longest, as in Fortran
    lower = np.char.lower(column)
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
    if not (column == bare).any() and (alike := column[lower == bare.lower()]).size:
        raise InputError(
            f"{where}: condition {condition!r}: no row has {bare!r}, but {len(alike)} have "
            f"{str(alike[0])!r}; write it like that"
        )
    return np.asarray(_OPERATORS[sign](column, bare) & (column != ""), dtype=bool)
