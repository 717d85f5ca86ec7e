"""Stores with more bands than the features, or fewer."""

import numpy as np
import pytest

from deepfits.errors import InputError
from deepfits.redshifts.features import Source
from deepfits.redshifts.inputs import check_store, complete_source, store_images
from tests.helpers.redshift_inputs import BANDS, make_sky, write_store


@pytest.fixture(scope="module")
def sky():
    return make_sky()


def columns_of(sky, bands):
    columns = {"object_id": sky["object_id"], "latent": sky["latent"]}
    return columns | {f"flux_model_{band}": sky["flux"][:, BANDS.index(band)] for band in bands}


def test_photometry_follows_the_bands_of_the_features(sky, tmp_path):
    whole = write_store(tmp_path / "whole", sky)
    expected = complete_source(Source(columns=columns_of(sky, BANDS), bands=BANDS), store=whole)
    assert expected.flux[:, 0].std() > 1
    fewer = complete_source(Source(columns=columns_of(sky, "gi"), bands=("g", "i")), store=whole)
    assert fewer.bands == ("g", "i")
    np.testing.assert_array_equal(fewer.flux, expected.flux[:, :, [0, 2]])
    np.testing.assert_array_equal(fewer.matched_flux, expected.matched_flux[:, :, [0, 2]])
    image, weight = fewer.images()
    np.testing.assert_array_equal(image, expected.images()[0][:, [0, 2]])
    turned = write_store(tmp_path / "turned", sky, bands=("i", "g"))
    again = complete_source(Source(columns=columns_of(sky, BANDS), bands=BANDS), store=turned)
    assert again.bands == BANDS
    assert np.isnan(again.flux[:, :, 1]).all()
    truth = sky["flux"][:, [0, 2]]
    assert np.abs(again.flux[:, -1, [0, 2]] / truth - 0.8)[truth > 500].mean() < 0.05  # 1 for a point source
    image, weight = store_images(turned, BANDS, sky["object_id"][:3])
    assert (weight[:, 1] == 0).all()
    assert (weight[:, [0, 2]] == 1).all()


def test_a_store_without_common_bands_is_refused(sky, tmp_path):
    store = write_store(tmp_path / "store", sky)
    with pytest.raises(InputError, match=r"the cutouts have the bands g-r-i, the features J-H"):
        check_store(store, ("J", "H"))
