"""Simulated objects with magnitudes and redshifts from a user's table.

Shapes: N rows of the table, B bands.

AB magnitudes are used unchanged, whatever filters they were measured in, so that colours and redshifts are
those of real galaxies. Sizes and shapes that the table lacks are drawn from the population model, for a
galaxy of the same brightness, redshift and colour.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from deepfits.tables import identities, identity_name, require_unique
from deepfits.tables.entries import is_number, numbers_in_text
from deepfits.tables.names import first_name
from deepfits.tables.table import LIKELY_REDSHIFTS
from deepfits.tables.values import HIGHEST_MEDIAN, STAR_REDSHIFT, is_no_value

BRIGHTEST_MAGNITUDE, FAINTEST_MAGNITUDE = 5.0, 40.0
"""Magnitudes outside this range are treated as missing (−99, 99)."""
SPACING = 48  # spacing in pixels of the grid of objects, each randomly displaced, chosen so that few overlap
SHAPE_COLUMNS = ("half_light_radius_arcsec", "axis_ratio", "angle_deg", "bulge_fraction")
OPTIONAL = ("object_id", "z_spec", "z_spec_flag", "kind", *SHAPE_COLUMNS)

_KINDS = {"galaxy": "galaxy", "gal": "galaxy", "star": "star", "quasar": "quasar", "qso": "quasar"}
_MAGNITUDE_UNIT = re.compile(r"|ab|.*mag(?!g).*", re.IGNORECASE)
_OTHER_SYSTEM = re.compile(r"vega|st[_ ]?mag|mag[_ ]?\(?st\b", re.IGNORECASE)
_STARS = re.compile(
    r"(is_?)?stars?(_?(flag|class))?|sg_?(flag|class)|(class|prob)_?star|stellarity"
    r"|(\w_|ref_?)?extendedness(_value)?|((obj|lp|photo)_?)?(type|class)",
    re.IGNORECASE,
)
"""Names of columns that separate stars from galaxies: CLASS_STAR, star_flag, isStar, lp_type, type."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueObjects:
    """Objects of a user's table that can be drawn."""

    table: Table  # columns as from `draw_galaxies`, and kind, object_id and z_spec_flag
    left_out: int  # number of rows skipped because a magnitude is missing

    def __len__(self) -> int:
        return len(self.table["kind"])


def resolve_columns(
    names: Sequence[str], survey: SkySurvey, mapping: Mapping[str, str], where: object
) -> dict[str, str]:
    """Match the columns of a table to the names used here.

    Return the table's names of ``mag_<band>`` for every band of the survey, and of those of `OPTIONAL` that
    it has. `mapping` states them where they differ, and `where` names the table in messages.
    """
    needed = [f"mag_{band}" for band in survey.names]
    known = [*needed, *OPTIONAL]
    for own, column in mapping.items():
        if own not in known:
            raise InputError(f"columns: {own!r} is not a column that `simulate` reads; {nearest(own, known)}")
        if column not in names:
            raise InputError(f"{where}: no column {column!r}; {nearest(column, names)}")
    by_lower = {name.lower(): name for name in reversed(names)}  # not of magnitudes: bands z and Z differ
    columns = {own: mapping.get(own, own) for own in known}
    columns |= {own: by_lower[own] for own in OPTIONAL if columns[own] not in names and own in by_lower}
    for own in needed:
        if columns[own] not in names:
            close = nearest(own, names)
            raise InputError(f"{where}: no column {own!r} ({close}); map it with columns=['{own}=...']")
    columns = {own: column for own, column in columns.items() if column in names}
    left = [name for name in names if name not in columns.values()]
    redshift = first_name(left, LIKELY_REDSHIFTS)
    for own, likely, otherwise in (
        ("z_spec", redshift, "redshifts are not known"),
        ("object_id", identity_name(left), "rows are numbered"),
    ):
        if own not in columns and likely is not None:
            log.warning(
                "WARNING: %s: no column %s: %s; is it %r? If so, map it with columns=['%s=%s']",
                *(where, own, otherwise, likely, own, likely),
            )
    return columns


