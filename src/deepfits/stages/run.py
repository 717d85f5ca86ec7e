"""Stages `run` and `demo`: all stages from one file, and the demonstration.

A run file is TOML, with one section per stage whose keys are that stage's arguments. A section ``[run]``
names the run directory, and a model if none is to be trained; ``[images]`` names the images unless they are
simulated. Keys that are left out keep the stage's defaults. Every output has its standard name in the run
directory, where `report` finds it.
"""

import inspect
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from deepfits.config import arguments, as_json, convert, read_toml
from deepfits.errors import InputError, TooFewGalaxiesError, nearest
from deepfits.files import read_json, replace_files, write_json
from deepfits.progress import Progress
from deepfits.provenance import provenance, read_seconds
from deepfits.stages import load
from deepfits.stages.parameters import images_at
from deepfits.stages.stage import INPUT, NAMES_FILES, Common, field_names, stage
from deepfits.tables import exists

log = logging.getLogger(__name__)

# Keys that are not arguments of a stage, and their types.
_KEYS: dict[str, dict[str, Any]] = {
    "run": {"out": str, "model": str},
    "images": {"path": str | Sequence[str]},
    "fit": {"modes": Sequence[Literal["embedder", "optimise", "both"]]},
    "redshift": {"labels": str, "scenes": str, "scene_labels": int},
}
# The stages in order, and the arguments of each that `run` itself sets, which a run file therefore cannot.
_WIRED = {
    "simulate": {"out"},
    "stack": {"images", "out"},
    "detect": {"images", "out"},
    "cutouts": {"images", "out"},
    "train": {"store", "out"},
    "calibrate": {"model", "store", "out"},
    "fit": {"store", "model", "out", "mode", "held_out_only"},
    "inpaint": {"store", "model", "out"},
    "redshift": {"features", "out", "store", "embedder_features"},
    "report": {"run", "out"},
}
STAGES = tuple(_WIRED)
_SECTIONS = ("run", "images", *STAGES)
_PATHS = ("scenes", "photometry")  # paths that are not marked as inputs
_DEFAULT_SECTIONS = ("cutouts", "train", "fit", "inpaint", "report")


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A validated run file."""

    out: Path
    images: list[str] | None  # paths of the images; None if they are simulated
    model: str | None  # the model to use; None to train one
    sections: dict[str, dict[str, Any]]  # the arguments given for each stage that runs, by its name

    def to_json(self) -> dict[str, Any]:
        """Return the resolved configuration: the values of the file, and the defaults of all other keys."""
        resolved: dict[str, Any] = {"run": {"out": str(self.out)}}
        if self.model is not None:
            resolved["run"]["model"] = self.model
        if self.images is not None:
            resolved["images"] = {"path": images_at(self.images, os.path.abspath)}
        for name, given in self.sections.items():
            defaults = {
                key: parameter.default
                for key, parameter in inspect.signature(load(name)).parameters.items()
                if parameter.default is not inspect.Parameter.empty and key not in _WIRED[name] | {"progress"}
            }
            resolved[name] = as_json({**defaults, **given})
        return resolved


@dataclass(frozen=True)
class RunConfig(Common):
    """Parameters of `run`."""

    config: str | Path
    """Run file (TOML); see "Everything from one file" in docs/how-to/coadds-to-report.md."""
    _: KW_ONLY
    out: str | Path | None = None
    """Run directory; by default that of the file, or else the file's name without ``.toml``."""


@dataclass(frozen=True)
class DemoConfig(Common):
    """Parameters of `demo`."""

    out: str | Path = "demo"
    """Run directory."""


@stage(RunConfig, result="report")
def run(config: RunConfig) -> Path:
    """Run all stages from images to the report, as configured in one TOML file.

    The stages cutouts, train, fit, inpaint and report always run; the sections ``[simulate]``, ``[stack]``,
    ``[detect]`` and ``[redshift]`` add theirs, and a simulated sky always includes redshift. A model given in
    ``[run]`` takes the place of train and is calibrated on the cutouts; if it has a head, redshifts are also
    predicted without labels. An interrupted run continues when the same command is run again, since each
    stage keeps what it has finished.

    Returns
    -------
    Path
        The report, ``index.html``.

    Raises
    ------
    InputError
        The file cannot be read, or has an unknown section or key.

    Examples
    --------
    `deepfits run survey.toml`, with

        [images]
        path = "coadds"

        [train]
        recipe = "small"

        [redshift]
        labels = "spectra.csv"

    Or, for images in u g r i z, without training and without spectra:

        [run]
        model = "builtin:ugriz"

        [images]
        path = "coadds"
    """
    with _each_warning_once():
        content = read_run_file(config.config, out=config.out)
        _require_inputs(content)
        _require_settings(content)
        return _run(content, config.progress)


