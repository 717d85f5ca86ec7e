"""Width of the PSF, measured from stars."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage, optimize

from deepfits.gaussian_psf import centre_of_light, moffat_radius
from deepfits.photometry import growth_circles, growth_radii, robust_scatter
from deepfits.survey.fill import bridged
from deepfits.survey.stars import Locus

Family = Callable[[np.ndarray, float, float], np.ndarray]

SIDE, LEAST_SIDE = 25, 9  # side of the stamps of stars, and its minimum for small cutouts, pixels
LEAST_KNOWN = 0.9  # minimum share of the pixels of a stamp that have data
LEAST_NOISE = 1e-5  # noise of a pixel, in units of a star's flux, below which stars count the same
WIDER = 3  # side of the image of a star with its wings, in units of that of its stamp
SURELY_BETTER = 15.0
"""Difference in χ² by which the PSF of an atmosphere must fit a star better than a Moffat profile."""
UNSATURATED_SNR = 500  # signal-to-noise up to which a star is not saturated
FEWEST = 3  # minimum number of stars for a PSF
BRIGHT, COMPACT, LEAST = 50, 2, 8
"""Minimum signal-to-noise of the objects compared by size; percentage of these taken as the most compact, and
the minimum number."""
APERTURE_ARCSEC = 1.0  # radius of the aperture for the signal-to-noise of a cutout's central object


def choose_stars(
    radius: np.ndarray, snr: np.ndarray, flags: np.ndarray, locus: Locus, *, most: int
) -> np.ndarray:
    """Select the brightest unblended point sources, as indices.

    At the bright end, stars of a given radius most outnumber compact galaxies.
    """
    good = np.isfinite(radius) & (snr > locus.least_snr) & (flags == 0)
    good &= np.abs(np.log(np.where(good, radius, 1) / locus.radius)) < locus.half_width
    candidates = np.flatnonzero(good)
    return candidates[np.argsort(-snr[candidates], kind="stable")][:most]


def best_in_band(stars: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Order indices of stars by their signal-to-noise in a band, the highest first.

    The brightest tenth is left out as far as it may be saturated.
    """
    order = stars[np.argsort(-np.nan_to_num(snr[stars]), kind="stable")]
    return order[min(len(order) // 10, int((snr[order] > UNSATURATED_SNR).sum())) :]


def star_image(image: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the weighted median image of stars, ``(25, 25)``, each recentred and normalised by its flux.

    None if fewer than three stars have data in their core and nearly all other pixels.
    """
    found = _median_of([_stamp(image, weight, cx, cy, SIDE) for cx, cy in zip(x, y, strict=True)])
    return None if found is None else found[0]


def _median_of(stamps: list[np.ndarray | None]) -> tuple[np.ndarray, int] | None:
    """Return the weighted median of the stamps, and their number; None if these are too few."""
    known = [stamp for stamp in stamps if stamp is not None]
    return (_weighted_median(np.stack(known)), len(known)) if len(known) >= FEWEST else None


def _weighted_median(stamps: np.ndarray) -> np.ndarray:
    """Return the median of stamps ``(N, S, S)``, weighted by the inverse of their noise at the edge.

    This is the maximum of the likelihood for errors with exponential tails, so that faint stars do not add
    noise to the image of bright ones.
    """
    weight = 1 / np.maximum(edge_noise(stamps), LEAST_NOISE)
    order = np.argsort(stamps, axis=0)
    value, weight = np.take_along_axis(stamps, order, axis=0), weight[order]
    place = (np.cumsum(weight, axis=0) - weight / 2) / weight.sum(axis=0)
    after = np.clip((place < 0.5).sum(axis=0), 1, len(stamps) - 1)[None]
    (low, high), (left, right) = (
        [np.take_along_axis(values, at, axis=0)[0] for at in (after - 1, after)] for values in (value, place)
    )
    return np.asarray(low + (high - low) * np.clip((0.5 - left) / (right - left), 0, 1))


def edge_noise(stamps: np.ndarray) -> np.ndarray:
    """Return the noise of the pixels at the edges of stamps, ``(N,)``."""
    return np.asarray(robust_scatter(_edge(stamps)))


def _edge(images: np.ndarray) -> np.ndarray:
    """Return the pixels at the edges of images, ``(..., H, W)`` to ``(..., 2 H + 2 W)``."""
    sides = images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]
    return np.concatenate(sides, axis=-1)


def edge_level(image: np.ndarray) -> float:
    """Return the median of an image's outermost pixels; 0 if none is known."""
    edge = _edge(image)
    known = edge[np.isfinite(edge)]
    return float(np.median(known)) if known.size else 0.0


def _stamp(image: np.ndarray, weight: np.ndarray, cx: float, cy: float, side: int) -> np.ndarray | None:
    """Return a background-subtracted stamp, centred on a position and normalised by its 9×9 core.

    A few pixels beside the core that have no data are estimated by others. None if there are more, or one in
    the core, or the flux is not positive.
    """
    half, ix, iy = side // 2, round(float(cx)), round(float(cy))
    if not (half <= ix < image.shape[1] - half and half <= iy < image.shape[0] - half):
        return None
    window, core = np.s_[iy - half : iy + half + 1, ix - half : ix + half + 1], np.s_[half - 4 : half + 5]
    is_known = weight[window] > 0
    if not is_known[core, core].all() or is_known.mean() < LEAST_KNOWN:
        return None
    level = edge_level(np.where(is_known, image[window], np.nan))
    stamp = bridged(np.where(is_known, image[window] - level, 0.0), ~is_known)[0]
    centred = ndimage.shift(stamp, (iy - cy, ix - cx), order=3, mode="nearest")
    flux = centred[core, core].sum()
    return np.asarray(centred / flux) if flux > 0 else None


def stars_at(
    image: np.ndarray, weight: np.ndarray, segmentation: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stamps, ``(N, 25, 25)``, and positions, ``(2, N)``, of stars without close objects.

    Stamps are centred, background-subtracted and normalised; `segmentation` is 0 where there is no object.
    """
    stamps, places = [], []
    for cx, cy in zip(x, y, strict=True):
        stamp = _stamp(image, weight, cx, cy, SIDE) if _is_alone(segmentation, cx, cy) else None
        if stamp is not None:
            stamps.append(stamp)
            places.append((cx, cy))
    return np.array(stamps).reshape(-1, SIDE, SIDE), np.array(places, dtype=float).reshape(-1, 2).T


def _is_alone(segmentation: np.ndarray, cx: float, cy: float) -> bool:
    half, ix, iy = SIDE // 2, round(float(cx)), round(float(cy))
    near = segmentation[max(iy - half, 0) : iy + half + 1, max(ix - half, 0) : ix + half + 1]
    return bool(near.size and len(np.unique(near[near > 0])) <= 1)


def star_among_cutouts(
    image: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float
) -> tuple[np.ndarray, int] | None:
    """Return the median image of the most compact of many objects, and their number.

    These are the 2% with the smallest half-light radii, apart from the very smallest (cosmic rays). If the
    objects include no stars, the image is that of the most compact galaxies, which is wider than the PSF.
    Images and weights are ``(N, H, W)`` of one band, with the objects at the centre. The median image is
    ``(S, S)`` with S odd and at most 25. Returns None if the objects are too few or the cutouts too small.
    """
    size = image.shape[1]
    side = min(SIDE, (size - 3) | 1)
    if side < LEAST_SIDE:
        return None
    is_used = (weight > 0).mean(axis=(1, 2)) >= LEAST_KNOWN
    image, weight = image[is_used].astype(float), weight[is_used]
    image = np.where(weight > 0, image - np.median(_edge(image), axis=1)[:, None, None], 0)
    image = np.array([bridged(*pair)[0] for pair in zip(image, weight <= 0, strict=True)]).reshape(
        image.shape
    )
    circles, radius = growth_circles(size, pixel_scale_arcsec)
    growth = np.einsum("nhw,khw->nk", image, circles)
    half_light = growth_radii(growth, radius, [0.5])[:, 0] / pixel_scale_arcsec
    middle = circles[np.argmin(np.abs(radius - APERTURE_ARCSEC))]
    variance = 1 / np.where(weight > 0, weight, np.inf)
    snr = np.einsum("nhw,hw->n", image, middle) / np.sqrt(np.einsum("nhw,hw->n", variance, middle**2))
    bright = np.flatnonzero((snr > BRIGHT) & np.isfinite(half_light))
    smallest = bright[np.argsort(half_light[bright])][len(bright) // 300 :]
    chosen = smallest[: max(COMPACT * len(bright) // 100, LEAST)]
    stamps: list[np.ndarray | None] = []
    for row in chosen:
        cy, cx = centre_of_light(image[row].clip(min=0) * circles[-1], 2 * half_light[row])
        stamps.append(_stamp(image[row], weight[row], cx, cy, side))
    return _median_of(stamps)


def with_wings(star: np.ndarray) -> np.ndarray:
    """Return the image of a star with the wings that its stamp lacks, on a field `WIDER` times as wide.

    The background that is subtracted from a stamp includes the wings of the star itself. Their level at the
    edge is added again, and the image is continued outwards, as in the profile that best fits the stamp after
    the same subtraction: Moffat's, or where noise leaves no doubt, that of a turbulent atmosphere, which
    falls off less steeply. This profile also replaces the stamp as far as the noise, averaged over rings,
    exceeds the difference to be expected between the two: positive Gaussians fitted to noise would find wings
    there. The image, ``(S, S)`` with S odd, is from `star_image` or `star_among_cutouts`.

    Examples
    --------
    A star of unit flux, of which the stamp lacks 3%:

    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> star = 1.8 / (np.pi * 16) * (1 + (x**2 + y**2) / 16) ** -2.8
    >>> stamp = star - np.median([star[0], star[-1], star[:, 0], star[:, -1]])
    >>> round(float(stamp.sum()), 3), round(float(with_wings(stamp).sum()), 3)
    (0.97, 1.0)
    """
    half, noise = star.shape[0] // 2, edge_noise(star[None])
    family, (parameters, misfit) = _moffat, _fit_profile(_moffat, star)
    turbulent, its_misfit = _fit_profile(_turbulence, star)
    if misfit - its_misfit > SURELY_BETTER * noise**2:
        family, parameters = _turbulence, turbulent
    out = _image_of(family, parameters, WIDER * half)
    middle = np.s_[(WIDER - 1) * half : (WIDER + 1) * half + 1]
    model = out[middle, middle]
    _, fwhm, _, x0, y0 = parameters
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    in_ring = np.maximum(np.pi * fwhm * np.hypot(x - x0, y - y0), 1)  # pixels, of half the FWHM in width
    variance = noise**2 / in_ring
    difference = model**2  # expected, squared: wings may differ by as much as the profile itself
    share = difference / np.maximum(difference + variance, 1e-300)
    out[middle, middle] = model + share * (star + edge_level(model) - model)
    return out


def moffat_fwhm(star: np.ndarray) -> float:
    """Return the FWHM, in pixels, of the Moffat profile that fits the image of a star best.

    Examples
    --------
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> alpha = 4.0 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    >>> star = (1 + (x**2 + y**2) / alpha**2) ** -3.0
    >>> round(moffat_fwhm(star - np.median([star[0], star[-1], star[:, 0], star[:, -1]])), 3)
    4.0
    """
    return float(_fit_profile(_moffat, star)[0][1])


def _moffat(radius2: np.ndarray, fwhm: float, shape: float) -> np.ndarray:
    """Return the Moffat profile of index 1 / `shape`."""
    return np.asarray((1 + radius2 / moffat_radius(fwhm, 1 / shape) ** 2) ** (-1 / shape))


def _turbulence(radius2: np.ndarray, fwhm: float, shape: float) -> np.ndarray:
    """Return the PSF of a turbulent atmosphere (Racine 1996, PASP 108, 699).

    It is the sum of Moffat profiles of index 7 and 2, of the same FWHM. `shape` is the height of the latter,
    which is 0.14 for Kolmogorov's spectrum.
    """
    return (1 - shape) * _moffat(radius2, fwhm, 1 / 7) + shape * _moffat(radius2, fwhm, 1 / 2)


def _image_of(family: Family, parameters: np.ndarray, half: int) -> np.ndarray:
    """Return a profile of this height, FWHM, shape and centre on 2 `half` + 1 pixels squared."""
    height, fwhm, shape, x0, y0 = parameters
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    return np.asarray(height * family((x - x0) ** 2 + (y - y0) ** 2, fwhm, shape))


def _fit_profile(family: Family, star: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit the parameters of `_image_of`, whose median at the edge is subtracted as in the stamp of a star.

    Also return the sum of the squared residuals.
    """
    half, peak = star.shape[0] // 2, float(star.max())

    def residual(parameters: np.ndarray) -> np.ndarray:
        model = _image_of(family, parameters, half)
        return (model - edge_level(model) - star / peak).ravel()

    above = (star > 0.5 * peak).sum()
    start = [1.0, max(2 * np.sqrt(above / np.pi), 1.2), 1 / 3, 0.0, 0.0]
    bounds = ([0.2, 0.5, 1 / 30, -2, -2], [5, star.shape[0], 1 / 1.2, 2, 2])
    fit = optimize.least_squares(residual, np.clip(start, *bounds), bounds=bounds)
    return fit.x * [peak, 1, 1, 1, 1], 2 * fit.cost * peak**2
