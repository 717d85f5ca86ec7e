"""A patch of simulated sky: its objects, and its pixels strip by strip.

Shapes: N objects, B bands, H rows of a strip, W columns. Positions are in pixels of the patch.

Random numbers depend only on the seed, the patch and their purpose, so that strips may be made in any order
and by any number of workers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS

from deepfits.photometry import flux_of_magnitude
from deepfits.sky.clustering import clustered_positions
from deepfits.sky.defects import Defects, add_defects, draw_defects
from deepfits.sky.drawing import Shapes, draw_into, stamp_sizes
from deepfits.sky.noise import aperture_factor, kernel_weight, pixel_sigma, unit_noise
from deepfits.sky.points import draw_quasars, draw_stars, quasar_counts, star_counts
from deepfits.sky.population import BRIGHTEST, PopulationLaws, Table, cumulative_counts, draw_galaxies
from deepfits.sky.surveys import SkySurvey

STRIP_ROWS = 256
MARGIN = 24
"""Objects are also placed up to this many pixels beyond the borders: their flux reaches into the patch."""
LOST_SIGMA = 0.03  # stamps may cut off surface brightness below this fraction of the noise per pixel
IDS_PER_PATCH = 10_000_000

FIELD_CENTRE = (150.1, 2.2)  # centre of the simulated field, RA and Dec in degrees, near the COSMOS field
PATCH_GAP = 100  # gap between patches in pixels; each patch has its own objects

_GALAXIES, _STARS, _QUASARS, _POSITIONS, _CONDITIONS, _NOISE, _DEFECTS = range(7)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Observing conditions of a patch, per band."""

    fwhm_arcsec: tuple[float, ...]
    depth: tuple[float, ...]
    sigma: tuple[float, ...]  # noise of a pixel of empty sky, nJy
    sky: tuple[float, ...]  # brightness of the night sky, nJy per pixel
    kernel: float  # smoothing weight of the noise, from `kernel_weight`


def patch_name(patch: int) -> str:
    """Return the name of a patch."""
    return f"patch-{patch:02d}"


def draw_conditions(survey: SkySurvey, seed: int, patch: int) -> Conditions:
    """Draw seeing and depth of a patch; the first patch has the nominal values of the survey."""
    rng = np.random.default_rng((seed, patch, _CONDITIONS))
    number = len(survey.bands)
    wider = survey.seeing_scatter * rng.normal(size=number) * (patch > 0)
    deeper = survey.depth_scatter * rng.normal(size=number) * (patch > 0)
    depth = tuple(float(b.depth + d) for b, d in zip(survey.bands, deeper, strict=True))
    kernel = kernel_weight(survey.noise_correlation, survey.depth_radius)
    factor = aperture_factor(kernel, survey.depth_radius)
    return Conditions(
        fwhm_arcsec=tuple(float(b.fwhm_arcsec * np.exp(w)) for b, w in zip(survey.bands, wider, strict=True)),
        depth=depth,
        sigma=tuple(pixel_sigma(d, survey.depth_radius, factor) for d in depth),
        sky=tuple(float(flux_of_magnitude(b.sky_mag) * survey.pixel_scale_arcsec**2) for b in survey.bands),
        kernel=kernel,
    )


