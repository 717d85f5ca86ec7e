"""Galaxy and quasar spectra, and their fluxes through filters.

Shapes: N objects, T templates, E reddenings, Z redshifts, B bands, W wavelengths. Fluxes are per unit
frequency, in arbitrary units; wavelengths in Ångström.

Galaxy spectra are interpolated in a sequence of six templates, by default the E, Sbc, Scd and Im galaxies of
Coleman, Wu & Weedman (1980), as shipped with GalSim, and two bluer ones extrapolated from Im. They are
reddened by dust following Calzetti et al. (2000), and absorbed by intergalactic hydrogen following Inoue et
al. (2014).

``templates.safetensors`` contains resampled versions of the libraries of Ilbert et al. (2009) and Benítez et
al. (2004), from which other sequences can be drawn.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import cached_by_files
from deepfits.passbands import load_filter
from deepfits.sky.hydrogen import transmission

CWW = ("E", "Sbc", "Scd", "Im", "Im_0.5", "Im_1.0")
"""The default sequence; the last two are Im times (λ / 5000 Å)^−0.5 and (λ / 5000 Å)^−1."""
SHARE_OF_CWW, SHARE_OF_LIBRARY, PLACE_TOLERANCE = 0.25, 0.7, 0.15
"""Parameters of `draw_sequence`: the probability of `CWW` itself; otherwise, for each template, the
probability that it is taken from the sequence's library and not from all; and by how much further than the
nearest one its position may be from the nominal position."""
LIBRARY = Path(__file__).with_name("templates.safetensors")
YOUNG_IN_E = 0.03  # flux of an Im galaxy added to the reddest template, as a fraction of its own at 5500 Å
REDDENINGS = np.array([0.0, 0.1, 0.25, 0.5, 1.0])
MAX_REDSHIFT = 7.0
REDSHIFTS = np.exp(np.linspace(0.0, np.log1p(MAX_REDSHIFT), 420)) - 1
REST_BAND, ULTRAVIOLET = "sdss2010-r", "galex-nuv"  # rest-frame bands of absolute magnitudes


@lru_cache(maxsize=1)
def galaxy_templates() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return wavelengths, ``(W,)``, and all templates by name, ``(W,)`` per unit wavelength, 1 at 5500 Å.

    The templates of `CWW` come first, from red to blue, followed by those of the libraries.
    """
    import galsim
    from safetensors.numpy import load_file

    folder = Path(galsim.meta_data.share_dir) / "SEDs"
    wavelength = np.exp(np.linspace(np.log(100.0), np.log(22000.0), 8000))
    spectra = {}
    for name in CWW[:4]:
        table = np.loadtxt(folder / f"CWW_{name}_ext.sed")
        spectra[name] = np.interp(wavelength, table[:, 0], table[:, 1])
    # Real ellipticals are less red in the ultraviolet than the nearby ones of the template.
    at_5500 = {name: np.interp(5500.0, wavelength, row) for name, row in spectra.items()}
    spectra["E"] = spectra["E"] / at_5500["E"] + YOUNG_IN_E * spectra["Im"] / at_5500["Im"]
    for name in CWW[4:]:
        spectra[name] = spectra["Im"] * (wavelength / 5000.0) ** -float(name.removeprefix("Im_"))
    library = load_file(LIBRARY)
    nodes = library.pop("wavelength").astype(float)
    spectra |= {name: np.interp(wavelength, nodes, row.astype(float)) for name, row in library.items()}
    return wavelength, {name: row / np.interp(5500.0, wavelength, row) for name, row in spectra.items()}


@lru_cache(maxsize=1)
def template_places() -> dict[str, float]:
    """Return each template's position in the sequence `CWW`, 0 to 5, from its rest-frame colour.

    The colour compares 3000 to 3600 Å with 5300 to 6000 Å.
    """
    wavelength, spectra = galaxy_templates()
    sides = [(wavelength > low) & (wavelength < high) for low, high in ((3000, 3600), (5300, 6000))]

    def slope(row: np.ndarray) -> float:
        blue, red = (np.average(row[side], weights=wavelength[side]) for side in sides)
        return float(np.log(blue / red))

    nodes = [slope(spectra[name]) for name in CWW]
    return {name: float(np.interp(slope(row), nodes, range(len(CWW)))) for name, row in spectra.items()}


def draw_sequence(rng: np.random.Generator, *, recent: bool = False) -> tuple[str, ...]:
    """Draw six templates from red to blue, with colours like those of `CWW`, mostly from one library.

    With `recent`, each comes from any library but `CWW`.
    """
    if not recent and rng.random() < SHARE_OF_CWW:
        return CWW
    every = list(template_places())
    benitez = [name for name in every if name.endswith(("_B2004a", "_z008"))]
    ilbert = [name for name in every if name not in (*CWW, *benitez)]
    library = benitez + ilbert if recent else (list(CWW), ilbert, benitez)[rng.integers(3)]
    out = []
    for place in range(len(CWW)):
        names = library if recent or rng.random() < SHARE_OF_LIBRARY else every
        distance = [abs(template_places()[name] - place) for name in names]
        out.append(names[int(np.argmin(distance + PLACE_TOLERANCE * rng.random(len(names))))])
    return tuple(out)


