"""Errors of PSF-matched fluxes that are due to errors of the PSF, measured on a field's stars."""

from collections.abc import Sequence

import numpy as np

from deepfits.gaussian_psf import expand_image
from deepfits.photometry import apertures, circular_aperture, robust_scatter
from deepfits.survey.psf_variation import FEW, psf_at
from deepfits.survey.seeing import edge_noise, moffat_fwhm, with_wings

CIRCLE = 2.5  # radius of the circle to which matched fluxes are compared, in units of the FWHM
MOST_NOISE = 0.03  # stars whose fluxes are compared with a larger relative error from noise are left out
MOST_COMPARED = 60
"""Maximum number of stars, those with the least noise: undetected neighbours contribute to fainter ones."""
OF_A_MEDIAN = np.sqrt(np.pi / 2)  # error of a median in units of that of a mean


def matched_flux_error(
    stamps: np.ndarray,
    star: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    log_width: Sequence[Sequence[float]] | None,
    shape: Sequence[int],
) -> float | None:
    """Measure the relative error of PSF-matched fluxes (`deepfits.photometry.matched_gaussians`) of stars.

    It is the scatter of the ratio of the matched fluxes, with the PSFs by which the field is measured, and
    the fluxes in circles of 2.5 FWHM, without what noise and the subtraction of the background contribute;
    None with fewer than 25 stars that are bright enough. The `stamps`, ``(N, S, S)``, are centred and
    background-subtracted, their positions 0-based pixels; `star`, ``(S, S)``, is the image from which the
    field's PSF is made, and `log_width` its variation (`deepfits.survey.psf_variation.width_over_field`).
    """
    if len(stamps) < FEW:
        return None
    side = stamps.shape[1]
    psf = psf_at(expand_image(with_wings(star), 1.0).astype(float), log_width, x, y, shape)
    matched = apertures(side, 1.0, psf[:, None], ())[-1][:, 0]
    circle = circular_aperture(side, min(CIRCLE * moffat_fwhm(star), side / 2 - 1))
    flux, reference = (np.einsum("nyx,nyx->n", stamps, w) for w in np.broadcast_arrays(matched, circle))
    difference = matched / np.median(flux) - circle / np.median(reference)
    of_background = OF_A_MEDIAN * difference.sum((1, 2)) / np.sqrt(4 * side)
    noise = edge_noise(stamps) * np.hypot(np.linalg.norm(difference, axis=(1, 2)), of_background)
    noise[reference <= 0] = np.inf
    use = np.argsort(noise)[: min(MOST_COMPARED, int((noise < MOST_NOISE).sum()))]
    if len(use) < FEW:
        return None
    ratio = flux[use] / reference[use]
    scatter = robust_scatter(ratio) / np.median(ratio)
    return float(np.sqrt(max(scatter**2 - np.median(noise[use] ** 2), 0.0)))
