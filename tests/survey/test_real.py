"""Real images, where they are at hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

import deepfits
from deepfits.survey.catalogue import read_catalogue, read_info
from deepfits.survey.store import CutoutStore
from tests.helpers.real_data import REAL_DATA

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not REAL_DATA.is_dir(), reason=f"no real survey data at {REAL_DATA} (DEEPFITS_REAL_DATA)"
    ),
]


@pytest.fixture(scope="module")
def sdss(tmp_path_factory):
    files = [str(p) for p in sorted((REAL_DATA / "sdss").glob("frame-*-003918-3-0213.fits.bz2"))]
    return deepfits.cutouts(
        files, tmp_path_factory.mktemp("sdss") / "store", shard_size=512, reference_band="r"
    )


def test_sdss_field_is_detected_as_the_survey_did(sdss):
    columns = read_catalogue(sdss / "catalogue.parquet")
    listed = [
        np.loadtxt(REAL_DATA / "sdss" / f"003918-3-0213_{k}.csv", delimiter=",") for k in ("gals", "stars")
    ]
    tree = cKDTree(np.c_[columns["x"], columns["y"]])
    for truth, least in zip(listed, (0.90, 0.85), strict=True):
        distance, _ = tree.query(truth)
        assert (distance < 3).mean() > least
    # The survey's catalogue stops near r = 22.2; what it lists we see at the same place.
    distance, index = tree.query(np.concatenate(listed))
    assert np.median(distance[distance < 3]) < 0.4
    stars = index[len(listed[0]) :][distance[len(listed[0]) :] < 3]
    galaxies = index[: len(listed[0])][distance[: len(listed[0])] < 3]
    assert np.median(columns["star_score"][stars]) > np.median(columns["star_score"][galaxies]) + 0.2


def test_sdss_bands_are_aligned_in_the_cutouts(sdss):
    store = CutoutStore(sdss)
    columns = store.catalogue()
    bright = np.flatnonzero((columns["snr"] > 80) & (columns["flags"] == 0) & (columns["mag_auto_r"] > 16))
    chosen = store.take(bright)
    centre = np.arange(32) - 15.5
    core = (np.abs(centre) < 6)[:, None] & (np.abs(centre) < 6)[None, :]
    places = []
    for band in (1, 2, 3):
        light = np.clip(chosen.image[:, band], 0, None) * core
        total = light.sum(axis=(1, 2))
        places.append(((light.sum(axis=1) @ centre) / total, (light.sum(axis=2) @ centre) / total))
    # Before alignment g and i lie up to 12 pixels from r.
    for other in (0, 2):
        assert abs(np.median(places[other][0] - places[1][0])) < 0.1
        assert abs(np.median(places[other][1] - places[1][1])) < 0.1


def test_sdss_noise_seeing_and_remarks(sdss):
    info = read_info(sdss / "catalogue.parquet")["fields"]["003918-3-0213"]
    assert all(0.9 < info["fwhm_arcsec"][b] < 1.5 for b in "ugriz")
    assert "photons (gain 4.72)" in " ".join(info["remarks"]["r"])
    store = CutoutStore(sdss)
    chosen = store.take(np.arange(0, len(store), 5))
    border = np.ones((32, 32), bool)
    border[4:-4, 4:-4] = False
    for band in range(5):
        pull = (chosen.image[:, band] * np.sqrt(chosen.weight[:, band]))[:, border]
        spread = np.diff(np.percentile(pull, [16, 84]))[0] / 2  # neighbours widen it, mostly upwards
        assert 0.90 < spread < 1.12


@pytest.mark.slow
def test_kids_images_without_wcs(tmp_path):
    catalogue = deepfits.detect(
        REAL_DATA / "kids_viking",
        tmp_path / "kids.parquet",
        assume_aligned=True,
        pixel_scale=0.339,
        zero_point=["0", "Z=30"],
        threshold=6.0,
    )
    columns = read_catalogue(catalogue)
    assert len(columns["x"]) > 2000
    bright = columns["snr"] > 50
    colour = columns["mag_auto_g"][bright] - columns["mag_auto_r"][bright]
    assert 0.2 < np.nanmedian(colour) < 1.2  # galaxies and stars of the sky, in AB


@pytest.mark.slow
def test_totals_of_sdss_galaxies_are_not_cut_off(sdss, tmp_path):
    """Beside Kron magnitudes, which miss some 5%: scenes hold half of the light of the brightest."""
    columns = read_catalogue(sdss / "catalogue.parquet")
    magnitude = columns["mag_auto_r"]
    chosen = (columns["star_score"] < 0.5) & (columns["flags"] <= 1) & (magnitude > 18) & (magnitude < 20.5)
    out = deepfits.fit(
        sdss, "builtin:ugriz", tmp_path / "features", object_ids=columns["object_id"][chosen], threads=1
    )
    features = deepfits.read_features(out)
    kron = dict(zip(columns["object_id"].tolist(), columns["flux_r"].tolist(), strict=True))
    ratio = features["flux_model_r"] / [kron[identity] for identity in features["object_id"].tolist()]
    assert len(ratio) > 30
    assert 0.95 < np.median(ratio) < 1.12
    assert (features["fraction_beyond"] > 0.05).mean() > 0.2