def from_table(
    columns: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    survey: SkySurvey,
    rng: np.random.Generator,
    where: object,
    units: Mapping[str, str] | None = None,
) -> CatalogueObjects:
    """Convert a user's table to objects.

    `names` are the table's column names, from `resolve_columns`; `units` are those stated in the file, by its
    column names. Properties that the table lacks are drawn.
    """
    catalogue = _CatalogueColumns(columns, names, units or {}, where)
    mag = np.stack([catalogue.magnitudes(f"mag_{band}") for band in survey.names], axis=1)
    is_known = np.isfinite(mag)
    keep = is_known.all(axis=1)
    missing = {b: int((~ok).sum()) for b, ok in zip(survey.names, is_known.T, strict=True) if not ok.all()}
    listed = ", ".join(f"{band} ({count} rows)" for band, count in missing.items())
    if not keep.any():
        raise InputError(
            f"{where}: no row has a magnitude in every band ({', '.join(survey.names)}); missing: {listed}"
        )
    if missing:
        log.info(
            "%s: %d of %d rows lack a magnitude and are left out: %s", where, (~keep).sum(), len(keep), listed
        )
    catalogue = replace(catalogue, columns={name: values[keep] for name, values in columns.items()})
    mag = mag[keep]
    redshift = catalogue.redshifts()
    kind = catalogue.kinds(redshift)
    table = _galaxies(mag, redshift, survey, rng)
    _use_catalogue_shapes(table, catalogue)
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
    table["object_id"] = catalogue.identities()
    flag = catalogue.numbers("z_spec_flag")
    default = np.where(np.isfinite(table["z_spec"]), 4.0, 0.0)
    table["z_spec_flag"] = np.where(np.isfinite(flag), flag, default)
    return CatalogueObjects(table, int((~keep).sum()))


