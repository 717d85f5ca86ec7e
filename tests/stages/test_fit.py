"""The stages `fit` and `inpaint`: files in, files out, resumable, and refusals."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deepfits.errors import InputError
from deepfits.fitting.features import read_features
from deepfits.fitting.settings import FitSettings
from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.photometry import GROWTH_ARCSEC, ab_magnitude, circular_aperture
from deepfits.splits import is_held_out
from deepfits.stages.fit import fit
from deepfits.stages.inpaint import inpaint
from deepfits.survey.coverage import valid_fractions
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from tests.helpers.small_model import BANDS, INFO, make_model

NUM = 24


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Draw cutouts from a model itself, so that a perfect fit exists; give store, model, and truth."""
    directory = tmp_path_factory.mktemp("sky")
    model = make_model(directory / "model")
    latent = torch.randn(2 * NUM, 8)
    clean = model.render(latent).numpy()
    rng = np.random.default_rng(4)
    image = (clean + rng.normal(size=clean.shape)).astype(np.float32)
    weight = np.ones_like(image)
    weight[5, 0] = 0  # no g band
    weight[6] = 0  # nothing
    create_store(directory / "store", INFO)
    for number in range(2):
        rows = slice(number * NUM, (number + 1) * NUM)
        cutouts = Cutouts(
            object_id=np.arange(2 * NUM)[rows] + 100,
            image=image[rows],
            weight=weight[rows],
            catalogue={"ra": np.arange(2.0 * NUM)[rows], "dec": np.zeros(NUM), "mag_i": np.zeros(NUM)},
        )
        write_shard(directory / "store" / shard_name(number), cutouts, INFO)
    return directory / "store", directory / "model", latent.numpy(), clean


@pytest.fixture(scope="module")
def fitted(sky, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "optimise"
    # A sky without galaxies: what an untrained generator draws has no middle that others surround.
    return fit(sky[0], sky[1], out, mode="optimise", num_starts=3, neighbours="keep", threads=1)


def test_features_say_what_the_page_says(fitted, sky):
    columns = read_features(fitted)
    expected = ["object_id", "ra", "latent", "latent_std", "chi2", "dof", "loss", "status", "num_steps"]
    expected += ["spread", "spread_err"]
    for band in BANDS:
        expected += [f"{n}_{band}" for n in ("chi2", "dof", "amplitude", "amplitude_err")]
        expected += [f"flux_model_{band}", f"flux_model_err_{band}", f"flux_aper_model_{band}"]
        expected += [f"half_light_arcsec_{band}", f"concentration_{band}"]
    assert set(expected) <= set(columns)
    assert columns["latent"].shape == (2 * NUM, 8)
    assert columns["latent"].dtype == np.float32
    np.testing.assert_array_equal(columns["object_id"], np.arange(2 * NUM) + 100)
    assert (columns["model_hash"] == Model.load(sky[1]).fingerprint).all()
    summary = json.loads((fitted / "_features.json").read_text())["summary"]
    assert summary["num_objects"] == 2 * NUM
    assert np.isnan(columns["spread"]).all()  # of a store that knows no seeing


def test_fit_and_inpaint_need_none_of_the_extras(sky, tmp_path):
    """As the installation's page says; of stores that know the neighbours, as those that are cut do."""
    cutouts = CutoutStore(sky[0]).take(np.arange(NUM))
    create_store(tmp_path / "store", INFO)
    known = replace(cutouts, is_neighbour=np.zeros((NUM, 16, 16), bool))
    write_shard(tmp_path / "store" / shard_name(0), known, INFO)
    extras = ["sep", "reproject", "galsim", "speclite", "lightning", "sklearn", "xgboost", "tpot"]
    extras += ["matplotlib", "jinja2", "starlette", "PIL", "dask", "hats"]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({extras}))\n"
        "import deepfits\n"
        f"given = {str(tmp_path / 'store')!r}, {str(sky[1])!r}\n"
        f"deepfits.fit(*given, {str(tmp_path / 'features')!r}, num_starts=1, threads=1)\n"
        f"deepfits.inpaint(*given, {str(tmp_path / 'inpainted')!r}, bands=['i'], threads=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read_features(tmp_path / "features")["object_id"]) == NUM


