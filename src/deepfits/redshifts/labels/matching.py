"""Matching labels to objects, by position or by identity.

Shapes: N objects with features, M rows of labels.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from deepfits import tables
from deepfits.errors import InputError, nearest
from deepfits.redshifts.labels.reading import Labels, are_problems
from deepfits.tables import Columns, require_column
from deepfits.tables.entries import numbers_in_text

log = logging.getLogger(__name__)

AGREE = 0.005  # two values of one object agree when they differ by less than this times (1 + value)
MOST_NEIGHBOURS = 0.05
"""Fraction of labels beside an object's own up to which they are normal, as in a crowded field."""
FLAGS = ("z_spec_flag", "z_flag", "zflag")
"""Quality flags, larger values being more secure, in addition to ``<target>_flag``."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Pairs of objects and labels, one to one."""

    rows: np.ndarray  # (P,): indices of the objects, increasing
    label_rows: np.ndarray  # (P,): indices of their labels
    separation_arcsec: np.ndarray  # (P,); NaN where a position is unknown
    by: str  # "id" or "position"
    # Numbers of labels that are `repeated` (further labels of an object, dropped), `disagreeing` (left out
    # with their object), `elsewhere` (of the same identity, but farther than the radius),
    # `without_position` or `without_identity`.
    counts: dict[str, int] = field(default_factory=dict)


def match_labels(
    features: Columns, labels: Labels, *, match: str = "auto", radius_arcsec: float = 1.0
) -> Match:
    """Find the label of each object; features have `object_id`, and `ra` and `dec` (degrees) where known.

    Match by ``"position"`` (nearest neighbours, one to one, within the radius), by ``"id"`` (within the
    radius where both positions are known), or ``"auto"``: by position where positions are known in both
    tables, because a detection catalogue and a spectroscopic one rarely share a numbering. Raise `InputError`
    if no match is possible, nothing matches, or objects of the same identity have different positions.
    """
    have_positions = all(tables.has_known_positions(table) for table in (features, labels.columns))
    if match == "auto":
        match = "position" if have_positions else "id"
        _warn_of_running_numbers(features, labels, have_positions=have_positions)
    if match == "position":
        if not have_positions:
            raise InputError(
                f"{labels.where}: matching by position needs ra and dec in the labels and the features"
            )
        pairs, lost = _by_position(features, labels, radius_arcsec)
    else:
        pairs, lost = _by_id(features, labels)
        if have_positions:
            pairs, lost["elsewhere"] = _within(pairs, features, labels, radius_arcsec)
        else:
            _require_one_numbering(*pairs, labels)
    rows, label_rows, joined = _join(*pairs, labels)
    counts = {name: number for name, number in (lost | joined).items() if number}
    if not len(rows) and "disagreeing" in counts:
        raise InputError(
            f"{labels.where}: all {counts['disagreeing']} labels of these objects disagree with others "
            f"of the same object: {_which_counts(labels)}"
        )
    if not len(rows):
        how = f"within {radius_arcsec}″" if match == "position" else "by object_id"
        hint = _hint(features, labels, match)
        raise InputError(
            f"{labels.where}: no overlap: none of {len(labels)} labels matches any of "
            f"{len(next(iter(features.values())))} objects {how}; check that they cover the same sky{hint}"
        )
    separation = np.full(len(rows), np.nan)
    if have_positions:
        separation = tables.apart_arcsec(features, rows, label_rows, labels.columns)
    reasons = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in counts.items())
    if reasons:
        remedy = f"; these are left out: {_which_counts(labels)}" if "disagreeing" in counts else ""
        if match == "id" and counts.get("disagreeing", 0) > 2 * counts.get("repeated", 0):
            remedy += ", or the labels of one field if object_id starts anew in each"
        if "elsewhere" in counts:
            remedy += f"; those elsewhere lie more than {radius_arcsec}″ from the object of their object_id"
        log.warning("WARNING: %s: of %d labels: %s%s", labels.where, len(labels), reasons, remedy)
    return Match(rows=rows, label_rows=label_rows, separation_arcsec=separation, by=match, counts=counts)


def _which_counts(labels: Labels) -> str:
    """Return the remedy for disagreeing labels of one object."""
    return (
        "select the secure ones, or rename a quality column in which larger is more secure to "
        f"{labels.target}_flag"
    )


