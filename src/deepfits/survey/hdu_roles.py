"""What the HDUs of a FITS file hold, going by their names: images of the sky, weights, masks, other maps."""

from __future__ import annotations

from typing import Any

from astropy.io import fits

from deepfits.survey.fitsfile import image_hdus

ROLES = {
    "mask": ("MASK", "MSK", "DQ", "BPM", "FLAG", "FLAGS", "MASKBITS"),
    "variance": ("VARIANCE", "VAR"),
    "ivar": ("IVAR", "INVVAR", "IVM"),
    "rms": ("ERR", "ERROR", "RMS", "SIGMA", "STD", "STDDEV", "UNC", "UNCERT", "UNCERTAINTY", "NOISE"),
    "weight": ("WEIGHT", "WHT", "WGT"),
}
# Planes that are not images of the sky either: contexts, exposures, distortions, parts of a variance.
_OTHER = (
    *("CON", "CTX", "EXP", "NEXP", "NIM", "HITS", "WCSDVARR", "D2IMARR"),
    *("POISSON", "RNOISE", "FLAT", "PSF"),
)
# A second image is one of the sky only if it is not much smaller than the first.
LEAST_AREA = 0.5


def role_of(name: str) -> str | None:
    """Determine from an HDU's name what it holds: one of `ROLES`, ``other``, or None for an image.

    Examples
    --------
    >>> role_of("SCI"), role_of("WHT"), role_of("VAR_POISSON")
    (None, 'weight', 'other')
    """
    words = name.upper().replace("-", "_").split("_")
    if any(w in _OTHER for w in words):
        return "other"
    return next((role for role, names in ROLES.items() if any(w in names for w in words)), None)


def number_of(hdus: fits.HDUList, hdu: Any) -> int:
    """Return the place of an HDU in its file."""
    return next(i for i, other in enumerate(hdus) if other is hdu)


def _area(hdu: Any) -> int:
    return int(hdu.shape[-2]) * int(hdu.shape[-1])


def sky_images(hdus: fits.HDUList) -> list[int]:
    """Return the numbers of the HDUs that hold images of the sky.

    The first image without a role, and those after it that say where on the sky they are and are of its size:
    the CCDs of a camera, or bands.
    """
    plain = [n for n in image_hdus(hdus) if role_of(hdus[n].name) is None]
    if not plain:
        return []
    area = _area(hdus[plain[0]])
    return [plain[0]] + [
        n for n in plain[1:] if "CTYPE1" in hdus[n].header and _area(hdus[n]) >= LEAST_AREA * area
    ]
