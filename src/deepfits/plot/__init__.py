"""Figures of galaxies, fits and redshifts, on your own axes.

Each function takes arrays and matplotlib axes (or a figure or subfigure, if it needs several axes), which it
creates if none are given. The report uses the same functions.

    features = deepfits.read_features("run/features-both")
    deepfits.plot.latent_map(features["latent"], colour=features["chi2"])
"""

from deepfits.pictures import colour_composite, noise_per_band, significance
from deepfits.plot.curves import (
    METRICS,
    chi2_by_signal,
    chi2_histogram,
    error_curve,
    label_curves,
    latent_map,
    losses,
    magnitudes,
    pit,
    scatter,
    scatter_with_difference,
)
from deepfits.plot.pictures import composite, contact_sheet, reconstructions, residuals, tiles

__all__ = [
    "METRICS", "chi2_by_signal", "chi2_histogram", "colour_composite", "composite", "contact_sheet",
    "error_curve", "label_curves", "latent_map", "losses", "magnitudes", "noise_per_band", "pit",
    "reconstructions", "residuals", "scatter", "scatter_with_difference", "significance", "tiles",
]  # fmt: skip
