"""The generator of M19 §2.1 with its linear maps multiplied out: the same images in less time.

Shapes: N objects, L latent dimensions, C channels, B bands, H, W pixels.

Three shortcuts, all exact up to rounding:

1. Between the latent and the first ReLU there are only a linear layer and a transposed convolution, which
together are one affine map of the latent.
2. The main path and the pass-through of a block read the same input: they are one convolution with twice the
channels.
3. In a fit the weights are constants, so the backward pass consists of the transposed maps alone.

Any module with the structure of `deepfits.models.networks.Generator` can be folded (attributes ``first``,
``blocks`` of ``main`` and ``pass_through``, ``last``), whatever its class.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfits.fitting.rendering import Differentiated, Pullback, Renderer

FEW_CHANNELS = 8
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def can_fold(module: Any) -> bool:
    """Return whether a module has the structure that `FoldedGenerator` needs."""
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or len(blocks) == 0:
        return False
    ups = [getattr(b, name, None) for b in blocks for name in ("main", "pass_through")]
    ups.append(getattr(module, "last", None))
    is_plain = all(isinstance(u, nn.ConvTranspose2d) and u.bias is not None and u.groups == 1 for u in ups)
    return is_plain and isinstance(getattr(module, "first", None), nn.Linear)


class FoldedGenerator:
    """A renderer (`deepfits.fitting.rendering.Renderer`) of the same images as a generator.

    The generator's weights are copied: later training has no effect here.
    """

    def __init__(self, generator: nn.Module) -> None:
        if not can_fold(generator):
            raise ValueError(
                f"{type(generator).__name__} lacks the structure of M19's generator; fit it unfolded"
            )
        dtype: torch.dtype = generator.first.weight.dtype  # type: ignore[union-attr,assignment]
        with torch.no_grad():
            offset, matrix = _fold_first(generator)
        self.channels = offset.shape[0] // 2
        self.side = offset.shape[1]
        # In the order (H, W, C), so that activations are channels-last, in which convolutions are fastest.
        self.matrix = matrix.permute(0, 2, 3, 1).flatten(1).to(dtype).contiguous()  # (L, H·W·2C)
        self.offset = offset.permute(1, 2, 0).flatten().to(dtype).contiguous()
        blocks = list(generator.blocks)[1:]  # type: ignore[arg-type]
        self.layers = [*(_Up(b.main, b.pass_through) for b in blocks), _Up(generator.last)]  # type: ignore[arg-type]
        self.can_record = True

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the images, ``(N, B, H, W)``."""
        return self._forward(latent)[0]

    def with_pullback(self, latent: Tensor) -> tuple[Tensor, Pullback]:
        """Return the images and their pullback, a hand-written backward pass."""
        image, mains = self._forward(latent)

        def pullback(cotangent: Tensor) -> Tensor:
            with torch.no_grad():
                g = cotangent
                for layer, main in zip(reversed(self.layers), reversed(mains), strict=True):
                    g = layer.transpose(g)
                    # Through the ReLU in a third of the time of g * (main > 0).
                    g = torch.cat((torch.ops.aten.threshold_backward(g, main, 0), g), dim=1)  # (N, 2C, H, W)
                return g.permute(0, 2, 3, 1).flatten(1) @ self.matrix.T

        return image, pullback

    def jacobian(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and their derivatives along all latent directions, ``(N, L, B, H, W)``."""
        image, mains = self._forward(latent)
        number, length = latent.shape
        with torch.no_grad():
            t = self._view(self.matrix)  # (L, 2C, H, W): the same tangents for every object
            for layer, main in zip(self.layers, mains, strict=True):
                is_on = (main > 0).to(t.dtype).permute(0, 2, 3, 1)[:, None]
                half, t = main.shape[1], t.permute(0, 2, 3, 1).unflatten(0, (-1, length))
                t = torch.addcmul(t[..., half:], t[..., :half], is_on)  # (N, L, H, W, C): channels last
                t = layer(t.flatten(0, 1).permute(0, 3, 1, 2), with_bias=False)
        return image, t.contiguous().unflatten(0, (number, length))  # contiguous for sums over pixels

    def _view(self, flat: Tensor) -> Tensor:
        return flat.unflatten(1, (self.side, self.side, 2 * self.channels)).permute(0, 3, 1, 2)

    def _forward(self, latent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the images, and what the ReLU of each block gets."""
        with torch.no_grad():
            pre = self._view(torch.addmm(self.offset, latent, self.matrix))
            mains = []
            for layer in self.layers:
                half = pre.shape[1] // 2
                mains.append(pre[:, :half])
                pre = layer(torch.relu(mains[-1]) + pre[:, half:])
        return pre, mains


class _Up:
    """A transposed convolution and its transpose; several of the same input are one with all their channels.

    If it has few output channels, as a generator's last layer does, it is computed as one convolution with
    2×2 kernels, whose channels are the four output pixels of each input pixel: CPUs are slow at transposed
    convolutions with few channels (a fifth of the usual rate).
    """

    def __init__(self, *merged: nn.ConvTranspose2d, dtype: torch.dtype | None = None) -> None:
        like = merged[0]
        weight = torch.cat([c.weight.detach() for c in merged], dim=1).to(dtype or like.weight.dtype)
        self.weight = weight.contiguous(memory_format=torch.channels_last)  # (C, 2C', k, k)
        self.bias = torch.cat([c.bias.detach() for c in merged if c.bias is not None]).to(weight.dtype)
        self.geometry: dict[str, Any] = {"stride": like.stride, "padding": like.padding}
        self.output_padding = like.output_padding
        doubles = (like.kernel_size, like.stride, like.padding) == ((4, 4), (2, 2), (1, 1))
        is_plain = like.output_padding == (0, 0) and like.dilation == (1, 1)
        self.quarters: Tensor | None = None
        if doubles and is_plain and weight.shape[1] <= FEW_CHANNELS:
            self.quarters = _quarters(weight)

    def __call__(self, x: Tensor, *, with_bias: bool = True) -> Tensor:
        if self.quarters is not None:
            return self._in_quarters(x, with_bias)
        return functional.conv_transpose2d(
            x,
            self.weight,
            self.bias if with_bias else None,
            output_padding=self.output_padding,
            **self.geometry,
        )

    def transpose(self, g: Tensor) -> Tensor:
        """Apply the transposed map (without bias): the backward pass."""
        return functional.conv2d(g, self.weight, **self.geometry)

    def _in_quarters(self, x: Tensor, with_bias: bool) -> Tensor:
        """Compute the four output pixels of each input pixel in one convolution, and interleave them."""
        number, _, height, width = x.shape
        few = self.weight.shape[1]
        quarters = functional.conv2d(x, self.quarters, padding=1).unflatten(1, (4, few))  # type: ignore[arg-type]
        out = torch.empty((number, few, 2 * height, 2 * width), dtype=x.dtype, device=x.device)
        for part, (row, column) in enumerate(QUARTERS):
            out[:, :, row::2, column::2] = quarters[:, part, :, row : row + height, column : column + width]
        return out.add_(self.bias[:, None, None]) if with_bias else out


def _quarters(weight: Tensor) -> Tensor:
    """Return the 2×2 kernels, ``(4·C', C, 2, 2)``, of the four output pixels of each input pixel.

    Output pixel 2i reads inputs i − 1 and i through the rows 3 and 1 of the kernel, output pixel 2i + 1
    inputs i and i + 1 through rows 2 and 0.
    """
    rows = ([3, 1], [2, 0])
    parts = [weight[:, :, rows[p]][:, :, :, rows[q]].transpose(0, 1) for p, q in QUARTERS]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _fold_first(generator: Any) -> tuple[Tensor, Tensor]:
    """Return the affine map from the latent to both paths of the first block, in float64.

    The offset is ``(2C, H, W)``, the matrix ``(L, 2C, H, W)``.
    """
    block, first = generator.blocks[0], generator.first
    up = _Up(block.main, block.pass_through, dtype=torch.float64)
    base = int((first.out_features / block.main.in_channels) ** 0.5)
    shape = (block.main.in_channels, base, base)
    offset = up(first.bias.detach().double().view(1, *shape))[0]
    matrix = up(first.weight.detach().double().T.reshape(-1, *shape), with_bias=False)
    return offset, matrix


def renderer_of(generator: nn.Module) -> Renderer:
    """Return a renderer of a generator's images, in the network's units: folded if it can be."""
    return FoldedGenerator(generator) if can_fold(generator) else Differentiated(generator)
