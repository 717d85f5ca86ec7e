"""Every stage, run again: the same is kept; other contents or arguments are refused by name, or count."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io import fits

from deepfits.errors import InputError, explain
from deepfits.files import TEMPORARY_PREFIX
from deepfits.fitting.features import shard_paths
from deepfits.tables import read_table
from tests.helpers.results import assert_same_results
from tests.helpers.stage_runs import RUNS, Run, train_quickly

Change = Callable[[Path], None]


def pixels(*path: str) -> Change:
    """Make the images of a store or a sky brighter; names, sizes and identities stay."""

    def change(d: Path) -> None:
        place = d.joinpath(*path)
        if place.suffix == ".fits":
            with fits.open(place, mode="update") as hdus:
                hdus[0].data *= np.float32(1.25)
            return
        for shard in place.glob("shard-*.h5"):
            with h5py.File(shard, "r+") as file:
                file["image"][:] *= 1.25

    return change


def column(path: str, name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change one column of a table, or of a directory of tables."""

    def change(d: Path) -> None:
        for file in [d / path] if (d / path).is_file() else sorted((d / path).glob("shard-*.parquet")):
            table = pq.read_table(file)
            values = pa.array(list(make(table[name].to_numpy())), table[name].type)
            table = table.set_column(table.schema.get_field_index(name), name, values)
            pq.write_table(table, file)

    return change


def latents(path: str) -> Change:
    return column(path, "latent", lambda rows: 1.5 * np.stack(rows)[:, ::-1])


def other_model(d: Path) -> None:
    """Put another model of the same size there."""
    from deepfits.models.bundle import Model

    model = Model.load(d / "model")
    for parameter in model.generator.parameters():
        parameter.data.mul_(0.9)
    shutil.rmtree(d / "model")
    model.save(d / "model")


def other_predictor(d: Path) -> None:
    shutil.rmtree(d / "predictor")
    train_quickly(d, d / "predictor", feature_set="model")


@dataclass(frozen=True)
class Again:
    """A second run: what has changed, and what is said (None: the new result is made)."""

    stage: str
    change: Change | None = None
    options: dict[str, Any] | None = None
    said: str | None = None

    def __str__(self) -> str:
        return f"{self.stage}-{self.options or self.said or 'contents'}"


def shifted(values: np.ndarray) -> np.ndarray:
    return values + 0.03


