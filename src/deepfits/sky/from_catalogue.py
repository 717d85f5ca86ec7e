"""Objects that are given: magnitudes and redshifts from a user's table, the rest from the population.

Shapes: N rows of the table, B bands.

Magnitudes are drawn as they stand, whatever system and filters they were measured in: colours and redshifts
then come from nature. Sizes and shapes the table does not have are drawn for a galaxy of this brightness,
redshift and colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepfits.errors import InputError, nearest
from deepfits.passbands import filter_centre
from deepfits.photometry import flux_of_magnitude
from deepfits.sky.population import (
    COUNT_FILTER,
    EARLY,
    IRREGULAR,
    SPIRAL,
    Table,
    absolute_magnitudes,
    bulge_fluxes,
    draw_redshifts,
    draw_structure,
    draw_types,
)
from deepfits.sky.spectra import REDDENINGS, colour_grid
from deepfits.sky.surveys import SkySurvey
from deepfits.tables import identities, require_unique

FAINTEST_MAGNITUDE = 40.0
"""A magnitude outside 5 to this means that there is none (−99, 99, NaN)."""
SPACING = 48
"""Objects stand on a grid of this many pixels, each moved at random, so that few overlap."""
SHAPE_COLUMNS = ("half_light_radius_arcsec", "axis_ratio", "angle_deg", "bulge_fraction")
OPTIONAL = ("object_id", "z_spec", "z_spec_flag", "kind", *SHAPE_COLUMNS)


@dataclass(frozen=True)
class CatalogueObjects:
    """Rows that can be drawn.

    The table has columns as from `draw_galaxies`, with ``kind``, ``object_id`` and ``z_spec_flag``;
    `left_out` rows of the user's lack a magnitude.
    """

    table: Table
    left_out: int

    def __len__(self) -> int:
        return len(self.table["kind"])


def resolve_columns(
    names: Sequence[str], survey: SkySurvey, mapping: Mapping[str, str], where: object
) -> dict[str, str]:
    """Find which column of a table holds what; the mapping is from our names to its, where they differ.

    Returns the table's names of ``mag_<band>`` for every band, and of each of `OPTIONAL` that is there.

    Raises
    ------
    InputError
        An unknown name on either side, or a band without magnitudes.
    """
    needed = [f"mag_{band}" for band in survey.names]
    known = [*needed, *OPTIONAL]
    for ours, theirs in mapping.items():
        if ours not in known:
            raise InputError(
                f"columns: {ours!r} is not a column that `simulate` reads; {nearest(ours, known)}"
            )
        if theirs not in names:
            raise InputError(f"{where}: no column {theirs!r}; {nearest(theirs, names)}")
    columns = {ours: mapping.get(ours, ours) for ours in known}
    for ours in needed:
        if columns[ours] not in names:
            close = nearest(ours, names)
            raise InputError(f"{where}: no column {ours!r} ({close}); map one with columns=['{ours}=...']")
    return {ours: theirs for ours, theirs in columns.items() if theirs in names}


def from_table(
    columns: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    survey: SkySurvey,
    rng: np.random.Generator,
    where: object,
) -> CatalogueObjects:
    """Turn a user's table into objects.

    `names` are those of `resolve_columns`; `rng` is for what the table does not have.

    Raises
    ------
    InputError
        No row with all magnitudes, or a column of the wrong kind.
    """
    given = {name: np.asarray(columns[theirs]) for name, theirs in names.items()}
    mag = np.stack([_numbers(given, f"mag_{band}", 0, where) for band in survey.names], axis=1)
    with np.errstate(invalid="ignore"):
        keep = ((mag > 5) & (mag < FAINTEST_MAGNITUDE)).all(axis=1)
    if not keep.any():
        raise InputError(f"{where}: no row has a magnitude in every band ({', '.join(survey.names)})")
    rows = {name: values[keep] for name, values in given.items()}
    mag = mag[keep]
    number = len(mag)
    redshift = _numbers(rows, "z_spec", number, where)
    redshift[(redshift < 0) | (redshift > 9)] = np.nan  # −99, 9.9999 and their like mean none
    if "kind" in rows:
        kind = np.char.lower(rows["kind"].astype(str))
        kind = np.where(np.isin(kind, ["star", "quasar"]), kind, "galaxy")
    else:  # redshift 0 marks a star, as spectroscopic surveys do
        kind = np.where(redshift == 0, "star", "galaxy").astype("<U6")
    table = _galaxies(mag, redshift, survey, rng)
    _use_catalogue_shapes(table, rows, number, where)
    is_point = kind != "galaxy"
    for name in ("disc_radius_arcsec", "bulge_radius_arcsec", "half_light_radius_arcsec", "bulge_fraction"):
        table[name][is_point] = 0.0
    grid = colour_grid((COUNT_FILTER, *(band.filter for band in survey.bands)))
    table["bulge_flux"] = bulge_fluxes(table, grid)
    for name in ("template", "ebv", "mag_absolute_r"):
        table[name][is_point] = np.nan
    table["type"][is_point] = -1
    table["z_spec"] = np.where(kind == "star", 0.0, redshift)
    table["kind"] = kind
    table["object_id"] = _identities(rows, number, where)
    flag = _numbers(rows, "z_spec_flag", number, where)
    default = np.where(np.isfinite(table["z_spec"]), 4.0, 0.0)
    table["z_spec_flag"] = np.where(np.isfinite(flag), flag, default) if "z_spec_flag" in rows else default
    return CatalogueObjects(table, int((~keep).sum()))


def grid_positions(number: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Place objects on a patch, well apart: ``x, y``, each ``(N,)`` pixels, in random order of the grid."""
    side = size // SPACING
    cell = rng.permutation(side * side)[:number]
    assert len(cell) == number
    shift = rng.uniform(-0.25, 0.25, (2, number)) * SPACING
    x = (cell % side + 0.5) * SPACING + shift[0]
    y = (cell // side + 0.5) * SPACING + shift[1]
    return x, y


def objects_per_patch(size: int) -> int:
    """Return how many given objects a patch holds."""
    return (size // SPACING) ** 2


def _numbers(rows: Mapping[str, np.ndarray], name: str, number: int, where: object) -> np.ndarray:
    if name not in rows:
        return np.full(number, np.nan)
    try:
        return np.array(rows[name], dtype=float)
    except ValueError:
        raise InputError(f"{where}: the column for {name} holds no numbers") from None


def _identities(rows: Mapping[str, np.ndarray], number: int, where: object) -> np.ndarray:
    if "object_id" not in rows:
        return np.arange(number, dtype=np.int64)
    identity = identities(np.asarray(rows["object_id"]), str(where))
    if identity.dtype.kind != "i":
        raise InputError(f"{where}: the column for object_id holds no whole numbers, such as {identity[0]!r}")
    require_unique(identity, str(where))
    return identity


def _galaxies(mag: np.ndarray, redshift: np.ndarray, survey: SkySurvey, rng: np.random.Generator) -> Table:
    """Find the template of each row's colours at its redshift, and draw the structure of such a galaxy."""
    centres = np.array([filter_centre(band.filter) for band in survey.bands])
    counted = mag[:, np.abs(centres - filter_centre(COUNT_FILTER)).argmin()]
    known = np.isfinite(redshift) & (redshift > 0)
    guess = draw_redshifts(counted, draw_types(counted, rng), rng)
    at = np.where(known, redshift, guess)
    template, dust = _fit_templates(mag, at, survey)
    kind = np.where(template < 0.5, EARLY, np.where(template < 2.7, SPIRAL, IRREGULAR))
    table: Table = {
        "mag_count": counted,
        "type": kind,
        "z_spec": at,
        "template": template,
        "ebv": dust,
        "mag_absolute_r": absolute_magnitudes(counted, at, template, dust),
        "flux": flux_of_magnitude(mag),
    }
    return table | draw_structure(table, rng)


def _fit_templates(mag: np.ndarray, redshift: np.ndarray, survey: SkySurvey) -> tuple[np.ndarray, np.ndarray]:
    """Find the template and reddening whose colours fit best: ``(N,)`` each."""
    grid = colour_grid(tuple(band.filter for band in survey.bands))
    number = len(mag)
    best = np.full(number, np.inf)
    template, dust = np.zeros(number), np.zeros(number)
    for t in np.arange(0, 5.01, 0.25):
        for e in REDDENINGS[:4]:
            model = -2.5 * grid.at(np.full(number, t), np.full(number, e), redshift)
            rest = mag - model
            misfit = rest.std(axis=1) + 0.02 * e  # of equal fits the less dusty
            better = misfit < best
            best[better], template[better], dust[better] = misfit[better], t, e
    return template, dust


def _use_catalogue_shapes(table: Table, rows: Mapping[str, np.ndarray], number: int, where: object) -> None:
    """Put sizes and shapes of the table in place of the drawn ones, where they are valid numbers."""
    radius = _numbers(rows, "half_light_radius_arcsec", number, where)
    good = (radius > 0) & (radius < 60)
    for name in ("disc_radius_arcsec", "bulge_radius_arcsec"):
        table[name][good] *= radius[good] / table["half_light_radius_arcsec"][good]
    table["half_light_radius_arcsec"][good] = radius[good]
    ratio = _numbers(rows, "axis_ratio", number, where)
    good = (ratio > 0) & (ratio <= 1)
    # The disc's radius is along its major axis; its area stays.
    table["disc_radius_arcsec"][good] *= np.sqrt(table["disc_ratio"][good] / ratio[good])
    table["disc_ratio"][good] = ratio[good]
    angle = np.radians(_numbers(rows, "angle_deg", number, where))
    table["angle"] = np.where(np.isfinite(angle), angle % math.pi, table["angle"])
    fraction = _numbers(rows, "bulge_fraction", number, where)
    table["bulge_fraction"] = np.where((fraction >= 0) & (fraction <= 1), fraction, table["bulge_fraction"])


def parse_columns(columns: Sequence[str] | None) -> dict[str, str]:
    """Read ``["mag_u=u_photz", "z_spec=zpec"]`` into a dictionary.

    Raises
    ------
    InputError
        An item without ``=``.

    Examples
    --------
    >>> parse_columns(["mag_u=u_photz"])
    {'mag_u': 'u_photz'}
    """
    out = {}
    for item in columns or ():
        ours, sign, theirs = item.partition("=")
        if not sign or not ours.strip() or not theirs.strip():
            raise InputError(f"columns: {item!r} is not OURS=THEIRS, as in mag_u=u_photz")
        out[ours.strip()] = theirs.strip()
    return out
