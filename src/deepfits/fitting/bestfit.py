"""`fit`: find the latent that fits each image best, for any differentiable renderer.

Shapes: N objects, S starts, L latent dimensions, B bands, H, W pixels.
"""

import logging
from dataclasses import fields, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from deepfits.config import Range, convert
from deepfits.errors import InputError, require_known
from deepfits.fitting.engine import Advance, Fit, minimise
from deepfits.fitting.metric import Metric, learn_metric
from deepfits.fitting.objective import AmplitudePrior, Objective
from deepfits.fitting.rendering import Differentiated, Render, Renderer, as_renderer
from deepfits.fitting.solvers import LBFGS, Adam, Solver
from deepfits.observation import Sight
from deepfits.tensors import as_tensor, require_device

log = logging.getLogger(__name__)

SOLVERS = ("lbfgs", "adam")
MAX_SLOTS = 64
FARTHEST = 20.0  # no draw from a unit normal is beyond

Array = np.ndarray | Tensor


def fit(
    render: Render | Renderer,
    images: Array,
    weights: Array,
    start: Array,
    *,
    sight: Sight | None = None,
    solver: str | Solver = "lbfgs",
    num_steps: Annotated[int, Range(ge=1)] | None = None,
    tolerance: Annotated[float, Range(ge=0)] | None = None,
    prior_strength: Annotated[float, Range(ge=0)] = 0.0,
    amplitudes: AmplitudePrior | bool = False,
    metric: Metric | None = None,
    metric_weight: Tensor | None = None,
    min_valid_pixels: Annotated[int, Range(ge=0)] | None = None,
    batch_size: Annotated[int, Range(ge=1)] = MAX_SLOTS,
    threads: Annotated[int, Range(ge=1)] = 1,
    device: torch.device | str | None = None,
    advance: Advance | None = None,
) -> Fit:
    """Find the latent whose rendering fits each image best (M19 eq. 2, generalised by weights).

    Parameters
    ----------
    render
        From latents ``(N, L)`` to images ``(N, B, H, W)``: any differentiable function of PyTorch tensors,
        for example a `torch.nn.Module`, or a `deepfits.fitting.rendering.Renderer` with derivatives of its
        own. Its parameters should be frozen. Latents should be of order 1, as draws from a unit normal:
        scale fluxes, sizes and positions inside it, or the solver moves in far too small steps.
    images, weights
        ``(N, B, H, W)``, in the renderer's unit and its inverse square. Pixels of weight 0 have no influence,
        whatever their value, NaN included.
    start
        ``(N, L)``, or several starts ``(S, N, L)``, of which the best result is kept. Everything is computed
        in its type, float32 or float64.
    sight
        If `render` draws scenes, in flux: how each object was observed (`deepfits.observation.Sight`: PSF per
        band, pixels, position). Scenes are then brought to the PSF and the pixels of each object before they
        are compared.
    solver
        ``"lbfgs"`` (L-BFGS in the generator's Gauss–Newton metric), ``"adam"`` (the paper's: learning rate
        0.25, all steps taken), or a `deepfits.fitting.solvers.Solver`: ``LBFGS()`` is without the metric, for
        a `render` whose Jacobian cannot be computed.
    num_steps
        Maximum number of steps, each one gradient evaluation; by default 500 for Adam and 100 for L-BFGS.
    tolerance
        L-BFGS has converged when the next step is predicted to lower the loss by less than this fraction;
        7e-5 by default.
    prior_strength
        Strength of the unit-normal prior on the latent.
    amplitudes
        Fit an amplitude in each band, under this prior (True: the default one). The renderer must then draw
        fluxes: an amplitude has no meaning after a non-linear stretch.
    metric, metric_weight
        For ``"lbfgs"``: a metric that was computed before (`deepfits.fitting.metric.learn_metric`), or the
        pixel weights to compute one with, broadcastable to ``(B, H, W)``.
    min_valid_pixels
        Objects with fewer valid pixels get the status `Status.TOO_LITTLE_DATA` and NaN; L by default.
    batch_size
        Number of objects fitted at once. Results depend on it in their last bits only.
    threads
        CPU cores to use; results do not depend on it.
    device
        Where to compute (``"cpu"``, ``"cuda"``, ``"auto"``); by default the device of `start`.
    advance
        Called with the number of objects newly done.

    Returns
    -------
    Fit
        One row per object.

    Raises
    ------
    InputError
        Shapes that do not match, a weight that is negative or not finite, an image that is not finite where
        the weight is positive (the message names the first bad row), settings out of range, or a `render`
        whose images have another shape or type than expected, or depend on more than the latent.

    Examples
    --------
    >>> matrix = torch.tensor([[1.0, 0, 0, 1], [0, 2, 0, 0]])
    >>> render = lambda latent: (latent @ matrix).view(-1, 1, 2, 2)
    >>> truth = torch.tensor([[0.5, -1.0]])
    >>> result = fit(render, render(truth), torch.ones(1, 1, 2, 2), torch.zeros(1, 2))
    >>> torch.allclose(result.latent, truth, atol=1e-3)
    True
    """
    _check_settings(locals())
    image, weight, begin = _check(images, weights, start, sight)
    num_bands, num_latents = image.shape[1], begin.shape[2]
    device = begin.device if device is None else require_device(device)
    renderer = as_renderer(render)
    if isinstance(renderer, Differentiated) and len(image):
        side = image.shape[2:] if sight is None else (sight.grid.size, sight.grid.size)
        _check_images_of(renderer, begin[0].to(device), (num_bands, *side), batch_size)
    prior = AmplitudePrior() if amplitudes is True else (amplitudes or None)
    objective = Objective(renderer, prior_strength=prior_strength, amplitude_prior=prior)
    enough = (weight > 0).sum((1, 2, 3)) >= (num_latents if min_valid_pixels is None else min_valid_pixels)
    used_solver = make_solver(solver, num_steps=num_steps, tolerance=tolerance)
    if solver == "lbfgs" and isinstance(used_solver, LBFGS):
        if metric is None:
            observation = None
            if sight is not None:
                nominal = Sight.nominal(sight.grid, num_bands, sight.size, sight.pixel_scale_arcsec)
                observation = nominal.to(device).observation(begin.dtype)
            try:
                metric = learn_metric(
                    renderer,
                    num_latents,
                    weight=metric_weight,
                    observation=observation,
                    dtype=begin.dtype,
                    device=device,
                    profiled=prior is not None,
                )
            except NotImplementedError as error:  # compiled decoders, operations of one's own
                raise InputError(
                    "PyTorch cannot compute the Jacobian of render in forward mode; give the decoder as it "
                    f"was before torch.compile, or solver=LBFGS(), which needs gradients only: {error}"
                ) from error
        used_solver = replace(used_solver, metric=metric)
    if isinstance(used_solver, LBFGS) and used_solver.metric is not None:
        used_solver = replace(used_solver, metric=used_solver.metric.to(device, begin.dtype))
    report = advance or (lambda number: None)
    if not enough.all():
        report(int((~enough).sum()) * len(begin))
    results = [
        minimise(
            objective,
            image[enough],
            weight[enough],
            latent[enough],
            used_solver,
            num_slots=batch_size,
            device=device,
            advance=report,
            threads=threads if device.type == "cpu" else 1,
            sight=None if sight is None else sight.take(enough),
        )
        for latent in begin
    ]
    best, padded = _best_of(results), Fit.empty(len(enough), num_latents, num_bands, begin.dtype)
    for f in fields(Fit):  # rows without enough data keep the status TOO_LITTLE_DATA
        getattr(padded, f.name)[enough] = getattr(best, f.name)
    if isinstance(used_solver, LBFGS) and (best.latent.abs() > FARTHEST).any(1).float().mean() > 0.5:
        log.warning(
            "WARNING: fit: most latents have numbers beyond %g, where L-BFGS may stop far from the minimum: "
            "scale them inside render, so that they are of order 1",
            FARTHEST,
        )
    return padded


