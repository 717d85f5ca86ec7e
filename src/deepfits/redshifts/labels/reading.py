"""Labels: known redshifts, or values of another target, from a table.

Shapes: M rows of labels.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepfits import tables
from deepfits.errors import InputError, listed
from deepfits.tables import Columns, matches_conditions, require_column
from deepfits.tables.entries import GAPS, is_number, numbers_in_text
from deepfits.tables.values import (
    HIGHEST_MEDIAN,
    STAR_REDSHIFT,
    is_no_value,
    is_photometric_name,
    is_redshift_name,
    list_values,
    may_be_redshifts,
)

RESERVED = ("object_id", "ra", "dec", "part")
"""Column names that have another meaning in results, and so cannot be targets."""
NO_MEDIAN_OF_Z = 8.0
"""A column z beside g, r and i contains magnitudes if its median is above this, which no sample exceeds."""
MOST_NAMED = 5  # number of columns of redshift quality that a warning describes; HSC's tables have twenty
MOST_QUALITIES = 100  # a column with more distinct values than this is not a quality flag
LEAST_VALUES, MOST_REPEATS = 10, 10
"""A value may mark missing ones if it is more than ten times as common as any other, of at least ten."""
SLOWEST = 100.0  # a column named V that has a lower median than this does not contain velocities in km/s
_VELOCITY = re.compile(
    r"cz.*|(h?rv|h?v|(rvz_)?rad_?vel|(radial_?)?vel(ocity)?)(_?(h(el(io)?)?|ls|cmb|lg|gal|gsr|3k|rad|opt|sys))?"
    r"(_?kms)?",
    re.IGNORECASE,
)
"""Names of recession velocities, unless their values are below `SLOWEST`: V may be a magnitude."""
_QUALITY = re.compile(
    r"\w*(z|redshift|spec|vi)[_ ]?(warn|fla?g|qual|conf|type|source|src|q(op|f)|grade|prob|origin|secure"
    r"|ok$)\w*|(spe_|spec|best)?z\w*_(conf\w*|s|q|use|ok|good|grade|rel\w*|certainty|flag|type|class|qual\w*)"
    r"|z(_?spec)?_?q|q_?(f|op)?|nq|cc|c?class|qual(ity)?(_flag)?|conf(idence)?(_level)?|confid|q?flag"
    r"|(qual(ity)?|conf|flg|flags?|use|good|rel|nq|[fnqu])_?(z(_?sp(ec)?|\w{1,2})?|redshift)|(flag|q|qual(ity)?)_?spec_?z?"
    r"|(spec\w*|best|id|vi)_?(q|quality|class|flag)|use_zgrism|n?q_?sp|q_(flag|cz)|good_?spec|is_?specz?"
    r"|z_?sp?_?(flag|q\w*)|((is_)?secure|reliab(le|ility)|grade)(_z)?|spe_rank|use|qflag_z|zq_?spec|rvz_qual|maxqual"
    r"|flag_des|dist[_ ]flag|class_spec|prob(ability)?",
    re.IGNORECASE,
)
"""Names under which surveys publish the quality of redshifts: ZWARN, zflg, nQ, ZQUALITY, q_z."""
_PHOTOMETRIC = re.compile(r"(?i)photo?([ _-]?z|metric|metry)?(redshifts?)?|z[ _-]?phot|photo[ _-]redshift")
"""Entries by which a column tells photometric redshifts from spectroscopic ones."""
_KIND = re.compile(r"(?i)(type|source|src|origin|class|best_s|dist[_ ]flag)$")
"""Names of columns with the kind of a redshift, such as 1 for spectroscopic ones: none is larger."""
_OF_PROBLEMS = re.compile(r"(?i)^[fnu]_?z|(^f|fla?gs?)(_?(z|sp(ec)?(_?z)?)?(_?qual\w*)?)?$")
"""Names of flags and notes of which one that is set may mean a good redshift, or a doubtful one."""
_CONFIDENCE = re.compile(r"^(?!.*phot).*(z|spec).*(conf|rel|prob)|^(conf\w*|prob(ability)?)$", re.IGNORECASE)
"""Names of those whose values are continuous, such as probabilities."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Known values of the target, and the columns that identify their objects."""

    value: np.ndarray  # (M,) float64, finite: the target (such as a redshift)
    columns: Columns  # all other columns of the table, for the same rows
    where: str
    # Number of rows in the file, and of rows left out, by reason.
    counts: dict[str, int] = field(default_factory=dict)
    # Class names where the target is a class; `value` then holds indices into them.
    classes: tuple[str, ...] = ()
    target: str = "z_spec"  # name of the target's column
    unit: str = ""  # of the target, as far as the table states it

    def __len__(self) -> int:
        return len(self.value)


