"""The process in which LePHARE runs: ``python lephare_worker.py JOB``.

LePHARE reads its directories from the environment at import, prints to the terminal, and may abort the
process on bad input; hence the separate process. JOB holds ``job.json`` (bands, templates, options),
``photometry.npz`` (``flux`` and ``flux_err``, ``(N, B)``, erg s⁻¹ cm⁻² Hz⁻¹) and ``data/``, written by
`lephare_fit`; this process adds ``posterior.npz`` (``redshift`` ``(Z,)``, ``density``
``(N, Z)``). Nothing is downloaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.files import read_arrays, read_json

POSTERIOR = 11
"""LePHARE's index of the galaxies' posterior, BAY_ZG."""


def settings(job: Path, bands: list[str], num_plain: int, error_floor: float, step: float) -> dict[str, str]:
    """Return LePHARE's options that differ from its defaults.

    The `num_plain` reddest templates have no dust.
    """
    number, reference = len(bands), bands.index("i") + 1 if "i" in bands else len(bands) // 2 + 1
    each = {
        "FILTER_LIST": [f"{band}.dat" for band in bands],
        "FILTER_CALIB": ["0"] * number,
        "ERR_SCALE": [str(error_floor)] * number,
        "APPLY_SYSSHIFT": ["0"] * number,
    }
    return {
        **{name: ",".join(values) for name, values in each.items()},
        "FILTER_REP": str(job / "data" / "filt"),
        "FILTER_FILE": "bands",
        "ERR_FACTOR": "1.0",
        "GAL_SED": str(job / "data" / "sed" / "GAL" / "templates.list"),
        "GAL_LIB": "LIB",
        "GAL_LIB_IN": "LIB",
        "GAL_LIB_OUT": "MAG",
        "ZPHOTLIB": "MAG",
        "EXTINC_LAW": "calzetti.dat",
        "MOD_EXTINC": f"{num_plain + 1},9999",
        "EB_V": "0,0.1,0.2,0.35",
        "Z_STEP": f"{step},0,6",
        "EM_LINES": "NO",
        "ADD_EMLINES": "0,0",
        "AUTO_ADAPT": "NO",
        "MAG_REF": str(reference),
        "MABS_METHOD": "0",
        "MABS_CONTEXT": "0",
        "MABS_REF": str(reference),
        "MABS_FILT": str(reference),
        "MABS_ZBIN": "0,6",
        "INP_TYPE": "F",
        "VERBOSE": "NO",
    }


def posterior(job: Path) -> tuple[np.ndarray, np.ndarray]:
    """Build LePHARE's library of magnitudes, fit every object, and return redshifts and densities."""
    import lephare

    content = read_json(job / "job.json", what="job of LePHARE")
    arrays = read_arrays(job / "photometry.npz")
    flux, flux_err = arrays["flux"], arrays["flux_err"]
    options = lephare.all_types_to_keymap({**lephare.default_cosmos_config, **settings(job, **content)})
    _make_library(lephare, job, options)
    photoz = lephare.PhotoZ(options)
    objects = [
        _source(lephare, photoz, number, *row) for number, row in enumerate(zip(flux, flux_err, strict=True))
    ]
    photoz.run_photoz(objects, [0.0] * flux.shape[1])
    redshift = np.array(objects[0].pdfmap[POSTERIOR].xaxis)
    return redshift, np.array([source.pdfmap[POSTERIOR].vPDF for source in objects])


def _make_library(lephare: Any, job: Path, options: dict[str, Any]) -> None:
    """Write the filters, the templates, and their magnitudes at all redshifts."""
    filters = str(job / "work" / "filt" / "bands")
    lephare.write_output_filter(f"{filters}.dat", f"{filters}.doc", lephare.FilterSvc.from_keymap(options))
    lephare.Sedtolib(config_keymap=options).run(typ="GAL", gal_sed=options["GAL_SED"].value)
    # lephare.MagGal would also read a library of dust emission, which is negligible in our bands
    options = {**options, "t": lephare.keyword("t", "GAL"), "c": lephare.keyword("c", "")}
    library = lephare.GalMag(options)
    library.open_files()
    library.read_SED()
    library.write_doc()
    library.close_files()


def _source(lephare: Any, photoz: Any, number: int, flux: np.ndarray, flux_err: np.ndarray) -> Any:
    """Make LePHARE's source of one object; its context, one bit per band, excludes bands without data."""
    has = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    context = int((has * 2 ** np.arange(len(flux))).sum())
    source = lephare.onesource(number, photoz.gridz)
    source.readsource(
        str(number), np.where(has, flux, -99.0), np.where(has, flux_err, -99.0), context, -99.0, ""
    )
    photoz.prep_data(source)
    return source


def main() -> None:
    """Run the job given on the command line."""
    job = Path(sys.argv[1])
    os.environ["LEPHAREDIR"], os.environ["LEPHAREWORK"] = str(job / "data"), str(job / "work")
    redshift, density = posterior(job)
    np.savez(job / "posterior.npz", redshift=redshift, density=density.astype(np.float32))


if __name__ == "__main__":
    main()