def quasar_spectrum(wavelength: np.ndarray) -> np.ndarray:
    """Return the mean quasar spectrum, ``(W,)`` per unit wavelength, at rest wavelengths in Å, ``(W,)``.

    It is f_λ ∝ λ^−1.5 with broad lines (widths and strengths after Vanden Berk et al. 2001).
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
    """Return k(λ) of Calzetti et al. (2000, eq. 4): the attenuation is E(B−V) k magnitudes.

    Outside 0.12 to 2.2 µm it is constant.
    """
    x = 1e4 / np.clip(wavelength, 1200.0, 22000.0)  # µm⁻¹
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    return np.where(x < 1 / 0.63, red, blue)


def band_flux(wavelength: np.ndarray, spectrum: np.ndarray, name: str) -> np.ndarray:
    """Return the mean flux per unit frequency through a filter, for a photon-counting detector.

    It is ∫ f_λ λ T dλ / ∫ T dλ / λ, ``(...)``, omitting the speed of light. `wavelength`, ``(W,)``, must be
    the filter's own grid, and `spectrum`, ``(..., W)``, the flux per unit wavelength there.
    """
    grid, response = load_filter(name)
    assert wavelength.shape == grid.shape
    return (spectrum * (grid * response)).sum(axis=-1) / (response / grid).sum()


@dataclass(frozen=True)
class ColourGrid:
    """Logarithm of the flux per unit frequency in each band, by template, reddening and redshift."""

    # (T, E, Z, B): log₁₀ of the band fluxes of a template that is 1 at 5500 Å in the rest frame;
    # redshifting stretches its wavelengths but does not rescale its values.
    log_flux: np.ndarray
    # (T, E) each: the same at redshift 0, in the bands `REST_BAND` and `ULTRAVIOLET`.
    log_rest: dict[str, np.ndarray]

    def at(self, template: np.ndarray, reddening: np.ndarray, redshift: np.ndarray) -> np.ndarray:
        """Interpolate linearly to template, reddening and redshift of each object: ``(N, B)``."""
        corners = _corners(template, reddening)
        low, part = _bracket(REDSHIFTS, redshift)
        out = np.zeros((len(redshift), self.log_flux.shape[-1]))
        for (t, e), share in corners:
            out += share[:, None] * (1 - part)[:, None] * self.log_flux[t, e, low]
            out += share[:, None] * part[:, None] * self.log_flux[t, e, low + 1]
        return out

    def rest_at(self, template: np.ndarray, reddening: np.ndarray, band: str) -> np.ndarray:
        """Interpolate the rest-frame flux in a band: ``(N,)``."""
        out = np.zeros(len(template))
        for (t, e), share in _corners(template, reddening):
            out += share * self.log_rest[band][t, e]
        return out


def _bracket(nodes: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.clip(np.searchsorted(nodes, value, side="right") - 1, 0, len(nodes) - 2)
    return low, np.clip((value - nodes[low]) / (nodes[low + 1] - nodes[low]), 0.0, 1.0)


def _corners(
    template: np.ndarray, reddening: np.ndarray
) -> list[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
    t, t_part = _bracket(np.arange(len(CWW), dtype=float), template)
    e, e_part = _bracket(REDDENINGS, reddening)
    return [
        ((t + i, e + j), (t_part if i else 1 - t_part) * (e_part if j else 1 - e_part))
        for i in (0, 1)
        for j in (0, 1)
    ]


@cached_by_files(maxsize=8)
def colour_grid(filters: tuple[str, ...], templates: tuple[str, ...] = CWW) -> ColourGrid:
    """Compute the colour grid of galaxies for filters and a template sequence (takes a second; cached)."""
    known = galaxy_templates()[1]
    if len(templates) != len(CWW) or not set(templates) <= set(known):
        raise InputError(
            f"templates {list(templates)}: choose six names, from red to blue, out of {', '.join(known)}"
        )
    log_flux = [np.stack([_log_fluxes(name, band) for band in filters], axis=-1) for name in templates]
    return ColourGrid(
        log_flux=np.stack(log_flux),
        log_rest={
            band: np.stack([_log_fluxes(name, band)[:, 0] for name in templates])
            for band in (REST_BAND, ULTRAVIOLET)
        },
    )


@cached_by_files(maxsize=4096)
def _log_fluxes(template: str, band: str) -> np.ndarray:
    """Return log₁₀ of a template's flux through a filter, ``(E, Z)``."""
    wavelength, spectra = galaxy_templates()
    dimming = 10.0 ** (-0.4 * REDDENINGS[:, None] * calzetti(wavelength))
    reddened = spectra[template] * dimming  # (E, W)
    return np.log10(np.stack([_through(wavelength, reddened, z, band) for z in REDSHIFTS], axis=1))


def quasar_grid(filters: tuple[str, ...]) -> np.ndarray:
    """Return log₁₀ of the mean quasar's band fluxes, ``(Z, B)``."""
    return np.stack([_quasar_log_fluxes(name) for name in filters], axis=1)


@cached_by_files(maxsize=64)
def _quasar_log_fluxes(band: str) -> np.ndarray:
    """Return log₁₀ of the mean quasar's flux through a filter, ``(Z,)``."""
    wavelength, _ = galaxy_templates()
    spectrum = quasar_spectrum(wavelength)
    return np.log10([_through(wavelength, spectrum, z, band) for z in REDSHIFTS])


def _through(wavelength: np.ndarray, spectra: np.ndarray, redshift: float, name: str) -> np.ndarray:
    """Redshift spectra, ``(..., W)``, apply hydrogen absorption, and integrate over a filter: ``(...)``."""
    grid, _ = load_filter(name)
    low, part = _bracket(wavelength, grid / (1 + redshift))
    resampled = spectra[..., low] * (1 - part) + spectra[..., low + 1] * part
    return np.maximum(band_flux(grid, resampled * transmission(grid, redshift), name), 1e-12)
