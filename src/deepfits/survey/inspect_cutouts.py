"""Inspection of cutouts and catalogues before use; see `deepfits.survey.inspection` for images.

Shapes: N objects, B bands, H, W pixels.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfits.errors import InputError, listed
from deepfits.files import split_table_path
from deepfits.hdf5 import opened
from deepfits.photometry import NJY_ZERO_POINT, aperture_flux, circular_aperture
from deepfits.splits import evenly_spaced
from deepfits.survey.catalogue import read_catalogue
from deepfits.survey.cutout_description import read_description
from deepfits.survey.fitsfile import has_image, hdu_number, is_fits_name, peek_headers
from deepfits.survey.foreign_cutouts import ForeignCutouts, to_shape
from deepfits.survey.inspection import Findings, Row, colour_warnings, depth_warning, empty_warning
from deepfits.survey.noise import MAX_RIM_SIGMAS, clipped_statistics, depth_of, rim_pixels
from deepfits.survey.readers import open_cutouts
from deepfits.survey.remarks import describe
from deepfits.survey.store import CutoutStore
from deepfits.tables.reading import TEXT_ENDINGS
from deepfits.tables.values import HIGHEST_MEDIAN, is_no_value, is_redshift_name, list_values

SAMPLE = 400
APERTURE_PIXELS = 3.0
CATALOGUES = (
    *(".parquet", ".pq", ".parq", ".feather", ".arrow", ".ipc", ".json", ".jsonl", ".ndjson", ".vot"),
    *(".votable", ".xml", *(f".{e}" for e in TEXT_ENDINGS)),
)
PACKED = (".gz", ".bz2", ".xz", ".zst")
_PARQUET = (".parquet", ".pq", ".parq")
_OF_A_DATASET = re.compile(r"(?!shard-).*\.(parquet|pq|parq)|[^=]+=[^=]+")
# Noise at the rims of cutouts, including neighbours, relative to that implied by the weights.
PLAUSIBLE_RATIO = (0.6, 2.5)
MAX_OFFSET_PIXELS = 2.0


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """A sample of cutouts, ``(N, B, H, W)``, nJy and nJy⁻²."""

    name: str
    bands: tuple[str, ...]
    scale: float
    fwhm: tuple[float, ...]
    zero_points: tuple[float, ...]
    weights: str
    image: np.ndarray
    weight: np.ndarray


def is_cutouts(path: Path) -> bool:
    """Return whether a path is a description of cutouts or a store of cutouts."""
    return path.suffix == ".toml" or (path / "store.json").is_file()


def is_catalogue(path: Path) -> bool:
    """Return whether a path is a catalogue: by its name, or a file with tables but no image."""
    path, selection = split_table_path(path)
    if selection is not None:  # tile.fits[1] and tile.fits[SCI] are images
        return not (selection.isdigit() or (is_fits_name(path) and _names_an_image(path, selection)))
    if path.is_dir():
        entries = [entry.name for entry in path.iterdir() if not entry.name.startswith((".", "_"))]
        is_hats = bool({"collection.properties", "hats.properties"} & set(entries))
        is_dataset = bool(entries) and all(map(_OF_A_DATASET.fullmatch, entries))
        return is_hats or (is_dataset and any(file.suffix in _PARQUET for file in path.rglob("*")))
    name = path.name.lower()
    if name.endswith(CATALOGUES) or (name.endswith(PACKED) and name.rpartition(".")[0].endswith(CATALOGUES)):
        return True
    if path.is_file() and name.endswith((".h5", ".hdf5", ".hdf")):
        with opened(path) as file:
            shapes: list[int] = []
            file.visititems(lambda _, member: shapes.append(getattr(member, "ndim", 0)))
        return 0 < max(shapes, default=0) <= 2
    try:
        headers = peek_headers(path) if path.is_file() and is_fits_name(path) else []
    except InputError:  # a damaged file; reported when inspected as an image
        return False
    return not any(map(has_image, headers)) and any("TFIELDS" in header for header in headers)


def _names_an_image(path: Path, hdu: str) -> bool:
    """Return whether an HDU's name is that of an image, or may be a misspelt one: the file has no tables."""
    try:
        hdu_number(path, hdu)
    except InputError:
        return not any(header.get("TFIELDS") and "ZIMAGE" not in header for header in peek_headers(path))
    return True


