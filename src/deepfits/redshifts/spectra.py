"""Galaxy templates and their fluxes through filters, for template fitting.

Shapes: T templates, W wavelengths, Z redshifts, B bands. Wavelengths are in Ångström.

This code is deliberately independent of the spectra of the simulated sky: a real survey does not know the
true templates, dust and absorption exactly, but a baseline sharing the simulation's code would. The templates
are the four galaxies of Coleman, Wu & Weedman (1980) from GalSim and two bluer ones, with linear
interpolation between neighbours, dust after Calzetti et al. (2000) for types from Sbc on, and intergalactic
hydrogen after Madau (1995).
"""

from pathlib import Path

import numpy as np

from deepfits.files import cached_by_files
from deepfits.passbands import read_curve

FILTERS = {
    "u": "cfht_megacam-u",
    "ustar": "cfht_megacam-ustar",
    "g": "hsc2017-g",
    "r": "hsc2017-r",
    "i": "hsc2017-i",
    "z": "hsc2017-z",
    "y": "hsc2017-y",
}
"""speclite names of the filters of CLAUDS and HSC."""
NUM_STEPS = 3  # interpolation steps from each of the six basic templates to the next
REDDENINGS = (0.0, 0.1, 0.2, 0.35)
REST_WAVELENGTH = 7700.0
"""Rest wavelength of absolute magnitudes, Ångström: about the i band, which dust affects little."""
_NAMES = ("E", "Sbc", "Scd", "Im")
_SLOPES = (0.6, 1.2)
WAVELENGTH = np.geomspace(300.0, 25000.0, 4000)


def absorption(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    """Return the transmission of intergalactic hydrogen, ``(W,)`` (Madau 1995, ApJ 441, 18).

    Wavelengths are in the observed frame.
    """
    depth = np.zeros_like(wavelength)
    lines = ((1215.67, 3.6e-3), (1025.72, 1.7e-3), (972.54, 1.2e-3), (949.74, 9.3e-4))
    for line, strength in lines:
        is_absorbed = wavelength < line * (1 + redshift)
        depth += np.where(is_absorbed, strength * (wavelength / line) ** 3.46, 0.0)
    emitted, crossed = 1 + redshift, wavelength / 911.75
    is_beyond = crossed < emitted
    crossed = np.minimum(crossed, emitted)
    edge = (
        0.25 * crossed**3 * (emitted**0.46 - crossed**0.46)
        + 9.4 * crossed**1.5 * (emitted**0.18 - crossed**0.18)
        - 0.7 * crossed**3 * (crossed**-1.32 - emitted**-1.32)
        - 0.023 * (emitted**1.68 - crossed**1.68)
    )
    depth += np.where(is_beyond, np.maximum(edge, 0.0), 0.0)
    return np.exp(-depth)


def dust(wavelength: np.ndarray, reddening: float) -> np.ndarray:
    """Return the transmission of dust at rest wavelengths, ``(W,)`` (Calzetti et al. 2000, eq. 2 to 4)."""
    x = 1e4 / np.clip(wavelength, 1200.0, 22000.0)
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    return 10 ** (-0.4 * reddening * np.where(x > 1 / 0.63, blue, red))


def rest_spectra() -> tuple[np.ndarray, np.ndarray]:
    """Return spectra per unit wavelength, ``(T, W)``, and their types, ``(T,)``, from 0 (E) to 5 (bluest)."""
    import galsim  # which has the templates

    folder = Path(galsim.meta_data.share_dir) / "SEDs"
    basis = []
    for name in _NAMES:
        table = np.loadtxt(folder / f"CWW_{name}_ext.sed")
        basis.append(np.interp(WAVELENGTH, table[:, 0], table[:, 1]))
    basis += [basis[-1] * (WAVELENGTH / 5000.0) ** -slope for slope in _SLOPES]
    basis = [row / np.interp(5000.0, WAVELENGTH, row) for row in basis]
    spectra, places = [], []
    for place in np.arange(NUM_STEPS * (len(basis) - 1) + 1) / NUM_STEPS:
        low = min(int(place), len(basis) - 2)
        mixed = basis[low] * (low + 1 - place) + basis[low + 1] * (place - low)
        for reddening in REDDENINGS if place >= 1 else REDDENINGS[:1]:
            spectra.append(mixed * dust(WAVELENGTH, reddening))
            places.append(place)
    return np.array(spectra), np.array(places)


@cached_by_files(maxsize=4)
def template_fluxes(filters: tuple[str, ...], redshifts: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return template fluxes through filters, given by `speclite` names, and the templates' types.

    Fluxes, ``(T, Z, B)``, are per unit frequency, normalised to a mean of 1 over the bands; types, ``(T,)``,
    are those of `rest_spectra`.
    """
    out = _fluxes(filters, redshifts)
    return out / out.mean(axis=2, keepdims=True), rest_spectra()[1]


def distance_modulus(redshift: np.ndarray) -> np.ndarray:
    """Return distance moduli of positive redshifts, of any shape, for H₀ = 70 km/s/Mpc and Ω_m = 0.3."""
    from astropy.cosmology import FlatLambdaCDM

    return np.asarray(FlatLambdaCDM(H0=70.0, Om0=0.3).distmod(redshift).value)


@cached_by_files(maxsize=8)
def absolute_offsets(reference: str, redshifts: tuple[float, ...]) -> np.ndarray:
    """Return the offsets to add to an observed magnitude to get each template's absolute one, ``(T, Z)``.

    `reference` is the `speclite` name of the observed magnitude's filter; redshifts are positive.

    The absolute magnitude is that of the flux density at 7700 Å in the rest frame, about the i band.
    """
    z = np.array(redshifts)
    rest = np.array([np.interp(REST_WAVELENGTH, WAVELENGTH, row) for row in rest_spectra()[0]])
    flux = rest[:, None] * (REST_WAVELENGTH * (1 + z)) ** 2  # per unit frequency, at the observed wavelength
    return -2.5 * np.log10(flux / _fluxes((reference,), redshifts)[:, :, 0] / (1 + z)) - distance_modulus(z)


@cached_by_files(maxsize=8)
def _fluxes(filters: tuple[str, ...], redshifts: tuple[float, ...]) -> np.ndarray:
    """Return mean fluxes per unit frequency through filters, ``(T, Z, B)``, in a common arbitrary unit."""
    spectra, _ = rest_spectra()
    curves = [filter_response(name) for name in filters]
    out = np.empty((len(spectra), len(redshifts), len(filters)))
    for number, redshift in enumerate(redshifts):
        observed = WAVELENGTH * (1 + redshift)
        for band, (wavelength, response) in enumerate(curves):
            weight = response * absorption(wavelength, redshift) * wavelength
            weight = weight * np.gradient(wavelength)
            norm = (response / wavelength * np.gradient(wavelength)).sum()
            # linear interpolation of all templates at once to the filter's wavelengths
            place = np.interp(wavelength, observed, np.arange(len(observed)))
            low = np.minimum(place.astype(int), len(observed) - 2)
            share = place - low
            redshifted = spectra[:, low] * (1 - share) + spectra[:, low + 1] * share
            out[:, number, band] = redshifted @ weight / norm
    return out


def filter_response(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths in steps of 10 Å and the filter's transmission, ``(W,)`` each."""
    published, response = read_curve(name)
    wavelength = np.arange(published.min(), published.max(), 10.0)
    return wavelength, np.interp(wavelength, published, response)
