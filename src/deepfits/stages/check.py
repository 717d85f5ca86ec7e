"""Stage `check`: inspect images, cutouts or catalogues before using them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from deepfits.stages.parameters import Images, ReadingFields, as_list
from deepfits.stages.stage import INPUT, stage

if TYPE_CHECKING:
    from deepfits.survey.inspection import Findings


@dataclass(frozen=True)
class CheckConfig(ReadingFields):
    """Parameters of `check`."""

    images: Annotated[Images, INPUT]
    """A directory, a FITS file, or a list of these and of ``band=path``. Also accepted: a cutout store, a
    TOML file that describes cutouts made elsewhere (`deepfits.survey.readers`), or a catalogue."""


@stage(CheckConfig)
def check(config: CheckConfig) -> Findings:
    """Inspect images before using them: print a table of what was found, and warnings with their remedies.

    The table lists bands, sizes, units, zero points, pixel scale, seeing, depth and the fraction of pixels
    without data. The seeing (FWHM) is that of the middle 1,024 rows of a field; `detect` and `cutouts`
    measure how it varies over the field. Nothing is written.

    Returns
    -------
    Findings
        ``rows``, ``remarks`` and ``warnings``; ``str`` gives the table.

    Raises
    ------
    InputError
        No images were found.

    Examples
    --------
    `deepfits check coadds/`

    Images without a zero point in the header: `deepfits check coadds/ --zero-point 27`
    """
    from deepfits.survey.inspect_cutouts import inspect_catalogue, inspect_cutouts, is_catalogue, is_cutouts
    from deepfits.survey.inspection import Findings

    findings = Findings()
    names = [Path(name) for name in as_list(config.images)]
    with _log_as_findings(findings):
        if all(is_cutouts(name) or is_catalogue(name) for name in names):
            for name in names:
                (inspect_cutouts if is_cutouts(name) else inspect_catalogue)(name, findings)
        else:
            _inspect_images(config, findings)
    return findings


@contextmanager
def _log_as_findings(findings: Findings) -> Iterator[None]:
    """Add the readers' log warnings to the findings, which would otherwise say "nothing suspicious"."""
    logger, handler = logging.getLogger("deepfits"), logging.Handler(logging.WARNING)
    logged: list[str] = []
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    before = list(logger.handlers), logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate, level = before
        logger.setLevel(level)
        for text in dict.fromkeys(logged):
            findings.note(text)


def _inspect_images(config: CheckConfig, findings: Findings) -> None:
    from deepfits.survey.inspection import inspect_field

    chosen = config.find(config.images, allow_missing=True)
    single = [field for field in chosen.fields if len(field.images) == 1]
    if len(chosen.bands) > 1 and len(single) == len(chosen.fields):
        few = " ".join(f"{s.band}={s.path}" for field in single[:2] for s in field.images.values())
        findings.warnings.append(
            f"{len(single)} fields of one band each; if they are bands of one field, give only these files, "
            f"with their bands: {few} ..."
        )
    with (
        tempfile.TemporaryDirectory(prefix="deepfits-") as unpacked,
        config.progress("check", total=len(chosen.fields), unit="fields") as task,
    ):
        chosen = chosen.keeping_copies(unpacked)
        for sources in chosen.fields:
            missing = [b for b in chosen.bands if b not in sources.images]
            if missing and len(single) < len(chosen.fields):
                findings.warnings.append(f"{sources.name}: no image in {', '.join(missing)}")
            inspect_field(sources, chosen, findings)
            task.advance(1, sources.name)
