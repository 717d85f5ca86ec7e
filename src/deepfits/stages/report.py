"""Stage `report`: the web page of a run."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from deepfits.config import Range
from deepfits.stages.parameters import Choosing, Partial
from deepfits.stages.stage import stage


@dataclass(frozen=True)
class ReportConfig(Choosing, Partial):
    """Parameters of `report`."""

    run: str | Path
    """Run directory, with ``cutouts/``, ``model/``, ``features-<mode>/``, ``inpaint-<bands>/`` and
    ``redshift/``. The page says which of these are missing, and leaves them out."""
    _: KW_ONLY
    out: str | Path | None = None
    """Output directory; by default ``report/`` in the run directory."""
    store: str | Path | None = None
    """Cutout store, if it is not ``cutouts/`` in the run directory."""
    model: str | Path | None = None
    """Model, if it is neither ``model/`` in the run directory nor one shipped with the package."""
    num_examples: Annotated[int, Range(ge=1)] = 6
    """Number of galaxies in Figs. 1 and 2."""
    max_objects: Annotated[int, Range(ge=1)] = 4000
    """Maximum number of held-out objects to read from the store, on which χ² is evaluated."""
    title: str | None = None
    """Heading of the page."""


@stage(ReportConfig, result="report")
def report(config: ReportConfig) -> Path:
    """Write a web page with the results of a run, measured on held-out objects.

    The page shows what the run directory contains: fits from ``features-embedder``, ``features-optimise`` and
    ``features-both`` (Fig. 1), predicted bands from ``inpaint-u`` (Fig. 2) and redshift metrics from
    ``redshift`` (the table). An earlier report is replaced; other files never are.

    Returns
    -------
    Path
        The page, ``index.html``. ``summary.json`` next to it holds the numbers that it shows.

    Raises
    ------
    InputError
        No store, no held-out object in it, a stage that is not finished, or other files in `out`.

    Examples
    --------
    `deepfits report run`

    Bright objects only: `deepfits report run --out run/report-bright --where "mag_auto_i < 22"`
    """
    from deepfits.plot.style import default_style
    from deepfits.stages.report_parts import write_report

    with default_style():
        return write_report(config)
