"""TOML descriptions of cutouts made by other software: their keys and valid values.

For example

    file = "cutouts.h5"            # .h5, .parquet or FITS: a directory of files, or one; .npz, .npy
    bands = ["g", "r", "i"]
    image = "images"
    weight = "ivar"
    mask = "mask"
    mask_nonzero_is = "bad"        # or bad_planes = [1, 4]
    zero_point = 27.0
    pixel_scale_arcsec = 0.168

``docs/how-to/survey-files.md`` describes every key; `Description` declares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from deepfits.config import Range, from_mapping, read_toml
from deepfits.errors import InputError
from deepfits.survey.bands import band_name, is_known_band, passband, sort_bands
from deepfits.survey.fitsfile import is_fits_name
from deepfits.survey.hdu_roles import meaning_of_mask, role_of

HDF5 = (".h5", ".hdf5", ".hdf", ".he5")
PARQUET = (".parquet", ".pq")
_Magnitude = Annotated[float, Range(ge=-100, le=100)]
_Arcseconds = Annotated[float, Range(gt=0, le=1e4)]


@dataclass(frozen=True, kw_only=True)
class Description:
    """Keys of the TOML file; see ``docs/how-to/survey-files.md``.

    The format ``multimodal-universe`` uses the names ``image_flux`` or ``image_array``, ``image_ivar``,
    ``image_mask``, ``image_band``, ``image_psf_fwhm`` and ``image_scale``; in Parquet files these are the
    parts of the nested column ``image``. PSFs are FWHMs in arcseconds, ``(N, B)``, images, ``(N, B, h, w)``,
    or one image per band, ``(B, h, w)``. Axes are ``NBHW`` (objects, bands, rows, columns) in any order;
    ``BHW`` for one object, ``NHW`` for one band.
    """

    file: str
    bands: tuple[str, ...] = ()
    absent_bands: tuple[str, ...] = ()
    format: Literal["arrays", "fits", "multimodal-universe"] = "arrays"
    image: str | int = "image"
    weight: str | int | None = None
    weight_is: Literal["ivar", "variance", "rms", "weight"] | None = None
    mask: str | int | None = None
    mask_nonzero_is: Literal["bad", "good"] | None = None
    bad_planes: tuple[str | int, ...] = ()
    zero_point: _Magnitude | tuple[_Magnitude, ...] | None = None
    pixel_scale_arcsec: _Arcseconds | None = None
    fwhm_arcsec: tuple[_Arcseconds, ...] = ()
    psf: str | None = None
    psf_scale_arcsec: _Arcseconds | None = None
    object_id: str | None = None
    columns: tuple[str, ...] | None = None
    axes: str = "NBHW"
    survey: str = ""
    where: Path = field(default_factory=Path, init=False)

    @property
    def path(self) -> Path:
        """File or directory of the cutouts."""
        return self.where.parent / self.file

    @property
    def is_fits(self) -> bool:
        """Whether the cutouts are FITS files."""
        is_directory = self.path.is_dir() and not self.parts
        return self.format == "fits" or is_directory or is_fits_name(self.path)

    @cached_property
    def parts(self) -> tuple[Path, ...]:
        """The HDF5 or else Parquet files in a directory that has no FITS files; empty for anything else."""
        if not self.path.is_dir() or any(map(is_fits_name, self.path.rglob("*"))):
            return ()
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        hdf5, parquet = (tuple(p for p in files if p.suffix.lower() in kind) for kind in (HDF5, PARQUET))
        return hdf5 or parquet

    @property
    def weight_role(self) -> str:
        """Meaning of the array or HDU `weight`: `weight_is`, else implied by its name, else ``ivar``."""
        role = role_of(str(self.weight).rpartition("/")[2])
        return self.weight_is or (role if role in ("variance", "rms") else "ivar")


def read_description(path: str | Path) -> Description:
    """Read and check a TOML description; errors are those of `from_mapping`, and that keys do not agree."""
    path = Path(path)
    out = from_mapping(Description, read_toml(path, what="description"), where=path)
    object.__setattr__(out, "where", path)
    if out.mask is not None and out.mask_nonzero_is is None and not out.bad_planes:
        meaning = meaning_of_mask(str(out.mask).rpartition("/")[2])
        object.__setattr__(out, "mask_nonzero_is", meaning)
    _check(out)
    return out


def _check(d: Description) -> None:
    if sorted(d.axes) not in (sorted("NBHW"), sorted("BHW"), sorted("NHW")):
        raise InputError(f"{d.where}: axes = {d.axes!r} must be the letters N B H W in the file's order")
    named = [band_name(b) for b in (*d.bands, *d.absent_bands)]
    if repeated := [b for b in named if named.count(b) > 1]:
        raise InputError(f"{d.where}: band {repeated[0]} is named twice (bands, absent_bands)")
    if d.fwhm_arcsec and d.bands and len(d.fwhm_arcsec) != len(d.bands):
        raise InputError(f"{d.where}: {len(d.fwhm_arcsec)} values of fwhm_arcsec for {len(d.bands)} bands")
    if d.psf is not None and d.is_fits:
        raise InputError(
            f"{d.where}: psf names an array; for FITS cutouts, leave it out, and call their PSFs "
            "OBJECT_BAND_psf.fits, or the HDUs PSF; or give --psf, or fwhm_arcsec"
        )
    if d.format != "multimodal-universe" and not d.is_fits:
        if not d.bands:
            raise InputError(f'{d.where}: give the bands, for example bands = ["g", "r"]')
        if d.pixel_scale_arcsec is None:
            raise InputError(f"{d.where}: give pixel_scale_arcsec")
    if d.zero_point is None and not d.is_fits:
        raise InputError(f"{d.where}: give zero_point (AB; 31.4 for nJy, 22.5 for nanomaggies, 23.9 for µJy)")


def zero_points(d: Description, num_bands: int) -> tuple[float, ...]:
    """Return the description's zero point for each band."""
    points = d.zero_point if isinstance(d.zero_point, tuple) else (d.zero_point,) * num_bands
    if len(points) != num_bands:
        raise InputError(f"{d.where}: {len(points)} zero points for {num_bands} bands")
    return tuple(float(p) for p in points if p is not None)


def store_bands(bands: tuple[str, ...], absent: tuple[str, ...]) -> tuple[str, ...]:
    """Return the bands of the store: by wavelength if those of the file are, else with absent ones last.

    Examples
    --------
    >>> store_bands(("g", "r"), ("u",)), store_bands(("r", "g"), ("u",))
    (('u', 'g', 'r'), ('r', 'g', 'u'))
    """
    return sort_bands((*bands, *absent)) if absent and sort_bands(bands) == bands else (*bands, *absent)


def compare_bands(stated: Sequence[str], given: Sequence[str], path: Path) -> str | None:
    """Return a warning if a file's own band names differ from the given ones, else None.

    Raise `InputError` if the file has the same bands in another order.
    """
    in_file, in_toml = (tuple(passband(name) for name in names) for names in (stated, given))
    if in_file == in_toml or len(in_file) != len(in_toml):
        return None
    listed, wanted = ", ".join(stated), ", ".join(given)
    if sorted(in_file) == sorted(in_toml):
        raise InputError(
            f"{path}: the file lists its bands as {listed}, in this order, but the description as {wanted}; "
            "correct the one that is wrong"
        )
    if not all(is_known_band(band_name(name)) for name in stated):
        return None
    return f"WARNING: the file calls its bands {listed}; they are taken as {wanted}, as given by 'bands'"
