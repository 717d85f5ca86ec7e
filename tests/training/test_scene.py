"""Scene models from training to fit, with individual PSFs and pixel grids."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import deepfits
from deepfits.errors import InputError
from deepfits.fitting.bestfit import fit
from deepfits.fitting.feature_table import feature_table
from deepfits.fitting.fitter import Fitter
from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.fitting.posterior import laplace
from deepfits.fitting.rendering import Differentiated
from deepfits.fitting.settings import FitSettings
from deepfits.gaussian_psf import moffat_psf
from deepfits.models.bundle import Model
from deepfits.observation import SceneGrid, Sight, above_reference
from deepfits.recipes import recipe
from deepfits.stages.train import train
from deepfits.survey.store import Cutouts, CutoutStore, StoreInfo, create_store, shard_name, write_shard
from deepfits.training.data import Batch, turn, turn_shift
from deepfits.training.loop import Trainer
from deepfits.training.noise import NoiseSource, white_autocovariance
from tests.helpers.trainings import StopAt, assert_shared_pass_equals_two_passes, losses

OPTIONS = {
    "width": 16, "latent_size": 4, "num_blocks": 2, "batch_size": 8, "log_every": 1,
    "checkpoint_seconds": 1e9, "num_evaluated": 20, "scene_size": 16, "scene_pixel_arcsec": 0.18,
}  # fmt: skip
GRID = SceneGrid(size=16, pixel_scale_arcsec=0.18, reference_fwhm_arcsec=0.4)


def make_sight(number=3, size=12, pixel=0.24, shift=None, seed=0):
    rng = np.random.default_rng(seed)
    psf = [[above_reference(moffat_psf(w), GRID) for w in row] for row in rng.uniform(0.6, 1.2, (number, 2))]
    place = rng.uniform(-0.5, 0.5, (number, 2)) if shift is None else shift
    return Sight(GRID, torch.tensor(np.array(psf)), torch.as_tensor(place, dtype=torch.float32), size, pixel)


def draw_scene(latent):
    """Draw Gaussians of any brightness and colour, at least as wide as the reference PSF."""
    at = (torch.arange(16, dtype=latent.dtype) - 7.5) * 0.18
    width = 0.17 + 0.3 * torch.sigmoid(latent[:, 2])
    profile = torch.exp(-0.5 * (at / width[:, None]) ** 2)
    shape = profile[:, :, None] * profile[:, None, :]
    return torch.exp(latent[:, :2])[:, :, None, None] * 10 * shape[:, None]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Write two stores of noisy scenes, with different pixel scales and cutout sizes."""
    out = []
    for number, (size, pixel) in enumerate(((16, 0.168), (10, 0.263))):
        info = StoreInfo(bands=("g", "r"), size=size, pixel_scale_arcsec=pixel, survey=f"s{number}")
        directory = create_store(tmp_path_factory.mktemp("cutouts"), info)
        rng = np.random.default_rng(number)
        sight = make_sight(150, size, pixel, seed=number)
        latent = torch.from_numpy(rng.normal(size=(150, 3))).float()
        image = sight.observation()(draw_scene(latent)).numpy()
        image = (image + 0.3 * rng.normal(size=image.shape)).astype("f4")
        weight = np.full_like(image, 1 / 0.09)
        place = sight.shift_pixels.numpy() + (size - 1) / 2 + 100  # consistent with the shift
        catalogue = {"x": place[:, 1].astype(float), "y": place[:, 0].astype(float)}
        ids = np.arange(150) + 1000 * number
        cutouts = Cutouts(
            object_id=ids, image=image, weight=weight, catalogue=catalogue, psf=sight.psf.numpy()
        )
        write_shard(directory / shard_name(0), cutouts, info)
        out.append(directory)
    return out


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    return train(stores, tmp_path_factory.mktemp("m") / "m", recipe="scene", steps=6, options=OPTIONS)


def test_several_stores_train_one_scene_model(trained):
    model = Model.load(trained)
    assert model.grid == GRID
    assert model.info.survey == "s0 + s1"
    rows = losses(trained)
    assert len(rows) == 6
    assert all(row["generator"] > 0 and row["reconstruction"] > 0 for row in rows)


