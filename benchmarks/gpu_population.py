"""Prepare ``gpu_population.npz``, the table of galaxies from which `gpu_sky.py` draws.

    python benchmarks/gpu_population.py

This needs the whole package (spectra, filters). Fluxes are stored as integers in units of 0.001 mag, sizes
and shapes in half precision.
"""

from __future__ import annotations

import argparse

import numpy as np

from deepfits.models.bundle import Model
from deepfits.sky.drawing import bulge_scale, psf_transfer
from deepfits.sky.population import draw_galaxies
from deepfits.sky.surveys import find_survey
from gpu_sky import TABLE, mag_steps

STAMP = 64
FAINTEST_MAG = 25.3


def main() -> None:
    """Draw the galaxies and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    survey = find_survey("clauds-hsc")
    rng = np.random.default_rng(arguments.seed)
    filters = tuple(band.filter for band in survey.bands)
    table = draw_galaxies(arguments.number, FAINTEST_MAG, filters, rng)
    scale = survey.pixel_scale_arcsec
    model = Model.load("builtin:clauds-hsc")
    sigma = np.array(model.normalisation.softening) / model.card["training"]["softening_sigmas"]

    np.savez_compressed(
        TABLE,
        mag=mag_steps(table["flux"]),
        bulge_mag=mag_steps(table["bulge_flux"]),
        disc_radius=(table["disc_radius_arcsec"] / scale).astype(np.float16),
        bulge_radius=(table["bulge_radius_arcsec"] / scale).astype(np.float16),
        disc_ratio=table["disc_ratio"].astype(np.float16),
        bulge_ratio=table["bulge_ratio"].astype(np.float16),
        z_spec=table["z_spec"].astype(np.float32),
        transfer=psf_transfer(STAMP, tuple(b.fwhm_arcsec / scale for b in survey.bands), survey.moffat_beta),
        bulge_scale=bulge_scale(),
        sigma=sigma,
        autocovariance=np.array(model.card["noise_autocovariance"], dtype=np.float32),
        bands=np.array(survey.names),
        pixel_scale_arcsec=scale,
    )
    print(f"{TABLE}: {arguments.number} galaxies, {TABLE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
