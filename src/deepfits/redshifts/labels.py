"""Labels: which known redshift belongs to which object.

Shapes: N objects with features, M rows of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.tables import Columns, matches_conditions, read_table, require_column

MATCHES = ("auto", "id", "position")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Known values and what identifies their objects.

    Attributes
    ----------
    value
        ``(M,)`` float64, finite: the target (a redshift).
    columns
        Everything else that the table had, for the rows that are left.
    counts
        How many rows there were, and how many were left out and why.
    where
        The file, for messages.
    classes
        Names, where the target is a class; `value` then counts them from 0.
    """

    value: np.ndarray
    columns: Columns
    where: str
    counts: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.value)


def read_labels(
    path: str | Path, *, column: str = "z_spec", select: Sequence[str] = (), classes: bool = False
) -> Labels:
    """Read the labels that can be used.

    Parameters
    ----------
    path
        Parquet, FITS or CSV.
    column
        The target.
    select
        Conditions such as ``"z_spec_flag >= 3"``; all must hold. This is how quality flags are respected:
        what a flag means differs between surveys, so it is asked for and not guessed.
    classes
        The target names a class, by text or a whole number; empty text counts as not finite.

    Raises
    ------
    InputError
        The column is absent, holds no numbers, nothing is left, or all values are the same.

    Notes
    -----
    Rows whose value is not finite are left out and counted, because surveys mark failures so.
    """
    columns = read_table(path, what="table of labels")
    value = require_column(columns, column, path)
    names: tuple[str, ...] = ()
    if classes:
        value, names = _as_numbers(value)
    elif is_text(value):
        raise InputError(
            f"{path}: column {column!r} holds no numbers but text, such as {value[0]!r}: "
            "a class, not a redshift"
        )
    if value.dtype.kind not in "iufb" or value.ndim != 1:
        raise InputError(f"{path}: column {column!r} holds no numbers")
    is_selected = matches_conditions(columns, select, path)
    is_finite = np.isfinite(value.astype(np.float64))
    counts = {
        "rows": len(value),
        "not_selected": int((~is_selected).sum()),
        "not_finite": int((is_selected & ~is_finite).sum()),
    }
    keep = is_selected & is_finite
    if not keep.any():
        raise InputError(
            f"{path}: none of {len(value)} rows can be used as label: {counts['not_selected']} do not "
            f"satisfy {list(select)}, and {counts['not_finite']} have a {column!r} that is not finite"
        )
    left = {name: values[keep] for name, values in columns.items() if name != column}
    return Labels(
        value=value[keep].astype(np.float64), columns=left, where=str(path), counts=counts, classes=names
    )


def is_text(value: np.ndarray) -> bool:
    """Say whether a column holds text."""
    return value.dtype.kind in "USO"


def _as_numbers(value: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the place of each value among the sorted names, NaN where there is none, and the names."""
    if value.dtype.kind == "f":
        text = np.array([f"{one:g}" if np.isfinite(one) else "" for one in value.tolist()])
    else:
        text = np.array(["" if one is None else str(one) for one in value.tolist()])
    names, places = np.unique(text, return_inverse=True)
    found = places.astype(np.float64)
    found[text == ""] = np.nan
    return found, tuple(names.tolist())


@dataclass(frozen=True, kw_only=True)
class Match:
    """Pairs of objects and labels, one to one.

    Attributes
    ----------
    rows, label_rows
        ``(P,)`` indices of the pairs; `rows` increases.
    separation_arcsec
        ``(P,)``; NaN where a position is not known.
    by
        ``"id"`` or ``"position"``.
    """

    rows: np.ndarray
    label_rows: np.ndarray
    separation_arcsec: np.ndarray
    by: str


def match_labels(
    features: Columns, labels: Labels, *, match: str = "auto", radius_arcsec: float = 1.0
) -> Match:
    """Find the label of each object.

    Parameters
    ----------
    features
        With `object_id`, and `ra` and `dec` (degrees) where known.
    match
        ``"position"`` (nearest and one to one, within the radius), ``"id"``, or ``"auto"``: by position where
        both sides have one, because a detected catalogue and a spectroscopic one rarely share a numbering.

    Raises
    ------
    InputError
        Neither is possible, nothing matches, or objects of the same identity lie apart.
    """
    if match not in MATCHES:
        raise InputError(f"match {match!r} is unknown; choose one of {MATCHES}")
    have_positions = all(name in table for table in (features, labels.columns) for name in ("ra", "dec"))
    if match == "auto":
        match = "position" if have_positions else "id"
    if match == "position":
        if not have_positions:
            raise InputError(
                f"{labels.where}: matching by position needs ra and dec in the labels and the features"
            )
        found = _by_position(features, labels, radius_arcsec)
    else:
        found = _by_id(features, labels, radius_arcsec if have_positions else None)
    if not len(found.rows):
        how = f"within {radius_arcsec}″" if match == "position" else "by object_id"
        raise InputError(
            f"{labels.where}: no overlap: none of {len(labels)} labels matches one of "
            f"{len(features['object_id'])} objects {how}; check that they are of the same sky"
        )
    return found


def _by_position(features: Columns, labels: Labels, radius_arcsec: float) -> Match:
    from astropy import units
    from astropy.coordinates import SkyCoord

    ours = SkyCoord(features["ra"], features["dec"], unit="deg")
    theirs = SkyCoord(labels.columns["ra"], labels.columns["dec"], unit="deg")
    nearest_label, separation, _ = ours.match_to_catalog_sky(theirs)
    nearest_object, _, _ = theirs.match_to_catalog_sky(ours)
    rows = np.arange(len(ours))
    keep = (separation <= radius_arcsec * units.arcsec) & (nearest_object[nearest_label] == rows)
    return Match(
        rows=rows[keep],
        label_rows=np.asarray(nearest_label)[keep],
        separation_arcsec=separation.to_value(units.arcsec)[keep],
        by="position",
    )


def _by_id(features: Columns, labels: Labels, radius_arcsec: float | None) -> Match:
    ours = features["object_id"].astype(str)
    theirs = require_column(labels.columns, "object_id", labels.where).astype(str)
    unique, counts = np.unique(theirs, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{labels.where}: object_id {unique[counts > 1][0]} occurs {counts.max()} times; keep one"
        )
    order = np.argsort(theirs)
    place = np.minimum(np.searchsorted(theirs[order], ours), len(theirs) - 1)
    rows = np.flatnonzero(theirs[order][place] == ours)
    label_rows = order[place[rows]]
    separation = np.full(len(rows), np.nan)
    if radius_arcsec is not None and len(rows):
        from astropy.coordinates import SkyCoord

        here = SkyCoord(features["ra"][rows], features["dec"][rows], unit="deg")
        there = SkyCoord(labels.columns["ra"][label_rows], labels.columns["dec"][label_rows], unit="deg")
        separation = here.separation(there).arcsec
        if np.median(separation) > radius_arcsec:
            raise InputError(
                f"{labels.where}: objects of the same object_id lie {np.median(separation):.1f}″ apart "
                "(median), so this is another numbering; match by position instead"
            )
    return Match(rows=rows, label_rows=label_rows, separation_arcsec=separation, by="id")
