"""The stage `report`: the page of a run."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from deepfits.config import Range
from deepfits.stages.parameters import Choosing, Partial
from deepfits.stages.stage import stage


@dataclass(frozen=True)
class ReportConfig(Choosing, Partial):
    """What `report` takes.

    Parameters
    ----------
    run
        The run directory. It is searched for ``cutouts/``, ``model/``, ``features-<mode>/``,
        ``inpaint-<bands>/`` and ``redshift/``; what is not there is left out, and said so.
    out
        Where the page goes; by default ``report/`` in the run directory.
    store
        The cutouts, where they are not ``cutouts/`` in the run directory.
    model
        The model, where it is neither ``model/`` in the run directory nor one that came with the package.
    num_examples
        Galaxies in Figs. 1 and 2.
    max_objects
        Held-out objects that are read from the store, at most; figures of χ² use these.
    title
        Heading of the page.
    """

    run: str | Path
    _: KW_ONLY
    out: str | Path | None = None
    store: str | Path | None = None
    model: str | Path | None = None
    num_examples: Annotated[int, Range(ge=1)] = 6
    max_objects: Annotated[int, Range(ge=1)] = 4000
    title: str | None = None


@stage(ReportConfig)
def report(config: ReportConfig) -> Path:
    """Write a page that shows what a run did, measured on objects that the networks never saw.

    It shows what it finds in the run directory: ``features-embedder``, ``features-optimise`` and
    ``features-both`` for Fig. 1, ``inpaint-u`` for Fig. 2, ``redshift`` for the table. It is made anew each
    time; other files are never replaced.

    Returns
    -------
    Path
        The page, ``index.html``. ``summary.json`` beside it holds the figures that it shows.

    Raises
    ------
    InputError
        There is no store, or no held-out object in it; a stage is not finished; or `out` holds other files.

    Examples
    --------
    `deepfits report run`
    """
    from deepfits.stages.report_parts import write_report

    return write_report(config)
