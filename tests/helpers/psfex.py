"""PSF models in the format of PSFEx."""

from pathlib import Path

import numpy as np
from astropy.io import fits


def write_psfex(
    path: Path,
    planes: np.ndarray,
    degree: int,
    *,
    names: tuple[str, str] = ("X_IMAGE", "Y_IMAGE"),
    step: float = 0.5,
    zero: float = 1000.0,
    scale: float = 900.0,
) -> None:
    """Write the terms, ``(T, h, w)``, of a polynomial in x and y; the scale of y is twice that of x."""
    terms, height, width = planes.shape
    size = f"{planes.size}E"
    column = fits.Column("PSF_MASK", format=size, dim=f"({width},{height},{terms})", array=planes[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update({"PSF_SAMP": step, "POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": degree})
    table.header.update({"PSFNAXIS": 3, "PSFAXIS1": width, "PSFAXIS2": height, "PSFAXIS3": terms})
    for number, name in enumerate(names, 1):
        place = {"POLNAME": name, "POLGRP": 1, "POLZERO": zero, "POLSCAL": scale * number}
        table.header.update({f"{key}{number}": value for key, value in place.items()})
    table.writeto(path)
