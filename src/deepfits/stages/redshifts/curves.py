"""Stage `redshift_curves`: learning curves, the metrics of each method by number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from deepfits.config import Range
from deepfits.errors import InputError
from deepfits.files import read_json, write_json, write_text
from deepfits.progress import noted
from deepfits.redshifts.results import format_metric, mean_rows, table_lines
from deepfits.stages.redshifts.compare import CompareConfig, redshift
from deepfits.stages.redshifts.load import fingerprints, is_of_classes
from deepfits.stages.stage import NEUTRAL, claim, part_of, stage

NUMBERS = (100, 300, 1000, 3000, 10000)


@dataclass(frozen=True)
class CurvesConfig(CompareConfig):
    """Parameters of `redshift_curves`: those of `redshift` except `max_labels`."""

    _: KW_ONLY
    numbers: Annotated[Sequence[int], NEUTRAL] = NUMBERS
    """Numbers of labels to train on."""
    draws: Annotated[int, NEUTRAL, Range(ge=1)] = 1
    """Number of random draws of the labels. Metrics are means over them, and errors include their scatter,
    which is large with few labels."""


@stage(CurvesConfig, result="label curves")
def redshift_curves(config: CurvesConfig) -> Path:
    """Make learning curves: the table of `redshift` for several numbers of labels, on the same test objects.

    Smaller sets of labels are subsets of larger ones. The largest number is limited by the labels available.

    Returns
    -------
    Path
        `out`: ``labels-01000/`` and so on, each the output of `redshift` (``labels-01000-2/`` for the second
        draw); ``curves.json``; ``curves.md``.

    Examples
    --------
    From 100 to 10,000 labels: `deepfits redshift curves run/features-both spectra.csv --out run/curves`

    How results with few labels depend on which these are: `deepfits redshift curves run/features-both
    spectra.csv --out run/curves --numbers 30 --numbers 100 --draws 8`
    """
    if is_of_classes(config.labels, config.label_column):
        raise InputError(
            f"{config.labels}: {config.label_column} has class names, for which there are no curves; run "
            "redshift_classes with several values of max_labels"
        )
    if config.max_labels is not None:
        raise InputError("redshift_curves sets max_labels itself; give `numbers` instead")
    if not config.numbers:
        raise InputError("redshift_curves: give at least one number of labels (numbers)")
    with claim(config, name="redshift curves", inputs=fingerprints(config)) as results:
        out, numbers = results.path, sorted(set(config.numbers))
        tables: dict[int, list[dict[str, Any]]] = {}
        with config.progress("label curves", total=len(numbers) * config.draws, unit="tables") as task:
            for number, draw in product(numbers, range(config.draws)):
                directory = out / (f"labels-{number:05d}" + (f"-{draw + 1}" if draw else ""))
                others = {
                    "out": directory,
                    "max_labels": number,
                    "seed": config.seed + draw,
                    "photometry": config.photometry or out / "photometry.npz",
                    "progress": noted(config.progress, task, f"{number} labels"),
                }
                part_of(config, redshift, **others)
                table = read_json(directory / "metrics.json", what="metrics")
                used = table["rows"][0]["num_train"]
                if used == number or used not in tables:
                    tables.setdefault(used, []).append(table)
                task.advance(1, f"{used} labels")
                if used < number:
                    break
        write_curves(out, tables)
    return out


def write_curves(out: Path, tables: Mapping[int, Sequence[dict[str, Any]]]) -> None:
    """Write ``curves.json`` and ``curves.md`` from tables (``metrics.json``), the draws of each number."""
    curves: list[dict[str, Any]] = [
        {"num_labels": used, "rows": mean_rows([table["rows"] for table in draws])}
        for used, draws in sorted(tables.items())
    ]
    if without := [row for row in curves[0]["rows"] if row["num_train"] == 0]:
        curves.insert(0, {"num_labels": 0, "rows": without})
    definitions = next(iter(tables.values()))[0]["definitions"]
    write_json(out / "curves.json", {"definitions": definitions, "curves": curves})
    write_text(out / "curves.md", _markdown(curves, definitions))


def _markdown(curves: Sequence[dict[str, Any]], definitions: dict[str, str]) -> str:
    """Format one table for each metric, with methods as rows and numbers of labels as columns."""
    heads = ["method", *(f"{curve['num_labels']} labels" for curve in curves)]
    by_key = [{row["key"]: row for row in curve["rows"]} for curve in curves]
    lines: list[str] = []
    for name in (metric for metric in ("r2", "bias", "sigma_mad", "eta", "eta_15") if metric in definitions):
        cells = [
            [key, *(format_metric(rows[key]["metrics"][name]) if key in rows else "–" for rows in by_key)]
            for key in by_key[-1]
        ]
        lines += [f"**{name}**: {definitions[name]}", "", *table_lines(heads, cells), ""]
    return "\n".join(lines)