@stage(DemoConfig, result="report")
def demo(config: DemoConfig) -> Path:
    """Run the whole method on a small simulated sky, in 10 to 20 minutes on two cores.

    Simulates coadds, cuts out the objects, trains a model, fits it, predicts a hidden band and redshifts, and
    writes a report.

    Returns
    -------
    Path
        The report, ``index.html``.

    Examples
    --------
    `deepfits demo`
    """
    demo_toml = resources.files("deepfits") / "configs" / "demo.toml"
    with resources.as_file(demo_toml) as path, _each_warning_once():
        return _run(read_run_file(path, out=config.out), config.progress)


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Leave out warnings that a stage repeats, since several read the same labels and use the same model."""
    with ExitStack() as stack:
        for handler in (*logging.getLogger("deepfits").handlers, *logging.getLogger().handlers):
            handler.addFilter(once := _once())
            stack.callback(handler.removeFilter, once)
        yield


def _once() -> Callable[[logging.LogRecord], bool]:
    """Return a filter that lets each warning pass once."""
    messages: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        is_repeated = record.levelno >= logging.WARNING and record.getMessage() in messages
        messages.add(record.getMessage())
        return not is_repeated

    return is_new


def read_run_file(path: str | Path, *, out: str | Path | None = None) -> RunFile:
    """Read and check a run file. Relative paths in it are relative to the file's directory."""
    path = Path(path)
    content = read_toml(path, what="run file")
    for name, section in content.items():
        _check_section(path, name, section)
    out = Path(_resolve(path, content.get("run", {}).get("out", path.stem)) if out is None else out)
    is_simulated = "simulate" in content
    images = content.get("images", {}).get("path")
    if images is None and not is_simulated:
        raise InputError(
            f'{path}: no images; add [images] with path = "...", or [simulate] for a simulated sky'
        )
    model = content.get("run", {}).get("model")
    if model is not None and "train" in content:
        raise InputError(
            f"{path}: the model {model!r} of [run] takes the place of [train]; remove one of them"
        )
    if model is None and "calibrate" in content:
        raise InputError(
            f'{path}: a model that is trained needs no [calibrate]; remove it, or give [run] model = "..."'
        )
    if "detect" in content and "catalogue" in content.get("cutouts", {}):
        raise InputError(
            f"{path}: the catalogue of [cutouts] takes the place of [detect]; remove one of them"
        )
    default = {*_DEFAULT_SECTIONS, *(["redshift"] if is_simulated else [])}
    default = default - {"train"} | {"calibrate"} if model else default
    sections = {name: dict(content.get(name, {})) for name in STAGES if name in content or name in default}
    sections["inpaint"].setdefault("bands", None)  # chosen when the store is there
    for name, section in sections.items():
        function: Any = load(name)
        given = {key: section.get(key) for key in (*_PATHS, *field_names(function.config, INPUT))}
        section.update({k: _resolve(path, value) for k, value in given.items() if isinstance(value, str)})
        naming = {key: section[key] for key in field_names(function.config, NAMES_FILES) if key in section}
        section.update(replace_files(naming, str, base=path.parent))
    if images is None and "stack" in sections and not sections["simulate"].get("exposures"):
        raise InputError(f"{path}: [stack] needs exposures; add exposures = 3, say, to [simulate]")
    if is_simulated:
        sections["redshift"].setdefault("labels", str(out / "sky" / "truth.parquet"))
    elif "redshift" in sections and "labels" not in sections["redshift"]:
        raise InputError(
            f'{path}: [redshift] needs labels = "...": a table with object_id or ra, dec, and z_spec'
        )
    return RunFile(
        out=out,
        images=None if images is None else images_at(images, lambda image: _resolve(path, image)),
        model=None if model is None else _resolve(path, model),
        sections=sections,
    )


def _check_section(path: Path, name: str, section: Any) -> None:
    if name not in _SECTIONS:
        what = f"section [{name}]" if isinstance(section, dict) else f"key {name!r} outside of all sections"
        raise InputError(f"{path}: unknown {what}; {_where_to(name, _SECTIONS)}")
    if not isinstance(section, dict):
        raise InputError(f"{path}: {name} must be a section, [{name}], not a value")
    extra, valid = _KEYS.get(name, {}), _valid_keys(name)
    for key, value in section.items():
        if key not in valid:
            raise InputError(f"{path}: unknown key {key!r} in [{name}]; {_where_to(key, valid)}")
        if key in extra:
            convert(value, extra[key], where=f"{path} [{name}]", key=key)
    if name in STAGES:
        arguments(load(name), _stage_arguments(name, section), where=f"{path} [{name}]")


