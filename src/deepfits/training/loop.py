"""The adversarial training step (M19 §2.2).

Shapes: N objects, L latent dimensions, B bands, H, W pixels. "x" is an image in the networks' units.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepfits.errors import NonFiniteLossError
from deepfits.models.bundle import Model
from deepfits.observation import Observation, Sight
from deepfits.recording import Recording
from deepfits.survey.normalise import arcsinh, normalise
from deepfits.training.config import TrainingConfig
from deepfits.training.data import Batch
from deepfits.training.engine import Engine
from deepfits.training.losses import (
    discriminator_loss,
    embedder_loss,
    generator_loss,
    reconstruction_loss,
    shared_pass,
    smoothness_loss,
    with_gradient,
)
from deepfits.training.noise import NoiseSource, noise_of
from deepfits.training.settings import EngineSettings

SAMPLED_FWHM = 2.5  # pixels: a PSF at least this wide leaves no structure at the finest scales


def seed_of_step(seed: int, step: int) -> int:
    """Mix seed and step into 32 bits, which is all that PyTorch's CPU generator uses of a seed.

    Examples
    --------
    >>> len({seed_of_step(seed, step) % 2**32 for seed in (1, 2) for step in (7, 8)})
    4
    """
    return int(np.random.SeedSequence((seed % 2**64, step)).generate_state(1)[0])


class Trainer:
    """Networks, their optimisers, and the training step, which updates them in place.

    Noise-aware training needs a noise source, one per store if there are several. The seed and the number of
    the step determine every random draw, so that no generator state has to be saved.
    """

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        noise: NoiseSource | Sequence[NoiseSource],
        seed: int,
        engine: Engine | None = None,
    ) -> None:
        self.model, self.config, self.seed = model, config, seed
        self.noises = [noise] if isinstance(noise, NoiseSource) else list(noise)
        self.noise, self.grid = self.noises[0], model.grid
        self.engine = engine or Engine(EngineSettings(device="cpu"))
        self.device = self.engine.device
        self.networks = {n: self.engine.place(network.train()) for n, network in model.networks.items()}
        self.generator, self.discriminator, self.embedder = (
            self.engine.wrap(network.requires_grad_(True)) for network in self.networks.values()
        )
        rate = config.learning_rate
        self.optimisers = {
            n: torch.optim.Adam(
                network.parameters(),
                torch.tensor(rate, device=self.device) if self.engine.can_record else rate,
                (config.beta1, config.beta2),
                fused=True,
                capturable=self.engine.can_record,
            )
            for n, network in self.networks.items()
        }
        self.recording: Recording | None = None
        self.average = deepcopy(model.generator).requires_grad_(False)
        fwhm = torch.tensor(model.info.fwhm_arcsec, dtype=torch.float32) / model.info.pixel_scale_arcsec
        is_sampled = ~(fwhm < SAMPLED_FWHM) | (self.grid is not None)
        self.is_sampled = is_sampled.float()[:, None, None].to(self.device)
        self.softening = torch.tensor(model.normalisation.softening, device=self.device)[:, None, None]
        # Noise in the networks' units: the stretch's slope at zero times the noise that set the softening.
        deviation = torch.tensor(model.normalisation.std, device=self.device)[:, None, None]
        self.usual_noise = 1 / (deviation * config.softening_sigmas)

    def step(self, batch: Batch, step: int, fraction: float = 0.0, *, store: int = 0) -> dict[str, Tensor]:
        """Update discriminator, generator and embedder once, and return the detached losses.

        Steps count from 0; `fraction` is that of the training that is completed, which sets the learning
        rates. The batch is for all processes together, and from the store of that index.
        """
        part, number = self.engine.part, len(batch.image)
        self._set_rates(fraction)
        draw, latent = self._draw(number, step)
        noise = self._draw_noise(number, draw, store)
        arguments = (part(batch.image), part(batch.weight), latent, noise)
        if batch.sight is not None or not self.engine.can_record:
            return self._average(self._improve(*arguments, sight=self._part_of(batch.sight), step=step))
        if self.recording is None or not self.recording.accepts(arguments):
            self.recording = Recording(self._improve)
        losses = self.recording(arguments)
        self._check_finite(torch.stack(list(losses.values())).sum(), "networks", step)
        return losses

    def _improve(
        self,
        image: Tensor,
        weight: Tensor,
        latent: Tensor,
        noise: Tensor | None,
        *,
        sight: Sight | None = None,
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Perform the step for given random draws; losses are checked only if `step` is given."""
        config = self.config
        real = self._observe(image, weight, sight)
        clean = self.generator(latent)
        observation = None if sight is None else sight.observation()
        observed = self.observe(clean, weight, noise, sight, observation)

        self.networks["discriminator"].requires_grad_(True)
        detached = observed.detach().requires_grad_(config.shared_discriminator_pass)
        outputs = self.discriminator(torch.cat([real, detached]))
        losses = {"discriminator": discriminator_loss(*outputs.chunk(2))}
        if config.shared_discriminator_pass:
            cotangent, factor = shared_pass(*outputs.detach().chunk(2))
            loss = with_gradient(losses["discriminator"].detach(), outputs, cotangent)
            self._optimise(["discriminator"], loss, step)
            assert detached.grad is not None
            gradient = detached.grad * factor[:, None, None, None]
            losses["generator"] = with_gradient(
                generator_loss(outputs.detach().chunk(2)[1]), observed, gradient
            )
        else:
            self._optimise(["discriminator"], losses["discriminator"], step)
            self.networks["discriminator"].requires_grad_(False)
            losses["generator"] = generator_loss(self.discriminator(observed))
        generated = observed if config.noisy_embedder or self.grid is not None else clean
        losses["embedder"] = embedder_loss(latent, self.embedder(generated.detach()))
        total = losses["generator"] + losses["embedder"]
        if config.reconstruction:
            losses["reconstruction"] = self._reconstruct(real, image, weight, observation)
            total = total + config.reconstruction * losses["reconstruction"]
        if config.smoothness:
            level = self.noise_in_x(weight) if self.grid is None else self.usual_noise
            losses["smoothness"] = smoothness_loss(clean / level * self.is_sampled)
            total = total + config.smoothness * losses["smoothness"]
        self._optimise(["generator", "embedder"], total, step)
        self._update_average()
        return {name: loss.detach() for name, loss in losses.items()}

    def step_embedder(
        self, batch: Batch, step: int, fraction: float = 0.0, *, store: int = 0
    ) -> dict[str, Tensor]:
        """Update only the embedder, for a fixed generator (M19 §2.2).

        With `reconstruction`, the loss includes how well embedder and generator reconstruct real images.
        Parameters as in `step`.
        """
        self._set_rates(fraction)
        part = self.engine.part
        draw, latent = self._draw(len(batch.image), step)
        weight, sight = part(batch.weight), self._part_of(batch.sight)
        observation = None if sight is None else sight.observation()
        with torch.no_grad():
            generated = self.generator(latent)
            if self.config.noisy_embedder or self.grid is not None:
                noise = self._draw_noise(len(batch.image), draw, store)
                generated = self.observe(generated, weight, noise, sight, observation)
        losses = {"embedder": embedder_loss(latent, self.embedder(generated))}
        total = losses["embedder"]
        if self.config.reconstruction:
            self.networks["generator"].requires_grad_(False)
            image = part(batch.image)
            real = self._observe(image, weight, sight)
            losses["reconstruction"] = self._reconstruct(real, image, weight, observation)
            total = total + self.config.reconstruction * losses["reconstruction"]
        self._optimise(["embedder"], total, step)
        return self._average({name: loss.detach() for name, loss in losses.items()})

    def _average(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.engine.average(loss) for name, loss in losses.items()}

    def _part_of(self, sight: Sight | None) -> Sight | None:
        part = self.engine.part
        if sight is None:
            return None
        return replace(sight, psf=part(sight.psf), shift_pixels=part(sight.shift_pixels))

    def _observe(self, image: Tensor, weight: Tensor, sight: Sight | None) -> Tensor:
        """Convert images in nJy to the input of discriminator and embedder."""
        if self.grid is None:
            return normalise(self.model.normalisation, image)
        assert sight is not None
        x = normalise(self.model.normalisation, sight.on_grid(image, weight, self.softening))
        if self.model.config.sees_observation:
            x = torch.cat((x, sight.described(weight, self.softening)), dim=1)
        return x

    def _reconstruct(
        self, real: Tensor, image: Tensor, weight: Tensor, observation: Observation | None
    ) -> Tensor:
        """Return the reconstruction loss of real images, given both as network input and in nJy."""
        reconstructed = self.generator(self.embedder(real))
        if observation is None:
            residual = (real - reconstructed) / self.noise_in_x(weight)
        else:  # in data pixels, with the stretch scaled to each image's own noise
            flux = observation(self.model.normalisation.denormalise(reconstructed))
            sigmas = self.config.softening_sigmas
            unit = sigmas * noise_of(weight)
            residual = sigmas * (arcsinh(image / unit) - arcsinh(flux / unit))
        return reconstruction_loss(residual, weight > 0, logarithmic=observation is not None)

    def _draw(self, number: int, step: int) -> tuple[torch.Generator, Tensor]:
        """Return the step's random generator, and this process's part of the latents."""
        draw = torch.Generator(self.device).manual_seed(seed_of_step(self.seed, step))
        size = number, self.model.config.latent_size
        return draw, self.engine.part(torch.randn(size, generator=draw, device=self.device))

    def _draw_noise(self, number: int, draw: torch.Generator, store: int) -> Tensor | None:
        if self.config.noise == "none":
            return None
        return self.engine.part(self.noises[store].draw(number, draw))

    def observe(
        self,
        clean: Tensor,
        weight: Tensor,
        noise: Tensor | None,
        sight: Sight | None = None,
        way: Observation | None = None,
    ) -> Tensor:
        """Simulate the observation of generated images, given the weights and sights of real ones.

        `clean` ``(N, B, H, W)`` is in the networks' units; `noise`, in units of that implied by the weights,
        may be None. Where the weights are 0, so is the flux. Scenes are observed with the `sight`, or the way
        that has been built for it already.
        """
        normalisation = self.model.normalisation
        if sight is not None and self.grid is not None:
            way = way or sight.observation()
            flux = way(normalisation.denormalise(clean))
            if noise is not None:
                flux = flux + noise_of(weight) * noise
            return self._observe(torch.where(weight > 0, flux, 0.0), weight, sight)
        if noise is not None:
            flux = normalisation.denormalise(clean) + noise_of(weight) * noise
            clean = normalise(normalisation, flux)
        if self.config.incomplete or self.config.neighbours == "mask":
            clean = torch.where(weight > 0, clean, normalise(normalisation, torch.zeros_like(clean)))
        return clean

    def noise_in_x(self, weight: Tensor) -> Tensor:
        """Return the noise in the networks' units at zero flux; 1 where there are no data."""
        slope = self.model.normalisation.slope(torch.zeros_like(weight))
        return torch.where(weight > 0, noise_of(weight) * slope, 1.0)

    def _optimise(self, names: list[str], loss: Tensor, step: int | None) -> None:
        if step is not None:
            self._check_finite(self.engine.average(loss.detach()), " and ".join(names), step)
        for name in names:
            self.optimisers[name].zero_grad()
        loss.backward()
        for name in names:
            self.engine.average_gradients(self.networks[name].parameters())
            self.optimisers[name].step()

    @staticmethod
    def _check_finite(loss: Tensor, names: str, step: int) -> None:
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss of the {names} became {loss.item()} in step {step}")

    def _set_rates(self, fraction: float) -> None:
        decay = self.config.decay
        factor = min(1.0, (1 - fraction) / decay) if decay else 1.0
        rate = self.config.learning_rate * factor
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):  # updated in place: a CUDA graph holds this tensor
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def _update_average(self) -> None:
        """Update the moving average of the generator's weights."""
        if self.config.ema:
            slow, fast = ([p.data for p in g.parameters()] for g in (self.average, self.model.generator))
            with torch.no_grad():
                torch._foreach_lerp_(slow, fast, 1 - self.config.ema)

    def finished_model(self) -> Model:
        """Return a copy of the model for use, with the averaged generator if `ema` is set."""
        model = self.model
        generator = self.average if self.config.ema else model.generator
        networks: dict[str, Any] = deepcopy({**model.networks, "generator": generator})
        return replace(model, card=dict(model.card), **networks).eval()

    def state(self) -> dict[str, Tensor]:
        """Return the full training state, as named tensors."""
        state = self.model.state_dict()
        state |= {f"average.{k}": t for k, t in self.average.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                state |= {f"optimiser.{name}.{index}.{key}": t for key, t in values.items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `state`."""
        self.recording = None  # it refers to the optimisers' old tensors
        modules: dict[str, nn.Module] = {**self.networks, "average": self.average}
        for name, module in modules.items():
            module.load_state_dict(_part(state, f"{name}."))
        for name, optimiser in self.optimisers.items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _part(state, f"optimiser.{name}.").items():
                index, what = key.split(".")
                values.setdefault(int(index), {})[what] = tensor
            optimiser.load_state_dict(
                {"state": values, "param_groups": optimiser.state_dict()["param_groups"]}
            )


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
