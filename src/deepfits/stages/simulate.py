"""Stage `simulate`: simulated coadds with weights, and the true properties of every object."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from deepfits.config import NAMES_FILES, Range
from deepfits.errors import InputError
from deepfits.files import named_contents, write_json, writing
from deepfits.photometry import ab_magnitude
from deepfits.processes import available_cores, torch_threads
from deepfits.progress import Task
from deepfits.sky.population import DEFAULT_LAWS, PopulationLaws
from deepfits.sky.surveys import SkySurvey, find_survey
from deepfits.stages.stage import INPUT, NEUTRAL, Common, claim, stage

if TYPE_CHECKING:
    from deepfits.sky.from_catalogue import CatalogueObjects
    from deepfits.sky.layouts import Writer
    from deepfits.sky.scene import Scene

FORMAT = 3
CERTAIN = 4  # quality flag of a secure redshift, as in VVDS, zCOSMOS and many other surveys
_GIVEN = 7  # random stream for properties that a user's table lacks


@dataclass(frozen=True)
class SimulateConfig(Common):
    """Parameters of `simulate`."""

    out: str | Path
    """Output directory."""
    _: KW_ONLY
    survey: Annotated[str | Path, NAMES_FILES] = "clauds-hsc"
    """Survey to imitate: ``clauds-hsc``, ``sdss-like``, ``rubin-like``, or a TOML file with your own (see
    docs/how-to/simulated-sky.md)."""
    size: Annotated[int, Range(ge=64, le=30_000)] = 2000
    """Side of a patch in pixels."""
    num_patches: Annotated[int, Range(ge=1, le=1000)] = 1
    """Number of patches, between which seeing and depth vary. With a catalogue it is raised if that is needed
    to hold every row."""
    seed: Annotated[int, Range(ge=0, lt=2**31)] = 1
    """Seed of all random draws. The same seed gives the same sky, whatever `workers` is."""
    catalogue: Annotated[str | Path | None, INPUT] = None
    """A table (Parquet, FITS or CSV) of objects to draw instead of the built-in population. Required are AB
    magnitudes ``mag_<band>``; used if present are ``z_spec``, ``z_spec_flag``, ``kind`` (galaxy, star or
    quasar), ``object_id``, ``half_light_radius_arcsec``, ``axis_ratio``, ``angle_deg`` and
    ``bulge_fraction``."""
    columns: Sequence[str] | None = None
    """Names of these columns in your table, where they differ: ``["mag_u=u_photz", "z_spec=zpec"]``."""
    where: Sequence[str] | None = None
    """Draw only the rows of the table that satisfy these conditions: ``["cc >= 3"]``."""
    population: Annotated[str | Path | None, INPUT] = None
    """A TOML file with constants of the built-in population to change, such as ``redshift_scale = 1.2``; see
    `deepfits.sky.population.PopulationLaws`."""
    layout: Literal["plain", "hsc"] = "plain"
    """File layout: ``"plain"``, or ``"hsc"`` for that of the HSC pipeline."""
    defects: bool = True
    """Add saturated stars, bad columns, gaps and satellite trails."""
    exposures: Annotated[int, Range(ge=0, le=100)] = 0
    """Number of exposures per band to write in addition to the coadds, as input for `stack`. They are
    dithered and rotated, each with its own seeing and zero point, and lie in ``exposures/<band>/``."""
    workers: Annotated[int | None, NEUTRAL, Range(ge=1, le=1024)] = None
    """Number of threads that draw in parallel; by default the number of cores."""
    device: Annotated[str, NEUTRAL] = "cpu"
    """PyTorch device for drawing: ``"cpu"``, ``"cuda"`` or ``"auto"``."""


@stage(SimulateConfig, result="sky")
def simulate(config: SimulateConfig) -> Path:
    """Simulate a sky: coadds with weights and WCS, and a table of the true properties of every object.

    Galaxy population, spectra and noise follow published relations, so that redshifts are about as hard to
    predict as in a real survey of this depth.

    Writes ``sky.json``, ``truth.parquet``, and ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits`` (the
    inverse variance of each pixel, in the unit of the coadd; 0 for bad pixels). Several patches are written
    to subdirectories ``patch-00``, ``patch-01`` and so on. Run the same command again to make what is
    missing.

    Raises
    ------
    InputError
        A value out of range, a table without the required columns, or another sky in `out`.

    Examples
    --------
    `deepfits simulate sky --size 1000`

    Exposures to stack: `deepfits simulate raw --size 600 --exposures 4`

    Your own galaxies: `deepfits simulate sky --catalogue mine.fits --columns mag_u=u_photz,z_spec=zpec`
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deepfits.sky.layouts import name_in_layout, open_patch, patch_files
    from deepfits.sky.scene import make_scene, strips

    survey = find_survey(config.survey)
    objects, num_patches = None, config.num_patches
    if config.catalogue is not None:
        if config.population is not None:
            raise InputError(
                "population changes the built-in population, which a catalogue replaces: give only one of "
                "them"
            )
        objects, num_patches = _read_catalogue(config, survey)
    elif config.columns or config.where:
        raise InputError("columns and where apply to a table: give catalogue too")
    laws = DEFAULT_LAWS if config.population is None else PopulationLaws.read(config.population)
    resolved = {"survey": named_contents(survey.to_json()), "num_patches": num_patches, "laws": asdict(laws)}
    size, exposures, alone = config.size, config.exposures, num_patches == 1
    tables = []
    each = len(strips(size)) * (1 + exposures * len(survey.bands))
    with (
        claim(config, name="simulate", version=FORMAT, settings=resolved) as results,
        config.progress("simulate", total=num_patches * each, unit="strips") as task,
        torch_threads(1),  # per worker: threads of threads would compete for the cores
    ):
        out = results.path
        write_json(out / "sky.json", _description(results.content, objects))
        for patch in range(num_patches):
            files = patch_files(out, config.layout, survey.bands, patch, alone=alone)
            table = _objects(config, survey, patch, objects, laws)
            scene = make_scene(
                survey, size, config.seed, patch, table, defects=config.defects, knows_filters=objects is None
            )
            tables.append(_truth(table, scene, name_in_layout(config.layout, patch)))
            if all(path.exists() for path in files):
                task.advance(len(strips(size)), "is there")
            else:
                with open_patch(out, config.layout, scene, alone=alone) as write:
                    _draw(scene, write, config, task)
            _draw_exposures(out, scene, table, config, task)
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        with writing(out / "truth.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary)
    return out


def _description(record: dict[str, Any], objects: CatalogueObjects | None) -> dict[str, Any]:
    """Return the description of a simulated sky, for ``sky.json``."""
    catalogue = None
    if objects is not None:
        used = {name: record["settings"][name] for name in ("columns", "where")}
        counts = {"objects": len(objects), "left_out": objects.left_out}
        catalogue = {"contents": record["inputs"]["catalogue"], **used, **counts}
    chosen = {k: v for k, v in record["settings"].items() if k not in ("columns", "where")}
    return {"schema_version": FORMAT, **chosen, "catalogue": catalogue}


def _read_catalogue(config: SimulateConfig, survey: SkySurvey) -> tuple[CatalogueObjects, int]:
    """Read a user's table; return its objects and the number of patches that they need."""
    from deepfits.sky.from_catalogue import from_table, objects_per_patch, parse_columns, resolve_columns
    from deepfits.tables import matches_conditions, read

    path, size, where = Path(str(config.catalogue)), config.size, list(config.where or ())
    mapping = parse_columns(config.columns)
    magnitudes = [mapping.get(name, name) for name in (f"mag_{band}" for band in survey.names)]
    table = read(path, what="catalogue", wanted=magnitudes)
    keep = matches_conditions(table.columns, where, path)
    if not len(keep):
        raise InputError(f"{path}: the catalogue has no rows")
    if not keep.any():
        raise InputError(f"{path}: no row satisfies {' and '.join(where)}")
    columns = {name: column[keep] for name, column in table.columns.items()}
    names = resolve_columns(list(columns), survey, mapping, path)
    rng = np.random.default_rng((config.seed, 0, _GIVEN))
    objects = from_table(columns, names, survey, rng, path, table.units)
    per_patch = objects_per_patch(size)
    if per_patch == 0:
        raise InputError(f"size {size} is too small for the objects of a catalogue; choose 200 or more")
    return objects, max(config.num_patches, -(-len(objects) // per_patch))


def _objects(
    config: SimulateConfig,
    survey: SkySurvey,
    patch: int,
    objects: CatalogueObjects | None,
    laws: PopulationLaws,
) -> dict[str, np.ndarray]:
    from deepfits.sky.from_catalogue import grid_positions, objects_per_patch
    from deepfits.sky.scene import draw_objects

    if objects is None:
        return draw_objects(survey, config.size, config.seed, patch, laws)
    per_patch = objects_per_patch(config.size)
    part = slice(patch * per_patch, (patch + 1) * per_patch)
    table = {name: column[part] for name, column in objects.table.items()}
    rng = np.random.default_rng((config.seed, patch, _GIVEN, 1))
    table["x"], table["y"] = grid_positions(len(table["kind"]), config.size, rng)
    return table


def _draw(scene: Scene, write: Writer, config: SimulateConfig, task: Task) -> None:
    """Draw and write all strips of a scene in parallel."""
    from deepfits.sky.scene import draw_strip, strips

    def draw(rows: tuple[int, int]) -> None:
        write(rows[0], *draw_strip(scene, rows, config.device))

    with ThreadPoolExecutor(config.workers or available_cores()) as pool:
        for _ in pool.map(draw, strips(scene.size)):  # after an error, those not begun are cancelled
            task.advance(1)


def _draw_exposures(
    out: Path, scene: Scene, table: dict[str, np.ndarray], config: SimulateConfig, task: Task
) -> None:
    from deepfits.sky.exposures import exposure_paths, make_exposure, open_exposure
    from deepfits.sky.scene import strips

    number = config.exposures
    for index in range(len(scene.survey.bands)):
        for exposure in range(number):
            paths = exposure_paths(out, scene, index, exposure)
            if all(path.exists() for path in paths):
                task.advance(len(strips(scene.size)), "is there")
                continue
            image = make_exposure(scene, table, index, exposure, number)
            with open_exposure(paths, image) as write:
                _draw(image, write, config, task)


def _truth(table: dict[str, np.ndarray], scene: Scene, patch: str) -> dict[str, np.ndarray]:
    """Return the columns of ``truth.parquet`` for the objects whose centre lies inside the patch."""
    x, y = table["x"], table["y"]
    is_inside = (x >= -0.5) & (x < scene.size - 0.5) & (y >= -0.5) & (y < scene.size - 0.5)
    inside = {name: column[is_inside] for name, column in table.items()}
    number = int(is_inside.sum())
    inside["ra"], inside["dec"] = scene.wcs.all_pix2world(inside["x"], inside["y"], 0)
    inside["patch"] = np.full(number, patch)
    inside.setdefault("z_spec_flag", np.full(number, CERTAIN, dtype=float))
    magnitudes = {f"mag_{band}": f for band, f in zip(scene.survey.names, inside["flux"].T, strict=True)}
    inside |= {name: ab_magnitude(flux) for name, flux in magnitudes.items()}
    names = (
        "object_id", "ra", "dec", "x", "y", "patch", "kind", "z_spec", "z_spec_flag", *magnitudes,
        "half_light_radius_arcsec", "disc_radius_arcsec", "bulge_radius_arcsec", "bulge_fraction",
        "disc_ratio", "bulge_ratio", "angle", "type", "template", "ebv", "mag_absolute_r",
    )  # fmt: skip
    return {name: inside[name] for name in names}
