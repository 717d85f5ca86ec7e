"""Results on disk: a directory per method, the joined predictions, and the tables of metrics.

A redshift directory holds ``split.parquet``, ``methods/<key>/`` (the model, ``row.json`` and
``predictions.parquet`` of each method), and, joined from those, ``predictions.parquet``, ``metrics.json``,
``table.md`` and ``table.tex``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_json, write_json, write_text
from deepfits.redshifts import pdf
from deepfits.redshifts.metrics import DEFINITIONS, PROPERTY_DEFINITIONS, binned, measured
from deepfits.redshifts.naming import ESTIMATE, written_name
from deepfits.redshifts.pdf import pdf_metrics
from deepfits.tables import read_table, write_table
from deepfits.tables.values import is_redshift_name

MIN_OBJECTS_APART = 5
MEASURED = ("metrics", "pdf_metrics", "by_magnitude", "by_redshift")
"""Parts of a row that are averaged over draws of the labels, each of which has a domain of its own."""
COLUMNS = ("r2", "bias", "sigma_mad", "eta", "eta_15", "eta_05")
PROPERTY_COLUMNS = ("r2", "rmse", "bias", "sigma_mad", "eta")
HEADINGS = {
    "r2": "R²",
    "bias": "bias",
    "bias_median": "bias (median)",
    "sigma_mad": "σ_MAD",
    "eta": "η (5 σ_MAD)",
    "eta_15": "η (0.15)",
    "eta_05": "η (0.05)",
    "rmse": "RMSE",
}

PDF_HEADINGS = {
    "coverage_68": "68% interval",
    "coverage_95": "95% interval",
    "pit_ks": "PIT distance",
    "r2_mean": "R² of the mean",
    "crps": "CRPS",
    "cde_loss": "CDE loss",
}


@dataclass(frozen=True, kw_only=True)
class RowKey:
    """Method, feature set and loss of a row; '' for methods without features or loss."""

    method: str
    features: str = ""
    loss: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.method, self.features, self.loss) if part)


def row_directory(out: Path, key: RowKey | str) -> Path:
    """Return the directory of a row in the output of `redshift`."""
    return out / "methods" / str(key)


def redshift_edges(z_spec: np.ndarray) -> np.ndarray:
    """Return bin edges in redshift: 0 to 2 in steps of 0.5, and one bin at z > 2, the focus of M19."""
    return np.array([0.0, 0.5, 1.0, 1.5, 2.0, max(10.0, float(np.max(z_spec)) + 1)])


def magnitude_edges(magnitude: np.ndarray) -> np.ndarray:
    """Return edges of bins of 1 mag that cover the objects; none if no magnitude is known."""
    known = magnitude[np.isfinite(magnitude)]
    if not known.size:
        return np.empty(0)
    return np.arange(np.floor(known.min()), np.ceil(known.max()) + 1.5)


def make_row(
    key: RowKey,
    predictions: Mapping[str, np.ndarray],
    z_spec: np.ndarray,
    magnitude: np.ndarray,
    *,
    num_train: int | None,
    seconds: float,
    target: str = "z_spec",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of one method for the test objects: for all, and in bins of magnitude and redshift.

    Predictions are `z_phot` and, if the method gives them, `quantiles` and `is_outside_domain`. Objects whose
    `z_phot` is not finite are counted in `num_missing` and excluded from the metrics. For targets other than
    redshifts there are no bins in redshift, and no metrics specific to redshifts.
    """
    has = np.isfinite(predictions["z_phot"])
    z_phot, z_spec, magnitude = predictions["z_phot"][has], z_spec[has], magnitude[has]
    edges, measure = magnitude_edges(magnitude), partial(measured, is_redshift=is_redshift_name(target))
    row = {
        "key": str(key),
        "method": key.method,
        "features": key.features,
        "loss": key.loss,
        "num_train": num_train,
        "num_test": len(z_spec),
        "num_missing": int((~has).sum()),
        "seconds": round(seconds, 2),
        "metrics": measure(z_phot, z_spec),
        "by_magnitude": binned(z_phot, z_spec, magnitude, edges, metrics=measure) if len(edges) else [],
        **(about or {}),
    }
    if is_redshift_name(target):
        row["by_redshift"] = binned(z_phot, z_spec, z_spec, redshift_edges(z_spec))
    if "quantiles" in predictions:
        row["pdf_metrics"] = pdf_metrics(predictions["quantiles"][has].astype(np.float64), z_spec)
    if "is_outside_domain" in predictions:  # flagged and unflagged objects apart, to evaluate the flag
        is_outside = predictions["is_outside_domain"][has]
        row["domain"] = {"num_outside": int(is_outside.sum())}
        for name, members in (("inside", ~is_outside), ("outside", is_outside)):
            if members.sum() >= MIN_OBJECTS_APART:
                row["domain"][name] = measure(z_phot[members], z_spec[members])
    return row


