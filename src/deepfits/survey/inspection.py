"""Inspection of images before use: their properties, and signs that something is wrong.

Each band of each field gives one row, and each suspicious property one line with a remedy. The limits are
wide: they catch wrong units, inverted masks and broken astrometry, not unusual skies.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from deepfits.errors import InputError, NoDataError, listed
from deepfits.photometry import reference_band
from deepfits.survey.band_registration import band_shifts, shift_warnings
from deepfits.survey.bands import sort_bands
from deepfits.survey.detection import DetectOptions
from deepfits.survey.extract import extract
from deepfits.survey.fields import Field, ImageSet, middle_of
from deepfits.survey.fitsfile import sums_that_fail
from deepfits.survey.image_source import FieldSources, ImageSource
from deepfits.survey.noise import depth_of, sample_rows, sky_doubts
from deepfits.survey.planes import Plane, open_planes
from deepfits.survey.remarks import WARNING, describe, pattern_of, warnings_in

# 5σ in 2″ apertures, AB: from the shallowest photographic plates to the deepest fields from space.
PLAUSIBLE_DEPTH = (14.0, 32.0)
# Median colour of a field's sources in adjacent bands (blue minus red), mag.
PLAUSIBLE_COLOUR = (-0.7, 2.6)
# Below, the PSF is measured 7% and more too wide, as what is between the pixels of stars is not known; above,
# stars are wider than their stamps (`deepfits.survey.seeing.SIDE`).
PLAUSIBLE_FWHM_PIXELS = (1.9, 24.9)
PLAUSIBLE_SCALE = (0.005, 30.0)
# A frame rotated by 45° fills half of a north-up grid; an inverted mask leaves a few per cent.
MAX_EMPTY = 0.75


@dataclass(kw_only=True)
class Row:
    """Properties of one band of one field."""

    field: str
    band: str
    shape: tuple[int, int]
    pixel_scale_arcsec: float
    zero_point: float
    fwhm_arcsec: float
    depth: float
    noise_njy: float
    fraction_empty: float
    weights: str


@dataclass(kw_only=True)
class Findings:
    """Results of an inspection: rows, remarks (decisions taken) and warnings (with remedies).

    ``str(findings)`` is the report that is printed.
    """

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_fatal: bool = False

    def note(self, text: str, of: str = "") -> None:
        """Add a remark, or a warning if the text starts with ``WARNING:``, prefixed by `of`."""
        (self.warnings if text.startswith(WARNING) else self.remarks).append(of + text.removeprefix(WARNING))

    def refuse(self, error: InputError) -> None:
        """Record an error that makes the data unusable; `deepfits check` then exits with status 1."""
        self.warnings += [str(error)] if str(error) not in self.warnings else []  # of all layers of a cube
        self.is_fatal = True

    def _joined(self, texts: list[str]) -> list[str]:
        """Return texts with one line, that of the first, for fields whose texts differ only in numbers."""
        names, alike = {row.field for row in self.rows}, dict[str, dict[str, str]]()
        for text in texts:
            starts = [text[: end.start()] for end in re.finditer("(?= |: )", text)]
            name = max(names.intersection(starts), key=len, default="")
            bands, colon, rest = text.removeprefix(name).partition(":")
            kind = bands + colon + (pattern_of(rest) if name else rest)
            while name in alike.setdefault(kind, {}) and name:  # a further one, such as of another HDU
                kind += "#"
            alike[kind][name] = bands + colon + rest
        return [listed([*of_text], 3) + next(iter(of_text.values())) for of_text in alike.values()]

    def __repr__(self) -> str:  # in notebooks, where the last value of a cell is shown
        return str(self)

    def __str__(self) -> str:
        notes = [f"note: {r}" for r in self._joined(self.remarks)]
        warnings = [f"WARNING: {w}" for w in self._joined(self.warnings)] or ["nothing suspicious"]
        return "\n".join([*(_table(self.rows) if self.rows else []), *notes, *warnings])


def _table(rows: list[Row]) -> list[str]:
    cells = [
        {
            "field": _short(row.field),
            "band": row.band,
            "pixels": f"{row.shape[1]}×{row.shape[0]}",
            "arcsec": f"{row.pixel_scale_arcsec:.3f}",
            "zero pt": _or_dash(row.zero_point),
            "FWHM ″": _or_dash(row.fwhm_arcsec),
            "depth 5σ 2″": _or_dash(row.depth),
            "noise nJy": f"{row.noise_njy:.3g}",
            "no data": f"{row.fraction_empty:.1%}",
            "weights": row.weights,
        }
        for row in rows
    ]
    lines = [[*cells[0]], *([*line.values()] for line in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _short(name: str) -> str:
    """Shorten a long name in the middle."""
    return name if len(name) <= 30 else f"{name[:14]}…{name[-14:]}"


def _or_dash(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def inspect_field(sources: FieldSources, images: ImageSet, findings: Findings) -> None:
    """Inspect one field; unusable bands are reported, and the others inspected all the same."""
    unusable: list[InputError] = []
    try:
        with open_planes(sources.images, images.options, unusable) as planes:
            _note_wrong_sums([plane.source for plane in planes.values()], findings)
            if planes:
                field = Field(sources, dict(planes), reference_band(sort_bands(planes)))
                _inspect_open(field, dict(planes), findings)
    except InputError as error:
        unusable.append(error)
    for problem in unusable:
        if isinstance(problem, NoDataError) and len(unusable) < len(sources.images):
            findings.warnings.append(str(problem))  # a missing band, which can be allowed
        else:
            findings.refuse(problem)


def _note_wrong_sums(sources: Iterable[ImageSource], findings: Findings) -> None:
    """Warn of files whose data do not match the sums in their headers."""
    files = [(source.path, *(path for path, _ in source.companions)) for source in sources]
    findings.warnings += [
        f"{path}: the data of HDU {hdu} are not those whose sum its header has (DATASUM): damaged, or "
        "changed by a program that left the sum as it was; fetch the file again"
        for path in dict.fromkeys(path for paths in files for path in paths)
        for hdu in sums_that_fail(path)
    ]


def _inspect_open(field: Field, planes: dict[str, Plane], findings: Findings) -> None:
    bands = tuple(planes)
    middle = middle_of(field)
    extraction = extract(middle, DetectOptions(threshold=6.0), bands=bands, find_variation=False)
    notes: dict[str, list[str]] = {}
    suspicious: dict[str, list[str]] = {}
    for band, plane in planes.items():
        row = _row(field.name, band, plane, extraction.fwhm_arcsec[band])
        findings.rows.append(row)
        suspicious[band] = _row_warnings(row, plane) + warnings_in(plane.remarks)
        silent = ("zero point", WARNING)
        notes[band] = [r for r in plane.remarks if not r.startswith(silent)]
    findings.remarks += [f"{field.name} {line}" for line in describe(notes)]
    findings.warnings += [f"{field.name} {line}" for line in describe(suspicious)]
    findings.warnings += [f"{field.name} {w}" for w in field.beyond_warnings()]
    reference = field.reference.source.band
    shifts = shift_warnings(band_shifts(middle, reference), reference)
    findings.warnings += [
        f"{field.name}: {w}" for w in (*colour_warnings(extraction.columns, bands), *shifts)
    ]


def _row(name: str, band: str, plane: Plane, fwhm: float) -> Row:
    empty = [(plane.rows(*strip)[1] <= 0).mean() for strip in sample_rows(plane.shape[0], 16, 1199)]
    return Row(
        field=name,
        band=band,
        shape=plane.shape,
        pixel_scale_arcsec=plane.pixel_scale,
        zero_point=plane.zero_point,
        fwhm_arcsec=fwhm,
        depth=depth_of(plane.noise.sigma * max(plane.noise.correlation, 1.0), plane.pixel_scale),
        noise_njy=plane.noise.sigma,
        fraction_empty=float(np.mean(empty)),
        weights=plane.weight_kind,
    )


def depth_warning(row: Row) -> list[str]:
    """Warn of an implausible depth."""
    if not math.isfinite(row.depth) or PLAUSIBLE_DEPTH[0] < row.depth < PLAUSIBLE_DEPTH[1]:
        return []
    zero_point = f"{row.zero_point:.2f}" if math.isfinite(row.zero_point) else "that of the header"
    return [
        f"a depth of {row.depth:.1f} AB is implausible; is {zero_point} the zero point of these counts? "
        "give zero_point"
    ]


def empty_warning(row: Row, options: str) -> list[str]:
    """Warn if hardly any pixel has data, and name the options that define the meaning of masks."""
    if row.fraction_empty <= MAX_EMPTY:
        return []
    text = "of the pixels have no data; is the polarity of mask or weight right?"
    return [f"{row.fraction_empty:.0%} {text} ({options})"]


def _row_warnings(row: Row, plane: Plane) -> list[str]:
    out = depth_warning(row)
    if not PLAUSIBLE_SCALE[0] < row.pixel_scale_arcsec < PLAUSIBLE_SCALE[1]:
        out.append(f"pixels of {row.pixel_scale_arcsec:.3g} arcsec: check the WCS")
    out += sky_doubts(plane)
    out += empty_warning(row, "mask_polarity, bad_planes")
    fwhm = row.fwhm_arcsec / row.pixel_scale_arcsec
    narrowest, widest = PLAUSIBLE_FWHM_PIXELS
    if fwhm < narrowest or fwhm > widest:
        text = "pixels wide: check the pixel scale; if that is right, give the PSF, which is measured too"
        out.append(f"stars are {fwhm:.1f} {text} {'wide' if fwhm < narrowest else 'narrow'} on them (psf)")
    return out


def colour_warnings(columns: dict[str, np.ndarray], bands: tuple[str, ...]) -> list[str]:
    """Warn of adjacent bands whose median colour is implausible for a field of stars and galaxies."""
    out = []
    for blue, red in pairwise(bands):
        fluxes = [columns[f"flux_aper_{b}"] for b in (blue, red)]
        errors = [columns[f"flux_aper_err_{b}"] for b in (blue, red)]
        clear = np.logical_and.reduce([f > 10 * e for f, e in zip(fluxes, errors, strict=True)])
        if clear.sum() < 10:
            continue
        colour = float(np.median(-2.5 * np.log10(fluxes[0][clear] / fluxes[1][clear])))
        if not PLAUSIBLE_COLOUR[0] < colour < PLAUSIBLE_COLOUR[1]:
            out.append(
                f"the median colour {blue} − {red} is {colour:+.1f} mag, which is implausible; check "
                "the zero points of both bands"
            )
    return out
