"""The eight symmetries of the square, under which the distribution of galaxy images is invariant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NUM_SYMMETRIES = 8


def symmetry(images: Tensor, number: int) -> Tensor:
    """Rotate images, ``(N, B, H, H)``, by ``number % 4`` right angles; from 4 on, mirror columns too."""
    turned = images.rot90(number % 4, (2, 3))
    return turned.flip(3) if number >= NUM_SYMMETRIES // 2 else turned
