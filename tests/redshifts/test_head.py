"""Heads: trained on simulated galaxies, used without labels, and adapted to some labels."""

import logging
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import norm

import deepfits
from deepfits.errors import InputError
from deepfits.files import read_json
from deepfits.models.bundle import BUILTIN_DIRECTORY, Model
from deepfits.passbands import COLUMN
from deepfits.photometry import robust_scatter
from deepfits.redshifts.domain import Domain
from deepfits.redshifts.features import FeatureRecipe, Source, read_features
from deepfits.redshifts.head import (
    CELL,
    CENTRES,
    NUM_CELLS,
    NUM_FLUXES,
    Examples,
    Head,
    disclaimer,
    head_directory,
    narrowed,
    point_of,
    quantiles_of,
)
from deepfits.redshifts.head_training import (
    WRONG,
    Minibatches,
    fine_tuned,
    fit_zero_points,
    head_loss,
    suited,
    train_head,
)
from deepfits.redshifts.inputs import known_filters, with_filters
from deepfits.redshifts.methods.adapted import (
    Adapted,
    _domain_of,
    _for_recalibration,
    _shift_of,
    _shifted,
    _weights,
)
from deepfits.redshifts.methods.pretrained import Pretrained
from deepfits.redshifts.methods.templates import can_fit_templates
from deepfits.redshifts.pdf import (
    AS_PREDICTED,
    LEVELS,
    MEDIAN,
    mixture,
    pinball,
    recalibrated,
    sorted_quantiles,
)
from deepfits.redshifts.predict import load_predictor, template_filters
from deepfits.redshifts.predictor import Predictor
from deepfits.redshifts.scene_light import SceneLight, head_inputs, input_names, reference_order
from deepfits.sky.population import PopulationLaws, draw_galaxies
from deepfits.sky.surveys import find_survey
from deepfits.splits import is_held_out
from deepfits.stages.redshifts.curves import write_curves
from deepfits.stages.redshifts.predict import redshift_predict
from deepfits.stages.redshifts.pretraining import (
    FittedSky,
    Pointing,
    as_donor,
    draw_pointing,
    grafted,
    match_truth,
)
from deepfits.stages.redshifts.train import redshift_train
from deepfits.tables import match_identities, read_table
from tests.helpers.redshift_inputs import metrics_of
from tests.helpers.scene_sky import (
    BANDS,
    FILTERS,
    MODEL_HASH,
    SIGMA,
    examples_of,
    scene_sky,
    write_scene_features,
    write_scene_store,
)
from tests.helpers.trainings import StopAt