def _warn_of_running_numbers(features: Columns, labels: Labels, *, have_positions: bool) -> None:
    """Warn where two tables are matched only by running numbers, which may be unrelated."""
    name = tables.identity_name({n: values for n, values in labels.columns.items() if n != "object_id"})
    if have_positions or name is None or "ra" not in features:
        return
    label_ids, object_ids = labels.columns[name], features["object_id"]
    if np.array_equal(label_ids, labels.columns["object_id"]):
        tables.warn_of_running_numbers(labels.where, name, object_ids, label_ids)


def _hint(features: Columns, labels: Labels, match: str) -> str:
    """Return a hint at the most likely reason why nothing matches."""
    if match == "position":
        places = [table[name] for table in (labels.columns, features) for name in ("ra", "dec")]
        ranges = [f"{np.nanmin(angles):.4f} to {np.nanmax(angles):.4f}" for angles in places]
        extents = "; ra and dec of the labels are {} and {}, of the objects {} and {}".format(*ranges)
        return tables.place_hint(*places) or extents
    object_ids = _identities(features, "features").astype(str)
    label_ids = _identities(labels.columns, labels.where).astype(str)
    bare = np.char.lstrip(label_ids[label_ids != ""], "0")
    if np.isin(np.char.lstrip(object_ids, "0"), bare).any():
        return "; they would match without leading zeros: write both as text or both as numbers"
    if hint := tables.likely_match(labels.columns, object_ids):
        return hint
    return f": the first object is {str(object_ids[0])!r}, the first label {str(label_ids[0])!r}"


Pairs = tuple[np.ndarray, np.ndarray]
"""Rows of objects and of their labels, ``(K,)`` each; the preferred label of each object comes first."""


def _by_position(features: Columns, labels: Labels, radius_arcsec: float) -> tuple[Pairs, dict[str, int]]:
    """Return pairs, and the number of labels without a position."""
    objects, of_labels = ((table["ra"], table["dec"]) for table in (features, labels.columns))
    nearest_label, separation, nearest_object = tables.match_one_to_one(*objects, *of_labels, radius_arcsec)
    keep = nearest_label >= 0
    tables.require_aligned(labels.where, separation[keep], *objects, labels.columns, radius_arcsec)
    # Other labels at the same position: further spectra of the object, or of blends within a fibre or slit.
    chosen = nearest_label[nearest_object]
    is_other = (nearest_object >= 0) & keep[nearest_object] & (chosen != np.arange(len(chosen)))
    others = np.flatnonzero(is_other)
    separation = tables.apart_arcsec(labels.columns, others, chosen[others])
    same_place = np.full(len(others), radius_arcsec / 4)
    identity = labels.columns.get("object_id")
    if identity is not None and identity.ndim == 1:  # stricter where identities differ
        is_same = identity[others] == identity[chosen[others]]
        same_place = np.where(is_same, radius_arcsec, min(tables.SAME_PLACE_ARCSEC, radius_arcsec))
    _warn_of_neighbours(others[separation > same_place], chosen, labels, radius_arcsec)
    others = others[separation <= same_place]
    of_object = np.concatenate([np.flatnonzero(keep), nearest_object[others]])
    pairs = of_object, np.concatenate([nearest_label[keep], others])
    return pairs, {"without_position": int(np.isnan(of_labels[0]).sum())}


def _warn_of_neighbours(others: np.ndarray, chosen: np.ndarray, labels: Labels, radius_arcsec: float) -> None:
    """Report further labels near an object, `others`, that differ from the one `chosen` by `_by_position`."""
    differ = [row for row in others.tolist() if not _agree(labels.value[[chosen[row], row]], labels)]
    if differ:
        are_many = len(differ) > MOST_NEIGHBOURS * len(labels)
        log.log(
            logging.WARNING if are_many else logging.INFO,
            "%s%s: %d of %d labels are within %g″ of an object, but disagree with its nearest label, which "
            "is used; if they are spectra of the same objects, give these one object_id or position, or "
            "select the secure ones",
            *("WARNING: " * are_many, labels.where, len(differ), len(labels), radius_arcsec),
        )


def _within(pairs: Pairs, features: Columns, labels: Labels, radius_arcsec: float) -> tuple[Pairs, int]:
    """Keep pairs of the same identity within the radius, and count the others."""
    objects, label_rows = pairs
    separation = tables.apart_arcsec(features, objects, label_rows, labels.columns)
    median = float(np.median(separation[np.isfinite(separation)])) if np.isfinite(separation).any() else 0.0
    if median > radius_arcsec:
        raise InputError(
            f"{labels.where}: objects with the same object_id lie {median:.1f}″ "
            "apart (median), so this is another numbering; match by position instead"
        )
    is_near = ~(separation > radius_arcsec)
    return (objects[is_near], label_rows[is_near]), int((~is_near).sum())


