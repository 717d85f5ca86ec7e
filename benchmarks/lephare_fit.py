"""LePHARE (Arnouts & Ilbert), the code behind the photometric redshifts of CLAUDS, as a redshift method.

Shapes: N objects, B bands, Z redshifts.

It needs LePHARE itself (``pip install lephare``), but not its data (filters, spectra, opacities: a gigabyte
from GitHub): its input files are written from the inputs of our template fitting, the spectra of
`deepfits.redshifts.spectra` with their dust and hydrogen absorption, so that the two template rows of a table
differ only in the code. ``table1.py`` adds it to the methods of `deepfits redshift`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepfits.errors import InputError
from deepfits.files import read_arrays, write_json
from deepfits.redshifts import spectra
from deepfits.redshifts.method import Inputs
from deepfits.redshifts.methods.templates import Photometry, TemplateFit, benitez_prior

STEP = 0.02
_NJY = 1e-32  # erg s⁻¹ cm⁻² Hz⁻¹
_EVERY = 4  # thinning of the templates' wavelengths, as LePHARE integrates over all of them at each redshift


@dataclass(frozen=True, kw_only=True)
class LephareFit(TemplateFit):
    """LePHARE with zero points learned from labels, stored like `TemplateFit`."""

    name: ClassVar[str] = "lephare"

    @classmethod
    def check(cls, feature_set: str, inputs: Inputs) -> None:
        """Require LePHARE, and the inputs of template fitting."""
        require_lephare()
        super().check(feature_set, inputs)

    @classmethod
    def learn(
        cls, photometry: Photometry, value: np.ndarray, bands: Sequence[str], filters: Sequence[str] = ()
    ) -> LephareFit:
        """Learn zero points and the error floor by `TemplateFit`, then the recalibration.

        The limit on the absolute magnitude is LePHARE's own, −24.
        """
        require_lephare()
        own = TemplateFit.learn(photometry, value, bands, filters)
        return cls(**{**vars(own), "brightest": None}).calibrated(photometry, value)

    def posterior(self, photometry: Photometry) -> tuple[np.ndarray, np.ndarray]:
        """Return LePHARE's p(z) times the prior of Benítez (2000), ``(N, Z)``, of maximum 1, and its grid."""
        redshift, density = run_lephare(self, photometry)
        _, places = spectra.rest_spectra()
        prior = np.concatenate(
            [
                benitez_prior(part, places, redshift[1:]).sum(axis=1)
                for part in np.array_split(photometry.magnitude, len(photometry) // 200 + 1)
                if len(part)
            ]
        )
        density = density[:, 1:] * prior
        is_empty = ~(density.max(axis=1) > 0)  # no template fits: use the prior alone
        density[is_empty] = prior[is_empty]
        return density / density.max(axis=1, keepdims=True), redshift[1:]


def require_lephare() -> None:
    """Raise `InputError` if LePHARE is not installed."""
    if importlib.util.find_spec("lephare") is None:
        raise InputError("the method lephare needs LePHARE: pip install lephare")


def run_lephare(fit: LephareFit, photometry: Photometry) -> tuple[np.ndarray, np.ndarray]:
    """Run LePHARE in a separate process.

    Returns redshifts, ``(Z,)``, and LePHARE's posterior density without a prior, ``(N, Z)``, which is 0
    everywhere if no template fits.

    Raises
    ------
    InputError
        LePHARE ended without a result; the message contains its last lines of output.
    """
    require_lephare()
    with tempfile.TemporaryDirectory(prefix="lephare-") as folder:
        job = Path(folder)
        num_plain = write_inputs(job, fit.bands, fit.filters)
        flux, flux_err = (each * fit.zero_points * _NJY for each in (photometry.flux, photometry.flux_err))
        np.savez(job / "photometry.npz", flux=flux, flux_err=flux_err)
        given = {"num_plain": num_plain, "error_floor": fit.error_floor, "step": STEP}
        write_json(job / "job.json", {"bands": list(fit.bands), **given})
        worker = Path(__file__).with_name("lephare_worker.py")
        command = [sys.executable, str(worker), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result = job / "posterior.npz"
        if done.returncode or not result.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise InputError(f"LePHARE exited with status {done.returncode}: {' | '.join(last)}")
        arrays = read_arrays(result)
        return arrays["redshift"].astype(np.float64), arrays["density"].astype(np.float64)


def write_inputs(job: Path, bands: Sequence[str], filters: Sequence[str]) -> int:
    """Write LePHARE's input files under ``data/``; return the number of templates that never get dust.

    LePHARE requires spectra of Vega, the Sun and BD+17°4708 for magnitudes that are not used here, so black
    bodies take their place.
    """
    data = job / "data"
    for name in ("opa", "vega", "ext", "filt", "sed/GAL"):
        (data / name).mkdir(parents=True)
    for name in ("filt", "lib_bin", "lib_mag"):
        (job / "work" / name).mkdir(parents=True)
    rest = np.arange(300.0, 1215.6, 3.0)
    lines = []
    for number in range(81):  # LePHARE requires exactly these redshifts
        redshift = number / 10
        _write(
            data / "opa" / f"tau{number:02d}.out", rest, spectra.absorption(rest * (1 + redshift), redshift)
        )
        lines.append(f"{redshift:.1f} tau{number:02d}.out\n")
    (data / "opa" / "OPACITY.dat").write_text("".join(lines))
    wavelength = np.geomspace(900.0, 3e5, 1500)
    for name, kelvin in (("VegaLCB", 9600.0), ("SunLCB", 5777.0), ("BD+17o4708", 6200.0)):
        light = wavelength**-5 / np.expm1(1.4388e8 / (wavelength * kelvin))
        light *= 3.6e-9 / np.interp(5500.0, wavelength, light)
        _write(data / "vega" / f"{name}.sed", wavelength, light)
    wavelength = np.geomspace(300.0, 5e4, 2000)
    for name in ("calzetti.dat", "MW_seaton.dat"):
        _write(data / "ext" / name, wavelength, -2.5 * np.log10(spectra.dust(wavelength, 1.0)))
    for band, name in zip(bands, filters, strict=True):
        _write(data / "filt" / f"{band}.dat", *spectra.filter_response(name))
    return _write_templates(data / "sed" / "GAL")


def _write_templates(folder: Path) -> int:
    rest, places = spectra.rest_spectra()
    first = np.unique(places, return_index=True)[1]  # the dust-free spectrum of each type: LePHARE adds dust
    names = []
    for number, row in enumerate(first):
        names.append(str(folder / f"template-{number:02d}.sed"))
        _write(Path(names[-1]), spectra.WAVELENGTH[::_EVERY], rest[row, ::_EVERY])
    (folder / "templates.list").write_text("\n".join(names) + "\n")
    return int((places[first] < 1).sum())


def _write(path: Path, wavelength: np.ndarray, value: np.ndarray) -> None:
    np.savetxt(path, np.column_stack([wavelength, value]), fmt="%.3f %.7e", header="wavelength value")