def grid_positions(number: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Place objects in random cells of a grid: ``x, y``, each ``(N,)`` pixels."""
    side = size // SPACING
    cell = rng.permutation(side * side)[:number]
    assert len(cell) == number
    shift = rng.uniform(-0.25, 0.25, (2, number)) * SPACING
    x = (cell % side + 0.5) * SPACING + shift[0]
    y = (cell // side + 0.5) * SPACING + shift[1]
    return x, y


def objects_per_patch(size: int) -> int:
    """Return the number of catalogue objects that fit on a patch."""
    return (size // SPACING) ** 2


@dataclass(frozen=True)
class _CatalogueColumns:
    """A user's table: its columns, their names by the names used here, their units, and the file."""

    columns: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    units: Mapping[str, str]
    where: object

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def error(self, name: str, why: str) -> InputError:
        column = self.names[name]
        label = repr(column) if column == name else f"{column!r} (given as {name})"
        return InputError(f"{self.where}: column {label} {why}")

    def numbers(self, name: str, unit: str = "") -> np.ndarray:
        """Return a column as float64, ``(N,)``, converted to an angular unit if given; NaN if absent."""
        if name not in self.names:
            return np.full(len(self), np.nan)
        values = self.columns[self.names[name]]
        if values.ndim != 1:
            raise self.error(name, f"holds lists of {values.shape[1]} numbers; write each to its own column")
        scale = self._scale(name, unit) if unit else 1.0
        numbers = numbers_in_text(values)
        if numbers.dtype.kind == "U":
            odd = next((entry for entry in numbers.tolist() if not is_number(entry)), numbers[0])
            raise self.error(name, f"holds text, not numbers, such as {str(odd)!r}")
        return np.array(numbers, dtype=float) * scale

    def _scale(self, name: str, unit: str) -> float:
        from astropy import units

        stated = self.units.get(self.names[name], "").strip()
        text = re.sub(r"^(?:\"|''|asec)$", "arcsec", stated.lower() or unit)
        for word in (text, text.removesuffix("s")):  # arcseconds
            try:
                return float(units.Unit(word).to(unit))
            except (ValueError, TypeError):
                continue
        raise self.error(name, f"is in {stated!r}; it must be in {unit}")

    def shapes(self, name: str, largest: float, unit: str = "") -> np.ndarray:
        """Return a column of sizes or shapes, ``(N,)``, NaN where missing or, with a warning, too large."""
        value = self.numbers(name, unit)
        is_odd = (value > largest) & ~is_no_value(value, is_redshift=False, codes_only=True)
        if is_odd.any():
            log.warning(
                "WARNING: %s: %d of %d values of %s are above %g, such as %g: these are drawn at random; "
                "are they per cent, or in another unit?",
                *(self.where, is_odd.sum(), len(value), self.names[name], largest, value[is_odd][0]),
            )
        return np.where(value > largest, np.nan, value)

    def magnitudes(self, name: str) -> np.ndarray:
        """Return a column of AB magnitudes, ``(N,)``, NaN where missing."""
        remedy = (
            "AB magnitudes are needed: −2.5 log10(flux) + 31.4 for nJy, 23.9 for µJy, 22.5 for nanomaggies, "
            "−48.6 for erg/s/cm²/Hz"
        )
        column = self.names[name]
        unit = self.units.get(column, "")
        if _OTHER_SYSTEM.search(f"{unit} {column}"):
            raise self.error(
                name,
                f"holds magnitudes of another system ({unit or 'judging by its name'}); AB magnitudes are "
                "needed: add the filter's offset",
            )
        is_flux = "flux" in column.lower() and "mag" not in f"{column} {unit}".lower()
        if is_flux or not _MAGNITUDE_UNIT.fullmatch(unit):
            raise self.error(name, f"is a flux ({unit or 'judging by its name'}); {remedy}")
        value = self.numbers(name)
        number = np.isfinite(value).sum()
        value[is_no_value(value, is_redshift=False)] = np.nan
        with np.errstate(invalid="ignore"):
            is_possible = (value > BRIGHTEST_MAGNITUDE) & (value < FAINTEST_MAGNITUDE)
        odd = value[np.isfinite(value) & ~is_possible]
        if len(np.unique(odd)) > max(2, 0.02 * number):
            raise self.error(name, f"seems to hold fluxes, such as {odd[0]:g} and {odd[-1]:g}; {remedy}")
        return np.where(is_possible, value, np.nan)

    def redshifts(self) -> np.ndarray:
        """Return the redshifts, ``(N,)``, NaN where unknown."""
        value = self.numbers("z_spec")
        is_none, known = is_no_value(value, is_redshift=True), value[np.isfinite(value)]
        possible = value[np.isfinite(value) & ~is_none]
        if (len(possible) and np.median(possible) > HIGHEST_MEDIAN) or (
            len(np.unique(value[is_none])) > max(5, 0.5 * len(known))
        ):
            raise self.error(
                "z_spec",
                f"does not hold redshifts: its median is {np.median(known):.3g}; are these "
                "magnitudes, or velocities (to be divided by 299792.458 km/s)?",
            )
        value[is_none] = np.nan
        return value

    def kinds(self, redshift: np.ndarray) -> np.ndarray:
        """Return ``galaxy``, ``star`` or ``quasar`` for each object, ``(N,)``; by redshift if not given."""
        with np.errstate(invalid="ignore"):
            by_redshift = np.where(np.abs(redshift) < STAR_REDSHIFT, "star", "galaxy").astype("<U6")
        if "kind" not in self.names:
            self._warn_of_stars()
            is_star = by_redshift == "star"
            if is_star.any():
                known = np.isfinite(redshift).sum()
                log.log(
                    logging.WARNING if is_star.sum() > known / 2 else logging.INFO,
                    "%s: %d of %d objects with a redshift are drawn as stars, because it is 0; if 0 means "
                    "unknown, leave the value empty, or add a column 'kind'",
                    *(self.where, is_star.sum(), known),
                )
            return by_redshift
        values = self.columns[self.names["kind"]]
        words = np.char.lower(values.astype(str))
        unknown = Counter(words[~np.isin(words, ["", *_KINDS])].tolist())
        listed = ", ".join(f"{word} ({count} times)" for word, count in unknown.most_common(5))
        if values.dtype.kind not in "UO" or (unknown and not np.isin(words, list(_KINDS)).any()):
            raise self.error("kind", f"must be galaxy, star or quasar, not {listed}; replace these values")
        if unknown:
            log.warning("WARNING: %s: unknown kinds, drawn as galaxies: %s", self.where, listed)
        kind = np.array([_KINDS.get(word, "galaxy") for word in words.tolist()], dtype="<U6")
        return np.where(words == "", by_redshift, kind)

    def _warn_of_stars(self) -> None:
        """Warn of a column that may say which of the objects are stars, unless all have the same value."""
        for name in filter(_STARS.fullmatch, self.columns):
            values = self.columns[name]
            is_galaxy = values.dtype.kind == "f" and not (values >= 0.95).any()  # a probability of a star
            if values.ndim == 1 and not is_galaxy and len(np.unique(values)) > 1:
                log.warning(
                    "WARNING: %s: %s may distinguish stars, but objects are drawn as galaxies unless their "
                    "redshift is 0; select galaxies (--where '%s == VALUE'), or map a column of the "
                    "words galaxy, star and quasar with columns=['kind=...']",
                    *(self.where, name, name),
                )

    def identities(self) -> np.ndarray:
        """Return unique integer identifiers, ``(N,)``."""
        if "object_id" not in self.names:
            return np.arange(len(self), dtype=np.int64)
        where, column = str(self.where), self.names["object_id"]
        identity = identities(self.columns[column], where, column)
        require_unique(identity, where, column)
        if identity.dtype.kind != "i":
            raise self.error(
                "object_id",
                f"must hold integers below 2⁶³, not values such as {str(identity[0])!r}; rename it, and rows "
                "are numbered instead",
            )
        return identity


def _galaxies(mag: np.ndarray, redshift: np.ndarray, survey: SkySurvey, rng: np.random.Generator) -> Table:
    """Fit a template to each row's colours at its redshift, and draw the structure of such a galaxy."""
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
    """Return the template and reddening that fit the colours best, ``(N,)`` each."""
    grid = colour_grid(tuple(band.filter for band in survey.bands))
    number = len(mag)
    best = np.full(number, np.inf)
    template, dust = np.zeros(number), np.zeros(number)
    for t in np.arange(0, 5.01, 0.25):
        for e in REDDENINGS[:4]:
            model = -2.5 * grid.at(np.full(number, t), np.full(number, e), redshift)
            misfit = (mag - model).std(axis=1) + 0.02 * e  # among equal fits prefer less dust
            better = misfit < best
            best[better], template[better], dust[better] = misfit[better], t, e
    return template, dust


def _use_catalogue_shapes(table: Table, catalogue: _CatalogueColumns) -> None:
    """Replace drawn sizes and shapes by those of the table, where these are valid."""
    radius = catalogue.shapes("half_light_radius_arcsec", 60.0, "arcsec")
    good = radius > 0
    for name in ("disc_radius_arcsec", "bulge_radius_arcsec"):
        table[name][good] *= radius[good] / table["half_light_radius_arcsec"][good]
    table["half_light_radius_arcsec"][good] = radius[good]
    ratio = catalogue.shapes("axis_ratio", 1.0)
    good = ratio > 0
    # The disc's radius is along its major axis; conserve its area.
    table["disc_radius_arcsec"][good] *= np.sqrt(table["disc_ratio"][good] / ratio[good])
    table["disc_ratio"][good] = ratio[good]
    angle = catalogue.numbers("angle_deg", "deg")
    good = np.isfinite(angle) & ~is_no_value(angle, is_redshift=False)
    table["angle"][good] = np.radians(angle[good]) % math.pi
    fraction = catalogue.shapes("bulge_fraction", 1.0)
    table["bulge_fraction"] = np.where(fraction >= 0, fraction, table["bulge_fraction"])


def parse_columns(columns: Sequence[str] | None) -> dict[str, str]:
    """Parse ``["mag_u=u_photz", "z_spec=zpec"]`` into a dictionary.

    Examples
    --------
    >>> parse_columns(["mag_u=u_photz"])
    {'mag_u': 'u_photz'}
    """
    out = {}
    for item in columns or ():
        name, sign, column = item.partition("=")
        if not sign or not name.strip() or not column.strip():
            raise InputError(f"columns: {item!r} is not OURS=THEIRS, as in mag_u=u_photz")
        if name.strip() in out:
            raise InputError(f"columns: {name.strip()!r} is given twice")
        out[name.strip()] = column.strip()
    return out
