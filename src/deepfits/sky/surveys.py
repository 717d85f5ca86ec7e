"""Properties of survey images: bands, depth, seeing, pixel scale, zero points.

Shapes: B bands. A survey is a TOML file with the keys of `SkySurvey`, or the name of one in `SURVEYS`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from deepfits.config import Range, Stored, check, read_toml
from deepfits.errors import InputError, nearest

SURVEYS = Path(__file__).parents[1] / "configs" / "surveys"  # those of the package, one file each
DEPTH_APERTURE_ARCSEC = 2.0  # diameter of the aperture in which depths are defined
_Magnitude = Annotated[float, Range(ge=-60, le=60)]


@dataclass(frozen=True, kw_only=True)
class SkyBand:
    """One band of a survey's coadds."""

    name: str  # used in file names and columns
    filter: str
    """A filter of `speclite`, such as ``hsc2017-i2``, or the path of a text file with two columns, wavelength
    in Å and transmission; paths in a TOML file are relative to that file."""
    depth: _Magnitude  # AB magnitude of five times the flux error in a 2″ aperture
    fwhm_arcsec: Annotated[float, Range(ge=0.05, le=20)]  # of the PSF
    zero_point: _Magnitude  # AB magnitude of one count in the files
    sky_mag: _Magnitude
    """Brightness of the night sky, AB magnitudes per square arcsecond, relative to which the photon noise of
    sources is computed."""
    saturation: _Magnitude  # AB magnitude at which the peak of a point source just saturates

    def __post_init__(self) -> None:
        check(self, where="band")
        if not self.name.isidentifier():
            raise InputError(f"band name {self.name!r}: use letters, digits and underscores")


@dataclass(frozen=True, kw_only=True)
class SkySurvey(Stored):
    """Image properties of a survey."""

    name: str  # appears in file headers too
    bands: tuple[SkyBand, ...]  # from blue to red
    pixel_scale_arcsec: Annotated[float, Range(ge=0.01, le=10)]
    # Exponent β of the Moffat (1969) PSF; 3 is typical from the ground.
    moffat_beta: Annotated[float, Range(ge=1.5, le=20)] = 3.0
    noise_correlation: Annotated[float, Range(ge=1, le=1.8)] = 1.2
    """Ratio of the noise in a 2″ aperture to that of independent pixels with the same variance; above 1 for
    resampled coadds."""
    mag_limit: Annotated[float, Range(ge=20, le=30)] = 28.0  # faintest i magnitude of simulated galaxies
    # Standard deviations between patches, of ln(fwhm) and of the depth in magnitudes.
    seeing_scatter: Annotated[float, Range(ge=0, le=0.5)] = 0.05
    depth_scatter: Annotated[float, Range(ge=0, le=1)] = 0.05

    def __post_init__(self) -> None:
        check(self, where="survey")
        names = [band.name for band in self.bands]
        if not names or len(set(names)) != len(names):
            raise InputError(
                f"survey {self.name!r} needs one or more bands with different names, not {names}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(band.name for band in self.bands)

    @property
    def depth_radius(self) -> float:
        """Radius of the aperture in which depths are defined, pixels."""
        return DEPTH_APERTURE_ARCSEC / 2 / self.pixel_scale_arcsec

    def to_toml(self) -> str:
        """Return the survey as the content of a TOML file, readable by `find_survey`."""
        content = self.to_json()
        bands = content.pop("bands")
        lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        for band in bands:
            lines += ["[[bands]]", *(f"{key} = {json.dumps(value)}" for key, value in band.items())]
        return "\n".join(lines) + "\n"


def find_survey(survey: str | Path) -> SkySurvey:
    """Return a survey given by name or by TOML file.

    Raise `InputError` if this is neither a known name nor a readable TOML file with the right keys.
    """
    known = {path.stem: path for path in SURVEYS.glob("*.toml")}
    path = known.get(str(survey), Path(survey))
    if path.suffix != ".toml":
        close = nearest(str(survey), known)
        raise InputError(f"survey {str(survey)!r} is unknown, and no .toml file; {close}")
    result = SkySurvey.from_json(read_toml(path, what="survey file"), path)
    files = [path.parent / band.filter for band in result.bands]
    bands = (
        replace(band, filter=str(file)) if file.is_file() else band
        for band, file in zip(result.bands, files, strict=True)
    )
    return replace(result, bands=tuple(bands))