def mean_rows(tables: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average the rows of tables that differ in the draw of their labels, not in their test objects.

    Errors then include the scatter between draws: ``error² = mean(error²) + variance(value) / num_draws``.
    """
    if len(tables) == 1:
        return list(tables[0])
    rows = []
    for same in zip(*tables, strict=True):
        first = {name: value for name, value in same[0].items() if not isinstance(value, dict | list)}
        parts = _mean([{name: row[name] for name in MEASURED if name in row} for row in same])
        rows.append({**first, "num_draws": len(tables), **parts})
    return rows


def _mean(entries: Sequence[Any]) -> Any:
    """Average metrics (`value` and `error`) in nested mappings and lists; return anything else unchanged."""
    first = entries[0]
    if isinstance(first, list):
        return [_mean(parts) for parts in zip(*entries, strict=True)]
    if not isinstance(first, dict):
        return first
    if "value" not in first:
        common = [name for name in first if all(name in entry for entry in entries)]
        return {name: _mean([entry[name] for entry in entries]) for name in common}
    if any(entry["value"] is None or entry["error"] is None for entry in entries):
        return {"value": None, "error": None}
    value, error = np.array([[entry["value"], entry["error"]] for entry in entries]).T
    scatter = value.std(ddof=1) / np.sqrt(len(value))
    return {"value": float(value.mean()), "error": float(np.sqrt((error**2).mean() + scatter**2))}


def write_row(directory: Path, row: dict[str, Any], columns: Mapping[str, Any], describe: Any = None) -> None:
    """Write one method's predictions, then its row, whose presence marks the method as done."""
    write_table(directory / "predictions.parquet", columns, describe=describe)
    write_json(directory / "row.json", row)


def read_row(directory: Path) -> dict[str, Any] | None:
    """Return the row of a method, or None if it is not done."""
    path = directory / "row.json"
    return read_json(path, what="row of a table") if path.exists() else None


def join_predictions(
    out: Path,
    keys: Sequence[str],
    columns: Mapping[str, np.ndarray],
    target: str,
    describe: Callable[[str], Any],
) -> None:
    """Write ``predictions.parquet``: the test objects, with a column ``z_phot_<key>`` for each method."""
    joined: dict[str, Any] = dict(columns)
    name = written_name(ESTIMATE, target)
    for key in keys:
        directory = row_directory(out, key)
        path = directory / "predictions.parquet"
        table = read_table(path, what="predictions", columns=["object_id", name])
        if not np.array_equal(table["object_id"], columns["object_id"]):
            raise InputError(
                f"{directory}: predictions of other objects; remove this directory and run again"
            )
        joined[f"{name}_{key.replace('-', '_')}"] = table[name]
    write_table(out / "predictions.parquet", joined, describe=describe)


def write_metrics(out: Path, rows: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> None:
    """Write ``metrics.json``, ``table.md`` and ``table.tex``."""
    content = {**about, "definitions": _definitions(about.get("target", "z_spec")), "rows": list(rows)}
    write_json(out / "metrics.json", content)
    write_text(out / "table.md", markdown_table(content))
    write_text(out / "table.tex", latex_table(content))


def _definitions(target: str) -> dict[str, str]:
    if is_redshift_name(target):
        return {**DEFINITIONS, **pdf.DEFINITIONS}
    return {**PROPERTY_DEFINITIONS, **{k: v.replace("z_spec", target) for k, v in pdf.DEFINITIONS.items()}}


def _columns(content: Mapping[str, Any]) -> Sequence[str]:
    return COLUMNS if is_redshift_name(content.get("target", "z_spec")) else PROPERTY_COLUMNS


def format_metric(entry: Mapping[str, float | None]) -> str:
    """Return ``0.123 ± 0.004``, or a dash where the metric has no value.

    Examples
    --------
    >>> format_metric({"value": 0.5, "error": 0.01})
    '0.500 ± 0.010'
    """
    if entry["value"] is None:
        return "–"
    return f"{entry['value']:z.3f}" + (f" ± {entry['error']:.3f}" if entry["error"] is not None else "")


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_text: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first `num_text` columns hold text, the others numbers."""
    rule = "|" + "|".join(["---"] * num_text + ["---:"] * (len(heads) - num_text)) + "|"
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(cells) + " |" for cells in rows)]


_NAMES = ("method", "features", "loss")


def _named(row: Mapping[str, Any], *cells: str) -> list[str]:
    return [*(row[name] or "–" for name in _NAMES), *cells]


def _objects(content: Mapping[str, Any]) -> str:
    return "held-out objects" if content.get("held_out_only", True) else "objects, held out or not"


def caption(content: Mapping[str, Any], of: str = "") -> str:
    """Return the numbers of objects that the metrics are for and of labels used for training."""
    first = content["rows"][0]
    used = "not known" if first["num_train"] is None else first["num_train"]
    return f"{first['num_test']} {_objects(content)}; labels{of} used for training: {used}."


def markdown_table(content: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with the counts above and the definitions below."""
    rows, columns, target = content["rows"], _columns(content), content.get("target", "z_spec")
    definitions, of = _definitions(target), "" if is_redshift_name(target) else f" of {target}"
    cells = [_named(row, *(format_metric(row["metrics"][name]) for name in columns)) for row in rows]
    lines = [
        caption(content, of),
        "",
        *table_lines([*_NAMES, *(HEADINGS[name] for name in columns)], cells, num_text=3),
        "",
        f"Errors: standard deviation over bootstrap resamples of the {_objects(content)}.",
        "",
        *(f"- {HEADINGS[name]}: {definitions[name]}" for name in columns),
    ]
    more = [*_high_table(rows), *_domain_table(rows)] if is_redshift_name(target) else []
    return "\n".join([*lines, *_pdf_table(rows, definitions, of), *more]) + "\n"


def _further_table(title: str, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a further table below the main one; none if it has no rows."""
    return ["", title, "", *table_lines([*_NAMES, *heads], cells, num_text=3)] if cells else []


def _high_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table for z > 2, the focus of M19; none if there are too few objects."""
    names = ("bias", "sigma_mad", "eta_15")
    entries = [(row, row["by_redshift"][-1]) for row in rows]
    cells = [
        _named(row, str(entry["num"]), *(format_metric(entry["metrics"][name]) for name in names))
        for row, entry in entries
        if "metrics" in entry
    ]
    return _further_table("Objects at z > 2:", ["objects", *(HEADINGS[name] for name in names)], cells)


def _domain_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table comparing objects inside and outside the training domain."""
    cells = []
    for row in rows:
        if "outside" in (domain := row.get("domain", {})):
            both = (domain.get(side) for side in ("inside", "outside"))
            shares = ("–" if metrics is None else format_metric(metrics["eta_15"]) for metrics in both)
            cells.append(_named(row, str(domain["num_outside"]), *shares))
    heads = ["outside", "η (0.15) inside", "η (0.15) outside"]
    return _further_table("Inside and outside the training domain:", heads, cells)


def _pdf_table(rows: Sequence[Mapping[str, Any]], definitions: Mapping[str, str], of: str) -> list[str]:
    """Return the lines of the table of the metrics of distributions, for the methods that give them."""
    cells = [
        _named(row, *(format_metric(row["pdf_metrics"][name]) for name in PDF_HEADINGS))
        for row in rows
        if "pdf_metrics" in row
    ]
    explained = ["", *(f"- {head}: {definitions[name]}" for name, head in PDF_HEADINGS.items())]
    lines = _further_table(f"Distributions p(x){of or ' of the redshift'}:", [*PDF_HEADINGS.values()], cells)
    return [*lines, *explained] if cells else []


def latex_table(content: Mapping[str, Any]) -> str:
    """Return the table as a LaTeX ``tabular``."""
    rows, columns = content["rows"], _columns(content)
    heads = [*_NAMES, *(_LATEX[name] for name in columns)]
    lines = [
        r"\begin{tabular}{lll" + "r" * len(columns) + "}",
        r"\hline",
        " & ".join(heads) + r" \\",
        r"\hline",
    ]
    for row in rows:
        cells = [row[name].translate(_ESCAPED) or "--" for name in _NAMES]
        for name in columns:
            text = format_metric(row["metrics"][name]).replace("–", "--")
            cells.append("$" + text.replace(" ± ", r" \pm ") + "$")
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    }
)  # fmt: skip
_LATEX = {
    **HEADINGS,
    "r2": "$R^2$",
    "sigma_mad": r"$\sigma_\mathrm{MAD}$",
    "eta": r"$\eta_{5\sigma}$",
    "eta_15": r"$\eta_{0.15}$",
    "eta_05": r"$\eta_{0.05}$",
}
