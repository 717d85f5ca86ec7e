"""The parts of `report`: read the results of a run, measure them, and write the page.

Shapes: N held-out objects, B bands, H, W pixels.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from deepfits.errors import InputError, naming
from deepfits.explorer.joined import FEATURES, find_predictions, warn_of_other_features
from deepfits.files import parse_json, read_json, read_text, reading_record, write_json
from deepfits.fitting.features import is_finished, read_settings, shard_paths
from deepfits.fitting.similarity import Similarity
from deepfits.models.bundle import BUILTIN_PREFIX, Model, find_builtin, list_builtin
from deepfits.photometry import aperture_flux
from deepfits.provenance import provenance, read_seconds
from deepfits.reporting import inpainting, redshift_section, sections
from deepfits.reporting.fit_section import chi2_summary, fit_section
from deepfits.reporting.held_out import (
    FAINT,
    FitResult,
    HeldOut,
    central_circle,
    choose_examples,
    reduced_chi2,
)
from deepfits.reporting.latent_section import latent_section
from deepfits.reporting.page import Section, write_page
from deepfits.results import read_record, require_finished, warn_of_other_inputs
from deepfits.splits import is_held_out, unit_hash
from deepfits.stages.report_knowledge import knowledge
from deepfits.stages.stage import claim
from deepfits.survey.neighbours import neighbours_of
from deepfits.survey.store import CutoutStore
from deepfits.tables import from_arrow, match_identities, read, read_table, take_rows
from deepfits.tables.values import is_redshift_name

log = logging.getLogger(__name__)

MODES = ("embedder", "optimise", "both")
EXPLANATIONS = {
    "embedder": "the embedder's estimate of the latent, from one pass of a network.",
    "optimise": "the latent fitted from a random start.",
    "both": "the latent fitted from the embedder's estimate (M19 §2.3).",
}
MAX_DRAWN = 1000  # objects whose best-fit images are drawn again, to measure χ² in the centre
DRAWN_AT_ONCE = 250
NO_OBJECTS = np.empty(0, dtype=np.int64)
_SHOWN_SETTINGS = (
    "solver", "objective", "num_steps", "prior_strength", "amplitudes", "neighbours",
    "num_starts",
)  # fmt: skip


def write_report(config: Any) -> Path:
    """Read and measure the results of a run, and write the page; for `config` see `ReportConfig`."""
    run = Path(config.run)
    store, model = (
        run / name if given is None else Path(given)
        for name, given in (("cutouts", config.store), ("model", config.model))
    )
    target = run / "report" if config.out is None else Path(config.out)
    if not run.is_dir():
        raise InputError(f"{run}: no such run directory; give the one that holds cutouts/ and model/")
    if config.store is None and not store.exists():
        if not any((run / name).exists() for name in FEATURES):
            raise InputError(f"{run}: neither cutouts nor features are there; give a run directory")
        raise InputError(f"{run}: the report needs the cutouts; give their store (store=...)")
    made = [*sorted(run.glob("features-*")), *sorted(run.glob("inpaint-*")), run / "redshift"]
    for path in filter(Path.exists, [store, model, *made]):
        require_finished(path, partial=config.partial)
    opened = CutoutStore(store, skip_bad=True, where=config.where)
    trained = _load_model(run, model)
    if trained is not None:
        opened = trained.open(opened)
    for reason in opened.bad.values():
        log.warning("%s", reason)
    warn_of_other_features(run, [run / "redshift", *find_predictions(run).values()])
    if trained is not None:
        warn_of_other_inputs(run.glob("inpaint-*"), "model", [trained.fingerprint])
    with (
        claim(config, name="report", out=target, renew=True),
        config.progress("report", total=5, unit="parts") as task,
    ):
        held = _read_held_out(opened, config, run)
        counts = {} if config.where else _read_counts(store)  # they are for the whole store
        parts = [sections.sky_section(held, len(opened), counts, config.where)]
        examples = [str(held.object_id[row]) for row in held.examples]
        summary: dict[str, Any] = {
            "num_objects": len(opened),
            "num_held_out_read": len(held.object_id),
            "examples": examples,
        }
        task.advance()
        parts.append(_training(model, trained, store))
        task.advance()
        fit_sections, figures = _fits(run, trained, held, opened)
        parts += fit_sections
        summary |= figures
        task.advance()
        inpainted, summary["inpaint"] = _inpainting(run, store, model, held)
        parts.append(inpainted)
        task.advance()
        redshifts, summary["redshift"] = _redshifts(run, store)
        parts += [redshifts, sections.next_section(run, next(iter(examples), None))]
        title = config.title or f"deepfits: {opened.info.survey or run.resolve().name}"
        headline, footer = _headline(summary), _footer(run)
        path = write_page(target, title=title, headline=headline, sections=parts, footer=footer)
        write_json(target / "summary.json", summary)
        task.advance()
    return path


def _read_held_out(store: CutoutStore, config: Any, run: Path) -> HeldOut:
    num_examples = config.num_examples
    rows = np.flatnonzero(is_held_out(store.catalogue([])["object_id"])) if len(store) else NO_OBJECTS
    if not len(rows):
        raise InputError(f"{store.directory}: no held-out object among {len(store)}; a report needs some")
    cutouts = store.take(rows[: config.max_objects])
    image, weight = cutouts.image, cutouts.weight
    circle = central_circle(store.info.size, store.info.pixel_scale_arcsec)
    flux, error = aperture_flux(image, weight, circle)
    signal = np.sqrt(np.nansum(np.clip(flux / error, 0, None) ** 2, axis=1))
    has_band = (weight > 0).any(axis=(0, 2, 3))
    is_whole = (weight[:, has_band] > 0).all(axis=(1, 2, 3))
    flags = cutouts.catalogue.get("flags")
    if flags is not None and flags.dtype.kind in "iu" and (is_whole & (flags == 0)).any():
        is_whole &= flags == 0
    ranking = np.where(is_whole, signal, np.nan) if is_whole.any() else signal
    # If the fits masked pixels of neighbours, χ² is measured on the same pixels throughout.
    fitted = [run / f"features-{mode}" for mode in MODES if is_finished(run / f"features-{mode}")]
    masks_neighbours = any(read_settings(place).get("neighbours") == "mask" for place in fitted)
    own = np.where(neighbours_of(cutouts, store.info)[:, None], 0, weight) if masks_neighbours else weight
    return HeldOut(
        cutouts=cutouts,
        info=store.info,
        flux=flux,
        flux_error=error,
        signal_to_noise=signal,
        own_weight=own,
        blank=reduced_chi2(image, 0.0, own),
        blank_central=reduced_chi2(image, 0.0, own * (circle > 0.5)),
        examples=choose_examples(ranking, num_examples),
        faint=choose_examples(ranking, num_examples // 2, FAINT)
        if is_whole.sum() > num_examples
        else NO_OBJECTS,
    )


def _load_model(run: Path, path: Path) -> Model | None:
    """Load the run's model, or the shipped model that made its features; None without either."""
    for features in sorted(run.glob("features-*")) if not path.exists() else ():
        if builtin := find_builtin(_model_of(features)):
            return builtin
    try:
        return Model.load(path)
    except InputError as error:
        log.warning("%s", error)
        return None