def test_the_documented_lines_read_what_fit_writes(fitted):
    page = (Path(__file__).parents[2] / "docs/how-to/scale.md").read_text()
    block = page.split("The features are plain Parquet files:")[1].split("```python\n")[1].split("```")[0]
    names = {
        name: importlib.import_module(name) for name in ("pandas", "polars", "duckdb", "pyarrow.dataset")
    }
    names["pyarrow"] = importlib.import_module("pyarrow")
    expected = read_features(fitted)["object_id"].tolist()
    assert len(block.splitlines()) == 4
    for line in block.splitlines():
        found = eval(line.replace("run/features-both", str(fitted)), names)  # our own page
        found = found.df() if line.startswith("duckdb") else found
        ids = found["object_id"]
        ids = ids.to_pylist() if hasattr(ids, "to_pylist") else list(ids)
        assert sorted(ids) == sorted(expected), line


def test_a_list_of_stores_is_refused_unless_it_has_one(sky, tmp_path):
    store, model, *_ = sky
    found = read_features(fit([store], model, tmp_path / "one", mode="embedder"))
    assert len(found["object_id"]) == 2 * NUM
    with pytest.raises(InputError, match="give one store"):
        fit([store, store], model, tmp_path / "several")


def test_chi2_is_that_of_the_rendered_latent(fitted, sky):
    columns, model = read_features(fitted), Model.load(sky[1])
    from deepfits.survey.store import CutoutStore

    shard = CutoutStore(sky[0]).read_shard(1)
    amplitude = np.stack([columns[f"amplitude_{band}"] for band in BANDS], axis=1)[NUM:, :, None, None]
    drawn = amplitude * model.render(torch.from_numpy(columns["latent"][NUM:])).numpy()
    chi2 = (shard.weight * (shard.image - drawn) ** 2).sum((1, 2, 3))
    # Beyond the stretch (two hopeless starts among 24) the fit draws a straight line, the model a sinh.
    within = np.abs(drawn / amplitude).max((1, 2, 3)) < 1e6
    assert within.sum() >= 20
    np.testing.assert_allclose(columns["chi2"][NUM:][within], chi2[within], rtol=1e-4)
    # The data were drawn from this model: what remains is noise.
    assert 0.9 < np.nanmedian(columns["chi2"] / columns["dof"]) < 1.1


def test_half_of_the_light_lies_within_the_half_light_radius(fitted, sky):
    """Of the drawn images, measured anew with an aperture of that radius."""
    columns, model = read_features(fitted), Model.load(sky[1])
    info, band = model.info, len(BANDS) - 1
    drawn = model.render(torch.from_numpy(columns["latent"]))[:, band].numpy()
    radius = columns[f"half_light_arcsec_{BANDS[band]}"]
    has_light = np.flatnonzero(np.isfinite(radius))
    assert len(has_light) > NUM
    largest = circular_aperture(info.size, min(GROWTH_ARCSEC / info.pixel_scale_arcsec, info.size) / 2)
    for row in has_light:
        circle = circular_aperture(info.size, radius[row] / info.pixel_scale_arcsec)
        total = (drawn[row] * largest).sum()
        # between two of 16 circles the light is taken to grow evenly
        assert (drawn[row] * circle).sum() / total == pytest.approx(0.5, abs=0.12)