LOW, HIGH = (int(np.argmin(np.abs(LEVELS - level))) for level in (0.16, 0.84))
OFFSET = (0.2, -0.15, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(5)
    parts = [
        examples_of(scene_sky(700, 50 + n, limit=23.5, laws=PopulationLaws.randomised(rng), sigma=sigma))
        for n, sigma in enumerate([SIGMA, 5 * SIGMA] * 4)
    ]
    return train_head(
        [Examples.join(parts)],
        BANDS,
        model_hash=MODEL_HASH,
        steps=1200,
        num_members=2,
        channels=64,
        batch=256,
    )


@pytest.fixture(scope="module")
def columns():
    return scene_sky(900, 3, offset=OFFSET)


@pytest.fixture(scope="module")
def files(head, columns, tmp_path_factory):
    directory = tmp_path_factory.mktemp("heads")
    head.save(directory / "head")
    assert len({path.stat().st_mode for path in (directory / "head").iterdir()}) == 1
    features = write_scene_features(directory / "features", columns)
    table = np.column_stack([columns[name] for name in ("object_id", "z_spec", "mag_i")])
    header = "object_id,z_spec,mag_i"
    np.savetxt(directory / "labels.csv", table, delimiter=",", header=header, comments="", fmt="%.6g")
    return directory, features


def scatter(estimate, truth):
    return robust_scatter((estimate - truth) / (1 + truth))


def test_inputs_are_scale_free_and_bands_are_independent():
    """A galaxy ten times as bright has the same relative inputs; a missing band changes only its own."""
    light = examples_of(scene_sky(50, 1)).light
    parts = [tensor.double() for tensor in light.tensors()]
    order = reference_order(BANDS)
    inputs = head_inputs(parts, order)
    brighter = head_inputs([10 * part for part in parts[:NUM_FLUXES]] + parts[NUM_FLUXES:], order)
    np.testing.assert_allclose((brighter - inputs)[:, 0], np.log(10), rtol=1e-6)
    np.testing.assert_allclose((brighter - inputs)[:, 1:], 0, atol=1e-6)
    lost = [part.clone() for part in parts]
    for part in lost:
        part[:, 0] = np.nan
    without = head_inputs(lost, order)
    assert without[:, 1].isnan().all()
    assert (without[:, 11] == 0).all()
    kept = [k for k in range(inputs.shape[1]) if (k - 1) % 5]
    np.testing.assert_array_equal(without[:, kept], inputs[:, kept])
    # filters are used only if known for all bands
    parts[-1][:, 2] = np.nan
    no_filters = head_inputs([*parts[:-1], torch.full_like(parts[-1], torch.nan)], order)
    np.testing.assert_array_equal(head_inputs(parts, order), no_filters)
    assert (no_filters != inputs).any()
    # without i, r is the reference band
    for part in (*parts, *lost):
        part[:, 3] = np.nan
    assert head_inputs(parts, order)[:, 0].isfinite().all()


def test_densities_give_quantiles_and_point_estimates():
    density = np.zeros((1, NUM_CELLS))
    density[0, [20, 21, 22]] = 0.25, 0.5, 0.25
    assert quantiles_of(density)[0, MEDIAN] == pytest.approx(np.expm1(CENTRES[21]), rel=1e-4)
    expected = np.array([0.25, 0.5, 0.25]) @ np.expm1(CENTRES[20:23])
    assert point_of(density, "squared")[0] == pytest.approx(expected)
    low, high = np.interp([LEVELS[0], LEVELS[-1]], [0, 0.25, 0.75, 1], CELL * np.arange(20, 24))
    assert quantiles_of(density)[0, [0, -1]] == pytest.approx(np.expm1([low, high]))


def test_loss_is_minimal_at_the_truth_and_ignores_redshifts_of_stars():
    import torch

    at = torch.tensor([0.5, 0.5])
    logits = torch.full((2, NUM_CELLS + 3), -20.0)
    logits[:, int(0.5 / CELL)] = 0.0
    logits[:, NUM_CELLS] = 0.0
    kind, weight = torch.tensor([0, 0]), torch.ones(2)
    right = head_loss(logits, at, kind, weight, 1.0)
    wrong = head_loss(logits, at + 0.3, kind, weight, 1.0)
    # the CRPS of a narrow wrong distribution is its distance from the truth
    assert float(wrong - head_loss(logits, at + 0.1, kind, weight, 1.0)) > 20 * 0.19
    assert right < 2
    stars = torch.tensor([0, 1])
    moved = torch.tensor([0.5, 1.5])
    assert head_loss(logits, moved, stars, weight, 1.0) == head_loss(logits, at, stars, weight, 1.0)


def test_training_examples_include_wrong_photometry():
    examples = examples_of(scene_sky(3000, 5))
    batches = Minibatches(examples, 1)
    import torch

    rows = torch.arange(len(examples))
    seen = [part.numpy() for part in batches.augmented(rows)]
    ratios = np.stack([seen[place] / batches.parts[place].numpy() for place in range(0, NUM_FLUXES, 2)])
    # in the half of the examples without added noise, the other bands do not change
    ratios = ratios[:, (ratios[0] == 1).sum(axis=1) >= 3]
    assert ratios.shape[1] > 1000
    is_wrong = np.isfinite(ratios[0]) & (ratios[0] != 1)
    assert 0.5 * WRONG < is_wrong.mean() < 2 * WRONG
    assert np.abs(np.log(ratios[0][is_wrong])).std() > 0.3
    np.testing.assert_allclose(ratios[1:][:, is_wrong], ratios[:1][:, is_wrong].repeat(2, 0), rtol=1e-4)


def test_narrowed_distributions_keep_their_medians():
    density = np.random.default_rng(3).dirichlet(np.full(NUM_CELLS, 0.05), size=30)
    narrow = narrowed(density, 1.5)
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    # the probability outside an interval is raised to the power
    wider = 0.5 + np.sign(levels - 0.5) * (1 - (1 - np.abs(2 * levels - 1)) ** (1 / 1.5)) / 2
    found, expected = (np.log1p(quantiles_of(*each)) for each in ((narrow, levels), (density, wider)))
    np.testing.assert_allclose(found, expected, atol=0.5 * CELL)
    np.testing.assert_allclose(found[:, 2], np.log1p(quantiles_of(density)[:, MEDIAN]), atol=0.05 * CELL)
    np.testing.assert_allclose(narrow.sum(axis=1), 1)
    np.testing.assert_allclose(narrowed(density, 1.0), density, atol=1e-12)


def test_reweighted_distributions_follow_the_other_population(head, columns):
    one = replace(head, members=head.members[:1])
    light = SceneLight.of(Source(columns=columns, bands=BANDS), BANDS)
    (before, kinds), (after, kinds_after) = (
        each.densities_as_trained(light) for each in (one, one.reweighted(3.0))
    )
    near, distant = np.expm1(CENTRES) < 1, np.expm1(CENTRES) > 3
    odds = [part[:, distant].sum(1) / part[:, near].sum(1) for part in (before, after)]
    np.testing.assert_allclose(odds[1] / odds[0], 3.0, rtol=0.03)
    np.testing.assert_allclose(after.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(kinds_after, kinds)
    assert one.reweighted(3.0).reweighted(0.5).about["distant_weight"] == 1.5


def test_redshifts_without_labels(head):
    columns = scene_sky(800, 9)
    light = examples_of(columns).light
    estimate = point_of(head.densities(light)[0], "absolute")
    truth = columns["z_spec"]
    assert scatter(estimate, truth) < 0.4 * scatter(np.full(len(truth), np.median(truth)), truth)
    density, kinds = head.densities(light)
    np.testing.assert_allclose(density.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(kinds.sum(axis=1), 1, atol=1e-5)


def test_memory_of_predictions_does_not_grow_by_their_distributions(head, columns):
    """p(z) on the grid and its fine quantiles are in memory for a batch; objects keep their own estimates."""
    number, times = len(columns["z_spec"]), 40
    predictor = Predictor(method=Pretrained(head=head), loss="absolute", target="z_spec")
    once = predictor.predict(Source(columns=columns, bands=BANDS))
    many = {name: np.concatenate([values] * times) for name, values in columns.items()}
    tracemalloc.start()
    found = predictor.predict(Source(columns=many, bands=BANDS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * times * number * NUM_CELLS * 8  # in one piece, five times that
    for name in ("z_phot", "z_mean", "z_mode", "p_star", "domain_distance"):
        np.testing.assert_allclose(found[name][-number:], once[name], rtol=1e-4, atol=1e-6)


def test_noise_and_missing_bands_widen_the_distribution(head):
    columns = scene_sky(600, 9)
    light = examples_of(columns).light

    def width(light):
        quantiles = np.log1p(quantiles_of(head.densities(light)[0]))
        return np.median(quantiles[:, -3] - quantiles[:, 2])

    worse = examples_of(scene_sky(600, 9, sigma=16 * SIGMA)).light
    assert width(worse) > 1.04 * width(light)
    columns |= {"dof_u": np.zeros(600), "dof_z": np.zeros(600)}
    fewer = SceneLight.of(Source(columns=columns, bands=BANDS), BANDS)
    assert not fewer.is_valid[:, [0, 4]].any()
    assert width(fewer) > 1.04 * width(light)


@pytest.mark.slow
def test_known_filters_improve_redshifts():
    """Trained with filters of two surveys, the head needs the right filters for accurate redshifts."""
    other = ("sdss2010-u", "BASS-g", "decam2014-r", "decam2014-i", "decam2014-z")
    rng = np.random.default_rng(6)
    parts = [
        examples_of(scene_sky(1500, 70 + n, laws=PopulationLaws.randomised(rng), filters=filters))
        for n, filters in enumerate([FILTERS, other] * 2)
    ]
    few = {"num_members": 1, "channels": 64, "batch": 256}
    head = train_head([Examples.join(parts)], BANDS, model_hash=MODEL_HASH, steps=1000, **few)
    columns = scene_sky(800, 75, filters=other)

    def error(filters):
        light = examples_of(with_filters(columns, filters)).light
        return pinball(quantiles_of(head.densities(light)[0]), columns["z_spec"]).mean()

    assert error(()) == pytest.approx(error(other), rel=0.01)
    assert error(other) < 0.9 * error(FILTERS)
    assert known_filters(columns) == other
    assert known_filters({**columns, f"{COLUMN}_i": np.linspace(7500, 7800, 800)}) == ()
    without = {f"{COLUMN}_u": np.where(np.arange(800) < 9, np.nan, columns[f"{COLUMN}_u"])}
    assert known_filters({**columns, **without}) == ()
    assert known_filters({**columns, **without, "dof_u": 30.0 * (np.arange(800) >= 9)}) == other
    nowhere = {f"{COLUMN}_u": np.full(800, np.nan), "dof_u": np.zeros(800)}
    assert known_filters({**columns, **nowhere}) == (FILTERS[0], *other[1:])
    unsaid = {f"{COLUMN}_{band}": np.full(800, np.nan) for band in BANDS}
    assert known_filters({**columns, **unsaid, "dof_u": np.zeros(800)}) == ()
    with pytest.raises(InputError, match="4 filters for the 5 bands"):
        with_filters(columns, FILTERS[1:])


def test_zero_points_are_fitted_with_the_networks(head, columns):
    examples = examples_of(columns)
    found = fit_zero_points(head, examples)
    # the offset is not recovered completely because of the prior of 0.05 mag and the coarse head
    colour = found.zero_points[0] - found.zero_points[1]
    assert 0.3 * (OFFSET[0] - OFFSET[1]) < colour < 1.2 * (OFFSET[0] - OFFSET[1])
    # missing bands do not contribute, but the other bands of the same object do
    light = replace(examples.light, flux=examples.light.flux.copy())
    light.flux[:, 4], light.flux[::7, 3] = np.nan, np.nan
    fewer = fit_zero_points(head, replace(examples, light=light)).zero_points
    assert fewer[4] == 0
    assert 0.3 * (OFFSET[0] - OFFSET[1]) < fewer[0] - fewer[1] < 1.2 * (OFFSET[0] - OFFSET[1])
    # with a single label, the prior keeps the zero points near zero
    single = fit_zero_points(head, examples.take(np.arange(1)))
    assert np.abs(single.zero_points).max() < 0.5 * np.abs(found.zero_points).max()


def test_networks_are_trained_on_the_example_sets_in_turn_and_chosen_by_labels():
    near, far = (examples_of(scene_sky(300, 1)) for _ in range(2))
    near.redshift[:], far.redshift[:] = 0.2, 2.0
    shown, few = StopAt(-1, 0), {"num_members": 3, "channels": 32, "batch": 128}
    head = train_head([near, far], BANDS, model_hash="", steps=250, progress=shown, **few)
    assert shown.counts == {"train a head": 3 * 250}
    light = near.light.take(np.flatnonzero(near.kind == 0))
    medians = [
        np.median(quantiles_of(replace(head, members=(member,)).densities(light)[0])[:, MEDIAN])
        for member in head.members
    ]
    assert medians == pytest.approx([0.2, 2.0, 0.2], rel=0.3)
    for labels, number, chosen in ((near, 2, {0, 2}), (far, 1, {1})):
        kept = [member["6.bias"] for member in suited(head, labels.take(np.arange(40)), number).members]
        is_kept = [any(bias is own for bias in kept) for own in (member["6.bias"] for member in head.members)]
        assert set(np.flatnonzero(is_kept)) == chosen


def test_inputs_can_be_disabled():
    examples = examples_of(scene_sky(200, 1))
    seen, hidden = (
        train_head([examples], BANDS, model_hash="", steps=2, num_members=1, channels=8, unseen=unseen)
        for unseen in ((), ("error", "radius"))
    )
    is_hidden = np.array([name.startswith(("error_", "radius_")) for name in input_names(BANDS)])
    assert is_hidden.sum() == 10
    inputs, reduced = (head.inputs(examples.light) for head in (seen, hidden))
    np.testing.assert_array_equal(reduced, np.where(is_hidden, 0, inputs))
    assert (inputs[:, is_hidden] != 0).any(axis=0).all()


def test_left_out_labels_do_not_influence_their_own_predictions(head, columns, monkeypatch):
    monkeypatch.setattr("deepfits.redshifts.head_training.EPOCHS", 6)
    examples = examples_of(columns)
    train, left_out = examples.take(np.arange(80)), examples.take(np.arange(80, 120))
    wrong = left_out.redshift.copy()  # with these labels, any training would make the network worse
    wrong[::2] = point_of(head.densities(left_out.light)[0], "absolute")[::2]
    density, changed = (
        fine_tuned(head, 0, train, replace(left_out, redshift=redshift), 0)[1]
        for redshift in (left_out.redshift, wrong)
    )
    np.testing.assert_array_equal(density[::2], changed[::2])
    assert np.abs(density[1::2] - changed[1::2]).max() > 0.01
    assert scatter(quantiles_of(density)[:, MEDIAN], left_out.redshift) < 0.1
    np.testing.assert_allclose(density.sum(axis=1), 1, atol=1e-5)


def test_densities_are_narrowed_after_training(head, columns):
    light = examples_of(columns).light
    trained, kinds = head.densities_as_trained(light)
    density, same = head.densities(light)
    assert head.sharpness > 1
    np.testing.assert_array_equal(density, narrowed(trained, head.sharpness))
    np.testing.assert_array_equal(kinds, same)
    wide, narrow = (np.ptp(quantiles_of(each, np.array([0.16, 0.84])), axis=1) for each in (trained, density))
    assert (narrow < wide).mean() > 0.9


def test_head_round_trip(head, files, columns):
    directory, _ = files
    again = Head.load(directory / "head")
    light = examples_of(columns).light
    np.testing.assert_array_equal(again.densities(light)[0], head.densities(light)[0])
    assert again.bands == BANDS
    assert len(again.replay) > 100


def test_adapted_heads_are_not_worse_than_pretrained_ones(files, columns):
    directory, features = files
    out = deepfits.redshift(
        features,
        directory / "labels.csv",
        directory / "table",
        methods=["pretrained", "adapted"],
        max_labels=90,
        head=directory / "head",
        match="id",
    )
    rows = {row["method"]: row for row in read_json(out / "metrics.json")["rows"]}
    assert {rows[name]["loss"] for name in ("pretrained", "adapted")} == {"absolute"}  # as in redshift train
    before, after = (rows[name]["metrics"] for name in ("pretrained", "adapted"))
    assert rows["pretrained"]["num_train"] == 0
    assert rows["adapted"]["num_train"] == 90
    for name in ("sigma_mad", "eta_15"):
        assert after[name]["value"] < before[name]["value"] + 0.5 * before[name]["error"]
    assert after["r2"]["value"] > before["r2"]["value"] - 0.5 * before["r2"]["error"]
    assert rows["adapted"]["weights"].keys() == {"pretrained", "zero_points", "tuned"}
    assert 0.5 < rows["adapted"]["pdf_metrics"]["coverage_68"]["value"] < 0.85
    write_curves(out, {90: [read_json(out / "metrics.json")]})
    curves = read_json(out / "curves.json")["curves"]
    assert [curve["num_labels"] for curve in curves] == [0, 90]
    assert curves[0]["rows"] == [rows["pretrained"]]
    found = read_table(out / "methods" / "adapted-absolute" / "predictions.parquet")
    assert (found["p_galaxy"] > 0.3).mean() > 0.9


def test_heads_are_used_by_default_where_they_serve_the_features(files, monkeypatch, tmp_path):
    directory, features = files
    labels = directory / "labels.csv"
    monkeypatch.setattr("deepfits.models.bundle.BUILTIN_DIRECTORY", tmp_path)
    monkeypatch.setattr("deepfits.stages.redshifts.compare.USUAL", ())
    without = deepfits.redshift(features, labels, tmp_path / "without", match="id")
    assert [row["method"] for row in metrics_of(without)[0].values()] == ["constant"]
    shutil.copytree(directory / "head", tmp_path / "mine" / "head")
    with_head = deepfits.redshift(features, labels, tmp_path / "with", match="id", max_labels=30)
    rows = [row["method"] for row in metrics_of(with_head)[0].values()]
    assert rows == ["constant", "pretrained", "adapted"]
    sizes = deepfits.redshift(features, labels, tmp_path / "sizes", match="id", label_column="mag_i")
    assert [row["method"] for row in metrics_of(sizes)[0].values()] == ["constant"], "heads know redshifts"
    model = redshift_train(features, labels, tmp_path / "model", match="id", max_labels=3)
    assert load_predictor(model).about["num_train"] == 3
    with pytest.raises(InputError, match="at least 30"):  # which boosting needs
        redshift_train(features, labels, tmp_path / "m", match="id", max_labels=3, feature_set="latents")


def test_adapting_to_few_spectra(files, caplog):
    caplog.set_level(logging.INFO)
    directory, features = files
    lines = (directory / "labels.csv").read_text().splitlines()
    (directory / "few.csv").write_text("\n".join(lines[:5]) + "\n")
    model = redshift_train(
        features,
        directory / "few.csv",
        directory / "few",
        method="adapted",
        head=directory / "head",
        match="id",
    )
    identities = np.array([int(line.split(",")[0]) for line in lines[1:5]])
    held_out = int(is_held_out(identities).sum())
    assert f"training on {4 - held_out} labelled objects; {held_out} are held out" in caplog.text
    found = read_table(redshift_predict(model, features, directory / "few.parquet"))
    assert np.isfinite(found["z_phot"]).all()
    assert np.ptp(found["z_phot"]) > 0.2
    # intervals are as wide as those of the head alone
    alone = read_table(redshift_predict(directory / "head", features, directory / "alone.parquet"))
    # and the estimate is the same number of p(z)
    for table in (found, alone):
        np.testing.assert_allclose(table["z_phot"], table["z_median"], rtol=1e-6)
    width, wanted = (table["z_err68_high"] - table["z_err68_low"] for table in (found, alone))
    assert np.median(width / wanted) == pytest.approx(1, abs=0.15)
    # a wrong redshift has little influence
    trained = next(
        line for line in lines[1:] if not is_held_out(np.array([int(float(line.split(",")[0]))]))[0]
    )
    (directory / "wrong.csv").write_text(f"{lines[0]}\n{trained.split(',')[0]},4.5,21\n")
    wrong = redshift_train(
        features,
        directory / "wrong.csv",
        directory / "wrong",
        method="adapted",
        head=directory / "head",
        match="id",
    )
    misled = read_table(redshift_predict(wrong, features, directory / "misled.parquet"))
    assert np.median(np.abs(misled["quantiles"][:, MEDIAN] - alone["quantiles"][:, MEDIAN]) / wanted) < 0.1


def test_predictions_without_labels_log_a_disclaimer(files, columns, monkeypatch, tmp_path, caplog):
    """Predictions need only features if their model has a head."""
    directory, features = files
    monkeypatch.setattr("deepfits.models.bundle.BUILTIN_DIRECTORY", tmp_path)
    with pytest.raises(InputError, match="redshift pretrain --model MODEL"):
        redshift_predict(features, out=tmp_path / "z.parquet")
    shutil.copytree(directory / "head", tmp_path / "mine" / "head")
    with caplog.at_level("INFO", logger="deepfits"):
        found = read_table(redshift_predict(features, out=tmp_path / "z.parquet"))
    assert "no spectrum of this survey" in caplog.text
    assert "--filters" not in caplog.text  # known from the image headers
    assert scatter(found["z_phot"], columns["z_spec"]) < 0.15
    again = read_table(redshift_predict(directory / "head", features, tmp_path / "again.parquet"))
    np.testing.assert_array_equal(again["quantiles"], found["quantiles"])
    with pytest.raises(InputError, match=r"give an output path: out='z\.parquet'"):
        redshift_predict(features)
    table = pq.read_table(features / "shard-00000.parquet")
    wavelengths = [name for name in table.column_names if name.startswith("filter_wavelength")]
    plain = tmp_path / "no-filters"
    plain.mkdir()
    pq.write_table(table.drop_columns(wavelengths), plain / "shard-00000.parquet")
    with caplog.at_level("INFO", logger="deepfits"):
        without = read_table(redshift_predict(plain, out=tmp_path / "any.parquet"))
    assert "give them with --filters" in caplog.text
    assert (without["quantiles"] != found["quantiles"]).any()
    assert "No object has data" not in caplog.text
    lacking = tmp_path / "without-u"
    lacking.mkdir()
    for name, number in {"flux_model_g": 1.0, "flux_model_u": 1.0, "dof_u": 0}.items():
        kept = [own for own in table.column_names if own != name]
        table = table.select(kept).append_column(name, [np.full(len(table), number)])
    pq.write_table(table, lacking / "shard-00000.parquet")
    with caplog.at_level("INFO", logger="deepfits"):
        redshift_predict(lacking, out=tmp_path / "fewer.parquet")
    assert "No object has data in u: expect larger errors" in caplog.text
    names = [",".join(FILTERS)]
    given = redshift_predict(plain, out=tmp_path / "given.parquet", filters=names)
    np.testing.assert_allclose(read_table(given)["quantiles"], found["quantiles"], rtol=0.01, atol=1e-3)
    with pytest.raises(InputError, match="in this order"):
        redshift_predict(plain, out=tmp_path / "no.parquet", filters=FILTERS[::-1])
    with pytest.raises(InputError, match="also give the features"):
        redshift_predict(directory / "head", out=tmp_path / "no.parquet")


def test_the_builtin_scene_model_has_a_head(tmp_path, monkeypatch):
    """It predicts redshifts of new galaxies, at the depth of a survey on which it was trained."""
    model = Model.load("builtin:ugriz")
    columns = scene_sky(600, 12)
    columns["model_hash"] = np.full(600, model.fingerprint)
    features = write_scene_features(tmp_path / "features", columns)
    read = []

    def counted(path):
        read.append(path)
        return read_features(path)

    monkeypatch.setattr("deepfits.stages.redshifts.predict.read_features", counted)
    found = read_table(redshift_predict(features, out=tmp_path / "z.parquet"))
    assert read == [features]
    assert scatter(found["z_phot"], columns["z_spec"]) < 0.09
    assert (found["class"] == "galaxy").mean() > 0.9
    assert found["is_outside_domain"].mean() < 0.2
    inside = (found["z_err68_low"] < columns["z_spec"]) & (columns["z_spec"] < found["z_err68_high"])
    assert 0.5 < inside.mean() < 0.9
    head = Head.load(head_directory(model.fingerprint))
    assert "real redshifts" in disclaimer(head)
    size = sum(path.stat().st_size for path in head_directory(model.fingerprint).iterdir())
    assert size < 5e6


@pytest.mark.slow
def test_adapted_heads_include_template_fits_if_there_are_cutouts(files, columns, monkeypatch):
    # without the prior on the weights, since template fits for enough labels would take a minute
    monkeypatch.setattr("deepfits.redshifts.methods.adapted.STIFFNESS", 0.0)
    directory, features = files
    store = write_scene_store(directory / "store", columns)
    found = {}
    for name, given in (("with", {"store": store}), ("without", {})):
        table = deepfits.redshift(
            features,
            directory / "labels.csv",
            directory / f"adapted-{name}",
            methods=["adapted"],
            losses=["absolute"],
            max_labels=25,
            head=directory / "head",
            match="id",
            **given,
        )
        found[name] = {row["method"]: row for row in read_json(table / "metrics.json")["rows"]}["adapted"]
    assert found["with"]["weights"]["templates"] > 0.02
    assert "templates" not in found["without"]["weights"]
    assert can_fit_templates(BANDS, FILTERS)
    assert not can_fit_templates(BANDS, ["4777"] * 5)
    better, worse = (found[name]["pdf_metrics"]["crps"]["value"] for name in ("with", "without"))
    assert better < worse
    # the saved model gives the same predictions, and requires the store
    model = directory / "adapted-with" / "methods" / "adapted-absolute"
    again = read_table(redshift_predict(model, features, directory / "with.parquet", store=store))
    held_out = read_table(model / "predictions.parquet")
    place = match_identities(held_out["object_id"], again["object_id"])
    np.testing.assert_allclose(again["quantiles"][place], held_out["quantiles"], atol=1e-5)
    with pytest.raises(InputError, match="give the store"):
        redshift_predict(model, features, directory / "no.parquet")


def test_stages_are_weighted_by_left_out_labels():
    rng = np.random.default_rng(4)
    value = rng.uniform(0.2, 1.2, 400)
    right = value[:, None] + 0.03 * (norm.ppf(LEVELS) + rng.normal(size=(400, 1)))
    wrong = value[:, None] + 0.3 * (norm.ppf(LEVELS) + rng.normal(size=(400, 1)))
    weights = _weights({"pretrained": wrong, "zero_points": wrong[::-1], "templates": right}, value)
    assert weights[2] > 0.95
    assert weights.sum() == pytest.approx(1)
    # opposite errors share the weight, and a worse estimate has none
    high, low, far = (right + shift for shift in (0.15, -0.15, 0.6))
    weights = _weights({"pretrained": high, "tuned": low, "network on scene": far}, value)
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0], atol=0.04)


def test_odd_labels_do_not_extend_the_domain():
    """Of a hundred labels, the most distant one or two would set the limit beyond which little is known."""
    rng = np.random.default_rng(5)
    labels = rng.normal(size=(100, 5))
    odd, elsewhere = (shift * np.eye(5)[axis] for shift, axis in ((20, 0), (7, 1)))
    domain = _domain_of(np.concatenate([labels, [odd, odd]]))
    far = domain.distance(labels + elsewhere)
    assert (far > domain.limit).all()
    assert (domain.distance(labels) <= domain.limit).mean() > 0.85


def test_few_labels_give_the_heads_equal_weights():
    rng = np.random.default_rng(5)
    value = rng.uniform(0.2, 1.2, 2000)
    names = ("pretrained", "zero_points", "tuned", "templates")
    errors = {name: width * rng.normal(size=2000) for name, width in zip(names, (5, 4, 3, 3), strict=True)}

    def weights(number):
        some = value[:number]
        left_out = {
            name: some[:, None] + 0.01 * error[:number, None] + 0.05 * norm.ppf(LEVELS)
            for name, error in errors.items()
        }
        return _weights(left_out, some)

    np.testing.assert_allclose(weights(10), [1 / 3, 1 / 3, 1 / 3, 0], atol=0.15)
    many = weights(2000)
    assert many[0] < 0.1  # the worst stage has little weight
    assert many[2:].sum() > 0.7


def test_luminosities_are_limited_by_those_of_the_labels(head, columns):
    examples = examples_of(columns)
    at = examples.light.take(np.flatnonzero(np.isfinite(examples.light.total[:, head.order[0]]))[:1])
    bright, faint, missing = (
        replace(at, total=np.full_like(at.total, flux)) for flux in (10**3.76, 10**1.96, np.nan)
    )  # 22.0 and 26.5 mag
    # 22.0 - 41.68 (z = 0.4) + 0.37 = -19.31; the limit is 0.5 mag brighter
    known = Examples.galaxies(bright, np.array([0.4]))
    limit = head.brightest(known)
    assert limit == pytest.approx(-19.81, abs=0.02)
    even = np.full((1, len(CENTRES)), 1 / len(CENTRES))
    z = np.expm1(CENTRES)
    allowed = head.limited(even, bright, limit)
    assert allowed.sum() == pytest.approx(1)
    assert allowed[0, z > 0.6].sum() < 0.01
    assert np.ptp(allowed[0, z < 0.4]) < 0.1 * allowed.max()
    # faint galaxies are not limited, nor are those without the reference band
    assert head.limited(even, faint, limit)[0, z > 2].sum() > 0.3
    np.testing.assert_allclose(head.limited(even, missing, limit), even)
    assert head.brightest(Examples.galaxies(missing, np.array([0.4]))) is None


def test_weights_are_robust_against_chance():
    """With few labels, stages that are no better than the head do not degrade estimates of other objects."""
    rng = np.random.default_rng(5)

    def stages(number):
        value = rng.uniform(0.2, 1.2, number)
        errors = 0.1 * rng.standard_t(3, size=(3, number, 1))
        return value, value[:, None] + 0.1 * norm.ppf(LEVELS) + errors * np.array([1, 1.15, 1.3])[
            :, None, None
        ]

    others, there = stages(2000)
    firsts, worse = [], []
    for _ in range(20):
        value, some = stages(30)
        weights = _weights(dict(zip(("pretrained", "zero_points", "tuned"), some * 1.0, strict=True)), value)
        firsts.append(weights[0])
        worse.append(pinball(mixture(there, weights), others).mean())
    assert np.mean(firsts) > 0.3
    assert np.mean(worse) < 1.0 * pinball(there[0], others).mean()


def test_a_hundred_labels_calibrate_widths_but_keep_medians():
    """Intervals have the right coverage although errors are smaller than those of the members."""
    rng = np.random.default_rng(2)

    def quantiles(number, noise):
        return sorted_quantiles(1 + 0.1 * norm.ppf(LEVELS) + noise * rng.normal(size=(number, 1)))

    for scale, noise in ((0.7, 0.0), (1.0, 0.0), (1.4, 0.0), (0.7, 0.05)):
        held = []
        for _ in range(20):
            value = 1 + 0.1 * scale * rng.normal(size=100)
            fit = _for_recalibration(quantiles(100, noise), quantiles(100, 0.0), value)
            answer = quantiles(2000, 0.0)
            calibrated = recalibrated(answer, fit)
            np.testing.assert_allclose(calibrated[:, MEDIAN], answer[:, MEDIAN], atol=2e-3)
            value = 1 + 0.1 * scale * rng.normal(size=2000)
            held.append(((value > calibrated[:, LOW]) & (value < calibrated[:, HIGH])).mean())
        assert np.mean(held) == pytest.approx(0.68, abs=0.03)


def test_many_labels_calibrate_widths_for_any_error_distribution():
    """For errors of two sizes, whose PIT values do not follow a beta distribution."""
    rng = np.random.default_rng(4)
    answer = np.tile(1 + 0.1 * norm.ppf(LEVELS), (4000, 1))

    def values():
        narrow = rng.uniform(size=4000) < 0.6
        return 1 + np.where(narrow, 0.03, 0.15) * rng.normal(size=4000)

    calibrated = recalibrated(answer, _for_recalibration(answer, answer, values()))
    for low, high, share in ((LOW, HIGH, 0.68), (1, -2, 0.95)):
        value = values()
        held = ((value > calibrated[:, low]) & (value < calibrated[:, high])).mean()
        assert held == pytest.approx(share, abs=0.03)


def test_intervals_are_recalibrated_only_near_the_labels(head, columns):
    source = Source(columns=columns, bands=BANDS)
    light = SceneLight.of(source, BANDS)
    bright = np.argsort(-light.flux[:, 3])[:60]
    narrow = np.linspace(0.4, 0.6, 100)  # PIT values of intervals that are far too wide
    labelled = Domain.learn(head.inputs(light.take(bright)))
    method = Adapted(
        heads=(head, head), weights=np.array([0.5, 0.5]), validation_pit=narrow, labelled=labelled
    )
    quantiles, (mixed, _, near) = method.predict(source, None).quantiles, method._mixture(source, light)
    assert (near[bright] > 0.5).mean() > 0.8
    assert (near == 0).sum() > 20
    np.testing.assert_array_equal(quantiles[near == 0], mixed[near == 0])
    np.testing.assert_array_equal(quantiles[near == 1], recalibrated(mixed, narrow)[near == 1])


@pytest.mark.parametrize(("number", "share"), [(20, (-0.4, 0.7)), (400, (0.7, 1.1))])
def test_a_shift_that_labels_show_is_taken_away_as_far_as_they_are_sure(number, share):
    rng = np.random.default_rng(number)
    logs = rng.uniform(0.2, 0.8, number)
    bias = 0.02 * np.sin(2 * np.pi * (logs - 0.2) / 0.6)  # of both signs: no constant shift helps
    errors = rng.normal(0, 0.03, number)
    errors[::20] = 0.8  # outliers
    quantiles = np.expm1(logs[:, None] + 0.03 * norm.ppf(LEVELS))
    shift = _shift_of(quantiles, np.expm1(logs + bias + errors))
    moved = _shifted(quantiles, shift)
    found = np.log1p(moved[:, MEDIAN]) - logs
    assert share[0] < (found @ bias) / (bias @ bias) < share[1]
    assert np.diff(moved, axis=1).min() > 0
    assert np.abs(np.interp(1.6, CENTRES, shift)) < 0.001  # where no label is


def test_nearby_galaxies_that_a_shift_brings_to_redshift_0_have_finite_quantiles():
    quantiles = np.expm1(0.002 * np.arange(len(LEVELS)) + [[0.0], [0.002]])
    moved = _shifted(quantiles, np.full(len(CENTRES), -0.01))
    wide = 0.5 + 0.5 * np.linspace(-1, 1, 201) ** 3  # intervals that are too wide
    assert (np.diff(moved, axis=1) > 0).all()
    assert np.isfinite(recalibrated(moved, wide)).all()


def test_templates_are_fitted_only_if_the_adapted_head_uses_them(head):
    recipes = tuple(FeatureRecipe(name=name, bands=BANDS) for name in ("scene", "all"))
    method = Adapted(
        heads=(head, head),
        residual=None,
        recipes=recipes,
        weights=np.array([0.5, 0.5]),
        validation_pit=AS_PREDICTED,
        labelled=None,
    )
    predictor = Predictor(method=method, loss="absolute", target="z_spec", filters=FILTERS)
    assert template_filters(predictor) == FILTERS
    plain = replace(predictor, method=replace(method, recipes=recipes[:1]))
    assert template_filters(plain) is None


def test_features_of_other_models_are_refused(files, columns, tmp_path):
    directory, _ = files
    other = columns | {"model_hash": np.full(len(columns["z_spec"]), "another")}
    features = write_scene_features(tmp_path / "features", other)
    with pytest.raises(InputError, match="another"):
        redshift_predict(directory / "head", features, tmp_path / "z.parquet")
    replace(Head.load(directory / "head"), also_for=("another",)).save(tmp_path / "tried")
    assert redshift_predict(tmp_path / "tried", features, tmp_path / "z.parquet").exists()
    # in the directory of a model, a head serves that model and mentions the one on which it was trained
    shutil.copytree(BUILTIN_DIRECTORY / "ugriz", tmp_path / "model")
    shutil.copytree(directory / "head", tmp_path / "model" / "head", dirs_exist_ok=True)
    beside = Head.load(tmp_path / "model" / "head")
    assert beside.is_for(Model.load("builtin:ugriz").fingerprint)
    assert "earlier version of this model" in disclaimer(beside)
    assert "earlier version" not in disclaimer(Head.load(directory / "head"))
    assert not beside.is_for("another")
    for name in [name for name in other if "scene" in name]:
        other.pop(name)
    plain = write_scene_features(tmp_path / "plain", other)
    with pytest.raises(InputError, match="draws scenes"):
        deepfits.redshift(
            plain,
            directory / "labels.csv",
            tmp_path / "out",
            methods=["adapted"],
            head=directory / "head",
            match="id",
        )


def test_grafted_objects_are_measured_like_their_donors():
    """Fits that lose a tenth of the flux, with known noise, have the same effect on grafted galaxies."""
    rng = np.random.default_rng(1)
    survey = find_survey("clauds-hsc")
    table = draw_galaxies(4000, 23.0, FILTERS, rng)
    error = np.broadcast_to(8 * SIGMA, table["flux"].shape)
    noise = error * rng.normal(size=error.shape)
    measured = 0.9 * table["flux"] + noise
    radius = np.broadcast_to(table["half_light_radius_arcsec"][:, None], measured.shape)
    light = SceneLight(
        flux=measured,
        flux_err=error,
        total=measured,
        total_err=error,
        gaussian=measured,
        gaussian_err=error,
        radius=radius,
        concentration=radius,
        wavelength=np.full(measured.shape, np.nan),
    )
    fitted = FittedSky(
        examples=Examples.galaxies(light, table["z_spec"]),
        flux=table["flux"],
        radius=table["half_light_radius_arcsec"],
    )
    pointing = Pointing(survey=survey, laws=PopulationLaws(), size=500)
    found = grafted(
        [fitted], [pointing], 3000, rng, lambda _: PopulationLaws(), {"r": ("sdss2010-r", "BASS-r")}
    )
    galaxy = found.kind == 0
    assert len(found) == 3000
    assert galaxy.mean() > 0.7
    np.testing.assert_array_equal(found.light.flux_err, np.broadcast_to(8 * SIGMA, (3000, 5)))
    assert set(np.rint(found.light.wavelength[:, 2])) == {6187, 6411}
    assert set(np.rint(found.light.wavelength[:, 1])) == {4809}

    assert np.corrcoef(np.log(found.light.flux[galaxy, 3].clip(1)), found.redshift[galaxy])[0, 1] < -0.1
    # measured fluxes are nine tenths of the grafted fluxes, with the noise of the donors
    flux = table["flux"] * np.exp(0.3 * rng.normal(size=measured.shape))
    moved = as_donor(light, table["flux"], flux).flux
    pull = (moved - 0.9 * flux) / error
    is_faint = table["flux"] < 5 * error
    assert is_faint.sum() > 200
    assert abs(pull[is_faint].mean()) < 0.3
    assert pull[is_faint].std() == pytest.approx(1, abs=0.2)
    is_bright = table["flux"] > 100 * error
    np.testing.assert_allclose(moved[is_bright], 0.9 * flux[is_bright], rtol=0.04)


def test_pointings_vary_and_detections_are_matched_with_truth():
    rng = np.random.default_rng(2)
    first, second = (draw_pointing([find_survey("sdss-like")], n, 200, rng, 0.58) for n in (0, 1))
    assert first.laws != second.laws
    assert first.survey.bands != second.survey.bands
    assert 500 <= first.size <= 2000
    assert first.limit < 24
    truth = {
        "ra": np.array([150.0, 150.0, 150.1]),
        "dec": np.array([2.0, 2.0 + 0.5 / 3600, 2.0]),
        "mag_i": np.array([24.0, 20.0, 22.0]),
    }
    seen = {"ra": np.array([150.0, 150.1, 150.2]), "dec": np.array([2.0, 2.0, 2.0])}
    assert match_truth(seen, truth, truth["mag_i"]).tolist() == [1, 2, -1]


def test_surveys_without_i_use_one_reference_band():
    """Previously, the training limit referred to r, but objects beyond it were chosen by z."""
    survey = find_survey("sdss-like")
    without = replace(survey, bands=tuple(b for b in survey.bands if b.name != "i"))
    pointing = Pointing(survey=without, laws=PopulationLaws(), size=500)
    assert pointing.reference == "r"
    assert pointing.limit == pytest.approx(22.7 - 0.7)


def test_survey_toml_round_trip(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(find_survey("rubin-like").to_toml())
    assert find_survey(path) == find_survey("rubin-like")