def make_solver(
    name: str | Solver, *, num_steps: int | None = None, tolerance: float | None = None
) -> Solver:
    """Return the solver of this name, with those settings changed that are given."""
    if not isinstance(name, str):
        if num_steps is not None or tolerance is not None:
            raise InputError(
                "fit: num_steps and tolerance belong to a solver given as an object; set them there, as in "
                "solver=LBFGS(num_steps=300)"
            )
        return name
    require_known("solver", name, SOLVERS)
    settings: dict[str, Any] = {} if num_steps is None else {"num_steps": num_steps}
    if tolerance is not None and name != "adam":  # Adam takes all its steps
        settings["tolerance"] = tolerance
    return Adam(**settings) if name == "adam" else LBFGS(**settings)


def _check_settings(given: dict[str, Any]) -> None:
    """Refuse settings out of the ranges that the signature of `fit` declares."""
    for name, hint in get_type_hints(fit, include_extras=True).items():
        if any(get_origin(kind) is Annotated for kind in (hint, *get_args(hint))):
            convert(given[name], hint, where="fit", key=name)


def _check_images_of(render: Differentiated, start: Tensor, shape: tuple[int, ...], num_slots: int) -> None:
    """Refuse a decoder whose images do not fit starts ``(N, L)`` and data ``(B, H, W)``, or are not fixed."""
    if torch.is_inference_mode_enabled():
        raise InputError("a fit needs derivatives: call it outside torch.inference_mode()")
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn(num_slots, start.shape[1], generator=draw).to(start)
    try:
        image = render(latent)
    except RuntimeError as error:
        raise InputError(
            f"render fails for latents of shape {tuple(latent.shape)} and type {latent.dtype} ({error}); "
            "give a start of the decoder's type and number of latents"
        ) from error
    if not isinstance(image, Tensor):
        raise InputError(f"render must return a tensor, not {type(image).__name__}")
    if image.shape != (num_slots, *shape):
        raise InputError(
            f"render returns images of shape {tuple(image.shape)} for {num_slots} latents; for these images "
            f"it must be {(num_slots, *shape)}"
        )
    if image.dtype != latent.dtype:
        raise InputError(
            f"render returns {image.dtype} for a start of {latent.dtype}; give a start of the decoder's type"
        )
    alone = render(latent[:1].expand_as(latent))
    if ((image[0] - alone[0]).abs().max() > 0.01 * image[0].abs().max()).item():
        raise InputError(
            "render returns different images for the same latent: they are random, or depend on the other "
            "latents of the batch, as with dropout and batch normalisation; call .eval() on the decoder"
        )


