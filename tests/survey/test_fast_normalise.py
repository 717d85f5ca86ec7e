"""The fast normalisation is the normalisation."""

import pytest
import torch

from deepfits.survey.normalise import Normalisation, arcsinh, normalise


def test_arcsinh_is_pytorchs_over_its_range():
    x = torch.cat([torch.zeros(1), torch.logspace(-20, 18, 4000)])
    x = torch.cat([x, -x])
    exact = torch.asinh(x.double())
    # float32 has 1.2e-7; three rounded operations
    torch.testing.assert_close(arcsinh(x).double(), exact, rtol=4e-7, atol=0)


def test_derivative_against_finite_differences():
    x = torch.tensor([-40.0, -1.0, 0.0, 1e-4, 2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(arcsinh, x)
    (slope,) = torch.autograd.grad(arcsinh(x).sum(), x)
    torch.testing.assert_close(slope, 1 / (1 + x.detach() ** 2).sqrt())


@pytest.mark.parametrize("kind", ["standard", "asinh"])
def test_normalise_is_the_slow_one(kind):
    units = Normalisation(kind=kind, mean=(0.1, 0.2), std=(0.5, 2.0), softening=(3.0, 4.0))
    flux = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 100
    torch.testing.assert_close(normalise(units, flux), units.normalise(flux))
