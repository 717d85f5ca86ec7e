"""Features, labels and cutouts of an artificial sky, for the tests of redshifts."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepfits.photometry import FWHM_PER_SIGMA
from deepfits.redshifts.features import MODEL_FLUXES
from deepfits.survey.store import Cutouts, StoreInfo, create_store, shard_name, write_shard

BANDS = ("g", "r", "i")
NUMBER = 420


def make_sky(seed=0):
    """Return objects whose colours and latents are noisy, non-linear functions of redshift."""
    generator = np.random.default_rng(seed)
    z_spec = generator.gamma(2.0, 0.35, NUMBER)
    mag_i = generator.uniform(20, 24, NUMBER)
    colours = np.stack([1.5 * np.sin(z_spec), 0.6 * z_spec, np.zeros(NUMBER)], axis=1)
    flux = 10 ** (0.4 * (31.4 - mag_i[:, None] - colours))
    hidden = np.stack([np.tanh(z_spec), mag_i - 22, z_spec**2, *generator.normal(size=(5, NUMBER))], 1)
    latent = hidden @ generator.normal(size=(8, 8)) + 0.05 * generator.normal(size=(NUMBER, 8))
    return {
        "object_id": 1000 + np.arange(NUMBER),
        "ra": 150 + generator.uniform(0, 0.1, NUMBER),
        "dec": 2 + generator.uniform(0, 0.1, NUMBER),
        "z_spec": z_spec,
        "mag_i": mag_i,
        "flux": flux,
        "latent": latent.astype(np.float32),
    }


def write_features(directory, sky, bands=BANDS, shards=2):
    directory.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(sky["object_id"])), shards)):
        latent = pa.FixedSizeListArray.from_arrays(pa.array(sky["latent"][rows].ravel()), 8)
        columns = {name: sky[name][rows] for name in ("object_id", "ra", "dec")}
        columns |= {"latent": latent, "chi2": np.full(len(rows), 700.0), "dof": np.full(len(rows), 768)}
        for band in bands:
            flux = sky["flux"][rows, BANDS.index(band)]
            columns |= {f"{name}_{band}": flux for name in ("flux_model", *MODEL_FLUXES.values())}
            columns[f"chi2_{band}"] = np.full(len(rows), 250.0)
            columns[f"dof_{band}"] = np.full(len(rows), 256)
            columns[f"half_light_arcsec_{band}"] = np.linspace(0.3, 0.9, len(rows)).astype("f4")
            columns[f"concentration_{band}"] = np.full(len(rows), 2.6, dtype="f4")
        pq.write_table(pa.table(columns), directory / f"shard-{number:05d}.parquet")
    return directory


def write_labels(path, sky, **changes):
    names = ("ra", "dec", "z_spec", "mag_i")
    # IDs that differ from those of the features, as in a spectroscopic catalogue
    columns = {"object_id": np.arange(len(sky["ra"])), **{n: sky[n] for n in names}, **changes}
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


def write_store(directory, sky, bands=BANDS, size=16):
    info = StoreInfo(bands=bands, size=size, pixel_scale_arcsec=0.2, fwhm_arcsec=(0.8,) * len(bands))
    create_store(directory, info)
    offset = np.arange(size) - (size - 1) / 2
    profile = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    generator = np.random.default_rng(9)
    for number, rows in enumerate(np.array_split(np.arange(len(sky["object_id"])), 3)):
        flux = sky["flux"][rows][:, [BANDS.index(band) for band in bands]]
        image = flux[:, :, None, None] * profile + generator.normal(size=(len(rows), len(bands), size, size))
        shard = Cutouts(
            object_id=sky["object_id"][rows],
            image=image.astype("f4"),
            weight=np.ones_like(image),
            psf=np.broadcast_to([1, 0.8 / FWHM_PER_SIGMA], (len(rows), len(bands), 1, 2)),
        )
        write_shard(directory / shard_name(number), shard, info)
    return directory


def metrics_of(out):
    content = json.loads((out / "metrics.json").read_text())
    return {row["key"]: row for row in content["rows"]}, content
