"""Compute engines: one device, or several through Lightning Fabric.

Several processes share each step: every process makes the random draws of the whole batch and works on its
part of it, and gradients are averaged before each optimiser step. The result therefore equals that of a
single process with the same batch, up to rounding.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from deepfits.tensors import require_device
from deepfits.training.settings import EngineSettings


class Engine:
    """A single process on one device, where averaging over processes does nothing."""

    rank, num_processes = 0, 1

    def __init__(self, config: EngineSettings) -> None:
        self.config = config
        self.device = torch.device(require_device(config.device))
        self.can_record = self.device.type == "cuda" and not config.compile
        if config.precision == "tf32":
            torch.set_float32_matmul_precision("high")

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in the configured memory format."""
        network.to(self.device)
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def wrap(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network as a function that computes in the chosen precision and returns float32."""
        run = torch.compile(network) if self.config.compile else network
        if self.config.precision != "bf16":
            return run

        def in_bf16(x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                return run(x).float()

        return in_bf16

    def part(self, whole: Tensor) -> Tensor:
        """Return this process's share of a tensor with one row per object."""
        part = whole[self.rank :: self.num_processes]
        if self.config.channels_last and part.ndim == 4:
            part = part.contiguous(memory_format=torch.channels_last)
        return part

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over all processes."""

    def average(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        return value


class FabricEngine(Engine):
    """Several processes, on one or several nodes, through Lightning Fabric."""

    def __init__(self, config: EngineSettings) -> None:
        super().__init__(config)
        from lightning.fabric import Fabric

        accelerator = "cpu" if self.device.type == "cpu" else "cuda"
        self.fabric = Fabric(
            accelerator=accelerator, devices=config.num_devices, num_nodes=config.num_nodes, strategy="ddp"
        )
        self.fabric.launch()
        self.device, self.can_record = self.fabric.device, False
        self.rank, self.num_processes = self.fabric.global_rank, self.fabric.world_size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over all processes, in a single all-reduce."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.average(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        averaged = self.fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(averaged, Tensor)
        return averaged


def make_engine(config: EngineSettings) -> Engine:
    """Return the engine for a configuration; Fabric is imported only if there are several devices."""
    return FabricEngine(config) if config.num_devices * config.num_nodes > 1 else Engine(config)
