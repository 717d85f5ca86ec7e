"""Uncertainties: the Laplace approximation compared with its definition, and pulls in simulations."""

import pytest
import torch

from deepfits.fitting import AmplitudePrior, fit
from deepfits.fitting.metric import Metric, gauss_newton, learn_metric, project_out
from deepfits.fitting.objective import Objective
from deepfits.fitting.posterior import laplace
from deepfits.fitting.rendering import as_renderer
from deepfits.photometry import total_and_aperture
from tests.helpers.fit_problem import B, Decoder, L, S, make_problem

SUMS = torch.from_numpy(total_and_aperture(S, 0.5))
OFFSET = torch.arange(S) - (S - 1) / 2
TAPER = torch.exp(-((OFFSET[:, None] ** 2 + OFFSET**2) / 9))


def test_covariance_of_a_linear_model_is_exact():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(L, B * S * S, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, B, S, S, generator=generator, dtype=torch.float64)
    objective = Objective(as_renderer(lambda x: (x @ matrix).view(-1, B, S, S)), prior_strength=1.0)
    latent = torch.randn(2, L, generator=generator, dtype=torch.float64)
    found = laplace(objective, latent, torch.zeros_like(weight), weight, SUMS.double(), with_pixels=True)
    for row in range(2):
        information = (matrix * weight[row].flatten()) @ matrix.T + torch.eye(L)
        covariance = torch.linalg.inv(information)
        torch.testing.assert_close(found.covariance[row], covariance)
        pixels = (matrix.T @ covariance @ matrix).diagonal().view(B, S, S).sqrt()
        torch.testing.assert_close(found.pixel_std[row], pixels)
        sums = matrix.view(L, B, -1) @ SUMS.double().view(2, -1).T  # (L, B, K)
        expected = torch.einsum("lbk,lm,mbk->bk", sums, covariance, sums).sqrt()
        torch.testing.assert_close(found.flux_std[row], expected)


@pytest.mark.parametrize("amplitudes", [False, True])
def test_joint_information_is_the_hessian_of_the_linearised_loss(amplitudes):
    """Compare with second derivatives of the loss at a perfect fit, in float64."""
    truth, _, weight, _ = make_problem(1)
    truth, weight = truth.double(), weight.double() / 400
    render = Decoder().double()
    prior = AmplitudePrior() if amplitudes else None
    objective = Objective(as_renderer(render), prior_strength=1.0, amplitude_prior=prior)
    image = render(truth)
    found = laplace(objective, truth, image, weight, SUMS.double())
    size = L + (B if amplitudes else 0)
    precision = AmplitudePrior().precision(B, truth)

    def half_loss(p):
        a = p[L:] if amplitudes else torch.ones(B).double()
        residual = image[0] - a[:, None, None] * render(p[None, :L])[0]
        prior = p[:L] @ p[:L] + ((a - 1) @ precision @ (a - 1) if amplitudes else 0)
        return 0.5 * ((weight[0] * residual**2).sum() + prior)

    at = torch.cat((truth[0], torch.ones(size - L).double()))
    hessian = torch.autograd.functional.hessian(half_loss, at)
    torch.testing.assert_close(torch.linalg.inv(hessian), found.covariance[0], rtol=1e-6, atol=1e-10)


