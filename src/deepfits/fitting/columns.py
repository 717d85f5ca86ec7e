"""Units, UCDs and descriptions of the columns of features and predictions, for formats that hold them.

UCDs are from the IVOA's list (UCD1+, version 1.5); that of a band is the part of the spectrum that contains
its central wavelength (u: ``em.opt.U``).
"""

from __future__ import annotations

from dataclasses import dataclass

from deepfits.passbands import COLUMN
from deepfits.photometry import RADII_ARCSEC, aperture_names

_SPECTRUM = {
    "u": "em.opt.U", "b": "em.opt.B", "g": "em.opt.B", "v": "em.opt.V", "r": "em.opt.R", "i": "em.opt.I",
    "z": "em.opt.I", "y": "em.opt.I", "j": "em.IR.J", "h": "em.IR.H", "k": "em.IR.K", "ks": "em.IR.K",
    "vis": "em.opt.R",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """Unit, UCD and description of a column."""

    unit: str = ""  # as in the FITS and VOUnits standards; empty for a dimensionless number
    ucd: str = ""  # unified content descriptor; empty if none applies
    words: str = ""


_PLAIN = {
    "object_id": Column(ucd="meta.id;meta.main", words="Identity of the object"),
    "ra": Column(unit="deg", ucd="pos.eq.ra;meta.main", words="Right ascension (ICRS)"),
    "dec": Column(unit="deg", ucd="pos.eq.dec;meta.main", words="Declination (ICRS)"),
    "latent": Column(ucd="stat.fit.param", words="Fitted latent vector: renders the galaxy"),
    "latent_std": Column(ucd="stat.error;stat.fit.param", words="Standard deviation of the latent"),
    "embedding": Column(ucd="stat.value", words="Embedding of the model image: compares galaxies"),
    "chi2": Column(ucd="stat.fit.chi2", words="Chi-square of the best fit, all bands"),
    "dof": Column(ucd="stat.fit.dof", words="Valid pixels, all bands; no parameter subtracted"),
    "loss": Column(ucd="stat.fit.goodness", words="Objective of the fit at the best latent"),
    "loss_start": Column(ucd="stat.fit.goodness", words="Objective of the fit at the start"),
    "status": Column(ucd="meta.code.status", words="How the fit ended"),
    "num_steps": Column(ucd="meta.number", words="Gradient evaluations"),
    "latent_distance": Column(ucd="stat.value", words="RMS of the latent; prior: 1"),
    "discriminator_score": Column(ucd="stat.value", words="Score of the discriminator; typically 0.4 to 0.8"),
    "anomaly": Column(ucd="stat.value", words="Anomaly of the central object; 0: ordinary, 3: one in fifty"),
    "artefact": Column(ucd="stat.snr", words="Highest residual due to an image artefact; 0: none"),
    "anomaly_reason": Column(ucd="meta.note", words="What is odd, in words"),
    "fraction_beyond": Column(ucd="phot.flux;arith.ratio", words="Fraction of flux outside the model image"),
    "spread": Column(ucd="src.morph.param", words="0 for a star, larger for objects larger than the PSF"),
    "spread_err": Column(ucd="stat.error;src.morph.param", words="Error of the spread"),
    "model_hash": Column(ucd="meta.version", words="Fingerprint of the model"),
    "z_phot": Column(ucd="src.redshift.phot", words="Photometric redshift"),
    "z_mean": Column(ucd="src.redshift.phot;stat.mean", words="Mean of p(z)"),
    "z_median": Column(ucd="src.redshift.phot;stat.median", words="Median of p(z)"),
    "z_mode": Column(ucd="src.redshift.phot", words="Mode of p(z)"),
    "z_err68_low": Column(ucd="src.redshift.phot;stat.min", words="Lower end of the 68% interval"),
    "z_err68_high": Column(ucd="src.redshift.phot;stat.max", words="Upper end of the 68% interval"),
    "z_err95_low": Column(ucd="src.redshift.phot;stat.min", words="Lower end of the 95% interval"),
    "z_err95_high": Column(ucd="src.redshift.phot;stat.max", words="Upper end of the 95% interval"),
    "is_valid": Column(ucd="meta.code", words="Whether there is a prediction"),
}  # fmt: skip

_FLUX, _FLUX_ERR = ("nJy", "phot.flux.density;meta.modelled"), ("nJy", "stat.error;phot.flux.density")
_FLUX_DATA = ("nJy", "phot.flux.density")
_MAG, _MAG_ERR = ("mag", "phot.mag;meta.modelled"), ("mag", "stat.error;phot.mag")

# Unit, UCD and description. Longer names first: `flux_model_err` before `flux_model`.
_PER_BAND = {
    "flux_aper_measured_err": (*_FLUX_ERR, "Error of the measured flux, 2 arcsec"),
    "flux_aper_measured": (*_FLUX_DATA, "Measured flux, 2 arcsec"),
    "flux_aper_model_err": (*_FLUX_ERR, "Error of the model flux, 2 arcsec, including errors of the model"),
    "flux_aper_model": (*_FLUX, "Model flux, 2 arcsec"),
    "flux_cutout_model_err": (*_FLUX_ERR, "Error from noise of the sum of the model cutout"),
    "flux_cutout_model": (*_FLUX, "Sum of the whole model cutout, including neighbours"),
    **{
        f"flux_{name}{end}": (*kind, f"{what} flux for colours, model and data combined, {where}")
        for name, where in zip(
            aperture_names(),
            (*(f"{2 * radius:g} arcsec" for radius in RADII_ARCSEC), "Gaussians matched to the PSFs"),
            strict=True,
        )
        for end, kind, what in (("_err", _FLUX_ERR, "Error of the"), ("", _FLUX_DATA, "Own"))
    },
    "flux_model_err": (*_FLUX_ERR, "Error of the central galaxy's total flux: noise, model, neighbours"),
    "flux_model": (*_FLUX, "Total flux of the central galaxy alone in the noise-free model"),
    "flux_aper_scene_err": (*_FLUX_ERR, "Error of the flux of the scene, 2 arcsec"),
    "flux_aper_scene": (*_FLUX, "Flux of the scene, before PSF and pixels, 2 arcsec"),
    "flux_scene_err": (*_FLUX_ERR, "Error of the flux of the scene"),
    "flux_scene": (*_FLUX, "Flux of the whole scene, before PSF and pixels"),
    "flux_aper_err": (*_FLUX_ERR, "Error of the predicted flux, 2 arcsec"),
    "flux_aper": (*_FLUX, "Predicted flux, 2 arcsec"),
    "flux_err": (*_FLUX_ERR, "Error of the predicted flux"),
    "flux": (*_FLUX, "Predicted flux, whole cutout"),
    "mag_model": (*_MAG, "AB magnitude of the galaxy from the best fit"),
    "mag_aper_err": (*_MAG_ERR, "Error of the predicted magnitude, 2 arcsec"),
    "mag_aper": (*_MAG, "Predicted AB magnitude, 2 arcsec"),
    "correction_mag": ("mag", "phot.mag;arith.diff", "Correction that was added to the model magnitude"),
    "mag_err": (*_MAG_ERR, "Error of the predicted magnitude"),
    "mag": (*_MAG, "Predicted AB magnitude, whole cutout"),
    "half_light_arcsec": (
        "arcsec",
        "phys.angSize;meta.modelled",
        "Half-light radius of the model galaxy's flux within 3 arcsec",
    ),
    "concentration": ("", "src.morph.param;meta.modelled", "5 lg(r80/r20) of the model galaxy"),
    "scene_half_light_arcsec": (
        "arcsec",
        "phys.angSize;meta.modelled",
        "Half-light radius before the PSF, of the flux within 3 arcsec",
    ),
    "scene_concentration": ("", "src.morph.param;meta.modelled", "5 lg(r80/r20) before the PSF"),
    "amplitude_err": ("", "stat.error", "Error of the amplitude"),
    "amplitude": ("", "arith.factor", "Flux over that of the rendered galaxy"),
    COLUMN: ("Angstrom", "em.wl.central;instr.filter", "Mean wavelength of the filter"),
    "chi2": ("", "stat.fit.chi2", "Chi-square"),
    "dof": ("", "stat.fit.dof", "Valid pixels; no parameter subtracted"),
}

_DETECTION = {
    "x": Column(unit="pix", ucd="pos.cartesian.x", words="Position on the detection grid, 0-based"),
    "y": Column(unit="pix", ucd="pos.cartesian.y", words="Position on the detection grid, 0-based"),
    "a": Column(unit="pix", ucd="phys.angSize.smajAxis", words="Standard deviation along the major axis"),
    "b": Column(unit="pix", ucd="phys.angSize.sminAxis", words="Standard deviation along the minor axis"),
    "theta": Column(unit="rad", ucd="pos.posAng", words="Angle of the major axis, from x towards y"),
    "kron_radius": Column(unit="pix", ucd="phys.angSize", words="Semi-major axis of the Kron ellipse"),
    "half_light_radius_arcsec": Column(unit="arcsec", ucd="phys.angSize", words="Measured half-light radius"),
    "num_pixels": Column(ucd="meta.number", words="Pixels above the detection threshold"),
    "snr": Column(ucd="stat.snr", words="Signal-to-noise ratio of the detection"),
    "flags": Column(ucd="meta.code", words="Flags of the detection; 0 if there are none"),
    "star_score": Column(ucd="src.class.starGalaxy", words="Stellarity; 1 is a point source"),
}
_DETECTION_PER_BAND = {
    "flux_aper_err": (*_FLUX_ERR, "Error of the measured flux in an aperture"),
    "flux_aper": (*_FLUX_DATA, "Measured flux in an aperture, 2 arcsec by default"),
    "flux_err": (*_FLUX_ERR, "Error of the measured flux in the Kron ellipse"),
    "flux": (*_FLUX_DATA, "Measured flux in the Kron ellipse"),
    "mag_auto": ("mag", "phot.mag", "AB magnitude in the Kron ellipse"),
    "psf_mismatch": ("", "stat.error;arith.ratio", "Relative error of stars' matched fluxes due to the PSF"),
    "fraction_valid": ("", "stat.filling", "Fraction of the cutout's pixels with data"),
}


def describe(name: str, *, table: str = "features") -> Column:
    """Describe a column of features or predictions, or of another `table` that is joined to them.

    In the table ``"detections"`` fluxes and magnitudes are measured ones. In any other they may be anything,
    and have no description. Unknown columns have an empty one.

    Examples
    --------
    >>> describe("flux_model_err_r").ucd
    'stat.error;phot.flux.density;em.opt.R'
    >>> describe("flux_g", table="mine")
    Column(unit='', ucd='', words='')
    """
    plain, per_band = _PLAIN, _PER_BAND if table == "features" else {}
    if table == "detections":
        plain, per_band = _PLAIN | _DETECTION, _DETECTION_PER_BAND
    if name in plain:
        return plain[name]
    for prefix, (unit, ucd, words) in per_band.items():
        if name.startswith(f"{prefix}_"):
            band = name.removeprefix(f"{prefix}_")
            return Column(unit=unit, ucd=_with_band(ucd, band), words=f"{words}, band {band}")
    return Column()


def _with_band(ucd: str, band: str) -> str:
    word = _SPECTRUM.get(band.lower())
    if word is None:
        return ucd
    is_modelled = ucd.endswith(";meta.modelled")
    return f"{ucd.removesuffix(';meta.modelled')};{word}" + (";meta.modelled" if is_modelled else "")
