"""How the objects of a store were observed.

Shapes: N objects, B bands, K Gaussians of a PSF.
"""

import numpy as np
import torch

from deepfits.errors import InputError
from deepfits.gaussian_psf import psf_or_moffat
from deepfits.observation import SceneGrid, Sight, all_above_reference, centre_shift
from deepfits.survey.store import Cutouts, StoreInfo


def sight_of(cutouts: Cutouts, info: StoreInfo, grid: SceneGrid) -> Sight:
    """Describe how cutouts were observed, for scenes on a grid: PSFs from the store, positions from x and y.

    Raise `InputError` if the PSF of a band with data is unknown or too sharp.
    """
    used = np.asarray((cutouts.weight > 0).any(axis=(2, 3)))
    psf = psf_or_moffat(cutouts.psf, info.fwhm_arcsec, len(cutouts))
    columns = cutouts.catalogue
    shift = np.zeros((len(cutouts), 2), dtype=np.float32)
    if {"x", "y"} <= columns.keys():
        shift = centre_shift(columns["x"], columns["y"], info.size)
    return Sight(
        grid=grid,
        psf=torch.from_numpy(all_above_reference(psf, grid, info.bands, used)),
        shift_pixels=torch.from_numpy(shift),
        size=info.size,
        pixel_scale_arcsec=info.pixel_scale_arcsec,
    )


def require_psf(psf: np.ndarray | None, used: np.ndarray, info: StoreInfo, grid: SceneGrid) -> None:
    """Refuse objects (or fields) of which not one can be described, before any is fitted.

    `psf`, ``(N, B, K, 2)`` or None, is as in a store; `used`, ``(N, B)`` bool, says which bands have data.
    """
    reason = None
    for of_object, is_used in zip(psf_or_moffat(psf, info.fwhm_arcsec, len(used)), used, strict=True):
        try:
            all_above_reference(of_object[None], grid, info.bands, is_used[None])
        except InputError as error:
            reason = reason or error
        else:
            return
    if reason is not None:
        raise reason