def test_a_resumed_scene_training_is_the_uninterrupted_one(stores, trained, tmp_path):
    out = tmp_path / "m"
    options = OPTIONS | {"checkpoint_seconds": 0.0}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(stores, out, recipe="scene", steps=6, options=options, progress=StopAt(3, 15))
    train(stores, out, recipe="scene", steps=6, options=options)
    assert losses(out) == losses(trained)


def test_several_stores_require_a_scene_model(stores, tmp_path):
    with pytest.raises(InputError, match="recipe 'scene'"):
        train(stores, tmp_path / "m", recipe="tiny", steps=1)


def test_cutouts_larger_than_the_scenes_cause_a_warning_before_training(stores, tmp_path, caplog):
    train(stores[0], tmp_path / "same", recipe="scene", steps=1, options=OPTIONS)
    assert "arcsec a side" not in caplog.text
    small = OPTIONS | {"scene_pixel_arcsec": 0.1}
    train(stores[0], tmp_path / "small", recipe="scene", steps=1, options=small)
    found = re.search(r"2\.7 arcsec a side, but the scenes have 1\.6.*scene_size=(\d+)", caplog.text)
    assert found is not None
    caplog.clear()
    train(stores[0], tmp_path / "l", recipe="scene", steps=1, options=small | {"scene_size": int(found[1])})
    assert "arcsec a side" not in caplog.text


def test_image_models_have_no_scene_grid():
    assert recipe("paper").training.grid is None


@pytest.mark.parametrize("number", range(8))
def test_shifts_are_rotated_with_images(number):
    shift = torch.tensor([[0.4, -0.25]])
    scene = draw_scene(torch.zeros(1, 3))
    straight = make_sight(1, shift=shift).observation()(scene)
    which = torch.tensor([number])
    turned = make_sight(1, shift=turn_shift(shift, which)).observation()(scene)
    assert straight.max() > 0.1
    assert torch.allclose(turned, turn(straight, which), atol=1e-5)


def test_network_inputs_do_not_depend_on_the_pixel_scale():
    scene = draw_scene(torch.tensor([[1.0, 2.0, 2.0]]))
    seen = []
    for size, pixel in ((16, 0.18), (20, 0.144)):
        sight = make_sight(1, size, pixel, shift=torch.tensor([[0.3, -0.2]]))
        image = sight.observation()(scene)
        seen.append(sight.on_grid(image, torch.full_like(image, 1e6), torch.full((2, 1, 1), 1.0)))
    assert seen[0].max() > 5
    inner = slice(2, -2)
    assert (seen[0] - seen[1])[..., inner, inner].abs().max() < 0.05 * seen[0].max()


def test_noisy_inputs_are_shrunk_and_missing_data_are_zero():
    sight = make_sight(1)
    image, weight = torch.full((1, 2, 12, 12), 50.0), torch.full((1, 2, 12, 12), 1e-4)  # half a sigma
    weight[:, 1] = 0
    seen = sight.on_grid(image, weight, torch.ones(2, 1, 1))
    assert 0 < seen[0, 0, 8, 8] < 0.1 * 50 * sight.area
    assert (seen[0, 1] == 0).all()


def test_network_inputs_include_noise_and_psf():
    """Half the noise of the floor, no data, and PSFs of one and three times the reference's width."""
    sight = make_sight(2)
    psf = torch.zeros_like(sight.psf)
    psf[..., 0, 0], psf[..., 1] = 1, sight.grid.reference_sigma
    psf[1, :, :, 1] *= 3
    sight = replace(sight, psf=psf)
    weight = torch.full((2, 2, 12, 12), 4.0) * sight.area**2  # for a floor of 1 in scene pixels
    weight[:, 1] = 0
    depth, width = sight.described(weight, torch.ones(2, 1, 1)).chunk(2, dim=1)
    assert depth[:, 0, 8, 8].numpy() == pytest.approx(math.log(5), rel=1e-5)
    assert (depth[:, 1] == 0).all()
    assert width[0].numpy() == pytest.approx(0, abs=1e-6)
    assert width[1, 0].numpy() == pytest.approx(math.log(3), rel=1e-5)
    assert (width[:, 1] == 0).all()  # whatever the PSF in a band without data


