"""Training speed: images per second of `Trainer` and of a plain eager script, measured side by side.

The script follows the paper literally: the same networks and losses in float32, three separate updates with
freshly generated images, and PyTorch's default Adam. In the trainer, one pass of the discriminator serves
both its own loss and the generator's if the recipe says so (docs/decisions/37); ``--two-passes`` turns this
off. Both train on the same images; runs alternate, and the result is the median ratio. The limit is the
fastest arithmetic that `machine.py` finds with the same number of threads; the operations of the trainer's
step are counted with PyTorch's FLOP counter.

    python benchmarks/train.py --recipe small --threads 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

from deepfits.models.bundle import Model
from deepfits.models.layers import ModelConfig
from deepfits.provenance import provenance
from deepfits.recipes import RECIPES, recipe
from deepfits.survey.normalise import Normalisation
from deepfits.survey.store import StoreInfo
from deepfits.training.config import TrainingConfig
from deepfits.training.data import Batch
from deepfits.training.engine import Engine
from deepfits.training.loop import Trainer
from deepfits.training.noise import NoiseSource, white_autocovariance
from deepfits.training.settings import EngineSettings
from machine import measure_limit


class PlainUp(nn.Module):
    """A block of the plain generator."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.main, self.side = (nn.ConvTranspose2d(a, b, 4, 2, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add the main and the side branch."""
        return torch.relu(self.main(x)) + self.side(x)


class PlainDown(nn.Module):
    """A block of the plain discriminator and embedder."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.main, self.side = (spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for _ in range(2))
        self.main_norm, self.side_norm = (nn.GroupNorm(4, b) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add the main and the side branch."""
        main = nn.functional.leaky_relu(self.main_norm(self.main(x)), 0.2)
        return main + self.side_norm(self.side(x))


def plain_generator(width: int) -> nn.Module:
    """Return the paper's generator."""
    return nn.Sequential(
        nn.Linear(64, 4 * width),
        nn.Unflatten(1, (width, 2, 2)),
        PlainUp(width, width // 2),
        PlainUp(width // 2, width // 4),
        PlainUp(width // 4, width // 8),
        nn.ConvTranspose2d(width // 8, 5, 4, 2, 1),
    )


def plain_encoder(width: int, outputs: int) -> nn.Module:
    """Return the paper's discriminator or embedder."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(5, width // 8, 4, 2, 1)),
        nn.GroupNorm(4, width // 8),
        PlainDown(width // 8, width // 4),
        PlainDown(width // 4, width // 2),
        PlainDown(width // 2, width),
        nn.Flatten(),
        spectral_norm(nn.Linear(4 * width, outputs)),
    )


def make_plain_step(width: int, device: torch.device) -> Callable[[Tensor], None]:
    """Return the training step of the plain script."""
    torch.manual_seed(0)
    networks = plain_generator(width), plain_encoder(width, 1), plain_encoder(width, 64)
    generator, discriminator, embedder = (network.to(device) for network in networks)
    optimisers = [torch.optim.Adam(n.parameters(), 4e-4, (0.5, 0.999)) for n in networks]

    def step(real: Tensor) -> None:
        number = len(real)
        fake = generator(torch.randn(number, 64, device=device)).detach()
        loss = 0.5 * ((discriminator(real) - 1) ** 2).mean() + 0.5 * (discriminator(fake) ** 2).mean()
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()
        loss = 0.5 * ((discriminator(generator(torch.randn(number, 64, device=device))) - 1) ** 2).mean()
        optimisers[0].zero_grad()
        loss.backward()
        optimisers[0].step()
        latent = torch.randn(number, 64, device=device)
        loss = ((latent - embedder(generator(latent).detach())) ** 2).mean()
        optimisers[2].zero_grad()
        loss.backward()
        optimisers[2].step()

    return step


def make_trainer(width: int, engine: Engine, *, shared: bool = False) -> Trainer:
    """Return our trainer with the same losses: all options off, except the `shared` discriminator pass."""
    config = ModelConfig(width=width)
    info = StoreInfo(bands=("u", "g", "r", "i", "z"), size=32, pixel_scale_arcsec=0.168)
    units = Normalisation(kind="standard", mean=(0.0,) * 5, std=(1.0,) * 5, softening=(1.0,) * 5)
    torch.manual_seed(0)
    model = Model.make(config, info, units)
    training = TrainingConfig(shared_discriminator_pass=shared)
    return Trainer(model, training, NoiseSource(white_autocovariance(5), 32), 0, engine)


def seconds_of(step: Callable[[], object], number: int, device: torch.device) -> float:
    """Return the seconds that `number` steps take."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(number):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="small")
    parser.add_argument("--batch-size", type=int, help="by default that of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--two-passes", action="store_true", help="never share the pass of the discriminator")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="approximate length of each run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.batch_size = arguments.batch_size or recipe(arguments.recipe).training.batch_size
    engine_config = EngineSettings(
        device=arguments.device,
        precision=arguments.precision,
        compile=arguments.compile,
        channels_last=arguments.channels_last,
    )
    engine = Engine(engine_config)
    width, device = recipe(arguments.recipe).model.width, engine.device
    real = torch.randn(arguments.batch_size, 5, 32, 32, device=device)
    batch = Batch(real, torch.ones_like(real))
    shared = recipe(arguments.recipe).training.shared_discriminator_pass and not arguments.two_passes
    trainer, plain = make_trainer(width, engine, shared=shared), make_plain_step(width, device)
    steps = {"plain": lambda: plain(real), "trainer": lambda: trainer.step(batch, 0)}
    with FlopCounterMode(display=False) as counter:
        make_trainer(width, Engine(EngineSettings(device=arguments.device)), shared=shared).step(batch, 0)
    operations = counter.get_total_flops() / arguments.batch_size
    number = {
        name: max(1, int(arguments.seconds / seconds_of(step, 2, device) * 2)) for name, step in steps.items()
    }
    rounds = [
        {
            name: number[name] * arguments.batch_size / seconds_of(step, number[name], device)
            for name, step in steps.items()
        }
        for _ in range(arguments.rounds)
    ]
    speed = {name: statistics.median(r[name] for r in rounds) for name in steps}
    ratios = sorted(r["trainer"] / r["plain"] for r in rounds)
    limit = measure_limit(device)
    rate = speed["trainer"] * operations
    print(f"{arguments.recipe} (width {width}), batches of {arguments.batch_size}, ", end="")
    print(f"{device}, {arguments.threads} threads:")
    print(f"plain eager script {speed['plain']:.1f} images/s, trainer {speed['trainer']:.1f} images/s:")
    print(
        f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f} "
        f"in {len(ratios)} rounds)"
    )
    print(f"{operations / 1e6:.1f} million operations per image: {limit.describe(rate)}")
    result = {
        "speedup_vs_plain": statistics.median(ratios),
        "images_per_s": speed["trainer"],
        "images_per_s_plain": speed["plain"],
        "fraction_of_limit": rate / limit.flops,
        "operations_per_image": operations,
        "limit": limit.to_json(),
        "recipe": arguments.recipe,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "shared_discriminator_pass": shared,
        "engine": dataclasses.asdict(engine_config),
        **provenance(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
