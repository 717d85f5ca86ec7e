"""Train a scene model for the bands ugriz of any survey, from scratch, on simulated skies.

    python benchmarks/ugriz.py --out ugriz [--minutes 240] [--width 96]

The nine skies have a seeing of 0.53 to 1.6 arcsec, pixels of 0.168 to 0.396 arcsec, and a range of five
magnitudes in depth. Cutouts of each sky are centred on the same kinds of objects, whether detectable or not:
stars, galaxies and quasars with i < 25.5, of which only a fraction of the faint ones is kept, so that bright
ones are not too rare. (Skies like SDSS are simulated only to i = 24; random positions represent fainter
sources, which would be undetectable.) Another run continues from the last checkpoint, with the same result.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

import deepfits
from deepfits.sky.surveys import SkySurvey, find_survey
from deepfits.tables import read_table, write_table

THINNED = ((22.0, 1.0), (23.0, 0.8), (24.0, 0.5), (25.0, 0.3), (25.5, 0.2))
"""Upper limits of i-magnitude bins, and the fraction of objects kept in each bin."""
BRIGHTEST = 16.5
UNSEEN = 0.38
"""Fraction of the kept objects that are fainter than i = 24."""
SCENE_ARCSEC = 5.76
BLANK_ID = 5_000_000


@dataclass(frozen=True)
class Sky:
    """One sky: a survey with modified pixels, PSF, seeing and depth.

    Attributes
    ----------
    base
        Name of the survey.
    seeing
        Factor to the seeing.
    shallower
        Magnitudes by which the limiting depth is brighter.
    area
        Fraction of the sky, along x, from which objects are cut out.
    """

    base: str
    pixel_arcsec: float
    beta: float
    seeing: float
    shallower: float
    size: int
    area: float = 1.0

    def survey(self, name: str) -> SkySurvey:
        """Return the modified survey."""
        base = find_survey(self.base)
        bands = tuple(
            replace(b, depth=b.depth - self.shallower, fwhm_arcsec=b.fwhm_arcsec * self.seeing)
            for b in base.bands
        )
        return replace(
            base,
            name=f"train-{name}",
            bands=bands,
            pixel_scale_arcsec=self.pixel_arcsec,
            moffat_beta=self.beta,
            seeing_scatter=0.05,
            depth_scatter=0.1,
        )


SKIES = {
    "a": Sky("clauds-hsc", 0.168, 3.0, 1.0, 0.0, 2000),
    "b": Sky("clauds-hsc", 0.186, 3.5, 0.8, 0.7, 1800),
    "c": Sky("rubin-like", 0.2, 3.0, 1.0, 0.0, 1800),
    "d": Sky("rubin-like", 0.2, 2.5, 0.75, 1.5, 1800),
    "e": Sky("rubin-like", 0.263, 3.0, 1.25, 1.5, 1500),
    "f": Sky("clauds-hsc", 0.263, 4.5, 1.5, 2.0, 1500),
    "g": Sky("clauds-hsc", 0.3, 3.0, 1.7, 1.0, 1300),
    "h": Sky("sdss-like", 0.396, 3.0, 1.0, -1.0, 1500),
    "i": Sky("sdss-like", 0.396, 3.5, 0.9, 0.0, 2048, area=0.5),
}


def main() -> None:
    """Simulate the skies, extract cutouts and train."""
    parser = argparse.ArgumentParser(description="Train a scene model for the bands ugriz of any survey.")
    parser.add_argument("--out", default="ugriz")
    parser.add_argument(
        "--minutes", type=float, help="total training time; the learning rates fall to zero by then"
    )
    parser.add_argument("--skies", nargs="+", default=list(SKIES), choices=list(SKIES))
    parser.add_argument("--width", type=int, default=96, help="channels at the lowest resolution")
    options = parser.parse_args()
    out = Path(options.out)
    stores = [cut(name, SKIES[name], out) for name in options.skies]
    deepfits.train(
        stores,
        out / "model",
        recipe="scene",
        options={"width": options.width},
        max_time=options.minutes,
        seed=1,
        threads=1,
    )


def cut(name: str, sky: Sky, out: Path) -> Path:
    """Simulate one sky and extract its cutouts."""
    survey = sky.survey(name)
    described = out / f"{name}.toml"
    if not described.exists():
        out.mkdir(parents=True, exist_ok=True)
        described.write_text(survey.to_toml())
    images = deepfits.simulate(out / name / "sky", survey=described, size=sky.size, seed=100 + ord(name))
    catalogue = out / name / "objects.parquet"
    if not catalogue.exists():
        write_table(catalogue, choose(name, sky, survey, read_table(images / "truth.parquet")))
    headers = {band: fits.getheader(images / f"coadd-{band}.fits") for band in survey.names}
    psf = [f"{band}={header['FWHM']:.4f}:{sky.beta}" for band, header in headers.items()]
    return deepfits.cutouts(
        images,
        out / name / "cutouts",
        catalogue=catalogue,
        size=int(SCENE_ARCSEC / sky.pixel_arcsec + 1e-6),
        survey=f"simulated {name}",
        psf=psf,
    )


def choose(name: str, sky: Sky, survey: SkySurvey, truth: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return IDs, positions and magnitudes of the objects to cut out."""
    magnitude = np.asarray(truth["mag_i"], dtype=float)
    kept = np.select([magnitude < top for top, _ in THINNED], [share for _, share in THINNED], 0.0)
    is_chosen = np.random.default_rng([7, ord(name)]).random(len(magnitude)) < kept
    width = sky.area * sky.size
    rows = np.flatnonzero(is_chosen & (magnitude > BRIGHTEST) & (np.asarray(truth["x"]) < width))
    offset = 10_000_000 * ord(name)
    chosen = {key: np.asarray(truth[key])[rows] for key in ("x", "y", "mag_i")}
    chosen["object_id"] = np.asarray(truth["object_id"])[rows] + offset
    if survey.mag_limit < THINNED[-1][0]:
        number = int(len(rows) * UNSEEN / (1 - UNSEEN))
        rng = np.random.default_rng([8, ord(name)])
        blank = {
            "x": rng.uniform(0, width, number),
            "y": rng.uniform(0, sky.size, number),
            "mag_i": np.full(number, np.nan),
            "object_id": np.arange(number) + BLANK_ID + offset,
        }
        chosen = {key: np.concatenate([chosen[key], blank[key]]) for key in chosen}
    return chosen


if __name__ == "__main__":
    main()