def read_labels(
    path: str | Path, *, column: str = "z_spec", select: Sequence[str] = (), classes: bool = False
) -> Labels:
    """Read the usable labels from a table; raise `InputError` if there are none.

    All conditions `select`, such as ``"z_spec_flag >= 3"``, must hold. Quality flags mean different things in
    different surveys, so no selection is made by default. With `classes` the target is a class, given by text
    or a whole number; empty text counts as not finite.

    Rows whose value is not finite or a placeholder for "no redshift" (such as −99, −1, 9.99 or 999), with
    which surveys mark failures, are left out and counted.
    """
    columns, unit = _read_columns(path, column)
    number, names = _target(columns, column, path, unit=unit, classes=classes)
    is_redshift = is_redshift_name(column) and not classes
    if is_redshift and set(np.unique(number[np.isfinite(number)])) in ({1}, {0, 1}):
        raise InputError(
            f"{path}: column {column!r} holds only true and false, or 0 and 1, so it tells which objects "
            "have a redshift; name the column of redshifts"
        )
    is_selected = matches_conditions(columns, select, path)
    is_finite = np.isfinite(number)
    is_code = np.zeros(len(number), dtype=bool) if classes else is_no_value(number, is_redshift=is_redshift)
    keep = is_selected & is_finite & ~is_code
    left = {name: columns.pop(name)[keep] for name in list(columns) if name != column}  # may be large
    counts = {
        "rows": len(number),
        "not_selected": int((~is_selected).sum()),
        "not_finite": int((is_selected & ~is_finite).sum()),
    }
    if len(codes := number[is_selected & is_code]):
        counts["impossible"] = len(codes)
        log.warning(
            "WARNING: %s: %d of %d rows are left out: their %s is impossible or a placeholder: %s; a real "
            "value is kept if it is written slightly differently (9.9901)",
            *(path, len(codes), len(number), column, list_values(codes)),
        )
    if is_redshift:
        remedy = f"--select '{column} > {STAR_REDSHIFT:g}' leaves them out"
        _warn_of_zeros(number[is_selected], column, path, remedy)
        _require_no_magnitudes(number[keep], left, column, path)
        _warn_of_quality(left, select, path)
    elif not classes and may_be_redshifts(column, number[keep]):
        log.warning(
            "WARNING: %s: %s is taken for another property than redshift; if it is one, name it z_spec",
            *(path, column),
        )
    if not classes:
        is_known = keep & (np.abs(number) >= STAR_REDSHIFT) if is_redshift else keep
        _warn_of_repeats(number[is_known], column, path)
    if not keep.any():
        median = float(np.median(number[is_finite])) if is_finite.any() else 0.0
        velocities = "; are they velocities in km/s? divide by 299792.458" if median > SLOWEST else ""
        raise InputError(
            f"{path}: none of {len(number)} rows can be used as a label: {counts['not_selected']} do not "
            f"satisfy {list(select)}, {counts['not_finite']} have a {column!r} that is not finite, and "
            f"{counts.get('impossible', 0)} one that is impossible or a placeholder (such as "
            f"{number[is_code][0] if is_code.any() else -99:g}){velocities}"
        )
    return Labels(
        value=number[keep],
        columns=left,
        where=str(path),
        counts=counts,
        classes=names,
        target=column,
        unit=unit,
    )


