"""Training the aids of a finished model: its metric network and its refiner (`deepfits.models.aids`).

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

The metric network is trained on logarithms of Gauss–Newton matrices at latents drawn from the prior. The
refiner is trained on objects of which half are real and half are generated, with noise added. It starts from
the embedder's guess, and its loss is the logarithm of the fit's objective after each pass; gradients do not
propagate from one pass to the previous ones. The gradient of the objective is computed by the fit's own code,
so that weights, PSFs and pixel grids are treated exactly as in a fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepfits.errors import InputError, NonFiniteLossError
from deepfits.fitting.folded import renderer_of
from deepfits.fitting.metric import logarithms_at
from deepfits.fitting.objective import Objective
from deepfits.fitting.refinement import Refinement
from deepfits.fitting.rendering import InFlux, Observed, Renderer
from deepfits.models.aids import Aids, MetricNetwork, Refiner
from deepfits.models.bundle import Model
from deepfits.observation import Sight
from deepfits.progress import Progress, silent
from deepfits.splits import is_held_out
from deepfits.survey.normalise import is_complete
from deepfits.survey.store import CutoutStore
from deepfits.symmetries import NUM_SYMMETRIES
from deepfits.training.data import turn, turn_sight
from deepfits.training.noise import NoiseSource, measure_autocovariance, noise_of, white_autocovariance
from deepfits.training.settings import Teaching

NUM_PASSES = 2
EXAMPLES = 8192  # real objects held in memory
REFERENCE_BATCH = 8
WARM_UP = 0.05  # fraction of the steps
SHRINKAGE = 0.02  # ridge penalty per reference latent
METRIC_BATCH = 128
METRIC_RATE = 1e-3
HIDDEN_SHARE = 0.2  # fraction of objects that lose a band, and of those that lose pixels


def teach_aids(
    model: Model,
    stores: Sequence[CutoutStore | TeachingSet],
    teaching: Teaching,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Aids, dict[str, float]]:
    """Train a refiner and a metric network for a finished model, on its device; the model is not changed.

    Parameters
    ----------
    model
        The finished model.
    stores
        Stores of real cutouts that suit the model, whose held-out objects are not used; or their objects.
    teaching
        Training settings.
    seed
        Seed of all random draws.
    progress
        Shows the progress.

    Returns
    -------
    aids
        The trained networks, frozen.
    metrics
        The fraction of the variance of the metric's logarithm, at validation latents, that is explained by
        the network and by its affine part alone; and the mean log objective before and after the refiner's
        passes, over the last hundredth of the training.
    """
    torch.manual_seed(seed)
    device = next(model.generator.parameters()).device
    aids = Aids(model.config).to(device)
    inner = renderer_of(model.generator)
    kinds = 2 if model.grid is None else 1
    total = teaching.num_reference + kinds * teaching.steps
    with progress("train metric", total=total, unit="steps") as task:
        metrics = _train_metric(model, inner, aids.metric, teaching, seed, task.advance)
    with progress("train refiner", total=teaching.steps, unit="steps") as task:
        metrics |= _train_refiner(model, inner, aids.refiner, stores, teaching, seed, task.advance)
    return aids.eval().requires_grad_(False), metrics


def _references(
    model: Model, inner: Renderer, number: int, seed: int, advance: Callable[[int], None]
) -> dict[bool, tuple[Tensor, Tensor]]:
    """Return latents and the upper triangles of the metric's logarithm there, for each kind of objective.

    The kinds are True for objectives in flux, and False for objectives in the networks' units.
    """
    device = next(model.generator.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    softening = torch.tensor(model.normalisation.softening, device=device)[:, None, None]
    in_flux = InFlux(inner, model.normalisation)
    renderers: dict[bool, Renderer] = {True: in_flux, False: inner}
    if model.grid is not None:
        nominal = Sight.nominal(model.grid, len(model.info.bands)).to(device)
        renderers = {True: Observed(in_flux, nominal.observation())}
    length = model.config.latent_size
    row, column = torch.triu_indices(length, length)
    references: dict[bool, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in renderers}
    for _ in range(0, number, REFERENCE_BATCH):
        latent = torch.randn(REFERENCE_BATCH, length, generator=draw)
        for kind, renderer in renderers.items():
            logarithm, usable = logarithms_at(latent.to(device), renderer, softening**-2 if kind else None)
            references[kind].append((latent[usable], logarithm[:, row, column].float()))
        advance(REFERENCE_BATCH)
    return {kind: tuple(torch.cat(t) for t in zip(*parts, strict=True)) for kind, parts in references.items()}  # type: ignore[misc]


def _train_metric(
    model: Model,
    inner: Renderer,
    network: MetricNetwork,
    teaching: Teaching,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Fit the logarithms by least squares; off-diagonal elements count twice, as in the full matrix."""
    device = next(network.parameters()).device
    row, column = torch.triu_indices(network.length, network.length, device=device)
    multiplicity = torch.where(row == column, 1.0, 2.0)
    metrics: dict[str, float] = {}
    references = _references(model, inner, teaching.num_reference, seed, advance)
    for kind, reference in references.items():
        latent, target = (t.to(device) for t in reference)
        if len(latent) < 2:
            raise InputError("the model's images do not change with the latent: train it longer")
        training = slice(max(1, len(latent) // 20), None)
        validation, part = slice(0, training.start), network.part(kind)
        weight, bias = _affine(latent[training], target[training])
        with torch.no_grad():
            part.affine.weight.copy_(weight)
            part.affine.bias.copy_(bias)
            residual = target - part.affine(latent)
        train_latent, train_target = latent[training], residual[training]
        optimiser = torch.optim.Adam(part.beyond.parameters(), METRIC_RATE, fused=True)
        draw = torch.Generator().manual_seed(seed)
        for step in range(teaching.steps):
            which = torch.randint(len(train_latent), (METRIC_BATCH,), generator=draw).to(device)
            error = part.beyond(train_latent[which]) - train_target[which]
            _optimise(
                optimiser, (error * error * multiplicity).sum(1).mean(), METRIC_RATE, step / teaching.steps
            )
            advance(1)
        total = ((target[validation] - target[training].mean(0)) ** 2 * multiplicity).sum()
        affine = 1 - float((residual[validation] ** 2 * multiplicity).sum() / total)
        with torch.no_grad():
            both = 1 - float(
                ((residual[validation] - part.beyond(latent[validation])) ** 2 * multiplicity).sum() / total
            )
            if both <= affine:  # too few references or steps: keep only the affine map
                both = affine
                for parameter in part.beyond[-1].parameters():
                    parameter.zero_()
        name = "flux" if kind else "units"
        metrics |= {f"metric_explained_{name}": both, f"metric_explained_{name}_affine": affine}
    return metrics


def _affine(latent: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge-regress the targets on the latents: weight ``(outputs, L)`` and bias ``(outputs,)``."""
    centre, mean = latent.double().mean(0), target.double().mean(0)
    away = latent.double() - centre
    ridge = SHRINKAGE * len(away) * torch.eye(away.shape[1], dtype=away.dtype, device=away.device)
    slopes = torch.linalg.solve(away.T @ away + ridge, away.T @ (target.double() - mean))
    return slopes.T.to(target), (mean - centre @ slopes).to(target)


def _optimise(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float, fraction: float) -> None:
    """Take an optimiser step, with linear warm-up and cosine decay of the learning rate."""
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"training the model's aids: the loss became {loss.item()} after {fraction:.0%} of the steps"
        )
    for group in optimiser.param_groups:
        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * fraction)) * min(1.0, 0.1 + fraction / WARM_UP)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _train_refiner(
    model: Model,
    inner: Renderer,
    network: Refiner,
    stores: Sequence[CutoutStore | TeachingSet],
    teaching: Teaching,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    in_flux = InFlux(inner, model.normalisation)
    flux = Refinement(network, Objective(in_flux, prior_strength=1.0), model.normalisation)
    paper = Refinement(network, Objective(inner), None)
    number = EXAMPLES // len(stores)
    sets = [s if isinstance(s, TeachingSet) else TeachingSet.of_store(model, s, seed, number) for s in stores]
    share = np.array([len(objects) for objects in sets], dtype=float)
    optimiser = torch.optim.Adam(network.parameters(), teaching.learning_rate, fused=True)
    history = []
    for step in range(teaching.steps):
        rng = np.random.default_rng([seed, 7, step])
        chosen = int(rng.choice(len(sets), p=share / share.sum()))
        image, weight, sight = sets[chosen].draw(model, teaching.batch_size, rng)
        with torch.no_grad():
            latent = model.embed(image, weight, sight)
        refinement = flux
        if model.grid is None and step % 2:
            refinement, image = paper, model.normalisation.normalise(image)
            weight = (weight > 0).to(weight.dtype)
            image = torch.where(weight > 0, image, 0)
        loss, log_losses = _passes(refinement, latent, image, weight, sight)
        _optimise(optimiser, loss, teaching.learning_rate, step / teaching.steps)
        history.append(log_losses)
        advance(1)
    last = np.mean(history[-max(2, teaching.steps // 100) :], axis=0)
    return {"log_loss_start": float(last[0]), "log_loss_refined": float(last[-1])}


def _passes(
    refinement: Refinement, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None
) -> tuple[Tensor, list[float]]:
    """Return a surrogate loss, and the mean log objective before and after each pass.

    The value of the surrogate has no meaning, but its gradient with respect to the refiner's steps is that of
    the mean log objective after each pass, summed over passes.
    """
    observation = None if sight is None else sight.observation()
    views = refinement.shown(image, weight, sight)
    total, log_losses = torch.zeros((), device=latent.device), []
    evaluation = refinement.objective(latent, image, weight, observation)
    log_losses.append(float(evaluation.loss.log().mean()))
    for _ in range(NUM_PASSES):
        step = refinement.network(views(evaluation.drawn), latent)
        latent = latent + step.detach()
        evaluation = refinement.objective(latent, image, weight, observation)
        slope = evaluation.gradient / evaluation.loss[:, None]
        usable = torch.isfinite(slope).all(1, keepdim=True)
        total = total + torch.where(usable, step * torch.where(usable, slope, 0), 0).sum(1).mean()
        log_losses.append(float(evaluation.loss.log().mean()))
    return total, log_losses


@dataclass(frozen=True, eq=False)
class TeachingSet:
    """Real objects of one survey, mixed with generated ones observed in the same way; some data are masked.

    Attributes
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻²; 0 flux where the weight is 0.
    noise
        Source of the noise added to generated objects.
    sight
        How the objects were observed, for a model of scenes.
    is_neighbour
        ``(N, H, W)``, pixels of neighbouring objects, if known.
    """

    image: Tensor
    weight: Tensor
    noise: NoiseSource
    sight: Sight | None = None
    is_neighbour: Tensor | None = None

    @classmethod
    def of_store(cls, model: Model, store: CutoutStore, seed: int, number: int) -> TeachingSet:
        """Take at most `number` random objects of a store, excluding held-out ones."""
        model.check(store.info, to_train=True)
        rng = np.random.default_rng([seed, 8])
        rows = np.flatnonzero(~is_held_out(store.catalogue([])["object_id"]))
        cutouts = store.take(np.sort(rng.permutation(rows)[:number]))
        cutouts = cutouts.select(np.flatnonzero((cutouts.weight > 0).any(axis=(1, 2, 3))))
        if not len(cutouts):
            raise InputError(f"{store.directory}: no object to train on; cut more objects")
        weight, is_neighbour = torch.from_numpy(cutouts.weight), cutouts.is_neighbour
        whole = is_complete(cutouts.image, cutouts.weight)
        covariance = white_autocovariance(len(store.info.bands))
        if whole.any():
            covariance = measure_autocovariance(cutouts.image[whole], cutouts.weight[whole])
        return cls(
            image=torch.where(weight > 0, torch.from_numpy(cutouts.image), 0),
            weight=weight,
            noise=NoiseSource(covariance, store.info.size),
            sight=model.sight(cutouts, store.info),
            is_neighbour=None if is_neighbour is None else torch.from_numpy(is_neighbour),
        )

    def __len__(self) -> int:
        return len(self.image)

    @torch.no_grad()
    def draw(
        self, model: Model, number: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Sight | None]:
        """Return a batch of images (nJy), weights and sights on the model's device; half are generated."""
        device = next(model.generator.parameters()).device
        rows = torch.from_numpy(rng.integers(len(self), size=number))
        which = torch.from_numpy(rng.integers(NUM_SYMMETRIES, size=number))
        image, weight = (turn(t[rows], which) for t in (self.image, self.weight))
        weight = self._hide(weight, rows, which, rng).to(device)
        image, sight = image.to(device), None
        if self.sight is not None:
            sight = turn_sight(self.sight[rows.to(self.sight.psf.device)], which)
        draw = torch.Generator(device).manual_seed(int(rng.integers(1 << 62)))
        half = slice(number // 2, None)
        latent = torch.randn(number - number // 2, model.config.latent_size, generator=draw, device=device)
        drawn = model.render(latent, None if sight is None else sight[half])
        noise = self.noise.draw(len(latent), draw) * noise_of(weight[half])
        image[half] = drawn + noise
        return torch.where(weight > 0, image, 0), weight, sight

    def _hide(self, weight: Tensor, rows: Tensor, which: Tensor, rng: np.random.Generator) -> Tensor:
        """Mask neighbours in half of the objects, one band in some, and random pixels in others."""
        number, bands = weight.shape[:2]
        if self.is_neighbour is not None:
            is_neighbour = turn(self.is_neighbour[rows][:, None], which)
            is_neighbour &= torch.from_numpy(rng.random(number) < 0.5)[:, None, None, None]
            weight = torch.where(is_neighbour, 0, weight)
        lot = torch.from_numpy(rng.random(number))
        if bands > 1:
            band = torch.from_numpy(rng.integers(bands, size=number))[:, None] == torch.arange(bands)
            gone = (lot < HIDDEN_SHARE)[:, None] & band
            weight = torch.where(gone[:, :, None, None], 0, weight)
        holes = torch.from_numpy(rng.random(weight.shape, dtype=np.float32)) < 0.2
        holes &= (lot > 1 - HIDDEN_SHARE)[:, None, None, None]
        return torch.where(holes, 0, weight)
