"""The fit: known minima, comparison with other implementations, and data without influence."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from astropy import units as u

from deepfits.errors import InputError
from deepfits.fitting import AmplitudePrior, Status, fit
from deepfits.fitting.engine import minimise
from deepfits.fitting.metric import Metric, learn_metric
from deepfits.fitting.objective import Objective
from deepfits.fitting.rendering import as_renderer
from deepfits.fitting.solvers import LBFGS, Adam
from tests.helpers.fit_problem import B, Decoder, L, S, make_problem

SOLVERS = ["adam", "lbfgs"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_render_reaches_the_least_squares_solution(solver):
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(L, B * S * S, generator=generator, dtype=torch.float64)
    image = torch.randn(5, B, S, S, generator=generator, dtype=torch.float64)
    weight = torch.rand(5, B, S, S, generator=generator, dtype=torch.float64)
    start = torch.zeros(5, L, dtype=torch.float64)
    steps = 3000 if solver == "adam" else 100
    result = fit(
        lambda x: (x @ matrix).view(-1, B, S, S), image, weight, start, solver=solver, num_steps=steps,
        tolerance=1e-14,
    )  # fmt: skip
    root = weight.flatten(1).sqrt()
    for row in range(5):
        expected = np.linalg.lstsq(
            (matrix * root[row]).T.numpy(), (image[row].flatten() * root[row]).numpy(), rcond=None
        )[0]
        # Adam's last digits: its step does not shrink with the gradient.
        np.testing.assert_allclose(
            result.latent[row], expected, rtol=0, atol=1e-4 if solver == "adam" else 1e-6
        )


def test_without_a_metric_the_same_minimum_is_found():
    _, image, weight, start = make_problem(4)
    expected = fit(Decoder(), image, weight, start, tolerance=1e-8, num_steps=300)
    found = fit(Decoder(), image, weight, start, solver=LBFGS(tolerance=1e-8, num_steps=300))
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-3, atol=0)
    with pytest.raises(InputError, match=r"solver=LBFGS\(num_steps=300\)"):
        fit(Decoder(), image, weight, start, solver=LBFGS(), num_steps=300)


def test_agrees_with_scipy_least_squares():
    optimize = pytest.importorskip("scipy.optimize")
    _, image, weight, start = make_problem(4)
    render = Decoder().double()
    image, weight, start = image.double(), weight.double(), start.double()
    result = fit(render, image, weight, start, tolerance=1e-12, num_steps=300)

    for row in range(4):

        def residual(x, row=row):
            drawn = render(torch.from_numpy(x)[None])[0]
            return ((image[row] - drawn) * weight[row].sqrt()).flatten().numpy()

        expected = optimize.least_squares(residual, start[row].numpy(), xtol=1e-12, ftol=1e-12)
        assert float(result.loss[row]) == pytest.approx(2 * expected.cost, rel=1e-6)


def test_adam_agrees_with_torch():
    _, image, weight, start = make_problem(3)
    latent = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([latent], lr=0.25)
    losses = []
    for _ in range(41):
        optimiser.zero_grad()
        loss = (weight * (image - Decoder()(latent)) ** 2).sum((1, 2, 3))
        losses.append(loss.detach())
        loss.sum().backward()
        optimiser.step()
    expected = torch.stack(losses)
    result = fit(Decoder(), image, weight, start, solver="adam", num_steps=40)
    assert (result.num_steps == 40).all()
    # Float32, sums in another order, forty non-linear steps.
    torch.testing.assert_close(result.loss, expected.min(0).values, rtol=1e-3, atol=0)
    torch.testing.assert_close(result.loss_start, expected[0], rtol=1e-5, atol=0)


def test_lbfgs_applies_the_inverse_hessian_of_its_latest_pairs():
    """As by the BFGS update (Nocedal & Wright, eq. 6.17) for one pair after another.

    Trials that are not accepted, and steps along which the loss is not convex, leave no pair.
    """
    number, length, memory = 5, 6, 3
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(number, length, length, generator=generator, dtype=torch.float64)
    inverse = root @ root.mT + torch.eye(length)

    class Fixed:
        def inverse(self, latent):
            return inverse

        def where_known(self, latent):
            return torch.zeros_like(latent)

    solver = LBFGS(metric=Fixed(), memory=memory)
    state = solver.init(torch.zeros(number, length, dtype=torch.float64))
    kept = [[] for _ in range(number)]
    for _ in range(20):
        trial = torch.randn(number, length, generator=generator, dtype=torch.float64)
        gradient = torch.randn(number, length, generator=generator, dtype=torch.float64)
        accepted = torch.rand(number, generator=generator) < 0.7
        state["trial"] = trial
        for row in range(number):
            s, y = trial[row] - state["latent"][row], gradient[row] - state["gradient"][row]
            if accepted[row] and s @ y > 0:
                kept[row] = [*kept[row], (s, y)][-memory:]
        solver._remember(state, gradient, accepted)
        for row in range(number):
            if not kept[row]:
                continue
            s, y = kept[row][-1]
            hessian = inverse[row] * (s @ y) / (y @ inverse[row] @ y)
            for s, y in kept[row]:
                left = torch.eye(length, dtype=s.dtype) - torch.outer(s, y) / (s @ y)
                hessian = left @ hessian @ left.mT + torch.outer(s, s) / (s @ y)
            found = solver._apply_inverse_hessian(state, gradient)[row]
            torch.testing.assert_close(found, hessian @ gradient[row], rtol=1e-9, atol=1e-9)
        state["latent"], state["gradient"] = trial, gradient
    assert {len(pairs) for pairs in kept} == {memory}


@pytest.mark.parametrize("solver", SOLVERS)
def test_reported_loss_belongs_to_the_reported_latent(solver):
    _, image, weight, start = make_problem()
    result = fit(Decoder(), image, weight, start, solver=solver, num_steps=30)
    value, _ = Objective(as_renderer(Decoder())).value(result.latent, image, weight)
    torch.testing.assert_close(result.loss, value, rtol=1e-5, atol=0)
    assert (result.loss < 0.5 * result.loss_start).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("amplitudes", [False, True])
def test_masked_pixels_have_no_influence(solver, amplitudes):
    _, image, weight, start = make_problem()
    weight[:, 0] = 0  # a missing band
    weight[:, 1, :3] = 0
    results = []
    for value in (0.0, 1e30, float("nan"), -float("inf")):
        changed = torch.where(weight > 0, image, value)
        results.append(
            fit(Decoder(), changed, weight, start, solver=solver, num_steps=20, amplitudes=amplitudes)
        )
    for other in results[1:]:
        assert torch.equal(results[0].latent, other.latent)
        assert torch.equal(results[0].loss, other.loss)
        assert torch.equal(results[0].amplitude, other.amplitude)
    assert torch.isfinite(results[0].latent).all()
    assert (results[0].loss < results[0].loss_start).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_object_does_not_depend_on_its_batch(solver):
    _, image, weight, start = make_problem(21)
    together = fit(Decoder(), image, weight, start, solver=solver, num_steps=25, batch_size=4)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(3))
    shuffled = fit(
        Decoder(), image[order], weight[order], start[order], solver=solver, num_steps=25, batch_size=4,
        threads=2,
    )  # fmt: skip
    assert torch.equal(together.latent[order], shuffled.latent)
    assert torch.equal(together.loss[order], shuffled.loss)
    alone = fit(Decoder(), image[5:6], weight[5:6], start[5:6], solver=solver, num_steps=25, batch_size=4)
    assert torch.equal(together.latent[5], alone.latent[0])


def test_best_iterate_is_kept_not_the_last():
    _, image, weight, start = make_problem()
    wild = Adam(num_steps=30, learning_rate=3.0)
    few, many = (
        fit(Decoder(), image, weight, start, solver=Adam(num_steps=n, learning_rate=3.0)) for n in (10, 30)
    )
    assert wild.learning_rate == 3.0
    assert (many.loss <= few.loss).all()
    assert (few.loss <= few.loss_start).all()


def test_statuses():
    _, image, weight, start = make_problem(4)
    weight[0] = 0
    weight[1].view(-1)[3:] = 0
    result = fit(Decoder(), image, weight, start, num_steps=2)
    assert result.status.tolist() == [Status.TOO_LITTLE_DATA] * 2 + [Status.STEP_LIMIT] * 2
    assert torch.isnan(result.latent[:2]).all()
    assert torch.isfinite(result.latent[2:]).all()
    result = fit(Decoder(), image, weight, start, num_steps=200)
    assert result.status[2:].tolist() == [Status.CONVERGED] * 2


def test_non_finite_objects_are_flagged_and_others_are_fitted():
    _, image, weight, start = make_problem(3)

    def render(latent):
        return torch.where(latent[:, :1, None, None] > 5, torch.nan, 1) * Decoder()(latent)

    start[1, 0] = 6.0
    identity = Metric(torch.zeros(L, L), torch.zeros(L, L, L))
    for solver in SOLVERS:
        result = fit(render, image, weight, start, solver=solver, num_steps=5, metric=identity)
        assert result.status[1] == Status.NON_FINITE
        assert torch.isfinite(result.loss[[0, 2]]).all()


@pytest.mark.parametrize("as_object", [False, True])
def test_a_metric_is_converted_to_the_type_of_the_fit(as_object):
    _, image, weight, start = make_problem()
    render = Decoder()
    metric = learn_metric(as_renderer(render), L)
    found, expected = (
        fit(render, image, weight, start, solver=LBFGS(metric=m)) if as_object else
        fit(render, image, weight, start, metric=m)
        for m in (metric.to(None, torch.float64), metric)
    )  # fmt: skip
    assert torch.equal(found.latent, expected.latent)


def test_best_of_several_starts():
    _, image, weight, start = make_problem()
    other = start + 1
    both = fit(Decoder(), image, weight, torch.stack((start, other)), num_steps=40)
    first = fit(Decoder(), image, weight, start, num_steps=40)
    second = fit(Decoder(), image, weight, other, num_steps=40)
    assert torch.equal(both.loss, torch.minimum(first.loss, second.loss))
    assert torch.equal(both.num_steps, first.num_steps + second.num_steps)


def test_prior_pulls_towards_the_origin():
    _, image, weight, start = make_problem(noise=1.0)
    free = fit(Decoder(), image, weight, start, num_steps=100)
    held = fit(Decoder(), image, weight, start, num_steps=100, prior_strength=30.0)
    assert (held.latent.norm(dim=1) < free.latent.norm(dim=1)).all()
    likelihood = (weight * (image - Decoder()(held.latent)) ** 2).sum((1, 2, 3))
    torch.testing.assert_close(held.loss, likelihood + 30 * held.latent.square().sum(1), rtol=1e-5, atol=0)


def test_gradient_against_finite_differences():
    _, image, weight, start = make_problem(2)
    objective = Objective(
        as_renderer(Decoder().double()), prior_strength=0.7, amplitude_prior=AmplitudePrior()
    )
    image, weight, start = image.double(), weight.double(), start.double()
    _, found, _ = objective(start, image, weight)
    step = 1e-5
    for index in range(L):
        shift = torch.zeros(L, dtype=torch.float64)
        shift[index] = step
        high, low = (objective.value(start + s, image, weight)[0] for s in (shift, -shift))
        torch.testing.assert_close((high - low) / (2 * step), found[:, index], rtol=1e-6, atol=1e-4)


def test_amplitudes_minimise_the_loss():
    _, image, weight, start = make_problem(5)
    scale = torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    weak = AmplitudePrior(common_sigma=100.0, band_sigma=100.0)
    result = fit(Decoder(), image * scale, weight, start, amplitudes=weak, num_steps=200, tolerance=1e-7)
    model = Decoder()(result.latent)
    direct = (weight * model * image * scale).sum((2, 3)) / (weight * model**2).sum((2, 3))
    torch.testing.assert_close(result.amplitude, direct, rtol=1e-3, atol=1e-3)
    shift = torch.tensor([0.01, 0, 0])
    for a in (result.amplitude + shift, result.amplitude - shift):
        worse = (weight * (image * scale - a[:, :, None, None] * model) ** 2).sum((1, 2, 3))
        assert (worse >= result.loss * (1 - 1e-5)).all()


def test_missing_band_takes_the_common_amplitude():
    truth, image, weight, _ = make_problem(3, noise=0.01)
    weight[:, 2] = 0
    prior = AmplitudePrior(common_sigma=1.0, band_sigma=0.01)
    objective = Objective(as_renderer(Decoder()), amplitude_prior=prior)
    _, amplitude = objective.value(truth, 2 * image, weight)
    torch.testing.assert_close(amplitude, torch.full((3, 3), 2.0), rtol=0, atol=0.05)


def test_slots_are_refilled_until_all_objects_are_done():
    _, image, weight, start = make_problem(17)
    seen = []
    result = minimise(
        Objective(as_renderer(Decoder())), image, weight, start, LBFGS(num_steps=50), num_slots=5,
        device=torch.device("cpu"), advance=seen.append,
    )  # fmt: skip
    assert sum(seen) == 17
    assert (result.status == Status.CONVERGED).all()
    assert result.num_steps.unique().numel() > 1  # objects do finish at different times


def test_objects_of_ordinary_brightness_are_fitted_last():
    """The brightest and the faintest take the most steps; one that begins late leaves other slots idle."""
    taken = []

    class Noted(Decoder):
        def forward(self, latent):
            taken.append(latent.detach().clone())
            return super().forward(latent)

    _, image, weight, start = make_problem(7)
    image = image / image.square().mean((1, 2, 3), keepdim=True).sqrt()
    image = image * torch.tensor([1.0, 5, 3, 7, 2, 6, 4])[:, None, None, None]
    minimise(
        Objective(as_renderer(Noted())), image, torch.ones_like(weight), start, LBFGS(num_steps=1),
        num_slots=1, device=torch.device("cpu"), advance=lambda _: None,
    )  # fmt: skip
    begun = [(start == latent).all(1).nonzero() for latent in taken]
    order = [int(rows[0, 0]) for rows in begun if len(rows)]
    assert sorted(order[:2]) == [0, 3]  # the brightest and the faintest
    assert order[-1] == 6


def test_the_metric_is_kept_where_it_no_longer_changes():
    """Beyond the radius to which it is known, a latent that moves outwards has the metric that it had."""
    metric = Metric(torch.eye(L), 0.1 * torch.randn(L, L, L, generator=torch.Generator().manual_seed(3)))
    solver = LBFGS(metric=metric)
    state = solver.init(torch.full((2, L), 2.0))
    state["latent"] = torch.tensor([[6.0], [-6.0]]).expand(2, L).clone()
    state["inverse_metric"][:] = 0
    solver._update_metric(state)
    assert not state["inverse_metric"][0].any()
    assert torch.equal(state["inverse_metric"][1], metric.inverse(state["latent"])[1])


class Doubled(torch.autograd.Function):
    """An operation without forward-mode derivatives, as in compiled and many hand-written ones."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, cotangent):
        return 2 * cotangent


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_is_interrupted_at_once(threads):
    _, image, weight, start = make_problem()
    calls = []

    def render(latent):
        calls.append(latent)
        if len(calls) == 30:  # in the midst of the fit
            os.kill(os.getpid(), signal.SIGINT)
        if len(calls) >= 30:
            time.sleep(0.05)  # time for the main thread to notice it
        return Decoder()(latent)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of the tests ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            minimise(
                Objective(as_renderer(render)), image, weight, start, Adam(num_steps=300), num_slots=1,
                device=torch.device("cpu"), advance=lambda number: None, threads=threads,
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) < 60  # of more than 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, B, S)}, "must be"),
        ({"start": torch.zeros(3, L)}, "start has shape"),
        ({"weights": -torch.ones(2, B, S, S)}, "row 0"),
        ({"images": torch.full((2, B, S, S), torch.nan)}, "row 0"),
        ({"solver": "adan"}, "did you mean 'adam'"),
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, not 0"),
        ({"prior_strength": -1.0}, "prior_strength must be a finite number from 0"),
        ({"tolerance": float("nan")}, "tolerance must be a finite number from 0"),
        ({"weights": None}, "weights must be an array of numbers, not NoneType"),
        ({"images": np.ma.masked_less(np.zeros((2, B, S, S)), 1)}, "mask would be lost"),
        ({"images": np.zeros((2, B, S, S)) * u.nJy}, "images in nJy: give the plain numbers"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
    ],
)
def test_wrong_input_is_refused(change, message):
    good = {
        "images": torch.zeros(2, B, S, S),
        "weights": torch.ones(2, B, S, S),
        "start": torch.zeros(2, L),
    }
    with pytest.raises(InputError, match=message):
        fit(Decoder(), **{**good, **change})


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (lambda z: Decoder()(z)[..., 1:], r"shape \(64, 3, 8, 7\) for 64 latents.*\(64, 3, 8, 8\)"),
        (lambda z: Decoder()(z)[:, 0], "render returns images of shape"),
        (lambda z: Decoder()(z).numpy(), "must return a tensor, not ndarray"),
        (lambda z: Decoder()(z).double(), "float64 for a start of torch.float32"),
        (lambda z: Decoder()(z.detach()).detach(), "must be differentiable"),
        (torch.no_grad()(Decoder()), r"uses NumPy, detach\(\) or no_grad\(\)"),
        (lambda z: Decoder().double()(z), r"\(64, 6\) and type torch.float32 .* give a start"),
        (lambda z: Doubled.apply(Decoder()(z)), r"solver=LBFGS\(\), which needs gradients only"),
        (torch.nn.Sequential(Decoder(), torch.nn.Dropout(0.1)), r"call \.eval\(\)"),
        (torch.nn.Sequential(Decoder(), torch.nn.BatchNorm2d(B)), r"call \.eval\(\)"),
    ],
)
def test_decoders_that_cannot_be_fitted_are_refused(render, message):
    _, image, weight, start = make_problem()
    with pytest.raises(InputError, match=message):
        fit(render, image, weight, torch.zeros_like(start))