def _read_columns(path: str | Path, column: str) -> tuple[Columns, str]:
    """Return the columns of a table of labels, and the unit of the target's, which may be absent."""
    if column in RESERVED:
        raise InputError(
            f"{path}: the name {column!r} is reserved in results for something else; rename the target"
        )
    table = tables.read(path, what="table of labels", wanted=(column,))
    columns = add_standard_names(table)
    is_stated = "src.redshift.phot" in table.ucds.get(column, "").lower()
    if is_stated or is_photometric_name(column):
        log.warning(
            "WARNING: %s: %s is a photometric redshift by its %s: labels are taken as true, with all their "
            "errors; name a column of spectroscopic redshifts",
            *(path, column, "UCD" if is_stated else "name"),
        )
    if column in table.unused:
        raise InputError(f"{path}: column {column!r} holds {table.unused[column]}, not one value per object")
    if column not in columns and (name := tables.main_column(table.ucds, "src.redshift")) is not None:
        raise InputError(
            f"{path}: no column {column!r}; by its UCD it is {name!r}: give that as label_column"
        )
    if not len(next(iter(columns.values()), ())):
        raise InputError(f"{path}: the table of labels has no rows")
    return columns, table.units.get(column, "")


def _target(
    columns: Columns, column: str, path: str | Path, *, unit: str, classes: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the values of all rows, ``(M,)`` float64; for classes, indices into the names also returned."""
    value = require_column(columns, column, path)
    _require_one_value(value, column, path)
    names: tuple[str, ...] = ()
    if classes:
        value, names = _class_numbers(value, column, path)
    number = _numbers(value, column, path)
    if not classes and _VELOCITY.fullmatch(column) and not unit:
        is_fast = np.isfinite(number) & (np.abs(number) > SLOWEST)
        unit = "km/s" if is_fast.sum() > len(number) / 2 or column.lower().startswith("cz") else ""
    if is_redshift_name(column) or _VELOCITY.fullmatch(column):
        _require_no_unit(unit, column, path)
    return number, names


def _numbers(value: np.ndarray, column: str, path: str | Path) -> np.ndarray:
    """Return a column of numbers, possibly written as text, as float64 ``(M,)``."""
    _require_one_value(value, column, path)
    number = numbers_in_text(value)
    if is_text(number):
        entries = value.tolist()
        odd = next((entry for entry in entries if not is_number(entry)), entries[0])
        why = (
            "a class, not a redshift; leave such entries empty if they mean that there is none"
            if not any(is_number(entry) or re.match(r"\W*\d", entry) for entry in entries)
            else "leave such entries empty, and put marks of doubt and errors into columns of their own"
        )
        raise InputError(f"{path}: column {column!r} holds text, not numbers, such as {str(odd)!r}: {why}")
    return number.astype(np.float64)


def _require_one_value(value: np.ndarray, column: str, path: str | Path) -> None:
    """Reject a column of lists."""
    if value.ndim != 1:
        raise InputError(
            f"{path}: column {column!r} holds lists of {value.shape[1]} values, not one value per object"
        )


def read_estimates(columns: Columns, column: str, path: str | Path) -> np.ndarray:
    """Return a column of estimates of a target from any source, ``(M,)`` float64, NaN where missing.

    Raise `InputError` if the column is absent, or holds no numbers, or numbers too large for redshifts.

    Placeholders for "no estimate" (−99) count as missing only where they lie outside the range of the other
    values, or are all of them, because a poor estimate must count as an estimate.
    """
    value = _numbers(require_column(columns, column, path), column, path)
    is_one = len(np.unique(value[np.isfinite(value)])) == 1
    is_code = is_no_value(value, is_redshift=is_one and is_redshift_name(column), codes_only=True)
    if is_code.any():
        log.warning(
            "WARNING: %s: %d of %d rows have no %s: %s is a placeholder there",
            *(path, is_code.sum(), len(value), column, list_values(value[is_code])),
        )
        value[is_code] = np.nan
    if is_redshift_name(column):
        _require_no_magnitudes(value[np.isfinite(value)], columns, column, path)
        _warn_of_zeros(value, column, path, "leave them empty if so, or they are judged like all others")
    return value


def read_table_of_estimates(path: str | Path, column: str) -> Labels:
    """Read estimates of a target, with the columns for matching; rows without an estimate are dropped."""
    table = tables.read(path, what="table of estimates", wanted=(column,))
    columns = add_standard_names(table)
    value = read_estimates(columns, column, path)
    known = np.isfinite(value)
    if not known.any():
        raise InputError(f"{path}: none of {len(value)} rows has an estimate in {column!r}")
    left = {name: values[known] for name, values in columns.items()}
    return Labels(value=value[known], columns=left, where=str(path), target=column)


def _are_many(zeros: int, number: int) -> bool:
    """Return whether more of the values are 0 than may be by chance: over two, and over one per cent."""
    return zeros > max(2, 0.01 * number)


def _warn_of_zeros(value: np.ndarray, column: str, path: str | Path, remedy: str) -> None:
    """Warn of many zeros among redshifts."""
    zeros = int((np.abs(value) < STAR_REDSHIFT).sum())
    if _are_many(zeros, len(value)):
        log.warning(
            "WARNING: %s: %d of %d rows have a %s of 0, or within %g of it, which often marks a missing "
            "redshift or a star; %s",
            *(path, zeros, len(value), column, STAR_REDSHIFT, remedy),
        )


def _warn_of_repeats(value: np.ndarray, column: str, path: str | Path) -> None:
    """Warn of a value, ``(M,)``, that is far more common than all others, or is 0, far from all others."""
    unique, counts = np.unique(value, return_counts=True)
    for odd in (0.0, float(unique[counts.argmax()])) if len(unique) >= LEAST_VALUES else ():
        number, left = int((value == odd).sum()), unique[unique != odd]
        most = counts[unique != odd].max()
        reason = ""
        if odd == 0 and np.abs(left).min() > np.ptp(left):
            reason = f"far from all others ({left.min():g} to {left.max():g})"
        elif number >= MOST_REPEATS * most:
            reason = f"but no other value more than {most}×"
        if reason and _are_many(number, len(value)):
            log.warning(
                "WARNING: %s: %d of %d rows have a %s of exactly %.15g, %s, which often marks a missing "
                "value or a limit; --select '%s != %.15g' leaves them out",
                *(path, number, len(value), column, odd, reason, column, odd),
            )
            return


def _warn_of_quality(columns: Columns, select: Sequence[str], path: str | Path) -> None:
    """Warn where there are columns of redshift quality, and none of them is used to select."""
    flags = {
        name: numbers_in_text(values)
        for name, values in columns.items()
        if values.ndim == 1 and (_QUALITY.fullmatch(name) or _are_kinds(values))
    }
    if any(re.search(rf"\b{re.escape(name)}\b", condition) for name in flags for condition in select):
        return
    summaries, conditions = [], []
    for name, values in flags.items():
        unique, counts = np.unique(values, return_counts=True)
        if 1 < len(unique) <= min(MOST_QUALITIES, len(values) // 2):
            common = np.argsort(-counts)[:4]
            counted = ", ".join(f"{unique[i]} ({counts[i]} times)" for i in sorted(common))
            summaries.append(f"{name}: {counted}{', …' if len(unique) > 4 else ''}")
        elif values.dtype.kind == "f" and _CONFIDENCE.search(name) and np.isfinite(unique[:2]).sum() == 2:
            summaries.append(f"{name}: {unique[0]:g} to {np.nanmax(unique):g}")
        else:
            continue
        conditions.append(f"'{_example(name, values)}'")
    if summaries:
        log.warning(
            "WARNING: %s: all rows are used, whatever their redshift quality: %s; select the secure ones "
            "as the survey's documentation describes (--select %s)",
            *(path, listed(summaries, MOST_NAMED, "; "), ", or ".join(conditions[:MOST_NAMED])),
        )


def _are_kinds(values: np.ndarray) -> bool:
    """Return whether a column tells photometric redshifts from others, whatever its name.

    Rubin's and others write s, g and p for spectra, grisms and photometry.
    """
    if not is_text(values):
        return False
    kinds = [str(kind).lower() for kind in np.unique(values) if kind]
    is_photometric = [bool(_PHOTOMETRIC.fullmatch(kind)) for kind in kinds]
    return (any(is_photometric) and not all(is_photometric)) or {"s", "p"} <= {*kinds} <= {*"spg"}


def are_problems(flags: np.ndarray) -> bool:
    """Return whether flags mean problems, as ZWARN: most are 0."""
    return bool((flags > 0).sum() <= (flags <= 0).sum())


def _example(name: str, values: np.ndarray) -> str:
    """Return a condition for secure redshifts; beyond 4, zCOSMOS, VVDS and others flag stars and doubts."""
    if "warn" in name.lower():
        return f"{name} == 0"
    if "rank" in name.lower() and not is_text(values):
        return f"{name} == {np.nanmin(values):g}"
    if is_text(values) or _KIND.search(name):
        return f"{name} == VALUE"
    secure = (values >= 3) & ((values < 5) | (np.nanmax(values) <= 5))
    if _OF_PROBLEMS.search(name) and (not secure.any() or are_problems(values)):
        return f"{name} == VALUE"
    if tables.as_truth(values) is not None:
        return f"{name} == true"
    if len(np.unique(values)) > MOST_QUALITIES or not secure.any():  # such as per cent
        return f"{name} >= VALUE"
    if np.nanmax(values) < 4:  # of 1 to 3 either end is the best (CANDELS: 1)
        return f"{name} == VALUE"
    return f"{name} >= 3" + (f" and {name} < 5" if np.nanmax(values) > 5 else "")


def add_standard_names(table: tables.Table) -> Columns:
    """Return all columns under their own names, and identity and position also under our names."""
    sky = tables.positions(table.columns, table.units, table.where)
    return table.columns | tables.with_standard_names(table, sky)


def _require_no_unit(unit: str, column: str, path: str | Path) -> None:
    """Reject velocities."""
    from astropy import units

    try:
        is_velocity = units.Unit(unit).is_equivalent(units.km / units.s)
    except (ValueError, TypeError):
        return
    if is_velocity:
        raise InputError(
            f"{path}: column {column!r} is in {unit}: velocities, not redshifts; divide by the speed of light"
        )


def _require_no_magnitudes(value: np.ndarray, columns: Columns, column: str, path: str | Path) -> None:
    """Reject magnitudes in the z band, and other values too large to be redshifts."""
    is_among_bands = column.lower() == "z" and {"g", "r", "i"} <= {name.lower() for name in columns}
    median = float(np.median(value)) if len(value) else 0.0
    if median > (NO_MEDIAN_OF_Z if is_among_bands else HIGHEST_MEDIAN):
        beside = ", beside columns g, r and i" if is_among_bands else ""
        raise InputError(
            f"{path}: the median of column {column!r} is {median:.3g}{beside}: magnitudes or other "
            "numbers, not redshifts; name the column of redshifts"
        )


def is_text(value: np.ndarray) -> bool:
    """Return whether a column holds text."""
    return value.dtype.kind in "USO"


def _class_numbers(value: np.ndarray, column: str, path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the index of each value in the sorted class names, NaN where it has no class, and the names."""
    if value.dtype.kind == "f":
        text = np.array([f"{entry:g}" if np.isfinite(entry) else "" for entry in value.tolist()])
    elif value.dtype.kind == "b":  # the text that such a column has if values are missing
        text = np.where(value, "true", "false")
    else:
        text = np.array(["" if entry is None else str(entry).strip() for entry in value.tolist()])
    is_gap = np.isin(np.char.lower(text), GAPS)
    if (is_gap & (text != "")).any():
        log.warning(
            "WARNING: %s: %d of %d rows are left out: %s is %s there, which is read as no class; rename "
            "the class if it is one",
            *(path, int(is_gap.sum()), len(text), column, listed(sorted({*text[is_gap].tolist()} - {""}))),
        )
    names, indices = np.unique(text[~is_gap], return_inverse=True)
    codes = [
        name for name in names.tolist() if re.fullmatch(r"(?i)-\d+|9{2,}|unknown|unclass\w*|uncertain", name)
    ]
    if codes and len(codes) < len(names):
        log.warning(
            "WARNING: %s: %s counts as a class of %s, although such entries often mark a missing class; "
            "--select '%s != %s' leaves them out",
            *(path, " and ".join(codes), column, column, codes[0]),
        )
    lower = [name.lower() for name in names.tolist()]
    if alike := [name for name in names.tolist() if lower.count(name.lower()) > 1]:
        log.warning(
            "WARNING: %s: %s are separate classes of %s; spell them alike if they are the same",
            *(path, ", ".join(alike[:6]), column),
        )
    numbers = np.full(len(text), np.nan)
    numbers[~is_gap] = indices
    return numbers, tuple(names.tolist())
