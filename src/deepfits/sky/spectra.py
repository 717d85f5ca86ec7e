"""Spectra and what bands see of them.

Shapes: N objects, T templates, E reddenings, Z redshifts, B bands, W wavelengths. Fluxes are per frequency,
in any unit; wavelengths in Ångström.

Galaxies follow a sequence of templates: the E, Sbc, Scd and Im galaxies of Coleman, Wu & Weedman (1980), as
GalSim ships them, and two bluer ones extended from Im. Between them we interpolate. Dust dims them after
Calzetti et al. (2000), intergalactic hydrogen after Inoue et al. (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.sky.hydrogen import transmission

TEMPLATES = ("E", "Sbc", "Scd", "Im")
EXTENSION_SLOPES = (0.5, 1.0)
"""The bluer templates are Im times (λ / 5000 Å) to minus this."""
YOUNG_IN_E = 0.03
"""Light at 5500 Å of an Im galaxy in the reddest template, as part of its own."""
REDDENINGS = np.array([0.0, 0.1, 0.25, 0.5, 1.0])
MAX_REDSHIFT = 7.0
REDSHIFTS = np.exp(np.linspace(0.0, np.log1p(MAX_REDSHIFT), 420)) - 1
STEP = 5.0
"""Of the wavelength grid on which filters are integrated, Å."""
REST_BAND = "sdss2010-r"
"""Absolute magnitudes are in this band."""


@lru_cache(maxsize=1)
def galaxy_templates() -> tuple[np.ndarray, np.ndarray]:
    """Return the wavelengths, ``(W,)``, and the spectra per wavelength, ``(T, W)``, 1 at 5500 Å."""
    import galsim

    folder = Path(galsim.meta_data.share_dir) / "SEDs"
    wavelength = np.exp(np.linspace(np.log(100.0), np.log(22000.0), 8000))
    rows = []
    for name in TEMPLATES:
        table = np.loadtxt(folder / f"CWW_{name}_ext.sed")
        rows.append(np.interp(wavelength, table[:, 0], table[:, 1]))
    # Real ellipticals are not as red in the ultraviolet as the nearby ones of the template.
    at_5500 = [np.interp(5500.0, wavelength, row) for row in rows]
    rows[0] = rows[0] / at_5500[0] + YOUNG_IN_E * rows[-1] / at_5500[-1]
    rows += [rows[-1] * (wavelength / 5000.0) ** -slope for slope in EXTENSION_SLOPES]
    spectra = np.array(rows)
    at = np.array([np.interp(5500.0, wavelength, row) for row in spectra])
    return wavelength, spectra / at[:, None]


def quasar_spectrum(wavelength: np.ndarray) -> np.ndarray:
    """Return a mean quasar: f_λ ∝ λ^−1.5 with broad lines (widths and strengths after Vanden Berk 2001).

    Wavelengths, ``(W,)``, are those at rest, Å.
    """
    out = (wavelength / 5500.0) ** -1.5
    # centre, equivalent width, standard deviation, all in Å at rest
    for centre, width, sigma in (
        (1215.7, 92.0, 19.5),
        (1549.0, 24.0, 14.3),
        (1908.7, 21.0, 23.6),
        (2798.8, 32.0, 34.9),
        (4861.3, 46.0, 40.4),
        (6562.8, 195.0, 47.4),
    ):
        peak = width / (sigma * np.sqrt(2 * np.pi)) * (centre / 5500.0) ** -1.5
        out = out + peak * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    return out


def calzetti(wavelength: np.ndarray) -> np.ndarray:
    """Return k(λ) of Calzetti et al. (2000, eq. 4): the dimming is E(B−V) k magnitudes.

    Beyond 0.12 to 2.2 µm the value at the border is kept.
    """
    x = 1e4 / np.clip(wavelength, 1200.0, 22000.0)  # µm⁻¹
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    return np.where(x < 1 / 0.63, red, blue)


@lru_cache(maxsize=64)
def load_filter(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a filter's wavelengths on a regular grid, ``(W,)`` in Å, and its transmission, ``(W,)``.

    Raises
    ------
    InputError
        No such filter in `speclite`, or a file that is not two columns of numbers.
    """
    path = Path(name)
    if path.is_file():
        try:
            wavelength, response = np.loadtxt(path)[:, :2].T
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: a filter is two columns, Å and transmission ({error})") from error
    else:
        import speclite.filters

        try:
            loaded = speclite.filters.load_filter(name)
        except ValueError:
            raise InputError(
                f"filter {name!r} is neither a file nor one of speclite's, as hsc2017-i2"
            ) from None
        wavelength, response = np.asarray(loaded.wavelength), np.asarray(loaded.response)
    if not (np.diff(wavelength) > 0).all() or not np.isfinite(response).all() or response.max() <= 0:
        raise InputError(f"filter {name!r}: wavelengths must increase and transmissions be finite")
    seen = wavelength[response > 1e-4 * response.max()]
    grid = np.arange(STEP * np.floor(seen[0] / STEP), seen[-1] + STEP, STEP)
    return grid, np.clip(np.interp(grid, wavelength, response, left=0.0, right=0.0), 0.0, None)