def inspect_cutouts(path: Path, findings: Findings) -> None:
    """Inspect a sample of the cutouts that a TOML file describes or a store holds."""
    try:
        if path.is_dir():
            _inspect(_sample_store(path, findings), findings)
        else:
            description = read_description(path)
            with open_cutouts(description) as cutouts:
                for text in cutouts.remarks:
                    findings.note(text, f"{path.name}: ")
                given = description.zero_point
                per_band = given if isinstance(given, tuple) else (given,) * len(cutouts.bands)
                zero_points = tuple(math.nan if p is None else float(p) for p in per_band)
                _inspect(_sample_foreign(path.stem, cutouts, zero_points), findings)
    except InputError as error:
        findings.refuse(error)


def _sample_store(path: Path, findings: Findings) -> _Sample:
    store = CutoutStore(path)
    rows = evenly_spaced(len(store), SAMPLE)
    cutouts = store.take(rows)
    findings.remarks.append(f"{path.name}: a store of {len(store)} objects; {len(rows)} inspected")
    bands = store.info.bands
    return _Sample(
        name=path.name,
        bands=bands,
        scale=store.info.pixel_scale_arcsec,
        fwhm=store.info.fwhm_arcsec or (math.nan,) * len(bands),
        zero_points=(NJY_ZERO_POINT,) * len(bands),
        weights="store",
        image=cutouts.image,
        weight=cutouts.weight,
    )


