"""Teaching a finished model's aids: the network of its metric, and its refiner (`deepfits.models.aids`).

Shapes: N objects, L latent dimensions, B bands, H = W pixels.

The metric learns logarithms of Gauss–Newton matrices at latents drawn from the prior. The refiner learns on
objects of which half are real and half are drawn and given noise: it starts at the embedder's guess, and what
it is judged by is the logarithm of what a fit would minimise, after each pass. Nothing flows back from one
pass to those before it. The gradient of the objective is the fit's own, so that all of it (weights, scenes
through their PSF) is what the fit does.
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
EXAMPLES = 8192  # real objects that are held in memory
REFERENCE_BATCH = 8
WARM_UP = 0.05  # of the steps
SHRINKAGE = 0.02  # of the slopes, in units of what the references weigh
METRIC_BATCH = 128
METRIC_RATE = 1e-3
HIDDEN_SHARE = 0.2  # of the objects: without a band, or with holes


def teach_aids(
    model: Model,
    stores: Sequence[CutoutStore | TeachingSet],
    teaching: Teaching | None = None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Aids, dict[str, float]]:
    """Teach a refiner and a metric for a finished model, on its device; the model stays as it is.

    By stores of real cutouts, as the model takes them, whose held-out objects are left alone; or by the
    examples themselves. Returns the networks, frozen, and how well they do: the shares of the logarithms'
    variance that the metric and its affine part explain at latents they have not seen, and the mean of the
    logarithm of the objective before and after the passes, over the last hundredth of the teaching.
    """
    teaching = teaching or Teaching()
    torch.manual_seed(seed)
    device = next(model.generator.parameters()).device
    aids = Aids(model.config).to(device)
    inner = renderer_of(model.generator)
    kinds = 2 if model.grid is None else 1
    total = teaching.num_reference + kinds * teaching.steps
    with progress("teach metric", total=total, unit="steps") as task:
        metrics = _teach_metric(model, inner, aids.metric, teaching, seed, task.advance)
    with progress("teach refiner", total=teaching.steps, unit="steps") as task:
        metrics |= _teach_refiner(model, inner, aids.refiner, stores, teaching, seed, task.advance)
    return aids.eval().requires_grad_(False), metrics


def _references(
    model: Model, inner: Renderer, number: int, seed: int, advance: Callable[[int], None]
) -> dict[bool, tuple[Tensor, Tensor]]:
    """Return latents and the logarithms' upper triangles there, for objectives in flux and in units."""
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
    found: dict[bool, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in renderers}
    for _ in range(0, number, REFERENCE_BATCH):
        latent = torch.randn(REFERENCE_BATCH, length, generator=draw)
        for kind, renderer in renderers.items():
            logarithm, usable = logarithms_at(latent.to(device), renderer, softening**-2 if kind else None)
            found[kind].append((latent[usable], logarithm[:, row, column].float()))
        advance(REFERENCE_BATCH)
    return {kind: tuple(torch.cat(t) for t in zip(*parts, strict=True)) for kind, parts in found.items()}  # type: ignore[misc]