def draw_objects(
    survey: SkySurvey, size: int, seed: int, patch: int, laws: PopulationLaws | None = None
) -> Table:
    """Draw the galaxies, stars and quasars of a patch with a side of `size` pixels.

    Columns are those of `draw_galaxies`, ``kind``, ``x``, ``y`` and ``object_id``. For point sources sizes
    and bulge fluxes are 0, ``type`` is −1, and physical properties of galaxies are NaN.
    """
    filters = tuple(band.filter for band in survey.bands)
    area = ((size + 2 * MARGIN) * survey.pixel_scale_arcsec / 60) ** 2
    limit = survey.mag_limit

    def rng(what: int) -> np.random.Generator:
        return np.random.default_rng((seed, patch, what))

    galaxies_per = float(cumulative_counts(limit) - cumulative_counts(BRIGHTEST))
    generator = rng(_GALAXIES)
    galaxies = draw_galaxies(generator.poisson(area * galaxies_per), limit, filters, generator, laws)
    generator = rng(_STARS)
    stars = draw_stars(generator.poisson(area * star_counts(limit)), limit, filters, generator)
    generator = rng(_QUASARS)
    quasars = draw_quasars(generator.poisson(area * quasar_counts(limit)), limit, filters, generator)
    stars["z_spec"] = np.zeros(len(stars["mag_count"]))
    table = join({"galaxy": galaxies, "star": stars, "quasar": quasars})
    number = len(table["kind"])
    generator = rng(_POSITIONS)
    low, high = -0.5 - MARGIN, size - 0.5 + MARGIN
    x, y = clustered_positions(galaxies["z_spec"], low, high, survey.pixel_scale_arcsec, generator)
    points = generator.uniform(low, high, (2, number - len(x)))
    table["x"], table["y"] = np.concatenate([x, points[0]]), np.concatenate([y, points[1]])
    table["object_id"] = patch * IDS_PER_PATCH + np.arange(number, dtype=np.int64)
    return table


_POINT_DEFAULTS = {
    "half_light_radius_arcsec": 0.0, "disc_radius_arcsec": 0.0, "bulge_radius_arcsec": 0.0, "angle": 0.0,
    "bulge_fraction": 0.0, "bulge_flux": 0.0, "disc_ratio": 1.0, "bulge_ratio": 1.0, "type": -1,
}  # fmt: skip


def join(parts: dict[str, Table]) -> Table:
    """Concatenate galaxies, stars and quasars, with their ``kind``."""
    numbers = {kind: len(part["mag_count"]) for kind, part in parts.items()}
    out: Table = {}
    for name, like in parts["galaxy"].items():
        empty = _POINT_DEFAULTS.get(name, np.nan)
        columns = [
            part[name] if name in part else np.full((numbers[kind], *like.shape[1:]), empty)
            for kind, part in parts.items()
        ]
        out[name] = np.concatenate(columns)
    out["type"] = out["type"].astype(np.int64)
    out["kind"] = np.concatenate([np.full(number, kind) for kind, number in numbers.items()])
    return out


def to_shapes(table: Table, pixel_scale: float) -> Shapes:
    """Convert a table of objects to `Shapes`; point sources are discs of radius 0."""
    return Shapes(
        x=table["x"],
        y=table["y"],
        disc_flux=table["flux"] - table["bulge_flux"],
        bulge_flux=table["bulge_flux"],
        disc_radius=table["disc_radius_arcsec"] / pixel_scale,
        bulge_radius=table["bulge_radius_arcsec"] / pixel_scale,
        disc_ratio=table["disc_ratio"],
        bulge_ratio=table["bulge_ratio"],
        angle=table["angle"],
    )


