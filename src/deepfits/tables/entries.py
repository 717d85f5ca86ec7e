"""Entries of a text table as numbers, if all of a column are numbers; integers never pass through floats."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfits.tables.table import text_array, truth_with_gaps, whole_with_gaps

GAPS = (
    "", "null", "n/a", "na", "none", "--", "-", "---", "...", "masked", "\\n", "indef", "<na>",
    "#n/a", "(null)", "?", "n.a.", "undef", "undefined", "nodata", "no data", "missing", "–", "—", "~",
    "#num!", "#value!", "#div/0!", "#ref!", "#name?",  # Excel
    *(f"{sign}{word}" for sign in ("", "+", "-") for word in ("nan", "nan(ind)", "nan(snan)")),
    *(  # C library of Windows
        f"{sign}1.#{word}{zeros}"
        for sign in ("", "+", "-") for word in ("qnan", "snan", "ind", "inf")
        for zeros in ("", "0", "00", "000")
    ),
    *("*" * length for length in range(2, 31)),  # Fortran, if a field is too narrow
)  # fmt: skip
"""Entries that mark missing values in numeric columns, in lower case; compared without regard to case."""
WITH_EXPONENT = r"^[+-]?\d(\.\d+)?[eE][+]?\d+$"
"""Long integers as spreadsheets write them, without their last digits."""
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?"
_INTEGER = r"^([+-]?[1-9]\d*|[+]?0)$"  # not -0, whose sign applies to the minutes that follow
_FLOAT = rf"^({NUMBER}|[+-]?[iI][nN][fF]([iI][nN][iI][tT][yY])?)$"
_THOUSANDS = r"^[+-]?([1-9]\d{0,2}(\.\d{3})*|0)(,\d+)?$"  # 12.345,6
_DECIMAL_COMMA = r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$"


def as_numbers(column: pa.Array, has_commas: bool = False) -> np.ndarray:
    """Convert a column of text to numbers or booleans if all entries allow it, or else keep the text.

    With `has_commas`, other columns of the table have shown that commas are decimal commas.
    """
    lower = pc.utf8_lower(column)
    is_gap = pc.is_in(lower, pa.array(GAPS))
    values = pc.replace_substring(column.filter(pc.invert(is_gap)), "−", "-")  # the minus sign of journals
    gap = np.asarray(is_gap.to_numpy(zero_copy_only=False), dtype=bool)

    if not len(values):
        return np.full(len(column), np.nan)
    if _all_match(values, _INTEGER):
        return _integers(values, gap)
    if _all_match(values, r"^[+-]?\d+$") and any_match(values, r"^[+-]?0\d"):
        return as_text(column)  # leading zeros are significant
    if _all_match(values, _FLOAT):
        return _floats(pc.replace_substring_regex(values, "[dD]", "e"), gap)
    if (has_commas or _has_decimal_commas(values)) and _all_match(values, _DECIMAL_COMMA):
        return _floats(pc.replace_substring(values, ",", "."), gap)
    if _all_match(lower.filter(pc.invert(is_gap)), "^(true|false)$"):
        return truth_with_gaps(np.array(pc.equal(lower, "true").to_numpy(zero_copy_only=False)), gap)
    return as_text(column)


def is_number(text: object) -> bool:
    """Return whether text is a number or marks a missing one."""
    try:
        float(str(text))
    except ValueError:
        return str(text).lower() in GAPS
    return True


def numbers_in_text(values: np.ndarray) -> np.ndarray:
    """Convert text ``(N,)`` to numbers or booleans, as `as_numbers` does; keep all else."""
    is_text = values.dtype.kind in "USO"
    return as_numbers(pa.array(values.astype(str).tolist(), pa.string())) if is_text else values


def _has_decimal_commas(values: pa.Array) -> bool:
    """Return whether any comma must be a decimal comma; 12,345 may be a thousands separator."""
    return any_match(values, r"^[+-]?0,\d|^[+-]?\d+,(\d{1,2}|\d{4,})([eE].*)?$")


def shows_decimal_commas(column: pa.Array) -> bool:
    """Return whether a column is numeric and has commas that can only be decimal commas."""
    values = column.filter(pc.invert(pc.is_in(pc.utf8_lower(column), pa.array(GAPS))))
    return _has_decimal_commas(values) and _all_match(values, _DECIMAL_COMMA)


def with_thousands(columns: Mapping[str, pa.Array]) -> list[str]:
    """Return the columns with dots between thousands; none if dots are decimal points in any column.

    The table has decimal commas. Columns with other text do not count.
    """
    bare = {
        name: c.filter(pc.invert(pc.is_in(pc.utf8_lower(c), pa.array(GAPS)))) for name, c in columns.items()
    }
    dotted = [name for name, values in bare.items() if any_match(values, r"\d\.\d")]
    found = [name for name in dotted if _all_match(bare[name], _THOUSANDS)]
    return [] if any(_all_match(bare[name], _FLOAT) for name in set(dotted) - set(found)) else found


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def any_match(values: pa.Array, pattern: str) -> bool:
    """Return whether any entry matches a regular expression."""
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def as_text(column: pa.Array) -> np.ndarray:
    """Return the entries as NumPy text, ``(N,)``."""
    return text_array(column.to_pylist())


def _floats(values: pa.Array, gap: np.ndarray) -> np.ndarray:
    out = np.full(len(gap), np.nan)
    out[~gap] = pc.cast(pc.ascii_ltrim(values, "+"), pa.float64()).to_numpy(zero_copy_only=False)
    return out


def _integers(values: pa.Array, gap: np.ndarray) -> np.ndarray:
    bare = pc.ascii_ltrim(values, "+")
    for kind in (pa.int64(), pa.uint64()):
        try:
            numbers = pc.cast(bare, kind).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            continue
        full = np.zeros(len(gap), numbers.dtype)
        full[~gap] = numbers
        return whole_with_gaps(full, gap)
    out = np.full(len(gap), "", dtype=object)
    out[~gap] = bare.to_pylist()
    return out.astype(str)
