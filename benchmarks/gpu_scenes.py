"""Train the scene model that ships with the package, on galaxies simulated on the GPU on the fly.

    python benchmarks/gpu_scenes.py --prepare objects.npz          # where the whole package is installed
    python benchmarks/gpu_scenes.py --objects objects.npz --out ugriz --width 128 --minutes 8

The table contains galaxies, stars and quasars in the filters of three surveys, with bright ones
overrepresented. Each training step draws objects from it and simulates them as one of `NUM_SKIES` surveys
would observe them. Pixel scale, seeing, PSF, depth and noise correlation of each survey are random (seed 0);
seeing and noise level vary between objects. In every cutout the object is off centre by up to half a pixel,
and there is half a neighbour on average; pixels in which the neighbour outshines both the noise and the
object get weight 0. ``--store`` adds real cutouts, for a tenth of the batches. Shapes: N objects, B bands, S
side of a stamp, K = S/2 + 1, D side of a cutout.

Another run with the same ``--out`` continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from deepfits.errors import NonFiniteLossError  # noqa: E402
from deepfits.fitting.bestfit import fit  # noqa: E402
from deepfits.fitting.folded import FoldedGenerator  # noqa: E402
from deepfits.fitting.rendering import InFlux  # noqa: E402
from deepfits.gaussian_psf import moffat_psf, moffat_radius  # noqa: E402
from deepfits.models.bundle import Model  # noqa: E402
from deepfits.models.card import describe  # noqa: E402
from deepfits.observation import SceneGrid, Sight, all_above_reference  # noqa: E402
from deepfits.recipes import recipe  # noqa: E402
from deepfits.sky.drawing import moffat_transfer  # noqa: E402
from deepfits.survey.store import CutoutStore  # noqa: E402
from deepfits.training.data import Batch, Batches, measure_training_set  # noqa: E402
from deepfits.training.engine import Engine  # noqa: E402
from deepfits.training.health import examine  # noqa: E402
from deepfits.training.loop import Trainer  # noqa: E402
from deepfits.training.noise import NoiseSource, white_autocovariance  # noqa: E402
from deepfits.training.settings import EngineSettings  # noqa: E402
from gpu_sky import (  # noqa: E402
    DISC_SCALE,
    FARTHEST,
    MAG_STEPS,
    NEAREST,
    NEIGHBOUR_CHANCE,
    describe_training,
    mag_steps,
    neighbour_pixels,
    spectra,
    without_neighbours,
)

SCENE_ARCSEC = 5.76
SURVEYS = ("clauds-hsc", "sdss-like", "rubin-like")
BRIGHTEST, FAINTEST, SLOPE = 16.5, 25.5, 0.15
SHARES = {"galaxies": 0.80, "stars": 0.17, "quasars": 0.03}
NUM_SKIES = 40
PIXELS = (0.168, 0.187, 0.2, 0.2, 0.214, 0.238, 0.263, 0.263, 0.3, 0.339, 0.396, 0.396)
BETAS = (2.5, 3.0, 3.0, 3.5, 4.5)
SEEING = (0.58, 1.7)
NUM_WIDTHS = 48
DEEPEST = np.array([3.6, 2.8, 3.2, 5.6, 9.5])  # noise of the deepest surveys, in nJy for pixels of 1″
SHALLOWEST = np.array([750.0, 270.0, 390.0, 620.0, 2500.0])  # of SDSS
CORRELATED = 0.12  # noise correlation of adjacent pixels in resampled images
REAL_SHARE = 0.1


def prepare(path: Path, number: int, seed: int) -> None:
    """Draw and write the table: magnitudes in units of 0.001 mag, sizes and shapes in half precision."""
    from deepfits.sky.points import draw_quasars, draw_stars
    from deepfits.sky.population import PopulationLaws, draw_galaxies
    from deepfits.sky.surveys import find_survey

    rng = np.random.default_rng(seed)
    filters = tuple(band.filter for name in SURVEYS for band in find_survey(name).bands)
    usual, wide = PopulationLaws(), PopulationLaws(
        smooth_scatter=0.22, ultraviolet_scatter=0.15, oddity=0.7, calibration_scatter=0.04, dust_early=0.06,
        dust_late=0.18,
    )  # fmt: skip
    parts = []
    for laws in (usual, wide):
        drawn = draw_galaxies(25 * number, FAINTEST, filters, rng, laws)
        parts.append(_thin(drawn, int(SHARES["galaxies"] * number / 2), rng))
    for name, draw_points in (("stars", draw_stars), ("quasars", draw_quasars)):
        drawn = draw_points(20 * number, FAINTEST - 0.5, filters, rng)
        chosen = _thin(drawn, int(SHARES[name] * number), rng)
        flux = chosen["flux"] * 10 ** (0.4 * rng.normal(0, 0.04, chosen["flux"].shape))
        nothing = np.zeros(len(flux))
        chosen |= {
            "flux": flux,
            "bulge_flux": 0 * flux,
            "disc_ratio": nothing + 1,
            "bulge_ratio": nothing + 1,
        }
        chosen |= {"disc_radius_arcsec": nothing, "bulge_radius_arcsec": nothing}
        parts.append(chosen)
    columns = (
        "flux",
        "bulge_flux",
        "disc_radius_arcsec",
        "bulge_radius_arcsec",
        "disc_ratio",
        "bulge_ratio",
        "share",
    )
    table = {name: np.concatenate([part[name] for part in parts]) for name in columns}

    shape = (len(table["share"]), len(SURVEYS), -1)
    arrays: dict[str, Any] = {
        "mag": mag_steps(table["flux"]).reshape(shape),
        "bulge_mag": mag_steps(table["bulge_flux"]).reshape(shape),
        "share": table["share"].astype(np.float32),
        **{name: table[name].astype(np.float16) for name in columns[2:6]},
    }
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(table['share'])} objects, {path.stat().st_size / 1e6:.2f} MB")


def _thin(table: dict[str, np.ndarray], number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Choose objects with log counts of slope `SLOPE` per mag; `share` is the inverse selection weight."""
    mag = table["mag_count"]
    counts, edges = np.histogram(mag, np.linspace(BRIGHTEST, FAINTEST, 37))
    of_bin = np.clip(np.digitize(mag, edges) - 1, 0, len(counts) - 1)
    wanted = 10 ** (SLOPE * (mag - FAINTEST)) / np.maximum(counts[of_bin], 1)
    wanted[(mag < BRIGHTEST) | (mag > FAINTEST)] = 0
    chosen = rng.choice(
        len(mag), size=min(number, int((wanted > 0).sum())), replace=False, p=wanted / wanted.sum()
    )
    out = {name: column[chosen] for name, column in table.items()}
    share = 1 / wanted[chosen]
    return out | {"share": share / share.mean()}


