"""The stage `simulate`: a sky of our own, as coadds with weights and the truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, writing
from deepfits.progress import Progress, Task, silent

LAYOUTS = ("plain",)
SCHEMA_VERSION = 1
CERTAIN = 4
"""The flag of a redshift beyond doubt, as VVDS, zCOSMOS and many others give it."""


def simulate(
    out: str | Path,
    *,
    survey: str | Path = "clauds-hsc",
    size: int = 2000,
    num_patches: int = 1,
    seed: int = 1,
    catalogue: str | Path | None = None,
    layout: str = "plain",
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Simulate a sky: coadds with weights and world coordinates, and the truth about every object.

    Writes ``sky.json``, ``truth.parquet``, and ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits`` (the
    inverse variance of each pixel, in the file's own unit); with several patches these stand in directories
    ``patch-00``, ``patch-01`` and so on. Running it again makes only what is missing.

    Parameters
    ----------
    out
        Directory to write.
    survey
        ``clauds-hsc``, ``sdss-like``, ``rubin-like``, or a TOML file (see the page on the simulated sky).
    size
        Side of a patch in pixels.
    num_patches
        How many patches; seeing and depth vary between them.
    seed
        The same seed gives the same sky, whatever `workers` is.
    catalogue
        A table of your own objects to draw instead of the built-in population.
    layout
        ``plain``.
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
        A value out of range, or another sky is there already.
    """
    from deepfits.sky.images import patch_wcs
    from deepfits.sky.scene import draw_objects, make_scene, patch_name, strips
    from deepfits.sky.surveys import find_survey

    out = Path(out)
    config = find_survey(survey)
    _check_arguments(size, num_patches, seed, layout, workers)
    if catalogue is not None:
        raise InputError("catalogue: drawing from a table is not ready yet; leave it out")
    settings = {
        "schema_version": SCHEMA_VERSION,
        "survey": config.to_json(),
        "size": size,
        "num_patches": num_patches,
        "seed": seed,
        "layout": layout,
    }
    _claim(out, settings)
    tables = []
    total = num_patches * len(strips(size))
    with progress("simulate", total=total, unit="strips") as task, _one_torch_thread():
        for patch in range(num_patches):
            table = draw_objects(config, size, seed, patch)
            tables.append(
                _truth(table, config.names, size, patch_wcs(config, size, patch), patch_name(patch))
            )
            folder = out if num_patches == 1 else out / patch_name(patch)
            if all(path.exists() for path in _paths(folder, config.names).values()):
                task.advance(len(strips(size)), "is there")
                continue
            scene = make_scene(config, size, seed, patch, table)
            _draw_patch(folder, scene, workers, device, task)
    _write_truth(out / "truth.parquet", tables)
    return out


def _check_arguments(size: int, num_patches: int, seed: int, layout: str, workers: int | None) -> None:
    for name, value, low, high in (
        ("size", size, 64, 30000),
        ("num_patches", num_patches, 1, 1000),
        ("seed", seed, 0, 2**31 - 1),
        ("workers", 1 if workers is None else workers, 1, 1024),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} must lie in {low} to {high}, not {value}")
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")


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


def _paths(folder: Path, bands: tuple[str, ...]) -> dict[tuple[str, str], Path]:
    names = {(band, "image"): f"coadd-{band}.fits" for band in bands}
    names |= {(band, "weight"): f"coadd-{band}.weight.fits" for band in bands}
    return {key: folder / name for key, name in names.items()}


def _draw_patch(folder: Path, scene: Any, workers: int | None, device: str, task: Task) -> None:
    """Draw all strips of a patch into its files, which get their names when all are done."""
    from deepfits.sky.images import band_header, counts_per_njy, create_image, write_rows
    from deepfits.sky.scene import draw_model, observe, strips

    bands = scene.survey.bands
    with ExitStack() as stack:
        files = {}
        for key, path in _paths(folder, scene.survey.names).items():
            temporary = stack.enter_context(writing(path))
            index = scene.survey.names.index(key[0])
            header = band_header(scene.survey, scene.conditions, scene.size, scene.seed, scene.patch, index)
            if key[1] == "weight":
                header["BUNIT"] = "count**-2"
            files[key] = temporary, create_image(temporary, header, scene.size)

        def draw_strip(rows: tuple[int, int]) -> None:
            image, variance = observe(scene, draw_model(scene, rows, device), rows)
            for index, band in enumerate(bands):
                counts = np.float32(counts_per_njy(band))
                write_rows(*files[band.name, "image"], rows[0], image[index] * counts)
                write_rows(*files[band.name, "weight"], rows[0], 1 / (variance[index] * counts**2))

        number = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
        with ThreadPoolExecutor(number) as pool:
            futures = [pool.submit(draw_strip, rows) for rows in strips(scene.size)]
            try:
                for future in futures:
                    future.result()
                    task.advance(1)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _truth(
    table: dict[str, np.ndarray], bands: tuple[str, ...], size: int, wcs: Any, patch: str
) -> dict[str, np.ndarray]:
    """Return the columns of ``truth.parquet`` for the objects whose centre lies on a patch."""
    x, y = table["x"], table["y"]
    inside = (x >= -0.5) & (x < size - 0.5) & (y >= -0.5) & (y < size - 0.5)
    one = {name: column[inside] for name, column in table.items()}
    ra, dec = wcs.all_pix2world(one["x"], one["y"], 0)
    columns: dict[str, np.ndarray] = {
        "object_id": one["object_id"],
        "ra": ra,
        "dec": dec,
        "x": one["x"],
        "y": one["y"],
        "patch": np.full(inside.sum(), patch),
        "kind": one["kind"],
        "z_spec": one["z_spec"],
        "z_spec_flag": np.full(inside.sum(), CERTAIN, dtype=np.int32),
    }
    for index, band in enumerate(bands):
        columns[f"mag_{band}"] = 31.4 - 2.5 * np.log10(one["flux"][:, index])
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