@pytest.mark.parametrize(
    ("free", "dtype"), [(True, torch.float32), (False, torch.float32), (False, torch.float64)]
)
def test_the_fit_recovers_scenes_observed_with_individual_psfs(free, dtype):
    sight = make_sight(5)
    truth = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    image = sight.observation()(draw_scene(truth))
    found = fit(
        draw_scene, image, torch.full_like(image, 1e4), torch.zeros(5, 3, dtype=dtype), sight=sight,
        amplitudes=free, num_steps=300, tolerance=1e-9, batch_size=2,
    )  # fmt: skip
    drawn = sight.observation(dtype)(draw_scene(found.latent)) * found.amplitude[:, :, None, None]
    assert (drawn - image).abs().max() < 0.01 * image.max()
    if not free:
        assert torch.allclose(found.latent, truth.to(dtype), atol=0.02)


def test_gradient_through_the_observation():
    sight = make_sight(2)
    observation = sight.observation(torch.float64)
    latent = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    image = observation(draw_scene(latent + 0.3))
    weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective = Objective(Differentiated(draw_scene), amplitude_prior=AmplitudePrior())
    _, gradient, _ = objective(latent, image, weight, observation)
    for index in range(3):
        step = torch.zeros_like(latent)
        step[:, index] = 1e-5
        up, down = (objective.value(latent + s, image, weight, observation)[0] for s in (step, -step))
        assert torch.allclose(gradient[:, index], (up - down) / 2e-5, rtol=1e-5)
    assert gradient.abs().min() > 1e-6


def test_errors_of_scene_fluxes_agree_with_the_scatter_of_fits():
    sight = make_sight(1)
    sights = sight.take(torch.zeros(300, dtype=torch.int64))
    truth = torch.tensor([[0.2, 0.5, 0.0]])
    image = sight.observation()(draw_scene(truth)).expand(300, -1, -1, -1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(4))
    weight = torch.full_like(noise, 25.0)
    found = fit(draw_scene, image + 0.2 * noise, weight, truth.expand(300, 3), sight=sights, num_steps=60)
    total = torch.ones(1, 16, 16)
    objective = Objective(Differentiated(draw_scene))
    stated = laplace(
        objective,
        truth,
        image[:1],
        weight[:1],
        torch.ones(1, 12, 12),
        observation=sight.observation(),
        scene_sums=total,
    )
    scatter = draw_scene(found.latent).sum((2, 3)).std(0)
    # the scatter of 300 draws has an error of 4%
    assert torch.allclose(scatter, stated.scene_flux_std[0, :, 0], rtol=0.2)


def test_features_include_measurements_of_the_scene(stores, trained):
    model = Model.load(trained)
    store = CutoutStore(stores[1])
    cutouts = store.take(np.arange(8))
    fitter = Fitter(model, FitSettings(), store.info, threads=1)
    fitted = fitter.fit_cutouts(cutouts)
    columns = feature_table(fitter, fitted, cutouts)
    assert np.isfinite(columns["flux_scene_g"]).all()
    assert (columns["flux_scene_err_g"] > 0).all()
    assert np.isfinite(columns["scene_half_light_arcsec_r"]).any()
    assert fitter.reconstruct(fitted).shape == cutouts.image.shape
    with pytest.raises(InputError, match="objective='flux'"):
        Fitter(model, FitSettings(objective="paper"), store.info)


