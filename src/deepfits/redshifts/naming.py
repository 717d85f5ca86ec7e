"""Column names of predictions: the usual ones for redshifts, and ones with the target's name otherwise.

Internally, every method uses `z_phot`, `z_mean`, `z_err68_low` and so on, whatever its target.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepfits.tables.values import is_redshift_name

ESTIMATE = "z_phot"


def truth_name(target: str) -> str:
    """Return the column name of the true values.

    Examples
    --------
    >>> truth_name("zBEST"), truth_name("axis_ratio")
    ('z_spec', 'axis_ratio')
    """
    return "z_spec" if is_redshift_name(target) else target


def written_name(name: str, target: str) -> str:
    """Return the name of a column of predictions in files.

    Examples
    --------
    >>> [written_name(name, "axis_ratio") for name in ("z_phot", "z_err68_low", "quantiles")]
    ['axis_ratio_predicted', 'axis_ratio_err68_low', 'quantiles']
    >>> written_name("z_phot", "z_spec")
    'z_phot'
    """
    if is_redshift_name(target) or not name.startswith("z_"):
        return name
    return f"{target}_predicted" if name == ESTIMATE else f"{target}{name[1:]}"


def is_of_target(name: str, target: str) -> bool:
    """Return whether a column of predictions in files holds values of the target, in its unit.

    Examples
    --------
    >>> is_of_target("mass_err68_low", "mass"), is_of_target("domain_distance", "mass")
    (True, False)
    """
    names = (ESTIMATE, "quantiles", "z_mean", "z_median", "z_mode", "z_err68_", "z_err95_")
    return name == truth_name(target) or name.startswith(tuple(written_name(own, target) for own in names))


def as_written(columns: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Rename columns to their names in files."""
    return {written_name(name, target): values for name, values in columns.items()}


def class_columns(probability: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns `class` and `p_<name>` from the probabilities of C classes, ``(N, C)``."""
    guess = np.array(names)[probability.argmax(axis=1)]
    return {"class": guess, **{f"p_{name}": probability[:, place] for place, name in enumerate(names)}}