def _check(images: Array, weights: Array, start: Array, sight: Sight | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return images cleaned where the weight is 0, weights, and starts ``(S, N, L)``."""
    begin = as_tensor(start, "start").detach()
    begin = begin[None] if begin.ndim == 2 else begin
    dtype = begin.dtype
    if dtype.is_floating_point:  # half precision is too coarse for losses
        begin = begin.to(dtype := torch.promote_types(dtype, torch.float32))
    image, weight = (
        as_tensor(values, name, dtype=dtype).detach()
        for values, name in ((images, "images"), (weights, "weights"))
    )
    if image.ndim != 4 or image.shape != weight.shape:
        raise InputError(
            f"images have shape {tuple(image.shape)} and weights {tuple(weight.shape)}; "
            "both must be (N, B, H, W)"
        )
    if sight is not None and (len(sight), sight.size) != (len(image), image.shape[3]):
        raise InputError(
            f"sight describes {len(sight)} objects of {sight.size} pixels a side; the images are "
            f"{len(image)} of {image.shape[3]}"
        )
    if begin.ndim != 3 or begin.shape[1] != len(image) or not dtype.is_floating_point:
        raise InputError(
            f"start has shape {np.shape(start)} and type {dtype}; it must be floating point of shape "
            f"({len(image)}, L) or (S, {len(image)}, L)"
        )
    is_bad = ~torch.isfinite(weight) | (weight < 0) | ((weight > 0) & ~torch.isfinite(image))
    is_bad_row = is_bad.flatten(1).any(1) | ~torch.isfinite(begin).all(2).all(0)
    if is_bad_row.any():
        row = int(is_bad_row.nonzero()[0, 0])
        raise InputError(
            f"object in row {row}: a weight is negative or not finite, a start is not finite, or an image is "
            "not finite where its weight is positive; give such pixels weight 0"
        )
    return torch.where(weight > 0, image, 0), weight, begin


def _best_of(results: list[Fit]) -> Fit:
    """Keep, for each object, the start with the lowest loss; the steps of all starts are added up."""
    loss = torch.stack([result.loss for result in results])
    best = torch.where(torch.isfinite(loss), loss, torch.inf).argmin(0)
    every = {f.name: torch.stack([getattr(result, f.name) for result in results]) for f in fields(Fit)}
    chosen = {name: values[best, torch.arange(len(best))] for name, values in every.items()}
    return Fit(**chosen | {"num_steps": every["num_steps"].sum(0)})
