"""Filters of images, characterised by their mean wavelengths, without which colours are ambiguous."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError, naming
from deepfits.files import cached_by_files

COLUMN = "filter_wavelength"
"""Table column, one per band: mean wavelength of the filter of each object's image, Å."""
WAVELENGTHS = {
    "sdss2010": {"u": 3599, "g": 4718, "r": 6187, "i": 7506, "z": 8918},
    "cfht_megacam": {"u": 3682, "ustar": 3806, "g": 4784, "r": 6397, "i": 7696, "z": 8988},
    "hsc2017": {"g": 4809, "r": 6229, "r2": 6228, "i": 7703, "i2": 7747, "z": 8906, "y": 9777},
    "decam2014": {"u": 3876, "g": 4842, "r": 6438, "i": 7821, "z": 9172, "Y": 9877},
    "panstarrs": {"g": 4866, "r": 6215, "i": 7545, "z": 8679, "y": 9633},
    "lsst2023": {"u": 3723, "g": 4807, "r": 6221, "i": 7559, "z": 8681, "y": 9754},
    "BASS": {"g": 4778, "r": 6411},
    "MzLS": {"z": 9209},
    "suprime": {"g": 4777, "r": 6289, "i": 7684, "z": 9037},
    "omegacam": {"u": 3573, "g": 4728, "r": 6300, "i": 7569},
    "vircam": {"Z": 8781},
}
"""Mean wavelengths ∫ λ T dλ / ∫ T dλ, Å, of filters by `speclite` name, e.g. ``cfht_megacam-ustar``. Those of
Suprime-Cam (g+, r+, i+, z+) are from Ilbert et al. 2009, table 1; those of KiDS and VIKING from the curves
distributed with LePHARE."""
_NOT_IN_SPECLITE = ("suprime", "omegacam", "vircam")
_CAMERAS = (
    ("hsc2017", r"\bHSC\b|HYPER.?SUPRIME"),
    ("suprime", r"SUPRIME"),
    ("decam2014", r"\bDECAM|\bDES[-_ ][UGRIZY]\b"),
    ("cfht_megacam", r"MEGAPRIME|CFHT|\bMP9\d{3}\b"),
    ("panstarrs", r"GPC1|\bPS1\b|PAN-?STARRS"),
    ("lsst2023", r"LSST(COM)?CAM"),
    ("BASS", r"90PRIME|\bBASS\b"),
    ("MzLS", r"MOSAIC-?3|\bMZLS\b"),
    ("omegacam", r"OMEGACAM|\bKIDS\b"),
    ("vircam", r"VIRCAM|\bVIKING\b"),
    ("sdss2010", r"\bSDSS\b"),
)
"""Patterns of the cameras' names in FITS headers."""
_WHERE = ("FILTER", "INSTRUME", "TELESCOP", "ORIGIN", "FPA.INSTRUMENT", "FPA.TELESCOPE")
_CARDS = ("WAVELEN", "PHOTPLAM")
"""Cards with the wavelength itself, in simulated skies and Hubble Space Telescope images."""
_PLAUSIBLE = (2000.0, 25_000.0)
SHORTEST = 1000.0  # minimum mean wavelength of a filter, Å; a lower one reveals a file in nm or µm
FARTHEST = 1.2  # maximum factor between a filter's mean wavelength and the usual one of its band
STEP = 5.0  # spacing of the wavelength grid on which filters are integrated, Å