@dataclass(frozen=True)
class Survey:
    """Properties of one simulated survey: filters, pixels, PSFs to choose from, noise."""

    filters: int
    pixel_arcsec: float
    size: int
    stamp: int
    beta: float
    psf: Tensor  # (widths, Gaussians, 2), relative to the reference PSF
    transfer: Tensor  # (widths, S, S/2 + 1)
    width: Tensor  # (B,), index of the typical width
    sigma: Tensor  # (B,), nJy per pixel
    noise: NoiseSource


class Skies:
    """Simulates cutouts of many surveys."""

    def __init__(
        self, objects: Path, grid: SceneGrid, device: torch.device, num_skies: int = NUM_SKIES
    ) -> None:
        self.grid, self.device = grid, device
        with np.load(objects) as held:
            columns = {name: held[name] for name in held.files}

        def tensor(name: str) -> Tensor:
            return torch.as_tensor(np.asarray(columns[name], dtype=np.float32), device=device)

        self.flux, self.bulge = (10 ** (0.4 * (31.4 - tensor(n) / MAG_STEPS)) for n in ("mag", "bulge_mag"))
        self.bulge = torch.where(tensor("bulge_mag") >= 53_000, 0, self.bulge)
        self.disc_radius, self.bulge_radius = tensor("disc_radius_arcsec"), tensor("bulge_radius_arcsec")
        self.disc_ratio, self.bulge_ratio = tensor("disc_ratio"), tensor("bulge_ratio")
        self.natural = torch.multinomial(
            tensor("share"), 1 << 18, True, generator=torch.Generator(device).manual_seed(0)
        )
        with np.load(HERE / "gpu_population.npz") as held:
            self.bulge_scale = float(held["bulge_scale"])
        rng = np.random.default_rng(0)
        self.widths = np.geomspace(SEEING[0], SEEING[1] * 1.25, NUM_WIDTHS)
        expanded = {beta: self._expand(beta) for beta in sorted(set(BETAS))}
        self.surveys = [self._make_survey(rng, expanded) for _ in range(num_skies)]

    def _expand(self, beta: float) -> np.ndarray:
        psf = np.stack([moffat_psf(width, beta) for width in self.widths])
        names, used = [str(number) for number in range(len(psf))], np.ones((1, len(psf)), bool)
        return all_above_reference(psf[None], self.grid, names, used)[0]

    def _make_survey(self, rng: np.random.Generator, expanded: dict[float, np.ndarray]) -> Survey:
        pixel, beta = float(rng.choice(PIXELS)), float(rng.choice(BETAS))
        least = max(SEEING[0], 2.4 * pixel)
        seeing = math.exp(rng.uniform(math.log(least), math.log(SEEING[1]))) * np.array(
            [1.12, 1.06, 1.0, 0.96, 0.95]
        )
        width = np.clip(
            np.searchsorted(self.widths, seeing * np.exp(rng.normal(0, 0.06, 5))), 2, NUM_WIDTHS - 3
        )
        depth = rng.uniform(0, 1) + rng.normal(0, 0.05, 5)
        sigma = pixel * DEEPEST ** (1 - depth) * SHALLOWEST**depth
        stamp = int(next(s for s in (56, 64, 80, 96, 128) if s * pixel >= 20 or s == 128))
        covariance = white_autocovariance(5)
        if pixel < 0.35 and rng.random() < 0.7:
            middle = covariance.shape[1] // 2
            near = np.array([[0.2, 1, 0.2], [1, 0, 1], [0.2, 1, 0.2]]) * CORRELATED
            covariance[:, middle - 1 : middle + 2, middle - 1 : middle + 2] += near
        size = int(SCENE_ARCSEC / pixel + 1e-6)
        return Survey(
            filters=int(rng.integers(len(SURVEYS))), pixel_arcsec=pixel, size=size, stamp=stamp, beta=beta,
            psf=torch.as_tensor(expanded[beta], device=self.device),
            transfer=self._transfer(stamp, pixel, beta).to(self.device),
            width=torch.as_tensor(width, device=self.device),
            sigma=torch.as_tensor(sigma, dtype=torch.float32, device=self.device),
            noise=NoiseSource(covariance, size),
        )  # fmt: skip

    def _transfer(self, stamp: int, pixel: float, beta: float) -> Tensor:
        """Return the transfer function of PSF and pixel for all widths: ``(widths, S, K)``."""
        ky, kx = 2 * np.pi * np.fft.fftfreq(stamp)[:, None], 2 * np.pi * np.fft.rfftfreq(stamp)
        u = np.linspace(1e-4, 40, 8000)  # in units of the scale radius
        known = moffat_transfer(u, 1 / moffat_radius(1, beta), beta)
        radius = moffat_radius(1, beta) * self.widths / pixel
        k = np.hypot(ky, kx)
        pixels = np.sinc(ky / (2 * np.pi)) * np.sinc(kx / (2 * np.pi))
        return torch.from_numpy(
            np.stack([np.interp(k * r, u, known, right=0) * pixels for r in radius])
        ).float()

    def draw(self, which: int, number: int, draw: torch.Generator) -> tuple[Batch, Tensor, Tensor]:
        """Draw cutouts of one survey, with masks of neighbours' pixels and the objects' true fluxes."""
        survey, device = self.surveys[which], self.device
        side, size, pixel = survey.stamp, survey.size, survey.pixel_arcsec

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=draw, device=device)

        width = survey.width + torch.randint(
            -2, 3, (number, len(survey.width)), generator=draw, device=device
        )
        transfer = survey.transfer[width]  # (N, B, S, K)
        rows = torch.randint(len(self.flux), (number,), generator=draw, device=device)
        # The centre of a cutout of even size lies between pixels, half a pixel from pixel (S/2, S/2).
        middle = side // 2 - (0.5 if size % 2 == 0 else 0.0)
        shift = uniform(number, 2) - 0.5
        own = self._stamps(rows, shift + middle, math.pi * uniform(number), survey, transfer)
        others = torch.zeros_like(own)
        for _ in range(2):
            there = (uniform(number) < NEIGHBOUR_CHANCE).float()
            radius = (NEAREST + (FARTHEST - NEAREST) * uniform(number).sqrt()) * 0.168 / pixel
            angle = 2 * math.pi * uniform(number)
            at = torch.stack((radius * angle.sin(), radius * angle.cos()), dim=1) + middle
            chosen = self.natural[torch.randint(len(self.natural), (number,), generator=draw, device=device)]
            stamps = self._stamps(chosen, at, math.pi * uniform(number), survey, transfer)
            others += stamps * there[:, None, None, None]
        first = (side - size) // 2 if size % 2 == 0 else side // 2 - size // 2
        window = slice(first, first + size)
        own, others = own[:, :, window, window], others[:, :, window, window]
        sigma = survey.sigma[:, None, None] * (1 + 0.2 * (uniform(number, 1, 1, 1) - 0.5))
        image = own + others + sigma * survey.noise.draw(number, draw)
        is_other = neighbour_pixels(own, others, sigma)
        weight = (sigma**-2).expand_as(image).contiguous()
        sight = Sight(self.grid, survey.psf[width], shift, size, pixel)
        return Batch(image.contiguous(), weight, sight), is_other, self.flux[rows, survey.filters]

    def _stamps(self, rows: Tensor, at: Tensor, angle: Tensor, survey: Survey, transfer: Tensor) -> Tensor:
        pixel, side = survey.pixel_arcsec, survey.stamp
        spectrum = spectra(
            (self.flux[rows, survey.filters], self.bulge[rows, survey.filters]),
            (self.disc_radius[rows] / (DISC_SCALE * pixel), self.disc_ratio[rows]),
            (self.bulge_radius[rows] / (self.bulge_scale * pixel), self.bulge_ratio[rows]),
            at,
            angle,
            transfer,
        )
        return torch.fft.irfft2(spectrum, s=(side, side))

    def batch(self, which: int, number: int, seed: int) -> Batch:
        """Draw a training batch, with neighbours masked."""
        drawn, is_other, _ = self.draw(which, number, torch.Generator(self.device).manual_seed(seed))
        return Batch(*without_neighbours(drawn.image, drawn.weight, is_other), drawn.sight)


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train and evaluate the model, and save it."""
    begin = time.monotonic()
    base = Model.load("builtin:ugriz")
    assert base.grid is not None
    small = recipe("scene")
    batch, out = arguments.batch, Path(arguments.out)
    config = replace(
        small.training, batch_size=batch, steps=10**7, symmetries=False, ema=0.998,
        learning_rate=arguments.rate,
    )  # fmt: skip
    skies = Skies(Path(arguments.objects), base.grid, device, arguments.skies)
    torch.manual_seed(arguments.seed)
    info = dataclasses.replace(base.info, survey="simulated surveys with seeing of 0.58″ to 1.7″")
    shape = replace(base.config, width=arguments.width)
    model = Model.make(shape, info, base.normalisation, base.reference_fwhm_arcsec)
    if arguments.start:
        known = Model.load(arguments.start)
        for name, network in known.networks.items():
            model.networks[name].load_state_dict(network.state_dict())
    engine = Engine(EngineSettings(device=str(device), precision="tf32"))
    torch.backends.cudnn.allow_tf32 = True
    stores = [CutoutStore(path) for path in arguments.store]
    real, noises = [], [survey.noise for survey in skies.surveys]
    for store in stores:
        seen = measure_training_set(store, seed=arguments.seed)
        noises.append(NoiseSource(seen.autocovariance, store.info.size))
        size = min(batch, seen.num_used)
        part = Batches(
            store,
            seen.rows,
            size,
            seed=arguments.seed,
            symmetries=True,
            device=device,
            grid=base.grid,
            mask_neighbours=True,
        )
        real.append(part.start(0))
    trainer = Trainer(model, config, noises, arguments.seed, engine)
    step, before, checkpoint = 0, 0.0, out / "training.pt"
    out.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer.restore(held["state"])
        step, before = held["step"], held["seconds"]
    print(f"width {arguments.width}: ready after {time.monotonic() - begin:.1f} s", flush=True)
    total, limit = (
        60 * arguments.total_minutes if arguments.total_minutes else 60 * arguments.minutes,
        60 * arguments.minutes,
    )
    start, first = time.monotonic(), step
    while (passed := time.monotonic() - start) < limit:
        rng = np.random.default_rng([arguments.seed, 9, step])
        fraction = min(1.0, (before + passed) / total)
        try:
            if stores and rng.random() < REAL_SHARE:
                chosen = int(rng.integers(len(stores)))
                noise, images = len(skies.surveys) + chosen, next(real[chosen])
            else:
                noise = int(rng.integers(len(skies.surveys)))
                images = skies.batch(noise, batch, (arguments.seed << 40) + step)
            losses = trainer.step(images, step, fraction, store=noise)
        except NonFiniteLossError as error:  # keep the model trained so far
            print(f"{arguments.width}: ENDED EARLY: {error}", flush=True)
            break
        step += 1
        if step % 500 == 0 or step in (1, 10):
            summary = ", ".join(f"{n[:4]} {float(v):.3f}" for n, v in losses.items())
            print(
                f"{arguments.width}: step {step}, {(step - first) * batch / passed:,.0f} images/s, {summary}",
                flush=True,
            )
    seconds = before + time.monotonic() - start
    finished = trainer.finished_model().to(device)
    if arguments.total_minutes and before + limit < total - 1:
        torch.save({"state": trainer.state(), "step": step, "seconds": seconds}, checkpoint)
    finished.card = describe_training(trainer, "scene", step, seconds, skies.surveys[0].noise)
    finished.card["metrics"] = look(finished, skies)
    print(f"{arguments.width}: {json.dumps(finished.card['metrics'])}", flush=True)
    finished.save(out)
    (out / "README.md").write_text(describe(finished, f"Model `{out.name}`"), encoding="utf-8")
    finished.save(out / "half", dtype="float16")


def look(model: Model, skies: Skies) -> dict[str, Any]:
    """Evaluate health and χ² of best fits by magnitude, on objects not used in training."""

    def best(model: Model, image: Tensor, weight: Tensor, guess: Tensor, sight: Sight | None) -> Tensor:
        renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
        found = fit(
            renderer,
            image,
            weight,
            guess,
            sight=sight,
            num_steps=60,
            batch_size=len(image),
            prior_strength=1.0,
            device=image.device,
        )
        return found.latent.to(image.device).nan_to_num()

    found: dict[str, Any] = {}
    flux, chi2 = [], []
    for number in range(min(6, len(skies.surveys))):
        drawn, others, own = skies.draw(number, 256, torch.Generator(skies.device).manual_seed(7 + number))
        image, weight = without_neighbours(drawn.image, drawn.weight, others)
        guess = model.embed(image, weight, drawn.sight)
        latent = best(model, image, weight, guess, drawn.sight)
        squares = ((image - model.render(latent, drawn.sight)) ** 2 * weight).sum((1, 2, 3))
        chi2.append(squares / (weight > 0).sum((1, 2, 3)))
        flux.append(own[:, 3])
        if number == 0:
            held = Batch(image, weight, drawn.sight)
            found = examine(model, held, skies.surveys[0].noise, fit=best)
    mag, all_chi2 = 31.4 - 2.5 * torch.cat(flux).log10(), torch.cat(chi2)
    for low, high in ((16.5, 18.5), (18.5, 20), (20, 22), (22, 25.5)):
        inside = (mag >= low) & (mag < high)
        found[f"chi2_{low}_{high}"] = float(all_chi2[inside].nanmedian()) if bool(inside.any()) else None
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()}


def main() -> None:
    """Prepare the table, or train a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("--number", type=int, default=60_000)
    parser.add_argument("--objects")
    parser.add_argument("--start", help="model of the same width to start from")
    parser.add_argument("--store", nargs="*", default=[])
    parser.add_argument("--out")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument(
        "--total-minutes", type=float, help="of all runs; the learning rates fall to zero by then"
    )
    parser.add_argument("--skies", type=int, default=NUM_SKIES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.prepare, arguments.number, arguments.seed)
    else:
        train(arguments, torch.device(arguments.device))


if __name__ == "__main__":
    main()
