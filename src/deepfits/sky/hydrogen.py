"""Mean absorption by intergalactic hydrogen, after Inoue et al. (2014).

Shapes: W wavelengths. Wavelengths are in the observed frame, in Ångström.

The optical depth includes the Lyman α forest (LAF) and damped systems (DLA), in the Lyman series (their
equations 20 to 22 and Table 2) and in the Lyman continuum (equations 25 to 29).
"""

import numpy as np

LYMAN_LIMIT = 911.753

# Table 2 of the paper: strength of each line from Lyman α on (j = 2 to 40), below the first redshift break.
# The coefficients above the breaks follow from continuity.
_FOREST = (
    "1.690e-2 4.692e-3 2.239e-3 1.319e-3 8.707e-4 6.178e-4 4.609e-4 3.569e-4 2.843e-4 2.318e-4 "
    "1.923e-4 1.622e-4 1.385e-4 1.196e-4 1.043e-4 9.174e-5 8.128e-5 7.251e-5 6.505e-5 5.868e-5 "
    "5.319e-5 4.843e-5 4.427e-5 4.063e-5 3.738e-5 3.454e-5 3.199e-5 2.971e-5 2.766e-5 2.582e-5 "
    "2.415e-5 2.263e-5 2.126e-5 2.000e-5 1.885e-5 1.779e-5 1.682e-5 1.593e-5 1.510e-5"
)
_DAMPED = (
    "1.617e-4 1.545e-4 1.498e-4 1.460e-4 1.429e-4 1.402e-4 1.377e-4 1.355e-4 1.335e-4 1.316e-4 "
    "1.298e-4 1.281e-4 1.265e-4 1.250e-4 1.236e-4 1.222e-4 1.209e-4 1.197e-4 1.185e-4 1.173e-4 "
    "1.162e-4 1.151e-4 1.140e-4 1.130e-4 1.120e-4 1.110e-4 1.101e-4 1.091e-4 1.082e-4 1.073e-4 "
    "1.065e-4 1.056e-4 1.048e-4 1.040e-4 1.032e-4 1.024e-4 1.017e-4 1.009e-4 1.002e-4"
)
_LEVEL = np.arange(2, 41)
LINES = LYMAN_LIMIT / (1 - 1.0 / _LEVEL**2)
_FOREST_STRENGTH = np.array(_FOREST.split(), dtype=float)
_DAMPED_STRENGTH = np.array(_DAMPED.split(), dtype=float)


def transmission(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    """Return the mean transmission of intergalactic hydrogen, ``(W,)``, for a source at some redshift.

    Observed wavelengths, ``(W,)``, are in Å. Below 912 Å, the Lyman limit at redshift 0, it is 0.
    """
    wavelength = np.asarray(wavelength, dtype=float)
    out = np.ones_like(wavelength)
    is_blue = wavelength < LINES[0] * (1 + redshift)
    blue = wavelength[is_blue]
    depth = _series(blue, redshift) + _continuum(blue, redshift)
    out[is_blue] = np.where(blue < LYMAN_LIMIT, 0.0, np.exp(-depth))
    return out


def _series(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    """Return the optical depth of the Lyman series, ``(W,)`` (equations 20 to 22)."""
    ratio = wavelength / LINES[:, None]  # (lines, W): 1 + redshift at which the photon passes the line
    met = (ratio > 1) & (ratio < 1 + redshift)
    forest = ratio**1.2
    forest = np.where(ratio > 2.2, 2.2 ** (1.2 - 3.7) * ratio**3.7, forest)
    forest = np.where(ratio > 5.7, 2.2 ** (1.2 - 3.7) * 5.7 ** (3.7 - 5.5) * ratio**5.5, forest)
    damped = np.where(ratio < 3.0, ratio**2, ratio**3 / 3.0)
    depth = _FOREST_STRENGTH[:, None] * forest + _DAMPED_STRENGTH[:, None] * damped
    return (depth * met).sum(axis=0)


def _continuum(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    """Return the optical depth of the Lyman continuum, ``(W,)`` (equations 25 to 29)."""
    x = np.maximum(wavelength / LYMAN_LIMIT, 1e-3)
    zp = 1 + redshift
    if redshift < 1.2:
        forest = 0.325 * (x**1.2 - zp**-0.9 * x**2.1)
    elif redshift < 4.7:
        low = 2.55e-2 * zp**1.6 * x**2.1 + 0.325 * x**1.2 - 0.250 * x**2.1
        forest = np.where(x < 2.2, low, 2.55e-2 * (zp**1.6 * x**2.1 - x**3.7))
    else:
        low = 5.22e-4 * zp**3.4 * x**2.1 + 0.325 * x**1.2 - 3.14e-2 * x**2.1
        middle = 5.22e-4 * zp**3.4 * x**2.1 + 0.218 * x**2.1 - 2.55e-2 * x**3.7
        forest = np.where(x < 2.2, low, middle)
        forest = np.where(x < 5.7, forest, 5.22e-4 * (zp**3.4 * x**2.1 - x**5.5))
    if redshift < 2.0:
        damped = 0.211 * zp**2 - 7.66e-2 * zp**2.3 * x**-0.3 - 0.135 * x**2
    else:
        high = 4.7e-2 * zp**3 - 1.78e-2 * zp**3.3 * x**-0.3
        damped = np.where(x < 3, 0.634 + high - 0.135 * x**2 - 0.291 * x**-0.3, high - 2.92e-2 * x**3)
    return np.where(x < zp, np.maximum(forest + damped, 0.0), 0.0)
