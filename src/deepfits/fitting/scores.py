"""Anomaly scores that do not depend on brightness.

Shapes: N objects, L latent dimensions.

χ² grows with brightness: a model that is wrong by a percent is wrong by many sigma for a bright galaxy. So
each statistic is compared with that of objects of similar brightness before the statistics are combined.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deepfits.photometry import bands_of, robust_scatter

NUM_NEIGHBOURS = 201
COMPARED_STRENGTH = 16.0
"""Strength of the prior for comparing galaxies: real ones are nearer to the origin than prior draws."""


def latent_distance(latent: np.ndarray) -> np.ndarray:
    """Return the root mean square of latents, 1 for a typical draw of the prior: ``(N, L)`` to ``(N,)``.

    Examples
    --------
    >>> float(latent_distance(np.ones((1, 64)))[0])
    1.0
    """
    return np.sqrt(np.mean(np.square(latent, dtype=np.float64), axis=1))


def as_compared(latent: np.ndarray, covariance: np.ndarray, prior_strength: float) -> np.ndarray:
    """Return the latents of fits under a narrower prior, which suppresses what the data hardly constrain.

    Near its maximum z, a posterior of covariance C is normal. If the strength of the prior is λ instead of
    λ₀, the maximum is at (1 + (λ − λ₀) C)⁻¹ z, here with λ = `COMPARED_STRENGTH`. Latents, ``(N, L)``, are
    returned unchanged if their covariance, ``(N, L, L)``, is not finite, or if they were found without a
    prior or with a narrower one.

    Examples
    --------
    >>> as_compared(np.ones((1, 1)), np.full((1, 1, 1), 1 / 15), 1.0).round(6).tolist()
    [[0.5]]
    """
    if not 0 < prior_strength < COMPARED_STRENGTH:
        return latent
    covariance = np.where(np.isfinite(covariance).all((1, 2), keepdims=True), covariance, 0)
    narrowing = np.eye(latent.shape[1]) + (COMPARED_STRENGTH - prior_strength) * covariance
    return np.linalg.solve(narrowing, latent[..., None].astype(np.float64))[..., 0].astype(latent.dtype)


def robust_z_at_fixed_brightness(
    values: np.ndarray, brightness: np.ndarray, num_neighbours: int = NUM_NEIGHBOURS
) -> np.ndarray:
    """Return robust z-scores, ``(N,)``, of values relative to objects of similar brightness.

    That is (value − median) / (1.4826 × median absolute deviation) over the `num_neighbours` objects nearest
    in brightness; NaN where value or brightness is not finite.
    """
    out = np.full(len(values), np.nan)
    good = np.flatnonzero(np.isfinite(values) & np.isfinite(brightness))
    order = good[np.argsort(brightness[good], kind="stable")]
    width = min(num_neighbours, len(order))
    if width < 3:
        return out
    sorted_values = np.asarray(values, dtype=np.float64)[order]
    windows = np.lib.stride_tricks.sliding_window_view(sorted_values, width)
    median = np.median(windows, axis=1)
    scatter = robust_scatter(windows)
    nearest = np.clip(np.arange(len(order)) - width // 2, 0, len(windows) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[order] = (sorted_values - median[nearest]) / scatter[nearest]
    return out


def anomaly_score(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return an anomaly score per object, ``(N,)``, high for unusual ones, that does not follow brightness.

    It is the largest `robust_z_at_fixed_brightness` of three statistics: the logarithm of χ² per degree of
    freedom, the latent's distance from the origin, and minus the discriminator's score. Columns are those of
    features: ``chi2``, ``dof``, ``latent``, the model fluxes, and ``discriminator_score`` if it exists. NaN
    for objects without a fit.
    """
    fluxes = [columns[f"flux_model_{band}"] for band in bands_of(columns)]
    with np.errstate(divide="ignore", invalid="ignore"):
        brightness = np.log(np.sum(fluxes, axis=0))
        scores = [
            robust_z_at_fixed_brightness(np.log(columns["chi2"] / columns["dof"]), brightness),
            robust_z_at_fixed_brightness(latent_distance(columns["latent"]), brightness),
        ]
    if "discriminator_score" in columns:
        scores.append(robust_z_at_fixed_brightness(-columns["discriminator_score"], brightness))
    return np.max(scores, axis=0)