CASES = [
    Again("simulate", column("given.parquet", "mag_g", shifted), said="input 'catalogue' has changed"),
    Again("simulate", options={"seed": 2}, said="seed = 1, now 2"),
    Again("stack", pixels("sky", "coadd-r.fits"), said="input 'images' has changed"),
    Again("stack", pixels("sky", "coadd-g.fits"), said="input 'grid' has changed|input 'images' has changed"),
    Again("stack", options={"clip": 3.0}, said="clip = 4.0, now 3.0"),
    Again("detect", pixels("sky", "coadd-r.fits"), said="input 'images' has changed"),
    Again("detect", options={"threshold": 3.0}, said="threshold"),
    Again("cutouts", pixels("sky", "coadd-r.fits"), said="input 'images' has changed"),
    Again(
        "cutouts",
        column("catalogue.parquet", "ra", lambda ra: ra + 1e-4),
        said="input 'catalogue' has changed",
    ),
    Again("cutouts", options={"size": 12}, said="size = 16, now 12"),
    Again("cutouts", options={"psf": ["0.9"]}, said="made without psf = "),
    Again("cutouts", options={"allow_missing": True}, said="allow_missing"),
    Again("train", pixels("store"), said="input 'store' has changed"),
    Again("train", options={"seed": 5}, said="seed"),
    Again("train", options={"where": "dec > 0.5"}, said="made without where = "),
    Again("calibrate", other_model, said="input 'model' has changed"),
    Again("calibrate", pixels("survey"), said="input 'store' has changed"),
    Again("calibrate", options={"max_objects": 200}, said="max_objects = 3000, now 200"),
    Again("fit", pixels("store")),
    Again("fit", other_model, said="input 'model' has changed"),
    Again("fit", options={"num_steps": 3}, said="num_steps = 2, now 3"),
    Again("fit", options={"where": "dec > 0.5"}, said="made without where = "),
    Again("fit", options={"object_ids": [100, 101]}, said="made without object_ids = "),
    Again("fit-coadds", options={"where": "ra > 0"}, said="made without where = "),
    Again("fit-coadds", pixels("sky", "coadd-r.fits")),
    Again("fit-coadds", column("catalogue.parquet", "ra", lambda ra: ra + 1e-5)),
    Again("fit-coadds", options={"cutting": {"shard_size": 5}}, said="made without cutting = "),
    Again("inpaint", pixels("store"), said="input 'store' has changed"),
    Again("inpaint", other_model, said="input 'model' has changed"),
    Again("inpaint", options={"where": "dec > 0.5"}, said="made without where = "),
    Again("inpaint", options={"bands": "r"}, said='bands = "g", now "r"'),
    Again("redshift", latents("features"), said="input 'features' has changed"),
    Again("redshift", column("labels.parquet", "z_spec", shifted), said="input 'labels' has changed"),
    Again("redshift", options={"seed": 3}, said="seed"),
    Again("redshift-beside", pixels("cutouts"), said="input 'store' has changed"),
    Again("redshift-beside", latents("guesses"), said="input 'embedder_features' has changed"),
    Again("redshift-beside", other_model, said="input 'model' has changed"),
    Again(
        "redshift-beside",
        column("labels.parquet", "mine", shifted),
        said="input 'labels' has changed",
    ),
    Again("redshift-curves", column("labels.parquet", "z_spec", shifted), said="input 'labels' has changed"),
    Again("redshift-curves", options={"match_radius_arcsec": 0.5}, said="match_radius_arcsec"),
    Again(
        "redshift-classes",
        column("labels.parquet", "kind", lambda k: np.roll(k, 1)),
        said="input 'labels' has changed",
    ),
    Again("redshift-classes", options={"seed": 3}, said="seed"),
    Again("redshift-train", column("labels.parquet", "z_spec", shifted), said="input 'labels' has changed"),
    Again("redshift-train", latents("features"), said="input 'features' has changed"),
    Again("redshift-train", options={"loss": "absolute"}, said="loss"),
    Again("redshift-predict", other_predictor),
    Again("redshift-predict", latents("features")),
    Again("redshift-predict-shards", other_predictor),
    Again("redshift-predict-shards", latents("features")),
    Again("redshift-evaluate", column("labels.parquet", "z_spec", shifted)),
    Again("redshift-evaluate", column("predicted.parquet", "z_phot", shifted)),
    Again("redshift-evaluate", options={"held_out_only": False}),
    Again("export", column("features-both", "chi2", shifted)),
    Again("export", options={"columns": ["object_id", "chi2"]}),
    Again("export", options={"where": "chi2 > 700"}),
    Again("export", options={"half": True}),
    Again("report", column("run/features-both", "chi2", lambda chi2: 2 * chi2)),
]


def test_every_stage_that_leaves_results_is_here():
    from deepfits.stages import MODULES

    without_results = {"check", "explore", "model", "plan", "run", "demo"}
    without_results |= {"show", "similar", "odd"}  # what they leave is made anew every time
    without_results |= {"redshift-pretrain"}  # draws skies for minutes: tests/redshifts/test_head.py, slow
    assert {name.replace("_", "-") for name in MODULES} - without_results <= set(RUNS)
    assert {case.stage for case in CASES} == set(RUNS)


