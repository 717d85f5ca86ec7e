"""Stage `cutouts`: images and a catalogue in, cutout store out."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepfits.errors import InputError
from deepfits.files import MANIFEST
from deepfits.progress import Progress, silent


def cutouts(
    images: str | Path | list[str],
    out: str | Path,
    *,
    catalogue: str | Path | None = None,
    bands: list[str] | None = None,
    size: int = 32,
    shard_size: int = 2048,
    reference_band: str | None = None,
    survey: str = "",
    threshold: float = 4.0,
    min_pixels: int = 5,
    smoothing_arcsec: float | None = None,
    min_snr: float = 0.0,
    keep_duplicates: bool = False,
    allow_missing: bool = False,
    zero_point: list[str] | float | dict[str, float] | None = None,
    pixel_scale: float | None = None,
    assume_aligned: bool = False,
    bad_planes: list[str] | None = None,
    mask_polarity: str | None = None,
    weight_scale: str = "auto",
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Cut every object out of every band, into a cutout store.

    Without a catalogue the objects are detected first, into ``catalogue.parquet`` in the store. No object is
    dropped: where an image does not reach or a band is missing the weight is 0, and ``summary.json`` and
    ``incomplete.csv`` in the store count and list these objects. Running it again cuts what is not there yet.

    Parameters
    ----------
    images
        A directory, a FITS file, or a list of these and of ``band=path``; see `deepfits.survey.find`. Or a
        TOML file that describes cutouts made elsewhere; see `deepfits.survey.readers`.
    out
        Directory of the store.
    catalogue
        Parquet, FITS table or CSV with ra and dec (degrees) or x and y (pixels of the reference band,
        0-based), and ``object_id`` and ``field`` where there are several fields.
    bands
        Bands of the store, in this order; all by default.
    size
        Side of a cutout in pixels.
    shard_size
        Objects in one file of the store.
    reference_band
        The band whose pixel grid the others are brought to; i, else r, z or g, else the middle one.
    survey
        A name for people to read.
    threshold, min_pixels, smoothing_arcsec, min_snr
        As in `detect`, when there is no catalogue.
    keep_duplicates
        Cut all detections of an object that lies on several fields, not the primary one alone. The others are
        counted in ``summary.json``; this holds for catalogues made by `detect`.
    allow_missing
        Fields that lack a band are taken, with weight 0 in it.
    zero_point, pixel_scale, assume_aligned, bad_planes, mask_polarity, weight_scale
        As in `detect`.
    workers
        Processes that work at the same time.
    scheduler
        Address (or scheduler file) of a Dask scheduler whose workers cut; they need to see the same paths.
        Detection, without a catalogue, stays on this machine.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        Images or a catalogue that cannot be used, or another store under the same name. Images that turn out
        damaged while they are cut do not keep the other shards from being made: the error comes at the end
        and names them, and ``_manifest.jsonl`` says what became of each shard.
    """
    from deepfits.survey.build import StorePlan, build_store
    from deepfits.survey.catalogue import read_catalogue, read_info
    from deepfits.survey.detection import DetectOptions
    from deepfits.survey.fields import image_set
    from deepfits.survey.parallel import check_workers

    out = Path(out)
    check_workers(workers)
    names = [images] if isinstance(images, (str, Path)) else list(images)
    if len(names) == 1 and str(names[0]).endswith(".toml"):
        from deepfits.survey.ingest import ingest

        ingest(names[0], out, size=size, shard_size=shard_size, progress=progress, catalogue=catalogue)
        return out
    if scheduler is not None:  # its workers may stand elsewhere
        images = absolute_images(images)
    chosen = image_set(
        images,
        bands=bands,
        reference=reference_band,
        allow_missing=allow_missing,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
    )
    if shard_size < 1:
        raise InputError(f"shard_size must be at least 1, not {shard_size}")
    if catalogue is not None and not Path(catalogue).exists():
        raise InputError(f"{catalogue}: no such catalogue; check the path, or leave it out to detect")
    with tempfile.TemporaryDirectory(prefix="deepfits-") as unpacked:
        if catalogue is None:
            from deepfits.stages.detect import detect_in

            _refuse_foreign(out)
            path = out / "catalogue.parquet"
            # Detection and cutting read the same files: those that are packed as a whole are unpacked once.
            chosen = replace(chosen, options=replace(chosen.options, unpacked=Path(unpacked)))
            detect_in(
                chosen,
                path,
                DetectOptions(threshold=threshold, min_pixels=min_pixels),
                smoothing_arcsec=smoothing_arcsec,
                min_snr=min_snr,
                workers=workers,
                progress=progress,
            )
        else:
            path = Path(catalogue)
        plan = StorePlan(
            images=chosen,
            size=size,
            shard_size=shard_size,
            survey=survey,
            catalogue_path=path,
            keep_duplicates=keep_duplicates,
        )
        if scheduler is not None:  # its workers do not see this machine's unpacked copies
            plan = replace(plan, images=replace(chosen, options=replace(chosen.options, unpacked=None)))
        build_store(plan, read_catalogue(path), read_info(path), out, progress, workers, scheduler)
    return out


def absolute_images(images: str | Path | list[str]) -> str | list[str]:
    """Return images under names that mean the same in every process; ``band=path`` keeps its band."""
    if not isinstance(images, (str, Path)):
        return [str(absolute_images(one)) for one in images]
    band, equals, path = str(images).rpartition("=")
    return f"{band}{equals}{Path(path).resolve()}" if equals else str(Path(images).resolve())


def _refuse_foreign(out: Path) -> None:
    """Refuse a directory with other people's files before hours of detection, not after."""
    if out.is_file():
        raise InputError(f"{out}: is a file; name a directory for the store")
    known = {
        "catalogue.parquet",
        "catalogue.parquet.parts",
        "store.json",
        "summary.json",
        "incomplete.csv",
        MANIFEST,
    }
    if out.is_dir():
        odd: list[Any] = [
            p for p in out.iterdir() if p.name not in known and not p.name.startswith(("shard-", "."))
        ]
        if odd and not (out / "store.json").exists():
            raise InputError(f"{out}: holds {odd[0].name}; name a directory of its own for the store")