def test_missing_bands_and_objects_are_flagged(fitted):
    columns = read_features(fitted)
    assert columns["dof_g"][5] == 0
    assert columns["chi2_g"][5] == 0
    assert np.isfinite(columns["latent"][5]).all()
    assert np.isfinite(columns["flux_model_g"][5])
    assert columns["flux_model_err_g"][5] > 0
    assert columns["status"][6] == "too_little_data"
    assert np.isnan(columns["latent"][6]).all()
    assert columns["dof"][6] == 0


def test_reconstructions_are_what_chi2_was_taken_of(sky, tmp_path):
    out = fit(
        sky[0], sky[1], tmp_path / "r", amplitudes="fit", neighbours="keep", reconstructions=True, threads=1,
        uncertainty=False,
    )  # fmt: skip
    columns = read_features(out)
    with h5py.File(out / "shard-00001.h5") as file:
        assert file["model"].shape == (NUM, 3, 16, 16)
        chi2 = np.square(file["residual"][:]).sum((1, 2, 3))  # the weights are 1
    np.testing.assert_allclose(columns["chi2"][NUM:], chi2, rtol=1e-3)
    assert np.isnan(columns["latent_std"]).all()
    amplitudes = np.stack([columns[f"amplitude_{band}"] for band in BANDS])
    assert np.nanstd(amplitudes) > 1e-3


def test_amplitudes_after_the_fit_leave_the_latent_alone(sky, tmp_path):
    settled = FitSettings()
    assert (settled.amplitudes, settled.prior_strength, settled.neighbours) == ("after", 1.0, "mask")
    paper = FitSettings(objective="paper")
    assert (paper.amplitudes, paper.prior_strength) == ("none", 0.0)
    after, none = (
        read_features(
            fit(sky[0], sky[1], tmp_path / str(name), amplitudes=name, neighbours="keep", threads=1)
        )
        for name in (None, "none")
    )
    np.testing.assert_array_equal(after["latent"], none["latent"])
    for band in BANDS:
        good = (after["status"] == "converged") & (after[f"dof_{band}"] > 0)
        assert good.sum() > NUM
        assert (after[f"chi2_{band}"][good] <= none[f"chi2_{band}"][good] + 0.1).all()
        ratio = after[f"flux_cutout_model_{band}"] / none[f"flux_cutout_model_{band}"]
        np.testing.assert_allclose(ratio[good], after[f"amplitude_{band}"][good], rtol=1e-4)
        assert (after[f"flux_model_err_{band}"][good] > 0).all()
    assert (after["chi2"] < none["chi2"]).mean() > 0.9


def test_pixels_of_neighbours_have_no_influence(sky, tmp_path):
    """Whatever stands in them; and they are not counted in χ²."""
    from dataclasses import replace

    from deepfits.survey.store import CutoutStore, create_store, shard_name, write_shard

    store = CutoutStore(sky[0])
    others = np.zeros((NUM, 16, 16), dtype=bool)
    others[:, 10:14, 3:9] = True
    found = {}
    for name, added in (("a", 0.0), ("b", 700.0)):
        create_store(tmp_path / name, store.info)
        shard = store.read_shard(1)
        image = shard.image + added * others[:, None]
        write_shard(
            tmp_path / name / shard_name(0), replace(shard, image=image, is_neighbour=others), store.info
        )
        found[name] = read_features(fit(tmp_path / name, sky[1], tmp_path / f"fit-{name}", threads=1))
    np.testing.assert_array_equal(found["a"]["latent"], found["b"]["latent"])
    np.testing.assert_array_equal(found["a"]["flux_model_r"], found["b"]["flux_model_r"])
    kept = read_features(fit(tmp_path / "a", sky[1], tmp_path / "keep", neighbours="keep", threads=1))
    assert (kept["dof"] - found["a"]["dof"]).max() == 3 * others[0].sum()
    assert (kept["latent"] != found["a"]["latent"]).any()