def test_errors_for_colours_include_those_due_to_the_psf(stores, trained):
    store = CutoutStore(stores[1])
    fitter = Fitter(Model.load(trained), FitSettings(), store.info, threads=1)
    cutouts = store.take(np.arange(8))
    fitted = fitter.fit_cutouts(cutouts)
    errors = []
    for of_psf in (np.nan, 0.05):
        of_g = {"psf_mismatch_g": np.full(8, of_psf, np.float32)}
        columns = feature_table(fitter, fitted, replace(cutouts, catalogue=cutouts.catalogue | of_g))
        errors.append((columns["flux_gauss_err_g"], columns["flux_gauss_err_r"]))
    (usual, other), (larger, same) = errors
    flux = columns["flux_gauss_g"]
    np.testing.assert_allclose(larger**2 - usual**2, (0.05**2 - 0.007**2) * flux**2, rtol=1e-3)
    np.testing.assert_array_equal(other, same)


def test_pixels_beyond_the_scene_have_no_influence(stores, trained):
    model, store = Model.load(trained), CutoutStore(stores[1])
    cutouts = store.take(np.arange(8))
    pad = ((0, 0), (0, 0), (4, 4), (4, 4))
    wide = replace(
        cutouts,
        image=np.pad(cutouts.image, pad, constant_values=1e4),
        weight=np.pad(cutouts.weight, pad, constant_values=10.0),
    )
    found = []
    for some, info in ((cutouts, store.info), (wide, replace(store.info, size=store.info.size + 8))):
        fitter = Fitter(model, FitSettings(), info, threads=1)
        found.append(fitter.fit_cutouts(some))
    # start at the best fit, since fits from other starts may find other minima
    again = fitter.fit_cutouts(wide, start=found[0].fit.latent.numpy())
    assert (found[1].weight > 0).sum() == (found[0].weight > 0).sum()
    # the PSF is approximated by its main terms over the whole cutout, which differ by about 10⁻³
    torch.testing.assert_close(found[1].fit.loss_start, found[0].fit.loss_start, rtol=3e-3, atol=0)
    torch.testing.assert_close(again.fit.loss_start, found[0].fit.loss, rtol=1e-2, atol=0)
    assert (found[0].fit.loss < 0.9 * found[0].fit.loss_start).any()
    cautions = model.check(replace(store.info, size=store.info.size + 8))
    assert "pixels outside get weight 0" in cautions[-1]
    with pytest.raises(InputError, match="cut with size=10"):
        model.check(replace(store.info, size=store.info.size + 8), to_train=True)


def test_unknown_and_sharp_psfs_are_refused(stores, trained):
    model = Model.load(trained)
    store = CutoutStore(stores[0])
    cutouts = store.take(np.arange(2))
    for psf, message in ((np.nan, "band g: the PSF is unknown"), (0.3, "band g: a PSF of 0.30 arcsec")):
        wrong = np.array(cutouts.psf)
        wrong[:, 0] = moffat_psf(psf)
        with pytest.raises(InputError, match=message):
            model.sight(replace(cutouts, psf=wrong), store.info)


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (None, "the PSF is unknown.*--psf g=0.8"),
        (np.nan, "the PSF is unknown.*--psf g=0.8"),
        (0.3, "a PSF of 0.30 arcsec.*smooth the images"),
    ],
)
def test_a_store_of_unusable_psfs_is_refused_before_any_work(stores, trained, tmp_path, psf, message):
    cutouts = CutoutStore(stores[0]).take(np.arange(6))
    info = CutoutStore(stores[0]).info
    store = create_store(tmp_path / "store", info)
    if psf is not None:
        psf = np.broadcast_to(moffat_psf(psf), cutouts.psf.shape).astype(np.float32)
    write_shard(store / shard_name(0), replace(cutouts, psf=psf), info)
    for stage, more in ((deepfits.fit, {}), (deepfits.inpaint, {"bands": "r"})):
        with pytest.raises(InputError, match=f"^band g: {message}"):
            stage(store, trained, tmp_path / "out", threads=1, **more)
        assert not (tmp_path / "out").exists()
    # A band without data does not need a PSF.
    cutouts.weight[:, 0] = 0
    known = replace(info, fwhm_arcsec=(np.nan, 0.9))
    if psf is not None:
        psf[:, 1] = moffat_psf(0.9)
    store = create_store(tmp_path / "other", known)
    write_shard(store / shard_name(0), replace(cutouts, psf=psf), known)
    features = deepfits.read_features(deepfits.fit(store, trained, tmp_path / "out", threads=1))
    assert np.isfinite(features["latent"]).all()