def _model_of(features: Path) -> str | None:
    """Return the fingerprint of the model that features were fitted with; None if it is not recorded."""
    made_with = read_settings(features).get("model_hash") if is_finished(features) else None
    return made_with or read_record(features).get("inputs", {}).get("model")


def _is_of(model: Model, features: Path) -> bool:
    """Return whether features were fitted with this model, without which their best fits cannot be drawn."""
    if (made_with := _model_of(features)) in (None, model.fingerprint):
        return True
    log.warning(
        "WARNING: %s: left out: fitted with another model (%s); fit again, or give that one (model=...)",
        *(features, made_with),
    )
    return False


_COUNTS = {
    "num_incomplete": "objects lack data in some pixel or band",
    "num_outside_every_image": "lie outside every image",
    "num_duplicates_left_out": "were left out as duplicates",
}


def _read_counts(store: Path) -> dict[str, int]:
    """Return the counts in the store's ``summary.json``, by their description; empty without one."""
    path = store / "summary.json"
    content = read_json(path, what="summary of the cutouts") if path.exists() else {}
    return {words: content[name] for name, words in _COUNTS.items() if isinstance(content.get(name), int)}


def _training(path: Path, model: Model | None, store: Path) -> Section:
    if model is None:
        shipped = ", ".join(BUILTIN_PREFIX + name for name in list_builtin())
        what = f"no finished model, and no features made with a model shipped with the package ({shipped})"
        return _missing_section("Training", what, f"train {store} --out {path}")
    record = path / "metrics.jsonl"
    if not record.exists() and find_builtin(model.fingerprint):
        text = (
            "The model was shipped with the package, not trained on these images. It was trained on: "
            f"{model.info.survey}."
        )
        calibrated = "Its errors of fluxes and its scale of anomalies were measured on these images."
        return Section(title="Training", paragraphs=[text, *([calibrated] if model.calibration else [])])
    lines = read_text(record, what="record of the training").splitlines() if record.exists() else []
    metrics = [parse_json(line, where=record, what="record of the training") for line in lines]
    with reading_record(path, what="record of a training"):
        return sections.training_section(model.card, metrics)


