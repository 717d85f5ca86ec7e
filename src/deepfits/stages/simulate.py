"""The stage `simulate`: a sky of our own, as coadds with weights and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import remove_leftovers, write_json, writing
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
CERTAIN = 4
"""The flag of a redshift beyond doubt, as VVDS, zCOSMOS and many others give it."""
_GIVEN = 7  # number of the random stream for what a user's table does not have


@dataclass(frozen=True)
class SimulateConfig(Common):
    """What `simulate` takes.

    Parameters
    ----------
    out
        Directory to write.
    survey
        Which survey to imitate: ``clauds-hsc``, ``sdss-like``, ``rubin-like``, or a TOML file (see the page
        on the simulated sky).
    size
        Side of a patch in pixels.
    num_patches
        How many patches; seeing and depth vary between them. With a catalogue, at least this many: as many as
        it takes to hold every row.
    seed
        The same seed gives the same sky, whatever `workers` is.
    catalogue
        A table (Parquet, FITS, CSV) of objects to draw instead of the built-in population: AB magnitudes
        ``mag_<band>``, and where there are ``z_spec``, ``z_spec_flag``, ``kind`` (galaxy, star, quasar),
        ``object_id``, ``half_light_radius_arcsec``, ``axis_ratio``, ``angle_deg``, ``bulge_fraction``.
    columns
        Where the table names its columns differently: ``["mag_u=u_photz", "z_spec=zpec"]``.
    where
        Draw the rows of the table that satisfy these: ``["cc >= 3"]``.
    population
        A TOML file with constants of the built-in population that are to be others, such as
        ``redshift_scale = 1.2``; see `deepfits.sky.population.PopulationLaws`.
    layout
        ``"plain"``, or ``"hsc"`` for files as the HSC pipeline writes them.
    defects
        Saturated stars, bad columns, gaps and satellites' trails.
    exposures
        Besides the coadds, this many exposures in each band, to try `stack` on: dithered, rotated, each with
        its own seeing and zero point, in ``exposures/<band>/``.
    workers
        Threads that draw at the same time; as many as there are cores by default.
    device
        Where PyTorch draws: ``"cpu"``, ``"cuda"``.
    """

    out: str | Path
    _: KW_ONLY
    survey: str | Path = "clauds-hsc"
    size: Annotated[int, Range(ge=64, le=30_000)] = 2000
    num_patches: Annotated[int, Range(ge=1, le=1000)] = 1
    seed: Annotated[int, Range(ge=0, lt=2**31)] = 1
    catalogue: Annotated[str | Path | None, INPUT] = None
    columns: Sequence[str] | None = None
    where: Sequence[str] | None = None
    population: Annotated[str | Path | None, INPUT] = None
    layout: Literal["plain", "hsc"] = "plain"
    defects: bool = True
    exposures: Annotated[int, Range(ge=0, le=100)] = 0
    workers: Annotated[int | None, NEUTRAL, Range(ge=1, le=1024)] = None
    device: Annotated[str, NEUTRAL] = "cpu"


@stage(SimulateConfig)
def simulate(config: SimulateConfig) -> Path:
    """Simulate a sky: coadds with weights and world coordinates, and the truth about every object.

    The population, its spectra and its noise follow published laws, so that redshifts can be recovered only
    as far as nature allows.

    Writes ``sky.json``, ``truth.parquet``, and ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits`` (the
    inverse variance of each pixel, in the file's own unit; 0 where a pixel is bad); with several patches
    these stand in directories ``patch-00``, ``patch-01`` and so on. Running it again makes only what is
    missing.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    InputError
        A value out of range, a table that lacks what is needed, or another sky is there already.

    Examples
    --------
    `deepfits simulate sky --size 1000`

    Exposures to stack: `deepfits simulate raw --size 600 --exposures 4`
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deepfits.sky.layouts import open_patch, patch_files
    from deepfits.sky.scene import make_scene, strips

    survey = find_survey(config.survey)
    objects, num_patches = None, config.num_patches
    if config.catalogue is not None:
        objects, num_patches = _read_catalogue(config, survey)
    elif config.columns or config.where:
        raise InputError("columns and where choose from a table: give catalogue too")
    if config.catalogue is not None and config.population is not None:
        raise InputError(
            "population is of the built-in galaxies, which a catalogue replaces: give one of them"
        )
    laws = DEFAULT_LAWS if config.population is None else PopulationLaws.read(config.population)
    resolved = {"survey": survey.to_json(), "num_patches": num_patches, "laws": asdict(laws)}
    size, exposures, alone = config.size, config.exposures, num_patches == 1
    tables = []
    each = len(strips(size)) * (1 + exposures * len(survey.bands))
    with (
        claim(config, name="simulate", version=FORMAT, settings=resolved) as results,
        config.progress("simulate", total=num_patches * each, unit="strips") as task,
        torch_threads(1),  # of each worker: many of many threads get in each other's way
    ):
        out = results.path
        write_json(out / "sky.json", _description(results.content, objects))
        for patch in range(num_patches):
            files = patch_files(out, config.layout, survey.bands, patch, alone=alone)
            table = _objects(config, survey, patch, objects, laws)
            scene = make_scene(
                survey,
                size,
                config.seed,
                patch,
                table,
                defects=config.defects,
                knows_filters=objects is None,
            )
            tables.append(_truth(table, scene, files.name))
            if all(path.exists() for path in files.paths):
                task.advance(len(strips(size)), "is there")
            else:
                remove_leftovers(files.paths[0].parent)
                with open_patch(out, config.layout, scene, alone=alone) as write:
                    _draw(scene, write, config, task)
            _draw_exposures(out, scene, table, config, task)
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        with writing(out / "truth.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary)
    return out


def _description(record: dict[str, Any], objects: CatalogueObjects | None) -> dict[str, Any]:
    """Describe what a sky is, for ``sky.json``."""
    catalogue = None
    if objects is not None:
        used = {name: record["settings"][name] for name in ("columns", "where")}
        counts = {"objects": len(objects), "left_out": objects.left_out}
        catalogue = {"contents": record["inputs"]["catalogue"], **used, **counts}
    chosen = {k: v for k, v in record["settings"].items() if k not in ("columns", "where")}
    return {"schema_version": FORMAT, **chosen, "catalogue": catalogue}


def _read_catalogue(config: SimulateConfig, survey: SkySurvey) -> tuple[CatalogueObjects, int]:
    """Read a user's table; return its objects, and how many patches they need."""
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
        raise InputError(f"size {size} is too small for a patch of given objects; choose 200 or more")
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
    """Draw all strips of a scene, several at a time."""
    from deepfits.sky.scene import draw_strip, strips

    def one(rows: tuple[int, int]) -> None:
        write(rows[0], *draw_strip(scene, rows, config.device))

    with ThreadPoolExecutor(config.workers or available_cores()) as pool:
        futures = [pool.submit(one, rows) for rows in strips(scene.size)]
        try:
            for future in futures:
                future.result()
                task.advance(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


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
    """Return the columns of ``truth.parquet`` for the objects whose centre lies on a patch."""
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
