"""The sky that is left in images, subtracted on demand."""

import numpy as np
import pytest
from astropy.io import fits

import deepfits
from deepfits.survey.fields import image_set, open_field
from deepfits.survey.sky_surface import SkySurface
from deepfits.survey.store import CutoutStore
from deepfits.tables import write_table
from tests.helpers.gaussian_sky import draw, make_truth, make_wcs

SHAPE, SIZE, SIGMA = (520, 600), 24, 2.0


def surface(level):
    """Return a sky of this many σ that differs by as much again between the sides of the image."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return SIGMA * level * (1 + x / SHAPE[1] - 0.5 + 0.2 * np.sin(y / 150))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Images in nJy with a sky of 1 σ in g and none in r, a gap without weight, and the catalogue."""
    path, rng = tmp_path_factory.mktemp("sky"), np.random.default_rng(1)
    truth = make_truth(rng, 40, SHAPE, margin=20, spacing=40, bands="gr")
    weight = np.full(SHAPE, SIGMA**-2, np.float32)
    weight[300:340] = 0
    for band, level in (("g", 1.0), ("r", 0.0)):
        image = draw(SHAPE, truth["x"], truth["y"], np.full(40, 2000.0), truth["fwhm"])
        image += rng.normal(0, SIGMA, SHAPE) + surface(level)
        header = make_wcs(SHAPE).to_header()
        header["FILTER"], header["MAGZERO"] = band, 31.4
        fits.writeto(path / f"coadd-{band}.fits", image.astype(np.float32), header)
        fits.writeto(path / f"coadd-{band}.weight.fits", weight, header)
    columns = {"object_id": np.arange(1, 41), "x": truth["x"], "y": truth["y"]}
    write_table(path / "catalogue.parquet", columns)
    return path


def test_the_surface_is_that_of_the_sky():
    rng, sky = np.random.default_rng(0), surface(3.0)
    found = SkySurface((sky + rng.normal(0, SIGMA, SHAPE)).astype(np.float32), np.ones(SHAPE, np.float32))
    assert np.abs(found.rows(0, SHAPE[0]) - sky)[30:-30, 30:-30].max() < 0.25 * SIGMA
    np.testing.assert_array_equal(found.rows(100, 140), found.rows(0, SHAPE[0])[100:140])


def test_cutouts_lack_the_sky_where_that_is_asked_for(directory, tmp_path, caplog):
    """A sky of 1 σ adds half a source's flux to a cutout of 24 pixels."""
    sums = {}
    for subtract in (False, True):
        caplog.clear()
        store = CutoutStore(
            deepfits.cutouts(
                directory,
                tmp_path / str(subtract),
                catalogue=directory / "catalogue.parquet",
                size=SIZE,
                subtract_sky=subtract,
            )
        )
        assert ("the sky" in caplog.text and "give subtract_sky" in caplog.text) is not subtract
        content = store.take(np.arange(len(store)))
        assert (content.image[content.weight == 0] == 0).all()
        whole = (content.weight > 0).all(axis=(1, 2, 3))
        sums[subtract] = np.median(content.image[whole].sum(axis=(2, 3)), axis=0) / 2000
    assert sums[False][0] > 1.4
    np.testing.assert_allclose(sums[True], 1, atol=0.05)


def test_check_is_content_with_a_sky_that_is_subtracted(directory):
    assert any("the sky" in text for text in deepfits.check(directory).warnings)
    assert not any("the sky" in text for text in deepfits.check(directory, subtract_sky=True).warnings)
    images = image_set(directory, subtract_sky=True)
    with open_field(images.fields[0], images) as field:
        plane = field.aligned["g"].plane
        assert abs(plane.noise.level) < 0.1 * SIGMA
        np.testing.assert_array_equal(plane.rows(0, 64)[0][40:], plane.rows(40, 64)[0])