def _fits(
    run: Path, model: Model | None, held: HeldOut, store: CutoutStore
) -> tuple[list[Section], dict[str, Any]]:
    """Return the sections on fits (each mode that the run has) and latents, and their figures."""
    fits = {
        mode: _read_fit(run / f"features-{mode}", model, held)
        for mode in MODES
        if model is not None
        and any((run / f"features-{mode}").glob("shard-*.parquet"))
        and _is_of(model, run / f"features-{mode}")
    }
    if not fits:
        command = f"fit {store.directory} MODEL --out {run}/features-both"
        return [_missing_section("Best fits", "no features", command)], {"fits": {}}
    how = {mode: EXPLANATIONS[mode] + _fit_settings(run / f"features-{mode}", mode) for mode in fits}
    latents, knows = _latents(run, held, fits, store)
    shown = [fit_section(held, fits, how), latents]
    return shown, {"knows": knows, "fits": chi2_summary(held, fits)}


def _read_fit(directory: Path, model: Model, held: HeldOut) -> FitResult:
    columns = ["object_id", "latent", "embedding", "chi2", "dof", "status", "num_steps"]
    per_band = [f"{name}_{band}" for name in ("chi2", "dof", "amplitude") for band in held.bands]
    is_selected = pa.dataset.field("object_id").isin(held.object_id.tolist())
    with naming(directory, "cannot read these features of this store", "fit again"):
        table = pa.dataset.dataset(shard_paths(directory)).to_table(
            columns=[*columns, *per_band], filter=is_selected
        )
    rows = match_identities(held.object_id, from_arrow(table["object_id"]))
    if (rows < 0).all():
        raise InputError(f"{directory}: has none of the held-out objects; fit the same store again")

    def column(name: str) -> np.ndarray:
        return np.where(rows >= 0, table[name].to_numpy().astype(float)[rows], np.nan)

    def reduced(of: str = "") -> np.ndarray:
        dof = column(f"dof{of}")
        return column(f"chi2{of}") / np.where(dof > 0, dof, np.nan)

    status = np.asarray(table["status"].to_pylist(), dtype=object)[rows]
    latent, embedding = (
        take_rows(from_arrow(table[name]).astype(np.float32), rows) for name in ("latent", "embedding")
    )
    amplitude = {f"amplitude_{band}": column(f"amplitude_{band}") for band in held.bands}
    central, drawn = _draw_best_fits({"latent": latent, **amplitude}, model, held)
    return FitResult(
        chi2=column("chi2"),
        reduced=reduced(),
        reduced_band=np.stack([reduced(f"_{band}") for band in held.bands], axis=1),
        status=np.where(rows >= 0, status, "").astype(str),
        num_steps=column("num_steps"),
        latent=latent,
        embedding=embedding,
        central=central,
        drawn=drawn,
    )