def test_a_fit_in_inference_mode_is_refused():
    _, image, weight, start = make_problem()
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        fit(Decoder(), image, weight, start)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(">f4"),  # as from FITS files
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.asfortranarray(array),
        lambda array: np.frombuffer(array.tobytes(), np.float32).reshape(array.shape),  # not writable
        lambda array: torch.from_numpy(array).requires_grad_(),
    ],
    ids=["byte order", "strides", "Fortran", "read-only", "gradient"],
)
def test_arrays_of_any_kind_give_the_same_fit(change):
    _, image, weight, start = make_problem()
    expected = fit(Decoder(), image, weight, start)
    given = [change(t.numpy()) for t in (image, weight, start)]
    found = fit(Decoder(), *given)
    assert torch.equal(found.latent, expected.latent)
    assert not found.latent.requires_grad


def test_latents_in_units_of_their_own_cause_a_warning(caplog):
    """Such fits end early, also as converged: with a peak of 100 in place of 1, at 150 times the χ²."""
    r2 = sum((place - 9.5) ** 2 for place in torch.meshgrid(2 * [torch.arange(20.0)], indexing="ij"))

    def draw(latent, unit):
        profile = torch.exp(-r2 / (2 * torch.exp(latent[:, 1])[:, None, None]))
        return (unit * latent[:, 0])[:, None, None, None] * profile[:, None]

    image = draw(torch.tensor([[1.0, 1.4]]), 100.0)
    for unit, warned in ((100.0, False), (1.0, True)):
        found = fit(partial(draw, unit=unit), image, torch.ones_like(image), torch.tensor([[50 / unit, 1.0]]))
        assert ("scale them inside render" in caplog.text) == warned
        assert warned or found.latent[0, 0] == pytest.approx(1, abs=0.01)


def test_half_precision_and_the_default_type_do_not_matter():
    _, image, weight, start = make_problem()
    half = fit(Decoder(), image, weight, start.half())
    assert torch.equal(half.latent, fit(Decoder(), image, weight, start.half().float()).latent)
    expected, decoder = fit(Decoder(), image, weight, start), Decoder()
    torch.set_default_dtype(torch.float64)
    try:
        found = fit(decoder, image, weight, start)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.latent, expected.latent)
