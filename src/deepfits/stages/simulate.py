"""The stage `simulate`: a sky of our own, as coadds with weights and the truth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import fingerprint, read_json, remove_leftovers, write_json, writing
from deepfits.photometry import ab_magnitude
from deepfits.progress import Progress, Task, silent

if TYPE_CHECKING:
    from deepfits.sky.from_catalogue import Given
    from deepfits.sky.layouts import Writer
    from deepfits.sky.scene import Scene
    from deepfits.sky.surveys import SkySurvey

SCHEMA_VERSION = 1
CERTAIN = 4
"""The flag of a redshift beyond doubt, as VVDS, zCOSMOS and many others give it."""
_GIVEN = 7  # number of the random stream for what a user's table does not have


def simulate(
    out: str | Path,
    *,
    survey: str | Path = "clauds-hsc",
    size: int = 2000,
    num_patches: int = 1,
    seed: int = 1,
    catalogue: str | Path | None = None,
    columns: Sequence[str] | None = None,
    where: Sequence[str] | None = None,
    layout: str = "plain",
    defects: bool = True,
    exposures: int = 0,
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Simulate a sky: coadds with weights and world coordinates, and the truth about every object.

    Writes ``sky.json``, ``truth.parquet``, and ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits`` (the
    inverse variance of each pixel, in the file's own unit; 0 where a pixel is bad); with several patches
    these stand in directories ``patch-00``, ``patch-01`` and so on. Running it again makes only what is
    missing.

    Parameters
    ----------
    out
        Directory to write.
    survey
        ``clauds-hsc``, ``sdss-like``, ``rubin-like``, or a TOML file (see the page on the simulated sky).
    size
        Side of a patch in pixels.
    num_patches
        How many patches; seeing and depth vary between them. With a catalogue, at least this many: as many as
        it takes to hold every row.
    seed
        The same seed gives the same sky, whatever `workers` is.
    catalogue
        A table (Parquet, FITS, CSV) of objects to draw instead of the built-in population: ``mag_<band>``,
        and where there are ``z_spec``, ``z_spec_flag``, ``kind``, ``object_id``,
        ``half_light_radius_arcsec``, ``axis_ratio``, ``angle_deg``, ``bulge_fraction``.
    columns
        Where the table names its columns differently: ``["mag_u=u_photz", "z_spec=zpec"]``.
    where
        Draw the rows of the table that satisfy these: ``["cc >= 3"]``.
    layout
        ``plain``, or ``hsc`` for files as the HSC pipeline writes them.
    defects
        Saturated stars, bad columns, gaps and satellites' trails.
    exposures
        Besides the coadds, this many exposures in each band: dithered, rotated, each with its own seeing and
        zero point, in ``exposures/<band>/``.
    workers
        Threads that draw at the same time; as many as there are cores when None.
    device
        Where PyTorch draws: ``cpu``, ``cuda``.
    progress
        See `deepfits.progress`.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    InputError
        A value out of range, a table that lacks what is needed, or another sky is there already.
    """
    from deepfits.sky.layouts import LAYOUTS, open_patch, patch_files
    from deepfits.sky.population import PopulationLaws
    from deepfits.sky.scene import make_scene, strips
    from deepfits.sky.surveys import find_survey

    out = Path(out)
    config = find_survey(survey)
    _check_arguments(size, num_patches, seed, workers, exposures)
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    given = None
    if catalogue is not None:
        given, num_patches = _read_given(catalogue, columns, where, config, size, num_patches, seed)
    elif columns or where:
        raise InputError("columns and where choose from a table: give catalogue too")
    settings: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "survey": config.to_json(),
        "size": size,
        "num_patches": num_patches,
        "seed": seed,
        "layout": layout,
        "defects": defects,
        "exposures": exposures,
        "catalogue": None,
        "laws": asdict(PopulationLaws()),
    }
    if given is not None:
        settings["catalogue"] = {
            "fingerprint": fingerprint(catalogue),  # type: ignore[arg-type]
            "columns": sorted(columns or ()),
            "where": sorted(where or ()),
            "objects": len(given),
            "left_out": given.left_out,
        }
    _claim(out, settings)
    tables = []
    each = len(strips(size)) * (1 + exposures * len(config.bands))
    with progress("simulate", total=num_patches * each, unit="strips") as task, _one_torch_thread():
        for patch in range(num_patches):
            files = patch_files(out, layout, config.bands, patch, alone=num_patches == 1)
            table = _objects(config, size, seed, patch, given)
            scene = make_scene(config, size, seed, patch, table, defects=defects)
            tables.append(_truth(table, scene, files.name))
            if all(path.exists() for path in files.paths):
                task.advance(len(strips(size)), "is there")
            else:
                remove_leftovers(files.paths[0].parent)
                with open_patch(out, layout, scene, alone=num_patches == 1) as write:
                    _draw(scene, write, workers, device, task)
            _draw_exposures(out, scene, table, exposures, workers, device, task)
    _write_truth(out / "truth.parquet", tables)
    return out