def patch_wcs(survey: SkySurvey, size: int, patch: int) -> Any:
    """Return the WCS of a patch with a side of `size` pixels.

    All patches share one tangent plane, on which they form rows of ten.
    """
    column, row = patch % 10, patch // 10
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = FIELD_CENTRE
    wcs.wcs.crpix = [(size + 1) / 2 - column * (size + PATCH_GAP), (size + 1) / 2 - row * (size + PATCH_GAP)]
    scale = survey.pixel_scale_arcsec / 3600
    wcs.wcs.cd = [[-scale, 0.0], [0.0, scale]]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    return wcs


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A patch, or an exposure of it, ready to be drawn."""

    survey: SkySurvey
    conditions: Conditions
    size: int  # side in pixels
    seed: int  # of the sky
    patch: int  # its number
    wcs: Any  # world coordinates, `astropy.wcs.WCS`
    shapes: Shapes  # the objects
    stamp_size: np.ndarray  # (N,): the sides of their stamps
    defects: Defects | None  # image defects; None for images without any
    noise_key: tuple[int, ...]  # seed of the noise
    # Whether fluxes were computed for the survey's filters; False for a user's magnitudes.
    knows_filters: bool = True

    @property
    def fwhm_pixels(self) -> tuple[float, ...]:
        """FWHM of the PSF in each band, pixels."""
        return tuple(w / self.survey.pixel_scale_arcsec for w in self.conditions.fwhm_arcsec)


def make_scene(
    survey: SkySurvey,
    size: int,
    seed: int,
    patch: int,
    table: Table,
    *,
    defects: bool = True,
    knows_filters: bool = True,
) -> Scene:
    """Set up a patch: draw its conditions and defects, and choose the stamp sizes."""
    conditions = draw_conditions(survey, seed, patch)
    shapes = to_shapes(table, survey.pixel_scale_arcsec)
    rng = np.random.default_rng((seed, patch, _DEFECTS))
    return Scene(
        survey=survey,
        conditions=conditions,
        size=size,
        seed=seed,
        patch=patch,
        wcs=patch_wcs(survey, size, patch),
        shapes=shapes,
        stamp_size=choose_stamps(shapes, survey, conditions),
        defects=draw_defects(len(survey.bands), size, rng) if defects else None,
        noise_key=(seed, patch, _NOISE),
        knows_filters=knows_filters,
    )


def choose_stamps(shapes: Shapes, survey: SkySurvey, conditions: Conditions) -> np.ndarray:
    """Return the sides of the objects' stamps, ``(N,)``; flux cut off by them is far below the noise."""
    fwhm = np.array(conditions.fwhm_arcsec) / survey.pixel_scale_arcsec
    return stamp_sizes(shapes, LOST_SIGMA * np.array(conditions.sigma), fwhm, survey.moffat_beta)


def strips(size: int) -> list[tuple[int, int]]:
    """Divide a patch into strips, each given by its first row and the row after its last."""
    return [(row, min(row + STRIP_ROWS, size)) for row in range(0, size, STRIP_ROWS)]


def draw_model(scene: Scene, rows: tuple[int, int], device: str = "cpu") -> np.ndarray:
    """Draw a strip without noise: ``(B, H, W)`` float32, nJy per pixel."""
    first, last = rows
    image = np.zeros((len(scene.survey.bands), last - first, scene.size), dtype=np.float32)
    half = scene.stamp_size // 2
    bottom = np.rint(scene.shapes.y) - half
    reaches = (bottom < last) & (bottom + scene.stamp_size > first)
    reaching = np.flatnonzero(reaches)
    draw_into(
        image,
        scene.shapes.take(reaching),
        scene.stamp_size[reaching],
        scene.fwhm_pixels,
        scene.survey.moffat_beta,
        first_row=first,
        device=device,
    )
    return image


def observe(scene: Scene, model: np.ndarray, rows: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Add the photon noise of sky and sources to a strip from `draw_model`.

    Returns image and true variance, ``(B, H, W)`` float32 in nJy and nJy².
    """
    image, variance = np.empty_like(model), np.empty_like(model)
    for band, flux in enumerate(model):
        noise = unit_noise((*scene.noise_key, band), rows, scene.size, scene.conditions.kernel)
        share = np.float32(1 / scene.conditions.sky[band])
        variance[band] = np.float32(scene.conditions.sigma[band] ** 2) * (1 + np.maximum(flux, 0) * share)
        image[band] = flux + noise * np.sqrt(variance[band])
    return image, variance


def draw_strip(
    scene: Scene, rows: tuple[int, int], device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a strip as it would be observed, with noise and defects.

    Returns image, variance and bits, ``(B, H, W)``: float32 nJy, float32 nJy², int32 of
    `deepfits.sky.defects.PLANES`.
    """
    model = draw_model(scene, rows, device)
    image, variance = observe(scene, model, rows)
    if scene.defects is None:
        return image, variance, np.zeros(image.shape, dtype=np.int32)
    bits = add_defects(
        image,
        model,
        rows,
        survey=scene.survey,
        sigma=np.array(scene.conditions.sigma),
        shapes=scene.shapes,
        defects=scene.defects,
    )
    return image, variance, bits
