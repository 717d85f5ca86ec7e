"""Random starts that depend on the object's identity alone, not on its shard, batch or order.

Shapes: N objects, S starts, L latent dimensions.
"""

from __future__ import annotations

import hashlib

import numpy as np

from deepfits.splits import as_text


def random_starts(
    object_id: np.ndarray, num_latents: int, *, seed: int = 0, num_starts: int = 1
) -> np.ndarray:
    """Draw unit-normal latents, ``(S, N, L)`` float32, that depend on identity and seed alone.

    Examples
    --------
    >>> both, single = random_starts(np.array([3, 8]), 4), random_starts(np.array([8]), 4)
    >>> bool((both[0, 1] == single[0, 0]).all())
    True
    """
    out = np.empty((num_starts, len(object_id), num_latents), dtype=np.float32)
    for row, text in enumerate(as_text(object_id)):
        digest = hashlib.blake2b(f"start:{seed}:{text}".encode(), digest_size=16).digest()
        draws = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
        out[:, row] = draws.standard_normal((num_starts, num_latents), dtype=np.float32)
    return out
