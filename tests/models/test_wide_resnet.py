"""The Wide ResNet is WRN-50-2-bottleneck."""

import pytest
import torch
from torch import nn

from deepfits.errors import InputError
from deepfits.models.layers import count_parameters, without_allocating
from deepfits.models.wide_resnet import WideResNet, WideResNetConfig


def test_number_of_parameters_agrees_with_the_published_network():
    config = WideResNetConfig(num_bands=3, num_outputs=1000, small_images=False)
    # 68.9 million in Zagoruyko & Komodakis (2016), table 8; exactly this many in torchvision's model.
    assert count_parameters(without_allocating(lambda: WideResNet(config))) == 68_883_240
    assert config.num_layers == 50


def test_the_longest_path_has_fifty_layers():
    net = without_allocating(lambda: WideResNet(WideResNetConfig()))
    short_cuts = sum(isinstance(m.short_cut, nn.Sequential) for m in net.stages)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert short_cuts == 4
    assert len(convolutions) - short_cuts + 1 == 50
    assert all(m.bias is None for m in convolutions)


def test_shapes_for_cutouts():
    seen = []
    net = without_allocating(lambda: WideResNet(WideResNetConfig(num_bands=5, num_outputs=7)))
    for block in net.stages:
        block.register_forward_hook(lambda _module, _in, out: seen.append(tuple(out.shape[1:])))
    assert net(torch.empty(2, 5, 32, 32, device="meta")).shape == (2, 7)
    sizes = [(256, 32, 32)] * 3 + [(512, 16, 16)] * 4 + [(1024, 8, 8)] * 6 + [(2048, 4, 4)] * 3
    assert seen == sizes


def test_a_block_agrees_with_the_formula():
    torch.manual_seed(0)
    config = WideResNetConfig(num_bands=2, blocks=(1,), width=4)
    net, x = WideResNet(config).eval(), torch.randn(3, 2, 8, 8)
    with torch.no_grad():
        h = torch.relu(net.first[0](x))
        (block,) = net.stages
        way = block.way[4](torch.relu(block.way[2](torch.relu(block.way[0](h)))))
        expected = torch.relu(way + block.short_cut(h)).mean((2, 3)) @ net.last.weight.T + net.last.bias
        torch.testing.assert_close(net(x), expected)


def test_a_small_network_learns():
    torch.manual_seed(0)
    net = WideResNet(WideResNetConfig(num_bands=1, blocks=(1, 1), width=8))
    x = torch.randn(64, 1, 8, 8)
    truth = x[:, :, 2:6, 2:6].mean((2, 3)) * 4
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = ((net(x) - truth) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("change", [{"width": 0}, {"blocks": ()}, {"blocks": (1, 0)}])
def test_impossible_configurations_are_refused(change):
    with pytest.raises(InputError, match="wide_resnet"):
        WideResNetConfig(**change)
