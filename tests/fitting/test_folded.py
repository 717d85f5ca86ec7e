"""The folded generator agrees with the layer-by-layer one, forwards and backwards."""

import pytest
import torch

from deepfits.fitting import fit
from deepfits.fitting.folded import FoldedGenerator, can_fold
from deepfits.fitting.rendering import Differentiated, InFlux
from deepfits.models.generator import Generator
from deepfits.models.layers import ModelConfig
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


class Rounding:
    """Propagate variances of rounding errors through the layers (Higham & Mary 2019: independent roundings).

    Rounding to nearest changes a number x by an error of variance at most (u x)² / 3, where u is half the
    spacing at 1. A layer rounds its weights, its result and, in kernels that sum the four overlapping parts
    of a transposed convolution in half precision, as many partial sums; variances of input errors are
    multiplied by the squares of the weights. The bounds hold for any kernel and any order of summation.
    """

    PARTIAL_SUMS = 4

    def __init__(self, dtype: torch.dtype) -> None:
        info = torch.finfo(dtype)
        self.unit, self.smallest = (
            info.eps / 2,
            info.smallest_normal,
        )  # some kernels flush smaller numbers to 0

    def of(self, x: torch.Tensor, times: int = 1) -> torch.Tensor:
        return times * ((self.unit * x) ** 2 + self.smallest**2) / 3

    def layer(self, apply, x: torch.Tensor, variance: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return the variance of a layer's result; `apply` is the layer with its weights squared."""
        products = apply(x**2)  # sum of the squares of the terms of each result
        return (
            apply(variance)
            + self.of(products.sqrt(), 1 + self.PARTIAL_SUMS)
            + self.of(out, 1 + self.PARTIAL_SUMS)
        )


def squared(layer):
    """Return a layer and its transpose with the squares of its weights and no bias."""
    weight = layer.weight**2

    def forward(x):
        more = {"output_padding": layer.output_padding, **layer.geometry}
        return torch.nn.functional.conv_transpose2d(x, weight, **more)

    return forward, lambda g: torch.nn.functional.conv2d(g, weight, **layer.geometry)


def both_ways(g: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
    return torch.cat((g * is_open, g), dim=1)


def assert_within(error: torch.Tensor, variance: torch.Tensor) -> None:
    """Check that errors have the size of rounding errors: none above 8 sigma, rms not much smaller."""
    pull = error.double() / variance.sqrt()
    assert pull.abs().max() < 8
    assert 0.02 < pull.square().mean().sqrt() < 1.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errors_are_those_of_rounding(dtype):
    """Holds for cotangents of any size, and independently of the kernels that run."""
    generator = make(CONFIGS[0])
    exact = FoldedGenerator(generator)
    half = FoldedGenerator(generator.float(), inner_dtype=dtype)
    latent = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    rounding, layers = Rounding(dtype), [*exact.layers, exact.last]

    image, pullback = half.with_pullback(latent)
    assert image.dtype == torch.float32
    mains = half._forward(latent, half.inner)[1]
    pre = exact._view(torch.addmm(exact.offset, latent.double(), exact.matrix))
    variance = rounding.of(pre)
    for layer, main in zip(layers, mains, strict=True):
        channels = pre.shape[1] // 2
        assert_within(main - pre[:, :channels], variance[:, :channels])
        x = torch.relu(pre[:, :channels]) + pre[:, channels:]
        variance = variance[:, :channels] + variance[:, channels:] + rounding.of(x)
        pre = layer(x)
        variance = rounding.layer(squared(layer)[0], x, variance, pre)
    assert_within(image - pre, variance)

    # An activation within its error of zero may fall on either side; the gradient is that of the side on
    # which it fell.
    size = torch.tensor([1e-12, 1e-6, 1.0, 1e3, 1e6, 1e12])[
        :, None, None, None
    ]  # beyond the range of half precision
    cotangent = size * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    g = cotangent.double()
    variance = rounding.of(g / size) * size**2
    for layer, main in zip(reversed(layers), reversed(mains), strict=True):
        out = layer.transpose(g)
        variance = rounding.layer(squared(layer)[1], g / size, variance / size**2, out / size) * size**2
        g, variance = both_ways(out, main > 0), both_ways(variance, main > 0)
    right, variance = (x.permute(0, 2, 3, 1).flatten(1) for x in (g, variance))
    error = pullback(cotangent).double() - right @ exact.matrix.T
    assert_within(error, variance @ (exact.matrix**2).T)

    single = FoldedGenerator(generator.float())
    torch.testing.assert_close(half(latent), single(latent))  # images without gradients are not rounded
    torch.testing.assert_close(half.jacobian(latent)[1], single.jacobian(latent)[1])


def test_a_zero_cotangent_has_a_zero_gradient_in_half_precision():
    half = FoldedGenerator(make(CONFIGS[0]).float(), inner_dtype=torch.bfloat16)
    image, pullback = half.with_pullback(torch.zeros(2, 64))
    assert (pullback(torch.zeros_like(image)) == 0).all()


def test_fits_in_half_precision_are_close_to_exact_ones():
    generator = make(FITTED).float()
    draw = torch.Generator().manual_seed(4)
    image = generator(torch.randn(12, FITTED.latent_size, generator=draw))
    image = image + 0.3 * image.std() * torch.randn(image.shape, generator=draw)
    weight, start = torch.ones_like(image), torch.zeros(12, FITTED.latent_size)
    half = fit(FoldedGenerator(generator, inner_dtype=torch.float16), image, weight, start)
    exact = fit(generator, image, weight, start)
    loss = ((image - generator(half.latent)) ** 2).sum((1, 2, 3))
    assert (loss / exact.loss - 1).median() < 0.01