def _valid_keys(section: str) -> set[str]:
    own = inspect.signature(load(section)).parameters.keys() if section in STAGES else ()
    return {*own, *_KEYS.get(section, ())} - _WIRED.get(section, set()) - {"progress"}


def _where_to(key: str, valid: Collection[str]) -> str:
    """Say which section has a key, if another one, or else the nearest of the valid keys."""
    key = key.replace("-", "_")
    others = [f"[{section}]" for section in _SECTIONS if key in _valid_keys(section)]
    return f"it belongs to {' or '.join(others)}" if others and key not in valid else nearest(key, valid)


def _stage_arguments(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a section that are arguments of its stage."""
    return {key: value for key, value in section.items() if key not in _KEYS.get(name, {})}


def _resolve(path: Path, name: str) -> str:
    """Resolve a path in a run file relative to the file; ``builtin:`` models are returned unchanged."""
    if not name:
        raise InputError(f'{path}: a path is empty (""); name one, or leave the key out')
    return name if name.startswith("builtin:") else str(path.parent / Path(name).expanduser())


def _run(config: RunFile, progress: Progress) -> Path:
    out, sections = config.out, config.sections
    _refuse_foreign(out)
    if not (out / "config.json").exists():
        write_json(out / "config.json", config.to_json())
    write_json(out / "provenance.json", provenance())
    seconds = read_seconds(out)  # of all starts: what a former one finished is not done again
    seconds.pop("total", None)

    def call(name: str, *inputs: Any, **more: Any) -> Any:
        before = time.monotonic()
        log.info("stage %s", name)
        given = _stage_arguments(name, sections.get(name, {}))
        try:
            return load(name)(*inputs, **{**given, **more}, progress=progress)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - before
            write_json(out / "seconds.json", {**seconds, "total": sum(seconds.values())})

    images: Any = config.images
    if "simulate" in sections:
        call("simulate", out / "sky")
    if "stack" in sections:
        images = call("stack", images or out / "sky" / "exposures", out / "coadds")
    images = images or out / "sky"
    detected = {}
    if "detect" in sections:
        detected["catalogue"] = call("detect", images, out / "catalogue.parquet")
    store = call("cutouts", images, out / "cutouts", **detected)
    hidden = _bands_to_hide(store, sections["inpaint"]["bands"], config.model)
    if config.model is None:
        model = call("train", store, out / "model")
    else:
        model = config.model
        try:
            model = call("calibrate", config.model, store, out / "model")
        except TooFewGalaxiesError as error:
            log.warning("WARNING: %s; those measured in training are used", error)
    features = {}
    for mode in sections["fit"].get("modes") or ["both"]:
        # The other modes are for comparison only: no errors, and random starts for held-out objects only.
        how = {} if mode == "both" else {"uncertainty": False, "held_out_only": mode == "optimise"}
        features[mode] = call("fit", store, model, out / f"features-{mode}", mode=mode, **how)
    best = features.get("both", next(iter(features.values())))
    if hidden:
        sections["inpaint"]["bands"] = hidden
        call("inpaint", store, model, out / f"inpaint-{'-'.join(hidden)}", bands=hidden)
    redshifts: dict[str, Any] = {"out": out / "redshifts.parquet"}
    if "redshift" in sections:
        labels, embedder = Path(sections["redshift"]["labels"]), features.get("embedder")
        call("redshift", best, labels, out / "redshift", store=store, embedder_features=embedder)
        if "scenes" in sections["redshift"]:
            _from_scenes(call, sections["redshift"], store, labels, out / "scenes")
        redshifts["filters"] = sections["redshift"].get("filters", ())
        for adapted in sorted((out / "redshift" / "methods").glob("adapted-*"))[:1]:
            redshifts |= {"model": adapted, "features": best, "store": store}
    if config.model and "both" in features and _has_head(best):  # a head needs errors
        call("redshift_predict", **({"model": best} | redshifts))  # by its own head, if there is no other
    write_json(out / "config.json", config.to_json())  # not before: a stage may refuse a changed setting
    return call("report", out)


def _require_inputs(config: RunFile) -> None:
    """Raise `InputError` for a missing file that a stage will need after hours of others, such as labels."""
    made = os.path.abspath(config.out)
    needed = {"[run] model": config.model} | {
        f"[{name}] {key}": section.get(key)
        for name, section in config.sections.items()
        for key in ("scenes", *field_names(cast("Any", load(name)).config, INPUT))
    }
    for key, path in needed.items():
        is_path = isinstance(path, str) and not path.startswith("builtin:")
        if is_path and not Path(os.path.abspath(path)).is_relative_to(made) and not exists(path):
            raise InputError(f"{path}: no such file or directory ({key} of the run file); check the path")


def _require_settings(config: RunFile) -> None:
    """Raise `InputError` for settings that a stage would refuse only after hours of others."""
    from deepfits.stages.redshifts.compare import require_usable
    from deepfits.stages.train import recipe_of

    sections = config.sections
    if "train" in sections:
        section, cutting = sections["train"], sections["cutouts"]
        names = ("recipe", "options", "steps")
        chosen = recipe_of(**{name: section[name] for name in names if name in section})
        if section.get("embedder_only") is None and chosen.training.grid is None and "size" in cutting:
            replace(chosen.model, size=cutting["size"])
    if "redshift" in sections:
        labels = sections["redshift"]["labels"]  # which may still have to be simulated
        given = _stage_arguments("redshift", sections["redshift"])
        require_usable(labels if exists(labels) else None, **given)


def _refuse_foreign(out: Path) -> None:
    """Raise `InputError` if a file that a run writes is there, but was not written by one."""
    config = out / "config.json"
    if config.exists() and "run" in read_json(config, what="configuration of a run"):
        return
    for path in (config, out / "provenance.json", out / "seconds.json"):
        if path.exists():
            raise InputError(
                f"{path}: was not written by `deepfits run`, which would replace it; choose another run "
                "directory"
            )


def _has_head(features: Path) -> bool:
    """Return whether a head ships with the model of the features."""
    from deepfits.fitting.features import read_settings
    from deepfits.redshifts.head import head_directory

    try:
        head_directory(str(read_settings(features)["model_hash"]))
    except InputError as error:
        log.info("no redshifts without labels: %s", error)
        return False
    return True


def _bands_to_hide(store: Path, given: str | Sequence[str] | None, model: str | None) -> list[str]:
    """Return the bands to predict: those given, or else u or the first, if others remain to predict from.

    They are checked here, since training and fit come before their prediction.
    """
    from deepfits.stages.inpaint import bands_to_predict
    from deepfits.survey.bands import places_of
    from deepfits.survey.store import read_info

    bands = read_info(store).bands
    if not given:
        return [bands[places_of(["u"], bands)[0] or 0]] if len(bands) > 1 else []
    if model is not None:
        from deepfits.models.bundle import Model

        loaded = Model.load(model)
        bands = bands if loaded.grid is None else loaded.info.bands
    bands_to_predict(given, bands, model or store)
    return [given] if isinstance(given, str) else list(given)


def _from_scenes(call: Any, section: dict[str, Any], store: Any, labels: Path, out: Path) -> None:
    """Predict the same test objects with the head of a scene model: without labels, and adapted to some."""
    from deepfits.redshifts.dataset import make_dataset
    from deepfits.redshifts.labels import read_labels
    from deepfits.stages.redshifts.parameters import Matching
    from deepfits.survey.store import CutoutStore

    matched = {f.name: section[f.name] for f in fields(Matching) if f.name in section}
    chosen: dict[str, Any] = {"max_labels": section.get("scene_labels")}
    chosen |= {name: section[name] for name in ("train_select", "block_arcmin", "seed") if name in section}
    columns, by = CutoutStore(store).catalogue(["ra", "dec"]), Matching(**matched)
    columns["latent"] = np.zeros((len(columns["object_id"]), 1))
    known = read_labels(labels, column=by.label_column, select=by.select)
    radius = by.match_radius_arcsec
    dataset = make_dataset(columns, known, match=by.match, radius_arcsec=radius, fewest=1, **chosen)
    rows = np.sort(np.concatenate([dataset.split.test, dataset.split.fitted]))
    wanted = dataset.object_id[rows].tolist()
    features = call("fit", store, section["scenes"], out / "features", object_ids=wanted)
    heads = {"methods": ["pretrained", "adapted"], "feature_sets": None, "template_features": False}
    call("redshift", features, labels, out / "redshift", **matched, **chosen, **heads)