def _teach_metric(
    model: Model,
    inner: Renderer,
    network: MetricNetwork,
    teaching: Teaching,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Learn the logarithms by least squares; what lies off the diagonal stands in a matrix twice."""
    device = next(network.parameters()).device
    row, column = torch.triu_indices(network.length, network.length, device=device)
    times = torch.where(row == column, 1.0, 2.0)
    said: dict[str, float] = {}
    references = _references(model, inner, teaching.num_reference, seed, advance)
    for kind, found in references.items():
        latent, target = (t.to(device) for t in found)
        if len(latent) < 2:
            raise InputError("the model's images do not change with the latent: train it longer")
        seen = slice(max(1, len(latent) // 20), None)
        unseen, part = slice(0, seen.start), network.part(kind)
        weight, bias = _affine(latent[seen], target[seen])
        with torch.no_grad():
            part.affine.weight.copy_(weight)
            part.affine.bias.copy_(bias)
            rest = target - part.affine(latent)
        at, aim = latent[seen], rest[seen]
        optimiser = torch.optim.Adam(part.beyond.parameters(), METRIC_RATE, fused=True)
        draw = torch.Generator().manual_seed(seed)
        for step in range(teaching.steps):
            which = torch.randint(len(at), (METRIC_BATCH,), generator=draw).to(device)
            off = part.beyond(at[which]) - aim[which]
            _optimise(optimiser, (off * off * times).sum(1).mean(), METRIC_RATE, step / teaching.steps)
            advance(1)
        total = ((target[unseen] - target[seen].mean(0)) ** 2 * times).sum()
        affine = 1 - float((rest[unseen] ** 2 * times).sum() / total)
        with torch.no_grad():
            both = 1 - float(((rest[unseen] - part.beyond(latent[unseen])) ** 2 * times).sum() / total)
            if both <= affine:  # too few references or steps: the affine map alone
                both = affine
                for parameter in part.beyond[-1].parameters():
                    parameter.zero_()
        name = "flux" if kind else "units"
        said |= {f"metric_explained_{name}": both, f"metric_explained_{name}_affine": affine}
    return said


def _affine(latent: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Regress on the latents, shrunk a little: weight ``(outputs, L)`` and bias ``(outputs,)``."""
    centre, mean = latent.double().mean(0), target.double().mean(0)
    away = latent.double() - centre
    ridge = SHRINKAGE * len(away) * torch.eye(away.shape[1], dtype=away.dtype, device=away.device)
    slopes = torch.linalg.solve(away.T @ away + ridge, away.T @ (target.double() - mean))
    return slopes.T.to(target), (mean - centre @ slopes).to(target)


def _optimise(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float, fraction: float) -> None:
    """Take a step with a learning rate that rises at first and then falls along a cosine."""
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"teaching what helps a fit: the loss became {loss.item()} after {fraction:.0%} of it"
        )
    for group in optimiser.param_groups:
        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * fraction)) * min(1.0, 0.1 + fraction / WARM_UP)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _teach_refiner(
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
    share = np.array([len(some) for some in sets], dtype=float)
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
        loss, said = _passes(refinement, latent, image, weight, sight)
        _optimise(optimiser, loss, teaching.learning_rate, step / teaching.steps)
        history.append(said)
        advance(1)
    last = np.mean(history[-max(2, teaching.steps // 100) :], axis=0)
    return {"log_loss_start": float(last[0]), "log_loss_refined": float(last[-1])}


def _passes(
    refinement: Refinement, latent: Tensor, image: Tensor, weight: Tensor, sight: Sight | None
) -> tuple[Tensor, list[float]]:
    """Return what is to be made smaller, and the mean logarithms after each pass.

    The value of the first is not the objective's, but its gradient with respect to the steps is.
    """
    observation = None if sight is None else sight.observation()
    views = refinement.shown(image, weight, sight)
    total, said = torch.zeros((), device=latent.device), []
    found = refinement.objective(latent, image, weight, observation)
    said.append(float(found.loss.log().mean()))
    for _ in range(NUM_PASSES):
        step = refinement.network(views(found.drawn), latent)
        latent = latent + step.detach()
        found = refinement.objective(latent, image, weight, observation)
        slope = found.gradient / found.loss[:, None]
        usable = torch.isfinite(slope).all(1, keepdim=True)
        total = total + torch.where(usable, step * torch.where(usable, slope, 0), 0).sum(1).mean()
        said.append(float(found.loss.log().mean()))
    return total, said


@dataclass(frozen=True, eq=False)
class TeachingSet:
    """Real objects of one survey, to be mixed with drawn ones that are seen as they are, some data hidden.

    Attributes
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻²; 0 flux where the weight is 0.
    noise
        Where the noise of the drawn ones comes from.
    sight
        How they were observed, for a model of scenes.
    is_neighbour
        ``(N, H, W)``, the pixels of other objects, if it is known.
    """

    image: Tensor
    weight: Tensor
    noise: NoiseSource
    sight: Sight | None = None
    is_neighbour: Tensor | None = None

    @classmethod
    def of_store(cls, model: Model, store: CutoutStore, seed: int, number: int) -> TeachingSet:
        """Take some objects of a store, none of those that are held out."""
        model.check(store.info, to_train=True)
        rng = np.random.default_rng([seed, 8])
        rows = np.flatnonzero(~is_held_out(store.catalogue([])["object_id"]))
        cutouts = store.take(np.sort(rng.permutation(rows)[:number]))
        cutouts = cutouts.select(np.flatnonzero((cutouts.weight > 0).any(axis=(1, 2, 3))))
        if not len(cutouts):
            raise InputError(f"{store.directory}: no object to teach with; cut more objects")
        weight, others = torch.from_numpy(cutouts.weight), cutouts.is_neighbour
        whole = is_complete(cutouts.image, cutouts.weight)
        covariance = white_autocovariance(len(store.info.bands))
        if whole.any():
            covariance = measure_autocovariance(cutouts.image[whole], cutouts.weight[whole])
        return cls(
            image=torch.where(weight > 0, torch.from_numpy(cutouts.image), 0),
            weight=weight,
            noise=NoiseSource(covariance, store.info.size),
            sight=model.sight(cutouts, store.info),
            is_neighbour=None if others is None else torch.from_numpy(others),
        )

    def __len__(self) -> int:
        return len(self.image)

    @torch.no_grad()
    def draw(
        self, model: Model, number: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Sight | None]:
        """Return images in nJy, weights, and how they were observed, where the model is; half are drawn."""
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
        """Take data away: neighbours from half the objects, a band from some, and pixels from others."""
        number, bands = weight.shape[:2]
        if self.is_neighbour is not None:
            others = turn(self.is_neighbour[rows][:, None], which)
            others &= torch.from_numpy(rng.random(number) < 0.5)[:, None, None, None]
            weight = torch.where(others, 0, weight)
        lot = torch.from_numpy(rng.random(number))
        if bands > 1:
            band = torch.from_numpy(rng.integers(bands, size=number))[:, None] == torch.arange(bands)
            gone = (lot < HIDDEN_SHARE)[:, None] & band
            weight = torch.where(gone[:, :, None, None], 0, weight)
        holes = torch.from_numpy(rng.random(weight.shape, dtype=np.float32)) < 0.2
        holes &= (lot > 1 - HIDDEN_SHARE)[:, None, None, None]
        return torch.where(holes, 0, weight)