def filter_centre(name: str) -> float:
    """Return the mean wavelength of a filter, Å."""
    wavelength, response = load_filter(name)
    return float((wavelength * response).sum() / response.sum())


def band_flux(wavelength: np.ndarray, spectrum: np.ndarray, name: str) -> np.ndarray:
    """Return the mean flux per frequency that photon-counting detectors see through a filter.

    It is ∫ f_λ λ T dλ / ∫ T dλ / λ, ``(...)``, without the speed of light, of observed wavelengths of the
    filter's own grid, ``(W,)``, and the flux per wavelength there, ``(..., W)``.
    """
    grid, response = load_filter(name)
    assert wavelength.shape == grid.shape
    return (spectrum * (grid * response)).sum(axis=-1) / (response / grid).sum()


@dataclass(frozen=True)
class ColourGrid:
    """Logarithm of the flux per frequency in each band, over template, reddening and redshift.

    Attributes
    ----------
    log_flux
        ``(T, E, Z, B)``: log₁₀ of the band fluxes of a template 1 at 5500 Å at rest, of which only the
        wavelengths were stretched.
    log_rest
        ``(T, E)``: the same at redshift 0 in `REST_BAND`.
    """

    log_flux: np.ndarray
    log_rest: np.ndarray

    def at(self, template: np.ndarray, reddening: np.ndarray, redshift: np.ndarray) -> np.ndarray:
        """Interpolate linearly to objects: ``(N, B)``."""
        corners = _corners(template, reddening)
        low, part = _bracket(REDSHIFTS, redshift)
        out = np.zeros((len(redshift), self.log_flux.shape[-1]))
        for (t, e), share in corners:
            out += share[:, None] * (1 - part)[:, None] * self.log_flux[t, e, low]
            out += share[:, None] * part[:, None] * self.log_flux[t, e, low + 1]
        return out

    def rest_at(self, template: np.ndarray, reddening: np.ndarray) -> np.ndarray:
        """Interpolate the flux at rest: ``(N,)``."""
        out = np.zeros(len(template))
        for (t, e), share in _corners(template, reddening):
            out += share * self.log_rest[t, e]
        return out


def _bracket(nodes: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.clip(np.searchsorted(nodes, value, side="right") - 1, 0, len(nodes) - 2)
    return low, np.clip((value - nodes[low]) / (nodes[low + 1] - nodes[low]), 0.0, 1.0)


def _corners(
    template: np.ndarray, reddening: np.ndarray
) -> list[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
    t, t_part = _bracket(np.arange(len(TEMPLATES) + len(EXTENSION_SLOPES), dtype=float), template)
    e, e_part = _bracket(REDDENINGS, reddening)
    return [
        ((t + i, e + j), (t_part if i else 1 - t_part) * (e_part if j else 1 - e_part))
        for i in (0, 1)
        for j in (0, 1)
    ]


@lru_cache(maxsize=8)
def colour_grid(filters: tuple[str, ...]) -> ColourGrid:
    """Compute the galaxies' grid for some filters (about a second; kept for the next call)."""
    wavelength, spectra = galaxy_templates()
    dimming = 10.0 ** (-0.4 * REDDENINGS[:, None] * calzetti(wavelength))
    reddened = spectra[:, None, :] * dimming  # (T, E, W)
    rest = _through(wavelength, reddened, 0.0, REST_BAND)
    log_flux = np.stack(
        [
            np.stack([np.log10(_through(wavelength, reddened, z, name)) for z in REDSHIFTS], axis=2)
            for name in filters
        ],
        axis=3,
    )
    return ColourGrid(log_flux=log_flux, log_rest=np.log10(rest))


@lru_cache(maxsize=8)
def quasar_grid(filters: tuple[str, ...]) -> np.ndarray:
    """Return log₁₀ of the mean quasar's band fluxes: ``(Z, B)``."""
    wavelength, _ = galaxy_templates()
    spectrum = quasar_spectrum(wavelength)
    return np.log10([[_through(wavelength, spectrum, z, name) for name in filters] for z in REDSHIFTS])


def _through(wavelength: np.ndarray, spectra: np.ndarray, redshift: float, name: str) -> np.ndarray:
    """Redshift spectra, ``(..., W)``, let hydrogen absorb, and look through a filter: ``(...)``."""
    grid, _ = load_filter(name)
    low, part = _bracket(wavelength, grid / (1 + redshift))
    seen = spectra[..., low] * (1 - part) + spectra[..., low + 1] * part
    return np.maximum(band_flux(grid, seen * transmission(grid, redshift), name), 1e-12)
