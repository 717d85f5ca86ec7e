"""Train the image model that ships with the package, for CLAUDS+HSC, on galaxies simulated on the GPU.

    python benchmarks/gpu_scenes.py --prepare objects.npz          # where the whole package is installed
    python benchmarks/gpu_images.py --objects objects.npz --out clauds-hsc --minutes 9

The objects are those of `gpu_scenes.py`, with bright ones overrepresented. Neighbours follow the natural
distribution; pixels in which they outshine both the noise and the object get weight 0, unless ``--neighbours
keep`` is given. Another run with the same ``--out`` continues from the last checkpoint. Shapes: N objects.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from deepfits import recording  # noqa: E402
from deepfits.errors import NonFiniteLossError  # noqa: E402
from deepfits.fitting.bestfit import fit  # noqa: E402
from deepfits.fitting.folded import FoldedGenerator  # noqa: E402
from deepfits.fitting.metric import learn_metric  # noqa: E402
from deepfits.fitting.rendering import InFlux  # noqa: E402
from deepfits.models.bundle import Model  # noqa: E402
from deepfits.observation import Observation, Sight  # noqa: E402
from deepfits.recipes import recipe  # noqa: E402
from deepfits.training.data import Batch  # noqa: E402
from deepfits.training.engine import Engine  # noqa: E402
from deepfits.training.health import examine  # noqa: E402
from deepfits.training.loop import Trainer  # noqa: E402
from deepfits.training.settings import EngineSettings  # noqa: E402
from gpu import Bench, Sizes, _learn, _mlp, load_builtin  # noqa: E402
from gpu_sky import (  # noqa: E402
    DISC_SCALE,
    FARTHEST,
    MAG_STEPS,
    NEAREST,
    NEIGHBOUR_CHANCE,
    SIZE,
    DeviceSky,
    describe_training,
    neighbour_pixels,
    spectra,
    without_neighbours,
)

DRAWN_AT_ONCE = 8192


class BrightSky(DeviceSky):
    """The simulated sky with bright objects overrepresented, from the table of `gpu_scenes.py`."""

    def __init__(self, device: torch.device, objects: Path) -> None:
        super().__init__(device)
        with np.load(objects) as held:
            columns = {name: held[name] for name in held.files}

        def tensor(name: str) -> Tensor:
            return torch.as_tensor(np.asarray(columns[name], dtype=np.float32), device=device)

        mag, bulge_mag = tensor("mag")[:, 0], tensor("bulge_mag")[:, 0]  # in the filters of CLAUDS+HSC
        self.flux, self.bulge = (10 ** (0.4 * (31.4 - m / MAG_STEPS)) for m in (mag, bulge_mag))
        self.bulge = torch.where(bulge_mag >= 53_000, 0, self.bulge)
        scale = self.pixel_scale_arcsec
        self.disc_radius, self.bulge_radius = (
            tensor(f"{n}_radius_arcsec") / scale for n in ("disc", "bulge")
        )
        self.disc_ratio, self.bulge_ratio = tensor("disc_ratio"), tensor("bulge_ratio")
        self.natural = torch.multinomial(
            tensor("share"), 1 << 18, True, generator=torch.Generator(device).manual_seed(0)
        )

    def draw_masked(self, number: int, draw: torch.Generator) -> tuple[Batch, Tensor, Tensor]:
        """Draw cutouts, with a mask of neighbours' pixels, ``(N, 32, 32)``, and the objects' true fluxes."""
        side, device = self.transfer.shape[-2], self.device
        rows = torch.randint(len(self), (number,), generator=draw, device=device)
        own = self._stamps(rows, self._uniform((number, 2), draw) - 0.5, draw)
        others = torch.zeros_like(own)
        for _ in range(2):
            there = (self._uniform((number,), draw) < NEIGHBOUR_CHANCE).float()
            radius = NEAREST + (FARTHEST - NEAREST) * self._uniform((number,), draw).sqrt()
            angle = 2 * math.pi * self._uniform((number,), draw)
            at = torch.stack((radius * angle.sin(), radius * angle.cos()), dim=1)
            chosen = self.natural[torch.randint(len(self.natural), (number,), generator=draw, device=device)]
            others += self._stamps(chosen, at, draw) * there[:, None, None, None]
        first = (side - SIZE) // 2
        window = slice(first, first + SIZE)
        own, others = own[:, :, window, window], others[:, :, window, window]
        sigma = self.sigma[:, None, None] * (1 + 0.1 * (self._uniform((number, 1, 1, 1), draw) - 0.5))
        image = own + others + sigma * self.noise.draw(number, draw)
        is_other = neighbour_pixels(own, others, sigma)
        weight = (sigma**-2).expand_as(image).contiguous()
        return Batch(image.contiguous(), weight), is_other, self.flux[rows]

    def _stamps(self, rows: Tensor, at: Tensor, draw: torch.Generator) -> Tensor:
        side = self.transfer.shape[-2]
        spectrum = spectra(
            (self.flux[rows], self.bulge[rows]),
            (self.disc_radius[rows] / DISC_SCALE, self.disc_ratio[rows]),
            (self.bulge_radius[rows] / self.bulge_scale, self.bulge_ratio[rows]),
            at + side // 2,
            math.pi * self._uniform((len(rows),), draw),
            self.transfer,
        )
        return torch.fft.irfft2(spectrum, s=(side, side))

    def batch(self, number: int, draw: torch.Generator, *, masked: bool) -> Batch:
        """Draw a batch with neighbours masked or kept."""
        drawn, is_other, _ = self.draw_masked(number, draw)
        if not masked:
            return drawn
        return Batch(*without_neighbours(drawn.image, drawn.weight, is_other))


class InNoise(Trainer):
    """A trainer whose reconstruction loss is ln(1 + χ²) per object, with χ² per pixel in flux units."""

    def _reconstruct(self, real: Tensor, image: Tensor, weight: Tensor, way: Observation | None) -> Tensor:
        drawn = self.generator(self.embedder(real)).clamp(-40, 40)  # sinh of larger values overflows
        again = self.model.normalisation.denormalise(drawn)
        squares = ((image - again) ** 2 * weight).sum((1, 2, 3)) / (weight > 0).sum((1, 2, 3)).clamp(min=1)
        return squares.log1p().mean()


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train and evaluate the model, and save it."""
    begin, out, batch = time.monotonic(), Path(arguments.out), arguments.batch
    base = load_builtin(torch.device("cpu"))
    masked = arguments.neighbours == "mask"
    config = replace(
        recipe("small").training, batch_size=batch, steps=10**7, symmetries=False, ema=0.999,
        learning_rate=arguments.rate, neighbours=arguments.neighbours,
        reconstruction=arguments.reconstruction,
    )  # fmt: skip
    sky = BrightSky(device, Path(arguments.objects))
    torch.manual_seed(arguments.seed)
    shape = replace(base.config, width=arguments.width, num_groups=arguments.groups)
    model = Model.make(shape, base.info, base.normalisation)
    engine = Engine(EngineSettings(device=str(device), precision="tf32"))
    torch.backends.cudnn.allow_tf32 = True
    kind = InNoise if arguments.in_noise else Trainer
    trainer = kind(model, config, sky.noise, arguments.seed, engine)
    step, before, checkpoint = 0, 0.0, out / "training.pt"
    out.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer.restore(held["state"])
        step, before = held["step"], held["seconds"]
    total, limit = 60 * (arguments.total_minutes or arguments.minutes), 60 * arguments.minutes
    start, first = time.monotonic(), step
    draw = torch.Generator(device).manual_seed((arguments.seed << 40) + step)
    print(f"{out.name}: ready after {start - begin:.1f} s", flush=True)
    while (passed := time.monotonic() - start) < limit:
        drawn = sky.batch(DRAWN_AT_ONCE, draw, masked=masked)
        fraction = min(1.0, (before + passed) / total)
        try:
            for image, weight in zip(drawn.image.split(batch), drawn.weight.split(batch), strict=True):
                losses = trainer.step(Batch(image, weight), step, fraction)
                step += 1
        except NonFiniteLossError as error:
            print(f"{out.name}: ENDED EARLY: {error}", flush=True)
            return
        if step % 2048 == 0 or step < 600:
            summary = ", ".join(f"{n[:4]} {float(v):.3f}" for n, v in losses.items())
            rate = (step - first) * batch / (time.monotonic() - start)
            print(f"{out.name}: step {step}, {rate:,.0f} images/s, {summary}", flush=True)
    seconds = before + time.monotonic() - start
    torch.save({"state": trainer.state(), "step": step, "seconds": seconds}, checkpoint)
    finished = trainer.finished_model().to(device)
    finished.card = describe_training(trainer, "small", step, seconds, sky.noise)
    finished.card["metrics"] = look(finished, sky)
    print(f"{out.name}: {json.dumps(finished.card['metrics'])}", flush=True)
    finished.save(out)
    finished.save(out / "half", dtype="float16")


