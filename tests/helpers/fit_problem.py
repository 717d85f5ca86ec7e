"""A smooth decoder and noisy images drawn by it; `L` latent dimensions, `B` bands, `S` pixels a side."""

import torch
from torch import nn

L, B, S = 6, 3, 8


class Decoder(nn.Module):
    """A smooth decoder that is not one of the package's generators."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Parameter(torch.randn(L, 40, generator=generator) / L**0.5, requires_grad=False)
        self.out = nn.Parameter(
            torch.randn(40, B * S * S, generator=generator) / 40**0.5, requires_grad=False
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.softplus(latent @ self.hidden)
        return (hidden @ self.out).view(-1, B, S, S)


def make_problem(number: int = 12, *, noise: float = 0.05, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(number, L, generator=generator)
    image = Decoder()(truth) + noise * torch.randn(number, B, S, S, generator=generator)
    weight = torch.rand(number, B, S, S, generator=generator) + 0.5
    start = truth + 0.5 * torch.randn(number, L, generator=generator)
    return truth, image, weight / noise**2, start