def test_covariance_of_amplitudes_solved_after_the_fit_is_the_scatter_of_estimates():
    """Compare with 4,000 noise draws and a linear decoder, whose best fit has a closed form."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(L, B * S * S, generator=generator, dtype=torch.float64)
    weight = 0.02 + torch.rand(B, S, S, generator=generator, dtype=torch.float64)
    truth = torch.randn(L, generator=generator, dtype=torch.float64)
    clean, flat = truth @ matrix, weight.flatten()
    number = 4000
    noise = torch.randn(number, len(flat), generator=generator, dtype=torch.float64) / flat.sqrt()
    latent = torch.linalg.solve((matrix * flat) @ matrix.T, ((clean + noise) * flat) @ matrix.T, left=False)
    loose = AmplitudePrior(common_sigma=1e3, band_sigma=1e3)
    objective = Objective(as_renderer(lambda x: (x @ matrix).view(-1, B, S, S)), prior_strength=1e-6)
    drawn = (latent @ matrix).view(number, B, S, S)
    solver = Objective(objective.renderer, amplitude_prior=loose)
    spread = weight.expand(number, -1, -1, -1)
    amplitude = solver.amplitudes(drawn, (clean + noise).view_as(drawn), spread)
    flux = torch.einsum("nb,nbhw,khw->nbk", amplitude, drawn, SUMS.double())
    found = laplace(
        objective, truth[None], clean.view(1, B, S, S), weight[None], SUMS.double(), solved_after=loose
    )
    # The width of 4,000 draws has an error of 1.1%; the unit prior contributes 1% here.
    torch.testing.assert_close(flux.std(0), found.flux_std[0], rtol=0.05, atol=0)
    torch.testing.assert_close(amplitude.std(0), found.amplitude_std[0], rtol=0.05, atol=0)


@pytest.mark.parametrize("case", ["plain", "amplitudes", "after", "tapered"])
def test_errors_of_bright_galaxies_agree_with_double_precision(case):
    """The data are 10⁸ times more informative than the prior, except along one direction."""
    truth, image, weight, _ = make_problem(6)
    weight = 1e6 * weight
    flat = torch.nn.functional.normalize(torch.arange(1.0, L + 1).double(), dim=0)
    seen = torch.eye(L).double() - flat[:, None] * flat
    weight[0, 0] = 0
    prior = AmplitudePrior()
    used = weight * TAPER if case == "tapered" else None

    def found(dtype):
        def render(latent):
            return decoder(latent @ seen.to(dtype))

        decoder = Decoder().to(dtype)
        objective = Objective(
            as_renderer(render), prior_strength=1.0, amplitude_prior=prior if case == "amplitudes" else None
        )
        return laplace(
            objective, truth.to(dtype), image.to(dtype), weight.to(dtype), SUMS.to(dtype), with_pixels=True,
            fit_weight=None if used is None else used.to(dtype), amplitude=torch.ones(6, B, dtype=dtype),
            solved_after=prior if case == "after" else None,
        )  # fmt: skip

    single, double = found(torch.float32), found(torch.float64)
    for name in ("latent_std", "flux_std", "amplitude_std", "pixel_std"):
        value, expected = getattr(single, name), getattr(double, name)
        if expected is not None:
            assert (expected > 0).all()
            torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("case", ["plain", "amplitudes", "after", "tapered"])
def test_pulls_of_model_flux_have_width_one(case):
    number, noise = 600, 0.3
    truth, image, weight, _ = make_problem(number, noise=noise, seed=11)
    generator = torch.Generator().manual_seed(12)
    clean = Decoder()(truth)
    image = clean + noise * torch.randn(clean.shape, generator=generator)
    weight = torch.full_like(image, noise**-2)
    weight[: number // 3, 0] = 0  # some objects lack a band
    weight[:, 1, :2] = 0
    prior = AmplitudePrior(common_sigma=0.3, band_sigma=0.1) if case == "amplitudes" else None
    if prior is not None:
        own = torch.randn(number, B, generator=generator) * 0.1
        true_amplitude = 1 + 0.3 * torch.randn(number, 1, generator=generator) + own
        image = torch.where(weight > 0, image + (true_amplitude - 1)[:, :, None, None] * clean, 0)
        clean = clean * true_amplitude[:, :, None, None]
    used = weight * TAPER if case == "tapered" else None
    result = fit(
        Decoder(), image, weight if used is None else used, truth, prior_strength=1.0,
        amplitudes=prior or False, tolerance=1e-7, num_steps=300,
    )  # fmt: skip
    objective = Objective(as_renderer(Decoder()), prior_strength=1.0, amplitude_prior=prior)
    after = AmplitudePrior(common_sigma=0.3, band_sigma=0.1) if case == "after" else None
    amplitude = None if after else result.amplitude
    found = laplace(
        objective,
        result.latent,
        image,
        weight,
        SUMS,
        fit_weight=used,
        amplitude=amplitude,
        solved_after=after,
    )
    pulls = (found.flux - torch.einsum("nbhw,khw->nbk", clean, SUMS)) / found.flux_std
    if case == "after":  # errors of a band without data include the prior of the amplitudes, here all 1
        pulls = pulls[number // 3 :]
    width = pulls.std(dim=0)
    # The width of 600 draws has an error of 3%; 10% is required.
    assert (width > 0.9).all(), width
    assert (width < 1.1).all(), width
    assert (pulls.mean(dim=0).abs() < 0.25).all()


def matrix_of(metric: Metric, latent: torch.Tensor) -> torch.Tensor:
    slopes = metric.slopes.double()
    exponent = metric.centre.double() + torch.einsum("nl,lij->nij", latent.double(), slopes)
    return torch.linalg.matrix_exp(exponent)


def test_metric_scales_with_the_square_of_brightness():
    latent = torch.randn(5, L, generator=torch.Generator().manual_seed(1))
    faint, bright = (
        matrix_of(learn_metric(as_renderer(lambda x, s=s: s * Decoder()(x)), L), latent) for s in (1, 1000)
    )
    torch.testing.assert_close(1e6 * faint, bright, rtol=1e-3, atol=1e-2 * float(bright.abs().mean()))


def test_metric_is_close_to_the_gauss_newton_matrix_of_an_object():
    """Closer than a constant metric, for latents that were not used as references."""
    latent = 0.7 * torch.randn(40, L, generator=torch.Generator().manual_seed(11))
    render = as_renderer(Decoder())
    learnt = learn_metric(render, L, ridge=1e-6)
    image, derivative = render.jacobian(latent)
    exact = gauss_newton(derivative, torch.ones_like(image)).double()

    def distance(matrix: torch.Tensor) -> float:
        """Affine-invariant: the spread of the logarithms of the relative eigenvalues."""
        relative = torch.linalg.eigvals(torch.linalg.solve(matrix.expand_as(exact), exact)).real
        return float(relative.log().square().mean().sqrt())

    assert distance(matrix_of(learnt, latent)) < 0.5 * distance(
        torch.linalg.matrix_exp(learnt.centre.double())
    )
    inverse = learnt.to(latent.device, torch.float64).inverse(latent.double())
    product = inverse @ matrix_of(learnt, latent)
    torch.testing.assert_close(product, torch.eye(L).double().expand_as(product), rtol=0, atol=0.02)


def test_inverse_metric_is_independent_per_object_and_positive_definite():
    latent = torch.randn(37, L, generator=torch.Generator().manual_seed(2))
    latent[5] *= 1e4
    metric = learn_metric(as_renderer(Decoder()), L)
    together = metric.inverse(latent)
    for row in (0, 5, 16, 36):
        assert torch.equal(metric.inverse(latent[row : row + 1])[0], together[row])
    assert (torch.linalg.eigvalsh(together.double()) > 0).all()
    assert metric.inverse(latent[:0]).shape == (0, L, L)


def test_gauss_newton_is_half_the_second_derivative_along_a_direction():
    truth, _, weight, _ = make_problem(3)
    truth, weight = truth.double(), weight.double() / 400
    render = Decoder().double()
    objective = Objective(as_renderer(render))
    image = render(truth)
    direction = torch.randn(L, generator=torch.Generator().manual_seed(5)).double()
    derivative = as_renderer(render).jacobian(truth)[1]
    matrix = gauss_newton(derivative, weight) + objective.prior_strength * torch.eye(L).double()
    step = 1e-3
    plus, minus = (objective.value(truth + s * step * direction, image, weight)[0] for s in (1, -1))
    expected = torch.einsum("l,nlm,m->n", direction, matrix, direction)
    torch.testing.assert_close((plus + minus) / (2 * step**2), expected, rtol=1e-4, atol=0)


def test_projected_derivatives_are_orthogonal_to_the_image():
    truth, _, weight, _ = make_problem(2)
    image, derivative = as_renderer(Decoder()).jacobian(truth)
    left = project_out(derivative, image, weight)
    along = torch.einsum("nlbhw,nbhw->nlb", left, weight * image)
    scale = (weight * image**2).sum((2, 3))[:, None]
    assert (along.abs() < 1e-4 * scale).all()
