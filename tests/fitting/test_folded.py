"""The folded generator agrees with the layer-by-layer one, forwards and backwards."""

import pytest
import torch

from deepfits.fitting import fit
from deepfits.fitting.folded import FoldedGenerator, can_fold
from deepfits.fitting.rendering import Differentiated, InFlux
from deepfits.models.layers import ModelConfig
from deepfits.models.networks import Generator
from deepfits.survey.normalise import Normalisation

CONFIGS = [
    ModelConfig(width=32),
    ModelConfig(width=16, num_bands=3, size=48, latent_size=10, num_blocks=2),
    ModelConfig(width=16, num_bands=1, size=16, latent_size=5, num_blocks=1, kernel_size=3),
    ModelConfig(width=16, num_bands=2, size=16, latent_size=5, num_blocks=2, kernel_size=5),
]


FITTED = ModelConfig(width=32, latent_size=12)
"""Few latents, since a fit computes derivatives of hundreds of galaxies along each of them."""


def make(config: ModelConfig) -> Generator:
    torch.manual_seed(5)
    return Generator(config).double().eval().requires_grad_(False)


@pytest.mark.parametrize("config", CONFIGS)
def test_images_gradients_and_jacobians_agree(config):
    generator = make(config)
    folded, layered = FoldedGenerator(generator), Differentiated(generator)
    latent = torch.randn(4, config.latent_size, generator=torch.Generator().manual_seed(1)).double()
    image, pullback = folded.with_pullback(latent)
    expected, expected_pullback = layered.with_pullback(latent)
    assert image.std() > 1e-3
    # Float64 rounding over a few thousand terms.
    torch.testing.assert_close(image, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(folded(latent), expected, rtol=1e-11, atol=1e-13)
    cotangent = torch.randn(image.shape, generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(pullback(cotangent), expected_pullback(cotangent), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        folded.jacobian(latent)[1], layered.jacobian(latent)[1], rtol=1e-10, atol=1e-12
    )


def test_jacobian_against_finite_differences():
    generator = make(CONFIGS[1])
    latent = torch.randn(2, 10, generator=torch.Generator().manual_seed(3)).double()
    derivative = FoldedGenerator(generator).jacobian(latent)[1]
    for index in range(10):
        shift = torch.zeros(10, dtype=torch.float64)
        shift[index] = 1e-6
        difference = (generator(latent + shift) - generator(latent - shift)) / 2e-6
        torch.testing.assert_close(derivative[:, index], difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["standard", "asinh"])
def test_flux_derivatives_agree_with_automatic_ones(kind):
    generator = make(CONFIGS[1])
    units = Normalisation(kind=kind, mean=(0.1, 0.2, 0.3), std=(0.5, 1.5, 2.0), softening=(1.0, 3.0, 2.0))
    hand = InFlux(FoldedGenerator(generator), units)
    automatic = Differentiated(lambda x: units.denormalise(generator(x)))
    latent = torch.randn(3, 10, generator=torch.Generator().manual_seed(4)).double()
    image, pullback = hand.with_pullback(latent)
    expected, expected_pullback = automatic.with_pullback(latent)
    torch.testing.assert_close(image, expected, rtol=1e-10, atol=1e-12)
    cotangent = torch.randn(image.shape, generator=torch.Generator().manual_seed(6)).double()
    torch.testing.assert_close(pullback(cotangent), expected_pullback(cotangent), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(hand.jacobian(latent)[1], automatic.jacobian(latent)[1], rtol=1e-9, atol=1e-11)


def test_flux_is_finite_and_increasing_far_from_the_prior():
    units = Normalisation(kind="asinh", mean=(0.0,), std=(1.0,), softening=(2.0,))

    def stretched(latent):
        return latent[:, :, None, None] * torch.ones(1, 1, 4, 4)

    render = InFlux(Differentiated(stretched), units)
    latent = torch.tensor([[-1e4], [-50.0], [3.0], [19.9], [500.0]])
    flux, pullback = render.with_pullback(latent)
    slope = pullback(torch.ones_like(flux))
    assert torch.isfinite(flux).all()
    assert (slope > 0).all()  # points back from everywhere
    assert (flux[1:, 0, 0, 0] > flux[:-1, 0, 0, 0]).all()
    torch.testing.assert_close(flux[2], units.denormalise(stretched(latent[2:3]))[0])


def test_fits_agree_between_folded_and_layered_generators():
    generator = make(FITTED).float()
    torch.manual_seed(7)
    truth = torch.randn(6, FITTED.latent_size)
    image = generator(truth) + 0.01 * torch.randn(6, 5, 32, 32)
    weight, start = torch.full_like(image, 1e4), truth + 0.3 * torch.randn_like(truth)
    fast = fit(FoldedGenerator(generator), image, weight, start, tolerance=1e-4, num_steps=200)
    slow = fit(generator, image, weight, start, tolerance=1e-4, num_steps=200)
    # Paths may differ by rounding; both end at the minimum, within the tolerance of the solver.
    torch.testing.assert_close(fast.loss, slow.loss, rtol=5e-3, atol=0)
    assert (fast.loss < 1.1 * 5120).all()


def test_only_generators_with_the_structure_of_the_paper_are_folded():
    assert can_fold(make(CONFIGS[0]))
    assert not can_fold(torch.nn.Sequential(torch.nn.Linear(3, 4)))
    with pytest.raises(ValueError, match="Linear"):
        FoldedGenerator(torch.nn.Linear(3, 4))