@pytest.mark.parametrize("stage", RUNS)
def test_the_same_again_is_untouched(base: Path, first: Callable[[str], Path], tmp_path: Path, stage: str):
    shutil.copytree(first(stage), tmp_path / "before")
    RUNS[stage](base, first(stage))
    assert_same_results(first(stage), tmp_path / "before")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_differs_is_refused_by_name_or_counts(
    base: Path, first: Callable[[str], Path], tmp_path: Path, case: Again
):
    inputs, out, before = base, tmp_path / "out", first(case.stage)
    if case.change is not None:
        inputs = tmp_path / "inputs"
        shutil.copytree(base, inputs)
        case.change(inputs)
    shutil.copytree(before, out)
    options = case.options or {}
    if case.said is not None:
        with pytest.raises(InputError, match=case.said) as caught:
            RUNS[case.stage](inputs, out, **options)
        assert str(out) in str(caught.value)
        assert_same_results(out, before)
        return
    RUNS[case.stage](inputs, out, **options)
    RUNS[case.stage](inputs, tmp_path / "fresh", **options)
    assert_same_results(out, tmp_path / "fresh")
    with pytest.raises(AssertionError):
        assert_same_results(out, before)


def test_a_run_that_ended_before_its_summary_is_summarised_by_the_next(
    base: Path, first: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    shutil.copytree(first("fit"), out)
    shutil.copytree(base, tmp_path / "inputs")
    pixels("store")(tmp_path / "inputs")
    with monkeypatch.context() as patched:
        patched.setattr("deepfits.stages.fit._finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            RUNS["fit"](tmp_path / "inputs", out)
    RUNS["fit"](tmp_path / "inputs", out)
    RUNS["fit"](tmp_path / "inputs", tmp_path / "fresh")
    assert_same_results(out, tmp_path / "fresh")


def test_estimates_of_others_are_added_to_finished_rows(
    base: Path, first: Callable[[str], Path], tmp_path: Path
):
    out, mine = tmp_path / "out", tmp_path / "mine.parquet"
    shutil.copytree(first("redshift"), out)
    shutil.copy(base / "labels.parquet", mine)
    errors = []
    for make in (shifted, lambda values: values + 0.1):
        column("mine.parquet", "mine", make)(tmp_path)
        RUNS["redshift"](base, out, photoz=f"{mine}:mine")
        rows = {row["key"]: row for row in json.loads((out / "metrics.json").read_text())["rows"]}
        errors.append(rows["column-mine"]["metrics"]["bias"]["value"])
        assert "boosting-latents-squared" in rows
    assert errors[1] != errors[0]


UNFINISHED = [
    ("train", "store"),
    ("calibrate", "survey"),
    ("fit", "store"),
    ("inpaint", "store"),
    ("redshift", "features"),
    ("redshift-beside", "cutouts"),
    ("redshift-beside", "guesses"),
    ("redshift-curves", "features"),
    ("redshift-classes", "features"),
    ("redshift-train", "features"),
    ("redshift-predict", "features"),
    ("redshift-predict-shards", "features"),
    ("redshift-predict", "predictor"),
    ("export", "features-both"),
    ("report", "run/cutouts"),
    ("report", "run/features-both"),
]


@pytest.mark.parametrize(("stage", "place"), UNFINISHED)
def test_inputs_that_are_not_finished_are_refused(base: Path, tmp_path: Path, stage: str, place: str):
    """5 of 26 shards are done; nothing is made of them unless it is asked for."""
    shutil.copytree(base, tmp_path / "inputs")
    states = ["done"] * 5 + ["missing"] * 21
    lines = [json.dumps({"state": state}) for state in states]
    (tmp_path / "inputs" / place / "_manifest.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"{place}: is not finished \(5 of 26 shards are done\).*partial"):
        RUNS[stage](tmp_path / "inputs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "name"),
    [("export", "all.parquet"), ("report", "index.html"), ("redshift-predict", "z.parquet")],
)
def test_foreign_files_are_never_replaced(base: Path, tmp_path: Path, stage: str, name: str):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=str(out)):
        RUNS[stage](base, out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("read", [shard_paths, read_table])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_features_are_regular_files(tmp_path: Path, read: Callable[[Path], Any], make: Callable[[Path], Any]):
    pq.write_table(pa.table({"object_id": [7]}), tmp_path / "shard-00000.parquet")
    pq.write_table(pa.table({"object_id": [8]}), tmp_path / "mine.parquet")
    assert shard_paths(tmp_path) == [tmp_path / "shard-00000.parquet"]
    assert read_table(tmp_path)["object_id"].tolist() == [7]
    make(tmp_path / "shard-00001.parquet")
    with pytest.raises(InputError, match=r"shard-00001\.parquet: is not a regular file"):
        read(tmp_path)


@contextmanager
def small_disk(place: Path, num_bytes: int) -> Iterator[None]:
    """Mount a file system of this size."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _in_a_child(run: Run, base: Path, out: Path, said: Path, largest_file: int | None) -> None:
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        run(base, out)
    except Exception as error:
        message = explain(error) or f"defect: {error!r}"
        os.write(descriptor := os.open(said, os.O_WRONLY), message.encode()[:2000])
        os.close(descriptor)
        sys.exit(2)


def run_short_of_space(
    stage: str, base: Path, out: Path, largest_file: int | None = None
) -> tuple[int | None, str]:
    """Run a stage in a process of its own; return its status (negative: a signal) and what it said."""
    with tempfile.TemporaryDirectory() as elsewhere:
        (said := Path(elsewhere) / "said").touch()
        arguments = (RUNS[stage], base, out, said, largest_file)
        process = multiprocessing.get_context("fork").Process(target=_in_a_child, args=arguments)
        process.start()
        process.join()
        return process.exitcode, said.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["disk", "file"])
@pytest.mark.parametrize("stage", RUNS)
def test_no_space_is_one_line_and_the_next_run_ends_well(
    base: Path, first: Callable[[str], Path], tmp_path: Path, stage: str, kind: str
):
    """On a disk that is too small, and with files that may not grow, at several moments of each stage."""
    sizes = [path.stat().st_size for path in first(stage).rglob("*") if path.is_file()]
    whole = sum(size + 4096 for size in sizes) if kind == "disk" else max(sizes)
    for part in (0.02, 0.3, 0.6, 0.9):
        place, limit = tmp_path / f"{kind}-{part}", max(int(part * whole), 4096)
        with ExitStack() as stack:
            if kind == "disk":
                stack.enter_context(small_disk(place, limit))
            place.mkdir(exist_ok=True)
            status, said = run_short_of_space(stage, base, place / "out", limit if kind == "file" else None)
            if status == 0:  # blocks are coarse: it had just enough
                assert part > 0.5
                continue
            assert status == 2, said
            assert "make space" in said
            assert "\n" not in said
            assert not [path for path in place.rglob("*") if TEMPORARY_PREFIX in path.name]
            if kind == "disk":
                options = f"remount,size={4 * whole + (1 << 20)}"
                subprocess.run(["mount", "-o", options, str(place)], check=True)
            assert run_short_of_space(stage, base, place / "out") == (0, "")
            assert_same_results(place / "out", first(stage))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model/metrics.jsonl", '{"step": 1, "discriminator": {}, "generator": 1, "embedder": 1}', "model: "),
        ("model/metrics.jsonl", "[" * 100_000, "metrics.jsonl: cannot read"),
        ("features-both/_features.json", '{"settings": ["a"]}', "_features.json: settings must be a mapping"),
        ("provenance.json", '{"versions": null}', "provenance.json: not the provenance"),
        ("seconds.json", '{"fit": "<script>"}', "seconds.json: fit must be a finite number"),
    ],
)
def test_a_report_of_records_that_others_wrote_is_one_line(
    base: Path, tmp_path: Path, name: str, content: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda *args, **kwargs: None)  # the pictures take their time
    shutil.copytree(base / "run", tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        RUNS["report"](tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