def _draw_best_fits(
    columns: Mapping[str, np.ndarray], model: Model, held: HeldOut
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Draw the best fits of the examples and of a random sample again.

    Returns the reduced χ² in the centre, ``(N,)``, NaN for objects that are not drawn, and the images of the
    examples by row.
    """
    drawn: dict[int, np.ndarray] = {}
    central, info = np.full(len(held.object_id), np.nan), held.info
    is_central = central_circle(info.size, info.pixel_scale_arcsec) > 0.5
    shown = np.concatenate([held.examples, held.faint])
    sample = np.setdiff1d(np.argsort(unit_hash(held.object_id, "report"))[:MAX_DRAWN], shown)
    for some in (shown, *np.array_split(sample, -(-len(sample) // DRAWN_AT_ONCE) or 1)):
        cutouts = held.cutouts.take(some)
        images = model.draw(columns, some, sight=model.sight(cutouts, info))
        central[some] = reduced_chi2(cutouts.image, images, held.own_weight[some] * is_central)
        if some is shown:
            drawn = dict(zip(shown.tolist(), images, strict=True))
    return central, drawn


def _latents(
    run: Path, held: HeldOut, fits: Mapping[str, FitResult], store: CutoutStore
) -> tuple[Section, list[dict[str, Any]]]:
    """Return the section on the latents of the last mode, and how well they predict a simulation's truth."""
    mode = list(fits)[-1]
    features, embedding = run / f"features-{mode}", fits[mode].embedding
    tables, known = knowledge(run, features, store)
    coordinates = Similarity.read(features, embedding.shape[1]).coordinates(embedding)
    return latent_section(held, fits, _known_redshifts(run, held), coordinates, tables), known


def _fit_settings(directory: Path, mode: str) -> str:
    """Describe the settings of a fit, from its ``_features.json``."""
    if mode == "embedder" or not is_finished(directory):
        return ""
    used = read_settings(directory)
    words = [f"{name.replace('_', ' ')} {used[name]}" for name in _SHOWN_SETTINGS if used.get(name)]
    return " Settings: " + ", ".join(words) + "."


def _inpainting(run: Path, store: Path, model: Path, held: HeldOut) -> tuple[Section, dict[str, Any]]:
    directories = sorted(p for p in run.glob("inpaint-*") if p.is_dir())
    if not directories:
        command = f"inpaint {store} {model if model.exists() else 'MODEL'} --out {run}/inpaint-u --band u"
        return _missing_section("Missing bands", "no inpainting", command), {}
    with reading_record(directories[0].with_name("inpaint-*"), what="predictions"):
        return inpainting.section(directories, held)


def _known_redshifts(run: Path, held: HeldOut) -> dict[str, np.ndarray]:
    """Return ``z_spec`` of the held-out objects, if the run has redshift predictions."""
    path = run / "redshift" / "predictions.parquet"
    columns = read_table(path) if path.exists() else {}
    if "z_spec" not in columns:  # none, or of another property
        return {}
    return {"z_spec": take_rows(columns["z_spec"], match_identities(held.object_id, columns["object_id"]))}


def _redshifts(run: Path, store: Path) -> tuple[Section, dict[str, Any]]:
    compared, summary = _compared_redshifts(run, store)
    wanted = ("object_id", *redshift_section.PREDICTED)  # not the quantiles
    found = {path.name: read(path, columns=wanted) for path in find_predictions(run).values()}
    predicted = {name: table.columns for name, table in found.items() if "z_err68_low" in table.columns}
    if not predicted:
        return compared, summary
    num_train = {name: table.info.get("num_train") for name, table in found.items()}
    table, picture = redshift_section.predicted(predicted, num_train)
    return replace(
        compared, tables=[*compared.tables, table], pictures=[*compared.pictures, picture]
    ), summary


def _compared_redshifts(run: Path, store: Path) -> tuple[Section, dict[str, Any]]:
    """Return the section on redshifts that were compared with known ones."""
    path = run / "redshift" / "metrics.json"
    if not path.exists():
        command = f"redshift {run}/features-both spectra.csv --out {run}/redshift --store {store}"
        return _missing_section("Redshifts", "no comparison with known redshifts", command), {}
    with reading_record(path, what="redshift metrics"):
        metrics = read_json(path, what="redshift metrics")
        if not is_redshift_name(metrics["target"]):
            text = f"{path.parent} holds predictions of {metrics['target']}: see table.md there."
            return Section(title="Redshifts", paragraphs=[text]), {}
        more = run / "scenes" / "redshift" / "metrics.json"
        scenes = read_json(more, what="redshift metrics") if more.exists() else None
        return redshift_section.section(path.parent, metrics, scenes)


def _missing_section(title: str, what: str, command: str) -> Section:
    return Section(title=title, commands={command: f"This run directory has {what}."})


def _headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    headline = [(f"{summary['num_objects']:,}", "objects")]
    medians = {mode: fit["all"]["median_reduced_chi2"] for mode, fit in summary["fits"].items()}
    mode = next(reversed(medians), "blank")
    if mode != "blank" and medians[mode] is not None:
        words = f"median reduced χ² (a blank image: {medians['blank']:.2f})"
        headline.append((f"{medians[mode]:.2f}", words))
    for part in ("inpaint", "redshift"):
        headline += [(text, name) for name, text in summary[part].get("headline", {}).items()]
    return headline


def _footer(run: Path) -> list[str]:
    path = run / "provenance.json"
    source = read_json(path, what="provenance") if path.exists() else provenance()
    with reading_record(path, what="provenance"):
        versions = source["versions"]
        lines = [
            f"deepfits {versions.get('deepfits', '')}, commit {source['commit'] or 'unknown'}, "
            f"{source['time_utc']}, {source['hardware']['processor']}, {source['hardware']['cores']} cores",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
            "Method: Murray, Fabbro & Yi (2019), Unsupervised Learning of Deep Features Through Best-Fits "
            "for Observational Cosmology.",
        ]
    if seconds := read_seconds(run):
        lines.insert(1, "Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return lines
