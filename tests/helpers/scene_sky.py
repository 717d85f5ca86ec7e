"""Features in the format of scene fits, made from simulated galaxies and noise, for the tests of heads."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.passbands import COLUMN, filter_centre
from deepfits.redshifts.features import Source
from deepfits.redshifts.head import Examples
from deepfits.redshifts.scene_light import SceneLight
from deepfits.sky.population import DEFAULT_LAWS, draw_galaxies
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard
from deepfits.tables.parquet import to_arrow

BANDS = ("u", "g", "r", "i", "z")
FILTERS = ("cfht_megacam-u", "hsc2017-g", "hsc2017-r2", "hsc2017-i2", "hsc2017-z")
SIGMA = np.array([12.0, 10.0, 14.0, 18.0, 28.0])
"""Noise per band, nJy."""
MODEL_HASH = "0123456789abcdef"


def scene_sky(number, seed, *, limit=23.0, laws=DEFAULT_LAWS, offset=0.0, sigma=SIGMA, filters=FILTERS):
    """Draw galaxies and return the columns of their features, with ``z_spec`` and ``mag_i``.

    `offset` is added to the magnitudes: one number, or one per band.
    """
    rng = np.random.default_rng(seed)
    table = draw_galaxies(number, limit, filters, rng, laws)
    flux = table["flux"] * 10 ** (-0.4 * np.broadcast_to(offset, 5))
    columns = {
        "object_id": np.arange(number, dtype=np.int64),
        "ra": 150 + 0.01 * (np.arange(number) % 100),
        "dec": 2 + 0.01 * (np.arange(number) // 100),
        "latent": rng.normal(size=(number, 2)).astype(np.float32),
        "model_hash": np.full(number, MODEL_HASH),
    }
    radius = table["half_light_radius_arcsec"]
    for place, band in enumerate(BANDS):
        noise = sigma[place] * rng.normal(size=(2, number))
        columns[f"dof_{band}"] = np.full(number, 1000)
        columns[f"chi2_{band}"] = np.full(number, 1000.0)
        columns[f"flux_model_{band}"] = columns[f"flux_scene_{band}"] = flux[:, place] + 1.5 * noise[0]
        columns[f"flux_scene_err_{band}"] = np.full(number, 1.5 * sigma[place])
        columns[f"flux_aper_scene_{band}"] = flux[:, place] * np.exp(-0.2 * radius) + noise[1]
        columns[f"flux_aper_scene_err_{band}"] = np.full(number, sigma[place])
        columns[f"flux_gauss_{band}"] = flux[:, place] * np.exp(-0.3 * radius) + 0.9 * noise[1]
        columns[f"flux_gauss_err_{band}"] = np.full(number, 0.9 * sigma[place])
        columns[f"scene_half_light_arcsec_{band}"] = np.hypot(radius, 0.2)
        columns[f"{COLUMN}_{band}"] = np.full(number, filter_centre(filters[place]))
        columns[f"scene_concentration_{band}"] = 2.7 + 0.1 * rng.normal(size=number)
    return columns | {"z_spec": table["z_spec"], "mag_i": table["mag_count"]}


def examples_of(columns):
    """Return the galaxies as examples."""
    light = SceneLight.of(Source(columns=columns, bands=BANDS), BANDS)
    return Examples.galaxies(light, columns["z_spec"])


def write_scene_features(directory, columns):
    """Write a features directory."""
    directory.mkdir()
    kept = {name: values for name, values in columns.items() if name not in ("z_spec", "mag_i")}
    pq.write_table(pa.table({n: to_arrow(v) for n, v in kept.items()}), directory / "shard-00000.parquet")
    return directory


def write_scene_store(directory, columns, *, size=16):
    """Write cutouts of round galaxies with the same fluxes and some noise."""
    info = StoreInfo(bands=BANDS, size=size, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.8,) * 5)
    create_store(directory, info)
    offset = np.arange(size) - (size - 1) / 2
    profile = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    flux = np.stack([columns[f"flux_model_{band}"] for band in BANDS], axis=1)
    sigma = np.broadcast_to(SIGMA[:, None, None] / 15, (*flux.shape, size, size))
    image = flux[:, :, None, None] * profile + sigma * np.random.default_rng(9).normal(size=sigma.shape)
    shard = Cutouts(object_id=columns["object_id"], image=image.astype("f4"), weight=sigma**-2.0)
    write_shard(directory / shard_name(0), shard, info)
    return directory