def test_bands_without_data_are_measured_at_their_psf():
    """The same galaxy with u, without u though its PSF is known, and without both."""
    model = Model.load("builtin:ugriz")
    info = replace(model.info, size=24, pixel_scale_arcsec=0.24, fwhm_arcsec=(np.nan,) * 5)
    psf = np.array([[moffat_psf(width) for width in (1.3, 1.0, 0.9, 0.8, 0.8)]] * 3, dtype=np.float32)
    psf[2, 0] = np.nan
    weight = np.full((3, 5, 24, 24), 1e-2, dtype=np.float32)
    weight[1:, 0] = 0
    cutouts = Cutouts(object_id=np.arange(3), image=np.zeros_like(weight), weight=weight, psf=psf)
    fitter = Fitter(model, FitSettings(mode="embedder", uncertainty=False), info, threads=1)
    latent = torch.zeros(3, 64)
    image = fitter.draw(latent[:1], fitter.sight(cutouts).take([0])).numpy()
    cutouts = replace(cutouts, image=np.where(weight > 0, image, 0).astype(np.float32))
    fitted = fitter.fit_cutouts(cutouts)
    fitted = replace(fitted, fit=replace(fitted.fit, latent=latent, amplitude=torch.ones(3, 5)))
    measured = feature_table(fitter, fitted, cutouts)
    for name in ("flux_model_u", "flux_aper_model_u", "flux_gauss_u", "half_light_arcsec_u"):
        assert measured[name][1] == pytest.approx(measured[name][0], rel=0.01), name
    # At another PSF the extended light differs: by 12% here, by 59% where no PSF was assumed.
    assert measured["flux_gauss_u"][2] == pytest.approx(measured["flux_gauss_u"][0], rel=0.15)
    assert measured["half_light_arcsec_u"][2] < 0.8 * measured["half_light_arcsec_u"][0]  # the scene's PSF


def test_drawings_have_the_shape_of_cutouts_even_without_objects(trained):
    model, sight = Model.load(trained), make_sight()
    features = {"latent": np.zeros((3, 4), np.float32)}
    for rows in (np.arange(3), np.arange(0)):
        assert model.draw(features, rows, sight=sight).shape == (len(rows), 2, 12, 12)


def test_a_shared_pass_agrees_with_two_passes_for_scenes(stores, trained):
    store = CutoutStore(stores[0])
    cutouts = store.take(np.arange(8))
    sight = Model.load(trained).sight(cutouts, store.info)
    batch = Batch(torch.from_numpy(cutouts.image), torch.from_numpy(cutouts.weight), sight)

    def make(shared):
        config = replace(recipe("scene").training, scene_size=16, shared_discriminator_pass=shared)
        noise = NoiseSource(white_autocovariance(2), store.info.size)
        return Trainer(Model.load(trained), config, noise, 0)

    assert_shared_pass_equals_two_passes(make, batch)


@pytest.mark.parametrize("sigma", [0.1, 3.0, 100.0])
def test_the_reconstruction_loss_is_in_units_of_the_noise_at_every_depth(trained, sigma):
    model = Model.load(trained)
    config = replace(recipe("scene").training, scene_size=16)
    trainer = Trainer(model, config, NoiseSource(white_autocovariance(2), 12), 0)
    sight = make_sight(64)
    real = torch.zeros(64, 2, 16, 16)
    real = torch.cat((real, sight.described(torch.ones(64, 2, 12, 12), trainer.softening)), dim=1)
    way = sight.observation()
    with torch.no_grad():
        perfect = model.render(model.embedder(real), sight)
        noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(5))
        weight = torch.full_like(noise, sigma**-2)
        exact, wrong = (
            math.expm1(float(trainer._reconstruct(real, perfect + sigma * (noise + more), weight, way)))
            for more in (0, 5)
        )
    assert 0.02 < exact <= 1.05  # the stretch reduces the noise of bright pixels
    assert wrong > 5 * exact