def test_modes_agree_where_they_should(sky, tmp_path):
    guess = read_features(fit(sky[0], sky[1], tmp_path / "e", mode="embedder", threads=1))
    both = read_features(fit(sky[0], sky[1], tmp_path / "b", mode="both", amplitudes="none", threads=1))
    assert (both["amplitude_g"][both["status"] != "too_little_data"] == 1).all()
    assert np.nanstd(guess["amplitude_g"]) > 1e-3  # solved for at the guess
    good = guess["status"] != "too_little_data"
    assert (guess["status"][good] == "not_fitted").all()
    assert (guess["num_steps"] == 0).all()
    assert (both["loss"][good] <= guess["loss"][good] * (1 + 1e-5)).all()
    np.testing.assert_allclose(both["loss_start"][good], guess["loss"][good], rtol=1e-4)
    assert np.median(both["chi2"][good]) < 0.8 * np.median(guess["chi2"][good])


def test_resumed_is_uninterrupted(fitted, sky, tmp_path):
    out = tmp_path / "features"
    options = {"mode": "optimise", "num_starts": 3, "threads": 1}
    fit(sky[0], sky[1], out, **options)
    whole = read_features(out)
    (out / "shard-00000.parquet").unlink()
    (out / "shard-00001.parquet").write_bytes(b"half a file")
    fit(sky[0], sky[1], out, **options)
    for name, values in read_features(out).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    fit(sky[0], sky[1], out, **options)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    fit(sky[0], sky[1], out, batch_size=8, **options)  # as where memory is short
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_selection_and_threads_change_no_number(fitted, sky, tmp_path):
    whole = read_features(fitted)
    chosen = [140, 103, 117]
    out = fit(
        sky[0],
        sky[1],
        tmp_path / "few",
        mode="optimise",
        num_starts=3,
        neighbours="keep",
        threads=2,
        object_ids=chosen,
    )
    few = read_features(out)
    np.testing.assert_array_equal(few["object_id"], sorted(chosen))
    rows = few["object_id"] - 100
    for name in ("latent", "loss", "chi2", "latent_std", "flux_model_r", "flux_model_err_r"):
        np.testing.assert_array_equal(few[name], whole[name][rows], err_msg=name)
    held = read_features(fit(sky[0], sky[1], tmp_path / "h", mode="embedder", held_out_only=True))
    assert is_held_out(held["object_id"]).all()
    assert 0 < len(held["object_id"]) < 2 * NUM


def test_every_network_works_on_one_core_whatever_the_threads(sky, tmp_path, monkeypatch):
    """How a sum is shared out among cores shows in its last bits."""
    model = Model.load(sky[1])
    monkeypatch.setattr(Model, "load", lambda path, device="cpu": model)
    before, cores = torch.get_num_threads(), []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: cores.append(torch.get_num_threads())
    )
    torch.set_num_threads(3)
    try:
        fit(*sky[:2], tmp_path / "features", num_steps=2, num_starts=2, threads=3)
    finally:
        torch.set_num_threads(before)
        hook.remove()
    assert len(cores) > 20
    assert set(cores) == {1}


