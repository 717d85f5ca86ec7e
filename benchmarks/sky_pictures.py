"""Draw the documentation's figures of the simulated sky: a colour composite, and distributions of galaxies.

    python benchmarks/sky_pictures.py [--out docs/images] [--zcosmos zcosmost_bright20k.csv]

The colours are compared with those of real galaxies if the zCOSMOS-bright table is given, or found in
../shared/data or in DEEPFITS_REAL_DATA. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from astropy.io import fits
from scipy.stats import gamma

import deepfits
from deepfits.provenance import provenance
from deepfits.sky.points import star_counts
from deepfits.sky.population import cumulative_counts, draw_galaxies
from deepfits.sky.scene import draw_objects
from deepfits.sky.surveys import find_survey

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SURVEY = find_survey("clauds-hsc")
FILTERS = tuple(band.filter for band in SURVEY.bands)
KNOWN_RADII = {20: 0.64, 22: 0.38, 24: 0.25, 25: 0.20}
"""Expected median half-light radii in arcsec, by i magnitude."""


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--zcosmos", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--size", type=int, default=900)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"benchmark": "sky_pictures"}
    with tempfile.TemporaryDirectory() as folder:
        sky = deepfits.simulate(Path(folder) / "sky", size=arguments.size, seed=arguments.seed)
        plt.imsave(
            arguments.out / "sky-composite.jpg",
            composite(sky)[::-1],
            pil_kwargs={"quality": 90},
        )
    rng = np.random.default_rng(arguments.seed)
    galaxies = draw_galaxies(200_000, 26.0, FILTERS, rng)
    result["laws"] = draw_laws(arguments.out / "sky-laws.png", galaxies, arguments.seed)
    table = arguments.zcosmos or default_zcosmos()
    if table is None:
        print("no zCOSMOS table: colours are not compared with those of real galaxies")
    else:
        result["colours"] = draw_colours(arguments.out / "sky-colours.png", galaxies, table)
    print(f"figures in {arguments.out}")
    print(json.dumps(result | provenance()))


def default_zcosmos() -> Path | None:
    """Return the default path of the zCOSMOS-bright table, or None if there is no such file."""
    root = Path(os.environ.get("DEEPFITS_REAL_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
    path = root / "zcosmos/zcosmost_bright20k.csv"
    return path if path.exists() else None


def composite(sky: Path) -> np.ndarray:
    """Return a colour image of i, r and g, ``(H, W, 3)``, with the stretch of Lupton et al. (2004)."""

    def read(band: str) -> np.ndarray:
        with fits.open(sky / f"coadd-{band}.fits") as hdus:
            return hdus[0].data.astype(float) * 10 ** (0.4 * (31.4 - hdus[0].header["MAGZERO"]))

    red, green, blue = (read(band) * scale for band, scale in (("i", 1.0), ("r", 1.35), ("g", 2.2)))
    total = np.maximum((red + green + blue) / 3, 1e-6)
    stretch = 2.2 * np.arcsinh(8 * total / 40) / 8 / total
    return np.clip(np.stack([red * stretch, green * stretch, blue * stretch], axis=-1), 0, 1)


def draw_laws(path: Path, galaxies: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Plot counts, sizes and redshifts with the expected ones; return median radii and redshifts."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    table = draw_objects(SURVEY, 4000, seed, 0)
    area = ((4000 + 48) * SURVEY.pixel_scale_arcsec / 60) ** 2
    edges = np.arange(17, 28.01, 0.5)
    middle = 0.5 * (edges[1:] + edges[:-1])
    for kind, law, colour in (("galaxy", cumulative_counts, "C0"), ("star", star_counts, "C1")):
        found, _ = np.histogram(table["mag_count"][table["kind"] == kind], edges)
        expected = np.array([float(law(b) - law(a)) for a, b in pairwise(edges)])
        axes[0].errorbar(middle, found / area / 0.5, np.sqrt(found) / area / 0.5, fmt="o", ms=4, color=colour)
        seen = expected > 0
        axes[0].plot(
            middle[seen],
            expected[seen] / 0.5,
            color=colour,
            label={"galaxy": "galaxies", "star": "stars"}[kind] + ": expected and drawn",
        )
    axes[0].set(yscale="log", xlabel="i", ylabel="number per arcmin² and mag", ylim=(0.02, 400))
    axes[0].legend(fontsize=8)
    mags = np.arange(19, 26, 0.5)
    radii = [median_near(galaxies, "half_light_radius_arcsec", mag) for mag in mags]
    axes[1].plot(mags, radii, "C0o-", ms=4, label="drawn, median")
    axes[1].plot(list(KNOWN_RADII), list(KNOWN_RADII.values()), "k*", ms=12, label="expected")
    axes[1].set(yscale="log", xlabel="i", ylabel="half-light radius, arcsec")
    axes[1].legend(fontsize=8)
    edges = np.arange(0, 5, 0.1)
    for number, limit in enumerate((22.5, 23.5, 24.5, 25.5)):
        redshift = galaxies["z_spec"][galaxies["mag_count"] < limit]
        axes[2].hist(redshift, edges, density=True, histtype="step", color=f"C{number}", label=f"i < {limit}")
        axes[2].plot(edges, redshift_law(limit).pdf(edges), "--", color=f"C{number}", lw=1)
    axes[2].plot([], [], "k--", lw=1, label="LSST Science Book")
    axes[2].set(xlabel="redshift", ylabel="density")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return {
        "median_radius": {
            str(mag): round(median_near(galaxies, "half_light_radius_arcsec", mag), 3) for mag in KNOWN_RADII
        },
        "median_redshift": {
            str(mag): round(median_near(galaxies, "z_spec", mag), 3) for mag in (20, 22, 23, 24, 25)
        },
    }


def redshift_law(limit: float) -> Any:
    """Return the redshift distribution to an i-band limit (LSST Science Book 2009, eqs. 3.8 and 3.9)."""
    return gamma(3, scale=0.0417 * limit - 0.744)


def median_near(table: dict[str, np.ndarray], name: str, mag: float) -> float:
    """Return the median of a column for galaxies within 0.25 mag of `mag`."""
    return float(np.median(table[name][np.abs(table["mag_count"] - mag) < 0.25]))


def draw_colours(path: Path, galaxies: dict[str, np.ndarray], table: Path) -> dict[str, Any]:
    """Plot colours of simulated and of zCOSMOS-bright galaxies, both to i = 22.5; return percentiles."""
    real = np.genfromtxt(table, delimiter=",", names=True)
    mag = np.stack([real[f"{band}_photzi25"] for band in "ugriz"], axis=1)
    confidence = real["cc"] % 10
    keep = ((mag > 10) & (mag < 40)).all(axis=1) & (real["zpec"] > 0.01) & (real["zpec"] < 4)
    keep &= ((confidence >= 3) & (confidence < 5)) | (confidence == 2.5) | (confidence >= 9.3)
    mag, redshift = mag[keep], real["zpec"][keep]
    drawn = galaxies["mag_count"] < 22.5
    ours = 31.4 - 2.5 * np.log10(galaxies["flux"][drawn])
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.5))
    out: dict[str, Any] = {"real_galaxies": len(mag), "drawn_galaxies": int(drawn.sum())}
    bins = np.arange(0.05, 1.25, 0.1)
    for index, (blue, red) in enumerate(zip("ugri", "griz", strict=True)):
        colours = [m[:, index] - m[:, index + 1] for m in (mag, ours)]
        low, high = np.percentile(np.concatenate(colours), [0.5, 99.5])
        for colour, name, z, shade in zip(
            colours,
            ("zCOSMOS", "simulated"),
            (redshift, galaxies["z_spec"][drawn]),
            ("k", "C0"),
            strict=True,
        ):
            axes[0, index].hist(
                colour, np.linspace(low, high, 50), density=True, histtype="step", color=shade, label=name
            )
            parts = [colour[(z >= a) & (z < a + 0.1)] for a in bins]
            spread = np.array([np.percentile(part, [16, 50, 84]) for part in parts])
            axes[1, index].plot(bins + 0.05, spread[:, 1], color=shade, label=name)
            axes[1, index].fill_between(bins + 0.05, spread[:, 0], spread[:, 2], color=shade, alpha=0.2)
        axes[0, index].set(xlabel=f"{blue} − {red}")
        axes[1, index].set(xlabel="redshift", ylabel=f"{blue} − {red}")
        out[f"{blue}-{red}"] = {
            name: [round(float(v), 3) for v in np.percentile(colour, [16, 50, 84])]
            for name, colour in zip(("real", "drawn"), colours, strict=True)
        }
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)
    return out


if __name__ == "__main__":
    main()
