"""Stage `check`: what is there, before anything is done with it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepfits.progress import Progress, silent

if TYPE_CHECKING:
    from deepfits.survey.inspection import Findings


def check(
    images: str | Path | list[str],
    *,
    bands: list[str] | None = None,
    zero_point: list[str] | float | dict[str, float] | None = None,
    pixel_scale: float | None = None,
    assume_aligned: bool = False,
    bad_planes: list[str] | None = None,
    mask_polarity: str | None = None,
    weight_scale: str = "auto",
    progress: Progress = silent,
) -> Findings:
    """Say what images are there: a table, and warnings that name the remedy. Writes nothing.

    Parameters
    ----------
    images
        A directory, a FITS file, or a list of these and of ``band=path``. Also cutouts: a store, or a TOML
        file that describes what others made (`deepfits.survey.readers`); and catalogues.
    bands
        Bands to look at; all by default.
    zero_point, pixel_scale, assume_aligned, bad_planes, mask_polarity, weight_scale
        As in `detect`.

    Returns
    -------
    Findings
        ``rows``, ``remarks`` and ``warnings``; as text (``str``) the table.

    Raises
    ------
    InputError
        No image at all.
    """
    from deepfits.survey.fields import image_set
    from deepfits.survey.inspect_cutouts import (
        inspect_catalogue,
        inspect_cutouts,
        is_catalogue,
        is_cutouts,
    )
    from deepfits.survey.inspection import Findings, inspect_field

    findings = Findings()
    names = [images] if isinstance(images, (str, Path)) else list(images)
    if all(is_cutouts(Path(name)) or is_catalogue(Path(name)) for name in names):
        for name in map(Path, names):
            (inspect_cutouts if is_cutouts(name) else inspect_catalogue)(name, findings)
        return findings
    chosen = image_set(
        images,
        bands=bands,
        allow_missing=True,
        zero_point=zero_point,
        pixel_scale=pixel_scale,
        assume_aligned=assume_aligned,
        bad_planes=bad_planes,
        mask_polarity=mask_polarity,
        weight_scale=weight_scale,
    )
    single = [one for one in chosen.fields if len(one.images) == 1]
    if len(chosen.bands) > 1 and len(single) == len(chosen.fields):
        few = " ".join(f"{s.band}={s.path.name}" for one in single[:2] for s in one.images.values())
        findings.warnings.append(
            f"{len(single)} fields of one band each; if they are bands of one field, name them: {few} ..."
        )
    with (
        tempfile.TemporaryDirectory(prefix="deepfits-") as unpacked,
        progress("check", total=len(chosen.fields), unit="fields") as task,
    ):
        chosen = replace(chosen, options=replace(chosen.options, unpacked=Path(unpacked)))
        for sources in chosen.fields:
            missing = [b for b in chosen.bands if b not in sources.images]
            if missing and len(single) < len(chosen.fields):
                findings.warnings.append(f"{sources.name}: no image in {', '.join(missing)}")
            inspect_field(sources, chosen, findings)
            task.advance(1, sources.name)
    return findings