@pytest.mark.parametrize("objective", ["flux", "paper"])
def test_objectives_fit(objective, sky, tmp_path):
    out = fit(
        sky[0],
        sky[1],
        tmp_path / "o",
        mode="optimise",
        num_starts=3,
        neighbours="keep",
        objective=objective,
        threads=1,
    )
    columns = read_features(out)
    good = columns["status"] != "too_little_data"
    assert (columns["loss"][good] < columns["loss_start"][good]).all()
    # The paper's objective counts bright pixels' noise as little as faint ones', so its χ² is not the least.
    assert np.median(columns["chi2"][good] / columns["dof"][good]) < (5 if objective == "paper" else 1.5)
    assert np.isfinite(columns["latent_std"][good]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "booth"}, "did you mean 'both'"),
        ({"objective": "fluxes"}, "did you mean 'flux'"),
        ({"solver": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"amplitudes": "fit", "objective": "paper"}, "scales fluxes and needs objective=.flux."),
        ({"object_ids": [7]}, "object_id 7"),
    ],
)
def test_wrong_options_are_refused(sky, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        fit(sky[0], sky[1], tmp_path / "x", **options)


def test_other_settings_do_not_mix(fitted, sky):
    with pytest.raises(InputError, match=r"num_starts.*start over"):
        fit(sky[0], sky[1], fitted, mode="optimise", num_starts=1, neighbours="keep")


def test_inpainting_predicts_the_hidden_band(fitted, sky, tmp_path):
    out = inpaint(
        sky[0],
        sky[1],
        tmp_path / "i",
        bands=("r",),
        num_starts=4,
        num_calibration=12,
        validate=True,
        threads=1,
        amplitudes="none",
    )
    columns = read_features(out)
    clean = sky[3][:, 1].sum((1, 2))
    good = columns["status"] != "too_little_data"
    pull = (columns["flux_r"] - clean)[good] / columns["flux_err_r"][good]
    # Two of three bands fix eight latents well enough; failures of single fits are left to the median.
    assert np.median(np.abs(pull)) < 2
    assert np.corrcoef(columns["flux_r"][good], clean[good])[0, 1] > 0.8
    seen = read_features(fitted)["flux_cutout_model_err_r"][good]
    assert np.median(columns["flux_err_r"][good] / seen) > 1.2  # what was not looked at is less sure
    with h5py.File(out / "shard-00001.h5") as file:
        assert file["image"].shape == file["image_err"].shape == (NUM, 1, 16, 16)
        np.testing.assert_array_equal(file["object_id"][:], np.arange(NUM) + 100 + NUM)
        total = file["image"][:].sum((1, 2, 3))
    np.testing.assert_allclose(total, columns["flux_r"][NUM:], rtol=1e-4, atol=1e-2)
    rows = json.loads((out / "validation.json").read_text())["bands"]
    assert [row["band"] for row in rows] == list(BANDS)
    assert all(row["methods"]["deepfits"]["num_objects"] > 0 for row in rows)


def copy_store(source, out, change):
    """Copy a store of two shards, each changed in place by `change`."""
    store = CutoutStore(source)
    create_store(out, store.info)
    for number in range(2):
        shard = store.read_shard(number)
        change(shard)
        write_shard(out / shard_name(number), shard, store.info)


def test_inpainting_never_looks_at_the_hidden_band(sky, tmp_path):
    copy_store(sky[0], tmp_path / "store", lambda shard: shard.image[:, 1].fill(1e6))
    one = read_features(inpaint(sky[0], sky[1], tmp_path / "a", bands=("r",), images=False))
    two = read_features(inpaint(tmp_path / "store", sky[1], tmp_path / "b", bands=("r",), images=False))
    np.testing.assert_array_equal(one["flux_r"], two["flux_r"])
    np.testing.assert_array_equal(one["latent"], two["latent"])


def test_validation_against_truth(sky, tmp_path):
    with np.errstate(invalid="ignore"):
        magnitudes = {f"mag_{b}": ab_magnitude(sky[3][:, n].sum((1, 2))) for n, b in enumerate(BANDS)}
    places = {"ra": np.arange(2.0 * NUM), "dec": np.zeros(2 * NUM)}
    pq.write_table(pa.table({**places, **magnitudes}), tmp_path / "truth.parquet")
    out = inpaint(
        sky[0], sky[1], tmp_path / "t", bands=("i",), validate=True, truth=tmp_path / "truth.parquet",
        images=False, num_starts=2, num_calibration=12, held_out_only=True,
    )  # fmt: skip
    assert not list(out.glob("*.h5"))
    for row in json.loads((out / "validation.json").read_text())["bands"]:
        assert row["truth"]["num_objects"] > 0
        assert abs(row["truth"]["bias_mag"]) < 0.5
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        inpaint(sky[0], sky[1], tmp_path / "u", bands=("i",), validate=True, truth=tmp_path / "none.parquet")


def test_validation_compares_with_methods_that_use_the_bands_there_are(sky, tmp_path):
    """A store that lacks one of the model's bands, as g r i z with a model of u g r i z."""
    copy_store(sky[0], tmp_path / "store", lambda shard: shard.weight[:, 0].fill(0))
    with np.errstate(invalid="ignore"):
        truth = {f"mag_{b}": ab_magnitude(sky[3][:, n].sum((1, 2))) for n, b in enumerate(BANDS) if n}
    truth |= {"ra": np.arange(2.0 * NUM), "dec": np.zeros(2 * NUM)}
    pq.write_table(pa.table(truth), tmp_path / "truth.parquet")
    out = inpaint(
        tmp_path / "store", sky[1], tmp_path / "out", bands=("r",), validate=True, num_calibration=12,
        truth=tmp_path / "truth.parquet", images=False, held_out_only=True,
    )  # fmt: skip
    rows = json.loads((out / "validation.json").read_text())["bands"]
    assert [row["band"] for row in rows] == list(BANDS[1:])
    for row in rows:
        assert {name for name, found in row["methods"].items() if found["num_objects"] == 0} == set()
        assert row["truth"]["beside"] in BANDS[1:]
        assert row["truth"]["num_objects"] > 0


def test_finished_predictions_can_be_validated(sky, tmp_path):
    options = {"bands": ("i",), "images": False, "num_calibration": 0, "num_steps": 3}
    out = inpaint(sky[0], sky[1], tmp_path / "out", **options)
    before = (out / "shard-00000.parquet").stat().st_mtime_ns

    def num_objects(max_validation):
        inpaint(sky[0], sky[1], out, validate=True, max_validation=max_validation, **options)
        rows = json.loads((out / "validation.json").read_text())["bands"]
        return rows[2]["methods"]["deepfits"]["num_objects"]

    assert num_objects(3) <= 3
    written = (out / "validation.json").stat().st_mtime_ns
    num_objects(3)
    assert (out / "validation.json").stat().st_mtime_ns == written
    assert num_objects(2000) > 3
    assert (out / "shard-00000.parquet").stat().st_mtime_ns == before


def test_predictions_are_calibrated_on_objects_that_have_the_band(sky, tmp_path):
    """The first field of a store lacks the band that is predicted."""
    store = CutoutStore(sky[0])
    parts = [store.read_shard(number) for number in (1, 0, 1, 1)]
    create_store(tmp_path / "store", store.info)
    for number, part in enumerate(parts):
        if not number:
            part.weight[:, 2] = 0
        columns = part.catalogue | valid_fractions(part.weight, BANDS)
        ids = np.arange(NUM) + 1000 * number
        write_shard(
            tmp_path / "store" / shard_name(number),
            replace(part, object_id=ids, catalogue=columns),
            store.info,
        )
    out = inpaint(
        tmp_path / "store", sky[1], tmp_path / "out", bands=("i",), num_calibration=40, images=False,
        validate=True, max_validation=4,
    )  # fmt: skip
    found = json.loads((out / "calibration.json").read_text())
    assert found["hidden"]["i"] != [None]
    assert [row["band"] for row in json.loads((out / "validation.json").read_text())["bands"]] == list(BANDS)


@pytest.mark.parametrize("bands", [(), ("q",), BANDS])
def test_impossible_bands_are_refused(sky, tmp_path, bands):
    with pytest.raises(InputError, match="band"):
        inpaint(sky[0], sky[1], tmp_path / "x", bands=bands)


def test_a_store_in_another_order_with_more_bands_gives_the_same_features(tmp_path, caplog):
    torch.manual_seed(3)
    config = ModelConfig(num_bands=3, size=16, latent_size=6, width=16, num_blocks=2)
    units = Normalisation(kind="asinh", mean=(0.5,) * 3, std=(1.0,) * 3, softening=(2.0, 3.0, 4.0))
    mine = StoreInfo(bands=BANDS, size=16, pixel_scale_arcsec=0.2)
    model = Model.make(config, mine, units, reference_fwhm_arcsec=0.5).eval()
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(2.5)
    model.save(tmp_path / "model")
    rng = np.random.default_rng(8)
    info = StoreInfo(
        bands=BANDS,
        size=12,
        pixel_scale_arcsec=0.25,
        fwhm_arcsec=(0.8, 0.9, 1.0),
        noise_correlation=(1, 1.1, 1.2),
    )
    latent = torch.from_numpy(rng.normal(size=(10, 6)).astype("f4"))
    drawn = model.render(latent)[:, :, 2:14, 2:14].detach().numpy()
    image = (drawn + rng.normal(size=drawn.shape)).astype("f4")
    names = ("y", "R", "i", "HSC-G")
    other = StoreInfo(
        bands=names,
        size=12,
        pixel_scale_arcsec=0.25,
        fwhm_arcsec=(np.nan, 0.9, 1.0, 0.8),
        noise_correlation=(2, 1.1, 1.2, 1),
    )
    for name, described, pixels in (
        ("plain", info, image),
        ("other", other, np.concatenate([9 * image[:, :1], image[:, [1, 2, 0]]], axis=1)),
    ):
        create_store(tmp_path / name, described)
        nobody = np.zeros((10, 12, 12), bool)
        cutouts = Cutouts(
            object_id=np.arange(10), image=pixels, weight=np.ones_like(pixels), is_neighbour=nobody
        )
        write_shard(tmp_path / name / shard_name(0), cutouts, described)
        fit(tmp_path / name, tmp_path / "model", tmp_path / f"f-{name}")
    assert "bands left out, since the model knows only g, r, i: y" in caplog.text
    assert "band HSC-G: used as the model's g" in caplog.text
    plain, found = (read_features(tmp_path / f"f-{name}") for name in ("plain", "other"))
    called = dict(zip(BANDS, ("HSC-G", "R", "i"), strict=True))
    for column, values in plain.items():
        if column == "anomaly_reason":  # it names the band
            continue
        stem, _, band = column.rpartition("_")
        theirs = found[f"{stem}_{called[band]}" if band in called else column]
        assert np.array_equal(theirs, values, equal_nan=values.dtype.kind == "f"), column
    assert np.isfinite(plain["flux_model_i"]).all()
    predicted = {}
    for name, band in (("plain", "g"), ("other", "g")):
        inpaint(tmp_path / name, tmp_path / "model", tmp_path / f"i-{name}", bands=(band,), num_calibration=0)
        predicted[name] = read_features(tmp_path / f"i-{name}")
    assert np.array_equal(predicted["plain"]["flux_g"], predicted["other"]["flux_HSC-G"])
    with pytest.raises(InputError, match="no band 'y'; there are HSC-G-R-i"):
        inpaint(tmp_path / "other", tmp_path / "model", tmp_path / "no", bands=("y",))
    drawn = model.draw(found, store=str(tmp_path / "other"))
    assert np.array_equal(drawn, model.draw(plain, store=CutoutStore(tmp_path / "plain")))


@pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 26, reason="older PyArrow cannot read such lists")
def test_missing_features_are_missing(tmp_path):
    """Objects off all images have nulls in what `PartitionFit` gives: lists, text and numbers."""
    latent = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    columns = {"object_id": [1, 2], "latent": latent, "field": ["a", None], "chi2": [0.5, None]}
    pq.write_table(pa.table(columns), tmp_path / "shard-00000.parquet")
    found = read_features(tmp_path)
    np.testing.assert_array_equal(found["latent"], [[1, 2], [np.nan, np.nan]])
    assert found["field"].tolist() == ["a", ""]
    np.testing.assert_array_equal(found["chi2"], [0.5, np.nan])
