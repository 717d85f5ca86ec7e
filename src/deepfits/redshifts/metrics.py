"""Metrics of point estimates: those of M19's Table 1, common variants, and bootstrap errors.

Shapes: N objects, R bootstrap resamples.

M19 calls σ_MAD a mean absolute deviation and quotes η of 0.39 to 0.45, which is incompatible with its σ_MAD
under any common definition of η as a fraction. Therefore every table includes the definitions (`DEFINITIONS`)
and the common variants.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import SIGMA_PER_MAD

DEFINITIONS = {
    "r2": "1 − Σ(z_phot − z_spec)² / Σ(z_spec − mean z_spec)²",
    "bias": "mean of Δz, with Δz = (z_phot − z_spec) / (1 + z_spec)",
    "bias_median": "median of Δz (the bias of RAIL)",
    "sigma_mad": "1.4826 × median of |Δz − median Δz|",
    "eta": "fraction of objects with |Δz| > 5 σ_MAD (M19)",
    "eta_15": "fraction of objects with |Δz| > 0.15",
    "eta_05": "fraction of objects with |Δz| > 0.05",
    "rmse": "square root of the mean of (z_phot − z_spec)²",
    "sigma_iqr": "interquartile range of Δz / 1.349 (RAIL)",
    "eta_rail": "fraction of objects with |Δz| > max(0.06, 3 σ_IQR) (RAIL)",
}
"""Definition of each metric that `point_metrics` returns."""
PROPERTY_DEFINITIONS = {
    "r2": "1 − Σδ² / Σ(true − mean true)², with δ = predicted − true",
    "bias": "mean of δ",
    "bias_median": "median of δ",
    "sigma_mad": "1.4826 × median of |δ − median δ|",
    "eta": "fraction of objects with |δ| > 5 σ_MAD",
    "rmse": "square root of the mean of δ²",
    "sigma_iqr": "interquartile range of δ / 1.349",
}
"""Definition of each metric for targets other than redshifts, whose errors are not divided by 1 + z."""

MIN_OBJECTS, MIN_IN_BIN = 2, 20


def delta_z(z_phot: np.ndarray, z_spec: np.ndarray, *, is_redshift: bool = True) -> np.ndarray:
    """Return Δz = (z_phot − z_spec) / (1 + z_spec), ``(N,)``, or the difference for other targets."""
    return (z_phot - z_spec) / (1.0 + z_spec if is_redshift else 1.0)


def point_metrics(z_phot: np.ndarray, z_spec: np.ndarray, *, is_redshift: bool = True) -> dict[str, float]:
    """Return every metric of `DEFINITIONS` for point estimates.

    Estimates and redshifts are ``(N,)``. For targets other than redshifts, the metrics are those of
    `PROPERTY_DEFINITIONS`.

    Examples
    --------
    >>> z = np.array([0.5, 1.0, 1.5])
    >>> point_metrics(z, z)["r2"], point_metrics(z, z)["sigma_mad"]
    (1.0, 0.0)
    """
    z_phot, z_spec = _checked(z_phot, z_spec)
    values = _metrics(z_phot[None], z_spec[None], is_redshift)
    return {name: float(value[0]) for name, value in values.items()}


def _checked(z_phot: np.ndarray, z_spec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z_phot, z_spec = np.asarray(z_phot, dtype=np.float64), np.asarray(z_spec, dtype=np.float64)
    if z_phot.shape != z_spec.shape or z_phot.ndim != 1:
        raise InputError(f"metrics: {z_phot.shape} estimates for {z_spec.shape} redshifts")
    if len(z_spec) < MIN_OBJECTS:
        raise InputError(f"metrics: {len(z_spec)} objects; at least {MIN_OBJECTS} are needed")
    if not (np.isfinite(z_phot).all() and np.isfinite(z_spec).all()):
        raise InputError(
            "metrics: an estimate or a redshift is not finite; leave such objects out and report their number"
        )
    return z_phot, z_spec


def _metrics(z_phot: np.ndarray, z_spec: np.ndarray, is_redshift: bool) -> dict[str, np.ndarray]:
    """Compute all metrics along the last axis: ``(R, N)`` to ``(R,)`` each."""
    error = z_phot - z_spec
    dz = delta_z(z_phot, z_spec, is_redshift=is_redshift)
    variance = ((z_spec - z_spec.mean(-1, keepdims=True)) ** 2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variance > 0, 1.0 - (error**2).sum(-1) / variance, np.nan)
    q25, q50, q75 = np.quantile(dz, [0.25, 0.5, 0.75], axis=-1)
    sigma_mad = SIGMA_PER_MAD * np.median(np.abs(dz - q50[..., None]), axis=-1)
    sigma_iqr = (q75 - q25) / 1.349
    size = np.abs(dz)
    metrics = {
        "r2": r2,
        "bias": dz.mean(-1),
        "bias_median": q50,
        "sigma_mad": sigma_mad,
        "eta": (size > 5.0 * sigma_mad[..., None]).mean(-1),
        "eta_15": (size > 0.15).mean(-1),
        "eta_05": (size > 0.05).mean(-1),
        "rmse": np.sqrt((error**2).mean(-1)),
        "sigma_iqr": sigma_iqr,
        "eta_rail": (size > np.maximum(0.06, 3.0 * sigma_iqr)[..., None]).mean(-1),
    }
    return {name: metrics[name] for name in (DEFINITIONS if is_redshift else PROPERTY_DEFINITIONS)}


def measured(
    z_phot: np.ndarray, z_spec: np.ndarray, *, is_redshift: bool = True, num_resamples: int = 300
) -> dict[str, dict[str, float | None]]:
    """Return every metric with its error from bootstrapping the objects; see `with_errors`.

    The resamples depend only on the number of objects, so that all methods in a table are compared on the
    same resamples.
    """
    z_phot, z_spec = _checked(z_phot, z_spec)
    values = point_metrics(z_phot, z_spec, is_redshift=is_redshift)
    generator, number = np.random.default_rng(0), len(z_spec)
    rows_at_once = max(1, 2_000_000 // number)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, num_resamples, rows_at_once):
        picked = generator.integers(number, size=(min(rows_at_once, num_resamples - start), number))
        parts.append(_metrics(z_phot[picked], z_spec[picked], is_redshift))
    return with_errors(values, {name: np.concatenate([part[name] for part in parts]) for name in values})


def with_errors(
    values: Mapping[str, float], resampled: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | None]]:
    """Return ``{metric: {"value": ..., "error": ...}}`` for JSON, with None in place of NaN.

    Errors are standard deviations of the values in bootstrap resamples, ``(R,)`` each, that are finite.
    """
    known = {name: drawn[np.isfinite(drawn)] for name, drawn in resampled.items()}
    return {
        name: {
            "value": float(value) if np.isfinite(value) else None,
            "error": float(known[name].std()) if known[name].size > 1 else None,
        }
        for name, value in values.items()
    }


def binned(
    z_phot: np.ndarray,
    z_spec: np.ndarray,
    by: np.ndarray,
    edges: np.ndarray,
    *,
    metrics: Callable[..., dict[str, Any]] = measured,
) -> list[dict[str, Any]]:
    """Compute metrics in bins of `by`, such as a magnitude or the redshift: one entry per bin.

    `by` is ``(N,)``; objects whose value is not finite are in no bin. A bin includes its lower but not its
    upper edge. Bins of fewer than `MIN_IN_BIN` objects have a count but no metrics.
    """
    out = []
    for low, high in itertools.pairwise(edges):
        inside = (by >= low) & (by < high)
        entry: dict[str, Any] = {"low": float(low), "high": float(high), "num": int(inside.sum())}
        if entry["num"] >= MIN_IN_BIN:
            entry["metrics"] = metrics(z_phot[inside], z_spec[inside])
        out.append(entry)
    return out
