"""Small FITS images of Gaussian sources with known fluxes, for the tests of `deepfits.survey`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

ZERO_POINTS = {"u": 30.0, "g": 27.0, "r": 27.0, "i": 27.0, "z": 27.0}
SCALE = 0.168


def make_wcs(shape, *, scale=SCALE, shift=(0.0, 0.0), rotation=0.0, ra=150.0, dec=2.0):
    """Return a tangential WCS; `shift` moves the sky by a number of pixels in x and y."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5 + shift[0], shape[0] / 2 + 0.5 + shift[1]]
    angle = np.deg2rad(rotation)
    wcs.wcs.cd = scale / 3600 * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


def draw(shape, x, y, flux, fwhm):
    """Draw Gaussians, ``(H, W)``; pixel values are integrals to 10⁻⁴ for a FWHM above 2.5 pixels."""
    sigma = np.broadcast_to(fwhm / 2.3548, np.shape(x))
    image = np.zeros(shape)
    for cx, cy, f, s in zip(x, y, flux, sigma, strict=True):
        half = int(6 * s) + 2
        y0, y1 = max(int(cy) - half, 0), min(int(cy) + half + 1, shape[0])
        x0, x1 = max(int(cx) - half, 0), min(int(cx) + half + 1, shape[1])
        if y0 >= y1 or x0 >= x1:
            continue
        gy = np.exp(-0.5 * ((np.arange(y0, y1) - cy) / s) ** 2)
        gx = np.exp(-0.5 * ((np.arange(x0, x1) - cx) / s) ** 2)
        image[y0:y1, x0:x1] += f / (2 * np.pi * s**2) * np.outer(gy, gx)
    return image


def make_truth(rng, number, shape, *, margin=12, bands="ugriz", spacing=14):
    """Draw positions at least `spacing` apart, fluxes in nJy (100 to 10,000) and widths; half are stars."""
    x, y = [], []
    for _ in range(10_000):
        if len(x) == number:
            break
        cx, cy = rng.uniform(margin, shape[1] - margin), rng.uniform(margin, shape[0] - margin)
        if all((cx - a) ** 2 + (cy - b) ** 2 > spacing**2 for a, b in zip(x, y, strict=True)):
            x.append(cx)
            y.append(cy)
    assert len(x) == number, "no space for this many sources"
    is_star = np.arange(number) % 2 == 0
    flux = 10 ** rng.uniform(2.0, 4.0, number)
    colours = {b: 10 ** rng.normal(0, 0.1, number) for b in bands}
    return {
        "x": np.array(x),
        "y": np.array(y),
        "is_star": is_star,
        "fwhm": np.where(is_star, 3.5, 6.0),
        **{f"flux_{b}": flux * colours[b] for b in bands},
    }


def write_plain(
    directory,
    truth,
    shape,
    *,
    sigma=2.0,
    rng,
    bands="ugriz",
    shifts=None,
    weights=True,
    bad=(),
    rotations=None,
):
    """Write ``coadd-<band>.fits`` and weights in the plain layout; return the directory.

    Positions in `truth` are pixels of the unshifted grid; `bad` are (band, slice) pairs that get weight 0 and
    an extreme value.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    base = make_wcs(shape)
    for band in bands:
        wcs = make_wcs(
            shape, shift=(shifts or {}).get(band, (0, 0)), rotation=(rotations or {}).get(band, 0.0)
        )
        x, y = wcs.world_to_pixel_values(*base.pixel_to_world_values(truth["x"], truth["y"]))
        image = draw(shape, x, y, truth[f"flux_{band}"], truth["fwhm"]) + rng.normal(0, sigma, shape)
        weight = np.full(shape, sigma**-2)
        for name, where in bad:
            if name == band:
                image[where], weight[where] = 1e6, 0
        unit = 10 ** ((31.4 - ZERO_POINTS[band]) / 2.5)
        header = wcs.to_header()
        header["FILTER"], header["MAGZERO"] = band, ZERO_POINTS[band]
        fits.writeto(
            directory / f"coadd-{band}.fits", (image / unit).astype(np.float32), header, overwrite=True
        )
        if weights:
            fits.writeto(
                directory / f"coadd-{band}.weight.fits",
                (weight * unit**2).astype(np.float32),
                header,
                overwrite=True,
            )
    return directory