def _check_arguments(size: int, num_patches: int, seed: int, workers: int | None, exposures: int) -> None:
    for name, value, low, high in (
        ("size", size, 64, 30000),
        ("num_patches", num_patches, 1, 1000),
        ("seed", seed, 0, 2**31 - 1),
        ("workers", 1 if workers is None else workers, 1, 1024),
        ("exposures", exposures, 0, 100),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} must lie in {low} to {high}, not {value}")


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write down what this sky is, or check that the one in the directory is the same."""
    path = out / "sky.json"
    if path.exists():
        there = read_json(path, what="description of a simulated sky")
        for key, value in settings.items():
            if there.get(key) != value:
                raise InputError(
                    f"{path}: a sky with another {key} is there already; choose another directory, or remove "
                    f"{out} to start anew"
                )
        return
    write_json(path, settings)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Let each worker's PyTorch use one thread: many workers with many threads each get in their own way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_given(
    path: str | Path,
    columns: Sequence[str] | None,
    where: Sequence[str] | None,
    survey: SkySurvey,
    size: int,
    num_patches: int,
    seed: int,
) -> tuple[Given, int]:
    """Read a user's table; return its objects, and how many patches they need."""
    from deepfits.sky.from_catalogue import from_table, objects_per_patch, parse_columns, resolve_columns
    from deepfits.tables import matches_conditions, read_table

    table = read_table(path, what="catalogue")
    keep = matches_conditions(table, list(where or ()), path)
    if not keep.any():
        raise InputError(f"{path}: no row satisfies {' and '.join(where or ())}")
    table = {name: column[keep] for name, column in table.items()}
    found = resolve_columns(list(table), survey, parse_columns(columns), path)
    given = from_table(table, found, survey, np.random.default_rng((seed, 0, _GIVEN)), path)
    per_patch = objects_per_patch(size)
    if per_patch == 0:
        raise InputError(f"size {size} is too small for a patch of given objects; choose 200 or more")
    return given, max(num_patches, -(-len(given) // per_patch))


def _objects(
    survey: SkySurvey, size: int, seed: int, patch: int, given: Given | None
) -> dict[str, np.ndarray]:
    from deepfits.sky.from_catalogue import grid_positions, objects_per_patch
    from deepfits.sky.scene import draw_objects

    if given is None:
        return draw_objects(survey, size, seed, patch)
    per_patch = objects_per_patch(size)
    part = slice(patch * per_patch, (patch + 1) * per_patch)
    table = {name: column[part] for name, column in given.table.items()}
    rng = np.random.default_rng((seed, patch, _GIVEN, 1))
    table["x"], table["y"] = grid_positions(len(table["kind"]), size, rng)
    return table


def _draw(scene: Scene, write: Writer, workers: int | None, device: str, task: Task) -> None:
    """Draw all strips of a scene, several at a time."""
    from deepfits.sky.scene import draw_strip, strips

    def one(rows: tuple[int, int]) -> None:
        write(rows[0], *draw_strip(scene, rows, device))

    number = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
    with ThreadPoolExecutor(number) as pool:
        futures = [pool.submit(one, rows) for rows in strips(scene.size)]
        try:
            for future in futures:
                future.result()
                task.advance(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _draw_exposures(
    out: Path,
    scene: Scene,
    table: dict[str, np.ndarray],
    number: int,
    workers: int | None,
    device: str,
    task: Task,
) -> None:
    from deepfits.sky.exposures import exposure_paths, make_exposure, open_exposure
    from deepfits.sky.scene import strips

    for index in range(len(scene.survey.bands)):
        for exposure in range(number):
            paths = exposure_paths(out, scene, index, exposure)
            if all(path.exists() for path in paths):
                task.advance(len(strips(scene.size)), "is there")
                continue
            one = make_exposure(scene, table, index, exposure, number)
            with open_exposure(paths, one) as write:
                _draw(one, write, workers, device, task)


def _truth(table: dict[str, np.ndarray], scene: Scene, patch: str) -> dict[str, np.ndarray]:
    """Return the columns of ``truth.parquet`` for the objects whose centre lies on a patch."""
    x, y = table["x"], table["y"]
    inside = (x >= -0.5) & (x < scene.size - 0.5) & (y >= -0.5) & (y < scene.size - 0.5)
    one = {name: column[inside] for name, column in table.items()}
    number = int(inside.sum())
    ra, dec = scene.wcs.all_pix2world(one["x"], one["y"], 0)
    columns: dict[str, np.ndarray] = {
        "object_id": one["object_id"],
        "ra": ra,
        "dec": dec,
        "x": one["x"],
        "y": one["y"],
        "patch": np.full(number, patch),
        "kind": one["kind"],
        "z_spec": one["z_spec"],
        "z_spec_flag": one["z_spec_flag"] if "z_spec_flag" in one else np.full(number, CERTAIN, dtype=float),
    }
    for index, band in enumerate(scene.survey.names):
        columns[f"mag_{band}"] = ab_magnitude(one["flux"][:, index])
    for name in (
        "half_light_radius_arcsec",
        "disc_radius_arcsec",
        "bulge_radius_arcsec",
        "bulge_fraction",
        "disc_ratio",
        "bulge_ratio",
        "angle",
        "type",
        "template",
        "ebv",
        "mag_absolute_r",
    ):
        columns[name] = one[name]
    return columns


def _write_truth(path: Path, tables: list[dict[str, np.ndarray]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    with writing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
