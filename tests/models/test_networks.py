"""The networks follow M19 §2.1: layers, shapes, normalisations, activations, numbers of parameters."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from deepfits.errors import InputError
from deepfits.models.layers import ModelConfig, count_parameters, without_allocating
from deepfits.models.networks import Discriminator, Embedder, Generator
from deepfits.recipes import recipe

PAPER = recipe("paper").model


def leaves(module, kind):
    return [m for m in module.modules() if isinstance(m, kind)]


def test_paper_generator_layers():
    net = without_allocating(lambda: Generator(PAPER))
    (linear,) = leaves(net, nn.Linear)
    assert (linear.in_features, linear.out_features) == (64, 4096)
    shapes = [(m.in_channels, m.out_channels) for m in leaves(net, nn.ConvTranspose2d)]
    assert shapes == [(1024, 512), (1024, 512), (512, 256), (512, 256), (256, 128), (256, 128), (128, 5)]
    assert all(m.kernel_size == (4, 4) and m.stride == (2, 2) for m in leaves(net, nn.ConvTranspose2d))
    kinds = {type(m).__name__ for m in net.modules()}
    assert kinds == {"Generator", "Linear", "Sequential", "UpBlock", "ConvTranspose2d"}  # no normalisation
    assert not any(parametrize.is_parametrized(m) for m in net.modules())


@pytest.mark.parametrize(("make", "num_outputs"), [(Discriminator, 1), (Embedder, 64)])
def test_paper_encoder_layers(make, num_outputs):
    net = without_allocating(lambda: make(PAPER))
    (linear,) = leaves(net, nn.Linear)
    assert (linear.in_features, linear.out_features) == (4096, num_outputs)
    convolutions = leaves(net, nn.Conv2d)
    shapes = [(m.in_channels, m.out_channels) for m in convolutions]
    assert shapes == [(5, 128), (128, 256), (128, 256), (256, 512), (256, 512), (512, 1024), (512, 1024)]
    assert all(m.kernel_size == (4, 4) and m.stride == (2, 2) for m in convolutions)
    assert all(parametrize.is_parametrized(m, "weight") for m in [linear, *convolutions])
    groups = leaves(net, nn.GroupNorm)
    assert [(m.num_groups, m.num_channels) for m in groups] == [(4, b) for _, b in shapes]


def test_number_of_parameters_of_the_paper_networks():
    pairs = 2 * (1024 * 512 + 512 * 256 + 256 * 128) * 16  # two branches per block, 4×4 kernels
    biases = 2 * (512 + 256 + 128)
    assert count_parameters(without_allocating(lambda: Generator(PAPER))) == (
        65 * 4096 + pairs + biases + 128 * 5 * 16 + 5
    )
    down = pairs + 5 * 128 * 16 + 3 * (128 + 2 * (256 + 512 + 1024))  # a bias and two affine parameters each
    assert count_parameters(without_allocating(lambda: Discriminator(PAPER))) == down + 4096 + 1
    assert count_parameters(without_allocating(lambda: Embedder(PAPER))) == down + 4096 * 64 + 64


def test_intermediate_shapes_of_the_paper_generator():
    seen = []
    net = without_allocating(lambda: Generator(PAPER))
    for block in [*net.blocks, net.last]:
        block.register_forward_hook(lambda _module, _in, out: seen.append(tuple(out.shape[1:])))
    net(torch.empty(2, 64, device="meta"))
    assert seen == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (5, 32, 32)]


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("size", "num_blocks"), [(32, 3), (48, 3), (64, 4), (16, 2)])
def test_shapes_follow_the_configuration(kernel_size, size, num_blocks):
    config = ModelConfig(
        num_bands=3, size=size, latent_size=7, width=32, num_blocks=num_blocks, kernel_size=kernel_size,
        num_groups=2,
    )  # fmt: skip
    image = Generator(config)(torch.randn(2, 7))
    assert image.shape == (2, 3, size, size)
    assert Discriminator(config)(image).shape == (2,)
    assert Embedder(config)(image).shape == (2, 7)


def test_generator_agrees_with_the_formula():
    torch.manual_seed(0)
    config = ModelConfig(width=16, latent_size=3, num_blocks=1, size=8, num_groups=4)
    net, latent = Generator(config), torch.randn(4, 3)
    x = (latent @ net.first.weight.T + net.first.bias).reshape(4, 16, 2, 2)
    (block,) = net.blocks

    def up(x, layer):
        return nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)

    x = up(x, block.main).clamp(min=0) + up(x, block.pass_through)
    torch.testing.assert_close(net(latent), up(x, net.last))


def test_encoder_uses_leaky_relu_on_one_branch_only():
    torch.manual_seed(0)
    config = ModelConfig(width=16, num_blocks=1, size=8, num_groups=4, negative_slope=0.2)
    net, image = Embedder(config).eval(), torch.randn(4, 5, 8, 8)
    (block,) = net.blocks
    x = net.first(image)
    main = block.main(x)
    x = torch.where(main > 0, main, 0.2 * main) + block.pass_through(x)
    torch.testing.assert_close(net(image), net.last(x.reshape(4, -1)))


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    net = Discriminator(ModelConfig(width=32))
    for _ in range(30):  # each pass in training mode is one power iteration
        net(torch.randn(1, 5, 32, 32))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            top = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert float(top.detach()) == pytest.approx(1, abs=0.05)  # not fully converged


def test_outputs_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    config = ModelConfig(width=32)
    latent = torch.randn(6, 64)
    for net, x in [(Generator(config), latent), (Embedder(config).eval(), torch.randn(6, 5, 32, 32))]:
        torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=1e-5, atol=1e-6)  # float32 sums reorder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": 30}, "multiple of 16"),
        ({"width": 0}, "width"),
        ({"latent_size": 2.5}, "latent_size"),
        ({"width": 1001}, "groups"),
        ({"num_groups": 3}, "groups"),
        ({"width": 12, "num_groups": 0}, "halved"),
        ({"negative_slope": float("nan")}, "negative_slope"),
    ],
)
def test_impossible_configurations_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        ModelConfig(**change)


def test_errors_for_unknown_keys_name_the_nearest_key():
    with pytest.raises(InputError, match="did you mean 'width'"):
        ModelConfig.from_json({"widht": 3})


@pytest.mark.parametrize("size", [24, 33, 50])
def test_what_is_advised_for_other_sizes_works(size):
    with pytest.raises(InputError, match=f"not {size}; cut with size=") as refused:
        ModelConfig(size=size)
    advised = dict(re.findall(r"(size|num_blocks)=(\d+)", str(refused.value)))
    ModelConfig(size=int(advised["size"]))
    assert ("num_blocks" in advised) == (size % 2 == 0)
    if "num_blocks" in advised:
        ModelConfig(size=size, num_blocks=int(advised["num_blocks"]))
