"""Initialisation of the networks' weights."""

from __future__ import annotations

import pytest
import torch

from deepfits.errors import InputError
from deepfits.models.discriminator import Discriminator
from deepfits.models.generator import Generator
from deepfits.models.layers import ModelConfig
from deepfits.training.config import TrainingConfig
from deepfits.training.initialise import NORMAL_STD, initialise

CONFIG = ModelConfig(width=32, latent_size=16)


def test_uniform_keeps_the_weights_of_pytorch():
    network = Generator(CONFIG)
    before = network.first.weight.clone()
    initialise(network, "uniform")
    assert torch.equal(before, network.first.weight)


def test_normal_weights_have_the_given_width_and_zero_biases():
    network = Generator(CONFIG)
    initialise(network, "normal")
    for module in (network.first, network.blocks[0].main, network.last):
        assert module.weight.std().item() == pytest.approx(NORMAL_STD, rel=0.1)
        assert not module.bias.any()


def test_orthogonal_weights_are_set_below_the_spectral_norm():
    network = Discriminator(CONFIG)
    initialise(network, "orthogonal")
    for module in network.modules():
        if hasattr(module, "parametrizations"):
            flat = module.parametrizations.weight.original.detach().flatten(1)
            gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-4, rtol=0)
    assert torch.isfinite(network(torch.randn(4, 5, 32, 32))).all()


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match=r"initialisation must be .*, not 'he'"):
        TrainingConfig(initialisation="he")
