"""The training step follows the paper, and every option does what it documents."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from deepfits.training.config import TrainingConfig
from deepfits.training.data import Batch
from deepfits.training.engine import Engine
from deepfits.training.loop import Trainer, seed_of_step
from deepfits.training.losses import (
    discriminator_loss,
    embedder_loss,
    fine_structure,
    generator_loss,
    reconstruction_loss,
    shared_pass,
    smoothness_loss,
)
from deepfits.training.noise import NoiseSource, white_autocovariance
from deepfits.training.settings import EngineSettings
from tests.helpers.trainings import assert_shared_pass_equals_two_passes, gradients

INFO = StoreInfo(bands=("g", "r"), size=16, pixel_scale_arcsec=0.2)
UNITS = Normalisation(kind="asinh", mean=(0.1, 0.2), std=(0.5, 0.7), softening=(3.0, 2.0))


def make_trainer(**options):
    torch.manual_seed(0)
    config = ModelConfig(num_bands=2, size=16, latent_size=4, width=16, num_blocks=2, num_groups=2)
    source = NoiseSource(white_autocovariance(2), 16)
    return Trainer(Model.make(config, INFO, UNITS), TrainingConfig(**options), source, seed=3)


def make_batch(number=12, hidden=False):
    generator = torch.Generator().manual_seed(1)
    image = 5 * torch.randn(number, 2, 16, 16, generator=generator)
    weight = torch.full_like(image, 0.25)
    if hidden:
        weight[: number // 2, 1] = 0
        image[: number // 2, 1] = 0
    return Batch(image, weight)


def tensors(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def has_changed(network, before):
    return {name: not torch.equal(p, before[name]) for name, p in network.named_parameters()}


def test_losses_agree_with_the_paper():
    real, generated = torch.tensor([0.5, 1.0]), torch.tensor([0.0, -1.0])
    assert discriminator_loss(real, generated).item() == pytest.approx((0.25 / 2 + 1 / 2) / 2)
    assert generator_loss(generated).item() == pytest.approx((1 + 4) / 4)
    latent, guess = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert embedder_loss(latent, guess).item() == 2
    residual = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 100.0]]]])
    is_valid = torch.tensor([[[[True, True]]], [[[True, False]]]])
    assert reconstruction_loss(residual, is_valid).item() == pytest.approx((2.5 + 9) / 2)
    each = reconstruction_loss(residual, is_valid, logarithmic=True).item()
    assert each == pytest.approx((np.log(3.5) + np.log(10)) / 2)


def test_seeds_and_steps_draw_different_latents():
    trainer, draws = make_trainer(), []
    for trainer.seed in (1, 2, 2**33):
        draws += [trainer._draw(4, step)[1] for step in (7, 8)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_a_step_agrees_with_three_separate_updates():
    """Compare with an implementation with separate losses and optimisers."""
    trainer, batch = make_trainer(), make_batch()
    plain = deepcopy(trainer.model)
    losses = trainer.step(batch, 7)
    latent = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed_of_step(3, 7)))
    rates = {"lr": 4e-4, "betas": (0.5, 0.999)}
    real = UNITS.normalise(batch.image)
    fake = plain.generator(latent)
    optimiser = torch.optim.Adam(plain.discriminator.parameters(), **rates)
    both = plain.discriminator(torch.cat([real, fake.detach()]))  # one power iteration of the spectral norm
    loss = 0.5 * ((both[:12] - 1) ** 2).mean() + 0.5 * (both[12:] ** 2).mean()
    assert losses["discriminator"].item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    optimiser.step()
    optimiser = torch.optim.Adam(plain.generator.parameters(), **rates)
    loss = 0.5 * ((plain.discriminator(fake) - 1) ** 2).mean()
    assert losses["generator"].item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    optimiser.step()
    optimiser = torch.optim.Adam(plain.embedder.parameters(), **rates)
    loss = ((plain.embedder(fake.detach()) - latent) ** 2).mean()
    assert losses["embedder"].item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    optimiser.step()
    for name in ("generator", "discriminator", "embedder"):
        ours, theirs = tensors(getattr(trainer.model, name)), tensors(getattr(plain, name))
        for key, tensor in ours.items():
            # Adam's first step is the rate times a sign, so steps differ where a gradient is rounding error.
            is_same = (tensor - theirs[key]).abs() < 1e-6
            assert is_same.float().mean() > 0.99, (name, key)


@pytest.mark.parametrize(
    ("generated", "what"),
    [
        ([0.5, -0.3, 2.0, 1.0], "usual"),
        ([0.0, -0.0, 0.0, 0.0], "zero"),
        ([1e-30, -1e-12, 1e-7, -0.3], "near zero"),
        ([5e-39, 1.0, 1e4, -2e3], "small and large"),
    ],
)
def test_a_shared_pass_gives_the_gradients_of_two_passes(generated, what):
    """Given outputs, images of any brightness: two passes in float64 against one in float32."""
    torch.manual_seed(0)
    config = ModelConfig(num_bands=2, size=16, latent_size=4, width=16, num_blocks=2, num_groups=2)
    one = Model.make(config, INFO, UNITS).discriminator.eval()
    two = deepcopy(one).double()
    real, fake = torch.randn(4, 2, 16, 16), torch.tensor([0.1, 1.0, 10.0, 1.0])[:, None, None, None]
    fake = fake * torch.randn(4, 2, 16, 16)
    wanted = torch.tensor(generated)

    def outputs(network, x):  # adds a constant, so that outputs get the wanted values but keep gradients
        free = network(x)
        shifted = free[4:] - free[4:].detach() + wanted.to(x.dtype)
        return torch.cat((free[:4], shifted))

    x = torch.cat((real, fake)).double().requires_grad_()
    discriminator_loss(*outputs(two, x).chunk(2)).backward()
    expected = gradients(two)
    x.grad = None
    generator_loss(outputs(two, x)[4:]).backward()
    expected_pull = x.grad[4:]

    shown = fake.clone().requires_grad_()
    out = outputs(one, torch.cat((real, shown)))
    assert out[4:].tolist() == wanted.tolist(), what
    sent, factor = shared_pass(*out.detach().chunk(2))
    out.backward(sent)
    pull = (shown.grad * factor[:, None, None, None]).double()
    for i in range(4):  # compare each image relative to its own largest gradient
        size = float(expected_pull[i].abs().max())
        assert size > 0 or wanted[i] == 1  # no gradient at the target value
        torch.testing.assert_close(pull[i], expected_pull[i], rtol=0, atol=2e-6 * size)  # tens of roundings
    for name, gradient in gradients(one).items():
        size = float(expected[name].abs().max())
        torch.testing.assert_close(gradient.double(), expected[name], rtol=0, atol=5e-6 * size, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": "white", "noisy_embedder": True},
        {"reconstruction": 0.3, "smoothness": 10.0, "noise": "white", "incomplete": True},
    ],
)
def test_a_step_with_a_shared_pass_agrees_with_two_passes(options):
    assert_shared_pass_equals_two_passes(
        lambda shared: make_trainer(shared_discriminator_pass=shared, **options), make_batch(hidden=True)
    )


def test_a_shared_pass_in_bf16_agrees_with_two_passes_within_rounding():
    def make(shared):
        trainer = make_trainer(shared_discriminator_pass=shared)
        engine = Engine(EngineSettings(device="cpu", precision="bf16"))
        return Trainer(trainer.model, trainer.config, trainer.noise, seed=3, engine=engine)

    assert_shared_pass_equals_two_passes(make, make_batch(), error=0.05)  # each differs from float32 by 0.11


def test_a_shared_pass_iterates_the_spectral_norm_once():
    ours, theirs = make_trainer(shared_discriminator_pass=True), make_trainer()
    ours.step(make_batch(), 7)
    with torch.no_grad():
        theirs.networks["discriminator"](torch.zeros(1, 2, 16, 16))
    expected = dict(theirs.networks["discriminator"].named_buffers())
    assert expected
    for name, buffer in ours.networks["discriminator"].named_buffers():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("shared", [False, True])
def test_all_networks_are_updated_and_steps_are_repeatable(shared):
    first, again = (make_trainer(shared_discriminator_pass=shared) for _ in range(2))
    before = {name: tensors(network) for name, network in first.networks.items()}
    batch = make_batch()
    losses = [first.step(batch, 5), again.step(batch, 5)]
    assert losses[0] == losses[1]
    for name, network in first.networks.items():
        assert all(has_changed(network, before[name]).values()), name
    assert first.step(batch, 6) != losses[0]


def test_the_embedder_does_not_influence_the_generator():
    trainer, other = make_trainer(), make_trainer()
    with torch.no_grad():
        for parameter in other.embedder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for each in (trainer, other):
        each.step(make_batch(), 0)
    for ours, theirs in zip(trainer.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_fine_structure_is_the_fourth_power_of_a_sine():
    x = torch.arange(32.0)
    for frequency in (0.0, 0.1, 0.25, 0.5):
        wave = torch.cos(2 * np.pi * frequency * x).expand(1, 1, 32, 32)  # along rows
        along_y, along_x = fine_structure(wave)
        response = np.sin(np.pi * frequency) ** 4
        torch.testing.assert_close(along_x, response * wave[:, :, 2:-2, 2:-2], rtol=0, atol=1e-5)
        assert along_y.abs().max() < 1e-6
        assert float(smoothness_loss(wave.mT)) == pytest.approx(float(along_x.square().mean()) / 2, abs=1e-6)


def test_smoothness_removes_fine_patterns():
    def roughness(strength):
        trainer = make_trainer(noise="white", smoothness=strength, learning_rate=3e-3)
        losses = [trainer.step(make_batch(), step) for step in range(30)]
        assert ("smoothness" in losses[0]) == bool(strength)
        with torch.no_grad():
            x = trainer.generator(torch.randn(64, 4, generator=torch.Generator().manual_seed(4)))
        return float(fine_structure(x).square().mean())

    assert roughness(1000.0) < 0.2 * roughness(0.0)


def test_smoothness_excludes_bands_with_an_undersampled_psf():
    trainer = make_trainer()
    model = trainer.model
    for fwhm, expected in (((0.3, 0.6), [0, 1]), ((np.nan, 0.499), [1, 0])):  # pixels of 0.2″
        info = StoreInfo(bands=INFO.bands, size=16, pixel_scale_arcsec=0.2, fwhm_arcsec=fwhm)
        seeing = Model(model.config, info, UNITS, model.generator, model.discriminator, model.embedder)
        other = Trainer(seeing, TrainingConfig(), trainer.noise, seed=3)
        assert other.is_sampled.flatten().tolist() == expected


def test_noise_is_added_in_njy_with_the_strength_of_the_weights():
    trainer = make_trainer(noise="white")
    clean = torch.full((400, 2, 16, 16), 0.3)
    weight = torch.full_like(clean, 0.25)
    weight[:, 1] = 4
    noise = trainer.noise.draw(400, torch.Generator().manual_seed(0))
    seen = UNITS.denormalise(trainer.observe(clean, weight, noise)) - UNITS.denormalise(clean)
    expected = torch.tensor([2.0, 0.5])
    torch.testing.assert_close(seen.std(dim=(0, 2, 3)), expected, rtol=0.01, atol=0)  # 0.2 % each
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)) / expected, torch.zeros(2), rtol=0, atol=0.015)
    assert torch.equal(trainer.observe(clean, weight, None), clean)


def test_masked_pixels_are_equal_in_real_and_generated_images():
    trainer = make_trainer(noise="white", incomplete=True)
    batch = make_batch(hidden=True)
    noise = trainer.noise.draw(12, torch.Generator().manual_seed(0))
    seen = trainer.observe(trainer.generator(torch.randn(12, 4)), batch.weight, noise)
    real = UNITS.normalise(batch.image)
    is_hidden = batch.weight == 0
    assert is_hidden.any()
    assert torch.equal(seen[is_hidden], real[is_hidden])
    losses = trainer.step(batch, 0)
    assert all(np.isfinite(float(loss)) for loss in losses.values())


def test_learning_rates_decrease_only_at_the_end():
    trainer = make_trainer(decay=0.25)
    rates = []
    for fraction in (0.0, 0.5, 0.75, 0.875, 1.0):
        trainer.step(make_batch(), 0, fraction)
        rates.append([o.param_groups[0]["lr"] for o in trainer.optimisers.values()])
    expected = 4e-4 * np.outer([1, 1, 1, 0.5, 0], [1, 1, 1])
    np.testing.assert_allclose(rates, expected)


def test_the_moving_average_of_the_weights_is_the_final_model():
    trainer = make_trainer(ema=0.9)
    slow = tensors(trainer.model.generator)
    for step in range(3):
        trainer.step(make_batch(), step)
        fast = tensors(trainer.model.generator)
        slow = {name: 0.9 * tensor + 0.1 * fast[name] for name, tensor in slow.items()}
    kept = tensors(trainer.finished_model().generator)
    for name, tensor in slow.items():
        torch.testing.assert_close(kept[name], tensor)
    plain = make_trainer(ema=0.0)
    plain.step(make_batch(), 0)
    kept = tensors(plain.finished_model().generator)
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors(plain.model.generator).items())


def test_the_state_determines_the_next_step():
    options = {"ema": 0.9, "reconstruction": 0.3, "noise": "white", "noisy_embedder": True}
    trainer, batch = make_trainer(**options), make_batch()
    for step in range(3):
        trainer.step(batch, step)
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    other = make_trainer(**options)
    other.restore(state)
    assert other.step(batch, 3) == trainer.step(batch, 3)
    for name, tensor in trainer.state().items():
        assert torch.equal(other.state()[name], tensor), name