def look(model: Model, sky: BrightSky) -> dict[str, Any]:
    """Evaluate health, χ² by magnitude and redshifts from latents, on objects not used in training."""
    device = sky.device
    renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
    noise = (3 / torch.tensor(model.normalisation.softening, device=device))[:, None, None] ** 2
    metric = learn_metric(renderer, model.config.latent_size, device=device, weight=noise)

    def best(
        model: Model, image: Tensor, weight: Tensor, guess: Tensor, sight: Sight | None = None
    ) -> Tensor:
        found = fit(
            renderer, image, weight, guess, num_steps=100, batch_size=min(2048, len(image)),
            prior_strength=1.0, device=device, metric=metric,
        )  # fmt: skip
        steps.append(float(found.num_steps.float().mean()))
        return found.latent.to(device).nan_to_num()

    steps: list[float] = []
    drawn, is_other, own = sky.draw_masked(2048, torch.Generator(device).manual_seed(7))
    image, weight = without_neighbours(drawn.image, drawn.weight, is_other)
    guess = model.embed(image, weight)
    mag = 31.4 - 2.5 * own[:, 3].log10()
    found: dict[str, Any] = examine(model, Batch(image[:512], weight[:512]), sky.noise, fit=best)
    for name, latent in (("embedder", guess), ("both", best(model, image, weight, guess))):
        squares = ((image - model.render(latent)) ** 2 * weight).sum((1, 2, 3)) / (weight > 0).sum((1, 2, 3))
        for low, high in ((16.5, 18.5), (18.5, 20), (20, 22), (22, 23), (23, 25.5)):
            found[f"chi2_{name}_{low}_{high}"] = float(squares[(mag >= low) & (mag < high)].nanmedian())
    found["steps"] = steps[-1]
    bench = Bench(device, Path("/tmp/gpu-images"), Sizes(labels=6000, tested=2000), 9)
    table = bench.sky.draw(8000, torch.Generator(device).manual_seed(11))
    latent = best(model, table.image, table.weight, model.embed(table.image, table.weight))
    torch.manual_seed(0)
    network = _mlp(latent.shape[1]).to(device)
    learnt = _learn(bench, network, latent, torch.log1p(table.z_spec), 12)
    found |= {f"redshift_{name}": value for name, value in learnt.items()}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()}


def main() -> None:
    """Train a model, or evaluate the one that ships with the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", required=True)
    parser.add_argument("--out", help="model directory; without it, evaluate the built-in model")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--neighbours", choices=("mask", "keep"), default="mask")
    parser.add_argument("--in-noise", action="store_true", help="reconstruction loss in units of the noise")
    parser.add_argument("--reconstruction", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument(
        "--total-minutes", type=float, help="of all runs; the learning rates fall to zero by then"
    )
    parser.add_argument("--plain", action="store_true", help="do not record steps as CUDA graphs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.plain:
        recording.WARM_UP = sys.maxsize
    if arguments.out:
        train(arguments, device)
    else:
        print(json.dumps(look(load_builtin(device).eval(), BrightSky(device, Path(arguments.objects)))))


if __name__ == "__main__":
    main()
