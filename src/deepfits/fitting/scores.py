"""The length of latents, and latents shrunk for comparing galaxies.

Shapes: N objects, L latent dimensions.
"""

from __future__ import annotations

import numpy as np

SHRINKAGE_STRENGTH = 16.0
"""Strength of the prior for comparing galaxies: real ones are nearer to the origin than prior draws."""


def latent_distance(latent: np.ndarray) -> np.ndarray:
    """Return the root mean square of latents, 1 for a typical draw of the prior: ``(N, L)`` to ``(N,)``.

    Examples
    --------
    >>> float(latent_distance(np.ones((1, 64)))[0])
    1.0
    """
    return np.sqrt(np.mean(np.square(latent, dtype=np.float64), axis=1))


def shrink_latents(latent: np.ndarray, covariance: np.ndarray, prior_strength: float) -> np.ndarray:
    """Return the latents of fits under a narrower prior, which suppresses what the data hardly constrain.

    Near its maximum z, a posterior of covariance C is normal. If the strength of the prior is λ instead of
    λ₀, the maximum is at (1 + (λ − λ₀) C)⁻¹ z, here with λ = `SHRINKAGE_STRENGTH`. Latents, ``(N, L)``, are
    returned unchanged if their covariance, ``(N, L, L)``, is not finite, or if they were found without a
    prior or with a narrower one.

    Examples
    --------
    >>> shrink_latents(np.ones((1, 1)), np.full((1, 1, 1), 1 / 15), 1.0).round(6).tolist()
    [[0.5]]
    """
    if not 0 < prior_strength < SHRINKAGE_STRENGTH:
        return latent
    covariance = np.where(np.isfinite(covariance).all((1, 2), keepdims=True), covariance, 0)
    narrowing = np.eye(latent.shape[1]) + (SHRINKAGE_STRENGTH - prior_strength) * covariance
    return np.linalg.solve(narrowing, latent[..., None].astype(np.float64))[..., 0].astype(latent.dtype)