def _sample_foreign(name: str, cutouts: ForeignCutouts, zero_points: tuple[float, ...]) -> _Sample:
    starts = np.unique(np.linspace(0, max(cutouts.number - SAMPLE // 4, 0), 4).astype(int))
    parts = [cutouts.read(int(s), min(int(s) + SAMPLE // 4, cutouts.number), None) for s in starts]
    shape = np.min([part[0].shape[-2:] for part in parts], axis=0)
    image, weight = (np.concatenate([to_shape(part[i], *shape) for part in parts]) for i in range(2))
    return _Sample(
        name=name,
        bands=cutouts.bands,
        scale=cutouts.pixel_scale_arcsec,
        fwhm=cutouts.fwhm_arcsec or (math.nan,) * len(cutouts.bands),
        zero_points=zero_points,
        weights=("weight" if cutouts.may_be_relative else "given") if cutouts.has_weights else "measured",
        image=image,
        weight=weight,
    )


def _inspect(sample: _Sample, findings: Findings) -> None:
    height, width = sample.image.shape[-2:]
    side = min(height, width)
    image, weight = (to_shape(pixels, side, side) for pixels in (sample.image, sample.weight))
    flux, error = aperture_flux(image, weight, circular_aperture(side, APERTURE_PIXELS))
    suspicious: dict[str, list[str]] = {}
    for index, band in enumerate(sample.bands):
        weights = sample.weight[:, index]
        faint = flux[:, index].argsort()[: -(-len(flux) // 4)]  # bright objects reach the rims themselves
        sigma = clipped_statistics(rim_pixels(sample.image[:, index], weights)[0])[1]
        level = clipped_statistics(rim_pixels(sample.image[faint, index], weights[faint])[0])[0]
        row = Row(
            field=sample.name,
            band=band,
            shape=(height, width),
            pixel_scale_arcsec=sample.scale,
            zero_point=sample.zero_points[index],
            fwhm_arcsec=sample.fwhm[index],
            depth=depth_of(sigma, sample.scale) if sigma > 0 and sample.scale > 0 else math.nan,
            noise_njy=sigma,
            fraction_empty=float((weights <= 0).mean()),
            weights=sample.weights,
        )
        findings.rows.append(row)
        off_centre = _centre_warning(sample.image[:, index], flux[:, index], error[:, index])
        suspicious[band] = _warnings(row, level, weights) + off_centre
    findings.warnings += [f"{sample.name} {line}" for line in describe(suspicious)]
    columns = {f"flux_aper_{b}": flux[:, i] for i, b in enumerate(sample.bands)}
    columns |= {f"flux_aper_err_{b}": error[:, i] for i, b in enumerate(sample.bands)}
    findings.warnings += [f"{sample.name}: {w}" for w in colour_warnings(columns, sample.bands)]


def _warnings(row: Row, level: float, weight: np.ndarray) -> list[str]:
    if not (row.noise_njy > 0):
        return ["no data in the inspected cutouts; is the polarity of mask or weight right?"]
    out = depth_warning(row)
    if abs(level) > MAX_RIM_SIGMAS * row.noise_njy:
        out.append(f"the sky lies at {level / row.noise_njy:.1f} σ; subtract it first")
    out += empty_warning(row, "mask_nonzero_is")
    ratio = row.noise_njy * float(np.median(weight[weight > 0])) ** 0.5
    if not PLAUSIBLE_RATIO[0] < ratio < PLAUSIBLE_RATIO[1]:
        out.append(
            f"the noise at the rims is {ratio:.3g} times that implied by the weights; check weight_is, unit "
            "and polarity"
        )
    return out


def _centre_warning(image: np.ndarray, flux: np.ndarray, error: np.ndarray) -> list[str]:
    """Take the median of the brighter cutouts of a band, and warn if it does not peak at the centre."""
    with np.errstate(invalid="ignore", divide="ignore"):
        clear = flux / error > 10
    if clear.sum() < 20:
        return []
    typical = np.median(image[clear] / flux[clear, None, None], axis=0)
    y, x = np.unravel_index(int(np.argmax(typical)), typical.shape)
    dx, dy = x - (typical.shape[1] - 1) / 2, y - (typical.shape[0] - 1) / 2
    text = f"the objects lie ({dx:+.1f}, {dy:+.1f}) pixels off the centre; centre the cutouts on the objects"
    return [text] if math.hypot(dx, dy) > MAX_OFFSET_PIXELS else []


def inspect_catalogue(path: Path, findings: Findings) -> None:
    """Describe the content of a catalogue, and what in it cannot be used."""
    try:
        columns = read_catalogue(path)
    except InputError as error:
        findings.refuse(error)
        return
    number, places = len(columns["object_id"]), []
    for name in ("ra", "dec", "x", "y"):
        if name in columns:
            values = np.asarray(columns[name], float)
            good = np.isfinite(values)
            if good.any():
                places.append(f"{name} {values[good].min():.4f} to {values[good].max():.4f}")
            if not good.all() and name in ("x", "y"):  # `read_catalogue` warns of ra and dec
                findings.warnings.append(
                    f"{path.name}: {int((~good).sum())} objects without a usable {name}; they will lie on no "
                    "image"
                )
    findings.remarks.append(f"{path.name}: a catalogue of {number} objects, {', '.join(places)}")
    findings.remarks.append(f"{path.name}: columns {listed(list(columns), 12)}")
    for name in filter(is_redshift_name, columns):
        values = columns[name]
        finite = values[np.isfinite(values)] if values.dtype.kind in "iuf" else np.zeros(0)
        is_code = is_no_value(finite.astype(float), is_redshift=True)
        codes, others = finite[is_code], finite[~is_code]
        is_magnitude = len(others) > 0 and np.median(others) > HIGHEST_MEDIAN
        if len(codes) and not is_magnitude:
            findings.remarks.append(
                f"{path.name}: {len(codes)} of {number} {name} are codes for no redshift: "
                f"{list_values(codes)}; they are not used as labels"
            )
    ra = columns["ra"][np.isfinite(columns["ra"])] if "ra" in columns else np.zeros(0)
    if not len(ra):
        findings.remarks.append(f"{path.name}: only x and y, taken as 0-based pixels of the reference band")
    elif ra.max() <= 2 * math.pi:
        findings.warnings.append(
            f"{path.name}: ra is at most 2π, and taken as degrees; if it is in radians or hours, name the "
            "columns ra_rad and dec_rad, or ra_hours"
        )
    elif ra.max() <= 24:
        findings.remarks.append(f"{path.name}: ra is at most 24; if it is in hours, name the column ra_hours")