def _by_id(features: Columns, labels: Labels) -> tuple[Pairs, dict[str, int]]:
    """Return pairs, and the number of labels without an identity."""
    object_ids, label_ids = _identities(features, "features"), _identities(labels.columns, labels.where)
    named = np.flatnonzero(label_ids != "") if label_ids.dtype.kind == "U" else np.arange(len(label_ids))
    matched = tables.match_identities(label_ids[named], object_ids)
    pairs = matched[matched >= 0], named[matched >= 0]
    return pairs, {"without_identity": len(label_ids) - len(named)}


def _require_one_numbering(objects: np.ndarray, label_rows: np.ndarray, labels: Labels) -> None:
    """Refuse identities that start anew in each field, as those of 3D-HST, if that shows in the labels."""
    rows = label_rows[np.argsort(objects, kind="stable")]
    objects, value = np.sort(objects), labels.value[rows]
    field = labels.columns.get("field", np.zeros(len(labels)))[rows]
    twice = np.flatnonzero((objects[1:] == objects[:-1]) & (field[1:] != field[:-1]))
    differ = [pair for pair in twice.tolist() if not _agree(value[pair : pair + 2], labels)]
    if 2 * len(differ) > len(twice):
        fields = " and ".join(str(name) for name in field[differ[0] : differ[0] + 2])
        raise InputError(
            f"{labels.where}: object_id starts anew in each field: {len(differ)} of {len(twice)} that are in "
            f"two, such as {fields}, have different labels; select one (--select 'field == NAME'), or add ra "
            "and dec"
        )


def _join(
    objects: np.ndarray, label_rows: np.ndarray, labels: Labels
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Keep one label per object: the first if all agree, else the most secure by its flag, else none.

    The pairs to keep are returned with the numbers of labels `repeated` and `disagreeing`.
    """
    order = np.argsort(objects, kind="stable")
    objects, label_rows = objects[order], label_rows[order]
    unique, first, number = np.unique(objects, return_index=True, return_counts=True)
    chosen = label_rows[first].copy()
    name, flag = _flag(labels) or ("", None)
    repeated = disagreeing = decided = 0
    keep = np.ones(len(unique), dtype=bool)
    for index in np.flatnonzero(number > 1):
        candidates = label_rows[first[index] : first[index] + number[index]]
        if not _agree(labels.value[candidates], labels):
            best = candidates
            if flag is not None and np.isfinite(flag[candidates]).all():
                best = candidates[flag[candidates] == flag[candidates].max()]
            if len(best) == len(candidates) or not _agree(labels.value[best], labels):
                keep[index] = False
                disagreeing += len(candidates)
                continue
            chosen[index] = best[0]
            decided += 1
        repeated += len(candidates) - 1
    if decided:
        log.warning(
            "WARNING: %s: where labels of an object disagree, the one with the largest %s is used (%d "
            "objects); if larger is not more secure, rename that column",
            *(labels.where, name, decided),
        )
    return unique[keep], chosen[keep], {"repeated": repeated, "disagreeing": disagreeing}


def _agree(value: np.ndarray, labels: Labels) -> bool:
    spread = float(value.max() - value.min())
    return spread == 0 if labels.classes else spread <= AGREE * (1 + abs(float(value[0])))


def _flag(labels: Labels) -> tuple[str, np.ndarray] | None:
    """Return the name and values of a quality flag whose larger values are more secure, if there is one."""
    for name in (name for name in (f"{labels.target}_flag", *FLAGS) if name in labels.columns):
        values = numbers_in_text(labels.columns[name])
        # Beyond 5, flags (VVDS, zCOSMOS, OzDES) mean stars or single lines, so larger is not more secure.
        is_small = values.dtype.kind in "iuf" and np.nanmax(values, initial=0) <= 5
        if is_small and not are_problems(values):
            return name, values.astype(np.float64)
    return None


def _identities(columns: Columns, where: str) -> np.ndarray:
    """Return identities, as integers or text."""
    if "object_id" not in columns:
        if {"ra", "dec"} <= columns.keys() and not tables.has_known_positions(columns):
            raise InputError(
                f"{where}: no column 'object_id' to match by, and no valid position: are ra and dec in "
                "degrees, and not swapped?"
            )
        raise InputError(
            f"{where}: no column 'object_id' to match by; rename the identities to object_id, or the "
            f"positions to ra and dec (degrees): {nearest('object_id', columns)}"
        )
    return tables.identities(require_column(columns, "object_id", where), where)