def read_curve(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a filter's wavelengths, ``(W,)`` in Å, and its transmission, ``(W,)``, as published.

    Raise `InputError` if the filter is not in `speclite`, or its file is not a table whose first two columns
    are wavelengths, in order and in Å unless it states another unit, and transmissions.
    """
    path = Path(name)
    if path.is_file():
        wavelength, response = _read_columns(path)
    else:
        try:
            import speclite.filters
        except ImportError:
            raise InputError(
                f'filter {name!r} needs speclite: install "deepfits[sky]", or give a file of wavelengths and '
                "transmissions"
            ) from None
        try:
            loaded = speclite.filters.load_filter(name)
        except (ValueError, OSError):
            raise InputError(
                f"filter {name!r} is neither a file nor a filter of speclite, such as hsc2017-i2"
            ) from None
        wavelength, response = np.asarray(loaded.wavelength), np.asarray(loaded.response)
    if (
        len(wavelength) < 2
        or not (np.diff(wavelength) > 0).all()
        or not np.isfinite(response).all()
        or response.max() <= 0
    ):
        raise InputError(f"filter {name!r}: wavelengths must increase and transmissions be finite")
    if (mean := np.average(wavelength, weights=response)) < SHORTEST:
        raise InputError(f"filter {name!r}: a mean wavelength of {mean:.4g}: write Å, not nm or µm")
    return wavelength, response


def _read_columns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths in Å, increasing, and transmissions from numbers without a header, or any table."""
    try:
        with warnings.catch_warnings(action="ignore"):  # an empty file, which is refused below
            wavelength, response = np.loadtxt(path, ndmin=2)[:, :2].T
    except (ValueError, IndexError):
        from astropy import units

        from deepfits.tables import read

        with naming(path, "cannot read this filter", "give two columns, Å and transmission"):
            table = read(path, what="filter")
            first, second = [name for name, column in table.columns.items() if column.dtype.kind in "fiu"][:2]
            wavelength, response = (np.asarray(table.columns[n], dtype=float) for n in (first, second))
            wavelength = wavelength * units.Unit(table.units.get(first, "Angstrom")).to("Angstrom")
    is_falling = len(wavelength) > 1 and wavelength[0] > wavelength[-1]
    return (wavelength[::-1], response[::-1]) if is_falling else (wavelength, response)


@cached_by_files(maxsize=64)
def load_filter(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a filter's wavelengths and transmission on a regular grid of `STEP`; see `read_curve`."""
    wavelength, response = read_curve(name)
    transmitted = wavelength[response > 1e-4 * response.max()]
    grid = np.arange(STEP * np.floor(transmitted[0] / STEP), transmitted[-1] + STEP, STEP)
    return grid, np.clip(np.interp(grid, wavelength, response, left=0.0, right=0.0), 0.0, None)


def filter_centre(name: str) -> float:
    """Return the mean wavelength of a filter, Å."""
    wavelength, response = load_filter(name)
    return float((wavelength * response).sum() / response.sum())


def wavelength_of(given: str | float) -> float:
    """Return a filter's mean wavelength, Å, given its name in `WAVELENGTHS` or speclite, a file, or a number.

    Raise `InputError` if the filter is unknown, or the wavelength implausible.

    Examples
    --------
    >>> wavelength_of("sdss2010-g"), wavelength_of(4718)
    (4718.0, 4718.0)
    """
    camera, _, name = str(given).rpartition("-")
    known = WAVELENGTHS.get(camera, {})
    if name in known:
        return float(known[name])
    try:
        value = float(given)
    except ValueError:
        return filter_centre(str(given))
    if not _PLAUSIBLE[0] < value < _PLAUSIBLE[1]:
        raise InputError(f"filter {given!r}: a mean wavelength in Å lies between 2000 and 25000")
    return value


def require_own_bands(bands: Sequence[str], filters: Sequence[str], wavelengths: Sequence[float]) -> None:
    """Raise an error if filters do not match their bands, e.g. in order; bands of unusual names match any.

    A filter's mean wavelength may neither be far from the usual one of its band, nor closer to that of
    another band.

    Examples
    --------
    >>> require_own_bands(["g", "r"], ["sdss2010-g", "sdss2010-r"], [4718, 6187])
    """
    usual = {
        band: np.log([known[band] for known in WAVELENGTHS.values() if band in known]).mean()
        for band in bands
        if any(band in known for known in WAVELENGTHS.values())
    }
    for band, name, wavelength in zip(bands, filters, wavelengths, strict=True):
        distance = {other: abs(np.log(wavelength) - value) for other, value in usual.items()}
        if band in usual and (
            distance[band] > np.log(FARTHEST) or distance[band] > min(distance.values()) + 0.03
        ):
            raise InputError(
                f"filters: {name!r}, at {wavelength:.0f} Å, is given for band {band}, which is near "
                f"{np.exp(usual[band]):.0f} Å; give one for each of {', '.join(bands)} in this order"
            )


def filter_at(wavelength: float, band: str) -> str | None:
    """Return the name of `speclite`'s filter of a band with this mean wavelength, Å, or None.

    Examples
    --------
    >>> filter_at(6187.0, "r"), filter_at(6300.0, "r")
    ('sdss2010-r', None)
    """
    return next(
        (
            f"{camera}-{name}"
            for camera, known in WAVELENGTHS.items()
            for name, value in known.items()
            if camera not in _NOT_IN_SPECLITE and name.startswith(band) and abs(value - wavelength) < 1
        ),
        None,
    )


def wavelength_in_header(header: Mapping[str, Any], band: str) -> float | None:
    """Return the mean wavelength, Å, of the filter in an image's header, or None if it is unknown.

    It is taken from a card (where 0 means unknown), or inferred from the camera and the filter's name.
    """
    for key in _CARDS:
        value = header.get(key)
        if isinstance(value, (int, float)):
            return float(value) if _PLAUSIBLE[0] < value < _PLAUSIBLE[1] else None
    words = " ".join(str(header.get(key, "")) for key in _WHERE).upper()
    camera = next((name for name, pattern in _CAMERAS if re.search(pattern, words)), None)
    if camera is None:
        return None
    known, filter_name = WAVELENGTHS[camera], str(header.get("FILTER", "")).upper()
    if camera == "cfht_megacam" and band == "u" and ("9301" in filter_name or "*" in filter_name):
        band = "ustar"
    if camera == "hsc2017" and re.search(rf"\b{re.escape(band)}2\b", filter_name, re.IGNORECASE):
        band = f"{band}2"
    value = known.get(band, known.get(band.swapcase()))
    return None if value is None else float(value)
