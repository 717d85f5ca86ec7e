"""The oddest objects of a run, ranked by their anomaly score, with reasons.

Shapes: N objects of the run, n objects considered, B bands, H = W pixels.

The score is that of the fit (`deepfits.fitting.oddity`). The highest scores often belong to stars, flagged
blends, saturated cores or artefacts. These are excluded and counted, and ranked only on request.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from deepfits.explorer.objects import NUM_AS_BRIGHT, Objects
from deepfits.fitting.oddity import UNUSUAL_LATENT
from deepfits.photometry import FLAG_MASKED, FLAG_NO_DATA

FEWEST_OTHERS = 20
RARE, RAREST = 0.9, 0.99
"""Minimum fraction of comparison objects on one side of a value: for objects that are odd only in that the
model seldom draws them, and for those that are odd in other ways."""
FEWEST_SIGMA = 3.0  # minimum significance of the fluxes of a colour that is reported
MOSTLY = 0.8  # fraction of flagged objects above which flags are ignored (some surveys flag everything)
MIDDLE_PIXELS = 4
HOLE, PLATEAU_PIXELS, PLATEAU = 0.3, 5, 0.005
CLIPPED_SIGMA, BRIGHT_SIGMA = 10.0, 200.0
_OF_THE_IMAGE = ("artefact", "PSF of")


@dataclass(frozen=True)
class Ranking:
    """The oddest objects.

    Rows and scores, ``(n,)``, begin with the oddest; `why` says what is odd about each. `left_out` counts the
    excluded objects by reason, each object once, in words; for the last reason, only objects are counted that
    would otherwise have been shown.
    """

    rows: np.ndarray
    score: np.ndarray
    why: list[str]
    left_out: str


def rank(objects: Objects, number: int, allowed: np.ndarray, *, everything: bool = False) -> Ranking:
    """Rank the oddest of the `allowed` objects, ``(N,)`` bool, and say what is odd about each.

    Flagged objects, stars, artefacts and objects whose centre is saturated or was not observed are excluded
    and counted, unless `everything` is set. Objects with an anomaly of 0 are not odd.
    """
    objects.table.load(objects.names)
    score = np.nan_to_num(objects.column("anomaly").astype(np.float64), nan=-np.inf)
    pool, apart = allowed & np.isfinite(score), {}
    for what, is_apart in {} if everything else suspects(objects).items():
        apart[what] = int((pool & is_apart).sum())
        pool = pool & ~is_apart
    candidates = np.flatnonzero(pool & (score > 0))
    candidates = candidates[np.argsort(-score[candidates], kind="stable")]
    rows, num_damaged = np.empty(0, dtype=np.int64), 0
    for first in range(0, len(candidates), 4 * number):
        part = candidates[first : first + 4 * number]
        is_good = np.ones(len(part), dtype=bool) if everything else ~damaged(objects, part)
        is_needed = np.cumsum(is_good) - is_good < number - len(rows)  # until there are enough
        rows = np.concatenate([rows, part[is_good & is_needed]])
        num_damaged += int((~is_good & is_needed).sum())
        if len(rows) == number:
            break
    if not everything:
        apart["saturated or not observed in the centre"] = num_damaged
    left_out = ", ".join(f"{excluded:,} {what}" for what, excluded in apart.items() if excluded)
    return Ranking(rows=rows, score=score[rows], why=reasons(objects, rows, pool), left_out=left_out)


def suspects(objects: Objects) -> dict[str, np.ndarray]:
    """Return which objects are flagged, stars or artefacts by catalogue and fit, ``(N,)`` bool each."""
    known = {n: objects.column(n) for n in ("flags", "star_score", "class") if n in objects.table}
    out = {}
    flags = known.get("flags")
    if flags is not None and flags.dtype.kind in "iuf":
        flags = np.nan_to_num(flags).astype(np.int64)
        # A band without data is missing, not wrong. (Its aperture has none either.)
        is_flagged = np.where(flags & FLAG_NO_DATA, flags & ~(FLAG_NO_DATA | FLAG_MASKED), flags) != 0
        if is_flagged.mean() < MOSTLY:
            out["flagged"] = is_flagged
    is_star = np.zeros(len(objects), dtype=bool)
    if "star_score" in known and known["star_score"].dtype.kind in "fiu":
        is_star |= known["star_score"] >= 0.5
    if "class" in known and known["class"].dtype.kind in "UO":
        is_star |= np.char.lower(known["class"].astype(str)) == "star"
    out["stars"] = is_star
    given = objects.column("anomaly_reason")
    out["artefacts"] = np.array([str(reason).startswith(_OF_THE_IMAGE) for reason in given])
    return out


def damaged(objects: Objects, rows: np.ndarray) -> np.ndarray:
    """Return which objects are saturated in the centre, or not observed there in a band: ``(n,)`` bool."""
    out = np.zeros(len(rows), dtype=bool)
    if objects.store is None or objects.store_row is None:
        return out
    has_cutout = objects.store_row[rows] >= 0
    cutouts = objects.store.take(objects.store_row[rows[has_cutout]])
    weight, info = cutouts.weight, objects.store.info
    low = (weight.shape[-1] - MIDDLE_PIXELS) // 2
    middle = weight[..., low : low + MIDDLE_PIXELS, low : low + MIDDLE_PIXELS]
    is_seen = np.all(middle > 0, axis=(2, 3)) | ~np.any(weight > 0, axis=(2, 3))  # (n, B)
    known = info.fwhm_arcsec or (np.nan,) * len(info.bands)
    fwhm_pixels = np.array(known, dtype=float) / info.pixel_scale_arcsec
    out[has_cutout] = ~np.all(is_seen, axis=1) | saturated(cutouts.image, weight, fwhm_pixels)
    return out


def saturated(image: np.ndarray, weight: np.ndarray, fwhm_pixels: np.ndarray) -> np.ndarray:
    """Return which objects look saturated in the centre, ``(n,)`` bool.

    Saturation causes a hole (a pixel much fainter than both its neighbours along an axis) or, if values were
    clipped, a plateau. Only bands whose FWHM is known to be at least two pixels are searched for holes, since
    such a PSF smooths out any in the sky. Images and weights are ``(n, B, H, W)``; the FWHM is ``(B,)``, NaN
    where unknown.

    Examples
    --------
    >>> away = np.hypot(*np.mgrid[-7:8, -7:8])
    >>> star = 1e4 * np.exp(-((away / 1.5) ** 2) / 2)
    >>> images = np.stack([star, np.where(away < 1, 0.2 * star, star), np.minimum(star, 6e3)])[:, None]
    >>> saturated(images, np.ones_like(images), np.array([3.5])).tolist()
    [False, True, True]
    """
    half = image.shape[-1] // 2
    reach = min(half - 1, max(MIDDLE_PIXELS, round(1.5 * float(np.nanmax([*fwhm_pixels, 0.0])))))
    box = slice(half - reach - 1, half + reach + 1 + image.shape[-1] % 2)
    pixels, weight = image[..., box, box].astype(float), weight[..., box, box].astype(float)
    is_valid = weight > 0
    variance = np.where(is_valid, 1 / np.where(is_valid, weight, 1), np.inf)
    out, is_sampled = np.zeros(len(image), dtype=bool), fwhm_pixels >= 2
    for axis in (2, 3):
        before, here, after = (
            [np.take(array, np.arange(n, array.shape[axis] - 2 + n), axis) for array in (pixels, variance)]
            for n in range(3)
        )
        lower = np.minimum(before[0], after[0])
        noise = np.sqrt(here[1] + np.maximum(before[1], after[1]))
        is_hole = (lower - here[0] > HOLE * lower) & (lower - here[0] > CLIPPED_SIGMA * noise)
        out |= is_hole[:, is_sampled].any((1, 2, 3))
    top = np.where(is_valid, pixels, -np.inf).max((2, 3), keepdims=True, initial=-np.inf)
    is_top = is_valid & (pixels >= (1 - PLATEAU) * top) & (pixels > BRIGHT_SIGMA * np.sqrt(variance))
    return np.asarray(out | (is_top.sum((2, 3)) >= PLATEAU_PIXELS).any(1))


def reasons(objects: Objects, rows: np.ndarray, pool: np.ndarray) -> list[str]:
    """Describe what is odd about objects: the reason given by the fit, and unusual colours and sizes."""
    out = []
    for words, row in zip(map(str, objects.column("anomaly_reason")[rows]), rows.tolist(), strict=True):
        is_seldom = words in ("", UNUSUAL_LATENT)
        rare = unusual(objects, row, pool, RARE if is_seldom else RAREST)
        if is_seldom and not rare:
            rare = ["no colour or size stands out"]
        start = f"{words}: " if words == UNUSUAL_LATENT else f"{words}; " if words and rare else words
        out.append(start + ", ".join(rare))
    return out


def unusual(objects: Objects, row: int, pool: np.ndarray, share: float) -> list[str]:
    """Name the colours and sizes of an object beyond this fraction of objects of similar brightness."""
    others = objects.as_bright(objects.brightness[row], NUM_AS_BRIGHT + 1, pool)
    others = others[others != row]
    ranked = []
    for name, (more, less) in _compared(objects, row).items():
        values, own = objects.column(name)[others].astype(float), float(objects.column(name)[row])
        values = values[np.isfinite(values)]
        if not np.isfinite(own) or len(values) < FEWEST_OTHERS:
            continue
        below, above = float((values < own).mean()), float((values > own).mean())
        exceeded, words = (below, more) if below > above else (above, less)
        if exceeded >= share:
            scale = np.median(np.abs(values - np.median(values))) or 1.0
            among = f"all {len(values)}" if exceeded == 1 else f"{100 * exceeded:.3g}% of those"
            ranked.append(
                (abs(own - np.median(values)) / scale, f"{words} than {among} of similar brightness")
            )
    return [words for _, words in sorted(ranked, reverse=True)[:2]]


def _compared(objects: Objects, row: int) -> dict[str, tuple[str, str]]:
    """Return the columns to compare for an object, with the words for larger and smaller values of each."""
    out, is_seen = {}, {}
    for band in objects.with_data:
        flux, error = (objects.column(f"flux_model{end}_{band}")[row] for end in ("", "_err"))
        is_seen[band] = flux / error >= FEWEST_SIGMA
    for blue, red in pairwise(objects.with_data):
        if is_seen[blue] and is_seen[red]:
            colour = f"in {blue} − {red}"
            out[f"{blue}_minus_{red}"] = (f"redder {colour}", f"bluer {colour}")
    out[f"half_light_arcsec_{objects.reference}"] = ("larger", "smaller")
    out[f"concentration_{objects.reference}"] = ("more concentrated", "less concentrated")
    return out
